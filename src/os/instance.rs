//! One daemon a run folder, and one writer a configuration folder: their locks, and the messages
//! of a daemon that finds another one there.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, FlockOperation, access, flock, major, minor};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::config::folders::Options;
use crate::text::{file, reason};

/// The file in the run folder whose lock says that a daemon runs there; it holds the daemon's
/// process id.
const LOCK: &str = "iofog-connector.lock";

/// How long to keep trying for a lock that is held: a command that checks whether the daemon runs
/// holds it for a moment.
const LOCK_RETRY: Duration = Duration::from_millis(10);
const LOCK_TRIES: u32 = 10;

/// Why the daemon cannot run here.
#[derive(Debug)]
pub enum ProcessError {
    /// Another one runs with the same run folder.
    Running {
        /// The run folder.
        run: PathBuf,
        /// The other one's process id, where it can be told.
        pid: Option<u32>,
    },
    /// Another one keeps its mappings in the same configuration folder.
    Shared {
        /// The configuration folder.
        config: PathBuf,
        /// This one's run folder, which the other one does not use.
        run: PathBuf,
        /// The other one's process id, where it can be told.
        pid: Option<u32>,
    },
    /// A file or folder cannot be made or used.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl fmt::Display for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProcessError::Running { run, pid } => {
                write!(f, "iofog-connector is already running in {}", run.display())?;
                if let Some(pid) = pid {
                    write!(f, " (process {pid})")?;
                }
                f.write_str("; `iofog-connector stop` ends that one and waits until it has; or name another folder with --run DIR")
            }
            ProcessError::Shared { config, run, pid } => {
                write!(f, "another iofog-connector")?;
                if let Some(pid) = pid {
                    write!(f, " (process {pid}")?;
                    if let Some(own) = config_of(*pid).filter(|own| Path::new(own) != config) {
                        write!(f, ", --config {own}")?;
                    }
                    f.write_str(")")?;
                }
                write!(
                    f,
                    ", whose run folder is not {}, keeps its mappings in {}; stop that one, or name \
                     another folder with --config DIR",
                    run.display(),
                    config.display()
                )
            }
            ProcessError::File { path, error } => write!(
                f,
                "{}: {}; the run folder must belong to the user that runs the daemon, or name \
                 another with --run DIR",
                path.display(),
                reason::writing(path, error)
            ),
        }
    }
}

impl std::error::Error for ProcessError {}

/// The right to run in a run folder. Dropping it lets another daemon start there.
#[derive(Debug)]
pub struct Instance {
    lock: File,
    /// Whether another process has it, too, and keeps it.
    is_passed_on: Cell<bool>,
}

