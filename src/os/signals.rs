//! The signals that the daemon and the command `tunnel` obey.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use smol::Async;
use smol::channel::Sender;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// SIGTERM or SIGINT: drain and stop.
    Stop,
    /// SIGHUP: read settings and certificates again, open the log file again.
    Reload,
    /// SIGUSR2: have the program that is in the file now take this one's place.
    Upgrade,
    /// SIGUSR1: write the state of every connection.
    Dump,
}

/// The process's signals. Once it is made, and for the rest of the process's life, none of them
/// ends the process by itself.
pub struct Signals(UnixStream);

impl Signals {
    /// Takes SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2, and makes SIGXFSZ harmless, so that a file at its
    /// size limit is an error of the write. Rust ignores SIGPIPE before `main`. No thread is begun.
    pub fn new() -> io::Result<Self> {
        let asking = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];
        Ok(Signals(told_of(&[&asking[..], &[libc::SIGXFSZ]].concat())?))
    }

    /// Forwards each signal, in a task of its own: another task would read the signals' socket each
    /// time it is polled.
    pub async fn pass_on(self, asks: Sender<Ask>) {
        // Where it could not be waited for, the daemon runs on and SIGKILL still works.
        let Ok(told) = Async::new(self.0) else { return std::future::pending().await };
        while asks.send(next(&told).await).await.is_ok() {}
    }
}

/// The next signal that asks for something.
async fn next(told: &Async<UnixStream>) -> Ask {
    let mut signal = [0];
    loop {
        match told.read_with(|mut told| told.read(&mut signal)).await {
            Ok(1..) => match i32::from(signal[0]) {
                libc::SIGHUP => return Ask::Reload,
                libc::SIGUSR1 => return Ask::Dump,
                libc::SIGUSR2 => return Ask::Upgrade,
                libc::SIGTERM | libc::SIGINT => return Ask::Stop,
                _ => {}
            },
            // The socket that carries signals is the process's own and cannot end.
            Ok(0) | Err(_) => std::future::pending().await,
        }
    }
}

/// Takes these signals for the rest of the process's life: each gives a byte, its number. A read does not wait.
pub(super) fn told_of(signals: &[i32]) -> io::Result<UnixStream> {
    let (told, tell) = UnixStream::pair()?;
    told.set_nonblocking(true)?;
    tell.set_nonblocking(true)?;
    let tell = Arc::new(tell);
    signals.iter().try_for_each(|signal| tell_of(*signal, tell.clone()))?;
    Ok(told)
}

/// Has a signal write its number.
#[expect(unsafe_code, reason = "a signal's handler may do almost nothing")]
fn tell_of(signal: i32, tell: Arc<UnixStream>) -> io::Result<()> {
    // Beyond what the socket holds, they are one.
    let handler = move || _ = (&*tell).write(&[signal as u8]);
    // SAFETY: the handler makes one system call that does not wait, and touches nothing else.
    unsafe { signal_hook_registry::register(signal, handler) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_heard_and_a_file_too_large_is_harmless() {
        use rustix::process::{Signal, getpid, kill_process};
        smol::block_on(async {
            let signals = Async::new(Signals::new().unwrap().0).unwrap();
            for (signal, ask) in [
                (Signal::TERM, Ask::Stop),
                (Signal::HUP, Ask::Reload),
                (Signal::USR1, Ask::Dump),
                (Signal::USR2, Ask::Upgrade),
                (Signal::INT, Ask::Stop),
            ] {
                kill_process(getpid(), Signal::XFSZ).unwrap();
                kill_process(getpid(), signal).unwrap();
                assert_eq!(next(&signals).await, ask);
            }
        });
    }
}
