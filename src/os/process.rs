//! The daemon as a process: one instance a run folder, signals, the service manager, limits,
//! and what happens when it panics.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smol::channel::Sender;
use smol::stream::StreamExt;

use crate::config::folders::Options;
use crate::limits;
use crate::logging::Logging;
use crate::text::reason;

/// The file in the run folder whose lock says that a daemon runs there; it holds the daemon's
/// process id.
pub const LOCK: &str = "iofog-connector.lock";

/// Files the daemon asks for at most: more would only make the kernel's table large.
const FILES: u64 = 1 << 20;

/// Longest wait for the service manager to take a message.
const NOTIFY: Duration = Duration::from_millis(250);

/// How long a locked lock is tried again: a command that looks whether the daemon runs holds
/// it for a moment.
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
                f.write_str("; stop that one with `iofog-connector stop`, or name another folder with --run DIR")
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
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(failed(&path))?;
        match take_lock(&lock) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(ProcessError::Running { run: run.to_owned(), pid: pid(&mut lock) });
            }
            Err(error) => return Err(failed(&path)(error.into())),
        }
        // The lock is what counts; where a full disk keeps the process id out, messages lack it.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Instance { lock })
    }

    /// Whether a daemon runs in this folder now, and its process id where it can be told.
    pub fn running(run: &Path) -> Result<Option<Option<u32>>, ProcessError> {
        let path = run.join(LOCK);
        let failed = |error| ProcessError::File { path: path.clone(), error };
        let mut lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(Errno::WOULDBLOCK) => Ok(Some(pid(&mut lock))),
            Err(error) => Err(failed(error.into())),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Only tidiness: a process id without a lock is not believed.
        let _ = self.lock.set_len(0);
    }
}

/// The right to change the mappings in a configuration folder: its lock, which is the folder's own,
/// so that nothing is written there. Dropping it gives it up.
#[derive(Debug)]
pub struct Ownership(#[expect(dead_code, reason = "held for its lock")] File);

impl Ownership {
    /// Takes the lock of the folder `config`; `run` is the run folder, for the message. `None` where
    /// the folder cannot be locked (one that may not be listed, some network file systems).
    pub fn take(config: &Path, run: &Path) -> Result<Option<Self>, ProcessError> {
        let Ok(folder) = File::open(config) else { return Ok(None) };
        match take_lock(&folder) {
            Ok(()) => Ok(Some(Ownership(folder))),
            Err(Errno::WOULDBLOCK) => Err(ProcessError::Shared {
                config: config.to_owned(),
                run: run.to_owned(),
                pid: holder(&folder),
            }),
            Err(_) => Ok(None),
        }
    }
}

/// Takes a lock, waiting for a moment; `WOULDBLOCK` when another process keeps it.
fn take_lock(file: &File) -> Result<(), Errno> {
    let mut tries = 0;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_RETRY);
            }
            outcome => return outcome,
        }
    }
}

/// The process that has locked a file, where the kernel's list of locks can be read:
/// `1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF`.
pub(crate) fn holder(file: &File) -> Option<u32> {
    let inode = format!(":{}", file.metadata().ok()?.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find_map(|words| {
        let held = words.get(1) == Some(&"FLOCK") && words.get(5)?.ends_with(&inode);
        held.then(|| words.get(4)?.parse().ok())?
    })
}

/// The configuration folder that a process was started with, as its command line names it.
pub(crate) fn config_of(pid: u32) -> Option<String> {
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

fn pid(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// SIGTERM or SIGINT: drain and stop.
    Stop,
    /// SIGHUP: read settings and certificates again, open the log file again.
    Reload,
}

/// The process's signals. From its making on, and for the rest of the process's life, none of
/// them ends the process by itself.
pub struct Signals(async_signal::Signals);

impl Signals {
    /// Takes SIGTERM, SIGINT and SIGHUP, and makes SIGXFSZ harmless, so that a file at its
    /// size limit is an error of the write. Rust ignores SIGPIPE before `main`.
    pub fn new() -> io::Result<Self> {
        use async_signal::Signal;
        async_signal::Signals::new([Signal::Term, Signal::Int, Signal::Hup, Signal::Xfsz])
            .map(Signals)
    }

    /// Tells of each signal, in a task of its own: elsewhere its pipe would be read whenever
    /// anything happens there.
    pub async fn pass_on(mut self, asks: Sender<Ask>) {
        while asks.send(self.next().await).await.is_ok() {}
    }

    /// The next signal that asks for something.
    pub async fn next(&mut self) -> Ask {
        use async_signal::Signal;
        loop {
            match self.0.next().await {
                Some(Ok(Signal::Term | Signal::Int)) => return Ask::Stop,
                Some(Ok(Signal::Hup)) => return Ask::Reload,
                Some(Ok(_)) => {}
                // The pipe that carries signals is the process's own and cannot end; should it
                // fail, the daemon runs on and SIGKILL still works.
                Some(Err(_)) | None => std::future::pending().await,
            }
        }
    }
}

/// What [`prepare`] has reached.
pub struct Prepared {
    /// Files the process may open.
    pub files: usize,
    /// What an operator should know, once there is a log to say it in.
    pub warning: Option<String>,
}

/// What is set once, before any thread exists: files are made unreadable to others (umask
/// 0027), a crash leaves no core file, which would hold passcodes and the key, and as many
/// files as the hard limit allows may be open.
pub fn prepare() -> Prepared {
    rustix::process::umask(Mode::from_raw_mode(0o027));
    let core = Rlimit { current: Some(0), maximum: getrlimit(Resource::Core).maximum };
    let warning = setrlimit(Resource::Core, core).err().map(|error| {
        format!(
            "core files, which may hold passcodes, cannot be turned off: {}",
            reason::words(&error.into())
        )
    });
    Prepared { files: raise_file_limit(), warning }
}

fn raise_file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(FILES).min(FILES);
    let now = limit.current.unwrap_or(FILES);
    if now >= most {
        return usize::try_from(now).unwrap_or(usize::MAX);
    }
    let wanted = Rlimit { current: Some(most), maximum: limit.maximum };
    let reached = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => most,
        Err(_) => now,
    };
    usize::try_from(reached).unwrap_or(usize::MAX)
}

