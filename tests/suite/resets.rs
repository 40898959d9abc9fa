//! Endings are true (protocol page, section 6): a session that breaks on one side breaks on the
//! other, after what was already delivered; what ends in order ends in order; and nobody who has
//! gone keeps a place because he is not read.

use std::thread;

use crate::common::*;
use rustix::process::Signal;

in_both_modes!(
    agent_that_resets_resets_its_user_after_its_bytes,
    user_that_resets_resets_its_agent_after_its_bytes,
    side_that_resets_resets_the_other_after_its_bytes,
    side_that_resets_unread_gives_its_place_back_at_once_and_loses_no_byte,
    user_that_resets_after_its_end_ends_the_session_at_once,
    absent_agent_is_no_end_for_its_user,
    finwait_is_no_end_for_either_side,
    session_that_was_not_answered_is_no_empty_answer,
    removed_mapping_resets_its_sessions,
    stopped_daemon_resets_its_sessions,
    killed_daemon_resets_its_sessions,
    both_ends_in_order_are_no_reset,
    full_tunnel_that_is_gone_leaves_its_place_to_its_successor,
    full_tunnel_that_has_ended_makes_room_for_its_successor,
    mute_user_that_has_gone_leaves_its_place_at_once,
    user_that_has_ended_waits_on_but_makes_room,
    user_that_has_asked_and_is_given_no_tunnel_is_reset,
);

const NEVER: u64 = 200_000;

/// What both sides of a private pipe have said when they are a pair.
const HELLOS: usize = "hello, two".len() + "hello, one".len();

/// A version 2 tunnel whose session has begun, its `OPEN` said.
#[track_caller]
fn session_of_version_two(daemon: &Daemon, mapping: &Mapping) -> (Link, Agent) {
    let (user, mut agent) = pairing_of_version_two(daemon, mapping);
    agent.send(b"OPEN");
    (user, agent)
}

/// The same before the answer.
#[track_caller]
fn pairing_of_version_two(daemon: &Daemon, mapping: &Mapping) -> (Link, Agent) {
    let mut agent = daemon.agent(mapping.port1);
    agent.send(format!("IOFOG/2 {}\n", mapping.passcode1).as_bytes());
    agent.expect(b"IOFOG/2 AUTHORIZED\n");
    let mut user = daemon.user(mapping);
    user.send(b"question");
    let header = agent.exactly(16);
    agent.exactly(u16::from_be_bytes([header[14], header[15]]).into());
    agent.expect(b"question");
    (user, agent)
}

/// A session of either version, and whether the agent has version 2.
fn sessions<'a>(
    daemon: &'a Daemon,
    mapping: &'a Mapping,
) -> impl Iterator<Item = (Link, Agent, bool)> + 'a {
    [false, true].into_iter().map(move |two| {
        let (user, agent) =
            if two { session_of_version_two(daemon, mapping) } else { daemon.session(mapping) };
        (user, agent, two)
    })
}

fn agent_that_resets_resets_its_user_after_its_bytes(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let answer = noise(1, 100_000);
    for (mut user, mut agent, _) in sessions(&daemon, &mapping) {
        // What is read is not delivered yet.
        user.shrink();
        let before = daemon.control().bytes_down(&mapping);
        agent.send(&answer);
        let all = before + answer.len() as u64;
        until("all is read", || daemon.control().bytes_down(&mapping) == all);
        agent.link.reset();
        user.expect_reset_after(&answer);
    }
    if mode == Mode::Tls {
        // A process that is killed sends FIN, and no close_notify before it.
        for (mut user, mut agent, _) in sessions(&daemon, &mapping) {
            agent.send(&answer);
            agent.fin();
            user.expect_reset_after(&answer);
        }
    }
}

fn user_that_resets_resets_its_agent_after_its_bytes(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let upload = noise(2, 100_000);
    let (mut user, mut agent) = session_of_version_two(&daemon, &mapping);
    agent.shrink();
    user.send(&upload);
    let all = ("question".len() + upload.len()) as u64;
    until("all is read", || daemon.control().bytes_up(&mapping) == all);
    user.reset();
    agent.expect_reset_after(&upload);
    // Many users end TLS without close_notify: that is an end.
    let (mut user, mut agent) = session_of_version_two(&daemon, &mapping);
    user.send(&upload);
    user.fin();
    assert_same(&agent.until_end(), &upload, "an upload");
}

fn side_that_resets_resets_the_other_after_its_bytes(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(1, NEVER);
    let bytes = noise(3, 100_000);
    for (number, first) in [(1, true), (2, false)] {
        let (one, two) = daemon.pair(&mapping);
        let (mut one, mut two) = if first { (one, two) } else { (two, one) };
        let moved = || {
            let control = daemon.control();
            control.bytes_down(&mapping) + control.bytes_up(&mapping)
        };
        two.shrink();
        one.send(&bytes);
        let all = number * (HELLOS + bytes.len());
        until("all is read", || moved() == all as u64);
        one.link.reset();
        two.expect_reset_after(&bytes);
        until("no tunnel is left", || daemon.control().in_use(&mapping) == 0);
    }
}

