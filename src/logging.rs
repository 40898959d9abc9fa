//! The daemon's log: the `log` facade to syslog or the journal, to a file and to stderr.
//!
//! Owns the level and the count of lost messages. [`message`] makes a line of each, [`writer`] leaves
//! out what is repeated, [`budget`] what peers cause beyond a bound; [`sink`] is a way out, [`mod@line`] what
//! each writes. It knows nothing of what is logged.
//!
//! # What a line is about
//! For programs that read the log (settings `logformat` and `syslogformat`, and the journal's fields), a line
//! may have `event`, `mapping`, `name`, `port` and `peer`, in this order, as the `log` crate's key-values:
//! `log::info!(event = Event::Started.word(); "…")`. They are put into words only where somebody takes them.
//!
//! # Lines that peers can cause
//! Every line at `info` or above is bounded by its kind: the place in the source that logs it, and
//! its target. So whoever logs something about a mapping names it, `log::warn!(target: id, …)`, and
//! each mapping has lines of its own; a function that logs for its callers is `#[track_caller]`,
//! so that each of them is a kind. Lines that are left out are counted, and the count is logged within
//! minutes. Nobody has to think of a bound when a line is added, whatever a peer may put in it.
//!
//! Two sorts of lines are not bounded: those with the target [`ALWAYS`], about the daemon's own life
//! and what its operator asked for, which no stranger can cause; and those at `debug` and `trace`.
//!
//! A message is written in the thread that logs it: to syslog and stderr without ever waiting,
//! to the file by one small write into the kernel's cache, with no sync. No failure here reaches the
//! caller: the message is counted as lost, and the sink logs how many were lost once it works again.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::text::reason;
use budget::Kind;
use file::File;
pub use gate::Gate;
use journal::Journal;
pub use line::Formats;
use line::Line;
use message::escape;
use sink::CountingSink;
use stderr::Stderr;
pub use stderr::leads_to_journal;
use syslog::Syslog;
pub use utc::Utc;
use writer::Writer;

mod budget;
mod file;
mod gate;
mod journal;
mod line;
mod message;
mod sink;
mod stderr;
mod syslog;
mod utc;
mod writer;

/// Where syslog listens when no `--syslog` says otherwise.
pub const SYSLOG: &str = "/dev/log";

/// Given as `--syslog`: log to no syslog, and report none as missing.
pub const NO_SYSLOG: &str = "none";

/// The log file's name in its folder; the old one has `.old` behind it. `.1` is logrotate's.
pub const FILE: &str = "iofog-connector.log";

/// The target of lines that are written however many there are: no stranger can cause them, or the
/// operator has asked for them (`connectionlog`).
pub const ALWAYS: &str = "always";

/// The log. Clones are handles to the same one; any thread may use them.
#[derive(Clone)]
pub struct Logging(Arc<Shared>);

struct Shared {
    writer: Mutex<Writer>,
    lost: AtomicU64,
    on_stderr: bool,
    /// Whether the log file took nothing when that was last asked for, to tell it.
    faulty: AtomicBool,
    /// Whether the journal takes what lines are about, whatever the formats.
    on_journal: bool,
    /// Whether anybody takes what lines are about.
    with_fields: AtomicBool,
}

impl Logging {
    /// Opens the ways out: the journal (with stderr connected to it) or syslog at the socket
    /// `syslog` (unless that is [`NO_SYSLOG`]), the file in `dir`, and stderr when it is a terminal or
    /// a pipe. What cannot be opened is tried again at each message; this never fails.
    pub fn new(dir: &Path, syslog: &Path) -> Self {
        let mut sinks = Vec::new();
        let stderr = Stderr::find();
        let on_stderr = stderr.is_some();
        let on_journal = stderr.as_ref().is_some_and(Stderr::is_journal);
        if !on_journal && syslog != Path::new(NO_SYSLOG) {
            sinks.push(CountingSink::new(Syslog::new(syslog)));
        }
        sinks.extend(stderr.map(|stderr| match on_journal {
            true => CountingSink::new(Journal::new(journal::SOCKET, stderr)),
            false => CountingSink::new(stderr),
        }));
        sinks.push(CountingSink::new(File::new(&dir.join(FILE))));
        Self::with(sinks, on_stderr, on_journal)
    }

    /// Opens stderr alone, wherever it leads, with levels for the journal: for a program that a
    /// person or a unit of its own runs beside the daemon.
    pub fn on_stderr() -> Self {
        Self::with(vec![CountingSink::new(Stderr::any())], true, false)
    }

    fn with(sinks: Vec<CountingSink>, on_stderr: bool, on_journal: bool) -> Self {
        let writer = Mutex::new(Writer::new(sinks, Instant::now()));
        Logging(Arc::new(Shared {
            writer,
            lost: AtomicU64::new(0),
            on_stderr,
            faulty: AtomicBool::new(false),
            on_journal,
            with_fields: AtomicBool::new(on_journal),
        }))
    }

