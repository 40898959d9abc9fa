//! What a mapping's sessions have moved, and whether any of them still moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::limits;
use crate::runtime::now;

/// Bytes that a mapping's sessions have moved so far, counted while they move.
#[derive(Debug)]
pub struct Traffic {
    /// From the first leg to the second, then from the second to the first.
    pub bytes: [AtomicU64; 2],
    since: Instant,
    /// When bytes last moved, in milliseconds from `since` on.
    moved: AtomicU64,
    /// Sessions with bytes that wait for a slow peer.
    stuck: AtomicUsize,
}

impl Default for Traffic {
    fn default() -> Self {
        Traffic {
            bytes: Default::default(),
            since: Instant::now(),
            moved: AtomicU64::new(0),
            stuck: AtomicUsize::new(0),
        }
    }
}

impl Traffic {
    pub(super) fn count(&self, from: usize, bytes: u64) {
        self.bytes[from].fetch_add(bytes, Ordering::Relaxed);
        self.moves();
    }

    pub(super) fn moves(&self) {
        let at = now().saturating_duration_since(self.since).as_millis() as u64;
        self.moved.store(at, Ordering::Relaxed);
    }

    /// Whether nothing has moved in any session for [`limits::STILL`]. Bytes that wait for a slow peer
    /// are checked only every [`limits::STALL_CHECK`]; they move while the peer takes any of them.
    pub fn is_still(&self) -> bool {
        let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        let quiet = now().saturating_duration_since(self.since).saturating_sub(moved);
        let stuck = self.stuck.load(Ordering::Relaxed) > 0;
        quiet >= if stuck { limits::STILL + limits::STALL_CHECK } else { limits::STILL }
    }
}

/// Counts a session among the stuck ones for as long as it is stuck.
pub(super) struct Stuck {
    traffic: Arc<Traffic>,
    is: bool,
}

impl Stuck {
    pub(super) fn new(traffic: Arc<Traffic>) -> Self {
        Stuck { traffic, is: false }
    }

    pub(super) fn set(&mut self, is: bool) {
        match (std::mem::replace(&mut self.is, is), is) {
            (false, true) => _ = self.traffic.stuck.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.traffic.stuck.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.set(false);
    }
}
