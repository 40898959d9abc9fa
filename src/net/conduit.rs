//! Kernel pipes through which plain bytes pass from socket to socket without being copied
//! (`splice(2)`).
//!
//! A thread keeps a few and lends them; an idle session holds none. One that is given back with
//! bytes in it is closed, so that no byte of one session ever meets another.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::limits;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { idle: Vec::new(), lent: 0 }) };
}

struct Pool {
    idle: Vec<(OwnedFd, OwnedFd)>,
    lent: usize,
}

/// How many a thread may lend.
static ALLOWED: AtomicUsize = AtomicUsize::new(0);

/// Allows the conduits that `threads` threads may have where a process may open `files` files;
/// gives the number of files they can take in all. Without this there are none.
pub fn allow(threads: usize, files: usize) -> usize {
    let each = (files / 16 / (2 * threads.max(1))).min(limits::CONDUITS);
    ALLOWED.store(each, Ordering::Relaxed);
    2 * each * threads
}

/// A pipe, lent to the session that moves bytes through it.
pub struct Conduit {
    /// The reading and the writing end; only taken when dropped.
    ends: Option<(OwnedFd, OwnedFd)>,
    holds: usize,
}

impl Conduit {
    /// An empty one; `None` when this thread has lent all it may, or the system grants no more.
    pub fn take() -> Option<Self> {
        POOL.with_borrow_mut(|pool| {
            if pool.lent >= ALLOWED.load(Ordering::Relaxed) {
                return None;
            }
            let ends = pool.idle.pop().or_else(make)?;
            pool.lent += 1;
            Some(Conduit { ends: Some(ends), holds: 0 })
        })
    }

    /// Bytes in it.
    pub fn holds(&self) -> usize {
        self.holds
    }

    /// Moves bytes from `socket` into it, `most` at most; 0 is the end of the stream.
    ///
    /// # Errors
    /// As `splice(2)`; `WouldBlock` when there are none.
    pub fn fill(&mut self, socket: impl AsFd, most: usize) -> io::Result<usize> {
        let Some((_, end)) = &self.ends else { return Ok(0) };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let count = splice(socket, None, end, None, most.min(limits::CONDUIT_BYTES), flags)?;
        self.holds += count;
        Ok(count)
    }

    /// Moves bytes from it into `socket`.
    ///
    /// # Errors
    /// As `splice(2)`; `WouldBlock` when the socket takes none.
    pub fn drain(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let Some((end, _)) = &self.ends else { return Ok(0) };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let count = splice(end, None, socket, None, self.holds, flags)?;
        self.holds -= count.min(self.holds);
        Ok(count)
    }

    /// Takes all its bytes out.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn empty(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.holds];
        let mut filled = 0;
        while let (Some((end, _)), true) = (&self.ends, filled < bytes.len()) {
            let count = rustix::io::read(end, &mut bytes[filled..])?;
            filled += count;
            self.holds -= count.min(self.holds);
        }
        Ok(bytes)
    }
}

impl Drop for Conduit {
    fn drop(&mut self) {
        let ends = self.ends.take().filter(|_| self.holds == 0);
        // While the thread ends there is no pool any more: the pipe is simply closed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            pool.lent = pool.lent.saturating_sub(1);
            pool.idle.extend(ends);
        });
    }
}

/// Whether the error is that of a kernel or a sandbox that does not move bytes this way, and says
/// nothing of the socket.
pub fn is_refused(error: &io::Error) -> bool {
    const REFUSALS: [Errno; 6] =
        [Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::ACCESS, Errno::NOMEM, Errno::INTR];
    REFUSALS.iter().any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error()))
}

fn make() -> Option<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    // Best effort: an ordinary user has a quota, and a smaller pipe works as well.
    let _ = fcntl_setpipe_size(&write, limits::CONDUIT_BYTES);
    Some((read, write))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_lends_so_many_and_takes_only_empty_ones_back() {
        assert_eq!(allow(2, 32), 0, "few files, no conduits");
        assert_eq!(allow(2, 64), 4);
        assert_eq!(allow(1, 65536), 2 * limits::CONDUITS);
        let mut lent: Vec<_> = (0..limits::CONDUITS).filter_map(|_| Conduit::take()).collect();
        assert_eq!(lent.len(), limits::CONDUITS);
        assert!(Conduit::take().is_none());
        let (from, to) = std::os::unix::net::UnixStream::pair().unwrap();
        rustix::io::write(&from, b"bytes").unwrap();
        let mut used = lent.pop().unwrap();
        assert_eq!(used.fill(&to, 7).unwrap(), 5);
        drop(used);
        drop(lent);
        POOL.with_borrow(|pool| assert_eq!(pool.idle.len(), limits::CONDUITS - 1));
    }
}
