//! A mapping's task: its ports, opened and served, and a task for every connection.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use smol::LocalExecutor;
use smol::future::{FutureExt, or, poll_once, yield_now, zip};

use crate::config::Network;
use crate::limits;
use crate::logging::Gate;
use crate::mappings::ports::{Lease, PortError};
use crate::os::For;
use crate::pipes::pipe::{Pipe, SIDES};
use crate::pipes::record::About;
use crate::pipes::serve_user::{Newcomer, may_connect};
use crate::pipes::{serve_agent, serve_user};
use crate::report::status::reached;
use crate::report::status::refused::Refusal;
use crate::runtime::{self, Backoff, Counted, Io, look, sleep, until};
use crate::text::event::Event;

/// Serves both ports. Those that are not given are opened here, now or when they can be.
/// Dropping the future closes ports, waiting users, tunnels and sessions.
pub async fn run(pipe: Rc<Pipe>, leases: [Option<Lease>; 2]) {
    let handlers = LocalExecutor::new();
    let [one, two] = leases;
    let stopped = async |side: usize| _ = pipe.stop[side].1.recv().await;
    let served = pin!(async {
        // Each port is closed as it stops: whoever connects from then on is another daemon's.
        let port = async |side: usize, lease| {
            let _accepting = Counted::new(&pipe.sides[side].accepting);
            or(stopped(side), listen(&pipe, &handlers, side, lease)).await;
        };
        zip(port(0, one), port(1, two)).await;
        std::future::pending::<()>().await;
    });
    or(served, runtime::run(|| handlers.tick())).await;
}

/// Opens one port, again and again until that is possible, and serves it.
async fn listen<'a>(
    pipe: &'a Pipe,
    handlers: &LocalExecutor<'a>,
    index: usize,
    mut lease: Option<Lease>,
) {
    let side = &pipe.sides[index];
    let mut retry = Backoff::new(limits::PORT_RETRY);
    let mut is_told = false;
    loop {
        let opened = match lease.take() {
            Some(lease) => Ok(lease),
            None => pipe.shared.pool.lease_port(side.port),
        };
        side.is_tried.set(true);
        let why = match opened {
            Err(PortError::OutsidePool(port)) if pipe.settings().is_apis(port) => format!(
                "port {port} is the API's own; set `api` in the settings to another port, or \
                 remove the mapping"
            ),
            Err(error) => error.to_string(),
            Ok(lease) => {
                side.fault.replace(None);
                pipe.record.resolved(About::Port(index));
                if std::mem::take(&mut is_told) {
                    let what = format!("port {} is open again", side.port);
                    let place = Some((index, None));
                    pipe.record.happened(Event::PortBack, SIDES[index], place, &what);
                }
                match accept(pipe, handlers, index, &lease).await {
                    Err(error) => format!("port {} cannot be served: {error}", side.port),
                    Ok(never) => match never {},
                }
            }
        };
        let why = format!("{why}; it is tried again until it opens");
        if side.fault.borrow().as_ref() != Some(&why) {
            pipe.record.fault(About::Port(index), None, &why);
            pipe.record.event(Event::PortInactive, SIDES[index], &why);
            is_told = true;
            side.fault.replace(Some(why));
        }
        sleep(retry.pause()).await;
    }
}

/// Accepts connections, each served by a task of its own.
async fn accept<'a>(
    pipe: &'a Pipe,
    handlers: &LocalExecutor<'a>,
    side: usize,
    lease: &Lease,
) -> io::Result<Infallible> {
    let listener = Io::listening(lease.listener())?;
    let complaints = Gate::new(limits::COMPLAINT);
    let complain = |why: &str| {
        if complaints.open() {
            pipe.record.fault(About::Accepting(side), None, why);
        }
    };
    let users = side == 1 && pipe.is_public();
    // Whether somebody waits for a file.
    let mut short = false;
    loop {
        // No room is made and no file is taken before there is a newcomer.
        listener.come().await;
        if !users {
            pipe.agents_left.come().await;
        }
        room(pipe, handlers, users).await;
        let Some(file) = pipe.shared.files.try_take(For::Pipe) else {
            if !std::mem::replace(&mut short, true) {
                pipe.record.reached(reached::FILES);
            }
            complain(&no_files(pipe));
            sleep(limits::ACCEPT_PAUSE).await;
            continue;
        };
        short = false;
        // Does not wait, with the file in hand, for a newcomer that is gone by now.
        let Some(accepted) = poll_once(listener.accept()).await else { continue };
        match accepted {
            Ok((socket, peer)) => {
                pipe.record.resolved(About::Accepting(side));
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                if users {
                    match newcomer(pipe, peer.ip()) {
                        Ok(newcomer) => {
                            let arrives = Counted::new(&pipe.arriving);
                            let user =
                                serve_user::serve(pipe, socket, peer, file, newcomer, arrives);
                            // In a box, as all tasks of this thread: each kind takes 2 KB of the program.
                            handlers.spawn(user.boxed_local()).detach();
                        }
                        Err(why) => pipe.record.refused(why, side, peer),
                    }
                } else {
                    let agent = serve_agent::serve(pipe, side, socket, peer, file);
                    handlers.spawn(agent.boxed_local()).detach();
                }
                // Its task may find at once that it can leave the crowd.
                yield_now().await;
            }
            // The connection was gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                complain(&format!("new connections wait, accepting failed: {error}"));
                sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Who has connected to port2 from `address`.
///
/// # Errors
/// Why it may not.
fn newcomer(pipe: &Pipe, address: IpAddr) -> Result<Newcomer, &'static Refusal> {
    if Network::any_contains(&pipe.mapping().options.proxy_from, address) {
        return Ok(Newcomer::Proxy);
    }
    may_connect(pipe, address).map(Newcomer::User)
}

/// Waits until one more connection may be accepted; meanwhile newcomers wait in the kernel's
/// backlog.
async fn room(pipe: &Pipe, handlers: &LocalExecutor<'_>, users: bool) {
    // Those whom the look has woken are in front of this task.
    let heard = async || {
        look().await;
        handlers.spawn(async {}.boxed_local()).await;
    };
    if !users {
        if pipe.unauthenticated.room(|| pipe.most_pending(), heard).await {
            pipe.record.reached(reached::AGENTS_PENDING);
        }
        return;
    }
    let mut waited = false;
    loop {
        if pipe.handshakes.room(|| pipe.most_pending(), heard).await {
            pipe.record.reached(reached::USERS_PENDING);
        }
        let room = pipe.pairing.room();
        if pipe.pairing.has_room(pipe.most_pending(), !pipe.serves_silent()) {
            return;
        }
        if !std::mem::replace(&mut waited, true) {
            pipe.record.reached(reached::USERS_WAITING);
        }
        // The last agent of version 2 or 3 may leave meanwhile, so that silent users wait in vain.
        until(Instant::now() + limits::ACCEPT_PAUSE, room).await;
    }
}

fn no_files(pipe: &Pipe) -> String {
    format!(
        "new connections wait: {} files are in use, as many as the limit of open files allows; \
         raise it (LimitNOFILE)",
        pipe.shared.files.used()
    )
}
