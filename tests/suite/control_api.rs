//! The control API, call by call and byte by byte (protocol page, section 3).

use std::collections::HashSet;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;
use rustix::process::Signal;
use serde_json::{Value, json};

in_both_modes!(
    add_and_remove_answer_as_the_original_does,
    private_add_has_two_passcodes,
    status_tells_active_from_unknown,
    direct_connection_introduces_two_agents,
    keep_alive_carries_many_requests,
    pipelined_requests_are_answered_in_order,
    no_answer_but_add_shows_a_passcode,
    thousand_mute_connections_do_not_stop_the_api,
    ports_listen_when_add_answers,
    get_status_shows_tunnels_users_and_bytes,
    page_is_for_people_with_all_in_it_and_a_strict_policy,
    metrics_are_prometheus_text_with_live_counters,
    what_a_page_of_another_site_makes_a_browser_send_is_403,
);

const NEVER: u64 = 200_000;
const ADD: &str = "/api/v2/mapping/add";
const REMOVE: &str = "/api/v2/mapping/remove";
const STATUS: &str = "/api/v2/status";
const COMMAND: &str = "/api/v2/commandline";
const PUBLIC: &str = r#"{"type":"public","maxconnections":60,"heartbeatabsencethreshold":200000}"#;
const PRIVATE: &str = r#"{"type":"private","maxconnectionsport1":1, "maxconnectionsport2":1, "heartbeatabsencethresholdport1":200000, "heartbeatabsencethresholdport2":200000}"#;

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn assert_uuid4(text: &str) {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12], "{text}");
    assert!(parts.concat().bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
    assert!(parts[2].starts_with('4'), "{text} is not of version 4");
}

// Mappings

fn add_and_remove_answer_as_the_original_does(mode: Mode) {
    let daemon = Daemon::new(mode);
    let api = daemon.api();
    let answer = api.post(ADD, &form(&[("mapping", PUBLIC)])).ok();
    assert_eq!(
        keys(&answer),
        ["id", "passcode1", "passcode2", "port1", "port2", "status", "timestamp"]
    );
    assert_eq!(answer["status"], "ok");
    assert_eq!(answer["passcode2"], "");
    assert_uuid4(answer["id"].as_str().unwrap());
    assert_uuid4(answer["passcode1"].as_str().unwrap());
    let ports = [answer["port1"].as_u64().unwrap(), answer["port2"].as_u64().unwrap()];
    assert_ne!(ports[0], ports[1]);
    for port in ports {
        let pool = u64::from(daemon.block.first) + 1..=u64::from(daemon.block.first) + 15;
        assert!(pool.contains(&port), "{port} is not of the pool");
    }

    let id = answer["id"].as_str().unwrap();
    let removed = api.post(REMOVE, &form(&[("mappingid", id)])).ok();
    assert_eq!(keys(&removed), ["id", "status", "timestamp"]);
    assert_eq!(removed["status"], "ok");
    assert_eq!(removed["id"], id);
    api.post(REMOVE, &form(&[("mappingid", id)])).failed(404);
}

fn private_add_has_two_passcodes(mode: Mode) {
    let daemon = Daemon::new(mode);
    let answer = daemon.api().post(ADD, &form(&[("mapping", PRIVATE)])).ok();
    assert_uuid4(answer["passcode1"].as_str().unwrap());
    assert_uuid4(answer["passcode2"].as_str().unwrap());
    assert_ne!(answer["passcode1"], answer["passcode2"]);
}

#[test]
fn mapping_json_may_be_encoded_in_every_usual_way() {
    let daemon = Daemon::builder(Mode::Plain).ports(31).start();
    let api = daemon.api();
    for json in [PUBLIC, PRIVATE] {
        // Percent signs for everything, as JavaScript's encodeURIComponent does it.
        let percent: String = json.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let bodies = [
            form(&[("mapping", json)]),
            format!("mapping={percent}"),
            format!("mapping={}", percent.to_lowercase()),
            // The seed shows the private body without a name: the bare object.
            json.to_owned(),
            format!(" {json}\r\n"),
            form(&[("other", "1"), ("mapping", json)]),
            // Not encoded at all, as curl's -d sends it.
            format!("mapping={json}"),
        ];
        for body in bodies {
            let mapping = api.post(ADD, &body).mapping();
            api.remove(&mapping);
        }
    }
}

