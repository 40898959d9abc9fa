//! Signals, the command line, the service manager, limits of the process (protocol page,
//! section 7).

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crate::common::*;
use rustix::process::Signal;
use serde_json::{Value, json};

in_both_modes!(
    stopping_lets_sessions_finish_and_takes_no_new_ones,
    stopping_cuts_sessions_after_drain,
    reload_closes_no_session,
    hundred_reloads_under_load_lose_no_session,
    too_many_open_files_stop_neither_api_nor_recovery,
);

const NEVER: u64 = 200_000;

// Stopping

fn stopping_lets_sessions_finish_and_takes_no_new_ones(mode: Mode) {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::builder(mode).set("drain", 60_000).start();
        let mapping = daemon.api().add_public(60, NEVER);
        let (mut user, mut agent) = daemon.session(&mapping);
        daemon.signal(signal);
        until("the ports are closed", || {
            [mapping.port1, mapping.port2].iter().all(|port| Link::plain(at(*port)).is_err())
        });
        assert!(Link::plain(daemon.api_address()).is_err(), "the API's port is still open");
        let answer = noise(1, 1 << 20);
        thread::scope(|scope| {
            scope.spawn(|| agent.send(&answer));
            assert_same(&user.exactly(answer.len()), &answer, "while draining");
        });
        assert!(daemon.is_running());
        user.finish();
        agent.finish();
        let start = Instant::now();
        assert_eq!(daemon.wait().status.code(), Some(0));
        assert!(start.elapsed() < ms(25_000), "it waited for nobody");
    }
}

fn stopping_cuts_sessions_after_drain(mode: Mode) {
    let mut daemon = Daemon::builder(mode).set("drain", 400).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let mut idle = daemon.tunnel(&mapping);
    let start = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().status.code(), Some(0));
    assert!(start.elapsed() >= ms(350), "cut after {:?}", start.elapsed());
    for link in [&mut user, &mut agent.link, &mut idle.link] {
        link.expect_closed();
    }
    // It ends at once where there is nothing to drain, and starts again with all it had.
    let mut daemon = Daemon::builder(mode).set("drain", 60_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let _idle = daemon.tunnel(&mapping);
    assert_eq!(daemon.stop().status.code(), Some(0));
    assert!(!daemon.socket().exists(), "the socket is left behind");
    daemon.start();
    daemon.session(&mapping);
}

// Reload

fn reload_closes_no_session(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let mut idle = daemon.tunnel(&mapping);
    let (up, down) = (noise(1, 8 << 20), noise(2, 8 << 20));
    thread::scope(|scope| {
        let agent = scope.spawn(|| assert_same(&agent.exchange(&down, up.len()), &up, "up"));
        let user = scope.spawn(|| assert_same(&user.exchange(&up, down.len()), &down, "down"));
        for _ in 0..100 {
            daemon.signal(Signal::HUP);
            thread::sleep(ms(5));
        }
        agent.join().unwrap();
        user.join().unwrap();
    });
    idle.beat_and_answer();
    let mut next = daemon.user(&mapping);
    next.send(b"question");
    idle.expect(b"question");
}

