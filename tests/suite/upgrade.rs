//! A new program takes the place of the one that runs, and nobody notices (protocol page, section 7, step 12).

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crate::common::*;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

in_both_modes!(
    sessions_of_all_versions_go_on_and_the_new_program_serves_others,
    user_that_waits_is_served_by_the_program_to_which_it_came,
    tunnels_of_version_one_serve_at_once_where_the_program_before_owes_nothing,
    joined_private_pipe_stays_joined_and_idle_tunnels_are_given_up,
    mapping_that_is_removed_ends_its_sessions_in_the_program_before_too,
    upgrades_in_a_row_under_load_refuse_nobody_and_cut_nothing,
);

const NEVER: u64 = 200_000;

/// Has a new program take the place of the one that serves; `None`, and it is said, where programs of another
/// processor run through a wrapper, which the kernel does not know.
fn upgraded(daemon: &Daemon) -> Option<Pid> {
    if std::env::var_os("IOFOG_CONNECTOR_BIN").is_some() {
        could_not_run("a program that needs a wrapper cannot start itself anew");
        return None;
    }
    let before = daemon.serving().expect("a daemon");
    let output = daemon.cli(&["upgrade"]);
    assert!(output.status.success(), "{}", text(&output));
    let after = daemon.serving().expect("a daemon");
    assert_ne!(before, after);
    assert_eq!(text(&output), format!("Process {} serves now.\n", after.as_raw_nonzero()));
    Some(after)
}

fn predecessor(daemon: &Daemon) -> Value {
    daemon.control().state()["predecessor"].clone()
}

/// A session with an agent of each version: the users, and the agents.
fn of_each_version(daemon: &Daemon, mapping: &Mapping) -> ([Link; 3], Agent, Agent, Framed) {
    let (first, one) = daemon.session(mapping);
    let mut two = daemon.version_two(mapping);
    let second = daemon.user(mapping);
    two.read_header();
    two.send(b"OPEN");
    let mut three = daemon.version_three(mapping);
    let third = daemon.user(mapping);
    three.opened();
    three.accept();
    ([first, second, third], one, two, three)
}

fn sessions_of_all_versions_go_on_and_the_new_program_serves_others(mode: Mode) {
    let mut daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(10, NEVER);
    let ([mut first, mut second, mut third], mut one, mut two, mut three) =
        of_each_version(&daemon, &mapping);
    let [mut idle_one, mut idle_two] = [daemon.tunnel(&mapping), daemon.version_two(&mapping)];
    let mut idle_three = daemon.version_three(&mapping);
    until("all are there", || daemon.api().idle(&mapping) == 3);
    let Some(_) = upgraded(&daemon) else { return };
    // Idle tunnels are given up, so that their agents open others at the new program.
    idle_one.link.expect_closed();
    idle_two.link.expect_closed();
    idle_three.expect(b'B');
    assert_eq!(daemon.control().state()["mappings"][0]["id"], mapping.id);
    // The first number is true, too, with mappings to which users may still be on their way.
    let shown = || Some(predecessor(&daemon)).filter(|shown| !shown.is_null());
    assert_eq!(eventually("the program before is shown", shown)["sessions"], 3);
    let table = text(&daemon.cli(&["status"]));
    assert!(table.contains("still carries 3 sessions"), "{table}");
    let mut newcomer = daemon.version_three(&mapping);
    let mut user = daemon.user(&mapping);
    newcomer.opened();
    newcomer.accept();
    user.send(b"to the new one");
    newcomer.expect_data(b"to the new one");
    // Exact bytes, both ways, in what goes on.
    let bytes = noise(1, 300_000);
    first.send(&bytes);
    assert_eq!(one.link.exactly(bytes.len()), bytes);
    one.send(&bytes);
    assert_eq!(first.exactly(bytes.len()), bytes);
    second.send(b"second");
    two.expect(b"second");
    third.send(b"third");
    three.expect_data(b"third");
    three.send(b"an answer");
    third.expect(b"an answer");
    drop((first, second, third, one, two, three));
    until("nothing is left", || predecessor(&daemon).is_null());
    assert_eq!(daemon.wait().status.code(), Some(0));
    user.send(b"still");
    newcomer.expect_data(b"still");
}

