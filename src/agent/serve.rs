//! Serving: idle tunnels are kept ready, and each session is carried to a service.

use std::cell::Cell;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use event_listener::Event;
use smol::LocalExecutor;
use smol::channel::Receiver;
use smol::future::{FutureExt, or, poll_once};

use super::closings::Closings;
use super::connector::{Connector, Dial, Opened};
use super::framed::{Begun, Framed, Left};
use super::health::{About, Bound};
use super::lost::Lost;
use super::pace::Outcome;
use super::surplus::Surplus;
use super::tunnel::{Paired, Tunnel};
use super::words;
use crate::limits;
use crate::net::dial::{Address, Dialler};
use crate::net::stream::Stream;
use crate::os::For;
use crate::runtime::{Counted, now, sleep, until};
use crate::session::Want;
use crate::wire::greeting::Version;

/// Files of a tunnel and of its session's connection to the target.
const FILES: usize = 2;

/// Carries sessions to a service.
pub(super) struct Serving<'a> {
    connector: &'a Connector,
    target: Dialler,
    /// Idle tunnels kept ready.
    connections: usize,
    /// Most tunnels at one time, each of which may have a session.
    most: usize,
    /// Whether the service is sent the PROXY header first.
    proxy_protocol: bool,
    /// Tunnels, and those that are being opened.
    tunnels: Cell<usize>,
    /// Those among them that are idle or being opened, or of version 3 and have just got a session: most are
    /// idle again before another could be opened.
    ready: Cell<usize>,
    /// Users for whom the connector wants tunnels, and how many of these are still to be opened.
    want: Arc<Want>,
    wanted: Cell<usize>,
    /// Notified for each idle version 3 tunnel that is to be given up; who has been idle longest hears first.
    give_up: Event,
    reachable: Cell<bool>,
    /// Closes connections to the target whose sessions are over, while their tunnels serve again.
    closings: Closings<'a>,
}

/// What guards count for a tunnel.
struct Places<'s> {
    _tunnel: Counted<'s>,
    ready: Option<Counted<'s>>,
}

impl<'a> Serving<'a> {
    pub(super) fn new(
        connector: &'a Connector,
        target: Address,
        connections: usize,
        most: usize,
        proxy_protocol: bool,
    ) -> Self {
        Serving {
            connector,
            target: connector.shared().dialler(target),
            connections,
            most,
            proxy_protocol,
            tunnels: Cell::new(0),
            ready: Cell::new(0),
            want: Arc::default(),
            wanted: Cell::new(0),
            give_up: Event::new(),
            reachable: Cell::new(true),
            closings: Closings::default(),
        }
    }

