//! Time: no deadline follows the wall clock, which may be wrong or jump; and a daemon that stood
//! still for a while goes on where it was. The wall clock is libfaketime's (Debian package
//! `faketime`); without it, what needs it is skipped.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;
use rustix::process::Signal;
use rustls::ClientConfig;
use serde_json::Value;

in_both_modes!(
    clock_that_jumps_disturbs_nobody,
    start_at_a_wrong_clock_serves,
    daemon_that_stood_still_loses_nobody,
);

const NEVER: u64 = 200_000;
const STATUS: &str = "/api/v2/status";
const PUBLIC: &str = r#"{"type":"public","maxconnections":60,"heartbeatabsencethreshold":200000}"#;

const BACK: &str = "-30y";
const FORWARD: &str = "+30y";
const RIGHT: &str = "+0";

/// A wall clock for processes that are started with its environment.
struct Clock {
    library: PathBuf,
    file: PathBuf,
    _folder: Folder,
}

impl Clock {
    /// `None`, with the reason printed, where there is none.
    fn new(time: &str) -> Option<Self> {
        let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let library = folders
            .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
            .find(|path| path.exists());
        let Some(library) = library else {
            not_installed("libfaketime");
            return None;
        };
        if std::env::var_os("IOFOG_CONNECTOR_BIN").is_some() {
            could_not_run("another binary may not load this machine's libfaketime");
            return None;
        }
        let folder = Folder::new();
        let clock = Clock { library, file: folder.join("clock"), _folder: folder };
        clock.turn(time);
        Some(clock)
    }

    /// Turns it, at once and for all.
    fn turn(&self, time: &str) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{time}\n")).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }

    fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("LD_PRELOAD", self.library.to_str().unwrap().to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap().to_owned()),
            ("FAKETIME_NO_CACHE", "1".into()),
            // The kernel's steady clock is steady whatever the wall clock does.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }

    /// A daemon that lives by this clock.
    fn builder(&self, mode: Mode) -> Builder {
        // In its sandbox it could not read the clock's file.
        let builder = Daemon::builder(mode).set("sandbox", "off");
        self.environment()
            .iter()
            .fold(builder, |builder, (name, value)| builder.environment(name, value))
    }
}

/// A daemon that begins at this time.
fn daemon_at(
    mode: Mode,
    time: &str,
    prepare: impl FnOnce(Builder) -> Builder,
) -> Option<(Daemon, Clock)> {
    let clock = Clock::new(time)?;
    let mut daemon = prepare(clock.builder(mode)).prepare();
    daemon.start();
    Some((daemon, clock))
}

/// The answer to a success; its timestamp may be any.
#[track_caller]
fn success(answer: &Response) -> Value {
    let value = answer.json();
    assert_eq!(answer.status, 200, "{value}");
    value
}

#[track_caller]
fn add(daemon: &Daemon, json: &str) -> Mapping {
    let value = success(&daemon.control().post("/api/v2/mapping/add", &form(&[("mapping", json)])));
    let text = |name: &str| value[name].as_str().expect(name).to_owned();
    let port = |name: &str| u16::try_from(value[name].as_u64().expect(name)).unwrap();
    Mapping {
        id: text("id"),
        port1: port("port1"),
        port2: port("port2"),
        passcode1: text("passcode1"),
        passcode2: text("passcode2"),
    }
}

fn state(daemon: &Daemon) -> Value {
    success(&daemon.control().get(STATUS))
}

fn tunnels(daemon: &Daemon, mapping: &Mapping, doing: &str) -> u64 {
    let state = state(daemon);
    let mappings = state["mappings"].as_array().unwrap();
    let one = mappings.iter().find(|one| one["id"] == mapping.id.as_str()).unwrap();
    one["sides"][0]["tunnels"][doing].as_u64().unwrap()
}

fn idle(daemon: &Daemon, mapping: &Mapping) -> u64 {
    tunnels(daemon, mapping, "idle")
}

fn in_use(daemon: &Daemon, mapping: &Mapping) -> u64 {
    tunnels(daemon, mapping, "inUse")
}

