//! Two streams in, bytes both ways, an ending out (protocol page, section 6).
//!
//! One future moves both directions of a session. It holds no buffer while nothing waits for a
//! slow side, keeps to each peer's [turn](crate::runtime::turn), and keeps at most what
//! [`limits::READ_AHEAD`] states. It has never heard of mappings.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smol::future::zip;

use super::drain::Drain;
use super::ending::{Ended, Ending};
use super::residue::{Leaving, Missing, Residue, Verdict};
use super::side::{Input, Leg, Output, Side, Voice};
use super::traffic::{Stuck, Traffic};
use crate::limits;
use crate::net::stall::Acknowledged;
use crate::net::stream::Received;
use crate::runtime::{Timer, now, until};
use crate::wire::token::Answer;

/// What both directions of a session may do.
#[derive(Clone)]
pub struct Terms {
    /// Silence after one direction has ended that ends the session.
    pub fin_wait: Duration,
    /// Where the bytes are counted.
    pub traffic: Arc<Traffic>,
}

/// A session: moves bytes between two legs until both directions have ended. The connections
/// stay open until [`Relay::part`].
pub struct Relay {
    sides: [Side; 2],
    terms: Terms,
    /// Whether leg 1 is a user whose end cannot be told to the version 1 agent on leg 0: what may
    /// still come for it.
    residue: Option<Residue>,
    /// How it has ended.
    ending: Option<Ending>,
    started: Instant,
    /// When bytes last moved, either way, or a direction ended.
    moved_at: Instant,
    timer: Timer,
    bytes: [u64; 2],
    stuck: Stuck,
}

/// A user's connection after its session, of which the tunnel was kept.
pub struct Parting {
    user: Side,
    ending: Ending,
}

impl Parting {
    /// Closes it as [`Relay::part`] does.
    pub async fn part(self) {
        let deadline = Instant::now() + limits::FAREWELL;
        self.user.leave(self.ending.leaves(1), deadline).await;
    }
}

impl Relay {
    /// Begins a session. Leg 0 is port1's; `held` are units that arrived before the pairing, by
    /// the leg that sent them.
    pub fn new(legs: [Leg; 2], held: [Vec<Box<[u8]>>; 2], terms: Terms) -> Self {
        let [first, second] = legs;
        let lingers = matches!(first.voice, Voice::Version1 { .. }) && second.voice == Voice::Raw;
        let residue = lingers.then(|| Residue::new(first.stream.round_trip(), now()));
        let public = first.voice != Voice::Raw && second.voice == Voice::Raw;
        let mut sides = [Side::new(first), Side::new(second)];
        sides[1].may_be_cut = public;
        // Whatever ends this session unasked, a kill included: neither end shall take it for whole.
        sides.iter_mut().for_each(|side| side.stream.break_when_dropped());
        let mut relay = Relay {
            sides,
            stuck: Stuck { traffic: terms.traffic.clone(), is: false },
            terms,
            residue,
            ending: None,
            started: now(),
            moved_at: now(),
            timer: Timer::new(),
            bytes: [0; 2],
        };
        for (from, units) in held.into_iter().enumerate() {
            relay.deliver_held(from, units);
        }
        relay
    }

    /// Closes both connections as the session has ended: in order, or broken off. At once where
    /// nothing can be lost, else when what was sent has arrived, for [`limits::FAREWELL`] at most.
    pub async fn part(mut self) {
        let Some(ending) = self.ending else { return };
        let deadline = Instant::now() + limits::FAREWELL;
        if let Ending::Broken(side) = ending {
            until(deadline, poll_fn(|context| self.poll_rest(context, side))).await;
        }
        let [first, second] = [ending.leaves(0), ending.leaves(1)];
        let [one, two] = self.sides;
        zip(one.leave(first, deadline), two.leave(second, deadline)).await;
    }

