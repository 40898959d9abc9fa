//! Version 3 of a tunnel as values: frames, and the order in which both ends may say them (protocol page,
//! section 8). Bytes go in and events come out; no socket, no clock.

use crate::limits;
use reader::{Kind, Piece, Reader};

pub use reader::{Fault, HEAD, Side};

mod reader;

#[cfg(test)]
mod tests;

/// What the peer has said.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A heartbeat, which is to be answered.
    Beat,
    /// The answer to one.
    BeatAnswered,
    /// A session begins, with this PROXY header.
    Opened(Box<[u8]>),
    /// The agent has seen that the session begins.
    Seen,
    /// The agent has reached its service.
    Accepted,
    /// It has not, for this reason. The session is over.
    Failed(String),
    /// Bytes of the session.
    Data(&'a [u8]),
    /// The peer's direction has ended.
    Ended,
    /// The session is broken off, for this reason; to be answered with [`Word::Reset`].
    Reset(String),
    /// The session is over for the agent, too; or for the peer, where this side has broken it off.
    Over,
    /// So many users wait.
    Want(u16),
    /// The peer wants no more sessions on this tunnel.
    Bye,
}

/// What can be said; bytes of a session have a [`data_head`] instead.
#[derive(Clone, Copy, Debug)]
pub enum Word<'a> {
    /// A heartbeat.
    Beat,
    /// The answer to one.
    BeatAnswer,
    /// A session begins, with this PROXY header.
    Open(&'a [u8]),
    /// The answer to that, and to the end of a session of which both directions have ended.
    Seen,
    /// The service is reached.
    Accepted,
    /// The service is not reached, for this reason.
    Failed(&'a str),
    /// This direction has ended.
    End,
    /// The session is broken off, for this reason, or the answer to that.
    Reset(&'a str),
    /// So many users wait.
    Want(u16),
    /// No more sessions on this tunnel.
    Bye,
}

const OUT_OF_ORDER: Fault = Fault("it sent a frame at a time when there is none of its type");
const TOO_MUCH: Fault = Fault("it sent over 16 MiB of a session that was over");

/// One end of a tunnel.
#[derive(Debug)]
pub struct Talk {
    side: Side,
    reader: Reader,
    session: Session,
    /// Bytes thrown away of the session that was broken off or has failed.
    thrown: usize,
    said_bye: bool,
    heard_bye: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    Idle,
    /// The agent's, after `F`: what the connector has sent before it knew.
    Refused,
    Open(Open),
    /// This side has said `X`, with the session as far as this.
    Resetting(Open),
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Open {
    seen: bool,
    accepted: bool,
    said_end: bool,
    heard_end: bool,
    heard_reset: bool,
}

impl Open {
    /// Whether the other end may send bytes of the session, or that they have ended.
    fn takes_bytes(&self, side: Side) -> bool {
        (self.accepted || side == Side::Agent) && !self.heard_end && !self.heard_reset
    }
}

impl Talk {
    /// A tunnel that was authorized just now.
    pub fn new(side: Side) -> Self {
        Talk {
            side,
            reader: Reader::default(),
            session: Session::Idle,
            thrown: 0,
            said_bye: false,
            heard_bye: false,
        }
    }

    /// The end of the tunnel that this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Whether there is no session, nor one that is being broken off.
    pub fn is_idle(&self) -> bool {
        matches!(self.session, Session::Idle | Session::Refused)
    }

    /// Whether the agent has said that it has seen the session.
    pub fn is_seen(&self) -> bool {
        matches!(self.session, Session::Open(Open { seen: true, .. }))
    }

    /// Whether the agent has said that it has reached its service.
    pub fn is_accepted(&self) -> bool {
        matches!(self.session, Session::Open(Open { accepted: true, .. }))
    }

    /// Whether the peer has ended its direction of this session.
    pub fn has_ended(&self) -> bool {
        matches!(self.session, Session::Open(Open { heard_end: true, .. }))
    }

    /// Whether both directions of this session have ended, but not the session: the agent is still to say that it
    /// has seen it.
    pub fn have_both_ended(&self) -> bool {
        matches!(self.session, Session::Open(Open { said_end: true, heard_end: true, .. }))
    }

    /// Whether this side has said that it wants no more sessions.
    pub fn has_said_bye(&self) -> bool {
        self.said_bye
    }

    /// Whether the peer has said that it wants no more sessions.
    pub fn has_heard_bye(&self) -> bool {
        self.heard_bye
    }

    /// Bytes of the session that come next, with nothing between them, and may be taken by
    /// [`took`](Self::took) instead of [`hear`](Self::hear).
    pub fn data_left(&self) -> usize {
        match self.session {
            Session::Open(open) if open.takes_bytes(self.side) => self.reader.data_left(),
            _ => 0,
        }
    }

    /// So many bytes of the session were taken past this.
    pub fn took(&mut self, bytes: usize) {
        self.reader.took(bytes);
    }

    /// Reads from the front of `bytes` until something has happened, and leaves what follows. `None`: more
    /// must come.
    ///
    /// # Errors
    /// What ends the tunnel.
    pub fn hear<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Event<'a>>, Fault> {
        while let Some(piece) = self.reader.next(bytes, self.side)? {
            let event = match piece {
                Piece::Data(data) => self.data(data)?,
                Piece::Frame(kind, payload) => self.frame(kind, payload)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// Bytes of a session.
    fn data<'a>(&mut self, data: &'a [u8]) -> Result<Option<Event<'a>>, Fault> {
        match self.session {
            Session::Open(open) if open.takes_bytes(self.side) => Ok(Some(Event::Data(data))),
            Session::Refused | Session::Resetting(_) => {
                self.thrown += data.len();
                if self.thrown > limits::THROWN { Err(TOO_MUCH) } else { Ok(None) }
            }
            _ => Err(OUT_OF_ORDER),
        }
    }

    /// A frame without bytes of a session.
    fn frame(&mut self, kind: Kind, payload: Vec<u8>) -> Result<Option<Event<'static>>, Fault> {
        Ok(Some(match kind {
            Kind::Beat => Event::Beat,
            Kind::BeatAnswer => Event::BeatAnswered,
            Kind::Want => Event::Want(u16::from_be_bytes(payload.try_into().unwrap_or_default())),
            Kind::Bye => {
                self.heard_bye = true;
                Event::Bye
            }
            // The connector begins no session after its own `B`.
            Kind::Open if self.is_idle() && !self.heard_bye => {
                self.begin();
                Event::Opened(payload.into())
            }
            Kind::Open | Kind::Data => return Err(OUT_OF_ORDER),
            Kind::Seen | Kind::Accepted | Kind::Failed | Kind::End | Kind::Reset => {
                return self.of_session(kind, payload);
            }
        }))
    }

    /// A frame that belongs to a session.
    fn of_session(
        &mut self,
        kind: Kind,
        payload: Vec<u8>,
    ) -> Result<Option<Event<'static>>, Fault> {
        let reason =
            String::from_utf8(payload).map_err(|_| Fault("it sent a reason that is not UTF-8"))?;
        let side = self.side;
        match &mut self.session {
            // It crossed this side's `F`, or the end of a session in order.
            Session::Idle if kind == Kind::Reset => Ok(None),
            Session::Refused if matches!(kind, Kind::Reset | Kind::End) => Ok(None),
            Session::Idle | Session::Refused => Err(OUT_OF_ORDER),
            Session::Resetting(open) => {
                let have_both_ended = open.said_end && open.heard_end;
                let is_over = match kind {
                    Kind::Failed => true,
                    Kind::Reset => open.seen || side == Side::Agent,
                    Kind::Seen => open.seen && have_both_ended,
                    _ => false,
                };
                open.seen |= kind == Kind::Seen;
                open.heard_end |= kind == Kind::End;
                if is_over {
                    self.session = Session::Idle;
                }
                Ok(is_over.then_some(Event::Over))
            }
            Session::Open(open) => match kind {
                Kind::Seen if !open.seen => {
                    open.seen = true;
                    Ok(Some(Event::Seen))
                }
                Kind::Seen if open.said_end && open.heard_end => {
                    self.session = Session::Idle;
                    Ok(Some(Event::Over))
                }
                // It belongs to the session before.
                Kind::Reset if !open.seen && side == Side::Connector => Ok(None),
                Kind::Reset if !open.heard_reset => {
                    open.heard_reset = true;
                    Ok(Some(Event::Reset(reason)))
                }
                Kind::Accepted if open.seen && !open.accepted => {
                    open.accepted = true;
                    Ok(Some(Event::Accepted))
                }
                Kind::Failed if open.seen && !open.accepted => {
                    self.session = Session::Idle;
                    Ok(Some(Event::Failed(reason)))
                }
                Kind::End if open.takes_bytes(side) => {
                    open.heard_end = true;
                    Ok(Some(Event::Ended))
                }
                _ => Err(OUT_OF_ORDER),
            },
        }
    }

    fn begin(&mut self) {
        self.session = Session::Open(Open::default());
        self.thrown = 0;
    }

    /// The frame for this word; the state follows. What is not to be said now is an empty one.
    pub fn say(&mut self, word: Word<'_>) -> Vec<u8> {
        let session = &mut self.session;
        match (word, session) {
            (Word::Beat, _) => frame(Kind::Beat, &[]),
            (Word::BeatAnswer, _) => frame(Kind::BeatAnswer, &[]),
            (Word::Want(users), _) => frame(Kind::Want, &users.to_be_bytes()),
            (Word::Bye, _) => {
                self.said_bye = true;
                frame(Kind::Bye, &[])
            }
            (Word::Open(header), Session::Idle) if !self.said_bye => {
                self.begin();
                frame(Kind::Open, header)
            }
            (Word::Seen, Session::Open(open)) if !open.seen => {
                open.seen = true;
                frame(Kind::Seen, &[])
            }
            (Word::Seen, Session::Open(open)) if open.said_end && open.heard_end => {
                self.session = Session::Idle;
                frame(Kind::Seen, &[])
            }
            (Word::Accepted, Session::Open(open)) if open.seen && !open.accepted => {
                open.accepted = true;
                frame(Kind::Accepted, &[])
            }
            (Word::Failed(reason), Session::Open(open)) if open.seen && !open.accepted => {
                self.session = Session::Refused;
                frame(Kind::Failed, shortened(reason))
            }
            (Word::End, Session::Open(open)) if !open.said_end => {
                open.said_end = true;
                frame(Kind::End, &[])
            }
            (Word::Reset(reason), Session::Open(open)) => {
                self.session = match open.heard_reset {
                    true => Session::Idle,
                    false => Session::Resetting(*open),
                };
                frame(Kind::Reset, shortened(reason))
            }
            _ => Vec::new(),
        }
    }
}

/// What goes before so many bytes of a session, 1 to [`limits::FRAME_DATA`].
pub fn data_head(length: usize) -> [u8; HEAD] {
    head(Kind::Data, length)
}

fn head(kind: Kind, length: usize) -> [u8; HEAD] {
    let [_, one, two, three] = (length as u32).to_be_bytes();
    [kind as u8, one, two, three]
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    [&head(kind, payload.len()), payload].concat()
}

/// As much of a reason as a frame may hold.
fn shortened(reason: &str) -> &[u8] {
    let ends = (0..=reason.len().min(limits::FRAME_REASON)).rev();
    let end = ends.into_iter().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    &reason.as_bytes()[..end]
}
