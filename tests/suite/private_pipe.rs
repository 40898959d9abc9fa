//! Private pipes: two agents reach each other (protocol page, sections 4 and 6).

use std::thread;
use std::time::Instant;

use crate::common::*;

in_both_modes!(
    two_agents_exchange_records,
    messages_and_tokens_arrive_as_sent,
    bytes_of_every_size_are_exact_both_ways,
    both_directions_at_once_move_independently,
    longest_waiting_tunnels_are_paired,
    bytes_sent_before_pairing_are_held,
    more_than_is_held_waits_in_the_network,
    passcode_followed_at_once_by_data_loses_nothing,
    heartbeats_before_pairing_are_answered_and_not_delivered,
    heartbeats_in_a_session_are_answered_and_not_relayed,
    side_that_leaves_ends_the_session_after_its_bytes,
    side_that_resets_ends_the_session,
    half_close_is_passed_on_each_way,
    session_silent_for_finwait_after_one_end_is_closed,
    silent_side_is_closed_and_the_other_too,
    each_side_has_its_own_passcode,
    each_side_has_its_own_limit,
    redialling_agents_are_paired_again,
    removing_the_mapping_closes_both_sides,
);

const NEVER: u64 = 200_000;

fn two_agents_exchange_records(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(1, NEVER);
    let (mut one, mut two) = daemon.pair(&mapping);
    for round in 0..50_u8 {
        one.send(&[round; 100]);
        two.expect_record(&[round; 100]);
        two.send(&[round; 33]);
        one.expect_record(&[round; 33]);
    }
}

fn messages_and_tokens_arrive_as_sent(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(1, NEVER);
    let (mut one, mut two) = daemon.pair(&mapping);
    let message = noise(1, 3000);
    let records: [&[u8]; 7] = [&message, b"TXEND", b"ACK", b"ACK", &message, b"TXEND", b"A"];
    // All at once, so that they travel in one segment where they fit.
    for record in records {
        one.link.queue(record).unwrap();
    }
    assert!(one.link.push().unwrap());
    for record in records {
        two.expect_record(record);
    }
    // Between two agents nothing looks like a user's bytes: heartbeats alone are taken out.
    two.send(b"BEATS");
    one.expect_record(b"BEATS");
}

/// The sizes at which a relay might cut or join.
fn sizes() -> Vec<usize> {
    let mut sizes = vec![1, 2, 3, 5, 8 << 20];
    for buffer in [16 * 1024, 64 * 1024] {
        sizes.extend([buffer - 1, buffer, buffer + 1]);
    }
    sizes
}

fn bytes_of_every_size_are_exact_both_ways(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(60, NEVER);
    for size in sizes() {
        let (mut one, mut two) = daemon.pair(&mapping);
        let bytes = noise(size as u64, size);
        for _ in 0..2 {
            thread::scope(|scope| {
                scope.spawn(|| one.send(&bytes));
                assert_same(&two.exactly(size), &bytes, "bytes");
            });
            std::mem::swap(&mut one, &mut two);
        }
        one.finish();
        two.finish();
        assert!(one.until_end().is_empty());
        assert!(two.until_end().is_empty());
    }
}

#[test]
fn records_of_1_to_16384_bytes_arrive_one_for_one_at_a_slow_reader() {
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_private(60, NEVER);
    let mut sizes: Vec<usize> = (1..=300).collect();
    sizes.extend((301..16_384).step_by(61));
    sizes.extend([4095, 4096, 4097, 8191, 8192, 8193, 16_383, 16_384, 16_384, 16_384]);
    fastrand::Rng::with_seed(2).shuffle(&mut sizes);
    let bytes = noise(2, 16_384 + sizes.len());
    // Every record differs from its neighbours: it begins elsewhere in the noise.
    let record = |index: usize| &bytes[index..index + sizes[index]];
    let (mut one, mut two) = daemon.pair(&mapping);
    for _ in 0..2 {
        two.shrink();
        thread::scope(|scope| {
            scope.spawn(|| {
                for index in 0..sizes.len() {
                    one.send(record(index));
                    if index % 50 == 0 {
                        one.beat();
                    }
                }
            });
            for index in 0..sizes.len() {
                if index < 50 {
                    thread::sleep(ms(10));
                }
                two.expect_record(record(index));
            }
        });
        // The answers to the heartbeats, each a record of its own.
        for _ in (0..sizes.len()).step_by(50) {
            one.expect_record(BEAT);
        }
        std::mem::swap(&mut one, &mut two);
    }
}

