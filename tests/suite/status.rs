//! What the daemon says while it runs: whom it refuses, and what has gone wrong.

use std::net::TcpListener;
use std::process::Command;

use crate::common::*;
use rustix::process::Signal;
use serde_json::{Value, json};

in_both_modes!(
    user_without_a_tunnel_is_counted_by_kind_and_told_with_the_remedy,
    users_that_are_turned_out_are_counted_by_kind,
    refused_agent_is_counted_by_kind_and_told_with_the_remedy,
);

const NEVER: u64 = 200_000;

/// How often the mapping has refused for this reason.
fn refused(daemon: &Daemon, mapping: &Mapping, who: &str, why: &str) -> u64 {
    let state = daemon.control().state_of(mapping).expect("the mapping");
    times(&state["refusals"], who, why)
}

fn times(refusals: &Value, who: &str, why: &str) -> u64 {
    let mut all = refusals.as_array().unwrap().iter();
    let Some(one) = all.find(|one| one["who"] == who && one["why"] == why) else { return 0 };
    assert!(one["last"].as_u64().unwrap() <= now());
    one["times"].as_u64().unwrap()
}

fn table(daemon: &Daemon) -> String {
    String::from_utf8_lossy(&daemon.cli(&["status"]).stdout).into_owned()
}

fn lines(daemon: &Daemon, what: &str) -> Vec<String> {
    let log = daemon.log_text();
    log.lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
}

fn user_without_a_tunnel_is_counted_by_kind_and_told_with_the_remedy(mode: Mode) {
    const NO_AGENT: &str = "no agent had a tunnel";
    const NO_TUNNEL: &str = "no tunnel was free in time";
    let daemon = Daemon::builder(mode).set("userwait", 300).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let before = now();
    let refuse = || {
        let mut user = daemon.user(&mapping);
        user.send(b"question");
        user.expect_closed();
    };
    refuse();
    until("it is counted", || refused(&daemon, &mapping, "user", NO_AGENT) == 1);
    let state = daemon.control().state_of(&mapping).unwrap();
    let error = state["lastError"].as_str().unwrap();
    assert!(error.contains(NO_AGENT) && error.contains("see that the mapping's agent"), "{error}");
    assert!((before..=now()).contains(&state["lastErrorAt"].as_u64().unwrap()), "{state}");
    assert_eq!(state["lastErrorOver"], false);
    let said = lines(&daemon, NO_AGENT);
    assert!(said.len() == 1 && said[0].contains(error) && said[0].contains("WARN"), "{said:?}");
    assert!(table(&daemon).contains(&format!("refused: user: {NO_AGENT}, once, last at 20")));
    // One is served: what was wrong is over.
    let (user, agent) = daemon.session(&mapping);
    let state = daemon.control().state_of(&mapping).unwrap();
    assert_eq!((&state["lastErrorOver"], &state["lastError"]), (&json!(true), &json!(error)));
    assert!(!table(&daemon).contains("last error"), "{}", table(&daemon));
    // All tunnels are in use.
    refuse();
    until("it is counted", || refused(&daemon, &mapping, "user", NO_TUNNEL) == 1);
    assert_eq!(lines(&daemon, NO_TUNNEL).len(), 1);
    assert_eq!(daemon.control().number(&mapping, "counts.usersRefused"), 2);
    let metric = format!("who=\"user\",why=\"{NO_TUNNEL}\"}} 1\n");
    assert!(daemon.api().metrics().contains(&metric));
    drop((user, agent));
}

#[test]
fn user_that_sends_no_tls_after_its_handshake_is_counted() {
    use std::io::Write;
    let daemon = Daemon::builder(Mode::Tls).set("userwait", 100_000).start();
    let mapping = daemon.api().add_public(1, NEVER);
    let mut user = daemon.user(&mapping);
    until("it waits", || daemon.control().users_waiting(&mapping) == 1);
    user.socket().write_all(b"\x17\x03\x03\x00\x20this was never encrypted, it is not").unwrap();
    until("it is counted with the reason", || {
        let state = daemon.control().state_of(&mapping).expect("the mapping");
        state["refusals"].to_string().contains("its TLS handshake failed")
    });
    let _ = user.rest();
}

