//! What happens on one mapping: it is counted and logged, and the last fault is kept.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::Level;
use serde_json::{Map, Value};

use crate::limits;
use crate::logging::{ALWAYS, Gate};
use crate::mappings::mapping::{Id, Mapping};
use crate::net::stream::is_too_many;
use crate::pipes::shared::Shared;
use crate::report::status::reached::LimitsReached;
use crate::report::status::refused::{self, Refusal, Refusals};
use crate::report::status::times;
use crate::report::status::{Counts, MappingStatus, SideStatus, timestamp};
use crate::text::event::Event;
use crate::tls;

/// What has happened on one mapping since the daemon started.
pub struct Record {
    shared: Rc<Shared>,
    id: Id,
    /// What the log calls it.
    name: RefCell<Rc<str>>,
    ports: [u16; 2],
    public: bool,
    counts: Cell<Counts>,
    /// Sessions that were counted, and whose tunnel was dead and user has waited on.
    in_vain: Cell<u64>,
    last: RefCell<LastFault>,
    refusals: RefCell<Refusals>,
    limits_reached: RefCell<LimitsReached>,
    /// When the log was last told of an old answer.
    residue_told: Gate,
}

/// What a fault is about: when that has gone right again, the fault is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The port of this side: it opens.
    Port(usize),
    /// New connections there: they are accepted.
    Accepting(usize),
    /// Users: one is served.
    Users,
    /// The agents of this side: one is let in.
    Agents(usize),
    /// A newcomer that is none of them as far as is known: one is let in, or has a tunnel there all the time.
    Newcomer(usize),
    /// Something that happens once, and is never over.
    Event,
}

impl About {
    fn side(self) -> Option<usize> {
        match self {
            About::Port(side)
            | About::Accepting(side)
            | About::Agents(side)
            | About::Newcomer(side) => Some(side),
            About::Users | About::Event => None,
        }
    }
}

/// What a line of the log is about.
struct Line {
    event: Option<Event>,
    side: Option<usize>,
    peer: Option<IpAddr>,
}

/// What has gone wrong last.
#[derive(Default)]
struct LastFault(Option<Fault>);

struct Fault {
    what: String,
    /// In milliseconds since the epoch.
    at: u64,
    about: About,
    /// It has gone right since.
    over: bool,
}

impl LastFault {
    fn set(&mut self, about: About, what: String) {
        self.0 = Some(Fault { what, at: timestamp(), about, over: false });
    }

    fn resolve(&mut self, about: About) {
        let is_it = |fault: &&mut Fault| match (fault.about, about) {
            (About::Newcomer(side), About::Agents(other)) => side == other,
            (one, other) => one == other,
        };
        if let Some(fault) = self.0.as_mut().filter(is_it) {
            fault.over = true;
        }
    }

    /// Whether it is over, where `has_tunnel` says which sides have one: strangers knock at every open port.
    fn is_over(&self, has_tunnel: [bool; 2]) -> bool {
        self.0.as_ref().is_some_and(|fault| match fault.about {
            About::Newcomer(side) => fault.over || has_tunnel[side],
            _ => fault.over,
        })
    }
}

impl Record {
    /// Nothing has happened yet on this mapping, whose port2 takes users if it is `public`.
    pub fn new(shared: Rc<Shared>, mapping: &Mapping, ports: [u16; 2], public: bool) -> Self {
        Record {
            shared,
            name: RefCell::new(name_of(mapping)),
            id: mapping.id.clone(),
            ports,
            public,
            counts: Cell::default(),
            in_vain: Cell::default(),
            last: RefCell::default(),
            refusals: RefCell::default(),
            limits_reached: RefCell::default(),
            residue_told: Gate::new(limits::RESIDUE_TOLD),
        }
    }

    /// The mapping's id.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// What the log calls it: its name, or its id.
    pub fn name(&self) -> Rc<str> {
        self.name.borrow().clone()
    }

    /// The log calls it by this mapping's name from now on.
    pub fn set_name(&self, mapping: &Mapping) {
        self.name.replace(name_of(mapping));
    }

    /// Changes what is counted.
    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// A session begins, a user's if port2 is theirs, which has waited since then. It is counted, unless one was
    /// counted that was none.
    pub fn session_begins(&self, waited_since: Option<Instant>) {
        let in_vain = self.in_vain.get();
        self.in_vain.set(in_vain.saturating_sub(1));
        if let Some(since) = waited_since.filter(|_| in_vain == 0) {
            self.shared.times.borrow_mut().waits.count(&times::WAITS, since.elapsed());
        }
        self.count(|counts| {
            counts.sessions += 1;
            counts.sessions_total += u64::from(in_vain == 0);
            counts.users_served += u64::from(in_vain == 0 && self.public);
        });
    }

