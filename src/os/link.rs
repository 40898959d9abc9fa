//! What two processes of this program say to each other while one takes the other's place: whole messages, and open
//! files with them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use smol::Async;

use crate::limits;

/// Files in one message at most, as many as the kernel takes. All ports of a machine are 260 messages of 768 bytes, for
/// which a socket has room (212,992 bytes) while nobody reads, and for the words that follow.
const FILES: usize = 253;

/// Bytes of a message at most: a sentence.
const LONGEST: usize = 4096;

/// One end, in a process or on its way to one. Closing it tells the other end.
#[derive(Debug)]
pub struct Link(UnixDatagram);

/// A message: its text, and the files that came with it.
pub struct Message {
    /// One line.
    pub text: String,
    /// Closed on exec.
    pub files: Vec<OwnedFd>,
}

impl Link {
    /// Two ends.
    ///
    /// # Errors
    /// As `socketpair(2)`.
    pub fn pair() -> io::Result<[Self; 2]> {
        // Whole messages, in order, and an end that is told: the type of datagrams has the calls for it.
        let (one, two) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok([Link(one.into()), Link(two.into())])
    }

    /// Says this, and hands the files over. Waits for room, [`limits::HEIR_TAKES`] at most.
    ///
    /// # Errors
    /// The other end is closed, or takes nothing.
    pub fn send(&self, text: &str, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.set_write_timeout(Some(limits::HEIR_TAKES))?;
        for now in messages(files) {
            while let Err(error) = send(&self.0, text, now) {
                if error != Errno::INTR {
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// The next message; `None` once the other end is closed.
    ///
    /// # Errors
    /// Nothing came within `wait`.
    pub fn receive(&self, wait: Option<Duration>) -> io::Result<Option<Message>> {
        let deadline = wait.map(|wait| Instant::now() + wait);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // A timeout of no time would be none.
            self.0.set_read_timeout(left.map(|left| left.max(Duration::from_millis(1))))?;
            match receive(&self.0) {
                // A signal ends a wait that has a timeout, whether it is handled or not (signal(7)).
                Err(Errno::INTR) => {}
                received => return Ok(received?),
            }
        }
    }

    /// The same end once more.
    ///
    /// # Errors
    /// No file is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Link)
    }

    /// The same end, for a task.
    ///
    /// # Errors
    /// As `fcntl(2)`.
    pub fn into_async(self) -> io::Result<AsyncLink> {
        self.0.set_read_timeout(None)?;
        Ok(AsyncLink(Async::new(self.0)?))
    }
}

impl From<OwnedFd> for Link {
    fn from(file: OwnedFd) -> Self {
        Link(file.into())
    }
}

impl From<Link> for OwnedFd {
    fn from(link: Link) -> Self {
        link.0.into()
    }
}

/// An end in a task.
pub struct AsyncLink(Async<UnixDatagram>);

impl AsyncLink {
    /// Says this, and hands the files over, which stay open here.
    ///
    /// # Errors
    /// The other end is closed, or has no room.
    pub fn give(&self, text: &str, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        messages(files).try_for_each(|now| Ok(send(self.0.get_ref(), text, now)?))
    }

    /// Says this; lost if the other end is closed, or has no room because its process hangs.
    pub fn tell(&self, text: &str) {
        let _ = self.0.get_ref().send(text.as_bytes());
    }

    /// What the other end says next, with files; `None` once it is closed.
    pub async fn receive(&self) -> Option<Message> {
        self.0.read_with(|socket| Ok(receive(socket)?)).await.ok().flatten()
    }

    /// What the other end says next; `None` once it is closed.
    pub async fn hear(&self) -> Option<String> {
        self.receive().await.map(|message| message.text)
    }

    /// What the other end has said by now, if anything. From now on it can say no more: its next word fails.
    pub fn last_word(&self) -> Option<String> {
        self.0.get_ref().shutdown(Shutdown::Read).ok()?;
        receive(self.0.get_ref()).ok().flatten().map(|message| message.text)
    }
}

impl AsFd for AsyncLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The files of each message with which all of them are handed over: of one message, if there are none.
fn messages<'a, 'f>(files: &'a [BorrowedFd<'f>]) -> impl Iterator<Item = &'a [BorrowedFd<'f>]> {
    let none = files.is_empty().then_some(files);
    none.into_iter().chain(files.chunks(FILES))
}

