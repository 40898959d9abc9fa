//! Tunnels of version 3, by a client written from the protocol page, section 8; the numbers in
//! the comments are that section's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;
use rustix::process::Signal;
use serde_json::json;

in_both_modes!(
    right_passcode_in_any_pieces_is_answered,
    wrong_passcode_is_closed_without_a_byte,
    repeated_wrong_passcodes_are_held,
    three_versions_are_served_on_one_port,
    frames_may_be_cut_anywhere,
    frames_may_come_together,
    frame_that_does_not_belong_ends_an_idle_tunnel,
    frame_that_does_not_belong_ends_tunnel_and_session,
    frame_that_does_not_belong_before_seen_ends_the_tunnel,
    header_names_the_user_and_where_it_came,
    service_may_speak_first,
    users_bytes_follow_at_once_where_the_agent_was_just_heard,
    users_bytes_wait_for_an_agent_that_was_not_just_heard,
    one_tunnel_carries_sessions_one_after_another_exactly,
    users_end_is_passed_on_by_itself,
    agents_end_is_passed_on_by_itself,
    users_bytes_and_end_may_come_before_the_service_is_reached,
    failure_resets_the_user_and_the_tunnel_serves_again,
    service_that_is_not_reached_in_time_resets_the_user,
    user_whose_tunnel_is_dead_is_given_another,
    user_whose_tunnel_breaks_unseen_is_given_another,
    user_whose_only_tunnel_breaks_unseen_waits_for_the_next,
    user_whose_bytes_a_dead_tunnel_has_is_reset,
    users_of_dead_tunnels_are_told_and_do_not_wait,
    tunnel_that_may_be_dead_serves_where_it_lives,
    tunnel_that_is_overdue_is_given_last,
    user_of_a_dead_tunnel_waits_where_another_agent_may_open_one,
    agents_are_told_once_of_a_user_on_a_tunnel_that_may_be_dead,
    session_at_a_dead_tunnels_address_is_not_waited_for,
    user_of_a_dead_tunnel_waits_for_agents_of_other_versions,
    agents_break_resets_the_user_and_the_tunnel_serves_again,
    users_reset_is_a_break_and_the_tunnel_serves_again,
    user_that_leaves_before_the_service_is_reached_leaves_a_tunnel_that_serves,
    breaks_that_cross_answer_each_other,
    failure_that_crosses_a_break_is_its_answer,
    end_that_was_seen_is_the_answer_to_a_break_that_crosses_it,
    break_after_the_session_is_over_is_thrown_away,
    what_comes_after_a_break_is_thrown_away_up_to_16_mebibytes,
    break_that_crosses_the_end_is_answered,
    break_without_an_answer_closes_the_tunnel,
    slow_user_gets_all_from_a_tunnel_that_ends_behind_both_ends,
    new_passcode_gives_tunnels_up_once_they_are_idle,
    tunnel_that_its_agent_does_not_close_after_a_bye_is_closed,
    slow_service_has_all_of_an_upload_before_the_next_session_begins,
    heartbeats_are_answered_at_any_time,
    idle_silence_is_absence,
    silence_in_a_session_is_absence,
    heartbeats_keep_an_idle_session,
    agent_that_is_not_read_is_not_absent,
    tunnel_that_was_heard_last_is_given_first,
    version_three_is_given_before_others,
    each_user_that_waits_is_told_once,
    users_for_whom_there_may_be_no_tunnel_are_not_told,
    users_are_not_told_where_a_session_was_not_seen,
    agent_that_says_bye_is_closed_in_order,
    agent_that_says_bye_in_a_session_finishes_it,
    session_that_crosses_a_bye_is_served,
    stopping_connector_says_bye_once_its_sessions_are_over,
    stopping_connector_says_bye_when_its_drain_is_over,
    stopping_connector_says_bye_to_both_sides_of_a_private_pipe,
    tunnel_that_ends_in_a_session_has_broken,
    session_that_is_silent_for_finwait_is_broken_off,
    session_that_is_silent_for_idle_is_broken_off,
    removed_mapping_resets_its_sessions,
    place_is_never_free_between_sessions,
    private_pipe_of_two_carries_session_after_session,
    private_pipe_sends_bytes_before_either_service_is_reached,
    private_pipe_passes_breaks_and_failures_on,
    private_pipe_joins_version_one,
    private_pipe_joins_version_two,
    side_whose_partner_is_dead_waits_again,
);

const NEVER: u64 = 200_000;

/// A daemon with a private pipe.
fn private(mode: Mode, connections: u32) -> (Daemon, Mapping) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(connections, NEVER);
    (daemon, mapping)
}

/// A user on this tunnel, which is idle; the session is open.
#[track_caller]
fn session_on(daemon: &Daemon, mapping: &Mapping, agent: &mut Framed) -> Link {
    let user = daemon.user(mapping);
    assert_eq!(agent.opened(), of(&user, mapping));
    agent.accept();
    user
}

/// What an agent is told of this user.
fn of(user: &Link, mapping: &Mapping) -> Header {
    Header::Proxy { source: user.local(), destination: at(mapping.port2) }
}

/// A user and an agent whose session is open.
#[track_caller]
fn session(daemon: &Daemon, mapping: &Mapping) -> (Link, Framed) {
    let mut agent = daemon.version_three(mapping);
    let user = session_on(daemon, mapping, &mut agent);
    (user, agent)
}

/// Ends a session in order, the user first.
#[track_caller]
fn finish(user: &mut Link, agent: &mut Framed) {
    user.finish();
    agent.expect(b'E');
    agent.say(b'E', b"");
    assert!(user.until_end().is_empty());
}

/// One session on this tunnel, with bytes both ways.
#[track_caller]
fn serves(daemon: &Daemon, mapping: &Mapping, agent: &mut Framed) {
    let mut user = session_on(daemon, mapping, agent);
    user.send(b"question");
    agent.expect_data(b"question");
    agent.send(b"answer");
    user.expect(b"answer");
    finish(&mut user, agent);
}

// 1

fn right_passcode_in_any_pieces_is_answered(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let offer = format!("IOFOG/3 {}\n", mapping.passcode1).into_bytes();
    for cut in [1, 6, 7, 8, 9, offer.len() - 1] {
        let mut agent = daemon.framed_link(mapping.port1);
        agent.send(&offer[..cut]);
        agent.expect_silence(ms(20));
        agent.send(&offer[cut..]);
        agent.expect(b"IOFOG/3 AUTHORIZED\n");
        agent.expect_silence(ms(20));
    }
    let mut agent = daemon.framed_link(mapping.port1);
    for byte in &offer {
        agent.send(&[*byte]);
    }
    agent.expect(b"IOFOG/3 AUTHORIZED\n");
}

fn wrong_passcode_is_closed_without_a_byte(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut other = mapping.passcode1.clone().into_bytes();
    other[35] ^= 1;
    let other = String::from_utf8(other).unwrap();
    let longer = format!("{}x", mapping.passcode1);
    for wrong in [other, String::new(), "short".into(), longer] {
        let mut agent = daemon.framed_link(mapping.port1);
        agent.send(format!("IOFOG/3 {wrong}\n").as_bytes());
        agent.expect_closed();
    }
}

fn repeated_wrong_passcodes_are_held(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let refused = || {
        let mut agent = daemon.framed_link(mapping.port1);
        let start = Instant::now();
        agent.send(b"IOFOG/3 wrong\n");
        agent.expect_closed();
        start.elapsed()
    };
    for _ in 0..3 {
        refused();
    }
    assert!(refused() >= ms(2900));
}

fn three_versions_are_served_on_one_port(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut one = daemon.tunnel(&mapping);
    let mut two = daemon.version_two(&mapping);
    let mut three = daemon.version_three(&mapping);
    one.beat_and_answer();
    two.send(BEAT);
    two.expect(BEAT);
    three.beat_and_answer();
    assert_eq!(daemon.api().idle(&mapping), 3);
}

