//! What the commands of `mapping` ask the daemon, and what is wrong when it does not do that.

use std::path::Path;

use serde_json::Value;

use super::control::{self, ControlError};
use super::exit::UNKNOWN;
use super::place::Place;
use crate::config::folders::Options;
use crate::limits;
use crate::report::Report;
use crate::report::status::{MappingStatus, Status};
use crate::text::json;
use crate::text::line::{shown, shown_path};

/// Why it was not done, and the exit status that says so.
pub(super) struct Fault {
    pub(super) code: u8,
    pub(super) text: String,
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Fault { code: 1, text }
    }
}

impl From<ControlError> for Fault {
    fn from(error: ControlError) -> Self {
        let code = if matches!(error, ControlError::NotRunning(_)) { 1 } else { UNKNOWN };
        Fault { code, text: error.to_string() }
    }
}

/// What the daemon answers, an object.
pub(super) struct Answer(Value);

impl Answer {
    /// Reads it.
    ///
    /// # Errors
    /// A sentence for an answer that is none, as all that follow.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        understood(json::read(text.as_bytes())).map(Answer)
    }

    /// The text of this name in it.
    pub(super) fn text(&self, name: &str) -> Result<&str, String> {
        understood(self.0[name].as_str().ok_or_else(|| format!("it lacks {name}")))
    }

    /// The port of this name in it.
    pub(super) fn port(&self, name: &str) -> Result<u16, String> {
        let port = self.0[name].as_u64().and_then(|port| u16::try_from(port).ok());
        understood(port.ok_or_else(|| format!("it lacks {name}")))
    }
}

/// Asks the daemon; the error is a sentence for when it refuses or does not answer.
pub(super) fn call(
    options: &Options,
    method: &str,
    path: &str,
    body: &str,
) -> Result<String, Fault> {
    let path = format!("/api/v2/{path}");
    match control::call(limits::CONTROL_WAIT, &options.run_dir, method, &path, body) {
        Ok((200, answer)) => Ok(answer),
        Ok((status, answer)) => {
            let why =
                Answer::read(&answer).and_then(|why| why.text("errormessage").map(str::to_owned));
            Err(why.unwrap_or_else(|_| format!("the connector answers {status}")).into())
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) fn report(options: &Options) -> Result<Report, Fault> {
    Ok(understood(Report::read(call(options, "GET", "status", "")?.as_bytes()))?)
}

pub(super) fn understood<T>(read: Result<T, String>) -> Result<T, String> {
    read.map_err(|fault| {
        format!("the connector's answer cannot be read ({fault}); is it of another version?")
    })
}

pub(super) fn form(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// The mapping with this id; else the one with this name, as the API finds it; else the only one whose id begins so, of
/// which as much must be given as a narrow `status` shows.
pub(super) fn find<'a>(report: &'a Report, id: &str) -> Result<&'a MappingStatus, String> {
    let all = &report.state.mappings;
    let exact = all.iter().find(|mapping| &*mapping.id == id);
    if let Some(found) = exact.or_else(|| all.iter().find(|mapping| mapping.name() == id)) {
        return Ok(found);
    }
    let mut begun = all.iter().filter(|mapping| id.len() >= 8 && mapping.id.starts_with(id));
    match (begun.next(), begun.next()) {
        (Some(found), None) => Ok(found),
        (Some(_), _) => {
            Err(format!("the ids of several mappings begin with {}; give a whole one", shown(id)))
        }
        _ => Err(format!(
            "no mapping has the name or id {}; `iofog-connector mapping list` shows all",
            shown(id)
        )),
    }
}

/// A mapping's name and whole id: what was meant, however it was given.
pub(super) fn titled(mapping: &MappingStatus) -> String {
    match mapping.name() {
        name if *name == *mapping.id => name.to_owned(),
        name => format!("{name} ({})", mapping.id),
    }
}

/// Where files are written: their whole paths are given, so that they work from any folder.
pub(super) fn folder(dir: &Path) -> Result<Place, String> {
    Place::open(dir).map_err(|error| {
        let why = Place::fault(dir, &error);
        format!("--dir {}: {why}; make it, or name another folder", shown_path(dir))
    })
}

/// What passes the network unencrypted, with users' port if that takes plain TCP: nothing where only this machine reaches it.
pub(super) fn exposed(plain: Option<u16>, daemon: &Status) -> String {
    match plain {
        _ if daemon.loopback().is_some() || daemon.listen.is_empty() => String::new(),
        _ if daemon.dev => {
            "warning: dev is true, so passcodes and users' bytes cross the network\n\
                            unencrypted\n"
                .into()
        }
        None => String::new(),
        Some(port) => format!(
            "warning: port {port} takes plain TCP from the network, so the service itself\n\
             must encrypt and ask who comes, as SSH does\n"
        ),
    }
}

/// The connector's host, as agents name it.
pub(super) fn host(daemon: &Status) -> String {
    match daemon.address.as_str() {
        // A daemon from before an upgrade does not give its address.
        "" => "CONNECTOR".to_owned(),
        host if host.contains(':') => format!("[{host}]"),
        host => host.to_owned(),
    }
}
