//! One line of the log: a sentence for people and what it is about for programs (protocol page, section 7).

use std::fmt::Write;

use log::kv::{Error, Key, Value, VisitSource, VisitValue};
use log::{Level, Record};

use super::message::escape;
use super::utc::Utc;
use crate::text::line::cut;

/// What a line can be about, in the order in which it is written. `port` is a number.
const KEYS: [&str; 5] = ["event", "mapping", "name", PORT, "peer"];
const PORT: &str = "port";

/// Longest value in characters. Ids of a hand-made `configs.json` can be of any length.
const VALUE: usize = 100;

/// How lines are written, beside the sentence that people read (settings `logformat` and `syslogformat`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// Lines of the file and of stderr are JSON.
    pub json: bool,
    /// Lines for syslog are RFC 5424's, with structured data.
    pub structured: bool,
}

/// One line, fit to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) level: Level,
    /// Escaped, at most [`super::message::MESSAGE`] bytes and "…".
    pub(super) message: String,
    pub(super) fields: Fields,
    /// How many times it happened, for which this line stands.
    pub(super) count: u64,
}

/// What a line is about: of [`KEYS`], with escaped values; empty where nobody asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<(&'static str, String)>);

impl Line {
    /// A line about nothing in particular, whose message is escaped.
    pub(super) fn plain(level: Level, message: impl Into<String>) -> Self {
        Line { level, message: message.into(), fields: Fields::default(), count: 1 }
    }

    /// What is logged; with what it is about, if that is wanted.
    pub(super) fn of(record: &Record<'_>, with_fields: bool) -> Self {
        let mut line = Line::plain(record.level(), escape(*record.args()));
        if with_fields {
            // It has no errors.
            let _ = record.key_values().visit(&mut line.fields);
        }
        line
    }

    /// Another message about the same, which stands for so many.
    pub(super) fn again(&self, message: String, count: u64) -> Self {
        Line { level: self.level, message, fields: self.fields.clone(), count }
    }

    /// The line for people.
    pub(super) fn text(&self) -> String {
        format!("{:<5} {}\n", self.level, self.message)
    }

    /// One JSON object. Its message and values have no control character left that could end the line.
    pub(super) fn json(&self, now: Utc) -> String {
        let level = self.level.as_str().to_ascii_lowercase();
        let mut text = format!("{{\"time\":\"{now}\",\"level\":\"{level}\"");
        self.each(|key, value| {
            let number = key == PORT || key == "count";
            let value = if number { value.into() } else { quoted(value) };
            add(&mut text, format_args!(",\"{key}\":{value}"));
        });
        add(&mut text, format_args!(",\"message\":{}}}\n", quoted(&self.message)));
        text
    }

    /// The part of an RFC 5424 line behind the priority, without host: the receiver knows its own.
    pub(super) fn structured(&self, now: Utc, pid: u32) -> String {
        const NAME: &str = env!("CARGO_PKG_NAME");
        let event = self.fields.0.first().filter(|(key, _)| *key == KEYS[0]);
        let event = event.map_or("-", |(_, word)| word);
        let mut text = format!("1 {now} - {NAME} {pid} {event} ");
        let mut none = true;
        self.each(|key, value| {
            if std::mem::take(&mut none) {
                // Of RFC 5612's number for examples: the project has none of its own.
                text.push_str("[connector@32473");
            }
            add(&mut text, format_args!(" {key}=\""));
            for char in value.chars() {
                if matches!(char, '"' | '\\' | ']') {
                    text.push('\\');
                }
                text.push(char);
            }
            text.push('"');
        });
        text.push_str(if none { "- " } else { "] " });
        text + &self.message
    }

    /// The journal's own form: `KEY=value` lines. No value has a line feed.
    pub(super) fn journal(&self, severity: u8) -> String {
        // 3 is RFC 5424's number for daemons.
        let mut text = format!(
            "PRIORITY={severity}\nSYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER={}\n",
            env!("CARGO_PKG_NAME")
        );
        self.each(|key, value| {
            add(&mut text, format_args!("{}={value}\n", key.to_ascii_uppercase()));
        });
        add(&mut text, format_args!("MESSAGE={}\n", self.message));
        text
    }