fn users_that_are_turned_out_are_counted_by_kind(mode: Mode) {
    let daemon = Daemon::builder(mode).set("pending", 1).set("userwait", 600_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    const OUSTED: &str = "it sent nothing, or had ended, and others wanted its place";
    let mute = daemon.user(&mapping);
    until("it waits", || daemon.control().users_waiting(&mapping) == 1);
    let mut other = daemon.user(&mapping);
    other.send(b"question");
    until("it is counted", || refused(&daemon, &mapping, "user", OUSTED) >= 1);
    let said = lines(&daemon, OUSTED);
    assert!(said.len() == 1 && said[0].contains("raise pending"), "{said:?}");
    drop(mute);
    if mode == Mode::Plain {
        return;
    }
    // The same in the handshake.
    const STALLED: &str = "it stalled in its handshake, and others wanted its place";
    let mapping = daemon.api().add_public(60, NEVER);
    let stall = || {
        let mut link = Link::plain(at(mapping.port2)).unwrap();
        link.send(&[22, 3, 1]);
        link
    };
    let links = [stall(), stall()];
    until("it is counted", || refused(&daemon, &mapping, "user", STALLED) >= 1);
    drop(links);
}

fn refused_agent_is_counted_by_kind_and_told_with_the_remedy(mode: Mode) {
    const WRONG: &str = "wrong passcode";
    const FULL: &str = "as many tunnels were open as are allowed";
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(1, NEVER);
    let mut agent = daemon.agent(mapping.port1);
    agent.send("x".repeat(mapping.passcode1.len()).as_bytes());
    agent.expect_closed();
    assert_eq!(refused(&daemon, &mapping, "agent", WRONG), 1);
    let state = || daemon.control().state_of(&mapping).unwrap();
    assert_eq!(state()["lastErrorOver"], false);
    let _tunnel = daemon.tunnel(&mapping);
    assert_eq!(state()["lastErrorOver"], true, "{}", state());
    assert!(!daemon.agent(mapping.port1).is_accepted(&mapping.passcode1));
    assert_eq!(refused(&daemon, &mapping, "agent", FULL), 1);
    assert_eq!(daemon.control().number(&mapping, "counts.agentsRefused"), 2);
    for (why, remedy) in [(WRONG, "this port's passcode"), (FULL, "open fewer tunnels")] {
        let said = lines(&daemon, why);
        assert!(said.len() == 1 && said[0].contains(remedy), "{said:?}");
    }
    // An agent is there, whoever else knocks.
    let mut stranger = daemon.agent(mapping.port1);
    stranger.send("x".repeat(mapping.passcode1.len()).as_bytes());
    stranger.expect_closed();
    assert_eq!(refused(&daemon, &mapping, "agent", WRONG), 2);
    let (state, table) = (state(), table(&daemon));
    assert_eq!((&state["lastErrorOver"], &state["state"]), (&json!(true), &json!("active")));
    assert!(state["lastError"].as_str().unwrap().contains(WRONG), "{state}");
    assert!(table.contains(" active ") && !table.contains("last error"), "{table}");
}

#[test]
fn health_checks_of_the_pipes_tls_ports_are_not_worth_a_line() {
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    for port in [mapping.port1, mapping.port2] {
        for _ in 0..5 {
            drop(Link::plain(at(port)).unwrap());
            Link::plain(at(port)).unwrap().reset();
            // Those that shake hands and leave.
            daemon.link(port).finish();
        }
    }
    // What is no TLS is a failure, and comes after all of these.
    for port in [mapping.port1, mapping.port2] {
        let mut plain = Link::plain(at(port)).unwrap();
        plain.send(b"GET / HTTP/1.1\r\n\r\n");
        plain.until_end();
    }
    let number = |path: &str| daemon.control().number(&mapping, path);
    until("both are counted", || number("counts.handshakeFailures") == 2);
    until("the others are gone", || {
        number("counts.pending") == 0 && number("counts.usersWaiting") == 0
    });
    assert_eq!(number("counts.usersRefused") + number("counts.agentsRefused"), 0);
    let said = lines(&daemon, "refused");
    assert_eq!(said.len(), 2, "{said:#?}");
    assert!(said.iter().all(|line| line.contains("does not speak TLS")), "{said:#?}");
}

#[test]
fn api_refusals_are_ten_lines_at_once_and_then_a_count() {
    let mut daemon = Daemon::new(Mode::Plain);
    for number in 0..40 {
        let mut connection = daemon.api().connect();
        let head =
            format!("GET /api/v2/status HTTP/1.1\r\nOrigin: http://page{number}.example\r\n\r\n");
        connection.send(head.as_bytes());
        connection.response().failed(403);
    }
    let mut connection = daemon.api().connect();
    connection.send(b"nonsense\r\n\r\n");
    connection.response().failed(400);
    let state = daemon.control().state();
    assert_eq!(state["apiRefused"], 40);
    let refusals = &state["apiRefusals"];
    assert_eq!(times(refusals, "caller", "sent by another site's web page"), 40);
    assert_eq!(times(refusals, "caller", "not a valid request"), 1);
    daemon.stop();
    let said = lines(&daemon, "API: refused a request from 127.0.0.1");
    let (whole, counts): (Vec<_>, Vec<_>) =
        said.iter().partition(|line| !line.contains("more like it, left out"));
    // Another one is that of the nonsense, which is of another kind. On a machine that is slow, a
    // minute's line may be among them.
    assert!((11..=13).contains(&whole.len()), "{said:#?}");
    let left_out = |line: &&String| -> Option<u64> {
        line.split_once("(and ")?.1.split_once(' ')?.0.parse().ok()
    };
    let left_out: u64 = counts.iter().map(|line| left_out(line).unwrap() + 1).sum();
    assert_eq!(whole.len() as u64 + left_out, 41, "{said:#?}");
}

#[test]
fn port_that_opens_ends_its_fault_and_is_said_once() {
    let mut daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, NEVER);
    daemon.stop();
    let other = TcpListener::bind(at(mapping.port2)).unwrap();
    let before = now();
    daemon.start();
    let state = || daemon.control().state_of(&mapping).unwrap();
    let shut = state();
    assert_eq!((&shut["sides"][1]["open"], &shut["lastErrorOver"]), (&json!(false), &json!(false)));
    assert!((before..=now()).contains(&shut["lastErrorAt"].as_u64().unwrap()), "{shut}");
    let shown = table(&daemon);
    let said = format!("port {} is in use by another program", mapping.port2);
    assert_eq!(shown.matches(&said).count(), 1, "{shown}");
    assert!(shown.contains("half open") && !shown.contains(".;") && !shown.contains("last error"));
    assert!(!daemon.log_text().contains(".;"));
    drop(other);
    until("it opens", || state()["sides"][1]["open"] == true);
    assert_eq!(state()["lastErrorOver"], true);
    assert!(!table(&daemon).contains("last error"), "it is over: {}", table(&daemon));
}

