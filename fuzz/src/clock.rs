//! Time that passes when a target says so: the monotonic clock of a thread that has stopped it.
//!
//! The product asks the system for the time (`clock_gettime`), which is answered here. So hours
//! pass in no time, and the same input finds the same times again.

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    /// Nanoseconds at which this thread's clock stands; 0 when it runs.
    static STOPPED: Cell<u64> = const { Cell::new(0) };
}

/// Stops this thread's clock, at a time that is the same in each run.
pub fn stop() {
    STOPPED.set(1_000_000 * 1_000_000_000);
}

/// Lets time pass on this thread.
pub fn advance(time: Duration) {
    STOPPED.set(STOPPED.get() + time.as_nanos() as u64);
}

/// Takes the place of the C library's function.
///
/// # Safety
/// As that one's: `time` must be valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    let stopped = STOPPED.try_with(Cell::get).unwrap_or(0);
    if clock == libc::CLOCK_MONOTONIC && stopped > 0 {
        let (seconds, rest) = (stopped / 1_000_000_000, stopped % 1_000_000_000);
        // SAFETY: the caller's promise.
        unsafe { *time = libc::timespec { tv_sec: seconds as _, tv_nsec: rest as _ } };
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int }
}
