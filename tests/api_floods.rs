//! The control API among callers that say nothing, send much that means nothing, or take large
//! answers (protocol page, section 3). Beside `floods.rs`, what holds whatever the machine's speed.

mod common;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use serde_json::json;

in_both_modes!(
    limit_of_connections_that_is_reached_is_said_in_the_status,
    requests_that_are_not_whole_have_so_much_memory_and_what_is_more_is_503,
);

/// For how long a connection keeps its place at the least.
const TURN: Duration = Duration::from_millis(200);

#[test]
fn mute_connections_without_end_push_out_nobody_whose_request_is_on_its_way() {
    until("requests are sent in time", || requests_among_mute_connections() > 0);
}

/// How many were sent in time; a busy machine may send none.
fn requests_among_mute_connections() -> usize {
    raise_files();
    let daemon = Daemon::new(Mode::Plain);
    let address = daemon.api_address();
    let flooding = AtomicBool::new(true);
    let answered = thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut mute = VecDeque::new();
                while flooding.load(Ordering::Relaxed) {
                    mute.extend(TcpStream::connect(address));
                    if mute.len() > 300 {
                        mute.pop_front();
                    }
                }
            });
        }
        // Six at a time, so that there are enough of them in a few seconds.
        let callers: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let mut answered = Vec::new();
                    for _ in 0..8 {
                        let mut stream = connect_from(Ipv4Addr::new(127, 0, 0, 2), address);
                        let connected = Instant::now();
                        thread::sleep(ms(120));
                        let sent = stream.write_all(b"GET /api/v2/status HTTP/1.1\r\n\r\n");
                        // On a busy machine it may have come too late.
                        if connected.elapsed() < TURN - ms(30) {
                            stream.set_read_timeout(Some(PATIENCE)).unwrap();
                            let read = sent.and_then(|()| stream.read(&mut [0; 64]));
                            answered.push(read.is_ok_and(|count| count > 0));
                        }
                    }
                    answered
                })
            })
            .collect();
        let answered: Vec<bool> = callers.into_iter().flat_map(|one| one.join().unwrap()).collect();
        flooding.store(false, Ordering::Relaxed);
        answered
    });
    let failed = answered.iter().filter(|answered| !**answered).count();
    println!("{failed} of {} calls in time failed", answered.len());
    assert_eq!(failed, 0, "of {}", answered.len());
    answered.len()
}

/// Of no address that floods.
fn connect_from(own: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let kind = (AddressFamily::INET, SocketType::STREAM);
    let socket = net::socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, None).unwrap();
    net::bind(&socket, &SocketAddr::from((own, 0))).unwrap();
    net::connect(&socket, &to).unwrap();
    socket.into()
}

#[test]
fn mute_connections_of_one_address_hold_up_others_less_than_those_of_many() {
    raise_files();
    // Of 96 addresses each has too few connections to be known for them.
    let many = |number| Ipv4Addr::new(127, 0, 1, 1 + (number % 96) as u8);
    until("one address's mute connections are let in three times as fast", || {
        let one = wait_behind_mute_connections(|_| Ipv4Addr::LOCALHOST);
        let many = wait_behind_mute_connections(many);
        println!("behind those of one address {one:?}, of many {many:?}");
        one < many / 3
    });
}

/// How long a call takes behind 3,000 connections, of these addresses, that send nothing and stay.
fn wait_behind_mute_connections(whose: impl Fn(usize) -> Ipv4Addr) -> Duration {
    let daemon = Daemon::new(Mode::Plain);
    let address = daemon.api_address();
    let _mute: Vec<_> = (0..3000).map(|number| connect_from(whose(number), address)).collect();
    let start = Instant::now();
    let mut caller = connect_from(Ipv4Addr::new(127, 0, 0, 2), address);
    caller.write_all(b"GET /api/v2/status HTTP/1.1\r\n\r\n").unwrap();
    caller.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(caller.read(&mut [0; 64]).is_ok_and(|count| count > 0));
    start.elapsed()
}

#[test]
fn handshakes_of_the_api_are_the_workers_business() {
    let daemon = Daemon::new(Mode::Tls);
    let ticks = [daemon.control_ticks(), daemon.ticks()];
    until("enough handshakes are done", || {
        for _ in 0..50 {
            daemon.api().connect();
        }
        daemon.ticks() - ticks[1] >= 60
    });
    let [control, all] = [daemon.control_ticks() - ticks[0], daemon.ticks() - ticks[1]];
    figure(Mode::Tls, "ticks of the control thread, and of all", (control, all));
    assert!(3 * control < 2 * all, "the control thread used {control} of {all} ticks");
}

#[test]
fn head_that_takes_more_than_64_kib_of_the_wire_is_not_answered() {
    let daemon = Daemon::new(Mode::Tls);
    let head = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(4000));
    // In one record it is a request like any other, and after it a byte of the next is counted anew.
    let mut connection = daemon.api().connect();
    connection.send(head.as_bytes());
    connection.response().failed(404);
    // A record of one byte takes 23 or more on the wire.
    for byte in head.as_bytes() {
        if connection.link.try_send(&[*byte]).is_err() {
            break;
        }
    }
    assert!(connection.try_response().is_none(), "it is answered");
    // So far it may well go.
    let mut connection = daemon.api().connect();
    for byte in b"GET /api/v2/status HTTP/1.1\r\n\r\n" {
        connection.send(&[*byte]);
    }
    connection.response().ok();
}

