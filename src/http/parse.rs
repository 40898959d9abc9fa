//! Bytes to the head of an HTTP/1.1 request: pure functions over what has arrived so far.
//!
//! `httparse` reads the head. What it leaves open is decided here, strictly: the length of the body,
//! whether the connection is kept, which forms of target there are. Bytes that two readers could take
//! for different requests are refused (RFC 9112, section 11.2).

use super::fault::Fault;
use super::message::Source;
use crate::limits;

/// Most fields in a head. The head's limit of 8 KiB alone would allow thousands of empty ones.
const FIELDS: usize = 64;

/// What the head of a request says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) method: Box<str>,
    /// Without scheme, authority, query and fragment.
    pub(super) path: Box<str>,
    pub(super) content_type: Option<Box<str>>,
    pub(super) source: Source,
    pub(super) length: Length,
    /// The client waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
    pub(super) keep_alive: bool,
    /// The request is HTTP/1.0: such a client must be told that the connection is kept.
    pub(super) old: bool,
}

/// What says where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Known(usize),
    Chunked,
}

/// The head at the start of `bytes` and its length; `None` while it is incomplete.
pub(super) fn head(bytes: &[u8]) -> Result<Option<(Head, usize)>, Fault> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    // Bytes beyond the limit are ignored: whether they have arrived yet must not matter.
    let bytes = &bytes[..bytes.len().min(limits::HTTP_HEAD)];
    let end = match request.parse(bytes) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) if bytes.len() < limits::HTTP_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(too_large(bytes)),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::HeadTooLarge),
        Err(httparse::Error::Version) if names_http(bytes) => return Err(Fault::Version),
        // TLS (RFC 8446, section 5.1).
        Err(_) if bytes.starts_with(&[0x16, 3]) => {
            return Err(Fault::Malformed("it is TLS, and dev is true; call http://"));
        }
        Err(_) => return Err(Fault::Malformed("its head cannot be read")),
    };
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(Fault::Malformed("the request line is incomplete"));
    };
    let old = version == 0;
    let connection = |option: &str| {
        values(request.headers, "connection")
            .flat_map(|value| value.split(','))
            .any(|word| blanks_off(word).eq_ignore_ascii_case(option))
    };
    let (authority, path) = target_parts(target)?;
    if values(request.headers, "host").nth(1).is_some() {
        return Err(Fault::Malformed("Host is given twice"));
    }
    let head = Head {
        method: method.into(),
        path: path.into(),
        source: Source {
            host: authority.or(values(request.headers, "host").next()).map(Into::into),
            origin: only(request.headers, "origin"),
            fetch_site: only(request.headers, "sec-fetch-site"),
        },
        content_type: values(request.headers, "content-type").next().map(Into::into),
        length: length(request.headers, method, old)?,
        expects_continue: expects_continue(request.headers, old)?,
        keep_alive: !connection("close") && (!old || connection("keep-alive")),
        old,
    };
    Ok(Some((head, end)))
}

/// Which limit is exceeded by a head that does not end within [`limits::HTTP_HEAD`] bytes: that of
/// its first line, or that of the whole.
fn too_large(bytes: &[u8]) -> Fault {
    let mut line = bytes.iter().skip_while(|byte| matches!(byte, b'\r' | b'\n'));
    match line.any(|&byte| byte == b'\n') {
        true => Fault::HeadTooLarge,
        false => Fault::TargetTooLong,
    }
}

/// Whether the third word of the first line names a version of HTTP, so that 505 is the right
/// answer. The rest of the line may not have arrived yet.
fn names_http(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty());
    let version = line.and_then(|line| line.split(|&byte| byte == b' ').nth(2));
    version.is_some_and(|version| version.starts_with(b"HTTP/"))
}

/// The values of a field, in order. No field that is read here may have bytes that are not UTF-8;
/// they are replaced by a character that is valid nowhere, so such a value matches nothing and is
/// not empty.
fn values<'a>(
    fields: &'a [httparse::Header<'a>],
    name: &'static str,
) -> impl Iterator<Item = &'a str> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| blanks_off(std::str::from_utf8(field.value).unwrap_or("\u{fffd}")))
}

