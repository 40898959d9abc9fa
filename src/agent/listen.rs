//! Listening: each local connection is carried into a private pipe, by a tunnel of its own.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use event_listener::Event;
use smol::LocalExecutor;
use smol::channel::Receiver;
use smol::future::{FutureExt, or};

use super::connector::Connector;
use super::framed::{Begun, Framed};
use super::health::{About, Bound};
use super::pace::Outcome;
use super::serve::closed;
use super::tunnel::{Paired, Tunnel, has_user};
use crate::limits;
use crate::net::stream::Stream;
use crate::os::FileGuard;
use crate::runtime::{Counted, Io, sleep, until};
use crate::text::reason;
use crate::wire::greeting::Version;

/// Files of a local connection and of its tunnel.
const FILES: usize = 2;

/// Why a user is sent away, for the connector's log.
const USER_THERE: &str = "this agent's --listen needs a private pipe";

/// A tunnel whose session begins.
enum Joined<'a> {
    /// Of version 2.
    Once(Paired<'a>),
    /// Of version 3.
    Framed(Begun<'a>),
}

/// Carries local connections into a private pipe.
pub(super) struct Listening<'a> {
    connector: &'a Connector,
    /// Taken when serving begins.
    listener: Cell<Option<TcpListener>>,
    /// Local connections that wait for the other side, and the most that may.
    waiting: Cell<usize>,
    pending: usize,
    /// Most sessions at one time, counting connections that wait for one.
    most: usize,
    /// Asks a waiting connection that has ended without sending anything to make room.
    make_room: Event,
}

/// A local connection that was accepted.
struct Local<'a> {
    stream: Stream,
    waiting: Counted<'a>,
    _files: Vec<FileGuard>,
}

impl<'a> Listening<'a> {
    /// Takes connections from a local port.
    pub(super) fn new(
        connector: &'a Connector,
        listener: TcpListener,
        pending: usize,
        most: usize,
    ) -> Self {
        let listener = Cell::new(Some(listener));
        let (waiting, make_room) = (Cell::new(0), Event::new());
        Listening { connector, listener, waiting, pending, most, make_room }
    }

