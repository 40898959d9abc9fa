//! No byte of one session ever reaches another: many users and many tunnels at once, whose every
//! byte says whose it is. `IOFOG_CONNECTOR_SESSIONS=1000000` asks for so many sessions, and
//! `IOFOG_CONNECTOR_SECONDS=600` for the long form (docs/testing.md).

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

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

// Tunnels of version 3, which carry one session after another

/// Tunnels of the one mapping, and users at one time: more, so that each tunnel is used again and again.
const REUSED: usize = 60;
const CROWD: usize = 72;

#[test]
fn tagged_bytes_reach_their_own_session_alone_over_reused_tunnels_plain() {
    reused_tunnels_carry_each_sessions_bytes_alone(Mode::Plain, sessions(4000));
}

#[test]
fn tagged_bytes_reach_their_own_session_alone_over_reused_tunnels_tls() {
    reused_tunnels_carry_each_sessions_bytes_alone(Mode::Tls, sessions(2000));
}

/// What one side says in a session of this number: blocks that each name session, direction and place, the first
/// one the length of all in the place's place.
fn blocks(number: usize, up: bool, length: usize) -> Vec<u8> {
    let name = ((number as u64) << 1 | u64::from(up)).to_be_bytes();
    let length = length.max(TAG);
    let place = |at: usize| if at == 0 { length } else { at } as u64;
    let mut all: Vec<u8> =
        (0..length.div_ceil(TAG)).flat_map(|at| [name, place(at).to_be_bytes()].concat()).collect();
    all.truncate(length);
    all
}

/// Session, direction and length of all that is said, if so much has come.
fn named(bytes: &[u8]) -> Option<(usize, bool, usize)> {
    let (name, rest) = bytes.split_first_chunk()?;
    let (name, length) = (u64::from_be_bytes(*name), u64::from_be_bytes(*rest.first_chunk()?));
    Some(((name >> 1) as usize, name & 1 == 1, length as usize))
}

/// What is counted of many sessions over tunnels of version 3.
#[derive(Default)]
struct Tally {
    whole: AtomicUsize,
    left: AtomicUsize,
    broken: AtomicUsize,
}

fn reused_tunnels_carry_each_sessions_bytes_alone(mode: Mode, sessions: usize) {
    raise_files();
    let daemon = Daemon::builder(mode).set("userwait", 60_000).start();
    let mapping = daemon.api().add_public(REUSED as u32, NEVER);
    // Whether an agent has had bytes of the session with this number.
    let had: Vec<_> = (0..sessions).map(|_| AtomicBool::new(false)).collect();
    let (begun, tally, ended) = (AtomicUsize::new(0), Tally::default(), AtomicBool::new(false));
    let start = Instant::now();
    thread::scope(|scope| {
        let end = Raise(&ended);
        let mut agents = Vec::new();
        for seed in 0..REUSED {
            let (daemon, mapping, had, ended) = (&daemon, &mapping, &had, &ended);
            agents.push(scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed as u64);
                // A tunnel ends only where this machine was too busy to answer in time.
                while !ended.load(Ordering::Relaxed) {
                    let mut agent = daemon.version_three(mapping);
                    while carry(&mut agent, had, ended, &mut random).is_some() {}
                }
            }));
        }
        let user = |seed| {
            let (daemon, mapping, begun, tally) = (&daemon, &mapping, &begun, &tally);
            move || {
                let mut random = fastrand::Rng::with_seed(seed);
                loop {
                    let number = begun.fetch_add(1, Ordering::Relaxed);
                    if number >= sessions {
                        return;
                    }
                    one_of_a_crowd(daemon, mapping, number, &mut random, tally);
                }
            }
        };
        let users: Vec<_> = (0..CROWD).map(|seed| scope.spawn(user(seed as u64))).collect();
        for user in users {
            user.join().expect("a user got its own bytes");
        }
        drop(end);
        for agent in agents {
            agent.join().expect("an agent got one user's bytes at a time");
        }
    });
    let Tally { whole, left, broken } = tally;
    let [whole, left, broken] = [whole, left, broken].map(AtomicUsize::into_inner);
    figure(mode, "whole, left by their users, broken off by their agents", (whole, left, broken));
    figure(mode, "in", start.elapsed());
    let tunnels = daemon.api().number(&mapping, "counts.tunnelsTotal");
    figure(mode, "tunnels dialled", tunnels);
    assert_eq!(whole + left + broken, sessions);
    assert!(whole > sessions / 4, "most sessions broke");
    assert!(tunnels < (REUSED + sessions / 20) as u64, "tunnels are not used again");
}

