use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::answer::to_bytes;
use super::*;

const QUICK: Patience = Patience {
    request: Duration::from_millis(60),
    idle: Duration::from_millis(60),
    linger: Duration::from_millis(60),
};

/// A client that sends its pieces one read each, then ends or is silent.
struct Client {
    pieces: VecDeque<Vec<u8>>,
    ends: bool,
    got: Rc<RefCell<Vec<u8>>>,
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Some(mut piece) = self.pieces.pop_front() else {
            return if self.ends { Poll::Ready(Ok(0)) } else { Poll::Pending };
        };
        let count = piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&piece[..count]);
        if count < piece.len() {
            self.pieces.push_front(piece.split_off(count));
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // As little as a stream may take.
        self.got.borrow_mut().extend_from_slice(&bytes[..1]);
        Poll::Ready(Ok(1))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.got.borrow_mut().extend_from_slice(b"<closed>");
        Poll::Ready(Ok(()))
    }
}

impl Wire for Client {
    fn bound(&mut self, _: usize) {}

    fn keep(&mut self, _: usize) {}

    fn is_taken(&self) -> bool {
        true
    }
}

/// Answers with what it was asked.
struct Echo {
    admits: bool,
}

fn text(status: u16, body: String) -> Response {
    Response {
        status,
        content_type: "text/plain",
        allow: None,
        fields: "",
        body: body.into_bytes(),
    }
}

impl Handler for Echo {
    fn admit(&self, _: &Source) -> Result<(), Response> {
        if self.admits { Ok(()) } else { Err(text(403, "no".into())) }
    }

    async fn answer(&self, request: Request) -> Response {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        text(200, format!("[{} {} {body}]", request.method, request.path))
    }

    fn refuse(&self, fault: Fault) -> Response {
        text(fault.status(), fault.to_string())
    }
}

fn talk(pieces: &[&[u8]], ends: bool) -> String {
    talk_with(pieces, ends, true)
}

fn talk_with(pieces: &[&[u8]], ends: bool, admits: bool) -> String {
    let got = Rc::new(RefCell::new(Vec::new()));
    let pieces = pieces.iter().map(|piece| piece.to_vec()).collect();
    let mut client = Client { pieces, ends, got: got.clone() };
    runtime::block_on(serve_connection(&mut client, &Echo { admits }, QUICK))
        .expect("an event loop")
        .expect("served");
    let got = got.borrow();
    String::from_utf8_lossy(&got).into_owned()
}

fn statuses(answers: &str) -> Vec<u16> {
    // The words of a fault name the version too, with no status behind it.
    answers.split("HTTP/1.1 ").skip(1).filter_map(|part| part.get(..3)?.parse().ok()).collect()
}

const POST: &[u8] = b"POST /p?q HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello";
const CHUNKED: &[u8] =
    b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";

#[test]
fn answer_as_sent() {
    assert_eq!(
        talk(&[POST], true),
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 15\r\n\
         Cache-Control: no-store\r\n\r\n[POST /p hello]"
    );
    let refused = Response { allow: Some("GET, HEAD"), ..text(405, "no".into()) };
    assert_eq!(
        String::from_utf8_lossy(&to_bytes(&refused, None, false)),
        "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\
         Cache-Control: no-store\r\nAllow: GET, HEAD\r\nConnection: close\r\n\r\nno"
    );
}

