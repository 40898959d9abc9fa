//! Users on their seats, and in line for one.

use event_listener::EventListener;

use super::order::Number;
use super::seat::{Seat, UserEnd};
use super::{Pairing, Waiting, Whose};
use crate::pipes::user::User;
use crate::runtime::Counted;

impl Pairing {
    /// A user begins to wait; given back when `limit` do already, no tunnel is there for it at
    /// once, and none of those that wait makes room. With `silent_in_vain` the one that waits longest
    /// of those that have sent nothing does, for a newcomer that has sent something; before it, the
    /// one that waits longest of those that have ended their direction. While others are in line, the
    /// limit counts as reached for a user that is not the `first` of them.
    pub fn user(
        &self,
        mut user: Box<User>,
        limit: usize,
        silent_in_vain: bool,
        first: bool,
    ) -> Result<Waiting<'_, Box<User>, UserEnd>, Box<User>> {
        let full = if first { self.waiting_users() >= limit } else { self.is_full(limit) };
        let spoken = user.has_spoken;
        let makes_room = || {
            let order = self.order.borrow();
            let ended = order.first_ended().filter(|_| spoken || !silent_in_vain);
            let silent = order.first_silent().filter(|_| spoken && silent_in_vain);
            drop(order);
            ended.or(silent).is_some_and(|number| self.turn_out(number, UserEnd::Replaced))
        };
        let room = || match self.closed.get() {
            true => self.serves(spoken),
            false => !full || self.serves(spoken) || makes_room(),
        };
        if !room() {
            return Err(user);
        }
        user.place = self.next_number();
        let waiting = self.sit(&self.users, Whose::User, user.place, user);
        self.order_user(waiting.number, spoken);
        Ok(waiting)
    }

    /// A user that was given a dead tunnel waits again, in the place that it had.
    pub fn user_again(&self, user: Box<User>) -> Waiting<'_, Box<User>, UserEnd> {
        let spoken = user.has_spoken;
        let place = user.place;
        let waiting = self.sit(&self.users, Whose::User, place, user);
        self.order_user(place, spoken);
        waiting
    }

    /// Whether a newcomer has to wait for a seat when `limit` users may have one.
    pub fn is_full(&self, limit: usize) -> bool {
        self.waiting_users() >= limit || self.in_line.get() > 0
    }

    /// Whether a tunnel is there for a user that has sent something, or nothing yet.
    pub fn serves(&self, spoken: bool) -> bool {
        self.order.borrow_mut().serves(spoken, &mut |side, number| self.look(side, number))
    }

    /// Whether one more user could be given a seat when `limit` wait at most; with `silent_in_vain`
    /// that of one that has sent nothing.
    pub fn has_room(&self, limit: usize, silent_in_vain: bool) -> bool {
        self.waiting_users() + self.in_line.get() < limit
            || self.serves(true)
            || self.order.borrow().first_ended().is_some()
            || (silent_in_vain && self.order.borrow().first_silent().is_some())
    }

    /// A user gets in line for a seat, until this is dropped.
    pub fn line_up(&self) -> Counted<'_> {
        Counted::new(&self.in_line)
    }

    /// Tells the one in line that has listened longest when there may be a seat or a tunnel for it.
    pub fn move_on(&self) -> EventListener {
        self.moved_on.listen()
    }

    /// Tells when there may be room for one more user.
    pub fn room(&self) -> EventListener {
        self.room.listen()
    }

    /// The waiting user has sent something: any tunnel can serve it now.
    pub fn spoke(&self, waiting: &Waiting<'_, Box<User>, UserEnd>) {
        if let Some(user) = waiting.occupant.borrow_mut().as_mut() {
            user.has_spoken = true;
            self.order_user(waiting.number, true);
        }
        self.pair();
    }

    /// The waiting user has ended its direction: it may have gone, and is the first to make room.
    pub fn user_ended(&self, waiting: &Waiting<'_, Box<User>, UserEnd>) {
        self.order.borrow_mut().user_ended(waiting.number);
        self.moved_on.notify_additional(1);
        self.room.notify(1);
    }

    fn order_user(&self, number: Number, spoken: bool) {
        self.order.borrow_mut().user(number, spoken);
    }

    /// Takes this user off its seat and closes it; `false` if it is there no longer.
    fn turn_out(&self, number: Number, end: UserEnd) -> bool {
        self.order.borrow_mut().user_left(number);
        let Some(seat) = self.users.borrow_mut().remove(number) else { return false };
        if let Some(user) = seat.occupant.take() {
            user.turn_away();
        }
        seat.settle(end);
        true
    }

    /// Closes the users that wait, those that have sent something only with `all`.
    pub fn dismiss(&self, all: bool) {
        let is_silent = |seat: &Seat<Box<User>, UserEnd>| {
            seat.occupant.borrow().as_ref().is_none_or(|user| !user.has_spoken)
        };
        let users = self.users.borrow();
        let goes = users.iter().filter(|(_, seat)| all || is_silent(seat));
        let goes: Vec<_> = goes.map(|(number, _)| number).collect();
        drop(users);
        for number in goes {
            self.turn_out(number, UserEnd::Stopping);
        }
    }

    /// Users that wait.
    pub fn waiting_users(&self) -> usize {
        self.users.borrow().len()
    }
}