    /// Whether the version 1 tunnel of a session that has ended can be kept: its user has left, and
    /// its agent is there.
    pub fn keeps_tunnel(&self) -> bool {
        let user_left = match self.ending {
            Some(Ending::Broken(side) | Ending::Stalled(side)) => side == 1,
            Some(Ending::Lingered | Ending::Silent) => true,
            _ => false,
        };
        let agent = &self.sides[0];
        let lives = agent.input == Input::Open && agent.output == Output::Open && !agent.gone;
        self.residue.is_some() && user_left && lives
    }

    /// Keeps the tunnel of a session that [allows it](Self::keeps_tunnel): once the old answer is
    /// over, it can carry the next one. The user is to be parted with. `None` for other sessions,
    /// which are broken off.
    pub fn keep_tunnel(self) -> Option<(Drain, Parting)> {
        let keeps = self.keeps_tunnel();
        let Relay { sides: [agent, user], residue, ending, .. } = self;
        match (residue, agent.voice, ending) {
            (Some(mut residue), Voice::Version1 { threshold }, Some(ending)) if keeps => {
                // A reset that a write has met first is read as an end.
                if matches!(ending, Ending::Broken(_) | Ending::Stalled(_)) {
                    residue.left(Leaving::Torn, false, now());
                }
                residue.given_up(now());
                let mut begun = agent.begun;
                let mut drain = Drain::new(agent.stream, threshold, residue, agent.heard_at);
                // A beginning alone asks for no answer, so that nothing can fail.
                let _ = drain.take_over(begun.release());
                Some((drain, Parting { user, ending }))
            }
            _ => None,
        }
    }

    /// Passes on what the broken side has left to be read.
    fn poll_rest(&mut self, context: &Context<'_>, from: usize) -> Poll<()> {
        while self.pump(context, from) {}
        let over =
            self.sides[from].input != Input::Open || self.sides[1 - from].output == Output::Broken;
        if over { Poll::Ready(()) } else { Poll::Pending }
    }

    fn ended(&mut self, ending: Ending) -> Ended {
        self.ending = Some(ending);
        Ended {
            ending,
            bytes: self.bytes,
            missing: self.missing(ending),
            lasted: now().saturating_duration_since(self.started),
        }
    }

    fn deliver_held(&mut self, from: usize, units: Vec<Box<[u8]>>) {
        let voice = self.sides[from].voice;
        for unit in units {
            let bytes = unit.len() as u64;
            self.bytes[from] += bytes;
            self.terms.traffic.count(from, bytes);
            self.sides[1 - from].send(&unit, voice);
        }
    }

    /// Moves what one read gives from one side to the other; whether there may be more to move.
    fn pump(&mut self, context: &Context<'_>, from: usize) -> bool {
        let [first, second] = &mut self.sides;
        let (source, sink) = if from == 0 { (first, second) } else { (second, first) };
        sink.poll_flush(context);
        if std::mem::take(&mut source.paused) {
            // The time during which it was not read does not count as its silence.
            source.heard_at = now();
            if let Some(residue) = self.residue.as_mut().filter(|_| from == 0) {
                residue.read_again(now());
            }
        }
        if source.input != Input::Open {
            return false;
        }
        if sink.output == Output::Broken
            || sink.stream.waiting() >= limits::READ_AHEAD
            || source.answers >= limits::ANSWERS_WAITING
        {
            source.paused = true;
            return false;
        }
        let before = self.bytes[from];
        // What goes out in TLS has to be sealed first, which the kernel does not do.
        let received = if source.bulk && !sink.stream.is_tls() && sink.is_flushed() {
            source.pump_bulk(context, sink, &mut self.bytes[from])
        } else {
            source.pump_units(context, sink, &mut self.bytes[from])
        };
        let goes_on = match received {
            Poll::Pending => return false,
            Poll::Ready(Ok(Received::Bytes(_))) => true,
            // The silence that ends a session counts from here, however long it was silent before.
            Poll::Ready(Ok(Received::Ended)) if !source.gone => {
                let whole = source.may_be_cut || !source.stream.is_cut();
                source.input = if whole { Input::Ended } else { Input::Broken };
                self.moved_at = now();
                if let Some(residue) = self.residue.as_mut().filter(|_| from == 1) {
                    let goodbye = source.stream.has_said_goodbye();
                    let leaving = if goodbye { Leaving::InOrder } else { Leaving::Fin };
                    residue.left(leaving, source.stream.has_arrived(), now());
                }
                false
            }
            // After a break whose error another call was told of, the end is only that of reading.
            Poll::Ready(_) => {
                source.input = Input::Broken;
                source.output = Output::Broken;
                self.moved_at = now();
                false
            }
        };
        let now = now();
        source.heard_at = now;
        source.poll_flush(context);
        sink.poll_flush(context);
        let moved = self.bytes[from] - before;
        if moved > 0 {
            source.spoke_at = now;
            self.moved_at = now;
            match &mut self.residue {
                Some(residue) if from == 0 => residue.heard(moved, now),
                Some(residue) => residue.asked(),
                None => {}
            }
            self.terms.traffic.count(from, moved);
        }
        goes_on
    }

