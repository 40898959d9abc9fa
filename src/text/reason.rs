//! Why a file or folder cannot be used, in sentences with the value and the remedy: the system's own
//! words ("Permission denied (os error 13)") say neither whose file it is nor what mends it.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getgroups};

/// Whether the process is in a cage that restricts files.
static RESTRICTED: AtomicBool = AtomicBool::new(false);

/// From now on this process may open no files but those that were named at its start.
pub fn files_are_restricted() {
    RESTRICTED.store(true, Ordering::Relaxed);
}

/// The system's words for an error, without its number.
pub fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Whether an error says that there is no such file.
pub fn is_missing(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

/// Whether the obstacle may go away by itself soon, so that another start is worth while.
pub fn may_pass(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::IO | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOSPC | Errno::STALE)
    )
}

/// Why the file `path` cannot be read: half a sentence about it, with the remedy, without a dot.
pub fn reading(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => forbidden(path),
        ErrorKind::NotFound => "it does not exist".into(),
        _ => other(path, error),
    }
}

/// Why the file or folder `path` cannot be made or written: as [`reading`].
pub fn writing(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied if fs::symlink_metadata(path).is_err() => {
            match existing(path) {
                Some(folder) => unwritable(folder),
                None => "it may not be made there".into(),
            }
        }
        ErrorKind::PermissionDenied => unwritable(path),
        ErrorKind::NotFound => "its folder does not exist; make it".into(),
        _ => other(path, error),
    }
}

fn other(path: &Path, error: &io::Error) -> String {
    let folder = existing(path).map_or_else(|| path.display(), Path::display);
    match error.kind() {
        ErrorKind::StorageFull => {
            format!("the disk is full; free some space (df -h {folder} shows it)")
        }
        ErrorKind::QuotaExceeded => {
            format!("the disk quota of {} is used up; free some space or raise it", user())
        }
        ErrorKind::FileTooLarge => {
            "the file would be larger than this process may write; raise its \
             file size limit (LimitFSIZE=, ulimit -f)"
                .into()
        }
        ErrorKind::ReadOnlyFilesystem => {
            "its file system is read-only; make it writable, or name another place".into()
        }
        ErrorKind::IsADirectory => "it is a folder, where a file is expected; move it away \
             (container engines make one where the file to mount is missing)"
            .into(),
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => match not_folder(path) {
            Some(file) => format!(
                "{} is a file, where a folder is expected; move it away, or name another place",
                file.display()
            ),
            None => "something of this name is there already; move it away".into(),
        },
        _ => match Errno::from_io_error(error) {
            Some(Errno::LOOP) if fs::metadata(path).is_ok() || is_dangling(path) => {
                "it is a link, and nothing is written through one there; remove it".into()
            }
            Some(Errno::LOOP) => "it is a link that leads to itself; remove it".into(),
            Some(Errno::MLINK) => "it belongs to a user who is neither root nor its folder's \
                                   owner, or has other names (hard links); remove it"
                .into(),
            Some(Errno::NAMETOOLONG) => "its name is too long; name a shorter path".into(),
            Some(Errno::NXIO) => {
                "it is a pipe, a socket or a device; put a file in its place".into()
            }
            Some(Errno::MFILE | Errno::NFILE) => {
                "too many files are open; raise the limit (LimitNOFILE=, ulimit -n)".into()
            }
            Some(Errno::TIMEDOUT) => "what writes to it did not finish in time".into(),
            Some(Errno::IO) => "the disk reports a fault (dmesg may tell more)".into(),
            Some(Errno::NOLCK | Errno::OPNOTSUPP) => {
                "its file system does not support locks; name a place on another one".into()
            }
            _ => words(error),
        },
    }
}

fn is_dangling(link: &Path) -> bool {
    fs::metadata(link).is_err_and(|error| is_missing(&error))
}

/// The first part of a path that is there and no folder.
fn not_folder(path: &Path) -> Option<&Path> {
    path.ancestors().find(|part| fs::metadata(part).is_ok_and(|found| !found.is_dir()))
}

/// The nearest folder on the way to `path` that is there.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().skip(1).map(here).find(|folder| folder.is_dir())
}

fn here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

fn closed(folder: &Path) -> bool {
    access(folder, Access::EXEC_OK) == Err(Errno::ACCESS)
}