/// The year in which the daemon lives.
fn year(daemon: &Daemon) -> u64 {
    1970 + state(daemon)["timestamp"].as_u64().unwrap() / 31_556_952_000
}

/// The year of the last line of the log, once it is as expected.
#[track_caller]
fn until_logged_in(daemon: &Daemon, year: u64) {
    let mapping = add(daemon, PUBLIC);
    until("a line of that year", || {
        let log = daemon.log_text();
        let line = log.lines().rev().find(|line| line.contains(&mapping.id));
        line.is_some_and(|line| line.starts_with(&year.to_string()))
    });
    let remove = form(&[("mappingid", &mapping.id)]);
    success(&daemon.control().post("/api/v2/mapping/remove", &remove));
}

// The wall clock

fn clock_that_jumps_disturbs_nobody(mode: Mode) {
    let wait = |builder: Builder| builder.set("userwait", 60_000);
    let Some((daemon, clock)) = daemon_at(mode, RIGHT, wait) else { return };
    let mapping = add(&daemon, PUBLIC);
    let busy = add(&daemon, PUBLIC);
    let (mut user, mut agent) = daemon.session(&busy);
    let mut tunnels: Vec<Agent> = (0..3).map(|_| daemon.tunnel(&mapping)).collect();
    let beat = |tunnels: &mut Vec<Agent>| tunnels.iter_mut().for_each(Agent::beat_and_answer);
    beat(&mut tunnels);
    let now = year(&daemon);
    let start = Instant::now();
    for (time, expected) in [
        (FORWARD, now + 30),
        (BACK, now - 30),
        (FORWARD, now + 30),
        (RIGHT, now),
        (BACK, now - 30),
        (RIGHT, now),
    ] {
        let mut waiting = daemon.user(&busy);
        waiting.send(b"question");
        until("the user waits", || state(&daemon)["mappings"][1]["counts"]["usersWaiting"] == 1);
        clock.turn(time);
        // The years of 365 days that libfaketime counts leave out a week of leap days.
        until("the clock is turned", || year(&daemon).abs_diff(expected) <= 1);
        until_logged_in(&daemon, year(&daemon));
        // Nobody is closed, in use, idle or waiting.
        user.expect_silence(ms(100));
        beat(&mut tunnels);
        user.send(b"more");
        agent.expect_record(b"more");
        agent.send(b"answer");
        user.expect_record(b"answer");
        assert_eq!(idle(&daemon, &mapping), 3, "{time}");
        daemon.tunnel(&busy).expect_record(b"question");
        drop(waiting);
        // Newcomers are served, in TLS after a handshake.
        // The rhythm of these heartbeats is the machine's, so that a tunnel may look overdue.
        beat(&mut tunnels);
        let mut user = daemon.user(&mapping);
        user.send(b"question");
        let mut oldest = tunnels.remove(0);
        oldest.expect_record(b"question");
        tunnels.push(daemon.tunnel(&mapping));
    }
    let uptime = state(&daemon)["uptime"].as_u64().unwrap();
    assert!(uptime <= start.elapsed().as_secs() + 60, "{uptime} s");
}

#[test]
fn deadlines_come_in_time_whatever_the_clock_does() {
    thread::scope(|scope| {
        for time in [BACK, FORWARD] {
            scope.spawn(move || {
                until("the clock is turned before a deadline", || deadlines_come_in_time(time));
            });
        }
    });
}

