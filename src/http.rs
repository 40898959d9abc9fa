//! The server's side of HTTP/1.1 (RFC 9110 and 9112): bytes to [`Request`], [`Response`] to
//! bytes, and one connection's whole life in [`serve_connection`]. It has never heard of
//! mappings: what to answer, also to what is no request, is its [`Handler`]'s to say.
//!
//! Choices where HTTP leaves one:
//! - A request without `Content-Length` and `Transfer-Encoding` has no body (so `POST` works
//!   without one); 411 is answered only to an HTTP/1.0 `POST`, `PUT` or `PATCH` without length.
//! - `Content-Length` twice, or beside `Transfer-Encoding`, is 400 and the connection closes.
//! - The only transfer coding is `chunked`; others are 501. An `Expect` other than
//!   `100-continue` is 417. A request line beyond the head's limit is 414, a head 431.
//! - A missing `Host` is tolerated, one given twice is 400; the query is ignored; the target may be an
//!   absolute URL, whose host counts.
//! - A client that sent nothing at all is not told that it was too slow; it is closed.

mod parse;

use std::fmt;
use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use smol::future;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::limits;
use crate::runtime::{self, sleep};
use parse::{Chunks, Head, Length};

/// Bytes read at once. Requests are some hundred bytes; a connection that waits costs no more.
const READ: usize = 1024;

/// A request, whole. Its `Debug` hides the body, which may hold secrets.
#[derive(PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST` or any other token.
    pub method: Box<str>,
    /// The path, without host, query and fragment; not percent-decoded.
    pub path: Box<str>,
    /// The content type with its parameters, if there is one.
    pub content_type: Option<Box<str>>,
    /// The body, at most [`limits::HTTP_BODY`] bytes.
    pub body: Vec<u8>,
}

/// What a request's head says of where it comes from. Browsers tell it of web pages; other clients
/// can say what they like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The host that the client means to speak to, with its port: of the target, or `Host`.
    pub host: Option<Box<str>>,
    /// `Origin`: the scheme, host and port of the page that makes a browser send the request.
    pub origin: Option<Box<str>>,
    /// `Sec-Fetch-Site`: how that page and this server are related.
    pub fetch_site: Option<Box<str>>,
}

/// An answer. Its `Debug` hides the body, which may hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body's content type.
    pub content_type: &'static str,
    /// The methods that the path takes, for a 405.
    pub allow: Option<&'static str>,
    /// The body. A `HEAD` request gets its length and type alone.
    pub body: Vec<u8>,
}

/// Why what a client sent is not a request. The connection ends with the answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not HTTP, or open to more than one reading; what is wrong.
    Malformed(&'static str),
    /// Not complete within the time for a request.
    TooSlow,
    /// An HTTP/1.0 request that ought to have a length.
    LengthRequired,
    /// A body of more than [`limits::HTTP_BODY`].
    BodyTooLarge,
    /// A request line of more than [`limits::HTTP_HEAD`].
    TargetTooLong,
    /// An `Expect` that is not `100-continue`.
    Expectation,
    /// A head of more than [`limits::HTTP_HEAD`], or with too many fields.
    HeadTooLarge,
    /// A transfer coding other than `chunked`.
    TransferEncoding,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    Version,
    /// More than is left of the memory for requests.
    Crowded,
}

/// What requests come from and answers go to.
pub trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// From now on takes at most so many bytes from the other end, all that carries nothing
    /// included, and fails beyond.
    fn bound(&mut self, bytes: usize);

    /// Has the kernel keep about so many bytes that the other end has not acknowledged.
    fn keep(&mut self, bytes: usize);

    /// Whether the other end has acknowledged all that was written.
    fn is_taken(&self) -> bool;
}

/// What answers a connection's requests.
pub trait Handler {
    /// Whether this caller is heard at all; asked once a request's head is complete, before its
    /// body is read. The error is the answer, and the connection's last.
    fn admit(&self, source: &Source) -> Result<(), Response>;

    /// Answers one request. Runs to its end even when the client goes away meanwhile.
    fn answer(&self, request: Request) -> impl Future<Output = Response>;