#[test]
fn requests_cut_at_any_byte() {
    for whole in [POST, CHUNKED] {
        for cut in 1..whole.len() {
            let answers = talk(&[&whole[..cut], &whole[cut..]], true);
            assert!(answers.ends_with(" hello]"), "cut at {cut}: {answers}");
            assert_eq!(statuses(&answers), [200]);
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(statuses(&talk(&bytes, true)), [200]);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let all = [POST, b"\r\n", CHUNKED, b"GET /g HTTP/1.1\r\n\r\n", POST].concat();
    for size in [1, 7, all.len()] {
        let pieces: Vec<&[u8]> = all.chunks(size).collect();
        let answers = talk(&pieces, true);
        let order: Vec<_> = ["/p hello", "/c hello", "/g ", "/p hello"].into();
        let mut rest = answers.as_str();
        for part in order {
            rest = rest.split_once(part).unwrap_or_else(|| panic!("{part} in {answers}")).1;
        }
        assert_eq!(statuses(&answers), [200; 4]);
        assert!(!answers.contains("<closed>"));
    }
}

#[test]
fn the_last_request_is_followed_by_no_other() {
    let close = b"GET /1 HTTP/1.1\r\nConnection: close\r\n\r\n";
    let answers = talk(&[close, POST], true);
    assert!(answers.contains("Connection: close\r\n"), "{answers}");
    assert!(answers.ends_with("[GET /1 ]<closed>"), "{answers}");
    let old = talk(&[b"GET /1 HTTP/1.0\r\n\r\n", POST], true);
    assert!(old.ends_with("[GET /1 ]<closed>"), "{old}");
    let kept = talk(&[b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", POST], true);
    assert!(kept.contains("Connection: keep-alive\r\n") && kept.contains("/p hello"), "{kept}");
}

#[test]
fn head_gets_the_head_of_the_answer() {
    let answers = talk(&[b"HEAD /h HTTP/1.1\r\n\r\n"], true);
    assert!(answers.contains("Content-Length: 10\r\n"), "{answers}");
    assert!(answers.ends_with("\r\n\r\n"), "{answers}");
}

#[test]
fn continue_is_said_only_to_who_waits() {
    let waits = b"POST /p HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(statuses(&talk(&[waits, b"hello"], true)), [100, 200]);
    let sent = [waits.as_slice(), b"hello"].concat();
    assert_eq!(statuses(&talk(&[&sent], true)), [200]);
    let big = b"POST /p HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 65537\r\n\r\n";
    assert_eq!(statuses(&talk(&[big], false)), [413]);
    let none = b"POST /p HTTP/1.1\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(statuses(&talk(&[none], true)), [200]);
}

#[test]
fn faults_are_answered_and_end_the_connection() {
    let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 9000]].concat();
    let target = [b"GET /".as_slice(), &[b'a'; 9000]].concat();
    let cases: &[(&[u8], u16)] = &[
        (b"\0\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\naaaa", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: br\r\n\r\n", 501),
        (&target, 414),
        (b"GET / HTTP/1.1\r\nExpect: much\r\n\r\n", 417),
        (&long, 431),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
    ];
    for (bytes, status) in cases {
        // Good requests before it are answered, those after it are not.
        let answers = talk(&[POST, bytes, POST], false);
        assert_eq!(statuses(&answers), [200, *status], "{}", String::from_utf8_lossy(bytes));
        assert!(answers.ends_with("<closed>"), "{answers}");
    }
}

#[test]
fn slow_requests_are_told_and_mute_clients_closed() {
    let cases: &[(&[&[u8]], &[u16])] = &[
        (&[], &[]),
        (&[b"G"], &[408]),
        (&[b"POST /p HTTP/1.1\r\nContent-Length: 5\r\n\r\n"], &[408]),
        (&[b"POST /p HTTP/1.1\r\nContent-Length: 5\r\n\r\n", b"hell"], &[408]),
        (&[POST], &[200]),
        (&[POST, b"GET / HT"], &[200, 408]),
    ];
    for (pieces, expected) in cases {
        assert_eq!(statuses(&talk(pieces, false)), *expected, "{pieces:?}");
    }
}

#[test]
fn requests_cut_off_are_no_requests() {
    let cases: &[(&[u8], &[u16])] =
        &[(b"", &[]), (b"\r\n\r\n", &[]), (b"GET / HT", &[400]), (&POST[..POST.len() - 1], &[400])];
    for (bytes, expected) in cases {
        assert_eq!(statuses(&talk(&[bytes], true)), *expected, "{bytes:?}");
    }
}

#[test]
fn unwanted_callers_bodies_are_not_read() {
    let answers = talk_with(&[b"POST /p HTTP/1.1\r\nContent-Length: 60000\r\n\r\n"], false, false);
    assert_eq!(statuses(&answers), [403]);
    assert!(answers.ends_with("no<closed>"), "{answers}");
}
