//! The slots of a side's tunnels, `maxconnections` of them, given back when dropped.

use std::cell::Cell;
use std::rc::Rc;

use crate::wire::greeting::Version;

/// The authenticated tunnels of one side.
#[derive(Default)]
pub struct Slots {
    /// All that are taken.
    pub taken: Cell<usize>,
    /// Those of them whose agents can serve users that say nothing: of version 2 and 3.
    pub serve_silent: Cell<usize>,
    /// Those whose agents have taken a user's bytes and answered nothing.
    pub unanswered: Cell<usize>,
    /// Notified when one is given back.
    pub freed: event_listener::Event,
}

/// One of a side's `maxconnections`, given back when dropped.
pub struct Slot {
    slots: Rc<Slots>,
    version: Version,
    unanswered: bool,
}

impl Slot {
    /// One more is taken.
    pub fn take(slots: Rc<Slots>, version: Version) -> Self {
        slots.taken.set(slots.taken.get() + 1);
        if version != Version::One {
            slots.serve_silent.set(slots.serve_silent.get() + 1);
        }
        Slot { slots, version, unanswered: false }
    }

    /// Whether its agent has taken a user's bytes and answered nothing.
    pub fn is_unanswered(&self) -> bool {
        self.unanswered
    }

    /// Counts it among those of which that is so, or no longer.
    pub fn set_unanswered(&mut self, unanswered: bool) {
        let count = &self.slots.unanswered;
        let others = count.get() - usize::from(self.unanswered);
        count.set(others + usize::from(unanswered));
        self.unanswered = unanswered;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.set_unanswered(false);
        self.slots.taken.set(self.slots.taken.get() - 1);
        if self.version != Version::One {
            self.slots.serve_silent.set(self.slots.serve_silent.get() - 1);
        }
        self.slots.freed.notify_additional(1);
    }
}
