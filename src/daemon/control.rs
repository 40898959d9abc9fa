//! The socket on which the command line reaches the daemon.

use std::io;
use std::path::Path;

use async_net::unix::UnixListener;

use crate::config::folders;
use crate::text::reason;

/// The socket of the command line, removed at the end.
pub(super) struct Control<'a> {
    pub(super) listener: UnixListener,
    run: &'a Path,
}

impl<'a> Control<'a> {
    /// Makes the socket, for the service's user alone. The run folder's lock is held, so a socket
    /// that is there is left over from an earlier daemon.
    pub(super) fn listen(run: &'a Path) -> io::Result<Self> {
        let path = run.join(folders::SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(named(&path, &error));
            }
            _ => {}
        }
        let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(&path);
        rustix::process::umask(umask);
        let listener = listener.map_err(|error| named(&path, &error))?;
        Ok(Control { listener, run })
    }
}

/// The error with the file that it is about.
fn named(path: &Path, error: &io::Error) -> io::Error {
    let why = reason::writing(path, error);
    io::Error::other(format!("{}: {why}; or name another folder with --run DIR", path.display()))
}

impl Drop for Control<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.run.join(folders::SOCKET));
    }
}
