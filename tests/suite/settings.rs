//! The settings file and the TLS files beside it (protocol page, section 1). What each key takes
//! is a table beside the code that reads it; here stands what the program does with it.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::common::*;
use rustix::process::Signal;
use serde_json::{Value, json};

const NEVER: u64 = 200_000;

/// Starts the program with a faulty settings file; expects exit status 2 and returns stderr,
/// which `check` must say too.
#[track_caller]
fn refused(builder: Builder) -> String {
    let mut daemon = builder.prepare();
    daemon.spawn();
    let exit = daemon.wait();
    assert_eq!(exit.status.code(), Some(2), "{}", exit.stderr);
    let check = daemon.cli(&["check"]);
    assert_eq!(check.status.code(), Some(2));
    for line in exit.stderr.lines() {
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        assert!(said.contains(line.trim()), "start says {line:?}, check says {said:?}");
    }
    exit.stderr
}

#[test]
fn all_faults_are_named_in_one_run_with_file_key_and_value() {
    let stderr = refused(
        Daemon::builder(Mode::Plain)
            .set("ports", json!(["6000-6001", "7000-6000"]))
            .set("exclude", json!(["70000"]))
            .set("broker", 0)
            .set("address", 7)
            .set("dev", "yes")
            .set("loglevel", "loud")
            .set("controllers", json!(["10.0.0.0/33"])),
    );
    assert!(
        stderr.contains(r#"ports[1]: "7000-6000": the range ends before it starts"#),
        "{stderr}"
    );
    for named in [
        "iofog-connector.conf",
        "exclude[0]: \"70000\"",
        "broker: 0",
        "address: 7",
        "dev: \"yes\"",
        "loglevel: \"loud\"",
        "controllers[0]: \"10.0.0.0/33\"",
    ] {
        assert!(stderr.contains(named), "{named} is not in {stderr}");
    }
}

#[test]
fn every_required_key_is_missed_by_name() {
    let mut builder = Daemon::builder(Mode::Plain);
    for key in ["ports", "exclude", "broker", "address", "dev"] {
        builder = builder.set(key, Value::Null);
    }
    let daemon = builder.prepare();
    // `prepare` has put the keys in again.
    daemon.write("iofog-connector.conf", "{}");
    let check = daemon.cli(&["check"]);
    assert_eq!(check.status.code(), Some(2));
    let stderr = String::from_utf8(check.stderr).unwrap();
    for key in ["ports", "exclude", "broker", "address", "dev"] {
        assert!(stderr.contains(key), "{key} is not in {stderr}");
    }
}

#[test]
fn file_that_is_missing_or_no_json_or_leaves_no_port_is_refused() {
    let daemon = Daemon::builder(Mode::Plain).prepare();
    daemon.write("iofog-connector.conf", "{\n  \"ports\": [,]\n}");
    let check = daemon.cli(&["check"]);
    assert_eq!(check.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&check.stderr).contains("line 2"), "the position");
    fs::remove_file(daemon.config().join("iofog-connector.conf")).unwrap();
    let check = daemon.cli(&["check"]);
    assert_eq!(check.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&check.stderr).contains("iofog-connector.conf"));

    let stderr = refused(
        Daemon::builder(Mode::Plain)
            .set("ports", json!(["7000-7001"]))
            .set("exclude", json!(["6999-7002"])),
    );
    assert!(stderr.contains("ports"), "{stderr}");
}

#[test]
fn unknown_key_is_a_warning_that_names_the_nearest() {
    let daemon = Daemon::builder(Mode::Plain).set("userwiat", 5).start();
    assert!(daemon.log_text().contains("userwait"), "{}", daemon.log_text());
    let check = daemon.cli(&["check"]);
    assert_eq!(check.status.code(), Some(0));
    let said = [check.stdout, check.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("userwiat") && said.contains("userwait"), "{said}");
}

/// The daemon without a settings file, with these variables.
fn without_a_file(more: &[(&str, &str)]) -> Daemon {
    let mut builder = Daemon::builder(Mode::Plain);
    for (name, value) in more {
        builder = builder.environment(name, value);
    }
    let mut daemon = builder.prepare();
    fs::remove_file(daemon.config().join("iofog-connector.conf")).unwrap();
    daemon.set_variable("IOFOG_PORTS", &daemon.pool(10));
    daemon.set_variable("IOFOG_API", &daemon.api_address().to_string());
    daemon
}

#[test]
fn a_daemon_serves_with_settings_of_the_environment_alone_and_check_sees_them() {
    let mut daemon = without_a_file(&[("IOFOG_ADDRESS", "127.0.0.1"), ("IOFOG_DEV", "true")]);
    daemon.start();
    let mapping = daemon.api().add_public(5, 0);
    daemon.session(&mapping);
    let check = daemon.cli(&["check"]);
    assert!(check.status.success(), "{}", text(&check));
    // A reload finds the same.
    daemon.signal(Signal::HUP);
    eventually("a reload", || daemon.log_text().contains("settings reloaded").then_some(()));
    assert!(!daemon.config().join("iofog-connector.conf").exists());
}

