//! What the kernel knows about bytes that a peer has not acknowledged, and about the path to it.
//!
//! Linux tells it in `TCP_INFO` only, which no safe wrapper offers.
//! And where the peer is.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::limits;

/// Bytes on their way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unacknowledged {
    /// Packets sent and bytes not sent yet; 0 when nothing waits.
    pub packets: u64,
    /// Time since the peer's last acknowledgement.
    pub silent_for: Duration,
    /// Bytes acknowledged since the connection began.
    pub acknowledged: u64,
    /// Whether any of the packets are on their way, not only kept back by a shut window.
    pub in_flight: bool,
    /// Probes of a closed window that were not answered since the last one that was.
    pub probes: u8,
}

impl Unacknowledged {
    /// Whether the peer owes an acknowledgement. While its window is shut it is asked in times
    /// that double up to two minutes, and its silence between them says nothing; a single question
    /// may get lost.
    pub fn is_owed(&self) -> bool {
        self.in_flight || self.probes >= limits::PROBES_LOST
    }
}

/// The part of the kernel's `struct tcp_info` (linux/tcp.h) up to `tcpi_notsent_bytes`; the
/// layout is an interface of the kernel and the same on every processor.
const SIZE: usize = 148;
/// The part that all kernels since 2.6 give; anything shorter is no answer.
const OLDEST: usize = 104;
const PROBES: usize = 3;
const UNACKED: usize = 24;
const LAST_DATA_RECV: usize = 52;
const LAST_ACK_RECV: usize = 56;
const ROUND_TRIP: usize = 68;
const BYTES_ACKED: usize = 120;
const NOTSENT_BYTES: usize = 144;

/// Asks the kernel about `socket`. Kernels before 4.6 do not count unsent bytes,
/// those before 4.1 no acknowledged ones. Where the answer is short (qemu-user hands on four bytes of
/// it), the bytes that wait are all that is known, and `packets` counts them.
///
/// # Errors
/// As `getsockopt(2)` and `ioctl(2)`.
pub fn ask(socket: &TcpStream) -> io::Result<Unacknowledged> {
    ask_for(socket, SIZE)
}

/// As [`ask`], for the first `size` bytes of the kernel's struct.
fn ask_for(socket: &TcpStream, size: usize) -> io::Result<Unacknowledged> {
    let Some(info) = tcp_info(socket, size)? else {
        return Ok(Unacknowledged {
            packets: waiting(socket)?,
            silent_for: Duration::ZERO,
            acknowledged: 0,
            in_flight: false,
            probes: 0,
        });
    };
    let word = |at: usize| word(&info, at);
    // A 64-bit number of the kernel's, whose halves lie in the processor's order.
    let (one, two) = (word(BYTES_ACKED).into(), word(BYTES_ACKED + 4).into());
    let (low, high): (u64, u64) =
        if cfg!(target_endian = "little") { (one, two) } else { (two, one) };
    Ok(Unacknowledged {
        packets: u64::from(word(UNACKED)) + u64::from(word(NOTSENT_BYTES)),
        silent_for: Duration::from_millis(word(LAST_ACK_RECV).into()),
        acknowledged: high << 32 | low,
        in_flight: word(UNACKED) > 0,
        probes: info[PROBES],
    })
}

/// The round trip to the peer as the kernel has measured it, first while it was connecting; zero
/// where it cannot be told.
pub fn round_trip(socket: &TcpStream) -> Duration {
    round_trip_and_silence(socket).0
}

/// The [`round_trip`], and the time since something last came from the peer, or since it connected; zero
/// where it cannot be told.
pub fn round_trip_and_silence(socket: &TcpStream) -> (Duration, Duration) {
    let info = tcp_info(socket, SIZE).ok().flatten();
    let number = |at| info.as_ref().map_or(0, |info| word(info, at).into());
    (Duration::from_micros(number(ROUND_TRIP)), Duration::from_millis(number(LAST_DATA_RECV)))
}

fn word(info: &[u8; SIZE], at: usize) -> u32 {
    u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]])
}

