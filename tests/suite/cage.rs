//! The sandbox that daemon and `tunnel` enter before they serve anybody: `docs/threat-model.md`. What it refuses
//! from inside is tested beside its source, `src/os/cage/tests.rs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::tunnel_command::Tunnel as Serving;
use crate::common::*;

in_both_modes!(nothing_that_daemon_and_tunnels_do_ends_them_where_one_call_too_many_would);

fn nothing_that_daemon_and_tunnels_do_ends_them_where_one_call_too_many_would(mode: Mode) {
    let kill = ["--sandbox", "kill"];
    let mut daemon = Daemon::builder(mode).set("sandbox", "kill").syslog("none").start();
    let mapping = daemon.api().add_private(20, 200_000);
    let service = Service::echo();
    let local = at(daemon.block.first + daemon.block.len - 1);
    // One looks its service's name up, the other opens a port.
    let target = format!("localhost:{}", service.address.port());
    let serves = [&["--target", &target][..], &kill].concat();
    let mut serving = Serving::start(&daemon, mapping.port1, &mapping.passcode1, &serves);
    let listen = local.to_string();
    let listens = [&["--listen", &listen][..], &kill].concat();
    let mut listening = Serving::start(&daemon, mapping.port2, &mapping.passcode2, &listens);
    let is_echoed = |size| {
        let mut user = eventually("the local port is open", || Link::plain(local).ok());
        let bytes = noise(7, size);
        assert_eq!(user.exchange(&bytes, size), bytes);
    };
    is_echoed(1);
    is_echoed(4 << 20);
    for tunnel in [&serving, &listening] {
        tunnel.signal(Signal::HUP);
    }
    daemon.set("loglevel", "debug");
    daemon.signal(Signal::HUP);
    until("the settings are read again", || daemon.log_text().contains("settings reloaded"));
    let added = daemon.cli(&["mapping", "add", "public", "--name", "other", "--show"]);
    assert!(added.status.success(), "{}", text(&added));
    assert!(daemon.cli(&["mapping", "remove", "other"]).status.success());
    assert!(daemon.cli(&["status"]).status.success());
    if std::env::var_os("IOFOG_CONNECTOR_BIN").is_none() {
        let upgraded = daemon.cli(&["upgrade"]);
        assert!(upgraded.status.success(), "{}", text(&upgraded));
    }
    is_echoed(100_000);
    for tunnel in [&mut serving, &mut listening] {
        tunnel.signal(Signal::TERM);
        assert_eq!(tunnel.wait().code(), Some(0));
    }
    let folder = Folder::new();
    let of_all = folder.join("tunnels");
    fs::create_dir(&of_all).unwrap();
    let side = |port, passcode: &str, more: &str| {
        let trust = match mode {
            Mode::Plain => "plain".into(),
            Mode::Tls => format!("ca={}", daemon.config().join("server-cert.pem").display()),
        };
        let options = format!("connector=localhost:{port}\npasscode={passcode}\n{trust}\n{more}\n");
        folder.file(&format!("tunnels/{port}.conf"), options, 0o600);
    };
    side(mapping.port1, &mapping.passcode1, &format!("target={target}"));
    side(mapping.port2, &mapping.passcode2, &format!("listen={local}"));
    let command = binary();
    let mut of_all = Command::new(&command[0])
        .args(&command[1..])
        .args(["tunnels", "--sandbox", "kill", "--tunnels"])
        .args([&of_all, Path::new("--run"), &folder])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    is_echoed(100_000);
    kill_process(Pid::from_child(&of_all), Signal::TERM).unwrap();
    assert_eq!(of_all.wait().unwrap().code(), Some(0));
    // It tries to make the folder again, and complains.
    fs::rename(daemon.log(), daemon.folder().join("aside")).unwrap();
    kill_process(daemon.serving().unwrap(), Signal::HUP).unwrap();
    until("it says so", || daemon.stderr().contains("cannot be written"));
    let stopped = daemon.cli(&["stop"]);
    assert!(stopped.status.success(), "{}", text(&stopped));
    assert_eq!(daemon.wait().status.code(), Some(0));
}

