//! The budget of a turn: what one peer may cause between two looks at the kernel.
//!
//! Everything done for a peer is charged: its bytes as they come off the wire, and each record,
//! read, heartbeat and step of a handshake by itself, whether or not it carries anything. Once it
//! is spent the peer's task waits until the reactor has looked at the kernel, so that timers,
//! deadlines and other peers have their turn however much one of them sends (protocol page,
//! section 6).

use std::task::{Context, Poll};
use std::time::Instant;

use crate::limits;
use crate::reactor::{looks, yield_turn};

/// One peer's budget.
#[derive(Debug, Default)]
pub struct Turn {
    /// The look at the kernel after which it began.
    look: u32,
    spent: u32,
}

impl Turn {
    /// Ready while the turn goes on; else the polling task is woken when the next one begins.
    #[inline]
    pub fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        if (self.spent as usize) < limits::TURN {
            return Poll::Ready(());
        }
        self.poll_next(context)
    }

    fn poll_next(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.look != looks() {
            self.spent = 0;
            return Poll::Ready(());
        }
        yield_turn(context);
        Poll::Pending
    }

    /// What this turn has been charged so far.
    pub fn spent(&self) -> usize {
        if self.look == looks() { self.spent as usize } else { 0 }
    }

    /// Whether the turn is over.
    pub fn is_over(&self) -> bool {
        self.spent() >= limits::TURN
    }

    /// Charges so many bytes, or what counts as much.
    #[inline]
    pub fn charge(&mut self, cost: usize) {
        let look = looks();
        if self.look != look {
            (self.look, self.spent) = (look, 0);
        }
        self.spent = self.spent.saturating_add(u32::try_from(cost).unwrap_or(u32::MAX));
    }

    /// Ends the turn, after something that is as much as a peer may cause at one time.
    pub fn end(&mut self) {
        self.charge(limits::TURN);
    }
}

/// How much of a peer that has hardly anything to say is heard: what comes to one turn within
/// [`limits::PACE`]. One that says more is read again when that is over, so that sixty that never
/// stop leave the thread to others.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    spent: usize,
}

impl Pace {
    /// Nothing was said yet.
    pub fn new(now: Instant) -> Self {
        Pace { since: now, spent: 0 }
    }

    /// It has said so much more.
    pub fn charge(&mut self, cost: usize, now: Instant) {
        if now.saturating_duration_since(self.since) >= limits::PACE {
            *self = Pace::new(now);
        }
        self.spent = self.spent.saturating_add(cost);
    }

    /// When it is read again, if that is not now.
    pub fn resumes_at(&self, now: Instant) -> Option<Instant> {
        let next = self.since + limits::PACE;
        (self.spent >= limits::TURN && now < next).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::{block_on, look};
    use std::future::poll_fn;

    #[test]
    fn who_says_more_than_a_turn_holds_is_read_again_a_little_later() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.charge(limits::TURN - 1, start);
        assert_eq!(pace.resumes_at(start), None);
        pace.charge(1, start);
        assert_eq!(pace.resumes_at(start), Some(start + limits::PACE));
        assert_eq!(pace.resumes_at(start + limits::PACE), None);
        pace.charge(1, start + limits::PACE);
        assert_eq!(pace.resumes_at(start + limits::PACE), None, "a new beginning");
        pace.charge(limits::TURN - 1, start + limits::PACE);
        assert_eq!(pace.resumes_at(start + limits::PACE), Some(start + 2 * limits::PACE));
    }

    #[test]
    fn what_was_spent_before_a_look_at_the_kernel_counts_no_more() {
        block_on(async {
            let mut turn = Turn::default();
            turn.charge(10);
            assert_eq!(turn.spent(), 10);
            turn.end();
            assert!(turn.is_over());
            look().await;
            assert!(!turn.is_over() && turn.spent() == 0);
            turn.charge(7);
            assert_eq!(turn.spent(), 7);
        })
        .unwrap();
    }

    #[test]
    fn a_turn_that_is_spent_goes_on_after_a_look_at_the_kernel() {
        block_on(async {
            let mut turn = Turn::default();
            let mut looks = 0;
            poll_fn(|context| {
                for _ in 0..2 {
                    assert!(turn.poll(context).is_ready(), "a new turn");
                    turn.charge(limits::TURN / 2);
                }
                assert!(turn.is_over() && turn.poll(context).is_pending());
                looks += 1;
                if looks == 3 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        })
        .unwrap();
    }
}
