use std::io::{Read, Write};
use std::sync::Arc;

use futures_rustls::rustls::crypto::{CryptoProvider, ring};
use futures_rustls::rustls::{
    CipherSuiteCommon, ClientConfig, ClientConnection, Connection, HandshakeKind, ServerConfig,
    ServerConnection, Tls12CipherSuite, Tls13CipherSuite,
};

use super::*;
use crate::testing::folder::Folder;
use crate::tls::handshake::Handshake;
use crate::tls::pem::roots;
use crate::tls::{CERTIFICATE, Identity};

type Out = VecDeque<Vec<u8>>;

/// Settings of a server as users meet it, and of a client that knows these suites alone.
fn settings(suites: &[SupportedCipherSuite]) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let folder = Folder::new();
    let server = Identity::load_or_make(&folder, "localhost").unwrap().user_config().unwrap();
    let provider = CryptoProvider { cipher_suites: suites.into(), ..ring::default_provider() };
    let mut client = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(&folder.join(CERTIFICATE)).unwrap())
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    (server, client.into())
}

fn suites() -> Vec<SupportedCipherSuite> {
    let all = ring::default_provider().cipher_suites.into_iter();
    // The connector's own certificate is an ECDSA one.
    all.filter(|suite| !format!("{suite:?}").contains("RSA")).collect()
}

/// One suite of each version.
fn versions() -> [SupportedCipherSuite; 2] {
    [
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ]
}

/// This program's end of a connection, and what it has to send.
struct End {
    handshake: Option<Handshake>,
    records: Option<Records>,
    out: Out,
}

impl Records {
    /// Seals a record that carries nothing.
    pub fn seal_nothing(&mut self, out: &mut Out) {
        self.put(ContentType::ApplicationData, (&[][..]).into(), out).unwrap();
    }
}

impl End {
    fn server(config: Arc<ServerConfig>) -> Self {
        End::new(Handshake::server(config).unwrap())
    }

    fn client(config: Arc<ClientConfig>) -> Self {
        End::new(Handshake::client(config, "localhost".try_into().unwrap()).unwrap())
    }

    fn new(mut handshake: Handshake) -> Self {
        let mut out = Out::new();
        assert_eq!(handshake.hear(&mut [], &mut out).unwrap(), 0);
        End { handshake: Some(handshake), records: None, out }
    }

    fn sent(&mut self) -> Vec<u8> {
        take(&mut self.out).into_iter().flatten().collect()
    }

    /// What comes in, in records; gives the units.
    fn hear(&mut self, mut bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, Error> {
        let (mut at, mut units) = (0, Vec::new());
        while at < bytes.len() {
            let rest = &mut bytes[at..];
            if let Some(records) = &mut self.records {
                let (length, opened) = records.open(rest, &mut self.out)?.unwrap();
                at += length;
                if let Opened::Data(data) = opened {
                    units.push(data.to_vec());
                }
            } else if let Some(mut handshake) = self.handshake.take() {
                let length = record(rest)?.unwrap();
                assert_eq!(handshake.hear(&mut rest[..length], &mut self.out)?, length);
                at += length;
                match handshake.is_over() {
                    true => self.records = Some(handshake.into_records()?),
                    false => self.handshake = Some(handshake),
                }
            }
        }
        assert_eq!(at, bytes.len());
        Ok(units)
    }

    fn records(&mut self) -> &mut Records {
        self.records.as_mut().unwrap()
    }

    fn seal(&mut self, unit: &[u8]) -> Result<(), Error> {
        self.records.as_mut().unwrap().seal(unit.into(), &mut self.out)
    }

    /// Sends a message of the handshake protocol, or a part of one.
    fn say(&mut self, message: &[u8]) {
        let records = self.records.as_mut().unwrap();
        records.put(ContentType::Handshake, message.into(), &mut self.out).unwrap();
    }

    fn alert(&mut self, level: u8, what: AlertDescription) {
        self.records.as_mut().unwrap().put_alert(level, what, &mut self.out).unwrap();
    }
}

/// Both ends after the handshake.
fn pair(suite: SupportedCipherSuite) -> (End, End) {
    let (server, client) = settings(&[suite]);
    let (mut server, mut client) = (End::server(server), End::client(client));
    for _ in 0..4 {
        server.hear(client.sent()).unwrap();
        client.hear(server.sent()).unwrap();
    }
    assert_eq!(server.records().schedule.suite(), suite);
    (server, client)
}

/// The library's own end.
struct Peer(Connection);

impl Peer {
    fn hear(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let (mut bytes, mut all) = (bytes, Vec::new());
        while !bytes.is_empty() {
            self.0.read_tls(&mut bytes).unwrap();
            let state = self.0.process_new_packets()?;
            let mut come = vec![0; state.plaintext_bytes_to_read()];
            self.0.reader().read_exact(&mut come).unwrap();
            all.extend(come);
        }
        Ok(all)
    }