    /// Serves until `stopped` is closed, then closes the local port; sessions that run then go on as
    /// tasks of `tasks`. Called once.
    ///
    /// # Errors
    /// As [`Io::new`].
    pub(super) async fn run<'t>(
        &'t self,
        tasks: &LocalExecutor<'t>,
        stopped: Receiver<()>,
    ) -> io::Result<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let listener = Io::new(listener)?;
        let accepting = async {
            loop {
                let files = self.room().await;
                match listener.accept().await {
                    Ok((socket, _)) => {
                        self.connector.health().over(About::Port);
                        let waiting = Counted::notifying(&self.waiting, &self.connector.changed);
                        let Ok(stream) = Stream::plain(socket) else { continue };
                        let local = Local { stream, waiting, _files: files };
                        // In a box, as all tasks of this thread: each kind takes 2 KB of the program.
                        let served = self.connection(local, stopped.clone());
                        tasks.spawn(served.boxed_local()).detach();
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        say!(
                            self.connector.health(),
                            log::Level::Warn,
                            About::Port,
                            "local connections wait, accepting failed: {}",
                            reason::words(&error)
                        );
                        sleep(limits::ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        or(accepting, closed(&stopped)).await;
        Ok(())
    }

    /// Waits until one more local connection may be accepted; until then newcomers wait in the
    /// kernel's backlog.
    async fn room(&self) -> Vec<FileGuard> {
        let mut said = false;
        loop {
            let changed = self.connector.changed.listen();
            if !self.is_full() {
                if let Some(files) = self.connector.take_files(FILES) {
                    return files;
                }
            } else if !std::mem::replace(&mut said, true) {
                let waiting = self.waiting.get() >= self.pending;
                self.connector.health().reached(if waiting {
                    Bound::Pending
                } else {
                    Bound::Sessions
                });
            }
            self.make_room.notify(1);
            until(Instant::now() + limits::FILES_AGAIN, changed).await;
        }
    }

    fn is_full(&self) -> bool {
        let waiting = self.waiting.get();
        waiting >= self.pending || waiting + self.connector.sessions() >= self.most
    }

    /// Serves one local connection to the end of its session.
    async fn connection(&self, local: Local<'_>, stopped: Receiver<()>) {
        let Local { mut stream, waiting, _files } = local;
        let is_open = Cell::new(false);
        // In a box: a session has memory for its relay alone.
        let waited = Box::pin(until(Instant::now() + limits::LOCAL_WAIT, async {
            let no_more = async {
                or(self.left(&mut stream), closed(&stopped)).await;
                None
            };
            or(self.pair(&is_open), no_more).await
        }))
        .await;
        match waited {
            Some(Some(paired)) => {
                self.connector.health().over(About::Waiting);
                let session = self.connector.session();
                drop(waiting);
                match paired {
                    Joined::Once(paired) => {
                        let outcome = Box::pin(paired.carry(stream)).await;
                        self.connector.session_ended(outcome, false);
                    }
                    Joined::Framed(begun) => {
                        let left = Box::pin(begun.carry(stream, true)).await;
                        self.connector.session_ended(left.outcome, false);
                        if let Some(closing) = left.closing {
                            closing.await;
                        }
                        drop(session);
                        if let Some(tunnel) = left.tunnel {
                            closed_after_bye(tunnel, &stopped).await;
                        }
                    }
                }
            }
            Some(None) => stream.close(),
            None => {
                let why = match is_open.get() {
                    true => "the pipe's other side is not there; start `tunnel` with --target on \
                             the mapping's other port (a public pipe has none for --listen)"
                        .into(),
                    false => self.connector.health().in_the_way(),
                };
                let waited = limits::LOCAL_WAIT.as_secs();
                let health = self.connector.health();
                say!(
                    health,
                    log::Level::Warn,
                    About::Waiting,
                    "a local connection is closed after {waited} s: {why}"
                );
                stream.close();
            }
        }
    }

    /// Returns when a waiting local connection is gone; at the limit, also when it has ended without
    /// sending anything.
    async fn left(&self, local: &mut Stream) {
        poll_fn(|context| match local.poll_gone(context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => match local.poll_spoken(context) {
                Poll::Ready(Ok(true)) | Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(false) | Err(_)) => Poll::Ready(()),
            },
        })
        .await;
        // It may still want to read an answer, so its place is taken only when another needs it.
        let gone = poll_fn(|context| local.poll_gone(context));
        let asked = async {
            loop {
                let asked = self.make_room.listen();
                if self.is_full() {
                    return;
                }
                asked.await;
            }
        };
        or(gone, asked).await;
    }

    /// Opens tunnels until one has a session; `is_open` says whether one is open. `None` where the
    /// port is not a private pipe's.
    async fn pair(&self, is_open: &Cell<bool>) -> Option<Joined<'_>> {
        loop {
            is_open.set(false);
            let dial = self.connector.may_dial(0).await;
            let Ok(opened) = self.connector.open(dial).await else { continue };
            is_open.set(true);
            if opened.version == Version::Three {
                // Users are none of its business.
                let mut tunnel = Framed::new(opened, self.connector, Arc::default());
                match tunnel.next().await {
                    Ok(Some(header)) => {
                        let begun = tunnel.begin();
                        if !has_user(&header) {
                            return Some(Joined::Framed(begun));
                        }
                        if let Some(mut tunnel) = begun.fail(USER_THERE).tunnel {
                            tunnel.bye();
                            tunnel.close();
                        }
                        return self.met_user();
                    }
                    Ok(None) => tunnel.close(),
                    Err(why) => tunnel.lost(why),
                }
                continue;
            }
            let mut tunnel = Tunnel::new(opened, self.connector);
            match tunnel.session().await {
                Ok(header) if has_user(&header) => {
                    tunnel.pair(header).fail();
                    return self.met_user();
                }
                Ok(header) => return Some(Joined::Once(tunnel.pair(header))),
                Err(why) => tunnel.lost(why),
            }
        }
    }

    /// A user has come in the place of the pipe's other side, and was sent away.
    fn met_user<T>(&self) -> Option<T> {
        say!(
            self.connector.health(),
            log::Level::Error,
            About::Waiting,
            "port {} is a public pipe's, and --listen needs a private one: user and \
             local connection are closed",
            self.connector.address().port
        );
        self.connector.session_ended(Outcome::Vain, false);
        None
    }
}

/// Waits until the connector has closed a tunnel that was given up.
async fn closed_after_bye(mut tunnel: Box<Framed<'_>>, stopped: &Receiver<()>) {
    let stopping = async {
        closed(stopped).await;
        sleep(limits::BYE[1]).await;
    };
    let over = async { drop(until(Instant::now() + limits::BYE[0], tunnel.next()).await) };
    or(over, stopping).await;
    tunnel.close();
}
