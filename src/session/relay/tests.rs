use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::thread;
use std::time::Duration;

use std::future::poll_fn;

use smol::LocalExecutor;

use super::*;
use crate::net::stream::Stream;
use crate::runtime::{block_on, look, sleep};
use crate::session::residue::Missing;
use crate::session::settling::Kept;
use crate::session::tests::broken_behind_unread_bytes;
use crate::wire::frames::{Event, Side, Talk, Word, data_head};

#[test]
fn agents_reset_behind_unread_bytes_ends_the_session_at_the_next_look() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (user, _) = listener.accept().unwrap();
    user.set_nonblocking(true).unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&user, 1 << 20).unwrap();
    // It takes all, so that the session would go on for as long as there is something to read.
    let user_reads = thread::spawn(move || io::copy(&mut there, &mut io::sink()));
    block_on(async {
        let agent = Stream::plain(broken_behind_unread_bytes()).unwrap();
        let protocol = Protocol::Version1 { threshold: None };
        let agent = Endpoint { stream: agent, protocol, talk: None };
        let (stream, protocol) = (Stream::plain(user).unwrap(), Protocol::Raw);
        let user = Endpoint { stream, protocol, talk: None };
        let silence = Silence { after_end: Duration::from_secs(60), ever: None };
        let mut relay =
            pin!(Relay::new([agent, user], [Vec::new(), Vec::new()], silence, Arc::default()));
        let context = &mut Context::from_waker(Waker::noop());
        let mut polled = relay.as_mut().poll(context);
        if polled.is_pending() {
            look().await;
            polled = relay.poll(context);
        }
        let Poll::Ready(ended) = polled else { panic!("not noticed") };
        assert_eq!((ended.ending, ended.missing), (Ending::Broken(0), Missing::Rest));
    })
    .unwrap();
    let _ = user_reads.join();
}

/// Both ends of a connection, without blocking.
fn connection() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    [one, listener.accept().unwrap().0]
}

fn stream(socket: TcpStream) -> Stream {
    socket.set_nonblocking(true).unwrap();
    socket.set_nodelay(true).unwrap();
    Stream::plain(socket).unwrap()
}

/// The rules of a version 3 tunnel that was heard lately.
fn framed(beat: Option<Duration>) -> Protocol {
    Protocol::Framed { threshold: None, beat, at_once: true, seen_wait: limits::SEEN_WAIT }
}

/// Bytes of which each place has its own.
fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| ((at + seed) / 251 + at) as u8).collect()
}

/// Sends `bytes`, ends, and reads to the end.
fn exchange(mut socket: TcpStream, bytes: Vec<u8>) -> thread::JoinHandle<io::Result<Vec<u8>>> {
    let mut sender = socket.try_clone().unwrap();
    thread::spawn(move || {
        let sending = thread::spawn(move || {
            sender.write_all(&bytes)?;
            sender.shutdown(Shutdown::Write)
        });
        let mut all = Vec::new();
        socket.read_to_end(&mut all)?;
        sending.join().unwrap()?;
        Ok(all)
    })
}

/// The session to its end, and its tunnel after it.
async fn carried(mut relay: Relay) -> Kept {
    let ended = (&mut relay).await;
    assert_eq!(ended.ending, Ending::Complete);
    let Parting { tunnels: [Some(settling), None], user: None, closing } = relay.part() else {
        panic!("not parted")
    };
    closing.close().await;
    settling.await.unwrap()
}

