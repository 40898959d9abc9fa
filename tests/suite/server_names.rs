//! Names that TLS clients ask for (SNI): one that names no host is none (protocol page, section 1).

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use crate::common::*;

const NEVER: u64 = 200_000;

/// `openssl s_client` with these options, which has been given `first` to send, and its input.
fn client(address: SocketAddr, options: &[&str], first: &[u8]) -> (Child, ChildStdin) {
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl");
    let mut input = client.stdin.take().unwrap();
    // One that is refused takes nothing.
    let _ = input.write_all(first);
    (client, input)
}

/// A user's session as `openssl s_client` with these options: what it printed, with the answer.
fn ask(daemon: &Daemon, mapping: &Mapping, options: &[&str]) -> String {
    let mut agent = daemon.tunnel(mapping);
    let (client, input) = client(at(mapping.port2), options, b"question\n");
    let reader = thread::spawn(move || client.wait_with_output().unwrap());
    agent.expect(b"question\n");
    agent.send(b"answer");
    agent.finish();
    let output = reader.join().unwrap();
    drop(input);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn has_openssl() -> bool {
    let works = Command::new("openssl").arg("version").output().is_ok();
    if !works {
        not_installed("openssl");
    }
    works
}

#[test]
fn name_that_names_no_host_is_no_name() {
    if !has_openssl() {
        return;
    }
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    let long = "x".repeat(64);
    let names = ["127.0.0.1:443", "[::1]", "*.example.org", "a..b", &long, " ", "localhost"];
    for name in names {
        for options in [
            &["-tls1_3"][..],
            &["-tls1_2"],
            // A key of a kind that is not taken: the greeting comes twice.
            &["-tls1_3", "-groups", "P-521:P-256"],
            &["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"],
        ] {
            let said = ask(&daemon, &mapping, &[&["-servername", name][..], options].concat());
            assert!(said.contains("answer"), "{name} {options:?}: {said}");
        }
    }
}

#[test]
fn session_begun_with_such_a_name_is_resumed() {
    if !has_openssl() {
        return;
    }
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    let file = daemon.folder().join("session.pem");
    for (option, resumed) in [("-sess_out", false), ("-sess_in", true)] {
        let options = ["-servername", "host:443", "-tls1_3", option, file.to_str().unwrap()];
        let said = ask(&daemon, &mapping, &options);
        assert!(said.contains("answer"), "{said}");
        assert_eq!(said.contains("Reused, TLSv1.3"), resumed, "{said}");
    }
}

#[test]
fn call_of_the_api_with_such_a_name_is_answered() {
    if !has_openssl() {
        return;
    }
    let daemon = Daemon::new(Mode::Tls);
    for options in [&["-tls1_3"][..], &["-tls1_2"], &["-tls1_3", "-groups", "P-521:P-256"]] {
        let options = [&["-ign_eof", "-servername", "host:443"], options].concat();
        let request = b"GET /api/v2/status HTTP/1.1\r\nConnection: close\r\n\r\n";
        let (client, _input) = client(daemon.api_address(), &options, request);
        let output = client.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("HTTP/1.1 200"), "{options:?}: {said}");
    }
}
