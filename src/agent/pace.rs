//! When the connector may be asked for one more tunnel: policy as a value, without sockets.

use std::time::{Duration, Instant};

use crate::limits;
use crate::runtime::Backoff;

/// What is known of the connector, and when the next try may be.
pub(super) struct Pace {
    /// The last try failed, or a tunnel was lost since. Then there is only one try at a time.
    failing: bool,
    not_before: Instant,
    redial: Backoff,
    /// When an idle tunnel was lost last that told something new: those that were open by then are of its kind.
    lost_at: Option<Instant>,
    /// Whether the next try is the one at once after that.
    at_once: bool,
    refusals: u32,
    /// Whether the passcode was ever accepted.
    accepted: bool,
    /// The most tunnels that were open at one time: the mapping allows at least this many.
    allowed: usize,
    /// When to try for one more than that; `None` if none was ever refused.
    more_at: Option<Instant>,
    /// Places given back and not asked for again yet, and when the last one was given back.
    given_back: (usize, Option<Instant>),
    /// After one of the allowed places was refused: when to ask for it again, and how long to wait
    /// after the next refusal.
    regain: (Instant, Duration),
    /// How many sessions in a row were in vain, and when the last of them ended.
    vain: (u32, Instant),
    /// Until then sessions in vain do not count, because others are served.
    forgiven_until: Instant,
    /// After sessions in vain, the next try waits until then.
    hasty_until: Instant,
}

/// How a session went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Bytes came from the connector's side. Whether the answer was of use to the user is not for
    /// the connector to judge.
    Carried,
    /// It lasted for [`limits::VAIN_SESSION`].
    Lasted,
    /// Neither.
    Vain,
}

