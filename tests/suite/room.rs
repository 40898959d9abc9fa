//! At a limit nobody makes room while nobody else has come, and nobody is outside it.

use std::time::Instant;

use crate::common::*;

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