fn hundred_reloads_under_load_lose_no_session(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 60_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let service = Service::echo();
    let agent = FieldAgent::start(&daemon, &mapping, 12, service.address);
    agent.wait_authorized();
    let (over, sessions) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for number in 0..4 {
            let (daemon, mapping, over, sessions) = (&daemon, &mapping, &over, &sessions);
            scope.spawn(move || {
                for count in 0.. {
                    let question = noise(number << 32 | count, 20_000);
                    let mut user = daemon.user(mapping);
                    assert_same(&user.exchange(&question, question.len()), &question, "echo");
                    sessions.fetch_add(1, Ordering::Relaxed);
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        let deadline = Instant::now() + PATIENCE;
        for reloads in 1.. {
            daemon.signal(Signal::HUP);
            thread::sleep(ms(15));
            let enough = reloads >= 100 && sessions.load(Ordering::Relaxed) >= 20;
            if enough || Instant::now() > deadline {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let sessions = sessions.into_inner();
    println!("{mode:?}: {sessions} sessions during 100 reloads, none lost");
    assert!(sessions >= 20, "{sessions} sessions are no load");
    agent.expect_no_strays();
    assert_eq!(agent.refused(), 0);
}

#[test]
fn reload_puts_new_settings_in_force() {
    let daemon = Daemon::builder(Mode::Plain).set("userwait", 60_000).ports(20).start();
    let mapping = daemon.api().add_public(60, NEVER);
    daemon.set("userwait", 300);
    daemon.set("broker", 777);
    daemon.set("ports", json!([daemon.pool(10)]));
    daemon.set("controllers", json!(["192.0.2.7"]));
    daemon.signal(Signal::HUP);
    until("the controllers are others", || daemon.api().get("/api/v2/status").status == 403);
    let control = daemon.control();
    assert_eq!(control.post("/api/v2/direct/add", "").ok()["port"], 777);
    assert_eq!(control.status("all")["availablePorts"], 8);
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    user.expect_closed();
    daemon.session(&mapping);
}

#[test]
fn faulty_settings_leave_the_old_ones_in_force() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, NEVER);
    let good = daemon.read("iofog-connector.conf");
    for bad in ["{", "", r#"{"ports":["x"]}"#] {
        daemon.write("iofog-connector.conf", bad);
        let before = daemon.log_text().len();
        daemon.signal(Signal::HUP);
        until("the fault is logged", || {
            daemon.log_text()[before..].contains("iofog-connector.conf")
        });
        assert_eq!(daemon.api().status("all")["availablePorts"], 13);
        daemon.session(&mapping);
    }
    daemon.write("iofog-connector.conf", &good);
    daemon.set("broker", 777);
    daemon.signal(Signal::HUP);
    until("the good ones are", || daemon.api().post("/api/v2/direct/add", "").ok()["port"] == 777);
}

#[test]
fn reload_is_not_held_up_by_what_is_no_file() {
    let mut daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.control().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    for name in ["iofog-connector.conf", "server-cert.pem", "server-key.pem"] {
        let path = daemon.config().join(name);
        let aside = path.with_extension("aside");
        fs::rename(&path, &aside).unwrap();
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo").success());
        let before = daemon.log_text().len();
        daemon.signal(Signal::HUP);
        until("the fault is logged", || {
            daemon.log_text()[before..].contains(&format!("{name}: it is a pipe, a socket or"))
        });
        assert_eq!(daemon.control().status("all")["availablePorts"], 13, "{name}");
        fs::rename(&aside, &path).unwrap();
        agent.send(b"answer");
        user.expect(b"answer");
    }
    assert!(daemon.stop().status.success());
}

#[test]
fn certificates_that_cannot_be_read_at_a_reload_open_the_api_to_nobody() {
    let mut daemon = Daemon::builder(Mode::Tls).prepare();
    let port = daemon.api_address().port();
    let reload = |daemon: &Daemon| {
        let before = daemon.log_text().matches("settings reloaded").count();
        daemon.signal(Signal::HUP);
        until("the settings are read again", || {
            daemon.log_text().matches("settings reloaded").count() > before
        });
    };
    let warnings = |daemon: &Daemon| daemon.control().state()["warnings"].to_string();
    daemon.set("api", format!("0.0.0.0:{port}"));
    daemon.set("controllers", json!(["192.0.2.1"]));
    daemon.start();
    daemon.api().get("/api/v2/status").failed(403);
    let mut settings = daemon.settings();
    settings.as_object_mut().unwrap().remove("controllers");
    settings["controllerca"] = json!("ca.pem");
    settings["broker"] = json!(777);
    daemon.write("iofog-connector.conf", &settings.to_string());
    reload(&daemon);
    assert!(daemon.log_text().contains("stay in force, with controllers and controllerca"));
    assert_eq!(daemon.control().post("/api/v2/direct/add", "").ok()["port"], 777);
    daemon.api().get("/api/v2/status").failed(403);
    assert!(!warnings(&daemon).contains("Anyone"), "{}", warnings(&daemon));
    // An API that has been open stays so, and is still warned of.
    settings.as_object_mut().unwrap().remove("controllerca");
    daemon.write("iofog-connector.conf", &settings.to_string());
    reload(&daemon);
    assert!(warnings(&daemon).contains("Anyone"), "{}", warnings(&daemon));
    daemon.set("controllerca", "ca.pem");
    reload(&daemon);
    daemon.api().get("/api/v2/status").ok();
    assert!(warnings(&daemon).contains("Anyone"), "{}", warnings(&daemon));
    daemon.write("ca.pem", &Authority::new("controllers").pem());
    reload(&daemon);
    assert!(!warnings(&daemon).contains("Anyone"), "{}", warnings(&daemon));
}

#[test]
fn signal_in_the_midst_of_a_start_does_not_end_it() {
    for _ in 0..20 {
        let mut daemon = Daemon::builder(Mode::Plain).prepare();
        let config = fs::File::open(daemon.config()).unwrap();
        // It waits a moment for this lock.
        rustix::fs::flock(&config, rustix::fs::FlockOperation::LockExclusive).unwrap();
        daemon.spawn();
        let open = format!("/proc/{}/fd", daemon.pid().as_raw_nonzero());
        until("it is at the lock", || {
            let files = fs::read_dir(&open).into_iter().flatten().flatten();
            let mut files = files.filter_map(|file| fs::read_link(file.path()).ok());
            files.any(|file| file == daemon.config()) || !daemon.is_running()
        });
        if daemon.is_running() {
            daemon.signal(Signal::HUP);
        }
        drop(config);
        if wait_started(&mut daemon) {
            assert_eq!(daemon.stop().status.code(), Some(0));
            return;
        }
        // This machine was too slow to give the lock back in time.
    }
    panic!("never was the lock given back within 100 ms");
}

#[test]
fn strangers_who_lock_the_folder_do_not_keep_a_daemon_from_starting() {
    if !rustix::process::geteuid().is_root() {
        return could_not_run("only root can start a program as another user");
    }
    let mut daemon = Daemon::builder(Mode::Plain).prepare();
    daemon.write("configs.json", r#"{"mappings":[]}"#);
    for folder in [daemon.folder(), &daemon.config()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let state = daemon.config().join("configs.json");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o644)).unwrap();
    // Each holds its lock until its input ends.
    let lock = |path: &Path| {
        let mut flock = Command::new("flock");
        flock.arg("--shared").arg(path).args(["sh", "-c", "echo locked; exec cat"]);
        flock.uid(65534).gid(65534).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
    };
    let Ok(mut folders) = lock(&daemon.config()) else { return not_installed("flock") };
    let mut files = lock(&state).unwrap();
    for stranger in [&mut folders, &mut files] {
        let mut said = [0; 7];
        std::io::Read::read_exact(stranger.stdout.as_mut().unwrap(), &mut said).unwrap();
    }
    daemon.spawn();
    assert!(wait_started(&mut daemon), "{}", daemon.stderr());
    for mut stranger in [folders, files] {
        drop(stranger.stdin.take());
        stranger.wait().unwrap();
    }
}

/// Whether the daemon has come up; not, if it found another one there.
fn wait_started(daemon: &mut Daemon) -> bool {
    use std::os::unix::process::ExitStatusExt;
    loop {
        if let Some(status) = daemon.exited() {
            assert_eq!(status.signal(), None, "a signal has ended it");
            assert!(daemon.stderr().contains("another iofog-connector"), "{}", daemon.stderr());
            return false;
        }
        if daemon.control().try_connect().is_ok() {
            return true;
        }
        thread::sleep(ms(5));
    }
}

#[test]
fn reload_says_what_needs_a_restart() {
    let daemon = Daemon::new(Mode::Plain);
    let settings = daemon.read("iofog-connector.conf");
    daemon.set("dev", false);
    daemon.set("threads", 3);
    daemon.set("listen", "127.0.0.1");
    daemon.set("api", "127.0.0.1:9");
    daemon.signal(Signal::HUP);
    for key in ["dev", "threads", "listen", "api"] {
        until("the log names the key", || {
            let log = daemon.log_text();
            log.lines().any(|line| line.contains(key) && line.contains("restart"))
        });
    }
    daemon.api().status("all");
    let warnings = || daemon.control().state()["warnings"].to_string();
    until("status says so, too", || {
        warnings().contains("threads has changed, which takes effect only after a restart")
    });
    daemon.set("threads", "many");
    daemon.signal(Signal::HUP);
    until("a fault is in the status", || warnings().contains("threads: \\\"many\\\""));
    let said = warnings();
    assert!(said.contains("the last reload was refused at 2"), "{said}");
    assert!(
        said.contains("; the settings of before stay in force; `iofog-connector check`"),
        "{said}"
    );
    let table = text(&daemon.cli(&["status"]));
    assert_eq!(table.matches("warning: the last reload was refused at ").count(), 1, "{table}");
    assert!(!daemon.cli(&["check"]).status.success());
    daemon.write("iofog-connector.conf", &settings);
    daemon.signal(Signal::HUP);
    until("nothing is left to say", || !warnings().contains("force"));
}

#[test]
fn reload_takes_a_new_certificate_and_keeps_the_old_one_for_a_bad_one() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let identity = one.sign(&["localhost"]);
    let daemon = Daemon::builder(Mode::Tls)
        .file("server-cert.pem", identity.pem() + &one.pem())
        .file("server-key.pem", identity.key_pem())
        .start();
    let mapping = daemon.control().add_public(60, NEVER);
    let trust = |authority: &Authority| {
        let path = daemon.folder().join("trusted.pem");
        fs::write(&path, authority.pem()).unwrap();
        trusting(&path)
    };
    let ports = [mapping.port1, mapping.port2, daemon.block.first];
    for port in ports {
        Link::tls(at(port), &trust(&one)).expect("the first certificate");
    }
    // A session from before goes on.
    let (mut user, mut agent) = daemon.session(&mapping);
    // A certificate whose key is another's.
    let next = two.sign(&["localhost"]);
    daemon.write("server-cert.pem", &(next.pem() + &two.pem()));
    let before = daemon.log_text().len();
    daemon.signal(Signal::HUP);
    until("the fault is logged", || daemon.log_text()[before..].contains("server-"));
    let warnings = daemon.control().state()["warnings"].to_string();
    assert!(warnings.contains("the old certificates stay in force"), "{warnings}");
    for port in ports {
        Link::tls(at(port), &trust(&one)).expect("still the first certificate");
    }
    daemon.write("server-key.pem", &next.key_pem());
    daemon.signal(Signal::HUP);
    until("the second certificate is shown", || Link::tls(at(mapping.port1), &trust(&two)).is_ok());
    for port in ports {
        Link::tls(at(port), &trust(&two)).expect("the second certificate");
    }
    agent.send(b"answer");
    user.expect(b"answer");
}

// One instance

#[test]
fn second_start_is_refused_and_disturbs_nothing() {
    let mut daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, NEVER);
    let log = daemon.log();
    let second = daemon.cli(&["start", "--log", log.to_str().unwrap()]);
    assert!(!second.status.success());
    let pid = daemon.pid().as_raw_nonzero().to_string();
    let said = text(&second);
    assert!(said.contains("already running") && said.contains(&pid), "{said}");
    assert!(daemon.is_running());
    daemon.control().status("all");
    daemon.session(&mapping);
}

// The command line

#[test]
fn status_is_3_when_it_does_not_run_and_shows_a_table_when_it_does() {
    let mut daemon = Daemon::builder(Mode::Plain).prepare();
    for arguments in [&["status"][..], &["status", "--json"]] {
        assert_eq!(daemon.cli(arguments).status.code(), Some(3));
    }
    assert_eq!(daemon.cli(&["stop"]).status.code(), Some(0), "what is asked for is so already");
    daemon.start();
    let public = daemon.api().add_public(7, NEVER);
    let private = daemon.api().add_private(1, NEVER);
    let _idle = daemon.tunnel(&public);
    let status = daemon.cli(&["status"]);
    assert_eq!(status.status.code(), Some(0));
    let table = text(&status);
    for shown in [
        public.id.clone(),
        private.id.clone(),
        format!("http://127.0.0.1:{}", public.port2),
        public.port1.to_string(),
        private.port2.to_string(),
    ] {
        assert!(table.contains(&shown), "{shown} is not in\n{table}");
    }
    let json = daemon.cli(&["status", "--json"]);
    assert_eq!(json.status.code(), Some(0));
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let api = daemon.api().state();
    assert_eq!(json["mappings"][0]["id"], api["mappings"][0]["id"]);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&json), keys(&api));
    daemon.kill();
    // A socket that a killed daemon has left behind.
    assert_eq!(daemon.cli(&["status"]).status.code(), Some(3));
}

