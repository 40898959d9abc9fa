//! A bounded crowd of connections that all wait, in which newcomers take the places of those
//! that wait in vain: strangers that say nothing, or not enough, cannot keep others out.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
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
    /// The limit when room was last asked for.
    limit: Cell<usize>,
    /// Members that may be slow.
    slow: Cell<usize>,
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
    /// From when on a newcomer may take the place.
    turn_ends: Cell<Instant>,
    has_spoken: Cell<bool>,
    may_be_slow: Cell<bool>,
    revoked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Crowd {
    /// Waits until one more may join a crowd of `limit`. At the limit the one is told to go whose
    /// turn ended first.
    pub async fn room(&self, limit: usize) {
        self.limit.set(limit);
        loop {
            let changed = self.changed.listen();
            let Some((due, number)) = self.first_to_go().filter(|_| self.len() >= limit) else {
                return;
            };
            if due <= Instant::now() {
                return self.revoke(number);
            }
            until(due, changed).await;
        }
    }

    /// Whose turn ends first, and when.
    fn first_to_go(&self) -> Option<(Instant, u64)> {
        let members = self.members.borrow();
        members.iter().map(|(number, ticket)| (ticket.turn_ends.get(), *number)).min()
    }

    fn revoke(&self, number: u64) {
        let Some(ticket) = self.members.borrow_mut().remove(&number) else { return };
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
            turn_ends: Cell::new(since + limits::STRANGER_TURN),
            has_spoken: Cell::new(false),
            may_be_slow: Cell::new(false),
            revoked: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.members.borrow_mut().insert(number, ticket.clone());
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
    /// It has sent something, and it is the connector that takes its time now.
    pub fn spoke(&self) {
        if !self.ticket.has_spoken.replace(true) {
            let slow = &self.crowd.slow;
            let may = slow.get() < self.crowd.limit.get().div_ceil(limits::SLOW_SHARE);
            self.ticket.may_be_slow.set(may);
            slow.set(slow.get() + usize::from(may));
        }
        self.ticket.turn_ends.set(self.ticket.since + limits::SLOW_TURN);
    }

    /// What it has sent is dealt with: it is its turn to go on.
    pub fn answered(&self) {
        let Ticket { since, way, turn_ends, may_be_slow, .. } = &*self.ticket;
        if !may_be_slow.get() {
            let turn = limits::STRANGER_TURN + limits::STRANGER_WAYS * *way;
            turn_ends.set((Instant::now() + turn).min(*since + limits::SLOW_TURN));
            self.crowd.changed.notify(usize::MAX);
        }
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
        self.crowd.members.borrow_mut().remove(&self.number);
        let slow = &self.crowd.slow;
        slow.set(slow.get() - usize::from(self.ticket.may_be_slow.get()));
        self.crowd.changed.notify(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
