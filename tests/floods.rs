//! Floods of connections: mute ones, slow ones, reset ones, handshakes, wrong passcodes, users,
//! agents that return all at once. Meanwhile good agents, users and callers are served; afterwards
//! nothing is left of it.
//!
//! An ordinary run is the quick form; `IOFOG_CONNECTOR_FULL=1` asks for the long one
//! (docs/testing.md). Figures are printed with `--nocapture`. No good peer may wait longer than
//! [`SOON`], which is far beyond what it takes on a machine with nothing else to do.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::*;
use rustix::net::sockopt;
use rustix::process::Signal;

in_both_modes!(
    mute_connections_on_every_port_hold_up_nobody,
    connections_that_stall_after_their_first_bytes_hold_up_no_agent,
    slow_heads_hold_up_no_call,
    slow_bodies_hold_up_no_call,
    requests_of_many_ranges_hold_up_no_call,
    answers_that_are_read_slowly_hold_up_no_call,
    requests_without_a_pause_hold_up_no_call,
    reset_connections_leave_nothing,
    sessions_that_are_over_hold_no_more_places_than_tunnels,
    sixty_agents_with_a_wrong_passcode_are_held,
    users_faster_than_tunnels_are_served_or_closed,
    all_tunnels_return_at_once_after_a_restart,
);

const NEVER: u64 = 200_000;

/// How long good peers may take on a machine that has much else to do. Without a flood, and with
/// most, they take milliseconds.
const SOON: Duration = Duration::from_secs(8);

/// Resident memory that may remain of a flood, in KiB: heap that is fragmented, and tables that
/// have grown.
const REMAINS: u64 = 3 * 1024;

/// Serves good peers of all kinds; gives the longest time that one took.
#[track_caller]
fn good_peers(daemon: &Daemon, mapping: &Mapping) -> Duration {
    let (mut agent, authorized) = timed(|| daemon.tunnel(mapping));
    let (mut user, served) = timed(|| {
        let mut user = daemon.user(mapping);
        user.send(b"question");
        agent.expect(b"question");
        user
    });
    agent.send(b"answer");
    user.expect(b"answer");
    let (_, answered) = timed(|| daemon.api().status("all"));
    let shown = (authorized, served, answered);
    figure(daemon.mode, "agent authorised, user served, API answered after", shown);
    // In this order nothing is cut short.
    agent.finish();
    user.until_end();
    authorized.max(served).max(answered)
}

fn mute_connections_on_every_port_hold_up_nobody(mode: Mode) {
    raise_files();
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let mover = Mover::start(&daemon, &mapping);
    good_peers(&daemon, &mapping);
    let base = Base::of(&daemon);
    let ports = [at(mapping.port1), at(mapping.port2), daemon.api_address()];
    let mut mute: Vec<Link> = ports.iter().flat_map(|port| stalled(*port, 1000, b"")).collect();
    let start = Instant::now();
    for _ in 0..3 {
        let took = good_peers(&daemon, &mapping);
        assert!(took < SOON, "a good peer waited {took:?}");
    }
    until("all mute connections are closed", || open(&mut mute) == 0);
    figure(mode, "mute connections were closed after", start.elapsed());
    drop(mute);
    let (rounds, worst) = mover.stop();
    figure(mode, "rounds of a session, and the longest", (rounds, worst));
    assert!(worst < SOON, "a session stood still for {worst:?}");
    base.expect_again(&daemon, REMAINS);
}

/// Good peers are served soon while these stall, which by themselves are gone after 10 s. A machine that is
/// too busy with their handshakes has three tries.
#[track_caller]
fn stalled_and_served_soon(
    daemon: &Daemon,
    mapping: &Mapping,
    stall: impl Fn() -> Vec<Link>,
) -> Vec<Link> {
    let mut waited = Vec::new();
    for _ in 0..3 {
        let mut stalling = stall();
        let took = good_peers(daemon, mapping);
        if took < SOON {
            return stalling;
        }
        waited.push(took);
        until("all stalled connections are closed", || open(&mut stalling) == 0);
    }
    panic!("good peers waited {waited:?}");
}

fn connections_that_stall_after_their_first_bytes_hold_up_no_agent(mode: Mode) {
    raise_files();
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let mover = Mover::start(&daemon, &mapping);
    good_peers(&daemon, &mapping);
    let bytes = match mode {
        Mode::Plain => b"5".to_vec(),
        Mode::Tls => client_hello(&daemon),
    };
    let base = Base::of(&daemon);
    let mut stalling =
        stalled_and_served_soon(&daemon, &mapping, || stalled(at(mapping.port1), 1000, &bytes));
    let (_, worst) = mover.stop();
    figure(mode, "longest round of a session", worst);
    until("all stalled connections are closed", || open(&mut stalling) == 0);
    base.expect_again(&daemon, REMAINS);
}

// What one peer sends without a pause, in TLS

/// What a peer sends without a pause: about so many bytes of it, made anew each time.
type Make = fn(&mut Forger, usize) -> Vec<u8>;

fn key_updates(forger: &mut Forger, length: usize) -> Vec<u8> {
    forger.key_updates(length)
}

fn empty_records(forger: &mut Forger, length: usize) -> Vec<u8> {
    forger.empty_records(length)
}

fn records_of_one_byte(forger: &mut Forger, length: usize) -> Vec<u8> {
    forger.data(&vec![7; length / 23], 1)
}

