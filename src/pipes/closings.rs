//! The sessions of one mapping that are over, and whose last bytes are still to arrive.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use smol::future::{or, poll_once};

use crate::limits;
use crate::runtime::{Numbers, sleep};

/// Those that still wait, by the order in which they began to. Shared by all workers.
pub struct Closings(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    limit: usize,
    next: u64,
    numbers: Numbers,
}

/// A place among those that wait, given back when dropped.
struct Closing<'a> {
    all: &'a Closings,
    number: u64,
}

impl Closings {
    /// At most `limit` wait at one time.
    pub fn new(limit: usize) -> Self {
        Closings(Mutex::new(Waiting { limit, ..Waiting::default() }))
    }

    /// From now on at most `limit`.
    pub fn set_limit(&self, limit: usize) {
        self.waiting().limit = limit;
    }

    /// Lets `close` take its time until as many others as may wait have come after it; then it is
    /// dropped, within [`limits::CLOSE_CHECK`]. One that is done at once is not counted.
    pub async fn bound(&self, mut close: Pin<&mut impl Future<Output = ()>>) {
        if poll_once(close.as_mut()).await.is_some() {
            return;
        }
        let closing = self.begin();
        let cut = async {
            while closing.may_wait() {
                sleep(limits::CLOSE_CHECK).await;
            }
        };
        or(close, cut).await;
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.waiting().numbers.count()
    }

    fn begin(&self) -> Closing<'_> {
        let mut waiting = self.waiting();
        if waiting.numbers.count() >= waiting.limit {
            waiting.numbers.pop_first();
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.numbers.insert(number);
        Closing { all: self, number }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Closing<'_> {
    fn may_wait(&self) -> bool {
        self.all.waiting().numbers.contains(self.number)
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.all.waiting().numbers.remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[test]
    fn beyond_the_limit_the_oldest_is_cut() {
        let closings = Closings::new(2);
        let first = closings.begin();
        let second = closings.begin();
        assert!(first.may_wait() && second.may_wait());
        let third = closings.begin();
        assert!(!first.may_wait() && second.may_wait() && third.may_wait());
        drop(second);
        let fourth = closings.begin();
        assert!(third.may_wait() && fourth.may_wait());
    }

    #[test]
    fn one_that_is_done_at_once_cuts_nobody() {
        let closings = Closings::new(1);
        let first = closings.begin();
        crate::runtime::block_on(closings.bound(pin!(async {}))).unwrap();
        assert!(first.may_wait());
        crate::runtime::block_on(closings.bound(pin!(sleep(limits::CLOSE_CHECK)))).unwrap();
        assert!(!first.may_wait());
    }
}