#[test]
fn stop_returns_when_the_daemon_has_ended() {
    let mut daemon = Daemon::builder(Mode::Plain).set("drain", 500).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let _session = daemon.session(&mapping);
    assert_eq!(daemon.cli(&["stop"]).status.code(), Some(0));
    // Nothing is in the way of a new start.
    assert!(!daemon.socket().exists());
    let status = daemon.cli(&["status"]);
    assert_eq!(status.status.code(), Some(3));
    assert!(text(&status).contains("is not running; `iofog-connector start --run "), "{status:?}");
    assert!(Link::plain(at(mapping.port1)).is_err());
    assert_eq!(daemon.wait().status.code(), Some(0));
}

#[test]
fn version_and_help_have_all_their_names() {
    for arguments in ["version", "-v", "--version"] {
        let output = run_cli(&[arguments]);
        assert_eq!(output.status.code(), Some(0), "{arguments}");
        assert!(text(&output).contains(env!("CARGO_PKG_VERSION")));
        assert!(text(&output).contains("Apache-2.0"), "the licence");
    }
    for arguments in ["help", "-h", "-?", "--help"] {
        let output = run_cli(&[arguments]);
        assert_eq!(output.status.code(), Some(0), "{arguments}");
        for command in ["start", "stop", "status", "version", "help", "check", "--config", "--run"]
        {
            assert!(text(&output).contains(command), "{command}");
        }
    }
}

