//! `iofog-connector tunnel` in version 3 (protocol page, section 8, whose numbers are in the comments):
//! against a connector written from that page, and together with the daemon.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::tunnel_command::Tunnel as Serving;
use crate::common::*;
use rustix::process::Signal;

in_both_modes!(
    version_three_is_spoken_with_one_that_speaks_it,
    wrong_passcode_is_said_whatever_the_version,
    beginning_is_seen_at_once_and_the_service_is_dialled,
    one_tunnel_carries_sessions_one_after_another_exactly,
    ends_are_passed_on_by_themselves_each_way,
    what_comes_before_the_service_is_reached_is_not_lost,
    service_that_cannot_be_reached_is_a_failure_and_the_tunnel_goes_on,
    what_comes_after_a_failure_is_thrown_away_up_to_16_mebibytes,
    break_while_the_service_is_dialled_ends_the_dial,
    service_that_resets_is_a_break_and_the_tunnel_goes_on,
    break_resets_the_service_and_the_tunnel_goes_on,
    what_comes_after_a_break_is_thrown_away_up_to_16_mebibytes,
    break_after_the_session_is_over_is_thrown_away,
    end_that_crosses_a_break_after_an_end_is_not_its_answer,
    break_without_an_answer_closes_the_tunnel,
    frame_that_does_not_belong_ends_tunnel_and_session,
    tunnel_that_ends_in_a_session_has_broken,
    heartbeats_come_in_every_interval_and_in_sessions,
    connector_that_answers_no_heartbeat_is_gone,
    connector_that_is_mute_in_a_session_is_not_gone,
    as_many_tunnels_are_opened_as_users_wait,
    tunnels_that_are_asked_for_are_bounded,
    connector_that_says_bye_is_left_once_idle,
    sigterm_says_bye_and_lets_sessions_finish,
    header_is_handed_on,
    local_connections_are_sessions,
    hundreds_of_sessions_need_few_tunnels,
    crowd_is_served_by_a_tunnel_for_each,
    sessions_that_break_cost_no_tunnel,
    downloads_that_are_cancelled_cost_no_tunnel,
    slow_services_of_sessions_that_break_are_let_go,
    agents_of_three_versions_serve_one_mapping_at_one_time,
    private_pipe_carries_sessions_of_both_ends,
);

const NEVER: u64 = 200_000;

/// A service whose connections the test has in hand.
struct Target(TcpListener);

