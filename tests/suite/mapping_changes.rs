//! Mappings that are changed while they run, and new passcodes (protocol page, section 3, steps 13 and 14).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::common::*;
use serde_json::{Value, json};

in_both_modes!(
    changed_options_hold_for_new_users_and_close_nobody,
    changed_limits_of_tunnels_hold_at_once,
    new_passcode_counts_from_the_answer_on_and_tunnels_stay,
    tunnel_of_an_earlier_passcode_carries_one_session_and_no_other,
);

const NEVER: u64 = 200_000;

fn change(daemon: &Daemon, id: &str, members: &Value) -> Response {
    let body = form(&[("mappingid", id), ("mapping", &members.to_string())]);
    daemon.api().post("/api/v2/mapping/change", &body)
}

#[track_caller]
fn changed(daemon: &Daemon, mapping: &Mapping, members: Value) {
    let answer = change(daemon, &mapping.id, &members).ok();
    assert_eq!((&answer["status"], &answer["id"]), (&json!("ok"), &json!(mapping.id)), "{answer}");
}

/// What `configs.json` has of this mapping.
fn stored(daemon: &Daemon, mapping: &Mapping) -> Value {
    let file = daemon.state_file();
    let rows = file["mappings"].as_array().unwrap();
    rows.iter().find(|row| row["id"] == mapping.id.as_str()).unwrap().clone()
}

/// A user is closed for this reason; without an agent it would be for another.
#[track_caller]
fn refused(daemon: &Daemon, mapping: &Mapping, why: &str) {
    Link::plain(at(mapping.port2)).unwrap().expect_closed();
    until("it is counted", || {
        let state = daemon.api().state_of(mapping).unwrap();
        state["refusals"].as_array().unwrap().iter().any(|kind| kind["why"] == why)
    });
}

const ELSEWHERE: &str = "its address is not in the mapping's allow";
const TOO_MANY: &str = "its address has as many users as usersperaddress allows";

fn changed_options_hold_for_new_users_and_close_nobody(mode: Mode) {
    let mut daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    changed(&daemon, &mapping, json!({"allow": ["192.0.2.0/24"], "name": "ssh"}));
    // Stored before it is answered.
    let row = stored(&daemon, &mapping);
    assert_eq!((&row["allow"], &row["name"]), (&json!(["192.0.2.0/24"]), &json!("ssh")));
    refused(&daemon, &mapping, ELSEWHERE);
    agent.send(b"answer");
    user.expect(b"answer");
    assert_eq!(daemon.api().status("ssh")["id"], mapping.id.as_str());
    daemon.restart();
    refused(&daemon, &mapping, ELSEWHERE);
    changed(&daemon, &mapping, json!({"allow": null, "usersperaddress": 1}));
    let options = json!({"name": "ssh", "usersperaddress": 1});
    assert_eq!(daemon.api().state_of(&mapping).unwrap()["options"], options);
    let (_user, _agent) = daemon.session(&mapping);
    refused(&daemon, &mapping, TOO_MANY);
    changed(&daemon, &mapping, json!({"usersperaddress": null}));
    daemon.session(&mapping);
    // By its name as well, of which nothing is left then.
    change(&daemon, "ssh", &json!({"name": null})).ok();
    change(&daemon, "ssh", &json!({"idle": 1000})).failed(404);
    assert_eq!(daemon.api().state_of(&mapping).unwrap()["options"], json!({}));
    assert_eq!(stored(&daemon, &mapping).as_object().unwrap().len(), 9, "as it was at first");
}

