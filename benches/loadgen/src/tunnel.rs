//! One tunnel of a stand-in agent (protocol page, sections 4, 5 and 8): from connecting to the end
//! of its session, or of its last one.

use std::io::{self, Read, Write};
use std::net::SocketAddrV4;
use std::ops::AddAssign;
use std::os::fd::RawFd;

use rustls::{ClientConnection, HandshakeKind};

use crate::backend::CHUNK;
use crate::sys::{self, ENDED, ERR, HUP, IN, OUT};
use framed::Frames;

mod framed;

/// Bytes that a buffer for [`Tunnel::step`] has: room for a frame's head before what is read.
pub(crate) const BUFFER: usize = CHUNK + framed::HEAD;

const BEAT: &[u8] = b"BEAT";
const OPEN: &[u8] = b"OPEN";

/// What a PROXY protocol version 2 header begins with; its rest's length stands in the last two
/// of 16 bytes.
const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const HEADER_FIXED: usize = 16;

/// Longest TLS record's content.
const RECORD: usize = 16 * 1024;

/// Moves of one tunnel before the others have a turn.
const TURN: usize = 16;

/// By which rules an agent speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
    Three,
}

/// What all tunnels of an agent share.
pub(crate) struct Terms {
    pub(crate) version: Version,
    pub(crate) passcode: String,
    pub(crate) backend: SocketAddrV4,
}

/// How far a tunnel has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Connecting,
    Proving,
    Idle,
    Dialling,
    Relaying,
    /// Version 3: sessions one after another, and none between them.
    Framed,
    /// One side has ended; what was read before is still to be delivered.
    Closing,
}

/// The tunnel is over, as it should be or by an error.
pub(crate) struct Over;

type Step = Result<(), Over>;

/// One of a tunnel's two connections.
pub(crate) struct Side {
    pub(crate) fd: RawFd,
    /// Whether somebody hears of its events.
    pub(crate) watched: bool,
    readable: bool,
    writable: bool,
    ended: bool,
    /// Bytes that the connection has not taken, from `sent` on.
    rest: Vec<u8>,
    sent: usize,
}

/// A tunnel, its session's connection to the backend included.
pub(crate) struct Tunnel {
    pub(crate) stage: Stage,
    pub(crate) near: Side,
    pub(crate) far: Option<Side>,
    tls: Option<Box<ClientConnection>>,
    /// What has come that is not understood yet.
    heard: Vec<u8>,
    frames: Frames,
    /// Heartbeats that were sent while it was idle, or of version 3, and their answers.
    pub(crate) beats: Beats,
}

/// Heartbeats, and those that were answered.
#[derive(Clone, Copy, Default)]
pub(crate) struct Beats {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
}

impl AddAssign for Beats {
    fn add_assign(&mut self, more: Beats) {
        self.sent += more.sent;
        self.answered += more.answered;
    }
}

impl Side {
    /// A connection that is being made.
    pub(crate) fn new(fd: RawFd) -> Self {
        let (watched, readable, writable, ended) = (false, false, false, false);
        Side { fd, watched, readable, writable, ended, rest: Vec::new(), sent: 0 }
    }

    /// Takes note of an event.
    pub(crate) fn note(&mut self, flags: u32) {
        self.readable |= flags & (IN | ENDED | HUP | ERR) != 0;
        self.writable |= flags & (OUT | HUP | ERR) != 0;
        self.ended |= flags & (ENDED | HUP | ERR) != 0;
    }

    fn is_clear(&self) -> bool {
        self.sent == self.rest.len()
    }

    /// Reads once: `None` when there is nothing now. The end of the stream is an error, too.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Over> {
        match self.read_or_end(buffer)? {
            Some(0) => Err(Over),
            read => Ok(read),
        }
    }

    /// The same, but that the end of the stream is nothing read.
    fn read_or_end(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Over> {
        if !self.readable {
            return Ok(None);
        }
        match sys::read(self.fd, buffer) {
            Ok(count) => {
                // A short read has emptied it; new bytes make a new edge.
                self.readable = count == buffer.len() || self.ended;
                Ok(Some(count))
            }
            Err(error) if sys::would_block(&error) => {
                self.readable = false;
                Ok(None)
            }
            Err(_) => Err(Over),
        }
    }

    /// Sends `bytes` after what waits; what is not taken waits too.
    fn write(&mut self, bytes: &[u8]) -> Step {
        let pieces: &[&[u8]] = if bytes.is_empty() { &[] } else { &[bytes] };
        self.write_all(pieces)
    }

    /// The same for several pieces, with one call of the system where all are taken.
    fn write_all(&mut self, pieces: &[&[u8]]) -> Step {
        self.flush()?;
        let mut taken = 0;
        if self.is_clear() && self.writable {
            taken = match pieces {
                [] => return Ok(()),
                [piece] => unless_blocked(sys::write(self.fd, piece), &mut self.writable)?,
                _ => {
                    let slices: Vec<_> = pieces.iter().map(|one| io::IoSlice::new(one)).collect();
                    unless_blocked(sys::write_vectored(self.fd, &slices), &mut self.writable)?
                }
            };
        }
        for piece in pieces {
            let before = taken.min(piece.len());
            self.rest.extend_from_slice(&piece[before..]);
            taken -= before;
        }
        self.flush()
    }

    /// Sends of what waits as much as is taken.
    fn flush(&mut self) -> Step {
        while !self.is_clear() && self.writable {
            self.sent +=
                unless_blocked(sys::write(self.fd, &self.rest[self.sent..]), &mut self.writable)?;
        }
        if self.is_clear() {
            self.rest.clear();
            self.sent = 0;
        }
        Ok(())
    }
}

