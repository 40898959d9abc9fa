//! Reading JSON that people write: what is wrong is said in their words, with its place and without
//! repeating values, since what stands in the wrong place may be a passcode.

use serde::Deserialize;
use serde_json::error::Category;

use crate::text::mark;

/// Reads JSON text; a byte order mark before it is skipped.
///
/// # Errors
/// Half a sentence without a dot: the line and column (in characters, from 1), what is there and what
/// would be right. Of the text it holds a key or one mark at most.
pub fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    let text = mark::skip(text);
    match no_text(text) {
        Some(fault) => Err(fault),
        None => serde_json::from_slice(text).map_err(|error| explain(text, &error)),
    }
}

/// Why the bytes cannot be JSON text at all.
fn no_text(text: &[u8]) -> Option<String> {
    if text.is_empty() {
        return Some("it is empty; JSON text in braces { } is expected".into());
    }
    if text.iter().all(u8::is_ascii_whitespace) {
        return Some("it holds nothing but blanks; JSON text in braces { } is expected".into());
    }
    let utf16 = matches!(text, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, b'{', ..] | [b'{', 0, ..]);
    if utf16 {
        return Some("it is UTF-16 text, as some editors write it; save it as UTF-8".into());
    }
    if let Some(at) = text.iter().position(|byte| *byte == 0) {
        return Some(format!(
            "{}: a zero byte stands there, so that this is no text; JSON text in UTF-8 is expected",
            place(text, at)
        ));
    }
    let error = std::str::from_utf8(text).err()?;
    let at = error.valid_up_to();
    let byte = text.get(at).copied().unwrap_or_default();
    Some(format!(
        "{}: the byte 0x{byte:02x} there is not UTF-8; save the text as UTF-8 (iconv -f ISO-8859-1 \
         -t UTF-8 turns the older encoding of Western Europe into it)",
        place(text, at)
    ))
}

/// `line 2, column 7`, of the byte `at`.
fn place(text: &[u8], at: usize) -> String {
    let before = &text[..at.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
    format!("line {line}, column {column}")
}

/// Where the library says that it stopped, as the number of the byte there.
fn offset(text: &[u8], error: &serde_json::Error) -> usize {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let start: usize = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    (start + error.column().saturating_sub(1)).min(text.len())
}

fn explain(text: &[u8], error: &serde_json::Error) -> String {
    let at = offset(text, error);
    let full = error.to_string();
    let what = full.rfind(" at line ").map_or(&*full, |end| &full[..end]);
    let place = place(text, at);
    match error.classify() {
        Category::Data => format!("{place}: {}", data(&text[..text.len().min(at + 1)], what)),
        Category::Syntax if what == "number out of range" => {
            let key = last_key(&text[..at]).map_or_else(String::new, |key| format!(" of {key:?}"));
            format!(
                "{place}: the number{key} is further from 0 than any that is accepted; write one nearer to 0"
            )
        }
        Category::Eof => format!("{place}: the text ends too early: {}", ended(what)),
        Category::Syntax if text[..at].iter().all(u8::is_ascii_whitespace) => {
            let found = found(text, at);
            match what {
                "expected value" if found.starts_with("a ") => {
                    format!(
                        "{place}: an object in braces {{ }} is expected, and {found} stands there"
                    )
                }
                what => format!("{place}: {}", syntax(what, &found)),
            }
        }
        Category::Syntax | Category::Io => format!("{place}: {}", syntax(what, &found(text, at))),
    }
}

/// What is not closed where the text ends.
fn ended(what: &str) -> &'static str {
    match what {
        "EOF while parsing a list" => "an array is not closed with ]",
        "EOF while parsing an object" => "an object is not closed with }",
        "EOF while parsing a string" => "a string is not closed with \"",
        _ => "a value is missing, and what was opened is not closed with } or ]",
    }
}

/// What stands at a place: a mark as it is; letters and digits may belong to a secret.
fn found(text: &[u8], at: usize) -> String {
    let rest = text.get(at..).unwrap_or_default();
    match String::from_utf8_lossy(rest).chars().next() {
        None => "the end".into(),
        Some(c) if c.is_numeric() => "a digit".into(),
        Some(c) if c.is_alphabetic() => "a letter".into(),
        Some('\n' | '\r') => "the end of the line".into(),
        Some(c) if c.is_control() || c.is_whitespace() => "a blank or control character".into(),
        Some(c) => c.to_string(),
    }
}

