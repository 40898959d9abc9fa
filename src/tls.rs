//! TLS: from PEM files to the settings that the listeners accept with (protocol page, section 1).
//!
//! Owns the certificate, the key, the choice of ciphers, and the sentences for what can be wrong
//! with them. It knows nothing of sockets. Here are the settings in force; `identity` reads or makes
//! the certificate and its key, `client` decides whom the command `tunnel` trusts, `handshake` agrees on
//! keys, and `records` opens and seals with them.

use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use futures_rustls::rustls::{RootCertStore, ServerConfig};
use rustix::fs::{Access, access};

use crate::logging::{ALWAYS, Utc};
use identity::{Dates, controllers, there};

pub use client::{MAYBE_DEV, Pin, SYSTEM, Trusted, client_config, explain_connector, is_distrust};
pub use fault::TlsError;
pub use identity::Identity;
pub use pem::{CERTIFICATE, KEY};
pub use words::explain_handshake;

mod client;
pub mod der;
mod fault;
pub mod handshake;
mod identity;
mod make;
mod pem;
mod provider;
pub mod records;
pub mod sni;
mod tickets;
mod words;

/// The settings of all listeners, made from one reading of the files.
#[derive(Debug)]
pub struct Configs {
    /// Agents' tunnels.
    pub tunnel: Served,
    /// Users of public pipes.
    pub user: Arc<ServerConfig>,
    /// The control API.
    pub api: Arc<ServerConfig>,
    /// Who signs its callers' certificates.
    authorities: Option<Arc<RootCertStore>>,
    /// Changes with the authorities: a connection that began with another number may belong to a
    /// caller whom these would not accept.
    pub callers: u64,
    dates: Dates,
    /// The certificate's.
    fingerprint: String,
    /// How these dates stand, as far as the log has been told.
    told: AtomicU8,
}

/// With which settings a client is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// Those for everybody.
    pub everybody: Arc<ServerConfig>,
    /// Those for clients that offer the protocol in them (ALPN).
    pub named: Option<Arc<ServerConfig>>,
}

impl From<Arc<ServerConfig>> for Served {
    fn from(everybody: Arc<ServerConfig>) -> Self {
        Served { everybody, named: None }
    }
}

/// The TLS settings in force. A reload replaces them for new connections. Shared by threads.
#[derive(Debug)]
pub struct Tls(RwLock<Arc<Configs>>);

impl Tls {
    /// Reads the files in `dir`, or makes them at a first start; logs the certificate's fingerprint
    /// and warnings about it.
    pub fn start(dir: &Path, address: &str, ca: Option<&Path>) -> Result<Self, TlsError> {
        let identity = Identity::load_or_make(dir, address)?;
        Ok(Tls(RwLock::new(Arc::new(Configs::new(&identity, ca)?))))
    }

    /// Reads the files again. After an error, the old settings stay in force.
    pub fn reload(&self, dir: &Path, address: &str, ca: Option<&Path>) -> Result<(), TlsError> {
        let mut configs = Configs::new(&Identity::load(dir, address)?, ca)?;
        let old = self.current();
        let anchors = |configs: &Configs| configs.authorities.clone().map(|all| all.roots.clone());
        let limited = ca.is_some() && anchors(&configs) != anchors(&old);
        configs.callers = old.callers + u64::from(limited);
        let configs = Arc::new(configs);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = configs;
        Ok(())
    }

    /// What is wrong now with the dates of the certificate in force.
    pub fn outdated(&self) -> Option<String> {
        self.current().dates.doubt(Utc::now())
    }

    /// Logs once that the certificate in force will expire soon, that it has expired or is not valid yet; gives
    /// what it has logged.
    pub fn tell_outdated(&self) -> Option<String> {
        let configs = self.current();
        let now = Utc::now();
        let standing = configs.dates.stand(now) as u8;
        if configs.told.swap(standing, Ordering::Relaxed) == standing {
            return None;
        }
        configs.dates.tell(now)
    }

    /// The settings in force now, for the next connection.
    pub fn current(&self) -> Arc<Configs> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Configs {
    /// For users who are offered these protocols. What is common to all is shared; the rest is some hundred
    /// bytes, for the time of a handshake.
    pub fn user_offered(&self, protocols: &[Box<str>]) -> Arc<ServerConfig> {
        if protocols.is_empty() {
            return self.user.clone();
        }
        let mut config = ServerConfig::clone(&self.user);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    fn new(identity: &Identity, ca: Option<&Path>) -> Result<Self, TlsError> {
        let authorities = ca.map(controllers).transpose()?;
        let configs = Configs {
            tunnel: Served {
                everybody: identity.tunnel_config()?,
                named: Some(identity.tunnel_again_config()?),
            },
            user: identity.user_config()?,
            api: identity.api_config(ca.zip(authorities.clone()))?,
            authorities,
            callers: 0,
            told: (identity.dates.stand(Utc::now()) as u8).into(),
            dates: identity.dates.clone(),
            fingerprint: identity.fingerprint.clone(),
        };
        let made = if identity.made { "made self-signed certificate" } else { "certificate" };
        log::info!(target: ALWAYS, "{made}, SHA-256 fingerprint {}", identity.fingerprint);
        configs.dates.tell(Utc::now());
        for warning in &identity.warnings {
            log::warn!(target: ALWAYS, "{warning}");
        }
        Ok(configs)
    }

    /// When the certificate ends, in milliseconds since the epoch.
    pub fn ends(&self) -> Option<u64> {
        self.dates.validity.map(|[_, until]| until.0 * 1000)
    }

    /// The certificate as the option `--pin` of `tunnel` names it.
    pub fn pin(&self) -> String {
        format!("SHA256:{}", self.fingerprint)
    }
}

/// Examines the TLS files for the `check` command: warnings, or all errors. It changes nothing:
/// where both files are missing, it says that a start makes them.
pub fn check(dir: &Path, address: &str, ca: Option<&Path>) -> Result<Vec<String>, Vec<TlsError>> {
    let mut warnings = Vec::new();
    let mut errors = Vec::new();
    match [CERTIFICATE, KEY].map(|name| there(&dir.join(name))) {
        [Ok(false), Ok(false)] => match access(dir, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => warnings.push(format!(
                "{}: neither {CERTIFICATE} nor {KEY} is there; `start` makes a self-signed pair",
                dir.display()
            )),
            Err(error) => errors.push(TlsError::unwritten(&dir.join(KEY))(error.into())),
        },
        [Err(certificate), Err(key)] => errors.extend([certificate, key]),
        _ => match Identity::load(dir, address) {
            Ok(identity) => {
                warnings.extend(identity.dates.doubt(Utc::now()));
                warnings.extend(identity.warnings);
            }
            Err(error) => errors.push(error),
        },
    }
    if let Some(Err(error)) = ca.map(controllers) {
        errors.push(error);
    }
    if errors.is_empty() { Ok(warnings) } else { Err(errors) }
}

#[cfg(test)]
mod tests;
