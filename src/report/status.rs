//! What the daemon knows of itself at one moment: plain data, made by the
//! [`registry`](crate::pipes::registry), shown by [`report`](crate::report) as JSON, as Prometheus text
//! and as a table. The JSON names are the fields' names in camel case; `uptime` is in seconds.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::mappings::mapping::Id;
use crate::text::counted;
pub use clock::timestamp;
use events::Happened;
use reached::LimitsReached;
use refused::Refusals;
use times::Times;

mod clock;
pub mod events;
pub mod reached;
pub mod refused;
pub mod times;

/// The whole state at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Time since the daemon started.
    #[serde(serialize_with = "to_seconds", deserialize_with = "from_seconds")]
    pub uptime: Duration,
    /// The host in public pipes' URLs, under which agents find the connector: the setting in force.
    #[serde(default)]
    pub address: String,
    /// Whether ports speak plain TCP instead of TLS.
    #[serde(default)]
    pub dev: bool,
    /// The address that mappings' ports listen on; `::` is every interface. Empty where an older daemon does not say.
    #[serde(default)]
    pub listen: String,
    /// The API's address and port, empty where it is not open; `None` where an older daemon does not say.
    #[serde(default)]
    pub api: Option<String>,
    /// `SHA256:` and the fingerprint of the certificate in force; `None` without TLS.
    #[serde(default)]
    pub certificate: Option<String>,
    /// When it ends, in milliseconds since the epoch.
    #[serde(default)]
    pub certificate_ends: Option<u64>,
    /// The daemon's own bounds that were reached since it started.
    pub limits_reached: LimitsReached,
    /// What the daemon still waits for, once it is stopping.
    pub draining: Option<Draining>,
    /// The daemon whose place this one took, while it carries sessions.
    #[serde(default)]
    pub predecessor: Option<Predecessor>,
    /// Ports in the pool that no mapping holds.
    pub available_ports: usize,
    /// The process's open files. The command line does not read it back, nor the next two that say so.
    #[serde(skip_deserializing)]
    pub files: OpenFiles,
    /// Things an operator should know (an API open to everybody, state that cannot be stored).
    pub warnings: Vec<String>,
    /// Every mapping that has ports, in the order of the state file.
    pub mappings: Vec<MappingStatus>,
    /// Direct connections, which have no ports.
    pub direct: usize,
    /// The counters of mappings removed since the daemon started, so that totals never go down;
    /// its gauges stay 0.
    pub removed: Counts,
    /// Log messages that could not be delivered.
    pub log_lost: u64,
    /// TLS handshakes that failed on the API.
    pub api_handshake_failures: u64,
    /// API requests refused with 403.
    pub api_refused: u64,
    /// API callers that were refused, for this and other reasons.
    #[serde(default)]
    pub api_refusals: Refusals,
    /// What has happened last, the newest at the end.
    #[serde(default)]
    pub events: Vec<Happened>,
    /// How long users have waited and sessions have lasted; in the metrics alone.
    #[serde(skip)]
    pub times: Times,
}

/// The process's open files, as its budget of them has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenFiles {
    /// Those in use.
    pub in_use: usize,
    /// Those that it may have.
    pub allowed: usize,
}

/// All mappings together, without what there is to say of each.
pub struct Overview {
    /// As [`Status::condition`].
    pub condition: &'static str,
    /// How many mappings there are.
    pub mappings: usize,
    /// Ports in the pool that no mapping holds.
    pub available_ports: usize,
}

/// As [`Status::condition`], of a daemon that is stopping or not.
pub fn condition(is_stopping: bool) -> &'static str {
    if is_stopping { "draining" } else { "running" }
}

/// A daemon whose place another one has taken, while it carries sessions. `Display` is a sentence about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Predecessor {
    /// Its process.
    pub process: u32,
    /// Its sessions, and those of daemons whose place it took itself.
    pub sessions: u64,
    /// Time that is left for them, at most.
    pub milliseconds_left: u64,
}

