//! What goes through TLS after the handshake: records, opened where they lie and sealed one by one, and
//! the few messages that may still come (RFC 8446, sections 4.6, 5 and 6; RFC 5246, sections 6 and 7.2).
//!
//! The library has shaken hands; it keeps the secrets from which keys are made, its ciphers open and seal,
//! and a client's tickets go to it. What its own connection does with that, and with more copies and memory, stands
//! here: numbers of records, alerts, key updates (`docs/decisions/tls-without-copies.md`).

use std::collections::VecDeque;
use std::mem::take;

use futures_rustls::rustls::client::ClientConnectionData;
use futures_rustls::rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
    OutboundPlainMessage,
};
use futures_rustls::rustls::kernel::KernelConnection;
use futures_rustls::rustls::server::ServerConnectionData;
use futures_rustls::rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets,
    HandshakeType, InvalidMessage, PeerMisbehaved, ProtocolVersion, SupportedCipherSuite,
};

/// A record's header (RFC 8446, section 5.1).
pub const HEADER: usize = 5;

/// The type of a record that carries data, or in TLS 1.3 anything that is encrypted.
pub const APPLICATION_DATA: u8 = 23;

/// Bytes of data in a record, at most.
const LONGEST: usize = 16 * 1024;

/// A record's body is shorter than this (RFC 5246, section 6.2.3; TLS 1.3 allows less).
const LONGEST_BODY: usize = LONGEST + 2048;

/// Longest message after the handshake; the library accepts no longer ones in it, either.
const LONGEST_MESSAGE: usize = 0xffff;

/// Records without content, and key updates without data, that a peer may send one after the other.
const EMPTY: u8 = 32;
/// Warnings, and wishes for another handshake, in the life of a connection.
const WARNINGS: u8 = 4;
const RENEGOTIATIONS: u8 = 1;

/// The two levels of alerts (RFC 5246, section 7.2).
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// What goes through a connection, from the end of the handshake.
pub struct Records {
    schedule: Schedule,
    opener: Box<dyn MessageDecrypter>,
    /// Records opened and sealed with the keys in use, which number the next one.
    opened: u64,
    sealer: Box<dyn MessageEncrypter>,
    sealed: u64,
    /// The beginning of a message that comes in several records.
    message: Vec<u8>,
    /// What the peer has sent in a row: records without content, and key updates without data.
    empty: u8,
    updates: u8,
    /// What it has ever sent.
    warnings: u8,
    renegotiations: u8,
    /// Whether it has asked for new keys, and nothing was sealed since.
    owes_update: bool,
    /// Whether the peer was sent its last record: close_notify, or an alert that ends the connection.
    said: bool,
    has_ticket: bool,
    /// Why nothing is opened or sealed any more.
    fault: Option<Box<Error>>,
}

/// Where keys come from.
enum Schedule {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

/// What a record was.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// A unit of data, perhaps without a byte.
    Data(&'a [u8]),
    /// Something for the connection itself.
    Nothing,
    /// close_notify: nothing comes behind it.
    Closed,
}

impl Records {
    pub(super) fn server(
        secrets: ExtractedSecrets,
        schedule: KernelConnection<ServerConnectionData>,
    ) -> Result<Self, Error> {
        Self::new(secrets, Schedule::Server(schedule))
    }

    pub(super) fn client(
        secrets: ExtractedSecrets,
        schedule: KernelConnection<ClientConnectionData>,
    ) -> Result<Self, Error> {
        Self::new(secrets, Schedule::Client(schedule))
    }

    fn new(secrets: ExtractedSecrets, schedule: Schedule) -> Result<Self, Error> {
        let suite = schedule.suite();
        let ((opened, rx), (sealed, tx)) = (secrets.rx, secrets.tx);
        Ok(Records {
            opener: opener(suite, rx)?,
            opened,
            sealer: sealer(suite, tx)?,
            sealed,
            schedule,
            message: Vec::new(),
            empty: 0,
            updates: 0,
            warnings: 0,
            renegotiations: 0,
            owes_update: false,
            said: false,
            has_ticket: false,
            fault: None,
        })
    }

    /// Whether the server has given a ticket for another session (TLS 1.3).
    pub fn has_ticket(&self) -> bool {
        self.has_ticket
    }