#[test]
fn texts_of_ports_that_are_not_free_are_one_sentence() {
    for (ports, why) in [
        (2, "every port of the pool is in use by a mapping"),
        (3, "one port of the pool is free, and a pipe takes two"),
    ] {
        let daemon = Daemon::builder(Mode::Plain).ports(ports).start();
        daemon.api().add_public(60, NEVER);
        let body = form(&[(
            "mapping",
            r#"{"type":"public","maxconnections":60,"heartbeatabsencethreshold":0}"#,
        )]);
        let message = daemon.api().post("/api/v2/mapping/add", &body).failed(507);
        assert_eq!(message, format!("no two free ports: {why}; add to \"ports\""));
    }
}

#[test]
fn ports_that_a_reload_takes_from_mappings_are_a_warning_and_a_line() {
    let daemon = Daemon::builder(Mode::Plain).ports(6).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let exclude = |ports: &[u16]| {
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        daemon.set("exclude", ports);
        let before = daemon.log_text().matches("settings reloaded").count();
        daemon.signal(Signal::HUP);
        let read = || daemon.log_text().matches("settings reloaded").count() > before;
        until("the settings are read again", read);
    };
    let warnings = || daemon.control().state()["warnings"].to_string();
    let said = format!(
        "no longer contains ports of mappings: {}, {}; they stay open until a restart",
        mapping.port1, mapping.port2
    );
    assert!(!warnings().contains("leaves out"), "{}", warnings());
    exclude(&[mapping.port1, mapping.port2]);
    assert!(warnings().contains(&said), "{}", warnings());
    assert_eq!(lines(&daemon, &said).len(), 1, "{}", daemon.log_text());
    daemon.session(&mapping);
    exclude(&[]);
    assert!(!warnings().contains("leaves out"), "{}", warnings());
}

