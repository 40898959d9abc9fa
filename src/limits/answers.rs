//! Old answers on version 1 tunnels: how much silence means that one is over (section 6, step 7).

use std::time::Duration;

/// How often a version 1 session whose answer is over checks whether the user has received all of
/// it.
pub const LINGER_CHECK: Duration = Duration::from_millis(20);

/// When a version 1 tunnel breaks while an answer is still to come, its mapping is wary for this
/// long: a fresh tunnel, which may be the same agent's and carry the rest of the answer, must first
/// be quiet for [`QUIET_LATE`] (section 6).
pub const WARY: Duration = Duration::from_secs(60);

/// As [`QUIET_LATE`] when no byte of that answer had come: while a service thinks there is no
/// rhythm to go by. Longer than most services think, and well below `userwait`'s default, so that
/// users who come while an agent restarts are served by its fresh tunnels. Older tunnels serve
/// immediately.
pub const QUIET_OWED: Duration = Duration::from_secs(5);

/// Longest time for which a fresh version 1 tunnel waits until every worker has checked whether
/// another tunnel has broken. They check thousands of times a second; if one of them is stuck, the
/// mapping is wary.
pub const LOOK_WAIT: Duration = Duration::from_secs(1);

/// An answer of at most this many bytes is short: it comes at once, as one burst. One that takes
/// [`ANSWER_PAUSE`] or longer is not.
pub const SHORT_ANSWER: u64 = 64 * 1024;

/// The silence after which a short answer is over when its user has left in order. Two round trips
/// and twice the longest silence within the answer are added to this and to the next two.
pub const QUIET_IN_ORDER: Duration = Duration::from_millis(15);

/// As [`QUIET_IN_ORDER`], when the user has left with a FIN alone.
pub const QUIET_FIN: Duration = Duration::from_millis(30);

/// As [`QUIET_IN_ORDER`], after a long answer whose user has left in order.
pub const QUIET_LONG: Duration = Duration::from_millis(300);

/// The silence after which an answer is over if bytes of it came after its user was gone, or were
/// not read by the user; twice the longest silence so far if that is longer. The end of an answer
/// that came steadily is known within 1 s.
pub const QUIET_LATE: Duration = Duration::from_millis(850);

/// The same silence where the user has ended its direction, takes the answer and may wait for more;
/// and after a long answer whose user left otherwise than in order while nothing was coming,
/// perhaps just as a pause began. Longer than pauses of 5 s, shorter than `userwait`'s default.
pub const QUIET_UNSEEN: Duration = Duration::from_secs(7);

/// A silence within an answer that is a pause of the service, not a delay of the network or the
/// machine.
pub const ANSWER_PAUSE: Duration = Duration::from_millis(200);

/// This many silences of about the same length are a rhythm: the next one is then expected to be at
/// most [`QUIET_LATE`] longer than they were.
pub const PAUSES_ALIKE: u32 = 3;

/// How long an answer is waited for that a user has left before its first byte.
pub const OWED_WAIT: Duration = Duration::from_secs(60);

/// When a tunnel that was taken for clean sends bytes after all, its mapping learns from it: for
/// [`LESSON`], version 1 tunnels must be quiet for twice as long as that one was, up to this.
pub const LESSON_QUIET: Duration = Duration::from_secs(10);
/// See [`LESSON_QUIET`].
pub const LESSON: Duration = Duration::from_secs(300);

/// How often a mapping logs, at most, that old answers are read and dropped.
pub const RESIDUE_TOLD: Duration = Duration::from_secs(60);
