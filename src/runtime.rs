//! How tasks run: each thread's event loop with its sockets and timers, the threads of workers,
//! and how long a task may go on before others have their turn. It knows nothing of tunnels or
//! TLS.

mod backoff;
mod counted;
mod deadlines;
mod io;
mod line;
mod moments;
mod numbered;
mod reactor;
mod source;
mod timer;
pub mod turn;
mod workers;

pub use backoff::Backoff;
pub use counted::Counted;
pub use deadlines::Deadlines;
pub use io::Io;
pub use line::{Line, Permit};
pub use moments::Moments;
pub use numbered::{Numbered, Numbers};
#[cfg(test)]
pub use reactor::set_looks;
pub use reactor::{block_on, look, looks, now, run, wake_all, yield_turn};
pub use timer::{Timer, sleep, until};
pub use workers::{Load, Workers, aside};

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    /// Two ends of a connection.
    pub(super) fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (two, _) = listener.accept().unwrap();
        one.set_nonblocking(true).unwrap();
        two.set_nonblocking(true).unwrap();
        (one, two)
    }
}
