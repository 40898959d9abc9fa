//! At a limit nobody makes room while nobody else has come, and nobody is outside it.

use std::time::Instant;

use crate::common::*;
use rustix::process::Signal;

#[test]
fn agents_that_wait_for_a_place_are_among_the_pending() {
    let daemon = Daemon::builder(Mode::Plain).set("pending", 4).start();
    let mapping = daemon.api().add_public(1, 200_000);
    let _agent = daemon.tunnel(&mapping);
    let waiting = stalled(at(mapping.port1), 40, mapping.passcode1.as_bytes());
    until("as many wait for a place as may", || {
        daemon.control().number(&mapping, "counts.pending") == 4
    });
    drop(waiting);
}

#[test]
fn slow_agent_that_is_alone_has_all_its_time() {
    let daemon = Daemon::builder(Mode::Plain).set("pending", 1).start();
    let mapping = daemon.api().add_public(60, 200_000);
    for limit in ["port1", "port2"] {
        let port = if limit == "port1" { mapping.port1 } else { mapping.port2 };
        let mut link = daemon.try_link(port).unwrap();
        if limit == "port1" {
            link.send(b"IOF");
        }
        link.expect_silence(ms(3000));
        let state = daemon.api().state_of(&mapping).unwrap();
        assert_eq!(state["limitsReached"].as_array().unwrap().len(), 0, "{state}");
        assert_eq!(state["counts"]["usersRefused"], 0, "{state}");
    }
}

#[test]
fn agents_that_get_through_keep_patience_with_slow_ones_long() {
    let daemon = Daemon::builder(Mode::Plain).set("pending", 4).start();
    let mapping = daemon.api().add_public(60, 200_000);
    let port = at(mapping.port1);
    // Nobody gets through, so that each has less time than those before it.
    let stalling = stalled(port, 12, b"IOF");
    until("strangers make room", || daemon.control().number(&mapping, "counts.agentsRefused") >= 8);
    drop(stalling);
    let mut tunnels: Vec<Agent> = (0..8).map(|_| daemon.tunnel(&mapping)).collect();
    let start = Instant::now();
    let mut slow = stalled(port, 4, b"IOF");
    let newcomer = stalled(port, 1, b"IOF");
    until("one makes room at last", || open(&mut slow) < 4);
    let took = start.elapsed();
    assert!(took >= ms(1800), "one of them had to go after {took:?}");
    drop((slow, newcomer));
    tunnels.iter_mut().for_each(Agent::beat_and_answer);
}

#[test]
fn user_in_line_that_speaks_keeps_its_place_there() {
    let daemon = Daemon::builder(Mode::Tls).set("pending", 4).set("userwait", 60_000).start();
    let mapping = daemon.api().add_public(2, 200_000);
    // While there is such an agent, users that say nothing wait; its only tunnel is taken.
    let mut taken = daemon.version_two(&mapping);
    let mut first = daemon.user(&mapping);
    first.send(b"x");
    taken.read_header();
    taken.send(b"OPEN");
    let waiting = |count| {
        until("they wait", || daemon.control().users_waiting(&mapping) == count);
    };
    let seated: Vec<_> = (0..2).map(|_| daemon.user(&mapping)).collect();
    waiting(2);
    // All are accepted while two seats are free, and two will be in line.
    let more: Vec<_> = (0..4).map(|_| Link::plain(at(mapping.port2)).unwrap()).collect();
    until("they are accepted", || in_backlog(mapping.port2) == 0);
    let times = || {
        let state = daemon.control().state_of(&mapping).unwrap();
        let limits = state["limitsReached"].as_array().unwrap().clone();
        let limit = limits.iter().find(|one| one["limit"] == "users waiting (pending)").cloned();
        limit.map_or(0, |limit| limit["times"].as_u64().unwrap())
    };
    let mut users = Vec::new();
    for (number, user) in more.into_iter().enumerate() {
        let before = times();
        users.push(user.upgrade(&daemon.trust(), "localhost").unwrap());
        match number {
            0 | 1 => waiting(3 + number as u64),
            _ => until("it is in line", || times() > before),
        }
    }
    users[2].send(b"first");
    // It is heard before these are.
    for _ in 0..3 {
        daemon.control().status("all");
    }
    drop(seated);
    drop(users.drain(..2));
    waiting(2);
    users[1].send(b"second");
    let mut agent = daemon.version_two(&mapping);
    agent.read_header();
    agent.send(b"OPEN");
    agent.expect(b"first");
}

/// Connections to this port that nobody has accepted yet.
fn in_backlog(port: u16) -> usize {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|file| std::fs::read_to_string(file).unwrap());
    let lines = tables.iter().flat_map(|table| table.lines());
    let fields = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let end = format!(":{port:04X}");
    let listening = fields.filter(|line| line[1].ends_with(&end) && line[3] == "0A");
    let queue =
        |line: Vec<&str>| usize::from_str_radix(line[4].split_once(':').unwrap().1, 16).unwrap();
    listening.map(queue).sum()
}

#[test]
fn what_has_come_before_a_turn_ended_counts_however_late_the_daemon_looks() {
    let daemon = Daemon::builder(Mode::Tls).set("pending", 4).start();
    let hello = client_hello(&daemon);
    let mapping = daemon.api().add_public(60, 200_000);
    for port in [mapping.port1, mapping.port2] {
        until("it is stopped in time", || {
            let start = Instant::now();
            let mut members = stalled(at(port), 4, b"");
            until("they are accepted", || in_backlog(port) == 0);
            let newcomer = stalled(at(port), 1, b"");
            daemon.signal(Signal::STOP);
            members.iter_mut().for_each(|member| member.send(&hello));
            // Their turns end, of 250 ms at first.
            let in_time = start.elapsed() < ms(150);
            std::thread::sleep(ms(1000));
            daemon.signal(Signal::CONT);
            if in_time {
                let answered = |member: &Link| matches!(member.socket().peek(&mut [0]), Ok(1..));
                until("all are answered", || members.iter().all(answered));
            }
            // A mapping has forgotten them when its next one gets through.
            drop((members, newcomer));
            until("they are gone", || in_backlog(port) == 0);
            in_time
        });
    }
}
