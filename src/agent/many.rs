//! `tunnels`: all tunnels of a gateway in one process. Each `*.conf` of a folder holds the options of
//! one, which lives as one of the command `tunnel` does.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use log::Level;
use serde_json::{Value, json};
use smol::LocalExecutor;
use smol::channel::{Receiver, Sender};
use smol::future::{FutureExt, or};

use super::connector::{Connector, Stage};
use super::health::About;
use super::life::Job;
use super::options::{Options, Work};
use super::process::{self, FAULTY, OWN_FILES, asked_to_stop, refuse, share};
use super::proof::Proof;
use super::serve::closed;
use super::shared::Shared;
use crate::config::Sandbox;
use crate::config::folders::TUNNELS_SOCKET;
use crate::limits;
use crate::logging::{ALWAYS, Logging, Utc};
use crate::os::{self, Cage, Files, Instance, Notifier, memory};
use crate::runtime::{self, Backoff, Io, aside, sleep, until};
use crate::text::{counted, reason};
use crate::tls;

/// How a file in the folder ends that holds a tunnel's options.
const ENDING: &str = ".conf";

/// The socket of the status, a caller there, and the folder while it is read, with a file in it; how much memory
/// there is.
const MORE_FILES: usize = 5;

/// Runs all tunnels of `folder` in the foreground until SIGTERM or SIGINT; `run` is for its lock and
/// the socket on which it tells its state, `sandbox` what it may ask of the kernel.
pub fn run(folder: &Path, run: &Path, sandbox: Sandbox) -> ExitCode {
    memory::share_heap();
    let prepared = os::prepare();
    if let Ok(Some(pid)) = Instance::running(run) {
        let pid = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
        let run = run.display();
        let fault = format!(
            "`tunnels` already runs in {run}{pid}: SIGHUP has that one read its folder again, SIGTERM \
             ends it; or name another run folder with --run DIR"
        );
        return refuse(&fault, ExitCode::FAILURE);
    }
    let listening = Instance::take(run).map_err(|fault| fault.to_string()).and_then(|instance| {
        let socket = os::listen(&run.join(TUNNELS_SOCKET)).map_err(|fault| fault.to_string())?;
        Ok((instance, socket))
    });
    let (_instance, socket) = match listening {
        Ok(listening) => listening,
        Err(fault) => return refuse(&fault, ExitCode::FAILURE),
    };
    let found = match read_folder(folder) {
        Ok(found) => found,
        Err(fault) => return refuse(&fault, FAULTY.into()),
    };
    let logging = Logging::on_stderr();
    logging.install(log::LevelFilter::Info);
    os::abort_on_panic(&logging);
    if let Some(warning) = &prepared.warning {
        log::warn!(target: ALWAYS, "{warning}");
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    // Two at least, or one name without an answer would hold up all others.
    let lookups = [(cores / 2).clamp(1, limits::LOOKUPS), cores.max(2)];
    let tunnels = Tunnels {
        folder: folder.into(),
        shared: share(prepared.files, OWN_FILES + MORE_FILES, lookups),
        running: RefCell::default(),
        faulty: RefCell::default(),
    };
    let cage = cage(folder, run, sandbox, &found);
    let ended = live(&tunnels, found, socket, &logging, &cage);
    let _ = fs::remove_file(run.join(TUNNELS_SOCKET));
    ended
}

/// The tunnels of a folder.
struct Tunnels {
    folder: PathBuf,
    shared: Rc<Shared>,
    /// In the order of their names. One that was replaced stays until it is over.
    running: RefCell<Vec<Running>>,
    /// Files that are skipped, by name, and why.
    faulty: RefCell<Vec<(String, String)>>,
}

/// A tunnel that runs.
struct Running {
    options: Rc<Options>,
    connector: Rc<Connector>,
    /// Closed to have it drain.
    stop: Sender<()>,
}

impl Running {
    fn name(&self) -> &str {
        self.connector.health().name()
    }

    /// Whether it is one of the folder's: nobody has asked it to end.
    fn is_current(&self) -> bool {
        !self.stop.is_closed()
    }

    /// Whether there is something to tell of it: one that was asked to end is there until its sessions
    /// have finished.
    fn is_shown(&self) -> bool {
        self.is_current() || matches!(self.connector.stage(), Stage::Working | Stage::Draining)
    }
}

/// What all tunnels of a folder need, which may name other connectors and services after a reload.
fn cage(folder: &Path, run: &Path, sandbox: Sandbox, found: &Found) -> Cage {
    let found = || found.iter().filter_map(|(_, options)| options.as_ref().ok());
    let is_low = |options: &Options| matches!(options.work, Work::Listen { address, .. } if (1..1024).contains(&address.port()));
    let mut cage = Cage::tunnel(sandbox, true, None, true, found().any(is_low));
    cage.measures_itself();
    cage.lists(folder);
    cage.removes(run);
    found().flat_map(Options::files_read_again).for_each(|file| cage.reads(file));
    tls::SYSTEM.iter().for_each(|file| cage.reads(Path::new(file)));
    cage
}

/// What a folder's files say, by name and in the order of the names.
type Found = Vec<(String, Result<Options, String>)>;

/// Reads each `*.conf` of the folder.
///
/// # Errors
/// A sentence on the folder.
fn read_folder(folder: &Path) -> Result<Found, String> {
    let mut found = Found::new();
    for path in options_files(folder)? {
        let file = path.file_name().unwrap_or_default();
        let (name, options) = match file.to_str() {
            Some(name) => {
                (name.to_owned(), Options::from_file(&path, |name| std::env::var_os(name)))
            }
            // Shown with what stands for its bytes, two could be one.
            None => {
                let name = file.as_encoded_bytes().escape_ascii().to_string();
                let fault = format!(
                    "{}/{name}: its name is not UTF-8; give the file another one",
                    folder.display()
                );
                (name, Err(fault))
            }
        };
        let name = name.strip_suffix(ENDING).unwrap_or(&name).to_owned();
        let place = found.partition_point(|(other, _)| *other < name);
        found.insert(place, (name, options));
    }
    Ok(found)
}

/// What is wrong with the files of a folder, for the command `check`: warnings and faults, each with
/// the file. A folder that is not there has none.
pub fn check(folder: &Path) -> (Vec<String>, Vec<String>) {
    if !folder.exists() {
        return (Vec::new(), Vec::new());
    }
    let found = match read_folder(folder) {
        Ok(found) => found,
        Err(fault) => return (Vec::new(), vec![fault]),
    };
    let (mut warnings, mut faults) = (Vec::new(), Vec::new());
    let shared = Shared::new(Files::new(0), 1, 1);
    for (name, options) in found {
        let placed = |what| format!("{}/{name}{ENDING}: {what}", folder.display());
        match options {
            Err(fault) => faults.push(fault),
            Ok(options) => {
                faults.extend(Proof::new(&options, &shared).err().map(placed));
                warnings.extend(options.warnings.into_iter().map(placed));
            }
        }
    }
    (warnings, faults)
}

/// The folder's files that hold a tunnel's options.
///
/// # Errors
/// A sentence on the folder.
fn options_files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: io::Error| {
        let (folder_path, folder) = (folder, folder.display());
        match reason::is_missing(&error) {
            true => format!(
                "{folder}: there is no such folder; make it with `sudo mkdir {folder}`, or name \
                 another with --tunnels DIR"
            ),
            false => format!(
                "{folder}: {}; or name another folder with --tunnels DIR",
                reason::reading(folder_path, &error)
            ),
        }
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(ENDING) && !name.starts_with('.') {
            files.push(path);
        }
    }
    Ok(files)
}

