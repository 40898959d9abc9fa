//! Every bound on memory, time and count that is not a setting, with its arithmetic.
//!
//! What an operator may change stands in [`Config`](crate::config::Config); what stands here
//! follows from the protocol page or from the size of the machines this runs on.

use std::time::Duration;

/// A TLS handshake that takes longer is aborted (protocol page, section 6).
pub const TLS_HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes that a worker has at one time. It gets the next as soon as one is answered; those
/// that wait are taken by port and address in turn, not by arrival.
pub const HANDSHAKES: usize = 2;

/// Threads that may block at one time, each for a change of the state.
pub const BLOCKING_THREADS: usize = 8;

/// The agent's side: name lookups at one time, each on a thread of its own. A resolver that does
/// not answer keeps its thread for up to half a minute; a lookup that waits longer than [`DIAL`]
/// for a thread fails.
pub const LOOKUPS: usize = 4;

/// A connection that has not proved its passcode within this time is closed (section 6). The time
/// starts at accept and includes the TLS handshake.
pub const PASSCODE: Duration = Duration::from_secs(10);

/// At the limit of unauthenticated connections (`pending`), each keeps its slot at least this long
/// after it was last able to proceed, and [`STRANGER_ROUND_TRIPS`] round trips longer if it has sent
/// anything: the bytes of a living agent follow its connection, or the connector's own bytes,
/// immediately. After that a newcomer may take the slot. So 1,000 connections that send nothing, or
/// too little, delay an agent by about 1 s, and by another second until their behaviour is known.
pub const STRANGER_TURN: Duration = Duration::from_millis(100);

/// See [`STRANGER_TURN`]: the round trips of a TLS 1.2 handshake, and one for a lost packet.
pub const STRANGER_ROUND_TRIPS: u32 = 4;

/// Cap on the time for which a connection keeps its slot, not counting the connector's own time.
/// Hundreds of good peers that come at once from one busy machine need this long, and while they
/// get through there is room soon anyway. The quarter of the connections that [`SLOW_SHARE`] allows
/// always has this cap: a small processor with many tunnels is slow with their handshakes, and
/// would never finish one if all of them were pushed out.
pub const SLOW_TURN: Duration = Duration::from_secs(2);

/// How often, at most, that cap is halved from [`SLOW_TURN`]: down to 125 ms. It
/// starts at 250 ms for connections that have sent nothing and at 1 s for those that have.
pub const HALVINGS: u32 = 4;
/// See [`HALVINGS`].
pub const SILENT_HALVINGS: u32 = 3;
/// See [`HALVINGS`].
pub const SPOKEN_HALVINGS: u32 = 1;

/// The same cap for connections of a stranger (an IPv4 address, or an IPv6 /48) whose connections come
/// in vain: [`IN_VAIN`] more of them lost their slots, or left before they got through while others
/// waited, than twice those that got through. A stranger's silent connections take 1/30 of a second
/// each then, and 128 slots carry 4,000 of them a second, however many others get through meanwhile
/// and make the cap of their own connections long. The API's 256 slots carry 8,000.
pub const VAIN_TURN: Duration = Duration::from_millis(30);
/// See [`VAIN_TURN`]. Half of the slots that `pending` gives at first: a burst of good peers that are
/// slow to speak has some that get through before so many lose their slots.
pub const IN_VAIN: u32 = 64;

/// How long this is remembered after newcomers last had to wait.
pub const VAIN_REMEMBERED: Duration = Duration::from_secs(60);
/// Strangers that are remembered for it, on each port.
pub const STRANGERS_IN_VAIN: usize = 256;

/// A stranger that has so many silent connections at one time has the first cap for silent ones, of
/// 250 ms, for the next of them, whatever others have made of it: what its connections are worth is
/// known soon after its first ones have filled the slots.
pub const SILENT_TOGETHER: u32 = 16;

/// One connection in this many may be slow.
pub const SLOW_SHARE: usize = 4;

/// Refusals of one address within [`REFUSAL_WINDOW`] that are closed immediately (section 4.2).
pub const REFUSALS_AT_ONCE: usize = 3;

/// The time over which an address's refusals are counted (section 4.2).
pub const REFUSAL_WINDOW: Duration = Duration::from_secs(10);

/// How long a refusal beyond [`REFUSALS_AT_ONCE`] is held before it is closed (section 4.2).
pub const REFUSAL_HOLD: Duration = Duration::from_secs(3);