fn unless_blocked(written: io::Result<usize>, writable: &mut bool) -> Result<usize, Over> {
    match written {
        Ok(count) => Ok(count),
        Err(error) if sys::would_block(&error) => {
            *writable = false;
            Ok(0)
        }
        Err(_) => Err(Over),
    }
}

impl Tunnel {
    /// Over a connection that is being made.
    pub(crate) fn new(fd: RawFd, tls: Option<Box<ClientConnection>>) -> Self {
        let near = Side::new(fd);
        let (heard, frames, beats) = (Vec::new(), Frames::default(), Beats::default());
        Tunnel { stage: Stage::Connecting, near, far: None, tls, heard, frames, beats }
    }

    /// Whether its handshake was shortened by what an earlier one had left.
    pub(crate) fn is_resumed(&self) -> bool {
        let kind = self.tls.as_ref().and_then(|tls| tls.handshake_kind());
        kind == Some(HandshakeKind::Resumed)
    }

    /// Whether it has proved its passcode.
    pub(crate) fn is_authorized(&self) -> bool {
        !matches!(self.stage, Stage::Connecting | Stage::Proving)
    }

    /// Sends a heartbeat if it is idle, or of version 3.
    pub(crate) fn beat(&mut self) -> Step {
        let beat = match self.stage {
            Stage::Idle => BEAT,
            Stage::Framed => &framed::head(framed::BEAT, 0),
            _ => return Ok(()),
        };
        self.beats.sent += 1;
        self.send(beat)
    }

