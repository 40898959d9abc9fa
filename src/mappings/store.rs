//! The state file `configs.json`: read once at start, replaced whole at each change (protocol
//! page, section 2).
//!
//! [`open`] reads it. [`Store::change`] queues a change and returns when it is on disk;
//! [`Writer::run`] takes what is queued and writes one new file for all of it, so that many
//! changes at once cost the flash one write. The writer knows nothing of ports or tunnels.

mod disk;
mod error;
pub mod format;

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use smol::channel::{Receiver, Sender, bounded};

use self::disk::{Failure, Replaced};
pub use self::error::StoreError;
use crate::limits;
use crate::logging::ALWAYS;
use crate::mappings::mapping::{Id, Mapping};
use crate::os;
use crate::runtime::aside;
use crate::text::{file, reason};

/// The state file's name in the configuration directory.
pub const FILE: &str = "configs.json";

/// A change of the list of mappings.
#[derive(Clone, Debug)]
pub enum Change {
    /// Puts a mapping at the end.
    Add(Mapping),
    /// Puts a mapping in the place of the one that has its id.
    Replace(Mapping),
    /// Takes out the mapping of this id.
    Remove(Id),
}

/// Reads the state file of a configuration directory, ends the change that a power failure may
/// have cut short, and takes the file from others' eyes. A missing file is an empty list.
///
/// Returns what changes go into, what writes them, and the mappings in the file's order. Blocks;
/// for the start of the daemon.
///
/// # Errors
/// A file that cannot be read or does not hold what it should, which is left as it is; or one that
/// another daemon writes.
pub fn open(dir: &Path) -> Result<(Store, Writer, Vec<Mapping>), StoreError> {
    let file = dir.join(FILE);
    let lock = disk::lock(&file).map_err(|_| {
        let holder =
            file::open(&file, File::options().read(true)).ok().and_then(|file| os::holder(&file));
        error::shared(&file, holder)
    })?;
    let mappings = check(dir)?;
    if let Err(error) = disk::finish_left_over(&file) {
        log::warn!(
            target: ALWAYS,
            "{}: a change that was cut short could not be finished: {}; it counts, and is tried \
             again with the next change",
            file.display(),
            reason::writing(&file, &error)
        );
    }
    if let Some(mode) = disk::too_open(&file) {
        let name = file.display();
        match disk::tighten(&file) {
            Ok(()) => log::warn!(
                target: ALWAYS,
                "{name}: users other than its owner could read the passcodes in it (mode \
                 {mode:04o}); it has mode 0600 now"
            ),
            Err(error) => log::warn!(
                target: ALWAYS,
                "{name}: users other than its owner can read the passcodes in it (mode \
                 {mode:04o}), and that could not be changed: {}; as its owner or root: chmod 600 \
                 {name}",
                reason::words(&error)
            ),
        }
    }
    let (changes, queue) = bounded(limits::CHANGES_WAITING);
    let held = Rc::new(Held { file, lock: RefCell::new(lock) });
    let writer = Writer { held: held.clone(), committed: mappings.clone(), queue };
    Ok((Store { changes, held }, writer, mappings))
}

/// What probably is not meant about the state file, for the `check` command: sentences.
pub fn doubts(dir: &Path) -> Vec<String> {
    let file = dir.join(FILE);
    let open = disk::too_open(&file).map(|mode| {
        format!(
            "{}: users other than its owner can read the passcodes in it (mode {mode:04o}); \
             `start` makes that 0600",
            file.display()
        )
    });
    let unwritable = disk::unwritable(&file).map(|error| {
        format!("mappings cannot be added or removed: {}", error::unwritable(&file, &error))
    });
    open.into_iter().chain(unwritable).collect()
}

/// Reads and validates the state file as [`open`] does, and changes nothing.
///
/// # Errors
/// As [`open`].
pub fn check(dir: &Path) -> Result<Vec<Mapping>, StoreError> {
    let file = dir.join(FILE);
    match disk::read(&file).map_err(|(place, error)| error::unreadable(&place, &error))? {
        None => Ok(Vec::new()),
        Some((place, text)) => format::read(&text).map_err(|faults| error::invalid(&place, faults)),
    }
}

/// Where changes go. Cheap to clone; when the last one is dropped, [`Writer::run`] ends.
#[derive(Clone, Debug)]
pub struct Store {
    changes: Sender<Box<Request>>,
    held: Rc<Held>,
}

/// The file, and the lock of the one that is there now.
#[derive(Debug)]
struct Held {
    file: PathBuf,
    lock: RefCell<Option<File>>,
}

/// A change and where its outcome goes.
#[derive(Debug)]
struct Request {
    change: Change,
    answer: Sender<Result<(), StoreError>>,
}

