//! What must hold of a session that is over.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use iofog_connector::fuzzing::frames::{Event, Side, Talk, Word};
use iofog_connector::fuzzing::{Ended, Ending, Protocol, limits};

use super::driver::{Session, tell};
use super::peer::{Doing, End, Framed};

const BEAT: &[u8] = b"BEAT";

/// What one leg's peer has sent, as the protocol page has it taken.
struct Taken {
    /// The units for the other leg. In plain TCP a heartbeat may be among them: whether it was
    /// one depends on where the reads ended.
    units: Vec<Vec<u8>>,
    /// Heartbeats, where that does not depend on the reads.
    heartbeats: Option<usize>,
    /// What a version 2 agent has answered, if anything.
    answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Open,
    Fail,
    Wrong,
}

impl Taken {
    fn length(&self) -> usize {
        self.units.iter().map(Vec::len).sum()
    }
}

impl Session {
    pub(super) fn judge(&self) {
        let ended = self.ended.borrow();
        let (ended, at) = ended.as_ref().expect("it has ended");
        tell(|| {
            let ends = self.peers.each_ref().map(|peer| peer.end);
            format!("{:?} {:?}, peers saw {ends:?}", ended.ending, ended.bytes)
        });
        let taken = [0, 1].map(|leg| self.taken(leg));
        self.judge_reason(ended, *at, &taken);
        self.judge_tunnel(ended);
        for from in [0, 1] {
            let counted = self.counted(from) as u64;
            // What was left of a broken leg is passed on when the session is over.
            let rest = ended.ending == Ending::Broken(from);
            assert!(counted == ended.bytes[from] || rest, "bytes are counted while they move");
            self.judge_direction(ended, &taken, from);
            self.judge_end(ended, from);
        }
    }

    /// A version 3 tunnel that goes on is idle at both ends, and another session can begin on it at once.
    pub(super) fn judge_tunnels(&mut self) {
        let ended = self.ended.borrow().as_ref().map(|(ended, _)| ended.ending);
        let ending = ended.expect("it has ended");
        for leg in [0, 1] {
            let broke = self.broke(leg);
            let Some(framed) = &mut self.peers[leg].framed else { continue };
            let is_at_fault = match ending {
                Ending::Dead(at) | Ending::Garbled(at) | Ending::Absent(at) => at == leg,
                _ => false,
            };
            let mut tunnels = self.tunnels.borrow_mut();
            let Some(kept) = &mut tunnels[leg] else {
                assert!(is_at_fault || broke, "{ending:?}: tunnel {leg} is closed");
                continue;
            };
            if broke {
                continue;
            }
            assert!(kept.talk.is_idle(), "{ending:?}: tunnel {leg} is not idle: {:?}", kept.talk);
            assert!(framed.talk.is_idle(), "{ending:?}: peer {leg} is not idle: {:?}", framed.talk);
            let is_agent = framed.talk.side() == Side::Agent;
            let ends: [&mut Talk; 2] = [&mut kept.talk, &mut framed.talk];
            let [connector, agent] = if is_agent {
                ends
            } else {
                let [kept, peer] = ends;
                [peer, kept]
            };
            let open = connector.say(Word::Open(&[1; 16]));
            let before = if is_agent { &[][..] } else { &kept.input };
            let bytes = [before, &open].concat();
            let mut rest = &bytes[..];
            let heard = loop {
                match agent.hear(&mut rest).expect("in order") {
                    Some(Event::Want(_) | Event::BeatAnswered) => {}
                    heard => break heard,
                }
            };
            assert_eq!(heard, Some(Event::Opened([1; 16].into())), "{ending:?}");
        }
    }

    /// The tunnel of a version 1 agent that goes on is kept for the next user, whatever has ended the
    /// session: dialled anew, it would bring that user the old answer.
    fn judge_tunnel(&self, ended: &Ended) {
        let lingers = matches!(self.protocols, [Protocol::Version1 { .. }, Protocol::Raw]);
        let goes_on = self.peers[0].doing == Doing::Sending && !self.broke(0);
        let absent = ended.ending == Ending::Absent(0);
        if lingers && goes_on && !absent {
            assert!(self.kept.get(), "{:?}: the tunnel is closed", ended.ending);
        }
    }

