//! One leg of a pipe: a TCP connection, with TLS or without, read and written in units.
//!
//! A *unit* is what arrives at once: in TLS one record, in plain TCP one read. Agents depend on
//! it (protocol page, section 4), so nothing here ever joins two records or splits one. This
//! file knows nothing of heartbeats, tunnels or mappings.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use futures_rustls::pki_types::ServerName;
use futures_rustls::rustls::{
    ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection,
};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use smol::io::{AsyncRead, AsyncWrite};

use crate::limits;
use crate::net::conduit::Conduit;
use crate::net::share::Share;
use crate::net::stall::Acknowledged;
use crate::net::tcp_info;
use crate::runtime::turn::{Rest, Turn};
use crate::runtime::{Io, Timer, looks, now, yield_turn};
use crate::tls::sni::Greeting;

thread_local! {
    /// What this thread is reading right now. Nothing stays in it between two polls, so that all
    /// sessions of a thread share it and an idle one holds no buffer.
    static INCOMING: RefCell<Box<[u8]>> = RefCell::new(vec![0; limits::READ_BYTES].into());
    /// The look at the kernel after which this thread last took a step of a handshake.
    static STEPPED: Cell<u32> = const { Cell::new(0) };
}

/// As if the last step of a handshake on this thread was after so many looks.
#[cfg(test)]
pub fn set_stepped(look: u32) {
    STEPPED.set(look);
}

/// A connection that takes and gives units, registered on the thread that polls it.
pub struct Stream {
    socket: Io<TcpStream>,
    state: State,
    /// What the peer may still cause before the kernel is looked at.
    turn: Turn,
}

/// A connection on its way from one thread to another.
pub struct Detached {
    socket: TcpStream,
    state: State,
}

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

struct Tls {
    connection: Connection,
    /// A client's first bytes, which may have to be shown otherwise.
    greeting: Option<Box<Greeting>>,
    /// What has been received of records beyond the turn in which it came, from `begun` on; empty
    /// and without memory while a turn is enough.
    unopened: Vec<u8>,
    begun: usize,
    framing: Framing,
    /// What it has sent of records that carry nothing.
    rest: Rest,
    /// Bytes that a stranger may still send; `usize::MAX` for who has proved itself.
    allowance: usize,
    /// What a stranger holds: the bytes that came since it last sent something that could be handed
    /// out; `None` for who has proved itself, and on the agent's side.
    share: Option<Share>,
    unused: usize,
    /// Whether it is the connection that holds what could be handed out.
    kept: bool,
    /// Whether a step of the handshake had something for the peer since this was last asked.
    replied: bool,
    /// Whether the connection may hold opened bytes that nobody has been given.
    opened: bool,
    /// Whether the peer has ended its direction (close_notify, or the socket's end).
    ended: bool,
    /// Whether that was close_notify.
    closed: bool,
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

    /// Shakes hands as the server, with a stranger. The caller sets the deadline. `answered` is called
    /// when what has come is dealt with, and it is the stranger's turn: with `true` if there was
    /// something to answer, and `false` if that was not enough for it.
    ///
    /// # Errors
    /// What rustls or the socket says; an alert for the peer has been sent then.
    pub async fn accept(
        socket: TcpStream,
        config: Arc<ServerConfig>,
        answered: impl FnMut(bool),
    ) -> io::Result<Self> {
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        let connection = Connection::Server(connection);
        let mut stream = Stream::tls(Io::new(socket)?, connection, limits::HANDSHAKE_BYTES);
        if let Some(tls) = &mut stream.state.tls {
            tls.share = Some(Share::of_greetings());
        }
        stream.shake_hands(answered).await?;
        stream.allow();
        Ok(stream)
    }

