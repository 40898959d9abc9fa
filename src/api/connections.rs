//! The API's connections at this moment, and which of them makes room for another one.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use event_listener::Event;
use smol::Task;
use smol::lock::Mutex;

use super::counters::Counters;
use crate::limits;
use crate::net::address::{Stranger, stranger};
use crate::net::handshake::Progress;
use crate::net::share::Share;
use crate::net::vain::Vain;
use crate::os::FileGuard;
use crate::report::status::{reached, refused};
use crate::runtime::{Numbered, look, until};
use crate::text::dump::{Dump, For};

/// Who outlasts whom when places are short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// May not call.
    Stranger,
    /// May call.
    Known,
    /// Is on this machine, on the Unix socket.
    Local,
}

/// The connections at this moment.
pub(super) struct Connections {
    pub(super) open: RefCell<Numbered<Open>>,
    begun: Cell<u64>,
    /// How many there may be, but for those that shake hands.
    pub(super) capacity: usize,
    /// Those that shake hands, and how many there may be.
    shaking: Cell<usize>,
    most_shaking: usize,
    /// Those of each rank that have shaken hands and wait for a place come in one after the other.
    entering: [Mutex<()>; 3],
    /// Strangers whose connections come in vain.
    vain: RefCell<Vain>,
    counters: Rc<Counters>,
    /// One has ended, or has its request answered.
    pub(super) changed: Event,
}

pub(super) struct Open {
    pub(super) state: Rc<State>,
    pub(super) task: Task<()>,
}

/// What decides which connection makes room.
pub(super) struct State {
    rank: Rank,
    /// Whose it is, if it is not this machine's, and it has not got through.
    stranger: Cell<Option<u64>>,
    /// It is one of those that shake hands, and not of the others.
    shaking: Cell<bool>,
    /// A request is being answered.
    pub(super) answering: Cell<bool>,
    /// What is held of its request.
    pub(super) request: RefCell<Share>,
    /// Bytes of an answer that the caller has not taken yet.
    pub(super) held: Cell<usize>,
    /// When the connection began, or had its last request answered.
    pub(super) since: Cell<Instant>,
    /// It has begun to greet or to ask, and its turn with it.
    has_begun: Cell<bool>,
    /// When the connector's turn began, and when its own would have ended without that.
    paused: Cell<Option<(Instant, Instant)>>,
    /// How long it may take to go on.
    turn: Duration,
    turn_ends: Cell<Instant>,
}

impl State {
    /// The state of a new connection over `round_trip`, of which nobody expects more than a stranger's silence if it
    /// comes in `vain`.
    pub(super) fn new(rank: Rank, stranger: Option<u64>, round_trip: Duration, vain: bool) -> Self {
        let now = Instant::now();
        // However far away it says that it is.
        let far = limits::STRANGER_ROUND_TRIPS * round_trip;
        let (turn, first) = match vain {
            true => (limits::VAIN_TURN + far.min(limits::VAIN_FAR), limits::VAIN_TURN),
            false => {
                let turn = (limits::HTTP_TURN + far).min(limits::SLOW_TURN);
                (turn, turn)
            }
        };
        State {
            rank,
            stranger: Cell::new(stranger),
            shaking: Cell::new(false),
            answering: Cell::new(false),
            request: RefCell::new(Share::of_requests()),
            held: Cell::new(0),
            since: Cell::new(now),
            has_begun: Cell::new(false),
            paused: Cell::new(None),
            turn,
            turn_ends: Cell::new(now + first),
        }
    }

    pub(super) fn begin_turn(&self) {
        self.turn_ends.set(Instant::now() + self.turn);
    }

    /// The first bytes of a request have come.
    pub(super) fn asks(&self) {
        if !self.has_begun.replace(true) {
            self.turn_ends.set(self.turn_ends.get().max(self.since.get() + self.turn));
        }
    }