    /// Opens the record at the front of `bytes` there, and gives its length on the wire; `None` if it is
    /// not complete. What has to be answered at once is put behind `out`.
    ///
    /// # Errors
    /// What is wrong with it; an alert for the peer is in `out` then, and every further record has the
    /// same fault.
    pub fn open<'a>(
        &mut self,
        bytes: &'a mut [u8],
        out: &mut VecDeque<Vec<u8>>,
    ) -> Result<Option<(usize, Opened<'a>)>, Error> {
        if let Some(fault) = &self.fault {
            return Err(Error::clone(fault));
        }
        let outcome = match record(bytes) {
            Ok(None) => return Ok(None),
            Ok(Some(length)) => self.open_whole(&mut bytes[..length], out).map(|it| (length, it)),
            Err(error) => Err(error),
        };
        outcome.map(Some).inspect_err(|error| {
            if let Some(alert) = alert(error) {
                // The first fault is the one to be told.
                let _ = self.alert(FATAL, alert, out);
            }
            self.fault = Some(Box::new(error.clone()));
        })
    }

    fn open_whole<'a>(
        &mut self,
        record: &'a mut [u8],
        out: &mut VecDeque<Vec<u8>>,
    ) -> Result<Opened<'a>, Error> {
        let (header, body) = record.split_at_mut(HEADER);
        let kind = ContentType::from(header[0]);
        let version = ProtocolVersion::from(u16::from_be_bytes([header[1], header[2]]));
        // Nothing is in the clear any more; in TLS 1.3 the true type is inside.
        let is_sealed = kind != ContentType::ChangeCipherSpec
            && (kind == ContentType::ApplicationData || !self.schedule.is_new());
        if !is_sealed {
            return Err(unexpected(kind));
        }
        let number = self.opened;
        self.opened = number.checked_add(1).ok_or(Error::DecryptError)?;
        let plain = self.opener.decrypt(InboundOpaqueMessage::new(kind, version, body), number)?;
        let content = plain.payload;
        if plain.typ != ContentType::Handshake && !self.message.is_empty() {
            return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
        }
        self.empty = if content.is_empty() {
            count(self.empty, EMPTY, PeerMisbehaved::TooManyEmptyFragments)?
        } else {
            0
        };
        match plain.typ {
            ContentType::ApplicationData => {
                self.updates = 0;
                Ok(Opened::Data(content))
            }
            ContentType::Alert => self.hear_alert(content, out),
            ContentType::Handshake => self.hear_messages(content, out).map(|()| Opened::Nothing),
            kind => Err(unexpected(kind)),
        }
    }

    fn hear_alert<'a>(
        &mut self,
        content: &[u8],
        out: &mut VecDeque<Vec<u8>>,
    ) -> Result<Opened<'a>, Error> {
        let &[level, what] = content else {
            return Err(InvalidMessage::TrailingData("AlertMessagePayload").into());
        };
        let what = AlertDescription::from(what);
        match level {
            WARNING | FATAL if what == AlertDescription::CloseNotify => Ok(Opened::Closed),
            WARNING => {
                let fault = PeerMisbehaved::TooManyWarningAlertsReceived;
                self.warnings = count(self.warnings, WARNINGS, fault)?;
                // TLS 1.3 has no other warning, and needs no answer to this one.
                if self.schedule.is_new() && what != AlertDescription::UserCanceled {
                    self.alert(FATAL, AlertDescription::DecodeError, out)?;
                    return Err(Error::AlertReceived(what));
                }
                Ok(Opened::Nothing)
            }
            FATAL => Err(Error::AlertReceived(what)),
            _ => {
                self.alert(FATAL, AlertDescription::IllegalParameter, out)?;
                Err(Error::AlertReceived(what))
            }
        }
    }

    /// Messages of the handshake protocol, which may come in pieces.
    fn hear_messages(&mut self, content: &[u8], out: &mut VecDeque<Vec<u8>>) -> Result<(), Error> {
        let mut messages = take(&mut self.message);
        messages.extend_from_slice(content);
        let mut at = 0;
        while let Some((&[kind, a, b, c], rest)) = messages[at..].split_first_chunk::<4>() {
            let kind = HandshakeType::from(kind);
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            // What is not expected is not waited for.
            let expected = self.schedule.expected();
            if !expected.contains(&kind) {
                let expect_types = expected.to_vec();
                return Err(Error::InappropriateHandshakeMessage { expect_types, got_type: kind });
            }
            if length > LONGEST_MESSAGE {
                return Err(InvalidMessage::HandshakePayloadTooLarge.into());
            }
            if kind == HandshakeType::KeyUpdate && length != 1 {
                return Err(InvalidMessage::InvalidKeyUpdate.into());
            }
            if kind == HandshakeType::HelloRequest && length != 0 {
                return Err(InvalidMessage::TrailingData("HelloRequest").into());
            }
            let Some((message, after)) = rest.split_at_checked(length) else { break };
            at += 4 + length;
            match kind {
                HandshakeType::KeyUpdate => self.hear_update(message, after, out)?,
                HandshakeType::NewSessionTicket => {
                    self.schedule.take_ticket(message)?;
                    self.has_ticket = true;
                }
                // The other side wants to shake hands anew.
                _ => {
                    let fault = PeerMisbehaved::TooManyRenegotiationRequests;
                    self.renegotiations = count(self.renegotiations, RENEGOTIATIONS, fault)?;
                    self.alert(WARNING, AlertDescription::NoRenegotiation, out)?;
                }
            }
        }
        messages.drain(..at);
        if !messages.is_empty() {
            self.message = messages;
        }
        Ok(())
    }

    fn hear_update(
        &mut self,
        message: &[u8],
        after: &[u8],
        out: &mut VecDeque<Vec<u8>>,
    ) -> Result<(), Error> {
        if !after.is_empty() {
            return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
        }
        self.updates = count(self.updates, EMPTY, PeerMisbehaved::TooManyKeyUpdateRequests)?;
        match message {
            [0] => {}
            // Answered with what is sealed next, so that many of them have one answer.
            [1] => self.owes_update = true,
            _ => {
                self.alert(FATAL, AlertDescription::IllegalParameter, out)?;
                return Err(InvalidMessage::InvalidKeyUpdate.into());
            }
        }
        let secrets = self.schedule.update(Direction::In)?;
        self.opener = opener(self.schedule.suite(), secrets)?;
        self.opened = 0;
        Ok(())
    }

    /// Seals `unit` and puts it behind `out`, as one record where it fits into one.
    ///
    /// # Errors
    /// What has ended the connection before; in TLS 1.2 also keys that are used up, with an alert in `out`.
    pub fn seal(
        &mut self,
        unit: OutboundChunks<'_>,
        out: &mut VecDeque<Vec<u8>>,
    ) -> Result<(), Error> {
        let mut rest = unit;
        while !rest.is_empty() {
            if let Some(fault) = &self.fault {
                return Err(Error::clone(fault));
            }
            self.renew(out)?;
            let (one, more) = rest.split_at(LONGEST);
            self.put(ContentType::ApplicationData, one, out)?;
            rest = more;
        }
        Ok(())
    }

    /// New keys for what is sealed next, where they are needed or were asked for.
    fn renew(&mut self, out: &mut VecDeque<Vec<u8>>) -> Result<(), Error> {
        // The last record with these keys says so, or that it goes no further.
        let is_used_up = self.sealed + 1 >= limit(self.schedule.suite());
        if !is_used_up && !self.owes_update {
            return Ok(());
        }
        if !self.schedule.is_new() {
            // With close_notify, as the library has it, the peer would take for whole what it has got.
            self.alert(FATAL, AlertDescription::InternalError, out)?;
            self.fault = Some(Box::new(Error::EncryptError));
            return Err(Error::EncryptError);
        }
        let update: &[u8] = &[u8::from(HandshakeType::KeyUpdate), 0, 0, 1, 0];
        self.put(ContentType::Handshake, update.into(), out)?;
        self.owes_update = false;
        let secrets = self.schedule.update(Direction::Out)?;
        self.sealer = sealer(self.schedule.suite(), secrets)?;
        self.sealed = 0;
        Ok(())
    }

    /// Puts close_notify behind `out`, unless the peer knows already that nothing more comes.
    ///
    /// # Errors
    /// As [`Records::seal`].
    pub fn close(&mut self, out: &mut VecDeque<Vec<u8>>) -> Result<(), Error> {
        if self.said {
            return Ok(());
        }
        self.said = true;
        self.put_alert(WARNING, AlertDescription::CloseNotify, out)
    }

    fn alert(
        &mut self,
        level: u8,
        what: AlertDescription,
        out: &mut VecDeque<Vec<u8>>,
    ) -> Result<(), Error> {
        if self.said {
            return Ok(());
        }
        self.said = level == FATAL;
        self.put_alert(level, what, out)
    }

    fn put_alert(
        &mut self,
        level: u8,
        what: AlertDescription,
        out: &mut VecDeque<Vec<u8>>,
    ) -> Result<(), Error> {
        self.put(ContentType::Alert, OutboundChunks::Single(&[level, what.into()]), out)
    }

    fn put(
        &mut self,
        typ: ContentType,
        payload: OutboundChunks<'_>,
        out: &mut VecDeque<Vec<u8>>,
    ) -> Result<(), Error> {
        let version = ProtocolVersion::TLSv1_2;
        let plain = OutboundPlainMessage { typ, version, payload };
        // No number is used twice, whatever comes of it.
        let number = self.sealed;
        self.sealed = number.checked_add(1).ok_or(Error::EncryptError)?;
        out.push_back(self.sealer.encrypt(plain, number)?.encode());
        Ok(())
    }
}

