//! The service manager: what systemd is told (sd_notify(3)), and how often it wants to hear that
//! the process is alive.

use std::cell::RefCell;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// Longest wait for the service manager to take a message.
const NOTIFY: Duration = Duration::from_millis(250);

/// A generous bound for what stopping takes beyond the sessions' time.
const ENDING: Duration = Duration::from_secs(30);

/// Tells systemd how the daemon is (sd_notify(3)), where `NOTIFY_SOCKET` asks for it; elsewhere
/// every call does nothing. A message that systemd does not take within 250 ms is dropped.
#[derive(Debug)]
pub struct Notifier(RefCell<Option<(UnixDatagram, SocketAddr)>>);

impl Notifier {
    /// Reads `NOTIFY_SOCKET`.
    pub fn from_env() -> Self {
        Self::to(std::env::var_os("NOTIFY_SOCKET").and_then(|path| Self::socket(path.as_bytes())))
    }

    fn to(socket: Option<(UnixDatagram, SocketAddr)>) -> Self {
        Notifier(RefCell::new(socket))
    }

    fn socket(path: &[u8]) -> Option<(UnixDatagram, SocketAddr)> {
        let address = match path {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok()?,
            [b'/', ..] => {
                SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(path))).ok()?
            }
            _ => return None,
        };
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_write_timeout(Some(NOTIFY)).ok()?;
        Some((socket, address))
    }

    /// Everything is open; `status` is what `systemctl status` shows.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// This process takes the service's place: the service manager watches it from now on, and would complain of
    /// whatever else this one says. Whether there is one.
    pub fn main_process(&self, process: u32) -> bool {
        self.send(&format!("MAINPID={process}"));
        self.0.take().is_some()
    }

    /// A reload begins; [`ready`](Self::ready) ends it.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// It drains for so long at most, and ends; [`status`](Self::status) says how far it is. systemd
    /// kills what takes longer than it was told (`EXTEND_TIMEOUT_USEC` of sd_notify(3)), else than
    /// 90 s.
    pub fn stopping(&self, drain: Duration) {
        let micros = (drain + ENDING).as_micros();
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}\nSTATUS=stopping"));
    }

    /// The daemon's executor is alive; see [`watchdog_interval`].
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    fn send(&self, state: &str) {
        if let Some((socket, address)) = &*self.0.borrow() {
            // If the service manager does not listen, there is nothing that the daemon could do.
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}

/// A new line would begin another assignment.
fn one_line(status: &str) -> String {
    status.replace(|char: char| char.is_control(), " ")
}

/// How often systemd must hear [`Notifier::watchdog`]: half of the time after which it takes the
/// daemon for dead (`WATCHDOG_USEC`), or `None` when it does not watch this process. `is_heir` is for one that takes
/// the place of the process that systemd has started, whose number `WATCHDOG_PID` is.
pub fn watchdog_interval(is_heir: bool) -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    let of = variable("WATCHDOG_PID").filter(|_| !is_heir);
    watchdog(variable("WATCHDOG_USEC"), of, std::process::id())
}

fn watchdog(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let micros: u64 = usec?.parse().ok()?;
    let ours = pid.is_none_or(|pid| pid.parse() == Ok(own));
    (ours && micros > 0).then(|| Duration::from_micros(micros) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::folder::Folder;

    #[test]
    fn the_watchdog_is_pinged_at_half_its_time() {
        let watch = |usec: Option<&str>, pid: Option<&str>| {
            watchdog(usec.map(str::to_owned), pid.map(str::to_owned), 42)
        };
        let half = Some(Duration::from_secs(15));
        assert_eq!(watch(Some("30000000"), Some("42")), half);
        assert_eq!(watch(Some("30000000"), None), half);
        assert_eq!(watch(Some("30000000"), Some("43")), None);
        assert_eq!(watch(Some("0"), None), None);
        assert_eq!(watch(Some("soon"), None), None);
        assert_eq!(watch(None, Some("42")), None);
    }

    #[test]
    fn systemd_is_told_by_path_and_by_abstract_name() {
        let folder = Folder::new();
        let path = folder.join("socket");
        let name = folder.file_name().unwrap().as_bytes();
        let abstract_name = [b"@", name].concat();
        let by_name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
        let by_path = UnixDatagram::bind(&path).unwrap();
        for (socket, notify) in
            [(by_path, path.as_os_str().as_bytes()), (by_name, &abstract_name[..])]
        {
            let notifier = Notifier::to(Notifier::socket(notify));
            let heard = || {
                let mut buffer = [0; 256];
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let length = socket.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..length].to_vec()).unwrap()
            };
            notifier.ready("serving\nREADY=0");
            assert_eq!(heard(), "READY=1\nSTATUS=serving READY=0");
            notifier.watchdog();
            assert_eq!(heard(), "WATCHDOG=1");
            notifier.reloading();
            let reloading = heard();
            let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(micros.parse::<u64>().unwrap() > 0);
            notifier.stopping(Duration::from_secs(600));
            assert_eq!(heard(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=630000000\nSTATUS=stopping");
            assert!(notifier.main_process(7));
            assert_eq!(heard(), "MAINPID=7");
            notifier.watchdog();
            socket.set_nonblocking(true).unwrap();
            assert!(socket.recv(&mut [0; 256]).is_err(), "another one is watched now");
        }
        assert!(Notifier::socket(b"relative").is_none());
        assert!(Notifier::socket(b"vsock:2:1").is_none());
        Notifier::to(None).ready("nobody listens");
    }
}
