//! Sessions without sockets: single promises, and histories drawn at random against a naive model.

use super::*;
use crate::net::stall::Acknowledged;
use crate::wire::frames::{Side, Talk, Word};

const AGENT: Protocol = Protocol::Version1 { threshold: Some(Duration::from_secs(30)) };

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A connection of which everything is known.
#[derive(Default)]
struct Known {
    /// Whether so much waits for the peer that the other leg is not read.
    clogged: bool,
    /// Whether the peer has not acknowledged all that it was sent.
    owed: bool,
    /// Whether it is gone, and acknowledges nothing.
    stalled: bool,
    draining: bool,
    /// Whether it has taken some since it was last asked, and no more.
    took: bool,
    readable: bool,
    cut: bool,
    goodbye: bool,
}

impl Acknowledged for Known {
    fn may_stall(&self) -> bool {
        self.owed
    }

    fn is_stalled(&mut self) -> bool {
        self.stalled
    }
}

impl Connection for Known {
    fn waiting(&self) -> usize {
        if self.clogged { limits::READ_AHEAD } else { 0 }
    }

    fn maybe_readable(&self) -> bool {
        self.readable
    }

    fn is_draining(&mut self) -> bool {
        std::mem::take(&mut self.took) || self.draining
    }

    fn has_arrived(&self) -> bool {
        !self.clogged
    }

    fn is_cut(&self) -> bool {
        self.cut
    }

    fn has_sent_close_notify(&self) -> bool {
        self.goodbye
    }

    fn round_trip(&self) -> Duration {
        Duration::ZERO
    }
}

fn begin(protocols: [Protocol; 2], fin_wait: Duration, now: Instant) -> Progress<Known> {
    begin_with(protocols, Silence { after_end: fin_wait, ever: None }, now)
}

fn begin_with(protocols: [Protocol; 2], silence: Silence, now: Instant) -> Progress<Known> {
    let legs =
        protocols.map(|protocol| Endpoint { stream: Known::default(), protocol, talk: None });
    let lingers = matches!(protocols, [Protocol::Version1 { .. }, Protocol::Raw]);
    let residue = lingers.then(|| Residue::new(Duration::ZERO, now));
    Progress::new(legs, residue, silence, Arc::default(), now)
}

#[test]
fn a_session_is_complete_once_both_ends_have_been_passed_on() {
    let now = Instant::now();
    let mut session = begin([Protocol::Raw; 2], ms(1000), now);
    assert_eq!(session.ending(now), Err(None));
    for from in [0, 1] {
        assert!(!session.passes_end_on(from));
        session.ended(from, now);
        assert!(session.passes_end_on(from));
        assert_eq!(session.ending(now), Err(Some(now + ms(1000))));
        session.legs[1 - from].output = Output::Finished;
    }
    assert_eq!(session.ending(now), Ok(Ending::Complete));
}

#[test]
fn what_a_peer_still_takes_keeps_a_session_from_being_silent() {
    let now = Instant::now();
    let mut session = begin([Protocol::Raw; 2], ms(1000), now);
    session.ended(0, now);
    session.legs[1].stream.draining = true;
    assert_eq!(session.ending(now + ms(1000)), Err(Some(now + ms(2000))));
    session.legs[1].stream.draining = false;
    assert_eq!(session.ending(now + ms(1999)), Err(Some(now + ms(2000))));
    assert_eq!(session.ending(now + ms(2000)), Ok(Ending::Silent));
    // What it took before the end does not count.
    let mut session = begin([Protocol::Raw; 2], ms(1000), now);
    session.legs[1].stream.took = true;
    session.ended(0, now);
    assert_eq!(session.ending(now), Err(Some(now + ms(1000))));
    assert_eq!(session.ending(now + ms(1000)), Ok(Ending::Silent));
    // It is asked every 5 s, too, while bytes wait for it.
    let mut session = begin([Protocol::Raw; 2], ms(6000), now);
    session.ended(0, now);
    let peer = &mut session.legs[1].stream;
    (peer.clogged, peer.owed, peer.draining) = (true, true, true);
    assert_eq!(session.ending(now), Err(Some(now + ms(5000))));
    assert_eq!(session.ending(now + ms(5000)), Err(Some(now + ms(10_000))));
    session.legs[1].stream.draining = false;
    assert_eq!(session.ending(now + ms(10_000)), Err(Some(now + ms(11_000))));
    assert_eq!(session.ending(now + ms(11_000)), Ok(Ending::Silent));
}

