//! A socket of this thread's reactor: each operation is tried first, and waited for when the
//! kernel says `WouldBlock`.

use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use smol::io::{AsyncRead, AsyncWrite};

use super::reactor::Registration;
use super::source::{BROKEN, COME, ENDED, GONE, READ, URGENT, WRITE};

/// A socket of this thread's reactor. Dropping it closes the socket.
pub struct Io<T: AsFd> {
    registration: Registration,
    inner: T,
}

/// A listening socket. Another process may have it, too, and keep it: dropping this ends the watch that the kernel
/// would go on with until both have closed it.
pub struct Listening<T: AsFd>(Io<T>);

impl<T: AsFd> Deref for Listening<T> {
    type Target = Io<T>;

    fn deref(&self) -> &Io<T> {
        &self.0
    }
}

impl<T: AsFd> Drop for Listening<T> {
    fn drop(&mut self) {
        self.0.registration.unwatch(&self.0.inner);
    }
}

impl<T: AsFd> Io<T> {
    /// Takes a non-blocking socket into this thread's reactor.
    ///
    /// # Errors
    /// When the thread has none.
    pub fn new(inner: T) -> io::Result<Self> {
        Ok(Io { registration: Registration::new()?, inner })
    }

    /// Takes a listening socket and waits for the kernel's event before the first accept: to try a
    /// thousand that are opened together would take a while.
    ///
    /// # Errors
    /// As [`Io::new`].
    pub fn listening(inner: T) -> io::Result<Listening<T>> {
        let io = Self::new(inner)?;
        io.registration.clear(READ);
        Ok(Listening(io))
    }

    /// Has the next read ask the kernel, whatever it has told before.
    pub fn look_again(&self) {
        self.registration.set(READ);
    }

    /// The socket itself.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Takes the socket out of this thread's reactor.
    pub fn into_inner(mut self) -> T {
        self.leave();
        self.inner
    }

    /// Takes it out of this thread's reactor, for another thread's.
    pub fn leave(&mut self) {
        self.registration.unwatch(&self.inner);
        self.registration = Registration::none();
    }

    /// Takes it into this thread's reactor, if it is not there.
    ///
    /// # Errors
    /// As [`Io::new`].
    pub fn enter(&mut self) -> io::Result<()> {
        if !self.registration.is_here() {
            self.registration = Registration::new()?;
        }
        Ok(())
    }

    /// Whether something may have come in that has not been looked at yet.
    pub fn maybe_readable(&self) -> bool {
        self.registration.is(READ)
    }

    /// Tries `operation` whenever the socket may be readable, until it gives anything but
    /// `WouldBlock`.
    fn poll_read_with<R>(
        &self,
        context: &Context<'_>,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll_with(context, READ, operation)
    }

    /// Tries `operation` whenever the socket may be writable, until it gives anything but
    /// `WouldBlock`.
    pub fn poll_write_with<R>(
        &self,
        context: &Context<'_>,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll_with(context, WRITE, operation)
    }

