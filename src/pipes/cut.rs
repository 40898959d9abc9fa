//! The guard that reports a user or a session that is cut off in the middle.

/// Calls the function when dropped: its owner was dropped before it came to an end of its own.
pub struct Cut<F: Fn()>(pub F);

impl<F: Fn()> Cut<F> {
    /// The owner came to its own end, which is reported separately.
    pub fn disarm(self) {
        // It holds nothing but references.
        std::mem::forget(self);
    }
}

impl<F: Fn()> Drop for Cut<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
