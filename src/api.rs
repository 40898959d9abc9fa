//! The control API (protocol page, section 3): what a request asks for, the answer to it, and
//! the connections on which both travel.
//!
//! A request passes through [`server`] (which connection may stay), [`http`](crate::http) (which
//! bytes are a request), `call` (what it asks for) and [`Api`], which asks the registry and
//! answers. Every answer is one JSON object, errors too, because the Controller reads every body
//! as JSON and looks for `errormessage`; only `/metrics` is in Prometheus' own format.
//!
//! Choices where the page leaves one:
//! - A bare JSON mapping is taken with the content type of a form (as curl sends it), with none,
//!   and with `application/json`; the other calls take forms only. A body of no bytes has no type.
//! - Numbers are JSON integers; in quotes they are refused, and the answer says so.
//! - The address of a direct connection's caller is the connection's; no header is believed.
//! - A stopping daemon answers 503 to changes.

mod answer;
pub(crate) mod call;
mod direct;
mod gate;
mod origin;
pub mod server;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use smol::lock::Semaphore;

use crate::http::{Fault, Request, Response, Source};
use crate::limits;
use crate::pipes::registry::{ChangeError, Registry};
use crate::report::status::Status;
use crate::report::status::reached::LimitsReached;
use crate::report::status::refused::{self, Refusal, Refusals};
use crate::runtime::workers::aside;
use call::{Call, Command};
use direct::Meetings;
pub use origin::Door;
use origin::Foreign;

/// What the API needs of the daemon around it. Asked anew for every request, so that settings
/// read again are in force at once.
pub trait Host {
    /// The `broker` of the settings.
    fn broker(&self) -> u16;

    /// Whether the settings' `controllers` allow this address, IPv4 in its own form.
    fn admits(&self, peer: IpAddr) -> bool;

    /// Whether a host name, in any case and without a dot at its end, is one of this connector's.
    fn is_called(&self, name: &str) -> bool;

    /// Log messages that could not be delivered.
    fn log_lost(&self) -> u64;

    /// What an operator should know of the daemon, besides what the mappings' registry knows.
    fn warnings(&self) -> Vec<String>;

    /// `command=stop` was called: begin to stop, and return at once.
    fn stop(&self);
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The Unix socket, which only the service's user and root can open.
    Local,
    /// A TCP connection from this address, IPv4 in its own form.
    Remote(IpAddr),
}

/// What has happened on the API since the daemon started.
#[derive(Debug, Default)]
pub struct Counters {
    /// TLS handshakes that failed or took too long.
    pub handshake_failures: Cell<u64>,
    /// Requests refused with 403.
    pub refused: Cell<u64>,
    /// Its limits that were reached.
    pub limits_reached: RefCell<LimitsReached>,
    /// Callers that were refused, for this and other reasons.
    pub refusals: RefCell<Refusals>,
}

/// Why a request was not done.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// A parameter is missing or wrong: its name, and the rest of a sentence about it.
    Parameter {
        name: &'static str,
        fault: String,
    },
    NotAllowed(IpAddr),
    Foreign(Foreign),
    StopFromAfar,
    UnknownPath(Box<str>),
    /// Nothing of the kind asked for has this id.
    Unknown(Box<str>),
    /// No such direct connection, or a wrong passkey; the answer does not say which.
    UnknownDirect(Box<str>),
    Method {
        allow: &'static str,
    },
    ContentType(Box<str>),
    Http(Fault),
    Store(String),
    Stopping,
    NoPorts(String),
}

/// The API's calls, on the running mappings.
pub struct Api {
    registry: Rc<Registry>,
    host: Rc<dyn Host>,
    meetings: Meetings,
    counters: Rc<Counters>,
    /// A place for each long answer that is being made.
    making: Semaphore,
}

impl Api {
    /// An API on these mappings.
    pub fn new(registry: Rc<Registry>, host: Rc<dyn Host>) -> Self {
        Api {
            registry,
            host,
            meetings: Meetings::default(),
            counters: Rc::default(),
            making: Semaphore::new(limits::MADE_TOGETHER),
        }
    }

    /// What has happened on the API; [`server`] counts in it too.
    pub fn counters(&self) -> Rc<Counters> {
        self.counters.clone()
    }

