//! The daemon while it serves, from its first mapping to the end of the last session.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_net::unix::UnixListener;
use event_listener::Event;
use smol::channel::{Receiver, Sender};
use smol::future::{FutureExt, or, zip};
use smol::{LocalExecutor, Task};

use super::dump::Dumps;
use super::errand::Errand;
use super::handover::{self, Estate, Heir, Predecessor, Successor, Wish};
use super::host::Daemon;
use super::place::Place;
use super::reload::{self, reload};
use super::upkeep::{self, upkeep, watchdog};
use crate::api::{Acceptor, Api, Server};
use crate::config::folders::Options;
use crate::limits;
use crate::logging::{ALWAYS, Logging};
use crate::mappings::mapping::{Id, Mapping};
use crate::mappings::ports;
use crate::mappings::store::{Store, Writer};
use crate::os::{self, Ask, Link, Notifier};
use crate::pipes::registry::{LeftTo, Registry};
use crate::pipes::shared::Shared;
use crate::runtime::{self, Backoff, sleep};
use crate::text::event::Event as Happening;
use crate::text::{counted, reason};

/// A daemon that serves.
pub(super) struct Serving<'a> {
    pub(super) notifier: Rc<Notifier>,
    executor: Rc<LocalExecutor<'static>>,
    shared: Rc<Shared>,
    registry: Rc<Registry>,
    logging: &'a Logging,
    server: Rc<Server<Api>>,
    /// The command line's socket, until another daemon has it.
    control: RefCell<Option<UnixListener>>,
    /// The API's port, once it is open.
    api_port: Rc<RefCell<Option<Rc<TcpListener>>>>,
    api_fault: Rc<RefCell<Option<String>>>,
    /// What accepts the API's callers, over TCP and on the control socket.
    accepting: RefCell<Option<[Task<()>; 2]>>,
    /// What the last reload has found and could not put in force.
    not_in_force: Rc<RefCell<Vec<String>>>,
    predecessor: Rc<OnceCell<Predecessor>>,
    /// What hears it.
    hearing: RefCell<Option<Task<()>>>,
    dumps: Rc<OnceCell<Rc<Dumps>>>,
    /// Says that the API was asked for a stop, or the daemon whose place this one took.
    stopped: Receiver<()>,
    stop: Sender<()>,
    pub(super) upgrade: Rc<Errand>,
    /// Whether a service manager was told of the process that has taken this one's place.
    is_managed: Cell<bool>,
    /// What was asked for while a new program was to take the place.
    noted: Noted,
}

/// What was asked for while a new program was to take the place: it is for whoever serves then.
#[derive(Default)]
struct Noted {
    reload: Cell<bool>,
    /// A stop; whether by a signal.
    stop: Cell<Option<bool>>,
    stopping: Event,
}

impl Noted {
    fn stop(&self, by_signal: bool) {
        log::info!(target: ALWAYS, "asked to stop while a new program is to take this one's place");
        self.stop.set(Some(by_signal));
        self.stopping.notify(usize::MAX);
    }

    fn reload(&self) {
        log::info!(target: ALWAYS, "asked to reload while a new program is to take this one's place");
        self.reload.set(true);
    }

    /// Waits for a stop; gives a sentence about it.
    async fn is_stopped(&self) -> String {
        while self.stop.get().is_none() {
            let stopping = self.stopping.listen();
            stopping.await;
        }
        "this one was asked to stop meanwhile".into()
    }
}

/// What ends a daemon that serves, or may end it.
pub(super) enum Asked {
    /// To stop; whether by a signal.
    Stop(bool),
    /// To have a new program take its place.
    Upgrade,
}