    /// Passes on what was taken for a heartbeat's beginning, and has not become one in time.
    fn give_up_begun(&mut self, from: usize) {
        let source = &mut self.sides[from];
        let late = source.input != Input::Open || now() >= source.heard_at + limits::BEAT_REST;
        if source.begun.is_some() && late {
            let (bytes, voice) = (source.begun.release(), source.voice);
            let count = bytes.len() as u64;
            self.bytes[from] += count;
            self.terms.traffic.bytes[from].fetch_add(count, Ordering::Relaxed);
            self.sides[1 - from].send(bytes, voice);
        }
    }

    /// Passes the end of `from`'s direction on once all its bytes are sent. A break is no end, nor
    /// is that of an agent that has not taken the session.
    fn pass_end_on(&mut self, context: &Context<'_>, from: usize) {
        let untold = self.residue.is_some() && from == 1 && self.sides[0].input == Input::Open;
        let source = &self.sides[from];
        let ended = source.input == Input::Ended && !source.is_broken();
        if !ended || source.voice == Voice::Version2 || untold {
            return;
        }
        let sink = &mut self.sides[1 - from];
        if sink.output == Output::Open {
            match sink.stream.poll_finish(context) {
                Poll::Ready(Ok(())) => sink.output = Output::Finished,
                Poll::Ready(Err(_)) => sink.output = Output::Broken,
                Poll::Pending => {}
            }
        }
    }

    /// Whether nothing more can move from `from` to the other side.
    fn is_over(&self, from: usize) -> bool {
        let (source, sink) = (&self.sides[from], &self.sides[1 - from]);
        sink.is_broken()
            || (source.input != Input::Open && sink.output == Output::Finished)
            // Its end cannot be told to the agent, and a broken user is not waited for.
            || (self.residue.is_some()
                && from == 1
                && source.input != Input::Open
                && source.is_broken()
                && sink.is_flushed())
    }

    fn one_has_ended(&self) -> bool {
        self.sides.iter().any(|side| side.input != Input::Open || side.is_broken())
    }

