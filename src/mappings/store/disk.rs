//! Reading a file, and replacing it so that a power failure leaves the old one or the new one,
//! whole. Knows nothing of what is in it.
//!
//! A file that is a mount of its own, as containers bind single files, cannot be replaced by a
//! rename: it is written in place, after its whole new content stands beside it as its *journal*.
//! While there is a journal, that is what counts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::geteuid;

use crate::os::{strangers_hold, take_lock};
use crate::text::{file, reason};

/// The longest state file, 64 MiB: the 32,767 mappings that all ports together allow are about
/// 11 MiB, and direct connections have room for the rest.
const LONGEST: usize = 64 * 1024 * 1024;

/// How often in a row a file may be replaced while its lock is being taken.
const REPLACED: usize = 10;

/// Something of the file of this name.
type Of<T> = (PathBuf, T);

/// Why a file was not replaced.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: io::Error,
    /// Whether the new content may be in its place all the same, and may not outlive a power
    /// failure.
    pub(super) renamed: bool,
}

/// How a file was replaced.
#[derive(Debug)]
pub(super) enum Replaced {
    /// By a new one, with its lock as [`lock`] gives it.
    New(Option<File>),
    /// Its content alone; the lock is the one that it had.
    InPlace,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure { error, renamed: false }
    }
}

/// What holds the file's content, its journal or itself, and the content; `None` when there is no
/// file.
///
/// # Errors
/// Besides what reading meets: `NotFound` when not even the folder is there. A symbolic link
/// into a file system that is not mounted must not be taken for an empty list. With the name of
/// what cannot be read.
pub(super) fn read(file: &Path) -> Result<Option<Of<Vec<u8>>>, Of<io::Error>> {
    let at = |place: &Path| {
        let place = place.to_owned();
        |error| (place, error)
    };
    let target = followed(file).map_err(at(file))?;
    for (place, name) in [(journal(&target), None), (target.clone(), Some(file))] {
        let name = name.unwrap_or(&place);
        if let Some(content) = content(&place).map_err(at(name))? {
            return Ok(Some((place, content)));
        }
    }
    fs::metadata(folder(&target)).map_err(at(file))?;
    Ok(None)
}

fn content(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match file::read(path, LONGEST, None) {
        Ok(content) if content.len() > LONGEST => Err(Errno::FBIG.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        content => content.map(Some),
    }
}

/// Puts `content` in the place of the file's content: a new file beside it (mode 0600), synced,
/// renamed over it, and the folder synced. A symbolic link stays one; what it points to is
/// replaced. Every failure removes the new file again. Where the file is a mount it is written in
/// place.
///
pub(super) fn replace(file: &Path, content: &[u8]) -> Result<Replaced, Failure> {
    if content.len() > LONGEST {
        return Err(io::Error::from(Errno::FBIG).into());
    }
    let target = followed(file)?;
    // Opened first: after the rename, failing for want of a file descriptor would be too late.
    let folder = File::open(folder(&target))?;
    let temporary = temporary(&target);
    let written =
        write_new(&temporary, content).and_then(|new| match fs::rename(&temporary, &target) {
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                fs::rename(&temporary, journal(&target)).map(|()| Replaced::InPlace)
            }
            renamed => renamed.map(|()| Replaced::New(new)),
        });
    let new = written.inspect_err(|_| {
        // What cannot be removed now is removed by the next change or the next start.
        fs::remove_file(&temporary).ok();
    })?;
    let doubtful = |error| Failure { error, renamed: true };
    if matches!(new, Replaced::New(_)) {
        // One that is left over from a time when the file was a mount would count.
        remove_journal(&target).map_err(doubtful)?;
    }
    sync(&folder).map_err(doubtful)?;
    if matches!(new, Replaced::InPlace) {
        write_in_place(&target, &folder, content).map_err(doubtful)?;
    }
    Ok(new)
}

/// Writes the journal's `content` into the file itself; then the journal has done its work.
fn write_in_place(target: &Path, folder: &File, content: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    let mut file = file::open(target, &mut options)?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)?;
    file.sync_all()?;
    // If it stays, it says the same as the file, and the next change replaces it.
    if fs::remove_file(journal(target)).is_ok() {
        sync(folder).ok();
    }
    Ok(())
}

