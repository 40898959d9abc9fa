//! The slots of a side's tunnels, `maxconnections` of them, given back when dropped.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use crate::limits;
use crate::report::status::{AgentStatus, timestamp};
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
    /// Where they come from, for who looks at it: so many addresses, the first that came.
    agents: RefCell<Vec<Rc<Agent>>>,
    /// Those of them of which it has been said that they have come, and not that they have gone.
    told: RefCell<Vec<IpAddr>>,
}

/// An address that has slots: each of them holds it, and [`Slots`] once more.
struct Agent {
    address: IpAddr,
    /// In milliseconds since the epoch.
    since: u64,
}

impl Slots {
    /// How many are taken by agents of version 1, 2 and 3.
    pub fn versions(&self) -> [usize; 3] {
        let [taken, silent, again] = [&self.taken, &self.serve_silent, &self.again].map(Cell::get);
        [taken - silent, silent - again, again]
    }

    /// Where they come from.
    pub fn agents(&self) -> Vec<AgentStatus> {
        let agents = self.agents.borrow();
        let status = |agent: &Rc<Agent>| AgentStatus {
            address: agent.address,
            since: agent.since,
            tunnels: Rc::strong_count(agent) - 1,
        };
        agents.iter().map(status).collect()
    }

    /// Whether it is to be said that an agent at this address has come, which has a slot.
    pub fn has_come(&self, address: IpAddr) -> bool {
        let is_new = self.has(address) && !self.told.borrow().contains(&address);
        if is_new {
            self.told.borrow_mut().push(address);
        }
        is_new
    }

    /// Addresses of which it is to be said that they have gone.
    pub fn have_gone(&self) -> Vec<IpAddr> {
        let mut gone = Vec::new();
        self.told.borrow_mut().retain(|address| {
            let is_here = self.has(*address);
            if !is_here {
                gone.push(*address);
            }
            is_here
        });
        gone
    }

    fn has(&self, address: IpAddr) -> bool {
        self.agents.borrow().iter().any(|agent| agent.address == address)
    }

    /// One more comes from `address`; `None` if it is one too many to tell apart.
    fn agent(&self, address: IpAddr) -> Option<Rc<Agent>> {
        let mut agents = self.agents.borrow_mut();
        if let Some(known) = agents.iter().find(|agent| agent.address == address) {
            return Some(known.clone());
        }
        if agents.len() >= limits::AGENTS_SHOWN {
            return None;
        }
        let new = Rc::new(Agent { address, since: timestamp() });
        agents.push(new.clone());
        Some(new)
    }
}

/// One of a side's `maxconnections`, given back when dropped.
pub struct Slot {
    slots: Rc<Slots>,
    version: Version,
    /// By which of the side's passcodes it was taken.
    passcode: u32,
    agent: Option<Rc<Agent>>,
    in_use: bool,
    unanswered: bool,
}

impl Slot {
    /// One more is taken, by an agent at this address.
    pub fn take(slots: Rc<Slots>, version: Version, address: IpAddr) -> Self {
        add(&slots.taken, true);
        add(&slots.serve_silent, version != Version::One);
        add(&slots.again, version == Version::Three);
        let passcode = slots.passcodes.get();
        let agent = slots.agent(address.to_canonical());
        Slot { slots, version, passcode, agent, in_use: false, unanswered: false }
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
        // Its own, and that of the list.
        if let Some(last) = self.agent.take().filter(|agent| Rc::strong_count(agent) == 2) {
            self.slots.agents.borrow_mut().retain(|agent| !Rc::ptr_eq(agent, &last));
        }
        self.slots.freed.notify_additional(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_agents_are_known_while_they_have_slots_and_so_many_at_most() {
        let slots = Rc::new(Slots::default());
        let take = |version, host: u32| {
            Slot::take(slots.clone(), version, IpAddr::V4((0xc000_0200 + host).into()))
        };
        let shown = || -> Vec<(String, usize)> {
            slots.agents().iter().map(|one| (one.address.to_string(), one.tunnels)).collect()
        };
        let (first, second) = (take(Version::One, 1), take(Version::Three, 2));
        let mapped = IpAddr::V6("::ffff:192.0.2.1".parse().unwrap());
        let again = Slot::take(slots.clone(), Version::Two, mapped);
        assert_eq!(shown(), [("192.0.2.1".to_owned(), 2), ("192.0.2.2".to_owned(), 1)]);
        assert!(slots.agents()[0].since > 1_500_000_000_000);
        assert_eq!(slots.versions(), [1, 1, 1]);
        drop(first);
        assert_eq!(shown()[0], ("192.0.2.1".to_owned(), 1));
        drop(again);
        assert_eq!(shown(), [("192.0.2.2".to_owned(), 1)]);
        let [gone, here, never] = [1, 2, 3].map(|host| IpAddr::from([192, 0, 2, host]));
        assert!(slots.has_come(here) && !slots.has_come(here) && !slots.has_come(never));
        slots.told.borrow_mut().push(gone);
        assert_eq!((slots.have_gone(), slots.have_gone()), (vec![gone], vec![]));
        let many: Vec<_> = (10..60).map(|host| take(Version::Two, host)).collect();
        assert_eq!(shown().len(), limits::AGENTS_SHOWN);
        assert_eq!(slots.versions(), [0, 50, 1]);
        drop((many, second));
        assert!(shown().is_empty());
    }
}
