//! Sockets of the run folder, on which the command line reaches a running process.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::text::reason;

/// Makes a socket that is for the process's own user alone, non-blocking. The run folder's lock is
/// held, so one that is there is left over from an earlier process.
///
/// # Errors
/// A sentence with the path and the remedy.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let named = |error: io::Error| {
        let why = reason::writing(path, &error);
        let path = path.display();
        io::Error::other(format!("{path}: {why}; or name another folder with --run DIR"))
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
        _ => {}
    }
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(umask);
    let listener = listener.map_err(named)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