    /// A session that was counted was none: the next one is not counted in its place, since what is counted in all
    /// never falls, which those who read it would take for a restart.
    pub fn session_was_none(&self) {
        self.in_vain.set(self.in_vain.get() + 1);
    }

    /// A session is over, after this time.
    pub fn session_lasted(&self, time: Duration) {
        self.shared.times.borrow_mut().sessions.count(&times::SESSIONS, time);
    }

    /// What is counted here.
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// A limit was reached.
    pub fn reached(&self, limit: &'static str) {
        let begins = self.limits_reached.borrow_mut().reached(limit);
        let what = format!("limit reached: {limit}");
        if begins {
            self.happened(Event::LimitReached, limit, None, &what);
        } else {
            self.event(Event::LimitReached, limit, &what);
        }
    }

    /// Limits that are over, and are not `still` reached, are told as events.
    pub fn tell_limits_over(&self, still: impl Fn(&str) -> bool) {
        let over = self.limits_reached.borrow_mut().over(still);
        for limit in over {
            let what = format!("limit reached no longer: {limit}");
            self.happened(Event::LimitOver, limit, None, &what);
        }
    }

    /// This has happened here; `kind` tells it from others of its word.
    pub fn event(&self, event: Event, kind: &'static str, what: &str) {
        self.shared.events.tell(event, Some((&self.id, &self.name())), kind, what);
    }

    /// This has happened here, as the log is told, too, on the port of a side and because of a peer if so.
    pub fn happened(
        &self,
        event: Event,
        kind: &'static str,
        place: Option<(usize, Option<IpAddr>)>,
        what: &str,
    ) {
        let (side, peer) = place.map_or((None, None), |(side, peer)| (Some(side), peer));
        let about = Line { event: Some(event), side, peer };
        let target = format!("{} {} {kind}", self.id, event.word());
        self.log(Level::Info, &target, about, format_args!("{what}"));
        self.event(event, kind, what);
    }

    /// A line of the log. Each caller is a kind of its own for the log's bounds, and so is each target.
    #[track_caller]
    fn log(&self, level: Level, target: &str, about: Line, what: fmt::Arguments<'_>) {
        if level > log::max_level() {
            return;
        }
        let name = self.name();
        log::log!(
            target: target, level,
            event = about.event.map(Event::word),
            mapping = &*self.id,
            name = (*name != *self.id).then_some(&*name),
            port = about.side.map(|side| self.ports[side]),
            peer = about.peer.map(|peer| peer.to_string()).as_deref();
            "{name}: {what}"
        );
    }

