//! A bounded crowd of connections that all wait, in which newcomers take the places of those
//! that wait in vain: strangers that say nothing, or not enough, cannot keep others out. Whose
//! turn it is, and who has to go, is the [`turns`]' to say.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::limits;
use crate::net::address::{Stranger, stranger};
use crate::runtime::until;
use crate::text::dump::{Dump, For};
use turns::{Kind, Number, Room, Turns};

mod turns;

/// The crowd.
#[derive(Default)]
pub struct Crowd {
    turns: RefCell<Turns<Rc<Ticket>>>,
    /// A member has left, or its turn now ends at another time.
    changed: event_listener::Event,
}

/// A place in the crowd, given back when dropped.
pub struct Member<'a> {
    crowd: &'a Crowd,
    number: Number,
    ticket: Rc<Ticket>,
    /// Known even when the place is lost.
    has_spoken: Cell<bool>,
}

/// How a member is told that it has lost its place.
#[derive(Default)]
struct Ticket {
    revoked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Ticket {
    fn revoke(&self) {
        self.revoked.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Crowd {
    /// Waits until one more may join a crowd of `limit`, which may change meanwhile; `true` if the limit
    /// was reached. At the limit the member whose turn ended first loses its place.
    ///
    /// What has come before a turn ended counts, however late it is looked at: `heard` returns once all that the
    /// kernel has by then has been told to this crowd.
    pub async fn room(&self, limit: impl Fn() -> usize, heard: impl AsyncFn()) -> bool {
        let mut reached = false;
        loop {
            let changed = self.changed.listen();
            let now = Instant::now();
            if self.turns.borrow().is_due(limit(), now) {
                heard().await;
            }
            let room = self.turns.borrow_mut().room(limit(), now);
            let ask_again = now + limits::ACCEPT_PAUSE;
            match room {
                Room::Free => return reached,
                Room::From(ticket) => {
                    ticket.revoke();
                    return true;
                }
                Room::NotBefore(due) => {
                    _ = until(due.map_or(ask_again, |due| due.min(ask_again)), changed).await;
                }
            }
            reached = true;
        }
    }

    /// One from `address` joins, with the other end a `round_trip` away; `None` if the address is still to be
    /// [told](Member::comes_from).
    pub fn join(&self, address: Option<IpAddr>, round_trip: Duration) -> Member<'_> {
        let ticket = Rc::<Ticket>::default();
        let mut turns = self.turns.borrow_mut();
        let stranger = address.map_or_else(|| turns.nobody(), stranger);
        let number = turns.join(ticket.clone(), stranger, round_trip, Instant::now());
        Member { crowd: self, number, ticket, has_spoken: Cell::new(false) }
    }

    /// Joins a crowd of `limit`, in place of the oldest member if it is full.
    pub fn replace(&self, limit: usize) -> Member<'_> {
        let oldest = self.turns.borrow_mut().replace_oldest(limit);
        if let Some(oldest) = oldest {
            oldest.revoke();
        }
        self.join(Some(Ipv4Addr::LOCALHOST.into()), Duration::ZERO)
    }

    /// How long a member keeps its place after it was answered.
    pub fn patience(&self) -> Duration {
        self.turns.borrow().patience(Kind::Spoken)
    }

    /// How many of them have sent something and still do what is asked of them, or wait for the connector.
    pub fn active(&self) -> usize {
        self.turns.borrow().active(Instant::now())
    }

    /// Adds a line of the member that comes next behind this one, of which it says what it is and its port; gives its
    /// number.
    pub fn tell(
        &self,
        what: fmt::Arguments<'_>,
        behind: Option<u64>,
        dump: &mut Dump,
    ) -> Option<u64> {
        let next = self.turns.borrow().next(behind);
        let (number, stranger, since, has_spoken, waits_for) = next?;
        dump.line(format_args!(
            "{what} {}: there for {}, has sent {}; {waits_for}",
            Stranger(stranger),
            For::since(since),
            if has_spoken { "something" } else { "nothing" }
        ));
        Some(number)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.turns.borrow().len()
    }
}

impl Member<'_> {
    /// It comes from there, as has turned out, and is as one that has just joined.
    pub fn comes_from(&mut self, address: IpAddr, round_trip: Duration) {
        let mut turns = self.crowd.turns.borrow_mut();
        // One that has lost its place is told so.
        if let Some(ticket) = turns.remove(self.number) {
            self.number = turns.join(ticket, stranger(address), round_trip, Instant::now());
        }
    }

