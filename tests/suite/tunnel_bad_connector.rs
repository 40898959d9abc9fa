//! `iofog-connector tunnel` against connectors that are broken, overloaded or mean harm, written
//! from the protocol page, section 5.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;
use rustix::net::sockopt;
use rustix::process::Signal;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A connection that a connector has accepted, authorised or not.
type Tls = StreamOwned<ServerConnection, TcpStream>;

/// The beginning of a private pipe's session: a PROXY header of version 2, LOCAL.
const SESSION: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Reads the passcode and accepts it.
fn authorise(socket: &mut (impl Read + Write)) -> std::io::Result<()> {
    let mut line = vec![0; "IOFOG/2 \n".len() + PASSCODE.len()];
    socket.read_exact(&mut line)?;
    assert_eq!(line, format!("IOFOG/2 {PASSCODE}\n").as_bytes());
    socket.write_all(b"IOFOG/2 AUTHORIZED\n")
}

/// Answers heartbeats until `begin`; then the session begins, and this returns once the agent has
/// answered it.
fn begin(socket: &mut (impl Read + Write), when: impl Fn() -> bool) -> std::io::Result<[u8; 4]> {
    let mut token = [0; 4];
    while !when() {
        socket.read_exact(&mut token)?;
        assert_eq!(&token, b"BEAT");
        socket.write_all(b"BEAT")?;
    }
    socket.write_all(SESSION)?;
    loop {
        socket.read_exact(&mut token)?;
        if &token != b"BEAT" {
            return Ok(token);
        }
    }
}

/// A connector in TLS, and the options with which it is trusted.
fn tls_connector(serve: impl Fn(Tls, usize) + Send + Sync + 'static) -> (Service, Authority) {
    let authority = Authority::new("the authority");
    let config = authority.sign(&["localhost"]).serving();
    let service = service_in_tls(move || config.clone(), serve);
    (service, authority)
}

/// A connector that shakes hands with what `config` gives, and serves each connection by its number.
fn service_in_tls(
    config: impl Fn() -> Arc<ServerConfig> + Send + Sync + 'static,
    serve: impl Fn(Tls, usize) + Send + Sync + 'static,
) -> Service {
    let count = AtomicUsize::new(0);
    Service::new(move |socket| {
        let mut connection = ServerConnection::new(config()).unwrap();
        connection.set_buffer_limit(None);
        socket.set_nodelay(true).unwrap();
        serve(StreamOwned::new(connection, socket), count.fetch_add(1, Ordering::SeqCst));
    })
}

/// A file in a folder of its own; both are removed when this is dropped.
struct Text {
    path: PathBuf,
    _folder: Folder,
}

