//! One session as its mapping sees it: what it takes, the relay on a worker, and what its ending means
//! (protocol page, section 6).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use smol::Task;
use smol::channel::Sender;

use crate::limits;
use crate::net::stream::Detached;
use crate::os::FileGuard;
use crate::pipes::cut::Cut;
use crate::pipes::pairing::Partner;
use crate::pipes::per_address::OfAddress;
use crate::pipes::pipe::Pipe;
use crate::pipes::record::About;
use crate::pipes::slot::Slot;
use crate::pipes::tunnel::Tunnel;
use crate::pipes::user::User;
use crate::runtime::{Counted, Load};
use crate::session::{
    Drain, Drained, Ended, Ending, Endpoint, Outcome, Protocol, Relay, Residue, Silence, Traffic,
};
use crate::wire::greeting::Version;
use crate::wire::heartbeat::Rhythm;
use crate::wire::proxy;

/// What a session takes of its agent's side, given back at its end; and whose tunnel it is.
struct Taken<'a> {
    slot: Slot,
    in_use: Counted<'a>,
    agent: (SocketAddr, Rhythm),
}

/// Where a user comes from, and where it has come to.
type UserAddresses = (SocketAddr, SocketAddr);

/// What a session takes for its partner: a tunnel's, or a place among the users of its address.
type Far<'a> = (Option<Taken<'a>>, Option<OfAddress>);

/// A session that a worker carries: what it has taken, and its relay.
type Begun<'a> = ((Taken<'a>, Far<'a>), Task<io::Result<(Ended, Option<Draining>)>>);

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

/// What a session is made of, on its way to a worker.
struct Parts {
    endpoints: [Endpoint<Detached>; 2],
    held: [Vec<Box<[u8]>>; 2],
    silence: Silence,
    traffic: Arc<Traffic>,
}

impl Parts {
    fn join(self: Box<Self>) -> io::Result<Relay> {
        let Parts { endpoints: [near, far], held, silence, traffic } = *self;
        Ok(Relay::new([near.attach()?, far.attach()?], held, silence, traffic))
    }
}