impl<'a> Serving<'a> {
    /// Runs the stored mappings, the API, and what is done from time to time.
    pub(super) fn begin(
        executor: &Rc<LocalExecutor<'static>>,
        shared: Rc<Shared>,
        (store, writer, stored): (Store, Writer, Vec<Mapping>),
        (listener, control): (io::Result<TcpListener>, UnixListener),
        logging: &'a Logging,
        notifier: Rc<Notifier>,
        is_heir: bool,
    ) -> Self {
        executor.spawn(writer.run().boxed_local()).detach();
        let registry = Registry::new(shared.clone(), executor.clone(), store, stored);
        shared.pool.settle();
        let not_in_force = Rc::new(RefCell::new(Vec::new()));
        let api_fault = Rc::new(RefCell::new(None));
        let (stop, stopped) = smol::channel::bounded(1);
        let upgrade = Rc::new(Errand::new());
        let predecessor = Rc::new(OnceCell::new());
        let dumps = Rc::new(OnceCell::new());
        let host = Rc::new(Daemon {
            shared: shared.clone(),
            logging: logging.clone(),
            api_fault: api_fault.clone(),
            not_in_force: not_in_force.clone(),
            stop: stop.clone(),
            upgrade: upgrade.clone(),
            predecessor: predecessor.clone(),
            dumps: dumps.clone(),
        });
        let api = Rc::new(Api::new(registry.clone(), host));
        let server = Rc::new(Server::new(
            api.clone(),
            executor.clone(),
            api.counters(),
            shared.files.clone(),
            shared.workers.clone(),
        ));
        let kept = upkeep(shared.clone(), registry.clone(), api.clone(), logging.clone());
        executor.spawn(kept.boxed_local()).detach();
        if let Some(fault) = logging.file_fault() {
            shared.events.tell(Happening::DiskFailed, None, upkeep::LOG, &fault);
        }
        reload::tell_certificate(&shared);
        if let Some(interval) = os::watchdog_interval(is_heir) {
            let watchdog = watchdog(shared.clone(), notifier.clone(), interval);
            executor.spawn(watchdog.boxed_local()).detach();
        }
        let serving = Serving {
            notifier,
            executor: executor.clone(),
            shared,
            registry,
            logging,
            server,
            control: RefCell::new(Some(control)),
            api_port: Rc::default(),
            api_fault,
            accepting: RefCell::default(),
            not_in_force,
            predecessor,
            hearing: RefCell::default(),
            dumps,
            stopped,
            stop,
            upgrade,
            is_managed: Cell::new(false),
            noted: Noted::default(),
        };
        serving.accept(listener);
        serving
    }

    /// Dumps go to this folder. Before, none is written.
    pub(super) fn dump_to(&self, folder: &Path) {
        let Serving { executor, registry, shared, server, .. } = self;
        let _ = self.dumps.set(Dumps::new(executor, registry, shared, server, folder));
    }

    /// Writes the state of every connection, unless that is under way.
    fn dump(&self) {
        if self.dumps.get().and_then(Dumps::begin).is_none() {
            log::info!(target: ALWAYS, "the state of every connection is being written already");
        }
    }

    /// Takes the place of the daemon at the other end of the link. Blocks until that makes way. What is asked of that
    /// one meanwhile goes to `asks`.
    ///
    /// # Errors
    /// A sentence about why this one is not to serve.
    pub(super) fn take_place(
        &self,
        place: &Place<'_>,
        (link, watch): (Link, Option<Link>),
        process: u32,
        asks: Sender<Ask>,
    ) -> Result<(), String> {
        handover::ready(&link)?;
        place.name(None);
        handover::taken(&link).inspect_err(|_| place.name(Some(process)))?;
        watch.as_ref().inspect(|watch| os::serves(watch));
        match Predecessor::new(link, process) {
            Ok(predecessor) => _ = self.predecessor.set(predecessor),
            Err(error) => {
                let why = reason::words(&error);
                log::error!(target: ALWAYS, "process {process} cannot be heard, whose place this one took: {why}");
            }
        }
        let cell = self.predecessor.clone();
        let notifier = self.notifier.clone();
        let registry = self.registry.clone();
        let stop = self.stop.clone();
        let listening = async move {
            if let Some(predecessor) = cell.get() {
                predecessor.listen(&notifier, &registry, &asks, &stop).await;
            }
        };
        self.hearing.replace(Some(self.executor.spawn(listening.boxed_local())));
        Ok(())
    }

    /// Takes the API's callers, on `port` and on the control socket.
    fn accept(&self, port: io::Result<TcpListener>) {
        let (server, listener) = (self.server.clone(), self.control.borrow().clone());
        let control = async move {
            if let Some(listener) = listener {
                server.serve_unix(listener).await;
            }
        };
        let api = serve_api(
            self.server.clone(),
            self.shared.clone(),
            port,
            self.api_port.clone(),
            self.api_fault.clone(),
        );
        let tasks = [api.boxed_local(), control.boxed_local()];
        self.accepting.replace(Some(tasks.map(|task| self.executor.spawn(task))));
    }