#[test]
fn agents_that_offer_the_name_alone_get_two_tickets_and_are_resumed() {
    let mut daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    let dial = |names: &[&str], port, tickets: &Arc<Tickets>| {
        let config = offering(&daemon.trust(), names, Some(tickets));
        Link::tls(at(port), &config).expect("a handshake")
    };
    // Of several names it is the one that counts.
    for names in [&["iofog-tunnel"][..], &["h2", "iofog-tunnel", "http/1.1"]] {
        let tickets = Arc::default();
        let link = dial(names, mapping.port1, &tickets);
        assert_eq!(link.protocol(), Some("iofog-tunnel"));
        assert!(!link.is_resumed());
        Framed::agent(link, &mapping.passcode1);
        assert_eq!(tickets.given(), 2);
        for given in [4, 6] {
            let link = dial(names, mapping.port1, &tickets);
            assert!(link.is_resumed());
            assert_eq!(link.protocol(), Some("iofog-tunnel"));
            let mut agent = Framed::agent(link, &mapping.passcode1);
            agent.beat_and_answer();
            assert_eq!(tickets.given(), given);
        }
    }
    for names in [&[][..], &["h2", "http/1.1"]] {
        let tickets = Arc::default();
        let mut link = dial(names, mapping.port1, &tickets);
        assert_eq!(link.protocol(), None);
        link.send(format!("IOFOG/2 {}\n", mapping.passcode1).as_bytes());
        link.expect(b"IOFOG/2 AUTHORIZED\n");
        link.send(BEAT);
        link.expect(BEAT);
        let link = dial(names, mapping.port1, &tickets);
        Agent::over(link).prove(&mapping.passcode1).beat_and_answer();
        assert_eq!(tickets.given(), 0);
    }
    // The keys are the process's own.
    let tickets = Arc::default();
    Framed::agent(dial(&["iofog-tunnel"], mapping.port1, &tickets), &mapping.passcode1);
    daemon.restart();
    let config = offering(&daemon.trust(), &["iofog-tunnel"], Some(&tickets));
    let link = Link::tls(at(mapping.port1), &config).expect("a handshake");
    assert!(!link.is_resumed());
    Framed::agent(link, &mapping.passcode1).beat_and_answer();
}

#[test]
fn connector_that_has_selected_the_name_expects_version_three() {
    let (daemon, mapping) = Daemon::public(Mode::Tls, 60, NEVER);
    for greeting in [format!("IOFOG/2 {}\n", mapping.passcode1), mapping.passcode1.clone()] {
        let mut link = daemon.framed_link(mapping.port1);
        link.send(greeting.as_bytes());
        link.expect_closed();
    }
}

#[test]
fn users_are_offered_no_name_of_agents() {
    let (daemon, mapping) = Daemon::public(Mode::Tls, 60, NEVER);
    let _agent = daemon.version_three(&mapping);
    let config = offering(&daemon.trust(), &["iofog-tunnel"], None);
    // Whether it is let in is no matter of this page.
    if let Ok(user) = Link::tls(at(mapping.port2), &config) {
        assert_eq!(user.protocol(), None);
    }
}

// 2

/// What an agent sends in a session that says "hello".
fn hello() -> Vec<u8> {
    let frames: [&[u8]; 8] = [
        &frame(b'P', b""),
        &frame(b'S', b""),
        &frame(b'P', b""),
        &frame(b'A', b""),
        &frame(b'D', b"hell"),
        &frame(b'P', b""),
        &frame(b'D', b"o"),
        &frame(b'E', b""),
    ];
    frames.concat()
}

fn frames_may_be_cut_anywhere(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    let all = hello();
    let pieces = (0..all.len()).map(|cut| vec![&all[..cut], &all[cut..]]);
    let bytes = all.chunks(1).collect();
    for pieces in pieces.chain([bytes]) {
        let mut user = daemon.user(&mapping);
        agent.opened();
        for piece in pieces {
            agent.link.send(piece);
            // Most pieces are read alone, then.
            thread::sleep(ms(2));
        }
        assert_eq!(user.until_end(), b"hello");
        user.finish();
        for kind in [b'p', b'p', b'p', b'E'] {
            agent.expect(kind);
        }
        agent.say(b'S', b"");
    }
}

fn frames_may_come_together(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    for _ in 0..3 {
        let mut user = daemon.user(&mapping);
        agent.opened();
        agent.link.send(&hello());
        assert_eq!(user.until_end(), b"hello");
        user.finish();
        for kind in [b'p', b'p', b'p', b'E'] {
            agent.expect(kind);
        }
        agent.say(b'S', b"");
    }
    // Many small ones, and one as long as may be.
    let mut user = session_on(&daemon, &mapping, &mut agent);
    let bytes = noise(1, 5000 + DATA);
    let (small, large) = bytes.split_at(5000);
    let mut frames: Vec<u8> = small.iter().flat_map(|byte| frame(b'D', &[*byte])).collect();
    frames.extend(frame(b'D', large));
    agent.link.send(&frames);
    assert_same(&user.exactly(bytes.len()), &bytes, "what came in frames");
    finish(&mut user, &mut agent);
}

/// What may stand nowhere in what an agent sends.
fn never() -> Vec<Vec<u8>> {
    vec![
        frame(b'Z', b""),
        frame(b's', b""),
        frame(0, b""),
        frame(b'p', b""),
        frame(b'O', &Header::local()),
        frame(b'W', &[0, 1]),
        frame(b'P', b"x"),
        frame(b'B', b"x"),
        // These say enough by their lengths.
        head(b'X', 1025).to_vec(),
        head(b'F', 1025).to_vec(),
        head(b'D', 0).to_vec(),
        head(b'D', DATA + 1).to_vec(),
        head(b'E', 0xff_ffff).to_vec(),
        b"BEAT".to_vec(),
    ]
}

fn frame_that_does_not_belong_ends_an_idle_tunnel(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let early = [b'S', b'A', b'E', b'F'].map(|kind| frame(kind, b""));
    let wrong: Vec<_> = never().into_iter().chain(early).chain([frame(b'D', b"x")]).collect();
    // At once, since repeated offences may be held.
    let agents: Vec<_> = wrong
        .into_iter()
        .map(|bytes| {
            let mut agent = daemon.version_three(&mapping);
            agent.link.send(&bytes);
            (agent, bytes)
        })
        .collect();
    for (mut agent, bytes) in agents {
        println!("{bytes:?}");
        agent.expect_closed();
    }
}

fn frame_that_does_not_belong_ends_tunnel_and_session(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let [seen, accepted, ended, failed] = [b'S', b'A', b'E', b'F'].map(|kind| frame(kind, b""));
    let bytes = frame(b'D', b"x");
    let mut cases: Vec<(Vec<u8>, &[u8], Vec<u8>)> = Vec::new();
    for wrong in never().into_iter().chain([seen.clone(), accepted.clone(), failed.clone()]) {
        cases.push(([&seen[..], &accepted].concat(), b"", wrong));
    }
    for wrong in [&seen, &bytes, &ended] {
        cases.push((seen.clone(), b"", wrong.clone()));
    }
    for wrong in [&bytes, &ended] {
        let before = [&seen[..], &accepted, &bytes, &ended].concat();
        cases.push((before, b"x", wrong.clone()));
    }
    let mut ends = Vec::new();
    for (before, delivered, wrong) in cases {
        println!("{wrong:?} after {before:?}");
        let mut agent = daemon.version_three(&mapping);
        let mut user = daemon.user(&mapping);
        agent.opened();
        agent.link.send(&before);
        user.send(b"question");
        agent.expect_data(b"question");
        agent.link.send(&wrong);
        let (got, end) = user.rest();
        assert_eq!(got, delivered);
        // What had ended in order before has.
        assert!(end == Got::Reset || before.ends_with(&ended), "{end:?}");
        ends.push(agent);
    }
    for mut agent in ends {
        agent.until_closed();
    }
    until("no place is taken", || daemon.api().in_use(&mapping) == 0);
}

fn frame_that_does_not_belong_before_seen_ends_the_tunnel(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    for wrong in [b'A', b'E', b'F', b'D'] {
        let mut agent = daemon.version_three(&mapping);
        let mut user = daemon.user(&mapping);
        agent.opened();
        agent.link.send(&frame(wrong, if wrong == b'D' { b"x" } else { b"" }));
        agent.until_closed();
        user.expect_reset_after(b"");
    }
}

