//! The way out to the systemd journal, with fields that `journalctl` searches.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use super::line::Line;
use super::sink::Sink;
use super::stderr::{Stderr, severity};

/// Where journald takes datagrams of fields.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// The journal's socket for fields, or the stream that stderr is where there is no such socket.
pub(super) struct Journal {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    stream: Stderr,
}

impl Journal {
    /// Opened now, before a cage is.
    pub(super) fn new(path: impl Into<PathBuf>, stream: Stderr) -> Self {
        let mut journal = Journal { path: path.into(), socket: None, stream };
        journal.socket = journal.connect().ok();
        journal
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        Ok(socket)
    }
}

impl Sink for Journal {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let text = line.journal(severity(line.level) as u8);
        for _ in 0..2 {
            if self.socket.is_none() {
                self.socket = self.connect().ok();
            }
            let Some(socket) = &self.socket else { break };
            match socket.send(text.as_bytes()) {
                Ok(_) => return Ok(()),
                // Its queue is full: journald is there, and slow.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // It was restarted; this socket would fail for ever.
                Err(_) => self.socket = None,
            }
        }
        self.stream.write(line)
    }
}

#[cfg(test)]
mod tests {
    use log::Level;

    use super::*;
    use crate::testing::folder::Folder;

    #[test]
    fn journald_that_is_stopped_or_restarted_holds_nobody_up() {
        let folder = Folder::new();
        let path = folder.join("socket");
        let first = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::new(&path, Stderr::any());
        let mut write = |message: &str| journal.write(&Line::plain(Level::Info, message)).is_ok();
        let lost = (0..5000).filter(|_| !write("a line")).count();
        assert!(lost > 0, "a stopped journald fills its queue");
        drop(first);
        std::fs::remove_file(&path).unwrap();
        let second = UnixDatagram::bind(&path).unwrap();
        assert!(write("after"));
        let mut buffer = [0; 4096];
        let length = second.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]);
        let head = "PRIORITY=6\nSYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=iofog-connector\n";
        assert_eq!(text, format!("{head}MESSAGE=after\n"));
    }
}
