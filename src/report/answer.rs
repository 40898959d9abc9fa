//! The whole answer to `GET /api/v2/status`: the state, with its sums and its time.

use serde::{Deserialize, Serialize};

use super::status::{Counts, Status, Tunnels};
use crate::text::json;

/// What `GET /api/v2/status` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `running`, or `draining` once the daemon is stopping.
    pub status: String,
    /// The daemon's version.
    pub version: String,
    /// When this was so, in milliseconds since the epoch.
    pub timestamp: u64,
    /// Sums over all mappings.
    pub totals: Totals,
    /// The state.
    #[serde(flatten)]
    pub state: Status,
}

/// What a [`Report`] says beside the state and its sums.
#[derive(Deserialize)]
struct Head {
    status: String,
    version: String,
    timestamp: u64,
}

/// Sums over all mappings: tunnels now, and counts with those of removed mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Tunnels.
    pub tunnels: Tunnels,
    /// Counts.
    pub counts: Counts,
}

impl Report {
    /// Reads a report's JSON text.
    ///
    /// # Errors
    /// As [`json::read`] has them.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        // Parsed twice: a derived reader of flattened members would make the program at least 20 KB
        // larger.
        let Head { status, version, timestamp } = json::read(text)?;
        Ok(Report { status, version, ..Self::of(json::read(text)?, timestamp) })
    }

    /// The report of a state at `timestamp`, in milliseconds since the epoch.
    pub fn of(state: Status, timestamp: u64) -> Self {
        Report {
            status: state.condition().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            timestamp,
            totals: Totals { tunnels: state.tunnels(), counts: state.counts() },
            state,
        }
    }
}
