//! The socket on which the command line reaches the daemon.

use std::io;
use std::path::Path;

use async_net::unix::UnixListener;

use crate::config::folders;
use crate::os;

/// The socket of the command line, removed at the end.
pub(super) struct Control<'a> {
    pub(super) listener: UnixListener,
    run: &'a Path,
}

impl<'a> Control<'a> {
    /// Makes the socket.
    ///
    /// # Errors
    /// As [`os::listen`].
    pub(super) fn listen(run: &'a Path) -> io::Result<Self> {
        let listener = os::listen(&run.join(folders::SOCKET))?.try_into()?;
        Ok(Control { listener, run })
    }
}

impl Drop for Control<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.run.join(folders::SOCKET));
    }
}
