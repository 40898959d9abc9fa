//! How many users of one address a pipe has, waiting and served. They are counted always, so that the
//! mapping's `usersperaddress` holds from when it is set, those included that were there before.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use crate::net::address::network_number;
use crate::runtime::Numbered;

/// The users of each address: an IPv4 address or an IPv6 /64.
#[derive(Clone, Default)]
pub struct PerAddress(Rc<RefCell<Numbered<u32>>>);

/// One user of an address; one less when dropped.
pub struct OfAddress {
    network: u64,
    all: PerAddress,
}

impl PerAddress {
    /// One more user from `address`; `None` if there are as many as may be, where there is a limit.
    pub fn take(&self, address: IpAddr, most: Option<u16>) -> Option<OfAddress> {
        let network = network_number(address);
        let mut all = self.0.borrow_mut();
        let count = all.get(network).copied().unwrap_or_default();
        if most.is_some_and(|most| count >= u32::from(most)) {
            return None;
        }
        all.insert(network, count + 1);
        Some(OfAddress { network, all: self.clone() })
    }
}

#[cfg(test)]
impl PerAddress {
    /// How many there are in all.
    pub fn count(&self) -> usize {
        self.0.borrow().iter().map(|(_, count)| *count as usize).sum()
    }
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        let mut all = self.all.0.borrow_mut();
        if let Some(count @ 2..) = all.remove(self.network) {
            all.insert(self.network, count - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_so_many_and_each_that_goes_makes_room() {
        let all = PerAddress::default();
        let take = |address: &str| all.take(address.parse().unwrap(), Some(2));
        let before = all.take("192.0.2.9".parse().unwrap(), None);
        assert!(
            all.take("192.0.2.9".parse().unwrap(), Some(1)).is_none(),
            "counted before the limit"
        );
        drop(before);
        let (one, _two) = (take("192.0.2.1"), take("192.0.2.1"));
        assert!(one.is_some() && take("192.0.2.1").is_none() && take("192.0.2.2").is_some());
        drop(one);
        let again = take("::ffff:192.0.2.1");
        assert!(again.is_some() && take("192.0.2.1").is_none());
        let _six = (take("2001:db8:1:2::1"), take("2001:db8:1:2::2"));
        assert!(take("2001:db8:1:2::3").is_none() && take("2001:db8:1:3::1").is_some());
        drop((again, _two));
        assert_eq!(all.0.borrow().len(), 1);
    }
}
