//! How sessions end, and what happens where several things end at once (protocol page, sections
//! 4 to 6): nobody waits for somebody that is gone, and no byte is lost or goes to another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;
use rustix::process::Signal;

in_both_modes!(
    user_that_ends_in_mid_answer_frees_its_tunnel_and_leaves_nothing,
    user_that_ends_without_reading_frees_its_tunnel_and_leaves_nothing,
    user_that_resets_in_mid_answer_frees_its_tunnel_and_leaves_nothing,
    user_that_resets_without_reading_frees_its_tunnel_and_leaves_nothing,
    user_that_leaves_a_slow_stream_frees_its_tunnel_and_leaves_nothing,
    answer_cut_in_a_pause_for_waiting_users_never_reaches_them,
    fresh_tunnels_are_quiet_first_after_one_has_broken_in_mid_answer,
    answer_owed_by_a_tunnel_that_broke_reaches_nobody_on_a_fresh_one,
    answer_owed_by_a_tunnel_that_broke_while_it_was_idle_reaches_nobody,
    answer_arrives_whole_although_its_user_is_still_uploading,
    what_follows_a_wrong_token_never_reaches_the_user,
    silence_before_an_end_does_not_count_towards_finwait,
    tunnel_amid_a_heartbeat_carries_no_session_before_it_is_whole,
    tunnel_older_than_the_wariness_is_given_after_its_quiet_time,
    places_given_back_together_let_in_as_many_newcomers,
    users_that_say_nothing_keep_nobody_out,
    full_tunnel_of_a_private_pipe_is_never_overdue,
    silence_counts_anew_after_a_pause_in_reading,
    agent_slow_to_take_what_a_broken_user_sent_is_not_absent,
    api_answers_while_an_agent_floods_heartbeats,
    three_hundred_agents_returning_at_once_are_all_authorised,
    urgent_data_keeps_its_place_in_the_stream,
);

/// Long enough that no test reaches it.
const NEVER: u64 = 200_000;

/// How long the rest of an old answer must have been silent, as the protocol page has it, less what
/// two clocks may differ.
const QUIET: Duration = ms(840);

// Users that leave in mid-answer

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// FIN, then whatever the kernel does to a closed socket.
    Ends,
    /// RST.
    Resets,
}

fn user_that_ends_in_mid_answer_frees_its_tunnel_and_leaves_nothing(mode: Mode) {
    user_leaves(mode, Leaving::Ends, true, 16 * 1024);
}

fn user_that_ends_without_reading_frees_its_tunnel_and_leaves_nothing(mode: Mode) {
    user_leaves(mode, Leaving::Ends, false, 16 * 1024);
}

fn user_that_resets_in_mid_answer_frees_its_tunnel_and_leaves_nothing(mode: Mode) {
    user_leaves(mode, Leaving::Resets, true, 16 * 1024);
}

fn user_that_resets_without_reading_frees_its_tunnel_and_leaves_nothing(mode: Mode) {
    user_leaves(mode, Leaving::Resets, false, 16 * 1024);
}

fn user_that_leaves_a_slow_stream_frees_its_tunnel_and_leaves_nothing(mode: Mode) {
    user_leaves(mode, Leaving::Ends, true, 12);
}

/// The agent goes on answering in pieces of so many bytes, as if nothing had happened: the session
/// is over long before `finwait`, which is a minute, the tunnel is kept, and the next user is given
/// it when the old answer has been over for a while, and nothing of that answer.
fn user_leaves(mode: Mode, leaving: Leaving, reads: bool, piece: usize) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let answer = noise(1, piece);
    if reads {
        for _ in 0..10 {
            agent.send(&answer);
            user.expect(&answer);
        }
    } else {
        user.shrink();
        agent.fill(&flood(2));
    }
    match leaving {
        Leaving::Ends => {
            user.finish();
            drop(user);
        }
        Leaving::Resets => user.reset(),
    }
    answer_until(&mut agent, &answer, "the session is over", || {
        daemon.control().in_use(&mapping) == 0
    });
    let draining = || daemon.control().number(&mapping, "sides.0.tunnels.draining");
    assert_eq!(draining(), 1, "the tunnel is not kept");
    let mut next = daemon.user(&mapping);
    next.send(b"the next question");
    answer_until(&mut agent, &answer, "the next user waits", || {
        daemon.control().users_waiting(&mapping) == 1
    });
    let last = Instant::now();
    agent.send(&answer);
    agent.expect(b"the next question");
    let waited = last.elapsed();
    assert!(waited >= QUIET, "{waited:?} after the old answer's last piece");
    agent.send(b"the right answer");
    next.expect(b"the right answer");
}