#[test]
fn health_checks_of_the_tls_port_are_not_worth_a_line() {
    let daemon = Daemon::new(Mode::Tls);
    for _ in 0..5 {
        TcpStream::connect(daemon.api_address()).unwrap();
        let link = Link::plain(daemon.api_address()).unwrap();
        link.reset();
    }
    // What is no TLS is a failure.
    let mut plain = Link::plain(daemon.api_address()).unwrap();
    plain.send(b"GET / HTTP/1.1\r\n\r\n");
    plain.until_end();
    until("the failure is counted", || daemon.api().state()["apiHandshakeFailures"] == 1);
    let log = daemon.log_text();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("TLS handshake")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    let said = "the peer does not speak TLS; callers speak TLS (https://, curl --cacert";
    assert!(lines[0].contains(said), "{log}");
}

fn limit_of_connections_that_is_reached_is_said_in_the_status(mode: Mode) {
    let daemon = Daemon::new(mode);
    let before = now();
    assert_eq!(daemon.control().state()["limitsReached"], json!([]));
    let mute: Vec<_> =
        (0..300).map(|_| TcpStream::connect(daemon.api_address()).unwrap()).collect();
    until("the limit is reached", || {
        daemon.control().state()["limitsReached"].as_array().is_some_and(|all| !all.is_empty())
    });
    until("one that was closed for another is counted", || {
        let refusals = daemon.control().state()["apiRefusals"].clone();
        refusals.as_array().unwrap().iter().any(|one| {
            one["why"] == "it sent no whole request in its turn, and others wanted its place"
        })
    });
    assert!(daemon.log_text().contains("API: a caller was closed: it sent no whole request"));
    let reached = daemon.control().state()["limitsReached"][0].clone();
    assert_eq!(reached["limit"], "256 API connections at one time");
    assert!(reached["times"].as_u64().unwrap() >= 1, "{reached}");
    let last = reached["last"].as_u64().unwrap();
    assert!((before..=now()).contains(&last), "{reached}");
    let table = daemon.cli(&["status"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("limit reached: 256 API connections at one time, "), "{table}");
    drop(mute);
}

fn requests_that_are_not_whole_have_so_much_memory_and_what_is_more_is_503(mode: Mode) {
    raise_files();
    const CALLERS: usize = 200;
    const SENT: usize = 60_000;
    // 4 MiB for all of them, beside 2 KiB each.
    const FIT: usize = 4 * 1024 * 1024 / (SENT - 2048) + 1;
    let daemon = Daemon::new(mode);
    let head = format!("POST /api/v2/mapping/add HTTP/1.1\r\nContent-Length: {}\r\n\r\n", SENT + 1);
    let body = vec![b'x'; SENT];
    let begin = || {
        let mut caller = daemon.api().connect();
        caller.send(head.as_bytes());
        // One that was refused may have been closed already.
        let _ = caller.link.try_send(&body);
        caller
    };
    // What one takes is held while it is alone.
    let mut one = begin();
    one.send(b"x");
    one.response().failed(400);
    let base = daemon.resident();
    let mut callers: Vec<_> = (0..CALLERS).map(|_| (begin(), Vec::new())).collect();
    let is_refused = |answer: &[u8]| answer.starts_with(b"HTTP/1.1 503 ");
    until("the surplus is refused", || {
        for (caller, answer) in &mut callers {
            while let Some(Got::Bytes(bytes)) = caller.link.read_now(64 * 1024) {
                answer.extend(bytes);
            }
        }
        callers.iter().filter(|(_, answer)| is_refused(answer)).count() >= CALLERS - FIT
    });
    // Small requests have what they need at any time.
    daemon.api().state();
    let remedy = "send it again a little later";
    for (_, answer) in callers.iter().filter(|(_, answer)| is_refused(answer)) {
        let text = String::from_utf8_lossy(answer);
        assert!(text.contains(remedy) && text.contains("other incomplete requests"), "{text}");
    }
    let grown = daemon.peak().saturating_sub(base);
    println!("{mode:?}: {grown} KiB for {CALLERS} callers");
    drop(callers);
    until("there is room again", || {
        let mut one = begin();
        one.link.try_send(b"x").is_ok()
            && one.try_response().is_some_and(|answer| answer.status == 400)
    });
}

#[test]
fn large_answers_do_not_wait_for_acknowledgements() {
    // Outside the pool they need no ports.
    let mapping = |number: u32| {
        json!({"id": format!("00000000-0000-4000-8000-{number:012}"), "port1": 1000 + 2 * number,
            "port2": 1001 + 2 * number, "passcodeport1": "passcode"})
    };
    let state = json!({"mappings": (0..4000).map(mapping).collect::<Vec<_>>()});
    let daemon = Daemon::builder(Mode::Plain).file("configs.json", state.to_string()).start();
    let took = (0..3).map(|_| {
        let mut stream = TcpStream::connect(daemon.api_address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let (mut piece, mut length) = (vec![0; 1 << 20], 0);
        // To make the answer is one thing, to send it another.
        stream.read_exact(&mut piece[..1]).unwrap();
        let start = Instant::now();
        loop {
            match stream.read(&mut piece).unwrap() {
                0 => break,
                count => length += count,
            }
        }
        assert!(length > 5_000_000, "{length}");
        start.elapsed()
    });
    // With the buffer of a short answer each takes 2 to 4 s, however fast the machine.
    let least = took.min().unwrap();
    figure(Mode::Plain, "least time of an answer of 5 MB", least);
    assert!(least < ms(1_000), "an answer of 5 MB took {least:?}");
}
