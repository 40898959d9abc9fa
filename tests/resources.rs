//! A machine that is short of everything: memory, files, disk, somebody who reads the log.
//!
//! An ordinary run is the quick form; `IOFOG_CONNECTOR_FULL=1` asks for the long one
//! (docs/testing.md). Figures are printed with `--nocapture`.

mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use rustix::net::sockopt;
use rustix::process::Signal;

in_both_modes!(
    tunnels_and_stuck_sessions_live_in_32_mib,
    connections_beyond_the_limit_of_files_wait_and_are_served_when_some_are_free,
);

const NEVER: u64 = 200_000;

/// How long good peers may take on a machine that has much else to do.
const SOON: Duration = Duration::from_secs(8);

/// The memory limit, in bytes.
const LIMIT: u64 = 32 << 20;

/// A number for names.
fn number() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

fn works(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

// Memory

/// A way to limit a program's memory.
struct Limit {
    how: &'static str,
    /// Runs the program.
    wrapper: Vec<String>,
    /// Its control group (version 1), removed when dropped.
    group: Option<PathBuf>,
}

impl Limit {
    /// The strictest that this machine allows; `None`, with the reason printed, if none.
    fn new() -> Option<Self> {
        let limit = Self::group().or_else(Self::scope).or_else(Self::data);
        if limit.is_none() {
            could_not_run("no control group, systemd-run or prlimit works here");
        }
        limit
    }

    /// A group of version 1 within the test's own.
    fn group() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own.lines().find_map(|line| line.split_once(":memory:"))?.1;
        let name = format!("iofog-connector-test-{}-{}", std::process::id(), number());
        let own = Path::new("/sys/fs/cgroup/memory").join(own.trim_start_matches('/'));
        let group = own.join(name);
        fs::create_dir(&group).ok()?;
        let mut limit = Limit { how: "control group", wrapper: Vec::new(), group: None };
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.display());
        limit.wrapper = words(&["sh", "-c", &enter, "sh"]);
        limit.group = Some(group);
        let group = limit.group.as_ref()?;
        // The sockets' buffers are counted apart, and only where they have a limit of their own.
        let _ = fs::write(group.join("memory.kmem.tcp.limit_in_bytes"), (64 * LIMIT).to_string());
        fs::write(group.join("memory.limit_in_bytes"), LIMIT.to_string()).ok()?;
        Some(limit)
    }

    /// What the group says of itself, for example the most it ever used.
    fn says(&self, file: &str) -> String {
        let read = |group: &PathBuf| fs::read_to_string(group.join(file)).ok();
        let text = self.group.as_ref().and_then(read).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// A scope of systemd's, with a group of version 2: it counts the sockets' buffers, too.
    fn scope() -> Option<Self> {
        let bytes = format!("MemoryMax={LIMIT}");
        let scope = ["--scope", "--quiet", "-p", &bytes, "-p", "MemorySwapMax=0"];
        let wrapper = words(&[&["systemd-run"][..], &scope].concat());
        works("systemd-run", &[&scope[..], &["true"]].concat()).then_some(Limit {
            how: "systemd-run",
            wrapper,
            group: None,
        })
    }

    /// A limit of what a program may ask for, used or not.
    fn data() -> Option<Self> {
        let bytes = format!("--data={LIMIT}");
        let wrapper = words(&["prlimit", &bytes]);
        works("prlimit", &[&bytes, "true"]).then_some(Limit {
            how: "prlimit",
            wrapper,
            group: None,
        })
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            // Its last process may still be on its way out.
            let gone = || fs::remove_dir(group).is_ok() || !group.exists();
            let deadline = Instant::now() + PATIENCE;
            while !gone() && Instant::now() < deadline {
                thread::sleep(ms(10));
            }
        }
    }
}

/// An agent that sends as much as is taken to a user that does not read.
struct Stuck {
    user: Link,
    agent: Agent,
    sent: usize,
}

impl Stuck {
    /// A session in which nothing has been sent yet. No two are to be begun at the same time: a
    /// user may get any tunnel.
    fn new(daemon: &Daemon, mapping: &Mapping) -> Self {
        let (user, agent) = daemon.session(mapping);
        user.shrink();
        Stuck { user, agent, sent: 0 }
    }

