//! The heartbeats of an idle tunnel, and what it learns from their answers: policy as a value.

use std::time::{Duration, Instant};

use crate::limits;

/// The connector counts as gone when a heartbeat has not been answered for this many intervals.
pub(super) const INTERVALS: u32 = 2;

/// When heartbeats are due, and what has come since the last one.
pub(super) struct Beats {
    interval: Duration,
    /// When the tunnel was authorized.
    since: Instant,
    next: Instant,
    unanswered: Option<Instant>,
    /// Whether nothing has come since a session ended: the connector may not have read so far yet.
    is_unread: bool,
    /// When this side last said something.
    spoke: Instant,
    /// How long it was silent before the last heartbeat.
    silent: Duration,
    /// Bytes since the last heartbeat: there should be little more than its answer.
    unasked: usize,
    /// Whether a heartbeat was answered after the tunnel had been open for [`limits::PROVEN_IDLE`].
    proven: bool,
}

/// What an answer to a heartbeat shows of the connector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// A whole interval of silence does not end a tunnel.
    pub(super) survived: bool,
    /// It does what it should; told once.
    pub(super) proven: bool,
}

impl Beats {
    /// Of a tunnel that was authorized just now; the first one is due after `first`, the others an `interval` apart.
    pub(super) fn new(now: Instant, interval: Duration, first: Duration) -> Self {
        Beats {
            interval,
            since: now,
            next: now + first,
            unanswered: None,
            is_unread: false,
            spoke: now,
            silent: Duration::ZERO,
            unasked: 0,
            proven: false,
        }
    }

    /// The time between two.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// How long the tunnel has been open.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Whether the tunnel has shown that the connector works.
    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    /// So many bytes have come.
    pub(super) fn heard(&mut self, now: Instant, bytes: usize) -> Shown {
        self.unasked += bytes;
        if bytes == 0 {
            return Shown::default();
        }
        // The first thing after a session may answer what was said in it.
        let was_unread = std::mem::take(&mut self.is_unread);
        if self.unanswered.take().is_none() || was_unread {
            return Shown::default();
        }
        let proven = !self.proven && self.age(now) >= limits::PROVEN_IDLE;
        self.proven |= proven;
        Shown { survived: self.silent >= self.interval, proven }
    }

    /// Bytes that have come since the last heartbeat.
    pub(super) fn unasked(&self) -> usize {
        self.unasked
    }

    /// Whether the connector counts as gone.
    pub(super) fn is_gone(&self, now: Instant) -> bool {
        self.gone_at().is_some_and(|gone| gone <= now)
    }

    /// Whether the connector may not have read a session's end yet, because its user is slow: heartbeats do not tell
    /// whether it is gone.
    pub(super) fn is_unread(&self) -> bool {
        self.is_unread
    }

    /// Whether a heartbeat is to be said now; then this counts as done.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        self.unanswered.get_or_insert(now);
        self.silent = now.saturating_duration_since(self.spoke);
        self.spoke = now;
        self.next = now + self.interval;
        self.unasked = 0;
        true
    }

    /// When to ask again.
    pub(super) fn due(&self) -> Instant {
        self.gone_at().map_or(self.next, |gone| gone.min(self.next))
    }

    /// How long this side has been silent, if no heartbeat had to be answered.
    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        self.unanswered.is_none().then(|| now.saturating_duration_since(self.spoke))
    }

    /// A session has begun: nothing that was said before it is waited for, nor what comes in it counted.
    pub(super) fn pause(&mut self, now: Instant) {
        self.unanswered = None;
        self.is_unread = false;
        self.spoke = now;
        self.unasked = 0;
    }

    /// A session is over, whose relay has sent heartbeats since `began`, an interval apart.
    pub(super) fn go_on(&mut self, now: Instant, began: Instant) {
        self.pause(now);
        self.is_unread = true;
        let gone =
            now.saturating_duration_since(began).as_nanos() % self.interval.as_nanos().max(1);
        // Less than an interval, so that it fits.
        self.next = now + self.interval - Duration::from_nanos(gone as u64);
    }

    fn gone_at(&self) -> Option<Instant> {
        let unanswered = self.unanswered.filter(|_| !self.is_unread);
        unanswered.map(|since| since + INTERVALS * self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(20);

    #[test]
    fn connector_is_gone_after_two_intervals_of_silence_behind_a_heartbeat_and_not_before() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut beats = Beats::new(start, INTERVAL, INTERVAL);
        assert!(!beats.is_due(at(19)) && beats.is_due(at(20)) && !beats.is_due(at(20)));
        assert!(beats.is_due(at(40)) && !beats.is_gone(at(59)));
        assert_eq!(beats.heard(at(59), 4), Shown { survived: true, proven: true });
        assert_eq!(beats.silence(at(59)), Some(Duration::from_secs(19)));
        assert!(!beats.is_gone(at(99)), "it was answered");
        assert!(beats.is_due(at(60)) && beats.due() == at(80) && beats.is_due(at(80)));
        assert!(!beats.is_gone(at(99)) && beats.is_gone(at(100)));
        beats.pause(at(100));
        assert!(!beats.is_gone(at(200)), "a session needs no answer");
    }

    #[test]
    fn connector_that_still_reads_a_session_is_not_gone_however_long_that_takes() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut beats = Beats::new(start, INTERVAL, INTERVAL);
        beats.go_on(at(20), start);
        for seconds in (40..4000).step_by(20) {
            assert!(beats.is_due(at(seconds)) && !beats.is_gone(at(seconds)) && beats.is_unread());
            assert_eq!(beats.due(), at(seconds + 20), "each interval, and no sooner");
        }
        assert_eq!(beats.heard(at(4000), 4), Shown::default(), "it may answer the session's");
        assert!(!beats.is_unread() && !beats.is_gone(at(5000)));
        assert!(beats.is_due(at(5000)) && !beats.is_gone(at(5039)) && beats.is_gone(at(5040)));
        beats.go_on(at(5040), start);
        assert!(beats.is_due(at(5060)) && beats.is_unread());
        beats.pause(at(5070));
        assert!(!beats.is_unread(), "the next session shows that the last one was read");
    }

    #[test]
    fn heartbeats_go_on_in_the_rhythm_of_the_session() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (ended, next) in [(6, 25), (24, 25), (26, 45), (65, 85), (3600, 3605)] {
            let mut beats = Beats::new(start, INTERVAL, INTERVAL);
            beats.go_on(at(ended), at(5));
            assert_eq!(beats.due(), at(next), "after {ended} s");
        }
    }
}
