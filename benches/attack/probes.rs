//! What good peers notice: each kind on a thread of its own, again and again.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::{Agent, Daemon, Folder, Got, Link, Mapping, PATIENCE, at, ms};

/// Tunnels of the agent that serves users.
const TUNNELS: usize = 8;

/// What one kind of peer has noticed.
pub(crate) struct Figure {
    /// The longest that one took, or that one in a hundred took longer than.
    pub(crate) time: Duration,
    /// How many there were.
    pub(crate) tries: usize,
    /// Of these, those that were not served.
    pub(crate) failed: usize,
}

/// What all have.
pub(crate) struct Figures {
    pub(crate) echo: Figure,
    pub(crate) api: Figure,
    pub(crate) agent: Figure,
    pub(crate) user: Figure,
    pub(crate) watchdog: Duration,
    pub(crate) stopping: Duration,
}

/// Peers of one kind.
struct Probe {
    counts: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<Duration>, usize)>,
}

impl Probe {
    fn start(every: Duration, mut once: impl FnMut() -> io::Result<()> + Send + 'static) -> Self {
        let [counts, stop] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (counting, stopped) = (counts.clone(), stop.clone());
        let thread = thread::spawn(move || {
            let (mut times, mut failed) = (Vec::new(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                let done = once();
                if counting.load(Ordering::Relaxed) {
                    times.push(start.elapsed());
                    failed += usize::from(done.is_err());
                }
                thread::sleep(every);
            }
            times.sort();
            (times, failed)
        });
        Probe { counts, stop, thread }
    }

    /// Ends it; gives the time at this share of all.
    fn end(self, share: f64) -> Figure {
        self.stop.store(true, Ordering::Relaxed);
        let (times, failed) = self.thread.join().expect("a probe never panics");
        let last = times.len().saturating_sub(1);
        let index = ((times.len() as f64 * share) as usize).min(last);
        Figure { time: times.get(index).copied().unwrap_or_default(), tries: times.len(), failed }
    }
}

/// All kinds of good peers.
pub(crate) struct Probes {
    echo: Probe,
    api: Probe,
    agent: Probe,
    user: Probe,
}

impl Probes {
    pub(crate) fn start(daemon: &Daemon) -> Self {
        let api = daemon.api();
        let [session, users, agents] = [(); 3].map(|()| api.add_public(60, 0));
        serve(daemon, &session, 1);
        serve(daemon, &users, TUNNELS);
        let trust = daemon.trust();
        let mut running = Link::tls(at(session.port2), &trust).expect("a session");
        running.exchange(b"hello", 5);
        let connect = {
            let trust = trust.clone();
            move |port| Link::tls(at(port), &trust)
        };
        let user = {
            let connect = connect.clone();
            move || {
                let mut user = connect(users.port2)?;
                answered(&mut user, b"hello", 5)?;
                user.finish();
                Ok(())
            }
        };
        let agent = move || {
            let mut agent = connect(agents.port1)?;
            answered(&mut agent, agents.passcode1.as_bytes(), 10)
        };
        let call = move || {
            let mut connection = api.try_connect()?;
            connection
                .link
                .try_send(b"GET /api/v2/status HTTP/1.1\r\nConnection: close\r\n\r\n")?;
            match connection.link.record_by(Instant::now() + PATIENCE) {
                Got::Bytes(bytes) if bytes.starts_with(b"HTTP/1.1 200") => Ok(()),
                other => Err(io::Error::other(format!("{other:?}"))),
            }
        };
        Probes {
            echo: Probe::start(ms(2), move || answered(&mut running, b"hello", 5)),
            api: Probe::start(ms(20), call),
            agent: Probe::start(ms(20), agent),
            user: Probe::start(ms(20), user),
        }
    }