/// Makes a panic in any thread the end of the process: logged, on stderr, then SIGABRT, on
/// which the init system starts the daemon again. A daemon that has lost one of its threads
/// would look alive and serve nobody.
pub fn abort_on_panic(logging: &Logging) {
    let logging = logging.clone();
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed").to_owned();
        let message = format!("thread {name} panicked, the daemon ends: {info}");
        // The log may be what panicked; stderr comes first.
        let _ = writeln!(io::stderr(), "{}", message.escape_debug());
        logging.last_words(&message);
        std::process::abort();
    }));
}

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
    /// The budget of a process that may open `limit` files, as [`prepare`] returned it. The
    /// files that are open now are taken for good, so it is made when everything that lives as
    /// long as the process (threads, logs, listeners of the API) is there.
    pub fn new(limit: usize) -> Arc<Self> {
        Self::with(limit, open_files())
    }

    fn with(limit: usize, used: usize) -> Arc<Self> {
        let (part, whole) = limits::LISTENERS_SHARE;
        let for_pipes = limit.saturating_sub(used + limits::FILES_RESERVED);
        Arc::new(Files {
            limit,
            used: AtomicUsize::new(used),
            listeners: AtomicUsize::new(0),
            most_listeners: for_pipes / whole * part,
        })
    }

    /// Whether [`Files::try_take`] would give one now.
    pub fn has_room(&self, who: For) -> bool {
        self.used() < self.most(who)
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

    /// Files that the pipes' ports may be at most.
    pub fn most_listeners(&self) -> usize {
        self.most_listeners
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

/// Tells systemd how the daemon is (sd_notify(3)), where `NOTIFY_SOCKET` asks for it; elsewhere
/// every call does nothing. A message that systemd does not take within 250 ms is dropped.
#[derive(Debug)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// Reads `NOTIFY_SOCKET`.
    pub fn from_env() -> Self {
        Notifier(std::env::var_os("NOTIFY_SOCKET").and_then(|path| Self::socket(path.as_bytes())))
    }

    fn socket(path: &[u8]) -> Option<(UnixDatagram, SocketAddr)> {
        let address = match path {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok()?,
            [b'/', ..] => {
                SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(path))).ok()?
            }
            _ => return None,
        };
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_write_timeout(Some(NOTIFY)).ok()?;
        Some((socket, address))
    }

    /// Everything is open; `status` is what `systemctl status` shows.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// A reload begins; [`ready`](Self::ready) ends it.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The daemon drains and ends; [`status`](Self::status) says how far it is.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping");
    }

    /// The daemon's executor is alive; see [`watchdog_interval`].
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    fn send(&self, state: &str) {
        if let Some((socket, address)) = &self.0 {
            // A service manager that does not listen is not the daemon's business.
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}

/// A new line would begin another assignment.
fn one_line(status: &str) -> String {
    status.replace(|char: char| char.is_control(), " ")
}

/// How often systemd must hear [`Notifier::watchdog`]: half of the time after which it takes the
/// daemon for dead (`WATCHDOG_USEC`), or `None` when it does not watch this process.
pub fn watchdog_interval() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id())
}