impl Text {
    fn new(text: &str) -> Self {
        let folder = Folder::new();
        Text { path: folder.file("file", text, 0o644), _folder: folder }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

/// Sends records that change the keys, with single bytes between them, until it fails.
fn flood_with_keys(socket: &mut Tls, sent: &AtomicUsize) {
    loop {
        for _ in 0..64 {
            if socket.conn.refresh_traffic_keys().is_err() {
                return;
            }
            let _ = socket.conn.writer().write_all(b"x");
        }
        while socket.conn.wants_write() {
            match socket.conn.write_tls(&mut socket.sock) {
                Ok(count @ 1..) => sent.fetch_add(count, Ordering::SeqCst),
                _ => return,
            };
        }
    }
}

/// Tunnels that are flooded, so that the thread that has them all always finds more.
const FLOODS: usize = 8;

#[test]
fn flooded_tunnels_stop_neither_others_nor_the_watchdog_nor_sigterm() {
    let flooded = Arc::new(AtomicUsize::new(0));
    let rounds = Arc::new(AtomicUsize::new(0));
    let (sent, done) = (flooded.clone(), rounds.clone());
    let (connector, authority) = tls_connector(move |mut socket, number| {
        if authorise(&mut socket).is_err() {
            return;
        }
        match number {
            0..FLOODS => {
                let token = begin(&mut socket, || true).unwrap();
                assert_eq!(&token, b"OPEN");
                flood_with_keys(&mut socket, &sent);
            }
            FLOODS => {
                let when = || sent.load(Ordering::SeqCst) > 1 << 20;
                assert_eq!(&begin(&mut socket, when).unwrap(), b"OPEN");
                let mut answer = [0; 100];
                while socket
                    .write_all(&[7; 100])
                    .and_then(|()| socket.read_exact(&mut answer))
                    .is_ok()
                {
                    done.fetch_add(1, Ordering::SeqCst);
                }
            }
            _ => while socket.read(&mut [0; 64]).is_ok_and(|count| count > 0) {},
        }
    });
    // It takes what it is sent, so that the flood never has to wait.
    let target = Service::new(|mut socket| {
        let mut first = [0];
        if socket.read_exact(&mut first).is_err() {
            return;
        }
        if first == *b"x" {
            let _ = std::io::copy(&mut socket, &mut std::io::sink());
        } else if socket.write_all(&first).is_ok() {
            let mut writer = socket.try_clone().unwrap();
            let _ = std::io::copy(&mut socket, &mut writer);
        }
    });
    let ca = Text::new(&authority.pem());
    let target = target.address.to_string();
    let more = ["--ca", ca.path(), "--target", &target, "--connections", "9"];
    let mut tunnel = Tunnel::start(connector.address, &[&more[..], &["--drain", "0"]].concat());
    until("the other session goes on", || rounds.load(Ordering::SeqCst) > 0);
    tunnel.told();
    let (rounds_before, sent_before) =
        (rounds.load(Ordering::SeqCst), flooded.load(Ordering::SeqCst));
    let mut pings = 0;
    until("the watchdog is fed and the other session goes on", || {
        pings += tunnel.told().iter().filter(|said| *said == "WATCHDOG=1").count();
        pings > 5 && rounds.load(Ordering::SeqCst) > rounds_before + 40
    });
    until("the flood goes on", || flooded.load(Ordering::SeqCst) > sent_before + (1 << 20));
    tunnel.ends_at_sigterm();
}

#[test]
fn what_comes_before_the_authorization_is_bounded() {
    let authority = Authority::new("the authority");
    let mut config = ServerConfig::clone(&authority.sign(&["localhost"]).serving());
    // Each is a record that says nothing.
    config.send_tls13_tickets = 3000;
    let config = Arc::new(config);
    let connector = service_in_tls(
        move || config.clone(),
        |mut socket, _| {
            let _ = authorise(&mut socket);
            let _ = begin(&mut socket, || false);
        },
    );
    let ca = Text::new(&authority.pem());
    let more = ["--ca", ca.path(), "--target", "127.0.0.1:1"];
    let mut tunnel = Tunnel::start(connector.address, &more);
    tunnel.until_said("it sent 64 KiB and no data");
    tunnel.ends_at_sigterm();
}

/// Starts a tunnel to a connector of version 2 in plain TCP whose connections are served so; a target that
/// answers is there.
fn against(serve: impl Fn(TcpStream) + Send + Sync + 'static, more: &[&str]) -> (Service, Tunnel) {
    let connector = Service::older(move |socket| {
        let _ = socket.set_nodelay(true);
        serve(socket);
    });
    let target = Service::echo().address.to_string();
    let work: &[&str] = if more.contains(&"--listen") { &[] } else { &["--target", &target] };
    let tunnel = Tunnel::start(connector.address, &[&["--plain"], work, more].concat());
    (connector, tunnel)
}

/// Waits until the service manager is told that this is the state.
#[track_caller]
fn until_told(tunnel: &Tunnel, state: &str) {
    until(state, || tunnel.told().iter().any(|s| s.starts_with("STATUS=") && s.contains(state)));
}

#[test]
fn connector_that_accepts_and_closes_is_said_to_and_not_hammered() {
    let (connector, tunnel) = against(|mut socket| drop(authorise(&mut socket)), &[]);
    tunnel.until_said("accepts the passcode, but then closes the tunnel");
    until_told(&tunnel, "but then closes the tunnel");
    // Until the first end has come, how many are dialled is the machine's to say.
    let before = connector.connections();
    thread::sleep(ms(3000));
    let told = tunnel.told();
    assert!(told.iter().all(|told| told == "WATCHDOG=1"), "nothing has changed: {told:?}");
    let dials = connector.connections() - before;
    assert!(dials < 40 && before < 100, "{before} dials, then {dials}");
    assert!(tunnel.log().lines().count() < 10, "{}", tunnel.log());
}

#[test]
fn connector_that_is_mute_or_talks_garbage_is_said_to() {
    for (words, sentence) in [
        (&b""[..], "but has answered no heartbeat for 2 intervals"),
        (
            b"HTTP/1.1 200 OK\r\n",
            "but sends what is neither a heartbeat nor the beginning of a session",
        ),
        (b"BEATBEATX", "but sends what is neither a heartbeat nor the beginning of a session"),
    ] {
        let (_connector, tunnel) = against(
            move |mut socket| {
                let _ = authorise(&mut socket).and_then(|()| socket.write_all(words));
                let _ = std::io::copy(&mut socket, &mut std::io::sink());
            },
            &[],
        );
        tunnel.until_said(sentence);
        until_told(&tunnel, sentence);
    }
}

#[test]
fn answer_that_is_no_tls_is_named_although_the_connection_ends_with_it() {
    let connector = Service::new(|mut socket| {
        let mut greeting = [0; 4096];
        let _ = socket.read(&mut greeting);
        // The end comes in the same segment.
        sockopt::set_tcp_cork(&socket, true).unwrap();
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = socket.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
    });
    let tunnel = Tunnel::start(connector.address, &["--target", "127.0.0.1:1"]);
    tunnel.until_said("it does not speak TLS");
    assert!(!tunnel.log().contains("closed the connection"), "{}", tunnel.log());
}

#[test]
fn heartbeats_that_nobody_has_asked_for_end_the_tunnel() {
    let (_connector, tunnel) = against(
        |mut socket| {
            let beats = BEAT.repeat(16 * 1024);
            let _ = authorise(&mut socket);
            while socket.write_all(&beats).is_ok() {}
        },
        &[],
    );
    tunnel.until_said("sends heartbeats without end that nobody asked for");
}

#[test]
fn heartbeats_without_end_stop_no_other_tunnel_and_no_watchdog() {
    let (floods, rounds) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (over, done) = (floods.clone(), rounds.clone());
    let count = AtomicUsize::new(0);
    let serve = move |mut socket: TcpStream| {
        if authorise(&mut socket).is_err() {
            return;
        }
        if count.fetch_add(1, Ordering::SeqCst) > 0 {
            let beats = BEAT.repeat(16 * 1024);
            while socket.write_all(&beats).is_ok() {}
            over.fetch_add(1, Ordering::SeqCst);
            return;
        }
        assert_eq!(&begin(&mut socket, || true).unwrap(), b"OPEN");
        while socket.write_all(b"round").and_then(|()| socket.read_exact(&mut [0; 5])).is_ok() {
            done.fetch_add(1, Ordering::SeqCst);
        }
    };
    let (_connector, mut tunnel) = against(serve, &["--connections", "9", "--drain", "0"]);
    until("the session goes on", || rounds.load(Ordering::SeqCst) > 0);
    let (mut pings, before) = (0, rounds.load(Ordering::SeqCst));
    until("the floods are ended, the session goes on and the watchdog is fed", || {
        pings += tunnel.told().iter().filter(|said| *said == "WATCHDOG=1").count();
        pings > 5
            && floods.load(Ordering::SeqCst) >= 9
            && rounds.load(Ordering::SeqCst) > before + 40
    });
    tunnel.ends_at_sigterm();
}

#[test]
fn connector_that_recovers_is_said_to_be_connected() {
    let bad = Arc::new(AtomicBool::new(true));
    let is_bad = bad.clone();
    let (_connector, tunnel) = against(
        move |mut socket| {
            let _ = authorise(&mut socket);
            if !is_bad.load(Ordering::SeqCst) {
                let _ = begin(&mut socket, || false);
            }
        },
        &[],
    );
    tunnel.until_said("but then closes the tunnel");
    let before = tunnel.log().matches("connected to").count();
    bad.store(false, Ordering::SeqCst);
    until("it is connected", || tunnel.log().matches("connected to").count() > before);
    until_told(&tunnel, "connected to");
}

#[test]
fn sessions_that_end_at_once_are_dialled_more_and_more_slowly() {
    let (connector, tunnel) = against(
        |mut socket| {
            let _ = authorise(&mut socket).and_then(|()| socket.write_all(SESSION));
            let _ = socket.read(&mut [0; 4]);
        },
        &[],
    );
    tunnel.until_said("in a row ended at once without a byte");
    let start = (Instant::now(), connector.connections());
    thread::sleep(ms(4000));
    let dials = connector.connections() - start.1;
    let seconds = start.0.elapsed().as_secs_f32();
    // Some tries that wait longer and longer, then four a second.
    assert!((dials as f32) < 20.0 + 5.0 * seconds, "{dials} dials in {seconds} s");
    assert!(tunnel.log().lines().count() < 10, "{}", tunnel.log());
}

/// A target that tells how each of its connections has ended: in order, or not.
fn witness() -> (Service, Arc<Mutex<Vec<bool>>>) {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let seen = ends.clone();
    let target = Service::new(move |mut socket| {
        let in_order = socket.read_to_end(&mut Vec::new()).is_ok();
        seen.lock().unwrap().push(in_order);
    });
    (target, ends)
}

/// Closes a connection so that its peer gets a reset.
fn reset(socket: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&socket, Some(ms(0))).unwrap();
}

#[test]
fn a_session_that_is_reset_before_or_soon_after_its_answer_is_no_end_for_the_target() {
    const ROUNDS: usize = 8;
    for (waits_for_open, header) in [(false, false), (true, false), (false, true), (true, true)] {
        let (go, gone) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let authorised = Arc::new(AtomicUsize::new(0));
        let (may, count, begun) = (go.clone(), gone.clone(), authorised.clone());
        let connector = Service::older(move |mut socket| {
            if authorise(&mut socket).is_err() {
                return;
            }
            // The one before may have been reset, and not be counted yet.
            let number = begun.fetch_add(1, Ordering::SeqCst);
            if waits_for_open {
                let _ = begin(&mut socket, || may.load(Ordering::SeqCst) > number);
            } else {
                socket.set_read_timeout(Some(ms(10))).unwrap();
                while may.load(Ordering::SeqCst) <= number {
                    match socket.read(&mut [0; 4]) {
                        Ok(0) => return,
                        Ok(_) => socket.write_all(BEAT).unwrap(),
                        Err(_) => {}
                    }
                }
                socket.write_all(SESSION).unwrap();
            }
            reset(socket);
            count.fetch_add(1, Ordering::SeqCst);
        });
        let (target, ends) = witness();
        let address = target.address.to_string();
        let more = ["--plain", "--connections", "1", "--target", &address];
        let header: &[&str] = if header { &["--proxy-protocol"] } else { &[] };
        let tunnel = Tunnel::start(connector.address, &[&more, header].concat());
        for round in 1..=ROUNDS {
            until("a tunnel is open", || connector.connections() == round);
            if waits_for_open {
                go.store(round, Ordering::SeqCst);
                until("it is reset", || gone.load(Ordering::SeqCst) == round);
            } else {
                // The session's beginning and its end are there when it looks. Before that it has sent its
                // passcode, which the connector waits for.
                tunnel.until_said("connected to");
                until("it is authorised", || authorised.load(Ordering::SeqCst) == round);
                tunnel.signal(Signal::STOP);
                go.store(round, Ordering::SeqCst);
                until("it is reset", || gone.load(Ordering::SeqCst) == round);
                tunnel.signal(Signal::CONT);
            }
        }
        until("the last session is over", || connector.connections() > ROUNDS);
        until("all have ended", || ends.lock().unwrap().len() == target.connections());
        let ends = ends.lock().unwrap();
        println!("{} of {ROUNDS} sessions have reached the target", ends.len());
        assert!(!ends.is_empty() && ends.iter().all(|in_order| !in_order), "{ends:?}");
    }
}

#[test]
fn target_is_dialled_no_more_when_the_session_has_gone() {
    let Some(target) = Deaf::at(SocketAddr::from(([127, 0, 0, 1], 0))) else {
        could_not_run("this kernel answers where the backlog is full");
        return;
    };
    let target = Arc::new(target);
    let dialled = target.clone();
    let connector = Service::older(move |mut socket| {
        if authorise(&mut socket).and_then(|()| socket.write_all(SESSION)).is_ok() {
            until("it is dialled", || dialled.is_dialled());
            reset(socket);
        }
    });
    let address = format!("127.0.0.1:{}", target.port());
    let more = ["--plain", "--sessions", "1", "--connections", "1", "--target", &address];
    let tunnel = Tunnel::start(connector.address, &more);
    // While it was dialled for one that has gone, no other could be.
    until("others have their turn", || connector.connections() > 3);
    assert!(!tunnel.log().contains("cannot be reached"), "{}", tunnel.log());
}

/// A tunnel on a machine with these names and this resolver, or `None` where there can be none.
fn with_names(
    hosts: &str,
    resolver: &str,
    connector: SocketAddr,
    more: &[&str],
) -> Option<(Tunnel, [Text; 2])> {
    let files = [hosts, resolver].map(Text::new);
    let script = "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/resolv.conf && \
                  shift 2 && exec \"$@\"";
    let wrapper =
        ["unshare", "--mount", "sh", "-c", script, "sh", files[0].path(), files[1].path()];
    let works = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").output();
    if !works.is_ok_and(|output| output.status.success()) {
        could_not_run("no mounts of its own can be made here");
        return None;
    }
    Some((Tunnel::within(&wrapper, connector, more), files))
}

#[test]
fn resolver_that_is_silent_about_the_target_does_not_stop_redialling() {
    let ip = Ipv4Addr::new(127, fastrand::u8(1..), fastrand::u8(..), fastrand::u8(1..255));
    let Ok(silent) = UdpSocket::bind((ip, 53)) else {
        could_not_run("port 53 cannot be opened here");
        return;
    };
    let connector = Service::older(|mut socket| {
        let _ = authorise(&mut socket).and_then(|()| socket.write_all(SESSION));
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
    });
    let resolver = format!("nameserver {ip}\noptions timeout:30 attempts:5\n");
    let hosts = "127.0.0.1 localhost\n";
    let more = ["--plain", "--connections", "4", "--target", "silent.example:80"];
    let Some((_tunnel, _files)) = with_names(hosts, &resolver, connector.address, &more) else {
        return;
    };
    until("it is asked for the target", || {
        silent.set_nonblocking(true).unwrap();
        silent.recv(&mut [0; 512]).is_ok()
    });
    // Far more than lookups may run at one time, none of which ends.
    until("tunnels are opened all the same", || connector.connections() > 40);
}

#[test]
fn dead_first_addresses_do_not_cost_each_session_seconds() {
    const SESSIONS: usize = 12;
    // The resolver sorts by what they have in common with 127.0.0.1 (RFC 6724, rule 9).
    let live = Ipv4Addr::new(127, 200, fastrand::u8(..), 77);
    let dead = [(); 2].map(|()| Ipv4Addr::new(127, 0, fastrand::u8(1..), 77));
    let target = TcpListener::bind((live, 0)).unwrap();
    let port = target.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut socket in target.incoming().map_while(Result::ok) {
            thread::spawn(move || std::io::copy(&mut socket, &mut std::io::sink()));
        }
    });
    let [Some(_first), Some(_second)] = dead.map(|ip| Deaf::at((ip, port).into())) else {
        could_not_run("this kernel answers where the backlog is full");
        return;
    };
    let answers = Arc::new(Mutex::new(Vec::new()));
    let heard = answers.clone();
    let connector = Service::older(move |mut socket| {
        if authorise(&mut socket).is_ok() {
            let answer = begin(&mut socket, || true);
            heard.lock().unwrap().extend(answer);
        }
    });
    let [first, second] = dead;
    let hosts =
        format!("127.0.0.1 localhost\n{first} many.test\n{second} many.test\n{live} many.test\n");
    let address = format!("many.test:{port}");
    let more = ["--plain", "--sessions", "1", "--connections", "1", "--target", &address];
    let start = Instant::now();
    let Some((_tunnel, _files)) = with_names(&hosts, "", connector.address, &more) else { return };
    until("all are answered", || answers.lock().unwrap().len() >= SESSIONS);
    let took = start.elapsed();
    println!("{SESSIONS} sessions took {took:?}");
    let answers = answers.lock().unwrap();
    assert!(answers[..SESSIONS].iter().all(|answer| answer == b"OPEN"), "{answers:?}");
    // One of 250 ms for each dead address, once; 4 s for each session would be 48 s.
    assert!(took < Duration::from_secs(24), "{took:?}");
}

