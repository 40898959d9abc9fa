//! One session as its mapping sees it: what it takes, its relay, here or on a worker, and what its ending means
//! (protocol page, section 6).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::Task;
use smol::channel::Sender;
use smol::future::poll_once;

use crate::limits;
use crate::net::stream::Detached;
use crate::os::FileGuard;
use crate::pipes::closings::Closings;
use crate::pipes::cut::Cut;
use crate::pipes::pairing::Partner;
use crate::pipes::pipe::Pipe;
use crate::pipes::record::About;
use crate::pipes::serve_user;
use crate::pipes::settling::{Back, Settled, Settling, Unsettled};
use crate::pipes::slot::Slot;
use crate::pipes::tunnel::Tunnel;
use crate::pipes::user::{Away, User};
use crate::runtime::{Counted, Load, now};
use crate::session;
use crate::session::{
    Drain, Drained, Ended, Ending, Endpoint, Missing, Moving, Outcome, Parting, Protocol, Relay,
    Residue, Silence,
};
use crate::text::event::Event as Happening;
use crate::text::line::escaped;
use crate::wire::greeting::Version;
use crate::wire::heartbeat::Rhythm;
use crate::wire::proxy;

/// What a session takes of an agent's side, given back at its end; and whose tunnel it is.
struct Taken {
    slot: Slot,
    agent: (SocketAddr, Rhythm),
    /// When the session was to begin there, and how long its agent might take to say that it has seen that.
    opened_at: Instant,
    seen_wait: Duration,
}

/// Where a user comes from, and where it has come to.
type UserAddresses = (SocketAddr, SocketAddr);

/// What a session takes of port1's partner.
enum Far {
    /// A place among the users of its address.
    User(Away),
    /// A tunnel's, and how its own task gets it back, of version 3.
    Tunnel(Taken, Option<Sender<Settling>>),
}

/// A session that has begun: what it has taken, and its relay.
type Begun = ((Taken, Far), Task<io::Result<Carried>>);

/// What has become of a session on one thread.
enum Carried {
    Over(Ended, Left),
    /// It is no short one, so that a worker is to go on with it.
    Long(Box<Work>),
}

/// A session on its way to the task that carries it.
struct Work {
    relay: Moving,
    files: [FileGuard; 2],
    /// Says, while it is held, that the mapping's relays are not over.
    alive: Option<Sender<()>>,
    closings: Arc<Closings>,
    /// Whether it has a tunnel of version 3.
    is_framed: bool,
}

/// What a session leaves on its worker.
enum Left {
    /// Nothing that can be used again.
    Nothing,
    /// A version 1 tunnel.
    Draining(Draining),
    /// Tunnels of version 3 that can go on, by their legs; or a user whose tunnel was dead.
    Parted([Option<Back>; 2], Option<Box<(Detached, FileGuard)>>),
}

/// What the task of port1's tunnel goes on with after a session.
enum Next<'a> {
    Nothing,
    /// Its tunnel, of version 1, counted as one that drains.
    Draining(Draining, Counted<'a>, Taken),
    /// Its tunnel, of version 3.
    Settling(Settling),
    /// The user, since the tunnel was dead.
    User(Box<User>),
}

/// A tunnel that a worker reads, discarding what comes.
struct Draining {
    is_owed: bool,
    task: Task<(Drained, Option<(Detached, FileGuard)>)>,
}

impl Draining {
    /// Goes on with `drain` on the worker that has begun it. `alive` is held meanwhile.
    fn go_on(drain: Drain, file: FileGuard, alive: Option<Sender<()>>, load: Load) -> Self {
        let is_owed = drain.is_owed();
        let task = load.spawn(|load| async move {
            let mut drain = drain;
            let drained = (&mut drain).await;
            let stream = drain.into_stream();
            let rest = if drained.outcome.is_usable() {
                Some((stream.detach(), file))
            } else {
                stream.close();
                None
            };
            drop((alive, load));
            (drained, rest)
        });
        Draining { is_owed, task }
    }
}