    /// From now on times count.
    pub(crate) fn begin(&self) {
        for probe in [&self.echo, &self.api, &self.agent, &self.user] {
            probe.counts.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn end(self) -> Figures {
        Figures {
            echo: self.echo.end(0.99),
            api: self.api.end(1.0),
            agent: self.agent.end(1.0),
            user: self.user.end(1.0),
            watchdog: Duration::ZERO,
            stopping: Duration::ZERO,
        }
    }
}

/// Sends `bytes` and waits for `count` others.
fn answered(link: &mut Link, bytes: &[u8], count: usize) -> io::Result<()> {
    link.try_send(bytes)?;
    let deadline = Instant::now() + PATIENCE;
    let mut come = 0;
    while come < count {
        match link.record_by(deadline) {
            Got::Bytes(bytes) => come += bytes.len(),
            other => return Err(io::Error::other(format!("{other:?}"))),
        }
    }
    Ok(())
}

/// Version 2 agents of `mapping`, each a thread that echoes one session after the other for as long
/// as the daemon lives.
fn serve(daemon: &Daemon, mapping: &Mapping, tunnels: usize) {
    for _ in 0..tunnels {
        let (trust, port, passcode) = (daemon.trust(), mapping.port1, mapping.passcode1.clone());
        thread::spawn(move || {
            while let Ok(link) = Link::tls(at(port), &trust) {
                let _ = echo(&mut Agent::over(link), &passcode);
            }
        });
    }
    crate::common::until("the agent is there", || daemon.control().idle(mapping) == tunnels as u64);
}

/// One session.
fn echo(agent: &mut Agent, passcode: &str) -> io::Result<()> {
    let forever = Instant::now() + Duration::from_secs(600);
    let next = |agent: &mut Agent| match agent.link.record_by(forever) {
        Got::Bytes(bytes) => Ok(bytes),
        other => Err(io::Error::other(format!("{other:?}"))),
    };
    agent.link.try_send(format!("IOFOG/2 {passcode}\n").as_bytes())?;
    if next(agent)? != b"IOFOG/2 AUTHORIZED\n" {
        return Err(io::Error::other("refused"));
    }
    // The header is a record of its own.
    next(agent)?;
    agent.link.try_send(b"OPEN")?;
    loop {
        match next(agent) {
            Ok(bytes) => agent.link.try_send(&bytes)?,
            Err(_) => {
                agent.link.finish();
                return Ok(());
            }
        }
    }
}

/// The service manager's socket.
pub(crate) struct Notified {
    path: PathBuf,
    _folder: Folder,
    socket: Arc<UnixDatagram>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    last: Option<Instant>,
    longest: Duration,
    told: Vec<String>,
}

impl Notified {
    pub(crate) fn bind() -> Self {
        let folder = Folder::new();
        let path = folder.join("notify");
        let socket = Arc::new(UnixDatagram::bind(&path).expect("a socket"));
        let state = Arc::<Mutex<State>>::default();
        let (listened, shared) = (socket.clone(), state.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = listened.recv(&mut buffer) {
                let now = Instant::now();
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                let mut state = shared.lock().expect("state");
                if text.starts_with("WATCHDOG=1") {
                    if let Some(last) = state.last.replace(now) {
                        state.longest = state.longest.max(now - last);
                    }
                } else {
                    state.told.push(text);
                }
            }
        });
        Notified { path, _folder: folder, socket, state }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }

    /// From now on gaps count.
    pub(crate) fn begin(&self) {
        let mut state = self.state.lock().expect("state");
        (state.last, state.longest) = (Some(Instant::now()), Duration::ZERO);
    }

    /// The longest gap, the one that is not over included.
    pub(crate) fn end(&self) -> Duration {
        let state = self.state.lock().expect("state");
        state.last.map_or(state.longest, |last| state.longest.max(last.elapsed()))
    }

    /// Waits for 60 s at most.
    pub(crate) fn wait_for(&self, what: &str) {
        let deadline = Instant::now() + 2 * PATIENCE;
        let told = |state: &State| state.told.iter().any(|text| text.starts_with(what));
        while !told(&self.state.lock().expect("state")) && Instant::now() < deadline {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}
