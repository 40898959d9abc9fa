//! A version 3 tunnel after its session, until the next one may begin (protocol page, section 8, step 5).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use super::told::{Of, is_asked, tell};
use crate::limits;
use crate::net::stall::{Stall, StallWatch};
use crate::net::stream::{Received, Stream};
use crate::runtime::{Deadlines, Timer, now};
use crate::text::dump::For;
use crate::wire::frames::{Event, Fault, Side, Talk, Word};

/// Waits until the session is over for the peer, too, and all that was said is with the kernel. `None`: the tunnel
/// cannot go on, and is closed.
pub struct Settling {
    kept: Option<Kept>,
    /// When it began to.
    since: Instant,
    /// When a break that has not been answered by then is looked at.
    answer_by: Instant,
    watch: StallWatch,
    timer: Timer,
    /// The last question that it has answered.
    answered: u8,
}

/// A version 3 tunnel that waits again.
pub struct Kept {
    /// Its connection.
    pub stream: Stream,
    /// Its end of it.
    pub talk: Box<Talk>,
    /// What has come on it and was not heard yet.
    pub input: Vec<u8>,
    /// How many users wait, as its connector has said.
    pub wanted: usize,
    /// When the peer last sent anything.
    pub heard_at: Instant,
}

impl Settling {
    pub(super) fn new(stream: Stream, talk: Box<Talk>, input: Vec<u8>, heard_at: Instant) -> Self {
        let since = now();
        let answer_by = since + limits::RESET_WAIT;
        let kept = Some(Kept { stream, talk, input, wanted: 0, heard_at });
        let (watch, timer) = (StallWatch::default(), Timer::new());
        Settling { kept, since, answer_by, watch, timer, answered: 0 }
    }

    /// Takes it off this thread, on its way to another.
    pub fn leave(&mut self) {
        self.timer = Timer::new();
        self.kept.iter_mut().for_each(|kept| kept.stream.leave());
    }

    /// Goes on with it on this thread.
    ///
    /// # Errors
    /// As [`Stream::enter`].
    pub fn enter(&mut self) -> io::Result<()> {
        self.kept.iter_mut().try_for_each(|kept| kept.stream.enter())
    }
}

impl Kept {
    /// Whether what comes is to be heard here: on the agent's side the next session may begin at once.
    fn hears(&self) -> bool {
        !self.talk.is_idle() || self.talk.side() == Side::Connector
    }

    /// Hears what has come and was not heard yet.
    fn hear(&mut self) -> Result<(), Fault> {
        let input = std::mem::take(&mut self.input);
        let (mut rest, mut answers, mut count) = (&input[..], Vec::new(), 0);
        while self.hears() {
            match self.talk.hear(&mut rest)? {
                None => break,
                Some(Event::Beat) => {
                    answers.extend(self.talk.say(Word::BeatAnswer));
                    count += 1;
                }
                // The agent's service had ended, then broke, before the other end reached it.
                Some(Event::Reset(_)) => {
                    answers.extend(self.talk.say(Word::Reset("")));
                    count += 1;
                }
                Some(Event::Want(users)) => self.wanted += usize::from(users),
                Some(_) => {}
            }
        }
        self.input = rest.to_vec();
        if count > 0 {
            // A write that fails is found by the flush.
            let _ = self.stream.queue_joined(&answers, count);
        }
        Ok(())
    }

    /// Whether it can carry another session; `None` if it never can.
    fn poll(&mut self, context: &Context<'_>) -> Option<bool> {
        loop {
            self.hear().ok()?;
            let is_flushed = match self.stream.poll_flush(context) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_)) => return None,
                Poll::Pending => false,
            };
            if self.talk.is_idle() && is_flushed {
                return Some(true);
            }
            if !self.hears()
                || self.stream.waiting() >= limits::READ_AHEAD + limits::ANSWERS_WAITING
            {
                return self.stream.poll_broken(context).is_pending().then_some(false);
            }
            let Kept { stream, input, .. } = self;
            match stream.poll_receive(context, &mut |unit| input.extend_from_slice(unit)) {
                Poll::Ready(Ok(Received::Bytes(_))) => self.heard_at = now(),
                Poll::Ready(_) => return None,
                Poll::Pending => return Some(false),
            }
        }
    }
}

impl Settling {
    /// Returns when the peer has had its time; else when to look again.
    fn is_over(&mut self) -> Result<(), Option<Instant>> {
        let mut deadlines = Deadlines::new(now());
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let is_gone =
            self.watch.look(&mut kept.stream, limits::STALL_CHECK, &mut deadlines) == Stall::Gone;
        let is_late = if kept.talk.have_both_ended() {
            deadlines.has_passed(kept.heard_at.max(self.since) + limits::OVER_WAIT)
        } else if kept.talk.is_idle() {
            false
        } else if deadlines.has_passed(self.answer_by) {
            // What was said before may still be on its way to a slow peer.
            let last = self.since + limits::CLOSE_TIMEOUT;
            self.answer_by = (deadlines.now() + limits::RESET_WAIT).min(last);
            !kept.stream.is_draining() || deadlines.has_passed(self.answer_by)
        } else {
            false
        };
        if is_gone || is_late { Ok(()) } else { Err(deadlines.next()) }
    }
}

impl Settling {
    /// Says how it is.
    #[cold]
    fn tell(&self) {
        let Some(kept) = &self.kept else { return };
        tell(format_args!(
            "tunnel {}: version 3, its session is over; waits for its agent to say so; heard {} ago",
            Of(&kept.stream),
            For::since(kept.heard_at)
        ));
    }
}

impl Future for Settling {
    type Output = Option<Kept>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Kept>> {
        let Some(kept) = &mut self.kept else { return Poll::Ready(None) };
        match kept.poll(context) {
            Some(true) => return Poll::Ready(self.kept.take()),
            Some(false) => {}
            None => return Poll::Ready(None),
        }
        if kept.talk.have_both_ended() || kept.talk.is_idle() {
            // The session has ended in order, and its last bytes may not have been read yet.
            kept.stream.close_in_order();
        }
        match self.is_over() {
            Ok(()) => Poll::Ready(None),
            Err(next) => {
                self.timer.wake_at(context, next);
                if is_asked(&mut self.answered) {
                    self.tell();
                }
                Poll::Pending
            }
        }
    }
}
