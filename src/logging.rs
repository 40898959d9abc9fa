//! The daemon's log: the `log` facade to syslog or the journal, to a file and to stderr.
//!
//! Owns the level, the escaping, the summary of repeated lines and the count of lost messages;
//! [`sink`] owns the ways out, [`budget`] how much peers may make it write. It knows nothing of
//! what is logged.
//!
//! # Lines that peers can cause
//! Every line at `info` or above is bounded by its kind: the place in the source that logs it, and
//! its target. So whoever logs something about a mapping names it, `log::warn!(target: id, …)`, and
//! each mapping has lines of its own; a function that logs for its callers is `#[track_caller]`,
//! so that each of them is a kind. What is left out is counted and told within minutes. Nobody has
//! to think of a bound when a line is added, whatever a peer may put in it.
//!
//! Two sorts of lines are not bounded: those with the target [`ALWAYS`], of the daemon's own life
//! and of what its operator asked for, which no stranger can cause; and those at `debug` and `trace`.
//!
//! A message is written in the thread that logs it: to syslog and stderr without ever waiting,
//! to the file by one small write into the kernel's cache, with no sync. Nothing that goes wrong
//! here reaches the caller. The message is counted as lost, and the sink says how many were when
//! it works again.

use std::fmt::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};

use budget::{Budget, Kind};
pub use gate::Gate;
use sink::Counted;
pub use utc::Utc;

mod budget;
mod gate;
mod sink;
mod utc;

/// Where syslog listens when no `--syslog` says otherwise.
pub const SYSLOG: &str = "/dev/log";

/// Given as `--syslog`: there is none, and none is missed.
pub const NO_SYSLOG: &str = "none";

/// The log file's name in its folder; the old one has `.old` behind it. `.1` is logrotate's.
pub const FILE: &str = "iofog-connector.log";

/// The target of lines that are written however many there are: no stranger can cause them, or the
/// operator has asked for them (`connectionlog`).
pub const ALWAYS: &str = "always";

/// Longest message in bytes, after escaping; the rest is cut off and "…" says so. Syslog
/// receivers take at least 2,048 bytes (RFC 5424, section 6.1), of which the head takes some.
const MESSAGE: usize = 1900;

/// A line that comes again within this time of the last one is counted instead of written; a
/// count is written no later than this after its first line.
const REPEAT: Duration = Duration::from_secs(10);

/// The log. Clones are handles to the same one; any thread may use them.
#[derive(Clone)]
pub struct Logging(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    lost: AtomicU64,
    on_stderr: bool,
}

struct State {
    sinks: Vec<Counted>,
    last: Option<Last>,
    budget: Budget,
}

/// The line written last, and how often it came since.
struct Last {
    level: Level,
    message: String,
    seen: Instant,
    repeats: u64,
    first_repeat: Instant,
    bounded: bool,
}

impl Logging {
    /// Opens the ways out: the journal (with stderr connected to it) or syslog at the socket
    /// `syslog` (unless that is [`NO_SYSLOG`]), the file in `dir`, and stderr when it is a terminal or a pipe. What cannot be
    /// opened is tried again at each message; this never fails.
    pub fn new(dir: &Path, syslog: &Path) -> Self {
        let mut sinks = Vec::new();
        let stderr = sink::Stderr::find();
        let on_stderr = stderr.is_some();
        let on_journal = stderr.as_ref().is_some_and(sink::Stderr::is_journal);
        if !on_journal && syslog != Path::new(NO_SYSLOG) {
            sinks.push(Counted::new(sink::Syslog::new(syslog)));
        }
        sinks.extend(stderr.map(Counted::new));
        sinks.push(Counted::new(sink::File::new(&dir.join(FILE))));
        Self::with(sinks, on_stderr)
    }

    /// Opens stderr alone, wherever it leads, with levels for the journal: for a program that a
    /// person or a unit of its own runs beside the daemon.
    pub fn on_stderr() -> Self {
        Self::with(vec![Counted::new(sink::Stderr::any())], true)
    }

