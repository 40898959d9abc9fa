//! Where the service keeps its things: what all commands agree on.

use std::path::PathBuf;

use crate::logging;

/// The socket's name in the run directory.
pub const SOCKET: &str = "control.sock";

/// The run directory of the service.
pub const RUN: &str = "/run/iofog-connector";

/// The socket's name in the run directory of `tunnels`.
pub const TUNNELS_SOCKET: &str = "tunnels.sock";

/// The run directory of `tunnels`: the daemon's own would go with the daemon.
pub const TUNNELS_RUN: &str = "/run/iofog-connector-tunnels";

/// Where `tunnels` reads the options of each tunnel.
pub const TUNNELS: &str = "/etc/iofog-connector/tunnels";

/// The folders that all commands share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Settings, certificates and `configs.json`.
    pub config_dir: PathBuf,
    /// The lock and the control socket.
    pub run_dir: PathBuf,
    /// The log file.
    pub log_dir: PathBuf,
    /// The socket on which syslog listens; [`logging::NO_SYSLOG`] for no syslog.
    pub syslog: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            config_dir: "/etc/iofog-connector".into(),
            run_dir: RUN.into(),
            log_dir: "/var/log/iofog-connector".into(),
            syslog: logging::SYSLOG.into(),
        }
    }
}
