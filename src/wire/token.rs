//! The tokens by which an agent of version 2 answers a pairing (protocol page, section 5.3).

use super::heartbeat::BEAT;

/// The agent has reached its service: what follows is the session's.
pub const OPEN: &[u8; 4] = b"OPEN";

/// The agent could not reach its service.
pub const FAIL: &[u8; 4] = b"FAIL";

/// What an agent has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// [`OPEN`].
    Open,
    /// [`FAIL`].
    Fail,
    /// Something that is not a token: the sender is not a version 2 agent.
    Wrong,
}

/// The answer of an agent that has been sent the PROXY header, as far as it has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Token {
    bytes: [u8; 4],
    length: usize,
}

impl Token {
    /// Reads from `unit` until the agent has answered; gives what follows.
    pub fn take<'a>(&mut self, unit: &'a [u8]) -> &'a [u8] {
        let mut unit = unit;
        while let ([byte, rest @ ..], None) = (unit, self.answer()) {
            // A heartbeat that crossed the header is passed over.
            self.length %= self.bytes.len();
            self.bytes[self.length] = *byte;
            self.length += 1;
            unit = rest;
        }
        unit
    }

    /// What the agent has answered; `None` as long as it has not.
    pub fn answer(&self) -> Option<Answer> {
        if self.length < self.bytes.len() {
            return None;
        }
        match &self.bytes {
            OPEN => Some(Answer::Open),
            FAIL => Some(Answer::Fail),
            BEAT => None,
            _ => Some(Answer::Wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_behind_heartbeats_wherever_the_reads_end() {
        for (sent, answer, rest) in [
            (&b"OPENdata"[..], Some(Answer::Open), &b"data"[..]),
            (b"BEATBEATOPENBEAT", Some(Answer::Open), b"BEAT"),
            (b"BEATFAILrest", Some(Answer::Fail), b"rest"),
            (b"HTTP/1.1", Some(Answer::Wrong), b"/1.1"),
            (b"BEATOPE", None, b""),
            (b"BEAT", None, b""),
        ] {
            for cut in 0..=sent.len() {
                let mut token = Token::default();
                let mut after = token.take(&sent[..cut]).to_vec();
                after.extend_from_slice(token.take(&sent[cut..]));
                assert_eq!((token.answer(), &after[..]), (answer, rest), "cut at {cut}");
            }
        }
    }
}
