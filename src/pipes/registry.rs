//! The running mappings: add, remove, status.
//!
//! What runs is what `configs.json` holds: an addition takes ports, is stored, then answered; a
//! removal is stored, then the ports close. A failure at any step gives back what the earlier
//! ones took.

use std::cell::{Cell, RefCell};
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use smol::future::FutureExt;
use smol::lock::Semaphore;
use smol::{LocalExecutor, Task};

use crate::limits;
use crate::logging::ALWAYS;
use crate::mappings::mapping::{
    self, AgentPort, Alteration, Id, Mapping, NewMapping, NewPipe, Passcode, random_id,
};
use crate::mappings::options::{Options, plain_by_dev};
use crate::mappings::ports::{Lease, Owned, PortError};
use crate::mappings::store::{Change, Store, StoreError};
use crate::pipes::change::ChangeError;
use crate::pipes::listen;
use crate::pipes::named::Named;
pub use crate::pipes::pipe::LeftTo;
use crate::pipes::pipe::Pipe;
use crate::pipes::shared::Shared;
use crate::report::status::events::Events;
use crate::report::status::{
    Counts, Draining, MappingStatus, OpenFiles, Overview, Status, condition,
};
use crate::runtime::{look, sleep, until};
use crate::session;
use crate::text::counted;
use crate::text::dump::Dump;
use crate::text::event::Event;

/// The running mappings. Owned by the control thread; shared there by `Rc`.
pub struct Registry {
    shared: Rc<Shared>,
    executor: Rc<LocalExecutor<'static>>,
    store: Store,
    running: RefCell<Named<Id, Running>>,
    direct: RefCell<Named<Id, Mapping>>,
    /// What the connections of removed mappings have done.
    removed: Cell<Counts>,
    store_fault: RefCell<Option<String>>,
    /// Names of mappings that wait for the disk.
    claimed: RefCell<Vec<Box<str>>>,
    /// Changes that wait for the disk.
    changing: Rc<()>,
    /// Whose turn it is to change a mapping: what is stored is the whole mapping.
    altering: Semaphore,
    /// Whether another daemon is about to take this one's place, or has taken it.
    replacing: Cell<bool>,
    /// Until when sessions have time to end, once the daemon is stopping.
    draining: Cell<Option<Instant>>,
    started: Instant,
}

/// That a name is a mapping's that is being stored.
struct Claim<'a> {
    claimed: &'a RefCell<Vec<Box<str>>>,
    name: Box<str>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claimed.borrow_mut().retain(|name| *name != self.name);
    }
}

struct Running {
    pipe: Rc<Pipe>,
    /// Dropping it closes everything the pipe holds on this thread.
    task: Task<()>,
    /// Its ports are nobody else's until they are closed.
    _ports: [Owned; 2],
}

impl Registry {
    /// Runs the stored mappings. A port that cannot be opened is tried again for as long as the
    /// mapping lives.
    pub fn new(
        shared: Rc<Shared>,
        executor: Rc<LocalExecutor<'static>>,
        store: Store,
        stored: Vec<Mapping>,
    ) -> Rc<Self> {
        let registry = Rc::new(Registry {
            shared,
            executor,
            store,
            running: RefCell::default(),
            direct: RefCell::default(),
            removed: Cell::default(),
            store_fault: RefCell::new(None),
            claimed: RefCell::default(),
            changing: Rc::default(),
            altering: Semaphore::new(1),
            replacing: Cell::new(false),
            draining: Cell::new(None),
            started: Instant::now(),
        });
        for mapping in stored {
            let leases = mapping.pipe.ports().map_or([None, None], |ports| {
                ports.map(|port| registry.shared.pool.lease_port(port).ok())
            });
            registry.run(mapping, leases);
        }
        registry.be_wary();
        if let Some(warning) = registry.plain_warning() {
            log::warn!(target: ALWAYS, "{warning}");
        }
        registry
    }

