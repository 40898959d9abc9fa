//! How much of the log peers may fill: what they can repeat is counted instead of written.
//!
//! A *kind* is the place in the source that logs and what the line is about (the record's
//! target: a mapping, mostly). Each kind has lines of its own, all kinds together have bytes.
//! Whatever changes in a line, an address or a text that the peer chose, its kind stays the same.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use log::{Level, Record};

use super::line::Line;
use crate::limits::{LOG_BYTES, LOG_BYTES_HOUR, LOG_KIND_EVERY, LOG_KIND_LINES, LOG_KINDS};

/// Bytes of a line in addition to its message: time, level, line feed.
const HEAD: usize = 28;

/// Longest part of a message that is kept for a summary.
const SAMPLE: usize = 300;

/// What a line is: where it is logged and what it is about.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct Kind {
    file: Option<&'static str>,
    line: Option<u32>,
    about: Box<str>,
}

impl Kind {
    pub(super) fn of(record: &Record<'_>) -> Self {
        Kind { file: record.file_static(), line: record.line(), about: record.target().into() }
    }
}

/// What peers may still write.
pub(super) struct Budget {
    kinds: HashMap<Kind, Share>,
    /// Bytes that may be written now; below zero after a line that was longer.
    bytes: f64,
    since: Instant,
}

/// One kind's share.
struct Share {
    /// Lines that may be written now.
    lines: f64,
    since: Instant,
    /// Lines that were not written, and the last of them.
    left_out: u64,
    last: Option<Line>,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Budget { kinds: HashMap::new(), bytes: LOG_BYTES, since: now }
    }

    /// Whether a line may be written. One that may not is counted, for [`Budget::summary`].
    pub(super) fn admit(&mut self, kind: Kind, line: &Line, now: Instant) -> bool {
        let message = &line.message;
        self.refill(now);
        let new = !self.kinds.contains_key(&kind);
        if new && self.kinds.len() >= LOG_KINDS {
            self.forget();
        }
        // A kind's first line may use the half that kinds which flood may not.
        let room = if new { self.bytes > 0.0 } else { self.bytes > LOG_BYTES / 2.0 };
        let share = self.kinds.entry(kind).or_insert_with(|| Share::new(now));
        share.refill(now);
        if share.left_out == 0 && share.lines >= 1.0 && room {
            share.lines -= 1.0;
            self.charge(message.len());
            return true;
        }
        share.left_out += 1;
        let end = (0..=SAMPLE.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
        share.last = Some(line.again(message[..end.unwrap_or(0)].to_owned(), 1));
        false
    }

    /// Takes a line of a kind and its bytes for what is written anyway.
    pub(super) fn charge_line(&mut self, kind: &Kind, message: usize) {
        if let Some(share) = self.kinds.get_mut(kind) {
            // Counts that come again and again keep no new line out for long.
            share.lines = (share.lines - 1.0).max(-1.0);
        }
        self.charge(message);
    }

    fn charge(&mut self, message: usize) {
        self.bytes -= (message + HEAD) as f64;
    }

    /// A line about what was left out, if one is due and there is room for it.
    pub(super) fn summary(&mut self, now: Instant) -> Option<Line> {
        self.refill(now);
        if self.bytes <= 0.0 {
            return None;
        }
        let due = self.kinds.values_mut().filter(|share| share.left_out > 0).filter_map(|share| {
            share.refill(now);
            (share.lines >= 1.0).then_some(share)
        });
        let due = due.max_by_key(|share| share.left_out)?;
        due.lines -= 1.0;
        let summary = due.summarise();
        self.charge(summary.as_ref().map_or(0, |line| line.message.len()));
        summary
    }

    /// At the end: what was left out, in a few lines.
    pub(super) fn last_summaries(&mut self) -> Vec<Line> {
        const LINES: usize = 20;
        // The largest of the rest each time: a sort takes 5 KB of the program.
        let most = |_| {
            let left_out = self.kinds.values_mut().filter(|share| share.left_out > 0);
            left_out.max_by_key(|share| share.left_out)?.summarise()
        };
        let mut lines: Vec<_> = (0..LINES).map_while(most).collect();
        let more: u64 = self.kinds.values().map(|share| share.left_out).sum();
        if more > 0 {
            let what = format!("{more} more lines of other kinds were left out");
            lines.push(Line { count: more, ..Line::plain(Level::Warn, what) });
        }
        self.kinds.clear();
        lines
    }

    fn refill(&mut self, now: Instant) {
        let hours = now.saturating_duration_since(self.since).as_secs_f64() / 3600.0;
        self.since = now;
        self.bytes = (self.bytes + hours * LOG_BYTES_HOUR).min(LOG_BYTES);
    }

    /// Makes room for new kinds by forgetting all at once, so that each costs next to nothing; what was
    /// left out of them is told as one.
    fn forget(&mut self) {
        let left_out: u64 = self.kinds.drain().map(|(_, share)| share.left_out).sum();
        if left_out > 0 {
            let mut share = Share::new(self.since);
            share.left_out = left_out;
            let what = "a line of kinds too many to tell apart";
            share.last = Some(Line::plain(Level::Warn, what));
            let others = Kind { file: None, line: None, about: Box::default() };
            self.kinds.insert(others, share);
        }
    }
}

impl Share {
    fn new(now: Instant) -> Self {
        Share { lines: LOG_KIND_LINES, since: now, left_out: 0, last: None }
    }

    fn refill(&mut self, now: Instant) {
        let passed: Duration = now.saturating_duration_since(self.since);
        self.since = now;
        let lines = passed.as_secs_f64() / LOG_KIND_EVERY.as_secs_f64();
        self.lines = (self.lines + lines).min(LOG_KIND_LINES);
    }

