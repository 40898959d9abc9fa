//! The log: its file, and how many lines peers may cause.

use std::time::Duration;

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