    /// The answer to what is no request.
    fn refuse(&self, fault: Fault) -> Response;

    /// Told how many bytes of a request are held, 0 once it is answered. `false` if so many cannot be.
    fn may_hold(&self, _request: usize) -> bool {
        true
    }

    /// Told how many bytes of an answer are held until the client takes them, 0 once it has.
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

/// Serves one connection until the client or a fault ends it: requests one after the other,
/// those that come together too, each answered before the next is looked at.
///
/// Until its head is whole a request may take [`limits::STRANGER_BYTES`] of the wire. (What came
/// before the first one, as in TLS, is for the caller to bound together with it.)
///
/// Errors: what the stream reports; most often that the client has gone.
pub async fn serve_connection<S, H>(stream: S, handler: &H, patience: Patience) -> io::Result<()>
where
    S: Wire,
    H: Handler,
{
    let mut connection = Connection { stream, unread: Vec::new(), begun: false };
    let mut until = Instant::now() + patience.request;
    loop {
        let read = async { connection.read_request(handler).await };
        let (answer, last) = match within(until, read).await {
            Ok((head, body)) => {
                let request = Request {
                    method: head.method,
                    path: head.path,
                    content_type: head.content_type,
                    body,
                };
                let bodiless = &*request.method == "HEAD";
                let response = handler.answer(request).await;
                // It is less than before.
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
        match within(taken_by, write).await {
            Ok(()) => {}
            Err(End::Io(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        if last {
            connection.close(patience.linger).await?;
        }
        if answer.is_long() {
            // The kernel still keeps much of it, which counts as held until it is taken.
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
        // A client that sends its requests in one go must not hold up everybody else.
        future::yield_now().await;
        until = connection.next_request(patience).await?;
    }
}

/// Why no request came out of a connection.
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

struct Connection<S> {
    stream: S,
    /// What has arrived and is not yet part of a request: at most a head and one read.
    unread: Vec<u8>,
    /// Something of the next request has arrived.
    begun: bool,
}

/// An answer as sent: the head, with the body behind it where that is short.
struct Answer {
    front: Vec<u8>,
    body: Vec<u8>,
}

impl Answer {
    /// As [`to_bytes`]; a long body is not copied.
    fn new(mut response: Response, kept: Option<bool>, bodiless: bool) -> Self {
        let long = response.body.len() > limits::HTTP_UNREAD && !bodiless;
        let front = to_bytes(&response, kept, bodiless || long);
        let body = if long { std::mem::take(&mut response.body) } else { Vec::new() };
        Answer { front, body }
    }

    fn len(&self) -> usize {
        self.front.len() + self.body.len()
    }

    /// Whether it is longer than the kernel keeps for one that does not read.
    fn is_long(&self) -> bool {
        !self.body.is_empty()
    }
}

impl<S: Wire> Connection<S> {
    /// Waits for a kept connection's next request to begin; returns when it must be complete.
    /// An end or a silence is left for [`Connection::read_request`] to find.
    async fn next_request(&mut self, patience: Patience) -> io::Result<Instant> {
        self.begun = !self.unread.is_empty();
        if !self.begun {
            let silence = Instant::now() + patience.idle;
            match within(silence, async { Ok(self.fill().await?) }).await {
                Ok(_) => {}
                Err(End::Io(error)) => return Err(error),
                Err(_) => return Ok(Instant::now()),
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
        // Not reserved before it is there: many connections may promise much and send nothing.
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

    /// Holds the request so far, of which `body` bytes are elsewhere.
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

    /// What an end of the stream means while a head is awaited: blank lines are nothing.
    fn cut(&self) -> End {
        match self.unread.trim_ascii().is_empty() {
            true => End::Closed,
            false => End::Fault(Fault::Malformed("the connection ended within the head")),
        }
    }

    /// Sends an answer. A small buffer of the kernel's would have a long one wait for the delayed
    /// acknowledgements of its pieces, 40 ms each.
    async fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        if answer.is_long() {
            self.stream.keep(limits::HTTP_FLIGHT);
        }
        self.stream.write_all(&answer.front).await?;
        self.write(&answer.body).await
    }

    /// Waits until the client has acknowledged everything.
    async fn taken(&self) {
        let mut pause = limits::HTTP_TAKEN;
        while !self.stream.is_taken() {
            sleep(pause).await;
            pause = (2 * pause).min(limits::CLOSE_CHECK);
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        // Over TLS the last record may otherwise stay in the encoder.
        self.stream.flush().await
    }

    /// Ends the connection so that the client can read the last answer: closed with unread bytes
    /// a socket sends a reset, which takes the answer from the client's buffer. So the rest of
    /// what the client sends is read over, within bounds.
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
        match within(Instant::now() + linger, drain).await {
            Err(End::Io(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Room for `more` bytes, and little else: who fills a body slowly has no room for twice as many.
fn make_room(body: &mut Vec<u8>, more: usize) {
    if body.capacity() - body.len() < more {
        body.reserve_exact(more.next_multiple_of(limits::HTTP_STEP));
    }
}

const BODY_CUT: Fault = Fault::Malformed("the connection ended within the body");

async fn within<T>(until: Instant, work: impl Future<Output = Result<T, End>>) -> Result<T, End> {
    runtime::until(until, work).await.unwrap_or(Err(End::Late))
}

/// The answer as sent. `kept`: `None` when the connection ends with it, otherwise whether the
/// client must be told that it does not. `bodiless`: the answer to a `HEAD`.
fn to_bytes(response: &Response, kept: Option<bool>, bodiless: bool) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n",
        response.status,
        reason(response.status),
        response.content_type,
        response.body.len(),
    );
    if let Some(methods) = response.allow {
        bytes.push_str(&format!("Allow: {methods}\r\n"));
    }
    bytes.push_str(match kept {
        None => "Connection: close\r\n\r\n",
        Some(true) => "Connection: keep-alive\r\n\r\n",
        Some(false) => "\r\n",
    });
    let mut bytes = bytes.into_bytes();
    if !bodiless {
        bytes.extend_from_slice(&response.body);
    }
    bytes
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        // The phrase is for people and may be empty (RFC 9112, section 4).
        _ => "",
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({} {}, {} bytes)", self.method, self.path, self.body.len())
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Response({}, {} bytes)", self.status, self.body.len())
    }
}

impl Fault {
    /// The status code of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Fault::Malformed(_) => 400,
            Fault::TooSlow => 408,
            Fault::LengthRequired => 411,
            Fault::BodyTooLarge => 413,
            Fault::TargetTooLong => 414,
            Fault::Expectation => 417,
            Fault::HeadTooLarge => 431,
            Fault::TransferEncoding => 501,
            Fault::Crowded => 503,
            Fault::Version => 505,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Malformed(what) => write!(f, "not an HTTP/1.1 request: {what}"),
            Fault::TooSlow => write!(
                f,
                "the request was not complete within {} s",
                limits::HTTP_REQUEST.as_secs()
            ),
            Fault::LengthRequired => {
                f.write_str("an HTTP/1.0 request with a body needs a Content-Length")
            }
            Fault::BodyTooLarge => {
                write!(f, "the body is longer than {} bytes", limits::HTTP_BODY)
            }
            Fault::TargetTooLong => {
                write!(f, "the request line is longer than {} bytes", limits::HTTP_HEAD)
            }
            Fault::Expectation => f.write_str("the only Expect that is met is 100-continue"),
            Fault::HeadTooLarge => write!(
                f,
                "the head is longer than {} bytes or has more than 64 fields",
                limits::HTTP_HEAD
            ),
            Fault::TransferEncoding => {
                f.write_str("the only Transfer-Encoding that is understood is chunked")
            }
            Fault::Crowded => f.write_str(
                "other requests that are not complete take up all the memory there is for them; send \
                 it again a little later",
            ),
            Fault::Version => f.write_str("only HTTP/1.1 and HTTP/1.0 are spoken here"),
        }
    }
}

#[cfg(test)]
mod tests;
