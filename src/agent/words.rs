//! Errors of connections in an operator's words, with a remedy; the system's own words are for
//! programmers.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;

use rustix::io::Errno;

use crate::net::dial::Address;
use crate::text::reason;

/// What the standard library puts before the resolver's words.
const LOOKUP: &str = "failed to lookup address information: ";

const NO_FILES: &str = "too many files are open; raise the limit (LimitNOFILE= of the unit, or \
                        ulimit -n)";

/// Why a connection failed, as a sentence about "it", the other side.
pub(super) fn connection(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            "it refuses the connection: does it run, does it listen on \
                                         that port, and does its firewall let it through?"
                .into()
        }
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            "it has reset the connection".into()
        }
        ErrorKind::UnexpectedEof => "it has ended the connection".into(),
        ErrorKind::TimedOut if error.get_ref().is_none() => {
            "it does not answer: is its machine on, or does a firewall on the way drop what is \
             sent to it?"
                .into()
        }
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            "there is no route to it: is this machine's network up (`ip address`, `ip route`)?"
                .into()
        }
        ErrorKind::PermissionDenied => "this machine's firewall forbids the connection".into(),
        ErrorKind::AddrNotAvailable => {
            "no port is left here for a connection to it (net.ipv4.ip_local_port_range)".into()
        }
        _ if is_out_of_files(error) => NO_FILES.into(),
        _ => match error.to_string().strip_prefix(LOOKUP) {
            Some(what) => format!(
                "its name cannot be resolved here ({}): is it spelt right, and does this \
                 machine's resolver know it (/etc/hosts, /etc/resolv.conf)?",
                what
            ),
            None => reason::words(error),
        },
    }
}

/// Why a session cannot be served, for the connector's log: the fact, without the remedies of `why`, a sentence of
/// [`connection`].
pub(super) fn unreached(target: &Address, why: &str) -> String {
    let end = [": ", "; "].iter().filter_map(|mark| why.find(mark)).min().unwrap_or(why.len());
    format!("the target {target} cannot be reached: {}", &why[..end])
}

/// Why local connections cannot be taken at this address.
pub(super) fn listen(address: SocketAddr, error: &Error) -> String {
    let why = match error.kind() {
        ErrorKind::AddrInUse => "another program uses it (`ss -tanp` shows which); stop that one, \
                                 or name another port"
            .into(),
        ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; name one that `ip address` shows".into()
        }
        ErrorKind::PermissionDenied => "this user may not open it; name a port from 1024 on, or \
                                        give the process CAP_NET_BIND_SERVICE"
            .into(),
        _ if is_out_of_files(error) => NO_FILES.into(),
        _ => reason::words(error),
    };
    format!("--listen {address}: {why}")
}

fn is_out_of_files(error: &Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_system_says_is_said_without_its_number() {
        let address = SocketAddr::from(([127, 0, 0, 1], 8022));
        for number in 1..134 {
            let error = Error::from_raw_os_error(number);
            for text in [connection(&error), listen(address, &error)] {
                assert!(!text.contains("os error") && text.len() > 5, "{number}: {text}");
            }
        }
    }

    #[test]
    fn connectors_log_is_told_the_fact_alone() {
        let target = "localhost:80".parse().unwrap();
        let refused = connection(&Error::from(Errno::CONNREFUSED));
        let said = unreached(&target, &refused);
        assert_eq!(said, "the target localhost:80 cannot be reached: it refuses the connection");
        let ended = connection(&ErrorKind::UnexpectedEof.into());
        assert!(unreached(&target, &ended).ends_with(": it has ended the connection"));
    }

    #[test]
    fn what_people_meet_is_said_with_a_remedy() {
        let refused = Error::from(Errno::CONNREFUSED);
        assert!(connection(&refused).contains("does it listen on that port"));
        let unknown = Error::other(format!("{LOOKUP}Name or service not known"));
        assert!(connection(&unknown).starts_with("its name cannot be resolved here (Name or"));
        assert!(connection(&ErrorKind::TimedOut.into()).contains("is its machine on"));
        let silent = Error::new(ErrorKind::TimedOut, "the resolver is silent");
        assert_eq!(connection(&silent), "the resolver is silent");
        let address = SocketAddr::from(([127, 0, 0, 1], 8022));
        let busy = listen(address, &Error::from(Errno::ADDRINUSE));
        assert!(busy.starts_with("--listen 127.0.0.1:8022: another program uses it"), "{busy}");
    }
}
