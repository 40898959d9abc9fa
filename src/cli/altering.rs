//! `mapping change`, `mapping passcode` and `mapping show`.

use std::path::Path;

use serde_json::{Map, Value};

use super::asking::{
    Answer, Daemon, Fault, call, checked_limits, checked_options, exposed, find, folder, form,
    report, titled,
};
use super::exit::UNKNOWN;
use super::files::{self, Files, Staged};
use crate::config::folders::Options;
use crate::mappings::mapping::{AgentLimits, AgentPort};
use crate::mappings::store;
use crate::report::status::{SideStatus, listed};
use crate::text::line::escaped;
use crate::text::reason::quoted;

/// Changes members of a mapping; `limits` are those of each agent's side: tunnels, and silence in milliseconds.
pub(super) fn change(
    id: &str,
    members: &Map<String, Value>,
    limits: [Option<u64>; 2],
    options: &Options,
) -> Result<String, Fault> {
    let report = report(options)?;
    let mapping = find(&report, id)?;
    let public = mapping.public;
    let names: &[[&str; 2]] = if public { &[AgentLimits::PUBLIC] } else { &AgentLimits::PRIVATE };
    let mut members = members.clone();
    for (name, value) in names.iter().flat_map(|names| names.iter().zip(limits)) {
        members.extend(value.map(|value| ((*name).to_owned(), value.into())));
    }
    let renamed = members.get("name").map(|name| name.as_str().unwrap_or(&mapping.id).to_owned());
    let is_of_users = members.contains_key("users");
    let body =
        form(&[("mappingid", &mapping.id), ("mapping", &Value::Object(members).to_string())]);
    call(options, "POST", "mapping/change", &body)?;
    let mut text = format!("mapping {} changed\n", titled(mapping));
    if let Some(new) = renamed.filter(|new| new != mapping.name()) {
        text.push_str(&format!(
            "it is called {new} now; its files stay valid under their old names, and `mapping remove`\n\
             finds them; `mapping passcode` writes files of the new name\n"
        ));
    }
    if is_of_users {
        let report = self::report(options)?;
        let mapping = find(&report, &mapping.id)?;
        if let (Some(url), [.., users]) = (&mapping.url, &mapping.sides[..]) {
            text.push_str(&format!("users connect to {url} now\n"));
            if url.starts_with("tcp:") {
                text.push_str(&exposed(Some(users.port), &report.state));
            }
        }
    }
    Ok(text)
}

/// Has a passcode made for the agents of a side, 1 or 2, and puts it into that side's files in `dir`, or prints it.
pub(super) fn passcode(
    id: &str,
    side: usize,
    show: bool,
    dir: &Path,
    options: &Options,
) -> Result<String, Fault> {
    let dir = folder(dir)?;
    if !show {
        // After the call it would be too late to find out that nothing can be written there.
        drop(Staged::new(&dir, ("iofog-connector".into(), String::new()), None)?);
    }
    // The old files are known by the old passcode, where this user may see it.
    let stored = store::check(&options.config_dir).unwrap_or_default();
    let daemon = Daemon::ask(options)?;
    let mapping = find(&daemon.report, id)?;
    let checked = checked_options(mapping)?;
    let index = side - 1;
    let before = stored.iter().find(|stored| stored.id == mapping.id);
    let before = before.and_then(|stored| stored.pipe.agents().get(index));
    let files = Files::new(&dir, &daemon, &checked, mapping.public);
    let body = form(&[("mappingid", &mapping.id), ("side", &side.to_string())]);
    let answer = call(options, "POST", "mapping/passcode", &body).map_err(|mut fault| {
        if fault.code == UNKNOWN {
            fault.text.push_str("; whether there is a new passcode is not known, so call it again");
        }
        fault
    })?;
    let lost = |why: String| {
        format!(
            "the passcode is changed, and agents with the old one are refused, but {why}; call \
             `mapping passcode {id} --side {side}` again for another one"
        )
    };
    let answer = Answer::read(&answer).map_err(lost)?;
    let port = answer.port("port").map_err(lost)?;
    let passcode = answer.passcode("passcode").map_err(lost)?;
    let mut text = format!("mapping {} has a new passcode for port {port}\n", titled(mapping));
    let before = before.map(|before| before.passcode.reveal());
    let mut old = files.held(index, port, before);
    if show {
        text.push_str(&format!("passcode of port {port}: {}\n", passcode.reveal()));
    } else {
        let limits = checked_limits(mapping, index).map_err(lost)?;
        let side = AgentPort { port, passcode, limits };
        // All are written before the first one takes its place.
        let mut staged = Vec::new();
        let mut install = String::new();
        for renewed in files.renewed(index, &side, before) {
            old.retain(|held| held.name != *renewed.wanted.0);
            let (name, content) = &renewed.wanted;
            let file = quoted(&dir.path.join(name));
            // The last one is the tunnel file.
            install = format!("{file}{}", files::work(content, index));
            let is_own = renewed.old.is_some();
            let new = Staged::new(&dir, renewed.wanted, renewed.old).map_err(lost)?;
            staged.push((new, is_own, renewed.distrust, renewed.settings));
        }
        for (new, is_own, distrust, settings) in staged {
            let made = new.put().map_err(lost)?;
            let path = made.path();
            let path = path.display();
            text.push_str(&match made.aside() {
                None if is_own => format!("{path} is renewed"),
                None => format!("{path} is written"),
                Some(aside) => {
                    format!("{path} is written; what was there is {} now", aside.display())
                }
            });
            if let Some(why) = distrust {
                text.push_str(&format!(", and nothing of it was taken over: {why}"));
            }
            if !settings.is_empty() {
                text.push_str(&format!("; in it is {settings}, as the mapping allows"));
            }
            text.push('\n');
        }
        text.push_str(&format!(
            "on the agent's machine, with a copy of the tunnel file:\n  \
             sudo iofog-connector tunnel install {install} --replace\n"
        ));
    }
    let old = old.into_iter().map(|held| (held.name, "holds an old one, and stays as it is"));
    text.push_str(&files::listed(&dir, &old.collect::<Vec<_>>()));
    text.push_str("sessions go on; agents with the old passcode are refused from now on\n");
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
            "{}: {state}; tunnels: {} idle, {} in use, {} allowed; closed after {}",
            side.port,
            of.idle,
            of.in_use,
            of.allowed,
            match side.heartbeat_threshold {
                Some(time) => format!("{time} ms of silence"),
                None => "no time of silence".into(),
            }
        ),
    }
}