impl Target {
    fn new() -> Self {
        Target(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    #[track_caller]
    fn accept(&self) -> Link {
        Link::accepted(self.0.accept().unwrap().0, None).unwrap()
    }
}

/// Starts a tunnel to this connector that beats so seldom that nobody needs to answer.
fn start(connector: &StandIn, more: &[&str]) -> Tunnel {
    if more.contains(&"--heartbeat") {
        return beating(connector, more);
    }
    beating(connector, &[more, &["--heartbeat", "20000"]].concat())
}

/// Starts one that beats every 300 ms, or as it is told.
fn beating(connector: &StandIn, more: &[&str]) -> Tunnel {
    let trust = connector.trust();
    let trust: Vec<&str> = trust.iter().map(String::as_str).collect();
    Tunnel::start(connector.address(), &[&trust, more].concat())
}

/// A connector with one tunnel to a service.
struct Pair {
    target: Target,
    tunnel: Framed,
    connector: StandIn,
    agent: Tunnel,
}

impl Pair {
    fn new(mode: Mode, more: &[&str]) -> Self {
        let (target, connector) = (Target::new(), StandIn::new(mode));
        let address = target.address().to_string();
        let more = [&["--connections", "1", "--target", &address], more].concat();
        let agent = start(&connector, &more);
        let tunnel = connector.tunnel();
        Pair { target, tunnel, connector, agent }
    }

    /// Begins a session, and gives the service's end of it.
    #[track_caller]
    fn session(&mut self) -> Link {
        self.tunnel.open();
        let there = self.target.accept();
        assert!(self.tunnel.expect(b'A').is_empty());
        there
    }

    /// Ends a session in order, the connector's side first.
    #[track_caller]
    fn finish(&mut self, mut there: Link) {
        self.tunnel.say(b'E', b"");
        assert!(there.until_end().is_empty());
        there.finish();
        self.tunnel.expect(b'E');
    }

    /// One session with bytes both ways.
    #[track_caller]
    fn serves(&mut self) {
        let mut there = self.session();
        self.tunnel.send(b"question");
        there.expect(b"question");
        there.send(b"answer");
        self.tunnel.expect_data(b"answer");
        self.finish(there);
    }
}

// 1

fn version_three_is_spoken_with_one_that_speaks_it(mode: Mode) {
    let target = Target::new();
    let connector = StandIn::new(mode);
    let address = target.address().to_string();
    let _agent = start(&connector, &["--connections", "3", "--target", &address]);
    for _ in 0..3 {
        let mut link = connector.accept();
        if mode == Mode::Tls {
            assert_eq!(link.protocol(), Some("iofog-tunnel"));
        }
        // The answer may come in pieces.
        link.expect(format!("IOFOG/3 {PASSCODE}\n").as_bytes());
        for byte in b"IOFOG/3 AUTHORIZED\n" {
            link.send(&[*byte]);
        }
    }
}

/// Accepts tunnels until one greets in version 2, which is accepted; others are closed without a byte.
/// How many these were, too.
#[track_caller]
fn version_two(connector: &StandIn) -> (Link, usize) {
    for others in 0.. {
        let mut link = connector.accept();
        let line = link.exactly("IOFOG/3 \n".len() + PASSCODE.len());
        if line == format!("IOFOG/2 {PASSCODE}\n").as_bytes() {
            link.send(b"IOFOG/2 AUTHORIZED\n");
            return (link, others);
        }
        assert_eq!(line, format!("IOFOG/3 {PASSCODE}\n").as_bytes());
        link.finish();
    }
    unreachable!();
}

#[test]
fn connector_of_version_two_is_spoken_to_in_its_version() {
    let target = Target::new();
    let connector = StandIn::new(Mode::Plain);
    let address = target.address().to_string();
    let _agent = start(&connector, &["--connections", "1", "--target", &address]);
    let (mut link, before) = version_two(&connector);
    assert_eq!(before, 1, "tries in version 3");
    for _ in 0..5 {
        link.send(&Header::local());
        link.send(b"question");
        let mut there = target.accept();
        link.expect(b"OPEN");
        there.expect(b"question");
        there.send(b"answer");
        link.expect(b"answer");
        // Version 3 is not tried again for ten minutes.
        let (next, others) = version_two(&connector);
        assert_eq!(others, 0);
        link = next;
    }
}

#[test]
fn connector_that_selects_no_name_is_spoken_to_in_version_two() {
    let target = Target::new();
    let connector = StandIn::selecting(Mode::Tls, &[]);
    let address = target.address().to_string();
    let _agent = start(&connector, &["--connections", "2", "--target", &address]);
    for _ in 0..4 {
        let (mut link, others) = version_two(&connector);
        assert_eq!((link.protocol(), others), (None, 0));
        link.send(&Header::local());
        target.accept();
        link.expect(b"OPEN");
    }
}

fn wrong_passcode_is_said_whatever_the_version(mode: Mode) {
    let connector = StandIn::new(mode);
    let agent = start(&connector, &["--connections", "1", "--target", "127.0.0.1:1"]);
    let mut greetings = Vec::new();
    until("it is said", || {
        if let Some(mut link) = connector.try_accept() {
            greetings.push(link.exactly("IOFOG/3 \n".len() + PASSCODE.len()));
            link.finish();
        }
        agent.log().contains("does not accept the passcode")
    });
    let of = |version: u8| greetings.iter().filter(|line| line[6] == version).count();
    println!("{} of version 3, {} of version 2", of(b'3'), of(b'2'));
    match mode {
        // Where the name was selected, it is no matter of the version.
        Mode::Tls => assert_eq!(of(b'2'), 0),
        Mode::Plain => assert!(of(b'2') > 0 && of(b'3') > 0),
    }
}

#[test]
fn next_handshakes_of_tls_are_resumed() {
    let connector = StandIn::new(Mode::Tls);
    let agent = start(&connector, &["--connections", "1", "--target", "127.0.0.1:1"]);
    let mut tunnel = connector.tunnel();
    assert!(!tunnel.link.is_resumed());
    for _ in 0..5 {
        tunnel.link.finish();
        tunnel = connector.tunnel();
        assert!(tunnel.link.is_resumed(), "{}", agent.log());
    }
}

// 3

fn beginning_is_seen_at_once_and_the_service_is_dialled(mode: Mode) {
    let Some(target) = Deaf::at(SocketAddr::from(([127, 0, 0, 1], 0))) else {
        return could_not_run("this kernel answers where the backlog is full");
    };
    let connector = StandIn::new(mode);
    let address = format!("127.0.0.1:{}", target.port());
    let _agent = start(&connector, &["--connections", "1", "--target", &address]);
    let mut tunnel = connector.tunnel();
    let start = Instant::now();
    tunnel.open();
    until("it is dialled", || target.is_dialled());
    // It is not reached, and given up after 8 s.
    let reason = tunnel.expect(b'F');
    assert!(start.elapsed() >= ms(7500), "{:?}", start.elapsed());
    assert!(!reason.is_empty());
    tunnel.open();
}

fn one_tunnel_carries_sessions_one_after_another_exactly(mode: Mode) {
    let mut pair = Pair::new(mode, &[]);
    let mut sizes = vec![1, 2, 3, 4, 5, 8 << 20, 1, 1];
    for buffer in [16 * 1024, 64 * 1024, DATA] {
        sizes.extend([buffer - 1, buffer, buffer + 1]);
    }
    let mut lasting = false;
    for size in sizes {
        let mut there = pair.session();
        let begun = Instant::now();
        let (up, down) = (noise(size as u64, size), noise(size as u64 + 1, size));
        thread::scope(|scope| {
            scope.spawn(|| assert_same(&there.exchange(&down, size), &up, "up"));
            assert_same(&pair.tunnel.exchange(&up, size), &down, "down");
        });
        pair.finish(there);
        lasting |= begun.elapsed() >= ms(500);
    }
    for _ in 0..100 {
        let begun = Instant::now();
        pair.serves();
        lasting |= begun.elapsed() >= ms(500);
    }
    // A session that lasts has another one opened, which a busy machine may make of any.
    assert!(lasting || pair.connector.try_accept().is_none(), "another tunnel");
}

fn ends_are_passed_on_by_themselves_each_way(mode: Mode) {
    let mut pair = Pair::new(mode, &[]);
    let (up, down) = (noise(1, 300_000), noise(2, 300_000));
    let mut there = pair.session();
    pair.tunnel.send(&up);
    pair.tunnel.say(b'E', b"");
    assert_same(&there.until_end(), &up, "the question");
    thread::sleep(ms(500));
    there.send(&down);
    there.finish();
    pair.tunnel.expect_data(&down);
    pair.tunnel.expect(b'E');
    let mut there = pair.session();
    there.send(&down);
    there.finish();
    pair.tunnel.expect_data(&down);
    pair.tunnel.expect(b'E');
    thread::sleep(ms(500));
    pair.tunnel.send(&up);
    pair.tunnel.say(b'E', b"");
    assert_same(&there.until_end(), &up, "the upload");
    pair.serves();
}

fn what_comes_before_the_service_is_reached_is_not_lost(mode: Mode) {
    let Some(target) = Deaf::at(SocketAddr::from(([127, 0, 0, 1], 0))) else {
        return could_not_run("this kernel answers where the backlog is full");
    };
    let connector = StandIn::new(mode);
    let address = format!("127.0.0.1:{}", target.port());
    let _agent = start(&connector, &["--connections", "1", "--target", &address]);
    let mut tunnel = connector.tunnel();
    tunnel.open();
    until("it is dialled", || target.is_dialled());
    let question = noise(3, 100_000);
    tunnel.send(&question);
    tunnel.say(b'E', b"");
    tunnel.expect_silence(ms(300));
    let mut there = Link::accepted(target.accept(), None).unwrap();
    tunnel.expect(b'A');
    assert_same(&there.until_end(), &question, "the question");
    there.send(b"answer");
    there.finish();
    tunnel.expect_data(b"answer");
    tunnel.expect(b'E');
    // What follows the beginning in one segment is not lost either.
    let together = [frame(b'O', &Header::local()), frame(b'D', b"question"), frame(b'E', b"")];
    tunnel.link.send(&together.concat());
    let mut there = Link::accepted(target.accept(), None).unwrap();
    tunnel.expect(b'S');
    tunnel.expect(b'A');
    assert_eq!(there.until_end(), b"question");
    there.finish();
    tunnel.expect(b'E');
}

/// An address at which nobody listens, and nobody will soon.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn service_that_cannot_be_reached_is_a_failure_and_the_tunnel_goes_on(mode: Mode) {
    let (address, connector) = (nobody(), StandIn::new(mode));
    let _agent = start(&connector, &["--connections", "1", "--target", &address.to_string()]);
    let mut tunnel = connector.tunnel();
    for more in [false, true, true] {
        tunnel.say(b'O', &Header::local());
        if more {
            tunnel.send(b"question");
            tunnel.say(b'E', b"");
        }
        tunnel.expect(b'S');
        assert!(!tunnel.expect(b'F').is_empty());
    }
    // A break that crosses it belongs to the same session.
    tunnel.open();
    tunnel.expect(b'F');
    tunnel.say(b'X', b"");
    let listener = TcpListener::bind(address).unwrap();
    tunnel.open();
    let mut there = Link::accepted(listener.accept().unwrap().0, None).unwrap();
    tunnel.expect(b'A');
    there.send(b"back");
    tunnel.expect_data(b"back");
    assert!(connector.try_accept().is_none(), "another tunnel");
}

fn what_comes_after_a_failure_is_thrown_away_up_to_16_mebibytes(mode: Mode) {
    let (address, connector) = (nobody(), StandIn::new(mode));
    let _agent = start(&connector, &["--connections", "1", "--target", &address.to_string()]);
    let mut tunnel = connector.tunnel();
    for _ in 0..2 {
        tunnel.open();
        tunnel.expect(b'F');
        tunnel.send(&noise(4, 1 << 20));
        tunnel.say(b'E', b"");
    }
    tunnel.open();
    tunnel.expect(b'F');
    let _ = tunnel.link.try_send(&data(&noise(5, 16 << 20)));
    let _ = tunnel.link.try_send(&data(b"x"));
    tunnel.until_closed();
    connector.tunnel().open();
}

fn break_while_the_service_is_dialled_ends_the_dial(mode: Mode) {
    let Some(target) = Deaf::at(SocketAddr::from(([127, 0, 0, 1], 0))) else {
        return could_not_run("this kernel answers where the backlog is full");
    };
    let connector = StandIn::new(mode);
    let address = format!("127.0.0.1:{}", target.port());
    let _agent = start(&connector, &["--connections", "1", "--target", &address]);
    let mut tunnel = connector.tunnel();
    for bytes in [false, true, true] {
        tunnel.open();
        until("it is dialled", || target.is_dialled());
        if bytes {
            tunnel.send(b"question");
        }
        tunnel.say(b'X', b"the user has gone");
        tunnel.expect(b'X');
        until("it is dialled no more", || !target.is_dialled());
    }
}

// 5

fn service_that_resets_is_a_break_and_the_tunnel_goes_on(mode: Mode) {
    let mut pair = Pair::new(mode, &[]);
    let answer = noise(6, 100_000);
    for ended in [false, true, false] {
        let mut there = pair.session();
        there.send(&answer);
        pair.tunnel.expect_data(&answer);
        if ended {
            pair.tunnel.say(b'E', b"");
            assert!(there.until_end().is_empty());
        }
        there.reset();
        pair.tunnel.expect(b'X');
        pair.tunnel.say(b'X', b"");
        pair.serves();
    }
    assert!(pair.connector.try_accept().is_none(), "another tunnel");
}

fn break_resets_the_service_and_the_tunnel_goes_on(mode: Mode) {
    let mut pair = Pair::new(mode, &[]);
    let question = noise(7, 100_000);
    for ended in [false, true, false] {
        let mut there = pair.session();
        pair.tunnel.send(&question);
        there.expect(&question);
        if ended {
            pair.tunnel.say(b'E', b"");
            assert!(there.until_end().is_empty());
        }
        pair.tunnel.say(b'X', b"the user has reset");
        pair.tunnel.expect(b'X');
        if !ended {
            there.expect_reset_after(b"");
        }
        pair.serves();
    }
    // The next session may follow the answer at once.
    for _ in 0..20 {
        let there = pair.session();
        pair.tunnel.say(b'X', b"");
        pair.tunnel.expect(b'X');
        drop(there);
    }
    pair.serves();
    assert!(pair.connector.try_accept().is_none(), "another tunnel");
}

fn what_comes_after_a_break_is_thrown_away_up_to_16_mebibytes(mode: Mode) {
    let mut pair = Pair::new(mode, &[]);
    for _ in 0..2 {
        pair.session().reset();
        pair.tunnel.expect(b'X');
        pair.tunnel.send(&noise(8, 1 << 20));
        pair.tunnel.say(b'X', b"");
        pair.serves();
    }
    pair.session().reset();
    pair.tunnel.expect(b'X');
    let _ = pair.tunnel.link.try_send(&data(&noise(9, 16 << 20)));
    let _ = pair.tunnel.link.try_send(&data(b"x"));
    pair.tunnel.until_closed();
    pair.tunnel = pair.connector.tunnel();
    pair.serves();
}

fn break_after_the_session_is_over_is_thrown_away(mode: Mode) {
    let mut pair = Pair::new(mode, &[]);
    for _ in 0..3 {
        pair.tunnel.until_over();
        pair.tunnel.say(b'X', b"nothing to break");
        pair.serves();
    }
}

fn end_that_crosses_a_break_after_an_end_is_not_its_answer(mode: Mode) {
    let mut pair = Pair::new(mode, &[]);
    for _ in 0..3 {
        let mut there = pair.session();
        there.send(b"answer");
        there.finish();
        pair.tunnel.expect_data(b"answer");
        pair.tunnel.expect(b'E');
        there.reset();
        // Whether the service's reset is noticed once it has ended is the agent's.
        pair.tunnel.send(b"more");
        pair.tunnel.expect(b'X');
        // It crossed the end, and is answered all the same: nobody has seen that.
        pair.tunnel.say(b'E', b"");
        pair.tunnel.say(b'X', b"");
        pair.serves();
    }
}

fn slow_services_of_sessions_that_break_are_let_go(mode: Mode) {
    let mut pair = Pair::new(mode, &[]);
    pair.serves();
    let before = pair.agent.program.open_files();
    let question = noise(10, 400_000);
    for _ in 0..5 {
        let mut there = pair.session();
        there.shrink();
        // It has ended before it has read anything, and what it has not read is still in the agent's kernel.
        there.finish();
        pair.tunnel.expect(b'E');
        // In small frames, for which the agent takes no kernel pipe that it would keep.
        question.chunks(1000).for_each(|piece| pair.tunnel.send(piece));
        pair.tunnel.say(b'X', b"the user has reset");
        pair.tunnel.expect(b'X');
        // By now the tunnel serves the next one.
        pair.serves();
        let (got, _) = there.rest();
        assert!(question.starts_with(&got), "other bytes than were sent");
    }
    eventually("what the services were connected by is closed", || {
        (pair.agent.program.open_files() <= before).then_some(())
    });
}

fn break_without_an_answer_closes_the_tunnel(mode: Mode) {
    let mut pair = Pair::new(mode, &[]);
    let there = pair.session();
    let start = Instant::now();
    there.reset();
    pair.tunnel.expect(b'X');
    pair.tunnel.expect_closed();
    assert!(start.elapsed() >= ms(9900), "{:?}", start.elapsed());
    pair.tunnel = pair.connector.tunnel();
    pair.serves();
}

// 2 and 10

fn frame_that_does_not_belong_ends_tunnel_and_session(mode: Mode) {
    let mut pair = Pair::new(mode, &[]);
    let wrong = [
        frame(b'Z', b""),
        frame(b'P', b""),
        frame(b'S', b""),
        frame(b'A', b""),
        frame(b'F', b""),
        frame(b'p', b"x"),
        frame(b'W', b"x"),
        head(b'D', 0).to_vec(),
        head(b'D', DATA + 1).to_vec(),
        head(b'X', 1025).to_vec(),
        b"BEAT".to_vec(),
    ];
    for bytes in &wrong {
        println!("{bytes:?}");
        let mut there = pair.session();
        there.send(b"half an answer");
        pair.tunnel.expect_data(b"half an answer");
        pair.tunnel.link.send(bytes);
        pair.tunnel.until_closed();
        there.expect_reset_after(b"");
        pair.tunnel = pair.connector.tunnel();
    }
    // A second session on a tunnel that has one.
    let mut there = pair.session();
    pair.tunnel.say(b'O', &Header::local());
    pair.tunnel.until_closed();
    there.expect_reset_after(b"");
    pair.tunnel = pair.connector.tunnel();
    // After its end, the connector has no more to say of a session.
    let mut there = pair.session();
    pair.tunnel.say(b'E', b"");
    assert!(there.until_end().is_empty());
    pair.tunnel.send(b"x");
    pair.tunnel.until_closed();
    pair.tunnel = pair.connector.tunnel();
    pair.serves();
}

fn tunnel_that_ends_in_a_session_has_broken(mode: Mode) {
    let mut pair = Pair::new(mode, &[]);
    for reset in [false, true] {
        let mut there = pair.session();
        pair.tunnel.send(b"half a quest");
        there.expect(b"half a quest");
        if reset {
            pair.tunnel.link.reset();
        } else {
            pair.tunnel.link.finish();
        }
        there.expect_reset_after(b"");
        pair.tunnel = pair.connector.tunnel();
    }
    pair.serves();
}

// 6

fn heartbeats_come_in_every_interval_and_in_sessions(mode: Mode) {
    let mut pair = Pair::new(mode, &["--heartbeat", "500"]);
    let beats = |pair: &mut Pair| {
        let (start, before) = (Instant::now(), pair.tunnel.beats);
        until("heartbeats come", || {
            pair.tunnel.expect_silence(ms(20));
            pair.tunnel.beats >= before + 4
        });
        assert!(start.elapsed() >= ms(1400), "{:?}", start.elapsed());
    };
    beats(&mut pair);
    let mut there = pair.session();
    beats(&mut pair);
    // Bytes are no reason to leave them out, nor is an end.
    pair.tunnel.say(b'E', b"");
    assert!(there.until_end().is_empty());
    let before = pair.tunnel.beats;
    for _ in 0..40 {
        there.send(b"an answer");
        pair.tunnel.expect_data(b"an answer");
        thread::sleep(ms(50));
    }
    until("heartbeats have come", || {
        pair.tunnel.expect_silence(ms(20));
        pair.tunnel.beats >= before + 3
    });
}

fn connector_that_answers_no_heartbeat_is_gone(mode: Mode) {
    let mut pair = Pair::new(mode, &["--heartbeat", "300"]);
    let start = Instant::now();
    pair.tunnel.mute = true;
    pair.tunnel.expect_closed();
    assert!(start.elapsed() >= ms(550), "{:?}", start.elapsed());
    assert!(pair.tunnel.beats > 0);
    let log = pair.agent.log();
    assert!(log.contains("answered no heartbeat for 2 intervals"), "{log}");
    pair.tunnel = pair.connector.tunnel();
    pair.serves();
}

fn connector_that_is_mute_in_a_session_is_not_gone(mode: Mode) {
    let mut pair = Pair::new(mode, &["--heartbeat", "300"]);
    let mut there = pair.session();
    pair.tunnel.mute = true;
    pair.tunnel.expect_silence(ms(2000));
    pair.tunnel.mute = false;
    pair.tunnel.send(b"question");
    there.expect(b"question");
    pair.finish(there);
}

// 8

fn as_many_tunnels_are_opened_as_users_wait(mode: Mode) {
    let mut pair = Pair::new(mode, &[]);
    let there = pair.session();
    assert!(pair.connector.try_accept().is_none());
    pair.tunnel.say(b'W', &[0, 3]);
    let mut more: Vec<Framed> = (0..3).map(|_| pair.connector.tunnel()).collect();
    thread::sleep(ms(300));
    assert!(pair.connector.try_accept().is_none(), "more than were asked for");
    for tunnel in &mut more {
        tunnel.open();
        pair.target.accept();
        tunnel.expect(b'A');
    }
    pair.tunnel.say(b'W', &[0, 1]);
    let mut last = pair.connector.tunnel();
    last.open();
    pair.finish(there);
}

fn tunnels_that_are_asked_for_are_bounded(mode: Mode) {
    let mut pair = Pair::new(mode, &["--sessions", "3"]);
    let _there = pair.session();
    pair.tunnel.say(b'W', &[255, 255]);
    let _more: Vec<Framed> = (0..2).map(|_| pair.connector.tunnel()).collect();
    pair.tunnel.say(b'W', &[255, 255]);
    thread::sleep(ms(500));
    assert!(pair.connector.try_accept().is_none(), "more than --sessions");
    pair.tunnel.expect_silence(ms(100));
}

#[test]
fn tunnels_beyond_those_wanted_are_given_up_when_idle_for_long() {
    let mut pair = Pair::new(Mode::Plain, &[]);
    let there = pair.session();
    pair.tunnel.say(b'W', &[0, 2]);
    let mut more: Vec<Framed> = (0..2).map(|_| pair.connector.tunnel()).collect();
    pair.finish(there);
    let start = Instant::now();
    let mut tunnels = vec![pair.tunnel];
    tunnels.append(&mut more);
    let deadline = start + 3 * PATIENCE;
    let mut gone = 0;
    while gone < 2 {
        assert!(Instant::now() < deadline, "{gone} were given up");
        tunnels.retain_mut(|tunnel| match tunnel.next_by(Instant::now() + ms(20)) {
            Err(Got::Late) => true,
            Ok((b'B', _)) => {
                assert!(start.elapsed() > ms(25_000), "{:?}", start.elapsed());
                // It is the connector that closes.
                tunnel.link.finish();
                tunnel.expect_closed();
                gone += 1;
                false
            }
            other => panic!("{other:?}"),
        });
    }
    tunnels[0].expect_silence(ms(500));
    tunnels[0].open();
}

// 9

fn connector_that_says_bye_is_left_once_idle(mode: Mode) {
    let mut pair = Pair::new(mode, &[]);
    pair.tunnel.say(b'B', b"");
    assert_eq!(pair.tunnel.expect_closed(), Got::End);
    pair.tunnel = pair.connector.tunnel();
    for breaks in [false, true] {
        let mut there = pair.session();
        pair.tunnel.say(b'B', b"");
        let bytes = noise(10, 1 << 20);
        thread::scope(|scope| {
            scope.spawn(|| assert_same(&there.exchange(&bytes, bytes.len()), &bytes, "up"));
            assert_same(&pair.tunnel.exchange(&bytes, bytes.len()), &bytes, "down");
        });
        if breaks {
            there.reset();
            pair.tunnel.expect(b'X');
            pair.tunnel.say(b'X', b"");
        } else {
            pair.finish(there);
        }
        assert_eq!(pair.tunnel.expect_closed(), Got::End);
        pair.tunnel = pair.connector.tunnel();
    }
    pair.serves();
}

fn sigterm_says_bye_and_lets_sessions_finish(mode: Mode) {
    let mut pair = Pair::new(mode, &["--drain", "60000"]);
    let mut there = pair.session();
    pair.tunnel.say(b'W', &[0, 2]);
    let [mut crossed, mut idle] = [(); 2].map(|()| pair.connector.tunnel());
    pair.agent.signal(Signal::TERM);
    idle.expect(b'B');
    idle.link.finish();
    idle.expect_closed();
    // A beginning that crosses it is served.
    crossed.expect(b'B');
    crossed.say(b'O', &Header::local());
    crossed.expect(b'S');
    let mut other = pair.target.accept();
    crossed.expect(b'A');
    crossed.say(b'E', b"");
    assert!(other.until_end().is_empty());
    other.finish();
    crossed.expect(b'E');
    crossed.link.finish();
    crossed.expect_closed();
    pair.tunnel.expect(b'B');
    let bytes = noise(11, 1 << 20);
    thread::scope(|scope| {
        scope.spawn(|| assert_same(&there.exchange(&bytes, bytes.len()), &bytes, "up"));
        assert_same(&pair.tunnel.exchange(&bytes, bytes.len()), &bytes, "down");
    });
    assert!(pair.agent.program.child.try_wait().unwrap().is_none());
    pair.finish(there);
    pair.tunnel.link.finish();
    let status = eventually("it ends", || pair.agent.program.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0), "{}", pair.agent.log());
}

