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
    rustix::net::sockopt::set_socket_send_buffer_size(&here, 16 * 1024).unwrap();
    let sent: Vec<_> =
        (0..150).map(|number| vec![number as u8; number * 97 % 16_384 + 1]).collect();
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        there.read_to_end(&mut all).map(|_| all)
    });
    let mut waits = 0;
    for some in sent.chunks(100) {
        some.iter().for_each(|unit| client.seal(unit[..].into()).unwrap());
        while client.wants_write() {
            let before = client.waiting();
            match client.write(&here) {
                Ok(()) => assert!(client.waiting() < before),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    waits += 1;
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        assert_eq!(client.waiting(), 0);
    }
    assert!(waits > 0, "all was taken at once");
    here.shutdown(Shutdown::Write).unwrap();
    assert!(server.hear(reader.join().unwrap().unwrap()) == sent);
}
