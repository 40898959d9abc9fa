//! What is counted while it lives: dials, open tunnels, sessions.

use std::cell::Cell;

use event_listener::Event;

/// Counts one more while it lives, and tells when it is over.
pub(super) struct Counted<'a> {
    count: &'a Cell<usize>,
    changed: &'a Event,
}

impl<'a> Counted<'a> {
    /// One more, of which the waiters on `changed` learn when it is over.
    pub(super) fn new(count: &'a Cell<usize>, changed: &'a Event) -> Self {
        count.set(count.get() + 1);
        Counted { count, changed }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
        self.changed.notify(usize::MAX);
    }
}