    /// Whether messages appear on stderr, so that an error need not be printed there as well.
    pub fn is_on_stderr(&self) -> bool {
        self.0.on_stderr
    }

    /// Writes no more log lines to a plain stderr, so that messages to the operator can look like those
    /// of a command. `false` where stderr leads to the journal, which gets log lines in any case.
    pub fn leave_stderr(&self) -> bool {
        let sinks = &mut self.lock().sinks;
        let others = sinks.len();
        sinks.retain(|sink| !sink.is_plain_stderr());
        !self.0.on_stderr || sinks.len() < others
    }

    /// Why the log file takes nothing now: a sentence for the operator.
    pub fn file_fault(&self) -> Option<String> {
        self.lock().sinks.iter().find_map(CountingSink::fault)
    }

    /// The log file's fault, or that it is over; `None` where that is as it was at the last call.
    pub fn file_fault_changed(&self) -> Option<Option<String>> {
        let fault = self.file_fault();
        let was_faulty = self.0.faulty.swap(fault.is_some(), Ordering::Relaxed);
        (was_faulty != fault.is_some()).then_some(fault)
    }

    /// Makes this the process's log. Only the first one installed counts; a second is ignored.
    pub fn install(&self, level: LevelFilter) {
        self.set_level(level);
        // An error says that a logger is there already, which is what was asked for.
        let _ = log::set_boxed_logger(Box::new(self.clone()));
    }

    /// Changes the least important level that is logged.
    pub fn set_level(&self, level: LevelFilter) {
        log::set_max_level(level);
    }

    /// Writes lines in these formats from now on.
    pub fn set_formats(&self, formats: Formats) {
        let with_fields = self.0.on_journal || formats.json || formats.structured;
        self.0.with_fields.store(with_fields, Ordering::Relaxed);
        self.lock().set_formats(formats);
    }

    /// Opens the log file again, after it has been moved away (SIGHUP).
    pub fn reopen(&self) {
        for sink in &mut self.lock().sinks {
            sink.reopen();
        }
    }

    /// Writes due summaries of lines that were repeated or left out. The daemon calls it every few
    /// seconds; it is cheap when there is nothing to write.
    pub fn tick(&self) {
        self.tick_at(Instant::now());
    }

    /// Messages lost since the start, summed over syslog, file and stderr.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Logs an error from a panic hook: gives up after 100 ms, because the thread that panics
    /// may be the one that is logging.
    pub fn last_words(&self, message: &str) {
        for _ in 0..10 {
            match self.0.writer.try_lock() {
                Ok(mut writer) => return self.log_at(&mut writer, Level::Error, message),
                Err(TryLockError::Poisoned(writer)) => {
                    return self.log_at(&mut writer.into_inner(), Level::Error, message);
                }
                Err(TryLockError::WouldBlock) => {
                    std::thread::park_timeout(Duration::from_millis(10))
                }
            }
        }
    }

    fn log_at(&self, writer: &mut Writer, level: Level, message: &str) {
        let line = Line::plain(level, escape(format_args!("{message}")));
        self.add_lost(writer.log(None, line, Instant::now()));
    }

    fn tick_at(&self, now: Instant) {
        let lost = self.lock().tick(now);
        self.add_lost(lost);
    }

    fn add_lost(&self, count: u64) {
        self.0.lost.fetch_add(count, Ordering::Relaxed);
    }

    /// A panic elsewhere does not end logging: the writer is consistent after every statement.
    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Logging {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // Formatted before the lock is taken: a value's own Display may log.
            let line = Line::of(record, self.0.with_fields.load(Ordering::Relaxed));
            let bounded = record.level() <= Level::Info && record.target() != ALWAYS;
            let kind = bounded.then(|| Kind::of(record));
            let lost = self.lock().log(kind, line, Instant::now());
            self.add_lost(lost);
        }
    }

    /// Writes summaries of what was repeated or left out now, before the process ends.
    fn flush(&self) {
        let lost = self.lock().flush();
        self.add_lost(lost);
    }
}

/// Why a daemon could not write a log file in `dir`, as far as that shows without writing: a sentence
/// for `check`.
pub fn doubt(dir: &Path) -> Option<String> {
    file::doubt(&dir.join(FILE))
}

/// Why nobody takes lines at `syslog`: a sentence for the operator.
pub fn syslog_doubt(syslog: &Path) -> Option<String> {
    if syslog == Path::new(NO_SYSLOG) {
        return None;
    }
    let why = match fs::metadata(syslog) {
        Ok(found) if found.file_type().is_socket() => return None,
        Ok(_) => "it is no socket".into(),
        Err(error) => reason::reading(syslog, &error),
    };
    Some(format!(
        "--syslog {}: {why}; lines for syslog are lost there: name syslog's socket, or `none` (for \
         the service in DAEMON_OPTIONS of /etc/default/iofog-connector)",
        syslog.display()
    ))
}

#[cfg(test)]
mod tests;
