//! How long a version 1 tunnel must have been quiet before a user gets it, as a value (protocol page, section 6,
//! step 7): what has been lost, found and learned on a mapping goes in, a duration comes out. Sockets, time and tasks
//! are the [`Pairing`](super::Pairing)'s.

use std::time::{Duration, Instant};

use crate::limits;
use crate::session::Missing;

/// What one mapping fears of old answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wariness {
    lost: Option<Lost>,
    lesson: Option<Lesson>,
}

/// Answers whose tunnels are gone, and that may come on fresh ones.
#[derive(Clone, Copy, Debug)]
struct Lost {
    until: Instant,
    /// Tunnels that are gone so, less those on which such an answer has come since.
    count: usize,
    /// Whether one of them owed all of its answer.
    owed: bool,
    /// Whether it is known that there are, or were: more than that there may be.
    is_certain: bool,
}

/// A tunnel was taken for clean, and was not.
#[derive(Clone, Copy, Debug)]
struct Lesson {
    until: Instant,
    /// How long every version 1 tunnel must be quiet.
    quiet: Duration,
}

impl Wariness {
    /// Old answers may come on fresh tunnels; nobody knows of how many tunnels.
    pub(super) fn begin(&mut self, now: Instant) {
        self.note(now, |_| {});
    }

    /// A tunnel is gone on which this was still to come.
    pub(super) fn lost(&mut self, missing: Missing, now: Instant) {
        if missing != Missing::Nothing {
            self.note(now, |lost| {
                lost.count += 1;
                lost.owed |= missing == Missing::Answer;
                lost.is_certain = true;
            });
        }
    }

    /// An old answer comes on a fresh tunnel. It may not be the only one.
    pub(super) fn found(&mut self, now: Instant) {
        self.note(now, |lost| {
            lost.count = lost.count.saturating_sub(1);
            lost.owed &= lost.count > 0;
            lost.is_certain = true;
        });
    }

    /// It is known that none may come, but for those that this one has lost itself.
    pub(super) fn calm(&mut self) {
        self.lost = self.lost.filter(|lost| lost.is_certain);
    }

    fn note(&mut self, now: Instant, change: impl FnOnce(&mut Lost)) {
        let until = now + limits::WARY;
        let known = self.lost.filter(|lost| now < lost.until);
        let mut lost = known.unwrap_or(Lost { until, count: 0, owed: false, is_certain: false });
        change(&mut lost);
        self.lost = Some(Lost { until, ..lost });
    }

    /// A tunnel that was taken for clean has sent bytes after all, so long after the last ones.
    pub(super) fn learn(&mut self, late: Duration, now: Instant) {
        let quiet = (2 * late).min(limits::LESSON_QUIET);
        let known = self.lesson.filter(|lesson| now < lesson.until);
        let quiet = known.map_or(quiet, |known| known.quiet.max(quiet));
        self.lesson = Some(Lesson { until: now + limits::LESSON, quiet });
    }

