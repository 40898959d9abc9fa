//! Every bound on memory, time and count that is not a setting, with its arithmetic.
//!
//! What an operator may change stands in [`Config`](crate::config::Config); what stands here
//! follows from the protocol page or from the size of the machines this runs on.

use std::time::Duration;

/// A TLS handshake that takes longer is closed (protocol page, section 6).
pub const TLS_HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes that a worker is given at one time: the next is there when one is answered, and those
/// that wait have their turns by port and address, not by arrival.
pub const HANDSHAKES: usize = 2;

/// Threads at one time for a change of the state, which may block.
pub const ASIDE: usize = 8;

/// The agent's side: lookups of one name at one time, each on a thread. A resolver that is silent
/// keeps one for up to half a minute; what waits longer than [`DIAL`] for a place has failed.
pub const LOOKUPS: usize = 4;

/// A connection that has not proved its passcode by then is closed (section 6). The time
/// starts at accept and includes the TLS handshake.
pub const PASSCODE: Duration = Duration::from_secs(10);

/// At the limit of connections that are not authenticated, one keeps its place for so long at
/// least, and if it has sent something for [`STRANGER_WAYS`] round trips more, after it could go
/// on: a living agent's bytes come right behind its connection, or behind the connector's own. A
/// newcomer may take it then, so that 1,000 that say nothing, or not enough, hold up an agent for
/// about 1 s, and another second while it is learned that they do.
pub const STRANGER_TURN: Duration = Duration::from_millis(100);

/// See [`STRANGER_TURN`]: as many as a handshake of TLS 1.2 takes, and one for a lost packet.
pub const STRANGER_WAYS: u32 = 4;

/// The longest time, without the connector's own, for which one keeps its place: hundreds of good
/// peers that come at once from one busy machine take their time, and while they get through there
/// is room soon anyway. For one of [`SLOW_SHARE`] it is so in any case: a small processor with many
/// tunnels takes its time over their handshakes, and would never get one done if all were pushed
/// out.
pub const SLOW_TURN: Duration = Duration::from_secs(2);

/// How often the turn is halved from [`SLOW_TURN`] at most, to 125 ms; and at first, to 250 ms for
/// those that have sent nothing and 1 s for those that have.
pub const HALVINGS: u32 = 4;
/// See [`HALVINGS`].
pub const MUTE_HALVINGS: u32 = 3;
/// See [`HALVINGS`].
pub const SPOKEN_HALVINGS: u32 = 1;

/// One in so many may be slow.
pub const SLOW_SHARE: usize = 4;

/// Refusals of one address within [`REFUSAL_WINDOW`] that are closed at once (section 4.2).
pub const REFUSALS_AT_ONCE: usize = 3;

/// The time over which an address's refusals are counted (section 4.2).
pub const REFUSAL_WINDOW: Duration = Duration::from_secs(10);

/// How long a refusal beyond [`REFUSALS_AT_ONCE`] is held before it is closed (section 4.2).
pub const REFUSAL_HOLD: Duration = Duration::from_secs(3);

/// Refusals held at one time, the oldest closed first (section 4.2).
pub const REFUSALS_HELD: usize = 256;

/// Addresses whose refusals are remembered, the oldest forgotten first: 1,024 entries of
/// about 150 bytes.
pub const REFUSED_ADDRESSES: usize = 1024;

/// Bytes a thread reads at once from a plain leg. One such buffer a thread, none a session.
pub const READ: usize = 64 * 1024;

/// Ciphertext a thread reads at once from a TLS leg: one full record and its overhead twice.
/// All of it is opened and sealed for the other leg before the next read, so that this is also
/// what a stuck TLS session may have waiting for its slow side, per direction.
pub const TLS_READ: usize = 32 * 1024;

/// Bytes that pass through a kernel pipe at once, from one plain leg to the other. What the
/// slow side has not taken stays in the pipe, in the kernel's memory.
pub const CONDUIT: usize = 256 * 1024;

/// Kernel pipes of one thread, two files each; sessions beyond them copy. Fewer where few files
/// may be open: all together take no more than a sixteenth of them.
pub const CONDUITS: usize = 8;