/// A field of each thread of a process.
fn of_threads(pid: Pid, field: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
    let status = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")));
    // One may have ended meanwhile.
    let of_one = |status: String| {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        line.rsplit('\t').next().unwrap_or_default().to_owned()
    };
    status.flatten().map(of_one).collect()
}

fn own(field: &str) -> String {
    of_threads(rustix::process::getpid(), field).remove(0)
}

/// Whether this kernel has all that there is to enter; else that is printed.
fn is_whole(log: &str) -> bool {
    let lacks = log.contains("the sandbox lacks");
    if lacks {
        could_not_run("this kernel does not offer all of the sandbox");
    }
    !lacks
}

#[test]
fn every_thread_of_the_daemon_is_caged_and_none_has_a_capability() {
    let daemon = Daemon::new(Mode::Tls);
    if is_whole(&daemon.log_text()) {
        let mapping = daemon.api().add_public(60, 200_000);
        daemon.session(&mapping);
        let threads = of_threads(daemon.pid(), "Seccomp:");
        assert!(threads.len() >= 3 && threads.iter().all(|mode| mode == "2"), "{threads:?}");
        assert!(of_threads(daemon.pid(), "NoNewPrivs:").iter().all(|is| is == "1"));
        for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
            let held = of_threads(daemon.pid(), set);
            assert!(
                held.iter().all(|held| u64::from_str_radix(held, 16) == Ok(0)),
                "{set} {held:?}"
            );
        }
        assert!(!daemon.log_text().contains("sandbox"), "nothing is worth a line");
    }
}

#[test]
fn sandbox_may_be_off_or_report_and_a_change_of_it_takes_a_restart() {
    let (filter, privileges) = (own("Seccomp:"), own("NoNewPrivs:"));
    let daemon = Daemon::builder(Mode::Plain).set("sandbox", "off").start();
    assert!(daemon.log_text().contains("the sandbox is off"), "{}", daemon.log_text());
    let warning = "The sandbox is off: whoever breaks into the daemon may do all that its user may";
    assert!(daemon.log_text().contains(warning), "{}", daemon.log_text());
    assert!(daemon.control().state()["warnings"].to_string().contains(warning));
    assert!(text(&daemon.cli(&["check"])).contains(warning));
    assert!(of_threads(daemon.pid(), "Seccomp:").iter().all(|mode| *mode == filter));
    assert!(of_threads(daemon.pid(), "NoNewPrivs:").iter().all(|is| *is == privileges));
    daemon.set("sandbox", "on");
    daemon.signal(Signal::HUP);
    until("the log names the key", || {
        daemon.log_text().contains("sandbox has changed, which takes effect only after a restart")
    });
    let daemon = Daemon::builder(Mode::Plain).set("sandbox", "report").start();
    if is_whole(&daemon.log_text()) {
        assert!(daemon.log_text().contains("the sandbox reports"), "{}", daemon.log_text());
        assert!(of_threads(daemon.pid(), "Seccomp:").iter().all(|mode| mode == "2"));
    }
}

#[test]
fn tunnel_is_caged_whether_its_service_is_a_name_or_an_address() {
    // Each its own: one that has ended may have dialled more than once.
    let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for target in ["localhost:1", "127.0.0.1:1"] {
        let connector = listen();
        let tunnel =
            Tunnel::start(connector.local_addr().unwrap(), &["--plain", "--target", target]);
        connector.accept().expect("it dials from its cage");
        if is_whole(&tunnel.log()) {
            let threads = of_threads(Pid::from_child(&tunnel.program.child), "Seccomp:");
            assert!(threads.iter().all(|mode| mode == "2"), "{threads:?}");
        }
    }
    let off = ["--plain", "--target", "127.0.0.1:1", "--sandbox", "off"];
    let connector = listen();
    let tunnel = Tunnel::start(connector.local_addr().unwrap(), &off);
    tunnel.until_said("the sandbox is off");
    let said = run_cli(&["tunnel", "--connector", "c:1", "--target", "t:1", "--sandbox", "maybe"]);
    assert!(
        text(&said).contains(
            "--sandbox: \"maybe\" is not known; one of on, kill, report, off is expected"
        )
    );
    let said = run_cli(&["tunnels", "--sandbox", "maybe"]);
    assert!(text(&said).contains("--sandbox: \"maybe\" is not known"), "{}", text(&said));
}

