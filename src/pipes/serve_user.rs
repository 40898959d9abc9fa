//! One user's connection to a public pipe's port2, until a tunnel has it (protocol page, section 6).

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use event_listener::EventListener;
use smol::future::or;

use crate::config::Network;
use crate::limits;
use crate::net::stream::Stream;
use crate::net::tcp_info;
use crate::os::FileGuard;
use crate::pipes::crowd::Member;
use crate::pipes::cut::Cut;
use crate::pipes::handshake::{Peer, secure};
use crate::pipes::pairing::{UserEnd, Waiting};
use crate::pipes::per_address::OfAddress;
use crate::pipes::pipe::Pipe;
use crate::pipes::proxied::{self, Missing};
use crate::pipes::user::{Heard, User};
use crate::report::status::reached::USERS_WAITING;
use crate::report::status::refused::{self, Refusal};
use crate::runtime::{Counted, Timer, look, now, until};
use crate::text::event::Event as Happening;

/// Who has connected to port2.
pub enum Newcomer {
    /// A user, which counts as one of its address.
    User(OfAddress),
    /// One of the mapping's `proxyfrom`: whose connection it is, its PROXY header says.
    Proxy,
}

/// Serves one user, from accepted socket until a tunnel has it or it is closed.
///
/// The stages before the wait are boxed: a waiting user, of which there are many, has memory for its
/// wait alone.
pub async fn serve(
    pipe: &Pipe,
    socket: TcpStream,
    peer: SocketAddr,
    file: FileGuard,
    newcomer: Newcomer,
    arrives: Counted<'_>,
) {
    let user_wait = pipe.settings().user_wait;
    let (round_trip, silence) = tcp_info::round_trip_and_silence(&socket);
    // It has waited for a tunnel from when it came, which may be a while before it was accepted.
    let user_wait = user_wait.saturating_sub(silence);
    let (socket, peer, of_address, member) = match newcomer {
        Newcomer::User(of) => (socket, peer, of, pipe.handshakes.join(Some(peer.ip()), round_trip)),
        Newcomer::Proxy => match Box::pin(behind_proxy(pipe, socket, peer, round_trip)).await {
            Some(user) => user,
            None => return,
        },
    };
    // It counts as one of those that shake hands.
    drop(arrives);
    let stream = Box::pin(shake_hands(pipe, socket, peer, &member)).await;
    let Some(stream) = stream else { return };
    // The mapping may have been changed during the handshake.
    if !is_allowed(pipe, peer.ip()) {
        pipe.record.refused(&refused::ELSEWHERE, 1, peer);
        return stream.close();
    }
    let since = Instant::now();
    let deadline = since + user_wait;
    let (has_spoken, has_ended, fault) = (false, false, None);
    let user = User {
        stream,
        peer,
        has_spoken,
        has_ended,
        fault,
        file,
        of_address,
        since,
        deadline,
        asked: None,
        was_asked: false,
        tried_since: None,
        place: 0,
    };
    let user = Box::new(user);
    let cut = Cut(|| pipe.record.refused(pipe.why_cut(), 1, peer));
    let waiting = match Box::pin(find_seat(pipe, user, &member, deadline)).await {
        Ok(waiting) => waiting,
        Err((user, end)) => {
            cut.disarm();
            report(pipe, peer, end, Some(&user));
            return user.turn_away();
        }
    };
    let has_spoken = waiting.occupant.borrow().as_ref().is_none_or(|user| user.has_spoken);
    if has_spoken || pipe.serves_silent() {
        // A user that nobody can serve yet does not show that newcomers get through.
        member.got_through();
    }
    drop(member);
    pipe.pairing.pair();
    Box::pin(ask_for(pipe, &waiting)).await;
    let end = wait(pipe, &waiting, deadline).await;
    cut.disarm();
    leave(pipe, waiting, peer, end);
}

