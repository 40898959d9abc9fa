//! What is logged, where, and what never is.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::common::*;
use rustix::process::Signal;

in_both_modes!(no_passcode_is_ever_logged, control_characters_are_escaped);

const NEVER: u64 = 200_000;

/// A syslogd that the test reads by hand.
fn syslogd(path: &Path) -> UnixDatagram {
    let _ = fs::remove_file(path);
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// All messages that have come.
fn messages(socket: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 8192];
    let mut all = Vec::new();
    while let Ok(count) = socket.recv(&mut buffer) {
        all.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
    }
    all
}

/// Makes the daemon log two lines at least.
fn make_noise(daemon: &Daemon) {
    let mapping = daemon.control().add_public(60, NEVER);
    daemon.control().remove(&mapping);
}

#[test]
fn lines_go_to_syslog_and_to_the_file() {
    let mut daemon = Daemon::builder(Mode::Plain).prepare();
    let socket = syslogd(&daemon.syslog());
    daemon.start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mut seen = Vec::new();
    until("syslog has the line", || {
        seen.extend(messages(&socket));
        seen.iter().any(|message| message.contains(&mapping.id))
    });
    for message in &seen {
        assert!(message.starts_with('<') && message.contains("iofog-connector["), "{message}");
    }
    assert!(daemon.log_text().contains(&mapping.id));
}

#[test]
fn syslog_absent_stopped_or_restarted_never_holds_the_daemon_up() {
    let daemon = Daemon::new(Mode::Plain);
    // Absent: it serves, and counts.
    make_noise(&daemon);
    let lost = daemon.api().state()["logLost"].as_u64().expect("logLost");
    assert!(lost > 0, "nothing was counted as lost");
    // There, but stopped: its queue fills up.
    let first = syslogd(&daemon.syslog());
    for _ in 0..400 {
        make_noise(&daemon);
    }
    assert!(daemon.api().state()["logLost"].as_u64() > Some(lost));
    assert!(!messages(&first).is_empty());
    make_noise(&daemon);
    until("it goes on", || messages(&first).iter().any(|message| message.contains("added")));
    // Restarted.
    drop(first);
    make_noise(&daemon);
    let second = syslogd(&daemon.syslog());
    make_noise(&daemon);
    until("the new one gets the lines", || {
        messages(&second).iter().any(|message| message.contains("removed"))
    });
}

#[test]
fn without_syslog_nothing_is_lost() {
    let daemon = Daemon::builder(Mode::Plain).syslog("none").start();
    make_noise(&daemon);
    assert!(daemon.log_text().contains("removed"));
    assert_eq!(daemon.api().state()["logLost"], 0);
}

#[test]
fn file_is_capped_and_one_old_file_is_kept() {
    let mut daemon = Daemon::builder(Mode::Plain).prepare();
    let old = daemon.log().join("iofog-connector.log.old");
    let line = "2026-01-01T00:00:00Z INFO  filler filler filler\n";
    let almost_full = line.repeat((1 << 20) / line.len());
    fs::write(daemon.log_file(), &almost_full).unwrap();
    fs::write(&old, "an older one").unwrap();
    daemon.start();
    for _ in 0..10 {
        make_noise(&daemon);
    }
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    assert!(size(&daemon.log_file()) < 100_000);
    assert!(size(&old) <= 1 << 20 && size(&old) > 900_000);
    let names = fs::read_dir(daemon.log()).unwrap().count();
    assert_eq!(names, 2, "more than one old file is kept");
    make_noise(&daemon);
    assert!(daemon.log_text().contains("removed"));
}

#[test]
fn file_is_opened_again_on_sighup() {
    // At this level a reload itself writes nothing.
    let daemon = Daemon::builder(Mode::Plain).set("loglevel", "error").start();
    daemon.signal(Signal::HUP);
    until("there is a file", || daemon.log_file().exists());
    let away = daemon.log().join("rotated");
    fs::rename(daemon.log_file(), &away).unwrap();
    daemon.signal(Signal::HUP);
    until("there is a new file", || daemon.log_file().exists());
    daemon.set("loglevel", "info");
    daemon.signal(Signal::HUP);
    until("the level is in force", || daemon.log_text().contains("settings reloaded"));
    make_noise(&daemon);
    let old = fs::read_to_string(&away).unwrap();
    assert!(daemon.log_text().contains("removed") && !old.contains("removed"));
}

