//! Version 3 tunnels that may be dead, as values: where a tunnel was dead, and when its session was to begin, goes in;
//! whether others from there may be dead as well comes out (protocol page, section 8, step 4).

use std::net::IpAddr;
use std::time::Instant;

use crate::limits;

/// Addresses of which a tunnel was dead, and when it was last asked for something, the oldest first.
#[derive(Default)]
pub(super) struct Suspects(Vec<(IpAddr, Instant)>);

impl Suspects {
    /// A tunnel of `address` has not answered what it was sent `at` this time.
    pub(super) fn add(&mut self, address: IpAddr, at: Instant) {
        let known = self.0.iter().position(|(known, _)| *known == address);
        let known = known.map(|place| self.0.remove(place));
        if self.0.len() >= limits::SUSPECTS {
            self.0.remove(0);
        }
        let at = known.map_or(at, |(_, known)| known.max(at));
        self.0.push((address, at));
    }

    /// Whether a tunnel of `address` that was last heard `at` this time may be dead.
    pub(super) fn has(&self, address: IpAddr, at: Instant) -> bool {
        self.0.iter().any(|(known, asked)| *known == address && at < *asked)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    fn address(last: u32) -> IpAddr {
        Ipv4Addr::from(last).into()
    }

    #[test]
    fn tunnels_of_an_address_are_suspect_until_heard_after_a_dead_one_was_asked() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut suspects = Suspects::default();
        assert!(!suspects.has(address(1), at(0)));
        suspects.add(address(1), at(5));
        suspects.add(address(1), at(3));
        assert!(suspects.has(address(1), at(4)), "the last one counts");
        assert!(!suspects.has(address(1), at(5)) && !suspects.has(address(2), at(0)));
    }

    #[test]
    fn no_more_addresses_are_kept_than_the_bound_those_of_the_last_dead_tunnels() {
        let (heard, asked) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut suspects = Suspects::default();
        for number in (0..limits::SUSPECTS as u32).chain([0, 7777]) {
            suspects.add(address(number), asked);
        }
        assert_eq!(suspects.0.len(), limits::SUSPECTS);
        assert!(suspects.has(address(0), heard) && suspects.has(address(7777), heard));
        assert!(!suspects.has(address(1), heard), "the oldest is forgotten");
    }
}
