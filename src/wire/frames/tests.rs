use std::collections::VecDeque;

use super::*;

/// All that `talk` hears in `bytes`, or the fault behind it.
fn heard(talk: &mut Talk, bytes: &[u8]) -> (Vec<String>, Option<Fault>) {
    let (mut rest, mut events) = (bytes, Vec::new());
    loop {
        match talk.hear(&mut rest) {
            Ok(Some(event)) => events.push(format!("{event:?}")),
            Ok(None) => return (events, None),
            Err(fault) => return (events, Some(fault)),
        }
    }
}

/// A connector's end with a session that is seen, and accepted if `accepted`.
fn in_session(accepted: bool) -> Talk {
    let mut talk = Talk::new(Side::Connector);
    assert_eq!(talk.say(Word::Open(b"header")), b"O\0\0\x06header");
    assert_eq!(heard(&mut talk, b"S\0\0\0").1, None);
    if accepted {
        assert_eq!(heard(&mut talk, b"A\0\0\0").1, None);
    }
    talk
}

#[test]
fn frames_are_found_wherever_the_reads_end() {
    let all = b"S\0\0\0P\0\0\0A\0\0\0D\0\0\x05helloE\0\0\0B\0\0\0";
    for cut in 0..all.len() {
        let mut talk = Talk::new(Side::Connector);
        talk.say(Word::Open(b""));
        let mut events = heard(&mut talk, &all[..cut]).0;
        events.extend(heard(&mut talk, &all[cut..]).0);
        let mut bytes = Vec::new();
        events.retain(|event| match event.strip_prefix("Data([") {
            Some(data) => {
                bytes.extend(
                    data.trim_end_matches("])").split(", ").map(|b| b.parse::<u8>().unwrap()),
                );
                false
            }
            None => true,
        });
        assert_eq!(events, ["Seen", "Beat", "Accepted", "Ended", "Bye"], "cut at {cut}");
        assert_eq!(bytes, b"hello", "cut at {cut}");
    }
}

#[test]
fn types_and_lengths_that_the_table_does_not_have_end_the_tunnel() {
    let wrong: [(Side, &[u8]); 12] = [
        (Side::Connector, b"Z\0\0\0"),
        (Side::Connector, b"p\0\0\0"),
        (Side::Connector, b"O\0\0\0"),
        (Side::Connector, b"W\0\0\x02"),
        (Side::Connector, b"P\0\0\x01"),
        (Side::Connector, b"X\0\0\xc9"),
        (Side::Agent, b"P\0\0\0"),
        (Side::Agent, b"S\0\0\0"),
        (Side::Agent, b"W\0\0\x03"),
        (Side::Agent, b"O\0\x04\x01"),
        (Side::Agent, b"D\0\0\0"),
        (Side::Agent, b"D\x04\0\x01"),
    ];
    for (side, bytes) in wrong {
        assert!(heard(&mut Talk::new(side), bytes).1.is_some(), "{side:?} {bytes:?}");
    }
}

#[test]
fn frames_out_of_order_end_the_tunnel() {
    for (accepted, bytes) in [
        (false, &b"S\0\0\0"[..]),
        (false, b"D\0\0\x01x"),
        (false, b"E\0\0\0"),
        (true, b"A\0\0\0"),
        (true, b"F\0\0\0"),
        (true, b"E\0\0\0E\0\0\0"),
        (true, b"E\0\0\0D\0\0\x01x"),
    ] {
        assert_eq!(heard(&mut in_session(accepted), bytes).1, Some(OUT_OF_ORDER), "{bytes:?}");
    }
    for bytes in [&b"D\0\0\x01x"[..], b"E\0\0\0", b"O\0\0\0O\0\0\0", b"B\0\0\0O\0\0\0"] {
        assert_eq!(heard(&mut Talk::new(Side::Agent), bytes).1, Some(OUT_OF_ORDER), "{bytes:?}");
    }
    for bytes in [&b"S\0\0\0"[..], b"A\0\0\0", b"F\0\0\0", b"D\0\0\x01x", b"E\0\0\0"] {
        assert_eq!(
            heard(&mut Talk::new(Side::Connector), bytes).1,
            Some(OUT_OF_ORDER),
            "{bytes:?}"
        );
    }
}