/// Carries the session of port1's tunnel and its partner to its end. Gives the tunnel back if
/// it can carry another one, once nothing more comes of this one.
pub async fn carry(pipe: &Pipe, tunnel: Box<Tunnel>, partner: Partner) -> Option<Box<Tunnel>> {
    let peers = match &partner {
        Partner::User(user) => [tunnel.peer, user.peer],
        Partner::Tunnel(other, _) => [tunnel.peer, other.peer],
    };
    // Only the header for an agent of version 2 or 3 tells of them.
    let user = match &partner {
        Partner::User(user) if tunnel.version != Version::One => {
            user.stream.socket().local_addr().ok().map(|local| (user.peer, local))
        }
        _ => None,
    };
    let waited_since = match &partner {
        Partner::User(user) => Some(user.since),
        Partner::Tunnel(..) => None,
    };
    pipe.record.session_begins(waited_since);
    pipe.record.resolved(About::Users);
    let counted =
        (tunnel.version == Version::Three).then(|| pipe.pairing.session(tunnel.peer.ip()));
    let ((mut near, far), mut relay) = begin(pipe, tunnel, partner, user);
    let began = Instant::now();
    let cut = Cut(|| {
        pipe.record.session_lasted(began.elapsed());
        pipe.record.connection(
            Happening::SessionEnded,
            1,
            peers[1],
            format_args!(
                "session of {} and {} was cut after {:.1} s: {}",
                peers[0],
                peers[1],
                began.elapsed().as_secs_f64(),
                pipe.why_cut().why
            ),
        );
    });
    let (ended, left) = loop {
        match relay.await {
            Ok(Carried::Over(ended, left)) => break (Some(ended), Some(left)),
            Ok(Carried::Long(work)) => {
                relay = pipe.shared.workers.spawn(|load| carry_on(work, load))
            }
            Err(_) => break (None, None),
        }
    };
    cut.disarm();
    let silent = ended.as_ref().and_then(|ended| silent_at(ended, &near, &far));
    if let Some((address, opened_at)) = silent {
        pipe.pairing.found_dead(address, opened_at);
    }
    // Before an agent can have redialled: the worker reports the end first, then closes.
    let next = match left {
        Some(Left::Draining(draining)) => {
            near.slot.set_in_use(false);
            drop(far);
            Next::Draining(draining, Counted::new(&pipe.sides[0].draining), near)
        }
        Some(Left::Parted(tunnels, user)) => parted(tunnels, user, near, far),
        Some(Left::Nothing) | None => {
            drop((near, far));
            Next::Nothing
        }
    };
    pipe.record.count(|counts| counts.sessions -= 1);
    pipe.shared.session_over.notify(usize::MAX);
    session_ended(pipe, ended, peers);
    // It comes before those that have waited for less long.
    if let Next::User(user) = next {
        pipe.record.session_was_none();
        drop(counted);
        serve_user::serve_again(pipe, user, silent.is_some()).await;
        return None;
    }
    pipe.record.session_lasted(began.elapsed());
    pipe.pairing.pair();
    match next {
        Next::Settling(settling) => settling.settled(0, &pipe.record, &pipe.shared.workers).await,
        Next::Draining(draining, _counted, Taken { slot, agent, .. }) => {
            let tunnel = drained(pipe, draining, slot, agent).await?;
            if !tunnel.slot.is_outdated() {
                return Some(tunnel);
            }
            // It was let in by an earlier passcode, and has served the next one.
            if tunnel.slot.is_unanswered() {
                pipe.pairing.lost(Missing::Answer);
            }
            tunnel.stream.close();
            None
        }
        Next::Nothing | Next::User(_) => None,
    }
}

