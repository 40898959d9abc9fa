//! One agent's connection: handshake, passcode, a slot, and its waits and sessions in turn
//! (protocol page, sections 4 to 6 and 8).

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::task::Poll;
use std::time::Instant;

use smol::channel::Receiver;
use smol::future::or;

use crate::limits;
use crate::net::stall::StallWatch;
use crate::net::stream::{Received, Stream, is_too_many, is_too_much};
use crate::net::tcp_info;
use crate::os::FileGuard;
use crate::pipes::crowd::Member;
use crate::pipes::handshake::{Peer, secure};
use crate::pipes::pairing::{TunnelEnd, Waiting};
use crate::pipes::pipe::{Pipe, Side};
use crate::pipes::record::About;
use crate::pipes::session;
use crate::pipes::settling::Settling;
use crate::pipes::slot::Slot;
use crate::pipes::tunnel::{IdleEnd, Tunnel};
use crate::report::status::reached;
use crate::report::status::refused::{self, Refusal};
use crate::runtime::{self, Deadlines, Timer, now, until};
use crate::session::Missing;
use crate::wire::greeting::{Checked, Greetings, Offer, Version};

/// A connection that has proved its passcode.
struct Proven {
    stream: Stream,
    version: Version,
    /// What followed the passcode at once.
    early: Vec<Box<[u8]>>,
    /// The passcode, which may be replaced before there is a slot.
    offer: Offer,
}

