//! What the API counts.

use std::cell::{Cell, RefCell};

use crate::report::status::reached::LimitsReached;
use crate::report::status::refused::Refusals;

/// What has happened on the API since the daemon started.
#[derive(Debug, Default)]
pub struct Counters {
    /// TLS handshakes that failed or took too long.
    pub handshake_failures: Cell<u64>,
    /// Requests refused with 403.
    pub refused: Cell<u64>,
    /// Its limits that were reached.
    pub limits_reached: RefCell<LimitsReached>,
    /// Callers that were refused, for this and other reasons.
    pub refusals: RefCell<Refusals>,
}
