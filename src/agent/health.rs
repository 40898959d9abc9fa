//! What the operator is told about the connector: a line and the service manager's status for each
//! change of its state, and for limits that were reached.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use log::Level;

use super::beats::Shown;
use super::lost::{Lost, Silences};
use super::options::{Options, Work};
use super::reached::Limit;
use crate::limits;
use crate::logging::Utc;
use crate::net::dial::Address;
use crate::os::Notifier;
use crate::text::counted;
use crate::wire::greeting::Version;

/// The state of the connector, as far as this side knows it.
pub(super) struct Health {
    /// The tunnel's name, where there may be others; else empty.
    name: String,
    address: Address,
    state: RefCell<State>,
    /// Since when.
    since: Cell<Utc>,
    /// The state in a word before the first try.
    at_first: &'static str,
    /// The version of the last tunnel that was authorized.
    version: Cell<Option<Version>>,
    /// What went wrong last, and when.
    fault: RefCell<Option<Fault>>,
    /// The state in words.
    said: RefCell<String>,
    /// What is wrong with tunnels that the connector accepts.
    doubt: RefCell<Option<String>>,
    /// What ended tunnels that were silent.
    silences: RefCell<Silences>,
    /// Tunnels lost before they had shown that they work, since one last did.
    unproven: Cell<u32>,
    /// Idle tunnels that should be ready.
    wanted: usize,
    /// What can be done where the mapping allows fewer tunnels than are wanted, and the smallest
    /// number for which that was said.
    too_few: (String, Cell<usize>),
    /// What this side itself allows, by [`Bound`].
    limits: [Limit; 2],
    /// Where this is the only tunnel.
    notifier: Option<Rc<Notifier>>,
}

/// What was last said about the connector.
#[derive(PartialEq, Eq)]
enum State {
    Unknown,
    Open,
    /// It accepts the passcode, and then misbehaves.
    Unsteady(String),
    Unreachable(String),
    /// It does not accept the passcode; `true` if it once did.
    Refused(bool),
}

/// What a fault is about, whose recovery alone ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// The connector, until it accepts tunnels and keeps them.
    Connector,
    /// The service, until it is reached.
    Target,
    /// The local port, until it is open and takes connections.
    Port,
    /// The tunnel's file, until it can be read as a whole.
    File,
    /// Certificates and passcode, until they can be read again.
    Proof,
    /// Local connections that are served by nobody, until one is.
    Waiting,
    /// What the options ask for, a limit, or an event: nothing tells that it is over.
    Standing,
}

/// What went wrong.
#[derive(Clone)]
pub(super) struct Fault {
    about: About,
    pub(super) what: String,
    pub(super) at: Utc,
    /// Since when it is over.
    pub(super) over: Option<Utc>,
}

/// The options that set a limit.
#[derive(Clone, Copy)]
pub(super) enum Bound {
    /// Sessions at one time (`--sessions`).
    Sessions,
    /// Local connections that wait for a session (`--pending`).
    Pending,
}

impl Health {
    /// For a connector that has not been tried yet.
    pub(super) fn new(name: &str, options: &Options, notifier: Option<Rc<Notifier>>) -> Self {
        let (waits, pending, at_first) = match options.work {
            Work::Serve { .. } => ("users wait at the connector", 0, "connecting"),
            // It connects once there is somebody to serve.
            Work::Listen { pending, .. } => ("local connections wait", pending, "listening"),
        };
        let limits = [
            Limit::new(
                "--sessions",
                options.sessions,
                format!(
                    "{waits} until a session ends; to avoid that, raise it, and the limit of \
                     open files by two for each"
                ),
            ),
            Limit::new(
                "--pending",
                pending,
                "further local connections wait until the pipe's other side takes more; see \
                 whether it is there, or raise the limit"
                    .into(),
            ),
        ];
        let (wanted, too_few) = match options.work {
            Work::Serve { connections, .. } => (
                connections,
                format!(
                    "fewer than --connections {connections} asks for; users wait while \
                     all are in use. Name a smaller number here, or add a mapping that allows more \
                     (`iofog-connector mapping add public --connections N`)"
                ),
            ),
            Work::Listen { .. } => (
                1,
                "further local connections wait; add a mapping that allows more \
                 (`iofog-connector mapping add private --connections N`)"
                    .into(),
            ),
        };
        Health {
            name: name.into(),
            address: options.connector.clone(),
            state: RefCell::new(State::Unknown),
            since: Cell::new(Utc::now()),
            at_first,
            version: Cell::new(None),
            fault: RefCell::default(),
            said: RefCell::new("connecting".into()),
            doubt: RefCell::new(None),
            silences: RefCell::default(),
            unproven: Cell::new(0),
            wanted,
            too_few: (too_few, Cell::new(usize::MAX)),
            limits,
            notifier,
        }
    }

    /// The tunnel's name, where there may be others; else empty.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What lines of the log about this tunnel begin with.
    pub(super) fn head(&self) -> String {
        match &*self.name {
            "" => String::new(),
            name => format!("{name}: "),
        }
    }

    /// Something went wrong.
    pub(super) fn wrong(&self, about: About, what: &str) {
        self.fault.replace(Some(Fault { about, what: what.into(), at: Utc::now(), over: None }));
    }

    /// What went wrong last is over, if it was about this.
    pub(super) fn over(&self, about: About) {
        if let Some(fault) = self.fault.borrow_mut().as_mut().filter(|it| it.about == about) {
            fault.over.get_or_insert_with(Utc::now);
        }
    }

