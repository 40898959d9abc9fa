//! What a version 3 tunnel says in a session (protocol page, section 8).

use std::time::{Duration, Instant};

use crate::wire::frames::{Event, Fault, Talk};

/// A version 3 tunnel's side of a session.
pub(super) struct Framed {
    pub(super) talk: Box<Talk>,
    /// Whether the agent has said that it has seen the session.
    pub(super) seen: bool,
    /// By when it must have, as far as that was looked at, and how long that is if four round trips are no longer.
    pub(super) seen_by: Instant,
    pub(super) seen_wait: Duration,
    /// Whether it has said that it has reached its service.
    pub(super) accepted: bool,
    /// What has ended the session before its time.
    pub(super) said: Option<Said>,
    /// How many users wait, as the connector has said since that was last asked.
    pub(super) wanted: usize,
    /// What came behind the session.
    pub(super) rest: Vec<u8>,
    /// Whether the peer's direction has ended since that was last asked.
    ended: bool,
    /// Whether the agent has said that it has seen the end of both.
    over: bool,
    /// On the agent's side, when the next heartbeat is due, and the time between two.
    beat: Option<(Instant, Duration)>,
}

/// How a version 3 peer ends a session before its time.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// `F`, for this reason.
    Failed(String),
    /// `X`, for this reason.
    Reset(String),
    /// What it may not say.
    Garbled(Fault),
}

impl Framed {
    /// A session that begins.
    pub(super) fn new(
        talk: Box<Talk>,
        beat: Option<Duration>,
        seen_wait: Duration,
        now: Instant,
    ) -> Self {
        Framed {
            seen: talk.is_seen(),
            seen_by: now + seen_wait,
            seen_wait,
            accepted: talk.is_accepted(),
            ended: talk.has_ended(),
            talk,
            said: None,
            wanted: 0,
            over: false,
            rest: Vec::new(),
            beat: beat.map(|beat| (now + beat, beat)),
        }
    }

    /// Whether what comes next is not this session's: it is left for what comes after.
    pub(super) fn is_over(&self) -> bool {
        self.said.is_some()
    }

    /// Whether both directions have ended: what becomes of the tunnel then is nothing to the session.
    pub(super) fn has_parted(&self) -> bool {
        self.over || self.talk.have_both_ended()
    }

    /// Whether the peer has ended its direction since this was last asked.
    pub(super) fn take_end(&mut self) -> bool {
        std::mem::take(&mut self.ended)
    }

    /// When the next heartbeat is due, if any.
    pub(super) fn beat_at(&self) -> Option<Instant> {
        self.beat.map(|(at, _)| at)
    }

    /// Whether a heartbeat is due; the next one is then due an interval later.
    pub(super) fn is_beat_due(&mut self, now: Instant) -> bool {
        match &mut self.beat {
            Some((at, interval)) if *at <= now => {
                *at = now + *interval;
                true
            }
            _ => false,
        }
    }

    /// Hears what came at once, and gives `data` the session's bytes in it, in one piece if they are in several
    /// frames: who sends small frames costs no more calls of the system than others. Gives the number of
    /// heartbeats.
    pub(super) fn hear(&mut self, unit: &[u8], data: &mut dyn FnMut(&[u8])) -> usize {
        let (mut rest, mut beats) = (unit, 0);
        let (mut first, mut gathered) = (&[][..], Vec::new());
        while !self.is_over() {
            match self.talk.hear(&mut rest) {
                Ok(None) => break,
                Ok(Some(Event::Data(bytes))) if first.is_empty() => first = bytes,
                Ok(Some(Event::Data(bytes))) => {
                    if gathered.is_empty() {
                        gathered.extend_from_slice(first);
                    }
                    gathered.extend_from_slice(bytes);
                }
                Ok(Some(event)) => beats += self.note(event),
                Err(fault) => self.said = Some(Said::Garbled(fault)),
            }
        }
        self.rest.extend_from_slice(rest);
        let bytes = if gathered.is_empty() { first } else { &gathered };
        if !bytes.is_empty() {
            data(bytes);
        }
        beats
    }

    /// Keeps what has happened; gives 1 for a heartbeat.
    fn note(&mut self, event: Event<'_>) -> usize {
        match event {
            Event::Beat => return 1,
            Event::Seen => self.seen = true,
            Event::Accepted => self.accepted = true,
            Event::Failed(reason) => self.said = Some(Said::Failed(reason)),
            Event::Reset(reason) => self.said = Some(Said::Reset(reason)),
            Event::Ended => self.ended = true,
            Event::Want(users) => self.wanted += usize::from(users),
            // No session is broken off by this side in here.
            Event::Over => self.over = true,
            Event::BeatAnswered | Event::Bye => {}
            // Bytes are gathered, and no session begins.
            Event::Data(_) | Event::Opened(_) => {}
        }
        0
    }
}