    /// Goes on with the handshake, one step a turn, and one of all handshakes of the thread: with a
    /// hard certificate a step takes as long as a MiB of a session, or ten. So before a step the
    /// kernel is looked at, and all that is ready has its turn, `queued` being the look after which
    /// this one has queued up: it goes on behind those that became ready in the last step.
    fn poll_handshake(
        &mut self,
        context: &Context<'_>,
        queued: &mut Option<u32>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send_queued(context))?;
            let Some(tls) = &self.state.tls else { return Poll::Ready(Ok(())) };
            if !tls.connection.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if tls.ended {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            // One that has nothing to open takes no step.
            let has_more = self.socket.maybe_readable() || !tls.unopened.is_empty();
            // What is hard is done with the agreement on keys; what is left takes little.
            let is_hard = tls.connection.negotiated_key_exchange_group().is_none();
            // By how long ago it was, since the number of looks begins anew some day.
            let age = |look: u32| looks().wrapping_sub(look);
            let is_behind =
                queued.is_some_and(|look| age(look) != 0 && age(look) < age(STEPPED.get()));
            if has_more && is_hard && !is_behind {
                *queued = Some(looks());
                yield_turn(context);
                return Poll::Pending;
            }
            *queued = None;
            let step = ready!(self.poll_open(context, true, &mut |_| {}));
            self.turn.end();
            if let Some(tls) = &mut self.state.tls {
                tls.replied |= step.is_ok() && tls.connection.wants_write();
                if !tls.connection.is_handshaking() {
                    tls.unused = 0;
                }
            }
            if is_hard {
                STEPPED.set(looks());
            }
            if step.is_err() {
                // The alert: what the socket does not take at once is lost.
                let _ = self.poll_send_queued(context);
            }
            step?;
        }
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

    /// Shakes hands as the client, with the server of this name, a stranger. The caller sets the
    /// deadline.
    ///
    /// # Errors
    /// What rustls or the socket says; an alert for the peer has been sent then.
    pub async fn connect(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let connection = Connection::Client(connection);
        let mut stream = Stream::tls(Io::new(socket)?, connection, limits::STRANGER_BYTES);
        stream.shake_hands(|_| {}).await?;
        Ok(stream)
    }

    async fn shake_hands(&mut self, mut answered: impl FnMut(bool)) -> io::Result<()> {
        let mut queued = None;
        poll_fn(|context| {
            let polled = self.poll_handshake(context, &mut queued);
            if polled.is_pending() && queued.is_none() {
                let tls = self.state.tls.as_mut();
                answered(tls.is_some_and(|tls| std::mem::take(&mut tls.replied)));
            }
            polled
        })
        .await?;
        // The handshake's last bytes may never have arrived.
        self.state.waiting_since = Some(now());
        Ok(())
    }

    /// A TLS connection, with so many bytes for a stranger.
    fn tls(socket: Io<TcpStream>, mut connection: Connection, allowance: usize) -> Self {
        // What waits in it is bounded by its user, who queues a unit only while little waits;
        // a bound inside would split a record.
        connection.set_buffer_limit(None);
        let greeting = matches!(connection, Connection::Server(_)).then(Box::default);
        let tls = Tls {
            connection,
            greeting,
            unopened: Vec::new(),
            begun: 0,
            framing: Framing::default(),
            rest: Rest::default(),
            allowance,
            share: None,
            unused: 0,
            kept: false,
            replied: false,
            opened: true,
            ended: false,
            closed: false,
        };
        let mut state = State::new(Some(Box::new(tls)));
        // The handshake's last bytes may never have arrived.
        state.waiting_since = Some(now());
        Stream { socket, state, turn: Turn::default() }
    }

    /// Takes it off this thread, on its way to another.
    pub fn detach(self) -> Detached {
        Detached { socket: self.socket.into_inner(), state: self.state }
    }

    /// Whether the server has given a ticket for another session (TLS 1.3).
    pub fn has_ticket(&self) -> bool {
        let connection = self.state.tls.as_ref().map(|tls| &tls.connection);
        matches!(connection, Some(Connection::Client(client)) if client.tls13_tickets_received() > 0)
    }

