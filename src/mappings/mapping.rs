//! What a mapping is: data, no input or output.
//!
//! Two of a thing is a type used twice and a kind is a variant; the outside names (`port1`,
//! `passcode2`) exist only in [`store`](crate::mappings::store) and [`api`](crate::api).

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};
use subtle::ConstantTimeEq;

use super::options::{self, Fault, Options, integer};

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

    /// The secret itself, for the state file and the answers to `mapping/add` and `mapping/passcode`; nothing
    /// else.
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

/// What a heartbeat threshold may be at most, in milliseconds: the original reads it as a signed
/// 32-bit number from the state file.
pub const LONGEST_THRESHOLD: u64 = i32::MAX as u64;

impl AgentLimits {
    /// The names of a public pipe's limits.
    pub const PUBLIC: [&'static str; 2] = ["maxconnections", "heartbeatabsencethreshold"];
    /// The names of a private pipe's limits, of each side.
    pub const PRIVATE: [[&'static str; 2]; 2] = [
        ["maxconnectionsport1", "heartbeatabsencethresholdport1"],
        ["maxconnectionsport2", "heartbeatabsencethresholdport2"],
    ];

    /// Reads the limits of these names; one that is not given is as `before`.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn read<'a>(
        [connections, threshold]: [&'static str; 2],
        before: Option<AgentLimits>,
        member: &dyn Fn(&str) -> Option<&'a Value>,
    ) -> Result<Self, Fault> {
        let whole = |name, least, most, before: Option<u64>| match (member(name), before) {
            (None, Some(before)) => Ok(before),
            (value, _) => integer(value, least, most).map_err(|fault| (name, fault)),
        };
        let had = before.map(|before| u64::from(before.max_connections));
        let limit = whole(connections, 1, u16::MAX.into(), had)?;
        let had = before.map(|before| before.milliseconds());
        let silence = whole(threshold, 0, LONGEST_THRESHOLD, had)?;
        Ok(AgentLimits {
            max_connections: u16::try_from(limit).unwrap_or(u16::MAX),
            heartbeat_threshold: (silence > 0).then(|| Duration::from_millis(silence)),
        })
    }

    /// The heartbeat threshold as it is written: 0 turns the check off.
    pub fn milliseconds(&self) -> u64 {
        let threshold = self.heartbeat_threshold.unwrap_or_default().as_millis();
        u64::try_from(threshold).unwrap_or(LONGEST_THRESHOLD)
    }
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

/// What is to be different about a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alteration {
    /// These members of `mapping/add`; `null` takes an option away.
    Members(Map<String, Value>),
    /// A new passcode of this side: 0 for port1, 1 for port2.
    Passcode(usize),
}

impl Mapping {
    /// What it is called: its name, or its id.
    pub fn name(&self) -> &str {
        self.options.name.as_ref().unwrap_or(&self.id)
    }

    /// The same mapping with this difference.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn altered(&self, alteration: &Alteration) -> Result<Mapping, Fault> {
        let mut next = self.clone();
        let public = matches!(next.pipe, Pipe::Public { .. });
        let sides = match &mut next.pipe {
            Pipe::Public { agent, .. } => std::slice::from_mut(agent),
            Pipe::Private { sides } => sides,
            Pipe::Direct { .. } => return Ok(next),
        };
        let members = match alteration {
            Alteration::Members(members) => members,
            Alteration::Passcode(side) => {
                let why = || "is 2, and this pipe is public: its one passcode is that of side 1";
                let side = sides.get_mut(*side).ok_or_else(|| ("side", why().to_owned()))?;
                side.passcode = Passcode::random();
                return Ok(next);
            }
        };
        let (names, others, kind) = match public {
            true => (&[AgentLimits::PUBLIC][..], AgentLimits::PRIVATE.as_flattened(), "public"),
            false => (&AgentLimits::PRIVATE[..], &AgentLimits::PUBLIC[..], "private"),
        };
        if let Some(name) = others.iter().find(|name| members.contains_key(**name)) {
            let right = names.as_flattened().join(", ");
            return Err((name, format!("is none of a {kind} pipe's limits, which are {right}")));
        }
        for (side, names) in sides.iter_mut().zip(names) {
            side.limits = AgentLimits::read(*names, Some(side.limits), &|name| members.get(name))?;
        }
        options::new_name(members.get("name"))?;
        let mut options = self.options.members();
        options.extend(members.clone());
        next.options = Options::read(public, &|name| options.get(name))?;
        Ok(next)
    }
}

impl Pipe {
    /// The ports that take agents' tunnels, port1 first.
    pub fn agents(&self) -> &[AgentPort] {
        match self {
            Pipe::Public { agent, .. } => std::slice::from_ref(agent),
            Pipe::Private { sides } => sides,
            Pipe::Direct { .. } => &[],
        }
    }

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
