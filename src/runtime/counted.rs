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
        Self::begin(count, None)
    }

    /// Counts one more in `count`; the drop notifies all that listen to `changed`.
    pub fn notifying(count: &'a Cell<usize>, changed: &'a Event) -> Self {
        Self::begin(count, Some(changed))
    }

    fn begin(count: &'a Cell<usize>, changed: Option<&'a Event>) -> Self {
        count.set(count.get() + 1);
        Counted { count, changed }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_counted_as_long_as_the_guard_lives_and_the_end_is_told() {
        let (count, changed) = (Cell::new(0), Event::new());
        let silent = Counted::new(&count);
        let telling = Counted::notifying(&count, &changed);
        assert_eq!(count.get(), 2);
        let told = changed.listen();
        drop(silent);
        assert_eq!((count.get(), changed.total_listeners()), (1, 1));
        drop(telling);
        assert_eq!(count.get(), 0);
        smol::block_on(told);
    }
}