/// Refusals held at one time; beyond it, the oldest is closed first (section 4.2).
pub const REFUSALS_HELD: usize = 256;

/// Addresses whose refusals are remembered; beyond it, the oldest is forgotten first: 1,024 entries
/// of about 150 bytes.
pub const REFUSED_ADDRESSES: usize = 1024;

/// Bytes that a thread reads at once from a plain leg. One such buffer per thread, none per
/// session.
pub const READ_BYTES: usize = 64 * 1024;

/// Ciphertext that a thread reads at once from a TLS leg: two full records with their overhead. All
/// of it is opened, and sealed for the other leg, before the next read, so this is also what a
/// stuck TLS session may have waiting for its slow side, per direction.
pub const TLS_READ_BYTES: usize = 32 * 1024;

/// Bytes that pass through a kernel pipe at once, from one plain leg to the other. What the slow
/// side has not taken stays in the pipe, in the kernel's memory.
pub const CONDUIT_BYTES: usize = 256 * 1024;

/// Kernel pipes per thread, of two files each; sessions beyond them copy. There are fewer where few
/// files may be open: all pipes together take at most a sixteenth of them.
pub const CONDUITS: usize = 8;

/// A direction starts to use a kernel pipe after a read of [`READ_BYTES`] bytes. When a read through the
/// pipe gives fewer bytes than this, the direction copies again and its bytes are searched for
/// heartbeats.
pub const BULK_BYTES: usize = 4 * 1024;

/// A direction is read as long as less than this waits for its slow side, so that a heartbeat
/// behind a little data is still seen and answered. With [`READ_BYTES`] and [`TLS_READ_BYTES`] this bounds a
/// stuck session: plain (16 + 16) KiB or 64 KiB per direction, TLS (16 + 32) KiB ready to send and
/// 18 KiB of an unfinished record per direction.
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

/// What one peer may cause in one turn, between two looks at the kernel: bytes, or what counts as
/// bytes ([`RECORD_COST`], [`EMPTY_RECORD_COST`]). A turn takes about 0.1 ms on a processor of 2020;
/// everybody else on the thread may have to wait that long for each peer that floods.
pub const TURN_BYTES: usize = 64 * 1024;

/// An idle tunnel that has used up a turn, with 60 heartbeats for instance, is read again after
/// this time. Sixty tunnels that send heartbeats without a pause then take a tenth of a processor
/// of 2020.
pub const PACE: Duration = Duration::from_millis(250);

/// What a read in plain TCP, a record in TLS or one more heartbeat counts in addition to its bytes: opening, checking and
/// passing on a single byte takes 2 µs, as long as 1 KiB.
pub const RECORD_COST: usize = 1024;

/// What a record without data counts: it may change the keys, which takes 5 µs or more.
pub const EMPTY_RECORD_COST: usize = 4 * 1024;

/// Records without data that one peer may send before it rests: a turn full. It rests until every
/// peer of the thread that rests has had [`REST`], one after the other, or for [`LONGEST_REST`]. So
/// all of them together take a tenth of a thread (up to 1,000 that rest at one time), and a session can still change its keys a
/// thousand times more often than anybody needs. A thread that was late, or had no peer at rest,
/// makes up for at most [`REST_MADE_UP`].
pub const EMPTY_RECORDS: usize = TURN_BYTES / EMPTY_RECORD_COST;
/// See [`EMPTY_RECORDS`].
pub const REST: Duration = Duration::from_millis(1);
/// See [`EMPTY_RECORDS`].
pub const REST_MADE_UP: Duration = Duration::from_millis(50);
/// See [`EMPTY_RECORDS`].
pub const LONGEST_REST: Duration = Duration::from_secs(1);

/// Records that are opened before the turn is checked again.
pub const RECORDS_AT_ONCE: usize = 8;

/// Bytes that a connection may send after its handshake until it has proved its passcode or, for a
/// user, has sent its first word: what follows the passcode arrives with it.
pub const STRANGER_BYTES: usize = 64 * 1024;

/// Bytes that a client may send within its TLS handshake. A real client sends fewer than 4 KiB, and
/// fewer than 8 with post-quantum key shares and signatures and a ticket. Only the API's
/// `controllerca` asks strangers for certificates; they make it 10.
pub const HANDSHAKE_BYTES: usize = 16 * 1024;