    /// How `leg`'s peer must have seen its connection end.
    fn judge_end(&self, ended: &Ended, leg: usize) {
        let end = self.peers[leg].end;
        if let Some(framed) = &self.peers[leg].framed {
            assert!(framed.answers <= framed.beats, "answers to what was not said");
            let side = 1 - leg;
            let told = self.peers[side].has_ended && !self.is_torn(side);
            assert!(!framed.heard_end || told, "leg {leg} hears an end that is none");
            let is_over = ended.ending == Ending::Complete && self.is_read(leg);
            if is_over && self.tunnels.borrow()[leg].is_some() && !framed.has_reset {
                assert!(framed.heard_end, "leg {leg} has not heard the end");
                assert!(framed.answers >= framed.beats_before_end, "an answer is missing");
            }
            return;
        }
        match ended.ending {
            // Who has said and heard all has no reason to see anything but an orderly end.
            Ending::Complete if self.is_read(leg) => assert_eq!(end, Some(End::Orderly), "{leg}"),
            // What is cut short is no end, unless that side's end had been told before.
            Ending::Broken(side) | Ending::Reset(side) | Ending::Garbled(side) if side != leg => {
                let told = self.peers[side].has_ended && !self.is_torn(side);
                assert!(end != Some(End::Orderly) || told, "leg {leg} takes a break for an end");
            }
            Ending::Failed(side) | Ending::Wrong(side) | Ending::Unanswered(side)
                if side != leg =>
            {
                assert_ne!(end, Some(End::Orderly), "leg {leg} takes a failure for an end");
            }
            _ => {}
        }
    }

    /// Bytes taken from `leg`.
    fn counted(&self, leg: usize) -> usize {
        self.traffic.bytes[leg].load(Ordering::Relaxed) as usize
    }

    /// Whether this peer's connection broke, as the session sees it.
    fn broke(&self, leg: usize) -> bool {
        self.peers[leg].is_broken() || self.is_torn(leg)
    }

    /// Whether this peer's end is none: without close_notify, and not a user's.
    fn is_torn(&self, leg: usize) -> bool {
        let user =
            leg == 1 && self.protocols[1] == Protocol::Raw && self.protocols[0] != Protocol::Raw;
        self.peers[leg].is_cut && !user
    }

    fn speaks_one(&self, leg: usize) -> bool {
        matches!(self.protocols[leg], Protocol::Version1 { .. })
    }

    fn speaks_three(&self, leg: usize) -> bool {
        self.framed(leg, |_| true)
    }

    fn framed(&self, leg: usize, what: impl FnOnce(&Framed) -> bool) -> bool {
        self.peers[leg].framed.as_ref().is_some_and(what)
    }

    /// What is taken of what `leg`'s peer has sent.
    fn taken(&self, leg: usize) -> Taken {
        let peer = &self.peers[leg];
        let mut taken = Taken { units: self.held[leg].clone(), heartbeats: None, answer: None };
        match self.protocols[leg] {
            Protocol::Version1 { .. } if peer.is_tls() => {
                let (beats, rest): (Vec<_>, Vec<_>) =
                    peer.sent.iter().cloned().partition(|unit| unit == BEAT);
                taken.heartbeats = Some(beats.len());
                taken.units.extend(rest);
            }
            Protocol::Raw | Protocol::Version1 { .. } | Protocol::Framed { .. } => {
                taken.units.extend(peer.sent.iter().cloned())
            }
            Protocol::Version2 => {
                // Tokens of four bytes each, until the answer.
                let all = peer.sent.concat();
                let answer = all.chunks_exact(4).position(|token| token != BEAT);
                taken.answer = answer.map(|at| match &all[4 * at..][..4] {
                    b"OPEN" => Answer::Open,
                    b"FAIL" => Answer::Fail,
                    _ => Answer::Wrong,
                });
                let mut tokens = match answer {
                    Some(at) if taken.answer == Some(Answer::Open) => 4 * at + 4,
                    _ => all.len(),
                };
                for unit in &peer.sent {
                    let (_, rest) = unit.split_at(tokens.min(unit.len()));
                    tokens -= unit.len() - rest.len();
                    if !rest.is_empty() {
                        taken.units.push(rest.to_vec());
                    }
                }
            }
        }
        taken
    }