/// Gives a user whose tunnel was dead another one, in the place that it had. If none is there it waits, as others do;
/// but where its tunnel was `silent`, or those that are idle may be as dead, only for one that is in use.
pub async fn serve_again(pipe: &Pipe, user: Box<User>, silent: bool) {
    let (peer, deadline) = (user.peer, user.deadline);
    let cut = Cut(|| pipe.record.refused(pipe.why_cut(), 1, peer));
    let waiting = pipe.pairing.user_again(user);
    pipe.pairing.pair();
    let nobody = async {
        ask_for(pipe, &waiting).await;
        let is_served = waiting.occupant.borrow().is_none();
        if is_served || pipe.may_serve_later() || !(silent || pipe.pairing.is_in_doubt()) {
            std::future::pending::<()>().await;
        }
        UserEnd::Abandoned
    };
    let end = or(wait(pipe, &waiting, deadline), nobody).await;
    cut.disarm();
    leave(pipe, waiting, peer, end);
}

/// Returns once the tasks of tunnels of which something has come have looked at that: before, they are given to nobody.
async fn heard() {
    look().await;
    look().await;
}

/// Asks version 3 agents once for a tunnel for a user that has begun to wait, where none is idle for it; and gives it
/// one meanwhile that may be dead.
async fn ask_for(pipe: &Pipe, waiting: &Waiting<'_, Box<User>, UserEnd>) {
    let slots = &pipe.sides[0].slots;
    if slots.again.get() == 0 {
        return;
    }
    if pipe.pairing.idle(0) > 0 {
        heard().await;
    }
    let mut seat = waiting.occupant.borrow_mut();
    let Some(user) = seat.as_mut() else { return };
    if pipe.pairing.serves(user.has_spoken) {
        return;
    }
    if !user.was_asked && !pipe.pairing.is_closed() {
        user.asked = pipe.wanted.ask(slots.taken.get(), pipe.limits(0).max_connections.into());
        user.was_asked = user.asked.is_some();
    }
    let may_try = user.may_try(now());
    drop(seat);
    if may_try {
        pipe.pairing.pair_in_doubt(waiting);
    }
}

/// A user's wait has ended.
fn leave(pipe: &Pipe, waiting: Waiting<'_, Box<User>, UserEnd>, peer: SocketAddr, end: UserEnd) {
    let user = waiting.occupant.take();
    report(pipe, peer, end, user.as_deref());
    if let (UserEnd::TimedOut | UserEnd::Abandoned | UserEnd::Left, Some(user)) = (end, user) {
        user.turn_away();
    }
    drop(waiting);
    pipe.pairing.pair();
}

/// The user for whom this proxy has connected: its PROXY header says where it is, and from then on it is treated as
/// one from there. The proxy's own address, which all its users have, is no stranger's. `None`, and it is counted and
/// reported, where there is no header or the user may not connect.
async fn behind_proxy(
    pipe: &Pipe,
    socket: TcpStream,
    proxy: SocketAddr,
    round_trip: Duration,
) -> Option<(TcpStream, SocketAddr, OfAddress, Member<'_>)> {
    let far = round_trip + limits::BEHIND_PROXY;
    let mut member = pipe.handshakes.join(None, far);
    let source = async { Some(proxied::source(socket).await) };
    let replaced = async {
        member.replaced().await;
        None
    };
    let (why, peer) =
        match until(Instant::now() + limits::TLS_HANDSHAKE, or(source, replaced)).await {
            Some(Some(Ok((socket, source)))) => {
                let peer = source.unwrap_or(proxy);
                match may_connect(pipe, peer.ip()) {
                    Ok(of_address) => {
                        member.comes_from(peer.ip(), far);
                        return Some((socket, peer, of_address, member));
                    }
                    Err(why) => (why, peer),
                }
            }
            // Somebody only checked whether the port is open, as health checks do.
            Some(Some(Err(Missing::Left))) => {
                pipe.record.connection(
                    Happening::ConnectionClosed,
                    1,
                    proxy,
                    format_args!("{proxy} connected and said nothing"),
                );
                return None;
            }
            Some(None) => (&refused::USER_STALLED, proxy),
            Some(Some(Err(Missing::Wrong))) | None => (&refused::NO_HEADER, proxy),
        };
    pipe.record.refused(why, 1, peer);
    None
}