/// Reads of at least [`READ`] bytes make a direction use a kernel pipe; a read through it of less
/// than this makes it copy again, and is looked at for heartbeats.
pub const BULK: usize = 4 * 1024;

/// A direction reads on while less than this waits for its slow side, so that a heartbeat
/// behind a little data is still seen and answered. With [`READ`] and [`TLS_READ`] this bounds
/// a stuck session: plain (16 + 16) KiB or 64 KiB per direction, TLS (16 + 32) KiB sendable and
/// 18 KiB of an unfinished record per direction.
pub const READ_AHEAD: usize = 16 * 1024;

/// Heartbeat answers that may wait for an agent that does not read, before its own reading
/// pauses: 1,024 answers.
pub const ANSWERS_WAITING: usize = 4 * 1024;

/// A version 1 agent in plain TCP has so long to send the rest of a heartbeat whose beginning came
/// behind others; then it was bytes of the session.
pub const BEAT_REST: Duration = Duration::from_millis(500);

/// Bytes an agent may send on a private pipe before it is paired; then its reading pauses.
/// One read beyond it may be held: 16 + 32 KiB in TLS.
pub const HELD: usize = 16 * 1024;

/// What a peer may cause in one turn, between two looks at the kernel, in bytes or what counts as
/// much: [`RECORD`], [`EMPTY_RECORD`]. About 0.1 ms on a processor of 2020, which everybody else on
/// the thread may have to wait for each peer that floods.
pub const TURN: usize = 64 * 1024;

/// An idle tunnel that has said as much as a turn holds, say 60 heartbeats, is read again after so
/// long: sixty that beat without a pause take a tenth of a processor of 2020 then.
pub const PACE: Duration = Duration::from_millis(250);

/// What a read, a record or a heartbeat counts beside its bytes: to open, look at and pass on a
/// byte by itself takes 2 µs, as long as 1 KiB.
pub const RECORD: usize = 1024;

/// The same of a record that carries nothing: it may change the keys, which takes 5 µs or more.
pub const EMPTY_RECORD: usize = 4 * 1024;

/// Records that carry nothing of which one peer may send so many, a turn full; then it rests until
/// all that rest on the thread have had [`REST`], one after the other, or for [`LONGEST_REST`]. So
/// all of them together take a tenth of a thread, and a session goes on changing its keys a thousand
/// times faster than anybody needs. A thread that was late, or had nobody rest, makes up for
/// [`REST_MADE_UP`].
pub const EMPTY_RECORDS: usize = TURN / EMPTY_RECORD;
/// See [`EMPTY_RECORDS`].
pub const REST: Duration = Duration::from_millis(1);
/// See [`EMPTY_RECORDS`].
pub const REST_MADE_UP: Duration = Duration::from_millis(50);
/// See [`EMPTY_RECORDS`].
pub const LONGEST_REST: Duration = Duration::from_secs(1);

/// Records that are opened at once, before it is looked whether the turn goes on.
pub const RECORDS: usize = 8;

/// Bytes that a connection may send before it has proved its passcode or, for a user, said its
/// first word, after the handshake: what follows the passcode comes with it.
pub const STRANGER_BYTES: usize = 64 * 1024;

/// Bytes that a client may send within its TLS handshake. A real one's are fewer than 4 KiB, and
/// with shares and signatures of the post-quantum kind and a ticket fewer than 8: nobody here asks a
/// stranger for certificates but the API's `controllerca`, with which they are 10.
pub const HANDSHAKE_BYTES: usize = 16 * 1024;

/// Bytes of what a stranger has sent and nobody could use yet (a part of a greeting, of a record)
/// that are always held for it; what is more comes out of [`GREETINGS`].
pub const GREETING: usize = 4 * 1024;

/// The same bytes of all strangers on all ports beyond [`GREETING`] each; who has more than is left is
/// closed. So a stranger in TLS costs 2.4 KiB before it speaks and 7.7 KiB once it greets (rustls and
/// the task), with what is always held for it 10.8 KiB, all measured with 1,000 of them on a release
/// build; 12 KiB with what is rounded up ([`STRANGER_STEP`]). 1,000 have 12 MiB and this, 16 MiB, at
/// most, where each could take 70 KiB. The sum of all stands in docs/threat-model.md.
pub const GREETINGS: usize = 4 * 1024 * 1024;

