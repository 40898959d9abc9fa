//! From one JSON value to one setting; each fault says what would be accepted.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;
use serde_json::Value;

use super::keys::{A_STRING, UNQUOTED, Wrong, shown};
use super::{Network, Sandbox};

/// A set of ports as written: `"7000"` or `"7000-7002"`, any number of them.
pub(super) type PortRanges = Vec<RangeInclusive<u16>>;

/// An array of ports and ranges; the empty array is a set too.
pub(super) fn ports(value: &Value) -> Result<PortRanges, Wrong> {
    list(value, "an array such as [\"6000-6001\", \"7000\"]", |item| match item {
        Value::String(text) => range(text),
        Value::Number(number) => Err(format!("write it in quotes: \"{number}\"")),
        other => Err(expected(other, "a string such as \"6000\" or \"6000-6001\"")),
    })
}

/// The ports that `allowed` names and `excluded` does not, ascending.
pub(super) fn pool(allowed: &PortRanges, excluded: &PortRanges) -> Vec<u16> {
    let mut is_in = vec![false; 1 << 16];
    for (ranges, says) in [(allowed, true), (excluded, false)] {
        for range in ranges {
            is_in[usize::from(*range.start())..=usize::from(*range.end())].fill(says);
        }
    }
    (1..=u16::MAX).filter(|port| is_in[usize::from(*port)]).collect()
}

/// A port number.
pub(super) fn port(value: &Value) -> Result<u16, Wrong> {
    whole(value, 1, u16::MAX.into(), "a port number from 1 to 65535").map(|port| port as u16)
}

/// `true` or `false`.
pub(super) fn flag(value: &Value) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| wrong_type(value, &format!("true or false{UNQUOTED}")))
}

/// An IP address or a domain name, without scheme and port.
pub(super) fn address(value: &Value) -> Result<String, Wrong> {
    let text = string(value, "an IP address or a domain name")?;
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.to_canonical().to_string());
    }
    match domain_fault(text) {
        None => Ok(text.trim_end_matches('.').to_owned()),
        Some(why) => Err(Wrong::value(
            value,
            format!("{why}; an IP address such as 192.0.2.1 or a domain name is expected"),
        )),
    }
}

/// Where to listen, `IP:PORT`.
pub(super) fn socket(value: &Value) -> Result<SocketAddr, Wrong> {
    const EXPECTED: &str = "IP:PORT such as \"127.0.0.1:8080\" or \"[::]:443\"";
    let text = string(value, EXPECTED)?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            Err(Wrong::value(value, "the port must be 1 to 65535"))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(Wrong::value(value, format!("{EXPECTED} is expected"))),
    }
}

/// The callers that the API answers, at least one range.
pub(super) fn networks(value: &Value) -> Result<Vec<Network>, Wrong> {
    let expected_list = "an array such as [\"192.0.2.7\", \"10.0.0.0/8\"]";
    let networks = list(value, expected_list, |item| match item {
        Value::String(text) => text.trim().parse::<Network>(),
        other => Err(expected(other, "a string such as \"192.0.2.7\" or \"10.0.0.0/8\"")),
    })?;
    if networks.is_empty() {
        return Err(Wrong::value(
            value,
            "nobody could call the API; name the controllers, or leave the key out to let \
             everybody call",
        ));
    }
    Ok(networks)
}

/// A path that is not empty.
pub(super) fn path(value: &Value) -> Result<PathBuf, Wrong> {
    match string(value, "the path of a PEM file")? {
        "" => Err(Wrong::value(value, "the path of a PEM file is expected")),
        text if text.contains('\0') => Err(Wrong::value(value, "a path cannot hold a zero byte")),
        text => Ok(PathBuf::from(text)),
    }
}

/// An IP address of this machine.
pub(super) fn ip(value: &Value) -> Result<IpAddr, Wrong> {
    let text = string(value, "an IP address of this machine")?;
    text.parse().map_err(|_| {
        Wrong::value(value, "an IP address of this machine is expected, such as 192.0.2.1 or ::")
    })
}

