//! The state file: durable, whole, never lost (protocol page, section 2).

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv6Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common::*;
use serde_json::json;

const NEVER: u64 = 200_000;
const ADD: &str = "/api/v2/mapping/add";
const REMOVE: &str = "/api/v2/mapping/remove";
const PUBLIC: &str = r#"{"type":"public","maxconnections":60,"heartbeatabsencethreshold":200000}"#;

in_both_modes!(restart_opens_the_same_ports_with_the_same_passcodes);

fn add(api: &Controller) -> Response {
    api.post(ADD, &form(&[("mapping", PUBLIC)]))
}

/// The ids in the state file.
fn stored(daemon: &Daemon) -> BTreeSet<String> {
    if !daemon.config().join("configs.json").exists() {
        return BTreeSet::new();
    }
    let state = daemon.state_file();
    let mappings = state["mappings"].as_array().expect("mappings");
    mappings.iter().map(|one| one["id"].as_str().expect("id").to_owned()).collect()
}

/// The ids that run.
fn running(daemon: &Daemon) -> BTreeSet<String> {
    let state = daemon.control().state();
    let mappings = state["mappings"].as_array().expect("mappings");
    mappings.iter().map(|one| one["id"].as_str().expect("id").to_owned()).collect()
}

fn restart_opens_the_same_ports_with_the_same_passcodes(mode: Mode) {
    let mut daemon = Daemon::new(mode);
    let public = daemon.api().add_public(60, NEVER);
    let private = daemon.api().add_private(2, NEVER);
    for _ in 0..2 {
        daemon.session(&public);
        daemon.pair(&private);
        daemon.restart();
    }
    daemon.stop();
    daemon.start();
    daemon.session(&public);
}

#[test]
fn file_has_the_originals_format_and_is_for_the_owner_alone() {
    let daemon = Daemon::new(Mode::Plain);
    let public = daemon.api().add_public(60, 200_000);
    let private = daemon.api().add_private(1, 100_000);
    let direct = daemon.api().post("/api/v2/direct/add", "").ok();
    let state = daemon.state_file();
    assert_eq!(
        state["mappings"][0],
        json!({
            "id": public.id, "port1": public.port1, "port2": public.port2,
            "maxconnectionsport1": 60, "maxconnectionsport2": 0,
            "passcodeport1": public.passcode1, "passcodeport2": "",
            "heartbeatabsencethresholdport1": 200_000, "heartbeatabsencethresholdport2": 0,
        })
    );
    assert_eq!(
        state["mappings"][1],
        json!({
            "id": private.id, "port1": private.port1, "port2": private.port2,
            "maxconnectionsport1": 1, "maxconnectionsport2": 1,
            "passcodeport1": private.passcode1, "passcodeport2": private.passcode2,
            "heartbeatabsencethresholdport1": 100_000, "heartbeatabsencethresholdport2": 100_000,
        })
    );
    assert_eq!(state["mappings"][2]["id"], direct["id"]);
    assert_eq!(state["mappings"][2]["port1"], 0);
    let file = fs::metadata(daemon.config().join("configs.json")).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
}

#[test]
fn missing_file_is_an_empty_list() {
    let mut daemon = Daemon::new(Mode::Plain);
    assert_eq!(daemon.api().status("all")["mappings"], 0);
    daemon.stop();
    daemon.write("configs.json", r#"{"mappings":[]}"#);
    daemon.start();
    assert_eq!(daemon.api().status("all")["mappings"], 0);
}

#[test]
fn file_written_by_the_original_is_taken_over() {
    let mut daemon = Daemon::builder(Mode::Plain).prepare();
    let first = daemon.block.first + 1;
    // As Java wrote it: the first limit under both names; passcodes of older versions.
    let file = format!(
        r#"{{"mappings":[{{"maxconnectionsport1":60,"maxconnectionsport2":60,"passcodeport2":"",
        "port1":{},"id":"2ae8ff72-7447-47de-a4ec-123eb214d63e","passcodeport1":"old secret é 漢",
        "heartbeatabsencethresholdport1":200000,"port2":{},"heartbeatabsencethresholdport2":0}},
        {{"id":"a","port1":{},"port2":{},"maxconnectionsport1":1,"maxconnectionsport2":1,
        "passcodeport1":"1","passcodeport2":"two","heartbeatabsencethresholdport1":200000,
        "heartbeatabsencethresholdport2":0}}]}}"#,
        first + 3,
        first,
        first + 5,
        first + 6
    );
    daemon.write("configs.json", &file);
    daemon.start();
    assert_eq!(daemon.read("configs.json"), file, "a start without a change writes nothing");
    let mapping = |id: &str, port1, port2, passcode1: &str, passcode2: &str| Mapping {
        id: id.into(),
        port1,
        port2,
        passcode1: passcode1.into(),
        passcode2: passcode2.into(),
    };
    let id = "2ae8ff72-7447-47de-a4ec-123eb214d63e";
    let public = mapping(id, first + 3, first, "old secret é 漢", "");
    daemon.session(&public);
    daemon.pair(&mapping("a", first + 5, first + 6, "1", "two"));
    // Its entries outlive the first change.
    daemon.api().add_public(60, NEVER);
    assert_eq!(stored(&daemon).len(), 3);
    daemon.restart();
    daemon.session(&public);
    daemon.api().remove(&public);
    assert_eq!(stored(&daemon).len(), 2);
}

