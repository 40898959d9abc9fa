//! Answers, and users that leave them: no sockets.

use super::*;
use Leaving::{Fin, InOrder, Torn};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A session in which the user has asked and the agent has answered with pieces of these
/// lengths, one after the other after so many milliseconds; with the time of the last one.
fn answered(pieces: &[(u64, u64)]) -> (Residue, Instant) {
    let mut now = Instant::now();
    let mut residue = Residue::new(Duration::ZERO, now);
    residue.asked();
    for (after, length) in pieces {
        now += ms(*after);
        residue.heard(*length, now);
    }
    (residue, now)
}

/// The silence after the last piece after which a tunnel is clean whose user left so.
fn quiet(pieces: &[(u64, u64)], leaving: Leaving) -> Duration {
    let (mut residue, now) = answered(pieces);
    // Who ends its direction at the very time at which the answer begins has not seen it.
    let seen = if leaving == Torn { Duration::ZERO } else { ms(1) };
    residue.left(leaving, true, now + seen);
    residue.over_at().unwrap() - now
}

#[test]
fn short_answers_whose_users_left_in_order_are_over_at_once() {
    assert_eq!(quiet(&[(500, 100)], InOrder), ms(15));
    assert_eq!(quiet(&[(500, 100)], Fin), ms(30));
    assert_eq!(quiet(&[(500, 100), (3, 60_000)], InOrder), ms(15 + 2 * 3));
    assert_eq!(quiet(&[(500, 100), (3, 60_000)], Fin), ms(30 + 2 * 3));
    // Two round trips: what the agent had sent by then is there.
    let now = Instant::now();
    let mut far = Residue::new(ms(300), now);
    far.asked();
    far.heard(10, now);
    far.left(InOrder, true, now + ms(1));
    assert_eq!(far.over_at().unwrap() - now, ms(615));
    // A user that stayed longer than that has waited for it already.
    let (mut residue, now) = answered(&[(500, 100)]);
    residue.left(InOrder, true, now + ms(700));
    assert_eq!(residue.verdict(now + ms(700)), Verdict::Clean);
}

#[test]
fn silence_before_an_answer_and_between_answers_is_no_gap() {
    let (mut residue, now) = answered(&[(4000, 100)]);
    residue.asked();
    residue.heard(100, now + ms(9000));
    residue.left(InOrder, true, now + ms(9001));
    assert_eq!(residue.over_at().unwrap(), now + ms(9015));
    // Nor are those within answers before it, which may have been long.
    let (mut residue, now) = answered(&[(5, 70_000), (40, 70_000)]);
    residue.asked();
    residue.heard(100, now + ms(500));
    residue.left(InOrder, true, now + ms(501));
    assert_eq!(residue.over_at().unwrap(), now + ms(515));
    // Nor is a time in which the connector did not read.
    let (mut residue, now) = answered(&[(1, 100)]);
    residue.read_again(now + ms(150));
    residue.heard(100, now + ms(152));
    residue.left(InOrder, true, now + ms(153));
    assert_eq!(residue.over_at().unwrap(), now + ms(152 + 15 + 4));
}

#[test]
fn steady_answer_that_its_user_left_is_over_within_a_second_of_its_end() {
    for leaving in [Fin, Torn] {
        let (mut residue, mut now) = answered(&[(5, 16_384); 60]);
        residue.left(leaving, true, now);
        residue.given_up(now);
        for _ in 0..1000 {
            now += ms(5);
            residue.heard(16_384, now);
            assert_eq!(residue.verdict(now + ms(849)), Verdict::Until(now + ms(850)));
        }
        assert_eq!(residue.verdict(now + ms(850)), Verdict::Clean);
    }
    // It may begin when its user is gone.
    let (mut residue, mut now) = answered(&[]);
    residue.left(Torn, true, now);
    for _ in 0..60 {
        now += ms(5);
        residue.heard(16_384, now);
    }
    assert_eq!(residue.over_at().unwrap() - now, limits::QUIET_LATE);
}

#[test]
fn long_answer_may_have_been_left_just_as_a_pause_began() {
    let long = [(5, 16_384); 60];
    for leaving in [Fin, Torn] {
        assert_eq!(quiet(&long, leaving), limits::QUIET_UNSEEN);
    }
    assert_eq!(quiet(&long, InOrder), ms(300 + 2 * 5));
    // Once the pause is over it is known; after some of them they are a rhythm.
    let (mut residue, mut now) = answered(&long);
    residue.left(Fin, true, now);
    for (pause, quiet) in [(5000, 10_000), (5010, 10_020), (5000, 5860), (5000, 5860)] {
        now += ms(pause);
        residue.heard(16_384, now);
        assert_eq!(residue.over_at().unwrap() - now, ms(quiet));
    }
    // A rhythm of pauses that the user saw itself counts as well.
    let mut events = [(5, 70_000); 5];
    events[1..].fill((2000, 70_000));
    assert_eq!(quiet(&events, Fin), ms(2850));
    assert_eq!(quiet(&[(5, 70_000), (5000, 70_000)], Fin), ms(10_000), "one is none");
    // Who was there for longer than that has seen that nothing came, but not what was on its way
    // when it broke off.
    let (mut residue, now) = answered(&long);
    residue.left(Torn, true, now + ms(10_000));
    assert_eq!(residue.over_at().unwrap() - now, ms(10_000) + limits::QUIET_LATE);
    // The tiny gaps of a steady stream do not.
    assert_eq!(quiet(&[(2, 70_000); 50], Fin), limits::QUIET_UNSEEN);
}