#[test]
fn faults_of_variables_are_said_by_start_check_and_status_and_secrets_are_not() {
    let mut daemon = without_a_file(&[("IOFOG_DEV", "maybe"), ("IOFOG_PASSWORD", "hidden")]);
    daemon.spawn();
    let exit = daemon.wait();
    assert_eq!(exit.status.code(), Some(2), "{}", exit.stderr);
    let check = daemon.cli(&["check"]);
    assert_eq!(check.status.code(), Some(2));
    for said in [exit.stderr, text(&check)] {
        for part in ["IOFOG_DEV: \"maybe\"", "IOFOG_ADDRESS", "IOFOG_PASSWORD"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        assert!(!said.contains("hidden"), "{said}");
    }
    let status = daemon.cli(&["status"]);
    assert_eq!(status.status.code(), Some(3));
    assert!(text(&status).contains("its environment has a fault"), "{}", text(&status));
}

#[test]
fn check_starts_nothing_and_makes_nothing() {
    for mode in [Mode::Plain, Mode::Tls] {
        let daemon = Daemon::builder(mode).prepare();
        let before = names(&daemon);
        let check = daemon.cli(&["check"]);
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
        assert_eq!(names(&daemon), before);
        assert!(!daemon.socket().exists());
    }
}

#[test]
fn a_syslog_that_is_none_is_warned_of() {
    let daemon = Daemon::builder(Mode::Plain).prepare();
    let file = daemon.folder().join("file");
    fs::write(&file, "").unwrap();
    let missing = daemon.folder().join("missing");
    for (path, why) in [(&file, "it is no socket"), (&missing, "it does not exist")] {
        let check = daemon.cli(&["check", "--syslog", path.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        let wanted = format!("warning: --syslog {}: {why};", path.display());
        assert!(check.status.success() && said.contains(&wanted), "{said}");
    }
    let check = daemon.cli(&["check"]);
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    let is_there = fs::metadata("/dev/log").is_ok_and(|found| found.file_type().is_socket());
    assert_eq!(
        said.contains("--syslog /dev/log: "),
        !is_there,
        "the default is a path, too: {said}"
    );
    let daemon = Daemon::builder(Mode::Plain).syslog(file.to_str().unwrap()).start();
    assert!(daemon.log_text().contains("it is no socket"), "{}", daemon.log_text());
    let check = daemon.cli(&["check", "--syslog", "none"]);
    assert!(!String::from_utf8_lossy(&check.stderr).contains("syslog"));
}

/// What lies in the configuration folder.
fn names(daemon: &Daemon) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(daemon.config())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn pool_is_ports_without_exclude() {
    let builder = Daemon::builder(Mode::Plain).ports(20);
    let mut daemon = builder.prepare();
    let first = daemon.block.first + 1;
    daemon.set("ports", json!([format!("{first}-{}", first + 5), format!("{}", first + 10)]));
    daemon
        .set("exclude", json!([format!("{}", first + 1), format!("{}-{}", first + 3, first + 3)]));
    daemon.start();
    assert_eq!(daemon.api().status("all")["availablePorts"], 5);
    let mut ports = Vec::new();
    for _ in 0..2 {
        let mapping = daemon.api().add_public(60, NEVER);
        ports.extend([mapping.port1, mapping.port2]);
    }
    let allowed = [first, first + 2, first + 4, first + 5, first + 10];
    assert!(ports.iter().all(|port| allowed.contains(port)), "{ports:?}");
}

#[test]
fn five_keys_are_enough_and_put_the_api_on_its_default_address() {
    if !Command::new("unshare").args(["-n", "true"]).status().is_ok_and(|status| status.success()) {
        could_not_run("no network namespace of its own for the fixed ports 8080 and 443");
        return;
    }
    // The address in the settings, and where the API then listens (in /proc/net's words).
    for (mode, address, listening) in [
        (Mode::Plain, "127.0.0.1", "0100007F:1F90"),
        (Mode::Tls, "127.0.0.1", "0100007F:01BB"),
        (Mode::Plain, "192.0.2.1", "00000000000000000000000000000000:1F90"),
        (Mode::Tls, "connector.example.com", "00000000000000000000000000000000:01BB"),
    ] {
        let mut daemon = Daemon::builder(mode)
            .wrapper(&["unshare", "-n", "sh", "-c", "ip link set lo up; exec \"$@\"", "sh"])
            .prepare();
        let settings = json!({
            "ports": ["7000-7010"], "exclude": [], "broker": 12345,
            "address": address, "dev": mode == Mode::Plain,
        });
        daemon.write("iofog-connector.conf", &settings.to_string());
        daemon.spawn();
        until("the socket answers", || daemon.control().try_connect().is_ok());
        let tables = ["tcp", "tcp6"].map(|table| {
            let path = format!("/proc/{}/net/{table}", daemon.pid().as_raw_nonzero());
            fs::read_to_string(path).unwrap_or_default()
        });
        let found = tables.concat().lines().any(|line| line.contains(&format!(" {listening} ")));
        assert!(found, "{address}: nothing at {listening} in\n{}", tables.concat());
        let mapping = daemon.control().add_public(60, NEVER);
        assert_eq!(daemon.control().status(&mapping.id)["public"], "Active");
    }
}

#[test]
fn listen_chooses_the_address_of_pipes() {
    let other = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0));
    let daemon = Daemon::builder(Mode::Plain).set("listen", "127.0.0.1").start();
    let mapping = daemon.api().add_public(60, NEVER);
    daemon.session(&mapping);
    let reach = |mut address: SocketAddr, port| {
        address.set_port(port);
        Link::plain(address).is_ok()
    };
    assert!(!reach(other, mapping.port1) && !reach(other, mapping.port2));

    let daemon = Daemon::builder(Mode::Plain).set("listen", "::").start();
    let mapping = daemon.api().add_public(60, NEVER);
    assert!(reach(other, mapping.port1) && reach(other, mapping.port2));
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        let six = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        assert!(reach(six, mapping.port1) && reach(six, mapping.port2), "not dual stack");
    }
}

