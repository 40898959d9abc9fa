//! One mapping while it runs: its two ports, and everybody connected to them.
//!
//! [`listen::run`](super::listen::run) is the mapping's task, in which every connection's task lives, so that all of
//! them end with it; their relays, on the workers, are waited for by [`Pipe::closed`].

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use smol::channel::{Receiver, Sender};

use crate::config::Config;
use crate::limits;
use crate::logging::{ALWAYS, Gate};
use crate::mappings::mapping::{self, AgentPort, Mapping};
use crate::mappings::ports::Pool;
use crate::net::handshake::{self, Progress};
use crate::net::stream::{Stream, is_too_many};
use crate::os::Files;
use crate::pipes::closings::Closings;
use crate::pipes::crowd::{Crowd, Member};
use crate::pipes::pairing::Pairing;
use crate::pipes::place::Places;
use crate::pipes::refusals::Refusals;
use crate::report::status::reached::LimitsReached;
use crate::report::status::refused::{self, Refusal};
use crate::report::status::{Counts, MappingStatus, SideStatus, Tunnels, timestamp};
use crate::runtime::Workers;
use crate::session::Traffic;
use crate::tls::{self, Tls};

/// What all pipes of the daemon share. The control thread owns it.
pub struct Shared {
    /// The settings in force.
    pub config: RefCell<Rc<Config>>,
    /// How TLS is spoken; `None` when `dev`.
    pub tls: Option<Arc<Tls>>,
    /// The threads for handshakes and relays.
    pub workers: Rc<Workers>,
    /// The ports.
    pub pool: Pool,
    /// The agents refused lately.
    pub refusals: Refusals,
    /// The open files.
    pub files: Arc<Files>,
}

/// Whose handshake it is.
#[derive(Clone, Copy)]
pub enum Secured {
    /// An agent's.
    Tunnel,
    /// A user's.
    User,
}

/// A running mapping.
pub struct Pipe {
    /// Who waits for whom.
    pub pairing: Pairing,
    /// Its two ports.
    pub sides: [Side; 2],
    /// Connections that have not proved their passcode.
    pub pending: Crowd,
    /// Users in their TLS handshake.
    pub handshakes: Crowd,
    /// What it shares with all others.
    pub shared: Rc<Shared>,
    mapping: Mapping,
    ends: Ends,
    /// Its sessions that are over.
    pub closings: Arc<Closings>,
    /// Its sessions' bytes.
    pub traffic: Arc<Traffic>,
    counts: Cell<Counts>,
    last_error: RefCell<Option<Fault>>,
    refusals: RefCell<refused::Refusals>,
    /// When the log was last told of an old answer.
    pub residue_told: Gate,
    limits_reached: RefCell<LimitsReached>,
    /// Closed when no new connection is to be taken.
    pub stop: (Sender<()>, Receiver<()>),
    /// Held by each relay on a worker: once all are gone, the receiver knows.
    pub relays: (RefCell<Option<Sender<()>>>, Receiver<()>),
}

/// What has gone wrong last.
struct Fault {
    what: String,
    /// In milliseconds since the epoch.
    at: u64,
    of: Of,
    /// It has gone right since.
    over: bool,
}

/// What a fault is of, for which it may go right again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The port of this side, which opens.
    Port(usize),
    /// New connections there, which are accepted.
    Accepting(usize),
    /// Users, of whom one is served.
    Users,
    /// The agents of this side, of whom one is let in.
    Agents(usize),
    /// Something that happens once.
    Event,
}

/// Who is at the two ports.
enum Ends {
    Public { agent: AgentPort },
    Private { agents: [AgentPort; 2] },
}

/// One port of a running mapping.
pub struct Side {
    /// Its number.
    pub port: u16,
    /// Why the port is not open; `None` when it is.
    pub fault: RefCell<Option<String>>,
    /// Those of its tunnels.
    pub places: Rc<Places>,
    /// Tunnels in a session.
    pub in_use: Cell<usize>,
    /// Tunnels that a worker reads to nowhere.
    pub draining: Cell<usize>,
}

