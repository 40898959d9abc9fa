//! One leg of a running session: its connection, what its peer is, and how far both have come.

use std::io;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::ending::Leave;
use super::framed::{Framed, Said};
use super::protocol::{Decoder, Protocol, Unit};
use crate::limits;
use crate::net::conduit::{self, Conduit};
use crate::net::stall::{Acknowledged, StallWatch};
use crate::net::stream::{Received, Stream};
use crate::wire::frames::{HEAD, Talk, Word, data_head};
use crate::wire::heartbeat::BEAT;

/// What a leg begins with.
pub struct Endpoint<S = Stream> {
    /// The connection.
    pub stream: S,
    /// Its rules.
    pub protocol: Protocol,
    /// This end of a version 3 tunnel; `None` for all others.
    pub talk: Option<Box<Talk>>,
}

/// What a session asks its connections.
pub(super) trait Connection: Acknowledged {
    /// As [`Stream::waiting`].
    fn waiting(&self) -> usize;

    /// As [`Stream::maybe_readable`].
    fn maybe_readable(&self) -> bool;

    /// As [`Stream::is_draining`]: a system call.
    fn is_draining(&mut self) -> bool;

    /// As [`Stream::has_arrived`]: a system call.
    fn has_arrived(&self) -> bool;

    /// As [`Stream::is_cut`].
    fn is_cut(&self) -> bool;

    /// As [`Stream::has_sent_close_notify`].
    fn has_sent_close_notify(&self) -> bool;

    /// As [`Stream::round_trip`]: a system call.
    fn round_trip(&self) -> Duration;
}

impl Connection for Stream {
    fn waiting(&self) -> usize {
        Stream::waiting(self)
    }

    fn maybe_readable(&self) -> bool {
        Stream::maybe_readable(self)
    }

    fn is_draining(&mut self) -> bool {
        Stream::is_draining(self)
    }

    fn has_arrived(&self) -> bool {
        Stream::has_arrived(self)
    }

    fn is_cut(&self) -> bool {
        Stream::is_cut(self)
    }

    fn has_sent_close_notify(&self) -> bool {
        Stream::has_sent_close_notify(self)
    }

    fn round_trip(&self) -> Duration {
        Stream::round_trip(self)
    }
}

/// One leg of a session that runs. Tests use it without a socket.
pub(super) struct Leg<S = Stream> {
    pub(super) stream: S,
    pub(super) decoder: Decoder,
    /// Of a version 3 tunnel.
    pub(super) framed: Option<Box<Framed>>,
    pub(super) input: Input,
    pub(super) output: Output,
    /// When it last sent anything, heartbeats included.
    pub(super) heard_at: Instant,
    /// Whether it was not read when last looked at, because the other leg is slow.
    pub(super) paused: bool,
    /// Whether an end without close_notify counts as an end: many users end TLS that way.
    pub(super) may_be_cut: bool,
    /// Whether its connection is known to be gone, although some of what it sent may be unread.
    pub(super) gone: bool,
    /// Bytes of heartbeat answers since its queue was last empty.
    pub(super) answers: usize,
    pub(super) watch: StallWatch,
    /// Whether so many bytes come from it at once that they go through a kernel pipe.
    pub(super) bulk: bool,
}

/// What comes from a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Open,
    Ended,
    Broken,
}

/// What goes to a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Open,
    /// The end has been passed on.
    Finished,
    Broken,
}

impl<S: Connection> Leg<S> {
    pub(super) fn new(endpoint: Endpoint<S>, now: Instant) -> Self {
        let Endpoint { stream, protocol, talk } = endpoint;
        let framed = match (protocol, talk) {
            (Protocol::Framed { beat, seen_wait, .. }, Some(talk)) => {
                Some(Box::new(Framed::new(talk, beat, seen_wait, now)))
            }
            _ => None,
        };
        Leg {
            stream,
            decoder: Decoder::new(protocol),
            framed,
            input: Input::Open,
            output: Output::Open,
            heard_at: now,
            paused: false,
            may_be_cut: false,
            gone: false,
            answers: 0,
            watch: StallWatch::default(),
            bulk: false,
        }
    }