#[test]
fn what_crosses_the_end_of_a_session_is_thrown_away_up_to_a_bound() {
    let mut talk = in_session(true);
    assert_eq!(talk.say(Word::Reset("left")), b"X\0\0\x04left");
    assert_eq!(heard(&mut talk, b"D\0\0\x01xE\0\0\0P\0\0\0").0, ["Beat"]);
    assert_eq!(heard(&mut talk, b"X\0\0\0").0, ["Over"]);
    assert!(talk.is_idle());
    assert_eq!(heard(&mut talk, b"X\0\0\0"), (vec![], None), "it is not answered");

    let mut talk = in_session(true);
    talk.say(Word::End);
    talk.say(Word::Reset(""));
    assert_eq!(
        heard(&mut talk, b"E\0\0\0S\0\0\0").0,
        ["Over"],
        "the agent had ended the session in order"
    );

    let mut agent = Talk::new(Side::Agent);
    heard(&mut agent, b"O\0\0\0");
    agent.say(Word::Seen);
    assert_eq!(agent.say(Word::Failed("no")), b"F\0\0\x02no");
    assert_eq!(heard(&mut agent, b"D\0\0\x01xE\0\0\0X\0\0\0O\0\0\0").0, ["Opened([])"]);

    let mut talk = in_session(true);
    talk.say(Word::Reset(""));
    let frame = [&data_head(limits::FRAME_DATA)[..], &[7; limits::FRAME_DATA]].concat();
    let whole = limits::THROWN / limits::FRAME_DATA;
    assert_eq!(heard(&mut talk, &frame.repeat(whole)).1, None);
    assert_eq!(heard(&mut talk, b"D\0\0\x01x").1, Some(TOO_MUCH));
}

#[test]
fn an_x_before_s_belongs_to_the_session_before() {
    let mut talk = Talk::new(Side::Connector);
    talk.say(Word::Open(b""));
    assert_eq!(heard(&mut talk, b"X\0\0\0S\0\0\0X\0\0\0").0, ["Seen", "Reset(\"\")"]);
    assert_eq!(talk.say(Word::Reset("")), b"X\0\0\0");
    assert!(talk.is_idle());
}

#[test]
fn a_reason_is_cut_between_two_characters() {
    let mut talk = in_session(true);
    let frame = talk.say(Word::Reset(&"ä".repeat(101)));
    assert_eq!((frame.len(), &frame[..4]), (HEAD + 200, &b"X\0\0\xc8"[..]));
    let mut talk = in_session(true);
    assert_eq!(talk.say(Word::Reset(&format!("x{}", "ä".repeat(100)))).len(), HEAD + 199);
}

/// Numbers that look random, the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % most
    }
}

/// Two ends that do at random what they may, with what is on its way between them.
struct Model {
    ends: [Talk; 2],
    on_way: [VecDeque<u8>; 2],
    /// The session that each end is in, or was in last: each byte carries its number.
    number: [u8; 2],
    heard_reset: [bool; 2],
    sessions: usize,
}

impl Model {
    fn say(&mut self, end: usize, word: Word<'_>) {
        let frame = self.ends[end].say(word);
        assert!(!frame.is_empty(), "{end} {word:?} {:?}", self.ends[end]);
        self.on_way[end].extend(frame);
    }