/// Runs the tunnels until asked to stop, then lets their sessions finish.
fn live(
    tunnels: &Tunnels,
    found: Found,
    socket: UnixListener,
    logging: &Logging,
    cage: &Cage,
) -> ExitCode {
    let notifier = Notifier::from_env();
    let look_after = || tunnels.look_after(&notifier);
    let tasks = LocalExecutor::new();
    let (ask, asked) = smol::channel::bounded(1);
    let (again, read_again) = smol::channel::bounded(1);
    let work = async {
        tasks.spawn(tunnels.tell(Io::new(socket)?).boxed_local()).detach();
        tunnels.follow(found, &tasks).await;
        notifier.ready(&tunnels.summary());
        let reading = async {
            while read_again.recv().await.is_ok() {
                notifier.reloading();
                tunnels.read_again(&tasks).await;
                notifier.ready(&tunnels.summary());
            }
        };
        // One that waits stands for all that come meanwhile.
        let reload = || _ = again.try_send(());
        or(reading, asked_to_stop(&asked, &reload)).await;
        notifier.stopping(tunnels.begin_to_stop());
        // A second signal means: do not wait.
        or(tunnels.are_over(), asked_to_stop(&asked, &|| {})).await;
        Ok(())
    };
    let work = work.boxed_local();
    let (who, ask) = ("the process of tunnels", (ask, cage));
    process::live(who, (logging, &notifier), &look_after, &tasks, ask, work)
}

