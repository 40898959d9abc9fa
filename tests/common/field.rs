//! The agent as it is in the field: a number of tunnels, each with its own local connection, and
//! all the habits that the protocol page lists in section 4.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::ClientConfig;

use super::{BEAT, Daemon, Got, Link, Mapping, Mode, at, ms, until};

/// How a [`FieldAgent`] behaves.
#[derive(Clone)]
pub struct FieldOptions {
    /// How many tunnels it keeps.
    pub tunnels: usize,
    /// The time between heartbeats (20 s in the field).
    pub beat: Duration,
    /// The wait after the first refused dial (1 s in the field), doubled ten times.
    pub backoff: Duration,
    /// Where its local service is.
    pub service: SocketAddr,
}

/// A running agent; it ends when this is dropped.
pub struct FieldAgent {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    port: u16,
    passcode: String,
    tls: Option<Arc<ClientConfig>>,
    options: FieldOptions,
    stop: AtomicBool,
    authorized: AtomicUsize,
    accepted: AtomicUsize,
    refused: AtomicUsize,
    strays: Mutex<Vec<String>>,
}

impl FieldAgent {
    /// An agent of this many tunnels for port1 of this mapping.
    pub fn start(daemon: &Daemon, mapping: &Mapping, tunnels: usize, service: SocketAddr) -> Self {
        // In plain TCP reads coalesce, so that a heartbeat can stick to data: the page leaves
        // that to development, and a test whose bytes count has no heartbeats there.
        let beat = if daemon.mode == Mode::Tls { ms(300) } else { Duration::from_secs(3600) };
        let options = FieldOptions { tunnels, beat, backoff: ms(50), service };
        Self::with(daemon, mapping.port1, &mapping.passcode1, options)
    }

    /// An agent with all options.
    pub fn with(daemon: &Daemon, port: u16, passcode: &str, options: FieldOptions) -> Self {
        let shared = Arc::new(Shared {
            port,
            passcode: passcode.to_owned(),
            tls: (daemon.mode == Mode::Tls).then(|| daemon.trust()),
            options,
            stop: AtomicBool::new(false),
            authorized: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            strays: Mutex::new(Vec::new()),
        });
        let threads = (0..shared.options.tunnels)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || Tunnel::new(shared).run())
            })
            .collect();
        FieldAgent { shared, threads }
    }

    /// Waits until all its tunnels are authorized.
    #[track_caller]
    pub fn wait_authorized(&self) {
        let wanted = self.shared.options.tunnels;
        until("all tunnels are authorized", || self.authorized() == wanted);
    }

    /// Its tunnels that are authorized now.
    pub fn authorized(&self) -> usize {
        self.shared.authorized.load(Ordering::SeqCst)
    }

    /// How often a passcode was accepted.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How often a tunnel was closed instead of authorized.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::SeqCst)
    }

    /// Expects that no record came which would have upset an agent in the field.
    #[track_caller]
    pub fn expect_no_strays(&self) {
        let strays = self.shared.strays.lock().expect("strays");
        assert!(strays.is_empty(), "stray records: {strays:?}");
    }
}

