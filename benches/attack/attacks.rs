//! The attacks. Those of strangers come from an address of their own.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};

use crate::common::{Daemon, Forger, Got, Mapping, at, client_hello, ms};

/// Where strangers come from.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// Connections that a flood of handshakes or of mute peers keeps open, the oldest closed first.
const KEPT: usize = 200;

/// One attack.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// Whether it asks for handshakes, so that the certificate matters.
    pub(crate) shakes_hands: bool,
    pub(crate) start: fn(&Daemon) -> Flood,
}

const fn attack(name: &'static str, start: fn(&Daemon) -> Flood) -> Attack {
    Attack { name, shakes_hands: false, start }
}

const fn of_hellos(name: &'static str, start: fn(&Daemon) -> Flood) -> Attack {
    Attack { name, shakes_hands: true, start }
}

pub(crate) const ATTACKS: &[Attack] = &[
    of_hellos("none", |_| Flood::new()),
    attack("none, beside as much traffic to another program", |_| others(1)),
    attack("none, beside that of two to other programs", |_| others(2)),
    attack("key updates, agents' port, 1 connection", |daemon| {
        strangers(daemon, 1, port1, key_updates)
    }),
    attack("key updates, users' port, 1 connection", |daemon| {
        strangers(daemon, 1, port2, key_updates)
    }),
    attack("key updates, API, 1 connection", |daemon| strangers(daemon, 1, api, key_updates)),
    attack("key updates in a session, 1 connection", |daemon| sessions(daemon, 1, key_updates)),
    attack("key updates in sessions, 8 connections", |daemon| sessions(daemon, 8, key_updates)),
    attack("empty records, agents' port, 1 connection", |daemon| {
        strangers(daemon, 1, port1, empty_records)
    }),
    attack("records of 1 byte in a session, 1 connection", |daemon| {
        sessions(daemon, 1, records_of_one_byte)
    }),
    attack("records of 1 byte in sessions, 8 connections", |daemon| {
        sessions(daemon, 8, records_of_one_byte)
    }),
    attack("full records in a session, 1 connection", |daemon| sessions(daemon, 1, full_records)),
    attack("full records in sessions, 8 connections", |daemon| sessions(daemon, 8, full_records)),
    of_hellos("ClientHellos, agents' port, 2 at it", |daemon| hellos(daemon, port1)),
    of_hellos("ClientHellos, users' port, 2 at it", |daemon| hellos(daemon, port2)),
    of_hellos("ClientHellos, API, 2 at it", |daemon| hellos(daemon, api)),
    attack("heartbeats without a pause, 60 tunnels", beats),
    of_hellos("wrong passcodes on two mappings in turn", wrong_passcodes),
    attack("mute users, 2 at it", |daemon| mute(daemon, port2)),
    attack("mute connections to the API, 2 at it", |daemon| mute(daemon, api)),
];

/// An attack that is on, until dropped.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    programs: Vec<Child>,
}

impl Flood {
    fn new() -> Self {
        Flood { stop: Arc::default(), programs: Vec::new() }
    }

    /// One more thread, which asks what it is given whether it goes on.
    fn go(&self, work: impl FnOnce(&dyn Fn() -> bool) + Send + 'static) {
        let stop = self.stop.clone();
        thread::spawn(move || work(&|| !stop.load(Ordering::Relaxed)));
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// The argument of a run that is another program with traffic of its own.
pub(crate) const OTHER: &str = "--other-program";

/// Other programs with as much traffic as an attack has, which the daemon has nothing to do with:
/// what it loses to them, the machine takes.
fn others(count: usize) -> Flood {
    let mut flood = Flood::new();
    for _ in 0..count {
        let program = std::env::current_exe().expect("this program");
        let started = Command::new(program).args(["--bench", OTHER]).spawn().expect("started");
        flood.programs.push(started);
    }
    flood
}

/// Sends as fast as it can over loopback to who throws it away, for a minute at most.
pub(crate) fn other_program() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a connection");
        let mut buffer = vec![0; 64 * 1024];
        while !matches!(io::Read::read(&mut socket, &mut buffer), Ok(0) | Err(_)) {}
    });
    let mut socket = TcpStream::connect(address).expect("connected");
    let piece = vec![7; 16 * 1024];
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end && socket.write_all(&piece).is_ok() {}
}

fn port1(_: &Daemon, mapping: &Mapping) -> SocketAddr {
    at(mapping.port1)
}

fn port2(_: &Daemon, mapping: &Mapping) -> SocketAddr {
    at(mapping.port2)
}

fn api(daemon: &Daemon, _: &Mapping) -> SocketAddr {
    daemon.api_address()
}

/// Where an attack goes.
type Place = fn(&Daemon, &Mapping) -> SocketAddr;

/// What one peer sends, a piece at a time.
type Make = fn(&mut Forger) -> Vec<u8>;

fn key_updates(forger: &mut Forger) -> Vec<u8> {
    forger.key_updates(16 * 1024)
}

fn empty_records(forger: &mut Forger) -> Vec<u8> {
    forger.empty_records(16 * 1024)
}

fn records_of_one_byte(forger: &mut Forger) -> Vec<u8> {
    forger.data(&[7; 700], 1)
}