fn watchdog(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let micros: u64 = usec?.parse().ok()?;
    let ours = pid.is_none_or(|pid| pid.parse() == Ok(own));
    (ours && micros > 0).then(|| Duration::from_micros(micros) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        std::env::temp_dir().join(format!("process-{}", uuid::Uuid::new_v4()))
    }

    #[test]
    fn one_instance_a_run_folder() {
        let run = folder().join("deep");
        assert!(Instance::running(&run).unwrap().is_none());
        let instance = Instance::take(&run).unwrap();
        let own = std::process::id();
        assert_eq!(Instance::running(&run).unwrap(), Some(Some(own)));
        let error = Instance::take(&run).unwrap_err().to_string();
        assert!(error.contains(&format!("(process {own})")), "{error}");
        assert!(error.contains("--run DIR"), "{error}");
        drop(instance);
        assert!(Instance::running(&run).unwrap().is_none());
        Instance::take(&run).unwrap();
        fs::remove_dir_all(run.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_run_folder_that_cannot_be_made_is_named() {
        let error = Instance::take(Path::new("/proc/no/such")).unwrap_err().to_string();
        assert!(error.starts_with("/proc/no/such: "), "{error}");
    }

    #[test]
    fn files_keep_a_reserve_for_the_api() {
        let files = Files::with(10 + limits::FILES_RESERVED, 8);
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
        assert!(Files::with(3, 0).try_take(For::Api).is_none());
        let files = Files::with(110 + limits::FILES_RESERVED, 10);
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

    #[test]
    fn the_watchdog_is_pinged_at_half_its_time() {
        let watch = |usec: Option<&str>, pid: Option<&str>| {
            watchdog(usec.map(str::to_owned), pid.map(str::to_owned), 42)
        };
        let half = Some(Duration::from_secs(15));
        assert_eq!(watch(Some("30000000"), Some("42")), half);
        assert_eq!(watch(Some("30000000"), None), half);
        assert_eq!(watch(Some("30000000"), Some("43")), None);
        assert_eq!(watch(Some("0"), None), None);
        assert_eq!(watch(Some("soon"), None), None);
        assert_eq!(watch(None, Some("42")), None);
    }

    #[test]
    fn systemd_is_told_by_path_and_by_abstract_name() {
        let path = folder();
        let name = path.file_name().unwrap().as_bytes();
        let abstract_name = [b"@", name].concat();
        let by_name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
        let by_path = UnixDatagram::bind(&path).unwrap();
        for (socket, notify) in
            [(by_path, path.as_os_str().as_bytes()), (by_name, &abstract_name[..])]
        {
            let notifier = Notifier(Notifier::socket(notify));
            let heard = || {
                let mut buffer = [0; 256];
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let length = socket.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..length].to_vec()).unwrap()
            };
            notifier.ready("serving\nREADY=0");
            assert_eq!(heard(), "READY=1\nSTATUS=serving READY=0");
            notifier.watchdog();
            assert_eq!(heard(), "WATCHDOG=1");
            notifier.reloading();
            let reloading = heard();
            let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(micros.parse::<u64>().unwrap() > 0);
            notifier.stopping();
            assert!(heard().starts_with("STOPPING=1"));
        }
        fs::remove_file(path).unwrap();
        assert!(Notifier::socket(b"relative").is_none());
        assert!(Notifier::socket(b"vsock:2:1").is_none());
        Notifier(None).ready("nobody listens");
    }

    #[test]
    fn the_file_limit_is_raised_to_the_hard_one() {
        let limit = raise_file_limit();
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(FILES);
        assert!(limit as u64 >= hard.min(FILES));
        assert_eq!(raise_file_limit(), limit);
    }

    #[test]
    fn signals_are_heard_and_a_file_too_large_is_harmless() {
        use rustix::process::{Signal, getpid, kill_process};
        smol::block_on(async {
            let mut signals = Signals::new().unwrap();
            for (signal, ask) in
                [(Signal::TERM, Ask::Stop), (Signal::HUP, Ask::Reload), (Signal::INT, Ask::Stop)]
            {
                kill_process(getpid(), Signal::XFSZ).unwrap();
                kill_process(getpid(), signal).unwrap();
                assert_eq!(signals.next().await, ask);
            }
        });
    }

    /// Runs in a process of its own, which it ends.
    #[test]
    fn child_that_panics() {
        let Some(dir) = std::env::var_os("PANIC_IN") else { return };
        abort_on_panic(&Logging::new(Path::new(&dir), Path::new("/nonexistent")));
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
        let thread = std::thread::Builder::new().name("worker".into());
        let _ = thread.spawn(|| panic!("two\nlines")).unwrap().join();
        std::process::exit(0);
    }

    #[test]
    fn a_panic_in_any_thread_ends_the_process_and_is_logged() {
        use std::os::unix::process::ExitStatusExt;
        let dir = folder();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "process::tests::child_that_panics"]).env("PANIC_IN", &dir);
        let output = child.output().unwrap();
        assert_eq!(output.status.signal(), Some(6));
        let log = fs::read_to_string(dir.join(crate::logging::FILE)).unwrap();
        assert!(log.contains("ERROR thread worker panicked, the daemon ends: "), "{log}");
        assert!(log.ends_with("two\\nlines\n"), "{log}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("thread worker panicked"), "{stderr}");
        fs::remove_dir_all(dir).unwrap();
    }
}
