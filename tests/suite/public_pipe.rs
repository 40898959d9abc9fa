//! Public pipes: users and an agent's tunnels (protocol page, section 6).

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;

in_both_modes!(
    user_reaches_the_agents_web_server,
    bytes_of_every_size_are_exact_both_ways,
    reader_of_one_byte_at_a_time_gets_every_byte,
    both_directions_at_once_move_independently,
    tunnel_idle_longest_is_given_first,
    user_waits_for_a_tunnel_and_loses_nothing,
    users_are_served_in_order_of_arrival,
    user_is_closed_after_userwait,
    no_more_than_pending_users_wait,
    user_that_sends_nothing_takes_no_tunnel,
    overdue_tunnel_is_not_given_to_a_user,
    user_that_leaves_ends_the_session_after_its_bytes,
    agent_that_leaves_ends_the_session_after_its_bytes,
    user_that_resets_ends_the_session,
    agent_that_resets_ends_the_session,
    half_closed_user_gets_its_whole_answer,
    half_closed_user_is_closed_once_the_agent_is_silent,
    half_closed_user_gets_its_answer_through_pauses_and_then_an_end,
    half_closed_agent_still_gets_the_upload,
    session_silent_for_finwait_after_one_end_is_closed,
    session_open_both_ways_has_no_time_limit,
    rest_of_an_old_answer_never_reaches_the_next_user,
    clean_tunnel_is_used_again_with_its_connection,
    tunnel_that_owes_an_answer_is_used_last_and_not_before_it_has_come,
    answer_to_a_user_that_idle_has_broken_off_reaches_nobody,
    old_answer_on_a_tunnel_dialled_after_a_restart_reaches_nobody,
    tunnel_taken_for_clean_too_soon_teaches_its_mapping,
    tunnel_that_is_read_to_nowhere_keeps_its_heartbeats_and_its_threshold,
    no_foreign_byte_in_many_sessions_with_aborting_users,
    slow_user_slows_its_own_session_alone,
    what_a_stuck_session_holds_is_bounded,
    removing_the_mapping_closes_everything_then_answers,
    many_short_connections_leave_nothing_behind,
);

const NEVER: u64 = 200_000;

/// What the relay may read at once, in TLS and in plain TCP.
const BUFFERS: [usize; 2] = [16 * 1024, 64 * 1024];