    fn act(&mut self, end: usize, dice: &mut Dice) {
        let session = self.ends[end].session;
        let is_agent = end == 1;
        if is_agent && matches!(session, Session::Open(Open { seen: false, .. })) {
            return self.say(1, Word::Seen);
        }
        if std::mem::take(&mut self.heard_reset[end]) {
            return self.say(end, Word::Reset(""));
        }
        match (session, dice.below(8)) {
            (Session::Idle, 0..=3) if !is_agent => {
                self.number[0] = self.number[0].wrapping_add(1);
                self.sessions += 1;
                let header = [self.number[0]];
                self.say(0, Word::Open(&header));
            }
            (Session::Open(open), 0) if is_agent && !open.accepted => self.say(1, Word::Failed("")),
            (Session::Open(open), 0) if is_agent && open.said_end && open.heard_end => {
                self.say(1, Word::Seen);
            }
            (Session::Open(open), 1) if is_agent && !open.accepted => self.say(1, Word::Accepted),
            (Session::Open(open), 2..=4) if !open.said_end && (open.accepted || !is_agent) => {
                self.on_way[end].extend(data_head(3));
                self.on_way[end].extend([self.number[end]; 3]);
            }
            (Session::Open(open), 5) if !open.said_end && (open.accepted || !is_agent) => {
                self.say(end, Word::End);
            }
            (Session::Open(_), 6) => self.say(end, Word::Reset("")),
            (_, 7) if is_agent => self.say(1, Word::Beat),
            _ => {}
        }
    }

    /// Some of what is on its way to `end` arrives.
    fn arrive(&mut self, end: usize, dice: &mut Dice) {
        let way = &mut self.on_way[1 - end];
        let count = dice.below(way.len() + 1);
        let bytes: Vec<u8> = way.drain(..count).collect();
        let mut rest = &bytes[..];
        while let Some(event) = self.ends[end].hear(&mut rest).unwrap() {
            match event {
                Event::Opened(header) => self.number[1] = header[0],
                Event::Data(data) => {
                    assert!(
                        data.iter().all(|byte| *byte == self.number[end]),
                        "of another session"
                    );
                }
                Event::Reset(_) => self.heard_reset[end] = true,
                Event::Beat => self.on_way[end].extend(self.ends[end].say(Word::BeatAnswer)),
                _ => {}
            }
        }
    }
}

#[test]
fn two_ends_agree_whatever_crosses_and_no_byte_is_another_sessions() {
    let mut dice = Dice(3);
    let mut model = Model {
        ends: [Talk::new(Side::Connector), Talk::new(Side::Agent)],
        on_way: Default::default(),
        number: [0; 2],
        heard_reset: [false; 2],
        sessions: 0,
    };
    for _ in 0..300_000 {
        let end = dice.below(2);
        if dice.below(3) == 0 { model.arrive(end, &mut dice) } else { model.act(end, &mut dice) }
    }
    assert!(model.sessions > 5_000, "{}", model.sessions);
}

#[test]
fn session_is_over_for_the_connector_once_the_agent_has_seen_its_end() {
    for agent_first in [true, false] {
        let (mut talk, mut agent) = (in_session(true), Talk::new(Side::Agent));
        heard(&mut agent, b"O\0\0\0");
        agent.say(Word::Seen);
        agent.say(Word::Accepted);
        let ends = [talk.say(Word::End), agent.say(Word::End)];
        assert_eq!(ends, [b"E\0\0\0", b"E\0\0\0"]);
        if agent_first {
            assert_eq!(heard(&mut agent, &ends[0]).0, ["Ended"]);
        }
        assert_eq!(heard(&mut talk, &ends[1]).0, ["Ended"]);
        assert!(talk.have_both_ended() && !talk.is_idle());
        assert_eq!(talk.say(Word::Open(b"")), b"", "what it was sent may still be unread");
        if !agent_first {
            assert_eq!(heard(&mut agent, &ends[0]).0, ["Ended"]);
        }
        let seen = agent.say(Word::Seen);
        assert!(agent.is_idle() && agent.say(Word::Seen).is_empty());
        assert_eq!(heard(&mut talk, &seen).0, ["Over"]);
        assert!(talk.is_idle());
    }
}
