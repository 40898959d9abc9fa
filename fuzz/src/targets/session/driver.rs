//! Runs a session: its relay when it has been woken, its peers when the input says so.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_rustls::pki_types::ServerName;
use futures_rustls::rustls::{ClientConfig, ClientConnection, ServerConfig};
use iofog_connector::fuzzing::frames::{Side, Talk, Word};
use iofog_connector::fuzzing::{
    CERTIFICATE, Ended, Endpoint, Identity, Kept, Parting, Protocol, Relay, Settling, Silence,
    Stream, Traffic, Trusted, client_config, limits,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
use smol::future::zip;

use super::peer::{ALL, Doing, Peer};
use crate::clock;
use crate::folder::Folder;
use crate::input::Choices;
use crate::memory;

/// What the relay of one session may hold (`src/limits/`, `READ_AHEAD`): in each direction what
/// is read ahead, one read, and an unfinished record, in buffers that grow by doubling.
const MEMORY: isize = 2 * 2 * (16 + 64 + 18) * 1024;

const SECOND: Duration = Duration::from_secs(1);

/// What all sessions of a thread share.
pub(super) struct Stage {
    listener: TcpListener,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    connections: Cell<u32>,
}

impl Stage {
    pub(super) fn new() -> Self {
        let dir = Folder::new();
        let identity = Identity::load_or_make(&dir, "localhost").expect("a certificate");
        let client = client_config(&Trusted::File(dir.join(CERTIFICATE)), None).expect("trust");
        drop(dir);
        super::warm_up();
        Stage {
            listener: TcpListener::bind("0.0.0.0:0").expect("a port"),
            server: identity.tunnel_config().expect("settings"),
            client,
            connections: Cell::new(0),
        }
    }

    /// A connection: the peer's end and the connector's. A narrow one is soon full.
    fn connect(&self, narrow: bool) -> (TcpStream, TcpStream) {
        let number = self.connections.get();
        self.connections.set(number.wrapping_add(1));
        // Ports of closed connections are not free at once: other addresses have others.
        let [low, high, ..] = number.to_le_bytes();
        let port = self.listener.local_addr().expect("an address").port();
        let address = SocketAddr::from((Ipv4Addr::new(127, 1, high, low.clamp(1, 254)), port));
        let client = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        if narrow {
            sockopt::set_socket_recv_buffer_size(&client, 64 * 1024).expect("SO_RCVBUF");
        }
        match connect(&client, &address) {
            // The engine's alarm has come: the connection is made all the same.
            Ok(()) | Err(Errno::INTR) => {}
            Err(error) => panic!("no connection: {error}"),
        }
        let client = TcpStream::from(client);
        let (server, _) = self.listener.accept().expect("its other end");
        if narrow {
            sockopt::set_socket_send_buffer_size(&server, 64 * 1024).expect("SO_SNDBUF");
        }
        for socket in [&client, &server] {
            socket.set_nodelay(true).expect("TCP_NODELAY");
            socket.set_nonblocking(true).expect("O_NONBLOCK");
        }
        (client, server)
    }

    /// A peer, and the connector's stream to it.
    async fn leg(&self, leg: usize, tls: bool, narrow: bool) -> (Peer, Stream) {
        let (ours, theirs) = self.connect(narrow);
        if !tls {
            return (Peer::new(ours, None, leg), Stream::plain(theirs).expect("a stream"));
        }
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(self.client.clone(), name).expect("a client");
        client.set_buffer_limit(None);
        let mut peer = Peer::new(ours, Some(client.into()), leg);
        let mut accepted =
            Driven::new(Stream::accept(theirs, self.server.clone().into(), |_| {}, || async {}));
        for _ in 0..1000 {
            peer.push();
            peer.receive(ALL);
            turn().await;
            accepted.poll();
            if accepted.output.is_some() && !peer.is_handshaking() && peer.is_pushed() {
                break;
            }
        }
        let mut stream = accepted.output.take().expect("a handshake").expect("a good one");
        // As one that has proved who it is: what a stranger may send is bounded.
        stream.trust();
        (peer, stream)
    }
}

/// A future that is polled only when it has been woken: one that forgets to be is found.
struct Driven<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + 'a>>,
    woken: Arc<Woken>,
    output: Option<T>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<'a, T> Driven<'a, T> {
    fn new(future: impl Future<Output = T> + 'a) -> Self {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        Driven { future: Box::pin(future), woken, output: None }
    }

    /// Whether it wanted to be polled.
    fn poll(&mut self) -> bool {
        if self.output.is_some() || !self.woken.0.swap(false, Ordering::Relaxed) {
            return false;
        }
        let waker = Waker::from(self.woken.clone());
        if let Poll::Ready(output) = self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            self.output = Some(output);
        }
        true
    }
}

