//! `mapping change`, `mapping passcode` and `mapping show`.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::asking::{Fault, call, find, folder, form, host, report, understood};
use super::files::{self, Files, Made};
use crate::config::folders::Options;
use crate::mappings::mapping::{AgentLimits, AgentPort, Passcode};
use crate::mappings::store;
use crate::report::status::{SideStatus, listed};
use crate::text::json;
use crate::text::line::escaped;

/// What `mapping/passcode` answers.
#[derive(Deserialize)]
struct Renewed {
    port: u16,
    passcode: String,
}

/// Changes members of a mapping; `limits` are those of each agent's side: tunnels, and silence in milliseconds.
pub(super) fn change(
    id: &str,
    members: &Map<String, Value>,
    limits: [Option<u64>; 2],
    options: &Options,
) -> Result<String, Fault> {
    let report = report(options)?;
    let public = find(&report, id)?.public;
    let names: &[[&str; 2]] = if public { &[AgentLimits::PUBLIC] } else { &AgentLimits::PRIVATE };
    let mut members = members.clone();
    for (name, value) in names.iter().flat_map(|names| names.iter().zip(limits)) {
        members.extend(value.map(|value| ((*name).to_owned(), value.into())));
    }
    let body = form(&[("mappingid", id), ("mapping", &Value::Object(members).to_string())]);
    call(options, "POST", "mapping/change", &body)?;
    Ok(format!("mapping {id} changed\n"))
}

/// Has a passcode made for the agents of a side, 1 or 2, and writes that side's files anew in `dir`, or prints it.
pub(super) fn passcode(
    id: &str,
    side: usize,
    show: bool,
    dir: &Path,
    options: &Options,
) -> Result<String, Fault> {
    let dir = folder(dir)?;
    // The old files are known by the old passcode.
    let stored = store::check(&options.config_dir).unwrap_or_default();
    let report = report(options)?;
    let mapping = find(&report, id)?;
    let index = side - 1;
    let before = stored.iter().find(|stored| stored.id == mapping.id);
    let before = before.and_then(|stored| stored.pipe.agents().get(index));
    let body = form(&[("mappingid", &mapping.id), ("side", &side.to_string())]);
    let answer = call(options, "POST", "mapping/passcode", &body)?;
    let Renewed { port, passcode } = understood(json::read(answer.as_bytes()))?;
    let mut text = format!("mapping {id} has a new passcode for port {port}\n");
    if show {
        text.push_str(&format!("passcode of port {port}: {passcode}\n"));
    } else {
        let host = host(&report.state);
        let name = mapping.options.get("name").and_then(Value::as_str);
        let files = Files::new(&dir, &host, &report.state, name, mapping.public);
        let passcode = Passcode::new(&passcode);
        let passcode = passcode.ok_or_else(|| "the connector gave no passcode".to_owned())?;
        let unknown = AgentLimits { max_connections: u16::MAX, heartbeat_threshold: None };
        let limits = before.map_or(unknown, |before| before.limits);
        for wanted in before.into_iter().flat_map(|before| files.of(index, before)) {
            // One that somebody has changed is put aside instead.
            let _ = files::discard(&wanted);
        }
        for wanted in files.of(index, &AgentPort { port, passcode, limits }) {
            let made = Made::new(wanted).map_err(|why| {
                format!(
                    "{text}{why}; then call `mapping passcode` again: nobody has the new passcode"
                )
            })?;
            text.push_str(&format!("{} is written anew", made.path.display()));
            if let Some(aside) = made.aside {
                text.push_str(&format!("; what was there is {} now", aside.display()));
            }
            text.push('\n');
        }
        text.push_str(
            "copy the tunnel file to the agent's machine, and install it there with `--replace`\n",
        );
    }
    text.push_str(
        "tunnels that are open stay; agents that come with the old passcode are refused from now on\n",
    );
    Ok(text)
}

/// All that is to be said of one mapping, one thing a line.
pub(super) fn show(id: &str, options: &Options) -> Result<String, Fault> {
    let report = report(options)?;
    let mapping = find(&report, id)?;
    let counts = &mapping.counts;
    let mut lines = vec![
        ("id", mapping.id.to_string()),
        ("type", if mapping.public { "public" } else { "private" }.to_owned()),
    ];
    lines.extend(mapping.url.as_ref().map(|url| ("url", url.clone())));
    for (name, side) in ["port1", "port2"].into_iter().zip(&mapping.sides) {
        lines.push((name, port(side)));
    }
    lines.extend(mapping.options.iter().map(|(name, value)| (&**name, listed(value))));
    lines.push(("sessions", format!("{} now, {} in all", counts.sessions, counts.sessions_total)));
    if mapping.public {
        let users = [counts.users_waiting, counts.users_served, counts.users_refused];
        let [waiting, served, refused] = users;
        lines.push(("users", format!("{waiting} waiting, {served} served, {refused} refused")));
    }
    let error = mapping.last_error.clone().filter(|_| !mapping.last_error_over);
    lines.extend(error.map(|error| ("last error", error)));
    let line = |(name, value): (&str, String)| format!("{name:<16} {}\n", escaped(&value));
    Ok(lines.into_iter().map(line).collect())
}

fn port(side: &SideStatus) -> String {
    let state = match &side.fault {
        Some(fault) if !side.open => fault,
        _ => "open",
    };
    match side.tunnels {
        None => format!("{}: {state}", side.port),
        Some(of) => format!(
            "{}: {state}; tunnels: {} idle, {} in use, {} allowed",
            side.port, of.idle, of.in_use, of.allowed
        ),
    }
}