#[test]
fn no_thread_begins_before_the_cage_is_entered() {
    let folder = Folder::new();
    let trace = folder.join("trace");
    let trace = trace.to_str().unwrap();
    let calls = "trace=clone,landlock_restrict_self,seccomp";
    if Command::new("strace").arg("-V").output().is_err() {
        return not_installed("strace");
    }
    let mut daemon = Daemon::builder(Mode::Plain)
        .wrapper(&["strace", "-D", "-f", "-o", trace, "-e", calls])
        .start();
    let log = daemon.log_text();
    daemon.stop();
    let text = fs::read_to_string(trace).unwrap();
    let at = |call: &str| text.lines().position(|line| line.contains(call));
    // One process is made before, which starts the program anew when it is replaced.
    let first = at("CLONE_THREAD").expect("workers are threads");
    if is_whole(&log) {
        for call in ["landlock_restrict_self(", "seccomp("] {
            assert!(at(call).is_some_and(|entered| entered < first), "{call} {text}");
        }
    }
}

#[test]
fn certificate_behind_links_is_read_again_when_another_takes_its_place() {
    // As container engines mount secrets: each version has a folder, and a link leads to the one in force.
    let secrets = Folder::new();
    let mount = secrets.join("mount");
    let mut daemon = Daemon::new(Mode::Tls);
    daemon.stop();
    let version = |name: &str| {
        let folder = mount.join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    for file in ["server-cert.pem", "server-key.pem"] {
        let own = daemon.config().join(file);
        fs::rename(&own, version("..first").join(file)).unwrap();
        symlink(mount.join("..data").join(file), own).unwrap();
    }
    symlink("..first", mount.join("..data")).unwrap();
    daemon.start();
    let second = version("..second");
    for file in ["server-cert.pem", "server-key.pem"] {
        fs::copy(mount.join("..first").join(file), second.join(file)).unwrap();
    }
    symlink("..second", mount.join("new")).unwrap();
    fs::rename(mount.join("new"), mount.join("..data")).unwrap();
    fs::remove_dir_all(mount.join("..first")).unwrap();
    daemon.signal(Signal::HUP);
    until("the settings are read again", || daemon.log_text().contains("settings reloaded"));
    assert!(!daemon.log_text().contains("ERROR"), "{}", daemon.log_text());
}

#[test]
fn file_that_a_reload_names_outside_the_cage_is_said_to_need_a_restart() {
    let mut daemon = Daemon::new(Mode::Tls);
    let elsewhere = Folder::new();
    let ca = elsewhere.join("ca.pem");
    fs::copy(daemon.config().join("server-cert.pem"), &ca).unwrap();
    daemon.set("controllerca", ca.to_str().unwrap());
    daemon.signal(Signal::HUP);
    until("the settings are read again", || daemon.log_text().contains("settings reloaded"));
    let log = daemon.log_text();
    if is_whole(&log) {
        let line = log.lines().find(|line| line.contains("ERROR")).expect("it is not in force");
        assert!(line.contains("ca.pem") && line.contains("restart it"), "{line}");
        daemon.stop();
        daemon.start();
    }
}

#[test]
fn change_that_the_sandbox_refuses_because_the_folder_is_another_says_so() {
    let mut daemon = Daemon::new(Mode::Plain);
    daemon.api().add_public(60, 200_000);
    let (config, before) = (daemon.config(), daemon.folder().join("before"));
    fs::rename(&config, &before).unwrap();
    fs::create_dir(&config).unwrap();
    for file in ["iofog-connector.conf", "configs.json"] {
        fs::copy(before.join(file), config.join(file)).unwrap();
    }
    if is_whole(&daemon.log_text()) {
        let refused = daemon.cli(&["mapping", "add", "public", "--show"]);
        assert!(!refused.status.success());
        let said = text(&refused);
        assert!(
            said.contains("configs.json could not be replaced: the process's sandbox"),
            "{said}"
        );
        assert!(said.contains("restart it"), "{said}");
        daemon.stop();
        daemon.start();
        let added = daemon.cli(&["mapping", "add", "public", "--show"]);
        assert!(added.status.success(), "{}", text(&added));
    }
}
