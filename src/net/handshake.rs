//! TLS handshakes with strangers: all of them on the workers, a few at a time, by turns.
//!
//! A handshake is the dearest thing that somebody without a passcode can ask for, so those that
//! wait for theirs go around the ports, and around the addresses of each port: who floods one port
//! delays that port's newcomers, and of these mostly those of the own address.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::ops::Bound::{Excluded, Unbounded};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use futures_rustls::rustls::ServerConfig;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smol::future::or;

use crate::net::address::network;
use crate::net::stream::Stream;
use crate::runtime::{Io, Load, Workers};

/// How far a stranger has come with its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has sent something, and it is the connector that takes its time now.
    Spoke,
    /// What it has sent is answered: it is its turn to go on.
    Answered,
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
    // Who says nothing costs no worker anything.
    let listened = Io::new(socket)?;
    if !poll_fn(|context| listened.poll_peek(context)).await? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    progress(Progress::Spoke);
    // Who leaves gives its place in the line back at once.
    let left = async {
        poll_fn(|context| listened.poll_ended(context)).await;
        None
    };
    let turn = or(async { Some(workers.line.turn(&listened).await) }, left).await;
    let turn = turn.filter(|_| !has_left(listened.get_ref()));
    let turn = turn.ok_or(io::ErrorKind::UnexpectedEof)?;
    let socket = listened.into_inner();
    let config = config();
    let (answered, told) = smol::channel::bounded(1);
    let handshake = |load: Load| async move {
        let stream = Stream::accept(socket, config, || {
            // That an answer before is not told of yet is as good.
            let _ = answered.try_send(());
        });
        let stream = stream.await.map(Stream::loosen);
        drop(load);
        stream
    };
    let listening = async move {
        // What waits for the other end holds nobody up.
        let mut turn = Some(turn);
        while told.recv().await.is_ok() {
            turn.take();
            progress(Progress::Answered);
        }
        std::future::pending().await
    };
    or(workers.spawn(handshake), listening).await?.fasten()
}

