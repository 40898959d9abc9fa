//! The API: requests, answers, the changes that they ask for, and direct connections.

use std::time::Duration;

/// Longest head of an API request (section 3).
pub const HTTP_HEAD: usize = 8 * 1024;
/// Longest body of an API request (section 3).
pub const HTTP_BODY: usize = 64 * 1024;
/// Longest time an API request may take to arrive (section 3).
pub const HTTP_REQUEST: Duration = Duration::from_secs(10);
/// Longest silence of a kept-alive API connection between requests.
pub const HTTP_IDLE: Duration = Duration::from_secs(60);
/// At the limit of API connections, each keeps its slot this long, and
/// [`STRANGER_ROUND_TRIPS`](super::STRANGER_ROUND_TRIPS) round trips, after it was last able to
/// proceed; newcomers wait in the kernel's backlog. With [`HTTP_CONNECTIONS`], 1,280 connections
/// that send nothing pass in a second; of a stranger whose connections come in vain, or may not
/// call at all, it is [`VAIN_TURN`](super::VAIN_TURN).
pub const HTTP_TURN: Duration = Duration::from_millis(200);
/// API connections at one time but for [`HTTP_HANDSHAKES`]; at the limit the one idle longest makes
/// room. What they hold of requests is bounded by [`HTTP_REQUESTS`], and of TLS by
/// [`GREETINGS`](super::GREETINGS).
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
/// to [`CLOSE_CHECK`](super::CLOSE_CHECK).
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

/// Changes that may be asked for at one time; further ones are answered 503. Half of
/// [`HTTP_CONNECTIONS`]: a disk that hangs leaves the other half to those who ask for the status.
pub const CHANGES_ASKED: usize = HTTP_CONNECTIONS / 2;
/// State changes that may wait for the disk at one time; further ones wait.
pub const CHANGES_WAITING: usize = 256;