/// Lets each deadline begin, turns the clock, and expects it after its own time. False where the machine
/// was too busy to turn it before the first.
fn deadlines_come_in_time(time: &str) -> bool {
    let short = |builder: Builder| builder.set("userwait", 3000).set("finwait", 3000);
    let Some((daemon, clock)) = daemon_at(Mode::Tls, RIGHT, short) else { return true };
    let absent = PUBLIC.replace("200000", "3000");
    let [absent, full, fading] = [absent.as_str(), PUBLIC, PUBLIC].map(|json| add(&daemon, json));
    let start = Instant::now();
    let mut silent = daemon.tunnel(&absent);
    let mut waiting = daemon.user(&full);
    waiting.send(b"question");
    let (mut user, mut agent) = daemon.session(&fading);
    agent.send(b"answer");
    user.expect_record(b"answer");
    agent.finish();
    user.expect_closed();
    let mut mute = Link::plain(at(full.port1)).unwrap();
    let mut slow = Link::plain(daemon.api_address()).unwrap();
    clock.turn(time);
    if start.elapsed() > ms(2700) {
        return false;
    }
    thread::scope(|scope| {
        let ends = [
            ("heartbeat threshold", &mut silent.link, 3),
            ("userwait", &mut waiting, 3),
            ("passcode", &mut mute, 10),
            ("API request", &mut slow, 10),
        ];
        for (what, link, seconds) in ends {
            scope.spawn(move || {
                let (_, _) = link.rest();
                let elapsed = start.elapsed();
                println!("{time}: {what} of {seconds} s after {elapsed:?}");
                assert!(elapsed > ms(seconds * 1000 - 300), "{what}: {elapsed:?}");
            });
        }
        // The user has been told of its agent's end, and does not end.
        until("the half-closed session is over", || in_use(&daemon, &fading) == 0);
        let elapsed = start.elapsed();
        println!("{time}: finwait of 3 s after {elapsed:?}");
        assert!(elapsed > ms(2700), "finwait: {elapsed:?}");
    });
    drop(user);
    true
}

fn start_at_a_wrong_clock_serves(mode: Mode) {
    let this = Daemon::new(Mode::Plain);
    let now = year(&this);
    for (time, expected) in [(BACK, now - 30), (FORWARD, now + 30), ("@1970-01-01 00:00:30", 1970)]
    {
        let Some((mut daemon, clock)) = daemon_at(mode, time, |builder| builder) else { return };
        assert!(year(&daemon).abs_diff(expected) <= 1, "{time}: {}", year(&daemon));
        // The certificate made at that time is good for clients whose clock is right.
        let mapping = add(&daemon, PUBLIC);
        daemon.session(&mapping);
        until_logged_in(&daemon, year(&daemon));
        // What it stored is there at another time, and nothing is made anew.
        let certificate = fs::read(daemon.config().join("server-cert.pem")).ok();
        clock.turn(RIGHT);
        daemon.restart();
        assert!(year(&daemon).abs_diff(now) <= 1);
        daemon.session(&mapping);
        assert_eq!(fs::read(daemon.config().join("server-cert.pem")).ok(), certificate);
    }
}