#[test]
fn wrong_command_lines_are_2_and_say_why() {
    for (arguments, named) in [
        (&["strat"][..], "strat"),
        (&["start", "--confg", "/x"], "--confg"),
        (&["status", "more"], "more"),
        (&["start", "--config"], "--config"),
        (&[], "start"),
    ] {
        let output = run_cli(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(named), "{arguments:?}: {}", text(&output));
    }
}

// The service manager

#[test]
fn systemd_is_told_of_ready_reload_watchdog_and_stop() {
    let folder = Daemon::builder(Mode::Plain).prepare();
    let manager = Manager::new(folder.folder());
    let mut daemon = Daemon::builder(Mode::Plain)
        .environment("NOTIFY_SOCKET", manager.path())
        .environment("WATCHDOG_USEC", "400000")
        .prepare();
    daemon.spawn();
    manager.receive("READY=1");
    // Ready means that the command line is answered.
    daemon.control().status("all");
    for _ in 0..3 {
        manager.receive("WATCHDOG=1");
    }
    daemon.signal(Signal::HUP);
    let reloading = manager.receive("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.receive("READY=1");
    daemon.signal(Signal::TERM);
    manager.receive("STOPPING=1");
    assert_eq!(daemon.wait().status.code(), Some(0));
}

/// Runs the program with stderr as a unit's, which leads to the journal; gives its exit status and what came there.
fn in_journal(arguments: &[&str]) -> (Option<i32>, String) {
    use std::io::Read;
    let (theirs, mut ours) = std::os::unix::net::UnixStream::pair().expect("sockets");
    let stat = rustix::fs::fstat(&theirs).expect("a socket");
    let command = binary();
    let status = Command::new(&command[0])
        .args(&command[1..])
        .args(arguments)
        .env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino))
        .stderr(std::os::fd::OwnedFd::from(theirs))
        .status()
        .expect("the program runs");
    let mut said = String::new();
    ours.read_to_string(&mut said).expect("text");
    (status.code(), said)
}