/// Carries the session of port1's tunnel and its partner to its end. Gives the tunnel back if
/// it can carry another one, once nothing more comes of this one.
pub async fn carry(pipe: &Pipe, tunnel: Box<Tunnel>, partner: Partner) -> Option<Box<Tunnel>> {
    let peers = match &partner {
        Partner::User(user) => [tunnel.peer, user.peer],
        Partner::Tunnel(other) => [tunnel.peer, other.peer],
    };
    // Only the header for a version 2 agent tells of them.
    let user = match &partner {
        Partner::User(user) if tunnel.version == Version::Two => {
            user.stream.socket().local_addr().ok().map(|local| (user.peer, local))
        }
        _ => None,
    };
    pipe.record.count(|counts| {
        counts.sessions += 1;
        counts.sessions_total += 1;
        counts.users_served += u64::from(pipe.is_public());
    });
    pipe.record.resolved(About::Users);
    let ((near, far), relay) = begin(pipe, tunnel, partner, user);
    let began = Instant::now();
    let cut = Cut(|| {
        pipe.record.connection(format_args!(
            "session of {} and {} was cut after {:.1} s: {}",
            peers[0],
            peers[1],
            began.elapsed().as_secs_f32(),
            pipe.why_cut().why
        ));
    });
    let (ended, draining) = relay.await.ok().unzip();
    cut.disarm();
    let Taken { slot, in_use, agent } = near;
    // Before the agent can have redialled: the worker reports the end first, then closes.
    drop((far, in_use));
    let kept = match draining.flatten() {
        Some(draining) => Some((draining, Counted::new(&pipe.sides[0].draining), slot)),
        None => {
            drop(slot);
            None
        }
    };
    pipe.record.count(|counts| counts.sessions -= 1);
    session_ended(pipe, ended, peers);
    pipe.pairing.pair();
    let (draining, counted, slot) = kept?;
    let tunnel = drained(pipe, draining, slot, agent).await;
    drop(counted);
    tunnel
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
        log::info!(
            target: &pipe.name(),
            "{}: tunnel of {peer}: {} bytes for a user that had left were discarded in {:.1} s",
            pipe.name(),
            drained.bytes,
            drained.lasted.as_secs_f32()
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

/// Gives a worker the relay of a session; what is given back at its end stays here.
fn begin(
    pipe: &Pipe,
    tunnel: Box<Tunnel>,
    partner: Partner,
    user: Option<UserAddresses>,
) -> Begun<'_> {
    let (near, near_held, taken, near_file) = agent_endpoint(pipe, 0, tunnel, user);
    let (far, far_held, far_taken, far_file) = match partner {
        Partner::Tunnel(other) => {
            let (endpoint, held, taken, file) = agent_endpoint(pipe, 1, other, None);
            (endpoint, held, (Some(taken), None), file)
        }
        Partner::User(user) => {
            let User { mut stream, file, of_address, .. } = *user;
            stream.trust();
            let endpoint =
                Endpoint { stream: stream.detach(), protocol: Protocol::Raw, talk: None };
            (endpoint, Vec::new(), (None, Some(of_address)), file)
        }
    };
    let alive = pipe.relays.0.borrow().clone();
    let closings = pipe.closings.clone();
    // Boxed, so that the session's memory is the relay's and not that of its making, too.
    let parts = Box::new(Parts {
        endpoints: [near, far],
        held: [near_held, far_held],
        silence: Silence { after_end: pipe.settings().fin_wait, ever: pipe.mapping().options.idle },
        traffic: pipe.traffic.clone(),
    });
    let relay = pipe.shared.workers.spawn(|load| async move {
        let mut relay = parts.join()?;
        let ended = (&mut relay).await;
        if !relay.keeps_tunnel() {
            drop(alive);
            load.go_on(|load| async move {
                closings.bound(relay.close()).await;
                drop((near_file, far_file, load));
            });
            return Ok((ended, None));
        }
        let draining = relay.keep_tunnel().map(|(drain, user)| {
            load.another().go_on(|load| async move {
                closings.bound(user.close()).await;
                drop((far_file, load));
            });
            Draining::go_on(drain, near_file, alive, load)
        });
        Ok((ended, draining))
    });
    ((taken, far_taken), relay)
}

/// Takes a tunnel apart into what a worker needs, what it held, and what is given back at
/// the session's end. A version 2 agent is told of the pairing.
fn agent_endpoint(
    pipe: &Pipe,
    side: usize,
    mut tunnel: Box<Tunnel>,
    user: Option<UserAddresses>,
) -> (Endpoint<Detached>, Vec<Box<[u8]>>, Taken<'_>, FileGuard) {
    let held = tunnel.take_held();
    tunnel.end_probe();
    let protocol = match tunnel.version {
        Version::One => Protocol::Version1 { threshold: pipe.limits(side).heartbeat_threshold },
        Version::Two | Version::Three => {
            // An agent that is gone by now shows that to the relay.
            let _ = tunnel.stream.queue(&proxy::header(user));
            Protocol::Version2
        }
    };
    let Tunnel { stream, peer, rhythm, slot, file, .. } = *tunnel;
    let in_use = Counted::new(&pipe.sides[side].in_use);
    let taken = Taken { slot, in_use, agent: (peer, rhythm) };
    (Endpoint { stream: stream.detach(), protocol, talk: None }, held, taken, file)
}

fn session_ended(pipe: &Pipe, ended: Option<Ended>, [agent, partner]: [SocketAddr; 2]) {
    let Some(ended) = ended else {
        return pipe.record.fault(
            About::Event,
            "a session could not begin: the kernel cannot watch more sockets",
        );
    };
    pipe.pairing.lost(ended.missing);
    match ended.ending {
        Ending::Absent(_) => pipe.record.count(|counts| counts.tunnels_absent += 1),
        Ending::Failed(leg)
        | Ending::Wrong(leg)
        | Ending::Unanswered(leg)
        | Ending::NoAnswer(leg)
        | Ending::Stalled(leg) => {
            let who = if leg == 0 { agent } else { partner };
            pipe.record
                .fault(About::Event, &format!("a session with {who} failed: {}", ended.ending));
        }
        _ => {}
    }
    pipe.record.connection(format_args!(
        "session of {agent} and {partner} ended after {:.1} s, {} bytes from port1, {} from port2: {}",
        ended.lasted.as_secs_f32(),
        ended.bytes[0],
        ended.bytes[1],
        ended.ending
    ));
}
