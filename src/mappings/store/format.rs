//! The original's format of `configs.json`, and what may stand in it (protocol page, section 2).
//!
//! The outside names live here alone. Oddities of the original's files are taken as they are:
//!
//! - It wrote `maxconnectionsport1` under both names; what is there is read.
//! - A side's `maxconnections` that is not from 1 to 65535 (a private pipe's port2 may have 0)
//!   becomes the nearest one; a heartbeat threshold of 0 or less turns the check off.
//! - On a public pipe, port2's limits mean nothing and are not read.
//! - It wrote a direct connection as a mapping whose ports are 0, its passkey as
//!   `passcodeport1`; the limits mean nothing there.
//! - Limits and `passcodeport2` may be missing, other fields are ignored.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::mappings::mapping::{AgentLimits, AgentPort, Mapping, Passcode, Pipe};
use crate::mappings::options::Options;
use crate::text::json;

#[derive(Deserialize)]
#[serde(expecting = "an object with the list \"mappings\"")]
struct Contents {
    mappings: Option<Vec<Row<'static>>>,
}

/// One mapping. The numbers are wider than what is accepted, so that the sentence about one that
/// is not names the mapping.
#[derive(Serialize, Deserialize)]
#[serde(expecting = "a mapping in braces")]
struct Row<'a> {
    id: Cow<'a, str>,
    port1: i64,
    port2: i64,
    #[serde(default)]
    maxconnectionsport1: i64,
    #[serde(default)]
    maxconnectionsport2: i64,
    passcodeport1: Cow<'a, str>,
    #[serde(default)]
    passcodeport2: Cow<'a, str>,
    #[serde(default)]
    heartbeatabsencethresholdport1: i64,
    #[serde(default)]
    heartbeatabsencethresholdport2: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpn: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usersperaddress: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxyfrom: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<Value>,
}

/// How many members an object has.
struct Members(usize);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(text: D) -> Result<Self, D::Error> {
        text.deserialize_map(Members(0))
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            self.0 += 1;
        }
        Ok(self)
    }
}

/// The mappings that `text` holds, in its order.
///
/// # Errors
/// Where the text cannot be parsed (line, column, what), or every mapping that cannot be; half
/// a sentence each, without passcodes.
pub fn read(text: &[u8]) -> Result<Vec<Mapping>, Vec<String>> {
    // Checked first: serde also takes an array of the members for an object, and the original's
    // parser did not.
    let Members(members) = json::read(text).map_err(|fault| vec![fault])?;
    let contents: Contents = json::read(text).map_err(|fault| vec![fault])?;
    let rows = match contents.mappings {
        Some(rows) => rows,
        None if members == 0 => Vec::new(),
        // Some other file, or a misspelt one: to take it for an empty list would overwrite it.
        None => return Err(vec!["the list \"mappings\" is missing".to_owned()]),
    };
    let mut faults = Vec::new();
    let mut mappings = Vec::with_capacity(rows.len());
    let (mut ids, mut names) = (HashSet::new(), HashSet::new());
    for (index, row) in rows.iter().enumerate() {
        let name = format!("mappings[{index}] (id {:?})", row.id);
        let mut fault = |why: &str| faults.push(format!("{name}: {why}"));
        if !ids.insert(&*row.id) {
            fault("another mapping has this id too; take one out, or give it another id");
        }
        if row.id.is_empty() {
            fault("the id is empty");
        }
        let pipe = match row.pipe() {
            Ok(pipe) => pipe,
            Err(why) => {
                fault(&why);
                continue;
            }
        };
        let options = match row.options(matches!(pipe, Pipe::Public { .. })) {
            Ok(options) => options,
            Err((name, why)) => {
                fault(&format!("{name} {why}"));
                continue;
            }
        };
        if row.name.as_ref().and_then(Value::as_str).is_some_and(|name| !names.insert(name)) {
            fault("another mapping has this name too; give it another one");
        }
        // A port that another mapping has too is no fault: one of them is inactive.
        match pipe.ports() {
            Some([one, two]) if one == two => {
                fault(&format!("port {one} is its port1 and its port2; give one another port"));
            }
            _ => {}
        }
        mappings.push(Mapping { id: (*row.id).into(), pipe, options });
    }
    if faults.is_empty() { Ok(mappings) } else { Err(faults) }
}

