//! `iofog-connector tunnel` and `mapping`: the agent's side as people use it (protocol page,
//! sections 5 and 7).

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::common::*;
use rustix::process::{Signal, kill_process};

in_both_modes!(
    service_that_speaks_first_is_heard,
    half_close_goes_through_each_way,
    service_that_resets_resets_its_user,
    user_that_resets_resets_the_service,
    user_that_sends_a_byte_and_resets_again_and_again_slows_down_nobody_else,
    user_that_only_looks_in_again_and_again_slows_down_nobody_that_is_served,
    killed_tunnel_is_no_end_for_its_user,
    bytes_are_exact_both_ways_at_once,
    proxy_header_is_handed_on,
    idle_tunnels_beat_and_are_replaced_when_taken,
    fewer_tunnels_allowed_than_wanted_is_no_wrong_passcode,
    tunnels_that_sessions_have_taken_are_replaced_though_more_are_wanted_than_allowed,
    connector_that_returns_is_found_again,
    target_that_is_down_closes_the_user_and_returns,
    wrong_passcode_is_said_once_and_not_hammered,
    new_passcode_in_its_file_is_taken_while_a_user_waits,
    port_for_users_is_said_to_be_the_wrong_one_once,
    everything_may_restart_in_any_order_under_load,
    passcode_is_seen_nowhere,
    sigterm_lets_sessions_finish,
    sigterm_cuts_sessions_after_the_drain,
    private_pipe_joins_target_and_listen,
    private_pipe_joins_listen_and_version_one,
    local_connection_waits_for_the_other_side,
    local_connection_is_not_joined_with_a_user_of_a_public_pipe,
    local_connection_that_is_closed_is_told_what_was_missing,
    options_may_stand_in_a_file,
    files_of_the_command_line_may_be_pipes,
    mapping_prints_commands_that_work,
);

const NEVER: u64 = 200_000;

/// A running `tunnel`; it ends when this is dropped.
pub(super) struct Tunnel {
    program: Running,
}

impl Tunnel {
    /// For one side of a mapping, with a heartbeat of 300 ms.
    #[track_caller]
    pub(super) fn start(daemon: &Daemon, port: u16, passcode: &str, more: &[&str]) -> Self {
        let connector = format!("localhost:{port}");
        let certificate = daemon.config().join("server-cert.pem");
        let mut arguments = vec!["--connector", &connector, "--heartbeat", "300"];
        match daemon.mode {
            Mode::Plain => arguments.push("--plain"),
            Mode::Tls => arguments.extend(["--ca", certificate.to_str().unwrap()]),
        }
        arguments.extend(more);
        let file = secret(daemon, passcode);
        arguments.extend(["--passcode-file", file.to_str().unwrap()]);
        Self::with(daemon, &arguments)
    }

    fn with(daemon: &Daemon, arguments: &[&str]) -> Self {
        let command = binary();
        let mut tunnel = Command::new(&command[0]);
        tunnel.args(&command[1..]).arg("tunnel").args(arguments);
        Tunnel { program: Running::start(&mut tunnel, fresh(daemon)).unwrap() }
    }

    pub(super) fn serve(
        daemon: &Daemon,
        mapping: &Mapping,
        target: SocketAddr,
        more: &[&str],
    ) -> Self {
        let target = target.to_string();
        let more = [&["--target", &target], more].concat();
        Self::start(daemon, mapping.port1, &mapping.passcode1, &more)
    }

