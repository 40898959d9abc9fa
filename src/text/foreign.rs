//! JSON text of a process that may have been broken into: rewritten before anything of it is shown or read, so that no
//! reader has to think of it.

use super::line::is_unfit;

/// The same JSON text for a terminal: what is [unfit](is_unfit) for one is an escape of JSON (`\u001b`), and means what it
/// meant.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' => shown.push('\n'),
            // Blanks: in a string JSON has neither.
            '\r' | '\t' => shown.push(' '),
            char if is_unfit(char) => shown.push_str(&format!("\\u{:04x}", u32::from(char))),
            char => shown.push(char),
        }
    }
    shown
}

/// The text with strings that are each fit for a line: what is not, or would end it, is written out in them as
/// [`escaped`](super::line::escaped) does (`\u{1b}`, `\n`), so that a string has these letters once it is read.
pub fn in_lines(text: &str) -> String {
    let mut lines = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let (meant, length) = match char {
            '\\' => escape(rest),
            '\n' | '\r' | '\t' => (Some(' '), 1),
            char => (Some(char), char.len_utf8()),
        };
        let (written, after) = rest.split_at(length);
        rest = after;
        match meant.filter(|meant| is_unfit(*meant)) {
            Some(meant) => {
                lines.push('\\');
                lines.extend(meant.escape_default());
            }
            None if char == '\\' => lines.push_str(written),
            None => lines.extend(meant),
        }
    }
    lines
}

/// What the escape means with which a text begins, where that may be unfit, and its length in bytes.
fn escape(text: &str) -> (Option<char>, usize) {
    let digits = || u32::from_str_radix(text.get(2..6)?, 16).ok();
    match text.chars().nth(1) {
        Some('n') => (Some('\n'), 2),
        Some('r') => (Some('\r'), 2),
        Some('t') => (Some('\t'), 2),
        Some('b') => (Some('\u{8}'), 2),
        Some('f') => (Some('\u{c}'), 2),
        Some('u') => match digits() {
            Some(meant) => (char::from_u32(meant), 6),
            None => (None, 2),
        },
        other => (None, 1 + other.filter(|other| !is_unfit(*other)).map_or(0, char::len_utf8)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::text::line::escaped;

    #[test]
    fn json_means_the_same_when_it_is_shown_and_has_lines_in_its_strings_when_it_is_read() {
        for (text, meant) in [
            (r#"{"a":"\u001b[31m\n\"\\"}"#, "\u{1b}[31m\n\"\\"),
            ("{\"a\":\"\u{7f}\u{9b}31m\u{202e}\u{2028}\"}", "\u{7f}\u{9b}31m\u{202e}\u{2028}"),
            (r#"{"a":"\ud83d\ude00 \u00e9 \u009B \b\f\r\t\/ é"}"#, "😀 é \u{9b} \u{8}\u{c}\r\t/ é"),
            (r#"{"a":"\\n \\\n \\u001b"}"#, "\\n \\\n \\u001b"),
        ] {
            let shown: Value = serde_json::from_str(&shown(text)).unwrap();
            assert_eq!(shown, json!({"a": meant}));
            let read: Value = serde_json::from_str(&in_lines(text)).unwrap();
            assert_eq!(read, json!({"a": escaped(meant)}), "{text}");
        }
        let spaced = "{\r\n\t\"a\":\r1}\n";
        assert_eq!(shown(spaced), "{ \n \"a\": 1}\n");
        assert_eq!(in_lines(spaced), "{   \"a\": 1} ");
    }

    #[test]
    fn what_is_no_json_is_harmless_too() {
        for text in
            ["\\", "\\u", "\\u12", "\\ué12", "\\u+01b", "a\u{1b}\\\u{1b}\nb", "\\é", "\\u{2028}"]
        {
            assert!(!in_lines(text).contains(is_unfit), "{text:?}");
            assert!(!shown(text).contains(|char| char != '\n' && is_unfit(char)), "{text:?}");
        }
    }
}
