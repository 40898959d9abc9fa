//! Sending in units, and what waits for a slow peer.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker, ready};

use futures_rustls::rustls::crypto::cipher::OutboundChunks;

use super::aside::Aside;
use super::{State, Stream};
use crate::limits;
use crate::net::conduit::Conduit;
use crate::runtime::now;

impl Stream {
    /// Takes `unit` for the peer, as one record in TLS, and sends what can be sent at once in
    /// plain TCP. What cannot waits, for [`Stream::poll_flush`]: the caller queues only while
    /// [`Stream::waiting`] is small.
    ///
    /// # Errors
    /// What the socket or TLS says: nothing can be sent any more.
    pub fn queue(&mut self, unit: &[u8]) -> io::Result<()> {
        let state = &mut self.state;
        state.aside = Aside::default();
        state.waiting_since.get_or_insert_with(now);
        if let Some(tls) = &mut state.tls {
            state.queued += unit.len();
            return tls.seal(unit.into());
        }
        let free = state.rest.is_empty() && state.conduit.is_none();
        let taken = if free { self.socket.try_send(unit)? } else { 0 };
        if taken < unit.len() {
            state.rest.extend_from_slice(&unit[taken..]);
            state.queued += unit.len() - taken;
        }
        Ok(())
    }

    /// Takes `unit` for the peer, to be sent with what follows it, or by the next [`Stream::poll_flush`].
    ///
    /// # Errors
    /// As [`Stream::queue`].
    pub fn queue_ahead(&mut self, unit: &[u8]) -> io::Result<()> {
        if self.is_tls() {
            return self.queue(unit);
        }
        self.state.aside = Aside::default();
        self.state.waiting_since.get_or_insert_with(now);
        self.state.rest.extend_from_slice(unit);
        self.state.queued += unit.len();
        Ok(())
    }

    /// Takes two pieces as one unit.
    ///
    /// # Errors
    /// As [`Stream::queue`].
    pub fn queue_both(&mut self, head: &[u8], unit: &[u8]) -> io::Result<()> {
        let state = &mut self.state;
        state.aside = Aside::default();
        state.waiting_since.get_or_insert_with(now);
        let length = head.len() + unit.len();
        if let Some(tls) = &mut state.tls {
            state.queued += length;
            return tls.seal(OutboundChunks::new(&[head, unit]));
        }
        let free = state.rest.is_empty() && state.conduit.is_none();
        let pieces = [IoSlice::new(head), IoSlice::new(unit)];
        let taken = if free { self.socket.try_send_pieces(&pieces)? } else { 0 };
        for (piece, begins) in [(head, 0), (unit, head.len())] {
            let rest = &piece[taken.saturating_sub(begins).min(piece.len())..];
            state.rest.extend_from_slice(rest);
        }
        state.queued += length - taken;
        Ok(())
    }

    /// Takes `unit`, which is none of a session's bytes, but a heartbeat or what else is said beside them: the peer is
    /// not taken to be [draining](Stream::is_draining) because of it.
    ///
    /// # Errors
    /// As [`Stream::queue`].
    pub fn queue_aside(&mut self, unit: &[u8]) -> io::Result<()> {
        let aside = self.state.aside;
        let before = self.state.tls.as_ref().map_or(0, |tls| tls.records());
        let queued = self.queue(unit);
        let sent = self.state.tls.as_ref().map_or(unit.len(), |tls| tls.length(before));
        self.state.aside = aside.and(sent);
        queued
    }

    /// Takes `unit` so many times [aside](Stream::queue_aside), in TLS as a record each, as the answer to what the peer
    /// has sent.
    ///
    /// # Errors
    /// As [`Stream::queue`].
    pub fn queue_times(&mut self, unit: &[u8], count: usize) -> io::Result<()> {
        if self.is_tls() {
            (0..count).try_for_each(|_| self.queue_aside(unit))
        } else {
            self.queue_joined(&unit.repeat(count), count)
        }
    }

    /// Sends the answers to `count` units that came together, in one, [aside](Stream::queue_aside). As with
    /// [`Stream::queue_times`], they count in the peer's turn.
    ///
    /// # Errors
    /// As [`Stream::queue`].
    pub fn queue_joined(&mut self, answers: &[u8], count: usize) -> io::Result<()> {
        // The first one was charged with its read.
        self.turn.charge(count.saturating_sub(1) * limits::RECORD_COST);
        self.queue_aside(answers)
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

    pub(super) fn poll_send_queued(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        let State { tls, rest, sent, queued, .. } = &mut self.state;
        if let Some(tls) = tls {
            while tls.wants_write() {
                ready!(self.socket.poll_write_with(context, |socket| tls.write(socket)))?;
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

    /// Waits until everything queued is with the kernel.
    ///
    /// # Errors
    /// As [`Stream::poll_flush`].
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_flush(context)).await
    }

    /// Takes `head`, and what `conduit` holds, for the peer. Plain connections only, when nothing waits.
    ///
    /// # Errors
    /// What the socket says: nothing can be sent any more.
    pub fn queue_conduit(&mut self, head: &[u8], conduit: Conduit) -> io::Result<()> {
        self.state.aside = Aside::default();
        self.state.waiting_since.get_or_insert_with(now);
        let taken = if head.is_empty() { 0 } else { self.socket.try_send_more(head)? };
        if taken < head.len() {
            self.state.rest = [&head[taken..], &conduit.empty()?].concat();
            self.state.queued = self.state.rest.len();
            return Ok(());
        }
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

    pub(super) fn poll_drain(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        while let Some(conduit) = &mut self.state.conduit {
            if conduit.holds() == 0 {
                self.state.conduit = None;
                break;
            }
            ready!(self.socket.poll_write_with(context, |socket| conduit.drain(socket)))?;
        }
        Poll::Ready(Ok(()))
    }
}
