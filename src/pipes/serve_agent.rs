//! One agent's connection: handshake, passcode, a place, and its waits and sessions in turn
//! (protocol page, sections 4 to 6).

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::task::Poll;
use std::time::Instant;

use smol::future::or;

use crate::limits;
use crate::mappings::mapping::Passcode;
use crate::net::stall::StallWatch;
use crate::net::stream::{Received, Stream, is_too_many, is_too_much};
use crate::net::tcp_info;
use crate::os::FileGuard;
use crate::pipes::crowd::Member;
use crate::pipes::handshake::{Peer, secure};
use crate::pipes::pairing::{Verdict, Waiting};
use crate::pipes::pipe::{Pipe, Side};
use crate::pipes::place::Place;
use crate::pipes::record::About;
use crate::pipes::session;
use crate::pipes::tunnel::{Alone, Tunnel};
use crate::report::status::reached;
use crate::report::status::refused::{self, Refusal};
use crate::runtime::{self, Deadlines, Timer, now, until};
use crate::wire::greeting::{Offer, Version};

/// Why a connection did not become a tunnel.
enum Unproven {
    /// It broke or ended.
    Gone(io::Error),
    /// Its handshake failed, which is told of.
    Unsecured,
    /// Newer connections took its place.
    Replaced,
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
        let outcome = wait(pipe, side, &waiting).await;
        let tunnel = waiting.occupant.take();
        drop(waiting);
        match (outcome, tunnel) {
            (Ok(Verdict::Paired(partner)), Some(tunnel)) => {
                next = Box::pin(session::carry(pipe, tunnel, partner)).await;
            }
            // The rest of an old answer: it is over at some time.
            (Err(Alone::OutOfStep), Some(tunnel)) if tunnel.version == Version::One => {
                next = Box::pin(session::drain_stray(pipe, tunnel)).await;
            }
            (Err(why), Some(tunnel)) => Box::pin(tunnel_ended(pipe, side, tunnel, why)).await,
            (Ok(Verdict::Replaced), _) => {
                log::info!(target: pipe.id(), "{}: the overdue tunnel of {peer} makes room for a new one", pipe.id());
            }
            // The other side's task has it.
            _ => {}
        }
    }
}

/// Lets an agent in that proves its passcode, if there is a place for it.
async fn admit(
    pipe: &Pipe,
    side: usize,
    socket: TcpStream,
    peer: SocketAddr,
    file: FileGuard,
) -> Option<Box<Tunnel>> {
    let port = pipe.agent_port(side);
    let is_secured = Cell::new(false);
    let (proven, has_spoken) = {
        let stranger = pipe.pending.join(tcp_info::round_trip(&socket));
        let proving = async {
            let secured = secure(&pipe.shared, socket, Peer::Agent, &stranger).await;
            let stream = secured.map_err(|error| {
                pipe.record.handshake_failed(side, peer, &error, stranger.has_spoken());
                Unproven::Unsecured
            })?;
            is_secured.set(true);
            prove(stream, &port.passcode, &stranger).await
        };
        let replaced = async {
            stranger.replaced().await;
            Err(Unproven::Replaced)
        };
        let proven = until(Instant::now() + limits::PASSCODE, or(proving, replaced)).await;
        (proven, stranger.has_spoken())
    };
    let (stream, version, early) = match proven {
        Some(Ok(proven)) => proven,
        Some(Err(Unproven::Wrong(stream, why))) => {
            pipe.refuse_agent(stream, why, side, peer).await;
            return None;
        }
        Some(Err(Unproven::Gone(error))) if is_too_much(&error) => {
            pipe.record.refused(&refused::TOO_MUCH, side, peer);
            return None;
        }
        Some(Err(Unproven::Gone(error))) if is_too_many(&error) => {
            pipe.record.refused(&refused::AGENTS_MEMORY, side, peer);
            return None;
        }
        Some(Err(Unproven::Gone(error))) => {
            log::debug!("{}: agent {peer} sent no passcode: {error}", pipe.id());
            return None;
        }
        Some(Err(Unproven::Unsecured)) => return None,
        Some(Err(Unproven::Replaced)) => {
            pipe.record.refused(&refused::AGENT_STALLED, side, peer);
            return None;
        }
        None if is_secured.get() => {
            pipe.record.refused(&refused::NO_PASSCODE, side, peer);
            return None;
        }
        None => {
            pipe.record.handshake_late(side, peer, has_spoken);
            return None;
        }
    };
    let placed = async { Some(place(pipe, side, version).await) };
    let gone = async {
        poll_fn(|context| stream.poll_gone(context)).await;
        None
    };
    // One that has gone meanwhile wants no place.
    let place = or(placed, gone).await?;
    let Some(place) = place else {
        pipe.refuse_agent(stream, &refused::FULL, side, peer).await;
        return None;
    };
    let mut tunnel = Box::new(Tunnel::new(stream, version, peer, place, file));
    tunnel.greet(early).is_ok().then_some(tunnel)
}

