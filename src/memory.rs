//! Gives freed memory back to the machine.
//!
//! glibc keeps what is freed, and a heap of its own for each thread: after a burst of sessions a
//! gateway would miss those megabytes until the next restart.

/// Makes all threads share one heap. To be called before there are threads.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    glibc::share_heap();
}

/// Gives back what is free, if that has become much since the last time.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    glibc::give_back();
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator's own functions, which no safe wrapper offers")]
mod glibc {
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A change of the free memory that is worth looking at, in bytes.
    const MUCH: usize = 64 * 1024;

    /// Free memory after the last time, in bytes. What was given back still counts as free.
    static FREE: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn share_heap() {
        // SAFETY: it sets a number.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }

    pub(super) fn give_back() {
        if free().abs_diff(FREE.load(Ordering::Relaxed)) < MUCH {
            return;
        }
        // SAFETY: it takes the allocator's lock and touches only what is free.
        unsafe { libc::malloc_trim(0) };
        FREE.store(free(), Ordering::Relaxed);
    }

    fn free() -> usize {
        // SAFETY: it reads the allocator's counters. They are ints that may wrap around beyond
        // 2 GiB, which makes the comparison wrong and nothing else.
        let info = unsafe { libc::mallinfo() };
        info.fordblks as u32 as usize
    }
}
