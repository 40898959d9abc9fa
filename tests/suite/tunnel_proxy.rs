//! `tunnel` by way of a proxy (protocol page, section 5, step 7).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::common::*;

in_both_modes!(
    tunnel_goes_through_an_http_proxy_which_looks_the_name_up,
    tunnel_goes_through_a_socks_proxy_which_looks_the_name_up,
);

/// A name that only the proxies of these tests know.
const NAME: &str = "connector.invalid";
const LOGIN: (&str, &str) = ("me", "p@ss:w%rd");
const WRITTEN: &str = "me:p%40ss:w%25rd";

/// A running `tunnel`; it ends when this is dropped.
struct Tunnel {
    program: Running,
    /// Removed after the program has ended.
    _folder: Folder,
}

impl Tunnel {
    /// With these options in a file, and these variables.
    fn start(options: &str, environment: &[(&str, String)]) -> Self {
        let folder = Folder::new();
        let file = folder.file("options", options, 0o600);
        let command = binary();
        let mut tunnel = Command::new(&command[0]);
        for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"]
        {
            tunnel.env_remove(name);
        }
        tunnel
            .args(&command[1..])
            .args(["tunnel", "--connections", "1", "--from"])
            .arg(file)
            .envs(environment.iter().map(|(name, value)| (name, value)));
        let program = Running::start(&mut tunnel, folder.join("log")).unwrap();
        Tunnel { program, _folder: folder }
    }

    fn log(&self) -> String {
        self.program.log()
    }

    #[track_caller]
    fn until_said(&self, what: &str) {
        until(what, || self.log().contains(what));
    }
}

/// Options to reach `port` of `host`.
fn options(daemon: &Daemon, mapping: &Mapping, host: &str, service: &Service) -> String {
    let trust = match daemon.mode {
        Mode::Plain => "plain".into(),
        Mode::Tls => {
            let log = daemon.log_text();
            let shown = log.split("SHA-256 fingerprint ").nth(1).unwrap();
            format!("pin=SHA256:{}", shown.split_whitespace().next().unwrap())
        }
    };
    let (port, passcode, target) = (mapping.port1, &mapping.passcode1, service.address);
    format!("connector={host}:{port}\npasscode={passcode}\ntarget={target}\n{trust}\n")
}

fn greeter() -> Service {
    Service::new(|mut socket| {
        let _ = socket.write_all(b"220 hello\n");
        let _ = socket.read(&mut [0]);
    })
}

/// Carries bytes both ways to a port of this machine, whatever the host was called.
fn carry(near: &TcpStream, port: u16) {
    let Ok(far) = TcpStream::connect(at(port)) else { return };
    let copy = |from: &TcpStream, to: &TcpStream| {
        let _ = std::io::copy(&mut &*from, &mut &*to);
        let _ = to.shutdown(Shutdown::Write);
    };
    thread::scope(|scope| {
        scope.spawn(|| copy(near, &far));
        copy(&far, near);
    });
}

type Heard = Arc<Mutex<Vec<String>>>;

/// A proxy for HTTP, and the requests that it has had.
fn http_proxy() -> (Service, Heard) {
    let heard = Heard::default();
    let told = heard.clone();
    let service = Service::new(move |mut socket| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match socket.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let target = head.split(' ').nth(1).unwrap().to_owned();
        told.lock().unwrap().push(head);
        let _ = socket.write_all(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
              HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n",
        );
        carry(&socket, target.rsplit_once(':').unwrap().1.parse().unwrap());
    });
    (service, heard)
}

