//! Users whose connections come through a proxy that says whose they are (protocol page, section 3, step 2, and
//! section 6): PROXY headers of versions 1 and 2.

use std::net::{Ipv6Addr, SocketAddr};

use crate::common::*;
use serde_json::{Value, json};

in_both_modes!(
    agent_is_told_of_the_user_behind_the_proxy,
    user_behind_the_proxy_is_who_may_connect_and_is_counted,
    connection_of_a_proxy_without_a_header_is_closed_and_counted,
    connections_from_elsewhere_are_as_before,
);

const NEVER: u64 = 200_000;
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A public pipe with these options.
fn public(daemon: &Daemon, options: Value) -> Mapping {
    let mut mapping =
        json!({"type": "public", "maxconnections": 60, "heartbeatabsencethreshold": NEVER});
    mapping.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    daemon.api().add(&mapping.to_string())
}

/// A connection to port2 that has sent these bytes, in the daemon's mode from then on.
fn through(daemon: &Daemon, to: SocketAddr, header: &[u8]) -> std::io::Result<Link> {
    let mut link = Link::plain(to)?;
    link.try_send(header)?;
    match daemon.mode {
        Mode::Plain => Ok(link),
        Mode::Tls => link.upgrade(&daemon.trust(), "localhost"),
    }
}

/// A version 1 header.
fn one(source: &str) -> Vec<u8> {
    let (ip, port) = source.rsplit_once(' ').unwrap();
    match ip.contains(':') {
        true => format!("PROXY TCP6 {ip} ::1 {port} 443\r\n").into_bytes(),
        false => format!("PROXY TCP4 {ip} 198.51.100.1 {port} 443\r\n").into_bytes(),
    }
}

/// A version 2 header, with something behind the addresses.
fn two(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let behind = [4, 0, 2, 0, 0];
    let length = (addresses.len() + behind.len()) as u8;
    [SIGNATURE, &[0x20 | command, family, 0, length], addresses, &behind].concat()
}

/// What a version 2 agent is told of its user: family, and source address with port.
fn told(agent: &mut Agent) -> (u8, Vec<u8>) {
    let head = agent.exactly(16);
    assert_eq!((&head[..12], head[12]), (SIGNATURE, 0x21));
    let body = agent.exactly(usize::from(u16::from_be_bytes([head[14], head[15]])));
    let width = if head[13] == 0x11 { 4 } else { 16 };
    (head[13], [&body[..width], &body[2 * width..2 * width + 2]].concat())
}

fn agent_is_told_of_the_user_behind_the_proxy(mode: Mode) {
    let mut daemon = Daemon::builder(mode).set("listen", "::").start();
    let mapping = public(&daemon, json!({"proxyfrom": ["127.0.0.0/8", "::1"]}));
    daemon.restart();
    let options = json!({"proxyfrom": ["127.0.0.0/8", "::1"]});
    assert_eq!(daemon.api().state_of(&mapping).unwrap()["options"], options);
    let four = [192, 0, 2, 7, 3, 232];
    let six = [&[0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[7, 3, 232]].concat();
    let addresses4 = [&four[..4], &[198, 51, 100, 1], &four[4..], &[1, 187]].concat();
    let addresses6 = [&six[..16], &[0; 16], &six[16..], &[1, 187]].concat();
    let [v4, v6] = [at(mapping.port2), SocketAddr::from((Ipv6Addr::LOCALHOST, mapping.port2))];
    for (proxy, header, family, source) in [
        (v4, one("192.0.2.7 1000"), 0x11, &four[..]),
        (v4, one("2001:db8::7 1000"), 0x21, &six),
        (v4, two(1, 0x11, &addresses4), 0x11, &four),
        (v4, two(1, 0x21, &addresses6), 0x21, &six),
        (v6, one("192.0.2.7 1000"), 0x21, &[&[0; 10], &[255, 255][..], &four].concat()),
        (v6, two(1, 0x21, &addresses6), 0x21, &six),
    ] {
        let mut agent = daemon.version_two(&mapping);
        let mut user = through(&daemon, proxy, &header).unwrap();
        user.send(b"question");
        assert_eq!(told(&mut agent), (family, source.to_vec()), "{header:?}");
        agent.send(b"OPENanswer");
        user.expect(b"answer");
        agent.expect(b"question");
    }
    // In pieces, with the user's first bytes behind the last one.
    let header = two(1, 0x11, &addresses4);
    let mut agent = daemon.version_two(&mapping);
    let mut link = Link::plain(v4).unwrap();
    for piece in header[..header.len() - 3].chunks(5) {
        link.send(piece);
        std::thread::sleep(ms(1));
    }
    let mut user = match mode {
        Mode::Plain => {
            link.send(&[&header[header.len() - 3..], b"question"].concat());
            link
        }
        Mode::Tls => {
            link.send(&header[header.len() - 3..]);
            let mut user = link.upgrade(&daemon.trust(), "localhost").unwrap();
            user.send(b"question");
            user
        }
    };
    assert_eq!(told(&mut agent), (0x11, four.to_vec()));
    agent.send(b"OPENanswer");
    agent.expect(b"question");
    user.expect(b"answer");
    // The proxy speaks for itself, does not know, or names what is no TCP connection.
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 192.0.2.7 ::1 what ever\r\n".to_vec(),
        two(0, 0, &[]),
        two(0, 0x11, &addresses4),
        two(1, 0x12, &addresses4),
        two(1, 0x31, &[b'/'; 216]),
    ] {
        let mut agent = daemon.version_two(&mapping);
        let mut user = through(&daemon, v4, &header).unwrap();
        user.send(b"question");
        let port = user.local().port().to_be_bytes();
        assert_eq!(told(&mut agent), (0x11, [&[127, 0, 0, 1], &port[..]].concat()), "{header:?}");
        agent.send(b"OPEN");
    }
}

