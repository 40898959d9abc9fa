//! One end of TLS: records opened as far as the turn goes, and what a stranger may send.

use std::fmt;
use std::io::{self, BufRead};
use std::sync::Arc;

use futures_rustls::rustls::{Connection, ServerConfig, ServerConnection};

use crate::limits;
use crate::net::share::Share;
use crate::runtime::turn::{Rest, Turn};
use crate::tls::sni::ClientHello;

pub(super) struct Tls {
    pub(super) connection: Connection,
    /// A client's first bytes, which may have to be changed for the library.
    pub(super) hello: Option<Box<ClientHello>>,
    /// What has been received of records beyond the turn in which it came, from `begun` on; empty
    /// and without memory while a turn is enough.
    pub(super) unopened: Vec<u8>,
    pub(super) begun: usize,
    pub(super) framing: Framing,
    /// How many records without data it has sent.
    pub(super) rest: Rest,
    /// Bytes that a stranger may still send; `usize::MAX` for a peer that has proved itself.
    pub(super) allowance: usize,
    /// What a stranger holds: the bytes that came since it last sent something that could be handed
    /// out; `None` for a peer that has proved itself, and on the agent's side.
    pub(super) share: Option<Share>,
    pub(super) unused: usize,
    /// Whether it is the connection that holds what could be handed out.
    pub(super) kept: bool,
    /// Whether a step of the handshake had something for the peer since this was last asked.
    pub(super) replied: bool,
    /// Whether the connection may hold opened bytes that nobody has been given.
    pub(super) opened: bool,
    /// Whether the peer has ended its direction (close_notify, or the socket's end).
    pub(super) ended: bool,
    /// Whether that was close_notify.
    pub(super) closed: bool,
}

impl Tls {
    /// A connection in which this many bytes are allowed to a stranger.
    pub(super) fn new(connection: Connection, allowance: usize) -> Self {
        Tls {
            connection,
            hello: None,
            unopened: Vec::new(),
            begun: 0,
            framing: Framing::default(),
            rest: Rest::default(),
            allowance,
            share: None,
            unused: 0,
            kept: false,
            replied: false,
            opened: true,
            ended: false,
            closed: false,
        }
    }

    /// Opens whole records at the front of `bytes` until the turn is over, or with `held` until
    /// something can be handed out. Gives the bytes handed out, and those opened.
    pub(super) fn open(
        &mut self,
        bytes: &[u8],
        held: bool,
        turn: &mut Turn,
        unit: &mut dyn FnMut(&[u8]),
    ) -> io::Result<(usize, usize)> {
        let (mut total, mut opened) = (0, 0);
        while opened < bytes.len() && !self.ended && !turn.is_over() && !self.rests() {
            // The library holds one record for a caller that has not taken its bytes yet, and
            // refuses a second.
            let most = if held { 1 } else { limits::RECORDS_AT_ONCE };
            let (length, records) = self.framing.take(&bytes[opened..], most);
            let passed;
            let mut piece = &bytes[opened..opened + length];
            if let Some(hello) = &mut self.hello {
                passed = hello.pass(piece);
                piece = &passed;
                if let Some(named) = hello.take_named() {
                    // The library has not been shown anything yet.
                    self.connection = server(named)?;
                }
                if hello.is_done() || !self.connection.is_handshaking() {
                    self.hello = None;
                }
            }
            opened += length;
            let (mut given, mut full) = (0, 0);
            while !piece.is_empty() && !self.ended {
                self.connection.read_tls(&mut piece)?;
                let waiting = self.process()?;
                if held {
                    (given, full) = (given + waiting, usize::from(waiting > 0));
                } else {
                    given += self.hand_out(&mut |record| {
                        full += 1;
                        unit(record);
                    });
                }
            }
            total += given;
            // Those that carry nothing change keys, which takes longer than to open a few bytes.
            let empty = records.saturating_sub(full);
            self.rest.charge(empty);
            turn.charge(length + full * limits::RECORD_COST + empty * limits::EMPTY_RECORD_COST);
            if held && given > 0 {
                break;
            }
        }
        Ok((total, opened))
    }

    /// Something was handed out, if that is more than 0 bytes, and so many are left behind it.
    pub(super) fn used(&mut self, total: usize, held: bool, rest: usize) {
        if total > 0 && held {
            self.kept = true;
        } else if total > 0 {
            self.unused = rest;
        }
    }

