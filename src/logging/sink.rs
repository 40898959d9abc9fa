//! The ways out of the log: syslog, stderr and the file. Each takes one escaped line and either
//! delivers it or says that it could not, without waiting.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};

use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, OFlags, statvfs};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
};
use syslog::{Facility, LogFormat, Severity};

use super::utc::Utc;
use crate::limits;
use crate::text::reason;

/// One way out.
pub(super) trait Sink: Send {
    /// Delivers one message, whole, or fails at once.
    fn write(&mut self, level: Level, message: &str) -> io::Result<()>;

    /// Opens its file again, if it has one.
    fn reopen(&mut self) {}

    /// Why its file takes nothing now, as far as the last try tells.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Whether it writes plain lines to stderr.
    fn is_plain_stderr(&self) -> bool {
        false
    }
}

/// A sink and the messages it has lost since it last worked.
pub(super) struct Counted {
    sink: Box<dyn Sink>,
    missed: u64,
}

impl Counted {
    pub(super) fn new(sink: impl Sink + 'static) -> Self {
        Counted { sink: Box::new(sink), missed: 0 }
    }

    /// Delivers a message, after the number of those lost before it; returns whether it could.
    pub(super) fn write(&mut self, level: Level, message: &str) -> bool {
        let done = self.report().and_then(|()| self.sink.write(level, message)).is_ok();
        if !done {
            self.missed += 1;
        }
        done
    }

    pub(super) fn reopen(&mut self) {
        self.sink.reopen();
    }

    pub(super) fn fault(&self) -> Option<String> {
        self.sink.fault()
    }

    pub(super) fn is_plain_stderr(&self) -> bool {
        self.sink.is_plain_stderr()
    }

    fn report(&mut self) -> io::Result<()> {
        let messages = match self.missed {
            0 => return Ok(()),
            1 => "message",
            _ => "messages",
        };
        self.sink.write(Level::Warn, &format!("{} {messages} lost", self.missed))?;
        self.missed = 0;
        Ok(())
    }
}

/// Syslog, by the `syslog` crate's logger over a socket of our own: the crate's blocks when the
/// receiver is slow and never connects again after the receiver was restarted.
pub(super) struct Syslog(syslog::Logger<Socket, Unstamped>);

impl Syslog {
    pub(super) fn new(path: &Path) -> Self {
        let backend = Socket { path: path.to_owned(), open: None };
        let formatter = Unstamped { facility: Facility::LOG_DAEMON, pid: std::process::id() };
        Syslog(syslog::Logger::new(backend, formatter))
    }
}

impl Sink for Syslog {
    fn write(&mut self, level: Level, message: &str) -> io::Result<()> {
        let sent = match level {
            Level::Error => self.0.err(message),
            Level::Warn => self.0.warning(message),
            Level::Info => self.0.info(message),
            Level::Debug | Level::Trace => self.0.debug(message),
        };
        sent.map_err(io::Error::other)
    }
}

/// RFC 3164 without time and host: receivers add their own. The crate's stamp is UTC without
/// saying so, which receivers that trust it show as local time.
struct Unstamped {
    facility: Facility,
    pid: u32,
}

impl LogFormat<&str> for Unstamped {
    fn format<W: Write>(&self, w: &mut W, severity: Severity, message: &str) -> syslog::Result<()> {
        let priority = self.facility as u8 | severity as u8;
        // One write, because one write is one message.
        let line = format!("<{priority}>{}[{}]: {message}", env!("CARGO_PKG_NAME"), self.pid);
        w.write_all(line.as_bytes()).map_err(syslog::Error::Write)
    }
}

/// A socket to syslog that never blocks and connects again by itself: of datagrams, or a stream
/// where syslog listens for those.
struct Socket {
    path: PathBuf,
    open: Option<Connected>,
}

enum Connected {
    Datagrams(UnixDatagram),
    /// With what it did not take of the last message; that goes first.
    Stream(UnixStream, Vec<u8>),
}

