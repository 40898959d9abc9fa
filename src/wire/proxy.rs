//! PROXY protocol headers (the HAProxy specification): of version 2, as they tell a version 2 agent of a pairing
//! (protocol page, section 5.3), and of versions 1 and 2, as a user's proxy sends them (section 6).

use std::net::{IpAddr, SocketAddr};

use ppp::v2::{AddressFamily, Addresses, Builder, Command, Header, Protocol, Version};

use crate::limits;

/// The header: the user's source and destination on a public pipe, the LOCAL command on a
/// private one.
pub fn header(user: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let builder = match user {
        Some((source, destination)) => {
            let addresses = same_family(source, destination);
            Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, addresses)
        }
        None => Builder::new(
            Version::Two | Command::Local,
            AddressFamily::Unspecified | Protocol::Unspecified,
        ),
    };
    // It can only fail when the addresses are longer than 65,535 bytes.
    builder.build().unwrap_or_default()
}

/// On a dual-stack socket one address may be an IPv4 address in IPv6 form; the header has room for
/// one family only.
fn same_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (plain(source), plain(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (mapped(source), mapped(destination))
}

/// How version 2 begins.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// How version 1 begins.
const WORD: &[u8] = b"PROXY ";
/// Longest line of version 1, its end included.
const LINE: usize = 107;

/// What is not a header, or longer than [`limits::PROXY_HEADER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHeader;

/// Where the header ends that `bytes` begin with; `None` while it is not whole.
///
/// # Errors
/// [`NoHeader`], as soon as that can be told.
pub fn end(bytes: &[u8]) -> Result<Option<usize>, NoHeader> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, right)| byte == right);
    if begins(SIGNATURE) {
        // Version, command and family, then the length of the rest.
        let Some(&[_, _, high, low]) = bytes.get(12..16) else { return Ok(None) };
        let length = 16 + usize::from(u16::from_be_bytes([high, low]));
        let fits = length <= limits::PROXY_HEADER;
        return if fits { Ok((length <= bytes.len()).then_some(length)) } else { Err(NoHeader) };
    }
    let line = &bytes[..bytes.len().min(LINE)];
    match line.iter().position(|byte| *byte == b'\n') {
        _ if !begins(WORD) => Err(NoHeader),
        Some(at) => Ok(Some(at + 1)),
        None if line.len() < LINE => Ok(None),
        None => Err(NoHeader),
    }
}

/// Where the user comes from that a whole header tells of; `None` if that is the connection's own address: the
/// proxy speaks for itself (LOCAL), does not know (UNKNOWN), or names what is no TCP connection.
///
/// # Errors
/// [`NoHeader`].
pub fn source(header: &[u8]) -> Result<Option<SocketAddr>, NoHeader> {
    let source = if header.starts_with(SIGNATURE) {
        // With LOCAL whatever family and addresses follow mean nothing, a torn one either.
        if header.get(SIGNATURE.len()) == Some(&0x20) {
            return Ok(None);
        }
        let header = Header::try_from(header).map_err(|_| NoHeader)?;
        match (header.command, header.protocol, &header.addresses) {
            (Command::Proxy, Protocol::Stream, Addresses::IPv4(of)) => {
                Some(SocketAddr::from((of.source_address, of.source_port)))
            }
            (Command::Proxy, Protocol::Stream, Addresses::IPv6(of)) => {
                Some(SocketAddr::from((of.source_address, of.source_port)))
            }
            _ => None,
        }
    } else {
        line_source(header)?
    };
    Ok(source.map(|source| SocketAddr::new(source.ip().to_canonical(), source.port())))
}

