//! Whose turn it is in a crowd, as values: what its members do, and when, goes in; whose place a newcomer takes
//! comes out. Sockets, time and tasks are the [`Crowd`](super::Crowd)'s.
//!
//! Each member is in turn with the connector. While it is the member's turn, the member can lose its place, at the
//! earliest when the patience with members of its [`Kind`] has passed. While it is the connector's, it cannot.

use std::time::{Duration, Instant};

use crate::limits;
use crate::net::vain::Vain;
use crate::runtime::{Moments, Numbered};

/// A member: a number that grows in order of arrival.
pub(super) type Number = u64;

/// All members, each with a `T` that is given back when it has to go.
pub(super) struct Turns<T> {
    next: Number,
    members: Numbered<Member<T>>,
    /// Strangers whose members come in vain.
    vain: Vain,
    /// How many members of each stranger have sent nothing, of those that came to a crowd of
    /// [`limits::SILENT_TOGETHER`] or more: a smaller one is not worth the counting.
    silent: Numbered<u32>,
    kinds: [List; 5],
    /// The limit when room was last asked for.
    limit: usize,
    /// Members that may be slow.
    slow: usize,
}

/// What a member that can lose its place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It has sent nothing.
    Silent,
    /// It has sent something, and has been answered.
    Spoken,
    /// The same, and it may be slow: the patience with it never shrinks.
    Slow,
    /// Its stranger's members come in vain, whatever it has sent.
    Vain,
    /// It has sent nothing, as many others of its stranger: the patience with it is no longer than it is at first.
    SilentToo,
}

/// What a member does.
#[derive(Clone, Copy, Debug)]
enum State {
    /// It is its turn, which counts from then on.
    Turn(Kind, Instant),
    /// The connector has been taking its time since then.
    Ours(Instant),
    /// It has done all that was asked of it.
    Through,
}

struct Member<T> {
    who: T,
    stranger: u64,
    since: Instant,
    /// To the other end and back.
    round_trip: Duration,
    state: State,
    /// What the connector's own turns have taken so far.
    ours: Duration,
    /// How much of its own time it had taken when its turn began anew.
    own: Option<Duration>,
    /// It is one of those in `silent` while it has sent nothing.
    counts: bool,
    has_spoken: bool,
    /// When it came, first sent something or was last answered.
    heard: Instant,
    may_be_slow: bool,
}

/// The members of one kind whose turn it is.
struct List {
    from: Moments,
    /// How often the patience with them is halved from the longest, [`limits::SLOW_TURN`]: once more
    /// when one has to go and nobody has got through since the last one that had to, once less when
    /// one gets through. So a port where many wait in vain is free soon, and where others get through
    /// there is room soon anyway.
    halvings: u32,
    got_through: bool,
}

/// Whether there is room for one more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room<T> {
    /// The limit is not reached.
    Free,
    /// This member has lost its place to the newcomer.
    From(T),
    /// Not before then, as things stand; `None` while it is nobody's turn.
    NotBefore(Option<Instant>),
}

impl List {
    fn patience(&self) -> Duration {
        limits::SLOW_TURN / 2u32.pow(self.halvings)
    }
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        let list = |halvings| List { from: Moments::default(), halvings, got_through: false };
        Turns {
            next: 0,
            members: Numbered::default(),
            vain: Vain::default(),
            silent: Numbered::default(),
            kinds: [limits::SILENT_HALVINGS, limits::SPOKEN_HALVINGS, 0, 0, 0].map(list),
            limit: 0,
            slow: 0,
        }
    }
}

impl<T> Turns<T> {
    /// One of a `stranger` joins, and is to say something.
    pub(super) fn join(
        &mut self,
        who: T,
        stranger: u64,
        round_trip: Duration,
        now: Instant,
    ) -> Number {
        let number = self.next;
        self.next += 1;
        let member = Member {
            who,
            stranger,
            since: now,
            round_trip,
            state: State::Through,
            ours: Duration::ZERO,
            own: None,
            counts: self.members.len() >= limits::SILENT_TOGETHER as usize,
            has_spoken: false,
            heard: now,
            may_be_slow: false,
        };
        self.members.insert(number, member);
        self.vain.forget(now);
        let silent = self.silent.get(stranger).is_some_and(|of| *of >= limits::SILENT_TOGETHER);
        let kind = match self.vain.is(stranger) {
            true => Kind::Vain,
            false if silent => Kind::SilentToo,
            false => Kind::Silent,
        };
        self.set_state(number, State::Turn(kind, now));
        number
    }