#[test]
fn daemon_serves_without_a_log_folder() {
    let unwritable = Daemon::builder(Mode::Plain).log(Path::new("/proc/nowhere")).start();
    let mapping = unwritable.api().add_public(60, NEVER);
    unwritable.session(&mapping);
    // One that is only missing is made.
    let place = Daemon::builder(Mode::Plain).prepare();
    let missing = place.folder().join("deep/er");
    let daemon = Daemon::builder(Mode::Plain).log(&missing).start();
    assert!(!daemon.log_text().is_empty());
}

#[test]
fn loglevel_chooses_what_is_logged() {
    let lines = |level: &str| {
        let daemon = Daemon::builder(Mode::Plain).set("loglevel", level).start();
        let mapping = daemon.api().add_public(60, NEVER);
        daemon.session(&mapping);
        daemon.api().remove(&mapping);
        daemon.log_text().lines().count()
    };
    let (error, info, trace) = (lines("error"), lines("info"), lines("trace"));
    assert!(error == 0 && info > 0 && trace >= info, "{error} {info} {trace}");
}

#[test]
fn connectionlog_writes_users_and_sessions_only_when_asked() {
    for asked in [false, true] {
        let daemon =
            Daemon::builder(Mode::Plain).set("connectionlog", asked).set("userwait", 300).start();
        let mapping = daemon.api().add_public(60, NEVER);
        let mut refused = daemon.user(&mapping);
        refused.send(b"question");
        let refused_address = refused.local().to_string();
        refused.expect_closed();
        let (mut user, mut agent) = daemon.session(&mapping);
        let served_address = user.local().to_string();
        agent.send(b"answer");
        user.expect(b"answer");
        user.finish();
        agent.finish();
        user.until_end();
        for address in [refused_address, served_address] {
            let found = || daemon.log_text().lines().any(|line| line.contains(&address));
            if asked {
                until("the user's line", found);
            } else {
                assert!(!found(), "{}", daemon.log_text());
            }
        }
        assert!(daemon.log_text().contains("see that the mapping's agent runs"), "the remedy");
    }
}

/// Whatever `loglevel` leaves out of what was asked for is said.
#[test]
fn connectionlog_that_loglevel_leaves_out_is_said_and_hides_no_warning() {
    let builder = Daemon::builder(Mode::Plain).set("connectionlog", true).set("loglevel", "warn");
    let daemon = builder.set("userwait", 300).start();
    let check = daemon.cli(&["check"]);
    let check = String::from_utf8_lossy(&check.stderr).into_owned();
    for said in [check, daemon.log_text()] {
        let named = "connectionlog: its lines have level info, which loglevel leaves out";
        assert!(said.contains(named), "{said}");
    }
    let mapping = daemon.api().add_public(60, NEVER);
    let mut refused = daemon.user(&mapping);
    refused.send(b"question");
    refused.expect_closed();
    assert!(daemon.log_text().contains("see that the mapping's agent runs"));
}

