//! What others notice while somebody attacks: for each attack a row of a table (markdown, on
//! standard output), beside the same daemon with nobody attacking. docs/performance.md explains it.
//!
//!     cargo bench --bench attack                 everything
//!     cargo bench --bench attack -- --quick      two threads, shorter
//!     cargo bench --bench attack -- --only key   attacks whose name holds the word
//!
//! Runs in a network namespace of its own, whose loopback has an MTU of 1500, where it may make one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what fails here fails for whoever measures"
)]

#[path = "../../tests/common/mod.rs"]
mod common;

mod attacks;
mod probes;

use std::process::Command;
use std::time::{Duration, Instant};

use attacks::{ATTACKS, Attack};
use common::{Daemon, Mode, raise_files, rsa_pair};
use probes::{Figures, Notified, Probes};

/// The argument of the run inside the namespace.
const INSIDE: &str = "--inside";

/// How hard the server's certificate makes a handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Certificate {
    P256,
    Rsa4096,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    if !has("--bench") {
        return println!("run by `cargo bench --bench attack` alone");
    }
    if !has(INSIDE) {
        match inside(&arguments) {
            Some(code) => std::process::exit(code),
            None => println!("without a network namespace: the loopback's MTU is as it is\n"),
        }
    }
    let only = arguments.iter().skip_while(|argument| *argument != "--only").nth(1);
    let wanted = |attack: &&Attack| only.is_none_or(|word| attack.name.contains(word.as_str()));
    let attacks: Vec<&Attack> = ATTACKS.iter().filter(wanted).collect();
    let quick = has("--quick");
    raise_files();
    println!(
        "| attack | certificate | threads | echo, p99 | API call, longest | new agent, longest \
         | new user, longest | watchdog, longest gap | SIGTERM to stopping |\n\
         |---|---|---|---|---|---|---|---|---|"
    );
    for certificate in [Certificate::P256, Certificate::Rsa4096] {
        for threads in if quick { &[2][..] } else { &[1, 2] } {
            for attack in &attacks {
                if certificate == Certificate::P256 || attack.shakes_hands {
                    run(attack, certificate, *threads, quick);
                }
            }
        }
    }
}

/// Runs this again in a network namespace of its own; `None` where that may not be made.
fn inside(arguments: &[String]) -> Option<i32> {
    let script = "ip link set lo mtu 1500 && ip link set lo up && exec \"$@\"";
    let make = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["-n", "sh", "-c", script, "sh"]).args(command);
        unshare
    };
    if !make(&["true"]).output().is_ok_and(|output| output.status.success()) {
        return None;
    }
    let program = std::env::current_exe().expect("this program");
    let status = make(&[program.to_str()?]).args(arguments).arg(INSIDE).status();
    Some(status.ok()?.code().unwrap_or(1))
}

fn run(attack: &Attack, certificate: Certificate, threads: u64, quick: bool) {
    let time = Duration::from_millis(if quick { 1500 } else { 5000 });
    let notified = Notified::bind();
    let mut builder = Daemon::builder(Mode::Tls)
        .set("threads", threads)
        .environment("NOTIFY_SOCKET", notified.path())
        // Half of it is the interval: 10 ms.
        .environment("WATCHDOG_USEC", "20000");
    if certificate == Certificate::Rsa4096 {
        let Some([certificate, key]) = rsa_pair() else {
            return println!("| {} | RSA-4096: no openssl here | | | | | | | |", attack.name);
        };
        builder = builder.file("server-cert.pem", certificate).file("server-key.pem", key);
    }
    let mut daemon = builder.start();
    let probes = Probes::start(&daemon);
    let flood = (attack.start)(&daemon);
    std::thread::sleep(Duration::from_millis(300));
    probes.begin();
    notified.begin();
    std::thread::sleep(time);
    let mut figures = probes.end();
    figures.watchdog = notified.end();
    let asked = Instant::now();
    daemon.signal(rustix::process::Signal::TERM);
    notified.wait_for("STOPPING=1");
    figures.stopping = asked.elapsed();
    drop(flood);
    daemon.kill();
    print(attack, certificate, threads, &figures);
}

fn print(attack: &Attack, certificate: Certificate, threads: u64, figures: &Figures) {
    let certificate = match certificate {
        Certificate::P256 => "P-256",
        Certificate::Rsa4096 => "RSA-4096",
    };
    let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
    let of = |probe: &probes::Figure| match probe.failed {
        0 => ms(probe.time),
        failed => format!("{}, {failed} of {} failed", ms(probe.time), probe.tries),
    };
    println!(
        "| {} | {certificate} | {threads} | {} | {} | {} | {} | {} | {} |",
        attack.name,
        of(&figures.echo),
        of(&figures.api),
        of(&figures.agent),
        of(&figures.user),
        ms(figures.watchdog),
        ms(figures.stopping),
    );
}