fn side_that_resets_unread_gives_its_place_back_at_once_and_loses_no_byte(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(1, NEVER);
    let (mut one, mut two) = daemon.pair(&mapping);
    two.shrink();
    let bytes = flood(4);
    one.fill(&bytes);
    // Without what both have said before.
    let moved = || {
        let control = daemon.control();
        (control.bytes_down(&mapping) + control.bytes_up(&mapping)) as usize - HELLOS
    };
    let before = moved();
    one.link.reset();
    // The other side reads nothing, and the newcomer gets the place of the one that has gone.
    let mut next = eventually("a free place", || {
        let mut next = daemon.agent(mapping.port1);
        next.is_accepted(&mapping.passcode1).then_some(next)
    });
    let (got, end) = two.rest();
    assert_eq!(end, Got::Reset);
    assert!(got.len() > 128 * 1024, "{} bytes", got.len());
    assert!(got.len() > before, "what had come and waited to be read");
    assert_eq!(got.len(), moved(), "all that was read");
    assert_same(&got, &bytes[..got.len()], "what came before the reset");
    let mut fresh = daemon.tunnel2(&mapping);
    fresh.send(b"hello");
    next.expect(b"hello");
}

fn user_that_resets_after_its_end_ends_the_session_at_once(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = session_of_version_two(&daemon, &mapping);
    user.finish();
    assert_eq!(agent.record(), Got::End);
    user.reset();
    // Nothing is sent to the user that could show that nobody is there; `finwait` is a minute.
    until("its place is free", || daemon.control().in_use(&mapping) == 0);
    until("the agent is told", || agent.try_send(b"answer").is_err());
}

fn absent_agent_is_no_end_for_its_user(mode: Mode) {
    let daemon = Daemon::new(mode);
    // Long enough to begin a session on a busy machine.
    let mapping = daemon.api().add_public(60, 4000);
    let (mut user, mut agent) = daemon.session(&mapping);
    agent.send(b"half an answer");
    user.expect_reset_after(b"half an answer");
    agent.expect_reset_after(b"");
}

fn finwait_is_no_end_for_either_side(mode: Mode) {
    let daemon = Daemon::builder(mode).set("finwait", 500).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = session_of_version_two(&daemon, &mapping);
    agent.send(b"half an answer");
    user.finish();
    assert_eq!(agent.record(), Got::End);
    user.expect_reset_after(b"half an answer");
}

fn session_that_was_not_answered_is_no_empty_answer(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let why = || daemon.control().state_of(&mapping).unwrap()["lastError"].to_string();
    for (answer, fault) in [
        (&b"FAIL"[..], "could not reach its service; see that the service runs"),
        (b"HTTP", "neither OPEN nor FAIL"),
        (b"", "was gone before it had answered"),
    ] {
        let (mut user, mut agent) = pairing_of_version_two(&daemon, &mapping);
        agent.send(answer);
        agent.finish();
        user.expect_reset_after(b"");
        until("it is said", || why().contains(fault));
    }
    let (mut user, agent) = pairing_of_version_two(&daemon, &mapping);
    agent.link.reset();
    user.expect_reset_after(b"");
}

fn removed_mapping_resets_its_sessions(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let sessions: Vec<_> = sessions(&daemon, &mapping).collect();
    daemon.api().remove(&mapping);
    for (mut user, mut agent, _) in sessions {
        user.expect_reset_after(b"");
        agent.expect_reset_after(b"");
    }
}

fn stopped_daemon_resets_its_sessions(mode: Mode) {
    let mut daemon = Daemon::builder(mode).set("drain", 0).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let sessions: Vec<_> = sessions(&daemon, &mapping).collect();
    daemon.stop();
    for (mut user, mut agent, _) in sessions {
        user.expect_reset_after(b"");
        agent.expect_reset_after(b"");
    }
}

fn killed_daemon_resets_its_sessions(mode: Mode) {
    let mut daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let sessions: Vec<_> = sessions(&daemon, &mapping).collect();
    daemon.kill();
    for (mut user, mut agent, _) in sessions {
        user.expect_reset_after(b"");
        agent.expect_reset_after(b"");
    }
}

fn both_ends_in_order_are_no_reset(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let bytes = noise(5, 3 << 20);
    for (mut user, mut agent, two) in sessions(&daemon, &mapping) {
        user.shrink();
        agent.shrink();
        thread::scope(|scope| {
            scope.spawn(|| {
                agent.send(&bytes);
                agent.finish();
                if two {
                    assert_same(&agent.until_end(), &bytes, "the upload");
                }
            });
            scope.spawn(|| {
                if two {
                    user.send(&bytes);
                }
                user.finish();
                assert_same(&user.until_end(), &bytes, "the answer");
            });
        });
    }
}

// Whoever has gone gives its place back

