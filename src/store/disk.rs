//! Reading a file, and replacing it so that a power failure leaves the old one or the new one,
//! whole. Knows nothing of what is in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// The longest state file, 64 MiB: the 32,767 mappings that all ports together allow are about
/// 11 MiB, and direct connections have room for the rest.
const LONGEST: usize = 64 * 1024 * 1024;

/// Why a file was not replaced.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: io::Error,
    /// Whether the new file is in its place all the same, but may not outlive a power failure.
    pub(super) renamed: bool,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure { error, renamed: false }
    }
}

/// The file's content; `None` when there is no file.
///
/// # Errors
/// Besides what reading meets: `NotFound` when not even the folder is there. A symbolic link
/// into a file system that is not mounted must not be taken for an empty list.
pub(super) fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    let target = followed(file)?;
    let opened = match File::open(&target) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::metadata(folder(&target))?;
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    opened.take(LONGEST as u64 + 1).read_to_end(&mut content)?;
    if content.len() > LONGEST {
        return Err(Errno::FBIG.into());
    }
    Ok(Some(content))
}

/// Puts `content` in the place of the file's content: a new file beside it (mode 0600), synced,
/// renamed over it, and the folder synced. A symbolic link stays one; what it points to is
/// replaced. Every failure removes the new file again.
pub(super) fn replace(file: &Path, content: &[u8]) -> Result<(), Failure> {
    if content.len() > LONGEST {
        return Err(io::Error::from(Errno::FBIG).into());
    }
    let target = followed(file)?;
    // Opened first: after the rename, failing for want of a file descriptor would be too late.
    let folder = File::open(folder(&target))?;
    let temporary = temporary(&target);
    write_new(&temporary, content).and_then(|()| fs::rename(&temporary, &target)).inspect_err(
        |_| {
            // What cannot be removed now is removed by the next change or the next start.
            fs::remove_file(&temporary).ok();
        },
    )?;
    match folder.sync_all() {
        // Some file systems (FUSE, CIFS) have no sync for folders and say so with EINVAL.
        Err(error) if error.raw_os_error() != Some(Errno::INVAL.raw_os_error()) => {
            Err(Failure { error, renamed: true })
        }
        _ => Ok(()),
    }
}

/// Removes the new file of a replacement that a power failure or a kill cut short.
pub(super) fn remove_left_over(file: &Path) {
    if let Ok(target) = followed(file) {
        // None there is the usual case; a read-only file system must not stop the start.
        fs::remove_file(temporary(&target)).ok();
    }
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    new.write_all(content)?;
    new.sync_all()
}

/// Where the file really is: symbolic links are followed, the last of them also when it points
/// to a file that is yet to be made (which `canonicalize` refuses).
fn followed(file: &Path) -> io::Result<PathBuf> {
    /// As many as the kernel follows.
    const LINKS: usize = 40;
    let mut path = file.to_owned();
    for _ in 0..LINKS {
        match fs::read_link(&path) {
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
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".new");
    target.with_file_name(name)
}
