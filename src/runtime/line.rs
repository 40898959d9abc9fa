//! The line for handshakes: turns go round the ports, and round the addresses of each port, so that
//! a flood of one port delays that port's newcomers, and of these mostly those from its own
//! address.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::numbered::Numbered;

/// Those that wait for one of the handshakes that may be on at one time.
pub struct Line {
    free: Cell<usize>,
    ports: RefCell<Numbered<Port>>,
    next: Cell<u64>,
    /// The port that had the last turn.
    last: Cell<u64>,
}

/// Those of one port, by address and order of arrival. A tree would be 7 KB of the program; few wait,
/// and for a handshake, which takes longer than moving a list of thousands by one place.
struct Port {
    last: IpAddr,
    waiting: Vec<((IpAddr, u64), Rc<Ticket>)>,
}

impl Port {
    /// Where those behind `key` begin.
    fn behind(&self, key: (IpAddr, u64)) -> usize {
        self.waiting.partition_point(|(other, _)| *other <= key)
    }
}

#[derive(Default)]
struct Ticket {
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A place in the line, and later a handshake of the line's; given back when dropped.
pub struct Permit<'a> {
    line: &'a Line,
    port: u64,
    key: (IpAddr, u64),
    ticket: Rc<Ticket>,
}

impl Line {
    /// A line for `free` handshakes at one time.
    pub fn new(free: usize) -> Self {
        Line {
            free: Cell::new(free),
            ports: RefCell::default(),
            next: Cell::new(0),
            last: Cell::new(0),
        }
    }

    /// Waits for the turn of somebody from `address` at `port`.
    pub async fn wait(&self, port: u16, address: IpAddr) -> Permit<'_> {
        let permit = self.join(port, address);
        poll_fn(|context| {
            if permit.has_turn() {
                return Poll::Ready(());
            }
            permit.ticket.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
        permit
    }

    /// Stands in line, or has a turn at once where one is free.
    pub fn join(&self, port: u16, address: IpAddr) -> Permit<'_> {
        let key = (address, self.next.get());
        self.next.set(key.1 + 1);
        let ticket = Rc::new(Ticket::default());
        let number = u64::from(port);
        let permit = Permit { line: self, port: number, key, ticket: ticket.clone() };
        if self.free.get() > 0 {
            self.free.set(self.free.get() - 1);
            ticket.granted.set(true);
        } else {
            let mut ports = self.ports.borrow_mut();
            match ports.get_mut(number) {
                Some(port) => {
                    let place = port.behind(key);
                    port.waiting.insert(place, (key, ticket));
                }
                None => {
                    let (last, waiting) = (Ipv4Addr::UNSPECIFIED.into(), vec![(key, ticket)]);
                    ports.insert(number, Port { last, waiting });
                }
            }
        }
        permit
    }

    /// Passes the permit of a finished handshake on to the next in turn.
    fn pass_on(&self) {
        match self.take_next() {
            Some(ticket) => {
                ticket.granted.set(true);
                if let Some(waker) = ticket.waker.take() {
                    waker.wake();
                }
            }
            None => self.free.set(self.free.get() + 1),
        }
    }

    fn take_next(&self) -> Option<Rc<Ticket>> {
        let mut ports = self.ports.borrow_mut();
        let number = ports.after(self.last.get()).or_else(|| ports.first())?;
        self.last.set(number);
        let port = ports.get_mut(number)?;
        let after = port.behind((port.last, u64::MAX));
        // A port without anybody is not kept.
        let place = if after < port.waiting.len() { after } else { 0 };
        let ((address, _), ticket) = port.waiting.remove(place);
        port.last = address;
        if port.waiting.is_empty() {
            ports.remove(number);
        }
        Some(ticket)
    }
}

impl Permit<'_> {
    /// Whether it is its turn.
    pub fn has_turn(&self) -> bool {
        self.ticket.granted.get()
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.ticket.granted.get() {
            return self.line.pass_on();
        }
        let mut ports = self.line.ports.borrow_mut();
        if let Some(port) = ports.get_mut(self.port) {
            port.waiting.retain(|(key, _)| *key != self.key);
            if port.waiting.is_empty() {
                ports.remove(self.port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[test]
    fn turns_go_around_the_ports_and_around_their_addresses() {
        let line = Line::new(1);
        let first = line.join(1000, address(1));
        assert!(first.ticket.granted.get());
        let flood: Vec<_> = (0..3).map(|_| line.join(1000, address(1))).collect();
        let neighbour = line.join(1000, address(2));
        let elsewhere = line.join(2000, address(1));
        let all = [&flood[0], &flood[1], &flood[2], &neighbour, &elsewhere];
        let granted = || all.map(|place| place.ticket.granted.get());
        drop(first);
        assert_eq!(granted(), [true, false, false, false, false]);
        line.pass_on();
        assert_eq!(granted(), [true, false, false, false, true], "the other port");
        line.pass_on();
        assert_eq!(granted(), [true, false, false, true, true], "the other address");
        line.pass_on();
        assert_eq!(granted(), [true, true, false, true, true], "then in order of arrival");
    }

    #[test]
    fn who_leaves_the_line_is_passed_over_and_who_has_had_its_turn_gives_it_back() {
        let line = Line::new(1);
        let first = line.join(1, address(1));
        let leaves = line.join(1, address(1));
        let last = line.join(1, address(1));
        drop(leaves);
        drop(first);
        assert!(last.has_turn());
        drop(last);
        assert_eq!(line.free.get(), 1);
        assert!(line.ports.borrow().is_empty());
    }
}
