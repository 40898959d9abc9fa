//! How many users wait in vain (protocol page, section 8, step 8): what the mapping's thread of the connector has to
//! tell, and the relays of its version 3 tunnels pass on; or what an agent's relays were told.

use std::sync::atomic::{AtomicUsize, Ordering};

use event_listener::{Event, EventListener};

/// Users for whom tunnels are asked.
#[derive(Debug, Default)]
pub struct Want {
    users: AtomicUsize,
    asked: Event,
}

impl Want {
    /// So many users more.
    pub fn ask(&self, users: usize) {
        if users > 0 {
            self.users.fetch_add(users, Ordering::Relaxed);
            self.asked.notify(1);
        }
    }

    /// Those for whom nobody has asked yet: as many as one frame can name.
    pub fn take(&self) -> u16 {
        let most = usize::from(u16::MAX);
        let less = |users: usize| Some(users.saturating_sub(most));
        let users = self.users.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        users.unwrap_or_else(|users| users).min(most) as u16
    }

    /// Tells one of those that listen of the next ones. If it listens no more, another is told.
    pub fn listen(&self) -> EventListener {
        self.asked.listen()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_is_asked_for_once() {
        let want = Want::default();
        want.ask(3);
        want.ask(70_000);
        assert_eq!([want.take(), want.take(), want.take()], [u16::MAX, 4468, 0]);
    }
}
