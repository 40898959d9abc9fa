//! Tunnels of version 1 (protocol page, section 4): passcode, refusals, heartbeats, thresholds,
//! the limit of connections.

use std::time::{Duration, Instant};

use crate::common::*;

in_both_modes!(
    passcode_may_arrive_in_any_pieces,
    wrong_passcode_is_closed_without_a_byte,
    passcode_of_another_mapping_is_refused,
    fourth_refusal_is_held_for_three_seconds,
    held_refusals_do_not_delay_the_right_passcode,
    idle_heartbeat_is_answered,
    two_heartbeats_at_once_are_answered_with_two,
    silent_tunnel_is_closed_after_its_threshold,
    beating_tunnel_outlives_its_threshold,
    threshold_zero_turns_the_check_off,
    silent_agent_in_a_session_is_closed_and_its_user_too,
    time_in_which_the_user_does_not_read_does_not_count_as_silence,
    heartbeat_in_use_is_answered_and_not_relayed,
    answers_do_not_wait_behind_a_slow_user,
    heartbeats_of_an_agent_slow_to_read_do_not_cut_the_tunnel,
    newcomer_above_the_limit_is_closed,
    newcomer_that_waits_for_a_place_leaves_when_it_is_gone,
    newcomer_replaces_the_most_overdue_tunnel,
    newcomer_never_replaces_a_tunnel_in_use,
    unauthenticated_connections_take_no_tunnels_place,
    thousand_mute_connections_do_not_keep_an_agent_out,
    who_never_authenticates_is_closed_after_ten_seconds,
    agent_that_vanishes_without_a_goodbye_frees_its_place,
    idle_tunnel_that_sends_data_is_read_over_and_used_again,
);

/// Long enough that no test reaches it.
const NEVER: u64 = 200_000;

fn passcode_may_arrive_in_any_pieces(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let passcode = mapping.passcode1.as_bytes();

    let mut byte_by_byte = daemon.agent(mapping.port1);
    for byte in passcode {
        byte_by_byte.send(&[*byte]);
    }
    byte_by_byte.expect_authorized();

    for cut in [1, 18, passcode.len() - 1] {
        let mut agent = daemon.agent(mapping.port1);
        agent.send(&passcode[..cut]);
        agent.expect_silence(ms(50));
        agent.send(&passcode[cut..]);
        agent.expect_authorized();
    }
}

fn wrong_passcode_is_closed_without_a_byte(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let last_wrong = format!("{}~", &mapping.passcode1[..mapping.passcode1.len() - 1]);
    for wrong in [last_wrong, "x".repeat(mapping.passcode1.len()), "y".repeat(500)] {
        let mut agent = daemon.agent(mapping.port1);
        let _ = agent.try_send(wrong.as_bytes());
        agent.expect_closed();
    }
    daemon.tunnel(&mapping).beat_and_answer();
}

fn passcode_of_another_mapping_is_refused(mode: Mode) {
    let daemon = Daemon::new(mode);
    let one = daemon.api().add_public(60, NEVER);
    let two = daemon.api().add_public(60, NEVER);
    assert!(!daemon.agent(one.port1).is_accepted(&two.passcode1));
    assert!(daemon.agent(one.port1).is_accepted(&one.passcode1));
}

fn fourth_refusal_is_held_for_three_seconds(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let refusal = || {
        let mut agent = daemon.agent(mapping.port1);
        let start = Instant::now();
        agent.send("x".repeat(mapping.passcode1.len()).as_bytes());
        agent.expect_closed();
        start.elapsed()
    };
    let first = [refusal(), refusal(), refusal()];
    assert!(first.iter().min().unwrap() < &ms(2900), "held from the first on: {first:?}");
    let fourth = refusal();
    assert!(fourth >= ms(2900), "the fourth refusal was held for {fourth:?}");
}

