//! What the peer has acknowledged, as the kernel knows it.

use std::time::Duration;

use super::{State, Stream};
use crate::limits;
use crate::net::conduit::Conduit;
use crate::net::stall::Acknowledged;
use crate::net::tcp_info;
use crate::runtime::now;

impl Stream {
    /// Whether the peer's machine has all that was sent to it.
    pub fn has_arrived(&self) -> bool {
        self.waiting() == 0 && tcp_info::ask(self.socket()).is_ok_and(|tcp| tcp.packets == 0)
    }

    /// Whether bytes of a session wait in the kernel for a slow peer that has acknowledged some since last asked.
    /// What was sent [aside](Stream::queue_aside) is none.
    pub fn is_draining(&mut self) -> bool {
        let Ok(tcp) = tcp_info::ask(self.socket()) else { return false };
        let before = std::mem::replace(&mut self.state.acknowledged, tcp.acknowledged);
        tcp.packets > 0 && tcp.acknowledged != before && self.owes_bytes()
    }

    /// Whether the peer has not acknowledged all of a session's bytes.
    fn owes_bytes(&self) -> bool {
        let State { tls, rest, sent, conduit, aside, .. } = &self.state;
        let in_conduit = conduit.as_ref().map_or(0, Conduit::holds);
        let in_kernel = tcp_info::waiting(self.socket()).unwrap_or(u64::MAX) as usize;
        let sealed = tls.as_ref().map_or(0, |tls| tls.waiting());
        let here = in_conduit + rest.len() - sent + sealed;
        aside.is_exceeded_by(in_kernel.saturating_add(here))
    }

    /// Has the kernel ask the peer whether it still knows of this connection once it has been
    /// silent for so long, which may be now. Only a courtesy: failing changes nothing.
    pub fn keep_alive_after(&self, idle: Duration) {
        let _ = rustix::net::sockopt::set_tcp_keepidle(self.socket(), idle);
    }

    /// The round trip to the peer as the kernel has measured it; zero where it cannot be told.
    pub fn round_trip(&self) -> Duration {
        tcp_info::round_trip(self.socket())
    }
}

impl Acknowledged for Stream {
    fn may_stall(&self) -> bool {
        self.state.waiting_since.is_some()
    }

    fn is_stalled(&mut self) -> bool {
        let Some(since) = self.state.waiting_since else { return false };
        let Ok(tcp) = tcp_info::ask(self.socket()) else { return false };
        if tcp.packets == 0 && self.state.queued == 0 {
            self.state.waiting_since = None;
            return false;
        }
        let now = now();
        let acknowledged = now.checked_sub(tcp.silent_for).unwrap_or(now);
        tcp.is_owed()
            && now.saturating_duration_since(since.max(acknowledged)) >= limits::UNACKNOWLEDGED
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use rustix::net::sockopt;

    use super::super::receive::tests::ends;
    use super::*;
    use crate::runtime::{block_on, sleep};

    /// Takes some of what has come, until this end's kernel knows.
    async fn take_some(stream: &mut Stream, there: &mut TcpStream) {
        let before = tcp_info::ask(stream.socket()).unwrap().acknowledged;
        let late = Instant::now() + Duration::from_secs(30);
        let mut taken = 0;
        while tcp_info::ask(stream.socket()).unwrap().acknowledged == before || taken < 20_000 {
            taken += there.read(&mut [0; 4096]).unwrap_or(0);
            let _ = smol::future::poll_once(stream.flush()).await;
            sleep(Duration::from_millis(1)).await;
            assert!(Instant::now() < late, "nothing is acknowledged");
        }
        assert!(tcp_info::ask(stream.socket()).unwrap().packets > 0, "more is on its way");
    }

    #[test]
    fn who_takes_heartbeats_alone_is_not_draining() {
        block_on(async {
            for (tls, buffer) in [(false, 4 << 20), (false, 4096), (true, 4 << 20)] {
                let (mut stream, mut there) = match tls {
                    true => {
                        let (stream, there, _) = ends().await;
                        (stream, there)
                    }
                    false => {
                        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                        there.set_nonblocking(true).unwrap();
                        let (here, _) = listener.accept().unwrap();
                        here.set_nonblocking(true).unwrap();
                        (Stream::plain(here).unwrap(), there)
                    }
                };
                sockopt::set_socket_recv_buffer_size(&there, 4096).unwrap();
                sockopt::set_socket_send_buffer_size(stream.socket(), buffer).unwrap();
                stream.queue_joined(&b"BEAT".repeat(100_000), 1).unwrap();
                take_some(&mut stream, &mut there).await;
                assert!(!stream.is_draining(), "all that waits are heartbeats");
                stream.queue(b"x").unwrap();
                take_some(&mut stream, &mut there).await;
                assert!(stream.is_draining(), "a byte of the session waits");
                stream.queue_times(b"BEAT", 25_000).unwrap();
                take_some(&mut stream, &mut there).await;
                assert!(stream.is_draining(), "it waits, whatever is behind it");
            }
        })
        .unwrap();
    }
}
