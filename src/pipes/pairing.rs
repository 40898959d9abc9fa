//! Who waits for whom on one mapping: idle tunnels, and users or the other side's tunnels
//! (protocol page, section 6).
//!
//! Each of them has a [`Seat`] here and a task of its own that listens to it while it waits.
//! [`Pairing::pair`] joins the ones that fit: it takes the partner off its seat and puts it on
//! the tunnel's, whose task goes on with both. Nothing can fail between. Who is next is the
//! [`order`]'s to say.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use event_listener::{Event, EventListener};

use crate::limits;
use crate::pipes::tunnel::Tunnel;
use crate::pipes::user::User;
use crate::runtime::{Numbered, now};
use crate::session::Missing;
use crate::wire::greeting::Version;
use order::{Number, Order, Pair, Standing};

mod order;

/// The waiting of one mapping.
pub struct Pairing {
    public: bool,
    next: Cell<Number>,
    tunnels: [Seats<Box<Tunnel>, Verdict>; 2],
    users: Seats<Box<User>, Fate>,
    order: RefCell<Order>,
    /// Why fresh version 1 tunnels must be quiet for a while before a user gets them.
    wary: Cell<Option<Wary>>,
    /// How long every version 1 tunnel must be quiet, and until when that holds: one was taken for
    /// clean, and was not.
    lesson: Cell<Option<(Duration, Instant)>>,
    closed: Cell<bool>,
    /// Users for whom there is no seat, in line for one.
    in_line: Cell<usize>,
    /// For the first of those in line: a user has left, or a tunnel is there that no user on a
    /// seat can have.
    moved_on: Event,
    /// The same for who accepts users.
    room: Event,
}

/// Answers whose tunnels are gone, and that may come on fresh ones.
#[derive(Clone, Copy)]
struct Wary {
    until: Instant,
    /// Tunnels that are gone so, less those on which such an answer has come since.
    lost: usize,
    /// Whether one of them owed all of its answer.
    owed: bool,
}

/// A user's place in the line for a seat, given back when dropped.
pub struct InLine<'a>(&'a Cell<usize>);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

type Seats<T, V> = RefCell<Numbered<Rc<Seat<T, V>>>>;

/// Whose seat it is.
#[derive(Clone, Copy)]
enum Whose {
    /// A tunnel's, of this side.
    Tunnel(usize),
    /// A user's.
    User,
}

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
    /// The daemon stops, and no tunnel is left for it.
    Stopping,
}

/// A place to wait at. Whoever waits sits on it, and is gone from it once there is a verdict.
pub struct Seat<T, V> {
    /// Who waits; `None` once taken.
    pub occupant: RefCell<Option<T>>,
    verdict: RefCell<Option<V>>,
    waker: RefCell<Option<Waker>>,
}

/// A seat that is taken, left when dropped.
pub struct Waiting<'a, T, V> {
    pairing: &'a Pairing,
    seats: &'a Seats<T, V>,
    whose: Whose,
    number: Number,
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
        self.seats.borrow_mut().remove(self.number);
        let mut order = self.pairing.order.borrow_mut();
        match self.whose {
            Whose::Tunnel(side) => order.tunnel_left(side, self.number),
            Whose::User => {
                order.user_left(self.number);
                self.pairing.moved_on.notify_additional(1);
                self.pairing.room.notify(1);
            }
        }
    }
}

impl Pairing {
    /// Nobody waits yet.
    pub fn new(public: bool) -> Self {
        Pairing {
            public,
            next: Cell::new(0),
            tunnels: Default::default(),
            users: Seats::default(),
            order: RefCell::new(Order::new(public)),
            wary: Cell::new(None),
            lesson: Cell::new(None),
            closed: Cell::new(false),
            in_line: Cell::new(0),
            moved_on: Event::new(),
            room: Event::new(),
        }
    }