fn held_refusals_do_not_delay_the_right_passcode(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let mut refused: Vec<Agent> = (0..8).map(|_| daemon.agent(mapping.port1)).collect();
    for agent in &mut refused {
        agent.send("x".repeat(mapping.passcode1.len()).as_bytes());
    }
    // Some of the eight are held, and still are when the right passcode has been accepted.
    let mut good = daemon.tunnel(&mapping);
    good.beat_and_answer();
    let held = refused.iter_mut().filter_map(|agent| agent.is_quiet().then_some(())).count();
    assert!(held > 0, "no refusal was held");
    refused.iter_mut().for_each(|agent| agent.expect_closed());
}

#[test]
fn at_most_256_refusals_are_held_and_the_oldest_go_first() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, NEVER);
    let wrong = "x".repeat(mapping.passcode1.len());
    let mut refused: Vec<Agent> = Vec::new();
    for _ in 0..400 {
        let mut agent = daemon.agent(mapping.port1);
        agent.send(wrong.as_bytes());
        refused.push(agent);
    }
    until("no more than 256 are open", || {
        refused.iter_mut().filter_map(|agent| agent.is_quiet().then_some(())).count() <= 256
    });
    let open: Vec<bool> = refused.iter_mut().map(|agent| agent.is_quiet()).collect();
    let oldest_open = open.iter().position(|open| *open);
    if let Some(oldest_open) = oldest_open {
        assert!(oldest_open >= 3, "the first three are closed at once");
        assert!(open[oldest_open..].iter().all(|open| *open), "a younger one was closed: {open:?}");
    }
}

fn idle_heartbeat_is_answered(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let mut agent = daemon.tunnel(&mapping);
    for _ in 0..20 {
        agent.beat_and_answer();
    }
    agent.expect_silence(ms(100));
}

fn two_heartbeats_at_once_are_answered_with_two(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let mut agent = daemon.tunnel(&mapping);
    agent.link.queue(BEAT).unwrap();
    agent.link.queue(BEAT).unwrap();
    agent.link.push().unwrap();
    agent.expect_record(BEAT);
    agent.expect_record(BEAT);
    agent.expect_silence(ms(50));
}

#[test]
fn heartbeat_split_by_tcp_is_a_heartbeat() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(60, NEVER);
    let mut agent = daemon.tunnel(&mapping);
    agent.send(b"BE");
    agent.expect_silence(ms(50));
    agent.send(b"ATBEATB");
    agent.expect(b"BEATBEAT");
    agent.send(b"EAT");
    agent.expect(BEAT);
}

fn silent_tunnel_is_closed_after_its_threshold(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, 700);
    let mut agent = daemon.tunnel(&mapping);
    let start = Instant::now();
    agent.expect_closed();
    assert!(start.elapsed() >= ms(600), "closed after {:?}", start.elapsed());
}

fn beating_tunnel_outlives_its_threshold(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, 1500);
    until("its beats are not held up", || {
        let start = Instant::now();
        daemon.tunnel(&mapping).beats_for(ms(3500), start, ms(1000))
    });
}

fn threshold_zero_turns_the_check_off(mode: Mode) {
    let daemon = Daemon::new(mode);
    let unchecked = daemon.api().add_public(60, 0);
    let checked = daemon.api().add_public(60, 400);
    let mut silent = daemon.tunnel(&unchecked);
    for _ in 0..3 {
        daemon.tunnel(&checked).expect_closed();
    }
    silent.beat_and_answer();
}

fn silent_agent_in_a_session_is_closed_and_its_user_too(mode: Mode) {
    let daemon = Daemon::new(mode);
    // A busy machine takes long to begin the session.
    let mapping = daemon.api().add_public(60, 4000);
    let start = Instant::now();
    let (mut user, mut agent) = daemon.session(&mapping);
    user.expect_closed();
    assert!(start.elapsed() >= ms(3800), "closed after {:?}", start.elapsed());
    agent.expect_closed();
}

fn time_in_which_the_user_does_not_read_does_not_count_as_silence(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, 1500);
    let mut answer = flood(1);
    let (mut user, mut agent) = daemon.session(&mapping);
    user.shrink();
    let sent = agent.fill(&answer);
    answer.truncate(sent + (1 << 20));
    // Far beyond the threshold, in which the connector reads nothing from the agent.
    std::thread::sleep(ms(4000));
    let got = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            agent.send(&answer[sent..]);
        });
        let got = user.exactly(answer.len());
        writer.join().unwrap();
        got
    });
    agent.beat_and_answer();
    assert_same(&got, &answer, "the answer after the pause");
}

