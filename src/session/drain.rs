//! A version 1 tunnel whose user has left, read to nowhere until the old answer is over (protocol
//! page, section 6, step 7). It has never heard of mappings.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::residue::{Missing, Residue, Verdict};
use crate::limits;
use crate::net::stream::{Received, Stream};
use crate::runtime::{Timer, now};
use crate::wire::heartbeat::{BEAT, Sieve, beats};

/// A tunnel that is being read to nowhere.
pub struct Drain {
    stream: Stream,
    /// Silence after which the agent is taken for gone; `None` for never.
    threshold: Option<Duration>,
    residue: Residue,
    /// Heartbeats in plain TCP.
    sieve: Sieve,
    started: Instant,
    /// When the agent last sent anything, heartbeats included.
    heard_at: Instant,
    /// Heartbeats answered since the last answer was with the kernel, in bytes.
    answers: usize,
    bytes: u64,
    timer: Timer,
    stall_check: Option<Instant>,
}

/// How a tunnel came out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more comes.
    Clean,
    /// Nothing has come for as long as an answer is waited for that a user has asked for.
    Unanswered,
    /// Its agent closed it, or it broke.
    Left,
    /// It sent nothing for its heartbeat threshold.
    Absent,
    /// It acknowledged nothing for a minute.
    Stalled,
}

impl Outcome {
    /// Whether the tunnel can carry a session.
    pub fn is_usable(self) -> bool {
        matches!(self, Outcome::Clean | Outcome::Unanswered)
    }
}

/// What there is to say of it.
#[derive(Clone, Copy, Debug)]
pub struct Drained {
    /// Whether it can be used again.
    pub outcome: Outcome,
    /// What was still to come on it, unless it ended by itself and in order.
    pub missing: Missing,
    /// When the agent last sent anything.
    pub heard_at: Instant,
    /// When it last sent anything but heartbeats.
    pub spoke_at: Instant,
    /// Bytes read to nowhere.
    pub bytes: u64,
    /// How long that took.
    pub lasted: Duration,
}

impl Drain {
    /// A tunnel whose user has left; `heard_at` is when its agent last sent anything.
    pub fn new(
        mut stream: Stream,
        threshold: Option<Duration>,
        residue: Residue,
        heard_at: Instant,
    ) -> Self {
        stream.close_in_order();
        Drain {
            stream,
            threshold,
            residue,
            sieve: Sieve::default(),
            started: now(),
            heard_at,
            answers: 0,
            bytes: 0,
            timer: Timer::new(),
            stall_check: None,
        }
    }

    /// Takes what came last before it, of which heartbeats are not answered yet.
    ///
    /// # Errors
    /// As [`Stream::queue`].
    pub fn take_over(&mut self, before: &[u8]) -> io::Result<()> {
        let beats = if self.stream.is_tls() { 0 } else { self.sieve.take(before).0 };
        self.answer(beats)
    }

    fn answer(&mut self, heartbeats: usize) -> io::Result<()> {
        self.answers += heartbeats * BEAT.len();
        if heartbeats == 0 { Ok(()) } else { self.stream.queue_times(BEAT, heartbeats) }
    }

    /// Its connection, to be used again or closed.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Whether the agent owes an answer.
    pub fn is_owed(&self) -> bool {
        self.residue.is_owed()
    }

    fn drained(&self, outcome: Outcome, in_order: bool) -> Drained {
        let missing = match self.residue.missing(now()) {
            _ if in_order || outcome.is_usable() => Missing::Nothing,
            // More of it may have come than was read.
            Missing::Nothing => Missing::Rest,
            missing => missing,
        };
        Drained {
            outcome,
            missing,
            heard_at: self.heard_at,
            spoke_at: self.residue.heard_at(),
            bytes: self.bytes,
            lasted: now().saturating_duration_since(self.started),
        }
    }

