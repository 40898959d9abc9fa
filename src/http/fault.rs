//! What can be wrong with a request: the status code and the sentence of each fault.

use std::fmt;

use crate::limits;

/// Why what a client sent is not a request. The connection ends after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not HTTP, or ambiguous; what is wrong.
    Malformed(&'static str),
    /// Not complete in time.
    TooSlow,
    /// An HTTP/1.0 request that needs a length.
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
    /// Too large for what is left of the memory for requests.
    Crowded,
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
            Fault::Expectation => f.write_str("the only Expect that is supported is 100-continue"),
            Fault::HeadTooLarge => write!(
                f,
                "the head is longer than {} bytes or has more than 64 fields",
                limits::HTTP_HEAD
            ),
            Fault::TransferEncoding => {
                f.write_str("the only Transfer-Encoding that is supported is chunked")
            }
            Fault::Crowded => f.write_str(
                "other incomplete requests take up all the memory that is set aside for them; \
                 send it again a little later",
            ),
            Fault::Version => f.write_str("only HTTP/1.1 and HTTP/1.0 are supported"),
        }
    }
}
