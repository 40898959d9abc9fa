//! How many idle tunnels are more than are kept ready, and since when (protocol page, section 8, step 8): policy
//! as a value.

use std::time::Instant;

use crate::limits;

/// Idle tunnels beyond those that are kept.
pub(super) struct Surplus {
    kept: usize,
    /// Since when there has always been one beyond those kept, a second one, and so on.
    since: Vec<Instant>,
}

impl Surplus {
    /// So many are `kept` ready.
    pub(super) fn new(kept: usize) -> Self {
        Surplus { kept, since: Vec::new() }
    }

    /// So many are `ready` from now on.
    pub(super) fn look(&mut self, now: Instant, ready: usize) {
        self.since.resize(ready.saturating_sub(self.kept), now);
    }

    /// How many are to be given up now, each once: so many had nothing to do for [`limits::SURPLUS`].
    pub(super) fn due(&mut self, now: Instant) -> usize {
        let due = self.since.partition_point(|since| *since + limits::SURPLUS <= now);
        drop(self.since.drain(..due));
        due
    }

    /// When one is to be given up next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.since.first().map(|since| *since + limits::SURPLUS)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn those_are_given_up_that_had_nothing_to_do_all_the_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut surplus = Surplus::new(8);
        // So many are ready from then on.
        let history = [(0, 8), (1, 9), (2, 12), (20, 10), (21, 13), (30, 13)];
        for (time, ready) in history {
            surplus.look(at(time), ready);
            assert_eq!(surplus.due(at(time)), 0, "after {time} s");
        }
        assert_eq!(surplus.next(), Some(at(31)));
        assert_eq!(surplus.due(at(31)), 1);
        // They are there until they have heard of it.
        surplus.look(at(31), 13);
        surplus.look(at(31), 12);
        assert_eq!(surplus.due(at(32)), 1);
        surplus.look(at(32), 11);
        assert_eq!((surplus.next(), surplus.due(at(50))), (Some(at(51)), 0));
        assert_eq!(surplus.due(at(51)), 3);
        surplus.look(at(51), 8);
        assert_eq!(surplus.next(), None);
    }

    #[test]
    fn tunnel_that_is_needed_now_and_then_stays() {
        let mut now = Instant::now();
        let mut surplus = Surplus::new(8);
        for _ in 0..100 {
            for ready in [9, 8] {
                surplus.look(now, ready);
                now += limits::SURPLUS - Duration::from_millis(1);
                assert_eq!(surplus.due(now), 0);
            }
        }
    }
}