/// Why a connection did not prove its passcode.
enum Unproven {
    /// Its handshake failed.
    Unsecured(io::Error),
    /// Its handshake took too long.
    Late,
    /// It sent no passcode in time.
    Silent,
    /// Newer connections took its place.
    Replaced,
    /// It broke or ended.
    Gone(io::Error),
    /// It said the wrong thing.
    Wrong(Stream, &'static Refusal),
}

/// Serves one agent's connection, from accepted socket to its end.
///
/// The stages before and after the wait are boxed: a waiting tunnel, of which there are many,
/// has memory for its wait alone.
pub async fn serve(pipe: &Pipe, side: usize, socket: TcpStream, peer: SocketAddr, file: FileGuard) {
    let mut next = Box::pin(admit(pipe, side, socket, peer, file)).await;
    if next.as_ref().is_some_and(|tunnel| tunnel.version == Version::One) && pipe.is_public() {
        // Its agent may have dialled it because another one broke, the rest of whose answer it is
        // about to send: that is known before a user is given it.
        Box::pin(hear_of_ends(pipe)).await;
    }
    while let Some(tunnel) = next.take() {
        let waiting = pipe.pairing.tunnel(side, tunnel);
        let end = wait(pipe, side, &waiting).await;
        let tunnel = waiting.occupant.take();
        drop(waiting);
        match (end, tunnel) {
            (TunnelEnd::Paired(partner), Some(tunnel)) => {
                next = Box::pin(session::carry(pipe, tunnel, partner)).await;
            }
            // The rest of an old answer, which will be over at some point.
            (TunnelEnd::Alone(IdleEnd::OutOfStep), Some(tunnel))
                if tunnel.version == Version::One =>
            {
                next = Box::pin(session::drain_stray(pipe, tunnel)).await;
            }
            (TunnelEnd::Alone(why), Some(tunnel)) => {
                Box::pin(tunnel_ended(pipe, side, tunnel, why)).await;
            }
            (TunnelEnd::Replaced, _) => {
                pipe.record.tunnel(
                    side,
                    peer,
                    format_args!("the overdue tunnel of {peer} makes room for a new one"),
                );
            }
            // The other side's task has it.
            (TunnelEnd::Taken(Some(back)), _) => {
                next = Box::pin(given_back(pipe, side, back)).await
            }
            (TunnelEnd::Taken(None) | TunnelEnd::GivenUp, _) | (_, None) => {}
        }
    }
}

/// A tunnel that carries the session of another one's task, after that; `None` if it is closed.
async fn given_back(pipe: &Pipe, side: usize, back: Receiver<Settling>) -> Option<Box<Tunnel>> {
    back.recv().await.ok()?.settled(side, &pipe.record, &pipe.shared.workers).await
}

/// Lets an agent in that proves its passcode, if there is a slot for it.
async fn admit(
    pipe: &Pipe,
    side: usize,
    socket: TcpStream,
    peer: SocketAddr,
    file: FileGuard,
) -> Option<Box<Tunnel>> {
    // It counts as a stranger until it is known whether it gets a slot.
    let stranger = pipe.unauthenticated.join(Some(peer.ip()), tcp_info::round_trip(&socket));
    let proven = authenticate(pipe, side, socket, peer, &stranger).await;
    let Proven { stream, version, early, offer } = match proven {
        Ok(proven) => proven,
        Err(why) => {
            let has_spoken = stranger.has_spoken();
            drop(stranger);
            turn_away(pipe, side, peer, why, has_spoken).await;
            return None;
        }
    };
    stranger.got_through();
    let taken = async { Some(take_slot(pipe, side, version, peer.ip()).await) };
    let gone = async {
        poll_fn(|context| stream.poll_gone(context)).await;
        None
    };
    // An agent that has gone meanwhile needs no slot.
    let slot = or(taken, gone).await?;
    drop(stranger);
    let Some(slot) = slot else {
        pipe.refuse_agent(stream, &refused::FULL, side, peer).await;
        return None;
    };
    if !matches!(check(pipe, side, &offer), Checked::Proven(_)) {
        drop(slot);
        pipe.refuse_agent(stream, &refused::WRONG_PASSCODE, side, peer).await;
        return None;
    }
    pipe.agent_came(side, peer.ip());
    let mut tunnel = Box::new(Tunnel::new(stream, version, peer, slot, file));
    tunnel.greet(early).is_ok().then_some(tunnel)
}

/// Its handshake and its passcode, before which a newcomer may take its place in the crowd.
///
/// # Errors
/// Why it has not proved its passcode.
async fn authenticate(
    pipe: &Pipe,
    side: usize,
    socket: TcpStream,
    peer: SocketAddr,
    stranger: &Member<'_>,
) -> Result<Proven, Unproven> {
    let is_secured = Cell::new(false);
    let proving = async {
        let secured = secure(&pipe.shared, socket, Peer::Agent, peer.ip(), stranger).await;
        let stream = secured.map_err(Unproven::Unsecured)?;
        is_secured.set(true);
        prove(pipe, side, stream, stranger).await
    };
    let replaced = async {
        stranger.replaced().await;
        Err(Unproven::Replaced)
    };
    match until(Instant::now() + limits::PASSCODE, or(proving, replaced)).await {
        Some(proven) => proven,
        None if is_secured.get() => Err(Unproven::Silent),
        None => Err(Unproven::Late),
    }
}

/// Counts and reports a connection that has not proved its passcode, and lets it go.
async fn turn_away(pipe: &Pipe, side: usize, peer: SocketAddr, why: Unproven, has_spoken: bool) {
    let refusal = match why {
        Unproven::Unsecured(error) => {
            return pipe.record.handshake_failed(side, peer, &error, has_spoken);
        }
        Unproven::Late => return pipe.record.handshake_late(side, peer, has_spoken),
        Unproven::Wrong(stream, why) => return pipe.refuse_agent(stream, why, side, peer).await,
        Unproven::Silent => &refused::NO_PASSCODE,
        Unproven::Replaced => &refused::AGENT_STALLED,
        Unproven::Gone(error) if is_too_much(&error) => &refused::TOO_MUCH,
        Unproven::Gone(error) if is_too_many(&error) => &refused::AGENTS_MEMORY,
        Unproven::Gone(error) => {
            return log::debug!("{}: agent {peer} sent no passcode: {error}", pipe.name());
        }
    };
    pipe.record.refused(refusal, side, peer);
}

/// Reads the passcode, in however many pieces it comes, and what follows it at once.
///
/// Nothing is said about it before as many bytes have come as the passcode has: an answer after
/// a part of it would tell how much was right.
async fn prove(
    pipe: &Pipe,
    side: usize,
    mut stream: Stream,
    stranger: &Member<'_>,
) -> Result<Proven, Unproven> {
    let greetings = match (stream.is_tls(), stream.has_protocol()) {
        (true, true) => Greetings::Three,
        (true, false) => Greetings::OneAndTwo,
        (false, _) => Greetings::All,
    };
    let mut offer = Offer::new(pipe.agent(side, |agent| agent.passcode.len()), greetings);
    let mut early = Vec::new();
    stranger.answered();
    loop {
        let received = poll_fn(|context| {
            stream.poll_receive(context, &mut |unit| {
                let rest = offer.take(unit);
                if !rest.is_empty() {
                    early.push(rest.into());
                }
            })
        });
        match received.await {
            Err(error) => return Err(Unproven::Gone(error)),
            Ok(received) => {
                stranger.spoke();
                match check(pipe, side, &offer) {
                    Checked::Proven(version) => {
                        stream.trust();
                        return Ok(Proven { stream, version, early, offer });
                    }
                    Checked::Incomplete if received == Received::Ended && offer.is_empty() => {
                        return Err(Unproven::Gone(io::ErrorKind::UnexpectedEof.into()));
                    }
                    Checked::Incomplete if received != Received::Ended => stranger.goes_on(),
                    _ if offer.is_tls() => {
                        return Err(Unproven::Wrong(stream, &refused::NOT_PLAIN));
                    }
                    // An end before the complete passcode is wrong, too.
                    _ => return Err(Unproven::Wrong(stream, &refused::WRONG_PASSCODE)),
                }
            }
        }
    }
}

/// What it proves by the passcode of now, which may have been replaced since it came.
fn check(pipe: &Pipe, side: usize, offer: &Offer) -> Checked {
    offer.check(|offered| pipe.agent(side, |of| of.passcode.matches(offered)))
}

/// A slot for one more tunnel of `side`; at the limit that of the most overdue one, or one
/// that is given back soon.
async fn take_slot(pipe: &Pipe, side: usize, version: Version, address: IpAddr) -> Option<Slot> {
    let slots = &pipe.sides[side].slots;
    let is_full = || slots.taken.get() >= usize::from(pipe.limits(side).max_connections);
    let deadline = Instant::now() + limits::PLACE_WAIT;
    let mut waited = false;
    loop {
        let freed = slots.freed.listen();
        let full = is_full();
        if full && !std::mem::replace(&mut waited, true) {
            pipe.record.reached(reached::MAX_CONNECTIONS);
        }
        if !full {
            pipe.record.count(|counts| counts.tunnels_total += 1);
            pipe.record.resolved(About::Agents(side));
            return Some(Slot::take(slots.clone(), version, address));
        }
        // What agents have sent by now is heard before one of them counts as overdue.
        runtime::look().await;
        if !is_full() {
            continue;
        }
        if !pipe.pairing.replace_overdue(side) {
            // The newcomer's own machine may have rebooted, and know nothing of its old tunnels.
            while is_full() && Instant::now() < deadline && pipe.pairing.probe(side) {
                runtime::look().await;
            }
            let waited = until(deadline, freed).await;
            if waited.is_none() && is_full() {
                return None;
            }
        }
    }
}

/// Returns once it is known which of this mapping's tunnels, in a session, draining on a worker or
/// still owing an answer, had broken by now. Where a worker does not say so in time, one may have.
async fn hear_of_ends(pipe: &Pipe) {
    let Side { draining, slots, .. } = &pipe.sides[0];
    let on_workers = slots.in_use.get() + draining.get() > 0;
    if !on_workers && slots.unanswered.get() == 0 {
        return;
    }
    let looked = until(Instant::now() + limits::LOOK_WAIT, pipe.shared.workers.look());
    if on_workers && looked.await.is_none() {
        pipe.pairing.be_wary();
    }
    // Their tasks here, which the look or the workers have woken, deal with it.
    runtime::look().await;
}

/// Listens to a waiting tunnel until it has a partner, or ends without.
async fn wait(
    pipe: &Pipe,
    side: usize,
    waiting: &Waiting<'_, Box<Tunnel>, TunnelEnd>,
) -> TunnelEnd {
    let mut timer = Timer::new();
    let mut watch = StallWatch::default();
    poll_fn(|context| {
        if let Poll::Ready(end) = waiting.poll_end(context) {
            return Poll::Ready(end);
        }
        let mut deadlines = Deadlines::new(now());
        {
            let mut seat = waiting.occupant.borrow_mut();
            let Some(tunnel) = seat.as_mut() else { return Poll::Pending };
            // An agent with the new passcode opens another one.
            if pipe.bids_farewell() || tunnel.slot.is_outdated() {
                tunnel.say_bye();
            }
            let threshold = pipe.limits(side).heartbeat_threshold;
            let idle =
                tunnel.poll_idle(context, pipe.is_public(), threshold, &mut watch, &mut deadlines);
            if let Poll::Ready(why) = idle {
                return Poll::Ready(TunnelEnd::Alone(why));
            }
            // The mapping may become wary while a fresh one waits.
            let quiet_at = pipe.pairing.quiet_at(tunnel);
            if let Some(at) = quiet_at.or_else(|| tunnel.quiet_enough_at(deadlines.now())) {
                deadlines.look_at(at);
            }
        }
        pipe.pairing.offer(waiting);
        if let Poll::Ready(end) = waiting.poll_end(context) {
            return Poll::Ready(end);
        }
        timer.wake_at(context, deadlines.next());
        Poll::Pending
    })
    .await
}

/// A waiting tunnel has ended by itself.
async fn tunnel_ended(pipe: &Pipe, side: usize, tunnel: Box<Tunnel>, why: IdleEnd) {
    let Tunnel { stream, peer, slot, file, .. } = *tunnel;
    if slot.is_unanswered() && why != IdleEnd::Left {
        pipe.pairing.lost(Missing::Answer);
    }
    drop(slot);
    match why {
        IdleEnd::OutOfStep => {
            pipe.record.fault(
                About::Event,
                Some(peer),
                &format!("tunnel of {peer} closed: it sent bytes outside a session"),
            );
            pipe.shared.refusals.refuse(stream, peer.ip()).await;
        }
        IdleEnd::Absent => {
            pipe.record.tunnel_absent(side, peer);
            stream.close();
        }
        IdleEnd::Stalled => {
            pipe.record.tunnel(
                side,
                peer,
                format_args!("tunnel of {peer} closed: it acknowledges nothing"),
            );
        }
        IdleEnd::Garbled(fault) => {
            let what = format!("tunnel of {peer} closed: {fault}");
            pipe.record.fault(About::Event, Some(peer), &what);
            pipe.shared.refusals.refuse(stream, peer.ip()).await;
        }
        IdleEnd::Bye => {
            log::debug!("{}: tunnel of {peer} was given up", pipe.name());
            stream.close();
        }
        IdleEnd::Left | IdleEnd::Broken => {
            log::debug!("{}: tunnel of {peer} was closed by its agent", pipe.name());
        }
    }
    drop(file);
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::path::Path;
    use std::rc::Rc;
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use event_listener::Event;
    use smol::LocalExecutor;
    use smol::future::poll_once;

    use super::*;
    use crate::config::Config;
    use crate::mappings::mapping::{self, AgentLimits, AgentPort, Mapping, Passcode};
    use crate::mappings::ports::Pool;
    use crate::os::{Files, For};
    use crate::pipes::refusals::Refusals;
    use crate::pipes::serve_user::{self, Newcomer, may_connect};
    use crate::pipes::shared::Shared;
    use crate::runtime::{Counted, Workers};

    /// A public pipe whose sessions would be on `workers`.
    fn public(workers: Rc<Workers>, files: Arc<Files>) -> Rc<Pipe> {
        let settings = r#"{"ports":["6000-6001"],"exclude":[],"broker":1,"address":"h","dev":true,
            "userwait":600000}"#;
        let (config, _) = Config::parse(settings.as_bytes(), Path::new("settings")).unwrap();
        let shared = Shared {
            config: RefCell::new(Rc::new(config)),
            tls: None,
            workers,
            pool: Pool::new(&[], None, files.clone()),
            refusals: Refusals::default(),
            files,
            events: Rc::default(),
            times: RefCell::default(),
            session_over: Event::new(),
        };
        let limits = AgentLimits { max_connections: 60, heartbeat_threshold: None };
        let agent = AgentPort { port: 6000, passcode: Passcode::random(), limits };
        let pipe = mapping::Pipe::Public { agent, users: 6001 };
        Pipe::new(Rc::new(shared), Mapping { id: "id".into(), pipe, options: Default::default() })
            .unwrap()
    }

