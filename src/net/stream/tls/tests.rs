use std::io::Read;
use std::net::{Shutdown, TcpListener};
use std::thread;
use std::time::Duration;

use super::*;
use crate::testing::folder::Folder;
use crate::tls::{CERTIFICATE, Identity, Served, Trusted, client_config};

/// The server's settings, and a client's end of which nothing was sent yet.
pub(in crate::net::stream) fn settings() -> (Served, Tls) {
    let dir = Folder::new();
    let identity = Identity::load_or_make(&dir, "localhost").unwrap();
    let config = client_config(&Trusted::File(dir.join(CERTIFICATE)), None).unwrap();
    let client = Handshake::client(config, "localhost".try_into().unwrap()).unwrap();
    let served = Served::from(identity.tunnel_config().unwrap());
    (served, Tls::new(client, usize::MAX).unwrap())
}

impl Tls {
    /// What it has for the other end.
    pub(in crate::net::stream) fn wire(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing).into_iter().flatten().collect()
    }

    /// Records of these units.
    pub(in crate::net::stream) fn sealed(&mut self, units: &[Vec<u8>]) -> Vec<u8> {
        units.iter().for_each(|unit| self.seal(unit[..].into()).unwrap());
        self.wire()
    }

    /// So many records that carry nothing.
    pub(in crate::net::stream) fn nothing(&mut self, count: usize) -> Vec<u8> {
        let Step::Records(records) = &mut self.step else { panic!("no records yet") };
        (0..count).for_each(|_| records.seal_nothing(&mut self.outgoing));
        self.wire()
    }

    /// Opens all of this, a turn after the other, and gives the units.
    pub(in crate::net::stream) fn hear(&mut self, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let mut units = Vec::new();
        while !bytes.is_empty() {
            let unit = &mut |unit: &[u8]| units.push(unit.to_vec());
            let (_, opened) = self.open(&mut bytes, false, &mut Turn::default(), unit).unwrap();
            assert!(opened > 0, "{} bytes are left", bytes.len());
            bytes.drain(..opened);
        }
        units
    }
}

/// A server and a client that have shaken hands.
fn ends() -> [Tls; 2] {
    let (served, mut client) = settings();
    let mut server = Tls::new(Handshake::server(served.everybody).unwrap(), usize::MAX).unwrap();
    while server.is_handshaking() || client.is_handshaking() {
        assert!(server.hear(client.wire()).is_empty());
        assert!(client.hear(server.wire()).is_empty());
    }
    [server, client]
}

fn units(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| vec![number as u8; number * 37 % 900 + 1]).collect()
}

#[test]
fn handshake_and_first_data_may_come_in_any_pieces() {
    for size in [1, 2, 3, 5, 64, 1000, 1 << 20] {
        let (served, mut client) = settings();
        let mut server =
            Tls::new(Handshake::server(served.everybody).unwrap(), usize::MAX).unwrap();
        let hello = client.wire();
        hello.chunks(size).for_each(|piece| assert!(server.hear(piece.to_vec()).is_empty()));
        assert!(client.hear(server.wire()).is_empty());
        // The client's last message, with its first data in the same pieces.
        client.seal(b"first"[..].into()).unwrap();
        client.seal(b"second"[..].into()).unwrap();
        let wire = client.wire();
        let (mut unopened, mut got) = (Vec::new(), Vec::new());
        for piece in wire.chunks(size) {
            unopened.extend_from_slice(piece);
            loop {
                let unit = &mut |unit: &[u8]| got.push(unit.to_vec());
                let opened = server.open(&mut unopened, false, &mut Turn::default(), unit);
                match opened.unwrap().1 {
                    0 => break,
                    opened => drop(unopened.drain(..opened)),
                }
            }
        }
        assert_eq!(got, [&b"first"[..], b"second"], "in pieces of {size}");
    }
}

#[test]
fn keys_change_only_where_a_record_ends() {
    let (served, mut client) = settings();
    let mut server = Tls::new(Handshake::server(served.everybody).unwrap(), usize::MAX).unwrap();
    server.hear(client.wire());
    client.hear(server.wire());
    let mut wire = client.wire();
    client.seal(b"first"[..].into()).unwrap();
    // What was shown to the library, and not taken by it, would be nobody's.
    wire.extend(&client.wire()[..7]);
    assert!(server.greet(&wire).is_err());
    assert!(server.is_handshaking());
}

#[test]
fn records_are_opened_as_far_as_the_turn_goes() {
    let [mut server, mut client] = ends();
    let (sent, mut got) = (units(500), Vec::new());
    let mut wire = client.sealed(&sent);
    let mut turns = 0;
    while !wire.is_empty() {
        let unit = &mut |unit: &[u8]| got.push(unit.to_vec());
        let mut turn = Turn::default();
        let (total, opened) = server.open(&mut wire, false, &mut turn, unit).unwrap();
        let records = opened - total;
        assert!(opened > 0 && turn.spent() < limits::TURN_BYTES + 2048, "{records} in one turn");
        wire.drain(..opened);
        turns += 1;
    }
    assert_eq!(got, sent);
    assert!(turns > 5, "{turns} turns");
}