fn user_that_waits_is_served_by_the_program_to_which_it_came(mode: Mode) {
    let mut daemon = Daemon::new(mode);
    // Of version 1 a tunnel must be quiet first: meanwhile others come.
    let mapping = daemon.api().add_public(1000, NEVER);
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    until("it waits", || daemon.api().users_waiting(&mapping) == 1);
    let Some(_) = upgraded(&daemon) else { return };
    // Both programs let agents in as long as one of them has users that wait.
    let mut tunnels = Vec::new();
    let (mut tunnel, got) = eventually("it is served", || {
        tunnels.push(daemon.tunnel(&mapping));
        // One that no user needs there is closed by the old one.
        let got: Vec<_> = tunnels.iter_mut().map(|tunnel| tunnel.link.read_now(99)).collect();
        let asked = got.iter().position(|got| matches!(got, Some(Got::Bytes(_))))?;
        Some((tunnels.swap_remove(asked), got.into_iter().nth(asked).flatten()))
    });
    assert_eq!(got, Some(Got::Bytes(b"question".into())));
    tunnel.send(b"answer");
    user.expect(b"answer");
    drop((user, tunnel));
    assert_eq!(daemon.wait().status.code(), Some(0));
}

fn tunnels_of_version_one_serve_at_once_where_the_program_before_owes_nothing(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    // Another mapping's, which goes on in the first program.
    let other = daemon.api().add_public(60, NEVER);
    let (mut stays, mut carries) = daemon.session(&other);
    let mut took = Vec::new();
    for _ in 0..5 {
        let mut idle = daemon.tunnel(&mapping);
        until("it waits", || daemon.api().idle(&mapping) == 1);
        if upgraded(&daemon).is_none() {
            return;
        }
        idle.link.expect_closed();
        let (begun, mut agent) = (Instant::now(), daemon.tunnel(&mapping));
        let mut user = daemon.user(&mapping);
        user.send(b"question");
        agent.expect_record(b"question");
        took.push(begun.elapsed());
        agent.send(b"answer");
        user.expect(b"answer");
        // Its agent closes the tunnel with the answer.
        drop((agent, user));
        until("nothing is left", || {
            daemon.api().idle(&mapping) + daemon.api().in_use(&mapping) == 0
        });
    }
    // As long it would be quiet first (`QUIET_LATE`).
    assert!(*took.iter().min().unwrap() < ms(800), "{took:?}");
    stays.send(b"stays");
    carries.expect_record(b"stays");
}

fn joined_private_pipe_stays_joined_and_idle_tunnels_are_given_up(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(2, NEVER);
    let (mut one, mut two) = daemon.pair(&mapping);
    let mut waiting = daemon.tunnel(&mapping);
    until("it waits", || daemon.api().idle(&mapping) == 1);
    let Some(_) = upgraded(&daemon) else { return };
    waiting.link.expect_closed();
    // Nothing moves for longer than a stop would wait for.
    thread::sleep(ms(1500));
    one.send(b"still joined");
    two.expect_record(b"still joined");
    let (mut three, mut four) = daemon.pair(&mapping);
    three.send(b"at the new one");
    four.expect_record(b"at the new one");
}

fn mapping_that_is_removed_ends_its_sessions_in_the_program_before_too(mode: Mode) {
    let daemon = Daemon::new(mode);
    let [mapping, other] = [(); 2].map(|()| daemon.api().add_public(10, NEVER));
    let (mut user, _agent) = daemon.session(&mapping);
    let (mut stays, mut tunnel) = daemon.session(&other);
    let Some(_) = upgraded(&daemon) else { return };
    daemon.api().remove(&mapping);
    user.expect_closed();
    stays.send(b"stays");
    tunnel.expect_record(b"stays");
}

