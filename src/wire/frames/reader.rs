//! Where frames begin and end in what comes, in however many pieces.

use std::fmt;

use crate::limits;

/// Bytes of a frame before its payload: its type, and the payload's length.
pub const HEAD: usize = 4;

/// The end of a tunnel that somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Which begins sessions.
    Connector,
    /// Which answers them.
    Agent,
}

/// The types of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Beat = b'P',
    BeatAnswer = b'p',
    Open = b'O',
    Seen = b'S',
    Accepted = b'A',
    Failed = b'F',
    Data = b'D',
    End = b'E',
    Reset = b'X',
    Want = b'W',
    Bye = b'B',
}

/// Why a tunnel ends on which its peer has said what it may not say: a clause about the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub(super) &'static str);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A part of what has come.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// Of the payload of `D`, as much as has come.
    Data(&'a [u8]),
    /// Any other frame, whole.
    Frame(Kind, Vec<u8>),
}

#[derive(Debug, Default)]
pub(super) struct Reader {
    head: [u8; HEAD],
    come: u8,
    /// Bytes of a `D` frame's payload that are still to come.
    data: u32,
    /// Another frame that has begun, as far as its payload has come; empty and without memory between two.
    begun: Option<(Kind, Vec<u8>)>,
}

impl Reader {
    pub(super) fn data_left(&self) -> usize {
        self.data as usize
    }

    pub(super) fn took(&mut self, bytes: usize) {
        self.data = self.data.saturating_sub(bytes as u32);
    }

    /// The next part of `bytes`, which are behind it then; `None` when more must come.
    ///
    /// # Errors
    /// The next frame is none that the other end may send.
    pub(super) fn next<'a>(
        &mut self,
        bytes: &mut &'a [u8],
        side: Side,
    ) -> Result<Option<Piece<'a>>, Fault> {
        loop {
            if self.data > 0 {
                let data = take(bytes, self.data as usize);
                self.took(data.len());
                return Ok((!data.is_empty()).then_some(Piece::Data(data)));
            }
            if let Some((kind, mut payload)) = self.begun.take() {
                payload.extend_from_slice(take(bytes, self.length() - payload.len()));
                if payload.len() == self.length() {
                    return Ok(Some(Piece::Frame(kind, payload)));
                }
                self.begun = Some((kind, payload));
                return Ok(None);
            }
            let come = usize::from(self.come);
            let head = take(bytes, HEAD - come);
            self.head[come..come + head.len()].copy_from_slice(head);
            self.come += head.len() as u8;
            if usize::from(self.come) < HEAD {
                return Ok(None);
            }
            self.come = 0;
            match self.kind(side)? {
                Kind::Data => self.data = self.length() as u32,
                kind => self.begun = Some((kind, Vec::new())),
            }
        }
    }

    /// The payload's length in the last head.
    fn length(&self) -> usize {
        let [_, one, two, three] = self.head;
        u32::from_be_bytes([0, one, two, three]) as usize
    }

    /// The type in the last head, which the other end of `side` may send with this length.
    fn kind(&self, side: Side) -> Result<Kind, Fault> {
        let is_connector = side == Side::Connector;
        let (kind, lengths) = match self.head[0] {
            b'D' => (Kind::Data, 1..=limits::FRAME_DATA),
            b'E' => (Kind::End, 0..=0),
            b'X' => (Kind::Reset, 0..=limits::FRAME_REASON),
            b'B' => (Kind::Bye, 0..=0),
            b'P' if is_connector => (Kind::Beat, 0..=0),
            b'S' if is_connector => (Kind::Seen, 0..=0),
            b'A' if is_connector => (Kind::Accepted, 0..=0),
            b'F' if is_connector => (Kind::Failed, 0..=limits::FRAME_REASON),
            b'p' if !is_connector => (Kind::BeatAnswer, 0..=0),
            b'O' if !is_connector => (Kind::Open, 0..=limits::FRAME_OTHER),
            b'W' if !is_connector => (Kind::Want, 2..=2),
            _ => return Err(Fault("it sent a frame of a type that its side does not have")),
        };
        if lengths.contains(&self.length()) {
            Ok(kind)
        } else {
            Err(Fault("it sent a frame of a length that its type does not have"))
        }
    }
}

/// As much of the front of `bytes` as there is, `most` bytes at most.
fn take<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    taken
}