/// Bytes that are read at once from a stranger in TLS, into a buffer of the thread: what is left of
/// them counts as held.
pub const STRANGER_READ: usize = 4 * 1024;

/// What is held for a stranger grows by so many bytes, and is not doubled.
pub const STRANGER_STEP: usize = 1024;

/// A version 2 tunnel that answers a pairing with neither `OPEN` nor `FAIL` by then is closed.
pub const OPEN: Duration = Duration::from_secs(10);

/// The agent's side: how long connecting to the connector or the target may take. An answer to
/// a pairing is then in time for [`OPEN`].
pub const DIAL: Duration = Duration::from_secs(8);

/// The agent's side: the shortest and the longest time that one address of a name has before the
/// next is tried beside it (RFC 8305, section 8: 10 ms and, recommended, 250 ms).
pub const DIAL_PAUSE: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];

/// The agent's side: addresses of a name that are tried at one time, a file each.
pub const DIALS_TOGETHER: usize = 8;

/// The agent's side: how long the connector may take to answer a passcode. It holds a refusal
/// for [`REFUSAL_HOLD`] after it has waited [`PLACE_WAIT`] for a place.
pub const AUTHORIZED: Duration = Duration::from_secs(10);

/// The agent's side: the first and the longest time between tries to reach the connector.
pub const REDIAL: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(30)];

/// The agent's side: time between tries with a passcode that was never accepted, and between
/// tries to have more tunnels than the mapping allows.
pub const REFUSED_AGAIN: Duration = Duration::from_secs(30);

/// The agent's side: a tunnel that was idle for so long was a good one, and what ended it is a
/// new failure, not the last one again.
pub const PROVEN: Duration = Duration::from_secs(5);

/// The agent's side: tunnels that are dialled at one time, each a handshake of the one thread.
pub const DIALING: usize = 128;

/// The agent's side: a session that ends sooner, with nothing from the connector's side, was in vain.
pub const VAIN: Duration = Duration::from_secs(1);

/// The agent's side: sessions in vain, one after the other, before dials are slowed down: a
/// burst of users that only look in.
pub const VAIN_SESSIONS: u32 = 32;

/// The agent's side: sessions in vain that come no faster are no burst.
pub const VAIN_FORGOTTEN: Duration = Duration::from_secs(2);

/// The agent's side: when bytes have come from the connector's side in any session, those in vain do
/// not count for so long: a user that only looks in, however often, slows down nobody else's.
pub const VAIN_FORGIVEN: Duration = Duration::from_secs(10);

/// The agent's side: how soon it is looked again whether files are left, where nothing has told of it.
pub const FILES_AGAIN: Duration = Duration::from_secs(1);

/// The agent's side: how often it is said that a limit was reached, at most.
pub const LIMIT_TOLD: Duration = Duration::from_secs(60);

/// The agent's side: the first and the longest time between dials while all sessions are in vain:
/// 4 a second, where it would be thousands.
pub const HASTE: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(250)];

/// The agent's side: certificates and passcode that a connector refuses, or that refuse it, are
/// read again no sooner than this.
pub const READ_AGAIN: Duration = Duration::from_secs(3);

/// The agent's side: longest PROXY header taken; the connector's have at most 52 bytes.
pub const PROXY_HEADER: usize = 4 * 1024;

/// The agent's side: how long a local connection waits for the pipe's other side.
pub const LOCAL_WAIT: Duration = Duration::from_secs(15);

/// The agent's side: silence after one direction of a session has ended that ends it. The connector
/// ends such sessions after its `finwait`, which this must never be shorter than: the longest that it
/// takes, and a minute. A connector that is gone is known by TCP's own questions.
pub const AGENT_FIN_WAIT: Duration = Duration::from_secs(86_400 + 60);

/// How often a version 1 session whose answer is over looks whether its user has all of it.
pub const LINGER_CHECK: Duration = Duration::from_millis(20);

