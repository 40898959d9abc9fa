//! One end of TLS: records opened as far as the turn goes, and what a stranger may send.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice, Write};
use std::net::TcpStream;

use futures_rustls::rustls::crypto::cipher::OutboundChunks;
use futures_rustls::rustls::{Error, PeerMisbehaved};

use crate::limits;
use crate::net::share::Share;
use crate::runtime::turn::{Rest, Turn};
use crate::tls::handshake::Handshake;
use crate::tls::records::{APPLICATION_DATA, HEADER, Opened, Records, is_whole};
use crate::tls::sni::ClientHello;

/// Records that are sent with one system call.
const SENT_AT_ONCE: usize = 64;

pub(super) struct Tls {
    pub(super) step: Step,
    /// Records for the peer, of the first those bytes that stand behind `sent`; without memory while
    /// it keeps up.
    outgoing: VecDeque<Vec<u8>>,
    sent: usize,
    /// What has been received and not been opened, from `begun` on: a record that is not complete, or what
    /// lies beyond the turn in which it came. Empty and without memory otherwise.
    pub(super) unopened: Vec<u8>,
    pub(super) begun: usize,
    /// A unit that was opened and is still to be handed out.
    pub(super) held: Vec<u8>,
    /// How many records without data it has sent.
    pub(super) rest: Rest,
    /// Bytes that a stranger may still send; `usize::MAX` for a peer that has proved itself.
    pub(super) allowance: usize,
    /// What a stranger holds: the bytes that came since it last sent something that could be handed
    /// out; `None` for a peer that has proved itself, and on the agent's side.
    pub(super) share: Option<Share>,
    pub(super) unused: usize,
    /// Whether `held` has what could be handed out.
    pub(super) kept: bool,
    /// Whether a step of the handshake had something for the peer since this was last asked.
    pub(super) replied: bool,
    /// Whether something may have come in that nobody has been told.
    pub(super) news: bool,
    /// Whether the peer has ended its direction (close_notify, or the socket's end).
    pub(super) ended: bool,
    /// Whether that was close_notify.
    pub(super) closed: bool,
    /// Whether both ends have agreed on a protocol.
    pub(super) has_protocol: bool,
}

/// How far it has come.
pub(super) enum Step {
    Handshake(Box<Greeting>),
    /// Apart, because thousands of strangers may be in the handshake.
    Records(Box<Records>),
    /// A handshake that has failed.
    Broken,
}

/// A handshake with what it needs.
pub(super) struct Greeting {
    handshake: Handshake,
    /// A client's first bytes, which may have to be changed for the library.
    hello: Option<ClientHello>,
    /// What the library has been shown and must be shown again.
    shown: Vec<u8>,
    framing: Framing,
}

impl Tls {
    /// A connection in which this many bytes are allowed to a stranger.
    ///
    /// # Errors
    /// What the library says.
    pub(super) fn new(handshake: Handshake, allowance: usize) -> io::Result<Self> {
        let framing = Framing::default();
        let greeting = Greeting { handshake, hello: None, shown: Vec::new(), framing };
        let mut tls = Tls {
            step: Step::Handshake(Box::new(greeting)),
            outgoing: VecDeque::new(),
            sent: 0,
            unopened: Vec::new(),
            begun: 0,
            held: Vec::new(),
            rest: Rest::default(),
            allowance,
            share: None,
            unused: 0,
            kept: false,
            replied: false,
            news: true,
            ended: false,
            closed: false,
            has_protocol: false,
        };
        // A client speaks first.
        tls.greet(&[])?;
        Ok(tls)
    }

    /// Bytes that have come and were not handed out.
    pub(super) fn unread(&self) -> usize {
        self.unopened.len().saturating_sub(self.begun) + self.held.len()
    }

    /// Whether the handshake is still to be finished.
    pub(super) fn is_handshaking(&self) -> bool {
        !matches!(self.step, Step::Records(_))
    }

    /// Whether the handshake's next step is one that takes long.
    pub(super) fn is_hard(&self) -> bool {
        matches!(&self.step, Step::Handshake(greeting) if greeting.handshake.is_hard())
    }