#[test]
fn file_that_does_not_parse_stops_the_start_and_stays_as_it_is() {
    let entry = |change: &str| {
        let entry = r#"{"id":"x","port1":7000,"port2":7001,"maxconnectionsport1":60,
            "maxconnectionsport2":0,"passcodeport1":"p","passcodeport2":"",
            "heartbeatabsencethresholdport1":1,"heartbeatabsencethresholdport2":0}"#;
        let (from, to) = change.split_once(" to ").unwrap();
        assert!(entry.contains(from));
        format!("{{\"mappings\":[\n{}]}}", entry.replace(from, to))
    };
    for file in [
        String::new(),
        "{".into(),
        "[]".into(),
        "{\"mappings\":[\n{\"id\":\"x\",".into(),
        "{}garbage".into(),
        "{\"mappings\":7}".into(),
        "{\"mappings\":[7]}".into(),
        "\0\0\0\0".into(),
        entry("7000 to 70000"),
        entry("7000 to -1"),
        entry("\"p\" to 7"),
        entry("\"id\":\"x\", to "),
        entry("\"port1\":7000, to "),
    ] {
        let mut daemon = Daemon::builder(Mode::Plain).file("configs.json", file.clone()).prepare();
        daemon.spawn();
        let exit = daemon.wait();
        assert_eq!(exit.status.code(), Some(2), "{file:?}: {}", exit.stderr);
        assert!(exit.stderr.contains("configs.json"), "{file:?}: {}", exit.stderr);
        assert_eq!(daemon.read("configs.json"), file);
        assert_eq!(daemon.cli(&["check"]).status.code(), Some(2));
    }
    let mut daemon =
        Daemon::builder(Mode::Plain).file("configs.json", "{\"mappings\":[\n{\"id\":}]}").prepare();
    daemon.spawn();
    let stderr = daemon.wait().stderr;
    assert!(stderr.contains("line 2"), "no position in {stderr}");
}

#[test]
fn mapping_whose_port_is_taken_is_kept_inactive_and_comes_back() {
    let mut daemon = Daemon::new(Mode::Plain);
    let taken = daemon.api().add_public(60, NEVER);
    let free = daemon.api().add_public(60, NEVER);
    let outside = {
        daemon.stop();
        let mut state = daemon.state_file();
        let mut entry = state["mappings"][0].clone();
        entry["id"] = json!("outside");
        entry["port1"] = json!(9);
        entry["port2"] = json!(10);
        state["mappings"].as_array_mut().unwrap().push(entry);
        daemon.write("configs.json", &state.to_string());
        "outside"
    };
    let holder = TcpListener::bind((Ipv6Addr::UNSPECIFIED, taken.port2)).unwrap();
    daemon.start();
    let status = daemon.api().status(&taken.id);
    assert_eq!((&status["public"], &status["private"]), (&json!("Inactive"), &json!("Active")));
    let status = daemon.api().status(outside);
    assert_eq!((&status["public"], &status["private"]), (&json!("Inactive"), &json!("Inactive")));
    // Everything else serves.
    daemon.session(&free);
    daemon.api().add_public(60, NEVER);
    assert!(stored(&daemon).contains(&taken.id) && stored(&daemon).contains(outside));
    drop(holder);
    until("the port is tried again", || daemon.api().status(&taken.id)["public"] == "Active");
    daemon.session(&taken);
    // Also one that is inactive can be removed.
    daemon.api().post(REMOVE, "mappingid=outside").ok();
    assert!(!stored(&daemon).contains(outside));
}

