//! Both ends of saturated sessions, users and agents in one process. They cost as little as ends
//! can, so that the connector's threads are what limits them.
//!
//! Plain bytes are sent with `sendfile` and thrown away in the kernel. So are TLS records: all
//! that is to be sent is sealed beforehand, into memory, and the receiving end never opens it.

use std::io::{self, Write};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::arguments::{Arguments, die};
use crate::backend::{CHUNK, pattern};
use crate::cost::Cost;
use crate::record::Record;
use crate::sys;
use crate::user::{Dial, User};

/// Bytes sealed for each second of a TLS session: more than one thread opens and seals.
const SEALED_PER_SECOND: f64 = 0.8e9;

/// How often the measuring thread looks whether something has run out.
const LOOK: Duration = Duration::from_millis(2);

struct Shared {
    /// What has arrived, by session.
    bytes: Vec<AtomicU64>,
    over: AtomicBool,
}

/// One end that sends.
struct Sender {
    end: User,
    file: RawFd,
    /// Bytes in the file; `None` when its beginning can be sent for ever.
    length: Option<usize>,
}

/// Measures `--conns` sessions for `--secs` after `--warmup`, or until the sealed bytes run out.
/// Prints `READY` when all are moving. The tunnels are of version 1.
pub(crate) fn run(arguments: &Arguments) {
    let seconds = arguments.get("secs").unwrap_or(1.0);
    let warmup = arguments.get("warmup").unwrap_or(0.2);
    let sealed = ((seconds + warmup) * SEALED_PER_SECOND) as usize;
    let up = match arguments.get::<String>("dir").as_deref() {
        None | Some("up") => true,
        Some("down") => false,
        _ => die("--dir: up or down"),
    };
    let (users, tunnels) = connect(arguments).unwrap_or_else(|error| die(error));
    let (sending, receiving) = if up { (users, tunnels) } else { (tunnels, users) };
    let bytes = receiving.iter().map(|_| AtomicU64::new(0)).collect();
    let shared = Arc::new(Shared { bytes, over: AtomicBool::new(false) });
    // Sealing takes about as long as sending, so that each session does it on its own thread.
    let sealing: Vec<_> =
        sending.into_iter().map(|end| thread::spawn(move || Sender::new(end, sealed))).collect();
    let senders: Vec<Sender> = sealing
        .into_iter()
        .map(|thread| match thread.join() {
            Ok(sender) => sender.unwrap_or_else(|error| die(error)),
            Err(_) => die("a thread panicked"),
        })
        .collect();
    for sender in senders {
        let shared = shared.clone();
        thread::spawn(move || sender.send(&shared));
    }
    for (number, end) in receiving.into_iter().enumerate() {
        let shared = shared.clone();
        thread::spawn(move || receive(&end, number, &shared));
    }
    thread::sleep(Duration::from_secs_f64(warmup));
    println!("READY");
    if let Err(error) = io::stdout().flush() {
        die(error);
    }
    measure(arguments, seconds, &shared);
}

fn measure(arguments: &Arguments, seconds: f64, shared: &Shared) {
    let (cost, own) = (Cost::begin(arguments), Cost::of(std::process::id()));
    let (before, began) = (shared.bytes(), sys::now());
    let until = began + (seconds * 1e9) as u64;
    while sys::now() < until && !shared.over.load(Relaxed) {
        thread::sleep(LOOK);
    }
    let moved: Vec<u64> =
        shared.bytes().iter().zip(before).map(|(after, before)| after - before).collect();
    let elapsed = (sys::now() - began) as f64 / 1e9;
    let gigabytes = moved.iter().sum::<u64>() as f64 / 1e9;
    let mut record = Record::new("saturate");
    record.number("gbit_s", gigabytes * 8.0 / elapsed);
    let spent = cost.end();
    spent.record(&mut record, "cpu_s_per_gb", gigabytes);
    spent.record_workers(&mut record, elapsed);
    own.end().record(&mut record, "load_cores", elapsed);
    let (least, most) = (moved.iter().min(), moved.iter().max());
    if let (Some(least), Some(most)) = (least, most) {
        record.number("least_session", *least as f64 / *most as f64);
    }
    record.number("elapsed_s", elapsed);
    shared.over.store(true, Relaxed);
    record.print();
}

/// Users and as many tunnels, paired; who is whose partner does not matter.
fn connect(arguments: &Arguments) -> io::Result<(Vec<User>, Vec<User>)> {
    let count: usize = arguments.get("conns").unwrap_or(2);
    let passcode: String = arguments.need("passcode");
    let to_tunnels = Dial::to(arguments, "tunnels");
    let mut tunnels = Vec::with_capacity(count);
    for _ in 0..count {
        let mut tunnel = to_tunnels.connect()?;
        tunnel.send(passcode.as_bytes())?;
        let mut answer = [0; 10];
        tunnel.receive_all(&mut answer)?;
        if &answer != b"AUTHORIZED" {
            return Err(io::Error::other("saturate: the passcode is not accepted"));
        }
        tunnels.push(tunnel);
    }
    let to_users = Dial::new(arguments);
    let mut users = Vec::with_capacity(count);
    for _ in 0..count {
        let mut user = to_users.connect()?;
        // A version 1 tunnel is only given to a user that has sent something.
        user.send(b"x")?;
        users.push(user);
    }
    for tunnel in &mut tunnels {
        tunnel.receive_all(&mut [0])?;
    }
    Ok((users, tunnels))
}

impl Shared {
    fn bytes(&self) -> Vec<u64> {
        self.bytes.iter().map(|bytes| bytes.load(Relaxed)).collect()
    }
}

impl Sender {
    fn new(mut end: User, sealed: usize) -> io::Result<Self> {
        let pattern = pattern();
        if !end.is_tls() {
            return Ok(Sender { end, file: sys::memory_file(&pattern)?, length: None });
        }
        let file = sys::memory_file(&[])?;
        let mut length = 0;
        while length < sealed {
            length += end.seal(&pattern, file)?;
        }
        Ok(Sender { end, file, length: Some(length) })
    }

    fn send(self, shared: &Shared) {
        let mut offset = 0;
        while !shared.over.load(Relaxed) {
            let sent = sys::send_file(self.end.fd(), self.file, offset, 4 * CHUNK);
            let Ok(sent) = sent else { die("saturate: a session has ended") };
            if self.length.is_some() {
                offset += sent;
            }
            if self.length.is_some_and(|length| offset >= length) {
                shared.over.store(true, Relaxed);
            }
        }
    }
}

fn receive(end: &User, number: usize, shared: &Shared) {
    while !shared.over.load(Relaxed) {
        match sys::discard(end.fd(), 4 * CHUNK) {
            Ok(count) if count > 0 => shared.bytes[number].fetch_add(count as u64, Relaxed),
            _ if shared.over.load(Relaxed) => return,
            _ => die("saturate: a session has ended"),
        };
    }
}