/// Has a worker discard what comes on a waiting version 1 tunnel, since bytes have come that no
/// user waits for. Gives the tunnel back once nothing more comes.
pub async fn drain_stray(pipe: &Pipe, mut tunnel: Box<Tunnel>) -> Option<Box<Tunnel>> {
    let late = (!tunnel.is_fresh()).then(|| tunnel.rhythm.last_heard() - tunnel.quiet_since());
    match late {
        // It was known that it would come.
        Some(_) if tunnel.slot.is_unanswered() => {}
        Some(late) => pipe.pairing.learn(late),
        None => pipe.pairing.found(),
    }
    if pipe.record.may_tell_residue() {
        pipe.record.fault(
            About::Event,
            Some(tunnel.peer),
            &format!(
                "tunnel of {} sends the rest of an answer whose user is gone: the rest is \
                 discarded, then the tunnel is used again",
                tunnel.peer
            ),
        );
    }
    let held = tunnel.take_held();
    let Tunnel { stream, peer, rhythm, slot, file, .. } = *tunnel;
    let threshold = pipe.limits(0).heartbeat_threshold;
    let residue = Residue::stray(stream.round_trip(), late, rhythm.last_heard());
    let stream = stream.detach();
    let alive = pipe.relays.0.borrow().clone();
    let begun = pipe.shared.workers.spawn(|load| async move {
        let stream = stream.attach()?;
        let mut drain = Drain::new(stream, threshold, residue, rhythm.last_heard());
        held.iter().try_for_each(|unit| drain.take_over(unit))?;
        io::Result::Ok(Draining::go_on(drain, file, alive, load))
    });
    let _counted = Counted::new(&pipe.sides[0].draining);
    let draining = begun.await.ok()?;
    drained(pipe, draining, slot, (peer, rhythm)).await
}

/// Waits until a draining tunnel has nothing more to discard; gives it back if it can be used
/// again.
async fn drained(
    pipe: &Pipe,
    draining: Draining,
    mut slot: Slot,
    agent: (SocketAddr, Rhythm),
) -> Option<Box<Tunnel>> {
    slot.set_unanswered(draining.is_owed);
    let (drained, rest) = draining.task.await;
    slot.set_unanswered(drained.outcome == Outcome::Unanswered);
    let (peer, _) = agent;
    if drained.bytes > 0 && drained.lasted >= limits::QUIET_LATE && pipe.record.may_tell_residue() {
        pipe.record.tunnel(
            0,
            peer,
            format_args!(
                "tunnel of {peer}: {} bytes for a user that had left were discarded in {:.1} s",
                drained.bytes,
                drained.lasted.as_secs_f64()
            ),
        );
    }
    match drained.outcome {
        Outcome::Clean | Outcome::Unanswered => {
            let (stream, file) = rest?;
            let stream = stream.attach().ok()?;
            Some(Box::new(Tunnel::again(stream, agent, slot, file, &drained)))
        }
        Outcome::Left | Outcome::Absent | Outcome::Stalled => {
            pipe.pairing.lost(drained.missing);
            if drained.outcome == Outcome::Absent {
                pipe.record.tunnel_absent(0, peer);
            }
            drop(slot);
            log::debug!("{}: tunnel of {peer} is gone: {:?}", pipe.name(), drained.outcome);
            None
        }
    }
}

/// Begins the relay of a session; what is given back at its end stays here.
fn begin(pipe: &Pipe, tunnel: Box<Tunnel>, partner: Partner, user: Option<UserAddresses>) -> Begun {
    let (near, near_held, taken, near_file) = agent_endpoint(pipe, 0, tunnel, user);
    let (far, far_held, far_taken, far_file) = match partner {
        Partner::Tunnel(other, back) => {
            let (endpoint, held, taken, file) = agent_endpoint(pipe, 1, other, None);
            (endpoint, held, Far::Tunnel(taken, back), file)
        }
        Partner::User(user) => {
            let (mut stream, file, away) = user.part();
            stream.trust();
            let endpoint = Endpoint { stream, protocol: Protocol::Raw, talk: None };
            (endpoint, Vec::new(), Far::User(away), file)
        }
    };
    let is_framed = near.talk.is_some() || far.talk.is_some();
    let silence =
        Silence { after_end: pipe.settings().fin_wait, ever: pipe.mapping().options.idle };
    let held = [near_held, far_held];
    let relay = Relay::new([near, far], held, silence, pipe.traffic.clone());
    let relay = relay.asking(pipe.wanted.want.clone());
    let workers = &pipe.shared.workers;
    let place = match is_framed {
        true => workers.place_here(limits::SHORT_SESSIONS),
        // What is left of its answer may be much, and is read where its relay was.
        false => workers.place(),
    };
    // Boxed, so that the session's memory is the relay's and not that of its way, too.
    let work = Box::new(Work {
        relay: if place.is_home() { relay.stay() } else { relay.leave() },
        files: [near_file, far_file],
        alive: pipe.relays.0.borrow().clone(),
        closings: pipe.closings.clone(),
        is_framed,
    });
    ((taken, far_taken), place.spawn(|load| carry_on(work, load)))
}