#[test]
fn sessions_at_one_time_are_bounded() {
    let open = Arc::new(AtomicUsize::new(0));
    let count = open.clone();
    let (connector, tunnel) = against(
        move |mut socket| {
            let _ = authorise(&mut socket);
            if begin(&mut socket, || true).is_ok_and(|token| &token == b"OPEN") {
                count.fetch_add(1, Ordering::SeqCst);
            }
            let _ = std::io::copy(&mut socket, &mut std::io::sink());
        },
        &["--sessions", "20"],
    );
    until("all sessions are on", || open.load(Ordering::SeqCst) == 20);
    thread::sleep(ms(1000));
    assert_eq!(connector.connections(), 20, "{}", tunnel.log());
    tunnel.until_said("--sessions 20 was reached, once so far: users wait at the connector");
    until_told(&tunnel, "; --sessions 20 was reached once; raise it");
    assert_eq!(tunnel.log().matches("--sessions").count(), 1, "{}", tunnel.log());
}

#[test]
fn limits_that_are_reached_are_said_with_their_number_and_remedy() {
    let listen = free_address();
    let (connector, tunnel) = against(
        |mut socket| {
            let _ = authorise(&mut socket);
            let _ = begin(&mut socket, || false);
        },
        &["--listen", &listen.to_string(), "--pending", "3"],
    );
    let _waiting: Vec<_> =
        (0..3).map(|_| eventually("it listens", || TcpStream::connect(listen).ok())).collect();
    until("all wait", || connector.connections() == 3);
    until_told(&tunnel, "; --pending 3 was reached once; raise it");
    tunnel.until_said("--pending 3 was reached, once so far: further local connections wait");
    let listen = free_address();
    let (_connector, tunnel) = against(
        |mut socket| {
            let _ = authorise(&mut socket);
            let _ = begin(&mut socket, || true);
            let _ = std::io::copy(&mut socket, &mut std::io::sink());
        },
        &["--listen", &listen.to_string(), "--sessions", "2"],
    );
    let _on: Vec<_> =
        (0..2).map(|_| eventually("it listens", || TcpStream::connect(listen).ok())).collect();
    until_told(&tunnel, "; --sessions 2 was reached once; raise it");
    tunnel.until_said("--sessions 2 was reached, once so far: local connections wait until");
}

