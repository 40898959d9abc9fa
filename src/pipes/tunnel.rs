//! An agent's connection that has proved its passcode: its heartbeats, and what it sends while it waits (protocol
//! page, sections 4 to 6 and 8).

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::limits;
use crate::net::stall::{Stall, StallWatch};
use crate::net::stream::{Received, Stream};
use crate::os::FileGuard;
use crate::pipes::slot::Slot;
use crate::runtime::turn::Pace;
use crate::runtime::{Deadlines, now};
use crate::session::Drained;
use crate::wire::frames::{Event, Fault, Side, Talk, Word};
use crate::wire::greeting::Version;
use crate::wire::heartbeat::{BEAT, Rhythm, beats};

/// An agent's connection that has proved its passcode: only the task that
/// [serves agents](super::serve_agent) makes one.
pub struct Tunnel {
    /// Its connection.
    pub stream: Stream,
    /// Its rules.
    pub version: Version,
    /// What is said by those of version 3.
    pub talk: Option<Box<Talk>>,
    /// When it was heard.
    pub rhythm: Rhythm,
    /// Units that came before its pairing, in order; private pipes only.
    pub held: Vec<Box<[u8]>>,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// One of its side's `maxconnections`.
    pub slot: Slot,
    /// Its share of the open files.
    pub file: FileGuard,
    /// Since when it has sent nothing but heartbeats.
    quiet_since: Instant,
    /// Whether it has carried no session yet.
    fresh: bool,
    /// A heartbeat that has come in part; bytes of a stream only, never of records.
    begun: Vec<u8>,
    held_bytes: usize,
    answers: usize,
    pace: Pace,
    ended: bool,
    /// How its wait has ended by what its agent said, of version 3.
    over: Option<IdleEnd>,
    /// When its wait went on although its agent has been told that no session will begin on it any more.
    given_up: Option<Instant>,
    /// When its machine was asked whether it still knows of it, until that is over.
    probed: Option<Instant>,
}

/// How an idle tunnel ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleEnd {
    /// The agent ended it in order.
    Left,
    /// It broke.
    Broken,
    /// It sent nothing for its heartbeat threshold.
    Absent,
    /// It acknowledged nothing for a minute.
    Stalled,
    /// It sent something other than heartbeats outside a session.
    OutOfStep,
    /// It sent frames of version 3 that it may not send then.
    Garbled(Fault),
    /// Its agent wants no more sessions on it, or was told that there will be none, and has not closed it in time.
    Bye,
}

impl Tunnel {
    /// A tunnel that has just proved its passcode.
    pub fn new(
        stream: Stream,
        version: Version,
        peer: SocketAddr,
        slot: Slot,
        file: FileGuard,
    ) -> Self {
        let now = Instant::now();
        Tunnel {
            stream,
            version,
            talk: (version == Version::Three).then(|| Box::new(Talk::new(Side::Connector))),
            rhythm: Rhythm::new(now),
            held: Vec::new(),
            peer,
            slot,
            file,
            quiet_since: now,
            fresh: true,
            begun: Vec::new(),
            held_bytes: 0,
            answers: 0,
            pace: Pace::new(now),
            ended: false,
            over: None,
            given_up: None,
            probed: None,
        }
    }

    /// Tells the agent that it is in, and takes what followed its passcode at once.
    pub fn greet(&mut self, early: Vec<Box<[u8]>>) -> io::Result<()> {
        self.stream.queue(self.version.authorized())?;
        early.iter().try_for_each(|unit| self.hear(unit))
    }

    /// A version 1 tunnel that waits again after its session: its agent as it was known before, and
    /// what was heard from it since.
    pub fn again(
        stream: Stream,
        (peer, rhythm): (SocketAddr, Rhythm),
        slot: Slot,
        file: FileGuard,
        drained: &Drained,
    ) -> Self {
        let again = Tunnel::new(stream, Version::One, peer, slot, file);
        let rhythm = rhythm.resumed(drained.heard_at);
        Tunnel { rhythm, quiet_since: drained.spoke_at, fresh: false, ..again }
    }

