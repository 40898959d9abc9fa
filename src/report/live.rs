//! What `top` shows: two answers, one after the other, as rates for each mapping or tunnel, in the order that somebody
//! has chosen, as many as fit. Values in, lines out; no terminal here.

use std::time::Instant;

use serde_json::Value;

use super::answer::Report;
use super::table::{bytes, duration};
use crate::logging::Utc;
use crate::report::status::{MappingStatus, SideStatus, Tunnels};
use crate::text::json;
use crate::text::line::{cut, escaped};

/// A column: its heading, the key that sorts by it, how it is shown, and the characters that it takes.
struct Column(&'static str, u8, Shape, usize);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A text, by which it is sorted.
    Text,
    /// A text, and a number by which it is sorted.
    Sorted,
    /// A number.
    Count,
    /// A number that only grows, as how much it has grown in a second.
    Rate,
    /// The same, of bytes.
    Bytes,
}
use Shape::{Bytes, Count, Rate, Sorted, Text};

/// Of the daemon's mappings.
const MAPPINGS: &[Column] = &[
    Column("MAPPING", b'n', Text, 0),
    Column("TUNNELS", b't', Sorted, 11),
    Column("WAITING", b'w', Count, 9),
    Column("SESSIONS", b's', Count, 10),
    Column("NEW/s", b'c', Rate, 7),
    Column("UP/s", b'u', Bytes, 10),
    Column("DOWN/s", b'd', Bytes, 10),
    Column("STATE", b'a', Text, 12),
    Column("REFUSED/s", b'r', Rate, 11),
    Column("PORTS", b'p', Text, 13),
];

/// Of a process's tunnels.
const TUNNELS: &[Column] = &[
    Column("TUNNEL", b'n', Text, 0),
    Column("STATE", b'a', Text, 12),
    Column("SINCE", b'c', Text, 21),
    Column("IDLE", b't', Count, 6),
    Column("SESSIONS", b's', Count, 10),
    Column("IN/s", b'd', Bytes, 10),
    Column("OUT/s", b'u', Bytes, 10),
    Column("CONNECTOR", b'p', Text, 34),
];

/// Characters of the first column at least, as far as others can be left out for it.
const NAME: usize = 9;

/// Characters of it at most, as many as a file's name may have.
const LONGEST: usize = 255;

/// Lines about what is wrong above the table, at most: the table is what matters. Of faults of rows there are as many
/// below it, and more where there is room.
const WARNINGS: usize = 3;

/// One answer.
pub struct Sample {
    at: Instant,
    columns: &'static [Column],
    /// What is answering, and since when it runs, in seconds: who began later has counted anew.
    title: String,
    uptime: Option<u64>,
    /// What an operator should know first.
    warnings: Vec<String>,
    rows: Vec<Row>,
    /// The sum over all rows, those that are gone included.
    totals: Option<[u64; 6]>,
}

struct Row {
    id: String,
    /// By column.
    cells: Vec<Cell>,
    /// What has gone wrong last and is not over.
    fault: Option<String>,
}

struct Cell {
    text: String,
    number: u64,
}

fn text(text: &str) -> Cell {
    Cell { text: escaped(text), number: 0 }
}

fn number(number: u64) -> Cell {
    Cell { text: String::new(), number }
}

/// In which order rows are shown, and from which one on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    column: usize,
    is_reversed: bool,
    /// Rows that are passed over.
    pub skip: usize,
}

/// A line of a screen, and whether it stands out.
pub type Line = (String, bool);

impl Sample {
    /// Reads the JSON of the daemon's status.
    ///
    /// # Errors
    /// As [`json::read`] has them.
    pub fn of_daemon(answer: &str, at: Instant) -> Result<Self, String> {
        let report = Report::read(answer.as_bytes())?;
        let (state, totals) = (&report.state, &report.totals);
        let lines = [
            state.draining.map(|draining| draining.to_string()),
            state.predecessor.map(|predecessor| predecessor.to_string()),
        ];
        let warnings = state.warnings.iter().map(|warning| format!("warning: {warning}"));
        Ok(Sample {
            at,
            columns: MAPPINGS,
            title: format!(
                "iofog-connector {}, running for {}",
                report.version,
                duration(state.uptime)
            ),
            uptime: Some(state.uptime.as_secs()),
            warnings: lines.into_iter().flatten().chain(warnings).collect(),
            rows: state.mappings.iter().map(|one| mapping(one, state.draining.is_some())).collect(),
            totals: Some([
                totals.counts.sessions,
                totals.counts.sessions_total,
                totals.counts.users_waiting,
                totals.counts.users_refused + totals.counts.agents_refused,
                totals.counts.bytes_up,
                totals.counts.bytes_down,
            ]),
        })
    }

