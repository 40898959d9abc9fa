//! What is logged, where, and what never is.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::common::*;
use rustix::process::Signal;
use serde_json::{Value, json};

in_both_modes!(
    no_passcode_is_ever_logged,
    control_characters_are_escaped,
    lines_of_json_say_what_they_are_about,
);

const NEVER: u64 = 200_000;

/// As long as a passcode.
const WRONG: &[u8] = b"wrong-wrong-wrong-wrong-wrong-wrong-";

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

/// Each line of the log file, which is JSON.
fn objects(daemon: &Daemon) -> Vec<Value> {
    let log = daemon.log_text();
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect()
}

/// The line whose members are these, among others.
#[track_caller]
fn object(daemon: &Daemon, members: &Value) -> Value {
    let members = members.as_object().unwrap();
    eventually("the line", || {
        let has = |line: &Value| members.iter().all(|(name, value)| line[name] == *value);
        objects(daemon).into_iter().find(has)
    })
}

fn named(daemon: &Daemon, name: &str) -> Mapping {
    daemon.api().add(&format!(
        r#"{{"type":"public","maxconnections":60,"heartbeatabsencethreshold":{NEVER},"name":"{name}"}}"#
    ))
}

/// An agent with a wrong passcode.
fn knock(daemon: &Daemon, mapping: &Mapping) {
    let mut agent = daemon.agent(mapping.port1);
    agent.send(WRONG);
    agent.expect_closed();
}

fn lines_of_json_say_what_they_are_about(mode: Mode) {
    let builder = Daemon::builder(mode).set("logformat", "json").set("connectionlog", true);
    let daemon = builder.start();
    let mapping = named(&daemon, "web");
    knock(&daemon, &mapping);
    let place = |port: u16| json!({"mapping": mapping.id, "name": "web", "port": port, "peer": "127.0.0.1"});
    let with = |mut place: Value, event: &str, level: &str| {
        (place["event"], place["level"]) = (event.into(), level.into());
        place
    };
    let refused = object(&daemon, &with(place(mapping.port1), "agent-refused", "warn"));
    let message = refused["message"].as_str().unwrap();
    assert!(message.starts_with("web: agent 127.0.0.1 refused on port "), "{message}");
    assert!(refused["time"].as_str().is_some_and(|time| time.len() == 20), "{refused}");
    assert_eq!(refused.as_object().unwrap().len(), 8, "no count of one, and no other member");
    object(&daemon, &with(place(mapping.port1), "connection-closed", "info"));
    drop(daemon.session(&mapping));
    object(&daemon, &with(place(mapping.port2), "session-ended", "info"));
    // What is of no mapping names none.
    let started = object(&daemon, &json!({"event": "started"}));
    assert_eq!((started.get("mapping"), started.get("peer")), (None, None));
    assert_eq!(objects(&daemon).iter().filter(|line| line["event"] == "mapping-added").count(), 1);
}

#[test]
fn words_of_the_log_are_those_of_the_page() {
    let page = include_str!("../../docs/protocol.md");
    let (_, part) = page.split_once("### Logs for programs").expect("the part");
    for word in ["session-ended", "connection-closed", "handed-over"] {
        assert!(part.contains(&format!("`{word}`")), "{word}");
    }
    for key in ["time", "level", "event", "mapping", "name", "port", "peer", "count", "message"] {
        assert!(part.contains(&format!("| `{key}` |")), "{key}");
    }
}

#[test]
fn what_is_counted_instead_of_written_has_its_count() {
    let mut daemon = Daemon::builder(Mode::Plain).set("logformat", "json").start();
    let mapping = named(&daemon, "web");
    let mut agents: Vec<_> = (0..20).map(|_| daemon.agent(mapping.port1)).collect();
    agents.iter_mut().for_each(|agent| agent.send(WRONG));
    agents.iter_mut().for_each(|agent| agent.expect_closed());
    daemon.stop();
    let all = objects(&daemon);
    let refused = all.iter().filter(|line| line["event"] == "agent-refused");
    let counts: Vec<_> = refused.map(|line| line["count"].as_u64().unwrap_or(1)).collect();
    assert!(counts.len() < 20 && counts.iter().sum::<u64>() == 20, "{counts:?}");
}

