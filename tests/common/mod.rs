//! What the integration tests share: the real daemon in folders of its own, a Controller, agents
//! and users, all written from the protocol page and from nothing else.
//!
//! Everything blocks, with a deadline: [`PATIENCE`] where a test names none. No test may fail
//! because a machine is slow, so the deadlines are far beyond what is promised, and a promise of
//! speed is proved by order (this came before that), not by a clock.

#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(unreachable_pub, reason = "a test is a crate without users")]
#![allow(unused_imports, reason = "each test file uses its own part of this module")]
mod agent;
mod controller;
mod daemon;
mod deaf;
mod field;
mod folder;
mod forge;
mod frames;
mod header;
mod ignored;
mod link;
mod load;
mod manager;
mod ports;
mod running;
mod service;
mod strace;
mod tls;
mod tmux;
mod tunnel;

pub use agent::{Agent, BEAT};
pub use controller::{Connection, Controller, Mapping, Response, form, now, post};
pub use daemon::{Builder, Daemon, Exit, at, binary, run_cli, text};
pub use deaf::Deaf;
pub use field::{FieldAgent, FieldOptions};
pub use folder::Folder;
pub use forge::Forger;
pub use frames::{DATA, Framed, StandIn, data, frame, head};
pub use header::{Header, SIGNATURE};
pub use ignored::could_not_run;
pub use link::{Got, Link};
pub use load::{
    Base, Mover, client_hello, figure, full, open, period, raise_files, rsa_pair, size, stalled,
    timed,
};
pub use manager::Manager;
pub use ports::PortBlock;
pub use running::Running;
pub use service::Service;
pub use strace::Strace;
pub use tls::{
    Authority, Identity, Tickets, offering, resuming_tls12, trusting, trusting_version,
    trusting_with_identity,
};
pub use tmux::Terminal;
pub use tunnel::{PASSCODE, Tunnel};

use std::time::{Duration, Instant};

/// Says that the running test could not be run, because a program is not installed. `.ci/run` installs
/// them all and fails in CI where it says this.
pub fn not_installed(program: &str) {
    could_not_run(format!("{program} is not installed"));
}

/// Whether a command may mount what it likes, in a namespace of its own.
pub fn can_mount() -> bool {
    let tried = std::process::Command::new("unshare").args(["--mount", "true"]).output();
    tried.is_ok_and(|output| output.status.success())
}

/// How long anything may take that is promised to happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the daemon runs with `dev` true (plain TCP) or false (TLS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `dev` true.
    Plain,
    /// `dev` false.
    Tls,
}

/// Makes two tests of each named function, one in plain mode and one in TLS mode, with its attributes.
#[macro_export]
macro_rules! in_both_modes {
    ($($(#[$attribute:meta])* $name:ident),+ $(,)?) => {
        mod plain {
            $($(#[$attribute])* #[test] fn $name() { super::$name($crate::common::Mode::Plain) })+
        }
        mod tls {
            $($(#[$attribute])* #[test] fn $name() { super::$name($crate::common::Mode::Tls) })+
        }
    };
}

/// Asks `probe` until it answers, for as long as [`PATIENCE`] lasts.
#[track_caller]
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// [`eventually`] for a condition.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || condition().then_some(()));
}

/// `len` bytes that look random and are the same for the same `seed`.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// More than everything between two ends can hold: the kernel may keep 32 MiB for a socket.
pub fn flood(seed: u64) -> Vec<u8> {
    noise(seed, 1 << 20).repeat(64)
}

/// A `Duration` in milliseconds, for short lines.
pub const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Compares two long byte strings and reports the first difference instead of all of both.
#[track_caller]
pub fn assert_same(got: &[u8], expected: &[u8], what: &str) {
    if got == expected {
        return;
    }
    let at = got.iter().zip(expected).position(|(a, b)| a != b);
    let at = at.unwrap_or(got.len().min(expected.len()));
    panic!(
        "{what}: {} bytes came, {} were expected, different from byte {at} on: {:?} for {:?}",
        got.len(),
        expected.len(),
        String::from_utf8_lossy(&got[at..got.len().min(at + 40)]),
        String::from_utf8_lossy(&expected[at..expected.len().min(at + 40)]),
    );
}
