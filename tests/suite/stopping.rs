//! How a daemon stops: whom it waits for, what it says meanwhile, and how it is hurried (protocol
//! page, section 7).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crate::common::*;
use rustix::process::Signal;

in_both_modes!(
    idle_private_session_does_not_hold_up_the_stop,
    private_session_in_which_bytes_move_is_waited_for,
    users_without_a_tunnel_are_closed_at_once,
);

const NEVER: u64 = 200_000;

/// A time for sessions to drain that no test waits for.
const LONG: u64 = 600_000;

/// Tells a thread to end, when the test has come to its end or has failed.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn connection_that_says_nothing_does_not_hold_up_the_stop_for_its_handshake() {
    let mut daemon = Daemon::builder(Mode::Tls).set("drain", LONG).start();
    let mapping = daemon.api().add_public(1, NEVER);
    let _agent = daemon.tunnel(&mapping);
    let _mute = stalled(at(mapping.port2), 1, b"");
    // It has been accepted before the next one is.
    drop(daemon.user(&mapping));
    assert_eq!(daemon.stop().status.code(), Some(0));
    let log = daemon.log_text();
    assert!(!log.contains("its handshake took"), "it was waited for: {log}");
}

#[test]
fn users_that_stall_in_their_handshake_do_not_hold_up_the_stop() {
    let mut daemon = Daemon::builder(Mode::Tls).set("drain", LONG).start();
    let mapping = daemon.api().add_public(1, NEVER);
    let _agent = daemon.tunnel(&mapping);
    let hello = client_hello(&daemon);
    let _begun = stalled(at(mapping.port2), 10, &hello[..1]);
    let answered = stalled(at(mapping.port2), 10, &hello);
    // Something of the answer is there.
    until("all are answered", || {
        answered.iter().all(|link| link.socket().peek(&mut [0]).is_ok_and(|count| count > 0))
    });
    assert_eq!(daemon.stop().status.code(), Some(0));
    let log = daemon.log_text();
    assert!(!log.contains("its handshake took"), "they were waited for: {log}");
}

fn ports_are_closed(daemon: &Daemon, mapping: &Mapping) {
    until("the ports are closed", || {
        [at(mapping.port1), at(mapping.port2), daemon.api_address()]
            .iter()
            .all(|port| Link::plain(*port).is_err())
    });
}

fn idle_private_session_does_not_hold_up_the_stop(mode: Mode) {
    let mut daemon = Daemon::builder(mode).set("drain", LONG).start();
    let mapping = daemon.api().add_private(1, NEVER);
    let (mut one, mut two) = daemon.pair(&mapping);
    assert_eq!(daemon.stop().status.code(), Some(0));
    one.link.expect_closed();
    two.link.expect_closed();
}

fn private_session_in_which_bytes_move_is_waited_for(mode: Mode) {
    let mut daemon = Daemon::builder(mode).set("drain", LONG).start();
    let mapping = daemon.api().add_private(1, NEVER);
    let (mut one, mut two) = daemon.pair(&mapping);
    let moving = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            while moving.load(Ordering::Relaxed) {
                one.send(b"on and on");
                two.expect_record(b"on and on");
            }
        });
        let _until = Until(&moving);
        daemon.signal(Signal::TERM);
        ports_are_closed(&daemon, &mapping);
        let start = Instant::now();
        while start.elapsed() < ms(2500) {
            assert_eq!(daemon.control().state()["draining"]["sessions"], 1);
            assert!(daemon.is_running());
        }
    });
    // Nobody leaves; it is quiet now.
    assert_eq!(daemon.wait().status.code(), Some(0));
}

