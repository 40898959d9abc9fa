//! What a mapping learns of one version 1 tunnel holds for the others, and no longer than it says.

use std::time::Instant;

use crate::common::*;

#[test]
fn tunnel_that_must_be_quiet_for_longer_now_serves_as_soon_as_it_was() {
    for mode in [Mode::Plain, Mode::Tls] {
        let daemon = Daemon::builder(mode).set("userwait", 15_000).start();
        let mapping = daemon.api().add_public(60, 200_000);
        let mut agents = [(); 2].map(|()| {
            let link = daemon.try_link(mapping.port1).unwrap();
            Agent::over(link).prove(&mapping.passcode1)
        });
        // Both have carried a session, so that both are known.
        for agent in &mut agents {
            let mut user = daemon.user(&mapping);
            user.send(b"question");
            agent.expect(b"question");
            agent.send(b"answer");
            user.expect(b"answer");
            user.finish();
            drop(user);
            until("the tunnel is clean", || daemon.api().idle(&mapping) == 2);
        }
        let [mut first, mut second] = agents;
        std::thread::sleep(ms(1500));
        // One was not clean after all: the others must be quiet for twice as long.
        first.send(b"the rest of an old answer");
        until("it is read over", || daemon.api().idle(&mapping) == 1);
        drop(first);
        let start = Instant::now();
        let mut user = daemon.user(&mapping);
        user.send(b"another");
        second.expect(b"another");
        assert!(start.elapsed() < ms(5000), "{:?}", start.elapsed());
    }
}
