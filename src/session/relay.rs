//! Two streams in, bytes both ways, an ending out (protocol page, section 6).
//!
//! One future moves both directions of a session. It holds no buffer while nothing waits for a
//! slow peer, keeps to each peer's [turn](crate::runtime::turn), and keeps at most what
//! [`limits::READ_AHEAD`] states. It knows nothing of mappings.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use event_listener::EventListener;
use smol::future::zip;

use super::drain::Drain;
use super::ending::{Ended, Ending};
use super::framed::Said;
use super::leg::{Endpoint, Input, Leg, Output};
use super::progress::{Progress, Silence};
use super::protocol::Protocol;
use super::residue::{Leaving, Residue};
use super::settling::Settling;
use super::told::{LegState, Of, is_asked, tell};
use super::traffic::{Stuck, Traffic};
use super::want::Want;
use crate::limits;
use crate::net::stream::{Received, Stream};
use crate::runtime::{Timer, now, until};
use crate::text::dump::For;
use crate::wire::frames::{Side, Word};

/// A session: moves bytes between two legs until both directions have ended. The connections
/// stay open until [`Relay::close`].
pub struct Relay {
    progress: Progress,
    /// How it has ended.
    ending: Option<Ending>,
    timer: Timer,
    stuck: Stuck,
    /// Users that wait: what is passed on to a version 3 agent, or what its connector has said; and whether version 3
    /// tunnels are to carry more sessions.
    want: Option<Arc<Want>>,
    told: Option<EventListener>,
    /// The last question that it has answered.
    answered: u8,
}

/// A session on its way from one task to another, on the same thread or another.
pub struct Moving(Relay);

impl Moving {
    /// Goes on with it on this thread.
    ///
    /// # Errors
    /// As [`Stream::enter`].
    pub fn enter(mut self) -> io::Result<Relay> {
        self.0.progress.legs.iter_mut().try_for_each(|leg| leg.stream.enter())?;
        Ok(self.0)
    }
}

/// What is left of a session with a version 3 tunnel.
pub struct Parting {
    /// By leg, the version 3 tunnels that can go on.
    pub tunnels: [Option<Settling>; 2],
    /// Leg 1 as it was, where the tunnel on leg 0 was dead and nothing was taken from leg 1.
    pub user: Option<Stream>,
    /// The others.
    pub closing: Closing,
}

/// Connections of a session that is over, to be closed.
pub struct Closing(Left);

enum Left {
    Nothing,
    /// One, with how its session has ended, and the leg that it was.
    One(Box<Leg>, Ending, usize),
    Both(Box<Relay>),
}

impl Closing {
    /// Closes them as the session has ended: in order, or with a reset, as [`Relay::close`] does.
    pub async fn close(self) {
        match self.0 {
            Left::Nothing => {}
            Left::One(leg, ending, index) => {
                let deadline = Instant::now() + limits::CLOSE_TIMEOUT;
                leg.leave(ending.leaves(index), deadline).await;
            }
            // Most are closed as one.
            Left::Both(relay) => Box::pin(relay.close()).await,
        }
    }
}

/// A user's connection after its session, of which the tunnel was kept.
pub struct FormerUser {
    user: Leg,
    ending: Ending,
}

impl FormerUser {
    /// Closes it as [`Relay::close`] does.
    pub async fn close(self) {
        let deadline = Instant::now() + limits::CLOSE_TIMEOUT;
        self.user.leave(self.ending.leaves(1), deadline).await;
    }
}