// And the rest of section 5, which holds for version 3

fn header_is_handed_on(mode: Mode) {
    let mut pair = Pair::new(mode, &["--proxy-protocol"]);
    for port in [1, 2] {
        let header = Header::proxy(([192, 0, 2, 1], port), ([192, 0, 2, 2], 443));
        pair.tunnel.say(b'O', &header);
        pair.tunnel.send(b"question");
        pair.tunnel.expect(b'S');
        let mut there = pair.target.accept();
        pair.tunnel.expect(b'A');
        there.expect(&header);
        there.expect(b"question");
        pair.finish(there);
    }
}

fn local_connections_are_sessions(mode: Mode) {
    let connector = StandIn::new(mode);
    let local = nobody();
    let _agent = start(&connector, &["--listen", &local.to_string()]);
    let dial = || eventually("the local port is open", || Link::plain(local).ok());
    for breaks in [None, Some(true), Some(false)] {
        let mut here = dial();
        here.send(b"first");
        let mut tunnel = connector.tunnel();
        tunnel.expect_silence(ms(50));
        tunnel.open();
        // The local connection is there, and is the tunnel's last one.
        tunnel.expect(b'A');
        tunnel.expect(b'B');
        tunnel.expect_data(b"first");
        tunnel.send(b"answer");
        here.expect(b"answer");
        match breaks {
            Some(true) => {
                tunnel.say(b'X', b"");
                tunnel.expect(b'X');
                here.expect_reset_after(b"");
            }
            Some(false) => {
                here.reset();
                tunnel.expect(b'X');
                tunnel.say(b'X', b"");
            }
            None => {
                here.finish();
                tunnel.expect(b'E');
                tunnel.say(b'E', b"");
                assert!(here.until_end().is_empty());
            }
        }
    }
    // A user that comes there is at the wrong port.
    let mut here = dial();
    let mut tunnel = connector.tunnel();
    tunnel.say(b'O', &Header::proxy(([192, 0, 2, 1], 1), ([192, 0, 2, 2], 443)));
    tunnel.expect(b'S');
    tunnel.expect(b'F');
    here.expect_closed();
}