#[test]
fn reload_changes_the_formats_of_the_log() {
    let mut daemon = Daemon::builder(Mode::Plain).prepare();
    let socket = syslogd(&daemon.syslog());
    daemon.start();
    let mapping = named(&daemon, "web");
    let mut seen = Vec::new();
    let mut until_said = |what: &dyn Fn(&str) -> bool| {
        eventually("syslog has the line", || {
            seen.extend(messages(&socket));
            seen.iter().find(|line| what(line)).cloned()
        })
    };
    let plain = until_said(&|line| line.contains(&mapping.id));
    assert!(plain.contains(" (web) added") && plain.starts_with("<30>iofog-connector["), "{plain}");
    assert!(daemon.log_text().lines().all(|line| line.starts_with("20")), "{}", daemon.log_text());
    let reload = |settings: &[(&str, &str)], count: usize| {
        settings.iter().for_each(|(key, value)| daemon.set(key, *value));
        daemon.signal(Signal::HUP);
        let log = || daemon.log_text().matches("settings reloaded").count();
        until("it has reloaded", || log() == count);
    };
    reload(&[("logformat", "json"), ("syslogformat", "rfc5424")], 1);
    let begin = daemon.log_text().len();
    knock(&daemon, &mapping);
    let line = until_said(&|line| line.contains(" agent-refused "));
    let (head, rest) = line.split_once(" - iofog-connector ").expect("RFC 5424");
    assert!(head.starts_with("<28>1 20") && head.ends_with('Z'), "{line}");
    let expected = format!(
        "{} agent-refused [connector@32473 event=\"agent-refused\" mapping=\"{}\" name=\"web\" port=\"{}\" \
         peer=\"127.0.0.1\"] web: agent 127.0.0.1 refused on port ",
        daemon.pid().as_raw_nonzero(),
        mapping.id,
        mapping.port1
    );
    assert!(rest.starts_with(&expected), "{line}");
    let log = daemon.log_text();
    let mut json = log[begin..].lines().map(serde_json::from_str::<Value>);
    assert!(json.any(|line| line.expect("JSON")["event"] == "agent-refused"), "{log}");
    // A fault leaves the formats as they are.
    daemon.set("logformat", "xml");
    daemon.signal(Signal::HUP);
    until("it is refused", || daemon.log_text().contains("\"event\":\"reload-refused\""));
    let check = daemon.cli(&["check"]);
    assert_eq!(check.status.code(), Some(2));
    assert!(text(&check).contains("logformat: \"xml\": one of text, json is expected."));
    reload(&[("logformat", "text"), ("syslogformat", "rfc3164")], 2);
    let log = daemon.log_text();
    assert!(
        log.lines().last().is_some_and(|line| line.ends_with("INFO  settings reloaded")),
        "{log}"
    );
}

#[test]
fn hostile_ids_forge_no_line_and_no_member_of_json() {
    let hostile = "\u{1b}\",\"event\":\"started\"}\n{\"event\":\"forged\"}";
    let mut daemon = Daemon::builder(Mode::Plain).set("logformat", "json").prepare();
    let state = json!({"mappings": [{
        "id": hostile, "port1": 1, "port2": 2, "maxconnectionsport1": 60,
        "maxconnectionsport2": 0, "passcodeport1": "secret", "passcodeport2": "",
        "heartbeatabsencethresholdport1": 0, "heartbeatabsencethresholdport2": 0,
    }]});
    daemon.write("configs.json", &state.to_string());
    daemon.start();
    let inactive = object(&daemon, &json!({"event": "port-inactive"}));
    let id = inactive["mapping"].as_str().unwrap();
    assert!(id.starts_with("\\x1b\",") && id.contains("}\\n{"), "{id}");
    let words = objects(&daemon).into_iter().filter(|line| line["event"] == "forged");
    assert_eq!(words.count(), 0);
}

