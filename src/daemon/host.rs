//! What the API asks of the daemon.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use event_listener::Event;
use smol::channel::Sender;

use super::dump::Dumps;
use super::handover::Predecessor;
use crate::api::{Host, Outcome};
use crate::config::Network;
use crate::logging::Logging;
use crate::pipes::shared::Shared;
use crate::report::status;

/// What the API asks of the daemon.
pub(super) struct Daemon {
    pub(super) shared: Rc<Shared>,
    pub(super) logging: Logging,
    /// Why the API does not listen on TCP.
    pub(super) api_fault: Rc<RefCell<Option<String>>>,
    /// What the last reload did not put in force.
    pub(super) not_in_force: Rc<RefCell<Vec<String>>>,
    pub(super) stop: Sender<()>,
    pub(super) upgrade: Rc<Upgrade>,
    pub(super) predecessor: Rc<OnceCell<Predecessor>>,
    /// Made once the API is there, of whose connections it tells, too.
    pub(super) dumps: Rc<OnceCell<Rc<Dumps>>>,
}

/// The new programs that are asked for over the API.
pub(super) struct Upgrade {
    /// Whether one is asked for; none more is, until that has an outcome.
    pub(super) asked: Cell<bool>,
    /// What has come of the last one: who serves now, or why it is this process still.
    pub(super) outcome: RefCell<Option<Result<String, String>>>,
    /// One is asked for, or has an outcome.
    pub(super) changed: Event,
}

impl Upgrade {
    pub(super) fn new() -> Self {
        Upgrade { asked: Cell::default(), outcome: RefCell::default(), changed: Event::new() }
    }

    /// Returns when one is asked for.
    pub(super) async fn is_asked(&self) {
        loop {
            let changed = self.changed.listen();
            if self.asked.get() {
                return;
            }
            changed.await;
        }
    }

    /// This has come of it.
    pub(super) fn became(&self, outcome: Result<String, String>) {
        if self.asked.replace(false) {
            self.outcome.replace(Some(outcome));
            self.changed.notify(usize::MAX);
        }
    }
}

impl Host for Daemon {
    fn broker(&self) -> u16 {
        self.shared.config.borrow().broker
    }

    fn admits(&self, peer: IpAddr) -> bool {
        match &self.shared.config.borrow().controllers {
            None => true,
            Some(controllers) => Network::any_contains(controllers, peer),
        }
    }

    fn is_called(&self, name: &str) -> bool {
        let machine = rustix::system::uname();
        let own = [Ok("localhost"), machine.nodename().to_str()];
        own.into_iter().flatten().any(|own| own.eq_ignore_ascii_case(name))
            || self.shared.config.borrow().address.eq_ignore_ascii_case(name)
    }

    fn log_lost(&self) -> u64 {
        self.logging.lost()
    }

    fn warnings(&self) -> Vec<String> {
        let listen = self.shared.config.borrow().listen_warning();
        let log = self.logging.file_fault();
        let certificate = self.shared.tls.as_ref().and_then(|tls| tls.outdated());
        let fault = self.api_fault.borrow().clone();
        let reload = self.not_in_force.borrow().clone();
        fault.into_iter().chain(reload).chain(listen).chain(certificate).chain(log).collect()
    }

    fn stop(&self) {
        // Full means that it has been asked already.
        let _ = self.stop.try_send(());
    }

    fn upgrade(&self) -> Option<Outcome> {
        let upgrade = self.upgrade.clone();
        if upgrade.asked.replace(true) {
            return None;
        }
        upgrade.outcome.take();
        upgrade.changed.notify(usize::MAX);
        Some(Box::pin(async move {
            loop {
                let changed = upgrade.changed.listen();
                if let Some(outcome) = upgrade.outcome.take() {
                    return outcome;
                }
                changed.await;
            }
        }))
    }

    fn dump(&self) -> Option<Outcome> {
        let written = self.dumps.get()?.begin()?;
        let why = "the connector has ended meanwhile";
        Some(Box::pin(async move { written.recv().await.unwrap_or_else(|_| Err(why.into())) }))
    }

    fn predecessor(&self) -> Option<status::Predecessor> {
        self.predecessor.get()?.left()
    }

    fn removed(&self, id: &str) {
        if let Some(predecessor) = self.predecessor.get() {
            predecessor.tell(&format!("removed {id}"));
        }
    }
}
