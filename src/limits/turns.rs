//! What one peer may cause before others have their turn.

use std::time::Duration;

/// What one peer may cause in one turn, between two looks at the kernel: bytes, or what counts as
/// bytes ([`RECORD_COST`], [`EMPTY_RECORD_COST`]). A turn takes about 0.1 ms on a processor of
/// 2020; everybody else on the thread may have to wait that long for each peer that floods.
pub const TURN_BYTES: usize = 64 * 1024;

/// An idle tunnel that has used up a turn, with 60 heartbeats for instance, is read again after
/// this time. Sixty tunnels that send heartbeats without a pause then take a tenth of a processor
/// of 2020.
pub const PACE: Duration = Duration::from_millis(250);

/// What a read in plain TCP, a record in TLS or one more heartbeat counts in addition to its bytes:
/// opening, checking and passing on a single byte takes 2 µs, as long as 1 KiB.
pub const RECORD_COST: usize = 1024;

/// What a record without data counts: it may change the keys, which takes 5 µs or more.
pub const EMPTY_RECORD_COST: usize = 4 * 1024;

/// Records without data that one peer may send before it rests: a turn full. It rests until every
/// peer of the thread that rests has had [`REST`], one after the other, or for [`LONGEST_REST`]. So
/// all of them together take a tenth of a thread (up to 1,000 that rest at one time), and a session
/// can still change its keys a thousand times more often than anybody needs. A thread that was
/// late, or had no peer at rest, makes up for at most [`REST_MADE_UP`].
pub const EMPTY_RECORDS: usize = TURN_BYTES / EMPTY_RECORD_COST;
/// See [`EMPTY_RECORDS`].
pub const REST: Duration = Duration::from_millis(1);
/// See [`EMPTY_RECORDS`].
pub const REST_MADE_UP: Duration = Duration::from_millis(50);
/// See [`EMPTY_RECORDS`].
pub const LONGEST_REST: Duration = Duration::from_secs(1);