/// One session of a tunnel, or a while without one; `None` where the tunnel or the test is over.
fn carry(
    agent: &mut Framed,
    had: &[AtomicBool],
    ended: &AtomicBool,
    random: &mut fastrand::Rng,
) -> Option<()> {
    // An `X` of a session that is over may come, and after an `F` what was on its way.
    loop {
        match agent.next_by(Instant::now() + ms(50)) {
            Ok((b'O', _)) => break,
            Ok((b'X' | b'D' | b'E', _)) => {}
            Err(Got::Late) if !ended.load(Ordering::Relaxed) => {}
            Err(_) => return None,
            Ok((kind, _)) => panic!("{} on an idle tunnel", char::from(kind)),
        }
    }
    agent.link.try_send(&frame(b'S', b"")).ok()?;
    match random.usize(..24) {
        0 => {
            agent.link.try_send(&frame(b'F', b"as chance has it")).ok()?;
            // Nothing but this session's may come before the next one's beginning: it is not looked at.
            return Some(());
        }
        1 => return break_off(agent),
        _ => agent.link.try_send(&frame(b'A', b"")).ok()?,
    }
    let breaks_at = (random.usize(..6) == 0).then(|| random.usize(..20_000));
    let ends_early = random.usize(..6) == 0;
    let answer = length(random);
    let (mut got, mut session) = (Vec::new(), None);
    let (mut have_ended, mut has_ended) = (false, false);
    while !(have_ended && has_ended) {
        match agent.next_by(Instant::now() + PATIENCE) {
            Ok((b'D', bytes)) => got.extend(bytes),
            Ok((b'E', _)) => has_ended = true,
            Ok((b'X', _)) => {
                are_of_one_session(&got, true, session);
                return agent.link.try_send(&frame(b'X', b"")).ok();
            }
            Ok((kind, _)) => panic!("{} in a session", char::from(kind)),
            Err(Got::Late) => panic!("nothing comes"),
            Err(_) => return None,
        }
        if session.is_none() {
            session = named(&got);
            if let Some((number, _, _)) = session {
                let twice = had[number].swap(true, Ordering::Relaxed);
                assert!(!twice, "session {number} has come twice");
                agent.queue(&blocks(number, false, answer));
            }
        }
        if breaks_at.is_some_and(|at| got.len() >= at) && !has_ended {
            are_of_one_session(&got, true, session);
            return break_off(agent);
        }
        let is_whole = session.is_some_and(|(_, _, length)| got.len() >= length);
        assert!(!has_ended || is_whole, "an end after {} bytes of {session:?}", got.len());
        if !have_ended && (is_whole || ends_early && session.is_some()) {
            agent.queue_end();
            have_ended = true;
        }
    }
    are_of_one_session(&got, true, session);
    Some(())
}

/// Breaks the session off, and throws away what comes before the answer.
fn break_off(agent: &mut Framed) -> Option<()> {
    agent.link.try_send(&frame(b'X', b"as chance has it")).ok()?;
    loop {
        match agent.next_by(Instant::now() + PATIENCE) {
            Ok((b'X', _)) => return Some(()),
            Ok((b'D' | b'E', _)) => {}
            Ok((kind, _)) => panic!("{} after a break", char::from(kind)),
            Err(Got::Late) => panic!("a break has no answer"),
            Err(_) => return None,
        }
    }
}

/// What has come is the beginning of what the other side says in this session, or all of it.
fn are_of_one_session(got: &[u8], up: bool, session: Option<(usize, bool, usize)>) {
    let Some((number, way, length)) = session else {
        return assert!(got.len() < TAG);
    };
    assert_eq!(way, up, "one's own bytes have come back");
    assert!(got.len() <= length, "{} bytes of {length}", got.len());
    assert_same(got, &blocks(number, up, length)[..got.len()], "one session's bytes");
}

