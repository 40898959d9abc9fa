//! The connector as this side sees it: whether it answers, when it may be asked again, and how
//! many tunnels it allows.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::time::{Duration, Instant};

use event_listener::Event;
use futures_rustls::TlsConnector;
use futures_rustls::pki_types::ServerName;

use super::counted::Counted;
use super::options::Options;
use super::tunnel::Tunnel;
use crate::dial::{Address, dial};
use crate::limits;
use crate::mapping::Passcode;
use crate::process::Notifier;
use crate::reactor::until;
use crate::stream::{Received, Stream};
use crate::tls;

/// What a connector answers to the right passcode.
const AUTHORIZED: &[u8] = b"IOFOG/2 AUTHORIZED\n";

/// The first byte of a TLS alert.
const TLS_ALERT: u8 = 0x15;

/// The connector.
pub(super) struct Connector {
    /// Where it is.
    pub(super) address: Address,
    /// Time between heartbeats of an idle tunnel.
    pub(super) heartbeat: Duration,
    /// Notified whenever something changes that a task may wait for.
    pub(super) changed: Event,
    passcode: Passcode,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Authorized tunnels, idle and in use.
    open: Cell<usize>,
    sessions: Cell<usize>,
    dialing: Cell<usize>,
    /// The last try failed, or a tunnel was lost since: one try at a time.
    failing: Cell<bool>,
    not_before: Cell<Instant>,
    delay: Cell<Duration>,
    refusals: Cell<u32>,
    /// Whether the passcode was ever accepted.
    accepted: Cell<bool>,
    /// Tunnels the mapping seems to allow, and when to try for one more.
    ceiling: Cell<Option<(usize, Instant)>>,
    health: RefCell<Health>,
    notifier: Notifier,
}

/// What was last said of the connector.
#[derive(PartialEq, Eq)]
enum Health {
    Unknown,
    Open,
    Unreachable(String),
    Refused,
}

/// Why a try gave no tunnel.
pub(super) enum Failure {
    /// A sentence about what is in the way.
    Unreachable(String),
    /// It closed the connection in answer to the passcode.
    Refused,
}

