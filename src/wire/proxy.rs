//! The PROXY protocol version 2 header that tells a version 2 agent of a pairing (protocol page,
//! section 5.3; the HAProxy specification).

use std::net::{IpAddr, SocketAddr};

use ppp::v2::{AddressFamily, Builder, Command, Protocol, Version};

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

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

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