    /// Reads the JSON of the state of a process of tunnels.
    ///
    /// # Errors
    /// As [`json::read`] has them.
    pub fn of_tunnels(answer: &str, at: Instant) -> Result<Self, String> {
        let state = json::read::<Value>(answer.as_bytes())?;
        let tunnels = state["tunnels"].as_array().map_or(&[][..], Vec::as_slice);
        let folder = state["folder"].as_str().unwrap_or_default();
        Ok(Sample {
            at,
            columns: TUNNELS,
            title: format!("tunnels of {folder}"),
            uptime: None,
            warnings: Vec::new(),
            rows: tunnels.iter().map(tunnel).collect(),
            totals: None,
        })
    }

    /// Whether who answers now has begun after this one, so that its counts cannot be compared.
    pub fn is_anew(&self, before: &Sample) -> bool {
        self.uptime < before.uptime
    }

    /// The lines of a screen of this size, or all of them. `before` is what rates are taken from, `notice` what is to be
    /// said of the connection to who answers.
    pub fn lines(
        &self,
        before: Option<&Sample>,
        notice: &str,
        view: &mut View,
        size: Option<[usize; 2]>,
    ) -> Vec<Line> {
        let [width, height] = size.unwrap_or([usize::MAX; 2]);
        let before = before.filter(|before| !self.is_anew(before));
        let seconds =
            before.map_or(0.0, |before| self.at.saturating_duration_since(before.at).as_secs_f64());
        let rate = |now: u64, then: Option<u64>| {
            let grown = now.checked_sub(then?)?;
            (seconds > 0.0).then(|| grown as f64 / seconds)
        };
        let mut lines = vec![(format!("{}; {}", self.title, Utc::now()), true)];
        if !notice.is_empty() {
            lines.push((notice.into(), true));
        }
        if let Some(now) = &self.totals {
            let then = before.and_then(|before| before.totals.as_ref());
            let of = |at: usize| rate(now[at], then.map(|then| then[at]));
            let people = format!(
                "sessions {}, new {}/s; users waiting {}; refused {}/s",
                now[0],
                shown(of(1), Rate),
                now[2],
                shown(of(3), Rate)
            );
            let bytes = format!("up {}/s, down {}/s", shown(of(4), Bytes), shown(of(5), Bytes));
            match people.len() + bytes.len() + 2 <= width {
                true => lines.push((people + "; " + &bytes, false)),
                false => lines.extend([(people, false), (bytes, false)]),
            }
        }
        let known = self.warnings.len();
        lines.extend(self.warnings.iter().take(WARNINGS).map(|line| (line.clone(), false)));
        if known > WARNINGS {
            lines.push((format!("{} more warnings: `status` shows them", known - WARNINGS), false));
        }
        lines.push((String::new(), false));
        let columns = self.columns(width);
        lines.push((self.heading(&columns, *view), true));
        let then = before.map_or_else(Vec::new, |before| self.places_in(before));
        let rate_of = |row: usize, at: usize| {
            let then = before?.rows.get(*then.get(row)?)?.cells.get(at)?.number;
            rate(self.rows[row].cells[at].number, Some(then))
        };
        let rows = self.order(*view, &rate_of);
        let faults = self.rows.iter().filter(|row| row.fault.is_some()).count();
        // The last line is for the keys.
        let room = height.saturating_sub(lines.len() + 1);
        // A low screen is for the rows.
        let room = room - faults.min(WARNINGS).min(room / 3);
        let hidden = rows.len().saturating_sub(room);
        let shown_rows = if hidden > 0 { room.saturating_sub(1) } else { room };
        view.skip = view.skip.min(rows.len().saturating_sub(shown_rows));
        for row in rows.iter().skip(view.skip).take(shown_rows) {
            lines.push((self.row(*row as usize, &rate_of, &columns), false));
        }
        if hidden > 0 && room > 0 {
            let behind = rows.len().saturating_sub(view.skip + shown_rows);
            lines.push((format!("{} before and {behind} after these", view.skip), false));
        } else if rows.is_empty() {
            lines.push((
                ["no mappings", "no tunnels"][usize::from(self.totals.is_none())].into(),
                false,
            ));
        }
        // What is left is for what is wrong.
        let ill = rows.into_iter().filter_map(|row| {
            let Row { fault, cells, .. } = &self.rows[row as usize];
            fault.as_ref().map(|fault| format!("{}: {fault}", cells[0].text))
        });
        let left = height.saturating_sub(lines.len() + 1);
        let told = if faults > left { left.saturating_sub(1) } else { left };
        lines.extend(ill.take(told).map(|line| (line, false)));
        if faults > told && left > 0 {
            let more = if told > 0 { "more " } else { "" };
            lines.push((
                format!("{} {more}with a fault: `status` shows them", faults - told),
                false,
            ));
        }
        for (line, _) in &mut lines {
            *line = escaped(line.trim_end());
            if line.chars().count() > width {
                *line = cut(line, width.saturating_sub(1));
            }
        }
        lines
    }

