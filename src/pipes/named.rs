//! Things that have names, kept in order of arrival: each is found in a number of steps that grows
//! with the logarithm of how many there are.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use crate::runtime::Numbered;

/// Things by name.
#[derive(Debug)]
pub struct Named<K, T> {
    next: u64,
    numbers: BTreeMap<K, u64>,
    things: Numbered<T>,
}

impl<K, T> Default for Named<K, T> {
    fn default() -> Self {
        Named { next: 0, numbers: BTreeMap::new(), things: Numbered::default() }
    }
}

impl<K: Ord, T> Named<K, T> {
    /// Adds one, behind all others; one of the same name is replaced.
    pub fn push(&mut self, name: K, thing: T) {
        if let Some(before) = self.numbers.insert(name, self.next) {
            self.things.remove(before);
        }
        self.things.insert(self.next, thing);
        self.next += 1;
    }

    /// The one of this name.
    pub fn get<Q: Ord + ?Sized>(&self, name: &Q) -> Option<&T>
    where
        K: Borrow<Q>,
    {
        self.things.get(*self.numbers.get(name)?)
    }

    /// Takes out the one of this name.
    pub fn remove<Q: Ord + ?Sized>(&mut self, name: &Q) -> Option<T>
    where
        K: Borrow<Q>,
    {
        self.things.remove(self.numbers.remove(name)?)
    }

    /// All, in order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.things.iter().map(|(_, thing)| thing)
    }

    /// Takes all out, in order of arrival.
    pub fn take(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(self).things.into_things()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.things.len()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::cmp::Ordering;

    use super::*;

    thread_local! {
        static COMPARED: Cell<u32> = const { Cell::new(0) };
    }

    /// A name that counts how often names are compared.
    #[derive(PartialEq, Eq, Debug)]
    struct Name(u64);

    impl Ord for Name {
        fn cmp(&self, other: &Self) -> Ordering {
            COMPARED.set(COMPARED.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for Name {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    #[test]
    fn finding_a_name_takes_logarithmically_many_steps() {
        for count in [1000, 4000, 16_000, 64_000] {
            let mut named = Named::default();
            // No order that a tree would like.
            let name = |at: u64| at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for at in 0..count {
                named.push(Name(name(at)), at);
            }
            // A node has at most 11 names and, but for the first, at least 5.
            let most = 11 * (1 + (count as f64).log(6.0).ceil() as u32);
            for at in (0..count).step_by(7) {
                COMPARED.set(0);
                assert_eq!(named.get(&Name(name(at))), Some(&at));
                assert!(COMPARED.get() <= most, "{} of {count}", COMPARED.get());
                COMPARED.set(0);
                assert_eq!(named.get(&Name(at + 1)), None);
                assert!(COMPARED.get() <= most, "{} of {count}", COMPARED.get());
            }
            COMPARED.set(0);
            assert_eq!(named.remove(&Name(name(count / 2))), Some(count / 2));
            assert!(COMPARED.get() <= most, "{} of {count}", COMPARED.get());
        }
    }

    #[test]
    fn all_are_there_in_order_of_arrival() {
        let mut named = Named::default();
        for name in ["c", "a", "b"] {
            named.push(Box::<str>::from(name), name);
        }
        assert!(named.iter().eq(&["c", "a", "b"]));
        assert_eq!(named.remove("a"), Some("a"));
        assert_eq!(named.remove("a"), None);
        named.push("c".into(), "d");
        assert!(named.iter().eq(&["b", "d"]));
        assert_eq!((named.get("c"), named.len()), (Some(&"d"), 2));
    }
}