/// The faults of JSON itself. `found` is what stands there.
fn syntax(what: &str, found: &str) -> String {
    match (what, found) {
        (_, "/" | "#") => format!("{found} stands there; JSON has no comments, take it out"),
        (_, "'" | "‘" | "’" | "“" | "”" | "„" | "«" | "»") => {
            format!("{found} stands there; keys and strings are written in plain double quotes \"")
        }
        ("trailing comma", _) => {
            format!("a comma stands before {found}; take out the comma after the last item")
        }
        ("trailing characters", _) => {
            format!("{found} follows the end of the JSON text; take out what stands behind it")
        }
        ("key must be a string", "," | "}") => {
            format!("a key in double quotes is expected, and {found} stands there")
        }
        ("key must be a string", _) => {
            format!("a key in double quotes is expected, and {found} stands there without them")
        }
        ("expected `:`", _) => {
            format!("a colon is expected after the key, and {found} stands there")
        }
        ("expected `,` or `}`" | "expected `,` or `]`", _) => {
            let end = if what.contains('}') { "}" } else { "]" };
            format!(
                "a comma or {end} is expected, and {found} stands there; perhaps a comma is missing"
            )
        }
        ("expected value", _) => format!("a value is expected, and {found} stands there"),
        ("expected ident", _) => {
            "a word without quotes stands there; the only ones are true, false and null".into()
        }
        ("invalid number", _) => {
            "the number there is not written as JSON requires: digits, without blanks, + or \
             leading zeros"
                .into()
        }
        ("invalid escape", _) => {
            "the backslash before it means nothing there; write \\\\ for a backslash itself".into()
        }
        (what, _) if what.starts_with("control character") => {
            "a line break or control character stands within a string; is the quote before it \
             missing?"
                .into()
        }
        (what, _) if what.contains("hex escape") || what.contains("unicode code point") => {
            "\\u there is not followed by the four hexadecimal digits of a character".into()
        }
        ("recursion limit exceeded", _) => {
            "arrays and objects are nested more than 127 deep; nothing here needs that".into()
        }
        _ => format!("JSON cannot have {found} there"),
    }
}

/// The faults of what the text says, JSON though it is. `before` is the text as far as it was read.
fn data(before: &[u8], what: &str) -> String {
    if let Some(name) = quoted(what, "missing field `") {
        return format!("the object that ends there lacks {name:?}");
    }
    if let Some(name) = quoted(what, "duplicate field `") {
        return format!("{name:?} is given twice in one object; keep one");
    }
    let Some((head, rest)) = what.split_once(": ") else {
        return "the value there is not what is expected".into();
    };
    // What stands there may itself hold these words.
    let (kind, wanted) = match rest.rfind(", expected ") {
        Some(end) => (&rest[..end], wanted(&rest[end + ", expected ".len()..])),
        None => (rest, "something else"),
    };
    let key = match last_key(before) {
        Some(key) => format!("the value of {key:?}"),
        None => "the value there".into(),
    };
    match head {
        "invalid type" => format!("{key} is {}; {wanted} is expected", self::kind(kind)),
        _ => format!("{key} is {} beyond what is accepted; {wanted} is expected", self::kind(kind)),
    }
}

fn quoted<'a>(what: &'a str, head: &str) -> Option<&'a str> {
    what.strip_prefix(head)?.split('`').next()
}

/// What the library calls the kind of a value, as JSON's users do.
fn kind(kind: &str) -> &'static str {
    match kind.split(['"', '`', '(']).next().unwrap_or_default().trim_end() {
        "null" | "unit value" | "Option value" => "null",
        "boolean" => "true or false",
        "integer" => "a number",
        "floating point" => "a number with a fraction, or a very large one",
        "string" | "character" => "a string",
        "sequence" => "an array",
        "map" => "an object",
        _ => "something else",
    }
}

fn wanted(wanted: &str) -> &str {
    match wanted {
        "i64" | "u64" | "u32" | "u16" | "usize" => "a whole number (without quotes)",
        "f64" => "a number (without quotes)",
        "a boolean" => "true or false (without quotes)",
        "a map" => "an object in braces { }",
        "a sequence" => "an array in brackets [ ]",
        "a string" | "a borrowed string" => "a string in double quotes",
        other => other,
    }
}

