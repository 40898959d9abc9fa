//! What the original Connector, written in Java, failed at: fifteen failures, each reproduced on
//! it and each a test here. The names tell the promise that it broke.

use std::net::{Ipv6Addr, TcpListener};
use std::thread;

use crate::common::*;
use serde_json::{Value, json};

in_both_modes!(
    failure_01_data_both_ways_at_once_does_not_deadlock,
    failure_02_second_mapping_keeps_the_firsts_sessions_and_tunnels,
    failure_03_next_user_gets_nothing_of_the_last_ones_answer,
    failure_04_connections_without_a_passcode_are_no_tunnels,
    failure_05_users_whom_nobody_can_serve_are_closed_or_served_later,
    failure_06_heartbeat_while_the_agent_is_slow_to_read_keeps_the_upload,
    failure_07_slow_user_holds_up_neither_heartbeats_nor_others,
    failure_08_user_leaving_in_mid_download_harms_no_agent_and_half_closed_users_are_answered,
    failure_09_add_followed_at_once_by_remove_leaves_no_port_open,
    failure_10_ports_listen_when_add_answers_and_busy_ports_come_back,
    failure_11_passcode_split_by_tcp_or_followed_by_data_is_accepted,
    failure_12_every_error_is_json_and_every_request_is_answered,
    failure_13_state_keeps_both_limits_every_entry_and_a_corrupt_file,
    failure_14_direct_connection_stays_one_after_a_restart,
    failure_15_heartbeat_absence_is_enforced_and_an_agents_user_is_not_left_hanging,
);

const NEVER: u64 = 200_000;