// 3

fn header_names_the_user_and_where_it_came(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    for _ in 0..3 {
        serves(&daemon, &mapping, &mut agent);
    }
    agent.expect_silence(ms(100));
}

fn service_may_speak_first(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    // One of version 1 would do nothing with such a user.
    let mut one = daemon.tunnel(&mapping);
    let (mut user, mut agent) = session(&daemon, &mapping);
    agent.send(b"220 ready");
    user.expect(b"220 ready");
    agent.expect_silence(ms(50));
    one.beat_and_answer();
}

fn users_bytes_follow_at_once_where_the_agent_was_just_heard(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut user = daemon.user(&mapping);
    user.send(b"GET / ");
    // It has just spoken, to prove the passcode.
    let mut agent = daemon.version_three(&mapping);
    agent.opened();
    agent.expect_data(b"GET / ");
    user.send(b"HTTP/1.1");
    agent.expect_data(b"HTTP/1.1");
    agent.accept();
    agent.send(b"HTTP/1.1 200");
    user.expect(b"HTTP/1.1 200");
}

fn users_bytes_wait_for_an_agent_that_was_not_just_heard(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    thread::sleep(ms(5500));
    let mut user = daemon.user(&mapping);
    user.send(b"GET / ");
    user.finish();
    agent.opened();
    agent.expect_silence(ms(300));
    agent.say(b'S', b"");
    agent.expect_data(b"GET / ");
    agent.expect(b'E');
    agent.say(b'A', b"");
    agent.send(b"HTTP/1.1 200");
    agent.say(b'E', b"");
    assert_eq!(user.until_end(), b"HTTP/1.1 200");
    serves(&daemon, &mapping, &mut agent);
}

fn one_tunnel_carries_sessions_one_after_another_exactly(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut sizes = vec![1, 2, 3, 4, 5, 8 << 20, 1, 1];
    for buffer in [16 * 1024, 64 * 1024, DATA] {
        sizes.extend([buffer - 1, buffer, buffer + 1]);
    }
    let mut agent = daemon.version_three(&mapping);
    for size in sizes {
        let mut user = session_on(&daemon, &mapping, &mut agent);
        let (up, down) = (noise(size as u64, size), noise(size as u64 + 1, size));
        thread::scope(|scope| {
            scope.spawn(|| assert_same(&agent.exchange(&down, size), &up, "up"));
            assert_same(&user.exchange(&up, size), &down, "down");
        });
        finish(&mut user, &mut agent);
    }
    for _ in 0..100 {
        serves(&daemon, &mapping, &mut agent);
    }
    assert_eq!(daemon.api().number(&mapping, "counts.tunnelsTotal"), 1);
    until("the sessions are over", || daemon.api().number(&mapping, "counts.sessions") == 0);
    assert_eq!(daemon.api().idle(&mapping), 1);
}

fn users_end_is_passed_on_by_itself(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let (mut user, mut agent) = session(&daemon, &mapping);
    let question = noise(1, 300_000);
    user.send(&question);
    user.finish();
    agent.expect_data(&question);
    agent.expect(b'E');
    // The answer comes when its time has come, and is all there.
    thread::sleep(ms(1000));
    let answer = noise(2, 300_000);
    agent.send(&answer);
    agent.say(b'E', b"");
    assert_same(&user.until_end(), &answer, "the answer");
    serves(&daemon, &mapping, &mut agent);
}

fn agents_end_is_passed_on_by_itself(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let (mut user, mut agent) = session(&daemon, &mapping);
    agent.send(b"all I have to say");
    agent.say(b'E', b"");
    assert_eq!(user.until_end(), b"all I have to say");
    thread::sleep(ms(1000));
    let upload = noise(3, 300_000);
    user.send(&upload);
    user.finish();
    agent.expect_data(&upload);
    agent.expect(b'E');
    serves(&daemon, &mapping, &mut agent);
}

fn users_bytes_and_end_may_come_before_the_service_is_reached(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    let mut user = daemon.user(&mapping);
    let upload = noise(4, 1 << 20);
    agent.opened();
    agent.say(b'S', b"");
    thread::scope(|scope| {
        scope.spawn(|| {
            user.send(&upload);
            user.finish();
        });
        agent.expect_data(&upload);
        agent.expect(b'E');
    });
    agent.say(b'A', b"");
    agent.say(b'E', b"");
    assert!(user.until_end().is_empty());
    serves(&daemon, &mapping, &mut agent);
}

fn failure_resets_the_user_and_the_tunnel_serves_again(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    for round in 0..6 {
        let mut user = daemon.user(&mapping);
        let who = agent.opened_after_failure();
        assert_eq!(who, of(&user, &mapping));
        // What has been sent before is of no account.
        if round % 3 > 0 {
            user.send(b"anybody there?");
        }
        if round % 3 > 1 {
            user.finish();
        }
        agent.say(b'S', b"");
        agent.say(b'F', "the service \u{e9}chappe".as_bytes());
        user.expect_reset_after(b"");
    }
    let mut user = daemon.user(&mapping);
    agent.opened_after_failure();
    agent.accept();
    user.send(b"question");
    agent.expect_data(b"question");
    finish(&mut user, &mut agent);
    let said = daemon.api().state_of(&mapping).unwrap()["lastError"].to_string();
    assert!(said.contains("chappe"), "{said}");
    assert_eq!(daemon.api().number(&mapping, "counts.tunnelsTotal"), 1);
}

fn service_that_is_not_reached_in_time_resets_the_user(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    let start = Instant::now();
    let mut user = daemon.user(&mapping);
    agent.opened();
    agent.say(b'S', b"");
    user.expect_reset_after(b"");
    assert!(start.elapsed() >= ms(9900), "{:?}", start.elapsed());
    // It is broken off, whether the tunnel goes on or not.
    if let Ok((kind, _)) = agent.next_by(Instant::now() + PATIENCE) {
        assert_eq!(char::from(kind), 'X');
        agent.say(b'X', b"");
        serves(&daemon, &mapping, &mut agent);
    }
}

// 4

fn user_whose_tunnel_is_dead_is_given_another(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut living = daemon.version_three(&mapping);
    let mut dead = daemon.version_three(&mapping);
    dead.beat_and_answer();
    let start = Instant::now();
    let mut user = daemon.user(&mapping);
    assert_eq!(dead.opened(), of(&user, &mapping));
    living.beat_and_answer();
    assert_eq!(living.opened(), of(&user, &mapping));
    assert!(start.elapsed() >= ms(1900), "{:?}", start.elapsed());
    living.accept();
    user.send(b"question");
    living.expect_data(b"question");
    finish(&mut user, &mut living);
    dead.until_closed();
    serves(&daemon, &mapping, &mut living);
}

fn user_whose_tunnel_breaks_unseen_is_given_another(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut living = daemon.version_three(&mapping);
    for reset in [true, false] {
        let mut broken = daemon.version_three(&mapping);
        broken.beat_and_answer();
        let mut user = daemon.user(&mapping);
        assert_eq!(broken.opened(), of(&user, &mapping));
        living.beat_and_answer();
        if reset {
            broken.link.reset();
        } else {
            broken.link.finish();
        }
        assert_eq!(living.opened(), of(&user, &mapping));
        living.accept();
        user.send(b"question");
        living.expect_data(b"question");
        finish(&mut user, &mut living);
    }
}

fn user_whose_only_tunnel_breaks_unseen_waits_for_the_next(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    // It was not heard since, and is given the user all the same: only silence makes others suspect.
    let mut other = daemon.version_three(&mapping);
    let mut broken = daemon.version_three(&mapping);
    broken.beat_and_answer();
    let mut user = daemon.user(&mapping);
    assert_eq!(broken.opened(), of(&user, &mapping));
    broken.link.reset();
    assert_eq!(other.opened(), of(&user, &mapping));
    other.link.reset();
    user.expect_silence(ms(200));
    let mut next = daemon.version_three(&mapping);
    assert_eq!(next.opened(), of(&user, &mapping));
    next.accept();
    finish(&mut user, &mut next);
}