    /// Opens whole records at the front of `bytes`, in their place, until the turn is over, or with `held`
    /// until something can be handed out, which is kept. Gives the bytes handed out, and those opened.
    pub(super) fn open(
        &mut self,
        bytes: &mut [u8],
        held: bool,
        turn: &mut Turn,
        unit: &mut dyn FnMut(&[u8]),
    ) -> io::Result<(usize, usize)> {
        let (mut total, mut opened) = (0, 0);
        while opened < bytes.len() && !self.ended && !turn.is_over() && !self.rests() {
            let rest = &mut bytes[opened..];
            let (length, given, empty) = match &mut self.step {
                Step::Handshake(greeting) => {
                    let (length, records) = greeting.framing.take(rest);
                    self.greet(&rest[..length])?;
                    (length, 0, records)
                }
                Step::Broken => return Err(io::ErrorKind::NotConnected.into()),
                Step::Records(records) => {
                    let outcome = records.open(rest, &mut self.outgoing).map_err(invalid)?;
                    let Some((length, record)) = outcome else { break };
                    match record {
                        Opened::Data(data) if !data.is_empty() => {
                            match held {
                                true => self.held = data.to_vec(),
                                false => unit(data),
                            }
                            (length, data.len(), 0)
                        }
                        Opened::Closed => {
                            (self.ended, self.closed) = (true, true);
                            (length, 0, 1)
                        }
                        Opened::Data(_) | Opened::Nothing => (length, 0, 1),
                    }
                }
            };
            opened += length;
            total += given;
            // Those that carry nothing change keys, which takes longer than to open a few bytes.
            self.rest.charge(empty);
            let full = usize::from(given > 0);
            turn.charge(length + full * limits::RECORD_COST + empty * limits::EMPTY_RECORD_COST);
            if held && given > 0 {
                break;
            }
        }
        Ok((total, opened))
    }

    /// Goes on with the handshake, with bytes that end where a record does, or behind all that have come.
    fn greet(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Step::Handshake(mut greeting) = std::mem::replace(&mut self.step, Step::Broken) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        self.step = match greeting.hear(bytes, &mut self.outgoing).map_err(invalid)? {
            false => Step::Handshake(greeting),
            true => {
                self.has_protocol = greeting.handshake.has_protocol();
                Step::Records(Box::new(greeting.handshake.into_records().map_err(invalid)?))
            }
        };
        Ok(())
    }

    /// What is to be made of a client's first bytes.
    pub(super) fn set_hello(&mut self, hello: ClientHello) {
        if let Step::Handshake(greeting) = &mut self.step {
            greeting.hello = Some(hello);
        }
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

    /// Whether there is something to open without another read.
    pub(super) fn has_record(&self) -> bool {
        let rest = &self.unopened[self.begun..];
        match self.step {
            Step::Records(_) => is_whole(rest),
            Step::Handshake(_) | Step::Broken => !rest.is_empty(),
        }
    }

    /// Whether `come`, the bytes of `unopened` with others behind them, is a record or more; its front may
    /// be written over.
    pub(super) fn is_completed_by(&self, come: &mut [u8]) -> bool {
        let header = self.unopened.len().min(HEADER);
        come[..header].copy_from_slice(&self.unopened[..header]);
        is_whole(come)
    }

    /// More of a record that is not complete.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let length = self.unopened.len();
        if self.unopened.capacity() - length < bytes.len() {
            let header = self.unopened.first_chunk::<HEADER>();
            let record = |&[.., high, low]: &[u8; HEADER]| u16::from_be_bytes([high, low]).into();
            let whole = HEADER + header.map_or(0, record);
            // Thousands of strangers may hold one, of which little has come.
            let more = match self.allowance == usize::MAX {
                true => whole.saturating_sub(length).max(bytes.len()),
                false => bytes.len().next_multiple_of(limits::STRANGER_STEP),
            };
            self.unopened.reserve_exact(more);
        }
        self.unopened.extend_from_slice(bytes);
    }

    /// Keeps what stands in `bytes` behind those that have been opened.
    pub(super) fn keep(&mut self, bytes: Vec<u8>, opened: usize) {
        if opened == bytes.len() || self.ended {
            return;
        }
        (self.unopened, self.begun) = (bytes, opened);
        if !self.has_record() {
            // It waits for what comes.
            self.unopened = self.unopened[opened..].to_vec();
            self.begun = 0;
        }
    }

