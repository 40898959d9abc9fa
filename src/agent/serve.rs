//! Serving: idle tunnels are kept ready, and each session is carried to a service.

use std::cell::Cell;
use std::time::Instant;

use smol::LocalExecutor;
use smol::channel::Receiver;
use smol::future::or;

use super::connector::Connector;
use super::tunnel::Paired;
use crate::dial::{Address, dial};
use crate::limits;
use crate::stream::Stream;

/// Carries sessions to a service.
pub(super) struct Serving<'a> {
    connector: &'a Connector,
    target: Address,
    /// Idle tunnels kept ready.
    connections: usize,
    /// Whether the service is sent the PROXY header first.
    proxy_protocol: bool,
    /// Idle tunnels, and those on their way to be.
    ready: Cell<usize>,
    reachable: Cell<bool>,
}

impl<'a> Serving<'a> {
    pub(super) fn new(
        connector: &'a Connector,
        target: Address,
        connections: usize,
        proxy_protocol: bool,
    ) -> Self {
        let ready = Cell::new(0);
        let reachable = Cell::new(true);
        Serving { connector, target, connections, proxy_protocol, ready, reachable }
    }

    /// Serves until `stopped` is closed; sessions that are on go on as tasks of `tasks`.
    pub(super) async fn run<'t>(&'t self, tasks: &LocalExecutor<'t>, stopped: Receiver<()>) {
        while !stopped.is_closed() {
            let changed = self.connector.changed.listen();
            if self.ready.get() < self.connections {
                self.ready.set(self.ready.get() + 1);
                tasks.spawn(self.tunnel(stopped.clone())).detach();
                continue;
            }
            or(changed, closed(&stopped)).await;
        }
    }

    /// One tunnel, from nothing to the end of its session.
    async fn tunnel(&self, stopped: Receiver<()>) {
        let paired = or(self.pair(), async {
            closed(&stopped).await;
            None
        })
        .await;
        self.ready.set(self.ready.get() - 1);
        self.connector.changed.notify(usize::MAX);
        if let Some(paired) = paired {
            let _session = self.connector.session();
            self.session(paired).await;
        }
    }

    async fn pair(&self) -> Option<Paired<'_>> {
        let mut tunnel = self.connector.open().await.ok()?;
        match tunnel.session().await {
            Ok(header) => Some(tunnel.pair(header)),
            Err(why) => {
                self.connector.lost(tunnel.age(), &why);
                tunnel.part();
                None
            }
        }
    }

    async fn session(&self, paired: Paired<'_>) {
        let local = match dial(&self.target, Instant::now() + limits::DIAL).await {
            Ok(socket) => Stream::plain(socket),
            Err(error) => Err(error),
        };
        let mut local = match local {
            Ok(local) => local,
            Err(error) => {
                if self.reachable.replace(false) {
                    log::warn!(
                        "the target {} cannot be reached: {error}; users are closed until it can",
                        self.target
                    );
                }
                return paired.fail();
            }
        };
        if !self.reachable.replace(true) {
            log::info!("the target {} can be reached again", self.target);
        }
        // A target that is gone by now shows that to the relay.
        if self.proxy_protocol && local.queue(&paired.header).is_err() {
            return paired.fail();
        }
        paired.carry(local).await;
    }
}

/// Returns once `stopped` is closed.
pub(super) async fn closed(stopped: &Receiver<()>) {
    let _ = stopped.recv().await;
}