    /// The keys, in a line of this width.
    pub fn keys(&self, width: usize) -> String {
        let mut keys = "q quit; sort".to_owned();
        for (at, _) in self.columns(width) {
            let Column(heading, key, ..) = self.columns[at];
            let heading = heading.to_ascii_lowercase();
            keys.push_str(&format!(" {}:{}", char::from(key), heading.trim_end_matches("/s")));
        }
        if keys.chars().count() > width { cut(&keys, width.saturating_sub(1)) } else { keys }
    }

    /// Sorts by the column of this key, if there is one, or the other way round if it is sorted so.
    pub fn choose(&self, key: u8, view: &mut View) {
        if let Some(column) = self.columns.iter().position(|Column(_, of, ..)| *of == key) {
            let is_reversed = view.column == column && !view.is_reversed;
            *view = View { column, is_reversed, skip: 0 };
        }
    }

    /// The columns that there is room for, with their widths.
    fn columns(&self, width: usize) -> Vec<(usize, usize)> {
        let longest = self.rows.iter().map(|row| row.cells[0].text.chars().count()).max();
        let longest = longest.unwrap_or_default().clamp(NAME, LONGEST) + 1;
        let mut columns = vec![(0, 0)];
        let mut left = width.saturating_sub(NAME + 1);
        for (at, Column(.., takes)) in self.columns.iter().enumerate().skip(1) {
            if *takes > left {
                break;
            }
            left -= takes;
            columns.push((at, *takes));
        }
        columns[0].1 = longest.min(left.saturating_add(NAME + 1));
        columns
    }

    fn heading(&self, columns: &[(usize, usize)], view: View) -> String {
        let mut line = String::new();
        for &(at, width) in columns {
            let Column(heading, _, shape, _) = self.columns[at];
            let mark = if at == view.column { "*" } else { "" };
            push(&mut line, &format!("{mark}{heading}"), shape, width);
        }
        line
    }

    fn row(&self, row: usize, rate_of: Rates<'_>, columns: &[(usize, usize)]) -> String {
        let mut line = String::new();
        for &(at, width) in columns {
            let (Column(_, _, shape, _), cell) = (&self.columns[at], &self.rows[row].cells[at]);
            let value = match shape {
                Text | Sorted => cell.text.clone(),
                Count => cell.number.to_string(),
                Rate | Bytes => shown(rate_of(row, at), *shape),
            };
            push(&mut line, &value, *shape, width);
        }
        line
    }

    /// Where each row stands in another sample; behind its end where it does not. Most stand where they stood.
    fn places_in(&self, before: &Sample) -> Vec<usize> {
        let (mut places, mut next) = (Vec::new(), 0);
        for row in &self.rows {
            let (passed, rest) = before.rows.split_at(next);
            let steps = rest.iter().chain(passed).position(|of| of.id == row.id);
            let place = steps.map_or(usize::MAX, |steps| (next + steps) % before.rows.len());
            next = if steps.is_some() { place + 1 } else { next };
            places.push(place);
        }
        places
    }