/// Sends the answer again and again, about every 10 ms where it is taken, until `done`.
#[track_caller]
fn answer_until(agent: &mut Link, answer: &[u8], what: &str, mut done: impl FnMut() -> bool) {
    until(what, || {
        if !agent.unsent() {
            agent.queue(answer).expect("the tunnel is open");
        }
        agent.push().expect("the tunnel is open");
        assert!(agent.read_now(1024).is_none(), "the tunnel has carried something else");
        done()
    });
    until("all of it is taken", || agent.push().expect("the tunnel is open"));
}

fn answer_cut_in_a_pause_for_waiting_users_never_reaches_them(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 60_000).start();
    let mapping = daemon.api().add_public(1, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let mut next = daemon.user(&mapping);
    next.send(b"the next question");
    until("the next user waits", || daemon.control().users_waiting(&mapping) == 1);
    // The answer goes on until the user has finished asking, and pauses then.
    let finished = AtomicBool::new(false);
    let last = thread::scope(|scope| {
        let answering = scope.spawn(|| {
            while !finished.load(Ordering::Relaxed) {
                agent.send(b"a piece of the first answer");
                thread::sleep(ms(10));
            }
            thread::sleep(ms(20));
            let last = Instant::now();
            agent.send(b"the last piece before the pause");
            last
        });
        let end = Raise(&finished);
        // So long that it is no single burst.
        user.expect(&b"a piece of the first answer".repeat(40));
        user.finish();
        drop(end);
        answering.join().unwrap()
    });
    agent.expect(b"the next question");
    let waited = last.elapsed();
    assert!(waited >= QUIET, "{waited:?} after the old answer's last piece");
    agent.send(b"the right answer");
    next.expect(b"the right answer");
}

fn fresh_tunnels_are_quiet_first_after_one_has_broken_in_mid_answer(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 20_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    agent.send(b"the beginning of an answer");
    user.expect(b"the beginning of an answer");
    agent.link.reset();
    user.expect_closed();
    // The field's agent would have dialled again, with the rest of the answer.
    let start = Instant::now();
    let mut fresh = daemon.tunnel(&mapping);
    let mut next = daemon.user(&mapping);
    next.send(b"the next question");
    fresh.expect(b"the next question");
    let waited = start.elapsed();
    assert!(waited >= QUIET, "a fresh tunnel was given to the next user after {waited:?}");
    // One that has carried a session since need not be.
    fresh.send(b"the right answer");
    next.expect(b"the right answer");
}

fn answer_owed_by_a_tunnel_that_broke_while_it_was_idle_reaches_nobody(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 30_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let idle = || daemon.control().number(&mapping, "sides.0.tunnels.idle");
    let (user, agent) = daemon.session(&mapping);
    user.reset();
    // It is drained for so long, and then waits for a user again.
    thread::sleep(ms(59_000));
    until("its answer is waited for no longer", || idle() == 1);
    assert_eq!(daemon.control().number(&mapping, "sides.0.tunnels.unanswered"), 1);
    agent.link.reset();
    until("it is gone", || idle() == 0);
    let start = Instant::now();
    let mut fresh = daemon.tunnel(&mapping);
    let mut next = daemon.user(&mapping);
    next.send(b"the next question");
    fresh.expect(b"the next question");
    let waited = start.elapsed();
    assert!(waited >= ms(4900), "a fresh tunnel was given to the next user after {waited:?}");
    fresh.send(b"the right answer");
    next.expect(b"the right answer");
}