fn user_reaches_the_agents_web_server(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let service = Service::http();
    let agent = FieldAgent::start(&daemon, &mapping, 3, service.address);
    for size in [0, 1, 1000, 100_000] {
        let mut user = daemon.user(&mapping);
        for _ in 0..3 {
            user.send(format!("GET /{size} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
            user.expect(head.as_bytes());
            user.expect(&vec![b'x'; size]);
        }
    }
    agent.expect_no_strays();
}

fn bytes_of_every_size_are_exact_both_ways(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let mut sizes = vec![1, 2, 3, 4, 5, 8, 8 << 20];
    sizes.extend(BUFFERS.iter().flat_map(|buffer| [buffer - 1, *buffer, buffer + 1]));
    for size in sizes {
        let mut agent = daemon.tunnel(&mapping);
        let mut user = daemon.user(&mapping);
        let (question, answer) = (noise(size as u64, size), noise(!(size as u64), size));
        thread::scope(|scope| {
            scope.spawn(|| user.send(&question));
            assert_same(&agent.exactly(size), &question, "question");
        });
        thread::scope(|scope| {
            scope.spawn(|| agent.send(&answer));
            assert_same(&user.exactly(size), &answer, "answer");
        });
        user.finish();
        agent.finish();
        assert!(user.until_end().is_empty());
        assert!(agent.until_end().is_empty());
    }
}

fn reader_of_one_byte_at_a_time_gets_every_byte(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let text = noise(3, 3000);
    for byte in &text {
        agent.send(&[*byte]);
        user.expect(&[*byte]);
    }
    for byte in &text {
        user.send(&[*byte]);
    }
    for byte in &text {
        agent.expect(&[*byte]);
    }
}

fn both_directions_at_once_move_independently(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let (up, down) = (noise(4, 8 << 20), noise(5, 8 << 20));
    thread::scope(|scope| {
        let agent_side = scope.spawn(|| agent.exchange(&down, up.len()));
        let got = user.exchange(&up, down.len());
        assert_same(&got, &down, "down");
        assert_same(&agent_side.join().unwrap(), &up, "up");
    });
    // One direction is full and stays so: the other goes on.
    user.shrink();
    let mut flood = flood(6);
    let sent = agent.fill(&flood);
    flood.truncate(sent + (1 << 20));
    let upload = noise(7, 1 << 20);
    thread::scope(|scope| {
        scope.spawn(|| user.send(&upload));
        assert_same(&agent.exactly(upload.len()), &upload, "against the stream");
    });
    thread::scope(|scope| {
        scope.spawn(|| agent.send(&flood[sent..]));
        assert_same(&user.exactly(flood.len()), &flood, "the full direction");
    });
}

/// Record sizes worth trying: all small ones, and some of every length after that.
fn record_sizes() -> Vec<usize> {
    let mut sizes: Vec<usize> = (1..=200).collect();
    sizes.extend((201..16_384).step_by(97));
    sizes.extend([1023, 1024, 1025, 4095, 4096, 4097, 8191, 8192, 8193, 16_382, 16_383, 16_384]);
    fastrand::Rng::with_seed(1).shuffle(&mut sizes);
    sizes
}

#[test]
fn records_arrive_one_for_one_at_a_slow_reader() {
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    let sizes = record_sizes();
    let total: usize = sizes.iter().sum();
    let bytes = noise(8, total);
    let records = || {
        let mut at = 0;
        sizes.iter().map(|size| &bytes[(at, at += size).0..at]).collect::<Vec<_>>()
    };
    for upward in [true, false] {
        let (mut user, mut agent) = daemon.session(&mapping);
        let (writer, reader) =
            if upward { (&mut user, &mut agent.link) } else { (&mut agent.link, &mut user) };
        reader.shrink();
        thread::scope(|scope| {
            scope.spawn(|| records().iter().for_each(|record| writer.send(record)));
            for (index, record) in records().iter().enumerate() {
                // Slow at first, so that everything on the way fills up.
                if index < 40 {
                    thread::sleep(ms(10));
                }
                reader.expect_record(record);
            }
        });
    }
}

#[test]
fn pauses_between_records_do_not_matter() {
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    for round in 0..50_u8 {
        // Many records in one TCP segment.
        for size in [1, 7, 300] {
            user.queue(&vec![round; size]).unwrap();
        }
        user.push().unwrap();
        for size in [1, 7, 300] {
            agent.expect_record(&vec![round; size]);
        }
    }
}

fn tunnel_idle_longest_is_given_first(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let mut agents: Vec<Agent> = (0..3).map(|_| daemon.tunnel(&mapping)).collect();
    // Heartbeats do not make a tunnel less idle.
    agents[0].beat_and_answer();
    let mut users = Vec::new();
    for agent in &mut agents {
        let mut user = daemon.user(&mapping);
        user.send(b"question");
        agent.expect(b"question");
        users.push(user);
    }
}

fn user_waits_for_a_tunnel_and_loses_nothing(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let question = noise(9, 4 << 20);
    let mut user = daemon.user(&mapping);
    thread::scope(|scope| {
        let user = scope.spawn(|| {
            user.send(&question);
            user.expect(b"answer");
        });
        until("the user waits", || daemon.control().users_waiting(&mapping) == 1);
        let mut agent = daemon.tunnel(&mapping);
        assert_same(&agent.exactly(question.len()), &question, "question");
        agent.send(b"answer");
        user.join().unwrap();
    });
}

fn users_are_served_in_order_of_arrival(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let mut users = Vec::new();
    for number in 0..5_u8 {
        let mut user = daemon.user(&mapping);
        user.send(&[number; 9]);
        users.push(user);
        let waiting = u64::from(number) + 1;
        until("the user waits", || daemon.control().users_waiting(&mapping) == waiting);
    }
    for number in 0..5_u8 {
        let mut agent = daemon.tunnel(&mapping);
        agent.expect(&[number; 9]);
        agent.send(&[number; 5]);
        users[usize::from(number)].expect(&[number; 5]);
    }
}

fn user_is_closed_after_userwait(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 700).start();
    let mapping = daemon.api().add_public(60, NEVER);
    for question in [&b""[..], b"question"] {
        let start = Instant::now();
        let mut user = daemon.user(&mapping);
        user.send(question);
        user.expect_closed();
        assert!(start.elapsed() >= ms(650), "closed after {:?}", start.elapsed());
    }
    // All tunnels in use is the same as none.
    let (_user, _agent) = daemon.session(&mapping);
    let mut second = daemon.user(&mapping);
    second.send(b"question");
    second.expect_closed();
}

fn no_more_than_pending_users_wait(mode: Mode) {
    let daemon = Daemon::builder(mode).set("pending", 3).set("userwait", 20_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mut waiting = Vec::new();
    for number in 1..=3 {
        let mut user = daemon.user(&mapping);
        user.send(b"question");
        waiting.push(user);
        until("the user waits", || daemon.control().users_waiting(&mapping) == number);
    }
    let start = Instant::now();
    // More are in line behind them, or in the kernel's backlog.
    let mut more: Vec<Link> = (0..3)
        .map(|_| {
            let mut user = Link::plain(at(mapping.port2)).unwrap();
            if mode == Mode::Tls {
                // Nobody may answer its handshake before there is room.
                user.begin_tls(&daemon.trust());
            }
            user.queue(b"one more").unwrap();
            user.push().unwrap();
            user
        })
        .collect();
    waiting[0].expect_silence(ms(500));
    let count = daemon.control().users_waiting(&mapping);
    if start.elapsed() < ms(15_000) {
        assert_eq!(count, 3, "users wait");
        for user in waiting.iter_mut().chain(&mut more) {
            assert!(user.is_quiet(), "one was closed for another");
        }
        let mut agent = daemon.tunnel(&mapping);
        agent.expect(b"question");
    }
}

fn user_that_sends_nothing_takes_no_tunnel(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 1500).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mut agent = daemon.tunnel(&mapping);
    let mut scanners: Vec<Link> = (0..10).map(|_| daemon.user(&mapping)).collect();
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    agent.expect(b"question");
    agent.send(b"answer");
    user.expect(b"answer");
    for scanner in &mut scanners {
        scanner.expect_closed();
    }
    // One that leaves again without a byte is forgotten as well.
    drop(daemon.user(&mapping));
    daemon.user(&mapping).reset();
    until("nobody waits", || daemon.control().users_waiting(&mapping) == 0);
}

fn overdue_tunnel_is_not_given_to_a_user(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let mut dead = daemon.tunnel(&mapping);
    let mut alive = daemon.tunnel(&mapping);
    for _ in 0..5 {
        dead.beat_and_answer();
        alive.beat_and_answer();
        thread::sleep(ms(100));
    }
    for _ in 0..15 {
        alive.beat_and_answer();
        thread::sleep(ms(100));
    }
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    alive.beat_until(b"question");
    assert!(dead.is_quiet(), "a tunnel silent for over twice its interval was touched");
    // A heartbeat makes it good again.
    let mut next = daemon.user(&mapping);
    next.send(b"the next");
    dead.beat_until(b"the next");
}

fn user_that_leaves_ends_the_session_after_its_bytes(mode: Mode) {
    // A user that has ended may wait for an answer as long as that.
    let daemon = Daemon::builder(mode).set("finwait", 1500).start();
    let mapping = daemon.api().add_public(60, NEVER);
    for orderly in [true, false] {
        let (mut user, mut agent) = daemon.session(&mapping);
        let upload = noise(10, 3 << 20);
        thread::scope(|scope| {
            scope.spawn(|| {
                user.send(&upload);
                if orderly { user.finish() } else { user.fin() }
            });
            // Slow enough that the end arrives long before the last byte is read.
            thread::sleep(ms(200));
            let got = agent.exactly(upload.len());
            assert_same(&got, &upload, "the upload before the end");
        });
        until("the session is over", || daemon.control().in_use(&mapping) == 0);
        assert!(agent.is_quiet(), "nothing but the upload is for the agent");
    }
}

fn agent_that_leaves_ends_the_session_after_its_bytes(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    for orderly in [true, false] {
        let (mut user, mut agent) = daemon.session(&mapping);
        let answer = noise(11, 3 << 20);
        thread::scope(|scope| {
            scope.spawn(|| {
                agent.send(&answer);
                if orderly {
                    agent.finish()
                } else {
                    agent.fin()
                }
                drop(agent);
            });
            thread::sleep(ms(200));
            let (got, _) = user.rest();
            assert_same(&got, &answer, "the answer before the end");
        });
    }
}

fn user_that_resets_ends_the_session(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let (user, mut agent) = daemon.session(&mapping);
    user.reset();
    until("the session is over", || daemon.control().in_use(&mapping) == 0);
    agent.beat_and_answer();
    let (user, mut agent) = daemon.session(&mapping);
    agent.send(&noise(12, 100_000));
    user.reset();
    until("the session is over", || daemon.control().in_use(&mapping) == 0);
    agent.beat_and_answer();
}

fn agent_that_resets_ends_the_session(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, agent) = daemon.session(&mapping);
    agent.link.reset();
    user.expect_closed();
    until("no tunnel is left", || daemon.control().in_use(&mapping) == 0);
}