#[test]
fn the_start_tells_how_many_mappings_it_serves_once_each_port_was_tried() {
    const MAPPINGS: usize = 120;
    let mut daemon = Daemon::builder(Mode::Plain).ports(2 * MAPPINGS as u16).start();
    daemon.api().add_public(60, NEVER);
    daemon.stop();
    let first = daemon.block.first + 1;
    let mut state = daemon.state_file();
    let entry = state["mappings"][0].clone();
    let all = (0..MAPPINGS as u16).map(|number| {
        let mut entry = entry.clone();
        entry["id"] = json!(format!("mapping-{number}"));
        entry["port1"] = json!(first + 2 * number);
        entry["port2"] = json!(first + 2 * number + 1);
        entry
    });
    state["mappings"] = all.collect();
    daemon.write("configs.json", &state.to_string());
    daemon.start();
    let said = format!(" serves {MAPPINGS} mappings;");
    until("it is told", || daemon.log_text().matches(" serves ").count() == 2);
    assert!(daemon.log_text().contains(&said), "{}", daemon.log_text());
}

#[test]
fn ports_of_a_stored_mapping_go_to_no_other_one_while_they_are_not_open() {
    let mut daemon = Daemon::builder(Mode::Plain).ports(6).start();
    let stored = daemon.api().add_public(60, NEVER);
    let own = [stored.port1, stored.port2];
    let left = |daemon: &Daemon| daemon.api().status("all")["availablePorts"].clone();
    let others = |daemon: &Daemon| {
        let added = daemon.api().add_public(60, NEVER);
        assert!(!own.contains(&added.port1) && !own.contains(&added.port2), "{added:?}");
        added
    };
    // One of them is another program's.
    daemon.stop();
    let holder = TcpListener::bind((Ipv6Addr::UNSPECIFIED, stored.port2)).unwrap();
    daemon.start();
    assert_eq!(left(&daemon), 4);
    drop(holder);
    let added = others(&daemon);
    until("the port is tried again", || daemon.api().status(&stored.id)["public"] == "Active");
    daemon.session(&stored);
    daemon.api().remove(&added);
    // They come back into the pool.
    daemon.stop();
    daemon.set("exclude", own.map(|port| port.to_string()).to_vec());
    daemon.start();
    assert_eq!(left(&daemon), 4);
    daemon.set("exclude", json!([]));
    daemon.signal(rustix::process::Signal::HUP);
    until("the settings are read again", || daemon.log_text().contains("settings reloaded"));
    assert_eq!(left(&daemon), 4);
    let added = others(&daemon);
    until("the port is tried again", || daemon.api().status(&stored.id)["public"] == "Active");
    daemon.session(&stored);
    // A removal frees them.
    daemon.api().remove(&stored);
    assert_eq!(left(&daemon), 4);
    daemon.session(&added);
}

#[test]
fn mapping_with_the_apis_own_port_is_kept_inactive_and_the_api_answers() {
    let mut daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, NEVER);
    daemon.stop();
    let (api, first) = (daemon.api_address().port(), daemon.block.first);
    daemon.set("ports", json!([format!("{first}-{}", first + 15)]));
    let mut state = daemon.state_file();
    state["mappings"][0]["port2"] = json!(api);
    daemon.write("configs.json", &state.to_string());
    let check = daemon.cli(&["check"]);
    daemon.start();
    let status = daemon.api().status(&mapping.id);
    assert_eq!((&status["public"], &status["private"]), (&json!("Inactive"), &json!("Active")));
    let said = format!("port {api} is the API's own");
    let table = daemon.cli(&["status"]);
    for said_in in [check.stderr, table.stdout, daemon.log_text().into_bytes()] {
        let text = String::from_utf8_lossy(&said_in).into_owned();
        assert!(text.contains(&said), "{text}");
    }
    assert_eq!(daemon.api().status("all")["availablePorts"], 14);
}

