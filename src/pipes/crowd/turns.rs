//! Whose turn it is in a crowd, as values: what its members do, and when, goes in; whose place a newcomer takes
//! comes out. Sockets, time and tasks are the [`Crowd`](super::Crowd)'s.
//!
//! Each member is in turn with the connector. While it is the member's turn, the member can lose its place, at the
//! earliest when the patience with members of its [`Kind`] has passed. While it is the connector's, it cannot.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::limits;
use crate::runtime::Numbered;

/// A member: a number that grows in order of arrival.
pub(super) type Number = u64;

/// All members, each with a `T` that is given back when it has to go.
pub(super) struct Turns<T> {
    next: Number,
    members: Numbered<Member<T>>,
    /// Networks (an address, or all addresses that one stranger has) whose members had to go, or left
    /// before they got through while others waited: how many did, less two for each that got through.
    vain: Numbered<u32>,
    /// When somebody last found no room.
    full: Option<Instant>,
    kinds: [List; 4],
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
    /// It comes from a network whose members come in vain, whatever it has sent.
    Vain,
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
    network: u64,
    since: Instant,
    /// To the other end and back.
    round_trip: Duration,
    state: State,
    /// What the connector's own turns have taken so far.
    ours: Duration,
    /// How much of its own time it had taken when its turn began anew.
    own: Option<Duration>,
    has_spoken: bool,
    may_be_slow: bool,
}

/// The members of one kind whose turn it is.
struct List {
    from: BTreeSet<(Instant, Number)>,
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
        let list = |halvings| List { from: BTreeSet::new(), halvings, got_through: false };
        Turns {
            next: 0,
            members: Numbered::default(),
            vain: Numbered::default(),
            full: None,
            kinds: [limits::SILENT_HALVINGS, limits::SPOKEN_HALVINGS, 0, 0].map(list),
            limit: 0,
            slow: 0,
        }
    }
}

impl<T> Turns<T> {
    /// One of a `network` joins, and is to say something.
    pub(super) fn join(
        &mut self,
        who: T,
        network: u64,
        round_trip: Duration,
        now: Instant,
    ) -> Number {
        let number = self.next;
        self.next += 1;
        let member = Member {
            who,
            network,
            since: now,
            round_trip,
            state: State::Through,
            ours: Duration::ZERO,
            own: None,
            has_spoken: false,
            may_be_slow: false,
        };
        self.members.insert(number, member);
        let is_long_ago = |full| now - full > limits::VAIN_REMEMBERED;
        if !self.vain.is_empty() && self.full.is_none_or(is_long_ago) {
            self.vain = Numbered::default();
        }
        let kind = if is_vain(&self.vain, network) { Kind::Vain } else { Kind::Silent };
        self.set_state(number, State::Turn(kind, now));
        number
    }

    /// It has sent something: the connector's turn begins, if it has not begun before.
    pub(super) fn spoke(&mut self, number: Number, now: Instant) {
        let Some(member) = self.members.get_mut(number) else { return };
        let vain = is_vain(&self.vain, member.network);
        let may_be_slow = !vain && self.slow < self.limit / limits::SLOW_SHARE;
        if !std::mem::replace(&mut member.has_spoken, true) {
            member.may_be_slow = may_be_slow;
            self.slow += usize::from(may_be_slow);
        }
        if !matches!(member.state, State::Ours(_)) {
            self.set_state(number, State::Ours(now));
        }
    }

    /// It has been answered, and something is to come from it next: a new turn begins.
    pub(super) fn answered(&mut self, number: Number, now: Instant) {
        if let Some(member) = self.members.get_mut(number) {
            member.own = None;
        }
        self.goes_on(number, now);
    }

