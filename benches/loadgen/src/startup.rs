//! Time from starting a program to its first accepted connection.

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::arguments::{Arguments, die};
use crate::record::Record;
use crate::sys;

/// A program that does not listen by then never will, in nanoseconds.
const PATIENCE: u64 = 30_000_000_000;

/// Time between two tries to connect.
const PAUSE: Duration = Duration::from_micros(100);

/// Starts the command behind `--` so many `--rounds`, and waits each time until all `--port`s
/// accept.
pub(crate) fn run(arguments: &Arguments) {
    let ports: Vec<SocketAddr> = arguments
        .all("port")
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap_or_else(|e| die(e)))))
        .collect();
    let rounds: usize = arguments.get("rounds").unwrap_or(5);
    let Some((program, words)) = arguments.rest.split_first() else {
        die("startup: give the command after --")
    };
    let mut milliseconds = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        if let Some(taken) = ports.iter().find(|port| TcpStream::connect(port).is_ok()) {
            die(format_args!("{taken} is taken already"));
        }
        let began = sys::now();
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| die(error));
        for port in &ports {
            while TcpStream::connect(port).is_err() {
                if let Ok(Some(status)) = child.try_wait() {
                    die(format_args!("{program} ended: {status}"));
                }
                if sys::now() - began > PATIENCE {
                    sys::terminate(child.id());
                    die(format_args!("{program} does not listen on {port}"));
                }
                thread::sleep(PAUSE);
            }
        }
        milliseconds.push((sys::now() - began) as f64 / 1e6);
        sys::terminate(child.id());
        if let Err(error) = child.wait() {
            die(error);
        }
    }
    milliseconds.sort_by(f64::total_cmp);
    let mut record = Record::new("startup");
    record.number("ms", milliseconds[rounds / 2]);
    record.print();
}
