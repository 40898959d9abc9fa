//! What has happened, as the status and the command line tell it (protocol page, section 3).

use std::fs;
use std::net::TcpListener;

use crate::common::*;
use rustix::process::Signal;
use serde_json::{Value, json};

in_both_modes!(
    agent_that_comes_and_goes_is_told_with_its_mapping,
    refusals_are_told_once_counted_and_without_a_secret,
);

const NEVER: u64 = 200_000;

fn events(daemon: &Daemon) -> Vec<Value> {
    daemon.control().state()["events"].as_array().expect("events").clone()
}

/// Those of this word, the newest at the end.
fn of(daemon: &Daemon, word: &str) -> Vec<Value> {
    events(daemon).into_iter().filter(|one| one["event"] == word).collect()
}

/// A daemon whose log is JSON, in which each event is a line, too.
fn logging(mode: Mode) -> Builder {
    Daemon::builder(mode).set("logformat", "json")
}

/// The newest of this word, once there are so many of it and the log has it, too.
#[track_caller]
fn told(daemon: &Daemon, word: &str, number: usize) -> Value {
    let event = eventually(word, || of(daemon, word).get(number - 1).cloned());
    eventually("a line of the log about it", || {
        let texts = [daemon.log_file(), daemon.log_file().with_extension("aside")]
            .map(|path| fs::read_to_string(path).unwrap_or_default());
        let lines = texts.iter().flat_map(|text| text.lines());
        let mut lines = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let same = |line: &Value| ["event", "mapping", "name"].map(|name| line[name].clone());
        lines.find(|line| same(line) == same(&event))
    });
    event
}

fn message(event: &Value) -> &str {
    event["message"].as_str().expect("a message")
}

fn named(daemon: &Daemon, name: &str, connections: u32) -> Mapping {
    daemon.control().add(&format!(
        r#"{{"type":"public","maxconnections":{connections},"heartbeatabsencethreshold":{NEVER},"name":"{name}"}}"#
    ))
}