#[test]
fn heartbeat_that_falls_due_with_the_silence_does_not_put_it_off() {
    block_on(async {
        let ([connector, there], [here, _service]) = (connection(), connection());
        let mut talks = [Side::Connector, Side::Agent].map(|side| Box::new(Talk::new(side)));
        let open = talks[0].say(Word::Open(b"header"));
        talks[1].hear(&mut &open[..]).unwrap();
        let [_, mut talk] = talks;
        let mut tunnel = stream(there);
        tunnel.queue(&talk.say(Word::Seen)).unwrap();
        let ever = Duration::from_millis(100);
        let protocol = framed(Some(ever));
        let agent = Endpoint { stream: tunnel, protocol, talk: Some(talk) };
        let service = Endpoint { stream: stream(here), protocol: Protocol::Raw, talk: None };
        let silence = Silence { after_end: Duration::from_secs(60), ever: Some(ever) };
        let held = [Vec::new(), Vec::new()];
        let mut relay = pin!(Relay::new([agent, service], held, silence, Arc::default()));
        let context = &mut Context::from_waker(Waker::noop());
        assert!(relay.as_mut().poll(context).is_pending());
        sleep(ever).await;
        // What was said has been acknowledged; what is said now is on its way for a while.
        rustix::net::sockopt::set_tcp_quickack(&connector, false).unwrap();
        let Poll::Ready(ended) = relay.poll(context) else { panic!("it goes on") };
        assert_eq!(ended.ending, Ending::Idle);
    })
    .unwrap();
}

#[test]
fn one_version_3_tunnel_carries_sessions_one_after_another_in_both_directions_in_full() {
    crate::net::conduit::allow(1, 1 << 16);
    block_on(async {
        let silence = Silence { after_end: Duration::from_secs(60), ever: None };
        let [near, far] = connection().map(stream);
        let mut ends = Some([near, far]);
        let mut input = Vec::new();
        let mut talks = Some([Side::Connector, Side::Agent].map(|side| Box::new(Talk::new(side))));
        for (round, length) in [0, 1, 70_000, 5 << 20, 3].into_iter().enumerate() {
            let ([user, here], [there, service]) = (connection(), connection());
            let [asked, answered] = [pattern(length, round), pattern(2 * length, round + 7)];
            let user = exchange(user, asked.clone());
            let service = exchange(service, answered.clone());
            let ([mut near, mut far], [mut connector, mut agent]) =
                (ends.take().unwrap(), talks.take().unwrap());
            near.queue(&connector.say(Word::Open(b"header"))).unwrap();
            // Answers to heartbeats of the session before may come first.
            let mut opened = false;
            while !opened {
                let mut unit = &std::mem::take(&mut input)[..];
                while let Some(event) = agent.hear(&mut unit).unwrap() {
                    opened |= matches!(event, Event::Opened(_));
                }
                let come = &mut input;
                poll_fn(|context| match opened {
                    true => Poll::Ready(Ok(Received::Bytes(0))),
                    false => far.poll_receive_some(context, 1, &mut |byte| come.extend(byte)),
                })
                .await
                .unwrap();
            }
            for word in [Word::Seen, Word::Accepted] {
                far.queue(&agent.say(word)).unwrap();
            }
            let endpoint = |stream, protocol, talk| Endpoint { stream, protocol, talk };
            let held = || [Vec::new(), Vec::new()];
            let raw = |socket| endpoint(stream(socket), Protocol::Raw, None);
            let beat = Some(Duration::from_millis(5));
            let one = Relay::new(
                [endpoint(near, framed(None), Some(connector)), raw(here)],
                held(),
                silence,
                Arc::default(),
            );
            let two = Relay::new(
                [endpoint(far, framed(beat), Some(agent)), raw(there)],
                held(),
                silence,
                Arc::default(),
            );
            // The connector's end is free once the agent's has said so.
            let kept = zip(carried(one), carried(two)).await;
            assert!(user.join().unwrap().unwrap() == answered, "round {round}");
            assert!(service.join().unwrap().unwrap() == asked, "round {round}");
            let (near, far) = kept;
            assert!(near.input.is_empty());
            input = far.input;
            ends = Some([near.stream, far.stream]);
            talks = Some([near.talk, far.talk]);
        }
    })
    .unwrap();
}

