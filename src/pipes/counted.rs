//! A guard that counts.

use std::cell::Cell;

/// Counts one more while it lives.
pub struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    /// Counts one more in `cell`.
    pub fn new(cell: &'a Cell<usize>) -> Self {
        cell.set(cell.get() + 1);
        Counted(cell)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