fn half_closed_user_gets_its_whole_answer(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let large = noise(14, 4 << 20);
    for orderly in [true, false] {
        let (mut user, mut agent) = daemon.session(&mapping);
        user.send(b", and more");
        if orderly {
            user.finish()
        } else {
            user.fin()
        }
        agent.expect(b", and more");
        // Longer than the second that a silent agent has, but never silent for that long.
        let piece = noise(13, 10_000);
        for _ in 0..15 {
            agent.send(&piece);
            user.expect(&piece);
            thread::sleep(ms(120));
        }
        thread::scope(|scope| {
            scope.spawn(|| {
                agent.send(&large);
                agent.finish();
            });
            assert_same(&user.rest().0, &large, "the answer");
        });
    }
}

fn half_closed_user_is_closed_once_the_agent_is_silent(mode: Mode) {
    let daemon = Daemon::builder(mode).set("finwait", 1500).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    user.finish();
    let start = Instant::now();
    let (bytes, end) = user.rest();
    let lasted = start.elapsed();
    assert!(lasted >= ms(1400), "the agent had only {lasted:?} for an answer");
    assert_eq!((bytes.len(), end), (0, Got::Reset), "no answer is no end in order");
    agent.beat_and_answer();
    // Heartbeats are no answer.
    let (mut user, mut agent) = daemon.session(&mapping);
    user.finish();
    until("the user is closed", || {
        agent.beat_and_answer();
        thread::sleep(ms(50));
        !matches!(user.record_by(Instant::now()), Got::Bytes(_) | Got::Late)
    });
}

