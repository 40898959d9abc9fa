//! Keeps messages that strangers can provoke from filling the log.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Opens once, then not again for a while.
#[derive(Debug)]
pub(super) struct Gate {
    opened: Cell<Option<Instant>>,
    every: Duration,
}

impl Gate {
    pub(super) fn new(every: Duration) -> Self {
        Gate { opened: Cell::new(None), every }
    }

    /// Whether the message may be logged now.
    pub(super) fn open(&self) -> bool {
        let now = Instant::now();
        let open = self.opened.get().is_none_or(|last| now.duration_since(last) >= self.every);
        if open {
            self.opened.set(Some(now));
        }
        open
    }
}
