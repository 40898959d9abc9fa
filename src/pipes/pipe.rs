//! One mapping while it runs: its two ports, and everybody connected to them.
//!
//! [`Pipe::run`] is the mapping's task. Every connection's task lives on an executor inside it,
//! so that all of them end with it; their relays, on the workers, are waited for by
//! [`Pipe::closed`].

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use smol::channel::{Receiver, Sender};
use smol::future::{or, yield_now, zip};
use smol::{LocalExecutor, Task};

use crate::config::Config;
use crate::limits;
use crate::logging::{ALWAYS, Gate};
use crate::mappings::mapping::{self, AgentPort, Mapping};
use crate::mappings::ports::{Lease, Pool};
use crate::net::handshake::{self, Progress};
use crate::net::stream::{Detached, Stream, is_too_many};
use crate::os::{FileGuard, Files, For};
use crate::pipes::crowd::{Crowd, Member};
use crate::pipes::pairing::{Pairing, Partner};
use crate::pipes::refusals::Refusals;
use crate::pipes::serve_user::{self, User};
use crate::pipes::tunnel::{self, Alone, Tunnel};
use crate::report::status::reached::{self, LimitsReached};
use crate::report::status::refused::{self, Refusal};
use crate::report::status::{Counts, MappingStatus, SideStatus, Tunnels, timestamp};
use crate::runtime::{self, Io, Load, Workers, sleep, until};
use crate::session::{
    Drain, Drained, Ended, Ending, Leg, Outcome, Relay, Residue, Terms, Traffic, Voice,
};
use crate::tls::{self, Tls};
use crate::wire::greeting::Version;
use crate::wire::heartbeat::Rhythm;
use crate::wire::proxy;

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
    shared: Rc<Shared>,
    mapping: Mapping,
    ends: Ends,
    traffic: Arc<Traffic>,
    counts: Cell<Counts>,
    last_error: RefCell<Option<Fault>>,
    refusals: RefCell<refused::Refusals>,
    /// When the log was last told of an old answer.
    residue_told: Gate,
    limits_reached: RefCell<LimitsReached>,
    /// Closed when no new connection is to be taken.
    stop: (Sender<()>, Receiver<()>),
    /// Held by each relay on a worker: once all are gone, the receiver knows.
    relays: (RefCell<Option<Sender<()>>>, Receiver<()>),
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
enum Of {
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
    port: u16,
    /// Why the port is not open; `None` when it is.
    fault: RefCell<Option<String>>,
    places: Rc<Places>,
    in_use: Cell<usize>,
    draining: Cell<usize>,
}

/// The authenticated tunnels of one side.
#[derive(Default)]
struct Places {
    taken: Cell<usize>,
    version_two: Cell<usize>,
    unanswered: Cell<usize>,
    freed: event_listener::Event,
}

/// One of a side's `maxconnections`, given back when dropped.
pub struct Place {
    places: Rc<Places>,
    version: Version,
    unanswered: bool,
}

impl Place {
    fn take(places: Rc<Places>, version: Version) -> Self {
        places.taken.set(places.taken.get() + 1);
        if version == Version::Two {
            places.version_two.set(places.version_two.get() + 1);
        }
        Place { places, version, unanswered: false }
    }

    /// Whether its agent has taken a user's bytes and answered nothing.
    pub fn is_unanswered(&self) -> bool {
        self.unanswered
    }

    /// Counts it among those of which that is so, or no longer.
    fn set_unanswered(&mut self, unanswered: bool) {
        let count = &self.places.unanswered;
        let others = count.get() - usize::from(self.unanswered);
        count.set(others + usize::from(unanswered));
        self.unanswered = unanswered;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.set_unanswered(false);
        self.places.taken.set(self.places.taken.get() - 1);
        if self.version == Version::Two {
            self.places.version_two.set(self.places.version_two.get() - 1);
        }
        self.places.freed.notify_additional(1);
    }
}

