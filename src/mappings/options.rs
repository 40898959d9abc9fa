//! What a mapping may be told beside what the original knew (protocol page, section 3): the same members in
//! `mapping/add` and in `configs.json`, which the original reads over.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::config::{self, Network};
use crate::text::line;

/// The names of all of them.
pub const NAMES: [&str; 7] =
    ["name", "users", "alpn", "allow", "usersperaddress", "proxyfrom", "idle"];

/// The options of one mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Shown wherever the id is, and accepted wherever an id is; no two mappings have the same.
    pub name: Option<Box<str>>,
    /// How users of a public pipe speak; `None` is TLS unless `dev`.
    pub users: Option<Users>,
    /// The protocols that TLS users are offered, the best first (RFC 7301).
    pub alpn: Box<[Box<str>]>,
    /// Where users of a public pipe may come from; nobody is named for everywhere.
    pub allow: Box<[Network]>,
    /// Users of one IPv4 address or IPv6 /64 at one time, waiting and served.
    pub users_per_address: Option<u16>,
    /// Connections from there begin with a PROXY header, whose source is the user's address.
    pub proxy_from: Box<[Network]>,
    /// A session in which nothing has moved either way for so long is closed.
    pub idle: Option<Duration>,
}

/// What is wrong with a member: its name, and the rest of a sentence about it.
pub type Fault = (&'static str, String);

/// How users speak on port2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// TLS.
    Tls,
    /// Bytes as they are: a service's own encryption, or none.
    Plain,
}

/// Longest time of `idle`: what fits a signed 32-bit number of milliseconds, as heartbeat thresholds.
const LONGEST_IDLE: u64 = i32::MAX as u64;
const SHORTEST_IDLE: u64 = 1000;
/// Most ranges of `allow` and of `proxyfrom`. Each is looked at for every user.
const RANGES: usize = 256;
/// Longest name.
const NAME: usize = 63;
/// Most protocols of `alpn`, and the longest, which is what its length's byte can say (RFC 7301).
const PROTOCOLS: usize = 8;
const PROTOCOL: usize = 255;

impl Options {
    /// Reads those that `member` gives; a member that is `null` is absent. `public` says whether there are users.
    ///
    /// # Errors
    /// The member's name, and the rest of a sentence about it.
    pub fn read<'a>(
        public: bool,
        member: &dyn Fn(&str) -> Option<&'a Value>,
    ) -> Result<Self, Fault> {
        let mut options = Options::default();
        for name in NAMES {
            let Some(value) = member(name).filter(|value| !value.is_null()) else { continue };
            if !public && !matches!(name, "name" | "idle") {
                let why = "is an option of public pipes, and this one is private; take it out";
                return Err((name, why.to_owned()));
            }
            options.set(name, value).map_err(|right| (name, fault(value, &right)))?;
        }
        if options.users == Some(Users::Plain) && !options.alpn.is_empty() {
            let why = "is given, and users is \"plain\"; only TLS offers protocols: take one out";
            return Err(("alpn", why.to_owned()));
        }
        Ok(options)
    }

    /// Sets one; the error says what would be right.
    fn set(&mut self, name: &str, value: &Value) -> Result<(), String> {
        match name {
            "name" => self.name = Some(name_of(value)?),
            "users" => {
                self.users = match value.as_str() {
                    Some("tls") => Some(Users::Tls),
                    Some("plain") => Some(Users::Plain),
                    _ => return Err("use \"tls\" or \"plain\"".to_owned()),
                };
            }
            "alpn" => self.alpn = protocols(value)?,
            "allow" => self.allow = ranges(value, "everybody may connect")?,
            "proxyfrom" => self.proxy_from = ranges(value, "nobody begins with a PROXY header")?,
            "usersperaddress" => {
                let most = whole(value, 1, u16::MAX.into())?;
                self.users_per_address = u16::try_from(most).ok();
            }
            _ => {
                let idle = whole(value, SHORTEST_IDLE, LONGEST_IDLE)?;
                self.idle = Some(Duration::from_millis(idle));
            }
        }
        Ok(())
    }

    /// The member that asks for TLS, and what it says: of no use where all ports are plain.
    pub fn asks_for_tls(&self) -> Option<(&'static str, &'static str)> {
        match self.users {
            Some(Users::Tls) => Some(("users", "\"tls\"")),
            _ => (!self.alpn.is_empty()).then_some(("alpn", "given")),
        }
    }

    /// The members that are set, as [`Options::read`] takes them.
    pub fn members(&self) -> Map<String, Value> {
        // As with most mappings, of which there may be thousands.
        if *self == Options::default() {
            return Map::new();
        }
        let users = self.users.map(|users| match users {
            Users::Tls => json!("tls"),
            Users::Plain => json!("plain"),
        });
        let alpn: Vec<_> = self.alpn.iter().map(|name| json!(name)).collect();
        let ranges = |ranges: &[Network]| ranges.iter().map(|of| json!(of.to_string())).collect();
        let list = |values: Vec<Value>| (!values.is_empty()).then_some(Value::Array(values));
        let idle =
            self.idle.map(|idle| json!(u64::try_from(idle.as_millis()).unwrap_or(LONGEST_IDLE)));
        let values = [
            self.name.as_ref().map(|name| json!(name)),
            users,
            list(alpn),
            list(ranges(&self.allow)),
            self.users_per_address.map(|most| json!(most)),
            list(ranges(&self.proxy_from)),
            idle,
        ];
        // Not collected: that would sort them first, which takes 5 KB of the program.
        let mut members = Map::new();
        for (name, value) in NAMES.iter().zip(values) {
            if let Some(value) = value {
                members.insert((*name).to_owned(), value);
            }
        }
        members
    }
}