/// Tells of a user or a session that is cut where it stands: when dropped, without an end of its own.
pub struct Cut<F: Fn()>(pub F);

impl<F: Fn()> Cut<F> {
    /// There is an end, which is told of as such.
    pub fn disarm(self) {
        // Nothing but references is in it.
        std::mem::forget(self);
    }
}

impl<F: Fn()> Drop for Cut<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Pipe {
    /// A pipe that does not run yet; `None` for a direct connection, which has no ports.
    pub fn new(shared: Rc<Shared>, mapping: Mapping) -> Option<Rc<Self>> {
        let (ends, ports) = match &mapping.pipe {
            mapping::Pipe::Public { agent, users } => {
                (Ends::Public { agent: agent.clone() }, [agent.port, *users])
            }
            mapping::Pipe::Private { sides } => {
                (Ends::Private { agents: sides.clone() }, [sides[0].port, sides[1].port])
            }
            mapping::Pipe::Direct { .. } => return None,
        };
        let (relay, relays_gone) = smol::channel::bounded(1);
        let tunnels = match &ends {
            Ends::Public { agent } => agent.limits.max_connections,
            Ends::Private { agents: [one, two] } => {
                one.limits.max_connections.max(two.limits.max_connections)
            }
        };
        let closings = Closings::new(usize::from(tunnels).max(limits::CLOSINGS));
        Some(Rc::new(Pipe {
            pairing: Pairing::new(matches!(ends, Ends::Public { .. })),
            sides: ports.map(|port| Side {
                port,
                fault: RefCell::new(Some(format!("port {port} is not open yet"))),
                places: Rc::default(),
                in_use: Cell::new(0),
                draining: Cell::new(0),
            }),
            pending: Crowd::default(),
            handshakes: Crowd::default(),
            shared,
            mapping,
            ends,
            closings: Arc::new(closings),
            traffic: Arc::default(),
            counts: Cell::default(),
            last_error: RefCell::new(None),
            refusals: RefCell::default(),
            residue_told: Gate::new(limits::RESIDUE_TOLD),
            limits_reached: RefCell::default(),
            stop: smol::channel::bounded(1),
            relays: (RefCell::new(Some(relay)), relays_gone),
        }))
    }

    /// Closes the ports. Sessions go on, and users that wait are given tunnels as long as some
    /// wait, too.
    pub fn stop(&self) {
        self.stop.1.close();
        self.pairing.close();
    }