    /// The socket, to ask it for addresses.
    pub fn socket(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    /// What the peer has caused in this turn.
    pub fn spent(&self) -> usize {
        self.turn.spent()
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.state.tls.is_some()
    }

    /// Whether something may have come in that nobody has been given.
    pub fn maybe_readable(&self) -> bool {
        let held = |tls: &Tls| tls.opened || !tls.unopened.is_empty();
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

    /// The round trip to the peer as the kernel has measured it; zero where it cannot be told.
    pub fn round_trip(&self) -> std::time::Duration {
        tcp_info::round_trip(self.socket())
    }

    /// Whether the peer's machine has all that was sent to it.
    pub fn has_arrived(&self) -> bool {
        self.waiting() == 0 && tcp_info::ask(self.socket()).is_ok_and(|tcp| tcp.packets == 0)
    }

    /// Reads once from the socket and gives `unit` each whole unit that came with it.
    ///
    /// # Errors
    /// What the socket or TLS says; an alert for the peer is queued then.
    pub fn poll_receive(
        &mut self,
        context: &Context<'_>,
        unit: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<Received>> {
        let Some(tls) = &mut self.state.tls else {
            ready!(self.turn.poll(context));
            return INCOMING.with_borrow_mut(|buffer| {
                let count = ready!(self.socket.poll_recv(context, buffer))?;
                self.turn.charge(count.max(limits::RECORD_COST));
                if count == 0 {
                    self.state.ended = true;
                    return Poll::Ready(Ok(Received::Ended));
                }
                unit(&buffer[..count]);
                Poll::Ready(Ok(Received::Bytes(count)))
            });
        };
        if tls.opened {
            // The peer may have ended in one flight with its handshake.
            tls.process()?;
            let count = tls.hand_out(unit);
            tls.opened = false;
            if count > 0 {
                return Poll::Ready(Ok(Received::Bytes(count)));
            }
        }
        if tls.ended {
            return Poll::Ready(Ok(Received::Ended));
        }
        self.poll_open(context, false, unit)
    }

    /// Opens the records of one read, or of the rest of one, as far as the turn goes, and gives
    /// `unit` each; with `held` they stay in the connection instead, and nothing is opened behind
    /// the first.
    fn poll_open(
        &mut self,
        context: &Context<'_>,
        held: bool,
        unit: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<Received>> {
        ready!(self.turn.poll(context));
        let State { tls: Some(tls), ended, .. } = &mut self.state else {
            return Poll::Ready(Ok(Received::Ended));
        };
        if tls.rests() {
            ready!(tls.rest.poll(context));
        }
        if std::mem::take(&mut tls.kept) {
            tls.unused = tls.unopened.len().saturating_sub(tls.begun);
        }
        if !tls.unopened.is_empty() {
            let unopened = std::mem::take(&mut tls.unopened);
            let rest = &unopened[tls.begun..];
            let (total, opened) = tls.open(rest, held, &mut self.turn, unit)?;
            tls.used(total, held, rest.len() - opened);
            if opened < rest.len() && !tls.ended {
                tls.begun += opened;
                tls.unopened = unopened;
            }
            return Poll::Ready(Ok(tls.received(total)));
        }
        INCOMING.with_borrow_mut(|buffer| {
            let most =
                if tls.share.is_some() { limits::STRANGER_READ } else { limits::TLS_READ_BYTES };
            let room = most.min(tls.allowance);
            if room == 0 {
                let greets = tls.share.is_some() && tls.connection.is_handshaking();
                let most = if greets { limits::HANDSHAKE_BYTES } else { limits::STRANGER_BYTES };
                return Poll::Ready(Err(io::Error::other(Excess::Sent(most))));
            }
            let count = ready!(self.socket.poll_recv(context, &mut buffer[..room]))?;
            if tls.allowance != usize::MAX {
                tls.allowance -= count;
            }
            *ended = count == 0;
            tls.ended = count == 0;
            if let Some(share) = &mut tls.share {
                tls.unused += count;
                if !share.holds(tls.unused) {
                    return Poll::Ready(Err(io::Error::other(Excess::Held)));
                }
            }
            let (total, opened) = tls.open(&buffer[..count], held, &mut self.turn, unit)?;
            tls.used(total, held, count - opened);
            if opened < count && !tls.ended {
                tls.unopened = buffer[opened..count].to_vec();
                tls.begun = 0;
            }
            Poll::Ready(Ok(tls.received(total)))
        })
    }

    /// Reads through a kernel pipe what can be read that way now. 0 says nothing of the stream:
    /// `splice(2)` also stops before urgent data, for ever and as if the end had come, which
    /// [`Stream::poll_receive`] goes on with. Plain connections only.
    ///
    /// # Errors
    /// What the socket says, or a kernel or a sandbox without `splice(2)`.
    pub fn try_fill(&mut self, conduit: &mut Conduit) -> io::Result<usize> {
        if !self.socket.maybe_readable() || self.turn.is_over() {
            return Ok(0);
        }
        match conduit.fill(self.socket.get_ref()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            filled => {
                self.turn.charge(filled.as_ref().map_or(0, |count| *count));
                filled
            }
        }
    }

    /// Whether the next bytes that have come are these, or too few to tell. Plain connections only.
    ///
    /// # Errors
    /// What the socket says, which no read is told again.
    pub fn begins_with(&self, bytes: &[u8; 4]) -> io::Result<bool> {
        let mut next = [0; 4];
        match rustix::net::recv(self.socket(), &mut next, RecvFlags::PEEK) {
            Ok((count, _)) => Ok(bytes.starts_with(&next[..count])),
            Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what `conduit` holds for the peer. Plain connections only, when nothing waits.
    ///
    /// # Errors
    /// What the socket says: nothing can be sent any more.
    pub fn queue_conduit(&mut self, conduit: Conduit) -> io::Result<()> {
        self.state.waiting_since.get_or_insert_with(now);
        self.state.queued += conduit.holds();
        self.state.conduit = Some(conduit);
        match self.poll_drain(&Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Ready(Ok(())) => self.state.queued = 0,
            Poll::Pending => {
                // A small rest is kept by itself, so that reading can go on.
                if let Some(conduit) =
                    self.state.conduit.take_if(|c| c.holds() < limits::BULK_BYTES)
                {
                    self.state.rest = conduit.empty()?;
                    self.state.queued = self.state.rest.len();
                }
            }
        }
        Ok(())
    }

    fn poll_drain(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        while let Some(conduit) = &mut self.state.conduit {
            if conduit.holds() == 0 {
                self.state.conduit = None;
                break;
            }
            ready!(self.socket.poll_write_with(context, |socket| conduit.drain(socket)))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the peer has sent something (`true`) or ended without (`false`); nothing is taken. The
    /// beginning of a long record is something: a stranger's is not held before it is needed.
    ///
    /// # Errors
    /// What the socket or TLS says.
    pub fn poll_spoken(&mut self, context: &Context<'_>) -> Poll<io::Result<bool>> {
        let Some(tls) = &mut self.state.tls else {
            return self.socket.poll_peek(context);
        };
        tls.opened = true;
        loop {
            let Some(tls) = &mut self.state.tls else { return Poll::Ready(Ok(false)) };
            if tls.process()? > 0 {
                return Poll::Ready(Ok(true));
            }
            if tls.ended {
                return Poll::Ready(Ok(false));
            }
            if tls.framing.is_amid_long_data() {
                return Poll::Ready(Ok(true));
            }
            ready!(self.poll_open(context, true, &mut |_| {}))?;
        }
    }

    /// Ready when the connection has broken, for who does not read now.
    pub fn poll_broken(&self, context: &Context<'_>) -> Poll<()> {
        self.socket.poll_broken(context)
    }

    /// Ready when the peer has ended its direction or the connection is gone, for who does not read
    /// now.
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

    /// Takes `unit` for the peer, as one record in TLS, and sends what can be sent at once in
    /// plain TCP. What cannot waits, for [`Stream::poll_flush`]: the caller queues only while
    /// [`Stream::waiting`] is small.
    ///
    /// # Errors
    /// What the socket or TLS says: nothing can be sent any more.
    pub fn queue(&mut self, unit: &[u8]) -> io::Result<()> {
        let state = &mut self.state;
        state.waiting_since.get_or_insert_with(now);
        if let Some(tls) = &mut state.tls {
            state.queued += unit.len();
            return tls.connection.writer().write_all(unit);
        }
        let free = state.rest.is_empty() && state.conduit.is_none();
        let taken = if free { self.socket.try_send(unit)? } else { 0 };
        if taken < unit.len() {
            state.rest.extend_from_slice(&unit[taken..]);
            state.queued += unit.len() - taken;
        }
        Ok(())
    }

    /// Takes `unit` so many times, in TLS as a record each.
    ///
    /// # Errors
    /// As [`Stream::queue`].
    pub fn queue_times(&mut self, unit: &[u8], count: usize) -> io::Result<()> {
        if self.is_tls() {
            (0..count).try_for_each(|_| self.queue(unit))
        } else {
            self.queue(&unit.repeat(count))
        }
    }

    /// Bytes that wait for the peer, at most those queued since all were last sent.
    pub fn waiting(&self) -> usize {
        self.state.queued
    }

    /// Ready when the kernel has all that was queued.
    ///
    /// # Errors
    /// What the socket says: nothing can be sent any more.
    #[inline]
    pub fn poll_flush(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        // TLS has bytes of its own to send, which nobody has queued.
        if self.state.queued == 0 && !self.is_tls() {
            return Poll::Ready(Ok(()));
        }
        self.poll_send_queued(context)
    }

    fn poll_send_queued(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        let State { tls, rest, sent, queued, .. } = &mut self.state;
        if let Some(tls) = tls {
            while tls.connection.wants_write() {
                let connection = &mut tls.connection;
                ready!(
                    self.socket.poll_write_with(context, |socket| connection
                        .write_tls(&mut Gather(socket)))
                )?;
            }
        }
        while *sent < rest.len() {
            *sent += ready!(self.socket.poll_send(context, &rest[*sent..]))?;
        }
        if !rest.is_empty() {
            (*rest, *sent) = (Vec::new(), 0);
        }
        *queued = 0;
        Poll::Ready(Ok(()))
    }

    /// Ends this side's direction once everything queued is sent: in TLS close_notify, then FIN.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_finish(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        if self.state.output == Output::Open {
            self.state.output = Output::Closing;
            if let Some(tls) = &mut self.state.tls {
                tls.connection.send_close_notify();
            }
        }
        ready!(self.poll_flush(context))?;
        if self.state.output == Output::Closing {
            self.state.output = Output::Finished;
            self.socket().shutdown(Shutdown::Write)?;
        }
        Poll::Ready(Ok(()))
    }

    /// From now on until [`Stream::close`] the kernel resets this connection when it is closed, also
    /// when the process is killed: the peer must not take for whole what it has got so far.
    pub fn break_when_dropped(&mut self) {
        if !self.state.breaks {
            // Where it cannot be set, there is nothing better than a close.
            let linger = Some(Duration::ZERO);
            self.state.breaks =
                rustix::net::sockopt::set_socket_linger(self.socket(), linger).is_ok();
        }
    }

    /// Best-effort close without waiting: sends what the kernel takes at once of what is queued, and
    /// close_notify; then FIN, rather than a reset, even where the peer was still sending.
    pub fn close(mut self) {
        self.close_in_order();
        let context = Context::from_waker(Waker::noop());
        let _ = self.poll_finish(&context);
        // Unread bytes turn a close into a reset, which destroys what the peer has not read yet.
        let unread = if self.state.ended { 0 } else { 4 };
        for _ in 0..unread {
            let drained =
                INCOMING.with_borrow_mut(|buffer| self.socket.poll_recv(&context, buffer));
            if !matches!(drained, Poll::Ready(Ok(1..))) {
                break;
            }
        }
    }

    /// Closes while the peer may still be sending: what it has not received yet would be lost
    /// with the reset that answers bytes to a closed socket. So this waits until the peer has all, or
    /// ends too, for [`limits::CLOSE_TIMEOUT`] at most, and takes what it sends meanwhile.
    pub async fn linger(mut self) {
        if self.waiting() == 0 && !self.is_unacknowledged() {
            return self.close();
        }
        self.close_in_order();
        let deadline = Instant::now() + limits::CLOSE_TIMEOUT;
        let mut timer = Timer::new();
        poll_fn(|context| {
            let sent = self.poll_finish(context);
            let received =
                INCOMING.with_borrow_mut(|buffer| self.socket.poll_recv(context, buffer));
            let now = now();
            match (sent, received) {
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Ok(0) | Err(_))) => {
                    return Poll::Ready(());
                }
                (_, Poll::Ready(Ok(_))) => yield_turn(context),
                (Poll::Ready(Ok(())), Poll::Pending) if !self.is_unacknowledged() => {
                    return Poll::Ready(());
                }
                _ => {}
            }
            if now >= deadline {
                return Poll::Ready(());
            }
            timer.poll_at(context, deadline.min(now + limits::CLOSE_CHECK))
        })
        .await;
    }

    /// Breaks the connection off: with a reset, in TLS without close_notify, so that the peer does
    /// not take for whole what it got. What it was sent arrives first, until `deadline` at the
    /// latest; what it sends meanwhile is taken, since one that sends may not read.
    pub async fn break_off(mut self, deadline: Instant) {
        self.break_when_dropped();
        let mut timer = Timer::new();
        poll_fn(|context| {
            let sent = self.poll_flush(context);
            let now = now();
            let arrived = sent.is_ready() && !self.is_unacknowledged();
            if arrived || matches!(sent, Poll::Ready(Err(_))) || now >= deadline {
                return Poll::Ready(());
            }
            if !self.state.ended {
                match INCOMING.with_borrow_mut(|buffer| self.socket.poll_recv(context, buffer)) {
                    Poll::Ready(Ok(1..)) => yield_turn(context),
                    Poll::Ready(_) => self.state.ended = true,
                    Poll::Pending => {}
                }
            }
            timer.poll_at(context, deadline.min(now + limits::CLOSE_CHECK))
        })
        .await;
    }

    /// Whether the kernel has bytes that the peer has not acknowledged.
    fn is_unacknowledged(&self) -> bool {
        tcp_info::ask(self.socket()).is_ok_and(|tcp| tcp.packets > 0)
    }

    /// Undoes [`Stream::break_when_dropped`].
    pub fn close_in_order(&mut self) {
        if std::mem::take(&mut self.state.breaks) {
            // The option was there when it was set.
            let _ = rustix::net::sockopt::set_socket_linger(self.socket(), None);
        }
    }

    /// Has the kernel ask the peer whether it still knows of this connection once it has been
    /// silent for so long, which may be now. Only a courtesy: failing changes nothing.
    pub fn keep_alive_after(&self, idle: Duration) {
        let _ = rustix::net::sockopt::set_tcp_keepidle(self.socket(), idle);
    }

    /// Whether bytes wait in the kernel for a slow peer that has acknowledged some since last
    /// asked.
    pub fn is_draining(&mut self) -> bool {
        let Ok(tcp) = tcp_info::ask(self.socket()) else { return false };
        let before = std::mem::replace(&mut self.state.acknowledged, tcp.acknowledged);
        tcp.packets > 0 && tcp.acknowledged != before
    }

    /// Waits until everything queued is with the kernel.
    ///
    /// # Errors
    /// As [`Stream::poll_flush`].
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_flush(context)).await
    }
}

impl Acknowledged for Stream {
    fn may_stall(&self) -> bool {
        self.state.waiting_since.is_some()
    }

    fn is_stalled(&mut self) -> bool {
        let Some(since) = self.state.waiting_since else { return false };
        let Ok(tcp) = tcp_info::ask(self.socket()) else { return false };
        if tcp.packets == 0 && self.state.queued == 0 {
            self.state.waiting_since = None;
            return false;
        }
        let now = now();
        let acknowledged = now.checked_sub(tcp.silent_for).unwrap_or(now);
        tcp.is_owed()
            && now.saturating_duration_since(since.max(acknowledged)) >= limits::UNACKNOWLEDGED
    }
}

/// For who reads bytes and not units: the API's HTTP. A turn ends here, too.
impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let stream = &mut *self;
        loop {
            let Some(tls) = &mut stream.state.tls else {
                ready!(stream.turn.poll(context));
                let count = ready!(stream.socket.poll_recv(context, buffer))?;
                stream.turn.charge(count.max(limits::RECORD_COST));
                stream.state.ended = count == 0;
                return Poll::Ready(Ok(count));
            };
            if tls.process()? > 0 {
                return Poll::Ready(tls.connection.reader().read(buffer));
            }
            if tls.ended {
                return Poll::Ready(Ok(0));
            }
            ready!(stream.poll_open(context, true, &mut |_| {}))?;
        }
    }
}

