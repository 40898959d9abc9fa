//! Measures TCP relays on loopback: throughput, latency, connection rate, start-up. A relay is
//! only a port to it, so that the same commands work with every relay:
//!
//! ```text
//! user (loadgen) -> relay -> [agent (loadgen)] -> backend (loadgen)
//! ```
//!
//! Everything stays on 127.0.0.1 and is bounded in time. A measuring command prints one line of
//! JSON. Linux only (epoll, sendfile, /proc). `benches/run` drives it.

mod agent;
mod arguments;
mod backend;
mod connections;
mod cost;
mod hold;
mod pingpong;
mod record;
mod saturate;
mod splice;
mod startup;
mod sys;
mod throughput;
mod tls;
mod tunnel;
mod user;

use arguments::{Arguments, die};

const HELP: &str = "usage: loadgen COMMAND [OPTIONS]
  backend     --listen PORT
  splice      --listen PORT --target PORT
  agent       --target PORT --passcode P --backend PORT --connections N
              [--version 1|2|3] [--beat-ms MS] [--again] [--secs S] [--forgetful]
  throughput  --target PORT [--dir up|down] [--conns N] [--secs S]
  pingpong    --target PORT [--conns N] [--size BYTES] [--secs S | --requests N]
  connections --target PORT [--conns N] [--size BYTES]
              [--secs S | --requests N [--pause-ms MS]]
  saturate    --target PORT --tunnels PORT --passcode P [--dir up|down]
              [--conns N] [--secs S]
  hold        --target PORT [--conns N]
  startup     --port PORT [--port PORT] [--rounds N] -- COMMAND ARGUMENTS
All but backend, splice and startup take --tls [--cipher aes128|aes256|chacha];
the measuring ones take --pid PID, the process whose processor time counts;
users take --patience SECS, after which they give up on an answer.
An agent says READY once, with --again whenever all its tunnels are there; with --secs it
ends that long after the first time and prints what became of tunnels and heartbeats.
With --forgetful its version 3 handshakes are full ones. A line on splice's standard input
has it reset all its connections.";

fn main() {
    sys::prepare();
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let arguments = Arguments::parse(words);
    match command.as_str() {
        "backend" => backend::run(&arguments),
        "splice" => splice::run(&arguments),
        "agent" => agent::run(&arguments),
        "throughput" => throughput::run(&arguments),
        "pingpong" => pingpong::run(&arguments),
        "connections" => connections::run(&arguments),
        "saturate" => saturate::run(&arguments),
        "hold" => hold::run(&arguments),
        "startup" => startup::run(&arguments),
        _ => die(HELP),
    }
}