fn heartbeat_in_use_is_answered_and_not_relayed(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    for round in 0..20 {
        let data = format!("answer {round}");
        agent.send(data.as_bytes());
        // In plain TCP a heartbeat is told from data by a read of its own.
        user.expect(data.as_bytes());
        agent.beat_and_answer();
    }
    user.expect_silence(ms(50));
    if mode == Mode::Tls {
        // Records need no pause between them.
        for round in 0..20_u8 {
            agent.send(&[round; 5]);
            agent.beat();
        }
        for round in 0..20_u8 {
            user.expect_record(&[round; 5]);
            agent.expect_record(BEAT);
        }
    }
}

#[test]
fn user_bytes_that_look_like_a_heartbeat_arrive_as_two_records() {
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    for text in [&b"BEAT"[..], b"BEATBEAT"] {
        let mut agent = daemon.tunnel(&mapping);
        let mut user = daemon.user(&mapping);
        // As the first bytes of a session, and later.
        for _ in 0..3 {
            user.send(text);
            let mut all = Vec::new();
            let mut records = 0;
            while all.len() < text.len() {
                let Got::Bytes(record) = agent.record() else { panic!("no record") };
                assert!(
                    record != b"BEAT" && record != b"BEATBEAT",
                    "a version 1 agent swallows it"
                );
                all.extend(record);
                records += 1;
            }
            assert_same(&all, text, "the user's bytes");
            assert_eq!(records, 2);
        }
        // Not alike: passed on as one.
        for other in [&b"BEATS"[..], b"BEA", b"beat", b"BEATBEATBEAT"] {
            user.send(other);
            agent.expect_record(other);
        }
    }
}

fn answers_do_not_wait_behind_a_slow_user(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    let mut sent = Vec::new();
    for round in 0..16 {
        let data = noise(round, 1000);
        let before = bytes_down(&daemon, &mapping);
        agent.send(&data);
        sent.extend(&data);
        if mode == Mode::Plain {
            until("the data has been read by itself", || bytes_down(&daemon, &mapping) > before);
        }
        agent.beat_and_answer();
    }
    assert_same(&user.exactly(sent.len()), &sent, "what the user reads at last");
}

fn heartbeats_of_an_agent_slow_to_read_do_not_cut_the_tunnel(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    agent.shrink();
    let mut upload = flood(2);
    let sent = user.fill(&upload);
    upload.truncate(sent + (1 << 20));
    for _ in 0..10 {
        agent.beat();
        std::thread::sleep(ms(20));
    }
    let (data, beats) = std::thread::scope(|scope| {
        scope.spawn(|| user.send(&upload[sent..]));
        let (mut data, mut beats) = (Vec::new(), 0);
        while data.len() < upload.len() || beats < 10 {
            match agent.record() {
                Got::Bytes(record) if mode == Mode::Tls && record == BEAT => beats += 1,
                Got::Bytes(record) => data.extend(record),
                other => panic!("{other:?} after {} bytes, {beats} answers", data.len()),
            }
            // In plain TCP the answers stand somewhere among the data.
            if mode == Mode::Plain && data.len() >= upload.len() + 40 {
                beats = 10;
            }
        }
        (data, beats)
    });
    assert_eq!(beats, 10);
    if mode == Mode::Tls {
        assert_same(&data, &upload, "the upload");
    } else {
        assert_eq!(data.len(), upload.len() + 40);
        assert_same(&without_beats(&data, &upload), &upload, "the upload");
    }
}

/// Takes out the heartbeats that stand among `expected` in `data`.
fn without_beats(data: &[u8], expected: &[u8]) -> Vec<u8> {
    let (mut clean, mut at) = (Vec::with_capacity(expected.len()), 0);
    while at < data.len() {
        let here = clean.len();
        if data[at..].starts_with(BEAT) && !expected[here..].starts_with(BEAT) {
            at += BEAT.len();
        } else {
            clean.push(data[at]);
            at += 1;
        }
    }
    clean
}

