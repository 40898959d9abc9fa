//! Text from elsewhere, made fit for one line of a log, a table or a sentence.

use std::path::Path;

/// Whether a character could end the line, move a terminal's cursor or turn the text's direction:
/// controls, line separators, and marks that reorder what stands around them.
pub fn is_unfit(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// The text with an escape for each such character: `\n`, `\u{1b}`.
pub fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            char if is_unfit(char) => line.extend(char.escape_default()),
            char => line.push(char),
        }
    }
    line
}

/// The text's first characters, `length` of them at most; "…" follows where it goes on.
pub fn cut(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether this names a password, which is nothing for a command line or a file that all can read.
pub fn has_password(text: &str) -> bool {
    text.contains('@')
}

/// A word that somebody has given, as a sentence repeats it: in quotes, but for one that may hold a password, such as
/// a proxy's address in the wrong place.
pub fn shown(word: &str) -> String {
    match has_password(word) {
        true => UNSHOWN.into(),
        false => format!("{word:?}"),
    }
}

/// Text from elsewhere that is repeated without quotes, in one line of this length at most.
pub fn repeated(text: &str, length: usize) -> String {
    match has_password(text) {
        true => UNSHOWN.into(),
        false => cut(&escaped(text), length),
    }
}

/// The same, of a file's path, which may have an `@` in it.
pub fn shown_path(path: &Path) -> String {
    let path = path.to_string_lossy();
    match has_password(&path) && path.contains(":/") {
        true => UNSHOWN.into(),
        false => path.into(),
    }
}

const UNSHOWN: &str = "(not repeated: it may hold a password)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_leave_the_line_is_escaped() {
        for (text, line) in [
            ("plain % \\ é 漢", "plain % \\ é 漢"),
            ("two\nlines\r\t", "two\\nlines\\r\\t"),
            ("\u{1b}[31m\u{7f}\u{9b}", "\\u{1b}[31m\\u{7f}\\u{9b}"),
            ("\u{2028}\u{202e}\u{2066}", "\\u{2028}\\u{202e}\\u{2066}"),
        ] {
            assert_eq!(escaped(text), line);
        }
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(cut("漢字", 2), "漢字");
        assert_eq!(cut("漢字!", 2), "漢字…");
    }
}