    fn judge_reason(&self, ended: &Ended, at: Instant, taken: &[Taken; 2]) {
        let silent = self.peers.each_ref().map(|peer| at.duration_since(peer.sent_at));
        // Heartbeats do not keep a session, nor do a version 2 agent's tokens before its bytes.
        let spoke_at = [0, 1].map(|leg| {
            let tokens = self.protocols[leg] == Protocol::Version2 && taken[leg].length() == 0;
            if tokens { self.started } else { self.peers[leg].spoke_at }
        });
        let [agent, user] = &self.peers;
        let unspoken = at.duration_since(spoke_at[0].max(spoke_at[1]).max(user.ended_at));
        let unmoved = unspoken.min(at.duration_since(agent.ended_at));
        let done = self.peers.each_ref().map(|peer| peer.doing != Doing::Sending);
        let broken = [0, 1].map(|leg| self.broke(leg));
        match ended.ending {
            // A peer that is gone ends both directions.
            Ending::Complete => assert!(done == [true; 2] || broken.contains(&true)),
            Ending::Broken(leg) => assert!(broken[leg], "leg {leg} is whole"),
            Ending::Lingered => {
                assert!(
                    matches!(self.protocols, [Protocol::Version1 { .. }, Protocol::Raw]) && done[1]
                );
                // A user that ended when it had got an answer to its last bytes may be let go as
                // soon as that is over, which the silence before its end may have told. One that
                // may wait for more is kept for 7 s of silence, or for less in a rhythm.
                let asked_last = user.spoke_at > agent.spoke_at;
                let waits = asked_last || user.ended_at < agent.spoke_at;
                let least = if waits { limits::QUIET_LATE } else { Duration::ZERO };
                assert!(unspoken >= least, "somebody spoke {unspoken:?} before");
            }
            Ending::Silent => {
                assert!(done.contains(&true));
                // What a full other side keeps from being read does not move.
                let read = [0, 1].map(|leg| taken[leg].length() == self.counted(leg));
                assert!(
                    unmoved >= self.fin_wait || read != [true; 2],
                    "silent for {unmoved:?} only"
                );
            }
            Ending::Idle => {
                let idle = self.idle.expect("such a time");
                // As above.
                let read = [0, 1].map(|leg| taken[leg].length() == self.counted(leg));
                assert!(unmoved >= idle || read != [true; 2], "idle for {unmoved:?} only");
            }
            Ending::Absent(leg) => {
                let (Protocol::Version1 { threshold: Some(threshold) }
                | Protocol::Framed { threshold: Some(threshold), .. }) = self.protocols[leg]
                else {
                    panic!("{:?} owes no heartbeats", self.protocols[leg]);
                };
                assert!(silent[leg] >= threshold, "silent for {:?} only", silent[leg]);
            }
            Ending::Failed(leg) if self.speaks_three(leg) => {
                assert!(self.framed(leg, |framed| framed.has_failed));
            }
            Ending::Failed(leg) => {
                assert_eq!(
                    (self.protocols[leg], taken[leg].answer),
                    (Protocol::Version2, Some(Answer::Fail))
                );
            }
            Ending::Wrong(leg) => {
                assert_eq!(
                    (self.protocols[leg], taken[leg].answer),
                    (Protocol::Version2, Some(Answer::Wrong))
                );
            }
            Ending::Unanswered(leg) if self.speaks_three(leg) => {
                assert!(broken[leg], "leg {leg} is whole");
            }
            Ending::Unanswered(leg) => {
                assert_eq!(self.protocols[leg], Protocol::Version2);
                assert!((taken[leg].answer.is_none() && done[leg]) || broken[leg]);
            }
            Ending::NoAnswer(leg) => {
                assert!(self.protocols[leg] == Protocol::Version2 || self.speaks_three(leg));
                assert!(at.duration_since(self.started) >= limits::OPEN_WAIT);
            }
            Ending::Stalled(leg) => panic!("leg {leg}: the kernel acknowledges everything here"),
            Ending::Dead(leg) => {
                let is_late = at.duration_since(self.started) >= limits::SEEN_WAIT;
                assert!(self.speaks_three(leg) && (is_late || broken[leg]), "tunnel {leg} lives");
            }
            Ending::Reset(leg) => assert!(self.framed(leg, |framed| framed.has_reset)),
            Ending::Garbled(leg) => assert!(self.framed(leg, |framed| framed.has_garbled)),
        }
        assert!(ended.lasted <= at.duration_since(self.started) + Duration::from_millis(1));
    }