fn remove_journal(target: &Path) -> io::Result<()> {
    match fs::remove_file(journal(target)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync(folder: &File) -> io::Result<()> {
    match folder.sync_all() {
        // Some file systems (FUSE, CIFS) have no sync for folders and say so with EINVAL.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
        synced => synced,
    }
}

/// Ends a replacement that a power failure or a kill cut short: writes what its journal holds into
/// the file, removes what was no whole journal yet.
///
/// # Errors
/// When the journal's content cannot be written. It stays and goes on counting.
pub(super) fn finish_left_over(file: &Path) -> io::Result<()> {
    let target = followed(file)?;
    // Usually there is none; a read-only file system must not stop the start.
    fs::remove_file(temporary(&target)).ok();
    let Some(journal) = content(&journal(&target))? else { return Ok(()) };
    write_in_place(&target, &File::open(folder(&target))?, &journal)
}

/// Takes the file's lock, which lasts as long as the file is open: no other daemon writes this
/// file. `None` where there is no file yet, or no locks. It is open for reading alone: else its
/// file system could not be made read-only.
///
/// # Errors
/// [`WouldBlock`](io::ErrorKind::WouldBlock) when another process has it.
pub(super) fn lock(file: &Path) -> io::Result<Option<File>> {
    let Ok(path) = followed(file) else { return Ok(None) };
    for _ in 0..REPLACED {
        let Ok(opened) = file::open(&path, File::options().read(true)) else { return Ok(None) };
        match take_lock(&opened) {
            Err(Errno::WOULDBLOCK) if !strangers_hold(&opened) => {
                return Err(Errno::WOULDBLOCK.into());
            }
            Err(_) => return Ok(None),
            Ok(()) if is_at(&opened, &path) => return Ok(Some(opened)),
            // Its owner replaced it after we had opened it: the lock is the old file's.
            Ok(()) => {}
        }
    }
    Err(Errno::WOULDBLOCK.into())
}

/// Whether `path` still leads to the opened file.
fn is_at(opened: &File, path: &Path) -> bool {
    let place = |file: fs::Metadata| (file.dev(), file.ino());
    opened.metadata().ok().map(place) == fs::metadata(path).ok().map(place)
}

/// The mode of a file that users other than its owner may read or write.
pub(super) fn too_open(file: &Path) -> Option<u32> {
    // A folder there is another fault, which a start does not mend.
    let mode = fs::metadata(file).ok().filter(fs::Metadata::is_file)?.mode() & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}

/// Why the file could not be replaced, as far as looking tells.
pub(super) fn unwritable(file: &Path) -> Option<io::Error> {
    let target = followed(file).ok()?;
    let is_kept = fs::metadata(&target).is_ok_and(|found| reason::is_kept(&target, &found));
    let denied = rustix::fs::access(folder(&target), rustix::fs::Access::WRITE_OK).err();
    let denied = denied.or(is_kept.then_some(Errno::PERM));
    denied.or_else(|| is_full(folder(&target)).then_some(Errno::NOSPC)).map(io::Error::from)
}

fn is_full(folder: &Path) -> bool {
    // Some file systems count no blocks, or no files.
    rustix::fs::statvfs(folder).is_ok_and(|found| {
        let is_short = |all, left| all > 0 && left == 0;
        is_short(found.f_blocks, found.f_bavail) || is_short(found.f_files, found.f_favail)
    })
}

/// Leaves the file to its owner alone.
pub(super) fn tighten(file: &Path) -> io::Result<()> {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))
}

/// Gives the new file's lock.
fn write_new(path: &Path, content: &[u8]) -> io::Result<Option<File>> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    new.write_all(content)?;
    new.sync_all()?;
    // Nobody else knows the file yet, so that it can be locked; where there are no locks it goes
    // without.
    Ok(lock(path).unwrap_or_default())
}

/// Where the file really is: symbolic links are followed, the last of them also when it points
/// to a file that is yet to be made (which `canonicalize` refuses). Root follows only its own: another user's,
/// who may put things into the folder, would have it write anywhere.
///
/// # Errors
/// Besides what reading them meets: `LOOP`.
fn followed(file: &Path) -> io::Result<PathBuf> {
    /// As many as the kernel follows.
    const LINKS: usize = 40;
    let mut path = file.to_owned();
    for _ in 0..LINKS {
        match fs::read_link(&path) {
            Ok(_) if geteuid().is_root() && fs::symlink_metadata(&path)?.uid() != 0 => break,
            Ok(next) => path = folder(&path).join(next),
            // No link (EINVAL), or nothing there.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(path);
            }
            Err(error) => return Err(error),
        }
    }
    Err(Errno::LOOP.into())
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The name of the new file until it takes the old one's: always the same, so that at most one
/// can ever be left over. Only one daemon writes in a folder, one change at a time.
fn temporary(target: &Path) -> PathBuf {
    beside(target, ".new")
}

/// Where the whole new content of a file stands while it is written in place.
fn journal(target: &Path) -> PathBuf {
    beside(target, ".journal")
}

fn beside(target: &Path, end: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(end);
    target.with_file_name(name)
}