    /// Agents may have answers for users of another daemon: of the one before, unless that has said that there are none,
    /// or of one that takes this one's place.
    pub fn be_wary(&self) {
        for Running { pipe, .. } in self.running.borrow().iter() {
            if !pipe.is_calm_before.get() {
                pipe.pairing.be_wary();
            }
        }
    }

    /// Agents have no answers for users that this mapping had at the daemon before this one.
    pub fn calm(&self, id: &str) {
        if let Some(Running { pipe, .. }) = self.running.borrow().get(id) {
            pipe.is_calm_before.set(true);
            pipe.pairing.calm();
        }
    }

    /// Says that mappings are told to speak TLS, and do not.
    fn plain_warning(&self) -> Option<String> {
        let running = self.running.borrow();
        let asks = |pipe: &Pipe| pipe.mapping().options.asks_for_tls().is_some();
        let asking = running.iter().map(|one| &one.pipe);
        let asking = asking.filter(|pipe| self.shared.tls.is_none() && asks(pipe));
        plain_by_dev(&asking.map(|pipe| pipe.record.name().to_string()).collect::<Vec<_>>())
    }

    fn run(&self, mapping: Mapping, leases: [Option<Lease>; 2]) {
        match Pipe::new(self.shared.clone(), mapping.clone()) {
            None => self.direct.borrow_mut().push(mapping.id.clone(), mapping),
            Some(pipe) => {
                let ports = pipe.sides.each_ref().map(|side| self.shared.pool.own(side.port));
                // A change that was on its way to the disk when the stop came: it is made, and its
                // ports open with the next start.
                if self.draining.get().is_some() {
                    pipe.stop();
                }
                let task = self.executor.spawn(listen::run(pipe.clone(), leases).boxed_local());
                self.running.borrow_mut().push(mapping.id, Running { pipe, task, _ports: ports });
            }
        }
    }

    /// Opens two ports, stores the mapping, then returns it; its ports take connections. To be
    /// awaited to its end: dropped before, the change may be made or not.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing is kept then.
    pub async fn add(&self, new: NewMapping) -> Result<Mapping, ChangeError> {
        self.check_running()?;
        let NewMapping { pipe, ports, options } = new;
        let _name = self.claim(&options)?;
        self.check_tls(&options)?;
        let leases = self.lease(ports)?;
        let [one, two] = leases.each_ref().map(Lease::port);
        let agent = |port, limits| AgentPort { port, passcode: Passcode::random(), limits };
        let pipe = match pipe {
            NewPipe::Public(limits) => {
                mapping::Pipe::Public { agent: agent(one, limits), users: two }
            }
            NewPipe::Private([first, second]) => {
                mapping::Pipe::Private { sides: [agent(one, first), agent(two, second)] }
            }
        };
        let mapping = Mapping { id: random_id(), pipe, options };
        self.store(Change::Add(mapping.clone())).await?;
        self.run(mapping.clone(), leases.map(Some));
        log::info!(
            target: ALWAYS, event = Event::MappingAdded.word(), mapping = &*mapping.id,
            name = mapping.options.name.as_deref();
            "mapping {}{} added: ports {one} and {two}", mapping.id,
            in_brackets(mapping.options.name.as_deref())
        );
        let named = (&mapping.id, mapping.name());
        let what = format!("added: ports {one} and {two}");
        self.shared.events.tell(Event::MappingAdded, Some(named), "", &what);
        Ok(mapping)
    }

