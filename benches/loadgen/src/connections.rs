//! Connect, shake hands, send, receive, close: as often as some workers can.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::arguments::{Arguments, die};
use crate::backend::ECHO;
use crate::cost::Cost;
use crate::record::Record;
use crate::sys;
use crate::user::Dial;

const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// After a failure a worker pauses, so that a refusing relay is not flooded.
const PAUSE: Duration = Duration::from_millis(1);

/// Measures for `--secs`; or makes exactly `--requests` connections one after the other with
/// `--pause-ms` between them, for who counts something else meanwhile.
pub(crate) fn run(arguments: &Arguments) {
    let dial = Dial::new(arguments);
    let size: usize = arguments.get("size").unwrap_or(64);
    if let Some(requests) = arguments.get("requests") {
        let (request, mut answer) = (request(size), vec![0; size]);
        let pause = Duration::from_millis(arguments.get("pause-ms").unwrap_or(0));
        for _ in 0..requests {
            connection(&dial, &request, &mut answer).unwrap_or_else(|error| die(error));
            thread::sleep(pause);
        }
        return;
    }
    let phase = Arc::new(AtomicU8::new(0));
    let workers: Vec<_> = (0..arguments.get("conns").unwrap_or(4))
        .map(|_| {
            let (dial, phase) = (dial.clone(), phase.clone());
            thread::spawn(move || work(&dial, size, &phase))
        })
        .collect();
    thread::sleep(Duration::from_secs_f64(arguments.get("warmup").unwrap_or(0.3)));
    let (cost, began) = (Cost::begin(arguments), sys::now());
    phase.store(MEASURING, Relaxed);
    thread::sleep(Duration::from_secs_f64(arguments.get("secs").unwrap_or(3.0)));
    phase.store(OVER, Relaxed);
    let (spent, elapsed) = (cost.end(), (sys::now() - began) as f64 / 1e9);
    let (mut latencies, mut errors) = (Vec::new(), 0);
    for worker in workers {
        let (seen, failed) = worker.join().unwrap_or_else(|_| die("a worker panicked"));
        latencies.extend(seen);
        errors += failed;
    }
    let mut record = Record::new("connections");
    record.number("connections_s", latencies.len() as f64 / elapsed);
    spent.record(&mut record, "cpu_us_per_connection", latencies.len() as f64 / 1e6);
    record.latencies(latencies);
    record.number("errors", errors.into());
    record.print();
}

fn request(size: usize) -> Vec<u8> {
    let mut request = vec![b'x'; size + 1];
    request[0] = ECHO;
    request
}

/// Latencies of the measured connections in nanoseconds, and how many failed.
fn work(dial: &Dial, size: usize, phase: &AtomicU8) -> (Vec<u32>, u32) {
    let (request, mut answer) = (request(size), vec![0; size]);
    let (mut latencies, mut errors) = (Vec::with_capacity(1 << 18), 0);
    loop {
        let began = sys::now();
        let done = connection(dial, &request, &mut answer);
        match phase.load(Relaxed) {
            OVER => return (latencies, errors),
            MEASURING if done.is_ok() => latencies.push((sys::now() - began) as u32),
            MEASURING => {
                errors += 1;
                if let Err(error) = &done {
                    eprintln!("connections: {error}");
                }
            }
            _ => {}
        }
        if done.is_err() {
            thread::sleep(PAUSE);
        }
    }
}

fn connection(dial: &Dial, request: &[u8], answer: &mut [u8]) -> io::Result<()> {
    let mut user = dial.connect()?;
    user.send(request)?;
    user.receive_all(answer)?;
    user.take_leave();
    Ok(())
}
