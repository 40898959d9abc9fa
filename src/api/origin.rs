//! Which requests a web page of another site makes a browser send (protocol page, section 3, step
//! 12): a form that is posted across sites, or a page whose name has been made to mean this machine
//! (DNS rebinding). Programs other than browsers send nothing of this kind.

use std::fmt;
use std::net::IpAddr;

use super::caller::Door;
use super::quoted::short;
use crate::http::Source;

/// Why a request is taken for a web page's.
#[derive(Debug, PartialEq, Eq)]
pub enum Foreign {
    /// A page of another origin has it sent.
    Origin(Box<str>),
    /// So does a page whose origin the browser keeps to itself.
    Site(Box<str>),
    /// It is meant for another host, which is said to be at this machine's loopback address.
    Host(Box<str>),
}

/// Refuses what a page of another site makes a browser send. `is_own` says whether a name is one
/// of this connector's.
pub(super) fn check(
    door: Door,
    source: &Source,
    is_own: impl Fn(&str) -> bool,
) -> Result<(), Foreign> {
    let own_host = |host: &str| {
        let name = name(host);
        !name.is_empty() && (name.parse::<IpAddr>().is_ok() || is_own(name))
    };
    let host = source.host.as_deref().unwrap_or_default();
    if let Some(origin) = &source.origin {
        let scheme = if door.secure { "https://" } else { "http://" };
        let from = origin.strip_prefix(scheme).filter(|from| !from.is_empty());
        if !from.is_some_and(|from| from.eq_ignore_ascii_case(host) && own_host(from)) {
            return Err(Foreign::Origin(origin.clone()));
        }
    }
    if let Some(site) = &source.fetch_site {
        if !matches!(&**site, "same-origin" | "none") {
            return Err(Foreign::Site(site.clone()));
        }
    }
    // HTTP/1.0 programs name no host; a browser always does.
    if door.loopback && !host.is_empty() && !own_host(host) {
        return Err(Foreign::Host(name(host).into()));
    }
    Ok(())
}

/// The host without its port and brackets, and without the dot at its end.
fn name(host: &str) -> &str {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => match host.split_once(':') {
            Some((name, port)) if !port.contains(':') => name,
            _ => host,
        },
    };
    name.strip_suffix('.').unwrap_or(name)
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Foreign::Origin(origin) => write!(
                f,
                "the request comes from a web page of {}, and pages of other sites may not call \
                 the API; call it with a program that is not a browser",
                short(origin)
            ),
            Foreign::Site(site) => write!(
                f,
                "the request comes from a web page of another site (Sec-Fetch-Site is {}), and \
                 such pages may not call the API; type its address, or call it with a program that is \
                 not a browser",
                short(site)
            ),
            Foreign::Host(host) => write!(
                f,
                "{} is not a name of this machine, and a web page may have chosen it; call the \
                 API by an IP address, as localhost, or by the name in the setting address",
                short(host)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pages_of_other_sites_send_is_refused() {
        let open = Door { outdated: false, secure: false, loopback: false };
        let local = Door { loopback: true, ..open };
        let secure = Door { secure: true, ..open };
        let (same, none) = (Some("same-origin"), Some("none"));
        let origin = |origin: &str| Err(Foreign::Origin(origin.into()));
        let site = |site: &str| Err(Foreign::Site(site.into()));
        let host = |host: &str| Err(Foreign::Host(host.into()));
        for (door, from, to, fetch_site, expected) in [
            // Programs.
            (local, None, None, None, Ok(())),
            (local, None, Some(""), None, Ok(())),
            (local, None, Some("127.0.0.1:8080"), None, Ok(())),
            (local, None, Some("[::1]:8080"), None, Ok(())),
            (local, None, Some("::1"), None, Ok(())),
            (local, None, Some("2001:db8::1"), None, Ok(())),
            (local, None, Some("192.0.2.1"), None, Ok(())),
            (local, None, Some("Own.Example.:8080"), None, Ok(())),
            (open, None, Some("a-name-in-a-container"), None, Ok(())),
            // A name that means this machine by somebody's decision.
            (local, None, Some("rebound.example:8080"), None, host("rebound.example")),
            (local, None, Some("127.0.0.1.example"), same, host("127.0.0.1.example")),
            (local, None, Some("own.example.example"), None, host("own.example.example")),
            (local, None, Some(":"), None, host("")),
            (local, None, Some(":80"), None, host("")),
            (local, None, Some("."), None, host("")),
            (local, None, Some("[]:80"), None, host("")),
            (local, None, Some("\u{fffd}"), None, host("\u{fffd}")),
            (local, Some("http://:"), Some(":"), same, origin("http://:")),
            (open, Some("http://r.example"), Some("r.example"), same, origin("http://r.example")),
            // Pages of others, and of this very API.
            (
                open,
                Some("http://page.example"),
                Some("own.example"),
                None,
                origin("http://page.example"),
            ),
            (open, Some("null"), Some("own.example"), None, origin("null")),
            (open, Some(""), None, None, origin("")),
            (open, Some("http://"), Some(""), None, origin("http://")),
            (open, Some("http://own.example:8080"), Some("own.example:8080"), same, Ok(())),
            (
                open,
                Some("http://own.example:81"),
                Some("own.example:80"),
                None,
                origin("http://own.example:81"),
            ),
            (
                open,
                Some("https://own.example"),
                Some("own.example"),
                None,
                origin("https://own.example"),
            ),
            (secure, Some("https://own.example"), Some("own.example"), None, Ok(())),
            (
                secure,
                Some("http://own.example"),
                Some("own.example"),
                None,
                origin("http://own.example"),
            ),
            (open, None, Some("own.example"), none, Ok(())),
            (open, None, Some("own.example"), Some("cross-site"), site("cross-site")),
            (open, None, Some("own.example"), Some("same-site"), site("same-site")),
            (open, None, Some("own.example"), Some(""), site("")),
        ] {
            let source = Source {
                host: to.map(Into::into),
                origin: from.map(Into::into),
                fetch_site: fetch_site.map(Into::into),
            };
            let is_own = |name: &str| name.eq_ignore_ascii_case("own.example");
            assert_eq!(check(door, &source, is_own), expected, "{door:?} {source:?}");
        }
    }
}
