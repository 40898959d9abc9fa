//! One leg of a session while it runs: what its peer is, what has come of it, and what goes to it.

use std::io;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::ending::Leave;
use crate::limits;
use crate::net::conduit::{self, Conduit};
use crate::net::stream::{Loose, Received, Stream};
use crate::runtime::now;
use crate::wire::heartbeat::{BEAT, Begun, Heard, beats};
use crate::wire::token::{Answer, Token};

/// Who speaks on a leg, and by which rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// Bytes that mean nothing here: a user, or the program behind a `tunnel`.
    Raw,
    /// A version 1 agent: heartbeats among its units, absence after this threshold.
    Version1 {
        /// Silence after which it is taken for gone; `None` for never.
        threshold: Option<Duration>,
    },
    /// A version 2 agent that has been sent the PROXY header and owes `OPEN` or `FAIL`.
    Version2,
}

/// One end of a session: a [`Stream`], or a [`Loose`] one on its way to a worker.
pub struct Leg<S = Stream> {
    /// The connection.
    pub stream: S,
    /// Its rules.
    pub voice: Voice,
}

impl Leg<Loose> {
    /// Puts it on this thread.
    ///
    /// # Errors
    /// As [`Loose::fasten`].
    pub fn fasten(self) -> io::Result<Leg> {
        Ok(Leg { stream: self.stream.fasten()?, voice: self.voice })
    }
}

pub(super) struct Side {
    pub(super) stream: Stream,
    pub(super) voice: Voice,
    pub(super) token: Token,
    pub(super) input: Input,
    pub(super) output: Output,
    /// When it last sent anything, heartbeats included.
    pub(super) heard_at: Instant,
    /// When it last sent bytes of the session.
    pub(super) spoke_at: Instant,
    /// Whether the other side's slowness kept it from being read when last looked at.
    pub(super) paused: bool,
    /// Whether an end without close_notify is an end, as many users end TLS.
    pub(super) may_be_cut: bool,
    /// Whether its connection is known to be gone, though what it sent may not all be read.
    pub(super) gone: bool,
    /// Whether its bytes come in such an amount that they go through a kernel pipe.
    pub(super) bulk: bool,
    /// A heartbeat that a read has cut, in plain TCP.
    pub(super) begun: Begun,
    /// Heartbeats answered since its queue was last empty, in bytes.
    pub(super) answers: usize,
    pub(super) stall_check: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Open,
    Ended,
    Broken,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Open,
    /// The end has been passed on.
    Finished,
    Broken,
}

impl Side {
    pub(super) fn new(leg: Leg) -> Self {
        Side {
            stream: leg.stream,
            voice: leg.voice,
            token: Token::default(),
            input: Input::Open,
            output: Output::Open,
            heard_at: now(),
            spoke_at: now(),
            paused: false,
            may_be_cut: false,
            gone: false,
            bulk: false,
            begun: Begun::default(),
            answers: 0,
            stall_check: None,
        }
    }

    /// Sends `unit` on. A version 1 agent would take the bytes of a user that happen to look
    /// like heartbeats for heartbeats: these go in two pieces.
    pub(super) fn send(&mut self, unit: &[u8], from: Voice) {
        let swallowed = matches!(self.voice, Voice::Version1 { .. })
            && !matches!(from, Voice::Version1 { .. })
            && (unit == BEAT || unit == b"BEATBEAT");
        let (head, tail) = unit.split_at(if swallowed { 2 } else { unit.len() });
        if self.output != Output::Open {
            return;
        }
        let sent = self.stream.queue(head);
        let sent = if tail.is_empty() { sent } else { sent.and(self.stream.queue(tail)) };
        if sent.is_err() {
            self.output = Output::Broken;
        }
    }

    pub(super) async fn leave(mut self, how: Leave, deadline: Instant) {
        match how {
            Leave::InOrder if self.input != Input::Open => self.stream.part(),
            Leave::InOrder => self.stream.farewell().await,
            Leave::Broken => self.stream.break_off(deadline).await,
            // The alert that says what was wrong with its TLS, if anything.
            Leave::AtOnce => _ = self.stream.poll_flush(&Context::from_waker(Waker::noop())),
        }
    }

    pub(super) fn answer(&mut self, heartbeats: usize) {
        if heartbeats == 0 || self.output != Output::Open {
            return;
        }
        self.answers += heartbeats * BEAT.len();
        if self.stream.queue_times(BEAT, heartbeats).is_err() {
            self.output = Output::Broken;
        }
    }

