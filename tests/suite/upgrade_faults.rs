//! A new program takes the place of the one that runs, and something goes wrong or comes between, at each step
//! (protocol page, section 7, step 12). What both say to each other stands in `src/daemon/handover.rs`; a stand-in
//! speaks for one of them.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit, test_kill_process};

use crate::common::*;

const NEVER: u64 = 200_000;

/// Whether programs here can start themselves anew; if not, it is said.
fn can_start_anew() -> bool {
    let can = std::env::var_os("IOFOG_CONNECTOR_BIN").is_none();
    if !can {
        could_not_run("a program that needs a wrapper cannot start itself anew");
    }
    can
}

fn upgraded(daemon: &Daemon) -> Pid {
    let output = daemon.cli(&["upgrade"]);
    assert!(output.status.success(), "{}", text(&output));
    daemon.serving().expect("a daemon")
}

fn refused(daemon: &Daemon) -> String {
    let output: Output = daemon.cli(&["upgrade"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    text(&output)
}

fn is_gone(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    test_kill_process(process).is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

/// Stops a process, and returns when each of its threads has stopped: until the first has, others go on.
fn stop(process: Pid) {
    kill_process(process, Signal::STOP).unwrap();
    let tasks = format!("/proc/{}/task", process.as_raw_nonzero());
    let has_stopped = |task: std::io::Result<fs::DirEntry>| {
        fs::read_to_string(task.unwrap().path().join("stat")).unwrap().contains(") T ")
    };
    until("it has stopped", || fs::read_dir(&tasks).unwrap().all(has_stopped));
}

/// The process that starts programs for this one.
fn spawner(process: Pid) -> Pid {
    let process = process.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap();
    let is_it = |child: &&str| {
        fs::read_to_string(format!("/proc/{child}/comm"))
            .is_ok_and(|name| name == "iofog-spawner\n")
    };
    let child = children.split_whitespace().find(is_it).expect("a process that starts programs");
    Pid::from_raw(child.parse().unwrap()).unwrap()
}

/// One end of what two programs say to each other.
struct Words(UnixDatagram);

impl Words {
    fn pair() -> [Self; 2] {
        let (one, two) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        [one, two].map(|end| Words(end.into()))
    }

    fn say(&self, word: &str) -> bool {
        self.0.send(word.as_bytes()).is_ok()
    }

    fn give(&self, word: &str, file: impl AsFd) {
        let files = [file.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        let word = [std::io::IoSlice::new(word.as_bytes())];
        rustix::net::sendmsg(&self.0, &word, &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    /// What the other end says next, with files; `None` once it has ended.
    fn hear(&self) -> Option<(String, Vec<OwnedFd>)> {
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        self.try_hear(RecvFlags::empty()).expect("a word")
    }

    fn try_hear(&self, flags: RecvFlags) -> rustix::io::Result<Option<(String, Vec<OwnedFd>)>> {
        let mut text = [0; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [std::io::IoSliceMut::new(&mut text)];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let count = match rustix::net::recvmsg(&self.0, &mut into, &mut control, flags) {
            // Whoever has left something unread.
            Err(rustix::io::Errno::CONNRESET) => 0,
            received => received?.bytes,
        };
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                files.extend(rights);
            }
        }
        let text = String::from_utf8_lossy(&text[..count]).into_owned();
        Ok((count > 0).then_some((text, files)))
    }

    fn expect(&self, word: &str) -> String {
        let (heard, _) = self.hear().unwrap_or_else(|| panic!("an end instead of {word}"));
        assert!(heard.starts_with(word), "{heard} instead of {word}");
        heard
    }
}

/// A daemon whose program's file is its own, so that another one can be put in its place.
struct Replaced {
    daemon: Daemon,
    program: PathBuf,
}

impl Replaced {
    fn prepare(daemon: Builder) -> Self {
        let mut daemon = daemon.prepare();
        let program = daemon.folder().join("iofog-connector");
        let own = PathBuf::from(&binary()[0]);
        fs::hard_link(&own, &program).or_else(|_| fs::copy(&own, &program).map(drop)).unwrap();
        daemon.program = Some(program.clone());
        Replaced { daemon, program }
    }

    /// With a stand-in for the new program, which says no more by itself than that it is there.
    fn start(daemon: Builder) -> Self {
        let mut replaced = Self::prepare(daemon);
        replaced.daemon.start();
        replaced.by_stand_in();
        replaced
    }

    fn by_stand_in(&self) {
        let folder = self.folder();
        fs::create_dir_all(&folder).unwrap();
        let own = std::env::current_exe().unwrap();
        self.by_script(&format!(
            "STAND_IN={} exec {} --exact upgrade_faults::stand_in_for_a_new_program",
            folder.display(),
            own.display()
        ));
    }

    /// The new program is a script, whose number the test can read.
    fn by_script(&self, script: &str) {
        let number = self.daemon.folder().join("number");
        let script = format!("#!/bin/sh\necho $$ > {}\n{script}\n", number.display());
        let new = self.program.with_extension("new");
        fs::write(&new, script).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, &self.program).unwrap();
    }

    fn folder(&self) -> PathBuf {
        self.daemon.folder().join("stand-in")
    }

    /// The new program, once it runs.
    fn new_one(&self) -> Pid {
        let number = self.daemon.folder().join("number");
        eventually("it runs", || {
            Pid::from_raw(fs::read_to_string(&number).ok()?.strip_suffix('\n')?.parse().ok()?)
        })
    }

    /// What the stand-in has heard, a word a line.
    fn heard(&self) -> String {
        fs::read_to_string(self.folder().join("heard")).unwrap_or_default()
    }

    #[track_caller]
    fn until_heard(&self, word: &str) {
        until(word, || self.heard().lines().any(|line| line.starts_with(word)));
    }

    /// Has the stand-in say something, or do what only it knows.
    fn say(&self, word: &str) {
        let say = self.folder().join("say");
        fs::write(say.with_extension("new"), word).unwrap();
        fs::rename(say.with_extension("new"), &say).unwrap();
        until("it has been said", || !say.exists());
    }

    /// An upgrade by signal, up to the word that the new program may serve.
    fn until_go(&self, old: Pid) {
        kill_process(old, Signal::USR2).unwrap();
        self.until_heard("all");
        self.say("ready");
        self.until_heard("go");
    }
}

/// Runs in a process of its own, as the new program: says what the test has it say, and writes down what it hears.
#[test]
fn stand_in_for_a_new_program() {
    let Some(folder) = std::env::var_os("STAND_IN").map(PathBuf::from) else { return };
    let words = Words(std::io::stdin().as_fd().try_clone_to_owned().unwrap().into());
    let mut heard = File::create(folder.join("heard")).unwrap();
    assert!(words.say("here"));
    let (mut files, mut locks, mut is_over) = (Vec::new(), Vec::new(), false);
    let start = Instant::now();
    while start.elapsed() < 4 * PATIENCE {
        if let Ok(word) = fs::read_to_string(folder.join("say")) {
            match &*word {
                "ready" => assert!(words.say(&format!("ready {}", std::process::id()))),
                "end" => return fs::remove_file(folder.join("say")).unwrap(),
                lock if lock.starts_with("lock ") => {
                    let file = File::open(&lock["lock ".len()..]).unwrap();
                    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
                    locks.push(file);
                }
                word => assert!(words.say(word)),
            }
            fs::remove_file(folder.join("say")).unwrap();
        }
        if is_over {
            // Locks outlive what is said.
        } else if let Ok(next) = words.try_hear(RecvFlags::DONTWAIT) {
            is_over = next.is_none();
            let (word, more) = next.unwrap_or(("over".into(), Vec::new()));
            files.extend(more);
            writeln!(heard, "{word}").unwrap();
        }
        if is_over && locks.is_empty() {
            return;
        }
        thread::sleep(ms(5));
    }
}

/// A stand-in for the daemon whose place a program takes.
struct Before {
    daemon: Daemon,
    words: Words,
}

impl Before {
    /// Has the program started, up to its word that it is ready.
    fn of(mut daemon: Daemon) -> Self {
        let lock = File::create(daemon.run().join("iofog-connector.lock")).unwrap();
        (&lock).write_all(b"7\n").unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let control = UnixListener::bind(daemon.socket()).unwrap();
        let [words, others] = Words::pair();
        words.say("from 7");
        words.give("lock", &lock);
        words.give("control", &control);
        words.say("all");
        daemon.spawn_with(Stdio::from(OwnedFd::from(others.0)));
        words.expect("here");
        words.expect(&format!("ready {}", daemon.pid().as_raw_nonzero()));
        Before { daemon, words }
    }

    /// The same, until it serves a mapping.
    fn with_a_mapping(mut daemon: Daemon) -> (Self, Mapping) {
        daemon.start();
        let mapping = daemon.api().add_public(10, NEVER);
        daemon.stop();
        (Self::serving(daemon), mapping)
    }

    /// The same, until it serves.
    fn serving(daemon: Daemon) -> Self {
        let mut before = Self::of(daemon);
        before.words.say("go");
        before.words.expect("taken");
        before.daemon.wait_ready();
        before
    }
}

fn prepared() -> Daemon {
    Daemon::builder(Mode::Plain).prepare()
}

fn lock_text(daemon: &Daemon) -> String {
    fs::read_to_string(daemon.run().join("iofog-connector.lock")).unwrap().trim_end().into()
}

#[test]
fn stop_while_a_new_program_opens_everything_is_the_old_ones_and_nobody_serves_then() {
    if !can_start_anew() {
        return;
    }
    let mut old = Replaced::start(Daemon::builder(Mode::Plain));
    old.daemon.signal(Signal::USR2);
    old.until_heard("all");
    old.daemon.signal(Signal::TERM);
    until("it stops", || old.daemon.log_text().contains("stopping: sessions have"));
    old.until_heard("no");
    assert_eq!(old.daemon.wait().status.code(), Some(0));
    old.until_heard("over");
    assert!(!old.heard().contains("go\n"), "{}", old.heard());
    // It was not the new program's being late that has ended it.
    let log = old.daemon.log_text();
    assert!(log.contains("was asked to stop meanwhile") && !log.contains("not ready"), "{log}");
    assert!(!old.daemon.socket().exists());
}

#[test]
fn stop_after_the_word_to_serve_is_the_new_programs_too() {
    if !can_start_anew() {
        return;
    }
    let mut old = Replaced::start(Daemon::builder(Mode::Plain).set("drain", 300));
    let mapping = old.daemon.api().add_public(10, NEVER);
    let (mut user, _agent) = old.daemon.session(&mapping);
    old.until_go(old.daemon.pid());
    old.daemon.signal(Signal::TERM);
    until("it is noted", || old.daemon.log_text().contains("asked to stop while"));
    old.say("taken");
    old.until_heard("main");
    let heard = old.heard();
    assert!(heard.contains("stop\nmain\n"), "{heard}");
    // What it carries has the time of a stop, not of an upgrade.
    user.expect_closed();
    assert_eq!(old.daemon.wait().status.code(), Some(0));
}

#[test]
fn reload_while_a_new_program_takes_the_place_is_the_new_programs() {
    if !can_start_anew() {
        return;
    }
    let mut old = Replaced::start(Daemon::builder(Mode::Plain));
    old.until_go(old.daemon.pid());
    old.daemon.signal(Signal::HUP);
    until("it is noted", || old.daemon.log_text().contains("asked to reload while"));
    old.say("taken");
    old.until_heard("main");
    assert!(old.heard().contains("reload\nmain\n"), "{}", old.heard());
    assert_eq!(old.daemon.wait().status.code(), Some(0));
    // Without a new program it is the old one's.
    let old = Replaced::start(Daemon::builder(Mode::Plain));
    old.until_go(old.daemon.pid());
    old.daemon.set("userwait", 12_345);
    old.daemon.signal(Signal::HUP);
    until("it is noted", || old.daemon.log_text().contains("asked to reload while"));
    old.say("end");
    until("it reloads", || old.daemon.log_text().contains("settings reloaded"));
}

#[test]
fn new_program_does_what_was_asked_of_the_old_one_meanwhile() {
    if !can_start_anew() {
        return;
    }
    let mut before = Before::serving(prepared());
    before.words.say("reload");
    until("it reloads", || before.daemon.log_text().contains("settings reloaded"));
    before.words.expect("reopen");
    before.words.say("stop");
    before.words.expect("stop");
    drop(before.words);
    assert_eq!(before.daemon.wait().status.code(), Some(0));
}

#[test]
fn stop_of_both_at_one_time_is_one_and_gives_sessions_their_time() {
    if !can_start_anew() {
        return;
    }
    let daemon = Daemon::builder(Mode::Plain).set("drain", 60_000).prepare();
    let (mut before, mapping) = Before::with_a_mapping(daemon);
    let (mut user, mut agent) = before.daemon.session(&mapping);
    // As a service manager does, which stops all processes of a service.
    before.daemon.signal(Signal::TERM);
    before.words.expect("stop");
    before.words.say("stop");
    drop(before.words);
    let ended = "whose place this one took, has ended";
    until("the word is heard", || before.daemon.log_text().contains(ended));
    user.send(b"still");
    agent.expect_record(b"still");
    drop((user, agent));
    assert_eq!(before.daemon.wait().status.code(), Some(0));
}

#[test]
fn new_program_is_heard_however_many_files_the_old_one_may_open() {
    if !can_start_anew() {
        return;
    }
    let mut old = Replaced::start(Daemon::builder(Mode::Plain));
    old.until_go(old.daemon.pid());
    // From now on no file can be opened.
    let none = Rlimit { current: Some(3), maximum: Some(3) };
    prlimit(Some(old.daemon.pid()), Resource::Nofile, none).unwrap();
    old.say("taken");
    old.until_heard("main");
    assert_eq!(old.daemon.wait().status.code(), Some(0));
}

#[test]
fn new_program_waits_for_its_word_through_signals() {
    if !can_start_anew() {
        return;
    }
    let mut before = Before::of(prepared());
    before.daemon.signal(Signal::HUP);
    before.daemon.signal(Signal::STOP);
    before.daemon.signal(Signal::CONT);
    before.words.say("go");
    before.words.expect("taken");
    before.daemon.wait_ready();
    until("it reloads", || before.daemon.log_text().contains("settings reloaded"));
}

#[test]
fn lock_names_the_process_that_serves_when_the_new_one_was_too_late() {
    if !can_start_anew() {
        return;
    }
    let mut before = Before::of(prepared());
    // It has said `go`, waited too long, and hears no more.
    before.words.0.shutdown(std::net::Shutdown::Read).unwrap();
    before.words.say("go");
    before.words.say("no");
    assert_eq!(before.daemon.wait().status.code(), Some(1));
    assert_eq!(lock_text(&before.daemon), "7");
    assert!(before.daemon.socket().exists(), "it is the other one's");
    // And when it has named itself, and ends.
    let old = Replaced::start(Daemon::builder(Mode::Plain));
    old.until_go(old.daemon.pid());
    fs::write(old.daemon.run().join("iofog-connector.lock"), "7\n").unwrap();
    old.say("end");
    let own = old.daemon.pid().as_raw_nonzero();
    until("it names itself again", || lock_text(&old.daemon) == own.to_string());
}

#[test]
fn service_manager_hears_at_once_that_the_new_program_lives() {
    if !can_start_anew() {
        return;
    }
    let folder = Folder::new();
    let manager = Manager::new(&folder);
    let daemon = Daemon::builder(Mode::Plain)
        .environment("NOTIFY_SOCKET", manager.path())
        .environment("WATCHDOG_USEC", "600000000");
    let before = Before::serving(daemon.prepare());
    // Said before the manager watches it, this one is not believed; and the next is due in five minutes.
    manager.receive("WATCHDOG=1");
    before.words.say("main");
    manager.receive("READY=1");
    manager.receive("WATCHDOG=1");
}

#[test]
fn old_program_ends_with_status_1_where_the_new_one_is_killed_and_a_service_manager_watches() {
    if !can_start_anew() {
        return;
    }
    let folder = Folder::new();
    let manager = Manager::new(&folder);
    let mut daemon = Daemon::builder(Mode::Plain)
        .environment("NOTIFY_SOCKET", manager.path())
        .environment("WATCHDOG_USEC", "600000000")
        .start();
    let mapping = daemon.api().add_public(10, NEVER);
    let (mut user, _agent) = daemon.session(&mapping);
    let heir = upgraded(&daemon);
    kill_process(heir, Signal::KILL).unwrap();
    assert_eq!(daemon.wait().status.code(), Some(1));
    user.expect_closed();
    let why = "the process that had taken this one's place has ended";
    assert!(daemon.log_text().contains(why), "{}", daemon.log_text());
}

#[test]
fn supervisor_that_watches_the_daemon_itself_is_named_and_no_second_one_is_started() {
    if !can_start_anew() {
        return;
    }
    let folder = Folder::new();
    let supervisor = folder.join("runsv");
    symlink("/bin/sh", &supervisor).unwrap();
    // The test kills the supervisor.
    let script = r#"setpriv --pdeathsig KILL "$@"; exit $?"#;
    let wrapper = [supervisor.to_str().unwrap(), "-c", script, "sh"];
    let daemon = Daemon::builder(Mode::Plain).wrapper(&wrapper).start();
    let before = daemon.serving();
    let said = refused(&daemon);
    assert!(said.contains("runsv watches this process itself"), "{said}");
    assert!(said.contains("restart the service instead"), "{said}");
    assert_eq!(daemon.serving(), before);
}

#[test]
fn locks_are_the_old_ones_again_once_a_slow_new_program_has_ended() {
    if !can_start_anew() {
        return;
    }
    let old = Replaced::start(Daemon::builder(Mode::Plain));
    old.daemon.api().add_public(10, NEVER);
    let (folder, state) = (old.daemon.config(), old.daemon.config().join("configs.json"));
    old.daemon.signal(Signal::USR2);
    old.until_heard("all");
    for locked in [&folder, &state] {
        old.say(&format!("lock {}", locked.display()));
    }
    old.say("refused for the test");
    old.until_heard("over");
    // Longer than a lock is tried for that somebody else holds.
    thread::sleep(ms(500));
    old.say("end");
    let is_locked = |path: &Path| {
        flock(File::open(path).unwrap(), FlockOperation::NonBlockingLockShared).is_err()
    };
    until("both are locked", || is_locked(&folder) && is_locked(&state));
    until("it serves", || old.daemon.log_text().contains("no other program takes"));
    assert!(is_locked(&folder) && is_locked(&state));
    old.daemon.api().add_public(1, NEVER);
}

#[test]
fn program_before_the_one_before_is_shown_told_and_ended_too() {
    if !can_start_anew() {
        return;
    }
    let mut daemon = Daemon::builder(Mode::Plain).set("drain", 300).start();
    let [mapping, other] = [(); 2].map(|()| daemon.api().add_public(10, NEVER));
    let (mut user, _agent) = daemon.session(&mapping);
    let (mut stays, mut tunnel) = daemon.session(&other);
    let second = upgraded(&daemon);
    let third = upgraded(&daemon);
    let carried = || daemon.control().state()["predecessor"]["sessions"].clone();
    until("both are shown", || carried() == 2);
    // What carries nothing itself has left the first one to the newest.
    until("the second has ended", || is_gone(second));
    daemon.api().remove(&mapping);
    user.expect_closed();
    until("one is shown", || carried() == 1);
    stays.send(b"stays");
    tunnel.expect_record(b"stays");
    assert!(daemon.is_running());
    let output = daemon.cli(&["stop"]);
    assert!(output.status.success(), "{}", text(&output));
    // It has waited for both.
    assert!(is_gone(third));
    assert_eq!(daemon.wait().status.code(), Some(0));
    stays.expect_closed();
}

#[test]
fn programs_between_end_with_their_own_sessions_however_long_those_of_the_first_one_go_on() {
    if !can_start_anew() {
        return;
    }
    let mut daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(10, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let mut between = Vec::new();
    let own = (upgraded(&daemon), daemon.session(&mapping));
    for _ in 0..4 {
        between.push(upgraded(&daemon));
    }
    let last = between.pop().unwrap();
    until("those that carry nothing have ended", || {
        between.iter().all(|between| is_gone(*between))
    });
    assert!(!is_gone(own.0));
    assert_eq!(daemon.control().state()["predecessor"]["sessions"], 2);
    drop(own.1);
    until("it has ended, too", || is_gone(own.0));
    let predecessor = |daemon: &Daemon| daemon.control().state()["predecessor"].clone();
    until("the first one is left", || {
        predecessor(&daemon)["process"] == daemon.pid().as_raw_nonzero().get()
            && predecessor(&daemon)["sessions"] == 1
    });
    user.send(b"still");
    agent.expect_record(b"still");
    drop((user, agent));
    assert_eq!(daemon.wait().status.code(), Some(0));
    until("nothing is left", || predecessor(&daemon).is_null());
    assert!(!is_gone(last));
}

#[test]
fn sessions_that_have_ended_are_counted_at_once_and_their_program_ends_and_is_said_to() {
    if !can_start_anew() {
        return;
    }
    let mut daemon = Daemon::builder(Mode::Plain).set("logformat", "json").start();
    let mapping = daemon.api().add_public(10, NEVER);
    let mut sessions: Vec<_> = (0..6).map(|_| daemon.session(&mapping)).collect();
    upgraded(&daemon);
    let left = || daemon.control().state()["predecessor"]["sessions"].as_u64();
    until("all are shown", || left() == Some(6));
    // What is said again and again is said each second.
    thread::sleep(ms(3000));
    let mut took = Vec::new();
    while sessions.pop().is_some() {
        let (begun, number) = (Instant::now(), sessions.len() as u64);
        until("one less", || left().unwrap_or_default() == number);
        took.push(begun.elapsed());
    }
    took.sort();
    assert!(took[2] < ms(500), "{took:?}");
    assert_eq!(daemon.wait().status.code(), Some(0));
    until("it is said", || daemon.log_text().contains(r#""event":"handed-over""#));
}

#[test]
fn ports_that_are_most_of_the_limit_of_open_files_are_handed_over() {
    if !can_start_anew() {
        return;
    }
    let daemon =
        Daemon::builder(Mode::Plain).ports(140).wrapper(&["prlimit", "--nofile=180"]).start();
    let body = form(&[(
        "mapping",
        r#"{"type":"public","maxconnections":60,"heartbeatabsencethreshold":0}"#,
    )]);
    let mut count = 0;
    while daemon.api().post("/api/v2/mapping/add", &body).status == 200 {
        count += 1;
    }
    assert!(4 * count > 180, "twice as many would be too many: {count}");
    upgraded(&daemon);
    let state = daemon.control().state();
    let mappings = state["mappings"].as_array().unwrap();
    let is_open =
        |mapping: &&serde_json::Value| (0..2).all(|side| mapping["sides"][side]["open"] == true);
    assert_eq!(mappings.iter().filter(is_open).count(), count, "{state}");
}

#[test]
fn apis_port_that_another_program_has_is_found_by_check_and_leaves_the_old_one_serving() {
    if !can_start_anew() {
        return;
    }
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(10, NEVER);
    let check = || text(&daemon.cli(&["check"]));
    let taken = "has the API's port";
    assert!(!check().contains(taken), "its own: {}", check());
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    daemon.set("api", other.local_addr().unwrap().to_string());
    assert!(check().contains(taken), "{}", check());
    let said = refused(&daemon);
    let why =
        format!("the API cannot listen on {}: another program uses", other.local_addr().unwrap());
    assert!(said.contains(&why), "{said}");
    let events = daemon.control().state()["events"].clone();
    assert!(events.to_string().contains("upgrade-refused"), "{events}");
    // The API is where it was.
    drop((daemon.session(&mapping), daemon.api().add_public(1, NEVER)));
    // Its own port at another address is its own, too, and that of a mapping.
    for own in [daemon.api_address().port(), mapping.port2] {
        daemon.set("api", format!("0.0.0.0:{own}"));
        assert!(!check().contains(taken), "{own}: {}", check());
    }
    daemon.set("api", format!("0.0.0.0:{}", daemon.api_address().port()));
    upgraded(&daemon);
    until("the API is there", || TcpStream::connect(daemon.api_address()).is_ok());
    assert_eq!(daemon.control().state()["api"], format!("0.0.0.0:{}", daemon.api_address().port()));
    drop(other);
}

#[test]
fn users_that_wait_two_programs_back_are_told_to_the_newest_one() {
    if !can_start_anew() {
        return;
    }
    let middle = Replaced::prepare(Daemon::builder(Mode::Plain));
    let Replaced { daemon, program } = middle;
    let (Before { daemon, words }, mapping) = Before::with_a_mapping(daemon);
    let middle = Replaced { daemon, program };
    let short = format!("short {} 2", mapping.id);
    words.say(&short);
    middle.by_stand_in();
    middle.until_go(middle.daemon.pid());
    middle.say("taken");
    middle.until_heard(&short);
    // Then the newest one hears it itself, and what that says in between is lost on nobody.
    middle.until_heard("over");
    middle.say(&format!("removed {}", mapping.id));
    middle.say("leave");
    middle.until_heard("before 7 ");
    words.expect(&format!("removed {}", mapping.id));
    // It may still ask for agents.
    assert!(!middle.heard().contains("before 7 0"), "{}", middle.heard());
}

#[test]
fn agents_that_wait_are_sent_to_users_of_the_program_before_as_many_as_these() {
    if !can_start_anew() {
        return;
    }
    let (Before { daemon, words }, mapping) = Before::with_a_mapping(prepared());
    let idle = |count| until("they wait", || daemon.api().idle(&mapping) == count);
    let (short, enough) = (format!("short {} 1", mapping.id), format!("enough {}", mapping.id));
    for open in [Daemon::tunnel, Daemon::version_two] {
        let mut agents = [(); 2].map(|()| open(&daemon, &mapping));
        idle(2);
        words.say(&short);
        idle(1);
        // Who comes now comes to the other one.
        let mut agent = daemon.agent(mapping.port1);
        agent.send(mapping.passcode1.as_bytes());
        agent.link.expect_silence(ms(200));
        assert_eq!(agents.each_mut().map(|agent| agent.link.is_quiet()).map(usize::from), [0, 1]);
        words.say(&enough);
        agent.expect_authorized();
        drop((agent, agents));
        idle(0);
    }
    let mut agents = [(); 2].map(|()| daemon.version_three(&mapping));
    idle(2);
    words.say(&short);
    agents[0].expect(b'B');
    agents[1].expect_silence(ms(200));
}

#[test]
fn strangers_that_stall_keep_no_agent_from_the_new_program() {
    if !can_start_anew() {
        return;
    }
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(10, NEVER);
    let mut stranger = Link::plain(at(mapping.port2)).unwrap();
    // It is accepted before whoever comes later.
    drop(daemon.user(&mapping));
    until("that one has left", || daemon.api().users_waiting(&mapping) == 0);
    let mut agents = [daemon.tunnel(&mapping), daemon.version_two(&mapping)];
    let mut framed = daemon.version_three(&mapping);
    until("they wait", || daemon.api().idle(&mapping) == 3);
    upgraded(&daemon);
    agents.iter_mut().for_each(|agent| agent.link.expect_closed());
    framed.expect(b'B');
    assert!(stranger.is_quiet(), "agents were kept until it was closed");
}

#[test]
fn fresh_tunnel_at_the_program_before_must_be_quiet_before_a_user_gets_it() {
    if !can_start_anew() {
        return;
    }
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(10, NEVER);
    // A user of the old program that has not begun to shake hands.
    let user = Link::plain(at(mapping.port2)).unwrap();
    // It is accepted before whoever comes later.
    drop(daemon.user(&mapping));
    upgraded(&daemon);
    // An agent that loses its tunnel in the midst of an answer comes back, and may come to the old program.
    let (another, mut agent) = daemon.session(&mapping);
    agent.send(b"some of the answer");
    drop((another, agent));
    let mut user = user.upgrade(&daemon.trust(), "localhost").unwrap();
    user.send(b"another question");
    let mut tunnels: Vec<(Instant, Agent)> = Vec::new();
    let (begun, asked) = eventually("it is served", || {
        if tunnels.len() < 9 {
            tunnels.push((Instant::now(), daemon.tunnel(&mapping)));
        }
        // Those that the new one gives up, since users wait here, are closed.
        let mut got: Vec<_> =
            tunnels.iter_mut().map(|(_, tunnel)| tunnel.link.read_now(99)).collect();
        let asked = got.iter_mut().position(|got| matches!(got, Some(Got::Bytes(_))))?;
        let (begun, tunnel) = tunnels.swap_remove(asked);
        Some((begun.elapsed(), (tunnel, got.swap_remove(asked))))
    });
    let (mut tunnel, got) = asked;
    assert_eq!(got, Some(Got::Bytes(b"another question".into())));
    // The rest of the answer would have come by then (`QUIET_LATE`).
    assert!(begun >= ms(800), "{begun:?}");
    tunnel.send(b"its answer");
    user.expect(b"its answer");
}

#[test]
fn another_daemon_can_be_started_while_an_old_one_carries_sessions_and_the_new_one_has_died() {
    if !can_start_anew() {
        return;
    }
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(10, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let heir = upgraded(&daemon);
    kill_process(heir, Signal::KILL).unwrap();
    // It may look dead before its last thread has ended, and the lock with that.
    until("nobody runs there", || text(&daemon.cli(&["status"])).contains("not running"));
    let mut command = std::process::Command::new(&binary()[0]);
    command.arg("start").arg("--config").arg(daemon.config()).arg("--run").arg(daemon.run());
    command.arg("--log").arg(daemon.log()).arg("--syslog").arg(daemon.syslog());
    let _next = Running::start(&mut command, daemon.folder().join("next")).unwrap();
    // A port that was not free yet is tried again.
    until("it serves", || text(&daemon.cli(&["status"])).contains("no agent"));
    let (mut another, mut tunnel) = daemon.session(&mapping);
    another.send(b"at the next one");
    tunnel.expect_record(b"at the next one");
    user.send(b"still");
    agent.expect_record(b"still");
}

#[test]
fn address_that_the_api_leaves_is_closed_while_sessions_go_on() {
    if !can_start_anew() {
        return;
    }
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(10, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let block = PortBlock::take(1);
    daemon.set("api", at(block.first).to_string());
    upgraded(&daemon);
    until("nobody listens", || TcpStream::connect(daemon.api_address()).is_err());
    TcpStream::connect(at(block.first)).unwrap();
    user.send(b"still");
    agent.expect_record(b"still");
}

#[test]
fn new_program_is_the_init_systems_while_the_old_one_carries_sessions() {
    if !can_start_anew() {
        return;
    }
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(10, NEVER);
    let _session = daemon.session(&mapping);
    let old_spawner = spawner(daemon.pid());
    let heir = upgraded(&daemon);
    let parent = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", heir.as_raw_nonzero())).unwrap();
        let fields = stat[stat.rfind(')').unwrap()..].split(' ').nth(2).unwrap().to_owned();
        fields.parse::<i32>().unwrap()
    };
    until("it has another parent", || parent() != old_spawner.as_raw_nonzero().get());
    until("what has started it is gone", || is_gone(old_spawner));
}

#[test]
fn what_starts_programs_has_nothing_but_its_link_and_outlives_signals_for_the_whole_service() {
    if !can_start_anew() {
        return;
    }
    let daemon = Daemon::new(Mode::Plain);
    let first = upgraded(&daemon);
    let spawner = spawner(first);
    let files = format!("/proc/{}/fd", spawner.as_raw_nonzero());
    let input = fs::read_link(format!("{files}/0")).unwrap();
    assert_eq!(input, Path::new("/dev/null"));
    let sockets = fs::read_dir(&files).unwrap().filter(|file| {
        let file = fs::read_link(file.as_ref().unwrap().path()).unwrap();
        file.to_string_lossy().starts_with("socket:")
    });
    // The link, and its signals.
    assert_eq!(sockets.count(), 3);
    for signal in [Signal::HUP, Signal::INT, Signal::TERM, Signal::USR2] {
        kill_process(spawner, signal).unwrap();
    }
    let last = upgraded(&daemon);
    assert_ne!(last, first);
    // What it has started obeys signals all the same.
    kill_process(last, Signal::TERM).unwrap();
    until("it has ended", || is_gone(last));
}

#[test]
fn new_program_that_hangs_before_its_first_word_is_given_nothing_keeps_no_caller_waiting_and_is_killed()
 {
    if !can_start_anew() {
        return;
    }
    let mut old = Replaced::prepare(Daemon::builder(Mode::Plain));
    old.daemon.start();
    // Whatever it is given is still unread when this is said.
    old.by_script("exec sleep 1000");
    kill_process(old.daemon.pid(), Signal::USR2).unwrap();
    let hung = old.new_one();
    let mapping = old.daemon.api().add_public(10, NEVER);
    let output = old.daemon.cli(&["status"]);
    assert!(output.status.success(), "{}", text(&output));
    let log = || old.daemon.log_text();
    assert!(!log().contains("no other program takes"), "{}", log());
    until("it is given up", || log().contains("has not said a word within 10 s"));
    until("it is killed", || is_gone(hung));
    drop(old.daemon.session(&mapping));
}

#[test]
fn new_program_that_hangs_with_the_ports_is_named_and_killed_when_the_old_one_stops_or_dies() {
    if !can_start_anew() {
        return;
    }
    for signal in [Signal::TERM, Signal::KILL] {
        let mut old = Replaced::start(Daemon::builder(Mode::Plain));
        let mapping = old.daemon.api().add_public(10, NEVER);
        let spawner = spawner(old.daemon.pid());
        old.daemon.signal(Signal::USR2);
        old.until_heard("all");
        let hung = old.new_one();
        stop(hung);
        // As long as the test takes to look.
        stop(spawner);
        old.daemon.signal(signal);
        old.daemon.wait();
        let number = format!("process {}", hung.as_raw_nonzero());
        let said = match signal {
            Signal::TERM => text(&old.daemon.cli(&["stop"])),
            _ => {
                old.daemon.program = None;
                old.daemon.spawn();
                old.daemon.wait().stderr
            }
        };
        assert!(said.contains(&number), "{said}");
        kill_process(spawner, Signal::CONT).unwrap();
        until("it is killed", || is_gone(hung));
        until("what has started it ends", || is_gone(spawner));
        old.daemon.program = None;
        old.daemon.start();
        drop(old.daemon.session(&mapping));
    }
}

#[test]
fn files_that_are_open_where_the_daemon_is_started_are_closed_in_it_and_in_what_it_starts() {
    if !can_start_anew() {
        return;
    }
    let folder = Folder::new();
    let secret = folder.file("secret", "dear", 0o600);
    let open = format!("exec 3<{0} 9<{0} 700<{0}; exec \"$0\" \"$@\"", secret.display());
    let daemon = Daemon::builder(Mode::Plain).wrapper(&["bash", "-c", &open]).start();
    let first = daemon.pid();
    let is_open = |process: Pid| {
        let files = fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).unwrap();
        let mut files = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
        files.any(|file| file.to_string_lossy().contains("secret"))
    };
    assert!(![first, spawner(first)].into_iter().any(is_open));
    let last = upgraded(&daemon);
    assert!(![last, spawner(last)].into_iter().any(is_open));
}

#[test]
fn what_starts_programs_is_said_to_be_stopped_where_it_is() {
    if !can_start_anew() {
        return;
    }
    let mut daemon = Daemon::new(Mode::Plain);
    let spawner = spawner(daemon.pid());
    stop(spawner);
    let said = refused(&daemon);
    let number = spawner.as_raw_nonzero();
    assert!(said.contains(&format!("process {number}")), "{said}");
    assert!(said.contains(&format!("`kill -CONT {number}`")), "{said}");
    kill_process(spawner, Signal::CONT).unwrap();
    let heir = upgraded(&daemon);
    assert_eq!(daemon.wait().status.code(), Some(0));
    assert_eq!(daemon.serving(), Some(heir));
    kill_process(self::spawner(heir), Signal::KILL).unwrap();
    let said = refused(&daemon);
    assert!(said.contains("is gone; a restart is needed"), "{said}");
}

/// A container ends with its first process, so that nobody could take that one's place for long.
#[test]
fn the_first_process_of_a_container_refuses_an_upgrade_and_goes_on() {
    let can = Command::new("unshare").args(["--pid", "--fork", "true"]).status();
    if !can.is_ok_and(|status| status.success()) {
        return could_not_run("processes cannot be counted anew (unshare --pid)");
    }
    let daemon = Daemon::builder(Mode::Plain)
        .wrapper(&["unshare", "--pid", "--fork", "--kill-child"])
        .start();
    let mapping = daemon.api().add_public(5, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let said = refused(&daemon);
    assert!(said.contains("process 1 of a container, which ends with it; replace"), "{said}");
    user.send(b"still here");
    agent.expect_record(b"still here");
    daemon.tunnel(&mapping);
    assert!(daemon.log_text().contains("this is process 1"), "{}", daemon.log_text());
}
