//! What others notice while somebody attacks: for each attack a row of a table (markdown, on
//! standard output), beside the same daemon with nobody attacking. docs/performance.md explains it.
//!
//!     cargo bench --bench attack                 everything
//!     cargo bench --bench attack -- --quick      two threads, shorter
//!     cargo bench --bench attack -- --only key   attacks whose name holds the word
//!     cargo bench --bench attack -- --record     everything, and its table into docs/results/performance.md
//!
//! The load average at the beginning and at the end tells whether the machine had other things to do.
//!
//! Runs in a network namespace of its own, whose loopback has an MTU of 1500, where it may make one.

#[path = "../../tests/common/mod.rs"]
mod common;

mod attacks;
mod probes;

use std::process::Command;
use std::time::{Duration, Instant};

use attacks::{ATTACKS, Attack, OTHER};
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
    if has(OTHER) {
        return attacks::other_program();
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
    let mut report = Report::default();
    report.line(&format!("Load average of the machine before: {}", load_average()));
    report.line("");
    report.line(
        "| attack | certificate | threads | echo, p99 | API call, longest | new agent, longest \
         | new user, longest | watchdog, longest gap | SIGTERM to stopping |\n\
         |---|---|---|---|---|---|---|---|---|",
    );
    for certificate in [Certificate::P256, Certificate::Rsa4096] {
        for threads in if quick { &[2][..] } else { &[1, 2] } {
            for attack in &attacks {
                if certificate == Certificate::P256 || attack.shakes_hands {
                    report.line(&run(attack, certificate, *threads, quick));
                }
            }
        }
    }
    report.line("");
    report.line(&format!("And after: {}", load_average()));
    if has("--record") {
        report.record();
    }
}

/// The machine's load averages: processes that wanted a processor, over 1, 5 and 15 minutes.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let averages: Vec<_> = text.split_whitespace().take(3).collect();
    averages.join(", ")
}

/// What was printed.
#[derive(Default)]
struct Report(String);

impl Report {
    fn line(&mut self, line: &str) {
        println!("{line}");
        self.0 += line;
        self.0.push('\n');
    }

    /// Writes it into the page, in the place of the last one.
    fn record(&self) {
        const MARKS: [&str; 2] = ["<!-- attack -->\n", "<!-- end of attack -->"];
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/results/performance.md");
        let page = std::fs::read_to_string(path).expect("the page");
        let [from, to] = MARKS.map(|mark| page.find(mark).expect("a mark"));
        let (before, after) = (&page[..from + MARKS[0].len()], &page[to..]);
        std::fs::write(path, format!("{before}\n{}\n{after}", self.0)).expect("written");
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

/// Runs one attack; gives its row.
fn run(attack: &Attack, certificate: Certificate, threads: u64, quick: bool) -> String {
    let time = Duration::from_millis(if quick { 1500 } else { 5000 });
    let notified = Notified::bind();
    let mut builder = Daemon::builder(Mode::Tls)
        .set("threads", threads)
        .environment("NOTIFY_SOCKET", notified.path())
        // Half of it is the interval: 10 ms.
        .environment("WATCHDOG_USEC", "20000");
    if certificate == Certificate::Rsa4096 {
        let Some([certificate, key]) = rsa_pair() else {
            return format!("| {} | RSA-4096: no openssl here | | | | | | | |", attack.name);
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
    row(attack, certificate, threads, &figures)
}

fn row(attack: &Attack, certificate: Certificate, threads: u64, figures: &Figures) -> String {
    let certificate = match certificate {
        Certificate::P256 => "P-256",
        Certificate::Rsa4096 => "RSA-4096",
    };
    let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
    let of = |probe: &probes::Figure| match probe.failed {
        0 => ms(probe.time),
        failed => format!("{}, {failed} of {} failed", ms(probe.time), probe.tries),
    };
    format!(
        "| {} | {certificate} | {threads} | {} | {} | {} | {} | {} | {} |",
        attack.name,
        of(&figures.echo),
        of(&figures.api),
        of(&figures.agent),
        of(&figures.user),
        ms(figures.watchdog),
        ms(figures.stopping),
    )
}