impl Relay {
    /// Begins a session. Leg 0 is port1's; `held` are units that arrived before the pairing, by
    /// the leg that sent them. `silence` ends the session; its bytes are counted in `traffic`.
    pub fn new(
        legs: [Endpoint; 2],
        held: [Vec<Box<[u8]>>; 2],
        silence: Silence,
        traffic: Arc<Traffic>,
    ) -> Self {
        let [agent, user] = &legs;
        let lingers =
            matches!(agent.protocol, Protocol::Version1 { .. }) && user.protocol == Protocol::Raw;
        let residue = lingers.then(|| Residue::new(agent.stream.round_trip(), now()));
        let stuck = Stuck::new(traffic.clone());
        let mut progress = Progress::new(legs, residue, silence, traffic, now());
        // If something else ends this session, even a kill, neither end may take it for complete.
        progress.legs.iter_mut().for_each(|leg| leg.stream.break_when_dropped());
        // An end that the kernel knows of, and this thread does not yet, must be seen before anything is taken from
        // the other leg: another tunnel can have the user then.
        progress
            .legs
            .iter()
            .filter(|leg| leg.framed.is_some())
            .for_each(|leg| leg.stream.look_again());
        let timer = Timer::new();
        let (ending, want, told, answered) = (None, None, None, 0);
        let mut relay = Relay { progress, ending, timer, stuck, want, told, answered };
        for leg in 0..2 {
            // An agent may have heard the end while it was still dialling.
            relay.take_end(leg, now());
        }
        for (from, units) in held.iter().enumerate() {
            units.iter().for_each(|unit| relay.deliver(from, unit));
        }
        relay
    }

    /// The same, which tells a version 3 agent of users that wait, or hears of them from its connector.
    pub fn asking(self, want: Arc<Want>) -> Self {
        Relay { want: Some(want), ..self }
    }

    /// Takes it off this thread, on its way to another.
    pub fn leave(mut self) -> Moving {
        self.progress.legs.iter_mut().for_each(|leg| leg.stream.leave());
        self.timer = Timer::new();
        self.told = None;
        Moving(self)
    }

    /// Gives it to another task of this thread.
    pub fn stay(self) -> Moving {
        Moving(self)
    }

    /// Runs to its end, or, `None`, until it is no short session ([`limits::SHORT_BYTES`]).
    pub async fn briefly(&mut self) -> Option<Ended> {
        let until = self.progress.started + limits::SHORT_TIME;
        poll_fn(|context| {
            if !self.progress.is_short(now()) {
                return Poll::Ready(None);
            }
            let polled = Pin::new(&mut *self).poll(context).map(Some);
            if polled.is_pending() {
                // Mute ones would keep others from their places.
                self.timer.wake_at(context, Some(until));
            }
            polled
        })
        .await
    }

    /// Parts version 3 tunnels that can go on from what is closed.
    pub fn part(mut self) -> Parting {
        let mut parting =
            Parting { tunnels: [None, None], user: None, closing: Closing(Left::Nothing) };
        let Some(ending) = self.ending else { return parting };
        let keeps = [0, 1].map(|leg| self.progress.keeps_framed(leg, ending));
        let is_untouched = ending == Ending::Dead(0) && self.progress.is_untouched(1);
        if keeps == [false; 2] && !is_untouched {
            parting.closing = Closing(Left::Both(Box::new(self)));
            return parting;
        }
        for leg in self.progress.legs.iter_mut().filter(|leg| leg.framed.is_some()) {
            match (ending, leg.framed.as_ref().map(|framed| framed.talk.side())) {
                (Ending::Complete, Some(Side::Agent)) => leg.say(Word::Seen),
                (Ending::Complete, _) => {}
                _ => leg.say(Word::Reset(ending.reason())),
            }
        }
        for (index, leg) in self.progress.legs.into_iter().enumerate() {
            let stays = keeps[index] || (index == 1 && is_untouched);
            if !stays {
                parting.closing = Closing(Left::One(Box::new(leg), ending, index));
                continue;
            }
            let Leg { mut stream, framed, heard_at, .. } = leg;
            match framed {
                Some(framed) => {
                    let settling = Settling::new(stream, framed.talk, framed.rest, heard_at);
                    parting.tunnels[index] = Some(settling);
                }
                None => {
                    stream.close_in_order();
                    parting.user = Some(stream);
                }
            }
        }
        parting
    }

    /// Closes both connections as the session has ended: in order, or with a reset. Immediately where
    /// nothing can be lost, else once what was sent has arrived, within [`limits::CLOSE_TIMEOUT`].
    pub async fn close(mut self) {
        let Some(ending) = self.ending else { return };
        let deadline = Instant::now() + limits::CLOSE_TIMEOUT;
        if let Ending::Broken(leg) = ending {
            until(deadline, poll_fn(|context| self.poll_rest(context, leg))).await;
        }
        let [first, second] = [ending.leaves(0), ending.leaves(1)];
        let [one, two] = self.progress.legs;
        zip(one.leave(first, deadline), two.leave(second, deadline)).await;
    }