    /// Whether a record has begun that carries data and is longer than [`limits::GREETING`].
    pub(super) fn is_amid_long_data(&self) -> bool {
        let begun = self.unopened[self.begun..].first_chunk::<HEADER>();
        matches!(self.step, Step::Records(_))
            && begun.is_some_and(|&[kind, _, _, high, low]| {
                let length = usize::from(u16::from_be_bytes([high, low]));
                kind == APPLICATION_DATA && length > limits::GREETING
            })
    }

    /// Seals `unit` as one record, where it fits into one.
    pub(super) fn seal(&mut self, unit: OutboundChunks<'_>) -> io::Result<()> {
        match &mut self.step {
            Step::Records(records) => records.seal(unit, &mut self.outgoing).map_err(invalid),
            Step::Handshake(_) | Step::Broken => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Announces the end of this side's direction, in what is sent next.
    pub(super) fn send_close_notify(&mut self) {
        if let Step::Records(records) = &mut self.step {
            // Whoever cannot be told sees the socket's end.
            let _ = records.close(&mut self.outgoing);
        }
    }

    /// Whether there are records for the peer.
    pub(super) fn wants_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// How many there are.
    pub(super) fn records(&self) -> usize {
        self.outgoing.len()
    }

    /// Bytes of them, but for so many first ones.
    pub(super) fn length(&self, behind: usize) -> usize {
        self.outgoing.range(behind..).map(Vec::len).sum()
    }

    /// Bytes of them that the socket has not taken yet.
    pub(super) fn waiting(&self) -> usize {
        self.length(0) - self.sent
    }

    /// Sends what the socket takes of them now.
    pub(super) fn write(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        self.sent += match self.outgoing.len() {
            1 => socket.write(&self.outgoing[0][self.sent..])?,
            all => {
                let mut slices = [IoSlice::new(&[]); SENT_AT_ONCE];
                let mut skip = self.sent;
                for (slice, record) in slices.iter_mut().zip(&self.outgoing) {
                    *slice = IoSlice::new(&record[std::mem::take(&mut skip)..]);
                }
                socket.write_vectored(&slices[..all.min(SENT_AT_ONCE)])?
            }
        };
        while let Some(length) = self.outgoing.front().map(Vec::len).filter(|all| *all <= self.sent)
        {
            self.sent -= length;
            self.outgoing.pop_front();
        }
        if self.outgoing.is_empty() {
            self.outgoing = VecDeque::new();
        }
        Ok(())
    }
}

impl Greeting {
    /// Whether that was the end of it.
    fn hear(&mut self, bytes: &[u8], outgoing: &mut VecDeque<Vec<u8>>) -> Result<bool, Error> {
        let Greeting { handshake, hello, shown, .. } = self;
        match hello {
            Some(hello) if shown.is_empty() => *shown = hello.pass(bytes),
            Some(hello) => shown.extend(hello.pass(bytes)),
            None => shown.extend_from_slice(bytes),
        }
        if let Some(named) = hello.as_mut().and_then(|hello| hello.take_named()) {
            // The library has not been shown anything yet.
            *handshake = Handshake::server(named)?;
        }
        let mut hear = || handshake.hear(shown, outgoing);
        let done = match hello {
            Some(hello) => hello.show(hear),
            None => hear(),
        }?;
        if hello.as_ref().is_some_and(ClientHello::is_done) {
            *hello = None;
        }
        shown.drain(..done);
        if shown.is_empty() {
            *shown = Vec::new();
        }
        // Keys change where a record ends (RFC 8446, section 5.1).
        match handshake.is_over() {
            true if !shown.is_empty() => Err(PeerMisbehaved::KeyEpochWithPendingFragment.into()),
            over => Ok(over),
        }
    }
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Where records begin and end among the bytes received.
#[derive(Default)]
struct Framing {
    /// Of a record's header, as much as has come.
    header: [u8; HEADER],
    come: u8,
    /// Bytes of the record's body that are still to come.
    body: u16,
}

impl Framing {
    /// The length of `bytes` up to the end of the record that ends there first, or of all of it, and how many
    /// records end in it.
    fn take(&mut self, bytes: &[u8]) -> (usize, usize) {
        let mut at = 0;
        while at < bytes.len() {
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
            if self.body == 0 {
                return (at, 1);
            }
        }
        (at, 0)
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

#[cfg(test)]
pub(super) mod tests;