/// Nobody is cut without a trace.
#[test]
fn users_and_sessions_that_a_removal_or_a_stop_cuts_are_told_of() {
    let builder = || Daemon::builder(Mode::Plain).set("connectionlog", true).set("drain", 300);
    let has = |daemon: &Daemon, parts: &[&str]| {
        let log = daemon.log_text();
        let found = log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "{parts:?}: {log}");
    };
    for is_removed in [true, false] {
        let mut daemon = builder().start();
        let mapping = daemon.api().add_public(1, NEVER);
        let (served, agent) = daemon.session(&mapping);
        let mut waiting = daemon.user(&mapping);
        waiting.send(b"question");
        let number = |name| daemon.api().number(&mapping, name);
        until("it waits", || number("counts.usersWaiting") == 1);
        if is_removed {
            daemon.api().remove(&mapping);
            waiting.expect_closed();
            has(&daemon, &["removed; cut: 1 session and 1 waiting user"]);
            let refused = daemon.api().state()["removed"]["usersRefused"].as_u64();
            assert_eq!(refused, Some(1), "who waited is counted");
        } else {
            daemon.stop();
        }
        let why = if is_removed { "its mapping was removed" } else { "the connector was stopping" };
        let [served_by, waiting_at] = [served.local(), waiting.local()].map(|at| at.to_string());
        let agent_at = agent.link.local().to_string();
        has(&daemon, &["session of", &agent_at, &served_by, "was cut after", why]);
        has(&daemon, &[&waiting_at, "closed", why]);
    }
    let mut daemon = builder().set("drain", 600_000).start();
    let mapping = daemon.api().add_public(1, NEVER);
    let (served, _agent) = daemon.session(&mapping);
    daemon.signal(Signal::TERM);
    until("it is stopping", || daemon.log_text().contains("stopping: sessions have"));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().status.code(), Some(0));
    has(&daemon, &[&served.local().to_string(), "was cut after", "the connector was stopping"]);
    let log = daemon.log_text();
    assert!(log.lines().last().is_some_and(|line| line.ends_with(" stopped")), "{log}");
}

