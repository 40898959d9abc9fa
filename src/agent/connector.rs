//! The connector as this side sees it: whether it answers and keeps what it accepts, and what is
//! said of that.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use event_listener::Event;
use futures_rustls::pki_types::ServerName;
use futures_rustls::rustls::ClientConfig;
use smol::lock::Mutex;

use super::counted::Counted;
use super::options::{Options, Source, Work};
use super::pace::{Outcome, Pace, Refusal};
use super::reached::Limit;
use super::tunnel::{Lost, Tunnel};
use super::words;
use crate::limits;
use crate::logging::ALWAYS;
use crate::mappings::mapping::Passcode;
use crate::net::dial::{Address, Dialler};
use crate::net::stream::{Received, Stream, is_too_much};
use crate::os::{FileGuard, Files, For, Notifier};
use crate::runtime::until;
use crate::session::Traffic;
use crate::text::reason;
use crate::tls::{self, TlsError};
use crate::wire::greeting::{self, Version};

/// A hint that may help. Users' ports cannot be told in plain TCP: what they say is their service's.
const IS_IT_PORT1: &str = "; is it the port for agents, port1, and not the users' (port2)? \
                           `iofog-connector mapping list` shows both";

/// What is said of a port that gives tickets.
const USERS_PORT: &str = "that is a port for users (port2), or no ioFog Connector: it gives TLS \
                          session tickets, which ports for agents never do. Name port1; \
                          `iofog-connector mapping list` shows both";

/// The first byte of a TLS alert.
const TLS_ALERT: u8 = 0x15;

/// The connector.
pub(super) struct Connector {
    /// Time between heartbeats of an idle tunnel.
    pub(super) heartbeat: Duration,
    /// Notified whenever something changes that a task may wait for. Few ever do: one that wants
    /// a tunnel, one that accepts, one that waits for the end.
    pub(super) changed: Event,
    way: Dialler,
    /// Whose turn it is to wait for a place.
    turn: Mutex<()>,
    proof: RefCell<Proof>,
    source: Source,
    ca: Option<PathBuf>,
    /// When certificates and passcode were read last, and whether that is a reason for a failure.
    read: Cell<(Instant, bool)>,
    /// Authorized tunnels, idle and in use.
    open: Cell<usize>,
    sessions: Cell<usize>,
    dialing: Cell<usize>,
    /// Bytes of all sessions.
    traffic: Arc<Traffic>,
    /// Those from the connector's side when the last session ended.
    carried: Cell<u64>,
    pace: RefCell<Pace>,
    files: Arc<Files>,
    /// Whether it has been said that files are short.
    short: Cell<bool>,
    /// Losses of tunnels that had not shown yet that they work, since one did.
    unproven: Cell<u32>,
    /// What is wrong with tunnels that the connector accepts.
    doubt: RefCell<Option<String>>,
    health: RefCell<Health>,
    /// The same in words.
    said: RefCell<String>,
    /// Idle tunnels that are to be ready.
    wanted: usize,
    /// What can be done where the mapping allows fewer tunnels than are wanted, and the smallest
    /// number of which that was said.
    too_few: (String, Cell<usize>),
    /// What this side itself allows, by [`Bound`].
    limits: [Limit; 2],
    notifier: Notifier,
}

/// What both sides prove themselves with.
struct Proof {
    passcode: Passcode,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// The right to try for one more tunnel, and the files that it and its session need.
pub(super) struct Place<'a> {
    files: Vec<FileGuard>,
    dialing: Counted<'a>,
}

/// An open tunnel's place, given back when dropped.
pub(super) struct Open<'a> {
    // In this order: who learns that a place is free finds files for it.
    _files: Vec<FileGuard>,
    _open: Counted<'a>,
}

/// What was last said of the connector.
#[derive(PartialEq, Eq)]
enum Health {
    Unknown,
    Open,
    /// It accepts the passcode, and then does not do what is due.
    Unsteady(String),
    Unreachable(String),
    Refused(bool),
}