fn length(random: &mut fastrand::Rng) -> usize {
    match random.usize(..100) {
        0 => random.usize(..300_000),
        1..10 => random.usize(..30_000),
        _ => random.usize(..1000),
    }
}

/// One user: says who it is, and reads; it leaves anywhere, ends before the answer or behind it.
fn one_of_a_crowd(
    daemon: &Daemon,
    mapping: &Mapping,
    number: usize,
    random: &mut fastrand::Rng,
    tally: &Tally,
) {
    let question = blocks(number, true, length(random));
    let leaves_at = (random.usize(..5) == 0).then(|| random.usize(..2000));
    let says = if random.bool() { question.len() } else { random.usize(..question.len()) };
    let ends_first = random.bool();
    let mut user = daemon.user(mapping);
    let said = if leaves_at.is_some() { &question[..says] } else { &question };
    user.queue(said).expect("queue");
    let mut answer = Vec::new();
    let mut pending_end = ends_first && leaves_at.is_none();
    let deadline = Instant::now() + 3 * PATIENCE;
    let end = loop {
        // One that cannot be written may still have something to read.
        let flushed = user.push().unwrap_or(true);
        if flushed && pending_end {
            pending_end = false;
            user.finish();
        }
        if leaves_at.is_some_and(|at| answer.len() >= at || said.len() < TAG) && random.bool() {
            are_of_one_session(&answer, false, named(&answer));
            user.reset();
            tally.left.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let next = if leaves_at.is_some() { Instant::now() + ms(3) } else { deadline };
        match user.read_now(64 * 1024) {
            Some(Got::Bytes(bytes)) => answer.extend(bytes),
            Some(end) => break end,
            None if user.wait(true, !flushed, next) => {}
            None if leaves_at.is_some() => {
                user.reset();
                tally.left.fetch_add(1, Ordering::Relaxed);
                return;
            }
            None => panic!("session {number} does not end"),
        }
    };
    let session = named(&answer);
    assert!(session.is_none_or(|(told, _, _)| told == number), "{session:?} to {number}");
    are_of_one_session(&answer, false, session);
    let is_whole = session.is_some_and(|(_, _, length)| answer.len() == length);
    if end == Got::End {
        assert!(is_whole, "session {number} looks ended after {} bytes", answer.len());
        // What it leaves out is not an end.
        if said.len() == question.len() {
            user.finish();
        } else {
            user.reset();
        }
    }
    let counted = if end == Got::End { &tally.whole } else { &tally.broken };
    counted.fetch_add(1, Ordering::Relaxed);
}

// The field's agent, which keeps its service's connection, and users that leave anyhow

/// What a user asks of [`answering`]: pieces of so many tags, the first after `delay`, further ones
/// after `pause`.
struct Question {
    tag: String,
    pieces: usize,
    tags: usize,
    pause: Duration,
    delay: Duration,
}

impl Question {
    fn line(&self) -> String {
        let Question { tag, pieces, tags, pause, delay } = self;
        format!("{} {pieces} {tags} {} {}\n", tag.trim(), pause.as_millis(), delay.as_millis())
    }
}

/// A service that answers every question whole, whoever has left meanwhile, and notes when the last
/// piece of each answer was sent.
fn answering(ended: impl Fn(Instant) + Send + Sync + 'static) -> Service {
    Service::new(move |socket: TcpStream| {
        let mut lines = BufReader::new(socket.try_clone().unwrap()).lines();
        let mut socket = socket;
        while let Some(Ok(line)) = lines.next() {
            let words: Vec<&str> = line.split(' ').collect();
            let [tag, pieces, tags, pause, delay] = words[..] else { panic!("{line:?}") };
            let number = |text: &str| text.parse::<u64>().unwrap();
            let piece = format!("{tag}\n").repeat(number(tags) as usize);
            thread::sleep(ms(number(delay)));
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            for at in 0..number(pieces) {
                if at > 0 {
                    thread::sleep(ms(number(pause)));
                }
                if socket.write_all(piece.as_bytes()).is_err() {
                    return;
                }
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            note(tag, format!("answered at {last:?}, longest pause {longest:?}"));
            ended(last);
        }
    })
}

/// What became of each question, to be told of one whose answer reaches another user: a busy machine
/// makes pauses that nobody asked for.
static NOTES: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

fn note(tag: &str, what: String) {
    let mut notes = NOTES.lock().unwrap_or_else(PoisonError::into_inner);
    let notes = notes.entry(tag.trim().to_owned()).or_default();
    notes.push_str(&what);
    notes.push_str("; ");
}

/// What became of the question whose tag `answer` holds in place of `tag`.
fn others_notes(answer: &[u8], tag: &str) -> String {
    let foreign = answer.chunks(TAG).find(|one| *one != tag.as_bytes()).unwrap_or_default();
    let notes = NOTES.lock().unwrap_or_else(PoisonError::into_inner);
    notes.get(text(foreign).trim()).cloned().unwrap_or_default()
}

#[test]
fn old_answers_of_the_fields_agent_reach_nobody_over_one_tunnel() {
    let sessions = sessions(60);
    old_answers_reach_nobody(Mode::Tls, 1, 1, |number| number < sessions);
}

#[test]
fn old_answers_of_the_fields_agent_reach_nobody_over_four_tunnels() {
    let sessions = sessions(250);
    old_answers_reach_nobody(Mode::Tls, 1, 4, |number| number < sessions);
}

#[test]
fn old_answers_of_the_fields_agent_reach_nobody_over_many_tunnels() {
    let sessions = sessions(1500);
    old_answers_reach_nobody(Mode::Tls, 1, 24, |number| number < sessions);
}

#[test]
#[ignore = "lasts as long as it is told, IOFOG_CONNECTOR_SECONDS=600: docs/testing.md"]
fn old_answers_of_the_fields_agent_reach_nobody_over_many_mappings_for_long() {
    let told = std::env::var("IOFOG_CONNECTOR_SECONDS").expect("IOFOG_CONNECTOR_SECONDS is set");
    let length = Duration::from_secs(told.parse().expect("a number of seconds"));
    let end = Instant::now() + length;
    old_answers_reach_nobody(Mode::Tls, 10, 24, |_| Instant::now() < end);
}

/// Users of so many mappings, of so many tunnels each, ask and leave while `goes_on` says so to the
/// number of the next one.
fn old_answers_reach_nobody(
    mode: Mode,
    mappings: usize,
    tunnels: usize,
    goes_on: impl Fn(usize) -> bool + Sync,
) {
    raise_files();
    let ports = u16::try_from(2 * mappings).unwrap();
    let daemon = Daemon::builder(mode).ports(ports.max(15));
    let daemon = daemon.set("userwait", 600_000).set("pending", 1000).start();
    let service = answering(|_| {});
    let sites: Vec<_> = (0..mappings)
        .map(|_| {
            let mapping = daemon.api().add_public(60, NEVER);
            let agent = FieldAgent::start(&daemon, &mapping, tunnels, service.address);
            agent.wait_authorized();
            (mapping, agent)
        })
        .collect();
    let (begun, over, left) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        for user in 0..2 * tunnels * mappings {
            let (daemon, mapping, goes_on) = (&daemon, &sites[user % mappings].0, &goes_on);
            let (begun, over, left) = (&begun, &over, &left);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(user as u64);
                loop {
                    let number = begun.fetch_add(1, Ordering::Relaxed);
                    if !goes_on(number) {
                        return;
                    }
                    if !ask_and_leave(daemon, mapping, number, &mut random) {
                        left.fetch_add(1, Ordering::Relaxed);
                    }
                    over.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    figure(mode, "mappings, and tunnels of each", (mappings, tunnels));
    figure(mode, "sessions, of which left in mid-answer", (over.into_inner(), left.into_inner()));
    figure(mode, "in", start.elapsed());
    let dialled: usize = sites.iter().map(|(_, agent)| agent.accepted()).sum();
    figure(mode, "tunnels dialled", dialled);
    sites.iter().for_each(|(_, agent)| agent.expect_no_strays());
}

/// One user: asks for an answer drawn at random, reads some of it or all, and leaves anyhow; whether
/// it has got the whole answer. What the page says cannot be known is not drawn: that a user leaves
/// in a pause of a short answer, or before the first of a long one.
fn ask_and_leave(
    daemon: &Daemon,
    mapping: &Mapping,
    number: usize,
    random: &mut fastrand::Rng,
) -> bool {
    let tag = format!("session{number:08}\n");
    let none = Duration::ZERO;
    let question =
        |pieces, tags, pause, delay| Question { tag: tag.clone(), pieces, tags, pause, delay };
    // The question, the pieces read before leaving, and whether it may leave in order.
    let (question, read, in_order) = match random.usize(..40) {
        // Answers that do not come, or too late.
        0 => (question(1, 10, none, ms(random.u64(1..400))), 0.0, false),
        // A long one that is left in the middle.
        1..=3 => (question(60, 4000, none, none), random.f64() * 40.0, false),
        // One with pauses, left just as one begins, the first included.
        4 => {
            let pause = ms(random.u64(200..1000));
            (question(5, 6000, pause, none), random.usize(1..5) as f64, false)
        }
        // The same once it is known.
        5 => {
            let pause = ms(random.u64(200..500));
            (question(5, 6000, pause, none), 2.0 + random.f64() * 2.0, false)
        }
        // A short one.
        _ => (question(1, random.usize(1..200), none, none), 1.0, true),
    };
    let mut user = daemon.user(mapping);
    user.send(question.line().as_bytes());
    let tags = (read * question.tags as f64) as usize;
    let answer = user.exactly(tags * TAG);
    if answer != tag.repeat(tags).as_bytes() {
        eprintln!("at {:?}; the other: {}", Instant::now(), others_notes(&answer, &tag));
    }
    assert_same(&answer, tag.repeat(tags).as_bytes(), "one's own tag");
    let how = random.u32(..3);
    note(
        &tag,
        format!("{:?}, {tags} read, left so: {how}, at {:?}", question.line(), Instant::now()),
    );
    match how {
        0 if in_order => {
            user.finish();
            drop(user);
        }
        1 => {
            user.fin();
            drop(user);
        }
        2 => user.reset(),
        _ => drop(user),
    }
    in_order
}

#[test]
fn tunnels_dialled_the_moment_others_break_bring_nobody_an_old_answer_plain() {
    tunnels_dialled_the_moment_others_break_bring_nobody_an_old_answer(Mode::Plain, 100);
}

#[test]
fn tunnels_dialled_the_moment_others_break_bring_nobody_an_old_answer_tls() {
    tunnels_dialled_the_moment_others_break_bring_nobody_an_old_answer(Mode::Tls, 20);
}

/// Agents break their tunnels in mid-answer, whose user reads or has left, with bytes of it still
/// unread in the connector, and dial anew in the same instant, while as many users wait. Whoever was
/// given one of the fresh tunnels would be sent the rest; its agent would see its question.
fn tunnels_dialled_the_moment_others_break_bring_nobody_an_old_answer(mode: Mode, rounds: usize) {
    const TUNNELS: usize = 8;
    let daemon = Daemon::builder(mode).set("userwait", 600_000).set("threads", 1).start();
    let (mut foreign, mut resumed) = (0, 0);
    for _ in 0..rounds {
        // A mapping that has never been wary.
        let mapping = daemon.api().add_public(60, NEVER);
        let sessions: Vec<_> = (0..TUNNELS).map(|_| daemon.session(&mapping)).collect();
        let waiting: Vec<_> = (0..TUNNELS)
            .map(|_| {
                let mut user = daemon.user(&mapping);
                user.send(b"the next question");
                user
            })
            .collect();
        until("the users wait", || daemon.control().users_waiting(&mapping) == TUNNELS as u64);
        let start = Barrier::new(TUNNELS);
        let reached: Vec<bool> = thread::scope(|scope| {
            let broken = sessions.into_iter().enumerate().map(|(number, (user, mut agent))| {
                let (start, daemon, mapping) = (&start, &daemon, &mapping);
                scope.spawn(move || {
                    start.wait();
                    let (stays, unread) = match number % 3 {
                        0 => (Some(user), 60_000),
                        1 => {
                            user.reset();
                            (None, 300_000)
                        }
                        _ => {
                            drop(user);
                            (None, 300_000)
                        }
                    };
                    agent.send(&vec![b'x'; unread]);
                    agent.link.reset();
                    let mut agent = daemon.tunnel(mapping);
                    agent.send(b"the rest of the old answer");
                    agent.beat();
                    // A heartbeat is answered in any case; before it comes what a user has sent.
                    let reached = agent.exactly(BEAT.len()) != BEAT;
                    drop(stays);
                    reached
                })
            });
            let broken: Vec<_> = broken.collect();
            broken.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        foreign += reached.iter().filter(|reached| **reached).count();
        resumed += TUNNELS;
        drop(waiting);
        daemon.api().remove(&mapping);
    }
    figure(mode, "tunnels dialled as others broke, of which users were given", (resumed, foreign));
    assert_eq!(foreign, 0, "users were given fresh tunnels, of {resumed}");
}

#[test]
fn service_is_back_soon_after_an_old_answer_that_came_at_its_own_pace() {
    back_soon(1, 100, ms(20));
}

#[test]
fn service_is_back_soon_after_an_old_answer_that_came_at_full_speed() {
    back_soon(4, 100, Duration::ZERO);
}

#[test]
fn service_is_back_after_an_old_answer_with_pauses() {
    back_soon(1, 12, ms(700));
}

#[test]
#[ignore = "moves 1 GB: docs/testing.md"]
fn service_is_back_soon_after_an_old_answer_of_a_gigabyte_at_full_speed() {
    back_soon(1, 5000, Duration::ZERO);
}

#[test]
#[ignore = "moves 1 GB at 10 MB/s: docs/testing.md"]
fn service_is_back_soon_after_an_old_answer_of_a_gigabyte_at_its_own_pace() {
    back_soon(1, 5000, ms(20));
}

/// Users leave long answers, of pieces of 200,000 bytes, on all tunnels. The next user is served
/// when one of them is over, and not before; with nothing of it, and on a tunnel that was there.
fn back_soon(tunnels: usize, pieces: usize, pause: Duration) {
    let daemon = Daemon::builder(Mode::Tls).set("userwait", 600_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let ends = std::sync::Arc::new(Mutex::new(Vec::new()));
    let noted = ends.clone();
    let service = answering(move |at| noted.lock().unwrap().push(at));
    let agent = FieldAgent::start(&daemon, &mapping, tunnels, service.address);
    agent.wait_authorized();
    for number in 0..tunnels {
        let tag = format!("session{number:08}\n");
        let question = Question { tag, pieces, tags: 12_500, pause, delay: Duration::ZERO };
        let mut user = daemon.user(&mapping);
        user.send(question.line().as_bytes());
        user.exactly(200_000);
        drop(user);
    }
    let mut user = daemon.user(&mapping);
    let tag = "session99999999\n";
    let question = Question {
        tag: tag.into(),
        pieces: 1,
        tags: 1,
        pause: Duration::ZERO,
        delay: Duration::ZERO,
    };
    user.send(question.line().as_bytes());
    let patience = Instant::now() + PATIENCE + 2 * pieces as u32 * (pause + ms(10));
    let Got::Bytes(answer) = user.record_by(patience) else { panic!("not served") };
    assert_same(&answer, tag.as_bytes(), "one's own tag");
    let served = Instant::now();
    let first = *ends.lock().unwrap().iter().min().expect("served before the old answer's end");
    let after = served.saturating_duration_since(first);
    figure(Mode::Tls, "service back after the old answer's end", after);
    assert!(after < Duration::from_secs(15), "{after:?} after the old answer's end");
    assert_eq!(agent.accepted(), tunnels, "tunnels were dialled anew");
    let lines = daemon.log_text().lines().filter(|line| line.contains("were discarded")).count();
    assert!(lines <= 1, "{lines} lines in the log");
    agent.expect_no_strays();
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