#[test]
fn what_carries_nothing_costs_most_and_makes_who_is_trusted_rest() {
    for allowance in [usize::MAX, limits::STRANGER_BYTES] {
        let [mut server, mut client] = ends();
        (server.allowance, server.rest) = (allowance, Rest::default());
        let none = &mut |_: &[u8]| panic!("handed out");
        for number in 1..=limits::EMPTY_RECORDS {
            let (mut wire, mut turn) = (client.nothing(1), Turn::default());
            let opened = server.open(&mut wire, false, &mut turn, none).unwrap();
            assert_eq!(opened, (0, wire.len()));
            assert_eq!(turn.spent(), wire.len() + limits::EMPTY_RECORD_COST);
            assert_eq!(server.rest.is_due(), number == limits::EMPTY_RECORDS);
        }
        let rests = allowance == usize::MAX;
        let mut wire = client.nothing(1);
        let (_, opened) = server.open(&mut wire, false, &mut Turn::default(), none).unwrap();
        assert_eq!(opened, if rests { 0 } else { wire.len() });
        assert_eq!(server.rests(), rests);
    }
}

#[test]
fn records_of_any_length_end_where_their_headers_say_wherever_they_are_cut() {
    let random = &mut fastrand::Rng::with_seed(3);
    let (mut wire, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        let length = random.u16(..) >> random.u32(..16);
        wire.extend([22, 3, 3]);
        wire.extend(length.to_be_bytes());
        wire.extend(vec![7; length.into()]);
        ends.push(wire.len());
    }
    let (mut framing, mut at, mut found) = (Framing::default(), 0, Vec::new());
    while at < wire.len() {
        let piece = (at + random.usize(1..9000)).min(wire.len());
        while at < piece {
            let (length, records) = framing.take(&wire[at..piece]);
            at += length;
            found.extend((records > 0).then_some(at));
        }
    }
    assert!(found == ends);
}

#[test]
fn the_first_unit_is_kept_alone_where_none_is_to_be_handed_out() {
    let [mut server, mut client] = ends();
    let mut wire = client.sealed(&[b"first".to_vec(), b"second".to_vec()]);
    let all = wire.len();
    let none = &mut |_: &[u8]| panic!("handed out");
    let (total, opened) = server.open(&mut wire, true, &mut Turn::default(), none).unwrap();
    assert_eq!((&server.held[..], total), (&b"first"[..], 5));
    assert!(opened < all);
    assert_eq!(server.hear(wire[opened..].to_vec()), [b"second"]);
}

#[test]
fn close_notify_is_an_end_behind_which_nothing_is_opened() {
    let [mut server, mut client] = ends();
    let mut wire = client.sealed(&[b"last".to_vec()]);
    client.send_close_notify();
    wire.extend(client.wire());
    let whole = wire.len();
    wire.extend_from_slice(&wire.clone());
    let mut got = Vec::new();
    let unit = &mut |unit: &[u8]| got.extend_from_slice(unit);
    let (_, opened) = server.open(&mut wire, false, &mut Turn::default(), unit).unwrap();
    assert_eq!((&got[..], opened), (&b"last"[..], whole));
    assert!(server.ended && server.closed);
}

#[test]
fn what_a_slow_peer_takes_in_parts_is_sent_once_and_in_order() {
    let [mut server, mut client] = ends();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (here, _) = listener.accept().unwrap();
    here.set_nonblocking(true).unwrap();
    there.set_nonblocking(true).unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&here, 16 * 1024).unwrap();
    let sent: Vec<_> =
        (0..150).map(|number| vec![number as u8; number * 97 % 16_384 + 1]).collect();
    let (mut got, mut waits) = (Vec::new(), 0);
    for some in sent.chunks(100) {
        some.iter().for_each(|unit| client.seal(unit[..].into()).unwrap());
        while client.wants_write() {
            let before = client.waiting();
            match client.write(&here) {
                Ok(()) => assert!(client.waiting() < before),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    let mut buffer = [0; 50_000];
                    // Nothing, where the kernel has yet to hear that the last bytes were read.
                    let count = there.read(&mut buffer).unwrap_or(0);
                    got.extend_from_slice(&buffer[..count]);
                    thread::sleep(Duration::from_millis(1));
                    waits += 1;
                }
            }
        }
        assert_eq!(client.waiting(), 0);
    }
    here.shutdown(Shutdown::Write).unwrap();
    there.set_nonblocking(false).unwrap();
    there.read_to_end(&mut got).unwrap();
    assert!(waits > 0 && server.hear(got) == sent);
}