// With the daemon

/// A daemon whose public pipe is served by the command, with so many tunnels.
fn served(mode: Mode, service: SocketAddr, tunnels: &str) -> (Daemon, Mapping, Serving) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(200, NEVER);
    let serving = Serving::serve(&daemon, &mapping, service, &["--connections", tunnels]);
    let count: u64 = tunnels.parse().unwrap();
    until("its tunnels are there", || daemon.api().idle(&mapping) == count);
    (daemon, mapping, serving)
}

fn hundreds_of_sessions_need_few_tunnels(mode: Mode) {
    let service = Service::echo();
    let (daemon, mapping, _serving) = served(mode, service.address, "4");
    thread::scope(|scope| {
        let user = |seed: usize| {
            for round in 0..100 {
                let bytes = noise((seed * 1000 + round) as u64, 1 + round * 321);
                let mut user = daemon.user(&mapping);
                assert_same(&user.exchange(&bytes, bytes.len()), &bytes, "echo");
                user.finish();
                assert!(user.until_end().is_empty());
            }
        };
        for seed in 0..3 {
            scope.spawn(move || user(seed));
        }
    });
    assert_eq!(service.connections(), 300, "one for each session");
    let tunnels = daemon.api().number(&mapping, "counts.tunnelsTotal");
    println!("{tunnels} tunnels");
    assert!(tunnels < 30, "{tunnels} tunnels");
}