#[test]
fn starts_that_fail_are_errors_in_the_journal() {
    let daemon = Daemon::new(Mode::Plain);
    daemon.set("broker", 123_456);
    let folder = daemon.folder().to_str().expect("UTF-8").to_owned();
    let config = daemon.config();
    let config = config.to_str().expect("UTF-8");
    for arguments in [
        &["start", "--config", config, "--run", &folder, "--log", &folder][..],
        &["tunnels", "--tunnels", "/none/such", "--run", &folder],
        &["tunnel", "--from", "/none/such"],
    ] {
        let (status, said) = in_journal(arguments);
        assert_eq!(status, Some(2), "{arguments:?}: {said}");
        assert!(!said.is_empty(), "{arguments:?}");
        for line in said.lines() {
            assert!(line.starts_with("<3>iofog-connector: "), "{arguments:?}: {line}");
        }
    }
}

#[test]
fn systemd_is_told_which_mappings_and_that_the_api_have_no_open_port() {
    let folder = Daemon::builder(Mode::Plain).prepare();
    let manager = Manager::new(folder.folder());
    let builder = Daemon::builder(Mode::Plain).environment("NOTIFY_SOCKET", manager.path());
    let mut daemon = builder.start();
    let mappings = [(); 2].map(|()| daemon.api().add_public(60, NEVER));
    assert!(manager.receive("READY=1").ends_with("STATUS=serving"));
    assert!(daemon.stop().status.success());
    let taken = TcpListener::bind(at(mappings[1].port1)).expect("a free port");
    let api = TcpListener::bind(daemon.api_address()).expect("a free port");
    daemon.spawn();
    let ready = manager.receive("READY=1");
    assert!(ready.contains("STATUS=serving 1 of 2 mappings; "), "{ready}");
    assert!(ready.contains("; the API cannot listen on "), "{ready}");
    let other = TcpListener::bind(at(mappings[0].port1));
    assert!(other.is_err(), "a port that is said to be served");
    drop((taken, api));
    // As soon as all are open.
    until("systemd is told", || manager.receive("STATUS=").ends_with("STATUS=serving"));
    assert!(daemon.log_text().contains(" serves 1 of 2 mappings; "), "{}", daemon.log_text());
}