/// The file's content for these mappings: one line each, all fields, as the original needs them.
pub fn write(mappings: &[Mapping]) -> Vec<u8> {
    let mut text = b"{\"mappings\":[".to_vec();
    for (index, mapping) in mappings.iter().enumerate() {
        text.extend_from_slice(if index == 0 { b"\n" } else { b",\n" });
        // Numbers and strings always serialize, and a Vec takes all bytes.
        serde_json::to_writer(&mut text, &Row::of(mapping)).ok();
    }
    text.extend_from_slice(b"\n]}\n");
    text
}

impl<'a> Row<'a> {
    fn pipe(&self) -> Result<Pipe, String> {
        let port = |name: &str, number: i64| {
            u16::try_from(number)
                .map_err(|_| format!("{name} is {number}; a port is 1 to 65535, or 0 for none"))
        };
        let (port1, port2) = (port("port1", self.port1)?, port("port2", self.port2)?);
        let passcode = Passcode::new(&self.passcodeport1).ok_or("passcodeport1 is empty")?;
        let agent1 = AgentPort {
            port: port1,
            passcode,
            limits: limits(self.maxconnectionsport1, self.heartbeatabsencethresholdport1),
        };
        match (port1, port2, Passcode::new(&self.passcodeport2)) {
            (0, 0, _) => Ok(Pipe::Direct { passkey: agent1.passcode }),
            (0, _, _) | (_, 0, _) => Err(format!(
                "port1 is {port1} and port2 is {port2}; either both are ports, or both are 0 (a \
                 direct connection)"
            )),
            (_, users, None) => Ok(Pipe::Public { agent: agent1, users }),
            (_, port, Some(passcode)) => {
                let limits = limits(self.maxconnectionsport2, self.heartbeatabsencethresholdport2);
                Ok(Pipe::Private { sides: [agent1, AgentPort { port, passcode, limits }] })
            }
        }
    }

    fn options(&self, public: bool) -> Result<Options, (&'static str, String)> {
        Options::read(public, &|name| match name {
            "name" => self.name.as_ref(),
            "users" => self.users.as_ref(),
            "alpn" => self.alpn.as_ref(),
            "allow" => self.allow.as_ref(),
            "usersperaddress" => self.usersperaddress.as_ref(),
            "proxyfrom" => self.proxyfrom.as_ref(),
            "idle" => self.idle.as_ref(),
            _ => None,
        })
    }

    fn of(mapping: &'a Mapping) -> Self {
        let mut options = mapping.options.members();
        let mut row = Row {
            id: Cow::Borrowed(&mapping.id),
            port1: 0,
            port2: 0,
            maxconnectionsport1: 0,
            maxconnectionsport2: 0,
            passcodeport1: Cow::Borrowed(""),
            passcodeport2: Cow::Borrowed(""),
            heartbeatabsencethresholdport1: 0,
            heartbeatabsencethresholdport2: 0,
            name: options.remove("name"),
            users: options.remove("users"),
            alpn: options.remove("alpn"),
            allow: options.remove("allow"),
            usersperaddress: options.remove("usersperaddress"),
            proxyfrom: options.remove("proxyfrom"),
            idle: options.remove("idle"),
        };
        let one = match &mapping.pipe {
            Pipe::Direct { passkey } => {
                row.passcodeport1 = Cow::Borrowed(passkey.reveal());
                return row;
            }
            Pipe::Public { agent, users } => {
                row.port2 = (*users).into();
                agent
            }
            Pipe::Private { sides: [one, two] } => {
                row.port2 = two.port.into();
                row.maxconnectionsport2 = two.limits.max_connections.into();
                row.passcodeport2 = Cow::Borrowed(two.passcode.reveal());
                row.heartbeatabsencethresholdport2 = milliseconds(&two.limits);
                one
            }
        };
        row.port1 = one.port.into();
        row.maxconnectionsport1 = one.limits.max_connections.into();
        row.passcodeport1 = Cow::Borrowed(one.passcode.reveal());
        row.heartbeatabsencethresholdport1 = milliseconds(&one.limits);
        row
    }
}