fn send(socket: &UnixDatagram, text: &str, files: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(files));
    }
    let text = [IoSlice::new(&text.as_bytes()[..text.len().min(LONGEST)])];
    sendmsg(socket, &text, &mut control, SendFlags::NOSIGNAL).map(drop)
}

fn receive(socket: &UnixDatagram) -> Result<Option<Message>, Errno> {
    let mut text = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut text)];
    let mut is_reset = false;
    let bytes = loop {
        match recvmsg(socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            // An end that was closed with words unread resets the link, before its own last words.
            Err(Errno::CONNRESET) if !is_reset => is_reset = true,
            received => break received?.bytes,
        }
    };
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    if bytes == 0 {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&text[..bytes]).into_owned();
    Ok(Some(Message { text, files }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Option<Duration> = Some(Duration::from_secs(10));

    #[test]
    fn messages_come_whole_with_all_their_files_and_then_the_end() {
        let [one, two] = Link::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for count in [0, 1, FILES, 3 * FILES + 1] {
            one.send("ports", &vec![file.as_fd(); count]).unwrap();
            let mut files = 0;
            loop {
                let message = two.receive(SOON).unwrap().unwrap();
                assert_eq!(message.text, "ports");
                files += message.files.len();
                if files == count {
                    break;
                }
            }
        }
        two.send("taken", &[]).unwrap();
        drop(two);
        assert_eq!(one.receive(SOON).unwrap().unwrap().text, "taken");
        assert!(one.receive(SOON).unwrap().is_none());
        assert!(one.send("nobody is there", &[]).is_err());
    }

    #[test]
    fn who_says_nothing_is_not_waited_for_without_end() {
        let [one, _two] = Link::pair().unwrap();
        assert!(one.receive(Some(Duration::from_millis(1))).is_err());
    }

    #[test]
    fn ports_of_a_whole_machine_and_a_word_have_room_while_nobody_reads() {
        let [one, two] = Link::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        one.0.set_nonblocking(true).unwrap();
        match one.send("ports", &vec![file.as_fd(); 65_535]) {
            // So many files on their way are for root, or for a limit of open files that is as high.
            Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                crate::testing::ignored::could_not_run("so many files may not be on their way")
            }
            sent => sent.unwrap(),
        }
        one.send("no", &[]).unwrap();
        drop(two);
    }

    #[test]
    fn last_words_of_an_end_that_was_told_more_are_heard() {
        let [one, two] = Link::pair().unwrap();
        one.send("unread", &[]).unwrap();
        two.send("refused", &[]).unwrap();
        drop(two);
        assert_eq!(one.receive(SOON).unwrap().unwrap().text, "refused");
        assert!(one.receive(SOON).unwrap().is_none());
    }

    #[test]
    fn what_is_said_after_the_last_word_fails() {
        for said in [None, Some("taken")] {
            let [one, two] = Link::pair().unwrap();
            said.into_iter().for_each(|said| one.send(said, &[]).unwrap());
            let two = two.into_async().unwrap();
            assert_eq!(two.last_word().as_deref(), said);
            assert!(one.send("taken", &[]).is_err());
            two.tell("no");
            assert_eq!(one.receive(SOON).unwrap().unwrap().text, "no");
        }
    }

    #[test]
    fn a_task_hears_what_is_said_and_the_end() {
        let [one, two] = Link::pair().unwrap();
        let two = two.into_async().unwrap();
        one.send("left 3", &[]).unwrap();
        assert_eq!(smol::block_on(two.hear()).as_deref(), Some("left 3"));
        two.tell("stop");
        assert_eq!(one.receive(SOON).unwrap().unwrap().text, "stop");
        drop(one);
        assert_eq!(smol::block_on(two.hear()), None);
        two.tell("nobody is there");
    }
}
