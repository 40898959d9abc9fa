//! `mapping`: what the Controller does over the API, for people without one, over the control
//! socket.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::altering;
use super::asking::{
    Answer, Daemon, Fault, call, checked_options, exposed, find, folder, form, report, titled,
};
use super::files::{self, Files, Made};
use super::place::{Place, is_file};
use crate::config::folders::Options;
use crate::mappings::mapping::{AgentLimits, AgentPort};
use crate::mappings::{options, store};
use crate::os::terminal::{self, complain, is_printed};
use crate::report;
use crate::report::status::Status;
use crate::text::line::shown_path;
use crate::text::reason::{self, quoted};

/// What to do with mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Opens a pipe.
    Add(Add),
    /// Shows those that are there, in lines of any length if it is `wide`.
    List {
        /// As `--wide` says.
        wide: bool,
    },
    /// Shows one.
    Show(String),
    /// Changes one.
    Change {
        /// Its name or id.
        id: String,
        /// Members of the API; `null` takes one away.
        members: Map<String, Value>,
        /// Tunnels of each agent's side, and the silence in milliseconds after which one is closed.
        limits: [Option<u64>; 2],
    },
    /// Makes a new passcode.
    Passcode {
        /// Its name or id.
        id: String,
        /// Whose: 1 or 2.
        side: usize,
        /// It goes to stdout instead of files.
        show: bool,
        /// Where the side's files are.
        dir: PathBuf,
    },
    /// Closes one.
    Remove {
        /// Its name or id.
        id: String,
        /// Where the sides' files were made.
        dir: PathBuf,
    },
}

/// A pipe to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Add {
    /// A public pipe; else a private one.
    pub(super) public: bool,
    /// Tunnels that each agent's side allows.
    pub(super) connections: u16,
    /// Silence in milliseconds after which a tunnel is closed; 0 for never.
    pub(super) threshold: u64,
    /// Further members of the API.
    pub(super) members: Map<String, Value>,
    /// Passcodes go to stdout instead of files.
    pub(super) show: bool,
    /// Where the sides' files are made.
    pub(super) dir: PathBuf,
}

/// What `mapping/add` answers, but for the passcodes.
struct Added {
    id: String,
    port1: u16,
    port2: u16,
}

/// Does what is asked for.
pub(super) fn run(request: &Request, options: &Options) -> ExitCode {
    let outcome = match request {
        Request::Add(add) => open(add, options),
        Request::List { wide } => list(*wide, options),
        Request::Show(id) => altering::show(id, options),
        Request::Change { id, members, limits } => altering::change(id, members, *limits, options),
        Request::Passcode { id, side, show, dir } => {
            altering::passcode(id, *side, *show, dir, options)
        }
        Request::Remove { id, dir } => close(id, dir, options),
    };
    match outcome {
        Ok(text) if is_printed(&text) => ExitCode::SUCCESS,
        Ok(text) => {
            // The first line says what was done, with the id.
            complain(text.lines().next().unwrap_or_default());
            ExitCode::FAILURE
        }
        Err(Fault { code, text }) => {
            complain(text);
            code.into()
        }
    }
}