    fn summarise(&mut self) -> Option<Line> {
        let mut line = self.last.take()?;
        line.count = std::mem::take(&mut self.left_out);
        if line.count > 1 {
            line.message += &format!(" (and {} more like it, left out)", line.count - 1);
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn warning(message: &str) -> Line {
        Line::plain(Level::Warn, message)
    }

    fn kind(line: u32, about: &str) -> Kind {
        Kind { file: Some("test.rs"), line: Some(line), about: about.into() }
    }

    /// Every 10 seconds of an hour `each` lines of every kind; gives lines and bytes written.
    fn flood(budget: &mut Budget, start: Instant, kinds: &[Kind], each: u32) -> (usize, usize) {
        let mut lines = Vec::new();
        for second in (0..HOUR).step_by(10) {
            let now = start + Duration::from_secs(second);
            for number in 0..each {
                for kind in kinds {
                    let message =
                        format!("{}: refused, {second} {number} {}", kind.about, "x".repeat(100));
                    if budget.admit(kind.clone(), &warning(&message), now) {
                        lines.push(message);
                    }
                }
            }
            lines.extend(std::iter::from_fn(|| budget.summary(now)).map(|line| line.message));
        }
        (lines.len(), lines.iter().map(|line| line.len() + HEAD).sum())
    }

    #[test]
    fn a_flood_of_one_kind_writes_so_many_lines_an_hour() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let kinds = [kind(1, "m1"), kind(1, "m2")];
        let (lines, _) = flood(&mut budget, start, &kinds, 20);
        assert!((20..=2 * (10 + 60)).contains(&lines), "{lines}");
    }

    #[test]
    fn a_quiet_day_saves_up_nothing_for_a_flood() {
        let start = Instant::now();
        let later = start + Duration::from_secs(24 * HOUR);
        let mut budget = Budget::new(start);
        assert!(budget.admit(kind(1, "m"), &warning("refused"), start));
        let again = (0..1000).filter(|_| budget.admit(kind(1, "m"), &warning("refused"), later));
        assert_eq!(again.count(), LOG_KIND_LINES as usize);
        let (mut budget, long) = (Budget::new(start), "x".repeat(1000));
        let kinds = (0..1000).filter(|line| budget.admit(kind(*line, "m"), &warning(&long), later));
        assert!(kinds.count() as f64 * 1000.0 <= LOG_BYTES);
    }

    #[test]
    fn no_flood_turns_over_the_files_within_an_hour() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        // More mappings than are remembered, in turn.
        let kinds: Vec<_> = (0..1500).map(|number| kind(1, &format!("m{number}"))).collect();
        let (_, bytes) = flood(&mut budget, start, &kinds, 1);
        assert!(bytes as u64 <= crate::limits::LOG_FILE / 2, "{bytes}");
        assert!(budget.kinds.len() <= LOG_KINDS);
    }

    #[test]
    fn what_is_new_is_written_while_others_flood() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let kinds: Vec<_> = (0..500).map(|number| kind(1, &format!("m{number}"))).collect();
        flood(&mut budget, start, &kinds, 2);
        let later = start + Duration::from_secs(HOUR);
        assert!(budget.admit(kind(2, "m1"), &warning("something new"), later));
    }

    #[test]
    fn what_was_left_out_most_is_told_first_and_before_more_of_its_kind() {
        let start = Instant::now();
        let later = start + LOG_KIND_EVERY;
        let mut budget = Budget::new(start);
        for (line, count) in [(1, 12), (2, 15), (3, 11)] {
            for _ in 0..count {
                budget.admit(kind(line, "m"), &warning(&format!("kind {line}")), start);
            }
        }
        assert!(!budget.admit(kind(3, "m"), &warning("kind 3 again"), later));
        let told = std::iter::from_fn(|| budget.summary(later)).map(|line| line.message);
        let more = |line: &str, count| format!("{line} (and {count} more like it, left out)");
        let expected = [more("kind 2", 4), more("kind 3 again", 1), more("kind 1", 1)];
        let told: Vec<_> = told.collect();
        assert_eq!(told[0], expected[0]);
        assert!(told.len() == 3 && expected.iter().all(|line| told.contains(line)), "{told:?}");
    }

    #[test]
    fn kinds_too_many_to_tell_apart_are_told_as_one() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for line in 0..=LOG_KINDS as u32 {
            budget.admit(kind(line, "m"), &warning(&"x".repeat(100)), start);
        }
        assert!(budget.kinds.len() <= 2);
        let told = budget.summary(start + Duration::from_secs(HOUR)).unwrap().message;
        assert!(told.starts_with("a line of kinds too many to tell apart (and "), "{told}");
    }

    #[test]
    fn what_was_left_out_is_told_with_its_number_and_its_last_line() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for number in 0..110 {
            budget.admit(kind(1, "m"), &warning(&format!("m: refused {number}")), start);
        }
        assert_eq!(budget.summary(start), None, "not yet");
        let later = start + LOG_KIND_EVERY;
        let line = "m: refused 109 (and 99 more like it, left out)".to_owned();
        assert_eq!(budget.summary(later), Some(Line { count: 100, ..warning(&line) }));
        assert_eq!(budget.summary(later), None);
        for number in 0..30 {
            let kind = kind(number, "m");
            for _ in 0..30 {
                budget.admit(kind.clone(), &warning("left"), later);
            }
        }
        let last = budget.last_summaries();
        assert_eq!(last.len(), 21);
        assert!(last[20].message.contains("more lines of other kinds"), "{last:?}");
    }
}
