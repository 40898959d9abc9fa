//! Who calls the API, and how.

use std::net::IpAddr;

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The Unix socket, which only the service's user and root can open.
    Local,
    /// A TCP connection from this address, IPv4 in its own form.
    Remote(IpAddr),
}

/// How a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    /// The authorities that say who may call have changed since the connection began.
    pub outdated: bool,
    /// TLS.
    pub secure: bool,
    /// The caller has connected to a loopback address.
    pub loopback: bool,
}