#[test]
fn records_stay_apart_while_both_directions_are_full() {
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_private(60, NEVER);
    let (mut one, mut two) = daemon.pair(&mapping);
    one.shrink();
    two.shrink();
    let bytes = noise(3, 20_000);
    let records: Vec<&[u8]> =
        (0..1500).map(|index| &bytes[index..=index + index * 37 % 16_384]).collect();
    let backwards: Vec<&[u8]> = records.iter().rev().copied().collect();
    // Nobody reads before both ways are full.
    thread::scope(|scope| {
        let other = scope.spawn(|| two.exchange_records(&backwards, records.len(), ms(500)));
        let got = one.exchange_records(&records, backwards.len(), ms(500));
        assert!(got == backwards, "records from two differ");
        assert!(other.join().unwrap() == records, "records from one differ");
    });
}

fn both_directions_at_once_move_independently(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(1, NEVER);
    let (mut one, mut two) = daemon.pair(&mapping);
    let (up, down) = (noise(4, 8 << 20), noise(5, 8 << 20));
    thread::scope(|scope| {
        let other = scope.spawn(|| two.exchange(&down, up.len()));
        assert_same(&one.exchange(&up, down.len()), &down, "from two");
        assert_same(&other.join().unwrap(), &up, "from one");
    });
}

fn longest_waiting_tunnels_are_paired(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(60, NEVER);
    let mut ones: Vec<Agent> = (0..3).map(|_| daemon.tunnel(&mapping)).collect();
    ones[0].beat_and_answer();
    for (number, one) in ones.iter_mut().enumerate() {
        let mut two = daemon.tunnel2(&mapping);
        one.send(format!("from {number}").as_bytes());
        two.expect(format!("from {number}").as_bytes());
        // Ended from here on, so that a later one cannot take its bytes.
        two.finish();
        one.finish();
        one.until_end();
    }
}

fn bytes_sent_before_pairing_are_held(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(60, NEVER);
    let mut one = daemon.tunnel(&mapping);
    for record in [&b"first"[..], b"second", b"TXEND"] {
        one.send(record);
    }
    one.expect_silence(ms(100));
    let mut two = daemon.tunnel2(&mapping);
    for record in [&b"first"[..], b"second", b"TXEND"] {
        two.expect_record(record);
    }
    two.send(b"ACK");
    one.expect_record(b"ACK");
    // And from the other side.
    let mut two = daemon.tunnel2(&mapping);
    two.send(b"first");
    two.expect_silence(ms(100));
    daemon.tunnel(&mapping).expect_record(b"first");
}

fn more_than_is_held_waits_in_the_network(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(60, NEVER);
    let before = daemon.resident();
    let mut one = daemon.tunnel(&mapping);
    let bytes = flood(6);
    let sent = one.fill(&bytes);
    let grown = daemon.resident().saturating_sub(before);
    assert!(grown < 1024, "{grown} KiB held for a tunnel that waits");
    let mut two = daemon.tunnel2(&mapping);
    let rest = &bytes[sent..sent + (1 << 20)];
    thread::scope(|scope| {
        scope.spawn(|| one.send(rest));
        let got = two.exactly(sent + rest.len());
        assert_same(&got, &bytes[..sent + rest.len()], "all that was sent");
    });
}

