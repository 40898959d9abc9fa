//! The server's side of HTTP/1.1 (RFC 9110 and 9112): one connection's whole life in
//! [`serve_connection`]. `parse` and `chunks` turn bytes into a [`Request`], `answer` a [`Response`]
//! into bytes. This room knows nothing of mappings: the [`Handler`] decides what is answered, also to
//! what is not a request.
//!
//! Choices where HTTP leaves one:
//! - A request without `Content-Length` and `Transfer-Encoding` has no body (so `POST` works
//!   without one); 411 is answered only to an HTTP/1.0 `POST`, `PUT` or `PATCH` without length.
//! - `Content-Length` twice, or beside `Transfer-Encoding`, is 400 and the connection closes.
//! - The only transfer coding is `chunked`; others are 501. An `Expect` other than
//!   `100-continue` is 417. A request line beyond the head's limit is 414, a head 431.
//! - A missing `Host` is tolerated, one given twice is 400; the query is ignored; the target may be an
//!   absolute URL, whose host counts.
//! - The connection of a client that sent nothing at all is closed without an answer.

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use smol::future;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::limits;
use crate::runtime::{self, Backoff, sleep};
use answer::Answer;
use chunks::Chunks;
use parse::{Head, Length};

pub use fault::Fault;
pub use message::{Request, Response, Source};

mod answer;
mod chunks;
mod fault;
mod message;
mod parse;

/// Bytes read at once: requests are a few hundred bytes.
const READ: usize = 1024;

/// The stream that requests come from and answers go to.
pub trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// From now on takes at most `bytes` from the other end, overhead included, and fails beyond.
    fn bound(&mut self, bytes: usize);

    /// Has the kernel buffer about `bytes` that the other end has not acknowledged.
    fn keep(&mut self, bytes: usize);

    /// Whether the other end has acknowledged all that was written.
    fn is_taken(&self) -> bool;
}

/// What answers a connection's requests.
pub trait Handler {
    /// Decides whether this caller may make requests at all; called once a request's head is complete,
    /// before its body is read. The error is the answer, and the connection's last.
    fn admit(&self, source: &Source) -> Result<(), Response>;

    /// Answers one request. Runs to its end even when the client goes away meanwhile.
    fn answer(&self, request: Request) -> impl Future<Output = Response>;

    /// The answer to what is no request.
    fn refuse(&self, fault: Fault) -> Response;

    /// Called with the number of bytes of a request that are in memory, 0 once it is answered. `false`
    /// if there is no room for so many.
    fn may_hold(&self, _request: usize) -> bool {
        true
    }

    /// Called with the number of bytes of an answer that are in memory until the client has taken them,
    /// 0 once it has.
    fn holds(&self, _bytes: usize) {}
}

/// How long each wait for the client may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From a request's first byte to its last; for the first one from the connection's start.
    pub request: Duration,
    /// Between two requests; and for the client to take an answer.
    pub idle: Duration,
    /// For the client to close after the last answer.
    pub linger: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            request: limits::HTTP_REQUEST,
            idle: limits::HTTP_IDLE,
            linger: limits::HTTP_LINGER,
        }
    }
}

