//! TLS handshakes with strangers: all of them on the workers, a few at a time, by turns.
//!
//! A handshake is the most expensive thing that a peer without a passcode can ask for. So turns go
//! round the ports, and round the addresses of each port: whoever floods one port delays that
//! port's newcomers, and of these mostly those from its own address.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smol::future::or;

use crate::net::address::network;
use crate::net::stream::Stream;
use crate::runtime::{Io, Line, Load, Permit, Workers};
use crate::tls::Served;

/// How far a stranger has come with its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has sent something, and now the connector takes the time. If its steps come in pieces,
    /// this is said before each piece that has to wait for a permit.
    Spoke,
    /// What it has sent is answered: it is its turn to go on.
    Answered,
    /// What it has sent is not a complete step: it is still its turn.
    Unfinished,
}

/// Shakes hands as the server with the peer of `socket`, who is at `address`, on a worker. The caller sets the deadline;
/// `config` is asked for once the stranger has said something. The stream takes
/// [`limits::STRANGER_BYTES`](crate::limits::STRANGER_BYTES) from the other end, the handshake
/// included, until [`Stream::trust`].
///
/// # Errors
/// What the handshake says, with rustls' own error inside; `UnexpectedEof` for a peer that left.
pub async fn secure(
    workers: &Workers,
    socket: TcpStream,
    address: IpAddr,
    config: impl FnOnce() -> Served,
    progress: impl Fn(Progress),
) -> io::Result<Stream> {
    let listened = Io::new(socket)?;
    // No worker is involved before the first byte.
    if !poll_fn(|context| listened.poll_peek(context)).await? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    progress(Progress::Spoke);
    // A peer that is gone by now has a turn like any other.
    let port = listened.get_ref().local_addr().map_or(0, |local| local.port());
    let from = (port, network(address));
    let permit = wait_in_line(&workers.line, &listened, from).await?;
    shake(workers, listened.into_inner(), from, config(), permit, &progress).await
}

/// Waits for the permit to shake hands.
///
/// # Errors
/// `UnexpectedEof`: the other end has left meanwhile.
async fn wait_in_line<'a>(
    line: &'a Line,
    listened: &Io<TcpStream>,
    (port, address): (u16, IpAddr),
) -> io::Result<Permit<'a>> {
    // One that leaves gives its place in the line back at once.
    let left = async {
        poll_fn(|context| listened.poll_ended(context)).await;
        None
    };
    let permit = or(async { Some(line.wait(port, address).await) }, left).await;
    let permit = permit.filter(|_| !has_left(listened.get_ref()));
    permit.ok_or(io::ErrorKind::UnexpectedEof.into())
}

/// Shakes hands on a worker. The permit is given back when all that has come has been dealt with: what
/// waits for the other end holds nobody up. What is hard after that needs another one.
async fn shake(
    workers: &Workers,
    socket: TcpStream,
    (port, address): (u16, IpAddr),
    config: Served,
    permit: Permit<'_>,
    progress: &dyn Fn(Progress),
) -> io::Result<Stream> {
    // Whether it asks for another permit, or has dealt with what has come.
    let (tell, told) = smol::channel::bounded(1);
    let (grant, granted) = smol::channel::bounded(1);
    let answers = Arc::new(AtomicUsize::new(0));
    let answered = answers.clone();
    let handshake = |load: Load| async move {
        let dealt_with = |is_answer| {
            answered.fetch_add(usize::from(is_answer), Ordering::Relaxed);
            // If the last report is still unread, it says the same.
            let _ = tell.try_send(false);
        };
        let turn = || async {
            // The line that gives permits lives as long as this.
            let _ = tell.send(true).await;
            let _ = granted.recv().await;
        };
        let stream = Stream::accept(socket, config, dealt_with, turn).await.map(Stream::detach);
        drop(load);
        stream
    };
    let report = async move {
        let mut permit = Some(permit);
        let mut seen = 0;
        while let Ok(asks) = told.recv().await {
            if asks {
                progress(Progress::Spoke);
                permit = Some(workers.line.wait(port, address).await);
                let _ = grant.try_send(());
                continue;
            }
            permit.take();
            let answers = answers.load(Ordering::Relaxed);
            let is_answer = std::mem::replace(&mut seen, answers) != answers;
            progress(if is_answer { Progress::Answered } else { Progress::Unfinished });
        }
        std::future::pending().await
    };
    or(workers.spawn(handshake), report).await?.attach()
}

