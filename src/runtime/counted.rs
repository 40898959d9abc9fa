//! A guard that counts.

use std::cell::Cell;

use event_listener::Event;

/// Counts one more while it lives.
pub struct Counted<'a> {
    count: &'a Cell<usize>,
    changed: Option<&'a Event>,
}

impl<'a> Counted<'a> {
    /// Counts one more in `count`.
    pub fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Counted { count, changed: None }
    }

    /// Counts one more in `count`; the drop notifies all that listen to `changed`.
    pub fn notifying(count: &'a Cell<usize>, changed: &'a Event) -> Self {
        Counted { changed: Some(changed), ..Counted::new(count) }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
        if let Some(changed) = self.changed {
            changed.notify(usize::MAX);
        }
    }
}
