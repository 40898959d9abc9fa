//! A bounded crowd of connections that all wait, in which newcomers take the places of those
//! that wait in vain: strangers that say nothing cannot keep others out.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use crate::limits;
use crate::reactor::until;

/// The crowd.
#[derive(Default)]
pub struct Crowd {
    next: Cell<u64>,
    members: RefCell<BTreeMap<u64, Rc<Ticket>>>,
    left: event_listener::Event,
}

/// A place in the crowd, given back when dropped.
pub struct Member<'a> {
    crowd: &'a Crowd,
    number: u64,
    ticket: Rc<Ticket>,
}

struct Ticket {
    since: Instant,
    has_spoken: Cell<bool>,
    revoked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Crowd {
    /// Waits until one more may join a crowd of `limit`. At the limit the oldest is told to go
    /// that has had its turn: [`limits::MUTE_TURN`] when it has said nothing at all, else
    /// [`limits::CROWD_TURN`], so that many agents coming back together do not push each other
    /// out.
    pub async fn room(&self, limit: usize) {
        loop {
            let left = self.left.listen();
            let Some((due, number)) = self.first_to_go().filter(|_| self.len() >= limit) else {
                return;
            };
            if due <= Instant::now() {
                return self.revoke(number);
            }
            until(due, left).await;
        }
    }

    /// Whose turn ends first, and when.
    fn first_to_go(&self) -> Option<(Instant, u64)> {
        let members = self.members.borrow();
        let turn = |(number, ticket): (&u64, &Rc<Ticket>)| {
            let spoken = ticket.has_spoken.get();
            (ticket.since + if spoken { limits::CROWD_TURN } else { limits::MUTE_TURN }, *number)
        };
        members.iter().map(turn).min()
    }

    fn revoke(&self, number: u64) {
        let Some(ticket) = self.members.borrow_mut().remove(&number) else { return };
        ticket.revoked.set(true);
        if let Some(waker) = ticket.waker.take() {
            waker.wake();
        }
    }

    /// Joins.
    pub fn join(&self) -> Member<'_> {
        let number = self.next.get();
        self.next.set(number + 1);
        let ticket = Rc::new(Ticket {
            since: Instant::now(),
            has_spoken: Cell::new(false),
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
        self.join()
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
    /// It has sent something: it is no scanner, or one that makes an effort.
    pub fn spoke(&self) {
        self.ticket.has_spoken.set(true);
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
        self.crowd.left.notify(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::future::{block_on, poll_once};

    #[test]
    fn a_newcomer_takes_the_place_of_one_that_is_mute() {
        crate::reactor::block_on(async {
            let crowd = Crowd::default();
            let (first, second) = (crowd.join(), crowd.join());
            first.spoke();
            assert!(poll_once(crowd.room(3)).await.is_some(), "there is room");
            assert!(poll_once(crowd.room(2)).await.is_none(), "all have their turn first");
            crowd.room(2).await;
            assert!(poll_once(second.replaced()).await.is_some());
            assert!(poll_once(first.replaced()).await.is_none());
            let third = crowd.join();
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
