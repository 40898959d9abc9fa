//! A bounded crowd of connections that all wait, in which a newcomer at the limit takes the
//! place of the one waiting longest: strangers that say nothing cannot keep others out.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The crowd.
#[derive(Default)]
pub struct Crowd {
    next: Cell<u64>,
    members: RefCell<BTreeMap<u64, Rc<Ticket>>>,
}

/// A place in the crowd, given back when dropped.
pub struct Member<'a> {
    crowd: &'a Crowd,
    number: u64,
    ticket: Rc<Ticket>,
}

#[derive(Default)]
struct Ticket {
    revoked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Crowd {
    /// Joins; while there are `limit` members or more, the oldest is told to go.
    pub fn join(&self, limit: usize) -> Member<'_> {
        let mut members = self.members.borrow_mut();
        while members.len() >= limit.max(1) {
            let Some((_, oldest)) = members.pop_first() else { break };
            oldest.revoked.set(true);
            if let Some(waker) = oldest.waker.take() {
                waker.wake();
            }
        }
        let number = self.next.get();
        self.next.set(number + 1);
        let ticket = Rc::new(Ticket::default());
        members.insert(number, ticket.clone());
        Member { crowd: self, number, ticket }
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::future::{block_on, poll_once};

    #[test]
    fn a_newcomer_takes_the_place_of_the_oldest_alone() {
        let crowd = Crowd::default();
        let first = crowd.join(2);
        let second = crowd.join(2);
        assert!(block_on(poll_once(first.replaced())).is_none());
        let third = crowd.join(2);
        assert!(block_on(poll_once(first.replaced())).is_some());
        assert!(block_on(poll_once(second.replaced())).is_none());
        assert_eq!(crowd.len(), 2);
        drop((first, second, third));
        assert!(crowd.is_empty());
    }
}
