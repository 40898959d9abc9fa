//! Who was refused: of which kinds, how often, and when last (protocol page, section 3).

use serde::{Deserialize, Serialize};

use super::clock::timestamp;

/// A kind of refusal.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who is refused: [`USER`], [`AGENT`] or [`CALLER`].
    pub who: &'static str,
    /// Why, the kind's name.
    pub why: &'static str,
    /// What to do about it; empty where that is nothing or said elsewhere, and the log is not told.
    pub remedy: &'static str,
}

/// Who is refused: somebody on a public pipe's port2.
pub const USER: &str = "user";
/// Somebody on an agents' port.
pub const AGENT: &str = "agent";
/// Somebody who calls the API.
pub const CALLER: &str = "caller";

macro_rules! refusals {
    ($($(#[$about:meta])* $name:ident: $who:ident, $why:literal, $remedy:literal;)*) => {
        $($(#[$about])* pub const $name: Refusal =
            Refusal { who: $who, why: $why, remedy: $remedy };)*

        /// Every kind.
        #[cfg(test)]
        pub const ALL: &[Refusal] = &[$($name),*];
    };
}

refusals! {
    /// `userwait` is over, and there is no tunnel at all.
    NO_AGENT: USER, "no agent had a tunnel",
        "see that the mapping's agent runs and reaches port1 with the passcode";
    /// `userwait` is over.
    NO_TUNNEL: USER, "no tunnel was free in time",
        "have the agent open more tunnels, let the mapping have more (maxconnections), or raise userwait";
    /// It was given a version 3 tunnel that was dead.
    DEAD: USER, "its tunnel was dead, and no other was idle",
        "see that the agent's machine is up and reaches this one";
    /// `userwait` is over; nothing but version 2 or 3 would have served it.
    SAID_NOTHING: USER, "it sent nothing, and version 1 tunnels serve those that do",
        "a service that speaks first needs an agent of version 2 or 3";
    /// The mapping's `allow` does not name its address.
    ELSEWHERE: USER, "its address is not in the mapping's allow",
        "add the address to allow if it may connect";
    /// Its address has as many users as the mapping's `usersperaddress` allows.
    TOO_MANY: USER, "its address has as many users as usersperaddress allows",
        "raise usersperaddress if these are good users";
    /// A proxy of `proxyfrom` has not said whose connection it is.
    NO_HEADER: USER, "it came from an address in proxyfrom, and not with a PROXY header",
        "have the proxy send one (HAProxy: send-proxy-v2), or take it out of proxyfrom";
    /// It was turned out of those that wait.
    OUSTED: USER, "it sent nothing, or had ended, and others wanted its place",
        "raise pending if these are no strangers";
    /// It was turned out of those in their handshake.
    USER_STALLED: USER, "it stalled in its handshake, and others wanted its place",
        "raise pending if these are no strangers";
    /// It had not finished its handshake in time.
    USER_LATE: USER, "its handshake took over 10 s", "look at the line to it";
    /// Its handshake failed.
    USER_TLS: USER, "its TLS handshake failed", "users speak TLS to this port, unless dev is true";
    /// Strangers hold as much as they may.
    USERS_MEMORY: USER, "what it sent was long and unfinished, and others had all the memory for such",
        "limit who reaches this port";
    /// It had sent something, and left.
    LEFT: USER, "it left before a tunnel was free", "";
    /// Its mapping is removed.
    USER_REMOVED: USER, "its mapping was removed", "";
    /// The daemon is stopping.
    USER_STOPPING: USER, "the connector was stopping", "";
    /// What it sent is not the passcode of its port.
    WRONG_PASSCODE: AGENT, "wrong passcode", "give the agent this port's passcode";
    /// It sent a TLS handshake where all is plain.
    NOT_PLAIN: AGENT, "it speaks TLS, and dev is true",
        "start the agent with --plain, or set dev to false and restart";
    /// No place was free.
    FULL: AGENT, "as many tunnels were open as are allowed",
        "have the agents open fewer tunnels, or let the mapping have more (`mapping change`, maxconnections)";
    /// It was turned out of those without a passcode yet.
    AGENT_STALLED: AGENT, "it stalled before its passcode, and others wanted its place",
        "raise pending if these are no strangers";
    /// It sent no passcode.
    NO_PASSCODE: AGENT, "no passcode within 10 s",
        "see that it is an agent of this mapping that connects";
    /// It sent more than a stranger may.
    TOO_MUCH: AGENT, "it sent over 64 KiB before its passcode",
        "see that it is an agent of this mapping that connects";
    /// Its handshake failed.
    AGENT_TLS: AGENT, "its TLS handshake failed",
        "agents speak TLS to this port, and trust server-cert.pem, unless dev is true";
    /// Strangers hold as much as they may.
    AGENTS_MEMORY: AGENT, "what it sent was long and unfinished, and others had all the memory for such",
        "limit who reaches this port";
    /// An address outside `controllers`.
    NOT_ALLOWED: CALLER, "it is not among controllers", "controllers says who may call";
    /// A web page.
    FOREIGN: CALLER, "sent by another site's web page", "call from a program other than a browser";
    /// `command=stop` over TCP.
    STOP_FROM_AFAR: CALLER, "it tried to stop the connector remotely", "stop the connector on its machine";
    /// Its handshake failed.
    CALLER_TLS: CALLER, "its TLS handshake failed",
        "callers speak TLS (https://, curl --cacert server-cert.pem, with controllerca also --cert and --key), unless dev is true";
    /// Strangers hold as much as they may.
    CALLERS_MEMORY: CALLER, "what it sent was long and unfinished, and others had all the memory for such",
        "limit who reaches the API's port";
    /// It was turned out of those that are connected.
    CALLER_STALLED: CALLER, "it sent no whole request in its turn, and others wanted its place",
        "limit who reaches the API's port";
    /// Its request came too slowly.
    CALLER_LATE: CALLER, "no whole request within 10 s", "look at the line to it";
    /// What it sent is no request, or one that is too large.
    NO_REQUEST: CALLER, "not a valid request", "call with HTTP/1.1";
    /// Nothing was free for a mapping.
    NO_PORTS: CALLER, "no two ports were free", "add to ports";
    /// The disk took no change.
    NOT_STORED: CALLER, "the change could not be stored", "";
    /// The daemon is stopping.
    CALLER_STOPPING: CALLER, "the connector was stopping", "";
}

/// Those that were refused since the daemon started, by kind, in the order of the first time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Refusals(Vec<Refused>);

/// The refusals of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// [`Refusal::who`].
    pub who: String,
    /// [`Refusal::why`].
    pub why: String,
    /// How often.
    pub times: u64,
    /// When last, in milliseconds since the epoch.
    pub last: u64,
}

impl Refusals {
    /// Counts one.
    pub fn count(&mut self, kind: &Refusal) {
        let last = timestamp();
        match self.0.iter_mut().find(|known| known.who == kind.who && known.why == kind.why) {
            Some(known) => {
                known.times += 1;
                known.last = last;
            }
            None => {
                self.0.push(Refused { who: kind.who.into(), why: kind.why.into(), times: 1, last });
            }
        }
    }

    /// Each kind of which there was one.
    pub fn iter(&self) -> impl Iterator<Item = &Refused> {
        self.0.iter()
    }
}