    /// Whether it has to rest before it is read again; a stranger, which is closed soon, never has
    /// to.
    pub(super) fn rests(&self) -> bool {
        self.allowance == usize::MAX && self.rest.is_due()
    }

    /// Opens what has been read; gives the number of bytes that can be handed out.
    pub(super) fn process(&mut self) -> io::Result<usize> {
        let connection = &mut self.connection;
        let processed = match &mut self.hello {
            Some(hello) => hello.show(|| connection.process_new_packets()),
            None => connection.process_new_packets(),
        };
        let state = processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.closed = state.peer_has_closed();
        self.ended |= self.closed;
        Ok(state.plaintext_bytes_to_read())
    }

    /// Gives `unit` each opened record. rustls keeps them apart as long as they are taken by
    /// `fill_buf`; its `read` would join them.
    pub(super) fn hand_out(&mut self, unit: &mut dyn FnMut(&[u8])) -> usize {
        let mut total = 0;
        let mut reader = self.connection.reader();
        // An error here is "nothing now" or the end, which `process` has seen.
        while let Ok(record) = reader.fill_buf() {
            let count = record.len();
            if count == 0 {
                break;
            }
            unit(record);
            reader.consume(count);
            total += count;
        }
        total
    }
}

/// A connection to a client that is served with these settings.
pub(super) fn server(config: Arc<ServerConfig>) -> io::Result<Connection> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    Ok(unlimited(connection.into()))
}

/// What waits in `connection` is bounded by its user, who queues a unit only while little waits; a bound inside
/// would split a record.
pub(super) fn unlimited(mut connection: Connection) -> Connection {
    connection.set_buffer_limit(None);
    connection
}

/// The type of a record that carries data, or in TLS 1.3 anything that is encrypted.
const APPLICATION_DATA: u8 = 23;

/// Where records begin and end among the bytes received.
#[derive(Default)]
pub(super) struct Framing {
    /// Of a record's header, as much as has come.
    header: [u8; 5],
    come: u8,
    /// Bytes of the record's body that are still to come.
    body: u16,
}

impl Framing {
    /// Whether a record has begun that carries data (RFC 8446, section 5.1) and is longer than
    /// [`limits::GREETING`].
    pub(super) fn is_amid_long_data(&self) -> bool {
        let length = u16::from_be_bytes([self.header[3], self.header[4]]);
        self.body > 0
            && self.header[0] == APPLICATION_DATA
            && usize::from(length) > limits::GREETING
    }

    /// The length of `bytes` up to the end of the `most`th record that ends there, or of all of it,
    /// and how many records end in it.
    fn take(&mut self, bytes: &[u8], most: usize) -> (usize, usize) {
        let (mut at, mut ended) = (0, 0);
        while at < bytes.len() && ended < most {
            if self.body == 0 {
                self.header[usize::from(self.come)] = bytes[at];
                self.come += 1;
                at += 1;
                if usize::from(self.come) < self.header.len() {
                    continue;
                }
                self.come = 0;
                self.body = u16::from_be_bytes([self.header[3], self.header[4]]);
            }
            let rest = usize::from(self.body).min(bytes.len() - at);
            self.body -= rest as u16;
            at += rest;
            ended += usize::from(self.body == 0);
        }
        (at, ended)
    }
}

/// Why a stranger is given up.
#[derive(Debug)]
pub(super) enum Excess {
    /// It has sent more than anybody needs to prove itself.
    Sent(usize),
    /// It had more held than is left for strangers.
    Held,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Excess::Sent(most) => write!(f, "it sent {} KiB and no data", most / 1024),
            Excess::Held => write!(
                f,
                "it sent over {} KiB that are not complete, and others took all the memory that \
                 is set aside for such",
                limits::GREETING / 1024
            ),
        }
    }
}

impl std::error::Error for Excess {}

/// Whether a connection was given up because a stranger has sent more than
/// [`limits::STRANGER_BYTES`], or [`limits::HANDSHAKE_BYTES`] in its handshake.
pub fn is_too_much(error: &io::Error) -> bool {
    matches!(excess(error), Some(Excess::Sent(_)))
}

/// Whether a connection was given up because strangers held [`limits::GREETINGS`].
pub fn is_too_many(error: &io::Error) -> bool {
    matches!(excess(error), Some(Excess::Held))
}

fn excess(error: &io::Error) -> Option<&Excess> {
    error.get_ref()?.downcast_ref()
}