fn line_source(header: &[u8]) -> Result<Option<SocketAddr>, NoHeader> {
    let line = std::str::from_utf8(header).ok().and_then(|line| line.strip_suffix("\r\n"));
    let mut words = line.ok_or(NoHeader)?.split(' ').skip(1);
    let is_four = match words.next() {
        Some("UNKNOWN") => return Ok(None),
        Some("TCP4") => true,
        Some("TCP6") => false,
        _ => return Err(NoHeader),
    };
    let [source, destination, port, to, none] = std::array::from_fn(|_| words.next());
    let address = |ip: Option<&str>, port: Option<&str>| {
        let ip: IpAddr = ip?.parse().ok()?;
        (ip.is_ipv4() == is_four).then_some(SocketAddr::new(ip, port?.parse().ok()?))
    };
    match (address(source, port), address(destination, to), none) {
        (Some(source), Some(_), None) => Ok(Some(source)),
        _ => Err(NoHeader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Found<'a> = Option<(Option<SocketAddr>, &'a [u8])>;

    /// What comes of `bytes`, which are read in pieces: the source, and what follows the header.
    fn read(bytes: &[u8]) -> Result<Found<'_>, NoHeader> {
        // As soon as a beginning is wrong, so is all that begins so.
        let found = (0..=bytes.len()).map(|cut| end(&bytes[..cut])).find(|end| *end != Ok(None));
        match found.unwrap_or(Ok(None))? {
            None => Ok(None),
            Some(at) => Ok(Some((source(&bytes[..at])?, &bytes[at..]))),
        }
    }

    #[test]
    fn users_are_found_behind_headers_of_both_versions() {
        let address = |text: &str| Some(text.parse().unwrap());
        let two = |command: u8, family: u8, rest: &[u8]| {
            let head = [SIGNATURE, &[0x20 | command, family, 0, rest.len() as u8], rest].concat();
            [&head, &b"data"[..]].concat()
        };
        let four = [192, 0, 2, 7, 198, 51, 100, 1, 3, 232, 27, 88];
        let mut six = [0; 36];
        six[..2].copy_from_slice(&[0x20, 1]);
        six[15] = 7;
        six[33] = 9;
        let mut mapped = [0; 36];
        mapped[10..16].copy_from_slice(&[255, 255, 192, 0, 2, 7]);
        // With something behind the addresses (TLV).
        let more = [&four[..], &[4, 0, 1, 0]].concat();
        let unix = [b'/'; 216];
        for (bytes, user) in [
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 1000 7000\r\ndata".to_vec(), "192.0.2.7:1000"),
            (b"PROXY TCP6 2001::7 ::1 9 0\r\ndata".to_vec(), "[2001::7]:9"),
            (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 0\r\ndata".to_vec(), "192.0.2.7:1"),
            (b"PROXY UNKNOWN\r\ndata".to_vec(), ""),
            (b"PROXY UNKNOWN ff 7 8 9 10\r\ndata".to_vec(), ""),
            (two(1, 0x11, &four), "192.0.2.7:1000"),
            (two(1, 0x11, &more), "192.0.2.7:1000"),
            (two(1, 0x21, &six), "[2001::7]:9"),
            (two(1, 0x21, &mapped), "192.0.2.7:0"),
            (two(0, 0x11, &four), ""),
            (two(0, 0, &[]), ""),
            (two(0, 0x11, &[]), ""),
            (two(0, 0x21, &four[..3]), ""),
            (two(1, 0x12, &four), ""),
            (two(1, 0x31, &unix), ""),
        ] {
            let user = if user.is_empty() { None } else { address(user) };
            assert_eq!(read(&bytes), Ok(Some((user, &b"data"[..]))), "{bytes:?}");
            assert_eq!(read(&bytes[..bytes.len() - 5]), Ok(None), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_known_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01",
            b"P ",
            b"\r\n\r\nx",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1000\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1000 7000 1\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1000 70000\r\n",
            b"PROXY TCP4 ::1 ::1 1 1\r\n",
            b"PROXY TCP6 192.0.2.7 192.0.2.8 1 1\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1000 7000\n",
            b"PROXY UDP4 192.0.2.7 198.51.100.1 1000 7000\r\n",
        ] {
            assert_eq!(read(bytes), Err(NoHeader), "{bytes:?}");
        }
        let long = [&b"PROXY UNKNOWN "[..], &[b' '; 107]].concat();
        assert_eq!(read(&long), Err(NoHeader));
        let long = [SIGNATURE, &[0x21, 0x11, 16, 0]].concat();
        assert_eq!(read(&long), Err(NoHeader), "more than 4 KiB");
        let version = [SIGNATURE, &[0x31, 0x11, 0, 0]].concat();
        assert_eq!(read(&version), Err(NoHeader));
    }

    #[test]
    fn headers_are_those_of_the_specification() {
        let user = |source: &str, destination: &str| {
            header(Some((source.parse().unwrap(), destination.parse().unwrap())))
        };
        let four = user("192.0.2.7:1000", "[::ffff:198.51.100.1]:7000");
        assert_eq!(four[..12], *SIGNATURE);
        assert_eq!(four[12..16], [0x21, 0x11, 0, 12]);
        assert_eq!(four[16..], [192, 0, 2, 7, 198, 51, 100, 1, 0x03, 0xe8, 0x1b, 0x58]);
        let six = user("[2001:db8::1]:1", "[2001:db8::2]:2");
        assert_eq!(six[12..16], [0x21, 0x21, 0, 36]);
        let local = header(None);
        assert_eq!(local[..12], *SIGNATURE);
        assert_eq!(local[12..], [0x20, 0x00, 0, 0]);
    }
}