    fn log(&self) -> String {
        self.program.log()
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    #[track_caller]
    pub(super) fn wait(&mut self) -> ExitStatus {
        eventually("the tunnel ends", || self.program.child.try_wait().unwrap())
    }
}

/// A name for a file of the test's own.
fn fresh(daemon: &Daemon) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    daemon.folder().join(format!("file-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

fn secret(daemon: &Daemon, text: &str) -> PathBuf {
    let path = fresh(daemon);
    fs::write(&path, format!("{text}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

fn public(mode: Mode, connections: u32) -> (Daemon, Mapping) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(connections, NEVER);
    (daemon, mapping)
}

#[track_caller]
fn until_idle(daemon: &Daemon, mapping: &Mapping, count: u64) {
    until("tunnels are idle", || daemon.api().idle(mapping) == count);
}

/// Says hello first, then sends back what comes.
fn greeter() -> Service {
    Service::new(|mut socket| {
        let _ = socket.write_all(b"220 hello\n");
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = socket.read(&mut buffer) {
            if socket.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    })
}

fn service_that_speaks_first_is_heard(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let service = greeter();
    let _tunnel = Tunnel::serve(&daemon, &mapping, service.address, &[]);
    for _ in 0..20 {
        let mut user = daemon.user(&mapping);
        user.expect(b"220 hello\n");
        user.send(b"BEAT");
        user.expect(b"BEAT");
    }
}

fn half_close_goes_through_each_way(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let counts = Service::new(|mut socket| {
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all);
        // After a while, to show that nothing cuts the other direction.
        thread::sleep(ms(1500));
        let _ = socket.write_all(format!("{} bytes", all.len()).as_bytes());
    });
    let tunnel = Tunnel::serve(&daemon, &mapping, counts.address, &[]);
    let mut user = daemon.user(&mapping);
    user.send(&noise(1, 300_000));
    user.finish();
    assert_eq!(user.until_end(), b"300000 bytes");
    drop(tunnel);

    let (report, heard) = std::sync::mpsc::channel();
    let ends_first = Service::new(move |mut socket| {
        let _ = socket.write_all(b"goodbye");
        let _ = socket.shutdown(Shutdown::Write);
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all);
        let _ = report.send(all.len());
    });
    let _tunnel = Tunnel::serve(&daemon, &mapping, ends_first.address, &[]);
    let mut user = daemon.user(&mapping);
    assert_eq!(user.until_end(), b"goodbye");
    thread::sleep(ms(1500));
    user.send(&noise(2, 300_000));
    user.finish();
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(300_000));
}

/// A service whose connections the test has in hand.
struct Bare(TcpListener);

impl Bare {
    fn new() -> Self {
        Bare(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    #[track_caller]
    fn accept(&self) -> TcpStream {
        let (socket, _) = self.0.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

fn service_that_resets_resets_its_user(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let service = Bare::new();
    let _tunnel = Tunnel::serve(&daemon, &mapping, service.address(), &[]);
    let answer = noise(5, 100_000);
    let mut user = daemon.user(&mapping);
    let mut there = service.accept();
    there.write_all(&answer).unwrap();
    until("all is read", || daemon.control().bytes_down(&mapping) == answer.len() as u64);
    rustix::net::sockopt::set_socket_linger(&there, Some(ms(0))).unwrap();
    drop(there);
    let (got, end) = user.rest();
    assert_same(&got, &answer, "the answer's beginning");
    assert_eq!(end, Got::Reset);
}

fn user_that_resets_resets_the_service(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let service = Bare::new();
    let _tunnel = Tunnel::serve(&daemon, &mapping, service.address(), &[]);
    let upload = noise(6, 100_000);
    let mut user = daemon.user(&mapping);
    let mut there = service.accept();
    user.send(&upload);
    let mut got = vec![0; upload.len()];
    there.read_exact(&mut got).unwrap();
    assert_same(&got, &upload, "the upload's beginning");
    user.reset();
    let end = there.read(&mut got).map_err(|error| error.kind());
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
}

/// Answers what begins with an `a`, and reads all else; tells how many bytes came.
fn picky() -> (Service, Arc<AtomicU32>) {
    let bytes = Arc::new(AtomicU32::new(0));
    let count = bytes.clone();
    let service = Service::new(move |mut socket| {
        let mut buffer = [0; 100];
        while let Ok(read @ 1..) = socket.read(&mut buffer) {
            count.fetch_add(read as u32, Ordering::SeqCst);
            if buffer[0] == b'a' && socket.write_all(&buffer[..read]).is_err() {
                return;
            }
        }
    });
    (service, bytes)
}

/// So many sessions that are of no use would have tunnels opened more slowly, if they counted.
const HOSTILE: u32 = 100;

fn user_that_sends_a_byte_and_resets_again_and_again_slows_down_nobody_else(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let (service, bytes) = picky();
    let tunnel = Tunnel::serve(&daemon, &mapping, service.address, &[]);
    until_idle(&daemon, &mapping, 8);
    for number in 0..HOSTILE {
        let mut user = daemon.user(&mapping);
        user.send(b"x");
        until("the byte is there", || bytes.load(Ordering::SeqCst) == number + 1);
        user.reset();
    }
    for _ in 0..30 {
        assert_eq!(daemon.user(&mapping).exchange(b"ask", 3), b"ask");
    }
    assert!(!tunnel.log().contains("more slowly"), "{}", tunnel.log());
}

fn user_that_only_looks_in_again_and_again_slows_down_nobody_that_is_served(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let (service, _) = picky();
    let tunnel = Tunnel::serve(&daemon, &mapping, service.address, &[]);
    until_idle(&daemon, &mapping, 8);
    let mut good = daemon.user(&mapping);
    for _ in 0..HOSTILE {
        assert_eq!(good.exchange(b"ask", 3), b"ask");
        let before = service.connections();
        let user = daemon.user(&mapping);
        until("its session is on", || service.connections() > before);
        user.reset();
    }
    for _ in 0..30 {
        assert_eq!(daemon.user(&mapping).exchange(b"ask", 3), b"ask");
    }
    assert!(!tunnel.log().contains("more slowly"), "{}", tunnel.log());
}

fn killed_tunnel_is_no_end_for_its_user(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let service = Bare::new();
    let tunnel = Tunnel::serve(&daemon, &mapping, service.address(), &[]);
    let answer = noise(7, 100_000);
    let mut user = daemon.user(&mapping);
    let mut there = service.accept();
    there.write_all(&answer).unwrap();
    user.expect(&answer);
    drop(tunnel);
    assert_eq!(user.rest(), (Vec::new(), Got::Reset));
    let end = there.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
}

fn bytes_are_exact_both_ways_at_once(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let service = Service::echo();
    let _tunnel = Tunnel::serve(&daemon, &mapping, service.address, &[]);
    until_idle(&daemon, &mapping, 8);
    for size in [0, 1, 65_535, 65_536, 65_537, 8 << 20] {
        let mut user = daemon.user(&mapping);
        let bytes = noise(size as u64, size);
        assert_same(&user.exchange(&bytes, size), &bytes, "echo");
        user.finish();
        assert!(user.until_end().is_empty());
    }
}

fn proxy_header_is_handed_on(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let service = Service::echo();
    let _tunnel = Tunnel::serve(&daemon, &mapping, service.address, &["--proxy-protocol"]);
    let mut user = daemon.user(&mapping);
    // The service sends the header back.
    let header = user.exactly(28);
    assert_eq!(header[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    assert_eq!(header[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
    assert_eq!(header[24..26], user.local().port().to_be_bytes());
    assert_eq!(header[26..], mapping.port2.to_be_bytes());
    user.send(b"and data");
    user.expect(b"and data");
}

fn idle_tunnels_beat_and_are_replaced_when_taken(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, 3000);
    let service = greeter();
    let tunnel = Tunnel::serve(&daemon, &mapping, service.address, &["--connections", "3"]);
    until_idle(&daemon, &mapping, 3);
    let users: Vec<Link> = (0..10)
        .map(|_| {
            let mut user = daemon.user(&mapping);
            user.expect(b"220 hello\n");
            user
        })
        .collect();
    until_idle(&daemon, &mapping, 3);
    assert_eq!(daemon.api().in_use(&mapping), 10);
    drop(users);
    until("sessions end", || daemon.api().in_use(&mapping) == 0);
    // Longer than the threshold: without heartbeats the tunnels would be gone.
    thread::sleep(ms(4000));
    until_idle(&daemon, &mapping, 3);
    assert_eq!(daemon.api().number(&mapping, "counts.tunnelsAbsent"), 0);
    assert_eq!(tunnel.log().matches("connected to").count(), 1, "{}", tunnel.log());
}

fn fewer_tunnels_allowed_than_wanted_is_no_wrong_passcode(mode: Mode) {
    let (daemon, mapping) = public(mode, 2);
    let service = greeter();
    let tunnel = Tunnel::serve(&daemon, &mapping, service.address, &[]);
    for _ in 0..6 {
        let mut user = daemon.user(&mapping);
        user.expect(b"220 hello\n");
        user.finish();
        assert!(user.until_end().is_empty());
    }
    until_idle(&daemon, &mapping, 2);
    let log = tunnel.log();
    assert!(!log.contains("passcode"), "{log}");
    let said = "has places for 2 tunnels of this agent, those in use included (others may hold the \
                rest): fewer than --connections 8";
    eventually("it is said", || tunnel.log().contains(said).then_some(()));
    assert_eq!(tunnel.log().matches("has places for").count(), 1, "{}", tunnel.log());
}

fn tunnels_that_sessions_have_taken_are_replaced_though_more_are_wanted_than_allowed(mode: Mode) {
    let (daemon, mapping) = public(mode, 3);
    let service = greeter();
    let tunnel = Tunnel::serve(&daemon, &mapping, service.address, &[]);
    until_idle(&daemon, &mapping, 3);
    until("more were refused", || daemon.api().number(&mapping, "counts.agentsRefused") >= 5);
    let began = Instant::now();
    for _ in 0..3 {
        for _ in 0..5 {
            let mut user = daemon.user(&mapping);
            user.expect(b"220 hello\n");
            user.finish();
            assert!(user.until_end().is_empty());
        }
        // All at one time, and gone at one time.
        let mut users: Vec<_> = (0..3).map(|_| daemon.user(&mapping)).collect();
        users.iter_mut().for_each(|user| {
            user.expect(b"220 hello\n");
        });
        drop(users);
        until_idle(&daemon, &mapping, 3);
    }
    // One probe for more than are allowed comes each 30 s: nothing has waited for that.
    let took = began.elapsed();
    assert!(took < ms(25_000), "{took:?}");
    assert!(!tunnel.log().contains("passcode"), "{}", tunnel.log());
}

fn connector_that_returns_is_found_again(mode: Mode) {
    let (mut daemon, mapping) = public(mode, 60);
    let service = greeter();
    let tunnel = Tunnel::serve(&daemon, &mapping, service.address, &[]);
    for _ in 0..3 {
        until_idle(&daemon, &mapping, 8);
        daemon.kill();
        let gone = Instant::now();
        // Long enough for a try or two to fail.
        thread::sleep(ms(500));
        daemon.start();
        let back = Instant::now();
        let mut user = daemon.user(&mapping);
        user.expect(b"220 hello\n");
        // Each pause between tries is twice the one before: a connector is found again before it has been back
        // for longer than it was away, and what a loaded machine needs.
        let (away, since) = (back - gone, back.elapsed());
        assert!(since < 2 * away + ms(10_000), "back for {since:?} after {away:?}");
        // A session with bytes from a user makes the next pauses short again.
        user.exchange(b"quit", 4);
    }
    let log = tunnel.log();
    assert!(log.matches("connected to").count() <= 4, "one line a change of state: {log}");
}

fn target_that_is_down_closes_the_user_and_returns(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let target = at(daemon.block.first + daemon.block.len - 1);
    let tunnel = Tunnel::serve(&daemon, &mapping, target, &[]);
    until_idle(&daemon, &mapping, 8);
    for _ in 0..3 {
        let start = Instant::now();
        daemon.user_is_closed(&mapping);
        assert!(start.elapsed() < ms(5000), "{:?}", start.elapsed());
    }
    let listener = TcpListener::bind(target).unwrap();
    let mut user = daemon.user(&mapping);
    listener.accept().unwrap().0.write_all(b"back").unwrap();
    user.expect(b"back");
    let log = tunnel.log();
    assert_eq!(log.matches("cannot be reached").count(), 1, "{log}");
    assert_eq!(log.matches("can be reached again").count(), 1, "{log}");
}

fn wrong_passcode_is_said_once_and_not_hammered(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let target = Service::echo().address.to_string();
    let more = ["--target", &target];
    let tunnel = Tunnel::start(&daemon, mapping.port1, "wrong-secret", &more);
    until("it is said", || tunnel.log().contains("does not accept the passcode"));
    thread::sleep(ms(3000));
    let refused = daemon.api().number(&mapping, "counts.agentsRefused");
    // In plain TCP the first try is by both versions.
    assert!(refused <= if mode == Mode::Plain { 3 } else { 2 }, "{refused} tries");
    let log = tunnel.log();
    assert_eq!(log.lines().filter(|line| line.starts_with("ERROR")).count(), 1, "{log}");
    assert!(!log.contains("wrong-secret"), "{log}");
}

fn new_passcode_in_its_file_is_taken_while_a_user_waits(mode: Mode) {
    let daemon = Daemon::new(mode);
    let dir = daemon.folder().join("files");
    fs::create_dir(&dir).unwrap();
    let mapping = |words: &[&str]| {
        let output = daemon.cli(&[&["mapping"], words, &["--dir", dir.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{}", text(&output));
    };
    mapping(&["add", "public", "--name", "web"]);
    let row = daemon.state_file()["mappings"][0].clone();
    let service = greeter();
    let (file, target) = (dir.join("web.tunnel"), service.address.to_string());
    let arguments = ["--from", file.to_str().unwrap(), "--target", &target];
    let tunnel = Tunnel::with(&daemon, &arguments);
    let port = row["port2"].as_u64().unwrap() as u16;
    daemon.link(port).expect(b"220 hello\n");
    // Also beside a session that goes on with the old one.
    let mut stays = daemon.link(port);
    stays.expect(b"220 hello\n");
    for _ in 0..2 {
        mapping(&["passcode", "web"]);
        daemon.link(port).expect(b"220 hello\n");
    }
    stays.send(b"more");
    stays.expect(b"more");
    assert!(!tunnel.log().contains("no longer accepts"), "{}", tunnel.log());
}

fn port_for_users_is_said_to_be_the_wrong_one_once(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    // What is said to users of this mapping is its service's.
    let service = greeter();
    let _serving = Tunnel::serve(&daemon, &mapping, service.address, &[]);
    let target = service.address.to_string();
    let more = ["--target", &target];
    let tunnel = Tunnel::start(&daemon, mapping.port2, &mapping.passcode1, &more);
    let sentence = match mode {
        Mode::Plain => "and not the users' (port2)?",
        Mode::Tls => "that is a port for users (port2), or no ioFog Connector",
    };
    until("it is said", || tunnel.log().contains(sentence));
    until("it is tried again", || service.connections() > 3);
    let log = tunnel.log();
    assert_eq!(log.matches("port2").count(), 1, "{log}");
}

/// A service on a fixed port that can be killed and started.
struct Target {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Target {
    fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut sockets: Vec<TcpStream> = Vec::new();
            for socket in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (mut reader, mut writer) = (socket.try_clone().unwrap(), socket);
                sockets.push(reader.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut reader, &mut writer));
            }
            for socket in sockets {
                let _ = socket.shutdown(Shutdown::Both);
            }
        });
        Target { address, stop, thread: Some(thread) }
    }

    fn kill(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// One user's session: whether all its bytes came back. Nobody else's ever do.
fn whole_session(daemon: &Daemon, mapping: &Mapping, seed: u64) -> bool {
    let Ok(mut user) = daemon.try_link(mapping.port2) else { return false };
    let bytes = noise(seed, 50_000);
    if user.try_send(&bytes).is_err() {
        return false;
    }
    let mut all = Vec::new();
    while let Got::Bytes(more) = user.record() {
        all.extend(more);
        assert!(bytes.starts_with(&all), "bytes of another session");
        if all.len() == bytes.len() {
            return true;
        }
    }
    false
}

fn everything_may_restart_in_any_order_under_load(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 500).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let address = at(daemon.block.first + daemon.block.len - 1);
    let daemon = RwLock::new(daemon);
    let mut tunnel = Tunnel::serve(&daemon.read().unwrap(), &mapping, address, &[]);
    let mut target = Target::start(address);
    let over = AtomicBool::new(false);
    let seeds = AtomicU32::new(0);
    let session = || {
        let seed = seeds.fetch_add(1, Ordering::Relaxed);
        whole_session(&daemon.read().unwrap(), &mapping, seed.into())
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    session();
                }
            });
        }
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            until("a session is whole", session);
            let pid = daemon.read().unwrap().pid();
            kill_process(pid, Signal::KILL).unwrap();
            let _ = tunnel.program.child.kill();
            target.kill();
            daemon.write().unwrap().kill();
            for part in order {
                thread::sleep(ms(200));
                match part {
                    0 => daemon.write().unwrap().start(),
                    1 => {
                        let daemon = daemon.read().unwrap();
                        tunnel = Tunnel::serve(&daemon, &mapping, address, &[]);
                    }
                    _ => target = Target::start(address),
                }
            }
            let back = Instant::now();
            until("a session is whole again", session);
            assert!(back.elapsed() < ms(15_000), "{order:?}: {:?}", back.elapsed());
        }
        over.store(true, Ordering::Relaxed);
    });
}

fn passcode_is_seen_nowhere(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let service = greeter();
    let tunnel = Tunnel::serve(&daemon, &mapping, service.address, &[]);
    daemon.user(&mapping).expect(b"220 hello\n");
    let arguments = fs::read(format!("/proc/{}/cmdline", tunnel.program.child.id())).unwrap();
    for text in [String::from_utf8(arguments).unwrap(), tunnel.log(), daemon.log_text()] {
        assert!(!text.contains(&mapping.passcode1), "{text}");
    }
    let output = run_cli(&["tunnel", "--passcode", &mapping.passcode1]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!String::from_utf8(output.stderr).unwrap().contains(&mapping.passcode1));
}

fn sigterm_lets_sessions_finish(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let service = greeter();
    let mut tunnel = Tunnel::serve(&daemon, &mapping, service.address, &["--drain", "30000"]);
    let mut user = daemon.user(&mapping);
    user.expect(b"220 hello\n");
    tunnel.signal(Signal::TERM);
    until("idle tunnels are closed", || daemon.api().idle(&mapping) == 0);
    let bytes = noise(4, 1 << 20);
    assert_same(&user.exchange(&bytes, bytes.len()), &bytes, "echo");
    assert!(tunnel.program.child.try_wait().unwrap().is_none());
    user.finish();
    assert!(user.until_end().is_empty());
    assert_eq!(tunnel.wait().code(), Some(0));
}

fn sigterm_cuts_sessions_after_the_drain(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let service = greeter();
    let mut tunnel = Tunnel::serve(&daemon, &mapping, service.address, &["--drain", "300"]);
    let mut user = daemon.user(&mapping);
    user.expect(b"220 hello\n");
    tunnel.signal(Signal::INT);
    user.rest();
    assert_eq!(tunnel.wait().code(), Some(0));
}

fn private_pipe_joins_target_and_listen(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(20, NEVER);
    let service = greeter();
    let local = at(daemon.block.first + daemon.block.len - 1);
    let listen = local.to_string();
    let _serving = Tunnel::serve(&daemon, &mapping, service.address, &["--connections", "2"]);
    let more = ["--listen", &listen];
    let listening = Tunnel::start(&daemon, mapping.port2, &mapping.passcode2, &more);
    until_idle(&daemon, &mapping, 2);
    // Nothing is promised before it was tried.
    let untried = "where certificate and passcode are checked at the first local";
    eventually("it says so", || listening.log().contains(untried).then_some(()));
    assert!(!listening.log().contains("connected"), "{}", listening.log());
    for size in [1, 100_000, 8 << 20] {
        let mut user = eventually("the local port is open", || Link::plain(local).ok());
        user.expect(b"220 hello\n");
        let bytes = noise(5, size);
        assert_same(&user.exchange(&bytes, size), &bytes, "echo");
        user.finish();
        assert!(user.until_end().is_empty());
    }
    assert_eq!(service.connections(), 3);
}

fn private_pipe_joins_listen_and_version_one(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(20, NEVER);
    let mut one = daemon.tunnel(&mapping);
    let local = at(daemon.block.first + daemon.block.len - 1);
    let listen = local.to_string();
    let more = ["--listen", &listen];
    let _listening = Tunnel::start(&daemon, mapping.port2, &mapping.passcode2, &more);
    let mut user = eventually("the local port is open", || Link::plain(local).ok());
    user.send(b"question");
    one.expect(b"question");
    one.beat_and_answer();
    one.send(b"answer");
    user.expect(b"answer");
    one.finish();
    assert!(user.until_end().is_empty());
}

fn local_connection_waits_for_the_other_side(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(20, NEVER);
    let service = greeter();
    let local = at(daemon.block.first + daemon.block.len - 1);
    let listen = local.to_string();
    let more = ["--listen", &listen];
    let _listening = Tunnel::start(&daemon, mapping.port2, &mapping.passcode2, &more);
    let mut user = eventually("the local port is open", || Link::plain(local).ok());
    user.send(b"already here");
    user.expect_silence(ms(1000));
    let _serving = Tunnel::serve(&daemon, &mapping, service.address, &[]);
    user.expect(b"220 hello\nalready here");
}

fn local_connection_is_not_joined_with_a_user_of_a_public_pipe(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let local = at(daemon.block.first + daemon.block.len - 1);
    let more = ["--listen", &local.to_string()];
    let listening = Tunnel::start(&daemon, mapping.port1, &mapping.passcode1, &more);
    let mut here = eventually("the local port is open", || Link::plain(local).ok());
    here.send(b"a client's");
    let mut user = daemon.user(&mapping);
    user.send(b"another client's");
    here.expect_closed();
    user.expect_closed();
    let said = format!("port {} is a public pipe's, and --listen needs a private", mapping.port1);
    assert!(listening.log().contains(&said), "{}", listening.log());
}

fn local_connection_that_is_closed_is_told_what_was_missing(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(20, NEVER);
    let last = daemon.block.first + daemon.block.len - 1;
    let waits = |port, local, missing| {
        let local = at(local);
        let more = ["--listen", &local.to_string()];
        let listening = Tunnel::start(&daemon, port, &mapping.passcode1, &more);
        let link = eventually("the local port is open", || Link::plain(local).ok());
        (listening, link, missing)
    };
    let other =
        "the pipe's other side is not there; start `tunnel` with --target on the mapping's other";
    let alone = waits(mapping.port1, last, other);
    let nobody = waits(last - 2, last - 1, "connector localhost:");
    for (listening, mut link, missing) in [alone, nobody] {
        assert!(link.until_end().is_empty());
        let said = format!("a local connection is closed after 15 s: {missing}");
        eventually("it is said", || listening.log().contains(&said).then_some(()));
    }
}

fn options_may_stand_in_a_file(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let service = greeter();
    let trust = match mode {
        Mode::Plain => "plain".to_owned(),
        Mode::Tls => format!("ca={}", daemon.config().join("server-cert.pem").display()),
    };
    let text = format!(
        "# the greeter\nconnector=127.0.0.1:{}\npasscode={}\n{trust}\ntarget={}",
        mapping.port1, mapping.passcode1, service.address
    );
    let file = secret(&daemon, &text);
    let _tunnel = Tunnel::with(&daemon, &["--from", file.to_str().unwrap()]);
    daemon.user(&mapping).expect(b"220 hello\n");
    let faulty = secret(&daemon, "conector=x:1");
    let output = run_cli(&["tunnel", "--from", faulty.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("line 1") && stderr.contains("did you mean connector?"), "{stderr}");
}

/// As a shell has it with `--passcode-file <(command)`: a pipe that it has open, under a name that
/// a later reading would find empty.
fn files_of_the_command_line_may_be_pipes(mode: Mode) {
    let (daemon, mapping) = public(mode, 60);
    let service = greeter();
    let trust = match mode {
        Mode::Plain => "--plain".into(),
        Mode::Tls => format!("--ca <(cat {}/server-cert.pem)", daemon.config().display()),
    };
    let binary = binary().join(" ".as_ref()).into_string().unwrap();
    let (port, target, passcode) = (mapping.port1, service.address, &mapping.passcode1);
    let command = format!("{binary} tunnel --connector localhost:{port} --target {target} {trust}");
    for line in [
        format!("{command} --passcode-file <(sleep 0.2; echo {passcode})"),
        format!("echo {passcode} | {command} --passcode-file /dev/stdin"),
        format!("{command} --from <(echo passcode={passcode})"),
    ] {
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("trap 'kill $!; wait $!' TERM; {line} & wait $!")]);
        let Ok(program) = Running::start(&mut shell, fresh(&daemon)) else {
            return not_installed("bash");
        };
        let mut tunnel = Tunnel { program };
        daemon.user(&mapping).expect(b"220 hello\n");
        tunnel.signal(Signal::TERM);
        tunnel.wait();
        until_idle(&daemon, &mapping, 0);
    }
}

fn mapping_prints_commands_that_work(mode: Mode) {
    let daemon = Daemon::new(mode);
    let folder = fresh(&daemon);
    fs::create_dir(&folder).unwrap();
    let say = |arguments: &[&str]| {
        let output = daemon.cli(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(say(&["mapping", "list"]), "no mappings\n");
    let text = say(&["mapping", "add", "public", "--dir", folder.to_str().unwrap()]);
    let state = daemon.api().state();
    let id = state["mappings"][0]["id"].as_str().unwrap();
    let url = state["mappings"][0]["url"].as_str().unwrap();
    assert!(text.contains(id) && text.contains(url), "{text}");
    let line = text.lines().find(|line| line.contains("iofog-connector tunnel ")).unwrap();
    let service = greeter();
    let line = line.replace("localhost:PORT", &service.address.to_string());
    let words: Vec<&str> = line.split_whitespace().skip(2).collect();
    let file = words.iter().find(|word| word.ends_with(".tunnel")).unwrap();
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = fs::read_to_string(file).unwrap();
    let (_, secret) = secret.split_once("passcode=").unwrap();
    let secret = secret.lines().next().unwrap();
    assert!(!text.contains(secret), "the passcode is shown only when asked for");
    let prose = text.lines().filter(|line| !line.contains("iofog-connector"));
    assert!(prose.clone().all(|line| line.chars().count() <= 80), "{text}");
    let _tunnel = Tunnel::with(&daemon, &words);
    let port = state["mappings"][0]["sides"][1]["port"].as_u64().unwrap();
    daemon.link(u16::try_from(port).unwrap()).expect(b"220 hello\n");
    assert!(say(&["mapping", "list"]).contains(id));

    let shown = say(&["mapping", "add", "private", "--show"]);
    assert!(shown.contains("--target ") && shown.contains("--listen "), "{shown}");
    assert_eq!(shown.matches("passcode of port").count(), 2, "{shown}");
    let elsewhere = say(&["mapping", "remove", id]);
    assert!(elsewhere.contains("no file with its passcode is in /"), "{elsewhere}");
    let name = file.rsplit('/').next().unwrap();
    assert!(elsewhere.contains(&format!("of no use any more: iofog-{}", &name[6..name.len() - 7])));
    assert!(
        std::path::Path::new(file).exists(),
        "one in a folder that was not named is left alone"
    );
    assert!(!say(&["mapping", "list"]).contains(id));
    let output = daemon.cli(&["mapping", "remove", id]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(id) && stderr.contains("`iofog-connector mapping list`"), "{stderr}");
}

#[test]
fn mapping_that_cannot_be_shown_is_named() {
    let daemon = Daemon::new(Mode::Plain);
    let [program, arguments @ ..] = &binary()[..] else { unreachable!() };
    let output = Command::new(program)
        .args(arguments)
        .args(["mapping", "add", "public", "--show", "--run"])
        .arg(daemon.run())
        .stdout(File::options().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let id = daemon.api().state()["mappings"][0]["id"].as_str().unwrap().to_owned();
    assert!(said.contains(&format!("mapping {id}")), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn removed_mapping_takes_its_passcode_files_along_and_no_others() {
    let daemon = Daemon::builder(Mode::Plain).ports(2).start();
    let folder = daemon.folder().join("passcodes");
    fs::create_dir(&folder).unwrap();
    let dir = folder.to_str().unwrap();
    let say = |arguments: &[&str]| {
        let output = daemon.cli(&[arguments, &["--dir", dir]].concat());
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let add = || {
        let (status, said) = say(&["mapping", "add", "private"]);
        assert_eq!(status, Some(0), "{said}");
        daemon.api().state()["mappings"][0]["id"].as_str().unwrap().to_owned()
    };
    let files = || {
        let mut all: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        all.sort();
        all
    };
    let id = add();
    assert_eq!(files().len(), 4);
    fs::write(folder.join("iofog-1.passcode"), "another's").unwrap();
    let (status, said) = say(&["mapping", "remove", &id]);
    assert_eq!(status, Some(0), "{said}");
    for kind in [".passcode removed", ".tunnel removed"] {
        assert_eq!(said.matches(kind).count(), 2, "{said}");
    }
    assert!(!said.contains("no file with"), "{said}");
    assert_eq!(files(), [folder.join("iofog-1.passcode")]);
    // What has been written anew stays, and keeps no mapping from these ports; a line that was added, as recipes
    // do, makes nothing else of a tunnel file.
    let id = add();
    let [.., passcode, tunnel] = &files()[..] else { unreachable!() };
    fs::write(passcode, "somebody's own\n").unwrap();
    let own = fs::read_to_string(tunnel).unwrap() + "target=t:1\nproxy=http://p:1\n";
    fs::write(tunnel, &own).unwrap();
    let (status, said) = say(&["mapping", "remove", &id]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said.matches("does not hold this mapping's passcode").count(), 1, "{said}");
    assert_eq!(files().len(), 2);
    let own = "somebody's own, too\n".to_owned();
    fs::write(tunnel, &own).unwrap();
    for round in ["", "2"] {
        let (status, said) = say(&["mapping", "add", "private"]);
        assert_eq!(status, Some(0), "{said}");
        let aside = format!("{}.old{round}", passcode.display());
        assert!(
            said.contains(&format!("{} was there; it is {aside} now", passcode.display())),
            "{said}"
        );
        let id = daemon.api().state()["mappings"][0]["id"].as_str().unwrap().to_owned();
        // The Controller's call leaves all files.
        daemon.api().post("/api/v2/mapping/remove", &form(&[("mappingid", &id)])).ok();
    }
    let aside = |file: &Path| fs::read_to_string(format!("{}.old", file.display())).unwrap();
    assert_eq!((aside(passcode), aside(tunnel)), ("somebody's own\n".into(), own));
    // What cannot be written leaves all as it was.
    let before = files();
    fs::remove_file(tunnel).unwrap();
    fs::create_dir(tunnel).unwrap();
    let (status, said) = say(&["mapping", "add", "private"]);
    assert_eq!(status, Some(1));
    assert!(said.contains("already exists") && said.contains("delete it"), "{said}");
    assert!(said.contains("--dir") && said.contains("No mapping was added"), "{said}");
    assert_eq!(daemon.api().state()["mappings"].as_array().unwrap().len(), 0);
    assert_eq!(files(), before, "what had been made or moved for it is where it was");
}

#[test]
fn removal_says_of_a_file_that_stays_what_is_known() {
    let daemon = Daemon::new(Mode::Plain);
    let folder = Folder::new();
    let words = |words: &[&str]| {
        let run = daemon.run();
        let all = ["--run", run.to_str().unwrap(), "--dir", folder.to_str().unwrap()];
        // Without --config, so that the passcode is not known.
        let output = run_cli(&[words, &all].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        text(&output)
    };
    words(&["mapping", "add", "public", "--name", "ssh"]);
    let [passcode, tunnel] = [0, 1].map(|number| folder.join(&folder.names()[number]));
    fs::write(&passcode, "by hand\n").unwrap();
    fs::remove_file(&tunnel).unwrap();
    std::os::unix::fs::symlink("/none", &tunnel).unwrap();
    let said = words(&["mapping", "remove", "ssh"]);
    let stays = |file: &Path, why: &str| said.contains(&format!("{} stays: {why}", file.display()));
    assert!(stays(&passcode, "whether it holds this mapping's passcode is not known"), "{said}");
    assert!(stays(&tunnel, "it is no file, but a link"), "{said}");
}

#[test]
fn certificates_that_do_not_fit_are_refused_with_a_remedy() {
    let authority = Authority::new("the authority");
    let identity = authority.sign(&["other.example"]);
    let mut daemon = Daemon::builder(Mode::Tls)
        .file("server-cert.pem", identity.pem())
        .file("server-key.pem", identity.key_pem())
        .file("authority.pem", authority.pem())
        .file("stranger.pem", Authority::new("a stranger").pem())
        .prepare();
    daemon.spawn();
    let answer = eventually("it answers", || {
        let control = Controller::unix(daemon.socket());
        control.try_connect().ok()?;
        Some(control.add_public(60, NEVER))
    });
    let service = greeter();
    let start = |ca: &str| {
        let file = secret(&daemon, &answer.passcode1);
        let ca = daemon.config().join(ca);
        let connector = format!("localhost:{}", answer.port1);
        let target = service.address.to_string();
        let arguments = ["--connector", &connector, "--target", &target];
        let files = ["--ca", ca.to_str().unwrap(), "--passcode-file", file.to_str().unwrap()];
        Tunnel::with(&daemon, &[arguments, files].concat())
    };
    for (ca, sentence) in [
        ("authority.pem", "not valid for localhost, but for DnsName(\"other.example\")"),
        ("stranger.pem", "nor signed by one of them"),
        ("server-cert.pem", "connected to"),
    ] {
        let tunnel = start(ca);
        until(sentence, || tunnel.log().contains(sentence));
    }
}

#[test]
fn fingerprint_that_the_log_shows_is_all_that_a_tunnel_needs_to_trust() {
    let (daemon, mapping) = public(Mode::Tls, 10);
    let log = eventually("the log shows it", || {
        let log = daemon.log_text();
        log.contains("SHA-256 fingerprint ").then_some(log)
    });
    let shown =
        log.split("SHA-256 fingerprint ").nth(1).unwrap().split_whitespace().next().unwrap();
    let service = greeter();
    let start = |more: &[&str]| {
        let file = secret(&daemon, &mapping.passcode1);
        let connector = format!("127.0.0.1:{}", mapping.port1);
        let target = service.address.to_string();
        let arguments = ["--connector", &connector, "--target", &target];
        let files = ["--passcode-file", file.to_str().unwrap()];
        Tunnel::with(&daemon, &[&arguments[..], &files, more].concat())
    };
    let other = format!("SHA256:{}", "0".repeat(64));
    let tunnel = start(&["--pin", &other]);
    until("it is refused", || tunnel.log().contains("is not the one that --pin names"));
    assert!(tunnel.log().contains(&format!("--pin SHA256:{shown} ")), "{}", tunnel.log());
    drop(tunnel);
    let without_colons = format!("SHA256:{}", shown.replace(':', "").to_lowercase());
    let tunnel = start(&["--pin", &other, "--pin", &without_colons]);
    until("it is connected", || tunnel.log().contains("connected to"));
    drop(tunnel);
    let file = secret(&daemon, &format!("pin={other}, SHA256:{shown}"));
    let tunnel = start(&["--from", file.to_str().unwrap()]);
    until("it is connected", || tunnel.log().contains("connected to"));
}

#[test]
fn self_signed_certificate_that_is_marked_as_an_authority_is_pinned() {
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    let mut daemon = Daemon::builder(Mode::Tls)
        .file("server-cert.pem", certificate.pem())
        .file("server-key.pem", key.serialize_pem())
        .prepare();
    daemon.spawn();
    let mapping = eventually("it answers", || {
        let control = Controller::unix(daemon.socket());
        control.try_connect().ok()?;
        Some(control.add_public(60, NEVER))
    });
    let service = greeter();
    let tunnel = Tunnel::serve(&daemon, &mapping, service.address, &[]);
    until("it is connected", || tunnel.log().contains("connected to"));
}

#[test]
fn faults_in_the_options_end_with_2_and_a_sentence() {
    for (arguments, sentence) in [
        (&[][..], "--connector HOST:PORT is missing"),
        (&["--connector", "x:1", "--target", "y"], "--target: \"y\" has no port"),
        (&["--connector", "x:1", "--target", "y:1", "--plain"], "the passcode is missing"),
        (&["--conector", "x:1"], "did you mean --connector?"),
        (&["--from", "/none/such"], "--from /none/such: it does not exist"),
        (
            &["--connector", "x:1", "--target", "y:1", "--passcode-file", "/none/such"],
            "--passcode-file /none/such: it does not exist",
        ),
    ] {
        let output = run_cli(&[&["tunnel"], arguments].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(sentence), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with("iofog-connector: "), "as all commands say it: {stderr}");
    }
}

/// The one line with which a `tunnel` that has its passcode ends at its start.
fn faulty_start(arguments: &[&str], status: i32) -> String {
    let own = Folder::new();
    let passcode = own.file("passcode", "passcode", 0o600);
    let common = ["tunnel", "--connector", "x:1", "--passcode-file", passcode.to_str().unwrap()];
    let output = run_cli(&[&common, arguments].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stderr}");
    assert!(stderr.starts_with("iofog-connector: ") && stderr.lines().count() == 1, "{stderr}");
    assert!(!stderr.contains("os error"), "{stderr}");
    stderr
}

#[test]
fn files_that_are_missing_are_named_with_their_option() {
    let fault = faulty_start(&["--target", "y:1", "--ca", "/none/such"], 2);
    assert!(fault.contains("--ca /none/such: it does not exist; is its path right?"), "{fault}");
    let fault = faulty_start(&["--target", "y:1", "--ca", "/"], 2);
    assert!(fault.contains("--ca /: it is a folder"), "{fault}");
    let fault = faulty_start(&["--target", "y:1", "--ca", "/dev/null"], 2);
    assert!(fault.contains("--ca /dev/null: the file is empty"), "{fault}");
}

#[test]
fn local_port_shows_its_number_and_who_can_reach_it() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_private(2, NEVER);
    for (listen, everybody) in [("127.0.0.1:0", false), ("0.0.0.0:0", true)] {
        let more = ["--listen", listen];
        let tunnel = Tunnel::start(&daemon, mapping.port2, &mapping.passcode2, &more);
        eventually("it listens", || tunnel.log().contains("listening on").then_some(()));
        let log = tunnel.log();
        assert!(!log.contains(&format!("{listen} ")), "the port itself: {log}");
        assert_eq!(log.contains("anyone who can reach it"), everybody, "{log}");
    }
}

/// A TLS agent on a plain port, whose passcode is right.
#[test]
fn agent_with_tls_at_a_plain_port_is_told_on_both_sides() {
    let (daemon, mapping) = public(Mode::Plain, 2);
    let file = secret(&daemon, &mapping.passcode1);
    let connector = format!("localhost:{}", mapping.port1);
    let file = file.to_str().unwrap();
    let tunnel = Tunnel::with(
        &daemon,
        &["--connector", &connector, "--target", "localhost:9", "--passcode-file", file],
    );
    eventually("the agent says so", || tunnel.log().contains("use --plain").then_some(()));
    // Who has pinned a certificate knows that it speaks TLS.
    let pin = format!("SHA256:{}", "0".repeat(64));
    let arguments = ["--connector", &connector, "--target", "localhost:9", "--pin", &pin];
    let pinned = Tunnel::with(&daemon, &[&arguments[..], &["--passcode-file", file]].concat());
    until("it says what may be", || pinned.log().contains("answer in the connector's place?"));
    assert!(!pinned.log().contains("--plain"), "{}", pinned.log());
    drop(pinned);
    let said = || daemon.control().state().to_string();
    until("the status says so", || said().contains("start the agent with --plain"));
    assert!(!said().contains("wrong passcode"), "{}", said());
    let mut caller = TcpStream::connect(daemon.api_address()).unwrap();
    caller
        .write_all(&[&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[b'\n'; 100]].concat())
        .unwrap();
    let mut answer = String::new();
    let _ = caller.read_to_string(&mut answer);
    assert!(answer.contains("call http://"), "{answer}");
}

#[test]
fn heartbeat_that_is_longer_than_the_threshold_is_said_on_both_sides() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, 1500);
    let more = ["--target", "localhost:9", "--heartbeat", "60000", "--connections", "1"];
    let connector = format!("localhost:{}", mapping.port1);
    let file = secret(&daemon, &mapping.passcode1);
    let start = ["--plain", "--connector", &connector, "--passcode-file", file.to_str().unwrap()];
    let tunnel = Tunnel::with(&daemon, &[&start[..], &more].concat());
    until("the last error says so", || {
        let state = daemon.api().state_of(&mapping).unwrap();
        state["lastError"].to_string().contains("--heartbeat shorter than the mapping's threshold")
    });
    let said = "--heartbeat must be shorter than the mapping's threshold";
    eventually("the agent says so", || tunnel.log().contains(said).then_some(()));
}

#[test]
fn restarts_of_the_connector_are_not_taken_for_a_short_threshold() {
    let (mut daemon, mapping) = public(Mode::Plain, 60);
    let more = ["--target", "localhost:9", "--heartbeat", "20000", "--connections", "1"];
    let connector = format!("localhost:{}", mapping.port1);
    let file = secret(&daemon, &mapping.passcode1);
    let start = ["--plain", "--connector", &connector, "--passcode-file", file.to_str().unwrap()];
    let tunnel = Tunnel::with(&daemon, &[&start[..], &more].concat());
    // Two tunnels in a row that end before their first heartbeat, as a short threshold would.
    for age in [1500, 4000] {
        until_idle(&daemon, &mapping, 1);
        thread::sleep(ms(age));
        daemon.restart();
    }
    eventually("it is said", || tunnel.log().contains("was it restarted?").then_some(()));
    assert!(!tunnel.log().contains("--heartbeat"), "{}", tunnel.log());
}

#[test]
fn threshold_under_a_second_is_named_as_what_may_close_tunnels() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, 5);
    let tunnel = Tunnel::serve(&daemon, &mapping, at(9), &[]);
    let said = "closes the tunnel at once: is it stopping, or is the mapping's threshold under";
    eventually("it is said", || tunnel.log().contains(said).then_some(()));
}

#[test]
fn local_port_that_cannot_be_opened_is_named_with_the_remedy() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let fault = faulty_start(&["--plain", "--listen", &address], 1);
    let sentence = format!("--listen {address}: another program uses it (`ss -tanp` shows which)");
    assert!(fault.contains(&sentence), "{fault}");
    let fault = faulty_start(&["--plain", "--listen", "192.0.2.1:8022"], 1);
    assert!(fault.contains("--listen 192.0.2.1:8022: this machine does not have"), "{fault}");
}

#[test]
fn options_given_twice_in_a_file_are_refused_by_their_lines() {
    let own = Folder::new();
    let file = own.file("options", "passcode=SECRET\n# more\npasscode=SECRET\n", 0o600);
    let output = run_cli(&["tunnel", "--from", file.to_str().unwrap()]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("line 3: passcode is given already, in line 1"), "{stderr}");
    assert!(!stderr.contains("SECRET"), "{stderr}");
}
