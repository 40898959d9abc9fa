//! Sessions over version 3 tunnels begin on the control thread, sixteen at a time, and go on to a worker after 64 KiB or a
//! second (docs/decisions/short-sessions.md): nobody notices.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;

in_both_modes!(
    session_of_any_length_is_exact_when_both_ends_end_as_it_goes_on_to_a_worker,
    session_that_lasts_is_exact_while_it_goes_on_to_a_worker,
    more_sessions_than_begin_on_the_control_thread_are_exact,
    break_as_a_session_goes_on_to_a_worker_is_a_break_and_the_tunnel_serves_again,
    mapping_that_is_removed_while_its_sessions_go_on_to_workers_gives_every_file_back,
    mute_sessions_leave_their_places_on_the_control_thread_to_others,
    tunnels_that_wait_for_their_agents_behind_a_session_leave_the_control_thread,
    api_answers_while_sessions_on_the_control_thread_flood_it,
);

const NEVER: u64 = 200_000;

/// What a session moves before it goes on to a worker.
const SHORT: usize = 64 * 1024;

/// Sessions on the control thread at one time.
const PLACES: usize = 16;

fn public(mode: Mode, connections: usize) -> (Daemon, Mapping) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(connections as u32, NEVER);
    (daemon, mapping)
}

#[track_caller]
fn begin(daemon: &Daemon, mapping: &Mapping, agent: &mut Framed) -> Link {
    let user = daemon.user(mapping);
    agent.opened();
    agent.accept();
    user
}

fn session_of_any_length_is_exact_when_both_ends_end_as_it_goes_on_to_a_worker(mode: Mode) {
    let (daemon, mapping) = public(mode, 2);
    let mut agent = daemon.version_three(&mapping);
    let halves = [0, 1, SHORT / 2 - 1, SHORT / 2, SHORT / 2 + 1];
    let alone = [SHORT - 13, SHORT - 9, SHORT - 1, SHORT, SHORT + 1, 3 * SHORT, 20 * SHORT];
    let lengths = halves.iter().flat_map(|up| halves.map(|down| (*up, down)));
    let lengths = lengths.chain(alone.iter().flat_map(|&length| [(length, 7), (7, length)]));
    for (number, (up, down)) in lengths.enumerate() {
        let asked = noise(2 * number as u64, up);
        let answered = noise(2 * number as u64 + 1, down);
        let mut user = begin(&daemon, &mapping, &mut agent);
        thread::scope(|scope| {
            scope.spawn(|| {
                agent.queue(&answered);
                agent.queue_end();
                agent.expect_data(&asked);
                agent.expect(b'E');
            });
            user.send(&asked);
            user.finish();
            assert_same(&user.until_end(), &answered, "the answer");
        });
    }
    assert_eq!(daemon.api().number(&mapping, "counts.tunnelsTotal"), 1);
}

fn session_that_lasts_is_exact_while_it_goes_on_to_a_worker(mode: Mode) {
    const SESSIONS: usize = 8;
    let (daemon, mapping) = public(mode, SESSIONS);
    thread::scope(|scope| {
        for number in 0..SESSIONS {
            let mut agent = daemon.version_three(&mapping);
            let mut user = begin(&daemon, &mapping, &mut agent);
            let [asked, answered] = [0, 1].map(|way| noise(2 * number as u64 + way, SHORT / 4));
            scope.spawn(move || {
                // Bytes are on their way in both directions all the time.
                let (start, mut sent) = (Instant::now(), 0);
                let mut got = [Vec::new(), Vec::new()];
                while sent < asked.len() || got.iter().any(|got| got.len() < asked.len()) {
                    let due = (start.elapsed().as_micros() / 100) as usize;
                    let next = due.clamp(sent, asked.len());
                    user.queue(&asked[sent..next]).unwrap();
                    if next > sent {
                        agent.queue(&answered[sent..next]);
                    }
                    sent = next;
                    user.push().unwrap();
                    if let Some(Got::Bytes(bytes)) = user.read_now(SHORT) {
                        got[1].extend(bytes);
                    }
                    match agent.next_by(Instant::now() + ms(1)) {
                        Ok((b'D', bytes)) => got[0].extend(bytes),
                        Err(Got::Late) => {}
                        other => panic!("{other:?}"),
                    }
                    assert!(start.elapsed() < PATIENCE, "nothing comes any more");
                }
                assert_same(&got[0], &asked, "what was asked");
                assert_same(&got[1], &answered, "the answer");
                user.finish();
                agent.expect(b'E');
                agent.say(b'E', b"");
                assert!(user.until_end().is_empty());
            });
        }
    });
}

