//! What the operator is told about the connector: a line and the service manager's status for each
//! change of its state, and for limits that were reached.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use super::lost::{Lost, Silences};
use super::options::{Options, Work};
use super::reached::Limit;
use crate::limits;
use crate::net::dial::Address;
use crate::os::Notifier;
use crate::text::counted;

/// The state of the connector, as far as this side knows it.
pub(super) struct Health {
    address: Address,
    state: RefCell<State>,
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
    notifier: Notifier,
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
    pub(super) fn new(options: &Options) -> Self {
        let (waits, pending) = match options.work {
            Work::Serve { .. } => ("users wait at the connector", 0),
            Work::Listen { pending, .. } => ("local connections wait", pending),
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
            address: options.connector.clone(),
            state: RefCell::new(State::Unknown),
            said: RefCell::new("connecting".into()),
            doubt: RefCell::new(None),
            silences: RefCell::default(),
            unproven: Cell::new(0),
            wanted,
            too_few: (too_few, Cell::new(usize::MAX)),
            limits,
            notifier: Notifier::from_env(),
        }
    }

    /// The service manager that watches this process.
    pub(super) fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// A tunnel was authorized.
    pub(super) fn opened(&self) {
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

    /// A heartbeat was answered after a whole interval of silence.
    pub(super) fn survived_silence(&self) {
        self.silences.borrow_mut().survive();
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
            log::log!(
                if allowed < self.wanted { log::Level::Warn } else { log::Level::Info },
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
                "connector {address} no longer accepts the passcode: was the mapping removed, or \
                 are all its tunnels open elsewhere? Retrying"
            ),
            State::Refused(false) => format!(
                "connector {address} does not accept the passcode: it is wrong, or not the one of \
                 this port (port1, not the users' port2?), or all the mapping's tunnels are open \
                 elsewhere. Retrying every {} s",
                limits::REFUSED_AGAIN.as_secs()
            ),
        };
        match &state {
            State::Open | State::Unknown => log::info!("{what}"),
            State::Unreachable(_) | State::Unsteady(_) => log::warn!("{what}"),
            State::Refused(_) => log::error!("{what}"),
        }
        self.said.replace(what);
        self.show();
        self.state.replace(state);
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
            log::warn!("{news}");
            self.show();
        }
    }

    /// Tells the service manager the state, and which limits were reached.
    fn show(&self) {
        let reached = self.limits.iter().filter_map(Limit::state);
        let parts: Vec<_> = [self.said.borrow().clone()].into_iter().chain(reached).collect();
        self.notifier.status(&parts.join("; "));
    }
}