    /// Whether its connection has broken, and the session with it: not so that of a version 3 tunnel on which
    /// both directions have ended.
    pub(super) fn is_broken(&self) -> bool {
        self.has_broken() && !self.has_parted()
    }

    /// Whether it is a version 3 tunnel on which both directions have ended.
    pub(super) fn has_parted(&self) -> bool {
        self.framed.as_ref().is_some_and(|framed| framed.has_parted())
    }

    /// Whether its connection has broken.
    pub(super) fn has_broken(&self) -> bool {
        self.gone || self.input == Input::Broken || self.output == Output::Broken
    }

    /// Whether it is an agent of version 2 or 3 that has not reached its service yet.
    pub(super) fn owes_answer(&self) -> bool {
        match &self.framed {
            Some(framed) => !framed.accepted,
            None => self.decoder.protocol() == Protocol::Version2,
        }
    }

    /// Whether it must say that it has seen the session before anything else is sent to it.
    pub(super) fn is_unseen(&self) -> bool {
        let waits = matches!(self.decoder.protocol(), Protocol::Framed { at_once: false, .. });
        waits && self.framed.as_ref().is_some_and(|framed| !framed.seen)
    }

    /// Whether its connection is read even though its direction has ended.
    pub(super) fn goes_on(&self) -> bool {
        let goes_on = self.framed.as_ref().is_some_and(|framed| !framed.is_over());
        self.input == Input::Ended && goes_on && !self.gone
    }

    /// How the peer has ended a session of version 3 before its time.
    pub(super) fn said(&self) -> Option<&Said> {
        self.framed.as_ref()?.said.as_ref()
    }

    /// Whether what was sent to it before its end is with the kernel.
    pub(super) fn has_all(&self) -> bool {
        // Elsewhere the end is passed on behind it.
        self.framed.is_none() || self.stream.waiting() <= limits::JOINED
    }

    /// Whether nothing waits to be sent to it.
    pub(super) fn is_flushed(&self) -> bool {
        self.stream.waiting() == 0
    }
}

impl Leg {
    /// Sends `unit` on. A user's bytes that look like heartbeats go in two pieces, since a version 1
    /// agent would take them for heartbeats.
    pub(super) fn send(&mut self, unit: &[u8], from: Protocol) {
        if self.output != Output::Open {
            return;
        }
        if self.framed.is_some() {
            let mut pieces = unit.chunks(limits::FRAME_DATA);
            let sent =
                pieces.try_for_each(|piece| self.stream.queue_both(&data_head(piece.len()), piece));
            if sent.is_err() {
                self.output = Output::Broken;
            }
            return;
        }
        let swallowed = matches!(self.decoder.protocol(), Protocol::Version1 { .. })
            && !matches!(from, Protocol::Version1 { .. })
            && (unit == BEAT || unit == b"BEATBEAT");
        let (head, tail) = unit.split_at(if swallowed { 2 } else { unit.len() });
        let sent = self.stream.queue(head);
        let sent = if tail.is_empty() { sent } else { sent.and(self.stream.queue(tail)) };
        if sent.is_err() {
            self.output = Output::Broken;
        }
    }

    pub(super) async fn leave(mut self, how: Leave, deadline: Instant) {
        match how {
            Leave::InOrder if self.input != Input::Open && self.stream.waiting() == 0 => {
                self.stream.close();
            }
            Leave::InOrder => self.stream.linger().await,
            Leave::Broken => self.stream.break_off(deadline).await,
            // Sends the alert that says what was wrong with its TLS, if anything was.
            Leave::AtOnce => _ = self.stream.poll_flush(&Context::from_waker(Waker::noop())),
        }
    }

    pub(super) fn answer(&mut self, heartbeats: usize) {
        // Where an end is a frame, it is not the last one.
        let is_told = self.output == Output::Open
            || (self.output == Output::Finished && self.framed.is_some());
        if heartbeats == 0 || !is_told {
            return;
        }
        let answered = match &mut self.framed {
            Some(framed) => {
                let answers = framed.talk.say(Word::BeatAnswer).repeat(heartbeats);
                self.answers += answers.len();
                self.stream.queue_joined(&answers, heartbeats)
            }
            None => {
                self.answers += heartbeats * BEAT.len();
                self.stream.queue_times(BEAT, heartbeats)
            }
        };
        if answered.is_err() {
            self.output = Output::Broken;
        }
    }

