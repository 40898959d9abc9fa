//! The way out to stderr: the journal's stream, a terminal or a pipe.

use std::io::{self, Write};
use std::sync::OnceLock;

use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Stat, fstat};
use syslog::Severity;

use super::line::{Formats, Line};
use super::sink::{Sink, send_line};
use super::utc::Utc;

/// Whether stderr leads to the journal, which takes a line's level from a prefix, as in `<3>`.
pub fn leads_to_journal() -> bool {
    // As it was first found: the process's sandbox does not let it look again.
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
    })
}

/// Stderr, when somebody reads it.
pub(super) struct Stderr {
    kind: Kind,
    /// What the journal's socket did not take of the last line; it goes first.
    rest: Vec<u8>,
    /// Whether plain lines are JSON.
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A stream to the journal, which takes the level from a prefix.
    Journal,
    /// A terminal or a pipe.
    Plain,
}

impl Stderr {
    /// Stderr, if it leads to the journal (as `JOURNAL_STREAM` says), a terminal or a pipe. A
    /// file or `/dev/null` is left alone.
    pub(super) fn find() -> Option<Self> {
        let is_pipe = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
        let kind = if leads_to_journal() {
            Kind::Journal
        } else if rustix::termios::isatty(io::stderr()) || fstat(io::stderr()).is_ok_and(is_pipe) {
            Kind::Plain
        } else {
            return None;
        };
        Some(Stderr { kind, rest: Vec::new(), json: false })
    }

    /// Stderr, whatever it leads to.
    pub(super) fn any() -> Self {
        Self::find().unwrap_or(Stderr { kind: Kind::Plain, rest: Vec::new(), json: false })
    }

    pub(super) fn is_journal(&self) -> bool {
        self.kind == Kind::Journal
    }
}

/// Syslog's number for a level.
pub(super) fn severity(level: Level) -> Severity {
    match level {
        Level::Error => Severity::LOG_ERR,
        Level::Warn => Severity::LOG_WARNING,
        Level::Info => Severity::LOG_INFO,
        Level::Debug | Level::Trace => Severity::LOG_DEBUG,
    }
}

impl Sink for Stderr {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        match self.kind {
            Kind::Journal => {
                let line = format!("<{}>{}\n", severity(line.level) as u8, line.message);
                send_line(io::stderr(), &mut self.rest, line.as_bytes())
            }
            Kind::Plain => {
                // The descriptor is shared with other programs, so it cannot be made
                // non-blocking; one that is ready takes a line (a pipe at least 4,096 bytes).
                let stderr = io::stderr();
                let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
                poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
                if !ready[0].revents().contains(PollFlags::OUT) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let line = if self.json { line.json(Utc::now()) } else { line.text() };
                io::stderr().write_all(line.as_bytes())
            }
        }
    }

    fn set_formats(&mut self, formats: Formats) {
        self.json = formats.json;
    }

    fn is_plain_stderr(&self) -> bool {
        self.kind == Kind::Plain
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::logging::sink::CountingSink;

    /// Runs in a process of its own, whose stderr the tests below hold.
    #[test]
    fn child_that_logs_to_stderr() {
        if std::env::var_os("LOG_TO_STDERR").is_none() {
            return;
        }
        let mut stderr = CountingSink::new(Stderr::find().unwrap());
        let line = |number| Line::plain(Level::Info, format!("line {number}"));
        let lost = (0..5000).filter(|number| !stderr.write(&line(*number))).count();
        assert!(lost > 0);
    }

    /// Starts [`child_that_logs_to_stderr`] and waits for its end before anything is read.
    fn run_child(stderr: std::os::fd::OwnedFd, journal: &str) {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "logging::stderr::tests::child_that_logs_to_stderr"]);
        child.env("LOG_TO_STDERR", "1").env("JOURNAL_STREAM", journal);
        child.stdout(std::process::Stdio::null()).stderr(stderr);
        assert!(child.status().unwrap().success());
    }

    fn assert_whole(mut text: String, line: impl Fn(usize) -> String) {
        // A line that was begun when the reader's queue filled up is finished with the next message.
        text.truncate(text.rfind('\n').unwrap() + 1);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines.len() > 50, "{}", lines.len());
        for (number, found) in lines.into_iter().enumerate() {
            assert_eq!(found, line(number));
        }
    }

    #[test]
    fn a_journal_that_does_not_read_loses_lines_and_blocks_nobody() {
        let (theirs, mut ours) = std::os::unix::net::UnixStream::pair().unwrap();
        let stat = rustix::fs::fstat(&theirs).unwrap();
        run_child(theirs.into(), &format!("{}:{}", stat.st_dev, stat.st_ino));
        let mut text = String::new();
        io::Read::read_to_string(&mut ours, &mut text).unwrap();
        assert_whole(text, |number| format!("<6>line {number}"));
    }

    #[test]
    fn a_pipe_that_is_not_read_loses_lines_and_blocks_nobody() {
        let (ours, theirs) = rustix::pipe::pipe().unwrap();
        let mut ours = fs::File::from(ours);
        run_child(theirs, "");
        let mut text = String::new();
        io::Read::read_to_string(&mut ours, &mut text).unwrap();
        assert_whole(text, |number| format!("INFO  line {number}"));
    }
}
