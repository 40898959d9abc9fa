//! The state of every connection, written when somebody asks (protocol page, section 7, step 13).

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::*;
use rustix::process::Signal;

in_both_modes!(every_connection_is_told_with_its_state_and_without_its_passcode);

const NEVER: u64 = 200_000;

fn written(daemon: &Daemon) -> Option<String> {
    fs::read_to_string(daemon.log().join("iofog-connector.dump")).ok()
}

/// Has one written, and gives it.
#[track_caller]
fn dump(daemon: &Daemon) -> String {
    let output = daemon.cli(&["dump"]);
    assert!(output.status.success(), "{}", text(&output));
    let path = daemon.log().join("iofog-connector.dump");
    assert_eq!(text(&output), format!("{}\n", path.display()));
    assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o640);
    written(daemon).unwrap()
}

/// The line that begins so.
#[track_caller]
fn line<'a>(dump: &'a str, begin: &str) -> &'a str {
    let mut found = dump.lines().filter(|line| line.starts_with(begin));
    let line = found.next().unwrap_or_else(|| panic!("{begin}: {dump}"));
    assert_eq!(found.next(), None, "{dump}");
    line
}

fn every_connection_is_told_with_its_state_and_without_its_passcode(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 600_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mut three = daemon.version_three(&mapping);
    let mut user = daemon.user(&mapping);
    three.opened();
    three.accept();
    user.send(b"question");
    three.expect_data(b"question");
    let idle = daemon.tunnel(&mapping);
    let mute = Link::plain(at(mapping.port1)).unwrap();
    until("it is there", || daemon.control().number(&mapping, "counts.pending") == 1);
    let lonely = daemon.api().add_public(60, NEVER);
    let mut waiting = daemon.user(&lonely);
    waiting.send(b"question");
    until("it waits", || daemon.control().users_waiting(&lonely) == 1);
    let private = daemon.api().add_private(1, NEVER);
    let (mut one, mut two) = daemon.pair(&private);
    let caller = daemon.api().connect();
    let dump = dump(&daemon);

    assert!(dump.starts_with("iofog-connector "), "{dump}");
    let of =
        format!("mapping {} ({}): public, port1 {} open", mapping.id, mapping.id, mapping.port1);
    assert!(
        line(&dump, &of)
            .contains("; sessions 1, users waiting 0, connections without passcode yet 1, "),
        "{dump}"
    );
    let of =
        format!("tunnel port {} {}: version 1, waits for a user for ", mapping.port1, idle.local());
    assert!(line(&dump, &of).contains(" s ago, held 0 bytes for it and 0 from it"), "{dump}");
    let of = format!("user port {} {}: waits for a tunnel, for ", lonely.port2, waiting.local());
    assert!(line(&dump, &of).contains("has sent something"), "{dump}");
    let of = format!("no passcode yet port {} {}: there for ", mapping.port1, mute.local().ip());
    assert!(line(&dump, &of).contains("has sent nothing; its next bytes are waited for"), "{dump}");
    let (agent, of_user) = (three.link.local(), user.local());
    let of = format!(
        "session port {} {agent} with port {} {of_user}: for ",
        mapping.port1, mapping.port2
    );
    let told = line(&dump, &of);
    assert!(told.contains("s, 0 bytes from port1 and 8 from port2, the last "), "{told}");
    assert!(told.contains("; port1: version 3, ") && told.contains("; port2: user, "), "{told}");
    assert_eq!(told.contains("TLS"), mode == Mode::Tls, "{told}");
    let of = format!(
        "session port {} {} with port {} {}: for ",
        private.port1,
        one.local(),
        private.port2,
        two.local()
    );
    assert!(line(&dump, &of).contains(", 10 bytes from port1 and 10 from port2, "), "{dump}");
    assert!(dump.contains("\nAPI caller on this machine: for "), "{dump}");
    for secret in [&mapping, &lonely, &private] {
        for passcode in [&secret.passcode1, &secret.passcode2] {
            assert!(passcode.is_empty() || !dump.contains(passcode.as_str()), "{dump}");
        }
    }
    assert!(!dump.contains("question"), "{dump}");

    // A slow reader, and who waits for it.
    let slow = daemon.control().number(&private, "counts.bytesUp");
    two.fill(&flood(1));
    until("bytes wait", || daemon.control().number(&private, "counts.bytesUp") > slow + (1 << 16));
    until("it is told", || {
        let dump = self::dump(&daemon);
        let told = line(&dump, &of);
        told.contains("port1: version 1, ") && told.contains("is to take more")
    });
    // Nobody was stopped.
    user.send(b"more");
    three.expect_data(b"more");
    three.send(b"answer");
    user.expect(b"answer");
    one.exactly(1 << 20);
    drop((idle, mute, waiting, caller));
}

#[test]
fn signal_writes_one_and_is_harmless_before_the_daemon_is_ready_and_while_it_stops() {
    let mut daemon = Daemon::builder(Mode::Tls).set("drain", 60_000).prepare();
    daemon.spawn();
    // From when it catches the signal, which is at its very start, until it serves.
    let status = format!("/proc/{}/status", daemon.pid().as_raw_nonzero());
    until("the signal is caught", || {
        let status = fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & 1 << 9 != 0
    });
    for _ in 0..100 {
        daemon.signal(Signal::USR1);
    }
    daemon.wait_ready();
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let of = format!("with port {} {}: ", mapping.port2, user.local());
    daemon.signal(Signal::USR1);
    until("it is written", || written(&daemon).is_some_and(|dump| dump.contains(&of)));
    until("the log says so", || {
        daemon.log_text().contains("INFO  the state of every connection is in /")
    });
    fs::remove_file(daemon.log().join("iofog-connector.dump")).unwrap();
    daemon.signal(Signal::TERM);
    until("it is stopping", || daemon.log_text().contains("stopping: "));
    daemon.signal(Signal::USR1);
    until("it is written", || written(&daemon).is_some_and(|dump| dump.contains(&of)));
    user.send(b"still");
    agent.expect(b"still");
    drop((user, agent));
    assert_eq!(daemon.wait().status.code(), Some(0));
}

#[test]
fn dump_that_cannot_be_written_is_said_with_the_reason() {
    let daemon = Daemon::new(Mode::Plain);
    fs::create_dir_all(daemon.log().join("iofog-connector.dump/full")).unwrap();
    fs::create_dir_all(daemon.log().join("iofog-connector.dump.old/full")).unwrap();
    let output = daemon.cli(&["dump"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output);
    assert!(said.contains("cannot be written to ") && said.contains("--log DIR"), "{said}");
    assert!(daemon.log_text().contains("the state of the connections cannot be written"));
    fs::remove_dir_all(daemon.log().join("iofog-connector.dump.old")).unwrap();
    fs::remove_dir_all(daemon.log().join("iofog-connector.dump")).unwrap();
    dump(&daemon);
}

#[test]
fn remote_callers_get_no_dump() {
    let daemon = Daemon::new(Mode::Plain);
    let why = daemon.api().post("/api/v2/commandline", "command=dump").failed(403);
    assert!(why.contains("own machine"), "{why}");
    assert_eq!(written(&daemon), None);
    let output = run_cli(&["dump", "--run", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}
