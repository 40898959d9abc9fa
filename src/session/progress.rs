//! How far a session has come, and whether that is its end (protocol page, section 6).
//!
//! A value: events and their times go in, an ending or the next time to look comes out. It reads
//! and writes nothing; what only a connection knows it asks through [`Connection`], so that it is
//! tested without sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ending::Ending;
use super::framed::Said;
use super::leg::{Connection, Endpoint, Input, Leg, Output};
use super::protocol::Protocol;
use super::residue::{Leaving, Missing, Residue, Verdict};
use super::traffic::Traffic;
use crate::limits;
use crate::net::stall::Stall;
use crate::net::stream::Stream;
use crate::runtime::Deadlines;
use crate::wire::token::Answer;

/// How long nothing may move in a session, either way, before it is ended.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// Once one direction has ended: `finwait`.
    pub after_end: Duration,
    /// At any time: the mapping's `idle`. Of what the kernel holds for a peer that reads slowly, the last may be
    /// noticed late, so that it takes up to twice as long.
    pub ever: Option<Duration>,
}

/// A session between two legs, 0 on the mapping's port1.
pub(super) struct Progress<S = Stream> {
    pub(super) legs: [Leg<S>; 2],
    /// For a user on leg 1 whose end cannot be passed on to the version 1 agent on leg 0: what may still
    /// come for it.
    pub(super) residue: Option<Residue>,
    silence: Silence,
    /// Where the bytes are counted.
    traffic: Arc<Traffic>,
    /// Bytes from leg 0 to leg 1, and back.
    pub(super) bytes: [u64; 2],
    pub(super) started: Instant,
    /// When bytes last moved, either way, or a direction ended.
    pub(super) moved_at: Instant,
    /// Whether both legs have been asked what they take, since a direction has ended.
    takes_since_end: bool,
}

impl<S: Connection> Progress<S> {
    /// A session that begins, with a residue if it joins a version 1 agent and a user.
    pub(super) fn new(
        legs: [Endpoint<S>; 2],
        residue: Option<Residue>,
        silence: Silence,
        traffic: Arc<Traffic>,
        now: Instant,
    ) -> Self {
        let [first, second] = legs.each_ref().map(|leg| leg.protocol);
        let mut legs = legs.map(|leg| Leg::new(leg, now));
        legs[1].may_be_cut = first != Protocol::Raw && second == Protocol::Raw;
        Progress {
            legs,
            residue,
            silence,
            traffic,
            bytes: [0; 2],
            started: now,
            moved_at: now,
            takes_since_end: false,
        }
    }

    /// Whether it has moved and lasted as little as a short one does ([`limits::SHORT_BYTES`]), and is about to pass no
    /// bytes through a kernel pipe, which is its thread's.
    pub(super) fn is_short(&self, now: Instant) -> bool {
        self.bytes.iter().sum::<u64>() < limits::SHORT_BYTES
            && now < self.started + limits::SHORT_TIME
            && !self.legs.iter().any(|leg| leg.bulk)
    }

    /// The leg where `from`'s bytes come from, and the leg where they go.
    #[inline(always)]
    pub(super) fn pair(&mut self, from: usize) -> (&mut Leg<S>, &mut Leg<S>) {
        let [first, second] = &mut self.legs;
        if from == 0 { (first, second) } else { (second, first) }
    }

    /// Whether `from` sends what nobody gets: a version 1 agent that may take the last bytes of a user
    /// that has broken only while it is read.
    fn is_dropped(&self, from: usize) -> bool {
        from == 0 && self.residue.is_some() && self.legs[1].output == Output::Broken
    }

