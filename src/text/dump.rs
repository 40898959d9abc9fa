//! The state of every connection as text for people (protocol page, section 7, step 13): a line each, true for the
//! moment in which it was written. No line has a passcode: none of those who write one knows any.

use std::fmt::{self, Write};
use std::time::{Duration, Instant};

use super::line::{escaped, is_unfit};

/// Lines, up to so many bytes; of the default one none at all.
#[derive(Debug, Default)]
pub struct Dump {
    most: usize,
    text: String,
    lines: u64,
    /// For which there was no room.
    left_out: u64,
}

impl Dump {
    /// One that has room for so many bytes and a line.
    pub fn new(most: usize) -> Self {
        Dump { most, ..Dump::default() }
    }

    /// Adds a line. Whatever is in it, it stays one.
    pub fn line(&mut self, line: fmt::Arguments<'_>) {
        self.lines += 1;
        if self.text.len() >= self.most {
            self.left_out += 1;
            return;
        }
        let start = self.text.len();
        let _ = self.text.write_fmt(line);
        if self.text[start..].contains(is_unfit) {
            let line = escaped(&self.text[start..]);
            self.text.truncate(start);
            self.text.push_str(&line);
        }
        self.text.push('\n');
    }

    /// Adds all lines of another.
    pub fn append(&mut self, other: Dump) {
        self.lines += other.lines;
        self.left_out += other.left_out;
        if self.text.len() >= self.most {
            self.left_out += other.lines - other.left_out;
        } else {
            self.text.push_str(&other.text);
        }
    }

    /// How many lines have been added.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        if self.left_out > 0 {
            let _ =
                writeln!(self.text, "{} more lines are left out: the file is full", self.left_out);
        }
        self.text
    }
}

/// What is so of these, each with a comma before it.
pub fn said(all: &[(bool, &str)]) -> String {
    let mut text = String::new();
    for (_, what) in all.iter().filter(|(is_so, _)| *is_so) {
        text.extend([", ", what]);
    }
    text
}

/// How long something lasts by now.
pub struct For(pub Duration);

impl For {
    /// The time since then.
    pub fn since(then: Instant) -> Self {
        For(then.elapsed())
    }
}

impl fmt::Display for For {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_counted_and_a_line_stays_a_line() {
        let mut dump = Dump::new(1000);
        dump.line(format_args!("one {}", "two\n\u{1b}[31mthree"));
        dump.line(format_args!("{}", "\u{202e}turned"));
        let mut other = Dump::new(1000);
        other.line(format_args!("{}", "x".repeat(1000)));
        for _ in 0..3 {
            other.line(format_args!("left out"));
        }
        dump.append(other);
        let mut last = Dump::new(1000);
        last.line(format_args!("left out, too"));
        dump.append(last);
        let text = dump.finish();
        assert!(
            text.starts_with("one two\\n\\u{1b}[31mthree\n\\u{202e}turned\nxxx"),
            "{}",
            &text[..40]
        );
        assert!(text.ends_with("x\n4 more lines are left out: the file is full\n"));
        assert!(text.len() < 2200);
    }
}
