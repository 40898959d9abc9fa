//! One session: two legs, bytes both ways, an ending, and what is left on its tunnel.

mod drain;
mod ending;
mod framed;
mod leg;
mod progress;
mod protocol;
mod relay;
mod residue;
mod settling;
mod told;
mod traffic;
mod want;

pub use drain::{Drain, Drained, Outcome};
pub use ending::{Ended, Ending};
pub use leg::Endpoint;
pub use progress::Silence;
pub use protocol::Protocol;
pub use relay::{Moving, Parting, Relay};
pub use residue::{Missing, Residue};
pub use settling::{Kept, Settling};
pub use told::tell_all;
pub use traffic::Traffic;
pub use want::Want;

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    /// A connection with many unread bytes and a reset behind them.
    pub(super) fn broken_behind_unread_bytes() -> TcpStream {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 4 << 20).unwrap();
        let mut agent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (connector, _) = listener.accept().unwrap();
        agent.set_nonblocking(true).unwrap();
        connector.set_nonblocking(true).unwrap();
        while agent.write(&[b'x'; 16 * 1024]).is_ok() {}
        let linger = Some(Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&agent, linger).unwrap();
        drop(agent);
        connector
    }
}
