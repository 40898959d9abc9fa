//! The budget of a turn: what one peer may cause between two looks at the kernel.
//!
//! Everything done for a peer is charged: its bytes as they come off the wire, and each record,
//! read, heartbeat and step of a handshake by itself, whether or not it carries anything. Once it
//! is spent the peer's task waits until the reactor has looked at the kernel, so that timers,
//! deadlines and other peers have their turn however much one of them sends (protocol page,
//! section 6).

use std::cell::Cell;
use std::task::{Context, Poll};
use std::time::Instant;

use super::reactor::{looks, now, yield_turn};
use super::timer::Timer;
use crate::limits;

thread_local! {
    /// When the last of those that rest on this thread goes on.
    static RESTS: Cell<Option<Instant>> = const { Cell::new(None) };
}

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
        if (self.spent as usize) < limits::TURN_BYTES {
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
        self.spent() >= limits::TURN_BYTES
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
        self.charge(limits::TURN_BYTES);
    }
}

/// The budget of a peer that sends records without data: after [`limits::EMPTY_RECORDS`] of them it
/// rests until all peers that rest on the thread have had their time, one after the other. So all
/// of them together leave most of the thread to others, up to 1,000 that rest at one time: with
/// more, each goes on after [`limits::LONGEST_REST`]. A peer that sends such records without a
/// pause has no data to send, and one that changes keys now and then hardly ever rests.
#[derive(Default)]
pub struct Rest {
    records: usize,
    over: Option<(Instant, Timer)>,
}

impl Rest {
    /// It has sent so many records that carry nothing.
    #[inline]
    pub fn charge(&mut self, records: usize) {
        self.records += records;
    }

    /// Whether it rests before it is heard again.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.records >= limits::EMPTY_RECORDS
    }

    /// Ready when it may be heard; else the polling task is woken then.
    #[inline]
    pub fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.is_due() { self.poll_over(context) } else { Poll::Ready(()) }
    }

    fn poll_over(&mut self, context: &Context<'_>) -> Poll<()> {
        let (at, timer) = self.over.get_or_insert_with(|| (next_rest(now()), Timer::new()));
        // Another task may have it now.
        *timer = Timer::new();
        if timer.poll_at(context, *at).is_pending() {
            return Poll::Pending;
        }
        // Several records are opened together: what was too much counts towards the next rest.
        self.records -= limits::EMPTY_RECORDS;
        self.over = None;
        Poll::Ready(())
    }
}

/// When one more that rests goes on; what lies behind `now` is at once.
fn next_rest(now: Instant) -> Instant {
    let first = now.checked_sub(limits::REST_MADE_UP).unwrap_or(now);
    let last = RESTS.get().map_or(first, |last| last.max(first));
    // The time of peers that have left is waited for, too, but within a bound.
    let next = (last + limits::REST).min(now + limits::LONGEST_REST);
    RESTS.set(Some(next));
    next
}

/// The budget of a peer that should send little: one turn within [`limits::PACE`]. If it sends
/// more, it is read again when that time is over, so that sixty peers that never stop leave the
/// thread to others.
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
        (self.spent >= limits::TURN_BYTES && now < next).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{block_on, look, until};
    use smol::LocalExecutor;
    use std::future::poll_fn;

    #[test]
    fn who_says_more_than_a_turn_holds_is_read_again_a_little_later() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.charge(limits::TURN_BYTES - 1, start);
        assert_eq!(pace.resumes_at(start), None);
        pace.charge(1, start);
        assert_eq!(pace.resumes_at(start), Some(start + limits::PACE));
        assert_eq!(pace.resumes_at(start + limits::PACE), None);
        pace.charge(1, start + limits::PACE);
        assert_eq!(pace.resumes_at(start + limits::PACE), None, "a new beginning");
        pace.charge(limits::TURN_BYTES - 1, start + limits::PACE);
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
    fn all_that_send_nothing_but_empty_records_share_a_small_part_of_the_thread() {
        block_on(async {
            let start = Instant::now();
            let mut rests: [Rest; 8] = Default::default();
            let mut heard = 0;
            poll_fn(|context| {
                for rest in &mut rests {
                    while rest.poll(context).is_ready() {
                        assert!(heard < 1 << 20, "nobody rests");
                        rest.charge(1);
                        heard += 1;
                    }
                }
                if start.elapsed() < 2 * limits::REST_MADE_UP {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
            let time = limits::REST_MADE_UP + start.elapsed();
            let most = time.div_duration_f64(limits::REST) + 1.0;
            let turns = heard as f64 / limits::EMPTY_RECORDS as f64;
            assert!(turns <= 8.0 + most, "{turns} turns in the time of {most} rests");
            assert!(turns > 8.0, "each goes on");
            let now = start + limits::PASSCODE;
            for _ in 0..5000 {
                assert!(next_rest(now) <= now + limits::LONGEST_REST);
            }
        })
        .unwrap();
    }

    #[test]
    fn all_that_rest_go_on_whichever_task_has_them_now() {
        block_on(async {
            let rested = Cell::new(0);
            let tasks = LocalExecutor::new();
            let begun: Vec<_> = (0..100)
                .map(|_| {
                    let rested = &rested;
                    tasks.spawn(async move {
                        let mut rest = Rest::default();
                        for _ in 0..3 {
                            rest.charge(limits::EMPTY_RECORDS);
                            poll_fn(|context| rest.poll(context)).await;
                            rested.set(rested.get() + 1);
                        }
                        rest.charge(limits::EMPTY_RECORDS);
                        // Its timer is set for this task, and another one goes on with it.
                        _ = poll_fn(|context| Poll::Ready(rest.poll(context))).await;
                        rest
                    })
                })
                .collect();
            let all = async {
                for first in begun {
                    let mut rest = first.await;
                    let second =
                        tasks.spawn(async move { poll_fn(|context| rest.poll(context)).await });
                    second.await;
                    rested.set(rested.get() + 1);
                }
            };
            // A hundred times as long as it takes.
            let late = Instant::now() + 400 * 100 * limits::REST;
            assert!(until(late, tasks.run(all)).await.is_some(), "{} of 400", rested.get());
        })
        .unwrap();
    }

    #[test]
    fn who_seldom_changes_keys_does_not_rest() {
        block_on(async {
            // Others rest: who comes to it now waits.
            (0..100).for_each(|_| _ = next_rest(now()));
            let mut rest = Rest::default();
            poll_fn(|context| {
                rest.charge(limits::EMPTY_RECORDS - 1);
                assert!(rest.poll(context).is_ready());
                Poll::Ready(())
            })
            .await;
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
                    turn.charge(limits::TURN_BYTES / 2);
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