#[test]
fn pipes_listen_on_loopback_while_the_address_is_and_say_so() {
    let elsewhere =
        |port| Link::plain(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port))).is_ok();
    let notice = "mappings' ports listen on 127.0.0.1 alone, since address is";
    for (address, listen, dev, alone) in [
        ("127.0.0.1", None, true, true),
        ("LocalHost", None, false, true),
        ("127.0.0.1", Some("0.0.0.0"), true, false),
        ("connector.example.com", None, true, false),
        ("connector.example.com", None, false, false),
        ("connector.example.com", Some("127.0.0.1"), true, true),
    ] {
        let mode = if dev { Mode::Plain } else { Mode::Tls };
        let mut builder = Daemon::builder(mode).set("address", address);
        if let Some(listen) = listen {
            builder = builder.set("listen", listen);
        }
        let daemon = builder.start();
        let case = format!("{address} {listen:?} {dev}");
        assert!(!text(&daemon.cli(&["check"])).contains(notice), "{case}: nobody has a port yet");
        let said = text(&daemon.cli(&["mapping", "add", "public", "--show"]));
        let mapping = daemon.control().state()["mappings"][0].clone();
        for side in 0..2 {
            let port = mapping["sides"][side]["port"].as_u64().unwrap().try_into().unwrap();
            assert_eq!(elsewhere(port), !alone, "{case}");
        }
        let place = if alone { "127.0.0.1 alone" } else { "every address of this machine" };
        assert!(said.contains(&format!("are open on {place}")), "{case}: {said}");
        assert_eq!(said.contains("warning: dev is true"), dev && !alone, "{case}: {said}");
        let plain = daemon.cli(&["mapping", "add", "public", "--show", "--users", "plain"]);
        let warned = text(&plain).contains("takes plain TCP from the network");
        assert_eq!(warned, !dev && !alone, "{case}: {}", text(&plain));

        let table = text(&daemon.cli(&["status"]));
        assert_eq!(table.contains("listen on 127.0.0.1 alone"), alone, "{case}: {table}");
        let follows = alone && listen.is_none();
        assert_eq!(daemon.log_text().contains(notice), follows, "{case}: {}", daemon.log_text());
        let checked = text(&daemon.cli(&["check"]));
        assert_eq!(checked.contains(notice), follows, "{case}: {checked}");
    }
}

#[test]
fn address_that_would_open_pipes_elsewhere_takes_a_restart_for_that() {
    let mut daemon = Daemon::new(Mode::Plain);
    daemon.set("address", "connector.example.com");
    daemon.signal(Signal::HUP);
    let told = "listen has changed, perhaps because of address, which takes effect only";
    until("it is said", || daemon.control().state()["warnings"].to_string().contains(told));
    let state = daemon.control().state();
    assert_eq!(
        (&state["address"], &state["listen"]),
        (&json!("connector.example.com"), &json!("127.0.0.1"))
    );
    let said = text(&daemon.cli(&["mapping", "add", "public", "--show"]));
    assert!(said.contains("are open on 127.0.0.1 alone"), "{said}");
    daemon.restart();
    assert_eq!(daemon.control().state()["listen"], "::");
}

// Certificates

#[test]
fn first_start_makes_a_certificate_that_clients_can_check_by_every_name() {
    let daemon = Daemon::builder(Mode::Tls).set("address", "connector.example.com").start();
    let key = fs::metadata(daemon.config().join("server-key.pem")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let mut names = vec!["connector.example.com", "localhost", "127.0.0.1", "::1"];
    // A host's name can be one that no certificate may hold.
    if host.trim().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)) {
        names.push(host.trim());
    }
    let mut certificate = Vec::new();
    for name in names {
        let link = Link::plain(daemon.api_address()).unwrap();
        let link = link.upgrade(&daemon.trust(), name);
        certificate = link.unwrap_or_else(|error| panic!("{name}: {error}")).server_certificate();
    }
    let link = Link::plain(daemon.api_address()).unwrap();
    assert!(link.upgrade(&daemon.trust(), "elsewhere.example.com").is_err());
    let has = |bytes: &[u8]| certificate.windows(bytes.len()).any(|window| window == bytes);
    // Times as RFC 5280 writes them, the curve P-256, and the purpose serverAuth.
    assert!(has(b"000101000000Z") && has(b"491231"), "2000-01-01 to 2049-12-31");
    assert!(has(&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]), "P-256");
    assert!(has(&[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1]), "server authentication");
    let log = daemon.log_text().to_lowercase();
    assert!(log.contains("fingerprint"), "{log}");
}

