//! Who may call the API: ranges of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::Network;

impl Network {
    /// Whether `address` lies in this range. An IPv4 caller that a dual-stack socket shows as
    /// `::ffff:192.0.2.1` is looked up as `192.0.2.1`.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.base.is_ipv4() && base(address, self.prefix) == self.base
    }

    /// Whether `address` lies in one of these ranges.
    pub fn any_contains(ranges: &[Network], address: IpAddr) -> bool {
        ranges.iter().any(|range| range.contains(address))
    }
}

impl FromStr for Network {
    type Err = String;

    /// Reads `192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32`. The error is half a sentence that says
    /// what would be accepted.
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| {
            "is not an IP address or range such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"
                .to_owned()
        })?;
        let width = width(written);
        let prefix = match prefix {
            None => width,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|p| *p <= width && digits.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| format!("the number after / must be 0 to {width}"))?,
        };
        let right = base(written, prefix);
        if right != written {
            return Err(format!(
                "the address has bits beyond its /{prefix}; write {right}/{prefix}, \
                 or {written} for that one address"
            ));
        }
        // A range of IPv4-mapped addresses is the IPv4 range it stands for.
        match written.to_canonical() {
            base @ IpAddr::V4(_) if written.is_ipv6() && prefix >= 96 => {
                Ok(Network { base, prefix: prefix - 96 })
            }
            _ => Ok(Network { base: written, prefix }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == width(self.base) {
            write!(f, "{}", self.base)
        } else {
            write!(f, "{}/{}", self.base, self.prefix)
        }
    }
}

/// The bits of an address of this family.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with all bits beyond the first `prefix` cleared. `prefix` is at most the width.
fn base(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_what_they_name() {
        for (range, inside, outside) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.0/24", "::ffff:192.0.2.9", "::ffff:192.0.3.9"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("0.0.0.0/0", "203.0.113.1", "2001:db8::1"),
            ("0.0.0.0/0", "::ffff:203.0.113.1", "::1"),
            ("::/0", "2001:db8::1", "192.0.2.1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("::ffff:192.0.2.0/120", "192.0.2.1", "192.0.3.1"),
        ] {
            let network: Network = range.parse().expect(range);
            assert!(network.contains(inside.parse().expect(inside)), "{range} {inside}");
            assert!(!network.contains(outside.parse().expect(outside)), "{range} {outside}");
        }
    }

    #[test]
    fn faults_say_what_would_be_accepted() {
        for (text, part) in [
            ("192.0.2.1/24", "write 192.0.2.0/24, or 192.0.2.1"),
            ("2001:db8::1/32", "write 2001:db8::/32"),
            ("192.0.2.0/33", "0 to 32"),
            ("192.0.2.0/255.255.255.0", "0 to 32"),
            ("192.0.2.0/+8", "0 to 32"),
            ("192.0.2.0/", "0 to 32"),
            ("2001:db8::/129", "0 to 128"),
            ("controller.example.com", "is not an IP address"),
            ("", "is not an IP address"),
        ] {
            let fault = text.parse::<Network>().expect_err(text);
            assert!(fault.contains(part), "{text}: {fault}");
        }
    }

    #[test]
    fn ranges_are_shown_as_written() {
        for text in ["192.0.2.7", "192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0"] {
            assert_eq!(text.parse::<Network>().expect(text).to_string(), text);
        }
    }
}