/// Reads the passcode, in however many pieces it comes, and what follows it at once.
///
/// Nothing is said about it before as many bytes have come as the passcode has: an answer after
/// a part of it would tell how much was right.
async fn prove(
    mut stream: Stream,
    passcode: &Passcode,
    stranger: &Member<'_>,
) -> Result<(Stream, Version, Vec<Box<[u8]>>), Unproven> {
    let mut offer = Offer::new(passcode.len());
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
                match offer.verdict(|offered| passcode.matches(offered)) {
                    Some(Some(version)) => {
                        stream.trust();
                        return Ok((stream, version, early));
                    }
                    None if received == Received::Ended && offer.is_empty() => {
                        return Err(Unproven::Gone(io::ErrorKind::UnexpectedEof.into()));
                    }
                    None if received != Received::Ended => stranger.goes_on(),
                    _ if offer.is_tls() => {
                        return Err(Unproven::Wrong(stream, &refused::NOT_PLAIN));
                    }
                    // What has ended short of the passcode is wrong, too.
                    _ => return Err(Unproven::Wrong(stream, &refused::WRONG_PASSCODE)),
                }
            }
        }
    }
}

/// A place for one more tunnel of `side`; at the limit that of the most overdue one, or one
/// that is given back soon.
async fn place(pipe: &Pipe, side: usize, version: Version) -> Option<Place> {
    let places = &pipe.sides[side].places;
    let allowed = usize::from(pipe.agent_port(side).limits.max_connections);
    let deadline = Instant::now() + limits::PLACE_WAIT;
    let mut waited = false;
    loop {
        let freed = places.freed.listen();
        let is_full = places.taken.get() >= allowed;
        if is_full && !std::mem::replace(&mut waited, true) {
            pipe.record.reached(reached::MAX_CONNECTIONS);
        }
        if !is_full {
            pipe.record.count(|counts| counts.tunnels_total += 1);
            pipe.record.resolved(About::Agents(side));
            return Some(Place::take(places.clone(), version));
        }
        if !pipe.pairing.replace_overdue(side) {
            // The newcomer's own machine may have rebooted, and know nothing of its old tunnels.
            while places.taken.get() >= allowed
                && Instant::now() < deadline
                && pipe.pairing.probe(side)
            {
                runtime::look().await;
            }
            let waited = until(deadline, freed).await;
            if waited.is_none() && places.taken.get() >= allowed {
                return None;
            }
        }
    }
}

/// Returns once it is known which of this mapping's tunnels, in a session or draining on a worker,
/// had broken by now. Where a worker does not say so in time, one may have.
async fn hear_of_ends(pipe: &Pipe) {
    let Side { in_use, draining, .. } = &pipe.sides[0];
    if in_use.get() + draining.get() == 0 {
        return;
    }
    if until(Instant::now() + limits::LOOK_WAIT, pipe.shared.workers.look()).await.is_none() {
        pipe.pairing.be_wary();
    }
    // Their sessions' tasks, which the workers have woken, deal with it.
    runtime::look().await;
}

/// Listens to a waiting tunnel until it has a partner, or ends without.
async fn wait(
    pipe: &Pipe,
    side: usize,
    waiting: &Waiting<'_, Box<Tunnel>, Verdict>,
) -> Result<Verdict, Alone> {
    let mut timer = Timer::new();
    let mut watch = StallWatch::default();
    poll_fn(|context| {
        if let Some(verdict) = waiting.verdict(context) {
            return Poll::Ready(Ok(verdict));
        }
        let mut deadlines = Deadlines::new(now());
        {
            let mut seat = waiting.occupant.borrow_mut();
            let Some(tunnel) = seat.as_mut() else { return Poll::Pending };
            let threshold = pipe.agent_port(side).limits.heartbeat_threshold;
            let idle =
                tunnel.poll_idle(context, pipe.is_public(), threshold, &mut watch, &mut deadlines);
            if let Poll::Ready(why) = idle {
                return Poll::Ready(Err(why));
            }
            // The mapping may become wary while a fresh one waits.
            let quiet_at = pipe.pairing.quiet_at(tunnel);
            if let Some(at) = quiet_at.or_else(|| tunnel.quiet_enough_at(deadlines.now())) {
                deadlines.look_at(at);
            }
        }
        pipe.pairing.offer(waiting);
        if let Some(verdict) = waiting.verdict(context) {
            return Poll::Ready(Ok(verdict));
        }
        timer.wake_at(context, deadlines.next());
        Poll::Pending
    })
    .await
}

/// A waiting tunnel has ended by itself.
async fn tunnel_ended(pipe: &Pipe, side: usize, tunnel: Box<Tunnel>, why: Alone) {
    let Tunnel { stream, peer, place, file, .. } = *tunnel;
    drop(place);
    match why {
        Alone::OutOfStep => {
            pipe.record.fault(
                About::Event,
                &format!("tunnel of {peer} closed: it sent bytes while no session was on"),
            );
            pipe.shared.refusals.refuse(stream, peer.ip()).await;
        }
        Alone::Absent => {
            pipe.record.tunnel_absent(side, peer);
            stream.close();
        }
        Alone::Stalled => {
            log::info!(target: pipe.id(), "{}: tunnel of {peer} closed: it acknowledges nothing", pipe.id());
        }
        Alone::Left => log::debug!("{}: tunnel of {peer} was closed by its agent", pipe.id()),
    }
    drop(file);
}