/// Of whom keys are replaced.
#[derive(Clone, Copy)]
enum Direction {
    In,
    Out,
}

impl Schedule {
    fn suite(&self) -> SupportedCipherSuite {
        match self {
            Schedule::Server(server) => server.negotiated_cipher_suite(),
            Schedule::Client(client) => client.negotiated_cipher_suite(),
        }
    }

    /// Whether it is of TLS 1.3.
    fn is_new(&self) -> bool {
        matches!(self.suite(), SupportedCipherSuite::Tls13(_))
    }

    /// What the other side may still send of the handshake protocol.
    fn expected(&self) -> &'static [HandshakeType] {
        match (self, self.is_new()) {
            (Schedule::Server(_), true) => &[HandshakeType::KeyUpdate],
            (Schedule::Client(_), true) => {
                &[HandshakeType::NewSessionTicket, HandshakeType::KeyUpdate]
            }
            (Schedule::Server(_), false) => &[HandshakeType::ClientHello],
            (Schedule::Client(_), false) => &[HandshakeType::HelloRequest],
        }
    }

    fn update(&mut self, direction: Direction) -> Result<ConnectionTrafficSecrets, Error> {
        let updated = match (self, direction) {
            (Schedule::Server(server), Direction::In) => server.update_rx_secret(),
            (Schedule::Server(server), Direction::Out) => server.update_tx_secret(),
            (Schedule::Client(client), Direction::In) => client.update_rx_secret(),
            (Schedule::Client(client), Direction::Out) => client.update_tx_secret(),
        };
        updated.map(|(_, secrets)| secrets)
    }

    fn take_ticket(&mut self, message: &[u8]) -> Result<(), Error> {
        match self {
            Schedule::Client(client) => client.handle_new_session_ticket(message),
            // It is not among those that are expected.
            Schedule::Server(_) => Ok(()),
        }
    }
}

