//! A chunked body (RFC 9112, section 7.1) to its bytes: pure functions over what has arrived so far.
//!
//! The line of a chunk's size is read by `httparse`, and judged as strictly as a head.

use super::fault::Fault;
use crate::limits;

/// Longest line that gives a chunk's size, its extensions included.
const CHUNK_LINE: usize = 256;

/// Reads a chunked body piece by piece.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    at: At,
    /// Bytes of trailer fields so far. They are ignored.
    trailers: usize,
}

#[derive(Debug, Default)]
enum At {
    #[default]
    Size,
    Data(usize),
    DataEnd,
    Trailers,
    End,
}

impl Chunks {
    /// Appends the part of the body that is in `input` to `body`; returns how many bytes of `input`
    /// were used. Call it again with the rest and more bytes until [`Chunks::ended`].
    pub(super) fn feed(&mut self, input: &[u8], body: &mut Vec<u8>) -> Result<usize, Fault> {
        let mut done = 0;
        loop {
            let rest = &input[done..];
            let step = match self.at {
                At::Size => self.size(rest, body.len())?,
                At::Data(left) => {
                    let taken = left.min(rest.len());
                    body.extend_from_slice(&rest[..taken]);
                    self.at = if taken == left { At::DataEnd } else { At::Data(left - taken) };
                    taken
                }
                At::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        self.at = At::Size;
                        2
                    }
                    [] | [b'\r'] => 0,
                    _ => return Err(Fault::Malformed("a chunk is longer than its size says")),
                },
                At::Trailers => self.trailer(rest)?,
                At::End => 0,
            };
            if step == 0 {
                return Ok(done);
            }
            done += step;
        }
    }

    /// Whether the body is complete.
    pub(super) fn ended(&self) -> bool {
        matches!(self.at, At::End)
    }

    fn size(&mut self, rest: &[u8], body: usize) -> Result<usize, Fault> {
        let Ok(line) = size_line(rest) else {
            // Only the bytes up to the wrong one are judged, so that the fault does not depend on
            // how many have been read.
            let wrong = (1..=rest.len()).find(|&end| size_line(&rest[..end]).is_err());
            return Err(size_fault(&rest[..wrong.unwrap_or(rest.len())]));
        };
        let Some((line, size)) = line else { return Ok(0) };
        let size = usize::try_from(size).map_err(|_| Fault::BodyTooLarge)?;
        if size > limits::HTTP_BODY - body {
            return Err(Fault::BodyTooLarge);
        }
        self.at = if size == 0 { At::Trailers } else { At::Data(size) };
        Ok(line)
    }

    fn trailer(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        let line = rest.iter().position(|&byte| byte == b'\n').map(|end| end + 1);
        if self.trailers + line.unwrap_or(rest.len()) > limits::HTTP_HEAD {
            return Err(Fault::HeadTooLarge);
        }
        let Some(line) = line else { return Ok(0) };
        self.trailers += line;
        if matches!(&rest[..line], b"\r\n" | b"\n") {
            self.at = At::End;
        }
        Ok(line)
    }
}

/// The length of the line of a chunk's size at the start of `rest`, and that size; `None` while the
/// line is not complete.
fn size_line(rest: &[u8]) -> Result<Option<(usize, u64)>, httparse::InvalidChunkSize> {
    match httparse::parse_chunk_size(rest)? {
        httparse::Status::Complete((line, size)) => {
            // The parser takes an empty line for 0, and a bare line feed for part of an extension,
            // where other readers see the end of the line.
            let bare = rest[..line].iter().filter(|&&byte| byte == b'\n').count() > 1;
            if !rest[0].is_ascii_hexdigit() || bare || line > CHUNK_LINE {
                return Err(httparse::InvalidChunkSize);
            }
            Ok(Some((line, size)))
        }
        httparse::Status::Partial if rest.len() <= CHUNK_LINE => Ok(None),
        httparse::Status::Partial => Err(httparse::InvalidChunkSize),
    }
}

