//! The port pool: the ports that mappings may use. A [`Lease`] is one of them, bound and
//! listening; dropping it closes the port and gives it back.
//!
//! A port is taken from the front and given back at the back, so that one just released is the
//! last to be handed out again: an agent or user of the old mapping that still knows it meets
//! nobody else's.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use rustix::io::Errno;

use crate::os::{FileGuard, Files, For};
use set::PortSet;

pub use error::{PortError, api_fault};

mod error;
mod set;

/// The ports that mappings may use. Lives on the control thread; cheap to clone, every clone is
/// the same pool.
#[derive(Clone, Debug)]
pub struct Pool {
    state: Rc<RefCell<State>>,
    listen: Option<IpAddr>,
    files: Arc<Files>,
    /// Listening sockets of the daemon whose place this one takes, not used yet.
    inherited: Rc<RefCell<Vec<TcpListener>>>,
}

/// Opens a listening socket that belongs to no pool, with the same options. `[::]` is
/// every interface of both families, or `0.0.0.0` on a machine without IPv6.
///
/// # Errors
/// As `bind(2)`.
pub fn open_listener(address: SocketAddr) -> io::Result<TcpListener> {
    Ok(crate::net::socket::open(specific(address.ip()), address.port())?)
}

/// `None` for every interface of both families.
fn specific(ip: IpAddr) -> Option<IpAddr> {
    Some(ip).filter(|ip| *ip != IpAddr::from([0u16; 8]))
}

/// No borrow of this is held across a call out of this module.
#[derive(Debug)]
struct State {
    allowed: PortSet,
    /// Allowed, not leased and no stored mapping's, the next one first.
    free: VecDeque<u16>,
    leased: PortSet,
    /// Stored mappings' own, whether these have them or not: each is handed out to nobody else.
    owned: PortSet,
    /// Once for each further mapping that has the same one.
    owned_again: Vec<u16>,
    /// The sockets of those that are leased.
    open: Vec<Weak<TcpListener>>,
}

/// A port of the pool, bound and listening.
///
/// The socket is non-blocking and closed on exec; what it accepts has TCP_NODELAY and keepalive
/// (protocol page, section 6), which Linux hands on from the listening socket. Dropping it closes
/// the socket, then returns the port to the back of the pool.
#[derive(Debug)]
pub struct Lease {
    // Fields drop in this order: the port must be closed when it is handed out again.
    listener: Rc<TcpListener>,
    _file: FileGuard,
    port: Leased,
}

/// What returns the port.
#[derive(Debug)]
struct Leased(PoolPort);

/// A port and its pool.
#[derive(Debug)]
struct PoolPort {
    port: u16,
    state: Rc<RefCell<State>>,
}

/// That a port belongs to a stored mapping, so that [`Pool::lease`] leaves it out, also while it is
/// not open. Dropping it ends that.
#[derive(Debug)]
pub struct Owned(PoolPort);

impl Pool {
    /// A pool of these ports, handed out in their order. They are opened on `listen`; `None` is
    /// every interface, both families (IPv4 alone where there is no IPv6). 0 is no port and is
    /// left out; a port given twice counts once. Each one that is open takes one of `files`.
    pub fn new(ports: &[u16], listen: Option<IpAddr>, files: Arc<Files>) -> Self {
        let state = State {
            allowed: PortSet::default(),
            free: VecDeque::new(),
            leased: PortSet::default(),
            owned: PortSet::default(),
            owned_again: Vec::new(),
            open: Vec::new(),
        };
        let inherited = Rc::default();
        let pool = Pool { state: Rc::new(RefCell::new(state)), listen, files, inherited };
        pool.replace(ports);
        pool
    }

    /// Takes over the listening sockets of the daemon whose place this one takes: where one is to be opened that is
    /// among them, it is taken from there.
    pub fn inherit(&self, ports: Vec<TcpListener>) {
        self.inherited.replace(ports);
    }

    /// What was inherited and is not used by now is closed.
    pub fn settle(&self) {
        self.inherited.take();
    }

