//! Sessions whose every byte is tagged: its session, its direction and its place are known, so
//! that one that comes from elsewhere, or does not come, is seen.
//!
//! Whoever begins a session says in a first line of 32 bytes what is to happen; the answering
//! agent reads it and does its part.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use crate::common::{BEAT, Got, Link, PATIENCE};

/// Which tunnels a mapping's agents open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Protocol page, section 4.
    One,
    /// Protocol page, section 5.
    Two,
}

/// How a session is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Whoever began it ends it when it has the whole answer.
    Beginner,
    /// The agent ends it behind its answer.
    Agent,
    /// Whoever began it resets in the middle of the answer.
    BeginnerResets,
    /// The agent resets in the middle of its answer.
    AgentResets,
    /// Whoever began it ends its direction before the agent answers.
    HalfClose,
}

/// What a session is to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The session, among all of this run.
    pub tag: u64,
    /// Bytes to the agent.
    pub up: u32,
    /// Bytes from the agent.
    pub down: u32,
    /// How it ends.
    pub ending: Ending,
    /// The beginner's port, which a version 2 agent is told by the PROXY header too.
    pub port: u16,
}

/// What was wrong.
pub enum Fault {
    /// Bytes that are not this session's next ones.
    Foreign(String),
    /// It ended, or stood still, before everything had come; with the bytes that had.
    Cut(u32, String),
}

const HEAD: usize = 32;
const MAGIC: &[u8] = b"TAGGED: ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A connection read byte by byte; in TLS heartbeats' answers, which are records of their own,
/// are dropped.
pub struct Wire {
    link: Link,
    unread: Vec<u8>,
}

/// One direction's bytes as they must come.
struct Expected {
    tag: u64,
    way: u64,
    seen: u32,
    total: u32,
}

impl Wire {
    /// Over a fresh connection.
    pub fn new(link: Link) -> Self {
        Wire { link, unread: Vec::new() }
    }

    /// Proves the passcode; `Ok(false)` is a refusal.
    pub fn prove(&mut self, version: Version, passcode: &str) -> io::Result<bool> {
        let (hello, answer) = match version {
            Version::One => (passcode.to_owned(), &b"AUTHORIZED"[..]),
            Version::Two => (format!("IOFOG/2 {passcode}\n"), &b"IOFOG/2 AUTHORIZED\n"[..]),
        };
        self.link.try_send(hello.as_bytes())?;
        match self.take(answer.len(), Instant::now() + PATIENCE) {
            Ok(bytes) if bytes == answer => Ok(true),
            Ok(bytes) => Err(io::Error::other(format!("{bytes:?} in answer to a passcode"))),
            Err(Got::Late) => Err(io::ErrorKind::TimedOut.into()),
            Err(_) => Ok(false),
        }
    }

    /// Sends a heartbeat.
    pub fn beat(&mut self) -> io::Result<()> {
        self.link.try_send(BEAT)
    }

    /// Whether session bytes, or a PROXY header, have come by `deadline`.
    pub fn is_wanted(&mut self, deadline: Instant) -> Result<bool, Got> {
        loop {
            while self.unread.starts_with(BEAT) {
                self.unread.drain(..BEAT.len());
            }
            if !self.unread.is_empty() && !BEAT.starts_with(&self.unread) {
                return Ok(true);
            }
            match self.more(deadline) {
                Ok(()) => {}
                Err(Got::Late) => return Ok(false),
                Err(end) => return Err(end),
            }
        }
    }

    /// Takes the PROXY header and accepts the session; the user's port where it names one.
    pub fn open(&mut self) -> Result<Option<u16>, Fault> {
        let deadline = Instant::now() + PATIENCE;
        let cut = |got| Fault::Cut(0, format!("{got:?} within a PROXY header"));
        let fixed = self.take(SIGNATURE.len() + 4, deadline).map_err(cut)?;
        let (signature, rest) = fixed.split_at(SIGNATURE.len());
        if signature != SIGNATURE {
            return Err(Fault::Foreign(format!("{fixed:?} for a PROXY header")));
        }
        let length = u16::from_be_bytes([rest[2], rest[3]]);
        let body = self.take(length.into(), deadline).map_err(cut)?;
        // 12 bytes are two addresses of IPv4, then two ports; 36 are the same of IPv6.
        let source = match body.len() {
            12 => body.get(8..10),
            36 => body.get(32..34),
            _ => None,
        };
        let _ = self.link.try_send(b"OPEN");
        Ok(source.map(|port| u16::from_be_bytes([port[0], port[1]])))
    }