fn more_sessions_than_begin_on_the_control_thread_are_exact(mode: Mode) {
    const SESSIONS: usize = 40;
    let (daemon, mapping) = public(mode, SESSIONS);
    let mut agents: Vec<_> = (0..SESSIONS).map(|_| daemon.version_three(&mapping)).collect();
    for round in 0..3 {
        let mut users: Vec<_> = (0..SESSIONS).map(|_| daemon.user(&mapping)).collect();
        for (number, user) in users.iter_mut().enumerate() {
            user.send(&noise((round * SESSIONS + number) as u64, 1000 + number));
        }
        let mut served = [false; SESSIONS];
        for agent in &mut agents {
            agent.opened();
            agent.accept();
            let got = agent.expect(b'D');
            let mut got = got;
            let number = (0..SESSIONS)
                .find(|number| {
                    noise((round * SESSIONS + number) as u64, 1000).starts_with(&got[..8])
                })
                .unwrap_or_else(|| panic!("bytes of nobody"));
            got.extend(agent.exactly(1000 + number - got.len()));
            assert_same(
                &got,
                &noise((round * SESSIONS + number) as u64, 1000 + number),
                "one user's bytes",
            );
            assert!(!std::mem::replace(&mut served[number], true), "twice");
            got.reverse();
            agent.send(&got);
            agent.say(b'E', b"");
        }
        for (number, user) in users.iter_mut().enumerate() {
            let mut expected = noise((round * SESSIONS + number) as u64, 1000 + number);
            expected.reverse();
            assert_same(&user.until_end(), &expected, "one's own answer");
            user.finish();
        }
        for agent in &mut agents {
            agent.expect(b'E');
        }
    }
    assert_eq!(daemon.api().number(&mapping, "counts.tunnelsTotal"), SESSIONS as u64);
}

fn break_as_a_session_goes_on_to_a_worker_is_a_break_and_the_tunnel_serves_again(mode: Mode) {
    let (daemon, mapping) = public(mode, 2);
    let mut agent = daemon.version_three(&mapping);
    for number in 0..6 {
        let bytes = noise(number, SHORT + 7);
        let mut user = begin(&daemon, &mapping, &mut agent);
        agent.queue(&bytes);
        let sent = agent.link.push().unwrap();
        if number % 2 == 0 {
            user.exactly(SHORT - 100);
            user.reset();
            agent.link.try_send(b"").unwrap();
            agent.expect(b'X');
            agent.say(b'X', b"");
        } else {
            if !sent {
                user.exactly(100);
                agent.link.try_send(b"").unwrap();
            }
            agent.say(b'X', b"broken");
            agent.expect(b'X');
            let (got, end) = user.rest();
            assert!(bytes.ends_with(&got), "other bytes");
            assert_eq!(end, Got::Reset);
        }
    }
    let mut user = begin(&daemon, &mapping, &mut agent);
    user.send(b"question");
    agent.expect_data(b"question");
    assert_eq!(daemon.api().number(&mapping, "counts.tunnelsTotal"), 1);
}

fn mapping_that_is_removed_while_its_sessions_go_on_to_workers_gives_every_file_back(mode: Mode) {
    const SESSIONS: usize = 20;
    let daemon = Daemon::new(mode);
    let mut before = None;
    for _ in 0..3 {
        let mapping = daemon.api().add_public(SESSIONS as u32, NEVER);
        let mut sessions: Vec<_> = (0..SESSIONS)
            .map(|_| {
                let mut agent = daemon.version_three(&mapping);
                (begin(&daemon, &mapping, &mut agent), agent)
            })
            .collect();
        for (user, agent) in &mut sessions {
            user.queue(&noise(1, SHORT)).unwrap();
            let _ = (user.push(), agent.link.try_send(&data(&noise(2, SHORT))));
        }
        daemon.api().remove(&mapping);
        for (mut user, mut agent) in sessions {
            assert_eq!(user.rest().1, Got::Reset);
            agent.until_closed();
        }
        // What threads keep for later is there after the first time.
        let files = before.get_or_insert_with(|| daemon.open_files());
        until("every file is given back", || daemon.open_files() <= *files);
    }
}

/// What the dump says of each session that the control thread carries, and of each tunnel of which it carries the rest.
fn at_home(daemon: &Daemon) -> Vec<String> {
    assert!(daemon.cli(&["dump"]).status.success());
    let dump = fs::read_to_string(daemon.log().join("iofog-connector.dump")).unwrap();
    let (_, rest) = dump.split_once("\nthe control thread carries\n").expect("its part");
    let (home, _) = rest.split_once("worker 1 carries\n").expect("a worker's part");
    let is_one = |line: &&str| line.starts_with("session ") || line.starts_with("tunnel ");
    home.lines().filter(is_one).map(Into::into).collect()
}