/// Whether `bytes` begin with a complete record, or with what cannot be one.
pub fn is_whole(bytes: &[u8]) -> bool {
    !matches!(record(bytes), Ok(None))
}

/// The length of the record at the front of `bytes`, if it is complete.
fn record(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some((&[kind, major, _, high, low], body)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let fault = match kind {
        20..=23 if major != 3 => InvalidMessage::UnknownProtocolVersion,
        20..=22 if length == 0 => InvalidMessage::InvalidEmptyPayload,
        20..=23 if length >= LONGEST_BODY => InvalidMessage::MessageTooLarge,
        20..=23 => return Ok((body.len() >= length).then_some(HEADER + length)),
        _ => InvalidMessage::InvalidContentType,
    };
    Err(fault.into())
}

/// One more than `sofar`, of which there may be `most`.
fn count(sofar: u8, most: u8, fault: PeerMisbehaved) -> Result<u8, Error> {
    if sofar < most { Ok(sofar + 1) } else { Err(fault.into()) }
}

fn unexpected(got_type: ContentType) -> Error {
    let expect_types = vec![ContentType::ApplicationData, ContentType::Handshake];
    Error::InappropriateMessage { expect_types, got_type }
}

/// What the peer is told of a fault.
fn alert(error: &Error) -> Option<AlertDescription> {
    match error {
        Error::InvalidMessage(_) => Some(AlertDescription::DecodeError),
        Error::PeerSentOversizedRecord => Some(AlertDescription::RecordOverflow),
        Error::DecryptError => Some(AlertDescription::BadRecordMac),
        Error::AlertReceived(_) => None,
        Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => Some(AlertDescription::UnexpectedMessage),
        _ => Some(AlertDescription::InternalError),
    }
}

/// How many records may be sealed with the same keys (RFC 8446, section 5.5).
fn limit(suite: SupportedCipherSuite) -> u64 {
    let common = match suite {
        SupportedCipherSuite::Tls13(suite) => &suite.common,
        SupportedCipherSuite::Tls12(suite) => &suite.common,
    };
    // Numbers of records must not begin anew.
    common.confidentiality_limit.min(u64::MAX - 16)
}

fn opener(
    suite: SupportedCipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageDecrypter>, Error> {
    let (key, iv) = key(secrets)?;
    Ok(match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.decrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
            suite.aead_alg.decrypter(key, &iv.as_ref()[..fixed])
        }
    })
}

fn sealer(
    suite: SupportedCipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageEncrypter>, Error> {
    let (key, iv) = key(secrets)?;
    Ok(match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
            let (fixed, explicit) = iv.as_ref().split_at(fixed);
            suite.aead_alg.encrypter(key, fixed, explicit)
        }
    })
}

fn key(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(Error::General("a cipher that is not known".into())),
    }
}

#[cfg(test)]
mod tests;