/// What the options bound.
#[derive(Clone, Copy)]
pub(super) enum Bound {
    /// Sessions at one time (`--sessions`).
    Sessions,
    /// Local connections that wait for a session (`--pending`).
    Pending,
}

/// Why a try gave no tunnel.
enum Failure {
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
    pub(super) fn new(options: &Options, files: Arc<Files>) -> Result<Self, String> {
        let address = options.connector.clone();
        let (waits, pending) = match options.work {
            Work::Serve { .. } => ("users wait at the connector", 0),
            Work::Listen { pending, .. } => ("local connections wait", pending),
        };
        let limits = [
            Limit::new(
                "--sessions",
                options.sessions,
                format!("{waits} until a session ends; raise it if they should not, and the limit \
                         of open files with it, two for each"),
            ),
            Limit::new(
                "--pending",
                pending,
                "further local connections wait unaccepted until the pipe's other side takes more; \
                 see whether it is there, or raise it"
                    .into(),
            ),
        ];
        let (wanted, too_few) = match options.work {
            Work::Serve { connections, .. } => (
                connections,
                format!(
                    "fewer than --connections {connections} and the sessions need; users wait while \
                     all are in use. Name a smaller number here, or add a mapping that allows more \
                     (`iofog-connector mapping add public --connections N`)"
                ),
            ),
            Work::Listen { .. } => (
                1,
                "further local connections wait; add a mapping that allows more \
                 (`iofog-connector mapping add private --connections N`)"
                    .into(),
            ),
        };
        let tls = if options.plain {
            None
        } else {
            let ca = options.ca.as_deref();
            let config = tls::client_config(ca).map_err(|fault| distrust(ca, &fault))?;
            let name = ServerName::try_from(address.host.clone())
                .map_err(|_| format!("--connector: {:?} is no name of a host", address.host))?;
            Some((config, name))
        };
        let now = Instant::now();
        Ok(Connector {
            heartbeat: options.heartbeat,
            changed: Event::new(),
            way: Dialler::new(address, files.clone()),
            turn: Mutex::new(()),
            proof: RefCell::new(Proof { passcode: options.passcode.clone(), tls }),
            source: options.source.clone(),
            ca: options.ca.clone(),
            read: Cell::new((now, false)),
            open: Cell::new(0),
            sessions: Cell::new(0),
            dialing: Cell::new(0),
            traffic: Arc::default(),
            carried: Cell::new(0),
            pace: RefCell::new(Pace::new(now)),
            files,
            short: Cell::new(false),
            unproven: Cell::new(0),
            doubt: RefCell::new(None),
            health: RefCell::new(Health::Unknown),
            said: RefCell::new("connecting".into()),
            wanted,
            too_few: (too_few, Cell::new(usize::MAX)),
            limits,
            notifier: Notifier::from_env(),
        })
    }

    /// Where it is.
    pub(super) fn address(&self) -> &Address {
        self.way.address()
    }

    /// The service manager that watches this process.
    pub(super) fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// The files that connections may take.
    pub(super) fn files(&self) -> &Arc<Files> {
        &self.files
    }