    /// Whether `from` is to be read now. It is noted as paused if the other leg is too slow for that.
    pub(super) fn may_read(&mut self, from: usize, now: Instant) -> bool {
        let dropped = self.is_dropped(from);
        let (source, sink) = self.pair(from);
        let goes_on = source.goes_on();
        let open = source.input == Input::Open || goes_on;
        // Two that wait for each other's word would wait for ever.
        let unseen = sink.is_unseen() && !source.is_unseen();
        let full =
            sink.output == Output::Broken || unseen || sink.stream.waiting() >= limits::READ_AHEAD;
        // Behind its end nothing comes for the other leg.
        let slow = (full && !dropped && !goes_on) || source.answers >= limits::ANSWERS_WAITING;
        let paused = open && slow;
        if std::mem::replace(&mut source.paused, paused) {
            // The time during which it was not read does not count as its silence.
            source.heard_at = now;
            if let Some(residue) = self.residue.as_mut().filter(|_| from == 0) {
                residue.read_again(now);
            }
        }
        open && !paused
    }

    /// Whether `from` was paused, and is to be read now.
    pub(super) fn reads_again(&mut self, from: usize, now: Instant) -> bool {
        self.legs[from].paused && self.may_read(from, now)
    }

    /// `from` has been read, and this many bytes of the session have been passed on, or none.
    pub(super) fn heard(&mut self, from: usize, moved: u64, now: Instant) {
        self.legs[from].heard_at = now;
        if moved == 0 {
            return;
        }
        match &mut self.residue {
            Some(residue) if from == 0 => residue.heard(moved, now),
            Some(residue) => residue.asked(),
            None => {}
        }
        if self.is_dropped(from) {
            return;
        }
        self.moved_at = now;
        self.bytes[from] += moved;
        self.traffic.count(from, moved);
    }

    /// This many bytes of `from` that had come earlier have been passed on; they are no sign of life.
    pub(super) fn delivered(&mut self, from: usize, bytes: u64) {
        self.bytes[from] += bytes;
        self.traffic.count(from, bytes);
    }

    /// `from` has ended its direction. The silence that ends a session counts from here, however
    /// long it was silent before.
    pub(super) fn ended(&mut self, from: usize, now: Instant) {
        self.moved_at = now;
        let source = &mut self.legs[from];
        source.heard_at = now;
        let whole = source.framed.is_some() || source.may_be_cut || !source.stream.is_cut();
        source.input = if whole { Input::Ended } else { Input::Broken };
        if let Some(residue) = self.residue.as_mut().filter(|_| from == 1) {
            let goodbye = source.stream.has_sent_close_notify();
            let leaving = if goodbye { Leaving::InOrder } else { Leaving::Fin };
            residue.left(leaving, source.stream.has_arrived(), now);
        }
    }

    /// A read has found that `from`'s connection has broken.
    pub(super) fn broke(&mut self, from: usize, now: Instant) {
        self.moved_at = now;
        let source = &mut self.legs[from];
        source.heard_at = now;
        if source.has_parted() {
            // The other leg's end is still to be passed on.
            source.gone = true;
            return;
        }
        source.input = Input::Broken;
        source.output = Output::Broken;
    }

    /// Whether the end of `from`'s direction is to be passed on, once all its bytes are sent. A
    /// break is no end, nor is that of an agent that has not taken the session.
    pub(super) fn passes_end_on(&self, from: usize) -> bool {
        let (source, sink) = (&self.legs[from], &self.legs[1 - from]);
        let untold = self.residue.is_some() && from == 1 && sink.input == Input::Open;
        source.input == Input::Ended
            && !source.is_broken()
            && !source.owes_answer()
            && !untold
            && !sink.is_unseen()
            && sink.output == Output::Open
    }

    /// Whether nothing is on its way to either leg.
    pub(super) fn is_settled(&self) -> bool {
        self.legs.iter().all(Leg::is_flushed)
    }

    /// The ending, if it has come; else when to look again.
    pub(super) fn ending(&mut self, now: Instant) -> Result<Ending, Option<Instant>> {
        let mut deadlines = Deadlines::new(now);
        let ending = find_leg(|leg| self.cut_short(leg))
            .or_else(|| self.is_complete().then_some(Ending::Complete))
            .or_else(|| find_leg(|leg| self.lost(leg, &mut deadlines)))
            .or_else(|| self.silent(&mut deadlines))
            .or_else(|| self.has_lingered(&mut deadlines).then_some(Ending::Lingered));
        ending.ok_or(deadlines.next())
    }

