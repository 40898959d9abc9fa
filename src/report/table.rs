//! The table that `iofog-connector status` prints: what matters at a glance, one line a mapping,
//! what is wrong with one indented below it. On a narrow terminal it has fewer columns.

use std::time::Duration;

use super::answer::Report;
use crate::logging::Utc;
use crate::report::status::reached::LimitsReached;
use crate::report::status::refused::{Refusals, Refused};
use crate::report::status::{Counts, MappingStatus, Tunnels};
use crate::text::counted;
use crate::text::line::{cut, escaped};

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

/// The columns of events, but for the last one.
const EVENTS: [&str; 4] = ["TIME", "TIMES", "EVENT", "MAPPING"];

/// The headings of columns 3 and 4 where the terminal is too narrow for the whole ones.
const SHORT: [&str; 2] = ["TUNNELS", "USERS"];

/// Columns that a narrow terminal does without, the first one first.
const SPARED: &[usize] = &[8, 1, 5, 6];

/// Characters of a mapping's name that are shown at least: of an id, as many as tell it from others.
const NAME: usize = 9;

/// The table, with a line break at its end; `width` is that of the terminal, `None` for everything.
pub fn table(report: &Report, width: Option<usize>) -> String {
    let (state, totals) = (&report.state, &report.totals);
    let mut text = String::new();
    let mut line = |words: &str| wrapped(&mut text, words, width);
    before(report).iter().for_each(|words| line(words));
    line("");
    if state.mappings.is_empty() {
        line("no mappings");
    } else {
        let mut rows = vec![COLUMNS.map(String::from).to_vec()];
        rows.extend(state.mappings.iter().map(row));
        rows.push(total(state.mappings.len(), totals.tunnels, &totals.counts));
        let is_narrow = width.is_some_and(|width| widths(&rows).iter().sum::<usize>() > width + 2);
        if is_narrow {
            for (heading, short) in rows[0][3..].iter_mut().zip(SHORT) {
                *heading = short.into();
            }
            if let Some(total) = rows.last_mut() {
                total[0] = "total".into();
            }
        }
        for (number, row) in aligned(rows, width, SPARED).iter().enumerate() {
            line(row);
            // The first row is the heading and the last one the totals.
            let mapping = number.checked_sub(1).and_then(|number| state.mappings.get(number));
            // That ports are closed is said once, above.
            let closed = state.draining.is_none();
            for fault in mapping.map(|mapping| faults(mapping, closed)).unwrap_or_default() {
                line(&format!("    {fault}"));
            }
        }
        if is_narrow {
            line(&format!("{}; {}; more: status --wide", COLUMNS[3], COLUMNS[4]));
        }
    }
    line("");
    after(report).iter().for_each(|words| line(words));
    text
}

/// What is said of the daemon before its mappings.
pub(super) fn before(report: &Report) -> Vec<String> {
    let state = &report.state;
    let running = duration(state.uptime);
    let mut lines =
        vec![format!("iofog-connector {}, running for {running}", escaped(&report.version))];
    let draining = state.draining.as_ref();
    lines
        .extend(draining.map(|draining| format!("{draining}; a second SIGTERM ends them at once")));
    lines.extend(state.predecessor.as_ref().map(ToString::to_string));
    let loopback = state.loopback();
    lines.extend(
        loopback.map(|ip| format!("mappings' ports listen on {ip} alone: for this machine only")),
    );
    lines.extend(state.warnings.iter().map(|warning| format!("warning: {}", escaped(warning))));
    lines
}

/// What is said of it after them.
pub(super) fn after(report: &Report) -> Vec<String> {
    let (state, counts) = (&report.state, &report.totals.counts);
    let mut lines = vec![
        format!(
            "sessions {} now, {} in all; refused: {}, {}, {}; connections without passcode yet {}",
            counts.sessions,
            counts.sessions_total,
            counted(counts.users_refused, "user"),
            counted(counts.agents_refused, "agent"),
            counted(counts.handshake_failures, "TLS handshake"),
            counts.pending
        ),
        format!(
            "free ports {}; direct connections {}; API: {} refused, {} failed",
            state.available_ports,
            state.direct,
            counted(state.api_refused, "request"),
            counted(state.api_handshake_failures, "TLS handshake")
        ),
    ];
    if state.log_lost > 0 {
        lines.push(format!(
            "log messages lost {}: log file or syslog did not take them (disk full, no syslog); \
             `sudo iofog-connector check` says why",
            state.log_lost
        ));
    }
    lines.extend(limits(&state.limits_reached));
    lines.extend(refusals(&state.api_refusals).map(|refused| format!("API: {refused}")));
    lines
}

/// What has happened last, one line each, the newest at the end.
pub fn events(report: &Report, width: Option<usize>) -> String {
    let all = &report.state.events;
    if all.is_empty() {
        return "no events since the start\n".into();
    }
    let mut rows = vec![EVENTS.map(String::from).to_vec()];
    rows.extend(all.iter().map(|one| {
        let mapping = one.name.as_deref().or(one.mapping.as_deref());
        let (event, mapping) = (escaped(&one.event), mapping.map_or("-".into(), escaped));
        vec![Utc(one.at / 1000).to_string(), one.count.to_string(), event, mapping]
    }));
    let messages = || ["WHAT"].into_iter().chain(all.iter().map(|one| &*one.message)).map(escaped);
    let columns: usize = widths(&rows).iter().sum();
    let longest = messages().map(|message| message.chars().count()).max().unwrap_or_default();
    let narrow = width.filter(|width| columns + longest > *width);
    if let Some(width) = narrow {
        let others: usize = widths(&rows)[..EVENTS.len() - 1].iter().sum();
        let room = width.saturating_sub(others).max(NAME);
        for mapping in rows.iter_mut().filter_map(|row| row.last_mut()) {
            if mapping.chars().count() > room {
                *mapping = cut(mapping, room - 1);
            }
        }
    }
    let mut text = String::new();
    for (row, message) in padded(&rows).into_iter().zip(messages()) {
        if narrow.is_none() {
            wrapped(&mut text, &(row + &message), None);
        } else {
            // Each message has lines of its own below what it is about.
            wrapped(&mut text, &row, None);
            wrapped(&mut text, &format!("    {message}"), width);
        }
    }
    text
}