#[test]
fn what_a_user_said_before_it_broke_is_still_given_to_an_agent_of_version_1() {
    let now = Instant::now();
    let mut session = begin([AGENT, Protocol::Raw], ms(60_000), now);
    session.legs[0].stream.clogged = true;
    session.heard(1, 100, now);
    session.broke(1, now);
    assert!(session.ending(now + ms(1)).is_err());
    session.legs[0].stream.clogged = false;
    assert_eq!(session.ending(now + ms(2)), Ok(Ending::Broken(1)));
    assert!(session.keeps_tunnel(Ending::Broken(1)));
    // The agent's break is one at once, and so is that of a user of version 2.
    for (protocols, leg) in [([AGENT, Protocol::Raw], 0), ([Protocol::Version2, Protocol::Raw], 1)]
    {
        let mut session = begin(protocols, ms(60_000), now);
        let _ = session.legs[0].decoder.classify(b"OPEN", false);
        session.legs[1 - leg].stream.clogged = true;
        session.broke(leg, now);
        assert_eq!(session.ending(now), Ok(Ending::Broken(leg)));
        assert!(!session.keeps_tunnel(Ending::Broken(leg)));
    }
}

#[test]
fn an_agent_whose_user_has_broken_is_read_so_that_it_takes_what_that_user_has_sent() {
    let now = Instant::now();
    let mut session = begin([AGENT, Protocol::Raw], ms(60_000), now);
    session.legs.iter_mut().for_each(|leg| leg.stream.clogged = true);
    session.heard(1, 100, now);
    assert!(!session.may_read(0, now));
    session.broke(1, now);
    assert!(session.may_read(0, now), "it writes, and reads when that is done");
    // What is dropped moves nobody.
    session.heard(0, 100, now + ms(59_999));
    assert_eq!(session.bytes, [0, 100]);
    assert_eq!(session.ending(now + ms(60_000)), Ok(Ending::Silent));
    let mut session = begin([Protocol::Version2, Protocol::Raw], ms(60_000), now);
    session.broke(1, now);
    assert!(!session.may_read(0, now));
}

#[test]
fn an_agent_that_is_not_read_is_not_absent() {
    let now = Instant::now();
    let mut session = begin([AGENT, Protocol::Raw], ms(60_000), now);
    session.legs[1].stream.clogged = true;
    assert!(!session.may_read(0, now));
    assert_eq!(session.ending(now + ms(40_000)), Err(Some(now + ms(70_000))));
    session.legs[1].stream.clogged = false;
    assert!(session.may_read(0, now + ms(50_000)));
    assert_eq!(session.ending(now + ms(79_999)), Err(Some(now + ms(80_000))));
    assert_eq!(session.ending(now + ms(80_000)), Ok(Ending::Absent(0)));
}

#[test]
fn what_was_to_come_on_a_tunnel_that_broke_is_told() {
    let now = Instant::now();
    let mut session = begin([AGENT, Protocol::Raw], ms(60_000), now);
    session.heard(1, 1, now);
    assert_eq!(session.missing(Ending::Absent(0), now), Missing::Answer);
    session.heard(0, 1, now);
    assert_eq!(session.missing(Ending::Stalled(0), now), Missing::Rest);
    assert_eq!(session.missing(Ending::Silent, now), Missing::Nothing, "the tunnel is there");
    // The user has left in order, with all of a short answer.
    let later = now + ms(100);
    session.legs[1].stream.goodbye = true;
    session.ended(1, later);
    assert_eq!(session.missing(Ending::Absent(0), later), Missing::Nothing);
    assert_eq!(session.missing(Ending::Broken(0), later), Missing::Rest, "more may be unread");
}