/// A proxy for SOCKS 5 that wants a login, and the hosts and logins that it has had.
fn socks_proxy() -> (Service, Heard) {
    fn bytes(socket: &mut TcpStream, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        socket.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }
    fn counted(socket: &mut TcpStream) -> Option<String> {
        let count = bytes(socket, 1)?[0];
        String::from_utf8(bytes(socket, count.into())?).ok()
    }
    fn serve(mut socket: TcpStream, told: &Heard) -> Option<()> {
        let count = bytes(&mut socket, 2)?[1];
        if !bytes(&mut socket, count.into())?.contains(&2) {
            return socket.write_all(&[5, 0xff]).ok();
        }
        socket.write_all(&[5, 2]).ok()?;
        bytes(&mut socket, 1)?;
        let (user, password) = (counted(&mut socket)?, counted(&mut socket)?);
        let right = (&*user, &*password) == LOGIN;
        socket.write_all(&[1, u8::from(!right)]).ok()?;
        if bytes(&mut socket, 4)? != [5, 1, 0, 3] {
            return None;
        }
        let host = counted(&mut socket)?;
        let port = bytes(&mut socket, 2)?;
        told.lock().unwrap().push(host);
        socket.write_all(&[&[5, 0, 0, 3, 4], &b"here"[..], &[0, 7]].concat()).ok()?;
        carry(&socket, u16::from_be_bytes([port[0], port[1]]));
        None
    }
    let heard = Heard::default();
    let told = heard.clone();
    (Service::new(move |socket| _ = serve(socket, &told)), heard)
}

fn tunnel_goes_through_an_http_proxy_which_looks_the_name_up(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(10, 200_000);
    let (service, (proxy, heard)) = (greeter(), http_proxy());
    let options = options(&daemon, &mapping, NAME, &service);
    let url = format!("proxy=http://{WRITTEN}@{}", proxy.address);
    let tunnel = Tunnel::start(&format!("{options}{url}\n"), &[]);
    for _ in 0..3 {
        daemon.user(&mapping).expect(b"220 hello\n");
    }
    let head = heard.lock().unwrap()[0].clone();
    let target = format!("{NAME}:{}", mapping.port1);
    assert!(
        head.starts_with(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n")),
        "{head}"
    );
    // me:p@ss:w%rd
    assert!(head.contains("\r\nProxy-Authorization: Basic bWU6cEBzczp3JXJk\r\n"), "{head}");
    let log = tunnel.log();
    assert!(log.contains(&format!("by way of the proxy http://{}", proxy.address)), "{log}");
    assert!(!log.contains("ss:w"), "{log}");
}

fn tunnel_goes_through_a_socks_proxy_which_looks_the_name_up(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(10, 200_000);
    let (service, (proxy, heard)) = (greeter(), socks_proxy());
    let options = options(&daemon, &mapping, NAME, &service);
    let url = |login: &str| format!("{options}proxy=socks5://{login}{}\n", proxy.address);
    let tunnel = Tunnel::start(&url(&format!("{WRITTEN}@")), &[]);
    daemon.user(&mapping).expect(b"220 hello\n");
    assert_eq!(heard.lock().unwrap()[0], NAME);
    assert!(!tunnel.log().contains("ss:w"), "{}", tunnel.log());
    Tunnel::start(&url(""), &[]).until_said("it asks for user and password; name them as proxy=");
    let wrong = Tunnel::start(&url("me:SECRET@"), &[]);
    wrong.until_said("it does not accept user and password; name them");
    assert!(!wrong.log().contains("SECRET"), "{}", wrong.log());
}

#[test]
fn environment_names_a_proxy_unless_it_excepts_the_connector() {
    let daemon = Daemon::new(Mode::Plain);
    let (service, (proxy, heard)) = (greeter(), http_proxy());
    let url = format!("http://{}", proxy.address);
    let count = || heard.lock().unwrap().len();
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        let before = count();
        // A mapping each: no user is given a tunnel of the one before, which is being killed.
        let mapping = daemon.api().add_public(10, 200_000);
        let options = options(&daemon, &mapping, "localhost", &service);
        let _tunnel = Tunnel::start(&options, &[(name, url.clone())]);
        daemon.user(&mapping).expect(b"220 hello\n");
        assert!(count() > before, "{name}");
    }
    let before = count();
    let mapping = daemon.api().add_public(10, 200_000);
    let options = options(&daemon, &mapping, "localhost", &service);
    for except in ["*", "localhost", "example.com, .localhost"] {
        let environment = [("HTTPS_PROXY", url.clone()), ("NO_PROXY", except.to_owned())];
        let tunnel = Tunnel::start(&options, &environment);
        tunnel.until_said("connected to");
    }
    assert_eq!(count(), before, "not through the proxy");
}

