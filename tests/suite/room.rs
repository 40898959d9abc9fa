//! At a limit nobody makes room while nobody else has come.

use crate::common::*;

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