/// Says which mappings have an option that asks for TLS while `dev` makes all ports plain.
pub fn plain_by_dev(names: &[String]) -> Option<String> {
    let (shown, more) = names.split_at(names.len().min(5));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    (!names.is_empty()).then(|| {
        format!(
            "dev is true, so users' bytes are not encrypted, although users \"tls\" or alpn asks for it: mapping \
             {}{more}; set dev to false in {}, and restart",
            shown.join(", "),
            config::FILE
        )
    })
}

fn name_of(value: &Value) -> Result<Box<str>, String> {
    let is_fit = |name: &&str| {
        let letters = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        (1..=NAME).contains(&name.len()) && name.bytes().all(letters) && *name != "all"
    };
    match value.as_str().filter(is_fit) {
        Some(name) => Ok(name.into()),
        None => Err(name_form()),
    }
}

fn name_form() -> String {
    format!(
        "use 1 to {NAME} of a-z, 0-9 and -, which is not the first, not \"all\", nor what looks like an id"
    )
}

/// Whether somebody may give a mapping this name now: one that looks like an id could be another mapping's, and one that
/// begins with a dash is an option for the command line. One that is stored already is read.
///
/// # Errors
/// As [`Options::read`].
pub fn new_name(name: Option<&Value>) -> Result<(), Fault> {
    let hex = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    let is_like_an_id = |name: &str| name.len() == 36 && name.bytes().all(hex);
    let is_unfit = |name: &str| name.starts_with('-') || is_like_an_id(name);
    match name {
        Some(value) if value.as_str().is_some_and(is_unfit) => {
            Err(("name", fault(value, &name_form())))
        }
        _ => Ok(()),
    }
}

fn ranges(value: &Value, absent: &str) -> Result<Box<[Network]>, String> {
    let Some(ranges) = value.as_array().filter(|ranges| (1..=RANGES).contains(&ranges.len()))
    else {
        return Err(format!(
            "use a list of 1 to {RANGES} addresses and ranges, such as [\"192.0.2.7\", \
             \"2001:db8::/32\"]; without one {absent}"
        ));
    };
    let range = |range: &Value| match range.as_str() {
        Some(text) => text.parse().map_err(|why| format!("{}: {why}", line::repeated(text, 64))),
        None => Err("each range is a string".to_owned()),
    };
    ranges.iter().map(range).collect()
}

fn protocols(value: &Value) -> Result<Box<[Box<str>]>, String> {
    let is_fit = |name: &&str| {
        (1..=PROTOCOL).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    };
    let names = value.as_array().filter(|names| (1..=PROTOCOLS).contains(&names.len()));
    let protocol = |name: &Value| name.as_str().filter(is_fit).map(Into::into);
    names.and_then(|names| names.iter().map(protocol).collect()).ok_or_else(|| {
        format!(
            "use a list of 1 to {PROTOCOLS} names of 1 to {PROTOCOL} printable ASCII characters, such \
             as [\"h2\", \"http/1.1\"]"
        )
    })
}

/// A member that must be an integer. No other JSON type is accepted: the Controller sends integers, and
/// whoever sends something else should learn of it.
///
/// # Errors
/// The rest of a sentence about the member.
pub fn integer(value: Option<&Value>, least: u64, most: u64) -> Result<u64, String> {
    match value {
        None => Err(format!("is missing; use an integer from {least} to {most}")),
        Some(value) => whole(value, least, most).map_err(|right| fault(value, &right)),
    }
}

fn whole(value: &Value, least: u64, most: u64) -> Result<u64, String> {
    let fits = value.as_u64().filter(|number| (least..=most).contains(number));
    fits.ok_or_else(|| {
        let quotes = if value.is_string() { ", without quotes" } else { "" };
        format!("use an integer from {least} to {most}{quotes}")
    })
}

