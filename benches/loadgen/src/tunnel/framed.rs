//! A tunnel of version 3 (protocol page, section 8): frames, and one session after another.

use super::{Over, Side, Step, TURN, Terms, Tunnel};
use crate::sys;

/// Bytes before a payload.
pub(super) const HEAD: usize = 4;

/// The heartbeat's type.
pub(super) const BEAT: u8 = b'P';

/// Longest payload but for `D`.
const SHORT: usize = 1024;

/// Pieces of a session that are written together.
const PIECES: usize = 16;

/// The frame that is coming, the session, and what is to be said.
#[derive(Default)]
pub(super) struct Frames {
    head: [u8; HEAD],
    /// Bytes of the head that have come.
    have: usize,
    /// Bytes of the payload that are still to come.
    left: usize,
    session: Session,
    /// The connector wants no more sessions.
    heard_bye: bool,
    /// Frames that go out together.
    saying: Vec<u8>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Session {
    /// None; what comes of one that this side has refused is thrown away.
    #[default]
    None,
    Open(Ends),
    /// This side has said `X`; whether it had said `E` before.
    Resetting,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Ends {
    /// The backend is connected, as this side has said.
    accepted: bool,
    said_end: bool,
    heard_end: bool,
    /// The backend knows of the end that was heard.
    passed_on: bool,
}

/// The four bytes before a payload of this length.
pub(super) fn head(kind: u8, length: usize) -> [u8; HEAD] {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    [kind, a, b, c]
}

impl Tunnel {
    /// Moves on as far as it goes; `true` when it may go on at once.
    pub(super) fn step_framed(&mut self, terms: &Terms, buffer: &mut [u8]) -> Result<bool, Over> {
        for _ in 0..TURN {
            self.send(&[])?;
            self.look_after_backend();
            let mut moved = false;
            if self.far.as_ref().is_none_or(Side::is_clear) {
                if let Some(count) = self.receive(&mut buffer[HEAD..])? {
                    moved = true;
                    self.hear(&buffer[HEAD..HEAD + count], terms)?;
                    self.look_after_backend();
                }
            }
            if self.is_clear() {
                moved |= self.answer(buffer)?;
            }
            self.say_all()?;
            if self.frames.heard_bye && self.frames.session == Session::None && self.is_clear() {
                return Err(Over);
            }
            if !moved {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends bytes of the backend, or their end; `true` when there were any.
    fn answer(&mut self, buffer: &mut [u8]) -> Result<bool, Over> {
        let (Session::Open(ends), Some(far)) = (self.frames.session, &mut self.far) else {
            return Ok(false);
        };
        if !ends.accepted || ends.said_end {
            return Ok(false);
        }
        match far.read_or_end(&mut buffer[HEAD..]) {
            Ok(None) => return Ok(false),
            Ok(Some(0)) => {
                self.say(b'E', &[]);
                self.frames.session = Session::Open(Ends { said_end: true, ..ends });
                self.end_session_if_over();
            }
            Ok(Some(count)) => {
                self.say_all()?;
                buffer[..HEAD].copy_from_slice(&head(b'D', count));
                self.send(&buffer[..HEAD + count])?;
            }
            Err(Over) => self.break_off(),
        }
        Ok(true)
    }

    /// Takes what has come.
    pub(super) fn hear(&mut self, mut bytes: &[u8], terms: &Terms) -> Step {
        let (mut pieces, mut count) = ([&[][..]; PIECES], 0);
        loop {
            let frames = &mut self.frames;
            if frames.have < HEAD {
                let take = bytes.len().min(HEAD - frames.have);
                frames.head[frames.have..frames.have + take].copy_from_slice(&bytes[..take]);
                frames.have += take;
                bytes = &bytes[take..];
                if frames.have < HEAD {
                    break;
                }
                let [kind, a, b, c] = frames.head;
                frames.left = u32::from_be_bytes([0, a, b, c]) as usize;
                if kind != b'D' && frames.left > SHORT {
                    return Err(Over);
                }
            }
            let (piece, rest) = bytes.split_at(bytes.len().min(frames.left));
            bytes = rest;
            frames.left -= piece.len();
            let is_data = frames.head[0] == b'D';
            if is_data && !piece.is_empty() {
                if count == PIECES {
                    self.pass_on(&pieces);
                    count = 0;
                }
                pieces[count] = piece;
                count += 1;
            }
            if self.frames.left > 0 {
                break;
            }
            self.frames.have = 0;
            if !is_data {
                self.pass_on(&pieces[..count]);
                count = 0;
                self.obey(terms)?;
            }
        }
        self.pass_on(&pieces[..count]);
        self.say_all()
    }

    /// Does what a frame without bytes of a session asks for.
    fn obey(&mut self, terms: &Terms) -> Step {
        match (self.frames.head[0], self.frames.session) {
            (b'p', _) => self.beats.answered += 1,
            (b'W', _) => {}
            (b'B', _) => self.frames.heard_bye = true,
            (b'O', Session::None) => {
                self.say(b'S', &[]);
                self.frames.session = Session::Open(Ends::default());
                match sys::connect(&terms.backend) {
                    Ok(fd) => self.far = Some(Side::new(fd)),
                    Err(_) => self.break_off(),
                }
            }
            (b'E', Session::Open(ends)) => {
                self.frames.session = Session::Open(Ends { heard_end: true, ..ends });
                self.end_session_if_over();
            }
            (b'X', Session::Open(_)) => {
                self.say(b'X', &[]);
                self.end_session();
            }
            (b'X', Session::Resetting) => self.end_session(),
            (b'E' | b'X', _) => {}
            _ => return Err(Over),
        }
        Ok(())
    }

    /// Sends the backend bytes of the session.
    fn pass_on(&mut self, pieces: &[&[u8]]) {
        let (Session::Open(mut ends), Some(far)) = (self.frames.session, &mut self.far) else {
            return;
        };
        if pieces.is_empty() {
            return;
        }
        // A connection on loopback is mostly made by now, which is known when it takes something.
        far.writable |= !ends.accepted;
        let written = far.write_all(pieces);
        let taken = far.is_clear();
        if written.is_err() {
            self.break_off();
        } else if taken && !ends.accepted {
            ends.accepted = true;
            self.frames.session = Session::Open(ends);
            self.say(b'A', &[]);
        }
    }

    /// Says that the backend is connected, sends it what waits, and tells it of the user's end.
    fn look_after_backend(&mut self) {
        let (Session::Open(mut ends), Some(far)) = (self.frames.session, &mut self.far) else {
            return;
        };
        if !ends.accepted {
            if !far.writable {
                return;
            }
            if sys::socket_error(far.fd).is_some() {
                return self.break_off();
            }
        }
        if far.flush().is_err() {
            return self.break_off();
        }
        let tell = ends.heard_end && !ends.passed_on && far.is_clear();
        if tell {
            sys::finish(far.fd);
            ends.passed_on = true;
        }
        let accepts = !ends.accepted;
        ends.accepted = true;
        self.frames.session = Session::Open(ends);
        if accepts {
            self.say(b'A', &[]);
        }
    }

    /// Has a frame said with the next ones.
    fn say(&mut self, kind: u8, payload: &[u8]) {
        self.frames.saying.extend(head(kind, payload.len()));
        self.frames.saying.extend(payload);
    }

    fn say_all(&mut self) -> Step {
        if self.frames.saying.is_empty() {
            return Ok(());
        }
        let mut saying = std::mem::take(&mut self.frames.saying);
        let said = self.send(&saying);
        saying.clear();
        self.frames.saying = saying;
        said
    }

    /// The backend has failed, or was not reached.
    fn break_off(&mut self) {
        let Session::Open(ends) = self.frames.session else { return };
        if ends.accepted {
            self.say(b'X', b"the backend has broken the connection");
            self.frames.session = Session::Resetting;
        } else {
            self.say(b'F', b"the backend is not reached");
            self.frames.session = Session::None;
        }
        self.leave_backend();
    }

    fn end_session_if_over(&mut self) {
        if let Session::Open(Ends { said_end: true, heard_end: true, .. }) = self.frames.session {
            self.say(b'S', &[]);
            self.end_session();
        }
    }

    fn end_session(&mut self) {
        self.frames.session = Session::None;
        self.leave_backend();
    }

    fn leave_backend(&mut self) {
        if let Some(far) = self.far.take() {
            sys::close(far.fd);
        }
    }
}
