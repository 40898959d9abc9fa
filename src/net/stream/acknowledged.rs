//! What the peer has acknowledged, as the kernel knows it.

use std::time::Duration;

use super::Stream;
use crate::limits;
use crate::net::stall::Acknowledged;
use crate::net::tcp_info;
use crate::runtime::now;

impl Stream {
    /// Whether the peer's machine has all that was sent to it.
    pub fn has_arrived(&self) -> bool {
        self.waiting() == 0 && tcp_info::ask(self.socket()).is_ok_and(|tcp| tcp.packets == 0)
    }

    /// Whether bytes wait in the kernel for a slow peer that has acknowledged some since last
    /// asked.
    pub fn is_draining(&mut self) -> bool {
        let Ok(tcp) = tcp_info::ask(self.socket()) else { return false };
        let before = std::mem::replace(&mut self.state.acknowledged, tcp.acknowledged);
        tcp.packets > 0 && tcp.acknowledged != before
    }

    /// Has the kernel ask the peer whether it still knows of this connection once it has been
    /// silent for so long, which may be now. Only a courtesy: failing changes nothing.
    pub fn keep_alive_after(&self, idle: Duration) {
        let _ = rustix::net::sockopt::set_tcp_keepidle(self.socket(), idle);
    }

    /// The round trip to the peer as the kernel has measured it; zero where it cannot be told.
    pub fn round_trip(&self) -> Duration {
        tcp_info::round_trip(self.socket())
    }
}

impl Acknowledged for Stream {
    fn may_stall(&self) -> bool {
        self.state.waiting_since.is_some()
    }

    fn is_stalled(&mut self) -> bool {
        let Some(since) = self.state.waiting_since else { return false };
        let Ok(tcp) = tcp_info::ask(self.socket()) else { return false };
        if tcp.packets == 0 && self.state.queued == 0 {
            self.state.waiting_since = None;
            return false;
        }
        let now = now();
        let acknowledged = now.checked_sub(tcp.silent_for).unwrap_or(now);
        tcp.is_owed()
            && now.saturating_duration_since(since.max(acknowledged)) >= limits::UNACKNOWLEDGED
    }
}