/// Why a file may not be read: it, or the folder on the way that may not be entered.
fn forbidden(path: &Path) -> String {
    // From the top: behind a folder that may not be entered nothing can be looked at.
    let mut folders: Vec<_> = path.ancestors().skip(1).map(here).collect();
    folders.reverse();
    if let Some(folder) = folders.into_iter().find(|folder| closed(folder)) {
        let (name, shown) = (user(), quoted(folder));
        let is = owner_and_mode(folder).unwrap_or_default();
        // Folders are closed for a reason, so this does not advise to open them to everybody.
        // ProtectHome puts an empty one in the place of /root and /home.
        let why = match fs::metadata(folder).is_ok_and(|found| found.mode() & 0o777 == 0) {
            true => "the service's unit hides /root and /home;",
            false => "if this is not a service, run it as root, or",
        };
        return format!(
            "{name} may not enter the folder {shown}, which {is}: {why} put the file where {name} \
             may read it"
        );
    }
    let Ok(file) = fs::metadata(path) else {
        return match fs::read_link(path) {
            Ok(target) => {
                let target =
                    path.parent().map_or_else(|| target.clone(), |here| here.join(&target));
                format!("it is a link to {}, and {}", quoted(&target), forbidden(&target))
            }
            Err(_) => format!("{} may not read it", user()),
        };
    };
    if let Some(caged) = caged(path, Access::READ_OK) {
        return caged;
    }
    let (quoted, name) = (quoted(path), user());
    let is = owner_and_mode(path).unwrap_or_default();
    let own = file.uid() == geteuid().as_raw();
    if own && file.mode() & 0o400 == 0 {
        return format!("{name} may not read it: it {is}; chmod u+r {quoted}");
    }
    if may(&file, 0o4) {
        return format!(
            "{name} may not read it, although it {is}: a security module (AppArmor, SELinux) or the \
             service's sandbox forbids it"
        );
    }
    if file.mode() & 0o400 == 0 {
        return format!(
            "{name} may not read it: it {is}; as root: chown {name} {quoted} && chmod 600 {quoted}"
        );
    }
    format!("{name} may not read it: it {is}; as root: chown {name} {quoted}")
}

/// That the process's own cage forbids it, where nothing else does.
fn caged(path: &Path, what: Access) -> Option<String> {
    let is_allowed = || access(path, what).is_ok();
    (RESTRICTED.load(Ordering::Relaxed) && is_allowed()).then(|| {
        "the process's sandbox was made at its start for the files and folders that the settings named then, \
         and does not reach it; restart it, or put the file into one of these folders"
            .into()
    })
}

/// That the process's own cage forbids writing there, where nothing else does.
pub fn caged_from_writing(path: &Path) -> Option<String> {
    caged(path, Access::WRITE_OK)
}

fn unwritable(path: &Path) -> String {
    if let Some(caged) = caged_from_writing(path) {
        return caged;
    }
    let (quoted, name) = (quoted(path), user());
    match fs::metadata(path) {
        Ok(found) if is_kept(path, &found) => format!(
            "{name} may not replace {quoted}: in its folder a file's owner alone may (mode 1770), and it {}; as root: \
             chown {name} {quoted}",
            owner_and_mode(path).unwrap_or_default()
        ),
        Ok(found) if !may(&found, 0o2) => {
            let is = owner_and_mode(path).unwrap_or_default();
            // Only a folder of this program's may be given away, and not one that the service's user has.
            let ours = path
                .file_name()
                .is_some_and(|last| last.as_encoded_bytes().starts_with(b"iofog-connector"));
            let mend = match found.uid() {
                own if own == geteuid().as_raw() => format!("chmod u+w {quoted}"),
                // Root's, in whose files the service's user may change nothing but its own.
                0 if ours && path.starts_with("/etc") => {
                    format!("as root: chgrp {name} {quoted} && chmod 1770 {quoted}")
                }
                0 if ours => format!("as root: chown {name} {quoted}"),
                _ => format!("run it as root, or name a place where {name} may write"),
            };
            format!("{name} may not write in {quoted}, which {is}; {mend}")
        }
        _ => format!(
            "{name} may not write in {quoted}: a folder on the way, a security module (AppArmor, \
             SELinux) or the service's sandbox forbids it"
        ),
    }
}

/// Whether the folder's mode keeps the file from being replaced by this process, as it does with all but owners.
pub fn is_kept(path: &Path, file: &fs::Metadata) -> bool {
    let folder = path.parent().filter(|_| file.is_file());
    folder
        .and_then(|folder| fs::metadata(folder).ok())
        .is_some_and(|folder| keeps(folder.mode(), [folder.uid(), file.uid()], geteuid().as_raw()))
}

/// Whether a folder of this mode lets none but the owners, its own and the file's, and root replace the file.
fn keeps(mode: u32, owners: [u32; 2], user: u32) -> bool {
    mode & 0o1000 != 0 && user != 0 && !owners.contains(&user)
}

/// Whether owner and mode allow what the bits (4 reading, 2 writing) ask for.
fn may(file: &fs::Metadata, bits: u32) -> bool {
    let own = geteuid();
    let groups = getgroups().unwrap_or_default();
    let member = || {
        getegid().as_raw() == file.gid() || groups.iter().any(|group| group.as_raw() == file.gid())
    };
    let shift = match () {
        () if own.is_root() => return true,
        () if own.as_raw() == file.uid() => 6,
        () if member() => 3,
        () => 0,
    };
    file.mode() >> shift & bits == bits
}

/// `belongs to root:ssl-cert, mode 0640`.
pub fn owner_and_mode(path: &Path) -> Option<String> {
    let found = fs::metadata(path).ok()?;
    let owner = name("/etc/passwd", found.uid());
    let group = name("/etc/group", found.gid());
    Some(format!("belongs to {owner}:{group}, mode {:04o}", found.mode() & 0o7777))
}

