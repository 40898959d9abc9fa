use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::limits;

/// Those that wait, as they are: every question looks at all of them.
struct Model {
    public: bool,
    sides: [BTreeMap<Number, Standing>; 2],
    users: BTreeMap<Number, bool>,
}

impl Model {
    fn new(public: bool) -> Self {
        Model { public, sides: Default::default(), users: BTreeMap::new() }
    }

    fn fittest(&self, side: usize, silent: bool) -> Option<Number> {
        let fits =
            |standing: &Standing| standing.fit && (!silent || standing.version != Version::One);
        let fit = self.sides[side].iter().filter(|(_, standing)| fits(standing));
        let again =
            fit.clone().filter_map(|(number, standing)| Some((standing.heard_at?, *number)));
        if let Some((_, number)) = again.max() {
            return Some(number);
        }
        fit.map(|(number, standing)| standing.rank(*number)).min().map(number_of)
    }

    fn next(&mut self) -> Option<Pair> {
        if !self.public {
            let pair = Pair { tunnel: self.fittest(0, false)?, partner: self.fittest(1, false)? };
            self.sides[0].remove(&pair.tunnel);
            self.sides[1].remove(&pair.partner);
            return Some(pair);
        }
        let pair = self.users.iter().find_map(|(user, spoken)| {
            Some(Pair { tunnel: self.fittest(0, !spoken)?, partner: *user })
        })?;
        self.sides[0].remove(&pair.tunnel);
        self.users.remove(&pair.partner);
        Some(pair)
    }

    fn most_overdue(&self, side: usize, now: Instant) -> Option<Number> {
        let overdue = self.sides[side].iter().filter_map(|(number, standing)| {
            Some((standing.overdue_at.filter(|at| *at < now)?, *number))
        });
        overdue.min().map(|(_, number)| number)
    }

    /// Has `order` and the model join all that fit, and compares what they do.
    fn settle(&mut self, order: &mut Order) -> usize {
        let mut joined = 0;
        loop {
            let look = &mut |side: usize, number| self.sides[side].get(&number).copied();
            let decided = order.next(look);
            assert_eq!(decided, self.next());
            if decided.is_none() {
                return joined;
            }
            joined += 1;
        }
    }
}

fn standing(version: Version, fit: bool) -> Standing {
    let heard_at = (version == Version::Three).then(Instant::now);
    Standing { version, fit, used_last: false, heard_at, overdue_at: None, asked: false }
}

fn some(random: &mut fastrand::Rng, numbers: impl Iterator<Item = Number>) -> Option<Number> {
    let numbers: Vec<Number> = numbers.collect();
    random.choice(numbers).or(None)
}

/// What happens by itself (a tunnel gets unfit, or is to be used last) is told to nobody; what its
/// task sees is.
#[test]
fn whatever_happens_the_same_are_joined_as_by_looking_at_all() {
    for seed in 0..300 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let public = random.bool();
        let (mut model, mut order) = (Model::new(public), Order::new(public));
        let (start, mut joined) = (Instant::now(), 0);
        for number in 0..400 {
            let side = if public { 0 } else { random.usize(0..2) };
            let draw = |random: &mut fastrand::Rng, version| Standing {
                version,
                fit: random.u8(0..3) > 0,
                used_last: version == Version::One && random.u8(0..4) == 0,
                heard_at: (version == Version::Three)
                    .then(|| start + Duration::from_secs(random.u64(0..20))),
                overdue_at: random.bool().then(|| start + Duration::from_secs(random.u64(0..20))),
                asked: random.bool(),
            };
            let tunnel = some(random, model.sides[side].keys().copied());
            let user = some(random, model.users.keys().copied());
            match (random.u8(0..8), tunnel, user) {
                (0 | 1, ..) => {
                    let versions = [Version::One, Version::Two, Version::Three];
                    let version = versions[random.usize(..3)];
                    let standing = draw(random, version);
                    model.sides[side].insert(number, standing);
                    order.tunnel(side, number, standing);
                }
                (2, ..) if public => {
                    let spoken = random.bool();
                    model.users.insert(number, spoken);
                    order.user(number, spoken);
                }
                (3, Some(tunnel), _) => {
                    let standing = draw(random, model.sides[side][&tunnel].version);
                    model.sides[side].insert(tunnel, standing);
                    order.tunnel(side, tunnel, standing);
                }
                (4, Some(tunnel), _) => {
                    let standing = model.sides[side].get_mut(&tunnel).unwrap();
                    if standing.version != Version::One || random.bool() {
                        standing.fit = false;
                    } else {
                        standing.used_last = true;
                    }
                }
                (5, Some(tunnel), _) => {
                    model.sides[side].remove(&tunnel);
                    order.tunnel_left(side, tunnel);
                }
                (6, _, Some(user)) => {
                    model.users.insert(user, true);
                    order.user(user, true);
                }
                (7, _, Some(user)) => {
                    model.users.remove(&user);
                    order.user_left(user);
                }
                _ => {}
            }
            joined += model.settle(&mut order);
            let now = start + Duration::from_secs(random.u64(0..20));
            assert_eq!(order.most_overdue(side, now), model.most_overdue(side, now));
            let spoken = random.bool();
            let look = &mut |side: usize, number| model.sides[side].get(&number).copied();
            assert_eq!(order.serves(spoken, look), model.fittest(0, !spoken).is_some());
            let silent = model.users.iter().find(|(_, spoken)| !**spoken).map(|(user, _)| *user);
            assert_eq!(order.first_silent(), silent);
            let unasked = model.sides[side].iter().filter(|(_, standing)| !standing.asked);
            let unasked: Vec<_> = unasked.map(|(number, _)| *number).collect();
            let some = random.usize(..5);
            assert_eq!(order.unasked(side, 1000), unasked);
            assert_eq!(order.unasked(side, some), unasked[..some.min(unasked.len())]);
        }
        assert!(joined > 10, "seed {seed}: {joined} were joined");
    }
}