    /// The rows with the greatest numbers and the first texts first, unless the view is reversed. Each is put in its
    /// place among those before it: the library's sorts take 5 KB of the program.
    fn order(&self, view: View, rate_of: Rates<'_>) -> Vec<u32> {
        let (at, Column(_, _, shape, _)) = (view.column, &self.columns[view.column]);
        let value = |row: usize| match shape {
            Text => 0.0,
            Sorted | Count => self.rows[row].cells[at].number as f64,
            Rate | Bytes => rate_of(row, at).unwrap_or(-1.0),
        };
        let mut values = Vec::new();
        let mut order: Vec<u32> = Vec::new();
        for row in 0..self.rows.len() {
            values.push(value(row));
            let text = |row: usize, at: usize| &self.rows[row].cells[at].text;
            let place = order.partition_point(|other| {
                let other = *other as usize;
                let order = match shape {
                    Text => text(other, at).cmp(text(row, at)),
                    _ => values[row].total_cmp(&values[other]),
                };
                let order = if view.is_reversed { order.reverse() } else { order };
                order.then_with(|| text(other, 0).cmp(text(row, 0))).is_lt()
            });
            order.insert(place, row as u32);
        }
        order
    }
}

/// How much a cell, by row and column, has grown in a second.
type Rates<'a> = &'a dyn Fn(usize, usize) -> Option<f64>;

/// Adds a cell: texts begin where their column does, numbers end there.
fn push(line: &mut String, value: &str, shape: Shape, width: usize) {
    let value = if value.chars().count() < width {
        value.to_owned()
    } else {
        cut(value, width.saturating_sub(2))
    };
    let cell = match shape {
        Text => format!("{value:<width$}"),
        // With a gap on either side of the column before a text.
        _ => format!("{value:>at$} ", at = width - 1),
    };
    line.push_str(&cell);
}

/// A rate, or `-` where there is nothing to compare with.
fn shown(rate: Option<f64>, shape: Shape) -> String {
    match rate {
        None => "-".into(),
        Some(rate) if shape == Bytes => bytes(rate as u64),
        Some(rate) if rate > 0.0 && rate < 9.95 => format!("{rate:.1}"),
        Some(rate) => format!("{rate:.0}"),
    }
}

/// Of a daemon that is stopping, that ports are closed is said once, above.
fn mapping(mapping: &MappingStatus, stopping: bool) -> Row {
    let [one, two] = &mapping.sides;
    let tunnels = [one, two].into_iter().filter_map(|side| side.tunnels);
    let all = tunnels.fold(Tunnels::default(), |sum, of| Tunnels {
        idle: sum.idle + of.idle,
        in_use: sum.in_use + of.in_use,
        allowed: sum.allowed + of.allowed,
        ..sum
    });
    let counts = &mapping.counts;
    let fault = |side: &SideStatus| side.fault.clone().filter(|_| !side.open && !stopping);
    let last = mapping.last_error.clone().filter(|_| !mapping.last_error_over);
    let limits = mapping.limits_reached.iter().filter(|reached| !reached.over);
    let limit = limits.map(|reached| format!("limit reached: {}", reached.limit)).next();
    Row {
        id: mapping.id.to_string(),
        cells: vec![
            text(mapping.name()),
            Cell {
                text: format!("{}/{}/{}", all.idle, all.in_use, all.allowed),
                number: all.in_use as u64,
            },
            number(counts.users_waiting),
            number(counts.sessions),
            number(counts.sessions_total),
            number(counts.bytes_up),
            number(counts.bytes_down),
            text(mapping.state()),
            number(counts.users_refused + counts.agents_refused),
            text(&format!("{} {}", one.port, two.port)),
        ],
        fault: fault(one).or_else(|| fault(two)).or(last).or(limit),
    }
}