/// What is wrong with the line of a chunk's size; `rest` ends with the wrong byte.
fn size_fault(rest: &[u8]) -> Fault {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let end = rest.iter().position(|&byte| byte == b'\n');
    let is_bare = end.and_then(|end| rest[..end].last()).is_some_and(|&byte| byte != b'\r');
    let is_number = matches!(rest.get(digits), None | Some(b';' | b' ' | b'\t' | b'\r' | b'\n'));
    Fault::Malformed(if digits == 0 || !is_number {
        "the size of a chunk is not a hexadecimal number"
    } else if digits > 16 {
        "the size of a chunk has more than 16 digits"
    } else if end.map_or(rest.len(), |end| end + 1) > CHUNK_LINE {
        "the line of a chunk's size is longer than 256 bytes with its extensions; leave these out"
    } else if is_bare {
        "the line of a chunk's size ends with a line feed alone; CR and LF end a line"
    } else {
        "the line of a chunk's size has something else behind the size than an extension"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), u16> {
        let (mut chunks, mut body, mut kept) = (Chunks::default(), Vec::new(), Vec::new());
        for piece in pieces {
            kept.extend_from_slice(piece);
            let done = chunks.feed(&kept, &mut body).map_err(|fault| fault.status())?;
            kept.drain(..done);
        }
        Ok((body, kept.len(), chunks.ended()))
    }

    #[test]
    fn chunks_cut_at_any_byte() {
        let whole = b"5;x=\"y\"\r\nhello\r\n6 \r\n world\r\n0\r\nTrailer: 1\r\n\r\nGET";
        for cut in 0..whole.len() {
            let (body, left, ended) = chunks(&[&whole[..cut], &whole[cut..]]).expect("no fault");
            assert_eq!((body.as_slice(), left, ended), (&b"hello world"[..], 3, true), "{cut}");
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(chunks(&bytes).expect("no fault").0, b"hello world");
    }

    #[test]
    fn faults_of_a_chunks_line_say_what_is_wrong() {
        let long = [b"1;".as_slice(), &[b'a'; CHUNK_LINE], b"\r\n"].concat();
        let cases: &[(&[u8], &str)] = &[
            (b"\r\n\r\n", "not a hexadecimal number"),
            (b"x\r\n", "not a hexadecimal number"),
            (b"5x\r\n", "not a hexadecimal number"),
            (b"5\nhello", "a line feed alone"),
            (b"5;a\nhello\r\n", "a line feed alone"),
            (b"fffffffffffffffff\r\n", "more than 16 digits"),
            (&long, "longer than 256 bytes"),
            (&long[..long.len() - 2], "longer than 256 bytes"),
            (b"5 6\r\n", "something else behind the size"),
            (b"5;a\rb\r\n", "something else behind the size"),
        ];
        for (bytes, words) in cases {
            let fault = Chunks::default().feed(bytes, &mut Vec::new()).expect_err(words);
            let text = fault.to_string();
            assert!(text.contains(words), "{:?}: {text}", String::from_utf8_lossy(bytes));
        }
        assert!(size_fault(&long).to_string().contains(&CHUNK_LINE.to_string()));
    }

    #[test]
    fn chunk_faults() {
        let long_line = [b"1;".as_slice(), &[b'a'; CHUNK_LINE]].concat();
        let long_trailer = [b"0\r\n".as_slice(), &[b'a'; limits::HTTP_HEAD + 1]].concat();
        let cases: &[(&[u8], u16)] = &[
            (b"\r\n\r\n", 400),
            (b"x\r\n", 400),
            (b"-1\r\n", 400),
            (b"5\nhello", 400),
            (b"5;a\nb\r\nhello\r\n", 400),
            (b"5\r\nhello!\r\n", 400),
            (b"10001\r\n", 413),
            (b"fffffffffffffff\r\n", 413),
            (b"fffffffffffffffff\r\n", 400),
            (&long_line, 400),
            (&long_trailer, 431),
        ];
        for (bytes, status) in cases {
            assert_eq!(chunks(&[bytes]), Err(*status), "{:?}", String::from_utf8_lossy(bytes));
        }
        let full = [b"10000\r\n".as_slice(), &[0; 65536], b"\r\n0\r\n\r\n"].concat();
        assert_eq!(chunks(&[&full]).expect("fits").0.len(), limits::HTTP_BODY);
        let over = [b"ffff\r\n".as_slice(), &[0; 65535], b"\r\n2\r\n"].concat();
        assert_eq!(chunks(&[&over]), Err(413));
    }
}