    /// Whether a port of a mapping was not tried yet.
    pub(super) fn has_untried(&self) -> bool {
        self.registry.has_untried()
    }

    /// How many mappings it serves, such as "3 mappings" or "1 of 3 mappings".
    pub(super) fn mappings(&self) -> String {
        let [all, inactive] = self.registry.inactive();
        let open = if inactive > 0 { format!("{} of ", all - inactive) } else { String::new() };
        open + &counted(all as u64, "mapping")
    }

    /// Tells as an event that it serves.
    pub(super) fn tell_started(&self) {
        let what =
            format!("iofog-connector {} serves {}", env!("CARGO_PKG_VERSION"), self.mappings());
        self.tell(Happening::Started, &what);
    }

    /// Tells an event of its own.
    pub(super) fn tell(&self, event: Happening, what: &str) {
        self.shared.events.tell(event, None, "", what);
    }

    /// How it serves: "serving" where every port is open, and what is missing otherwise.
    pub(super) fn summary(&self) -> String {
        let [all, inactive] = self.registry.inactive();
        let fault = self.api_fault.borrow();
        let is_open = fault.is_none() || inactive < all;
        let mut said = if is_open { "serving" } else { "not serving" }.to_owned();
        if inactive > 0 {
            said.push_str(&format!(" {}; `iofog-connector status` shows why", self.mappings()));
        }
        if let Some(fault) = &*fault {
            said.push_str(&format!("; {fault}"));
        }
        said
    }

    /// Tells systemd how it serves, from time to time. Never ends.
    async fn tell_summary<T>(&self) -> T {
        loop {
            sleep(limits::UPKEEP).await;
            self.notifier.status(&self.summary());
        }
    }

    /// Reads the settings again as often as asked; returns when asked for more than that.
    pub(super) async fn until_asked(&self, options: &Options, asked: &Receiver<Ask>) -> Asked {
        loop {
            if let Some(by_signal) = self.noted.stop.take() {
                return Asked::Stop(by_signal);
            }
            let noted = async {
                if !self.noted.reload.take() {
                    std::future::pending::<()>().await;
                }
                None
            };
            let by_signal = async {
                loop {
                    match asked.recv().await {
                        Ok(Ask::Dump) => self.dump(),
                        Ok(Ask::Reload) => return None,
                        Ok(Ask::Upgrade) => return Some(Asked::Upgrade),
                        Ok(Ask::Stop) | Err(_) => return Some(Asked::Stop(true)),
                    }
                }
            };
            let stopped = async {
                let _ = self.stopped.recv().await;
                Some(Asked::Stop(false))
            };
            let upgrade = async {
                self.upgrade.is_asked().await;
                Some(Asked::Upgrade)
            };
            let asked = or(noted, or(by_signal, or(stopped, upgrade)));
            if let Some(asked) = or(asked, self.tell_summary()).await {
                return asked;
            }
            self.notifier.reloading();
            self.logging.reopen();
            self.tell_predecessor("reopen");
            self.not_in_force.replace(reload(options, &self.shared, self.logging));
            self.notifier.ready(&self.summary());
        }
    }

    /// Has the program that is in the file now take this one's place; gives it, and its process, once it serves. What
    /// is `asked` meanwhile is for whoever serves then; a stop before that is this one's.
    ///
    /// # Errors
    /// A sentence about why it does not; everything is as before.
    pub(super) async fn hand_over(
        &self,
        place: &Place<'_>,
        asked: &Receiver<Ask>,
    ) -> Result<(Successor, u32), String> {
        if std::process::id() == 1 {
            return Err("this is process 1 of a container, which ends with it; replace the container by one of \
                        the new image"
                .into());
        }
        let spawner = place.spawner.borrow().clone()?;
        // One that hangs at its start keeps no caller waiting.
        let started = or(self.unless_stopped(Heir::start(spawner)), self.note(asked)).await;
        let heir = started?;
        // Callers wait from now on for whoever answers them then.
        let accepting = self.accepting.take();
        for task in accepting.into_iter().flatten() {
            task.cancel().await;
        }
        let outcome = or(self.take_turns(place, heir), self.note(asked)).await;
        if outcome.is_err() {
            // No task has it any more.
            let port = self.api_port.take().and_then(Rc::into_inner).map(Ok);
            let anew = || self.shared.pool.open_apart(self.shared.config.borrow().api);
            self.accept(port.unwrap_or_else(anew));
        }
        outcome
    }

