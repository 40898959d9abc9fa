//! Listening: each local connection is carried into a private pipe, by a tunnel of its own.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use smol::LocalExecutor;
use smol::channel::Receiver;
use smol::future::or;

use super::connector::Connector;
use super::serve::closed;
use super::tunnel::Paired;
use crate::limits;
use crate::ports;
use crate::reactor::{Io, sleep, until};
use crate::stream::Stream;

/// Carries local connections into a private pipe.
pub(super) struct Listening<'a> {
    connector: &'a Connector,
    listener: Io<TcpListener>,
    /// Local connections that wait for the other side.
    waiting: Cell<usize>,
}

/// How a local connection's wait ended.
enum Wait<'a> {
    Paired(Paired<'a>),
    Left,
}

impl<'a> Listening<'a> {
    /// Opens the local port.
    ///
    /// # Errors
    /// As `bind(2)`.
    pub(super) fn new(connector: &'a Connector, address: SocketAddr) -> io::Result<Self> {
        let listener = ports::open_listener(address)
            .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
        Ok(Listening { connector, listener: Io::new(listener)?, waiting: Cell::new(0) })
    }

    /// Serves until `stopped` is closed; sessions that are on go on as tasks of `tasks`.
    pub(super) async fn run<'t>(&'t self, tasks: &LocalExecutor<'t>, stopped: Receiver<()>) {
        let accepting = async {
            loop {
                match self.listener.accept().await {
                    Ok((socket, _)) if self.waiting.get() < limits::LOCALS_WAITING => {
                        tasks.spawn(self.connection(socket, stopped.clone())).detach();
                    }
                    Ok(_) => log::warn!(
                        "a local connection is closed: {} wait for the pipe's other side already",
                        limits::LOCALS_WAITING
                    ),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        log::warn!("local connections wait, accepting failed: {error}");
                        sleep(limits::ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        or(accepting, closed(&stopped)).await;
    }

    /// One local connection, to the end of its session.
    async fn connection(&self, socket: TcpStream, stopped: Receiver<()>) {
        let Ok(local) = Stream::plain(socket) else { return };
        self.waiting.set(self.waiting.get() + 1);
        let waited = until(Instant::now() + limits::LOCAL_WAIT, async {
            let left = async {
                std::future::poll_fn(|context| local.poll_gone(context)).await;
                Wait::Left
            };
            let stop = async {
                closed(&stopped).await;
                Wait::Left
            };
            or(self.pair(), or(left, stop)).await
        })
        .await;
        self.waiting.set(self.waiting.get() - 1);
        match waited {
            Some(Wait::Paired(paired)) => {
                let _session = self.connector.session();
                paired.carry(local).await;
            }
            Some(Wait::Left) => local.part(),
            None => {
                log::warn!(
                    "a local connection is closed: the pipe's other side has not come within {} s",
                    limits::LOCAL_WAIT.as_secs()
                );
                local.part();
            }
        }
    }

    async fn pair(&self) -> Wait<'_> {
        loop {
            let Ok(mut tunnel) = self.connector.open().await else { continue };
            match tunnel.session().await {
                Ok(header) => return Wait::Paired(tunnel.pair(header)),
                Err(why) => {
                    self.connector.lost(tunnel.age(), &why);
                    tunnel.part();
                }
            }
        }
    }
}
