use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use futures_rustls::pki_types::{PrivateKeyDer, ServerName};
use futures_rustls::rustls::{self, ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use smol::future;

use super::*;
use crate::http::{Fault, Request, Response, Source};
use crate::runtime;
use crate::testing::folder::Folder;

const CAPACITY: usize = 8;

/// The length of the answer to `/long`: three are more than may be held.
const LONG: usize = limits::HTTP_HELD * 2 / 5;

/// Answers `/slow` after a while, and says when it begins and when it has; `/for-ever` never; `/long`
/// at length.
struct Slow {
    story: mpsc::Sender<&'static str>,
}

fn text(status: u16, body: &str) -> Response {
    Response { status, content_type: "text/plain", allow: None, fields: "", body: body.into() }
}

impl Service for Slow {
    fn knows(&self, _: Peer) -> bool {
        true
    }

    fn admit(&self, _: Peer, _: Door, _: &Source) -> Result<(), Response> {
        Ok(())
    }

    async fn answer(&self, peer: Peer, request: Request) -> Response {
        if &*request.path == "/slow" {
            self.story.send("begun").expect("the test waits");
            sleep(Duration::from_millis(300)).await;
            self.story.send("done").expect("the test waits");
        }
        if &*request.path == "/for-ever" {
            self.story.send("begun").expect("the test waits");
            return future::pending().await;
        }
        if &*request.path == "/long" {
            return text(200, &"x".repeat(LONG));
        }
        text(200, &format!("{peer:?}"))
    }

    fn refuse(&self, _: Peer, fault: Fault) -> Response {
        text(fault.status(), "")
    }
}

struct Running {
    address: SocketAddr,
    socket: std::path::PathBuf,
    _folder: Folder,
    story: mpsc::Receiver<&'static str>,
    failures: mpsc::Receiver<u64>,
    stop: smol::channel::Sender<()>,
    thread: Option<thread::JoinHandle<()>>,
}

/// A server in a thread of its own; `failures` gives the handshake failures at its end.
fn start(tls: Option<Arc<ServerConfig>>) -> Running {
    start_with(tls, Files::new(1 << 20))
}

fn start_with(tls: Option<Arc<ServerConfig>>, files: Arc<Files>) -> Running {
    let (ready, started) = mpsc::channel();
    let (told, story) = mpsc::channel();
    let (stop, stopped) = smol::channel::bounded(1);
    let (count, failures) = mpsc::channel();
    let folder = Folder::new();
    let socket = folder.join("socket");
    let path = socket.clone();
    let thread = thread::spawn(move || {
        let executor = Rc::new(LocalExecutor::new());
        let counters = Rc::new(Counters::default());
        let service = Rc::new(Slow { story: told });
        let workers = Rc::new(Workers::start(1).expect("a thread"));
        let mut server = Server::new(service, executor.clone(), counters.clone(), files, workers);
        Rc::get_mut(&mut server.connections).expect("nobody has it").capacity = CAPACITY;
        let work = async {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.set_nonblocking(true).expect("set");
            let unix = UnixListener::bind(&path).expect("a socket");
            ready.send(listener.local_addr().expect("an address")).expect("the test waits");
            let tls = tls.map(|config| Rc::new(move || (config.clone(), 0_u64)) as Acceptor);
            let both = future::zip(server.serve_tcp(&listener, tls), server.serve_unix(unix));
            let ends = async { _ = both.await };
            let told = async { stopped.recv().await.expect("the test says so") };
            future::or(ends, told).await;
        };
        runtime::block_on(executor.run(work)).expect("an event loop");
        count.send(counters.handshake_failures.get()).expect("the test waits");
    });
    let address = started.recv().expect("started");
    let thread = Some(thread);
    Running { address, socket, _folder: folder, story, failures, stop, thread }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop.try_send(());
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the server panicked");
    }
}

impl Running {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        stream
    }

    /// What the service says next.
    fn next(&self) -> &'static str {
        self.story.recv_timeout(Duration::from_secs(5)).expect("a word of the service")
    }
}

