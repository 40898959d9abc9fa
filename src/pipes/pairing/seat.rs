//! Where a tunnel or a user waits, and how its wait ends.

use std::cell::RefCell;
use std::task::{Context, Poll, Waker};

use smol::channel::{Receiver, Sender};

use crate::pipes::settling::Settling;
use crate::pipes::tunnel::{IdleEnd, Tunnel};
use crate::pipes::user::User;

/// How a tunnel's wait ends.
pub enum TunnelEnd {
    /// It carries this partner's session.
    Paired(Partner),
    /// The other side's task has it now, and gives it back if it can go on after the session: only of version 3.
    Taken(Option<Receiver<Settling>>),
    /// A newcomer has its slot.
    Replaced,
    /// Another daemon serves.
    GivenUp,
    /// It ended by itself.
    Alone(IdleEnd),
}

/// A tunnel's other end.
pub enum Partner {
    /// Of a public pipe.
    User(Box<User>),
    /// Of a private pipe: the other side's, and how its own task gets it back.
    Tunnel(Box<Tunnel>, Option<Sender<Settling>>),
}

/// How a user's wait ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum UserEnd {
    /// A tunnel has it.
    Served,
    /// A newcomer has its place.
    Replaced,
    /// The daemon stops, and no tunnel is left for it.
    Stopping,
    /// It left, or broke.
    Left,
    /// Nobody was free in time.
    TimedOut,
    /// Its tunnel was dead, and no other is idle.
    Abandoned,
}

/// Where a `T` waits. It sits there, and is gone from it once its wait has ended.
pub struct Seat<T, E> {
    /// Who waits; `None` once taken.
    pub occupant: RefCell<Option<T>>,
    end: RefCell<Option<E>>,
    waker: RefCell<Option<Waker>>,
}

impl<T, E> Seat<T, E> {
    pub(super) fn new(occupant: T) -> Self {
        Seat {
            occupant: RefCell::new(Some(occupant)),
            end: RefCell::new(None),
            waker: RefCell::new(None),
        }
    }

    /// Ends the wait.
    pub(super) fn settle(&self, end: E) {
        self.end.replace(Some(end));
        self.wake();
    }

    /// Has the task of who waits look again.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// How the wait was ended by somebody else, once it was.
    pub fn poll_end(&self, context: &Context<'_>) -> Poll<E> {
        if let Some(end) = self.end.take() {
            return Poll::Ready(end);
        }
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}
