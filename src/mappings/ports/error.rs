//! Why a port cannot be opened, in an operator's words.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::config;
use crate::text::reason;

/// Why a port could not be leased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortError {
    /// Every port of the pool is leased, or there are none.
    Exhausted,
    /// One is free, where a pipe takes two.
    OneLeft,
    /// Listening takes a file, and no file is left for it.
    NoFiles {
        /// Files in use.
        used: usize,
        /// Files that may be open.
        limit: usize,
        /// How many of those may be ports.
        ports: usize,
    },
    /// No free port could be opened: how many were tried, and why not the last one.
    NoneOpened {
        /// Ports tried.
        tried: usize,
        /// The last one.
        port: u16,
        /// What opening it met.
        error: Errno,
    },
    /// The port of a stored mapping is not in the pool.
    OutsidePool(u16),
    /// The port of a stored mapping is leased to another mapping.
    Leased(u16),
    /// The port of a stored mapping is in use by another program.
    Taken(u16),
    /// The port cannot be opened for another reason.
    Failed {
        /// The port.
        port: u16,
        /// What opening it met.
        error: Errno,
    },
}

/// Part of a sentence, to stand behind a colon.
impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortError::Exhausted => {
                f.write_str("every port of the pool is in use by a mapping; add to \"ports\"")
            }
            PortError::OneLeft => {
                f.write_str("one port of the pool is free, and a pipe takes two; add to \"ports\"")
            }
            PortError::NoFiles { used, limit, ports } => write!(
                f,
                "no file is left for a port: {used} of {limit} files are in use, of which at most \
                 {ports} may be ports; raise the limit (LimitNOFILE)"
            ),
            PortError::NoneOpened { tried, port, error } => write!(
                f,
                "none of the {tried} free ports tried could be opened; the last was {port}: {}",
                why(*error)
            ),
            PortError::OutsidePool(port) => write!(
                f,
                "port {port} is not in the pool; in {}, add it to \"ports\" or take it out of \"exclude\"",
                config::FILE
            ),
            PortError::Leased(port) => write!(f, "port {port} belongs to another mapping"),
            PortError::Taken(port) => {
                write!(f, "port {port} is in use by another program (ss -tanp shows which)")
            }
            PortError::Failed { port, error } => {
                write!(f, "port {port} cannot be opened: {}", why(*error))
            }
        }
    }
}

impl std::error::Error for PortError {}

/// What opening a port met, and what to do.
fn why(error: Errno) -> String {
    match error {
        Errno::ADDRINUSE => "another program uses it".to_owned(),
        Errno::ACCESS | Errno::PERM => {
            "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE".to_owned()
        }
        Errno::ADDRNOTAVAIL => "this machine does not have the address of \"listen\"".to_owned(),
        Errno::AFNOSUPPORT => {
            "this machine does not speak the address family of \"listen\"".to_owned()
        }
        Errno::MFILE | Errno::NFILE => {
            "too many files are open; raise the limit (LimitNOFILE=)".to_owned()
        }
        other => reason::words(&other.into()),
    }
}

/// Why the API's address cannot be opened, and what to do; the words for pipes' ports speak of
/// `listen`.
pub fn api_fault(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::ADDRINUSE) => "another program uses the port (ss -tanp shows which); stop that \
             one, or set `api` to another port"
            .to_owned(),
        Some(Errno::ACCESS | Errno::PERM) => "this user may not; a port below 1024 takes the right \
             CAP_NET_BIND_SERVICE, as the service's unit gives it, or set `api` to a port from 1024 on"
            .to_owned(),
        Some(Errno::ADDRNOTAVAIL) => {
            "this machine does not have that address; correct `api` (ip addr shows what it has)"
                .to_owned()
        }
        Some(Errno::AFNOSUPPORT) => "this machine does not speak that address family; correct `api`"
            .to_owned(),
        Some(other) => why(other),
        None => error.to_string(),
    }
}
