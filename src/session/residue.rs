//! Whether an old answer may still come on a version 1 tunnel whose user has left (protocol page,
//! section 6, step 7). No sockets and no clocks: events and their times go in, a time comes out.
//!
//! The field's agent keeps the connection to its service, and the service goes on answering a user
//! that has left. What the session itself has shown tells how much silence means that the answer is
//! over.

use std::time::{Duration, Instant};

use crate::limits;

/// How a user left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It announced its end: close_notify in TLS.
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
    /// The user's last bytes were not answered within the time for which that is waited for.
    Unanswered,
    /// To be asked again at this time, unless something happens before.
    Until(Instant),
}

/// What was still to come on a tunnel that is lost, and may now come on a fresh one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing.
    Nothing,
    /// The rest of an answer, of which bytes have come.
    Rest,
    /// An answer, all of it: nobody knows when it comes.
    Answer,
}

/// One session of a version 1 tunnel, and what came after its user had left. Heartbeats do not count.
#[derive(Clone, Debug)]
pub struct Residue {
    /// The round trip to the agent.
    round_trip: Duration,
    /// Whether the user was the last to send anything.
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
    /// How long an answer that is owed is waited for once the user has left.
    answer_by: Instant,
    /// Whether the user cannot have seen an answer to its last bytes when it left.
    left_waiting: bool,
    /// Whether the user is certainly gone: one that has only ended its direction may still be there.
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

    /// A tunnel on which bytes have come that no user waits for; `after` this much silence since the
    /// bytes before, if there were any.
    pub fn stray(round_trip: Duration, after: Option<Duration>, now: Instant) -> Self {
        let mut residue = Residue::new(round_trip, now);
        residue.left = Some((Leaving::Torn, now));
        residue.heard(1, now);
        if let Some(after) = after {
            residue.note(after);
        }
        residue
    }

    /// Bytes of the user have been passed on.
    pub fn asked(&mut self) {
        self.owed = true;
        self.silent_from = None;
        self.length = 0;
        self.gap = Duration::ZERO;
    }

    /// This many bytes have come from the agent, heartbeats not counted.
    pub fn heard(&mut self, bytes: u64, now: Instant) {
        if let Some(from) = self.silent_from {
            self.note(now.saturating_duration_since(from));
        }
        // A user that has ended only its direction may have waited for just this.
        self.late |= self.left.is_some() && (self.gone || !self.left_waiting);
        if std::mem::take(&mut self.owed) {
            self.begun_at = now;
        }
        self.silent_from = Some(now);
        self.heard_at = now;
        self.length += bytes;
    }

    /// The agent was not read until now, so its silence does not count.
    pub fn read_again(&mut self, now: Instant) {
        if let Some(from) = &mut self.silent_from {
            *from = now;
        }
    }

    /// The user has left, and had or had not got all of the answer so far. If it had not, or if the
    /// answer began at this very time, it may have ended only its direction and wait for the answer.
    /// Called again when more is known.
    pub fn left(&mut self, leaving: Leaving, got_all: bool, now: Instant) {
        if self.left.is_none() {
            self.left_waiting = self.owed || !got_all || self.begun_at == now;
            self.answer_by = now + limits::OWED_WAIT;
        }
        self.gone |= leaving == Leaving::Torn;
        self.left = Some((leaving, now));
    }

    /// The user is gone: the session is over.
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

    /// Whether the user's last bytes are still unanswered.
    pub fn is_owed(&self) -> bool {
        self.owed
    }

    /// When the agent last sent bytes.
    pub fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// The state of the tunnel now.
    pub fn verdict(&self, now: Instant) -> Verdict {
        let at = self.over_at();
        match at {
            Some(at) if now < at => Verdict::Until(at),
            Some(_) if self.owed => Verdict::Unanswered,
            Some(_) => Verdict::Clean,
            None => Verdict::Until(now + limits::OWED_WAIT),
        }
    }

    /// When the answer counts as over if nothing more comes; `None` while the user is there.
    fn over_at(&self) -> Option<Instant> {
        let (leaving, left_at) = self.left?;
        if self.owed {
            return Some(self.answer_by);
        }
        let quick = 2 * self.round_trip + self.twice(self.gap);
        let is_long = self.length > limits::SHORT_ANSWER;
        // Short, but not all at once: for instance a stream of events, with more to come.
        let is_slow = self.heard_at.duration_since(self.begun_at) >= limits::ANSWER_PAUSE;
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

    /// The silence that ends an answer of which bytes came after the user was gone.
    fn settled(&self) -> Duration {
        limits::QUIET_LATE.max(self.twice(self.longest))
    }

    /// The silence that ends an answer whose user may wait for more of it, or a long one whose user may
    /// have left just as a pause began.
    fn unseen(&self) -> Duration {
        if self.longest >= limits::ANSWER_PAUSE && self.alike >= limits::PAUSES_ALIKE {
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
        // A rhythm consists of silences of about the same length; a much longer one starts a new rhythm.
        if silence > self.longest.mul_f32(1.5) {
            self.alike = 1;
        } else if silence >= self.longest / 2 {
            self.alike = self.alike.saturating_add(1);
        }
        self.longest = self.longest.max(silence);
    }
}

#[cfg(test)]
mod tests;