fn ask(mut stream: impl Read + Write, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn mute_connections_make_room_for_good_ones() {
    let server = start(None);
    let mute: Vec<TcpStream> = (0..4 * CAPACITY).map(|_| server.connect()).collect();
    let begun = Instant::now();
    for _ in 0..3 {
        let answer = ask(server.connect(), "/");
        assert!(answer.ends_with("Remote(127.0.0.1)"), "{answer}");
    }
    // Each of those before it has its turn, eight at a time.
    assert!(begun.elapsed() < Duration::from_secs(5));
    // The oldest is closed, the youngest is still served.
    assert_eq!((&mute[0]).read(&mut [0]).expect("closed in order"), 0);
    assert!(ask(&mute[mute.len() - 1], "/").starts_with("HTTP/1.1 200"));
}

#[test]
fn who_does_not_take_its_answer_makes_room_for_others() {
    let server = start(None);
    // Who comes once it has begun to accept finds the small buffers that it asks the kernel for.
    ask(server.connect(), "/");
    let mut waiting: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
    for stream in &mut waiting {
        // Left to itself the kernel takes the whole answer.
        sockopt::set_socket_recv_buffer_size(&*stream, 1 << 18).expect("set");
        stream.write_all(b"GET /long HTTP/1.1\r\nConnection: close\r\n\r\n").expect("written");
        // The first byte of an answer tells that it is held.
        assert_eq!(stream.peek(&mut [0]).expect("an answer"), 1);
    }
    assert!(ask(server.connect(), "/long").len() > LONG, "who takes it has all of it");
    let got = waiting.into_iter().map(|mut stream| {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer.len() > LONG
    });
    assert_eq!(got.collect::<Vec<_>>(), [false, false, true]);
}

#[test]
fn files_are_got_back_from_idle_connections() {
    let files = Files::new(1000);
    let mut held: Vec<_> = std::iter::from_fn(|| files.try_take(For::Api)).collect();
    // Room for two connections.
    held.truncate(held.len() - 2);
    let server = start_with(None, files);
    let mute: Vec<TcpStream> = (0..6).map(|_| server.connect()).collect();
    for _ in 0..3 {
        assert!(ask(server.connect(), "/").starts_with("HTTP/1.1 200"));
    }
    assert_eq!((&mute[0]).read(&mut [0]).expect("closed in order"), 0);
    drop(held);
}

#[test]
fn kept_connections_give_way_in_the_order_of_their_last_use() {
    let server = start(None);
    let kept: Vec<TcpStream> = (0..CAPACITY).map(|_| server.connect()).collect();
    let get = |mut stream: &TcpStream| {
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("written");
        let mut answer = [0; 512];
        stream.read(&mut answer).expect("an answer")
    };
    assert!(kept.iter().all(|stream| get(stream) > 0));
    assert!(get(&kept[0]) > 0);
    let newcomer = server.connect();
    assert!(get(&newcomer) > 0);
    assert!(get(&kept[0]) > 0, "used since");
    assert_eq!((&kept[1]).read(&mut [0]).expect("closed in order"), 0);
}

#[test]
fn remote_callers_make_room_before_local_ones() {
    let server = start(None);
    let mut local = std::os::unix::net::UnixStream::connect(&server.socket).expect("connected");
    local.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("written");
    assert!(local.read(&mut [0; 512]).expect("an answer") > 0);
    let mute: Vec<TcpStream> = (0..4 * CAPACITY).map(|_| server.connect()).collect();
    assert!(ask(server.connect(), "/").ends_with("Remote(127.0.0.1)"));
    assert!(ask(local, "/").ends_with("Local"), "longest idle of all, and not closed");
    drop(mute);
}

#[test]
fn an_answer_once_begun_is_made() {
    let server = start(None);
    for _ in 0..2 {
        let mut gone = server.connect();
        gone.write_all(b"GET /slow HTTP/1.1\r\n\r\n").expect("written");
        assert_eq!(server.next(), "begun");
        gone.shutdown(Shutdown::Both).expect("gone");
    }
    let _flood: Vec<TcpStream> = (0..4 * CAPACITY).map(|_| server.connect()).collect();
    for _ in 0..2 {
        assert_eq!(server.next(), "done");
    }
}

#[test]
fn newcomers_wait_while_every_place_is_being_answered() {
    let server = start(None);
    let slow: Vec<TcpStream> = (0..CAPACITY).map(|_| server.connect()).collect();
    for mut stream in &slow {
        let request = b"GET /slow HTTP/1.1\r\nConnection: close\r\n\r\n";
        stream.write_all(request).expect("written");
        assert_eq!(server.next(), "begun");
    }
    assert!(ask(server.connect(), "/").starts_with("HTTP/1.1 200"));
    for mut stream in slow {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[test]
fn faults_are_readable_though_the_request_is_not_read() {
    let server = start(None);
    let mut stream = server.connect();
    let head = b"POST / HTTP/1.1\r\nContent-Length: 900000\r\n\r\n";
    stream.write_all(&[head.as_slice(), &vec![0; 900_000]].concat()).expect("read over");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("no reset");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[test]
fn local_callers_are_known_as_such() {
    let server = start(None);
    let stream = std::os::unix::net::UnixStream::connect(&server.socket).expect("connected");
    assert!(ask(stream, "/").ends_with("Local"));
}

/// A self-signed certificate for a server, and a client that trusts it.
fn pair() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("made");
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("a pair");
    config.enable_secret_extraction = true;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    (Arc::new(config), Arc::new(client))
}

#[test]
fn caller_that_leaves_while_it_waits_for_a_place_gives_its_file_back_at_once() {
    for (resets, request) in [(false, &b""[..]), (true, b""), (true, b"GET / HTTP/1.1\r\n\r\n")] {
        let (config, client) = pair();
        let files = Files::new(1 << 20);
        let server = start_with(Some(config), files.clone());
        let name = ServerName::try_from("localhost").expect("a name");
        let mut session = ClientConnection::new(client, name).expect("a session");
        let mut stream = server.connect();
        session.write_tls(&mut stream).expect("greeted");
        // Who shakes hands has no place; the places are taken before it is done.
        let mut asking = Vec::new();
        for _ in 0..CAPACITY {
            let mut one =
                std::os::unix::net::UnixStream::connect(&server.socket).expect("connected");
            one.write_all(b"GET /for-ever HTTP/1.1\r\n\r\n").expect("written");
            assert_eq!(server.next(), "begun");
            asking.push(one);
        }
        let used = files.used();
        let mut secured = rustls::Stream::new(&mut session, &mut stream);
        secured.write_all(request).expect("written");
        secured.flush().expect("sent");
        // The kernel has it all before the reset.
        while tcp_info::ask(&stream).expect("asked").packets > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(files.used(), used, "it waits");
        let _ends = match resets {
            true => {
                sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("set");
                drop(stream);
                None
            }
            false => {
                stream.shutdown(Shutdown::Write).expect("ended");
                Some(stream)
            }
        };
        let begun = Instant::now();
        while files.used() == used {
            assert!(begun.elapsed() < Duration::from_secs(20), "resets: {resets}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn tls_callers() {
    let (config, client) = pair();
    let server = start(Some(config));
    let mute: Vec<TcpStream> = (0..2 * CAPACITY).map(|_| server.connect()).collect();
    let call = || {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut session = ClientConnection::new(client.clone(), name).expect("a session");
        let mut stream = server.connect();
        let answer = ask(rustls::Stream::new(&mut session, &mut stream), "/");
        assert!(answer.ends_with("Remote(127.0.0.1)"), "{answer}");
    };
    call();
    let mut plain = server.connect();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("written");
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP"));
    // The worker closes the connection, and only then tells of the failure.
    call();
    drop(mute);
    server.stop.try_send(()).expect("stopping");
    assert!(server.failures.recv().expect("the end") >= 1);
}

#[test]
fn out_of_files_is_told_from_other_errors() {
    for (errno, expected) in
        [(Errno::MFILE, true), (Errno::NFILE, true), (Errno::CONNABORTED, false)]
    {
        assert_eq!(is_out_of_files(&errno.into()), expected);
    }
    assert!(!is_out_of_files(&io::ErrorKind::TimedOut.into()));
}
