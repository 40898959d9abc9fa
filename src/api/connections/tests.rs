use smol::{LocalExecutor, future};

use super::*;
use crate::runtime;

#[test]
fn nobody_makes_room_in_its_turn_but_for_better_callers() {
    let executor = LocalExecutor::new();
    let connections = Connections::new(Rc::default(), 1000);
    let join = |rank, turn: i64| {
        let state = Rc::new(State::new(rank, None, Duration::ZERO, false));
        let now = Instant::now();
        state.turn_ends.set(match turn {
            0.. => now + Duration::from_secs(turn.unsigned_abs()),
            _ => now - Duration::from_millis(turn.unsigned_abs()),
        });
        let (number, task) = (connections.number(), executor.spawn(async {}));
        connections.open.borrow_mut().insert(number, Open { state: state.clone(), task });
        (number, state)
    };
    let first_to_go = |rank| connections.first_to_go(rank, |_| true);
    let goes = |rank| first_to_go(rank).0;
    let (local, _) = join(Rank::Local, -3);
    assert_eq!(goes(Rank::Stranger), Some(local), "it has had its turn");
    let (known, known_state) = join(Rank::Known, 60);
    assert_eq!(goes(Rank::Known), None, "the first of the lower rank has not");
    assert!(first_to_go(Rank::Known).1.is_some_and(|due| due > Instant::now()));
    assert_eq!(goes(Rank::Local), Some(known), "for a better one it need not");
    let (second, _) = join(Rank::Known, -1);
    let (first, first_state) = join(Rank::Known, -2);
    assert_eq!(goes(Rank::Known), Some(first));
    first_state.answering.set(true);
    assert_eq!(goes(Rank::Known), Some(second), "an answer once begun is made");
    let (stranger, stranger_state) = join(Rank::Stranger, 50);
    assert_eq!((goes(Rank::Stranger), goes(Rank::Known)), (None, Some(stranger)));
    // A turn begins anew with each answer.
    stranger_state.turn_ends.set(Instant::now() - Duration::from_millis(5));
    assert_eq!(goes(Rank::Stranger), Some(stranger));
    stranger_state.begin_turn();
    known_state.begin_turn();
    assert_eq!(goes(Rank::Stranger), None);
    // However far away somebody says that it is.
    let far = State::new(Rank::Known, None, Duration::from_secs(3600), false);
    assert!(far.turn <= limits::SLOW_TURN);
    let near = State::new(Rank::Known, None, Duration::from_millis(150), false);
    assert!(near.turn > Duration::from_millis(600));
}

#[test]
fn who_shakes_hands_leaves_its_place_to_others_until_it_is_done() {
    let executor = LocalExecutor::new();
    let mut connections = Connections::new(Rc::default(), 1000);
    (connections.capacity, connections.most_shaking) = (2, 2);
    let join = || {
        let state = Rc::new(State::new(Rank::Known, None, Duration::ZERO, false));
        let (number, task) = (connections.number(), executor.spawn(future::pending()));
        connections.open.borrow_mut().insert(number, Open { state: state.clone(), task });
        (number, state)
    };
    let spoke = |state: &State| connections.shakes_hands(state, Progress::Spoke);
    let has_room = || future::block_on(future::poll_once(connections.room(Rank::Known))).is_some();
    runtime::block_on(async {
        let [(first, stalls), (second, waits)] = [join(), join()];
        assert!(!has_room());
        spoke(&stalls);
        spoke(&waits);
        assert!(has_room(), "the first two only shake hands");
        let (mute, _) = join();
        let (_, late) = join();
        spoke(&late);
        assert!(!has_room(), "no more than two do");
        // One that stalls makes room for the next.
        stalls.turn_ends.set(Instant::now());
        spoke(&late);
        assert!(connections.open.borrow().get(first).is_none());
        assert!(has_room());
        let (asks, _) = join();
        {
            let entered = std::pin::pin!(connections.enter(&waits));
            assert!(future::poll_once(entered).await.is_none(), "others have their turn to ask");
        }
        connections.remove(mute);
        connections.enter(&waits).await;
        assert!(!has_room() && !waits.shaking.get() && late.shaking.get());
        assert_eq!(connections.shaking.get(), 1);
        for number in [second, asks] {
            connections.remove(number);
        }
        assert_eq!(connections.open.borrow().len(), 1);
        assert!(has_room());
    })
    .expect("an event loop");
}

#[test]
fn a_stranger_that_comes_in_vain_has_a_short_turn_until_its_requests_are_answered() {
    let executor = LocalExecutor::new();
    let mut connections = Connections::new(Rc::default(), 1000);
    connections.capacity = 2;
    let [bad, good] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
    let far = Duration::from_secs(1);
    let turn = |state: &State| state.turn_ends.get() - state.since.get();
    let join = |address, round_trip| {
        let state = connections.begin(Rank::Known, Some(address), round_trip);
        let (number, task) = (connections.number(), executor.spawn(future::pending()));
        connections.open.borrow_mut().insert(number, Open { state: state.clone(), task });
        (number, state)
    };
    let leave = |number| connections.remove(number).map(drop);
    runtime::block_on(async {
        let (stays, _) = join(bad, Duration::ZERO);
        for _ in 0..limits::IN_VAIN {
            leave(join(bad, Duration::ZERO).0);
        }
        assert_eq!(turn(&join(bad, Duration::ZERO).1), limits::HTTP_TURN, "nobody waits");
        assert!(future::poll_once(connections.room(Rank::Known)).await.is_none());
        leave(stays);
        for _ in 1..limits::IN_VAIN {
            leave(join(bad, Duration::ZERO).0);
        }
        let (number, state) = join(bad, far);
        assert_eq!(turn(&state), limits::VAIN_TURN, "however far away it says that it is");
        // Its request comes in pieces.
        state.asks();
        assert_eq!(turn(&state), limits::VAIN_TURN + limits::VAIN_FAR);
        assert_eq!(turn(&join(good, Duration::ZERO).1), limits::HTTP_TURN);
        connections.got_through(&state);
        leave(number);
        assert_eq!(turn(&join(bad, Duration::ZERO).1), limits::HTTP_TURN);
    })
    .expect("an event loop");
    let stranger = connections.begin(Rank::Stranger, Some(good), Duration::ZERO);
    assert_eq!(turn(&stranger), limits::VAIN_TURN, "it may not call at all");
    let local = connections.begin(Rank::Local, None, Duration::ZERO);
    assert_eq!(turn(&local), limits::HTTP_TURN);
}