    /// Whether the version 1 tunnel of a session that has ended can be kept: its user is gone or
    /// broken off, and its agent is there.
    pub fn keeps_tunnel(&self) -> bool {
        self.ending.is_some_and(|ending| self.progress.keeps_tunnel(ending))
    }

    /// Keeps the tunnel of a session that [allows it](Self::keeps_tunnel): it can carry the next one
    /// once the old answer is over. The caller closes the user. `None` for other sessions, whose
    /// connections are reset.
    pub fn keep_tunnel(self) -> Option<(Drain, FormerUser)> {
        let ending = self.ending.filter(|ending| self.progress.keeps_tunnel(*ending))?;
        let Progress { legs: [agent, user], residue, .. } = self.progress;
        let mut residue = residue?;
        let Protocol::Version1 { threshold } = agent.decoder.protocol() else { return None };
        // After a write has met a reset, a read sees only an end.
        if matches!(ending, Ending::Broken(_) | Ending::Stalled(_)) {
            residue.left(Leaving::Torn, false, now());
        }
        residue.given_up(now());
        let mut decoder = agent.decoder;
        let mut drain = Drain::new(agent.stream, threshold, residue, agent.heard_at);
        // The beginning of a heartbeat is not answered, so nothing can fail.
        let _ = drain.take_over(decoder.release());
        Some((drain, FormerUser { user, ending }))
    }

    /// Passes on what the broken leg has left unread.
    fn poll_rest(&mut self, context: &Context<'_>, from: usize) -> Poll<()> {
        while self.pump(context, from) {}
        let (source, sink) = self.progress.pair(from);
        let over = source.input != Input::Open || sink.output == Output::Broken;
        if over { Poll::Ready(()) } else { Poll::Pending }
    }

    fn ended(&mut self, ending: Ending) -> Ended {
        self.ending = Some(ending);
        let now = now();
        let said = ending.fault().and_then(|leg| self.progress.legs[leg].said());
        let reason = match said {
            Some(Said::Failed(reason) | Said::Reset(reason)) => reason.clone(),
            Some(Said::Garbled(fault)) => fault.to_string(),
            None => String::new(),
        };
        Ended {
            ending,
            reason,
            bytes: self.progress.bytes,
            missing: self.progress.missing(ending, now),
            lasted: now.saturating_duration_since(self.progress.started),
        }
    }

    /// Passes on what has come earlier.
    fn deliver(&mut self, from: usize, bytes: &[u8]) {
        let (source, sink) = self.progress.pair(from);
        sink.send(bytes, source.decoder.protocol());
        self.progress.delivered(from, bytes.len() as u64);
    }

    /// Moves what one read gives from one leg to the other; whether there may be more to move.
    fn pump(&mut self, context: &Context<'_>, from: usize) -> bool {
        let now = now();
        let (_, sink) = self.progress.pair(from);
        if sink.stream.waiting() > limits::JOINED {
            sink.poll_flush(context);
        }
        // A little that waits is sent with what is read now.
        if !self.progress.may_read(from, now) {
            self.progress.pair(from).1.poll_flush(context);
            return false;
        }
        let (source, sink) = self.progress.pair(from);
        let mut moved = 0;
        let Poll::Ready(received) = source.pump(context, sink, &mut moved) else {
            sink.poll_flush(context);
            return false;
        };
        // The end of a version 3 tunnel's connection is the end of no direction.
        let is_gone = source.gone || source.framed.is_some();
        let goes_on = matches!(received, Ok(Received::Bytes(_)));
        match received {
            Ok(Received::Bytes(_)) => self.take_end(from, now),
            Ok(Received::Ended) if !is_gone => self.progress.ended(from, now),
            // Another call has already been given the error of a break; a read then sees only an end.
            Ok(Received::Ended) | Err(_) => self.progress.broke(from, now),
        }
        let (source, sink) = self.progress.pair(from);
        source.poll_flush(context);
        sink.poll_flush(context);
        self.progress.heard(from, moved, now);
        goes_on
    }