    /// Moves on as far as it goes; `true` when it may go on at once.
    pub(crate) fn step(&mut self, terms: &Terms, buffer: &mut [u8]) -> Result<bool, Over> {
        if self.stage == Stage::Connecting {
            if !self.near.writable {
                return Ok(false);
            }
            self.stage = Stage::Proving;
            // TLS holds it back until the handshake is done.
            match terms.version {
                Version::One => self.send(terms.passcode.as_bytes())?,
                Version::Two => self.send(format!("IOFOG/2 {}\n", terms.passcode).as_bytes())?,
                Version::Three => self.send(format!("IOFOG/3 {}\n", terms.passcode).as_bytes())?,
            }
        }
        while matches!(self.stage, Stage::Proving | Stage::Idle) {
            self.send(&[])?;
            let Some(count) = self.receive(buffer)? else {
                // The handshake may have made an answer.
                self.send(&[])?;
                return Ok(false);
            };
            self.heard.extend_from_slice(&buffer[..count]);
            self.understand(terms)?;
        }
        if self.stage == Stage::Framed {
            return self.step_framed(terms, buffer);
        }
        if self.stage == Stage::Dialling {
            let Some(far) = self.far.as_mut().filter(|far| far.writable) else { return Ok(false) };
            if sys::socket_error(far.fd).is_some() {
                return Err(Over);
            }
            if terms.version == Version::Two {
                self.send(OPEN)?;
            }
            self.stage = Stage::Relaying;
        }
        if self.stage == Stage::Closing {
            return self.deliver();
        }
        for _ in 0..TURN {
            if !self.relay(terms, &mut buffer[..CHUNK])? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads what it has heard as far as it is whole.
    fn understand(&mut self, terms: &Terms) -> Step {
        if self.stage == Stage::Proving {
            let welcome: &[u8] = match terms.version {
                Version::One => b"AUTHORIZED",
                Version::Two => b"IOFOG/2 AUTHORIZED\n",
                Version::Three => b"IOFOG/3 AUTHORIZED\n",
            };
            if self.heard.len() < welcome.len() {
                return Ok(());
            }
            if !self.heard.starts_with(welcome) {
                return Err(Over);
            }
            self.heard.drain(..welcome.len());
            self.stage = Stage::Idle;
        }
        if terms.version == Version::Three {
            self.stage = Stage::Framed;
            let heard = std::mem::take(&mut self.heard);
            return self.hear(&heard, terms);
        }
        let beats = self.heard.chunks(BEAT.len()).take_while(|chunk| *chunk == BEAT).count();
        self.heard.drain(..beats * BEAT.len());
        self.beats.answered += beats as u64;
        if self.heard.is_empty() || (self.heard.len() < BEAT.len() && BEAT.starts_with(&self.heard))
        {
            return Ok(());
        }
        if terms.version == Version::Two {
            if self.heard.len() < HEADER_FIXED {
                return Ok(());
            }
            let length = usize::from(u16::from_be_bytes([self.heard[14], self.heard[15]]));
            if !self.heard.starts_with(HEADER) {
                return Err(Over);
            }
            if self.heard.len() < HEADER_FIXED + length {
                return Ok(());
            }
            self.heard.drain(..HEADER_FIXED + length);
        }
        let mut far = Side::new(sys::connect(&terms.backend).map_err(|_| Over)?);
        far.rest = std::mem::take(&mut self.heard);
        self.far = Some(far);
        self.stage = Stage::Dialling;
        Ok(())
    }

    /// Moves bytes once each way; `true` when any moved.
    fn relay(&mut self, terms: &Terms, buffer: &mut [u8]) -> Result<bool, Over> {
        self.send(&[])?;
        let Some(mut far) = self.far.take() else { return Err(Over) };
        let moved = self.relay_with(&mut far, terms, buffer);
        let clear = far.is_clear() && self.is_clear();
        self.far = Some(far);
        if moved.is_err() && !clear {
            self.stage = Stage::Closing;
            return Ok(false);
        }
        moved
    }

    fn relay_with(
        &mut self,
        far: &mut Side,
        terms: &Terms,
        buffer: &mut [u8],
    ) -> Result<bool, Over> {
        let mut moved = false;
        far.write(&[])?;
        if far.is_clear() {
            if let Some(count) = self.receive(buffer)? {
                moved = true;
                if terms.version == Version::Two || &buffer[..count] != BEAT {
                    far.write(&buffer[..count])?;
                }
            }
        }
        if self.is_clear() {
            if let Some(count) = far.read(buffer)? {
                moved = true;
                self.send(&buffer[..count])?;
            }
        }
        Ok(moved)
    }

    fn deliver(&mut self) -> Result<bool, Over> {
        self.send(&[])?;
        let gone = self.near.ended;
        let far_clear = match &mut self.far {
            Some(far) => {
                far.write(&[])?;
                far.is_clear() || far.ended
            }
            None => true,
        };
        if far_clear && (self.is_clear() || gone) { Err(Over) } else { Ok(false) }
    }

    fn is_clear(&self) -> bool {
        self.tls.as_ref().map_or(self.near.is_clear(), |tls| !tls.wants_write())
    }

    fn send(&mut self, bytes: &[u8]) -> Step {
        let Some(tls) = &mut self.tls else { return self.near.write(bytes) };
        if !bytes.is_empty() {
            tls.writer().write_all(bytes).map_err(|_| Over)?;
        }
        while self.near.writable && tls.wants_write() {
            unless_blocked(tls.write_tls(&mut Socket(self.near.fd)), &mut self.near.writable)?;
        }
        Ok(())
    }

    /// Receives bytes, decrypted in TLS; `None` when there are none now.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Over> {
        let Some(tls) = &mut self.tls else { return self.near.read(buffer) };
        let mut count = 0;
        loop {
            // What is decrypted is taken before the socket is asked for more.
            match tls.reader().read(&mut buffer[count..]) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if sys::would_block(&error) => {
                    if count + RECORD > buffer.len() || !self.near.readable {
                        break;
                    }
                    match tls.read_tls(&mut Socket(self.near.fd)) {
                        Ok(0) if count == 0 => return Err(Over),
                        Ok(0) => break,
                        Ok(_) if tls.process_new_packets().is_err() => return Err(Over),
                        Ok(_) => {}
                        Err(error) if sys::would_block(&error) => self.near.readable = false,
                        Err(_) => return Err(Over),
                    }
                }
                Err(_) => return Err(Over),
            }
        }
        if count == 0 && tls_ended(tls) { Err(Over) } else { Ok((count > 0).then_some(count)) }
    }

    /// Takes leave as TLS wants it, and closes both connections.
    pub(crate) fn close(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The peer may be gone already, which is as good.
            let _ = tls.write_tls(&mut Socket(self.near.fd));
        }
        sys::close(self.near.fd);
        if let Some(far) = self.far {
            sys::close(far.fd);
        }
    }
}

/// Whether the peer has said that it sends no more.
fn tls_ended(tls: &mut ClientConnection) -> bool {
    tls.process_new_packets().is_ok_and(|state| state.peer_has_closed())
}

/// A file as rustls wants it.
pub(crate) struct Socket(pub(crate) RawFd);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        sys::read(self.0, buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        sys::write(self.0, bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        sys::write_vectored(self.0, slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
