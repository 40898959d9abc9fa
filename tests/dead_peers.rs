//! A dead peer is told from a slow one (protocol page, section 6). A peer that vanishes without a
//! word needs a network that can be cut: a network namespace, so root. Each test lasts longer
//! than a minute, hence `cargo test --test dead_peers -- --ignored`.

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::*;

/// The daemon's network namespace, and two cables into it: the users' and the agents'.
struct Network {
    name: String,
    number: u8,
}

impl Network {
    /// `None`, with the reason printed, where it cannot be made.
    fn new(number: u8) -> Option<Self> {
        let name = format!("iofog{}-{number}", std::process::id() % 10_000);
        if !ip(&format!("netns add {name}")) {
            could_not_run("no network namespace");
            return None;
        }
        let network = Network { name, number };
        let name = &network.name;
        for cable in ["u", "a"] {
            let [here, there] = [network.address(cable, 1), network.address(cable, 2)];
            for command in [
                format!("link add {name}{cable} type veth peer name {cable} netns {name}"),
                format!("addr add {here}/24 dev {name}{cable}"),
                format!("link set dev {name}{cable} up"),
                format!("-n {name} addr add {there}/24 dev {cable}"),
                format!("-n {name} link set dev {cable} up"),
                format!("-n {name} link set lo up"),
            ] {
                assert!(ip(&command), "ip {command}");
            }
        }
        Some(network)
    }

    fn address(&self, cable: &str, end: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, 2 * self.number + u8::from(cable == "a"), end)
    }

    fn connect(&self, cable: &str, port: u16) -> Link {
        let address = SocketAddr::from((self.address(cable, 2), port));
        Link::plain(address).expect("connect")
    }

    fn cut(&self, cable: &str) {
        assert!(ip(&format!("link set dev {}{cable} down", self.name)));
    }

    /// A daemon within it, with a pipe.
    fn daemon(&self) -> (Daemon, Mapping) {
        let builder = Daemon::builder(Mode::Plain).set("listen", "0.0.0.0");
        let mut daemon = builder.wrapper(&["ip", "netns", "exec", &self.name]).prepare();
        daemon.spawn();
        until("the daemon answers", || daemon.control().try_connect().is_ok());
        let mapping = daemon.control().add_public(60, 0);
        (daemon, mapping)
    }

    /// A session over the two cables.
    fn session(&self) -> (Daemon, Mapping, Link, Agent) {
        let (daemon, mapping) = self.daemon();
        let agent = Agent::over(self.connect("a", mapping.port1));
        let mut agent = agent.prove(&mapping.passcode1);
        let mut user = self.connect("u", mapping.port2);
        user.send(b"question");
        agent.expect(b"question");
        (daemon, mapping, user, agent)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Sockets that wait for a vanished peer keep a namespace, and its cables, for a while.
        for cable in ["u", "a"] {
            ip(&format!("link del dev {}{cable}", self.name));
        }
        ip(&format!("netns del {}", self.name));
    }
}

fn ip(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

/// How long it takes until this end is closed; two minutes are the limit.
fn closed_after(link: &mut Link) -> Duration {
    let start = Instant::now();
    match link.record_by(start + Duration::from_secs(120)) {
        Got::End | Got::Cut | Got::Reset => start.elapsed(),
        other => panic!("{other:?} instead of a close"),
    }
}

#[test]
#[ignore = "takes more than a minute"]
fn user_that_vanishes_with_bytes_on_their_way_is_gone_after_a_minute() {
    let Some(network) = Network::new(1) else { return };
    let (_daemon, _mapping, _user, mut agent) = network.session();
    network.cut("u");
    agent.send(&noise(1, 100_000));
    let elapsed = closed_after(&mut agent);
    assert!(elapsed >= Duration::from_secs(50), "cut after {elapsed:?}");
}

#[test]
#[ignore = "takes more than half a minute"]
fn agent_that_vanishes_is_gone_and_its_user_is_told() {
    let Some(network) = Network::new(2) else { return };
    let (_daemon, _mapping, mut user, _agent) = network.session();
    network.cut("a");
    // Nothing is on its way: keepalive finds out, after 20 s and three tries 5 s apart.
    let elapsed = closed_after(&mut user);
    assert!(elapsed >= Duration::from_secs(25), "cut after {elapsed:?}");
}

#[test]
#[ignore = "takes more than a minute"]
fn agent_of_version_three_that_takes_nothing_is_gone_after_a_minute_and_its_user_is_told() {
    let Some(network) = Network::new(4) else { return };
    let (daemon, mapping) = network.daemon();
    let mut agent = Framed::agent(network.connect("a", mapping.port1), &mapping.passcode1);
    let mut user = network.connect("u", mapping.port2);
    agent.opened();
    agent.accept();
    user.send(b"question");
    agent.expect_data(b"question");
    network.cut("a");
    user.send(&noise(4, 100_000));
    let elapsed = closed_after(&mut user);
    assert!(elapsed >= Duration::from_secs(50), "cut after {elapsed:?}");
    // And the tunnel with it.
    until("its place is free", || daemon.control().in_use(&mapping) == 0);
}

#[test]
#[ignore = "takes more than a minute"]
fn short_outage_loses_nothing() {
    let Some(network) = Network::new(3) else { return };
    let (_daemon, _mapping, mut user, mut agent) = network.session();
    network.cut("u");
    let answer = noise(3, 300_000);
    agent.send(&answer);
    thread::sleep(Duration::from_secs(15));
    assert!(ip(&format!("link set dev {}u up", network.name)));
    let mut got = Vec::new();
    while got.len() < answer.len() {
        match user.record_by(Instant::now() + Duration::from_secs(60)) {
            Got::Bytes(bytes) => got.extend(bytes),
            other => panic!("{other:?} after {} bytes", got.len()),
        }
    }
    assert_same(&got, &answer, "after the outage");
}

#[test]
#[ignore = "takes more than a minute"]
fn user_that_lives_but_does_not_read_is_never_cut() {
    let stays = |mode| {
        let daemon = Daemon::builder(mode).set("finwait", 1000).start();
        let mapping = daemon.api().add_public(60, 0);
        let mut flood = flood(4);
        let (mut user, mut agent) = daemon.session(&mapping);
        user.shrink();
        let sent = agent.fill(&flood);
        flood.truncate(sent + 100_000);
        // Its window stays shut for so long that the kernel asks after it less than once a minute.
        thread::sleep(Duration::from_secs(185));
        thread::scope(|scope| {
            scope.spawn(|| agent.send(&flood[sent..]));
            assert_same(&user.exactly(flood.len()), &flood, "after 185 s");
        });
    };
    thread::scope(|scope| {
        for mode in [Mode::Plain, Mode::Tls] {
            scope.spawn(move || stays(mode));
        }
    });
}