/// What can happen to a leg.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    /// It was read, and so many bytes of it were passed on: 0 for a heartbeat.
    Read(u64),
    Ended {
        cut: bool,
        goodbye: bool,
    },
    /// A read has met an error.
    Broke,
    /// A write has.
    CannotSend,
    Gone,
    Answered(Answer),
    Clogged(bool),
    /// It is sent bytes that it does not acknowledge at once.
    Owed,
    Stalled,
    Draining(bool),
    Readable(bool),
    /// The other's end was passed on to it.
    Told,
}

/// A session as the protocol page tells of it: a list of what has happened, which every question
/// goes through from the beginning.
struct Model {
    protocols: [Protocol; 2],
    silence: Silence,
    begun: Instant,
    log: Vec<(Instant, usize, Event)>,
    /// When a peer was last seen to take what the kernel had for it.
    drained: Instant,
    /// When bytes that somebody gets last moved, or a direction ended.
    moved: Instant,
    /// When each leg was last read again after a time in which it was not.
    resumed: [Instant; 2],
    residue: Option<Residue>,
}

impl Model {
    fn times(&self, leg: usize, is: impl Fn(Event) -> bool) -> Option<Instant> {
        let mut found = self.log.iter().rev().filter(|(_, on, event)| *on == leg && is(*event));
        found.next().map(|(at, ..)| *at)
    }

    fn had(&self, leg: usize, is: impl Fn(Event) -> bool) -> bool {
        self.times(leg, is).is_some()
    }

    /// What was last said of something that comes and goes.
    fn last(&self, leg: usize, is: impl Fn(Event) -> Option<bool>) -> bool {
        let events = self.log.iter().rev().filter(|(_, on, _)| *on == leg);
        events.filter_map(|(.., event)| is(*event)).next().unwrap_or(false)
    }

    fn is_open(&self, leg: usize) -> bool {
        !self.had(leg, |event| matches!(event, Event::Ended { .. } | Event::Broke))
    }

    /// Whether it ended TLS without close_notify, which only a user may.
    fn was_cut(&self, leg: usize) -> bool {
        let may =
            leg == 1 && self.protocols[0] != Protocol::Raw && self.protocols[1] == Protocol::Raw;
        !may && self.had(leg, |event| matches!(event, Event::Ended { cut: true, .. }))
    }

    fn is_broken(&self, leg: usize) -> bool {
        let broke = |event| matches!(event, Event::Broke | Event::CannotSend | Event::Gone);
        self.was_cut(leg) || self.had(leg, broke)
    }

    fn cannot_be_sent(&self, leg: usize) -> bool {
        self.had(leg, |event| matches!(event, Event::Broke | Event::CannotSend))
    }

    fn is_clogged(&self, leg: usize) -> bool {
        self.last(leg, |event| if let Event::Clogged(is) = event { Some(is) } else { None })
    }

    fn is_draining(&self, leg: usize) -> bool {
        self.last(leg, |event| if let Event::Draining(is) = event { Some(is) } else { None })
    }

    fn is_readable(&self, leg: usize) -> bool {
        self.last(leg, |event| if let Event::Readable(is) = event { Some(is) } else { None })
    }

    fn owes_answer(&self, leg: usize) -> bool {
        self.protocols[leg] == Protocol::Version2
            && !self.had(leg, |event| event == Event::Answered(Answer::Open))
    }

    fn is_read(&self, leg: usize) -> bool {
        let is_full = self.is_clogged(1 - leg) || self.cannot_be_sent(1 - leg);
        self.is_open(leg) && (!is_full || self.is_dropped(leg))
    }