    pub(super) fn poll_flush(&mut self, context: &Context<'_>) {
        if self.output == Output::Broken {
            return;
        }
        match self.stream.poll_flush(context) {
            Poll::Ready(Ok(())) => self.answers = 0,
            Poll::Ready(Err(_)) => self.output = Output::Broken,
            Poll::Pending => {}
        }
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.stream.waiting() == 0
    }

    pub(super) fn is_broken(&self) -> bool {
        self.gone || self.input == Input::Broken || self.output == Output::Broken
    }

    /// Looks after a side that is not read now: nothing else would tell that it has broken. `soon` for
    /// one of which that must be known before all that it has sent is read.
    pub(super) fn poll_unread(&mut self, context: &Context<'_>, soon: bool) {
        if self.paused || self.input != Input::Open || (soon && self.stream.maybe_readable()) {
            self.gone |= self.stream.poll_broken(context).is_ready();
        }
    }

    /// Reads once, and sends on what is not meant for the connector; counts it in `bytes`.
    pub(super) fn pump_units(
        &mut self,
        context: &Context<'_>,
        sink: &mut Side,
        bytes: &mut u64,
    ) -> Poll<io::Result<Received>> {
        let Side { stream, voice, token, begun, .. } = self;
        let tls = stream.is_tls();
        let mut heartbeats = 0;
        let received = stream.poll_receive(context, &mut |unit| {
            let unit = match voice {
                Voice::Raw => unit,
                Voice::Version1 { .. } if tls => {
                    let count = beats(unit, tls);
                    heartbeats += count;
                    if count > 0 { &[] } else { unit }
                }
                Voice::Version1 { .. } => match begun.take(unit) {
                    Heard::Beats(count) => {
                        heartbeats += count;
                        &[]
                    }
                    Heard::Bytes(before) => {
                        if !before.is_empty() {
                            *bytes += before.len() as u64;
                            sink.send(before, *voice);
                        }
                        unit
                    }
                },
                Voice::Version2 => {
                    let rest = token.take(unit);
                    if token.answer() == Some(Answer::Open) {
                        *voice = Voice::Raw;
                        rest
                    } else {
                        // Nothing that follows another answer is the session's.
                        &[]
                    }
                }
            };
            if !unit.is_empty() {
                *bytes += unit.len() as u64;
                sink.send(unit, *voice);
            }
        });
        self.answer(heartbeats);
        // Much at once, and nothing in it to look for: the kernel can move the next bytes.
        self.bulk = !tls
            && matches!(received, Poll::Ready(Ok(Received::Bytes(limits::READ..))))
            && self.voice != Voice::Version2
            && heartbeats == 0;
        received
    }

    /// The same through a kernel pipe, for what does not begin as heartbeats do.
    pub(super) fn pump_bulk(
        &mut self,
        context: &Context<'_>,
        sink: &mut Side,
        bytes: &mut u64,
    ) -> Poll<io::Result<Received>> {
        let may_beat = matches!(self.voice, Voice::Version1 { .. });
        if may_beat && (self.begun.is_some() || self.stream.begins_with(BEAT)?) {
            // Only a read can tell whether anything else follows.
            return self.pump_units(context, sink, bytes);
        }
        let Some(mut conduit) = Conduit::take() else {
            return self.pump_units(context, sink, bytes);
        };
        let count = match self.stream.try_fill(&mut conduit) {
            Ok(count @ 1..) => count,
            // Asking has taken the error from the socket, where no read finds it again.
            Err(error) if !conduit::is_refused(&error) => return Poll::Ready(Err(error)),
            // Nothing now, the end, urgent data, or no splice here: a read tells.
            nothing => {
                drop(conduit);
                let received = self.pump_units(context, sink, bytes);
                self.bulk |= nothing.is_ok() && received.is_pending();
                return received;
            }
        };
        if count >= limits::BULK {
            *bytes += count as u64;
            if sink.stream.queue_conduit(conduit).is_err() {
                sink.output = Output::Broken;
            }
        } else {
            self.bulk = false;
            let unit = conduit.empty()?;
            *bytes += count as u64;
            sink.send(&unit, self.voice);
        }
        Poll::Ready(Ok(Received::Bytes(count)))
    }
}