impl Connector {
    /// A connector that has not been asked yet.
    ///
    /// # Errors
    /// A sentence about the certificates to trust, or the name.
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let address = options.connector.clone();
        let tls = if options.plain {
            None
        } else {
            let config = tls::client_config(options.ca.as_deref()).map_err(|e| e.to_string())?;
            let name = ServerName::try_from(address.host.clone())
                .map_err(|_| format!("--connector: {:?} is no name of a host", address.host))?;
            Some((TlsConnector::from(config), name))
        };
        Ok(Connector {
            address,
            heartbeat: options.heartbeat,
            changed: Event::new(),
            passcode: options.passcode.clone(),
            tls,
            open: Cell::new(0),
            sessions: Cell::new(0),
            dialing: Cell::new(0),
            failing: Cell::new(true),
            not_before: Cell::new(Instant::now()),
            delay: Cell::new(limits::REDIAL[0]),
            refusals: Cell::new(0),
            accepted: Cell::new(false),
            ceiling: Cell::new(None),
            health: RefCell::new(Health::Unknown),
            notifier: Notifier::from_env(),
        })
    }

    /// The service manager that watches this process.
    pub(super) fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Sessions that are on.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.get()
    }

    /// A session begins, until the guard is dropped. So the connector is all right.
    pub(super) fn session(&self) -> Counted<'_> {
        self.delay.set(limits::REDIAL[0]);
        Counted::new(&self.sessions, &self.changed)
    }

    /// Opens one tunnel, once the connector may be asked for it. Says what is in the way when
    /// that changes; the caller simply tries again.
    ///
    /// # Errors
    /// When this try failed.
    pub(super) async fn open(&self) -> Result<Tunnel<'_>, ()> {
        loop {
            let changed = self.changed.listen();
            match self.may_open(Instant::now()) {
                Ok(()) => break,
                Err(None) => changed.await,
                Err(Some(time)) => drop(until(time, changed).await),
            }
        }
        let dialing = Counted::new(&self.dialing, &self.changed);
        let opened = self.attempt().await;
        drop(dialing);
        match opened {
            Ok((stream, rest)) => {
                self.succeeded();
                let place = Counted::new(&self.open, &self.changed);
                Ok(Tunnel::new(stream, rest, place, self.heartbeat))
            }
            Err(failure) => {
                self.failed(failure);
                self.changed.notify(usize::MAX);
                Err(())
            }
        }
    }

    /// An idle tunnel of this age has ended by itself.
    pub(super) fn lost(&self, age: Duration, why: &str) {
        log::debug!("a tunnel to {} ended: {why}", self.address);
        if age >= limits::PROVEN {
            self.delay.set(limits::REDIAL[0]);
        }
        self.back_off();
    }

    /// Whether a tunnel may be opened now; else when to ask again, at a change or a time.
    fn may_open(&self, now: Instant) -> Result<(), Option<Instant>> {
        if now < self.not_before.get() {
            return Err(Some(self.not_before.get()));
        }
        if self.failing.get() && self.dialing.get() > 0 {
            return Err(None);
        }
        match self.ceiling.get() {
            Some((allowed, again)) if self.open.get() + self.dialing.get() >= allowed => {
                match self.dialing.get() {
                    0 if now >= again => Ok(()),
                    0 => Err(Some(again)),
                    _ => Err(None),
                }
            }
            _ => Ok(()),
        }
    }

    async fn attempt(&self) -> Result<(Stream, Vec<u8>), Failure> {
        let deadline = Instant::now() + limits::DIAL;
        let unreachable = |error: std::io::Error| Failure::Unreachable(error.to_string());
        let socket = dial(&self.address, deadline).await.map_err(unreachable)?;
        let mut stream = match &self.tls {
            None => Stream::plain(socket).map_err(unreachable)?,
            Some((connector, name)) => {
                let deadline = Instant::now() + limits::TLS_HANDSHAKE;
                match until(deadline, Stream::connect(socket, connector, name.clone())).await {
                    Some(Ok(stream)) => stream,
                    Some(Err(error)) => {
                        return Err(Failure::Unreachable(tls::explain_connector(&error)));
                    }
                    None => {
                        let why = "it does not answer the TLS handshake; if it is a `dev` \
                                   connector, use --plain";
                        return Err(Failure::Unreachable(why.into()));
                    }
                }
            }
        };
        let deadline = Instant::now() + limits::AUTHORIZED;
        match until(deadline, self.prove(&mut stream)).await {
            Some(proven) => proven.map(|rest| (stream, rest)),
            None => Err(Failure::Unreachable("it does not answer the passcode".into())),
        }
    }

    /// Says the passcode and reads the answer; gives what came with it.
    async fn prove(&self, stream: &mut Stream) -> Result<Vec<u8>, Failure> {
        let broke = |error| Failure::Unreachable(format!("the connection broke: {error}"));
        let offer = ["IOFOG/2 ", self.passcode.reveal(), "\n"].concat();
        stream.queue(offer.as_bytes()).map_err(broke)?;
        stream.flush().await.map_err(broke)?;
        let mut answer = Vec::new();
        loop {
            let received = poll_fn(|context| {
                stream.poll_receive(context, &mut |unit| answer.extend_from_slice(unit))
            });
            let received = received.await.map_err(broke)?;
            let common = answer.len().min(AUTHORIZED.len());
            if answer[..common] != AUTHORIZED[..common] {
                let why = match answer[0] {
                    TLS_ALERT if self.tls.is_none() => "it speaks TLS; leave --plain out",
                    _ => "what answers there is no ioFog Connector's port for tunnels of version 2",
                };
                return Err(Failure::Unreachable(why.into()));
            }
            if let Some(rest) = answer.strip_prefix(AUTHORIZED) {
                return Ok(rest.to_vec());
            }
            if received == Received::Ended {
                return Err(Failure::Refused);
            }
        }
    }

    fn succeeded(&self) {
        self.failing.set(false);
        self.accepted.set(true);
        self.refusals.set(0);
        if let Some((allowed, again)) = self.ceiling.get() {
            self.ceiling.set(Some((allowed.max(self.open.get() + 1), again)));
        }
        self.tell(Health::Open);
    }

    fn failed(&self, failure: Failure) {
        match failure {
            Failure::Unreachable(why) => {
                self.back_off();
                self.tell(Health::Unreachable(why));
            }
            // The passcode is right, so it was one tunnel too many.
            Failure::Refused if self.open.get() > 0 => {
                log::debug!("{} allows {} tunnels", self.address, self.open.get());
                let again = Instant::now() + limits::REFUSED_AGAIN;
                self.ceiling.set(Some((self.open.get(), again)));
            }
            Failure::Refused => {
                self.refusals.set(self.refusals.get().saturating_add(1));
                // A connector that is just ending closes, too: a first time is no proof.
                if self.accepted.get() || self.refusals.get() == 1 {
                    self.back_off();
                } else {
                    self.failing.set(true);
                    self.not_before.set(Instant::now() + limits::REFUSED_AGAIN);
                }
                self.tell(Health::Refused);
            }
        }
    }

    /// Lets time pass before the next try, twice as much each time. What fails together counts
    /// once.
    fn back_off(&self) {
        self.failing.set(true);
        let now = Instant::now();
        if now < self.not_before.get() {
            return;
        }
        let delay = self.delay.get();
        self.not_before.set(now + delay.mul_f32(0.5 + 0.5 * fastrand::f32()));
        self.delay.set((2 * delay).min(limits::REDIAL[1]));
    }

    /// One line for each change of state, none for each try.
    fn tell(&self, health: Health) {
        if *self.health.borrow() == health {
            return;
        }
        let address = &self.address;
        let what = match &health {
            Health::Unknown => String::new(),
            Health::Open => format!("connected to {address}"),
            Health::Unreachable(why) => {
                format!("connector {address}: {why} (tried again until it answers)")
            }
            Health::Refused if self.accepted.get() => format!(
                "connector {address} does not accept the passcode any more: was the mapping \
                 removed, or are all its tunnels open elsewhere? It is tried again"
            ),
            Health::Refused => format!(
                "connector {address} does not accept the passcode: it is wrong, or not the one of \
                 this port, or all the mapping's tunnels are open elsewhere. It is tried again \
                 every {} s",
                limits::REFUSED_AGAIN.as_secs()
            ),
        };
        match &health {
            Health::Open | Health::Unknown => log::info!("{what}"),
            Health::Unreachable(_) => log::warn!("{what}"),
            Health::Refused => log::error!("{what}"),
        }
        self.notifier.status(&what);
        self.health.replace(health);
    }
}
