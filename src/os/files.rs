//! The budget of open files: who may take one, and how many are kept for the API, the state and
//! the logs.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits;

/// The open files of the process, so that connections never use up those that the API, the
/// state and the logs need. Counts what is taken through it; shared by all threads.
#[derive(Debug)]
pub struct Files {
    limit: usize,
    used: AtomicUsize,
    /// Those of [`For::Listener`] among them, and how many there may be.
    listeners: AtomicUsize,
    most_listeners: usize,
}

/// Who wants a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// A pipe's port: no more than [`limits::LISTENERS_SHARE`] of what is left for pipes. Half of
    /// what is kept free of connections may be ports, so that those who hold all the rest do not keep
    /// a mapping from being added.
    Listener,
    /// A connection to a pipe's port: leaves [`limits::FILES_RESERVED`] files free.
    Pipe,
    /// A connection to the API or the control socket: leaves 4 files free, for the state file,
    /// its folder, the log and a reload.
    Api,
    /// One more address of a name that is tried beside others: leaves 4 files free, too.
    Dial,
}

/// One file taken from [`Files`]; dropping it gives it back.
#[derive(Debug)]
pub struct FileGuard {
    files: Arc<Files>,
    who: For,
}

impl Files {
    /// The budget of a process that may open `limit` files, as [`prepare`](super::prepare) returned it. The
    /// files that are open now are taken for good, so it is made when everything that lives as
    /// long as the process (logs, listeners of the API) is there.
    pub fn new(limit: usize) -> Arc<Self> {
        Self::beside(0, 0, limit)
    }

    /// The same, where so many `ports` are open that will be taken one by one, or closed, and so many files are yet to
    /// be opened for good. All these ports may be kept.
    pub fn beside(ports: usize, more: usize, limit: usize) -> Arc<Self> {
        Self::with(limit, (open_files() + more).saturating_sub(ports), ports)
    }

    fn with(limit: usize, used: usize, ports: usize) -> Arc<Self> {
        let (part, whole) = limits::LISTENERS_SHARE;
        let for_pipes = limit.saturating_sub(used + limits::FILES_RESERVED);
        Arc::new(Files {
            limit,
            used: AtomicUsize::new(used),
            listeners: AtomicUsize::new(0),
            most_listeners: (for_pipes / whole * part).max(ports),
        })
    }

    fn most(&self, who: For) -> usize {
        let leave = match who {
            For::Pipe => limits::FILES_RESERVED,
            For::Listener => limits::FILES_RESERVED / 2,
            For::Api | For::Dial => 4,
        };
        self.limit.saturating_sub(leave)
    }

    /// Takes one file, unless that would leave fewer free than `who` must leave.
    pub fn try_take(self: &Arc<Self>, who: For) -> Option<FileGuard> {
        let take = |count: &AtomicUsize, most| {
            let one_more = |count| (count < most).then_some(count + 1);
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
        };
        if who == For::Listener && !take(&self.listeners, self.most_listeners) {
            return None;
        }
        if !take(&self.used, self.most(who)) {
            self.end_listener(who);
            return None;
        }
        Some(FileGuard { files: self.clone(), who })
    }

    fn end_listener(&self, who: For) {
        if who == For::Listener {
            self.listeners.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The most files that may be ports of pipes.
    pub fn most_listeners(&self) -> usize {
        self.most_listeners
    }

    /// How many connections that have proved nothing each port may hold. When few files are left, all
    /// ports together hold no more than the rest: else silent ones would have them all, and no port
    /// would be full, so that no newcomer could take the place of one.
    pub fn strangers(&self) -> usize {
        let ports = self.listeners.load(Ordering::Relaxed);
        let most = self.most(For::Pipe).saturating_sub(ports);
        let rest = most / limits::FILES_SHORT;
        if self.used().saturating_sub(ports) < most - rest {
            return usize::MAX;
        }
        // For two ports' newcomers, and for users that wait.
        (2 * rest / (3 * ports.max(1))).max(limits::FEWEST_STRANGERS)
    }

    /// Files the process may open.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Files in use now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for FileGuard {
    fn drop(&mut self) {
        self.files.used.fetch_sub(1, Ordering::Relaxed);
        self.files.end_listener(self.who);
    }
}

/// Counts the open files; without /proc, a guess above what the daemon opens at start.
fn open_files() -> usize {
    // One of those listed is the listing's own.
    fs::read_dir("/proc/self/fd").map_or(64, |files| files.count().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn ports_share_the_last_files_so_that_strangers_never_have_them_all() {
        let files = Files::with(1000 + limits::FILES_RESERVED, 0, 0);
        let _ports: Vec<_> = (0..10).map(|_| files.try_take(For::Listener).unwrap()).collect();
        let mut crowds: Vec<Vec<FileGuard>> = (0..10).map(|_| Vec::new()).collect();
        // The first ports take all that they may, then the others.
        for crowd in &mut crowds {
            while crowd.len() < files.strangers().min(200) {
                crowd.push(files.try_take(For::Pipe).expect("files are left"));
            }
        }
        let held: Vec<usize> = crowds.iter().map(Vec::len).collect();
        assert_eq!(held[..3], [200, 200, 200]);
        assert!(held[3] < 200 && held[9] == 16, "{held:?}");
        assert!(files.try_take(For::Pipe).is_some(), "{held:?}");
        crowds[0].truncate(10);
        assert_eq!(files.strangers(), usize::MAX);
        // Ports are no strangers: a daemon of many mappings is short of nothing at rest.
        let files = Files::with(1000 + limits::FILES_RESERVED, 20, 0);
        let ports: Vec<_> = std::iter::from_fn(|| files.try_take(For::Listener)).collect();
        assert!(ports.len() > 700 && files.strangers() == usize::MAX, "{}", ports.len());
    }

    #[test]
    fn files_keep_a_reserve_for_the_api() {
        let files = Files::with(10 + limits::FILES_RESERVED, 8, 0);
        let pipes: Vec<_> = std::iter::from_fn(|| files.try_take(For::Pipe)).collect();
        assert_eq!(pipes.len(), 2);
        let api: Vec<_> = std::iter::from_fn(|| files.try_take(For::Api)).collect();
        assert_eq!(api.len(), limits::FILES_RESERVED - 4);
        assert_eq!(files.limit() - files.used(), 4);
        drop(api);
        assert!(files.try_take(For::Pipe).is_none());
        drop(pipes);
        assert_eq!(files.used(), 8);
        assert!(files.try_take(For::Pipe).is_some());
        assert!(Files::with(3, 0, 0).try_take(For::Api).is_none());
        let files = Files::with(110 + limits::FILES_RESERVED, 10, 0);
        let ports: Vec<_> = std::iter::from_fn(|| files.try_take(For::Listener)).collect();
        assert_eq!((ports.len(), files.used()), (75, 85), "the rest is for sessions");
        drop(ports);
        let pipes: Vec<_> = std::iter::from_fn(|| files.try_take(For::Pipe)).collect();
        let ports: Vec<_> = std::iter::from_fn(|| files.try_take(For::Listener)).collect();
        assert_eq!(ports.len(), limits::FILES_RESERVED / 2, "connections keep no mapping out");
        drop((pipes, ports));
        let ports: Vec<_> = std::iter::from_fn(|| files.try_take(For::Listener)).collect();
        assert_eq!(ports.len(), 75, "one that could not be taken is not counted");
    }

    #[test]
    fn open_files_are_counted() {
        let held: Vec<_> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();
        // Other tests have files open at the same time.
        let all = open_files();
        assert!(all >= held.len() && all < 100_000, "{all}");
    }
}
