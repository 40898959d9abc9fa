//! Users that move bytes as fast as the relay allows, one way.
//!
//! Plain users send with `sendfile` and receive with `MSG_TRUNC`, so that the ends cost little
//! and the relay is what is measured.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use crate::arguments::{Arguments, die};
use crate::backend::{CHUNK, SINK, SOURCE, pattern};
use crate::cost::Cost;
use crate::record::Record;
use crate::sys;
use crate::user::{Dial, User};

#[derive(Default)]
struct Shared {
    bytes: AtomicU64,
    over: AtomicBool,
    lost: AtomicU64,
}

/// Measures for `--secs` after `--warmup`.
pub(crate) fn run(arguments: &Arguments) {
    let dial = Dial::new(arguments);
    let users: usize = arguments.get("conns").unwrap_or(1);
    let seconds = arguments.get("secs").unwrap_or(3.0);
    let direction: String = arguments.get("dir").unwrap_or_else(|| "up".into());
    let role = match direction.as_str() {
        "up" => SINK,
        "down" => SOURCE,
        _ => die("--dir: up or down"),
    };
    let shared = Arc::new(Shared::default());
    let begin = Arc::new(Barrier::new(users + 1));
    let threads: Vec<_> = (0..users)
        .map(|_| {
            let (dial, shared, begin) = (dial.clone(), shared.clone(), begin.clone());
            thread::spawn(move || {
                let user = connect(&dial, role);
                begin.wait();
                let moved = user.and_then(|mut user| {
                    let moved = move_bytes(&mut user, role, &shared);
                    user.shut();
                    moved
                });
                if let (Err(error), false) = (moved, shared.over.load(Relaxed)) {
                    shared.lost.fetch_add(1, Relaxed);
                    eprintln!("throughput: {error}");
                }
            })
        })
        .collect();
    begin.wait();
    thread::sleep(Duration::from_secs_f64(arguments.get("warmup").unwrap_or(0.2)));
    let cost = Cost::begin(arguments);
    let (bytes, began) = (shared.bytes.load(Relaxed), sys::now());
    thread::sleep(Duration::from_secs_f64(seconds));
    let gigabytes = (shared.bytes.load(Relaxed) - bytes) as f64 / 1e9;
    let (spent, elapsed) = (cost.end(), (sys::now() - began) as f64 / 1e9);
    let mut record = Record::new("throughput");
    record.number("gbit_s", gigabytes * 8.0 / elapsed);
    spent.record(&mut record, "cpu_s_per_gb", gigabytes);
    shared.over.store(true, Relaxed);
    for thread in threads {
        if thread.join().is_err() {
            die("a thread panicked");
        }
    }
    record.number("errors", shared.lost.load(Relaxed) as f64);
    record.print();
}

fn connect(dial: &Dial, role: u8) -> io::Result<User> {
    let mut user = dial.connect()?;
    user.send(&[role])?;
    if role == SINK {
        user.receive_all(&mut [0])?;
    }
    Ok(user)
}

fn move_bytes(user: &mut User, role: u8, shared: &Shared) -> io::Result<()> {
    let mut buffer = pattern();
    let file = sys::memory_file(&buffer)?;
    while !shared.over.load(Relaxed) {
        let count = match (role, &mut *user) {
            (SINK, User::Plain(_)) => sys::send_file(user.fd(), file, 0, CHUNK)?,
            (SINK, User::Tls(_)) => user.send(&buffer).map(|()| CHUNK)?,
            (_, User::Plain(_)) => sys::discard(user.fd(), 4 * CHUNK)?,
            (_, User::Tls(_)) => user.receive(&mut buffer)?,
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        shared.bytes.fetch_add(count as u64, Relaxed);
    }
    sys::close(file);
    Ok(())
}
