//! The API's connections: accepted over TCP (with or without TLS) and over the Unix socket, a
//! task each, at most [`limits::HTTP_CONNECTIONS`] in all, and beside them
//! [`limits::HTTP_HANDSHAKES`] that shake hands, which is [`handshake`]'s business: until that is
//! done they wait for others, the connector or a place to ask from, and so keep nobody out.
//!
//! At that limit, and when no file can be opened, newcomers wait in the kernel's backlog until
//! somebody has had its turn ([`limits::HTTP_TURN`]) without a whole request: it makes room, callers
//! that are not allowed first, those over the Unix socket last; for better callers at once. Turns are
//! short for those who may not call and for strangers whose connections come in vain. So
//! sockets that say nothing cannot keep a good call out, nor push one out whose bytes are on their
//! way, nor the command line. A connection whose request is being answered stays: a change once
//! begun is made or not made, never half. Those that do not take their answers make room, too, when
//! these come to more than [`limits::HTTP_HELD`].

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_net::unix::{UnixListener, UnixStream};
use futures_rustls::rustls::ServerConfig;
use rustix::io::Errno;
use rustix::net::sockopt;
use smol::LocalExecutor;
use smol::future::{or, yield_now};

use super::caller::{Door, Peer};
use super::connections::{Connections, Open, Place, Rank, State};
use super::counters::Counters;
use crate::http::{self, Fault, Handler, Patience, Request, Response, Source, Wire};
use crate::limits;
use crate::logging::Gate;
use crate::net::handshake;
use crate::net::stream::{Stream, is_too_many};
use crate::net::tcp_info;
use crate::os::{FileGuard, Files, For};
use crate::report::status::refused;
use crate::runtime::Workers;
use crate::runtime::{Io, sleep, until};
use crate::tls;

/// What answers requests, whichever connection they come on.
pub trait Service: 'static {
    /// Whether a caller may call at all, so that its connections outlast others.
    fn knows(&self, peer: Peer) -> bool;

    /// Refuses a caller that may not call; see [`Handler::admit`].
    fn admit(&self, peer: Peer, door: Door, source: &Source) -> Result<(), Response>;

    /// Answers one request; see [`Handler::answer`].
    fn answer(&self, peer: Peer, request: Request) -> impl Future<Output = Response>;

    /// Answers what is no request; see [`Handler::refuse`].
    fn refuse(&self, peer: Peer, fault: Fault) -> Response;
}

/// Gives the TLS settings in force: asked for every connection, so that new certificates serve
/// the next one. The number is another once others' certificates are taken than before.
pub type Acceptor = Rc<dyn Fn() -> (Arc<ServerConfig>, u64)>;

/// The accept loops and the connections they have begun.
pub struct Server<S> {
    service: Rc<S>,
    executor: Rc<LocalExecutor<'static>>,
    counters: Rc<Counters>,
    files: Arc<Files>,
    workers: Rc<Workers>,
    connections: Rc<Connections>,
    accept_errors: Gate,
}

impl<S: Service> Server<S> {
    /// A server whose connections run on `executor`, count their failures in `counters`, take
    /// their files from `files` and shake hands on `workers`.
    pub fn new(
        service: Rc<S>,
        executor: Rc<LocalExecutor<'static>>,
        counters: Rc<Counters>,
        files: Arc<Files>,
        workers: Rc<Workers>,
    ) -> Self {
        Server {
            service,
            executor,
            connections: Rc::new(Connections::new(counters.clone(), files.limit())),
            counters,
            files,
            workers,
            accept_errors: Gate::new(limits::COMPLAINT),
        }
    }

    /// Accepts callers on `listener`, with TLS if there is an acceptor. Never ends.
    ///
    /// # Errors
    /// As [`Io::new`].
    pub async fn serve_tcp(
        &self,
        listener: &TcpListener,
        tls: Option<Acceptor>,
    ) -> io::Result<Infallible> {
        // Connections inherit it.
        if let Err(error) = sockopt::set_socket_send_buffer_size(listener, limits::HTTP_UNREAD) {
            log::debug!("API: the kernel keeps as much as it likes for its callers: {error}");
        }
        let listener = Io::listening(listener)?;
        loop {
            match listener.accept().await {
                Ok((socket, address)) => {
                    let ip = address.ip().to_canonical();
                    let local = socket.local_addr().map(|local| local.ip().to_canonical());
                    let door = Door {
                        outdated: false,
                        secure: tls.is_some(),
                        loopback: local.is_ok_and(|local| local.is_loopback()),
                    };
                    let round_trip = tcp_info::round_trip(&socket);
                    let caller = Caller { peer: Peer::Remote(ip), door, round_trip };
                    match &tls {
                        None => self.spawn(caller, move |handler| plain(socket, handler)).await,
                        Some(acceptor) => {
                            let handshake = Handshake {
                                acceptor: acceptor.clone(),
                                workers: self.workers.clone(),
                                counters: self.counters.clone(),
                                ip,
                            };
                            let serve = move |handler| handshake.serve(socket, handler);
                            self.spawn(caller, serve).await;
                        }
                    }
                    // It may have sent already what lets it leave its place to the next one.
                    yield_now().await;
                }
                // The connection was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => self.accept_failed(&error).await,
            }
        }
    }