#[test]
fn tunnels_to_be_used_last_come_after_all_others() {
    let mut order = Order::new(true);
    let standings =
        [true, false].map(|used_last| Standing { used_last, ..standing(Version::One, true) });
    for number in [0, 1] {
        order.tunnel(0, number, standings[number as usize]);
        order.user(number + 2, true);
    }
    let look = &mut |_: usize, number: Number| Some(standings[number as usize]);
    assert_eq!(order.next(look), Some(Pair { tunnel: 1, partner: 2 }));
    assert_eq!(order.next(look), Some(Pair { tunnel: 0, partner: 3 }));
}

#[test]
fn version_3_tunnels_come_before_others_the_one_last_heard_first() {
    let mut order = Order::new(true);
    let start = Instant::now();
    let heard = |seconds| Standing {
        heard_at: Some(start + Duration::from_secs(seconds)),
        ..standing(Version::Three, true)
    };
    let mut standings =
        [standing(Version::Two, true), heard(5), heard(9), heard(7), standing(Version::One, true)];
    for (number, standing) in standings.into_iter().enumerate() {
        order.tunnel(0, number as Number, standing);
        order.user(10 + number as Number, true);
    }
    // One is heard while nobody looks: it is looked at in its old place, and then in its new one.
    standings[2] = Standing { fit: false, ..heard(9) };
    let mut given = Vec::new();
    for _ in 0..4 {
        let look = &mut |_: usize, number: Number| Some(standings[number as usize]);
        given.extend(order.next(look).map(|pair| pair.tunnel));
    }
    assert_eq!(given, [3, 1, 0, 4]);
    order.tunnel(0, 2, heard(10));
    assert_eq!(order.next(&mut |_, _| Some(heard(10))).map(|pair| pair.tunnel), Some(2));
}

#[test]
fn users_that_have_ended_make_room_in_their_order_while_they_wait() {
    let mut order = Order::new(true);
    (1..=3).for_each(|number| order.user(number, true));
    [3, 2, 9].iter().for_each(|number| order.user_ended(*number));
    assert_eq!(order.first_ended(), Some(2), "the one that waits longest");
    order.user_left(2);
    assert_eq!(order.first_ended(), Some(3));
    order.user_left(3);
    assert_eq!(order.first_ended(), None, "nobody else waits");
}

/// One silent user, and version 1 tunnels, of which none can serve it: a heartbeat of each.
#[test]
fn a_heartbeat_looks_at_no_other_tunnel() {
    const TUNNELS: u64 = 16_000;
    let mut order = Order::new(true);
    order.user(TUNNELS, false);
    for number in (0..TUNNELS).chain(0..TUNNELS) {
        order.tunnel(0, number, standing(Version::One, true));
        assert_eq!(order.next(&mut |_, _| panic!("tunnel {number} looks at others")), None);
    }
}

/// Users come while everything that has come in from the tunnels has yet to be looked at.
#[test]
fn a_tunnel_is_looked_at_in_vain_once_for_each_time_it_was_listed() {
    const TUNNELS: u64 = 16_000;
    let mut order = Order::new(true);
    for number in 0..TUNNELS {
        order.tunnel(0, number, standing(Version::One, true));
    }
    let mut looks = 0;
    for number in TUNNELS..2 * TUNNELS {
        order.user(number, true);
        let mut look = |_, _| {
            looks += 1;
            Some(standing(Version::One, false))
        };
        assert_eq!(order.next(&mut look), None);
    }
    assert_eq!(looks, TUNNELS);
    for number in 0..TUNNELS {
        order.tunnel(0, number, standing(Version::One, true));
        let mut look = |_, _| {
            looks += 1;
            Some(standing(Version::One, true))
        };
        let pair = Pair { tunnel: number, partner: number + TUNNELS };
        assert_eq!(order.next(&mut look), Some(pair));
        assert_eq!(order.next(&mut look), None);
    }
    assert_eq!(looks, 2 * TUNNELS);
}

/// However many wait, each is asked once, and no more at once than a portion.
#[test]
fn all_are_asked_in_portions_those_that_wait_longest_first() {
    for count in [1000, 4000, 16_000] {
        let mut order = Order::new(true);
        for number in 0..count {
            order.tunnel(0, number, standing(Version::One, true));
        }
        let (mut asked, mut portions) = (Vec::new(), 0);
        loop {
            let portion = order.unasked(0, limits::PROBES);
            assert!(portion.len() <= limits::PROBES);
            for &number in &portion {
                let now = Standing { asked: true, ..standing(Version::One, true) };
                order.tunnel(0, number, now);
            }
            if portion.is_empty() {
                break;
            }
            portions += 1;
            asked.extend(portion);
        }
        assert!(asked.into_iter().eq(0..count));
        assert_eq!(portions, (count as usize).div_ceil(limits::PROBES));
    }
}
