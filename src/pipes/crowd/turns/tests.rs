use std::collections::BTreeMap;

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

/// What a member can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Spoke,
    Answered,
    GoesOn,
    GotThrough,
}

/// All that is known of a member: every question goes through its whole past.
struct Past {
    stranger: u64,
    came: Instant,
    round_trip: Duration,
    may_be_slow: bool,
    is_vain: bool,
    many: bool,
    counts: bool,
    words: Vec<(Word, Instant)>,
}

impl Past {
    /// For how long it had been the connector's turn after its first words.
    fn ours(&self, words: usize) -> Duration {
        let (mut sum, mut begun) = (Duration::ZERO, None);
        for (word, at) in &self.words[..words] {
            match word {
                Word::Spoke => _ = begun.get_or_insert(*at),
                Word::Answered | Word::GoesOn => {
                    sum += begun.take().map_or(Duration::ZERO, |begun| *at - begun);
                }
                Word::GotThrough => begun = None,
            }
        }
        sum
    }

    /// Since when it could have gone on, and what it is; `None` while it is not its turn.
    fn turn(&self) -> Option<(Kind, Instant)> {
        match self.words.last() {
            None if self.is_vain => return Some((Kind::Vain, self.came)),
            None if self.many => return Some((Kind::SilentToo, self.came)),
            None => return Some((Kind::Silent, self.came)),
            Some((Word::Spoke | Word::GotThrough, _)) => return None,
            Some(_) => {}
        }
        let is = |wanted: Word| move |(word, _): &(Word, Instant)| *word == wanted;
        let anew = self.words.iter().rposition(is(Word::Answered));
        let anew = anew.or_else(|| self.words.iter().position(is(Word::GoesOn))).unwrap();
        let own = self.words[anew].1 - self.came - self.ours(anew + 1);
        let far = limits::STRANGER_ROUND_TRIPS * self.round_trip;
        let far = if self.is_vain { far.min(Duration::from_millis(100)) } else { far };
        let longest = limits::SLOW_TURN - limits::STRANGER_TURN;
        let (kind, turn) = match self.may_be_slow && !self.is_vain {
            true => (Kind::Slow, Duration::ZERO),
            false => (Kind::Spoken, (own + far).min(longest)),
        };
        let kind = if self.is_vain { Kind::Vain } else { kind };
        Some((kind, self.came + self.ours(self.words.len()) + turn))
    }
}

/// Those in the crowd, as they are: every question looks at all of them.
#[derive(Default)]
struct Model {
    limit: usize,
    members: BTreeMap<Number, Past>,
    /// Who had to go, by kind, and where there is `None` that one got through.
    ends: Vec<Option<Kind>>,
    /// How many of each stranger came in vain since somebody has been there.
    vain: BTreeMap<u64, i32>,
    full: Option<Instant>,
}

impl Model {
    fn patience(&self, kind: Kind) -> Duration {
        let mut patience = match kind {
            Kind::Silent => Duration::from_millis(250),
            Kind::Spoken => Duration::from_secs(1),
            Kind::Slow => return Duration::from_secs(2),
            Kind::Vain => return Duration::from_millis(15),
            Kind::SilentToo => return self.patience(Kind::Silent).min(Duration::from_millis(250)),
        };
        let mut others_get_through = false;
        for end in self.ends.iter().filter(|end| end.is_none_or(|gone| gone == kind)) {
            patience = match end {
                None => (2 * patience).min(Duration::from_secs(2)),
                Some(_) if others_get_through => patience,
                Some(_) => (patience / 2).max(Duration::from_millis(125)),
            };
            others_get_through = end.is_none();
        }
        patience
    }

    fn does(&mut self, number: Number, word: Word, now: Instant) {
        let slow = self.members.values().filter(|past| past.may_be_slow).count();
        let spoke = |past: &Past| past.words.iter().any(|(word, _)| *word == Word::Spoke);
        if matches!(word, Word::Answered | Word::GoesOn)
            && !self.members.get(&number).is_some_and(spoke)
        {
            return;
        }
        if word == Word::GotThrough {
            let last = self.members.get(&number).and_then(|past| past.words.last());
            if last.is_some_and(|(word, _)| *word == Word::GotThrough) {
                return;
            }
            self.ends.push(None);
        }
        let Some(past) = self.members.get_mut(&number) else { return };
        let vain = self.vain.entry(past.stranger).or_default();
        let is_first = past.words.iter().all(|(word, _)| *word != Word::Spoke);
        if word == Word::Spoke && is_first {
            past.may_be_slow = *vain < 64 && 4 * (slow + 1) <= self.limit;
        }
        if word == Word::GotThrough {
            *vain = (*vain - 2).max(0);
        }
        past.may_be_slow &= word != Word::GotThrough;
        past.words.push((word, now));
        // What it says counts when its turn begins anew; until then it is what it was.
        past.is_vain = *vain >= 64;
    }

