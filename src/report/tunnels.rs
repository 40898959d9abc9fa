//! The table that `tunnels status` prints, as that of `status`.

use serde_json::Value;

use super::table::{aligned, bytes, widths, wrapped};
use crate::text::line::escaped;

const COLUMNS: [&str; 8] =
    ["TUNNEL", "STATE", "SINCE", "IDLE", "SESSIONS", "BYTES IN", "BYTES OUT", "CONNECTOR"];

/// Columns that a narrow terminal does without, the first one first.
const SPARED: &[usize] = &[7, 5, 6, 2];

/// Each tunnel of `state`, which is the JSON of protocol page, section 5, step 8, in a line, and what
/// went wrong last, if anything has, below it. `width` is that of the terminal, `None` for everything.
pub fn tunnels(state: &Value, width: Option<usize>) -> String {
    let none = Vec::new();
    let tunnels = state["tunnels"].as_array().unwrap_or(&none);
    let text = |value: &Value| match value {
        Value::String(text) => escaped(text),
        Value::Null => "-".into(),
        other => other.to_string(),
    };
    let mut table = String::new();
    if tunnels.is_empty() {
        let line = format!("no tunnels in {}", text(&state["folder"]));
        wrapped(&mut table, &line, width);
        return table;
    }
    let mut rows = vec![COLUMNS.map(String::from).to_vec()];
    for one in tunnels {
        let amount = |member| one[member].as_u64().map_or("-".into(), bytes);
        let version = one["version"].as_u64().map(|version| format!(" (version {version})"));
        rows.push(vec![
            text(&one["name"]),
            text(&one["state"]),
            text(&one["since"]),
            text(&one["idle"]),
            text(&one["sessions"]),
            amount("bytesIn"),
            amount("bytesOut"),
            text(&one["connector"]) + &version.unwrap_or_default(),
        ]);
    }
    let is_narrow = width.is_some_and(|width| widths(&rows).iter().sum::<usize>() > width + 2);
    for (number, row) in aligned(rows, width, SPARED).iter().enumerate() {
        wrapped(&mut table, row, width);
        // The first row is the heading.
        let one = number.checked_sub(1).and_then(|number| tunnels.get(number));
        let Some(one) = one.filter(|one| !one["lastError"].is_null()) else { continue };
        let [error, at, over] =
            ["lastError", "lastErrorAt", "lastErrorOver"].map(|member| text(&one[member]));
        let mut line = "    last error".to_owned();
        for (word, time) in [(" at ", at), (", over since ", over)] {
            if time != "-" {
                line.push_str(&[word, &time].concat());
            }
        }
        wrapped(&mut table, &[&line, ": ", &error].concat(), width);
    }
    if is_narrow {
        table.push_str("more: tunnels status --wide\n");
    }
    table
}

#[cfg(test)]
mod tests {
    fn shown(tunnels: &[String], width: Option<usize>) -> Vec<String> {
        let state = format!("{{\"folder\":\"/f\",\"tunnels\":[{}]}}", tunnels.join(","));
        let text = super::tunnels(&serde_json::from_str(&state).unwrap(), width);
        text.lines().map(String::from).collect()
    }

    fn well(name: &str, error: &str) -> String {
        format!(
            r#"{{"name":"{name}","connector":"connector.example.com:30000","version":2,
            "state":"connected","since":"2026-11-27T19:00:00Z","idle":8,"sessions":1,
            "bytesIn":10,"bytesOut":2000000000,{error}}}"#
        )
    }

    const NONE: &str = r#""lastError":null,"lastErrorAt":null,"lastErrorOver":null"#;

    #[test]
    fn a_tunnel_is_a_line_and_what_went_wrong_another() {
        let ill =
            r#"{"name":"a-longer-name","state":"faulty","lastError":"x.conf: line 2: \u001b"}"#;
        let over = r#""lastError":"it is gone","lastErrorAt":"T1","lastErrorOver":"T2""#;
        let lines = shown(&[well("ssh", NONE), ill.into(), well("web", over)], None);
        let words: Vec<_> = lines[1].split_whitespace().collect();
        let expected = ["ssh", "connected", "2026-11-27T19:00:00Z", "8", "1", "10", "B", "1.9"];
        let place = ["GiB", "connector.example.com:30000", "(version", "2)"];
        assert_eq!(words, [&expected[..], &place].concat());
        assert!(lines[2].starts_with("a-longer-name  faulty     -"), "{lines:?}");
        assert_eq!(lines[3], "    last error: x.conf: line 2: \\u{1b}");
        assert_eq!(lines[5], "    last error at T1, over since T2: it is gone");
        assert_eq!(lines.len(), 6);
        assert_eq!(shown(&[], None), ["no tunnels in /f"]);
    }

    #[test]
    fn eighty_columns_hold_every_line_whatever_the_names() {
        let error = "it refuses the connection: does it run, does it listen on that port, and does";
        let error = format!(r#""lastError":"{error} its firewall let it through?""#);
        let long = "a-name-that-is-longer-than-anybody-wants-to-type-and-still-a-name-of-a-tunnel";
        let lines = shown(&[well("ssh", NONE), well(long, &error)], Some(80));
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert!(lines[1].starts_with("ssh ") && lines[1].contains("connected"), "{lines:#?}");
        assert!(lines[3].starts_with("    last error: it refuses"), "{lines:#?}");
        assert!(lines[4].starts_with("      "), "{lines:#?}");
        assert_eq!(lines.last().unwrap(), "more: tunnels status --wide");
    }
}
