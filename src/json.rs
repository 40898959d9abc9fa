//! What the readers of the two JSON files share: where a fault is, without repeating values.

use serde_json::error::Category;

/// A fault of JSON text in one sentence: line, column, what. Values are left out, since what
/// stands in the wrong place may be a passcode.
pub(crate) fn explain(error: &serde_json::Error) -> String {
    let full = error.to_string();
    let what = match full.rfind(" at line ") {
        Some(end) => &full[..end],
        None => &full,
    };
    let what = match error.classify() {
        Category::Data => without_value(what),
        Category::Io | Category::Syntax | Category::Eof => what.to_owned(),
    };
    format!("line {}, column {}: {what}", error.line(), error.column())
}

/// Reduces ``invalid type: string "abc", expected i64`` to `invalid type: string, expected i64`.
fn without_value(what: &str) -> String {
    let Some((head, rest)) = what.split_once(": ") else { return what.to_owned() };
    let Some(tail) = rest.rfind(", expected ") else { return what.to_owned() };
    let kind = rest[..tail].split(['"', '`', '(']).next().unwrap_or_default();
    format!("{head}: {}{}", kind.trim_end(), &rest[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_placed_and_values_left_out() {
        for (text, sentence) in [
            ("{\"a\":1,\n}", "line 2, column 1: trailing comma"),
            ("{\"a\":\"s3cret\"}", "line 1, column 13: invalid type: string, expected i64"),
            (
                "{\"a\":\"s3cret, expected `x\"}",
                "line 1, column 26: invalid type: string, expected i64",
            ),
            ("{\"a\":true}", "line 1, column 9: invalid type: boolean, expected i64"),
            ("{\"a\":77.5}", "line 1, column 9: invalid type: floating point, expected i64"),
            ("", "line 1, column 0: EOF while parsing a value"),
        ] {
            let error = serde_json::from_str::<std::collections::BTreeMap<String, i64>>(text)
                .expect_err(text);
            assert_eq!(explain(&error), sentence, "{text}");
        }
    }
}