/// Bytes that a stranger has sent and nobody can use yet (part of a ClientHello, of a record) and
/// that are always held for it; more than that is taken from [`GREETINGS`].
pub const GREETING: usize = 4 * 1024;

/// The same bytes beyond [`GREETING`] of all strangers on all ports together; a stranger that needs
/// more than is left is closed. So a stranger in TLS takes the 6 KiB of rustls and its task, and
/// [`GREETING`]; all of them take this in addition. 1,000 take 14 MiB at most, where each could
/// take 70 KiB.
pub const GREETINGS: usize = 4 * 1024 * 1024;

/// Bytes that are read at once from a stranger in TLS: how far it may be ahead of what has been
/// opened, in addition to [`GREETING`].
pub const STRANGER_READ: usize = 4 * 1024;

/// What is held for a stranger grows by this many bytes at a time, and is not doubled.
pub const STRANGER_STEP: usize = 1024;

/// A version 2 tunnel that answers its pairing with neither `OPEN` nor `FAIL` within this time is
/// closed.
pub const OPEN_WAIT: Duration = Duration::from_secs(10);

/// The agent's side: how long connecting to the connector or to the target may take. The answer to
/// a pairing is then in time for [`OPEN_WAIT`].
pub const DIAL: Duration = Duration::from_secs(8);

/// The agent's side: the shortest and the longest time for which one address of a name is tried
/// alone, before the next is tried beside it (RFC 8305, section 8: 10 ms and, recommended, 250 ms).
pub const DIAL_PAUSE: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];

/// The agent's side: addresses of a name that are tried at all: [`DIAL`] has time for one each 10 ms.
pub const ADDRESSES: usize = 800;

/// The agent's side: addresses of a name that are tried at one time, with one file each.
pub const DIALS_TOGETHER: usize = 8;

/// The agent's side: how long the connector may take to answer a passcode. It holds a refusal
/// for [`REFUSAL_HOLD`] after it has waited [`PLACE_WAIT`] for a place.
pub const AUTHORIZED: Duration = Duration::from_secs(10);

/// The agent's side: the first and the longest pause between attempts to reach the connector.
pub const REDIAL: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(30)];

/// The agent's side: time between attempts with a passcode that was never accepted, and between
/// attempts to have more tunnels than the mapping allows.
pub const REFUSED_AGAIN: Duration = Duration::from_secs(30);

/// The agent's side: a tunnel that was idle for this long had worked, so that what ended it is a
/// new failure and not the previous one again.
pub const PROVEN_IDLE: Duration = Duration::from_secs(5);

/// The agent's side: tunnels that are dialled at one time; their handshakes share one thread.
pub const DIALING: usize = 128;

/// The agent's side: a session that ends within this time, without a byte from the connector's
/// side, was in vain.
pub const VAIN_SESSION: Duration = Duration::from_secs(1);

/// The agent's side: consecutive sessions in vain after which dialling slows down. Fewer are a
/// burst of users that only connect and leave.
pub const VAIN_SESSIONS: u32 = 32;

/// The agent's side: sessions in vain that are further apart than this do not count as consecutive.
pub const VAIN_FORGOTTEN: Duration = Duration::from_secs(2);

/// The agent's side: once bytes have come from the connector's side in any session, sessions in
/// vain do not count for this long: a user that only connects and leaves, however often, slows down
/// no other.
pub const VAIN_FORGIVEN: Duration = Duration::from_secs(10);

/// The agent's side: how soon to check again for free files when nothing has announced one.
pub const FILES_AGAIN: Duration = Duration::from_secs(1);

/// The agent's side: a limit that was reached is logged at most once in this time.
pub const LIMIT_TOLD: Duration = Duration::from_secs(60);

/// The agent's side: the first and the longest pause between dials while all sessions are in vain:
/// 4 dials a second instead of thousands.
pub const VAIN_DIAL_PAUSE: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(250)];

/// The agent's side: after the connector has refused the certificate or the passcode, or its own
/// was refused, the files are read again no sooner than this.
pub const READ_AGAIN: Duration = Duration::from_secs(3);

/// The agent's side: how long the start waits for what writes a pipe that the command line names in
/// a file's place. Later only files are read.
pub const PIPE_WAIT: Duration = Duration::from_secs(30);

/// The agent's side: longest PROXY header accepted; the connector sends at most 52 bytes.
pub const PROXY_HEADER: usize = 4 * 1024;

