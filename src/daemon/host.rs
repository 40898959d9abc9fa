//! What the API asks of the daemon.

use std::cell::{OnceCell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use smol::channel::Sender;

use super::dump::Dumps;
use super::errand::Errand;
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
    pub(super) upgrade: Rc<Errand>,
    pub(super) predecessor: Rc<OnceCell<Predecessor>>,
    /// Made once the API is there, of whose connections it tells, too.
    pub(super) dumps: Rc<OnceCell<Rc<Dumps>>>,
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
        self.upgrade.ask()
    }

    fn dump(&self) -> Option<Outcome> {
        self.dumps.get()?.begin()
    }

    fn predecessor(&self) -> Option<status::Predecessor> {
        self.predecessor.get()?.left()
    }

    fn api(&self) -> String {
        match *self.api_fault.borrow() {
            Some(_) => String::new(),
            None => self.shared.config.borrow().api.to_string(),
        }
    }

    fn removed(&self, id: &str) {
        if let Some(predecessor) = self.predecessor.get() {
            predecessor.tell(&format!("removed {id}"));
        }
    }
}