    fn each(&self, mut write: impl FnMut(&str, &str)) {
        self.fields.0.iter().for_each(|(key, value)| write(key, value));
        if self.count > 1 {
            write("count", &self.count.to_string());
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn add(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing into memory does not fail.
    let _ = text.write_fmt(more);
}

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let Some(key) = KEYS.into_iter().find(|known| *known == key.as_str()) else {
            return Ok(());
        };
        let mut text = Text(None);
        value.visit(&mut text)?;
        self.0.extend(text.0.map(|text| (key, text)));
        Ok(())
    }
}

/// A value in words; none where it is none.
struct Text(Option<String>);

impl VisitValue<'_> for Text {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), Error> {
        self.0 = Some(cut(&escape(format_args!("{value}")), VALUE));
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a hostile id or error text may try.
    const HOSTILE: &str = "a\"b\\c]d\nMAPPING=x\r\0\u{1b}[31m\u{2028}{\"event\":\"started\"}";

    fn line(message: &str, id: &str) -> Line {
        let pairs = [("event", "agent-refused"), ("mapping", id), ("other", "unknown")];
        let pairs = pairs.map(|(key, value)| (key, Value::from(value)));
        let port = [("port", Value::from(6000)), ("name", Value::null())];
        let source = (&pairs[..], &port[..]);
        let mut fields = Fields::default();
        log::kv::Source::visit(&source.0, &mut fields).unwrap();
        log::kv::Source::visit(&source.1, &mut fields).unwrap();
        let message = escape(format_args!("{message}"));
        Line { level: Level::Warn, message, fields, count: 7 }
    }

    #[test]
    fn no_text_forges_a_line_or_a_field_in_any_format() {
        let hostile = line(HOSTILE, HOSTILE);
        let shown = escape(format_args!("{HOSTILE}"));

        let json = hostile.json(Utc(0));
        assert_eq!(json.matches(|char: char| char.is_control()).count(), 1, "{json:?}");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let expected = serde_json::json!({
            "time": "1970-01-01T00:00:00Z", "level": "warn", "event": "agent-refused", "mapping": shown,
            "port": 6000, "count": 7, "message": shown,
        });
        assert_eq!(json, expected);

        let journal = hostile.journal(4);
        let keys: Vec<_> = journal.lines().map(|line| line.split('=').next().unwrap()).collect();
        let expected = [
            "PRIORITY",
            "SYSLOG_FACILITY",
            "SYSLOG_IDENTIFIER",
            "EVENT",
            "MAPPING",
            "PORT",
            "COUNT",
            "MESSAGE",
        ];
        assert_eq!(keys, expected, "{journal}");

        let syslog = hostile.structured(Utc(0), 1);
        let value = shown.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]");
        let expected = format!(
            "1 1970-01-01T00:00:00Z - iofog-connector 1 agent-refused [connector@32473 event=\"agent-refused\" \
             mapping=\"{value}\" port=\"6000\" count=\"7\"] {shown}"
        );
        assert_eq!(syslog, expected);
    }

    #[test]
    fn no_line_is_longer_than_what_a_pipe_takes_at_once() {
        let long = line(&"\"\\".repeat(5000), &"\"".repeat(5000));
        assert!(long.json(Utc(0)).len() <= 4096, "{}", long.json(Utc(0)).len());
    }

    #[test]
    fn lines_about_nothing_have_no_fields() {
        let plain = Line::plain(Level::Info, "hello");
        let json = "{\"time\":\"1970-01-01T00:00:00Z\",\"level\":\"info\",\"message\":\"hello\"}\n";
        assert_eq!(plain.json(Utc(0)), json);
        assert_eq!(
            plain.structured(Utc(0), 1),
            "1 1970-01-01T00:00:00Z - iofog-connector 1 - - hello"
        );
        assert_eq!(plain.text(), "INFO  hello\n");
    }
}