/// What a stopping daemon still waits for. `Display` is a sentence about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Draining {
    /// Sessions, without those of private pipes in which nothing moves.
    pub sessions: u64,
    /// Users that may still be given a tunnel.
    pub users_waiting: u64,
    /// Time that is left for them, at most.
    pub milliseconds_left: u64,
}

/// One mapping at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingStatus {
    /// Its id.
    pub id: Id,
    /// As [`state`](Self::state) says it, for those who read the JSON. Not read back.
    #[serde(skip_deserializing)]
    pub state: &'static str,
    /// What else it was told, under the names of the API.
    #[serde(default)]
    pub options: Map<String, Value>,
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
    /// When, in milliseconds since the epoch.
    #[serde(default)]
    pub last_error_at: Option<u64>,
    /// Whether it has gone right since: the port is open, a user was served, an agent let in; or an agent is there
    /// whatever newcomer was refused.
    #[serde(default)]
    pub last_error_over: bool,
    /// Its users and agents that were refused.
    #[serde(default)]
    pub refusals: Refusals,
    /// Its limits that were reached since the daemon started.
    pub limits_reached: LimitsReached,
}

/// One port of a mapping at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SideStatus {
    /// The port.
    pub port: u16,
    /// Whether it is open. When not, `fault` says why.
    pub open: bool,
    /// Why it is not open.
    pub fault: Option<String>,
    /// Its tunnels; `None` on a public pipe's port2.
    pub tunnels: Option<Tunnels>,
    /// Milliseconds of silence after which one of them is closed; `None` for never.
    #[serde(default)]
    pub heartbeat_threshold: Option<u64>,
    /// Where its tunnels come from, those first that have been there longest; at most
    /// [`AGENTS_SHOWN`](crate::limits::AGENTS_SHOWN). Not read back.
    #[serde(skip_deserializing)]
    pub agents: Vec<AgentStatus>,
}

/// The tunnels that come to one side from one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentStatus {
    /// The address.
    pub address: IpAddr,
    /// Since when it has had a tunnel without a break, in milliseconds since the epoch.
    pub since: u64,
    /// Its tunnels.
    pub tunnels: usize,
}

/// The tunnels of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tunnels {
    /// Authenticated, waiting for a user or for the other side.
    pub idle: usize,
    /// In a session.
    pub in_use: usize,
    /// Version 1 tunnels whose user has left: what comes is discarded until the old answer is over.
    #[serde(default)]
    pub draining: usize,
    /// Idle or draining ones whose agent took a user's bytes and answered nothing.
    #[serde(default)]
    pub unanswered: usize,
    /// Authenticated tunnels allowed at one time.
    pub allowed: usize,
    /// All that there are, in whatever state, of version 1, 2 and 3. Not read back.
    #[serde(skip_deserializing)]
    pub versions: [usize; 3],
}

/// What a mapping's connections have done since the daemon started. The gauges (`waiting`,
/// `sessions`, `pending`) say how many there are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Users waiting for a tunnel now.
    pub users_waiting: u64,
    /// Users that were given a tunnel.
    pub users_served: u64,
    /// Users closed without a tunnel that had sent something or were not gone by themselves.
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
    /// TLS handshakes that failed or took too long, of those who had sent something.
    pub handshake_failures: u64,
    /// Agents refused: a wrong passcode, none in time, or at a limit.
    pub agents_refused: u64,
    /// Tunnels authenticated.
    pub tunnels_total: u64,
    /// Tunnels closed because of their heartbeat's absence.
    pub tunnels_absent: u64,
}

impl Draining {
    /// Whether nobody is left to wait for.
    pub fn is_over(&self) -> bool {
        self.sessions == 0 && self.users_waiting == 0
    }

    /// Who is left.
    pub fn who(&self) -> String {
        let sessions = counted(self.sessions, "session");
        match self.users_waiting {
            0 => sessions,
            users => format!("{sessions} and {}", counted(users, "waiting user")),
        }
    }
}

impl fmt::Display for Predecessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {}, whose place this one took, still carries {}, for {} s at most",
            self.process,
            counted(self.sessions, "session"),
            self.milliseconds_left.div_ceil(1000)
        )
    }
}