fn heartbeats(forger: &mut Forger, length: usize) -> Vec<u8> {
    forger.data(&b"BEAT".repeat(length / 26), 4)
}

/// More than the sockets on the way can hold.
const BLAST: usize = 8 << 20;

/// [`BLAST`] bytes of one peer, made before they are sent, so that they come faster than anybody
/// can open them.
struct Blast {
    sent: Arc<AtomicUsize>,
    thread: JoinHandle<bool>,
}

impl Blast {
    /// Sends them on a thread of its own, and returns when the connector is at it, or has closed.
    fn start(mut forger: Forger, make: Make) -> Self {
        let wire = make(&mut forger, BLAST);
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let thread = thread::spawn(move || {
            let mut pieces = wire.chunks(16 * 1024);
            pieces.all(|piece| {
                count.fetch_add(piece.len(), Ordering::Relaxed);
                forger.send(piece).is_ok()
            })
        });
        let blast = Blast { sent, thread };
        until("the blast has begun", || blast.is_over() || blast.sent() > BLAST / 16);
        blast
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Whether all was taken.
    fn was_taken(self) -> bool {
        self.thread.join().unwrap()
    }
}

/// Peers that send without a pause, each on a thread of its own, until dropped, and for 20 s at
/// most.
#[derive(Default)]
struct Flood {
    ended: Arc<AtomicBool>,
    bytes: Arc<AtomicUsize>,
    read: Arc<AtomicUsize>,
}

impl Flood {
    /// Begins with these peers, and returns when they are at it.
    fn start(peers: Vec<Forger>, make: Make) -> Self {
        let flood = Flood::default();
        let latest = Instant::now() + ms(20_000);
        for mut peer in peers {
            let Flood { ended, bytes, read } = &flood;
            let (ended, bytes, read) = (ended.clone(), bytes.clone(), read.clone());
            thread::spawn(move || {
                let mut wire = Vec::new();
                while !ended.load(Ordering::Relaxed) && Instant::now() < latest {
                    if wire.is_empty() {
                        wire = make(&mut peer, 8 * 1024);
                    }
                    let Ok(sent) = peer.push(&wire) else { break };
                    wire.drain(..sent);
                    bytes.fetch_add(sent, Ordering::Relaxed);
                    while let Some(Got::Bytes(bytes)) = peer.link.read_now(64 * 1024) {
                        read.fetch_add(bytes.len(), Ordering::Relaxed);
                    }
                    peer.link.wait(true, true, Instant::now() + ms(100));
                }
            });
        }
        until("the flood has begun", || flood.bytes.load(Ordering::Relaxed) > 1 << 17);
        flood
    }

