//! A counted guard: for dials, open tunnels and sessions.

use std::cell::Cell;

use event_listener::Event;

/// Counts one until it is dropped, and then notifies.
pub(super) struct Counted<'a> {
    count: &'a Cell<usize>,
    changed: &'a Event,
}

impl<'a> Counted<'a> {
    /// Adds one to `count`; the drop notifies `changed`.
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