impl Store {
    /// Gives up the file's lock, for another daemon that takes this one's place. No change may be on its way.
    pub fn give_up_lock(&self) {
        self.held.lock.take();
    }

    /// Takes it again; `false` if another process keeps it for this moment.
    pub fn take_lock_again(&self) -> bool {
        let lock = disk::lock(&self.held.file);
        lock.map(|lock| self.held.lock.replace(lock)).is_ok()
    }

    /// Makes a change. `Ok` means that it is on disk and outlives a power failure; `Err` that it
    /// is not made. Waits while [`limits::CHANGES_WAITING`] others wait.
    ///
    /// Await it to its end: dropped before, the change may or may not be made.
    ///
    /// # Errors
    /// The file cannot be written, the id is taken (`Add`) or unknown (`Replace`, `Remove`), or the writer
    /// has ended.
    pub async fn change(&self, change: Change) -> Result<(), StoreError> {
        let (answer, outcome) = bounded(1);
        // The queue's places are made at start, all of them.
        let request = Box::new(Request { change, answer });
        self.changes.send(request).await.map_err(|_| StoreError::Stopped)?;
        outcome.recv().await.map_err(|_| StoreError::Stopped)?
    }
}

/// What writes the changes: the one owner of the file.
#[derive(Debug)]
pub struct Writer {
    held: Rc<Held>,
    /// What the file holds.
    committed: Vec<Mapping>,
    queue: Receiver<Box<Request>>,
}

impl Writer {
    /// Writes changes until the last [`Store`] is gone; what was queued by then is written.
    /// Dropped before, it leaves the old file or the new one, whole.
    pub async fn run(mut self) {
        while let Ok(first) = self.queue.recv().await {
            let queued = std::iter::from_fn(|| self.queue.try_recv().ok());
            let group = std::iter::once(first).chain(queued).take(limits::CHANGES_WAITING);
            let group = group.map(|request| *request).collect();
            self.commit(group).await;
        }
    }

    /// Makes the changes of a group in one new file, then answers each.
    async fn commit(&mut self, group: Vec<Request>) {
        let mut next = self.committed.clone();
        let mut made = Vec::with_capacity(group.len());
        for Request { change, answer } in group {
            match apply(&mut next, change) {
                Ok(()) => made.push(answer),
                Err(error) => reply(&answer, Err(error)),
            }
        }
        if made.is_empty() {
            return;
        }
        let (outcome, next) = self.replace(next).await;
        let outcome = match outcome {
            Ok(replaced) => {
                self.committed = next;
                self.hold(replaced);
                Ok(())
            }
            Err(failure) => {
                if failure.renamed {
                    self.put_back().await;
                }
                Err(error::unwritable(&self.held.file, &failure.error))
            }
        };
        for answer in &made {
            reply(answer, outcome.clone());
        }
    }

    /// Undoes a replacement that is there but not known to be durable: its callers are told that
    /// it failed, so that it must not come to life at the next start.
    async fn put_back(&mut self) {
        match self.replace(self.committed.clone()).await.0 {
            Ok(replaced) => self.hold(replaced),
            Err(Failure { error, .. }) => log::error!(
                target: ALWAYS,
                "{} could not be put back after a failed change: {}; the next change that \
                 succeeds repairs it",
                self.held.file.display(),
                reason::writing(&self.held.file, &error)
            ),
        }
    }

    /// Keeps the lock of the file that is there now.
    fn hold(&mut self, replaced: Replaced) {
        if let Replaced::New(lock) = replaced {
            self.held.lock.replace(lock);
        }
    }

    /// Writes on a thread of its own, since a flash card may take seconds.
    async fn replace(&self, next: Vec<Mapping>) -> (Result<Replaced, Failure>, Vec<Mapping>) {
        let file = self.held.file.clone();
        aside(move || (disk::replace(&file, &format::write(&next)), next)).await
    }
}

/// Tells the caller. One that has gone away meanwhile has nothing to be told.
fn reply(answer: &Sender<Result<(), StoreError>>, outcome: Result<(), StoreError>) {
    answer.try_send(outcome).ok();
}

fn apply(mappings: &mut Vec<Mapping>, change: Change) -> Result<(), StoreError> {
    let place = |id: &Id| mappings.iter().position(|mapping| mapping.id == *id);
    match change {
        Change::Add(mapping) if place(&mapping.id).is_some() => {
            return Err(StoreError::Taken(mapping.id));
        }
        Change::Add(mapping) => mappings.push(mapping),
        Change::Replace(mapping) => match place(&mapping.id) {
            Some(place) => mappings[place] = mapping,
            None => return Err(StoreError::Unknown(mapping.id)),
        },
        Change::Remove(id) => match place(&id) {
            Some(place) => drop(mappings.remove(place)),
            None => return Err(StoreError::Unknown(id)),
        },
    }
    Ok(())
}

#[cfg(test)]
mod tests;
