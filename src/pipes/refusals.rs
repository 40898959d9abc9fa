//! Refusals, and the holding of those that come too often (protocol page, section 4.2).
//!
//! The field's agent redials a closed tunnel without any delay, so that closing at once feeds a
//! storm of handshakes. An address that keeps failing is therefore let go slowly. Of IPv6 it is
//! the /64 network: whoever has one address there has them all.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::net::IpAddr;
use std::time::Instant;

use smol::future::or;

use crate::limits;
use crate::net::address::network;
use crate::net::stream::Stream;
use crate::pipes::crowd::Crowd;
use crate::runtime;
use crate::runtime::Numbered;

/// Whom this daemon has refused lately. One for all mappings.
#[derive(Default)]
pub struct Refusals {
    held: Crowd,
    recent: RefCell<Recent>,
}

/// The refusals of the addresses that were refused last.
#[derive(Default)]
struct Recent {
    next: u64,
    /// By address: the number of its last refusal, and when there were some.
    times: HashMap<IpAddr, (u64, VecDeque<Instant>)>,
    /// The addresses in the order of their last refusals.
    order: Numbered<IpAddr>,
}

impl Refusals {
    /// How many are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Closes a refused connection, writing nothing: at once, or after a while when its address
    /// has been refused often.
    pub async fn refuse(&self, stream: Stream, address: IpAddr) {
        if self.count(address, Instant::now()) > limits::REFUSALS_AT_ONCE {
            let place = self.held.replace(limits::REFUSALS_HELD);
            let hold = runtime::sleep(limits::REFUSAL_HOLD);
            // A peer that has gone is not held, and its file is free.
            let gone = poll_fn(|context| stream.poll_ended(context));
            or(hold, or(place.replaced(), gone)).await;
        }
        stream.close();
    }

    /// Counts one more refusal of `address`, or of its network; gives how many there were lately.
    /// No more are remembered than decide, and of no more addresses than
    /// [`limits::REFUSED_ADDRESSES`].
    fn count(&self, address: IpAddr, now: Instant) -> usize {
        let address = network(address);
        let recent = &mut *self.recent.borrow_mut();
        let number = recent.next;
        recent.next += 1;
        let mut times = match recent.times.remove(&address) {
            Some((last, times)) => {
                recent.order.remove(last);
                times
            }
            None => VecDeque::new(),
        };
        while times.front().is_some_and(|time| now.duration_since(*time) > limits::REFUSAL_WINDOW) {
            times.pop_front();
        }
        if times.len() > limits::REFUSALS_AT_ONCE {
            times.pop_front();
        }
        times.push_back(now);
        let count = times.len();
        if recent.times.len() >= limits::REFUSED_ADDRESSES {
            if let Some(oldest) = recent.order.pop_first() {
                recent.times.remove(&oldest);
            }
        }
        recent.times.insert(address, (number, times));
        recent.order.insert(number, address);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ipv6_strangers_are_counted_by_network() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let count = |address: &str| refusals.count(address.parse().unwrap(), now);
        for (address, expected) in [
            ("2001:db8:1:2::1", 1),
            ("2001:db8:1:2:ffff:ffff:ffff:ffff", 2),
            ("2001:db8:1:2::1", 3),
            ("2001:db8:1:3::1", 1),
            ("2001:db8::1:2:0:1", 1),
            ("::ffff:192.0.2.1", 1),
            ("::ffff:192.0.2.2", 1),
            ("192.0.2.1", 2),
        ] {
            assert_eq!(count(address), expected, "{address}");
        }
    }

    #[test]
    fn refusals_are_counted_by_address_over_a_window() {
        let refusals = Refusals::default();
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let start = Instant::now();
        for expected in [1, 2, 3, 4, 4] {
            assert_eq!(refusals.count(one, start), expected);
        }
        assert_eq!(refusals.count(two, start), 1);
        assert_eq!(refusals.count(one, start + Duration::from_secs(11)), 1);
    }

    #[test]
    fn whatever_happens_an_address_has_as_many_as_the_log_of_all_refusals_says() {
        for seed in 0..200 {
            let random = &mut fastrand::Rng::with_seed(seed);
            let (refusals, mut log) = (Refusals::default(), Vec::new());
            let mut now = Instant::now();
            for step in 0..300 {
                now += Duration::from_millis(random.u64(..4000));
                let address = IpAddr::from([192, 0, 2, random.u8(..3)]);
                log.push((address, now));
                let is_recent = |at: Instant| now - at <= limits::REFUSAL_WINDOW;
                let recent = log.iter().filter(|(whose, at)| *whose == address && is_recent(*at));
                let expected = recent.count().min(limits::REFUSALS_AT_ONCE + 1);
                assert_eq!(refusals.count(address, now), expected, "seed {seed}, step {step}");
            }
        }
    }

    #[test]
    fn only_so_many_addresses_are_remembered() {
        let refusals = Refusals::default();
        let again = IpAddr::from([192, 0, 2, 1]);
        for number in 0..5000u32 {
            refusals.count(IpAddr::from(number.to_be_bytes()), Instant::now());
            refusals.count(again, Instant::now());
        }
        // The one that was refused last is not among those forgotten.
        assert_eq!(refusals.count(again, Instant::now()), limits::REFUSALS_AT_ONCE + 1);
        let recent = refusals.recent.borrow();
        assert_eq!(recent.times.len(), limits::REFUSED_ADDRESSES);
        assert_eq!(recent.order.len(), limits::REFUSED_ADDRESSES);
    }
}