/// Lets the event loop see what is ready and what time it is.
async fn turn() {
    let mut turned = false;
    poll_fn(|context| {
        if std::mem::replace(&mut turned, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A session and what there is to know of it.
pub(super) struct Session {
    pub(super) peers: [Peer; 2],
    pub(super) protocols: [Protocol; 2],
    pub(super) fin_wait: Duration,
    pub(super) idle: Option<Duration>,
    /// Whether the tunnel is kept when the session is over.
    pub(super) kept: Rc<Cell<bool>>,
    /// The version 3 tunnels that go on after it, by leg.
    pub(super) tunnels: Rc<RefCell<[Option<Kept>; 2]>>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) started: Instant,
    /// The relay's verdict, and the time of it.
    pub(super) ended: Rc<RefCell<Option<(Ended, Instant)>>>,
    /// Units that came before the session, by leg.
    pub(super) held: [Vec<Vec<u8>>; 2],
    /// Whether a peer ended while the other may have been sending: nothing more can be said to
    /// the other then, not even an answer.
    pub(super) ended_early: [bool; 2],
    relay: Driven<'static, ()>,
    memory: isize,
    /// Which peers end by themselves when the input is used up; whether the relay is dropped.
    last: u8,
}

impl Session {
    pub(super) async fn begin(stage: &Stage, choices: &mut Choices<'_>) -> Self {
        let threshold = [None, Some(5 * SECOND), Some(20 * SECOND), Some(200 * SECOND)]
            [usize::from(choices.byte()) % 4];
        let (what, fin_wait) = (choices.byte(), choices.byte());
        let (how, last) = (choices.byte(), choices.byte());
        let (one, two, raw) = (Protocol::Version1 { threshold }, Protocol::Version2, Protocol::Raw);
        let seen_wait = limits::SEEN_WAIT;
        let at_once = last >> 2 & 1 == 1;
        let agent = Protocol::Framed { threshold, beat: None, at_once, seen_wait };
        // A part of every longer silence: its heartbeats are due when the session is looked at.
        let beat = Some(5 * SECOND);
        let connector = Protocol::Framed { threshold: None, beat, at_once: true, seen_wait };
        let protocols = [
            [one, raw],
            [two, raw],
            [one, one],
            [two, two],
            [one, two],
            [two, one],
            [raw, raw],
            [one, raw],
            [agent, raw],
            [agent, agent],
            [agent, one],
            [one, agent],
            [agent, two],
            [two, agent],
            [connector, raw],
            [agent, raw],
        ][usize::from(what) % 16];
        let fin_wait = [SECOND, 10 * SECOND, 60 * SECOND][usize::from(fin_wait) % 3];
        let bit = |bit: u8| how >> bit & 1 == 1;
        let idle = [None, None, Some(5 * SECOND), Some(30 * SECOND)][usize::from(how >> 5) % 4];
        // A pipe speaks TLS on both ports or on none. Only the far end of a tunnel, of which
        // nobody expects heartbeats, has a local connection without.
        let is_far_end = protocols == [raw, raw] || protocols == [connector, raw];
        let tls = [bit(0), if is_far_end { bit(1) } else { bit(0) }];
        let (one, first) = stage.leg(0, tls[0], bit(2)).await;
        let (two, second) = stage.leg(1, tls[1], bit(3)).await;
        let mut peers = [one, two];
        let held = [0, 1].map(|leg| {
            // A version 1 tunnel of a private pipe may have some, and the end that carries a
            // version 2 session what came with its header.
            let public = protocols[1] == Protocol::Raw && protocols[0] != Protocol::Raw;
            let none = matches!(protocols[leg], Protocol::Version2 | Protocol::Framed { .. });
            if !bit(4) || public || none {
                return Vec::new();
            }
            [3, 4000].map(|length| peers[leg].pattern(length)).to_vec()
        });
        let traffic = Arc::new(Traffic::default());
        let talks = [0, 1].map(|leg| begin(protocols[leg], &mut peers[leg], bit(7)));
        let [talk, other] = talks;
        let legs = [
            Endpoint { stream: first, protocol: protocols[0], talk },
            Endpoint { stream: second, protocol: protocols[1], talk: other },
        ];
        let given = held.clone().map(|units| units.into_iter().map(Into::into).collect());
        let ended = Rc::new(RefCell::new(None));
        let verdict = ended.clone();
        let kept = Rc::new(Cell::new(false));
        let is_kept = kept.clone();
        let is_framed = peers.iter().any(|peer| peer.framed.is_some());
        let tunnels = Rc::new(RefCell::new([None, None]));
        let going_on = tunnels.clone();
        let before = memory::held();
        let silence = Silence { after_end: fin_wait, ever: idle };
        let mut relay = Relay::new(legs, given, silence, traffic.clone());
        let memory = memory::held() - before;
        let relay = Driven::new(async move {
            let outcome = (&mut relay).await;
            is_kept.set(relay.keeps_tunnel());
            verdict.replace(Some((outcome, Instant::now())));
            if !is_framed {
                return relay.close().await;
            }
            // A user of a dead tunnel would be given another.
            let Parting { tunnels: [one, two], user, closing } = relay.part();
            drop(user);
            let settled = zip(settled(one), settled(two));
            let ((one, two), ()) = zip(settled, closing.close()).await;
            going_on.replace([one, two]);
        });
        let started = Instant::now();
        let mut session = Session {
            peers,
            protocols,
            fin_wait,
            idle,
            kept,
            tunnels,
            traffic,
            started,
            ended,
            held,
            ended_early: [false; 2],
            relay,
            memory,
            last,
        };
        tell(|| {
            format!("{protocols:?} how {how:#b} finwait {fin_wait:?} idle {idle:?} last {last:#b}")
        });
        session.work(1).await;
        session
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended.borrow().is_some()
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.last & 0xf0 == 0xf0
    }

    /// One thing that a peer does, or time.
    pub(super) async fn act(&mut self, choices: &mut Choices<'_>) {
        let what = choices.byte();
        let leg = usize::from(what >> 7);
        let peer = &mut self.peers[leg];
        let is_framed = peer.framed.is_some();
        match what & 0x1f {
            7..=15 if is_framed => act_framed(peer, what & 0x1f, choices),
            0..=5 => {
                // Up to 64, or up to what one record has at most.
                let length = match usize::from(choices.byte()) {
                    short @ 0..64 => short + 1,
                    long => (256 * (long - 63)).min(16 * 1024),
                };
                let unit = peer.pattern(length);
                peer.send(unit);
            }
            6 => {
                for _ in 0..1 + choices.byte() % 24 {
                    let unit = peer.pattern(16 * 1024);
                    peer.send(unit);
                }
            }
            7..=9 => peer.send(b"BEAT".to_vec()),
            10 => peer.send(b"BEATBEAT".to_vec()),
            11 => {
                peer.send(b"BE".to_vec());
                peer.send(b"AT".to_vec());
            }
            12..=13 => peer.send(b"OPEN".to_vec()),
            14 => peer.send(if choices.byte() > 200 { b"FAIL" } else { b"OPEN" }.to_vec()),
            15 => {
                // A token and what follows it, parted anywhere.
                let mut unit = b"OPEN".to_vec();
                let length = usize::from(choices.byte());
                unit.extend(peer.pattern(length));
                let rest = unit.split_off(usize::from(choices.byte() % 6).min(unit.len()));
                peer.send(unit);
                peer.send(rest);
            }
            16 => self.end(leg, choices.byte() > 127),
            17 if choices.byte() > 127 => peer.reset(),
            18 if choices.byte() > 127 => peer.corrupt(),
            19..=22 => {
                peer.receive(1 + 64 * usize::from(choices.byte()));
            }
            23..=24 => while peer.receive(ALL) {},
            25..=27 => {
                let steps = [1, 20, 80, 100, 500, 1000, 5000, 10_000, 60_000, 200_000];
                let step = steps[usize::from(choices.byte()) % steps.len()];
                clock::advance(Duration::from_millis(step));
            }
            _ => {}
        }
        let peer = &self.peers[leg];
        tell(|| format!("leg {leg}: {what:#04x} sent {} {:?}", peer.sent.len(), peer.doing));
        // Without a turn, several things reach the relay at once.
        if what & 0x20 == 0 {
            self.work(if what & 0x40 == 0 { 64 } else { 1 }).await;
        }
    }

    /// A peer ends its direction.
    fn end(&mut self, leg: usize, cut: bool) {
        let over = self.is_over();
        let peer = &mut self.peers[leg];
        if peer.doing == Doing::Sending && !over {
            peer.ended_at = Instant::now();
        }
        peer.finish(cut);
    }

    /// Lets peers send and the relay work, so many times or until there is nothing to do;
    /// whether there was anything.
    async fn work(&mut self, most: usize) -> bool {
        let mut busy = false;
        for _ in 0..most {
            let pushed = self.peers.each_mut().map(Peer::push).contains(&true);
            turn().await;
            let before = memory::held();
            let polled = self.relay.poll();
            if !self.is_over() {
                self.memory += memory::held() - before;
                assert!(self.memory <= MEMORY, "the relay holds {} bytes", self.memory);
            }
            if !pushed && !polled {
                break;
            }
            busy = true;
        }
        busy
    }

    /// Reads and works until `done`, or until nothing has happened for so many milliseconds.
    async fn settle(&mut self, patience: u32, done: impl Fn(&Self) -> bool) -> bool {
        let mut idle = 0;
        while !done(self) {
            let mut busy = self.work(64).await;
            for peer in &mut self.peers {
                while peer.receive(ALL) {
                    busy = true;
                }
            }
            if busy {
                idle = 0;
            } else if idle > patience {
                return false;
            } else {
                if idle > 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                idle += 1;
            }
        }
        true
    }

    /// The input is used up: peers end, or are silent for ever; the relay must come to an end,
    /// and for a good reason.
    pub(super) async fn finish(mut self) {
        self.settle(0, Self::is_over).await;
        // Before an agent of version 3 has seen the session, nothing of the other is read.
        let is_unseen = |peer: &Peer| peer.framed.as_ref().is_some_and(|framed| !framed.was_seen);
        let ends_early = |peer: &Peer| peer.doing != Doing::Sending || is_unseen(peer);
        self.ended_early = self.peers.each_ref().map(ends_early);
        let ends = if self.last & 3 == 0 { 3 } else { self.last };
        for leg in [0, 1] {
            if ends >> leg & 1 == 1 {
                tell(|| format!("leg {leg} ends at last"));
                self.end(leg, false);
            }
        }
        // Where nothing is left to wait for, nobody waits.
        let at_once = self.must_end_now();
        let over = self.settle(if at_once { 5000 } else { 0 }, Self::is_over).await;
        assert!(over || !at_once, "both have ended, and the session goes on");
        let (mut waited, mut delays) = (Duration::ZERO, 0);
        // Longer than once: the kernel acknowledges in its own time, and what is not acknowledged
        // yet looks like bytes on their way.
        let longest = 4 * self.fin_wait.max(20 * SECOND) + 2 * SECOND;
        while !self.is_over() {
            if waited > 10 * SECOND {
                // A kernel whose buffers were full takes up to 200 ms of its own time to go on.
                let pushed = |session: &Self| session.peers.iter().all(Peer::is_pushed);
                self.settle(300, |session| session.is_over() || pushed(session)).await;
            }
            if waited > longest {
                // On a busy machine even loopback takes its time to deliver.
                assert!(delays < 20, "the session never ends");
                std::thread::sleep(SECOND / 10);
                (waited, delays) = (Duration::ZERO, delays + 1);
            }
            let step = if waited < 2 * SECOND { SECOND / 20 } else { SECOND };
            clock::advance(step);
            waited += step;
            self.settle(u32::from(waited > 60 * SECOND), Self::is_over).await;
        }
        // What is on its way arrives, and the connections are closed.
        let parted = |session: &Self| session.relay.output.is_some();
        let mut waited = Duration::ZERO;
        // A version 3 peer has its time to answer, and not the clock's alone.
        let is_framed = self.peers.iter().any(|peer| peer.framed.is_some());
        while !self.settle(if is_framed { 300 } else { 0 }, parted).await {
            assert!(waited < 32 * SECOND, "the connections are never closed");
            clock::advance(SECOND / 20);
            waited += SECOND / 20;
        }
        let closed = |session: &Self| {
            let tunnels = session.tunnels.borrow();
            let is_kept = |leg: usize| tunnels[leg].is_some();
            let mut peers = session.peers.iter().enumerate();
            peers.all(|(leg, peer)| peer.end.is_some() || peer.is_broken() || is_kept(leg))
        };
        assert!(self.settle(5000, closed).await, "a connection is left open");
        if is_framed {
            self.settle(20, |_| false).await;
            self.judge_tunnels();
        }
        self.judge();
    }

    /// Whether both peers have ended, and no time need pass for the session to end.
    fn must_end_now(&self) -> bool {
        let done = |peer: &Peer| peer.doing != Doing::Sending;
        let is_taken = |peer: &Peer| peer.framed.as_ref().is_none_or(|framed| framed.was_accepted);
        self.peers.iter().all(done)
            && self.peers.iter().all(is_taken)
            && !self.protocols.contains(&Protocol::Version2)
    }
}

/// A session has begun on a version 3 tunnel: the relay's end. An agent may have taken it already.
fn begin(protocol: Protocol, peer: &mut Peer, is_taken: bool) -> Option<Box<Talk>> {
    let Protocol::Framed { beat, .. } = protocol else { return None };
    let mut connector = Box::new(Talk::new(Side::Connector));
    let mut agent = Box::new(Talk::new(Side::Agent));
    let hear = |talk: &mut Talk, frame: Vec<u8>| {
        talk.hear(&mut &frame[..]).expect("in order").expect("a whole frame");
    };
    hear(&mut agent, connector.say(Word::Open(&[0; 16])));
    let is_agent = beat.is_some();
    if is_agent {
        hear(&mut connector, agent.say(Word::Seen));
        hear(&mut connector, agent.say(Word::Accepted));
        peer.begin(connector);
        return Some(agent);
    }
    peer.begin(agent);
    if is_taken {
        peer.say(Word::Seen);
        peer.say(Word::Accepted);
    }
    Some(connector)
}

async fn settled(settling: Option<Settling>) -> Option<Kept> {
    match settling {
        Some(settling) => settling.await,
        None => None,
    }
}

/// One thing that a version 3 peer says, where it may.
fn act_framed(peer: &mut Peer, what: u8, choices: &mut Choices<'_>) {
    let is_agent = peer.framed.as_ref().is_some_and(|framed| framed.talk.side() == Side::Agent);
    let has_seen = peer.framed.as_ref().is_some_and(|framed| framed.was_seen);
    match what {
        7..=10 if is_agent => _ = peer.say(Word::Beat),
        7..=10 => _ = peer.say(Word::Want(choices.byte().into())),
        // A session ends only after both have.
        11..=12 if is_agent && !peer.has_ended => _ = peer.say(Word::Seen),
        13 if is_agent => _ = peer.say(Word::Accepted),
        14 if is_agent && choices.byte() > 127 => _ = peer.say(Word::Failed("as chance has it")),
        15 if choices.byte() > 127 && has_seen => _ = peer.say(Word::Reset("as chance has it")),
        _ => {}
    }
}

/// What happens, for who looks into a finding with `STORY` set.
pub(super) fn tell(what: impl FnOnce() -> String) {
    if std::env::var_os("STORY").is_some() {
        eprintln!("{}", what());
    }
}
