//! From `HOST:PORT` to a connected socket: what a `tunnel` does and the daemon never needs.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use smol::lock::Semaphore;

use crate::limits;
use crate::net::socket::set_up;
use crate::os::{Files, For};
use crate::runtime::{Io, Timer, now, until};
use crate::text::line::shown;

/// A host, by name or address, and a port. An IPv6 address stands in brackets before the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The name or address, without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = |what: &str| format!("{} {what}; HOST:PORT is expected", shown(text));
        if text.contains("://") {
            return Err(fault("begins with a scheme, which does not belong there"));
        }
        if text.contains(char::is_whitespace) {
            return Err(fault("has a blank in it"));
        }
        // The last stands for bytes that are not UTF-8.
        if text.contains(|c: char| c.is_control() || c == '#' || c == '\u{fffd}') {
            return Err(fault("has a character in it that no name has"));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| fault("has no port"))?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(bare) if bare.parse::<std::net::Ipv6Addr>().is_ok() => bare,
            Some(_) => return Err(fault("has no IPv6 address in its brackets")),
            None if host.contains(':') => {
                return Err(fault("has an IPv6 address without brackets"));
            }
            None => host,
        };
        if host.is_empty() || host.len() > 253 {
            return Err(fault("has no name or address before its port"));
        }
        match port.parse() {
            Ok(port @ 1..) => Ok(Address { host: host.to_owned(), port }),
            _ => Err(fault("has no port from 1 to 65535")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Dials one host. Its name is looked up apart from others' names, so that a resolver that is
/// silent about one holds up no other, and the address that worked last is tried first.
pub struct Dialler {
    address: Address,
    lookup: Lookup,
    /// A place for each lookup, until its thread has really ended: of this name, and of all.
    places: [Arc<Semaphore>; 2],
    worked: Cell<Option<SocketAddr>>,
    /// What the resolver has said last, and when, until a dial fails.
    said: RefCell<Option<(Instant, Vec<SocketAddr>)>>,
    files: Arc<Files>,
}

/// Gives the addresses of a name, and blocks until it has them.
type Lookup = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

impl Dialler {
    /// Nothing is dialled yet. One file of each dial is its caller's; those of further
    /// addresses tried at the same time are taken from `files`. Each lookup takes one of both
    /// `places`: those of this name, and those of all names.
    pub fn new(address: Address, files: Arc<Files>, places: [Arc<Semaphore>; 2]) -> Self {
        let lookup: Lookup = |host, port| Ok((host, port).to_socket_addrs()?.collect());
        Dialler {
            address,
            lookup,
            places,
            worked: Cell::new(None),
            said: RefCell::default(),
            files,
        }
    }

    /// Where it leads.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Connects to one of the host's addresses by `deadline`, as RFC 8305 has it: when one has not
    /// answered for a while the next is tried beside it, and the first that answers is taken.
    ///
    /// # Errors
    /// What the resolver says, or the last of the addresses that failed.
    pub async fn dial(&self, deadline: Instant) -> io::Result<TcpStream> {
        let silent = || {
            let what = "the resolver has not given its address in time (/etc/resolv.conf names it); \
                        an address can be named instead";
            io::Error::new(io::ErrorKind::TimedOut, what)
        };
        let found = until(deadline, self.resolve()).await.ok_or_else(silent)??;
        let addresses = order(&found, self.worked.get());
        let room = || self.files.try_take(For::Dial);
        let connected = race(&addresses, deadline, room, connect).await;
        if let Ok((_, socket)) = &connected {
            // A connection that is given up is reset; one that is returned is closed by the caller.
            set_socket_linger(socket, None)?;
        }
        self.worked.set(connected.as_ref().ok().map(|(address, _)| *address));
        if connected.is_err() {
            self.said.take();
        }
        connected.map(|(_, socket)| socket)
    }

    async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = self.address.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.address.port)]);
        }
        let said = || match &*self.said.borrow() {
            Some((when, found)) if when.elapsed() < limits::LOOKED_UP => Some(found.clone()),
            _ => None,
        };
        if let Some(found) = said() {
            return Ok(found);
        }
        let [own, all] = &self.places;
        let place = (own.acquire_arc().await, all.acquire_arc().await);
        // Another dial may have asked meanwhile.
        if let Some(found) = said() {
            return Ok(found);
        }
        let (Address { host, port }, lookup) = (self.address.clone(), self.lookup);
        let (tell, told) = smol::channel::bounded(1);
        // At most one a second while it works: rare enough for a thread of its own. The waiting task may give up; the thread goes on
        // until the resolver answers, and keeps its place.
        thread::Builder::new().name("lookup".into()).spawn(move || {
            let found = lookup(&host, port);
            drop(place);
            let _ = tell.try_send(found);
        })?;
        let found = told.recv().await.map_err(io::Error::other)??;
        self.said.replace(Some((Instant::now(), found.clone())));
        Ok(found)
    }
}