/// What a refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The mapping allows no more tunnels than those that are open.
    OneTooMany,
    /// It has allowed more before: the place of a closed tunnel is not free yet, or another has it.
    NotYet,
    /// The passcode was accepted before.
    NotAnyMore,
    /// The passcode has never been accepted.
    Never,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Pace {
            failing: true,
            not_before: now,
            redial: Backoff::new(limits::REDIAL),
            lost_at: None,
            at_once: false,
            refusals: 0,
            accepted: false,
            allowed: 0,
            more_at: None,
            given_back: (0, None),
            regain: (now, limits::REDIAL[0]),
            vain: (0, now),
            forgiven_until: now,
            hasty_until: now,
        }
    }

    /// Whether one more tunnel may be opened now, beside those that are open and those that are
    /// being dialled; else when to ask again: at a change or at this time.
    pub(super) fn may_open(
        &self,
        now: Instant,
        open: usize,
        dialing: usize,
    ) -> Result<(), Option<Instant>> {
        let not_before = self.not_before.max(self.hasty_until);
        if now < not_before {
            return Err(Some(not_before));
        }
        if dialing >= limits::DIALING || (self.failing && dialing > 0) {
            return Err(None);
        }
        let Some(more_at) = self.more_at else { return Ok(()) };
        if open < self.allowed && self.given_back.0 > 0 {
            // Other dials do not count: the connector may delay their refusals for seconds.
            return Ok(());
        }
        let (again, is_ours) = match open + dialing < self.allowed {
            true => (self.regain.0, true),
            false => (more_at, false),
        };
        match (now >= again, is_ours || dialing == 0) {
            (_, false) => Err(None),
            (true, true) => Ok(()),
            (false, true) => Err(Some(again)),
        }
    }

    /// A try begins. While sessions end in vain, each try delays the next.
    pub(super) fn dialled(&mut self, now: Instant) {
        self.hasty_until = now + haste(self.vain.0);
        self.given_back.0 = self.given_back.0.saturating_sub(1);
    }

    /// How many tunnels the mapping allows, as far as is known.
    pub(super) fn allowed(&self) -> usize {
        self.allowed
    }

    /// A tunnel or its session is over: its place can be taken again at once.
    pub(super) fn given_back(&mut self, now: Instant) {
        self.given_back = ((self.given_back.0 + 1).min(self.allowed), Some(now));
        self.regain.1 = limits::REDIAL[0];
    }

    /// The passcode was accepted; this many tunnels are `open` now.
    pub(super) fn authorized(&mut self, open: usize) {
        (self.failing, self.at_once) = (false, false);
        self.accepted = true;
        self.refusals = 0;
        self.allowed = self.allowed.max(open);
    }

    /// There was no answer, or a wrong one; `false` where that is no news yet: a connector that is restarted gives its
    /// tunnels up, and is not there for a moment.
    pub(super) fn unreachable(&mut self, now: Instant) -> bool {
        self.back_off(now);
        !std::mem::take(&mut self.at_once)
    }

    /// The passcode was answered by closing, while this many tunnels were `open`.
    pub(super) fn refused(&mut self, now: Instant, open: usize) -> Refusal {
        // With tunnels open, the passcode is right, so this was one tunnel too many. With none open,
        // that holds for as long as the connector may take to answer: it may not have seen yet that
        // the last ones ended.
        let just_now =
            self.given_back.1.is_some_and(|at| self.accepted && now < at + limits::AUTHORIZED);
        if open > 0 || just_now {
            self.more_at = Some(now + limits::REFUSED_AGAIN);
            if open == 0 {
                // The others that were given back would be refused, too.
                self.given_back.0 = 0;
            }
            if open < self.allowed {
                self.regain_later(now, open);
                return Refusal::NotYet;
            }
            return Refusal::OneTooMany;
        }
        self.refusals = self.refusals.saturating_add(1);
        // A connector that is about to stop closes connections too: a first time proves nothing.
        if self.accepted || self.refusals == 1 {
            self.back_off(now);
        } else {
            self.failing = true;
            self.not_before = now + limits::REFUSED_AGAIN;
        }
        if self.accepted { Refusal::NotAnyMore } else { Refusal::Never }
    }

    /// Schedules the next try for a place that was refused, after twice as long each time: the
    /// connector may not have seen yet that a session is over. When that takes too long, others have
    /// taken the place.
    fn regain_later(&mut self, now: Instant, open: usize) {
        let (at, delay) = self.regain;
        if now < at {
            return;
        }
        if delay >= limits::REFUSED_AGAIN {
            self.allowed = open.max(1);
        }
        self.regain = (now + delay, (2 * delay).min(limits::REFUSED_AGAIN));
    }

    /// What was wrong may have been mended: the next try need not wait.
    pub(super) fn try_now(&mut self, now: Instant) {
        self.not_before = now;
        self.redial = Backoff::new(limits::REDIAL);
        self.more_at = self.more_at.map(|_| now);
        self.regain = (now, limits::REDIAL[0]);
    }

    /// An idle tunnel of this age has ended by itself; `false` when it was lost together with others, or as they were,
    /// which counts once. One that was `given_up` in order is replaced at once the first time, since another program may
    /// have taken the connector's place; only where that one is given up soon, too, the next try waits.
    pub(super) fn lost(&mut self, now: Instant, age: Duration, given_up: bool) -> bool {
        let lasted = age >= limits::PROVEN_IDLE;
        if lasted {
            self.redial = Backoff::new(limits::REDIAL);
        }
        if !given_up {
            return self.back_off(now);
        }
        // Long afterwards, the end of one that was there already is news.
        let lately = self.lost_at.filter(|lost| now < *lost + 2 * limits::REDIAL[1]);
        let is_older = lately.is_some_and(|lost| now.checked_sub(age) <= Some(lost));
        if is_older {
            return false;
        }
        let is_first =
            self.lost_at.is_none_or(|lost| lasted || now >= lost + 2 * limits::REDIAL[1]);
        self.lost_at = Some(now);
        if !is_first {
            return self.back_off(now);
        }
        (self.failing, self.at_once) = (true, true);
        self.not_before = self.not_before.max(now + limits::REDIAL_SPREAD.mul_f32(fastrand::f32()));
        true
    }

    /// A session has ended. If it or another one beside it carried bytes, users are served; then for a
    /// while sessions in vain are taken for those of users that only connect and leave. Otherwise
    /// they may be a flood that only makes this side dial. Gives `true` when dials begin to be slowed
    /// down because of them.
    pub(super) fn session_ended(&mut self, now: Instant, outcome: Outcome) -> bool {
        if outcome != Outcome::Vain {
            self.redial = Backoff::new(limits::REDIAL);
            self.lost_at = None;
            self.vain.0 /= 2;
            if outcome == Outcome::Carried {
                self.hasty_until = now;
                self.vain.0 = 0;
                self.forgiven_until = now + limits::VAIN_FORGIVEN;
            }
            return false;
        }
        if now < self.forgiven_until {
            return false;
        }
        let (count, last) = self.vain;
        let count = if now >= last + limits::VAIN_FORGOTTEN { 0 } else { count };
        self.vain = ((count + 1).min(2 * limits::VAIN_SESSIONS), now);
        count + 1 == limits::VAIN_SESSIONS + 1
    }

    /// Delays the next try, twice as long each time. Failures at the same time count as one; gives
    /// `true` when this one counts.
    fn back_off(&mut self, now: Instant) -> bool {
        self.failing = true;
        if now < self.not_before {
            return false;
        }
        self.not_before = now + self.redial.pause().mul_f32(0.5 + 0.5 * fastrand::f32());
        true
    }
}