fn answer_owed_by_a_tunnel_that_broke_reaches_nobody_on_a_fresh_one(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 30_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let draining = || daemon.control().number(&mapping, "sides.0.tunnels.draining");
    let lose = || {
        let (user, agent) = daemon.session(&mapping);
        user.reset();
        until("it is read to nowhere", || draining() == 1);
        agent.link.reset();
        until("it is gone", || draining() == 0);
    };
    let ask = || {
        let mut next = daemon.user(&mapping);
        next.send(b"the next question");
        next
    };
    lose();
    let mut fresh = daemon.tunnel(&mapping);
    let mut next = ask();
    fresh.expect_silence(ms(1200));
    fresh.send(b"the answer that was owed");
    fresh.expect(b"the next question");
    fresh.send(b"the right answer");
    next.expect(b"the right answer");
    // It has come: others need not be quiet for as long.
    let start = Instant::now();
    let mut other = daemon.tunnel(&mapping);
    let mut third = ask();
    other.expect(b"the next question");
    println!("{mode:?}: once it has come, given after {:?}", start.elapsed());
    other.send(b"the right answer");
    third.expect(b"the right answer");
    drop((third, other, next, fresh));
    // If none comes, fresh ones serve all the same.
    until("no tunnel is left", || daemon.control().number(&mapping, "sides.0.tunnels.idle") == 0);
    lose();
    let start = Instant::now();
    let mut fresh = daemon.tunnel(&mapping);
    let mut next = ask();
    fresh.expect(b"the next question");
    let waited = start.elapsed();
    assert!(waited >= ms(4900), "a fresh tunnel was given to the next user after {waited:?}");
    fresh.send(b"the right answer");
    next.expect(b"the right answer");
}

fn answer_arrives_whole_although_its_user_is_still_uploading(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    user.shrink();
    let answer = noise(3, 300_000);
    let upload = noise(4, 16 * 1024);
    let upload = |user: &mut Link| {
        // What the upload comes to does not matter, as with a server that answers early.
        if !user.unsent() {
            let _ = user.queue(&upload);
        }
        let _ = user.push();
    };
    agent.link.queue(&answer).unwrap();
    until("the connector has the whole answer", || {
        upload(&mut user);
        agent.push().unwrap();
        while agent.read_now(64 * 1024).is_some() {}
        daemon.control().bytes_down(&mapping) == answer.len() as u64
    });
    drop(agent);
    // Most of the answer is on its way to the user when the connector has closed the session.
    until("the session is over", || {
        upload(&mut user);
        daemon.control().in_use(&mapping) == 0
    });
    let mut got = Vec::new();
    until("the answer has come", || {
        upload(&mut user);
        match user.read_now(4096) {
            Some(Got::Bytes(bytes)) => got.extend(bytes),
            None => {}
            Some(end) => panic!("{end:?} after {} of {} bytes", got.len(), answer.len()),
        }
        // Without a pause, but a bit at a time: the connector must wait for all of it.
        while got.len() < answer.len() {
            match user.read_now(4096) {
                Some(Got::Bytes(bytes)) => got.extend(bytes),
                Some(end) => panic!("{end:?} after {} of {} bytes", got.len(), answer.len()),
                None => break,
            }
            upload(&mut user);
        }
        got.len() >= answer.len()
    });
    assert_same(&got, &answer, "the answer");
}

// Agents of version 2

/// A tunnel of version 2.
#[track_caller]
fn tunnel_of_version_two(daemon: &Daemon, mapping: &Mapping) -> Agent {
    let mut agent = daemon.agent(mapping.port1);
    agent.send(format!("IOFOG/2 {}\n", mapping.passcode1).as_bytes());
    agent.expect(b"IOFOG/2 AUTHORIZED\n");
    agent
}

/// Expects a PROXY header, which says how long its addresses are.
#[track_caller]
fn expect_header(agent: &mut Agent) {
    let header = agent.exactly(16);
    assert_eq!(&header[..12], b"\r\n\r\n\0\r\nQUIT\n");
    agent.exactly(u16::from_be_bytes([header[14], header[15]]).into());
}

fn what_follows_a_wrong_token_never_reaches_the_user(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let answers: [&[u8]; 6] = [
        b"ATOPENhello",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"BEATATOPENhello",
        b"FAILhello",
        b"FAILOPENhello",
        b"openOPENhello",
    ];
    for wrong in answers {
        let mut agent = tunnel_of_version_two(&daemon, &mapping);
        let mut user = daemon.user(&mapping);
        user.send(b"question");
        expect_header(&mut agent);
        agent.send(wrong);
        user.expect_closed();
    }
    for right in [&b"OPENhello"[..], b"BEATOPENhello", b"BEATBEATOPENhello"] {
        let mut agent = tunnel_of_version_two(&daemon, &mapping);
        let mut user = daemon.user(&mapping);
        user.send(b"question");
        expect_header(&mut agent);
        agent.send(right);
        user.expect(b"hello");
    }
}

