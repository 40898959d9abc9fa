//! The daemon's place on this machine: its folders, which no other daemon may use, and how another program takes it.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::config::folders::Options;
use crate::os::{Instance, Ownership, Spawner};

/// The daemon's place on this machine. Given up last; or once another daemon has taken it.
pub(super) struct Place<'a> {
    pub(super) options: &'a Options,
    /// The run folder.
    pub(super) instance: RefCell<Option<Instance>>,
    /// The configuration folder.
    pub(super) ownership: RefCell<Option<Ownership>>,
    /// What starts the program anew, or why there is nothing that does.
    pub(super) spawner: RefCell<Result<Arc<Spawner>, String>>,
}

impl Place<'_> {
    /// Says that this process is the one that runs here; `serving` is another's, if it is that one.
    pub(super) fn name(&self, serving: Option<u32>) {
        if let Some(instance) = &*self.instance.borrow() {
            match serving {
                None => instance.name_process(),
                Some(process) => instance.name(process),
            }
        }
    }

    /// The run folder's lock, for another process.
    ///
    /// # Errors
    /// No file is left.
    pub(super) fn lock(&self) -> io::Result<OwnedFd> {
        let instance = self.instance.borrow();
        instance.as_ref().map_or_else(|| Err(io::ErrorKind::NotFound.into()), Instance::lock)
    }

    /// Takes the configuration folder again; `false` if another process keeps it for this moment.
    pub(super) fn take_folder(&self) -> bool {
        let again = Ownership::take(&self.options.config_dir, &self.options.run_dir);
        again.map(|again| self.ownership.replace(again)).is_ok()
    }

    /// Another daemon has it, or keeps it: this one leaves it as it is. Whoever comes after the other one finds the
    /// folders free, and what this one has started is the init system's.
    pub(super) fn leave(&self) {
        if let Some(instance) = self.instance.take() {
            instance.passed_on();
        }
        let _ = self.spawner.replace(Err("another daemon has this one's place".into()));
    }
}