    /// Bytes that came back.
    fn read(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// A daemon whose sessions share one worker, with two mappings.
fn on_one_thread() -> (Daemon, [Mapping; 2]) {
    let daemon = Daemon::builder(Mode::Tls).set("threads", 1).start();
    let mappings = [(); 2].map(|()| daemon.api().add_public(60, NEVER));
    (daemon, mappings)
}

fn forger(daemon: &Daemon, port: u16) -> Forger {
    Forger::connect(at(port), &daemon.config().join("server-cert.pem")).expect("connected")
}

/// A user of `mapping` in a session whose agent takes everything and answers nothing.
fn in_session(daemon: &Daemon, mapping: &Mapping) -> Forger {
    let mut agent = daemon.tunnel(mapping);
    let mut user = forger(daemon, mapping.port2);
    let question = user.data(b"question", 8);
    user.send(&question).unwrap();
    agent.expect(b"question");
    thread::spawn(move || {
        while matches!(agent.link.read_now(64 * 1024), None | Some(Got::Bytes(_))) {
            agent.link.wait(true, false, Instant::now() + PATIENCE);
        }
    });
    user
}

#[test]
fn strangers_that_send_records_without_bytes_hold_up_nobody_and_are_closed() {
    let (daemon, [mapping, target]) = on_one_thread();
    let mover = Mover::start(&daemon, &mapping);
    for (port, make) in [
        (target.port1, key_updates as Make),
        (target.port2, key_updates),
        (target.port1, empty_records),
        (target.port2, empty_records),
        (daemon.api_address().port(), key_updates),
    ] {
        let blast = Blast::start(forger(&daemon, port), make);
        good_peers(&daemon, &mapping);
        assert!(!blast.was_taken(), "{BLAST} bytes of a stranger were taken");
    }
    // That of key updates: rustls ends a connection for 32 empty records in a row.
    until("it is counted", || daemon.control().number(&target, "counts.agentsRefused") == 1);
    let (_, worst) = mover.stop();
    assert!(worst < SOON, "a session stood still for {worst:?}");
}

#[test]
fn key_updates_in_a_session_hold_up_no_other_on_its_thread() {
    let (daemon, [mapping, target]) = on_one_thread();
    let (mut user, mut agent) = daemon.session(&mapping);
    let blast = Blast::start(in_session(&daemon, &target), key_updates);
    let mut rounds = 0;
    while !blast.is_over() {
        user.send(b"?");
        agent.expect(b"?");
        rounds += 1;
    }
    // 65,536 of them were one turn once, which is a fifth of them all.
    figure(Mode::Tls, "rounds of a session meanwhile", rounds);
    assert!(rounds > 50, "{rounds} rounds of a session in {BLAST} bytes of another");
    assert!(blast.was_taken(), "it was closed for it");
}

#[test]
fn key_updates_among_bytes_are_counted_all_the_same_and_all_together() {
    let (daemon, [mapping, target]) = on_one_thread();
    let (mut user, mut agent) = daemon.session(&mapping);
    let users = (0..8).map(|_| in_session(&daemon, &target)).collect();
    // A byte with each 31 of them.
    let start = Instant::now();
    let before = daemon.control().bytes_up(&target);
    let _flood = Flood::start(users, |forger, length| forger.key_updates_and(length, b"x"));
    let mut rounds = 0;
    while start.elapsed() < ms(3000) {
        user.send(b"?");
        agent.expect(b"?");
        rounds += 1;
    }
    let updates = 31 * (daemon.control().bytes_up(&target) - before);
    let time = start.elapsed();
    figure(Mode::Tls, "rounds of a session, and others' key updates meanwhile", (rounds, updates));
    // Sixteen each millisecond, however many send them, for 50 ms at once, and what each may send
    // before it first rests.
    assert!(
        updates <= 16 * (time.as_millis() as u64 + 50 + 2 * 8) + 8 * 31,
        "{updates} in {time:?}"
    );
    assert!(updates > 8 * 31, "they go on");
}

#[test]
fn records_of_one_byte_are_counted_as_what_they_cost() {
    /// Of a turn of 64 KiB in which each record counts its byte alone, less than a third.
    const FEW: usize = 20_000;
    let (daemon, [mapping, target]) = on_one_thread();
    let (mut user, mut agent) = daemon.session(&mapping);
    let users = (0..8).map(|_| in_session(&daemon, &target)).collect();
    let _flood = Flood::start(users, records_of_one_byte);
    let before = daemon.control().bytes_up(&target);
    let (start, mut rounds, mut records) = (Instant::now(), 0, 0);
    while rounds < 100 && start.elapsed() < SOON {
        user.send(b"?");
        agent.expect(b"?");
        rounds += 1;
        records = (daemon.control().bytes_up(&target) - before) as usize;
    }
    figure(Mode::Tls, "rounds of a session, and others' records meanwhile", (rounds, records));
    assert!(records / rounds < FEW, "{records} records in {rounds} rounds");
}

#[test]
fn sixty_tunnels_that_beat_without_a_pause_are_answered_a_little_at_a_time() {
    /// Heartbeats of one tunnel that are answered within 250 ms, and one piece of a read more.
    const AT_ONCE: usize = 64 + 8;
    let (daemon, [mapping, target]) = on_one_thread();
    let start = Instant::now();
    let agents = (0..60).map(|_| {
        let mut agent = forger(&daemon, target.port1);
        // No more is made than the daemon takes.
        sockopt::set_socket_send_buffer_size(agent.link.socket(), 16 * 1024).expect("SO_SNDBUF");
        let proof = agent.data(target.passcode1.as_bytes(), 64);
        agent.send(&proof).unwrap();
        agent.link.expect(b"AUTHORIZED");
        agent
    });
    let flood = Flood::start(agents.collect(), heartbeats);
    let (before, mut worst) = (start.elapsed(), Duration::ZERO);
    while start.elapsed() < before + ms(1500) {
        worst = worst.max(good_peers(&daemon, &mapping));
        thread::sleep(ms(50));
    }
    let (beats, took) = (flood.read() / 4, start.elapsed());
    figure(Mode::Tls, "longest wait of a good peer", worst);
    figure(Mode::Tls, "heartbeats answered, and in what time", (beats, took));
    assert!(worst < SOON, "a good peer waited {worst:?}");
    let quarters = took.as_millis() as usize / 250 + 1;
    assert!(beats <= 60 * AT_ONCE * quarters, "{beats} heartbeats in {took:?}");
    assert!(beats > 60, "they are answered");
}

#[test]
fn connector_that_begins_sessions_and_reads_nothing_is_read_no_further() {
    let connector = StandIn::new(Mode::Plain);
    let options =
        ["--plain", "--connections", "1", "--heartbeat", "300", "--target", "127.0.0.1:9"];
    let _agent = Tunnel::start(connector.address(), &options);
    let mut tunnel = connector.tunnel();
    let session = [frame(b'O', &Header::local()), frame(b'X', b"")].concat();
    let sessions = session.repeat(1000);
    let over = AtomicBool::new(false);
    let next = thread::scope(|scope| {
        scope.spawn(|| {
            while tunnel.link.try_send(&sessions).is_ok() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        // The kernel holds the answers of half a million. Then nothing answers a heartbeat, so that the agent gives
        // the tunnel up.
        let deadline = Instant::now() + 10 * PATIENCE;
        let next = loop {
            let next = connector.try_accept();
            if next.is_some() || Instant::now() > deadline {
                break next;
            }
            thread::sleep(ms(10));
        };
        over.store(true, Ordering::Relaxed);
        next
    });
    let next = next.expect("the tunnel goes on, however much it has to say");
    Framed::connector(next, PASSCODE).open();
}

#[test]
fn the_watchdog_is_fed_and_a_stop_begins_while_key_updates_come() {
    let folder = Daemon::builder(Mode::Tls).prepare();
    let manager = Manager::new(folder.folder());
    let mut daemon = Daemon::builder(Mode::Tls)
        .set("threads", 1)
        .environment("NOTIFY_SOCKET", manager.path())
        .environment("WATCHDOG_USEC", "400000")
        .start();
    let target = daemon.api().add_public(60, NEVER);
    let blast = Blast::start(forger(&daemon, target.port1), key_updates);
    // Those that were sent before.
    manager.told();
    manager.receive("WATCHDOG=1");
    assert!(!blast.was_taken(), "not before all of a stranger's bytes were taken");
    let blast = Blast::start(forger(&daemon, target.port1), key_updates);
    daemon.signal(Signal::TERM);
    manager.receive("STOPPING=1");
    assert!(!blast.was_taken(), "not before all of a stranger's bytes were taken");
    assert_eq!(daemon.wait().status.code(), Some(0));
}

// Slow callers of the API: the four ways of slowhttptest

/// Slow callers at one time, below the API's limit, so that none makes room for another.
const CALLERS: usize = 200;

fn slow_heads_hold_up_no_call(mode: Mode) {
    let head = b"GET /api/v2/status HTTP/1.1\r\nHost: localhost\r\n";
    slow_callers(mode, head, |link| link.try_send(b"X-Slow: 1\r\n").is_ok());
}

fn slow_bodies_hold_up_no_call(mode: Mode) {
    let head = b"POST /api/v2/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n";
    slow_callers(mode, head, |link| link.try_send(b"mappingid=all&").is_ok());
}

fn requests_of_many_ranges_hold_up_no_call(mode: Mode) {
    let ranges: Vec<String> = (0..1000).map(|end| format!("5-{end}")).collect();
    let ranges = ranges.join(",");
    let request = format!("GET /api/v2/status HTTP/1.1\r\nRange: bytes=0-,{ranges}\r\n\r\n");
    // They are ignored: no answer is longer, or harder to make, for them.
    let daemon = Daemon::new(mode);
    let mut caller = daemon.api().connect();
    caller.send(request.as_bytes());
    let answer = caller.response();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["mappings"], serde_json::json!([]));
    drop(daemon);
    slow_callers(mode, request.as_bytes(), |link| {
        while let Some(Got::Bytes(_)) = link.read_now(64 * 1024) {}
        link.try_send(request.as_bytes()).is_ok()
    });
}

fn answers_that_are_read_slowly_hold_up_no_call(mode: Mode) {
    let requests = b"GET /api/v2/status HTTP/1.1\r\n\r\n".repeat(200);
    slow_callers(mode, &requests, |link| {
        link.read_now(10);
        true
    });
}

/// Many callers that send `first` and then go on every 100 ms; good calls between them.
fn slow_callers(mode: Mode, first: &[u8], mut go_on: impl FnMut(&mut Link) -> bool) {
    raise_files();
    let daemon = Daemon::builder(mode).ports(200).start();
    let api = daemon.api();
    let mappings: Vec<Mapping> = (0..size(19, 99)).map(|_| api.add_public(60, NEVER)).collect();
    let mover = Mover::start(&daemon, &mappings[0]);
    let call = || {
        let (_, status) = timed(|| api.status("all"));
        let (mapping, added) = timed(|| api.add_public(60, NEVER));
        let (_, removed) = timed(|| api.remove(&mapping));
        status.max(added).max(removed)
    };
    call();
    let base = Base::of(&daemon);
    let mut slow: Vec<Link> = (0..CALLERS)
        .map(|_| {
            let mut link = api.connect().link;
            link.shrink();
            link.send(first);
            link
        })
        .collect();
    let start = Instant::now();
    let mut worst = Duration::ZERO;
    while start.elapsed() < period(1500, 12_000) {
        slow.retain_mut(|link| go_on(link));
        worst = worst.max(call());
        thread::sleep(ms(100));
    }
    figure(mode, "slow callers left, KiB resident", (slow.len(), daemon.resident()));
    let (_, longest) = mover.stop();
    figure(mode, "longest good call, and round of a session", (worst, longest));
    assert!(worst < SOON, "a good call took {worst:?}");
    assert!(longest < SOON, "a session stood still for {longest:?}");
    drop(slow);
    base.expect_again(&daemon, REMAINS);
}

/// Callers that send requests in one go and read the answers as fast as they come, so that they
/// always have one more that could be answered.
fn requests_without_a_pause_hold_up_no_call(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    good_peers(&daemon, &mapping);
    let requests = b"GET / HTTP/1.1\r\n\r\n".repeat(10_000);
    let (ended, latest) = (AtomicBool::new(false), Instant::now() + 2 * PATIENCE);
    thread::scope(|scope| {
        let flood: Vec<_> = (0..16)
            .map(|_| {
                let (daemon, requests, ended) = (&daemon, &requests, &ended);
                scope.spawn(move || {
                    let (mut link, mut read) = (daemon.api().connect().link, 0);
                    sockopt::set_socket_recv_buffer_size(link.socket(), 4 << 20)
                        .expect("SO_RCVBUF");
                    while !ended.load(Ordering::Relaxed) && Instant::now() < latest {
                        if !link.unsent() {
                            link.queue(requests).expect("queue");
                        }
                        let flushed = link.push().expect("the caller is not closed");
                        match link.read_now(64 * 1024) {
                            Some(Got::Bytes(bytes)) => read += bytes.len(),
                            Some(end) => panic!("{end:?} instead of answers"),
                            None => drop(link.wait(true, !flushed, Instant::now() + ms(100))),
                        }
                    }
                    read
                })
            })
            .collect();
        let mut worst = Duration::ZERO;
        let until = Instant::now() + period(1500, 12_000);
        while Instant::now() < until {
            worst = worst.max(good_peers(&daemon, &mapping));
        }
        ended.store(true, Ordering::Relaxed);
        assert!(worst < SOON, "a good peer waited {worst:?}");
        figure(mode, "longest wait of a good peer", worst);
        let read: Vec<usize> = flood.into_iter().map(|one| one.join().unwrap()).collect();
        figure(mode, "bytes of answers read", read);
    });
}

// Resets

/// Where a connection is reset, on agents' ports (even numbers) and users' ports.
const POINTS: usize = 12;

/// Files that are free afterwards, nearly all that there are.
const FREE: u32 = 300;

fn reset_connections_leave_nothing(mode: Mode) {
    raise_files();
    let all = match mode {
        Mode::Plain => size(5000, 100_000),
        Mode::Tls => size(4000, 20_000),
    };
    // Beyond what the flood takes at one time; a count that is not given back soon reaches it.
    let nofile = ["prlimit", "--nofile=400"];
    let daemon = Daemon::builder(mode).set("userwait", 2000).wrapper(&nofile).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let other = daemon.api().add_public(FREE, NEVER);
    let service = Service::echo();
    let agent = FieldAgent::start(&daemon, &mapping, 8, service.address);
    agent.wait_authorized();
    let quiet = Base::of(&daemon);
    let hello = if mode == Mode::Tls { client_hello(&daemon) } else { Vec::new() };
    let storm = |seed: u64, count: usize| {
        thread::scope(|scope| {
            for number in 0..8 {
                let (daemon, mapping, hello) = (&daemon, &mapping, &hello);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed + number);
                    for _ in 0..count / 8 {
                        reset_somewhere(daemon, mapping, hello, &mut random);
                    }
                });
            }
        });
    };
    storm(1, all / 5);
    until("the agent has all its tunnels", || agent.authorized() == 8);
    until("no user is left", || daemon.control().state_of(&mapping).is_some_and(is_at_rest));
    let base = Base { files: quiet.files, ..Base::of(&daemon) };
    let (_, took) = timed(|| storm(100, all));
    figure(mode, "connections reset, and in what time", (all, took));
    until("no user is left", || daemon.control().state_of(&mapping).is_some_and(is_at_rest));
    // The agent's tunnels come and go until the last of its sessions has ended.
    until("the agent has all its tunnels", || daemon.control().idle(&mapping) >= 8);
    base.expect_again(&daemon, 1024);
    // The daemon's own count of them is as it was, too.
    let tunnels: Vec<Agent> = (0..FREE).map(|_| daemon.tunnel(&other)).collect();
    drop(tunnels);
    good_peers(&daemon, &daemon.api().add_public(60, NEVER));
    assert!(!(daemon.log_text() + &daemon.stderr()).contains("panicked"));
}

fn sessions_that_are_over_hold_no_more_places_than_tunnels(mode: Mode) {
    // So many users at least; the agents' connections are gone.
    const FILES: usize = 8;
    let daemon = Daemon::builder(mode).start();
    let mapping = daemon.api().add_public(2, 200_000);
    let bytes_down = || daemon.control().number(&mapping, "counts.bytesDown");
    let before = daemon.open_files();
    // A fresh tunnel waits for 0.85 s each time, since the rest of the last answer may come on it.
    let unread: Vec<_> = (0..14)
        .map(|number| {
            let mut agent = daemon.tunnel(&mapping);
            let mut user = daemon.user(&mapping);
            sockopt::set_socket_recv_buffer_size(user.socket(), 2048).expect("SO_RCVBUF");
            user.send(b"question");
            agent.expect(b"question");
            agent.send(&[7; 200_000]);
            until("the user has all that it takes", || bytes_down() > 90_000 * (number + 1));
            agent.link.reset();
            user
        })
        .collect();
    // Those that are not cut are kept for 30 s.
    let start = Instant::now();
    while daemon.open_files() > before + FILES + 4 {
        let open = daemon.open_files();
        assert!(start.elapsed() < ms(15_000), "{open} files are open, {before} were before");
        thread::sleep(ms(20));
    }
    drop(unread);
}

/// Whether nobody but idle tunnels is there.
fn is_at_rest(state: serde_json::Value) -> bool {
    let counts = &state["counts"];
    counts["usersWaiting"] == 0 && counts["sessions"] == 0 && counts["pending"] == 0
}

fn reset_somewhere(daemon: &Daemon, mapping: &Mapping, hello: &[u8], random: &mut fastrand::Rng) {
    let point = random.usize(..POINTS);
    let port = [mapping.port1, mapping.port2][point % 2];
    // Before, in and after the handshake.
    let mut link = match (point / 2, hello) {
        (0 | 1, _) | (_, []) => Link::plain(at(port)).expect("connect"),
        _ => match daemon.try_link(port) {
            Ok(link) => link,
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::TimedOut, "neither answered nor closed");
                return;
            }
        },
    };
    let passcode = mapping.passcode1.as_bytes();
    let bytes = noise(random.u64(..), 1 + random.usize(..2000));
    // The connector may have closed it already.
    let _ = match (point / 2, point % 2) {
        (0, _) => Ok(()),
        (1, _) if !hello.is_empty() => link.try_send(&hello[..random.usize(..hello.len())]),
        (1 | 2, 0) => link.try_send(&passcode[..random.usize(..passcode.len())]),
        (3, 0) => link.try_send(&bytes),
        (4, 0) => link.try_send(passcode),
        (5, 0) => link.try_send(passcode).map(|()| drop(link.record_by(Instant::now() + ms(50)))),
        (5, _) => link.try_send(&bytes).map(|()| drop(link.record_by(Instant::now() + ms(50)))),
        _ => link.try_send(&bytes),
    };
    link.reset();
}

