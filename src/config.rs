//! The settings file `iofog-connector.conf`, parsed once into types that cannot be wrong
//! (protocol page, section 1).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The settings in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Ports that mappings may use, `exclude` already taken out; ascending, never empty.
    pub ports: Vec<u16>,
    /// Handed to agents by the direct-connection API.
    pub broker: u16,
    /// Where this connector is reached: an IP address or a domain name.
    pub address: String,
    /// Plain HTTP and plain TCP instead of TLS.
    pub dev: bool,
    /// Where the API listens. `[::]` means every interface, `0.0.0.0` where there is no IPv6.
    pub api: SocketAddr,
    /// Who may call the API; `None` means anybody.
    pub controllers: Option<Vec<Network>>,
    /// The PEM file of the authority that API callers' certificates must be signed by.
    pub controller_ca: Option<PathBuf>,
    /// The address that pipe ports bind; `None` is every interface, both families.
    pub listen: Option<IpAddr>,
    /// Executor threads for sessions and handshakes.
    pub threads: usize,
    /// The least important level that is logged.
    pub log_level: log::LevelFilter,
    /// How long a user waits for a free tunnel.
    pub user_wait: Duration,
    /// Per mapping: users waiting, and as many connections not yet authenticated.
    pub pending: usize,
    /// How long a stopping daemon lets sessions finish.
    pub drain: Duration,
    /// How long a session may be silent after one direction has ended.
    pub fin_wait: Duration,
    /// One log line per user and session.
    pub connection_log: bool,
}

/// A range of addresses, `192.0.2.0/24` or a single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}