#[test]
fn of_two_mappings_with_the_same_port_one_serves_and_the_other_is_kept_inactive() {
    let mut daemon = Daemon::new(Mode::Plain);
    let first = daemon.api().add_public(60, NEVER);
    let second = daemon.api().add_public(60, NEVER);
    daemon.stop();
    let mut state = daemon.state_file();
    state["mappings"][1]["port2"] = json!(first.port2);
    daemon.write("configs.json", &state.to_string());
    daemon.start();
    let second = Mapping { port2: first.port2, ..second };
    let is_active = |mapping: &Mapping| {
        let status = daemon.api().status(&mapping.id);
        assert_eq!(status["private"], "Active", "the other port is its own: {status}");
        status["public"] == "Active"
    };
    let (serving, inactive) = if is_active(&first) { (&first, &second) } else { (&second, &first) };
    assert!(is_active(serving) && !is_active(inactive));
    daemon.session(serving);
    // A change of the state keeps both; the port changes hands once it is free.
    daemon.api().add_public(60, NEVER);
    assert!(stored(&daemon).is_superset(&[first.id.clone(), second.id.clone()].into()));
    daemon.api().remove(serving);
    until("the port is tried again", || is_active(inactive));
    daemon.session(inactive);
}

#[test]
fn left_over_temporary_files_are_gone_after_a_start() {
    let mut daemon = Daemon::new(Mode::Plain);
    // The name of the file that is renamed, from the daemon itself: a rename that must fail
    // leaves none, so it is watched while changes are made.
    let stop = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !stop.load(Ordering::Relaxed) && seen.is_empty() {
                for name in names(&daemon.config()) {
                    if name != "configs.json" && name != "iofog-connector.conf" {
                        seen.insert(name);
                    }
                }
            }
            seen
        });
        for _ in 0..300 {
            let mapping = daemon.control().add_public(60, NEVER);
            daemon.control().remove(&mapping);
            if watch.is_finished() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });
    let Some(name) = seen.first() else { panic!("no temporary file was ever seen") };
    daemon.kill();
    daemon.write(name, "{\"mappings\":[{\"id\":\"half");
    daemon.start();
    assert_eq!(names(&daemon.config()), ["configs.json", "iofog-connector.conf"]);
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn symbolic_link_is_followed_and_stays_one() {
    let mut daemon = Daemon::builder(Mode::Plain).prepare();
    let elsewhere = daemon.folder().join("data");
    fs::create_dir(&elsewhere).unwrap();
    let target = elsewhere.join("state.json");
    symlink("../data/state.json", daemon.config().join("configs.json")).unwrap();
    // The link leads to nothing yet.
    daemon.start();
    let mapping = daemon.api().add_public(60, NEVER);
    let link = daemon.config().join("configs.json");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(&target).unwrap().contains(&mapping.id));
    assert_eq!(names(&elsewhere), ["state.json"]);
    daemon.restart();
    daemon.session(&mapping);
    daemon.api().remove(&mapping);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(!fs::read_to_string(&target).unwrap().contains(&mapping.id));
}

/// Kills while changes are made, over four daemons; `IOFOG_TEST_KILLS` says how many in all.
#[test]
fn kills_lose_no_acknowledged_change() {
    let kills = std::env::var("IOFOG_TEST_KILLS").map_or(120, |kills| kills.parse().unwrap());
    thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || kill_again_and_again(number, kills / 4));
        }
    });
}