fn newcomer_above_the_limit_is_closed(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(2, NEVER);
    let mut first = daemon.tunnel(&mapping);
    let mut second = daemon.tunnel(&mapping);
    assert!(!daemon.agent(mapping.port1).is_accepted(&mapping.passcode1), "a third of two");
    first.beat_and_answer();
    second.beat_and_answer();
    first.finish();
    drop(first);
    eventually("a place is free again", || {
        daemon.agent(mapping.port1).is_accepted(&mapping.passcode1).then_some(())
    });
}

fn newcomer_that_waits_for_a_place_leaves_when_it_is_gone(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(1, NEVER);
    let _only = daemon.tunnel(&mapping);
    let refused = || daemon.control().number(&mapping, "counts.agentsRefused");
    let waited = || {
        let state = daemon.control().state_of(&mapping).unwrap();
        let limits = state["limitsReached"].as_array().unwrap();
        let limit =
            limits.iter().find(|limit| limit["limit"].as_str().unwrap().contains("maxconnections"));
        limit.map_or(0, |limit| limit["times"].as_u64().unwrap())
    };
    // Its wait is 1 s, which a busy machine can miss: then it is tried again.
    let left = (0..5).any(|_| {
        let (refused_before, waited_before) = (refused(), waited());
        let mut gone = daemon.agent(mapping.port1);
        gone.send(mapping.passcode1.as_bytes());
        until("it waits", || waited() > waited_before);
        gone.link.reset();
        // One that stays is refused, and later than that one would have been.
        assert!(!daemon.agent(mapping.port1).is_accepted(&mapping.passcode1));
        until("the other one is counted", || refused() > refused_before);
        refused() == refused_before + 1
    });
    assert!(left, "one that had gone was refused");
}

fn newcomer_replaces_the_most_overdue_tunnel(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(3, NEVER);
    let mut dead: Vec<Agent> = (0..2).map(|_| daemon.tunnel(&mapping)).collect();
    let mut alive = daemon.tunnel(&mapping);
    beat_all(&mut [&mut dead[0]], 4);
    beat_all(&mut [&mut dead[1], &mut alive], 8);
    // `dead` beats no more: after twice its interval it is overdue, the first one more than the
    // second.
    beat_all(&mut [&mut alive], 20);
    let mut newcomer = daemon.tunnel(&mapping);
    dead[0].expect_closed();
    newcomer.beat_and_answer();
    alive.beat_and_answer();
    assert!(dead[1].is_quiet(), "more than one was closed for one newcomer");
    let mut next = daemon.tunnel(&mapping);
    dead[1].expect_closed();
    beat_all(&mut [&mut alive, &mut newcomer, &mut next], 2);
}

#[test]
fn tunnels_whose_heartbeats_lie_unread_make_no_room() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(2, NEVER);
    let mut agents = [daemon.tunnel(&mapping), daemon.tunnel(&mapping)];
    for _ in 0..3 {
        agents.iter_mut().for_each(Agent::beat_and_answer);
        std::thread::sleep(ms(1000));
    }
    let mut newcomer = daemon.agent(mapping.port1);
    agents.iter_mut().for_each(Agent::beat_and_answer);
    daemon.signal(rustix::process::Signal::STOP);
    newcomer.send(mapping.passcode1.as_bytes());
    // By what the daemon has heard, both are overdue after two of these.
    for _ in 0..3 {
        std::thread::sleep(ms(1000));
        agents.iter_mut().for_each(Agent::beat);
    }
    daemon.signal(rustix::process::Signal::CONT);
    newcomer.link.expect_closed();
    for agent in &mut agents {
        (0..3).for_each(|_| agent.expect(BEAT));
        agent.beat_and_answer();
    }
}

fn newcomer_never_replaces_a_tunnel_in_use(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(1, NEVER);
    let (mut user, mut agent) = daemon.session(&mapping);
    beat_all(&mut [&mut agent], 4);
    std::thread::sleep(ms(1000));
    assert!(!daemon.agent(mapping.port1).is_accepted(&mapping.passcode1));
    agent.send(b"answer");
    user.expect(b"answer");
}

