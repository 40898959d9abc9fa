//! Who waits for whom on one mapping: idle tunnels, and users or the other side's tunnels
//! (protocol page, section 6).
//!
//! Each of them has a [`Seat`] here and a task of its own that listens to it while it waits.
//! [`Pairing::pair`] joins the ones that fit: it takes the partner off its seat and puts it on
//! the tunnel's, whose task goes on with both. Nothing can fail between.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Instant;

use crate::limits;
use crate::reactor::now;
use crate::tunnel::{Tunnel, Version};
use crate::user::User;

/// The waiting of one mapping.
pub struct Pairing {
    public: bool,
    next: Cell<u64>,
    tunnels: [Queue<Box<Tunnel>, Verdict>; 2],
    users: Queue<Box<User>, Fate>,
    /// Until when version 1 tunnels must be quiet for a while before a user gets them.
    wary_until: Cell<Option<Instant>>,
    /// Users that have spoken and wait: relays end their lingering sooner for them.
    wanted: Arc<AtomicUsize>,
    closed: Cell<bool>,
}

type Queue<T, V> = RefCell<BTreeMap<u64, Rc<Seat<T, V>>>>;

/// What becomes of a waiting tunnel.
pub enum Verdict {
    /// It carries this partner's session.
    Paired(Partner),
    /// The other side's task has it now.
    Taken,
    /// A newcomer has its place.
    Replaced,
}

/// A tunnel's other end.
pub enum Partner {
    /// Of a public pipe.
    User(Box<User>),
    /// Of a private pipe: the other side's.
    Tunnel(Box<Tunnel>),
}

/// What becomes of a waiting user.
pub enum Fate {
    /// A tunnel has it.
    Served,
    /// A newcomer has its place.
    Replaced,
}

/// A place to wait at. Whoever waits sits on it, and is gone from it once there is a verdict.
pub struct Seat<T, V> {
    /// Who waits; `None` once taken.
    pub occupant: RefCell<Option<T>>,
    verdict: RefCell<Option<V>>,
    waker: RefCell<Option<Waker>>,
}

/// A seat in a queue, left when dropped.
pub struct Waiting<'a, T, V> {
    queue: &'a Queue<T, V>,
    number: u64,
    seat: Rc<Seat<T, V>>,
}

impl<T, V> Seat<T, V> {
    fn settle(&self, verdict: V) {
        self.verdict.replace(Some(verdict));
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The verdict, if there is one; else the polling task is woken when it comes.
    pub fn verdict(&self, context: &Context<'_>) -> Option<V> {
        let verdict = self.verdict.take();
        if verdict.is_none() {
            let mut waker = self.waker.borrow_mut();
            match &mut *waker {
                Some(waker) => waker.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
        }
        verdict
    }
}

impl<T, V> std::ops::Deref for Waiting<'_, T, V> {
    type Target = Seat<T, V>;

    fn deref(&self) -> &Self::Target {
        &self.seat
    }
}

impl<T, V> Drop for Waiting<'_, T, V> {
    fn drop(&mut self) {
        self.queue.borrow_mut().remove(&self.number);
    }
}

impl Pairing {
    /// Nobody waits yet.
    pub fn new(public: bool, wanted: Arc<AtomicUsize>) -> Self {
        Pairing {
            public,
            next: Cell::new(0),
            tunnels: Default::default(),
            users: Queue::default(),
            wary_until: Cell::new(None),
            wanted,
            closed: Cell::new(false),
        }
    }

