//! A version 1 tunnel whose user has left: its bytes are read and dropped until the old answer is over
//! (protocol page, section 6, step 7). Knows nothing of mappings.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::residue::{Missing, Residue, Verdict};
use super::told::{Of, is_asked, tell};
use crate::limits;
use crate::net::stall::{Stall, StallWatch};
use crate::net::stream::{Received, Stream};
use crate::runtime::{Deadlines, Timer, now};
use crate::text::dump::For;
use crate::wire::heartbeat::{BEAT, Sieve, beats};

/// A tunnel whose bytes are read and dropped.
pub struct Drain {
    stream: Stream,
    /// Silence after which the agent counts as gone; `None` for never.
    threshold: Option<Duration>,
    residue: Residue,
    /// Finds heartbeats in plain TCP.
    sieve: Sieve,
    started: Instant,
    /// When the agent last sent anything, heartbeats included.
    heard_at: Instant,
    /// Bytes of heartbeat answers since the kernel last had all of them.
    answers: usize,
    bytes: u64,
    timer: Timer,
    watch: StallWatch,
    /// The last question that it has answered.
    answered: u8,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more comes.
    Clean,
    /// The answer that a user has asked for has not come in the time for which it is waited for.
    Unanswered,
    /// Its agent closed it, or it broke.
    Left,
    /// It sent nothing for its heartbeat threshold.
    Absent,
    /// It acknowledged nothing for a minute.
    Stalled,
}

/// How its agent ended it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    InOrder,
    Broken,
}