impl Connected {
    fn new(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        match socket.connect(path) {
            Ok(()) => Ok(Connected::Datagrams(socket)),
            Err(error) if error.raw_os_error() == Some(Errno::PROTOTYPE.raw_os_error()) => {
                // Non-blocking from its beginning: connecting waits while many others do.
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
                connect(&socket, &SocketAddrUnix::new(path)?)?;
                Ok(Connected::Stream(socket.into(), Vec::new()))
            }
            Err(error) => Err(error),
        }
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Connected::Datagrams(socket) => socket.send(message).map(drop),
            Connected::Stream(socket, rest) => {
                // The end of a message is a NUL, as the C library sends it.
                send_line(&*socket, rest, &[message, b"\0"].concat())
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        if let Some(open) = &mut self.open {
            match open.send(message) {
                Ok(()) => return Ok(message.len()),
                // Its queue is full: it is there, and slow.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // It was restarted; the socket would fail for ever.
                Err(_) => self.open = None,
            }
        }
        let open = self.open.insert(Connected::new(&self.path)?);
        open.send(message).map(|()| message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends what a stream socket takes now; what it leaves of a line begun is kept in `rest`, which
/// goes before the next one.
fn send_line(socket: impl AsFd, rest: &mut Vec<u8>, line: &[u8]) -> io::Result<()> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if !rest.is_empty() {
        let sent = send(&socket, rest, flags)?;
        rest.drain(..sent);
        if !rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
    let sent = send(&socket, line, flags)?;
    rest.extend(line.iter().skip(sent));
    Ok(())
}

/// Stderr, when somebody reads it.
pub(super) struct Stderr {
    kind: Kind,
    /// What the journal's socket did not take of the last line; it goes first.
    rest: Vec<u8>,
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
        let stat = rustix::fs::fstat(io::stderr()).ok()?;
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let kind = if stream == format!("{}:{}", stat.st_dev, stat.st_ino) {
            Kind::Journal
        } else if rustix::termios::isatty(io::stderr())
            || rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo
        {
            Kind::Plain
        } else {
            return None;
        };
        Some(Stderr { kind, rest: Vec::new() })
    }

    /// Stderr, whatever it leads to.
    pub(super) fn any() -> Self {
        Self::find().unwrap_or(Stderr { kind: Kind::Plain, rest: Vec::new() })
    }

    pub(super) fn is_journal(&self) -> bool {
        self.kind == Kind::Journal
    }
}

impl Sink for Stderr {
    fn write(&mut self, level: Level, message: &str) -> io::Result<()> {
        match self.kind {
            Kind::Journal => {
                let severity = match level {
                    Level::Error => Severity::LOG_ERR,
                    Level::Warn => Severity::LOG_WARNING,
                    Level::Info => Severity::LOG_INFO,
                    Level::Debug | Level::Trace => Severity::LOG_DEBUG,
                };
                let line = format!("<{}>{message}\n", severity as u8);
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
                io::stderr().write_all(format!("{level:<5} {message}\n").as_bytes())
            }
        }
    }

    fn is_plain_stderr(&self) -> bool {
        self.kind == Kind::Plain
    }
}

/// The log file: at most [`limits::LOG_FILE`] bytes, and one old file of that size.
pub(super) struct File {
    path: PathBuf,
    open: Option<Open>,
    /// What the last try to open it or to write met.
    fault: Option<io::Error>,
}

struct Open {
    file: fs::File,
    size: u64,
    /// A disk that was full took the beginning of a line.
    torn: bool,
    /// Not a device that the name leads to: those have no size and cannot be put aside.
    regular: bool,
}

impl File {
    pub(super) fn new(path: &Path) -> Self {
        File { path: path.to_owned(), open: None, fault: None }
    }

    fn open(&self) -> io::Result<Open> {
        if let Some(dir) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            // A pipe that nobody reads must fail instead of waiting for a reader.
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(&self.path)?;
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        let regular = !kind.is_fifo() && !kind.is_char_device();
        Ok(Open { file, size: metadata.size(), torn: false, regular })
    }

    fn put_aside(&self) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".old");
        fs::rename(&self.path, old)
    }
}

impl File {
    fn append(&mut self, level: Level, message: &str) -> io::Result<()> {
        let line = format!("{} {level:<5} {message}\n", Utc::now());
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        if open.regular && open.size > 0 && open.size + line.len() as u64 > limits::LOG_FILE {
            self.put_aside()?;
            open = self.open()?;
        }
        let done = open.line(&line);
        self.open = Some(open);
        done
    }
}

impl Sink for File {
    fn write(&mut self, level: Level, message: &str) -> io::Result<()> {
        let done = self.append(level, message);
        self.fault = done.as_ref().err().map(same);
        done
    }