fn failure_01_data_both_ways_at_once_does_not_deadlock(mode: Mode) {
    let daemon = Daemon::new(mode);
    let public = daemon.api().add_public(60, NEVER);
    let private = daemon.api().add_private(60, NEVER);
    for round in 0..4 {
        let (up, down) = (noise(round, 2 << 20), noise(!round, 2 << 20));
        let (mut user, mut agent) = daemon.session(&public);
        let (mut one, mut two) = daemon.pair(&private);
        // Four stuck pipes made the API hang: here all are in motion while it is asked.
        thread::scope(|scope| {
            let threads = [
                scope.spawn(|| assert_same(&user.exchange(&up, down.len()), &down, "user")),
                scope.spawn(|| assert_same(&agent.exchange(&down, up.len()), &up, "agent")),
                scope.spawn(|| assert_same(&one.exchange(&up, down.len()), &down, "port1")),
                scope.spawn(|| assert_same(&two.exchange(&down, up.len()), &up, "port2")),
            ];
            assert_eq!(daemon.api().status("all")["status"], "running");
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }
}

fn failure_02_second_mapping_keeps_the_firsts_sessions_and_tunnels(mode: Mode) {
    let daemon = Daemon::new(mode);
    let first = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&first);
    let mut idle = daemon.tunnel(&first);
    for _ in 0..3 {
        let other = daemon.api().add_public(60, NEVER);
        agent.send(b"answer");
        user.expect(b"answer");
        user.send(b"question");
        agent.expect(b"question");
        daemon.api().remove(&other);
    }
    // Once alone: two heartbeats would tell an interval, after twice which it were overdue.
    idle.beat_and_answer();
    // Two users do not share a tunnel either.
    let mut next = daemon.user(&first);
    next.send(b"another question");
    idle.expect(b"another question");
    idle.send(b"another answer");
    next.expect(b"another answer");
    agent.expect_silence(ms(50));
    user.expect_silence(ms(50));
}

fn failure_03_next_user_gets_nothing_of_the_last_ones_answer(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    // The service keeps its connection and goes on answering after its user has left.
    let service = Service::new(|mut socket| {
        use std::io::{Read, Write};
        let mut byte = [0];
        while let Ok(1) = socket.read(&mut byte) {
            for _ in 0..30 {
                if socket.write_all(&[byte[0]; 1000]).is_err() {
                    return;
                }
                thread::sleep(ms(5));
            }
        }
    });
    let agent = FieldAgent::start(&daemon, &mapping, 2, service.address);
    agent.wait_authorized();
    for number in b'a'..=b'h' {
        let mut user = daemon.user(&mapping);
        user.send(&[number]);
        user.expect(&[number; 2000]);
        user.reset();
    }
    let mut last = daemon.user(&mapping);
    last.send(b"z");
    last.expect(&[b'z'; 30_000]);
    agent.expect_no_strays();
}

fn failure_04_connections_without_a_passcode_are_no_tunnels(mode: Mode) {
    let daemon = Daemon::new(mode);
    let public = daemon.api().add_public(1, NEVER);
    let private = daemon.api().add_private(1, NEVER);
    let mut strangers: Vec<Agent> = (0..5)
        .flat_map(|_| [public.port1, private.port1, private.port2])
        .map(|port| daemon.agent(port))
        .collect();
    let mut user = daemon.user(&public);
    user.send(b"a user's secret");
    let mut one = daemon.tunnel(&private);
    one.send(b"a private message");
    thread::sleep(ms(200));
    for stranger in &mut strangers {
        assert!(stranger.is_quiet(), "a stranger was given something");
    }
    daemon.tunnel(&public).expect(b"a user's secret");
    daemon.tunnel2(&private).expect(b"a private message");
}

fn failure_05_users_whom_nobody_can_serve_are_closed_or_served_later(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 800).start();
    let mapping = daemon.api().add_public(60, NEVER);
    // No agent.
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    user.expect_closed();
    // All busy.
    let (mut served, agent) = daemon.session(&mapping);
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    user.expect_closed();
    // The agent gone in the middle.
    drop(agent);
    served.expect_closed();
    drop(daemon);

    let daemon = Daemon::builder(mode).set("userwait", 60_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    // Served later, when an agent comes.
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    user.expect_silence(ms(300));
    let mut agent = daemon.tunnel(&mapping);
    agent.expect(b"question");
    agent.send(b"answer");
    user.expect(b"answer");
    // The mapping removed.
    let mut waiting = daemon.user(&mapping);
    waiting.send(b"question");
    daemon.api().remove(&mapping);
    waiting.expect_closed();
    user.expect_closed();
}

fn failure_06_heartbeat_while_the_agent_is_slow_to_read_keeps_the_upload(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    agent.shrink();
    let mut upload = flood(6);
    let sent = user.fill(&upload);
    upload.truncate(sent + (1 << 20));
    agent.beat();
    thread::sleep(ms(200));
    thread::scope(|scope| {
        scope.spawn(|| user.send(&upload[sent..]));
        let got = agent.exactly(upload.len() + BEAT.len());
        let at = (0..=upload.len())
            .find(|at| got[*at..].starts_with(BEAT) && got[at + 4..] == upload[*at..])
            .expect("the answer within an upload that is otherwise exact");
        assert_same(&got[..at], &upload[..at], "the upload");
    });
    agent.send(b"thanks");
    user.expect(b"thanks");
}

fn failure_07_slow_user_holds_up_neither_heartbeats_nor_others(mode: Mode) {
    let daemon = Daemon::builder(mode).set("threads", 1).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let (slow, mut agent) = daemon.session(&mapping);
    slow.shrink();
    // Bytes that the user does not read, but not more than are on their way to it.
    agent.send(&noise(7, 3000));
    until("the bytes have left", || daemon.control().bytes_down(&mapping) == 3000);
    for _ in 0..5 {
        agent.beat_and_answer();
    }
    // Now as many as everything on the way can hold.
    agent.fill(&flood(8));
    let (mut user, mut other) = daemon.session(&mapping);
    other.send(b"answer");
    user.expect(b"answer");
    other.beat_and_answer();
}

fn failure_08_user_leaving_in_mid_download_harms_no_agent_and_half_closed_users_are_answered(
    mode: Mode,
) {
    // The rest of an old answer costs the agent its fresh tunnel, and each costs time.
    let daemon = Daemon::builder(mode).set("userwait", 60_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let service = Service::http();
    let agent = FieldAgent::start(&daemon, &mapping, 2, service.address);
    agent.wait_authorized();
    for _ in 0..4 {
        let mut user = daemon.user(&mapping);
        user.send(b"GET /3000000 HTTP/1.1\r\n\r\n");
        user.exactly(100_000);
        user.reset();
    }
    let mut user = daemon.user(&mapping);
    user.send(b"GET /3000000 HTTP/1.1\r\n\r\n");
    user.finish();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n";
    let answer = user.exactly(head.len() + 3_000_000);
    assert!(answer.starts_with(head));
    until("all tunnels are back", || agent.authorized() == 2);
    agent.expect_no_strays();
}

fn failure_09_add_followed_at_once_by_remove_leaves_no_port_open(mode: Mode) {
    let daemon = Daemon::builder(mode).ports(63).start();
    let mut connection = daemon.api().connect();
    let add = post(
        "/api/v2/mapping/add",
        &form(&[(
            "mapping",
            r#"{"type":"public","maxconnections":60,"heartbeatabsencethreshold":200000}"#,
        )]),
    );
    let mut ports = Vec::new();
    for _ in 0..60 {
        connection.send(&add);
        let mapping = connection.response().mapping();
        connection.send(&post("/api/v2/mapping/remove", &form(&[("mappingid", &mapping.id)])));
        connection.response().ok();
        ports.extend([mapping.port1, mapping.port2]);
    }
    for port in ports {
        assert!(Link::plain(at(port)).is_err(), "port {port} is still open");
    }
}

fn failure_10_ports_listen_when_add_answers_and_busy_ports_come_back(mode: Mode) {
    let daemon = Daemon::builder(mode).ports(8).start();
    let holder = TcpListener::bind((Ipv6Addr::UNSPECIFIED, daemon.block.first + 1)).unwrap();
    let mut mappings = Vec::new();
    for _ in 0..3 {
        let mapping = daemon.api().add_public(60, NEVER);
        Link::plain(at(mapping.port1)).expect("port1 listens");
        Link::plain(at(mapping.port2)).expect("port2 listens");
        mappings.push(mapping);
    }
    drop(holder);
    // A program that another test is just starting may hold a copy of the socket for a moment.
    until("the port is given out", || {
        let body = r#"{"type":"public","maxconnections":1,"heartbeatabsencethreshold":0}"#;
        daemon.api().post("/api/v2/mapping/add", &form(&[("mapping", body)])).status == 200
    });
}

fn failure_11_passcode_split_by_tcp_or_followed_by_data_is_accepted(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(1, NEVER);
    let mut one = daemon.agent(mapping.port1);
    let (begin, end) = mapping.passcode1.split_at(7);
    one.send(begin.as_bytes());
    thread::sleep(ms(50));
    one.send(end.as_bytes());
    one.expect_authorized();
    let mut two = daemon.agent(mapping.port2);
    two.send(format!("{}hello", mapping.passcode2).as_bytes());
    two.expect_authorized();
    one.expect(b"hello");
}

fn failure_12_every_error_is_json_and_every_request_is_answered(mode: Mode) {
    let daemon = Daemon::new(mode);
    let api = daemon.api();
    for path in [
        "/api/v2/mapping/add",
        "/api/v2/mapping/remove",
        "/api/v2/status",
        "/api/v2/commandline",
        "/api/v2/direct",
        "/api/v2/direct/remove",
    ] {
        for body in ["", "wrong=1", "%%%", "mapping=", "mappingid=", "command=", "id="] {
            let answer = api.post(path, body);
            let code = answer.status;
            assert!(code == 400 || code == 404, "{path} {body}: {code}");
            answer.failed(code);
        }
        let code = api.get(path).status;
        assert!(code == 405 || code == 200, "GET {path}: {code}");
    }
}

fn failure_13_state_keeps_both_limits_every_entry_and_a_corrupt_file(mode: Mode) {
    let mut daemon = Daemon::new(mode);
    daemon.api().add(
        r#"{"type":"private","maxconnectionsport1":3,"maxconnectionsport2":5,
            "heartbeatabsencethresholdport1":1000,"heartbeatabsencethresholdport2":2000}"#,
    );
    let entry = &daemon.state_file()["mappings"][0];
    assert_eq!(entry["maxconnectionsport1"], 3);
    assert_eq!(entry["maxconnectionsport2"], 5);
    assert_eq!(entry["heartbeatabsencethresholdport1"], 1000);
    assert_eq!(entry["heartbeatabsencethresholdport2"], 2000);

    // An entry whose port is outside the pool does not drop the rest.
    daemon.stop();
    let mut state = daemon.state_file();
    let mut outside = state["mappings"][0].clone();
    outside["id"] = json!("outside");
    outside["port1"] = json!(9);
    outside["port2"] = json!(10);
    state["mappings"].as_array_mut().unwrap().insert(0, outside);
    daemon.write("configs.json", &state.to_string());
    daemon.start();
    daemon.api().add_public(60, NEVER);
    let ids: Vec<Value> = daemon.state_file()["mappings"].as_array().unwrap().clone();
    assert_eq!(ids.len(), 3, "{ids:?}");
    assert!(ids.iter().any(|one| one["id"] == "outside"));

    // A corrupt file is never overwritten.
    daemon.stop();
    let corrupt = r#"{"mappings":[{"id":"#;
    daemon.write("configs.json", corrupt);
    daemon.spawn();
    assert!(!daemon.wait().status.success());
    assert_eq!(daemon.read("configs.json"), corrupt);
}

fn failure_14_direct_connection_stays_one_after_a_restart(mode: Mode) {
    let mut daemon = Daemon::new(mode);
    let direct = daemon.api().post("/api/v2/direct/add", "").ok();
    let (id, passkey) = (direct["id"].as_str().unwrap(), direct["passkey"].as_str().unwrap());
    daemon.restart();
    let all = daemon.api().status("all");
    assert_eq!((&all["mappings"], &all["availablePorts"]), (&json!(0), &json!(15)));
    let body = form(&[
        ("id", id),
        ("passkey", passkey),
        ("ip", "10.0.0.1"),
        ("port", "1"),
        ("certificate", "x"),
    ]);
    assert_eq!(daemon.api().post("/api/v2/direct", &body).ok()["status"], "wait");
    for port in daemon.block.all().skip(1) {
        assert!(Link::plain(at(port)).is_err(), "port {port} was opened");
    }
}

fn failure_15_heartbeat_absence_is_enforced_and_an_agents_user_is_not_left_hanging(mode: Mode) {
    let daemon = Daemon::new(mode);
    // Long enough to begin a session on a busy machine.
    let mapping = daemon.api().add_public(60, 4000);
    daemon.tunnel(&mapping).expect_closed();
    let (mut user, _agent) = daemon.session(&mapping);
    user.expect_closed();
    until("no tunnel is counted", || {
        daemon.control().idle(&mapping) == 0 && daemon.control().in_use(&mapping) == 0
    });
}