/// Carries a session to its end, or until it is too long for the thread that it has begun on.
async fn carry_on(work: Box<Work>, load: Load) -> io::Result<Carried> {
    let Work { relay, files, alive, closings, is_framed } = *work;
    let mut relay = relay.enter()?;
    let ended = match load.is_home() {
        false => (&mut relay).await,
        true => match relay.briefly().await {
            Some(ended) => ended,
            None => {
                let relay = relay.leave();
                let work = Work { relay, files, alive, closings, is_framed };
                return Ok(Carried::Long(Box::new(work)));
            }
        },
    };
    if is_framed {
        // In a box: a session that goes on has memory for its relay alone.
        let parted = Box::pin(part(relay, files, alive, closings, load));
        return Ok(Carried::Over(ended, parted.await));
    }
    let [near_file, far_file] = files;
    if !relay.keeps_tunnel() {
        drop(alive);
        load.go_on(|load| async move {
            closings.bound(pin!(relay.close())).await;
            drop((near_file, far_file, load));
        });
        return Ok(Carried::Over(ended, Left::Nothing));
    }
    let draining = relay.keep_tunnel().map(|(drain, user)| {
        load.another().go_on(|load| async move {
            closings.bound(pin!(user.close())).await;
            drop((far_file, load));
        });
        Draining::go_on(drain, near_file, alive, load)
    });
    Ok(Carried::Over(ended, draining.map_or(Left::Nothing, Left::Draining)))
}

/// Goes on with what is left of a session with a version 3 tunnel, on the thread that has carried it. `alive` is held
/// as long as a tunnel may be given back.
async fn part(
    relay: Relay,
    files: [FileGuard; 2],
    alive: Option<Sender<()>>,
    closings: Arc<Closings>,
    load: Load,
) -> Left {
    let Parting { tunnels: [near, far], user, closing } = relay.part();
    let [mut near_file, mut far_file] = files.map(Some);
    let user = user.and_then(|user| Some(Box::new((user.give_back(&load), far_file.take()?))));
    let tunnels = [
        settle(near, &mut near_file, &alive, &load).await,
        settle(far, &mut far_file, &alive, &load).await,
    ];
    load.go_on(|load| async move {
        closings.bound(pin!(closing.close())).await;
        drop((near_file, far_file, load));
    });
    Left::Parted(tunnels, user)
}

/// Settles a version 3 tunnel; most have settled already.
async fn settle(
    settling: Option<session::Settling>,
    file: &mut Option<FileGuard>,
    alive: &Option<Sender<()>>,
    load: &Load,
) -> Option<Back> {
    let mut settling = settling?;
    let file = file.take()?;
    Some(match poll_once(&mut settling).await {
        Some(kept) => Back::Now(kept.map(|kept| Box::new(Settled::new(kept, file, load)))),
        None => {
            let unsettled = Unsettled { settling, file, alive: alive.clone() };
            Back::Later(load.another().spawn(|load| unsettled.settled(load)))
        }
    })
}

/// Takes a tunnel apart into what a worker needs, what it held, and what is given back at
/// the session's end. An agent of version 2 or 3 is told of the pairing.
fn agent_endpoint(
    pipe: &Pipe,
    side: usize,
    mut tunnel: Box<Tunnel>,
    user: Option<UserAddresses>,
) -> (Endpoint, Vec<Box<[u8]>>, Taken, FileGuard) {
    let held = tunnel.take_held();
    tunnel.end_probe();
    let (threshold, now) = (pipe.limits(side).heartbeat_threshold, now());
    let is_doubtful = pipe.pairing.is_doubtful(&tunnel);
    let seen_wait = if is_doubtful { limits::SEEN_SOON } else { limits::SEEN_WAIT };
    let protocol = match tunnel.version {
        Version::One => Protocol::Version1 { threshold },
        Version::Two => {
            // An agent that is gone by now shows that to the relay.
            let _ = tunnel.stream.queue(&proxy::header(user));
            Protocol::Version2
        }
        Version::Three => {
            // What is wanted is told to those that live.
            let users = if is_doubtful { 0 } else { pipe.wanted.take() };
            tunnel.open(users, &proxy::header(user));
            let at_once = !is_doubtful && now < tunnel.rhythm.last_heard() + limits::HEARD_LATELY;
            Protocol::Framed { threshold, beat: None, at_once, seen_wait }
        }
    };
    let Tunnel { stream, talk, peer, rhythm, mut slot, file, .. } = *tunnel;
    slot.set_in_use(true);
    let taken = Taken { slot, agent: (peer, rhythm), opened_at: now, seen_wait };
    (Endpoint { stream, protocol, talk }, held, taken, file)
}

