//! Which lines are written: what is repeated is counted, and what peers cause is bounded.

use std::time::{Duration, Instant};

use super::budget::{Budget, Kind};
use super::line::{Formats, Line};
use super::sink::CountingSink;

/// A line that comes again within this time of the last one is counted instead of written; a
/// count is written no later than this after its first line.
const REPEAT: Duration = Duration::from_secs(10);

/// Writes lines to the sinks, or leaves them out.
pub(super) struct Writer {
    pub(super) sinks: Vec<CountingSink>,
    last: Option<Last>,
    budget: Budget,
}

/// The line written last, and how often it came since.
struct Last {
    line: Line,
    seen: Instant,
    repeats: u64,
    first_repeat: Instant,
    /// What peers may write of it, if it is bounded.
    kind: Option<Kind>,
}

impl Writer {
    pub(super) fn new(sinks: Vec<CountingSink>, now: Instant) -> Self {
        Writer { sinks, last: None, budget: Budget::new(now) }
    }

    /// Writes lines so from now on.
    pub(super) fn set_formats(&mut self, formats: Formats) {
        self.sinks.iter_mut().for_each(|sink| sink.set_formats(formats));
    }

    /// Writes or counts a message, which is bounded if it has a kind; returns how many were lost on
    /// the way.
    pub(super) fn log(&mut self, kind: Option<Kind>, line: Line, now: Instant) -> u64 {
        if let Some(last) = &mut self.last {
            let soon = now < last.seen + REPEAT;
            if soon && last.line == line {
                if last.repeats == 0 {
                    last.first_repeat = now;
                }
                last.repeats += 1;
                last.seen = now;
                return 0;
            }
        }
        let admit = |kind: &Kind| self.budget.admit(kind.clone(), &line, now);
        if !kind.as_ref().is_none_or(admit) {
            return 0;
        }
        let lost = self.summarise() + self.write(&line);
        self.last = Some(Last { line, seen: now, repeats: 0, first_repeat: now, kind });
        lost
    }

    /// Writes summaries that are due; returns how many lines were lost on the way.
    pub(super) fn tick(&mut self, now: Instant) -> u64 {
        let due = |last: &Last| last.repeats > 0 && now >= last.first_repeat + REPEAT;
        let mut lost = 0;
        if self.last.as_ref().is_some_and(due) {
            lost += self.summarise();
        }
        while let Some(line) = self.budget.summary(now) {
            lost += self.summarise() + self.write(&line);
            self.last = None;
        }
        lost
    }

    /// Writes all summaries, due or not; returns how many lines were lost on the way.
    pub(super) fn flush(&mut self) -> u64 {
        let mut lost = self.summarise();
        for line in self.budget.last_summaries() {
            lost += self.write(&line);
        }
        lost
    }

    fn summarise(&mut self) -> u64 {
        let Some(last) = &mut self.last else { return 0 };
        let repeats = std::mem::take(&mut last.repeats);
        let summary = match repeats {
            0 => return 0,
            1 if last.kind.is_none() => last.line.message.clone(),
            1 => "last message repeated once".to_owned(),
            repeats => format!("last message repeated {repeats} times"),
        };
        if let Some(kind) = &last.kind {
            self.budget.charge_line(kind, summary.len());
        }
        let summary = last.line.again(summary, repeats);
        self.write(&summary)
    }

    fn write(&mut self, line: &Line) -> u64 {
        self.sinks.iter_mut().map(|sink| u64::from(!sink.write(line))).sum()
    }
}