    /// Opens a listening socket that belongs to no mapping, as [`open_listener`] does: the API's.
    ///
    /// # Errors
    /// As `bind(2)`.
    pub fn open_apart(&self, address: SocketAddr) -> io::Result<TcpListener> {
        Ok(self.open(specific(address.ip()), address.port())?)
    }

    fn open(&self, ip: Option<IpAddr>, port: u16) -> Result<TcpListener, Errno> {
        let is_it = |listener: &TcpListener| {
            listener.local_addr().is_ok_and(|address| {
                address.port() == port
                    && ip.map_or(address.ip().is_unspecified(), |ip| ip == address.ip())
            })
        };
        let inherited = &mut *self.inherited.borrow_mut();
        match inherited.iter().position(is_it) {
            Some(place) => Ok(inherited.swap_remove(place)),
            None => crate::net::socket::open(ip, port),
        }
    }

    /// The listening sockets of all mappings at this moment, for a daemon that takes this one's place.
    pub fn listeners(&self) -> Vec<Rc<TcpListener>> {
        self.state.borrow().open.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether a listening socket of this port, at whatever address, was inherited and is not used yet.
    pub fn has_inherited(&self, port: u16) -> bool {
        let is_it = |listener: &TcpListener| {
            listener.local_addr().is_ok_and(|address| address.port() == port)
        };
        self.inherited.borrow().iter().any(is_it)
    }

    /// Opens the next free port. A port that another program holds, or that this user may not
    /// open, goes to the back and the next one is tried.
    ///
    /// # Errors
    /// [`PortError::Exhausted`] or [`PortError::NoneOpened`].
    pub fn lease(&self) -> Result<Lease, PortError> {
        let most = self.available();
        if most == 0 {
            return Err(PortError::Exhausted);
        }
        let file = self.file()?;
        let mut outcome = Err(PortError::Exhausted);
        for tried in 1..=most {
            let Some(port) = self.state.borrow_mut().free.pop_front() else { break };
            match self.open(self.listen, port) {
                Ok(listener) => return Ok(self.leased(port, listener, file)),
                Err(error) => {
                    outcome = Err(PortError::NoneOpened { tried, port, error });
                    let state = &mut *self.state.borrow_mut();
                    if !matches!(error, Errno::ADDRINUSE | Errno::ACCESS | Errno::PERM) {
                        // Not this port's fault (no file descriptor, no such address).
                        state.free.push_front(port);
                        break;
                    }
                    state.free.push_back(port);
                }
            }
        }
        outcome
    }

    /// Opens a port that is wanted for a new mapping.
    ///
    /// # Errors
    /// As [`lease_port`](Pool::lease_port); also for a port that a stored mapping has and could not open.
    pub fn lease_free(&self, port: u16) -> Result<Lease, PortError> {
        if self.state.borrow().owned.contains(port) {
            return Err(PortError::Leased(port));
        }
        self.lease_port(port)
    }

    /// Opens the port of a stored mapping.
    ///
    /// # Errors
    /// [`PortError::OutsidePool`], [`PortError::Leased`], [`PortError::Taken`],
    /// [`PortError::NoFiles`] or [`PortError::Failed`]; the pool is as before.
    pub fn lease_port(&self, port: u16) -> Result<Lease, PortError> {
        {
            let state = self.state.borrow();
            if state.leased.contains(port) {
                return Err(PortError::Leased(port));
            }
            if !state.allowed.contains(port) {
                return Err(PortError::OutsidePool(port));
            }
        }
        let file = self.file()?;
        let listener = self.open(self.listen, port).map_err(|error| match error {
            Errno::ADDRINUSE => PortError::Taken(port),
            error => PortError::Failed { port, error },
        })?;
        self.state.borrow_mut().take_out(port);
        Ok(self.leased(port, listener, file))
    }

    /// Keeps the port of a stored mapping for it alone.
    pub fn own(&self, port: u16) -> Owned {
        let state = &mut *self.state.borrow_mut();
        state.take_out(port);
        if !state.owned.insert(port) {
            state.owned_again.push(port);
        }
        Owned(PoolPort { port, state: self.state.clone() })
    }

    fn file(&self) -> Result<FileGuard, PortError> {
        self.files.try_take(For::Listener).ok_or_else(|| PortError::NoFiles {
            used: self.files.used(),
            limit: self.files.limit(),
            ports: self.files.most_listeners(),
        })
    }

    /// Ports that belong to no mapping. Other programs may hold some of them.
    pub fn available(&self) -> usize {
        self.state.borrow().free.len()
    }

    /// Replaces the pool's ports. Leases live on; one whose port is no longer in the pool just does
    /// not return it. Stored mappings' own ports stay theirs. Free ports that stay keep their turn,
    /// new ones come before them, since nobody has just used those.
    pub fn replace(&self, ports: &[u16]) {
        let state = &mut *self.state.borrow_mut();
        let known = std::mem::take(&mut state.allowed);
        let mut added = Vec::new();
        for &port in ports.iter().filter(|port| **port != 0) {
            let new = state.allowed.insert(port);
            if new && !known.contains(port) && !state.is_in_use(port) {
                added.push(port);
            }
        }
        state.free.retain(|port| state.allowed.contains(*port));
        for port in added.into_iter().rev() {
            state.free.push_front(port);
        }
    }

    /// A sentence for the operator where leases live on whose ports are no longer in the pool.
    pub fn outside(&self) -> Option<String> {
        let state = self.state.borrow();
        let ports = state.leased.without(&state.allowed);
        if ports.is_empty() {
            return None;
        }
        let mut named: Vec<_> = ports.iter().take(5).map(|port| port.to_string()).collect();
        if let Some(more @ 1..) = ports.len().checked_sub(named.len()) {
            named.push(format!("and {more} more"));
        }
        Some(format!(
            "\"ports\" in the settings no longer contains ports of mappings: {}; they stay open until a \
             restart and would be inactive then: add them to \"ports\", take them out of \
             \"exclude\", or remove the mappings",
            named.join(", ")
        ))
    }

    fn leased(&self, port: u16, listener: TcpListener, file: FileGuard) -> Lease {
        let listener = Rc::new(listener);
        {
            let state = &mut *self.state.borrow_mut();
            state.leased.insert(port);
            state.open.push(Rc::downgrade(&listener));
        }
        let leased = Leased(PoolPort { port, state: self.state.clone() });
        Lease { listener, _file: file, port: leased }
    }
}

impl Lease {
    /// The port.
    pub fn port(&self) -> u16 {
        self.port.0.port
    }