/// Serves one connection until the client or a fault ends it: requests one after the other, each
/// answered before the next is looked at, even if they arrive together.
///
/// Until its head is complete, a request may take [`limits::STRANGER_BYTES`] of the wire. The caller
/// sets this bound for the first request, with what came before it, such as the TLS handshake.
///
/// One function for all kinds of streams: each more would be 9 KB of the program.
///
/// # Errors
/// What the stream reports; most often that the client has gone.
pub async fn serve_connection(
    stream: &mut dyn Wire,
    handler: &impl Handler,
    patience: Patience,
) -> io::Result<()> {
    let mut connection = Connection { stream, unread: Vec::new(), begun: false };
    let mut until = Instant::now() + patience.request;
    loop {
        let read = runtime::until(until, connection.read_request(handler));
        let (answer, last) = match read.await.unwrap_or(Err(End::Late)) {
            Ok((head, body)) => {
                let request = Request {
                    method: head.method,
                    path: head.path,
                    content_type: head.content_type,
                    body,
                };
                let bodiless = &*request.method == "HEAD";
                let response = handler.answer(request).await;
                // Less than before, so there is room.
                let _ = handler.may_hold(connection.unread.len());
                let kept = head.keep_alive.then_some(head.old);
                (Answer::new(response, kept, bodiless), !head.keep_alive)
            }
            Err(End::Closed) => return Ok(()),
            Err(End::Late) if !connection.begun => return Ok(()),
            Err(End::Io(error)) => return Err(error),
            Err(End::Late) => (Answer::new(handler.refuse(Fault::TooSlow), None, false), true),
            Err(End::Fault(fault)) => (Answer::new(handler.refuse(fault), None, false), true),
            Err(End::Unwanted(response)) => (Answer::new(response, None, false), true),
        };
        handler.holds(answer.len());
        let taken_by = Instant::now() + patience.idle;
        let write = async { Ok(connection.answer(&answer).await?) };
        match runtime::until(taken_by, write).await.unwrap_or(Err(End::Late)) {
            Ok(()) => {}
            Err(End::Io(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        if last {
            connection.close(patience.linger).await?;
        }
        if answer.is_long() {
            // Until the client takes it, much of it is in the kernel, and counts as held.
            drop(answer);
            match runtime::until(taken_by, connection.taken()).await {
                Some(()) => connection.stream.keep(limits::HTTP_UNREAD),
                None => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        handler.holds(0);
        if last {
            return Ok(());
        }
        connection.stream.bound(limits::STRANGER_BYTES);
        // A client that sends many requests at once must not hold up the others.
        future::yield_now().await;
        until = connection.next_request(patience).await?;
    }
}

/// Why a connection gave no request.
enum End {
    /// The client ended the connection between two requests.
    Closed,
    Late,
    Fault(Fault),
    Unwanted(Response),
    Io(io::Error),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        End::Fault(fault)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        End::Io(error)
    }
}

struct Connection<'a> {
    stream: &'a mut dyn Wire,
    /// What has arrived but does not belong to a request yet: at most a head and one read.
    unread: Vec<u8>,
    /// Whether bytes of the next request have arrived.
    begun: bool,
}

impl Connection<'_> {
    /// Waits for the next request on a kept connection to begin; gives the time by which it must be
    /// complete. An end or a silence is for [`Connection::read_request`] to find.
    async fn next_request(&mut self, patience: Patience) -> io::Result<Instant> {
        self.begun = !self.unread.is_empty();
        if !self.begun {
            let silence = Instant::now() + patience.idle;
            match runtime::until(silence, self.fill()).await {
                Some(filled) => _ = filled?,
                None => return Ok(Instant::now()),
            }
        }
        Ok(Instant::now() + patience.request)
    }

    async fn read_request<H: Handler>(&mut self, handler: &H) -> Result<(Head, Vec<u8>), End> {
        let (head, end) = loop {
            if let Some(whole) = parse::head(&self.unread)? {
                break whole;
            }
            if self.fill().await? == 0 {
                return Err(self.cut());
            }
            self.hold(handler, 0)?;
        };
        self.unread.drain(..end);
        handler.admit(&head.source).map_err(End::Unwanted)?;
        self.stream.bound(usize::MAX);
        if head.expects_continue && self.unread.is_empty() && head.length != Length::Known(0) {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = match head.length {
            Length::Known(length) => self.read_exactly(handler, length).await?,
            Length::Chunked => self.read_chunks(handler).await?,
        };
        Ok((head, body))
    }

    async fn read_exactly<H: Handler>(
        &mut self,
        handler: &H,
        length: usize,
    ) -> Result<Vec<u8>, End> {
        // Memory is taken as bytes arrive: many connections may announce much and send nothing.
        let mut body = Vec::new();
        loop {
            self.hold(handler, body.len())?;
            let taken = self.unread.len().min(length - body.len());
            make_room(&mut body, taken);
            body.extend(self.unread.drain(..taken));
            if body.len() == length {
                return Ok(body);
            }
            if self.fill().await? == 0 {
                return Err(BODY_CUT.into());
            }
        }
    }

    async fn read_chunks<H: Handler>(&mut self, handler: &H) -> Result<Vec<u8>, End> {
        let (mut chunks, mut body) = (Chunks::default(), Vec::new());
        loop {
            self.hold(handler, body.len())?;
            make_room(&mut body, self.unread.len());
            let done = chunks.feed(&self.unread, &mut body)?;
            self.unread.drain(..done);
            if chunks.ended() {
                return Ok(body);
            }
            if self.fill().await? == 0 {
                return Err(BODY_CUT.into());
            }
        }
    }

    /// Tells the handler how much of the request is in memory: what is unread, and `body` bytes.
    fn hold<H: Handler>(&self, handler: &H, body: usize) -> Result<(), Fault> {
        let held = handler.may_hold(self.unread.len() + body);
        if held { Ok(()) } else { Err(Fault::Crowded) }
    }

    /// Reads once; 0 is the end of the stream.
    async fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; READ];
        let count = self.stream.read(&mut piece).await?;
        self.unread.extend_from_slice(&piece[..count]);
        self.begun |= count > 0;
        Ok(count)
    }

    /// What the end of the stream means while a head is expected. Blank lines do not count as one.
    fn cut(&self) -> End {
        match self.unread.trim_ascii().is_empty() {
            true => End::Closed,
            false => End::Fault(Fault::Malformed("the connection ended within the head")),
        }
    }

    /// Sends an answer. With a small buffer in the kernel, each piece of a long answer would wait 40 ms
    /// for the delayed acknowledgement of the one before.
    async fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        if answer.is_long() {
            self.stream.keep(limits::HTTP_FLIGHT);
        }
        self.stream.write_all(&answer.front).await?;
        self.write(&answer.body).await
    }

    /// Waits until the client has acknowledged everything.
    async fn taken(&self) {
        let mut checks = Backoff::new([limits::HTTP_TAKEN, limits::CLOSE_CHECK]);
        while !self.stream.is_taken() {
            sleep(checks.pause()).await;
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        // Over TLS the last record may otherwise stay in the encoder.
        self.stream.flush().await
    }

    /// Ends the connection so that the client can read the last answer. A socket closed with unread
    /// bytes sends a reset, which discards the answer in the client's buffer. So what the client still
    /// sends is read and discarded, within bounds.
    async fn close(&mut self, linger: Duration) -> io::Result<()> {
        let drain = async {
            self.stream.close().await?;
            let (mut piece, mut left) = ([0; READ], limits::HTTP_DRAIN);
            while left > 0 {
                match self.stream.read(&mut piece).await? {
                    0 => break,
                    count => left = left.saturating_sub(count),
                }
            }
            Ok(())
        };
        match runtime::until(Instant::now() + linger, drain).await.unwrap_or(Err(End::Late)) {
            Err(End::Io(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Makes room for `more` bytes and little else: a vector would double, and a body that arrives slowly
/// would occupy twice its size.
fn make_room(body: &mut Vec<u8>, more: usize) {
    if body.capacity() - body.len() < more {
        body.reserve_exact(more.next_multiple_of(limits::HTTP_STEP));
    }
}

const BODY_CUT: Fault = Fault::Malformed("the connection ended within the body");

#[cfg(test)]
mod tests;