    /// The connector's own slowness counts for [`limits::SLOW_TURN`] at most.
    fn shakes_hands(&self, progress: Progress) {
        let (now, longest) = (Instant::now(), self.since.get() + limits::SLOW_TURN);
        let paused = self.paused.take();
        let turn_ends = match progress {
            Progress::Spoke => {
                self.paused.set(Some((now, self.turn_ends.get())));
                longest
            }
            // Byte after byte gains no time.
            Progress::Unfinished if self.has_begun.replace(true) => match paused {
                Some((since, ends)) => longest.min(ends + (now - since)),
                None => return,
            },
            Progress::Unfinished | Progress::Answered => longest.min(now + self.turn),
        };
        self.turn_ends.set(turn_ends);
    }
}

impl Connections {
    pub(super) fn new(counters: Rc<Counters>, files: usize) -> Self {
        Connections {
            open: RefCell::default(),
            begun: Cell::new(0),
            capacity: limits::HTTP_CONNECTIONS,
            shaking: Cell::new(0),
            most_shaking: limits::HTTP_HANDSHAKES.min(files / 4),
            entering: Default::default(),
            vain: RefCell::default(),
            counters,
            changed: Event::new(),
        }
    }

    /// The state of a new connection from `address`, or from this machine.
    pub(super) fn begin(
        &self,
        rank: Rank,
        address: Option<IpAddr>,
        round_trip: Duration,
    ) -> Rc<State> {
        let mut vain = self.vain.borrow_mut();
        vain.forget(Instant::now());
        let stranger = address.map(stranger);
        let is_vain = rank == Rank::Stranger || stranger.is_some_and(|stranger| vain.is(stranger));
        Rc::new(State::new(rank, stranger, round_trip, is_vain))
    }

    /// A request of this connection has been answered.
    pub(super) fn got_through(&self, state: &State) {
        if let Some(stranger) = state.stranger.take() {
            self.vain.borrow_mut().got_through(stranger);
        }
    }

    /// Waits until there is a place for one more of `rank`, closing others for it.
    pub(super) async fn room(&self, rank: Rank) {
        let is_full = || {
            let all = self.open.borrow().len();
            all - self.shaking.get() >= self.capacity
        };
        if is_full() {
            self.counters.reached(reached::API_CONNECTIONS);
        }
        while is_full() {
            self.make_room(rank, |state| !state.shaking.get()).await;
        }
    }

    /// Closes the connection that makes room for one of `rank`, or waits until that may be another.
    pub(super) async fn make_room(&self, rank: Rank, of: impl Fn(&State) -> bool) {
        let changed = self.changed.listen();
        self.vain.borrow_mut().found_no_room(Instant::now());
        match self.first_to_go(rank, &of) {
            (Some(_), _) => {
                // What has come before its turn ended counts, however late it is looked at.
                look().await;
                if let (Some(number), _) = self.first_to_go(rank, of) {
                    self.turn_out(number).await;
                }
            }
            // Others may have files that become free without a word.
            (None, due) => {
                let look = Instant::now() + limits::ACCEPT_PAUSE;
                until(due.map_or(look, |due| due.min(look)), changed).await;
            }
        }
    }

    /// One that has spoken leaves its place to others while it shakes hands, where so many may.
    pub(super) fn shakes_hands(&self, state: &State, progress: Progress) {
        state.shakes_hands(progress);
        if progress != Progress::Spoke || state.shaking.get() {
            return;
        }
        if self.shaking.get() >= self.most_shaking {
            self.counters.reached(reached::API_HANDSHAKES);
            self.vain.borrow_mut().found_no_room(Instant::now());
            // Its task ends a little later.
            let (stalling, _) = self.first_to_go(state.rank, |state| state.shaking.get());
            if stalling.and_then(|number| self.remove(number)).is_none() {
                return;
            }
            self.count_turned_out();
        }
        state.shaking.set(true);
        self.shaking.set(self.shaking.get() + 1);
        self.changed.notify(usize::MAX);
    }

    /// Waits for a place for one that has shaken hands.
    pub(super) async fn enter(&self, state: &State) {
        if !state.shaking.get() {
            return;
        }
        // It is not its turn.
        state.shakes_hands(Progress::Spoke);
        let _first = self.entering[state.rank as usize].lock().await;
        self.room(state.rank).await;
        self.shaking.set(self.shaking.get() - usize::from(state.shaking.take()));
    }