    /// Whether the agent on this leg has refused the session, or the leg has broken.
    fn cut_short(&self, index: usize) -> Option<Ending> {
        let leg = &self.legs[index];
        match leg.decoder.answer() {
            Some(Answer::Fail) => return Some(Ending::Failed(index)),
            Some(Answer::Wrong) => return Some(Ending::Wrong(index)),
            Some(Answer::Open) | None => {}
        }
        match leg.said() {
            Some(Said::Failed(_)) => return Some(Ending::Failed(index)),
            Some(Said::Reset(_)) => return Some(Ending::Reset(index)),
            Some(Said::Garbled(_)) => return Some(Ending::Garbled(index)),
            None => {}
        }
        let broken = leg.is_broken();
        if broken && leg.framed.as_ref().is_some_and(|framed| !framed.seen) {
            return Some(Ending::Dead(index));
        }
        if leg.owes_answer() && (broken || leg.input != Input::Open) {
            return Some(Ending::Unanswered(index));
        }
        // What is left is the delivery of its last bytes, which needs no session. But what a user has
        // sent is still given to a version 1 agent at the agent's own pace.
        let at_once = self.residue.is_none() || index == 0;
        (broken && (at_once || self.is_complete())).then_some(Ending::Broken(index))
    }

    fn is_complete(&self) -> bool {
        self.is_over(0) && self.is_over(1)
    }

    /// Whether nothing more can move from `from` to the other leg.
    pub(super) fn is_over(&self, from: usize) -> bool {
        let (source, sink) = (&self.legs[from], &self.legs[1 - from]);
        sink.is_broken()
            || (sink.has_parted() && sink.has_broken())
            || (source.input != Input::Open && sink.output == Output::Finished && sink.has_all())
            // Its end cannot be told to the agent, and a broken user is not waited for.
            || (self.residue.is_some()
                && from == 1
                && source.input != Input::Open
                && source.is_broken()
                && sink.is_flushed())
    }

    /// Whether the peer on this leg is silent where it must not be, or takes nothing.
    fn lost(&mut self, index: usize, deadlines: &mut Deadlines) -> Option<Ending> {
        let leg = &mut self.legs[index];
        if let Some(at) = leg.framed.as_ref().and_then(|framed| framed.beat_at()) {
            deadlines.look_at(at);
        }
        if leg.has_parted() {
            return None;
        }
        if self.is_absent(index, deadlines) {
            return Some(Ending::Absent(index));
        }
        let leg = &mut self.legs[index];
        if leg.decoder.is_amid_heartbeat() {
            deadlines.look_at(leg.heard_at + limits::BEAT_REST);
        }
        if let Some(framed) = &mut leg.framed {
            if !framed.seen && deadlines.has_passed(framed.seen_by) {
                // Asked only now: most answer sooner.
                let wait = framed.seen_wait.max(4 * leg.stream.round_trip());
                framed.seen_by = self.started + wait;
                if deadlines.has_passed(framed.seen_by) {
                    return Some(Ending::Dead(index));
                }
            }
        }
        if leg.owes_answer() && deadlines.has_passed(self.started + limits::OPEN_WAIT) {
            return Some(Ending::NoAnswer(index));
        }
        self.is_stalled(index, deadlines).then_some(Ending::Stalled(index))
    }

    fn is_absent(&mut self, index: usize, deadlines: &mut Deadlines) -> bool {
        let leg = &mut self.legs[index];
        let Some(threshold) = leg.decoder.protocol().threshold() else { return false };
        if leg.paused {
            leg.heard_at = deadlines.now();
        }
        let is_heard = leg.input == Input::Open || leg.goes_on();
        is_heard && deadlines.has_passed(leg.heard_at + threshold)
    }

    fn is_stalled(&mut self, index: usize, deadlines: &mut Deadlines) -> bool {
        let leg = &mut self.legs[index];
        let stall = leg.watch.look(&mut leg.stream, limits::STALL_CHECK, deadlines);
        if stall == Stall::Alive && !leg.is_flushed() && leg.stream.is_draining() {
            self.moved_at = deadlines.now();
            self.traffic.moves();
        }
        stall == Stall::Gone
    }

