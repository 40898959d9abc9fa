//! Whether an old answer may still come on a version 1 tunnel whose user has left (protocol page,
//! section 6, step 7). No sockets and no clocks: events with their times in, a time out.
//!
//! The field's agent keeps its service's connection, and its service goes on answering whoever has
//! left. What the session itself has shown tells how long the silence must be after which the
//! answer is over.

use std::time::{Duration, Instant};

use crate::limits;

/// How a user left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It said goodbye: close_notify in TLS.
    InOrder,
    /// FIN and nothing else: what many TLS clients do, and all there is in plain TCP.
    Fin,
    /// Reset, or given up: bytes may have been left unread.
    Torn,
}

/// What may still come on a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: the next user may have it.
    Clean,
    /// The user's last bytes were never answered, for as long as anybody waits for that.
    Unanswered,
    /// Look again at this time, unless something happens before.
    Until(Instant),
}

/// What a tunnel that is lost had still to bring, which may then come on a fresh one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing.
    Nothing,
    /// The rest of an answer, of which bytes have come.
    Rest,
    /// An answer, all of it: nobody knows when it comes.
    Answer,
}

/// One session of a version 1 tunnel, and what came after its user had left. Heartbeats are none of
/// its business.
#[derive(Clone, Debug)]
pub struct Residue {
    /// To the agent and back.
    round_trip: Duration,
    /// Whether the last to speak was the user.
    owed: bool,
    /// When the agent last sent bytes, or else when the session began.
    heard_at: Instant,
    /// From when the agent's next silence counts: its last bytes of this answer, or the end of a
    /// time in which it was not read. `None` before the answer.
    silent_from: Option<Instant>,
    /// When the answer to the user's last bytes began.
    begun_at: Instant,
    /// Its bytes so far.
    length: u64,
    /// The longest silence within that answer.
    gap: Duration,
    /// The longest silence within any answer.
    longest: Duration,
    /// Silences of the kind of `longest`, so far.
    alike: u32,
    left: Option<(Leaving, Instant)>,
    /// Until when an answer that is owed is waited for once the user has left.
    answer_by: Instant,
    /// Whether the user cannot have seen an answer to its last bytes when it left.
    left_waiting: bool,
    /// Whether nobody is there any more: a user that has ended its direction may be.
    gone: bool,
    /// Whether bytes have come for a user that was certainly gone, or that had left an answer.
    late: bool,
}

impl Residue {
    /// A session that begins.
    pub fn new(round_trip: Duration, now: Instant) -> Self {
        Residue {
            round_trip,
            owed: false,
            heard_at: now,
            silent_from: None,
            begun_at: now,
            length: 0,
            gap: Duration::ZERO,
            longest: Duration::ZERO,
            alike: 0,
            left: None,
            answer_by: now,
            left_waiting: false,
            gone: false,
            late: false,
        }
    }

    /// A tunnel on which bytes have come that no user waits for; `after` so long a silence since
    /// the bytes before, if there were any.
    pub fn stray(round_trip: Duration, after: Option<Duration>, now: Instant) -> Self {
        let mut residue = Residue::new(round_trip, now);
        residue.left = Some((Leaving::Torn, now));
        residue.heard(1, now);
        if let Some(after) = after {
            residue.note(after);
        }
        residue
    }

    /// Bytes of the user were passed on.
    pub fn asked(&mut self) {
        self.owed = true;
        self.silent_from = None;
        self.length = 0;
        self.gap = Duration::ZERO;
    }

    /// So many bytes of the agent came, heartbeats not among them.
    pub fn heard(&mut self, bytes: u64, now: Instant) {
        if let Some(from) = self.silent_from {
            self.note(now.saturating_duration_since(from));
        }
        // A half-closed user may have waited for just this.
        self.late |= self.left.is_some() && (self.gone || !self.left_waiting);
        if std::mem::take(&mut self.owed) {
            self.begun_at = now;
        }
        self.silent_from = Some(now);
        self.heard_at = now;
        self.length += bytes;
    }

    /// The agent was not read until now: its silence was not its own.
    pub fn read_again(&mut self, now: Instant) {
        if let Some(from) = &mut self.silent_from {
            *from = now;
        }
    }

    /// The user has left, having got all of the answer so far or not: in that case, and where the
    /// answer began at this very time, it may have ended its direction alone and wait for the
    /// answer. Said again when more is known.
    pub fn left(&mut self, leaving: Leaving, got_all: bool, now: Instant) {
        if self.left.is_none() {
            self.left_waiting = self.owed || !got_all || self.begun_at == now;
            self.answer_by = now + limits::OWED;
        }
        self.gone |= leaving == Leaving::Torn;
        self.left = Some((leaving, now));
    }

