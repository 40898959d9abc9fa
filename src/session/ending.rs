//! How a session ends, what an operator reads about it, and how each connection is then closed
//! (protocol page, section 6).

use std::fmt;
use std::time::Duration;

use super::residue::Missing;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both directions have ended.
    Complete,
    /// This leg (0 or 1) broke: its connection was reset or timed out, its TLS was at fault, or its
    /// agent's TLS ended without close_notify.
    Broken(usize),
    /// The user had ended its direction, and the version 1 agent's answer is over.
    Lingered,
    /// Nothing moved for `finwait` after one direction had ended.
    Silent,
    /// Nothing moved for the mapping's `idle`.
    Idle,
    /// The agent on this leg sent nothing for its heartbeat threshold.
    Absent(usize),
    /// The peer on this leg acknowledged nothing for a minute.
    Stalled(usize),
    /// The agent on this leg could not reach its service.
    Failed(usize),
    /// The version 2 agent on this leg answered with something other than `OPEN` or `FAIL`.
    Wrong(usize),
    /// The agent on this leg, of version 2 or 3, ended or broke before it had answered.
    Unanswered(usize),
    /// The agent on this leg, of version 2 or 3, did not answer in time.
    NoAnswer(usize),
    /// The version 3 agent on this leg has not seen the session: its tunnel was dead.
    Dead(usize),
    /// The version 3 peer on this leg has broken the session off.
    Reset(usize),
    /// The version 3 peer on this leg said what it may not say.
    Garbled(usize),
}

/// What is reported of a session that has ended.
pub struct Ended {
    /// Why.
    pub ending: Ending,
    /// What a version 3 peer has said about it.
    pub reason: String,
    /// Bytes from leg 0 to leg 1, and back.
    pub bytes: [u64; 2],
    /// What was still to come on the version 1 tunnel on leg 0, if that broke.
    pub missing: Missing,
    /// Time from pairing to end.
    pub lasted: Duration,
}

/// How a connection is closed when its session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// As an end, once what was sent has arrived.
    InOrder,
    /// As a break, once what was sent has arrived.
    Broken,
    /// As a break, at once: nothing more arrives.
    AtOnce,
}

impl Ending {
    /// The leg whose peer is gone or has done wrong, if the ending is a peer's fault.
    pub(super) fn fault(self) -> Option<usize> {
        match self {
            Ending::Broken(leg)
            | Ending::Absent(leg)
            | Ending::Stalled(leg)
            | Ending::Failed(leg)
            | Ending::Wrong(leg)
            | Ending::Unanswered(leg)
            | Ending::NoAnswer(leg)
            | Ending::Dead(leg)
            | Ending::Reset(leg)
            | Ending::Garbled(leg) => Some(leg),
            Ending::Complete | Ending::Lingered | Ending::Silent | Ending::Idle => None,
        }
    }

    /// How `leg` is closed: a break on one leg is passed on as a break, and a session that is cut short
    /// here does not look like a complete one either (protocol page, section 6).
    pub(super) fn leaves(self, leg: usize) -> Leave {
        match self {
            Ending::Complete | Ending::Lingered => Leave::InOrder,
            // Its `FAIL` has said that nothing more comes.
            Ending::Failed(failed) if failed == leg => Leave::InOrder,
            Ending::Broken(broken) | Ending::Stalled(broken) | Ending::Dead(broken)
                if broken == leg =>
            {
                Leave::AtOnce
            }
            Ending::Broken(_)
            | Ending::Stalled(_)
            | Ending::Silent
            | Ending::Idle
            | Ending::Absent(_)
            | Ending::Failed(_)
            | Ending::Wrong(_)
            | Ending::Unanswered(_)
            | Ending::NoAnswer(_)
            | Ending::Dead(_)
            | Ending::Reset(_)
            | Ending::Garbled(_) => Leave::Broken,
        }
    }

    /// What a version 3 peer is told of a session that is broken off; it does not know which port is which.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Ending::Broken(_) => "the other side broke",
            Ending::Silent => "one side had ended and nothing moved for too long",
            Ending::Idle => "nothing moved for too long",
            Ending::Absent(_) => "the other side is absent",
            Ending::Stalled(_) => "the other side took nothing for too long",
            Ending::NoAnswer(_) => "the agent did not say whether it reaches its service",
            _ => "",
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = |leg: &usize| leg + 1;
        match self {
            Ending::Complete => f.write_str("both sides have ended"),
            Ending::Broken(leg) => write!(f, "the connection on port{} broke", port(leg)),
            Ending::Lingered => f.write_str("the user had ended and the agent fell silent"),
            Ending::Silent => f.write_str("one side had ended and nothing moved for finwait"),
            Ending::Idle => f.write_str("nothing moved for the mapping's idle time"),
            Ending::Absent(leg) => write!(f, "the heartbeat on port{} is absent", port(leg)),
            Ending::Stalled(leg) => {
                write!(f, "the peer on port{} acknowledged nothing for 60 s", port(leg))
            }
            Ending::Failed(leg) => {
                write!(
                    f,
                    "the agent on port{} could not reach its service; see that the service runs, and \
                     is what the agent's target names",
                    port(leg)
                )
            }
            Ending::Wrong(leg) => {
                write!(f, "the agent on port{} sent what is neither OPEN nor FAIL", port(leg))
            }
            Ending::Unanswered(leg) => {
                write!(f, "the agent on port{} was gone before it had answered", port(leg))
            }
            Ending::NoAnswer(leg) => {
                write!(
                    f,
                    "the agent on port{} did not say whether it reaches its service",
                    port(leg)
                )
            }
            Ending::Dead(leg) => {
                write!(
                    f,
                    "the tunnel on port{} was dead: its agent did not see the session",
                    port(leg)
                )
            }
            Ending::Reset(leg) => write!(f, "the agent on port{} broke the session off", port(leg)),
            Ending::Garbled(leg) => {
                write!(f, "the agent on port{} sent what is not to be sent then", port(leg))
            }
        }
    }
}
