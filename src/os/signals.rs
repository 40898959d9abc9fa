//! The signals that the daemon and the command `tunnel` obey.

use std::io;

use smol::channel::Sender;
use smol::stream::StreamExt;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// SIGTERM or SIGINT: drain and stop.
    Stop,
    /// SIGHUP: read settings and certificates again, open the log file again.
    Reload,
    /// SIGUSR2: have the program that is in the file now take this one's place.
    Upgrade,
}

/// The process's signals. Once it is made, and for the rest of the process's life, none of them
/// ends the process by itself.
pub struct Signals(async_signal::Signals);

impl Signals {
    /// Takes SIGTERM, SIGINT, SIGHUP and SIGUSR2, and makes SIGXFSZ harmless, so that a file at its
    /// size limit is an error of the write. Rust ignores SIGPIPE before `main`.
    pub fn new() -> io::Result<Self> {
        use async_signal::Signal;
        async_signal::Signals::new([
            Signal::Term,
            Signal::Int,
            Signal::Hup,
            Signal::Usr2,
            Signal::Xfsz,
        ])
        .map(Signals)
    }

    /// Forwards each signal, in a task of its own: another task would read the signals' pipe each
    /// time it is polled.
    pub async fn pass_on(mut self, asks: Sender<Ask>) {
        while asks.send(self.next().await).await.is_ok() {}
    }

    /// The next signal that asks for something.
    async fn next(&mut self) -> Ask {
        use async_signal::Signal;
        loop {
            match self.0.next().await {
                Some(Ok(Signal::Term | Signal::Int)) => return Ask::Stop,
                Some(Ok(Signal::Hup)) => return Ask::Reload,
                Some(Ok(Signal::Usr2)) => return Ask::Upgrade,
                Some(Ok(_)) => {}
                // The pipe that carries signals is the process's own and cannot end; should it
                // fail, the daemon runs on and SIGKILL still works.
                Some(Err(_)) | None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_heard_and_a_file_too_large_is_harmless() {
        use rustix::process::{Signal, getpid, kill_process};
        smol::block_on(async {
            let mut signals = Signals::new().unwrap();
            for (signal, ask) in [
                (Signal::TERM, Ask::Stop),
                (Signal::HUP, Ask::Reload),
                (Signal::USR2, Ask::Upgrade),
                (Signal::INT, Ask::Stop),
            ] {
                kill_process(getpid(), Signal::XFSZ).unwrap();
                kill_process(getpid(), signal).unwrap();
                assert_eq!(signals.next().await, ask);
            }
        });
    }
}