/// The mappings alone, one line each below a heading.
pub fn list(report: &Report, width: Option<usize>) -> String {
    if report.state.mappings.is_empty() {
        return "no mappings\n".into();
    }
    let mut rows = vec![COLUMNS.map(String::from).to_vec()];
    rows.extend(report.state.mappings.iter().map(row));
    rows.iter_mut().for_each(|cells| drop(cells.drain(3..8)));
    let mut text = String::new();
    for row in aligned(rows, width, &[1, 3]) {
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

fn row(mapping: &MappingStatus) -> Vec<String> {
    let [one, two] = &mapping.sides;
    let tunnels: Vec<String> =
        [one, two].iter().filter_map(|side| side.tunnels).map(tunnels).collect();
    let counts = &mapping.counts;
    let users = match mapping.public {
        true => format!("{}/{}", counts.users_waiting, counts.users_served),
        false => "-".into(),
    };
    vec![
        escaped(mapping.name()),
        if mapping.public { "public" } else { "private" }.into(),
        format!("{} {}", one.port, two.port),
        tunnels.join(" "),
        users,
        bytes(counts.bytes_up),
        bytes(counts.bytes_down),
        mapping.state().into(),
        mapping.url.as_deref().map_or("-".into(), escaped),
    ]
}

fn total(mappings: usize, all: Tunnels, counts: &Counts) -> Vec<String> {
    vec![
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

pub(super) fn faults(mapping: &MappingStatus, closed: bool) -> Vec<String> {
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
    // One that is over stays in the JSON alone.
    let last_error = mapping.last_error.as_ref().filter(|_| !mapping.last_error_over);
    if let Some(error) = last_error.filter(|error| !is_said(error)) {
        let at = mapping.last_error_at.map(|at| format!(" at {}", Utc(at / 1000)));
        faults.push(format!("last error{}: {}", at.unwrap_or_default(), escaped(error)));
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
        let over = if reached.over { " (over)" } else { "" };
        format!("limit reached: {}, {times}, last at {last}{over}", escaped(&reached.limit))
    })
}

/// The width of each column, with the gap behind it.
pub(super) fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    (0..columns).map(|column| width(column).unwrap_or_default() + 2).collect()
}

/// The rows as lines, each cell as wide as its column.
fn padded(rows: &[Vec<String>]) -> Vec<String> {
    let widths = widths(rows);
    let cell = |(cell, width): (&String, &usize)| format!("{cell:<width$}");
    rows.iter().map(|row| row.iter().zip(&widths).map(cell).collect()).collect()
}

/// The rows as lines of at most `width` characters: without as many of the `spared` columns as it
/// takes, and with the first cells shortened.
pub(super) fn aligned(
    mut rows: Vec<Vec<String>>,
    width: Option<usize>,
    spared: &[usize],
) -> Vec<String> {
    let mut widths = widths(&rows);
    if let (Some(width), false) = (width, widths.is_empty()) {
        let least = widths[0].min(NAME + 2);
        // The gap behind the last column is not printed.
        let others = |widths: &[usize]| widths[1..].iter().sum::<usize>().saturating_sub(2);
        for column in spared {
            if least + others(&widths) > width {
                widths[*column] = 0;
            }
        }
        let room = width.saturating_sub(others(&widths)).max(least);
        for row in rows.iter_mut().filter(|row| row[0].chars().count() + 2 > room) {
            row[0] = row[0].chars().take(room - 3).chain(['…']).collect();
        }
        widths[0] = widths[0].min(room);
    }
    let line = |row: Vec<String>| {
        let cells = row.into_iter().zip(&widths).filter(|(_, width)| **width > 0);
        let line: String = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
        line.trim_end().to_owned()
    };
    rows.into_iter().map(line).collect()
}

/// Adds a line, and where it is longer than `width`, further ones that are indented more.
pub(super) fn wrapped(text: &mut String, words: &str, width: Option<usize>) {
    let begin = words.len() - words.trim_start().len();
    let (mut length, mut indent) = (0, begin);
    if width.is_none_or(|width| words.chars().count() <= width) {
        text.push_str(words.trim_end());
    } else {
        for word in words.split_whitespace() {
            let count = word.chars().count();
            if length > 0 && width.is_some_and(|width| length + 1 + count > width) {
                text.push('\n');
                (length, indent) = (0, begin + 2);
            }
            let gap = if length > 0 { 1 } else { indent };
            text.extend(std::iter::repeat_n(' ', gap));
            text.push_str(word);
            length += gap + count;
        }
    }
    text.push('\n');
}

/// A number of bytes in three or four digits.
pub(super) fn bytes(count: u64) -> String {
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
pub(super) fn duration(time: Duration) -> String {
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
