//! A bounded crowd of connections that all wait, in which newcomers take the places of those
//! that wait in vain: strangers that say nothing, or not enough, cannot keep others out.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::limits;
use crate::runtime::{Numbered, until};

/// The crowd.
pub struct Crowd {
    next: Cell<u64>,
    members: RefCell<Numbered<Rc<Ticket>>>,
    turns: RefCell<[Turns; 3]>,
    /// The limit when room was last asked for.
    limit: Cell<usize>,
    /// Members that may be slow.
    slow: Cell<usize>,
    /// One has left, or its turn ends at another time now.
    changed: event_listener::Event,
}

/// Those of one kind whose turn it is: [`MUTE`], [`SPOKEN`] or [`SLOW`].
struct Turns {
    /// When each could have gone on at the earliest.
    from: BTreeSet<(Instant, u64)>,
    /// How much longer they have, halved so often from the longest time, [`limits::SLOW_TURN`]:
    /// more often when one must go and nobody has got through since the last one that had to,
    /// less often when one gets through. So a port where many wait in vain is made free soon, and
    /// where others get through there is room soon anyway.
    halvings: u32,
    got_through: bool,
}

impl Turns {
    fn patience(&self) -> Duration {
        limits::SLOW_TURN / 2u32.pow(self.halvings)
    }
}

/// They have sent nothing.
const MUTE: usize = 0;
/// They have sent something, and are answered.
const SPOKEN: usize = 1;
/// The same; they may be slow, and their patience stays.
const SLOW: usize = 2;

/// A place in the crowd, given back when dropped.
pub struct Member<'a> {
    crowd: &'a Crowd,
    number: u64,
    ticket: Rc<Ticket>,
}

struct Ticket {
    since: Instant,
    /// The round trip to the other end.
    way: Duration,
    /// Since when it could go on, if it is its turn, and of which kind it is.
    turn: Cell<Option<(Instant, usize)>>,
    /// Since when it is the connector that takes its time, and how much it took before.
    ours: Cell<(Option<Instant>, Duration)>,
    /// How much of its own time it had taken when its turn began anew.
    renewed: Cell<Option<Duration>>,
    has_spoken: Cell<bool>,
    may_be_slow: Cell<bool>,
    revoked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Default for Crowd {
    fn default() -> Self {
        let turns = |halvings| Turns { from: BTreeSet::new(), halvings, got_through: false };
        Crowd {
            next: Cell::default(),
            members: RefCell::default(),
            turns: RefCell::new([
                turns(limits::SILENT_HALVINGS),
                turns(limits::SPOKEN_HALVINGS),
                turns(0),
            ]),
            limit: Cell::default(),
            slow: Cell::default(),
            changed: event_listener::Event::new(),
        }
    }
}

impl Crowd {
    /// Waits until one more may join a crowd of `limit`; `true` if that was reached. At the limit
    /// the one is told to go whose turn ended first.
    pub async fn room(&self, limit: usize) -> bool {
        self.limit.set(limit);
        let mut reached = false;
        loop {
            let changed = self.changed.listen();
            if self.len() < limit {
                return reached;
            }
            reached = true;
            match self.first_to_go() {
                Some((due, number)) if due <= Instant::now() => {
                    self.revoke(number);
                    return reached;
                }
                Some((due, _)) => _ = until(due, changed).await,
                None => changed.await,
            }
        }
    }

    /// Who goes first, and when.
    fn first_to_go(&self) -> Option<(Instant, u64)> {
        let turns = self.turns.borrow();
        let first = |turns: &Turns| {
            let &(from, number) = turns.from.first()?;
            Some((from + turns.patience(), number))
        };
        turns.iter().filter_map(first).min()
    }

    fn set_turn(&self, number: u64, ticket: &Ticket, turn: Option<(Instant, usize)>) {
        let turns = &mut *self.turns.borrow_mut();
        if let Some((from, kind)) = ticket.turn.replace(turn) {
            turns[kind].from.remove(&(from, number));
        }
        if let Some((from, kind)) = turn {
            turns[kind].from.insert((from, number));
        }
    }

