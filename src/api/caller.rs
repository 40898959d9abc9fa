//! Who calls the API, and by which way.

use std::net::IpAddr;

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The Unix socket, which only the service's user and root can open.
    Local,
    /// A TCP connection from this address, IPv4 in its own form.
    Remote(IpAddr),
}

/// What a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    /// Other authorities than those at its beginning say now who may call.
    pub outdated: bool,
    /// TLS.
    pub secure: bool,
    /// The caller has connected to a loopback address.
    pub loopback: bool,
}
