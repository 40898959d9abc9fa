//! `mapping`: what the Controller does over the API, for people without one, over the control
//! socket.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::control::{self, ControlError};
use super::exit::UNKNOWN;
use crate::agent::options as tunnel;
use crate::config::folders::Options;
use crate::limits;
use crate::mappings::mapping::{Passcode, Pipe};
use crate::mappings::store;
use crate::os::terminal::{complain, is_printed};
use crate::report::Report;
use crate::report::status::Status;
use crate::text::reason::{self, quoted};
use crate::text::{file, json};
use crate::tls;

/// What to do with mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Opens a pipe.
    Add(Add),
    /// Shows those that are there.
    List,
    /// Closes one.
    Remove {
        /// Its name or id.
        id: String,
        /// Where the passcodes' files were made.
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
    /// Where the passcodes' files are made.
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

/// What every failed call answers.
#[derive(Deserialize)]
struct Failed {
    errormessage: String,
}

/// Does what is asked for.
pub(super) fn run(request: &Request, options: &Options) -> ExitCode {
    let outcome = match request {
        Request::Add(add) => open(add, options),
        Request::List => list(options),
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

/// Why it was not done, and the exit status that says so.
struct Fault {
    code: u8,
    text: String,
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
    // The commands give the files' whole paths, so that they work from any folder.
    let dir = fs::canonicalize(&add.dir).map_err(|error| {
        let why = reason::reading(&add.dir, &error);
        format!("--dir {}: {why}; make it, or name another folder", add.dir.display())
    })?;
    // What the daemon runs with counts, whatever the settings on disk say. It is asked first: if it
    // does not answer, nothing has been opened.
    let report = report(options)?;
    let answer = call(options, "POST", "mapping/add", &form("mapping", &mapping.to_string()))?;
    let added: Added = understood(json::read(answer.as_bytes()))?;
    let mut sides = vec![(added.port1, &added.passcode1)];
    if !add.public {
        sides.push((added.port2, &added.passcode2));
    }
    let mut places = Vec::new();
    for (port, passcode) in sides {
        let place = if add.show {
            Ok(None)
        } else {
            Passcode::new(passcode)
                .ok_or_else(|| "the connector gave no passcode".to_owned())
                .and_then(|passcode| keep(&dir, port, &passcode).map(Some))
        };
        match place {
            Ok(place) => places.push((port, passcode.as_str(), place)),
            Err(fault) => {
                for (_, _, made) in places {
                    let _ = made.map(fs::remove_file);
                }
                // A mapping whose passcodes nobody has is useless.
                remove(&added.id, options)?;
                return Err(format!("{fault}. No mapping was added").into());
            }
        }
    }
    Ok(instructions(add, &added, &places, options, &report.state))
}

/// Removes a mapping, and the files in `dir` that `add` has made for it: they would be in the way
/// of the next mapping with these ports. One that holds anything else stays.
fn close(id: &str, dir: &Path, options: &Options) -> Result<String, Fault> {
    // The passcodes are known only while the mapping is there, and only from the daemon's own
    // folder.
    let stored = store::check(&options.config_dir).unwrap_or_default();
    let report = report(options)?;
    let all = &report.state.mappings;
    let by_id = all.iter().find(|mapping| &*mapping.id == id);
    let running = by_id.or_else(|| all.iter().find(|mapping| mapping.name() == id));
    let mapping = running.and_then(|of| stored.into_iter().find(|mapping| mapping.id == of.id));
    remove(id, options)?;
    let mut text = format!("mapping {id} removed\n");
    let ports = running.into_iter().flat_map(|mapping| &mapping.sides).map(|side| side.port);
    let sides = match mapping.map(|mapping| mapping.pipe) {
        Some(Pipe::Public { agent, .. }) => vec![agent],
        Some(Pipe::Private { sides }) => sides.into(),
        Some(Pipe::Direct { .. }) | None => Vec::new(),
    };
    let mut found = false;
    for port in ports {
        let path = passcode_file(dir, port);
        let passcode = sides.iter().find(|side| side.port == port).map(|side| &side.passcode);
        match discard(&path, passcode) {
            Ok(true) => text.push_str(&format!("{} removed\n", path.display())),
            Ok(false) => continue,
            Err(why) => text.push_str(&format!(
                "{} stays: {why}; while it is there, no mapping with port {port} can be added with \
                 this folder\n",
                path.display()
            )),
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

/// Removes the file if it is what [`keep`] has written; `false` if there is none.
fn discard(path: &Path, passcode: Option<&Passcode>) -> Result<bool, String> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(reason::reading(path, &error)),
        Ok(found) if !found.is_file() => return Err("it is no file of its own".into()),
        Ok(_) => {}
    }
    let Some(passcode) = passcode else {
        return Err("the state file does not say this mapping's passcode".into());
    };
    let text = file::read(path, 1024, None).map_err(|error| reason::reading(path, &error))?;
    if text.strip_suffix(b"\n").is_none_or(|text| !passcode.matches(text)) {
        return Err("it does not hold this mapping's passcode".into());
    }
    fs::remove_file(path).map_err(|error| reason::writing(path, &error))?;
    Ok(true)
}

/// Where the passcode of a port is kept.
fn passcode_file(dir: &Path, port: u16) -> PathBuf {
    dir.join(format!("iofog-{port}.passcode"))
}

/// Writes a passcode to a new file that only this user can read.
fn keep(dir: &Path, port: u16, passcode: &Passcode) -> Result<PathBuf, String> {
    let path = passcode_file(dir, port);
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let written = written.and_then(|mut file| {
        let kept = writeln!(file, "{}", passcode.reveal()).and_then(|()| file.sync_all());
        // The file's name must be on disk, too; a folder that may not be read cannot be synced.
        let kept = kept.and_then(|()| File::open(dir).map_or(Ok(()), |folder| folder.sync_all()));
        kept.inspect_err(|_| {
            // It would be in the way of the next one.
            let _ = fs::remove_file(&path);
        })
    });
    match written {
        Ok(()) => Ok(path),
        Err(error) => {
            let why = match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    "already exists, perhaps left by a removed mapping; delete it".into()
                }
                _ => reason::writing(&path, &error),
            };
            let file = path.display();
            Err(format!("{file}: {why}; or name another folder with --dir"))
        }
    }
}

/// What was opened, and the command for each side.
fn instructions(
    add: &Add,
    added: &Added,
    places: &[(u16, &str, Option<PathBuf>)],
    options: &Options,
    daemon: &Status,
) -> String {
    let host = match daemon.address.as_str() {
        // A daemon from before an upgrade does not give its address.
        "" => "CONNECTOR".to_owned(),
        host if host.contains(':') => format!("[{host}]"),
        host => host.to_owned(),
    };
    let certificate = fs::canonicalize(&options.config_dir)
        .unwrap_or_else(|_| options.config_dir.clone())
        .join(tls::CERTIFICATE);
    let trust = match daemon.dev {
        true => "--plain".to_owned(),
        false => format!("--ca {}", quoted(&certificate)),
    };
    // Three heartbeats within the threshold, as with the defaults of 20 s and 60 s.
    let beat = match add.threshold {
        threshold @ 1..60_000 => format!(" --heartbeat {}", (threshold / 3).max(100)),
        _ => String::new(),
    };
    // More than the mapping allows would be refused again and again; fewer is the tunnel's own choice.
    let connections = match u64::from(add.connections) {
        few if few < tunnel::CONNECTIONS => format!(" --connections {few}"),
        _ => String::new(),
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
    for (index, (port, passcode, place)) in places.iter().enumerate() {
        let (what, work) = match (add.public, index) {
            (true, _) | (false, 0) => {
                ("where the service runs", format!("--target localhost:PORT{connections}"))
            }
            (false, _) => ("where it is used", "--listen 127.0.0.1:PORT".to_owned()),
        };
        let secret = match place {
            Some(path) => format!("--passcode-file {}", quoted(path)),
            None => {
                text.push_str(&format!("\npasscode of port {port}: {passcode}"));
                "--passcode-file FILE".into()
            }
        };
        text.push_str(&format!(
            "\n{what} (port {port}):\n  iofog-connector tunnel --connector {host}:{port} {secret} \
             {trust} {work}{beat}\n"
        ));
    }
    let mut files = Vec::new();
    if !add.show {
        files.push("the passcode file (mode 0600)");
    }
    if !daemon.dev {
        files.push("the connector's certificate");
    }
    if !files.is_empty() {
        text.push_str(&format!(
            "\nOn another machine, copy {} there first and give the path of the copy.\n",
            files.join(" and ")
        ));
    }
    text
}

fn list(options: &Options) -> Result<String, Fault> {
    let report = report(options)?;
    let mut text = String::new();
    for mapping in &report.state.mappings {
        let [one, two] = &mapping.sides;
        let kind = if mapping.public { "public" } else { "private" };
        let url = mapping.url.as_deref().unwrap_or("-");
        let name = mapping.name();
        text.push_str(&format!("{name}  {kind:<7}  {} {}  {url}\n", one.port, two.port));
    }
    if text.is_empty() {
        text.push_str("no mappings\n");
    }
    Ok(text)
}

fn remove(id: &str, options: &Options) -> Result<(), Fault> {
    call(options, "POST", "mapping/remove", &form("mappingid", id)).map(drop)
}

fn form(name: &str, value: &str) -> String {
    form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish()
}

/// Asks the daemon; the error is a sentence for when it refuses or does not answer.
fn call(options: &Options, method: &str, path: &str, body: &str) -> Result<String, Fault> {
    let path = format!("/api/v2/{path}");
    match control::call(limits::CONTROL_WAIT, &options.run_dir, method, &path, body) {
        Ok((200, answer)) => Ok(answer),
        Ok((status, answer)) => Err(match serde_json::from_str::<Failed>(&answer) {
            Ok(failed) => failed.errormessage,
            Err(_) => format!("the connector answers {status}"),
        }
        .into()),
        Err(error) => Err(error.into()),
    }
}

fn report(options: &Options) -> Result<Report, Fault> {
    Ok(understood(Report::read(call(options, "GET", "status", "")?.as_bytes()))?)
}

fn understood<T>(read: Result<T, String>) -> Result<T, String> {
    read.map_err(|fault| {
        format!("the connector's answer cannot be read ({fault}); is it of another version?")
    })
}