#[test]
fn tunnels_never_take_the_files_of_their_targets() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        could_not_run("there is no prlimit here");
        return;
    }
    let begun = Arc::new(AtomicBool::new(false));
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let (when, answers) = (begun.clone(), tokens.clone());
    let connector = Service::older(move |mut socket| {
        let _ = authorise(&mut socket);
        let Ok(token) = begin(&mut socket, || when.load(Ordering::SeqCst)) else { return };
        answers.lock().unwrap().push(token);
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
    });
    let target = Service::echo().address.to_string();
    let more = ["--plain", "--target", &target, "--connections", "200"];
    let tunnel = Tunnel::with_limit(connector.address, Some(64), &more);
    tunnel.until_said("the limit of open files is enough for");
    let log = tunnel.log();
    let words: Vec<_> = log.split_whitespace().collect();
    let place = words.iter().position(|word| *word == "tunnels").unwrap();
    let tunnels: usize = words[place - 1].parse().unwrap();
    assert!((8..32).contains(&tunnels), "{log}");
    until("they are there", || connector.connections() == tunnels);
    begun.store(true, Ordering::SeqCst);
    until("all sessions are answered", || tokens.lock().unwrap().len() == tunnels);
    assert!(tokens.lock().unwrap().iter().all(|token| token == b"OPEN"), "{:?}", tokens.lock());
    assert_eq!(tunnel.log().matches("limit of open files").count(), 1, "{}", tunnel.log());
}

