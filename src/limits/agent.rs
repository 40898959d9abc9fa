//! The agent's side: the command `tunnel`.

use std::time::Duration;

/// Name lookups at one time, each on a thread of its own. A resolver that does not answer keeps its
/// thread for up to half a minute; a lookup that waits longer than [`DIAL`] for a thread fails.
pub const LOOKUPS: usize = 4;

/// Bytes of a tunnel file or a passcode's at most, read one at a time: 15 options, of which the longest, `pin`, has 72
/// bytes for each certificate, and comments.
pub const TUNNEL_FILE: usize = 64 * 1024;

/// What a resolver has said is used for this long, unless a dial fails: the tunnels that return at one time, and the
/// sessions of a second, share one lookup.
pub const LOOKED_UP: Duration = Duration::from_secs(1);

/// How long connecting to the connector or to the target may take. The answer to a pairing is then
/// in time for [`OPEN_WAIT`](super::OPEN_WAIT).
pub const DIAL: Duration = Duration::from_secs(8);

/// The shortest and the longest time for which one address of a name is tried alone, before the
/// next is tried beside it (RFC 8305, section 8: 10 ms and, recommended, 250 ms).
pub const DIAL_PAUSE: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];

/// How long a proxy may take to connect to the connector, once it was reached itself: its own dial,
/// with names to look up, and a slow link on the way.
pub const PROXY: Duration = Duration::from_secs(20);

/// Addresses of a name that are tried at all: [`DIAL`] has time for one each 10 ms.
pub const ADDRESSES: usize = 800;

/// Addresses of a name that are tried at one time, with one file each.
pub const DIALS_TOGETHER: usize = 8;

/// How long the connector may take to answer a passcode. It holds a refusal for
/// [`REFUSAL_HOLD`](super::REFUSAL_HOLD) after it has waited [`PLACE_WAIT`](super::PLACE_WAIT) for
/// a place.
pub const AUTHORIZED: Duration = Duration::from_secs(10);

/// The first and the longest pause between attempts to reach the connector.
pub const REDIAL: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(30)];

/// Within this time tunnels are dialled again that the connector has given up in order, for the first time in a while: at
/// once, and those of many agents not in one moment.
pub const REDIAL_SPREAD: Duration = Duration::from_millis(20);

/// Time between attempts with a passcode that was never accepted, and between attempts to have more
/// tunnels than the mapping allows.
pub const REFUSED_AGAIN: Duration = Duration::from_secs(30);

/// A tunnel that was idle for this long had worked, so that what ended it is a new failure and not
/// the previous one again.
pub const PROVEN_IDLE: Duration = Duration::from_secs(5);

/// Tunnels that are dialled at one time; their handshakes share one thread.
pub const DIALING: usize = 128;

/// A session that ends within this time, without a byte from the connector's side, was in vain.
pub const VAIN_SESSION: Duration = Duration::from_secs(1);

/// Consecutive sessions in vain after which dialling slows down. Fewer are a burst of users that
/// only connect and leave.
pub const VAIN_SESSIONS: u32 = 32;

/// Sessions in vain that are further apart than this do not count as consecutive.
pub const VAIN_FORGOTTEN: Duration = Duration::from_secs(2);

/// Once bytes have come from the connector's side in any session, sessions in vain do not count for
/// this long: a user that only connects and leaves, however often, slows down no other.
pub const VAIN_FORGIVEN: Duration = Duration::from_secs(10);

/// How soon to check again for free files when nothing has announced one.
pub const FILES_AGAIN: Duration = Duration::from_secs(1);

/// A limit that was reached is logged at most once in this time.
pub const LIMIT_TOLD: Duration = Duration::from_secs(60);

/// How long `tunnels` waits for a caller of its status to ask, however it does, and for each write of
/// the answer.
pub const TELL: Duration = Duration::from_secs(1);

/// Callers of the status of `tunnels` at one time; with one more, the oldest is closed. A command asks
/// within a millisecond, in which so many others would have to come. All but one take a file from the
/// tunnels, for a second each.
pub const TELL_CALLERS: usize = 8;

/// The first and the longest pause between dials while all sessions are in vain: 4 dials a second
/// instead of thousands.
pub const VAIN_DIAL_PAUSE: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(250)];

/// After the connector has refused the certificate or the passcode, or its own was refused, the
/// files are read again no sooner than this.
pub const READ_AGAIN: Duration = Duration::from_secs(1);

/// How long the start waits for what writes a pipe that the command line names in a file's place.
/// Later only files are read.
pub const PIPE_WAIT: Duration = Duration::from_secs(30);

/// Longest PROXY header accepted, by agents and of a user's proxy; the connector sends at most 52 bytes.
pub const PROXY_HEADER: usize = 4 * 1024;

/// How long a local connection waits for the other side of the pipe.
pub const LOCAL_WAIT: Duration = Duration::from_secs(15);

/// A session in which one direction has ended is ended after this much silence. The connector ends
/// such sessions after its `finwait`, and must be the first to do so: hence `finwait`'s maximum and
/// a minute. TCP keepalive finds a connector that is gone.
pub const AGENT_FIN_WAIT: Duration = Duration::from_secs(86_400 + 60);

/// Tickets of TLS sessions that are kept for the same certificates to trust. A tunnel that is dialled takes one and,
/// once its handshake is done, is given two: [`DIALING`] for those that are dialled at one time, and as many for those
/// whose connection breaks in the handshake. Each takes about 1 KiB with its half of the connector's certificate, which
/// comes with both (up to 3 KiB with a long chain): 256 KiB all, or 768 KiB.
pub const TICKETS: usize = 2 * DIALING;

/// How long version 2 is enough for a connector in plain TCP that has refused version 3, until that is tried again.
pub const VERSION_AGAIN: Duration = Duration::from_secs(600);

/// Idle tunnels beyond those that are kept ready are given up after this time.
pub const SURPLUS: Duration = Duration::from_secs(30);

/// How long the other end may take to close a version 3 tunnel that has been given up, the answer of a slow line
/// included; and how long a `tunnel` that stops waits for that.
pub const BYE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(1)];