#[test]
fn warnings_beside_faults_are_logged_as_warnings_at_a_reload() {
    let daemon = Daemon::new(Mode::Plain);
    daemon.set("userwait", -1);
    daemon.set("pendign", 5);
    daemon.signal(Signal::HUP);
    until("it is said", || daemon.log_text().contains("the settings of before stay in force"));
    let said = lines(&daemon, "pendign");
    assert!(said.len() == 1 && said[0].contains("WARN"), "{said:?}");
    assert!(!said[0].contains("warning:") && said[0].contains("did you mean pending?"), "{said:?}");
    assert!(lines(&daemon, "userwait: -1")[0].contains("ERROR"));
    let check = daemon.cli(&["check"]);
    let check = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(check.contains("warning: ") && check.contains("pendign"), "{check}");
}

/// What the program says on a terminal with this many columns; `None` where that cannot be had.
fn on_terminal(daemon: &Daemon, columns: usize, words: &str) -> Option<String> {
    let run = daemon.run();
    let program: Vec<_> = binary().iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let program = program.join(" ");
    let line = format!("stty cols {columns}; {program} {words} --run {}", run.display());
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        could_not_run("`script` (bsdutils) is not installed, or finds no terminal");
        return None;
    };
    Some(String::from_utf8_lossy(&output.stdout).replace('\r', ""))
}

#[test]
fn status_and_mapping_list_fit_a_terminal_of_80_columns_and_wide_shows_everything() {
    let daemon = Daemon::builder(Mode::Plain).start();
    let named = daemon.cli(&["mapping", "add", "public", "--name", "plant-7", "--show"]);
    assert!(named.status.success(), "{}", text(&named));
    let unnamed = daemon.api().add_private(60, NEVER);
    for words in ["status", "mapping list"] {
        let Some(shown) = on_terminal(&daemon, 80, words) else { return };
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        let rows = |of: &str| shown.lines().filter(|line| line.starts_with(of)).count();
        assert_eq!((rows("plant-7 "), rows(&unnamed.id[..8])), (1, 1), "{shown}");
        let Some(narrow) = on_terminal(&daemon, 60, words) else { return };
        assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
        let Some(wide) = on_terminal(&daemon, 60, &format!("{words} --wide")) else { return };
        let piped = text(&daemon.cli(&words.split(' ').collect::<Vec<_>>()));
        assert_eq!(
            wide.lines().skip(1).collect::<Vec<_>>(),
            piped.lines().skip(1).collect::<Vec<_>>()
        );
        assert!(wide.contains(&unnamed.id), "{wide}");
    }
}
