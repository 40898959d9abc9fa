//! From `HOST:PORT` to a connected socket: what a `tunnel` does and the daemon never needs.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::ports::set_up;
use crate::reactor::{Io, until};
use crate::workers::aside;

/// A host, by name or address, and a port. An IPv6 address stands in brackets before the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The name or address, without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = |what: &str| format!("{text:?} {what}; HOST:PORT is expected");
        let (host, port) = text.rsplit_once(':').ok_or_else(|| fault("has no port"))?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(bare) if bare.parse::<std::net::Ipv6Addr>().is_ok() => bare,
            Some(_) => return Err(fault("has no IPv6 address in its brackets")),
            None if host.contains(':') => {
                return Err(fault("has an IPv6 address without brackets"));
            }
            None => host,
        };
        if host.is_empty() || host.len() > 253 || host.contains(|c: char| c.is_whitespace()) {
            return Err(fault("has no name or address before its port"));
        }
        match port.parse() {
            Ok(port @ 1..) => Ok(Address { host: host.to_owned(), port }),
            _ => Err(fault("has no port from 1 to 65535")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Connects to the first of the host's addresses that answers, by `deadline`.
///
/// # Errors
/// What the resolver says, or the last of the addresses tried.
pub async fn dial(address: &Address, deadline: Instant) -> io::Result<TcpStream> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let addresses = until(deadline, resolve(address)).await.ok_or_else(late)??;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (tried, one) in addresses.iter().enumerate() {
        // Each address has its share of what is left, so that a dead one does not hide the next.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match until(Instant::now() + share, connect(*one)).await {
            Some(Ok(socket)) => return Ok(socket),
            Some(Err(error)) => last = error,
            None => last = late(),
        }
    }
    Err(last)
}

async fn resolve(address: &Address) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = address.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, address.port)]);
    }
    let Address { host, port } = address.clone();
    aside(move || Ok((host.as_str(), port).to_socket_addrs()?.collect())).await
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    set_up(&socket)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let socket = Io::new(TcpStream::from(socket))?;
    std::future::poll_fn(|context| {
        socket.poll_write_with(context, |socket| match socket.take_error()? {
            Some(error) => Err(error),
            None => match socket.peer_addr() {
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                    Err(io::ErrorKind::WouldBlock.into())
                }
                result => result.map(drop),
            },
        })
    })
    .await?;
    let socket = socket.into_inner();
    // Where nobody listens on a port that the kernel gives to clients, a socket can meet itself.
    if socket.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;
    use crate::reactor::block_on;

    #[test]
    fn addresses_are_hosts_with_ports() {
        for (text, host, port) in [
            ("gateway.example:7000", "gateway.example", 7000),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("[2001:db8::1]:65535", "2001:db8::1", 65535),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(address.to_string(), text);
        }
        for (text, fault) in [
            ("gateway", "has no port"),
            ("gateway:", "has no port from 1 to 65535"),
            ("gateway:0", "has no port from 1 to 65535"),
            ("gateway:65536", "has no port from 1 to 65535"),
            (":80", "has no name or address"),
            ("a b:80", "has no name or address"),
            ("2001:db8::1:80", "without brackets"),
            ("[gateway]:80", "no IPv6 address in its brackets"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(fault), "{text}: {error}");
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn dials_names_and_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost"] {
            let address = Address { host: host.into(), port };
            let socket = block_on(dial(&address, soon())).unwrap().unwrap();
            assert_eq!(socket.peer_addr().unwrap().port(), port);
            assert!(socket.nodelay().unwrap());
        }
        drop(listener);
        let address = Address { host: "localhost".into(), port };
        let error = block_on(dial(&address, soon())).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
