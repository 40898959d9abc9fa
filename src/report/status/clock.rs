//! The time that the status states.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the epoch; 0 while the clock stands before it.
pub fn timestamp() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
