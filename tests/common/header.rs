//! The PROXY protocol header of version 2, which tells an agent of its user (the HAProxy specification).

use std::net::{IpAddr, SocketAddr};

use super::Link;

/// What each of these headers begins with.
pub const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a PROXY header says.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    Local,
    Proxy { source: SocketAddr, destination: SocketAddr },
}

impl Header {
    /// Reads one, and not a byte more.
    #[track_caller]
    pub fn read(link: &mut Link) -> Self {
        let mut bytes = link.exactly(16);
        let length = u16::from_be_bytes([bytes[14], bytes[15]]);
        bytes.extend(link.exactly(length.into()));
        Self::of(&bytes)
    }

    /// What these bytes say, which are one header and nothing else.
    #[track_caller]
    pub fn of(bytes: &[u8]) -> Self {
        let (fixed, body) = bytes.split_at(16);
        assert_eq!(&fixed[..12], SIGNATURE);
        assert_eq!(usize::from(u16::from_be_bytes([fixed[14], fixed[15]])), body.len());
        let ip = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
            Ok(four) => IpAddr::from(four),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()),
        };
        let port = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
        let size = match (fixed[12], fixed[13]) {
            (0x20, _) => return Header::Local,
            (0x21, 0x11) => 4,
            (0x21, 0x21) => 16,
            other => panic!("{other:x?} in a PROXY header"),
        };
        assert_eq!(body.len(), 2 * size + 4);
        let ports = &body[2 * size..];
        Header::Proxy {
            source: SocketAddr::new(ip(&body[..size]), port(ports)),
            destination: SocketAddr::new(ip(&body[size..2 * size]), port(&ports[2..])),
        }
    }

    /// The bytes of one with the LOCAL command.
    pub fn local() -> Vec<u8> {
        [SIGNATURE, &[0x20, 0, 0, 0]].concat()
    }

    /// The bytes of one for this user, IPv4.
    pub fn proxy(source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Vec<u8> {
        let mut bytes = [SIGNATURE, &[0x21, 0x11, 0, 12]].concat();
        bytes.extend(source.0);
        bytes.extend(destination.0);
        bytes.extend(source.1.to_be_bytes());
        bytes.extend(destination.1.to_be_bytes());
        bytes
    }
}
