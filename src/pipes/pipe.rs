//! One mapping while it runs: its two ports, and everybody connected to them.
//!
//! [`listen::run`](super::listen::run) is the mapping's task, in which every connection's task lives, so that all of
//! them end with it; their relays are waited for by [`Pipe::closed`].

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use event_listener::Event;
use smol::channel::{Receiver, Sender};

use crate::config::Config;
use crate::limits;
use crate::mappings::mapping::{self, AgentLimits, AgentPort, Id, Mapping};
use crate::mappings::options::Users;
use crate::net::stream::Stream;
use crate::pipes::closings::Closings;
use crate::pipes::crowd::Crowd;
use crate::pipes::pairing::Pairing;
use crate::pipes::per_address::PerAddress;
use crate::pipes::record::Record;
use crate::pipes::shared::Shared;
use crate::pipes::slot::Slots;
use crate::pipes::wanted::Wanted;
use crate::report::status::reached;
use crate::report::status::refused::{self, Refusal};
use crate::report::status::{Counts, MappingStatus, SideStatus, Tunnels};
use crate::runtime::until;
use crate::session::Traffic;
use crate::text::dump::Dump;
use crate::text::event::Event as Happening;

/// What tells an event of one side from that of the other.
pub const SIDES: [&str; 2] = ["port1", "port2"];

/// A running mapping.
pub struct Pipe {
    /// Who waits for whom.
    pub pairing: Pairing,
    /// Its two ports.
    pub sides: [Side; 2],
    /// Connections that have not proved their passcode.
    pub unauthenticated: Crowd,
    /// Users in their TLS handshake.
    pub handshakes: Crowd,
    /// Users that were accepted and whose tasks have not begun yet.
    pub arriving: Cell<usize>,
    /// Whether agents are left to the other daemon, while one takes the other's place.
    pub agents_left: Agents,
    /// What it shares with all others.
    pub shared: Rc<Shared>,
    /// As it is stored.
    mapping: RefCell<Rc<Mapping>>,
    /// Its users by their addresses, where these are counted.
    pub per_address: PerAddress,
    /// Its sessions that are over.
    pub closings: Arc<Closings>,
    /// Whether no old answers of the daemon before this one come on fresh tunnels here, as that has said.
    pub is_calm_before: Cell<bool>,
    /// Users for whom more tunnels are asked.
    pub wanted: Wanted,
    /// Whether waiting tunnels of version 3 are told that no session will begin on them any more.
    bids_farewell: Cell<bool>,
    /// Its sessions' bytes.
    pub traffic: Arc<Traffic>,
    /// What happens here: counted, logged, shown.
    pub record: Record,
    /// Of each port, closed when no new connection is to be taken there.
    pub stop: [(Sender<()>, Receiver<()>); 2],
    /// Held by each relay: once all are gone, the receiver knows.
    pub relays: (RefCell<Option<Sender<()>>>, Receiver<()>),
}

/// Whether agents are left to the other daemon, each time until a moment.
#[derive(Default)]
pub struct Agents {
    left: [Cell<Option<Instant>>; 2],
    /// How many the daemon before this one is short of.
    wanted: Cell<usize>,
    changed: Event,
}

/// To whom agents are left.
#[derive(Clone, Copy)]
pub enum LeftTo {
    /// To the daemon that takes this one's place.
    Next,
    /// To the one whose place this one took, while users wait there.
    Before,
}

impl Agents {
    /// They are until then, or not any more.
    pub fn leave(&self, to: LeftTo, until: Option<Instant>) {
        self.left[to as usize].set(until);
        self.changed.notify(usize::MAX);
    }

    /// They are left to the daemon before this one, which is short of so many.
    pub fn want(&self, count: usize, until: Instant) {
        self.wanted.set(count);
        self.leave(LeftTo::Before, Some(until));
    }

    /// How many that one is short of.
    pub fn wanted(&self) -> usize {
        let until = self.left[LeftTo::Before as usize].get();
        until.filter(|until| Instant::now() < *until).map_or(0, |_| self.wanted.get())
    }