fn silence_before_an_end_does_not_count_towards_finwait(mode: Mode) {
    const FINWAIT: u64 = 1500;
    let daemon = Daemon::builder(mode).set("finwait", FINWAIT).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mut agent = tunnel_of_version_two(&daemon, &mapping);
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    expect_header(&mut agent);
    agent.send(b"OPEN");
    agent.expect(b"question");
    // A session that is open both ways may be silent for as long as it likes.
    thread::sleep(ms(FINWAIT + 300));
    user.finish();
    assert_eq!(agent.record(), Got::End);
    agent.send(b"answer");
    user.expect(b"answer");
    agent.finish();
    assert_eq!(user.record(), Got::End);
}

fn tunnel_amid_a_heartbeat_carries_no_session_before_it_is_whole(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 20_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mut agent = tunnel_of_version_two(&daemon, &mapping);
    agent.send(b"BEATBE");
    agent.expect(BEAT);
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    agent.expect_silence(ms(200));
    agent.send(b"AT");
    agent.expect(BEAT);
    expect_header(&mut agent);
    agent.expect(b"question");
    agent.send(b"OPENhello");
    user.expect(b"hello");
    if mode == Mode::Plain {
        let mut agent = daemon.tunnel(&mapping);
        agent.send(b"BEATBE");
        agent.expect(BEAT);
        let mut user = daemon.user(&mapping);
        user.send(b"question");
        agent.expect_silence(ms(200));
        agent.send(b"AT");
        agent.expect(b"BEATquestion");
        agent.send(b"hello");
        user.expect(b"hello");
    }
}

// Several events at once

fn tunnel_older_than_the_wariness_is_given_after_its_quiet_time(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 20_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    agent.send(b"the beginning of an answer");
    user.expect(b"the beginning of an answer");
    let mut waiting = daemon.tunnel(&mapping);
    agent.link.reset();
    user.expect_closed();
    // From here on nothing happens that would make the connector look again, but the time.
    let mut next = daemon.user(&mapping);
    next.send(b"the next question");
    waiting.expect(b"the next question");
    waiting.send(b"answer");
    next.expect(b"answer");
}

fn places_given_back_together_let_in_as_many_newcomers(mode: Mode) {
    let daemon = Daemon::new(mode);
    eventually("three newcomers that still wait for a place", || {
        let mapping = daemon.api().add_public(6, NEVER);
        let mut old: Vec<Agent> = (0..6).map(|_| daemon.tunnel(&mapping)).collect();
        let mut newcomers: Vec<Agent> = (0..3).map(|_| daemon.agent(mapping.port1)).collect();
        let pending = || daemon.control().number(&mapping, "counts.pending");
        until("they are accepted", || pending() == 3);
        let start = Instant::now();
        for newcomer in &mut newcomers {
            newcomer.send(mapping.passcode1.as_bytes());
        }
        until("their passcodes are read", || {
            let state = daemon.control().state_of(&mapping).expect("the mapping");
            let all = state["limitsReached"].as_array().expect("limits").clone();
            all.iter()
                .any(|one| one["limit"].to_string().contains("maxconnections") && one["times"] == 3)
        });
        daemon.signal(Signal::STOP);
        drop(old.drain(..3));
        let in_time = start.elapsed() < ms(800);
        daemon.signal(Signal::CONT);
        if in_time {
            newcomers.iter_mut().for_each(Agent::expect_authorized);
        }
        daemon.api().remove(&mapping);
        // A newcomer waits for a second at most: where the machine was slower, once more.
        in_time.then_some(())
    });
}