    /// The user's or the first agent's part of a session.
    pub fn begin(mut self, plan: Plan) -> Result<(), Fault> {
        let mut answer = Expected { tag: plan.tag, way: 1, seen: 0, total: plan.down };
        let mut question = plan.head();
        question.extend(tagged(plan.tag, 0, plan.up));
        let enough = match plan.ending {
            // Part of the answer says that the question was delivered.
            Ending::BeginnerResets => (plan.down / 2).max(1),
            Ending::AgentResets => plan.down / 2,
            _ => plan.down,
        };
        if plan.ending == Ending::HalfClose {
            self.link.try_send(&question).map_err(|error| Fault::Cut(0, error.to_string()))?;
            self.link.finish();
            question.clear();
        }
        self.exchange(&question, &mut answer, enough)?;
        match plan.ending {
            Ending::BeginnerResets => {
                self.link.reset();
                return Ok(());
            }
            Ending::Beginner => self.link.finish(),
            _ => {}
        }
        self.expect_end(&mut answer)
    }

    /// The agent's part of a session: what it was told to do, and what was wrong with it. With
    /// `again` its tunnel is used again (protocol page, section 6, step 7): it is not told of the
    /// user's end, and its answer follows the whole question.
    pub fn answer(&mut self, again: bool) -> Result<(Plan, Result<(), Fault>), Fault> {
        let cut = |got| Fault::Cut(0, format!("{got:?} before the plan was whole"));
        let head = self.take(HEAD, Instant::now() + PATIENCE).map_err(cut)?;
        let plan = Plan::read(&head)
            .ok_or_else(|| Fault::Foreign(format!("{:?}", String::from_utf8_lossy(&head))))?;
        Ok((plan, self.perform(plan, again)))
    }

    fn perform(&mut self, plan: Plan, again: bool) -> Result<(), Fault> {
        let mut question = Expected { tag: plan.tag, way: 0, seen: 0, total: plan.up };
        let mut answer = tagged(plan.tag, 1, plan.down);
        match plan.ending {
            Ending::HalfClose => {
                self.exchange(&[], &mut question, plan.up)?;
                self.expect_end(&mut question)?;
                let sent = self.link.try_send(&answer);
                self.link.finish();
                return sent.map_err(|error| Fault::Cut(question.seen, error.to_string()));
            }
            // Half of it reaches the user before the reset takes the rest.
            Ending::AgentResets => answer.truncate(answer.len() / 2),
            _ => {}
        }
        if again {
            self.exchange(&[], &mut question, plan.up)?;
        }
        self.exchange(&answer, &mut question, plan.up)?;
        match plan.ending {
            Ending::AgentResets => return Ok(()),
            Ending::Agent => self.link.finish(),
            _ if again => return Ok(()),
            _ => {}
        }
        self.expect_end(&mut question)
    }

    /// Ends it with RST.
    pub fn reset(self) {
        self.link.reset();
    }

    /// Sends `out` and takes at least `enough` bytes of `expected` at the same time.
    fn exchange(&mut self, out: &[u8], expected: &mut Expected, enough: u32) -> Result<(), Fault> {
        let failed = |expected: &Expected, why: String| Fault::Cut(expected.seen, why);
        self.link.queue(out).map_err(|error| failed(expected, error.to_string()))?;
        loop {
            expected.check(&std::mem::take(&mut self.unread))?;
            let flushed = self.link.push().map_err(|error| failed(expected, error.to_string()))?;
            if flushed && expected.seen >= enough {
                return Ok(());
            }
            match self.link.read_now(64 * 1024) {
                Some(Got::Bytes(bytes)) => self.keep(bytes),
                Some(end) => return Err(failed(expected, format!("{end:?}"))),
                None => {
                    if !self.link.wait(true, !flushed, Instant::now() + PATIENCE) {
                        return Err(failed(expected, format!("nothing moved for {PATIENCE:?}")));
                    }
                }
            }
        }
    }

    /// Takes the rest, up to the end, in whatever way it comes.
    fn expect_end(&mut self, expected: &mut Expected) -> Result<(), Fault> {
        loop {
            expected.check(&std::mem::take(&mut self.unread))?;
            match self.more(Instant::now() + PATIENCE) {
                Ok(()) => {}
                Err(Got::Late) => {
                    return Err(Fault::Cut(expected.seen, format!("open after {PATIENCE:?}")));
                }
                Err(_) => return Ok(()),
            }
        }
    }

