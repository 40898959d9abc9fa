//! Why an idle tunnel ended without a session.

use std::fmt;
use std::io;
use std::time::Duration;

use super::words;

/// The connector counts as gone when a heartbeat has not been answered for this many intervals.
pub(super) const INTERVALS: u32 = 2;

/// A tunnel that is closed sooner than this was never really accepted.
pub(super) const KEPT: Duration = Duration::from_secs(1);

/// Why a tunnel will have no session.
pub(super) enum Lost {
    Closed,
    /// After it had been idle for a while.
    Dropped,
    Broken(io::Error),
    /// No heartbeat was answered.
    Unanswered,
    /// The connector sent something that does not belong on a tunnel.
    Garbled,
    /// The connector sends heartbeats that nobody has asked for.
    Flooding,
}

impl Lost {
    /// Whether a connector that stops ends its tunnels like this.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self, Lost::Closed | Lost::Dropped | Lost::Broken(_))
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Closed => f.write_str("then closes the tunnel"),
            Lost::Dropped => f.write_str(
                "closes idle tunnels before a heartbeat; --heartbeat must be shorter than the \
                 mapping's threshold",
            ),
            Lost::Broken(error) => {
                write!(f, "then the tunnel breaks: {}", words::connection(error))
            }
            Lost::Unanswered => {
                write!(f, "has answered no heartbeat for {INTERVALS} intervals")
            }
            Lost::Flooding => f.write_str("sends heartbeats without end that nobody asked for"),
            Lost::Garbled => {
                f.write_str("sends what is neither a heartbeat nor the beginning of a session")
            }
        }
    }
}