impl Instance {
    /// Makes the run folder where it is missing and takes its lock.
    pub fn take(run: &Path) -> Result<Self, ProcessError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |error| ProcessError::File { path, error }
        };
        // 0755, narrowed by the process's umask.
        DirBuilder::new().recursive(true).mode(0o755).create(run).map_err(failed(run))?;
        let path = run.join(LOCK);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = file::open_own(&path, &mut options).map_err(failed(&path))?;
        // Whoever can open it can lock it. An older daemon's could be opened by everybody.
        let _ = lock.set_permissions(fs::Permissions::from_mode(0o600));
        match take_lock(&lock) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(ProcessError::Running { run: run.to_owned(), pid: pid(&lock) });
            }
            Err(error) => return Err(failed(&path)(error.into())),
        }
        let instance = Self::inherited(lock);
        instance.name_process();
        Ok(instance)
    }

    /// The right of another process, which has handed over its `lock`.
    pub fn inherited(lock: File) -> Self {
        Instance { lock, is_passed_on: Cell::new(false) }
    }

    /// From now on it is this process that runs here.
    pub fn name_process(&self) {
        self.is_passed_on.set(false);
        self.name(std::process::id());
    }

    /// Says that it is this process that runs here.
    pub fn name(&self, process: u32) {
        // The lock is what counts; where a full disk keeps the process id out, messages lack it. Written over the one
        // before, with blanks behind it, it needs no more place than that has.
        let line = format!("{process:<10}\n");
        let mut lock = &self.lock;
        let written = lock.rewind().and_then(|()| lock.write_all(line.as_bytes()));
        let _ = written.and_then(|()| lock.set_len(line.len() as u64));
    }

    /// The lock, for another process.
    ///
    /// # Errors
    /// No file is left.
    pub fn lock(&self) -> io::Result<OwnedFd> {
        self.lock.as_fd().try_clone_to_owned()
    }

    /// Another process has the right now.
    pub fn passed_on(&self) {
        self.is_passed_on.set(true);
    }

    /// Why a start could not use the run folder, as far as looking tells. The service manager makes
    /// the package's own, so that one may be missing.
    pub fn check(run: &Path) -> Result<(), ProcessError> {
        let may = |path: &Path, what| {
            let failed =
                |error: Errno| ProcessError::File { path: path.into(), error: error.into() };
            access(path, what).map_err(failed)
        };
        let lock = run.join(LOCK);
        if lock.exists() {
            may(&lock, Access::READ_OK | Access::WRITE_OK)?;
        }
        if !run.exists() && run == Options::default().run_dir {
            return Ok(());
        }
        // The socket is made anew; missing folders are made.
        let folder = run.ancestors().find(|folder| folder.exists());
        folder.map_or(Ok(()), |folder| may(folder, Access::WRITE_OK | Access::EXEC_OK))
    }

    /// Whether a daemon runs in this folder now, and its process id where it can be told: whoever has broken into it can
    /// write another one into the lock's file, for somebody to end or to signal, so the kernel must bear it out.
    pub fn running(run: &Path) -> Result<Option<Option<u32>>, ProcessError> {
        let path = run.join(LOCK);
        let failed = |error| ProcessError::File { path: path.clone(), error };
        // Whoever may put a link there could name any process by the lock of another program.
        let lock = match file::open_own(&path, File::options().read(true)) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(Errno::WOULDBLOCK) => Ok(Some(pid(&lock))),
            Err(error) => Err(failed(error.into())),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Only for tidiness: a process id without a lock is ignored.
        if !self.is_passed_on.get() {
            let _ = self.lock.set_len(0);
        }
    }
}

/// The right to change the mappings in a configuration folder: its lock, which is the folder's own,
/// so that nothing is written there. Dropping it gives it up.
#[derive(Debug)]
pub struct Ownership(#[expect(dead_code, reason = "held for its lock")] File);

impl Ownership {
    /// Takes the lock of the folder `config`; `run` is the run folder, for the message. `None` where
    /// the folder cannot be locked (one that may not be listed, some network file systems), or only
    /// strangers have locked it: everybody who may read it can.
    pub fn take(config: &Path, run: &Path) -> Result<Option<Self>, ProcessError> {
        let Ok(folder) = File::open(config) else { return Ok(None) };
        match take_lock(&folder) {
            Ok(()) => Ok(Some(Ownership(folder))),
            Err(Errno::WOULDBLOCK) if !strangers_hold(&folder) => Err(ProcessError::Shared {
                config: config.to_owned(),
                run: run.to_owned(),
                pid: holder(&folder),
            }),
            Err(_) => Ok(None),
        }
    }
}

/// Takes a lock, waiting for a moment; `WOULDBLOCK` when another process keeps it.
pub fn take_lock(file: &File) -> Result<(), Errno> {
    let mut tries = 0;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if tries < LOCK_TRIES => {
                tries += 1;
                // In the cage nobody sleeps otherwise.
                std::thread::park_timeout(LOCK_RETRY);
            }
            outcome => return outcome,
        }
    }
}

/// The process that has locked a file, where the kernel's list of locks can be read:
/// `1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF`.
pub fn holder(file: &File) -> Option<u32> {
    holders(&fs::read_to_string("/proc/locks").ok()?, file).into_iter().next()
}

/// Whether a file is locked by strangers alone: processes of users who are neither root nor this
/// process's nor the file's, so that no connector can be among them. Where that cannot be told, it is not.
pub fn strangers_hold(file: &File) -> bool {
    let (Ok(found), Ok(locks)) = (file.metadata(), fs::read_to_string("/proc/locks")) else {
        return false;
    };
    let is_stranger = |pid: &u32| match fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => {
            let known = [0, geteuid().as_raw(), found.uid()];
            real_user(&status).is_some_and(|user| !known.contains(&user))
        }
        // Who took it has ended, and another process has it from there: a daemon keeps its own.
        Err(error) => *pid != 0 && reason::is_missing(&error),
    };
    let holders = holders(&locks, file);
    !holders.is_empty() && holders.iter().all(is_stranger)
}