// Limits of the process

fn too_many_open_files_stop_neither_api_nor_recovery(mode: Mode) {
    let daemon =
        Daemon::builder(mode).wrapper(&["prlimit", "--nofile=64"]).set("userwait", 60_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let peers: Vec<Link> = (0..200)
        .map(|number| [mapping.port1, mapping.port2][number % 2])
        .map(|port| Link::plain(at(port)).expect("the kernel accepts"))
        .collect();
    until("the files are used up", || daemon.open_files() >= 40);
    let (ticks, lines) = (daemon.ticks(), daemon.log_text().lines().count());
    let start = Instant::now();
    while start.elapsed() < ms(2500) {
        daemon.api().status("all");
        assert_eq!(daemon.cli(&["status"]).status.code(), Some(0));
        thread::sleep(ms(200));
    }
    let ticks = daemon.ticks() - ticks;
    assert!(ticks < 125, "{ticks} of 250 clock ticks used: it spins");
    let lines = daemon.log_text().lines().count() - lines;
    assert!(lines < 30, "{lines} log lines in 2.5 s");
    // What runs goes on, and a change can still be stored.
    agent.send(b"answer");
    user.expect(b"answer");
    let other = daemon.api().add_public(60, NEVER);
    daemon.api().remove(&other);
    drop(peers);
    drop((user, agent));
    daemon.session(&mapping);
}

#[test]
fn soft_limit_of_files_is_raised_to_the_hard_one() {
    let daemon = Daemon::builder(Mode::Plain).wrapper(&["prlimit", "--nofile=32:4096"]).start();
    let mapping = daemon.api().add_public(200, NEVER);
    let mut tunnels: Vec<Agent> = (0..100).map(|_| daemon.tunnel(&mapping)).collect();
    tunnels.iter_mut().for_each(Agent::beat_and_answer);
    let limits = format!("/proc/{}/limits", daemon.pid().as_raw_nonzero());
    let limits = fs::read_to_string(limits).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("4096"), "{line}");
}

#[test]
fn api_that_cannot_listen_is_a_warning_in_the_status_until_it_can() {
    let mut daemon = Daemon::builder(Mode::Plain).prepare();
    let holder = TcpListener::bind(daemon.api_address()).unwrap();
    daemon.spawn();
    until("the control socket answers", || daemon.control().try_connect().is_ok());
    let warned = || {
        let state = daemon.control().state();
        let warnings = state["warnings"].as_array().unwrap().clone();
        let cannot = format!("the API cannot listen on {}", daemon.api_address());
        warnings.iter().any(|warning| warning.as_str().unwrap().starts_with(&cannot))
    };
    assert!(warned());
    let table = daemon.cli(&["status"]);
    assert!(text(&table).contains("the API cannot listen on"), "{}", text(&table));
    drop(holder);
    until("the API listens", || daemon.api().try_connect().is_ok());
    until("the warning is gone", || !warned());
    let state = daemon.control().state();
    let told = |word: &str| {
        let mut events = state["events"].as_array().unwrap().iter();
        events.any(|one| one["event"] == word && one["mapping"].is_null())
    };
    assert!(told("port-inactive") && told("port-back"), "{}", state["events"]);
}

