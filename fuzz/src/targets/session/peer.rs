//! One end of a session as the world sees it: an agent, a user, or a program.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures_rustls::rustls::ClientConnection;
use rustix::net::sockopt;

use crate::input::Random;

/// Read at once when nothing limits it.
pub(super) const ALL: usize = 64 * 1024;

/// How this end saw the other direction end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// FIN; in TLS after close_notify.
    Orderly,
    /// In TLS: FIN without close_notify.
    Cut,
    /// RST.
    Reset,
    /// In TLS: an alert.
    Alert,
}

/// What this end has done to its own direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Sending,
    /// It ends once everything is sent.
    Finishing,
    Finished,
    /// It has broken the connection.
    Broken,
}

pub(super) struct Peer {
    /// `None` once reset.
    socket: Option<TcpStream>,
    tls: Option<Box<ClientConnection>>,
    /// Bytes that the socket has not taken yet.
    unsent: Vec<u8>,
    /// The units sent, in order.
    pub(super) sent: Vec<Vec<u8>>,
    /// The records that came; in plain TCP all bytes in one.
    pub(super) got: Vec<Vec<u8>>,
    pub(super) end: Option<End>,
    /// Whether sending has shown a reset.
    was_reset: bool,
    pub(super) doing: Doing,
    /// Whether it has ended its direction, or will, whatever came afterwards.
    pub(super) has_ended: bool,
    /// Whether that was in TLS and without close_notify.
    pub(super) is_cut: bool,
    /// When it last sent anything.
    pub(super) sent_at: Instant,
    /// When it last sent anything but heartbeats.
    pub(super) spoke_at: Instant,
    /// When it began to end.
    pub(super) ended_at: Instant,
    /// Where in its pattern of bytes it is.
    position: usize,
    leg: usize,
    buffer: Box<[u8]>,
}

