//! `iofog-connector tunnels`: all tunnels of a folder in one process (protocol page, section 5,
//! step 8).

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::common::*;
use rustix::process::Signal;
use serde_json::Value;

in_both_modes!(
    sighup_starts_what_is_new_drains_what_is_gone_replaces_what_has_changed_and_touches_no_other,
    status_shows_each_tunnel_and_no_passcode,
    tunnel_that_ends_is_never_shown_as_failed_and_counted_no_more,
    a_new_passcode_is_read_again_without_a_new_tunnel,
);

/// A running `tunnels`; it ends when this is dropped.
struct Many {
    program: Running,
    folder: Folder,
    manager: Manager,
}

impl Many {
    /// Over a folder that has these files, run by way of `wrapper`.
    fn start(wrapper: &[&str], files: &[(&str, String)]) -> Self {
        let folder = Folder::new();
        fs::create_dir(folder.join("tunnels")).unwrap();
        let manager = Manager::new(&folder);
        let command: Vec<_> = wrapper.iter().map(Into::into).chain(binary()).collect();
        for (name, text) in files {
            folder.file(&format!("tunnels/{name}.conf"), text, 0o600);
        }
        let mut program = Command::new(&command[0]);
        program
            .args(&command[1..])
            .arg("tunnels")
            .arg("--tunnels")
            .arg(folder.join("tunnels"))
            .arg("--run")
            .arg(folder.join("run"));
        manager.watch(&mut program);
        let program = Running::start(&mut program, folder.join("log")).unwrap();
        Many { program, folder, manager }
    }

    fn put(&self, name: &str, text: &str) {
        self.folder.file(&format!("tunnels/{name}.conf"), text, 0o600);
    }

    fn log(&self) -> String {
        self.program.log()
    }

    fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    /// Has it read the folder again, and waits until it has.
    #[track_caller]
    fn read_again(&self) {
        let count = || self.log().matches(" with a fault").count();
        let before = count();
        self.signal(Signal::HUP);
        until("the folder is read again", || count() > before);
    }

    fn status_command(&self, more: &[&str]) -> std::process::Output {
        let run = self.folder.join("run");
        run_cli(&[&["tunnels", "status", "--run", run.to_str().unwrap()], more].concat())
    }

    /// What `tunnels status --json` shows of this one.
    fn status(&self, name: &str) -> Option<Value> {
        let output = self.status_command(&["--json"]);
        let state: Value = serde_json::from_slice(&output.stdout).ok()?;
        state["tunnels"].as_array()?.iter().find(|one| one["name"] == name).cloned()
    }