/// Users that come one after the other, of whom each sends a tagged piece, has it echoed and leaves.
fn users(daemon: &Daemon, mapping: &Mapping, number: u64, over: &AtomicBool, served: &AtomicU64) {
    for round in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let bytes = noise(number * 1_000_000 + round, 100 + (round as usize * 7919) % 20_000);
        let mut user = daemon.user(mapping);
        user.send(&bytes);
        assert!(user.exactly(bytes.len()) == bytes, "round {round} of {number}");
        user.finish();
        assert!(user.until_end().is_empty(), "more than was sent");
        served.fetch_add(1, Ordering::Relaxed);
    }
}

/// An agent of version 1 or 2 that sends back what comes, with one tunnel at a time.
fn agent(daemon: &Daemon, mapping: &Mapping, version: u8, over: &AtomicBool) {
    let passcode = &mapping.passcode1;
    let (greeting, answer) = match version {
        1 => (passcode.clone(), "AUTHORIZED"),
        _ => (format!("IOFOG/2 {passcode}\n"), "IOFOG/2 AUTHORIZED\n"),
    };
    while !over.load(Ordering::Relaxed) {
        // One that comes in the moment in which a program ends may be cut before it is a tunnel, and comes again.
        let mut link = match daemon.try_link(mapping.port1) {
            Ok(link) => link,
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::ConnectionRefused, "an agent was refused");
                continue;
            }
        };
        if link.try_send(greeting.as_bytes()).is_err() {
            continue;
        }
        // How much of it is not the user's, as far as that is known.
        let (mut came, mut own, mut has_header) = (Vec::new(), answer.len(), version == 1);
        loop {
            match link.record_by(Instant::now() + ms(50)) {
                Got::Bytes(bytes) => came.extend(bytes),
                Got::Late if over.load(Ordering::Relaxed) => return,
                Got::Late => continue,
                Got::End => {
                    link.finish();
                    break;
                }
                _ => break,
            }
            let common = came.len().min(answer.len());
            assert_eq!(came[..common], answer.as_bytes()[..common], "an agent was turned away");
            if !has_header && came.len() >= own + 16 {
                let length = u16::from_be_bytes([came[own + 14], came[own + 15]]);
                (own, has_header) = (own + 16 + usize::from(length), true);
                if link.try_send(b"OPEN").is_err() {
                    break;
                }
            }
            if has_header && came.len() > own {
                if link.try_send(&came[own..]).is_err() {
                    break;
                }
                own = came.len();
            }
        }
    }
}

/// The command `tunnel`, of version 3, with an echo for a service.
fn tunnel(daemon: &Daemon, mapping: &Mapping) -> (Running, Service) {
    let service = Service::echo();
    let passcode = daemon.folder().join("passcode");
    fs::write(&passcode, &mapping.passcode1).unwrap();
    fs::set_permissions(&passcode, Permissions::from_mode(0o600)).unwrap();
    let mut command = Command::new(&binary()[0]);
    command.args(&binary()[1..]).args([
        "tunnel",
        "--connector",
        &format!("localhost:{}", mapping.port1),
        "--passcode-file",
        &passcode.display().to_string(),
        "--target",
        &service.address.to_string(),
    ]);
    match daemon.mode {
        Mode::Plain => command.arg("--plain"),
        Mode::Tls => command.arg("--ca").arg(daemon.config().join("server-cert.pem")),
    };
    (Running::start(&mut command, daemon.folder().join("tunnel")).unwrap(), service)
}

