//! Why the state cannot be read or kept, in sentences that name the remedy.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::mappings::mapping::Id;
use crate::os;
use crate::text::reason;

/// Why the state file cannot be read or a change was not made. Passcodes are never in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The file cannot be read or does not hold what it should: the start must stop. All faults,
    /// a sentence each.
    Unreadable(Vec<String>),
    /// The file cannot be read now, for what may pass: the disk, no file left, another process that
    /// has its lock. The sentence says which.
    Unavailable(String),
    /// The file could not be replaced; the sentence says why.
    Unwritable(String),
    /// A mapping was to be added whose id is in use.
    Taken(Id),
    /// A mapping was to be changed or removed that is not there.
    Unknown(Id),
    /// The writer has ended, since the daemon is stopping.
    Stopped,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Unreadable(sentences) => f.write_str(&sentences.join("\n")),
            StoreError::Unavailable(sentence) | StoreError::Unwritable(sentence) => {
                f.write_str(sentence)
            }
            StoreError::Taken(id) => write!(f, "A mapping with the id {id:?} exists already."),
            StoreError::Unknown(id) => write!(f, "There is no mapping with the id {id:?}."),
            StoreError::Stopped => f.write_str("The connector is stopping; nothing was changed."),
        }
    }
}

impl std::error::Error for StoreError {}

/// The file cannot be read.
pub(super) fn unreadable(file: &Path, error: &io::Error) -> StoreError {
    let why = match error.kind() {
        ErrorKind::NotFound => {
            "it is a link into a folder that does not exist: mount or make that \
             folder, or remove the link"
                .to_owned()
        }
        ErrorKind::FileTooLarge => {
            "it is longer than 64 MiB, which no mappings need; put a backup in its place".to_owned()
        }
        _ => reason::reading(file, error),
    };
    let sentence = format!("{}: {why}.", file.display());
    if reason::may_pass(error) {
        StoreError::Unavailable(sentence)
    } else {
        StoreError::Unreadable(vec![sentence])
    }
}

/// Another process has the file's lock.
pub(super) fn shared(file: &Path, holder: Option<u32>) -> StoreError {
    let who = match holder.map(|pid| (pid, os::config_of(pid))) {
        Some((pid, Some(config))) => format!(" (process {pid}, its configuration folder {config})"),
        Some((pid, None)) => format!(" (process {pid})"),
        None => String::new(),
    };
    StoreError::Unavailable(format!(
        "{}: another iofog-connector{who} keeps its mappings in this file; stop that one, or let \
         each have a file of its own.",
        file.display()
    ))
}

/// The file does not hold what it should; each fault is half a sentence.
pub(super) fn invalid(file: &Path, faults: Vec<String>) -> StoreError {
    let sentence = |fault| format!("{}: {fault}.", file.display());
    let mut sentences: Vec<String> = faults.into_iter().map(sentence).collect();
    sentences.push(format!(
        "{} is left as it is; correct it or put a backup in its place (or move it away to begin \
         without mappings).",
        file.display()
    ));
    StoreError::Unreadable(sentences)
}

/// The file could not be replaced.
pub(super) fn unwritable(file: &Path, error: &io::Error) -> StoreError {
    let why = match error.kind() {
        ErrorKind::StorageFull => {
            "the disk is full; free some space, and make the change again".to_owned()
        }
        ErrorKind::QuotaExceeded => {
            "the service's user has used up its disk quota; free some space or raise it".to_owned()
        }
        ErrorKind::FileTooLarge => {
            "the file would be larger than the service may write; raise its file size limit \
             (LimitFSIZE=, ulimit -f)"
                .to_owned()
        }
        ErrorKind::ReadOnlyFilesystem => {
            "its folder's file system is read-only; make it writable (mount the folder, not the \
             file alone), or make the file a symbolic link to a place that is"
                .to_owned()
        }
        ErrorKind::PermissionDenied => {
            let place = file.canonicalize().unwrap_or_else(|_| file.to_owned());
            place.parent().and_then(reason::caged_from_writing).unwrap_or_else(|| {
                "the service's user may not write in its folder; give it that folder (chown), or, where \
                 the file alone is mounted, mount a folder"
                    .to_owned()
            })
        }
        ErrorKind::NotFound => "its folder does not exist; mount or make it".to_owned(),
        _ => reason::writing(file, error),
    };
    StoreError::Unwritable(format!("{} could not be replaced: {why}.", file.display()))
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn disk_failures_name_their_remedy() {
        for (errno, part) in [
            (Errno::NOSPC, "the disk is full; free some space, and make the change again."),
            (Errno::DQUOT, "disk quota"),
            (Errno::FBIG, "file size limit"),
            (Errno::ROFS, "read-only; make it writable (mount the folder, not the file alone)"),
            (Errno::ACCESS, "may not write in its folder"),
            (Errno::PERM, "may not write in its folder"),
            (Errno::NOENT, "its folder does not exist"),
            (Errno::IO, "the disk reports a fault"),
        ] {
            let sentence =
                unwritable(Path::new("/etc/x/configs.json"), &io::Error::from(errno)).to_string();
            assert!(sentence.starts_with("/etc/x/configs.json could not be replaced: "));
            assert!(sentence.contains(part), "{sentence}");
        }
    }
}