/// Whether a user from `address` may connect: before a byte of it is read, or a handshake paid for.
pub fn may_connect(pipe: &Pipe, address: IpAddr) -> Result<OfAddress, &'static Refusal> {
    if !is_allowed(pipe, address) {
        return Err(&refused::ELSEWHERE);
    }
    let most = pipe.mapping().options.users_per_address;
    pipe.per_address.take(address, most).ok_or(&refused::TOO_MANY)
}

fn is_allowed(pipe: &Pipe, address: IpAddr) -> bool {
    let allow = &pipe.mapping().options.allow;
    allow.is_empty() || Network::any_contains(allow, address)
}

/// Its handshake, in which a newcomer may take its place in the crowd; `None`, and it is counted and
/// reported, if there is no stream in the end.
async fn shake_hands(
    pipe: &Pipe,
    socket: TcpStream,
    peer: SocketAddr,
    member: &Member<'_>,
) -> Option<Stream> {
    let mapping = pipe.mapping();
    let who = Peer::User(&mapping.options);
    let secured = async { Some(secure(&pipe.shared, socket, who, peer.ip(), member).await) };
    let replaced = async {
        member.replaced().await;
        None
    };
    match until(Instant::now() + limits::TLS_HANDSHAKE, or(secured, replaced)).await {
        Some(Some(Ok(stream))) => return Some(stream),
        Some(Some(Err(error))) => {
            pipe.record.handshake_failed(1, peer, &error, member.has_spoken());
        }
        Some(None) => pipe.record.refused(&refused::USER_STALLED, 1, peer),
        None => pipe.record.handshake_late(1, peer, member.has_spoken()),
    }
    None
}

/// A seat for `user`. While as many wait as may, it is in line for one, and keeps its place in the
/// crowd: those that come behind it wait in the kernel's backlog.
///
/// # Errors
/// The user, and how its wait ended.
async fn find_seat<'a>(
    pipe: &'a Pipe,
    mut user: Box<User>,
    member: &Member<'_>,
    deadline: Instant,
) -> Result<Waiting<'a, Box<User>, UserEnd>, (Box<User>, UserEnd)> {
    let limit = pipe.most_pending();
    // Only an agent of version 2 or 3 could serve a user that never says anything.
    let silent_in_vain = || !pipe.serves_silent();
    if silent_in_vain() || pipe.pairing.is_full(limit) {
        // A silent user makes room for one that speaks.
        if let Err(end) = hear_first(pipe, &mut user, member, deadline).await {
            return Err((user, end));
        }
    }
    let (mut in_line, mut place) = (None, None);
    loop {
        // Its place in line, which it keeps until it is told to move on.
        let moved_on = place.get_or_insert_with(|| pipe.pairing.move_on());
        user = match pipe.pairing.user(user, limit, silent_in_vain(), in_line.is_some()) {
            Ok(waiting) => return Ok(waiting),
            Err(user) => user,
        };
        if pipe.pairing.is_closed() {
            return Err((user, UserEnd::Stopping));
        }
        // A silent user would keep out users that could be served.
        if !user.has_spoken && (silent_in_vain() || pipe.pairing.serves(true)) {
            return Err((user, UserEnd::Replaced));
        }
        if in_line.is_none() {
            in_line = Some(pipe.pairing.line_up());
            member.got_through();
            pipe.record.reached(USERS_WAITING);
        }
        match stand_in_line(&mut user, moved_on, deadline).await {
            Ok(true) => place = None,
            Ok(false) => {}
            Err(end) => return Err((user, end)),
        }
    }
}

/// Waits for a user's first bytes, which come soon after its connection, before it is judged by
/// whether it has sent any.
async fn hear_first(
    pipe: &Pipe,
    user: &mut User,
    member: &Member<'_>,
    deadline: Instant,
) -> Result<(), UserEnd> {
    member.answered();
    let spoken = async {
        match poll_fn(|context| user.poll_heard(context)).await {
            Heard::Spoke => Ok(true),
            Heard::Left => Err(UserEnd::Left),
        }
    };
    let replaced = async {
        member.replaced().await;
        Err(UserEnd::Replaced)
    };
    let patience = Instant::now() + pipe.handshakes.patience();
    let spoken = until(deadline.min(patience), or(spoken, replaced)).await;
    user.has_spoken = spoken.unwrap_or(Ok(false))?;
    Ok(())
}