fn limits(connections: i64, threshold: i64) -> AgentLimits {
    let threshold = u64::try_from(threshold).ok().filter(|threshold| *threshold > 0);
    AgentLimits {
        max_connections: u16::try_from(connections.clamp(1, u16::MAX.into())).unwrap_or(u16::MAX),
        heartbeat_threshold: threshold.map(Duration::from_millis),
    }
}

fn milliseconds(limits: &AgentLimits) -> i64 {
    i64::try_from(limits.milliseconds()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the original writes it, a direct connection and a private pipe among the mappings.
    const ORIGINAL: &str = r#"{"mappings":[{"id":"a","port1":6000,"port2":6001,
        "maxconnectionsport1":60,"maxconnectionsport2":60,"passcodeport1":"one",
        "passcodeport2":"","heartbeatabsencethresholdport1":200000,
        "heartbeatabsencethresholdport2":0},
        {"id":"b","port1":0,"port2":0,"maxconnectionsport1":0,"maxconnectionsport2":0,
        "passcodeport1":"key","passcodeport2":"","heartbeatabsencethresholdport1":0,
        "heartbeatabsencethresholdport2":0},
        {"id":"c","port1":6002,"port2":6003,"maxconnectionsport1":1,"maxconnectionsport2":2,
        "passcodeport1":"two","passcodeport2":"three","heartbeatabsencethresholdport1":200000,
        "heartbeatabsencethresholdport2":60000}]}"#;

    #[test]
    fn originals_mappings_are_kept() {
        let mappings = read(ORIGINAL.as_bytes()).expect("the original's file");
        let again = read(&write(&mappings)).expect("what was written");
        for mappings in [mappings, again] {
            let [a, b, c] = &mappings[..] else { panic!("{mappings:?}") };
            assert_eq!((&*a.id, &*b.id, &*c.id), ("a", "b", "c"));
            let Pipe::Public { agent, users: 6001 } = &a.pipe else { panic!("{a:?}") };
            assert_eq!((agent.port, agent.passcode.reveal()), (6000, "one"));
            assert_eq!(agent.limits, limits(60, 200_000));
            let Pipe::Direct { passkey } = &b.pipe else { panic!("{b:?}") };
            assert_eq!(passkey.reveal(), "key");
            let Pipe::Private { sides: [one, two] } = &c.pipe else { panic!("{c:?}") };
            assert_eq!((one.port, two.port), (6002, 6003));
            assert_eq!((one.passcode.reveal(), two.passcode.reveal()), ("two", "three"));
            assert_eq!((one.limits, two.limits), (limits(1, 200_000), limits(2, 60_000)));
        }
    }

    #[test]
    fn written_form_is_the_contracts() {
        let mappings = read(ORIGINAL.as_bytes()).expect("the original's file");
        let text = String::from_utf8(write(&mappings[..1])).expect("JSON");
        assert_eq!(
            text,
            "{\"mappings\":[\n{\"id\":\"a\",\"port1\":6000,\"port2\":6001,\
             \"maxconnectionsport1\":60,\"maxconnectionsport2\":0,\
             \"passcodeport1\":\"one\",\"passcodeport2\":\"\",\
             \"heartbeatabsencethresholdport1\":200000,\"heartbeatabsencethresholdport2\":0}\n]}\n"
        );
        assert_eq!(write(&[]), b"{\"mappings\":[\n]}\n");
        for empty in ["{}", "{\"mappings\":[]}", "{\"mappings\":[\n]}\n"] {
            assert!(read(empty.as_bytes()).expect(empty).is_empty());
        }
    }

    #[test]
    fn odd_limits_become_the_nearest() {
        for (connections, threshold, most, checked) in [
            (0, 0, 1, None),
            (-5, -1, 1, None),
            (70_000, 1, 65535, Some(1)),
            (60, i64::MAX, 60, Some(i64::MAX as u64)),
        ] {
            let limits = limits(connections, threshold);
            assert_eq!(limits.max_connections, most);
            assert_eq!(limits.heartbeat_threshold, checked.map(Duration::from_millis));
        }
        let short =
            br#"{"mappings":[{"id":"a","port1":1,"port2":2,"passcodeport1":"x","new":[]}]}"#;
        assert_eq!(read(short).expect("no limits").len(), 1);
    }

    #[test]
    fn faults_name_place_or_mapping_and_no_passcode() {
        let row = |fields: &str| {
            format!(
                r#"{{"mappings":[{{"id":"a","port1":1,"port2":2,"passcodeport1":"s3cret"}},{{{fields}}}]}}"#
            )
        };
        let second = "mappings[1] (id \"b\"): ";
        for (text, wanted) in [
            (String::new(), "it is empty; JSON text in braces".to_owned()),
            (
                "[]".into(),
                "line 1, column 1: the value there is an array; an object in braces".into(),
            ),
            (
                "[[]]".into(),
                "line 1, column 1: the value there is an array; an object in braces".into(),
            ),
            (
                "{\"mappings\":[\"s3cret\"]}".into(),
                "line 1, column 21: the value of \"mappings\" is a string; a mapping in braces"
                    .into(),
            ),
            (
                "{\"mappings\":[\n{]}".into(),
                "line 2, column 2: a key in double quotes is expected, and ] stands there".into(),
            ),
            ("{\"mappings\":[],}".into(), "line 1, column 16: a comma stands before }".into()),
            ("{\"mapping\":[]}".into(), "the list \"mappings\" is missing".into()),
            (
                row(r#""id":"b","port1":"s3cret""#),
                "line 1, column 95: the value of \"port1\" is a string; a whole number".into(),
            ),
            (
                row(r#""id":"b","passcodeport1":53"#),
                "line 1, column 97: the value of \"passcodeport1\" is a number; a string".into(),
            ),
            (row(r#""id":"b","id":"c""#), "line 1, column 83: \"id\" is given twice".into()),
            (
                row(r#""id":"b","port1":3,"port2":4"#),
                "line 1, column 99: the object that ends there lacks \"passcodeport1\"".into(),
            ),
            (
                row(r#""id":"b","port1":3,"port2":0,"passcodeport1":"s3cret""#),
                format!("{second}port1 is 3 and port2 is 0; either"),
            ),
            (
                row(r#""id":"b","port1":0,"port2":3,"passcodeport1":"s3cret""#),
                format!("{second}port1 is 0 and port2 is 3; either"),
            ),
            (
                row(r#""id":"b","port1":3,"port2":65536,"passcodeport1":"s3cret""#),
                format!("{second}port2 is 65536; a port is 1 to 65535"),
            ),
            (
                row(r#""id":"b","port1":-3,"port2":4,"passcodeport1":"s3cret""#),
                format!("{second}port1 is -3; a port is 1 to 65535"),
            ),
            (
                row(r#""id":"b","port1":3,"port2":4,"passcodeport1":"""#),
                format!("{second}passcodeport1 is empty"),
            ),
            (
                row(r#""id":"b","port1":3,"port2":3,"passcodeport1":"s3cret""#),
                format!("{second}port 3 is its port1 and its port2; give one another port"),
            ),
            (
                row(r#""id":"a","port1":3,"port2":4,"passcodeport1":"s3cret""#),
                "mappings[1] (id \"a\"): another mapping has this id too; take one out".into(),
            ),
            (
                row(r#""id":"","port1":3,"port2":4,"passcodeport1":"s3cret""#),
                "mappings[1] (id \"\"): the id is empty".into(),
            ),
        ] {
            let faults = read(text.as_bytes()).expect_err(&text);
            assert_eq!(faults.len(), 1, "{text}: {faults:?}");
            assert!(faults[0].starts_with(&wanted), "{text}\n{faults:?}\n{wanted}");
            assert!(!faults[0].contains("s3cret"));
        }
    }
}
