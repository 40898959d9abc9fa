//! The byte order mark, which editors on Windows put first into a text file. No format that is
//! read here knows it.

/// The text without one.
pub fn skip(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}
