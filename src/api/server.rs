//! The API's connections: accepted over TCP (with or without TLS) and over the Unix socket, a
//! task each, at most [`limits::HTTP_CONNECTIONS`] in all, and beside them
//! [`limits::HTTP_HANDSHAKES`] that shake hands, which is [`super::connection`]'s business: until that is
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

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_net::unix::UnixListener;
use rustix::io::Errno;
use rustix::net::sockopt;
use smol::LocalExecutor;
use smol::future::{FutureExt, yield_now};

use super::caller::{Door, Peer};
use super::connection::{Acceptor, Connection, Handshake, Service, plain, serve};
use super::connections::{Connections, Open, Presence, Rank};
use super::counters::Counters;
use crate::limits;
use crate::logging::Gate;
use crate::net::tcp_info;
use crate::os::{FileGuard, Files, For};
use crate::runtime::Workers;
use crate::runtime::{Io, sleep};
use crate::text::dump::Dump;

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

    /// Adds what there is to tell of each connection.
    pub fn tell(&self, dump: &mut Dump) {
        self.connections.tell(dump);
    }

    /// Closes all connections.
    pub async fn turn_out_all(&self) {
        loop {
            let next = self.connections.open.borrow_mut().pop_first();
            let Some(Open { task, .. }) = next else { return };
            task.cancel().await;
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
        let place = Presence {
            number: self.connections.number(),
            all: self.connections.clone(),
            _file: file,
        };
        let number = place.number;
        let serve = serve(Connection {
            service: self.service.clone(),
            peer,
            door,
            greeted: None,
            state: state.clone(),
            all: self.connections.clone(),
        });
        // In a box, as its other kinds: each takes 2 KB of the program.
        let work = async move {
            let _place = place;
            serve.await;
        };
        let task = self.executor.spawn(work.boxed_local());
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

/// Who has connected, and how.
struct Caller {
    peer: Peer,
    door: Door,
    round_trip: Duration,
}

fn is_out_of_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests;