fn crowd_is_served_by_a_tunnel_for_each(mode: Mode) {
    let service = Service::echo();
    let (daemon, mapping, _serving) = served(mode, service.address, "2");
    for _ in 0..2 {
        let mut users: Vec<_> = (0..40).map(|_| daemon.user(&mapping)).collect();
        for (number, user) in users.iter_mut().enumerate() {
            let bytes = noise(number as u64, 1000);
            assert_same(&user.exchange(&bytes, bytes.len()), &bytes, "echo");
        }
        for user in &mut users {
            user.finish();
            assert!(user.until_end().is_empty());
        }
    }
    let tunnels = daemon.api().number(&mapping, "counts.tunnelsTotal");
    println!("{tunnels} tunnels");
    assert!((40..80).contains(&tunnels), "{tunnels} tunnels");
}

fn sessions_that_break_cost_no_tunnel(mode: Mode) {
    // It resets where it is told to, in the middle of an answer.
    let service = Service::new(|mut socket: TcpStream| {
        let mut wish = [0; 4];
        if socket.read_exact(&mut wish).is_err() {
            return;
        }
        let wish = u32::from_be_bytes(wish) as usize;
        let _ = socket.write_all(&noise(wish as u64, wish));
        if wish % 2 == 1 {
            rustix::net::sockopt::set_socket_linger(&socket, Some(ms(0))).unwrap();
        }
    });
    let (daemon, mapping, _serving) = served(mode, service.address, "4");
    let (broken, whole) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        let user = |seed: u64| {
            let mut random = fastrand::Rng::with_seed(seed);
            for _ in 0..80 {
                let wish = random.u32(..100_000);
                let mut user = daemon.user(&mapping);
                user.send(&wish.to_be_bytes());
                if random.u8(..) < 80 {
                    thread::sleep(Duration::from_micros(random.u64(..2000)));
                    user.reset();
                    continue;
                }
                let (got, end) = user.rest();
                let expected = noise(wish.into(), wish as usize);
                assert_same(&got, &expected[..got.len()], "an answer");
                if wish % 2 == 0 {
                    assert_eq!((got.len(), end), (wish as usize, Got::End));
                    whole.fetch_add(1, Ordering::SeqCst);
                } else {
                    assert_eq!(end, Got::Reset);
                    broken.fetch_add(1, Ordering::SeqCst);
                }
            }
        };
        for seed in 0..3 {
            scope.spawn(move || user(seed));
        }
    });
    let tunnels = daemon.api().number(&mapping, "counts.tunnelsTotal");
    println!("{tunnels} tunnels, {broken:?} broken, {whole:?} whole");
    assert!(tunnels < 30, "{tunnels} tunnels");
}

