//! The daemon as a process: threads, files, ports, start and stop, and what the command line asks of it.

use std::time::Duration;

/// Threads that may block at one time, each for a change of the state.
pub const BLOCKING_THREADS: usize = 8;

/// Connections that the kernel may keep ready on a port: after a restart a mapping's agents come
/// back all at once, and users beyond `pending` wait there. Linux allows 4,096 at most unless told
/// otherwise (`net.core.somaxconn`). A connection for which there is no room is tried again by its
/// own kernel after 1 s, 3 s, ….
pub const BACKLOG: i32 = 4096;

/// How long accepting pauses when no file can be opened.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The start is over after this time, and the memory that only it needed is given back.
pub const STARTED: Duration = Duration::from_millis(300);

/// By then every port of a mapping was tried after the start, or what is said of them is said without. 20,000 mappings
/// take less than a second.
pub const PORTS_TRIED: Duration = Duration::from_secs(5);

/// How often due summaries of repeated log lines are written.
pub const UPKEEP: Duration = Duration::from_secs(5);

/// A limit is over once it is reached no longer, and nobody has found it so for this long.
pub const LIMIT_OVER: Duration = Duration::from_secs(10);

/// Events that are kept: the last ones. Each is at most 760 bytes, all of them 152 KB; they are allocated as they come.
/// What strangers can cause is at most half of them.
pub const EVENTS: usize = 200;
/// Bytes of an event's message; what is longer is cut. It is room for a sentence with a path of 200 bytes in it.
pub const EVENT_MESSAGE: usize = 500;
/// An event that comes again within this time, in milliseconds, is counted.
pub const EVENT_AGAIN: u64 = 60_000;

/// A control thread that is later than this is reported.
pub const LATE: Duration = Duration::from_millis(250);

/// A stopping daemon does not wait for a private pipe in which nothing has moved for this long (its
/// two ends may stay joined for months), nor for users that have sent nothing for this long after
/// the stop, or stall so long in their handshake (section 7).
pub const STILL: Duration = Duration::from_secs(1);

/// How often a stopping daemon checks whether sessions are left.
pub const DRAIN_CHECK: Duration = Duration::from_millis(10);

/// Between two looks at all mappings a daemon whose place another one has taken rests as many times as long as the look
/// has taken: an eleventh of a core at most, however many mappings there are and sessions end.
pub const LOOK_RESTS: u32 = 10;

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

/// The first and the longest pause between attempts to open the port of an inactive mapping, or the
/// local port of one of many tunnels.
pub const PORT_RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// Longest answer that the command line takes from the daemon: the status of 32,767 mappings, two
/// ports each, of about 1 KiB.
pub const CONTROL_ANSWER: usize = 64 * 1024 * 1024;
/// Longest time the command line waits for the daemon's answer.
pub const CONTROL_WAIT: Duration = Duration::from_secs(30);
/// The same for `status`, which changes nothing: monitors ask for it, and need to know of a daemon
/// that hangs.
pub const STATUS_WAIT: Duration = Duration::from_secs(5);

/// By when a program that is to take another one's place has opened everything: a thousand mappings take a slow card
/// a few seconds.
pub const HEIR_READY: Duration = Duration::from_secs(30);

/// How long it and the one before wait for each other's word when nothing but the word is missing.
pub const HEIR_TAKES: Duration = Duration::from_secs(10);

/// How long a new program that was given up has to end by itself, before it is killed. Locks that it took are tried again
/// for longer ([`HEIR_TAKES`]).
pub const HEIR_ENDS: Duration = Duration::from_secs(5);

/// By when one that was started serves, or is killed whatever the daemon says. That gives it up sooner: it waits
/// [`HEIR_TAKES`] for whoever starts it, for its first word, until it has taken its files, and for its last word, and
/// [`HEIR_READY`] until it is ready.
pub const HEIR_SERVES: Duration = HEIR_READY.saturating_add(HEIR_TAKES.saturating_mul(4));

/// New programs that have been started and have not ended, at most: the one that serves next, and some that hang.
pub const HEIRS: usize = 4;

/// How long users that have not been given a tunnel yet may wait for one at a program whose place was taken: as long
/// as `userwait`, and this at most. Its idle tunnels wait as long.
pub const LEFT_WAITING: Duration = Duration::from_secs(60);

/// The longest dump: 80,000 connections of 200 bytes each. Two are kept.
pub const DUMP_BYTES: usize = 16 * 1024 * 1024;
/// A dump that nobody has written to for this long is one whose process was ended meanwhile: a slow disk takes 1 MiB in a
/// second.
pub const DUMP_LEFT: Duration = Duration::from_secs(60);
/// Lines of a dump that are written in a row, about 1 µs each: then others have their turn.
pub const DUMP_TURN: u64 = 128;
/// How long a worker may take to tell of its sessions, before the dump says that it is held up.
pub const DUMP_WAIT: Duration = Duration::from_secs(5);

/// How often systemd and `stop` are told what a stopping daemon is still waiting for.
pub const DRAIN_TOLD: Duration = Duration::from_secs(1);