    /// The user reads at last.
    #[track_caller]
    fn read(&mut self, bytes: &[u8]) {
        // With the small window the network itself would be slow.
        sockopt::set_socket_recv_buffer_size(self.user.socket(), 4 << 20).expect("SO_RCVBUF");
        let mut read = 0;
        // A window that was shut for long may be asked after once in two minutes only.
        let deadline = Instant::now() + period(60_000, 300_000);
        while read < self.sent {
            let flushed = self.agent.push().expect("the agent is still connected");
            match self.user.read_now(64 * 1024) {
                Some(Got::Bytes(got)) => {
                    assert_same(&got, &bytes[read..read + got.len()], "what was sent");
                    read += got.len();
                }
                Some(end) => panic!("{end:?} after {read} of {} bytes", self.sent),
                None => {
                    assert!(Instant::now() < deadline, "stuck after {read} of {}", self.sent);
                    self.agent.wait(false, !flushed, Instant::now() + ms(1));
                }
            }
        }
    }
}

fn tunnels_and_stuck_sessions_live_in_32_mib(mode: Mode) {
    const IDLE: usize = 1000;
    const THREADS: usize = 10;
    raise_files();
    // On loopback, with its segments of 64 KiB, the kernel keeps up to 20 MiB for each at its ends.
    let stuck_ones = size(30, 100);
    let Some(limit) = Limit::new() else { return };
    figure(mode, "memory is limited by", limit.how);
    let wrapper: Vec<&str> = limit.wrapper.iter().map(String::as_str).collect();
    let mut daemon = Daemon::builder(mode).wrapper(&wrapper).start();
    let pid = daemon.pid();
    let mappings = [(); 2].map(|()| daemon.api().add_public(1200, NEVER));
    let [idle_ones, busy] = &mappings;
    let mover = Mover::start(&daemon, busy);
    let mut idle: Vec<Agent> = (0..IDLE).map(|_| daemon.tunnel(idle_ones)).collect();
    figure(mode, "KiB resident with idle tunnels", (IDLE, daemon.resident()));
    let bytes = flood(77);
    let mut stuck: Vec<Stuck> = (0..stuck_ones).map(|_| Stuck::new(&daemon, busy)).collect();
    thread::scope(|scope| {
        for share in stuck.chunks_mut(stuck_ones / THREADS) {
            let bytes = &bytes;
            scope.spawn(move || share.iter_mut().for_each(|one| one.sent = one.agent.fill(bytes)));
        }
    });
    let sent: usize = stuck.iter().map(|one| one.sent).sum();
    figure(mode, "KiB resident with stuck sessions", (stuck_ones, daemon.resident()));
    figure(mode, "MiB on their way", sent >> 20);
    let (start, mut beaten) = (Instant::now(), None::<Instant>);
    while start.elapsed() < period(1500, 600_000) {
        if beaten.is_none_or(|at| at.elapsed() > Duration::from_secs(20)) {
            idle.iter_mut().for_each(Agent::beat_and_answer);
            beaten = Some(Instant::now());
        }
        daemon.api().status("all");
        let (_, served) = timed(|| daemon.tunnel(idle_ones).finish());
        assert!(served < SOON, "a good agent waited {served:?}");
        thread::sleep(ms(500));
    }
    figure(mode, "most KiB resident", daemon.peak());
    for file in ["memory.max_usage_in_bytes", "memory.failcnt", "memory.oom_control"] {
        figure(mode, file, limit.says(file));
    }
    figure(mode, "most bytes in sockets", limit.says("memory.kmem.tcp.max_usage_in_bytes"));
    thread::scope(|scope| {
        for share in stuck.chunks_mut(stuck_ones / THREADS) {
            let bytes = &bytes;
            scope.spawn(move || share.iter_mut().for_each(|one| one.read(bytes)));
        }
    });
    let (_, longest) = mover.stop();
    figure(mode, "longest round of a session", longest);
    assert!(longest < SOON, "a session stood still for {longest:?}");
    idle.iter_mut().for_each(Agent::beat_and_answer);
    assert!(daemon.is_running() && daemon.pid() == pid);
    daemon.kill();
}

// Files

