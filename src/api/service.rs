//! The API's calls, on the running mappings.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::rc::Rc;

use smol::lock::Semaphore;

use super::call::{Call, Command};
use super::caller::{Door, Peer};
use super::connection::Service;
use super::counters::Counters;
use super::direct::{self, Meetings};
use super::error::ApiError;
use super::{answer, origin};
use crate::http::{Fault, Request, Response, Source};
use crate::limits;
use crate::pipes::change::ChangeError;
use crate::pipes::registry::Registry;
use crate::report::status::{Predecessor, Status};
use crate::runtime::aside;

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

    /// `command=upgrade` was called: has the program that is in the file now take this one's place. Gives who does, or
    /// why nobody; `None` where that is under way already.
    fn upgrade(&self) -> Option<Outcome>;

    /// `command=dump` was called: writes the state of every connection. Gives the file, or why there is none; `None`
    /// where that is under way already.
    fn dump(&self) -> Option<Outcome>;

    /// The daemon whose place this one took, while it carries sessions.
    fn predecessor(&self) -> Option<Predecessor>;

    /// The address and port of the API on TCP, while it is open.
    fn api(&self) -> String;

    /// The mapping of this id is gone.
    fn removed(&self, id: &str);
}

/// What has come of an upgrade or a dump, once that is known: a sentence or a path; or why nothing has.
pub type Outcome = Pin<Box<dyn Future<Output = Result<String, String>>>>;

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
            counters: Rc::new(Counters::new(registry.events())),
            registry,
            host,
            meetings: Meetings::default(),
            making: Semaphore::new(limits::MADE_TOGETHER),
        }
    }

    /// What has happened on the API; [`server`](super::server) counts in it too.
    pub fn counters(&self) -> Rc<Counters> {
        self.counters.clone()
    }

    /// Limits that are over are told as events. To be called from time to time.
    pub fn tell_over(&self) {
        self.counters.tell_over();
    }

    async fn call(&self, peer: Peer, request: &Request) -> Result<Response, ApiError> {
        match Call::parse(request)? {
            Call::AddMapping(pipe) => match self.registry.add(pipe).await {
                Ok(mapping) => Ok(answer::added(&mapping, self.host.broker())),
                Err(error) => Err(ApiError::of_change(error, "")),
            },
            Call::ChangeMapping(id, alteration) => {
                match self.registry.alter(&id, &alteration).await {
                    Ok(mapping) => Ok(answer::altered(&mapping, &alteration)),
                    Err(error) => Err(ApiError::of_change(error, &id)),
                }
            }
            Call::AddDirect => match self.registry.add_direct().await {
                Ok(mapping) => Ok(answer::added(&mapping, self.host.broker())),
                Err(error) => Err(ApiError::of_change(error, "")),
            },
            Call::RemoveMapping(id) => match self.registry.remove(&id).await {
                Ok(whole) => {
                    self.host.removed(&whole);
                    Ok(answer::removed(&id))
                }
                Err(error) => Err(ApiError::of_change(error, &id)),
            },
            Call::RemoveDirect(id) => match self.registry.remove_direct(&id).await {
                Ok(()) => {
                    self.meetings.forget(&id);
                    Ok(answer::removed(&id))
                }
                Err(ChangeError::Unknown) => Err(ApiError::NoDirect(id)),
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
            Call::Page => Ok(self.made(peer, answer::page).await),
            Call::Command(Command::Stop) => match peer {
                Peer::Local => {
                    self.host.stop();
                    Ok(answer::said("Connector is stopping."))
                }
                Peer::Remote(_) => Err(ApiError::StopFromAfar),
            },
            Call::Command(Command::Upgrade) => match peer {
                Peer::Local => self.upgrade().await,
                Peer::Remote(_) => Err(ApiError::UpgradeFromAfar),
            },
            Call::Command(Command::Dump) => match peer {
                Peer::Local => match self.host.dump() {
                    None => Err(ApiError::NoDump("another one is being written; try again".into())),
                    Some(outcome) => match outcome.await {
                        Ok(path) => Ok(answer::said(&path)),
                        Err(why) => Err(ApiError::NoDump(why)),
                    },
                },
                Peer::Remote(_) => Err(ApiError::DumpFromAfar),
            },
            Call::Command(Command::Status) => Ok(answer::said(match self.registry.draining() {
                None => "Connector is up and running.",
                Some(_) => "Connector is stopping.",
            })),
            Call::Command(Command::Version) => Ok(answer::said(VERSION)),
            Call::Command(Command::Help) => Ok(answer::said(HELP)),
        }
    }

    async fn upgrade(&self) -> Result<Response, ApiError> {
        if self.registry.draining().is_some() {
            return Err(ApiError::Stopping);
        }
        let Some(outcome) = self.host.upgrade() else { return Err(ApiError::Replacing) };
        match outcome.await {
            Ok(who) => Ok(answer::said(&who)),
            Err(why) => Err(ApiError::NotReplaced(why)),
        }
    }

    /// Makes a long answer on a thread of its own: megabytes take a while, during which nobody else
    /// would be served. A caller that waits for its turn holds no memory yet: the state is taken
    /// when the turn comes. The command line, which must be answered within seconds, does not wait
    /// for remote callers.
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
            predecessor: self.host.predecessor(),
            api: Some(self.host.api()),
            ..status
        }
    }

    /// Counts a refusal by kind, and logs it; each kind has lines of its own.
    fn refused(&self, peer: Peer, error: &ApiError) {
        let Some(kind) = error.refusal() else { return };
        self.counters.refused(&kind);
        if error.status() == 403 {
            self.counters.refused.set(self.counters.refused.get() + 1);
        }
        if let (Peer::Remote(ip), false) = (peer, kind.remedy.is_empty()) {
            let what = format!("refused a request from {ip}: {error}");
            self.counters.tell_refused(&kind, Some(ip), &what);
        }
    }
}

impl Service for Api {
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
            Peer::Remote(_) if door.outdated => ApiError::Outdated,
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

#[cfg(test)]
mod tests;