/// The order in which a name's addresses are tried (RFC 8305, section 4): the one that worked last,
/// then as the resolver gave them, but the families in turn; no more than can be tried in time, since
/// a resolver may give thousands, each of which is looked for among those before it.
fn order(found: &[SocketAddr], worked: Option<SocketAddr>) -> Vec<SocketAddr> {
    let first = worked.filter(|worked| found.contains(worked)).or(found.first().copied());
    let Some(first) = first else { return Vec::new() };
    let mut ordered = vec![first];
    let [mut same, mut other] = [true, false].map(|same| {
        found.iter().filter(move |one| **one != first && (one.is_ipv4() == first.is_ipv4()) == same)
    });
    loop {
        let next = [other.next(), same.next()];
        if next == [None, None] || ordered.len() >= limits::ADDRESSES {
            return ordered;
        }
        for one in next.into_iter().flatten() {
            if !ordered.contains(one) {
                ordered.push(*one);
            }
        }
    }
}

/// How long one of `count` addresses has before the next is tried beside it, with so much time
/// `left` for all: shorter where they are so many that the last would not be reached.
fn pause(count: usize, left: Duration) -> Duration {
    let share = left / 2 / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    share.clamp(limits::DIAL_PAUSE[0], limits::DIAL_PAUSE[1])
}