/// One tunnel's life. A local port that cannot be opened is tried again, and at once when the folder
/// is read again.
async fn tunnel(connector: Rc<Connector>, options: Rc<Options>, stopped: Receiver<()>) {
    let health = connector.health();
    let mut retry = Backoff::new(limits::PORT_RETRY);
    let mut said = String::new();
    while !stopped.is_closed() {
        match Job::new(&connector, &options) {
            Ok((job, what, warning)) => {
                connector.reach(Stage::Working);
                health.over(About::Port);
                for warning in options.warnings.iter().chain(&warning) {
                    say!(health, Level::Warn, About::Standing, "{warning}");
                }
                say!(health, "{what}");
                let tasks = LocalExecutor::new();
                let life = job.live(&connector, options.drain, &tasks, stopped);
                if let Err(error) = or(life, runtime::run(|| tasks.tick())).await {
                    let why = reason::words(&error);
                    say!(health, Level::Error, About::Standing, "it cannot go on: {why}");
                }
                break;
            }
            Err(fault) => {
                connector.reach(Stage::Failed);
                if said != fault {
                    let again = "; it is tried again until it opens";
                    say!(health, Level::Error, About::Port, "{fault}{again}");
                    said = fault;
                }
                let asked = or(connector.changed.listen(), closed(&stopped));
                until(Instant::now() + retry.pause(), asked).await;
            }
        }
    }
    connector.reach(Stage::Over);
}

