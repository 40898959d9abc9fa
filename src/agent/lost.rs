//! Why an idle tunnel ended without a session.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use super::beats::{Beats, INTERVALS};
use super::words;
use crate::limits;

/// A tunnel that is closed sooner than this was never really accepted.
pub(super) const KEPT: Duration = Duration::from_secs(1);

/// Why a tunnel will have no session.
pub(super) enum Lost {
    Closed,
    /// Later; after this silence, if no heartbeat had to be answered.
    Dropped(Option<Duration>),
    /// The same, where [`Silences`] show that the mapping's threshold is the reason.
    Absent,
    Broken(io::Error),
    /// The connector has said that it wants no more sessions on it (version 3).
    Bye,
    /// No heartbeat was answered.
    Unanswered,
    /// Nothing was acknowledged for [`limits::UNACKNOWLEDGED`], where an answer could not be expected yet (version 3).
    Unacknowledged,
    /// The connector sent something that does not belong on a tunnel.
    Garbled,
    /// The connector sends heartbeats that nobody has asked for.
    Flooding,
}

impl Lost {
    /// Of a tunnel with these heartbeats that the connector has just closed.
    pub(super) fn ended(beats: &Beats, now: Instant) -> Self {
        match beats.age(now) < KEPT {
            true => Lost::Closed,
            false => Lost::Dropped(beats.silence(now)),
        }
    }

    /// Whether the connector has closed it in order, as one does that stops, or in whose place another program serves now.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(self, Lost::Closed | Lost::Dropped(_) | Lost::Absent | Lost::Bye)
    }

    /// Whether a connector that stops ends its tunnels like this.
    pub(super) fn is_ending(&self) -> bool {
        self.is_given_up() || matches!(self, Lost::Broken(_))
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Closed => f.write_str(
                "then closes the tunnel at once: is it stopping, or is the mapping's threshold \
                 under a second?",
            ),
            Lost::Dropped(_) => f.write_str("has closed its tunnels: was it restarted?"),
            Lost::Absent => f.write_str(
                "closes idle tunnels before a heartbeat; --heartbeat must be shorter than the \
                 mapping's threshold",
            ),
            Lost::Broken(error) => {
                write!(f, "then the tunnel breaks: {}", words::connection(error))
            }
            Lost::Bye => f.write_str("then gives the tunnel up: is it stopping?"),
            Lost::Unanswered => {
                write!(f, "has answered no heartbeat for {INTERVALS} intervals")
            }
            Lost::Unacknowledged => {
                let seconds = limits::UNACKNOWLEDGED.as_secs();
                write!(f, "has acknowledged nothing for {seconds} s")
            }
            Lost::Flooding => f.write_str("sends heartbeats without end that nobody asked for"),
            Lost::Garbled => {
                f.write_str("sends what is neither a heartbeat nor the beginning of a session")
            }
        }
    }
}

/// What the connector has done with tunnels that were silent. A threshold closes each after the same
/// time; a connector that is restarted does not.
#[derive(Default)]
pub(super) struct Silences {
    /// A tunnel was silent between two heartbeats and lived: the threshold is longer than that.
    survived: bool,
    /// The last one that ended a tunnel.
    last: Option<Duration>,
    absent: bool,
}

impl Silences {
    /// A heartbeat was answered after a whole interval of silence.
    pub(super) fn survive(&mut self) {
        *self = Silences { survived: true, ..Default::default() };
    }

    /// Why a tunnel was lost, in view of those before it.
    pub(super) fn judge(&mut self, why: Lost) -> Lost {
        let Lost::Dropped(Some(silence)) = why else { return why };
        let alike = silence / 32 + Duration::from_millis(20);
        let last = self.last.replace(silence);
        self.absent |= !self.survived && last.is_some_and(|last| last.abs_diff(silence) <= alike);
        if self.absent { Lost::Absent } else { why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_absence(silences: &mut Silences, ms: u64) -> bool {
        matches!(silences.judge(Lost::Dropped(Some(Duration::from_millis(ms)))), Lost::Absent)
    }

    #[test]
    fn only_tunnels_that_end_after_the_same_silence_point_at_the_threshold() {
        let mut silences = Silences::default();
        assert!([5000, 12_000, 8000].iter().all(|ms| !is_absence(&mut silences, *ms)), "restarts");
        assert!(is_absence(&mut silences, 8010));
        assert!(is_absence(&mut silences, 9000), "what is known is not forgotten");
        silences.survive();
        assert!([7000, 7000].iter().all(|ms| !is_absence(&mut silences, *ms)), "it is longer");
    }
}