    /// Whether the user's last bytes are unanswered.
    fn owes(&self) -> bool {
        let spoke = |leg| {
            let spoke = |(_, on, event): &_| *on == leg && matches!(event, Event::Read(1..));
            self.log.iter().rposition(spoke)
        };
        spoke(1) > spoke(0)
    }

    /// Whether what `leg` sends goes nowhere: that of a version 1 agent whose user has broken.
    fn is_dropped(&self, leg: usize) -> bool {
        leg == 0 && self.residue.is_some() && self.cannot_be_sent(1)
    }

    fn tells(&self, from: usize) -> bool {
        let to = 1 - from;
        let untold = self.residue.is_some() && from == 1 && self.is_open(0);
        self.had(from, |event| matches!(event, Event::Ended { .. }))
            && !self.is_broken(from)
            && !self.owes_answer(from)
            && !untold
            && !self.cannot_be_sent(to)
            && !self.had(to, |event| event == Event::Told)
    }

    fn is_over(&self, from: usize) -> bool {
        let to = 1 - from;
        let told = !self.is_open(from) && self.had(to, |event| event == Event::Told);
        let untold = self.residue.is_some() && from == 1 && !self.is_open(1);
        self.is_broken(to) || told || (untold && self.is_broken(1) && !self.is_clogged(0))
    }

    /// Whether the kernel is asked now whether the peer is gone.
    fn is_asked(&self, leg: usize, now: Instant) -> bool {
        let owed = self.times(leg, |event| event == Event::Owed);
        owed.is_some_and(|at| {
            let since = (now - at).as_millis();
            since > 0 && since % limits::STALL_CHECK.as_millis() == 0
        })
    }

    fn moved(&self) -> Instant {
        self.moved.max(self.drained)
    }

    fn happens(&mut self, leg: usize, event: Event, now: Instant) {
        let were_read = [0, 1].map(|leg| self.is_read(leg));
        self.log.push((now, leg, event));
        match event {
            Event::Read(1..) if !self.is_dropped(leg) => self.moved = now,
            Event::Ended { .. } | Event::Broke => self.moved = now,
            _ => {}
        }
        let again = [0, 1].map(|leg| !were_read[leg] && self.is_read(leg));
        for (resumed, _) in self.resumed.iter_mut().zip(again).filter(|(_, again)| *again) {
            *resumed = now;
        }
        let Some(residue) = &mut self.residue else { return };
        if again[0] {
            residue.read_again(now);
        }
        match (leg, event) {
            (0, Event::Read(bytes @ 1..)) => residue.heard(bytes, now),
            (1, Event::Read(1..)) => residue.asked(),
            (1, Event::Ended { goodbye, .. }) => {
                let leaving = if goodbye { Leaving::InOrder } else { Leaving::Fin };
                let got_all = !self.is_clogged(1);
                self.residue.as_mut().unwrap().left(leaving, got_all, now);
            }
            _ => {}
        }
    }

