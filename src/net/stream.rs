//! One leg of a pipe: a TCP connection, with TLS or without, read and written in units.
//!
//! A *unit* is what arrives at once: in TLS one record, in plain TCP one read. Agents depend on
//! it (protocol page, section 4), so nothing here ever joins two records or splits one. This
//! file knows nothing of heartbeats, tunnels or mappings.

mod acknowledged;
mod aside;
mod bytes;
mod closing;
mod handshake;
mod receive;
mod send;
mod tls;

use std::cell::RefCell;
use std::io;
use std::net::TcpStream;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::limits;
use crate::net::conduit::Conduit;
use crate::runtime::turn::Turn;
use crate::runtime::{Io, Load, now};
use crate::tls::handshake::Handshake;
use aside::Aside;
use tls::{Step, Tls};
pub use tls::{is_too_many, is_too_much};

#[cfg(test)]
pub use handshake::set_stepped;

thread_local! {
    /// What this thread is reading right now. Nothing stays in it between two polls, so that all
    /// sessions of a thread share it and an idle one holds no buffer.
    static INCOMING: RefCell<Box<[u8]>> = RefCell::new(vec![0; limits::READ_BYTES].into());
}

/// A connection that takes and gives units, registered on the thread that polls it.
pub struct Stream {
    socket: Io<TcpStream>,
    state: State,
    /// What the peer may still cause before the kernel is looked at.
    turn: Turn,
}

/// A connection on its way from one task to another, on the same thread or another.
pub struct Detached(Stream);

struct State {
    tls: Option<Box<Tls>>,
    /// Plain bytes that the socket has not taken yet, from `sent` on; empty and without memory
    /// while the peer keeps up.
    rest: Vec<u8>,
    sent: usize,
    /// Plain bytes that go before `rest`, in a kernel pipe.
    conduit: Option<Conduit>,
    /// Bytes queued since the last time everything was with the kernel.
    queued: usize,
    /// What has gone to the peer behind the last bytes of a session.
    aside: Aside,
    /// When the first bytes were queued of which it is not known that the peer has them.
    waiting_since: Option<Instant>,
    /// Bytes acknowledged when [`Stream::is_draining`] last asked.
    acknowledged: u64,
    /// Whether the peer's end has been read: nothing more comes.
    ended: bool,
    /// Whether a drop resets the connection ([`Stream::break_when_dropped`]).
    breaks: bool,
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Open,
    /// close_notify is among what is to be sent.
    Closing,
    Finished,
}

/// What [`Stream::poll_receive`] has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes came in; 0 when they made no whole unit yet.
    Bytes(usize),
    /// The peer has ended its direction.
    Ended,
}

impl Stream {
    /// A plain connection.
    ///
    /// # Errors
    /// As [`Io::new`].
    pub fn plain(socket: TcpStream) -> io::Result<Self> {
        Ok(Stream { socket: Io::new(socket)?, state: State::new(None), turn: Turn::default() })
    }

    /// A stranger, or one with nothing to say now, may send as much as at first.
    pub fn allow(&mut self) {
        if let Some(tls) = &mut self.state.tls {
            tls.allowance = limits::STRANGER_BYTES;
        }
    }

    /// It has proved itself: what it sends is not counted any more.
    pub fn trust(&mut self) {
        self.take_at_most(usize::MAX);
        if let Some(tls) = &mut self.state.tls {
            tls.share = None;
        }
    }

    /// From now on takes so many bytes from the other end in TLS, handshakes and records that carry
    /// nothing included, and fails beyond.
    pub fn take_at_most(&mut self, bytes: usize) {
        if let Some(tls) = &mut self.state.tls {
            tls.allowance = bytes;
            if std::mem::take(&mut tls.kept) {
                tls.unused = tls.unopened.len().saturating_sub(tls.begun);
            }
            if let Some(share) = &mut tls.share {
                // No more than before, which is always there.
                let _ = share.holds(tls.unused);
            }
        }
    }

    /// A TLS connection, with so many bytes for a stranger.
    fn tls(socket: Io<TcpStream>, handshake: Handshake, allowance: usize) -> io::Result<Self> {
        let mut state = State::new(Some(Box::new(Tls::new(handshake, allowance)?)));
        // The handshake's last bytes may never have arrived.
        state.waiting_since = Some(now());
        Ok(Stream { socket, state, turn: Turn::default() })
    }