fn passcode_followed_at_once_by_data_loses_nothing(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(60, NEVER);
    // In one write, in TLS in one record; then as two records sent at once.
    for together in [true, false] {
        let mut one = daemon.agent(mapping.port1);
        if together {
            one.send(format!("{}and data", mapping.passcode1).as_bytes());
        } else {
            one.link.queue(mapping.passcode1.as_bytes()).unwrap();
            one.link.queue(b"and data").unwrap();
            one.link.push().unwrap();
        }
        one.expect_authorized();
        let mut two = daemon.tunnel2(&mapping);
        two.expect_record(b"and data");
        two.send(b"answer");
        one.expect_record(b"answer");
    }
}

fn heartbeats_before_pairing_are_answered_and_not_delivered(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(60, 60_000);
    let mut one = daemon.tunnel(&mapping);
    one.beat_and_answer();
    one.send(b"held");
    thread::sleep(ms(50));
    if mode == Mode::Tls {
        one.beat_and_answer();
    }
    let mut two = daemon.tunnel2(&mapping);
    two.expect_record(b"held");
    two.expect_silence(ms(100));
}

#[test]
fn nobody_is_paired_with_a_tunnel_in_the_middle_of_a_heartbeat() {
    let daemon = Daemon::new(Mode::Plain);
    // The rest is waited for 500 ms, which this machine may take for something else.
    eventually("a heartbeat comes in two pieces within 400 ms", || {
        let mapping = daemon.api().add_private(1, NEVER);
        let mut one = daemon.tunnel(&mapping);
        let start = Instant::now();
        one.send(b"BE");
        let mut two = daemon.tunnel2(&mapping);
        one.send(b"AT");
        let in_time = start.elapsed() < ms(400);
        if in_time {
            one.expect(BEAT);
            one.send(b"message");
            two.expect(b"message");
        }
        daemon.api().remove(&mapping);
        in_time.then_some(())
    });
    // What does not go on is no heartbeat.
    let mapping = daemon.api().add_private(1, NEVER);
    let mut one = daemon.tunnel(&mapping);
    one.send(b"BE");
    daemon.tunnel2(&mapping).expect(b"BE");
}

fn heartbeats_in_a_session_are_answered_and_not_relayed(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(1, NEVER);
    let (mut one, mut two) = daemon.pair(&mapping);
    for round in 0..10_u8 {
        one.beat_and_answer();
        two.beat_and_answer();
        one.send(&[round; 9]);
        two.expect_record(&[round; 9]);
    }
    if mode == Mode::Tls {
        for round in 0..20_u8 {
            one.send(&[round; 5]);
            one.beat();
            one.beat();
            one.send(b"TXEND");
        }
        for round in 0..20_u8 {
            two.expect_record(&[round; 5]);
            two.expect_record(b"TXEND");
            one.expect_record(BEAT);
            one.expect_record(BEAT);
        }
    }
    one.expect_silence(ms(50));
    two.expect_silence(ms(50));
}

fn side_that_leaves_ends_the_session_after_its_bytes(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(60, NEVER);
    for swapped in [false, true] {
        let (mut one, mut two) = daemon.pair(&mapping);
        if swapped {
            std::mem::swap(&mut one, &mut two);
        }
        let bytes = noise(7, 3 << 20);
        thread::scope(|scope| {
            scope.spawn(|| {
                one.send(&bytes);
                one.finish();
                drop(one);
            });
            thread::sleep(ms(200));
            assert_same(&two.rest().0, &bytes, "the bytes before the end");
        });
    }
}

fn side_that_resets_ends_the_session(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(1, NEVER);
    for swapped in [false, true] {
        let (mut one, mut two) = eventually("both places are free", || {
            let mut one = daemon.agent(mapping.port1);
            let mut two = daemon.agent(mapping.port2);
            let both = one.is_accepted(&mapping.passcode1) && two.is_accepted(&mapping.passcode2);
            both.then_some((one, two))
        });
        one.send(b"hello");
        two.expect(b"hello");
        if swapped {
            std::mem::swap(&mut one, &mut two);
        }
        one.link.reset();
        two.expect_closed();
    }
}

