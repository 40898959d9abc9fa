//! Users for whom version 3 agents are asked to open more tunnels (protocol page, section 8, step 8).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::session::Want;

/// What one mapping has asked for.
#[derive(Default)]
pub struct Wanted {
    /// What its relays are to ask for.
    pub want: Arc<Want>,
    /// Users that wait, and were asked for.
    asked: Rc<Cell<usize>>,
}

/// A user that was asked for, as long as it waits.
pub struct Asked(Rc<Cell<usize>>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Wanted {
    /// Asks for a tunnel for a user that begins to wait, if with those that were asked for there are fewer than may
    /// be: `taken` are there, of `most`. What is given is the user's as long as it waits.
    pub fn ask(&self, taken: usize, most: usize) -> Option<Asked> {
        (taken + self.asked.get() < most).then(|| {
            self.want.ask(1);
            self.asked.set(self.asked.get() + 1);
            Asked(self.asked.clone())
        })
    }

    /// What an agent is asked for before its next session: for those that still wait.
    pub fn take(&self) -> u16 {
        let waiting = u16::try_from(self.asked.get()).unwrap_or(u16::MAX);
        self.want.take().min(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_is_asked_for_once_while_more_tunnels_may_be_there() {
        let wanted = Wanted::default();
        let users = [wanted.ask(3, 5), wanted.ask(3, 5), wanted.ask(3, 5)];
        assert_eq!(users.each_ref().map(Option::is_some), [true, true, false]);
        assert_eq!([wanted.take(), wanted.take()], [2, 0]);
        let [first, second, _] = users;
        drop(first);
        let third = wanted.ask(3, 5);
        assert!(third.is_some(), "one waits no longer");
        drop((second, third));
        assert_eq!(wanted.take(), 0, "nobody waits any more");
        assert!(wanted.ask(5, 5).is_none());
    }
}
