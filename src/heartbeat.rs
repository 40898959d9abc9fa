//! The heartbeat: the four bytes `BEAT`, agent to connector and back (protocol page, section 4).

use std::io;
use std::time::{Duration, Instant};

use crate::stream::Stream;

/// A heartbeat, and its answer.
pub const BEAT: &[u8; 4] = b"BEAT";

/// Gaps shorter than this are heartbeats that the network delivered together, not an interval.
const TOGETHER: Duration = Duration::from_millis(20);

/// How many heartbeats `unit` is: in TLS a record of exactly one, in plain TCP a read of nothing
/// else. 0 when it is, or holds, anything else.
pub fn beats(unit: &[u8], tls: bool) -> usize {
    let tokens = unit.chunks_exact(BEAT.len());
    let only = tokens.remainder().is_empty() && tokens.clone().all(|token| token == BEAT);
    match tokens.len() {
        1 if only => 1,
        count if only && !tls => count,
        _ => 0,
    }
}

/// Answers so many heartbeats: in TLS each with a record of its own.
///
/// # Errors
/// As [`Stream::queue`].
pub fn answer(stream: &mut Stream, count: usize) -> io::Result<()> {
    if stream.is_tls() {
        (0..count).try_for_each(|_| stream.queue(BEAT))
    } else {
        stream.queue(&BEAT.repeat(count))
    }
}

/// When an agent was last heard, and how often it beats.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    heard: Instant,
    beat: Option<Instant>,
    interval: Option<Duration>,
}

impl Rhythm {
    /// An agent that was heard just now and whose interval is not known yet.
    pub fn new(now: Instant) -> Self {
        Rhythm { heard: now, beat: None, interval: None }
    }

    /// The same agent, heard at this time, after a time in which its heartbeats were not noted.
    pub fn resumed(self, heard: Instant) -> Self {
        Rhythm { heard, beat: None, ..self }
    }

    /// It has sent something.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// It has sent a heartbeat. The interval follows the longest recent gap, so that heartbeats
    /// which a slow network delivers in a bunch do not make a living agent look overdue.
    pub fn beat(&mut self, now: Instant) {
        self.heard = now;
        if let Some(last) = self.beat {
            let gap = now.saturating_duration_since(last);
            if gap < TOGETHER {
                return;
            }
            self.interval =
                Some(self.interval.map_or(gap, |interval| gap.max(interval.mul_f32(0.75))));
        }
        self.beat = Some(now);
    }

    /// When it was last heard.
    pub fn last_heard(&self) -> Instant {
        self.heard
    }

    /// When it is overdue: silent for over twice its own interval. `None` while that is unknown.
    pub fn overdue_at(&self) -> Option<Instant> {
        self.interval.map(|interval| self.heard + 2 * interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_a_record_or_a_read_of_nothing_else() {
        for (unit, plain, tls) in [
            (&b"BEAT"[..], 1, 1),
            (b"BEATBEAT", 2, 0),
            (b"", 0, 0),
            (b"BEA", 0, 0),
            (b"BEATB", 0, 0),
            (b"BEATDATA", 0, 0),
            (b"beat", 0, 0),
        ] {
            assert_eq!(beats(unit, false), plain, "{unit:?}");
            assert_eq!(beats(unit, true), tls, "{unit:?}");
        }
    }

    #[test]
    fn an_agent_is_overdue_after_twice_its_own_interval() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut rhythm = Rhythm::new(start);
        rhythm.beat(at(100));
        assert_eq!(rhythm.overdue_at(), None, "one heartbeat tells no interval");
        rhythm.beat(at(1100));
        assert_eq!(rhythm.overdue_at(), Some(at(3100)));
        rhythm.beat(at(9000));
        rhythm.beat(at(9001));
        assert_eq!(rhythm.overdue_at(), Some(at(9001 + 2 * 7900)), "a bunch is no interval");
    }
}
