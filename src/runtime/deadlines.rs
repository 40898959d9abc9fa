//! The earliest of several deadlines, for a task that waits for whichever comes first.

use std::time::Instant;

/// Deadlines as they are asked about: each has passed, or is one to wait for.
#[derive(Debug)]
pub struct Deadlines {
    now: Instant,
    next: Option<Instant>,
}

impl Deadlines {
    /// None yet, at this time.
    pub fn new(now: Instant) -> Self {
        Deadlines { now, next: None }
    }

    /// The time at which they are looked at.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Whether `deadline` has passed. If it has not, the task waits for it.
    #[inline(always)]
    pub fn has_passed(&mut self, deadline: Instant) -> bool {
        let passed = deadline <= self.now;
        if !passed {
            self.next = Some(self.next.map_or(deadline, |next| next.min(deadline)));
        }
        passed
    }

    /// Has the task look again at `time`, if that is still to come.
    pub fn look_at(&mut self, time: Instant) {
        self.has_passed(time);
    }

    /// The earliest deadline that is still to come.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_next_deadline_is_the_earliest_of_those_that_have_not_passed() {
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        let mut deadlines = Deadlines::new(at(5));
        assert_eq!(deadlines.next(), None);
        for (deadline, passed) in [(9, false), (5, true), (4, true), (6, false), (7, false)] {
            assert_eq!(deadlines.has_passed(at(deadline)), passed, "{deadline}");
        }
        assert_eq!(deadlines.next(), Some(at(6)));
    }
}