fn half_closed_user_gets_its_answer_through_pauses_and_then_an_end(mode: Mode) {
    thread::scope(|scope| {
        for pause in [400, 1300] {
            for waited_for in [true, false] {
                scope.spawn(move || half_closed_user_with_a_pause(mode, ms(pause), waited_for));
            }
        }
    });
}

/// The only tunnel's user has ended its direction; its answer has a pause, at the beginning of which,
/// or towards the end, another user comes.
fn half_closed_user_with_a_pause(mode: Mode, pause: Duration, waited_for: bool) {
    let daemon = Daemon::builder(mode).set("userwait", 60_000).start();
    let mapping = daemon.api().add_public(1, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    user.finish();
    // The connector has read its end, and has nothing else to do.
    thread::sleep(ms(200));
    let mut next = waited_for.then(|| daemon.user(&mapping));
    if let Some(next) = &mut next {
        next.send(b"the next question");
        until("the next user waits", || daemon.control().users_waiting(&mapping) == 1);
    }
    agent.send(b"the first piece");
    user.expect(b"the first piece");
    thread::sleep(pause * 5 / 6);
    let mut next = next.unwrap_or_else(|| {
        let mut next = daemon.user(&mapping);
        next.send(b"the next question");
        next
    });
    thread::sleep(pause / 6);
    agent.send(b"the second piece");
    user.expect(b"the second piece");
    assert_eq!(user.record(), Got::End);
    agent.expect(b"the next question");
    agent.send(b"the right answer");
    next.expect(b"the right answer");
}

fn half_closed_agent_still_gets_the_upload(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    agent.send(b"answer");
    agent.finish();
    user.expect(b"answer");
    assert_eq!(user.record(), Got::End);
    let upload = noise(15, 1 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            user.send(&upload);
            user.finish();
        });
        assert_same(&agent.rest().0, &upload, "the upload");
    });
}

