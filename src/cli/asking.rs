//! What the commands of `mapping` ask the daemon, and what is wrong when it does not do that. A daemon may have been broken
//! into, and who asks it is often root: what of its answers gets into a file, its name, or a command that people copy is
//! checked here, and by its own rule.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::control::{self, Body, ControlError};
use super::exit::UNKNOWN;
use super::place::Place;
use crate::config::{self, folders::Options};
use crate::limits;
use crate::mappings::mapping::{AgentLimits, Passcode};
use crate::mappings::options;
use crate::report::Report;
use crate::report::status::{MappingStatus, Status};
use crate::text::json;
use crate::text::line::{shown, shown_path};
use crate::tls::Pin;

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
    pub(super) fn read(body: &Body) -> Result<Self, String> {
        understood(json::read(body.text().as_bytes())).map(Answer)
    }

    /// The text of this name in it, for people alone.
    pub(super) fn sentence(&self, name: &str) -> Result<&str, String> {
        understood(self.0[name].as_str().ok_or_else(|| format!("it lacks {name}")))
    }

    /// The port of this name in it.
    pub(super) fn port(&self, name: &str) -> Result<u16, String> {
        let port = self.0[name].as_u64().and_then(|port| u16::try_from(port).ok());
        understood(port.filter(|port| *port > 0).ok_or_else(|| format!("it lacks {name}")))
    }

    /// The id of a mapping.
    pub(super) fn id(&self) -> Result<&str, String> {
        self.random("id")
    }

    /// The passcode of this name in it.
    pub(super) fn passcode(&self, name: &str) -> Result<Passcode, String> {
        let passcode = Passcode::new(self.random(name)?);
        understood(passcode.ok_or_else(|| format!("it lacks {name}")))
    }

    /// What the daemon has made of random numbers, as [`random_id`](crate::mappings::mapping::random_id) does.
    fn random(&self, name: &str) -> Result<&str, String> {
        let text = self.sentence(name)?;
        let is_fit = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'-';
        match text.bytes().all(is_fit) && text.len() <= RANDOM {
            true => Ok(text),
            // It may be a secret, and is not repeated.
            false => Err(unsound(name, &format!("at most {RANDOM} letters, digits and -"))),
        }
    }
}

/// Longest id or passcode that is taken; those of UUIDs have 36.
const RANDOM: usize = 128;

/// That a value of this name is not what it must be, so that nothing is done with it.
fn unsound(what: &str, right: &str) -> String {
    format!(
        "the connector's answer is not used: {what} in it is not {right}; what answers on the control socket may be \
         another program, or somebody has broken into it: look at what runs there, and restart it"
    )
}

/// The daemon as it tells of itself, with what files and commands of agents have of it, checked.
pub(super) struct Daemon {
    pub(super) report: Report,
    /// The connector's host, as agents' `--connector` names it.
    pub(super) host: String,
    /// Its certificate, as `--pin` takes it; `None` without TLS, or where an older daemon does not say.
    pub(super) pin: Option<String>,
}

impl Daemon {
    /// Asks it.
    ///
    /// # Errors
    /// [`Fault`], also for an answer that is none of a sound daemon.
    pub(super) fn ask(options: &Options) -> Result<Self, Fault> {
        Ok(Self::of(report(options)?)?)
    }

    fn of(report: Report) -> Result<Self, String> {
        let Status { address, certificate: pin, .. } = &report.state;
        let host = match config::address(address) {
            // A daemon from before an upgrade does not give its address.
            _ if address.is_empty() => "CONNECTOR".to_owned(),
            Some(host) if host.contains(':') => format!("[{host}]"),
            Some(host) => host,
            None => return Err(unsound("address", "an IP address or a domain name")),
        };
        let is_pin = |pin: &String| pin.len() <= PIN && pin.parse::<Pin>().is_ok();
        if pin.as_ref().is_some_and(|pin| !is_pin(pin)) {
            return Err(unsound("certificate", "the SHA-256 fingerprint of one"));
        }
        let pin = pin.clone();
        Ok(Daemon { report, host, pin })
    }
}

/// The length of a fingerprint with its name and its colons.
const PIN: usize = "SHA256:".len() + 3 * 32 - 1;

/// The options of a mapping, of which its name gets into names of files.
pub(super) fn checked_options(mapping: &MappingStatus) -> Result<options::Options, String> {
    let read = options::Options::read(mapping.public, &|name| mapping.options.get(name));
    read.map_err(|(name, _)| unsound(&format!("a mapping's {name}"), "one that the API accepts"))
}

/// The limits of an agent's side of a mapping, 0 or 1, which get into files.
pub(super) fn checked_limits(mapping: &MappingStatus, index: usize) -> Result<AgentLimits, String> {
    let side = mapping.sides.get(index);
    let allowed = side.and_then(|side| side.tunnels).map(|tunnels| tunnels.allowed);
    let allowed = allowed.and_then(|allowed| u16::try_from(allowed).ok());
    let Some(max_connections) = allowed.filter(|allowed| *allowed > 0) else {
        return Err(unsound("the number of tunnels that a side allows", "1 to 65535"));
    };
    let heartbeat_threshold =
        side.and_then(|side| side.heartbeat_threshold).map(Duration::from_millis);
    Ok(AgentLimits { max_connections, heartbeat_threshold })
}

/// Asks the daemon; the error is a sentence for when it refuses or does not answer.
pub(super) fn call(options: &Options, method: &str, path: &str, body: &str) -> Result<Body, Fault> {
    let path = format!("/api/v2/{path}");
    match control::call(limits::CONTROL_WAIT, &options.run_dir, method, &path, body) {
        Ok((200, answer)) => Ok(answer),
        Ok((status, answer)) => {
            let why = Answer::read(&answer)
                .and_then(|why| why.sentence("errormessage").map(str::to_owned));
            Err(why.unwrap_or_else(|_| format!("the connector answers {status}")).into())
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) fn report(options: &Options) -> Result<Report, Fault> {
    Ok(understood(Report::read(call(options, "GET", "status", "")?.text().as_bytes()))?)
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