// Handshakes

#[test]
fn handshakes_without_end_hold_up_nobody() {
    raise_files();
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    let mover = Mover::start(&daemon, &mapping);
    good_peers(&daemon, &mapping);
    let base = Base::of(&daemon);
    let until = Instant::now() + period(3000, 30_000);
    let ticks = [daemon.control_ticks(), daemon.ticks()];
    let done = thread::scope(|scope| {
        let flood: Vec<_> = (0..6)
            .map(|number| {
                let (daemon, port) = (&daemon, [mapping.port1, mapping.port2][number % 2]);
                scope.spawn(move || {
                    // Some are left open, as far as this end is concerned.
                    let (mut done, mut kept) = (0, Vec::new());
                    while Instant::now() < until {
                        if let Ok(link) = daemon.try_link(port) {
                            done += 1;
                            kept.push(link);
                        }
                        if kept.len() >= 100 {
                            kept.clear();
                        }
                    }
                    done
                })
            })
            .collect();
        let mut worst = Duration::ZERO;
        while Instant::now() < until {
            worst = worst.max(good_peers(&daemon, &mapping));
            thread::sleep(ms(100));
        }
        assert!(worst < SOON, "a good peer waited {worst:?}");
        figure(Mode::Tls, "longest wait of a good peer", worst);
        flood.into_iter().map(|one| one.join().unwrap()).sum::<usize>()
    });
    figure(Mode::Tls, "handshakes of the flood", done);
    let control = daemon.control_ticks() - ticks[0];
    let all = daemon.ticks() - ticks[1];
    figure(Mode::Tls, "ticks of the control thread, and of all", (control, all));
    // What shaking hands costs is the workers' business.
    assert!(3 * control < 2 * all, "the control thread used {control} of {all} ticks");
    let (_, longest) = mover.stop();
    figure(Mode::Tls, "longest round of a session", longest);
    assert!(longest < SOON, "a session stood still for {longest:?}");
    base.expect_again(&daemon, REMAINS);
}