/// How long a try waits after the last one when this many sessions in a row were in vain.
fn haste(vain: u32) -> Duration {
    let [first, longest] = limits::VAIN_DIAL_PAUSE;
    match vain.checked_sub(limits::VAIN_SESSIONS + 1) {
        None => Duration::ZERO,
        Some(more) => first.saturating_mul(1 << more.min(16)).min(longest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn outcome(carried: bool) -> Outcome {
        if carried { Outcome::Carried } else { Outcome::Vain }
    }

    /// Tries in the `time` after a beginning, when what each leads to is told by `becomes`.
    fn tries(pace: &mut Pace, time: Duration, mut becomes: impl FnMut(&mut Pace, Instant)) -> u32 {
        let start = Instant::now();
        let (mut now, mut count) = (start, 0);
        while now < start + time {
            match pace.may_open(now, 0, 0) {
                Ok(()) => {
                    count += 1;
                    pace.dialled(now);
                    becomes(pace, now);
                    now += ms(1);
                }
                Err(again) => now = again.unwrap().max(now),
            }
        }
        count
    }

    #[test]
    fn who_does_not_answer_is_asked_less_and_less_often() {
        let mut pace = Pace::new(Instant::now());
        let count = tries(&mut pace, Duration::from_secs(600), |pace, now| {
            pace.unreachable(now);
        });
        assert!((20..=50).contains(&count), "{count}");
    }

    #[test]
    fn the_jail_for_strangers_lets_two_gateways_with_an_old_passcode_try() {
        let jail = include_str!("../../contrib/fail2ban/filter.d/iofog-connector.conf");
        let number = |name: &str| {
            let rest = jail.split(&format!("#   {name} = ")).nth(1).expect(name);
            rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u32>().unwrap()
        };
        assert!(jail.contains("#   findtime = 10m\n"));
        let time = Duration::from_secs(60) * number("findtime");
        for was_accepted in [false, true] {
            let mut pace = Pace::new(Instant::now());
            if was_accepted {
                pace.authorized(8);
            }
            let count = tries(&mut pace, time, |pace, now| {
                pace.refused(now, 0);
            });
            assert!(2 * count < number("maxretry"), "{count} tries of one that was {was_accepted}");
        }
    }

    #[test]
    fn who_accepts_and_closes_is_asked_less_and_less_often() {
        for given_up in [false, true] {
            let mut pace = Pace::new(Instant::now());
            let count = tries(&mut pace, Duration::from_secs(600), |pace, now| {
                pace.authorized(1);
                pace.lost(now, ms(0), given_up);
            });
            assert!((20..=50).contains(&count), "{count}");
        }
    }

    #[test]
    fn tunnels_that_are_given_up_are_replaced_at_once_unless_that_is_repeated_soon() {
        let start = Instant::now();
        let (soon, at) = (limits::REDIAL_SPREAD, |count| start + ms(count));
        let mut pace = Pace::new(start);
        (1..=3).for_each(|open| pace.authorized(open));
        assert!(pace.lost(at(900), ms(900), true));
        assert!(!pace.lost(at(901), ms(900), true), "all at one time count once");
        assert_eq!(pace.may_open(at(901) + soon, 1, 0), Ok(()));
        pace.authorized(2);
        // The last one had a session first, and another in vain.
        pace.session_ended(at(2000), Outcome::Vain);
        assert!(!pace.lost(at(2000), ms(1990), true), "as those were that had been there with it");
        assert_eq!(pace.may_open(at(2000), 1, 0), Ok(()));
        pace.authorized(2);
        assert!(pace.lost(at(2500), ms(400), true));
        assert!(pace.may_open(at(2500) + soon, 1, 0).is_err(), "that is repeated");
        assert_eq!(pace.may_open(at(2500) + limits::REDIAL[0], 1, 0), Ok(()));
        let later = at(2500) + 2 * limits::PROVEN_IDLE;
        assert!(pace.lost(later, limits::PROVEN_IDLE, true));
        assert_eq!(pace.may_open(later + soon, 1, 0), Ok(()), "it had lasted");
        let much_later = later + Duration::from_secs(3 * 3600);
        assert!(pace.lost(much_later, Duration::from_secs(4 * 3600), true), "that is news again");
        assert!(!pace.unreachable(later + soon), "it may be starting");
        assert!(pace.may_open(later + soon, 1, 0).is_err());
        assert!(pace.unreachable(later + limits::REDIAL[0]));
    }

    #[test]
    fn sessions_that_end_at_once_are_slowed_down_and_those_that_carry_bytes_are_not() {
        let minute = Duration::from_secs(60);
        let mut pace = Pace::new(Instant::now());
        let vain = tries(&mut pace, minute, |pace, now| {
            pace.authorized(1);
            pace.session_ended(now, Outcome::Vain);
        });
        assert!((100..=400).contains(&vain), "{vain}");
        let mut pace = Pace::new(Instant::now());
        let useful = tries(&mut pace, minute, |pace, now| {
            pace.authorized(1);
            pace.session_ended(now, Outcome::Carried);
        });
        assert_eq!(useful, 60_000);
        let (mut pace, mut number) = (Pace::new(Instant::now()), 0);
        let mixed = tries(&mut pace, minute, |pace, now| {
            number += 1;
            pace.authorized(1);
            pace.session_ended(now, outcome(number % 8 == 0));
        });
        assert_eq!(mixed, 60_000, "users that only look in among others slow nobody down");
        let (mut pace, mut served) = (Pace::new(Instant::now()), Instant::now());
        let rare = tries(&mut pace, minute, |pace, now| {
            pace.authorized(1);
            let useful = now >= served + limits::VAIN_FORGIVEN / 2;
            if useful {
                served = now;
            }
            pace.session_ended(now, outcome(useful));
        });
        // Until the first one is served.
        assert!(rare > 40_000, "nor where they are few among very many: {rare}");
        let mut now = Instant::now();
        for _ in 0..100 {
            pace.session_ended(now, Outcome::Vain);
            now += limits::VAIN_FORGOTTEN;
            pace.dialled(now);
            assert_eq!(pace.may_open(now, 0, 0), Ok(()), "a look now and then is no haste");
        }
    }

    #[test]
    fn slowing_down_is_said_once() {
        let (mut pace, now) = (Pace::new(Instant::now()), Instant::now());
        let said = (0..1000).filter(|_| pace.session_ended(now, Outcome::Vain)).count();
        assert_eq!(said, 1);
    }

    #[test]
    fn a_refusal_beside_open_tunnels_is_a_ceiling_and_alone_a_wrong_passcode() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.authorized(1);
        pace.authorized(2);
        assert_eq!(pace.refused(now, 2), Refusal::OneTooMany);
        assert_eq!(pace.may_open(now, 2, 0), Err(Some(now + limits::REFUSED_AGAIN)));
        assert_eq!(pace.may_open(now, 1, 0), Ok(()), "one has gone");
        assert_eq!(pace.may_open(now, 1, 1), Err(None));
        assert_eq!(pace.may_open(now + limits::REFUSED_AGAIN, 2, 0), Ok(()));
        pace.try_now(now);
        assert_eq!(pace.may_open(now, 2, 0), Ok(()), "the mapping may allow more now");
        let mut pace = Pace::new(now);
        assert_eq!(pace.refused(now, 0), Refusal::Never);
        assert!(pace.may_open(now + limits::REDIAL[0], 0, 0).is_ok(), "a first time is no proof");
        assert_eq!(pace.refused(now, 0), Refusal::Never);
        assert_eq!(pace.may_open(now, 0, 0), Err(Some(now + limits::REFUSED_AGAIN)));
        pace.authorized(0);
        assert_eq!(pace.refused(now + limits::REFUSED_AGAIN, 0), Refusal::NotAnyMore);
    }

    #[test]
    fn a_place_that_was_given_back_is_asked_for_at_once_and_not_forgotten() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        (1..=3).for_each(|open| pace.authorized(open));
        assert_eq!(pace.refused(now, 3), Refusal::OneTooMany);
        for _ in 0..20 {
            pace.given_back(now);
            assert_eq!(pace.may_open(now, 2, 5), Ok(()), "held refusals are not in the way");
            pace.dialled(now);
            assert_eq!(pace.refused(now, 2), Refusal::NotYet, "the connector is a bit behind");
            assert_eq!(pace.may_open(now, 2, 0), Err(Some(now + limits::REDIAL[0])));
            now += limits::REDIAL[0];
            assert_eq!(pace.may_open(now, 2, 0), Ok(()));
            pace.dialled(now);
            pace.authorized(3);
            assert_eq!(pace.allowed(), 3);
        }
    }

    #[test]
    fn places_that_others_have_taken_are_asked_for_less_and_less_often() {
        let start = Instant::now();
        let (mut now, mut count) = (start, 0);
        let mut pace = Pace::new(now);
        (1..=3).for_each(|open| pace.authorized(open));
        while now < start + Duration::from_secs(600) {
            match pace.may_open(now, 1, 0) {
                Ok(()) => {
                    count += 1;
                    pace.dialled(now);
                    pace.refused(now, 1);
                }
                Err(again) => now = again.unwrap(),
            }
        }
        assert!((20..=35).contains(&count), "{count}");
        assert_eq!(pace.allowed(), 1);
    }

    #[test]
    fn own_sessions_that_have_just_ended_are_no_wrong_passcode() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.authorized(1);
        pace.given_back(now);
        pace.authorized(2);
        pace.given_back(now);
        pace.given_back(now);
        assert_eq!(pace.refused(now + ms(900), 0), Refusal::NotYet);
        assert!(pace.may_open(now + ms(901), 0, 0).is_err(), "not once for each of them");
        assert_eq!(pace.refused(now + limits::AUTHORIZED, 0), Refusal::NotAnyMore);
    }

    #[test]
    fn tries_at_one_time_are_bounded_and_while_they_fail_there_is_one() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(pace.may_open(now, 0, 1), Err(None));
        pace.authorized(0);
        assert_eq!(pace.may_open(now, 0, limits::DIALING - 1), Ok(()));
        assert_eq!(pace.may_open(now, 0, limits::DIALING), Err(None));
    }
}