/// The key that stands last in `before`, as far as it fits a line.
fn last_key(before: &[u8]) -> Option<String> {
    let (mut key, mut string, mut begun) = (None, None, None);
    let mut escaped = false;
    for (at, byte) in before.iter().enumerate() {
        match (begun, byte) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(start), b'"') => {
                string = Some(&before[start..at]);
                begun = None;
            }
            (None, b'"') => begun = Some(at + 1),
            (None, b':') => key = string,
            _ => {}
        }
    }
    let key = String::from_utf8_lossy(key?);
    (key.chars().count() <= 40).then(|| key.into_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Words of the library, which no operator should meet.
    const FOREIGN: &[&str] = &[
        "EOF",
        "expected ident",
        "invalid type",
        "i64",
        "Error(",
        "sequence",
        "ident",
        "trailing",
    ];

    #[test]
    fn every_fault_is_a_sentence_with_its_place_and_without_values() {
        let deep = format!("{{\"a\":{}", "[".repeat(200));
        for (text, sentence) in [
            ("", "it is empty"),
            (" \n", "it holds nothing but blanks"),
            ("{\"a\":1e999}", "line 1, column 10: the number of \"a\" is further from 0"),
            ("{\"a\":-1e999}", "line 1, column 11: the number of \"a\" is further from 0"),
            ("{\"a\":1,\n}", "line 2, column 1: a comma stands before }; take out"),
            (
                "{\"a\":\"s3cret\"}",
                "line 1, column 13: the value of \"a\" is a string; a whole number",
            ),
            (
                "{\"a\":\"s3cret, expected `x\"}",
                "line 1, column 26: the value of \"a\" is a string",
            ),
            ("{\"a\":true}", "line 1, column 9: the value of \"a\" is true or false; a whole"),
            ("{\"a\":77.5}", "line 1, column 9: the value of \"a\" is a number with a fraction"),
            (
                "{\"a\":99999999999999999999}",
                "line 1, column 25: the value of \"a\" is a number with",
            ),
            (
                "{\"a\":9999999999999999999}",
                "line 1, column 24: the value of \"a\" is a number beyond",
            ),
            ("{\"a\":[]}", "line 1, column 5: the value of \"a\" is an array; a whole"),
            ("{\"a\":null}", "line 1, column 9: the value of \"a\" is null; a whole"),
            ("[1]", "line 1, column 1: the value there is an array; an object in braces"),
            ("{\"a\":1", "line 1, column 6: the text ends too early: an object is not"),
            ("{\"a\":", "line 1, column 5: the text ends too early: a value is missing"),
            ("{\"a", "line 1, column 3: the text ends too early: a string is not closed"),
            ("{\"ä\":1 2}", "line 1, column 8: a comma or } is expected, and a digit stands there"),
            ("{\"a\" 1}", "line 1, column 6: a colon is expected after the key, and a digit"),
            ("{a:1}", "line 1, column 2: a key in double quotes is expected, and a letter"),
            ("{'a':1}", "line 1, column 2: ' stands there; keys and strings"),
            ("{“a”:1}", "line 1, column 2: “ stands there; keys and strings"),
            ("{\"a\":s3cret}", "line 1, column 6: a value is expected, and a letter stands there"),
            ("{\"a\":tru}", "line 1, column 9: a word without quotes stands there; the only"),
            ("{\"a\":01}", "line 1, column 7: the number there is not written"),
            ("{\"a\":1} x", "line 1, column 9: a letter follows the end"),
            ("{\"a\":1} // x", "line 1, column 9: / stands there; JSON has no comments"),
            ("ports=6000", "line 1, column 1: an object in braces { } is expected, and a letter"),
            ("# x\n{}", "line 1, column 1: # stands there; JSON has no comments"),
            ("{\"a\\x\":1}", "line 1, column 5: the backslash before it means nothing"),
            ("{\"a\\u00g0\":1}", "line 1, column "),
            ("{\"a\n\":1}", "line "),
            (&deep, "line 1, column "),
        ] {
            let fault = read::<BTreeMap<String, i64>>(text.as_bytes()).expect_err(text);
            assert!(fault.starts_with(sentence), "{text}: {fault}");
            for foreign in FOREIGN.iter().chain(&["s3cret"]) {
                assert!(!fault.contains(foreign), "{text}: {fault}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_named_with_the_remedy() {
        for (text, sentence) in [
            (&b"\xff\xfe{\0}\0"[..], "it is UTF-16 text"),
            (b"\xfe\xff\0{\0}", "it is UTF-16 text"),
            (b"{\0}\0", "it is UTF-16 text"),
            (b"\x7fELF\x02\x01\x01\0\0\0", "line 1, column 8: a zero byte stands there"),
            (b"{\n\"b\xfccher\":1}", "line 2, column 3: the byte 0xfc there is not UTF-8"),
        ] {
            let fault = read::<BTreeMap<String, i64>>(text).expect_err("no text");
            assert!(fault.starts_with(sentence), "{fault}");
        }
    }

    #[test]
    fn no_word_of_the_library_is_left_whatever_is_broken() {
        let whole = r#"{"mappings":[{"id":"a","port1":1,"n":[true,null,-1.5e3,"x\n\u00e4"]}]}"#;
        for at in 0..whole.len() {
            for new in ["", "x", "\"", "'", ",", "}", "]", "{", "[", ":", "\\", "\n", "0", "."] {
                let text = format!("{}{new}{}", &whole[..at], &whole[at + 1..]);
                for text in [&text, &whole[..at]] {
                    if let Err(fault) = read::<serde_json::Value>(text.as_bytes()) {
                        for foreign in FOREIGN.iter().filter(|foreign| **foreign != "i64") {
                            assert!(!fault.contains(foreign), "{text}: {fault}");
                        }
                        assert!(!fault.contains("JSON cannot have"), "{text}: {fault}");
                    }
                }
            }
        }
    }
}
