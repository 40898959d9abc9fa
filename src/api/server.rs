//! The API's connections: accepted over TCP (with or without TLS) and over the Unix socket, a
//! task each, at most [`limits::HTTP_CONNECTIONS`] in all.
//!
//! At that limit, and when no file can be opened, the connection that has waited longest for a
//! whole request makes room, those of callers that are not allowed first, those over the Unix
//! socket last. So sockets that say nothing cannot keep a good call out, nor the command line. A
//! connection whose request is being answered stays: a change once begun is made or not made, never
//! half. Those that do not take their answers make room, too, when these come to more than
//! [`limits::HTTP_HELD`].

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use async_net::TcpListener;
use async_net::unix::UnixListener;
use futures_rustls::TlsAcceptor;
use rustix::io::Errno;
use rustix::net::sockopt;
use smol::io::{AsyncRead, AsyncWrite};
use smol::{LocalExecutor, Task, Timer, future};

use super::gate::Gate;
use super::{Counters, Door, Peer};
use crate::http::{self, Fault, Handler, Patience, Request, Response, Source};
use crate::limits;
use crate::process::{FileGuard, Files, For};
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
    fn refuse(&self, fault: Fault) -> Response;
}

/// Gives the TLS settings in force: asked for every connection, so that new certificates serve
/// the next one.
pub type Acceptor = Rc<dyn Fn() -> TlsAcceptor>;

/// The accept loops and the connections they have begun.
pub struct Server<S> {
    service: Rc<S>,
    executor: Rc<LocalExecutor<'static>>,
    counters: Rc<Counters>,
    files: Arc<Files>,
    connections: Rc<Connections>,
    capacity: usize,
    accept_errors: Gate,
    handshake_errors: Rc<Gate>,
}

impl<S: Service> Server<S> {
    /// A server whose connections run on `executor`, count their failures in `counters` and take
    /// their files from `files`.
    pub fn new(
        service: Rc<S>,
        executor: Rc<LocalExecutor<'static>>,
        counters: Rc<Counters>,
        files: Arc<Files>,
    ) -> Self {
        Server {
            service,
            executor,
            counters,
            files,
            connections: Rc::default(),
            capacity: limits::HTTP_CONNECTIONS,
            accept_errors: Gate::new(limits::COMPLAINT),
            handshake_errors: Rc::new(Gate::new(limits::COMPLAINT)),
        }
    }