#[test]
fn certificate_made_at_first_start_stays() {
    let mut daemon = Daemon::new(Mode::Tls);
    let files = || ["server-cert.pem", "server-key.pem"].map(|name| daemon.read(name));
    let before = files();
    daemon.stop();
    daemon.start();
    assert_eq!(["server-cert.pem", "server-key.pem"].map(|name| daemon.read(name)), before);
    let mapping = daemon.api().add_public(60, NEVER);
    daemon.session(&mapping);
}

#[test]
fn one_tls_file_without_the_other_is_refused_and_nothing_is_made() {
    let identity = Authority::new("test").sign(&["localhost"]);
    for (name, content, missing) in [
        ("server-cert.pem", identity.pem(), "server-key.pem"),
        ("server-key.pem", identity.key_pem(), "server-cert.pem"),
    ] {
        let mut daemon = Daemon::builder(Mode::Tls).file(name, content.clone()).prepare();
        daemon.spawn();
        let exit = daemon.wait();
        assert_eq!(exit.status.code(), Some(2), "{}", exit.stderr);
        assert!(exit.stderr.contains(missing), "{}", exit.stderr);
        assert_eq!(daemon.read(name), content);
        assert!(!daemon.config().join(missing).exists());
    }
}

#[test]
fn key_that_does_not_fit_and_files_that_are_no_pem_are_refused() {
    let authority = Authority::new("test");
    let (one, two) = (authority.sign(&["localhost"]), authority.sign(&["localhost"]));
    for (certificate, key) in [
        (one.pem(), two.key_pem()),
        (one.pem(), "nothing".to_owned()),
        ("nothing".to_owned(), one.key_pem()),
        (one.key_pem(), one.pem()),
        (String::new(), String::new()),
    ] {
        let stderr = refused(
            Daemon::builder(Mode::Tls)
                .file("server-cert.pem", certificate)
                .file("server-key.pem", key.clone()),
        );
        assert!(stderr.contains("server-"), "{stderr}");
        let secret = key.lines().nth(1).unwrap_or("no secret at all");
        assert!(!stderr.contains(secret), "the key in a message");
    }
}

#[test]
fn certificate_with_its_chain_is_served_whole() {
    let authority = Authority::new("test");
    let identity = authority.sign(&["localhost"]);
    let mut daemon = Daemon::builder(Mode::Tls)
        .file("server-cert.pem", identity.pem() + &authority.pem())
        .file("server-key.pem", identity.key_pem())
        .prepare();
    daemon.spawn();
    daemon.wait_ready();
    let only = daemon.folder().join("authority.pem");
    fs::write(&only, authority.pem()).unwrap();
    Link::tls(daemon.api_address(), &trusting(&only)).expect("the authority alone is trusted");
}

#[test]
fn keys_of_all_three_forms_are_read() {
    let works = Command::new("openssl").arg("version").output().is_ok();
    if !works {
        not_installed("openssl");
        return;
    }
    let folder = Daemon::builder(Mode::Plain).prepare();
    let openssl = |arguments: &str| {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(folder.folder())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    openssl("genrsa -traditional -out pkcs1.pem 2048");
    openssl("ecparam -name prime256v1 -genkey -noout -out sec1.pem");
    openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out pkcs8.pem");
    for (form, label) in [
        ("pkcs1", "BEGIN RSA PRIVATE KEY"),
        ("sec1", "BEGIN EC PRIVATE KEY"),
        ("pkcs8", "BEGIN PRIVATE KEY"),
    ] {
        openssl(&format!(
            "req -x509 -key {form}.pem -out {form}-cert.pem -days 3650 -subj /CN=localhost \
             -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE"
        ));
        let read = |name: String| fs::read_to_string(folder.folder().join(name)).unwrap();
        let key = read(format!("{form}.pem"));
        assert!(key.contains(label), "{key}");
        let daemon = Daemon::builder(Mode::Tls)
            .file("server-cert.pem", read(format!("{form}-cert.pem")))
            .file("server-key.pem", key)
            .start();
        let mapping = daemon.api().add_public(60, NEVER);
        daemon.session(&mapping);
    }
}

#[test]
fn bad_controllerca_is_refused() {
    let mut daemon = Daemon::builder(Mode::Tls).set("controllerca", "nowhere.pem").prepare();
    daemon.spawn();
    let exit = daemon.wait();
    assert_eq!(exit.status.code(), Some(2), "{}", exit.stderr);
    assert!(exit.stderr.contains("nowhere.pem"), "{}", exit.stderr);
}

#[test]
fn controllerca_that_the_disk_does_not_give_is_worth_another_start() {
    // Reading it is an input/output error (EIO).
    let builder = Daemon::builder(Mode::Tls).set("controllerca", "/proc/self/mem");
    let mut daemon = builder.prepare();
    daemon.spawn();
    let exit = daemon.wait();
    assert_eq!(exit.status.code(), Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains("/proc/self/mem: "), "{}", exit.stderr);
    assert!(exit.stderr.contains("`controllerca` of the settings"), "{}", exit.stderr);
}

#[test]
fn links_that_lead_nowhere_are_named_and_nothing_is_made() {
    for names in [&["server-cert.pem", "server-key.pem"][..], &["server-key.pem"]] {
        let builder = Daemon::builder(Mode::Tls);
        let daemon = builder.prepare();
        for name in names {
            std::os::unix::fs::symlink("/not/mounted/file.pem", daemon.config().join(name))
                .unwrap();
        }
        let before = names_in(&daemon);
        let start = run_cli(&[
            "--config".as_ref(),
            daemon.config().as_os_str(),
            "--run".as_ref(),
            daemon.run().as_os_str(),
            "--log".as_ref(),
            daemon.log().as_os_str(),
            "--syslog".as_ref(),
            "none".as_ref(),
            "start".as_ref(),
        ]);
        let check = daemon.cli(&["check"]);
        for output in [start, check] {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains(names[0]), "{said}");
            assert!(said.contains("it is a link to /not/mounted/file.pem, which does not exist"));
        }
        assert_eq!(names_in(&daemon), before);
    }
}