fn kill_again_and_again(seed: u64, cycles: usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut daemon = Daemon::builder(Mode::Plain).ports(31).prepare();
    let behind_a_link = seed % 2 == 1;
    let folder = if behind_a_link {
        let folder = daemon.folder().join("data");
        fs::create_dir(&folder).unwrap();
        symlink("../data/configs.json", daemon.config().join("configs.json")).unwrap();
        folder
    } else {
        daemon.config()
    };
    daemon.start();
    let mut acknowledged: BTreeSet<String> = BTreeSet::new();
    let (mut changes, mut left_over) = (0, 0);
    for cycle in 0..cycles {
        // What was asked for when the daemon died may be there or not.
        let mut asked: Option<Ask> = None;
        let lifetime = ms(random.u64(0..80));
        thread::scope(|scope| {
            let control = daemon.control();
            let (pid, acknowledged, asked) = (daemon.pid(), &mut acknowledged, &mut asked);
            let changes = &mut changes;
            let mut random = fastrand::Rng::with_seed(seed << 32 | cycle as u64);
            scope.spawn(move || {
                thread::sleep(lifetime);
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            });
            let Ok(mut connection) = control.try_connect() else { return };
            loop {
                let remove = acknowledged.len() > random.usize(0..14);
                let chosen = random.choice(acknowledged.iter()).cloned();
                let (request, ask) = match chosen.filter(|_| remove) {
                    Some(id) => (post(REMOVE, &form(&[("mappingid", &id)])), Ask::Remove(id)),
                    None => (post(ADD, &form(&[("mapping", PUBLIC)])), Ask::Add),
                };
                *asked = Some(ask);
                if connection.link.try_send(&request).is_err() {
                    return;
                }
                let Some(answer) = connection.try_response() else { return };
                let answer = answer.ok();
                let id = answer["id"].as_str().unwrap().to_owned();
                match asked.take() {
                    Some(Ask::Add) => assert!(acknowledged.insert(id)),
                    _ => assert!(acknowledged.remove(&id)),
                }
                *changes += 1;
            }
        });
        daemon.kill();
        left_over += usize::from(folder.join(".configs.json.new").exists());
        // It parses, or this panics.
        let on_disk = stored(&daemon);
        daemon.start();
        let extra = |name: &String| !["configs.json", "iofog-connector.conf"].contains(&&**name);
        assert!(!names(&folder).iter().any(extra), "left over: {:?}", names(&folder));
        let link = fs::symlink_metadata(daemon.config().join("configs.json"));
        assert!(!behind_a_link || link.unwrap().is_symlink(), "the link is replaced");
        let now = running(&daemon);
        assert_eq!(now, on_disk, "what runs is what is stored");
        let lost: Vec<&String> = acknowledged.difference(&now).collect();
        let more: Vec<&String> = now.difference(&acknowledged).collect();
        match &asked {
            Some(Ask::Add) => assert!(lost.is_empty() && more.len() <= 1, "{lost:?} {more:?}"),
            Some(Ask::Remove(id)) => {
                assert!(more.is_empty() && lost.iter().all(|one| *one == id), "{lost:?} {more:?}");
            }
            None => assert!(lost.is_empty() && more.is_empty(), "{lost:?} {more:?}"),
        }
        acknowledged = now;
    }
    println!(
        "{cycles} kills, {changes} changes acknowledged, {left_over} files left over, all gone"
    );
}

enum Ask {
    Add,
    Remove(String),
}

// Each step of writing failing

/// Expects that `daemon` can store nothing now, that it says so and loses nothing, and that all
/// is well again after `repair`.
#[track_caller]
fn nothing_is_lost(daemon: &mut Daemon, kept: &Mapping, repair: impl FnOnce(&Daemon)) {
    let before = running(daemon);
    let ports = daemon.control().status("all")["availablePorts"].clone();
    for _ in 0..3 {
        let message = add(&daemon.control()).failed(500);
        assert!(message.contains("configs.json"), "{message}");
        daemon.control().post("/api/v2/direct/add", "").failed(500);
    }
    daemon.control().post(REMOVE, &form(&[("mappingid", &kept.id)])).failed(500);
    assert_eq!(running(daemon), before);
    assert_eq!(daemon.control().status("all")["availablePorts"], ports, "ports are lost");
    // What runs goes on running, also what could not be removed.
    daemon.session(kept);
    let open: Vec<u16> =
        daemon.block.all().skip(1).filter(|port| Link::plain(at(*port)).is_ok()).collect();
    assert_eq!(open.len(), 2 * before.len(), "ports of changes not made: {open:?}");

    repair(daemon);
    let state = stored(daemon);
    assert_eq!(state, before, "the file is not what it was");
    let more = daemon.control().add_public(60, NEVER);
    assert!(stored(daemon).contains(&more.id));
    daemon.restart();
    assert_eq!(running(daemon), stored(daemon));
    daemon.session(kept);
    daemon.session(&more);
}