    /// Returns when they are left to nobody.
    pub async fn come(&self) {
        loop {
            let changed = self.changed.listen();
            let latest = self.left.iter().filter_map(Cell::get).max();
            match latest.filter(|until| Instant::now() < *until) {
                Some(latest) => _ = until(latest, changed).await,
                None => return,
            }
        }
    }
}

/// One port of a running mapping.
pub struct Side {
    /// Its number.
    pub port: u16,
    /// Why the port is not open; `None` when it is.
    pub fault: RefCell<Option<String>>,
    /// Whether it was tried to open it.
    pub is_tried: Cell<bool>,
    /// Whether connections may be accepted there: 1, or 0 once it has stopped.
    pub accepting: Cell<usize>,
    /// Those of its tunnels.
    pub slots: Rc<Slots>,
    /// Tunnels that a worker reads, discarding what comes.
    pub draining: Cell<usize>,
}

impl Pipe {
    /// A pipe that does not run yet; `None` for a direct connection, which has no ports.
    pub fn new(shared: Rc<Shared>, mapping: Mapping) -> Option<Rc<Self>> {
        let ports = mapping.pipe.ports()?;
        let (relay, relays_gone) = smol::channel::bounded(1);
        let public = matches!(mapping.pipe, mapping::Pipe::Public { .. });
        let record = Record::new(shared.clone(), &mapping, ports, public);
        let closings = Closings::new(most_closing(&mapping));
        Some(Rc::new(Pipe {
            pairing: Pairing::new(public),
            sides: ports.map(|port| Side {
                port,
                fault: RefCell::new(Some(format!("port {port} is not open yet"))),
                is_tried: Cell::new(false),
                accepting: Cell::new(0),
                slots: Rc::default(),
                draining: Cell::new(0),
            }),
            unauthenticated: Crowd::default(),
            handshakes: Crowd::default(),
            arriving: Cell::new(0),
            agents_left: Agents::default(),
            shared,
            mapping: RefCell::new(Rc::new(mapping)),
            per_address: PerAddress::default(),
            closings: Arc::new(closings),
            is_calm_before: Cell::new(false),
            wanted: Wanted::default(),
            bids_farewell: Cell::new(false),
            traffic: Arc::default(),
            record,
            stop: [(); 2].map(|()| smol::channel::bounded(1)),
            relays: (RefCell::new(Some(relay)), relays_gone),
        }))
    }

    /// Closes the ports. Sessions go on, and users that wait are given tunnels as long as some
    /// wait, too.
    pub fn stop(&self) {
        self.stop.iter().for_each(|(_, stop)| _ = stop.close());
        self.pairing.close();
    }

    /// Another daemon accepts connections from now on. Users that are here already are given tunnels: agents may
    /// open some until [`give_up`](Self::give_up).
    pub fn retire(&self) {
        self.stop[1].1.close();
        if !self.is_public() {
            self.give_up();
        }
    }

    /// Whether users are here, or may still be accepted, that have not been given a tunnel yet.
    pub fn is_awaited(&self) -> bool {
        let users = || self.arriving.get() + self.handshakes.len() + self.pairing.waiting_users();
        self.is_public() && self.sides[1].accepting.get() + users() > 0
    }

    /// Whether agents of version 1 have tunnels here, all idle, and there are no old answers that may come on others.
    pub fn is_calm(&self) -> bool {
        let Side { slots, draining, .. } = &self.sides[0];
        let is_still = slots.in_use.get() + slots.unanswered.get() + draining.get() == 0;
        let is_left_alone = self.pairing.waiting_users() == 0 && self.record.counts().sessions == 0;
        is_still && is_left_alone && slots.versions()[0] > 0 && self.pairing.is_calm()
    }

    /// How many users wait here while no tunnel does.
    pub fn short_of(&self) -> usize {
        let is_short = self.is_public() && !self.pairing.has_tunnel();
        if is_short { self.pairing.waiting_users() } else { 0 }
    }