fn mute_sessions_leave_their_places_on_the_control_thread_to_others(mode: Mode) {
    let daemon = Daemon::new(mode);
    let mapping = daemon.api().add_public(20 * PLACES as u32, NEVER);
    eventually("another session begins there", || {
        let _mute: Vec<_> = (0..PLACES)
            .map(|_| {
                let mut agent = daemon.version_three(&mapping);
                (begin(&daemon, &mapping, &mut agent), agent)
            })
            .collect();
        // Their time there. A dump would have them look at the clock.
        thread::sleep(ms(1200));
        let mut agent = daemon.version_three(&mapping);
        let user = begin(&daemon, &mapping, &mut agent);
        let of = format!(" {}: for ", user.local());
        // On a busy machine its own time there may be over.
        at_home(&daemon).iter().any(|line| line.contains(&of)).then_some(())
    });
}

fn tunnels_that_wait_for_their_agents_behind_a_session_leave_the_control_thread(mode: Mode) {
    let (daemon, mapping) = public(mode, PLACES);
    let one = || {
        let mut agent = daemon.version_three(&mapping);
        let mut user = begin(&daemon, &mapping, &mut agent);
        agent.say(b'E', b"");
        assert!(user.until_end().is_empty());
        user.finish();
        // Its service has not read that far.
        assert_eq!(agent.hear_only(), (b'E', Vec::new()));
        agent
    };
    let mut agents: Vec<_> = (0..PLACES).map(|_| one()).collect();
    until("nothing is left of them there", || at_home(&daemon).is_empty());
    assert_eq!(daemon.api().in_use(&mapping), PLACES as u64);
    for agent in &mut agents {
        agent.beat_and_answer();
        agent.say(b'S', b"");
    }
    until("all wait again", || daemon.api().idle(&mapping) == PLACES as u64);
    let agent = agents.last_mut().unwrap();
    let mut user = begin(&daemon, &mapping, agent);
    user.finish();
    agent.expect(b'E');
    agent.say(b'E', b"");
    assert!(user.until_end().is_empty());
}

fn api_answers_while_sessions_on_the_control_thread_flood_it(mode: Mode) {
    let (daemon, mapping) = public(mode, 20 * PLACES);
    let (over, begun) = (AtomicBool::new(false), AtomicUsize::new(0));
    let one_byte: Vec<u8> = data(b"x").repeat(4000);
    let beats = [frame(b'P', b"").repeat(1000), data(b"x")].concat();
    thread::scope(|scope| {
        for number in 0..PLACES {
            let (daemon, mapping, over, begun) = (&daemon, &mapping, &over, &begun);
            let flood = if number % 2 == 0 { &one_byte } else { &beats };
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let mut agent = daemon.version_three(mapping);
                    let mut user = daemon.user(mapping);
                    // Another one's may be given this user.
                    if !matches!(agent.next_by(Instant::now() + ms(1000)), Ok((b'O', _))) {
                        continue;
                    }
                    let _ = agent.link.queue(&[frame(b'S', b""), frame(b'A', b"")].concat());
                    begun.fetch_add(1, Ordering::Relaxed);
                    let end = Instant::now() + ms(300);
                    while Instant::now() < end {
                        if agent.link.push().unwrap_or(true) {
                            let _ = agent.link.queue(flood);
                        }
                        if user.push().unwrap_or(true) {
                            // In TLS a record for each byte.
                            (0..100).for_each(|_| _ = user.queue(b"y"));
                        }
                        let _ = (agent.link.read_now(SHORT), user.read_now(SHORT));
                        agent.link.wait(true, true, Instant::now() + ms(5));
                    }
                }
            });
        }
        let stop = Raise(&over);
        let (mut slowest, mut answers) = (Duration::ZERO, 0);
        let late = Instant::now() + PATIENCE;
        while begun.load(Ordering::Relaxed) < 4 * PLACES {
            let (_, took) = timed(|| daemon.api().state());
            (slowest, answers) = (slowest.max(took), answers + 1);
            assert!(Instant::now() < late, "sessions do not begin");
        }
        figure(mode, "answers, and the slowest", (answers, slowest));
        drop(stop);
    });
}

/// Raises the flag when dropped, after a panic too: the threads that look at it must end.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