/// A session of two connections without rules.
fn raw(sockets: [TcpStream; 2]) -> Relay {
    let legs = sockets.map(|socket| Endpoint {
        stream: stream(socket),
        protocol: Protocol::Raw,
        talk: None,
    });
    let silence = Silence { after_end: Duration::from_secs(60), ever: None };
    Relay::new(legs, [Vec::new(), Vec::new()], silence, Arc::default())
}

#[test]
fn session_goes_on_on_another_thread_with_every_byte() {
    let ([one, here], [there, two]) = (connection(), connection());
    let [asked, answered] = [pattern(3 << 20, 1), pattern(5 << 20, 2)];
    let [one, two] = [exchange(one, asked.clone()), exchange(two, answered.clone())];
    let begin = move || {
        let mut relay = raw([here, there]);
        async move {
            assert!(relay.briefly().await.is_none(), "it is no short one");
            relay.leave()
        }
    };
    let moving = thread::spawn(|| block_on(async { begin().await }).unwrap()).join().unwrap();
    let ended = block_on(async {
        let mut relay = moving.enter().unwrap();
        let ended = (&mut relay).await;
        relay.close().await;
        ended
    })
    .unwrap();
    assert_eq!(ended.ending, Ending::Complete);
    assert_eq!(ended.bytes, [asked.len() as u64, answered.len() as u64]);
    assert!(one.join().unwrap().unwrap() == answered && two.join().unwrap().unwrap() == asked);
}

#[test]
fn session_that_is_short_ends_where_it_has_begun() {
    block_on(async {
        let ([one, here], [there, two]) = (connection(), connection());
        let [asked, answered] = [pattern(10, 1), pattern(limits::SHORT_BYTES as usize - 11, 2)];
        let [one, two] = [exchange(one, asked.clone()), exchange(two, answered.clone())];
        let mut relay = raw([here, there]);
        assert_eq!(relay.briefly().await.unwrap().ending, Ending::Complete);
        relay.close().await;
        assert!(one.join().unwrap().unwrap() == answered && two.join().unwrap().unwrap() == asked);
    })
    .unwrap();
}

#[test]
fn session_that_stays_mute_is_no_short_one_after_a_while() {
    block_on(async {
        let ([_one, here], [_two, there]) = (connection(), connection());
        let mut relay = raw([here, there]);
        // In a task of its own, which nobody else wakes.
        let executor = LocalExecutor::new();
        let task = executor.spawn(async move { relay.briefly().await.is_none() });
        let late = Instant::now() + 30 * limits::SHORT_TIME;
        assert_eq!(until(late, executor.run(task)).await, Some(true));
    })
    .unwrap();
}

#[test]
fn session_in_bulk_is_no_short_one_before_its_thread_has_lent_it_a_kernel_pipe() {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 1 << 20).unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        let [_user, here] = connection();
        let [mut connector, mut agent] =
            [Side::Connector, Side::Agent].map(Talk::new).map(Box::new);
        let opened = connector.say(Word::Open(b"header"));
        agent.hear(&mut &opened[..]).unwrap();
        let mut said = [Word::Seen, Word::Accepted].map(|word| agent.say(word)).concat();
        said.extend(data_head(limits::FRAME_DATA));
        said.extend(pattern(limits::FRAME_DATA, 3));
        far.write_all(&said).unwrap();
        let late = Instant::now() + Duration::from_secs(30);
        while rustix::io::ioctl_fionread(&near).unwrap() < said.len() as u64 {
            assert!(Instant::now() < late, "it does not arrive");
            sleep(Duration::from_millis(1)).await;
        }
        let protocol = framed(None);
        let tunnel = Endpoint { stream: stream(near), protocol, talk: Some(connector) };
        let user = Endpoint { stream: stream(here), protocol: Protocol::Raw, talk: None };
        let silence = Silence { after_end: Duration::from_secs(60), ever: None };
        let held = [Vec::new(), Vec::new()];
        let mut relay = Relay::new([tunnel, user], held, silence, Arc::default());
        assert!(relay.briefly().await.is_none());
        let moved = relay.progress.bytes[0];
        assert!(moved < limits::SHORT_BYTES, "{moved} bytes, not with one read alone");
        assert!(relay.progress.legs[0].bulk);
    })
    .unwrap();
}