/// Each of these beats so often, every 100 ms.
fn beat_all(agents: &mut [&mut Agent], times: usize) {
    for _ in 0..times {
        for agent in agents.iter_mut() {
            agent.beat_and_answer();
        }
        std::thread::sleep(ms(100));
    }
}

fn unauthenticated_connections_take_no_tunnels_place(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(1, NEVER);
    let mut mute: Vec<Agent> = (0..20).map(|_| daemon.agent(mapping.port1)).collect();
    mute[0].send(&mapping.passcode1.as_bytes()[..10]);
    let (mut user, mut agent) = daemon.session(&mapping);
    agent.send(b"answer");
    user.expect(b"answer");
    for mute in &mut mute {
        assert!(mute.is_quiet(), "one that has not authenticated was closed or given bytes");
    }
}

fn thousand_mute_connections_do_not_keep_an_agent_out(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    // Without a handshake even where there is TLS: the cheapest attack.
    let _mute: Vec<Link> =
        (0..1000).map(|_| Link::plain(at(mapping.port1)).expect("connect")).collect();
    let mut agent = daemon.tunnel(&mapping);
    agent.beat_and_answer();
    assert_eq!(daemon.api().get("/api/v2/status").status, 200);
}

fn who_never_authenticates_is_closed_after_ten_seconds(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(60, NEVER);
    let start = Instant::now();
    let mut no_handshake = Link::plain(at(mapping.port1)).unwrap();
    let mut mute = daemon.agent(mapping.port1);
    let mut half = daemon.agent(mapping.port1);
    half.send(&mapping.passcode1.as_bytes()[..20]);
    let closed = |link: &mut Link| {
        link.expect_closed();
        start.elapsed()
    };
    for elapsed in [closed(&mut no_handshake), closed(&mut mute), closed(&mut half)] {
        assert!(elapsed >= Duration::from_secs(9), "closed after {elapsed:?}");
    }
    let state = daemon.control().state_of(&mapping).unwrap();
    assert_eq!(state["refusals"][0]["why"], "no passcode within 10 s", "{state}");
    assert_eq!(state["refusals"][0]["times"], 3, "{state}");
    // Who has said nothing at all has failed no handshake.
    assert_eq!(state["counts"]["handshakeFailures"], 0, "{state}");
}

fn agent_that_vanishes_without_a_goodbye_frees_its_place(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(1, NEVER);
    for how in ["FIN", "RST"] {
        let mut agent = eventually("a free place", || {
            let mut agent = daemon.agent(mapping.port1);
            agent.is_accepted(&mapping.passcode1).then_some(agent)
        });
        agent.beat_and_answer();
        match how {
            "FIN" => agent.link.fin(),
            _ => agent.link.reset(),
        }
    }
    eventually("a free place", || {
        daemon.agent(mapping.port1).is_accepted(&mapping.passcode1).then_some(())
    });
}