/// Whether the other end has closed or ended: no handshake can be finished with it.
fn has_left(socket: &TcpStream) -> bool {
    let mut asked = [PollFd::new(socket, PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&at_once)).is_ok()
        && asked[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}

/// Those that wait for one of the handshakes that may be on at one time.
pub struct Line {
    free: Cell<usize>,
    ports: RefCell<BTreeMap<u16, Port>>,
    next: Cell<u64>,
    /// The port that had the last turn.
    last: Cell<u16>,
}

/// Those of one port, by address and order of arrival.
struct Port {
    last: IpAddr,
    waiting: BTreeMap<(IpAddr, u64), Rc<Ticket>>,
}

#[derive(Default)]
struct Ticket {
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A place in the line, and later a handshake of the line's; given back when dropped.
pub struct Place<'a> {
    line: &'a Line,
    port: u16,
    key: (IpAddr, u64),
    ticket: Rc<Ticket>,
}

impl Line {
    /// A line for `free` handshakes at one time.
    pub fn new(free: usize) -> Self {
        Line {
            free: Cell::new(free),
            ports: RefCell::default(),
            next: Cell::new(0),
            last: Cell::new(0),
        }
    }

    /// Waits for the turn of who has connected to `socket`.
    async fn turn(&self, socket: &Io<TcpStream>) -> Place<'_> {
        let socket = socket.get_ref();
        // One that is gone by now has a turn like any other.
        let port = socket.local_addr().map_or(0, |local| local.port());
        let address = socket.peer_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip());
        self.wait(port, network(address)).await
    }

    async fn wait(&self, port: u16, address: IpAddr) -> Place<'_> {
        let place = self.join(port, address);
        poll_fn(|context| {
            if place.ticket.granted.get() {
                return Poll::Ready(());
            }
            place.ticket.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
        place
    }

    fn join(&self, port: u16, address: IpAddr) -> Place<'_> {
        let key = (address, self.next.get());
        self.next.set(key.1 + 1);
        let ticket = Rc::new(Ticket::default());
        let place = Place { line: self, port, key, ticket: ticket.clone() };
        if self.free.get() > 0 {
            self.free.set(self.free.get() - 1);
            ticket.granted.set(true);
        } else {
            let mut ports = self.ports.borrow_mut();
            let port = ports.entry(port).or_insert_with(|| Port {
                last: Ipv4Addr::UNSPECIFIED.into(),
                waiting: BTreeMap::new(),
            });
            port.waiting.insert(key, ticket);
        }
        place
    }

    /// Gives a handshake that is over to whose turn it is.
    fn pass_on(&self) {
        match self.take_next() {
            Some(ticket) => {
                ticket.granted.set(true);
                if let Some(waker) = ticket.waker.take() {
                    waker.wake();
                }
            }
            None => self.free.set(self.free.get() + 1),
        }
    }

    fn take_next(&self) -> Option<Rc<Ticket>> {
        let mut ports = self.ports.borrow_mut();
        let after = ports.range((Excluded(self.last.get()), Unbounded)).next();
        let number = *after.or_else(|| ports.iter().next())?.0;
        self.last.set(number);
        let port = ports.get_mut(&number)?;
        let after = port.waiting.range((Excluded((port.last, u64::MAX)), Unbounded)).next();
        let key = *after.or_else(|| port.waiting.iter().next())?.0;
        port.last = key.0;
        let ticket = port.waiting.remove(&key);
        if port.waiting.is_empty() {
            ports.remove(&number);
        }
        ticket
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.ticket.granted.get() {
            return self.line.pass_on();
        }
        let mut ports = self.line.ports.borrow_mut();
        if let Some(port) = ports.get_mut(&self.port) {
            port.waiting.remove(&self.key);
            if port.waiting.is_empty() {
                ports.remove(&self.port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[test]
    fn turns_go_around_the_ports_and_around_their_addresses() {
        let line = Line::new(1);
        let first = line.join(1000, address(1));
        assert!(first.ticket.granted.get());
        let flood: Vec<_> = (0..3).map(|_| line.join(1000, address(1))).collect();
        let neighbour = line.join(1000, address(2));
        let elsewhere = line.join(2000, address(1));
        let all = [&flood[0], &flood[1], &flood[2], &neighbour, &elsewhere];
        let granted = || all.map(|place| place.ticket.granted.get());
        drop(first);
        assert_eq!(granted(), [true, false, false, false, false]);
        line.pass_on();
        assert_eq!(granted(), [true, false, false, false, true], "the other port");
        line.pass_on();
        assert_eq!(granted(), [true, false, false, true, true], "the other address");
        line.pass_on();
        assert_eq!(granted(), [true, true, false, true, true], "then in order of arrival");
    }

    #[test]
    fn who_is_gone_does_not_wait_for_its_turn() {
        crate::runtime::block_on(async {
            let workers = Workers::start(1).unwrap();
            let places: Vec<_> =
                (0..=crate::limits::HANDSHAKES).map(|_| workers.line.join(1, address(1))).collect();
            assert!(!places.last().unwrap().ticket.granted.get(), "nobody else has a turn");
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
            let dir = std::env::temp_dir().join(format!("handshake-{}", uuid::Uuid::new_v4()));
            std::fs::create_dir(&dir).unwrap();
            let identity = crate::tls::Identity::load_or_make(&dir, "localhost").unwrap();
            let config = identity.tunnel_config().unwrap();
            let trusted = dir.join(crate::tls::CERTIFICATE);
            let client = crate::tls::client_config(Some(&trusted)).unwrap();
            std::fs::remove_dir_all(&dir).unwrap();
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

    #[test]
    fn who_leaves_the_line_is_passed_over_and_who_has_had_its_turn_gives_it_back() {
        let line = Line::new(1);
        let first = line.join(1, address(1));
        let leaves = line.join(1, address(1));
        let last = line.join(1, address(1));
        drop(leaves);
        drop(first);
        assert!(last.ticket.granted.get());
        drop(last);
        assert_eq!(line.free.get(), 1);
        assert!(line.ports.borrow().is_empty());
    }
}