impl Outcome {
    /// Whether the tunnel can carry a session.
    pub fn is_usable(self) -> bool {
        matches!(self, Outcome::Clean | Outcome::Unanswered)
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Drained {
    /// Whether it can be used again.
    pub outcome: Outcome,
    /// What was still to come on it, unless it ended by itself and in order.
    pub missing: Missing,
    /// When the agent last sent anything.
    pub heard_at: Instant,
    /// When it last sent anything but heartbeats.
    pub spoke_at: Instant,
    /// Bytes read and dropped.
    pub bytes: u64,
    /// How long that took.
    pub lasted: Duration,
}

impl Drain {
    /// A tunnel whose user has left; `heard_at` is when its agent last sent anything.
    pub fn new(
        mut stream: Stream,
        threshold: Option<Duration>,
        residue: Residue,
        heard_at: Instant,
    ) -> Self {
        stream.close_in_order();
        Drain {
            stream,
            threshold,
            residue,
            sieve: Sieve::default(),
            started: now(),
            heard_at,
            answers: 0,
            bytes: 0,
            timer: Timer::new(),
            watch: StallWatch::default(),
            answered: 0,
        }
    }

    /// Takes the last bytes that came before it, whose heartbeats are not answered yet.
    ///
    /// # Errors
    /// As [`Stream::queue`].
    pub fn take_over(&mut self, before: &[u8]) -> io::Result<()> {
        let beats = if self.stream.is_tls() { 0 } else { self.sieve.take(before).0 };
        self.answer(beats)
    }

    fn answer(&mut self, heartbeats: usize) -> io::Result<()> {
        self.answers += heartbeats * BEAT.len();
        if heartbeats == 0 { Ok(()) } else { self.stream.queue_times(BEAT, heartbeats) }
    }

    /// Its connection, to be used again or closed.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Whether the agent owes an answer.
    pub fn is_owed(&self) -> bool {
        self.residue.is_owed()
    }

    fn drained(&self, outcome: Outcome, in_order: bool) -> Drained {
        let missing = match self.residue.missing(now()) {
            _ if in_order || outcome.is_usable() => Missing::Nothing,
            // More of it may have come than was read.
            Missing::Nothing => Missing::Rest,
            missing => missing,
        };
        Drained {
            outcome,
            missing,
            heard_at: self.heard_at,
            spoke_at: self.residue.heard_at(),
            bytes: self.bytes,
            lasted: now().saturating_duration_since(self.started),
        }
    }

    /// Reads once; whether there may be more to read, in this turn.
    fn read(&mut self, context: &Context<'_>) -> Result<bool, End> {
        match self.stream.poll_flush(context) {
            Poll::Ready(Ok(())) => self.answers = 0,
            Poll::Ready(Err(_)) => return Err(End::Broken),
            Poll::Pending if self.answers >= limits::ANSWERS_WAITING => {
                // It cannot be heard while it is not read.
                self.heard_at = now();
                return Ok(false);
            }
            Poll::Pending => {}
        }
        // This must be known before everything that has come is read: its agent may dial again
        // immediately.
        if self.stream.poll_broken(context).is_ready() {
            return Err(End::Broken);
        }
        let (tls, mut heartbeats, mut bytes) = (self.stream.is_tls(), 0, 0);
        let sieve = &mut self.sieve;
        let received = self.stream.poll_receive(context, &mut |unit| {
            let (count, others) = match tls {
                false => sieve.take(unit),
                true if beats(unit, tls) > 0 => (1, 0),
                true => (0, unit.len()),
            };
            heartbeats += count;
            bytes += others as u64;
        });
        match received {
            Poll::Ready(Ok(Received::Bytes(_))) => {}
            Poll::Ready(Ok(Received::Ended)) if !self.stream.is_cut() => return Err(End::InOrder),
            Poll::Ready(_) => return Err(End::Broken),
            Poll::Pending => return Ok(false),
        }
        self.heard_at = now();
        self.answer(heartbeats).map_err(|_| End::Broken)?;
        if bytes > 0 {
            self.bytes += bytes;
            self.residue.heard(bytes, now());
        }
        Ok(true)
    }

    /// How it ends by the passing of time, or when to look again.
    fn due(&mut self) -> Result<Outcome, Option<Instant>> {
        let mut deadlines = Deadlines::new(now());
        self.give_up_begun(deadlines.now());
        let outcome = self
            .is_over(&mut deadlines)
            .or_else(|| self.is_absent(&mut deadlines).then_some(Outcome::Absent))
            .or_else(|| self.is_stalled(&mut deadlines).then_some(Outcome::Stalled));
        outcome.ok_or(deadlines.next())
    }

    /// Counts the beginning of a heartbeat as bytes if the rest has not come in time.
    fn give_up_begun(&mut self, now: Instant) {
        if self.sieve.is_amid() && self.heard_at + limits::BEAT_REST <= now {
            let bytes = self.sieve.release() as u64;
            self.bytes += bytes;
            self.residue.heard(bytes, self.heard_at);
        }
    }

    /// Whether the old answer is over, and the tunnel can go on to carry another session.
    fn is_over(&self, deadlines: &mut Deadlines) -> Option<Outcome> {
        let outcome = match self.residue.verdict(deadlines.now()) {
            Verdict::Until(at) => {
                deadlines.look_at(at);
                return None;
            }
            Verdict::Clean => Outcome::Clean,
            Verdict::Unanswered => Outcome::Unanswered,
        };
        // Its turn may have ended before all was read, and its own answers must be with the kernel
        // before it carries another session.
        if self.stream.maybe_readable() || self.stream.waiting() > 0 {
            deadlines.look_at(deadlines.now() + limits::STALL_CHECK);
            return None;
        }
        // The rest of a heartbeat would be another session's bytes.
        if self.sieve.is_amid() {
            deadlines.look_at(self.heard_at + limits::BEAT_REST);
            return None;
        }
        Some(outcome)
    }

    fn is_absent(&self, deadlines: &mut Deadlines) -> bool {
        self.threshold.is_some_and(|threshold| deadlines.has_passed(self.heard_at + threshold))
    }

    fn is_stalled(&mut self, deadlines: &mut Deadlines) -> bool {
        self.watch.look(&mut self.stream, limits::STALL_CHECK, deadlines) == Stall::Gone
    }
}

impl Future for Drain {
    type Output = Drained;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Drained> {
        loop {
            match self.read(context) {
                Ok(true) => {}
                Ok(false) => break,
                Err(end) => return Poll::Ready(self.drained(Outcome::Left, end == End::InOrder)),
            }
        }
        match self.due() {
            Ok(outcome) => Poll::Ready(self.drained(outcome, false)),
            Err(next) => {
                self.timer.wake_at(context, next);
                if is_asked(&mut self.answered) {
                    tell(format_args!(
                        "tunnel {}: version 1, its user has left for {}; waits until no more of the old answer comes, \
                         {} bytes so far; heard {} ago",
                        Of(&self.stream),
                        For::since(self.started),
                        self.bytes,
                        For::since(self.heard_at)
                    ));
                }
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{block_on, look};
    use crate::session::tests::broken_behind_unread_bytes;
    use std::pin::pin;
    use std::task::Waker;

    #[test]
    fn reset_behind_unread_bytes_ends_it_at_the_next_look() {
        block_on(async {
            let socket = broken_behind_unread_bytes();
            let unread = rustix::io::ioctl_fionread(&socket).unwrap();
            assert!(
                unread > 2 * limits::TURN_BYTES as u64,
                "{unread} bytes are too few to show it"
            );
            let stream = Stream::plain(socket).unwrap();
            let residue = Residue::stray(stream.round_trip(), None, now());
            let mut drain = pin!(Drain::new(stream, None, residue, now()));
            let context = &mut Context::from_waker(Waker::noop());
            let mut polled = drain.as_mut().poll(context);
            if polled.is_pending() {
                look().await;
                polled = drain.poll(context);
            }
            let Poll::Ready(drained) = polled else { panic!("not noticed") };
            assert_eq!((drained.outcome, drained.missing), (Outcome::Left, Missing::Rest));
        })
        .unwrap();
    }
}