    /// Takes it off this thread, on its way to another.
    pub fn detach(mut self) -> Detached {
        self.leave();
        Detached(self)
    }

    /// Gives it back from work in this place to the thread that has given the work: off this thread, unless that is it.
    pub fn give_back(self, load: &Load) -> Detached {
        if load.is_home() { Detached(self) } else { self.detach() }
    }

    /// Takes it out of this thread's reactor. Nothing can be done with it before it [enters](Self::enter)
    /// another one.
    pub fn leave(&mut self) {
        self.socket.leave();
    }

    /// Takes it into this thread's reactor, if it is not there.
    ///
    /// # Errors
    /// As [`Io::new`].
    pub fn enter(&mut self) -> io::Result<()> {
        self.turn = Turn::default();
        self.socket.enter()
    }

    /// Whether the server has given a ticket for another session (TLS 1.3).
    pub fn has_ticket(&self) -> bool {
        let step = self.state.tls.as_ref().map(|tls| &tls.step);
        matches!(step, Some(Step::Records(records)) if records.has_ticket())
    }

    /// Whether both ends have agreed on a protocol in the handshake (ALPN).
    pub fn has_protocol(&self) -> bool {
        self.state.tls.as_ref().is_some_and(|tls| tls.has_protocol)
    }

    /// The socket, to ask it for addresses.
    pub fn socket(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    /// Bytes that are held for the peer, that have come from it and were not passed on, and that the kernel has of it.
    pub fn held(&self) -> [usize; 3] {
        let tls = self.state.tls.as_deref();
        let unread = rustix::io::ioctl_fionread(self.socket()).unwrap_or_default();
        [self.waiting(), tls.map_or(0, Tls::unread), unread as usize]
    }

    /// What the peer has caused in this turn.
    pub fn spent(&self) -> usize {
        self.turn.spent()
    }

    /// Has the next read ask the kernel, whatever it has told before.
    pub fn look_again(&self) {
        self.socket.look_again();
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.state.tls.is_some()
    }

    /// Whether something may have come in that nobody has been given.
    pub fn maybe_readable(&self) -> bool {
        let held = |tls: &Tls| tls.news || tls.has_record();
        self.socket.maybe_readable() || self.state.tls.as_deref().is_some_and(held)
    }

    /// Whether the peer's end was in TLS without close_notify: whoever ends that way may have been
    /// killed in mid-answer (RFC 8446, section 6.1).
    pub fn is_cut(&self) -> bool {
        self.state.tls.as_ref().is_some_and(|tls| tls.ended && !tls.closed)
    }

    /// Whether the peer has announced its end: close_notify in TLS. Plain TCP has nothing like it.
    pub fn has_sent_close_notify(&self) -> bool {
        self.state.tls.as_ref().is_some_and(|tls| tls.closed)
    }

    /// Ready when the connection has broken; for a task that does not read now.
    pub fn poll_broken(&self, context: &Context<'_>) -> Poll<()> {
        self.socket.poll_broken(context)
    }

    /// Ready when the peer has ended its direction or the connection is gone; for a task that does
    /// not read now.
    pub fn poll_ended(&self, context: &Context<'_>) -> Poll<()> {
        self.socket.poll_ended(context)
    }

    /// Whether the peer is known to have ended its direction, whatever is left to be read.
    pub fn has_ended(&self) -> bool {
        self.socket.has_ended()
    }

    /// Ready when the connection is gone in both directions.
    pub fn poll_gone(&self, context: &Context<'_>) -> Poll<()> {
        self.socket.poll_gone(context)
    }
}

impl Detached {
    /// Puts it on this thread.
    ///
    /// # Errors
    /// As [`Io::new`].
    pub fn attach(mut self) -> io::Result<Stream> {
        self.0.enter()?;
        Ok(self.0)
    }
}

impl State {
    fn new(tls: Option<Box<Tls>>) -> Self {
        State {
            tls,
            rest: Vec::new(),
            sent: 0,
            conduit: None,
            queued: 0,
            aside: Aside::default(),
            waiting_since: None,
            acknowledged: 0,
            ended: false,
            breaks: false,
            output: Output::Open,
        }
    }
}