    /// Accepts callers on the Unix socket. Never ends.
    pub async fn serve_unix(&self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let door = Door { outdated: false, secure: false, loopback: false };
                    let caller = Caller { peer: Peer::Local, door, round_trip: Duration::ZERO };
                    self.spawn(caller, move |handler| serve(stream, handler)).await;
                }
                Err(error) => self.accept_failed(&error).await,
            }
        }
    }

    /// Makes room for one connection and begins to serve it.
    async fn spawn<F: Future<Output = ()> + 'static>(
        &self,
        caller: Caller,
        serve: impl FnOnce(Connection<S>) -> F,
    ) {
        let Caller { peer, door, round_trip } = caller;
        let (rank, address) = match peer {
            Peer::Local => (Rank::Local, None),
            Peer::Remote(address) if self.service.knows(peer) => (Rank::Known, Some(address)),
            Peer::Remote(address) => (Rank::Stranger, Some(address)),
        };
        let file = self.room(rank).await;
        let state = self.connections.begin(rank, address, round_trip);
        let place =
            Place { number: self.connections.number(), all: self.connections.clone(), _file: file };
        let number = place.number;
        let serve = serve(Connection {
            service: self.service.clone(),
            peer,
            door,
            greeted: None,
            state: state.clone(),
            all: self.connections.clone(),
        });
        let task = self.executor.spawn(async move {
            let _place = place;
            serve.await;
        });
        self.connections.open.borrow_mut().insert(number, Open { state, task });
    }

    /// Waits until there is room for one more connection of `rank`, closing others for it.
    async fn room(&self, rank: Rank) -> FileGuard {
        loop {
            self.connections.room(rank).await;
            if let Some(file) = self.files.try_take(For::Api) {
                return file;
            }
            self.complain("all open files are in use", true);
            self.connections.make_room(rank, |_| true).await;
        }
    }

    /// What to do when no connection could be accepted: never spin, never flood the log.
    async fn accept_failed(&self, error: &io::Error) {
        let out_of_files = is_out_of_files(error);
        if let (true, (Some(number), _)) =
            (out_of_files, self.connections.first_to_go(Rank::Stranger, |_| true))
        {
            self.connections.turn_out(number).await;
        }
        self.complain(error, out_of_files);
        sleep(limits::ACCEPT_PAUSE).await;
    }

    fn complain(&self, why: impl Display, out_of_files: bool) {
        if self.accept_errors.open() {
            let remedy = if out_of_files { "; raise the limit of open files" } else { "" };
            log::warn!("API: no connection can be accepted: {why}{remedy}");
        }
    }
}

fn is_out_of_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Serves a connection without TLS.
async fn plain<S: Service>(socket: TcpStream, handler: Connection<S>) {
    match Stream::plain(socket) {
        Ok(stream) => serve(stream, handler).await,
        Err(error) => log::debug!("API: a connection could not begin: {error}"),
    }
}

async fn serve<S: Service>(stream: impl Wire, handler: Connection<S>) {
    if let Err(error) = http::serve_connection(stream, &handler, Patience::default()).await {
        if is_too_many(&error) {
            handler.all.count_crowded();
        }
        // Callers come and go; only whoever looks for a fault wants to know how.
        log::debug!("API: a connection ended: {error}");
    }
}

impl Wire for Stream {
    fn bound(&mut self, bytes: usize) {
        self.take_at_most(bytes);
    }

    fn keep(&mut self, bytes: usize) {
        if let Err(error) = sockopt::set_socket_send_buffer_size(self.socket(), bytes) {
            log::debug!("API: the kernel keeps as much as it likes for a caller: {error}");
        }
    }