/// A pipe that nobody writes, a device without an end, and a folder.
const NO_FILES: [(&str, &str); 3] = [
    ("mkfifo", "it is a pipe, a socket or a device; put a file in its place"),
    ("ln -s /dev/zero", "it is a pipe, a socket or a device; put a file in its place"),
    ("mkdir", "it is a folder"),
];

fn make(how: &str, path: &Path) {
    let made = Command::new("sh").arg("-c").arg(format!("{how} \"$0\"")).arg(path).status();
    assert!(made.expect("sh").success());
}

#[test]
fn what_is_no_file_in_a_files_place_is_refused_at_once() {
    let mut daemon = Daemon::builder(Mode::Tls).start();
    daemon.set("controllerca", "ca.pem");
    daemon.write("ca.pem", &daemon.read("server-cert.pem"));
    daemon.stop();
    for name in [
        "iofog-connector.conf",
        "server-cert.pem",
        "server-key.pem",
        "ca.pem",
        "configs.json",
        ".configs.json.journal",
    ] {
        let (path, aside) = (daemon.config().join(name), daemon.folder().join("aside"));
        let was_there = fs::rename(&path, &aside).is_ok();
        for (how, sentence) in NO_FILES {
            make(how, &path);
            daemon.spawn();
            let exit = daemon.wait();
            // In time for a supervisor, and long before this test loses its patience.
            let mut words = binary();
            words.extend(["check".into(), "--config".into(), daemon.config().into()]);
            words.extend(["--run".into(), daemon.run().into()]);
            let check = Command::new("timeout").arg("60").args(words).output().expect("timeout");
            let check_said = String::from_utf8_lossy(&check.stderr).into_owned();
            for (status, said) in [(exit.status, exit.stderr), (check.status, check_said)] {
                assert_eq!(status.code(), Some(2), "{name}, {how}: {said}");
                assert!(said.contains(&format!("{name}: {sentence}")), "{name}, {how}: {said}");
            }
            make("rm -r", &path);
            make("rm", &daemon.folder().join("stderr"));
        }
        if was_there {
            fs::rename(&aside, &path).unwrap();
        }
    }
    daemon.start();
}

#[test]
fn lock_that_is_no_file_does_not_hold_the_start_up() {
    let mut daemon = Daemon::builder(Mode::Plain).prepare();
    fs::create_dir_all(daemon.run()).unwrap();
    let lock = daemon.run().join("iofog-connector.lock");
    make("mkfifo", &lock);
    daemon.spawn();
    let exit = daemon.wait();
    assert!(!exit.status.success() && exit.stderr.contains("it is a pipe"), "{}", exit.stderr);
}