/// Connects to the first of `addresses` that answers by `deadline`. `room` gives a place for one
/// more that is tried beside others; without, and beyond [`limits::DIALS_TOGETHER`], the one tried
/// longest makes room.
async fn race<T, F: Future<Output = io::Result<T>>, R>(
    addresses: &[SocketAddr],
    deadline: Instant,
    room: impl Fn() -> Option<R>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<(SocketAddr, T)> {
    let pause = pause(addresses.len(), deadline.saturating_duration_since(now()));
    let mut rest = addresses.iter().copied();
    // Few, the one tried longest first.
    let mut tried: Vec<(SocketAddr, Pin<Box<F>>, Option<R>)> = Vec::new();
    let mut next = now();
    let mut timer = Timer::new();
    let mut fault = None;
    std::future::poll_fn(|context| {
        loop {
            let mut index = 0;
            while let Some((address, attempt, _)) = tried.get_mut(index) {
                match attempt.as_mut().poll(context) {
                    Poll::Ready(Ok(socket)) => return Poll::Ready(Ok((*address, socket))),
                    Poll::Ready(Err(error)) => {
                        fault = Some(error);
                        tried.remove(index);
                        next = now();
                    }
                    Poll::Pending => index += 1,
                }
            }
            let late = now() >= deadline || (rest.len() == 0 && tried.is_empty());
            if late {
                let none = if addresses.is_empty() {
                    io::Error::new(io::ErrorKind::NotFound, "its name has no address")
                } else {
                    io::ErrorKind::TimedOut.into()
                };
                return Poll::Ready(Err(fault.take().unwrap_or(none)));
            }
            if now() >= next {
                if let Some(address) = rest.next() {
                    let may_be_beside = (1..limits::DIALS_TOGETHER).contains(&tried.len());
                    let place = match Some(()).filter(|()| may_be_beside).and_then(|()| room()) {
                        Some(place) => Some(place),
                        None if tried.is_empty() => None,
                        None => tried.remove(0).2,
                    };
                    tried.push((address, Box::pin(connect(address)), place));
                    next += pause;
                    continue;
                }
            }
            let due = if rest.len() > 0 { next.min(deadline) } else { deadline };
            if timer.poll_at(context, due).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    set_up(&socket)?;
    // A connection that is given up may have been accepted there already, and an orderly end would
    // look like a complete one.
    set_socket_linger(&socket, Some(Duration::ZERO))?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let socket = Io::new(TcpStream::from(socket))?;
    std::future::poll_fn(|context| {
        socket.poll_write_with(context, |socket| match socket.take_error()? {
            Some(error) => Err(error),
            None => match socket.peer_addr() {
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                    Err(io::ErrorKind::WouldBlock.into())
                }
                result => result.map(drop),
            },
        })
    })
    .await?;
    let socket = socket.into_inner();
    // Where nobody listens on a port that the kernel gives to clients, a socket can meet itself.
    if socket.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;
    use crate::runtime::block_on;

    #[test]
    fn addresses_are_hosts_with_ports() {
        for (text, host, port) in [
            ("gateway.example:7000", "gateway.example", 7000),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("[2001:db8::1]:65535", "2001:db8::1", 65535),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(address.to_string(), text);
        }
        for (text, fault) in [
            ("gateway", "has no port"),
            ("gateway:", "has no port from 1 to 65535"),
            ("gateway:0", "has no port from 1 to 65535"),
            ("gateway:65536", "has no port from 1 to 65535"),
            (":80", "has no name or address"),
            ("a b:80", "has a blank in it"),
            ("a\0b:80", "\"a\\0b:80\" has a character in it that no name has"),
            ("a#b:80", "has a character in it that no name has"),
            ("\u{fffd}:80", "has a character in it that no name has"),
            ("https://host:6000", "begins with a scheme, which does not belong there"),
            ("https://host", "begins with a scheme, which does not belong there"),
            ("2001:db8::1:80", "without brackets"),
            ("[gateway]:80", "no IPv6 address in its brackets"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(fault), "{text}: {error}");
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    fn dialler(host: &str, port: u16) -> Dialler {
        let places = [2, limits::LOOKUPS].map(|places| Arc::new(Semaphore::new(places)));
        Dialler::new(Address { host: host.into(), port }, Files::new(1000), places)
    }

    #[test]
    fn dials_names_and_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost"] {
            let dialler = dialler(host, port);
            for _ in 0..2 {
                let socket = block_on(dialler.dial(soon())).unwrap().unwrap();
                assert_eq!(socket.peer_addr().unwrap().port(), port);
                assert!(socket.nodelay().unwrap());
                let linger = rustix::net::sockopt::socket_linger(&socket).unwrap();
                assert_eq!(linger, None, "it ends as its owner says");
            }
            assert_eq!(dialler.worked.get(), Some(SocketAddr::from(([127, 0, 0, 1], port))));
        }
        drop(listener);
        let error = block_on(dialler("localhost", port).dial(soon())).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_dial_that_is_given_up_is_a_reset_for_who_has_taken_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        // Its backlog is full when the kernel drops a greeting.
        let wait = Duration::from_millis(300);
        let fill = || TcpStream::connect_timeout(&address, wait).ok();
        let fillers: Vec<_> = std::iter::from_fn(fill).take(16).collect();
        let dialler = dialler("127.0.0.1", address.port());
        block_on(async {
            let mut dial = std::pin::pin!(Some(dialler.dial(Instant::now() + limits::DIAL)));
            std::future::poll_fn(|context| {
                let dial = dial.as_mut().as_pin_mut().unwrap();
                assert!(dial.poll(context).is_pending());
                Poll::Ready(())
            })
            .await;
            fillers.iter().for_each(|_| drop(listener.accept().unwrap()));
            // The kernel greets again after a second, and nobody looks at the answer.
            let (mut taken, _) = listener.accept().unwrap();
            dial.set(None);
            let end = std::io::Read::read(&mut taken, &mut [0]).map_err(|error| error.kind());
            assert_eq!(end, Err(io::ErrorKind::ConnectionReset));
        })
        .unwrap();
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 1)).collect()
    }

    #[test]
    fn families_take_turns_and_what_worked_comes_first() {
        let found = addresses(&["::1", "::2", "::3", "10.0.0.1", "10.0.0.2", "::1"]);
        let turns = addresses(&["::1", "10.0.0.1", "::2", "10.0.0.2", "::3"]);
        assert_eq!(order(&found, None), turns);
        let worked = addresses(&["10.0.0.2"])[0];
        let turns = addresses(&["10.0.0.2", "::1", "10.0.0.1", "::2", "::3"]);
        assert_eq!(order(&found, Some(worked)), turns);
        let gone = addresses(&["10.0.0.9"])[0];
        assert_eq!(order(&found[..2], Some(gone)), found[..2], "it is no address any more");
        assert!(order(&[], Some(gone)).is_empty());
        // As many as a resolver can give, of which no more than there is time for.
        let many: Vec<_> = (0..6000).map(|port| SocketAddr::new(found[0].ip(), port)).collect();
        assert!(order(&many, None).len() <= limits::ADDRESSES + 1);
    }

    #[test]
    fn the_next_address_has_its_turn_after_a_quarter_of_a_second_or_sooner_where_they_are_many() {
        let left = Duration::from_secs(8);
        assert_eq!(pause(1, left), Duration::from_millis(250));
        assert_eq!(pause(16, left), Duration::from_millis(250));
        assert_eq!(pause(400, left), Duration::from_millis(10));
        assert!(24 * pause(24, left) <= left / 2, "all are reached in half of the time");
    }

    /// Dead addresses end in 1, slow ones in 2, closed ones in 3; any other answers at once.
    async fn connect_as_told(address: SocketAddr) -> io::Result<u8> {
        let IpAddr::V4(ip) = address.ip() else { unreachable!() };
        match ip.octets()[3] {
            1 => std::future::pending().await,
            2 => crate::runtime::sleep(Duration::from_millis(400)).await,
            3 => return Err(io::ErrorKind::ConnectionRefused.into()),
            _ => {}
        }
        Ok(ip.octets()[2])
    }

    fn raced(addresses: &[SocketAddr], left: Duration, room: bool) -> io::Result<u8> {
        let room = || room.then_some(());
        let race = race(addresses, Instant::now() + left, room, connect_as_told);
        block_on(race).unwrap().map(|(_, which)| which)
    }

    #[test]
    fn the_first_address_that_answers_is_taken() {
        let (start, long) = (Instant::now(), Duration::from_secs(60));
        let slow: Vec<_> = (0..24).map(|n| SocketAddr::from(([10, 0, n, 2], 1))).collect();
        let dead: Vec<_> = (0..12).map(|n| SocketAddr::from(([10, 0, n, 1], 1))).collect();
        for room in [true, false] {
            let and = |more: &[&str]| [&dead[..1], &addresses(more)].concat();
            assert_eq!(raced(&and(&["10.0.7.9"]), long, room).unwrap(), 7, "the first is dead");
            assert_eq!(raced(&and(&["10.0.7.3", "10.0.8.9"]), long, room).unwrap(), 8);
            let many = [&dead[..], &addresses(&["10.0.99.9"])].concat();
            assert_eq!(raced(&many, long, room).unwrap(), 99, "all are reached");
        }
        assert_eq!(raced(&slow, Duration::from_secs(8), true).unwrap(), 0, "all are slow");
        assert!(start.elapsed() < long, "nobody waits for the dead");
        let error = raced(&addresses(&["10.0.0.3"]), long, true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = raced(&dead, Duration::from_millis(300), true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(raced(&[], long, true).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn addresses_are_tried_together_as_far_as_there_is_room() {
        use std::rc::Rc;
        let dead: Vec<_> = (0..40).map(|n| SocketAddr::from(([10, 0, n, 1], 1))).collect();
        for (room, expected) in [(true, limits::DIALS_TOGETHER), (false, 1)] {
            let (tried, most) = (Rc::new(()), Cell::new(0));
            let connect = |_| {
                let one = tried.clone();
                most.set(most.get().max(Rc::strong_count(&tried) - 1));
                async move {
                    let _one = one;
                    std::future::pending::<io::Result<()>>().await
                }
            };
            let late = Instant::now() + Duration::from_secs(2);
            let error = block_on(race(&dead, late, || room.then_some(()), connect)).unwrap();
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!(most.get(), expected);
        }
    }

    #[test]
    fn an_address_that_refuses_lets_the_next_have_its_turn_at_once() {
        let closed = (0..100).map(|n| SocketAddr::from(([10, 0, n, 3], 1)));
        let all: Vec<_> = closed.chain(addresses(&["10.0.200.9"])).collect();
        let start = Instant::now();
        assert_eq!(raced(&all, Duration::from_secs(60), true).unwrap(), 200);
        // A quarter of a second each would be 25 s.
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_name_is_looked_up_again_after_a_while_and_after_a_dial_that_failed() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        let counting = |_: &str, port| {
            LOOKUPS.fetch_add(1, Ordering::SeqCst);
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let lookup: Lookup = counting;
        let dialler = Dialler { lookup, ..dialler("counted.example", port) };
        let looked_up = || LOOKUPS.load(Ordering::SeqCst);
        let dial = || block_on(dialler.dial(soon())).unwrap();
        let begun = Instant::now();
        for _ in 0..20 {
            dial().unwrap();
        }
        let seconds = begun.elapsed().as_secs() as usize;
        assert!((1..=1 + seconds).contains(&looked_up()), "{} in {seconds} s", looked_up());
        let long_ago = Instant::now().checked_sub(limits::LOOKED_UP).unwrap();
        dialler.said.borrow_mut().as_mut().unwrap().0 = long_ago;
        let before = looked_up();
        dial().unwrap();
        assert_eq!(looked_up(), before + 1);
        drop(listener);
        dial().unwrap_err();
        let before = looked_up();
        dial().unwrap_err();
        assert_eq!(looked_up(), before + 1, "it may be elsewhere now");
    }

    #[test]
    fn a_lookup_that_is_given_up_keeps_its_place_until_it_has_ended() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::sync::mpsc::{Receiver, channel};
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        static END: std::sync::Mutex<Option<Receiver<()>>> = std::sync::Mutex::new(None);
        let (end, ends) = channel();
        *END.lock().unwrap() = Some(ends);
        let silent = |_: &str, port| {
            RUNNING.fetch_add(1, Ordering::SeqCst);
            let _ = END.lock().unwrap().as_ref().map(Receiver::recv);
            RUNNING.fetch_sub(1, Ordering::SeqCst);
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let lookup: Lookup = silent;
        let each = limits::LOOKUPS - 1;
        let places = [each, limits::LOOKUPS].map(|places| Arc::new(Semaphore::new(places)));
        let dialler = Dialler { lookup, places, ..dialler("silent.example", port) };
        for _ in 0..3 * limits::LOOKUPS {
            let soon = Instant::now() + Duration::from_millis(20);
            let error = block_on(dialler.dial(soon)).unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
        assert!(RUNNING.load(Ordering::SeqCst) <= each);
        assert!(dialler.places[0].try_acquire_arc().is_none(), "each still has its place");
        assert!(dialler.places[1].try_acquire_arc().is_some(), "others have one left");
        // It answers again: each place comes back, and the next dial is served.
        drop(end);
        let late = Instant::now() + Duration::from_secs(30);
        block_on(dialler.dial(late)).unwrap().unwrap();
    }
}