impl Tunnels {
    /// Reads the folder again, and does what it says now.
    async fn read_again<'t>(&'t self, tasks: &LocalExecutor<'t>) {
        match read_folder(&self.folder) {
            Ok(found) => {
                // Once for all that use the same.
                self.shared.forget_settings();
                self.follow(found, tasks).await;
            }
            Err(fault) => {
                log::error!(target: ALWAYS, "{fault}; all tunnels stay as they are");
            }
        }
    }

    /// Does what the folder says: what is new starts, what is gone drains, what has changed is
    /// replaced, the rest is not touched but for its certificates and its passcode, which are read
    /// again. What has a fault is said, and stays as it was. All that ends has closed its local port
    /// before anything starts or tries again, since any may have given its port to any other.
    async fn follow<'t>(&'t self, found: Found, tasks: &LocalExecutor<'t>) {
        self.faulty.take();
        let [mut new, mut gone, mut changed] = [0, 0, 0];
        let (mut starting, mut unchanged) = (Vec::new(), Vec::new());
        let is_gone = |name: &str| found.iter().all(|(there, _)| there != name);
        for running in self.running.borrow().iter().filter(|running| running.is_current()) {
            if is_gone(running.name()) {
                running.stop.close();
                gone += 1;
            }
        }
        for (name, options) in found {
            let old = self.current(&name);
            let fault = match options {
                Err(fault) => fault,
                Ok(options) => {
                    let same = old.as_ref().filter(|(was, connector)| {
                        was.asks_for_the_same(&options) && connector.stage() != Stage::Over
                    });
                    if let Some((_, connector)) = same {
                        unchanged.push(connector.clone());
                        continue;
                    }
                    match Connector::new(&name, &options, &self.shared, None) {
                        Ok(connector) => {
                            starting.push((connector, options));
                            continue;
                        }
                        Err(fault) => format!("{}/{name}{ENDING}: {fault}", self.folder.display()),
                    }
                }
            };
            match old {
                None => {
                    log::error!(target: ALWAYS, "{fault}; the file is skipped");
                    self.faulty.borrow_mut().push((name, fault));
                }
                Some((_, connector)) => {
                    let health = connector.health();
                    let stays = "the tunnel stays as it was";
                    say!(health, Level::Error, About::File, "{fault}; {stays}");
                }
            }
        }
        for (connector, _) in &starting {
            match self.stop(connector.health().name()) {
                true => changed += 1,
                false => new += 1,
            }
        }
        self.have_closed_ports().await;
        for connector in unchanged {
            connector.health().over(About::File);
            connector.reload();
        }
        for (connector, options) in starting {
            self.start(connector, options, tasks);
        }
        let all = self.running.borrow().iter().filter(|running| running.is_current()).count();
        let faulty = self.faulty.borrow().len();
        log::info!(
            target: ALWAYS,
            "{} of {}: {new} new, {changed} changed, {gone} gone, {faulty} with a fault",
            counted(all as u64, "tunnel"),
            self.folder.display()
        );
        if all + faulty == 0 {
            log::warn!(
                target: ALWAYS,
                "no file there ends in {ENDING}: put one there for each tunnel, and send SIGHUP"
            );
        }
    }

    /// The tunnel of this name, unless it was asked to end.
    fn current(&self, name: &str) -> Option<(Rc<Options>, Rc<Connector>)> {
        let running = self.running.borrow();
        let found =
            running.iter().find(|running| running.is_current() && running.name() == name)?;
        Some((found.options.clone(), found.connector.clone()))
    }

    /// Has the tunnel of this name drain; `false` where there is none.
    fn stop(&self, name: &str) -> bool {
        self.running.borrow().iter().any(|running| running.name() == name && running.stop.close())
    }

    /// Returns once all that were asked to end have closed their local ports.
    async fn have_closed_ports(&self) {
        let connectors = |running: &[Running]| -> Vec<_> {
            let ending = running.iter().filter(|running| !running.is_current());
            ending.map(|running| running.connector.clone()).collect()
        };
        let ending = connectors(&self.running.borrow());
        for connector in ending {
            connector.when(&|| connector.stage() != Stage::Working).await;
        }
    }

    fn start<'t>(&'t self, connector: Connector, options: Options, tasks: &LocalExecutor<'t>) {
        let (connector, options) = (Rc::new(connector), Rc::new(options));
        let (stop, stopped) = smol::channel::bounded(1);
        let life = tunnel(connector.clone(), options.clone(), stopped);
        let mut running = self.running.borrow_mut();
        let place = running.partition_point(|other| other.name() <= connector.health().name());
        running.insert(place, Running { options, connector, stop });
        tasks.spawn(life.boxed_local()).detach();
    }

    /// Has all tunnels drain, and gives the longest time that one may take.
    fn begin_to_stop(&self) -> Duration {
        let running = self.running.borrow();
        running.iter().for_each(|running| _ = running.stop.close());
        drop(running);
        self.longest_drain()
    }

    /// The longest time that a tunnel's sessions may take to finish.
    fn longest_drain(&self) -> Duration {
        let running = self.running.borrow();
        running.iter().map(|running| running.options.drain).max().unwrap_or_default()
    }

    /// Returns once all tunnels are over.
    async fn are_over(&self) {
        let all: Vec<_> =
            self.running.borrow().iter().map(|running| running.connector.clone()).collect();
        for connector in all {
            connector.when(&|| connector.stage() == Stage::Over).await;
        }
    }

    /// Says which limits were reached, forgets tunnels that were asked to end and have, tells the
    /// service manager how many are well, and gives memory back.
    fn look_after(&self, notifier: &Notifier) {
        let mut running = self.running.borrow_mut();
        running.iter().for_each(|running| running.connector.health().tell_limits());
        running.retain(|running| running.is_current() || running.connector.stage() != Stage::Over);
        drop(running);
        notifier.status(&self.summary());
        if memory::has_changed() {
            memory::tidy();
            memory::give_back();
            // What hundreds of handshakes have used of the program is not needed between them.
            memory::forget_start();
        }
    }

    /// How many tunnels there are, and which are not well.
    fn summary(&self) -> String {
        let running = self.running.borrow();
        let current = running.iter().filter(|running| running.is_current());
        let is_well =
            |running: &&Running| ["connected", "listening"].contains(&running.connector.state().0);
        let ill = current.clone().filter(|running| !is_well(running));
        let mut ill: Vec<&str> = ill.map(Running::name).collect();
        let faulty = self.faulty.borrow();
        ill.extend(faulty.iter().map(|(name, _)| name.as_str()));
        let all = counted((current.count() + faulty.len()) as u64, "tunnel");
        let mut summary = match ill.len() {
            0 => format!("{all}, all connected"),
            count => {
                ill.truncate(8);
                format!("{all}, {count} not connected: {}", ill.join(", "))
            }
        };
        let is_draining = |running: &&Running| !running.is_current() && running.is_shown();
        let draining = running.iter().filter(is_draining).count();
        if draining > 0 {
            summary.push_str(&format!("; {draining} draining"));
        }
        summary
    }

    /// Tells the state to whoever connects to the socket and asks; of those that are mute, the oldest
    /// makes room.
    async fn tell(&self, socket: Io<UnixListener>) {
        let executor = LocalExecutor::new();
        let accept = async {
            let mut callers = Vec::new();
            loop {
                socket.come().await;
                match socket.get_ref().accept() {
                    Ok((caller, _)) => {
                        if callers.len() == limits::TELL_CALLERS {
                            drop(callers.remove(0));
                        }
                        callers.push(executor.spawn(self.tell_one(caller).boxed_local()));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => sleep(limits::ACCEPT_PAUSE).await,
                }
            }
        };
        or(accept, runtime::run(|| executor.tick())).await;
    }

    /// Answers one caller. One that is mute takes no thread.
    async fn tell_one(&self, caller: UnixStream) {
        let caller = caller.set_nonblocking(true).and_then(|()| Io::new(caller));
        let Ok(caller) = caller else { return };
        if until(Instant::now() + limits::TELL, caller.come()).await.is_some() {
            let (caller, state) = (caller.into_inner(), self.state().to_string());
            aside(move || drop(answer(caller, &state))).await;
        }
    }

    /// The state of all tunnels, without any passcode.
    fn state(&self) -> Value {
        let running = self.running.borrow();
        let shown = running.iter().filter(|running| running.is_shown());
        let mut tunnels: Vec<_> = shown.map(Running::state).collect();
        tunnels.extend(
            self.faulty.borrow().iter().map(
                |(name, fault)| json!({ "name": name, "state": "faulty", "lastError": fault }),
            ),
        );
        json!({
            "folder": self.folder.to_string_lossy(),
            "drain": self.longest_drain().as_millis() as u64,
            "tunnels": tunnels,
        })
    }
}