#[test]
fn greetings_without_end_to_a_hard_certificate_hold_up_no_session_and_nobody_for_long() {
    let Some([certificate, key]) = rsa_pair() else {
        return not_installed("openssl");
    };
    raise_files();
    let daemon = Daemon::builder(Mode::Tls)
        .set("threads", 1)
        .file("server-cert.pem", certificate)
        .file("server-key.pem", key)
        .start();
    let [mapping, target] = [(); 2].map(|()| daemon.api().add_public(60, NEVER));
    let mover = Mover::start(&daemon, &mapping);
    let hello = client_hello(&daemon);
    for address in [at(target.port1), at(target.port2), daemon.api_address()] {
        let flooding = AtomicBool::new(true);
        let worst = thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut kept = std::collections::VecDeque::new();
                    while flooding.load(Ordering::Relaxed) {
                        let Ok(mut socket) = std::net::TcpStream::connect(address) else {
                            continue;
                        };
                        let _ = socket.write(&hello);
                        kept.push_back(socket);
                        if kept.len() > 200 {
                            kept.pop_front();
                        }
                    }
                });
            }
            thread::sleep(ms(300));
            let worst = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                good_peers(&daemon, &mapping)
            }));
            flooding.store(false, Ordering::Relaxed);
            worst
        });
        let worst = worst.expect("good peers are served");
        figure(Mode::Tls, "longest wait of a good peer", worst);
        assert!(worst < SOON, "a good peer waited {worst:?}");
    }
    let (_, longest) = mover.stop();
    figure(Mode::Tls, "longest round of a session", longest);
    assert!(longest < SOON / 4, "a session stood still for {longest:?}");
}