    async fn call(&self, peer: Peer, request: &Request) -> Result<Response, ApiError> {
        match Call::parse(request)? {
            Call::AddMapping(pipe) => match self.registry.add(pipe).await {
                Ok(mapping) => Ok(answer::added(&mapping, self.host.broker())),
                Err(error) => Err(ApiError::of_change(error, "")),
            },
            Call::AddDirect => match self.registry.add_direct().await {
                Ok(mapping) => Ok(answer::added(&mapping, self.host.broker())),
                Err(error) => Err(ApiError::of_change(error, "")),
            },
            Call::RemoveMapping(id) => match self.registry.remove(&id).await {
                Ok(()) => Ok(answer::removed(&id)),
                Err(error) => Err(ApiError::of_change(error, &id)),
            },
            Call::RemoveDirect(id) => match self.registry.remove_direct(&id).await {
                Ok(()) => {
                    self.meetings.forget(&id);
                    Ok(answer::removed(&id))
                }
                Err(error) => Err(ApiError::of_change(error, &id)),
            },
            Call::MeetDirect { id, passkey, candidate } => {
                if self.registry.direct(&id, &passkey.0).is_none() {
                    return Err(ApiError::UnknownDirect(id));
                }
                let remote_ip = match peer {
                    Peer::Remote(ip) => ip,
                    Peer::Local => Ipv4Addr::LOCALHOST.into(),
                };
                let caller = direct::Caller { candidate, remote_ip };
                Ok(answer::met(&id, self.meetings.meet(&id, caller)))
            }
            Call::StatusOfAll => Ok(answer::status_of_all(&self.registry.overview())),
            Call::StatusOf(id) => match self.registry.mapping_status(&id) {
                Some(mapping) => Ok(answer::status_of(&mapping)),
                None => Err(ApiError::Unknown(id)),
            },
            Call::FullStatus => Ok(self.made(peer, answer::full_status).await),
            Call::Metrics => Ok(self.made(peer, answer::metrics).await),
            Call::Command(Command::Stop) => match peer {
                Peer::Local => {
                    self.host.stop();
                    Ok(answer::said("Connector is stopping."))
                }
                Peer::Remote(_) => Err(ApiError::StopFromAfar),
            },
            Call::Command(Command::Status) => Ok(answer::said(match self.registry.draining() {
                None => "Connector is up and running.",
                Some(_) => "Connector is stopping.",
            })),
            Call::Command(Command::Version) => Ok(answer::said(VERSION)),
            Call::Command(Command::Help) => Ok(answer::said(HELP)),
        }
    }

    /// Makes a long answer on a thread of its own: megabytes take a while, in which nobody else would
    /// be served. Who waits for one holds nothing yet: the state is looked at when its turn comes. The
    /// command line, which is answered within seconds, waits for nobody from afar.
    async fn made(&self, peer: Peer, make: fn(Status) -> Response) -> Response {
        if self.registry.overview().mappings <= limits::MADE_AT_ONCE {
            return make(self.status());
        }
        let _place = match peer {
            Peer::Local => None,
            Peer::Remote(_) => Some(self.making.acquire().await),
        };
        let status = self.status();
        aside(move || make(status)).await
    }

    fn status(&self) -> Status {
        let mut status = self.registry.status();
        status.warnings.extend(self.host.warnings());
        Status {
            limits_reached: self.counters.limits_reached.borrow().clone(),
            api_handshake_failures: self.counters.handshake_failures.get(),
            api_refused: self.counters.refused.get(),
            api_refusals: self.counters.refusals.borrow().clone(),
            log_lost: self.host.log_lost(),
            ..status
        }
    }

    /// Counts a refusal by kind, and logs it; each kind has lines of its own.
    fn refused(&self, peer: Peer, error: &ApiError) {
        let Some(kind) = error.refusal() else { return };
        self.counters.refusals.borrow_mut().count(&kind);
        if error.status() == 403 {
            self.counters.refused.set(self.counters.refused.get() + 1);
        }
        if let (Peer::Remote(ip), false) = (peer, kind.remedy.is_empty()) {
            log::warn!(target: kind.why, "API: refused a request from {ip}: {error}");
        }
    }
}

impl server::Service for Api {
    fn knows(&self, peer: Peer) -> bool {
        match peer {
            Peer::Local => true,
            Peer::Remote(ip) => self.host.admits(ip),
        }
    }