fn open(add: &Add, options: &Options) -> Result<String, Fault> {
    let Add { connections, threshold, .. } = add;
    let mut mapping = if add.public {
        json!({"type": "public", "maxconnections": connections,
            "heartbeatabsencethreshold": threshold})
    } else {
        json!({"type": "private",
            "maxconnectionsport1": connections, "maxconnectionsport2": connections,
            "heartbeatabsencethresholdport1": threshold,
            "heartbeatabsencethresholdport2": threshold})
    };
    if let Some(mapping) = mapping.as_object_mut() {
        mapping.extend(add.members.clone());
    }
    let dir = folder(&add.dir)?;
    // What the daemon runs with counts, whatever the settings on disk say. It is asked first: if it
    // does not answer, nothing has been opened.
    let daemon = Daemon::ask(options)?;
    let answer = call(options, "POST", "mapping/add", &form(&[("mapping", &mapping.to_string())]))?;
    let answer = Answer::read(&answer)?;
    let id = answer.id()?.to_owned();
    let limits = AgentLimits {
        max_connections: *connections,
        heartbeat_threshold: (*threshold > 0).then_some(Duration::from_millis(*threshold)),
    };
    let side = |port, passcode: &str| {
        let passcode = answer.passcode(passcode)?;
        Ok::<_, String>(AgentPort { port, passcode, limits })
    };
    let mut made = Vec::new();
    let written = (|| {
        let added =
            Added { id: id.clone(), port1: answer.port("port1")?, port2: answer.port("port2")? };
        // The daemon has taken them, but is not the one to say what may be a file's name.
        let checked = options::Options::read(add.public, &|name| add.members.get(name));
        let checked = checked.map_err(|(name, why)| format!("{name} {why}"))?;
        let mut sides = vec![side(added.port1, "passcode1")?];
        if !add.public {
            sides.push(side(added.port2, "passcode2")?);
        }
        let files = Files::new(&dir, &daemon, &checked, add.public);
        for (index, side) in sides.iter().enumerate().filter(|_| !add.show) {
            for wanted in files.of(index, side) {
                made.push(Made::new(&dir, wanted)?);
            }
        }
        Ok(instructions(add, &added, &sides, &made, &daemon))
    })();
    written.or_else(|fault: String| {
        made.into_iter().for_each(Made::undo);
        // A mapping whose passcodes nobody has is useless.
        remove(&id, options)?;
        Err(format!("{fault}. No mapping was added").into())
    })
}

/// Removes a mapping, and the files in `dir` that hold its passcodes.
fn close(id: &str, dir: &Path, options: &Options) -> Result<String, Fault> {
    // The passcodes are known only while the mapping is there, and only from the daemon's own
    // folder.
    let stored = store::check(&options.config_dir).unwrap_or_default();
    let daemon = Daemon::ask(options)?;
    let mapping = find(&daemon.report, id)?;
    let checked = checked_options(mapping)?;
    remove(&mapping.id, options)?;
    let stored = stored.iter().find(|stored| stored.id == mapping.id);
    let stored = stored.map_or(&[][..], |stored| stored.pipe.agents());
    let mut text = format!("mapping {} removed\n", titled(mapping));
    let place = match Place::open(dir) {
        Ok(place) => place,
        Err(error) => {
            let why = Place::fault(dir, &error);
            let dir = shown_path(dir);
            text.push_str(&format!("no file was looked for in --dir {dir}: {why}\n"));
            return Ok(text);
        }
    };
    let files = Files::new(&place, &daemon, &checked, mapping.public);
    let mut found = false;
    let mut stays: Vec<(OsString, String)> = Vec::new();
    let mut names = Vec::new();
    let sides = mapping.sides.iter().filter(|side| side.tunnels.is_some());
    for (index, port) in sides.map(|side| side.port).enumerate() {
        let passcode = stored.get(index).map(|side| side.passcode.reveal());
        let another = match passcode {
            None => "whether it holds this mapping's passcode is not known here",
            Some(_) => "it does not hold this mapping's passcode",
        };
        for held in files.held(index, port, passcode) {
            let why = match held.is_added {
                true => match place.remove(&held.name) {
                    Ok(()) => {
                        let path = files::path(&place, &held.name);
                        text.push_str(&format!("{path} removed\n"));
                        found = true;
                        continue;
                    }
                    Err(error) => reason::writing(&place.path.join(&held.name), &error),
                },
                false if held.is_this => "it is a copy, which `mapping add` did not write".into(),
                false => another.to_owned(),
            };
            stays.push((held.name, format!("stays: {why}")));
        }
        for name in files.names(index, port) {
            let is_told = stays.iter().any(|(told, _)| *told == *name);
            if let Some(kind) = place.stat(OsStr::new(&name)).filter(|_| !is_told) {
                let why = match is_file(&kind) {
                    false => "it is no file, but a link or a folder",
                    true => another,
                };
                stays.push((name.clone().into(), format!("stays: {why}")));
            }
            names.push(name);
        }
    }
    text.push_str(&files::listed(&place, &stays));
    if !found && stays.is_empty() {
        text.push_str(&format!(
            "no file with its passcode is in {};\none made elsewhere is of no use any more: {}\n",
            place.path.display(),
            names.join(", ")
        ));
    }
    text.push_str("where its tunnel is installed: sudo iofog-connector tunnel remove NAME\n");
    Ok(text)
}

