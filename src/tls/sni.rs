//! Server names (SNI, RFC 6066, section 3) that name no host: `host:port`, `[::1]`, `*.x`.
//!
//! Clients send them and other servers ignore them, but rustls ends the handshake. There is only
//! one certificate here, so the name does not matter: the library is shown the ClientHello with the
//! extension under an unknown number, which it skips.
//!
//! Both ends hash every byte of the handshake (RFC 8446, section 4.4.1; RFC 5246, section 7.4.9),
//! and the client's hash is of what it sent. So the library's hashes must see the true bytes:
//! [`Honest`] puts them back, on the thread and for the time in which the library is shown changed
//! ones ([`ClientHello::show`]). What is hashed, signed and checked is what went over the wire.
//!
//! Agents that offer a protocol of theirs (ALPN, RFC 7301) are served with settings of their own. These are
//! chosen here, before the library has seen a byte.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use futures_rustls::pki_types::ServerName;
use futures_rustls::rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};
use futures_rustls::rustls::{
    CipherSuiteCommon, ServerConfig, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite,
};

use crate::limits;

/// The number that the extension is given for the library: IANA has assigned none like it.
const NOBODYS: [u8; 2] = [0xff, 0x5a];

/// Longest ClientHello that is examined; the library accepts none that is longer.
const LONGEST: usize = 64 * 1024;

/// ClientHellos of one client: it sends a second one when it is asked to try again
/// (HelloRetryRequest), at most once (RFC 8446, section 4.1.4).
const GREETINGS: usize = 2;

/// A record's header (RFC 8446, section 5.1), and its two types that matter here.
const HEADER: usize = 5;
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;

/// The numbers of the extensions that matter here (RFC 6066, RFC 7301).
const SERVER_NAME: [u8; 2] = [0, 0];
const PROTOCOLS: [u8; 2] = [0, 16];