fn users_that_say_nothing_keep_nobody_out(mode: Mode) {
    let daemon = Daemon::builder(mode).set("pending", 3).set("userwait", 60_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mut mute = Vec::new();
    for number in 1..=3 {
        mute.push(daemon.user(&mapping));
        until("the user waits", || daemon.control().users_waiting(&mapping) == number);
    }
    // One more that says nothing is closed; one that speaks gets the idle tunnel, which the mute
    // do not.
    daemon.user(&mapping).expect_closed();
    let mut agent = daemon.tunnel(&mapping);
    let mut user = eventually("a user that speaks is served", || {
        let mut user = daemon.user(&mapping);
        user.send(b"question");
        until("it is served or closed", || !agent.is_quiet() || !user.is_quiet());
        // On a slow machine its bytes may come too late: once more.
        (!agent.is_quiet()).then_some(user)
    });
    agent.expect(b"question");
    agent.send(b"answer");
    user.expect(b"answer");
    assert!(mute.iter_mut().all(|user| user.is_quiet()), "nobody had to make room");
    // Where a tunnel is still to come, the first of the mute makes room for one that speaks, which
    // then keeps its place.
    let _speaking = eventually("a user that speaks waits", || {
        let mut user = daemon.user(&mapping);
        user.send(b"another question");
        until("it waits or is closed", || !mute[0].is_quiet() || !user.is_quiet());
        (!mute[0].is_quiet()).then_some(user)
    });
    mute[0].expect_closed();
    for _ in 0..10 {
        daemon.user(&mapping).expect_closed();
    }
    for other in &mut mute[1..] {
        assert!(other.is_quiet(), "more than one was closed for one newcomer");
    }
    daemon.tunnel(&mapping).expect(b"another question");
}

fn full_tunnel_of_a_private_pipe_is_never_overdue(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(1, NEVER);
    let mut one = daemon.tunnel(&mapping);
    for _ in 0..3 {
        one.beat_and_answer();
        thread::sleep(ms(100));
    }
    let bytes = noise(5, 60_000);
    one.send(&bytes);
    // Far beyond twice its interval, in which the connector reads nothing from it.
    thread::sleep(ms(1500));
    assert!(!daemon.agent(mapping.port1).is_accepted(&mapping.passcode1), "a second of one");
    let mut two = daemon.tunnel2(&mapping);
    assert_same(&two.exactly(bytes.len()), &bytes, "what was held");
    two.send(b"answer");
    one.expect(b"answer");
}

fn silence_counts_anew_after_a_pause_in_reading(mode: Mode) {
    const THRESHOLD: u64 = 2500;
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, THRESHOLD);
    let (mut user, mut agent) = daemon.session(&mapping);
    agent.shrink();
    user.fill(&flood(6));
    // So many answers wait for the agent now that it is not read before it reads.
    for _ in 0..1024 {
        agent.link.queue(BEAT).unwrap();
    }
    until("the heartbeats are sent", || agent.push().unwrap());
    thread::sleep(ms(THRESHOLD * 9 / 5));
    let start = Instant::now();
    agent.rest();
    let waited = start.elapsed();
    assert!(waited >= ms(THRESHOLD - 100), "absent {waited:?} after it was read again");
    user.rest();
}

fn agent_slow_to_take_what_a_broken_user_sent_is_not_absent(mode: Mode) {
    // Beats of a busy machine come in its time, too.
    const THRESHOLD: u64 = 4000;
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, THRESHOLD);
    let (mut user, mut agent) = daemon.session(&mapping);
    agent.shrink();
    user.fill(&flood(6));
    // The connector is stuck with them: what it has not read goes with the reset.
    let carried = || daemon.control().number(&mapping, "counts.bytesUp");
    let mut before = None;
    until("nothing moves any more", || {
        agent.beat();
        thread::sleep(ms(200));
        before.replace(carried()) == Some(carried())
    });
    user.reset();
    // It shows that nobody is there any more to read for.
    agent.send(b"answer");
    let start = Instant::now();
    while start.elapsed() < ms(THRESHOLD * 2) {
        agent.beat();
        assert_eq!(daemon.control().in_use(&mapping), 1, "after {:?}", start.elapsed());
        thread::sleep(ms(100));
    }
    let mut bytes = 0;
    until("the session is over", || {
        agent.beat();
        while let Some(Got::Bytes(read)) = agent.read_now(64 * 1024) {
            bytes += read.len();
        }
        daemon.control().in_use(&mapping) == 0
    });
    assert!(bytes > 64 * 1024, "{bytes} bytes");
}

