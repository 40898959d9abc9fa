//! Reading in units.

use std::io;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::tls::{Excess, Tls};
use super::{INCOMING, Received, State, Stream};
use crate::limits;
use crate::net::conduit::Conduit;

impl Stream {
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
            return self.poll_receive_some(context, limits::READ_BYTES, unit);
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

    /// As [`poll_receive`](Self::poll_receive), but `most` bytes at most. Plain connections only.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_receive_some(
        &mut self,
        context: &Context<'_>,
        most: usize,
        unit: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<Received>> {
        ready!(self.turn.poll(context));
        INCOMING.with_borrow_mut(|buffer| {
            let count = ready!(self.socket.poll_recv(context, &mut buffer[..most]))?;
            self.turn.charge(count + limits::RECORD_COST);
            if count == 0 {
                self.state.ended = true;
                return Poll::Ready(Ok(Received::Ended));
            }
            unit(&buffer[..count]);
            Poll::Ready(Ok(Received::Bytes(count)))
        })
    }

    /// Opens the records of one read, or of the rest of one, as far as the turn goes, and gives
    /// `unit` each; with `held` they stay in the connection instead, and nothing is opened behind
    /// the first.
    pub(super) fn poll_open(
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
            return Poll::Ready(Ok(received(tls, total)));
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
            Poll::Ready(Ok(received(tls, total)))
        })
    }

    /// Reads through a kernel pipe what can be read that way now, `most` bytes at most. 0 says nothing of the stream:
    /// `splice(2)` also stops before urgent data, for ever and as if the end had come, which
    /// [`Stream::poll_receive`] goes on with. Plain connections only.
    ///
    /// # Errors
    /// What the socket says, or a kernel or a sandbox without `splice(2)`.
    pub fn try_fill(&mut self, conduit: &mut Conduit, most: usize) -> io::Result<usize> {
        if !self.socket.maybe_readable() || self.turn.is_over() {
            return Ok(0);
        }
        match conduit.fill(self.socket.get_ref(), most) {
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
}

fn received(tls: &Tls, total: usize) -> Received {
    if total == 0 && tls.ended { Received::Ended } else { Received::Bytes(total) }
}
