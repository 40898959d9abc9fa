//! How both sides prove who they are: this side by its passcode, the connector by certificates that
//! are trusted here.

use std::sync::Arc;
use std::time::Instant;

use futures_rustls::pki_types::ServerName;
use futures_rustls::rustls::ClientConfig;

use super::options::{Options, Source};
use super::shared::Shared;
use crate::limits;
use crate::mappings::mapping::Passcode;
use crate::text::line::shown;
use crate::text::reason;
use crate::tls::{TlsError, Trusted};

/// The passcode and the trusted certificates, as they were last read.
pub(super) struct Proof {
    pub(super) passcode: Passcode,
    /// `None` in plain TCP.
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    source: Source,
    trusted: Trusted,
    read_at: Instant,
    /// What may be old.
    suspect: Option<Suspect>,
}

/// What an old file would explain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Suspect {
    /// The passcode was refused.
    Passcode,
    /// The connector's certificate was.
    Certificates,
}

impl Proof {
    /// From the files that `options` name.
    ///
    /// # Errors
    /// A sentence about the certificates to trust, or the connector's name.
    pub(super) fn new(options: &Options, shared: &Shared) -> Result<Self, String> {
        let host = &options.connector.host;
        let tls = if options.plain {
            None
        } else {
            let trusted = &options.trusted;
            let config = shared
                .trusting(trusted, options.wait)
                .map_err(|fault| distrust(trusted, &fault))?;
            let name = ServerName::try_from(host.clone())
                .map_err(|_| format!("--connector: {} is not a host name", shown(host)))?;
            Some((config, name))
        };
        Ok(Proof {
            passcode: options.passcode.clone(),
            tls,
            source: options.source.clone(),
            trusted: options.trusted.clone(),
            read_at: Instant::now(),
            suspect: None,
        })
    }

    /// Whether exactly one certificate, or a few, are trusted.
    pub(super) fn is_pinned(&self) -> bool {
        matches!(self.trusted, Trusted::Pins(_))
    }

    /// A try has failed in a way that an old passcode or old certificates would explain.
    pub(super) fn suspect(&mut self, what: Suspect) {
        self.suspect = self.suspect.max(Some(what));
    }

    /// Reads the files again if they may be why tries fail, each [`limits::READ_AGAIN`] at most.
    /// Gives what cannot be read.
    pub(super) fn refresh(&mut self, shared: &Shared) -> Vec<String> {
        match self.suspect {
            Some(what) if self.read_at.elapsed() >= limits::READ_AGAIN => self.read(what, shared),
            _ => Vec::new(),
        }
    }

    /// Reads certificates and passcode again; what cannot be read stays as it was, and is told in a
    /// sentence each.
    pub(super) fn read_again(&mut self, shared: &Shared) -> Vec<String> {
        self.read(Suspect::Certificates, shared)
    }

    fn read(&mut self, what: Suspect, shared: &Shared) -> Vec<String> {
        self.read_at = Instant::now();
        self.suspect = None;
        let mut faults = Vec::new();
        // Those that are read anew begin without tickets: not where the passcode alone may be old.
        let tls = self.tls.as_mut().filter(|_| what == Suspect::Certificates);
        if let Some((config, _)) = tls {
            match shared.trusting(&self.trusted, None) {
                Ok(read) => *config = read,
                Err(fault) => {
                    let fault = distrust(&self.trusted, &fault);
                    faults.push(format!("{fault}; the certificates read before stay in force"));
                }
            }
        }
        match self.source.read_again() {
            Ok(Some(passcode)) => self.passcode = passcode,
            Ok(None) => {}
            Err(fault) => {
                faults.push(format!("{fault}; the passcode read before stays in force"));
            }
        }
        faults
    }
}

/// Why the certificates to trust cannot be read, with the option that names them, if there is one.
fn distrust(trusted: &Trusted, fault: &TlsError) -> String {
    match trusted {
        Trusted::File(_) if matches!(fault, TlsError::File { error, .. } if reason::is_missing(error)) =>
        {
            format!("--ca {fault}; is its path right?")
        }
        Trusted::File(_) => format!("--ca {fault}"),
        Trusted::System | Trusted::Pins(_) => fault.to_string(),
    }
}