fn session_silent_for_finwait_after_one_end_is_closed(mode: Mode) {
    let daemon = Daemon::builder(mode).set("finwait", 700).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    agent.finish();
    let start = Instant::now();
    assert_eq!(user.record(), Got::End);
    agent.expect_closed();
    assert!(start.elapsed() >= ms(600), "closed after {:?}", start.elapsed());
    until("the session is over", || daemon.control().in_use(&mapping) == 0);
    // As long as bytes move, it stays.
    let (mut user, mut agent) = daemon.session(&mapping);
    agent.finish();
    for _ in 0..15 {
        user.send(b"more");
        agent.expect(b"more");
        thread::sleep(ms(100));
    }
}

fn session_open_both_ways_has_no_time_limit(mode: Mode) {
    let daemon = Daemon::builder(mode).set("finwait", 200).set("userwait", 200).start();
    let mapping = daemon.api().add_public(60, 0);
    let (mut user, mut agent) = daemon.session(&mapping);
    thread::sleep(ms(2000));
    agent.send(b"late answer");
    user.expect(b"late answer");
    user.send(b"late question");
    agent.expect(b"late question");
}

fn rest_of_an_old_answer_never_reaches_the_next_user(mode: Mode) {
    until("the old answer goes on before it counts as over", || rest_of_an_old_answer(mode));
}

/// False where this machine was too busy to send the rest in time.
fn rest_of_an_old_answer(mode: Mode) -> bool {
    let daemon = Daemon::builder(mode).set("userwait", 20_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    for round in 0..3 {
        agent.send(&noise(round, 50_000));
        user.exactly(10_000);
        let over = Instant::now();
        user.reset();
        let mut next = daemon.user(&mapping);
        next.send(b"question");
        thread::sleep(ms(100));
        // On its own tunnel, or as a fresh one after the agent has dialled again.
        agent.send(b"the rest of the old answer");
        let mut in_time = over.elapsed() < ms(600);
        if round == 1 {
            agent.link.reset();
            let dialled = Instant::now();
            agent = daemon.tunnel(&mapping);
            agent.send(b"more of the old answer");
            in_time &= dialled.elapsed() < ms(600);
        }
        if !in_time {
            return false;
        }
        agent.expect(b"question");
        agent.send(b"the right answer");
        next.expect(b"the right answer");
        next.send(b"question");
        agent.expect(b"question");
        user = next;
    }
    true
}

fn clean_tunnel_is_used_again_with_its_connection(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 20_000).start();
    let mapping = daemon.api().add_public(1, NEVER);
    let mut agent = daemon.tunnel(&mapping);
    for round in 0..20_u8 {
        let mut user = daemon.user(&mapping);
        user.send(&[round; 9]);
        agent.expect(&[round; 9]);
        agent.send(&[round; 99]);
        user.expect(&[round; 99]);
        // In order, by a FIN alone, and not at all in order: once with nothing left to come.
        match round % 4 {
            0 => drop(user),
            1 => user.fin(),
            2 => user.reset(),
            _ => user.finish(),
        }
        agent.beat_and_answer();
    }
    assert_eq!(daemon.control().number(&mapping, "counts.tunnelsTotal"), 1, "it was dialled anew");
}

fn tunnel_that_owes_an_answer_is_used_last_and_not_before_it_has_come(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 20_000).set("finwait", 500).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let tunnels =
        |what: &str| daemon.control().number(&mapping, &format!("sides.0.tunnels.{what}"));
    let (mut user, mut owing) = daemon.session(&mapping);
    user.finish();
    user.expect_closed();
    until("it is known that it owes", || tunnels("unanswered") == 1);
    assert_eq!((tunnels("draining"), tunnels("idle")), (1, 0));
    // Others serve meanwhile.
    let (mut other, mut agent) = daemon.session(&mapping);
    agent.send(b"answer");
    other.expect(b"answer");
    let mut next = daemon.user(&mapping);
    next.send(b"the next question");
    owing.expect_silence(ms(1500));
    owing.send(b"the answer at last");
    owing.expect(b"the next question");
    assert_eq!((tunnels("draining"), tunnels("unanswered")), (0, 0));
    owing.send(b"the right answer");
    next.expect(b"the right answer");
}

