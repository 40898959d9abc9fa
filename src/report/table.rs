//! The table that `iofog-connector status` prints: what matters at a glance, one line a mapping,
//! what is wrong with one indented below it.

use std::fmt::Write;
use std::time::Duration;

use super::answer::Report;
use crate::logging::Utc;
use crate::report::status::reached::LimitsReached;
use crate::report::status::refused::{Refusals, Refused};
use crate::report::status::{Counts, MappingStatus, SideStatus, Tunnels};
use crate::text::counted;
use crate::text::line::escaped;

const COLUMNS: [&str; 9] = [
    "MAPPING",
    "KIND",
    "PORTS",
    "TUNNELS idle/in use/allowed",
    "USERS waiting/served",
    "UP",
    "DOWN",
    "STATE",
    "PUBLIC URL",
];

/// The table, with a line break at its end.
pub fn table(report: &Report) -> String {
    let (state, totals) = (&report.state, &report.totals);
    let mut text = format!(
        "iofog-connector {}, running for {}\n",
        escaped(&report.version),
        duration(state.uptime)
    );
    if let Some(draining) = &state.draining {
        line(&mut text, &format!("{draining}; a second SIGTERM ends them at once"));
    }
    if let Some(ip) = state.loopback() {
        line(&mut text, &format!("mappings' ports listen on {ip} alone: for this machine only"));
    }
    for warning in &state.warnings {
        line(&mut text, &format!("warning: {}", escaped(warning)));
    }
    text.push('\n');
    if state.mappings.is_empty() {
        line(&mut text, "no mappings");
    } else {
        let mut rows = vec![COLUMNS.map(String::from)];
        rows.extend(state.mappings.iter().map(row));
        rows.push(total(state.mappings.len(), totals.tunnels, &totals.counts));
        let widths = widths(&rows);
        for (number, row) in rows.iter().enumerate() {
            line(&mut text, &aligned(row, &widths));
            // The first row is the heading and the last one the totals.
            let mapping = number.checked_sub(1).and_then(|number| state.mappings.get(number));
            // That ports are closed is said once, above.
            let closed = state.draining.is_none();
            for fault in mapping.map(|mapping| faults(mapping, closed)).unwrap_or_default() {
                line(&mut text, &format!("    {fault}"));
            }
        }
    }
    text.push('\n');
    let counts = &totals.counts;
    line(
        &mut text,
        &format!(
            "sessions {} now, {} in all; refused: {}, {}, {}; connections without passcode yet {}",
            counts.sessions,
            counts.sessions_total,
            counted(counts.users_refused, "user"),
            counted(counts.agents_refused, "agent"),
            counted(counts.handshake_failures, "TLS handshake"),
            counts.pending
        ),
    );
    line(
        &mut text,
        &format!(
            "free ports {}; direct connections {}; API: {} refused, {} failed",
            state.available_ports,
            state.direct,
            counted(state.api_refused, "request"),
            counted(state.api_handshake_failures, "TLS handshake")
        ),
    );
    if state.log_lost > 0 {
        line(
            &mut text,
            &format!("log messages lost {}: `iofog-connector check` says why", state.log_lost),
        );
    }
    for reached in limits(&state.limits_reached) {
        line(&mut text, &reached);
    }
    for refused in refusals(&state.api_refusals) {
        line(&mut text, &format!("API: {refused}"));
    }
    text
}

fn row(mapping: &MappingStatus) -> [String; 9] {
    let [one, two] = &mapping.sides;
    let tunnels: Vec<String> =
        [one, two].iter().filter_map(|side| side.tunnels).map(tunnels).collect();
    let counts = &mapping.counts;
    let users = match mapping.public {
        true => format!("{}/{}", counts.users_waiting, counts.users_served),
        false => "-".into(),
    };
    [
        escaped(mapping.name()),
        if mapping.public { "public" } else { "private" }.into(),
        format!("{} {}", one.port, two.port),
        tunnels.join(" "),
        users,
        bytes(counts.bytes_up),
        bytes(counts.bytes_down),
        state(one, two).into(),
        mapping.url.as_deref().map_or("-".into(), escaped),
    ]
}