    /// Whether nothing has moved for `finwait` since one direction ended, or for `idle`.
    fn silent(&mut self, deadlines: &mut Deadlines) -> Option<Ending> {
        let one_has_ended = self.legs.iter().any(|leg| leg.input != Input::Open || leg.is_broken());
        if one_has_ended && !std::mem::replace(&mut self.takes_since_end, true) {
            // What they took before does not count.
            self.legs.iter_mut().for_each(|leg| _ = leg.stream.is_draining());
        }
        let after_end = one_has_ended.then_some((self.silence.after_end, Ending::Silent));
        let ever = self.silence.ever.map(|ever| (ever, Ending::Idle));
        let first = after_end.into_iter().chain(ever).min_by_key(|(longest, _)| *longest);
        let (longest, ending) = first?;
        if !deadlines.has_passed(self.moved_at + longest) {
            return None;
        }
        // Both are asked, since each says what it has taken since it was last asked.
        let draining = self.legs.each_mut().map(|leg| leg.stream.is_draining());
        if draining == [false; 2] {
            return Some(ending);
        }
        self.moved_at = deadlines.now();
        deadlines.look_at(self.moved_at + longest);
        None
    }

    /// Whether the user has ended, and the version 1 agent's answer is over.
    fn has_lingered(&self, deadlines: &mut Deadlines) -> bool {
        let [agent, user] = &self.legs;
        let Some(residue) = &self.residue else { return false };
        if user.input == Input::Open || !self.is_settled() {
            return false;
        }
        match residue.verdict(deadlines.now()) {
            Verdict::Clean => {
                let over = !agent.stream.maybe_readable() && user.stream.has_arrived();
                if !over {
                    deadlines.look_at(deadlines.now() + limits::LINGER_CHECK);
                }
                over
            }
            // An answer that is owed is waited for as long as `finwait` allows.
            Verdict::Until(at) if !residue.is_owed() => {
                deadlines.look_at(at);
                false
            }
            Verdict::Until(_) | Verdict::Unanswered => false,
        }
    }

    /// Whether the version 1 tunnel of a session that has ended so can be kept: its user has left, or
    /// is broken off, and its agent is there. Closed, it would be dialled anew, and the next user would
    /// get the old answer.
    pub(super) fn keeps_tunnel(&self, ending: Ending) -> bool {
        let agent = &self.legs[0];
        let lives = agent.input == Input::Open && agent.output == Output::Open && !agent.gone;
        self.residue.is_some() && ending.fault() != Some(0) && lives
    }

    /// Whether the version 3 tunnel on `index` can go on after a session that has ended so.
    pub(super) fn keeps_framed(&self, index: usize, ending: Ending) -> bool {
        let leg = &self.legs[index];
        let is_at_fault = match ending {
            Ending::Dead(at) | Ending::Garbled(at) | Ending::Absent(at) | Ending::Stalled(at) => {
                at == index
            }
            _ => false,
        };
        leg.framed.is_some() && !leg.has_broken() && !is_at_fault
    }

    /// Whether nothing was taken from this leg, which is as it was.
    pub(super) fn is_untouched(&self, index: usize) -> bool {
        let leg = &self.legs[index];
        // An agent is no user.
        leg.may_be_cut && self.bytes[index] == 0 && leg.input == Input::Open && !leg.is_broken()
    }

    /// What was still to come on a version 1 tunnel that broke.
    pub(super) fn missing(&self, ending: Ending, now: Instant) -> Missing {
        // Otherwise it is kept, or its agent has ended it in order.
        let broke = ending.fault() == Some(0);
        let Some(residue) = self.residue.as_ref().filter(|_| broke) else {
            return Missing::Nothing;
        };
        // More of it may have come than was read.
        let unread = ending == Ending::Broken(0) && self.legs[0].input == Input::Open;
        match residue.missing(now) {
            Missing::Nothing if unread => Missing::Rest,
            missing => missing,
        }
    }
}

/// What is found on the first leg on which there is anything.
fn find_leg(find: impl FnMut(usize) -> Option<Ending>) -> Option<Ending> {
    [0, 1].into_iter().find_map(find)
}

#[cfg(test)]
mod tests;