/// The user who has started a process, by the kernel's `/proc/PID/status`: not the one whose rights it
/// has, since everybody can start `su`.
fn real_user(status: &str) -> Option<u32> {
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_whitespace().next()?.parse().ok()
}

fn holders(locks: &str, file: &File) -> Vec<u32> {
    let Ok(found) = file.metadata() else { return Vec::new() };
    let (device, inode) = (found.dev(), found.ino());
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let lines = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let holder = |words: Vec<&str>| {
        let held = words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&&*file);
        held.then(|| words.get(4)?.parse().ok())?
    };
    lines.filter_map(holder).collect()
}

/// The configuration folder that a process was started with, as its command line names it.
pub fn config_of(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).into_owned();
    let mut words = line.split('\0');
    while let Some(word) = words.next() {
        match word.strip_prefix("--config") {
            Some("") => return words.next().map(str::to_owned),
            Some(value) if value.starts_with('=') => return Some(value[1..].to_owned()),
            _ => {}
        }
    }
    Some(Options::default().config_dir.display().to_string())
}

/// The process that has a lock: the one that the file names, which may have it from another one, or else the one
/// that took it, or any that has it; `None` where none is seen to have it.
fn pid(mut lock: &File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.take(16).read_to_string(&mut text).ok()?;
    let named = text.trim().parse().ok();
    let is_it = |pid: &u32| has(*pid, lock);
    named.filter(is_it).or_else(|| holder(lock).filter(is_it)).or_else(|| {
        // It was handed over to one that hangs, say; the kernel's list knows the one that took it alone.
        let processes = fs::read_dir("/proc").ok()?.flatten();
        processes.filter_map(|process| process.file_name().to_str()?.parse().ok()).find(is_it)
    })
}

