//! What a mapping is: data, no input or output.
//!
//! Two of a thing is a type used twice and a kind is a variant; the outside names (`port1`,
//! `passcode2`) exist only in [`store`](crate::mappings::store) and [`api`](crate::api).

use std::fmt;
use std::time::Duration;

use subtle::ConstantTimeEq;

use super::options::Options;

/// The name of a mapping: a random UUID when made here; older files may hold other strings.
pub type Id = Box<str>;

/// A new random identifier from the operating system's random source.
pub fn random_id() -> Id {
    uuid::Uuid::new_v4().to_string().into()
}

/// The secret an agent sends first. Its `Debug` hides it and its comparison takes the same time
/// whatever the content.
#[derive(Clone)]
pub struct Passcode(Box<str>);

impl Passcode {
    /// Takes a passcode as read from `configs.json`; `None` when it is empty, which marks a side
    /// without one.
    pub fn new(secret: &str) -> Option<Self> {
        (!secret.is_empty()).then(|| Passcode(secret.into()))
    }

    /// A new random passcode.
    pub fn random() -> Self {
        Passcode(random_id())
    }

    /// Whether `offered` is this passcode. The time taken depends on the length alone.
    pub fn matches(&self, offered: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(offered).into()
    }

    /// The secret itself, for the state file and the answer to `mapping/add`; nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Passcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passcode(hidden)")
    }
}

/// The limits of an agent's side, as asked for before it has a port and a passcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentLimits {
    /// Authenticated tunnels at one time, 1 to 65535.
    pub max_connections: u16,
    /// A tunnel that has sent nothing for so long is closed; `None` turns the check off.
    pub heartbeat_threshold: Option<Duration>,
}

/// A port that takes one agent's tunnels.
#[derive(Clone, Debug)]
pub struct AgentPort {
    /// The port.
    pub port: u16,
    /// What the agent proves itself with.
    pub passcode: Passcode,
    /// How many tunnels, and how silent they may be.
    pub limits: AgentLimits,
}

/// What a mapping opens.
#[derive(Clone, Debug)]
pub enum Pipe {
    /// Users on the open network reach one agent.
    Public {
        /// port1: the agent's tunnels.
        agent: AgentPort,
        /// port2: the users.
        users: u16,
    },
    /// Two agents reach each other through the daemon: port1 and port2.
    Private {
        /// port1, then port2.
        sides: [AgentPort; 2],
    },
    /// No ports: two agents are told each other's address (`/api/v2/direct`).
    Direct {
        /// What both callers present.
        passkey: Passcode,
    },
}

/// One port opening, as `configs.json` keeps it.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// Its name in the API.
    pub id: Id,
    /// What it opens.
    pub pipe: Pipe,
    /// What else it was told.
    pub options: Options,
}

/// What `mapping/add` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMapping {
    /// What it shall open.
    pub pipe: NewPipe,
    /// port1 and port2, where certain ones are wanted.
    pub ports: [Option<u16>; 2],
    /// What else it is told.
    pub options: Options,
}

/// The kind of a new mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewPipe {
    /// A public pipe with these limits on its agent's side.
    Public(AgentLimits),
    /// A private pipe with these limits on port1 and port2.
    Private([AgentLimits; 2]),
}

impl Pipe {
    /// The two ports, port1 first; `None` for a direct connection.
    pub fn ports(&self) -> Option<[u16; 2]> {
        match self {
            Pipe::Public { agent, users } => Some([agent.port, *users]),
            Pipe::Private { sides: [one, two] } => Some([one.port, two.port]),
            Pipe::Direct { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passcode_hides_itself_and_compares_whole() {
        let passcode = Passcode::new("s3cret").expect("not empty");
        assert_eq!(format!("{passcode:?}"), "Passcode(hidden)");
        assert!(passcode.matches(b"s3cret"));
        assert!(!passcode.matches(b"s3cre"));
        assert!(!passcode.matches(b"s3crets"));
        assert!(Passcode::new("").is_none());
    }
}
