//! A response to the bytes that are sent.

use super::message::Response;
use crate::limits;

/// An answer as it is sent: the head together with a short body, or the head and a long body.
pub(super) struct Answer {
    pub(super) front: Vec<u8>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// From `response`, without copying a long body. `kept` and `bodiless` are [`to_bytes`]'s.
    pub(super) fn new(mut response: Response, kept: Option<bool>, bodiless: bool) -> Self {
        let long = response.body.len() > limits::HTTP_UNREAD && !bodiless;
        let front = to_bytes(&response, kept, bodiless || long);
        let body = if long { std::mem::take(&mut response.body) } else { Vec::new() };
        Answer { front, body }
    }

    pub(super) fn len(&self) -> usize {
        self.front.len() + self.body.len()
    }

    /// Whether it is longer than what the kernel buffers for a client that does not read.
    pub(super) fn is_long(&self) -> bool {
        !self.body.is_empty()
    }
}

/// The bytes of an answer. `kept`: `None` when the connection ends after it, otherwise whether the
/// client must be told that it goes on. `bodiless`: without the body, as in the answer to a `HEAD`.
pub(super) fn to_bytes(response: &Response, kept: Option<bool>, bodiless: bool) -> Vec<u8> {
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
    bytes.push_str(response.fields);
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
