//! Requests and responses, as values.

use std::fmt;

/// A complete request. Its `Debug` hides the body, which may hold secrets.
#[derive(PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST` or any other token.
    pub method: Box<str>,
    /// The path, without host, query and fragment; not percent-decoded.
    pub path: Box<str>,
    /// The content type with its parameters, if there is one.
    pub content_type: Option<Box<str>>,
    /// The body, at most [`HTTP_BODY`](crate::limits::HTTP_BODY) bytes.
    pub body: Vec<u8>,
}

/// What a request's head says about where it comes from. Browsers say it truthfully for web pages;
/// other clients can send what they like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The host that the client addresses, with its port: from the target, else from `Host`.
    pub host: Option<Box<str>>,
    /// `Origin`: scheme, host and port of the page whose script makes the browser send the request.
    pub origin: Option<Box<str>>,
    /// `Sec-Fetch-Site`: how that page is related to this server.
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
    /// Further lines of the head, each with its line end.
    pub fields: &'static str,
    /// The body. The answer to a `HEAD` request has only its length and type.
    pub body: Vec<u8>,
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