/// At most one record is taken that the kernel does not take yet.
impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = &mut *self;
        ready!(stream.poll_send_queued(context))?;
        let count = bytes.len().min(limits::HTTP_ENCRYPTED);
        stream.queue(&bytes[..count])?;
        if let Poll::Ready(Err(error)) = stream.poll_send_queued(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send_queued(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_finish(context)
    }
}

impl Detached {
    /// Puts it on this thread.
    ///
    /// # Errors
    /// As [`Io::new`].
    pub fn attach(self) -> io::Result<Stream> {
        Ok(Stream { socket: Io::new(self.socket)?, state: self.state, turn: Turn::default() })
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
            waiting_since: None,
            acknowledged: 0,
            ended: false,
            breaks: false,
            output: Output::Open,
        }
    }
}

impl Tls {
    /// Opens whole records at the front of `bytes` until the turn is over, or with `held` until
    /// something can be handed out. Gives the bytes handed out, and those opened.
    fn open(
        &mut self,
        bytes: &[u8],
        held: bool,
        turn: &mut Turn,
        unit: &mut dyn FnMut(&[u8]),
    ) -> io::Result<(usize, usize)> {
        let (mut total, mut opened) = (0, 0);
        while opened < bytes.len() && !self.ended && !turn.is_over() && !self.rests() {
            // The library holds one record for whom takes bytes when it likes, and refuses a second.
            let most = if held { 1 } else { limits::RECORDS_AT_ONCE };
            let (length, records) = self.framing.take(&bytes[opened..], most);
            let passed;
            let mut piece = &bytes[opened..opened + length];
            if let Some(greeting) = &mut self.greeting {
                passed = greeting.pass(piece);
                piece = &passed;
                if greeting.is_done() || !self.connection.is_handshaking() {
                    self.greeting = None;
                }
            }
            opened += length;
            let (mut given, mut full) = (0, 0);
            while !piece.is_empty() && !self.ended {
                self.connection.read_tls(&mut piece)?;
                let waiting = self.process()?;
                if held {
                    (given, full) = (given + waiting, usize::from(waiting > 0));
                } else {
                    given += self.hand_out(&mut |record| {
                        full += 1;
                        unit(record);
                    });
                }
            }
            total += given;
            // Those that carry nothing change keys, which takes longer than to open a few bytes.
            let empty = records.saturating_sub(full);
            self.rest.charge(empty);
            turn.charge(length + full * limits::RECORD_COST + empty * limits::EMPTY_RECORD_COST);
            if held && given > 0 {
                break;
            }
        }
        Ok((total, opened))
    }