fn user_whose_bytes_a_dead_tunnel_has_is_reset(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut living = daemon.version_three(&mapping);
    for breaks in [false, true] {
        let mut dead = daemon.version_three(&mapping);
        dead.beat_and_answer();
        let mut user = daemon.user(&mapping);
        user.send(b"question");
        dead.opened();
        dead.expect_data(b"question");
        living.beat_and_answer();
        if breaks {
            dead.link.reset();
        }
        user.expect_reset_after(b"");
        living.expect_silence(ms(200));
    }
    serves(&daemon, &mapping, &mut living);
}

/// A daemon with a public pipe, whose users wait for longer than any test.
fn public_patient(mode: Mode) -> (Daemon, Mapping) {
    let daemon = Daemon::builder(mode).set("userwait", 600_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    (daemon, mapping)
}

/// Expects that this tunnel, which was given users and never answered, was sent no byte of theirs, and is closed.
#[track_caller]
fn expect_no_bytes_and_a_close(dead: &mut Framed) {
    loop {
        match dead.next_by(Instant::now() + PATIENCE) {
            Ok((b'O' | b'X', _)) => {}
            Ok((kind, _)) => panic!("{} on a dead tunnel", char::from(kind)),
            Err(Got::Late) => panic!("still open"),
            Err(_) => return,
        }
    }
}

fn users_of_dead_tunnels_are_told_and_do_not_wait(mode: Mode) {
    let (daemon, mapping) = public_patient(mode);
    let mut dead: Vec<_> = (0..3).map(|_| daemon.version_three(&mapping)).collect();
    let last = dead.last_mut().unwrap();
    last.beat_and_answer();
    let mut user = daemon.user(&mapping);
    assert_eq!(last.opened(), of(&user, &mapping));
    user.expect_closed();
    // What is left may be as dead: nothing of the next one is sent there before it is seen.
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    user.expect_reset_after(b"");
    dead.iter_mut().for_each(expect_no_bytes_and_a_close);
    until("both are refused", || daemon.api().number(&mapping, "counts.usersRefused") == 2);
    // Now no agent is there at all, and may come.
    let mut user = daemon.user(&mapping);
    user.expect_silence(ms(200));
    let mut next = daemon.version_three(&mapping);
    assert_eq!(next.opened(), of(&user, &mapping));
    next.accept();
    finish(&mut user, &mut next);
    for count in ["usersServed", "sessionsTotal"] {
        assert_eq!(daemon.api().number(&mapping, &format!("counts.{count}")), 1, "{count}");
    }
}

fn tunnel_that_may_be_dead_serves_where_it_lives(mode: Mode) {
    let (daemon, mapping) = public_patient(mode);
    let mut living = daemon.version_three(&mapping);
    let mut dead = [(); 4].map(|()| daemon.version_three(&mapping));
    dead.iter_mut().for_each(Framed::beat_and_answer);
    let mut user = daemon.user(&mapping);
    dead[3].opened();
    // There was time for one more at most. The next one has time for more than two.
    user.expect_closed();
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    assert_eq!(living.opened(), of(&user, &mapping));
    living.accept();
    living.expect_data(b"question");
    living.send(b"answer");
    user.expect(b"answer");
    finish(&mut user, &mut living);
    dead.iter_mut().for_each(expect_no_bytes_and_a_close);
    serves(&daemon, &mapping, &mut living);
}

/// A tunnel that was silent for over twice its own interval.
fn overdue_tunnel(daemon: &Daemon, mapping: &Mapping) -> Framed {
    let mut agent = daemon.version_three(mapping);
    let start = Instant::now();
    for _ in 0..3 {
        agent.beat_and_answer();
        thread::sleep(ms(50));
    }
    thread::sleep(3 * start.elapsed());
    agent
}

fn tunnel_that_is_overdue_is_given_last(mode: Mode) {
    let (daemon, mapping) = public_patient(mode);
    let mut living = daemon.version_three(&mapping);
    let mut overdue = overdue_tunnel(&daemon, &mapping);
    let mut user = session_on(&daemon, &mapping, &mut living);
    let mut other = session_on(&daemon, &mapping, &mut overdue);
    finish(&mut other, &mut overdue);
    finish(&mut user, &mut living);
}

fn user_of_a_dead_tunnel_waits_where_another_agent_may_open_one(mode: Mode) {
    let (daemon, mapping) = public_patient(mode);
    let mut elsewhere = daemon.version_three_at(&mapping, 2);
    let mut busy = session_on(&daemon, &mapping, &mut elsewhere);
    let mut dead = daemon.version_three(&mapping);
    let mut user = daemon.user(&mapping);
    assert_eq!(dead.opened(), of(&user, &mapping));
    until_wanted(&mut elsewhere, 1);
    dead.until_closed();
    user.expect_silence(ms(200));
    let mut next = daemon.version_three_at(&mapping, 2);
    assert_eq!(next.opened(), of(&user, &mapping));
    next.accept();
    finish(&mut user, &mut next);
    finish(&mut busy, &mut elsewhere);
    assert_eq!(elsewhere.wanted, 1, "it is told once");
}

fn agents_are_told_once_of_a_user_on_a_tunnel_that_may_be_dead(mode: Mode) {
    let (daemon, mapping) = public_patient(mode);
    let mut elsewhere = daemon.version_three_at(&mapping, 2);
    let mut busy = session_on(&daemon, &mapping, &mut elsewhere);
    let mut overdue = overdue_tunnel(&daemon, &mapping);
    let mut user = daemon.user(&mapping);
    assert_eq!(overdue.opened(), of(&user, &mapping));
    until_wanted(&mut elsewhere, 1);
    overdue.until_closed();
    elsewhere.expect_silence(ms(300));
    let mut next = daemon.version_three_at(&mapping, 2);
    assert_eq!(next.opened(), of(&user, &mapping));
    next.accept();
    finish(&mut user, &mut next);
    finish(&mut busy, &mut elsewhere);
    assert_eq!((elsewhere.wanted, overdue.wanted), (1, 0));
}

fn session_at_a_dead_tunnels_address_is_not_waited_for(mode: Mode) {
    let (daemon, mapping) = public_patient(mode);
    let (mut busy, mut agent) = session(&daemon, &mapping);
    let mut dead = daemon.version_three(&mapping);
    let mut user = daemon.user(&mapping);
    assert_eq!(dead.opened(), of(&user, &mapping));
    user.expect_closed();
    finish(&mut busy, &mut agent);
}

fn user_of_a_dead_tunnel_waits_for_agents_of_other_versions(mode: Mode) {
    let (daemon, mapping) = public_patient(mode);
    for version in [1, 2] {
        let tunnel = || match version {
            1 => daemon.tunnel(&mapping),
            _ => daemon.version_two(&mapping),
        };
        let mut other = tunnel();
        let mut busy = daemon.user(&mapping);
        busy.send(b"busy");
        if version == 1 {
            other.expect(b"busy");
        } else {
            Header::read(&mut other);
            other.send(b"OPENbusy");
        }
        let mut dead = daemon.version_three(&mapping);
        let mut user = daemon.user(&mapping);
        assert_eq!(dead.opened(), of(&user, &mapping));
        dead.until_closed();
        user.expect_silence(ms(200));
        user.send(b"question");
        let mut next = tunnel();
        if version == 2 {
            Header::read(&mut next);
            next.send(b"OPEN");
        }
        next.expect(b"question");
        next.send(b"answer");
        user.expect(b"answer");
    }
}

// 5

fn agents_break_resets_the_user_and_the_tunnel_serves_again(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    let answer = noise(5, 100_000);
    for accepted in [true, true, false] {
        let mut user = daemon.user(&mapping);
        agent.opened();
        agent.say(b'S', b"");
        let mut delivered = &b""[..];
        if accepted {
            agent.say(b'A', b"");
            user.send(b"question");
            agent.expect_data(b"question");
            agent.send(&answer);
            delivered = &answer;
        }
        agent.say(b'X', b"the service has reset");
        agent.expect(b'X');
        user.expect_reset_after(delivered);
    }
    // An end that is followed by a break was none.
    let mut user = session_on(&daemon, &mapping, &mut agent);
    user.finish();
    agent.expect(b'E');
    agent.say(b'X', b"");
    agent.expect(b'X');
    user.expect_reset_after(b"");
    serves(&daemon, &mapping, &mut agent);
    assert_eq!(daemon.api().number(&mapping, "counts.tunnelsTotal"), 1);
}

fn users_reset_is_a_break_and_the_tunnel_serves_again(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    let upload = noise(6, 100_000);
    for _ in 0..3 {
        let mut user = session_on(&daemon, &mapping, &mut agent);
        user.send(&upload);
        agent.expect_data(&upload);
        user.reset();
        agent.expect(b'X');
        // What was on its way is thrown away.
        agent.send(b"half an ans");
        agent.say(b'X', b"");
        serves(&daemon, &mapping, &mut agent);
    }
    // Bytes that the connector had taken are delivered first.
    let mut user = session_on(&daemon, &mapping, &mut agent);
    let before = daemon.control().bytes_up(&mapping);
    user.send(&upload);
    let all = before + upload.len() as u64;
    until("all is read", || daemon.control().bytes_up(&mapping) == all);
    user.reset();
    agent.expect_data(&upload);
    agent.expect(b'X');
    agent.say(b'X', b"");
    // And after the agent has ended.
    let mut user = session_on(&daemon, &mapping, &mut agent);
    agent.say(b'E', b"");
    assert!(user.until_end().is_empty());
    user.reset();
    agent.expect(b'X');
    agent.say(b'X', b"");
    serves(&daemon, &mapping, &mut agent);
}

fn user_that_leaves_before_the_service_is_reached_leaves_a_tunnel_that_serves(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    for seen in [true, false] {
        // One that resets, before or after the agent has seen it.
        let user = daemon.user(&mapping);
        agent.opened();
        if seen {
            agent.say(b'S', b"");
            agent.beat_and_answer();
        }
        user.reset();
        agent.expect(b'X');
        if !seen {
            agent.say(b'S', b"");
        }
        agent.say(b'X', b"");
        serves(&daemon, &mapping, &mut agent);
        // One that ends: it may be waiting for an answer.
        let mut user = daemon.user(&mapping);
        agent.opened();
        if seen {
            agent.say(b'S', b"");
        }
        user.finish();
        agent.expect(b'E');
        if !seen {
            agent.say(b'S', b"");
        }
        agent.say(b'A', b"");
        agent.send(b"220 ready");
        agent.say(b'E', b"");
        assert_eq!(user.until_end(), b"220 ready");
        serves(&daemon, &mapping, &mut agent);
    }
}

fn breaks_that_cross_answer_each_other(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    for _ in 0..20 {
        let user = session_on(&daemon, &mapping, &mut agent);
        user.reset();
        // It may be the answer, or cross.
        agent.say(b'X', b"");
        agent.expect(b'X');
        serves(&daemon, &mapping, &mut agent);
    }
}

fn failure_that_crosses_a_break_is_its_answer(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    for _ in 0..3 {
        let user = daemon.user(&mapping);
        agent.opened();
        agent.say(b'S', b"");
        user.reset();
        agent.expect(b'X');
        // As if it had been said before the break was heard; that is then of a session that is over.
        agent.say(b'F', b"");
        serves(&daemon, &mapping, &mut agent);
    }
}

fn end_that_was_seen_is_the_answer_to_a_break_that_crosses_it(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    for _ in 0..3 {
        let mut user = session_on(&daemon, &mapping, &mut agent);
        user.finish();
        agent.expect(b'E');
        user.reset();
        agent.expect(b'X');
        // For the agent the session has ended in order, and the break came afterwards.
        agent.send(b"a late answer");
        agent.say(b'E', b"");
        agent.say(b'S', b"");
        serves(&daemon, &mapping, &mut agent);
    }
}

fn break_after_the_session_is_over_is_thrown_away(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    agent.say(b'X', b"nothing to break");
    agent.beat_and_answer();
    serves(&daemon, &mapping, &mut agent);
    // Before the next session is seen, it belongs to the last one.
    let mut user = daemon.user(&mapping);
    agent.opened();
    agent.say(b'X', b"the last one's");
    agent.beat_and_answer();
    agent.accept();
    user.send(b"question");
    agent.expect_data(b"question");
    finish(&mut user, &mut agent);
    // An agent that had ended, and then broke off, when the user's end came across.
    let mut user = session_on(&daemon, &mapping, &mut agent);
    user.finish();
    agent.expect(b'E');
    agent.say(b'E', b"");
    agent.say(b'X', b"");
    assert!(user.until_end().is_empty());
    serves(&daemon, &mapping, &mut agent);
}

fn what_comes_after_a_break_is_thrown_away_up_to_16_mebibytes(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    let broken = |agent: &mut Framed| {
        session_on(&daemon, &mapping, agent).reset();
        agent.expect(b'X');
    };
    for _ in 0..2 {
        broken(&mut agent);
        agent.send(&noise(7, 1 << 19));
        agent.beat_and_answer();
        agent.send(&noise(8, 1 << 19));
        agent.beat_and_answer();
        agent.say(b'X', b"");
        serves(&daemon, &mapping, &mut agent);
    }
    broken(&mut agent);
    let _ = agent.link.try_send(&data(&noise(9, 16 << 20)));
    let _ = agent.link.try_send(&data(b"x"));
    agent.until_closed();
}

/// The agent's service has ended, then broken, while the end of its user was on its way.
fn break_that_crosses_the_end_is_answered(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    for _ in 0..2 {
        let mut user = session_on(&daemon, &mapping, &mut agent);
        agent.send(b"answer");
        agent.say(b'E', b"");
        assert_eq!(user.until_end(), b"answer");
        user.finish();
        until("the session is over", || daemon.api().number(&mapping, "counts.sessions") == 0);
        agent.say(b'X', b"the service broke");
        agent.expect(b'E');
        agent.expect(b'X');
    }
    serves(&daemon, &mapping, &mut agent);
}

fn slow_user_gets_all_from_a_tunnel_that_ends_behind_both_ends(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let (mut user, mut agent) = session(&daemon, &mapping);
    user.shrink();
    user.send(b"question");
    user.finish();
    agent.expect_data(b"question");
    agent.expect(b'E');
    let answer = noise(15, 3 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            agent.send(&answer);
            agent.say(b'E', b"");
            // That both have ended is said, and the tunnel ends.
            agent.link.finish();
        });
        let mut got = Vec::new();
        let end = loop {
            match user.record() {
                Got::Bytes(bytes) => got.extend(bytes),
                end => break end,
            }
            thread::sleep(ms(2));
        };
        assert_same(&got, &answer, "what was sent before the end");
        assert_eq!(end, Got::End);
    });
}