impl Running {
    fn state(&self) -> Value {
        let connector = &self.connector;
        let (state, since) = connector.state();
        let (open, sessions) = (connector.open_tunnels(), connector.sessions());
        let bytes = |from: usize| connector.traffic().bytes[from].load(Ordering::Relaxed);
        let fault = connector.health().fault();
        let time = |time: Option<Utc>| time.map(|time| time.to_string());
        json!({
            "name": self.name(),
            "connector": connector.address().to_string(),
            "proxy": connector.proxy().map(ToString::to_string),
            "version": connector.health().version(),
            "state": state,
            "since": since.to_string(),
            "idle": open.saturating_sub(sessions),
            "sessions": sessions,
            "bytesIn": bytes(0),
            "bytesOut": bytes(1),
            "lastErrorAt": time(fault.as_ref().map(|fault| fault.at)),
            "lastErrorOver": time(fault.as_ref().and_then(|fault| fault.over)),
            "lastError": fault.map(|fault| fault.what),
        })
    }
}

/// Answers whatever is asked with the state, as HTTP.
fn answer(mut caller: UnixStream, state: &str) -> io::Result<()> {
    caller.set_nonblocking(false)?;
    let deadline = Instant::now() + limits::TELL;
    caller.set_write_timeout(Some(limits::TELL))?;
    let mut asked = [0; 4096];
    let mut count = 0;
    while !asked[..count].ends_with(b"\r\n\r\n") {
        // No time left is an error here.
        caller.set_read_timeout(Some(deadline.saturating_duration_since(Instant::now())))?;
        match caller.read(&mut asked[count..])? {
            0 => return Ok(()),
            more => count += more,
        }
    }
    write!(
        caller,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{state}",
        state.len()
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::testing::folder::Folder;

    /// The options of a tunnel that listens here.
    fn listens(folder: &Folder, name: &str, local: &str) {
        let passcode = "00000000-0000-0000-0000-000000000000";
        let text = format!("connector=localhost:1\npasscode={passcode}\nlisten={local}\nplain\n");
        folder.file(&format!("{name}.conf"), text, 0o600);
    }

    /// The tunnels of a folder, which nobody runs yet.
    fn tunnels(folder: &Path) -> Tunnels {
        Tunnels {
            folder: folder.into(),
            shared: Rc::new(Shared::new(Files::new(100), 1, 1)),
            running: RefCell::default(),
            faulty: RefCell::default(),
        }
    }

    #[test]
    fn files_whose_names_are_not_utf_8_are_faulty_and_told_apart() {
        use std::os::unix::ffi::OsStrExt;
        let folder = Folder::new();
        for name in [&b"a\xff.conf"[..], b"a\xfe.conf"] {
            fs::write(folder.join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
        }
        let found = read_folder(&folder).unwrap();
        for ((name, options), escaped) in found.iter().zip([r"a\xfe", r"a\xff"]) {
            let fault = options.as_ref().unwrap_err();
            assert_eq!(name, escaped);
            assert!(fault.contains(&format!("/{escaped}.conf: its name is not UTF-8")), "{fault}");
        }
        assert_eq!(found.len(), 2);
    }

    /// Does what the folder says, and all that follows from it without a wait.
    fn follow<'t>(tunnels: &'t Tunnels, tasks: &LocalExecutor<'t>) {
        let found = read_folder(&tunnels.folder).unwrap();
        let work = async {
            tunnels.follow(found, tasks).await;
            Ok::<_, io::Error>(())
        };
        runtime::block_on(or(work, runtime::run(|| tasks.tick())).boxed_local()).unwrap().unwrap();
        while tasks.try_tick() {}
    }

    #[test]
    fn port_that_a_changed_tunnel_gives_up_is_taken_at_once_by_one_that_waits_for_it() {
        let folder = Folder::new();
        // An address of this process alone, where nobody takes the port meanwhile.
        let pid = std::process::id();
        let address = format!("127.77.{}.{}:0", pid >> 8 & 0xff, 1 + (pid & 0x7f));
        let port = TcpListener::bind(address).unwrap().local_addr().unwrap().to_string();
        listens(&folder, "a", &port);
        let tunnels = tunnels(&folder);
        let tasks = LocalExecutor::new();
        follow(&tunnels, &tasks);
        listens(&folder, "b", &port);
        follow(&tunnels, &tasks);
        let stage = |name: &str| tunnels.current(name).unwrap().1.stage();
        assert_eq!([stage("a"), stage("b")], [Stage::Working, Stage::Failed]);
        listens(&folder, "a", "127.0.0.1:0");
        follow(&tunnels, &tasks);
        assert_eq!([stage("a"), stage("b")], [Stage::Working, Stage::Working]);
    }

    #[test]
    fn fault_is_ended_by_what_it_is_about_and_by_nothing_else() {
        let folder = Folder::new();
        listens(&folder, "a", "127.0.0.1:0");
        let tunnels = tunnels(&folder);
        let tasks = LocalExecutor::new();
        follow(&tunnels, &tasks);
        let connector = tunnels.current("a").unwrap().1;
        let health = connector.health();
        let all = [About::Connector, About::Target, About::Port, About::File, About::Proof];
        for about in all.into_iter().chain([About::Waiting, About::Standing]) {
            health.wrong(about, "a fault; the tunnel stays as it was");
            for other in all.into_iter().filter(|other| *other != about) {
                health.over(other);
            }
            assert!(health.fault().unwrap().over.is_none(), "{about:?}");
            health.over(about);
            assert!(health.fault().unwrap().over.is_some(), "{about:?}");
        }
    }
}
