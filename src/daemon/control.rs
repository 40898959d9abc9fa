//! The socket on which the command line reaches the daemon.

use std::cell::Cell;
use std::io;
use std::os::unix::net;
use std::path::Path;

use async_net::unix::UnixListener;

use crate::config::folders;
use crate::os;

/// The socket of the command line, removed at the end.
pub(super) struct Control<'a> {
    run: &'a Path,
    /// Whether another process listens on it, too, and goes on.
    is_passed_on: Cell<bool>,
}

impl<'a> Control<'a> {
    /// Makes the socket.
    ///
    /// # Errors
    /// As [`os::listen`].
    pub(super) fn listen(run: &Path) -> io::Result<net::UnixListener> {
        os::listen(&run.join(folders::SOCKET))
    }

    /// For the socket that [`listen`](Self::listen) has made, or that of the process whose place this one takes; and
    /// the socket, for tasks. It begins a thread.
    ///
    /// # Errors
    /// As `fcntl(2)`.
    pub(super) fn of(
        listener: net::UnixListener,
        run: &'a Path,
    ) -> io::Result<(Self, UnixListener)> {
        let listener = listener.try_into()?;
        Ok((Control { run, is_passed_on: Cell::new(false) }, listener))
    }

    /// Another process listens on it, too, and goes on.
    pub(super) fn passed_on(&self) {
        self.is_passed_on.set(true);
    }
}

impl Drop for Control<'_> {
    fn drop(&mut self) {
        if !self.is_passed_on.get() {
            let _ = std::fs::remove_file(self.run.join(folders::SOCKET));
        }
    }
}
