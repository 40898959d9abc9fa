//! What follows a handshake, record by record: the product's end beside the library's own connection.
//!
//! Both have met the same peer with the same keys, since chance, key exchange and signature always give the
//! same here. The peer seals what the input says, and changes, repeats, drops and cuts what it has
//! sealed. What must hold: both ends give the same bytes, end and fail at the same record, and seal the same bytes.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};

use futures_rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use futures_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use futures_rustls::rustls::crypto::cipher::{MessageEncrypter, OutboundPlainMessage};
use futures_rustls::rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup, ring,
};
use futures_rustls::rustls::server::NoServerSessionStorage;
use futures_rustls::rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use futures_rustls::rustls::{
    ClientConfig, ClientConnection, Connection, ConnectionTrafficSecrets, ContentType,
    DigitallySignedStruct, Error, NamedGroup, ProtocolVersion, ServerConfig, ServerConnection,
    SignatureAlgorithm, SignatureScheme, SupportedCipherSuite,
};
use iofog_connector::fuzzing::{Handshake, Opened, Records};

use crate::input::{Choices, Random};

/// The end that hears: whether it is the server, and the cipher.
const ENDS: usize = 12;

const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

/// A message of the handshake protocol is no longer.
const LONGEST_MESSAGE: usize = 0xffff;

/// The library's buffer has room for this much, or for a message of several records.
const LONGEST_RECORD: usize = 5 + (1 << 14) + 2048;

/// What it says when it has no more.
const FULL: &str = "message buffer full";

pub(crate) fn check(data: &[u8]) -> bool {
    let mut choices = Choices::new(data);
    let end = usize::from(choices.byte()) % ENDS;
    let (is_server, settings) = (end % 2 == 0, &SETTINGS[end / 2]);
    let mut random = Random::of(data);
    let (mut ends, mut peer) = Ends::meet(settings, is_server);
    for _ in 0..60 {
        if choices.is_empty() || ends.is_over {
            break;
        }
        peer.act(&mut ends, &mut choices);
        let longest = [1 << 16, 1 << 16, 7, 300][usize::from(choices.byte() % 4)];
        while !peer.wire.is_empty() {
            let length = (1 + random.below(longest)).min(peer.wire.len());
            let piece: Vec<u8> = peer.wire.drain(..length).collect();
            ends.hear(&piece, &mut peer);
        }
    }
    true
}

struct Settings {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    suite: SupportedCipherSuite,
}

/// For each cipher that goes with the signature.
static SETTINGS: LazyLock<Vec<Settings>> = LazyLock::new(|| {
    let suites = ring::default_provider().cipher_suites.into_iter();
    let made = |suite: SupportedCipherSuite| {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![suite],
            kx_groups: vec![&Same],
            secure_random: &Same,
            ..ring::default_provider()
        });
        let certificate = CertificateDer::from(vec![7; 100]);
        let key = CertifiedKey::new(vec![certificate], Arc::new(Same));
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 1;
        server.enable_secret_extraction = true;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Same))
            .with_no_client_auth();
        client.resumption = futures_rustls::rustls::client::Resumption::disabled();
        client.enable_secret_extraction = true;
        Settings { server: server.into(), client: client.into(), suite }
    };
    suites.filter(|suite| !format!("{suite:?}").contains("RSA")).map(made).collect()
});

/// The product's end and the library's, which meet one peer.
struct Ends {
    ours: Records,
    /// What has come and was not opened.
    come: Vec<u8>,
    /// Bytes of records since the last one with data.
    held: usize,
    out: VecDeque<Vec<u8>>,
    theirs: Connection,
    is_old_server: bool,
    is_over: bool,
}

/// What the library's end made of what came.
struct Heard {
    bytes: Vec<u8>,
    has_closed: bool,
    error: Option<Error>,
}

