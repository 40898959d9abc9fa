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
    /// Those of them that version 3 agents have.
    pub again: Cell<usize>,
    /// Those of tunnels in a session, one that is being broken off included.
    pub in_use: Cell<usize>,
    /// Those whose agents have taken a user's bytes and answered nothing.
    pub unanswered: Cell<usize>,
    /// How many passcodes the side has had.
    pub passcodes: Cell<u32>,
    /// Notified when one is given back.
    pub freed: event_listener::Event,
}

/// One of a side's `maxconnections`, given back when dropped.
pub struct Slot {
    slots: Rc<Slots>,
    version: Version,
    /// By which of the side's passcodes it was taken.
    passcode: u32,
    in_use: bool,
    unanswered: bool,
}

impl Slot {
    /// One more is taken.
    pub fn take(slots: Rc<Slots>, version: Version) -> Self {
        add(&slots.taken, true);
        add(&slots.serve_silent, version != Version::One);
        add(&slots.again, version == Version::Three);
        let passcode = slots.passcodes.get();
        Slot { slots, version, passcode, in_use: false, unanswered: false }
    }

    /// Whether its agent has proved itself by a passcode that was replaced since.
    pub fn is_outdated(&self) -> bool {
        self.passcode != self.slots.passcodes.get()
    }

    /// Counts it among those in a session, or no longer.
    pub fn set_in_use(&mut self, in_use: bool) {
        replace(&self.slots.in_use, &mut self.in_use, in_use);
    }

    /// Whether its agent has taken a user's bytes and answered nothing.
    pub fn is_unanswered(&self) -> bool {
        self.unanswered
    }

    /// Counts it among those of which that is so, or no longer.
    pub fn set_unanswered(&mut self, unanswered: bool) {
        replace(&self.slots.unanswered, &mut self.unanswered, unanswered);
    }
}

fn add(count: &Cell<usize>, is_one: bool) {
    count.set(count.get() + usize::from(is_one));
}

fn take(count: &Cell<usize>, is_one: bool) {
    count.set(count.get() - usize::from(is_one));
}

fn replace(count: &Cell<usize>, was: &mut bool, is: bool) {
    take(count, std::mem::replace(was, is));
    add(count, is);
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.set_unanswered(false);
        self.set_in_use(false);
        take(&self.slots.taken, true);
        take(&self.slots.serve_silent, self.version != Version::One);
        take(&self.slots.again, self.version == Version::Three);
        self.slots.freed.notify_additional(1);
    }
}
