//! The listening socket of a pipe's port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::limits;

/// Opens `port` on `address`; `None` is `[::]` for both families, or `0.0.0.0` on a machine
/// without IPv6. Never on another address than the one asked for.
pub fn open(address: Option<IpAddr>, port: u16) -> Result<TcpListener, Errno> {
    let Some(address) = address else {
        return match open_at(Ipv6Addr::UNSPECIFIED.into(), port) {
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
                open_at(Ipv4Addr::UNSPECIFIED.into(), port)
            }
            outcome => outcome,
        };
    };
    open_at(address, port)
}

fn open_at(address: IpAddr, port: u16) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    if address.is_ipv6() {
        // net.ipv6.bindv6only may have made it IPv6 alone.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // A restart must not wait for the old connections' TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Accepted sockets inherit these, which saves six system calls per connection.
    set_up(&socket)?;
    bind(&socket, &SocketAddr::new(address, port))?;
    // Two sockets with SO_REUSEADDR can both bind; here the second one gets EADDRINUSE.
    listen(&socket, limits::BACKLOG)?;
    Ok(socket.into())
}

/// What every leg has: TCP_NODELAY, keepalive, and urgent data in line (protocol page, section 6).
pub fn set_up(socket: impl AsFd) -> Result<(), Errno> {
    let socket = socket.as_fd();
    // Otherwise the kernel takes the urgent byte out of the stream.
    sockopt::set_socket_oobinline(socket, true)?;
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, limits::KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, limits::KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, limits::KEEPALIVE_TRIES)
}
