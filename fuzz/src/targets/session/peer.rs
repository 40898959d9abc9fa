//! One end of a session as the world sees it: an agent, a user, or a program.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures_rustls::rustls::ClientConnection;
use iofog_connector::fuzzing::frames::{Event, Side, Talk, Word, data_head};
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

/// Bytes that a version 3 peer sends in a session, so that what is thrown away after a break keeps its bound.
const MOST: usize = 8 << 20;

/// A version 3 peer's end of its tunnel.
pub(super) struct Framed {
    pub(super) talk: Box<Talk>,
    /// What it has said that ends the session before its time.
    pub(super) has_failed: bool,
    pub(super) has_reset: bool,
    pub(super) has_garbled: bool,
    /// Whether it has heard that the session is broken off, or has failed.
    pub(super) heard_break: bool,
    pub(super) heard_end: bool,
    pub(super) was_seen: bool,
    pub(super) was_accepted: bool,
    /// Heartbeats, those of them before its end, and answers.
    pub(super) beats: usize,
    pub(super) beats_before_end: usize,
    pub(super) answers: usize,
    length: usize,
}

pub(super) struct Peer {
    /// `None` once reset.
    socket: Option<TcpStream>,
    tls: Option<Box<ClientConnection>>,
    pub(super) framed: Option<Framed>,
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
    /// Whether `got` begins with bytes of the session that were taken out of their frames.
    has_heard: bool,
    leg: usize,
    buffer: Box<[u8]>,
}

impl Peer {
    pub(super) fn new(socket: TcpStream, tls: Option<Box<ClientConnection>>, leg: usize) -> Self {
        Peer {
            socket: Some(socket),
            tls,
            framed: None,
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
            has_heard: false,
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
        match &mut self.framed {
            None => self.queue(&unit),
            Some(framed) => {
                let is_agent = framed.talk.side() == Side::Agent;
                let may = !framed.talk.is_idle() && (!is_agent || framed.talk.is_accepted());
                if !may || framed.length + unit.len() > MOST {
                    return;
                }
                framed.length += unit.len();
                self.queue(&[&data_head(unit.len())[..], &unit].concat());
            }
        }
        self.sent_at = Instant::now();
        if unit.chunks(4).any(|token| token != b"BEAT") {
            self.spoke_at = self.sent_at;
        }
        self.sent.push(unit);
        self.push();
    }

    fn queue(&mut self, bytes: &[u8]) {
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(bytes).expect("no limit"),
            None => self.unsent.extend_from_slice(bytes),
        }
    }

    /// Makes it the end of a version 3 tunnel on which a session has begun.
    pub(super) fn begin(&mut self, talk: Box<Talk>) {
        self.framed = Some(Framed {
            has_failed: false,
            has_reset: false,
            has_garbled: false,
            heard_break: false,
            heard_end: false,
            was_seen: talk.is_seen(),
            was_accepted: talk.is_accepted(),
            beats: 0,
            beats_before_end: 0,
            answers: 0,
            length: 0,
            talk,
        });
    }

    /// Says something on a version 3 tunnel, where it may; whether it might.
    pub(super) fn say(&mut self, word: Word<'_>) -> bool {
        let Some(framed) = self.framed.as_mut().filter(|_| self.doing != Doing::Broken) else {
            return false;
        };
        let frame = framed.talk.say(word);
        let said = !frame.is_empty();
        if said {
            match word {
                Word::Beat => framed.beats += 1,
                Word::End => framed.beats_before_end = framed.beats,
                Word::Seen => framed.was_seen = true,
                Word::Accepted => framed.was_accepted = true,
                Word::Failed(_) => framed.has_failed = true,
                // Not its answer.
                Word::Reset(_) => framed.has_reset |= !framed.heard_break,
                _ => {}
            }
            // What answers the end of a session came after it.
            if !framed.heard_break {
                self.sent_at = Instant::now();
                if matches!(word, Word::Failed(_) | Word::Reset(_)) && self.doing == Doing::Sending
                {
                    self.doing = Doing::Finished;
                    self.ended_at = Instant::now();
                }
            }
            self.queue(&frame);
            self.push();
        }
        said
    }

    /// Ends a version 3 peer's direction, as far as it has said what comes before.
    fn finish_framed(&mut self) {
        let sent_at = self.sent_at;
        self.say(Word::Seen);
        self.say(Word::Accepted);
        if self.doing == Doing::Sending && self.say(Word::End) {
            self.doing = Doing::Finished;
            self.has_ended = true;
            self.say_seen();
        }
        // As elsewhere, an end is no sign of life: it may come when its peer is absent already.
        self.sent_at = sent_at;
    }

    /// An agent says that it has seen the end of a session.
    fn say_seen(&mut self) {
        let is_over =
            |framed: &Framed| framed.talk.side() == Side::Agent && framed.talk.have_both_ended();
        if self.framed.as_ref().is_some_and(is_over) {
            // As its end: the connector may have given it up meanwhile.
            let sent_at = self.sent_at;
            self.say(Word::Seen);
            self.sent_at = sent_at;
        }
    }

    /// Hears what has come on a version 3 tunnel, and answers.
    fn hear(&mut self) {
        let Some(framed) = &mut self.framed else { return };
        let was = std::mem::take(&mut self.got);
        let (mut data, mut words) = (Vec::new(), Vec::new());
        let mut records = was.into_iter();
        // What was heard before stands in front.
        if self.has_heard {
            data = records.next().unwrap_or_default();
        }
        for record in records {
            let mut rest = &record[..];
            loop {
                let event = framed.talk.hear(&mut rest);
                match event.unwrap_or_else(|fault| panic!("leg {}: {fault}", self.leg)) {
                    None => break,
                    Some(Event::Data(bytes)) => data.extend_from_slice(bytes),
                    Some(Event::Beat) => words.push(Word::BeatAnswer),
                    Some(Event::BeatAnswered) => framed.answers += 1,
                    Some(Event::Ended) => framed.heard_end = true,
                    Some(Event::Reset(_)) => {
                        framed.heard_break = true;
                        // An agent says first that it has seen the session.
                        if !framed.was_seen {
                            words.push(Word::Seen);
                        }
                        words.push(Word::Reset(""));
                    }
                    Some(Event::Failed(_)) => framed.heard_break = true,
                    Some(Event::Opened(_)) => panic!("leg {}: a session in a session", self.leg),
                    Some(_) => {}
                }
            }
        }
        self.got = vec![data];
        self.has_heard = true;
        words.into_iter().for_each(|word| _ = self.say(word));
        self.say_seen();
    }

    /// Ends its direction. `cut`: in TLS without close_notify.
    pub(super) fn finish(&mut self, cut: bool) {
        if self.framed.is_some() {
            return self.finish_framed();
        }
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

    /// Breaks the connection: sends what is no TLS record, or no frame.
    pub(super) fn corrupt(&mut self) {
        if self.doing == Doing::Sending && self.framed.is_some() {
            self.queue(b"Z\0\0\0");
            self.push();
            self.doing = Doing::Broken;
            self.framed.iter_mut().for_each(|framed| framed.has_garbled = true);
        } else if self.doing == Doing::Sending && self.is_tls() && self.is_pushed() {
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
            None if self.framed.is_some() => self.got.push(bytes.to_vec()),
            None => match self.got.first_mut() {
                Some(all) => all.extend_from_slice(bytes),
                None => self.got.push(bytes.to_vec()),
            },
        }
        self.hear();
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
