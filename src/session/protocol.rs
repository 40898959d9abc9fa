//! The protocol of a leg, and what each unit that comes on it is (protocol page, sections 4 and 5).

use std::time::Duration;

use crate::wire::heartbeat::{Begun, Heard, beats};
use crate::wire::token::{Answer, Token};

/// The protocol that a peer speaks on its leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Bytes that mean nothing here: a user, or the program behind a `tunnel`.
    Raw,
    /// A version 1 agent: heartbeats among its units, absence after this threshold.
    Version1 {
        /// Silence after which it counts as gone; `None` for never.
        threshold: Option<Duration>,
    },
    /// A version 2 agent that has been sent the PROXY header and owes `OPEN` or `FAIL`.
    Version2,
    /// A version 3 tunnel: an agent's that has been sent `O`, or, where this is the agent, the connector's.
    Framed {
        /// Silence after which an agent counts as gone; `None` for never.
        threshold: Option<Duration>,
        /// An agent's time between two heartbeats.
        beat: Option<Duration>,
        /// Whether the other leg's bytes are sent before the agent has said that it has seen the session.
        at_once: bool,
        /// How long an agent may take to say so, if four round trips are no longer.
        seen_wait: Duration,
    },
}

impl Protocol {
    /// Silence after which the peer counts as gone.
    pub(super) fn threshold(self) -> Option<Duration> {
        match self {
            Protocol::Version1 { threshold } | Protocol::Framed { threshold, .. } => threshold,
            Protocol::Raw | Protocol::Version2 => None,
        }
    }
}

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit<'a> {
    /// So many heartbeats, and nothing for the other leg.
    Heartbeats(usize),
    /// The session's bytes, after what looked like the beginning of a heartbeat.
    Data {
        /// Bytes of earlier units; always empty except for version 1 in plain TCP.
        begun: &'static [u8],
        /// This unit's bytes.
        bytes: &'a [u8],
    },
    /// An agent's answer to its pairing, or a part of it: nothing for the other leg.
    Token,
}

/// Classifies the units of one peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoder {
    protocol: Protocol,
    token: Token,
    /// A heartbeat of which a read in plain TCP has brought only a part.
    begun: Begun,
}

impl Decoder {
    pub(super) fn new(protocol: Protocol) -> Self {
        Decoder { protocol, token: Token::default(), begun: Begun::default() }
    }

    /// The protocol now: raw bytes once an agent of version 2 has answered `OPEN`.
    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// What an agent of version 2 has answered.
    pub(super) fn answer(&self) -> Option<Answer> {
        self.token.answer()
    }

    /// Whether the last bytes may be the beginning of a heartbeat.
    pub(super) fn is_amid_heartbeat(&self) -> bool {
        self.begun.is_some()
    }

    /// Gives the beginning up: its bytes.
    pub(super) fn release(&mut self) -> &'static [u8] {
        self.begun.release()
    }

    /// What `unit` is: a record in TLS, the bytes of one read in plain TCP.
    pub(super) fn classify<'a>(&mut self, unit: &'a [u8], tls: bool) -> Unit<'a> {
        match self.protocol {
            // A version 3 tunnel's units are taken apart before.
            Protocol::Raw | Protocol::Framed { .. } => Unit::Data { begun: &[], bytes: unit },
            Protocol::Version1 { .. } if tls => match beats(unit, tls) {
                0 => Unit::Data { begun: &[], bytes: unit },
                count => Unit::Heartbeats(count),
            },
            Protocol::Version1 { .. } => match self.begun.take(unit) {
                Heard::Beats(count) => Unit::Heartbeats(count),
                Heard::Bytes(begun) => Unit::Data { begun, bytes: unit },
            },
            Protocol::Version2 => {
                let rest = self.token.take(unit);
                if self.answer() != Some(Answer::Open) {
                    // Nothing that follows another answer is the session's.
                    return Unit::Token;
                }
                self.protocol = Protocol::Raw;
                Unit::Data { begun: &[], bytes: rest }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: fn(&'static [u8]) -> Unit<'static> = |bytes| Unit::Data { begun: &[], bytes };

    #[test]
    fn only_agents_of_version_1_have_heartbeats_among_their_units() {
        let agent = Protocol::Version1 { threshold: None };
        for (protocol, tls, unit, expected) in [
            (Protocol::Raw, false, &b"BEAT"[..], DATA(b"BEAT")),
            (agent, false, b"BEATBEAT", Unit::Heartbeats(2)),
            (agent, true, b"BEAT", Unit::Heartbeats(1)),
            (agent, true, b"BEATBEAT", DATA(b"BEATBEAT")),
            (agent, true, b"BEATX", DATA(b"BEATX")),
        ] {
            assert_eq!(
                Decoder::new(protocol).classify(unit, tls),
                expected,
                "{protocol:?} {unit:?}"
            );
        }
        let mut decoder = Decoder::new(agent);
        assert_eq!(decoder.classify(b"BEATBE", false), Unit::Heartbeats(1));
        assert!(decoder.is_amid_heartbeat());
        let expected = Unit::Data { begun: b"BE", bytes: b"x" };
        assert_eq!(decoder.classify(b"x", false), expected, "it was none");
        assert!(!decoder.is_amid_heartbeat());
    }

    #[test]
    fn what_an_agent_of_version_2_sends_is_the_sessions_once_it_has_answered_open() {
        let mut decoder = Decoder::new(Protocol::Version2);
        assert_eq!(decoder.classify(b"BEATOP", false), Unit::Token);
        assert_eq!(decoder.classify(b"ENBEAT", false), DATA(b"BEAT"));
        assert_eq!((decoder.protocol(), decoder.answer()), (Protocol::Raw, Some(Answer::Open)));
        assert_eq!(decoder.classify(b"BEAT", false), DATA(b"BEAT"));
        for (unit, answer) in [(&b"FAILx"[..], Answer::Fail), (b"HTTPx", Answer::Wrong)] {
            let mut decoder = Decoder::new(Protocol::Version2);
            assert_eq!(decoder.classify(unit, true), Unit::Token);
            assert_eq!(decoder.classify(b"more", true), Unit::Token);
            assert_eq!(decoder.answer(), Some(answer));
        }
    }
}
