//! Limits that were reached: which, how often, and when last.

use std::borrow::Cow;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::clock::timestamp;
use crate::limits;

/// Connections that have not proved their passcode.
pub const AGENTS_PENDING: &str = "connections without passcode yet (pending)";
/// Users in their TLS handshake, or in line for a seat.
pub const USERS_PENDING: &str = "users in their handshake or in line (pending)";
/// Users that wait for a tunnel.
pub const USERS_WAITING: &str = "users waiting (pending)";
/// Authenticated tunnels of one side.
pub const MAX_CONNECTIONS: &str = "tunnels (maxconnections)";
/// Files that may be open.
pub const FILES: &str = "open files (LimitNOFILE)";

/// API connections at one time; the number is [`limits::HTTP_CONNECTIONS`](crate::limits).
pub const API_CONNECTIONS: &str = "256 API connections at one time";

/// API connections in their TLS handshake, of [`limits::HTTP_HANDSHAKES`](crate::limits).
pub const API_HANDSHAKES: &str = "API connections in their handshake";

/// Every limit's name.
#[cfg(test)]
pub const ALL: [&str; 7] = [
    AGENTS_PENDING,
    USERS_PENDING,
    USERS_WAITING,
    MAX_CONNECTIONS,
    FILES,
    API_CONNECTIONS,
    API_HANDSHAKES,
];

/// Those that were reached since the daemon started, in the order of the first time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LimitsReached(Vec<Reached>);

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reached {
    /// Which, as a sentence's subject.
    pub limit: Cow<'static, str>,
    /// How often, one for each newcomer that found it reached. Those behind them, in the kernel's
    /// backlog, are not counted.
    pub times: u64,
    /// When last, in milliseconds since the epoch.
    pub last: u64,
    /// The same by a clock that nobody sets.
    #[serde(skip)]
    at: Option<Instant>,
    /// Whether it is reached no longer.
    #[serde(default)]
    pub over: bool,
}

impl LimitsReached {
    /// The limit of this name was reached just now. Gives whether it was not, or not any more.
    pub fn reached(&mut self, limit: &'static str) -> bool {
        let (last, at) = (timestamp(), Some(Instant::now()));
        match self.0.iter_mut().find(|known| known.limit == limit) {
            Some(known) => {
                known.times += 1;
                (known.last, known.at) = (last, at);
                std::mem::take(&mut known.over)
            }
            None => {
                self.0.push(Reached { limit: limit.into(), times: 1, last, at, over: false });
                true
            }
        }
    }

    /// The limits that are over now, of which that has not been said yet: nobody has found them reached for
    /// [`limits::LIMIT_OVER`], nor are they `still`.
    pub fn over(&mut self, still: impl Fn(&str) -> bool) -> Vec<&'static str> {
        let mut told = Vec::new();
        for known in self.0.iter_mut().filter(|known| !known.over) {
            let is_quiet = known.at.is_none_or(|at| at.elapsed() >= limits::LIMIT_OVER);
            if let Cow::Borrowed(limit) = known.limit {
                known.over = is_quiet && !still(limit);
                if known.over {
                    told.push(limit);
                }
            }
        }
        told
    }

    /// Each limit that was reached.
    pub fn iter(&self) -> impl Iterator<Item = &Reached> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_over_after_its_time_whatever_becomes_of_the_clock() {
        let mut limits = LimitsReached::default();
        assert!(limits.reached(FILES));
        assert!(limits.over(|_| false).is_empty(), "it has just been reached");
        // Set forward by an hour meanwhile, and back.
        for last in [limits.0[0].last - 3_600_000, limits.0[0].last + 3_600_000] {
            limits.0[0].last = last;
            assert!(limits.over(|_| false).is_empty(), "{last}");
        }
        limits.0[0].at = Instant::now().checked_sub(limits::LIMIT_OVER);
        assert!(limits.over(|limit| limit == FILES).is_empty(), "it is still reached");
        assert_eq!(limits.over(|_| false), [FILES]);
        assert!(limits.over(|_| false).is_empty(), "that is said once");
        assert!(limits.reached(FILES), "it is reached anew");
    }
}