    fn with(sinks: Vec<Counted>, on_stderr: bool) -> Self {
        let state = Mutex::new(State { sinks, last: None, budget: Budget::new(Instant::now()) });
        Logging(Arc::new(Shared { state, lost: AtomicU64::new(0), on_stderr }))
    }

    /// Whether messages appear on stderr, so that an error need not be printed there as well.
    pub fn is_on_stderr(&self) -> bool {
        self.0.on_stderr
    }

    /// Takes plain lines off stderr, for messages to the operator in the form of a command's; `false`
    /// where stderr leads to the journal, which has them as log lines anyway.
    pub fn leave_stderr(&self) -> bool {
        let sinks = &mut self.lock().sinks;
        let others = sinks.len();
        sinks.retain(|sink| !sink.is_plain_stderr());
        !self.0.on_stderr || sinks.len() < others
    }

    /// Why the log file takes nothing now: a sentence for the operator.
    pub fn file_fault(&self) -> Option<String> {
        self.lock().sinks.iter().find_map(Counted::fault)
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

    /// Opens the log file again, after it has been moved away (SIGHUP).
    pub fn reopen(&self) {
        for sink in &mut self.lock().sinks {
            sink.reopen();
        }
    }

    /// Writes due summaries of lines that were repeated or left out. The daemon calls it every few seconds; it is
    /// cheap when there is nothing to write.
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
            match self.0.state.try_lock() {
                Ok(mut state) => return self.log_at(&mut state, Level::Error, message),
                Err(TryLockError::Poisoned(state)) => {
                    return self.log_at(&mut state.into_inner(), Level::Error, message);
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn log_at(&self, state: &mut State, level: Level, message: &str) {
        let message = escape(format_args!("{message}"));
        self.add_lost(state.log(None, level, message, Instant::now()));
    }

    fn tick_at(&self, now: Instant) {
        let mut state = self.lock();
        let due = |last: &Last| last.repeats > 0 && now >= last.first_repeat + REPEAT;
        if state.last.as_ref().is_some_and(due) {
            self.add_lost(state.summarise());
        }
        while let Some((level, line)) = state.budget.summary(now) {
            self.add_lost(state.summarise() + state.write(level, &line));
            state.last = None;
        }
    }

    fn add_lost(&self, count: u64) {
        self.0.lost.fetch_add(count, Ordering::Relaxed);
    }

    /// A panic elsewhere does not end logging: the state is whole after every statement.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Logging {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // Formatted before the lock is taken: a value's own Display may log.
            let message = escape(*record.args());
            let bounded = record.level() <= Level::Info && record.target() != ALWAYS;
            let kind = bounded.then(|| Kind::of(record));
            let lost = self.lock().log(kind, record.level(), message, Instant::now());
            self.add_lost(lost);
        }
    }

    /// Writes summaries of what was repeated or left out now, before the process ends.
    fn flush(&self) {
        let mut state = self.lock();
        let mut lost = state.summarise();
        for (level, line) in state.budget.last_summaries() {
            lost += state.write(level, &line);
        }
        self.add_lost(lost);
    }
}

impl State {
    /// Writes or counts a message, which is bounded if it has a kind; returns how many were lost on
    /// the way.
    fn log(&mut self, kind: Option<Kind>, level: Level, message: String, now: Instant) -> u64 {
        if let Some(last) = &mut self.last {
            let soon = now < last.seen + REPEAT;
            if soon && last.level == level && last.message == message {
                if last.repeats == 0 {
                    last.first_repeat = now;
                }
                last.repeats += 1;
                last.seen = now;
                return 0;
            }
        }
        let bounded = kind.is_some();
        if !kind.is_none_or(|kind| self.budget.admit(kind, level, &message, now)) {
            return 0;
        }
        let lost = self.summarise() + self.write(level, &message);
        self.last =
            Some(Last { level, message, seen: now, repeats: 0, first_repeat: now, bounded });
        lost
    }