    fn revoke(&self, number: u64) {
        let Some(ticket) = self.members.borrow_mut().remove(number) else { return };
        if let Some((_, kind @ (MUTE | SPOKEN))) = ticket.turn.get() {
            let turns = &mut self.turns.borrow_mut()[kind];
            if !std::mem::take(&mut turns.got_through) {
                turns.halvings = (turns.halvings + 1).min(limits::HALVINGS);
            }
        }
        self.set_turn(number, &ticket, None);
        ticket.revoked.set(true);
        if let Some(waker) = ticket.waker.take() {
            waker.wake();
        }
    }

    /// Joins, with the other end `way` away, there and back.
    pub fn join(&self, way: Duration) -> Member<'_> {
        let number = self.next.get();
        self.next.set(number + 1);
        let since = Instant::now();
        let ticket = Rc::new(Ticket {
            since,
            way,
            turn: Cell::new(None),
            ours: Cell::default(),
            renewed: Cell::default(),
            has_spoken: Cell::new(false),
            may_be_slow: Cell::new(false),
            revoked: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.members.borrow_mut().insert(number, ticket.clone());
        self.set_turn(number, &ticket, Some((since, MUTE)));
        Member { crowd: self, number, ticket }
    }

    /// Joins a crowd of `limit`, for the oldest if there is no room.
    pub fn replace(&self, limit: usize) -> Member<'_> {
        let oldest = self.members.borrow().first();
        if let Some(oldest) = oldest.filter(|_| self.len() >= limit) {
            self.revoke(oldest);
        }
        self.join(Duration::ZERO)
    }

    /// For how long one that is answered keeps its place.
    pub fn patience(&self) -> Duration {
        self.turns.borrow()[SPOKEN].patience()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.borrow().len()
    }
}

impl Member<'_> {
    /// It has sent something, and it is the connector that takes its time now, for which nobody
    /// loses a place.
    pub fn spoke(&self) {
        let Ticket { has_spoken, may_be_slow, ours, .. } = &*self.ticket;
        if !has_spoken.replace(true) {
            let slow = &self.crowd.slow;
            let may = slow.get() < self.crowd.limit.get().div_ceil(limits::SLOW_SHARE);
            may_be_slow.set(may);
            slow.set(slow.get() + usize::from(may));
        }
        let (since, before) = ours.get();
        ours.set((since.or_else(|| Some(Instant::now())), before));
        self.set_turn(None);
    }

    /// Whether it has sent anything.
    pub fn has_spoken(&self) -> bool {
        self.ticket.has_spoken.get()
    }

    /// What it has sent is dealt with, and something is to come from it next: its turn begins anew.
    pub fn answered(&self) {
        self.ticket.renewed.set(None);
        self.goes_on();
    }

    /// What it has sent is not enough to answer: its turn goes on. So who sends byte after byte gains no
    /// time by it, and for one whose words come in pieces the first of them begins a turn.
    pub fn goes_on(&self) {
        let Ticket { since, way, ours, renewed, may_be_slow, .. } = &*self.ticket;
        let now = Instant::now();
        let (ours_since, before) = ours.get();
        let taken = before + ours_since.map_or(Duration::ZERO, |since| now - since);
        ours.set((None, taken));
        // As if it had come so much later.
        let came = *since + taken;
        let own = renewed.get().unwrap_or_else(|| now.saturating_duration_since(came));
        renewed.set(Some(own));
        let (kind, from) = match may_be_slow.get() {
            true => (SLOW, came),
            false => (SPOKEN, came + own + limits::STRANGER_ROUND_TRIPS * *way),
        };
        let latest = came + limits::SLOW_TURN - limits::STRANGER_TURN;
        self.set_turn(Some((from.min(latest), kind)));
        self.crowd.changed.notify(usize::MAX);
    }

    /// It has done all that was asked of it, and keeps its place for as long as it likes.
    pub fn got_through(&self) {
        for turns in &mut self.crowd.turns.borrow_mut()[..SLOW] {
            turns.got_through = true;
            turns.halvings = turns.halvings.saturating_sub(1);
        }
        self.end_slowness();
        self.set_turn(None);
    }

    fn set_turn(&self, turn: Option<(Instant, usize)>) {
        if !self.ticket.revoked.get() {
            self.crowd.set_turn(self.number, &self.ticket, turn);
        }
    }

    fn end_slowness(&self) {
        let slow = &self.crowd.slow;
        slow.set(slow.get() - usize::from(self.ticket.may_be_slow.take()));
    }