fn changed_limits_of_tunnels_hold_at_once(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(1, NEVER);
    let serve = |agent: &mut Agent| {
        let mut user = daemon.user(&mapping);
        user.send(b"question");
        agent.expect_record(b"question");
        agent.send(b"answer");
        user.expect(b"answer");
        user
    };
    let mut first = daemon.tunnel(&mapping);
    let one = serve(&mut first);
    assert!(!daemon.agent(mapping.port1).is_accepted(&mapping.passcode1));
    changed(&daemon, &mapping, json!({"maxconnections": 2}));
    assert_eq!(daemon.api().number(&mapping, "sides.0.tunnels.allowed"), 2);
    let mut second = daemon.tunnel(&mapping);
    let two = serve(&mut second);
    // Fresh ones look at the time for reasons of their own: these have served a user each.
    drop((one, two));
    until("they wait", || daemon.api().idle(&mapping) == 2);
    // Those that wait are measured by the new threshold, too.
    changed(&daemon, &mapping, json!({"heartbeatabsencethreshold": 1000}));
    until("the silent ones are closed", || daemon.api().idle(&mapping) == 0);
    first.expect_closed();
    assert_eq!(daemon.api().number(&mapping, "counts.tunnelsAbsent"), 2);
    let row = stored(&daemon, &mapping);
    assert_eq!(row["maxconnectionsport1"], 2);
    assert_eq!(row["heartbeatabsencethresholdport1"], 1000);
    let private = daemon.api().add_private(1, NEVER);
    changed(&daemon, &private, json!({"maxconnectionsport2": 3, "idle": 60_000}));
    assert_eq!(daemon.api().number(&private, "sides.0.tunnels.allowed"), 1);
    assert_eq!(daemon.api().number(&private, "sides.1.tunnels.allowed"), 3);
    daemon.pair(&private);
}

#[test]
fn change_holds_for_users_in_their_handshake_and_counts_those_that_are_there() {
    let daemon = Daemon::new(Mode::Tls);
    let counted = daemon.api().add_public(60, NEVER);
    let (_served, _agent) = daemon.session(&counted);
    changed(&daemon, &counted, json!({"usersperaddress": 1}));
    refused(&daemon, &counted, TOO_MANY);
    // Its handshake is done after the change.
    let mapping = daemon.api().add_public(60, NEVER);
    let mut agent = daemon.tunnel(&mapping);
    let late = Link::plain(at(mapping.port2)).unwrap();
    // Accepted after it.
    let _other = daemon.user(&mapping);
    changed(&daemon, &mapping, json!({"allow": ["192.0.2.0/24"]}));
    if let Ok(mut user) = late.upgrade(&daemon.trust(), "localhost") {
        let _ = user.try_send(b"let me in");
        user.expect_closed();
    }
    agent.expect_silence(ms(300));
    until("it is counted", || {
        let state = daemon.api().state_of(&mapping).unwrap();
        state["refusals"].as_array().unwrap().iter().any(|kind| kind["why"] == ELSEWHERE)
    });
}

#[test]
fn users_of_a_changed_pipe_speak_as_it_says_now() {
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut old, mut its_agent) = daemon.session(&mapping);
    changed(&daemon, &mapping, json!({"users": "plain"}));
    let url = daemon.api().state_of(&mapping).unwrap()["url"].clone();
    assert_eq!(url, format!("tcp://127.0.0.1:{}", mapping.port2));
    let mut agent = daemon.version_two(&mapping);
    let mut user = Link::plain(at(mapping.port2)).unwrap();
    agent.read_header();
    agent.send(b"OPENwelcome");
    user.expect(b"welcome");
    // The option that was there counts for one that is new.
    let why = change(&daemon, &mapping.id, &json!({"alpn": ["h2"]})).failed(400);
    assert!(why.starts_with("alpn is given, and users is \"plain\""), "{why}");
    changed(&daemon, &mapping, json!({"alpn": ["h2"], "users": null}));
    assert!(daemon.user(&mapping).is_tls());
    its_agent.send(b"answer");
    old.expect(b"answer");
}