    fn summarise(&mut self) -> u64 {
        let Some(last) = &mut self.last else { return 0 };
        let level = last.level;
        let summary = match std::mem::take(&mut last.repeats) {
            0 => return 0,
            1 if !last.bounded => last.message.clone(),
            1 => "last message repeated once".to_owned(),
            repeats => format!("last message repeated {repeats} times"),
        };
        if last.bounded {
            self.budget.charge(summary.len());
        }
        self.write(level, &summary)
    }

    fn write(&mut self, level: Level, message: &str) -> u64 {
        self.sinks.iter_mut().map(|sink| u64::from(!sink.write(level, message))).sum()
    }
}

/// Why a daemon would write no log file in `dir`, as far as looking tells, for `check`: a sentence.
pub fn doubt(dir: &Path) -> Option<String> {
    sink::doubt(&dir.join(FILE))
}

/// One message on one line, at most [`MESSAGE`] bytes: whatever could end the line, move a
/// terminal's cursor or turn the text's direction is written as an escape.
fn escape(message: fmt::Arguments<'_>) -> String {
    let mut line = Line { text: String::new(), full: false };
    // The only error is the one that says the line is full.
    if line.write_fmt(message).is_err() && line.full {
        line.text.push('…');
    }
    line.text
}

struct Line {
    text: String,
    full: bool,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            let before = self.text.len();
            match char {
                '\n' | '\r' | '\t' => self.text.extend(char.escape_default()),
                '\0'..='\x1f' | '\x7f' => write!(self.text, "\\x{:02x}", u32::from(char))?,
                // C1 controls, line separators, and marks that reorder what stands around them.
                '\u{80}'..='\u{9f}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}' => self.text.extend(char.escape_unicode()),
                char => self.text.push(char),
            }
            if self.text.len() > MESSAGE {
                self.text.truncate(before);
                self.full = true;
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// A folder of its own, removed when dropped.
    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("logging-{}", uuid::Uuid::new_v4()));
            fs::create_dir(&path).unwrap();
            Folder(path)
        }

        fn log(&self) -> String {
            fs::read_to_string(self.0.join(FILE)).unwrap_or_default()
        }

        /// The messages in the log, without time and level.
        fn messages(&self) -> Vec<String> {
            self.log().lines().map(|line| line[27..].to_owned()).collect()
        }

        fn logging(&self) -> Logging {
            Logging::with(vec![Counted::new(sink::File::new(&self.0.join(FILE)))], false)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn say(logging: &Logging, message: &str, now: Instant) {
        let message = escape(format_args!("{message}"));
        let lost = logging.lock().log(None, Level::Info, message, now);
        logging.add_lost(lost);
    }

    #[test]
    fn one_line_in_is_one_line_out() {
        for (message, line) in [
            ("plain % text \\ é 漢", "plain % text \\ é 漢"),
            ("two\nlines\r\n\tthree", "two\\nlines\\r\\n\\tthree"),
            ("\x1b[31mred\x07\0\x7f", "\\x1b[31mred\\x07\\x00\\x7f"),
            ("\u{9b}c \u{2028} \u{202e}", "\\u{9b}c \\u{2028} \\u{202e}"),
        ] {
            assert_eq!(escape(format_args!("{message}")), line);
        }
        let broken = String::from_utf8_lossy(b"half \xe6\xbc");
        assert_eq!(escape(format_args!("{broken}")), "half \u{fffd}");
    }

    #[test]
    fn a_message_is_cut_at_its_bound() {
        let fits = "x".repeat(MESSAGE);
        assert_eq!(escape(format_args!("{fits}")), fits);
        let long = escape(format_args!("{fits}\n"));
        assert_eq!(long, format!("{fits}…"));
    }

    #[test]
    fn repeated_lines_are_summarised() {
        let folder = Folder::new();
        let logging = folder.logging();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for _ in 0..4 {
            say(&logging, "again", at(0));
        }
        say(&logging, "other", at(1));
        say(&logging, "other", at(2));
        say(&logging, "third", at(3));
        assert_eq!(
            folder.messages(),
            ["again", "last message repeated 3 times", "other", "other", "third"]
        );
        say(&logging, "third", at(4));
        say(&logging, "third", at(5));
        logging.tick_at(at(13));
        assert_eq!(folder.messages().len(), 5, "not due yet");
        logging.tick_at(at(14));
        logging.tick_at(at(15));
        assert_eq!(folder.messages()[5..], ["last message repeated 2 times"]);
        say(&logging, "third", at(40));
        assert_eq!(folder.messages()[6..], ["third"], "after a while it is news again");
    }

    #[test]
    fn floods_leave_room_for_the_daemons_own_lines() {
        let folder = Folder::new();
        let logging = folder.logging();
        let log = |target: &str, message: fmt::Arguments<'_>| {
            let mut record = Record::builder();
            record.level(Level::Info).file_static(Some("a.rs")).line(Some(1));
            logging.log(&record.target(target).args(message).build());
        };
        log::set_max_level(LevelFilter::Info);
        for number in 0..2000 {
            let mapping = ["m1", "m2"][number % 2];
            log(mapping, format_args!("{mapping}: agent 10.0.0.{number} refused"));
            if number % 100 == 0 {
                log(ALWAYS, format_args!("mapping {number} added"));
            }
        }
        let messages = folder.messages();
        let count = |what: &str| messages.iter().filter(|line| line.contains(what)).count();
        assert_eq!((count("m1: "), count("m2: "), count(" added")), (10, 10, 20), "{messages:?}");
        logging.flush();
        let messages = folder.messages();
        let end = "m1: agent 10.0.0.1998 refused (and 989 more like it, left out)";
        assert!(messages.iter().any(|line| line == end), "{messages:?}");
    }