#[test]
fn folder_that_turns_read_only_loses_nothing() {
    let mut daemon = Daemon::builder(Mode::Plain).prepare();
    let folder = daemon.config();
    let Some(mount) = Mount::new(&["--bind"], &folder, &folder) else { return };
    daemon.start();
    let kept = daemon.api().add_public(60, NEVER);
    mount.remount("ro,bind");
    nothing_is_lost(&mut daemon, &kept, |_| mount.remount("rw,bind"));
    daemon.kill();
    drop(mount);
}

#[test]
fn start_from_a_read_only_folder_serves() {
    let mut daemon = Daemon::new(Mode::Tls);
    let kept = daemon.api().add_public(60, NEVER);
    daemon.stop();
    let folder = daemon.config();
    let Some(mount) = Mount::new(&["--bind"], &folder, &folder) else { return };
    mount.remount("ro,bind");
    daemon.start();
    daemon.session(&kept);
    let message = add(&daemon.control()).failed(500);
    assert!(message.contains("configs.json"), "{message}");
    daemon.kill();
    drop(mount);
}

#[test]
fn full_disk_loses_nothing() {
    let mut daemon = Daemon::builder(Mode::Plain).prepare();
    let folder = daemon.config();
    let settings = daemon.read("iofog-connector.conf");
    let none = PathBuf::from("none");
    let Some(mount) = Mount::new(&["-t", "tmpfs", "-o", "size=64k"], &none, &folder) else {
        return;
    };
    daemon.write("iofog-connector.conf", &settings);
    daemon.start();
    let kept = daemon.api().add_public(60, NEVER);
    let filler = folder.join("filler");
    let filled = fs::write(&filler, vec![0; 1 << 20]);
    assert!(filled.is_err(), "the disk is not full");
    let check = text(&daemon.cli(&["check", "--syslog", "none"]));
    let said = "warning: mappings cannot be added or removed: ";
    let line = check.lines().find(|line| line.contains(said)).unwrap_or_else(|| panic!("{check}"));
    assert!(line.contains("configs.json") && line.contains("the disk is full; free"), "{line}");
    nothing_is_lost(&mut daemon, &kept, |_| fs::remove_file(&filler).unwrap());
    daemon.kill();
    drop(mount);
}

#[test]
fn file_size_limit_loses_nothing() {
    let mut daemon = Daemon::new(Mode::Plain);
    let kept = daemon.api().add_public(60, NEVER);
    let limit = |daemon: &Daemon, size: &str| {
        let pid = daemon.pid().as_raw_nonzero().to_string();
        let status = Command::new("prlimit").args(["--pid", &pid, size]).status();
        status.is_ok_and(|status| status.success())
    };
    if !limit(&daemon, "--fsize=5:unlimited") {
        could_not_run("prlimit may not limit a running program here");
        return;
    }
    nothing_is_lost(&mut daemon, &kept, |daemon| {
        assert!(limit(daemon, "--fsize=unlimited"));
    });
}

#[test]
fn rename_that_fails_loses_nothing() {
    let mut daemon = Daemon::new(Mode::Plain);
    let kept = daemon.api().add_public(60, NEVER);
    let file = daemon.config().join("configs.json");
    let state = fs::read(&file).unwrap();
    // No file can be renamed over a folder.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    nothing_is_lost(&mut daemon, &kept, |_| {
        fs::remove_dir(&file).unwrap();
        fs::write(&file, state).unwrap();
    });
}

#[test]
fn folder_that_vanishes_loses_nothing() {
    let mut daemon = Daemon::new(Mode::Plain);
    let kept = daemon.api().add_public(60, NEVER);
    let away = daemon.folder().join("away");
    fs::rename(daemon.config(), &away).unwrap();
    let config = daemon.config();
    nothing_is_lost(&mut daemon, &kept, |_| fs::rename(&away, &config).unwrap());
}

/// A mounted file system, taken off again when dropped.
struct Mount(PathBuf);

