//! Loads and floods: their size, what the daemon held before, and a session that must keep moving
//! meanwhile.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::{Agent, Daemon, Folder, Got, Link, Mapping, Mode, ms};

/// Whether the long forms are asked for: `IOFOG_CONNECTOR_FULL=1`.
pub fn full() -> bool {
    std::env::var("IOFOG_CONNECTOR_FULL").is_ok_and(|value| value == "1")
}

/// How many: `quick` in an ordinary run, `long` where the long forms are asked for.
pub fn size(quick: usize, long: usize) -> usize {
    if full() { long } else { quick }
}

/// How long: as [`size`], in milliseconds.
pub fn period(quick: u64, long: u64) -> Duration {
    ms(if full() { long } else { quick })
}

/// Lets this process, and the daemons it starts, open as many files as the hard limit allows.
pub fn raise_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("the limit of open files");
}

/// What `work` gives, and how long it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// Prints a figure that was measured, for `cargo test -- --nocapture` and for failures.
pub fn figure(mode: Mode, what: &str, value: impl std::fmt::Debug) {
    println!("{mode:?}: {what}: {value:?}");
}

/// The first bytes of a TLS client.
pub fn client_hello(daemon: &Daemon) -> Vec<u8> {
    let name = ServerName::try_from("localhost").expect("name");
    let mut tls = ClientConnection::new(daemon.trust(), name).expect("TLS");
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).expect("bytes in memory");
    bytes
}

/// `count` connections, each of which sends `bytes` and nothing more.
#[track_caller]
pub fn stalled(address: SocketAddr, count: usize, bytes: &[u8]) -> Vec<Link> {
    let connect = |_| {
        let link = Link::plain(address).expect("the kernel accepts");
        // One that has been closed already is as good.
        let _ = link.socket().write(bytes);
        link
    };
    (0..count).map(connect).collect()
}

/// How many of these connections have not been closed from the other end by now.
pub fn open(links: &mut [Link]) -> usize {
    let mut set: Vec<PollFd<'_>> =
        links.iter().map(|link| PollFd::new(link.socket(), PollFlags::IN)).collect();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut set, Some(&now)).expect("poll");
    let silent: Vec<bool> = set.iter().map(|one| one.revents().is_empty()).collect();
    let mut count = 0;
    for (link, silent) in links.iter_mut().zip(silent) {
        // What the connector has said before its close is read over.
        let mut closed = false;
        while !silent && !closed {
            match link.read_now(64 * 1024) {
                Some(Got::Bytes(_)) => {}
                Some(_) => closed = true,
                None => break,
            }
        }
        count += usize::from(!closed);
    }
    count
}

/// What the daemon holds at rest.
#[derive(Clone, Copy, Debug)]
pub struct Base {
    /// Open files.
    pub files: usize,
    /// Resident memory, in KiB.
    pub resident: u64,
}

impl Base {
    /// As it is now.
    pub fn of(daemon: &Daemon) -> Self {
        Base { files: daemon.open_files(), resident: daemon.resident() }
    }

    /// Waits until no file is open that was not open then, and resident memory is no more than
    /// `slack` KiB above what it was.
    #[track_caller]
    pub fn expect_again(&self, daemon: &Daemon, slack: u64) {
        let deadline = Instant::now() + 2 * super::PATIENCE;
        let last = loop {
            let last = Base::of(daemon);
            if last.files <= self.files && last.resident <= self.resident + slack {
                break last;
            }
            assert!(Instant::now() < deadline, "before: {self:?}, after: {last:?}");
            thread::sleep(ms(20));
        };
        figure(daemon.mode, "files and KiB before and after", (self, last));
    }
}

/// A session in which a question and an answer follow each other, on a thread of its own.
pub struct Mover {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Duration)>,
}

impl Mover {
    /// Takes a tunnel and a user of this public pipe.
    #[track_caller]
    pub fn start(daemon: &Daemon, mapping: &Mapping) -> Self {
        let (user, agent) = daemon.session(mapping);
        Self::over(user, agent)
    }

    fn over(mut user: Link, mut agent: Agent) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let (mut rounds, mut worst) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let ((), took) = timed(|| {
                    user.send(b"what time is it");
                    agent.expect(b"what time is it");
                    agent.send(b"time to move");
                    user.expect(b"time to move");
                });
                rounds += 1;
                worst = worst.max(took);
                thread::sleep(ms(5));
            }
            (rounds, worst)
        });
        Mover { stop, thread }
    }

    /// Ends it; gives how many rounds there were and how long the longest took. Panics where a
    /// byte was wrong or did not come.
    #[track_caller]
    pub fn stop(self) -> (usize, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the session kept moving")
    }
}

/// A self-signed certificate with a key of RSA-4096, and the key, made by openssl once in a process;
/// `None` where there is none.
pub fn rsa_pair() -> Option<[Vec<u8>; 2]> {
    static PAIR: std::sync::OnceLock<Option<[Vec<u8>; 2]>> = std::sync::OnceLock::new();
    let make = || {
        let folder = Folder::new();
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.join(name));
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "rsa:4096", "-nodes", "-days", "30"]);
        openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        let made = openssl.output().is_ok_and(|output| output.status.success());
        made.then(|| [certificate, key].map(|path| std::fs::read(path).expect("PEM")))
    };
    PAIR.get_or_init(make).clone()
}