fn idle_tunnel_that_sends_data_is_read_over_and_used_again(mode: Mode) {
    let daemon = Daemon::builder(mode).set("userwait", 20_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mut agent = daemon.tunnel(&mapping);
    // More than any buffer holds: it is read as fast as it comes.
    agent.send(&flood(3));
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    let start = Instant::now();
    agent.send(b"the rest of an answer");
    agent.beat();
    // In plain TCP it may have come as one with the rest.
    agent.expect(BEAT);
    agent.expect(b"question");
    assert!(start.elapsed() >= ms(840), "given to a user after {:?}", start.elapsed());
    agent.send(b"answer");
    user.expect(b"answer");
    assert_eq!(daemon.control().number(&mapping, "counts.tunnelsTotal"), 1, "it was dialled anew");
    assert_eq!(daemon.control().number(&mapping, "counts.agentsRefused"), 0);
}

#[test]
fn heartbeat_that_reads_cut_while_an_old_answer_is_read_over_is_answered() {
    let daemon = Daemon::builder(Mode::Plain).set("userwait", 20_000).start();
    let mapping = daemon.api().add_public(60, NEVER);
    let mut agent = daemon.tunnel(&mapping);
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    agent.expect(b"question");
    agent.send(&[b'.'; 100_000]);
    user.exactly(1000);
    user.reset();
    until("the user's session is over", || {
        daemon.control().number(&mapping, "counts.sessions") == 0
    });
    for cut in 1..BEAT.len() {
        agent.send(b"more of the answer");
        agent.send(&BEAT[..cut]);
        // Read by now, or not: it is the same.
        std::thread::sleep(ms(30));
        agent.send(&BEAT[cut..]);
        agent.expect(BEAT);
    }
    // What begins like a heartbeat and is none keeps nobody off for long.
    agent.send(b"the end of the answer: B");
    let mut next = daemon.user(&mapping);
    next.send(b"the next question");
    agent.expect(b"the next question");
    agent.send(b"its answer");
    next.expect(b"its answer");
    assert_eq!(daemon.control().number(&mapping, "counts.tunnelsTotal"), 1, "it was dialled anew");
}

#[test]
fn tls_1_2_and_1_3_are_spoken() {
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    let pem = daemon.config().join("server-cert.pem");
    for (version, name) in
        [(&rustls::version::TLS12, "TLSv1_2"), (&rustls::version::TLS13, "TLSv1_3")]
    {
        let config = trusting_version(&pem, version);
        let link = Link::tls(at(mapping.port1), &config).unwrap();
        assert_eq!(link.negotiated().0, name);
        let mut agent = Agent::over(link).prove(&mapping.passcode1);
        agent.beat_and_answer();
        let mut user = Link::tls(at(mapping.port2), &config).unwrap();
        user.send(b"question");
        agent.expect_record(b"question");
        agent.send(b"answer");
        user.expect_record(b"answer");
    }
}

#[test]
fn what_comes_in_one_packet_with_the_last_of_a_handshake_and_the_end_is_served() {
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    let resuming = resuming_tls12(&daemon.config().join("server-cert.pem"));
    let mut first = Link::tls(at(mapping.port2), &resuming).unwrap();
    first.send(b"first");
    let mut agent = daemon.tunnel(&mapping);
    agent.expect_record(b"first");
    agent.send(b"one");
    agent.finish();
    assert_eq!(first.until_end(), b"one");
    for round in 0..10 {
        let config = if round % 2 == 0 { &resuming } else { &daemon.trust() };
        let mut user = Link::finish_and_say(at(mapping.port2), config, b"question").unwrap();
        assert_eq!(user.is_resumed(), round % 2 == 0);
        let mut agent = daemon.tunnel(&mapping);
        agent.expect_record(b"question");
        agent.send(b"answer");
        agent.finish();
        assert_eq!(user.until_end(), b"answer");
    }
    let request = b"GET /api/v2/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for _ in 0..10 {
        let caller = Link::finish_and_say(daemon.api_address(), &daemon.trust(), request);
        assert!(caller.unwrap().until_end().starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn what_is_not_tls_is_closed_and_disturbs_nobody() {
    let daemon = Daemon::new(Mode::Tls);
    let mapping = daemon.api().add_public(60, NEVER);
    let mut agent = daemon.tunnel(&mapping);
    for port in [mapping.port1, mapping.port2] {
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff, 1], &[0; 300]] {
            let mut stranger = Link::plain(at(port)).unwrap();
            let _ = stranger.try_send(garbage);
            stranger.fin();
            // An alert may come before the end.
            stranger.rest();
        }
    }
    let mut plain = Link::plain(at(mapping.port1)).unwrap();
    let _ = plain.try_send(mapping.passcode1.as_bytes());
    let (bytes, _) = plain.rest();
    assert!(!bytes.windows(10).any(|ten| ten == b"AUTHORIZED"), "a passcode without TLS");
    agent.beat_and_answer();
}

/// Bytes that the mapping has carried from the agent to users.
fn bytes_down(daemon: &Daemon, mapping: &Mapping) -> u64 {
    daemon.control().bytes_down(mapping)
}