    fn sent(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn seal(&mut self, unit: &[u8]) -> Vec<u8> {
        self.0.set_buffer_limit(None);
        self.0.writer().write_all(unit).unwrap();
        self.sent()
    }
}

/// This program's end and the library's.
fn met(end: &mut End, peer: &mut Peer) {
    for _ in 0..4 {
        peer.hear(&end.sent()).unwrap();
        end.hear(peer.sent()).unwrap();
    }
    assert!(end.records.is_some() && !peer.0.is_handshaking());
}

fn client_with_peer(suite: SupportedCipherSuite) -> (End, Peer) {
    let (server, client) = settings(&[suite]);
    let mut peer = Peer(ServerConnection::new(server).unwrap().into());
    let mut end = End::client(client);
    met(&mut end, &mut peer);
    (end, peer)
}

fn server_with_peer(suite: SupportedCipherSuite) -> (End, Peer) {
    let (server, client) = settings(&[suite]);
    let name = "localhost".try_into().unwrap();
    let mut peer = Peer(ClientConnection::new(client, name).unwrap().into());
    let mut end = End::server(server);
    met(&mut end, &mut peer);
    (end, peer)
}

#[test]
fn units_pass_as_records_in_both_directions_with_every_cipher() {
    for suite in suites() {
        for (mut end, mut peer) in [client_with_peer(suite), server_with_peer(suite)] {
            for length in [1, 100, LONGEST, LONGEST] {
                let unit: Vec<u8> = (0..length).map(|number| number as u8).collect();
                end.seal(&unit).unwrap();
                assert_eq!(end.out.len(), 1);
                assert_eq!(peer.hear(&end.sent()).unwrap(), unit);
                assert_eq!(end.hear(peer.seal(&unit)).unwrap(), [unit]);
            }
            end.seal(&[7; LONGEST + 1]).unwrap();
            assert_eq!(end.out.len(), 2);
            assert_eq!(peer.hear(&end.sent()).unwrap(), [7; LONGEST + 1]);
            let two = OutboundChunks::new(&[b"one ", b"unit"]);
            end.records.as_mut().unwrap().seal(two, &mut end.out).unwrap();
            assert_eq!(end.out.len(), 1);
            assert_eq!(peer.hear(&end.sent()).unwrap(), b"one unit");
        }
    }
}

#[test]
fn a_record_is_opened_when_all_of_it_is_there() {
    let (mut end, mut peer) = server_with_peer(versions()[0]);
    let mut bytes = peer.seal(b"unit");
    let length = bytes.len();
    bytes.extend(peer.seal(b"another"));
    for part in 0..length {
        assert!(!is_whole(&bytes[..part]));
        let opened = end.records.as_mut().unwrap().open(&mut bytes[..part], &mut end.out).unwrap();
        assert_eq!(opened, None);
    }
    assert!(is_whole(&bytes[..length]));
    let opened = end.records.as_mut().unwrap().open(&mut bytes, &mut end.out).unwrap();
    assert_eq!(opened, Some((length, Opened::Data(b"unit"))));
}

#[test]
fn close_notify_is_said_once_and_heard() {
    for suite in versions() {
        let (mut end, mut peer) = server_with_peer(suite);
        for _ in 0..2 {
            end.records.as_mut().unwrap().close(&mut end.out).unwrap();
        }
        assert_eq!(end.out.len(), 1);
        peer.hear(&end.sent()).unwrap();
        assert!(peer.0.process_new_packets().unwrap().peer_has_closed());
        peer.0.send_close_notify();
        let mut bytes = peer.sent();
        let length = bytes.len();
        let opened = end.records.as_mut().unwrap().open(&mut bytes, &mut end.out).unwrap();
        assert_eq!(opened, Some((length, Opened::Closed)));
        // Behind close_notify nothing is said any more.
        let records = end.records.as_mut().unwrap();
        assert!(records.open(&mut [23, 2, 3, 0, 9], &mut end.out).is_err());
        assert!(end.out.is_empty());
    }
}

#[test]
fn new_keys_are_followed_and_many_wishes_have_one_answer() {
    let suite = versions()[0];
    for (mut end, mut peer) in [client_with_peer(suite), server_with_peer(suite)] {
        for _ in 0..3 {
            for _ in 0..10 {
                peer.0.refresh_traffic_keys().unwrap();
                assert_eq!(end.hear(peer.sent()).unwrap(), [[0; 0]; 0]);
            }
            assert!(end.out.is_empty());
            assert_eq!(end.hear(peer.seal(b"there")).unwrap(), [b"there"]);
            end.seal(b"here").unwrap();
            assert_eq!(end.out.len(), 2);
            end.seal(b"again").unwrap();
            assert_eq!(end.out.len(), 3);
            assert_eq!(peer.hear(&end.sent()).unwrap(), b"hereagain");
            // The answer asks for none.
            let bytes = peer.seal(b"x");
            assert_eq!(bytes.len(), HEADER + 1 + 1 + 16);
            assert_eq!(end.hear(bytes).unwrap(), [b"x"]);
        }
    }
}

#[test]
fn keys_are_replaced_before_they_are_used_up_or_the_connection_ends() {
    const MOST: u64 = 5;
    let few =
        |common: &CipherSuiteCommon| CipherSuiteCommon { confidentiality_limit: MOST, ..*common };
    for suite in versions() {
        let suite = match suite {
            SupportedCipherSuite::Tls13(suite) => SupportedCipherSuite::Tls13(Box::leak(
                Tls13CipherSuite { common: few(&suite.common), ..*suite }.into(),
            )),
            SupportedCipherSuite::Tls12(suite) => SupportedCipherSuite::Tls12(Box::leak(
                Tls12CipherSuite { common: few(&suite.common), ..*suite }.into(),
            )),
        };
        let (mut end, mut peer) = client_with_peer(suite);
        let is_new = end.records().schedule.is_new();
        for number in 0..20 {
            let sealed = end.seal(b"unit");
            assert!(end.records().sealed <= MOST);
            if !is_new && number >= 3 {
                assert_eq!(sealed, Err(Error::EncryptError));
                // What the peer has got is not whole: this is no close_notify.
                let told = Error::AlertReceived(AlertDescription::InternalError);
                assert_eq!(
                    peer.hear(&end.sent()),
                    if number == 3 { Err(told) } else { Ok(vec![]) }
                );
                end.records.as_mut().unwrap().close(&mut end.out).unwrap();
                assert!(end.out.is_empty());
            } else {
                sealed.unwrap();
                assert_eq!(peer.hear(&end.sent()).unwrap(), b"unit");
            }
        }
    }
}

#[test]
fn numbers_of_records_end_before_they_begin_anew() {
    for suite in [
        ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ] {
        let (mut server, mut client) = pair(suite);
        let is_new = client.records().schedule.is_new();
        let last = u64::MAX - 16;
        (client.records().sealed, server.records().opened) = (last - 3, last - 3);
        for number in 0..5 {
            let sealed = client.seal(b"unit");
            assert!(client.records().sealed <= last);
            let heard = server.hear(client.sent());
            match (is_new, number) {
                (true, _) | (false, 0 | 1) => assert_eq!(heard.unwrap(), [b"unit"]),
                _ => assert_eq!(sealed, Err(Error::EncryptError)),
            }
        }
        let (mut server, mut client) = pair(suite);
        (client.records().sealed, server.records().opened) = (u64::MAX - 1, u64::MAX);
        client.alert(WARNING, AlertDescription::UserCanceled);
        assert_eq!(server.hear(client.sent()), Err(Error::DecryptError));
    }
}

#[test]
fn nonces_go_on_where_the_handshake_has_left_them() {
    let (server, client) = settings(&versions()[1..]);
    let (mut server, mut client) = (End::server(server), End::client(client));
    server.hear(client.sent()).unwrap();
    client.hear(server.sent()).unwrap();
    server.hear(client.sent()).unwrap();
    let explicit =
        |record: &[u8]| u64::from_be_bytes(record[HEADER..HEADER + 8].try_into().unwrap());
    // Its Finished, which is number 0.
    let first = explicit(server.out.back().unwrap());
    server.out.clear();
    for number in 1..5 {
        server.seal(b"unit").unwrap();
        assert_eq!(explicit(server.out.back().unwrap()), first ^ number);
    }
}

#[test]
fn tickets_reach_the_library_and_resume_sessions() {
    let (server, client) = settings(&versions()[..1]);
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut peer = Peer(ServerConnection::new(server.clone()).unwrap().into());
        let mut end = End::client(client.clone());
        met(&mut end, &mut peer);
        assert!(end.records().has_ticket());
        assert_eq!(peer.0.handshake_kind(), Some(kind));
        assert_eq!(end.hear(peer.seal(b"there")).unwrap(), [b"there"]);
        end.seal(b"here").unwrap();
        assert_eq!(peer.hear(&end.sent()).unwrap(), b"here");
    }
}

/// What the peer is told of what it has sent, which stays wrong.
fn refused(end: &mut End, peer: &mut End, bytes: Vec<u8>) -> (Error, Option<Error>) {
    let error = end.hear(bytes.clone()).unwrap_err();
    let told = peer.hear(end.sent()).err();
    assert_eq!(end.hear(bytes).unwrap_err(), error);
    assert_eq!(end.seal(b"more").unwrap_err(), error);
    assert!(end.out.is_empty());
    (error, told)
}

#[test]
fn whoever_changes_a_record_is_told_and_heard_no_more() {
    for suite in versions() {
        for change in [HEADER, HEADER + 9, HEADER + 12] {
            let (mut server, mut client) = pair(suite);
            client.seal(b"unit").unwrap();
            let mut bytes = client.sent();
            bytes[change] ^= 1;
            let (error, told) = refused(&mut server, &mut client, bytes);
            assert_eq!(error, Error::DecryptError);
            assert_eq!(told, Some(Error::AlertReceived(AlertDescription::BadRecordMac)));
        }
        // A record that has been sent before.
        let (mut server, mut client) = pair(suite);
        client.seal(b"unit").unwrap();
        let bytes = client.sent();
        server.hear(bytes.clone()).unwrap();
        assert_eq!(refused(&mut server, &mut client, bytes).0, Error::DecryptError);
    }
}

#[test]
fn what_is_no_record_is_refused_with_its_header() {
    use AlertDescription::{DecodeError, UnexpectedMessage};
    for suite in versions() {
        for (bytes, alert) in [
            (&[71, 69, 84, 32, 47][..], DecodeError),
            (&[24, 3, 3, 0, 9], DecodeError),
            (&[23, 2, 3, 0, 9], DecodeError),
            (&[22, 3, 3, 0, 0], DecodeError),
            (&[23, 3, 3, 0x48, 0], DecodeError),
            (&[20, 3, 3, 0, 1, 1], UnexpectedMessage),
        ] {
            let (mut server, mut client) = pair(suite);
            assert!(is_whole(bytes));
            let (_, told) = refused(&mut server, &mut client, bytes.to_vec());
            assert_eq!(told, Some(Error::AlertReceived(alert)), "{bytes:?}");
        }
    }
    let (mut server, mut client) = pair(versions()[0]);
    let (_, told) = refused(&mut server, &mut client, vec![22, 3, 3, 0, 1, 1]);
    assert_eq!(told, Some(Error::AlertReceived(UnexpectedMessage)), "in the clear");
}

#[test]
fn padding_is_taken_off_and_what_is_inside_must_be_known_and_fit() {
    let put = |end: &mut End, kind: u8, content: &[u8]| {
        let records = end.records.as_mut().unwrap();
        records.put(ContentType::from(kind), content.into(), &mut end.out).unwrap();
        end.sent()
    };
    let [new, old] = versions();
    let (mut server, mut client) = pair(new);
    for padding in [0, 1, 300, LONGEST - 5] {
        let padded = [&b"unit\x17"[..], &vec![0; padding]].concat();
        let bytes = put(&mut client, 0, &padded);
        assert_eq!(server.hear(bytes).unwrap(), [b"unit"]);
    }
    let bytes = put(&mut client, 23, &[7; LONGEST]);
    assert_eq!(server.hear(bytes).unwrap(), [[7; LONGEST]]);
    use AlertDescription::{RecordOverflow, UnexpectedMessage};
    for (suite, kind, content, alert) in [
        (new, 0, &[0; 100][..], UnexpectedMessage),
        (new, 20, &[1], UnexpectedMessage),
        (new, 24, &[1], UnexpectedMessage),
        (new, 255, &[1], UnexpectedMessage),
        (new, 23, &[7; LONGEST + 1], RecordOverflow),
        (old, 23, &[7; LONGEST + 1], RecordOverflow),
        (old, 22, &[7; LONGEST + 1], RecordOverflow),
    ] {
        let (mut server, mut client) = pair(suite);
        let bytes = put(&mut client, kind, content);
        let (_, told) = refused(&mut server, &mut client, bytes);
        assert_eq!(told, Some(Error::AlertReceived(alert)), "{kind}");
    }
}

#[test]
fn messages_come_in_pieces_of_any_size() {
    let (mut server, mut client) = pair(versions()[0]);
    // A ticket that says nothing but what it must.
    let ticket = [4, 0, 0, 16, 0, 0, 1, 0, 0, 0, 0, 0, 1, 7, 0, 2, 8, 8, 0, 0];
    for size in [1, 3, 4, 5, 100] {
        client.records().has_ticket = false;
        for piece in ticket.chunks(size) {
            assert!(!client.records().has_ticket());
            server.say(piece);
            client.hear(server.sent()).unwrap();
        }
        assert!(client.records().has_ticket());
    }
    client.records().has_ticket = false;
    server.say(&[&ticket[..], &ticket, &[24, 0, 0, 1, 0]].concat());
    let secrets = server.records().schedule.update(Direction::Out).unwrap();
    client.hear(server.sent()).unwrap();
    server.records().sealer = sealer(versions()[0], secrets).unwrap();
    server.records().sealed = 0;
    server.seal(b"unit").unwrap();
    assert_eq!(client.hear(server.sent()).unwrap(), [b"unit"]);
    assert_eq!(client.records().message.capacity(), 0, "nothing is kept of them");
}

#[test]
fn messages_that_are_not_expected_are_not_waited_for() {
    let [new, old] = versions();
    let (mut server, mut client) = pair(old);
    server.say(&[0, 0, 0, 1]);
    let bytes = server.sent();
    let (error, _) = refused(&mut client, &mut server, bytes);
    assert_eq!(error, InvalidMessage::TrailingData("HelloRequest").into());
    for (suite, message) in [
        (new, &[4, 0, 0, 9][..]),
        (new, &[1, 0, 0, 9]),
        (new, &[24, 0, 0, 2]),
        (new, &[24, 0, 0, 1, 2]),
        (new, &[24, 0, 0, 1, 0, 24]),
        (old, &[0, 0, 0, 0]),
        (old, &[24, 0, 0, 1, 0]),
        (old, &[1, 1, 0, 0]),
    ] {
        let (mut server, mut client) = pair(suite);
        client.say(message);
        let bytes = client.sent();
        let (_, told) = refused(&mut server, &mut client, bytes);
        assert!(matches!(told, Some(Error::AlertReceived(_))), "{message:?}");
    }
    let (mut server, mut client) = pair(new);
    client.say(&[24, 0]);
    client.seal(b"unit").unwrap();
    let bytes = client.sent();
    let (error, _) = refused(&mut server, &mut client, bytes);
    assert_eq!(error, PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
}

#[test]
fn another_handshake_is_declined_once() {
    let (mut server, mut client) = pair(versions()[1]);
    let decline = |from: &mut End, to: &mut End, message| {
        from.say(message);
        to.hear(from.sent()).unwrap();
        // Which is a warning.
        assert_eq!(to.out.len(), 1);
        from.hear(to.sent()).unwrap();
    };
    decline(&mut client, &mut server, &[1, 0, 0, 0]);
    decline(&mut server, &mut client, &[0, 0, 0, 0]);
    client.seal(b"unit").unwrap();
    assert_eq!(server.hear(client.sent()).unwrap(), [b"unit"]);
    client.say(&[1, 0, 0, 0]);
    let error = server.hear(client.sent()).unwrap_err();
    assert_eq!(error, PeerMisbehaved::TooManyRenegotiationRequests.into());
}

#[test]
fn what_carries_nothing_is_counted() {
    for suite in versions() {
        let (mut server, mut client) = pair(suite);
        for number in 0..100 {
            if number % 30 == 0 {
                client.seal(b"unit").unwrap();
            }
            let records = client.records.as_mut().unwrap();
            records.put(ContentType::ApplicationData, [][..].into(), &mut client.out).unwrap();
            server.hear(client.sent()).unwrap();
        }
        client.seal(b"unit").unwrap();
        for number in 0..=EMPTY {
            let records = client.records.as_mut().unwrap();
            records.put(ContentType::ApplicationData, [][..].into(), &mut client.out).unwrap();
            let fault = (number == EMPTY).then(|| PeerMisbehaved::TooManyEmptyFragments.into());
            assert_eq!(server.hear(client.sent()).err(), fault);
        }
    }
    let (mut end, mut peer) = server_with_peer(versions()[0]);
    for number in 0..100 {
        if number % 30 == 0 {
            end.hear(peer.seal(b"unit")).unwrap();
        }
        peer.0.refresh_traffic_keys().unwrap();
        end.hear(peer.sent()).unwrap();
    }
    end.hear(peer.seal(b"unit")).unwrap();
    for number in 0..=EMPTY {
        peer.0.refresh_traffic_keys().unwrap();
        let fault = (number == EMPTY).then(|| PeerMisbehaved::TooManyKeyUpdateRequests.into());
        assert_eq!(end.hear(peer.sent()).err(), fault);
    }
}

#[test]
fn alerts_end_the_connection_and_warnings_are_counted() {
    let [new, old] = versions();
    for suite in [new, old] {
        let (mut server, mut client) = pair(suite);
        client.alert(FATAL, AlertDescription::InternalError);
        let error = server.hear(client.sent()).unwrap_err();
        assert_eq!(error, Error::AlertReceived(AlertDescription::InternalError));
        assert!(server.out.is_empty());

        // Whatever its level.
        let (mut server, mut client) = pair(suite);
        client.alert(FATAL, AlertDescription::CloseNotify);
        let mut bytes = client.sent();
        let opened = server.records.as_mut().unwrap().open(&mut bytes, &mut server.out);
        assert!(matches!(opened, Ok(Some((_, Opened::Closed)))));

        let (mut server, mut client) = pair(suite);
        let mut last = Ok(Vec::new());
        for _ in 0..WARNINGS {
            client.alert(WARNING, AlertDescription::UserCanceled);
            last = server.hear(client.sent());
            assert!(last.is_ok());
        }
        client.alert(WARNING, AlertDescription::UserCanceled);
        assert!(last.is_ok());
        let error = server.hear(client.sent()).unwrap_err();
        assert_eq!(error, PeerMisbehaved::TooManyWarningAlertsReceived.into());

        for content in [&[3, 10][..], &[1], &[1, 0, 0]] {
            let (mut server, mut client) = pair(suite);
            let records = client.records.as_mut().unwrap();
            records.put(ContentType::Alert, content.into(), &mut client.out).unwrap();
            let bytes = client.sent();
            let (_, told) = refused(&mut server, &mut client, bytes);
            assert!(matches!(told, Some(Error::AlertReceived(_))), "{content:?}");
        }
    }
    let (mut server, mut client) = pair(new);
    client.alert(WARNING, AlertDescription::NoRenegotiation);
    let bytes = client.sent();
    let (error, told) = refused(&mut server, &mut client, bytes);
    assert_eq!(error, Error::AlertReceived(AlertDescription::NoRenegotiation));
    assert_eq!(told, Some(Error::AlertReceived(AlertDescription::DecodeError)));
}

#[test]
fn a_greeting_in_many_records_is_shown_again_until_it_is_complete() {
    let (server, client) = settings(&versions());
    let mut client = End::client(client);
    let hello = client.sent();
    let body = &hello[HEADER..];
    for size in [1, 50, 1000] {
        let mut handshake = Handshake::server(server.clone()).unwrap();
        let (mut out, mut shown) = (Out::new(), Vec::new());
        for part in body.chunks(size) {
            assert!(out.is_empty());
            shown.extend([22, 3, 1, 0, part.len() as u8]);
            let header = shown.len() - 2;
            shown[header..].copy_from_slice(&(part.len() as u16).to_be_bytes());
            for byte in part {
                shown.push(*byte);
                let done = handshake.hear(&mut shown, &mut out).unwrap();
                shown.drain(..done);
            }
        }
        assert!(shown.is_empty() && !out.is_empty());
    }
    // What is wrong is told while a part of a message is still there.
    let mut handshake = Handshake::server(server).unwrap();
    let mut out = Out::new();
    let mut bytes = [&[22, 3, 1, 0, 5][..], &body[..5], &[23, 3, 3, 0, 1, 1]].concat();
    assert!(handshake.hear(&mut bytes, &mut out).is_err());
    let mut garbage = *b"GET / HTTP/1.1";
    assert!(handshake.hear(&mut garbage, &mut out).is_err());
}

#[test]
fn whatever_a_peer_seals_is_opened_or_refused() {
    let mut numbers = fastrand::Rng::with_seed(7);
    for round in 0..200 {
        let (mut server, mut client) = pair(versions()[round % 2]);
        let (from, to) = match round % 4 {
            0 | 1 => (&mut client, &mut server),
            _ => (&mut server, &mut client),
        };
        for _ in 0..50 {
            // Mostly what has a meaning somewhere.
            let kind = 20 + numbers.u8(..5);
            let meant = [0, 0, 0, 1, 1, 2, 4, 24, 255];
            let content: Vec<u8> =
                (0..numbers.usize(..12)).map(|_| meant[numbers.usize(..meant.len())]).collect();
            let records = from.records.as_mut().unwrap();
            records.put(ContentType::from(kind), content[..].into(), &mut from.out).unwrap();
            let bytes = from.sent();
            if to.hear(bytes).is_err() {
                break;
            }
            assert!(to.records().message.len() <= 4 + LONGEST_MESSAGE);
            to.out.clear();
        }
    }
}