    fn ending(&mut self, now: Instant) -> Option<Ending> {
        let lingers = self.residue.is_some();
        let is_over = self.is_over(0) && self.is_over(1);
        for leg in [0, 1] {
            if self.had(leg, |event| event == Event::Answered(Answer::Fail)) {
                return Some(Ending::Failed(leg));
            }
            if self.had(leg, |event| event == Event::Answered(Answer::Wrong)) {
                return Some(Ending::Wrong(leg));
            }
            if self.owes_answer(leg) && (!self.is_open(leg) || self.is_broken(leg)) {
                return Some(Ending::Unanswered(leg));
            }
            if self.is_broken(leg) && (!lingers || leg == 0 || is_over) {
                return Some(Ending::Broken(leg));
            }
        }
        if is_over {
            return Some(Ending::Complete);
        }
        for leg in [0, 1] {
            if let Protocol::Version1 { threshold: Some(threshold) } = self.protocols[leg] {
                let heard = self.times(leg, |event| matches!(event, Event::Read(_)));
                let heard = heard.unwrap_or(self.begun).max(self.resumed[leg]);
                if self.is_read(leg) && now >= heard + threshold {
                    return Some(Ending::Absent(leg));
                }
            }
            if self.owes_answer(leg) && now >= self.begun + limits::OPEN_WAIT {
                return Some(Ending::NoAnswer(leg));
            }
            if self.is_asked(leg, now) {
                if self.had(leg, |event| event == Event::Stalled) {
                    return Some(Ending::Stalled(leg));
                }
                if self.is_draining(leg) && self.is_clogged(leg) {
                    self.drained = now;
                }
            }
        }
        let one_has_ended = [0, 1].iter().any(|leg| !self.is_open(*leg) || self.is_broken(*leg));
        let after_end = one_has_ended.then_some((self.silence.after_end, Ending::Silent));
        let ever = self.silence.ever.map(|ever| (ever, Ending::Idle));
        let first = after_end.into_iter().chain(ever).min_by_key(|(longest, _)| *longest);
        if let Some((_, ending)) = first.filter(|(longest, _)| now >= self.moved() + *longest) {
            if !self.is_draining(0) && !self.is_draining(1) {
                return Some(ending);
            }
            self.drained = now;
        }
        let residue = self.residue.as_ref()?;
        let settled = !self.is_clogged(0) && !self.is_clogged(1);
        let over = residue.verdict(now) == Verdict::Clean && !self.is_readable(0);
        (!self.is_open(1) && settled && over).then_some(Ending::Lingered)
    }
}

/// All times are multiples of this, and the model is asked at each of them.
const TICK: Duration = Duration::from_millis(5);

/// The session is looked at when something happens to it and when it has asked for that, and once
/// in a while in vain; the model at every tick. Both end at the same time, and in the same way.
#[test]
fn a_session_in_any_history_ends_as_a_naive_model_of_it_does() {
    let asked = std::env::var("IOFOG_CONNECTOR_HISTORIES").ok();
    let histories = asked.map_or(5000, |count| count.parse().expect("a number"));
    let mut endings = [0; 11];
    for number in 0..histories {
        if let Some(ending) = history(number) {
            endings[kind(ending)] += 1;
        }
    }
    println!("endings by kind: {endings:?}");
    assert!(histories < 5000 || endings.iter().all(|count| *count > 0), "{endings:?}");
}

fn kind(ending: Ending) -> usize {
    match ending {
        Ending::Complete => 0,
        Ending::Broken(_) => 1,
        Ending::Lingered => 2,
        Ending::Silent => 3,
        Ending::Absent(_) => 4,
        Ending::Stalled(_) => 5,
        Ending::Failed(_) => 6,
        Ending::Wrong(_) => 7,
        Ending::Unanswered(_) => 8,
        Ending::NoAnswer(_) => 9,
        Ending::Idle => 10,
        Ending::Dead(_) | Ending::Reset(_) | Ending::Garbled(_) => {
            panic!("no version 3 tunnel is in these histories: {ending:?}")
        }
    }
}

