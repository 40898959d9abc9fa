//! Memory that unproven connections make the process hold: each has a little of its own, and what
//! it needs beyond that comes out of one bound for all of them together. There are two such bounds:
//! for what cannot be used yet of handshakes and records, and for the API's requests.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits;

/// What all strangers hold beyond [`limits::GREETING`] each, in bytes.
static GREETINGS: AtomicUsize = AtomicUsize::new(0);

/// What all requests to the API hold that are not answered, beyond [`limits::HTTP_FREE`] each.
static REQUESTS: AtomicUsize = AtomicUsize::new(0);

/// What one of them holds of it; given back when dropped.
#[derive(Debug)]
pub struct Share {
    all: &'static AtomicUsize,
    most: usize,
    free: usize,
    own: usize,
}

impl Share {
    /// A stranger's, of [`limits::GREETINGS`].
    pub fn of_greetings() -> Self {
        Share { all: &GREETINGS, most: limits::GREETINGS, free: limits::GREETING, own: 0 }
    }

    /// A request's, of [`limits::HTTP_REQUESTS`].
    pub fn of_requests() -> Self {
        Share { all: &REQUESTS, most: limits::HTTP_REQUESTS, free: limits::HTTP_FREE, own: 0 }
    }

    /// It holds so many bytes now. `false`, and nothing has changed, if that is more than is left.
    #[must_use]
    pub fn holds(&mut self, bytes: usize) -> bool {
        let wanted = bytes.saturating_sub(self.free);
        if wanted <= self.own {
            self.all.fetch_sub(self.own - wanted, Ordering::Relaxed);
            self.own = wanted;
            return true;
        }
        let more = wanted - self.own;
        let taken = self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| {
            Some(all + more).filter(|all| *all <= self.most)
        });
        if taken.is_ok() {
            self.own = wanted;
        }
        taken.is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_little_is_free_and_all_together_hold_no_more_than_there_is() {
        static ALL: AtomicUsize = AtomicUsize::new(0);
        let share = || Share { all: &ALL, most: 1000, free: 50, own: 0 };
        let (mut one, mut other, mut little) = (share(), share(), share());
        assert!(one.holds(50 + 600));
        assert!(!other.holds(50 + 500), "so much is not left");
        assert!(other.holds(50 + 400));
        assert!(little.holds(50), "what is free is always there");
        assert!(one.holds(50 + 100));
        assert!(other.holds(50 + 900));
        drop(other);
        assert_eq!(ALL.load(Ordering::Relaxed), 100);
        drop((one, little));
        assert_eq!(ALL.load(Ordering::Relaxed), 0);
    }
}