    fn leaves(&mut self, number: Number, now: Instant) -> Option<Number> {
        let past = self.members.get(&number)?;
        let is_through = past.words.last().is_some_and(|(word, _)| *word == Word::GotThrough);
        if !is_through && self.full.is_some_and(|full| now - full < 2000 * MILLISECOND) {
            let vain = self.vain.entry(past.stranger).or_default();
            *vain = (*vain + 1).min(128);
        }
        self.members.remove(&number);
        Some(number)
    }

    fn forgets(&mut self, now: Instant) {
        if self.full.is_none_or(|full| now - full >= 60_000 * MILLISECOND) {
            self.vain.clear();
        }
    }

    fn goes(&mut self, number: Number) -> Number {
        let past = &self.members[&number];
        if let Some((kind, _)) = past.turn() {
            let vain = self.vain.entry(past.stranger).or_default();
            *vain = (*vain + 1).min(128);
            self.ends.push(Some(if kind == Kind::SilentToo { Kind::Silent } else { kind }));
        }
        self.members.remove(&number);
        number
    }

    fn room(&mut self, limit: usize, now: Instant) -> Room<Number> {
        self.limit = limit;
        if self.members.len() < limit {
            return Room::Free;
        }
        self.full = Some(now);
        let dues = self.members.iter().filter_map(|(number, past)| {
            let (kind, from) = past.turn()?;
            Some((from + self.patience(kind), *number))
        });
        match dues.min() {
            Some((due, number)) if due <= now => Room::From(self.goes(number)),
            first => Room::NotBefore(first.map(|(due, _)| due)),
        }
    }

    fn replace_oldest(&mut self, limit: usize) -> Option<Number> {
        let oldest = *self.members.keys().next()?;
        (self.members.len() >= limit).then(|| self.goes(oldest))
    }
}

#[test]
fn whatever_happens_the_same_must_go_as_by_looking_at_all() {
    let (mut replaced, mut in_vain, mut joined_many) = (0, 0, 0);
    for seed in 0..200 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let (mut model, mut turns) = (Model::default(), Turns::default());
        let mut now = Instant::now();
        let mut joined = 0;
        for step in 0..1000 {
            now += random.choice([0u32, 1, 30, 250]).unwrap() * MILLISECOND;
            // One that is gone, too, may still say something.
            let number = random.u64(..joined + 1).max(joined.saturating_sub(12));
            let limit = random.usize(..if seed % 4 == 0 { 120 } else { 12 });
            let at = format!("seed {seed}, step {step}");
            match random.u8(..9) {
                0 | 1 => {
                    let round_trip = random.u32(..3) * 200 * MILLISECOND;
                    let stranger = random.u64(..2);
                    model.forgets(now);
                    let is_vain = *model.vain.entry(stranger).or_default() >= 64;
                    let (came, words) = (now, Vec::new());
                    let may_be_slow = false;
                    let silent = |past: &&Past| {
                        past.stranger == stranger
                            && past.words.is_empty()
                            && past.counts
                            && !past.is_vain
                    };
                    let many = model.members.values().filter(silent).count() >= 16;
                    let counts = model.members.len() >= 16;
                    joined_many += usize::from(many && !is_vain);
                    let past = Past {
                        stranger,
                        came,
                        round_trip,
                        may_be_slow,
                        is_vain,
                        many,
                        counts,
                        words,
                    };
                    model.members.insert(joined, past);
                    assert_eq!(turns.join(joined, stranger, round_trip, now), joined, "{at}");
                    in_vain += usize::from(is_vain);
                    joined += 1;
                }
                2 | 3 => {
                    model.does(number, Word::Spoke, now);
                    turns.spoke(number, now);
                }
                4 => {
                    model.does(number, Word::Answered, now);
                    turns.answered(number, now);
                }
                5 => {
                    model.does(number, Word::GoesOn, now);
                    turns.goes_on(number, now);
                }
                6 if random.bool() => {
                    model.does(number, Word::GotThrough, now);
                    turns.got_through(number);
                }
                6 => {
                    let left = model.leaves(number, now);
                    assert_eq!(turns.leave(number, now), left, "{at}");
                }
                7 => assert_eq!(turns.replace_oldest(limit), model.replace_oldest(limit), "{at}"),
                _ => {
                    let room = turns.room(limit, now);
                    replaced += usize::from(matches!(room, Room::From(_)));
                    assert_eq!(room, model.room(limit, now), "{at}");
                }
            }
            assert_eq!(turns.len(), model.members.len(), "{at}");
            for kind in [Kind::Silent, Kind::Spoken, Kind::Slow, Kind::SilentToo] {
                assert_eq!(turns.patience(kind), model.patience(kind), "{at}");
            }
        }
    }
    assert!(replaced > 1000, "{replaced} had to go");
    assert!(joined_many > 100, "{joined_many} had as many silent ones beside them");
    assert!(in_vain > 100, "{in_vain} came from a stranger whose members come in vain");
}

