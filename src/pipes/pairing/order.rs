//! The order in which those that wait are joined, as values: what each of them is goes in, who is
//! next comes out. Sockets, time and tasks are the [`Pairing`](super::Pairing)'s.
//!
//! Thousands wait on one mapping, and something happens to one of them all the time. So each is
//! kept in lists by what it was at its last look, and every question looks at the first of a list:
//! what an event costs grows with the logarithm of how many wait. A list may be wrong about its
//! first one, which is therefore looked at again before it is believed; one that turns out to be
//! unfit leaves the list until its task has looked at it and called [`Order::tunnel`]. So each is
//! looked at in vain at most once for each time it was listed.

use std::time::Instant;

use crate::runtime::{Moments, Numbered, Numbers};
use crate::wire::greeting::Version;

/// A tunnel or a user: a number that grows in order of arrival.
pub(super) type Number = u64;

/// What a waiting tunnel is at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// By which rules it speaks.
    pub version: Version,
    /// Whether it can carry a session now.
    pub fit: bool,
    /// Whether all others that are fit come before it.
    pub used_last: bool,
    /// When it was last heard, for version 3 alone: the one that was heard last comes first.
    pub heard_at: Option<Instant>,
    /// From when on a newcomer may take its place, if that can be told.
    pub overdue_at: Option<Instant>,
    /// Whether its machine is being asked whether it still knows of it.
    pub asked: bool,
}

impl Standing {
    /// The smallest of those that are fit is the next one; of version 3, [`Standing::heard_at`] says it.
    fn rank(&self, number: Number) -> Rank {
        u64::from(self.used_last) << 63 | number
    }
}

/// A tunnel's number; the highest bit is set for one that is used last.
type Rank = Number;

/// Everybody that waits on one mapping.
pub(super) struct Order {
    public: bool,
    sides: [Tunnels; 2],
    /// Users that have sent nothing, and those that have.
    users: [Numbers; 2],
    /// Those of them that have ended their direction, and may have gone.
    ended: Numbers,
}

/// The tunnels that wait on one side.
#[derive(Default)]
struct Tunnels {
    known: Numbered<Standing>,
    /// Those that were fit, of version 1 and of version 2.
    fit: [Numbers; 2],
    /// Those that were fit, of version 3.
    fit_again: Moments,
    by_overdue: Moments,
    unasked: Numbers,
}

/// Two to be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// Port1's tunnel.
    pub tunnel: Number,
    /// Its user, or port2's tunnel.
    pub partner: Number,
}

/// Tells what a tunnel of a side is now; `None` if it is gone.
pub(super) type Look<'a> = &'a mut dyn FnMut(usize, Number) -> Option<Standing>;

impl Order {
    pub(super) fn new(public: bool) -> Self {
        Order {
            public,
            sides: Default::default(),
            users: Default::default(),
            ended: Numbers::default(),
        }
    }

    /// A tunnel of `side` is this now.
    pub(super) fn tunnel(&mut self, side: usize, number: Number, standing: Standing) {
        let tunnels = &mut self.sides[side];
        if tunnels.known.get(number) == Some(&standing) {
            return;
        }
        self.tunnel_left(side, number);
        let tunnels = &mut self.sides[side];
        tunnels.known.insert(number, standing);
        match standing.heard_at {
            _ if !standing.fit => {}
            Some(heard_at) => tunnels.fit_again.insert((heard_at, number)),
            None => {
                let is_two = standing.version != Version::One;
                tunnels.fit[usize::from(is_two)].insert(standing.rank(number));
            }
        }
        if let Some(at) = standing.overdue_at {
            tunnels.by_overdue.insert((at, number));
        }
        if !standing.asked {
            tunnels.unasked.insert(number);
        }
    }

    /// A tunnel of `side` waits no longer, if it did.
    pub(super) fn tunnel_left(&mut self, side: usize, number: Number) {
        let tunnels = &mut self.sides[side];
        let Some(was) = tunnels.known.remove(number) else { return };
        match was.heard_at {
            Some(heard_at) => tunnels.fit_again.remove((heard_at, number)),
            None => tunnels.fit.iter_mut().for_each(|fit| _ = fit.remove(was.rank(number))),
        }
        if let Some(at) = was.overdue_at {
            tunnels.by_overdue.remove((at, number));
        }
        tunnels.unasked.remove(number);
    }