    /// What it has sent is not enough to be answered: its turn goes on.
    pub(super) fn goes_on(&mut self, number: Number, now: Instant) {
        let Some(member) = self.members.get_mut(number) else { return };
        if let State::Ours(since) = member.state {
            member.ours += now - since;
        }
        let vain = is_vain(&self.vain, member.network);
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
            if let Some(vain) = self.vain.get_mut(member.network) {
                *vain = vain.saturating_sub(2);
            }
        }
    }

    /// It leaves, if it was still there.
    pub(super) fn leave(&mut self, number: Number, now: Instant) -> Option<T> {
        let member = self.members.get(number)?;
        let others_wait = self.full.is_some_and(|full| now - full < limits::SLOW_TURN);
        if others_wait && !matches!(member.state, State::Through) {
            self.came_in_vain(member.network);
        }
        self.remove(number)
    }

    /// One more of `network` is gone and had not got through.
    fn came_in_vain(&mut self, network: u64) {
        let known = self.vain.get(network).copied();
        if known.is_none() && self.vain.len() >= limits::NETWORKS_IN_VAIN {
            let forgotten = self.vain.first();
            forgotten.and_then(|network| self.vain.remove(network));
        }
        self.vain.insert(network, (known.unwrap_or_default() + 1).min(2 * limits::IN_VAIN));
    }

    fn remove(&mut self, number: Number) -> Option<T> {
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
        self.full = Some(now);
        let first = self.first_to_go();
        let gone = first.filter(|(due, _)| *due <= now).and_then(|(_, number)| self.revoke(number));
        gone.map_or(Room::NotBefore(first.map(|(due, _)| due)), Room::From)
    }

    /// Has the oldest member go if `limit` are there.
    pub(super) fn replace_oldest(&mut self, limit: usize) -> Option<T> {
        let oldest = self.members.first().filter(|_| self.len() >= limit)?;
        self.revoke(oldest)
    }

    /// When the first one has to go, and which.
    fn first_to_go(&self) -> Option<(Instant, Number)> {
        let first = |kind: Kind| {
            let &(from, number) = self.kinds[kind as usize].from.first()?;
            Some((from + self.patience(kind), number))
        };
        [Kind::Silent, Kind::Spoken, Kind::Slow, Kind::Vain].into_iter().filter_map(first).min()
    }

    /// It has to go, and others of its kind have less time from now on unless some get through.
    fn revoke(&mut self, number: Number) -> Option<T> {
        let member = self.members.get(number)?;
        if let State::Turn(kind, _) = member.state {
            let list = &mut self.kinds[kind as usize];
            let shrinks = matches!(kind, Kind::Silent | Kind::Spoken);
            if shrinks && !std::mem::take(&mut list.got_through) {
                list.halvings = (list.halvings + 1).min(limits::HALVINGS);
            }
            let network = member.network;
            self.came_in_vain(network);
        }
        self.remove(number)
    }

    fn set_state(&mut self, number: Number, state: State) {
        let Some(member) = self.members.get_mut(number) else { return };
        if let State::Turn(kind, from) = std::mem::replace(&mut member.state, state) {
            self.kinds[kind as usize].from.remove(&(from, number));
        }
        if let State::Turn(kind, from) = state {
            self.kinds[kind as usize].from.insert((from, number));
        }
    }

    /// How long members of this kind keep their places after their turns began.
    pub(super) fn patience(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Vain => limits::VAIN_TURN,
            kind => self.kinds[kind as usize].patience(),
        }
    }

    /// How many of them have sent something.
    pub(super) fn spoken(&self) -> usize {
        self.members.iter().filter(|(_, member)| member.has_spoken).count()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }
}

/// Whether the members of `network` come in vain.
fn is_vain(vain: &Numbered<u32>, network: u64) -> bool {
    vain.get(network).is_some_and(|vain| *vain >= limits::IN_VAIN)
}

impl<T> Member<T> {
    /// Its turn, which goes on or begins anew. What the connector has taken does not count, as if it
    /// had come so much later.
    fn turn(&mut self, now: Instant, vain: bool) -> State {
        let came = self.since + self.ours;
        let own = *self.own.get_or_insert_with(|| now.saturating_duration_since(came));
        let far = limits::STRANGER_ROUND_TRIPS * self.round_trip;
        let (kind, from) = match self.may_be_slow {
            _ if vain => (Kind::Vain, came + own + far),
            true => (Kind::Slow, came),
            false => (Kind::Spoken, came + own + far),
        };
        let latest = came + limits::SLOW_TURN - limits::STRANGER_TURN;
        State::Turn(kind, from.min(latest))
    }
}

#[cfg(test)]
mod tests;