#[test]
fn faulty_changes_change_and_store_nothing() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add(
        &json!({"type": "public", "maxconnections": 60, "heartbeatabsencethreshold": NEVER,
            "name": "one", "idle": 60_000})
        .to_string(),
    );
    let private = daemon.api().add_private(1, NEVER);
    let before = (daemon.state_file(), daemon.api().state_of(&mapping).unwrap()["options"].clone());
    for (id, status, members, words) in [
        ("one", 400, json!({"type": "private"}), "type cannot be changed, since"),
        ("one", 400, json!({"port2": mapping.port2}), "port2 cannot be changed, since"),
        ("one", 400, json!({"alow": []}), "did you mean allow?"),
        ("one", 400, json!({"allow": ["x"]}), "x: is not an IP address"),
        ("one", 400, json!({"idle": 2000, "usersperaddress": 0}), "usersperaddress is 0; use"),
        ("one", 400, json!({"name": "-x"}), "0-9 and -, which is not the first"),
        ("one", 400, json!({"maxconnections": null}), "maxconnections is null; use an integer"),
        ("one", 400, json!({"maxconnections": 0}), "maxconnections is 0; use an integer from 1"),
        ("one", 400, json!({"maxconnectionsport1": 1}), "none of a public pipe's limits"),
        ("one", 400, json!({"users": "tls"}), "with dev in the settings all ports are plain"),
        ("one", 400, json!({}), "mapping is empty"),
        ("one", 400, json!({"name": private.id}), "nor what looks like an id"),
        (&private.id, 409, json!({"name": "one"}), "name one is another mapping's"),
        (&private.id, 400, json!({"allow": ["::1"]}), "is an option of public pipes"),
        (&private.id, 400, json!({"maxconnections": 1}), "none of a private pipe's limits"),
        ("two", 404, json!({"idle": 2000}), "no mapping has the id \"two\""),
    ] {
        let why = change(&daemon, id, &members).failed(status);
        assert!(why.contains(words), "{members}: {why}");
    }
    for (side, words) in [("3", "side is \"3\"; use 1 or 2"), ("2", "side is 2, and this pipe is")]
    {
        let body = form(&[("mappingid", "one"), ("side", side)]);
        let why = daemon.api().post("/api/v2/mapping/passcode", &body).failed(400);
        assert!(why.starts_with(words), "{why}");
    }
    let after = (daemon.state_file(), daemon.api().state_of(&mapping).unwrap()["options"].clone());
    assert_eq!(before, after);
    daemon.tunnel(&mapping);
}

#[test]
fn change_that_cannot_be_stored_is_not_made() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, NEVER);
    let file = daemon.config().join("configs.json");
    fs::rename(&file, daemon.folder().join("saved")).unwrap();
    // No file can be put in the place of a folder.
    fs::create_dir(&file).unwrap();
    let why = change(&daemon, &mapping.id, &json!({"allow": ["192.0.2.1"]})).failed(500);
    assert!(why.starts_with("the change could not be stored"), "{why}");
    let body = form(&[("mappingid", &mapping.id), ("side", "1")]);
    daemon.api().post("/api/v2/mapping/passcode", &body).failed(500);
    assert_eq!(daemon.api().state_of(&mapping).unwrap()["options"], json!({}));
    daemon.session(&mapping);
}

#[test]
fn changes_that_meet_are_all_made() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, NEVER);
    for round in 1..20 {
        let members = [
            json!({"maxconnections": round}),
            json!({"allow": [format!("0.0.0.0/{round}")]}),
            json!({"usersperaddress": round}),
            json!({"idle": 1000 + round}),
        ];
        let mut calls: Vec<_> = members.iter().map(|_| daemon.api().connect()).collect();
        for (call, members) in calls.iter_mut().zip(&members) {
            let body = form(&[("mappingid", &mapping.id), ("mapping", &members.to_string())]);
            call.send(&post("/api/v2/mapping/change", &body));
        }
        calls.iter_mut().for_each(|call| drop(call.response().ok()));
        let row = stored(&daemon, &mapping);
        let state = daemon.api().state_of(&mapping).unwrap();
        for members in &members[1..] {
            for (name, wanted) in members.as_object().unwrap() {
                assert_eq!((&row[name], &state["options"][name]), (wanted, wanted), "{name}");
            }
        }
        assert_eq!(row["maxconnectionsport1"], round);
        assert_eq!(state["sides"][0]["tunnels"]["allowed"], round);
    }
}

fn renewed(daemon: &Daemon, mapping: &Mapping, side: usize) -> String {
    let body = form(&[("mappingid", &mapping.id), ("side", &side.to_string())]);
    let answer = daemon.api().post("/api/v2/mapping/passcode", &body).ok();
    assert_eq!((&answer["id"], &answer["side"]), (&json!(mapping.id), &json!(side)), "{answer}");
    let port = if side == 1 { mapping.port1 } else { mapping.port2 };
    assert_eq!(answer["port"], port, "{answer}");
    answer["passcode"].as_str().expect("the passcode").to_owned()
}