fn connections_beyond_the_limit_of_files_wait_and_are_served_when_some_are_free(mode: Mode) {
    raise_files();
    let nofile = ["prlimit", "--nofile=64"];
    let daemon = Daemon::builder(mode).wrapper(&nofile).set("userwait", 100_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mover = Mover::start(&daemon, &mapping);
    let ports = [at(mapping.port1), at(mapping.port2), daemon.api_address()];
    let mut held: Vec<Link> = Vec::new();
    let hold = |held: &mut Vec<Link>| {
        // Those that the daemon has closed come again, as a flood would.
        held.retain_mut(|link| open(std::slice::from_mut(link)) > 0);
        for missing in 0..200 - held.len() {
            held.extend(stalled(ports[missing % 3], 1, b""));
        }
    };
    hold(&mut held);
    until("the files are used up", || daemon.open_files() >= 40);
    let (ticks, lines) = (daemon.ticks(), daemon.log_text().lines().count());
    let start = Instant::now();
    while start.elapsed() < period(4000, 60_000) {
        let (_, took) = timed(|| daemon.control().status("all"));
        assert!(took < SOON, "the command line waited {took:?}");
        let (_, took) = timed(|| daemon.api().status("all"));
        assert!(took < SOON, "a good caller waited {took:?}");
        hold(&mut held);
        thread::sleep(ms(250));
    }
    let seconds = start.elapsed().as_secs_f64();
    let ticks = (daemon.ticks() - ticks) as f64 / seconds;
    let lines = daemon.log_text().lines().count() - lines;
    figure(mode, "percent of a processor, with the good calls", ticks);
    figure(mode, "lines in the log, and seconds", (lines, seconds));
    assert!(ticks < 50.0, "{ticks} % of a processor used: it spins");
    // One complaint for each port and kind of complaint, and again after ten seconds.
    let most = 8 + seconds as usize;
    assert!(lines <= most, "{lines} lines in {seconds} s");
    drop(held);
    let (_, took) = timed(|| {
        eventually("an agent is let in again", || {
            let mut agent = daemon.try_link(mapping.port1).map(Agent::over).ok()?;
            agent.is_accepted(&mapping.passcode1).then_some(agent)
        })
    });
    figure(mode, "an agent was let in after", took);
    assert!(took < SOON, "an agent waited {took:?} although there were files again");
    let (_, longest) = mover.stop();
    assert!(longest < SOON, "a session stood still for {longest:?}");
}

#[test]
fn one_connection_more_on_every_port_takes_no_file_that_is_kept_free() {
    raise_files();
    let nofile = ["prlimit", "--nofile=128"];
    let daemon =
        Daemon::builder(Mode::Plain).ports(60).wrapper(&nofile).set("userwait", 100_000).start();
    let mappings: Vec<_> = (0..20).map(|_| daemon.api().add_public(60, NEVER)).collect();
    // Each of these ports holds more than its share of the last files.
    let (full, others) = mappings.split_at(6);
    let told = || -> Vec<String> {
        let reached = |mapping| {
            let state = daemon.control().state_of(mapping).expect("the mapping");
            state["limitsReached"].to_string()
        };
        full.iter().map(reached).collect()
    };
    let held: Vec<_> = full.iter().map(|mapping| stalled(at(mapping.port2), 40, b"x")).collect();
    until("the files are used up", || told().iter().any(|limits| limits.contains("open files")));
    let (before, files) = (told(), daemon.open_files());
    let others = others.iter().flat_map(|mapping| [mapping.port1, mapping.port2]);
    let more: Vec<_> = others.flat_map(|port| stalled(at(port), 1, b"x")).collect();
    // The daemon hears of those before this call.
    daemon.control().status("all");
    let taken = daemon.open_files().saturating_sub(files);
    assert!(taken < 5, "{taken} files were taken by {} connections", more.len());
    thread::sleep(ms(500));
    assert_eq!(told(), before, "it is counted although nobody else comes");
    daemon.api().remove(&mappings[10]);
    drop(held);
}

// The log

/// Makes the daemon log two lines.
fn make_noise(daemon: &Daemon) {
    let mapping = daemon.control().add_public(60, NEVER);
    daemon.control().remove(&mapping);
}

fn lost(daemon: &Daemon) -> u64 {
    daemon.control().state()["logLost"].as_u64().expect("logLost")
}

/// A daemon whose log folder is a small disk that nobody else sees, mounted with these options;
/// `None`, with the reason printed, where that is not allowed.
fn with_disk(folder: &Folder, options: &str) -> Option<Daemon> {
    if !works("unshare", &["--mount", "true"]) {
        could_not_run("no mount namespace");
        return None;
    }
    let log = folder.to_str().unwrap();
    let mount = format!("mount -t tmpfs -o {options} none {log} && exec \"$@\"");
    let wrapper = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
    Some(Daemon::builder(Mode::Plain).wrapper(&wrapper).log(folder).start())
}

/// The log folder as the daemon sees it.
fn inside(daemon: &Daemon) -> PathBuf {
    let log = daemon.log();
    let log = log.strip_prefix("/").unwrap();
    Path::new("/proc").join(daemon.pid().as_raw_nonzero().to_string()).join("root").join(log)
}

fn log_inside(daemon: &Daemon) -> String {
    fs::read_to_string(inside(daemon).join("iofog-connector.log")).unwrap_or_default()
}

#[test]
fn full_disk_loses_lines_of_the_log_and_holds_up_nobody() {
    let folder = Folder::new();
    let Some(daemon) = with_disk(&folder, "size=64k") else { return };
    let mapping = daemon.api().add_public(60, NEVER);
    let mover = Mover::start(&daemon, &mapping);
    make_noise(&daemon);
    assert!(log_inside(&daemon).contains("removed"), "the log is not on the small disk");
    let filler = inside(&daemon).join("filler");
    let filled = fs::write(&filler, vec![0; 1 << 20]);
    assert!(filled.is_err(), "the disk is not full");
    let before = lost(&daemon);
    // A line may still fit in the last page of the file.
    until("lines are lost", || {
        make_noise(&daemon);
        // What syslog, which is not there, loses is counted as well: the same number again.
        lost(&daemon) > before + 200
    });
    daemon.session(&mapping);
    fs::remove_file(&filler).unwrap();
    make_noise(&daemon);
    let log = log_inside(&daemon);
    assert!(log.contains("messages lost") && log.trim_end().contains("removed"), "{log}");
    let (_, longest) = mover.stop();
    figure(Mode::Plain, "longest round of a session", longest);
    assert!(longest < SOON, "a session stood still for {longest:?}");
}

#[test]
fn read_only_log_folder_holds_up_nobody() {
    let folder = Folder::new();
    let Some(daemon) = with_disk(&folder, "size=64k,ro") else { return };
    let mapping = daemon.api().add_public(60, NEVER);
    let mover = Mover::start(&daemon, &mapping);
    make_noise(&daemon);
    assert_eq!(log_inside(&daemon), "");
    let pid = daemon.pid().as_raw_nonzero().to_string();
    let log = daemon.log();
    let remount = ["--target", &pid, "--mount", "mount", "-o", "remount,rw", log.to_str().unwrap()];
    assert!(works("nsenter", &remount), "mount -o remount,rw");
    make_noise(&daemon);
    let log = log_inside(&daemon);
    assert!(log.contains("messages lost") && log.contains("removed"), "{log}");
    let (_, longest) = mover.stop();
    assert!(longest < SOON, "a session stood still for {longest:?}");
}

#[test]
fn log_folder_removed_while_running_holds_up_nobody_and_comes_back() {
    // In its sandbox the daemon cannot make the folder again.
    let daemon = Daemon::builder(Mode::Plain).set("sandbox", "off").start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mover = Mover::start(&daemon, &mapping);
    fs::remove_dir_all(daemon.log()).unwrap();
    for _ in 0..20 {
        make_noise(&daemon);
    }
    daemon.session(&mapping);
    daemon.signal(Signal::HUP);
    until("there is a log again", || {
        make_noise(&daemon);
        daemon.log_text().contains("removed")
    });
    let (_, longest) = mover.stop();
    assert!(longest < SOON, "a session stood still for {longest:?}");
}

#[test]
fn syslog_that_hangs_or_restarts_holds_up_no_session() {
    let mut daemon = Daemon::builder(Mode::Plain).set("connectionlog", true).prepare();
    let hung = UnixDatagram::bind(daemon.syslog()).unwrap();
    daemon.start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mover = Mover::start(&daemon, &mapping);
    until("its queue is full", || {
        make_noise(&daemon);
        lost(&daemon) > 0
    });
    for round in 0..20 {
        daemon.session(&mapping);
        if round == 10 {
            drop(fs::remove_file(daemon.syslog()));
        }
    }
    drop(hung);
    let _ = fs::remove_file(daemon.syslog());
    let restarted = UnixDatagram::bind(daemon.syslog()).unwrap();
    restarted.set_nonblocking(true).unwrap();
    make_noise(&daemon);
    let mut message = [0; 4096];
    let count = restarted.recv(&mut message).expect("the new one gets the next line");
    let first = String::from_utf8_lossy(&message[..count]).into_owned();
    assert!(first.contains("lost"), "{first}");
    let (_, longest) = mover.stop();
    figure(Mode::Plain, "longest round of a session", longest);
    assert!(longest < SOON, "a session stood still for {longest:?}");
}