fn downloads_that_are_cancelled_cost_no_tunnel(mode: Mode) {
    let service = Service::new(|mut socket: TcpStream| {
        let bytes = noise(1, 1 << 20);
        while socket.write_all(&bytes).is_ok() {}
    });
    let (daemon, mapping, _serving) = served(mode, service.address, "1");
    let expected = noise(1, 1 << 20).repeat(8);
    for round in 0..6 {
        let mut user = daemon.user(&mapping);
        assert_same(&user.exactly(expected.len()), &expected, "the download so far");
        if round % 2 == 0 {
            user.reset();
        } else {
            drop(user);
        }
        until("the session is over", || daemon.api().number(&mapping, "counts.sessions") == 0);
    }
    // One is opened beside a session that lasts longer than a second.
    let tunnels = daemon.api().number(&mapping, "counts.tunnelsTotal");
    println!("{tunnels} tunnels");
    assert!(tunnels <= 3, "{tunnels} tunnels");
}

/// A service that sends back each message, of a length that it begins with, behind a letter of its own.
fn letters(letter: u8) -> Service {
    Service::new(move |mut socket: TcpStream| {
        let mut length = [0; 4];
        while socket.read_exact(&mut length).is_ok() {
            let mut message = vec![letter; 1 + u32::from_be_bytes(length) as usize];
            if socket.read_exact(&mut message[1..]).is_err() || socket.write_all(&message).is_err()
            {
                return;
            }
        }
    })
}