fn total(mappings: usize, all: Tunnels, counts: &Counts) -> [String; 9] {
    [
        counted(mappings as u64, "mapping"),
        String::new(),
        String::new(),
        tunnels(all),
        format!("{}/{}", counts.users_waiting, counts.users_served),
        bytes(counts.bytes_up),
        bytes(counts.bytes_down),
        String::new(),
        String::new(),
    ]
}

fn tunnels(tunnels: Tunnels) -> String {
    format!("{}/{}/{}", tunnels.idle, tunnels.in_use, tunnels.allowed)
}

fn state(one: &SideStatus, two: &SideStatus) -> &'static str {
    match (one.open, two.open) {
        (true, true) => "active",
        (false, false) => "inactive",
        _ => "half open",
    }
}

fn faults(mapping: &MappingStatus, closed: bool) -> Vec<String> {
    let mut faults: Vec<String> = mapping
        .sides
        .iter()
        .filter(|side| closed && !side.open)
        .map(|side| {
            let fault = escaped(side.fault.as_deref().unwrap_or("not open"));
            let port = format!("port {}", side.port);
            if fault.starts_with(&port) { fault } else { format!("{port}: {fault}") }
        })
        .collect();
    for tunnels in mapping.sides.iter().filter_map(|side| side.tunnels) {
        if tunnels.draining > 0 {
            faults.push(format!(
                "tunnels draining, their user gone and the old answer not over: {}",
                tunnels.draining
            ));
        }
        if tunnels.unanswered > 0 {
            faults.push(format!(
                "tunnels whose agent took a user's bytes and answered nothing: {}",
                tunnels.unanswered
            ));
        }
    }
    let is_said = |error: &String| {
        let mut sides = mapping.sides.iter();
        closed && sides.any(|side| !side.open && side.fault.as_ref() == Some(error))
    };
    if let Some(error) = mapping.last_error.as_ref().filter(|error| !is_said(error)) {
        let at = mapping.last_error_at.map(|at| format!(" at {}", Utc(at / 1000)));
        let over = if mapping.last_error_over { ", over since" } else { "" };
        faults.push(format!("last error{}{over}: {}", at.unwrap_or_default(), escaped(error)));
    }
    faults.extend(refusals(&mapping.refusals));
    faults.extend(limits(&mapping.limits_reached));
    faults
}

fn refusals(refusals: &Refusals) -> impl Iterator<Item = String> {
    refusals.iter().map(|Refused { who, why, times, last }| {
        let (who, why, last) = (escaped(who), escaped(why), Utc(last / 1000));
        format!("refused: {who}: {why}, {}, last at {last}", how_often(*times))
    })
}

fn how_often(times: u64) -> String {
    match times {
        1 => "once".into(),
        times => format!("{times} times"),
    }
}

fn limits(limits: &LimitsReached) -> impl Iterator<Item = String> {
    limits.iter().map(|reached| {
        let times = how_often(reached.times);
        let last = Utc(reached.last / 1000);
        format!("limit reached: {}, {times}, last at {last}", escaped(&reached.limit))
    })
}

fn widths(rows: &[[String; 9]]) -> [usize; 9] {
    let mut widths = [0; 9];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

fn aligned(row: &[String; 9], widths: &[usize; 9]) -> String {
    let mut text = String::new();
    for (cell, width) in row.iter().zip(widths) {
        // Writing to a string does not fail.
        let _ = write!(text, "{cell:<width$}  ");
    }
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

/// A number of bytes in three or four digits.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 999.95 would be rounded to 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A time in its two largest units.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    if days > 0 {
        format!("{days} d {hours} h")
    } else if hours > 0 {
        format!("{hours} h {minutes} min")
    } else if minutes > 0 {
        format!("{minutes} min {} s", seconds % 60)
    } else {
        format!("{seconds} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_023_948, "999.9 KiB"),
            (1_023_999, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (count, expected) in cases {
            assert_eq!(bytes(count), expected);
        }
        let cases = [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (3660, "1 h 1 min"),
            (90_000, "1 d 1 h"),
            (864_000_000, "10000 d 0 h"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(duration(Duration::from_secs(seconds)), expected);
        }
        assert_eq!(escaped("a\u{1b}[2Jb\nc\u{e9}"), "a\\u{1b}[2Jb\\nc\u{e9}");
    }
}