    #[test]
    fn a_line_that_is_left_out_reaches_no_file_and_is_put_into_words_no_further_than_its_bound() {
        /// A text without end; it counts how much of it was asked for.
        struct Endless<'a>(&'a std::cell::Cell<usize>);
        impl fmt::Display for Endless<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    assert!(self.0.get() < 1 << 22, "it goes on for ever");
                    self.0.set(self.0.get() + 10);
                    f.write_str("0123456789")?;
                }
            }
        }
        log::set_max_level(LevelFilter::Info);
        let folder = Folder::new();
        let logging = folder.logging();
        let log = |message: fmt::Arguments<'_>| {
            let mut record = Record::builder();
            record.level(Level::Warn).file_static(Some("a.rs")).line(Some(2)).target("m1");
            logging.log(&record.args(message).build());
        };
        let start = Instant::now();
        const LINES: usize = 2000;
        for number in 0..LINES {
            log(format_args!("m1: agent 10.0.0.{number} refused"));
        }
        eprintln!("a line took {:?}, nearly all of them left out", start.elapsed() / LINES as u32);
        let before = folder.log();
        let asked = std::cell::Cell::new(0);
        for number in 0..100 {
            log(format_args!("m1: {number} {}", Endless(&asked)));
        }
        assert!(asked.get() <= 100 * (MESSAGE + 10), "{} bytes for 100 lines", asked.get());
        assert!(folder.log() == before, "they are left out");
    }

    #[test]
    fn lines_of_the_file_have_a_time_and_a_level() {
        let folder = Folder::new();
        let logging = folder.logging();
        say(&logging, "hello\nworld", Instant::now());
        let log = folder.log();
        assert_eq!(log.len(), "2026-01-01T00:00:00Z INFO  hello\\nworld\n".len());
        assert!(log.ends_with("Z INFO  hello\\nworld\n"), "{log}");
    }

    #[test]
    fn no_folder_loses_a_count_and_says_so_later() {
        let folder = Folder::new();
        let place = folder.0.join("place");
        fs::write(&place, "a file where the folder should be").unwrap();
        let logging = Logging::with(vec![Counted::new(sink::File::new(&place.join(FILE)))], false);
        say(&logging, "one", Instant::now());
        say(&logging, "two", Instant::now());
        assert_eq!(logging.lost(), 2);
        fs::remove_file(&place).unwrap();
        say(&logging, "three", Instant::now());
        let log = fs::read_to_string(place.join(FILE)).unwrap();
        let messages: Vec<_> = log.lines().map(|line| &line[27..]).collect();
        assert_eq!(messages, ["2 messages lost", "three"]);
        assert_eq!(logging.lost(), 2);
    }

    #[test]
    fn syslog_comes_and_goes_without_blocking() {
        let folder = Folder::new();
        let path = folder.0.join("log");
        let logging = Logging::with(vec![Counted::new(sink::Syslog::new(&path))], false);
        let mut number = 0;
        let mut say = |count: usize| {
            for _ in 0..count {
                number += 1;
                super::tests::say(&logging, &format!("message {number}"), Instant::now());
            }
        };
        let receive = |socket: &UnixDatagram| {
            socket.set_nonblocking(true).unwrap();
            let mut buffer = [0; 4096];
            let mut all = Vec::new();
            while let Ok(length) = socket.recv(&mut buffer) {
                all.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            all
        };

        say(3);
        assert_eq!(logging.lost(), 3, "no syslogd");
        let first = UnixDatagram::bind(&path).unwrap();
        say(1);
        let head = format!("<30>iofog-connector[{}]: ", std::process::id());
        let warning = format!("<28>iofog-connector[{}]: ", std::process::id());
        assert_eq!(
            receive(&first),
            [format!("{warning}3 messages lost"), format!("{head}message 4")]
        );

        say(2000);
        let lost = logging.lost();
        assert!(lost > 1000, "a stopped syslogd fills its queue: {lost}");
        receive(&first);

        drop(first);
        say(1);
        fs::remove_file(&path).unwrap();
        let second = UnixDatagram::bind(&path).unwrap();
        say(1);
        let received = receive(&second);
        assert_eq!(received.len(), 2, "{received:?}");
        assert!(received[0].ends_with(" messages lost"), "{received:?}");
        assert!(received[1].ends_with("message 2006"), "{received:?}");
    }

    #[test]
    fn syslog_that_takes_streams_gets_whole_messages_and_blocks_nobody() {
        use std::io::Read;
        use std::os::unix::net::UnixListener;

        let folder = Folder::new();
        let path = folder.0.join("log");
        let syslogd = UnixListener::bind(&path).unwrap();
        // Who should have connected has by the time it is looked for.
        syslogd.set_nonblocking(true).unwrap();
        let logging = Logging::with(vec![Counted::new(sink::Syslog::new(&path))], false);
        let head = format!("<30>iofog-connector[{}]: ", std::process::id());
        say(&logging, "one", Instant::now());
        say(&logging, "two", Instant::now());
        let (mut first, _) = syslogd.accept().unwrap();
        let mut text = vec![0; 2 * (head.len() + 4)];
        first.read_exact(&mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), format!("{head}one\0{head}two\0"));

        for number in 0..5000 {
            say(&logging, &format!("message {number} {}", "x".repeat(100)), Instant::now());
        }
        assert!(logging.lost() > 1000, "a stopped syslogd's queue fills up: {}", logging.lost());
        // It is restarted: what was cut there is whole on the new connection.
        drop(first);
        say(&logging, "after", Instant::now());
        let (mut second, _) = syslogd.accept().unwrap();
        say(&logging, "last", Instant::now());
        drop(logging);
        let mut text = String::new();
        second.read_to_string(&mut text).unwrap();
        let messages: Vec<_> = text.split_terminator('\0').collect();
        assert!(messages.iter().all(|message| message.starts_with('<')), "{messages:?}");
        assert!(messages[0].ends_with(" messages lost"), "{messages:?}");
        assert_eq!(messages[1..], [format!("{head}after"), format!("{head}last")]);
    }

    #[test]
    fn last_words_do_not_wait_for_ever() {
        let folder = Folder::new();
        let logging = folder.logging();
        {
            let _held = logging.lock();
            logging.last_words("panic");
        }
        assert_eq!(folder.log(), "");
        logging.last_words("panic");
        assert_eq!(folder.messages(), ["panic"]);
    }
}