/// A namespace of its own has a journald that the test reads by hand.
#[test]
fn journal_takes_what_a_line_is_about_as_fields() {
    if !can_mount() {
        return could_not_run("no mount namespace");
    }
    let folder = Folder::new();
    let journald = syslogd(&folder.join("socket"));
    let mount = format!(
        r#"mkdir -p /run/systemd && mount -t tmpfs none /run/systemd && mkdir /run/systemd/journal &&
        mount --bind {} /run/systemd/journal && JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec "$@""#,
        folder.display()
    );
    let wrapper = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
    let daemon = Daemon::builder(Mode::Plain).wrapper(&wrapper).start();
    let mapping = named(&daemon, "web");
    knock(&daemon, &mapping);
    let mut seen = Vec::new();
    let refused = eventually("the journal has the line", || {
        seen.extend(messages(&journald));
        seen.iter().find(|entry| entry.contains("EVENT=agent-refused\n")).cloned()
    });
    let (head, message) = refused.split_once("MESSAGE=").unwrap();
    let expected = format!(
        "PRIORITY=4\nSYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=iofog-connector\nEVENT=agent-refused\n\
         MAPPING={}\nNAME=web\nPORT={}\nPEER=127.0.0.1\n",
        mapping.id, mapping.port1
    );
    assert_eq!(head, expected);
    assert!(
        message.starts_with("web: agent 127.0.0.1 refused on port ") && message.ends_with('\n')
    );
    assert!(seen.iter().any(|entry| entry.contains("EVENT=started\n")), "{seen:?}");
    assert_eq!(daemon.control().state()["logLost"], 0);
}

#[test]
fn fail2ban_finds_strangers_in_each_format_and_nobody_else() {
    let filter =
        concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/fail2ban/filter.d/iofog-connector.conf");
    let found = |log: &Path| {
        let command = std::process::Command::new("fail2ban-regex")
            .args(["--out", "ip"])
            .args([log, Path::new(filter)])
            .output()
            .ok()?;
        assert!(command.status.success(), "{}", text(&command));
        let said = String::from_utf8_lossy(&command.stdout).into_owned();
        Some(said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>())
    };
    let folder = Folder::new();
    for (format, structured) in [("text", "rfc3164"), ("json", "rfc5424")] {
        let builder = Daemon::builder(Mode::Plain)
            .set("connectionlog", true)
            .set("logformat", format)
            .set("syslogformat", structured);
        let mut daemon = builder.set("userwait", 100).prepare();
        let socket = syslogd(&daemon.syslog());
        daemon.start();
        let add = |allow: &str| {
            daemon.api().add(&format!(
                r#"{{"type":"public","maxconnections":60,"heartbeatabsencethreshold":0,"allow":["{allow}"]}}"#
            ))
        };
        let (open, closed) = (add("127.0.0.0/8"), add("192.0.2.0/24"));
        knock(&daemon, &open);
        daemon.user_is_closed(&closed);
        // These are none: a user that no agent serves, and a session.
        daemon.user_is_closed(&open);
        drop(daemon.session(&open));
        let ended = || daemon.log_text().lines().any(|line| line.contains("session of"));
        until("the session's line", ended);
        let Some(addresses) = found(&daemon.log_file()) else {
            return not_installed("fail2ban-regex");
        };
        assert_eq!(addresses, ["127.0.0.1"; 2], "{}", daemon.log_text());
        // As a syslogd writes them.
        let lines = messages(&socket).into_iter().map(|line| {
            let (_, line) = line.split_once('>').unwrap();
            let head = if format == "text" { "Nov 28 10:00:00 host " } else { "" };
            format!("{head}{line}\n")
        });
        let file = folder.join(structured);
        fs::write(&file, lines.collect::<String>()).unwrap();
        assert_eq!(found(&file), Some(addresses), "{}", fs::read_to_string(&file).unwrap());
    }
    // What a peer says of itself stands behind its address.
    let said = "web: agent 192.0.2.1:1 closed: wrong passcode";
    let forged =
        format!("web: session of 192.0.2.9:1 and 192.0.2.8:2 ended after 1 s: it said ({said})");
    let lines = [
        format!("2026-11-28T10:00:00Z INFO  {forged}\n"),
        format!(
            "{}\n",
            json!({"time": "2026-11-28T10:00:00Z", "message": format!("{forged}\",\"message\":\"{said}")})
        ),
        // An id of configs.json stands first.
        format!("2026-11-28T10:00:00Z INFO  {said}\": agent 192.0.2.7:1 closed: no heartbeat\n"),
        "2026-11-28T10:00:00Z INFO  API: refused a request from 192.0.2.1: x is not an allowed controller: agent \
         192.0.2.7:1 closed: no heartbeat\n"
            .into(),
    ];
    let file = folder.join("forged");
    fs::write(&file, lines.concat()).unwrap();
    assert_eq!(found(&file), Some(vec![]));
}
