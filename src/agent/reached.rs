//! Limits of this side that are reached: counted, and logged now and then.

use std::cell::Cell;
use std::time::Instant;

use crate::limits;

/// An option that sets a limit.
pub(super) struct Limit {
    option: &'static str,
    most: usize,
    /// What reaching it means, and what to do about it.
    remedy: String,
    times: Cell<u64>,
    /// The count when it was last logged, and when that was.
    told: Cell<(u64, Option<Instant>)>,
}

impl Limit {
    /// A limit that has not been reached.
    pub(super) fn new(option: &'static str, most: usize, remedy: String) -> Self {
        Limit { option, most, remedy, times: Cell::new(0), told: Cell::new((0, None)) }
    }

    /// Counts that the last place was taken.
    pub(super) fn reach(&self) {
        self.times.set(self.times.get().saturating_add(1));
    }

    /// A line for the log if it was reached since the last one, at most one each [`limits::LIMIT_TOLD`].
    pub(super) fn news(&self, now: Instant) -> Option<String> {
        let (told, at) = self.told.get();
        let times = self.times.get();
        let soon = at.is_some_and(|at| now < at + limits::LIMIT_TOLD);
        if times == told || soon {
            return None;
        }
        self.told.set((times, Some(now)));
        let Limit { option, most, remedy, .. } = self;
        Some(format!("{option} {most} was reached, {} so far: {remedy}", times_of(times)))
    }

    /// A short form for the status, once it has been reached.
    pub(super) fn state(&self) -> Option<String> {
        let times = self.times.get();
        let Limit { option, most, .. } = self;
        (times > 0).then(|| format!("{option} {most} was reached {}; raise it", times_of(times)))
    }
}

fn times_of(count: u64) -> String {
    match count {
        1 => "once".into(),
        count => format!("{count} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reached_is_said_once_a_minute_at_most_and_never_left_out() {
        let (limit, start) = (Limit::new("--pending", 7, "raise it".into()), Instant::now());
        assert_eq!((limit.news(start), limit.state()), (None, None));
        limit.reach();
        let said = limit.news(start).unwrap();
        assert_eq!(said, "--pending 7 was reached, once so far: raise it");
        (0..1000).for_each(|_| limit.reach());
        assert_eq!(limit.news(start + limits::LIMIT_TOLD / 2), None);
        let said = limit.news(start + limits::LIMIT_TOLD).unwrap();
        assert!(said.contains("1001 times"), "{said}");
        assert_eq!(limit.news(start + 3 * limits::LIMIT_TOLD), None, "nothing is new");
        assert_eq!(limit.state().unwrap(), "--pending 7 was reached 1001 times; raise it");
    }
}