#[test]
fn handshakes_that_stall_hold_up_no_user() {
    raise_files();
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    good_peers(&daemon, &mapping);
    let base = Base::of(&daemon);
    let hello = client_hello(&daemon);
    let mut stalling = stalled_and_served_soon(&daemon, &mapping, || {
        let mut stalling = stalled(at(mapping.port2), 1000, &hello);
        stalling.extend(stalled(daemon.api_address(), 1000, &hello));
        stalling
    });
    until("all stalled connections are closed", || open(&mut stalling) == 0);
    base.expect_again(&daemon, REMAINS);
}

#[test]
fn greetings_that_come_byte_after_byte_hold_up_nobody_for_long() {
    raise_files();
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    good_peers(&daemon, &mapping);
    let hello = client_hello(&daemon);
    for port in [mapping.port1, mapping.port2] {
        let mut trickling = stalled(at(port), 2000, &hello[..1]);
        let is_on = AtomicBool::new(true);
        let worst = thread::scope(|scope| {
            scope.spawn(|| {
                for byte in &hello[1..hello.len() - 1] {
                    if !is_on.load(Ordering::Relaxed) {
                        break;
                    }
                    for link in &trickling {
                        // One that has been closed is as good.
                        let _ = link.socket().write(&[*byte]);
                    }
                    thread::sleep(ms(100));
                }
            });
            let peers = std::panic::AssertUnwindSafe(|| good_peers(&daemon, &mapping));
            let worst = std::panic::catch_unwind(peers);
            is_on.store(false, Ordering::Relaxed);
            worst
        });
        let worst = worst.expect("good peers are served");
        figure(Mode::Tls, "longest wait of a good peer", worst);
        assert!(worst < SOON, "a good peer waited {worst:?}");
        until("all are closed", || open(&mut trickling) == 0);
    }
}