/// One that has sent something and been answered at once.
fn answered(turns: &mut Turns<()>, now: Instant) -> Number {
    let member = turns.join((), 1, Duration::ZERO, now);
    turns.spoke(member, now);
    turns.answered(member, now);
    member
}

#[test]
fn patience_shrinks_while_all_wait_in_vain_and_grows_while_others_get_through() {
    let (mut turns, now) = (Turns::default(), Instant::now());
    let get_through = |turns: &mut Turns<()>| {
        let member = turns.join((), 1, Duration::ZERO, now);
        turns.got_through(member);
        turns.leave(member, now);
    };
    turns.limit = 8;
    let _slow = [answered(&mut turns, now), answered(&mut turns, now)];
    let before = turns.patience(Kind::Spoken);
    let silent = turns.patience(Kind::Silent);
    assert!(before > silent && silent >= limits::STRANGER_TURN);
    let mut stalling: Vec<_> = (0..10).map(|_| answered(&mut turns, now)).collect();
    let last = stalling.pop().unwrap();
    for member in stalling {
        turns.revoke(member);
    }
    assert!(turns.patience(Kind::Spoken) >= limits::STRANGER_TURN);
    assert!(turns.patience(Kind::Spoken) < 2 * limits::STRANGER_TURN);
    // One that gets through for each one that must go: it stays.
    let short = turns.patience(Kind::Spoken);
    get_through(&mut turns);
    assert_eq!(turns.patience(Kind::Spoken), 2 * short);
    turns.revoke(last);
    assert_eq!(turns.patience(Kind::Spoken), 2 * short);
    let next = answered(&mut turns, now);
    turns.revoke(next);
    assert_eq!(turns.patience(Kind::Spoken), short, "for one, and not for all after it");
    for _ in 0..10 {
        get_through(&mut turns);
    }
    let all = [Kind::Silent, Kind::Spoken, Kind::Slow];
    assert_eq!(all.map(|kind| turns.patience(kind)), [limits::SLOW_TURN; 3]);
}

#[test]
fn nobody_loses_a_place_while_the_connector_takes_its_time() {
    let (mut turns, mut now) = (Turns::default(), Instant::now());
    let members = [(); 3].map(|()| turns.join((), 1, Duration::ZERO, now));
    members.iter().for_each(|member| turns.spoke(*member, now));
    assert_eq!(turns.first_to_go(), None);
    now += limits::STRANGER_TURN;
    members.iter().for_each(|member| turns.answered(*member, now));
    let (due, _) = turns.first_to_go().unwrap();
    assert!(due >= now + limits::STRANGER_TURN);
}

#[test]
fn who_sends_byte_after_byte_gains_no_time_and_who_is_answered_has_a_new_turn() {
    let (mut turns, mut now) = (Turns::default(), Instant::now());
    let pause = 20 * MILLISECOND;
    let member = turns.join((), 1, Duration::ZERO, now);
    let due = |turns: &Turns<()>| turns.first_to_go().unwrap().0;
    let silent = due(&turns);
    now += pause;
    turns.spoke(member, now);
    turns.goes_on(member, now);
    let spoken = due(&turns);
    assert!(spoken > silent, "its first word counts");
    assert_eq!(spoken, now + turns.patience(Kind::Spoken));
    for round in 1..=5 {
        turns.spoke(member, now);
        now += pause;
        turns.goes_on(member, now);
        assert_eq!(due(&turns), spoken + round * pause, "the connector's own time alone");
    }
    let before_pause = due(&turns);
    now += pause;
    turns.goes_on(member, now);
    assert_eq!(due(&turns), before_pause, "a byte after a while");
    turns.answered(member, now);
    assert_eq!(due(&turns), now + turns.patience(Kind::Spoken), "a whole step");
}