/// The agent's side: how long a local connection waits for the other side of the pipe.
pub const LOCAL_WAIT: Duration = Duration::from_secs(15);

/// The agent's side: a session in which one direction has ended is ended after this much silence.
/// The connector ends such sessions after its `finwait`, and must be the first to do so: hence
/// `finwait`'s maximum and a minute. TCP keepalive finds a connector that is gone.
pub const AGENT_FIN_WAIT: Duration = Duration::from_secs(86_400 + 60);

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

/// Connections that the kernel may keep ready on a port: after a restart a mapping's agents come
/// back all at once, and users beyond `pending` wait there. Linux allows 4,096 at most unless told
/// otherwise (`net.core.somaxconn`). A connection for which there is no room is tried again by its
/// own kernel after 1 s, 3 s, ….
pub const BACKLOG: i32 = 4096;

/// How long accepting pauses when no file can be opened.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The start is over after this time, and the memory that only it needed is given back.
pub const STARTED: Duration = Duration::from_millis(300);

/// How often due summaries of repeated log lines are written.
pub const UPKEEP: Duration = Duration::from_secs(5);

/// A control thread that is later than this is reported.
pub const LATE: Duration = Duration::from_millis(250);

/// A stopping daemon does not wait for a private pipe in which nothing has moved for this long (its
/// two ends may stay joined for months), nor for users that have sent nothing for this long after
/// the stop, or stall so long in their handshake (section 7).
pub const STILL: Duration = Duration::from_secs(1);

/// How often a stopping daemon checks whether sessions are left.
pub const DRAIN_CHECK: Duration = Duration::from_millis(10);

/// The same complaint about accepting is logged at most once in this time.
pub const COMPLAINT: Duration = Duration::from_secs(10);

/// Files kept free of pipe connections: for the API, the command line, the state and the logs; half
/// of them also for the ports of mappings that are added.
pub const FILES_RESERVED: usize = 16;

/// One in so many files is the last of them: while less than that is free, connections that have
/// proved nothing hold no more than a port's share of it on each port (section 6).
pub const FILES_SHORT: usize = 4;
/// The least that such a share is: with more ports than files are left for, good peers that come
/// together must still get somewhere.
pub const FEWEST_STRANGERS: usize = 8;

/// Share of the files that the daemon leaves for pipes which the pipes' ports may take. Mappings
/// beyond it stay inactive, and those that are active can serve somebody. Of 1,024 files about 980
/// are left; 735 of them are 367 mappings, and the others 122 sessions at one time.
pub const LISTENERS_SHARE: (usize, usize) = (3, 4);