impl Mount {
    /// Mounts `from` on `to`; `None`, with the reason printed, where that is not allowed.
    fn new(options: &[&str], from: &Path, to: &Path) -> Option<Self> {
        let output = Command::new("mount").args(options).arg(from).arg(to).output();
        match output {
            Ok(output) if output.status.success() => Some(Mount(to.to_owned())),
            Ok(output) => {
                could_not_run(format!("mount: {}", String::from_utf8_lossy(&output.stderr)));
                None
            }
            Err(_) => {
                not_installed("mount");
                None
            }
        }
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap();
        assert!(status.success(), "mount -o {options}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn change_is_synced_before_it_is_answered() {
    let works = Command::new("strace").arg("-V").output().is_ok_and(|out| out.status.success());
    if !works {
        not_installed("strace");
        return;
    }
    let place = Daemon::builder(Mode::Plain).prepare();
    let trace = place.folder().join("trace");
    let calls = "trace=fsync,fdatasync,rename,renameat,renameat2,sendto,write,writev,sendmsg";
    let mut daemon = Daemon::builder(Mode::Plain)
        .wrapper(&["strace", "-f", "-s", "4096", "-o", trace.to_str().unwrap(), "-e", calls])
        .prepare();
    daemon.spawn();
    until("the daemon answers", || daemon.control().try_connect().is_ok());
    let mapping = daemon.control().add_public(60, NEVER);
    daemon.control().post("/api/v2/commandline", "command=stop").ok();
    daemon.wait();
    let text = fs::read_to_string(&trace).unwrap();
    let position = |what: &str, found: &dyn Fn(&str) -> bool, from: usize| {
        let at = text.lines().skip(from).position(found);
        from + at.unwrap_or_else(|| panic!("no {what} after line {from} in\n{text}"))
    };
    let file = position("fsync of the file", &|line| line.contains("sync("), 0);
    let rename =
        position("rename", &|line| line.contains("rename") && line.contains("configs.json"), file);
    let folder = position("fsync of the folder", &|line| line.contains("sync("), rename);
    position("answer", &|line| line.contains(&mapping.id) && line.contains("HTTP/1.1 200"), folder);
    let early = text
        .lines()
        .take(folder)
        .any(|line| line.contains("HTTP/1.1 200") && line.contains(&mapping.id));
    assert!(!early, "answered before the folder was synced");
}

#[test]
fn heartbeats_and_sessions_write_nothing() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, NEVER);
    let file = daemon.config().join("configs.json");
    let stamp = || fs::metadata(&file).unwrap().modified().unwrap();
    // That an agent comes is said; this one stays.
    let (_user, _agent) = daemon.session(&mapping);
    until("it is said", || daemon.log_text().contains("has a tunnel on port"));
    let before = (stamp(), daemon.log_text());
    for _ in 0..5 {
        let (mut user, mut agent) = daemon.session(&mapping);
        agent.beat();
        agent.send(b"answer");
        user.exactly(6);
    }
    assert_eq!((stamp(), daemon.log_text()), before);
}

#[test]
fn state_file_that_is_a_mount_is_written_in_place() {
    if !can_mount() {
        return could_not_run("no mount namespace");
    }
    // As containers bind single files: a rename over it fails with EBUSY.
    let folder = Folder::new();
    let text = r#"{"mappings":[]}"#;
    let volume = folder.file("volume.json", text, 0o644);
    let mount = format!(
        r#"config=$(echo "$*" | sed 's/.*--config \([^ ]*\).*/\1/')
        mount --bind {} "$config/configs.json" && exec "$@""#,
        volume.display()
    );
    let wrapper = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
    let mut daemon =
        Daemon::builder(Mode::Plain).wrapper(&wrapper).file("configs.json", text).start();
    let stored = || {
        let state: serde_json::Value = serde_json::from_slice(&fs::read(&volume).unwrap()).unwrap();
        let mappings = state["mappings"].as_array().expect("mappings");
        mappings.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let mappings: Vec<_> = (0..5).map(|_| daemon.api().add_public(60, NEVER)).collect();
    assert_eq!(stored(), running(&daemon));
    assert_eq!(stored().len(), 5);
    // Shorter again: nothing of the longer one stays behind it.
    mappings[1..].iter().for_each(|mapping| daemon.api().remove(mapping));
    daemon.kill();
    daemon.start();
    assert_eq!(running(&daemon), BTreeSet::from([mappings[0].id.clone()]));
    assert_eq!(stored(), running(&daemon));
    assert_eq!(daemon.read("configs.json"), text, "the file below the mount");
    assert!(!daemon.config().join(".configs.json.journal").exists());
}
