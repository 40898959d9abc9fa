//! Tunnels of version 2, by a client written from the protocol page, section 5; the numbers in
//! the comments are that section's.

use std::thread;
use std::time::Instant;

use crate::common::*;

in_both_modes!(
    right_passcode_in_any_pieces_is_answered,
    wrong_passcode_is_closed_without_a_byte,
    longer_passcode_is_wrong_before_its_line_ends,
    repeated_wrong_passcodes_are_held,
    version_one_is_served_on_the_same_port,
    idle_heartbeats_are_answered,
    idle_silence_is_absence,
    header_names_the_user_and_where_it_came,
    user_that_says_nothing_gets_a_tunnel,
    users_bytes_may_follow_the_header_at_once,
    heartbeat_that_crosses_the_header_is_told_from_open,
    fail_closes_the_user,
    end_without_an_answer_closes_the_user,
    anything_but_open_or_fail_closes_the_user,
    agent_that_answers_nothing_fails_the_user,
    users_end_is_passed_on_by_itself,
    agents_end_is_passed_on_by_itself,
    finished_tunnel_is_closed_and_its_place_is_free,
    bytes_that_look_like_tokens_are_bytes,
    silence_in_a_session_is_no_absence,
    bytes_of_every_size_are_exact_both_ways,
    idle_tunnel_that_sends_other_bytes_is_out_of_step,
    private_pipe_tells_both_sides_by_a_local_header,
    private_pipe_joins_both_versions,
    private_pipe_passes_half_close_on_each_way,
);

const NEVER: u64 = 200_000;
/// Connects and proves the passcode by the rules of version 2.
#[track_caller]
fn tunnel(daemon: &Daemon, port: u16, passcode: &str) -> Link {
    let mut link = daemon.link(port);
    link.send(format!("IOFOG/2 {passcode}\n").as_bytes());
    link.expect(b"IOFOG/2 AUTHORIZED\n");
    link
}

/// A user and an agent whose session is open.
#[track_caller]
fn session(daemon: &Daemon, mapping: &Mapping) -> (Link, Link) {
    let mut agent = tunnel(daemon, mapping.port1, &mapping.passcode1);
    let user = daemon.user(mapping);
    Header::read(&mut agent);
    agent.send(b"OPEN");
    (user, agent)
}

// 1

fn right_passcode_in_any_pieces_is_answered(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let offer = format!("IOFOG/2 {}\n", mapping.passcode1).into_bytes();
    for cut in [1, 7, 8, 9, offer.len() - 1] {
        let mut agent = daemon.link(mapping.port1);
        agent.send(&offer[..cut]);
        agent.expect_silence(ms(20));
        agent.send(&offer[cut..]);
        agent.expect(b"IOFOG/2 AUTHORIZED\n");
        agent.expect_silence(ms(20));
    }
    let mut agent = daemon.link(mapping.port1);
    for byte in &offer {
        agent.send(&[*byte]);
    }
    agent.expect(b"IOFOG/2 AUTHORIZED\n");
}

fn wrong_passcode_is_closed_without_a_byte(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut other = mapping.passcode1.clone().into_bytes();
    other[35] ^= 1;
    let other = String::from_utf8(other).unwrap();
    for wrong in [other, String::new(), "short".into()] {
        let mut agent = daemon.link(mapping.port1);
        agent.send(format!("IOFOG/2 {wrong}\n").as_bytes());
        agent.expect_closed();
    }
}

fn longer_passcode_is_wrong_before_its_line_ends(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = daemon.link(mapping.port1);
    agent.send(format!("IOFOG/2 {}x", mapping.passcode1).as_bytes());
    agent.expect_closed();
}

fn repeated_wrong_passcodes_are_held(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let refused = || {
        let mut agent = daemon.link(mapping.port1);
        let start = Instant::now();
        agent.send(b"IOFOG/2 wrong\n");
        agent.expect_closed();
        start.elapsed()
    };
    for _ in 0..3 {
        refused();
    }
    assert!(refused() >= ms(2900));
}

fn version_one_is_served_on_the_same_port(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut two = tunnel(&daemon, mapping.port1, &mapping.passcode1);
    let mut one = daemon.tunnel(&mapping);
    one.beat_and_answer();
    two.send(BEAT);
    two.expect(BEAT);
    // What departs from the greetings is no passcode here, by whatever version.
    let mut neither = daemon.link(mapping.port1);
    neither.send(format!("IOFOG/4 {}\n", mapping.passcode1).as_bytes());
    neither.expect_closed();
}

// 2

