//! No byte of one session ever reaches another: many users and many tunnels at once, whose every
//! byte says whose it is. `IOFOG_CONNECTOR_SESSIONS=1000000` asks for so many sessions
//! (docs/testing.md).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test a panic is a report"
)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use common::*;

const NEVER: u64 = 200_000;

/// Users at one time, and tunnels of each of two mappings.
const USERS: usize = 12;
const TUNNELS: usize = 10;

/// One in so many sessions of the second mapping is reset by its user in mid-answer.
const ABORTED: usize = 4;

/// The bytes that a session consists of, again and again.
const TAG: usize = 16;

#[test]
fn tagged_bytes_reach_their_own_session_alone_plain() {
    tagged_bytes_reach_their_own_session_alone(Mode::Plain, sessions(4000));
}

#[test]
fn tagged_bytes_reach_their_own_session_alone_tls() {
    tagged_bytes_reach_their_own_session_alone(Mode::Tls, sessions(1000));
}

fn sessions(usual: usize) -> usize {
    let asked = std::env::var("IOFOG_CONNECTOR_SESSIONS").ok();
    asked.map_or(usual, |count| count.parse().expect("IOFOG_CONNECTOR_SESSIONS is a number"))
}

fn tagged_bytes_reach_their_own_session_alone(mode: Mode, sessions: usize) {
    raise_files();
    let daemon = Daemon::builder(mode).set("userwait", 60_000).start();
    // Users of the second one leave in mid-answer now and then, which makes its pairing wary.
    let mappings = [(); 2].map(|()| daemon.api().add_public(60, NEVER));
    let (begun, complete, aborted) =
        (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let ended = AtomicBool::new(false);
    let start = Instant::now();
    thread::scope(|scope| {
        let end = Raise(&ended);
        for number in 0..2 * TUNNELS {
            let (daemon, mapping, ended) = (&daemon, &mappings[number % 2], &ended);
            scope.spawn(move || {
                let agent = format!("agent {number:06}...\n");
                while !ended.load(Ordering::Relaxed) {
                    serve(daemon, mapping, agent.as_bytes(), ended);
                }
            });
        }
        let users: Vec<_> = (0..USERS)
            .map(|user| {
                let (daemon, mappings) = (&daemon, &mappings);
                let (begun, complete, aborted) = (&begun, &complete, &aborted);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(user as u64);
                    loop {
                        let number = begun.fetch_add(1, Ordering::Relaxed);
                        if number >= sessions {
                            return;
                        }
                        // Those of the wary mapping take longer.
                        let second = number % 64 == 0;
                        let abort = second && number % (64 * ABORTED) == 0;
                        let mapping = &mappings[usize::from(second)];
                        let tag = format!("session{number:08}\n");
                        assert_eq!(tag.len(), TAG);
                        visit(daemon, mapping, tag.as_bytes(), abort, &mut random);
                        if abort { aborted } else { complete }.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for user in users {
            user.join().expect("a user got its own bytes");
        }
        drop(end);
    });
    let counts = (complete.into_inner(), aborted.into_inner());
    figure(mode, "sessions complete, and reset in mid-answer", counts);
    figure(mode, "in", start.elapsed());
    assert_eq!(counts.0 + counts.1, sessions);
}

/// One user's session: asks with its own tag, and gets it back behind the agent's.
fn visit(daemon: &Daemon, mapping: &Mapping, tag: &[u8], abort: bool, random: &mut fastrand::Rng) {
    let tags = match random.usize(..20) {
        // More than is held on the way, so that the reset finds bytes everywhere.
        _ if abort => 100_000 + random.usize(..100_000),
        0 => 1,
        1 => 1000 + random.usize(..3000),
        _ => 1 + random.usize(..100),
    };
    // What the agent is to know first: how much will come.
    let head = format!("{tags:09} tags:\n");
    let mut user = daemon.user(mapping);
    if abort {
        user.shrink();
    }
    user.send(&[head.as_bytes(), &tag.repeat(tags)].concat());
    let read = if abort { random.usize(..=tags / 2) } else { tags };
    let answer = user.exactly(2 * TAG * read);
    let agent = answer.get(..TAG).unwrap_or_default().to_vec();
    assert!(agent.is_empty() || agent.starts_with(b"agent "), "{}", text(&agent));
    let expected = [&agent, tag].concat().repeat(read);
    assert_same(&answer, &expected, "one agent's tag and one's own, in turn");
    if abort {
        return user.reset();
    }
    let rest = user.until_end();
    assert!(rest.is_empty(), "{} after the answer's end", text(&rest));
}

/// One tunnel's life: it is asked by one user, and by nobody else.
fn serve(daemon: &Daemon, mapping: &Mapping, name: &[u8], ended: &AtomicBool) {
    let Ok(link) = daemon.try_link(mapping.port1) else { return };
    let mut tunnel = Agent::over(link).prove(&mapping.passcode1);
    // A user that resets may take its last bytes with it.
    let mut question = Vec::new();
    let mut more = |tunnel: &mut Agent, least: usize| loop {
        if question.len() >= least {
            return Some(std::mem::take(&mut question));
        }
        match tunnel.record_by(Instant::now() + ms(100)) {
            Got::Bytes(bytes) => question.extend(bytes),
            Got::Late if !ended.load(Ordering::Relaxed) => {}
            _ => return None,
        }
    };
    let Some(mut all) = more(&mut tunnel, TAG) else { return };
    let head = text(&all[..TAG]);
    let tags = head.strip_suffix(" tags:\n").and_then(|count| count.parse().ok());
    let tags: usize = tags.unwrap_or_else(|| panic!("{head:?} is no head of a question"));
    let length = TAG * (1 + tags);
    if all.len() < length {
        let Some(rest) = more(&mut tunnel, length - all.len()) else { return };
        all.extend(rest);
    }
    assert_eq!(all.len(), length, "more than one user asked");
    let tag = &all[TAG..2 * TAG];
    assert!(tag.starts_with(b"session"), "{}", text(tag));
    assert_same(&all[TAG..], &tag.repeat(tags), "one user's tag");
    if tunnel.try_send(&[name, tag].concat().repeat(tags)).is_err() {
        return;
    }
    tunnel.finish();
    // Nothing else may come up to the end, whatever end it is.
    loop {
        match tunnel.record_by(Instant::now() + ms(100)) {
            Got::Bytes(bytes) => panic!("{} after the question", text(&bytes)),
            Got::Late if !ended.load(Ordering::Relaxed) => {}
            _ => return,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned()
}

/// Raises the flag when dropped, after a panic too: the threads that look at it must end.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