    /// Makes the mapping with this id or name different, which is stored first. Nobody is closed: what is new holds
    /// for those who connect from then on. To be awaited to its end.
    ///
    /// # Errors
    /// [`ChangeError`]; the mapping is as before then.
    pub async fn alter(&self, id: &str, alteration: &Alteration) -> Result<Mapping, ChangeError> {
        let asked = self.ask()?;
        let _turn = self.altering.acquire().await;
        self.check_running()?;
        let id = self.named(id).ok_or(ChangeError::Unknown)?;
        let pipe = self.running.borrow().get(&id).map(|running| running.pipe.clone());
        let pipe = pipe.ok_or(ChangeError::Unknown)?;
        let before = pipe.mapping();
        let impossible = |(name, why)| ChangeError::Impossible(name, why);
        let mapping = before.altered(alteration).map_err(impossible)?;
        let Options { name, users, alpn, .. } = &mapping.options;
        let _name = if *name == before.options.name { None } else { self.claim(&mapping.options)? };
        if (users, alpn) != (&before.options.users, &before.options.alpn) {
            self.check_tls(&mapping.options)?;
        }
        // Storing it asks for a place, too.
        drop(asked);
        self.store(Change::Replace(mapping.clone())).await?;
        pipe.alter(mapping.clone());
        let what = match alteration {
            Alteration::Members(members) => {
                members.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
            }
            Alteration::Passcode(side) => format!("passcode of port{}", side + 1),
        };
        log::info!(
            target: ALWAYS, event = Event::MappingChanged.word(), mapping = &*id,
            name = mapping.options.name.as_deref();
            "mapping {id}{} changed: {what}", in_brackets(mapping.options.name.as_deref())
        );
        let named = (&id, mapping.name());
        self.shared.events.tell(
            Event::MappingChanged,
            Some(named),
            "",
            &format!("changed: {what}"),
        );
        Ok(mapping)
    }

    /// What is asked for is possible where all ports are plain.
    fn check_tls(&self, options: &Options) -> Result<(), ChangeError> {
        let asked = options.asks_for_tls().filter(|_| self.shared.tls.is_none());
        let Some((name, value)) = asked else { return Ok(()) };
        let why =
            format!("is {value}, but with dev in the settings all ports are plain; leave it out");
        Err(ChangeError::Impossible(name, why))
    }