    /// Where all sessions count their bytes.
    pub(super) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Sessions that are on.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.get()
    }

    /// A session begins, until the guard is dropped.
    pub(super) fn session(&self) -> Counted<'_> {
        Counted::new(&self.sessions, &self.changed)
    }

    /// A session has ended.
    pub(super) fn session_ended(&self, outcome: Outcome) {
        if outcome != Outcome::Vain {
            self.steady();
        }
        let carried = self.traffic.bytes[0].load(Ordering::Relaxed);
        let others = self.carried.replace(carried) != carried;
        let outcome = if others { Outcome::Carried } else { outcome };
        self.pace.borrow_mut().given_back(Instant::now());
        if self.pace.borrow_mut().session_ended(Instant::now(), outcome) {
            log::warn!(
                "{} sessions from {} end at once, one after the other, without a byte: a user that only looks in again and again, or a connector at fault; tunnels \
                 are opened more slowly until one is used",
                limits::VAIN_SESSIONS,
                self.address()
            );
        }
    }

    /// Waits until one more tunnel may be asked for, and takes the `files` that it needs with its
    /// session. First come, first served.
    pub(super) async fn place(&self, files: usize) -> Place<'_> {
        let _turn = self.turn.lock().await;
        loop {
            let changed = self.changed.listen();
            let now = Instant::now();
            let may = self.pace.borrow().may_open(now, self.open.get(), self.dialing.get());
            match may {
                Ok(()) => {
                    if let Some(files) = self.take_files(files) {
                        self.pace.borrow_mut().dialled(now);
                        return Place {
                            files,
                            dialing: Counted::new(&self.dialing, &self.changed),
                        };
                    }
                    // Further addresses that were dialled give theirs back without a word.
                    until(now + limits::FILES_AGAIN, changed).await;
                }
                Err(None) => changed.await,
                Err(Some(time)) => drop(until(time, changed).await),
            }
        }
    }

    /// So many files, or none and a line about it.
    pub(super) fn take_files(&self, count: usize) -> Option<Vec<FileGuard>> {
        let taken: Option<Vec<_>> = (0..count).map(|_| self.files.try_take(For::Pipe)).collect();
        if taken.is_none() && !self.short.replace(true) {
            log::warn!(
                "the limit of open files is enough for {} tunnels and their sessions now; raise it \
                 (LimitNOFILE= of the unit, or ulimit -n) for more",
                self.open.get() + self.dialing.get()
            );
        }
        taken
    }

    /// Opens one tunnel. Says what is in the way when that changes; the caller simply asks for a
    /// place again.
    ///
    /// # Errors
    /// When this try failed.
    pub(super) async fn open<'a>(&'a self, place: Place<'a>) -> Result<Tunnel<'a>, ()> {
        let Place { files, dialing } = place;
        let opened = self.attempt().await;
        match opened {
            Ok((stream, rest)) => {
                let open = Counted::new(&self.open, &self.changed);
                self.succeeded();
                drop(dialing);
                let place = Open { _files: files, _open: open };
                Ok(Tunnel::new(stream, rest, place, self))
            }
            Err(failure) => {
                self.failed(failure);
                Err(())
            }
        }
    }

    /// An idle tunnel has ended by itself.
    pub(super) fn lost(&self, tunnel: &Tunnel<'_>, why: &Lost) {
        log::debug!("a tunnel to {} ended: {why}", self.address());
        let now = Instant::now();
        self.pace.borrow_mut().given_back(now);
        let counts = self.pace.borrow_mut().lost(now, tunnel.age());
        if tunnel.is_proven() {
            return;
        }
        self.unproven.set(self.unproven.get().saturating_add(u32::from(counts)));
        // A connector that is just ending closes what it has just accepted, once.
        if !why.is_ending() || self.unproven.get() > 1 {
            self.doubt.replace(Some(why.to_string()));
            self.tell(Health::Unsteady(why.to_string()));
        }
    }

    /// A tunnel has shown that the connector does what it should.
    pub(super) fn steady(&self) {
        self.unproven.set(0);
        if self.doubt.take().is_some() {
            self.tell(Health::Open);
        }
    }

    /// When an idle tunnel's first heartbeat is due: soon, where a tunnel has yet to show that the
    /// connector is all right.
    pub(super) fn first_heartbeat(&self) -> Duration {
        match *self.doubt.borrow() {
            Some(_) => self.heartbeat.min(2 * limits::PROVEN_IDLE),
            None => self.heartbeat,
        }
    }

    /// Reads certificates and passcode again, and tries at once (SIGHUP).
    pub(super) fn reload(&self) {
        if self.read_again() {
            log::info!(target: ALWAYS, "certificates and passcode read again");
        }
        self.pace.borrow_mut().try_now(Instant::now());
        self.changed.notify(usize::MAX);
    }

    /// Reads certificates and passcode again; what cannot be read stays as it was. `true` when all
    /// was read.
    fn read_again(&self) -> bool {
        self.read.set((Instant::now(), false));
        let proof = &mut *self.proof.borrow_mut();
        let mut all = true;
        if let Some((trusted, _)) = &mut proof.tls {
            match tls::client_config(self.ca.as_deref()) {
                Ok(config) => *trusted = config,
                Err(fault) => {
                    let fault = distrust(self.ca.as_deref(), &fault);
                    log::warn!("{fault}; the certificates read before stay in force");
                    all = false;
                }
            }
        }
        match self.source.read_again() {
            Ok(Some(passcode)) => proof.passcode = passcode,
            Ok(None) => {}
            Err(fault) => {
                log::warn!("{fault}; the passcode read before stays in force");
                all = false;
            }
        }
        all
    }

    async fn attempt(&self) -> Result<(Stream, Vec<u8>), Failure> {
        let (read, is_the_reason) = self.read.get();
        if is_the_reason && read.elapsed() >= limits::READ_AGAIN {
            self.read_again();
        }
        let deadline = Instant::now() + limits::DIAL;
        let unreachable = |error: io::Error| Failure::Unreachable(words::connection(&error));
        let socket = self.way.dial(deadline).await.map_err(unreachable)?;
        let (passcode, tls) = {
            let proof = self.proof.borrow();
            (proof.passcode.clone(), proof.tls.clone())
        };
        let is_plain = tls.is_none();
        let mut stream = match tls {
            None => Stream::plain(socket).map_err(unreachable)?,
            Some((config, name)) => {
                let deadline = Instant::now() + limits::TLS_HANDSHAKE;
                match until(deadline, Stream::connect(socket, config, name)).await {
                    Some(Ok(stream)) => stream,
                    Some(Err(error)) => {
                        if tls::is_distrust(&error) {
                            self.read.set((self.read.get().0, true));
                        }
                        let why = match error.raw_os_error() {
                            Some(_) => {
                                format!("the TLS handshake failed: {}", words::connection(&error))
                            }
                            None => tls::explain_connector(&error),
                        };
                        return Err(Failure::Unreachable(why));
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
        match until(deadline, prove(&mut stream, &passcode, is_plain)).await {
            Some(Ok(rest)) => Ok((stream, rest)),
            Some(Err(failure)) => Err(failure),
            None => Err(no_answer(&stream, "it does not answer the passcode")),
        }
    }

    fn succeeded(&self) {
        self.pace.borrow_mut().authorized(self.open.get());
        let doubt = self.doubt.borrow().clone();
        self.tell(doubt.map_or(Health::Open, Health::Unsteady));
    }

    fn failed(&self, failure: Failure) {
        let now = Instant::now();
        match failure {
            Failure::Unreachable(why) => {
                self.pace.borrow_mut().unreachable(now);
                self.tell(Health::Unreachable(why));
            }
            Failure::Refused => {
                let refusal = self.pace.borrow_mut().refused(now, self.open.get());
                match refusal {
                    Refusal::OneTooMany => self.tell_allowed(),
                    Refusal::NotYet => log::debug!("{} has no place free yet", self.address()),
                    Refusal::NotAnyMore | Refusal::Never => {
                        self.read.set((self.read.get().0, true));
                        self.tell(Health::Refused(refusal == Refusal::NotAnyMore));
                    }
                }
            }
        }
    }

    /// Says how many tunnels the mapping allows, once, and again should they become fewer.
    fn tell_allowed(&self) {
        let allowed = self.pace.borrow().allowed();
        let (remedy, said) = &self.too_few;
        if allowed < said.get() {
            said.set(allowed);
            log::log!(
                if allowed < self.wanted { log::Level::Warn } else { log::Level::Info },
                "connector {} allows {allowed} {} at one time, those in use included: {remedy}",
                self.address(),
                if allowed == 1 { "tunnel" } else { "tunnels" }
            );
        }
    }

    /// One line for each change of state, none for each try.
    fn tell(&self, health: Health) {
        if *self.health.borrow() == health {
            return;
        }
        let address = self.address();
        let what = match &health {
            Health::Unknown => String::new(),
            Health::Open => format!("connected to {address}"),
            Health::Unsteady(why) => format!(
                "connector {address} accepts the passcode, but {why} (tried again until it keeps \
                 a tunnel)"
            ),
            Health::Unreachable(why) => {
                format!("connector {address}: {why} (tried again until it answers)")
            }
            Health::Refused(true) => format!(
                "connector {address} does not accept the passcode any more: was the mapping \
                 removed, or are all its tunnels open elsewhere? It is tried again"
            ),
            Health::Refused(false) => format!(
                "connector {address} does not accept the passcode: it is wrong, or not the one of \
                 this port, or all the mapping's tunnels are open elsewhere. It is tried again \
                 every {} s",
                limits::REFUSED_AGAIN.as_secs()
            ),
        };
        match &health {
            Health::Open | Health::Unknown => log::info!("{what}"),
            Health::Unreachable(_) | Health::Unsteady(_) => log::warn!("{what}"),
            Health::Refused(_) => log::error!("{what}"),
        }
        self.said.replace(what);
        self.show();
        self.health.replace(health);
    }

    /// The last place that an option allows has been taken.
    pub(super) fn reached(&self, bound: Bound) {
        self.limits[bound as usize].reach();
        self.tell_limits();
    }

    /// Says which limits were reached, if that is new.
    pub(super) fn tell_limits(&self) {
        let now = Instant::now();
        for news in self.limits.iter().filter_map(|limit| limit.news(now)) {
            log::warn!("{news}");
            self.show();
        }
    }

    /// Tells the service manager how the connector is, and which limits were reached.
    fn show(&self) {
        let reached = self.limits.iter().filter_map(Limit::state);
        let parts: Vec<_> = [self.said.borrow().clone()].into_iter().chain(reached).collect();
        self.notifier.status(&parts.join("; "));
    }
}

/// Why the certificates to trust cannot be read; with the option that names them, if there is one.
fn distrust(ca: Option<&Path>, fault: &TlsError) -> String {
    match ca {
        Some(_) if matches!(fault, TlsError::File { error, .. } if reason::is_missing(error)) => {
            format!("--ca {fault}; is its path right?")
        }
        Some(_) => format!("--ca {fault}"),
        None => fault.to_string(),
    }
}

/// Says the passcode and reads the answer; gives what came with it.
async fn prove(
    stream: &mut Stream,
    passcode: &Passcode,
    is_plain: bool,
) -> Result<Vec<u8>, Failure> {
    let offer = greeting::greeting(passcode.reveal());
    if let Err(error) = stream.queue(offer.as_bytes()) {
        return Err(broke(stream, &error));
    }
    if let Err(error) = stream.flush().await {
        return Err(broke(stream, &error));
    }
    let authorized = Version::Two.authorized();
    let mut answer = Vec::new();
    loop {
        let received = poll_fn(|context| {
            stream.poll_receive(context, &mut |unit| answer.extend_from_slice(unit))
        });
        let received = received.await.map_err(|error| broke(stream, &error))?;
        let common = answer.len().min(authorized.len());
        if answer[..common] != authorized[..common] {
            return Err(match answer[0] {
                TLS_ALERT if is_plain => {
                    Failure::Unreachable("it speaks TLS; leave --plain out".into())
                }
                _ => no_answer(
                    stream,
                    "what answers there is no ioFog Connector's port for tunnels of version 2",
                ),
            });
        }
        if let Some(rest) = answer.strip_prefix(authorized) {
            return Ok(rest.to_vec());
        }
        if received == Received::Ended {
            return Err(match stream.has_ticket() {
                true => no_answer(stream, "it has ended the connection"),
                false => Failure::Refused,
            });
        }
    }
}

/// A connection that broke instead of an answer.
fn broke(stream: &Stream, error: &io::Error) -> Failure {
    match is_too_much(error) {
        true => Failure::Unreachable(error.to_string()),
        false => no_answer(stream, &words::connection(error)),
    }
}

/// What is no answer to a passcode. One sign of a port for users is sure: connectors give tickets to
/// nobody else.
fn no_answer(stream: &Stream, what: &str) -> Failure {
    Failure::Unreachable(match stream.has_ticket() {
        true => USERS_PORT.into(),
        false => format!("{what}{IS_IT_PORT1}"),
    })
}