#[test]
fn bad_mappings_are_400_and_say_why() {
    let daemon = Daemon::new(Mode::Plain);
    let api = daemon.api();
    let public = |connections: &str, threshold: &str| {
        format!(
            r#"{{"type":"public","maxconnections":{connections},"heartbeatabsencethreshold":{threshold}}}"#
        )
    };
    let cases = [
        (public("0", "200000"), "maxconnections"),
        (public("65536", "200000"), "maxconnections"),
        (public("-1", "200000"), "maxconnections"),
        (public("1.5", "200000"), "maxconnections"),
        (public("null", "200000"), "maxconnections"),
        (public("[]", "200000"), "maxconnections"),
        (public("60", "-1"), "heartbeatabsencethreshold"),
        (public("60", "{}"), "heartbeatabsencethreshold"),
        (r#"{"type":"public","maxconnections":60}"#.into(), "heartbeatabsencethreshold"),
        (r#"{"type":"public","heartbeatabsencethreshold":1}"#.into(), "maxconnections"),
        (r#"{"type":"secret","maxconnections":60,"heartbeatabsencethreshold":1}"#.into(), "type"),
        (r#"{"maxconnections":60,"heartbeatabsencethreshold":1}"#.into(), "type"),
        (r#"{"type":7,"maxconnections":60,"heartbeatabsencethreshold":1}"#.into(), "type"),
        (
            r#"{"type":"private","maxconnectionsport1":1,"heartbeatabsencethresholdport1":1,"heartbeatabsencethresholdport2":1}"#.into(),
            "maxconnectionsport2",
        ),
        (
            r#"{"type":"private","maxconnectionsport1":1,"maxconnectionsport2":1,"heartbeatabsencethresholdport1":1}"#.into(),
            "heartbeatabsencethresholdport2",
        ),
        ("[]".into(), "mapping"),
        ("7".into(), "mapping"),
        ("not json".into(), "mapping"),
        (r#"{"type":"public""#.into(), "mapping"),
        (String::new(), "mapping"),
    ];
    for (json, named) in cases {
        let message = api.post(ADD, &form(&[("mapping", &json)])).failed(400);
        assert!(message.contains(named), "{json}: {message:?} does not name {named}");
    }
    for body in ["", "other=1", "mappin=%7B%7D"] {
        let message = api.post(ADD, body).failed(400);
        assert!(message.contains("mapping"), "{message}");
    }
    // Not UTF-8, and half an escape.
    for body in ["mapping=%ff%fe", "mapping=%7", "%", "{", "{}"] {
        api.post(ADD, body).failed(400);
    }
    assert_eq!(api.status("all")["mappings"], 0);
}

#[test]
fn extreme_limits_are_accepted() {
    let daemon = Daemon::new(Mode::Plain);
    daemon.api().add_public(65_535, 0);
    daemon.api().add_public(1, 2_147_483_647);
    daemon.api().add_private(65_535, 0);
}

#[test]
fn remove_without_or_with_a_wrong_id_fails() {
    let daemon = Daemon::new(Mode::Plain);
    let api = daemon.api();
    let mapping = api.add_public(60, NEVER);
    for body in ["", "id=", "mapping=x"] {
        let message = api.post(REMOVE, body).failed(400);
        assert!(message.contains("mappingid"), "{message}");
    }
    for id in ["all", "x", "2ae8ff72-7447-47de-a4ec-123eb214d63e", "\u{1b}[31m\n", "%00"] {
        api.post(REMOVE, &form(&[("mappingid", id)])).failed(404);
    }
    assert_eq!(api.status(&mapping.id)["public"], "Active");
}

#[test]
fn of_a_parameter_given_twice_the_first_counts_and_a_query_is_ignored() {
    let daemon = Daemon::new(Mode::Plain);
    let api = daemon.api();
    let one = api.add_public(60, NEVER);
    let two = api.add_public(60, NEVER);
    let body = form(&[("mappingid", &one.id), ("mappingid", &two.id)]);
    let path = format!("{REMOVE}?mappingid={}&x=%%%", two.id);
    assert_eq!(api.post(&path, &body).ok()["id"], one.id.as_str());
    assert_eq!(api.status(&two.id)["public"], "Active");
    let message = api.post(&path, "").failed(400);
    assert!(message.contains("mappingid"), "a query counts as a parameter: {message}");
}

#[test]
fn no_two_free_ports_is_507_and_a_port_just_released_comes_last() {
    let daemon = Daemon::builder(Mode::Plain).ports(7).start();
    let api = daemon.api();
    let first = api.add_public(60, NEVER);
    let used: HashSet<u16> = [first.port1, first.port2].into();
    api.remove(&first);
    let mut mappings = Vec::new();
    for _ in 0..2 {
        let mapping = api.add_public(60, NEVER);
        assert!(!used.contains(&mapping.port1) && !used.contains(&mapping.port2), "{mapping:?}");
        mappings.push(mapping);
    }
    mappings.push(api.add_private(1, NEVER));
    assert_eq!(api.status("all")["availablePorts"], 1);
    api.post(ADD, &form(&[("mapping", PUBLIC)])).failed(507);
    assert_eq!(api.status("all")["availablePorts"], 1);
    assert_eq!(api.status("all")["mappings"], 3);
    api.remove(&mappings[0]);
    api.add_public(60, NEVER);
}

#[test]
fn port_taken_by_another_program_is_passed_over_and_comes_back() {
    let daemon = Daemon::builder(Mode::Plain).ports(4).start();
    let api = daemon.api();
    let first = daemon.block.first + 1;
    let holders: Vec<TcpListener> = (first..first + 2)
        .map(|port| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap())
        .collect();
    let mapping = api.add_public(60, NEVER);
    assert!(mapping.port1 >= first + 2 && mapping.port2 >= first + 2, "{mapping:?}");
    api.post(ADD, &form(&[("mapping", PUBLIC)])).failed(507);
    drop(holders);
    // A program that another test is just starting may hold a copy of the socket for a moment.
    until("the ports are given out", || api.post(ADD, &form(&[("mapping", PUBLIC)])).status == 200);
}

#[test]
fn hundred_adds_and_removes_at_once_are_all_right() {
    let daemon = Daemon::builder(Mode::Plain).ports(63).start();
    let all: Vec<Mapping> = thread::scope(|scope| {
        let threads: Vec<_> = (0..10)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = daemon.api().connect();
                    for _ in 0..5 {
                        let mapping = connection.post(ADD, &form(&[("mapping", PUBLIC)])).mapping();
                        connection.post(REMOVE, &form(&[("mappingid", &mapping.id)])).ok();
                    }
                    (0..2)
                        .map(|_| connection.post(ADD, &form(&[("mapping", PUBLIC)])).mapping())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let ports: HashSet<u16> = all.iter().flat_map(|one| [one.port1, one.port2]).collect();
    assert_eq!(ports.len(), 40, "a port was given twice");
    assert_eq!(daemon.api().status("all")["mappings"], 20);
    assert_eq!(daemon.state_file()["mappings"].as_array().unwrap().len(), 20);
    for mapping in &all {
        daemon.session(mapping);
    }
}

fn ports_listen_when_add_answers(mode: Mode) {
    let daemon = Daemon::builder(mode).ports(63).start();
    let mut connection = daemon.api().connect();
    for _ in 0..30 {
        let mapping = connection.post(ADD, &form(&[("mapping", PUBLIC)])).mapping();
        Link::plain(at(mapping.port1)).expect("port1 listens");
        Link::plain(at(mapping.port2)).expect("port2 listens");
    }
}

// Status

fn status_tells_active_from_unknown(mode: Mode) {
    let daemon = Daemon::new(mode);
    let api = daemon.api();
    let all = api.status("all");
    assert_eq!(keys(&all), ["availablePorts", "id", "mappings", "status", "timestamp", "version"]);
    assert_eq!(all["id"], "all");
    assert_eq!(all["status"], "running");
    assert_eq!(all["mappings"], 0);
    assert_eq!(all["availablePorts"], 15);
    assert_eq!(all["version"], env!("CARGO_PKG_VERSION"));

    let public = api.add_public(60, NEVER);
    let one = api.status(&public.id);
    assert_eq!(keys(&one), ["id", "private", "public", "timestamp"]);
    assert_eq!(one["id"], public.id.as_str());
    assert_eq!((&one["public"], &one["private"]), (&json!("Active"), &json!("Active")));
    let private = api.add_private(1, NEVER);
    let one = api.status(&private.id);
    assert_eq!(keys(&one), ["id", "private1", "private2", "timestamp"]);
    assert_eq!((&one["private1"], &one["private2"]), (&json!("Active"), &json!("Active")));
    assert_eq!(api.status("all")["mappings"], 2);
    assert_eq!(api.status("all")["availablePorts"], 11);

    api.post(STATUS, &form(&[("mappingid", "unknown")])).failed(404);
    assert!(api.post(STATUS, "").failed(400).contains("mappingid"));
    api.remove(&public);
    api.post(STATUS, &form(&[("mappingid", &public.id)])).failed(404);
}

fn get_status_shows_tunnels_users_and_bytes(mode: Mode) {
    let daemon = Daemon::new(mode);
    let api = daemon.api();
    let mapping = api.add_public(7, NEVER);
    let text = api.state_of(&mapping).unwrap().to_string();
    let scheme = if mode == Mode::Tls { "https" } else { "http" };
    assert!(text.contains(&format!("{scheme}://127.0.0.1:{}", mapping.port2)), "{text}");
    let (mut user, mut agent) = daemon.session(&mapping);
    agent.send(&[7; 100]);
    user.expect(&[7; 100]);
    let _idle = daemon.tunnel(&mapping);
    until("one idle, one in use", || api.idle(&mapping) == 1 && api.in_use(&mapping) == 1);
    until("the bytes are counted", || {
        api.bytes_up(&mapping) == 8 && api.bytes_down(&mapping) == 100
    });
    let state = api.state();
    assert!(state["uptime"].is_number(), "{state}");
    assert_eq!(state["version"], env!("CARGO_PKG_VERSION"), "{state}");
    let private = api.add_private(1, NEVER);
    assert_eq!(api.state_of(&private).unwrap()["public"], false);
}

#[test]
fn get_status_shows_where_tunnels_come_from_and_which_version_they_are_of() {
    let daemon = Daemon::new(Mode::Plain);
    let api = daemon.api();
    let mapping = api.add_private(60, NEVER);
    let side = |at: usize| api.state_of(&mapping).unwrap()["sides"][at].clone();
    assert_eq!(
        (&side(0)["agents"], &side(0)["tunnels"]["versions"]),
        (&json!([]), &json!([0, 0, 0]))
    );
    let before = now();
    let _one = daemon.agent(mapping.port1).prove(&mapping.passcode1);
    let two = daemon.agent(mapping.port1).prove(&mapping.passcode1);
    until("both are there", || side(0)["tunnels"]["versions"] == json!([2, 0, 0]));
    let agents = side(0)["agents"].clone();
    let since = agents[0]["since"].as_u64().unwrap_or_default();
    assert_eq!(agents, json!([{"address": "127.0.0.1", "since": since, "tunnels": 2}]));
    assert!((before..=now()).contains(&since), "{since}");
    assert_eq!(side(1)["agents"], json!([]));
    drop(two);
    until("one has left", || side(0)["agents"][0]["tunnels"] == 1);
    assert_eq!(side(0)["agents"][0]["since"], since);
    let files = &api.state()["files"];
    let [used, allowed] = ["inUse", "allowed"].map(|name| files[name].as_u64().unwrap());
    assert!(0 < used && used < allowed, "{files}");
}

// The page for people

fn page_is_for_people_with_all_in_it_and_a_strict_policy(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let _tunnel = daemon.tunnel(&mapping);
    for caller in [daemon.api(), daemon.control()] {
        let page = caller.get("/");
        assert_eq!(page.status, 200);
        for (name, value) in [
            ("content-type", "text/html; charset=utf-8"),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(page.header(name), Some(value), "{name}");
        }
        let policy = page.header("content-security-policy").expect("a policy");
        let policy: Vec<_> = policy.split("; ").collect();
        for rule in [
            "default-src 'none'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.contains(&rule), "{rule} is not in {policy:?}");
        }
        assert!(!policy.iter().any(|rule| rule.contains("'unsafe-")), "{policy:?}");
        let text = String::from_utf8(page.body.clone()).expect("UTF-8");
        assert!(text.starts_with("<!DOCTYPE html>") && text.ends_with("</html>\n"), "{text}");
        // Nothing that a browser would fetch from anywhere.
        for outside in ["src=", "@import", "url(", "<link rel=\"stylesheet"] {
            assert!(!text.contains(outside), "{outside} in {text}");
        }
        // The table is there without a script.
        let ports = format!("<td>{} {}</td>", mapping.port1, mapping.port2);
        for cell in [
            &format!("<th scope=\"row\">{}</th>", mapping.id),
            &ports,
            "<td>1/0/60 (1\u{a0}v1)</td>",
        ] {
            assert!(text.contains(cell), "{cell} is not in {text}");
        }
    }
    let mut connection = daemon.api().connect();
    connection.send(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let head = String::from_utf8(connection.link.until_end()).expect("UTF-8");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Security-Policy: default-src 'none'; "), "{head}");
    // The query is for the page's own use, and errors stay JSON.
    assert_eq!(daemon.api().get("/?x").status, 200);
    assert_eq!(daemon.api().get(STATUS).header("content-security-policy"), None);
}

#[test]
fn page_shows_whatever_text_as_text() {
    let id = "<script>alert(1)</script>\"'&\u{202e}";
    let daemon = Daemon::builder(Mode::Plain).prepare();
    let port = daemon.block.first + 1;
    let stored = json!({"mappings": [{
        "id": id, "port1": port, "port2": port + 1,
        "maxconnectionsport1": 1, "maxconnectionsport2": 0,
        "passcodeport1": "a-secret", "passcodeport2": "",
        "heartbeatabsencethresholdport1": 0, "heartbeatabsencethresholdport2": 0,
    }]});
    daemon.write("configs.json", &stored.to_string());
    let mut daemon = daemon;
    daemon.start();
    let page = String::from_utf8(daemon.api().get("/").body).expect("UTF-8");
    assert_eq!(page.matches("<script>").count(), 1, "{page}");
    let text = "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;\\u{202e}</th>";
    assert!(page.contains(text), "{page}");
}

fn metrics_are_prometheus_text_with_live_counters(mode: Mode) {
    let daemon = Daemon::new(mode);
    let api = daemon.api();
    let mapping = api.add_public(60, NEVER);
    let answer = api.get("/metrics");
    let kind = answer.header("content-type").unwrap();
    assert!(kind.starts_with("text/plain"), "{kind}");
    let value_sum = |metrics: &str| -> f64 {
        let mut sum = 0.0;
        let mut seen = HashSet::new();
        for line in metrics.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                assert!(comment.starts_with("HELP ") || comment.starts_with("TYPE "), "{line}");
                continue;
            }
            let (name, value) = line.rsplit_once(' ').expect("name and value");
            assert!(seen.insert(name.to_owned()), "twice: {name}");
            let value: f64 = value.parse().expect("a number");
            let first = name.bytes().next().unwrap();
            assert!(first.is_ascii_alphabetic() || first == b'_', "{line}");
            if name.contains(&mapping.id) {
                sum += value;
            }
        }
        assert!(metrics.ends_with('\n'));
        sum
    };
    let before = value_sum(&api.metrics());
    let (mut user, mut agent) = daemon.session(&mapping);
    agent.send(&[7; 5000]);
    user.expect(&[7; 5000]);
    until("the counters have moved", || value_sum(&api.metrics()) >= before + 5000.0);
}

fn no_answer_but_add_shows_a_passcode(mode: Mode) {
    let daemon = Daemon::new(mode);
    let api = daemon.api();
    let public = api.add_public(60, NEVER);
    let private = api.add_private(1, NEVER);
    let direct = api.post("/api/v2/direct/add", "").ok();
    let passkey = direct["passkey"].as_str().unwrap();
    let secrets: [&str; 4] = [&public.passcode1, &private.passcode1, &private.passcode2, passkey];
    daemon.agent(public.port1).is_accepted(&"x".repeat(36));
    let _tunnel = daemon.tunnel(&public);
    let mut answers = vec![
        api.get(STATUS).body,
        api.get("/metrics").body,
        api.get("/").body,
        api.post(STATUS, "mappingid=all").body,
        api.post(STATUS, &form(&[("mappingid", &public.id)])).body,
        api.post(STATUS, &form(&[("mappingid", &private.id)])).body,
        api.post(COMMAND, "command=status").body,
        api.post(COMMAND, "command=help").body,
        daemon.control().get(STATUS).body,
        api.post("/api/v2/direct", &form(&[("id", "x"), ("passkey", passkey)])).body,
        api.post(REMOVE, &form(&[("mappingid", &public.id)])).body,
    ];
    answers.push(daemon.cli(&["status"]).stdout);
    answers.push(daemon.cli(&["status", "--json"]).stdout);
    for answer in answers {
        let text = String::from_utf8_lossy(&answer).into_owned();
        for secret in secrets {
            assert!(!text.contains(secret), "a passcode in {text}");
        }
    }
}

#[test]
fn commandline_answers_texts() {
    let daemon = Daemon::new(Mode::Plain);
    let api = daemon.api();
    for command in ["status", "version", "help"] {
        let answer = api.post(COMMAND, &form(&[("command", command), ("params", "x")])).ok();
        assert_eq!(keys(&answer), ["response", "timestamp"]);
        assert!(!answer["response"].as_str().unwrap().is_empty());
    }
    let version = api.post(COMMAND, "command=version").ok();
    assert!(version["response"].as_str().unwrap().contains(env!("CARGO_PKG_VERSION")));
    assert!(api.post(COMMAND, "").failed(400).contains("command"));
    api.post(COMMAND, "command=dance").failed(400);
}

#[test]
fn stop_works_on_the_unix_socket_alone() {
    for mode in [Mode::Plain, Mode::Tls] {
        let mut daemon = Daemon::new(mode);
        daemon.api().post(COMMAND, "command=stop").failed(403);
        assert!(daemon.is_running());
        daemon.control().post(COMMAND, "command=stop").ok();
        assert!(daemon.wait().status.success());
    }
}

// Direct connections

fn direct_connection_introduces_two_agents(mode: Mode) {
    let daemon = Daemon::new(mode);
    let api = daemon.api();
    let direct = api.post("/api/v2/direct/add", "").ok();
    assert_eq!(keys(&direct), ["id", "passkey", "port", "status", "timestamp"]);
    assert_eq!(direct["status"], "ok");
    assert_eq!(direct["port"], 12345);
    let (id, passkey) = (direct["id"].as_str().unwrap(), direct["passkey"].as_str().unwrap());
    assert_uuid4(id);
    assert_eq!(api.status("all")["mappings"], 0, "a direct connection counts as a mapping");
    assert_eq!(api.status("all")["availablePorts"], 15);

    let call = |passkey: &str, ip: &str, port: &str, certificate: &str| {
        api.post(
            "/api/v2/direct",
            &form(&[
                ("id", id),
                ("passkey", passkey),
                ("ip", ip),
                ("port", port),
                ("certificate", certificate),
            ]),
        )
    };
    call("wrong", "10.0.0.1", "1000", "").failed(404);
    let first = call(passkey, "10.0.0.1", "1000", "-----BEGIN one\n+/=-----").ok();
    assert_eq!(first["status"], "wait");
    let second = call(passkey, "10.0.0.2", "2000", "two").ok();
    assert_eq!(second["status"], "ok");
    assert_eq!(second["ip"], "10.0.0.1");
    assert_eq!(second["remoteip"], "127.0.0.1");
    assert_eq!(second["port"].to_string().trim_matches('"'), "1000");
    assert_eq!(second["certificate"], "-----BEGIN one\n+/=-----");

    // `direct/remove` takes `id` as well as `mappingid`.
    let removed = api.post("/api/v2/direct/remove", &form(&[("id", id)])).ok();
    assert_eq!(removed["id"], id);
    call(passkey, "10.0.0.1", "1000", "").failed(404);
    let again = api.post("/api/v2/direct/add", "").ok();
    let again = again["id"].as_str().unwrap();
    api.post("/api/v2/direct/remove", &form(&[("mappingid", again)])).ok();
    let said = api.post("/api/v2/direct/remove", &form(&[("mappingid", again)])).failed(404);
    assert_eq!(said, format!("no direct connection has the id {again:?}"));
}

#[test]
fn direct_errors_name_what_is_missing() {
    let daemon = Daemon::new(Mode::Plain);
    let api = daemon.api();
    assert!(api.post("/api/v2/direct/remove", "").failed(400).contains("id"));
    let direct = api.post("/api/v2/direct/add", "").ok();
    let (id, passkey) = (direct["id"].as_str().unwrap(), direct["passkey"].as_str().unwrap());
    assert!(api.post("/api/v2/direct", "").failed(400).contains("id"));
    let body = form(&[("id", id), ("ip", "10.0.0.1"), ("port", "1"), ("certificate", "")]);
    assert!(api.post("/api/v2/direct", &body).failed(400).contains("passkey"));
    let body = form(&[
        ("id", "unknown"),
        ("passkey", passkey),
        ("ip", "10.0.0.1"),
        ("port", "1"),
        ("certificate", ""),
    ]);
    api.post("/api/v2/direct", &body).failed(404);
    // A mapping is no direct connection and the other way round.
    let mapping = api.add_public(60, NEVER);
    api.post("/api/v2/direct/remove", &form(&[("mappingid", &mapping.id)])).failed(404);
    api.post(REMOVE, &form(&[("mappingid", id)])).failed(404);
}

// HTTP

#[test]
fn unknown_paths_are_404_and_wrong_methods_405_with_allow() {
    let daemon = Daemon::new(Mode::Plain);
    let api = daemon.api();
    for path in ["/index.html", "/api/v2", "/api/v2/mapping", "/api/v1/status", "/%2e"] {
        api.get(path).failed(404);
        api.post(path, "").failed(404);
    }
    for path in [ADD, REMOVE, COMMAND, "/api/v2/direct", "/api/v2/direct/add"] {
        let answer = api.get(path);
        answer.failed(405);
        assert_eq!(answer.header("allow"), Some("POST"));
    }
    for path in ["/metrics", "/"] {
        let answer = api.post(path, "");
        answer.failed(405);
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
    let mut connection = api.connect();
    connection.send(b"DELETE /api/v2/status HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = connection.response();
    answer.failed(405);
    let allow: Vec<&str> = answer.header("allow").unwrap().split(", ").collect();
    assert!(allow.contains(&"GET") && allow.contains(&"POST"), "{allow:?}");
}

#[test]
fn content_types_other_than_a_form_are_415_and_none_is_a_form() {
    let daemon = Daemon::new(Mode::Plain);
    let api = daemon.api();
    let send = |kind: Option<&str>| {
        let kind = kind.map(|kind| format!("Content-Type: {kind}\r\n")).unwrap_or_default();
        let body = "mappingid=all";
        let mut connection = api.connect();
        connection.send(
            format!(
                "POST {STATUS} HTTP/1.1\r\nHost: localhost\r\n{kind}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        connection.response()
    };
    for good in [
        None,
        Some("application/x-www-form-urlencoded"),
        Some("application/x-www-form-urlencoded; charset=UTF-8"),
        Some("Application/X-WWW-Form-Urlencoded"),
    ] {
        send(good).ok();
    }
    for bad in ["text/plain", "multipart/form-data; boundary=x", "application/octet-stream"] {
        send(Some(bad)).failed(415);
    }
}

#[test]
fn limits_of_head_body_and_target_have_their_codes() {
    let daemon = Daemon::new(Mode::Plain);
    let api = daemon.api();
    let send = |bytes: &[u8]| {
        let mut connection = api.connect();
        let _ = connection.link.try_send(bytes);
        connection.response()
    };
    // A body of exactly the limit, and of one byte more.
    let body = format!("mappingid=all&x={}", "x".repeat(64 * 1024 - 16));
    assert_eq!(body.len(), 64 * 1024);
    send(&post(STATUS, &body)).ok();
    let head = format!("POST {STATUS} HTTP/1.1\r\nHost: localhost\r\n");
    send(format!("{head}Content-Length: 65537\r\n\r\n").as_bytes()).failed(413);
    send(format!("{head}Content-Length: 99999999999999999999999\r\n\r\n").as_bytes());
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(3));
    send(chunked.as_bytes()).failed(413);
    // Without any length: in HTTP/1.1 that is an empty body, in HTTP/1.0 nothing is known.
    send(format!("POST {ADD} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).failed(411);
    send(format!("POST {ADD} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).failed(400);
    // Long targets and heads.
    send(format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(9000)).as_bytes())
        .failed(414);
    send(format!("GET {STATUS} HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9000)).as_bytes())
        .failed(431);
    let many: String = (0..2000).map(|number| format!("X{number}: y\r\n")).collect();
    send(format!("GET {STATUS} HTTP/1.1\r\n{many}\r\n").as_bytes()).failed(431);
    // A head well within the limit.
    let large =
        format!("GET {STATUS} HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(7000));
    send(large.as_bytes()).ok();
    assert_eq!(api.status("all")["mappings"], 0);
}

#[test]
fn requests_that_are_not_http_are_400_in_json() {
    let daemon = Daemon::new(Mode::Plain);
    let api = daemon.api();
    for bad in [
        "\0\0\0\0\r\n\r\n",
        "hello\r\n\r\n",
        "GET\r\n\r\n",
        "GET /api/v2/status\r\n\r\n",
        "GET /api/v2/status HTTP/1.1\r\nno colon\r\n\r\n",
        "GET /api/v2/status HTTP/1.1\r\nA b: c\r\n\r\n",
        "POST /api/v2/status HTTP/1.1\r\nContent-Length: ten\r\n\r\n0123456789",
        "POST /api/v2/status HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "POST /api/v2/status HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
        "POST /api/v2/status HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
        "POST /api/v2/status HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST /api/v2/status HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n",
        "POST /api/v2/status HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    ] {
        let mut connection = api.connect();
        connection.send(bad.as_bytes());
        connection.response().failed(400);
        // What follows could be read as another request by mistake: the connection ends.
        connection.expect_closed();
    }
    let mut connection = api.connect();
    connection.send(b"POST /api/v2/status HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n");
    let status = connection.response().status;
    assert!(status == 400 || status == 501, "{status}");
}

fn keep_alive_carries_many_requests(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mut connection = daemon.api().connect();
    for _ in 0..20 {
        connection.get(STATUS).ok();
        connection.post(STATUS, "mappingid=all").ok();
        // An error in the parameters does not end the connection.
        connection.post(STATUS, "mappingid=unknown").failed(404);
        connection.get("/unknown").failed(404);
    }
    connection.send(b"GET /api/v2/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    connection.response().ok();
    connection.expect_closed();
    let mut old = daemon.api().connect();
    old.send(b"GET /api/v2/status HTTP/1.0\r\n\r\n");
    old.response().ok();
    old.expect_closed();
}

fn pipelined_requests_are_answered_in_order(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let mut connection = daemon.api().connect();
    let one = form(&[("mappingid", &mapping.id)]);
    let mut all = Vec::new();
    for round in 0..50 {
        all.extend(post(STATUS, if round % 2 == 0 { &one } else { "mappingid=all" }));
    }
    connection.send(&all);
    for round in 0..50 {
        let expected = if round % 2 == 0 { mapping.id.as_str() } else { "all" };
        assert_eq!(connection.response().ok()["id"], expected);
    }
}

#[test]
fn answers_of_a_half_closed_caller_arrive() {
    let daemon = Daemon::new(Mode::Plain);
    let mut connection = daemon.api().connect();
    connection.send(&[post(STATUS, "mappingid=all"), post(STATUS, "mappingid=all")].concat());
    connection.link.finish();
    connection.response().ok();
    connection.response().ok();
    connection.expect_closed();
}

#[test]
fn expect_100_continue_is_answered() {
    let daemon = Daemon::new(Mode::Plain);
    let mut connection = daemon.api().connect();
    let head = |length: usize| {
        format!(
            "POST {STATUS} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    for _ in 0..2 {
        connection.send(head(13).as_bytes());
        assert_eq!(connection.response().status, 100);
        connection.send(b"mappingid=all");
        connection.response().ok();
    }
    // A body that came along needs no invitation, one that is too long gets none.
    connection.send(format!("{}mappingid=all", head(13)).as_bytes());
    let mut answer = connection.response();
    if answer.status == 100 {
        answer = connection.response();
    }
    answer.ok();
    connection.send(head(65_537).as_bytes());
    connection.response().failed(413);
}

#[test]
fn chunked_bodies_are_accepted() {
    let daemon = Daemon::new(Mode::Plain);
    let mut connection = daemon.api().connect();
    let head =
        format!("POST {STATUS} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    for body in [
        "d\r\nmappingid=all\r\n0\r\n\r\n",
        "1\r\nm\r\n00C;extension=1\r\nappingid=all\r\n0\r\nTrailer: x\r\n\r\n",
        "4\r\nmapp\r\n9\r\ningid=all\r\n0\r\n\r\n",
    ] {
        connection.send(format!("{head}{body}").as_bytes());
        assert_eq!(connection.response().ok()["id"], "all");
        // Byte by byte.
        for byte in format!("{head}{body}").bytes() {
            connection.send(&[byte]);
        }
        assert_eq!(connection.response().ok()["id"], "all");
    }
}

#[test]
fn request_may_be_cut_at_every_byte() {
    let daemon = Daemon::new(Mode::Plain);
    let request = post(STATUS, "mappingid=all");
    let mut connection = daemon.api().connect();
    for cut in 0..=request.len() {
        connection.send(&request[..cut]);
        thread::sleep(ms(1));
        connection.send(&request[cut..]);
        assert_eq!(connection.response().ok()["id"], "all", "cut at {cut}");
    }
    for byte in &request {
        connection.send(&[*byte]);
    }
    connection.response().ok();
    // And abandoned at every byte.
    for cut in 0..request.len() {
        let mut connection = daemon.api().connect();
        connection.send(&request[..cut]);
        if cut % 2 == 0 { connection.link.reset() } else { drop(connection) }
    }
    daemon.api().status("all");
}

#[test]
fn slow_requests_are_408_after_ten_seconds() {
    let daemon = Daemon::new(Mode::Plain);
    let start = Instant::now();
    let starts: [&[u8]; 3] = [
        b"GET /api/v2/sta",
        b"POST /api/v2/status HTTP/1.1\r\nContent-Length: 10\r\n\r\nmappi",
        b"POST /api/v2/status HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nmap",
    ];
    let mut connections = Vec::new();
    for bytes in starts {
        let mut connection = daemon.api().connect();
        connection.send(bytes);
        connections.push(connection);
    }
    // One that keeps sending a little is as slow.
    let mut dripping = daemon.api().connect();
    thread::scope(|scope| {
        scope.spawn(|| {
            for byte in b"GET /api/v2/status?".iter().chain([b'x'; 300].iter()) {
                if dripping.link.try_send(&[*byte]).is_err() || !dripping.link.is_quiet() {
                    break;
                }
                thread::sleep(ms(100));
            }
            dripping.response().failed(408);
            assert!(start.elapsed() >= Duration::from_secs(9));
        });
        for connection in &mut connections {
            connection.response().failed(408);
            assert!(start.elapsed() >= Duration::from_secs(9), "after {:?}", start.elapsed());
            connection.expect_closed();
        }
    });
}

fn thousand_mute_connections_do_not_stop_the_api(mode: Mode) {
    let daemon = Daemon::new(mode);
    let address = daemon.api_address();
    let mut mute: Vec<Link> = (0..1000).map(|_| Link::plain(address).expect("connect")).collect();
    for link in mute.iter_mut().step_by(3) {
        let _ = link.try_send(b"GET /api");
    }
    let mapping = daemon.api().add_public(60, NEVER);
    daemon.session(&mapping);
    daemon.control().get(STATUS).ok();
    drop(mute);
    daemon.api().get(STATUS).ok();
}

// Who may call

#[test]
fn only_controllers_may_call() {
    let daemon = Daemon::builder(Mode::Plain).set("controllers", json!(["192.0.2.7"])).start();
    for path in [STATUS, "/metrics", "/", "/unknown"] {
        daemon.api().get(path).failed(403);
    }
    daemon.api().post(ADD, &form(&[("mapping", PUBLIC)])).failed(403);
    // The Unix socket is guarded by its mode.
    daemon.control().add_public(60, NEVER);

    for allowed in ["127.0.0.1", "127.0.0.0/8", "0.0.0.0/0"] {
        let daemon =
            Daemon::builder(Mode::Plain).set("controllers", json!(["192.0.2.7", allowed])).start();
        daemon.api().get(STATUS).ok();
    }
}

fn what_a_page_of_another_site_makes_a_browser_send_is_403(mode: Mode) {
    let daemon = Daemon::new(mode);
    let api = daemon.api();
    let (scheme, other) = if mode == Mode::Tls { ("https", "http") } else { ("http", "https") };
    let own = daemon.api_address();
    let body = form(&[("mapping", PUBLIC)]);
    let sent = |caller: &Controller, fields: &str| {
        let mut connection = caller.connect();
        // The body would never come: what is refused is so by its head.
        let length = body.len();
        let head = format!("POST {ADD} HTTP/1.1\r\n{fields}Content-Length: {length}\r\n\r\n");
        connection.send(head.as_bytes());
        connection
    };
    for (fields, named) in [
        ("Origin: http://page.example\r\n".to_owned(), "http://page.example"),
        ("Origin: null\r\n".to_owned(), "null"),
        (format!("Origin: {other}://{own}\r\nHost: {own}\r\n"), other),
        (format!("Origin: {scheme}://{own}\r\nHost: localhost\r\n"), scheme),
        (format!("Host: {own}\r\nSec-Fetch-Site: cross-site\r\n"), "cross-site"),
        (format!("Host: {own}\r\nSec-Fetch-Site: same-site\r\n"), "same-site"),
        ("Host: rebound.example:8080\r\n".to_owned(), "rebound.example"),
        (
            "Host: rebound.example\r\nOrigin: http://rebound.example\r\nSec-Fetch-Site: same-origin\r\n"
                .to_owned(),
            "rebound.example",
        ),
    ] {
        let mut connection = sent(&api, &fields);
        let message = connection.response().failed(403);
        assert!(message.contains(named), "{fields}: {message}");
        assert!(message.contains("call "), "no remedy: {message}");
        connection.expect_closed();
    }
    assert_eq!(api.status("all")["mappings"], 0);
    assert_eq!(api.state()["apiRefused"], 8);
    // What this API's own page sends, a browser's address line, and programs.
    let machine = rustix::system::uname();
    for fields in [
        format!("Host: {own}\r\nOrigin: {scheme}://{own}\r\nSec-Fetch-Site: same-origin\r\n"),
        format!("Host: {own}\r\nSec-Fetch-Site: none\r\n"),
        format!("Host: {}:1\r\n", machine.nodename().to_str().unwrap()),
        "Host: LOCALHOST.\r\n".to_owned(),
        "Host: [::1]:80\r\n".to_owned(),
        String::new(),
    ] {
        let mut connection = sent(&api, &fields);
        connection.send(body.as_bytes());
        api.remove(&connection.response().mapping());
    }
    // A link on another's page does not open this one's, and an address that is typed does.
    for (site, expected) in [("cross-site", 403), ("same-site", 403), ("none", 200)] {
        let mut connection = api.connect();
        let head = format!("GET / HTTP/1.1\r\nHost: {own}\r\nSec-Fetch-Site: {site}\r\n\r\n");
        connection.send(head.as_bytes());
        assert_eq!(connection.response().status, expected, "{site}");
    }
    // The command line's socket is guarded by its mode, and no browser opens it.
    let mut connection = sent(&daemon.control(), "Host: x\r\nOrigin: http://page.example\r\n");
    connection.send(body.as_bytes());
    connection.response().mapping();
}

#[test]
fn the_name_in_address_is_one_of_the_apis() {
    let daemon = Daemon::builder(Mode::Plain).set("address", "Connector.Example").start();
    let get = |host: &str| {
        let mut connection = daemon.api().connect();
        connection.send(format!("GET {STATUS} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        connection.response()
    };
    get("connector.example:8080").ok();
    get("connector.example.example:8080").failed(403);
}

#[test]
fn controllers_are_known_on_a_dual_stack_socket_too() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        could_not_run("this machine has no IPv6");
        return;
    }
    let builder = Daemon::builder(Mode::Plain).set("controllers", json!(["127.0.0.1"]));
    let mut daemon = builder.prepare();
    let port = daemon.block.first;
    daemon.set("api", format!("[::]:{port}"));
    daemon.start();
    // An IPv4 caller has a mapped IPv6 address there.
    daemon.api().get(STATUS).ok();
    let six = Controller::tcp(SocketAddr::from((Ipv6Addr::LOCALHOST, port)), None);
    six.get(STATUS).failed(403);
}

#[test]
fn controllerca_lets_only_its_own_certificates_in() {
    let authority = Authority::new("controllers");
    let mut daemon = Daemon::builder(Mode::Tls).file("controllers.pem", authority.pem()).prepare();
    daemon.set("controllerca", daemon.config().join("controllers.pem").to_str().unwrap());
    daemon.start();
    let pem = daemon.config().join("server-cert.pem");
    let ask = |config, path| {
        let api = Controller::tcp(daemon.api_address(), Some(config));
        let mut connection = api.try_connect().ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        connection.link.try_send(request.as_bytes()).ok()?;
        match connection.link.record() {
            Got::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    };
    let call = |config| ask(config, STATUS);
    let good = authority.sign(&["controller"]);
    let answer = ask(trusting_with_identity(&pem, &good), "/").expect("the page");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "no page");
    assert!(ask(trusting(&pem), "/").is_none(), "the page without a certificate");
    let answer = call(trusting_with_identity(&pem, &good)).expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    let stranger = Authority::new("controllers").sign(&["controller"]);
    // A refusal is an alert within the handshake or right after it.
    assert!(call(trusting_with_identity(&pem, &stranger)).is_none(), "another's certificate");
    assert!(call(trusting(&pem)).is_none(), "no certificate");
    // Agents and users need none.
    let mapping = daemon.control().add_public(60, NEVER);
    daemon.session(&mapping);
}

#[test]
fn new_controllerca_counts_for_connections_that_are_open_already() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let daemon = Daemon::builder(Mode::Tls).file("ca.pem", first.pem()).start();
    let reload = || {
        let count = || daemon.log_text().matches("settings reloaded").count();
        let before = count();
        daemon.signal(Signal::HUP);
        until("the settings are read again", || count() > before);
    };
    let outdated = |mut open: Connection| {
        let message = open.get(STATUS).failed(403);
        assert!(message.contains("client certificates that are accepted"), "{message}");
        open.expect_closed();
    };
    let pem = daemon.config().join("server-cert.pem");
    let mut anybody = daemon.api().connect();
    anybody.get(STATUS).ok();
    daemon.set("controllerca", "ca.pem");
    reload();
    outdated(anybody);
    let identity = first.sign(&["controller"]);
    let config = trusting_with_identity(&pem, &identity);
    let mut known = Controller::tcp(daemon.api_address(), Some(config)).connect();
    known.get(STATUS).ok();
    // The same once more is nothing new.
    reload();
    known.get(STATUS).ok();
    daemon.write("ca.pem", &second.pem());
    reload();
    outdated(known);
}

#[test]
fn unix_socket_is_for_the_owner_alone_and_answers_the_same() {
    for mode in [Mode::Plain, Mode::Tls] {
        let daemon = Daemon::new(mode);
        let kind = std::fs::symlink_metadata(daemon.socket()).unwrap();
        assert_eq!(kind.permissions().mode() & 0o777, 0o600);
        let control = daemon.control();
        let mapping = control.add_public(60, NEVER);
        assert_eq!(daemon.api().status(&mapping.id)["public"], "Active");
        let mut connection = control.connect();
        connection.get(STATUS).ok();
        connection.get("/unknown").failed(404);
        control.remove(&mapping);
    }
}

#[test]
fn api_open_to_others_without_a_guard_is_warned_of() {
    let mut daemon = Daemon::builder(Mode::Plain).prepare();
    daemon.set("api", format!("0.0.0.0:{}", daemon.block.first));
    daemon.start();
    let state = daemon.api().state().to_string();
    assert!(state.contains("controllers"), "no warning in {state}");
    assert!(daemon.log_text().contains("controllers") || daemon.stderr().contains("controllers"));
    let guarded = Daemon::new(Mode::Plain);
    let state = guarded.api().state().to_string();
    assert!(!state.contains("controllers"), "a needless warning in {state}");
}

#[test]
fn listen_that_is_not_this_machines_is_named_by_status_check_log_and_add() {
    let daemon = Daemon::builder(Mode::Plain).set("listen", "192.0.2.77").start();
    let message = daemon.api().post(ADD, &form(&[("mapping", PUBLIC)])).failed(507);
    let check = daemon.cli(&["check"]);
    let check = String::from_utf8_lossy(&check.stderr).into_owned();
    for said in [message, daemon.api().state()["warnings"].to_string(), check, daemon.log_text()] {
        assert!(said.contains("does not have the address 192.0.2.77"), "{said}");
    }
    daemon.set("api", "192.0.2.78:8080");
    let check = daemon.cli(&["check"]);
    let check = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(check.contains("does not have the address 192.0.2.78, the setting api"), "{check}");
}