    /// How long a tunnel must have been quiet now; a `fresh` one has carried no session yet.
    pub(super) fn quiet(&self, fresh: bool, now: Instant) -> Duration {
        let lost = match self.lost.filter(|lost| fresh && now < lost.until) {
            Some(Lost { owed: true, .. }) => limits::QUIET_OWED,
            Some(_) => limits::QUIET_LATE,
            None => Duration::ZERO,
        };
        let lesson = self.lesson.filter(|lesson| now < lesson.until);
        lesson.map_or(lost, |lesson| lesson.quiet.max(lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn fresh_tunnels_must_be_quiet_for_a_minute_after_an_answer_was_lost() {
        let now = Instant::now();
        let mut wary = Wariness::default();
        wary.lost(Missing::Nothing, now);
        assert_eq!(wary.quiet(true, now), Duration::ZERO);
        wary.lost(Missing::Rest, now);
        assert_eq!(wary.quiet(true, now), limits::QUIET_LATE);
        assert_eq!(wary.quiet(false, now), Duration::ZERO, "one that has carried a session");
        assert_eq!(wary.quiet(true, now + limits::WARY - MS), limits::QUIET_LATE);
        assert_eq!(wary.quiet(true, now + limits::WARY), Duration::ZERO);
    }

    #[test]
    fn what_another_one_says_to_be_over_is_feared_no_longer_and_what_was_lost_here_is() {
        let now = Instant::now();
        for lost in [false, true] {
            let mut wary = Wariness::default();
            wary.begin(now);
            assert_eq!(wary.quiet(true, now), limits::QUIET_LATE);
            if lost {
                wary.lost(Missing::Rest, now);
                wary.found(now);
            }
            wary.calm();
            assert_eq!(wary.quiet(true, now).is_zero(), !lost);
        }
    }

    #[test]
    fn an_answer_that_is_owed_is_feared_until_as_many_have_come_as_were_lost() {
        let now = Instant::now();
        let mut wary = Wariness::default();
        wary.lost(Missing::Answer, now);
        wary.lost(Missing::Rest, now);
        wary.found(now);
        assert_eq!(wary.quiet(true, now), limits::QUIET_OWED, "it may have been the other one");
        wary.found(now + limits::WARY / 2);
        assert_eq!(wary.quiet(true, now + limits::WARY), limits::QUIET_LATE, "wary for longer");
    }

    #[test]
    fn every_tunnel_must_be_quiet_for_twice_as_long_as_the_one_that_was_not_clean() {
        let now = Instant::now();
        let mut wary = Wariness::default();
        wary.learn(1000 * MS, now);
        wary.learn(10 * MS, now);
        for fresh in [false, true] {
            assert_eq!(wary.quiet(fresh, now), 2000 * MS);
            assert_eq!(wary.quiet(fresh, now + limits::LESSON), Duration::ZERO);
        }
        wary.lost(Missing::Answer, now);
        assert_eq!(wary.quiet(true, now), limits::QUIET_OWED, "the longer one counts");
        wary.learn(limits::LESSON_QUIET, now);
        assert_eq!(wary.quiet(true, now), limits::LESSON_QUIET, "the longest there is");
    }

    /// What has happened, and when.
    enum Event {
        Begun,
        Lost(Missing),
        Found,
        Learned(Duration),
    }

    /// The answer from the whole history: of events that follow each other within the time for which each counts,
    /// the last ones.
    fn quiet_by_history(history: &[(Instant, Event)], fresh: bool, now: Instant) -> Duration {
        let recent = |counts: fn(&Event) -> bool, time: Duration| {
            let mut recent: Vec<&(Instant, Event)> = Vec::new();
            for event in history.iter().rev().filter(|(_, event)| counts(event)) {
                if recent.last().map_or(now, |(later, _)| *later) - event.0 >= time {
                    break;
                }
                recent.push(event);
            }
            recent
        };
        let lessons = recent(|event| matches!(event, Event::Learned(_)), limits::LESSON);
        let lesson = lessons.iter().map(|(_, event)| match event {
            Event::Learned(late) => (2 * *late).min(limits::LESSON_QUIET),
            _ => unreachable!(),
        });
        let lesson = lesson.max().unwrap_or_default();
        let others = recent(|event| !matches!(event, Event::Learned(_)), limits::WARY);
        if !fresh || others.is_empty() {
            return lesson;
        }
        let (mut count, mut owed) = (0usize, false);
        for (_, event) in others.iter().rev() {
            match event {
                Event::Lost(missing) => {
                    count += 1;
                    owed |= *missing == Missing::Answer;
                }
                Event::Found => {
                    count = count.saturating_sub(1);
                    owed &= count > 0;
                }
                Event::Begun | Event::Learned(_) => {}
            }
        }
        lesson.max(if owed { limits::QUIET_OWED } else { limits::QUIET_LATE })
    }

    #[test]
    fn whatever_happens_tunnels_must_be_quiet_for_as_long_as_the_whole_history_says() {
        for seed in 0..200 {
            let random = &mut fastrand::Rng::with_seed(seed);
            let (mut wary, mut history) = (Wariness::default(), Vec::new());
            let mut now = Instant::now();
            for step in 0..200 {
                now += Duration::from_millis(random.u64(..60_000));
                let event = match random.u8(..8) {
                    0 => Event::Begun,
                    1 => Event::Lost(Missing::Rest),
                    2 => Event::Lost(Missing::Answer),
                    3..=5 => Event::Found,
                    _ => Event::Learned(Duration::from_millis(random.u64(..8000))),
                };
                match event {
                    Event::Begun => wary.begin(now),
                    Event::Lost(missing) => wary.lost(missing, now),
                    Event::Found => wary.found(now),
                    Event::Learned(late) => wary.learn(late, now),
                }
                history.push((now, event));
                let later = now + Duration::from_millis(random.u64(..90_000));
                for fresh in [false, true] {
                    let expected = quiet_by_history(&history, fresh, later);
                    assert_eq!(wary.quiet(fresh, later), expected, "seed {seed}, step {step}");
                }
            }
        }
    }
}
