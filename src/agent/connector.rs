//! The connector as this side sees it: how many tunnels to it are open, and when one more may be
//! opened.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use event_listener::Event;
use smol::lock::Mutex;

use super::authorize::{Authorized, Failure, authorize};
use super::beats::Beats;
use super::health::{About, Health};
use super::lost::Lost;
use super::options::Options;
use super::pace::{Outcome, Pace, Refusal};
use super::proof::{Proof, Suspect};
use super::shared::Shared;
use super::versions::Versions;
use super::words;
use crate::limits;
use crate::logging::Utc;
use crate::net::dial::{Address, Dialler};
use crate::net::proxy::Proxy;
use crate::net::stream::{Received, Stream};
use crate::os::{FileGuard, For, Notifier};
use crate::runtime::{Counted, now, until};
use crate::session::Traffic;
use crate::wire::greeting::Version;

/// The connector.
pub(super) struct Connector {
    /// Time between heartbeats of an idle tunnel.
    pub(super) heartbeat: Duration,
    /// Notified whenever something changes that a task may wait for. Few tasks do: one that wants a
    /// tunnel, one that accepts, one that waits for the end.
    pub(super) changed: Event,
    /// Where it is.
    address: Address,
    /// To it, or to the proxy.
    dialler: Dialler,
    /// Through which it is reached.
    proxy: Option<Proxy>,
    /// Held by the task that waits until it may dial.
    turn: Mutex<()>,
    proof: RefCell<Proof>,
    /// Authorized tunnels, idle and in use.
    open: Cell<usize>,
    sessions: Cell<usize>,
    /// Local connections of sessions that are over, which have not taken all yet.
    closing: Cell<usize>,
    /// And since when.
    stage: Cell<(Stage, Utc)>,
    /// How often certificates and passcode were read again because somebody asked for it.
    reloads: Cell<u32>,
    dialing: Cell<usize>,
    /// Bytes of all sessions.
    traffic: Arc<Traffic>,
    /// Those from the connector's side when the last session ended.
    carried: Cell<u64>,
    pace: RefCell<Pace>,
    versions: RefCell<Versions>,
    shared: Rc<Shared>,
    /// Whether the log has been told that files are short.
    short: Cell<bool>,
    health: Health,
}

/// How far a tunnel's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It takes sessions.
    Working,
    /// Its local port cannot be opened; that is tried again.
    Failed,
    /// It takes no more, and lets those that run finish.
    Draining,
    Over,
}

/// The right to try for one more tunnel, and the files that it and its session need.
pub(super) struct Dial<'a> {
    files: Vec<FileGuard>,
    dialing: Counted<'a>,
}

/// An open tunnel's place, given back when dropped.
pub(super) struct Open<'a> {
    // In this order: a task that learns of a free place finds files for it.
    _files: Vec<FileGuard>,
    _open: Counted<'a>,
}

/// A tunnel that was authorized just now.
pub(super) struct Opened<'a> {
    pub(super) stream: Stream,
    /// What came with the answer to the passcode.
    pub(super) input: Vec<u8>,
    /// 2 or 3.
    pub(super) version: Version,
    pub(super) place: Open<'a>,
}

impl Connector {
    /// A connector that has not been tried yet.
    ///
    /// # Errors
    /// A sentence about the certificates to trust, or the name.
    pub(super) fn new(
        name: &str,
        options: &Options,
        shared: &Rc<Shared>,
        notifier: Option<Rc<Notifier>>,
    ) -> Result<Self, String> {
        Ok(Connector {
            heartbeat: options.heartbeat,
            changed: Event::new(),
            address: options.connector.clone(),
            dialler: shared.dialler(match &options.proxy {
                Some(proxy) => proxy.address.clone(),
                None => options.connector.clone(),
            }),
            proxy: options.proxy.clone(),
            turn: Mutex::new(()),
            proof: RefCell::new(Proof::new(options, shared)?),
            open: Cell::new(0),
            sessions: Cell::new(0),
            closing: Cell::new(0),
            stage: Cell::new((Stage::Working, Utc::now())),
            reloads: Cell::new(0),
            dialing: Cell::new(0),
            traffic: Arc::default(),
            carried: Cell::new(0),
            pace: RefCell::new(Pace::new(Instant::now())),
            versions: RefCell::new(Versions::new(Instant::now())),
            shared: shared.clone(),
            short: Cell::new(false),
            health: Health::new(name, options, notifier),
        })
    }

