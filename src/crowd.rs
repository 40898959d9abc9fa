//! A bounded crowd of connections that all wait, in which newcomers take the places of those
//! that wait in vain: strangers that say nothing, or not enough, cannot keep others out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::limits;
use crate::reactor::until;

/// The crowd.
#[derive(Default)]
pub struct Crowd {
    next: Cell<u64>,
    members: RefCell<BTreeMap<u64, Rc<Ticket>>>,
    /// Those whose turn ends, by when it does: who has sent nothing, and who has.
    turns: RefCell<[BTreeSet<(Instant, u64)>; 2]>,
    /// The limit when room was last asked for.
    limit: Cell<usize>,
    /// Members that may be slow.
    slow: Cell<usize>,
    /// When one last got through.
    got_through: Cell<Option<Instant>>,
    /// One has left, or its turn ends at another time now.
    changed: event_listener::Event,
}

/// A place in the crowd, given back when dropped.
pub struct Member<'a> {
    crowd: &'a Crowd,
    number: u64,
    ticket: Rc<Ticket>,
}

struct Ticket {
    since: Instant,
    /// The round trip to the other end.
    way: Duration,
    /// From when on a newcomer may take the place, if ever.
    turn_ends: Cell<Option<Instant>>,
    /// Since when it is the connector that takes its time, and how much it took before.
    ours: Cell<(Option<Instant>, Duration)>,
    has_spoken: Cell<bool>,
    may_be_slow: Cell<bool>,
    revoked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Ticket {
    /// Until when its turn lasts at the longest: the connector's own time is not counted.
    fn longest(&self) -> Instant {
        self.since + self.ours.get().1 + limits::SLOW_TURN
    }
}

impl Crowd {
    /// Waits until one more may join a crowd of `limit`; `true` if that was reached. At the limit
    /// the one is told to go whose turn ended first; but while others get through, so that there
    /// is room soon, all are given more time.
    pub async fn room(&self, limit: usize) -> bool {
        self.limit.set(limit);
        let mut reached = false;
        loop {
            let changed = self.changed.listen();
            if self.len() < limit {
                return reached;
            }
            reached = true;
            match self.first_to_go() {
                Some((due, number)) if due <= Instant::now() => {
                    self.revoke(number);
                    return reached;
                }
                Some((due, _)) => _ = until(due, changed).await,
                None => changed.await,
            }
        }
    }

    /// Who goes first, and when.
    fn first_to_go(&self) -> Option<(Instant, u64)> {
        let (members, turns) = (self.members.borrow(), self.turns.borrow());
        let goes = |first: &(Instant, u64)| {
            let &(due, number) = first;
            let ticket = members.get(&number)?;
            let moving = self.got_through.get().map_or(due, |at| at + limits::STRANGER_TURN);
            Some((moving.min(ticket.longest()).max(due), number))
        };
        turns.iter().filter_map(|turns| goes(turns.first()?)).min()
    }

    fn set_turn(&self, number: u64, ticket: &Ticket, ends: Option<Instant>) {
        let spoken = usize::from(ticket.has_spoken.get());
        let turns = &mut *self.turns.borrow_mut();
        if let Some(was) = ticket.turn_ends.replace(ends) {
            turns.iter_mut().for_each(|turns| _ = turns.remove(&(was, number)));
        }
        turns[spoken].extend(ends.map(|ends| (ends, number)));
    }

    fn revoke(&self, number: u64) {
        let Some(ticket) = self.members.borrow_mut().remove(&number) else { return };
        self.set_turn(number, &ticket, None);
        ticket.revoked.set(true);
        if let Some(waker) = ticket.waker.take() {
            waker.wake();
        }
    }