/// How much is logged.
pub(super) fn level(value: &Value) -> Result<LevelFilter, Wrong> {
    const EXPECTED: &str = "one of error, warn, info, debug, trace";
    match string(value, EXPECTED)?.parse() {
        Ok(LevelFilter::Off) | Err(_) => {
            Err(Wrong::value(value, format!("{EXPECTED} is expected")))
        }
        Ok(level) => Ok(level),
    }
}

/// Whether it is the second of these words, not the first.
pub(super) fn second(value: &Value, words: [&str; 2]) -> Result<bool, Wrong> {
    let expected = format!("one of {}", words.join(", "));
    let text = string(value, &expected)?;
    let found = words.iter().position(|word| text.eq_ignore_ascii_case(word));
    found
        .map(|place| place == 1)
        .ok_or_else(|| Wrong::value(value, format!("{expected} is expected")))
}

/// Whether the daemon has a cage.
pub(super) fn sandbox(value: &Value) -> Result<Sandbox, Wrong> {
    const EXPECTED: &str = Sandbox::EXPECTED;
    let fault = |()| Wrong::value(value, format!("{EXPECTED} is expected"));
    string(value, EXPECTED)?.parse().map_err(fault)
}

/// A time in milliseconds, from `least` to a day.
pub(super) fn milliseconds(value: &Value, least: u64) -> Result<Duration, Wrong> {
    const DAY: u64 = 24 * 60 * 60 * 1000;
    let expected = format!("a number of milliseconds from {least} to {DAY}");
    whole(value, least, DAY, &expected).map(Duration::from_millis)
}

/// A count from 1 to `most`.
pub(super) fn count(value: &Value, most: u64) -> Result<usize, Wrong> {
    whole(value, 1, most, &format!("a number from 1 to {most}")).map(|count| count as usize)
}

/// Why a text is no domain name, if it is none: labels of letters, digits, `-` and `_` (names
/// given by container engines have it), 63 bytes at most, 253 in all, not ending in a number
/// (such a name is a mistyped IP address).
fn domain_fault(text: &str) -> Option<&'static str> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let labels = || name.split('.');
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.contains("://") {
        return Some("leave out the scheme before ://");
    }
    if text.contains('/') {
        return Some("leave out the / and what follows");
    }
    if text.starts_with('[') {
        return Some("leave out the brackets");
    }
    if text.contains(':') {
        return Some("leave out the port");
    }
    if !text.is_ascii() {
        return Some("write the name in its ASCII form (xn--…)");
    }
    if name.is_empty() || name.len() > 253 || labels().any(|l| l.is_empty() || l.len() > 63) {
        return Some("a part of the name is empty or too long");
    }
    if !labels().all(|label| label.chars().all(part)) {
        return Some("a name has letters, digits, - and dots only");
    }
    if labels().any(|label| label.starts_with('-') || label.ends_with('-')) {
        return Some("no part of a name begins or ends with -");
    }
    if labels().next_back().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit())) {
        return Some("this is neither an IP address nor a name");
    }
    None
}

/// `N` or `A-B`, with spaces around the numbers or none.
fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let number = |part: &str| {
        let part = part.trim();
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        match part.parse::<u16>() {
            Ok(port) if digits && port > 0 => Ok(port),
            _ if digits => Err(format!("{part} is not a port; ports are 1 to 65535")),
            _ => Err("a port such as \"6000\" or a range such as \"6000-6001\" is expected".into()),
        }
    };
    match text.split_once('-') {
        None => number(text).map(|port| port..=port),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("the range ends before it starts; write \"{last}-{first}\""));
            }
            Ok(first..=last)
        }
    }
}

/// Reads every item of an array; all faults at once, each with its index.
fn list<T>(
    value: &Value,
    accepted: &str,
    read: impl Fn(&Value) -> Result<T, String>,
) -> Result<Vec<T>, Wrong> {
    let items = value.as_array().ok_or_else(|| wrong_type(value, accepted))?;
    let mut good = Vec::with_capacity(items.len());
    let mut faults = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match read(item) {
            Ok(item) => good.push(item),
            Err(why) => faults.push((format!("[{index}]"), format!("{}: {why}", shown(item)))),
        }
    }
    if faults.is_empty() { Ok(good) } else { Err(Wrong(faults)) }
}

fn string<'a>(value: &'a Value, accepted: &str) -> Result<&'a str, Wrong> {
    value.as_str().map(str::trim).ok_or_else(|| wrong_type(value, accepted))
}