fn history(seed: u64) -> Option<Ending> {
    let random = &mut fastrand::Rng::with_seed(seed);
    let begun = Instant::now();
    let threshold = ticks(random, 1000..8000);
    let agent = Protocol::Version1 { threshold: random.bool().then_some(threshold) };
    let protocols = match random.u8(..8) {
        0 => [Protocol::Raw; 2],
        1 => [agent; 2],
        2 => [Protocol::Version2, agent],
        3 | 4 => [Protocol::Version2, Protocol::Raw],
        _ => [agent, Protocol::Raw],
    };
    let fin_wait = ticks(random, 500..12_000);
    let ever = (random.u8(..4) == 0).then(|| ticks(random, 500..12_000));
    let silence = Silence { after_end: fin_wait, ever };
    let mut session = begin_with(protocols, silence, begun);
    let residue = session.residue.clone();
    let mut model = Model {
        protocols,
        silence,
        begun,
        log: Vec::new(),
        drained: begun,
        moved: begun,
        resumed: [begun; 2],
        residue,
    };
    let what = |model: &Model| {
        let told = model.log.iter().map(|(at, leg, event)| (*at - begun, *leg, *event));
        format!("seed {seed}: {protocols:?}, {silence:?}: {:#?}", told.collect::<Vec<_>>())
    };

    let mut events = random.u32(..15);
    let (mut now, mut next_event) = (begun, begun);
    let mut next_look = Some(begun);
    let last = loop {
        let mut looks = next_look.is_some_and(|at| at <= now) || random.u8(..) == 0;
        while events > 0 && next_event <= now {
            events -= 1;
            next_event = now + pause(random);
            let leg = random.usize(..2);
            if let Some(event) = draw(random, &model, leg) {
                assert_eq!(session.may_read(leg, now), model.is_read(leg), "{}", what(&model));
                apply(&mut session, leg, event, now);
                model.happens(leg, event, now);
                looks = true;
            }
        }
        for from in [0, 1] {
            let tells = model.tells(from);
            assert_eq!(
                session.passes_end_on(from),
                tells,
                "at {:?}, {}",
                now - begun,
                what(&model)
            );
            if tells && !model.is_clogged(1 - from) {
                session.legs[1 - from].output = Output::Finished;
                model.happens(1 - from, Event::Told, now);
                looks = true;
            }
        }
        let expected = model.ending(now);
        let mut found = None;
        if looks {
            for leg in [0, 1] {
                session.may_read(leg, now);
            }
            match session.ending(now) {
                Ok(ending) => found = Some(ending),
                Err(next) => next_look = next,
            }
        }
        if found.is_none() && expected == Some(Ending::Lingered) {
            // What the user has not got yet is asked for now and then only.
            let by = now + limits::LINGER_CHECK;
            assert!(next_look.is_some_and(|at| at <= by), "{}", what(&model));
            break expected;
        }
        assert_eq!(found, expected, "at {:?}, {}", now - begun, what(&model));
        if found.is_some() || (events == 0 && now >= next_event + ms(15_000)) {
            break found;
        }
        now += TICK;
    };
    if let Some(ending) = last {
        let tunnel = model.residue.is_some()
            && model.is_open(0)
            && !model.cannot_be_sent(0)
            && !model.is_broken(0)
            && !model.had(0, |event| event == Event::Told);
        // Whatever else ends the session: its agent would redial, and bring the old answer.
        let agent_gone =
            matches!(ending, Ending::Broken(0) | Ending::Absent(0) | Ending::Stalled(0));
        assert_eq!(session.keeps_tunnel(ending), tunnel && !agent_gone, "{}", what(&model));
        if tunnel && agent_gone && model.owes() {
            assert_eq!(session.missing(ending, now), Missing::Answer, "{}", what(&model));
        }
    }
    last
}

fn ticks(random: &mut fastrand::Rng, millis: std::ops::Range<u64>) -> Duration {
    let tick = TICK.as_millis() as u64;
    ms(random.u64(millis) / tick * tick)
}

fn pause(random: &mut fastrand::Rng) -> Duration {
    match random.u8(..20) {
        0 => ticks(random, 0..12_000),
        1..=4 => ticks(random, 0..3000),
        _ => ticks(random, 0..300),
    }
}