#[test]
fn private_session_whose_reader_is_slow_is_waited_for() {
    let mut daemon = Daemon::builder(Mode::Plain).set("drain", LONG).start();
    let mapping = daemon.api().add_private(1, NEVER);
    let (mut one, mut two) = daemon.pair(&mapping);
    two.link.shrink();
    let reading = AtomicBool::new(true);
    let bytes = flood(1);
    one.link.fill(&bytes);
    thread::scope(|scope| {
        scope.spawn(|| {
            while reading.load(Ordering::Relaxed) {
                let _ = two.link.read_now(2048);
                thread::sleep(ms(20));
            }
        });
        let _until = Until(&reading);
        daemon.signal(Signal::TERM);
        ports_are_closed(&daemon, &mapping);
        let start = Instant::now();
        while start.elapsed() < ms(9000) {
            assert!(daemon.is_running(), "after {:?}", start.elapsed());
            thread::sleep(ms(50));
        }
    });
    // Who reads nothing more is not waited for.
    assert_eq!(daemon.wait().status.code(), Some(0));
}

fn users_without_a_tunnel_are_closed_at_once(mode: Mode) {
    let mut daemon = Daemon::builder(mode).set("drain", LONG).set("userwait", LONG).start();
    let (none, idle) = (daemon.api().add_public(60, NEVER), daemon.api().add_public(60, NEVER));
    let mut speaking = daemon.user(&none);
    speaking.send(b"question");
    // A version 1 agent would do nothing with one that says nothing.
    let mut mute = daemon.user(&idle);
    let _tunnel = daemon.tunnel(&idle);
    until("both wait", || {
        daemon.api().users_waiting(&none) == 1 && daemon.api().users_waiting(&idle) == 1
    });
    assert_eq!(daemon.stop().status.code(), Some(0));
    speaking.expect_closed();
    mute.expect_closed();
}

#[test]
fn users_that_wait_are_given_the_tunnels_that_are_there() {
    until("the user sends within its second", waiting_user_is_given_a_tunnel);
}

/// False where this machine was too busy to let the user send in time.
fn waiting_user_is_given_a_tunnel() -> bool {
    let mut daemon = Daemon::builder(Mode::Plain).set("drain", LONG).set("userwait", LONG).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mut agent = daemon.tunnel(&mapping);
    // Before it has said something it is given no version 1 tunnel.
    let mut user = daemon.user(&mapping);
    until("it waits", || daemon.api().users_waiting(&mapping) == 1);
    let start = Instant::now();
    daemon.signal(Signal::TERM);
    until("the port is closed", || Link::plain(at(mapping.port2)).is_err());
    let sent = user.try_send(b"question");
    if start.elapsed() > ms(700) {
        return false;
    }
    sent.expect("it is still there");
    agent.expect(b"question");
    until("one is left", || daemon.control().state()["draining"]["sessions"] == 1);
    agent.send(b"answer");
    user.expect(b"answer");
    assert!(daemon.is_running());
    user.finish();
    agent.finish();
    assert_eq!(daemon.wait().status.code(), Some(0));
    true
}

#[test]
fn what_was_sent_before_a_session_ends_during_the_stop_arrives_with_an_orderly_end() {
    until("the worker has had its time", last_bytes_arrive);
}

/// False where this machine was too busy to let the worker close within the second that it has.
fn last_bytes_arrive() -> bool {
    let mut daemon = Daemon::builder(Mode::Plain).set("drain", LONG).set("threads", 1).start();
    let mapping = daemon.api().add_public(1, NEVER);
    let mut agent = daemon.link(mapping.port1);
    agent.send(format!("IOFOG/2 {}\n", mapping.passcode1).as_bytes());
    agent.expect(b"IOFOG/2 AUTHORIZED\n");
    let mut user = daemon.user(&mapping);
    user.shrink();
    user.send(b"question");
    // The header of a user with IPv4 addresses comes before it.
    assert!(agent.exactly(28 + 8).ends_with(b"question"));
    // More than its machine takes before it reads, and less than the daemon's holds for it.
    let answer = noise(1, 400_000);
    agent.send(b"OPEN");
    agent.send(&answer);
    until("the answer has come so far", || {
        daemon.api().state()["mappings"][0]["counts"]["bytesDown"] == answer.len()
    });
    daemon.signal(Signal::TERM);
    ports_are_closed(&daemon, &mapping);
    // Between the end of the session and the close of its connections are thirty looks at whether a
    // session is left.
    let slow = ["-e", "trace=setsockopt", "-e", "inject=setsockopt:delay_enter=300000"];
    let Some(_slow) = Strace::on(daemon.worker(), &slow) else { return true };
    agent.finish();
    let start = Instant::now();
    user.finish();
    assert_eq!(daemon.wait().status.code(), Some(0));
    let took = start.elapsed();
    let (bytes, end) = user.rest();
    if end != Got::End && took >= ms(900) {
        return false;
    }
    assert_eq!(end, Got::End, "after {} bytes and {took:?}", bytes.len());
    assert_same(&bytes, &answer, "the answer");
    true
}