impl Drop for FieldAgent {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One place of the agent's pool: a tunnel, dialled again and again, and a local connection that
/// outlives it.
struct Tunnel {
    shared: Arc<Shared>,
    local: Option<TcpStream>,
    /// Bytes for the local service that it has not taken yet.
    inward: Vec<u8>,
}

impl Tunnel {
    fn new(shared: Arc<Shared>) -> Self {
        Tunnel { shared, local: None, inward: Vec::new() }
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    fn run(mut self) {
        let mut attempt = 0;
        while !self.stopped() {
            let address = at(self.shared.port);
            let link = match &self.shared.tls {
                None => Link::plain(address),
                Some(tls) => Link::tls(address, tls),
            };
            let Ok(link) = link else {
                let end = Instant::now() + self.shared.options.backoff * (1 << attempt);
                attempt = (attempt + 1).min(10);
                while Instant::now() < end && !self.stopped() {
                    thread::sleep(ms(10));
                }
                continue;
            };
            attempt = 0;
            self.serve(link);
        }
    }

    /// One tunnel's life. A refusal is only noticed by its close.
    fn serve(&mut self, mut link: Link) {
        if link.try_send(self.shared.passcode.clone().as_bytes()).is_err() {
            return;
        }
        // Ten bytes are read, whatever else has come by then.
        loop {
            match link.read_now(b"AUTHORIZED".len()) {
                Some(Got::Bytes(bytes)) if bytes == b"AUTHORIZED" => break,
                Some(Got::Bytes(bytes)) => {
                    self.stray("in place of AUTHORIZED", &bytes);
                    return;
                }
                Some(_) => {
                    self.shared.refused.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                None if self.stopped() => return,
                None => {
                    link.wait(true, false, Instant::now() + ms(100));
                }
            }
        }
        self.shared.accepted.fetch_add(1, Ordering::SeqCst);
        self.shared.authorized.fetch_add(1, Ordering::SeqCst);
        let _ = self.relay(&mut link);
        self.shared.authorized.fetch_sub(1, Ordering::SeqCst);
    }

    fn relay(&mut self, link: &mut Link) -> std::io::Result<()> {
        let mut next_beat = Instant::now() + self.shared.options.beat;
        let mut buffer = vec![0; 16 * 1024];
        while !self.stopped() {
            if Instant::now() >= next_beat {
                link.queue(BEAT)?;
                next_beat = Instant::now() + self.shared.options.beat;
            }
            let flushed = link.push()?;
            self.push_inward();
            let mut moved = false;
            if self.inward.is_empty() {
                match link.read_now(64 * 1024) {
                    Some(Got::Bytes(record)) => {
                        moved = true;
                        self.take(record);
                    }
                    Some(_) => return Ok(()),
                    None => {}
                }
            }
            if flushed {
                if let Some(local) = &mut self.local {
                    match local.read(&mut buffer) {
                        Ok(count @ 1..) => {
                            moved = true;
                            link.queue(&buffer[..count])?;
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        // The service has ended its connection: the tunnel is closed and redialled.
                        _ => {
                            self.local = None;
                            link.finish();
                            return Ok(());
                        }
                    }
                }
            }
            if !moved {
                self.wait(link, flushed, next_beat);
            }
        }
        Ok(())
    }

    /// A record from the connector: a heartbeat answer, or bytes for the local service.
    fn take(&mut self, record: Vec<u8>) {
        if record == BEAT || record == b"BEATBEAT" {
            return;
        }
        // In plain TCP reads coalesce, which the field's agent cannot tell from an error.
        if record.starts_with(BEAT) && self.shared.tls.is_some() {
            self.stray("a heartbeat merged with data", &record);
        }
        if self.local.is_none() {
            if let Ok(local) = TcpStream::connect(self.shared.options.service) {
                let _ = local.set_nonblocking(true);
                let _ = local.set_nodelay(true);
                self.local = Some(local);
            }
        }
        self.inward.extend(record);
        self.push_inward();
    }

    fn push_inward(&mut self) {
        let Some(local) = &mut self.local else {
            self.inward.clear();
            return;
        };
        while !self.inward.is_empty() {
            match local.write(&self.inward) {
                Ok(count) => drop(self.inward.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.inward.clear(),
            }
        }
    }

    fn wait(&self, link: &Link, flushed: bool, next_beat: Instant) {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.inward.is_empty());
        flags.set(PollFlags::OUT, !flushed);
        let mut set = vec![PollFd::new(link.socket(), flags)];
        if let Some(local) = &self.local {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, flushed);
            flags.set(PollFlags::OUT, !self.inward.is_empty());
            set.push(PollFd::new(local, flags));
        }
        let left = next_beat.saturating_duration_since(Instant::now()).min(ms(100));
        let timeout = Timespec::try_from(left).expect("timeout");
        let _ = poll(&mut set, Some(&timeout));
    }

    fn stray(&self, what: &str, record: &[u8]) {
        let shown = String::from_utf8_lossy(&record[..record.len().min(60)]).into_owned();
        self.shared.strays.lock().expect("strays").push(format!("{what}: {shown:?}"));
    }
}