fn half_close_is_passed_on_each_way(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(60, NEVER);
    for swapped in [false, true] {
        let (mut one, mut two) = daemon.pair(&mapping);
        if swapped {
            std::mem::swap(&mut one, &mut two);
        }
        one.send(b"the last words");
        one.finish();
        two.expect(b"the last words");
        assert_eq!(two.record(), Got::End);
        let answer = noise(8, 2 << 20);
        thread::scope(|scope| {
            scope.spawn(|| {
                two.send(&answer);
                two.finish();
            });
            assert_same(&one.until_end(), &answer, "the answer after one's end");
        });
    }
}

fn session_silent_for_finwait_after_one_end_is_closed(mode: Mode) {
    let daemon = Daemon::builder(mode).set("finwait", 700).start();
    let mapping = daemon.api().add_private(1, NEVER);
    let (mut one, mut two) = daemon.pair(&mapping);
    let start = Instant::now();
    one.finish();
    one.expect_closed();
    assert!(start.elapsed() >= ms(600), "closed after {:?}", start.elapsed());
    two.expect_closed();
}

fn silent_side_is_closed_and_the_other_too(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add(
        r#"{"type":"private","maxconnectionsport1":1,"maxconnectionsport2":1,
            "heartbeatabsencethresholdport1":800,"heartbeatabsencethresholdport2":0}"#,
    );
    // Waiting.
    let mut one = daemon.tunnel(&mapping);
    one.expect_closed();
    // In a session; port2 may be silent as long as it likes.
    let (mut one, mut two) = eventually("the place is free", || {
        let mut one = daemon.agent(mapping.port1);
        one.is_accepted(&mapping.passcode1).then(|| (one, daemon.tunnel2(&mapping)))
    });
    one.beat_and_answer();
    let start = Instant::now();
    two.expect_closed();
    assert!(start.elapsed() >= ms(600), "closed after {:?}", start.elapsed());
    one.expect_closed();
}

fn each_side_has_its_own_passcode(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(1, NEVER);
    assert_ne!(mapping.passcode1, mapping.passcode2);
    assert!(!daemon.agent(mapping.port1).is_accepted(&mapping.passcode2));
    assert!(!daemon.agent(mapping.port2).is_accepted(&mapping.passcode1));
    daemon.pair(&mapping);
}

fn each_side_has_its_own_limit(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add(
        r#"{"type":"private","maxconnectionsport1":1,"maxconnectionsport2":2,
            "heartbeatabsencethresholdport1":200000,"heartbeatabsencethresholdport2":200000}"#,
    );
    let _two = daemon.tunnel2(&mapping);
    let _another = daemon.tunnel2(&mapping);
    assert!(!daemon.agent(mapping.port2).is_accepted(&mapping.passcode2), "a third of two");
    let _one = daemon.tunnel(&mapping);
    assert!(!daemon.agent(mapping.port1).is_accepted(&mapping.passcode1), "a second of one");
}

fn redialling_agents_are_paired_again(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(1, NEVER);
    let mut two = daemon.tunnel2(&mapping);
    for round in 0..5_u8 {
        // The old place may be counted for a moment; the newcomer waits for it.
        let mut one = eventually("the place is free", || {
            let mut one = daemon.agent(mapping.port1);
            one.is_accepted(&mapping.passcode1).then_some(one)
        });
        one.send(&[round; 20]);
        two.expect(&[round; 20]);
        one.link.reset();
        two.expect_closed();
        two = eventually("the other place is free", || {
            let mut two = daemon.agent(mapping.port2);
            two.is_accepted(&mapping.passcode2).then_some(two)
        });
    }
}

fn removing_the_mapping_closes_both_sides(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_private(2, NEVER);
    let (mut one, mut two) = daemon.pair(&mapping);
    let mut waiting = daemon.tunnel(&mapping);
    daemon.api().remove(&mapping);
    for port in [mapping.port1, mapping.port2] {
        assert!(Link::plain(at(port)).is_err(), "port {port} is still open");
    }
    for link in [&mut one, &mut two, &mut waiting] {
        link.expect_closed();
    }
}