fn new_passcode_counts_from_the_answer_on_and_tunnels_stay(mode: Mode) {
    let mut daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let mut waits = daemon.tunnel(&mapping);
    // One that has begun with the old one, and not ended.
    let mut begun = daemon.agent(mapping.port1);
    begun.send(&mapping.passcode1.as_bytes()[..20]);
    let new = renewed(&daemon, &mapping, 1);
    assert_ne!(new, mapping.passcode1);
    assert_eq!((new.len(), stored(&daemon, &mapping)["passcodeport1"].clone()), (36, json!(new)));
    assert!(!begun.is_accepted(&mapping.passcode1[20..]));
    assert!(!daemon.agent(mapping.port1).is_accepted(&mapping.passcode1));
    // Nor is one that has proved the old one before, and waits for a place.
    let one = daemon.api().add_public(1, NEVER);
    let session = daemon.session(&one);
    let mut next = daemon.agent(one.port1);
    next.send(one.passcode1.as_bytes());
    until("it waits", || {
        let state = daemon.api().state_of(&one).unwrap().to_string();
        state.contains("maxconnections)")
    });
    renewed(&daemon, &one, 1);
    drop(session);
    assert!(!next.is_accepted(""));
    // The one that was there stays, and is given a user.
    waits.beat_and_answer();
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    waits.expect_record(b"question");
    waits.send(b"answer");
    user.expect(b"answer");
    let renamed = Mapping { passcode1: new, ..mapping };
    daemon.session(&renamed);
    daemon.restart();
    daemon.session(&renamed);
    // No answer but these two, and no line of the log, has it.
    let state = daemon.api().state().to_string() + &daemon.api().metrics() + &daemon.log_text();
    assert!(!state.contains(&renamed.passcode1));
    let private = daemon.api().add_private(60, NEVER);
    let second = renewed(&daemon, &private, 2);
    assert!(!daemon.agent(private.port2).is_accepted(&private.passcode2));
    daemon.pair(&Mapping { passcode2: second, ..private });
}

fn tunnel_of_an_earlier_passcode_carries_one_session_and_no_other(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let mut agent = daemon.tunnel(&mapping);
    renewed(&daemon, &mapping, 1);
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    agent.expect_record(b"question");
    agent.send(b"answer");
    user.expect(b"answer");
    // Otherwise the tunnel would be used again, once the old answer is over.
    drop(user);
    agent.expect_closed();
}

#[test]
fn command_line_changes_a_mapping_and_takes_options_away() {
    let daemon = Daemon::new(Mode::Tls);
    let dir = daemon.folder().to_str().unwrap();
    let cli = |line: &str| {
        let output = daemon.cli(&line.split(' ').collect::<Vec<_>>());
        (output.status.code(), text(&output))
    };
    let add = format!(
        "mapping add public --name grpc --alpn h2,http/1.1 --proxy-from 192.0.2.1,2001:db8::/32 --dir {dir}"
    );
    assert_eq!(cli(&add).0, Some(0));
    let (code, shown) = cli("mapping show grpc");
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(code, Some(0), "{shown}");
    for part in [
        "type public",
        "alpn h2,http/1.1",
        "proxyfrom 192.0.2.1,2001:db8::/32",
        "60 allowed; closed after 60000 ms of silence",
    ] {
        assert!(words.contains(part), "{shown}");
    }
    let (code, said) = cli("mapping change grpc --alpn none --allow 127.0.0.0/8 --connections 2");
    let state = daemon.api().state()["mappings"][0].clone();
    let expected = format!("mapping grpc ({}) changed\n", state["id"].as_str().unwrap());
    assert_eq!((code, said), (Some(0), expected));
    let options = json!({"name": "grpc", "allow": ["127.0.0.0/8"],
        "proxyfrom": ["192.0.2.1", "2001:db8::/32"]});
    assert_eq!(
        (&state["options"], &state["sides"][0]["tunnels"]["allowed"]),
        (&options, &json!(2))
    );
    for (line, code, words) in [
        ("mapping change grpc", 2, "needs an option"),
        ("mapping change", 2, "needs a mapping's name or id"),
        ("mapping change grpc --connections 0", 2, "--connections: \"0\" is not a number from 1"),
        ("mapping change grpc --heartbeat-threshold 299", 2, "is less than 300"),
        ("mapping change grpc --port2 7", 2, "--port2 is an option of `mapping add`"),
        ("mapping change grpc --allow x", 1, "x: is not an IP address"),
        (
            "mapping change grpc --idle 5s",
            2,
            "5s is no number of milliseconds (1000 to 2147483647); 5 seconds are 5000",
        ),
        ("mapping change grpc --idle soon", 1, "idle is \"soon\"; use an integer from 1000"),
        ("mapping change http --idle 1000", 1, "no mapping has"),
        ("mapping show http", 1, "no mapping has"),
        ("mapping passcode grpc --side 3", 2, "--side: \"3\" is not a number from 1 to 2"),
        ("mapping passcode grpc --side 2 --show", 1, "side is 2, and this pipe is public"),
    ] {
        let (found, said) = cli(line);
        assert!(found == Some(code) && said.contains(words), "{line}: {found:?} {said}");
    }
    assert_eq!(daemon.api().state()["mappings"][0]["options"], options);
}