    /// Stands for the stranger of the next one to join, while it is not known: nobody else's, and no address's.
    pub(super) fn nobody(&self) -> u64 {
        1 << 63 | self.next
    }

    /// It has sent something: the connector's turn begins, if it has not begun before.
    pub(super) fn spoke(&mut self, number: Number, now: Instant) {
        let Some(member) = self.members.get_mut(number) else { return };
        let vain = self.vain.is(member.stranger);
        let may_be_slow = !vain && self.slow < self.limit / limits::SLOW_SHARE;
        if !std::mem::replace(&mut member.has_spoken, true) {
            member.heard = now;
            member.may_be_slow = may_be_slow;
            self.slow += usize::from(may_be_slow);
        }
        if !matches!(member.state, State::Ours(_)) {
            self.set_state(number, State::Ours(now));
        }
    }

    /// It has been answered, and something is to come from it next: a new turn begins.
    pub(super) fn answered(&mut self, number: Number, now: Instant) {
        if let Some(member) = self.members.get_mut(number).filter(|member| member.has_spoken) {
            member.own = None;
            member.heard = now;
        }
        self.goes_on(number, now);
    }

    /// What it has sent is not enough to be answered: its turn goes on.
    pub(super) fn goes_on(&mut self, number: Number, now: Instant) {
        let Some(member) = self.members.get_mut(number) else { return };
        if !member.has_spoken {
            // There was nothing to answer: in plain TCP a peer is waited for from the start.
            return;
        }
        if let State::Ours(since) = member.state {
            member.ours += now - since;
        }
        let vain = self.vain.is(member.stranger);
        let turn = member.turn(now, vain);
        self.set_state(number, turn);
    }

    /// It has done all that was asked of it, and keeps its place for as long as it likes.
    pub(super) fn got_through(&mut self, number: Number) {
        if self.members.get(number).is_some_and(|member| matches!(member.state, State::Through)) {
            return;
        }
        for kind in [Kind::Silent, Kind::Spoken] {
            let list = &mut self.kinds[kind as usize];
            list.got_through = true;
            list.halvings = list.halvings.saturating_sub(1);
        }
        self.set_state(number, State::Through);
        if let Some(member) = self.members.get_mut(number) {
            self.slow -= usize::from(std::mem::take(&mut member.may_be_slow));
            self.vain.got_through(member.stranger);
        }
    }

    /// It leaves, if it was still there.
    pub(super) fn leave(&mut self, number: Number, now: Instant) -> Option<T> {
        let member = self.members.get(number)?;
        if !matches!(member.state, State::Through) {
            self.vain.left(member.stranger, now);
        }
        self.remove(number)
    }

    /// Takes it out as if it had not been there, if it is.
    pub(super) fn remove(&mut self, number: Number) -> Option<T> {
        self.set_state(number, State::Through);
        let member = self.members.remove(number)?;
        self.slow -= usize::from(member.may_be_slow);
        Some(member.who)
    }

    /// Whether one more may join a crowd of `limit`. At the limit the member goes whose turn has ended
    /// first, if one has.
    pub(super) fn room(&mut self, limit: usize, now: Instant) -> Room<T> {
        self.limit = limit;
        if self.len() < limit {
            return Room::Free;
        }
        self.vain.found_no_room(now);
        let first = self.first_to_go();
        let gone = first.filter(|(due, _)| *due <= now).and_then(|(_, number)| self.revoke(number));
        gone.map_or(Room::NotBefore(first.map(|(due, _)| due)), Room::From)
    }

    /// Has the oldest member go if `limit` are there.
    pub(super) fn replace_oldest(&mut self, limit: usize) -> Option<T> {
        let oldest = self.members.first().filter(|_| self.len() >= limit)?;
        self.revoke(oldest)
    }

    /// Whether a member of a crowd of `limit` would have to go now.
    pub(super) fn is_due(&self, limit: usize, now: Instant) -> bool {
        self.len() >= limit && self.first_to_go().is_some_and(|(due, _)| due <= now)
    }