    /// Joins, with the other end `way` away, there and back.
    pub fn join(&self, way: Duration) -> Member<'_> {
        let number = self.next.get();
        self.next.set(number + 1);
        let since = Instant::now();
        let ticket = Rc::new(Ticket {
            since,
            way,
            turn_ends: Cell::new(None),
            ours: Cell::default(),
            has_spoken: Cell::new(false),
            may_be_slow: Cell::new(false),
            revoked: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.members.borrow_mut().insert(number, ticket.clone());
        self.set_turn(number, &ticket, Some(since + limits::STRANGER_TURN));
        Member { crowd: self, number, ticket }
    }

    /// Joins a crowd of `limit`, for the oldest if there is no room.
    pub fn replace(&self, limit: usize) -> Member<'_> {
        let oldest = self.members.borrow().keys().next().copied();
        if let Some(oldest) = oldest.filter(|_| self.len() >= limit) {
            self.revoke(oldest);
        }
        self.join(Duration::ZERO)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.borrow().len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Member<'_> {
    /// It has sent something, and it is the connector that takes its time now, for which nobody
    /// loses a place.
    pub fn spoke(&self) {
        let Ticket { has_spoken, may_be_slow, ours, .. } = &*self.ticket;
        if !has_spoken.replace(true) {
            let slow = &self.crowd.slow;
            let may = slow.get() < self.crowd.limit.get().div_ceil(limits::SLOW_SHARE);
            may_be_slow.set(may);
            slow.set(slow.get() + usize::from(may));
        }
        let (since, before) = ours.get();
        ours.set((since.or_else(|| Some(Instant::now())), before));
        self.set_turn(None);
    }

    /// What it has sent is dealt with: it is its turn to go on.
    pub fn answered(&self) {
        let Ticket { way, ours, may_be_slow, .. } = &*self.ticket;
        let now = Instant::now();
        let (since, before) = ours.get();
        ours.set((None, before + since.map_or(Duration::ZERO, |since| now - since)));
        let longest = self.ticket.longest();
        let turn = limits::STRANGER_TURN + limits::STRANGER_WAYS * *way;
        let ends = if may_be_slow.get() { longest } else { longest.min(now + turn) };
        self.set_turn(Some(ends));
        self.crowd.changed.notify(usize::MAX);
    }

    /// It has done all that was asked of it, and keeps its place for as long as it likes.
    pub fn got_through(&self) {
        self.crowd.got_through.set(Some(Instant::now()));
        self.end_slowness();
        self.set_turn(None);
    }

    fn set_turn(&self, ends: Option<Instant>) {
        if !self.ticket.revoked.get() {
            self.crowd.set_turn(self.number, &self.ticket, ends);
        }
    }

    fn end_slowness(&self) {
        let slow = &self.crowd.slow;
        slow.set(slow.get() - usize::from(self.ticket.may_be_slow.take()));
    }

    /// Returns when a newcomer has taken the place.
    pub async fn replaced(&self) {
        poll_fn(|context| {
            if self.ticket.revoked.get() {
                return Poll::Ready(());
            }
            self.ticket.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.set_turn(None);
        self.crowd.members.borrow_mut().remove(&self.number);
        self.end_slowness();
        self.crowd.changed.notify(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::sleep;
    use smol::future::{block_on, poll_once};

    fn is_replaced(member: &Member<'_>) -> bool {
        block_on(poll_once(member.replaced())).is_some()
    }

    #[test]
    fn a_newcomer_takes_the_place_of_one_that_is_mute() {
        crate::reactor::block_on(async {
            let crowd = Crowd::default();
            let (first, second) = (crowd.join(Duration::ZERO), crowd.join(Duration::ZERO));
            assert!(poll_once(crowd.room(3)).await.is_some(), "there is room");
            first.spoke();
            assert!(poll_once(crowd.room(2)).await.is_none(), "all have their turn first");
            crowd.room(2).await;
            assert!(is_replaced(&second) && !is_replaced(&first));
            let third = crowd.join(Duration::ZERO);
            third.spoke();
            assert!(poll_once(crowd.room(2)).await.is_none());
            drop(third);
            assert!(poll_once(crowd.room(2)).await.is_some());
            drop((first, second));
            assert!(crowd.is_empty());
        })
        .unwrap();
    }

    #[test]
    fn who_stalls_makes_room_but_for_a_few_and_those_far_away() {
        crate::reactor::block_on(async {
            let crowd = Crowd::default();
            crowd.room(4).await;
            let far = Duration::from_millis(300);
            let members = [Duration::ZERO, Duration::ZERO, far].map(|way| crowd.join(way));
            members.iter().for_each(Member::spoke);
            let still_served = crowd.join(Duration::ZERO);
            still_served.spoke();
            members.iter().for_each(Member::answered);
            crowd.room(4).await;
            // The first may be slow, the third is far away, the fourth waits for an answer.
            assert_eq!(members.each_ref().map(is_replaced), [false, true, false]);
            assert!(!is_replaced(&still_served));
            let [first, second, _third] = members;
            drop((first, second));
            // Another one may be slow now.
            let next = [crowd.join(Duration::ZERO), crowd.join(Duration::ZERO)];
            next.iter().for_each(Member::spoke);
            next.iter().for_each(Member::answered);
            crowd.room(4).await;
            assert_eq!(next.each_ref().map(is_replaced), [false, true]);
        })
        .unwrap();
    }

    #[test]
    fn while_others_get_through_all_are_given_more_time() {
        crate::reactor::block_on(async {
            let crowd = Crowd::default();
            let start = Instant::now();
            let (mute, through) = (crowd.join(Duration::ZERO), crowd.join(Duration::ZERO));
            let due = |at| crowd.first_to_go().is_some_and(|(due, _)| due >= start + at);
            assert!(due(limits::STRANGER_TURN) && !due(2 * limits::STRANGER_TURN));
            sleep(limits::STRANGER_TURN / 2).await;
            through.got_through();
            assert!(due(limits::STRANGER_TURN * 3 / 2));
            // Who got through keeps its place, and who says nothing cannot wait for ever.
            crowd.got_through.set(Some(start + Duration::from_secs(100)));
            assert!(due(limits::SLOW_TURN) && !due(2 * limits::SLOW_TURN));
            crowd.got_through.set(None);
            assert!(crowd.room(2).await);
            assert!(is_replaced(&mute) && !is_replaced(&through));
        })
        .unwrap();
    }

    #[test]
    fn nobody_loses_a_place_while_the_connector_takes_its_time() {
        crate::reactor::block_on(async {
            let crowd = Crowd::default();
            let members = [Duration::ZERO; 3].map(|way| crowd.join(way));
            members.iter().for_each(Member::spoke);
            assert!(crowd.first_to_go().is_none());
            sleep(limits::STRANGER_TURN).await;
            let answered = Instant::now();
            members.iter().for_each(Member::answered);
            let (due, _) = crowd.first_to_go().unwrap();
            assert!(due >= answered + limits::STRANGER_TURN);
        })
        .unwrap();
    }

    #[test]
    fn the_oldest_of_the_held_is_let_go_first() {
        let crowd = Crowd::default();
        let (first, second) = (crowd.replace(2), crowd.replace(2));
        let third = crowd.replace(2);
        assert!(block_on(poll_once(first.replaced())).is_some());
        assert!(block_on(poll_once(second.replaced())).is_none());
        assert_eq!(crowd.len(), 2);
        drop((first, second, third));
        assert!(crowd.is_empty());
    }
}