/// What was opened, and the command for each side. `made` are the sides' files, two of each, or none.
fn instructions(
    add: &Add,
    added: &Added,
    sides: &[AgentPort],
    made: &[Made<'_>],
    Daemon { report, host, pin }: &Daemon,
) -> String {
    let daemon = &report.state;
    let trust = match pin {
        _ if daemon.dev => "--plain".to_owned(),
        // What an older daemon does not say.
        None => "--ca FILE".to_owned(),
        Some(pin) => format!("--pin {pin}"),
    };
    let mut text = match add.members.get("name").and_then(Value::as_str) {
        Some(name) => format!("mapping {name} ({})\n", added.id),
        None => format!("mapping {}\n", added.id),
    };
    if add.public {
        let scheme = match (add.members.get("users").and_then(Value::as_str), daemon.dev) {
            (Some("plain"), _) => "tcp",
            (_, true) => "http",
            (_, false) => "https",
        };
        text.push_str(&format!("users connect to {scheme}://{host}:{}\n", added.port2));
    }
    text.push_str(&reach(add, added, daemon));
    for made in made {
        if let Some(aside) = made.aside() {
            text.push_str(&format!(
                "{} was there; it is {} now\n",
                made.path().display(),
                aside.display()
            ));
        }
    }
    let mut install = String::new();
    for (index, side) in sides.iter().enumerate() {
        let port = side.port;
        let (what, work) = match index {
            0 => ("where the service runs", "--target localhost:PORT"),
            _ => ("where it is used", "--listen 127.0.0.1:PORT"),
        };
        if let Some(made) = made.get(2 * index + 1) {
            let path = quoted(&made.path());
            text.push_str(&format!(
                "\n{what} (port {port}):\n  iofog-connector tunnel --from {path} {work}\n"
            ));
            install.push_str(&format!("  sudo iofog-connector tunnel install {path} {work}\n"));
            continue;
        }
        text.push_str(&format!(
            "\npasscode of port {port}: {}\n{what} (port {port}):\n  iofog-connector tunnel --connector \
             {host}:{port} --passcode-file FILE {trust} {work}",
            side.passcode.reveal()
        ));
        let settings = [
            (" --connections", files::connections(index, side)),
            (" --heartbeat", files::heartbeat(side)),
        ];
        for (option, value) in settings {
            if let Some(value) = value {
                text.push_str(&format!("{option} {value}"));
            }
        }
        text.push('\n');
    }
    if !install.is_empty() {
        text.push_str(&format!(
            "\nor for good, here, or on another machine with a copy of the file (mode 0600),\n\
             which is all that it needs:\n{install}"
        ));
    }
    text
}

/// On which addresses the ports are open; and what passes them unencrypted.
fn reach(add: &Add, added: &Added, daemon: &Status) -> String {
    let Added { port1, port2, .. } = added;
    let place = match (daemon.listen.as_str(), daemon.loopback()) {
        ("", _) => return String::new(),
        (_, Some(ip)) => format!("{ip} alone: for this machine only"),
        ("::" | "0.0.0.0", _) => "every address of this machine".to_owned(),
        (ip, _) => ip.to_owned(),
    };
    let mut text = format!("ports {port1} and {port2} are open on {place}\n");
    let plain = add.public && add.members.get("users").is_some_and(|users| users == "plain");
    text.push_str(&exposed(plain.then_some(*port2), daemon));
    text
}

fn list(wide: bool, options: &Options) -> Result<String, Fault> {
    let width = if wide { None } else { terminal::width() };
    Ok(report::list(&report(options)?, width))
}

fn remove(id: &str, options: &Options) -> Result<(), Fault> {
    call(options, "POST", "mapping/remove", &form(&[("mappingid", id)])).map(drop)
}