/// After a version 1 tunnel broke on which an answer was still to come, its mapping is wary for so
/// long: a fresh tunnel, which may be the same agent's with the rest of it, must first be quiet for
/// [`QUIET_LATE`] (section 6).
pub const WARY: Duration = Duration::from_secs(60);

/// The same when no byte of that answer had come: who waits for a service to think knows no rhythm.
/// Longer than most services think, and well below `userwait`'s default, so that users who come while
/// an agent restarts are served by its fresh tunnels. Older tunnels serve at once.
pub const QUIET_OWED: Duration = Duration::from_secs(5);

/// Longest time for which a fresh version 1 tunnel waits until the workers have looked whether another
/// one has broken. They look thousands of times a second; where one is stuck the mapping is wary.
pub const LOOKED: Duration = Duration::from_secs(1);

/// An answer of at most so many bytes is short: it comes at once, as one burst. One that takes
/// [`PAUSE`] is none.
pub const SHORT_ANSWER: u64 = 64 * 1024;

/// The silence after which a short answer is over when its user has left in order. To each of these
/// come two round trips and twice the longest silence within the answer.
pub const QUIET_IN_ORDER: Duration = Duration::from_millis(15);

/// The same when the user has left by a FIN alone.
pub const QUIET_FIN: Duration = Duration::from_millis(30);

/// The same after a long answer whose user has left in order.
pub const QUIET_LONG: Duration = Duration::from_millis(300);

/// The silence after which an answer is over of which bytes came when its user was gone, or had not
/// read them; twice the longest silence so far when that is longer. An answer that came steadily is
/// known to be over within 1 s.
pub const QUIET_LATE: Duration = Duration::from_millis(850);

/// The same after an answer that a user takes that has ended its direction and may wait for more, and
/// after a long one whose user left otherwise than in order while nothing was coming: perhaps just as
/// a pause began. Longer than pauses of 5 s, shorter than `userwait`'s default.
pub const QUIET_UNSEEN: Duration = Duration::from_secs(7);

/// A silence within an answer that is a pause, and not the network's or the machine's.
pub const PAUSE: Duration = Duration::from_millis(200);

/// So many silences of about the same length are a rhythm: then the next one is taken to be no
/// longer than that and [`QUIET_LATE`].
pub const PAUSES_ALIKE: u32 = 3;

/// An answer that a user has left without a byte of it is waited for so long.
pub const OWED: Duration = Duration::from_secs(60);

/// A tunnel that was taken for clean and sent bytes after all teaches its mapping: for
/// [`LESSON`], version 1 tunnels must be quiet for twice as long as it was, up to this.
pub const LESSON_QUIET: Duration = Duration::from_secs(10);
/// See [`LESSON_QUIET`].
pub const LESSON: Duration = Duration::from_secs(300);

/// How often the log is told of old answers that are read over, per mapping.
pub const RESIDUE_TOLD: Duration = Duration::from_secs(60);

/// A newcomer at the limit of tunnels waits so long for a place: the agent whose session has
/// just ended redials before the end has been counted.
pub const PLACE_WAIT: Duration = Duration::from_secs(1);

/// Idle time after which a peer is asked at once whether it still knows a connection: the
/// shortest that the kernel counts.
pub const PROBE_IDLE: Duration = Duration::from_secs(1);

/// Idle tunnels that a newcomer at the limit has asked between two looks at the kernel, of which
/// each takes three or four system calls: 0.2 ms or so at once, however many there are.
pub const PROBES: usize = 64;

/// A peer that has acknowledged nothing for so long while bytes wait for it is gone (section 6).
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// A peer that keeps its window shut is asked after it by the kernel now and then; this many
/// questions without an answer count as silence.
pub const PROBES_LOST: u8 = 2;

/// How long a closed session's connection is kept for the last bytes to arrive, at most, and
/// how often it is looked at.
pub const FAREWELL: Duration = Duration::from_secs(30);
/// See [`FAREWELL`].
pub const FAREWELL_CHECK: Duration = Duration::from_millis(50);

/// How often a peer with bytes waiting for it is looked at for [`UNACKNOWLEDGED`].
pub const STALL_CHECK: Duration = Duration::from_secs(5);

