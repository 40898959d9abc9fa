//! What is wanted of version 3 tunnels: more of them, for users that wait in vain (protocol page, section 8, step 8),
//! or no more sessions (step 9). The mapping's thread of the connector tells of the users, and the relays of its tunnels
//! pass that on. An agent's relays were told of the users, and pass on that the agent stops.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use event_listener::{Event, EventListener};

/// Users for whom tunnels are asked, and whether sessions are.
#[derive(Debug, Default)]
pub struct Want {
    users: AtomicUsize,
    asked: Event,
    nothing: AtomicBool,
    over: Event,
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

    /// No more sessions are wanted, from now on.
    pub fn nothing_more(&self) {
        self.nothing.store(true, Ordering::SeqCst);
        self.over.notify(usize::MAX);
    }

    /// Whether that is so.
    pub fn is_over(&self) -> bool {
        self.nothing.load(Ordering::SeqCst)
    }

    /// Tells when that is so, and nothing else.
    pub fn listen_for_the_end(&self) -> EventListener {
        self.over.listen()
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