    /// Something was handed out, if that is more than 0 bytes, and so many are left behind it.
    fn used(&mut self, total: usize, held: bool, rest: usize) {
        if total > 0 && held {
            self.kept = true;
        } else if total > 0 {
            self.unused = rest;
        }
    }

    /// Whether it is not to be heard before others: a stranger is not, who is closed soon.
    fn rests(&self) -> bool {
        self.allowance == usize::MAX && self.rest.is_due()
    }

    fn received(&self, total: usize) -> Received {
        if total == 0 && self.ended { Received::Ended } else { Received::Bytes(total) }
    }

    /// Opens what has been read; gives the number of bytes that can be handed out.
    fn process(&mut self) -> io::Result<usize> {
        let connection = &mut self.connection;
        let processed = match &mut self.greeting {
            Some(greeting) => greeting.show(|| connection.process_new_packets()),
            None => connection.process_new_packets(),
        };
        let state = processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.closed = state.peer_has_closed();
        self.ended |= self.closed;
        Ok(state.plaintext_bytes_to_read())
    }

    /// Gives `unit` each opened record. rustls keeps them apart as long as they are taken by
    /// `fill_buf`; its `read` would join them.
    fn hand_out(&mut self, unit: &mut dyn FnMut(&[u8])) -> usize {
        let mut total = 0;
        let mut reader = self.connection.reader();
        // An error here is "nothing now" or the end, which `process` has seen.
        while let Ok(record) = reader.fill_buf() {
            let count = record.len();
            if count == 0 {
                break;
            }
            unit(record);
            reader.consume(count);
            total += count;
        }
        total
    }
}

