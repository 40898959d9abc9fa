//! The proxy through which this machine reaches others: how people name one, and who needs none.

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::config::Network;
use crate::net::dial::Address;

/// Variables of the environment that name a proxy, the first one that is set counts; and those that
/// name who is reached without.
const NAMES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const EXCEPT: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Longest user or password (RFC 1929).
const LONGEST: usize = 255;

/// A proxy. Its `Debug` and `Display` show neither user nor password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    pub(super) kind: Kind,
    /// Where it is.
    pub address: Address,
    pub(super) login: Option<Login>,
}

/// What a proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// HTTP with CONNECT (RFC 9110, section 9.3.6).
    Http,
    /// SOCKS version 5 (RFC 1928).
    Socks,
}

/// Who one is to a proxy.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Socks => "socks5",
        };
        write!(f, "{scheme}://{}", self.address)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Proxy {
    type Err = String;

    /// Reads `http://[user:password@]host:port` or `socks5://[user:password@]host:port`. The error
    /// repeats nothing that may be a password.
    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str =
            "http://[user:password@]host:port or socks5://[user:password@]host:port is expected";
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let kind = match &*scheme.to_ascii_lowercase() {
            "http" => Kind::Http,
            // With the h, for others, the proxy looks the name up, as it always does here.
            "socks5" | "socks5h" => Kind::Socks,
            _ => {
                return Err(format!(
                    "proxies of the kind before `://` are not spoken to here; {FORM}"
                ));
            }
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, address) = match rest.rsplit_once('@') {
            None => (None, rest),
            Some((login, address)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                let login = decoded(user).zip(decoded(password));
                let (user, password) = login.ok_or(format!(
                    "user and password may have {LONGEST} bytes each, and a % in them is written \
                     %25; {FORM}"
                ))?;
                (Some(Login { user, password }), address)
            }
        };
        let address = address.parse().map_err(|fault| match login {
            Some(_) => format!("no HOST:PORT stands after the last @; {FORM}"),
            // Perhaps user and password, of which the @ was forgotten.
            None if address.contains(':') => format!("no HOST:PORT stands there; {FORM}"),
            None => format!("{fault}; {FORM}"),
        })?;
        Ok(Proxy { kind, address, login })
    }
}

/// The proxy that the environment names for connections to `target`.
///
/// # Errors
/// A sentence with the variable's name.
pub fn from_environment(
    target: &Address,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Option<Proxy>, String> {
    let set = |names: &[&'static str]| {
        let value = |name: &&'static str| Some((*name, variable(name)?));
        let found = names.iter().filter_map(value).find(|(_, value)| !value.is_empty());
        // It may have a password in it.
        let text = |(name, value): (_, OsString)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(format!("{name}: it is not UTF-8 text")),
        };
        found.map(text).transpose()
    };
    let Some((name, text)) = set(&NAMES)? else { return Ok(None) };
    if set(&EXCEPT)?.is_some_and(|(_, except)| is_excepted(target, &except)) {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|fault| format!("{name}: {fault}"))
}

/// Whether `except`, a list as in `NO_PROXY`, has the target: `*`, a name, which also stands for all
/// names in its domain, an address or a range of them; with a port, for this one only.
fn is_excepted(target: &Address, except: &str) -> bool {
    let host = target.host.trim_end_matches('.').to_ascii_lowercase();
    let ip: Option<IpAddr> = host.parse().ok();
    except.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        let bare = entry.trim_start_matches('[').trim_end_matches(']');
        let range = bare.parse::<Network>().ok();
        if let (Some(range), Some(ip)) = (&range, ip) {
            return range.contains(ip);
        }
        let (name, port) = match entry.parse::<Address>() {
            Ok(Address { host, port }) if range.is_none() => (host, Some(port)),
            _ => (entry.clone(), None),
        };
        let name = name.trim_start_matches("*.").trim_start_matches('.');
        let in_domain = |host: &str| {
            host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        port.is_none_or(|port| port == target.port)
            && (name == "*" || (!name.is_empty() && in_domain(&host)))
    })
}

