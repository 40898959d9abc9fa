//! Moments in their order, each with a number, as a list: a tree of them takes 6 KB of the program.

use std::collections::VecDeque;
use std::time::Instant;

use super::numbered::KEPT;

/// New ones are late and those that go are early, mostly, and only what lies between one and the nearer
/// end is moved.
#[derive(Debug, Default)]
pub struct Moments(VecDeque<(Instant, u64)>);

impl Moments {
    /// Adds one, if it is not there.
    pub fn insert(&mut self, moment: (Instant, u64)) {
        if let Err(place) = self.0.binary_search(&moment) {
            self.0.insert(place, moment);
        }
    }

    /// Takes one out, if it is there.
    pub fn remove(&mut self, moment: (Instant, u64)) {
        if let Ok(place) = self.0.binary_search(&moment) {
            self.0.remove(place);
        }
        if self.0.is_empty() && self.0.capacity() > KEPT {
            // What a burst has taken is given back.
            *self = Moments::default();
        }
    }

    /// The earliest one.
    pub fn first(&self) -> Option<(Instant, u64)> {
        self.0.front().copied()
    }

    /// The latest one.
    pub fn last(&self) -> Option<(Instant, u64)> {
        self.0.back().copied()
    }

    /// All.
    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = &(Instant, u64)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_does_what_a_tree_does() {
        let (start, mut moments, mut tree) = (Instant::now(), Moments::default(), BTreeSet::new());
        let random = &mut fastrand::Rng::with_seed(7);
        for _ in 0..5000 {
            let moment = (start + Duration::from_millis(random.u64(..40)), random.u64(..4));
            if random.bool() {
                moments.insert(moment);
                tree.insert(moment);
            } else {
                moments.remove(moment);
                tree.remove(&moment);
            }
            assert_eq!(moments.first(), tree.first().copied());
            assert_eq!(moments.last(), tree.last().copied());
            assert!(moments.iter().eq(&tree));
        }
    }
}
