//! Streams of bytes instead of units, for HTTP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use smol::io::{AsyncRead, AsyncWrite};

use super::Stream;
use crate::limits;

/// For the API's HTTP, which reads bytes and not units. A turn ends here, too.
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
                stream.turn.charge(count + limits::RECORD_COST);
                stream.state.ended = count == 0;
                return Poll::Ready(Ok(count));
            };
            if !tls.held.is_empty() {
                let count = tls.held.len().min(buffer.len());
                buffer[..count].copy_from_slice(&tls.held[..count]);
                tls.held.drain(..count);
                if tls.held.is_empty() {
                    tls.held = Vec::new();
                }
                return Poll::Ready(Ok(count));
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