    /// Serves until `stopped` is closed; sessions that run then go on as tasks of `tasks`.
    pub(super) async fn run<'t>(&'t self, tasks: &LocalExecutor<'t>, stopped: Receiver<()>) {
        let opening = async {
            loop {
                let changed = or(self.connector.changed.listen(), self.want.listen());
                if !self.wants_more() {
                    changed.await;
                    continue;
                }
                // A task only for a tunnel that may be opened now.
                let dial = self.connector.may_dial(FILES).await;
                if !self.wants_more() {
                    // Others have come back meanwhile.
                    continue;
                }
                self.wanted.set(self.wanted.get().saturating_sub(1));
                let places = Places {
                    _tunnel: Counted::notifying(&self.tunnels, &self.connector.changed),
                    ready: Some(self.ready()),
                };
                let tunnel = self.tunnel(dial, places, stopped.clone());
                tasks.spawn(tunnel.boxed_local()).detach();
            }
        };
        or(or(opening, self.give_up_surplus()), closed(&stopped)).await;
        self.want.nothing_more();
    }

    /// Closes what is left of sessions that are over, for ever.
    pub(super) async fn close_rests<T>(&self) -> T {
        self.closings.run().await
    }

    /// Whether one more tunnel is to be opened: so many are kept ready, and for each user for whom the connector
    /// wants one there is one more.
    fn wants_more(&self) -> bool {
        let room = self.most.saturating_sub(self.tunnels.get());
        let wanted = self.wanted.get() + usize::from(self.want.take());
        self.wanted.set(wanted.min(room));
        room > 0 && (self.wanted.get() > 0 || self.ready.get() < self.connections)
    }

    fn ready(&self) -> Counted<'_> {
        Counted::notifying(&self.ready, &self.connector.changed)
    }

    /// Has idle tunnels given up that are more than are kept ready, for ever.
    async fn give_up_surplus(&self) {
        let mut surplus = Surplus::new(self.connections);
        loop {
            let changed = self.connector.changed.listen();
            surplus.look(now(), self.ready.get());
            self.give_up.notify_additional(surplus.due(now()));
            match surplus.next() {
                Some(time) => drop(until(time, changed).await),
                None => changed.await,
            }
        }
    }

    /// One tunnel, from nothing to its end.
    async fn tunnel(&self, dial: Dial<'_>, places: Places<'_>, stopped: Receiver<()>) {
        let opened = or(async { Box::pin(self.connector.open(dial)).await.ok() }, async {
            closed(&stopped).await;
            None
        });
        match opened.await {
            // It is asked for again when users wait then.
            None => self.wanted.set(0),
            // Apart: an idle tunnel takes no more room than its own version needs.
            Some(opened) if opened.version == Version::Three => {
                Box::pin(self.framed(opened, places, &stopped)).await;
            }
            Some(opened) => Box::pin(self.once(opened, places, &stopped)).await,
        }
    }

    /// A version 3 tunnel's life: sessions, one after another, until one of both sides wants no more.
    async fn framed(&self, opened: Opened<'_>, mut places: Places<'_>, stopped: &Receiver<()>) {
        let mut tunnel = Framed::new(opened, self.connector, self.want.clone());
        loop {
            let header = match self.next(&mut tunnel, &mut places, stopped).await {
                Ok(Some(header)) => header,
                Ok(None) => {
                    tunnel.close();
                    return self.connector.given_up();
                }
                Err(why) => return tunnel.lost(why),
            };
            let session = self.session();
            // Apart: an idle tunnel, of which there may be thousands, keeps no room for it.
            let left = Box::pin(self.framed_session(tunnel.begin(), &header, &mut places)).await;
            self.connector.session_ended(left.outcome, left.tunnel.is_some());
            let Some(idle) = left.tunnel else {
                if let Some(closing) = left.closing {
                    closing.await;
                }
                return;
            };
            if let Some(closing) = left.closing {
                self.close(closing).await;
            }
            tunnel = idle;
            if !tunnel.has_said_bye() {
                places.ready.get_or_insert_with(|| self.ready());
            }
            drop(session);
        }
    }

    /// Waits for the next session, as [`Framed::next`], until the tunnel is given up: because too many are idle, or
    /// all stop.
    async fn next(
        &self,
        tunnel: &mut Framed<'_>,
        places: &mut Places<'_>,
        stopped: &Receiver<()>,
    ) -> Result<Option<Box<[u8]>>, Lost> {
        if !tunnel.has_said_bye() {
            let given_up = self.give_up.listen();
            let next = or(async { Some(tunnel.next().await) }, async {
                or(given_up, closed(stopped)).await;
                None
            });
            if let Some(next) = next.await {
                return next;
            }
            places.ready = None;
            tunnel.bye();
        }
        let [wait, stopping] = limits::BYE;
        let wait = if stopped.is_closed() { stopping } else { wait };
        // A connector that does not close it has been told enough.
        until(now() + wait, tunnel.next()).await.unwrap_or(Ok(None))
    }

    /// A version 2 tunnel, to the end of its session.
    async fn once(&self, opened: Opened<'_>, places: Places<'_>, stopped: &Receiver<()>) {
        let paired = or(self.pair(opened), async {
            closed(stopped).await;
            None
        });
        if let Some(paired) = paired.await {
            let _session = self.session();
            let Places { _tunnel, ready } = places;
            drop(ready);
            let outcome = Box::pin(self.session_once(paired)).await;
            self.connector.session_ended(outcome, false);
        }
    }

    fn session(&self) -> Counted<'_> {
        let session = self.connector.session();
        if self.connector.sessions() >= self.most {
            self.connector.health().reached(Bound::Sessions);
        }
        session
    }

    async fn pair<'p>(&'p self, opened: Opened<'p>) -> Option<Paired<'p>> {
        let mut tunnel = Tunnel::new(opened, self.connector);
        match tunnel.session().await {
            Ok(header) => Some(tunnel.pair(header)),
            Err(why) => {
                tunnel.lost(why);
                None
            }
        }
    }

    /// A version 3 tunnel's session. Only one that lasts takes a place among those that are ready, which is opened
    /// anew then; for more that begin at one time the connector asks.
    async fn framed_session<'t>(
        &self,
        mut begun: Begun<'t>,
        header: &[u8],
        places: &mut Places<'_>,
    ) -> Left<'t> {
        let session = async {
            let dialled = or(async { Err(begun.gone().await) }, async { Ok(self.dial().await) });
            let reached = match dialled.await {
                Ok(reached) => reached,
                // The user has gone: the tunnel is for the next one.
                Err(gone) => return begun.leave(gone),
            };
            match reached.and_then(|local| self.introduce(local, header)) {
                Ok(local) => begun.carry(local, false).await,
                Err(reason) => begun.fail(&reason),
            }
        };
        let lasting = async {
            sleep(limits::VAIN_SESSION).await;
            places.ready = None;
            pending().await
        };
        or(session, lasting).await
    }

    /// Closes what is left of a session while the tunnel serves again, as long as there are files for both.
    async fn close(&self, mut closing: Pin<Box<dyn Future<Output = ()>>>) {
        if poll_once(&mut closing).await.is_some() {
            return;
        }
        if let Some(file) = self.connector.shared().files.try_take(For::Pipe) {
            let counted = self.connector.closing();
            let close = async move {
                closing.await;
                drop((file, counted));
            };
            self.closings.add(close);
        }
    }

    /// The session of a version 2 tunnel.
    async fn session_once(&self, mut paired: Paired<'_>) -> Outcome {
        let gone = async {
            paired.gone().await;
            None
        };
        let reached = match or(async { Some(self.dial().await) }, gone).await {
            Some(reached) => reached,
            // The user has gone: the place is for the next one.
            None => return paired.outcome(),
        };
        match reached.and_then(|local| self.introduce(local, &paired.header)) {
            Ok(local) => paired.carry(local).await,
            Err(_) => {
                paired.fail();
                Outcome::Vain
            }
        }
    }

    /// Connects to the target.
    ///
    /// # Errors
    /// Why it cannot be reached, in a sentence for the connector's log.
    async fn dial(&self) -> Result<Stream, String> {
        let dialled = self.target.dial(Instant::now() + limits::DIAL).await;
        let (health, target) = (self.connector.health(), self.target.address());
        let local = dialled.and_then(Stream::plain).map_err(|error| {
            let why = words::connection(&error);
            if self.reachable.replace(false) {
                say!(
                    health,
                    log::Level::Warn,
                    About::Target,
                    "the target {target} cannot be reached, so users are closed: {why}"
                );
            }
            words::unreached(target, &why)
        })?;
        if !self.reachable.replace(true) {
            health.over(About::Target);
            say!(health, "the target {target} can be reached again");
        }
        Ok(local)
    }

    /// Tells the target of the user, if it is to be told.
    ///
    /// # Errors
    /// As [`Serving::dial`].
    fn introduce(&self, mut local: Stream, header: &[u8]) -> Result<Stream, String> {
        // From the start: if the session never begins, the target must not take that for an orderly end.
        local.break_when_dropped();
        if self.proxy_protocol {
            // If the target has gone by now and that is not found here, the relay finds out.
            local.queue(header).map_err(|error| {
                words::unreached(self.target.address(), &words::connection(&error))
            })?;
        }
        Ok(local)
    }
}

/// Returns once `stopped` is closed.
pub(super) async fn closed(stopped: &Receiver<()>) {
    let _ = stopped.recv().await;
}
