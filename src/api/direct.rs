//! The meeting of two agents at `POST /api/v2/direct` (protocol page, section 3): the first
//! caller waits, the second is told where the first one is, and tries to reach it by itself.
//!
//! As in the original, the second call ends the wait: the third caller of the same connection is a
//! first one again. Unlike there, a first caller that repeats itself (the same addresses and port,
//! with the same certificate or a new one) is told to wait again, where the original handed it its
//! own address; a caller waits [`limits::DIRECT_WAIT`] at most, and at most
//! [`limits::DIRECT_WAITING`] wait. Nothing of this is stored.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::Instant;

use crate::limits;
use crate::mappings::mapping::Id;

/// Where a caller says that it can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The address it sees itself under.
    pub ip: IpAddr,
    /// The port it listens on.
    pub port: u16,
    /// The certificate that it will show, usually PEM; at most [`limits::DIRECT_CERTIFICATE`]
    /// bytes.
    pub certificate: Box<str>,
}

/// A caller, with the address that its call came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What it says of itself.
    pub candidate: Candidate,
    /// Where the call came from (the original trusted a header of the call for it).
    pub remote_ip: IpAddr,
}

impl Caller {
    /// Whether both are one party, which may have a new certificate by now.
    fn is_same(&self, other: &Caller) -> bool {
        let place =
            |caller: &Caller| (caller.remote_ip, caller.candidate.ip, caller.candidate.port);
        place(self) == place(other)
    }
}

/// The first callers that wait for a second one.
#[derive(Debug, Default)]
pub struct Meetings {
    /// Those that have waited longest first.
    waiting: RefCell<Vec<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    /// The connection's.
    id: Id,
    caller: Caller,
    since: Instant,
}

impl Meetings {
    /// One call for the direct connection `id`, whose passkey has been checked: the caller that
    /// waited there, or `None` when this one is now the one that waits.
    pub fn meet(&self, id: &str, caller: Caller) -> Option<Caller> {
        self.meet_at(id, caller, Instant::now())
    }

    /// Forgets who waits at a connection that is no more.
    pub fn forget(&self, id: &str) {
        self.waiting.borrow_mut().retain(|one| *one.id != *id);
    }

    fn meet_at(&self, id: &str, caller: Caller, now: Instant) -> Option<Caller> {
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|one| now.duration_since(one.since) < limits::DIRECT_WAIT);
        if let Some(place) = waiting.iter().position(|one| *one.id == *id) {
            let first = waiting.remove(place);
            if !first.caller.is_same(&caller) {
                return Some(first.caller);
            }
        }
        if waiting.len() >= limits::DIRECT_WAITING {
            waiting.remove(0);
        }
        waiting.push(Waiting { id: id.into(), caller, since: now });
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn caller(port: u16) -> Caller {
        let ip = IpAddr::from([10, 0, 0, 1]);
        let candidate = Candidate { ip, port, certificate: "PEM".into() };
        Caller { candidate, remote_ip: IpAddr::from([192, 0, 2, 1]) }
    }

    #[test]
    fn second_caller_is_told_of_the_first() {
        let meetings = Meetings::default();
        assert_eq!(meetings.meet("a", caller(1)), None);
        assert_eq!(meetings.meet("b", caller(9)), None, "another connection");
        assert_eq!(meetings.meet("a", caller(2)), Some(caller(1)));
        assert_eq!(meetings.meet("a", caller(3)), None, "the third is a first");
        assert_eq!(meetings.meet("a", caller(4)), Some(caller(3)));
    }

    #[test]
    fn first_caller_may_repeat_itself() {
        let meetings = Meetings::default();
        assert_eq!(meetings.meet("a", caller(1)), None);
        assert_eq!(meetings.meet("a", caller(1)), None);
        assert_eq!(meetings.meet("a", caller(2)), Some(caller(1)));
    }

    #[test]
    fn first_caller_with_a_new_certificate_takes_its_own_place() {
        let meetings = Meetings::default();
        let mut renewed = caller(1);
        renewed.candidate.certificate = "another PEM".into();
        assert_eq!(meetings.meet("a", caller(1)), None);
        assert_eq!(meetings.meet("a", renewed.clone()), None);
        assert_eq!(meetings.meet("a", caller(2)), Some(renewed));
    }

    #[test]
    fn waiting_ends() {
        let (meetings, start) = (Meetings::default(), Instant::now());
        assert_eq!(meetings.meet_at("a", caller(1), start), None);
        assert_eq!(meetings.meet_at("a", caller(2), start + limits::DIRECT_WAIT), None);
        meetings.forget("a");
        assert_eq!(meetings.meet_at("a", caller(3), start + limits::DIRECT_WAIT), None);
    }

    #[test]
    fn those_waiting_longest_make_room() {
        let (meetings, start) = (Meetings::default(), Instant::now());
        for number in 0..=limits::DIRECT_WAITING {
            let now = start + Duration::from_millis(number as u64);
            assert_eq!(meetings.meet_at(&number.to_string(), caller(1), now), None);
        }
        let now = start + Duration::from_secs(1);
        assert_eq!(meetings.waiting.borrow().len(), limits::DIRECT_WAITING);
        assert_eq!(meetings.meet_at("1", caller(2), now), Some(caller(1)));
        assert_eq!(meetings.meet_at("0", caller(2), now), None);
    }
}
