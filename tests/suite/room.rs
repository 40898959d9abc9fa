//! At a limit nobody makes room while nobody else has come, and nobody is outside it.

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