/// The user whose rights count now.
pub fn user() -> String {
    name("/etc/passwd", geteuid().as_raw())
}

/// A user's or a group's name, its number where it has none.
fn name(file: &str, id: u32) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let named = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| id.to_string())
}

/// A path as a shell takes it.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Says that everybody on this machine can read `what`, which a file of this `mode` holds; `None`
/// where they cannot.
pub fn exposed(what: &str, mode: u32) -> Option<String> {
    (mode & 0o004 != 0).then(|| format!("everybody on this machine can read the {what}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;
    use crate::testing::{folder::Folder, ignored::could_not_run};

    #[test]
    fn every_error_of_a_file_names_what_mends_it() {
        let path = Path::new("/etc/passwd/x");
        for (errno, remedy) in [
            (Errno::NOSPC, "the disk is full; free some space (df -h /etc shows it)"),
            (Errno::DQUOT, "disk quota"),
            (Errno::FBIG, "LimitFSIZE"),
            (Errno::ROFS, "read-only; make it writable"),
            (Errno::ISDIR, "it is a folder, where a file is expected; move it away"),
            (Errno::NOTDIR, "a file, where a folder is expected; move it away"),
            (Errno::LOOP, "a link that leads to itself; remove it"),
            (Errno::NAMETOOLONG, "name a shorter path"),
            (Errno::MFILE, "LimitNOFILE"),
            (Errno::NXIO, "it is a pipe, a socket or a device; put a file in its place"),
            (Errno::TIMEDOUT, "what writes to it did not finish in time"),
            (Errno::IO, "the disk reports a fault"),
            (Errno::NOLCK, "name a place on another one"),
        ] {
            for said in [reading(path, &errno.into()), writing(path, &errno.into())] {
                assert!(said.contains(remedy), "{said}");
                assert!(!said.contains("os error"), "{said}");
            }
        }
        assert_eq!(reading(Path::new("/no/such"), &Errno::NOENT.into()), "it does not exist");
        assert_eq!(words(&Errno::PIPE.into()), "Broken pipe");
    }

    /// In a thread of its own, which alone has another user's rights.
    #[test]
    fn in_a_sticky_folder_only_owners_and_root_replace_a_file() {
        for (mode, owners, user, kept) in [
            (0o1770, [0, 0], 7, true),
            (0o1770, [0, 7], 7, false),
            (0o1770, [7, 0], 7, false),
            (0o1770, [8, 8], 0, false),
            (0o770, [0, 0], 7, false),
        ] {
            assert_eq!(keeps(mode, owners, user), kept, "{mode:o} {owners:?} {user}");
        }
    }

    #[test]
    fn files_and_folders_that_a_user_may_not_use_are_named_with_owner_mode_and_command() {
        if !geteuid().is_root() {
            return could_not_run("not root, so that nobody else's eyes can be had");
        }
        let dir = Folder::new();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let file = |folder: &str, name: &str, bits| -> PathBuf {
            fs::create_dir_all(dir.join(folder)).unwrap();
            let path = dir.join(folder).join(name);
            fs::write(&path, "").unwrap();
            mode(&path, bits);
            path
        };
        let link = dir.join("link");
        std::os::unix::fs::symlink(dir.join("shut/hidden"), &link).unwrap();
        let (closed, hidden) = (file("open", "closed", 0o600), file("shut", "hidden", 0o644));
        let odd = file("open", "it's", 0o600);
        mode(&dir, 0o755);
        mode(&dir.join("open"), 0o755);
        mode(&dir.join("shut"), 0o700);
        let shown = |path: &Path| path.display().to_string();
        std::thread::spawn(move || {
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
            let denied = || io::Error::from(Errno::ACCESS);
            let (said, path) = (reading(&closed, &denied()), shown(&closed));
            assert!(said.contains("it belongs to root:root, mode 0600; as root: chown"), "{said}");
            assert!(said.ends_with(&path), "{said}");
            let said = reading(&odd, &denied());
            assert!(said.ends_with(r"it'\''s'"), "{said}");
            let (said, path) = (reading(&hidden, &denied()), shown(hidden.parent().unwrap()));
            assert!(said.contains(&format!("may not enter the folder {path}, which")), "{said}");
            assert!(said.ends_with("or put the file where nobody may read it"), "{said}");
            let said = reading(&link, &denied());
            let whole = format!("it is a link to {}, and nobody may not enter", shown(&hidden));
            assert!(said.starts_with(&whole), "{said}");
            let new = closed.with_file_name("new");
            let (said, path) = (writing(&new, &denied()), shown(new.parent().unwrap()));
            assert!(said.contains(&format!("may not write in {path}, which belongs to")), "{said}");
            assert!(
                said.ends_with("run it as root, or name a place where nobody may write"),
                "{said}"
            );
        })
        .join()
        .unwrap();
    }
}
