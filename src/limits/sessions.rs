//! Tunnels and sessions: what is read and held, when a peer counts as gone, how connections are closed.

use std::time::Duration;

/// Bytes that a thread reads at once from a plain leg. One such buffer per thread, none per
/// session.
pub const READ_BYTES: usize = 64 * 1024;

/// Ciphertext that a thread reads at once from a TLS leg, with what it has of the first record: two
/// full records with their overhead, which is 29 bytes in TLS 1.2 and 22 in 1.3. All of it is opened
/// where it lies, and sealed for the other leg, before the next read, so this is also what a stuck TLS
/// session may have waiting for its slow side, per direction.
pub const TLS_READ_BYTES: usize = 2 * (16 * 1024 + 29);

/// A session of a version 3 tunnel begins on the control thread, where tunnel and user are: most are short, and going to
/// a worker and back costs as much as the bytes of a short one. After so many bytes, counted when it goes on, it
/// is a worker's.
pub const SHORT_BYTES: u64 = READ_BYTES as u64;

/// As [`SHORT_BYTES`], after so long, whether or not it has something to do: those that stay mute would keep others
/// from their places.
pub const SHORT_TIME: Duration = Duration::from_secs(1);

/// The most sessions on the control thread at one time; others begin on a worker. More would only wait for
/// each other there.
pub const SHORT_SESSIONS: usize = 16;

/// Bytes that pass through a kernel pipe at once, from one plain leg to the other. What the slow
/// side has not taken stays in the pipe, in the kernel's memory.
pub const CONDUIT_BYTES: usize = 256 * 1024;

/// Kernel pipes per thread, of two files each; sessions beyond them copy. There are fewer where few
/// files may be open: all pipes together take at most a sixteenth of them.
pub const CONDUITS: usize = 8;

/// A direction starts to use a kernel pipe after a read of [`READ_BYTES`] bytes. When a read
/// through the pipe gives fewer bytes than this, the direction copies again and its bytes are
/// searched for heartbeats.
pub const BULK_BYTES: usize = 4 * 1024;

/// A direction is read as long as less than this waits for its slow side, so that a heartbeat
/// behind a little data is still seen and answered. With [`READ_BYTES`] and [`TLS_READ_BYTES`] this
/// bounds a stuck session: plain (16 + 16) KiB or 64 KiB per direction, TLS (16 + 32) KiB ready to
/// send and 18 KiB of an unfinished record per direction.
pub const READ_AHEAD: usize = 16 * 1024;

/// Heartbeat answers that may wait for an agent that does not read, before the agent is no longer
/// read either: 1,024 answers.
pub const ANSWERS_WAITING: usize = 4 * 1024;

/// How long a version 1 agent in plain TCP may take to send the rest of a heartbeat that began
/// behind other heartbeats. After that, the beginning was bytes of the session.
pub const BEAT_REST: Duration = Duration::from_millis(500);

/// Bytes that an agent may send on a private pipe before it is paired; after that it is not read.
/// One read more than this may be held: 16 + 32 KiB in TLS.
pub const HELD_BYTES: usize = 16 * 1024;

/// A version 2 tunnel that answers its pairing with neither `OPEN` nor `FAIL` within this time is
/// closed.
pub const OPEN_WAIT: Duration = Duration::from_secs(10);

/// How long a newcomer at the limit of tunnels waits for a place: an agent whose session has just
/// ended dials again before that end has been counted.
pub const PLACE_WAIT: Duration = Duration::from_secs(1);

/// Idle time after which the kernel asks a peer, when it is to do so at once, whether it still
/// knows a connection: the shortest that the kernel can count.
pub const PROBE_IDLE: Duration = Duration::from_secs(1);

/// Idle tunnels that a newcomer at the limit has probed between two looks at the kernel. Each takes
/// three or four system calls: about 0.2 ms at once, however many tunnels there are.
pub const PROBES: usize = 64;

/// A peer that acknowledges nothing for this long while bytes wait for it is gone (section 6).
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// While a peer keeps its window closed, the kernel probes it now and then; this many probes
/// without an answer count as silence.
pub const PROBES_LOST: u8 = 2;

/// How long the connection of an ended session is kept, at most, until its last bytes have arrived;
/// and how often that is checked.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
/// So many sessions of a mapping that are over may still wait for their last bytes to arrive, or as
/// many as it may have tunnels if that is more: a user that reads nothing would else keep two files
/// for [`CLOSE_TIMEOUT`] for each session that it has broken.
pub const CLOSINGS: usize = 8;
/// See [`CLOSE_TIMEOUT`].
pub const CLOSE_CHECK: Duration = Duration::from_millis(50);

/// How often a peer that bytes wait for is checked for [`UNACKNOWLEDGED`].
pub const STALL_CHECK: Duration = Duration::from_secs(5);

/// Keepalive of every leg: idle time, time between tries, tries (section 6).
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// See [`KEEPALIVE_IDLE`].
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// See [`KEEPALIVE_IDLE`].
pub const KEEPALIVE_TRIES: u32 = 3;

/// The most bytes in one `D` frame that is sent or taken (protocol page, section 8, step 2): what a kernel pipe
/// holds.
pub const FRAME_DATA: usize = CONDUIT_BYTES;

/// The most bytes in any other frame: a PROXY header of IPv6 has 52, and may carry more.
pub const FRAME_OTHER: usize = 1024;

/// The most bytes of a reason, a sentence.
pub const FRAME_REASON: usize = 200;

/// What is thrown away of a session that is over before its tunnel is closed: what the peer had sent before it
/// knew. Kernels hold 6 MiB and 4 of it at most, unless they are told otherwise.
pub const THROWN: usize = 16 * 1024 * 1024;

/// How long a version 3 agent may take to answer `O`, if four round trips are no longer: it does so at once, so
/// that only one lost packet, or two, take as long.
pub const SEEN_WAIT: Duration = Duration::from_secs(2);

/// The same on a tunnel that may be dead, of which a user may be given several, one after another: one lost packet
/// takes less.
pub const SEEN_SOON: Duration = Duration::from_millis(700);

/// By when a user is told that there are only dead tunnels, from when its session was to begin on the first one: time
/// for that and one more, or for four of those that may be dead.
pub const DEAD_WAIT: Duration = Duration::from_secs(3);

/// The longest time since an agent was heard after which the user's bytes follow `O` at once: those sent to a dead
/// tunnel cannot go to another.
pub const HEARD_LATELY: Duration = Duration::from_secs(5);

/// Addresses on one mapping that are remembered because a version 3 tunnel of theirs was dead, the last ones: 2.5 KiB,
/// looked through whenever a tunnel is. A mapping has rarely more agents than that; of an address that is forgotten,
/// users find out again.
pub const SUSPECTS: usize = 64;

/// Addresses of agents on one side of a mapping that the status tells apart, the first ones: 16 x 56 bytes, looked
/// through for each new tunnel. There is rarely more than one.
pub const AGENTS_SHOWN: usize = 16;

/// How long the peer may take to answer `X`: as long as for its answer to a session.
pub const RESET_WAIT: Duration = OPEN_WAIT;

/// How long an agent of which nothing comes, not even a heartbeat, may take to say that it has seen the end of a
/// session: its service may read slowly.
pub const OVER_WAIT: Duration = Duration::from_secs(120);

/// The most bytes that wait for the next ones to be sent with them in one call: an `O` with its `W` and more, which
/// is far less than it costs to read for longer.
pub const JOINED: usize = 1024;
