//! Those that wait for each other on one mapping: idle tunnels, and users or the other side's
//! tunnels (protocol page, section 6).
//!
//! Each of them has a [`Seat`] here and a task of its own that listens to it while it waits.
//! [`Pairing::pair`] joins the ones that fit: it takes the partner off its seat and puts it on
//! the tunnel's, whose task goes on with both. Nothing can fail between. Who is next is the
//! [`order`]'s to say.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use event_listener::Event;
use smol::channel;

use crate::limits;
use crate::pipes::tunnel::Tunnel;
use crate::pipes::user::User;
use crate::runtime::{Numbered, now};
use crate::session::Missing;
use crate::wire::greeting::Version;
use order::{Number, Order, Pair, Standing};
use seat::Seat;
use suspects::Suspects;
use wariness::Wariness;

mod order;
mod seat;
mod suspects;
mod users;
mod waiting;
mod wariness;

pub use seat::{Partner, TunnelEnd, UserEnd};

/// The waiting of one mapping.
pub struct Pairing {
    public: bool,
    next: Cell<Number>,
    tunnels: [Seats<Box<Tunnel>, TunnelEnd>; 2],
    users: Seats<Box<User>, UserEnd>,
    order: RefCell<Order>,
    /// How long version 1 tunnels must be quiet before a user gets them.
    wariness: Cell<Wariness>,
    /// Where tunnels of version 3 were dead.
    suspects: RefCell<Suspects>,
    /// Sessions on version 3 tunnels of port1: where each is, and when it began.
    sessions: RefCell<Numbered<(IpAddr, Instant)>>,
    closed: Cell<bool>,
    /// Users for whom there is no seat, in line for one.
    in_line: Cell<usize>,
    /// For the first of those in line: a user has left, or a tunnel is there that no user on a
    /// seat can have.
    moved_on: Event,
    /// The same for the task that accepts users.
    room: Event,
}

type Seats<T, E> = RefCell<Numbered<Rc<Seat<T, E>>>>;

/// Whose seat it is.
#[derive(Clone, Copy)]
enum Whose {
    /// A tunnel's, of this side.
    Tunnel(usize),
    /// A user's.
    User,
}

/// A seat that is taken, left when dropped.
pub struct Waiting<'a, T, E> {
    pairing: &'a Pairing,
    seats: &'a Seats<T, E>,
    whose: Whose,
    number: Number,
    seat: Rc<Seat<T, E>>,
}

impl<T, E> std::ops::Deref for Waiting<'_, T, E> {
    type Target = Seat<T, E>;

    fn deref(&self) -> &Self::Target {
        &self.seat
    }
}

impl<T, E> Drop for Waiting<'_, T, E> {
    fn drop(&mut self) {
        let mut seats = self.seats.borrow_mut();
        // A user whose tunnel was dead may sit there again by now, on a seat of its own.
        let is_own = |seat: &Rc<_>| Rc::ptr_eq(seat, &self.seat);
        let is_left = seats.get(self.number).is_none_or(is_own);
        if is_left {
            seats.remove(self.number);
        }
        drop(seats);
        let mut order = self.pairing.order.borrow_mut();
        match self.whose {
            Whose::Tunnel(side) => order.tunnel_left(side, self.number),
            Whose::User => {
                if is_left {
                    order.user_left(self.number);
                }
                self.pairing.moved_on.notify_additional(1);
                self.pairing.room.notify(1);
            }
        }
    }
}

/// A session on a version 3 tunnel, until this is dropped.
pub struct InSession<'a>(&'a Pairing, Number);

