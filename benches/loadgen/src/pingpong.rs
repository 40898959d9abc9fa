//! Requests and answers of the same size, one outstanding on each connection.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use crate::arguments::{Arguments, die};
use crate::backend::ECHO;
use crate::cost::Cost;
use crate::record::Record;
use crate::sys::{self, Epoll, IN};
use crate::user::{Dial, User};

const WARMING_UP: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// What a thread has seen: latencies in nanoseconds, and whether it ended by an error.
type Seen = (Vec<u32>, bool);

/// Measures for `--secs`; or sends exactly `--requests` on one connection, for who counts
/// something else meanwhile.
pub(crate) fn run(arguments: &Arguments) {
    let dial = Dial::new(arguments);
    let users: usize = arguments.get("conns").unwrap_or(1);
    let size: usize = arguments.get("size").unwrap_or(64);
    let mut ready: Vec<User> = (0..users)
        .map(|_| connect(&dial).unwrap_or_else(|error| die(format_args!("pingpong: {error}"))))
        .collect();
    if let Some(requests) = arguments.get::<usize>("requests") {
        let (request, mut answer) = (vec![b'x'; size], vec![0; size]);
        for _ in 0..requests {
            exchange(&mut ready[0], &request, &mut answer).unwrap_or_else(|error| die(error));
        }
        return;
    }
    let phase = Arc::new(AtomicU8::new(WARMING_UP));
    // Many plain users need no thread each, which would cost more than the relay.
    let groups: Vec<Vec<User>> = if dial.is_tls() {
        ready.into_iter().map(|user| vec![user]).collect()
    } else {
        vec![ready]
    };
    let begin = Arc::new(Barrier::new(groups.len() + 1));
    let threads: Vec<_> = groups
        .into_iter()
        .map(|mut group| {
            let (phase, begin) = (phase.clone(), begin.clone());
            thread::spawn(move || {
                begin.wait();
                match &mut group[..] {
                    [user] => one(user, size, &phase),
                    _ => many(&group, size, &phase),
                }
            })
        })
        .collect();
    begin.wait();
    thread::sleep(Duration::from_secs_f64(arguments.get("warmup").unwrap_or(0.2)));
    let (cost, began) = (Cost::begin(arguments), sys::now());
    phase.store(MEASURING, Relaxed);
    thread::sleep(Duration::from_secs_f64(arguments.get("secs").unwrap_or(2.0)));
    phase.store(OVER, Relaxed);
    let (spent, elapsed) = (cost.end(), (sys::now() - began) as f64 / 1e9);
    let (mut latencies, mut errors) = (Vec::new(), 0);
    for thread in threads {
        let (seen, failed) = thread.join().unwrap_or_else(|_| die("a thread panicked"));
        latencies.extend(seen);
        errors += u8::from(failed);
    }
    let mut record = Record::new("pingpong");
    record.number("requests_s", latencies.len() as f64 / elapsed);
    spent.record(&mut record, "cpu_us_per_request", latencies.len() as f64 / 1e6);
    record.latencies(latencies);
    record.number("errors", errors.into());
    record.print();
}

fn connect(dial: &Dial) -> io::Result<User> {
    let mut user = dial.connect()?;
    user.send(&[ECHO])?;
    Ok(user)
}

fn exchange(user: &mut User, request: &[u8], answer: &mut [u8]) -> io::Result<()> {
    user.send(request)?;
    user.receive_all(answer)
}

fn one(user: &mut User, size: usize, phase: &AtomicU8) -> Seen {
    let (request, mut answer) = (vec![b'x'; size], vec![0; size]);
    let mut latencies = Vec::with_capacity(1 << 20);
    loop {
        let began = sys::now();
        if exchange(user, &request, &mut answer).is_err() {
            return (latencies, true);
        }
        match phase.load(Relaxed) {
            OVER => return (latencies, false),
            MEASURING => latencies.push((sys::now() - began) as u32),
            _ => {}
        }
    }
}

/// Plain users on one thread. A request fits any socket's buffer, so that sending never waits.
fn many(users: &[User], size: usize, phase: &AtomicU8) -> Seen {
    let request = vec![b'x'; size];
    let mut latencies = Vec::with_capacity(1 << 21);
    let result = many_until_over(users, &request, phase, &mut latencies);
    (latencies, result.is_err())
}

fn many_until_over(
    users: &[User],
    request: &[u8],
    phase: &AtomicU8,
    latencies: &mut Vec<u32>,
) -> io::Result<()> {
    let epoll = Epoll::new()?;
    // When each has sent, and how much of the answer has come.
    let mut outstanding = vec![(sys::now(), 0); users.len()];
    for (number, user) in users.iter().enumerate() {
        user.set_nonblocking()?;
        epoll.add(user.fd(), IN, number as u64)?;
        sys::write(user.fd(), request)?;
    }
    let (mut buffer, mut events) = (vec![0; 64 * 1024], Vec::new());
    loop {
        epoll.wait(&mut events, 100);
        let phase = phase.load(Relaxed);
        if phase == OVER {
            return Ok(());
        }
        for &(_, number) in &events {
            let (fd, (sent_at, got)) =
                (users[number as usize].fd(), &mut outstanding[number as usize]);
            match sys::read(fd, &mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => *got += count,
                Err(error) if sys::would_block(&error) => continue,
                Err(error) => return Err(error),
            }
            if *got >= request.len() {
                let now = sys::now();
                if phase == MEASURING {
                    latencies.push((now - *sent_at) as u32);
                }
                (*sent_at, *got) = (now, 0);
                sys::write(fd, request)?;
            }
        }
    }
}