    /// Why those are cut that are still there when the future of [`listen::run`](super::listen::run) is dropped.
    pub fn why_cut(&self) -> &'static Refusal {
        match self.pairing.is_closed() {
            true => &refused::USER_STOPPING,
            false => &refused::USER_REMOVED,
        }
    }

    /// Returns once no relay of this mapping is left on any worker. The future of
    /// [`listen::run`](super::listen::run) must have been dropped.
    pub async fn closed(&self) {
        self.relays.0.take();
        let _ = self.relays.1.recv().await;
    }

    /// A limit was reached.
    pub fn reached(&self, limit: &'static str) {
        self.limits_reached.borrow_mut().reached(limit);
    }

    /// Makes an accepted socket a stream: at once when plain, after a handshake on a worker in
    /// TLS.
    ///
    /// # Errors
    /// What the handshake says.
    pub async fn secure(
        &self,
        socket: TcpStream,
        whose: Secured,
        stranger: &Member<'_>,
    ) -> io::Result<Stream> {
        let Some(tls) = &self.shared.tls else { return Stream::plain(socket) };
        let config = || {
            let configs = tls.current();
            match whose {
                Secured::Tunnel => configs.tunnel.clone(),
                Secured::User => configs.user.clone(),
            }
        };
        let progress = |progress| match progress {
            Progress::Spoke => stranger.spoke(),
            Progress::Answered => stranger.answered(),
            Progress::Unfinished => stranger.goes_on(),
        };
        handshake::secure(&self.shared.workers, socket, config, progress).await
    }

    /// A tunnel's heartbeat is absent.
    pub fn tunnel_absent(&self, peer: SocketAddr) {
        self.count(|counts| counts.tunnels_absent += 1);
        log::info!(target: self.id(), "{}: tunnel of {peer} closed: its heartbeat is absent", self.id());
    }

    /// Lets a refused agent go. Counts and logs at once; the rest takes its time.
    pub fn refuse_agent(
        &self,
        stream: Stream,
        why: &Refusal,
        side: usize,
        peer: SocketAddr,
    ) -> impl Future<Output = ()> {
        self.refused(why, side, peer);
        self.shared.refusals.refuse(stream, peer.ip())
    }

    /// A user or an agent on the port of `side` is refused: counted by kind, and told with the
    /// remedy.
    pub fn refused(&self, why: &Refusal, side: usize, peer: SocketAddr) {
        self.refused_since(why, side, peer, "");
    }

    fn refused_since(&self, why: &Refusal, side: usize, peer: SocketAddr, more: &str) {
        let Refusal { who, why: kind, remedy } = why;
        let is_user = *who == refused::USER;
        self.refusals.borrow_mut().count(why);
        self.count(|counts| {
            match (is_user, *why == refused::USER_TLS, *why == refused::AGENT_TLS) {
                (_, true, _) | (_, _, true) => counts.handshake_failures += 1,
                (true, ..) => counts.users_refused += 1,
                (false, ..) => counts.agents_refused += 1,
            }
        });
        self.connection(format_args!("{who} {peer} closed: {kind}{more}"));
        if remedy.is_empty() {
            return;
        }
        let of = if is_user { Of::Users } else { Of::Agents(side) };
        let port = self.sides[side].port;
        let what = format!("{who} {} refused on port {port}: {kind}{more}; {remedy}", peer.ip());
        // Each kind has lines of its own; of users that are logged one by one this is said already.
        if !is_user || !self.settings().connection_log {
            log::warn!(target: &format!("{} {kind}", self.id()), "{}: {what}", self.id());
        }
        self.last_error.replace(Some(Fault { what, at: timestamp(), of, over: false }));
    }

    /// A TLS handshake failed. Who has connected and said nothing, as health checks do, is neither
    /// counted nor told of.
    pub fn handshake_failed(
        &self,
        side: usize,
        peer: SocketAddr,
        error: &io::Error,
        has_spoken: bool,
    ) {
        let more = format!(": {}", tls::explain_handshake(error));
        if !has_spoken {
            return self.connection(format_args!("{peer} connected and said nothing{more}"));
        }
        let users = side == 1 && self.is_public();
        let why = match (users, is_too_many(error)) {
            (true, true) => return self.refused(&refused::USERS_MEMORY, side, peer),
            (false, true) => return self.refused(&refused::AGENTS_MEMORY, side, peer),
            (true, false) => &refused::USER_TLS,
            (false, false) => &refused::AGENT_TLS,
        };
        self.refused_since(why, side, peer, &more);
    }

    /// A TLS handshake took too long.
    pub fn handshake_late(&self, side: usize, peer: SocketAddr, has_spoken: bool) {
        self.count(|counts| counts.handshake_failures += u64::from(has_spoken));
        let users = side == 1 && self.is_public();
        self.refused(if users { &refused::USER_LATE } else { &refused::NO_PASSCODE }, side, peer);
    }

    /// A line about one connection, for those who have asked for such.
    pub fn connection(&self, what: std::fmt::Arguments<'_>) {
        let level =
            if self.settings().connection_log { log::Level::Info } else { log::Level::Debug };
        log::log!(target: ALWAYS, level, "{}: {what}", self.id());
    }

    /// Something an operator should know of this mapping. Each caller is a kind of its own for the
    /// log's bounds.
    #[track_caller]
    pub fn fault(&self, of: Of, what: &str) {
        log::warn!(target: self.id(), "{}: {what}", self.id());
        let fault = Fault { what: what.to_owned(), at: timestamp(), of, over: false };
        self.last_error.replace(Some(fault));
    }

    /// What went wrong there has gone right.
    pub fn is_over(&self, of: Of) {
        if let Some(fault) = self.last_error.borrow_mut().as_mut().filter(|fault| fault.of == of) {
            fault.over = true;
        }
    }

    /// Changes what it counts.
    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// The settings in force.
    pub fn settings(&self) -> Rc<Config> {
        self.shared.config.borrow().clone()
    }

    /// The mapping's name, for the log.
    pub fn id(&self) -> &str {
        &self.mapping.id
    }

    /// Whether port2 takes users.
    pub fn is_public(&self) -> bool {
        matches!(self.ends, Ends::Public { .. })
    }

    /// The agent's port of `side`: 0 for port1, 1 for a private pipe's port2.
    pub fn agent_port(&self, side: usize) -> &AgentPort {
        match &self.ends {
            Ends::Public { agent } => agent,
            Ends::Private { agents } => &agents[side],
        }
    }

    /// Whether a version 2 agent has a tunnel on port1.
    pub fn has_version_two(&self) -> bool {
        self.sides[0].places.version_two.get() > 0
    }

    /// Whether port1 has no tunnel at all, free or not.
    pub fn has_no_tunnel(&self) -> bool {
        self.sides[0].places.taken.get() == 0
    }

    /// The sessions that a stopping daemon waits for: those of a private pipe while bytes move.
    pub fn sessions_left(&self) -> u64 {
        if self.is_public() || !self.traffic.is_still() { self.counts.get().sessions } else { 0 }
    }

    /// The users that a stopping daemon waits for: those that are given tunnels now, and those in
    /// their handshake for whom there is one.
    pub fn users_left(&self) -> u64 {
        let shaking_hands = if self.pairing.idle(0) > 0 { self.handshakes.len() } else { 0 };
        (self.pairing.waiting_users() + shaking_hands) as u64
    }

    /// What an operator is shown.
    pub fn status(&self) -> MappingStatus {
        let public = self.is_public();
        let side = |side: usize| {
            let Side { port, fault, .. } = &self.sides[side];
            let fault = match self.pairing.is_closed() {
                true => Some("the port is closed: the connector is stopping".to_owned()),
                false => fault.borrow().clone(),
            };
            let tunnels = (side == 0 || !public).then(|| Tunnels {
                idle: self.pairing.idle(side),
                in_use: self.sides[side].in_use.get(),
                draining: self.sides[side].draining.get(),
                unanswered: self.sides[side].places.unanswered.get(),
                allowed: self.agent_port(side).limits.max_connections.into(),
            });
            SideStatus { port: *port, open: fault.is_none(), fault, tunnels }
        };
        let [down, up] = &self.traffic.bytes;
        let fault = self.last_error.borrow();
        let counts = Counts {
            users_waiting: self.pairing.waiting_users() as u64,
            pending: self.pending.len() as u64,
            bytes_up: up.load(Ordering::Relaxed),
            bytes_down: down.load(Ordering::Relaxed),
            ..self.counts.get()
        };
        MappingStatus {
            id: self.mapping.id.clone(),
            sides: [side(0), side(1)],
            public,
            url: public.then(|| self.settings().public_url(self.sides[1].port)),
            counts,
            last_error: fault.as_ref().map(|fault| fault.what.clone()),
            last_error_at: fault.as_ref().map(|fault| fault.at),
            last_error_over: fault.as_ref().is_some_and(|fault| fault.over),
            refusals: self.refusals.borrow().clone(),
            limits_reached: self.limits_reached.borrow().clone(),
        }
    }
}