#[test]
fn owed_answer_is_waited_for_a_minute_and_until_it_is_over() {
    let (mut residue, now) = answered(&[(1, 10)]);
    residue.asked();
    residue.left(InOrder, true, now);
    assert!(residue.is_owed());
    assert_eq!(residue.missing(now), Missing::Answer);
    residue.given_up(now + ms(1000));
    assert_eq!(residue.verdict(now + ms(59_999)), Verdict::Until(now + limits::OWED_WAIT));
    assert_eq!(residue.verdict(now + limits::OWED_WAIT), Verdict::Unanswered);
    residue.heard(10, now + ms(50_000));
    assert_eq!(residue.missing(now + ms(50_849)), Missing::Rest);
    assert_eq!(residue.missing(now + ms(50_850)), Missing::Nothing);
    assert_eq!(residue.verdict(now + ms(50_849)), Verdict::Until(now + ms(50_850)));
    assert_eq!(residue.verdict(now + ms(50_850)), Verdict::Clean);
}

#[test]
fn half_closed_user_is_waited_for_through_pauses_that_it_has_not_seen() {
    for leaving in [InOrder, Fin] {
        let now = Instant::now();
        let mut residue = Residue::new(Duration::ZERO, now);
        residue.asked();
        residue.left(leaving, true, now);
        residue.heard(10, now + ms(400));
        assert_eq!(residue.over_at().unwrap(), now + ms(400) + limits::QUIET_UNSEEN);
        // What it got with a pause may have another one, of about the same length.
        residue.heard(10, now + ms(5400));
        assert_eq!(residue.over_at().unwrap(), now + ms(5400 + 10_000));
        // A session that is cut short makes it no sooner clean.
        residue.given_up(now + ms(5500));
        assert_eq!(residue.over_at().unwrap(), now + ms(5400 + 10_000));
        // Nor does its reset make it clean at once.
        residue.left(Torn, false, now + ms(16_000));
        assert_eq!(residue.over_at().unwrap(), now + ms(16_000 + 10_000));
        // Once it is clean it stays so.
        let (mut residue, now) = answered(&[(1, 10)]);
        residue.left(leaving, false, now);
        let over = now + limits::QUIET_UNSEEN;
        assert_eq!(residue.verdict(over), Verdict::Clean);
        residue.given_up(over);
        assert_eq!(residue.verdict(over), Verdict::Clean);
    }
    // An answer that had begun before the FIN and goes on after it has a user that takes it.
    let (mut residue, now) = answered(&[(1, 10), (1, 10)]);
    residue.left(Fin, true, now);
    assert_eq!(residue.over_at().unwrap() - now, ms(32));
    residue.heard(10, now + ms(10));
    assert_eq!(residue.over_at().unwrap(), now + ms(10) + limits::QUIET_UNSEEN);
    residue.left(Torn, false, now + ms(11));
    assert_eq!(residue.over_at().unwrap(), now + ms(11) + limits::QUIET_LATE);
    // What it had not got when it ended was no answer to it yet.
    for (answer, got_all) in [(&[(1, 10), (1, 10)][..], false), (&[(1, 10)], true)] {
        let (mut residue, now) = answered(answer);
        residue.left(Fin, got_all, now);
        assert_eq!(residue.over_at().unwrap(), now + limits::QUIET_UNSEEN);
    }
}

#[test]
fn short_stream_of_events_is_no_burst() {
    for leaving in [InOrder, Fin, Torn] {
        assert_eq!(quiet(&[(10, 27); 25], leaving), limits::QUIET_LATE);
        assert_eq!(quiet(&[(10, 27), (3000, 27)], leaving), ms(6000));
        assert_eq!(quiet(&[(3000, 27); 5], leaving), ms(3850));
    }
}

