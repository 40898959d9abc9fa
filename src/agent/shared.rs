//! What all tunnels of a process share.

use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_rustls::rustls::ClientConfig;
use smol::lock::Semaphore;

use crate::limits;
use crate::net::dial::{Address, Dialler};
use crate::os::Files;
use crate::tls::{self, TlsError, Trusted};

/// What all tunnels of a process share.
pub(super) struct Shared {
    /// The files that connections may take.
    pub(super) files: Arc<Files>,
    /// A place for each lookup of a name.
    lookups: Arc<Semaphore>,
    /// Lookups of one name at one time, and a place for each of them: one that is looked up in vain
    /// holds up no other, however many tunnels have it.
    lookups_each: usize,
    names: RefCell<Vec<(String, Weak<Semaphore>)>>,
    /// TLS settings that are in use, and when their files were read.
    settings: RefCell<Vec<(Trusted, Instant, Weak<ClientConfig>)>>,
}

impl Shared {
    /// For a process in which `lookups` names may be looked up at one time, `each` of them the
    /// same.
    pub(super) fn new(files: Arc<Files>, lookups: usize, each: usize) -> Self {
        let lookups = Arc::new(Semaphore::new(lookups));
        Shared {
            files,
            lookups,
            lookups_each: each,
            names: RefCell::default(),
            settings: RefCell::default(),
        }
    }

    /// Dials this address, with the places that all share.
    pub(super) fn dialler(&self, address: Address) -> Dialler {
        let mut names = self.names.borrow_mut();
        names.retain(|(_, places)| places.strong_count() > 0);
        let known = names.iter().find(|(name, _)| *name == address.host);
        let own = known.and_then(|(_, places)| places.upgrade()).unwrap_or_else(|| {
            let places = Arc::new(Semaphore::new(self.lookups_each));
            names.push((address.host.clone(), Arc::downgrade(&places)));
            places
        });
        Dialler::new(address, self.files.clone(), [own, self.lookups.clone()])
    }

    /// The TLS settings with which these are trusted: those of another tunnel, unless it has read the
    /// files too long ago. `wait` as in [`tls::client_config`].
    ///
    /// # Errors
    /// As [`tls::client_config`].
    pub(super) fn trusting(
        &self,
        trusted: &Trusted,
        wait: Option<Duration>,
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let mut settings = self.settings.borrow_mut();
        settings.retain(|(_, _, config)| config.strong_count() > 0);
        let known = settings
            .iter()
            .find(|(known, read_at, _)| known == trusted && read_at.elapsed() < limits::READ_AGAIN);
        if let Some(config) = known.and_then(|(_, _, config)| config.upgrade()) {
            return Ok(config);
        }
        let config = tls::client_config(trusted, wait)?;
        settings.push((trusted.clone(), Instant::now(), Arc::downgrade(&config)));
        Ok(config)
    }

    /// The files of all settings are read again, however soon.
    pub(super) fn forget_settings(&self) {
        self.settings.borrow_mut().clear();
    }
}