/// Whether the other end has closed or ended: no handshake can be finished with it.
fn has_left(socket: &TcpStream) -> bool {
    let mut asked = [PollFd::new(socket, PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&at_once)).is_ok()
        && asked[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::net::Ipv4Addr;

    use futures_rustls::rustls::ClientConnection;

    use super::*;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[test]
    fn who_is_gone_does_not_wait_for_its_turn() {
        crate::runtime::block_on(async {
            let workers = Workers::start(1).unwrap();
            let places: Vec<_> =
                (0..=crate::limits::HANDSHAKES).map(|_| workers.line.join(1, address(1))).collect();
            assert!(!places.last().unwrap().has_turn(), "nobody else has a turn");
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let mut there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (here, _) = listener.accept().unwrap();
            here.set_nonblocking(true).unwrap();
            std::io::Write::write_all(&mut there, b"x").unwrap();
            let spoke = |_| there.shutdown(std::net::Shutdown::Write).unwrap();
            let secured = secure(&workers, here, address(1), || unreachable!(), spoke);
            let soon = std::time::Instant::now() + crate::limits::TLS_HANDSHAKE;
            let left = crate::runtime::until(soon, secured).await.expect("it is seen");
            assert_eq!(left.err().unwrap().kind(), io::ErrorKind::UnexpectedEof);
        })
        .unwrap();
    }

    #[test]
    fn greetings_in_two_pieces_wait_for_their_turns_with_the_second_too() {
        const SPLIT: usize = 60;
        crate::runtime::block_on(async {
            let dir = crate::testing::folder::Folder::new();
            let identity = crate::tls::Identity::load_or_make(&dir, "localhost").unwrap();
            let config = Served::from(identity.tunnel_config().unwrap());
            let trusted = crate::tls::Trusted::File(dir.join(crate::tls::CERTIFICATE));
            let client = crate::tls::client_config(&trusted, None);
            drop(dir);
            let name = "localhost".try_into().unwrap();
            let mut client = ClientConnection::new(client.unwrap(), name).unwrap();
            let mut hello = Vec::new();
            client.write_tls(&mut hello).unwrap();
            let workers = Workers::start(1).unwrap();
            let said = RefCell::new(Vec::new());
            let tasks = smol::LocalExecutor::new();
            let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
            let join = |number: usize| {
                let listener = &listeners[number / SPLIT];
                let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (here, _) = listener.accept().unwrap();
                here.set_nonblocking(true).unwrap();
                let (workers, config, said) = (&workers, config.clone(), &said);
                let note = move |progress| said.borrow_mut().push((number, progress));
                tasks.spawn(secure(workers, here, address(2), || config, note)).detach();
                there
            };
            let clients: Vec<_> = (0..=SPLIT).map(join).collect();
            let send = |clients: &[TcpStream], bytes: &[u8]| {
                for mut client in clients {
                    std::io::Write::write_all(&mut client, bytes).unwrap();
                }
            };
            let count =
                |what: Progress| said.borrow().iter().filter(|(_, said)| *said == what).count();
            let late = std::time::Instant::now() + std::time::Duration::from_secs(30);
            send(&clients[..SPLIT], &hello[..1]);
            let begun = tasks.run(async {
                let had_a_turn = |number| said.borrow().contains(&(number, Progress::Unfinished));
                while !(0..SPLIT).all(had_a_turn) {
                    crate::runtime::look().await;
                }
            });
            crate::runtime::until(late, begun).await.expect("all have had a turn");
            // All turns are others', so that nobody is answered before all are in line.
            let others = [(); crate::limits::HANDSHAKES].map(|()| workers.line.join(1, address(1)));
            assert!(others.iter().all(Permit::has_turn));
            send(&clients[..SPLIT], &hello[1..]);
            send(&clients[SPLIT..], &hello);
            let in_line = tasks.run(async {
                while count(Progress::Spoke) < 2 * SPLIT + 1 {
                    assert_eq!(count(Progress::Answered), 0, "without a turn");
                    crate::runtime::look().await;
                }
            });
            crate::runtime::until(late, in_line).await.expect("all wait for a turn");
            drop(others);
            let honest = (SPLIT, Progress::Answered);
            let answered = tasks.run(async {
                while !said.borrow().contains(&honest) {
                    crate::runtime::look().await;
                }
            });
            crate::runtime::until(late, answered).await.expect("it is answered");
            let said = said.borrow();
            let others = said.iter().take_while(|said| **said != honest);
            let before = others.filter(|(_, what)| *what == Progress::Answered).count();
            assert!(before < SPLIT / 4, "{before} were answered before it");
        })
        .unwrap();
    }

    #[test]
    fn a_thread_that_has_long_shaken_no_hands_still_does() {
        crate::runtime::block_on(async {
            let dir = crate::testing::folder::Folder::new();
            let identity = crate::tls::Identity::load_or_make(&dir, "localhost").unwrap();
            let config = Served::from(identity.tunnel_config().unwrap());
            let trusted = crate::tls::Trusted::File(dir.join(crate::tls::CERTIFICATE));
            let client = crate::tls::client_config(&trusted, None).unwrap();
            drop(dir);
            let workers = Workers::start(1).unwrap();
            for looks in [0, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 31) + 1000, u32::MAX - 1] {
                static LOOKS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
                LOOKS.store(looks, std::sync::atomic::Ordering::SeqCst);
                workers
                    .each(|| {
                        let looks = LOOKS.load(std::sync::atomic::Ordering::SeqCst);
                        crate::runtime::set_looks(looks);
                        crate::net::stream::set_stepped(0);
                    })
                    .await;
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (here, _) = listener.accept().unwrap();
                here.set_nonblocking(true).unwrap();
                there.set_nonblocking(true).unwrap();
                let config = config.clone();
                let secured = secure(&workers, here, address(1), || config, |_| {});
                let name = "localhost".try_into().unwrap();
                let connected = Stream::connect(there, client.clone(), name);
                let both = smol::future::zip(secured, connected);
                let soon = std::time::Instant::now() + std::time::Duration::from_secs(3);
                let (near, far) = crate::runtime::until(soon, both)
                    .await
                    .unwrap_or_else(|| panic!("no handshake after {looks} looks"));
                assert!(near.is_ok() && far.is_ok());
            }
        })
        .unwrap();
    }
}