    /// What `from`'s peer has sent, against what the other has got.
    fn judge_direction(&self, ended: &Ended, taken: &[Taken; 2], from: usize) {
        let to = 1 - from;
        let (source, sink) = (&self.peers[from], &self.peers[to]);
        let counted = self.counted(from);
        let length = taken[from].length();
        let exact = !self.speaks_one(from) || source.is_tls();
        assert!(counted <= length, "{counted} of {length} bytes");
        if self.is_whole(ended, from) {
            // What is missing was heartbeats.
            assert!(length == counted || (!exact && (length - counted) % 4 == 0), "bytes are lost");
        }
        if self.speaks_one(to) && !sink.is_tls() {
            return self.judge_letters(ended, taken, from);
        }
        // Answers to `to`'s own heartbeats come among the other's bytes, as records.
        let (answers, data): (Vec<_>, Vec<_>) =
            sink.got.iter().cloned().partition(|got| self.speaks_one(to) && got == BEAT);
        if let Some(heartbeats) = taken[to].heartbeats {
            assert!(answers.len() <= heartbeats);
            if self.is_delivered(ended, from) && self.are_answered(ended, to) {
                assert_eq!(answers.len(), heartbeats, "an answer is missing");
            }
        }
        if self.speaks_one(to) && !self.speaks_one(from) {
            // The agent would swallow it.
            assert!(!data.iter().any(|record| record == b"BEATBEAT"));
        }
        let (sent, got) = (taken[from].units.concat(), data.concat());
        if exact {
            assert!(sent.starts_with(&got), "leg {to} got other bytes than were sent");
        } else {
            let (sent, got) = (without_letters(&sent), without_letters(&got));
            assert!(sent.starts_with(&got), "leg {to} got other bytes than were sent");
        }
        let is_framed = self.speaks_three(0) || self.speaks_three(1);
        if source.is_tls() && sink.is_tls() && !is_framed {
            let parted = self.speaks_one(to) && !self.speaks_one(from);
            let records = taken[from].units.iter().flat_map(|unit| match unit.as_slice() {
                b"BEAT" | b"BEATBEAT" if parted => vec![&unit[..2], &unit[2..]],
                _ => vec![&unit[..]],
            });
            for (got, sent) in data.iter().zip(records) {
                assert!(got == sent, "a record of {} bytes for {}", got.len(), sent.len());
            }
        }
        assert!(got.len() <= counted, "more than was counted");
        if self.is_delivered(ended, from) {
            assert_eq!(got.len(), counted, "leg {to} has not got all that was taken for it");
        }
    }

    /// To a version 1 agent without TLS, where nothing tells an answer from the same bytes.
    fn judge_letters(&self, ended: &Ended, taken: &[Taken; 2], from: usize) {
        let to = 1 - from;
        let got = self.peers[to].stream();
        let (data, received) =
            (without_letters(&taken[from].units.concat()), without_letters(&got));
        assert!(data.starts_with(&received), "leg {to} got other bytes than were sent");
        let counted = self.counted(from);
        assert!(got.len() <= counted + taken[to].length(), "more than was counted and answered");
        if self.is_delivered(ended, from) {
            assert!(got.len() >= counted, "leg {to} has not got all that was taken for it");
            if self.is_whole(ended, from) {
                assert_eq!(data.len(), received.len(), "bytes of leg {from} are lost");
            }
            if self.are_answered(ended, to) {
                // What of its own bytes was not passed on was answered, byte for byte.
                let answered = taken[to].length() - self.counted(to);
                assert_eq!(got.len(), counted + answered, "an answer is missing");
            }
        }
    }

    /// Whether the other leg's peer must have got everything that was taken from `from`.
    fn is_delivered(&self, ended: &Ended, from: usize) -> bool {
        !self.peers[1 - from].is_broken()
            && match ended.ending {
                Ending::Complete | Ending::Lingered => true,
                Ending::Broken(leg) | Ending::Reset(leg) => leg == from,
                _ => false,
            }
    }

    /// Whether everything that `from`'s peer has sent must have been taken.
    fn is_whole(&self, ended: &Ended, from: usize) -> bool {
        self.is_read(from)
            && match ended.ending {
                Ending::Complete => !self.peers[1 - from].is_broken(),
                Ending::Lingered => from == 1,
                _ => false,
            }
    }

    /// Whether all heartbeats of this peer must have been answered.
    fn are_answered(&self, ended: &Ended, leg: usize) -> bool {
        self.is_whole(ended, leg) && !self.ended_early[1 - leg]
    }

    /// Whether nothing that this peer has sent can have been lost before it was read.
    fn is_read(&self, leg: usize) -> bool {
        self.peers[leg].doing == Doing::Finished
    }
}

/// What is left without the letters of heartbeats, which the patterns do not have.
fn without_letters(bytes: &[u8]) -> Vec<u8> {
    // A table, since the engine takes note of each comparison.
    let mut keeps = [true; 256];
    BEAT.iter().for_each(|letter| keeps[usize::from(*letter)] = false);
    bytes.iter().copied().filter(|byte| keeps[usize::from(*byte)]).collect()
}