    /// The name is nobody else's, and is not given to anybody else before this is dropped.
    fn claim(&self, options: &Options) -> Result<Option<Claim<'_>>, ChangeError> {
        let Some(name) = &options.name else { return Ok(None) };
        let taken = self.named(name).is_some() || self.claimed.borrow().contains(name);
        if taken || self.direct.borrow().get(&**name).is_some() {
            let why = format!("{name} is another mapping's; choose another one");
            return Err(ChangeError::Taken("name", why));
        }
        self.claimed.borrow_mut().push(name.clone());
        Ok(Some(Claim { claimed: &self.claimed, name: name.clone() }))
    }

    /// The id of the mapping with this id or name.
    fn named(&self, name: &str) -> Option<Id> {
        let running = self.running.borrow();
        let found = running.get(name).or_else(|| {
            running
                .iter()
                .find(|running| running.pipe.mapping().options.name.as_deref() == Some(name))
        });
        found.map(|running| running.pipe.id().clone())
    }

    /// Opens the ports that are wanted, and free ones where none is.
    fn lease(&self, wanted: [Option<u16>; 2]) -> Result<[Lease; 2], ChangeError> {
        let pool = &self.shared.pool;
        let none = |error: PortError| {
            let listen = self.shared.config.borrow().listen_warning();
            ChangeError::NoPorts(listen.unwrap_or_else(|| error.to_string()))
        };
        let certain = |index: usize| {
            let name = ["port1", "port2"][index];
            wanted[index]
                .map(|port| {
                    pool.lease_free(port).map_err(|error| match error {
                        PortError::OutsidePool(_) => {
                            ChangeError::Impossible(name, format!("is {port}: {error}"))
                        }
                        PortError::Leased(_) | PortError::Taken(_) => {
                            ChangeError::Taken(name, format!("is {port}: {error}"))
                        }
                        error => none(error),
                    })
                })
                .transpose()
        };
        let (one, two) = (certain(0)?, certain(1)?);
        if one.is_none() && two.is_none() && pool.available() == 1 {
            return Err(none(PortError::OneLeft));
        }
        let free = |lease: Option<Lease>| lease.map_or_else(|| pool.lease(), Ok).map_err(none);
        Ok([free(one)?, free(two)?])
    }

    /// Makes a direct connection, stored like a mapping.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing is kept then.
    pub async fn add_direct(&self) -> Result<Mapping, ChangeError> {
        self.check_running()?;
        let passkey = Passcode::random();
        let pipe = mapping::Pipe::Direct { passkey };
        let mapping = Mapping { id: random_id(), pipe, options: Options::default() };
        self.store(Change::Add(mapping.clone())).await?;
        self.direct.borrow_mut().push(mapping.id.clone(), mapping.clone());
        log::info!(target: ALWAYS, mapping = &*mapping.id; "direct connection {} added", mapping.id);
        Ok(mapping)
    }

    /// Stores the removal, then closes the mapping's ports, waiting users, tunnels and sessions.
    /// Only mappings with ports are found, by id or name. To be awaited to its end.
    ///
    /// # Errors
    /// [`ChangeError`]; the mapping goes on then.
    pub async fn remove(&self, id: &str) -> Result<Id, ChangeError> {
        self.check_running()?;
        let Some(id) = self.named(id) else { return Err(ChangeError::Unknown) };
        self.store(Change::Remove(id.clone())).await?;
        self.close(&id).await;
        Ok(id)
    }

    /// Closes a mapping that is stored no longer: its ports, waiting users, tunnels and sessions.
    pub async fn close(&self, id: &str) {
        let removed = self.running.borrow_mut().remove(id);
        let (mut cut, mut name) = (String::new(), None);
        if let Some(Running { pipe, task, _ports }) = removed {
            let Counts { sessions, users_waiting, .. } = pipe.status().counts;
            let left = Draining { sessions, users_waiting, milliseconds_left: 0 };
            if !left.is_over() {
                cut = format!("; cut: {}", left.who());
            }
            task.cancel().await;
            pipe.closed().await;
            let counts = pipe.status().counts.without_gauges();
            self.removed.set(self.removed.get().plus(counts));
            pipe.record.event(Event::MappingRemoved, "", &format!("removed{cut}"));
            name = Some(pipe.name()).filter(|name| **name != *id);
        }
        log::info!(
            target: ALWAYS, event = Event::MappingRemoved.word(), mapping = id, name = name.as_deref();
            "mapping {id}{} removed{cut}", in_brackets(name.as_deref())
        );
    }

    /// Removes a direct connection.
    ///
    /// # Errors
    /// [`ChangeError`]; it stays then.
    pub async fn remove_direct(&self, id: &str) -> Result<(), ChangeError> {
        self.check_running()?;
        if self.direct.borrow().get(id).is_none() {
            return Err(ChangeError::Unknown);
        }
        self.store(Change::Remove(id.into())).await?;
        self.direct.borrow_mut().remove(id);
        log::info!(target: ALWAYS, mapping = id; "direct connection {id} removed");
        Ok(())
    }

    fn check_running(&self) -> Result<(), ChangeError> {
        match (self.replacing.get(), self.draining.get()) {
            (true, _) => Err(ChangeError::Replacing),
            (false, Some(_)) => Err(ChangeError::Stopping),
            (false, None) => Ok(()),
        }
    }

    /// Takes no more changes, because another daemon is about to take this one's place, and leaves the state file to
    /// it once those that are on their way are stored. `false`, and all is as before, if they are not in time.
    pub async fn leave_state(&self) -> bool {
        self.replacing.set(true);
        let deadline = Instant::now() + limits::HEIR_TAKES;
        while Rc::strong_count(&self.changing) > 1 || self.altering.try_acquire().is_none() {
            if Instant::now() >= deadline {
                self.replacing.set(false);
                return false;
            }
            sleep(limits::DRAIN_CHECK).await;
        }
        self.store.give_up_lock();
        true
    }

    /// Takes the state file back, after [`leave_state`](Self::leave_state); `false` if the other daemon keeps it for this
    /// moment.
    pub fn take_state_back(&self) -> bool {
        self.store.take_lock_again()
    }

    /// Takes changes again.
    pub fn keep_state(&self) {
        self.replacing.set(false);
    }

    /// One more change may wait for the disk, until this is dropped.
    fn ask(&self) -> Result<Rc<()>, ChangeError> {
        // The state file may have been left to another daemon.
        if self.replacing.get() {
            return Err(ChangeError::Replacing);
        }
        // One for each change, and the registry's own.
        if Rc::strong_count(&self.changing) > limits::CHANGES_ASKED {
            return Err(ChangeError::Busy);
        }
        Ok(self.changing.clone())
    }

    async fn store(&self, change: Change) -> Result<(), ChangeError> {
        let _changing = self.ask()?;
        let stored = self.store.change(change).await;
        let fault = match &stored {
            Err(error @ StoreError::Unwritable(_)) => Some(error.to_string()),
            _ => None,
        };
        let (events, kind) = (&self.shared.events, "state");
        let failed = fault.as_ref().map(|_| Event::DiskFailed.word());
        if let Some(fault) = &fault {
            events.tell(Event::DiskFailed, None, kind, fault);
        }
        if self.store_fault.replace(fault).is_some() && stored.is_ok() {
            let what = "a change of the mappings was stored again";
            log::info!(target: ALWAYS, event = Event::DiskBack.word(); "{what}");
            events.tell(Event::DiskBack, None, kind, what);
        }
        stored.map_err(|error| match error {
            StoreError::Unknown(_) => ChangeError::Unknown,
            StoreError::Stopped => ChangeError::Stopping,
            StoreError::Unreadable(_)
            | StoreError::Unavailable(_)
            | StoreError::Unwritable(_)
            | StoreError::Taken(_) => {
                log::error!(target: ALWAYS, event = failed; "a change was not made: {error}");
                ChangeError::Store(error.to_string())
            }
        })
    }

    /// The direct connection of this id and passkey.
    pub fn direct(&self, id: &str, passkey: &str) -> Option<Mapping> {
        self.direct.borrow().get(id).filter(|mapping| proves(mapping, passkey)).cloned()
    }

    /// The whole state at this moment, but for what the API and the log count.
    pub fn status(&self) -> Status {
        let config = self.shared.config.borrow();
        Status {
            uptime: self.started.elapsed(),
            address: config.address.clone(),
            dev: self.shared.tls.is_none(),
            listen: config.listen.unwrap_or(Ipv6Addr::UNSPECIFIED.into()).to_string(),
            certificate: self.shared.tls.as_ref().map(|tls| tls.current().pin()),
            certificate_ends: self.shared.tls.as_ref().and_then(|tls| tls.current().ends()),
            draining: self.draining(),
            available_ports: self.shared.pool.available(),
            files: OpenFiles {
                in_use: self.shared.files.used(),
                allowed: self.shared.files.limit(),
            },
            warnings: config
                .open_api_warning()
                .into_iter()
                .chain(config.sandbox_warning())
                .chain(self.store_fault.borrow().clone())
                .chain(self.shared.pool.outside())
                .chain(self.plain_warning())
                .collect(),
            mappings: self.running.borrow().iter().map(|running| running.pipe.status()).collect(),
            direct: self.direct.borrow().len(),
            removed: self.removed.get(),
            events: self.shared.events.list(),
            times: *self.shared.times.borrow(),
            ..Status::default()
        }
    }

    /// What there is to tell of every connection to a mapping's port: first of those that wait, a few at a time, then of
    /// those that each thread carries.
    pub async fn dump(&self, dump: &mut Dump) {
        let mut pipes = Vec::new();
        self.running.borrow().iter().for_each(|running| pipes.push(running.pipe.clone()));
        for pipe in pipes {
            pipe.tell(dump);
            for kind in 0..Pipe::KINDS {
                let mut last = None;
                loop {
                    last = pipe.tell_next(kind, last, dump);
                    if last.is_none() {
                        break;
                    }
                    if dump.lines() % limits::DUMP_TURN == 0 {
                        look().await;
                    }
                }
            }
        }
        let told = self.shared.workers.each_makes(limits::DUMP_WAIT, session::tell_all).await;
        for (worker, told) in told.into_iter().enumerate() {
            match worker {
                0 => dump.line(format_args!("the control thread carries")),
                worker => dump.line(format_args!("worker {worker} carries")),
            }
            match told {
                Some(told) => dump.append(told),
                None => dump.line(format_args!(
                    "what is not known: it has been held up for {} s",
                    limits::DUMP_WAIT.as_secs()
                )),
            }
        }
    }

    /// What has happened last, on all mappings and beside them.
    pub fn events(&self) -> Rc<Events> {
        self.shared.events.clone()
    }

    /// Has each mapping tell as events what is over there.
    pub fn tell_over(&self) {
        if self.draining.get().is_none() {
            self.running.borrow().iter().for_each(|running| running.pipe.tell_over());
        }
    }

    /// Whether a port of a mapping was not tried to be opened yet, as it is when the daemon has just started.
    pub fn has_untried(&self) -> bool {
        let is_untried = |pipe: &Pipe| pipe.sides.iter().any(|side| !side.is_tried.get());
        self.running.borrow().iter().any(|running| is_untried(&running.pipe))
    }

    /// How many mappings there are, and how many of them have a port that is not open.
    pub fn inactive(&self) -> [usize; 2] {
        let running = self.running.borrow();
        let is_inactive = |pipe: &Pipe| pipe.sides.iter().any(|side| side.fault.borrow().is_some());
        [running.len(), running.iter().filter(|running| is_inactive(&running.pipe)).count()]
    }

    /// The same without a look at each mapping: Controllers ask for it all the time.
    pub fn overview(&self) -> Overview {
        Overview {
            condition: condition(self.draining.get().is_some()),
            mappings: self.running.borrow().len(),
            available_ports: self.shared.pool.available(),
        }
    }

    /// The state at this moment of the mapping with this id or name.
    pub fn mapping_status(&self, id: &str) -> Option<MappingStatus> {
        let id = self.named(id)?;
        self.running.borrow().get(&id).map(|running| running.pipe.status())
    }

    /// What a stopping daemon still waits for.
    pub fn draining(&self) -> Option<Draining> {
        let deadline = self.draining.get()?;
        let left = deadline.saturating_duration_since(Instant::now());
        let running = self.running.borrow();
        Some(Draining {
            sessions: running.iter().map(|running| running.pipe.sessions_left()).sum(),
            users_waiting: running.iter().map(|running| running.pipe.users_left()).sum(),
            milliseconds_left: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Closes all ports, and returns when nobody is left to wait for or after `patience`. Waiting
    /// tunnels stay connected until the process ends, so that their agents come back to the next
    /// one at once instead of backing off meanwhile.
    pub async fn drain(&self, patience: Duration) {
        let begun = Instant::now();
        self.draining.set(Some(begun + patience));
        let each = |what: fn(&Pipe)| {
            self.running.borrow().iter().for_each(|running| what(&running.pipe));
        };
        each(Pipe::stop);
        loop {
            let mut left = self.draining().filter(|left| !left.is_over());
            if left.is_none() {
                // A user that waited may have been given a tunnel whose task has not begun the session yet.
                look().await;
                left = self.draining().filter(|left| !left.is_over());
            }
            let Some(left) = left else { break };
            if left.milliseconds_left == 0 {
                log::warn!(
                    target: ALWAYS, "still open after {} ms, and cut: {}",
                    patience.as_millis(),
                    left.who()
                );
                break;
            }
            if begun.elapsed() >= limits::STILL {
                each(|pipe| pipe.pairing.dismiss(false));
            }
            sleep(limits::DRAIN_CHECK).await;
        }
        // Each tunnel's task says it, and it goes out. Said sooner, it would send agents to a port that is closed.
        each(Pipe::bid_farewell);
        look().await;
        look().await;
    }

    /// Carries what has begun to its end, after another daemon has taken this one's place; returns when nothing is
    /// left, or after `patience`, which [`hurry`](Self::hurry) may shorten. Users have `waiting` to be given a tunnel.
    /// `short` is told how many of a mapping's users wait where no tunnel does, here or at a daemon before this one, now
    /// and again, and 0 once none does; `calm`, of which no answers may come to the other one. `lives` says whether there
    /// is one before, which is waited for as well.
    pub async fn retire(
        &self,
        patience: Duration,
        waiting: Duration,
        short: &dyn Fn(&Id, usize),
        calm: &dyn Fn(&Id),
        lives: &dyn Fn() -> bool,
    ) {
        // What was said of which, and when.
        let mut are_short: Vec<(Id, usize, Instant)> = Vec::new();
        let begun = Instant::now();
        self.draining.set(Some(begun + patience));
        let mut are_calm: Vec<(Id, u64, bool)> = Vec::new();
        for Running { pipe, .. } in self.running.borrow().iter() {
            if pipe.is_calm() {
                are_calm.push((pipe.id().clone(), pipe.record.counts().sessions_total, false));
            }
            pipe.is_calm_before.set(false);
            pipe.retire();
        }
        self.be_wary();
        let mut is_over = false;
        loop {
            let looked_at = Instant::now();
            let over = self.shared.session_over.listen();
            let is_late = begun.elapsed() >= waiting;
            for Running { pipe, .. } in self.running.borrow().iter() {
                if is_late {
                    pipe.pairing.dismiss(true);
                }
                match is_late || !pipe.is_awaited() {
                    true => pipe.give_up(),
                    false => pipe.give_up_surplus(),
                }
                let own = pipe.short_of();
                if own > 0 {
                    pipe.agents_left.leave(LeftTo::Next, None);
                }
                let users = own + pipe.agents_left.wanted();
                let known = are_short.iter().position(|(id, ..)| id == pipe.id());
                match (users, known) {
                    (0, None) => continue,
                    (0, Some(place)) => drop(are_short.swap_remove(place)),
                    (_, None) => are_short.push((pipe.id().clone(), users, Instant::now())),
                    (_, Some(place)) => {
                        let (_, told, at) = &mut are_short[place];
                        // Agents may have gone to the other one before it heard of it.
                        if users <= *told && at.elapsed() < limits::DRAIN_TOLD {
                            continue;
                        }
                        (*told, *at) = (users, Instant::now());
                    }
                }
                short(pipe.id(), users);
            }
            are_calm.retain_mut(|(id, sessions, was_left)| {
                let running = self.running.borrow();
                let pipe = running.get(id).map(|running| &running.pipe);
                let is_left = pipe.is_none_or(|pipe| !pipe.is_awaited());
                // The last user may have been given a tunnel whose task has not begun the session yet: only the next
                // look tells.
                let is_over = std::mem::replace(was_left, is_left) && is_left;
                // Unless the last of its users have had sessions meanwhile.
                if is_over
                    && pipe.is_some_and(|pipe| pipe.record.counts().sessions_total == *sessions)
                {
                    calm(id);
                }
                !is_over
            });
            // A user that waited may have been given a tunnel whose task has not begun the session yet.
            let was_over = std::mem::replace(&mut is_over, self.carried() == 0);
            if is_over && was_over && !lives() {
                break;
            }
            if self.draining.get().is_some_and(|deadline| deadline <= Instant::now()) {
                if !is_over {
                    log::warn!(
                        target: ALWAYS, "still open after {} s, and cut: {}",
                        begun.elapsed().as_secs(),
                        counted(self.carried(), "session")
                    );
                }
                break;
            }
            sleep(rest(begun.elapsed(), looked_at.elapsed())).await;
            // Often at first; what is there after a minute will be there for a while, unless it ends.
            until(Instant::now() + (begun.elapsed() / 50).min(limits::DRAIN_TOLD), over).await;
        }
        self.running.borrow().iter().for_each(|running| running.pipe.pairing.close());
    }

    /// Leaves agents of this mapping, or of all, to the other daemon until then; or no longer.
    pub fn leave_agents(&self, id: Option<&str>, to: LeftTo, until: Option<Instant>) {
        for Running { pipe, .. } in self.running.borrow().iter() {
            if id.is_none_or(|id| **pipe.id() == *id) {
                pipe.agents_left.leave(to, until);
            }
        }
    }

    /// Leaves agents of this mapping to the daemon before this one until then, which is short of so many for its users;
    /// as many of those that wait here are to come again, since they open no others before.
    pub fn send_agents(&self, id: &str, count: usize, until: Instant) {
        if let Some(Running { pipe, .. }) = self.running.borrow().get(id) {
            pipe.agents_left.want(count, until);
            pipe.pairing.give_up(0, 0, count, false);
        }
    }

    /// What has begun here and has not ended: sessions, and users for whom there is none yet.
    fn carried(&self) -> u64 {
        let running = self.running.borrow();
        let each = running.iter().map(|Running { pipe, .. }| {
            pipe.record.counts().sessions + u64::from(pipe.is_awaited())
        });
        each.sum()
    }

    /// Its sessions, and the time that they have, once another daemon has taken this one's place.
    pub fn left(&self) -> Option<(u64, Duration)> {
        let deadline = self.draining.get()?;
        let running = self.running.borrow();
        let sessions = running.iter().map(|running| running.pipe.record.counts().sessions).sum();
        Some((sessions, deadline.saturating_duration_since(Instant::now())))
    }

    /// Gives sessions no longer than this.
    pub fn hurry(&self, patience: Duration) {
        let soon = Instant::now() + patience;
        self.draining.set(self.draining.get().map(|deadline| deadline.min(soon)));
    }

    /// Closes every mapping at once. Each session or wait that this cuts is reported.
    pub async fn cut(&self) {
        let all: Vec<_> = self.running.borrow_mut().take().collect();
        for Running { task, .. } in all {
            task.cancel().await;
        }
    }
}

/// How long a daemon that carries what has begun looks at no mapping, `since` another one has taken its place, after a
/// look that `took` so long: with thousands of mappings that is a while, and each session that ends asks for another one.
/// In the first second users are given the tunnels that are there, and agents sent to where users wait.
fn rest(since: Duration, took: Duration) -> Duration {
    let least = limits::DRAIN_CHECK;
    if since < limits::STILL { least } else { least.max(took * limits::LOOK_RESTS) }
}

/// What follows a mapping's id in a sentence, where it has a name.
fn in_brackets(name: Option<&str>) -> String {
    name.map_or(String::new(), |name| format!(" ({name})"))
}

fn proves(mapping: &Mapping, offered: &str) -> bool {
    match &mapping.pipe {
        mapping::Pipe::Direct { passkey } => passkey.matches(offered.as_bytes()),
        mapping::Pipe::Public { .. } | mapping::Pipe::Private { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_at_all_mappings_take_a_tenth_of_the_time_at_most_after_the_first_second() {
        let ms = Duration::from_millis;
        for (since, took, pause) in [
            (ms(0), ms(500), limits::DRAIN_CHECK),
            (ms(999), ms(500), limits::DRAIN_CHECK),
            (ms(1000), ms(0), limits::DRAIN_CHECK),
            (ms(1000), ms(1), ms(10)),
            (ms(60_000), ms(30), ms(300)),
        ] {
            assert_eq!(rest(since, took), pause, "after {since:?}, {took:?}");
        }
    }
}
