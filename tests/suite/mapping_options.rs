//! Options of a mapping: names, wanted ports, plain users, who may connect, how many, and how long nothing may
//! happen (protocol page, section 3, step 2).

use std::sync::Arc;
use std::time::Instant;

use crate::common::*;
use serde_json::{Value, json};

in_both_modes!(
    mapping_is_found_by_its_name,
    wanted_ports_are_given_or_it_is_said_why_not,
    users_from_elsewhere_are_closed_and_counted,
    users_of_one_address_are_so_many_at_one_time,
    session_in_which_nothing_moves_is_broken_off_after_idle,
);

const NEVER: u64 = 200_000;

/// The JSON of a public pipe with these members beside the required ones.
fn public(members: Value) -> String {
    let mut mapping =
        json!({"type": "public", "maxconnections": 60, "heartbeatabsencethreshold": NEVER});
    let Value::Object(members) = members else { panic!("an object") };
    mapping.as_object_mut().unwrap().extend(members);
    mapping.to_string()
}

#[track_caller]
fn refused(daemon: &Daemon, status: u16, members: Value) -> String {
    let body = form(&[("mapping", &public(members))]);
    daemon.api().post("/api/v2/mapping/add", &body).failed(status)
}

fn mapping_is_found_by_its_name(mode: Mode) {
    let mut daemon = Daemon::new(mode);
    let mapping = daemon.api().add(&public(json!({"name": "ssh", "idle": null})));
    let other = daemon.api().add_public(60, NEVER);
    let taken = refused(&daemon, 409, json!({"name": "ssh"}));
    assert_eq!(taken, "name ssh is another mapping's; choose another one");
    // What looks like an id might be taken for one.
    refused(&daemon, 400, json!({"name": other.id}));
    daemon.restart();
    assert_eq!(daemon.api().status("ssh")["id"], mapping.id.as_str());
    let list = text(&daemon.cli(&["mapping", "list"]));
    let line = list.lines().find(|line| line.starts_with("ssh ")).expect("its line");
    assert!(line.contains(" public ") && !list.contains(&mapping.id), "{list}");
    assert!(text(&daemon.cli(&["status"])).contains("ssh "));
    assert_eq!(daemon.api().state_of(&mapping).unwrap()["options"], json!({"name": "ssh"}));
    let info = format!("mapping_info{{mapping=\"{}\",name=\"ssh\"}} 1", mapping.id);
    assert!(daemon.api().metrics().contains(&info), "{}", daemon.api().metrics());
    let info = format!("mapping_info{{mapping=\"{0}\",name=\"{0}\"}} 1", other.id);
    assert!(daemon.api().metrics().contains(&info), "{}", daemon.api().metrics());
    daemon.session(&mapping);
    assert!(daemon.cli(&["mapping", "remove", "ssh"]).status.success());
    assert!(daemon.api().state_of(&mapping).is_none());
    daemon.api().add(&public(json!({"name": "ssh"})));
}

#[test]
fn dev_that_takes_tls_from_users_is_warned_of_in_status_and_log() {
    let told = "alpn asks for it: mapping web, grpc; set dev to false";
    for mode in [Mode::Plain, Mode::Tls] {
        let row = |name: &str, users: Value, alpn: Value| {
            json!({"id": name, "name": name, "port1": 1, "port2": 2, "maxconnectionsport1": 1,
                "maxconnectionsport2": 0, "passcodeport1": "s3cret", "passcodeport2": "",
                "heartbeatabsencethresholdport1": 0, "heartbeatabsencethresholdport2": 0,
                "users": users, "alpn": alpn})
        };
        let rows = json!({"mappings": [row("web", json!("tls"), Value::Null),
            row("grpc", Value::Null, json!(["h2"])), row("ssh", json!("plain"), Value::Null)]});
        let daemon = Daemon::builder(mode).file("configs.json", rows.to_string()).start();
        let is_plain = usize::from(mode == Mode::Plain);
        let shown =
            [daemon.control().state()["warnings"].to_string(), text(&daemon.cli(&["status"]))];
        for shown in shown.iter().chain([&daemon.log_text()]) {
            assert_eq!(shown.matches(told).count(), is_plain, "{shown}");
        }
    }
}