    /// Where it is.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The proxy through which it is reached.
    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// Connects to it, or has the proxy do so.
    ///
    /// # Errors
    /// A sentence about what is in the way.
    async fn dial(&self) -> Result<TcpStream, String> {
        let deadline = Instant::now() + limits::DIAL;
        let dialled = self.dialler.dial(deadline).await;
        let Some(proxy) = &self.proxy else {
            return dialled.map_err(|error| words::connection(&error));
        };
        let through = async {
            let connected =
                until(Instant::now() + limits::PROXY, proxy.connect(dialled?, &self.address));
            connected.await.unwrap_or_else(|| {
                Err(io::Error::other(format!(
                    "it takes connections, but did not answer within {} s: it is slow, or \
                     what it connects to does not answer it",
                    limits::PROXY.as_secs()
                )))
            })
        };
        through.await.map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::Other => error.to_string(),
                _ => words::connection(&error),
            };
            format!("the proxy {proxy}: {why}")
        })
    }

    /// What the operator is told about it.
    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// What all tunnels of the process share.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Authorized tunnels, idle and in use.
    pub(super) fn open_tunnels(&self) -> usize {
        self.open.get()
    }

    /// Where all sessions count their bytes.
    pub(super) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Sessions that run now.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.get()
    }

    /// The tunnel's life goes on to this.
    pub(super) fn reach(&self, stage: Stage) {
        if self.stage() != stage {
            self.stage.set((stage, Utc::now()));
        }
        self.changed.notify(usize::MAX);
    }

    /// How far the tunnel's life has come.
    pub(super) fn stage(&self) -> Stage {
        self.stage.get().0
    }

    /// The tunnel's state in a word, and since when that is so.
    pub(super) fn state(&self) -> (&'static str, Utc) {
        let (stage, reached) = self.stage.get();
        match stage {
            Stage::Working => {
                let (state, since) = self.health.state();
                (state, since.max(reached))
            }
            Stage::Draining => ("draining", reached),
            Stage::Failed | Stage::Over => ("failed", reached),
        }
    }

    /// Returns once this is so; it is looked at whenever something has changed.
    pub(super) async fn when(&self, is_so: &dyn Fn() -> bool) {
        loop {
            let changed = self.changed.listen();
            if is_so() {
                return;
            }
            changed.await;
        }
    }

    /// A session begins, until the guard is dropped.
    pub(super) fn session(&self) -> Counted<'_> {
        Counted::notifying(&self.sessions, &self.changed)
    }

    /// A local connection is being closed after its session, until the guard is dropped.
    pub(super) fn closing(&self) -> Counted<'_> {
        Counted::notifying(&self.closing, &self.changed)
    }

    /// Whether nothing is left of any tunnel or session.
    pub(super) fn is_over(&self) -> bool {
        self.open.get() + self.sessions.get() + self.closing.get() == 0
    }

    /// A session has ended; `is_kept` says whether its tunnel goes on.
    pub(super) fn session_ended(&self, outcome: Outcome, is_kept: bool) {
        if outcome != Outcome::Vain {
            self.health.steady();
        }
        let carried = self.traffic.bytes[0].load(Ordering::Relaxed);
        let others = self.carried.replace(carried) != carried;
        let outcome = if others { Outcome::Carried } else { outcome };
        let now = Instant::now();
        if is_kept && outcome == Outcome::Vain {
            // It costs no dial.
            return;
        }
        if !is_kept {
            self.pace.borrow_mut().given_back(now);
        }
        if self.pace.borrow_mut().session_ended(now, outcome) {
            say!(
                self.health,
                log::Level::Warn,
                About::Standing,
                "{} sessions from {} in a row ended at once without a byte: a user that only \
                 connects and leaves, or a faulty connector; tunnels are opened more slowly until \
                 one is used",
                limits::VAIN_SESSIONS,
                self.address()
            );
        }
    }

    /// Waits until one more tunnel may be asked for, and takes the `files` that it needs with its
    /// session. First come, first served.
    pub(super) async fn may_dial(&self, files: usize) -> Dial<'_> {
        let _turn = self.turn.lock().await;
        loop {
            let changed = self.changed.listen();
            let now = Instant::now();
            let may = self.pace.borrow().may_open(now, self.open.get(), self.dialing.get());
            match may {
                Ok(()) => {
                    if let Some(files) = self.take_files(files) {
                        self.pace.borrow_mut().dialled(now);
                        return Dial {
                            files,
                            dialing: Counted::notifying(&self.dialing, &self.changed),
                        };
                    }
                    // Dials to further addresses give their files back without notifying.
                    until(now + limits::FILES_AGAIN, changed).await;
                }
                Err(None) => changed.await,
                Err(Some(time)) => drop(until(time, changed).await),
            }
        }
    }

    /// Takes this many files; or none, and logs a line about it.
    pub(super) fn take_files(&self, count: usize) -> Option<Vec<FileGuard>> {
        let taken: Option<Vec<_>> =
            (0..count).map(|_| self.shared.files.try_take(For::Pipe)).collect();
        if taken.is_none() && !self.short.replace(true) {
            say!(
                self.health,
                log::Level::Warn,
                About::Standing,
                "the limit of open files is enough for {} tunnels and their sessions now; raise it \
                 (LimitNOFILE= of the unit, or ulimit -n) for more",
                self.open.get() + self.dialing.get()
            );
        }
        taken
    }

    /// Opens one tunnel. Says what is in the way when that changes; the caller simply asks
    /// again whether it may dial.
    ///
    /// # Errors
    /// When this try failed.
    pub(super) async fn open<'a>(&'a self, dial: Dial<'a>) -> Result<Opened<'a>, ()> {
        let Dial { files, dialing } = dial;
        let before = self.proof.borrow().passcode.clone();
        for fault in self.proof.borrow_mut().refresh(&self.shared) {
            say!(self.health, log::Level::Warn, About::Proof, "{fault}");
        }
        if self.proof.borrow().passcode.reveal() != before.reveal() {
            self.versions.borrow_mut().try_now(Instant::now());
        }
        let reloads = self.reloads.get();
        let dial = async || self.dial().await;
        match authorize(dial, &self.proof, &self.versions, self.open.get()).await {
            Ok(Authorized { stream, input, version }) => {
                let open = Counted::notifying(&self.open, &self.changed);
                self.pace.borrow_mut().authorized(self.open.get());
                self.health.opened(version);
                drop(dialing);
                Ok(Opened { stream, input, version, place: Open { _files: files, _open: open } })
            }
            Err(failure) => {
                self.failed(failure);
                if reloads != self.reloads.get() {
                    // What failed was the proof of before.
                    self.try_now();
                }
                Err(())
            }
        }
    }

    /// A tunnel that this side has given up is closed: its place can be taken again.
    pub(super) fn given_up(&self) {
        self.pace.borrow_mut().given_back(Instant::now());
    }

    /// Something has come on an idle tunnel with these heartbeats, or its end.
    ///
    /// # Errors
    /// Why it is lost.
    pub(super) fn took(&self, came: io::Result<Received>, beats: &mut Beats) -> Result<(), Lost> {
        let now = now();
        match came.map_err(Lost::Broken)? {
            Received::Bytes(count) => self.health.shown(beats.heard(now, count)),
            Received::Ended => return Err(Lost::ended(beats, now)),
        }
        Ok(())
    }

    /// An idle tunnel of this age has ended by itself. `is_proven` says whether it had shown that the
    /// connector works.
    pub(super) fn lost(&self, why: Lost, age: Duration, is_proven: bool) {
        log::debug!("a tunnel to {} ended: {why}", self.address());
        let now = Instant::now();
        self.pace.borrow_mut().given_back(now);
        let counts = self.pace.borrow_mut().lost(now, age, why.is_given_up());
        // One that says that it gives a tunnel up, and has kept it for a while, does what it should.
        let is_kept = matches!(why, Lost::Bye) && age >= limits::PROVEN_IDLE;
        if !(is_proven || is_kept) {
            self.health.lost_unproven(why, counts);
        }
    }

    /// When an idle tunnel's first heartbeat is due: soon, where a tunnel has yet to show that the
    /// connector is all right.
    pub(super) fn first_heartbeat(&self) -> Duration {
        match self.health.is_in_doubt() {
            true => self.heartbeat.min(2 * limits::PROVEN_IDLE),
            false => self.heartbeat,
        }
    }

    /// Reads certificates and passcode again, and tries at once (on SIGHUP).
    pub(super) fn reload(&self) {
        self.reloads.set(self.reloads.get().wrapping_add(1));
        let faults = self.proof.borrow_mut().read_again(&self.shared);
        for fault in &faults {
            say!(self.health, log::Level::Warn, About::Proof, "{fault}");
        }
        if faults.is_empty() {
            self.health.over(About::Proof);
            say!(self.health, "certificates and passcode read again");
        }
        self.try_now();
        self.changed.notify(usize::MAX);
    }

    /// What was wrong may have been mended.
    fn try_now(&self) {
        let now = Instant::now();
        self.pace.borrow_mut().try_now(now);
        self.versions.borrow_mut().try_now(now);
    }

    fn failed(&self, failure: Failure) {
        let now = Instant::now();
        match failure {
            Failure::Unreachable(why) => {
                let is_news = self.pace.borrow_mut().unreachable(now);
                match is_news {
                    true => self.health.unreachable(why),
                    false => log::debug!("{}: {why}", self.address()),
                }
            }
            Failure::Refused => {
                let refusal = self.pace.borrow_mut().refused(now, self.open.get());
                match refusal {
                    Refusal::OneTooMany => {
                        let allowed = self.pace.borrow().allowed();
                        self.health.tell_allowed(allowed);
                    }
                    Refusal::NotYet => {
                        log::debug!("{} has no place free yet", self.address());
                        // Or its mapping has a new passcode, at which it has closed what was idle.
                        self.proof.borrow_mut().suspect(Suspect::Passcode);
                    }
                    Refusal::NotAnyMore | Refusal::Never => {
                        self.proof.borrow_mut().suspect(Suspect::Passcode);
                        self.health.refused(refusal == Refusal::NotAnyMore);
                    }
                }
            }
        }
    }
}