/// Keepalive of every leg: idle time, time between tries, tries (section 6).
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// See [`KEEPALIVE_IDLE`].
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// See [`KEEPALIVE_IDLE`].
pub const KEEPALIVE_TRIES: u32 = 3;

/// Connections the kernel may keep ready on a port: a mapping's agents come back all at once after
/// a restart, and users beyond `pending` wait there. Linux allows 4,096 at most unless told
/// otherwise (`net.core.somaxconn`); who finds them all taken is heard again by the kernel after
/// 1 s, 3 s, ….
pub const BACKLOG: i32 = 4096;

/// Accepting pauses for so long when no file can be opened.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The start is over, and what it alone has needed is given back.
pub const STARTED: Duration = Duration::from_millis(300);

/// How often summaries of repeated log lines are written.
pub const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// A control thread that is later than this is complained of.
pub const LATE: Duration = Duration::from_millis(250);

/// A stopping daemon does not wait for a private pipe in which nothing has moved for so long (its
/// two ends may be joined for months), nor for users that have sent nothing for so long after the
/// stop (section 7).
pub const STILL: Duration = Duration::from_secs(1);

/// How often a stopping daemon looks whether sessions are left.
pub const DRAIN_CHECK: Duration = Duration::from_millis(10);

/// The same complaint about accepting is made no more often.
pub const COMPLAINT: Duration = Duration::from_secs(10);

/// Files kept free of pipe connections, for the API, the command line, the state and the logs, and
/// half of them for the ports of mappings that are added.
pub const FILES_RESERVED: usize = 16;

/// The pipes' ports may take so much of the files that the daemon itself leaves for pipes: more
/// mappings than files stay inactive, and those that are active can serve somebody. Of 1,024 files
/// about 980 are left; 735 of them are 367 mappings, and the others 122 sessions at one time.
pub const LISTENERS_SHARE: (usize, usize) = (3, 4);

/// The first and the longest time between tries to open the port of an inactive mapping.
pub const PORT_RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// Longest head of an API request (section 3).
pub const HTTP_HEAD: usize = 8 * 1024;
/// Longest body of an API request (section 3).
pub const HTTP_BODY: usize = 64 * 1024;
/// Longest time an API request may take to arrive (section 3).
pub const HTTP_REQUEST: Duration = Duration::from_secs(10);
/// Longest time a kept-alive API connection may be silent between requests.
pub const HTTP_IDLE: Duration = Duration::from_secs(60);
/// At the limit of API connections one keeps its place for so long, and [`STRANGER_WAYS`] round
/// trips, after it could go on; newcomers wait in the kernel's backlog. With [`HTTP_CONNECTIONS`]
/// this lets 1,280 that say nothing pass in a second.
pub const HTTP_TURN: Duration = Duration::from_millis(200);
/// API connections at one time but for [`HTTP_HANDSHAKES`]; at the limit the one idle longest makes
/// room. What they hold of requests is bounded by [`HTTP_REQUESTS`], and of TLS by [`GREETINGS`].
pub const HTTP_CONNECTIONS: usize = 256;
/// Bytes of a request, its head and its body, that are always held for it: more than Controllers
/// send.
pub const HTTP_FREE: usize = 2 * 1024;
/// The same bytes of all requests that have not been answered beyond [`HTTP_FREE`] each; who sends
/// more than is left is told to try again (503). Heads, which anybody may send, are half of it at most:
/// 256 of 8 KiB. Together with the free ones 4.5 MiB, where it could be 18.
pub const HTTP_REQUESTS: usize = 4 * 1024 * 1024;
/// What is held of a body grows by so many bytes, and is not doubled.
pub const HTTP_STEP: usize = 4 * 1024;
/// API connections that have begun a TLS handshake and not finished it, beside [`HTTP_CONNECTIONS`],
/// about 10 KB each; and a quarter of the files that may be open at most. So many greetings at one
/// time keep no caller in the kernel's backlog, and those that wait to be answered have their turns by
/// port and address.
pub const HTTP_HANDSHAKES: usize = 1024;
/// Bytes of answers that the kernel may keep for an API caller that does not read, twice as many
/// with its own. Left to itself it keeps up to 4 MiB, and pipelined requests would be answered until
/// they are full.
pub const HTTP_UNREAD: usize = 32 * 1024;
/// The same while an answer that is longer than that is taken, which then counts in [`HTTP_HELD`]
/// until it has been acknowledged: enough for 5 MB/s to somebody 100 ms away.
pub const HTTP_FLIGHT: usize = 256 * 1024;
/// The state of so many mappings is written down on the control thread, in about 1 ms; that of
/// more on a thread of its own.
pub const MADE_AT_ONCE: usize = 128;
/// Of those so many at one time, each with the state of all mappings: about 1.3 KB for each of them,
/// and the answer.
pub const MADE_TOGETHER: usize = 2;
/// How soon it is looked whether such an answer has been taken, and with twice the pause each time
/// after, up to [`FAREWELL_CHECK`].
pub const HTTP_TAKEN: Duration = Duration::from_millis(1);
/// Bytes of answers that are held for all API callers together: beyond it, who has been taking its
/// answer for the longest time is closed. One answer alone may be longer.
pub const HTTP_HELD: usize = 8 * 1024 * 1024;
/// Bytes of an answer that TLS may have encrypted before the kernel takes them: one record.
pub const HTTP_ENCRYPTED: usize = 16 * 1024;
/// How long an API connection that is closed from here may take to be closed from there too.
pub const HTTP_LINGER: Duration = Duration::from_secs(2);
/// Bytes of an unwanted request that are read over meanwhile, so that its sender reads the
/// answer instead of a reset.
pub const HTTP_DRAIN: usize = 1024 * 1024;