    /// A version 3 tunnel that waits again after its session: its agent as it was known before, and when it was
    /// heard last.
    pub fn resumed(
        stream: Stream,
        talk: Box<Talk>,
        (peer, rhythm): (SocketAddr, Rhythm),
        slot: Slot,
        file: FileGuard,
        heard_at: Instant,
    ) -> Self {
        let again = Tunnel::new(stream, Version::Three, peer, slot, file);
        let over = talk.has_heard_bye().then_some(IdleEnd::Bye);
        Tunnel { talk: Some(talk), over, rhythm: rhythm.resumed(heard_at), fresh: false, ..again }
    }

    /// Since when it has sent nothing but heartbeats: anything else would have ended its wait.
    pub fn quiet_since(&self) -> Instant {
        self.quiet_since
    }

    /// Whether it has carried no session yet, nor the rest of one.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Whether something may have come in that has not been looked at.
    pub fn is_unheard(&self) -> bool {
        self.stream.maybe_readable() && !self.is_full() && !self.ended
    }

    /// When it is overdue. One that has ended, and waits only for what it sent to be delivered, is
    /// so from then on; one that is not read cannot be heard, and never is.
    pub fn overdue_at(&self) -> Option<Instant> {
        if self.has_ended() {
            return Some(self.rhythm.last_heard());
        }
        if self.is_full() { None } else { self.rhythm.overdue_at() }
    }

    /// Whether the agent has ended its direction.
    pub fn has_ended(&self) -> bool {
        self.ended || self.stream.has_ended()
    }

    /// Whether its machine is being asked whether it still knows of it.
    pub fn is_probed(&self) -> bool {
        self.probed.is_some()
    }

    /// Has the agent's machine asked at once, by TCP's keepalive, whether it still knows of this
    /// connection. One that has rebooted answers with a reset, which ends the wait. `false` if that
    /// was done within the last second.
    pub fn probe(&mut self) -> bool {
        let asks = self.probed.is_none();
        if asks {
            self.stream.keep_alive_after(limits::PROBE_IDLE);
            self.probed = Some(now());
        }
        asks
    }

    /// Ends what [`probe`](Self::probe) began: no more is asked than usual.
    pub fn end_probe(&mut self) {
        if self.probed.take().is_some() {
            self.stream.keep_alive_after(limits::KEEPALIVE_IDLE);
        }
    }

    /// Begins a session on it, if it is of version 3, with this PROXY header. Before that its agent is told of
    /// so many `users` that wait.
    pub fn open(&mut self, users: u16, header: &[u8]) {
        let Some(talk) = &mut self.talk else { return };
        let mut said = if users > 0 { talk.say(Word::Want(users)) } else { Vec::new() };
        said.extend(talk.say(Word::Open(header)));
        // An agent that is gone by now shows that to the relay.
        let _ = self.stream.queue_ahead(&said);
    }

    /// Tells the agent that no session will begin on it any more, if it is of version 3 and has not been told.
    pub fn say_bye(&mut self) {
        if let Some(talk) = self.talk.as_mut().filter(|talk| !talk.has_said_bye()) {
            // A write that fails is found by the flush. After a session a close would still be a reset.
            let _ = self.stream.queue(&talk.say(Word::Bye));
            self.stream.close_in_order();
        }
    }

    /// Whether no session is to begin on it any more, by its agent's word or the connector's.
    pub fn is_bid_farewell(&self) -> bool {
        self.talk.as_ref().is_some_and(|talk| talk.has_said_bye() || talk.has_heard_bye())
    }

    /// By when the rest of a heartbeat should come, if one has come in part.
    pub fn beat_due(&self) -> Option<Instant> {
        (!self.begun.is_empty()).then(|| self.rhythm.last_heard() + limits::BEAT_REST)
    }

