//! Serving: idle tunnels are kept ready, and each session is carried to a service.

use std::cell::Cell;
use std::time::Instant;

use smol::LocalExecutor;
use smol::channel::Receiver;
use smol::future::or;

use super::connector::{Connector, Dial};
use super::health::{About, Bound};
use super::pace::Outcome;
use super::tunnel::{Paired, Tunnel};
use super::words;
use crate::limits;
use crate::net::dial::{Address, Dialler};
use crate::net::stream::Stream;
use crate::runtime::Counted;

/// Files of a tunnel and of its session's connection to the target.
const FILES: usize = 2;

/// Carries sessions to a service.
pub(super) struct Serving<'a> {
    connector: &'a Connector,
    target: Dialler,
    /// Idle tunnels kept ready.
    connections: usize,
    /// Most sessions at one time, counting idle tunnels, each of which may become one.
    most: usize,
    /// Whether the service is sent the PROXY header first.
    proxy_protocol: bool,
    /// Idle tunnels, and those that are being opened.
    ready: Cell<usize>,
    reachable: Cell<bool>,
}

impl<'a> Serving<'a> {
    pub(super) fn new(
        connector: &'a Connector,
        target: Address,
        connections: usize,
        most: usize,
        proxy_protocol: bool,
    ) -> Self {
        let target = connector.shared().dialler(target);
        let ready = Cell::new(0);
        let reachable = Cell::new(true);
        Serving { connector, target, connections, most, proxy_protocol, ready, reachable }
    }

    /// Serves until `stopped` is closed; sessions that run then go on as tasks of `tasks`.
    pub(super) async fn run<'t>(&'t self, tasks: &LocalExecutor<'t>, stopped: Receiver<()>) {
        let opening = async {
            loop {
                let changed = self.connector.changed.listen();
                if !self.wants_more() {
                    changed.await;
                    continue;
                }
                // A task only for a tunnel that may be opened now.
                let dial = self.connector.may_dial(FILES).await;
                let ready = Counted::notifying(&self.ready, &self.connector.changed);
                tasks.spawn(self.tunnel(dial, ready, stopped.clone())).detach();
            }
        };
        or(opening, closed(&stopped)).await;
    }

    fn wants_more(&self) -> bool {
        let (ready, sessions) = (self.ready.get(), self.connector.sessions());
        ready < self.connections && ready + sessions < self.most
    }

    /// One tunnel, from nothing to the end of its session.
    async fn tunnel(&self, dial: Dial<'_>, ready: Counted<'_>, stopped: Receiver<()>) {
        let paired = or(self.pair(dial), async {
            closed(&stopped).await;
            None
        })
        .await;
        if let Some(paired) = paired {
            let _session = self.connector.session();
            drop(ready);
            if self.connector.sessions() >= self.most {
                self.connector.health().reached(Bound::Sessions);
            }
            // Apart: an idle tunnel, of which there may be thousands, keeps no room for it.
            let outcome = Box::pin(self.session(paired)).await;
            self.connector.session_ended(outcome);
        }
    }

    async fn pair<'p>(&'p self, dial: Dial<'p>) -> Option<Paired<'p>> {
        let opened = Box::pin(self.connector.open(dial)).await.ok()?;
        let mut tunnel = Tunnel::new(opened, self.connector);
        match tunnel.session().await {
            Ok(header) => Some(tunnel.pair(header)),
            Err(why) => {
                tunnel.lost(why);
                None
            }
        }
    }

    async fn session(&self, mut paired: Paired<'_>) -> Outcome {
        let dialled = async { Some(self.target.dial(Instant::now() + limits::DIAL).await) };
        let gone = async {
            paired.gone().await;
            None
        };
        let local = match or(dialled, gone).await {
            Some(Ok(socket)) => Stream::plain(socket),
            Some(Err(error)) => Err(error),
            // The user has gone: the place is for the next one.
            None => return paired.outcome(),
        };
        let mut local = match local {
            Ok(local) => local,
            Err(error) => {
                if self.reachable.replace(false) {
                    say!(
                        self.connector.health(),
                        log::Level::Warn,
                        About::Target,
                        "the target {} cannot be reached, so users are closed: {}",
                        self.target.address(),
                        words::connection(&error)
                    );
                }
                paired.fail();
                return Outcome::Vain;
            }
        };
        // From the start: if the session never begins, the target must not take that for an orderly end.
        local.break_when_dropped();
        if !self.reachable.replace(true) {
            let (health, target) = (self.connector.health(), self.target.address());
            health.over(About::Target);
            say!(health, "the target {target} can be reached again");
        }
        // If the target has gone by now, the relay finds out.
        if self.proxy_protocol && local.queue(&paired.header).is_err() {
            paired.fail();
            return Outcome::Vain;
        }
        paired.carry(local).await
    }
}

/// Returns once `stopped` is closed.
pub(super) async fn closed(stopped: &Receiver<()>) {
    let _ = stopped.recv().await;
}