/// An agent with one tunnel of version 2 at a time, to this service, until the connector takes no more.
fn serve_version_two(daemon: &Daemon, mapping: &Mapping, service: SocketAddr) {
    const HEADER: usize = 28;
    while let Ok(mut tunnel) = daemon.try_link(mapping.port1) {
        let _ = tunnel.try_send(format!("IOFOG/2 {}\n", mapping.passcode1).as_bytes());
        let mut unread = Vec::new();
        let mut came = |tunnel: &mut Link, least: usize| {
            while unread.len() < least {
                let Got::Bytes(bytes) = tunnel.record_by(Instant::now() + 4 * PATIENCE) else {
                    return None;
                };
                unread.extend(bytes);
            }
            Some(unread.drain(..least).collect::<Vec<_>>())
        };
        let Some(answer) = came(&mut tunnel, 19) else { return };
        assert_eq!(answer, b"IOFOG/2 AUTHORIZED\n");
        let Some(header) = came(&mut tunnel, HEADER) else { return };
        assert!(header.starts_with(SIGNATURE));
        let mut there = Link::plain(service).unwrap();
        tunnel.send(b"OPEN");
        let Some(length) = came(&mut tunnel, 4) else { continue };
        let count = u32::from_be_bytes(length[..].try_into().unwrap()) as usize;
        let Some(message) = came(&mut tunnel, count) else { continue };
        there.send(&[length, message].concat());
        tunnel.send(&there.exactly(1 + count));
        tunnel.finish();
        let _ = tunnel.rest();
    }
}