fn break_without_an_answer_closes_the_tunnel(mode: Mode) {
    let daemon = Daemon::builder(mode).set("connectionlog", true).start();
    let mapping = daemon.api().add_public(1, NEVER);
    let (user, mut agent) = session(&daemon, &mapping);
    let start = Instant::now();
    user.reset();
    agent.expect(b'X');
    for _ in 0..10 {
        agent.beat_and_answer();
        assert_eq!(daemon.api().in_use(&mapping), 1);
    }
    agent.expect_closed();
    assert!(start.elapsed() >= ms(9900), "{:?}", start.elapsed());
    until("its place is free", || daemon.api().in_use(&mapping) == 0);
    until("it is said", || daemon.log_text().contains("did not answer the break in time"));
    serves(&daemon, &mapping, &mut daemon.version_three(&mapping));
}

// 6

fn heartbeats_are_answered_at_any_time(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    for _ in 0..20 {
        agent.beat_and_answer();
    }
    let mut user = daemon.user(&mapping);
    agent.opened();
    agent.beat_and_answer();
    agent.say(b'S', b"");
    agent.beat_and_answer();
    agent.say(b'A', b"");
    agent.beat_and_answer();
    // Among bytes, and behind a user that does not read.
    user.shrink();
    agent.send(b"half");
    agent.beat_and_answer();
    user.finish();
    agent.expect(b'E');
    agent.beat_and_answer();
    agent.send(b" an answer");
    user.expect(b"half an answer");
    user.reset();
    agent.expect(b'X');
    agent.beat_and_answer();
    agent.say(b'X', b"");
    agent.beat_and_answer();
    serves(&daemon, &mapping, &mut agent);
}

