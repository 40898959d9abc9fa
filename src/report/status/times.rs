//! How long users wait for a tunnel and how long sessions last: counted by time, over all mappings.

use std::time::Duration;

/// Upper bounds of a user's wait, in milliseconds. `userwait` is mostly 10 s.
pub const WAITS: [u32; 7] = [10, 100, 500, 1_000, 5_000, 10_000, 60_000];
/// Upper bounds of a session's duration, in milliseconds: a request, a page, a download, a day at work.
pub const SESSIONS: [u32; 7] = [100, 1_000, 10_000, 60_000, 600_000, 3_600_000, 86_400_000];

/// Both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Of users that were given a tunnel: from when they were ready for one.
    pub waits: Histogram,
    /// Of sessions that are over.
    pub sessions: Histogram,
}

/// How many took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Those that took at most as long as each bound and longer than the one before; the last, those that took
    /// longer than all.
    pub counts: [u64; 8],
    /// Of all together.
    pub milliseconds: u64,
}

impl Histogram {
    /// One more, which took this long.
    pub fn count(&mut self, bounds: &[u32; 7], time: Duration) {
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let place = bounds.iter().filter(|bound| u64::from(**bound) < milliseconds).count();
        self.counts[place] += 1;
        self.milliseconds = self.milliseconds.saturating_add(milliseconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_counted_below_the_first_bound_that_it_does_not_exceed() {
        let mut waits = Histogram::default();
        for (milliseconds, place) in [(0, 0), (10, 0), (11, 1), (60_000, 6), (60_001, 7)] {
            let before = waits.counts[place];
            waits.count(&WAITS, Duration::from_millis(milliseconds));
            assert_eq!(waits.counts[place], before + 1, "{milliseconds}");
        }
        assert_eq!(waits.milliseconds, 120_022);
        assert_eq!(waits.counts.iter().sum::<u64>(), 5);
    }
}