    fn admit(&self, peer: Peer, door: Door, source: &Source) -> Result<(), Response> {
        let error = match peer {
            // Its file's mode guards the Unix socket, which no browser opens.
            Peer::Local => return Ok(()),
            Peer::Remote(ip) if !self.host.admits(ip) => ApiError::NotAllowed(ip),
            Peer::Remote(_) => {
                match origin::check(door, source, |name| self.host.is_called(name)) {
                    Ok(()) => return Ok(()),
                    Err(foreign) => ApiError::Foreign(foreign),
                }
            }
        };
        self.refused(peer, &error);
        Err(answer::failed(&error))
    }

    async fn answer(&self, peer: Peer, request: Request) -> Response {
        match self.call(peer, &request).await {
            Ok(response) => response,
            Err(error) => {
                self.refused(peer, &error);
                answer::failed(&error)
            }
        }
    }

    fn refuse(&self, peer: Peer, fault: Fault) -> Response {
        let error = ApiError::Http(fault);
        self.refused(peer, &error);
        answer::failed(&error)
    }
}

const VERSION: &str = concat!(
    "Connector ",
    env!("CARGO_PKG_VERSION"),
    "\nLicensed under the Apache License, Version 2.0\nhttps://www.apache.org/licenses/LICENSE-2.0"
);

const HELP: &str = "Usage: command=COMMAND\n\n\
    Command    Meaning\n\
    =======    =======\n\
    status     Say whether the connector is running\n\
    version    Say the software's version and license\n\
    help       Show this message\n\n\
    On the machine itself, iofog-connector --help shows more.";

impl ApiError {
    /// Why a change to the mapping or direct connection `id` was not made.
    fn of_change(error: ChangeError, id: &str) -> Self {
        match error {
            ChangeError::Unknown => ApiError::Unknown(id.into()),
            ChangeError::NoPorts(why) => ApiError::NoPorts(why),
            ChangeError::Store(why) => ApiError::Store(why),
            ChangeError::Stopping => ApiError::Stopping,
        }
    }

    /// Which kind of refusal it is; `None` for an answer that only says what there is not.
    fn refusal(&self) -> Option<Refusal> {
        match self {
            ApiError::NotAllowed(_) => Some(refused::NOT_ALLOWED),
            ApiError::Foreign(_) => Some(refused::FOREIGN),
            ApiError::StopFromAfar => Some(refused::STOP_FROM_AFAR),
            ApiError::Http(Fault::TooSlow) => Some(refused::CALLER_LATE),
            ApiError::Http(_) => Some(refused::NO_REQUEST),
            ApiError::NoPorts(_) => Some(refused::NO_PORTS),
            ApiError::Store(_) => Some(refused::NOT_STORED),
            ApiError::Stopping => Some(refused::CALLER_STOPPING),
            ApiError::Parameter { .. }
            | ApiError::UnknownPath(_)
            | ApiError::Unknown(_)
            | ApiError::UnknownDirect(_)
            | ApiError::Method { .. }
            | ApiError::ContentType(_) => None,
        }
    }

    /// The status code of the answer.
    pub(crate) fn status(&self) -> u16 {
        match self {
            ApiError::Parameter { .. } => 400,
            ApiError::NotAllowed(_) | ApiError::Foreign(_) | ApiError::StopFromAfar => 403,
            ApiError::UnknownPath(_) | ApiError::Unknown(_) | ApiError::UnknownDirect(_) => 404,
            ApiError::Method { .. } => 405,
            ApiError::ContentType(_) => 415,
            ApiError::Http(fault) => fault.status(),
            ApiError::Store(_) => 500,
            ApiError::Stopping => 503,
            ApiError::NoPorts(_) => 507,
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApiError::Parameter { name, fault } => write!(f, "{name} {fault}"),
            ApiError::NotAllowed(ip) => {
                write!(f, "{ip} is not an allowed controller; the setting controllers decides")
            }
            ApiError::Foreign(why) => write!(f, "{why}"),
            ApiError::StopFromAfar => f.write_str(
                "the connector can only be stopped on its own machine: iofog-connector stop",
            ),
            ApiError::UnknownPath(path) => write!(f, "no such path: {}", short(path)),
            ApiError::Unknown(id) => write!(f, "no mapping has the id {}", short(id)),
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
            ApiError::NoPorts(why) => write!(f, "no two free ports: {why}"),
        }
    }
}

/// The start of what a caller sent: enough to recognise it, nothing to flood a log with.
fn short(text: &str) -> String {
    let start: String = text.chars().take(64).collect();
    let dots = if start.len() < text.len() { "…" } else { "" };
    format!("\"{}{dots}\"", start.escape_debug())
}

#[cfg(test)]
mod tests;
