//! Exit codes beside 0 (done) and 1 (failed), as the help page lists them.

/// The command line or the settings have a fault.
pub(super) const BAD: u8 = 2;

/// `check`: the daemon would start, and files of tunnels have a fault.
pub(super) const ONLY_TUNNELS: u8 = 1;

/// `status`: the daemon does not run (the init scripts' convention).
pub(super) const NOT_RUNNING: u8 = 3;

/// `status` and `stop`: it runs, but may not or cannot be asked.
pub(super) const UNKNOWN: u8 = 4;