    /// A version 1 tunnel of an agent that says nothing.
    fn fresh(pipe: &Pipe, listener: &TcpListener) -> Tunnel {
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let peer = socket.peer_addr().unwrap();
        let slot = Slot::take(pipe.sides[0].slots.clone(), Version::One, peer.ip());
        let (stream, file) = (Stream::plain(socket), pipe.shared.files.try_take(For::Pipe));
        Tunnel::new(stream.unwrap(), Version::One, peer, slot, file.unwrap())
    }

    /// How long this tunnel must be quiet before it is given a user.
    fn quiet(pipe: &Pipe, tunnel: &Tunnel) -> Duration {
        pipe.pairing.quiet_at(tunnel).map_or(Duration::ZERO, |at| at - tunnel.quiet_since())
    }

    #[test]
    fn an_answer_owed_by_a_tunnel_that_makes_room_may_come_on_a_fresh_one() {
        runtime::block_on(async {
            let workers = Rc::new(Workers::start(1).unwrap());
            let pipe = public(workers, Files::new(1 << 20));
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            for (owes, wary) in [(false, Duration::ZERO), (true, limits::QUIET_OWED)] {
                let mut tunnel = fresh(&pipe, &listener);
                let long_ago = Instant::now() - Duration::from_secs(9);
                tunnel.rhythm.beat(long_ago);
                tunnel.rhythm.beat(long_ago + Duration::from_secs(1));
                tunnel.slot.set_unanswered(owes);
                let waiting = pipe.pairing.tunnel(0, Box::new(tunnel));
                assert!(poll_once(wait(&pipe, 0, &waiting)).await.is_none());
                assert!(pipe.pairing.replace_overdue(0));
                assert_eq!(pipe.sides[0].slots.taken.get(), 0);
                assert_eq!(quiet(&pipe, &fresh(&pipe, &listener)), wary);
            }
        })
        .unwrap();
    }