/// Whether the API answers a caller with this identity.
fn is_answered(daemon: &Daemon, config: Arc<ClientConfig>) -> bool {
    let api = Controller::tcp(daemon.api_address(), Some(config));
    let Ok(mut connection) = api.try_connect() else { return false };
    let request = format!("GET {STATUS} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let sent = connection.link.try_send(request.as_bytes());
    sent.is_ok() && matches!(connection.link.record(), Got::Bytes(_))
}

/// Certificates of Controllers have dates, so that a wrong clock keeps Controllers out; it must
/// not keep out anybody else, and the log must say what to do.
#[test]
fn wrong_clock_refuses_controllers_certificates_and_says_why() {
    for (time, reason) in [(BACK, "not valid yet"), (FORWARD, "has expired")] {
        let authority = Authority::new("controllers");
        let pem = authority.pem();
        let guarded = |builder: Builder| {
            builder.file("controllers.pem", pem).set("controllerca", "controllers.pem")
        };
        let Some(clock) = Clock::new(RIGHT) else { return };
        let mut daemon = guarded(clock.builder(Mode::Tls)).prepare();
        // The API asks for a certificate from the start.
        daemon.spawn();
        until("the daemon answers", || daemon.control().try_connect().is_ok());
        let identity = authority.sign_for_years(&["controller"], 2020, 2040);
        let certificate = daemon.config().join("server-cert.pem");
        let config = trusting_with_identity(&certificate, &identity);
        until("the API answers", || is_answered(&daemon, config.clone()));
        let mapping = add(&daemon, PUBLIC);
        let (mut user, mut agent) = daemon.session(&mapping);
        let mut kept = Controller::tcp(daemon.api_address(), Some(config.clone())).connect();
        success(&kept.get(STATUS));

        clock.turn(time);
        let before = daemon.log_text().len();
        assert!(!is_answered(&daemon, config.clone()), "{time}: a certificate out of its time");
        until("the log says why", || {
            let log = daemon.log_text();
            let lines = &mut log[before..].lines();
            lines.any(|line| line.contains(reason) && line.contains("clock says"))
        });
        // A caller let in before, the command line, agents and users are not concerned.
        success(&kept.get(STATUS));
        state(&daemon);
        agent.send(b"answer");
        user.expect_record(b"answer");
        daemon.session(&mapping);

        clock.turn(RIGHT);
        assert!(is_answered(&daemon, config), "{time}: not let in again");
    }
}

/// Whoever looks at `status` learns why agents and users stay away, and so does the log's reader.
#[test]
fn certificate_that_expires_while_the_daemon_runs_is_a_warning_and_a_line() {
    let authority = Authority::new("the authority");
    let identity = authority.sign_for_years(&["localhost", "127.0.0.1"], 2020, 2040);
    let chain = identity.pem() + &authority.pem();
    let Some((daemon, clock)) = daemon_at(Mode::Tls, RIGHT, |builder| {
        builder.file("server-cert.pem", chain).file("server-key.pem", identity.key_pem())
    }) else {
        return;
    };
    let expired = "server-cert.pem: expired at 2040-01-01T00:00:00Z";
    let is_warned = || state(&daemon)["warnings"].to_string().contains(expired);
    assert!(!is_warned(), "{}", state(&daemon));
    clock.turn(FORWARD);
    assert!(is_warned(), "{}", state(&daemon));
    until("the log says it", || daemon.log_text().contains(expired));
    clock.turn(RIGHT);
    assert!(!is_warned());
    clock.turn(BACK);
    assert!(state(&daemon)["warnings"].to_string().contains("not valid before"));
    assert_eq!(daemon.log_text().matches(expired).count(), 1, "{}", daemon.log_text());
}

/// A running `tunnel` that lives by a clock.
struct Tunnel(Child);

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The agent's side: a pinned certificate is good at any time, one that an authority has signed
/// at its own.
#[test]
fn tunnel_command_at_a_wrong_clock_trusts_what_is_pinned() {
    let authority = Authority::new("authority");
    let identity = authority.sign_for_years(&["localhost"], 2020, 2040);
    let Some(clock) = Clock::new(RIGHT) else { return };
    let mut daemon = Daemon::builder(Mode::Tls)
        .file("server-cert.pem", identity.pem())
        .file("server-key.pem", identity.key_pem())
        .file("authority.pem", authority.pem())
        .prepare();
    daemon.spawn();
    until("the daemon answers", || daemon.control().try_connect().is_ok());
    let mapping = add(&daemon, PUBLIC);
    let service = Service::echo();
    let passcode = daemon.folder().join("passcode");
    fs::write(&passcode, &mapping.passcode1).unwrap();
    for (number, (time, trusted, reason)) in [
        (RIGHT, "authority.pem", None),
        (BACK, "server-cert.pem", None),
        (FORWARD, "server-cert.pem", None),
        (BACK, "authority.pem", Some("clock")),
        (FORWARD, "authority.pem", Some("clock")),
    ]
    .into_iter()
    .enumerate()
    {
        clock.turn(time);
        let stderr = daemon.folder().join(format!("tunnel-{number}"));
        let command = binary();
        let child = Command::new(&command[0])
            .args(&command[1..])
            .args(["tunnel", "--connector", &format!("localhost:{}", mapping.port1)])
            .args(["--target", &service.address.to_string(), "--connections", "1"])
            .args(["--sandbox", "off", "--passcode-file"])
            .arg(&passcode)
            .arg("--ca")
            .arg(daemon.config().join(trusted))
            .envs(clock.environment())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        let tunnel = Tunnel(child);
        let log = || fs::read_to_string(&stderr).unwrap();
        let what = reason.unwrap_or("connected to");
        let deadline = Instant::now() + PATIENCE;
        while !log().contains(what) {
            assert!(Instant::now() < deadline, "{time}, {trusted}: {}", log());
            thread::sleep(ms(10));
        }
        assert_eq!(log().contains("connected to"), reason.is_none(), "{time}: {}", log());
        if reason.is_none() {
            let mut user =
                Link::tls(at(mapping.port2), &trusting(&daemon.config().join("authority.pem")))
                    .expect("a user");
            user.send(b"echo");
            user.expect(b"echo");
        }
        drop(tunnel);
        until("its tunnel is gone", || idle(&daemon, &mapping) == 0);
    }
}

// A daemon that stands still

/// Stopped for longer than heartbeat thresholds and intervals last: what came meanwhile is looked
/// at before anybody is taken for absent, overdue or dead.
fn daemon_that_stood_still_loses_nobody(mode: Mode) {
    let daemon = Daemon::new(mode);
    let json = PUBLIC.replace("60", "12").replace("200000", "2000");
    let mapping = add(&daemon, &json);
    let (mut user, mut agent) = daemon.session(&mapping);
    let (mut other_user, mut other_agent) = daemon.session(&mapping);
    let mut tunnels: Vec<Agent> = (0..10).map(|_| daemon.tunnel(&mapping)).collect();
    for _ in 0..3 {
        // Their interval is known, so that they are overdue soon.
        tunnels.iter_mut().for_each(Agent::beat_and_answer);
        thread::sleep(ms(50));
    }
    // Longer than the rhythm of its housekeeping, too.
    daemon.signal(Signal::STOP);
    let still = Instant::now();
    let (up, down) = (noise(1, 3 << 20), noise(2, 3 << 20));
    let mut beats = 0;
    let mut newcomer = None;
    thread::scope(|scope| {
        let (up, down) = (&up, &down);
        let (other_user, other_agent) = (&mut other_user, &mut other_agent);
        scope.spawn(move || {
            assert_same(&other_agent.exchange(down, up.len()), up, "to the agent");
        });
        scope.spawn(move || {
            assert_same(&other_user.exchange(up, down.len()), down, "to the user");
        });
        while still.elapsed() < ms(5600) {
            tunnels.iter_mut().for_each(Agent::beat);
            beats += 1;
            agent.beat();
            // One more than are allowed asks for a place while nobody is overdue.
            newcomer.get_or_insert_with(|| Link::plain(at(mapping.port1)).unwrap());
            thread::sleep(ms(200));
        }
        if mode == Mode::Plain {
            newcomer.as_mut().unwrap().send(mapping.passcode1.as_bytes());
        }
        daemon.signal(Signal::CONT);
    });
    for tunnel in &mut tunnels {
        assert_eq!(tunnel.exactly(4 * beats), BEAT.repeat(beats));
        tunnel.beat_and_answer();
    }
    assert_eq!(idle(&daemon, &mapping), 10);
    assert_eq!(agent.exactly(4 * beats), BEAT.repeat(beats));
    user.send(b"more");
    agent.expect(b"more");
    agent.send(b"answer");
    user.expect(b"answer");
    if mode == Mode::Plain {
        newcomer.unwrap().expect_closed();
    }
    until("the log tells of it", || daemon.log_text().contains("was held up for"));
}

#[test]
fn watchdog_is_not_fed_while_the_daemon_stands_still() {
    let folder = Daemon::builder(Mode::Plain).prepare();
    let manager = Manager::new(folder.folder());
    let fed = |within: Duration| manager.receive_within(within, "WATCHDOG=1").is_some();
    let mut daemon = Daemon::builder(Mode::Plain)
        .environment("NOTIFY_SOCKET", manager.path())
        .environment("WATCHDOG_USEC", "400000")
        .prepare();
    daemon.spawn();
    assert!(fed(PATIENCE) && fed(PATIENCE));
    daemon.signal(Signal::STOP);
    // What was sent before the signal came.
    while fed(ms(100)) {}
    assert!(!fed(ms(1500)), "fed by a process that is stopped");
    daemon.signal(Signal::CONT);
    assert!(fed(PATIENCE) && fed(PATIENCE));
    // It has forgotten nothing.
    daemon.control().add_public(60, NEVER);
}