    /// The ending, if it has come; else when to look again.
    fn ending(&mut self) -> Result<Ending, Option<Instant>> {
        for (side, other) in [(0, 1), (1, 0)] {
            let Side { token, voice, input, .. } = &self.sides[side];
            match token.answer() {
                Some(Answer::Fail) => return Ok(Ending::Failed(side)),
                Some(Answer::Wrong) => return Ok(Ending::Wrong(side)),
                Some(Answer::Open) | None => {}
            }
            let broken = self.sides[side].is_broken();
            if *voice == Voice::Version2 && (*input != Input::Open || broken) {
                return Ok(Ending::Unanswered(side));
            }
            // Nothing is left but the delivery of its last bytes, which needs no session. What a
            // user has said, a version 1 agent is still given in its own time.
            let at_once = !(self.residue.is_some() && side == 1);
            if broken && (at_once || (self.is_over(side) && self.is_over(other))) {
                return Ok(Ending::Broken(side));
            }
        }
        if self.is_over(0) && self.is_over(1) {
            return Ok(Ending::Complete);
        }
        let now = now();
        let mut next: Option<Instant> = None;
        let mut due = |deadline: Instant| {
            if deadline > now {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
            }
            deadline <= now
        };
        for (index, side) in self.sides.iter_mut().enumerate() {
            if let Voice::Version1 { threshold: Some(threshold) } = side.voice {
                if side.paused {
                    side.heard_at = now;
                }
                if side.input == Input::Open && due(side.heard_at + threshold) {
                    return Ok(Ending::Absent(index));
                }
            }
            if side.begun.is_some() {
                due(side.heard_at + limits::BEAT_REST);
            }
            if side.voice == Voice::Version2 && due(self.started + limits::OPEN) {
                return Ok(Ending::Mute(index));
            }
            if side.stream.may_stall() {
                let at = *side.stall_check.get_or_insert(now + limits::STALL_CHECK);
                if due(at) {
                    if side.stream.is_stalled() {
                        return Ok(Ending::Stalled(index));
                    }
                    side.stall_check = None;
                    if !side.is_flushed() && side.stream.is_draining() {
                        self.moved_at = now;
                        self.terms.traffic.moves();
                    }
                    if side.stream.may_stall() {
                        let again = now + limits::STALL_CHECK;
                        side.stall_check = Some(again);
                        due(again);
                    }
                }
            }
        }
        if self.one_has_ended() && due(self.moved_at + self.terms.fin_wait) {
            let draining = self.sides.each_mut().map(|side| side.stream.is_draining());
            if draining == [false, false] {
                return Ok(Ending::Silent);
            }
            self.moved_at = now;
            due(now + self.terms.fin_wait);
        }
        if let Some(residue) = &self.residue {
            let [agent, user] = &self.sides;
            if user.input != Input::Open && self.is_settled() {
                let over = !agent.stream.maybe_readable() && user.stream.has_arrived();
                match residue.verdict(now) {
                    Verdict::Clean if over => return Ok(Ending::Lingered),
                    Verdict::Clean => _ = due(now + limits::LINGER_CHECK),
                    // An answer that is owed is waited for as long as `finwait` has it.
                    Verdict::Until(at) if !residue.is_owed() => _ = due(at),
                    _ => {}
                }
            }
        }
        Err(next)
    }

    /// Whether nothing is on its way to either side.
    fn is_settled(&self) -> bool {
        self.sides.iter().all(Side::is_flushed)
    }

    /// What was still to come on a version 1 tunnel that broke.
    fn missing(&self, ending: Ending) -> Missing {
        let broke = matches!(ending, Ending::Broken(0) | Ending::Absent(0) | Ending::Stalled(0));
        let Some(residue) = self.residue.as_ref().filter(|_| broke) else {
            return Missing::Nothing;
        };
        // More of it may have come than was read.
        let unread = ending == Ending::Broken(0) && self.sides[0].input == Input::Open;
        match residue.missing(now()) {
            Missing::Nothing if unread => Missing::Rest,
            missing => missing,
        }
    }
}

impl Future for Relay {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        // A direction that has nothing to move is woken when it has, and one whose turn is over when
        // it has another: deadlines are looked at in either case.
        let mut goes_on = [true; 2];
        while goes_on != [false; 2] {
            goes_on = [0, 1].map(|from| goes_on[from] && self.pump(context, from));
        }
        for from in [0, 1] {
            self.give_up_begun(from);
            self.pass_end_on(context, from);
            let is_kept = self.residue.is_some() && from == 0;
            self.sides[from].poll_unread(context, is_kept);
        }
        match self.ending() {
            Ok(ending) => Poll::Ready(self.ended(ending)),
            Err(next) => {
                let stuck = !self.is_settled();
                self.stuck.set(stuck);
                if next.is_some_and(|next| self.timer.poll_at(context, next).is_ready()) {
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }
}