/// `text` with each `%XX` as the byte that it stands for; `None` for what is none, or too long.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                ((16 * digit(*high)? + digit(*low)?) as u8, after)
            }
            (b'%', _) => return None,
            (byte, after) => (*byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok().filter(|text| text.len() <= LONGEST)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn proxies_are_read_as_people_write_them() {
        for (text, shown, login) in [
            ("http://proxy:3128", "http://proxy:3128", None),
            ("HTTP://proxy:3128/", "http://proxy:3128", None),
            ("proxy:3128", "http://proxy:3128", None),
            ("socks5://[::1]:1080", "socks5://[::1]:1080", None),
            ("socks5h://proxy:1080", "socks5://proxy:1080", None),
            ("http://me:secret@proxy:1", "http://proxy:1", Some(("me", "secret"))),
            ("http://me@proxy:1", "http://proxy:1", Some(("me", ""))),
            ("http://m%40e:s%3Acr%25et:@proxy:1", "http://proxy:1", Some(("m@e", "s:cr%et:"))),
            ("http://me:p@ss@proxy:1", "http://proxy:1", Some(("me", "p@ss"))),
        ] {
            let proxy: Proxy = text.parse().unwrap();
            assert_eq!((proxy.to_string(), format!("{proxy:?}")), (shown.into(), shown.into()));
            let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
            assert_eq!(proxy.login.map(|login| (login.user, login.password)), login, "{text}");
        }
    }

    #[test]
    fn faults_name_the_form_and_no_password() {
        let long = format!("http://SECRET:{}@proxy:1", "x".repeat(256));
        for (text, fault) in [
            ("https://me:SECRET@proxy:1", "are not spoken to here; http://[user:password@]host"),
            ("socks4://SECRET@proxy:1", "are not spoken to here"),
            ("http://me:SECRET@proxy", "no HOST:PORT stands after the last @"),
            ("http://me:SECRET%@proxy:1", "a % in them is written %25"),
            ("http://me:SECRET%fz@proxy:1", "a % in them is written %25"),
            (&long, "may have 255 bytes each"),
            // The @ was forgotten.
            ("http://me:SECRET", "no HOST:PORT stands there"),
            ("me:SECRET", "no HOST:PORT stands there"),
            ("http://proxy", "\"proxy\" has no port"),
            ("", "has no port"),
        ] {
            let said = text.parse::<Proxy>().unwrap_err();
            assert!(said.contains(fault) && said.contains("socks5://[user"), "{text}: {said}");
            assert!(!said.contains("SECRET"), "{said}");
        }
    }

    #[test]
    fn the_environment_names_a_proxy_unless_it_excepts_the_connector() {
        let target: Address = "gate.example.com:6000".parse().unwrap();
        let found = |variables: &[(&str, &str)]| {
            let value = |name: &str| variables.iter().find(|(one, _)| *one == name);
            let proxy = from_environment(&target, &|name| value(name).map(|(_, it)| (*it).into()));
            proxy.map(|proxy| proxy.map(|proxy| proxy.address.host))
        };
        let (https, all) = (("HTTPS_PROXY", "http://one:1"), ("all_proxy", "socks5://two:1"));
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&[all, https]), Ok(Some("one".into())));
        assert_eq!(found(&[all]), Ok(Some("two".into())));
        assert_eq!(found(&[("HTTPS_PROXY", ""), all]), Ok(Some("two".into())));
        assert_eq!(found(&[("HTTP_PROXY", "http://three:1")]), Ok(None), "not for this");
        assert_eq!(found(&[https, ("no_proxy", "example.com")]), Ok(None));
        let said = found(&[("https_proxy", "ftp://me:SECRET@x:1")]).unwrap_err();
        assert!(said.starts_with("https_proxy: ") && !said.contains("SECRET"), "{said}");
        for unreadable in ["ALL_PROXY", "NO_PROXY"] {
            let said = from_environment(&target, &|name| match name {
                "ALL_PROXY" | "NO_PROXY" if name == unreadable => {
                    Some(OsString::from_vec(b"http://SECRET:\xff@two:1".into()))
                }
                "ALL_PROXY" => Some("http://two:1".into()),
                _ => None,
            });
            assert_eq!(said, Err(format!("{unreadable}: it is not UTF-8 text")));
        }
    }

    #[test]
    fn who_is_excepted_is_named_by_name_domain_address_or_range() {
        for (target, except, is) in [
            ("gate.example.com:6000", "*", true),
            ("gate.example.com:6000", "gate.example.com", true),
            ("Gate.Example.com:6000", "other, .example.COM", true),
            ("gate.example.com:6000", "*.example.com", true),
            ("gate.example.com:6000", "a b example.com", true),
            ("gate.example.com:6000", "ample.com", false),
            ("gate.example.com:6000", "gate.example.com:6000", true),
            ("gate.example.com:6000", "gate.example.com:6001", false),
            ("gate.example.com:6000", "example.org,10.0.0.0/8,", false),
            ("gate.example.com:6000", ".", false),
            ("10.1.2.3:6000", "10.1.2.3", true),
            ("10.1.2.3:6000", "10.0.0.0/8", true),
            ("10.1.2.3:6000", "10.1.2.3:6000", true),
            ("10.1.2.3:6000", "11.0.0.0/8,2001:db8::/32", false),
            ("[2001:db8::1]:6000", "2001:db8::/32", true),
            ("[2001:db8::1]:6000", "[2001:db8::1]", true),
            ("[2001:db8::1]:6000", "2001:db8::2", false),
            ("localhost:6000", "localhost", true),
            ("localhost:6000", "", false),
        ] {
            assert_eq!(is_excepted(&target.parse().unwrap(), except), is, "{target} {except}");
        }
    }
}