/// First callers of direct connections that wait for the second one, at one time; the one
/// waiting longest is forgotten first: 256 entries of at most 17 KiB.
pub const DIRECT_WAITING: usize = 256;
/// How long a first caller's address is kept for the second one.
pub const DIRECT_WAIT: Duration = Duration::from_secs(300);
/// Longest certificate that a direct connection's first caller may leave for the second one.
pub const DIRECT_CERTIFICATE: usize = 16 * 1024;

/// Longest answer that the command line takes from the daemon: the status of 32,767 mappings,
/// two ports each, of about 1 KiB.
pub const CONTROL_ANSWER: usize = 64 * 1024 * 1024;
/// Longest time the command line waits for the daemon's answer.
pub const CONTROL_WAIT: Duration = Duration::from_secs(30);
/// The same for `status`, which changes nothing: monitors ask for it, and a daemon that hangs is
/// what they want to know of.
pub const STATUS_WAIT: Duration = Duration::from_secs(5);

/// How often systemd and `stop` are told what a stopping daemon still waits for.
pub const DRAIN_TOLD: Duration = Duration::from_secs(1);

/// State changes that may wait for the disk at one time; the API waits beyond it.
pub const CHANGES_WAITING: usize = 256;

/// Size at which the log file is put aside (one old file is kept).
pub const LOG_FILE: u64 = 1024 * 1024;

/// Bytes that peers can make the log write at once, all together, and per hour. The first lines of
/// each kind may use all of it, further ones half. So in any hour (64 + 256) KiB at most, and
/// 22 KiB of "last message repeated" every 10 s: the two files of [`LOG_FILE`] hold three hours of
/// the worst flood at least.
pub const LOG_BYTES: f64 = 64.0 * 1024.0;
/// See [`LOG_BYTES`].
pub const LOG_BYTES_HOUR: f64 = 256.0 * 1024.0;

/// Lines of one kind that peers can make the log write at once; then one for each
/// [`LOG_KIND_EVERY`], which tells how many were left out.
pub const LOG_KIND_LINES: f64 = 10.0;
/// See [`LOG_KIND_LINES`]: 70 lines of a kind in any hour.
pub const LOG_KIND_EVERY: Duration = Duration::from_secs(60);

/// Kinds of log lines that are told apart at one time, beyond which what was left out is told as
/// one: 1,024 of at most 500 bytes.
pub const LOG_KINDS: usize = 1024;