fn idle_silence_is_absence(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, 500);
    let start = Instant::now();
    let mut agent = daemon.version_three(&mapping);
    agent.expect_closed();
    assert!(start.elapsed() >= ms(500));
    until("it is counted", || daemon.api().number(&mapping, "counts.tunnelsAbsent") == 1);
}

fn silence_in_a_session_is_absence(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, 3000);
    let (mut user, mut agent) = session(&daemon, &mapping);
    let start = Instant::now();
    agent.send(b"half an answer");
    user.expect_reset_after(b"half an answer");
    assert!(start.elapsed() >= ms(2900), "{:?}", start.elapsed());
    agent.until_closed();
}

fn heartbeats_keep_an_idle_session(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, 3000);
    let (mut user, mut agent) = session(&daemon, &mapping);
    let start = Instant::now();
    while start.elapsed() < ms(5000) {
        agent.beat_and_answer();
        thread::sleep(ms(100));
    }
    agent.send(b"still here");
    user.expect(b"still here");
}

fn agent_that_is_not_read_is_not_absent(mode: Mode) {
    let bytes = flood(10);
    let frames = data(&bytes);
    let (daemon, mapping) = Daemon::public(mode, 60, 2000);
    let (mut user, mut agent) = session(&daemon, &mapping);
    user.shrink();
    let taken = agent.link.fill(&frames);
    thread::sleep(ms(4000));
    thread::scope(|scope| {
        scope.spawn(|| agent.link.send(&frames[taken..]));
        assert_same(&user.exactly(bytes.len()), &bytes, "all of it");
    });
    agent.beat_and_answer();
    finish(&mut user, &mut agent);
}

// 7

fn tunnel_that_was_heard_last_is_given_first(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agents: Vec<_> = (0..3).map(|_| daemon.version_three(&mapping)).collect();
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]] {
        until("all are idle", || daemon.api().idle(&mapping) == 3);
        for one in order {
            agents[one].beat_and_answer();
        }
        let mut users = Vec::new();
        for one in order.into_iter().rev() {
            users.push((session_on(&daemon, &mapping, &mut agents[one]), one));
        }
        for (mut user, one) in users {
            finish(&mut user, &mut agents[one]);
        }
    }
}

fn version_three_is_given_before_others(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut one = daemon.tunnel(&mapping);
    let mut two = daemon.version_two(&mapping);
    let mut three = daemon.version_three(&mapping);
    // Once alone: two would tell an interval, after twice which it were overdue.
    two.send(BEAT);
    two.expect(BEAT);
    for _ in 0..3 {
        until("all are idle", || daemon.api().idle(&mapping) == 3);
        serves(&daemon, &mapping, &mut three);
    }
    until("all are idle", || daemon.api().idle(&mapping) == 3);
    let mut user = session_on(&daemon, &mapping, &mut three);
    let _other = daemon.user(&mapping);
    Header::read(&mut two);
    one.beat_and_answer();
    finish(&mut user, &mut three);
}

// 8

/// Reads what is told of users that wait, until so many were.
#[track_caller]
fn until_wanted(agent: &mut Framed, count: u32) {
    let deadline = Instant::now() + PATIENCE;
    while agent.wanted < count {
        match agent.next_by((Instant::now() + ms(20)).min(deadline)) {
            Err(Got::Late) => assert!(Instant::now() < deadline, "{} wanted", agent.wanted),
            other => panic!("{other:?} instead of W"),
        }
    }
    agent.expect_silence(ms(300));
    assert_eq!(agent.wanted, count);
}

fn each_user_that_waits_is_told_once(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let (mut user, mut agent) = session(&daemon, &mapping);
    let mut waiting = Vec::new();
    let wait = |waiting: &mut Vec<Link>| {
        waiting.push(daemon.user(&mapping));
        let count = waiting.len() as u64;
        until("it waits", || daemon.api().users_waiting(&mapping) == count);
    };
    wait(&mut waiting);
    until_wanted(&mut agent, 1);
    (0..3).for_each(|_| wait(&mut waiting));
    until_wanted(&mut agent, 4);
    // Those that are opened serve them, in their order, and nobody else is told of them.
    let mut more = Vec::new();
    for user in &waiting[..2] {
        let mut agent = daemon.version_three(&mapping);
        assert_eq!(agent.opened(), of(user, &mapping));
        agent.accept();
        agent.expect_silence(ms(100));
        assert_eq!(agent.wanted, 0);
        more.push(agent);
    }
    user.send(b"question");
    agent.expect_data(b"question");
    finish(&mut user, &mut agent);
    // It serves those that wait now.
    for user in &mut waiting[2..] {
        assert_eq!(agent.opened(), of(user, &mapping));
        agent.accept();
        finish(user, &mut agent);
    }
    assert_eq!(agent.wanted, 4);
    for (user, agent) in waiting.iter_mut().zip(&mut more) {
        finish(user, agent);
    }
    for _ in 0..3 {
        // Nobody waits any more.
        until("all are idle", || daemon.api().idle(&mapping) == 3);
        let mut user = daemon.user(&mapping);
        let agent = more.last_mut().unwrap();
        assert_eq!(agent.opened(), of(&user, &mapping));
        agent.accept();
        finish(&mut user, agent);
        assert_eq!(agent.wanted, 0);
    }
}

fn users_for_whom_there_may_be_no_tunnel_are_not_told(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 3, NEVER);
    let (_user, mut agent) = session(&daemon, &mapping);
    let _waiting: Vec<_> = (0..5).map(|_| daemon.user(&mapping)).collect();
    until_wanted(&mut agent, 2);
}

fn users_are_not_told_where_a_session_was_not_seen(mode: Mode) {
    let (daemon, mapping) = public_patient(mode);
    let mut elsewhere = daemon.version_three_at(&mapping, 2);
    let _busy = session_on(&daemon, &mapping, &mut elsewhere);
    let mut dead = daemon.version_three(&mapping);
    let first = daemon.user(&mapping);
    assert_eq!(dead.opened(), of(&first, &mapping));
    let _others = [(); 2].map(|()| daemon.user(&mapping));
    // The first one waits for another tunnel, too, when it is known that its own is dead.
    until_wanted(&mut elsewhere, 3);
    dead.until_closed();
    assert_eq!(dead.wanted, 0);
}

// 9

fn agent_that_says_bye_is_closed_in_order(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.version_three(&mapping);
    agent.say(b'B', b"");
    assert_eq!(agent.expect_closed(), Got::End);
    until("its place is free", || daemon.api().idle(&mapping) == 0);
}

fn agent_that_says_bye_in_a_session_finishes_it(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    for breaks in [false, true] {
        let (mut user, mut agent) = session(&daemon, &mapping);
        agent.say(b'B', b"");
        agent.beat_and_answer();
        user.send(b"question");
        agent.expect_data(b"question");
        agent.send(b"answer");
        user.expect(b"answer");
        if breaks {
            user.reset();
            agent.expect(b'X');
            agent.say(b'X', b"");
        } else {
            finish(&mut user, &mut agent);
        }
        assert_eq!(agent.expect_closed(), Got::End);
    }
}

fn session_that_crosses_a_bye_is_served(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut crossed = 0;
    for round in 0..50 {
        let mut agent = daemon.version_three(&mapping);
        let mut user = daemon.user(&mapping);
        // The later it is said, the more often they cross.
        thread::sleep(Duration::from_micros(round * 20));
        agent.say(b'B', b"");
        match agent.next_by(Instant::now() + PATIENCE) {
            Ok((b'O', _)) => crossed += 1,
            Err(Got::End) => {
                // It waits on, and the next tunnel is for it.
                agent = daemon.version_three(&mapping);
                agent.opened();
            }
            other => panic!("{other:?}"),
        }
        agent.accept();
        user.send(b"question");
        agent.expect_data(b"question");
        finish(&mut user, &mut agent);
    }
    println!("{crossed} crossed");
    assert!(crossed > 0);
}