/// How often users of the mapping were refused for this.
fn refusals(daemon: &Daemon, mapping: &Mapping, why: &str) -> u64 {
    let state = daemon.api().state_of(mapping).unwrap();
    let refusals = state["refusals"].as_array().unwrap();
    let of = |kind: &&Value| kind["why"].as_str().unwrap().contains(why);
    refusals.iter().find(of).map_or(0, |kind| kind["times"].as_u64().unwrap())
}

/// A user that is closed, whether that is during its handshake or after.
#[track_caller]
fn is_closed(daemon: &Daemon, mapping: &Mapping, header: &[u8]) {
    if let Ok(mut user) = through(daemon, at(mapping.port2), header) {
        user.expect_closed();
    }
}

fn user_behind_the_proxy_is_who_may_connect_and_is_counted(mode: Mode) {
    let daemon = Daemon::builder(mode).set("connectionlog", true).start();
    let options = json!({"proxyfrom": ["127.0.0.1"], "allow": ["192.0.2.0/24", "2001:db8::/32"],
        "usersperaddress": 1});
    let mapping = public(&daemon, options);
    let mut users = Vec::new();
    for source in ["192.0.2.7 1", "192.0.2.8 1", "2001:db8::1 1"] {
        let mut agent = daemon.tunnel(&mapping);
        let mut user = through(&daemon, at(mapping.port2), &one(source)).unwrap();
        user.send(b"question");
        agent.expect_record(b"question");
        users.push((user, agent));
    }
    is_closed(&daemon, &mapping, &one("198.51.100.7 1"));
    until("it is counted", || refusals(&daemon, &mapping, "not in the mapping's allow") == 1);
    // Its own address is what counts where the header tells of no other.
    is_closed(&daemon, &mapping, b"PROXY UNKNOWN\r\n");
    until("it is counted", || refusals(&daemon, &mapping, "not in the mapping's allow") == 2);
    is_closed(&daemon, &mapping, &one("192.0.2.7 2"));
    is_closed(&daemon, &mapping, &one("2001:db8::2 1"));
    until("they are counted", || refusals(&daemon, &mapping, "as many users as") == 2);
    let log = daemon.log_text();
    assert!(log.contains("user 198.51.100.7") && log.contains("user [2001:db8::2]:1"), "{log}");
    let error = daemon.api().state_of(&mapping).unwrap()["lastError"].as_str().unwrap().to_owned();
    assert!(error.contains("user 2001:db8::2 refused"), "{error}");
    drop(users);
    until("the sessions are over", || daemon.api().number(&mapping, "counts.sessions") == 0);
    let mut agent = daemon.tunnel(&mapping);
    let mut user = through(&daemon, at(mapping.port2), &one("192.0.2.7 3")).unwrap();
    user.send(b"question");
    agent.expect_record(b"question");
}

fn connection_of_a_proxy_without_a_header_is_closed_and_counted(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = public(&daemon, json!({"proxyfrom": ["127.0.0.1"]}));
    let _agent = daemon.tunnel(&mapping);
    let long = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff], &[0; 2000]].concat();
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    // The last is closed by a time limit, as is a handshake.
    let wrong: [&[u8]; 5] =
        [b"GET / HTTP/1.1\r\n\r\n", hello, &long, b"PROXY TCP4 1\r\n", b"PROXY TCP4 192"];
    for (count, bytes) in wrong.into_iter().enumerate() {
        let mut link = Link::plain(at(mapping.port2)).unwrap();
        link.send(bytes);
        link.expect_closed();
        until("it is counted", || refusals(&daemon, &mapping, "PROXY") == count as u64 + 1);
    }
    let error = daemon.api().state_of(&mapping).unwrap()["lastError"].as_str().unwrap().to_owned();
    assert!(error.contains("send-proxy-v2"), "{error}");
    // An end in the middle of one is none, too.
    let mut link = Link::plain(at(mapping.port2)).unwrap();
    link.send(b"PROXY ");
    link.finish();
    until("it is counted", || refusals(&daemon, &mapping, "PROXY") == 6);
    // A health check is not: it sends nothing.
    Link::plain(at(mapping.port2)).unwrap().finish();
    let mut user = through(&daemon, at(mapping.port2), &one("192.0.2.7 1")).unwrap();
    user.send(b"question");
    until("it is served", || daemon.api().number(&mapping, "counts.usersServed") == 1);
    assert_eq!(daemon.api().number(&mapping, "counts.usersRefused"), 6);
}

fn connections_from_elsewhere_are_as_before(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = public(&daemon, json!({"proxyfrom": ["192.0.2.1", "127.0.0.2"]}));
    let (mut user, mut agent) = daemon.session(&mapping);
    agent.send(b"answer");
    user.expect(b"answer");
    // Nobody else may say who it is: a header is bytes like any others.
    if mode == Mode::Plain {
        let mut agent = daemon.version_two(&mapping);
        let header = one("192.0.2.7 1000");
        let user = through(&daemon, at(mapping.port2), &header).unwrap();
        let port = user.local().port().to_be_bytes();
        assert_eq!(told(&mut agent), (0x11, [&[127, 0, 0, 1], &port[..]].concat()));
        agent.send(b"OPEN");
        agent.expect(&header);
    }
}