#[test]
fn second_signal_ends_a_draining_daemon_at_once() {
    for signals in [[Signal::TERM, Signal::INT], [Signal::TERM, Signal::TERM]] {
        let mut daemon = Daemon::builder(Mode::Plain).set("drain", LONG).start();
        let mapping = daemon.api().add_public(60, NEVER);
        let (mut user, mut agent) = daemon.session(&mapping);
        // What the command line asks for is no signal: the service manager's comes after it.
        daemon.control().post("/api/v2/commandline", "command=stop").ok();
        ports_are_closed(&daemon, &mapping);
        daemon.signal(Signal::HUP);
        daemon.signal(signals[0]);
        until("the first signal is answered", || {
            daemon.log_text().contains("one more SIGTERM ends it at once")
        });
        assert!(daemon.is_running());
        daemon.signal(signals[1]);
        assert_eq!(daemon.wait().status.code(), Some(0));
        assert!(daemon.log_text().contains("1 session cut"), "{}", daemon.log_text());
        user.expect_closed();
        agent.link.expect_closed();
        daemon.start();
        daemon.session(&mapping);
    }
}

#[test]
fn status_says_draining_what_is_left_and_how_long() {
    let folder = Daemon::builder(Mode::Plain).prepare();
    let manager = Manager::new(folder.folder());
    let mut daemon = Daemon::builder(Mode::Plain)
        .set("drain", LONG)
        .environment("NOTIFY_SOCKET", manager.path())
        .start();
    let mapping = daemon.api().add_public(60, NEVER);
    let state = daemon.control().state();
    assert_eq!(state["status"], "running");
    assert_eq!(state["draining"], serde_json::Value::Null);
    let (mut user, mut agent) = daemon.session(&mapping);
    daemon.signal(Signal::TERM);
    ports_are_closed(&daemon, &mapping);
    let control = daemon.control();
    let state = control.state();
    assert_eq!(state["status"], "draining");
    assert_eq!(state["draining"]["sessions"], 1);
    assert_eq!(state["draining"]["usersWaiting"], 0);
    let left = state["draining"]["millisecondsLeft"].as_u64().unwrap();
    assert!((LONG - 120_000..=LONG).contains(&left), "{left}");
    for side in [0, 1] {
        let side = &state["mappings"][0]["sides"][side];
        assert_eq!(side["open"], false);
        assert!(side["fault"].as_str().unwrap().contains("the connector is stopping"));
    }
    assert_eq!(control.status("all")["status"], "draining");
    assert_eq!(control.status(&mapping.id)["public"], "Inactive");
    assert_eq!(control.status(&mapping.id)["private"], "Inactive");
    let answer = control.post("/api/v2/commandline", "command=status").ok();
    assert!(answer["response"].as_str().unwrap().contains("stopping"), "{answer}");
    let table = daemon.cli(&["status"]);
    assert_eq!(table.status.code(), Some(0));
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    let line = table.lines().nth(1).unwrap();
    assert!(line.starts_with("draining: 1 session left, for "), "{table}");
    assert!(line.contains("a second SIGTERM"), "{table}");
    assert!(table.contains("inactive"), "{table}");
    manager.receive("STATUS=draining: 1 session left, for ");
    agent.send(b"answer");
    user.expect(b"answer");
    user.finish();
    agent.finish();
    assert_eq!(daemon.wait().status.code(), Some(0));
}