impl Ends {
    fn meet(settings: &Settings, is_server: bool) -> (Ends, Peer) {
        let Settings { server, client, suite } = settings;
        let name = || ServerName::try_from("localhost").expect("a name");
        let as_server = || Handshake::server(server.clone()).expect("a server");
        let as_client = || Handshake::client(client.clone(), name()).expect("a client");
        let (mut ours, mut theirs, mut peer) = match is_server {
            true => {
                let theirs = ServerConnection::new(server.clone()).expect("a server");
                (as_server(), Connection::from(theirs), as_client())
            }
            false => {
                let theirs = ClientConnection::new(client.clone(), name()).expect("a client");
                (as_client(), Connection::from(theirs), as_server())
            }
        };
        let mut from_peer = hear_all(&mut peer, Vec::new());
        let mut from_ours = hear_all(&mut ours, Vec::new());
        for _ in 0..3 {
            from_ours.extend(hear_all(&mut ours, from_peer.clone()));
            let heard = hear(&mut theirs, &mut from_peer.as_slice());
            assert!(heard.error.is_none() && heard.bytes.is_empty());
            assert_eq!(from_ours, sent(&mut theirs), "the handshakes are the same");
            if peer.is_over() {
                from_peer.clear();
                break;
            }
            from_peer = hear_all(&mut peer, std::mem::take(&mut from_ours));
            if ours.is_over() {
                break;
            }
        }
        assert!(ours.is_over() && peer.is_over() && !theirs.is_handshaking());
        let is_new = matches!(suite, SupportedCipherSuite::Tls13(_));
        let ends = Ends {
            ours: ours.into_records().expect("keys"),
            come: Vec::new(),
            held: 0,
            out: VecDeque::new(),
            theirs,
            is_old_server: is_server && !is_new,
            is_over: false,
        };
        let mut peer = Peer::new(peer, *suite);
        // A server's tickets.
        peer.wire = from_peer;
        (ends, peer)
    }

    fn hear(&mut self, piece: &[u8], peer: &mut Peer) {
        if self.is_over {
            return;
        }
        let mut rest = piece;
        let heard = hear(&mut self.theirs, &mut rest);
        // It may have no room for all of it.
        self.come.extend_from_slice(&piece[..piece.len() - rest.len()]);
        let (mut bytes, mut at, mut has_closed, mut error) = (Vec::new(), 0, false, None);
        while !has_closed && error.is_none() {
            let length = self.come.len() - at;
            match self.ours.open(&mut self.come[at..], &mut self.out) {
                Ok(None) => break,
                Ok(Some((opened, record))) => {
                    assert!(opened > 0 && opened <= length);
                    at += opened;
                    self.held = if record == Opened::Nothing { self.held + opened } else { 0 };
                    match record {
                        Opened::Data(data) => bytes.extend_from_slice(data),
                        Opened::Nothing => {}
                        Opened::Closed => has_closed = true,
                    }
                }
                Err(fault) => error = Some(fault),
            }
        }
        self.come.drain(..at);
        assert_eq!(bytes, heard.bytes, "bytes, {error:?} and {:?}", heard.error);
        if let Some(error) = &error {
            let mut again = [23, 3, 3, 0, 1, 0];
            assert_eq!(self.ours.open(&mut again, &mut self.out).as_ref(), Err(error));
        }
        self.is_over = error.is_some() || heard.error.is_some() || has_closed;
        match (error, heard.error) {
            (None, None) => {
                assert_eq!(has_closed, heard.has_closed);
                self.compare("answers");
            }
            (Some(_), Some(_)) => {}
            // Ours does not wait for the whole of a message that it does not want.
            (Some(error), None) => {
                let refuses =
                    |_| hear(&mut self.theirs, &mut peer.zeros().as_slice()).error.is_some();
                assert!((0..6).any(refuses), "{error:?} is an error of ours alone");
            }
            // But it waits for the whole of a header, and does not read a greeting that it declines.
            (None, Some(error)) => {
                if self.come.len() < 5 && !has_closed {
                    self.come.resize(5, 0);
                    let opened = self.ours.open(&mut self.come, &mut self.out);
                    assert!(opened.is_err(), "{error:?} is an error of theirs alone");
                    return;
                }
                // The library never gives back the room of a record of messages that is empty, and has room
                // for the records of a message, while ours counts what it holds.
                let is_full = matches!(&error, Error::General(full) if full == FULL);
                let is_one_of_many = self.held + self.come.len() >= LONGEST_MESSAGE;
                let is_behind_empty_ones =
                    peer.empty > 0 && peer.empty + self.held + self.come.len() >= LONGEST_RECORD;
                let may_differ = (is_full && (is_one_of_many || is_behind_empty_ones))
                    || (self.is_old_server && matches!(error, Error::InvalidMessage(_)));
                assert!(may_differ, "{error:?} is an error of theirs alone");
            }
        }
    }

