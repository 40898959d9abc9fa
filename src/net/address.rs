//! Whom addresses stand for.

use std::net::{IpAddr, Ipv6Addr};

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
    match network(address) {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}
