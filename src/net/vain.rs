//! Strangers whose connections come in vain: while others wait for a place, their connections lose theirs, or leave,
//! before they have got through.

use std::time::{Duration, Instant};

use crate::limits;
use crate::runtime::Numbered;

/// What is remembered of them.
#[derive(Default)]
pub struct Vain {
    /// How many connections of each stranger came in vain, less two for each that got through.
    strangers: Numbered<u32>,
    /// When somebody last found no room.
    full: Option<Instant>,
}

impl Vain {
    /// Somebody has found no room.
    pub fn found_no_room(&mut self, now: Instant) {
        self.full = Some(now);
    }

    /// Forgets all once there has been room for everybody for [`limits::VAIN_REMEMBERED`].
    pub fn forget(&mut self, now: Instant) {
        if !self.strangers.is_empty() && !self.was_full_within(limits::VAIN_REMEMBERED, now) {
            self.strangers = Numbered::default();
        }
    }

    /// Whether a stranger's connections come in vain.
    pub fn is(&self, stranger: u64) -> bool {
        self.strangers.get(stranger).is_some_and(|vain| *vain >= limits::IN_VAIN)
    }

    /// A stranger's connection has lost its place to another one.
    pub fn lost_its_place(&mut self, stranger: u64) {
        let known = self.strangers.get(stranger).copied();
        if known.is_none() && self.strangers.len() >= limits::STRANGERS_IN_VAIN {
            // The one with the least against it.
            let forgotten = self.strangers.iter().min_by_key(|(_, vain)| **vain);
            let forgotten = forgotten.map(|(stranger, _)| stranger);
            forgotten.and_then(|stranger| self.strangers.remove(stranger));
        }
        let vain = (known.unwrap_or_default() + 1).min(2 * limits::IN_VAIN);
        self.strangers.insert(stranger, vain);
    }

    /// A stranger's connection has left before it got through.
    pub fn left(&mut self, stranger: u64, now: Instant) {
        if self.was_full_within(limits::SLOW_TURN, now) {
            self.lost_its_place(stranger);
        }
    }

    /// A stranger's connection has got through.
    pub fn got_through(&mut self, stranger: u64) {
        if let Some(vain) = self.strangers.get_mut(stranger) {
            *vain = vain.saturating_sub(2);
            if *vain == 0 {
                self.strangers.remove(stranger);
            }
        }
    }

    fn was_full_within(&self, time: Duration, now: Instant) -> bool {
        self.full.is_some_and(|full| now.saturating_duration_since(full) < time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_are_remembered_and_not_for_ever() {
        let (mut vain, now) = (Vain::default(), Instant::now());
        vain.found_no_room(now);
        for stranger in 0..2 * limits::STRANGERS_IN_VAIN as u64 {
            vain.left(stranger, now);
        }
        assert_eq!(vain.strangers.len(), limits::STRANGERS_IN_VAIN);
        // One that is known for it is not forgotten for one that has only begun.
        (0..limits::IN_VAIN).for_each(|_| vain.left(1, now));
        (1000..3000).for_each(|stranger| vain.left(stranger, now));
        assert!(vain.is(1));
        vain.forget(now + limits::VAIN_REMEMBERED - Duration::from_millis(1));
        assert!(!vain.strangers.is_empty());
        vain.forget(now + limits::VAIN_REMEMBERED);
        assert!(vain.strangers.is_empty());
    }

    #[test]
    fn who_leaves_while_nobody_waits_did_not_come_in_vain() {
        let (mut vain, now) = (Vain::default(), Instant::now());
        let leave = |vain: &mut Vain, now| (0..limits::IN_VAIN).for_each(|_| vain.left(1, now));
        leave(&mut vain, now);
        assert!(!vain.is(1));
        vain.found_no_room(now);
        leave(&mut vain, now + limits::SLOW_TURN);
        assert!(!vain.is(1), "that was long ago");
        leave(&mut vain, now);
        assert!(vain.is(1) && !vain.is(2));
        vain.got_through(1);
        assert!(!vain.is(1), "two more would have to leave");
    }
}
