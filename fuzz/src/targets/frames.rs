//! Version 3 of tunnels: what is heard does not depend on the pieces in which it comes, and two ends that say
//! what they may agree, whatever crosses, with no byte of one session in another.

use std::collections::VecDeque;

use iofog_connector::fuzzing::frames::{Event, Side, Talk, Word, data_head};

use crate::input::{Choices, Random, pieces};

pub(crate) fn check(data: &[u8]) -> bool {
    let mut choices = Choices::new(data);
    let mut random = Random::of(data);
    if choices.byte() % 2 == 0 {
        return check_pieces(&mut choices, &mut random);
    }
    let mut model = Model::new();
    while let [choice, amount, rest @ ..] = choices.bytes(3) {
        model.step(*choice, *amount, rest.first().copied().unwrap_or_default());
    }
    model.settle();
    true
}

/// What is heard of the same bytes in pieces of any length is the same.
fn check_pieces(choices: &mut Choices<'_>, random: &mut Random) -> bool {
    let (how, bytes) = (choices.byte(), choices.rest());
    let whole = heard(how, [bytes]);
    for longest in [1, 3, 20, 300] {
        assert_eq!(heard(how, pieces(bytes, longest, random)), whole, "pieces of {longest}");
    }
    !whole.is_empty()
}

/// What an end that has got so far hears, bytes of a session one by one.
fn heard<'a>(how: u8, all: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let side = if how % 2 == 0 { Side::Connector } else { Side::Agent };
    let mut talk = Talk::new(side);
    if how & 2 > 0 {
        talk.say(Word::Open(b"header"));
    }
    if how & 4 > 0 {
        let _ = talk.hear(&mut &b"S\0\0\0"[..]);
        talk.say(Word::End);
    }
    if how & 8 > 0 {
        talk.say(Word::Reset(""));
    }
    let mut events = Vec::new();
    for mut piece in all {
        loop {
            match talk.hear(&mut piece) {
                Ok(None) => break,
                Ok(Some(Event::Data(data))) => {
                    events.extend(data.iter().map(|byte| format!("byte {byte}")));
                }
                Ok(Some(event)) => events.push(format!("{event:?}")),
                Err(fault) => {
                    events.push(fault.to_string());
                    return events;
                }
            }
        }
    }
    events
}

/// Two ends that say what they may, and what is on its way between them.
struct Model {
    ends: [Talk; 2],
    on_way: [VecDeque<u8>; 2],
    /// The session that each end is in, or was in last: each byte carries its number.
    number: [u8; 2],
    said_end: [bool; 2],
    heard_reset: [bool; 2],
    /// Whether it has broken its session off, and waits for the answer.
    resetting: [bool; 2],
}

impl Model {
    fn new() -> Self {
        Model {
            ends: [Talk::new(Side::Connector), Talk::new(Side::Agent)],
            on_way: Default::default(),
            number: [0; 2],
            said_end: [false; 2],
            heard_reset: [false; 2],
            resetting: [false; 2],
        }
    }

    fn say(&mut self, end: usize, word: Word<'_>) -> bool {
        let frame = self.ends[end].say(word);
        self.on_way[end].extend(&frame);
        !frame.is_empty()
    }

    fn step(&mut self, choice: u8, amount: u8, number: u8) {
        let end = usize::from(choice & 1);
        if self.heard_reset[end] {
            self.heard_reset[end] = false;
            assert!(self.say(end, Word::Reset("")), "an answer that may not be said");
        }
        let may_speak = end == 0 || self.ends[1].is_accepted();
        match choice >> 1 & 15 {
            0..=4 => self.arrive(end, usize::from(amount)),
            5 if end == 0 => {
                let header = [number];
                if self.say(0, Word::Open(&header)) {
                    (self.number[0], self.said_end[0]) = (number, false);
                }
            }
            6 if end == 1 => _ = self.say(1, Word::Accepted),
            7 if end == 1 => _ = self.say(1, Word::Failed("no")),
            5 if end == 1 && self.ends[1].have_both_ended() => assert!(self.say(1, Word::Seen)),
            8 => self.break_off(end),
            9 if may_speak => self.said_end[end] |= self.say(end, Word::End),
            10 if end == 1 => _ = self.say(1, Word::Beat),
            11 if end == 0 => _ = self.say(0, Word::Want(number.into())),
            12..=15 if may_speak && self.is_open(end) && !self.said_end[end] => {
                let length = 1 + usize::from(amount % 8);
                self.on_way[end].extend(data_head(length));
                self.on_way[end].extend(vec![self.number[end]; length]);
            }
            _ => {}
        }
    }

    /// Breaks the session off, if there is one that goes on.
    fn break_off(&mut self, end: usize) {
        self.resetting[end] |= self.say(end, Word::Reset(""));
    }

    /// Whether a session goes on at this end.
    fn is_open(&self, end: usize) -> bool {
        !self.ends[end].is_idle() && !self.resetting[end]
    }

    fn arrive(&mut self, end: usize, most: usize) {
        let way = &mut self.on_way[1 - end];
        let count = most.min(way.len());
        let bytes: Vec<u8> = way.drain(..count).collect();
        let mut rest = &bytes[..];
        loop {
            let event = self.ends[end].hear(&mut rest);
            let event = event.unwrap_or_else(|fault| panic!("end {end}: {fault}"));
            match event {
                None => return,
                Some(Event::Opened(header)) => {
                    assert!(self.ends[1].is_idle() || !self.ends[1].is_seen());
                    (self.number[1], self.said_end[1]) = (header[0], false);
                    assert!(self.say(1, Word::Seen));
                }
                Some(Event::Data(data)) => {
                    let own = self.number[end];
                    assert!(data.iter().all(|byte| *byte == own), "of another session");
                }
                Some(Event::Reset(_)) => self.heard_reset[end] = true,
                Some(Event::Over) => self.resetting[end] = false,
                Some(Event::Beat) => _ = self.say(0, Word::BeatAnswer),
                Some(_) => {}
            }
        }
    }

    /// Whatever has happened: once all has arrived, both ends can have another session.
    fn settle(&mut self) {
        for _ in 0..4 {
            for end in [0, 1] {
                self.step(end as u8, u8::MAX, 0);
                while !self.on_way[1 - end].is_empty() {
                    self.arrive(end, usize::MAX);
                }
            }
            if self.ends[1].have_both_ended() && !self.heard_reset[1] {
                self.say(1, Word::Seen);
            }
            if self.is_open(0) && !self.heard_reset[0] {
                self.break_off(0);
            }
        }
        assert!(self.ends[0].is_idle(), "{:?}", self.ends);
        assert!(self.say(0, Word::Open(&[7])));
        self.number[0] = 7;
        self.arrive(1, usize::MAX);
        assert!(self.ends[1].is_seen(), "{:?}", self.ends);
    }
}