    /// The listening socket, to accept from. It must not outlive the lease: a `try_clone` would
    /// keep the port open while the pool hands it out again.
    pub fn listener(&self) -> &TcpListener {
        &self.listener
    }
}

impl State {
    fn is_in_use(&self, port: u16) -> bool {
        self.leased.contains(port) || self.owned.contains(port)
    }

    /// Takes a port out of the free ones, where it is among them.
    fn take_out(&mut self, port: u16) {
        if !self.is_in_use(port) {
            // Ports are handed out from the front, so that a start finds stored ones there.
            let place = self.free.iter().position(|free| *free == port);
            place.and_then(|place| self.free.remove(place));
        }
    }

    fn give_back(&mut self, port: u16) {
        if self.allowed.contains(port) && !self.is_in_use(port) {
            self.free.push_back(port);
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        let PoolPort { port, state } = &self.0;
        let state = &mut *state.borrow_mut();
        state.leased.remove(*port);
        state.open.retain(|open| open.strong_count() > 0);
        state.give_back(*port);
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let PoolPort { port, state } = &self.0;
        let state = &mut *state.borrow_mut();
        match state.owned_again.iter().position(|again| again == port) {
            Some(again) => drop(state.owned_again.swap_remove(again)),
            None => {
                state.owned.remove(*port);
                state.give_back(*port);
            }
        }
    }
}

#[cfg(test)]
mod tests;