thread_local! {
    /// The beginnings of ClientHellos as the library is shown them, with the place of the two bytes
    /// that were changed.
    static SHOWN: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What a client sends first, on its way to the library. Each record is examined once, when it is
/// complete, however many pieces it comes in.
#[derive(Default)]
pub struct ClientHello {
    /// What is held until the ClientHello is complete; with its records, at most as much as a
    /// stranger may send.
    held: Vec<u8>,
    /// How much of it goes on to the library: all before the ClientHello that is not complete.
    passes: usize,
    /// How much of it has been examined: complete records.
    looked: usize,
    /// Length of the ClientHello so far, without the records' headers, and its first bytes: type
    /// and length.
    gathered: usize,
    beginning: [u8; 4],
    /// The ClientHellos that were changed, up to the last changed byte: at most [`GREETINGS`].
    shown: Vec<Vec<u8>>,
    /// The settings for those that offer the protocol in them, until that is decided.
    named: Option<Arc<ServerConfig>>,
    /// Whether this one does.
    is_named: bool,
    over: bool,
}

impl ClientHello {
    /// Who offers the protocol in `named` is to be served with these settings.
    pub fn of_maybe(named: Option<Arc<ServerConfig>>) -> Self {
        ClientHello { named, ..ClientHello::default() }
    }

    /// The settings for this client, instead of those for everybody: once, before anything has been passed on.
    pub fn take_named(&mut self) -> Option<Arc<ServerConfig>> {
        self.named.take_if(|_| self.is_named)
    }

    /// Takes bytes from the client; gives those that go on to the library now.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        // The buffer is not doubled: thousands of connections may hold one.
        if self.held.capacity() - self.held.len() < bytes.len() {
            self.held.reserve_exact(bytes.len().next_multiple_of(limits::STRANGER_STEP));
        }
        self.held.extend(bytes);
        while !self.over {
            match self.step() {
                Step::Unfinished => break,
                Step::Part => continue,
                Step::Between => self.over = self.shown.is_empty(),
                Step::ClientHello => {
                    let message = self.message();
                    let names = self.named.iter().flat_map(|named| &named.alpn_protocols);
                    self.is_named |= names.into_iter().any(|name| offers(&message, name));
                    if !self.is_named {
                        // The first one decides: behind it the handshake has begun.
                        self.named = None;
                    }
                    match nameless(&message) {
                        Some(at) => self.change(message, at),
                        None => self.over = true,
                    }
                }
                Step::Other => self.over = true,
            }
            self.passes = self.looked;
        }
        if self.over {
            return std::mem::take(&mut self.held);
        }
        if self.passes == 0 {
            return Vec::new();
        }
        let rest = self.held.split_off(self.passes);
        self.looked -= std::mem::take(&mut self.passes);
        std::mem::replace(&mut self.held, rest)
    }

    /// Examines the next record, if it is complete.
    fn step(&mut self) -> Step {
        let rest = &self.held[self.looked..];
        let Some((&[kind, major, _, high, low], body)) = rest.split_first_chunk::<HEADER>() else {
            // A few bytes are enough to see that it is not TLS; the library should know at once.
            let strange =
                rest.first().is_some_and(|kind| ![HANDSHAKE, CHANGE_CIPHER_SPEC].contains(kind));
            return if strange { Step::Other } else { Step::Unfinished };
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if major != 3 || (kind != HANDSHAKE && (kind, length) != (CHANGE_CIPHER_SPEC, 1)) {
            return Step::Other;
        }
        let Some(body) = body.get(..length) else { return Step::Unfinished };
        self.looked += HEADER + length;
        if kind == CHANGE_CIPHER_SPEC {
            return if self.gathered == 0 { Step::Between } else { Step::Other };
        }
        for (place, byte) in self.beginning.iter_mut().skip(self.gathered).zip(body) {
            *place = *byte;
        }
        self.gathered += length;
        // ClientHello, and its length in three bytes.
        match self.beginning[..self.gathered.min(4)] {
            [kind, ..] if kind != 1 => Step::Other,
            [_, a, b, c] => {
                let whole = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
                match self.gathered {
                    length if length == whole => Step::ClientHello,
                    length if length > whole || whole > LONGEST => Step::Other,
                    _ => Step::Part,
                }
            }
            _ if body.is_empty() => Step::Other,
            _ => Step::Part,
        }
    }

    /// The ClientHello so far.
    fn message(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.gathered);
        let mut records = &self.held[self.passes..self.looked];
        while let Some((&[_, _, _, high, low], rest)) = records.split_first_chunk::<HEADER>() {
            let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
            message.extend(&rest[..length]);
            records = &rest[length..];
        }
        message
    }

    /// Gives the extension at `at` of the complete ClientHello the unknown number.
    fn change(&mut self, mut shown: Vec<u8>, at: usize) {
        let records = &mut self.held[self.passes..];
        for (offset, byte) in NOBODYS.into_iter().enumerate() {
            if let Some(place) = place(records, at + offset) {
                records[place] = byte;
            }
        }
        self.gathered = 0;
        shown.truncate(at);
        shown.extend(NOBODYS);
        self.shown.push(shown);
        self.over = self.shown.len() == GREETINGS;
    }

    /// Whether everything is passed on as it comes, and nothing was changed.
    pub fn is_done(&self) -> bool {
        self.over && self.shown.is_empty()
    }

    /// Runs what the library does with what it was shown.
    pub fn show<T>(&mut self, library: impl FnOnce() -> T) -> T {
        SHOWN.with_borrow_mut(|shown| std::mem::swap(shown, &mut self.shown));
        let outcome = library();
        SHOWN.with_borrow_mut(|shown| std::mem::swap(shown, &mut self.shown));
        outcome
    }
}

/// What the next record of a client is.
enum Step {
    /// Not complete, or too short to tell.
    Unfinished,
    /// A part of a ClientHello, but not its last.
    Part,
    /// A record that may stand before a second ClientHello.
    Between,
    /// The last part of a ClientHello.
    ClientHello,
    /// None of these.
    Other,
}