    fn is_taken(&self) -> bool {
        // Who cannot be asked about is gone.
        tcp_info::ask(self.socket()).map_or(true, |tcp| tcp.packets == 0)
    }
}

/// Its other end is on this machine, and its buffers are small.
impl Wire for UnixStream {
    fn bound(&mut self, _: usize) {}

    fn keep(&mut self, _: usize) {}

    fn is_taken(&self) -> bool {
        true
    }
}

/// What a TLS connection needs before it can be served.
struct Handshake {
    acceptor: Acceptor,
    workers: Rc<Workers>,
    counters: Rc<Counters>,
    ip: IpAddr,
}

impl Handshake {
    async fn serve<S: Service>(self, socket: TcpStream, mut handler: Connection<S>) {
        let has_spoken = Cell::new(false);
        let greeted = Cell::new(0);
        let progress = |progress| {
            has_spoken.set(true);
            handler.all.shakes_hands(&handler.state, progress);
        };
        let secured = handshake::secure(
            &self.workers,
            socket,
            || {
                let (config, callers) = (self.acceptor)();
                greeted.set(callers);
                config
            },
            progress,
        );
        let secured = until(Instant::now() + limits::TLS_HANDSHAKE, Box::pin(secured)).await;
        match secured.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())) {
            Ok(mut stream) => {
                let entered = async {
                    handler.all.enter(&handler.state).await;
                    true
                };
                if or(entered, left(&mut stream)).await {
                    handler.state.begin_turn();
                    handler.greeted = Some((self.acceptor, greeted.get()));
                    serve(stream, handler).await;
                }
            }
            // A port that is looked at for whether it is open, as health checks do.
            Err(error) if !has_spoken.get() => {
                log::debug!("API: {} connected and said nothing: {error}", self.ip);
            }
            Err(error) if is_too_many(&error) => {
                let kind = refused::CALLERS_MEMORY;
                self.counters.refusals.borrow_mut().count(&kind);
                log::warn!(target: kind.why, "API: {} refused: {}; {}", self.ip, kind.why, kind.remedy);
            }
            Err(error) => {
                let failures = &self.counters.handshake_failures;
                failures.set(failures.get() + 1);
                self.counters.refusals.borrow_mut().count(&refused::CALLER_TLS);
                log::warn!(
                    target: refused::CALLER_TLS.why,
                    "API: TLS handshake with {} failed: {}; {}",
                    self.ip,
                    tls::explain_handshake(&error),
                    refused::CALLER_TLS.remedy
                );
            }
        }
    }
}

/// Returns, with `false`, once a caller is gone that waits for a place, or has ended and asked nothing.
async fn left(stream: &mut Stream) -> bool {
    poll_fn(|context| match stream.poll_spoken(context) {
        Poll::Ready(Ok(true)) => stream.poll_gone(context),
        listened => listened.map(drop),
    })
    .await;
    false
}

/// Who has connected, and how.
struct Caller {
    peer: Peer,
    door: Door,
    round_trip: Duration,
}

/// One connection as the HTTP side sees it.
struct Connection<S> {
    service: Rc<S>,
    peer: Peer,
    door: Door,
    /// Where it has shaken hands: what it did so with.
    greeted: Option<(Acceptor, u64)>,
    state: Rc<State>,
    all: Rc<Connections>,
}

impl<S: Service> Handler for Connection<S> {
    fn admit(&self, source: &Source) -> Result<(), Response> {
        let outdated =
            self.greeted.as_ref().is_some_and(|(acceptor, callers)| acceptor().1 != *callers);
        self.service.admit(self.peer, Door { outdated, ..self.door }, source)
    }

    async fn answer(&self, request: Request) -> Response {
        self.state.answering.set(true);
        let response = self.service.answer(self.peer, request).await;
        self.state.answering.set(false);
        self.all.got_through(&self.state);
        self.state.since.set(Instant::now());
        self.state.begin_turn();
        self.all.changed.notify(usize::MAX);
        response
    }

    fn refuse(&self, fault: Fault) -> Response {
        self.service.refuse(self.peer, fault)
    }

    fn may_hold(&self, request: usize) -> bool {
        if request > 0 {
            self.state.asks();
        }
        self.state.request.borrow_mut().holds(request)
    }

    fn holds(&self, bytes: usize) {
        self.state.held.set(bytes);
        if bytes == 0 {
            self.state.begin_turn();
        } else {
            self.all.bound_held(&self.state, limits::HTTP_HELD);
        }
    }
}

#[cfg(test)]
mod tests;