/// A folder for mappings' files.
fn files(daemon: &Daemon) -> PathBuf {
    let dir = daemon.folder().join("files");
    fs::create_dir(&dir).unwrap();
    dir
}

/// What a command says that works with such a folder, and succeeds.
#[track_caller]
fn cli_in(dir: &Path, daemon: &Daemon, words: &[&str]) -> String {
    let output = daemon.cli(&[words, &["--dir", dir.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    text(&output)
}

#[test]
fn command_line_writes_a_new_passcode_to_the_old_ones_files() {
    let daemon = Daemon::new(Mode::Plain);
    let dir = files(&daemon);
    let cli = |words: &[&str]| cli_in(&dir, &daemon, words);
    cli(&["mapping", "add", "private", "--name", "plc"]);
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
        names.sort();
        names
    };
    let (files, row) = (names(), daemon.state_file()["mappings"][0].clone());
    let old = row["passcodeport2"].as_str().unwrap();
    let said = cli(&["mapping", "passcode", "plc", "--side", "2"]);
    let command = format!(
        "sudo iofog-connector tunnel install {} --listen 127.0.0.1:PORT --replace\n",
        dir.join("plc-2.tunnel").display()
    );
    assert!(said.contains(&command), "{said}");
    let row = daemon.state_file()["mappings"][0].clone();
    let new = row["passcodeport2"].as_str().unwrap();
    assert!(new != old && !said.contains(new), "{said}");
    assert_eq!(names(), files, "nothing is left aside");
    let contents: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    assert!(contents.iter().all(|content| !content.contains(old)));
    assert_eq!(contents.iter().filter(|content| content.contains(new)).count(), files.len() / 2);
    let port = row["port2"].as_u64().unwrap() as u16;
    assert!(!daemon.agent(port).is_accepted(old));
    assert!(daemon.agent(port).is_accepted(new));
    // A line that somebody has added stays in the file; what was said of limits since is in it, and nothing is put
    // aside. The daemon is found by its run folder, as with --run alone.
    let tunnel = dir.join("plc-1.tunnel");
    let text_of = |file: &std::path::Path| fs::read_to_string(file).unwrap();
    fs::write(&tunnel, text_of(&tunnel) + "proxy=http://p:1\n").unwrap();
    let limits = ["--connections", "3", "--heartbeat-threshold", "6000"];
    let changed = daemon.cli(&[&["mapping", "change", "plc"][..], &limits].concat());
    assert_eq!(changed.status.code(), Some(0), "{}", text(&changed));
    let said = run_cli(&[
        "mapping",
        "passcode",
        "plc",
        "--run",
        daemon.run().to_str().unwrap(),
        "--dir",
        dir.to_str().unwrap(),
    ]);
    assert_eq!(said.status.code(), Some(0), "{}", text(&said));
    assert_eq!(names(), files, "nothing is put aside");
    let new = daemon.state_file()["mappings"][0]["passcodeport1"].as_str().unwrap().to_owned();
    let written = text_of(&tunnel);
    assert!(written.ends_with("proxy=http://p:1\nconnections=3\nheartbeat=2000\n"), "{written}");
    assert!(written.contains(&format!("passcode={new}\n")));
    // Under a new name there are new files; those of the old one are named and stay.
    let said = text(&daemon.cli(&["mapping", "change", "plc", "--name", "press"]));
    assert!(said.contains("it is called press now"), "{said}");
    let said = cli(&["mapping", "passcode", "press", "--side", "1"]);
    assert!(said.contains("plc-1.tunnel holds an old one, and stays as it is"), "{said}");
    assert_eq!(text_of(&tunnel), written);
    let tunnel = dir.join("press-1.tunnel");
    assert!(text_of(&tunnel).ends_with("connections=3\nheartbeat=2000\n"));
    // Where nothing can be written the old passcode stays.
    let row = daemon.state_file()["mappings"][0].clone();
    let nowhere = daemon.folder().join("none");
    let nowhere = nowhere.to_str().unwrap();
    let full = ["mapping", "passcode", "press", "--dir"];
    for folder in [nowhere, "/proc/self"] {
        let output = daemon.cli(&[&full[..], &[folder]].concat());
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    }
    assert_eq!(daemon.state_file()["mappings"][0], row);
    // A file that cannot be written after all: nobody has the passcode that counts now.
    fs::remove_file(&tunnel).unwrap();
    fs::create_dir(&tunnel).unwrap();
    let output = daemon.cli(&[&full[..], &[dir.to_str().unwrap()]].concat());
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the passcode is changed, and agents with the old one are refused, but"),
        "{said}"
    );
    assert!(said.contains("`mapping passcode press --side 1` again"), "{said}");
    assert_ne!(daemon.state_file()["mappings"][0], row);
    fs::remove_dir(&tunnel).unwrap();
    // One that was written by hand is not lost.
    fs::write(dir.join(format!("iofog-{port}.passcode")), "by hand").unwrap();
    let said = cli(&["mapping", "passcode", "press", "--side", "2"]);
    assert!(said.contains(".old"), "{said}");
    let said = cli(&["mapping", "passcode", "press", "--side", "2", "--show"]);
    let row = daemon.state_file()["mappings"][0].clone();
    assert!(said.contains(row["passcodeport2"].as_str().unwrap()), "{said}");
    assert!(said.contains("press-2.tunnel holds an old one"), "{said}");
    // Its files go with it, by the first characters of its id; what holds an old passcode under another name stays.
    let id = row["id"].as_str().unwrap();
    assert_eq!(daemon.cli(&["mapping", "remove", &id[..7]]).status.code(), Some(1));
    let said = cli(&["mapping", "remove", &id[..8]]);
    assert!(said.contains("press-2.tunnel removed"), "{said}");
    let left: Vec<_> =
        names().into_iter().filter(|path| path.extension() != Some("old".as_ref())).collect();
    assert_eq!(left, ["plc-1.tunnel", "plc-2.tunnel"].map(|name| dir.join(name)), "{said}");
}

#[test]
fn new_passcode_leaves_all_else_that_somebody_wrote_into_the_files_as_it_is() {
    let daemon = Daemon::new(Mode::Tls);
    let dir = files(&daemon);
    let cli = |words: &[&str]| cli_in(&dir, &daemon, words);
    cli(&["mapping", "add", "public", "--name", "ssh"]);
    let secret =
        || daemon.state_file()["mappings"][0]["passcodeport1"].as_str().unwrap().to_owned();
    let id = daemon.state_file()["mappings"][0]["id"].as_str().unwrap().to_owned();
    let [file, copy, old] =
        ["ssh.tunnel", "ssh.tunnel.bak", "web.tunnel.old"].map(|name| dir.join(name));
    let first = fs::read_to_string(&file).unwrap();
    let line = |name: &str| first.lines().find(|line| line.starts_with(name)).unwrap();
    let (connector, pin) = (line("connector="), line("pin="));
    // What is beside it: a copy, and what `mapping add` has put aside, of a mapping that had this port.
    fs::write(&copy, format!("{first}proxy=http://copy:1\n")).unwrap();
    let aside =
        format!("# One side of a public pipe.\n{connector}\npasscode=older\ntarget=localhost:80\n");
    fs::write(&old, &aside).unwrap();
    let port = connector.rsplit_once(':').unwrap().1;
    let several = format!("{pin},{}", pin.trim_start_matches("pin="));
    let pinned = first
        .replace(
            connector,
            &format!("# seen from outside\r\nconnector = gate.example.com:{port}\r"),
        )
        .replace(pin, &several)
        + "proxy=http://p:1\nconnections=2\ntarget=localhost:22";
    let with_ca = pinned.replace(&several, "ca=/etc/ssl/ca.pem");
    let installed = daemon.folder().join("tunnels");
    for (number, edited) in [pinned.clone(), pinned, with_ca].into_iter().enumerate() {
        let before = secret();
        let edited = edited.replace(line("passcode="), &format!("passcode={before}"));
        fs::write(&file, &edited).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
        names.sort();
        let said = cli(&["mapping", "passcode", &id[..8]]);
        let text_of = |file: &std::path::Path| fs::read_to_string(file).unwrap();
        assert_eq!(text_of(&file), edited.replace(&before, &secret()), "{number}: {said}");
        assert_eq!(text_of(&dir.join(format!("iofog-{port}.passcode"))), secret() + "\n");
        assert_eq!(
            (text_of(&copy), text_of(&old)),
            (format!("{first}proxy=http://copy:1\n"), aside.clone())
        );
        assert!(said.contains(&format!("mapping ssh ({id}) has a new passcode")), "{said}");
        for stale in [&copy, &old] {
            let stale = format!("{} holds an old one, and stays as it is", stale.display());
            assert!(said.contains(&stale), "{number}: {said}");
        }
        let mut left: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
        left.sort();
        assert_eq!(left, names, "nothing is made beside them");
        let output = run_cli(&[
            "tunnel",
            "install",
            file.to_str().unwrap(),
            "--replace",
            "--dir",
            installed.to_str().unwrap(),
        ]);
        if number < 2 {
            assert_eq!(output.status.code(), Some(0), "{}", text(&output));
            assert_eq!(
                text_of(&installed.join("ssh.conf")).trim_end(),
                text_of(&file).replace('\r', "")
            );
        } else {
            assert!(!text(&output).contains("exclude each other"), "{}", text(&output));
        }
    }
}

#[test]
fn no_line_of_a_strangers_file_gets_into_roots() {
    let daemon = Daemon::new(Mode::Plain);
    let dir = files(&daemon);
    let cli = |words: &[&str]| cli_in(&dir, &daemon, words);
    cli(&["mapping", "add", "public", "--name", "ssh"]);
    let [file, aside] = ["ssh.tunnel", "ssh.tunnel.old"].map(|name| dir.join(name));
    if fs::metadata(&file).unwrap().uid() != 0 {
        return could_not_run("not root");
    }
    let text_of = |file: &std::path::Path| fs::read_to_string(file).unwrap();
    for (user, mode, folder, why) in [
        (4321, 0o600, 0o755, "it belongs to another user"),
        (0, 0o662, 0o755, "others may write to it"),
        (0, 0o600, 0o777, "others may put files into its folder"),
    ] {
        fs::write(&file, text_of(&file) + "proxy=http://stranger:1\n").unwrap();
        std::os::unix::fs::chown(&file, Some(user), None).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(folder)).unwrap();
        let said = cli(&["mapping", "passcode", "ssh"]);
        let expected = format!("{} now, and nothing of it was taken over: {why}", aside.display());
        assert!(said.contains(&expected), "{said}");
        let is = fs::metadata(&file).unwrap();
        assert_eq!((is.uid(), is.mode() & 0o777), (0, 0o600), "{why}");
        assert!(!text_of(&file).contains("stranger"), "{why}");
        assert!(text_of(&aside).contains("stranger"), "{why}");
        fs::remove_file(&aside).unwrap();
    }
    // In a folder like /tmp its own is safe from others.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(&file, text_of(&file) + "proxy=http://own:1\n").unwrap();
    let said = cli(&["mapping", "passcode", "ssh"]);
    assert!(said.contains("ssh.tunnel is renewed") && text_of(&file).contains("own:1"), "{said}");
}

