//! A TLS 1.3 client whose records are made by hand (RFC 8446, sections 4.6.3, 5.2 and 7): a TLS
//! library sends no empty records, and no more key updates than it must.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};
use rustls::KeyLog;

use super::tls::forging;
use super::{Link, PATIENCE};

/// The types of what a record holds.
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// What the longest run of key updates may be between two records of data: rustls takes no more.
const UPDATES: usize = 31;

/// The client, whose handshake is done. What comes in is read from `link`, and nothing may be sent
/// through it.
pub struct Forger {
    /// The connection.
    pub link: Link,
    secret: [u8; 32],
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Forger {
    /// Connects to `address`, and shakes hands with a server that shows the certificate in `pem`.
    pub fn connect(address: SocketAddr, pem: &Path) -> io::Result<Self> {
        let log = Arc::new(Secret::default());
        let link = Link::tls(address, &Arc::new(forging(pem, log.clone())))?;
        let secret = log.0.lock().expect("secret").expect("TLS 1.3");
        let (key, iv) = keys(&secret);
        Ok(Forger { link, secret, key, iv, sequence: 0 })
    }

    /// The records of `content` in pieces of `size`; one empty record for none.
    pub fn data(&mut self, content: &[u8], size: usize) -> Vec<u8> {
        if content.is_empty() {
            return self.record(DATA, content);
        }
        content.chunks(size).flat_map(|piece| self.record(DATA, piece)).collect()
    }

    /// At least `length` bytes of key updates with an empty record where one has to be.
    pub fn key_updates(&mut self, length: usize) -> Vec<u8> {
        self.key_updates_and(length, b"")
    }

    /// The same with these bytes where one has to be.
    pub fn key_updates_and(&mut self, length: usize, bytes: &[u8]) -> Vec<u8> {
        let mut wire = Vec::with_capacity(length + 1024);
        while wire.len() < length {
            for _ in 0..UPDATES {
                wire.extend(self.record(HANDSHAKE, &[24, 0, 0, 1, 0]));
                self.secret = expand(&self.secret, b"traffic upd");
                (self.key, self.iv) = keys(&self.secret);
                self.sequence = 0;
            }
            wire.extend(self.record(DATA, bytes));
        }
        wire
    }

    /// At least `length` bytes of empty records.
    pub fn empty_records(&mut self, length: usize) -> Vec<u8> {
        let mut wire = Vec::with_capacity(length + 64);
        while wire.len() < length {
            wire.extend(self.record(DATA, b""));
        }
        wire
    }

    /// Sends what the socket takes now of what was made; gives how much.
    pub fn push(&mut self, wire: &[u8]) -> io::Result<usize> {
        match self.link.socket().write(wire) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        }
    }

    /// Sends what was made; an error when the other end has closed, or takes nothing any more.
    pub fn send(&mut self, mut wire: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !wire.is_empty() {
            wire = &wire[self.push(wire)?..];
            if !wire.is_empty() && !self.link.wait(false, true, deadline) {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let length = (content.len() + 1 + AES_128_GCM.tag_len()) as u16;
        let header = [DATA, 3, 3, (length >> 8) as u8, length as u8];
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence += 1;
        let mut body = [content, &[kind]].concat();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut body).expect("sealed");
        [&header[..], &body].concat()
    }
}

/// Keeps the client's traffic secret of a handshake.
#[derive(Debug, Default)]
struct Secret(Mutex<Option<[u8; 32]>>);

impl KeyLog for Secret {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if label == "CLIENT_TRAFFIC_SECRET_0" {
            *self.0.lock().expect("secret") = secret.try_into().ok();
        }
    }
}

/// HKDF-Expand-Label with no context.
fn expand<const LENGTH: usize>(secret: &[u8], label: &[u8]) -> [u8; LENGTH] {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let length = [(LENGTH >> 8) as u8, LENGTH as u8];
    let label_length = [6 + label.len() as u8];
    let info = [&length[..], &label_length, b"tls13 ", label, &[0]];
    let secret = Prk::new_less_safe(HKDF_SHA256, secret);
    let mut output = [0; LENGTH];
    let expanded = secret.expand(&info, Length(LENGTH)).expect("a short output");
    expanded.fill(&mut output).expect("of this length");
    output
}

fn keys(secret: &[u8]) -> (LessSafeKey, [u8; 12]) {
    let key: [u8; 16] = expand(secret, b"key");
    let key = UnboundKey::new(&AES_128_GCM, &key).expect("key");
    (LessSafeKey::new(key), expand(secret, b"iv"))
}