    fn reopen(&mut self) {
        // At once: who has moved the old one away waits for the new one. Where it cannot be opened,
        // the next message tries again.
        let opened = self.open();
        self.fault = opened.as_ref().err().map(same);
        self.open = opened.ok();
    }

    fn fault(&self) -> Option<String> {
        let known = self.fault.as_ref().map(|error| unusable(&self.path, error));
        known.or_else(|| doubt(&self.path))
    }
}

/// An error, as far as it can be kept.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// Why the log file `path` would take nothing, as far as looking tells; changes nothing.
pub(super) fn doubt(path: &Path) -> Option<String> {
    let folder = path.ancestors().skip(1).find(|folder| folder.exists())?;
    let is_dir = |path: &Path| fs::metadata(path).is_ok_and(|found| found.is_dir());
    let access = |path, what| rustix::fs::access(path, what);
    let found = match path.exists() {
        true if is_dir(path) => Err(Errno::ISDIR),
        true => access(path, Access::WRITE_OK),
        false if !is_dir(folder) => Err(Errno::NOTDIR),
        // Missing folders are made at start.
        false => access(folder, Access::WRITE_OK | Access::EXEC_OK),
    };
    let room = || {
        let disk = statvfs(folder)?;
        // Pseudo file systems have no blocks at all.
        if disk.f_blocks > 0 && disk.f_bavail == 0 { Err(Errno::NOSPC) } else { Ok(()) }
    };
    found.and_then(|()| room()).err().map(|error| unusable(path, &error.into()))
}

fn unusable(path: &Path, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::WriteZero => reason::writing(path, &Errno::NOSPC.into()),
        _ => reason::writing(path, error),
    };
    format!(
        "The log file {} cannot be written: {why}. Its lines are lost until then, while syslog goes \
         on; --log DIR names another folder.",
        path.display()
    )
}

impl Open {
    fn line(&mut self, line: &str) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
            self.size += 1;
            self.torn = false;
        }
        // One write: either all of the line is there, or the disk is full.
        let written = self.file.write(line.as_bytes())?;
        self.size += written as u64;
        if written < line.len() {
            self.torn = true;
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_capped_and_one_old_one_kept() {
        let dir = std::env::temp_dir().join(format!("sink-{}", uuid::Uuid::new_v4()));
        let path = dir.join("log");
        let old = dir.join("log.old");
        let mut file = File::new(&path);
        let message = "x".repeat(1000);
        for _ in 0..2500 {
            file.write(Level::Info, &message).unwrap();
        }
        let sizes = [&path, &old].map(|path| fs::metadata(path).unwrap().len());
        assert!(sizes.iter().all(|size| *size <= limits::LOG_FILE), "{sizes:?}");
        assert!(sizes[1] > limits::LOG_FILE - 2000, "{sizes:?}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o137, 0);

        fs::rename(&path, dir.join("moved")).unwrap();
        file.reopen();
        assert!(path.exists(), "the new file is there at once");
        file.write(Level::Info, "after").unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("after\n"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let mut file = File::new(Path::new("/dev/full"));
        assert!(file.write(Level::Info, "one").is_err());
        assert!(file.write(Level::Info, "two").is_err());
        let fault = file.fault().unwrap();
        assert!(fault.starts_with("The log file /dev/full cannot be written: the disk is full; "));
    }

    /// Runs in a process of its own, whose stderr the tests below hold.
    #[test]
    fn child_that_logs_to_stderr() {
        if std::env::var_os("LOG_TO_STDERR").is_none() {
            return;
        }
        let mut stderr = Counted::new(Stderr::find().unwrap());
        let lost = (0..5000).filter(|n| !stderr.write(Level::Info, &format!("line {n}"))).count();
        assert!(lost > 0);
    }

    /// Starts [`child_that_logs_to_stderr`] and waits for its end before anything is read.
    fn run_child(stderr: std::os::fd::OwnedFd, journal: &str) {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "logging::sink::tests::child_that_logs_to_stderr"]);
        child.env("LOG_TO_STDERR", "1").env("JOURNAL_STREAM", journal);
        child.stdout(std::process::Stdio::null()).stderr(stderr);
        assert!(child.status().unwrap().success());
    }

    fn assert_whole(mut text: String, line: impl Fn(usize) -> String) {
        // What was begun when the reader's queue filled up is finished by the next message.
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