/// Without the blanks around it: space and tab alone are such (RFC 9110, section 5.6.3).
fn blanks_off(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// The value of a field; the empty string when the field is given more than once.
fn only(fields: &[httparse::Header<'_>], name: &'static str) -> Option<Box<str>> {
    let mut values = values(fields, name);
    let first = values.next()?;
    Some(if values.next().is_none() { first.into() } else { "".into() })
}

/// The authority and the path of a target in origin form (`/x?q`), absolute form
/// (`http://host/x?q`, whose authority counts, and not the field `Host`: RFC 9112, section 3.2.2)
/// or `*`.
fn target_parts(target: &str) -> Result<(Option<&str>, &str), Fault> {
    let end = target.find(['?', '#']).unwrap_or(target.len());
    let target = &target[..end];
    if target.starts_with('/') || target == "*" {
        return Ok((None, target));
    }
    match target.split_once("://") {
        Some((scheme, rest))
            if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") =>
        {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            Ok((Some(authority), if path.is_empty() { "/" } else { path }))
        }
        _ => Err(Fault::Malformed("the target is neither a path nor an http address")),
    }
}

/// Where the body ends (RFC 9112, section 6.3). A request with neither field has no body; but an
/// HTTP/1.0 request whose method has one needs a length (411), because in HTTP/1.0 its absence once
/// meant "until the connection ends".
fn length(fields: &[httparse::Header<'_>], method: &str, old: bool) -> Result<Length, Fault> {
    let mut lengths = values(fields, "content-length");
    let mut codings = values(fields, "transfer-encoding");
    match (lengths.next(), codings.next()) {
        (Some(_), Some(_)) => {
            Err(Fault::Malformed("Content-Length and Transfer-Encoding exclude each other"))
        }
        (Some(_), None) if lengths.next().is_some() => {
            Err(Fault::Malformed("Content-Length is given twice"))
        }
        (Some(digits), None) => {
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Fault::Malformed("Content-Length is not a number"));
            }
            // A number too large for the type is beyond the limit too.
            match digits.parse() {
                Ok(length) if length <= limits::HTTP_BODY => Ok(Length::Known(length)),
                _ => Err(Fault::BodyTooLarge),
            }
        }
        (None, Some(_)) if old => Err(Fault::Malformed("HTTP/1.0 does not have Transfer-Encoding")),
        (None, Some(coding)) => {
            if coding.eq_ignore_ascii_case("chunked") && codings.next().is_none() {
                Ok(Length::Chunked)
            } else {
                Err(Fault::TransferEncoding)
            }
        }
        (None, None) if old && matches!(method, "POST" | "PUT" | "PATCH") => {
            Err(Fault::LengthRequired)
        }
        (None, None) => Ok(Length::Known(0)),
    }
}

/// Whether the client waits for `100 Continue`. An HTTP/1.0 client cannot (RFC 9110, 10.1.1).
fn expects_continue(fields: &[httparse::Header<'_>], old: bool) -> Result<bool, Fault> {
    match values(fields, "expect").next() {
        Some(expected) if expected.eq_ignore_ascii_case("100-continue") => Ok(!old),
        Some(_) => Err(Fault::Expectation),
        None => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(fields: &str) -> String {
        format!("POST /x HTTP/1.1\r\n{fields}\r\n")
    }

    fn fault(bytes: &[u8]) -> u16 {
        head(bytes).expect_err(&String::from_utf8_lossy(bytes)).status()
    }

    #[test]
    fn only_space_and_tab_are_blanks_around_a_value() {
        for blank in ["\u{a0}", "\u{85}", "\u{2003}", "\u{3000}"] {
            let coding = post(&format!("Transfer-Encoding: {blank}chunked\r\n"));
            assert_eq!(fault(coding.as_bytes()), 501, "{blank:?}");
            let length = post(&format!("Content-Length: 4{blank}\r\n"));
            assert_eq!(fault(length.as_bytes()), 400, "{blank:?}");
        }
        assert!(head(post("Content-Length: \t 4 \t\r\n").as_bytes()).is_ok());
    }

    #[test]
    fn head_cut_at_any_byte_waits_for_the_rest() {
        let whole = b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nCONTENT-type: \
            text/plain\r\nExpect: 100-Continue\r\n\r\nhello";
        let end = whole.len() - 5;
        for cut in 0..end {
            assert_eq!(head(&whole[..cut]).expect("no fault"), None, "cut at {cut}");
        }
        for cut in end..=whole.len() {
            let (head, length) = head(&whole[..cut]).expect("no fault").expect("whole");
            assert_eq!(length, end);
            assert_eq!(&*head.path, "/a");
            assert_eq!(head.content_type.as_deref(), Some("text/plain"));
            assert_eq!(head.length, Length::Known(5));
            assert!(head.expects_continue && head.keep_alive && !head.old);
        }
    }

    #[test]
    fn targets() {
        let cases = [
            ("/", Some("/")),
            ("/a/b?c=d", Some("/a/b")),
            ("/a#b", Some("/a")),
            ("/?a=http://b/c", Some("/")),
            ("*", Some("*")),
            ("http://host:8080/a/b?c", Some("/a/b")),
            ("HTTPS://host", Some("/")),
            ("http://host?c", Some("/")),
            ("host:443", None),
            ("ftp://host/a", None),
            ("a/b", None),
        ];
        for (target, expected) in cases {
            assert_eq!(target_parts(target).ok().map(|(_, path)| path), expected, "{target}");
        }
    }

    #[test]
    fn where_a_request_says_it_comes_from() {
        let source = |target: &str, fields: &str| {
            let head = head(format!("GET {target} HTTP/1.1\r\n{fields}\r\n").as_bytes());
            let Source { host, origin, fetch_site } = head.expect("good").expect("whole").0.source;
            [host, origin, fetch_site].map(|value| value.map(String::from))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(source("/", ""), [None, None, None]);
        let fields = "HOST: a:1\r\nOrigin: http://b\r\nsec-fetch-SITE:  none \r\n";
        assert_eq!(source("/", fields), [some("a:1"), some("http://b"), some("none")]);
        assert_eq!(source("http://c:2/x", fields)[0], some("c:2"));
        // Of two, neither counts.
        assert_eq!(source("/", "Origin: http://a\r\nOrigin: http://a\r\n")[1], some(""));
        assert_eq!(fault(post("Host: a\r\nHost: a\r\n").as_bytes()), 400);
        let head = head(b"GET / HTTP/1.1\r\nHost: a\xff\r\n\r\n").expect("good").expect("whole");
        assert_eq!(head.0.source.host.as_deref(), Some("\u{fffd}"), "not as if there were none");
    }

    #[test]
    fn lengths_and_faults() {
        let cases: &[(&str, Result<Length, u16>)] = &[
            ("", Ok(Length::Known(0))),
            ("Content-Length: 0\r\n", Ok(Length::Known(0))),
            ("Content-Length: 65536\r\n", Ok(Length::Known(65536))),
            ("Content-Length: 65537\r\n", Err(413)),
            ("Content-Length: 99999999999999999999999999\r\n", Err(413)),
            ("Content-Length: -1\r\n", Err(400)),
            ("Content-Length: +1\r\n", Err(400)),
            ("Content-Length:\r\n", Err(400)),
            ("Content-Length: 0x10\r\n", Err(400)),
            ("Content-Length: 5, 5\r\n", Err(400)),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Err(400)),
            ("Content-Length : 5\r\n", Err(400)),
            ("Transfer-Encoding: Chunked\r\n", Ok(Length::Chunked)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(400)),
            ("Content-Length: 5\r\nTransfer-Encoding: identity\r\n", Err(400)),
            ("Transfer-Encoding: gzip, chunked\r\n", Err(501)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(501)),
            ("Transfer-Encoding: \u{b}chunked\r\n", Err(400)),
            ("Expect: the-unexpected\r\n", Err(417)),
            ("X: a\r\n b\r\n", Err(400)),
            ("X: a\0b\r\n", Err(400)),
        ];
        for (fields, expected) in cases {
            let found = head(post(fields).as_bytes())
                .map(|head| head.expect("whole").0.length)
                .map_err(|fault| fault.status());
            assert_eq!(&found, expected, "{fields:?}");
        }
    }

    #[test]
    fn old_versions() {
        let cases: &[(&str, Result<bool, u16>)] = &[
            ("GET / HTTP/1.1\r\n\r\n", Ok(true)),
            ("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n", Ok(false)),
            ("GET / HTTP/1.0\r\n\r\n", Ok(false)),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Ok(true)),
            ("GET / HTTP/1.0\nConnection: keep-alive\nConnection: close\n\n", Ok(false)),
            ("POST / HTTP/1.0\r\n\r\n", Err(411)),
            ("POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n", Ok(false)),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Err(400)),
            ("GET / HTTP/1.2\r\n\r\n", Err(505)),
            ("GET / HTTP/3.0\r\n\r\n", Err(505)),
            ("\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Err(505)),
            ("GET / FTP/1.1\r\n\r\n", Err(400)),
            ("GET /\r\n\r\n", Err(400)),
            ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}", Err(400)),
        ];
        for (bytes, expected) in cases {
            let found = head(bytes.as_bytes())
                .map(|head| head.expect("whole").0.keep_alive)
                .map_err(|fault| fault.status());
            assert_eq!(&found, expected, "{bytes:?}");
        }
    }

    #[test]
    fn heads_at_the_limit() {
        let fill = |head: &str, length: usize| {
            let rest = length - head.len() - 4;
            format!("{head}{}\r\n\r\n", "a".repeat(rest)).into_bytes()
        };
        let field = "GET / HTTP/1.1\r\nX: ";
        assert!(head(&fill(field, limits::HTTP_HEAD)).expect("fits").is_some());
        assert_eq!(fault(&fill(field, limits::HTTP_HEAD + 1)), 431);
        assert_eq!(fault(&fill(field, limits::HTTP_HEAD + 9)[..limits::HTTP_HEAD]), 431);
        assert_eq!(fault(&fill("GET /", limits::HTTP_HEAD + 9)[..limits::HTTP_HEAD]), 414);
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(limits::HTTP_HEAD));
        assert_eq!(fault(long.as_bytes()), 414);
        assert_eq!(fault(post(&"a:\r\n".repeat(FIELDS + 1)).as_bytes()), 431);
        assert_eq!(fault(&b"\r\n".repeat(limits::HTTP_HEAD)), 414);
    }
}