fn whole(value: &Value, least: u64, most: u64, accepted: &str) -> Result<u64, Wrong> {
    match value {
        Value::Number(number) => number
            .as_u64()
            .filter(|n| (least..=most).contains(n))
            .ok_or_else(|| Wrong::value(value, format!("{accepted} is expected"))),
        other => Err(wrong_type(other, &format!("{accepted} (without quotes)"))),
    }
}

fn wrong_type(value: &Value, accepted: &str) -> Wrong {
    Wrong::value(value, expected(value, accepted))
}

fn expected(value: &Value, accepted: &str) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => return format!("{A_STRING}{accepted} is expected"),
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    format!("this is {kind}; {accepted} is expected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_written() {
        for (text, outcome) in [
            ("6000", Ok(6000..=6000)),
            ("6000-6001", Ok(6000..=6001)),
            (" 6000 - 6001 ", Ok(6000..=6001)),
            ("7000-7000", Ok(7000..=7000)),
            ("1-65535", Ok(1..=65535)),
            ("7000-6000", Err("the range ends before it starts; write \"6000-7000\"")),
            ("0", Err("0 is not a port; ports are 1 to 65535")),
            ("65536", Err("65536 is not a port; ports are 1 to 65535")),
            ("6000-99999999999", Err("99999999999 is not a port; ports are 1 to 65535")),
            ("", Err("is expected")),
            ("-", Err("is expected")),
            ("6000-", Err("is expected")),
            ("-6001", Err("is expected")),
            ("+6000", Err("is expected")),
            ("6000-6001-6002", Err("is expected")),
            ("6000,6001", Err("is expected")),
            ("all", Err("is expected")),
        ] {
            match (range(text), outcome) {
                (Ok(range), Ok(wanted)) => assert_eq!(range, wanted, "{text}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{text}: {why}"),
                (range, _) => panic!("{text}: {range:?}"),
            }
        }
    }

    #[test]
    fn pool_is_what_ports_allow_and_exclude_does_not() {
        assert_eq!(
            pool(&vec![6000..=6001, 7000..=7002], &vec![7001..=7001]),
            [6000, 6001, 7000, 7002]
        );
        assert_eq!(pool(&vec![7000..=7001, 7001..=7003, 7001..=7001], &vec![1..=7002]), [7003]);
        assert_eq!(pool(&vec![1..=65535], &vec![2..=65534]), [1, 65535]);
        assert!(pool(&vec![7000..=7001], &vec![1..=65535]).is_empty());
        assert_eq!(pool(&vec![1..=65535], &vec![]).len(), 65535);
    }

    #[test]
    fn addresses() {
        for (text, outcome) in [
            ("127.0.0.1", Ok("127.0.0.1")),
            ("::1", Ok("::1")),
            ("::ffff:192.0.2.1", Ok("192.0.2.1")),
            ("2001:DB8:0::1", Ok("2001:db8::1")),
            ("localhost", Ok("localhost")),
            ("connector.example.com", Ok("connector.example.com")),
            ("connector.example.com.", Ok("connector.example.com")),
            ("iofog_connector", Ok("iofog_connector")),
            ("4.example", Ok("4.example")),
            ("192.0.2.256", Err("neither an IP address nor a name")),
            ("192.0.2", Err("neither")),
            ("https://connector.example.com", Err("scheme")),
            ("connector.example.com/x", Err("leave out the /")),
            ("connector.example.com:443", Err("port")),
            ("[::1]", Err("brackets")),
            ("", Err("empty")),
            ("a..b", Err("empty")),
            ("-a.example", Err("begins or ends")),
            ("a b", Err("letters")),
            ("bücher.example", Err("xn--")),
        ] {
            match (address(&Value::from(text)), outcome) {
                (Ok(name), Ok(wanted)) => assert_eq!(name, wanted),
                (Err(Wrong(list)), Err(part)) => assert!(list[0].1.contains(part), "{list:?}"),
                (name, _) => panic!("{text}: {:?}", name.ok()),
            }
        }
        let long = format!("{}.example", "a".repeat(64));
        assert!(address(&Value::from(long)).is_err());
    }
}