    /// Notes what is asked for. Never ends.
    async fn note<T>(&self, asked: &Receiver<Ask>) -> T {
        loop {
            let by_signal = async {
                match asked.recv().await {
                    Ok(Ask::Stop) => self.noted.stop(true),
                    Ok(Ask::Reload) => self.noted.reload(),
                    Ok(Ask::Dump) => self.dump(),
                    // Of those that come together all but one are one.
                    Ok(Ask::Upgrade) => {}
                    Err(_) => std::future::pending().await,
                }
            };
            let stopped = async {
                let _ = self.stopped.recv().await;
                self.noted.stop(false);
            };
            or(by_signal, stopped).await;
        }
    }

    /// What comes of this, or a sentence that a stop was asked for before.
    async fn unless_stopped<T>(
        &self,
        what: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        or(async { Err(self.noted.is_stopped().await) }, what).await
    }

    async fn take_turns(&self, place: &Place<'_>, heir: Heir) -> Result<(Successor, u32), String> {
        if !self.registry.leave_state().await {
            return Err("a change of the mappings waits for the disk; try again later".into());
        }
        let ownership = place.ownership.take();
        let had_it = ownership.is_some();
        drop(ownership);
        let outcome = self.hand_over_files(place, heir).await;
        if outcome.is_err() {
            self.take_back(place, had_it).await;
        }
        outcome
    }

    /// Takes the locks again that the new program was to have, once that has ended, and changes.
    async fn take_back(&self, place: &Place<'_>, had_folder: bool) {
        let deadline = Instant::now() + limits::HEIR_TAKES;
        let (mut folder, mut state) = (!had_folder, false);
        loop {
            folder = folder || place.take_folder();
            state = state || self.registry.take_state_back();
            // Who is to stop makes no more changes.
            if (folder && state) || self.noted.stop.get().is_some() {
                break;
            }
            if Instant::now() >= deadline {
                log::warn!(
                    target: ALWAYS,
                    "the new program does not end, and keeps the locks of the configuration folder; \
                     while it lives, start no other daemon there"
                );
                break;
            }
            // Each try has waited for a moment.
            sleep(limits::DRAIN_TOLD).await;
        }
        self.registry.keep_state();
    }

    async fn hand_over_files(
        &self,
        place: &Place<'_>,
        heir: Heir,
    ) -> Result<(Successor, u32), String> {
        let estate = || {
            let mut ports = self.shared.pool.listeners();
            ports.extend(self.api_port.borrow().clone());
            let control = self.control.borrow();
            let control = control.as_ref().ok_or(io::ErrorKind::NotFound)?.as_fd();
            let control = control.try_clone_to_owned()?;
            io::Result::Ok(Estate { lock: place.lock()?, control, ports })
        };
        let estate = estate().map_err(|error| reason::words(&error).to_string())?;
        heir.inherit(estate)?;
        let process = self.unless_stopped(heir.ready()).await?;
        // For a moment both accept users, and each serves its own. A tunnel that opens here would be closed at once.
        let soon = Instant::now() + limits::LEFT_WAITING;
        self.registry.leave_agents(None, LeftTo::Next, Some(soon));
        let successor = heir.go().await.inspect_err(|_| {
            self.registry.leave_agents(None, LeftTo::Next, None);
            place.name(None);
        })?;
        if self.noted.reload.get() {
            successor.asks(Ask::Reload);
        }
        if self.noted.stop.get().is_some() {
            successor.asks(Ask::Stop);
        }
        place.leave();
        self.is_managed.set(self.notifier.main_process(process));
        successor.is_main();
        Ok((successor, process))
    }