#[test]
fn the_connectors_time_is_added_up_and_nothing_else_adds_to_the_longest_time() {
    let (mut turns, start) = (Turns::default(), Instant::now());
    let mut now = start;
    turns.limit = 4;
    let slow = turns.join((), 1, Duration::ZERO, now);
    for _ in 0..2 {
        turns.spoke(slow, now);
        now += 20 * MILLISECOND;
        turns.answered(slow, now);
        now += 20 * MILLISECOND;
    }
    let due = start + 40 * MILLISECOND + limits::SLOW_TURN;
    assert_eq!(turns.first_to_go(), Some((due, slow)));
    // One that gets through makes room for another that may be slow, and never has to go.
    turns.got_through(slow);
    assert_eq!((turns.slow, turns.first_to_go()), (0, None));
    turns.limit = 0;
    let far = turns.join((), 1, Duration::from_secs(10), now);
    turns.spoke(far, now);
    turns.answered(far, now);
    let latest = now + limits::SLOW_TURN - limits::STRANGER_TURN;
    assert_eq!(turns.first_to_go(), Some((latest + turns.patience(Kind::Spoken), far)));
}

/// Which of `count` newcomers a second are let in within `seconds`, when all but every eleventh are a
/// stranger's that never say a word, and the others say all they have to say at once.
fn waits_of_good_ones(mut turns: Turns<()>, count: u32, seconds: u32) -> Vec<Duration> {
    let (limit, start) = (128, Instant::now());
    let mut waits = Vec::new();
    let mut now = start;
    for newcomer in 0..count * seconds {
        let came = start + newcomer * Duration::from_secs(1) / count;
        now = now.max(came);
        while let Room::NotBefore(due) = turns.room(limit, now) {
            now = due.unwrap();
        }
        if newcomer % 11 > 0 {
            turns.join((), 2, Duration::ZERO, now);
        } else {
            let good = turns.join((), 1, Duration::ZERO, now);
            turns.got_through(good);
            turns.leave(good, now);
            waits.push(now - came);
        }
    }
    waits
}

#[test]
fn silent_ones_of_one_network_hold_up_no_others_that_get_through() {
    for count in [220, 440, 1500] {
        let waits = waits_of_good_ones(Turns::default(), count, 10);
        let late = &waits[waits.len() / 2..];
        assert!(
            late.iter().max() < Some(&Duration::from_millis(100)),
            "{count} a second: {late:?}"
        );
        assert!(waits.iter().max() < Some(&Duration::from_secs(4)), "{count} a second: {waits:?}");
    }
}

#[test]
fn many_silent_ones_of_one_network_are_known_for_it_soon() {
    for count in [1000, 2000, 3300] {
        let (mut turns, now) = (Turns::default(), Instant::now());
        for _ in 0..10 {
            let good = turns.join((), 1, Duration::ZERO, now);
            turns.got_through(good);
        }
        assert_eq!(turns.patience(Kind::Silent), limits::SLOW_TURN);
        let waits = waits_of_good_ones(turns, count, 10);
        let longest = waits.iter().max();
        assert!(longest < Some(&Duration::from_secs(1)), "{count} a second: {longest:?}");
    }
}

#[test]
fn one_network_that_feigns_to_be_far_away_holds_up_no_others_for_long() {
    let (mut turns, start) = (Turns::default(), Instant::now());
    let (far, mut now, mut longest) = (Duration::from_secs(1), start, Duration::ZERO);
    for newcomer in 0..8000u32 {
        let came = start + newcomer * Duration::from_secs(1) / 600;
        now = now.max(came);
        while let Room::NotBefore(due) = turns.room(128, now) {
            now = due.unwrap();
        }
        if newcomer >= 7000 {
            longest = longest.max(now - came);
        }
        // One byte of a greeting each.
        let stalls = turns.join((), 2, far, now);
        turns.spoke(stalls, now);
        turns.goes_on(stalls, now);
    }
    assert!(longest < Duration::from_millis(200), "the last of them waits {longest:?}");
}

#[test]
fn who_has_sent_nothing_stays_one_that_has_however_its_port_waits_for_it() {
    let (mut turns, now) = (Turns::default(), Instant::now());
    let silent = turns.join((), 1, Duration::from_secs(1), now);
    let due = turns.first_to_go();
    turns.answered(silent, now + MILLISECOND);
    turns.goes_on(silent, now + MILLISECOND);
    assert_eq!(turns.first_to_go(), due);
}

