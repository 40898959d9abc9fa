//! A service manager: what a process tells it by `NOTIFY_SOCKET` (sd_notify).

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;

use super::PATIENCE;

/// The socket that it listens at.
pub struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    /// Listens in `folder`.
    pub fn new(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Manager { path, socket }
    }

    /// What `NOTIFY_SOCKET` is to be.
    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Has a program tell it how it does, and say within 200 ms each that it lives.
    pub fn watch(&self, program: &mut Command) {
        program
            .env("NOTIFY_SOCKET", self.path())
            .env("WATCHDOG_USEC", "200000")
            .env_remove("WATCHDOG_PID")
            .env_remove("JOURNAL_STREAM");
    }

    /// The next message with a line that begins with `what`; those before it are passed over.
    #[track_caller]
    pub fn receive(&self, what: &str) -> String {
        self.receive_within(PATIENCE, what).unwrap_or_else(|| panic!("nothing said {what}"))
    }

    /// The same; `None` when it did not come within this time, whatever else did.
    pub fn receive_within(&self, time: Duration, what: &str) -> Option<String> {
        let until = Instant::now() + time;
        let mut buffer = [0; 4096];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // A timeout of no time would be none.
            if left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(Some(left)).unwrap();
            let count = self.socket.recv(&mut buffer).ok()?;
            let message = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if message.lines().any(|line| line.starts_with(what)) {
                return Some(message);
            }
        }
    }

    /// What it has been told since this was last asked.
    pub fn told(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        std::iter::from_fn(|| {
            let (count, _) =
                rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT).ok()?;
            Some(String::from_utf8_lossy(&buffer[..count]).into_owned())
        })
        .collect()
    }
}