fn upgrades_in_a_row_under_load_refuse_nobody_and_cut_nothing(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 60_000).start();
    let mappings = [(); 3].map(|()| daemon.api().add_public(60, NEVER));
    let held = daemon.api().add_public(60, NEVER);
    let _tunnel = tunnel(&daemon, &mappings[2]);
    // Of each version one that lives through all of it.
    let ([mut first, mut second, mut third], mut one, mut two, mut three) =
        of_each_version(&daemon, &held);
    let (over, agents_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let served = [(); 3].map(|()| AtomicU64::new(0));
    let counts = || served.each_ref().map(|served| served.load(Ordering::Relaxed));
    let upgrades = thread::scope(|scope| {
        let _over = [Over(&over), Over(&agents_over)];
        let mut users = Vec::new();
        for (index, mapping) in mappings.iter().enumerate() {
            let (daemon, over, agents_over, served) =
                (&daemon, &over, &agents_over, &served[index]);
            for number in 0..2 {
                let number = 10 * index as u64 + number;
                users.push(scope.spawn(move || self::users(daemon, mapping, number, over, served)));
            }
            for _ in 0..if index < 2 { 4 } else { 0 } {
                scope.spawn(move || agent(daemon, mapping, index as u8 + 1, agents_over));
            }
        }
        let mut upgrades = 0;
        for _ in 0..size(10, 100) {
            let before = counts();
            let deadline = Instant::now() + PATIENCE;
            // Of version 1 tunnels a new program waits for old answers for a while.
            while (1..3).any(|version| counts()[version] < before[version] + 2) {
                assert!(
                    users.iter().all(|users| !users.is_finished()),
                    "a user was refused or cut"
                );
                assert!(Instant::now() < deadline, "served: {before:?}, then {:?}", counts());
                thread::sleep(ms(5));
            }
            if upgraded(&daemon).is_none() {
                break;
            }
            upgrades += 1;
        }
        over.store(true, Ordering::Relaxed);
        users.into_iter().for_each(|users| users.join().expect("nobody refused, nothing cut"));
        upgrades
    });
    figure(mode, "upgrades; users served by versions 1, 2 and 3", (upgrades, counts()));
    assert!(counts()[0] > 0, "no user of version 1");
    first.send(b"through all of them");
    one.expect_record(b"through all of them");
    second.send(b"and this");
    two.expect(b"and this");
    three.send(b"and back");
    third.expect(b"and back");
}

/// Ends the load when the test has come to its end, or has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn agents_take_upgrades_for_no_fault() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, NEVER);
    let (tunnel, _service) = tunnel(&daemon, &mapping);
    for _ in 0..2 {
        until("it has tunnels", || daemon.api().idle(&mapping) > 0);
        // For longer than a connector that is faulty keeps one.
        thread::sleep(ms(5500));
        if upgraded(&daemon).is_none() {
            return;
        }
    }
    until("it is back", || daemon.api().idle(&mapping) > 0);
    assert!(!tunnel.log().contains("WARN"), "{}", tunnel.log());
}

/// A daemon whose program's file is its own, so that it can be replaced.
fn with_own_file() -> (Daemon, PathBuf) {
    let folder = Folder::new();
    let program = folder.join("iofog-connector");
    fs::copy(&binary()[0], &program).unwrap();
    // The program is the last word of what runs it.
    let wrapper = ["sh", "-c", "shift; exec \"$0\" \"$@\"", &program.display().to_string()];
    let daemon = Daemon::builder(Mode::Plain).wrapper(&wrapper).start();
    std::mem::forget(folder);
    (daemon, program)
}

fn replace(program: &PathBuf, by: &str) {
    let new = program.with_extension("new");
    fs::write(&new, by).unwrap();
    fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, program).unwrap();
}