    /// After [`retire`](Self::retire), once it is not: tunnels that wait are closed, so that their agents open others
    /// at the daemon that serves now. To be called again for those that wait again after a session.
    pub fn give_up(&self) {
        self.stop[0].1.close();
        if !self.bids_farewell.replace(true) {
            self.pairing.look_anew();
        }
        (0..2).for_each(|side| self.pairing.give_up(side, 0, usize::MAX, true));
    }

    /// The same with those that more wait than users that are here can need: whoever stalls in a handshake needs none.
    /// Who is here is known once port2 is closed; if nobody is, port1 is closed before its agents are sent away.
    pub fn give_up_surplus(&self) {
        if self.sides[1].accepting.get() > 0 {
            return;
        }
        let users = self.arriving.get() + self.handshakes.active() + self.pairing.waiting_users();
        self.pairing.give_up(0, users, usize::MAX, true);
    }

    /// Has the agents of waiting tunnels of version 3 told that no session will begin on them any more: right before
    /// they are closed.
    pub fn bid_farewell(&self) {
        self.bids_farewell.set(true);
        self.pairing.look_anew();
    }

    /// Whether that is so.
    pub fn bids_farewell(&self) -> bool {
        self.bids_farewell.get()
    }

    /// Why those are cut that are still there when the future of [`listen::run`](super::listen::run) is dropped.
    pub fn why_cut(&self) -> &'static Refusal {
        match self.pairing.is_closed() {
            true => &refused::USER_STOPPING,
            false => &refused::USER_REMOVED,
        }
    }

    /// Returns once no relay of this mapping is left on any thread. The future of
    /// [`listen::run`](super::listen::run) must have been dropped.
    pub async fn closed(&self) {
        self.relays.0.take();
        let _ = self.relays.1.recv().await;
    }

    /// Lets a refused agent go. Counts and logs at once; the rest takes its time.
    pub fn refuse_agent(
        &self,
        stream: Stream,
        why: &Refusal,
        side: usize,
        peer: SocketAddr,
    ) -> impl Future<Output = ()> {
        self.record.refused(why, side, peer);
        self.shared.refusals.refuse(stream, peer.ip())
    }

    /// An agent has a tunnel of this side: an event, if it is the first from its address.
    pub fn agent_came(&self, side: usize, agent: IpAddr) {
        let Side { port, slots, .. } = &self.sides[side];
        if slots.has_come(agent) {
            let what = format!("agent {agent} has a tunnel on port {port}");
            let place = Some((side, Some(agent)));
            self.record.happened(Happening::AgentCame, "", place, &what);
        }
    }

    /// What is over is told as events: that an agent has tunnels, that a limit is reached. To be called from time to
    /// time, so that what comes back at once has never been gone.
    pub fn tell_over(&self) {
        for (side, Side { port, slots, .. }) in self.sides.iter().enumerate() {
            for agent in slots.have_gone() {
                let what = format!("agent {agent} has no tunnel on port {port} any more");
                let place = Some((side, Some(agent)));
                self.record.happened(Happening::AgentWent, "", place, &what);
            }
        }
        self.record.tell_limits_over(|limit| match limit {
            reached::AGENTS_PENDING => self.unauthenticated.len() >= self.most_pending(),
            reached::USERS_PENDING => self.handshakes.len() >= self.most_pending(),
            reached::USERS_WAITING => self.pairing.is_full(self.most_pending()),
            reached::MAX_CONNECTIONS => self.sides.iter().enumerate().any(|(side, of)| {
                let is_agents = side == 0 || !self.is_public();
                is_agents && of.slots.taken.get() >= usize::from(self.limits(side).max_connections)
            }),
            _ => false,
        });
    }

    /// The settings in force.
    pub fn settings(&self) -> Rc<Config> {
        self.shared.config.borrow().clone()
    }

    /// The mapping as it is stored.
    pub fn mapping(&self) -> Rc<Mapping> {
        self.mapping.borrow().clone()
    }

    /// It is stored differently now: what is new holds for whoever connects from now on, limits of tunnels for
    /// those that wait, too.
    pub fn alter(&self, mapping: Mapping) {
        self.record.set_name(&mapping);
        self.closings.set_limit(most_closing(&mapping));
        for (side, agent) in mapping.pipe.agents().iter().enumerate() {
            let old = |of: &AgentPort| of.passcode.matches(agent.passcode.reveal().as_bytes());
            let is_new = !self.agent(side, old);
            let passcodes = &self.sides[side].slots.passcodes;
            passcodes.set(passcodes.get().wrapping_add(u32::from(is_new)));
        }
        self.mapping.replace(Rc::new(mapping));
        self.pairing.look_anew();
    }

    /// How many strangers each port may hold now, and how many users may wait: `pending`, or fewer
    /// while few files are left, so that newcomers take the places of others sooner.
    pub fn most_pending(&self) -> usize {
        self.settings().pending.min(self.shared.files.strangers())
    }

    /// The mapping's id.
    pub fn id(&self) -> &Id {
        self.record.id()
    }

    /// What the log calls it: its name, or its id.
    pub fn name(&self) -> Rc<str> {
        self.record.name()
    }

    /// Whether port2 takes users.
    pub fn is_public(&self) -> bool {
        matches!(self.mapping.borrow().pipe, mapping::Pipe::Public { .. })
    }

    /// What `read` makes of the agent's port of `side`: 0 for port1, 1 for a private pipe's port2.
    pub fn agent<T>(&self, side: usize, read: impl FnOnce(&AgentPort) -> T) -> T {
        read(&self.mapping.borrow().pipe.agents()[side])
    }

    /// The limits of tunnels of `side`.
    pub fn limits(&self, side: usize) -> AgentLimits {
        self.agent(side, |agent| agent.limits)
    }

    /// Whether an agent that can serve users that say nothing has a tunnel on port1.
    pub fn serves_silent(&self) -> bool {
        self.sides[0].slots.serve_silent.get() > 0
    }

    /// Whether a tunnel of port1 that is not idle may serve users that wait, or its agent open another one: of version 1
    /// or 2; of version 3, in a session whose agent is not likely to be dead.
    pub fn may_serve_later(&self) -> bool {
        let slots = &self.sides[0].slots;
        slots.taken.get() > slots.again.get() || self.pairing.has_living_session()
    }

    /// Whether port1 has no tunnel at all, free or not.
    pub fn has_no_tunnel(&self) -> bool {
        self.sides[0].slots.taken.get() == 0
    }

    /// The sessions that a stopping daemon waits for: those of a private pipe while bytes move.
    pub fn sessions_left(&self) -> u64 {
        if self.is_public() || !self.traffic.is_still() { self.record.counts().sessions } else { 0 }
    }

    /// The users that a stopping daemon waits for: those that are given tunnels now, and those in
    /// their handshake for whom there is one, if they have begun it and go on with it.
    pub fn users_left(&self) -> u64 {
        let shaking_hands = if self.pairing.has_tunnel() { self.handshakes.active() } else { 0 };
        (self.pairing.waiting_users() + shaking_hands) as u64
    }

    /// Adds a line on itself.
    pub fn tell(&self, dump: &mut Dump) {
        let [one, two] = &self.sides;
        let open = |side: &Side| if side.fault.borrow().is_none() { "open" } else { "not open" };
        dump.line(format_args!(
            "mapping {} ({}): {}, port1 {} {}, port2 {} {}; sessions {}, users waiting {}, connections without passcode \
             yet {}, users in their handshake or in line {}, connections closing {}",
            self.name(),
            self.id(),
            if self.is_public() { "public" } else { "private" },
            one.port,
            open(one),
            two.port,
            open(two),
            self.record.counts().sessions,
            self.pairing.waiting_users(),
            self.unauthenticated.len(),
            self.handshakes.len(),
            self.closings.count()
        ));
    }

    /// Adds a line of the next one `behind` this of those who are on this thread and in no session, of one of
    /// [`KINDS`](Self::KINDS); gives its number.
    pub fn tell_next(&self, kind: usize, behind: Option<u64>, dump: &mut Dump) -> Option<u64> {
        let [one, two] = self.sides.each_ref().map(|side| side.port);
        match kind {
            0 => self.pairing.tell_tunnel(0, one, behind, dump),
            1 => self.pairing.tell_tunnel(1, two, behind, dump),
            2 => self.pairing.tell_user(two, behind, dump),
            3 if self.is_public() => {
                self.unauthenticated.tell(format_args!("no passcode yet port {one}"), behind, dump)
            }
            3 => {
                let ports = format!("{one} or {two}");
                self.unauthenticated.tell(
                    format_args!("no passcode yet port {ports}"),
                    behind,
                    dump,
                )
            }
            _ => {
                let state = "in its handshake or in line";
                self.handshakes.tell(format_args!("user {state} port {two}"), behind, dump)
            }
        }
    }

    /// How many kinds [`tell_next`](Self::tell_next) knows: waiting tunnels of either side, waiting users, agents that
    /// have not proved their passcode, users in their handshake or in line.
    pub const KINDS: usize = 5;

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
                in_use: self.sides[side].slots.in_use.get(),
                draining: self.sides[side].draining.get(),
                unanswered: self.sides[side].slots.unanswered.get(),
                allowed: self.limits(side).max_connections.into(),
                versions: self.sides[side].slots.versions(),
            });
            let threshold = tunnels.and_then(|_| self.limits(side).heartbeat_threshold);
            let heartbeat_threshold = threshold.map(|time| time.as_millis() as u64);
            let (open, agents) = (fault.is_none(), self.sides[side].slots.agents());
            SideStatus { port: *port, open, fault, tunnels, heartbeat_threshold, agents }
        };
        let [down, up] = &self.traffic.bytes;
        let counts = Counts {
            users_waiting: self.pairing.waiting_users() as u64,
            pending: self.unauthenticated.len() as u64,
            bytes_up: up.load(Ordering::Relaxed),
            bytes_down: down.load(Ordering::Relaxed),
            ..self.record.counts()
        };
        let options = &self.mapping().options;
        let raw = options.users == Some(Users::Plain);
        let url = public.then(|| self.settings().public_url(self.sides[1].port, raw));
        self.record.status([side(0), side(1)], url, counts, options.members())
    }
}