/// The first and the longest pause between attempts to open the port of an inactive mapping.
pub const PORT_RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// Longest head of an API request (section 3).
pub const HTTP_HEAD: usize = 8 * 1024;
/// Longest body of an API request (section 3).
pub const HTTP_BODY: usize = 64 * 1024;
/// Longest time an API request may take to arrive (section 3).
pub const HTTP_REQUEST: Duration = Duration::from_secs(10);
/// Longest silence of a kept-alive API connection between requests.
pub const HTTP_IDLE: Duration = Duration::from_secs(60);
/// At the limit of API connections, each keeps its slot this long, and [`STRANGER_ROUND_TRIPS`] round
/// trips, after it was last able to proceed; newcomers wait in the kernel's backlog. With
/// [`HTTP_CONNECTIONS`], 1,280 connections that send nothing pass in a second; of a stranger whose
/// connections come in vain, or may not call at all, it is [`VAIN_TURN`].
pub const HTTP_TURN: Duration = Duration::from_millis(200);
/// API connections at one time but for [`HTTP_HANDSHAKES`]; at the limit the one idle longest makes
/// room. What they hold of requests is bounded by [`HTTP_REQUESTS`], and of TLS by [`GREETINGS`].
pub const HTTP_CONNECTIONS: usize = 256;
/// Bytes of a request, head and body, that are always held for it: more than Controllers send.
pub const HTTP_FREE: usize = 2 * 1024;
/// The same bytes beyond [`HTTP_FREE`] of all unanswered requests together; a caller that sends
/// more than is left is told to try again (503). Heads, which anybody may send, are at most half of
/// it: 256 of 8 KiB. With the free bytes that makes 4.5 MiB, where it could be 18.
pub const HTTP_REQUESTS: usize = 4 * 1024 * 1024;
/// What is held of a body grows by this many bytes at a time, and is not doubled.
pub const HTTP_STEP: usize = 4 * 1024;
/// API connections that have begun a TLS handshake and not finished it, in addition to
/// [`HTTP_CONNECTIONS`]: about 10 KB each, and a quarter of the files that may be open at most. So
/// many handshakes at one time keep no caller in the kernel's backlog; those that wait to be
/// answered are taken by port and address in turn.
pub const HTTP_HANDSHAKES: usize = 1024;
/// Bytes of answers that the kernel may keep for an API caller that does not read; with its own
/// overhead, twice as many. Left to itself it keeps up to 4 MiB, and pipelined requests would be
/// answered until those are full.
pub const HTTP_UNREAD: usize = 32 * 1024;
/// The same while the caller takes an answer that is longer than that; the answer then counts in
/// [`HTTP_HELD`] until it has been acknowledged. Enough for 5 MB/s to a caller 100 ms away.
pub const HTTP_FLIGHT: usize = 256 * 1024;
/// The state of at most this many mappings is written out on the control thread, in about 1 ms;
/// that of more, on a thread of its own.
pub const MADE_AT_ONCE: usize = 128;
/// Such threads at one time. Each has the state of all mappings, about 1.3 KB for each of them, and
/// the answer.
pub const MADE_TOGETHER: usize = 2;
/// How soon to check whether such an answer has been taken. Each further pause is twice as long, up
/// to [`CLOSE_CHECK`].
pub const HTTP_TAKEN: Duration = Duration::from_millis(1);
/// Bytes of answers held for all API callers together. Beyond it, the caller that has been taking
/// its answer for the longest time is closed. A single answer may be longer.
pub const HTTP_HELD: usize = 8 * 1024 * 1024;
/// Bytes of an answer that TLS may have encrypted before the kernel has taken them: one record.
pub const HTTP_ENCRYPTED: usize = 16 * 1024;
/// How long an API connection that is closed here may take to be closed by the caller, too.
pub const HTTP_LINGER: Duration = Duration::from_secs(2);
/// Bytes of an unwanted request that are read and dropped in that time, so that its sender reads
/// the answer instead of a reset.
pub const HTTP_DRAIN: usize = 1024 * 1024;

/// First callers of direct connections that wait for the second one, at one time; beyond it, the
/// one that has waited longest is forgotten first: 256 entries of at most 17 KiB.
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
/// The same for `status`, which changes nothing: monitors ask for it, and need to know of a daemon
/// that hangs.
pub const STATUS_WAIT: Duration = Duration::from_secs(5);

/// How often systemd and `stop` are told what a stopping daemon is still waiting for.
pub const DRAIN_TOLD: Duration = Duration::from_secs(1);

/// Changes that may be asked for at one time; further ones are answered 503. Half of
/// [`HTTP_CONNECTIONS`]: a disk that hangs leaves the other half to those who ask for the status.
pub const CHANGES_ASKED: usize = HTTP_CONNECTIONS / 2;
/// State changes that may wait for the disk at one time; further ones wait.
pub const CHANGES_WAITING: usize = 256;

/// Size at which the log file is renamed; one old file is kept.
pub const LOG_FILE: u64 = 1024 * 1024;

/// Bytes that all peers together can make the log write at once, and per hour. The first lines of a
/// kind may use all of it, further lines half. That is at most (64 + 256) KiB in any hour, and 22
/// KiB of "last message repeated" every 10 s: two files of [`LOG_FILE`] hold at least three hours
/// of the worst flood.
pub const LOG_BYTES: f64 = 64.0 * 1024.0;
/// See [`LOG_BYTES`].
pub const LOG_BYTES_HOUR: f64 = 256.0 * 1024.0;

/// Lines of one kind that peers can make the log write at once; after that one line for each
/// [`LOG_KIND_EVERY`], which says how many were left out.
pub const LOG_KIND_LINES: f64 = 10.0;
/// See [`LOG_KIND_LINES`]: 70 lines of a kind in any hour.
pub const LOG_KIND_EVERY: Duration = Duration::from_secs(60);

/// Kinds of log lines that are told apart at one time: 1,024 of at most 500 bytes. Beyond it, what
/// was left out of them is told as one.
pub const LOG_KINDS: usize = 1024;