fn agent_that_comes_and_goes_is_told_with_its_mapping(mode: Mode) {
    let before = now();
    let daemon = logging(mode).start();
    let started = told(&daemon, "started", 1);
    assert!(message(&started).contains("serves 0 mappings"), "{started}");
    assert_eq!((&started["mapping"], &started["name"]), (&Value::Null, &Value::Null));
    let mapping = named(&daemon, "web", 60);
    let added = told(&daemon, "mapping-added", 1);
    assert_eq!((&added["mapping"], &added["name"]), (&json!(mapping.id), &json!("web")));
    let agents = [daemon.tunnel(&mapping), daemon.tunnel(&mapping)];
    let came = told(&daemon, "agent-came", 1);
    assert_eq!((&came["mapping"], &came["name"]), (&json!(mapping.id), &json!("web")));
    assert_eq!(came["count"], 1, "the first tunnel alone is told: {came}");
    let said = format!("agent 127.0.0.1 has a tunnel on port {}", mapping.port1);
    assert_eq!((message(&came), &came["count"]), (&*said, &json!(1)));
    drop(agents);
    let went = told(&daemon, "agent-went", 1);
    assert!(message(&went).contains("any more"), "{went}");
    let _again = daemon.tunnel(&mapping);
    until("it has come again", || {
        of(&daemon, "agent-came").iter().any(|one| one["at"] != came["at"])
    });

    let body = form(&[("mappingid", "web"), ("mapping", r#"{"idle":60000}"#)]);
    daemon.control().post("/api/v2/mapping/change", &body).ok();
    let changed = told(&daemon, "mapping-changed", 1);
    assert!(message(&changed).contains("idle"), "{changed}");
    daemon.control().remove(&mapping);
    let removed = told(&daemon, "mapping-removed", 1);
    assert_eq!(removed["name"], "web");
    let times: Vec<_> = events(&daemon).iter().map(|one| one["at"].as_u64().unwrap()).collect();
    assert!(
        times.is_sorted() && times[0] >= before && *times.last().unwrap() <= now(),
        "{times:?}"
    );
}

fn refusals_are_told_once_counted_and_without_a_secret(mode: Mode) {
    let daemon = logging(mode).set("userwait", 100).start();
    let mapping = named(&daemon, "web", 60);
    let wrong = "wrong-wrong-wrong-wrong-wrong-wrong";
    for times in 1..=3 {
        daemon.agent(mapping.port1).send(wrong.as_bytes());
        until("it is refused", || {
            of(&daemon, "agent-refused").last().is_some_and(|one| one["count"] == times)
        });
    }
    let refused = told(&daemon, "agent-refused", 1);
    assert_eq!((&refused["mapping"], &refused["name"]), (&json!(mapping.id), &json!("web")));
    assert!(message(&refused).contains("wrong passcode; give the agent"), "{refused}");
    daemon.user_is_closed(&mapping);
    let refused = told(&daemon, "user-refused", 1);
    assert!(message(&refused).contains("no agent had a tunnel"), "{refused}");

    daemon.set("controllers", json!(["192.0.2.1"]));
    daemon.signal(Signal::HUP);
    told(&daemon, "reloaded", 1);
    daemon.api().get("/api/v2/status").failed(403);
    let refused = told(&daemon, "caller-refused", 1);
    assert!(message(&refused).contains("127.0.0.1 is not an allowed controller"), "{refused}");
    let all = json!(events(&daemon)).to_string();
    assert!(!all.contains(wrong) && !all.contains(&mapping.passcode1), "{all}");
}

#[test]
fn limit_is_over_when_nobody_meets_it_and_it_is_reached_no_longer() {
    let daemon = logging(Mode::Plain).start();
    let mapping = named(&daemon, "web", 1);
    let agent = daemon.tunnel(&mapping);
    let limit = || daemon.control().state_of(&mapping).unwrap()["limitsReached"][0].clone();
    let refuse = || {
        let mut other = daemon.agent(mapping.port1);
        other.send(mapping.passcode1.as_bytes());
        other.expect_closed();
    };
    refuse();
    refuse();
    let reached = told(&daemon, "limit-reached", 1);
    assert_eq!((&reached["count"], &limit()["over"]), (&json!(2), &json!(false)));
    assert!(message(&reached).contains("tunnels (maxconnections)"), "{reached}");
    let lines = daemon.log_text().matches("\"event\":\"limit-reached\"").count();
    assert_eq!(lines, 1, "the log is told when it begins, not of each newcomer");
    drop(agent);
    let over = told(&daemon, "limit-over", 1);
    assert!(message(&over).contains("tunnels (maxconnections)"), "{over}");
    let met = limit();
    assert_eq!(met["over"], true);
    let passed = over["at"].as_u64().unwrap() - met["last"].as_u64().unwrap();
    assert!(passed >= 10_000, "{passed} ms");
}

#[test]
fn port_that_is_not_open_is_told_and_that_it_is_again() {
    let mut daemon = logging(Mode::Plain).start();
    let mapping = named(&daemon, "web", 60);
    daemon.stop();
    let other = TcpListener::bind(at(mapping.port2)).unwrap();
    daemon.start();
    let inactive = told(&daemon, "port-inactive", 1);
    let said = format!("port {} is in use by another program", mapping.port2);
    assert!(message(&inactive).contains(&said), "{inactive}");
    assert_eq!(inactive["name"], "web");
    assert!(of(&daemon, "port-back").is_empty(), "a port that opens as it should is no event");
    drop(other);
    let back = told(&daemon, "port-back", 1);
    assert!(message(&back).contains(&format!("port {} is open again", mapping.port2)), "{back}");
}

#[test]
fn reload_is_told_with_what_it_could_not_do() {
    let daemon = logging(Mode::Plain).start();
    let good = daemon.settings();
    daemon.write("iofog-connector.conf", "{");
    daemon.signal(Signal::HUP);
    let refused = told(&daemon, "reload-refused", 1);
    assert!(message(&refused).contains("iofog-connector.conf"), "{refused}");
    daemon.write("iofog-connector.conf", &good.to_string());
    daemon.set("threads", 1);
    daemon.signal(Signal::HUP);
    let reloaded = told(&daemon, "reloaded", 1);
    assert!(message(&reloaded).contains("threads has changed"), "{reloaded}");
}

#[test]
fn certificate_that_ends_within_30_days_is_a_warning_an_event_and_a_metric() {
    const DAY: u64 = 86_400;
    let authority = Authority::new("the authority");
    let today = now() / 1000;
    let identity = |days: u64| {
        let identity = authority.sign_until(&["localhost", "127.0.0.1"], today + days * DAY);
        (identity.pem() + &authority.pem(), identity.key_pem())
    };
    let (chain, key) = identity(20);
    let daemon =
        logging(Mode::Tls).file("server-cert.pem", chain).file("server-key.pem", key).start();
    let state = daemon.control().state();
    let said = "server-cert.pem: expires at ";
    assert!(state["warnings"].to_string().contains(said), "{state}");
    assert_eq!(state["certificateEnds"], (today + 20 * DAY) * 1000);
    let metric =
        format!("\niofog_connector_certificate_end_timestamp_seconds {}\n", today + 20 * DAY);
    assert!(daemon.control().metrics().contains(&metric));
    let ends = told(&daemon, "certificate-ends", 1);
    assert!(message(&ends).contains(said) && message(&ends).contains("reload"), "{ends}");
    assert!(daemon.log_text().contains(said));
    let checked = text(&daemon.cli(&["check"]));
    assert!(checked.contains(said), "{checked}");

    let (chain, key) = identity(31);
    daemon.write("server-cert.pem", &chain);
    daemon.write("server-key.pem", &key);
    daemon.signal(Signal::HUP);
    told(&daemon, "reloaded", 1);
    let state = daemon.control().state();
    assert!(!state["warnings"].to_string().contains(said), "{state}");
    assert_eq!(state["certificateEnds"], (today + 31 * DAY) * 1000);
    assert_eq!(of(&daemon, "certificate-ends").len(), 1);
}

#[test]
fn disk_that_takes_nothing_is_told_and_that_it_does_again() {
    let daemon = logging(Mode::Plain).start();
    let add = || {
        let json = r#"{"type":"public","maxconnections":1,"heartbeatabsencethreshold":0}"#;
        daemon.control().post("/api/v2/mapping/add", &form(&[("mapping", json)]))
    };
    let state = daemon.config().join("configs.json");
    let _ = fs::remove_file(&state);
    fs::create_dir(&state).unwrap();
    add().failed(500);
    let failed = told(&daemon, "disk-failed", 1);
    assert!(message(&failed).contains("configs.json"), "{failed}");
    fs::remove_dir(&state).unwrap();
    add().ok();
    told(&daemon, "disk-back", 1);

    let log = daemon.log_file();
    fs::rename(&log, log.with_extension("aside")).unwrap();
    fs::create_dir(&log).unwrap();
    let failed = told(&daemon, "disk-failed", 2);
    assert!(message(&failed).contains("log file"), "{failed}");
    fs::remove_dir(&log).unwrap();
    let back = told(&daemon, "disk-back", 2);
    assert!(message(&back).contains("log file"), "{back}");
}

#[test]
fn upgrade_that_is_not_made_and_the_end_of_the_program_before_are_told() {
    if std::env::var_os("IOFOG_CONNECTOR_BIN").is_some() {
        return could_not_run("a program that needs a wrapper cannot start itself anew");
    }
    let daemon = logging(Mode::Plain).start();
    daemon.set("userwait", "soon");
    assert_eq!(daemon.cli(&["upgrade"]).status.code(), Some(1));
    assert!(message(&told(&daemon, "upgrade-refused", 1)).contains("userwait"));
    daemon.set("userwait", 10_000);
    assert!(daemon.cli(&["upgrade"]).status.success());
    assert!(message(&told(&daemon, "predecessor-ended", 1)).contains("has ended"));
}

#[test]
fn command_line_shows_events_in_order_of_time() {
    let daemon = logging(Mode::Plain).start();
    let mapping = named(&daemon, "web", 60);
    let _agent = daemon.tunnel(&mapping);
    told(&daemon, "agent-came", 1);
    let shown = daemon.cli(&["status", "--events"]);
    assert!(shown.status.success());
    let shown = text(&shown);
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines[0].starts_with("TIME") && lines[0].ends_with("WHAT"), "{shown}");
    let words = ["started", "mapping-added", "agent-came"];
    assert_eq!(lines.len(), 1 + words.len(), "{shown}");
    for (line, word) in lines[1..].iter().zip(words) {
        let cells: Vec<_> = line.split_whitespace().collect();
        assert!(cells[0].ends_with('Z'), "{shown}");
        assert_eq!((cells[1], cells[2]), ("1", word), "{shown}");
    }
    assert!(
        lines[3].contains(" web ") && lines[3].contains("agent 127.0.0.1 has a tunnel"),
        "{shown}"
    );
    let json = text(&daemon.cli(&["status", "--events", "--json"]));
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["events"], json!(events(&daemon)));
    assert_eq!(json.as_object().unwrap().len(), 1);
}

#[test]
fn metrics_tell_how_long_users_wait_and_sessions_last() {
    let daemon = logging(Mode::Plain).start();
    let mapping = daemon.control().add_public(60, NEVER);
    let count = |name: &str| {
        let text = daemon.control().metrics();
        let name = format!("iofog_connector_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name)).expect("a sample");
        line.parse::<f64>().expect("a number")
    };
    let (user, agent) = daemon.session(&mapping);
    assert_eq!(count("user_wait_seconds_count"), 1.0);
    assert_eq!(count("user_wait_seconds_bucket{le=\"+Inf\"}"), 1.0);
    assert_eq!(count("session_duration_seconds_count"), 0.0, "it is not over");
    drop((user, agent));
    until("it is over", || count("session_duration_seconds_count") == 1.0);
    // A user that waits for a second is not counted among those that have waited for less.
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    until("it waits", || daemon.control().users_waiting(&mapping) == 1);
    let waited = std::time::Instant::now();
    until("a while has passed", || waited.elapsed() > ms(600));
    let at_least = waited.elapsed().as_secs_f64();
    let mut agent = daemon.tunnel(&mapping);
    agent.expect_record(b"question");
    assert_eq!(count("user_wait_seconds_count"), 2.0);
    assert!(count("user_wait_seconds_bucket{le=\"0.5\"}") < 2.0);
    assert!(count("user_wait_seconds_sum") >= at_least - 0.01);
}

#[test]
fn each_word_of_the_page_is_caused_here() {
    let page = include_str!("../../docs/protocol.md");
    let (_, table) = page.split_once("### What has happened").expect("the table");
    let rows = table.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    let cells = rows.take_while(|line| line.starts_with('|')).map(|row| row.split('|').nth(1));
    let mut words = 0;
    for word in cells.flatten().flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
        assert!(
            include_str!("events.rs").contains(&format!("told(&daemon, \"{word}\", ")),
            "{word}"
        );
        words += 1;
    }
    assert!(words > 10, "{words}");
}
