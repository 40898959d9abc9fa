//! Which addresses count as one stranger.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is counted as one stranger: an IPv4 address, also where a dual-stack socket reports it as
/// an IPv6 one; of an IPv6 address the first 64 bits.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & (u128::from(u64::MAX) << 64)).into()
        }
        four => four,
    }
}

/// The same as a number. No IPv6 network that is in use has one of IPv4's numbers.
pub fn network_number(address: IpAddr) -> u64 {
    number(address, 64)
}

/// What is counted as one stranger where being taken for another costs little: an IPv4 address, or the
/// first 48 bits of an IPv6 one, which is what one site has; as a number. No IPv6 network that is in
/// use has one of IPv4's numbers.
pub fn stranger(address: IpAddr) -> u64 {
    number(address, 48)
}

/// Shows whom the number of a [`stranger`] stands for.
pub struct Stranger(pub u64);

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u32::try_from(self.0) {
            Ok(four) => write!(f, "{}", Ipv4Addr::from_bits(four)),
            Err(_) if self.0 >> 48 == 0 => {
                write!(f, "{}/48", Ipv6Addr::from_bits(u128::from(self.0) << 80))
            }
            // One that is not known yet.
            Err(_) => f.write_str("somebody behind a proxy"),
        }
    }
}

/// An IPv4 address, or the first `bits` of an IPv6 one: 1 to 64.
fn number(address: IpAddr, bits: u32) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => (address.to_bits() >> (128 - bits)) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_an_ipv4_address_or_an_ipv6_site() {
        let stranger = |address: &str| stranger(address.parse().unwrap());
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8:1::1", "2001:db8:1:ff00::2", true),
            ("2001:db8:1::1", "2001:db8:2::1", false),
            ("2001:db8:1::1", "0.0.0.1", false),
        ] {
            assert_eq!(stranger(one) == stranger(other), same, "{one} {other}");
        }
        let shown = |address| Stranger(stranger(address)).to_string();
        assert_eq!(shown("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(shown("2001:db8:1:ff00::2"), "2001:db8:1::/48");
        assert_eq!(Stranger(1 << 63 | 5).to_string(), "somebody behind a proxy");
    }
}