    /// It has sent something. The connector's turn begins, in which no member loses its place.
    pub fn spoke(&self) {
        self.has_spoken.set(true);
        self.crowd.turns.borrow_mut().spoke(self.number, Instant::now());
    }

    /// Whether it has sent anything.
    pub fn has_spoken(&self) -> bool {
        self.has_spoken.get()
    }

    /// The connector has answered, and waits for the member's next message: a new turn begins.
    pub fn answered(&self) {
        self.crowd.turns.borrow_mut().answered(self.number, Instant::now());
        self.crowd.changed.notify(usize::MAX);
    }

    /// What it has sent is not enough to answer: its turn goes on. So a member that sends byte after byte
    /// gains no time, and one whose message comes in pieces begins a turn with the first.
    pub fn goes_on(&self) {
        self.crowd.turns.borrow_mut().goes_on(self.number, Instant::now());
        self.crowd.changed.notify(usize::MAX);
    }

    /// It has done all that was asked of it, and keeps its place for as long as it likes.
    pub fn got_through(&self) {
        self.crowd.turns.borrow_mut().got_through(self.number);
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
        self.crowd.turns.borrow_mut().leave(self.number, Instant::now());
        self.crowd.changed.notify(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::future::{block_on, poll_once};

    fn join(crowd: &Crowd, round_trip: Duration) -> Member<'_> {
        crowd.join(Some(Ipv4Addr::LOCALHOST.into()), round_trip)
    }

    fn is_replaced(member: &Member<'_>) -> bool {
        block_on(poll_once(member.replaced())).is_some()
    }

    #[test]
    fn a_newcomer_takes_the_place_of_one_that_is_mute() {
        crate::runtime::block_on(async {
            let crowd = Crowd::default();
            let (first, second) = (join(&crowd, Duration::ZERO), join(&crowd, Duration::ZERO));
            assert!(poll_once(crowd.room(|| 3, async || {})).await.is_some(), "there is room");
            first.spoke();
            assert!(
                poll_once(crowd.room(|| 2, async || {})).await.is_none(),
                "all have their turn first"
            );
            crowd.room(|| 2, async || {}).await;
            assert!(is_replaced(&second) && !is_replaced(&first));
            let third = join(&crowd, Duration::ZERO);
            third.spoke();
            assert!(poll_once(crowd.room(|| 2, async || {})).await.is_none());
            drop(third);
            assert!(poll_once(crowd.room(|| 2, async || {})).await.is_some());
            drop((first, second));
            assert_eq!(crowd.len(), 0);
        })
        .unwrap();
    }

    #[test]
    fn who_stalls_makes_room_but_for_a_few_and_those_far_away() {
        crate::runtime::block_on(async {
            let crowd = Crowd::default();
            crowd.room(|| 4, async || {}).await;
            let far = Duration::from_millis(300);
            let members = [Duration::ZERO, Duration::ZERO, far].map(|way| join(&crowd, way));
            members.iter().for_each(Member::spoke);
            let still_served = join(&crowd, Duration::ZERO);
            still_served.spoke();
            members.iter().for_each(Member::answered);
            crowd.room(|| 4, async || {}).await;
            // The first may be slow, the third is far away, the fourth waits for an answer.
            assert_eq!(members.each_ref().map(is_replaced), [false, true, false]);
            assert!(!is_replaced(&still_served));
            let [first, second, _third] = members;
            drop((first, second));
            // Another one may be slow now.
            let next = [join(&crowd, Duration::ZERO), join(&crowd, Duration::ZERO)];
            next.iter().for_each(Member::spoke);
            next.iter().for_each(Member::answered);
            crowd.room(|| 4, async || {}).await;
            assert_eq!(next.each_ref().map(is_replaced), [false, true]);
        })
        .unwrap();
    }

    #[test]
    fn who_waits_for_room_is_told_of_every_change() {
        crate::runtime::block_on(async {
            let crowd = Crowd::default();
            let (first, second) = (join(&crowd, Duration::ZERO), join(&crowd, Duration::ZERO));
            first.spoke();
            second.spoke();
            let mut room = std::pin::pin!(crowd.room(|| 2, async || {}));
            assert!(poll_once(&mut room).await.is_none(), "it is the connector's time");
            drop(first);
            assert_eq!(poll_once(&mut room).await, Some(true), "one has left");
            let mut room = std::pin::pin!(crowd.room(|| 1, async || {}));
            assert!(poll_once(&mut room).await.is_none());
            second.answered();
            let late = Instant::now() + Duration::from_secs(60);
            assert_eq!(until(late, room).await, Some(true), "it is the other's turn now");
            assert!(is_replaced(&second));
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