    fn sit<'a, T, V>(&self, queue: &'a Queue<T, V>, occupant: T) -> Waiting<'a, T, V> {
        let number = self.next.get();
        self.next.set(number + 1);
        let seat = Rc::new(Seat {
            occupant: RefCell::new(Some(occupant)),
            verdict: RefCell::new(None),
            waker: RefCell::new(None),
        });
        queue.borrow_mut().insert(number, seat.clone());
        Waiting { queue, number, seat }
    }

    /// A tunnel of port1 (side 0) or port2 (side 1) begins to wait.
    pub fn tunnel(&self, side: usize, tunnel: Box<Tunnel>) -> Waiting<'_, Box<Tunnel>, Verdict> {
        self.sit(&self.tunnels[side], tunnel)
    }

    /// A user begins to wait; given back when `limit` do already, no tunnel is there for it at
    /// once, and none of those that wait makes room. With `mute_in_vain` the one that waits longest
    /// of those that have sent nothing does, for a newcomer that has sent something.
    pub fn user(
        &self,
        user: Box<User>,
        limit: usize,
        mute_in_vain: bool,
    ) -> Result<Waiting<'_, Box<User>, Fate>, Box<User>> {
        let full = self.users.borrow().len() >= limit;
        let served = || {
            let tunnels = self.tunnels[0].borrow();
            tunnels.values().any(|seat| self.fits(seat, Some(user.has_spoken)))
        };
        let room = || !full || served() || (mute_in_vain && self.replace_mute());
        if self.closed.get() || !room() {
            return Err(user);
        }
        Ok(self.sit(&self.users, user))
    }

    /// Takes the place of the user that waits longest of those that have sent nothing; `false`
    /// if all have.
    fn replace_mute(&self) -> bool {
        let mut users = self.users.borrow_mut();
        let is_mute = |seat: &Seat<Box<User>, Fate>| {
            seat.occupant.borrow().as_ref().is_some_and(|user| !user.has_spoken)
        };
        let mute = users.iter().find(|(_, seat)| is_mute(seat)).map(|(number, _)| *number);
        let Some(seat) = mute.and_then(|number| users.remove(&number)) else { return false };
        if let Some(user) = seat.occupant.take() {
            user.stream.part();
        }
        seat.settle(Fate::Replaced);
        true
    }

    /// Nobody is paired from now on: the daemon is stopping.
    pub fn close(&self) {
        self.closed.set(true);
    }

    /// Whether nobody is paired any more.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// A user left an agent that was still sending: the rest of the answer may show itself on a
    /// fresh tunnel.
    pub fn be_wary(&self) {
        self.wary_until.set(Some(now() + limits::WARY));
    }

    /// When `tunnel` has been quiet for long enough, if that matters now and is still to come.
    pub fn quiet_at(&self, tunnel: &Tunnel) -> Option<Instant> {
        let wary = self.wary_until.get().is_some_and(|until| now() < until);
        let quiet = tunnel.quiet_since() + limits::QUIET;
        (wary && self.public && tunnel.version == Version::One && now() < quiet).then_some(quiet)
    }

    /// Tunnels that wait on a side.
    pub fn idle(&self, side: usize) -> usize {
        self.tunnels[side].borrow().len()
    }

    /// Users that wait.
    pub fn waiting_users(&self) -> usize {
        self.users.borrow().len()
    }

    /// Takes the place of the tunnel of `side` that is most overdue; `false` if none is.
    pub fn replace_overdue(&self, side: usize) -> bool {
        let mut queue = self.tunnels[side].borrow_mut();
        let now = now();
        let most = queue
            .iter()
            .filter_map(|(number, seat)| {
                let by = seat.occupant.borrow().as_ref()?.overdue_by(now)?;
                Some((by, *number))
            })
            .max();
        let Some(seat) = most.and_then(|(_, number)| queue.remove(&number)) else { return false };
        seat.settle(Verdict::Replaced);
        // Its place is free at once, so that one newcomer takes one place.
        if let Some(tunnel) = seat.occupant.take() {
            tunnel.stream.part();
        }
        true
    }

    /// Has the machines of the tunnels that wait on a side asked whether they still know of them,
    /// those that were asked within the last second excepted.
    pub fn probe(&self, side: usize) {
        for seat in self.tunnels[side].borrow().values() {
            if let Some(tunnel) = seat.occupant.borrow_mut().as_mut() {
                if tunnel.probe() {
                    // Its task ends the asking.
                    seat.wake();
                }
            }
        }
    }

    /// Joins what fits if the tunnel on `seat` is fit itself; else it has changed nothing, and
    /// a thousand waiting tunnels need not all look at each other.
    pub fn offer(&self, seat: &Seat<Box<Tunnel>, Verdict>) {
        if self.fits(seat, None) {
            self.pair();
        }
    }

    /// Joins all that fit. Called whenever somebody comes, or becomes fit.
    pub fn pair(&self) {
        if self.closed.get() {
            return;
        }
        if self.public {
            self.pair_users()
        } else {
            self.pair_sides()
        }
        let users = self.users.borrow();
        let spoken = |seat: &&Rc<Seat<Box<User>, Fate>>| {
            seat.occupant.borrow().as_ref().is_some_and(|user| user.has_spoken)
        };
        self.wanted.store(users.values().filter(spoken).count(), Ordering::Relaxed);
    }

    /// Users in order of arrival, each with the tunnel that has been idle longest.
    fn pair_users(&self) {
        let mut users = self.users.borrow_mut();
        let mut tunnels = self.tunnels[0].borrow_mut();
        if users.is_empty() || tunnels.is_empty() {
            return;
        }
        // Whether a mute user, and one that has spoken, may still find a tunnel.
        let mut hopeful = [true; 2];
        users.retain(|_, waiting| {
            let Some(spoken) = waiting.occupant.borrow().as_ref().map(|user| user.has_spoken)
            else {
                return false;
            };
            if !hopeful[usize::from(spoken)] {
                return true;
            }
            let free = tunnels.iter().find(|(_, seat)| self.fits(seat, Some(spoken)));
            let Some(number) = free.map(|(number, _)| *number) else {
                hopeful[usize::from(spoken)] = false;
                return true;
            };
            let (Some(tunnel), Some(user)) = (tunnels.remove(&number), waiting.occupant.take())
            else {
                return true;
            };
            tunnel.settle(Verdict::Paired(Partner::User(user)));
            waiting.settle(Fate::Served);
            false
        });
    }

    /// The tunnel waiting longest on port1 with the one waiting longest on port2.
    fn pair_sides(&self) {
        let [one, two] = &self.tunnels;
        let (mut one, mut two) = (one.borrow_mut(), two.borrow_mut());
        loop {
            let first = one.iter().find(|(_, seat)| self.fits(seat, None));
            let second = two.iter().find(|(_, seat)| self.fits(seat, None));
            let (Some((&first, _)), Some((&second, _))) = (first, second) else { return };
            let (Some(first), Some(second)) = (one.remove(&first), two.remove(&second)) else {
                return;
            };
            if let Some(tunnel) = second.occupant.take() {
                second.settle(Verdict::Taken);
                first.settle(Verdict::Paired(Partner::Tunnel(tunnel)));
            }
        }
    }

    /// Whether the tunnel on `seat` can carry a session now, for a user that has spoken or not.
    fn fits(&self, seat: &Seat<Box<Tunnel>, Verdict>, spoken: Option<bool>) -> bool {
        let occupant = seat.occupant.borrow();
        let Some(tunnel) = occupant.as_ref() else { return false };
        // What came in and nobody has looked at yet may be its end, or the rest of an old
        // answer: its task looks at it first and calls `pair` again.
        !tunnel.is_unheard()
            && tunnel.overdue_by(now()).is_none()
            && (spoken != Some(false) || tunnel.version == Version::Two)
            && self.quiet_at(tunnel).is_none()
            && !(tunnel.is_amid_heartbeat() && (self.public || tunnel.version == Version::Two))
    }
}