fn idle_heartbeats_are_answered(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, 3000);
    let mut agent = tunnel(&daemon, mapping.port1, &mapping.passcode1);
    for _ in 0..20 {
        agent.send(BEAT);
        agent.expect(BEAT);
    }
    // In a stream of bytes a heartbeat may come in pieces or with others.
    for piece in [&b"BE"[..], b"ATBEA", b"TBEAT"] {
        agent.send(piece);
    }
    agent.expect(b"BEATBEATBEAT");
    agent.expect_silence(ms(50));
}

fn idle_silence_is_absence(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, 500);
    let start = Instant::now();
    let mut agent = tunnel(&daemon, mapping.port1, &mapping.passcode1);
    agent.expect_closed();
    assert!(start.elapsed() >= ms(500));
}

// 3

fn header_names_the_user_and_where_it_came(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = tunnel(&daemon, mapping.port1, &mapping.passcode1);
    let user = daemon.user(&mapping);
    let expected = Header::Proxy { source: user.local(), destination: at(mapping.port2) };
    assert_eq!(Header::read(&mut agent), expected);
    // No heartbeat is written after it.
    agent.expect_silence(ms(200));
}

fn user_that_says_nothing_gets_a_tunnel(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    // One of version 1 has been idle longer, and would do nothing with such a user.
    let mut one = daemon.tunnel(&mapping);
    let (mut user, mut agent) = session(&daemon, &mapping);
    agent.send(b"220 ready");
    user.expect(b"220 ready");
    one.beat_and_answer();
}

fn users_bytes_may_follow_the_header_at_once(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut user = daemon.user(&mapping);
    user.send(b"GET / ");
    let mut agent = tunnel(&daemon, mapping.port1, &mapping.passcode1);
    Header::read(&mut agent);
    agent.expect(b"GET / ");
    user.send(b"HTTP/1.1");
    agent.expect(b"HTTP/1.1");
    agent.send(b"OPENHTTP/1.1 200");
    user.expect(b"HTTP/1.1 200");
}

// 4

fn heartbeat_that_crosses_the_header_is_told_from_open(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    for answer in [&b"BEATOPENBEAT"[..], b"OPENBEAT", b"BEATBEATOPENBEAT"] {
        let mut agent = tunnel(&daemon, mapping.port1, &mapping.passcode1);
        let mut user = daemon.user(&mapping);
        Header::read(&mut agent);
        for byte in answer {
            agent.send(&[*byte]);
        }
        user.expect(BEAT);
        user.expect_silence(ms(20));
    }
}

fn fail_closes_the_user(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = tunnel(&daemon, mapping.port1, &mapping.passcode1);
    let mut user = daemon.user(&mapping);
    user.send(b"anybody there?");
    Header::read(&mut agent);
    let start = Instant::now();
    agent.send(b"FAIL");
    agent.finish();
    user.expect_closed();
    assert!(start.elapsed() < ms(5000), "at once, not when something has timed out");
}

fn end_without_an_answer_closes_the_user(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = tunnel(&daemon, mapping.port1, &mapping.passcode1);
    let mut user = daemon.user(&mapping);
    Header::read(&mut agent);
    let start = Instant::now();
    agent.finish();
    user.expect_closed();
    assert!(start.elapsed() < ms(5000), "at once, not when something has timed out");
}

fn anything_but_open_or_fail_closes_the_user(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = tunnel(&daemon, mapping.port1, &mapping.passcode1);
    let mut user = daemon.user(&mapping);
    Header::read(&mut agent);
    agent.send(b"HTTP/1.1 200 OK");
    user.expect_closed();
    agent.expect_closed();
}

fn agent_that_answers_nothing_fails_the_user(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let start = Instant::now();
    let mut agent = tunnel(&daemon, mapping.port1, &mapping.passcode1);
    let mut user = daemon.user(&mapping);
    Header::read(&mut agent);
    agent.send(b"OPE");
    user.expect_closed();
    agent.expect_closed();
    assert!(start.elapsed() >= ms(9900));
}

// 5

fn users_end_is_passed_on_by_itself(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let (mut user, mut agent) = session(&daemon, &mapping);
    let question = noise(1, 300_000);
    user.send(&question);
    user.finish();
    assert_same(&agent.until_end(), &question, "the question");
    // The answer comes when its time has come, and is all there.
    thread::sleep(ms(1500));
    let answer = noise(2, 300_000);
    agent.send(&answer);
    agent.finish();
    assert_same(&user.until_end(), &answer, "the answer");
}