impl Drop for InSession<'_> {
    fn drop(&mut self) {
        self.0.sessions.borrow_mut().remove(self.1);
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
            wariness: Cell::default(),
            suspects: RefCell::default(),
            sessions: RefCell::default(),
            closed: Cell::new(false),
            in_line: Cell::new(0),
            moved_on: Event::new(),
            room: Event::new(),
        }
    }

    /// The number of the next one that comes.
    fn next_number(&self) -> Number {
        self.next.replace(self.next.get() + 1)
    }

    fn sit<'a, T, E>(
        &'a self,
        seats: &'a Seats<T, E>,
        whose: Whose,
        number: Number,
        occupant: T,
    ) -> Waiting<'a, T, E> {
        let seat = Rc::new(Seat::new(occupant));
        seats.borrow_mut().insert(number, seat.clone());
        Waiting { pairing: self, seats, whose, number, seat }
    }

    /// A tunnel of port1 (side 0) or port2 (side 1) begins to wait. It is joined with nobody
    /// before its first [`offer`](Self::offer).
    pub fn tunnel(&self, side: usize, tunnel: Box<Tunnel>) -> Waiting<'_, Box<Tunnel>, TunnelEnd> {
        self.sit(&self.tunnels[side], Whose::Tunnel(side), self.next_number(), tunnel)
    }

    /// The daemon is stopping: tunnels of a private pipe are not paired from now on, and users only
    /// as long as tunnels wait.
    pub fn close(&self) {
        self.closed.set(true);
        self.moved_on.notify(usize::MAX);
        self.pair();
    }

    /// Whether the daemon is stopping.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Old answers may come on fresh tunnels.
    pub fn be_wary(&self) {
        self.note(|wariness, now| wariness.begin(now));
    }

    /// No old answers come on fresh tunnels, but for those of tunnels that were lost here.
    pub fn calm(&self) {
        self.note(|wariness, _| wariness.calm());
        self.look_anew();
    }

    /// Whether a fresh tunnel need not be quiet first.
    pub fn is_calm(&self) -> bool {
        self.wariness.get().quiet(true, now()).is_zero()
    }

    /// A tunnel is gone on which this was still to come: it may come on a fresh one.
    pub fn lost(&self, missing: Missing) {
        self.note(|wariness, now| wariness.lost(missing, now));
    }

    /// An old answer comes on a fresh tunnel. It may not be the only one.
    pub fn found(&self) {
        self.note(|wariness, now| wariness.found(now));
        // Others need not be quiet for as long now, perhaps.
        self.look_anew();
    }

    /// Something has changed that those that wait go by: their tasks look again.
    pub fn look_anew(&self) {
        for side in &self.tunnels {
            side.borrow().iter().for_each(|(_, seat)| seat.wake());
        }
    }

    /// A tunnel that was taken for clean has sent bytes after all, so long after the last ones.
    pub fn learn(&self, late: Duration) {
        self.note(|wariness, now| wariness.learn(late, now));
    }

    /// A version 3 tunnel of `address` was dead, which a session was to begin on `at` this time: others of this
    /// address may be dead, too, before they are heard again.
    pub fn found_dead(&self, address: IpAddr, at: Instant) {
        self.suspects.borrow_mut().add(address, at);
    }

    /// Whether a session may begin on a version 3 tunnel, and it is not likely to be dead; any other one may have it.
    fn may_be_opened(&self, tunnel: &Tunnel) -> bool {
        tunnel.version != Version::Three || !(tunnel.is_bid_farewell() || self.is_suspect(tunnel))
    }

    fn is_suspect(&self, tunnel: &Tunnel) -> bool {
        self.suspects.borrow().has(tunnel.peer.ip(), tunnel.rhythm.last_heard())
    }

    /// Whether a tunnel is more likely to be dead than others of version 3.
    pub fn is_doubtful(&self, tunnel: &Tunnel) -> bool {
        let is_overdue = || tunnel.overdue_at().is_some_and(|at| at < now());
        tunnel.version == Version::Three && (self.is_suspect(tunnel) || is_overdue())
    }

    /// The version 3 tunnel that was heard last, of those that wait on port1 and may be dead.
    fn doubtful(&self) -> Option<Number> {
        let tunnels = self.tunnels[0].borrow();
        let doubtful = tunnels.iter().filter_map(|(number, seat)| {
            let occupant = seat.occupant.borrow();
            let tunnel = occupant.as_ref().filter(|tunnel| self.is_doubtful(tunnel))?;
            // What has come is looked at first.
            let is_there = !(tunnel.is_unheard() || tunnel.has_ended() || tunnel.is_bid_farewell());
            is_there.then(|| (tunnel.rhythm.last_heard(), number))
        });
        doubtful.max().map(|(_, number)| number)
    }

    /// Whether version 3 tunnels wait on port1 that may be dead.
    pub fn is_in_doubt(&self) -> bool {
        self.doubtful().is_some()
    }

    /// Gives a user that waits, and for whom no other tunnel does, one that may be dead: the one that was heard last.
    /// Once all that has come from tunnels was looked at.
    pub fn pair_in_doubt(&self, waiting: &Waiting<'_, Box<User>, UserEnd>) {
        let partner = waiting.number;
        if let Some(tunnel) = self.doubtful().filter(|_| waiting.occupant.borrow().is_some()) {
            let mut order = self.order.borrow_mut();
            order.tunnel_left(0, tunnel);
            order.user_left(partner);
            drop(order);
            self.join_user(Pair { tunnel, partner });
        }
    }

    /// A session begins on a version 3 tunnel of `address` on port1; it is over when this is dropped.
    pub fn session(&self, address: IpAddr) -> InSession<'_> {
        let number = self.next_number();
        self.sessions.borrow_mut().insert(number, (address, now()));
        InSession(self, number)
    }

    /// Whether a version 3 tunnel of port1 is in a session, at an address of which none was found dead since it began.
    pub fn has_living_session(&self) -> bool {
        let suspects = self.suspects.borrow();
        let sessions = self.sessions.borrow();
        sessions.iter().any(|(_, (address, since))| !suspects.has(*address, *since))
    }

    fn note(&self, change: impl FnOnce(&mut Wariness, Instant)) {
        let mut wariness = self.wariness.get();
        change(&mut wariness, now());
        self.wariness.set(wariness);
    }

    /// When `tunnel` has been quiet for long enough, if that matters now and is still to come.
    pub fn quiet_at(&self, tunnel: &Tunnel) -> Option<Instant> {
        if !self.public || tunnel.version != Version::One {
            return None;
        }
        let now = now();
        let quiet = self.wariness.get().quiet(tunnel.is_fresh(), now);
        Some(tunnel.quiet_since() + quiet).filter(|at| now < *at)
    }

    /// Whether the rest of a heartbeat is still to come: nobody must be paired with it. What a version
    /// 1 agent of a private pipe has begun may be bytes for its partner, if the rest does not come.
    fn is_amid_heartbeat(&self, tunnel: &Tunnel) -> bool {
        tunnel
            .beat_due()
            .is_some_and(|at| self.public || tunnel.version == Version::Two || now() < at)
    }

    /// Tunnels that wait on a side.
    pub fn idle(&self, side: usize) -> usize {
        self.tunnels[side].borrow().len()
    }

    /// Whether a tunnel waits on port1 on which a session may still begin.
    pub fn has_tunnel(&self) -> bool {
        let waits = |seat: &Seat<Box<Tunnel>, TunnelEnd>| {
            seat.occupant.borrow().as_ref().is_some_and(|tunnel| !tunnel.is_bid_farewell())
        };
        self.tunnels[0].borrow().iter().any(|(_, seat)| waits(seat))
    }

    /// Takes the slot of the tunnel of `side` that is most overdue; `false` if none is.
    pub fn replace_overdue(&self, side: usize) -> bool {
        let number = loop {
            let first = self.order.borrow().most_overdue(side, now());
            let Some(number) = first else { return false };
            match self.look(side, number) {
                // The list was wrong about it, or nobody has looked at what it has sent since.
                Some(standing) if standing.overdue_at.is_none_or(|at| now() <= at) => {
                    self.order.borrow_mut().tunnel(side, number, standing);
                }
                _ => break number,
            }
        };
        self.order.borrow_mut().tunnel_left(side, number);
        let Some(seat) = self.tunnels[side].borrow_mut().remove(number) else { return false };
        seat.settle(TunnelEnd::Replaced);
        // Its slot is free at once, so that one newcomer takes one slot.
        if let Some(tunnel) = seat.occupant.take() {
            if tunnel.slot.is_unanswered() {
                self.lost(Missing::Answer);
            }
            tunnel.stream.close();
        }
        true
    }

    /// Gives up tunnels that wait on a side, `most` at most, so that `kept` are left, which are the first to be given to
    /// somebody: agents of version 3 are told, and close theirs. Those that owe an answer only if `all` may go.
    pub fn give_up(&self, side: usize, kept: usize, most: usize, all: bool) {
        let seats = &self.tunnels[side];
        let may_go = |seat: &Seat<Box<Tunnel>, TunnelEnd>| {
            let occupant = seat.occupant.borrow();
            occupant.as_ref().is_some_and(|tunnel| {
                !tunnel.is_bid_farewell() && (all || !tunnel.slot.is_unanswered())
            })
        };
        let waiting = seats.borrow();
        let going = waiting.iter().filter(|(_, seat)| may_go(seat));
        let going = going.map(|(number, seat)| (number, seat.clone()));
        let is_fit =
            |seat: &Rc<Seat<_, _>>| self.standing(seat).is_some_and(|standing| standing.fit);
        let (mut going, rest): (Vec<_>, Vec<_>) = going.partition(|pair| is_fit(&pair.1));
        drop(waiting);
        // Of the others those that wait longest are fit soonest.
        going.extend(rest);
        for (number, seat) in going.into_iter().skip(kept).take(most) {
            let mut occupant = seat.occupant.borrow_mut();
            match &mut *occupant {
                Some(tunnel) if tunnel.version == Version::Three => {
                    tunnel.say_bye();
                    drop(occupant);
                    // Its task sends it.
                    seat.wake();
                }
                tunnel => {
                    self.order.borrow_mut().tunnel_left(side, number);
                    seats.borrow_mut().remove(number);
                    if let Some(tunnel) = tunnel.take() {
                        tunnel.stream.close();
                    }
                    drop(occupant);
                    seat.settle(TunnelEnd::GivenUp);
                }
            }
        }
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
    pub fn offer(&self, waiting: &Waiting<'_, Box<Tunnel>, TunnelEnd>) {
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
        if self.closed.get() && !self.has_tunnel() {
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
            if let Some(mut user) = waiting.occupant.take() {
                user.asked = None;
                tunnel.settle(TunnelEnd::Paired(Partner::User(user)));
                waiting.settle(UserEnd::Served);
            }
        }
    }

    fn join_sides(&self, Pair { tunnel, partner }: Pair) {
        let [one, two] = &self.tunnels;
        let (first, second) = (one.borrow_mut().remove(tunnel), two.borrow_mut().remove(partner));
        if let (Some(first), Some(second)) = (first, second) {
            if let Some(tunnel) = second.occupant.take() {
                let goes_on = tunnel.version == Version::Three;
                let (back, given_back) = goes_on.then(|| channel::bounded(1)).unzip();
                second.settle(TunnelEnd::Taken(given_back));
                first.settle(TunnelEnd::Paired(Partner::Tunnel(tunnel, back)));
            }
        }
    }

    fn look(&self, side: usize, number: Number) -> Option<Standing> {
        let seats = self.tunnels[side].borrow();
        let seat = seats.get(number)?;
        let standing = self.standing(seat)?;
        if !standing.fit {
            // Its task knows when it is fit again, which may depend on what another tunnel has just
            // shown; until the task has checked, it is not asked again.
            seat.wake();
        }
        Some(standing)
    }

    /// What the tunnel on `seat` is now.
    fn standing(&self, seat: &Seat<Box<Tunnel>, TunnelEnd>) -> Option<Standing> {
        let occupant = seat.occupant.borrow();
        let tunnel = occupant.as_ref()?;
        let overdue_at = tunnel.overdue_at();
        // What came in and nobody has looked at yet may be its end, or the rest of an old
        // answer: its task looks at it first and offers it again.
        let fit = !tunnel.is_unheard()
            && (tunnel.has_ended() || overdue_at.is_none_or(|at| now() <= at))
            && self.quiet_at(tunnel).is_none()
            && !self.is_amid_heartbeat(tunnel)
            && self.may_be_opened(tunnel);
        let overdue_at = overdue_at.filter(|_| !tunnel.is_unheard());
        let (version, asked) = (tunnel.version, tunnel.is_probed());
        let used_last = tunnel.slot.is_unanswered();
        let heard_at = (version == Version::Three).then(|| tunnel.rhythm.last_heard());
        Some(Standing { version, fit, used_last, heard_at, overdue_at, asked })
    }
}
