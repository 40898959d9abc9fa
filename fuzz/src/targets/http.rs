//! One connection's bytes as HTTP: heads, bodies, requests behind each other.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use iofog_connector::fuzzing::{
    self, Fault, Handler, Patience, Request, Response, Source, limits, serve_connection,
};
use smol::future::block_on;
use smol::io::{AsyncRead, AsyncWrite};

use crate::input::{Random, assert_sentence, pieces};
use crate::memory::most_held;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

pub(crate) fn check(data: &[u8]) -> bool {
    if data.len() > 3 * limits::HTTP_BODY {
        return false;
    }
    let mut random = Random::of(data);
    let whole = serve(vec![data]);
    for longest in [1, 40, 3000] {
        if data.len() / longest <= 4096 {
            let again = serve(pieces(data, longest, &mut random));
            assert_eq!(again, whole, "pieces of up to {longest} bytes");
        }
    }
    // Written anew, each request is the same again.
    for request in &whole.requests {
        let again = serve(vec![&written(request)]);
        assert_eq!(again.requests.len(), 1);
        assert!(again.requests[0] == *request, "{request:?} {:?}", again.requests);
        assert_eq!(again.fault, None);
    }
    true
}

/// What a connection came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    requests: Vec<Request>,
    fault: Option<Fault>,
    /// What the client got, but for `100 Continue`, which depends on how fast its body comes.
    answers: Vec<u8>,
}

#[derive(Default)]
struct Recorder(RefCell<Outcome>);

impl Handler for Recorder {
    fn admit(&self, _: &Source) -> Result<(), Response> {
        Ok(())
    }

    async fn answer(&self, request: Request) -> Response {
        assert!(request.body.len() <= limits::HTTP_BODY);
        assert!(request.path.starts_with('/') || &*request.path == "*", "{request:?}");
        assert!(!request.path.contains(['?', '#', ' ', '\r', '\n']));
        assert!(!request.method.is_empty() && request.method.is_ascii());
        let text = format!("{request:?}");
        self.0.borrow_mut().requests.push(request);
        Response {
            status: 200,
            content_type: "text/plain",
            allow: None,
            fields: "",
            body: text.into_bytes(),
        }
    }

    fn refuse(&self, fault: Fault) -> Response {
        let text = fault.to_string();
        assert_sentence(&text);
        assert!((400..=505).contains(&fault.status()));
        assert_ne!(fault, Fault::TooSlow, "nothing here takes time");
        assert_eq!(self.0.borrow_mut().fault.replace(fault), None, "one fault ends a connection");
        let status = fault.status();
        Response {
            status,
            content_type: "text/plain",
            allow: None,
            fields: "",
            body: text.into_bytes(),
        }
    }
}

fn serve(pieces: Vec<&[u8]>) -> Outcome {
    let recorder = Recorder::default();
    let mut answers = Vec::new();
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut wire = Wire { pieces: pieces.into_iter(), rest: &[], answers: &mut answers };
    let (served, memory) =
        most_held(|| block_on(serve_connection(&mut wire, &recorder, Patience::default())));
    served.expect("this client never breaks");
    let mut outcome = recorder.0.into_inner();
    // One body that grows by doubling and one head, beside what is recorded here.
    let recorded = 2 * length + 4 * answers.len() + 256 * (1 + outcome.requests.len());
    let bound = 3 * limits::HTTP_BODY + 4 * limits::HTTP_HEAD + recorded;
    assert!(memory <= bound, "{memory} bytes for {length}");
    while let Some(at) = answers.windows(CONTINUE.len()).position(|part| part == CONTINUE) {
        answers.drain(at..at + CONTINUE.len());
    }
    outcome.answers = answers;
    outcome
}

fn written(request: &Request) -> Vec<u8> {
    let Request { method, path, content_type, body } = request;
    let kind = content_type.as_ref().map(|kind| format!("Content-Type: {kind}\r\n"));
    let (kind, length) = (kind.unwrap_or_default(), body.len());
    let head = format!("{method} {path} HTTP/1.1\r\n{kind}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// A client that sends its pieces one read each, and ends.
struct Wire<'a> {
    pieces: std::vec::IntoIter<&'a [u8]>,
    rest: &'a [u8],
    answers: &'a mut Vec<u8>,
}

impl AsyncRead for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.rest.is_empty() {
            self.rest = self.pieces.next().unwrap_or_default();
        }
        let (taken, rest) = self.rest.split_at(self.rest.len().min(buffer.len()));
        buffer[..taken.len()].copy_from_slice(taken);
        self.rest = rest;
        Poll::Ready(Ok(taken.len()))
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answers.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl fuzzing::Wire for Wire<'_> {
    fn bound(&mut self, _: usize) {}

    fn keep(&mut self, _: usize) {}

    fn is_taken(&self) -> bool {
        true
    }
}