/// How many sessions that are over may wait for their last bytes to arrive.
fn most_closing(mapping: &Mapping) -> usize {
    let tunnels = mapping.pipe.agents().iter().map(|agent| agent.limits.max_connections);
    usize::from(tunnels.max().unwrap_or_default()).max(limits::CLOSINGS)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::runtime::block_on;

    #[test]
    fn agents_that_are_left_come_when_their_time_is_over_or_nobody_is_to_have_them() {
        let soon = || Instant::now() + Duration::from_millis(30);
        let never = || Instant::now() + Duration::from_secs(3600);
        block_on(async {
            let agents = Agents::default();
            agents.come().await;
            let (begun, left) = (Instant::now(), soon());
            agents.want(3, left);
            agents.leave(LeftTo::Next, Some(soon()));
            assert_eq!(agents.wanted(), 3);
            agents.come().await;
            assert!(begun.elapsed() >= Duration::from_millis(20));
            assert_eq!(agents.wanted(), 0);
            agents.want(2, never());
            agents.leave(LeftTo::Next, Some(never()));
            agents.leave(LeftTo::Next, None);
            assert_eq!(agents.wanted(), 2);
            let come = until(Instant::now() + Duration::from_millis(20), agents.come());
            assert!(come.await.is_none());
            agents.leave(LeftTo::Before, None);
            agents.come().await;
        })
        .unwrap();
    }
}
