//! TLS handshakes with strangers: all of them on the workers, a few at a time, by turns.
//!
//! A handshake is the dearest thing that somebody without a passcode can ask for, so those that
//! wait for theirs go around the ports, and around the addresses of each port: who floods one port
//! delays that port's newcomers, and of these mostly those of the own address.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_rustls::rustls::ServerConfig;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smol::future::or;

use crate::net::address::network;
use crate::net::stream::Stream;
use crate::runtime::{Io, Line, Load, Permit, Workers};

/// How far a stranger has come with its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has sent something, and it is the connector that takes its time now.
    Spoke,
    /// What it has sent is answered: it is its turn to go on.
    Answered,
    /// What it has sent is no whole step: it is still its turn.
    Unfinished,
}

/// Shakes hands as the server with who has connected to `socket`, on a worker. The caller sets the
/// deadline; `config` is asked for once the stranger has said something. The stream takes
/// [`limits::STRANGER_BYTES`](crate::limits::STRANGER_BYTES) from the other end, the handshake
/// included, until [`Stream::trust`].
///
/// # Errors
/// What the handshake says, as rustls' own error inside; `UnexpectedEof` for who left.
pub async fn secure(
    workers: &Workers,
    socket: TcpStream,
    config: impl FnOnce() -> Arc<ServerConfig>,
    progress: impl Fn(Progress),
) -> io::Result<Stream> {
    let listened = Io::new(socket)?;
    // No worker is involved before the first byte.
    if !poll_fn(|context| listened.poll_peek(context)).await? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    progress(Progress::Spoke);
    let permit = wait_in_line(&workers.line, &listened).await?;
    shake(workers, listened.into_inner(), config(), permit, progress).await
}

/// Waits for the permit to shake hands.
///
/// # Errors
/// `UnexpectedEof`: the other end has left meanwhile.
async fn wait_in_line<'a>(line: &'a Line, listened: &Io<TcpStream>) -> io::Result<Permit<'a>> {
    // One that leaves gives its place in the line back at once.
    let left = async {
        poll_fn(|context| listened.poll_ended(context)).await;
        None
    };
    let permit = or(async { Some(turn(line, listened.get_ref()).await) }, left).await;
    let permit = permit.filter(|_| !has_left(listened.get_ref()));
    permit.ok_or(io::ErrorKind::UnexpectedEof.into())
}

/// Shakes hands on a worker. The permit is given back after the first message has been dealt with:
/// what then waits for the other end holds nobody up.
async fn shake(
    workers: &Workers,
    socket: TcpStream,
    config: Arc<ServerConfig>,
    permit: Permit<'_>,
    progress: impl Fn(Progress),
) -> io::Result<Stream> {
    let (dealt_with, told) = smol::channel::bounded(1);
    let answers = Arc::new(AtomicUsize::new(0));
    let answered = answers.clone();
    let handshake = |load: Load| async move {
        let stream = Stream::accept(socket, config, |is_answer| {
            answered.fetch_add(usize::from(is_answer), Ordering::Relaxed);
            // That an answer before is not told of yet is as good.
            let _ = dealt_with.try_send(());
        });
        let stream = stream.await.map(Stream::detach);
        drop(load);
        stream
    };
    let report = async move {
        let mut permit = Some(permit);
        let mut seen = 0;
        while told.recv().await.is_ok() {
            permit.take();
            let answers = answers.load(Ordering::Relaxed);
            let is_answer = std::mem::replace(&mut seen, answers) != answers;
            progress(if is_answer { Progress::Answered } else { Progress::Unfinished });
        }
        std::future::pending().await
    };
    or(workers.spawn(handshake), report).await?.attach()
}

/// Waits for the turn of who has connected to `socket`.
async fn turn<'a>(line: &'a Line, socket: &TcpStream) -> Permit<'a> {
    // One that is gone by now has a turn like any other.
    let port = socket.local_addr().map_or(0, |local| local.port());
    let address = socket.peer_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip());
    line.wait(port, network(address)).await
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
    use super::*;
    use std::net::IpAddr;

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
            let secured = secure(&workers, here, || unreachable!(), spoke);
            let soon = std::time::Instant::now() + crate::limits::TLS_HANDSHAKE;
            let left = crate::runtime::until(soon, secured).await.expect("it is seen");
            assert_eq!(left.err().unwrap().kind(), io::ErrorKind::UnexpectedEof);
        })
        .unwrap();
    }

    #[test]
    fn a_thread_that_has_long_shaken_no_hands_still_does() {
        crate::runtime::block_on(async {
            let dir = crate::testing::folder::Folder::new();
            let identity = crate::tls::Identity::load_or_make(&dir, "localhost").unwrap();
            let config = identity.tunnel_config().unwrap();
            let trusted = dir.join(crate::tls::CERTIFICATE);
            let client = crate::tls::client_config(Some(&trusted), None).unwrap();
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
                let secured = secure(&workers, here, || config, |_| {});
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