/// Counts one more while it lives.
struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    fn new(cell: &'a Cell<usize>) -> Self {
        cell.set(cell.get() + 1);
        Counted(cell)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Tells of a user or a session that is cut where it stands: when dropped, without an end of its own.
pub struct Cut<F: Fn()>(pub F);

impl<F: Fn()> Cut<F> {
    /// There is an end, which is told of as such.
    pub fn is_none(self) {
        // Nothing but references is in it.
        std::mem::forget(self);
    }
}

impl<F: Fn()> Drop for Cut<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// What a session takes of its agent's side, given back at its end; and whose tunnel it is.
struct Taken<'a> {
    place: Place,
    in_use: Counted<'a>,
    agent: (SocketAddr, Rhythm),
}

/// Where a user comes from, and where it has come to.
type UserAddresses = (SocketAddr, SocketAddr);

/// A session that a worker carries: what it has taken, and its relay.
type Begun<'a> = ((Taken<'a>, Option<Taken<'a>>), Task<io::Result<(Ended, Option<Draining>)>>);

/// A tunnel that a worker reads to nowhere.
struct Draining {
    is_owed: bool,
    task: Task<(Drained, Option<(Detached, FileGuard)>)>,
}

impl Draining {
    /// Goes on with `drain` on the worker that has begun it. `alive` is held meanwhile.
    fn go_on(drain: Drain, file: FileGuard, alive: Option<Sender<()>>, load: Load) -> Self {
        let is_owed = drain.is_owed();
        let task = load.spawn(|load| async move {
            let mut drain = drain;
            let drained = (&mut drain).await;
            let stream = drain.into_stream();
            let rest = if drained.outcome.is_usable() {
                Some((stream.detach(), file))
            } else {
                stream.close();
                None
            };
            drop((alive, load));
            (drained, rest)
        });
        Draining { is_owed, task }
    }
}

/// What a session is made of, on its way to a worker.
struct Parts {
    legs: [Leg<Detached>; 2],
    held: [Vec<Box<[u8]>>; 2],
    terms: Terms,
}

impl Parts {
    fn join(self: Box<Self>) -> io::Result<Relay> {
        let Parts { legs: [near, far], held, terms } = *self;
        Ok(Relay::new([near.attach()?, far.attach()?], held, terms))
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

    /// Serves both ports. Those that are not given are opened here, now or when they can be.
    /// Dropping the future closes ports, waiting users, tunnels and sessions.
    pub async fn run(self: Rc<Self>, leases: [Option<Lease>; 2]) {
        let handlers = LocalExecutor::new();
        let [one, two] = leases;
        let stopped = async {
            let _ = self.stop.1.recv().await;
        };
        let served = pin!(async {
            {
                let ports = zip(self.listen(&handlers, 0, one), self.listen(&handlers, 1, two));
                let listening = pin!(ports);
                or(async { _ = listening.await }, stopped).await;
            }
            std::future::pending::<()>().await;
        });
        or(served, runtime::run(|| handlers.tick())).await;
    }

    /// Closes the ports. Sessions go on, and users that wait are given tunnels as long as some
    /// wait, too.
    pub fn stop(&self) {
        self.stop.1.close();
        self.pairing.close();
    }

    /// Why those are cut that are still there when the future of [`Pipe::run`] is dropped.
    pub fn why_cut(&self) -> &'static Refusal {
        match self.pairing.is_closed() {
            true => &refused::USER_STOPPING,
            false => &refused::USER_REMOVED,
        }
    }

    /// Returns once no relay of this mapping is left on any worker. The future of [`Pipe::run`]
    /// must have been dropped.
    pub async fn closed(&self) {
        self.relays.0.take();
        let _ = self.relays.1.recv().await;
    }