#[test]
fn removal_leaves_copies_and_leftovers_and_names_ten() {
    let daemon = Daemon::new(Mode::Plain);
    let dir = files(&daemon);
    let cli = |words: &[&str]| cli_in(&dir, &daemon, words);
    cli(&["mapping", "add", "public", "--name", "web"]);
    let file = dir.join("web.tunnel");
    let own = fs::read_to_string(&file).unwrap();
    let line = own.lines().find(|line| line.starts_with("passcode=")).unwrap();
    // Of a mapping that had this port, a copy, and more of them.
    fs::write(dir.join("ssh.tunnel"), own.replace("web", "ssh").replace(line, "passcode=old"))
        .unwrap();
    fs::write(dir.join("mine.tunnel"), &own).unwrap();
    for number in 0..12 {
        fs::write(dir.join(format!("web.tunnel.old{number}")), &own).unwrap();
    }
    let output = daemon.cli(&["mapping", "change", "web", "--name", "shop"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let said = cli(&["mapping", "remove", "shop"]);
    // The name that it had before is one that `mapping add` has given.
    assert!(
        said.contains("/web.tunnel removed\n") && said.contains(".passcode removed\n"),
        "{said}"
    );
    assert!(!file.exists(), "{said}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 14, "{said}");
    assert_eq!(said.matches(" stays: ").count(), 10, "{said}");
    assert!(said.contains("so it is with 4 more files there"), "{said}");
}

#[test]
fn pipe_that_becomes_plain_is_warned_of_as_one_that_is_added() {
    let daemon = Daemon::builder(Mode::Tls).set("listen", "::").start();
    let cli = |words: &[&str]| {
        let output = daemon.cli(words);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        text(&output)
    };
    cli(&["mapping", "add", "public", "--show", "--name", "ssh"]);
    let port = &daemon.api().state()["mappings"][0]["sides"][1]["port"];
    let warning = format!("warning: port {port} takes plain TCP from the network");
    let said = cli(&["mapping", "change", "ssh", "--users", "plain"]);
    assert!(said.contains("users connect to tcp://") && said.contains(&warning), "{said}");
    assert!(said.contains(&format!(":{port} now\n")), "{said}");
    let said = cli(&["mapping", "change", "ssh", "--users", "none"]);
    assert!(said.contains("users connect to https://") && !said.contains("warning"), "{said}");
}

#[test]
fn runs_in_one_folder_that_meet_leave_whole_files_and_nothing_else() {
    let daemon = Daemon::new(Mode::Plain);
    let dir = daemon.folder().join("files");
    fs::create_dir(&dir).unwrap();
    let to = ["--dir", dir.to_str().unwrap()];
    let names = ["a", "b", "c", "d"];
    for name in names {
        let output = daemon.cli(&[&["mapping", "add", "public", "--name", name], &to[..]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
    std::thread::scope(|scope| {
        for name in names {
            let (daemon, to) = (&daemon, &to);
            scope.spawn(move || {
                for _ in 0..5 {
                    let output = daemon.cli(&[&["mapping", "passcode", name], &to[..]].concat());
                    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
                }
            });
        }
    });
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2 * names.len());
    for row in daemon.state_file()["mappings"].as_array().unwrap() {
        let file = dir.join(format!("{}.tunnel", row["name"].as_str().unwrap()));
        let secret = format!("passcode={}", row["passcodeport1"].as_str().unwrap());
        assert!(fs::read_to_string(file).unwrap().lines().any(|line| line == secret));
    }
}

#[test]
fn stored_name_like_an_id_is_read_and_an_id_comes_before_it() {
    let mut daemon = Daemon::new(Mode::Plain);
    for name in ["one", "two"] {
        let output = daemon.cli(&["mapping", "add", "public", "--show", "--name", name]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
    daemon.stop();
    let mut state = daemon.state_file();
    let id = state["mappings"][1]["id"].clone();
    state["mappings"][0]["name"] = id.clone();
    daemon.write("configs.json", &state.to_string());
    daemon.start();
    let (id, first) = (id.as_str().unwrap(), state["mappings"][0]["id"].as_str().unwrap());
    let shown = text(&daemon.cli(&["mapping", "show", id]));
    assert!(shown.contains("two") && !shown.contains(first), "{shown}");
    let said = text(&daemon.cli(&["mapping", "change", first, "--idle", "2000"]));
    assert!(said.contains(&format!("mapping {id} ({first}) changed")), "{said}");
    let said = text(&daemon.cli(&["mapping", "change", first, "--name", id]));
    assert!(said.contains("nor what looks like an id"), "{said}");
    let said = text(&daemon.cli(&["mapping", "remove", &first[..8]]));
    assert!(said.starts_with(&format!("mapping {id} ({first}) removed\n")), "{said}");
}