/// More than is held of an agent before its pairing: the rest is not read.
fn full_tunnel(daemon: &Daemon, mapping: &Mapping) -> Agent {
    let mut agent = eventually("a free place", || {
        let mut agent = daemon.agent(mapping.port1);
        agent.is_accepted(&mapping.passcode1).then_some(agent)
    });
    agent.send(&noise(6, 60_000));
    agent
}

fn full_tunnel_that_is_gone_leaves_its_place_to_its_successor(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(1, NEVER);
    for _ in 0..2 {
        let agent = full_tunnel(&daemon, &mapping);
        until("it waits", || daemon.control().idle(&mapping) == 1);
        agent.link.reset();
        until("nobody waits", || daemon.control().idle(&mapping) == 0);
    }
}

fn full_tunnel_that_has_ended_makes_room_for_its_successor(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(1, NEVER);
    for _ in 0..2 {
        let mut agent = full_tunnel(&daemon, &mapping);
        agent.finish();
    }
    // The last one is still there, and what it sent is delivered.
    let mut agent = full_tunnel(&daemon, &mapping);
    agent.finish();
    let mut two = daemon.tunnel2(&mapping);
    assert_same(&two.until_end(), &noise(6, 60_000), "what was sent before the end");
}

#[test]
fn held_refusal_that_is_gone_gives_its_file_back() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, NEVER);
    let wrong = || {
        let mut agent = daemon.agent(mapping.port1);
        agent.send(&[b'x'; 36]);
        agent
    };
    // Three of an address are closed at once.
    (0..3).for_each(|_| wrong().expect_closed());
    for reset in [true, false] {
        eventually("the file of one that is gone is free before another's hold is over", || {
            let refused = || daemon.control().number(&mapping, "counts.agentsRefused");
            let before = refused();
            // The calls' own files are soon closed.
            let least = || (0..20).map(|_| (thread::sleep(ms(5)), daemon.open_files()).1).min();
            let files = least();
            let (mut stays, goes) = (wrong(), wrong());
            until("both are refused", || refused() == before + 2);
            if least() != files.map(|files| files + 2) {
                return None;
            }
            if reset {
                goes.link.reset();
            } else {
                drop(goes);
            }
            until("a file is free", || least() <= files.map(|files| files + 1));
            // On a slow machine both holds may be over: once more.
            stays.is_quiet().then_some(())
        });
    }
}

fn mute_user_that_has_gone_leaves_its_place_at_once(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 3_600_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    // A version 2 agent is there, and busy.
    let _session = session_of_version_two(&daemon, &mapping);
    for reset in [true, false] {
        let mut user = daemon.user(&mapping);
        until("it waits", || daemon.control().users_waiting(&mapping) == 1);
        if reset {
            user.reset();
        } else {
            user.finish();
        }
        until("nobody waits", || daemon.control().users_waiting(&mapping) == 0);
    }
}

fn user_that_has_ended_waits_on_but_makes_room(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 3_600_000).set("pending", 2).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mut users = Vec::new();
    for number in 1..=2 {
        let mut user = daemon.user(&mapping);
        user.send(format!("question {number}").as_bytes());
        user.finish();
        users.push(user);
        until("it waits", || daemon.control().users_waiting(&mapping) == number);
    }
    let mut user = daemon.user(&mapping);
    user.send(b"question 3");
    // The one that has waited longest is closed, and no other.
    users[0].expect_closed();
    let mut agent = daemon.tunnel(&mapping);
    agent.expect(b"question 2");
    agent.send(b"answer 2");
    users[1].expect(b"answer 2");
    let mut agent = daemon.tunnel(&mapping);
    agent.expect(b"question 3");
    agent.send(b"answer 3");
    user.expect(b"answer 3");
}

fn user_that_has_asked_and_is_given_no_tunnel_is_reset(mode: Mode) {
    let mut daemon = Daemon::builder(mode).set("userwait", 300).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let asked = |daemon: &Daemon| {
        let mut user = daemon.user(&mapping);
        user.send(b"question");
        user
    };
    let is_reset = |mut user: Link| assert_eq!(user.rest(), (Vec::new(), Got::Reset));
    // Who has asked nothing takes an end for no answer.
    assert_eq!(daemon.user(&mapping).until_end(), b"");
    is_reset(asked(&daemon));
    let mut ended = asked(&daemon);
    ended.finish();
    is_reset(ended);
    daemon.set("userwait", 600_000);
    daemon.signal(Signal::HUP);
    until("the settings are read again", || daemon.log_text().contains("settings reloaded"));
    let waiting = |daemon: &Daemon| {
        let user = asked(daemon);
        until("it waits", || daemon.control().users_waiting(&mapping) == 1);
        user
    };
    let user = waiting(&daemon);
    daemon.stop();
    is_reset(user);
    daemon.start();
    let user = waiting(&daemon);
    daemon.kill();
    is_reset(user);
    daemon.start();
    let user = waiting(&daemon);
    daemon.control().remove(&mapping);
    is_reset(user);
}