#[test]
fn refusals_of_proxies_are_sentences_with_fact_and_remedy() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(10, 200_000);
    let service = greeter();
    let options = options(&daemon, &mapping, NAME, &service);
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(10_000));
    let socks = |code: u8| [5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0].to_vec();
    let silent = Service::new(|mut socket| _ = std::io::copy(&mut socket, &mut std::io::sink()));
    let slow = Tunnel::start(&format!("{options}proxy=http://{}\n", silent.address), &[]);
    let cases: [(&str, Vec<u8>, &str); 15] = [
        // Bare LF, as old ones send it.
        (
            "http",
            "HTTP/1.0 407 Who\nA: b\n\n".into(),
            "it asks for user and password; name them as",
        ),
        (
            "http",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 No\r\n\r\n".into(),
            "it does not allow a connection to",
        ),
        (
            "http",
            "HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000).into(),
            "its answer to CONNECT has no end",
        ),
        ("http", "HTTP/1.1 101 No\r\n\r\n".into(), "it cannot connect to connector.invalid:"),
        ("socks5", vec![5, 0, 4, 0, 0, 1, 0, 0, 0, 0, 0, 0], "its answer is not SOCKS 5"),
        ("http", "HTTP/1.1 407 Who\r\n\r\n".into(), "it asks for user and password; name them as"),
        (
            "http",
            "HTTP/1.0 403 Forbidden\r\nA: b\r\n\r\n".into(),
            "it does not allow a connection to",
        ),
        ("http", "HTTP/1.1 503 No\r\n\r\n".into(), "it cannot connect to connector.invalid:"),
        ("http", vec![5, 0xff], "it does not speak HTTP; is it one for socks5://?"),
        ("http", endless.into(), "its answer to CONNECT has no end"),
        ("http", Vec::new(), "it has ended the connection without an answer"),
        (
            "socks5",
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            "it does not speak SOCKS 5; is it",
        ),
        ("socks5", vec![5, 0xff], "it asks for user and password; name them as"),
        ("socks5", socks(2), "its rules do not allow that (2); have it"),
        ("socks5", socks(5), "that refuses the connection (5); does it run?"),
    ];
    for (scheme, answer, said) in cases {
        let proxy = Service::new(move |mut socket| {
            let _ = socket.read(&mut [0; 4096]);
            let _ = socket.write_all(&answer);
            let _ = socket.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut socket, &mut std::io::sink());
        });
        let tunnel = Tunnel::start(&format!("{options}proxy={scheme}://{}\n", proxy.address), &[]);
        tunnel.until_said(said);
        let place = format!("connector {NAME}:{}: the proxy {scheme}://", mapping.port1);
        assert!(tunnel.log().contains(&place), "{}", tunnel.log());
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tunnel = Tunnel::start(&format!("{options}proxy=http://{nobody}\n"), &[]);
    tunnel.until_said(": it refuses the connection: does it run");
    slow.until_said("it takes connections, but did not answer within 20 s: it is slow, or");
}

#[test]
fn password_of_a_proxy_is_refused_on_the_command_line() {
    let arguments = ["tunnel", "--connector", "c:1", "--target", "t:1", "--proxy"];
    let output = run_cli(&[&arguments[..], &["http://me:SECRET@proxy:1"]].concat());
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("--proxy would show user and password") && !said.contains("SECRET"),
        "{said}"
    );
}