#[test]
fn a_new_certificate_is_taken_after_a_refused_handshake_or_at_sighup() {
    let first = Authority::new("the first");
    let shown = Arc::new(Mutex::new(first.sign(&["localhost"]).serving()));
    let config = shown.clone();
    let connector = service_in_tls(
        move || config.lock().unwrap().clone(),
        |mut socket, _| {
            let _ = authorise(&mut socket);
            let _ = begin(&mut socket, || false);
        },
    );
    let ca = Text::new(&first.pem());
    let more = ["--ca", ca.path(), "--target", "127.0.0.1:1", "--connections", "1"];
    let tunnel = Tunnel::start(connector.address, &more);
    tunnel.until_said("connected to");
    // The connector's certificate changes first, its copy here when that has been noticed.
    let second = Authority::new("the second");
    *shown.lock().unwrap() = second.sign(&["localhost"]).serving();
    tunnel.signal(Signal::HUP);
    tunnel.until_said("read again");
    drop(tunnel);
    let tunnel = Tunnel::start(connector.address, &more);
    tunnel.until_said("nor signed by one of them");
    fs::write(ca.path(), second.pem()).unwrap();
    tunnel.until_said("connected to");
    drop(tunnel);
    fs::write(ca.path(), first.pem()).unwrap();
    let tunnel = Tunnel::start(connector.address, &more);
    tunnel.until_said("nor signed by one of them");
    fs::write(ca.path(), second.pem()).unwrap();
    tunnel.signal(Signal::HUP);
    tunnel.until_said("connected to");
    // What cannot be read changes nothing.
    fs::write(ca.path(), "no certificate").unwrap();
    tunnel.signal(Signal::HUP);
    tunnel.until_said("the certificates read before stay in force");
}