/// Where among the records `bytes` the byte `offset` of their message stands.
fn place(bytes: &[u8], mut offset: usize) -> Option<usize> {
    let mut start = 0;
    loop {
        let length =
            usize::from(u16::from_be_bytes([*bytes.get(start + 3)?, *bytes.get(start + 4)?]));
        if offset < length {
            return Some(start + HEADER + offset);
        }
        offset -= length;
        start += HEADER + length;
    }
}

/// Where the server name extension begins, if its name names no host.
fn nameless(message: &[u8]) -> Option<usize> {
    let (at, content) = extension(message, SERVER_NAME)?;
    // One host name; the library judges anything else.
    let (names, _) = counted::<2>(content)?;
    let (&[0], name) = names.split_first_chunk::<1>()? else { return None };
    let (name, more) = counted::<2>(name)?;
    let is_name = ServerName::try_from(name).is_ok();
    (more.is_empty() && !is_name).then_some(at)
}

/// Whether this protocol is among those that the client offers.
fn offers(message: &[u8], protocol: &[u8]) -> bool {
    let names = extension(message, PROTOCOLS).and_then(|(_, content)| counted::<2>(content));
    let Some((mut names, _)) = names else { return false };
    while let Some((name, rest)) = counted::<1>(names) {
        if name == protocol {
            return true;
        }
        names = rest;
    }
    false
}

/// Where the extension of this number begins, and what it holds.
fn extension(message: &[u8], wanted: [u8; 2]) -> Option<(usize, &[u8])> {
    // Type and length, version, random.
    let rest = message.get(4 + 2 + 32..)?;
    let (_session, rest) = counted::<1>(rest)?;
    let (_suites, rest) = counted::<2>(rest)?;
    let (_compression, rest) = counted::<1>(rest)?;
    let (mut extensions, _) = counted::<2>(rest)?;
    let all = extensions.len();
    while !extensions.is_empty() {
        let at = message.len() - rest.len() + 2 + (all - extensions.len());
        let (number, after) = extensions.split_first_chunk::<2>()?;
        let (content, after) = counted::<2>(after)?;
        extensions = after;
        if *number == wanted {
            return Some((at, content));
        }
    }
    None
}