fn stopping_connector_says_bye_once_its_sessions_are_over(mode: Mode) {
    let mut daemon = Daemon::builder(mode).set("drain", 60_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = session(&daemon, &mapping);
    let mut idle = daemon.version_three(&mapping);
    daemon.signal(Signal::TERM);
    until("it drains", || daemon.control().state()["draining"]["sessions"] == 1);
    let bytes = noise(11, 1 << 20);
    thread::scope(|scope| {
        scope.spawn(|| assert_same(&agent.exchange(&bytes, bytes.len()), &bytes, "up"));
        assert_same(&user.exchange(&bytes, bytes.len()), &bytes, "down");
    });
    // Its agent would find the ports closed.
    idle.beat_and_answer();
    idle.expect_silence(ms(500));
    agent.beat_and_answer();
    finish(&mut user, &mut agent);
    for mut tunnel in [idle, agent] {
        tunnel.expect(b'B');
        assert_ne!(tunnel.expect_closed(), Got::Reset);
    }
    assert!(daemon.wait().status.success());
}

fn stopping_connector_says_bye_when_its_drain_is_over(mode: Mode) {
    let mut daemon = Daemon::builder(mode).set("drain", 1000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = session(&daemon, &mapping);
    let mut idle = daemon.version_three(&mapping);
    daemon.signal(Signal::TERM);
    idle.expect(b'B');
    idle.expect_closed();
    // Its session is cut, and nothing is said.
    agent.until_closed();
    user.expect_closed();
    assert!(daemon.wait().status.success());
}

fn stopping_connector_says_bye_to_both_sides_of_a_private_pipe(mode: Mode) {
    let mut daemon = Daemon::builder(mode).set("drain", 60_000).start();
    let mapping = daemon.api().add_private(2, NEVER);
    let other = daemon.api().add_private(2, NEVER);
    let (one, two) = (daemon.version_three(&mapping), daemon.version_three2(&other));
    daemon.signal(Signal::TERM);
    for mut idle in [one, two] {
        idle.expect(b'B');
        idle.expect_closed();
    }
    assert!(daemon.wait().status.success());
}

// 10

fn tunnel_that_ends_in_a_session_has_broken(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    for how in 0..4 {
        let (mut user, mut agent) = session(&daemon, &mapping);
        let mut delivered = noise(12, 100_000);
        agent.send(&delivered);
        let mut ended = false;
        match how {
            0 => agent.link.finish(),
            1 => agent.link.fin(),
            2 => {
                // In the middle of a frame.
                agent.link.send(&frame(b'D', b"whole or not")[..9]);
                delivered.extend(b"whole");
                agent.link.finish();
            }
            _ => {
                // When the answer has ended, the question's end is still owed.
                agent.say(b'E', b"");
                assert_same(&user.exactly(delivered.len()), &delivered, "the answer");
                delivered.clear();
                ended = true;
                agent.link.finish();
            }
        }
        let (got, end) = user.rest();
        let got = if how == 2 && got.len() < delivered.len() {
            // What of a frame is delivered before the whole is there is not said.
            delivered.truncate(got.len());
            got
        } else {
            got
        };
        assert_same(&got, &delivered, "before the break");
        assert!(end == Got::Reset || ended, "{end:?}");
        until("its place is free", || daemon.api().in_use(&mapping) == 0);
    }
}

fn session_that_is_silent_for_finwait_is_broken_off(mode: Mode) {
    let daemon = Daemon::builder(mode).set("finwait", 2000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = session(&daemon, &mapping);
    agent.send(b"half an answer");
    user.finish();
    agent.expect(b'E');
    agent.expect(b'X');
    user.expect_reset_after(b"half an answer");
    agent.say(b'X', b"");
    serves(&daemon, &mapping, &mut agent);
}

fn session_that_is_silent_for_idle_is_broken_off(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add(
        &json!({
            "type": "public", "maxconnections": 60, "heartbeatabsencethreshold": NEVER, "idle": 3000
        })
        .to_string(),
    );
    let (mut user, mut agent) = session(&daemon, &mapping);
    agent.send(b"half an answer");
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Heartbeats move nothing.
        agent.say(b'P', b"");
        match agent.next_by(deadline) {
            Ok((b'p', _)) => thread::sleep(ms(50)),
            Ok((b'X', _)) => break,
            other => panic!("{other:?}"),
        }
    }
    user.expect_reset_after(b"half an answer");
    // The last one's answer may come before or after.
    agent.say(b'X', b"");
    agent.expect(b'p');
    let mut user = session_on(&daemon, &mapping, &mut agent);
    finish(&mut user, &mut agent);
}

fn removed_mapping_resets_its_sessions(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let (mut user, mut agent) = session(&daemon, &mapping);
    let mut idle = daemon.version_three(&mapping);
    daemon.api().remove(&mapping);
    user.expect_reset_after(b"");
    agent.until_closed();
    idle.until_closed();
}

fn place_is_never_free_between_sessions(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 1, NEVER);
    let mut agent = daemon.version_three(&mapping);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let newcomers = scope.spawn(|| {
            for _ in 0..4 {
                let mut other = daemon.framed_link(mapping.port1);
                other.send(format!("IOFOG/3 {}\n", mapping.passcode1).as_bytes());
                other.expect_closed();
            }
            over.store(true, Ordering::SeqCst);
        });
        while !over.load(Ordering::SeqCst) && !newcomers.is_finished() {
            serves(&daemon, &mapping, &mut agent);
            session_on(&daemon, &mapping, &mut agent).reset();
            agent.expect(b'X');
            agent.say(b'X', b"");
        }
        newcomers.join().unwrap();
    });
    assert_eq!(daemon.api().number(&mapping, "counts.tunnelsTotal"), 1);
}

// 11

/// Two sides of a private pipe, whose sessions begin.
#[track_caller]
fn opened_both(one: &mut Framed, two: &mut Framed) {
    assert_eq!(one.opened(), Header::Local);
    assert_eq!(two.opened(), Header::Local);
}

fn private_pipe_of_two_carries_session_after_session(mode: Mode) {
    let (daemon, mapping) = private(mode, 1);
    let mut one = daemon.version_three(&mapping);
    one.expect_silence(ms(50));
    let mut two = daemon.version_three2(&mapping);
    for round in 0..30 {
        // As soon as both are idle, they are a pair again.
        opened_both(&mut one, &mut two);
        one.accept();
        two.accept();
        let size = 1 + round * 20_000;
        let (up, down) = (noise(round as u64, size), noise(round as u64 + 1, size));
        thread::scope(|scope| {
            scope.spawn(|| assert_same(&one.exchange(&up, size), &down, "down"));
            assert_same(&two.exchange(&down, size), &up, "up");
        });
        let (first, last) =
            if round % 2 == 0 { (&mut one, &mut two) } else { (&mut two, &mut one) };
        first.say(b'E', b"");
        last.expect(b'E');
        last.send(b"and an answer");
        first.expect_data(b"and an answer");
        last.say(b'E', b"");
        first.expect(b'E');
    }
}

fn private_pipe_sends_bytes_before_either_service_is_reached(mode: Mode) {
    let (daemon, mapping) = private(mode, 1);
    let mut one = daemon.version_three(&mapping);
    let mut two = daemon.version_three2(&mapping);
    opened_both(&mut one, &mut two);
    one.accept();
    one.send(b"question");
    one.say(b'E', b"");
    two.expect_data(b"question");
    two.expect(b'E');
    two.accept();
    two.send(b"answer");
    two.say(b'E', b"");
    one.expect_data(b"answer");
    one.expect(b'E');
    opened_both(&mut one, &mut two);
}

