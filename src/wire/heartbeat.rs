//! The heartbeat: the four bytes `BEAT`, agent to connector and back (protocol page, section 4).

use std::time::{Duration, Instant};

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

/// A heartbeat that a read of a plain stream has cut: how many of its bytes have come. Reads of
/// nothing but heartbeats are cut anywhere once there are many of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    length: usize,
    /// Whether the last read was heartbeats, behind which the beginning of another may come alone.
    behind_beats: bool,
}

/// What a read of a plain stream is, with what was [`Begun`] before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing but so many whole heartbeats, and perhaps another's beginning, which is kept.
    Beats(usize),
    /// Bytes, and before them what was taken for a heartbeat's beginning.
    Bytes(&'static [u8]),
}

impl Begun {
    /// Takes a read. A beginning alone, with no heartbeat before it, is bytes.
    pub fn take(&mut self, unit: &[u8]) -> Heard {
        let Begun { length: begun, behind_beats } = std::mem::take(self);
        let length = begun + unit.len();
        let only = unit.iter().zip(begun..).all(|(byte, at)| *byte == BEAT[at % BEAT.len()]);
        if !only || (!behind_beats && length < BEAT.len()) {
            return Heard::Bytes(&BEAT[..begun]);
        }
        *self = Begun { length: length % BEAT.len(), behind_beats: true };
        Heard::Beats(length / BEAT.len())
    }

    /// Whether there is any.
    pub fn is_some(self) -> bool {
        self.length > 0
    }

    /// Gives it up: its bytes.
    pub fn release(&mut self) -> &'static [u8] {
        &BEAT[..std::mem::take(self).length]
    }
}

/// Heartbeats among the discarded bytes of a plain stream: wherever they stand, and wherever the
/// reads cut them. What it has seen depends on the bytes alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sieve {
    /// How many of a heartbeat's bytes have come.
    begun: usize,
}

impl Sieve {
    /// Takes a read: how many heartbeats are whole with it, and how many bytes are certainly none's.
    pub fn take(&mut self, bytes: &[u8]) -> (usize, usize) {
        let (before, mut count) = (self.begun, 0);
        for piece in bytes.chunks(64) {
            // Most of an answer holds no beginning; this look takes a fraction of the time.
            if self.begun == 0 && !piece.contains(&BEAT[0]) {
                continue;
            }
            for byte in piece {
                self.begun = match *byte {
                    byte if byte == BEAT[self.begun] => self.begun + 1,
                    byte => usize::from(byte == BEAT[0]),
                };
                if self.begun == BEAT.len() {
                    self.begun = 0;
                    count += 1;
                }
            }
        }
        (count, before + bytes.len() - count * BEAT.len() - self.begun)
    }

    /// Whether the last bytes may be a heartbeat's beginning.
    pub fn is_amid(self) -> bool {
        self.begun > 0
    }

    /// Gives the beginning up: so many bytes were none's.
    pub fn release(&mut self) -> usize {
        std::mem::take(&mut self.begun)
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
    fn heartbeats_are_heard_wherever_the_reads_end() {
        let all = BEAT.repeat(5);
        for one in 4..all.len() {
            for two in one..all.len() {
                let mut begun = Begun::default();
                let pieces = [&all[..one], &all[one..two], &all[two..]];
                let beats = pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| {
                    let Heard::Beats(count) = begun.take(piece) else { panic!("{one} {two}") };
                    count
                });
                assert_eq!(beats.sum::<usize>(), 5, "cut at {one} and {two}");
                assert!(!begun.is_some());
            }
        }
        let mut begun = Begun::default();
        for bytes in [&b"B"[..], b"BEA", b"BEATX", b"BEATBEATA", b"XBEAT", b"beat"] {
            assert_eq!(begun.take(bytes), Heard::Bytes(b""), "{bytes:?}");
        }
        assert_eq!(begun.take(b"BEATBE"), Heard::Beats(1));
        assert_eq!(begun.take(b"E"), Heard::Bytes(b"BE"), "what was no heartbeat is bytes");
        assert_eq!(begun.take(b"BEATB"), Heard::Beats(1));
        assert_eq!(begun.release(), b"B");
        assert!(!begun.is_some());
    }

    #[test]
    fn heartbeats_among_bytes_are_the_same_wherever_the_reads_end() {
        let random = &mut fastrand::Rng::with_seed(1);
        for _ in 0..3000 {
            let mut sent = Vec::new();
            for _ in 0..random.usize(..40) {
                match random.usize(..4) {
                    0 => sent.extend(BEAT),
                    1 => sent.extend(&BEAT[..random.usize(..4)]),
                    2 => sent.extend(std::iter::repeat_n(b'.', random.usize(..150))),
                    _ => sent.push(*random.choice(b"BEATX").unwrap()),
                }
            }
            let whole = String::from_utf8(sent.clone()).unwrap();
            let beats = whole.matches("BEAT").count();
            let begun = (1..4).rev().find(|&length| whole.ends_with(&"BEAT"[..length]));
            let none = sent.len() - 4 * beats - begun.unwrap_or(0);
            let mut unsplit = Sieve::default();
            assert_eq!(unsplit.take(&sent), (beats, none), "{whole}");
            let (mut split, mut counts, mut rest) = (Sieve::default(), (0, 0), &sent[..]);
            while !rest.is_empty() {
                let piece = random.usize(1..=rest.len().min(90));
                let (count, bytes) = split.take(&rest[..piece]);
                counts = (counts.0 + count, counts.1 + bytes);
                rest = &rest[piece..];
            }
            assert_eq!((counts, split), ((beats, none), unsplit), "{whole}");
            assert_eq!(split.is_amid(), begun.is_some());
            assert_eq!(split.release(), begun.unwrap_or(0));
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