/// What an upgrade says that is not to be.
fn refused(daemon: &Daemon) -> String {
    let output: Output = daemon.cli(&["upgrade"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    text(&output)
}

#[test]
fn program_that_does_not_start_leaves_the_old_one_serving() {
    if std::env::var_os("IOFOG_CONNECTOR_BIN").is_some() {
        return could_not_run("a program that needs a wrapper cannot start itself anew");
    }
    let (daemon, program) = with_own_file();
    let mapping = daemon.api().add_public(10, NEVER);
    let before = daemon.serving();
    for (script, why) in [
        ("#!/bin/sh\nexit 3\n", "the new program has ended without a word"),
        ("#!/bin/sh\nkill -SEGV $$\n", "the new program has ended without a word"),
        ("no program at all", "cannot be started"),
        ("#!/nonexistent\n", "cannot be started"),
    ] {
        replace(&program, script);
        let said = refused(&daemon);
        assert!(said.contains(why), "{said}");
        assert_eq!(daemon.serving(), before);
        // All works as before, the API's changes, too.
        let (mut user, mut agent) = daemon.session(&mapping);
        user.send(b"more");
        agent.expect_record(b"more");
        let another = daemon.api().add_public(1, NEVER);
        daemon.api().remove(&another);
    }
    let log = daemon.log_text();
    assert!(log.contains("no other program takes this one's place"), "{log}");
    fs::remove_file(&program).unwrap();
    assert!(refused(&daemon).contains("cannot be started"));
}

#[test]
fn settings_that_the_new_program_refuses_leave_the_old_one_serving() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(10, NEVER);
    if upgraded(&daemon).is_none() {
        return;
    }
    let before = daemon.serving();
    daemon.set("userwait", "soon");
    daemon.set("drain", "soon");
    let said = refused(&daemon);
    assert!(said.contains("userwait") && said.contains("drain"), "{said}");
    assert!(!said.contains("\\n"), "{said}");
    assert_eq!(daemon.serving(), before);
    drop(daemon.session(&mapping));
    daemon.set("userwait", 10_000);
    daemon.set("drain", 5000);
    assert!(upgraded(&daemon).is_some());
}

#[test]
fn signal_upgrades_as_the_command_does() {
    let mut daemon = Daemon::new(Mode::Plain);
    if std::env::var_os("IOFOG_CONNECTOR_BIN").is_some() {
        return could_not_run("a program that needs a wrapper cannot start itself anew");
    }
    let before = daemon.serving();
    daemon.signal(Signal::USR2);
    until("another one serves", || daemon.serving() != before);
    assert_eq!(daemon.wait().status.code(), Some(0));
    daemon.api().add_public(1, NEVER);
}

#[test]
fn stop_ends_the_program_before_too() {
    let mut daemon = Daemon::builder(Mode::Plain).set("drain", 300).start();
    let mapping = daemon.api().add_public(10, NEVER);
    let (mut user, _agent) = daemon.session(&mapping);
    let Some(heir) = upgraded(&daemon) else { return };
    let output = daemon.cli(&["stop"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(daemon.wait().status.code(), Some(0));
    user.expect_closed();
    until("it has ended", || test_kill_process(heir).is_err());
    assert!(!daemon.socket().exists());
}

#[test]
fn time_for_sessions_of_the_program_before_is_bounded() {
    let mut daemon = Daemon::builder(Mode::Plain).set("handover", 500).start();
    let mapping = daemon.api().add_public(10, NEVER);
    let (mut user, _agent) = daemon.session(&mapping);
    if upgraded(&daemon).is_none() {
        return;
    }
    let start = Instant::now();
    user.expect_closed();
    assert!(start.elapsed() >= ms(400), "{:?}", start.elapsed());
    assert_eq!(daemon.wait().status.code(), Some(0));
}

#[test]
fn folders_are_the_new_programs_alone() {
    let mut daemon = Daemon::new(Mode::Plain);
    let Some(heir) = upgraded(&daemon) else { return };
    assert_eq!(daemon.wait().status.code(), Some(0));
    let said = text(&daemon.cli(&["start"]));
    assert!(said.contains(&format!("already running in {}", daemon.run().display())), "{said}");
    assert!(said.contains(&format!("(process {})", heir.as_raw_nonzero())), "{said}");
    let elsewhere = Folder::new();
    let output = run_cli(&[
        "start",
        "--config",
        &daemon.config().display().to_string(),
        "--run",
        &elsewhere.display().to_string(),
        "--log",
        &elsewhere.display().to_string(),
    ]);
    assert!(text(&output).contains("keeps its mappings in"), "{}", text(&output));
    let _ = kill_process(heir, Signal::TERM);
    until("it has ended", || test_kill_process(heir).is_err());
    daemon.start();
}

#[test]
fn changed_ports_and_settings_are_in_force_in_the_new_program() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(10, NEVER);
    daemon.set("broker", 4711);
    if upgraded(&daemon).is_none() {
        return;
    }
    let direct = daemon.api().post("/api/v2/direct/add", "");
    assert_eq!(direct.ok()["port"], 4711);
    let (mut user, mut agent) = daemon.session(&mapping);
    user.send(b"served");
    agent.expect_record(b"served");
}

#[test]
fn remote_callers_cannot_upgrade() {
    let daemon = Daemon::new(Mode::Plain);
    let why = daemon.api().post("/api/v2/commandline", "command=upgrade").failed(403);
    assert!(why.contains("own machine"), "{why}");
}