    fn sit<'a, T, V>(
        &'a self,
        seats: &'a Seats<T, V>,
        whose: Whose,
        occupant: T,
    ) -> Waiting<'a, T, V> {
        let number = self.next.get();
        self.next.set(number + 1);
        let seat = Rc::new(Seat {
            occupant: RefCell::new(Some(occupant)),
            verdict: RefCell::new(None),
            waker: RefCell::new(None),
        });
        seats.borrow_mut().insert(number, seat.clone());
        Waiting { pairing: self, seats, whose, number, seat }
    }

    /// A tunnel of port1 (side 0) or port2 (side 1) begins to wait. It is joined with nobody
    /// before its first [`offer`](Self::offer).
    pub fn tunnel(&self, side: usize, tunnel: Box<Tunnel>) -> Waiting<'_, Box<Tunnel>, Verdict> {
        self.sit(&self.tunnels[side], Whose::Tunnel(side), tunnel)
    }

    /// A user begins to wait; given back when `limit` do already, no tunnel is there for it at
    /// once, and none of those that wait makes room. With `silent_in_vain` the one that waits longest
    /// of those that have sent nothing does, for a newcomer that has sent something; before it, the
    /// one that waits longest of those that have ended their direction. While others are in line, the
    /// limit counts as reached for a user that is not the `first` of them.
    pub fn user(
        &self,
        user: Box<User>,
        limit: usize,
        silent_in_vain: bool,
        first: bool,
    ) -> Result<Waiting<'_, Box<User>, Fate>, Box<User>> {
        let full = if first { self.waiting_users() >= limit } else { self.is_full(limit) };
        let spoken = user.has_spoken;
        let makes_room = || {
            let order = self.order.borrow();
            let ended = order.first_ended().filter(|_| spoken || !silent_in_vain);
            let silent = order.first_silent().filter(|_| spoken && silent_in_vain);
            drop(order);
            self.replace_user(ended.or(silent))
        };
        let room = || match self.closed.get() {
            true => self.serves(spoken),
            false => !full || self.serves(spoken) || makes_room(),
        };
        if !room() {
            return Err(user);
        }
        let waiting = self.sit(&self.users, Whose::User, user);
        self.order_user(waiting.number, spoken);
        Ok(waiting)
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

    /// A user gets in line for a seat.
    pub fn line_up(&self) -> InLine<'_> {
        self.in_line.set(self.in_line.get() + 1);
        InLine(&self.in_line)
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
    pub fn spoke(&self, waiting: &Waiting<'_, Box<User>, Fate>) {
        if let Some(user) = waiting.occupant.borrow_mut().as_mut() {
            user.has_spoken = true;
            self.order_user(waiting.number, true);
        }
        self.pair();
    }

    /// The waiting user has ended its direction: it may have gone, and is the first to make room.
    pub fn user_ended(&self, waiting: &Waiting<'_, Box<User>, Fate>) {
        self.order.borrow_mut().user_ended(waiting.number);
        self.moved_on.notify_additional(1);
        self.room.notify(1);
    }

    fn order_user(&self, number: Number, spoken: bool) {
        self.order.borrow_mut().user(number, spoken);
    }

    /// Takes the place of this user; `false` if there is none.
    fn replace_user(&self, number: Option<Number>) -> bool {
        let Some(seat) = number.and_then(|number| self.unseat_user(number)) else { return false };
        if let Some(user) = seat.occupant.take() {
            user.stream.close();
        }
        seat.settle(Fate::Replaced);
        true
    }

    fn unseat_user(&self, number: Number) -> Option<Rc<Seat<Box<User>, Fate>>> {
        self.order.borrow_mut().user_left(number);
        self.users.borrow_mut().remove(number)
    }

    /// The daemon is stopping: tunnels of a private pipe are not paired from now on, and users only
    /// as long as tunnels wait.
    pub fn close(&self) {
        self.closed.set(true);
        self.moved_on.notify(usize::MAX);
        self.pair();
    }

    /// Closes the users that wait, those that have sent something only with `all`.
    pub fn dismiss(&self, all: bool) {
        let is_silent = |seat: &Seat<Box<User>, Fate>| {
            seat.occupant.borrow().as_ref().is_none_or(|user| !user.has_spoken)
        };
        let users = self.users.borrow();
        let goes = users.iter().filter(|(_, seat)| all || is_silent(seat));
        let goes: Vec<_> = goes.map(|(number, _)| number).collect();
        drop(users);
        for seat in goes.into_iter().filter_map(|number| self.unseat_user(number)) {
            if let Some(user) = seat.occupant.take() {
                user.stream.close();
            }
            seat.settle(Fate::Stopping);
        }
    }

    /// Whether the daemon is stopping.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Old answers may show themselves on fresh tunnels.
    pub fn be_wary(&self) {
        self.be_wary_of(|_| {});
    }

    /// A tunnel is gone on which this was still to come: it may come on a fresh one.
    pub fn lost(&self, missing: Missing) {
        if missing != Missing::Nothing {
            self.be_wary_of(|wary| {
                wary.lost += 1;
                wary.owed |= missing == Missing::Answer;
            });
        }
    }

    /// An old answer comes on a fresh tunnel. It may not be the only one.
    pub fn found(&self) {
        self.be_wary_of(|wary| {
            wary.lost = wary.lost.saturating_sub(1);
            wary.owed &= wary.lost > 0;
        });
        // Others need not be quiet for as long now, perhaps.
        self.tunnels[0].borrow().iter().for_each(|(_, seat)| seat.wake());
    }

    fn be_wary_of(&self, what: impl FnOnce(&mut Wary)) {
        let now = now();
        let until = now + limits::WARY;
        let known = self.wary.get().filter(|wary| now < wary.until);
        let mut wary = known.unwrap_or(Wary { until, lost: 0, owed: false });
        what(&mut wary);
        self.wary.set(Some(Wary { until, ..wary }));
    }

    /// A tunnel that was taken for clean has sent bytes after all, so long after the last ones.
    pub fn learn(&self, late: Duration) {
        let quiet = (2 * late).min(limits::LESSON_QUIET);
        let known = self.lesson.get().filter(|(_, until)| now() < *until);
        let quiet = known.map_or(quiet, |(known, _)| known.max(quiet));
        self.lesson.set(Some((quiet, now() + limits::LESSON)));
    }

    /// When `tunnel` has been quiet for long enough, if that matters now and is still to come.
    pub fn quiet_at(&self, tunnel: &Tunnel) -> Option<Instant> {
        if !self.public || tunnel.version != Version::One {
            return None;
        }
        let now = now();
        let wary = self.wary.get().filter(|wary| tunnel.is_fresh() && now < wary.until);
        let wary = match wary {
            Some(Wary { owed: true, .. }) => limits::QUIET_OWED,
            Some(_) => limits::QUIET_LATE,
            None => Duration::ZERO,
        };
        let lesson = self.lesson.get().filter(|(_, until)| now < *until);
        let quiet = lesson.map_or(wary, |(quiet, _)| quiet.max(wary));
        Some(tunnel.quiet_since() + quiet).filter(|at| now < *at)
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
        let Some(number) = self.order.borrow().most_overdue(side, now()) else { return false };
        self.order.borrow_mut().tunnel_left(side, number);
        let Some(seat) = self.tunnels[side].borrow_mut().remove(number) else { return false };
        seat.settle(Verdict::Replaced);
        // Its place is free at once, so that one newcomer takes one place.
        if let Some(tunnel) = seat.occupant.take() {
            tunnel.stream.close();
        }
        true
    }

    /// Has the machines of some tunnels that wait on a side asked whether they still know of them,
    /// those that wait longest first, and those that were asked within the last second excepted;
    /// whether there may be more.
    pub fn probe(&self, side: usize) -> bool {
        let mut order = self.order.borrow_mut();
        let unasked = order.unasked(side, limits::PROBES);
        for &number in &unasked {
            let seat = self.tunnels[side].borrow().get(number).cloned();
            let asked = seat.as_ref().is_some_and(|seat| {
                seat.occupant.borrow_mut().as_mut().is_some_and(|tunnel| tunnel.probe())
            });
            match self.look(side, number) {
                Some(standing) => order.tunnel(side, number, standing),
                None => order.tunnel_left(side, number),
            }
            if let Some(seat) = seat.filter(|_| asked) {
                // Its task ends the asking.
                seat.wake();
            }
        }
        unasked.len() == limits::PROBES
    }

    /// The task of a waiting tunnel has looked at it: if it is fit, what fits is joined. Called
    /// whenever anything may have changed about it.
    pub fn offer(&self, waiting: &Waiting<'_, Box<Tunnel>, Verdict>) {
        let Whose::Tunnel(side) = waiting.whose else { return };
        let Some(standing) = self.standing(waiting) else { return };
        self.order.borrow_mut().tunnel(side, waiting.number, standing);
        if standing.fit {
            self.pair();
            if self.in_line.get() > 0 && waiting.occupant.borrow().is_some() {
                self.moved_on.notify(usize::MAX);
            }
            self.room.notify(1);
        }
    }

    /// Joins all that fit. Called whenever somebody comes, or becomes fit.
    pub fn pair(&self) {
        if self.closed.get() && !self.public {
            return;
        }
        while let Some(pair) = self.next_match() {
            if self.public { self.join_user(pair) } else { self.join_sides(pair) }
        }
        if self.closed.get() && self.idle(0) == 0 {
            self.dismiss(true);
        }
    }

    fn next_match(&self) -> Option<Pair> {
        self.order.borrow_mut().next(&mut |side, number| self.look(side, number))
    }

    fn join_user(&self, Pair { tunnel, partner }: Pair) {
        let tunnel = self.tunnels[0].borrow_mut().remove(tunnel);
        let user = self.users.borrow_mut().remove(partner);
        if let (Some(tunnel), Some(waiting)) = (tunnel, user) {
            if let Some(user) = waiting.occupant.take() {
                tunnel.settle(Verdict::Paired(Partner::User(user)));
                waiting.settle(Fate::Served);
            }
        }
    }

    fn join_sides(&self, Pair { tunnel, partner }: Pair) {
        let [one, two] = &self.tunnels;
        let (first, second) = (one.borrow_mut().remove(tunnel), two.borrow_mut().remove(partner));
        if let (Some(first), Some(second)) = (first, second) {
            if let Some(tunnel) = second.occupant.take() {
                second.settle(Verdict::Taken);
                first.settle(Verdict::Paired(Partner::Tunnel(tunnel)));
            }
        }
    }

    fn look(&self, side: usize, number: Number) -> Option<Standing> {
        let seats = self.tunnels[side].borrow();
        let seat = seats.get(number)?;
        let standing = self.standing(seat)?;
        if !standing.fit {
            // Its task knows when it is fit again, which may follow from what another one has shown
            // only now; until it has looked, nobody asks again.
            seat.wake();
        }
        Some(standing)
    }

    /// What the tunnel on `seat` is now.
    fn standing(&self, seat: &Seat<Box<Tunnel>, Verdict>) -> Option<Standing> {
        let occupant = seat.occupant.borrow();
        let tunnel = occupant.as_ref()?;
        let overdue_at = tunnel.overdue_at();
        // What came in and nobody has looked at yet may be its end, or the rest of an old
        // answer: its task looks at it first and offers it again.
        let fit = !tunnel.is_unheard()
            && (tunnel.has_ended() || overdue_at.is_none_or(|at| now() <= at))
            && self.quiet_at(tunnel).is_none()
            && !(tunnel.is_amid_heartbeat() && (self.public || tunnel.version == Version::Two));
        let (version, asked) = (tunnel.version, tunnel.is_probed());
        let used_last = tunnel.place.is_unanswered();
        Some(Standing { version, fit, used_last, overdue_at, asked })
    }
}