fn agents_end_is_passed_on_by_itself(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let (mut user, mut agent) = session(&daemon, &mapping);
    agent.send(b"all I have to say");
    agent.finish();
    assert_eq!(user.until_end(), b"all I have to say");
    thread::sleep(ms(1500));
    let upload = noise(3, 300_000);
    user.send(&upload);
    user.finish();
    assert_same(&agent.until_end(), &upload, "the upload");
}

fn finished_tunnel_is_closed_and_its_place_is_free(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 1, NEVER);
    for _ in 0..5 {
        let (mut user, mut agent) = session(&daemon, &mapping);
        user.finish();
        assert!(agent.until_end().is_empty());
        agent.finish();
        assert!(user.until_end().is_empty());
        agent.expect_closed();
    }
}

// 6, and what is left of the page

fn bytes_that_look_like_tokens_are_bytes(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let (mut user, mut agent) = session(&daemon, &mapping);
    for bytes in [&b"BEAT"[..], b"BEATBEAT", b"OPEN", b"FAIL", b"IOFOG/2 x\n", SIGNATURE] {
        user.send(bytes);
        agent.expect(bytes);
        agent.send(bytes);
        user.expect(bytes);
    }
    user.expect_silence(ms(50));
    agent.expect_silence(ms(50));
}

fn silence_in_a_session_is_no_absence(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, 300);
    let (mut user, mut agent) = session(&daemon, &mapping);
    user.expect_silence(ms(1000));
    agent.send(b"still here");
    user.expect(b"still here");
}

fn bytes_of_every_size_are_exact_both_ways(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut sizes = vec![1, 2, 3, 4, 5, 8 << 20];
    for buffer in [16 * 1024, 64 * 1024] {
        sizes.extend([buffer - 1, buffer, buffer + 1]);
    }
    for size in sizes {
        let (mut user, mut agent) = session(&daemon, &mapping);
        let (up, down) = (noise(size as u64, size), noise(size as u64 + 1, size));
        thread::scope(|scope| {
            scope.spawn(|| assert_same(&agent.exchange(&down, size), &up, "up"));
            assert_same(&user.exchange(&up, size), &down, "down");
        });
        user.finish();
        agent.finish();
        assert!(user.until_end().is_empty());
        assert!(agent.until_end().is_empty());
    }
}

fn idle_tunnel_that_sends_other_bytes_is_out_of_step(mode: Mode) {
    let (daemon, mapping) = Daemon::public(mode, 60, NEVER);
    let mut agent = tunnel(&daemon, mapping.port1, &mapping.passcode1);
    agent.send(b"OPEN");
    agent.expect_closed();
}

fn private_pipe_tells_both_sides_by_a_local_header(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(2, NEVER);
    let mut one = tunnel(&daemon, mapping.port1, &mapping.passcode1);
    one.expect_silence(ms(50));
    let mut two = tunnel(&daemon, mapping.port2, &mapping.passcode2);
    for side in [&mut one, &mut two] {
        assert_eq!(Header::read(side), Header::Local);
    }
    one.send(b"OPENhello, two");
    two.expect(b"hello, two");
    two.send(b"OPENBEAT");
    one.expect(BEAT);
}

fn private_pipe_joins_both_versions(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(2, NEVER);
    let mut two = tunnel(&daemon, mapping.port1, &mapping.passcode1);
    let mut one = daemon.tunnel2(&mapping);
    one.send(b"first");
    assert_eq!(Header::read(&mut two), Header::Local);
    two.expect(b"first");
    two.send(b"OPEN");
    // Each by its own rules: a heartbeat of version 1 is answered and not relayed ...
    one.beat_and_answer();
    one.send(b"second");
    two.expect(b"second");
    // ... and four bytes of version 2 that look like one are bytes, which the agent of version 1
    // must not take for a heartbeat.
    two.send(BEAT);
    if mode == Mode::Tls {
        one.expect_record(b"BE");
        one.expect_record(b"AT");
    } else {
        one.expect(BEAT);
    }
    two.send(b"ACK");
    one.expect_record(b"ACK");
    one.finish();
    assert!(two.until_end().is_empty());
}

fn private_pipe_passes_half_close_on_each_way(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(4, NEVER);
    for _ in 0..2 {
        let mut one = tunnel(&daemon, mapping.port1, &mapping.passcode1);
        let mut two = tunnel(&daemon, mapping.port2, &mapping.passcode2);
        for side in [&mut one, &mut two] {
            Header::read(side);
            side.send(b"OPEN");
        }
        one.send(b"question");
        one.finish();
        assert_eq!(two.until_end(), b"question");
        two.send(b"answer");
        two.finish();
        assert_eq!(one.until_end(), b"answer");
    }
}