    /// Nobody is there any more: the session is over.
    pub fn given_up(&mut self, now: Instant) {
        if self.left.is_none() {
            self.left(Leaving::Torn, false, now);
        }
        self.gone = true;
    }

    /// What would come on a fresh tunnel if this one were lost now.
    pub fn missing(&self, now: Instant) -> Missing {
        let mut residue = self.clone();
        residue.given_up(now);
        match residue.verdict(now) {
            Verdict::Clean => Missing::Nothing,
            _ if residue.owed => Missing::Answer,
            _ => Missing::Rest,
        }
    }

    /// Whether the user's last bytes are not answered.
    pub fn is_owed(&self) -> bool {
        self.owed
    }

    /// When the agent last sent bytes.
    pub fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// What there is to say of the tunnel now.
    pub fn verdict(&self, now: Instant) -> Verdict {
        let at = self.over_at();
        match at {
            Some(at) if now < at => Verdict::Until(at),
            Some(_) if self.owed => Verdict::Unanswered,
            Some(_) => Verdict::Clean,
            None => Verdict::Until(now + limits::OWED),
        }
    }

    /// When the answer counts as over if nothing more comes; `None` while the user is there.
    pub fn over_at(&self) -> Option<Instant> {
        let (leaving, left_at) = self.left?;
        if self.owed {
            return Some(self.answer_by);
        }
        let quick = 2 * self.round_trip + self.twice(self.gap);
        let is_long = self.length > limits::SHORT_ANSWER;
        // Short, but not all at once: a stream of events, say, with more to come.
        let is_slow = self.heard_at.duration_since(self.begun_at) >= limits::PAUSE;
        let unseen = self.heard_at + self.unseen();
        // It has ended its direction, has taken bytes since, and may wait for more.
        let waits = if self.late { !self.gone } else { self.left_waiting };
        Some(match leaving {
            Leaving::Fin | Leaving::InOrder if waits => unseen.max(left_at),
            _ if self.late => self.heard_at.max(left_at) + self.settled(),
            Leaving::Torn if is_long => unseen.max(left_at + self.settled()),
            Leaving::Torn => self.heard_at.max(left_at) + self.settled(),
            Leaving::Fin if is_long => unseen.max(left_at),
            _ if is_slow && !is_long => left_at.max(self.heard_at + self.settled()),
            Leaving::Fin => left_at.max(self.heard_at + limits::QUIET_FIN + quick),
            Leaving::InOrder if is_long => left_at.max(self.heard_at + limits::QUIET_LONG + quick),
            Leaving::InOrder => left_at.max(self.heard_at + limits::QUIET_IN_ORDER + quick),
        })
    }

    /// The silence after bytes for which nobody was there any more.
    fn settled(&self) -> Duration {
        limits::QUIET_LATE.max(self.twice(self.longest))
    }

    /// The silence after an answer whose user may wait for more of it, or after a long one whose user
    /// may have left just as a pause began.
    fn unseen(&self) -> Duration {
        if self.longest >= limits::PAUSE && self.alike >= limits::PAUSES_ALIKE {
            self.settled()
        } else {
            limits::QUIET_UNSEEN.max(self.twice(self.longest))
        }
    }

    /// Twice `silence`; less once several like it make a rhythm.
    fn twice(&self, silence: Duration) -> Duration {
        let twice = 2 * silence;
        if self.alike >= limits::PAUSES_ALIKE {
            twice.min(silence + limits::QUIET_LATE)
        } else {
            twice
        }
    }

