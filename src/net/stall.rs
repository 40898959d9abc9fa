//! Whether a peer is gone that acknowledges nothing (protocol page, section 6).

use std::time::{Duration, Instant};

use crate::limits;
use crate::runtime::Deadlines;

/// What a connection knows of bytes that its peer has not acknowledged.
pub trait Acknowledged {
    /// Whether [`is_stalled`](Self::is_stalled) is worth asking.
    fn may_stall(&self) -> bool;

    /// Whether the peer has acknowledged nothing for [`limits::UNACKNOWLEDGED`] while bytes wait
    /// for it: it is gone, however slowly a living one may read. A system call.
    fn is_stalled(&mut self) -> bool;
}

/// Asks a connection now and then whether its peer is gone, while bytes wait for that peer.
#[derive(Debug, Default)]
pub struct StallWatch {
    at: Option<Instant>,
}

/// What a [`StallWatch`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// There was nothing to ask, or it is not time to.
    NotAsked,
    /// The peer is there.
    Alive,
    /// The peer is gone.
    Gone,
}

impl StallWatch {
    /// Asks `peer` if it is time to: when bytes have waited for `first`, and then every
    /// [`limits::STALL_CHECK`].
    #[inline(always)]
    pub fn look(
        &mut self,
        peer: &mut impl Acknowledged,
        first: Duration,
        deadlines: &mut Deadlines,
    ) -> Stall {
        if self.at.is_none() && !peer.may_stall() {
            return Stall::NotAsked;
        }
        let at = *self.at.get_or_insert_with(|| deadlines.now() + first);
        if !deadlines.has_passed(at) {
            return Stall::NotAsked;
        }
        if peer.is_stalled() {
            return Stall::Gone;
        }
        self.at = peer.may_stall().then(|| deadlines.now() + limits::STALL_CHECK);
        if let Some(at) = self.at {
            deadlines.look_at(at);
        }
        Stall::Alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Peer {
        owed: bool,
        gone: bool,
        asked: u32,
    }

    impl Acknowledged for Peer {
        fn may_stall(&self) -> bool {
            self.owed
        }

        fn is_stalled(&mut self) -> bool {
            self.asked += 1;
            self.gone
        }
    }

    #[test]
    fn a_peer_is_asked_only_while_bytes_wait_for_it_and_no_sooner_than_it_matters() {
        const FIRST: Duration = Duration::from_secs(60);
        let begun = Instant::now();
        let mut peer = Peer { owed: false, gone: false, asked: 0 };
        let mut watch = StallWatch::default();
        let mut look = |peer: &mut Peer, at: Duration| {
            let mut deadlines = Deadlines::new(begun + at);
            let found = watch.look(peer, FIRST, &mut deadlines);
            (found, deadlines.next().map(|next| next - begun))
        };
        let (ms, step) = (Duration::from_millis(1), limits::STALL_CHECK);
        assert_eq!(look(&mut peer, ms), (Stall::NotAsked, None));
        peer.owed = true;
        assert_eq!(look(&mut peer, ms), (Stall::NotAsked, Some(ms + FIRST)));
        assert_eq!(look(&mut peer, FIRST), (Stall::NotAsked, Some(ms + FIRST)));
        assert_eq!(peer.asked, 0);
        assert_eq!(look(&mut peer, ms + FIRST), (Stall::Alive, Some(ms + FIRST + step)));
        peer.owed = false;
        assert_eq!(look(&mut peer, ms + FIRST + step), (Stall::Alive, None));
        assert_eq!(look(&mut peer, 2 * FIRST), (Stall::NotAsked, None));
        peer = Peer { owed: true, gone: true, asked: 0 };
        assert_eq!(look(&mut peer, 2 * FIRST), (Stall::NotAsked, Some(3 * FIRST)));
        assert_eq!(look(&mut peer, 3 * FIRST), (Stall::Gone, None));
    }
}
