//! `tunnels status`: what the process of all tunnels tells of them.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use super::control::{self, ControlError};
use super::exit::{NOT_RUNNING, UNKNOWN};
use crate::config::folders::TUNNELS_SOCKET;
use crate::limits;
use crate::os::terminal::{complain, print};
use crate::text::line::escaped;

/// Shows the tunnels as a table, or as the JSON that the process answers.
pub(super) fn status(run: &Path, json: bool) -> ExitCode {
    let socket = run.join(TUNNELS_SOCKET);
    let answer = control::call_within(limits::STATUS_WAIT, &socket, "GET", "/", "");
    let state = match answer {
        Ok((_, state)) => state,
        Err(ControlError::NotRunning(_)) => {
            return match print(
                "`tunnels` is not running; `sudo systemctl start iofog-connector-tunnels` starts it, \
                 `sudo iofog-connector tunnels` where there is no systemd\n",
            ) {
                ExitCode::SUCCESS => NOT_RUNNING.into(),
                failed => failed,
            };
        }
        Err(error) => {
            complain(error);
            return UNKNOWN.into();
        }
    };
    if json {
        return print(&format!("{state}\n"));
    }
    match crate::text::json::read::<Value>(state.as_bytes()) {
        Ok(state) => print(&table(&state)),
        Err(_) => {
            complain("the answer of `tunnels` cannot be read; `--json` shows it");
            UNKNOWN.into()
        }
    }
}

/// Each tunnel in a line, and below it what went wrong last, if anything has.
fn table(state: &Value) -> String {
    let none = Vec::new();
    let tunnels = state["tunnels"].as_array().unwrap_or(&none);
    let text = |value: &Value| match value {
        Value::String(text) => escaped(text),
        Value::Null => "-".into(),
        other => other.to_string(),
    };
    let width = tunnels.iter().map(|one| text(&one["name"]).chars().count()).max();
    let width = width.unwrap_or_default().max(6);
    let mut table = format!(
        "{:<width$}  {:<11}  {:<20}  {:>4}  {:>8}  {:>10}  {:>10}  CONNECTOR\n",
        "TUNNEL", "STATE", "SINCE", "IDLE", "SESSIONS", "BYTES IN", "BYTES OUT"
    );
    for one in tunnels {
        let [name, state, since, idle, sessions, into, out, connector, error, at] = [
            "name",
            "state",
            "since",
            "idle",
            "sessions",
            "bytesIn",
            "bytesOut",
            "connector",
            "lastError",
            "lastErrorAt",
        ]
        .map(|member| text(&one[member]));
        let version = one["version"].as_u64().map(|version| format!(" (version {version})"));
        let _ = writeln!(
            table,
            "{name:<width$}  {state:<11}  {since:<20}  {idle:>4}  {sessions:>8}  {into:>10}  \
             {out:>10}  {connector}{}",
            version.unwrap_or_default()
        );
        if !one["lastError"].is_null() {
            let _ = writeln!(table, "    {at}: {error}");
        }
    }
    if tunnels.is_empty() {
        let _ = writeln!(table, "no tunnels in {}", text(&state["folder"]));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_a_line_and_what_went_wrong_another() {
        let well = r#"{"name":"ssh","connector":"c:1","version":2,"state":"connected",
            "since":"2026-11-27T19:00:00Z","idle":8,"sessions":1,"bytesIn":10,"bytesOut":20,
            "lastError":null,"lastErrorAt":null}"#;
        let ill =
            r#"{"name":"a-longer-name","state":"faulty","lastError":"x.conf: line 2: \u001b"}"#;
        let state = format!("{{\"folder\":\"/f\",\"tunnels\":[{well},{ill}]}}");
        let table = table(&serde_json::from_str(&state).unwrap());
        let lines: Vec<_> = table.lines().collect();
        let words: Vec<_> = lines[1].split_whitespace().collect();
        let expected = ["ssh", "connected", "2026-11-27T19:00:00Z", "8", "1", "10", "20", "c:1"];
        assert_eq!(words, [&expected[..], &["(version", "2)"]].concat());
        assert!(lines[2].starts_with("a-longer-name  faulty"), "{table}");
        assert!(lines[3].contains("x.conf: line 2: ") && !table.contains('\u{1b}'), "{table}");
        assert_eq!(lines.len(), 4);
    }
}