fn wanted_ports_are_given_or_it_is_said_why_not(mode: Mode) {
    let daemon = Daemon::builder(mode).ports(4).start();
    let first = daemon.api().add_public(60, NEVER);
    daemon.api().remove(&first);
    let mapping = daemon.api().add(&public(json!({"port2": first.port1})));
    assert_eq!(mapping.port2, first.port1);
    assert_ne!(mapping.port1, mapping.port2);
    daemon.session(&mapping);
    let before = daemon.state_file();
    let why = refused(&daemon, 409, json!({"port1": mapping.port1}));
    let belongs = format!("port1 is {0}: port {0} belongs to another mapping", mapping.port1);
    assert_eq!(why, belongs);
    let outside = refused(&daemon, 400, json!({"port1": daemon.api_address().port()}));
    assert!(outside.contains("is not in the pool; in iofog-connector.conf, add it"), "{outside}");
    let same = refused(&daemon, 400, json!({"port1": 7, "port2": 7}));
    assert!(same.starts_with("port2 is 7, and port1 is 7"), "{same}");
    // A port that was opened for one that is refused is free again.
    refused(&daemon, 409, json!({"port1": first.port2, "port2": mapping.port2}));
    assert_eq!(daemon.state_file(), before);
    daemon.api().add(&public(json!({"port1": first.port2})));
}

#[test]
fn faulty_options_open_and_store_nothing() {
    let daemon = Daemon::new(Mode::Plain);
    for (members, words) in [
        (json!({"alow": ["192.0.2.1"]}), "unknown member \"alow\"; did you mean allow?"),
        (json!({"name": "Ssh"}), "name is \"Ssh\"; use 1 to 63 of a-z, 0-9 and -"),
        (json!({"users": "ssl"}), "users is \"ssl\"; use \"tls\" or \"plain\""),
        (
            json!({"users": "tls"}),
            "users is \"tls\", but with dev in the settings all ports are plain",
        ),
        (
            json!({"alpn": ["h2"]}),
            "alpn is given, but with dev in the settings all ports are plain",
        ),
        (json!({"alpn": "h2"}), "use a list of 1 to 8 names of 1 to 255 printable ASCII"),
        (json!({"allow": "192.0.2.1"}), "use a list"),
        (json!({"allow": ["192.0.2.1/8"]}), "write 192.0.0.0/8"),
        (json!({"usersperaddress": 0}), "use an integer from 1 to 65535"),
        (json!({"idle": 1}), "use an integer from 1000 to 2147483647"),
    ] {
        let why = refused(&daemon, 400, members.clone());
        assert!(why.contains(words), "{members}: {why}");
    }
    assert_eq!(daemon.api().status("all")["mappings"], 0);
    assert!(!daemon.config().join("configs.json").exists());
}

#[test]
fn faulty_option_in_the_state_file_stops_the_start() {
    let mut daemon = Daemon::new(Mode::Plain);
    daemon.api().add(&public(json!({"allow": ["192.0.2.0/24"]})));
    daemon.stop();
    let wrong = daemon.read("configs.json").replace("192.0.2.0/24", "192.0.2.7/24");
    daemon.write("configs.json", &wrong);
    let check = daemon.cli(&["check"]);
    assert_eq!(check.status.code(), Some(2));
    let said = text(&check);
    assert!(said.contains("192.0.2.7/24"), "{said}");
    assert!(said.contains("write 192.0.2.0/24"), "{said}");
    // And is left as it is.
    assert_eq!(daemon.read("configs.json"), wrong);
}