/// Something that can happen to a leg now.
fn draw(random: &mut fastrand::Rng, model: &Model, leg: usize) -> Option<Event> {
    let may_end = model.is_read(leg) && !model.is_readable(leg);
    Some(match random.u8(..26) {
        0..=6 if may_end && !model.owes_answer(leg) => {
            Event::Read([0, 1, 100, 70_000][random.usize(..4)])
        }
        0..=6 if model.owes_answer(leg) && model.is_read(leg) => match random.u8(..6) {
            0 => Event::Answered(Answer::Fail),
            1 => Event::Answered(Answer::Wrong),
            _ => Event::Answered(Answer::Open),
        },
        7..=11 if may_end => {
            let goodbye = random.bool();
            Event::Ended { cut: !goodbye && random.u8(..4) == 0, goodbye }
        }
        12 if may_end => Event::Broke,
        13 => Event::CannotSend,
        14 => Event::Gone,
        15..=17 => Event::Clogged(!model.is_clogged(leg)),
        18 | 19 if !model.had(leg, |event| event == Event::Owed) => Event::Owed,
        20 | 21 if model.had(leg, |event| event == Event::Owed) => Event::Stalled,
        22 | 23 => Event::Draining(!model.is_draining(leg)),
        24 => Event::Readable(!model.is_readable(leg)),
        _ => return None,
    })
}

fn apply(session: &mut Progress<Known>, index: usize, event: Event, now: Instant) {
    let leg = &mut session.legs[index];
    match event {
        Event::Read(bytes) => session.heard(index, bytes, now),
        Event::Ended { cut, goodbye } => {
            (leg.stream.cut, leg.stream.goodbye) = (cut, goodbye);
            session.ended(index, now);
        }
        Event::Broke => session.broke(index, now),
        Event::CannotSend => leg.output = Output::Broken,
        Event::Gone => leg.gone = true,
        Event::Answered(answer) => {
            let token = match answer {
                Answer::Open => b"OPEN",
                Answer::Fail => b"FAIL",
                Answer::Wrong => b"HTTP",
            };
            let _ = leg.decoder.classify(token, false);
            session.heard(index, 0, now);
        }
        Event::Clogged(is) => leg.stream.clogged = is,
        Event::Owed => leg.stream.owed = true,
        Event::Stalled => leg.stream.stalled = true,
        Event::Draining(is) => leg.stream.draining = is,
        Event::Readable(is) => leg.stream.readable = is,
        Event::Told => leg.output = Output::Finished,
    }
}

const FRAMED: Protocol = Protocol::Framed {
    threshold: Some(Duration::from_secs(30)),
    beat: None,
    at_once: false,
    seen_wait: limits::SEEN_WAIT,
};

/// A session of a version 3 tunnel that was sent `O`, and a user.
fn begin_framed(now: Instant) -> Progress<Known> {
    let mut talk = Box::new(Talk::new(Side::Connector));
    talk.say(Word::Open(b""));
    let legs = [(FRAMED, Some(talk)), (Protocol::Raw, None)].map(|(protocol, talk)| Endpoint {
        stream: Known::default(),
        protocol,
        talk,
    });
    let silence = Silence { after_end: ms(60_000), ever: None };
    Progress::new(legs, None, silence, Arc::default(), now)
}

/// The agent says this.
fn says(session: &mut Progress<Known>, frames: &[u8], now: Instant) -> Vec<u8> {
    let mut data = Vec::new();
    let framed = session.legs[0].framed.as_mut().unwrap();
    framed.hear(frames, &mut |bytes| data.extend_from_slice(bytes));
    session.heard(0, data.len() as u64, now);
    if session.legs[0].framed.as_mut().unwrap().take_end() {
        session.ended(0, now);
    }
    data
}

#[test]
fn user_of_a_dead_version_3_tunnel_is_as_it_was() {
    let now = Instant::now();
    let mut session = begin_framed(now);
    assert!(!session.may_read(1, now), "the agent has not seen the session");
    assert_eq!(session.ending(now), Err(Some(now + limits::SEEN_WAIT)));
    assert_eq!(session.ending(now + limits::SEEN_WAIT), Ok(Ending::Dead(0)));
    assert!(session.is_untouched(1) && !session.keeps_framed(0, Ending::Dead(0)));
    session.broke(0, now);
    assert_eq!(session.ending(now), Ok(Ending::Dead(0)), "it broke before");
}

