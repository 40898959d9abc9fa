//! The PROXY protocol's header: as the connector writes it, and as an agent finds it in what
//! comes over a waiting tunnel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use iofog_connector::fuzzing::{header, limits, understand};

use crate::input::{Choices, Random, pieces};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

pub(crate) fn check(data: &[u8]) -> bool {
    let mut choices = Choices::new(data);
    let mut random = Random::of(data);
    let kind = choices.byte();
    if kind % 4 == 0 {
        check_input(choices.rest(), &mut random);
        return true;
    }
    let user = (kind % 4 != 1).then(|| (address(&mut choices), address(&mut choices)));
    let written = header(user);
    assert_eq!(read(&written), Some((written.len(), user.map(|user| canonical(user.0, user.1)))));
    assert!(written.len() <= 52);
    // Behind heartbeats' answers and before the session's bytes.
    let beats = b"BEAT".repeat(usize::from(choices.byte() % 4));
    let session = choices.rest();
    let all = [&beats[..], &written, session].concat();
    for longest in [all.len(), 1, 7] {
        let (mut input, mut found) = (Vec::new(), None);
        for piece in pieces(&all, longest, &mut random) {
            input.extend_from_slice(piece);
            if found.is_none() {
                found = understand(&mut input).expect("a good header");
            }
        }
        assert_eq!(found.as_ref(), Some(&written));
        assert_eq!(input, session);
    }
    true
}

/// Anything at all: a header that is found is one, and pieces change nothing.
fn check_input(all: &[u8], random: &mut Random) {
    let outcome = |longest: usize, random: &mut Random| {
        let mut input = Vec::new();
        let mut outcome = Ok(None);
        for piece in pieces(all, longest, random) {
            input.extend_from_slice(piece);
            if outcome == Ok(None) {
                outcome = understand(&mut input);
            }
        }
        if outcome == Ok(None) {
            assert!(input.len() <= limits::PROXY_HEADER, "{} bytes wait", input.len());
        }
        (outcome, input)
    };
    let (whole, rest) = outcome(all.len(), random);
    if let Ok(Some(found)) = &whole {
        assert!(read(found).is_some_and(|(length, _)| length == found.len()), "{found:02x?}");
        assert!(all.ends_with(&rest));
    }
    for longest in [1, 9] {
        let (again, after) = outcome(longest, random);
        assert_eq!(again, whole);
        if matches!(whole, Ok(Some(_))) {
            assert_eq!(after, rest);
        }
    }
}

fn address(choices: &mut Choices<'_>) -> SocketAddr {
    let port = choices.word();
    let ip: IpAddr = match choices.byte() % 3 {
        0 => Ipv4Addr::from(choices.array::<4>()).into(),
        1 => Ipv6Addr::from(choices.array::<16>()).into(),
        _ => Ipv4Addr::from(choices.array::<4>()).to_ipv6_mapped().into(),
    };
    SocketAddr::new(ip, port)
}

/// What the other end must be told: both addresses of one family.
fn canonical(source: SocketAddr, destination: SocketAddr) -> [SocketAddr; 2] {
    let both = [source, destination]
        .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
    if both[0].is_ipv4() == both[1].is_ipv4() {
        return both;
    }
    both.map(|address| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    })
}

/// A strict reader of the headers that the specification knows: the length in all, and the
/// addresses of the PROXY command over TCP.
fn read(bytes: &[u8]) -> Option<(usize, Option<[SocketAddr; 2]>)> {
    let rest = bytes.strip_prefix(SIGNATURE)?;
    let (&[command, family, high, low], rest) = rest.split_first_chunk::<4>()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let body = rest.get(..length)?;
    let total = SIGNATURE.len() + 4 + length;
    let port = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    match (command, family) {
        (0x20, _) => Some((total, None)),
        (0x21, 0x11) => {
            let ip = |at: usize| {
                let bytes: [u8; 4] = body.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes))
            };
            let source = SocketAddr::from((ip(0)?, port(8)?));
            Some((total, Some([source, SocketAddr::from((ip(4)?, port(10)?))])))
        }
        (0x21, 0x21) => {
            let ip = |at: usize| {
                let bytes: [u8; 16] = body.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(bytes))
            };
            let source = SocketAddr::from((ip(0)?, port(32)?));
            Some((total, Some([source, SocketAddr::from((ip(16)?, port(34)?))])))
        }
        // Unspecified, datagrams, Unix sockets.
        (0x21, _) if family >> 4 <= 3 && family & 15 <= 2 => Some((total, None)),
        _ => None,
    }
}
