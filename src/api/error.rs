//! Why a request was not done: the status code, the kind of refusal and the sentence.

use std::fmt;
use std::net::IpAddr;

use super::origin::Foreign;
use super::quoted::short;
use crate::http::Fault;
use crate::limits;
use crate::pipes::change::ChangeError;
use crate::report::status::refused::{self, Refusal};

/// Why a request was not done.
#[derive(Debug)]
pub enum ApiError {
    /// A parameter is missing or wrong: its name, and the rest of a sentence about it.
    Parameter {
        name: &'static str,
        fault: String,
    },
    /// What a parameter asks for is another's: its name, and the rest of a sentence about it.
    Taken {
        name: &'static str,
        fault: String,
    },
    NotAllowed(IpAddr),
    /// The connection began before the authorities changed.
    Outdated,
    Foreign(Foreign),
    StopFromAfar,
    UnknownPath(Box<str>),
    /// Nothing of the kind asked for has this id.
    Unknown(Box<str>),
    /// No direct connection has this id.
    NoDirect(Box<str>),
    /// No such direct connection, or a wrong passkey; the answer does not say which.
    UnknownDirect(Box<str>),
    Method {
        allow: &'static str,
    },
    ContentType(Box<str>),
    Http(Fault),
    Store(String),
    Stopping,
    /// Another daemon is about to take this one's place.
    Replacing,
    /// Why no other daemon has taken this one's place.
    NotReplaced(String),
    /// A new program may be asked for on the machine itself alone.
    UpgradeFromAfar,
    /// Why no dump was written.
    NoDump(String),
    /// A dump names who is connected.
    DumpFromAfar,
    Busy,
    NoPorts(String),
}

impl ApiError {
    /// Why a change to the mapping or direct connection `id` was not made.
    pub(super) fn of_change(error: ChangeError, id: &str) -> Self {
        match error {
            ChangeError::Unknown => ApiError::Unknown(id.into()),
            ChangeError::Taken(name, fault) => ApiError::Taken { name, fault },
            ChangeError::Impossible(name, fault) => ApiError::Parameter { name, fault },
            ChangeError::NoPorts(why) => ApiError::NoPorts(why),
            ChangeError::Store(why) => ApiError::Store(why),
            ChangeError::Stopping => ApiError::Stopping,
            ChangeError::Replacing => ApiError::Replacing,
            ChangeError::Busy => ApiError::Busy,
        }
    }

    /// Which kind of refusal it is; `None` for an answer that only says that something does not
    /// exist.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match self {
            ApiError::NotAllowed(_) | ApiError::Outdated => Some(refused::NOT_ALLOWED),
            ApiError::Foreign(_) => Some(refused::FOREIGN),
            ApiError::StopFromAfar | ApiError::UpgradeFromAfar => Some(refused::STOP_FROM_AFAR),
            ApiError::Http(Fault::TooSlow) => Some(refused::CALLER_LATE),
            ApiError::Http(Fault::Crowded) => Some(refused::CALLERS_MEMORY),
            ApiError::Http(_) => Some(refused::NO_REQUEST),
            ApiError::NoPorts(_) => Some(refused::NO_PORTS),
            ApiError::Store(_) | ApiError::Busy => Some(refused::NOT_STORED),
            ApiError::Stopping | ApiError::Replacing => Some(refused::CALLER_STOPPING),
            ApiError::Parameter { .. }
            | ApiError::Taken { .. }
            | ApiError::UnknownPath(_)
            | ApiError::Unknown(_)
            | ApiError::NoDirect(_)
            | ApiError::UnknownDirect(_)
            | ApiError::Method { .. }
            | ApiError::NotReplaced(_)
            | ApiError::NoDump(_)
            | ApiError::DumpFromAfar
            | ApiError::ContentType(_) => None,
        }
    }

    /// The status code of the answer.
    pub fn status(&self) -> u16 {
        match self {
            ApiError::Parameter { .. } => 400,
            ApiError::Taken { .. } | ApiError::NotReplaced(_) | ApiError::NoDump(_) => 409,
            ApiError::NotAllowed(_)
            | ApiError::Outdated
            | ApiError::Foreign(_)
            | ApiError::StopFromAfar
            | ApiError::UpgradeFromAfar
            | ApiError::DumpFromAfar => 403,
            ApiError::UnknownPath(_)
            | ApiError::Unknown(_)
            | ApiError::NoDirect(_)
            | ApiError::UnknownDirect(_) => 404,
            ApiError::Method { .. } => 405,
            ApiError::ContentType(_) => 415,
            ApiError::Http(fault) => fault.status(),
            ApiError::Store(_) => 500,
            ApiError::Stopping | ApiError::Replacing | ApiError::Busy => 503,
            ApiError::NoPorts(_) => 507,
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApiError::Parameter { name, fault } | ApiError::Taken { name, fault } => {
                write!(f, "{name} {fault}")
            }
            ApiError::NotAllowed(ip) => {
                write!(f, "{ip} is not an allowed controller; the setting controllers decides")
            }
            ApiError::Outdated => f.write_str(
                "the client certificates that are accepted have changed since this connection \
                 began; connect again",
            ),
            ApiError::Foreign(why) => write!(f, "{why}"),
            ApiError::StopFromAfar => f.write_str(
                "the connector can only be stopped on its own machine: iofog-connector stop",
            ),
            ApiError::UnknownPath(path) => {
                write!(f, "no such path: {}; docs/protocol.md, section 3, lists them", short(path))
            }
            ApiError::Unknown(id) => write!(
                f,
                "no mapping has the id {}; `iofog-connector mapping list` shows those that are there",
                short(id)
            ),
            ApiError::NoDirect(id) => write!(f, "no direct connection has the id {}", short(id)),
            ApiError::UnknownDirect(id) => {
                write!(f, "no direct connection has the id {} and this passkey", short(id))
            }
            ApiError::Method { allow } => write!(f, "this path takes {allow} only"),
            ApiError::ContentType(found) => write!(
                f,
                "the content type is {}; send application/x-www-form-urlencoded",
                short(found)
            ),
            ApiError::Http(fault) => write!(f, "{fault}"),
            ApiError::Store(why) => write!(f, "the change could not be stored: {why}"),
            ApiError::Stopping => f.write_str("the connector is stopping; try again soon"),
            ApiError::Replacing => f.write_str(
                "a new program is taking the connector's place; nothing was changed, try again in a \
                 second",
            ),
            ApiError::NotReplaced(why) | ApiError::NoDump(why) => f.write_str(why),
            ApiError::DumpFromAfar => f.write_str(
                "the state of every connection is told on the connector's own machine alone: \
                 iofog-connector dump",
            ),
            ApiError::UpgradeFromAfar => f.write_str(
                "a new program can only be asked for on the connector's own machine: \
                 iofog-connector upgrade",
            ),
            ApiError::Busy => write!(
                f,
                "the disk is slow: {} changes wait to be stored already; nothing was changed, try \
                 again later",
                limits::CHANGES_ASKED
            ),
            ApiError::NoPorts(why) => write!(f, "no two free ports: {why}"),
        }
    }
}