fn tunnel(one: &Value) -> Row {
    let word = |member: &str| one[member].as_str().unwrap_or("-");
    let amount = |member: &str| number(one[member].as_u64().unwrap_or_default());
    Row {
        id: word("name").into(),
        cells: vec![
            text(word("name")),
            text(word("state")),
            text(word("since")),
            amount("idle"),
            amount("sessions"),
            amount("bytesIn"),
            amount("bytesOut"),
            text(word("connector")),
        ],
        fault: one["lastError"]
            .as_str()
            .filter(|_| one["lastErrorOver"].is_null())
            .map(String::from),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::status::{Counts, Draining, Status};
    use crate::report::tests::sample;

    /// The answer of a process of tunnels, with sessions and bytes of each, so many seconds after `start`.
    fn tunnels(start: Instant, seconds: u64, all: &[(&str, u64, u64)]) -> Sample {
        let of = |(name, sessions, bytes): &(&str, u64, u64)| {
            serde_json::json!({
                "name": name, "state": "connected", "since": "2026-11-28T10:00:00Z", "idle": 2,
                "sessions": sessions, "bytesIn": bytes, "bytesOut": 0, "connector": "c:1",
                "lastError": if *name == "c" { Some("it is gone") } else { None },
            })
        };
        let all: Vec<_> = all.iter().map(of).collect();
        let answer = serde_json::json!({ "folder": "/f", "tunnels": all }).to_string();
        Sample::of_tunnels(&answer, start + Duration::from_secs(seconds)).unwrap()
    }

    fn shown(
        now: &Sample,
        before: Option<&Sample>,
        view: &mut View,
        size: [usize; 2],
    ) -> Vec<String> {
        now.lines(before, "", view, Some(size)).into_iter().map(|(line, _)| line).collect()
    }

    /// The first words of the rows, and what stands in this column.
    fn rows(lines: &[String], column: usize) -> Vec<(&str, &str)> {
        let rows = lines.iter().skip(3).map(|row| row.split_whitespace().collect::<Vec<_>>());
        rows.filter(|words| words.len() > column && words[0].len() == 1)
            .map(|words| (words[0], words[column]))
            .collect()
    }

    #[test]
    fn rates_are_what_has_moved_in_a_second_of_each_that_was_there_before() {
        let start = Instant::now();
        let before = tunnels(start, 0, &[("a", 0, 0), ("gone", 0, 9), ("b", 0, 5000), ("c", 0, 7)]);
        let now = tunnels(start, 2, &[("a", 1, 0), ("b", 0, 4000), ("c", 0, 2055), ("d", 0, 9)]);
        let lines = shown(&now, Some(&before), &mut View::default(), [80, 24]);
        // One that counts anew, and a new one, have no rate yet.
        assert_eq!(
            rows(&lines, 5),
            [("a", "0"), ("b", "-"), ("c", "1.0"), ("d", "-")],
            "{lines:#?}"
        );
        assert!(lines[0].starts_with("tunnels of /f; 20"), "{lines:#?}");
        assert_eq!(lines.last().unwrap(), "c: it is gone");
        let lines = shown(&now, None, &mut View::default(), [80, 24]);
        assert!(rows(&lines, 5).iter().all(|(_, rate)| *rate == "-"), "{lines:#?}");
    }

    #[test]
    fn a_key_sorts_by_its_column_and_again_the_other_way_round() {
        let start = Instant::now();
        let before = tunnels(start, 0, &[("a", 0, 0), ("b", 0, 0), ("c", 0, 0)]);
        let now = tunnels(start, 1, &[("b", 2, 10), ("a", 9, 30), ("c", 2, 20)]);
        let mut view = View::default();
        let mut names = |key: u8| {
            now.choose(key, &mut view);
            let lines = shown(&now, Some(&before), &mut view, [80, 24]);
            rows(&lines, 0).iter().map(|(name, _)| *name).collect::<String>()
        };
        assert_eq!([names(b's'), names(b's')], ["abc", "bca"]);
        assert_eq!([names(b'd'), names(b'd')], ["acb", "bca"]);
        assert_eq!([names(b'n'), names(b'n')], ["abc", "cba"]);
        assert_eq!(names(b'!'), "cba", "no column has it");
    }

    #[test]
    fn every_size_holds_the_lines_and_says_what_is_left_out() {
        let names: Vec<_> = (0..40).map(|number| format!("{number:0>40}")).collect();
        let all: Vec<_> = names.iter().map(|name| (&**name, 0, 0)).collect();
        let now = tunnels(Instant::now(), 0, &all);
        for size in [[80, 24], [120, 40], [30, 10], [10, 4], [1, 1], [500, 100]] {
            let mut view = View { skip: 1000, ..View::default() };
            let lines = shown(&now, None, &mut view, size);
            let [width, height] = size;
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:#?}");
            // The last line is for the keys, and what is above the rows is there in any case.
            assert!(lines.len() < height.max(4), "{size:?}: {lines:#?}");
            assert!(now.keys(width).chars().count() <= width, "{size:?}");
        }
        let mut view = View { skip: 3, ..View::default() };
        let lines = shown(&now, None, &mut view, [80, 24]);
        assert!(lines[3].starts_with("000") && lines[3].contains("… "), "{lines:#?}");
        assert_eq!(lines.last().unwrap(), "3 before and 18 after these");
    }

    #[test]
    fn a_limit_that_is_reached_is_wrong_and_a_port_that_a_stopping_daemon_closed_is_not() {
        let mut report = sample();
        let told = |report: &Report| {
            let answer = serde_json::to_string(report).unwrap();
            let now = Sample::of_daemon(&answer, Instant::now()).unwrap();
            now.rows.into_iter().map(|row| row.fault.unwrap_or_default()).collect::<Vec<_>>()
        };
        let limit = "limit reached: users waiting (pending)";
        assert_eq!(told(&report), [limit, "port 6003 is taken; it is tried again"]);
        report.state.draining =
            Some(Draining { sessions: 1, users_waiting: 0, milliseconds_left: 1 });
        report.state.mappings[1].last_error_over = true;
        assert_eq!(told(&report), [limit, ""]);
    }

    #[test]
    fn what_is_wrong_has_a_place_below_the_rows_however_many_there_are() {
        let names: Vec<_> = (10..90).map(|number| number.to_string()).collect();
        let all: Vec<_> = names.iter().map(|name| (&**name, 0, 0)).chain([("c", 0, 0)]).collect();
        let mut now = tunnels(Instant::now(), 0, &all);
        let lines = shown(&now, None, &mut View::default(), [80, 24]);
        assert_eq!(lines[21..], ["0 before and 63 after these", "c: it is gone"], "{lines:#?}");
        now.rows.iter_mut().take(5).for_each(|row| row.fault = Some("it hangs".into()));
        let lines = shown(&now, None, &mut View::default(), [80, 24]);
        let expected = ["10: it hangs", "11: it hangs", "4 more with a fault: `status` shows them"];
        assert_eq!(lines[20..], expected, "{lines:#?}");
        let lines = shown(&now, None, &mut View::default(), [80, 7]);
        assert_eq!(lines[5], "6 with a fault: `status` shows them", "{lines:#?}");
    }

    #[test]
    fn a_daemon_that_has_begun_anew_is_compared_with_nobody() {
        let of = |uptime, sessions_total, at| {
            let removed = Counts { sessions_total, ..Counts::default() };
            let uptime = Duration::from_secs(uptime);
            let warnings = (1..6).map(|number| format!("w{number}\u{1b}")).collect();
            let report = Report::of(Status { uptime, removed, warnings, ..Status::default() }, 1);
            Sample::of_daemon(&serde_json::to_string(&report).unwrap(), at).unwrap()
        };
        let start = Instant::now();
        let [before, after] = [of(10, 5, start), of(12, 9, start + Duration::from_secs(2))];
        let anew = of(0, 7, start + Duration::from_secs(3));
        assert_eq!([after.is_anew(&before), anew.is_anew(&after)], [false, true]);
        let mut view = View::default();
        let lines = shown(&after, Some(&before), &mut view, [80, 24]);
        assert_eq!(
            lines[1],
            "sessions 0, new 2.0/s; users waiting 0; refused 0/s; up 0 B/s, down 0 B/s"
        );
        assert_eq!(
            lines[2..6],
            [
                "warning: w1\\u{1b}",
                "warning: w2\\u{1b}",
                "warning: w3\\u{1b}",
                "2 more warnings: `status` shows them"
            ]
        );
        assert_eq!(lines.last().unwrap(), "no mappings");
        assert!(shown(&anew, Some(&after), &mut view, [80, 24])[1].contains("new -/s"));
        assert!(after.keys(80).ends_with(" a:state"), "{}", after.keys(80));
    }
}