fn full_records(forger: &mut Forger) -> Vec<u8> {
    forger.data(&[7; 64 * 1024], 16 * 1024)
}

fn heartbeats(forger: &mut Forger) -> Vec<u8> {
    forger.data(&b"BEAT".repeat(600), 4)
}

fn certificate(daemon: &Daemon) -> PathBuf {
    daemon.config().join("server-cert.pem")
}

/// Sends what `make` makes until told to stop or closed, and reads over what comes.
fn send_on(forger: &mut Forger, make: Make, goes_on: &dyn Fn() -> bool) {
    let mut wire = Vec::new();
    while goes_on() {
        if wire.is_empty() {
            wire = make(forger);
        }
        let Ok(sent) = forger.push(&wire) else { return };
        wire.drain(..sent);
        loop {
            match forger.link.read_now(64 * 1024) {
                Some(Got::Bytes(_)) => {}
                Some(_) => return,
                None => break,
            }
        }
        if !wire.is_empty() {
            forger.link.wait(true, true, Instant::now() + ms(50));
        }
    }
}

/// Strangers that have shaken hands, send, and come back when they are closed.
fn strangers(daemon: &Daemon, count: usize, place: Place, make: Make) -> Flood {
    let address = place(daemon, &daemon.api().add_public(60, 0));
    let flood = Flood::new();
    for _ in 0..count {
        let pem = certificate(daemon);
        flood.go(move |goes_on| {
            while goes_on() {
                if let Ok(mut forger) = Forger::connect(address, &pem) {
                    send_on(&mut forger, make, goes_on);
                }
            }
        });
    }
    flood
}

/// Users in sessions, whose agents take everything and answer nothing.
fn sessions(daemon: &Daemon, count: usize, make: Make) -> Flood {
    let mapping = daemon.api().add_public(60, 0);
    let flood = Flood::new();
    for _ in 0..count {
        let mut agent = daemon.tunnel(&mapping);
        let mut user = Forger::connect(at(mapping.port2), &certificate(daemon)).expect("a user");
        let question = user.data(b"question", 8);
        user.send(&question).expect("sent");
        agent.expect(b"question");
        flood.go(move |goes_on| {
            // What it is sent is not even opened.
            let mut buffer = vec![0; 256 * 1024];
            while goes_on() {
                let read = io::Read::read(&mut agent.link.socket(), &mut buffer);
                if matches!(read, Ok(0)) {
                    return;
                }
                agent.link.wait(true, false, Instant::now() + ms(50));
            }
        });
        flood.go(move |goes_on| send_on(&mut user, make, goes_on));
    }
    flood
}

/// Agents with the right passcode that do nothing but beat.
fn beats(daemon: &Daemon) -> Flood {
    let mapping = daemon.api().add_public(60, 0);
    let flood = Flood::new();
    for _ in 0..60 {
        let pem = certificate(daemon);
        let mut agent = Forger::connect(at(mapping.port1), &pem).expect("an agent");
        let proof = agent.data(mapping.passcode1.as_bytes(), 64);
        agent.send(&proof).expect("sent");
        flood.go(move |goes_on| send_on(&mut agent, heartbeats, goes_on));
    }
    flood
}

/// A connection from the strangers' address.
fn stranger(address: SocketAddr) -> io::Result<TcpStream> {
    let made = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&made, &SocketAddrV4::new(STRANGER, 0))?;
    sockopt::set_socket_timeout(&made, sockopt::Timeout::Send, Some(Duration::from_secs(2)))?;
    connect(&made, &address)?;
    Ok(TcpStream::from(made))
}

/// Two that connect without a pause, send `first` and keep the last [`KEPT`] open.
fn connections(address: SocketAddr, first: Vec<u8>) -> Flood {
    let flood = Flood::new();
    for _ in 0..2 {
        let first = first.clone();
        flood.go(move |goes_on| {
            let mut kept = std::collections::VecDeque::new();
            while goes_on() {
                let Ok(mut socket) = stranger(address) else { continue };
                let _ = socket.write(&first);
                kept.push_back(socket);
                if kept.len() > KEPT {
                    kept.pop_front();
                }
            }
        });
    }
    flood
}

fn hellos(daemon: &Daemon, place: Place) -> Flood {
    let mapping = daemon.api().add_public(60, 0);
    connections(place(daemon, &mapping), client_hello(daemon))
}

fn mute(daemon: &Daemon, place: Place) -> Flood {
    let mapping = daemon.api().add_public(60, 0);
    connections(place(daemon, &mapping), Vec::new())
}

/// Two that send wrong passcodes, on two mappings in turn.
fn wrong_passcodes(daemon: &Daemon) -> Flood {
    let ports = [(); 2].map(|()| daemon.api().add_public(60, 0).port1);
    let flood = Flood::new();
    for _ in 0..2 {
        let pem = certificate(daemon);
        flood.go(move |goes_on| {
            for port in ports.into_iter().cycle() {
                if !goes_on() {
                    return;
                }
                if let Ok(mut forger) = Forger::connect(at(port), &pem) {
                    let wrong = forger.data(&[b'x'; 36], 36);
                    let _ = forger.send(&wrong);
                    forger.link.wait(true, false, Instant::now() + ms(20));
                    forger.link.reset();
                }
            }
        });
    }
    flood
}