/// Waits until there may be a seat for a user in line, `true`, or it has sent its first bytes.
async fn stand_in_line(
    user: &mut User,
    moved_on: &mut EventListener,
    deadline: Instant,
) -> Result<bool, UserEnd> {
    let heard = async { Some(poll_fn(|context| user.poll_heard(context)).await) };
    let moved = async {
        moved_on.await;
        None
    };
    match until(deadline, or(heard, moved)).await {
        Some(Some(Heard::Spoke)) => {
            user.has_spoken = true;
            Ok(false)
        }
        Some(Some(Heard::Left)) => Err(UserEnd::Left),
        Some(None) => Ok(true),
        None => Err(UserEnd::TimedOut),
    }
}

/// What happens to a user on its seat.
enum Event {
    /// It has sent its first bytes.
    Spoke,
    /// It has ended its direction.
    Ended,
    /// Its wait is over.
    Over(UserEnd),
}

/// Waits on a seat until the wait ends.
async fn wait(
    pipe: &Pipe,
    waiting: &Waiting<'_, Box<User>, UserEnd>,
    deadline: Instant,
) -> UserEnd {
    let mut timer = Timer::new();
    loop {
        let event = poll_fn(|context| match poll_seat(waiting, context) {
            Poll::Ready(event) => Poll::Ready(event),
            Poll::Pending => {
                timer.poll_at(context, deadline).map(|()| Event::Over(UserEnd::TimedOut))
            }
        });
        match event.await {
            Event::Spoke => pipe.pairing.spoke(waiting),
            Event::Ended => pipe.pairing.user_ended(waiting),
            Event::Over(end) => return end,
        }
    }
}

fn poll_seat(waiting: &Waiting<'_, Box<User>, UserEnd>, context: &mut Context<'_>) -> Poll<Event> {
    if let Poll::Ready(end) = waiting.poll_end(context) {
        return Poll::Ready(Event::Over(end));
    }
    let mut seat = waiting.occupant.borrow_mut();
    let Some(user) = seat.as_mut() else { return Poll::Ready(Event::Over(UserEnd::Served)) };
    match user.poll_heard(context) {
        Poll::Ready(Heard::Spoke) => return Poll::Ready(Event::Spoke),
        Poll::Ready(Heard::Left) => return Poll::Ready(Event::Over(UserEnd::Left)),
        Poll::Pending => {}
    }
    // It may have gone, or it has sent all it will send and waits for the answer.
    if user.has_spoken && !user.has_ended && user.stream.poll_ended(context).is_ready() {
        user.has_ended = true;
        return Poll::Ready(Event::Ended);
    }
    Poll::Pending
}

/// Counts and reports a user that is closed without a tunnel.
fn report(pipe: &Pipe, peer: SocketAddr, end: UserEnd, user: Option<&User>) {
    if let Some(fault) = user.and_then(|user| user.fault.as_ref()) {
        return pipe.record.handshake_failed(1, peer, fault, true);
    }
    let has_spoken = user.is_some_and(|user| user.has_spoken);
    let why: &Refusal = match end {
        UserEnd::Served => return,
        // Somebody only checked whether the port is open, as health checks do.
        UserEnd::Left if !has_spoken => {
            return pipe.record.connection(
                Happening::ConnectionClosed,
                1,
                peer,
                format_args!("user {peer} left and had sent nothing"),
            );
        }
        UserEnd::Left => &refused::LEFT,
        UserEnd::Replaced => &refused::OUSTED,
        UserEnd::Stopping => &refused::USER_STOPPING,
        UserEnd::Abandoned => &refused::DEAD,
        UserEnd::TimedOut if pipe.has_no_tunnel() => &refused::NO_AGENT,
        UserEnd::TimedOut if pipe.pairing.is_in_doubt() => &refused::DEAD,
        UserEnd::TimedOut if !has_spoken && pipe.pairing.idle(0) > 0 => &refused::SAID_NOTHING,
        UserEnd::TimedOut => &refused::NO_TUNNEL,
    };
    pipe.record.refused(why, 1, peer);
}