/// What stands behind a length of `N` bytes, and what follows it.
fn counted<const N: usize>(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<N>()?;
    rest.split_at_checked(length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
}

/// The suites with hashes that see the true bytes. They live as long as the process, as the
/// library's do.
pub(super) fn honest(suites: &[SupportedCipherSuite]) -> Vec<SupportedCipherSuite> {
    static SUITES: OnceLock<Vec<SupportedCipherSuite>> = OnceLock::new();
    let all = SUITES.get_or_init(|| {
        let common = |common: &CipherSuiteCommon| CipherSuiteCommon {
            hash_provider: Box::leak(Box::new(Honest(common.hash_provider))),
            ..*common
        };
        let honest = |suite: &SupportedCipherSuite| match suite {
            SupportedCipherSuite::Tls13(suite) => {
                let suite = Tls13CipherSuite { common: common(&suite.common), ..**suite };
                SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
            }
            SupportedCipherSuite::Tls12(suite) => {
                let suite = Tls12CipherSuite { common: common(&suite.common), ..**suite };
                SupportedCipherSuite::Tls12(Box::leak(Box::new(suite)))
            }
        };
        suites.iter().map(honest).collect()
    });
    all.clone()
}

/// A hash of the true bytes.
struct Honest(&'static dyn Hash);

impl Hash for Honest {
    fn start(&self) -> Box<dyn Context> {
        Box::new(Honestly(self.0.start()))
    }

    fn hash(&self, data: &[u8]) -> Output {
        self.0.hash(data)
    }

    fn output_len(&self) -> usize {
        self.0.output_len()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.0.algorithm()
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct Honestly(Box<dyn Context>);

impl Context for Honestly {
    fn fork_finish(&self) -> Output {
        self.0.fork_finish()
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Honestly(self.0.fork()))
    }

    fn finish(self: Box<Self>) -> Output {
        self.0.finish()
    }

    fn update(&mut self, data: &[u8]) {
        let changed = SHOWN
            .with_borrow(|shown| shown.iter().find(|shown| data.starts_with(shown)).map(Vec::len));
        match changed {
            None => self.0.update(data),
            Some(end) => {
                self.0.update(&data[..end - NOBODYS.len()]);
                self.0.update(&[0, 0]);
                self.0.update(&data[end..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A greeting for `name`, in records of at most `record` bytes.
    fn greeting(name: &[u8], record: usize) -> Vec<u8> {
        let counted = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        let name = counted(&[&[0][..], &counted(name)].concat());
        let extensions = [&[0, 23, 0, 0, 0, 0][..], &counted(&name), &[0, 43, 0, 1, 7]].concat();
        let mut body = vec![3; 34];
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(counted(&extensions));
        let mut message = vec![1, 0];
        message.extend(counted(&body));
        let records =
            message.chunks(record).map(|part| [&[HANDSHAKE, 3, 1][..], &counted(part)].concat());
        records.collect::<Vec<_>>().concat()
    }

    #[test]
    fn names_of_hosts_and_addresses_pass_as_they_are() {
        for name in ["example.org", "x", "a-b.c", "192.0.2.1"] {
            let bytes = greeting(name.as_bytes(), 1000);
            let mut passing = ClientHello::default();
            assert_eq!(passing.pass(&bytes), bytes, "{name}");
            assert!(passing.is_done());
        }
    }

    #[test]
    fn names_of_nothing_get_nobodys_number_however_they_arrive() {
        let long = "x".repeat(64);
        for name in ["host:443", "[::1]", "*.example.org", "a..b", &long, "", "caf\u{e9}", " "] {
            for record in [1, 7, 50, 1000] {
                let bytes = greeting(name.as_bytes(), record);
                for step in [1, 3, bytes.len()] {
                    let mut passing = ClientHello::default();
                    let passed = bytes.chunks(step).flat_map(|part| passing.pass(part));
                    let passed: Vec<u8> = passed.collect();
                    let others = passed.iter().zip(&bytes).filter(|(one, other)| one != other);
                    assert_eq!(passed.len(), bytes.len(), "{name}");
                    assert_eq!(others.count(), 2, "{name}");
                    assert!(!passing.is_done());
                }
            }
        }
    }

    #[test]
    fn each_record_is_looked_at_once_however_many_pieces_it_comes_in() {
        for length in [100, 1000, 4000] {
            let bytes = greeting(&vec![b'*'; length], 1);
            let records = bytes.len() / (HEADER + 1);
            for piece in [1, 4, 1000] {
                let (mut passing, mut steps, mut looked) = (ClientHello::default(), 0, 0);
                for part in bytes.chunks(piece) {
                    passing.held.extend(part);
                    loop {
                        steps += 1;
                        match passing.step() {
                            Step::Part => looked += 1,
                            Step::ClientHello | Step::Unfinished => break,
                            Step::Between | Step::Other => panic!("it is a greeting"),
                        }
                    }
                }
                assert_eq!((looked + 1, passing.gathered), (records, records));
                assert!(steps <= records + bytes.len().div_ceil(piece), "{steps} steps");
            }
        }
    }

    #[test]
    fn who_offers_the_protocol_is_served_by_its_settings_and_nobody_else() {
        let folder = crate::testing::folder::Folder::new();
        let identity = crate::tls::Identity::load_or_make(&folder, "localhost").unwrap();
        let named = identity.tunnel_again_config().unwrap();
        let trusted = crate::tls::Trusted::File(folder.join(crate::tls::CERTIFICATE));
        let client = crate::tls::client_config(&trusted, None).unwrap();
        let ours: &[u8] = b"iofog-tunnel";
        for (offered, is_named) in
            [(&[][..], false), (&[&b"h2"[..], b"iofog"], false), (&[b"h2", ours], true)]
        {
            let mut config = futures_rustls::rustls::ClientConfig::clone(&client);
            config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
            for name in ["localhost", "a-name"] {
                let name = name.try_into().unwrap();
                let config = Arc::new(config.clone());
                let mut client =
                    futures_rustls::rustls::ClientConnection::new(config, name).unwrap();
                let mut sent = Vec::new();
                client.write_tls(&mut sent).unwrap();
                let mut passing = ClientHello::of_maybe(Some(named.clone()));
                let (before, last) = sent.split_at(sent.len() - 1);
                assert!(passing.pass(before).is_empty() && passing.take_named().is_none());
                assert_eq!(passing.pass(last), sent);
                assert_eq!(passing.take_named().is_some(), is_named, "{offered:?}");
                assert!(passing.take_named().is_none(), "it is decided once");
                // The second one of a client is in the middle of the first one's handshake.
                let mut passing = ClientHello::of_maybe(Some(named.clone()));
                let first = greeting(b"host:443", 1000);
                assert_eq!(passing.pass(&first).len(), first.len());
                assert_eq!(passing.pass(&sent), sent);
                assert!(passing.take_named().is_none(), "{offered:?} in the second");
            }
        }
    }

    #[test]
    fn no_more_is_changed_than_two_greetings() {
        let one = greeting(b"host:443", 1000);
        let between = [CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1].repeat(500);
        let sent = [&one[..], &between, &one, &one, &one].concat();
        for piece in [1, 100, sent.len()] {
            let mut passing = ClientHello::default();
            let passed = sent.chunks(piece).flat_map(|part| passing.pass(part));
            let passed: Vec<u8> = passed.collect();
            let others = passed.iter().zip(&sent).filter(|(one, other)| one != other);
            assert_eq!((passed.len(), others.count()), (sent.len(), 2 * GREETINGS));
            assert_eq!(passing.shown.len(), GREETINGS);
        }
    }

    #[test]
    fn what_is_no_greeting_passes_at_once() {
        for bytes in
            [&b"GET / HTTP/1.1\r\n"[..], b"x", b"\x16\x02\x00\x00\x05", b"\x15\x03\x03\x00\x02"]
        {
            let mut passing = ClientHello::default();
            assert_eq!(passing.pass(bytes), bytes);
            assert!(passing.is_done());
        }
        let whole = greeting(b"a:1", 50);
        for cut in 0..whole.len() {
            // Never more than has come, never a panic.
            let mut passing = ClientHello::default();
            assert!(passing.pass(&whole[..cut]).is_empty());
            for at in [cut, cut / 2] {
                let mut broken = whole.clone();
                broken[at] ^= 0xff;
                let _ = ClientHello::default().pass(&broken);
            }
        }
    }

    #[test]
    fn hashes_see_the_true_bytes() {
        let suites = crate::tls::provider::provider(true).cipher_suites;
        let SupportedCipherSuite::Tls13(suite) = honest(&suites)[0] else { panic!("TLS 1.3") };
        let (hash, plain) =
            (suite.common.hash_provider, suites[0].tls13().unwrap().common.hash_provider);
        let sent = greeting(b"host:443", 1000);
        let mut passing = ClientHello::default();
        let shown = passing.pass(&sent);
        let hashed = |hash: &dyn Hash, message: &[u8]| {
            let mut context = hash.start();
            context.update(&message[HEADER..]);
            context.fork().finish().as_ref().to_vec()
        };
        let honest = passing.show(|| hashed(hash, &shown));
        assert_eq!(honest, hashed(plain, &sent));
        assert_ne!(hashed(hash, &shown), honest, "nothing is shown now");
    }
}