#[test]
fn who_comes_from_a_network_in_vain_is_trusted_again_when_others_of_it_get_through() {
    let (mut turns, now) = (Turns::default(), Instant::now());
    turns.vain.found_no_room(now);
    let stays = turns.join((), 1, Duration::ZERO, now);
    let join = |turns: &mut Turns<()>| turns.join((), 1, Duration::ZERO, now);
    for _ in 0..limits::IN_VAIN {
        let silent = join(&mut turns);
        turns.revoke(silent);
    }
    let due = |turns: &Turns<()>, number| {
        let mut lists = turns.kinds.iter().enumerate();
        lists
            .find(|(_, list)| list.from.iter().any(|(_, one)| *one == number))
            .map(|(kind, _)| kind)
    };
    let vain = join(&mut turns);
    let other = turns.join((), 2, Duration::ZERO, now);
    assert_eq!(due(&turns, vain), Some(Kind::Vain as usize));
    assert_eq!(due(&turns, other), Some(Kind::Silent as usize));
    assert_eq!(due(&turns, stays), Some(Kind::Silent as usize), "it came before");
    turns.got_through(vain);
    let next = join(&mut turns);
    assert_eq!(due(&turns, next), Some(Kind::Silent as usize));
}

#[test]
fn who_leaves_just_before_its_turn_ends_comes_in_vain_too() {
    let (mut turns, mut now) = (Turns::default(), Instant::now());
    let mut waited = Duration::ZERO;
    for _ in 0..4 {
        // 128 join, somebody finds no room, and all leave at once.
        let group: Vec<_> = (0..128).map(|_| turns.join((), 1, Duration::ZERO, now)).collect();
        let Room::NotBefore(Some(due)) = turns.room(128, now) else { panic!("there is room") };
        waited = due - now;
        now = due - MILLISECOND;
        for member in group {
            turns.leave(member, now);
        }
    }
    assert_eq!(waited, limits::VAIN_TURN);
}

#[test]
fn who_stalls_in_its_handshake_or_trickles_is_not_active_for_long() {
    let (mut turns, start) = (Turns::default(), Instant::now());
    let _mute = turns.join((), 1, Duration::ZERO, start);
    let member = turns.join((), 1, Duration::ZERO, start);
    let active = |turns: &Turns<()>, seconds| turns.active(start + seconds * limits::STILL);
    turns.spoke(member, start);
    assert_eq!(active(&turns, 5), 1, "the connector takes its time");
    turns.goes_on(member, start + 5 * limits::STILL);
    turns.spoke(member, start + 5 * limits::STILL);
    turns.answered(member, start + 6 * limits::STILL);
    assert_eq!((active(&turns, 6), active(&turns, 7)), (1, 0));
    // Byte after byte is no step.
    let step = limits::STILL / 2;
    for number in 1..=3 {
        turns.spoke(member, start + 6 * limits::STILL + number * step);
        turns.goes_on(member, start + 6 * limits::STILL + number * step);
    }
    assert_eq!(turns.active(start + 6 * limits::STILL + 3 * step), 0);
    turns.spoke(member, start + 9 * limits::STILL);
    turns.got_through(member);
    assert_eq!(active(&turns, 20), 1, "it waits for a tunnel");
}

#[test]
fn members_of_nobody_known_are_no_one_stranger_together() {
    let (mut turns, start) = (Turns::default(), Instant::now());
    let late = start + limits::SLOW_TURN;
    let kind = |turns: &Turns<()>, number| match turns.members.get(number).unwrap().state {
        State::Turn(kind, _) => kind,
        state => panic!("{state:?}"),
    };
    let join = |turns: &mut Turns<()>, known: Option<u64>| {
        let stranger = known.unwrap_or_else(|| turns.nobody());
        turns.join((), stranger, Duration::ZERO, start)
    };
    for (known, then) in [(Some(1), Kind::Vain), (None, Kind::Silent)] {
        for _ in 0..2 * limits::IN_VAIN {
            join(&mut turns, known);
            assert_eq!(turns.room(1, late), Room::From(()));
        }
        let next = join(&mut turns, known);
        assert_eq!(kind(&turns, next), then, "those before it came in vain");
        turns.remove(next);
    }
    for (known, then) in [(Some(2), Kind::SilentToo), (None, Kind::Silent)] {
        let all: Vec<_> =
            (0..3 * limits::SILENT_TOGETHER).map(|_| join(&mut turns, known)).collect();
        assert_eq!(kind(&turns, *all.last().unwrap()), then, "many are silent");
        all.into_iter().for_each(|number| _ = turns.remove(number));
    }
    assert_eq!(turns.len(), 0);
}
