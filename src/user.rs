//! One user's connection to a public pipe's port2 (protocol page, section 6).

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::task::Poll;
use std::time::Instant;

use smol::future::or;

use crate::limits;
use crate::pairing::{Fate, Waiting};
use crate::pipe::{Pipe, Secured};
use crate::process::FileGuard;
use crate::reactor::{Timer, until};
use crate::stream::Stream;
use crate::unacknowledged;

/// A user that is ready for a tunnel.
pub struct User {
    /// Its connection.
    pub stream: Stream,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Whether it has sent anything.
    pub has_spoken: bool,
    /// Its share of the open files.
    pub file: FileGuard,
}

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

const STOPPING: &str = "the connector is stopping";

/// Serves one user, from accepted socket until a tunnel has it or it is closed.
pub async fn serve(pipe: &Pipe, socket: TcpStream, peer: SocketAddr, file: FileGuard) {
    let settings = pipe.settings();
    let place = pipe.handshakes.join(unacknowledged::way(&socket));
    let replaced = async {
        place.replaced().await;
        Err(io::Error::other("too many users were shaking hands"))
    };
    let secured = Box::pin(until(
        Instant::now() + limits::TLS_HANDSHAKE,
        or(pipe.secure(socket, Secured::User, &place), replaced),
    ));
    let stream = match secured.await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => stream,
        Err(error) => return pipe.handshake_failed("user", peer, &error),
    };
    let mut user = Box::new(User { stream, peer, has_spoken: false, file });
    if pipe.pairing.waiting_users() >= settings.pending {
        // Others that say nothing must not keep out one that speaks: its first bytes come right
        // behind its connection.
        let spoken = or(poll_fn(|context| user.stream.poll_spoken(context)), async {
            place.replaced().await;
            Ok(false)
        });
        let spoken = until(Instant::now() + limits::STRANGER_TURN, spoken).await;
        user.has_spoken = matches!(spoken, Some(Ok(true)));
    }
    drop(place);
    // Only a version 2 agent could serve a user that never says anything.
    let mute_in_vain = user.has_spoken && !pipe.has_version_two();
    let waiting = match pipe.pairing.user(user, settings.pending, mute_in_vain) {
        Ok(waiting) => waiting,
        Err(user) => {
            let stopping = pipe.pairing.is_closed();
            let why = if stopping { STOPPING } else { "too many users wait" };
            pipe.user_refused(peer, why);
            return user.stream.part();
        }
    };
    pipe.pairing.pair();
    match wait(pipe, &waiting, Instant::now() + settings.user_wait).await {
        Wait::Served => {}
        Wait::Replaced => {
            pipe.user_refused(peer, "it had sent nothing and others wanted its place")
        }
        Wait::Stopping => pipe.user_refused(peer, STOPPING),
        Wait::Left => pipe.user_refused(peer, "it left before a tunnel was free"),
        Wait::TimedOut => {
            pipe.user_refused(peer, "no tunnel was free in time");
            let user = waiting.occupant.take();
            if let Some(user) = user {
                user.stream.part();
            }
        }
    }
    drop(waiting);
    pipe.pairing.pair();
}

async fn wait(pipe: &Pipe, waiting: &Waiting<'_, Box<User>, Fate>, deadline: Instant) -> Wait {
    let mut timer = Timer::new();
    poll_fn(|context| {
        if let Some(fate) = waiting.verdict(context) {
            return Poll::Ready(fate.into());
        }
        let listened = {
            let mut seat = waiting.occupant.borrow_mut();
            let Some(user) = seat.as_mut() else { return Poll::Ready(Wait::Served) };
            if user.has_spoken {
                user.stream.poll_gone(context).map(|()| Err(io::ErrorKind::ConnectionReset.into()))
            } else {
                user.stream.poll_spoken(context)
            }
        };
        match listened {
            Poll::Ready(Ok(true)) => {
                pipe.pairing.spoke(waiting);
                // Paired or not, the next poll listens for its end.
                context.waker().wake_by_ref();
            }
            // It has nothing to say: only a version 2 agent could serve it, and where there is
            // none it was a scanner or a health check.
            Poll::Ready(Ok(false)) => {
                if !pipe.has_version_two() {
                    return Poll::Ready(Wait::Left);
                }
            }
            Poll::Ready(Err(_)) => return Poll::Ready(Wait::Left),
            Poll::Pending => {}
        }
        timer.poll_at(context, deadline).map(|()| match waiting.verdict(context) {
            Some(fate) => fate.into(),
            None => Wait::TimedOut,
        })
    })
    .await
}