    /// Goes on once this is so.
    async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
        let late = Instant::now() + Duration::from_secs(30);
        while !is_so() {
            runtime::look().await;
            assert!(Instant::now() < late, "not in time: {what}");
        }
    }

    /// The agent's end of a version 3 tunnel that this pipe's `tasks` serve, once it was let in.
    async fn version_three<'a>(
        pipe: &'a Pipe,
        listener: &TcpListener,
        tasks: &LocalExecutor<'a>,
    ) -> TcpStream {
        let mut agent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, peer) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let file = pipe.shared.files.try_take(For::Pipe).unwrap();
        let passcode = pipe.agent(0, |agent| agent.passcode.reveal().to_owned());
        agent.write_all(format!("IOFOG/3 {passcode}\n").as_bytes()).unwrap();
        tasks.spawn(serve(pipe, 0, socket, peer, file)).detach();
        let came = || rustix::io::ioctl_fionread(&agent).unwrap();
        wait_until("it is let in", || came() >= b"IOFOG/3 AUTHORIZED\n".len() as u64).await;
        agent.read_exact(&mut [0; b"IOFOG/3 AUTHORIZED\n".len()]).unwrap();
        agent
    }

    /// A user's end of a connection that this pipe's `tasks` serve.
    fn user<'a>(
        pipe: &'a Pipe,
        listener: &TcpListener,
        tasks: &LocalExecutor<'a>,
        arriving: &'a Cell<usize>,
    ) -> TcpStream {
        let user = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, peer) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let file = pipe.shared.files.try_take(For::Pipe).unwrap();
        let newcomer = Newcomer::User(may_connect(pipe, peer.ip()).ok().unwrap());
        let arrives = Counted::new(arriving);
        tasks.spawn(serve_user::serve(pipe, socket, peer, file, newcomer, arrives)).detach();
        user
    }

    #[test]
    fn user_whose_tunnel_broke_at_once_waits_on_and_is_given_the_next_one() {
        runtime::block_on(async {
            let workers = Rc::new(Workers::start(1).unwrap());
            let pipe = public(workers.clone(), Files::new(1 << 20));
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let arriving = Cell::new(0);
            let tasks = LocalExecutor::new();
            let story = async {
                let first = version_three(&pipe, &listener, &tasks).await;
                let second = version_three(&pipe, &listener, &tasks).await;
                let _user = user(&pipe, &listener, &tasks, &arriving);
                // The kernel knows, and this thread does not yet.
                drop((first, second));
                let is_alone = || (pipe.pairing.idle(0), pipe.pairing.waiting_users()) == (0, 1);
                wait_until("it waits on", is_alone).await;
                let _third = version_three(&pipe, &listener, &tasks).await;
                wait_until("it has a session", || pipe.record.counts().sessions == 1).await;
            };
            let work = or(workers.run_home(), runtime::run(|| tasks.tick()));
            or(story, work).await;
        })
        .unwrap();
    }

    #[test]
    fn whatever_breaks_and_whoever_leaves_each_user_waits_or_has_a_session() {
        runtime::block_on(async {
            let workers = Rc::new(Workers::start(1).unwrap());
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            for seed in 0..60 {
                let random = &mut fastrand::Rng::with_seed(seed);
                let pipe = public(workers.clone(), Files::new(1 << 20));
                let arriving = Cell::new(0);
                let tasks = LocalExecutor::new();
                let story = async {
                    let (mut agents, mut users) = (Vec::new(), Vec::new());
                    let all_are_known = || {
                        let sessions = pipe.record.counts().sessions as usize;
                        let known = pipe.handshakes.len() + pipe.pairing.waiting_users() + sessions;
                        known == pipe.per_address.count()
                    };
                    for step in 0..30 {
                        match random.u8(..8) {
                            0..=2 => agents.push(version_three(&pipe, &listener, &tasks).await),
                            3..=4 => {
                                let mut user = user(&pipe, &listener, &tasks, &arriving);
                                user.write_all(&b"x"[..random.usize(..2)]).unwrap();
                                users.push(user);
                            }
                            5 if !users.is_empty() => {
                                drop(users.swap_remove(random.usize(..users.len())));
                            }
                            _ => {
                                for _ in 0..random.usize(..3).min(agents.len()) {
                                    drop(agents.swap_remove(random.usize(..agents.len())));
                                }
                            }
                        }
                        for _ in 0..random.usize(..3) {
                            runtime::look().await;
                        }
                        if random.bool() {
                            wait_until(&format!("seed {seed}, step {step}"), all_are_known).await;
                        }
                    }
                    while pipe.pairing.waiting_users() > 0 {
                        agents.push(version_three(&pipe, &listener, &tasks).await);
                        assert!(agents.len() < 100, "seed {seed}: a user is given no tunnel");
                    }
                    wait_until(&format!("seed {seed}, at last"), all_are_known).await;
                };
                let work = or(workers.run_home(), runtime::run(|| tasks.tick()));
                or(story, work).await;
            }
        })
        .unwrap();
    }

    #[test]
    fn users_are_too_many_where_only_tunnels_wait_that_were_given_up() {
        runtime::block_on(async {
            let workers = Rc::new(Workers::start(1).unwrap());
            let pipe = public(workers.clone(), Files::new(1 << 20));
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let arriving = Cell::new(0);
            let tasks = LocalExecutor::new();
            let story = async {
                // It does not close its tunnel.
                let _agent = version_three(&pipe, &listener, &tasks).await;
                pipe.give_up();
                let _user = user(&pipe, &listener, &tasks, &arriving);
                wait_until("it waits", || pipe.pairing.waiting_users() == 1).await;
                assert_eq!((pipe.pairing.idle(0), pipe.short_of()), (1, 1));
            };
            let work = or(workers.run_home(), runtime::run(|| tasks.tick()));
            or(story, work).await;
        })
        .unwrap();
    }

    #[test]
    fn mapping_is_wary_where_a_worker_does_not_say_in_time_which_tunnels_broke() {
        runtime::block_on(async {
            let (workers, files) = (Rc::new(Workers::start(1).unwrap()), Files::new(1 << 20));
            let pipe = public(workers.clone(), files);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let is_wary = || quiet(&pipe, &fresh(&pipe, &listener)) > Duration::ZERO;
            let (goes_on, held_up) = mpsc::channel::<()>();
            workers.spawn(|_| async move { held_up.recv() }).detach();
            hear_of_ends(&pipe).await;
            assert!(!is_wary(), "there is no tunnel of which it could be said");
            pipe.sides[0].slots.in_use.set(1);
            hear_of_ends(&pipe).await;
            assert!(is_wary());
            drop(goes_on);
        })
        .unwrap();
    }
}
