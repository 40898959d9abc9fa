//! How a connection is closed: in order, or with a reset.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use super::{INCOMING, Output, Stream};
use crate::limits;
use crate::net::tcp_info;
use crate::runtime::{Timer, now, yield_turn};

impl Stream {
    /// Ends this side's direction once everything queued is sent: in TLS close_notify, then FIN.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_finish(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        if self.state.output == Output::Open {
            self.state.output = Output::Closing;
            if let Some(tls) = &mut self.state.tls {
                tls.send_close_notify();
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
        if self.state.tls.is_none() && self.state.ended && self.waiting() == 0 {
            // Closing it says all there is to say.
            return;
        }
        let context = Context::from_waker(Waker::noop());
        let _ = self.poll_finish(&context);
        // Unread bytes turn a close into a reset, which destroys what the peer has not read yet.
        for _ in 0..4 {
            if !matches!(self.poll_discard(&context), Poll::Ready(Ok(1..))) {
                break;
            }
        }
    }

    /// Closes while the peer may still be sending: what it has not received yet would be lost
    /// with the reset that answers bytes to a closed socket. So this waits until the peer has all, also
    /// where it has ended its own direction, for [`limits::CLOSE_TIMEOUT`] at most, and takes what it
    /// sends meanwhile.
    pub async fn linger(mut self) {
        if self.waiting() == 0 && !self.is_unacknowledged() {
            return self.close();
        }
        self.close_in_order();
        let deadline = Instant::now() + limits::CLOSE_TIMEOUT;
        let mut timer = Timer::new();
        poll_fn(|context| {
            let sent = self.poll_finish(context);
            let received = self.poll_discard(context);
            if self.is_reset_after_end(context) {
                return Poll::Ready(());
            }
            let now = now();
            match (sent, received) {
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(()),
                (_, Poll::Ready(Ok(1..))) => yield_turn(context),
                (Poll::Ready(Ok(())), _) if !self.is_unacknowledged() => return Poll::Ready(()),
                // It still gets what is queued for it.
                (_, Poll::Ready(Ok(0))) => self.state.ended = true,
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
            if self.is_reset_after_end(context) {
                return Poll::Ready(());
            }
            let now = now();
            let arrived = sent.is_ready() && !self.is_unacknowledged();
            if arrived || matches!(sent, Poll::Ready(Err(_))) || now >= deadline {
                return Poll::Ready(());
            }
            match self.poll_discard(context) {
                Poll::Ready(Ok(1..)) => yield_turn(context),
                Poll::Ready(_) => self.state.ended = true,
                Poll::Pending => {}
            }
            timer.poll_at(context, deadline.min(now + limits::CLOSE_CHECK))
        })
        .await;
    }

    /// Reads once and discards what it gets. Pending for good after the peer's end.
    fn poll_discard(&self, context: &Context<'_>) -> Poll<io::Result<usize>> {
        match self.state.ended {
            true => Poll::Pending,
            false => INCOMING.with_borrow_mut(|buffer| self.socket.poll_recv(context, buffer)),
        }
    }

    /// Whether the peer has reset the connection after its end: it acknowledges nothing any more.
    fn is_reset_after_end(&self, context: &Context<'_>) -> bool {
        self.state.ended && self.socket.poll_broken(context).is_ready()
    }

    /// Whether the kernel has bytes that the peer has not acknowledged.
    pub(super) fn is_unacknowledged(&self) -> bool {
        tcp_info::ask(self.socket()).is_ok_and(|tcp| tcp.packets > 0)
    }

    /// Undoes [`Stream::break_when_dropped`].
    pub fn close_in_order(&mut self) {
        if std::mem::take(&mut self.state.breaks) {
            // The option was there when it was set.
            let _ = rustix::net::sockopt::set_socket_linger(self.socket(), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::pin::pin;
    use std::thread;

    use rustix::net::sockopt;
    use smol::future::poll_once;

    use super::*;
    use crate::runtime::block_on;

    /// A peer that has ended, and this side, whose kernel takes so many bytes for it.
    fn ended(send_buffer: usize) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (here, _) = listener.accept().unwrap();
        here.set_nonblocking(true).unwrap();
        sockopt::set_socket_send_buffer_size(&here, send_buffer).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        (here, peer)
    }

    #[test]
    fn a_peer_that_has_ended_and_still_reads_gets_all_of_its_bytes() {
        let (here, mut peer) = ended(64 * 1024);
        let bytes: Vec<u8> = (0..8 << 20).map(|number| (number / 7) as u8).collect();
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all)
        });
        block_on(async {
            let mut stream = Stream::plain(here).unwrap();
            stream.queue(&bytes).unwrap();
            assert!(stream.waiting() > 0, "the kernel has all");
            stream.linger().await;
        })
        .unwrap();
        assert!(reader.join().unwrap().unwrap() == bytes);
    }

    #[test]
    fn a_peer_that_has_ended_and_then_resets_is_not_waited_for() {
        let (here, peer) = ended(1 << 20);
        let start = Instant::now();
        block_on(async {
            let mut stream = Stream::plain(here).unwrap();
            // More than the peer's kernel takes, and all of it with this side's.
            sockopt::set_socket_recv_buffer_size(&peer, 16 * 1024).unwrap();
            stream.queue(&[7; 256 * 1024]).unwrap();
            assert_eq!(stream.waiting(), 0);
            let mut linger = pin!(stream.linger());
            assert!(poll_once(&mut linger).await.is_none());
            sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
            drop(peer);
            linger.await;
        })
        .unwrap();
        assert!(start.elapsed() < limits::CLOSE_TIMEOUT / 2, "after {:?}", start.elapsed());
    }
}