fn private_pipe_passes_breaks_and_failures_on(mode: Mode) {
    let (daemon, mapping) = private(mode, 1);
    let mut one = daemon.version_three(&mapping);
    let mut two = daemon.version_three2(&mapping);
    for round in 0..6 {
        opened_both(&mut one, &mut two);
        let (first, last) =
            if round % 2 == 0 { (&mut one, &mut two) } else { (&mut two, &mut one) };
        last.accept();
        if round / 2 == 0 {
            first.say(b'S', b"");
            first.say(b'F', b"no service");
        } else {
            first.accept();
            if round / 2 == 1 {
                first.send(b"half a mess");
                last.expect_data(b"half a mess");
            }
            first.say(b'X', b"broken");
            first.expect(b'X');
        }
        // Whoever is told answers, and both are a pair again.
        last.expect(b'X');
        last.say(b'X', b"");
    }
    opened_both(&mut one, &mut two);
    // One whose connection breaks is gone, the other waits for the next.
    one.accept();
    two.accept();
    two.send(b"hello");
    one.expect_data(b"hello");
    one.link.reset();
    two.expect(b'X');
    two.say(b'X', b"");
    let mut one = daemon.version_three(&mapping);
    opened_both(&mut one, &mut two);
}

fn private_pipe_joins_version_one(mode: Mode) {
    let (daemon, mapping) = private(mode, 2);
    let mut three = daemon.version_three(&mapping);
    for breaks in [false, true] {
        let mut one = daemon.tunnel2(&mapping);
        one.send(b"first");
        assert_eq!(three.opened(), Header::Local);
        three.expect_data(b"first");
        three.accept();
        // Each by its own rules: a heartbeat of version 1 is answered and not relayed ...
        one.beat_and_answer();
        one.send(b"second");
        three.expect_data(b"second");
        three.beat_and_answer();
        // ... and bytes of version 3 that look like one must not be taken for a heartbeat.
        three.send(BEAT);
        if mode == Mode::Tls {
            one.expect_record(b"BE");
            one.expect_record(b"AT");
        } else {
            one.expect(BEAT);
        }
        three.send(b"ACK");
        one.expect_record(b"ACK");
        if breaks {
            three.say(b'X', b"");
            three.expect(b'X');
            one.link.expect_reset_after(b"");
        } else {
            one.send(b"the last");
            one.finish();
            three.expect_data(b"the last");
            three.expect(b'E');
            three.say(b'E', b"");
            one.expect_closed();
        }
    }
    let mut one = daemon.tunnel2(&mapping);
    one.send(b"question");
    three.opened();
    three.accept();
    three.expect_data(b"question");
    one.link.reset();
    three.expect(b'X');
    three.say(b'X', b"");
    drop(three);
    until("nobody is there", || daemon.api().state()["totals"]["tunnels"]["idle"] == 0);
    // What was sent before the pairing is first, however much it is.
    let mut one = daemon.tunnel2(&mapping);
    let bytes = noise(13, 300_000);
    thread::scope(|scope| {
        scope.spawn(|| one.send(&bytes));
        thread::sleep(ms(50));
        let mut three = daemon.version_three(&mapping);
        three.opened();
        three.accept();
        three.expect_data(&bytes);
        three.send(b"answer");
        three.beat_and_answer();
    });
    one.expect(b"answer");
}

fn private_pipe_joins_version_two(mode: Mode) {
    let (daemon, mapping) = private(mode, 2);
    let mut three = daemon.version_three(&mapping);
    let version_two = || {
        let mut two = daemon.link(mapping.port2);
        two.send(format!("IOFOG/2 {}\n", mapping.passcode2).as_bytes());
        two.expect(b"IOFOG/2 AUTHORIZED\n");
        two
    };
    for round in 0..4 {
        let mut two = version_two();
        assert_eq!(Header::read(&mut two), Header::Local);
        assert_eq!(three.opened(), Header::Local);
        if round == 2 {
            // One that does not take the session is none that has ended.
            three.accept();
            two.send(b"FAIL");
            two.finish();
            three.expect(b'X');
            three.say(b'X', b"");
            continue;
        }
        two.send(b"OPENhello, three");
        three.expect_data(b"hello, three");
        if round == 3 {
            three.say(b'S', b"");
            three.say(b'F', b"");
            two.expect_reset_after(b"");
            continue;
        }
        three.accept();
        three.send(b"BEAT");
        two.expect(b"BEAT");
        if round == 1 {
            two.reset();
            three.expect(b'X');
            three.say(b'X', b"");
            continue;
        }
        // Half-close each way.
        three.say(b'E', b"");
        assert!(two.until_end().is_empty());
        two.send(b"answer");
        two.finish();
        three.expect_data(b"answer");
        three.expect(b'E');
    }
    let mut two = version_two();
    Header::read(&mut two);
    three.opened();
}

fn side_whose_partner_is_dead_waits_again(mode: Mode) {
    let (daemon, mapping) = private(mode, 2);
    let mut dead = daemon.version_three(&mapping);
    let mut living = daemon.version_three2(&mapping);
    assert_eq!(dead.opened(), Header::Local);
    // By what way it waits again is not said; it must be there for the next one.
    dead.link.reset();
    let mut next = daemon.version_three(&mapping);
    let deadline = Instant::now() + PATIENCE;
    let mut pending = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            next.opened();
            next.accept();
            next.send(b"hello");
        });
        loop {
            match living.next_by(deadline) {
                Ok((b'O', _)) => living.accept(),
                Ok((b'X', _)) => living.say(b'X', b""),
                Ok((b'D', bytes)) => pending.extend(bytes),
                other => panic!("{other:?}"),
            }
            if pending == b"hello" {
                break;
            }
        }
    });
}

// Section 3, step 14

/// The mapping with a new passcode for port1.
#[track_caller]
fn renewed(daemon: &Daemon, mapping: Mapping) -> Mapping {
    let body = form(&[("mappingid", &mapping.id), ("side", "1")]);
    let answer = daemon.api().post("/api/v2/mapping/passcode", &body).ok();
    let passcode1 = answer["passcode"].as_str().expect("the passcode").to_owned();
    Mapping { passcode1, ..mapping }
}

fn new_passcode_gives_tunnels_up_once_they_are_idle(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let (mut user, mut busy) = session(&daemon, &mapping);
    let mut idle = daemon.version_three(&mapping);
    until("both are there", || daemon.api().idle(&mapping) == 1);
    let mapping = renewed(&daemon, mapping);
    idle.expect(b'B');
    // Its session goes on.
    user.send(b"question");
    busy.expect_data(b"question");
    finish(&mut user, &mut busy);
    busy.expect(b'B');
    let mut agent = daemon.version_three(&mapping);
    serves(&daemon, &mapping, &mut agent);
}

// 9

fn tunnel_that_its_agent_does_not_close_after_a_bye_is_closed(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 1, NEVER);
    let mut agent = daemon.version_three(&mapping);
    let start = Instant::now();
    let mapping = renewed(&daemon, mapping);
    agent.expect(b'B');
    for _ in 0..10 {
        agent.beat_and_answer();
        assert_eq!(daemon.api().idle(&mapping), 1);
    }
    assert_eq!(agent.expect_closed(), Got::End);
    assert!(start.elapsed() >= ms(9900), "{:?}", start.elapsed());
    serves(&daemon, &mapping, &mut daemon.version_three(&mapping));
}

// 3

fn slow_service_has_all_of_an_upload_before_the_next_session_begins(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 1, NEVER);
    let (mut user, mut agent) = session(&daemon, &mapping);
    // Its service has ended, and goes on reading, slowly.
    agent.say(b'E', b"");
    assert!(user.until_end().is_empty());
    user.send(b"upload");
    user.finish();
    agent.expect_data(b"upload");
    let (kind, _) = agent.hear_only();
    assert_eq!(kind, b'E');
    let mut next = daemon.user(&mapping);
    next.send(b"question");
    // The agent has not said yet that it has seen the end.
    agent.expect_silence(ms(2500));
    agent.beat_and_answer();
    agent.say(b'S', b"");
    agent.opened();
    agent.accept();
    agent.expect_data(b"question");
    finish(&mut next, &mut agent);
}