#[test]
fn greetings_that_are_never_whole_hold_little_all_together() {
    raise_files();
    const MAPPINGS: usize = 8;
    const EACH: usize = 128;
    let daemon = Daemon::builder(Mode::Tls).ports(40).start();
    let mappings: Vec<_> = (0..MAPPINGS).map(|_| daemon.api().add_public(60, NEVER)).collect();
    let good = daemon.api().add_public(60, NEVER);
    good_peers(&daemon, &good);
    // A greeting of 64 KiB but for a few bytes, in records of 16,000.
    let message = [&[1, 0, 0xff, 0xf0, 3, 3][..], &[0; 61_000]].concat();
    let mut greeting = Vec::new();
    for record in message.chunks(16_000) {
        greeting.extend([22, 3, 1]);
        greeting.extend((record.len() as u16).to_be_bytes());
        greeting.extend(record);
    }
    let base = daemon.resident();
    // All of it is more than a client may send; its beginning is not, and is held until there is no
    // more room for such.
    let sent = [&greeting[..15_000], &greeting];
    let ports = mappings.iter().flat_map(|mapping| [mapping.port1, mapping.port2]);
    let mut strangers: Vec<_> = ports
        .zip(sent.iter().cycle())
        .flat_map(|(port, sent)| stalled(at(port), EACH, sent))
        .collect();
    let count = strangers.len() as u64;
    let took = good_peers(&daemon, &good);
    assert!(took < SOON, "a good peer waited {took:?}");
    let why = "what it sent was long and unfinished, and others had all the memory for such";
    let is_told = |mapping: &Mapping| {
        daemon.control().state_of(mapping).is_some_and(|state| state.to_string().contains(why))
    };
    until("some are refused for it", || mappings.iter().any(is_told));
    until("all are closed", || open(&mut strangers) == 0);
    // What rustls and a task have, what is always held, and what all share, in KiB.
    let bound = count * 12 + 4 * 1024;
    let grown = daemon.peak().saturating_sub(base);
    figure(Mode::Tls, "strangers, and KiB for them at most", (count, grown));
    assert!(grown < bound, "{grown} KiB for {count} strangers");
}

#[test]
fn greetings_that_stall_take_no_place_from_who_asks_the_api() {
    raise_files();
    let daemon = Daemon::new(Mode::Tls);
    let mut stalling = stalled(daemon.api_address(), 400, &client_hello(&daemon));
    assert_eq!(daemon.api().state()["limitsReached"], serde_json::json!([]));
    assert!(open(&mut stalling) > 0);
}

// Wrong passcodes

fn sixty_agents_with_a_wrong_passcode_are_held(mode: Mode) {
    raise_files();
    const AGENTS: usize = 60;
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let mover = Mover::start(&daemon, &mapping);
    let base = Base::of(&daemon);
    let service = Service::echo();
    let options = FieldOptions {
        tunnels: AGENTS,
        beat: Duration::from_secs(20),
        backoff: ms(50),
        service: service.address,
    };
    let time = period(7000, 60_000);
    let (start, ticks) = (Instant::now(), daemon.ticks());
    let wrong = "0".repeat(mapping.passcode1.len());
    let agents = FieldAgent::with(&daemon, mapping.port1, &wrong, options);
    while start.elapsed() < time {
        let took = good_peers(&daemon, &mapping);
        assert!(took < SOON, "a good peer waited {took:?}");
        thread::sleep(ms(500));
    }
    let took = start.elapsed().as_secs_f64();
    let (refused, ticks) = (agents.refused(), daemon.ticks() - ticks);
    figure(mode, "refusals, a second", (refused, refused as f64 / took));
    figure(mode, "percent of a processor, good peers' included", ticks as f64 / took);
    assert_eq!(agents.accepted(), 0);
    // Three at once, then each agent once in three seconds; the first of them is just beginning.
    let most = 3 + AGENTS * (1 + (took / 3.0) as usize);
    assert!(refused <= most, "{refused} refusals in {took} s are more than {most}");
    assert!(refused >= AGENTS, "{refused} refusals: the agents did not try");
    drop(agents);
    let (_, longest) = mover.stop();
    assert!(longest < SOON, "a session stood still for {longest:?}");
    base.expect_again(&daemon, REMAINS);
}

// Users