fn agents_of_three_versions_serve_one_mapping_at_one_time(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 60_000).set("pending", 200).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let [one, two, three] = [b'1', b'2', b'3'].map(letters);
    let _one = FieldAgent::start(&daemon, &mapping, 3, one.address);
    // No more of version 3 than that, so that others are needed.
    let more = ["--connections", "2", "--sessions", "2"];
    let _three = Serving::serve(&daemon, &mapping, three.address, &more);
    let served: [AtomicUsize; 3] = Default::default();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| serve_version_two(&daemon, &mapping, two.address));
        }
        let user = |seed: usize| {
            for round in 0..10 {
                let bytes =
                    noise((100 * seed + round) as u64, 1 + (7919 * (seed + round)) % 60_000);
                let message = [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat();
                let mut user = daemon.user(&mapping);
                user.send(&message);
                let answer = user.exactly(1 + bytes.len());
                assert_same(&answer[1..], &bytes, "what was sent");
                served[usize::from(answer[0] - b'1')].fetch_add(1, Ordering::SeqCst);
                user.finish();
                if answer[0] != b'1' {
                    assert!(user.until_end().is_empty());
                }
            }
        };
        let users: Vec<_> = (0..24).map(|seed| scope.spawn(move || user(seed))).collect();
        let users: Vec<_> = users.into_iter().map(|user| user.join()).collect();
        // Whoever waits for a user is closed.
        daemon.api().remove(&mapping);
        assert!(users.iter().all(Result::is_ok));
    });
    let served = served.map(AtomicUsize::into_inner);
    println!("{served:?} sessions over versions 1, 2 and 3");
    assert_eq!(served.iter().sum::<usize>(), 240);
    assert!(served.iter().all(|count| *count > 0), "{served:?}");
}

fn private_pipe_carries_sessions_of_both_ends(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(20, NEVER);
    let service = Service::echo();
    let local = at(daemon.block.first + daemon.block.len - 1);
    let listen = local.to_string();
    let _serving = Serving::serve(&daemon, &mapping, service.address, &["--connections", "2"]);
    let more = ["--listen", &listen];
    let _listening = Serving::start(&daemon, mapping.port2, &mapping.passcode2, &more);
    for round in 0..60 {
        let mut user = eventually("the local port is open", || Link::plain(local).ok());
        let bytes = noise(round, 1 + round as usize * 1000);
        assert_same(&user.exchange(&bytes, bytes.len()), &bytes, "echo");
        if round % 3 == 0 {
            user.reset();
        } else {
            user.finish();
            assert!(user.until_end().is_empty());
        }
    }
    // The serving side's tunnels are used again.
    until("no session is left", || daemon.api().number(&mapping, "counts.sessions") == 0);
    let tunnels = daemon.api().number(&mapping, "counts.tunnelsTotal");
    println!("{tunnels} tunnels");
    assert!(tunnels < 90, "{tunnels} tunnels for 60 sessions");
}