#[test]
fn version_3_tunnel_that_ends_on_its_way_to_a_session_takes_nothing_from_the_user() {
    block_on(async {
        let ([near, far], [mut user, here]) = (connection(), connection());
        let (mut near, here) = (stream(near), stream(here));
        // Nothing has come when its thread last looks.
        poll_fn(|context| {
            assert!(near.poll_receive(context, &mut |_| {}).is_pending());
            Poll::Ready(())
        })
        .await;
        let mut talk = Box::new(Talk::new(Side::Connector));
        near.queue(&talk.say(Word::Open(b"header"))).unwrap();
        user.write_all(b"question").unwrap();
        drop(far);
        let protocol = framed(None);
        let tunnel = Endpoint { stream: near, protocol, talk: Some(talk) };
        let user = Endpoint { stream: here, protocol: Protocol::Raw, talk: None };
        let legs = [tunnel, user];
        let silence = Silence { after_end: Duration::from_secs(60), ever: None };
        let mut relay = Relay::new(legs, [Vec::new(), Vec::new()], silence, Arc::default());
        assert_eq!((&mut relay).await.ending, Ending::Dead(0));
        assert!(relay.part().user.is_some());
    })
    .unwrap();
}

/// Notes that a task is to be polled.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Polls a session only when it has been woken, until `done`; whether it is within five seconds.
async fn driven(relay: &mut Relay, woken: &Arc<Woken>, done: impl Fn(&Relay) -> bool) -> bool {
    let waker = Waker::from(woken.clone());
    let late = Instant::now() + Duration::from_secs(5);
    while !done(relay) && Instant::now() < late {
        look().await;
        if woken.0.swap(false, Ordering::Relaxed) {
            let polled = Pin::new(&mut *relay).poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
    }
    done(relay)
}

#[test]
fn what_waited_for_the_other_side_to_see_the_session_is_passed_on_when_it_has() {
    block_on(async {
        let seen_wait = Duration::from_secs(60);
        let protocol = Protocol::Framed { threshold: None, beat: None, at_once: false, seen_wait };
        let ([mut one, here], [there, mut two]) = (connection(), connection());
        let [mut early, mut late] = [Side::Agent, Side::Agent].map(Talk::new);
        let legs = [(here, &mut early), (there, &mut late)].map(|(socket, agent)| {
            let mut talk = Box::new(Talk::new(Side::Connector));
            agent.hear(&mut &talk.say(Word::Open(b"header"))[..]).unwrap();
            Endpoint { stream: stream(socket), protocol, talk: Some(talk) }
        });
        let silence = Silence { after_end: Duration::from_secs(60), ever: None };
        let mut relay = Relay::new(legs, [Vec::new(), Vec::new()], silence, Arc::default());
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        one.write_all(&early.say(Word::Seen)).unwrap();
        let has_seen =
            |relay: &Relay| relay.progress.legs[0].framed.as_ref().is_some_and(|leg| leg.seen);
        assert!(driven(&mut relay, &woken, has_seen).await);
        one.write_all(&[&early.say(Word::Accepted), &data_head(5)[..], b"early"].concat()).unwrap();
        // The kernel has told of it, and nothing is taken.
        let is_told = |relay: &Relay| {
            relay.progress.legs[0].stream.maybe_readable() && relay.progress.legs[0].paused
        };
        assert!(driven(&mut relay, &woken, is_told).await);
        two.write_all(&late.say(Word::Seen)).unwrap();
        assert!(driven(&mut relay, &woken, |relay| relay.progress.bytes[0] == 5).await);
    })
    .unwrap();
}