fn api_answers_while_an_agent_floods_heartbeats(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let mut flooding = daemon.tunnel(&mapping);
    let mut other = daemon.tunnel(&mapping);
    let done = AtomicBool::new(false);
    let answered = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut answered = 0;
            let deadline = Instant::now() + PATIENCE;
            // The calls may be over before the first answer has come.
            while !done.load(Ordering::Relaxed) || (answered == 0 && Instant::now() < deadline) {
                if !flooding.unsent() {
                    for _ in 0..1000 {
                        flooding.link.queue(BEAT).unwrap();
                    }
                }
                let flushed = flooding.push().unwrap();
                match flooding.read_now(64 * 1024) {
                    Some(Got::Bytes(bytes)) => answered += bytes.len(),
                    Some(end) => panic!("{end:?} in answer to heartbeats"),
                    None if !flushed => drop(flooding.wait(true, true, Instant::now() + ms(100))),
                    None => {}
                }
            }
            answered
        });
        let end = Raise(&done);
        for _ in 0..5 {
            assert_eq!(daemon.api().status("all")["status"], "running");
            other.beat_and_answer();
        }
        drop(end);
        flood.join().unwrap()
    });
    assert!(answered > 0, "the flood was not answered at all");
}

/// Raises the flag when dropped, after a panic too: the thread that looks at it must end.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn three_hundred_agents_returning_at_once_are_all_authorised(mode: Mode) {
    const AGENTS: u64 = 300;
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(AGENTS as u32, NEVER);
    let deadline = Instant::now() + Duration::from_secs(60);
    thread::scope(|scope| {
        let agents: Vec<_> = (0..AGENTS)
            .map(|_| {
                scope.spawn(|| {
                    while Instant::now() < deadline {
                        // As the field's agents do: closed, they dial again at once.
                        let Ok(link) = daemon.try_link(mapping.port1) else { continue };
                        // The round trips of a long way.
                        thread::sleep(ms(150));
                        let mut agent = Agent::over(link);
                        if agent.is_accepted(&mapping.passcode1) {
                            return Some(agent);
                        }
                    }
                    None
                })
            })
            .collect();
        let agents: Vec<_> = agents.into_iter().filter_map(|one| one.join().unwrap()).collect();
        assert_eq!(agents.len() as u64, AGENTS, "authorised");
        assert_eq!(daemon.control().idle(&mapping), AGENTS);
    });
}

fn urgent_data_keeps_its_place_in_the_stream(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    // In TLS it is some of the records' bytes that are urgent for the kernel.
    let (mut user, mut agent) = daemon.session(&mapping);
    for _ in 0..2 {
        for in_one_read in [true, false] {
            // Stopped, all of it is there when it is read.
            if in_one_read {
                daemon.signal(Signal::STOP);
            }
            user.send(b"abc");
            user.send_urgent(b"\xff\xf2");
            user.send(b"defgh");
            if in_one_read {
                daemon.signal(Signal::CONT);
            }
            agent.expect(b"abc\xff\xf2defgh");
        }
        std::mem::swap(&mut user, &mut agent.link);
    }
}

#[test]
fn urgent_data_in_bulk_neither_stalls_nor_ends_what_follows() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, NEVER);
    for ends in [false, true] {
        let (mut user, mut agent) = daemon.session(&mapping);
        let bulk = noise(7, 4 << 20);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..3 {
                    user.send(&bulk);
                    user.send_urgent(b"urgent");
                }
                user.send(&bulk);
                if ends {
                    user.finish();
                }
            });
            for _ in 0..3 {
                assert_same(&agent.exactly(bulk.len()), &bulk, "before urgent data");
                agent.expect(b"urgent");
            }
            assert_same(&agent.exactly(bulk.len()), &bulk, "after urgent data");
        });
    }
}

#[test]
fn heartbeats_of_any_number_at_once_are_answered_and_none_is_relayed() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let answers = BEAT.repeat(128 * 1024);
    for count in [1, 16 * 1024, 64 * 1024, 128 * 1024] {
        let beats = &answers[..4 * count];
        assert_same(&agent.exchange(beats, beats.len()), beats, "the answers");
        // So much that the kernel moves it, and heartbeats again behind it.
        let bulk = noise(8, 4 << 20);
        thread::scope(|scope| {
            scope.spawn(|| agent.send(&bulk));
            assert_same(&user.exactly(bulk.len()), &bulk, "the bytes between");
        });
    }
    // What only looks like the beginning of another is bytes in the end.
    agent.send(b"BEATBE");
    agent.expect(BEAT);
    user.expect(b"BE");
    agent.finish();
    assert!(user.until_end().is_empty());
}