#[test]
fn core_files_that_cannot_be_turned_off_are_warned_of_in_the_log() {
    if !Command::new("strace").arg("-V").output().is_ok_and(|out| out.status.success()) {
        not_installed("strace");
        return;
    }
    let strace = ["strace", "-f", "-o", "/dev/null", "-e", "trace=prlimit64", "-e"];
    // Which call it is depends on what the C library asks for before.
    let program = binary();
    let trial = Command::new("strace")
        .args(["-e", "trace=prlimit64"])
        .args(&program)
        .args(["start", "--config", "/nonexistent"])
        .output()
        .unwrap();
    let trial = String::from_utf8_lossy(&trial.stderr).into_owned();
    let is_it = |line: &str| line.starts_with("prlimit64(0, RLIMIT_CORE, {");
    let number = trial.lines().filter(|line| line.starts_with("prlimit64")).position(is_it);
    let number = number.expect("core files are turned off") + 1;
    let inject = format!("inject=prlimit64:error=EPERM:when={number}");
    let mut daemon =
        Daemon::builder(Mode::Plain).wrapper(&[&strace[..], &[&inject]].concat()).start();
    assert!(daemon.log_text().contains("core files, which may hold passcodes"));
    daemon.control().post("/api/v2/commandline", "command=stop").ok();
    daemon.wait();
}

#[test]
fn passcodes_are_in_no_argument_and_no_core_file() {
    let daemon = Daemon::new(Mode::Plain);
    let limits = format!("/proc/{}/limits", daemon.pid().as_raw_nonzero());
    let limits = fs::read_to_string(limits).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    // With 0 a program named in core_pattern would still get one.
    let words: Vec<_> = line.split_whitespace().collect();
    let expected = if words[5] == "0" { "0" } else { "1" };
    assert_eq!(words[4], expected, "{line}");
}

#[test]
fn two_daemons_live_side_by_side() {
    let (one, two) = (Daemon::new(Mode::Plain), Daemon::new(Mode::Tls));
    let first = one.api().add_public(60, NEVER);
    let second = two.api().add_public(60, NEVER);
    one.session(&first);
    two.session(&second);
    assert_eq!(one.api().status("all")["mappings"], 1);
}

#[test]
fn one_configuration_folder_has_one_daemon() {
    let first = Daemon::new(Mode::Plain);
    let mapping = first.api().add_public(60, 200_000);
    let config = first.config();
    let other = Daemon::builder(Mode::Plain).prepare();
    // Another run folder and other ports, as a second container would have.
    let run = other.run();
    let arguments = ["--config", config.to_str().unwrap(), "--run", run.to_str().unwrap()];
    let log = ["--log", run.to_str().unwrap(), "--syslog", "none", "start"];
    // One that starts all the same must not run for ever.
    let mut second = Command::new("timeout");
    second.arg("20").args(binary()).args([&arguments[..], &log[..]].concat());
    let output = second.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let pid = first.pid().as_raw_nonzero().to_string();
    for named in [config.to_str().unwrap(), run.to_str().unwrap(), &format!("process {pid}")] {
        assert!(said.contains(named), "{named}: {said}");
    }
    first.session(&mapping);
}

#[test]
fn second_daemon_on_one_state_file_is_told_of_the_first() {
    let first = Daemon::new(Mode::Plain);
    first.api().add_public(60, 200_000);
    // Another folder, which a link leads from to the first one's file.
    let mut second = Daemon::builder(Mode::Plain).prepare();
    let link = second.config().join("configs.json");
    std::os::unix::fs::symlink(first.config().join("configs.json"), link).unwrap();
    second.spawn();
    let exit = second.wait();
    assert_eq!(exit.status.code(), Some(1), "{}", exit.stderr);
    let (pid, config) = (first.pid().as_raw_nonzero(), first.config());
    for named in [&format!("process {pid}"), config.to_str().unwrap()] {
        assert!(exit.stderr.contains(named), "{named}: {}", exit.stderr);
    }
}

