//! What can be wrong with the TLS files, as sentences for the operator.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use futures_rustls::rustls::Error;

use crate::text::reason;

/// What is wrong with the TLS files.
#[derive(Debug)]
pub enum TlsError {
    /// A file cannot be read.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file that `controllerca` names cannot be read.
    Authorities {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file cannot be made.
    Unwritten {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file does not hold what it should.
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what would be right.
        fault: String,
    },
    /// One file of the pair is there, the other is not.
    Missing {
        /// The one that is missing.
        path: PathBuf,
        /// The one that is there.
        other: PathBuf,
    },
    /// The self-signed pair could not be made.
    Make(rcgen::Error),
    /// The TLS library refuses its settings.
    Settings(Error),
}

impl TlsError {
    /// Whether it may pass, as [`reason::may_pass`] says.
    pub fn may_pass(&self) -> bool {
        match self {
            TlsError::File { error, .. }
            | TlsError::Authorities { error, .. }
            | TlsError::Unwritten { error, .. } => reason::may_pass(error),
            _ => false,
        }
    }

    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |error| TlsError::File { path, error }
    }

    pub(super) fn unwritten(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |error| TlsError::Unwritten { path, error }
    }

    pub(super) fn content(path: &Path, fault: impl Into<String>) -> Self {
        TlsError::Content { path: path.to_owned(), fault: fault.into() }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::File { path, error } => {
                write!(f, "{}: {}", path.display(), reason::reading(path, error))
            }
            TlsError::Authorities { path, error } => write!(
                f,
                "{}: {}; `controllerca` of the settings (or IOFOG_CONTROLLERCA) names it",
                path.display(),
                reason::reading(path, error)
            ),
            TlsError::Unwritten { path, error } => {
                write!(f, "{} cannot be made: {}", path.display(), reason::writing(path, error))
            }
            TlsError::Content { path, fault } => write!(f, "{}: {fault}", path.display()),
            TlsError::Missing { path, other } => write!(
                f,
                "{} is missing, while {} is there; add it, or move the other away to have a \
                 self-signed pair made at the next start",
                path.display(),
                other.display()
            ),
            TlsError::Make(error) => write!(f, "a self-signed certificate cannot be made: {error}"),
            TlsError::Settings(error) => write!(f, "TLS cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}