/// The address of a session's tunnel that has not answered in time, and when the session was to begin there. One that
/// broke says nothing of the others: if they broke, too, that is noticed.
fn silent_at(ended: &Ended, near: &Taken, far: &Far) -> Option<(IpAddr, Instant)> {
    let taken = match (ended.ending, far) {
        (Ending::Dead(0), _) => near,
        (Ending::Dead(_), Far::Tunnel(taken, _)) => taken,
        _ => return None,
    };
    (ended.lasted >= taken.seen_wait).then_some((taken.agent.0.ip(), taken.opened_at))
}

/// Who goes on after a session with a version 3 tunnel: port1's tunnel, or the user if that was dead. Port2's
/// tunnel goes on in its own task; what is not used again is given back.
fn parted<'a>(
    [near_back, far_back]: [Option<Back>; 2],
    user: Option<Box<(Detached, FileGuard)>>,
    near: Taken,
    far: Far,
) -> Next<'a> {
    let settling = |back: Option<_>, Taken { slot, agent, .. }: Taken| {
        back.map(|back| Settling { back, slot, agent })
    };
    let opened_at = near.opened_at;
    let near = settling(near_back, near).map_or(Next::Nothing, Next::Settling);
    match far {
        Far::User(away) => {
            let user = user.map(|user| *user);
            let user = user.and_then(|(stream, file)| Some((stream.attach().ok()?, file)));
            let back = |(stream, file)| Box::new(away.back(stream, file, opened_at));
            user.map_or(near, |user| Next::User(back(user)))
        }
        Far::Tunnel(taken, back) => {
            if let Some((settling, back)) = settling(far_back, taken).zip(back) {
                // Its task waits for it.
                let _ = back.try_send(settling);
            }
            near
        }
    }
}

fn session_ended(pipe: &Pipe, ended: Option<Ended>, [agent, partner]: [SocketAddr; 2]) {
    let Some(ended) = ended else {
        return pipe.record.fault(
            About::Event,
            None,
            "a session could not begin: the kernel cannot watch more sockets",
        );
    };
    pipe.pairing.lost(ended.missing);
    let who = |leg| if leg == 0 { agent } else { partner };
    // What a version 3 peer has said of it.
    let reason = match escaped(&ended.reason) {
        reason if reason.is_empty() => reason,
        reason => format!(" ({reason})"),
    };
    match ended.ending {
        Ending::Absent(_) => pipe.record.count(|counts| counts.tunnels_absent += 1),
        Ending::Dead(leg) => pipe.record.fault(
            About::Agents(leg),
            Some(who(leg)),
            &format!(
                "tunnel of {} closed: its agent did not answer when a session was to begin; see that its machine \
                 is up and reaches this one",
                who(leg)
            ),
        ),
        Ending::Failed(leg)
        | Ending::Wrong(leg)
        | Ending::Unanswered(leg)
        | Ending::NoAnswer(leg)
        | Ending::Garbled(leg)
        | Ending::Stalled(leg) => {
            let (who, ending) = (who(leg), &ended.ending);
            let what = format!("a session with {who} failed: {ending}{reason}");
            pipe.record.fault(About::Event, Some(who), &what);
        }
        _ => {}
    }
    pipe.record.connection(Happening::SessionEnded, 1, partner, format_args!(
        "session of {agent} and {partner} ended after {:.1} s, {} bytes from port1, {} from port2: {}{reason}",
        ended.lasted.as_secs_f64(),
        ended.bytes[0],
        ended.bytes[1],
        ended.ending
    ));
}