#[test]
fn stop_waits_as_long_as_the_running_daemon_drains() {
    let mut daemon = Daemon::builder(Mode::Plain).set("drain", LONG).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    // Not read by the daemon: with it alone `stop` would give up after 10 s.
    daemon.set("drain", 0);
    thread::scope(|scope| {
        let stop = scope.spawn(|| daemon.cli(&["stop"]));
        ports_are_closed(&daemon, &mapping);
        let start = Instant::now();
        while start.elapsed() < ms(11_500) {
            assert!(!stop.is_finished(), "after {:?}", start.elapsed());
            thread::sleep(ms(50));
        }
        user.finish();
        agent.finish();
        let output = stop.join().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("is draining: 1 session left, for "), "{said}");
    });
    assert_eq!(daemon.wait().status.code(), Some(0));
}

#[test]
fn status_of_a_daemon_that_hangs_is_4_within_seconds() {
    let daemon = Daemon::new(Mode::Plain);
    daemon.signal(Signal::STOP);
    for arguments in [&["status"][..], &["status", "--json"]] {
        let start = Instant::now();
        let output = daemon.cli(arguments);
        let took = start.elapsed();
        assert_eq!(output.status.code(), Some(4));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("did not answer within 5 s"), "{said}");
        // 5 s, which `control::status_waits_for_five_seconds_at_most` pins, and a busy machine's;
        // other commands take 30 s.
        assert!(took < ms(14_000), "after {took:?}");
    }
    daemon.signal(Signal::CONT);
}

#[test]
fn commands_of_a_mapping_beat_within_its_threshold_and_are_4_when_nobody_answers() {
    let daemon = Daemon::new(Mode::Plain);
    for (threshold, beat) in [("5000", Some("--heartbeat 1666")), ("60000", None), ("0", None)] {
        let add = ["mapping", "add", "public", "--show", "--heartbeat-threshold", threshold];
        let output = daemon.cli(&add);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match beat {
            Some(beat) => assert!(said.contains(beat), "{said}"),
            None => assert!(!said.contains("--heartbeat"), "{said}"),
        }
    }
    daemon.signal(Signal::STOP);
    let list = daemon.cli(&["mapping", "list"]);
    daemon.signal(Signal::CONT);
    assert_eq!(list.status.code(), Some(4));
}

#[test]
fn commands_of_a_mapping_ask_for_no_more_tunnels_than_it_allows() {
    let daemon = Daemon::new(Mode::Plain);
    for (pipe, allowed, asked) in [
        ("public", "3", Some("--target localhost:PORT --connections 3\n")),
        ("private", "1", Some("--target localhost:PORT --connections 1\n")),
        ("public", "8", None),
        ("public", "60", None),
    ] {
        let output = daemon.cli(&["mapping", "add", pipe, "--show", "--connections", allowed]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(asked.unwrap_or("--target localhost:PORT\n")), "{said}");
        assert_eq!(said.matches("--connections").count(), asked.iter().count(), "{said}");
    }
}

#[test]
fn commands_of_a_mapping_are_of_what_the_daemon_runs_with() {
    let daemon = Daemon::builder(Mode::Plain).set("address", "running.example").start();
    // Settings that nobody has told it to read.
    daemon.set("address", "elsewhere.example");
    daemon.set("dev", false);
    let output = daemon.cli(&["mapping", "add", "public", "--show"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("users connect to http://running.example:"), "{said}");
    assert!(said.contains("--connector running.example:"), "{said}");
    assert!(said.contains("--plain"), "{said}");
    assert!(!said.contains("elsewhere"), "{said}");
}
