//! A message as one line.

use std::fmt::{self, Write};

use crate::text::line::is_unfit;

/// Longest message in bytes, after escaping, also as a text of JSON; the rest is cut off and "…" says so. Syslog
/// receivers take at least 2,048 bytes (RFC 5424, section 6.1), of which the head takes some.
pub(super) const MESSAGE: usize = 1900;

/// One message on one line, at most [`MESSAGE`] bytes: whatever could end the line, move a
/// terminal's cursor or turn the text's direction is written as an escape.
pub(super) fn escape(message: fmt::Arguments<'_>) -> String {
    let mut line = Line { text: String::new(), quoted: 0, full: false };
    // The only error is the one that says the line is full.
    if line.write_fmt(message).is_err() && line.full {
        line.text.push('…');
    }
    line.text
}

struct Line {
    text: String,
    /// Characters that take one byte more in JSON.
    quoted: usize,
    full: bool,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            let before = self.text.len();
            match char {
                '\n' | '\r' | '\t' => self.text.extend(char.escape_default()),
                char if char.is_ascii_control() => write!(self.text, "\\x{:02x}", u32::from(char))?,
                char if is_unfit(char) => self.text.extend(char.escape_unicode()),
                char => self.text.push(char),
            }
            let added = &self.text[before..];
            self.quoted += added.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count();
            if self.text.len() + self.quoted > MESSAGE {
                self.text.truncate(before);
                self.full = true;
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}