#[test]
fn a_rhythm_is_made_of_silences_of_about_the_same_length() {
    let after = |silences: &[u64]| {
        let pieces: Vec<_> = [&[10][..], silences].concat().iter().map(|ms| (*ms, 27)).collect();
        quiet(&pieces, Torn)
    };
    assert_eq!(after(&[2000, 2000, 1100]), ms(2850));
    assert_eq!(after(&[2000, 2900, 2000]), ms(3750));
    assert_eq!(after(&[2000, 10, 10, 10]), ms(4000), "short ones are none of it");
    assert_eq!(after(&[1000, 1000, 1000, 2000]), ms(4000), "a much longer one begins anew");
}

#[test]
fn bytes_that_nobody_waits_for_may_come_again_as_late() {
    let now = Instant::now();
    let quiet = |after| Residue::stray(ms(1), after, now).over_at().unwrap() - now;
    assert_eq!(quiet(None), limits::QUIET_LATE);
    assert_eq!(quiet(Some(ms(900))), ms(1800));
}

#[test]
fn nothing_is_said_of_a_tunnel_whose_user_is_there() {
    let (residue, now) = answered(&[(1, 10)]);
    assert!(matches!(residue.verdict(now + ms(100_000)), Verdict::Until(_)));
    assert_eq!(residue.over_at(), None);
}

/// Answers drawn at random, steady or with pauses, and users that leave anywhere in them and
/// anyhow: what the page promises of them holds.
#[test]
fn no_drawn_answer_is_taken_to_be_over_before_its_end_nor_long_after_it() {
    let asked = std::env::var("IOFOG_CONNECTOR_HISTORIES").ok();
    let histories = asked.map_or(100_000, |count| count.parse().expect("a number"));
    let mut random = fastrand::Rng::with_seed(10);
    for number in 0..histories {
        history(number, &mut random);
    }
}

fn history(number: u64, random: &mut fastrand::Rng) {
    let begun = Instant::now();
    let mut now = begun;
    let round_trip = Duration::from_micros(random.u64(0..50_000));
    let mut residue = Residue::new(round_trip, now);
    // Exchanges before the one that counts.
    for _ in 0..random.usize(0..4) {
        residue.asked();
        now += ms(random.u64(0..3000));
        residue.heard(random.u64(1..100_000), now);
    }
    residue.asked();
    // The answer: pieces, each of bytes that come about as fast as each other.
    let gap = random.u64(1..60);
    let pause = if random.bool() { random.u64(200..=5000) } else { 0 };
    let chunks = random.usize(2..30);
    let mut times = Vec::new();
    let mut at = now + ms(random.u64(0..55_000));
    for piece in 0..random.usize(2..6) {
        if piece > 0 && pause > 0 {
            at += ms(pause + random.u64(0..=(pause / 5).min(800)));
        }
        for _ in 0..chunks {
            at += ms(random.u64(gap.div_ceil(2)..=gap));
            times.push(at);
        }
    }
    let end = at;
    // Pieces before a pause that nobody has seen are long, if their user may leave there.
    let chunk = 1 + 70_000 / chunks as u64 + random.u64(0..20_000);
    let leaves_after = match random.u32(0..10) {
        // With the answer still owed.
        0 if pause == 0 => 0,
        // Just as the first pause begins, which nobody has seen, or having seen one of it. (What
        // of a first pause that comes only after the user has left? See the page.)
        _ if pause > 0 => [chunks, random.usize(chunks + 1..=times.len())][random.usize(0..2)],
        // Having seen one gap of it at least.
        _ => random.usize(2..=times.len()),
    };
    let mut last = None;
    for time in &times[..leaves_after] {
        now = *time;
        residue.heard(chunk, now);
        last = Some(now);
    }
    let seen = leaves_after / chunks;
    let leaving = match random.u32(0..3) {
        0 if pause == 0 || seen > 1 => InOrder,
        1 => Fin,
        _ => Torn,
    };
    residue.left(leaving, true, now);
    if leaves_after == 0 || random.bool() {
        residue.given_up(now);
    }
    let what = format!(
        "history {number}: gaps of {gap} ms, pauses of {pause} ms, {leaving:?} after \
         {leaves_after} of {} pieces of {chunk} bytes",
        times.len()
    );
    for time in &times[leaves_after..] {
        let before = *time - Duration::from_micros(1);
        let verdict = residue.verdict(before);
        assert!(matches!(verdict, Verdict::Until(_)), "{what}: {verdict:?} in mid-answer");
        residue.heard(chunk, *time);
        // It shows that nobody is there.
        residue.left(Torn, true, *time);
        last = Some(*time);
    }
    assert_eq!(last, Some(end), "{what}");
    let known = leaves_after < times.len() || leaving == InOrder;
    let at_most = match (known, pause) {
        (true, 0) => ms(1000),
        (true, pause) => ms(1000 + 2 * (pause + pause / 5)),
        (false, pause) => ms(7000 + 1000 + 2 * pause),
    };
    let verdict = residue.verdict(end + at_most + 2 * round_trip);
    assert_eq!(verdict, Verdict::Clean, "{what}");
}