    /// Returns when a newcomer has taken the place.
    pub async fn replaced(&self) {
        poll_fn(|context| {
            if self.ticket.revoked.get() {
                return Poll::Ready(());
            }
            self.ticket.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.set_turn(None);
        self.crowd.members.borrow_mut().remove(self.number);
        self.end_slowness();
        self.crowd.changed.notify(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::sleep;
    use smol::future::{block_on, poll_once};

    fn is_replaced(member: &Member<'_>) -> bool {
        block_on(poll_once(member.replaced())).is_some()
    }

    #[test]
    fn a_newcomer_takes_the_place_of_one_that_is_mute() {
        crate::runtime::block_on(async {
            let crowd = Crowd::default();
            let (first, second) = (crowd.join(Duration::ZERO), crowd.join(Duration::ZERO));
            assert!(poll_once(crowd.room(3)).await.is_some(), "there is room");
            first.spoke();
            assert!(poll_once(crowd.room(2)).await.is_none(), "all have their turn first");
            crowd.room(2).await;
            assert!(is_replaced(&second) && !is_replaced(&first));
            let third = crowd.join(Duration::ZERO);
            third.spoke();
            assert!(poll_once(crowd.room(2)).await.is_none());
            drop(third);
            assert!(poll_once(crowd.room(2)).await.is_some());
            drop((first, second));
            assert_eq!(crowd.len(), 0);
        })
        .unwrap();
    }

    #[test]
    fn who_stalls_makes_room_but_for_a_few_and_those_far_away() {
        crate::runtime::block_on(async {
            let crowd = Crowd::default();
            crowd.room(4).await;
            let far = Duration::from_millis(300);
            let members = [Duration::ZERO, Duration::ZERO, far].map(|way| crowd.join(way));
            members.iter().for_each(Member::spoke);
            let still_served = crowd.join(Duration::ZERO);
            still_served.spoke();
            members.iter().for_each(Member::answered);
            crowd.room(4).await;
            // The first may be slow, the third is far away, the fourth waits for an answer.
            assert_eq!(members.each_ref().map(is_replaced), [false, true, false]);
            assert!(!is_replaced(&still_served));
            let [first, second, _third] = members;
            drop((first, second));
            // Another one may be slow now.
            let next = [crowd.join(Duration::ZERO), crowd.join(Duration::ZERO)];
            next.iter().for_each(Member::spoke);
            next.iter().for_each(Member::answered);
            crowd.room(4).await;
            assert_eq!(next.each_ref().map(is_replaced), [false, true]);
        })
        .unwrap();
    }

    #[test]
    fn patience_shrinks_while_all_wait_in_vain_and_grows_while_others_get_through() {
        let crowd = Crowd::default();
        let patience = |kind: usize| crowd.turns.borrow()[kind].patience();
        crowd.limit.set(8);
        let answered = || {
            let member = crowd.join(Duration::ZERO);
            member.spoke();
            member.answered();
            member
        };
        let slow = [answered(), answered()];
        let before = patience(SPOKEN);
        assert!(before > patience(MUTE) && patience(MUTE) >= limits::STRANGER_TURN);
        let mut stalling: Vec<_> = (0..10).map(|_| answered()).collect();
        let last = stalling.pop().unwrap();
        for member in &stalling {
            crowd.revoke(member.number);
        }
        assert!(patience(SPOKEN) >= limits::STRANGER_TURN);
        assert!(patience(SPOKEN) < 2 * limits::STRANGER_TURN);
        // One that gets through for each one that must go: it stays.
        let short = patience(SPOKEN);
        crowd.join(Duration::ZERO).got_through();
        assert_eq!(patience(SPOKEN), 2 * short);
        crowd.revoke(last.number);
        assert_eq!(patience(SPOKEN), 2 * short);
        let next = answered();
        crowd.revoke(next.number);
        assert_eq!(patience(SPOKEN), short, "for one, and not for all after it");
        for _ in 0..10 {
            crowd.join(Duration::ZERO).got_through();
        }
        assert_eq!([MUTE, SPOKEN, SLOW].map(patience), [limits::SLOW_TURN; 3]);
        drop(slow);
    }

    #[test]
    fn nobody_loses_a_place_while_the_connector_takes_its_time() {
        crate::runtime::block_on(async {
            let crowd = Crowd::default();
            let members = [Duration::ZERO; 3].map(|way| crowd.join(way));
            members.iter().for_each(Member::spoke);
            assert!(crowd.first_to_go().is_none());
            sleep(limits::STRANGER_TURN).await;
            let answered = Instant::now();
            members.iter().for_each(Member::answered);
            let (due, _) = crowd.first_to_go().unwrap();
            assert!(due >= answered + limits::STRANGER_TURN);
        })
        .unwrap();
    }

    #[test]
    fn who_sends_byte_after_byte_gains_no_time_and_who_is_answered_has_a_new_turn() {
        crate::runtime::block_on(async {
            let crowd = Crowd::default();
            let member = crowd.join(Duration::ZERO);
            sleep(Duration::from_millis(20)).await;
            let due = || crowd.first_to_go().unwrap().0;
            let (mute, before) = (due(), Instant::now());
            member.spoke();
            member.goes_on();
            let spoken = due();
            assert!(spoken > mute && spoken >= before + crowd.patience(), "its first word counts");
            for _ in 0..5 {
                member.spoke();
                let begun = Instant::now();
                sleep(Duration::from_millis(20)).await;
                let ours = begun.elapsed();
                member.goes_on();
                let more = due() - spoken;
                assert!(more >= ours && more < 20 * ours, "the connector's own time alone");
                assert!(due() <= Instant::now() + crowd.patience());
            }
            let before_pause = due();
            sleep(Duration::from_millis(20)).await;
            member.goes_on();
            assert_eq!(due(), before_pause, "a byte after a while");
            let now = Instant::now();
            member.answered();
            assert!(due() >= now + crowd.patience(), "a whole step");
        })
        .unwrap();
    }

    #[test]
    fn who_waits_for_room_is_told_of_every_change() {
        crate::runtime::block_on(async {
            let crowd = Crowd::default();
            let (first, second) = (crowd.join(Duration::ZERO), crowd.join(Duration::ZERO));
            first.spoke();
            second.spoke();
            let mut room = std::pin::pin!(crowd.room(2));
            assert!(poll_once(&mut room).await.is_none(), "it is the connector's time");
            drop(first);
            assert_eq!(poll_once(&mut room).await, Some(true), "one has left");
            let mut room = std::pin::pin!(crowd.room(1));
            assert!(poll_once(&mut room).await.is_none());
            second.answered();
            let late = Instant::now() + Duration::from_secs(60);
            assert_eq!(until(late, room).await, Some(true), "it is the other's turn now");
            assert!(is_replaced(&second));
        })
        .unwrap();
    }

    #[test]
    fn the_connectors_time_is_added_up_and_nothing_else_adds_to_the_longest_time() {
        crate::runtime::block_on(async {
            let crowd = Crowd::default();
            crowd.limit.set(1);
            let slow = crowd.join(Duration::ZERO);
            for _ in 0..2 {
                slow.spoke();
                sleep(Duration::from_millis(20)).await;
                slow.answered();
            }
            let least = slow.ticket.since + Duration::from_millis(40);
            assert!(crowd.first_to_go().unwrap().0 >= least + limits::SLOW_TURN);
            // One that gets through makes room for another that may be slow, and never has to go.
            slow.got_through();
            assert!(crowd.slow.get() == 0 && crowd.first_to_go().is_none());
            crowd.limit.set(0);
            let far = crowd.join(Duration::from_secs(10));
            far.spoke();
            far.answered();
            let came = far.ticket.since + far.ticket.ours.get().1;
            let latest = came + limits::SLOW_TURN - limits::STRANGER_TURN;
            assert_eq!(crowd.first_to_go().unwrap().0, latest + crowd.patience());
        })
        .unwrap();
    }

    #[test]
    fn the_oldest_of_the_held_is_let_go_first() {
        let crowd = Crowd::default();
        let (first, second) = (crowd.replace(2), crowd.replace(2));
        let third = crowd.replace(2);
        assert!(block_on(poll_once(first.replaced())).is_some());
        assert!(block_on(poll_once(second.replaced())).is_none());
        assert_eq!(crowd.len(), 2);
        drop((first, second, third));
        assert_eq!(crowd.len(), 0);
    }
}
