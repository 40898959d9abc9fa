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
        tls.news = false;
        let held = std::mem::take(&mut tls.held);
        if !held.is_empty() {
            unit(&held);
            return Poll::Ready(Ok(Received::Bytes(held.len())));
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
    /// `unit` each; with `held` the first is kept instead, and nothing is opened behind it.
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
        if tls.has_record() {
            let mut unopened = std::mem::take(&mut tls.unopened);
            let begun = std::mem::take(&mut tls.begun);
            let (total, opened) = tls.open(&mut unopened[begun..], held, &mut self.turn, unit)?;
            tls.used(total, held, unopened.len() - begun - opened);
            tls.keep(unopened, begun + opened);
            return Poll::Ready(Ok(received(tls, total)));
        }
        INCOMING.with_borrow_mut(|buffer| {
            // What comes goes behind the beginning of its record.
            let begun = tls.unopened.len();
            let most = match tls.share.is_some() {
                true => limits::STRANGER_READ,
                false => limits::TLS_READ_BYTES.saturating_sub(begun),
            };
            let room = most.min(tls.allowance);
            if room == 0 {
                let greets = tls.share.is_some() && tls.is_handshaking();
                let most = if greets { limits::HANDSHAKE_BYTES } else { limits::STRANGER_BYTES };
                return Poll::Ready(Err(io::Error::other(Excess::Sent(most))));
            }
            let count = ready!(self.socket.poll_recv(context, &mut buffer[begun..begun + room]))?;
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
            let come = &mut buffer[..begun + count];
            if begun > 0 && !tls.is_completed_by(come) {
                // It is not copied to and fro with each byte.
                self.turn.charge(count);
                tls.append(&come[begun..]);
                return Poll::Ready(Ok(received(tls, 0)));
            }
            come[..begun].copy_from_slice(&std::mem::take(&mut tls.unopened));
            let (total, opened) = tls.open(come, held, &mut self.turn, unit)?;
            tls.used(total, held, come.len() - opened);
            if opened < come.len() && !tls.ended {
                tls.unopened = come[opened..].to_vec();
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
        tls.news = true;
        loop {
            let Some(tls) = &mut self.state.tls else { return Poll::Ready(Ok(false)) };
            if !tls.held.is_empty() {
                return Poll::Ready(Ok(true));
            }
            if tls.ended {
                return Poll::Ready(Ok(false));
            }
            if tls.is_amid_long_data() {
                return Poll::Ready(Ok(true));
            }
            ready!(self.poll_open(context, true, &mut |_| {}))?;
        }
    }
}

fn received(tls: &Tls, total: usize) -> Received {
    if total == 0 && tls.ended { Received::Ended } else { Received::Bytes(total) }
}

#[cfg(test)]
pub(super) mod tests;