    fn seal(&mut self, unit: &[u8]) {
        self.ours.seal(unit.into(), &mut self.out).expect("room");
        self.theirs.writer().write_all(unit).expect("room");
        self.compare("units");
    }

    fn close(&mut self) {
        // New keys that are owed are announced before data; the library does it before the alert, too.
        self.seal(&[3]);
        self.ours.close(&mut self.out).expect("room");
        self.theirs.send_close_notify();
        self.compare("close_notify");
        self.is_over = true;
    }

    fn compare(&mut self, what: &str) {
        let ours: Vec<u8> = self.out.drain(..).flatten().collect();
        assert!(ours == sent(&mut self.theirs), "{what} differ");
    }
}

/// Takes from `piece` what `connection` reads of it.
fn hear(connection: &mut Connection, piece: &mut &[u8]) -> Heard {
    let mut heard = Heard { bytes: Vec::new(), has_closed: false, error: None };
    while !piece.is_empty() && heard.error.is_none() && !heard.has_closed {
        let read = connection.read_tls(piece).map_err(|full| Error::General(full.to_string()));
        match read.and_then(|_| connection.process_new_packets()) {
            Ok(state) => heard.has_closed = state.peer_has_closed(),
            Err(error) => heard.error = Some(error),
        }
        // Until it would wait, or has ended.
        let _ = connection.reader().read_to_end(&mut heard.bytes);
    }
    heard
}

fn sent(connection: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).expect("memory");
    }
    bytes
}

fn hear_all(handshake: &mut Handshake, mut bytes: Vec<u8>) -> Vec<u8> {
    let mut out = VecDeque::new();
    let done = handshake.hear(&mut bytes, &mut out).expect("a handshake");
    assert_eq!(done, bytes.len());
    out.into_iter().flatten().collect()
}

/// Who seals what the input says.
struct Peer {
    sealer: Box<dyn MessageEncrypter>,
    sealed: u64,
    /// Bytes of records that say they hold messages, and are empty.
    empty: usize,
    suite: SupportedCipherSuite,
    update: Box<dyn FnMut() -> ConnectionTrafficSecrets>,
    last: Vec<u8>,
    wire: Vec<u8>,
}

impl Peer {
    fn new(handshake: Handshake, suite: SupportedCipherSuite) -> Self {
        let new_keys = "new keys";
        let (secrets, update): (_, Box<dyn FnMut() -> _>) = match handshake {
            Handshake::Server(server) => {
                let (secrets, mut keys) = server.dangerous_into_kernel_connection().expect("keys");
                (secrets, Box::new(move || keys.update_tx_secret().expect(new_keys).1))
            }
            Handshake::Client(client) => {
                let (secrets, mut keys) = client.dangerous_into_kernel_connection().expect("keys");
                (secrets, Box::new(move || keys.update_tx_secret().expect(new_keys).1))
            }
        };
        let (sealed, keys) = secrets.tx;
        let sealer = sealer(suite, keys);
        Peer { sealer, sealed, empty: 0, suite, update, last: Vec::new(), wire: Vec::new() }
    }

    fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let plain = OutboundPlainMessage {
            typ: ContentType::from(kind),
            version: ProtocolVersion::TLSv1_2,
            payload: content.into(),
        };
        let record = self.sealer.encrypt(plain, self.sealed).expect("a record").encode();
        self.sealed += 1;
        let is_padded = kind == 0 && content.first() == Some(&22);
        if (kind == 22 && content.is_empty()) || is_padded && content[1..].iter().all(|it| *it == 0)
        {
            self.empty += record.len();
        }
        record
    }

    fn zeros(&mut self) -> Vec<u8> {
        let kind = ContentType::Handshake.into();
        self.seal(kind, &[0; LONGEST_MESSAGE / 4 + 1])
    }

    /// The next thing that happens.
    fn act(&mut self, ends: &mut Ends, choices: &mut Choices<'_>) {
        let is_new = matches!(self.suite, SupportedCipherSuite::Tls13(_));
        let record = match choices.byte() % 16 {
            0 | 1 => {
                let length = usize::from(choices.byte());
                self.seal(23, choices.bytes(length))
            }
            // About as long as a record may be.
            2 => {
                let length = (1 << 14) - 2 + usize::from(choices.byte() % 6);
                self.seal(20 + choices.byte() % 4, &vec![1; length])
            }
            // Padded, or an end that is all padding.
            3 if is_new => {
                let zeros = usize::from(choices.word() % 16_500);
                let length = usize::from(choices.byte() % 20);
                let mut content = choices.bytes(length).to_vec();
                content.push(20 + choices.byte() % 6);
                content.resize(content.len() + zeros, 0);
                self.seal(0, &content)
            }
            4 => {
                let length = usize::from(choices.byte() % 8);
                self.seal(21, choices.bytes(length))
            }
            5 => {
                let alert =
                    [1 + choices.byte() % 3, [0, 90, 100, 20][usize::from(choices.byte() % 4)]];
                self.seal(21, &alert)
            }
            // Messages, whole and in pieces.
            6 | 7 => {
                let length = usize::from(choices.byte());
                self.seal(22, choices.bytes(length))
            }
            8 | 9 if is_new => {
                let first = usize::from(choices.byte() % 8);
                let message = [24, 0, 0, 1, choices.byte() % 2];
                let (before, behind) = message.split_at(first.min(5));
                let begun = (!before.is_empty()).then(|| self.seal(22, before));
                let ended = (!behind.is_empty()).then(|| self.seal(22, behind));
                self.sealer = sealer(self.suite, (self.update)());
                self.sealed = 0;
                [begun, ended].into_iter().flatten().flatten().collect()
            }
            8 => self.seal(22, &[choices.byte() % 2, 0, 0, choices.byte() % 2]),
            10 => {
                let length = 1 + usize::from(choices.byte());
                let times = usize::from(choices.byte() % 40);
                let kind = 21 + choices.byte() % 3;
                let content = choices.bytes(length % 3);
                (0..times).flat_map(|_| self.seal(kind, content)).collect()
            }
            11 => self.last.clone(),
            // A number is left out.
            12 => {
                self.sealed += 1;
                Vec::new()
            }
            13 => {
                let length = usize::from(choices.byte());
                choices.bytes(length).to_vec()
            }
            14 => {
                let length = usize::from(choices.word() % 17_000);
                ends.seal(&vec![3; length]);
                return;
            }
            _ => {
                if choices.byte() % 8 == 0 {
                    ends.close();
                    return;
                }
                let kind = choices.byte();
                let length = usize::from(choices.byte() % 16);
                self.seal(kind, choices.bytes(length))
            }
        };
        self.last = record;
        let mut record = self.last.clone();
        if choices.byte() % 8 == 7 && !record.is_empty() {
            let at = usize::from(choices.word());
            // The header as often as the rest.
            let at = if at % 2 == 0 { at / 2 % 5 } else { at / 2 % record.len() };
            match choices.byte() % 4 {
                0 => record.truncate(at.max(1)),
                1 => record.insert(at.min(record.len()), choices.byte()),
                _ => {
                    if let Some(byte) = record.get_mut(at) {
                        *byte ^= choices.byte();
                    }
                }
            }
        }
        // The library does not look at what a sealed record of TLS 1.3 says it is.
        if is_new && matches!(record.first(), Some(21 | 22)) {
            record[0] = 23;
        }
        self.wire.extend(record);
    }
}

fn sealer(
    suite: SupportedCipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Box<dyn MessageEncrypter> {
    let (key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
        _ => panic!("another cipher"),
    };
    match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            let (fixed, explicit) =
                iv.as_ref().split_at(suite.aead_alg.key_block_shape().fixed_iv_len);
            suite.aead_alg.encrypter(key, fixed, explicit)
        }
    }
}

/// What is different each time elsewhere.
#[derive(Debug)]
struct Same;

impl SecureRandom for Same {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        buffer.fill(7);
        Ok(())
    }
}

impl SupportedKxGroup for Same {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Same))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl ActiveKeyExchange for Same {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, Error> {
        Ok(SharedSecret::from(&[7; 32][..]))
    }

    fn pub_key(&self) -> &[u8] {
        &[7; 32]
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl SigningKey for Same {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(Same))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Same {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(vec![7; 64])
    }

    fn scheme(&self) -> SignatureScheme {
        SCHEME
    }
}

impl ServerCertVerifier for Same {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SCHEME]
    }
}
