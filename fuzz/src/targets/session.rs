//! A whole session: the real relay on real sockets, plain or TLS, and both its peers, who send,
//! read, end and break as the input says, while time passes as the input says.
//!
//! What must hold (protocol page, sections 4 to 6), `Session::judge` says: bytes out are
//! bytes in without heartbeats, in order, record for record between two TLS legs; every heartbeat
//! is answered; a session ends for a reason that is there, and does end when there is one; memory
//! keeps its bound, and every socket, pipe and byte of memory is given back.

mod driver;
mod judge;
mod peer;

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::time::Duration;

use iofog_connector::fuzzing::{Conduit, allow_conduits, block_on, sleep};

use crate::clock;
use crate::input::Choices;
use crate::memory::held;
use driver::{Session, Stage};

/// Memory that may grow with time: slabs and queues that double.
const SLACK: isize = 256 * 1024;

thread_local! {
    static STAGE: Stage = Stage::new();
    /// What was held after the first runs, and how many those were.
    static BASE: Cell<(isize, u32)> = const { Cell::new((0, 0)) };
}

pub(crate) fn check(data: &[u8]) -> bool {
    if data.len() < 6 {
        return false;
    }
    clock::stop();
    STAGE.with(|stage| {
        let files = next_file();
        block_on(run(stage, data)).expect("an event loop");
        assert_eq!(next_file(), files, "an open file is left");
        let (base, runs) = BASE.get();
        if runs < 64 {
            BASE.set((base.max(held()), runs + 1));
        } else {
            assert!(held() <= base + SLACK, "{} bytes are left", held() - base);
        }
    });
    true
}

async fn run(stage: &Stage, data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut session = Session::begin(stage, &mut choices).await;
    for _ in 0..200 {
        if choices.is_empty() || session.is_over() {
            break;
        }
        session.act(&mut choices).await;
    }
    if session.is_abandoned() {
        // The mapping is removed: the relay is dropped where it stands.
        return;
    }
    session.finish().await;
}

/// The number that the next file will have: higher when one is left open.
fn next_file() -> i32 {
    // Kernel pipes are kept for later sessions, which is no leak: all that may be are there.
    drop(std::iter::from_fn(Conduit::take).collect::<Vec<_>>());
    let file = rustix::io::dup(std::io::stderr()).expect("a file");
    file.as_raw_fd()
}

/// What the first session of a thread would make, and later ones keep.
fn warm_up() {
    allow_conduits(1, 1024);
    block_on(sleep(Duration::ZERO)).expect("an event loop");
}
