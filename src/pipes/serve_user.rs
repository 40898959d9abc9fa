//! One user's connection to a public pipe's port2, until a tunnel has it (protocol page, section 6).

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::task::Poll;
use std::time::Instant;

use smol::future::or;

use crate::limits;
use crate::net::tcp_info;
use crate::os::FileGuard;
use crate::pipes::crowd::Member;
use crate::pipes::cut::Cut;
use crate::pipes::handshake::{Peer, secure};
use crate::pipes::pairing::{Fate, Waiting};
use crate::pipes::pipe::Pipe;
use crate::pipes::user::User;
use crate::report::status::reached::USERS_WAITING;
use crate::report::status::refused::{self, Refusal};
use crate::runtime::{Timer, until};

/// How a user's wait ended.
enum Wait {
    /// A tunnel has it.
    Served,
    /// A newcomer has its place.
    Replaced,
    /// The daemon stops, and no tunnel is left for it.
    Stopping,
    /// It left, or broke.
    Left,
    /// Nobody was free in time.
    TimedOut,
}

impl From<Fate> for Wait {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Served => Wait::Served,
            Fate::Replaced => Wait::Replaced,
            Fate::Stopping => Wait::Stopping,
        }
    }
}

/// Serves one user, from accepted socket until a tunnel has it or it is closed.
pub async fn serve(pipe: &Pipe, socket: TcpStream, peer: SocketAddr, file: FileGuard) {
    let user_wait = pipe.settings().user_wait;
    let place = pipe.handshakes.join(tcp_info::round_trip(&socket));
    // It has waited for a tunnel from when it came, which may be a while before it was accepted.
    let user_wait = user_wait.saturating_sub(tcp_info::silence(&socket));
    let securing = async {
        let secured = secure(&pipe.shared, socket, Peer::User, &place).await;
        secured.map_err(|error| pipe.record.handshake_failed(1, peer, &error, place.has_spoken()))
    };
    let replaced = async {
        place.replaced().await;
        pipe.record.refused(&refused::USER_STALLED, 1, peer);
        Err(())
    };
    let secured = until(Instant::now() + limits::TLS_HANDSHAKE, or(securing, replaced));
    let stream = match Box::pin(secured).await {
        Some(Ok(stream)) => stream,
        Some(Err(())) => return,
        None => return pipe.record.handshake_late(1, peer, place.has_spoken()),
    };
    let deadline = Instant::now() + user_wait;
    let user = Box::new(User { stream, peer, has_spoken: false, file });
    let cut = Cut(|| pipe.record.refused(pipe.why_cut(), 1, peer));
    let waiting = match Box::pin(find_seat(pipe, user, &place, deadline)).await {
        Ok(waiting) => waiting,
        Err((user, end)) => {
            cut.disarm();
            tell(pipe, peer, &end, user.has_spoken);
            return user.stream.close();
        }
    };
    let has_spoken = waiting.occupant.borrow().as_ref().is_none_or(|user| user.has_spoken);
    if has_spoken || pipe.has_version_two() {
        // One that nobody can serve yet is no sign that newcomers get somewhere.
        place.got_through();
    }
    drop(place);
    pipe.pairing.pair();
    let end = wait(pipe, &waiting, deadline).await;
    cut.disarm();
    let user = waiting.occupant.take();
    tell(pipe, peer, &end, user.as_ref().is_some_and(|user| user.has_spoken));
    if let (Wait::TimedOut, Some(user)) = (end, user) {
        user.stream.close();
    }
    drop(waiting);
    pipe.pairing.pair();
}

/// Counts and tells of a user that is closed without a tunnel.
fn tell(pipe: &Pipe, peer: SocketAddr, end: &Wait, has_spoken: bool) {
    let why: &Refusal = match end {
        Wait::Served => return,
        // A port that is looked at for whether it is open, as health checks do.
        Wait::Left if !has_spoken => {
            return pipe.record.connection(format_args!("user {peer} left and had sent nothing"));
        }
        Wait::Left => &refused::LEFT,
        Wait::Replaced => &refused::OUSTED,
        Wait::Stopping => &refused::USER_STOPPING,
        Wait::TimedOut if pipe.has_no_tunnel() => &refused::NO_AGENT,
        Wait::TimedOut if !has_spoken && pipe.pairing.idle(0) > 0 => &refused::SAID_NOTHING,
        Wait::TimedOut => &refused::NO_TUNNEL,
    };
    pipe.record.refused(why, 1, peer);
}

