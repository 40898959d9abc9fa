//! Which version a tunnel in plain TCP greets the connector by (protocol page, section 8, step 1): policy as a
//! value. In TLS the handshake says.

use std::time::Instant;

use crate::limits;
use crate::wire::greeting::Version;

/// What is known of the connector's versions.
pub(super) struct Versions {
    /// That of the last tunnel that was accepted.
    works: Option<Version>,
    /// While version 2 works: when version 3 is tried again.
    three_at: Instant,
    /// After both were refused, one behind the other, with no tunnel open: the one that is tried next. They take
    /// turns, so that a wrong passcode costs one connection each time.
    alone: Option<Version>,
}

/// How one try to open a tunnel greets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Try {
    pub(super) version: Version,
    /// Whether version 2 follows at once when the connection is closed without a byte.
    pub(super) then_two: bool,
}

impl Versions {
    pub(super) fn new(now: Instant) -> Self {
        Versions { works: None, three_at: now, alone: None }
    }

    /// How the next try greets, while so many tunnels are `open`.
    pub(super) fn next(&mut self, now: Instant, open: usize) -> Try {
        let one = |version| Try { version, then_two: false };
        match (self.alone, self.works) {
            (Some(version), _) => {
                let is_two = version == Version::Two;
                self.alone = Some(if is_two { Version::Three } else { Version::Two });
                one(version)
            }
            (None, Some(Version::Two)) if now < self.three_at => one(Version::Two),
            // Others that are dialled meanwhile do not ask as well.
            (None, Some(Version::Two)) => {
                self.three_at = now + limits::VERSION_AGAIN;
                Try { version: Version::Three, then_two: true }
            }
            // It spoke version 3 a moment ago: it is the place or the passcode that it refuses.
            (None, _) => {
                Try { version: Version::Three, then_two: self.works.is_none() || open == 0 }
            }
        }
    }

    /// A tunnel of this version was accepted; `behind` a refusal of version 3 in the same try.
    pub(super) fn accepted(&mut self, now: Instant, version: Version, behind: bool) {
        if version == Version::Two && self.works != Some(Version::Two) {
            // What was refused may have been the passcode or the place, and not version 3. Then the next
            // tunnel is of version 3 again.
            let is_sure = behind && self.works.is_none();
            self.three_at = if is_sure { now + limits::VERSION_AGAIN } else { now };
        }
        self.works = Some(version);
        self.alone = None;
    }

    /// The connection was closed without a byte, that of version 2 `behind` version 3 as well, while so many
    /// tunnels were `open`.
    pub(super) fn refused(&mut self, behind: bool, open: usize) {
        if behind && open == 0 {
            self.alone = Some(Version::Three);
        }
    }

    /// What was refused may have been mended: the next try is as the first.
    pub(super) fn try_now(&mut self, now: Instant) {
        self.three_at = now;
        self.alone = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const THREE: Try = Try { version: Version::Three, then_two: false };
    const THREE_THEN_TWO: Try = Try { version: Version::Three, then_two: true };
    const TWO: Try = Try { version: Version::Two, then_two: false };

    /// A connector that knows these versions, and whether it accepts the passcode.
    struct Model {
        knows: &'static [Version],
        accepts: bool,
        greetings: Vec<Version>,
    }

    impl Model {
        /// One try; gives the version of the tunnel, if there is one.
        fn tried(&mut self, versions: &mut Versions, now: Instant, open: usize) -> Option<Version> {
            let next = versions.next(now, open);
            let mut behind = false;
            for version in [next.version, Version::Two] {
                self.greetings.push(version);
                if self.accepts && self.knows.contains(&version) {
                    versions.accepted(now, version, behind);
                    return Some(version);
                }
                if behind || !next.then_two {
                    break;
                }
                behind = true;
            }
            versions.refused(behind, open);
            None
        }
    }

    fn model(knows: &'static [Version]) -> Model {
        Model { knows, accepts: true, greetings: Vec::new() }
    }

    const BOTH: &[Version] = &[Version::Two, Version::Three];
    const OLD: &[Version] = &[Version::Two];

    #[test]
    fn version_2_is_tried_once_behind_version_3_and_then_believed_for_ten_minutes() {
        let (mut now, mut model) = (Instant::now(), model(OLD));
        let mut versions = Versions::new(now);
        assert_eq!(model.tried(&mut versions, now, 0), Some(Version::Two));
        assert_eq!(model.greetings, [Version::Three, Version::Two]);
        for open in 1..8 {
            assert_eq!(versions.next(now, open), TWO);
        }
        now += limits::VERSION_AGAIN - Duration::from_millis(1);
        assert_eq!(versions.next(now, 8), TWO);
        now += Duration::from_millis(1);
        assert_eq!(versions.next(now, 8), THREE_THEN_TWO);
        assert_eq!(versions.next(now, 8), TWO, "one at a time asks");
        model.knows = BOTH;
        now += limits::VERSION_AGAIN;
        assert_eq!(model.tried(&mut versions, now, 8), Some(Version::Three));
        assert_eq!(versions.next(now, 9), THREE, "and a refusal of a place is one");
        assert_eq!(versions.next(now, 0), THREE_THEN_TWO, "it may be an older one by now");
    }

    #[test]
    fn passcode_that_is_refused_costs_one_connection_for_each_try_but_the_first() {
        let (now, mut model) = (Instant::now(), model(BOTH));
        model.accepts = false;
        let mut versions = Versions::new(now);
        for _ in 0..100 {
            assert_eq!(model.tried(&mut versions, now, 0), None);
        }
        assert_eq!(model.greetings.len(), 101);
        versions.try_now(now);
        assert_eq!(versions.next(now, 0), THREE_THEN_TWO, "it may have been mended");
    }

    #[test]
    fn tunnels_are_of_the_best_version_soon_after_a_passcode_was_mended() {
        for (knows, best) in [(OLD, Version::Two), (BOTH, Version::Three)] {
            for refusals in 1..4 {
                let (now, mut model) = (Instant::now(), model(knows));
                let mut versions = Versions::new(now);
                model.accepts = false;
                (0..refusals).for_each(|_| _ = model.tried(&mut versions, now, 0));
                model.accepts = true;
                let tunnels: Vec<_> =
                    (0..6).filter_map(|open| model.tried(&mut versions, now, open)).collect();
                assert!(tunnels.len() >= 5, "one try may be of the other version");
                assert!(tunnels[1..].iter().all(|version| *version == best), "{tunnels:?}");
            }
        }
    }

    #[test]
    fn place_that_becomes_free_between_two_greetings_does_not_make_a_connector_an_old_one() {
        let now = Instant::now();
        let mut versions = Versions::new(now);
        versions.accepted(now, Version::Three, false);
        assert_eq!(versions.next(now, 0), THREE_THEN_TWO);
        versions.accepted(now, Version::Two, true);
        assert_eq!(versions.next(now, 1), THREE_THEN_TWO);
        versions.accepted(now, Version::Three, false);
        assert_eq!((versions.next(now, 2), versions.works), (THREE, Some(Version::Three)));
        let mut versions = Versions::new(now);
        versions.accepted(now, Version::Three, false);
        versions.accepted(now, Version::Two, true);
        assert_eq!(versions.next(now, 1), THREE_THEN_TWO);
        versions.accepted(now, Version::Two, true);
        assert_eq!(versions.next(now, 2), TWO, "it is one");
    }
}
