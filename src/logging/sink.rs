//! A way out of the log: it takes one escaped line and either delivers it or says that it could
//! not, without waiting.

use std::io;
use std::os::fd::AsFd;

use log::Level;
use rustix::net::{SendFlags, send};

use super::line::{Formats, Line};

/// One way out.
pub(super) trait Sink: Send {
    /// Delivers one message, whole, or fails at once.
    fn write(&mut self, line: &Line) -> io::Result<()>;

    /// Writes lines so from now on, as far as it has the choice.
    fn set_formats(&mut self, _: Formats) {}

    /// Opens its file again, if it has one.
    fn reopen(&mut self) {}

    /// Why its file takes nothing now, as far as the last attempt shows.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Whether it writes plain lines to stderr.
    fn is_plain_stderr(&self) -> bool {
        false
    }
}

/// A sink and the messages it has lost since it last worked.
pub(super) struct CountingSink {
    sink: Box<dyn Sink>,
    missed: u64,
}

impl CountingSink {
    pub(super) fn new(sink: impl Sink + 'static) -> Self {
        CountingSink { sink: Box::new(sink), missed: 0 }
    }

    /// Delivers a message, after the number of those lost before it; returns whether it could.
    pub(super) fn write(&mut self, line: &Line) -> bool {
        let done = self.report().and_then(|()| self.sink.write(line)).is_ok();
        if !done {
            self.missed += 1;
        }
        done
    }

    pub(super) fn set_formats(&mut self, formats: Formats) {
        self.sink.set_formats(formats);
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
        let lost = Line::plain(Level::Warn, format!("{} {messages} lost", self.missed));
        self.sink.write(&Line { count: self.missed, ..lost })?;
        self.missed = 0;
        Ok(())
    }
}

/// Sends what a stream socket takes now. The rest of a line that it has begun to take is kept in `rest`
/// and goes before the next line.
pub(super) fn send_line(socket: impl AsFd, rest: &mut Vec<u8>, line: &[u8]) -> io::Result<()> {
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