/// A seat for `user`. While as many wait as may, it is in line for one, and keeps its place in the
/// crowd: those that come behind it wait in the kernel's backlog.
///
/// # Errors
/// The user, and how its wait ended.
async fn find_seat<'a>(
    pipe: &'a Pipe,
    mut user: Box<User>,
    place: &Member<'_>,
    deadline: Instant,
) -> Result<Waiting<'a, Box<User>, Fate>, (Box<User>, Wait)> {
    let pending = pipe.settings().pending;
    // Only a version 2 agent could serve a user that never says anything.
    let silent_in_vain = || !pipe.has_version_two();
    if silent_in_vain() || pipe.pairing.is_full(pending) {
        // A silent user makes room for one that speaks. A user's first bytes come soon after its
        // connection: wait for them before judging it.
        place.answered();
        let heard = async {
            let spoken = poll_fn(|context| user.stream.poll_spoken(context)).await;
            spoken.map_err(|_| Wait::Left)
        };
        let replaced = async {
            place.replaced().await;
            Err(Wait::Replaced)
        };
        let patience = Instant::now() + pipe.handshakes.patience();
        match until(deadline.min(patience), or(heard, replaced)).await {
            Some(Ok(spoken)) => user.has_spoken = spoken,
            Some(Err(end)) => return Err((user, end)),
            None => {}
        }
    }
    let mut in_line = None;
    loop {
        let moved_on = pipe.pairing.move_on();
        user = match pipe.pairing.user(user, pending, silent_in_vain(), in_line.is_some()) {
            Ok(waiting) => return Ok(waiting),
            Err(user) => user,
        };
        if pipe.pairing.is_closed() {
            return Err((user, Wait::Stopping));
        }
        // A silent user would keep out users that could be served.
        if !user.has_spoken && (silent_in_vain() || pipe.pairing.serves(true)) {
            return Err((user, Wait::Replaced));
        }
        if in_line.is_none() {
            in_line = Some(pipe.pairing.line_up());
            place.got_through();
            pipe.record.reached(USERS_WAITING);
        }
        let spoken = user.has_spoken;
        let heard = poll_fn(|context| {
            if spoken {
                return user.stream.poll_gone(context).map(|()| None);
            }
            match user.stream.poll_spoken(context) {
                Poll::Ready(Ok(true)) => Poll::Ready(Some(true)),
                Poll::Ready(Ok(false) | Err(_)) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        let moved = async {
            moved_on.await;
            Some(spoken)
        };
        match until(deadline, or(heard, moved)).await {
            Some(Some(spoken)) => user.has_spoken = spoken,
            Some(None) => return Err((user, Wait::Left)),
            None => return Err((user, Wait::TimedOut)),
        }
    }
}

async fn wait(pipe: &Pipe, waiting: &Waiting<'_, Box<User>, Fate>, deadline: Instant) -> Wait {
    let mut timer = Timer::new();
    let mut ended = false;
    poll_fn(|context| {
        if let Some(fate) = waiting.verdict(context) {
            return Poll::Ready(fate.into());
        }
        let listened = {
            let mut seat = waiting.occupant.borrow_mut();
            let Some(user) = seat.as_mut() else { return Poll::Ready(Wait::Served) };
            if !user.has_spoken {
                user.stream.poll_spoken(context)
            } else if user.stream.poll_gone(context).is_ready() {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            } else {
                // It may have gone, or wait for the answer to all that it will ever say.
                if !ended && user.stream.poll_ended(context).is_ready() {
                    ended = true;
                    pipe.pairing.user_ended(waiting);
                }
                Poll::Pending
            }
        };
        match listened {
            Poll::Ready(Ok(true)) => {
                pipe.pairing.spoke(waiting);
                // Paired or not, the next poll listens for its end.
                context.waker().wake_by_ref();
            }
            // A user that ends without having sent anything has gone: a scanner, a health check.
            Poll::Ready(Ok(false) | Err(_)) => return Poll::Ready(Wait::Left),
            Poll::Pending => {}
        }
        timer.poll_at(context, deadline).map(|()| match waiting.verdict(context) {
            Some(fate) => fate.into(),
            None => Wait::TimedOut,
        })
    })
    .await
}