#[test]
fn version_3_tunnel_goes_on_after_every_ending_that_frames_can_tell() {
    let now = Instant::now();
    let cases: [(&[u8], Ending); 4] = [
        (b"S\0\0\0F\0\0\x02no", Ending::Failed(0)),
        (b"S\0\0\0X\0\0\0", Ending::Reset(0)),
        (b"S\0\0\0A\0\0\0X\0\0\0", Ending::Reset(0)),
        (b"S\0\0\0E\0\0\0", Ending::Garbled(0)),
    ];
    for (frames, ending) in cases {
        let mut session = begin_framed(now);
        says(&mut session, frames, now);
        assert_eq!(session.ending(now), Ok(ending), "{frames:?}");
        assert_eq!(session.keeps_framed(0, ending), ending != Ending::Garbled(0));
    }
    let mut session = begin_framed(now);
    says(&mut session, b"S\0\0\0", now);
    assert!(session.may_read(1, now));
    assert_eq!(session.ending(now + limits::OPEN_WAIT), Ok(Ending::NoAnswer(0)));
    assert!(session.keeps_framed(0, Ending::NoAnswer(0)));
    session.broke(1, now);
    assert_eq!(session.ending(now), Ok(Ending::Broken(1)));
    assert!(session.keeps_framed(0, Ending::Broken(1)));
}

#[test]
fn version_3_agent_is_heard_behind_its_end() {
    let now = Instant::now();
    let mut session = begin_framed(now);
    let data = says(&mut session, b"S\0\0\0A\0\0\0D\0\0\x01xD\0\0\x01yE\0\0\0", now);
    assert_eq!(data, b"xy");
    assert!(session.passes_end_on(0) && session.may_read(0, now));
    session.legs[1].output = Output::Finished;
    says(&mut session, b"P\0\0\0", now + ms(20_000));
    let until = now + ms(50_000);
    assert_eq!(session.ending(until - ms(1)), Err(Some(until)), "from its last heartbeat");
    assert_eq!(session.ending(until), Ok(Ending::Absent(0)));
    says(&mut session, b"X\0\0\0", until);
    assert_eq!(session.ending(until), Ok(Ending::Reset(0)));
}

#[test]
fn two_tunnels_that_have_not_seen_their_session_do_not_wait_for_each_other() {
    let now = Instant::now();
    let legs = [(); 2].map(|()| {
        let mut talk = Box::new(Talk::new(Side::Connector));
        talk.say(Word::Open(b""));
        Endpoint { stream: Known::default(), protocol: FRAMED, talk: Some(talk) }
    });
    let silence = Silence { after_end: ms(60_000), ever: None };
    let mut session = Progress::new(legs, None, silence, Arc::default(), now);
    assert_eq!([0, 1].map(|from| session.may_read(from, now)), [true, true]);
}

#[test]
fn what_becomes_of_a_tunnel_behind_both_ends_is_nothing_to_its_session() {
    let now = Instant::now();
    let mut session = begin_framed(now);
    says(&mut session, b"S\0\0\0A\0\0\0D\0\0\x01xE\0\0\0", now);
    session.ended(1, now);
    assert!(session.passes_end_on(1));
    session.legs[0].framed.as_mut().unwrap().talk.say(Word::End);
    session.legs[0].output = Output::Finished;
    // The user reads slowly, and has not all of it when the agent leaves.
    session.broke(0, now);
    assert!(session.ending(now).is_err(), "the user is still to have the rest");
    session.legs[1].output = Output::Finished;
    assert_eq!(session.ending(now), Ok(Ending::Complete));
    assert!(!session.keeps_framed(0, Ending::Complete));
}