#[test]
fn faults_of_a_start_have_the_programs_name_before_each_line() {
    let bad = [("iofog-connector.conf", "{"), ("configs.json", "[]"), ("server-key.pem", "x")];
    for (name, content) in bad {
        let mut daemon = Daemon::builder(Mode::Tls).prepare();
        daemon.write(name, content);
        // At a pipe, where the log goes to as well, as to a file.
        for pipe in [false, true] {
            let said = if pipe {
                let mut folders = Vec::new();
                for (name, folder) in [
                    ("--config", daemon.config()),
                    ("--run", daemon.run()),
                    ("--log", daemon.log()),
                ] {
                    folders.extend([name.to_owned(), folder.to_str().unwrap().to_owned()]);
                }
                let mut start = Command::new("timeout");
                start.arg("20").args(binary()).args(&folders).args(["--syslog", "none", "start"]);
                let output = start.output().unwrap();
                assert_eq!(output.status.code(), Some(2), "{}", text(&output));
                String::from_utf8_lossy(&output.stderr).into_owned()
            } else {
                daemon.spawn();
                daemon.wait().stderr
            };
            assert!(said.contains(name), "{said}");
            let lines = said.lines().filter(|line| !line.starts_with("iofog-connector: "));
            assert_eq!(lines.collect::<Vec<_>>(), [""; 0], "{said}");
        }
        if name != "iofog-connector.conf" {
            assert!(daemon.log_text().contains(name), "the log has it too");
        }
    }
}

#[test]
fn log_folder_that_cannot_be_used_is_said_by_start_check_and_status() {
    let own = Folder::new();
    let place = own.join("log");
    for (folder, why) in [
        ("file", "is a file, where a folder is expected"),
        ("file/deeper", "is a file, where a folder is expected"),
        ("taken", "it is a folder, where a file is expected"),
    ] {
        fs::create_dir_all(place.join("taken/iofog-connector.log")).unwrap();
        fs::write(place.join("file"), "").unwrap();
        let folder = place.join(folder);
        // A cage would not reach a folder that is made later.
        let daemon = Daemon::builder(Mode::Plain).set("sandbox", "off").log(&folder).start();
        let file = folder.join("iofog-connector.log").display().to_string();
        let state = daemon.control().state();
        let warnings = state["warnings"].to_string();
        let check = daemon.cli(&["check", "--log", folder.to_str().unwrap()]);
        assert!(check.status.success(), "it is a warning");
        let check = String::from_utf8_lossy(&check.stderr).into_owned();
        for said in [daemon.stderr(), warnings, check] {
            assert!(said.contains(&file) && said.contains(why), "{folder:?}: {said}");
        }
        // Mended, it is used, and the warning is gone.
        fs::remove_dir_all(&place).unwrap();
        fs::create_dir(&place).unwrap();
        daemon.api().add_public(60, NEVER);
        assert!(!daemon.control().state()["warnings"].to_string().contains(&file));
        assert!(daemon.log_text().contains("lost"), "{}", daemon.log_text());
        fs::remove_dir_all(&place).unwrap();
    }
}

#[test]
fn read_only_configuration_folder_does_not_keep_it_from_starting() {
    if !can_mount() {
        return could_not_run("no mount namespace");
    }
    let mount = r#"config=$(echo "$*" | sed 's/.*--config \([^ ]*\).*/\1/')
        mount --bind "$config" "$config" && mount -o remount,bind,ro "$config" && exec "$@""#;
    let wrapper = ["unshare", "--mount", "sh", "-c", mount, "sh"];
    let daemon = Daemon::builder(Mode::Plain).wrapper(&wrapper).start();
    let add = r#"{"type":"public","maxconnections":60,"heartbeatabsencethreshold":0}"#;
    let refused = daemon.api().post("/api/v2/mapping/add", &form(&[("mapping", add)]));
    let message = refused.failed(500);
    assert!(message.contains("read-only"), "{message}");
}

#[test]
fn start_by_a_user_to_whom_the_settings_are_closed_says_in_a_line_what_to_do() {
    if !rustix::process::geteuid().is_root() {
        return could_not_run("only root can start a program as another user");
    }
    let folder = Folder::new();
    let config = folder.join("config");
    fs::create_dir(&config).unwrap();
    fs::set_permissions(&*folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o700)).unwrap();
    let program = binary();
    let mut start = Command::new(&program[0]);
    start.args(&program[1..]).args(["start", "--config"]).arg(&config).uid(65534).gid(65534);
    let output = start.output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let expected = format!(" may not use {}: run it with sudo, or give folders", config.display());
    assert!(said.contains(&expected) && said.lines().count() == 1, "{said}");
}