fn control_characters_are_escaped(mode: Mode) {
    let hostile = "\u{1b}[31mred\n2026-01-01T00:00:00Z ERROR forged\r\u{7}\u{9b}\u{202e}%n";
    let mut daemon = Daemon::builder(mode).set("loglevel", "trace").prepare();
    // An id from an old file, whose ports cannot be opened, so that it is complained of.
    let state = serde_json::json!({"mappings": [{
        "id": hostile, "port1": 1, "port2": 2, "maxconnectionsport1": 60,
        "maxconnectionsport2": 0, "passcodeport1": hostile, "passcodeport2": "",
        "heartbeatabsencethresholdport1": 0, "heartbeatabsencethresholdport2": 0,
    }]});
    daemon.write("configs.json", &state.to_string());
    daemon.start();
    let api = daemon.api();
    api.post("/api/v2/mapping/remove", &form(&[("mappingid", &format!("{hostile}x"))])).failed(404);
    api.post("/api/v2/commandline", &form(&[("command", hostile)])).failed(400);
    let mapping = api.add_public(60, NEVER);
    let mut agent = daemon.agent(mapping.port1);
    agent.send(hostile.repeat(3).as_bytes());
    agent.expect_closed();
    let status = daemon.cli(&["status"]);
    let table = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(!table.contains('\u{1b}') && !table.contains("\n2026-01-01"), "{table:?}");
    api.post("/api/v2/mapping/remove", &form(&[("mappingid", hostile)])).ok();
    let log = daemon.log_text();
    assert!(log.contains("red"), "the hostile id was not logged: the test proves nothing");
    for line in log.lines() {
        assert!(line.starts_with("20") && !line.starts_with("2026-01-01"), "forged: {line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

fn no_passcode_is_ever_logged(mode: Mode) {
    let mut daemon = Daemon::builder(mode)
        .set("loglevel", "trace")
        .set("connectionlog", true)
        .set("userwait", 300)
        .prepare();
    let socket = syslogd(&daemon.syslog());
    daemon.start();
    let mut syslog = Vec::new();
    let public = daemon.api().add_public(1, NEVER);
    let private = daemon.api().add_private(1, NEVER);
    let direct = daemon.api().post("/api/v2/direct/add", "").ok();
    let passkey = direct["passkey"].as_str().unwrap().to_owned();
    let body = form(&[
        ("id", direct["id"].as_str().unwrap()),
        ("passkey", &passkey),
        ("ip", "10.0.0.1"),
        ("port", "1"),
        ("certificate", "x"),
    ]);
    daemon.api().post("/api/v2/direct", &body).ok();
    syslog.extend(messages(&socket));
    // Right ones, one too many, half ones, wrong ones, on the wrong side, on the API.
    let session = daemon.session(&public);
    assert!(!daemon.agent(public.port1).is_accepted(&public.passcode1));
    daemon.pair(&private);
    daemon.agent(private.port1).is_accepted(&private.passcode2);
    daemon.agent(public.port1).send(&public.passcode1.as_bytes()[..20]);
    let mut http = Controller::tcp(at(public.port1), None).connect();
    let _ = http.link.try_send(public.passcode1.as_bytes());
    drop(http);
    let remove = form(&[("mappingid", &public.passcode1)]);
    daemon.api().post("/api/v2/mapping/remove", &remove).failed(404);
    drop(session);
    syslog.extend(messages(&socket));
    daemon.signal(Signal::HUP);
    daemon.restart();
    daemon.api().remove(&public);
    daemon.stop();
    syslog.extend(messages(&socket));
    let command = daemon.stderr() + &daemon.log_text() + &syslog.join("\n");
    assert!(command.contains(&public.id), "nothing was logged: the test proves nothing");
    let secrets = [&public.passcode1, &private.passcode1, &private.passcode2, &passkey];
    for secret in secrets {
        // Neither whole nor the half that one agent sent.
        assert!(!command.contains(&secret[..20]), "a passcode is logged");
    }
}

#[test]
fn storm_of_refusals_does_not_flood_the_log() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, NEVER);
    let before = daemon.log_text().lines().count();
    let wrong = "x".repeat(mapping.passcode1.len());
    let mut refused: Vec<Agent> = (0..500)
        .map(|_| {
            let mut agent = daemon.agent(mapping.port1);
            agent.send(wrong.as_bytes());
            agent
        })
        .collect();
    refused.iter_mut().for_each(|agent| agent.expect_closed());
    let lines = daemon.log_text().lines().count() - before;
    assert!(lines < 50, "{lines} lines for 500 refusals");
}

#[test]
fn storms_on_two_mappings_in_turn_leave_the_logs_history_alone() {
    let daemon = Daemon::new(Mode::Plain);
    let mappings = [daemon.api().add_public(60, NEVER), daemon.api().add_public(60, NEVER)];
    let wrong = "x".repeat(mappings[0].passcode1.len());
    let storm = || {
        let refuse = |number: usize| {
            let mut agent = daemon.agent(mappings[number % 2].port1);
            agent.send(wrong.as_bytes());
            agent
        };
        (0..400).map(refuse).collect::<Vec<_>>().iter_mut().for_each(|agent| agent.expect_closed());
    };
    storm();
    // What the daemon itself does is told in the midst of it, and so is what is new.
    let added = daemon.api().add_public(60, NEVER);
    let mut first = daemon.agent(added.port1);
    first.send(wrong.as_bytes());
    first.expect_closed();
    storm();
    let count = |what: &str| daemon.log_text().lines().filter(|line| line.contains(what)).count();
    for mapping in &mappings {
        let lines = count(&format!("{}: agent", mapping.id));
        assert!((1..=20).contains(&lines), "{lines} lines for 400 refusals");
    }
    assert_eq!(count(&format!("mapping {} added", added.id)), 1);
    assert_eq!(count(&format!("{}: agent", added.id)), 1);
}

/// Nobody looks into a log for lines that are not there.
#[test]
fn log_file_that_can_no_longer_be_written_is_told_once_and_when_it_is_over() {
    let daemon = Daemon::builder(Mode::Plain).syslog("none").start();
    assert_eq!(daemon.stderr(), "");
    let aside = daemon.folder().join("aside");
    fs::rename(daemon.log(), &aside).unwrap();
    fs::write(daemon.log(), "in the folder's place").unwrap();
    daemon.signal(Signal::HUP);
    let told = || daemon.stderr().matches("cannot be written").count();
    until("it is told on stderr", || told() > 0);
    let warnings = daemon.cli(&["status"]);
    let warnings = String::from_utf8_lossy(&warnings.stdout).into_owned();
    assert!(warnings.contains("warning: the log file "), "{warnings}");
    fs::remove_file(daemon.log()).unwrap();
    fs::rename(&aside, daemon.log()).unwrap();
    daemon.signal(Signal::HUP);
    until("it is over", || daemon.log_text().contains("the log file can be written again"));
    assert_eq!(told(), 1, "{}", daemon.stderr());
}