    fn process(&self, what: &str) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.program.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// The options of a tunnel that serves this service.
fn serves(daemon: &Daemon, mapping: &Mapping, target: SocketAddr, more: &str) -> String {
    let trust = match daemon.mode {
        Mode::Plain => "plain".to_owned(),
        Mode::Tls => format!("ca={}", daemon.config().join("server-cert.pem").display()),
    };
    format!(
        "connector=localhost:{}\npasscode={}\ntarget={target}\nheartbeat=300\n{trust}\n{more}\n",
        mapping.port1, mapping.passcode1
    )
}

/// Says `hello`, then sends back what comes.
fn says(hello: &'static [u8]) -> Service {
    Service::new(move |mut socket| {
        let _ = socket.write_all(hello);
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = socket.read(&mut buffer) {
            if socket.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    })
}

fn mappings(daemon: &Daemon, count: usize) -> Vec<Mapping> {
    (0..count).map(|_| daemon.api().add_public(20, 200_000)).collect()
}

fn opened(daemon: &Daemon, mapping: &Mapping) -> u64 {
    daemon.api().number(mapping, "counts.tunnelsTotal")
}

fn sighup_starts_what_is_new_drains_what_is_gone_replaces_what_has_changed_and_touches_no_other(
    mode: Mode,
) {
    let daemon = Daemon::builder(mode).ports(20).start();
    let [kept, gone, changed, new] = &mappings(&daemon, 4)[..] else { unreachable!() };
    let (one, two) = (says(b"one\n"), says(b"two\n"));
    let of = |mapping, service: &Service, more: &str| {
        serves(&daemon, mapping, service.address, &format!("connections=2\n{more}"))
    };
    let many = Many::start(
        &[],
        &[
            ("kept", of(kept, &one, "")),
            ("gone", of(gone, &one, "drain=60000")),
            ("changed", of(changed, &one, "drain=60000")),
        ],
    );
    let mut users: Vec<_> = [kept, gone, changed].map(|mapping| daemon.user(mapping)).into();
    users.iter_mut().for_each(|user| user.expect(b"one\n"));
    until("its tunnels are there", || daemon.api().idle(kept) == 2);
    let before = opened(&daemon, kept);
    fs::remove_file(many.folder.join("tunnels/gone.conf")).unwrap();
    many.put("changed", &of(changed, &two, ""));
    many.put("new", &of(new, &two, ""));
    many.read_again();
    assert!(many.log().contains("3 tunnels of"), "{}", many.log());
    assert!(many.log().contains("1 new, 1 changed, 1 gone, 0 with a fault"), "{}", many.log());
    // The connector may give the old one's last tunnel away before it has noticed its end.
    until(
        "users of what has changed reach the other service",
        || matches!(daemon.user(changed).record(), Got::Bytes(bytes) if bytes == b"two\n"),
    );
    daemon.user(new).expect(b"two\n");
    until("what is gone takes no users", || daemon.api().idle(gone) == 0);
    let draining = many.status("gone").unwrap();
    assert_eq!((&draining["state"], &draining["sessions"]), (&"draining".into(), &1.into()));
    many.manager.receive("STATUS=3 tunnels, all connected; 2 draining");
    for user in &mut users {
        user.send(b"still here");
        user.expect(b"still here");
    }
    assert_eq!(opened(&daemon, kept), before, "not one new tunnel");
    drop(users);
    until("it is over", || many.status("gone").is_none());
}

fn status_shows_each_tunnel_and_no_passcode(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(20, 200_000);
    let service = says(b"hello\n");
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let file = serves(&daemon, &mapping, service.address, "connections=3");
    let unreachable = file.replace(&format!(":{}", mapping.port1), &format!(":{}", dead.port()));
    let many = Many::start(&[], &[("well", file), ("unreachable", unreachable)]);
    let mut user = daemon.user(&mapping);
    user.expect(b"hello\n");
    let bytes = noise(1, 100_000);
    assert_same(&user.exchange(&bytes, bytes.len()), &bytes, "echo");
    let well = eventually("all are there", || many.status("well").filter(|it| it["idle"] == 3));
    assert_eq!(well["connector"], format!("localhost:{}", mapping.port1));
    assert_eq!(well["state"], "connected");
    assert_eq!((&well["version"], &well["sessions"]), (&3.into(), &1.into()));
    assert_eq!((&well["bytesIn"], &well["bytesOut"]), (&100_000.into(), &100_006.into()));
    assert!(well["since"].as_str().unwrap().ends_with('Z'), "{well}");
    let ill = eventually("it is said", || {
        many.status("unreachable").filter(|it| it["state"] == "unreachable")
    });
    assert!(ill["lastError"].as_str().unwrap().contains("refuses the connection"), "{ill}");
    assert!(ill["lastErrorAt"].as_str().unwrap().ends_with('Z'), "{ill}");
    assert!(ill["version"].is_null(), "{ill}");
    let table = many.status_command(&[]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.lines().any(|line| line.starts_with("well ")), "{table}");
    assert!(!table.contains(&mapping.passcode1) && !many.log().contains(&mapping.passcode1));
    assert!(table.contains("    last error at 2") && table.contains("Z: connector "), "{table}");
    let json = many.status_command(&["--json"]);
    assert!(!String::from_utf8(json.stdout).unwrap().contains(&mapping.passcode1));
    let mode = fs::metadata(many.folder.join("run/tunnels.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn top_shows_the_tunnels_of_the_process_and_a_signal_for_a_dump_is_harmless() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(20, 200_000);
    let service = says(b"hello");
    let options = serves(&daemon, &mapping, service.address, "");
    let many = Many::start(&[], &[("ssh", options), ("a\u{1b}[31mb", "odd".into())]);
    until("it is connected", || many.status("ssh").is_some_and(|one| one["state"] == "connected"));
    many.signal(Signal::USR1);
    until("it is said", || many.log().contains("SIGUSR1 is for the connector"));
    let run = many.folder.join("run");
    let output = run_cli(&["top", "--agent", "--count", "1", "--run", run.to_str().unwrap()]);
    let said = text(&output);
    assert!(output.status.success() && !said.contains('\u{1b}'), "{said:?}");
    let row =
        |name: &str| said.lines().find(|line| line.starts_with(name)).expect(&said).to_owned();
    let words = row("ssh ");
    let words: Vec<_> = words.split_whitespace().collect();
    assert_eq!(
        (words[1], words.last()),
        ("connected", Some(&&*format!("localhost:{}", mapping.port1)))
    );
    assert!(row("a\\u{1b}[31mb ").contains(" faulty "), "{said}");
}

fn tunnel_that_ends_is_never_shown_as_failed_and_counted_no_more(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(20, 200_000);
    let service = says(b"hello\n");
    let file = |more| serves(&daemon, &mapping, service.address, more);
    let many = Many::start(&[], &[("one", file("connections=1")), ("two", file("connections=1"))]);
    many.manager.receive("STATUS=2 tunnels, all connected");
    fs::remove_file(many.folder.join("tunnels/two.conf")).unwrap();
    many.put("one", &file("connections=2"));
    many.read_again();
    until("the new one is alone", || {
        let output = many.status_command(&["--json"]);
        let state: Value = serde_json::from_slice(&output.stdout).unwrap();
        let tunnels = state["tunnels"].as_array().unwrap();
        assert!(tunnels.iter().all(|one| one["state"] != "failed"), "{state}");
        tunnels.len() == 1 && tunnels[0]["idle"] == 2
    });
    many.manager.receive("RELOADING=1");
    // It may not be connected yet.
    let ready = many.manager.receive("READY=1");
    assert!(ready.contains("STATUS=1 tunnel, ") && !ready.contains("two"), "{ready}");
}

fn a_new_passcode_is_read_again_without_a_new_tunnel(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(20, 200_000);
    let service = says(b"hello\n");
    let file = serves(&daemon, &mapping, service.address, "connections=1");
    let wrong = file.replace(&mapping.passcode1, "00000000-0000-0000-0000-000000000000");
    let many = Many::start(&[], &[("one", wrong)]);
    until("it is refused", || many.status("one").is_some_and(|it| it["state"] == "refused"));
    many.put("one", &file);
    many.read_again();
    assert!(many.log().contains("0 new, 0 changed, 0 gone"), "{}", many.log());
    daemon.user(&mapping).expect(b"hello\n");
}

#[test]
fn file_with_a_fault_is_reported_with_its_line_and_skipped_and_a_running_tunnel_stays() {
    let daemon = Daemon::builder(Mode::Plain).ports(20).start();
    let [one, two] = &mappings(&daemon, 2)[..] else { unreachable!() };
    let service = says(b"hello\n");
    let file = |mapping| serves(&daemon, mapping, service.address, "connections=1");
    let faulty = file(two).replace("target=", "taget=");
    let many = Many::start(&[], &[("one", file(one)), ("two", faulty)]);
    fs::write(many.folder.join("tunnels/notes.txt"), "no tunnel").unwrap();
    daemon.user(one).expect(b"hello\n");
    let log = many.log();
    assert!(log.contains("two.conf: line 3: unknown option: did you mean target?"), "{log}");
    assert_eq!(many.status("two").unwrap()["state"], "faulty");
    // A value is named with its line, too, and what runs stays as it was.
    many.put("one", &file(one).replace("heartbeat=300", "heartbeat=soon"));
    many.put("two", &file(two));
    many.read_again();
    let log = many.log();
    assert!(log.contains("one.conf: line 4: --heartbeat: \"soon\" is not a number"), "{log}");
    daemon.user(one).expect(b"hello\n");
    daemon.user(two).expect(b"hello\n");
    assert!(many.status("one").unwrap()["lastErrorOver"].is_null());
    many.put("one", &file(one));
    many.read_again();
    assert!(many.status("one").unwrap()["lastErrorOver"].is_string(), "it is mended");
    // The folder itself.
    let [folder, away] = ["tunnels", "away"].map(|name| many.folder.join(name));
    fs::rename(&folder, &away).unwrap();
    many.signal(Signal::HUP);
    until("it is said", || many.log().contains("there is no such folder; make it with"));
    daemon.user(two).expect(b"hello\n");
}

#[test]
fn folder_that_is_missing_or_in_use_ends_the_start_with_the_remedy() {
    let many = Many::start(&[], &[]);
    until("it runs", || many.log().contains("no file there ends in .conf"));
    let (run, folder) = (many.folder.join("run"), many.folder.join("tunnels"));
    let (run, folder) = (run.to_str().unwrap(), folder.to_str().unwrap());
    let output = run_cli(&["tunnels", "--tunnels", folder, "--run", run]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("`tunnels` already runs in"), "{said}");
    assert!(said.contains(&format!("(process {})", many.program.child.id())), "{said}");
    let other = many.folder.join("other");
    let output = run_cli(&["tunnels", "--tunnels", "/none/such", "--run", other.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("/none/such: there is no such folder; make it with"), "{said}");
    let output = run_cli(&["tunnels", "status", "--run", "/none/such"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("`iofog-connector tunnels --run /none/such` starts it"));
}

#[test]
fn service_manager_is_told_that_it_is_ready_alive_and_stopping_and_sigterm_lets_sessions_finish() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(20, 200_000);
    let service = says(b"hello\n");
    let file = serves(&daemon, &mapping, service.address, "drain=30000");
    let mut many = Many::start(&[], &[("one", file)]);
    many.manager.receive("READY=1");
    many.manager.receive("WATCHDOG=1");
    many.manager.receive("STATUS=1 tunnel, all connected");
    let mut user = daemon.user(&mapping);
    user.expect(b"hello\n");
    many.signal(Signal::HUP);
    many.manager.receive("RELOADING=1");
    many.manager.receive("READY=1");
    many.signal(Signal::TERM);
    let stopping = many.manager.receive("STOPPING=1");
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC=60000000"), "{stopping}");
    until("idle tunnels are closed", || daemon.api().idle(&mapping) == 0);
    user.send(b"still here");
    user.expect(b"still here");
    assert!(many.program.child.try_wait().unwrap().is_none());
    user.finish();
    user.until_end();
    let status = eventually("it ends", || many.program.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert!(!many.folder.join("run/tunnels.sock").exists());
}

#[test]
fn local_port_of_a_tunnel_that_is_replaced_is_open_again() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_private(20, 200_000);
    let local = at(daemon.block.first + daemon.block.len - 1);
    let service = says(b"hello\n");
    let file = |more: &str| {
        format!(
            "connector=localhost:{}\npasscode={}\nlisten={local}\nplain\n{more}\n",
            mapping.port2, mapping.passcode2
        )
    };
    let serving = serves(&daemon, &mapping, service.address, "connections=1");
    let many = Many::start(&[], &[("in", file("")), ("out", serving)]);
    let greeted = |pending: &str| {
        let mut socket = eventually("it listens", || TcpStream::connect(local).ok());
        let mut hello = [0; 6];
        socket.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello\n", "{pending}");
    };
    greeted("128");
    for pending in ["pending=7", "pending=8", "pending=9"] {
        many.put("in", &file(pending));
        many.read_again();
        greeted(pending);
    }
    assert!(!many.log().contains("another program uses it"), "{}", many.log());
}

/// The options of a tunnel that listens here, for a connector that it has no need of yet.
fn listens(local: SocketAddr) -> String {
    let passcode = "00000000-0000-0000-0000-000000000000";
    format!("connector=localhost:1\npasscode={passcode}\nlisten={local}\nplain\n")
}

#[test]
fn local_ports_that_change_hands_in_one_reload_are_open_at_once() {
    let daemon = Daemon::new(Mode::Plain);
    let end = daemon.block.first + daemon.block.len;
    let [one, two, three] = [1, 2, 3].map(|before| at(end - before));
    let files = [("a", listens(one)), ("b", listens(two)), ("d", listens(three))];
    let many = Many::start(&[], &files);
    let opened = |name: &str, local: SocketAddr| {
        let line = format!("{name}: listening on {local} ");
        until(&line, || many.log().contains(&line));
    };
    opened("a", one);
    opened("b", two);
    opened("d", three);
    many.put("a", &listens(two));
    many.put("b", &listens(one));
    // One that is gone gives its port to one that is new.
    fs::remove_file(many.folder.join("tunnels/d.conf")).unwrap();
    many.put("c", &listens(three));
    many.read_again();
    assert!(many.log().contains("1 new, 2 changed, 1 gone, 0 with a fault"), "{}", many.log());
    opened("a", two);
    opened("b", one);
    opened("c", three);
    assert!(!many.log().contains("another program uses it"), "{}", many.log());
}

#[test]
fn local_port_that_is_taken_is_said_once_and_opened_when_it_is_free() {
    let daemon = Daemon::new(Mode::Plain);
    let local = at(daemon.block.first + daemon.block.len - 1);
    let taken = TcpListener::bind(local).unwrap();
    let many = Many::start(&[], &[("one", listens(local))]);
    let failed = || many.status("one").filter(|it| it["state"] == "failed");
    let state = eventually("it is shown", failed);
    assert!(state["lastError"].as_str().unwrap().contains("another program uses it"), "{state}");
    assert!(state["lastErrorOver"].is_null(), "{state}");
    drop(taken);
    let listens = || many.status("one").filter(|it| it["state"] == "listening");
    let state = eventually("it listens", listens);
    assert!(state["lastErrorOver"].as_str().unwrap().ends_with('Z'), "{state}");
    assert!(state["lastError"].as_str().unwrap().contains("another program uses it"), "{state}");
    TcpStream::connect(local).unwrap();
    assert_eq!(many.log().matches("another program uses it").count(), 1, "{}", many.log());
}

#[test]
fn warning_about_the_options_stays_when_the_connector_accepts_tunnels() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_private(20, 200_000);
    let port = daemon.block.first + daemon.block.len - 1;
    let file = format!(
        "connector=localhost:{}\npasscode={}\nlisten=0.0.0.0:{port}\nplain\n",
        mapping.port2, mapping.passcode2
    );
    let service = says(b"hello\n");
    let serving = serves(&daemon, &mapping, service.address, "connections=1");
    let many = Many::start(&[], &[("in", file), ("out", serving)]);
    let mut socket = eventually("it listens", || TcpStream::connect(at(port)).ok());
    socket.read_exact(&mut [0; 6]).unwrap();
    let state = many.status("in").unwrap();
    assert_eq!(state["state"], "connected");
    assert!(state["lastError"].as_str().unwrap().contains("anyone who can reach it"), "{state}");
    assert!(state["lastErrorOver"].is_null(), "{state}");
}

#[test]
fn since_is_when_the_state_that_is_shown_began() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(20, 200_000);
    let service = says(b"hello\n");
    let file = serves(&daemon, &mapping, service.address, "connections=1\ndrain=60000");
    let many = Many::start(&[], &[("one", file)]);
    let mut user = daemon.user(&mapping);
    user.expect(b"hello\n");
    let connected = many.status("one").unwrap();
    assert_eq!(connected["state"], "connected");
    let since = |state: &Value| state["since"].as_str().unwrap().to_owned();
    // Times have whole seconds.
    let second = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let now = second();
    until("the next second", || second() > now + 1);
    fs::remove_file(many.folder.join("tunnels/one.conf")).unwrap();
    many.read_again();
    let draining = many.status("one").unwrap();
    assert_eq!(draining["state"], "draining");
    assert!(since(&draining) > since(&connected), "{draining}");
}

#[test]
fn who_asks_for_the_status_byte_by_byte_does_not_keep_others_from_it() {
    let many = Many::start(&[], &[]);
    until("it runs", || many.log().contains("no file there ends in .conf"));
    let mut slow = UnixStream::connect(many.folder.join("run/tunnels.sock")).unwrap();
    until("it is cut", || {
        thread::sleep(Duration::from_millis(100));
        slow.write_all(b"x").is_err()
    });
    let output = many.status_command(&["--json"]);
    assert!(text(&output).contains("\"tunnels\":[]"), "{}", text(&output));
}

#[test]
fn who_is_mute_on_the_socket_does_not_keep_others_from_the_status() {
    let many = Many::start(&[], &[]);
    until("it runs", || many.log().contains("no file there ends in .conf"));
    let connect = || UnixStream::connect(many.folder.join("run/tunnels.sock")).unwrap();
    let _mute: Vec<_> = (0..50).map(|_| connect()).collect();
    let output = many.status_command(&["--json"]);
    assert!(text(&output).contains("\"tunnels\":[]"), "{}", text(&output));
}

#[test]
fn limit_of_open_files_counts_for_all_tunnels_together() {
    let daemon = Daemon::builder(Mode::Plain).ports(20).start();
    let all = mappings(&daemon, 4);
    let service = says(b"hello\n");
    let files: Vec<_> = ["a", "b", "c", "d"]
        .into_iter()
        .zip(&all)
        .map(|(name, it)| (name, serves(&daemon, it, service.address, "connections=20")))
        .collect();
    // For half of what the tunnels and their sessions may take.
    let many = Many::start(&["prlimit", "--nofile=144"], &files);
    until("it is said", || many.log().contains("the limit of open files is enough for"));
    let open = || all.iter().map(|mapping| daemon.api().idle(mapping)).sum::<u64>();
    until("all have some", || all.iter().all(|mapping| daemon.api().idle(mapping) > 0));
    assert!(open() < 80, "{}", open());
    for mapping in &all {
        daemon.user(mapping).expect(b"hello\n");
    }
    assert_eq!(many.status("a").unwrap()["state"], "connected");
}

/// 200 tunnels in TLS. A program that is built for tests is several times as large as a packaged one,
/// whose pages are under 2 MB: of such a one the memory that is its own counts.
#[test]
fn two_hundred_tunnels_take_six_megabytes_and_one_thread_more_than_cores() {
    const COUNT: usize = 200;
    const MOST: [(&str, u64); 2] = [("VmRSS:", 6 * 1024), ("RssAnon:", 4608)];
    let daemon = Daemon::builder(Mode::Tls).ports(2 * COUNT as u16 + 10).start();
    let service = says(b"hello\n");
    let all = mappings(&daemon, COUNT);
    let names: Vec<_> = (0..COUNT).map(|number| format!("tunnel-{number}")).collect();
    let files: Vec<_> = names
        .iter()
        .zip(&all)
        .map(|(name, mapping)| {
            let text = serves(&daemon, mapping, service.address, "connections=1");
            (&**name, text.replace("heartbeat=300\n", ""))
        })
        .collect();
    let many = Many::start(&[], &files);
    let connected = || many.log().matches(": connected to").count();
    until("all are connected", || connected() == COUNT);
    let [mut user, mut other] = [&all[0], &all[COUNT - 1]].map(|mapping| daemon.user(mapping));
    user.expect(b"hello\n");
    other.expect(b"hello\n");
    let cores = thread::available_parallelism().unwrap().get() as u64;
    until("threads have ended", || many.process("Threads:") <= cores + 1);
    let program = fs::metadata(binary().last().unwrap()).unwrap().len();
    let (what, most) = MOST[usize::from(program > 4_000_000)];
    // What the start took is given back within seconds.
    let mut last = 0;
    until("memory is given back", || {
        let now = many.process(what);
        if std::mem::replace(&mut last, now) != now {
            eprintln!("{what} {now} KiB, {} threads", many.process("Threads:"));
        }
        now <= most
    });
}