fn users_faster_than_tunnels_are_served_or_closed(mode: Mode) {
    raise_files();
    const PENDING: u64 = 50;
    let daemon = Daemon::builder(mode).set("userwait", 1500).set("pending", PENDING).start();
    let mapping = daemon.api().add_public(60, NEVER);
    // It closes after its answer, and so do the tunnel and the session.
    let service = Service::new(|mut socket| {
        let mut question = [0; 64];
        if let Ok(count @ 1..) = socket.read(&mut question) {
            thread::sleep(ms(20));
            let _ = socket.write_all(&question[..count]);
        }
    });
    let agent = FieldAgent::start(&daemon, &mapping, 3, service.address);
    agent.wait_authorized();
    let base = Base::of(&daemon);
    let until_then = Instant::now() + period(4000, 30_000);
    let (served, closed, slowest) = thread::scope(|scope| {
        let users: Vec<_> = (0..100)
            .map(|number| {
                let (daemon, mapping) = (&daemon, &mapping);
                scope.spawn(move || {
                    let (mut served, mut closed, mut slowest) = (0, 0, Duration::ZERO);
                    while Instant::now() < until_then {
                        let question = format!("question of user {number:03}");
                        let (got, took) = timed(|| {
                            // In TLS one may be closed in its handshake.
                            let mut user = daemon.try_link(mapping.port2).ok()?;
                            user.try_send(question.as_bytes()).ok()?;
                            let got = user.record();
                            assert!(got != Got::Late, "neither served nor closed");
                            if let Got::Bytes(bytes) = got {
                                assert_same(&bytes, question.as_bytes(), "its own question");
                                user.rest();
                                return Some(());
                            }
                            None
                        });
                        slowest = slowest.max(took);
                        served += usize::from(got.is_some());
                        closed += usize::from(got.is_none());
                        // A user that was closed does not come back at once.
                        thread::sleep(ms(20));
                    }
                    (served, closed, slowest)
                })
            })
            .collect();
        while Instant::now() < until_then {
            let waiting = daemon.control().users_waiting(&mapping);
            assert!(waiting <= PENDING, "{waiting} users wait");
            thread::sleep(ms(50));
        }
        users
            .into_iter()
            .map(|one| one.join().unwrap())
            .fold((0, 0, Duration::ZERO), |(served, closed, slowest), one| {
                (served + one.0, closed + one.1, slowest.max(one.2))
            })
    });
    figure(mode, "users served, closed, longest time of one", (served, closed, slowest));
    assert!(served > 0, "nobody was served");
    until("nobody is left", || daemon.control().state_of(&mapping).is_some_and(is_at_rest));
    until("the agent has all its tunnels", || daemon.control().idle(&mapping) == 3);
    base.expect_again(&daemon, REMAINS);
    agent.expect_no_strays();
}

// Mass return

/// One tunnel on its way back, or there.
struct Returning {
    link: Option<Link>,
    back: bool,
}

impl Returning {
    /// Dials, as the field's agents do when their tunnel was closed.
    fn dial(&mut self, daemon: &Daemon, mapping: &Mapping) {
        let mut link = Link::plain(at(mapping.port1)).expect("the kernel accepts");
        if daemon.mode == Mode::Tls {
            link.begin_tls(&daemon.trust());
        }
        // In TLS it waits for the end of the handshake.
        link.queue(mapping.passcode1.as_bytes()).expect("queue");
        self.link = Some(link);
    }

    /// Takes what there is to take; false if it must dial again.
    fn go_on(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let _ = link.push();
        match link.read_now(64) {
            Some(Got::Bytes(bytes)) => {
                assert_eq!(bytes, b"AUTHORIZED");
                self.back = true;
                true
            }
            Some(_) => false,
            None => link.push().is_ok(),
        }
    }
}

/// Brings all these tunnels to their mappings, with many at it at the same time; gives how long
/// it took.
fn all_return(daemon: &Daemon, mappings: &[Mapping], tunnels: &mut [Returning]) -> Duration {
    const THREADS: usize = 4;
    let start = Instant::now();
    let most = tunnels.len().div_ceil(THREADS);
    thread::scope(|scope| {
        for (share, tunnels) in tunnels.chunks_mut(most).enumerate() {
            scope.spawn(move || {
                let mapping = |number: usize| &mappings[(share * most + number) / 60];
                for (number, tunnel) in tunnels.iter_mut().enumerate() {
                    tunnel.back = false;
                    tunnel.dial(daemon, mapping(number));
                }
                while tunnels.iter().any(|tunnel| !tunnel.back) {
                    let away = tunnels.iter_mut().enumerate().filter(|(_, one)| !one.back);
                    for (number, tunnel) in away {
                        if !tunnel.go_on() {
                            tunnel.dial(daemon, mapping(number));
                        }
                    }
                    assert!(start.elapsed() < 4 * PATIENCE, "not all tunnels came back");
                    thread::sleep(ms(1));
                }
            });
        }
    });
    start.elapsed()
}

fn all_tunnels_return_at_once_after_a_restart(mode: Mode) {
    raise_files();
    let tunnels = size(600, 3000);
    let mut daemon = Daemon::builder(mode).ports(150).start();
    let mappings: Vec<Mapping> =
        (0..tunnels / 60).map(|_| daemon.api().add_public(60, NEVER)).collect();
    let other = daemon.api().add_public(60, NEVER);
    let mut away: Vec<_> = (0..tunnels).map(|_| Returning { link: None, back: false }).collect();
    all_return(&daemon, &mappings, &mut away);
    daemon.restart();
    let mover = Mover::start(&daemon, &other);
    let took = all_return(&daemon, &mappings, &mut away);
    figure(mode, "tunnels, and the time until all are back", (tunnels, took));
    // In TLS the handshakes take as long as they take.
    assert!(mode == Mode::Tls || took < SOON, "the tunnels were back after {took:?}");
    let (_, longest) = mover.stop();
    figure(mode, "longest round of a session meanwhile", longest);
    // Sessions do not stand still until all handshakes are done.
    let most = ms(250).max(took / 2);
    assert!(longest < most, "a session stood still for {longest:?} of {took:?}");
    let idle: u64 = mappings.iter().map(|mapping| daemon.control().idle(mapping)).sum();
    assert_eq!(idle, tunnels as u64);
    // Once what the handshakes have freed is given back.
    thread::sleep(ms(6000));
    let (steady, peak) = (daemon.resident(), daemon.peak());
    figure(mode, "KiB resident, and the most there were", (steady, peak));
    assert!(peak < 2 * steady, "{peak} KiB at most, {steady} KiB in the end");
}
