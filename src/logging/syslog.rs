//! The way out to syslog, over a socket of our own.

use std::io::{self, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};

use log::Level;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use syslog::{Facility, LogFormat, Severity};

use super::line::{Formats, Line};
use super::sink::{Sink, send_line};
use super::utc::Utc;

/// Syslog, by the `syslog` crate's logger over a socket of our own: the crate's blocks when the
/// receiver is slow and never connects again after the receiver was restarted.
pub(super) struct Syslog(syslog::Logger<Socket, Form>);

impl Syslog {
    pub(super) fn new(path: &Path) -> Self {
        let backend = Socket { path: path.to_owned(), open: None };
        let facility = Facility::LOG_DAEMON;
        let formatter = Form { facility, pid: std::process::id(), structured: false };
        Syslog(syslog::Logger::new(backend, formatter))
    }
}

impl Sink for Syslog {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let sent = match line.level {
            Level::Error => self.0.err(line),
            Level::Warn => self.0.warning(line),
            Level::Info => self.0.info(line),
            Level::Debug | Level::Trace => self.0.debug(line),
        };
        sent.map_err(io::Error::other)
    }

    fn set_formats(&mut self, formats: Formats) {
        self.0.formatter.structured = formats.structured;
    }
}

/// RFC 3164 without time and host: receivers add their own. The crate's stamp is UTC without
/// saying so, which receivers that trust it show as local time. Or RFC 5424 with structured data.
struct Form {
    facility: Facility,
    pid: u32,
    structured: bool,
}

impl LogFormat<&Line> for Form {
    fn format<W: Write>(&self, w: &mut W, severity: Severity, line: &Line) -> syslog::Result<()> {
        let (priority, pid) = (self.facility as u8 | severity as u8, self.pid);
        let text = if self.structured {
            line.structured(Utc::now(), pid)
        } else {
            format!("{}[{pid}]: {}", env!("CARGO_PKG_NAME"), line.message)
        };
        // One write, because one write is one message.
        let line = format!("<{priority}>{text}");
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
    /// With the rest of the last message that it has not taken; it goes first.
    Stream(UnixStream, Vec<u8>),
}

impl Connected {
    fn new(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        match socket.connect(path) {
            Ok(()) => Ok(Connected::Datagrams(socket)),
            Err(error) if error.raw_os_error() == Some(Errno::PROTOTYPE.raw_os_error()) => {
                // Non-blocking from the beginning: connect waits while many others are connecting.
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
                // Its queue is full: the receiver is there, and slow.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // The receiver was restarted; this socket would fail for ever.
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
