//! Complaints that would come again and again are logged once in a while.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Opens once, then not again for a while. It is asked before a message is logged that would
/// otherwise fill the log.
#[derive(Debug)]
pub struct Gate {
    opened: Cell<Option<Instant>>,
    every: Duration,
}

impl Gate {
    /// A gate that opens at most once in this time.
    pub fn new(every: Duration) -> Self {
        Gate { opened: Cell::new(None), every }
    }

    /// Whether the message may be logged now.
    pub fn open(&self) -> bool {
        let now = Instant::now();
        let open = self.opened.get().is_none_or(|last| now.duration_since(last) >= self.every);
        if open {
            self.opened.set(Some(now));
        }
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_open_seldom() {
        let gate = Gate::new(Duration::from_secs(3600));
        assert!(gate.open());
        assert!(!gate.open());
        let gate = Gate::new(Duration::ZERO);
        assert!(gate.open() && gate.open());
    }
}