/// The type of a record that carries data, or in TLS 1.3 anything that is encrypted.
const APPLICATION_DATA: u8 = 23;

/// Where records begin and end among the bytes received.
#[derive(Default)]
struct Framing {
    /// Of a record's header, as much as has come.
    header: [u8; 5],
    come: u8,
    /// Bytes of the record's body that are still to come.
    body: u16,
}

impl Framing {
    /// Whether a record has begun that carries data (RFC 8446, section 5.1) and is longer than
    /// [`limits::GREETING`].
    fn is_amid_long_data(&self) -> bool {
        let length = u16::from_be_bytes([self.header[3], self.header[4]]);
        self.body > 0
            && self.header[0] == APPLICATION_DATA
            && usize::from(length) > limits::GREETING
    }

    /// The length of `bytes` up to the end of the `most`th record that ends there, or of all of it,
    /// and how many records end in it.
    fn take(&mut self, bytes: &[u8], most: usize) -> (usize, usize) {
        let (mut at, mut ended) = (0, 0);
        while at < bytes.len() && ended < most {
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
            ended += usize::from(self.body == 0);
        }
        (at, ended)
    }
}

/// Why a stranger is given up.
#[derive(Debug)]
enum Excess {
    /// It has sent more than anybody needs to prove itself.
    Sent(usize),
    /// It had more held than is left for strangers.
    Held,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Excess::Sent(most) => write!(f, "it sent {} KiB and nothing that counts", most / 1024),
            Excess::Held => write!(
                f,
                "it sent over {} KiB of something unfinished, and others' had all the memory there is \
                 for such",
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

/// Lets rustls send several records with one system call.
struct Gather<'a>(&'a TcpStream);

impl Write for Gather<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