fn answer_to_a_user_that_idle_has_broken_off_reaches_nobody(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 60_000).start();
    // One that thinks for longer than idle, and one that pauses within its answer.
    for begun in [&b""[..], b"an answer, "] {
        let mapping = daemon.api().add(
            r#"{"type": "public", "maxconnections": 1,
            "heartbeatabsencethreshold": 200000, "idle": 3000}"#,
        );
        let (mut alice, mut agent) = daemon.session(&mapping);
        alice.send(b"her question");
        agent.expect(b"her question");
        agent.send(begun);
        alice.expect(begun);
        assert!(matches!(alice.rest().1, Got::Reset | Got::Cut), "it is no end in order");
        let for_ever = form(&[("mappingid", &mapping.id), ("mapping", r#"{"idle": null}"#)]);
        daemon.api().post("/api/v2/mapping/change", &for_ever).ok();
        let mut bob = daemon.user(&mapping);
        bob.send(b"his question");
        until("he waits", || daemon.api().users_waiting(&mapping) == 1);
        // Its connection to the service is the old one, and so is its tunnel.
        agent.send(b"hers");
        agent.expect(b"his question");
        agent.send(b"his own");
        bob.expect(b"his own");
        assert_eq!(daemon.api().number(&mapping, "counts.tunnelsTotal"), 1);
    }
}

fn old_answer_on_a_tunnel_dialled_after_a_restart_reaches_nobody(mode: Mode) {
    let mut daemon = Daemon::builder(mode).set("userwait", 20_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    daemon.restart();
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    until("the user waits", || daemon.control().users_waiting(&mapping) == 1);
    let start = Instant::now();
    let mut agent = daemon.tunnel(&mapping);
    // Another one has nothing to bring, which is not known at once either.
    let mut other = daemon.tunnel(&mapping);
    thread::sleep(ms(100));
    agent.send(b"an answer for somebody else");
    other.expect(b"question");
    let waited = start.elapsed();
    assert!(waited >= ms(840), "a fresh tunnel was given to a user after {waited:?}");
    other.send(b"answer");
    user.expect(b"answer");
}

fn tunnel_taken_for_clean_too_soon_teaches_its_mapping(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 20_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mut agent = daemon.tunnel(&mapping);
    let exchange = |agent: &mut Agent| {
        let mut user = daemon.user(&mapping);
        user.send(b"question");
        agent.expect(b"question");
        agent.send(b"answer");
        let answered = Instant::now();
        user.expect(b"answer");
        user.finish();
        answered
    };
    exchange(&mut agent);
    until("it is clean", || daemon.control().idle(&mapping) == 1);
    thread::sleep(ms(900));
    agent.send(b"the second event of a stream");
    // Nobody is given it before it has been quiet for twice as long as it was late; and from now on
    // none of the mapping's is given sooner after an answer.
    let mut last = Instant::now();
    for _ in 0..2 {
        let answered = exchange(&mut agent);
        let waited = answered - last;
        assert!(waited >= ms(1790), "used again after {waited:?}");
        last = answered;
    }
}

fn tunnel_that_is_read_to_nowhere_keeps_its_heartbeats_and_its_threshold(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, 3000);
    let draining = || daemon.control().number(&mapping, "sides.0.tunnels.draining");
    let mut agent = eventually("its beats are not held up", || {
        let start = Instant::now();
        let (user, mut agent) = daemon.session(&mapping);
        user.reset();
        until("the session is over", || draining() == 1);
        agent.beats_for(ms(4500), start, ms(2500)).then_some(agent)
    });
    agent.expect_closed();
    until("its place is free", || draining() == 0);
    let said = format!("tunnel of {} closed: no heartbeat arrived in time", agent.link.local());
    assert!(daemon.log_text().contains(&said), "{}", daemon.log_text());
}

fn no_foreign_byte_in_many_sessions_with_aborting_users(mode: Mode) {
    const USERS: usize = 200;
    let daemon = Daemon::builder(mode).set("userwait", 60_000).set("pending", 1000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    // The service answers a tag of 16 bytes with 4,000 repetitions of it, in pieces.
    let service = Service::new(|mut socket| {
        let mut tag = [0; 16];
        while socket.read_exact(&mut tag).is_ok() {
            for _ in 0..40 {
                if socket.write_all(&tag.repeat(100)).is_err() {
                    return;
                }
            }
        }
    });
    let agent = FieldAgent::start(&daemon, &mapping, 60, service.address);
    let complete = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..USERS {
            let (daemon, mapping, complete) = (&daemon, &mapping, &complete);
            scope.spawn(move || {
                for round in 0..2 {
                    let tag = format!("<{number:06}/{round:06}>");
                    assert_eq!(tag.len(), 15);
                    let tag = format!("{tag}\n");
                    let mut user = daemon.user(mapping);
                    user.send(tag.as_bytes());
                    // Every fifth leaves in the middle of its answer.
                    let abort = number % 5 == 0;
                    let wanted = if abort { 20 } else { 4000 };
                    let got = user.exactly(wanted * 16);
                    assert_same(&got, &tag.repeat(wanted).into_bytes(), "one's own tag");
                    if abort {
                        user.reset();
                    } else {
                        complete.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(complete.load(Ordering::Relaxed), USERS * 2 * 4 / 5);
    agent.expect_no_strays();
}

fn slow_user_slows_its_own_session_alone(mode: Mode) {
    let daemon = Daemon::builder(mode).set("threads", 1).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mut stuck = Vec::new();
    for _ in 0..5 {
        let (user, mut agent) = daemon.session(&mapping);
        user.shrink();
        agent.fill(&flood(16));
        stuck.push((user, agent));
    }
    let (mut user, mut agent) = daemon.session(&mapping);
    let answer = noise(17, 4 << 20);
    thread::scope(|scope| {
        scope.spawn(|| agent.send(&answer));
        assert_same(&user.exactly(answer.len()), &answer, "beside five stuck sessions");
    });
    daemon.tunnel(&mapping).beat_and_answer();
    for (user, _) in &mut stuck {
        assert!(!user.is_quiet(), "a stuck user still has its bytes");
    }
}

fn what_a_stuck_session_holds_is_bounded(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let before = daemon.resident();
    let flood = flood(18);
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let (user, mut agent) = daemon.session(&mapping);
        user.shrink();
        agent.fill(&flood);
        stuck.push((user, agent));
    }
    // The style's budget is 96 KiB; four times as much would still be a fixed bound, a leak of
    // the 64 MiB that each agent offers would not.
    let each = daemon.resident().saturating_sub(before) / 20;
    assert!(each < 400, "{each} KiB for each stuck session");
}

fn removing_the_mapping_closes_everything_then_answers(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(2, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let (mut user2, mut agent2) = daemon.session(&mapping);
    let mut waiting = daemon.user(&mapping);
    waiting.send(b"question");
    until("the user waits", || daemon.control().users_waiting(&mapping) == 1);
    let mut mute = daemon.agent(mapping.port1);

    daemon.api().remove(&mapping);
    // Refused by the kernel, already when the answer has come.
    for port in [mapping.port1, mapping.port2] {
        assert!(Link::plain(at(port)).is_err(), "port {port} is still open");
    }
    for link in [&mut user, &mut agent, &mut user2, &mut agent2, &mut waiting, &mut mute] {
        link.expect_closed();
    }
    // Others live on.
    let other = daemon.api().add_public(60, NEVER);
    daemon.session(&other);
}

#[test]
fn user_never_gets_heartbeats() {
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    let service = Service::echo();
    let options =
        FieldOptions { tunnels: 2, beat: ms(20), backoff: ms(50), service: service.address };
    let agent = FieldAgent::with(&daemon, mapping.port1, &mapping.passcode1, options);
    agent.wait_authorized();
    let mut user = daemon.user(&mapping);
    for round in 0..50 {
        let text = format!("round {round}");
        user.send(text.as_bytes());
        user.expect(text.as_bytes());
        thread::sleep(ms(20));
    }
    assert!(user.is_quiet());
    agent.expect_no_strays();
}

fn many_short_connections_leave_nothing_behind(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let service = Service::echo();
    let agent = FieldAgent::start(&daemon, &mapping, 4, service.address);
    agent.wait_authorized();
    until("all are idle", || daemon.control().idle(&mapping) == 4);
    let before = daemon.open_files();
    thread::scope(|scope| {
        for number in 0..4 {
            let (daemon, mapping) = (&daemon, &mapping);
            scope.spawn(move || {
                for round in 0..25 {
                    let mut user = daemon.user(mapping);
                    let text = noise(round, 100 + number);
                    user.send(&text);
                    user.expect(&text);
                    match round % 3 {
                        0 => user.reset(),
                        1 => user.finish(),
                        _ => drop(user),
                    }
                }
            });
        }
    });
    until("the files are closed again", || {
        daemon.control().idle(&mapping) == 4 && daemon.open_files() <= before + 2
    });
}
