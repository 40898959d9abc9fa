//! Numbers, and things by number. A tree of its own for each kind of thing takes 6 KB of the program;
//! here one tree of numbers serves all kinds, and the things themselves lie in slots.

use std::collections::BTreeMap;

/// Numbers in their order, in the same tree.
#[derive(Debug, Default)]
pub struct Numbers(BTreeMap<u64, usize>);

impl Numbers {
    /// Adds a number, if it is not there.
    pub fn insert(&mut self, number: u64) {
        self.0.insert(number, 0);
    }

    /// Takes out a number; whether it was there.
    pub fn remove(&mut self, number: u64) -> bool {
        self.0.remove(&number).is_some()
    }

    /// Whether a number is there.
    pub fn contains(&self, number: u64) -> bool {
        self.0.contains_key(&number)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest one.
    pub fn first(&self) -> Option<u64> {
        self.0.keys().next().copied()
    }

    /// Takes out the smallest one.
    pub fn pop_first(&mut self) -> Option<u64> {
        self.0.pop_first().map(|(number, _)| number)
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }
}

/// Slots that are kept when all things have gone, since others come soon.
pub(super) const KEPT: usize = 16;

/// Things, each with a number, kept in the order of the numbers. Finding, adding and removing one
/// takes a number of steps that grows with the logarithm of how many there are.
#[derive(Debug)]
pub struct Numbered<T> {
    slots: BTreeMap<u64, usize>,
    things: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Numbered { slots: BTreeMap::new(), things: Vec::new(), free: Vec::new() }
    }
}

impl<T> Numbered<T> {
    /// Adds a thing; one that had the number is dropped.
    pub fn insert(&mut self, number: u64, thing: T) {
        let slot = self.slots.get(&number).copied().or_else(|| self.free.pop());
        let slot = slot.unwrap_or(self.things.len());
        match self.things.get_mut(slot) {
            Some(place) => *place = Some(thing),
            None => self.things.push(Some(thing)),
        }
        self.slots.insert(number, slot);
    }

    /// The thing of this number.
    pub fn get(&self, number: u64) -> Option<&T> {
        self.things.get(*self.slots.get(&number)?)?.as_ref()
    }

    /// The thing of this number.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.things.get_mut(*self.slots.get(&number)?)?.as_mut()
    }

    /// Takes out the thing of this number.
    pub fn remove(&mut self, number: u64) -> Option<T> {
        let slot = self.slots.remove(&number)?;
        let thing = self.things.get_mut(slot)?.take();
        self.free.push(slot);
        if self.slots.is_empty() && self.things.len() > KEPT {
            // What a burst has taken is given back.
            *self = Numbered::default();
        }
        thing
    }

    /// Takes out the thing of the smallest number.
    pub fn pop_first(&mut self) -> Option<T> {
        self.remove(self.first()?)
    }

    /// The smallest number.
    pub fn first(&self) -> Option<u64> {
        self.slots.keys().next().copied()
    }

    /// The smallest number that is greater than `number`.
    pub fn after(&self, number: u64) -> Option<u64> {
        let next = number.checked_add(1)?;
        self.slots.range(next..).next().map(|(number, _)| *number)
    }

    /// The smallest number, or the smallest that is greater than `number`.
    pub fn behind(&self, number: Option<u64>) -> Option<u64> {
        number.map_or_else(|| self.first(), |number| self.after(number))
    }

    /// All, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        let thing = |slot: &usize| self.things.get(*slot)?.as_ref();
        self.slots.iter().filter_map(move |(number, slot)| Some((*number, thing(slot)?)))
    }

    /// Takes all out, in the order of their numbers.
    pub fn into_things(self) -> impl Iterator<Item = T> {
        let mut things = self.things;
        self.slots.into_values().filter_map(move |slot| things.get_mut(slot)?.take())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_what_a_tree_of_things_does() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut numbered, mut tree) = (Numbered::default(), BTreeMap::new());
        for step in 0..20_000u32 {
            let number = random.u64(..40);
            if random.bool() {
                numbered.insert(number, step);
                tree.insert(number, step);
            } else {
                assert_eq!(numbered.remove(number), tree.remove(&number), "seed {seed}");
            }
            assert_eq!(numbered.get(number), tree.get(&number), "seed {seed}");
            assert_eq!(numbered.get_mut(number), tree.get_mut(&number), "seed {seed}");
            assert_eq!(numbered.len(), tree.len(), "seed {seed}");
            assert_eq!(numbered.is_empty(), tree.is_empty(), "seed {seed}");
            assert_eq!(numbered.first(), tree.keys().next().copied(), "seed {seed}");
            let after = tree.range(number + 1..).next().map(|(number, _)| *number);
            assert_eq!(numbered.after(number), after, "seed {seed}");
            let all = tree.iter().map(|(number, thing)| (*number, thing));
            assert!(numbered.iter().eq(all), "seed {seed}");
        }
        let (mut emptied, mut filled) = (numbered, Numbered::default());
        for (number, thing) in &tree {
            assert_eq!(emptied.pop_first(), Some(*thing));
            filled.insert(*number, *thing);
        }
        assert_eq!(emptied.things.capacity(), 0, "a burst's memory is given back");
        assert!(filled.into_things().eq(tree.into_values()));
    }
}
