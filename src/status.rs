//! What the daemon knows of itself at one moment: plain data, made by the
//! [`registry`](crate::registry), shown as JSON, as Prometheus text and as a table.

use std::time::Duration;

use crate::mapping::Id;

/// The whole state at one moment.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Time since the daemon started.
    pub uptime: Duration,
    /// Ports in the pool that no mapping holds.
    pub available_ports: usize,
    /// Things an operator should know (an API open to everybody, state that cannot be stored).
    pub warnings: Vec<String>,
    /// Every mapping that has ports, in the order of the state file.
    pub mappings: Vec<MappingStatus>,
    /// Direct connections, which have no ports.
    pub direct: usize,
    /// Log messages that could not be delivered.
    pub log_lost: u64,
    /// TLS handshakes that failed on the API, and API requests refused with 403.
    pub api_handshake_failures: u64,
    /// See `api_handshake_failures`.
    pub api_refused: u64,
}

/// One mapping at one moment.
#[derive(Clone, Debug)]
pub struct MappingStatus {
    /// Its name.
    pub id: Id,
    /// port1 and port2 (for a public pipe: the agent's and the users').
    pub sides: [SideStatus; 2],
    /// Whether port2 takes users.
    pub public: bool,
    /// Where users reach it; public pipes only.
    pub url: Option<String>,
    /// What its connections have done since the daemon started.
    pub counts: Counts,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

/// One port of a mapping at one moment.
#[derive(Clone, Debug)]
pub struct SideStatus {
    /// The port.
    pub port: u16,
    /// Whether it is open. When not, `fault` says why.
    pub open: bool,
    /// Why it is not open.
    pub fault: Option<String>,
    /// Its tunnels; `None` on a public pipe's port2.
    pub tunnels: Option<Tunnels>,
}

/// The tunnels of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// Authenticated, waiting for a user or for the other side.
    pub idle: usize,
    /// In a session.
    pub in_use: usize,
    /// Authenticated tunnels allowed at one time.
    pub allowed: usize,
}

/// What a mapping's connections have done since the daemon started. The gauges (`waiting`,
/// `sessions`, `pending`) say how many there are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Users waiting for a tunnel now.
    pub users_waiting: u64,
    /// Users that were given a tunnel.
    pub users_served: u64,
    /// Users closed without a tunnel: nobody free in time, or too many waiting.
    pub users_refused: u64,
    /// Sessions now.
    pub sessions: u64,
    /// Sessions begun.
    pub sessions_total: u64,
    /// Connections not yet authenticated now.
    pub pending: u64,
    /// Bytes from port2 to port1 (on a public pipe: from users to the agent).
    pub bytes_up: u64,
    /// Bytes from port1 to port2 (on a public pipe: from the agent to users).
    pub bytes_down: u64,
    /// TLS handshakes that failed or took too long.
    pub handshake_failures: u64,
    /// Agents refused: wrong passcode, or at the limit of tunnels.
    pub agents_refused: u64,
    /// Tunnels authenticated.
    pub tunnels_total: u64,
    /// Tunnels closed because of their heartbeat's absence.
    pub tunnels_absent: u64,
}

impl MappingStatus {
    /// `Active` in the API's sense: its port is open.
    pub fn active(&self, side: usize) -> bool {
        self.sides.get(side).is_some_and(|side| side.open)
    }
}