    fn is_full(&self) -> bool {
        self.held_bytes >= limits::HELD_BYTES || self.answers >= limits::ANSWERS_WAITING
    }

    /// When an agent that beats without a pause is read again. What is held is bounded anyway.
    fn resumes_at(&self, now: Instant) -> Option<Instant> {
        self.pace.resumes_at(now).filter(|_| self.held.is_empty())
    }

    /// What the partner is to be sent first: the units held, and a heartbeat's beginning that
    /// turned out to be none.
    pub fn take_held(&mut self) -> Vec<Box<[u8]>> {
        let mut held = std::mem::take(&mut self.held);
        if !self.begun.is_empty() {
            held.push(std::mem::take(&mut self.begun).into());
        }
        held
    }

    /// Takes one unit: answers heartbeats, holds the rest.
    pub fn hear(&mut self, unit: &[u8]) -> io::Result<()> {
        let now = now();
        self.rhythm.heard(now);
        if self.version == Version::Three {
            return self.hear_frames(unit, now);
        }
        if self.stream.is_tls() && self.version == Version::One {
            return if beats(unit, true) > 0 { self.answer(1, now) } else { self.hold(unit) };
        }
        // In a stream of bytes a heartbeat may come in pieces.
        let mut bytes = std::mem::take(&mut self.begun);
        bytes.extend_from_slice(unit);
        let whole = bytes.len() - bytes.len() % BEAT.len();
        let (whole, begun) = bytes.split_at(whole);
        if (whole.is_empty() || beats(whole, false) > 0) && BEAT.starts_with(begun) {
            self.begun = begun.to_vec();
            let count = beats(whole, false);
            return if count > 0 { self.answer(count, now) } else { Ok(()) };
        }
        self.hold(&bytes)
    }

    /// Takes frames of version 3, in whatever pieces: answers heartbeats, and ends the wait for anything else.
    fn hear_frames(&mut self, unit: &[u8], now: Instant) -> io::Result<()> {
        let Some(talk) = &mut self.talk else { return Ok(()) };
        let (mut rest, mut answers, mut count) = (unit, Vec::new(), 0);
        while self.over.is_none() {
            match talk.hear(&mut rest) {
                Ok(None) => break,
                Ok(Some(Event::Beat)) => {
                    self.rhythm.beat(now);
                    answers.extend(talk.say(Word::BeatAnswer));
                    count += 1;
                }
                Ok(Some(Event::Bye)) => self.over = Some(IdleEnd::Bye),
                Ok(Some(_)) => self.over = Some(IdleEnd::OutOfStep),
                Err(fault) => self.over = Some(IdleEnd::Garbled(fault)),
            }
        }
        self.answers += answers.len();
        if count == 0 { Ok(()) } else { self.stream.queue_joined(&answers, count) }
    }

    fn answer(&mut self, count: usize, now: Instant) -> io::Result<()> {
        self.rhythm.beat(now);
        self.answers += count * BEAT.len();
        self.stream.queue_times(BEAT, count)
    }

    fn hold(&mut self, unit: &[u8]) -> io::Result<()> {
        self.held_bytes += unit.len();
        self.held.push(unit.into());
        Ok(())
    }