/// Opens `count` local connections at once, and gives what each was sent to its end.
fn at_once(address: SocketAddr, count: usize) -> Vec<Vec<u8>> {
    let threads: Vec<_> = (0..count)
        .map(|_| {
            thread::spawn(move || {
                let mut socket = eventually("it listens", || TcpStream::connect(address).ok());
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.write_all(b"ask").unwrap();
                socket.shutdown(Shutdown::Write).unwrap();
                let mut answer = Vec::new();
                socket.read_to_end(&mut answer).unwrap();
                answer
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn free_address() -> SocketAddr {
    // Nobody else takes it in the moment until it is opened again, as ports are handed out in turn.
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn more_local_connections_than_may_wait_are_served_all_the_same() {
    let listen = free_address();
    let (_connector, _tunnel) = against(
        |mut socket| {
            let _ = authorise(&mut socket);
            let token = begin(&mut socket, || true);
            if token.is_ok_and(|t| &t == b"OPEN") && socket.read_to_end(&mut Vec::new()).is_ok() {
                let _ = socket.write_all(b"answer");
            }
        },
        &["--listen", &listen.to_string(), "--pending", "4"],
    );
    let answers = at_once(listen, 150);
    assert_eq!(answers.iter().filter(|answer| *answer == b"answer").count(), 150);
}

#[test]
fn local_connections_that_have_left_make_room_for_others() {
    let (listen, begun) = (free_address(), Arc::new(AtomicBool::new(false)));
    let when = begun.clone();
    let (connector, tunnel) = against(
        move |mut socket| {
            let _ = authorise(&mut socket);
            let _ = begin(&mut socket, || when.load(Ordering::SeqCst));
            let _ = socket.read_exact(&mut [0; 3]).and_then(|()| socket.write_all(b"answer"));
        },
        &["--listen", &listen.to_string(), "--pending", "2"],
    );
    let mute = || eventually("it listens", || TcpStream::connect(listen).ok());
    let (first, second) = (mute(), mute());
    until("both have tunnels", || connector.connections() == 2);
    drop((first, second));
    let mut third = mute();
    third.set_read_timeout(Some(Duration::from_secs(12))).unwrap();
    third.write_all(b"ask").unwrap();
    until("the third has one", || connector.connections() == 3);
    assert!(!tunnel.log().contains("has not come within"), "nobody's time was over");
    begun.store(true, Ordering::SeqCst);
    let mut answer = [0; 6];
    third.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

/// Processor time that a process has used.
fn used(tunnel: &Tunnel) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", tunnel.program.child.id())).unwrap();
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .filter_map(|f| f.parse().ok())
        .collect();
    // User and system time, the 14th and 15th field of proc(5), in ticks of 10 ms.
    ms(10 * (fields[10] + fields[11]))
}

/// Processor time of sessions with a connector that allows two tunnels.
fn cost_of_sessions(connections: &str) -> Duration {
    let (open, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let count = done.clone();
    let (_connector, tunnel) = against(
        move |mut socket| {
            if open.fetch_add(1, Ordering::SeqCst) < 2 {
                let _ = authorise(&mut socket);
                if begin(&mut socket, || true).is_ok() && socket.write_all(b"ask").is_ok() {
                    let _ = socket.read_exact(&mut [0; 3]);
                }
                count.fetch_add(1, Ordering::SeqCst);
            } else {
                let _ = socket.read(&mut [0; 100]);
            }
            open.fetch_sub(1, Ordering::SeqCst);
        },
        &["--connections", connections],
    );
    until("it has begun", || done.load(Ordering::SeqCst) > 50);
    let before = used(&tunnel);
    let start = done.load(Ordering::SeqCst);
    until("sessions are over", || done.load(Ordering::SeqCst) > start + 500);
    used(&tunnel) - before
}

#[test]
fn a_session_costs_no_more_where_more_tunnels_are_wanted_than_allowed() {
    let (few, many) = (cost_of_sessions("2"), cost_of_sessions("20000"));
    println!("{few:?} with 2 wanted, {many:?} with 20000");
    assert!(many < 2 * few + ms(200), "{few:?} with 2 wanted, {many:?} with 20000");
}

#[test]
fn a_new_passcode_is_taken_after_a_refusal() {
    let (connector, tunnel) = against(
        |mut socket| {
            let expected = "IOFOG/2 the-passcode-2\n";
            let mut line = Vec::new();
            let mut byte = [0];
            while socket.read(&mut byte).is_ok_and(|count| count == 1) {
                line.push(byte[0]);
                if byte == *b"\n" {
                    break;
                }
            }
            if line == expected.as_bytes() && socket.write_all(b"IOFOG/2 AUTHORIZED\n").is_ok() {
                let _ = begin(&mut socket, || false);
            }
        },
        &[],
    );
    tunnel.until_said("does not accept the passcode");
    fs::write(tunnel.folder.join("passcode"), format!("{PASSCODE}-2")).unwrap();
    // A passcode never accepted is tried again after half a minute; at SIGHUP at once.
    tunnel.signal(Signal::HUP);
    tunnel.until_said("connected to");
    assert!(connector.connections() >= 2);
    assert!(!tunnel.log().contains(PASSCODE), "{}", tunnel.log());
}