fn names_in(daemon: &Daemon) -> Vec<String> {
    let entries = fs::read_dir(daemon.config()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn unknown_key_is_named_beside_a_fault() {
    let stderr = refused(Daemon::builder(Mode::Plain).set("broker", 0).set("user_wait", 5));
    assert!(stderr.contains("broker: 0"), "{stderr}");
    assert!(stderr.contains("user_wait: is not a known key"), "{stderr}");
    assert!(stderr.contains("did you mean userwait?"), "{stderr}");
}

#[test]
fn byte_order_marks_are_skipped_in_every_file() {
    let mut daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    daemon.stop();
    for name in ["iofog-connector.conf", "configs.json", "server-cert.pem", "server-key.pem"] {
        daemon.write(name, &format!("\u{feff}{}", daemon.read(name)));
    }
    let check = daemon.cli(&["check"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    daemon.start();
    daemon.session(&mapping);
}

/// Runs openssl in the daemon's configuration folder; `None`, with the reason printed, without it.
fn openssl(daemon: &Daemon) -> Option<impl Fn(&str)> {
    if Command::new("openssl").arg("version").output().is_err() {
        not_installed("openssl");
        return None;
    }
    let folder = daemon.config();
    Some(move |arguments: &str| {
        let command =
            Command::new("openssl").args(arguments.split(' ')).current_dir(&folder).output();
        let output = command.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    })
}

/// What start and check both say of the files; neither may let debug text through.
#[track_caller]
fn faults(daemon: &Daemon) -> String {
    let check = daemon.cli(&["check"]);
    assert_eq!(check.status.code(), Some(2), "{check:?}");
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    for debug in ["Error", "Unsupported", "UsedAs", "[45", "::", "Some("] {
        assert!(!said.contains(debug), "{said}");
    }
    said
}

#[test]
fn keys_that_the_java_connector_took_are_named_with_the_remedy() {
    for (make, kind) in [
        ("genrsa -out server-key.pem 1024", "an RSA key of 1024 bits"),
        ("genrsa -traditional -out server-key.pem 1024", "an RSA key of 1024 bits"),
        ("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out server-key.pem", "P-521"),
        ("ecparam -name secp521r1 -genkey -noout -out server-key.pem", "P-521"),
    ] {
        let daemon = Daemon::builder(Mode::Tls).prepare();
        let Some(openssl) = openssl(&daemon) else { return };
        openssl(make);
        openssl("req -x509 -key server-key.pem -out server-cert.pem -days 30 -subj /CN=x");
        let said = faults(&daemon);
        assert!(said.contains("server-key.pem") && said.contains(kind), "{said}");
        assert!(said.contains("make a new key and certificate"), "{said}");
    }
}

#[test]
fn faults_of_certificates_are_sentences_with_a_remedy() {
    let daemon = Daemon::builder(Mode::Tls).prepare();
    let Some(openssl) = openssl(&daemon) else { return };
    openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out server-key.pem");
    // Without extensions openssl makes version 1.
    openssl("req -new -key server-key.pem -subj /CN=v1 -out request.pem");
    openssl("x509 -req -in request.pem -signkey server-key.pem -days 30 -out server-cert.pem");
    let said = faults(&daemon);
    assert!(said.contains("X.509 certificate of version 1"), "{said}");
    openssl("req -x509 -key server-key.pem -out server-cert.pem -days 30 -subj /CN=x");
    let whole = daemon.read("server-cert.pem");
    let lines = |count| whole.lines().take(count).collect::<Vec<_>>().join("\n") + "\n";
    daemon.write("server-cert.pem", &lines(4));
    assert!(faults(&daemon).contains("the file is cut off"));
    daemon.write("server-cert.pem", &whole.replace("MII", "M!!"));
    assert!(faults(&daemon).contains("damaged"));
}

#[test]
fn check_sees_with_the_eyes_of_the_services_user() {
    if !rustix::process::geteuid().is_root() {
        could_not_run("not root, so that nobody else's eyes can be had");
        return;
    }
    let mut daemon = Daemon::builder(Mode::Tls).start();
    let mapping = daemon.api().add_public(60, NEVER);
    daemon.stop();
    let check = |user: &str| {
        let output = daemon.cli(&["check", "--user", user]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, said) = check("root");
    assert_eq!(status, Some(0), "{said}");
    // Root's files, as certificate tools and restored backups leave them.
    let open = |name: &str, mode| {
        let path = daemon.config().join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::set_permissions(daemon.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    open("", 0o755);
    for (name, mode) in [("iofog-connector.conf", 0o644), ("server-key.pem", 0o600)] {
        open(name, mode);
    }
    let (status, said) = check("65534");
    assert_eq!(status, Some(2), "{said}");
    for named in
        ["server-key.pem", "configs.json", "may not read it", "checked with the rights of "]
    {
        assert!(said.contains(named), "{named}: {said}");
    }
    assert!(!said.contains(&mapping.passcode1));
    open("server-key.pem", 0o644);
    open("configs.json", 0o644);
    // Nor does it start with root's lock file, or in root's run folder.
    let own = |path: &Path| std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    for root_owned in [daemon.run().join("iofog-connector.lock"), daemon.run()] {
        let (status, said) = check("65534");
        let named = format!("may not write in {}, which belongs to root", root_owned.display());
        assert!(status == Some(2) && said.contains(&named), "{named}: {said}");
        own(&root_owned);
    }
    let (status, said) = check("65534");
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("mappings cannot be added or removed"), "{said}");
    // Nor where it would have to make the certificate in root's folder.
    let pair = ["server-key.pem", "server-cert.pem"].map(|name| daemon.config().join(name));
    let aside = |path: &Path| path.with_extension("aside");
    pair.iter().for_each(|path| fs::rename(path, aside(path)).unwrap());
    let (status, said) = check("65534");
    assert!(
        status == Some(2) && said.contains("server-key.pem cannot be made: nobody may"),
        "{said}"
    );
    pair.iter().for_each(|path| fs::rename(aside(path), path).unwrap());
    // By default as the user who owns the folder, where the package's user is not known.
    open("server-key.pem", 0o600);
    std::os::unix::fs::chown(daemon.config(), Some(65534), Some(65534)).unwrap();
    assert_eq!(daemon.cli(&["check"]).status.code(), Some(2));
    std::os::unix::fs::chown(daemon.config(), Some(0), Some(0)).unwrap();
    let (status, said) = check("nobody-of-this-name");
    assert!(status == Some(2) && said.contains("there is no user"), "{said}");
}

/// What would be told to somebody else as the remedy would break a service that runs.
#[test]
fn check_tells_an_onlooker_to_use_sudo_and_changes_no_owner() {
    if !rustix::process::geteuid().is_root() {
        could_not_run("not root, so that nobody else's eyes can be had");
        return;
    }
    let daemon = Daemon::new(Mode::Tls);
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    // As the package makes them: nobody else may enter, or write.
    let (config, log) = (daemon.config(), daemon.log());
    mode(daemon.folder(), 0o755);
    mode(&log, 0o755);
    let check = || {
        let [program, arguments @ ..] = &binary()[..] else { unreachable!() };
        let output = Command::new(program)
            .args(arguments)
            .arg("check")
            .arg("--config")
            .arg(&config)
            .arg("--log")
            .arg(&log)
            .uid(65534)
            .gid(65534)
            .output();
        output.map(|output| {
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        })
    };
    for folder in [0o750, 0o755] {
        mode(&config, folder);
        let Ok((status, said)) = check() else {
            could_not_run("the program lies where only root can run it");
            return;
        };
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains("does not run the service"), "{said}");
        assert!(said.contains("`sudo iofog-connector check`"), "{said}");
        for wrong in ["chown", "chmod", "the service's user may not"] {
            assert!(!said.contains(wrong), "{wrong}: {said}");
        }
    }
}

#[test]
fn passcode_file_that_a_full_disk_cut_short_is_not_in_the_way() {
    let daemon = Daemon::new(Mode::Plain);
    let full = daemon.folder().join("full");
    fs::create_dir(&full).unwrap();
    let mount = "mount -t tmpfs -o size=4k none \"$0\" && head -c 4096 /dev/zero > \"$0/x\" && \
                 \"$@\"; status=$?; ls -A \"$0\"; exit $status";
    let binary = binary();
    let run = daemon.run();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", mount])
        .arg(&full)
        .args(&binary)
        .args(["mapping", "add", "public", "--run"])
        .arg(&run)
        .arg("--dir")
        .arg(&full)
        .output();
    let Ok(output) = output else {
        not_installed("unshare");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("unshare") || said.contains("mount:") {
        could_not_run(format!("no mount namespace: {said}"));
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("No mapping was added"), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "x\n", "what is in the folder");
    assert_eq!(daemon.control().state()["mappings"], json!([]));
}

#[test]
fn blanks_and_case_count_as_the_page_says() {
    let daemon = Daemon::builder(Mode::Plain).prepare();
    let pool = daemon.pool(15);
    daemon.set("ports", json!([format!(" {} ", pool.replace('-', " - "))]));
    daemon.set("address", " LocalHost ");
    daemon.set("loglevel", " INFO ");
    daemon.set("api", format!(" {} ", daemon.api_address()));
    daemon.set("controllers", json!([" 127.0.0.0/8 "]));
    daemon.set("listen", " 127.0.0.1 ");
    let check = daemon.cli(&["check", "--syslog", "none"]);
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(check.status.success() && said.is_empty(), "{said}");
    // Nor are blanks anywhere else, or case in a key.
    for (key, value) in [
        ("controllers", json!(["127.0.0.0 / 8"])),
        ("address", json!("local host")),
        ("loglevel", json!("in fo")),
        ("api", json!("127.0.0.1: 8080")),
    ] {
        let right = daemon.settings()[key].clone();
        daemon.set(key, value);
        let check = daemon.cli(&["check"]);
        assert_eq!(check.status.code(), Some(2), "{key}");
        assert!(String::from_utf8_lossy(&check.stderr).contains(key));
        daemon.set(key, right);
    }
    daemon.set("Pending", 7);
    let check = daemon.cli(&["check"]);
    assert!(String::from_utf8_lossy(&check.stderr).contains("did you mean pending?"));
}

/// Files as people break them: every message has the file's name and none of the words of the
/// library or the language.
#[test]
fn no_bad_file_is_answered_with_words_for_programmers() {
    const SETTINGS: &str = "iofog-connector.conf";
    const STATE: &str = "configs.json";
    const FOREIGN: &[&str] = &[
        "expected ident",
        "expected value",
        "invalid type",
        "invalid value",
        "missing field",
        "duplicate field",
        "trailing ",
        "os error",
        "Error(",
        "EOF while",
        "i64",
        "sequence",
        "key must be",
        "control character (",
        "stream did not",
        "Some(",
        "None",
    ];
    let key = |key: &str, value: &str| {
        let mut keys = vec![
            ("ports", "[\"6000-6001\"]"),
            ("exclude", "[]"),
            ("broker", "12345"),
            ("address", "\"127.0.0.1\""),
            ("dev", "true"),
        ];
        keys.retain(|(name, _)| *name != key);
        keys.push((key, value));
        let members = keys.iter().map(|(name, value)| format!("\"{name}\":{value}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(",")).into_bytes()
    };
    let row = |more: &str| {
        let row = format!("{{\"id\":\"a\",\"port1\":6000,\"port2\":6001,{more}}}");
        format!("{{\"mappings\":[{row}]}}").into_bytes()
    };
    let text = |text: &str| text.as_bytes().to_vec();
    let utf16 = |text: &str| {
        let units = std::iter::once(0xfeff).chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect::<Vec<_>>()
    };
    let mut bad = Vec::new();
    for name in [SETTINGS, STATE, "options"] {
        bad.push((name, utf16("{\"dev\": true}")));
        bad.push((name, b"\x7fELF\x02\x01\x01\0\0\0\xff".to_vec()));
        bad.push((name, b"{\"caf\xe9\": 1}".to_vec()));
    }
    for name in [SETTINGS, STATE] {
        for content in [
            "",
            " \n",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":\"b",
            "[",
            "[]",
            "[1,2]",
            "null",
            "7",
            "\"text\"",
            "ports: [6000]",
            "{ports:[]}",
            "{'ports':[]}",
            "{\"a\":1,}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":yes}",
            "{\"a\":tru}",
            "{\"a\":01}",
            "{\"a\":\"b\nc\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12\"}",
            "{} {}",
            "# settings\n{}",
            "{} // settings",
            "<settings/>",
            "{\"a\":1}}",
        ] {
            bad.push((name, text(content)));
        }
    }
    for (name, value) in [
        ("ports", "6000"),
        ("ports", "[6000]"),
        ("ports", "[\"6001-6000\"]"),
        ("ports", "{}"),
        ("broker", "\"12345\""),
        ("broker", "0"),
        ("broker", "1.5"),
        ("broker", "1e99"),
        ("address", "null"),
        ("address", "\"http://x\""),
        ("dev", "\"true\""),
        ("dev", "1"),
        ("api", "8080"),
        ("api", "\"localhost:8080\""),
        ("listen", "\"eth0\""),
        ("threads", "-1"),
        ("loglevel", "\"verbose\""),
        ("logformat", "\"xml\""),
        ("syslogformat", "5424"),
        ("controllers", "[]"),
        ("controllerca", "\"\""),
        ("drain", "99999999999999999999"),
        ("connectionlog", "[]"),
    ] {
        bad.push((SETTINGS, key(name, value)));
    }
    for more in [
        "\"passcodeport1\":7",
        "\"passcodeport1\":\"\"",
        "\"x\":1",
        "\"passcodeport1\":\"s3cret\",\"id\":\"b\"",
        "\"maxconnectionsport1\":\"60\"",
        "\"maxconnectionsport1\":1.5",
        "\"maxconnectionsport1\":99999999999999999999",
    ] {
        bad.push((STATE, row(more)));
    }
    for content in ["passcode: s3cret", "conector=c:1", "connector", "connector=c", "sessions=many"]
    {
        bad.push(("options", text(content)));
    }
    let daemon = Daemon::builder(Mode::Plain).prepare();
    let good = fs::read(daemon.config().join(SETTINGS)).unwrap();
    let mut messages = 0;
    for (name, content) in bad {
        let path = daemon.config().join(name);
        fs::write(&path, &content).unwrap();
        let output = match name {
            "options" => run_cli(&["tunnel", "--from", path.to_str().unwrap()]),
            _ => daemon.cli(&["check"]),
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let content = String::from_utf8_lossy(&content).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {content}: {said}");
        assert!(!said.contains("s3cret"), "{said}");
        for line in said.lines().filter(|line| !line.contains("checked with the rights of ")) {
            messages += 1;
            assert!(line.starts_with("iofog-connector"), "{content}: {line}");
            // Options name themselves; they may come from the command line as well.
            assert!(line.contains(name) || line.contains(": --"), "{content}: {line}");
            for foreign in FOREIGN {
                assert!(!line.contains(foreign), "{content}: {foreign}: {line}");
            }
        }
        match name {
            SETTINGS => fs::write(&path, &good).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
    }
    assert!(messages > 90, "{messages}");
    for (name, why) in [(SETTINGS, "it is a folder"), (STATE, "it is a folder")] {
        let path = daemon.config().join(name);
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).unwrap();
        let check = daemon.cli(&["check"]);
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        assert!(said.contains(name) && said.contains(why), "{said}");
        fs::remove_dir(&path).unwrap();
        fs::write(daemon.config().join(SETTINGS), &good).unwrap();
    }
    daemon.set("dev", false);
    daemon.set("controllerca", "missing.pem");
    let check = daemon.cli(&["check"]);
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(
        said.contains("missing.pem: it does not exist; `controllerca` of the settings"),
        "{said}"
    );
}