    /// Listens to the waiting agent and looks after it; ready when its wait is over without a
    /// partner.
    pub fn poll_idle(
        &mut self,
        context: &Context<'_>,
        public: bool,
        threshold: Option<Duration>,
        watch: &mut StallWatch,
        deadlines: &mut Deadlines,
    ) -> Poll<IdleEnd> {
        if let Err(why) = self.listen(context, public) {
            return Poll::Ready(why);
        }
        let absent_at = threshold.map(|threshold| self.rhythm.last_heard() + threshold);
        if absent_at.is_some_and(|at| deadlines.has_passed(at)) {
            return Poll::Ready(IdleEnd::Absent);
        }
        if self.talk.as_ref().is_some_and(|talk| talk.has_said_bye()) {
            // Its place is not its agent's to keep.
            let since = *self.given_up.get_or_insert(deadlines.now());
            if deadlines.has_passed(since + limits::BYE[0]) {
                return Poll::Ready(IdleEnd::Bye);
            }
        }
        // Not checked before it could have become true.
        let stall = watch.look(&mut self.stream, limits::UNACKNOWLEDGED, deadlines);
        if stall == Stall::Gone {
            return Poll::Ready(IdleEnd::Stalled);
        }
        if self.probed.is_some_and(|at| deadlines.has_passed(at + limits::PLACE_WAIT)) {
            self.end_probe();
        }
        if let Some(at) = self.beat_due().filter(|at| *at > deadlines.now()) {
            deadlines.look_at(at);
        }
        if let Some(at) = self.resumes_at(deadlines.now()) {
            deadlines.look_at(at);
        }
        Poll::Pending
    }

    /// Reads what the agent says while it waits, and answers; an error is why its wait is over.
    fn listen(&mut self, context: &Context<'_>, public: bool) -> Result<(), IdleEnd> {
        loop {
            self.flush(context)?;
            if !self.may_be_read(context, public)? || !self.read(context)? {
                return Ok(());
            }
        }
    }

    fn flush(&mut self, context: &Context<'_>) -> Result<(), IdleEnd> {
        match self.stream.poll_flush(context) {
            Poll::Ready(Ok(())) => self.answers = 0,
            Poll::Ready(Err(_)) => return Err(IdleEnd::Broken),
            Poll::Pending => {}
        }
        Ok(())
    }

    /// Whether the agent is to be read now. One that is not cannot be heard, but is known to have
    /// gone, or to have ended: from then on its silence counts.
    fn may_be_read(&mut self, context: &Context<'_>, public: bool) -> Result<bool, IdleEnd> {
        if let Some(over) = self.over {
            return Err(over);
        }
        if !self.held.is_empty() && (public || self.version == Version::Two) {
            return Err(IdleEnd::OutOfStep);
        }
        if !self.ended && !self.is_full() && self.resumes_at(now()).is_none() {
            return Ok(true);
        }
        // What it sent before it ended is still to be delivered, unless it is gone altogether.
        let gone = self.stream.poll_gone(context).is_ready();
        if !self.has_ended() {
            self.rhythm.heard(now());
        }
        if gone { Err(IdleEnd::Broken) } else { Ok(false) }
    }

    /// Reads once; whether there may be more to read.
    fn read(&mut self, context: &Context<'_>) -> Result<bool, IdleEnd> {
        let before = self.stream.spent();
        let mut units: Vec<Box<[u8]>> = Vec::new();
        match self.stream.poll_receive(context, &mut |unit| units.push(unit.into())) {
            Poll::Ready(Ok(Received::Bytes(_))) => {
                units.iter().try_for_each(|unit| self.hear(unit)).map_err(|_| IdleEnd::Broken)?;
                self.pace.charge(self.stream.spent().saturating_sub(before), now());
            }
            Poll::Ready(Ok(Received::Ended)) if !self.held.is_empty() => self.ended = true,
            Poll::Ready(Ok(_)) if !self.stream.is_cut() => return Err(IdleEnd::Left),
            Poll::Ready(_) => return Err(IdleEnd::Broken),
            Poll::Pending => return Ok(false),
        }
        Ok(true)
    }

    /// When a fresh one has been quiet for long enough to be given a user of a mapping that is wary.
    pub fn quiet_enough_at(&self, now: Instant) -> Option<Instant> {
        let quiets = [limits::QUIET_LATE, limits::QUIET_OWED].into_iter();
        let mut ats = quiets.map(|quiet| self.quiet_since + quiet);
        ats.find(|at| self.fresh && *at > now)
    }
}