impl fmt::Display for Draining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.milliseconds_left.div_ceil(1000);
        write!(f, "draining: {} left, for {seconds} s at most", self.who())
    }
}

/// An option's value as one word; a list's elements have commas between them, and those in them
/// backslashes before them.
pub fn listed(value: &Value) -> String {
    match value {
        Value::Array(all) => all
            .iter()
            .map(|one| listed(one).replace('\\', r"\\").replace(',', r"\,"))
            .collect::<Vec<_>>()
            .join(","),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl MappingStatus {
    /// What it is called: its name, or its id.
    pub fn name(&self) -> &str {
        self.options.get("name").and_then(Value::as_str).unwrap_or(&self.id)
    }

    /// How it is, in a word or two: whether its ports are open, and then whether an agent has a tunnel, on either side:
    /// one that listens for a private pipe's users has none while nobody uses it. `agent gone` is one that had an agent
    /// since the daemon started, and has none left.
    pub fn state(&self) -> &'static str {
        let [one, two] = &self.sides;
        match (one.open, two.open) {
            (false, false) => "inactive",
            (true, true) if !self.is_lonely() => "active",
            (true, true) if self.counts.tunnels_total > 0 => "agent gone",
            (true, true) => "no agent",
            _ => "half open",
        }
    }

    /// Whether there is no tunnel at all.
    fn is_lonely(&self) -> bool {
        !self.sides.iter().filter_map(|side| side.tunnels).any(|of| of.are_there())
    }

    /// `Active` in the API's sense: its port is open.
    pub fn active(&self, side: usize) -> bool {
        self.sides.get(side).is_some_and(|side| side.open)
    }
}

impl Status {
    /// The address that mappings' ports listen on, where only this machine reaches it.
    pub fn loopback(&self) -> Option<IpAddr> {
        self.listen.parse().ok().filter(IpAddr::is_loopback)
    }

    /// `running`, or `draining` once the daemon is stopping.
    pub fn condition(&self) -> &'static str {
        condition(self.draining.is_some())
    }

    /// The tunnels of all mappings.
    pub fn tunnels(&self) -> Tunnels {
        let mut total = Tunnels::default();
        for side in self.mappings.iter().flat_map(|mapping| &mapping.sides) {
            let tunnels = side.tunnels.unwrap_or_default();
            total.idle += tunnels.idle;
            total.in_use += tunnels.in_use;
            total.draining += tunnels.draining;
            total.unanswered += tunnels.unanswered;
            total.allowed += tunnels.allowed;
            let versions = total.versions.iter_mut().zip(tunnels.versions);
            versions.for_each(|(total, version)| *total += version);
        }
        total
    }

    /// The counts of all mappings, those removed included.
    pub fn counts(&self) -> Counts {
        let mappings = self.mappings.iter().map(|mapping| mapping.counts);
        mappings.fold(self.removed, Counts::plus)
    }
}

impl Tunnels {
    /// Whether there is one, in whatever state.
    pub fn are_there(self) -> bool {
        self.idle + self.in_use + self.draining > 0
    }
}

impl Counts {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Counts) -> Counts {
        Counts {
            users_waiting: self.users_waiting + other.users_waiting,
            users_served: self.users_served + other.users_served,
            users_refused: self.users_refused + other.users_refused,
            sessions: self.sessions + other.sessions,
            sessions_total: self.sessions_total + other.sessions_total,
            pending: self.pending + other.pending,
            bytes_up: self.bytes_up + other.bytes_up,
            bytes_down: self.bytes_down + other.bytes_down,
            handshake_failures: self.handshake_failures + other.handshake_failures,
            agents_refused: self.agents_refused + other.agents_refused,
            tunnels_total: self.tunnels_total + other.tunnels_total,
            tunnels_absent: self.tunnels_absent + other.tunnels_absent,
        }
    }

    /// What stays of a mapping's counts when it is removed: the counters without the gauges.
    #[must_use]
    pub fn without_gauges(self) -> Counts {
        Counts { users_waiting: 0, sessions: 0, pending: 0, ..self }
    }
}

fn to_seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.as_secs())
}

fn from_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_secs)
}