impl Peer {
    pub(super) fn new(socket: TcpStream, tls: Option<Box<ClientConnection>>, leg: usize) -> Self {
        Peer {
            socket: Some(socket),
            tls,
            unsent: Vec::new(),
            sent: Vec::new(),
            got: Vec::new(),
            end: None,
            was_reset: false,
            doing: Doing::Sending,
            has_ended: false,
            is_cut: false,
            sent_at: Instant::now(),
            spoke_at: Instant::now(),
            ended_at: Instant::now(),
            position: 0,
            leg,
            buffer: vec![0; ALL].into(),
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Whether all that was sent is with the kernel.
    pub(super) fn is_pushed(&self) -> bool {
        self.unsent.is_empty() && self.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    /// Whether bytes of this peer's may be lost on their way.
    pub(super) fn is_broken(&self) -> bool {
        self.doing == Doing::Broken
    }

    /// All bytes that came.
    pub(super) fn stream(&self) -> Vec<u8> {
        self.got.concat()
    }

    /// The next `length` bytes of this peer's own pattern, in which no heartbeat can hide.
    pub(super) fn pattern(&mut self, length: usize) -> Vec<u8> {
        static PATTERNS: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
        let patterns = PATTERNS.get_or_init(|| {
            let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
            [b"abcdefghijklmnop", b"0123456789+-*/=_"]
                .map(|letters| (0..65_521).map(|_| letters[random.below(16)]).collect())
        });
        let pattern = &patterns[self.leg];
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let rest = &pattern[self.position % pattern.len()..];
            let count = rest.len().min(length - bytes.len());
            bytes.extend_from_slice(&rest[..count]);
            self.position += count;
        }
        bytes
    }

    /// Sends a unit: in TLS one record.
    pub(super) fn send(&mut self, unit: Vec<u8>) {
        if self.doing != Doing::Sending || unit.is_empty() {
            return;
        }
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(&unit).expect("no limit"),
            None => self.unsent.extend_from_slice(&unit),
        }
        self.sent_at = Instant::now();
        if unit.chunks(4).any(|token| token != b"BEAT") {
            self.spoke_at = self.sent_at;
        }
        self.sent.push(unit);
        self.push();
    }

    /// Ends its direction. `cut`: in TLS without close_notify.
    pub(super) fn finish(&mut self, cut: bool) {
        if self.doing == Doing::Sending {
            self.doing = Doing::Finishing;
            self.has_ended = true;
            self.is_cut = cut && self.is_tls();
            if let (Some(tls), false) = (&mut self.tls, cut) {
                tls.send_close_notify();
            }
            self.push();
        }
    }

    /// Breaks the connection: reset.
    pub(super) fn reset(&mut self) {
        if let Some(socket) = self.socket.take() {
            reset_at_close(&socket);
            self.doing = Doing::Broken;
        }
    }

    /// Breaks the connection: sends what is no TLS record.
    pub(super) fn corrupt(&mut self) {
        if self.doing == Doing::Sending && self.is_tls() && self.is_pushed() {
            self.unsent.extend_from_slice(b"\x17\x03\x03\x00\x20 this was never sealed by anyone");
            self.push();
            self.doing = Doing::Broken;
        }
    }

    /// Gives the kernel what it takes; whether that was anything.
    pub(super) fn push(&mut self) -> bool {
        let Some(mut socket) = self.socket.as_ref() else { return false };
        let mut moved = false;
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                match tls.write_tls(&mut socket) {
                    Ok(_) => moved = true,
                    Err(error) => {
                        self.unsendable(error);
                        return moved;
                    }
                }
            }
        }
        while !self.unsent.is_empty() {
            match socket.write(&self.unsent) {
                Ok(count) => {
                    self.unsent.drain(..count);
                    moved = true;
                }
                Err(error) => {
                    self.unsendable(error);
                    return moved;
                }
            }
        }
        if self.doing == Doing::Finishing {
            // The other end may have reset the connection meanwhile.
            let _ = socket.shutdown(Shutdown::Write);
            self.doing = Doing::Finished;
            moved = true;
        }
        moved
    }

    /// Reads at most `most` bytes; whether there were any, or the end.
    pub(super) fn receive(&mut self, most: usize) -> bool {
        let Some(mut socket) = self.socket.as_ref().filter(|_| self.end.is_none()) else {
            return false;
        };
        let count = match socket.read(&mut self.buffer[..most.min(ALL)]) {
            Ok(count) => count,
            Err(error) => return self.gone(error),
        };
        if count == 0 && self.was_reset {
            self.end = Some(End::Reset);
            return true;
        }
        let bytes = &self.buffer[..count];
        match &mut self.tls {
            Some(tls) => self.end = open(tls, bytes, &mut self.got),
            None if count == 0 => self.end = Some(End::Orderly),
            None => match self.got.first_mut() {
                Some(all) => all.extend_from_slice(bytes),
                None => self.got.push(bytes.to_vec()),
            },
        }
        true
    }

    /// An error of the socket: nothing now, or nothing ever again; whether that is news.
    fn gone(&mut self, error: io::Error) -> bool {
        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            return false;
        }
        self.abandon();
        self.end.replace(End::Reset).is_none()
    }

    /// An error of sending: nobody takes the rest, but what came before can still be read.
    fn unsendable(&mut self, error: io::Error) {
        if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            // No read is told of a reset again.
            self.was_reset |= error.kind() == ErrorKind::ConnectionReset;
            self.abandon();
        }
    }

    fn abandon(&mut self) {
        self.unsent.clear();
        if self.doing == Doing::Finishing {
            self.doing = Doing::Finished;
        }
    }
}

/// Opens what came in; gives the end if it is there.
fn open(tls: &mut ClientConnection, bytes: &[u8], got: &mut Vec<Vec<u8>>) -> Option<End> {
    let mut records = bytes;
    loop {
        // An empty read tells rustls of the end.
        tls.read_tls(&mut records).expect("room");
        let state = match tls.process_new_packets() {
            Ok(state) => state,
            Err(_) => return Some(End::Alert),
        };
        let ended = state.peer_has_closed();
        loop {
            let record = match tls.reader().fill_buf() {
                Ok(record) if !record.is_empty() => record.to_vec(),
                _ => break,
            };
            tls.reader().consume(record.len());
            got.push(record);
        }
        if ended {
            return Some(End::Orderly);
        }
        if records.is_empty() {
            return bytes.is_empty().then_some(End::Cut);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Millions of connections would otherwise wait for their last packets.
        if let Some(socket) = &self.socket {
            reset_at_close(socket);
        }
    }
}

fn reset_at_close(socket: &TcpStream) {
    sockopt::set_socket_linger(socket, Some(Duration::ZERO)).expect("SO_LINGER");
}