#[test]
fn plain_users_of_a_tls_connector_reach_a_service_that_speaks_first() {
    let mut daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add(&public(json!({"users": "plain"})));
    daemon.restart();
    let url = daemon.api().state_of(&mapping).unwrap()["url"].as_str().unwrap().to_owned();
    assert_eq!(url, format!("tcp://127.0.0.1:{}", mapping.port2));
    // Its tunnels speak TLS, as ever.
    let mut agent = daemon.version_two(&mapping);
    let mut user = Link::plain(at(mapping.port2)).unwrap();
    agent.read_header();
    agent.send(b"OPENSSH-2.0-server\r\n");
    user.expect(b"SSH-2.0-server\r\n");
    user.send(b"SSH-2.0-client\r\n");
    agent.expect(b"SSH-2.0-client\r\n");
    user.finish();
    assert_eq!(agent.rest(), (Vec::new(), Got::End));
    let mut first = daemon.tunnel(&mapping);
    let mut user = Link::plain(at(mapping.port2)).unwrap();
    user.send(b"question");
    first.expect(b"question");
    first.send(b"answer");
    user.expect(b"answer");
}

/// The protocol that a user comes to who offers these, or the alert's description.
fn offer(daemon: &Daemon, mapping: &Mapping, names: &[&str]) -> Result<Option<String>, String> {
    let mut config = (*daemon.trust()).clone();
    config.alpn_protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
    match Link::tls(at(mapping.port2), &Arc::new(config)) {
        Ok(mut user) => {
            user.send(b"question");
            Ok(user.protocol().map(str::to_owned))
        }
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn users_are_offered_the_protocols_of_alpn_in_its_order() {
    let mut daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add(&public(json!({"alpn": ["h2", "http/1.1"]})));
    let plain = daemon.api().add_public(60, NEVER);
    daemon.restart();
    let options = json!({"alpn": ["h2", "http/1.1"]});
    assert_eq!(daemon.api().state_of(&mapping).unwrap()["options"], options);
    let settled = |names: &[&str]| offer(&daemon, &mapping, names);
    let is = |name: &str| Ok(Some(name.to_owned()));
    assert_eq!(settled(&["http/1.1", "h2"]), is("h2"), "the mapping's order counts");
    assert_eq!(settled(&["imap", "http/1.1"]), is("http/1.1"));
    assert_eq!(settled(&[]), Ok(None), "who offers nothing is served");
    let alert = settled(&["imap"]).expect_err("RFC 7301, section 3.2");
    assert!(alert.contains("NoApplicationProtocol"), "{alert}");
    until("it is said why", || {
        let error = daemon.api().state_of(&mapping).unwrap()["lastError"].clone();
        error.as_str().is_some_and(|error| error.contains("none of the protocols in"))
    });
    let label = "alpn=\"h2,http/1.1\"} 1";
    assert!(daemon.api().metrics().contains(label), "{}", daemon.api().metrics());
    assert_eq!(offer(&daemon, &plain, &["h2"]), Ok(None), "another mapping's users");
    // Agents are offered nothing, and served.
    let mut config = (*daemon.trust()).clone();
    config.alpn_protocols = vec![b"imap".to_vec()];
    let agent = Link::tls(at(mapping.port1), &Arc::new(config)).unwrap();
    Agent::over(agent).prove(&mapping.passcode1);
    let why = refused(&daemon, 400, json!({"alpn": ["h2"], "users": "plain"}));
    assert!(why.starts_with("alpn is given, and users is \"plain\""), "{why}");
}

fn users_from_elsewhere_are_closed_and_counted(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add(&public(json!({"allow": ["192.0.2.0/24", "2001:db8::/32"]})));
    let _agent = daemon.tunnel(&mapping);
    let mut user = Link::plain(at(mapping.port2)).unwrap();
    // Nothing is read, and no handshake begun.
    user.expect_closed();
    let refused = || {
        let state = daemon.api().state_of(&mapping).unwrap();
        state["refusals"].as_array().unwrap().iter().find_map(|kind| {
            (kind["why"] == "its address is not in the mapping's allow")
                .then(|| kind["times"].clone())
        })
    };
    until("it is counted", || refused() == Some(json!(1)));
    assert_eq!(daemon.api().number(&mapping, "counts.usersServed"), 0);
    let open = daemon.api().add(&public(json!({"allow": ["127.0.0.0/8"]})));
    daemon.session(&open);
}

fn users_of_one_address_are_so_many_at_one_time(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add(&public(json!({"usersperaddress": 2})));
    let (first, agent) = daemon.session(&mapping);
    // One is served, and one waits.
    let mut waits = daemon.user(&mapping);
    waits.send(b"question");
    until("it waits", || daemon.api().users_waiting(&mapping) == 1);
    Link::plain(at(mapping.port2)).unwrap().expect_closed();
    drop((first, agent));
    until("the session is over", || daemon.api().number(&mapping, "counts.sessions") == 0);
    let mut agent = daemon.version_two(&mapping);
    agent.read_header();
    agent.expect(b"question");
    let mut next = None;
    until("its place is free", || {
        let Ok(mut user) = daemon.try_link(mapping.port2) else { return false };
        let _ = user.try_send(b"question");
        next = Some(user);
        daemon.api().users_waiting(&mapping) == 1
    });
    drop(next);
}

/// Whether one more user of this address may connect now: it is not closed, and waits.
fn has_place(daemon: &Daemon, mapping: &Mapping) -> Option<Link> {
    let refused = || {
        let state = daemon.api().state_of(mapping).unwrap();
        let kinds = state["refusals"].as_array().unwrap().clone();
        let too_many = kinds
            .iter()
            .find(|kind| kind["why"] == "its address has as many users as usersperaddress allows");
        too_many.map_or(0, |kind| kind["times"].as_u64().unwrap())
    };
    let (before, waiting) = (refused(), daemon.api().users_waiting(mapping));
    let mut user = daemon.try_link(mapping.port2).ok();
    if let Some(user) = &mut user {
        let _ = user.try_send(b"question");
    }
    let mut has = false;
    until("it waits, or is refused", || {
        has = daemon.api().users_waiting(mapping) > waiting;
        has || refused() > before
    });
    user.filter(|_| has)
}

#[test]
fn place_of_an_address_is_free_when_a_user_leaves_or_its_session_is_over_and_not_before() {
    let daemon = Daemon::builder(Mode::Plain).set("userwait", 60_000).start();
    let mapping = daemon.api().add(&public(json!({"usersperaddress": 2})));
    // Users that wait count, and one that leaves does not any more.
    let mut one = has_place(&daemon, &mapping).unwrap();
    let two = has_place(&daemon, &mapping).unwrap();
    assert!(has_place(&daemon, &mapping).is_none());
    two.reset();
    until("it has left", || daemon.api().users_waiting(&mapping) == 1);
    let _two = has_place(&daemon, &mapping).unwrap();
    // One that has ended its direction counts as long as its service may go on answering.
    let mut agent = daemon.version_two(&mapping);
    agent.read_header();
    agent.expect(b"question");
    agent.send(b"OPENbegin");
    one.finish();
    until("it is in a session", || daemon.api().number(&mapping, "counts.sessions") == 1);
    assert!(has_place(&daemon, &mapping).is_none());
    drop(agent);
    until("it is over", || daemon.api().number(&mapping, "counts.sessions") == 0);
    assert!(has_place(&daemon, &mapping).is_some());
}

fn session_in_which_nothing_moves_is_broken_off_after_idle(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add(&public(json!({"idle": 4000})));
    let (mut user, mut agent) = daemon.session(&mapping);
    // Bytes keep it, for longer than idle.
    let begun = Instant::now();
    while begun.elapsed() < ms(4500) {
        user.send(b"ping");
        agent.expect(b"ping");
        std::thread::sleep(ms(100));
    }
    assert_eq!(daemon.api().number(&mapping, "counts.sessions"), 1);
    assert!(matches!(user.rest().1, Got::Reset | Got::Cut), "it is no end in order");
    until("it is over", || daemon.api().number(&mapping, "counts.sessions") == 0);
}