    /// Passes on the beginning of a heartbeat as bytes if the rest has not come in time.
    fn give_up_begun(&mut self, from: usize) {
        let (source, _) = self.progress.pair(from);
        if !source.decoder.is_amid_heartbeat() {
            return;
        }
        if source.input != Input::Open || now() >= source.heard_at + limits::BEAT_REST {
            let bytes = source.decoder.release();
            self.deliver(from, bytes);
        }
    }

    /// Passes the end of `from`'s direction on once all its bytes are sent.
    fn pass_end_on(&mut self, context: &Context<'_>, from: usize) {
        if self.progress.passes_end_on(from) {
            let is_last = self.progress.is_over(1 - from);
            self.progress.pair(from).1.pass_end_on(context, is_last);
        }
    }

    /// Notes that a version 3 peer has said that its direction has ended.
    fn take_end(&mut self, from: usize, now: Instant) {
        let leg = &mut self.progress.legs[from];
        if leg.framed.as_mut().is_some_and(|framed| framed.take_end()) {
            self.progress.ended(from, now);
        }
    }

    /// Says how it is.
    #[cold]
    fn tell(&self) {
        let Progress { legs: [near, far], bytes, started, moved_at, .. } = &self.progress;
        tell(format_args!(
            "session {} with {}: for {}, {} bytes from port1 and {} from port2, the last {} ago; port1: {}; port2: {}",
            Of(&near.stream),
            Of(&far.stream),
            For::since(*started),
            bytes[0],
            bytes[1],
            For::since(*moved_at),
            LegState(near),
            LegState(far)
        ));
    }

    /// Passes on how many users wait, or that no more sessions are wanted.
    fn pass_wants_on(&mut self, context: &mut Context<'_>) {
        let leg = &mut self.progress.legs[0];
        let (Some(want), Some(framed)) = (&self.want, &mut leg.framed) else { return };
        if !framed.seen {
            // Its agent may be gone, and each user is told of once: another one is told.
            return;
        }
        let is_agent = framed.talk.side() == Side::Agent;
        want.ask(std::mem::take(&mut framed.wanted));
        loop {
            let told = self.told.get_or_insert_with(|| match is_agent {
                true => want.listen_for_the_end(),
                false => want.listen(),
            });
            let users = if is_agent { 0 } else { want.take() };
            if users > 0 {
                leg.say(Word::Want(users));
            }
            if want.is_over() {
                leg.say_bye();
            }
            if Pin::new(told).poll(context).is_pending() {
                return;
            }
            self.told = None;
        }
    }
}

impl Future for Relay {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        // A direction with nothing to move is woken when it has something, and one whose turn is over
        // when its next turn comes. Deadlines are checked in either case.
        let mut goes_on = [true; 2];
        while goes_on != [false; 2] {
            goes_on = [0, 1].map(|from| goes_on[from] && self.pump(context, from));
        }
        let is_framed = self.progress.legs.iter().any(|leg| leg.framed.is_some());
        if is_framed {
            self.pass_wants_on(context);
        }
        for from in [0, 1] {
            self.give_up_begun(from);
            self.pass_end_on(context, from);
            let is_kept = self.progress.residue.is_some() && from == 0;
            self.progress.legs[from].poll_unread(context, is_kept);
        }
        let now = now();
        let mut ending = self.progress.ending(now);
        if is_framed && ending.is_err() {
            // Not sooner: a session that is over has none.
            let beats = self.progress.legs.each_mut().map(|leg| leg.beat(now));
            if beats != [false; 2] || !self.progress.is_settled() {
                // What was said last, to either.
                self.progress.legs.iter_mut().for_each(|leg| leg.poll_flush(context));
                ending = self.progress.ending(now);
            }
        }
        match ending {
            Ok(ending) => Poll::Ready(self.ended(ending)),
            Err(next) => {
                let stuck = !self.progress.is_settled();
                self.stuck.set(stuck);
                // What one leg has said or taken since may let the other be read, of which no
                // socket tells.
                if [0, 1].map(|from| self.progress.reads_again(from, now)) != [false; 2] {
                    context.waker().wake_by_ref();
                }
                self.timer.wake_at(context, next);
                if is_asked(&mut self.answered) {
                    self.tell();
                }
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests;
