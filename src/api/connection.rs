//! One of the API's connections: its handshake, then its requests.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use async_net::unix::UnixStream;
use futures_rustls::rustls::ServerConfig;
use rustix::net::sockopt;
use smol::future::or;

use super::caller::{Door, Peer};
use super::connections::{Connections, State};
use super::counters::Counters;
use crate::http::{self, Fault, Handler, Patience, Request, Response, Source, Wire};
use crate::limits;
use crate::net::handshake;
use crate::net::stream::{Stream, is_too_many};
use crate::net::tcp_info;
use crate::report::status::refused;
use crate::runtime::{Workers, until};
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

/// Serves a connection without TLS.
pub(super) async fn plain<S: Service>(socket: TcpStream, handler: Connection<S>) {
    match Stream::plain(socket) {
        Ok(stream) => serve(stream, handler).await,
        Err(error) => log::debug!("API: a connection could not begin: {error}"),
    }
}

pub(super) async fn serve<S: Service>(mut stream: impl Wire, handler: Connection<S>) {
    if let Err(error) = http::serve_connection(&mut stream, &handler, Patience::default()).await {
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
pub(super) struct Handshake {
    pub(super) acceptor: Acceptor,
    pub(super) workers: Rc<Workers>,
    pub(super) counters: Rc<Counters>,
    pub(super) ip: IpAddr,
}

impl Handshake {
    pub(super) async fn serve<S: Service>(self, socket: TcpStream, mut handler: Connection<S>) {
        let has_spoken = Cell::new(false);
        let greeted = Cell::new(0);
        let progress = |progress| {
            has_spoken.set(true);
            handler.all.shakes_hands(&handler.state, progress);
        };
        let secured = handshake::secure(
            &self.workers,
            socket,
            self.ip,
            || {
                let (config, callers) = (self.acceptor)();
                greeted.set(callers);
                config.into()
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
                self.counters.refused(&kind);
                let what = format!("{} refused: {}; {}", self.ip, kind.why, kind.remedy);
                self.counters.tell_refused(&kind, Some(self.ip), &what);
            }
            Err(error) => {
                let failures = &self.counters.handshake_failures;
                failures.set(failures.get() + 1);
                let kind = refused::CALLER_TLS;
                self.counters.refused(&kind);
                let why = tls::explain_handshake(&error);
                let what = format!("TLS handshake with {} failed: {why}; {}", self.ip, kind.remedy);
                self.counters.tell_refused(&kind, Some(self.ip), &what);
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

/// One connection as the HTTP side sees it.
pub(super) struct Connection<S> {
    pub(super) service: Rc<S>,
    pub(super) peer: Peer,
    pub(super) door: Door,
    /// Where it has shaken hands: what it did so with.
    pub(super) greeted: Option<(Acceptor, u64)>,
    pub(super) state: Rc<State>,
    pub(super) all: Rc<Connections>,
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