/// Whether one of a process's open files is this one and is what it is locked by, as the kernel says in
/// `/proc/PID/fdinfo`: nobody can have that of another process. The file is known by its path, since some file systems
/// (btrfs, overlayfs) give it other numbers there.
fn has(pid: u32, lock: &File) -> bool {
    let path = |pid: &str, fd: &OsStr| {
        fs::read_link(Path::new("/proc").join(pid).join("fd").join(fd)).ok()
    };
    let own = path("self", lock.as_fd().as_raw_fd().to_string().as_ref());
    let process = pid.to_string();
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    files.filter(|file| own.is_some() && path(&process, &file.file_name()) == own).any(|file| {
        let said = fs::read_to_string(file.path()).unwrap_or_default();
        said.lines().any(|line| line.starts_with("lock:") && line.contains(" FLOCK "))
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::testing::{folder::Folder, ignored::could_not_run};

    #[test]
    fn one_instance_a_run_folder() {
        let folder = Folder::new();
        let run = folder.join("made").join("deep");
        assert!(Instance::running(&run).unwrap().is_none());
        let instance = Instance::take(&run).unwrap();
        let own = std::process::id();
        assert_eq!(Instance::running(&run).unwrap(), Some(Some(own)));
        let error = Instance::take(&run).unwrap_err().to_string();
        assert!(error.contains(&format!("(process {own})")), "{error}");
        assert!(
            error.contains("waits until it has; or name another folder with --run DIR"),
            "{error}"
        );
        drop(instance);
        assert!(Instance::running(&run).unwrap().is_none());
        Instance::take(&run).unwrap();
    }

    #[test]
    fn only_a_process_that_has_the_lock_is_named_whatever_the_file_says() {
        let folder = Folder::new();
        let instance = Instance::take(&folder).unwrap();
        let own = std::process::id();
        for wrong in [1, own + 1, 0] {
            instance.name(wrong);
            assert_eq!(Instance::running(&folder).unwrap(), Some(Some(own)), "{wrong}");
        }
        // One that has it from another one, who has ended.
        let sleeping =
            |input: Stdio| Command::new("sleep").arg("100").stdin(input).spawn().unwrap();
        let mut heir = sleeping(instance.lock().unwrap().into());
        // One that has the file open, and not the lock.
        let path = folder.join(LOCK);
        let mut other = sleeping(File::open(&path).unwrap().into());
        instance.name(other.id());
        assert_eq!(Instance::running(&folder).unwrap(), Some(Some(own)));
        instance.name(heir.id());
        assert_eq!(Instance::running(&folder).unwrap(), Some(Some(heir.id())));
        instance.passed_on();
        drop(instance);
        assert_eq!(Instance::running(&folder).unwrap(), Some(Some(heir.id())));
        for child in [&mut heir, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // A link to what another program has locked.
        let elsewhere = Folder::new();
        let _instance = Instance::take(&elsewhere).unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(elsewhere.join(LOCK), &path).unwrap();
        assert!(Instance::running(&folder).is_err());
    }

    #[test]
    fn the_process_that_a_lock_names_is_replaced_where_it_stands_so_that_a_full_disk_keeps_none_out()
     {
        let folder = Folder::new();
        let path = folder.join(LOCK);
        // As an older daemon wrote it, and something longer.
        for before in ["7\n", "not a process, but longer"] {
            fs::write(&path, before).unwrap();
            let lock = File::options().read(true).write(true).open(&path).unwrap();
            let instance = Instance::inherited(lock);
            for (process, line) in [(u32::MAX, "4294967295\n"), (12, "12        \n")] {
                instance.name(process);
                assert_eq!(fs::read_to_string(&path).unwrap(), line);
            }
            instance.passed_on();
        }
    }

    #[test]
    fn who_holds_a_lock_is_told_by_device_and_inode() {
        let dir = Folder::new();
        let path = dir.join("locked");
        let file = File::create(&path).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        let (device, inode) = (file.metadata().unwrap().dev(), file.metadata().unwrap().ino());
        let locks = |major: u32, inode: u64| {
            let minor = minor(device);
            format!(
                "1: POSIX  ADVISORY  WRITE 7 {major:02x}:{minor:02x}:{inode} 0 EOF\n2: FLOCK  ADVISORY  WRITE 8 {major:02x}:{minor:02x}:{inode} 0 EOF\n"
            )
        };
        let major = major(device);
        assert_eq!(holders(&locks(major, inode), &file), [8]);
        assert!(holders(&locks(major + 1, inode), &file).is_empty(), "another file system's");
        assert!(holders(&locks(major, inode + 1), &file).is_empty());
    }

    #[test]
    fn lock_is_a_file_of_the_run_folder_alone_and_for_its_owner_alone() {
        let folder = Folder::new();
        let (run, victim) = (folder.join("run"), folder.join("victim"));
        fs::create_dir(&run).unwrap();
        fs::write(&victim, "dear").unwrap();
        let lock = run.join(LOCK);
        let refused = |why: &str| {
            let error = Instance::take(&run).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
            assert_eq!(fs::read(&victim).unwrap(), b"dear");
        };
        std::os::unix::fs::symlink(&victim, &lock).unwrap();
        refused("it is a link, and nothing is written through one there; remove it");
        fs::remove_file(&lock).unwrap();
        fs::hard_link(&victim, &lock).unwrap();
        refused("has other names (hard links); remove it");
        fs::remove_file(&lock).unwrap();
        // As an older daemon left it.
        fs::write(&lock, "").unwrap();
        fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
        drop(Instance::take(&run).unwrap());
        assert_eq!(fs::metadata(&lock).unwrap().mode() & 0o777, 0o600);
        if !geteuid().is_root() {
            return could_not_run("not root, so that nobody else's file can be had");
        }
        let give = |path: &Path| std::os::unix::fs::chown(path, Some(65534), None).unwrap();
        give(&lock);
        refused("it belongs to a user who is neither root nor its folder's owner");
        give(&run);
        Instance::take(&run).unwrap();
    }

    #[test]
    fn who_has_started_a_process_is_told_whatever_rights_it_has() {
        let status = "Name:\tsu\nPid:\t7\nUid:\t1000\t0\t0\t0\nGid:\t1\t0\t0\t0\n";
        assert_eq!(real_user(status), Some(1000));
        assert_eq!(real_user("Name:\tsu\n"), None);
    }

    #[test]
    fn a_run_folder_that_cannot_be_made_is_named() {
        let error = Instance::take(Path::new("/proc/no/such")).unwrap_err().to_string();
        assert!(error.starts_with("/proc/no/such: "), "{error}");
    }
}