    /// A user or an agent on the port of `side` is refused: counted by kind, and reported with the
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
        let closed = Event::ConnectionClosed;
        self.connection(closed, side, peer, format_args!("{who} {peer} closed: {kind}{more}"));
        if remedy.is_empty() {
            return;
        }
        let about = if is_user { About::Users } else { About::Newcomer(side) };
        let port = self.ports[side];
        let what = format!("{who} {} refused on port {port}: {kind}{more}; {remedy}", peer.ip());
        // Each kind has lines of its own. `connectionlog`'s lines have no remedies.
        let event = if is_user { Event::UserRefused } else { Event::AgentRefused };
        let line = Line { event: Some(event), side: Some(side), peer: Some(peer.ip()) };
        let target = format!("{} {kind}", self.id);
        self.log(Level::Warn, &target, line, format_args!("{what}"));
        self.event(event, kind, &what);
        self.last.borrow_mut().set(about, what);
    }

    /// A TLS handshake failed. A peer that connected and sent nothing, as health checks do, is neither
    /// counted nor reported.
    pub fn handshake_failed(
        &self,
        side: usize,
        peer: SocketAddr,
        error: &io::Error,
        has_spoken: bool,
    ) {
        let more = format!(": {}", tls::explain_handshake(error));
        if !has_spoken {
            return self.connection(
                Event::ConnectionClosed,
                side,
                peer,
                format_args!("{peer} connected and said nothing{more}"),
            );
        }
        let why = match (self.takes_users(side), is_too_many(error)) {
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
        let is_user = self.takes_users(side);
        self.refused(if is_user { &refused::USER_LATE } else { &refused::NO_PASSCODE }, side, peer);
    }

    fn takes_users(&self, side: usize) -> bool {
        side == 1 && self.public
    }

    /// A tunnel's heartbeat is absent.
    pub fn tunnel_absent(&self, side: usize, peer: SocketAddr) {
        self.count(|counts| counts.tunnels_absent += 1);
        let what = format!(
            "tunnel of {peer} closed: no heartbeat arrived in time; see that its machine is up, and its \
             --heartbeat shorter than the mapping's threshold"
        );
        self.fault(About::Agents(side), Some(peer), &what);
    }

    /// A line about one connection on the port of `side`, if `connectionlog` asks for such.
    pub fn connection(
        &self,
        event: Event,
        side: usize,
        peer: SocketAddr,
        what: fmt::Arguments<'_>,
    ) {
        let level = if self.logs_connections() { Level::Info } else { Level::Debug };
        let line = Line { event: Some(event), side: Some(side), peer: Some(peer.ip()) };
        self.log(level, ALWAYS, line, what);
    }

    /// A line about an agent's tunnel that nothing has to be done about.
    #[track_caller]
    pub fn tunnel(&self, side: usize, peer: SocketAddr, what: fmt::Arguments<'_>) {
        let line = Line { event: None, side: Some(side), peer: Some(peer.ip()) };
        self.log(Level::Info, &self.id, line, what);
    }

    fn logs_connections(&self) -> bool {
        self.shared.config.borrow().connection_log
    }

    /// Something an operator should know of this mapping. Each caller is a kind of its own for the
    /// log's bounds.
    #[track_caller]
    pub fn fault(&self, about: About, peer: Option<SocketAddr>, what: &str) {
        let event = matches!(about, About::Port(_)).then_some(Event::PortInactive);
        let line = Line { event, side: about.side(), peer: peer.map(|peer| peer.ip()) };
        self.log(Level::Warn, &self.id, line, format_args!("{what}"));
        self.last.borrow_mut().set(about, what.to_owned());
    }

    /// This has gone right: the last fault is over, if it was about it.
    pub fn resolved(&self, about: About) {
        self.last.borrow_mut().resolve(about);
    }

    /// Whether the log may be told of an old answer now: it is told rarely.
    pub fn may_tell_residue(&self) -> bool {
        self.residue_told.open()
    }

    /// The mapping as an operator is shown it, with the state of its ports.
    pub fn status(
        &self,
        sides: [SideStatus; 2],
        url: Option<String>,
        counts: Counts,
        options: Map<String, Value>,
    ) -> MappingStatus {
        let last = self.last.borrow();
        let fault = last.0.as_ref();
        let has_tunnel = sides.each_ref().map(|side| side.tunnels.is_some_and(|of| of.are_there()));
        let mut status = MappingStatus {
            state: "",
            id: self.id.clone(),
            options,
            sides,
            public: self.public,
            url,
            counts,
            last_error: fault.map(|fault| fault.what.clone()),
            last_error_at: fault.map(|fault| fault.at),
            last_error_over: last.is_over(has_tunnel),
            refusals: self.refusals.borrow().clone(),
            limits_reached: self.limits_reached.borrow().clone(),
        };
        status.state = status.state();
        status
    }
}

fn name_of(mapping: &Mapping) -> Rc<str> {
    mapping.name().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_over_once_what_it_is_about_goes_right_and_nothing_else() {
        let over = |last: &LastFault| last.0.as_ref().map(|fault| fault.over);
        let mut last = LastFault::default();
        last.resolve(About::Users);
        assert_eq!(over(&last), None, "nothing has gone wrong");
        for about in [About::Port(1), About::Accepting(0), About::Users, About::Agents(1)] {
            last.set(about, "it failed".into());
            for other in [About::Port(0), About::Accepting(1), About::Agents(0), About::Event] {
                last.resolve(other);
            }
            assert_eq!(over(&last), Some(false));
            last.resolve(about);
            assert_eq!(over(&last), Some(true));
        }
        last.set(About::Users, "it failed again".into());
        assert_eq!(over(&last), Some(false));
    }

    #[test]
    fn a_newcomer_s_fault_is_none_while_an_agent_has_a_tunnel_on_its_side() {
        let mut last = LastFault::default();
        last.set(About::Newcomer(1), "wrong passcode".into());
        let over = [[false, false], [true, false], [false, true]].map(|there| last.is_over(there));
        assert_eq!(over, [false, false, true]);
        last.resolve(About::Agents(0));
        assert!(!last.is_over([false, false]));
        last.resolve(About::Agents(1));
        assert!(last.is_over([false, false]), "it was an agent's, and that one was let in");
        last.set(About::Agents(1), "no heartbeat".into());
        assert!(!last.is_over([true, true]), "the others' tunnels do not mend this one");
    }
}