/// The rest of a sentence about a member that has this value.
fn fault(value: &Value, right: &str) -> String {
    format!("is {}; {right}", line::repeated(&value.to_string(), 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(public: bool, text: &str) -> Result<Options, String> {
        let members: Map<String, Value> = serde_json::from_str(text).unwrap();
        Options::read(public, &|name| members.get(name))
            .map_err(|(name, why)| format!("{name} {why}"))
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = r#"{"name":"ssh-1","users":"tls","alpn":["h2","http/1.1"],"allow":["192.0.2.0/24","::1"],
            "usersperaddress":3,"proxyfrom":["10.0.0.0/8"],"idle":1000}"#;
        let options = read(true, text).unwrap();
        assert_eq!(options.users, Some(Users::Tls));
        assert_eq!(options.idle, Some(Duration::from_secs(1)));
        let members = options.members();
        assert_eq!(members.len(), NAMES.len());
        assert_eq!(Options::read(true, &|name| members.get(name)), Ok(options));
        let none = r#"{"name":null,"allow":null,"idle":null}"#;
        assert_eq!(read(true, none), Ok(Options::default()));
        assert!(Options::default().members().is_empty());
    }

    #[test]
    fn name_like_an_id_is_no_new_one_but_a_stored_one_is_read() {
        let name = json!("b0b1c0de-0000-4000-8000-000000000000");
        let (member, why) = new_name(Some(&name)).unwrap_err();
        assert!(member == "name" && why.contains("nor what looks like an id"), "{why}");
        assert!(new_name(Some(&json!("b0b1c0de"))).is_ok() && new_name(None).is_ok());
        let stored = Options::read(true, &|member| (member == "name").then_some(&name)).unwrap();
        assert_eq!(stored.name.as_deref(), name.as_str());
    }

    #[test]
    fn faults_name_member_value_and_what_would_be_right() {
        for (text, words) in [
            (r#"{"name":""}"#, r#"name is ""; use 1 to 63 of a-z, 0-9 and -"#),
            (r#"{"name":"Ssh"}"#, "name is \"Ssh\"; use"),
            (r#"{"name":"all"}"#, "not \"all\""),
            (r#"{"name":7}"#, "name is 7; use"),
            (r#"{"users":"TLS"}"#, "users is \"TLS\"; use \"tls\" or \"plain\""),
            (
                r#"{"alpn":"h2"}"#,
                "alpn is \"h2\"; use a list of 1 to 8 names of 1 to 255 printable",
            ),
            (r#"{"alpn":[]}"#, "alpn is []; use a list"),
            (r#"{"alpn":["h2",""]}"#, "use a list"),
            (r#"{"alpn":["h2\u00e9"]}"#, "use a list"),
            (r#"{"alpn":["1","2","3","4","5","6","7","8","9"]}"#, "use a list of 1 to 8"),
            (r#"{"alpn":["h2"],"users":"plain"}"#, "alpn is given, and users is \"plain\""),
            (r#"{"allow":[]}"#, "allow is []; use a list of 1 to 256"),
            (r#"{"allow":"192.0.2.1"}"#, "use a list"),
            (r#"{"allow":["192.0.2.1/24"]}"#, "write 192.0.2.0/24"),
            (r#"{"allow":[7]}"#, "each range is a string"),
            (r#"{"proxyfrom":["localhost"]}"#, "localhost: is not an IP address"),
            (r#"{"proxyfrom":{}}"#, "proxyfrom is {}; use a list of 1 to 256"),
            (r#"{"allow":["http://me:pw@p:1"]}"#, "(not repeated: it may hold a password): is not"),
            (
                r#"{"name":"http://me:pw@p:1"}"#,
                "name is (not repeated: it may hold a password); use",
            ),
            (r#"{"usersperaddress":0}"#, "usersperaddress is 0; use an integer from 1 to 65535"),
            (r#"{"idle":999}"#, "idle is 999; use an integer from 1000 to 2147483647"),
            (r#"{"idle":"1000"}"#, "idle is \"1000\"; use an integer"),
        ] {
            let fault = read(true, text).expect_err(text);
            assert!(fault.contains(words), "{text}: {fault}");
        }
        let long = format!(r#"{{"name":"{}"}}"#, "a".repeat(64));
        assert!(read(true, &long).is_err());
        let long = format!(r#"{{"alpn":["{}"]}}"#, "a".repeat(256));
        assert!(read(true, &long).is_err() && read(true, &long.replacen('a', "", 2)).is_ok());
        for text in [
            r#"{"users":"tls"}"#,
            r#"{"alpn":["h2"]}"#,
            r#"{"allow":["::1"]}"#,
            r#"{"usersperaddress":1}"#,
        ] {
            assert!(read(false, text).expect_err(text).contains("public pipes"), "{text}");
        }
        assert!(read(false, r#"{"name":"a","idle":1000}"#).is_ok());
    }
}