    /// Adds a line of each.
    pub(super) fn tell(&self, dump: &mut Dump) {
        for (_, Open { state, .. }) in self.open.borrow().iter() {
            let stranger = state.stranger.get().map(|stranger| Stranger(stranger).to_string());
            let who = match (state.rank, stranger) {
                (Rank::Local, _) => "on this machine".into(),
                (_, Some(stranger)) => stranger,
                (_, None) => "that has been answered before".into(),
            };
            let what = match () {
                () if state.answering.get() => "is being answered",
                () if state.held.get() > 0 => "is to take its answer",
                () if state.shaking.get() => "shakes hands",
                () => "its next request is waited for",
            };
            dump.line(format_args!(
                "API caller {who}: for {}, {what}, {} bytes of an answer held",
                For::since(state.since.get()),
                state.held.get()
            ));
        }
    }

    fn remove(&self, number: u64) -> Option<Open> {
        let open = self.open.borrow_mut().remove(number)?;
        self.shaking.set(self.shaking.get() - usize::from(open.state.shaking.take()));
        if let Some(stranger) = open.state.stranger.take() {
            self.vain.borrow_mut().left(stranger, Instant::now());
        }
        Some(open)
    }

    pub(super) fn number(&self) -> u64 {
        let number = self.begun.get();
        self.begun.set(number + 1);
        number
    }

    /// The connection that makes room now for a newcomer of `rank`, if one `of` these does: of those
    /// of the lowest rank the one whose turn ends first, once it has, or at once for a higher rank.
    /// Else when to look again.
    pub(super) fn first_to_go(
        &self,
        rank: Rank,
        of: impl Fn(&State) -> bool,
    ) -> (Option<u64>, Option<Instant>) {
        let open = self.open.borrow();
        let first = open
            .iter()
            .filter(|(_, open)| !open.state.answering.get() && of(&open.state))
            .map(|(number, open)| (open.state.rank, open.state.turn_ends.get(), number))
            .min();
        match first {
            Some((of, due, number)) if of < rank || due <= Instant::now() => (Some(number), None),
            Some((_, due, _)) => (None, Some(due)),
            None => (None, None),
        }
    }

    /// Closes one that makes room, as [`Connections::close`].
    pub(super) async fn turn_out(&self, number: u64) {
        self.count_turned_out();
        self.close(number).await;
    }

    /// One is closed for what strangers hold.
    pub(super) fn count_crowded(&self) {
        self.counters.refused(&refused::CALLERS_MEMORY);
    }

    fn count_turned_out(&self) {
        let kind = refused::CALLER_STALLED;
        self.counters.refused(&kind);
        let what = format!("a caller was closed: {}; {}", kind.why, kind.remedy);
        self.counters.tell_refused(&kind, None, &what);
    }

    /// Closes a connection, and returns when its file is free.
    async fn close(&self, number: u64) {
        if let Some(open) = self.remove(number) {
            open.task.cancel().await;
        }
    }

    /// Closes those that have been taking their answers for the longest time, but for `own`,
    /// until all answers together are at most `limit` bytes.
    pub(super) fn bound_held(&self, own: &Rc<State>, limit: usize) {
        let held = |open: &Open| open.state.held.get();
        let mut all: usize = self.open.borrow().iter().map(|(_, open)| held(open)).sum();
        while all > limit {
            let slowest = self
                .open
                .borrow()
                .iter()
                .filter(|(_, open)| open.state.held.get() > 0 && !Rc::ptr_eq(&open.state, own))
                .min_by_key(|(_, open)| (open.state.rank == Rank::Local, open.state.since.get()))
                .map(|(number, _)| number);
            let Some(slowest) = slowest.and_then(|number| self.remove(number)) else { return };
            all -= slowest.state.held.get();
        }
    }
}

/// A connection's place among the others, given back when its task ends however it ends.
pub(super) struct Presence {
    pub(super) number: u64,
    pub(super) all: Rc<Connections>,
    pub(super) _file: FileGuard,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let open = self.all.remove(self.number);
        self.all.changed.notify(usize::MAX);
        if let Some(open) = open {
            // It is the running task's own handle, whose drop would cancel it.
            open.task.detach();
        }
    }
}

#[cfg(test)]
mod tests;