    /// Says something on a version 3 tunnel.
    pub(super) fn say(&mut self, word: Word<'_>) {
        let Some(framed) = &mut self.framed else { return };
        let frame = framed.talk.say(word);
        let said = match word {
            _ if frame.is_empty() => Ok(()),
            Word::Beat | Word::Want(_) | Word::Bye => self.stream.queue_aside(&frame),
            _ => self.stream.queue(&frame),
        };
        if said.is_err() {
            self.output = Output::Broken;
        }
    }

    /// Says once on a version 3 tunnel that no more sessions are wanted.
    pub(super) fn say_bye(&mut self) {
        if self.framed.as_ref().is_some_and(|framed| !framed.talk.has_said_bye()) {
            self.say(Word::Bye);
        }
    }

    /// Passes the end of the other leg's direction on, once all its bytes are sent; `is_last` if nothing else keeps
    /// the session from its end.
    pub(super) fn pass_end_on(&mut self, context: &Context<'_>, is_last: bool) {
        if let Some(framed) = &mut self.framed {
            let end = framed.talk.say(Word::End);
            // With what is said behind it.
            let sent = self.stream.queue_ahead(&end);
            self.output = if sent.is_ok() { Output::Finished } else { Output::Broken };
            return;
        }
        if is_last && self.input == Input::Ended && !self.stream.is_tls() && self.is_flushed() {
            // The close that follows at once says it, with one call less.
            self.output = Output::Finished;
            return;
        }
        match self.stream.poll_finish(context) {
            Poll::Ready(Ok(())) => self.output = Output::Finished,
            Poll::Ready(Err(_)) => self.output = Output::Broken,
            Poll::Pending => {}
        }
    }

