//! The whole of a terminal, taken for a while: keys come one by one, lines are drawn over each other. It is given back
//! as it was, however that ends, but for SIGKILL.

use std::env;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::termios::{InputModes, LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::signals::told_of;

/// Another page, no cursor, lines that are too long are cut.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
/// The opposite.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Ctrl-C, Ctrl-D and Ctrl-\, which are keys like others here.
const ENDS: [u8; 3] = [3, 4, 28];

/// How long a terminal that takes nothing is waited for at the end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A terminal that is taken; given back when dropped.
pub struct Screen {
    /// The terminal, opened once more where that is possible: a write to this one does not wait.
    out: OwnedFd,
    /// As it was.
    before: Termios,
    signals: UnixStream,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// These keys; arrows and pages as `j` and `k`, `\x06` and `\x02`.
    Keys(Vec<u8>),
    /// The size may have changed, or the process goes on after it was stopped.
    Changed,
    /// Somebody wants it to end: by a signal, or with Ctrl-C, or the terminal is gone.
    Over,
    /// The other file is ready.
    Other,
    /// The time has come.
    Time,
}

impl Screen {
    /// Takes the terminal on stdin and stdout; `None` where that is none, or a dumb one.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn take() -> io::Result<Option<Self>> {
        let kind = env::var_os("TERM").unwrap_or_default();
        let is_dumb = ["", "dumb", "unknown"].iter().any(|dumb| kind == *dumb);
        let (stdin, stdout) = (io::stdin(), io::stdout());
        if is_dumb || !stdin.is_terminal() || !stdout.is_terminal() {
            return Ok(None);
        }
        let mut anew = File::options();
        anew.write(true).custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32);
        let out = match anew.open("/proc/self/fd/1") {
            Ok(file) => file.into(),
            Err(_) => stdout.as_fd().try_clone_to_owned()?,
        };
        let before = tcgetattr(&stdin)?;
        // First of all: from then on none of them ends the process by itself.
        let ends = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
        let signals = told_of(&[&ends[..], &[libc::SIGWINCH, libc::SIGCONT]].concat())?;
        let screen = Screen { out, before, signals };
        screen.set_up()?;
        Ok(Some(screen))
    }

    fn set_up(&self) -> io::Result<()> {
        let mut modes = self.before.clone();
        modes.local_modes -=
            LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
        modes.input_modes -= InputModes::IXON;
        tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
        self.put(ENTER, None)
    }

    /// Columns and lines.
    pub fn size(&self) -> [usize; 2] {
        let size = rustix::termios::tcgetwinsize(&self.out).map(|size| [size.ws_col, size.ws_row]);
        // A terminal that does not say its size is taken for an old one.
        match size.unwrap_or_default() {
            [0, _] | [_, 0] => [80, 24],
            size => size.map(usize::from),
        }
    }

    /// Draws these lines, which have no control characters, as far as there is room; those that are marked stand out. The
    /// last one is at the bottom. What the terminal does not take before something else happens is left out.
    ///
    /// # Errors
    /// What the terminal says: it takes nothing any more.
    pub fn draw(&self, lines: &[(String, bool)], last: &str) -> io::Result<()> {
        let [_, height] = self.size();
        let mut page = "\x1b[H".to_owned();
        for (line, is_marked) in lines.iter().take(height.saturating_sub(1)) {
            let (on, off) = if *is_marked { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
            // What is erased behind a line as wide as the terminal is its last character.
            page.extend(["\x1b[K", on, line, off, "\r\n"]);
        }
        page.push_str(&format!("\x1b[J\x1b[{height};1H\x1b[7m{last}\x1b[0m"));
        self.put(&page, None)
    }

    /// Writes, unless something happens while the terminal takes nothing, or until then.
    fn put(&self, text: &str, until: Option<Instant>) -> io::Result<()> {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match rustix::io::write(&self.out, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let stdin = io::stdin();
                    let mut asked = vec![PollFd::new(&self.out, PollFlags::OUT)];
                    if until.is_none() {
                        asked.push(PollFd::new(&self.signals, PollFlags::IN));
                        asked.push(PollFd::new(&stdin, PollFlags::IN));
                    }
                    wait(&mut asked, until)?;
                    if !asked[0].revents().contains(PollFlags::OUT) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What happens next, until then.
    ///
    /// # Errors
    /// As `poll(2)`.
    pub fn next(&self, other: Option<BorrowedFd<'_>>, until: Instant) -> io::Result<Event> {
        let stdin = io::stdin();
        let files = [self.signals.as_fd(), stdin.as_fd()].into_iter().chain(other);
        let mut asked: Vec<_> =
            files.map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN)).collect();
        wait(&mut asked, Some(until))?;
        let is_ready =
            |number: usize| asked.get(number).is_some_and(|one| !one.revents().is_empty());
        let [signals, keys, other] = [0, 1, 2].map(is_ready);
        let mut bytes = [0; 64];
        if signals {
            let count = (&self.signals).read(&mut bytes).unwrap_or(0);
            let is_end =
                |signal: &u8| ![libc::SIGWINCH, libc::SIGCONT].contains(&i32::from(*signal));
            if bytes[..count].iter().any(is_end) {
                return Ok(Event::Over);
            }
            if bytes[..count].contains(&(libc::SIGCONT as u8)) {
                self.set_up()?;
            }
            return Ok(Event::Changed);
        }
        if keys {
            return Ok(match rustix::io::read(&stdin, &mut bytes) {
                Ok(1..) if bytes.iter().any(|byte| ENDS.contains(byte)) => Event::Over,
                Ok(count @ 1..) => Event::Keys(plain(&bytes[..count])),
                Err(Errno::INTR) => Event::Changed,
                // The terminal is gone.
                Ok(0) | Err(_) => Event::Over,
            });
        }
        Ok(if other { Event::Other } else { Event::Time })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // What cannot be given back is gone.
        let _ = self.put(LEAVE, Some(Instant::now() + LAST_WORDS));
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Waits until one of the files is ready, or until then.
fn wait(asked: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<()> {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let left = left.map(|left| Timespec {
        tv_sec: left.as_secs() as i64,
        tv_nsec: left.subsec_nanos().into(),
    });
    match poll(asked, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Keys as single bytes, what terminals send for arrows and pages included; other sequences are nothing.
fn plain(bytes: &[u8]) -> Vec<u8> {
    let (mut keys, mut rest) = (Vec::new(), bytes);
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != 0x1b {
            keys.push(*first);
            continue;
        }
        let Some(b'[' | b'O') = rest.first() else { continue };
        let end = rest.iter().skip(1).position(|byte| (0x40..0x7f).contains(byte));
        let Some(end) = end.map(|end| end + 2) else { break };
        keys.extend(match &rest[1..end] {
            b"A" => Some(b'k'),
            b"B" => Some(b'j'),
            b"5~" => Some(0x02),
            b"6~" => Some(0x06),
            _ => None,
        });
        rest = &rest[end..];
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_and_pages_are_keys_and_other_sequences_are_none() {
        for (sent, keys) in [
            (&b"sq"[..], &b"sq"[..]),
            (b"\x1b[A\x1bOB", b"kj"),
            (b"n\x1b[5~\x1b[6~r", b"n\x02\x06r"),
            (b"\x1b[1;5C\x1b[200~x", b"x"),
            (b"\x1b", b""),
            (b"\x1b[", b""),
            (b"\x1bq", b"q"),
        ] {
            assert_eq!(plain(sent), keys, "{}", sent.escape_ascii());
        }
    }
}