    /// Opens one port, again and again until that is possible, and serves it.
    async fn listen<'a>(
        &'a self,
        handlers: &LocalExecutor<'a>,
        index: usize,
        mut lease: Option<Lease>,
    ) {
        let side = &self.sides[index];
        let [mut pause, longest] = limits::PORT_RETRY;
        loop {
            let opened = match lease.take() {
                Some(lease) => Ok(lease),
                None => self.shared.pool.lease_port(side.port),
            };
            let why = match opened {
                Err(error) => error.to_string(),
                Ok(lease) => {
                    side.fault.replace(None);
                    self.is_over(Of::Port(index));
                    match self.accept(handlers, index, &lease).await {
                        Err(error) => format!("port {} cannot be served: {error}", side.port),
                        Ok(never) => match never {},
                    }
                }
            };
            let why = format!("{why}; it is tried again until it opens");
            if side.fault.borrow().as_ref() != Some(&why) {
                self.fault(Of::Port(index), &why);
                side.fault.replace(Some(why));
            }
            sleep(pause).await;
            pause = (2 * pause).min(longest);
        }
    }

    /// Accepts connections, each served by a task of its own.
    async fn accept<'a>(
        &'a self,
        handlers: &LocalExecutor<'a>,
        side: usize,
        lease: &Lease,
    ) -> io::Result<Infallible> {
        let listener = Io::listening(lease.listener())?;
        let complaints = Gate::new(limits::COMPLAINT);
        let complain = |why: &str| {
            if complaints.open() {
                self.fault(Of::Accepting(side), why);
            }
        };
        let users = side == 1 && self.is_public();
        loop {
            self.room(users, &listener).await;
            if !self.shared.files.has_room(For::Pipe) {
                self.reached(reached::FILES);
                complain(&self.no_files());
                sleep(limits::ACCEPT_PAUSE).await;
                continue;
            }
            match listener.accept().await {
                Ok((socket, peer)) => {
                    self.is_over(Of::Accepting(side));
                    let file = loop {
                        // Another port may have taken the last one meanwhile.
                        match self.shared.files.try_take(For::Pipe) {
                            Some(file) => break file,
                            None => sleep(limits::ACCEPT_PAUSE).await,
                        }
                    };
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    if users {
                        handlers.spawn(serve_user::serve(self, socket, peer, file)).detach();
                    } else {
                        handlers.spawn(tunnel::serve(self, side, socket, peer, file)).detach();
                    }
                    // It may have sent already what lets it leave the crowd.
                    yield_now().await;
                }
                // The connection was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    complain(&format!("new connections wait, accepting failed: {error}"));
                    sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until one more connection may be taken; meanwhile newcomers wait in the kernel's
    /// backlog. While there are none, nobody makes room.
    async fn room(&self, users: bool, newcomers: &Io<&TcpListener>) {
        if !users {
            let pending = self.settings().pending;
            if self.pending.len() >= pending {
                newcomers.come().await;
            }
            if self.pending.room(pending).await {
                self.reached(reached::AGENTS_PENDING);
            }
            return;
        }
        let mut waited = false;
        loop {
            let pending = self.settings().pending;
            let may_wait = || self.pairing.has_room(pending, !self.has_version_two());
            if self.handshakes.len() >= pending || !may_wait() {
                newcomers.come().await;
            }
            if self.handshakes.room(pending).await {
                self.reached(reached::USERS_PENDING);
            }
            let room = self.pairing.room();
            if may_wait() {
                return;
            }
            if !std::mem::replace(&mut waited, true) {
                self.reached(reached::USERS_WAITING);
            }
            // The last version 2 agent may leave meanwhile, so that mute users wait in vain.
            until(Instant::now() + limits::ACCEPT_PAUSE, room).await;
        }
    }

    /// A limit was reached.
    pub fn reached(&self, limit: &'static str) {
        self.limits_reached.borrow_mut().reached(limit);
    }

    fn no_files(&self) -> String {
        format!(
            "new connections wait: {} files are in use, as many as the limit of open files allows; \
             raise it (LimitNOFILE)",
            self.shared.files.used()
        )
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

    /// A place for one more tunnel of `side`; at the limit that of the most overdue one, or one
    /// that is given back soon.
    pub async fn place(&self, side: usize, version: Version) -> Option<Place> {
        let places = &self.sides[side].places;
        let allowed = usize::from(self.agent_port(side).limits.max_connections);
        let deadline = Instant::now() + limits::PLACE_WAIT;
        let mut waited = false;
        loop {
            let freed = places.freed.listen();
            let is_full = places.taken.get() >= allowed;
            if is_full && !std::mem::replace(&mut waited, true) {
                self.reached(reached::MAX_CONNECTIONS);
            }
            if !is_full {
                self.count(|counts| counts.tunnels_total += 1);
                self.is_over(Of::Agents(side));
                return Some(Place::take(places.clone(), version));
            }
            if !self.pairing.replace_overdue(side) {
                // The newcomer's own machine may have rebooted, and know nothing of its old tunnels.
                while places.taken.get() >= allowed
                    && Instant::now() < deadline
                    && self.pairing.probe(side)
                {
                    runtime::look().await;
                }
                let waited = until(deadline, freed).await;
                if waited.is_none() && places.taken.get() >= allowed {
                    return None;
                }
            }
        }
    }

    /// Returns once it is known which of this mapping's tunnels, in a session or draining on a worker,
    /// had broken by now. Where a worker does not say so in time, one may have.
    pub async fn hear_of_ends(&self) {
        let Side { in_use, draining, .. } = &self.sides[0];
        if in_use.get() + draining.get() == 0 {
            return;
        }
        if until(Instant::now() + limits::LOOK_WAIT, self.shared.workers.look()).await.is_none() {
            self.pairing.be_wary();
        }
        // Their sessions' tasks, which the workers have woken, deal with it.
        runtime::look().await;
    }

    /// Carries the session of port1's tunnel and its partner to its end. Gives the tunnel back if
    /// it can carry another one, once nothing more comes of this one.
    pub async fn session(&self, tunnel: Box<Tunnel>, partner: Partner) -> Option<Box<Tunnel>> {
        let peers = match &partner {
            Partner::User(user) => [tunnel.peer, user.peer],
            Partner::Tunnel(other) => [tunnel.peer, other.peer],
        };
        // Only the header for a version 2 agent tells of them.
        let user = match &partner {
            Partner::User(user) if tunnel.version == Version::Two => {
                user.stream.socket().local_addr().ok().map(|local| (user.peer, local))
            }
            _ => None,
        };
        self.count(|counts| {
            counts.sessions += 1;
            counts.sessions_total += 1;
            counts.users_served += u64::from(self.is_public());
        });
        self.is_over(Of::Users);
        let ((near, far), relay) = self.begin(tunnel, partner, user);
        let began = Instant::now();
        let cut = Cut(|| {
            self.connection(format_args!(
                "session of {} and {} was cut after {:.1} s: {}",
                peers[0],
                peers[1],
                began.elapsed().as_secs_f32(),
                self.why_cut().why
            ));
        });
        let (ended, draining) = relay.await.ok().unzip();
        cut.is_none();
        let Taken { place, in_use, agent } = near;
        // Before the agent can have redialled: the worker tells of the end, then closes.
        drop((far, in_use));
        let kept = match draining.flatten() {
            Some(draining) => Some((draining, Counted::new(&self.sides[0].draining), place)),
            None => {
                drop(place);
                None
            }
        };
        self.count(|counts| counts.sessions -= 1);
        self.session_ended(ended, peers);
        self.pairing.pair();
        let (draining, counted, place) = kept?;
        let tunnel = self.drained(draining, place, agent).await;
        drop(counted);
        tunnel
    }

    /// Has a worker read a waiting version 1 tunnel to nowhere, on which bytes have come that no
    /// user waits for. Gives it back once nothing more comes.
    pub async fn drain_stray(&self, mut tunnel: Box<Tunnel>) -> Option<Box<Tunnel>> {
        let late = (!tunnel.is_fresh()).then(|| tunnel.rhythm.last_heard() - tunnel.quiet_since());
        match late {
            // That it would come was known.
            Some(_) if tunnel.place.is_unanswered() => {}
            Some(late) => self.pairing.learn(late),
            None => self.pairing.found(),
        }
        if self.residue_told.open() {
            self.fault(
                Of::Event,
                &format!(
                    "tunnel of {} sends the rest of an answer whose user is gone: it is read over, \
                 and the tunnel is used again after it",
                    tunnel.peer
                ),
            );
        }
        let held = tunnel.take_held();
        let Tunnel { stream, peer, rhythm, place, file, .. } = *tunnel;
        let threshold = self.agent_port(0).limits.heartbeat_threshold;
        let residue = Residue::stray(stream.round_trip(), late, rhythm.last_heard());
        let stream = stream.detach();
        let alive = self.relays.0.borrow().clone();
        let begun = self.shared.workers.spawn(|load| async move {
            let stream = stream.attach()?;
            let mut drain = Drain::new(stream, threshold, residue, rhythm.last_heard());
            held.iter().try_for_each(|unit| drain.take_over(unit))?;
            io::Result::Ok(Draining::go_on(drain, file, alive, load))
        });
        let _counted = Counted::new(&self.sides[0].draining);
        let draining = begun.await.ok()?;
        self.drained(draining, place, (peer, rhythm)).await
    }

    /// Waits until a tunnel has been read to nowhere; gives it back if it can be used again.
    async fn drained(
        &self,
        draining: Draining,
        mut place: Place,
        agent: (SocketAddr, Rhythm),
    ) -> Option<Box<Tunnel>> {
        place.set_unanswered(draining.is_owed);
        let (drained, rest) = draining.task.await;
        place.set_unanswered(drained.outcome == Outcome::Unanswered);
        let (peer, _) = agent;
        if drained.bytes > 0 && drained.lasted >= limits::QUIET_LATE && self.residue_told.open() {
            log::info!(
                target: self.id(),
                "{}: tunnel of {peer}: {} bytes for a user that had left were read over in {:.1} s",
                self.id(),
                drained.bytes,
                drained.lasted.as_secs_f32()
            );
        }
        match drained.outcome {
            Outcome::Clean | Outcome::Unanswered => {
                let (stream, file) = rest?;
                let stream = stream.attach().ok()?;
                Some(Box::new(Tunnel::again(stream, agent, place, file, &drained)))
            }
            Outcome::Left | Outcome::Absent | Outcome::Stalled => {
                self.pairing.lost(drained.missing);
                if drained.outcome == Outcome::Absent {
                    self.tunnel_absent(peer);
                }
                drop(place);
                log::debug!("{}: tunnel of {peer} is gone: {:?}", self.id(), drained.outcome);
                None
            }
        }
    }

    /// Gives a worker the relay of a session; what is given back at its end stays here.
    fn begin(
        &self,
        tunnel: Box<Tunnel>,
        partner: Partner,
        user: Option<UserAddresses>,
    ) -> Begun<'_> {
        let (near, near_held, taken, near_file) = self.agent_leg(0, tunnel, user);
        let (far, far_held, far_taken, far_file) = match partner {
            Partner::Tunnel(other) => {
                let (leg, held, taken, file) = self.agent_leg(1, other, None);
                (leg, held, Some(taken), file)
            }
            Partner::User(user) => {
                let User { mut stream, file, .. } = *user;
                stream.trust();
                let leg = Leg { stream: stream.detach(), voice: Voice::Raw };
                (leg, Vec::new(), None, file)
            }
        };
        let terms = Terms { fin_wait: self.settings().fin_wait, traffic: self.traffic.clone() };
        let alive = self.relays.0.borrow().clone();
        // Boxed, so that the session's memory is the relay's and not that of its making, too.
        let parts = Box::new(Parts { legs: [near, far], held: [near_held, far_held], terms });
        let relay = self.shared.workers.spawn(|load| async move {
            let mut relay = parts.join()?;
            let ended = (&mut relay).await;
            if !relay.keeps_tunnel() {
                drop(alive);
                load.go_on(|load| async move {
                    relay.close().await;
                    drop((near_file, far_file, load));
                });
                return Ok((ended, None));
            }
            let draining = relay.keep_tunnel().map(|(drain, user)| {
                load.another().go_on(|load| async move {
                    user.close().await;
                    drop((far_file, load));
                });
                Draining::go_on(drain, near_file, alive, load)
            });
            Ok((ended, draining))
        });
        ((taken, far_taken), relay)
    }

    /// Takes a tunnel apart into what a worker needs, what it held, and what is given back at
    /// the session's end. A version 2 agent is told of the pairing.
    fn agent_leg(
        &self,
        side: usize,
        mut tunnel: Box<Tunnel>,
        user: Option<UserAddresses>,
    ) -> (Leg<Detached>, Vec<Box<[u8]>>, Taken<'_>, FileGuard) {
        let held = tunnel.take_held();
        tunnel.end_probe();
        let voice = match tunnel.version {
            Version::One => {
                Voice::Version1 { threshold: self.agent_port(side).limits.heartbeat_threshold }
            }
            Version::Two => {
                // An agent that is gone by now shows that to the relay.
                let _ = tunnel.stream.queue(&proxy::header(user));
                Voice::Version2
            }
        };
        let Tunnel { stream, peer, rhythm, place, file, .. } = *tunnel;
        let in_use = Counted::new(&self.sides[side].in_use);
        let taken = Taken { place, in_use, agent: (peer, rhythm) };
        (Leg { stream: stream.detach(), voice }, held, taken, file)
    }

    fn session_ended(&self, ended: Option<Ended>, [agent, partner]: [SocketAddr; 2]) {
        let Some(ended) = ended else {
            return self
                .fault(Of::Event, "a session could not begin: the kernel watches no more sockets");
        };
        self.pairing.lost(ended.missing);
        match ended.ending {
            Ending::Absent(_) => self.count(|counts| counts.tunnels_absent += 1),
            Ending::Failed(side)
            | Ending::Wrong(side)
            | Ending::Unanswered(side)
            | Ending::NoAnswer(side)
            | Ending::Stalled(side) => {
                let who = if side == 0 { agent } else { partner };
                self.fault(Of::Event, &format!("a session with {who} failed: {}", ended.ending));
            }
            _ => {}
        }
        let level =
            if self.settings().connection_log { log::Level::Info } else { log::Level::Debug };
        log::log!(
            target: ALWAYS,
            level,
            "{}: session of {agent} and {partner} ended after {:.1} s, {} bytes from port1, {} from port2: {}",
            self.id(),
            ended.lasted.as_secs_f32(),
            ended.bytes[0],
            ended.bytes[1],
            ended.ending
        );
    }

    /// A waiting tunnel has ended by itself.
    pub async fn tunnel_ended(&self, tunnel: Box<Tunnel>, why: Alone) {
        let Tunnel { stream, peer, place, file, .. } = *tunnel;
        drop(place);
        match why {
            Alone::OutOfStep => {
                self.fault(
                    Of::Event,
                    &format!("tunnel of {peer} closed: it sent bytes while no session was on"),
                );
                self.shared.refusals.refuse(stream, peer.ip()).await;
            }
            Alone::Absent => {
                self.tunnel_absent(peer);
                stream.close();
            }
            Alone::Stalled => {
                log::info!(target: self.id(), "{}: tunnel of {peer} closed: it acknowledges nothing", self.id());
            }
            Alone::Left => log::debug!("{}: tunnel of {peer} was closed by its agent", self.id()),
        }
        drop(file);
    }

    fn tunnel_absent(&self, peer: SocketAddr) {
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
    fn fault(&self, of: Of, what: &str) {
        log::warn!(target: self.id(), "{}: {what}", self.id());
        let fault = Fault { what: what.to_owned(), at: timestamp(), of, over: false };
        self.last_error.replace(Some(fault));
    }

    /// What went wrong there has gone right.
    fn is_over(&self, of: Of) {
        if let Some(fault) = self.last_error.borrow_mut().as_mut().filter(|fault| fault.of == of) {
            fault.over = true;
        }
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
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

    /// What it was told to open.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
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