    /// When the first one has to go, and which.
    fn first_to_go(&self) -> Option<(Instant, Number)> {
        let first = |kind: Kind| {
            let (from, number) = self.kinds[kind as usize].from.first()?;
            Some((from + self.patience(kind), number))
        };
        [Kind::Silent, Kind::Spoken, Kind::Slow, Kind::Vain, Kind::SilentToo]
            .into_iter()
            .filter_map(first)
            .min()
    }

    /// It has to go, and others of its kind have less time from now on unless some get through.
    fn revoke(&mut self, number: Number) -> Option<T> {
        let member = self.members.get(number)?;
        if let State::Turn(kind, _) = member.state {
            let kind = if kind == Kind::SilentToo { Kind::Silent } else { kind };
            let list = &mut self.kinds[kind as usize];
            let shrinks = matches!(kind, Kind::Silent | Kind::Spoken);
            if shrinks && !std::mem::take(&mut list.got_through) {
                list.halvings = (list.halvings + 1).min(limits::HALVINGS);
            }
            let stranger = member.stranger;
            self.vain.lost_its_place(stranger);
        }
        self.remove(number)
    }

    fn set_state(&mut self, number: Number, state: State) {
        let Some(member) = self.members.get_mut(number) else { return };
        let was_silent = member.state.is_silent();
        if let State::Turn(kind, from) = std::mem::replace(&mut member.state, state) {
            self.kinds[kind as usize].from.remove((from, number));
        }
        if let State::Turn(kind, from) = state {
            self.kinds[kind as usize].from.insert((from, number));
        }
        if !member.counts {
            return;
        }
        let silent = self.silent.get(member.stranger).copied().unwrap_or_default();
        match (was_silent, state.is_silent()) {
            (false, true) => self.silent.insert(member.stranger, silent + 1),
            (true, false) if silent > 1 => self.silent.insert(member.stranger, silent - 1),
            (true, false) => _ = self.silent.remove(member.stranger),
            _ => {}
        }
    }

    /// How long members of this kind keep their places after their turns began.
    pub(super) fn patience(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Vain => limits::VAIN_TURN,
            Kind::SilentToo => {
                let first = limits::SLOW_TURN / 2u32.pow(limits::SILENT_HALVINGS);
                self.patience(Kind::Silent).min(first)
            }
            kind => self.kinds[kind as usize].patience(),
        }
    }

    /// How many of them have begun and go on: it is the connector's turn, or theirs began anew less than
    /// [`limits::STILL`] ago.
    pub(super) fn active(&self, now: Instant) -> usize {
        let is_active = |member: &Member<T>| match member.state {
            State::Turn(..) => now - member.heard < limits::STILL,
            State::Ours(_) | State::Through => true,
        };
        self.members.iter().filter(|(_, member)| member.has_spoken && is_active(member)).count()
    }

    /// The next member behind this one, or the first one: its number, its stranger, since when it is there, whether it
    /// has sent anything, and what it waits for.
    pub(super) fn next(
        &self,
        behind: Option<Number>,
    ) -> Option<(Number, u64, Instant, bool, &'static str)> {
        let number = self.members.behind(behind)?;
        let member = self.members.get(number)?;
        let waits_for = match member.state {
            State::Turn(..) => "its next bytes are waited for",
            State::Ours(_) => "the connector's answer is waited for",
            State::Through => "waits for a place",
        };
        Some((number, member.stranger, member.since, member.has_spoken, waits_for))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }
}

impl State {
    /// It has sent nothing, and nothing bad is known of its stranger.
    fn is_silent(self) -> bool {
        matches!(self, State::Turn(Kind::Silent | Kind::SilentToo, _))
    }
}

impl<T> Member<T> {
    /// Its turn, which goes on or begins anew. What the connector has taken does not count, as if it
    /// had come so much later.
    fn turn(&mut self, now: Instant, vain: bool) -> State {
        let came = self.since + self.ours;
        let own = *self.own.get_or_insert_with(|| now.saturating_duration_since(came));
        let far = limits::STRANGER_ROUND_TRIPS * self.round_trip;
        let (kind, from) = match self.may_be_slow {
            _ if vain => (Kind::Vain, came + own + far.min(limits::VAIN_FAR)),
            true => (Kind::Slow, came),
            false => (Kind::Spoken, came + own + far),
        };
        let latest = came + limits::SLOW_TURN - limits::STRANGER_TURN;
        State::Turn(kind, from.min(latest))
    }
}

#[cfg(test)]
mod tests;