fn tcp_info(socket: &TcpStream, size: usize) -> io::Result<Option<[u8; SIZE]>> {
    let (info, length) = option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, size)?;
    Ok((length >= OLDEST).then_some(info))
}

/// Where the peer is; `None` where that cannot be told, as once the connection is gone. Asked for as an option, since
/// that call is among those that the cage allows anyway.
pub fn peer(socket: &TcpStream) -> Option<SocketAddr> {
    // struct sockaddr_in and sockaddr_in6: family, port, then the address, behind a flow for IPv6. The kernel refuses to
    // tell more than there is.
    let ask = |size| Some(option(socket, libc::SOL_SOCKET, libc::SO_PEERNAME, size).ok()?.0);
    let found = ask(8)?;
    let port = u16::from_be_bytes([found[2], found[3]]);
    let ip: IpAddr = match i32::from(u16::from_ne_bytes([found[0], found[1]])) {
        libc::AF_INET => <[u8; 4]>::try_from(&found[4..8]).ok()?.into(),
        libc::AF_INET6 => <[u8; 16]>::try_from(&ask(24)?[8..24]).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

/// An option of a socket: its bytes, zeros behind them, and how many of them there are; `size` at most.
#[expect(unsafe_code, reason = "these options have no safe wrappers")]
fn option(
    socket: &TcpStream,
    level: libc::c_int,
    name: libc::c_int,
    size: usize,
) -> io::Result<([u8; SIZE], usize)> {
    let mut value = [0u8; SIZE];
    let mut length = size.min(SIZE) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`, which is at least that long, and
    // any bytes are a valid array.
    let result = unsafe {
        let value = value.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), level, name, value, &mut length)
    };
    if result == 0 { Ok((value, length as usize)) } else { Err(io::Error::last_os_error()) }
}

/// Bytes written that the peer has not acknowledged; this side's end that was not acknowledged counts as one.
///
/// # Errors
/// As `ioctl(2)`.
#[expect(unsafe_code, reason = "SIOCOUTQ has no safe wrapper")]
pub fn waiting(socket: &TcpStream) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one `int`, which `bytes` is. SIOCOUTQ is the same number.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    if result == 0 { Ok(bytes.max(0) as u64) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    #[test]
    fn silence_between_questions_after_a_shut_window_is_not_held_against_the_peer() {
        let tcp = |in_flight, probes| Unacknowledged {
            packets: 1,
            silent_for: Duration::from_secs(90),
            acknowledged: 0,
            in_flight,
            probes,
        };
        let owed = [(false, 0), (false, 1), (false, 2), (true, 0)];
        assert_eq!(
            owed.map(|(on_way, lost)| tcp(on_way, lost).is_owed()),
            [false, false, true, true]
        );
    }

    #[test]
    fn unread_bytes_are_not_unacknowledged_ones_until_the_window_is_shut() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_two, _) = listener.accept().unwrap();
        assert_eq!(ask(&one).unwrap().packets, 0);
        let round_trip = round_trip(&one);
        assert!(!round_trip.is_zero() && round_trip < Duration::from_secs(10), "{round_trip:?}");
        one.set_nonblocking(true).unwrap();
        while one.write(&[0; 65536]).is_ok() {}
        let shut = ask(&one).unwrap();
        assert!(shut.packets > 0);
        assert!(shut.silent_for < Duration::from_secs(60));
    }

    #[test]
    fn peer_is_where_the_standard_library_says_in_ipv4_and_ipv6() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (two, from) = listener.accept().unwrap();
            assert_eq!((peer(&one), peer(&two)), (one.peer_addr().ok(), Some(from)));
        }
    }

    #[test]
    fn short_answer_is_no_sign_that_nothing_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_two, _) = listener.accept().unwrap();
        assert_eq!(ask_for(&one, 4).unwrap().packets, 0);
        one.set_nonblocking(true).unwrap();
        while one.write(&[0; 65536]).is_ok() {}
        assert!(ask_for(&one, 4).unwrap().packets > 0);
        assert!(ask_for(&one, OLDEST - 1).unwrap().packets > 0);
    }
}