    /// Says the heartbeat that is due by now on a version 3 tunnel of an agent, if one is; whether one was.
    pub(super) fn beat(&mut self, now: Instant) -> bool {
        // Bytes that wait are as good a sign of life.
        let is_due = self.framed.as_mut().is_some_and(|framed| framed.is_beat_due(now));
        if is_due && self.is_flushed() {
            self.say(Word::Beat);
        }
        is_due
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

    /// Checks a leg that is not read now, since nothing else would show that it has broken. `soon` if
    /// that must be known before everything that it has sent is read.
    pub(super) fn poll_unread(&mut self, context: &Context<'_>, soon: bool) {
        if self.paused || self.input != Input::Open || (soon && self.stream.maybe_readable()) {
            self.gone |= self.stream.poll_broken(context).is_ready();
        }
    }

    /// Reads once, and sends on what is not meant for the connector; adds its length to `bytes`.
    pub(super) fn pump(
        &mut self,
        context: &Context<'_>,
        sink: &mut Leg,
        bytes: &mut u64,
    ) -> Poll<io::Result<Received>> {
        // What goes out in TLS must be encrypted first, which the kernel does not do.
        let may_bulk = self.bulk && sink.output == Output::Open;
        if may_bulk && !sink.stream.is_tls() && sink.is_flushed() {
            self.pump_bulk(context, sink, bytes)
        } else {
            self.pump_read(context, sink, limits::READ_BYTES, bytes)
        }
    }

    /// Reads once, so many bytes at most in plain TCP.
    fn pump_read(
        &mut self,
        context: &Context<'_>,
        sink: &mut Leg,
        most: usize,
        bytes: &mut u64,
    ) -> Poll<io::Result<Received>> {
        match self.framed {
            Some(_) => self.pump_frames(context, sink, most, bytes),
            None => self.pump_units(context, sink, bytes),
        }
    }

    fn pump_frames(
        &mut self,
        context: &Context<'_>,
        sink: &mut Leg,
        most: usize,
        bytes: &mut u64,
    ) -> Poll<io::Result<Received>> {
        let Leg { stream, framed: Some(framed), .. } = self else { return Poll::Pending };
        let mut heartbeats = 0;
        let mut hear = |unit: &[u8]| {
            heartbeats += framed.hear(unit, &mut |data| {
                *bytes += data.len() as u64;
                sink.send(data, Protocol::Raw);
            });
        };
        let received = if stream.is_tls() {
            stream.poll_receive(context, &mut hear)
        } else {
            stream.poll_receive_some(context, most, &mut hear)
        };
        self.answer(heartbeats);
        let left = self.framed.as_ref().map_or(0, |framed| framed.talk.data_left());
        let came = match received {
            Poll::Ready(Ok(Received::Bytes(count))) => count,
            _ => 0,
        };
        // As in `pump_units`; after the head of a frame, what follows it.
        self.bulk = !self.stream.is_tls()
            && heartbeats == 0
            && (came >= limits::READ_BYTES
                || (most < limits::READ_BYTES && left >= limits::BULK_BYTES));
        received
    }

    fn pump_units(
        &mut self,
        context: &Context<'_>,
        sink: &mut Leg,
        bytes: &mut u64,
    ) -> Poll<io::Result<Received>> {
        let Leg { stream, decoder, .. } = self;
        let tls = stream.is_tls();
        let mut heartbeats = 0;
        let received =
            stream.poll_receive(context, &mut |unit| match decoder.classify(unit, tls) {
                Unit::Heartbeats(count) => heartbeats += count,
                Unit::Data { begun, bytes: unit } => {
                    for piece in [begun, unit].into_iter().filter(|piece| !piece.is_empty()) {
                        *bytes += piece.len() as u64;
                        sink.send(piece, decoder.protocol());
                    }
                }
                Unit::Token => {}
            });
        self.answer(heartbeats);
        // A full read with nothing in it to look for: the kernel can move the next bytes.
        self.bulk = !tls
            && matches!(received, Poll::Ready(Ok(Received::Bytes(limits::READ_BYTES..))))
            && !self.owes_answer()
            && heartbeats == 0;
        received
    }

    /// The same through a kernel pipe, unless the next bytes begin as a heartbeat does.
    fn pump_bulk(
        &mut self,
        context: &Context<'_>,
        sink: &mut Leg,
        bytes: &mut u64,
    ) -> Poll<io::Result<Received>> {
        let may_beat = matches!(self.decoder.protocol(), Protocol::Version1 { .. });
        if may_beat && (self.decoder.is_amid_heartbeat() || self.stream.begins_with(BEAT)?) {
            // Only a read can tell whether anything else follows.
            return self.pump_units(context, sink, bytes);
        }
        let mut most = limits::CONDUIT_BYTES;
        if let Some(framed) = &self.framed {
            most = framed.talk.data_left();
            if most < limits::BULK_BYTES {
                // The rest, and the next head alone: what follows that is to pass through the kernel.
                return self.pump_read(context, sink, most + HEAD, bytes);
            }
        }
        let Some(mut conduit) = Conduit::take() else {
            return self.pump_read(context, sink, limits::READ_BYTES, bytes);
        };
        let count = match self.stream.try_fill(&mut conduit, most) {
            Ok(count @ 1..) => count,
            // The call has taken the error from the socket; no read would find it again.
            Err(error) if !conduit::is_refused(&error) => return Poll::Ready(Err(error)),
            // Nothing now, the end, urgent data, or no splice here: a read tells.
            nothing => {
                drop(conduit);
                let received = self.pump_read(context, sink, limits::READ_BYTES, bytes);
                self.bulk |= nothing.is_ok() && received.is_pending();
                return received;
            }
        };
        if let Some(framed) = &mut self.framed {
            framed.talk.took(count);
        }
        if count >= limits::BULK_BYTES {
            *bytes += count as u64;
            let head = sink.framed.as_ref().map(|_| data_head(count));
            let head = head.as_ref().map_or(&[][..], |head| head);
            if sink.stream.queue_conduit(head, conduit).is_err() {
                sink.output = Output::Broken;
            }
        } else {
            self.bulk = false;
            let unit = conduit.empty()?;
            *bytes += count as u64;
            sink.send(&unit, self.decoder.protocol());
        }
        Poll::Ready(Ok(Received::Bytes(count)))
    }
}