    /// Carries what has begun to its end, after another daemon has taken this one's place.
    ///
    /// # Errors
    /// That daemon has ended unasked, and a service manager watches: it does not start another one before this one has
    /// ended, and starts none at all where it has not heard of that daemon in time and this one ends well.
    pub(super) async fn retire(
        self,
        successor: &Successor,
        asked: &Receiver<Ask>,
    ) -> io::Result<()> {
        // Whoever comes after the other one finds them free.
        self.control.take();
        self.api_port.take();
        let config = self.shared.config.borrow().clone();
        let waiting = config.user_wait.min(limits::LEFT_WAITING);
        let short = |id: &Id, users| successor.short(id, users);
        let calm = |id: &Id| successor.calm(id);
        let is_over = Cell::new(false);
        let lives = || {
            let lives = self.predecessor.get().is_some_and(Predecessor::lives);
            if lives && !is_over.replace(true) {
                successor.over();
            }
            lives
        };
        let patience = match self.noted.stop.get() {
            None => config.handover,
            Some(_) => config.handover.min(config.drain),
        };
        let carried = self.registry.retire(patience, waiting, &short, &calm, &lives);
        let told = async {
            loop {
                let over = self.shared.session_over.listen();
                if let Some((sessions, left)) = self.registry.left() {
                    let before = self.predecessor.get().and_then(Predecessor::left);
                    successor.tell(sessions + before.map_or(0, |before| before.sessions), left);
                }
                runtime::until(Instant::now() + limits::DRAIN_TOLD, over).await;
                // Those that end together are told together.
                sleep(limits::DRAIN_CHECK).await;
            }
        };
        let is_hurried = Cell::new(self.noted.stop.get().is_some());
        let is_left_alone = Cell::new(false);
        let hurry = || {
            is_hurried.set(true);
            self.tell_predecessor("stop");
            self.registry.hurry(config.drain);
        };
        let wishes = async {
            loop {
                match successor.wish().await {
                    Wish::Removed(id) => {
                        self.tell_predecessor(&format!("removed {id}"));
                        self.registry.close(&id).await;
                    }
                    Wish::Reopen => {
                        self.tell_predecessor("reopen");
                        self.logging.reopen();
                    }
                    Wish::Stop => hurry(),
                    Wish::Leave => {
                        let before = self.predecessor.get().filter(|before| before.lives());
                        if before.is_some_and(|before| before.pass_on(successor)) {
                            // What it says from now on is for the other one.
                            self.hearing.take();
                            self.shared.session_over.notify(usize::MAX);
                        }
                    }
                    // Elsewhere another one can be started beside this one.
                    Wish::Gone if self.is_managed.get() && !is_hurried.get() => {
                        return is_left_alone.set(true);
                    }
                    Wish::Gone => std::future::pending().await,
                }
            }
        };
        // Of a caller that has kept its connection.
        let stopped = async {
            let _ = self.stopped.recv().await;
            successor.asks(Ask::Stop);
            hurry();
            std::future::pending().await
        };
        // A second signal ends it at once.
        let signals = async {
            let mut stops = 0;
            while stops < 2 {
                match asked.recv().await {
                    Ok(Ask::Stop) => {
                        stops += 1;
                        is_hurried.set(true);
                        self.registry.hurry(config.drain);
                    }
                    Ok(Ask::Reload) => self.logging.reopen(),
                    Ok(Ask::Dump) => self.dump(),
                    Ok(Ask::Upgrade) => {}
                    Err(_) => std::future::pending().await,
                }
            }
        };
        // Callers whom this one has accepted are answered by then, and those that keep their connections call again.
        let callers = async {
            sleep(limits::STILL).await;
            self.server.turn_out_all().await;
        };
        let carried = async { _ = zip(callers, carried).await };
        or(carried, or(signals, or(stopped, or(wishes, told)))).await;
        self.registry.cut().await;
        let still = Instant::now() + limits::STILL;
        runtime::until(still, self.shared.workers.all_answer()).await;
        match is_left_alone.get() {
            true => Err(io::Error::other("the process that had taken this one's place has ended")),
            false => Ok(()),
        }
    }

    fn tell_predecessor(&self, words: &str) {
        if let Some(predecessor) = self.predecessor.get() {
            predecessor.tell(words);
        }
    }

    /// Waits for the end of the daemon whose place this one took, as long as that has for its sessions.
    async fn outlive_predecessor(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.predecessor.get().is_some_and(Predecessor::lives) && Instant::now() < deadline {
            sleep(limits::DRAIN_CHECK).await;
        }
    }