    fn take(&mut self, count: usize, deadline: Instant) -> Result<Vec<u8>, Got> {
        while self.unread.len() < count {
            self.more(deadline)?;
        }
        let rest = self.unread.split_off(count);
        Ok(std::mem::replace(&mut self.unread, rest))
    }

    fn more(&mut self, deadline: Instant) -> Result<(), Got> {
        match self.link.record_by(deadline) {
            Got::Bytes(bytes) => {
                self.keep(bytes);
                Ok(())
            }
            end => Err(end),
        }
    }

    fn keep(&mut self, bytes: Vec<u8>) {
        if !self.link.is_tls() || !bytes.chunks(4).all(|four| four == BEAT) {
            self.unread.extend(bytes);
        }
    }
}

impl Plan {
    /// A session of a usual size, now and then of a large one.
    pub fn random(tag: u64, version: Version, from: SocketAddr) -> Self {
        let size = || match fastrand::u32(0..100) {
            0 => fastrand::u32(1..512 * 1024),
            1..6 => fastrand::u32(1..64 * 1024),
            _ => fastrand::u32(1..4 * 1024),
        };
        let ending = match (fastrand::u32(0..20), version) {
            (0, _) => Ending::BeginnerResets,
            (1, _) => Ending::AgentResets,
            (2..6, Version::Two) => Ending::HalfClose,
            (2..13, _) => Ending::Agent,
            _ => Ending::Beginner,
        };
        Plan { tag, up: size(), down: size(), ending, port: from.port() }
    }

    /// Both directions' bytes.
    pub fn bytes(&self) -> u64 {
        u64::from(self.up) + u64::from(self.down)
    }

    fn head(&self) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        head.extend(self.tag.to_be_bytes());
        head.extend(self.up.to_be_bytes());
        head.extend(self.down.to_be_bytes());
        head.extend(self.port.to_be_bytes());
        head.push(self.ending as u8);
        head.resize(HEAD, b'.');
        head
    }

    fn read(head: &[u8]) -> Option<Self> {
        const ENDINGS: [Ending; 5] = [
            Ending::Beginner,
            Ending::Agent,
            Ending::BeginnerResets,
            Ending::AgentResets,
            Ending::HalfClose,
        ];
        let head = head.strip_prefix(MAGIC)?;
        Some(Plan {
            tag: u64::from_be_bytes(head[..8].try_into().ok()?),
            up: u32::from_be_bytes(head[8..12].try_into().ok()?),
            down: u32::from_be_bytes(head[12..16].try_into().ok()?),
            port: u16::from_be_bytes(head[16..18].try_into().ok()?),
            ending: *ENDINGS.get(usize::from(head[18]))?,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Foreign(what) => write!(f, "foreign bytes: {what}"),
            Fault::Cut(count, why) => write!(f, "{why} after {count} bytes"),
        }
    }
}

impl Expected {
    fn check(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let from = usize::try_from(self.seen).expect("32 bits");
        let mine = tagged_from(self.tag, self.way, from, bytes.len());
        let count = u32::try_from(bytes.len()).expect("one read");
        if bytes != mine || count > self.total - self.seen {
            let at = bytes.iter().zip(&mine).position(|(a, b)| a != b).unwrap_or(bytes.len());
            let shown = bytes[at..].iter().take(48).map(|byte| format!("{byte:02x}"));
            return Err(Fault::Foreign(format!(
                "session {:x}, way {}, byte {} of {}: {}",
                self.tag,
                self.way,
                from + at,
                self.total,
                shown.collect::<String>()
            )));
        }
        self.seen += count;
        Ok(())
    }
}

/// `len` bytes of one direction of a session.
fn tagged(tag: u64, way: u64, len: u32) -> Vec<u8> {
    tagged_from(tag, way, 0, usize::try_from(len).expect("32 bits"))
}

/// The same from byte `from` on: units of 16 bytes, each with the session, the direction and its
/// place.
fn tagged_from(tag: u64, way: u64, from: usize, len: usize) -> Vec<u8> {
    const UNIT: usize = 16;
    let mut bytes = Vec::with_capacity(len + 2 * UNIT);
    for unit in from / UNIT..(from + len).div_ceil(UNIT) {
        let place = u64::try_from(unit).expect("64 bits") | way << 63;
        bytes.extend_from_slice(&tag.to_be_bytes());
        bytes.extend_from_slice(&place.to_be_bytes());
    }
    let skip = from % UNIT;
    bytes.drain(..skip.min(bytes.len()));
    bytes.truncate(len);
    bytes
}