    /// Reads once; `None` when nothing more can be read now, or in this turn.
    fn read(&mut self, context: &Context<'_>) -> Option<Result<(), (Outcome, bool)>> {
        match self.stream.poll_flush(context) {
            Poll::Ready(Ok(())) => self.answers = 0,
            Poll::Ready(Err(_)) => return Some(Err((Outcome::Left, false))),
            Poll::Pending if self.answers >= limits::ANSWERS_WAITING => {
                // Who is not read cannot be heard.
                self.heard_at = now();
                return None;
            }
            Poll::Pending => {}
        }
        // Known before all that has come is read: its agent may be back at once.
        if self.stream.poll_broken(context).is_ready() {
            return Some(Err((Outcome::Left, false)));
        }
        let (tls, mut heartbeats, mut bytes) = (self.stream.is_tls(), 0, 0);
        let sieve = &mut self.sieve;
        let received = self.stream.poll_receive(context, &mut |unit| {
            let (count, others) = match tls {
                false => sieve.take(unit),
                true if beats(unit, tls) > 0 => (1, 0),
                true => (0, unit.len()),
            };
            heartbeats += count;
            bytes += others as u64;
        });
        match received {
            Poll::Ready(Ok(Received::Bytes(_))) => {}
            Poll::Ready(Ok(Received::Ended)) => {
                return Some(Err((Outcome::Left, !self.stream.is_cut())));
            }
            Poll::Ready(Err(_)) => return Some(Err((Outcome::Left, false))),
            Poll::Pending => return None,
        }
        self.heard_at = now();
        if self.answer(heartbeats).is_err() {
            return Some(Err((Outcome::Left, false)));
        }
        if bytes > 0 {
            self.bytes += bytes;
            self.residue.heard(bytes, now());
        }
        Some(Ok(()))
    }

    /// What time alone has made of it, or when to look again.
    fn due(&mut self) -> Result<Outcome, Instant> {
        let now = now();
        let rest_by = self.heard_at + limits::BEAT_REST;
        if self.sieve.is_amid() && rest_by <= now {
            let bytes = self.sieve.release() as u64;
            self.bytes += bytes;
            self.residue.heard(bytes, self.heard_at);
        }
        let mut next = match self.residue.verdict(now) {
            Verdict::Until(at) => at,
            // Its turn may have ended before all was read, and answers of its own are to be with the
            // kernel before it goes on elsewhere.
            _ if self.stream.maybe_readable() || self.stream.waiting() > 0 => {
                now + limits::STALL_CHECK
            }
            // The rest of a heartbeat would be another session's bytes.
            _ if self.sieve.is_amid() => rest_by,
            Verdict::Clean => return Ok(Outcome::Clean),
            Verdict::Unanswered => return Ok(Outcome::Unanswered),
        };
        if let Some(threshold) = self.threshold {
            let absent = self.heard_at + threshold;
            if absent <= now {
                return Ok(Outcome::Absent);
            }
            next = next.min(absent);
        }
        if self.stream.may_stall() {
            let at = *self.stall_check.get_or_insert(now + limits::STALL_CHECK);
            if at <= now && self.stream.is_stalled() {
                return Ok(Outcome::Stalled);
            }
            let at = if at <= now { now + limits::STALL_CHECK } else { at };
            self.stall_check = Some(at);
            next = next.min(at);
        }
        Err(next)
    }
}

impl Future for Drain {
    type Output = Drained;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Drained> {
        while let Some(read) = self.read(context) {
            if let Err((outcome, in_order)) = read {
                return Poll::Ready(self.drained(outcome, in_order));
            }
        }
        match self.due() {
            Ok(outcome) => Poll::Ready(self.drained(outcome, false)),
            Err(next) => {
                if self.timer.poll_at(context, next).is_ready() {
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{block_on, look};
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::pin::pin;
    use std::task::Waker;

    /// A connection with much unread and a reset behind it.
    fn broken_behind_unread_bytes() -> TcpStream {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 4 << 20).unwrap();
        let mut agent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (connector, _) = listener.accept().unwrap();
        agent.set_nonblocking(true).unwrap();
        connector.set_nonblocking(true).unwrap();
        while agent.write(&[b'x'; 16 * 1024]).is_ok() {}
        let linger = Some(Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&agent, linger).unwrap();
        drop(agent);
        connector
    }

    #[test]
    fn reset_behind_unread_bytes_ends_it_at_the_next_look() {
        block_on(async {
            let socket = broken_behind_unread_bytes();
            let unread = rustix::io::ioctl_fionread(&socket).unwrap();
            assert!(unread > 2 * limits::TURN as u64, "{unread} bytes are too few to show it");
            let stream = Stream::plain(socket).unwrap();
            let residue = Residue::stray(stream.round_trip(), None, now());
            let mut drain = pin!(Drain::new(stream, None, residue, now()));
            let context = &mut Context::from_waker(Waker::noop());
            let mut polled = drain.as_mut().poll(context);
            if polled.is_pending() {
                look().await;
                polled = drain.poll(context);
            }
            let Poll::Ready(drained) = polled else { panic!("not noticed") };
            assert_eq!((drained.outcome, drained.missing), (Outcome::Left, Missing::Rest));
        })
        .unwrap();
    }
}