    /// Gives sessions their time to end, then cuts those that are left.
    pub(super) async fn drain(self, asked: &Receiver<Ask>, by_signal: bool) {
        let patience = self.shared.config.borrow().drain;
        self.notifier.stopping(patience);
        log::info!(target: ALWAYS, "stopping: sessions have {} ms to finish", patience.as_millis());
        self.tell_predecessor("stop");
        // The API's port closes at once; the command line may go on asking.
        let (api, control) = self.accepting.take().map(|[api, control]| (api, control)).unzip();
        if let Some(api) = api {
            api.cancel().await;
        }
        self.api_port.take();
        let again = self.asked_again(asked, by_signal);
        let drained = async {
            let before = self.outlive_predecessor(patience + limits::STILL);
            zip(self.registry.drain(patience), before).await;
        };
        or(or(drained, again), tell(&self.notifier, &self.registry)).await;
        self.registry.cut().await;
        // A thread reports a session's end first, and then closes in order what ended that way.
        let still = Instant::now() + limits::STILL;
        runtime::until(still, self.shared.workers.all_answer()).await;
        if let Some(control) = control {
            control.cancel().await;
        }
    }

    /// Returns when a second signal asks a draining daemon to stop. The service manager's may be the
    /// first one, after `stop` on the command line.
    async fn asked_again(&self, asked: &Receiver<Ask>, mut by_signal: bool) {
        loop {
            match asked.recv().await {
                Ok(Ask::Reload) => self.logging.reopen(),
                Ok(Ask::Dump) => self.dump(),
                Ok(Ask::Upgrade) => {}
                Ok(Ask::Stop) if by_signal => break,
                Ok(Ask::Stop) => {
                    by_signal = true;
                    log::info!(target: ALWAYS, "it is stopping already; one more SIGTERM ends it at once");
                }
                // The signals' task lives as long as the process.
                Err(_) => std::future::pending().await,
            }
        }
        let who = self.registry.draining().map(|left| left.who()).unwrap_or_default();
        log::warn!(target: ALWAYS, "asked to stop a second time: {who} cut");
    }
}

/// Tells systemd what a stopping daemon still waits for. Never ends.
async fn tell(notifier: &Notifier, registry: &Registry) {
    loop {
        if let Some(left) = registry.draining() {
            notifier.status(&left.to_string());
        }
        sleep(limits::DRAIN_TOLD).await;
    }
}

/// What tells events about the API's port from those about others.
const API: &str = "the API";

/// Answers the API on TCP. An address that is not there yet, or is taken, is tried again: the
/// pipes serve meanwhile, and `fault` says why.
async fn serve_api(
    server: Rc<Server<Api>>,
    shared: Rc<Shared>,
    mut opened: io::Result<TcpListener>,
    open: Rc<RefCell<Option<Rc<TcpListener>>>>,
    fault: Rc<RefCell<Option<String>>>,
) {
    let address = shared.config.borrow().api;
    let mut retry = Backoff::new(limits::PORT_RETRY);
    let listener = loop {
        match opened {
            Ok(listener) => break Rc::new(listener),
            Err(error) => {
                let why = ports::api_fault(&error);
                let why = format!("the API cannot listen on {address}: {why}; it is tried again");
                log::error!(target: ALWAYS, event = Happening::PortInactive.word(); "{why}");
                shared.events.tell(Happening::PortInactive, None, API, &why);
                fault.replace(Some(why));
            }
        }
        sleep(retry.pause()).await;
        opened = shared.pool.open_apart(address);
    };
    let was_closed = fault.replace(None).is_some();
    open.replace(Some(listener.clone()));
    let acceptor = shared.tls.clone().map(|tls| -> Acceptor {
        Rc::new(move || {
            let now = tls.current();
            (now.api.clone(), now.callers)
        })
    });
    let listens =
        format!("the API listens on {address}{}", if acceptor.is_some() { " (TLS)" } else { "" });
    if was_closed {
        log::info!(target: ALWAYS, event = Happening::PortBack.word(); "{listens}");
        shared.events.tell(Happening::PortBack, None, API, &listens);
    } else {
        log::info!(target: ALWAYS, "{listens}");
    }
    match server.serve_tcp(&listener, acceptor).await {
        Ok(never) => match never {},
        Err(error) => log::error!(target: ALWAYS, "the API cannot be served: {error}"),
    }
}