    fn poll_with<R>(
        &self,
        context: &Context<'_>,
        direction: u8,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            if !self.registration.tries(direction) {
                return match self.registration.wait(context, direction, &self.inner) {
                    Ok(()) => Poll::Pending,
                    Err(error) => Poll::Ready(Err(error)),
                };
            }
            match operation(&self.inner) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.registration.clear(direction);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Ready when the connection has broken, or cannot be watched; for a task that does not read
    /// now.
    pub fn poll_broken(&self, context: &Context<'_>) -> Poll<()> {
        if self.registration.is(BROKEN)
            || self.registration.wait(context, READ, &self.inner).is_err()
        {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Ready when the peer has ended its direction or the connection is gone, or cannot be watched;
    /// for a task that does not read now.
    pub fn poll_ended(&self, context: &Context<'_>) -> Poll<()> {
        if self.registration.is(ENDED)
            || self.registration.wait(context, READ, &self.inner).is_err()
        {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Whether the peer is known to have ended its direction, whatever is left to be read.
    pub fn has_ended(&self) -> bool {
        self.registration.is(ENDED)
    }

    /// Ready when both directions are gone, or cannot be watched; for a task that does not read.
    pub fn poll_gone(&self, context: &Context<'_>) -> Poll<()> {
        if self.registration.is(GONE) || self.registration.wait(context, READ, &self.inner).is_err()
        {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl<T: AsFd> Io<T> {
    /// Returns when a connection waits on a listener; it is not accepted yet.
    pub async fn come(&self) {
        let come = poll_fn(|context| {
            if self.registration.take(COME) {
                return Poll::Ready(Ok(()));
            }
            self.poll_read_with(context, |listener| {
                let mut asked = [PollFd::new(listener, PollFlags::IN)];
                let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
                match rustix::event::poll(&mut asked, Some(&at_once))? {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    _ => Ok(()),
                }
            })
        });
        // Accepting reports what is wrong with it.
        let _ = come.await;
    }

    /// The next connection of a listener, non-blocking and closed on exec.
    ///
    /// # Errors
    /// As `accept4(2)`: the caller pauses when there are no files left.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, peer) = poll_fn(|context| {
            self.poll_read_with(context, |listener| {
                Ok(rustix::net::acceptfrom_with(listener, flags)?)
            })
        })
        .await?;
        let peer = peer
            .and_then(|peer| SocketAddr::try_from(peer).ok())
            .ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))?;
        Ok((TcpStream::from(socket), peer))
    }
}

impl Io<TcpStream> {
    /// Receives into `buffer`; 0 is the end of the stream. `buffer` must not be empty.
    pub fn poll_recv(&self, context: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let room = buffer.len();
        let received = self.poll_read_with(context, |mut stream| stream.read(buffer));
        if let Poll::Ready(Ok(1..)) = received {
            // A short read has emptied the socket: what comes next is a new edge, or told when
            // watching begins. Not so the end of the stream, whose edge may have come with these
            // bytes.
            let short = matches!(received, Poll::Ready(Ok(count)) if count < room);
            self.registration.with(|source| {
                if short && source.ready & (ENDED | URGENT) == 0 {
                    source.ready &= !READ;
                }
            });
        }
        received
    }

    /// Whether a byte (`true`) or the end of the stream (`false`) has come, which is left there.
    pub fn poll_peek(&self, context: &Context<'_>) -> Poll<io::Result<bool>> {
        if self.registration.take(COME) {
            return Poll::Ready(Ok(true));
        }
        self.poll_read_with(context, |stream| {
            let (count, _) = rustix::net::recv(stream, &mut [0u8; 1], RecvFlags::PEEK)?;
            Ok(count > 0)
        })
    }

    /// Sends some of `bytes`.
    pub fn poll_send(&self, context: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |mut stream| stream.write(bytes))
    }

    /// Sends some of `bytes` if that is possible at once; 0 if not.
    ///
    /// # Errors
    /// As `send(2)`, but for `EAGAIN`.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_with(|mut socket| socket.write(bytes))
    }

    /// As [`try_send`](Self::try_send), from several pieces.
    ///
    /// # Errors
    /// The same.
    pub fn try_send_pieces(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_with(|mut socket| socket.write_vectored(pieces))
    }

    /// As [`try_send`](Self::try_send), where more follows at once.
    ///
    /// # Errors
    /// The same.
    pub fn try_send_more(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        self.try_with(|socket| Ok(rustix::net::send(socket, bytes, flags)?))
    }

    fn try_with(&self, send: impl FnOnce(&TcpStream) -> io::Result<usize>) -> io::Result<usize> {
        if !self.registration.is(WRITE) {
            return Ok(0);
        }
        match send(&self.inner) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.registration.clear(WRITE);
                Ok(0)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }
}

impl AsyncRead for Io<TcpStream> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_recv(context, buffer)
    }
}

impl AsyncWrite for Io<TcpStream> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.inner.shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::net::TcpListener;

    use crate::runtime::{block_on, tests::pair};
    use smol::LocalExecutor;
    use smol::future::poll_once;
    use smol::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn bytes_and_the_end_arrive_whatever_the_reads() {
        block_on(async {
            let (one, two) = pair();
            let (mut one, mut two) = (Io::new(one).unwrap(), Io::new(two).unwrap());
            let executor = LocalExecutor::new();
            let sender = executor.spawn(async move {
                for _ in 0..100 {
                    one.write_all(&[7; 100_000]).await.unwrap();
                }
                one.close().await.unwrap();
                one
            });
            let received = executor
                .run(async {
                    let mut all = Vec::new();
                    two.read_to_end(&mut all).await.unwrap();
                    all.len()
                })
                .await;
            assert_eq!(received, 10_000_000);
            drop(sender);
        })
        .unwrap();
    }

    fn peek(io: &Io<TcpStream>) -> impl Future<Output = Poll<bool>> {
        poll_fn(|context| Poll::Ready(io.poll_peek(context).map(Result::unwrap)))
    }

    #[test]
    fn what_has_come_is_told_once_and_then_asked_for() {
        block_on(async {
            let (mut one, two) = pair();
            let two = Io::new(two).unwrap();
            assert!(peek(&two).await.is_pending());
            one.write_all(b"b").unwrap();
            assert!(poll_fn(|context| two.poll_peek(context)).await.unwrap());
            // Past the reactor, as a PROXY header is read.
            assert_eq!(two.get_ref().read(&mut [0; 8]).unwrap(), 1);
            assert!(peek(&two).await.is_pending());
            drop(one);
            assert!(!poll_fn(|context| two.poll_peek(context)).await.unwrap());
        })
        .unwrap();
    }

    #[test]
    fn a_connection_that_another_process_takes_is_not_waited_for_twice() {
        block_on(async {
            let here = TcpListener::bind("127.0.0.1:0").unwrap();
            here.set_nonblocking(true).unwrap();
            let (there, address) = (here.try_clone().unwrap(), here.local_addr().unwrap());
            let here = Io::listening(here).unwrap();
            assert!(poll_once(here.come()).await.is_none());
            let _one = TcpStream::connect(address).unwrap();
            here.come().await;
            let _taken = there.accept().unwrap();
            assert!(poll_once(here.accept()).await.is_none());
            assert!(poll_once(here.come()).await.is_none());
            let two = TcpStream::connect(address).unwrap();
            here.come().await;
            let (_, peer) = poll_once(here.accept()).await.unwrap().unwrap();
            assert_eq!(peer, two.local_addr().unwrap());
        })
        .unwrap();
    }
}