    /// Accepts callers on `listener`, with TLS if there is an acceptor. Never ends.
    pub async fn serve_tcp(&self, listener: TcpListener, tls: Option<Acceptor>) {
        // Connections inherit it.
        if let Err(error) = sockopt::set_socket_send_buffer_size(&listener, limits::HTTP_UNREAD) {
            log::debug!("API: the kernel keeps as much as it likes for its callers: {error}");
        }
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    let peer = Peer::Remote(address.ip().to_canonical());
                    // Answers are written whole; without this they wait for acknowledgements.
                    if let Err(error) = stream.set_nodelay(true) {
                        log::debug!("API: no TCP_NODELAY for {}: {error}", address.ip());
                    }
                    let local = stream.local_addr().map(|local| local.ip().to_canonical());
                    let door = Door {
                        secure: tls.is_some(),
                        loopback: local.is_ok_and(|local| local.is_loopback()),
                    };
                    match &tls {
                        None => self.spawn(peer, door, move |handler| plain(stream, handler)).await,
                        Some(acceptor) => {
                            let handshake = Handshake {
                                acceptor: acceptor(),
                                counters: self.counters.clone(),
                                errors: self.handshake_errors.clone(),
                                ip: address.ip().to_canonical(),
                            };
                            let serve = move |handler| handshake.serve(stream, handler);
                            self.spawn(peer, door, serve).await;
                        }
                    }
                }
                Err(error) => self.accept_failed(&error).await,
            }
        }
    }

    /// Accepts callers on the Unix socket. Never ends.
    pub async fn serve_unix(&self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let door = Door { secure: false, loopback: false };
                    self.spawn(Peer::Local, door, move |handler| plain(stream, handler)).await;
                }
                Err(error) => self.accept_failed(&error).await,
            }
        }
    }

    /// Makes room for one connection and begins to serve it.
    async fn spawn<F: Future<Output = ()> + 'static>(
        &self,
        peer: Peer,
        door: Door,
        serve: impl FnOnce(Connection<S>) -> F,
    ) {
        let file = self.room().await;
        let state = Rc::new(State {
            local: peer == Peer::Local,
            known: self.service.knows(peer),
            answering: Cell::new(false),
            held: Cell::new(0),
            since: Cell::new(Instant::now()),
        });
        let place =
            Place { number: self.connections.number(), all: self.connections.clone(), _file: file };
        let number = place.number;
        let serve = serve(Connection {
            service: self.service.clone(),
            peer,
            door,
            state: state.clone(),
            all: self.connections.clone(),
        });
        let task = self.executor.spawn(async move {
            let _place = place;
            serve.await;
        });
        self.connections.open.borrow_mut().insert(number, Open { state, task });
    }

    /// Waits until there is room for one more connection, closing others for it.
    async fn room(&self) -> FileGuard {
        loop {
            if self.connections.open.borrow().len() < self.capacity {
                match self.files.try_take(For::Api) {
                    Some(file) => return file,
                    None => self.complain("all open files are in use", true),
                }
            }
            if !self.connections.close_idlest().await {
                // All are being answered, which ends soon.
                Timer::after(limits::ACCEPT_PAUSE).await;
            }
        }
    }

    /// What to do when no connection could be accepted: never spin, never flood the log.
    async fn accept_failed(&self, error: &io::Error) {
        let out_of_files = is_out_of_files(error);
        if out_of_files {
            self.connections.close_idlest().await;
        }
        self.complain(error, out_of_files);
        Timer::after(limits::ACCEPT_PAUSE).await;
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

async fn plain<T, S>(stream: T, handler: Connection<S>)
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service,
{
    if let Err(error) = http::serve_connection(stream, &handler, Patience::default()).await {
        // Callers come and go; only whoever looks for a fault wants to know how.
        log::debug!("API: a connection ended: {error}");
    }
}

/// What a TLS connection needs before it can be served.
struct Handshake {
    acceptor: TlsAcceptor,
    counters: Rc<Counters>,
    errors: Rc<Gate>,
    ip: IpAddr,
}

impl Handshake {
    async fn serve<T, S>(self, stream: T, handler: Connection<S>)
    where
        T: AsyncRead + AsyncWrite + Unpin,
        S: Service,
    {
        let late = async {
            Timer::after(limits::TLS_HANDSHAKE).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        match future::or(self.acceptor.accept(stream), late).await {
            Ok(mut stream) => {
                stream.get_mut().1.set_buffer_limit(Some(limits::HTTP_ENCRYPTED));
                plain(stream, handler).await;
            }
            Err(error) => {
                let failures = &self.counters.handshake_failures;
                failures.set(failures.get() + 1);
                if self.errors.open() {
                    log::warn!(
                        "API: TLS handshake with {} failed: {}",
                        self.ip,
                        tls::explain_handshake(&error)
                    );
                }
            }
        }
    }
}

/// The connections at this moment.
#[derive(Default)]
struct Connections {
    open: RefCell<HashMap<u64, Open>>,
    begun: Cell<u64>,
}

struct Open {
    state: Rc<State>,
    task: Task<()>,
}

/// What decides which connection makes room.
struct State {
    local: bool,
    known: bool,
    /// A request is being answered.
    answering: Cell<bool>,
    /// Bytes of an answer that the caller has not taken yet.
    held: Cell<usize>,
    /// When the connection began, or had its last request answered.
    since: Cell<Instant>,
}

impl Connections {
    fn number(&self) -> u64 {
        let number = self.begun.get();
        self.begun.set(number + 1);
        number
    }

    /// Closes the connection that has waited longest for a whole request, and returns when its
    /// file is free; `false` when all are being answered.
    async fn close_idlest(&self) -> bool {
        match self.take_idlest() {
            Some(open) => {
                open.task.cancel().await;
                true
            }
            None => false,
        }
    }

    fn take_idlest(&self) -> Option<Open> {
        let mut open = self.open.borrow_mut();
        let idlest = open
            .iter()
            .filter(|(_, open)| !open.state.answering.get())
            .min_by_key(|(_, open)| (open.state.local, open.state.known, open.state.since.get()))
            .map(|(number, _)| *number)?;
        open.remove(&idlest)
    }

    /// Closes those that have been taking their answers for the longest time, but for `own`,
    /// until all answers together are at most `limit` bytes.
    fn bound_held(&self, own: &Rc<State>, limit: usize) {
        let mut open = self.open.borrow_mut();
        let mut all: usize = open.values().map(|open| open.state.held.get()).sum();
        while all > limit {
            let slowest = open
                .iter()
                .filter(|(_, open)| open.state.held.get() > 0 && !Rc::ptr_eq(&open.state, own))
                .min_by_key(|(_, open)| (open.state.local, open.state.since.get()))
                .map(|(number, _)| *number);
            let Some(slowest) = slowest.and_then(|number| open.remove(&number)) else { return };
            all -= slowest.state.held.get();
        }
    }
}

/// A connection's place among the others, given back when its task ends however it ends.
struct Place {
    number: u64,
    all: Rc<Connections>,
    _file: FileGuard,
}

impl Drop for Place {
    fn drop(&mut self) {
        let open = self.all.open.borrow_mut().remove(&self.number);
        if let Some(open) = open {
            // It is the running task's own handle, whose drop would cancel it.
            open.task.detach();
        }
    }
}

/// One connection as the HTTP side sees it.
struct Connection<S> {
    service: Rc<S>,
    peer: Peer,
    door: Door,
    state: Rc<State>,
    all: Rc<Connections>,
}

impl<S: Service> Handler for Connection<S> {
    fn admit(&self, source: &Source) -> Result<(), Response> {
        self.service.admit(self.peer, self.door, source)
    }

    async fn answer(&self, request: Request) -> Response {
        self.state.answering.set(true);
        let response = self.service.answer(self.peer, request).await;
        self.state.answering.set(false);
        self.state.since.set(Instant::now());
        response
    }

    fn refuse(&self, fault: Fault) -> Response {
        self.service.refuse(fault)
    }

    fn holds(&self, bytes: usize) {
        self.state.held.set(bytes);
        if bytes > 0 {
            self.all.bound_held(&self.state, limits::HTTP_HELD);
        }
    }
}

#[cfg(test)]
mod tests;