    /// What went wrong last.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault.borrow().clone()
    }

    /// The version that the connector speaks with this side, once it is known.
    pub(super) fn version(&self) -> Option<u8> {
        Some(match self.version.get()? {
            Version::One => 1,
            Version::Two => 2,
            Version::Three => 3,
        })
    }

    /// The connector's state in a word, and since when.
    pub(super) fn state(&self) -> (&'static str, Utc) {
        let word = match *self.state.borrow() {
            State::Unknown => self.at_first,
            State::Open => "connected",
            State::Unsteady(_) => "unsteady",
            State::Unreachable(_) => "unreachable",
            State::Refused(_) => "refused",
        };
        (word, self.since.get())
    }

    /// A tunnel of this version was authorized.
    pub(super) fn opened(&self, version: Version) {
        self.version.set(Some(version));
        let doubt = self.doubt.borrow().clone();
        self.tell(doubt.map_or(State::Open, State::Unsteady));
    }

    /// A try failed; `why` is a sentence about what is in the way.
    pub(super) fn unreachable(&self, why: String) {
        self.tell(State::Unreachable(why));
    }

    /// The connector does not accept the passcode, which it `once` did.
    pub(super) fn refused(&self, once: bool) {
        self.tell(State::Refused(once));
    }

    /// A tunnel ended before it had shown that it works. `counts` is false for one that was lost
    /// together with others.
    pub(super) fn lost_unproven(&self, why: Lost, counts: bool) {
        // Those that are lost together are silent for about the same time, whatever the reason.
        let why = if counts { self.silences.borrow_mut().judge(why) } else { why };
        self.unproven.set(self.unproven.get().saturating_add(u32::from(counts)));
        // A connector that is about to stop closes what it has just accepted, once.
        if !why.is_ending() || self.unproven.get() > 1 {
            self.doubt.replace(Some(why.to_string()));
            self.tell(State::Unsteady(why.to_string()));
        }
    }

    /// A heartbeat was answered, and the connector has shown this.
    pub(super) fn shown(&self, shown: Shown) {
        if shown.survived {
            self.silences.borrow_mut().survive();
        }
        if shown.proven {
            self.steady();
        }
    }

    /// A tunnel has shown that the connector does what it should.
    pub(super) fn steady(&self) {
        self.unproven.set(0);
        if self.doubt.take().is_some() {
            self.tell(State::Open);
        }
    }

    /// Why no tunnel can be opened.
    pub(super) fn in_the_way(&self) -> String {
        match *self.state.borrow() {
            State::Open => "all tunnels that the mapping allows are in use".into(),
            _ => self.said.borrow().clone(),
        }
    }

    /// Whether no tunnel has shown yet that the connector works again.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubt.borrow().is_some()
    }

    /// Says how many tunnels the mapping allows: once, and again when they become fewer.
    pub(super) fn tell_allowed(&self, allowed: usize) {
        let (remedy, said) = &self.too_few;
        if allowed < said.get() {
            said.set(allowed);
            let level = if allowed < self.wanted { Level::Warn } else { Level::Info };
            say!(
                self,
                level,
                About::Standing,
                "connector {} has places for {} of this agent, those in use included (others may hold \
                 the rest): {remedy}",
                self.address,
                counted(allowed as u64, "tunnel")
            );
        }
    }

    /// Logs one line for each change of state, and none for each try.
    fn tell(&self, state: State) {
        if *self.state.borrow() == state {
            return;
        }
        let address = &self.address;
        let what = match &state {
            State::Unknown => String::new(),
            State::Open => format!("connected to {address}"),
            State::Unsteady(why) => format!(
                "connector {address} accepts the passcode, but {why} (tried again until it keeps \
                 a tunnel)"
            ),
            State::Unreachable(why) => {
                format!("connector {address}: {why} (tried again until it answers)")
            }
            State::Refused(true) => format!(
                "connector {address} no longer accepts the passcode: was the mapping removed, has \
                 `mapping passcode` made a new one, or are all its tunnels open elsewhere? Retrying"
            ),
            State::Refused(false) => format!(
                "connector {address} does not accept the passcode: it is wrong, or not the one of \
                 this port (port1, not the users' port2?), or `mapping passcode` has made a new one, \
                 or all the mapping's tunnels are open \
                 elsewhere. Retrying every {} s",
                limits::REFUSED_AGAIN.as_secs()
            ),
        };
        let level = match &state {
            State::Open | State::Unknown => Level::Info,
            State::Unreachable(_) | State::Unsteady(_) => Level::Warn,
            State::Refused(_) => Level::Error,
        };
        say!(self, level, About::Connector, "{what}");
        if state == State::Open {
            self.over(About::Connector);
        }
        self.said.replace(what);
        self.show();
        self.state.replace(state);
        self.since.set(Utc::now());
    }

    /// The last place that an option allows was taken.
    pub(super) fn reached(&self, bound: Bound) {
        self.limits[bound as usize].reach();
        self.tell_limits();
    }

    /// Says which limits were reached, if that is new.
    pub(super) fn tell_limits(&self) {
        let now = Instant::now();
        for news in self.limits.iter().filter_map(|limit| limit.news(now)) {
            say!(self, Level::Warn, About::Standing, "{news}");
            self.show();
        }
    }

    /// Tells the service manager the state, and which limits were reached.
    fn show(&self) {
        let Some(notifier) = &self.notifier else { return };
        let reached = self.limits.iter().filter_map(Limit::state);
        let parts: Vec<_> = [self.said.borrow().clone()].into_iter().chain(reached).collect();
        notifier.status(&parts.join("; "));
    }
}
