//! `mapping`: what the Controller does over the API, for people without one, over the control
//! socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::altering;
use super::asking::{Fault, call, find, folder, form, host, report, understood};
use super::files::{self, Files, Made};
use crate::config::folders::Options;
use crate::mappings::mapping::{AgentLimits, AgentPort, Passcode};
use crate::mappings::store;
use crate::os::terminal::{self, complain, is_printed};
use crate::report;
use crate::report::status::Status;
use crate::text::json;
use crate::text::reason::quoted;
use crate::tls;

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

/// What `mapping/add` answers.
#[derive(Deserialize)]
struct Added {
    id: String,
    port1: u16,
    port2: u16,
    passcode1: String,
    #[serde(default)]
    passcode2: String,
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
    let report = report(options)?;
    let answer = call(options, "POST", "mapping/add", &form(&[("mapping", &mapping.to_string())]))?;
    let added: Added = understood(json::read(answer.as_bytes()))?;
    let limits = AgentLimits {
        max_connections: *connections,
        heartbeat_threshold: (*threshold > 0).then_some(Duration::from_millis(*threshold)),
    };
    let side = |port, passcode: &str| {
        let passcode = Passcode::new(passcode)?;
        Some(AgentPort { port, passcode, limits })
    };
    let mut sides = vec![side(added.port1, &added.passcode1)];
    if !add.public {
        sides.push(side(added.port2, &added.passcode2));
    }
    let host = host(&report.state);
    let name = add.members.get("name").and_then(Value::as_str);
    let files = Files::new(&dir, &host, &report.state, name, add.public);
    let mut made = Vec::new();
    let written = sides.into_iter().enumerate().map(|(index, side)| {
        let side = side.ok_or("the connector gave no passcode")?;
        for wanted in files.of(index, &side) {
            if !add.show {
                made.push(Made::new(wanted)?);
            }
        }
        Ok(side)
    });
    match written.collect::<Result<Vec<_>, String>>() {
        Ok(sides) => Ok(instructions(add, &added, &sides, &made, &host, options, &report.state)),
        Err(fault) => {
            made.into_iter().for_each(Made::undo);
            // A mapping whose passcodes nobody has is useless.
            remove(&added.id, options)?;
            Err(format!("{fault}. No mapping was added").into())
        }
    }
}

/// Removes a mapping, and the files in `dir` that `add` has made for it. One that holds anything else stays.
fn close(id: &str, dir: &Path, options: &Options) -> Result<String, Fault> {
    // The passcodes are known only while the mapping is there, and only from the daemon's own
    // folder.
    let stored = store::check(&options.config_dir).unwrap_or_default();
    let report = report(options)?;
    let running = find(&report, id).ok();
    let mapping = running.and_then(|of| stored.into_iter().find(|mapping| mapping.id == of.id));
    remove(id, options)?;
    let mut text = format!("mapping {id} removed\n");
    let sides = mapping.map_or_else(Vec::new, |mapping| mapping.pipe.agents().to_vec());
    let host = host(&report.state);
    let name = running.and_then(|running| running.options.get("name")).and_then(Value::as_str);
    let public = running.is_some_and(|running| running.public);
    let files = Files::new(dir, &host, &report.state, name, public);
    let mut found = false;
    for wanted in sides.iter().enumerate().flat_map(|(index, side)| files.of(index, side)) {
        let path = wanted.0.display();
        match files::discard(&wanted) {
            Ok(true) => text.push_str(&format!("{path} removed\n")),
            Ok(false) => continue,
            Err(why) => text.push_str(&format!("{path} stays: {why}\n")),
        }
        found = true;
    }
    if !found {
        let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        text.push_str(&format!(
            "no file with its passcode is in {}; one made elsewhere stays there (--dir DIR names \
             the folder)\n",
            dir.display()
        ));
    }
    Ok(text)
}

/// What was opened, and the command for each side. `made` are the sides' files, two of each, or none.
fn instructions(
    add: &Add,
    added: &Added,
    sides: &[AgentPort],
    made: &[Made],
    host: &str,
    options: &Options,
    daemon: &Status,
) -> String {
    let certificate = fs::canonicalize(&options.config_dir)
        .unwrap_or_else(|_| options.config_dir.clone())
        .join(tls::CERTIFICATE);
    let trust = match daemon.dev {
        true => "--plain".to_owned(),
        false => format!("--ca {}", quoted(&certificate)),
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
        if let Some(aside) = &made.aside {
            text.push_str(&format!(
                "{} was there; it is {} now\n",
                made.path.display(),
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
        let secret = match made.get(2 * index) {
            Some(passcode) => format!("--passcode-file {}", quoted(&passcode.path)),
            None => {
                text.push_str(&format!("\npasscode of port {port}: {}", side.passcode.reveal()));
                "--passcode-file FILE".into()
            }
        };
        text.push_str(&format!(
            "\n{what} (port {port}):\n  iofog-connector tunnel --connector {host}:{port} {secret} {trust} {work}"
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
        if let Some(Made { path, .. }) = made.get(2 * index + 1) {
            install.push_str(&format!(
                "  sudo iofog-connector tunnel install {} {work}\n",
                quoted(path)
            ));
        }
    }
    if !install.is_empty() {
        text.push_str(&format!(
            "\nor permanently, here, or on another machine with a copy of the file (mode 0600), which is all it needs:\n\
             {install}"
        ));
    } else if !daemon.dev {
        text.push_str("\nOn another machine, copy the connector's certificate there first and give the path of the copy.\n");
    }
    text
}

/// On which addresses the ports are open; and what passes them unencrypted.
fn reach(add: &Add, added: &Added, daemon: &Status) -> String {
    let Added { port1, port2, .. } = added;
    let place = match (daemon.listen.as_str(), daemon.loopback()) {
        ("", _) => return String::new(),
        (_, Some(ip)) => format!("{ip} alone: only this machine reaches them"),
        ("::" | "0.0.0.0", _) => "every address of this machine".to_owned(),
        (ip, _) => ip.to_owned(),
    };
    let mut text = format!("ports {port1} and {port2} are open on {place}\n");
    if daemon.loopback().is_some() {
        return text;
    }
    if daemon.dev {
        text.push_str(
            "warning: dev is true, so passcodes and users' bytes cross the network unencrypted\n",
        );
    } else if add.public && add.members.get("users").is_some_and(|users| users == "plain") {
        text.push_str(&format!(
            "warning: port {port2} takes plain TCP from the network, so the service itself must \
             encrypt and ask who comes, as SSH does\n"
        ));
    }
    text
}

fn list(wide: bool, options: &Options) -> Result<String, Fault> {
    let width = if wide { None } else { terminal::width() };
    Ok(report::list(&report(options)?, width))
}

fn remove(id: &str, options: &Options) -> Result<(), Fault> {
    call(options, "POST", "mapping/remove", &form(&[("mappingid", id)])).map(drop)
}