    /// A user waits that has sent something, or nothing yet.
    pub(super) fn user(&mut self, number: Number, spoken: bool) {
        self.user_left(number);
        self.users[usize::from(spoken)].insert(number);
    }

    /// A user waits no longer, if it did.
    pub(super) fn user_left(&mut self, number: Number) {
        self.users.iter_mut().for_each(|users| _ = users.remove(number));
        self.ended.remove(number);
    }

    /// A user that waits has ended its direction.
    pub(super) fn user_ended(&mut self, number: Number) {
        if self.users.iter().any(|users| users.contains(number)) {
            self.ended.insert(number);
        }
    }

    /// The user that waits longest of those that have ended their direction.
    pub(super) fn first_ended(&self) -> Option<Number> {
        self.ended.first()
    }

    /// The user that waits longest of those that have sent nothing.
    pub(super) fn first_silent(&self) -> Option<Number> {
        self.users[0].first()
    }

    /// The tunnel of `side` that is most overdue.
    pub(super) fn most_overdue(&self, side: usize, now: Instant) -> Option<Number> {
        let first = self.sides[side].by_overdue.first();
        first.filter(|(at, _)| *at < now).map(|(_, number)| number)
    }

    /// The first `most` tunnels of `side` whose machines are not being asked.
    pub(super) fn unasked(&self, side: usize, most: usize) -> Vec<Number> {
        self.sides[side].unasked.iter().take(most).collect()
    }

    /// Whether a tunnel is there for a user that has sent something, or nothing yet.
    pub(super) fn serves(&mut self, spoken: bool, look: Look<'_>) -> bool {
        self.fittest(0, !spoken, look).is_some()
    }

    /// The next two to be joined, who wait no longer then. Of a public pipe the first user for
    /// whom there is a tunnel, with the first of those; of a private pipe the first tunnels of
    /// both sides.
    pub(super) fn next(&mut self, look: Look<'_>) -> Option<Pair> {
        if !self.public {
            let tunnel = self.fittest(0, false, look)?;
            let partner = self.fittest(1, false, look)?;
            self.tunnel_left(0, tunnel);
            self.tunnel_left(1, partner);
            return Some(Pair { tunnel, partner });
        }
        let first = |spoken: bool| self.users[usize::from(spoken)].first().map(|n| (n, spoken));
        let mut users = [first(false), first(true)];
        // Two are compared: sorting code would be 2 KB of the program.
        if users[1] < users[0] {
            users.swap(0, 1);
        }
        let (tunnel, partner) = users
            .into_iter()
            .flatten()
            .find_map(|(user, spoken)| Some((self.fittest(0, !spoken, look)?, user)))?;
        self.tunnel_left(0, tunnel);
        self.user_left(partner);
        Some(Pair { tunnel, partner })
    }

    /// The first of a side's tunnels that is fit now, of version 2 or 3 if `silent`: a version 1 agent
    /// would do nothing with a user that says nothing.
    fn fittest(&mut self, side: usize, silent: bool, look: Look<'_>) -> Option<Number> {
        while let Some((heard_at, number)) = self.sides[side].fit_again.last() {
            match look(side, number) {
                Some(standing) if standing.fit && standing.heard_at == Some(heard_at) => {
                    return Some(number);
                }
                Some(standing) => self.tunnel(side, number, standing),
                None => self.tunnel_left(side, number),
            }
        }
        loop {
            let versions = &self.sides[side].fit[usize::from(silent)..];
            let rank = versions.iter().filter_map(Numbers::first).min()?;
            let number = number_of(rank);
            match look(side, number) {
                Some(standing) if standing.fit && standing.rank(number) == rank => {
                    return Some(number);
                }
                Some(standing) => self.tunnel(side, number, standing),
                None => self.tunnel_left(side, number),
            }
        }
    }
}

/// The number in a rank.
fn number_of(rank: Rank) -> Number {
    rank & (Number::MAX >> 1)
}

#[cfg(test)]
mod tests;