    fn note(&mut self, silence: Duration) {
        self.gap = self.gap.max(silence);
        // A rhythm is made of silences of about the same length; a much longer one begins anew.
        if silence > self.longest.mul_f32(1.5) {
            self.alike = 1;
        } else if silence >= self.longest / 2 {
            self.alike = self.alike.saturating_add(1);
        }
        self.longest = self.longest.max(silence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Leaving::{Fin, InOrder, Torn};

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A session in which the user has asked and the agent has answered with pieces of these
    /// lengths, one after the other after so many milliseconds; with the time of the last one.
    fn answered(pieces: &[(u64, u64)]) -> (Residue, Instant) {
        let mut now = Instant::now();
        let mut residue = Residue::new(Duration::ZERO, now);
        residue.asked();
        for (after, length) in pieces {
            now += ms(*after);
            residue.heard(*length, now);
        }
        (residue, now)
    }

    /// The silence after the last piece after which a tunnel is clean whose user left so.
    fn quiet(pieces: &[(u64, u64)], leaving: Leaving) -> Duration {
        let (mut residue, now) = answered(pieces);
        // Who ends its direction at the very time at which the answer begins has not seen it.
        let seen = if leaving == Torn { Duration::ZERO } else { ms(1) };
        residue.left(leaving, true, now + seen);
        residue.over_at().unwrap() - now
    }

    #[test]
    fn short_answers_whose_users_left_in_order_are_over_at_once() {
        assert_eq!(quiet(&[(500, 100)], InOrder), ms(15));
        assert_eq!(quiet(&[(500, 100)], Fin), ms(30));
        assert_eq!(quiet(&[(500, 100), (3, 60_000)], InOrder), ms(15 + 2 * 3));
        assert_eq!(quiet(&[(500, 100), (3, 60_000)], Fin), ms(30 + 2 * 3));
        // Two round trips: what the agent had sent by then is there.
        let now = Instant::now();
        let mut far = Residue::new(ms(300), now);
        far.asked();
        far.heard(10, now);
        far.left(InOrder, true, now + ms(1));
        assert_eq!(far.over_at().unwrap() - now, ms(615));
        // A user that stayed longer than that has waited for it already.
        let (mut residue, now) = answered(&[(500, 100)]);
        residue.left(InOrder, true, now + ms(700));
        assert_eq!(residue.verdict(now + ms(700)), Verdict::Clean);
    }

    #[test]
    fn silence_before_an_answer_and_between_answers_is_no_gap() {
        let (mut residue, now) = answered(&[(4000, 100)]);
        residue.asked();
        residue.heard(100, now + ms(9000));
        residue.left(InOrder, true, now + ms(9001));
        assert_eq!(residue.over_at().unwrap(), now + ms(9015));
        // Nor are those within answers before it, which may have been long.
        let (mut residue, now) = answered(&[(5, 70_000), (40, 70_000)]);
        residue.asked();
        residue.heard(100, now + ms(500));
        residue.left(InOrder, true, now + ms(501));
        assert_eq!(residue.over_at().unwrap(), now + ms(515));
        // Nor is a time in which the connector did not read.
        let (mut residue, now) = answered(&[(1, 100)]);
        residue.read_again(now + ms(150));
        residue.heard(100, now + ms(152));
        residue.left(InOrder, true, now + ms(153));
        assert_eq!(residue.over_at().unwrap(), now + ms(152 + 15 + 4));
    }

    #[test]
    fn steady_answer_that_its_user_left_is_over_within_a_second_of_its_end() {
        for leaving in [Fin, Torn] {
            let (mut residue, mut now) = answered(&[(5, 16_384); 60]);
            residue.left(leaving, true, now);
            residue.given_up(now);
            for _ in 0..1000 {
                now += ms(5);
                residue.heard(16_384, now);
                assert_eq!(residue.verdict(now + ms(849)), Verdict::Until(now + ms(850)));
            }
            assert_eq!(residue.verdict(now + ms(850)), Verdict::Clean);
        }
        // It may begin when its user is gone.
        let (mut residue, mut now) = answered(&[]);
        residue.left(Torn, true, now);
        for _ in 0..60 {
            now += ms(5);
            residue.heard(16_384, now);
        }
        assert_eq!(residue.over_at().unwrap() - now, limits::QUIET_LATE);
    }

    #[test]
    fn long_answer_may_have_been_left_just_as_a_pause_began() {
        let long = [(5, 16_384); 60];
        for leaving in [Fin, Torn] {
            assert_eq!(quiet(&long, leaving), limits::QUIET_UNSEEN);
        }
        assert_eq!(quiet(&long, InOrder), ms(300 + 2 * 5));
        // Once the pause is over it is known; after some of them they are a rhythm.
        let (mut residue, mut now) = answered(&long);
        residue.left(Fin, true, now);
        for (pause, quiet) in [(5000, 10_000), (5010, 10_020), (5000, 5860), (5000, 5860)] {
            now += ms(pause);
            residue.heard(16_384, now);
            assert_eq!(residue.over_at().unwrap() - now, ms(quiet));
        }
        // A rhythm of pauses that the user saw itself counts as well.
        let mut events = [(5, 70_000); 5];
        events[1..].fill((2000, 70_000));
        assert_eq!(quiet(&events, Fin), ms(2850));
        assert_eq!(quiet(&[(5, 70_000), (5000, 70_000)], Fin), ms(10_000), "one is none");
        // Who was there for longer than that has seen that nothing came, but not what was on its way
        // when it broke off.
        let (mut residue, now) = answered(&long);
        residue.left(Torn, true, now + ms(10_000));
        assert_eq!(residue.over_at().unwrap() - now, ms(10_000) + limits::QUIET_LATE);
        // The tiny gaps of a steady stream do not.
        assert_eq!(quiet(&[(2, 70_000); 50], Fin), limits::QUIET_UNSEEN);
    }

    #[test]
    fn owed_answer_is_waited_for_a_minute_and_until_it_is_over() {
        let (mut residue, now) = answered(&[(1, 10)]);
        residue.asked();
        residue.left(InOrder, true, now);
        assert!(residue.is_owed());
        assert_eq!(residue.missing(now), Missing::Answer);
        residue.given_up(now + ms(1000));
        assert_eq!(residue.verdict(now + ms(59_999)), Verdict::Until(now + limits::OWED));
        assert_eq!(residue.verdict(now + limits::OWED), Verdict::Unanswered);
        residue.heard(10, now + ms(50_000));
        assert_eq!(residue.missing(now + ms(50_849)), Missing::Rest);
        assert_eq!(residue.missing(now + ms(50_850)), Missing::Nothing);
        assert_eq!(residue.verdict(now + ms(50_849)), Verdict::Until(now + ms(50_850)));
        assert_eq!(residue.verdict(now + ms(50_850)), Verdict::Clean);
    }

    #[test]
    fn half_closed_user_is_waited_for_through_pauses_that_it_has_not_seen() {
        for leaving in [InOrder, Fin] {
            let now = Instant::now();
            let mut residue = Residue::new(Duration::ZERO, now);
            residue.asked();
            residue.left(leaving, true, now);
            residue.heard(10, now + ms(400));
            assert_eq!(residue.over_at().unwrap(), now + ms(400) + limits::QUIET_UNSEEN);
            // What it got with a pause may have another one, of about the same length.
            residue.heard(10, now + ms(5400));
            assert_eq!(residue.over_at().unwrap(), now + ms(5400 + 10_000));
            // A session that is cut short makes it no sooner clean.
            residue.given_up(now + ms(5500));
            assert_eq!(residue.over_at().unwrap(), now + ms(5400 + 10_000));
            // Nor does its reset make it clean at once.
            residue.left(Torn, false, now + ms(16_000));
            assert_eq!(residue.over_at().unwrap(), now + ms(16_000 + 10_000));
            // Once it is clean it stays so.
            let (mut residue, now) = answered(&[(1, 10)]);
            residue.left(leaving, false, now);
            let over = now + limits::QUIET_UNSEEN;
            assert_eq!(residue.verdict(over), Verdict::Clean);
            residue.given_up(over);
            assert_eq!(residue.verdict(over), Verdict::Clean);
        }
        // An answer that had begun before the FIN and goes on after it has a user that takes it.
        let (mut residue, now) = answered(&[(1, 10), (1, 10)]);
        residue.left(Fin, true, now);
        assert_eq!(residue.over_at().unwrap() - now, ms(32));
        residue.heard(10, now + ms(10));
        assert_eq!(residue.over_at().unwrap(), now + ms(10) + limits::QUIET_UNSEEN);
        residue.left(Torn, false, now + ms(11));
        assert_eq!(residue.over_at().unwrap(), now + ms(11) + limits::QUIET_LATE);
        // What it had not got when it ended was no answer to it yet.
        for (answer, got_all) in [(&[(1, 10), (1, 10)][..], false), (&[(1, 10)], true)] {
            let (mut residue, now) = answered(answer);
            residue.left(Fin, got_all, now);
            assert_eq!(residue.over_at().unwrap(), now + limits::QUIET_UNSEEN);
        }
    }

    #[test]
    fn short_stream_of_events_is_no_burst() {
        for leaving in [InOrder, Fin, Torn] {
            assert_eq!(quiet(&[(10, 27); 25], leaving), limits::QUIET_LATE);
            assert_eq!(quiet(&[(10, 27), (3000, 27)], leaving), ms(6000));
            assert_eq!(quiet(&[(3000, 27); 5], leaving), ms(3850));
        }
    }

    #[test]
    fn a_rhythm_is_made_of_silences_of_about_the_same_length() {
        let after = |silences: &[u64]| {
            let pieces: Vec<_> =
                [&[10][..], silences].concat().iter().map(|ms| (*ms, 27)).collect();
            quiet(&pieces, Torn)
        };
        assert_eq!(after(&[2000, 2000, 1100]), ms(2850));
        assert_eq!(after(&[2000, 2900, 2000]), ms(3750));
        assert_eq!(after(&[2000, 10, 10, 10]), ms(4000), "short ones are none of it");
        assert_eq!(after(&[1000, 1000, 1000, 2000]), ms(4000), "a much longer one begins anew");
    }

    #[test]
    fn bytes_that_nobody_waits_for_may_come_again_as_late() {
        let now = Instant::now();
        let quiet = |after| Residue::stray(ms(1), after, now).over_at().unwrap() - now;
        assert_eq!(quiet(None), limits::QUIET_LATE);
        assert_eq!(quiet(Some(ms(900))), ms(1800));
    }

    #[test]
    fn nothing_is_said_of_a_tunnel_whose_user_is_there() {
        let (residue, now) = answered(&[(1, 10)]);
        assert!(matches!(residue.verdict(now + ms(100_000)), Verdict::Until(_)));
        assert_eq!(residue.over_at(), None);
    }

    /// Answers drawn at random, steady or with pauses, and users that leave anywhere in them and
    /// anyhow: what the page promises of them holds.
    #[test]
    fn no_drawn_answer_is_taken_to_be_over_before_its_end_nor_long_after_it() {
        let asked = std::env::var("IOFOG_CONNECTOR_HISTORIES").ok();
        let histories = asked.map_or(100_000, |count| count.parse().expect("a number"));
        let mut random = fastrand::Rng::with_seed(10);
        for number in 0..histories {
            history(number, &mut random);
        }
    }

    fn history(number: u64, random: &mut fastrand::Rng) {
        let begun = Instant::now();
        let mut now = begun;
        let round_trip = Duration::from_micros(random.u64(0..50_000));
        let mut residue = Residue::new(round_trip, now);
        // Exchanges before the one that counts.
        for _ in 0..random.usize(0..4) {
            residue.asked();
            now += ms(random.u64(0..3000));
            residue.heard(random.u64(1..100_000), now);
        }
        residue.asked();
        // The answer: pieces, each of bytes that come about as fast as each other.
        let gap = random.u64(1..60);
        let pause = if random.bool() { random.u64(200..=5000) } else { 0 };
        let chunks = random.usize(2..30);
        let mut times = Vec::new();
        let mut at = now + ms(random.u64(0..55_000));
        for piece in 0..random.usize(2..6) {
            if piece > 0 && pause > 0 {
                at += ms(pause + random.u64(0..=(pause / 5).min(800)));
            }
            for _ in 0..chunks {
                at += ms(random.u64(gap.div_ceil(2)..=gap));
                times.push(at);
            }
        }
        let end = at;
        // Pieces before a pause that nobody has seen are long, if their user may leave there.
        let chunk = 1 + 70_000 / chunks as u64 + random.u64(0..20_000);
        let leaves_after = match random.u32(0..10) {
            // With the answer still owed.
            0 if pause == 0 => 0,
            // Just as the first pause begins, which nobody has seen, or having seen one of it. (What
            // of a first pause that comes only after the user has left? See the page.)
            _ if pause > 0 => [chunks, random.usize(chunks + 1..=times.len())][random.usize(0..2)],
            // Having seen one gap of it at least.
            _ => random.usize(2..=times.len()),
        };
        let mut last = None;
        for time in &times[..leaves_after] {
            now = *time;
            residue.heard(chunk, now);
            last = Some(now);
        }
        let seen = leaves_after / chunks;
        let leaving = match random.u32(0..3) {
            0 if pause == 0 || seen > 1 => InOrder,
            1 => Fin,
            _ => Torn,
        };
        residue.left(leaving, true, now);
        if leaves_after == 0 || random.bool() {
            residue.given_up(now);
        }
        let what = format!(
            "history {number}: gaps of {gap} ms, pauses of {pause} ms, {leaving:?} after \
             {leaves_after} of {} pieces of {chunk} bytes",
            times.len()
        );
        for time in &times[leaves_after..] {
            let before = *time - Duration::from_micros(1);
            let verdict = residue.verdict(before);
            assert!(matches!(verdict, Verdict::Until(_)), "{what}: {verdict:?} in mid-answer");
            residue.heard(chunk, *time);
            // It shows that nobody is there.
            residue.left(Torn, true, *time);
            last = Some(*time);
        }
        assert_eq!(last, Some(end), "{what}");
        let known = leaves_after < times.len() || leaving == InOrder;
        let at_most = match (known, pause) {
            (true, 0) => ms(1000),
            (true, pause) => ms(1000 + 2 * (pause + pause / 5)),
            (false, pause) => ms(7000 + 1000 + 2 * pause),
        };
        let verdict = residue.verdict(end + at_most + 2 * round_trip);
        assert_eq!(verdict, Verdict::Clean, "{what}");
    }
}
