//! One daemon and everybody who uses it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::session::{Ending, Fault, Plan, Version, Wire};
use crate::common::{Authority, Daemon, Link, Mapping, Mode, at, eventually, form, ms};

/// Tunnels of the public pipe of each version. A version 1 tunnel that a user left in mid-answer is
/// read to nowhere for about 1 s before it is used again.
const TUNNELS: [u32; 2] = [30, 16];
/// Tunnels on port2 of each private pipe.
const PARTNERS: u32 = 8;
/// Threads that begin sessions.
const BEGINNERS: u32 = 16;
/// Controllers, and the time between changes of each.
const CONTROLLERS: u32 = 2;
const CHANGE: Duration = Duration::from_secs(2);
/// Time between reloads.
const RELOAD: Duration = Duration::from_secs(5);
/// Time between an idle agent's heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Faults whose words are kept.
const TOLD: usize = 30;

/// What has happened, in numbers.
#[derive(Default)]
pub struct Tally {
    /// Sessions begun.
    pub begun: AtomicU64,
    /// Of them, those that carried all their bytes.
    pub whole: AtomicU64,
    /// Those that a user, or an agent in mid-answer, reset as planned.
    pub reset: AtomicU64,
    /// Those that ended before the first byte of an answer.
    pub unanswered: AtomicU64,
    /// Idle agents that vanished and came back, for each of which one user may go unanswered.
    pub crashes: AtomicU64,
    /// Bytes of whole sessions.
    pub bytes: AtomicU64,
    /// Sessions with bytes that were not theirs.
    pub foreign: AtomicU64,
    /// Sessions that lost bytes.
    pub lost: AtomicU64,
    /// Agents refused, or not connected.
    pub refused: AtomicU64,
    /// Acknowledged changes of mappings.
    pub changes: AtomicU64,
    /// Reloads that were seen in force.
    pub reloads: AtomicU64,
    /// Certificates taken.
    pub certificates: AtomicU64,
    /// Bad certificates not taken.
    pub bad_certificates: AtomicU64,
    /// Anything else that was not as promised.
    pub wrong: AtomicU64,
    told: Mutex<Vec<String>>,
}

/// A daemon and its load.
pub struct Site {
    /// The daemon.
    pub daemon: Arc<Daemon>,
    /// What has happened.
    pub tally: Arc<Tally>,
    /// The mappings that stay, of each version the public and the private one.
    fixed: [[Mapping; 2]; 2],
    /// Those that come and go and that are there now, as far as they were acknowledged.
    changing: Vec<Arc<Mutex<Vec<Mapping>>>>,
    /// Descriptors of the daemon before anybody came.
    pub quiet_files: usize,
    rate: f64,
    agents: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
    agents_stop: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Site {
    /// A daemon without load; `rate` is how many sessions a second it shall get.
    pub fn new(mode: Mode, rate: f64) -> Self {
        let authority = Authority::new("churn");
        let mut builder = Daemon::builder(mode).ports(60).set("userwait", 60_000);
        if mode == Mode::Tls {
            let (certificate, key) = pair(&authority);
            builder = builder.file("server-cert.pem", certificate).file("server-key.pem", key);
        }
        let daemon = Arc::new(builder.start());
        let api = daemon.api();
        let mapping = || [api.add_public(200, 200_000), api.add_private(200, 200_000)];
        let mut site = Site {
            fixed: [mapping(), mapping()],
            tally: Arc::default(),
            changing: (0..CONTROLLERS).map(|_| Arc::default()).collect(),
            quiet_files: 0,
            rate,
            agents: Vec::new(),
            others: Vec::new(),
            agents_stop: Arc::default(),
            stop: Arc::default(),
            daemon,
        };
        site.quiet_files = site.files();
        site.spawn(authority);
        site
    }

    fn spawn(&mut self, authority: Authority) {
        for (version, [public, private]) in
            [Version::One, Version::Two].into_iter().zip(&self.fixed)
        {
            let agent = |port: u16, passcode: &str, public: bool| Agent {
                daemon: self.daemon.clone(),
                tally: self.tally.clone(),
                stop: self.agents_stop.clone(),
                port,
                passcode: passcode.to_owned(),
                version,
                again: public && version == Version::One,
            };
            for _ in 0..TUNNELS[usize::from(version == Version::Two)] {
                let agent = agent(public.port1, &public.passcode1, true);
                self.agents.push(thread::spawn(move || agent.run()));
            }
            for _ in 0..PARTNERS {
                let agent = agent(private.port2, &private.passcode2, false);
                self.agents.push(thread::spawn(move || agent.run()));
            }
        }
        let turn = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        for _ in 0..BEGINNERS {
            let beginner = Beginner {
                daemon: self.daemon.clone(),
                tally: self.tally.clone(),
                fixed: self.fixed.clone(),
            };
            let (turn, stop, rate) = (turn.clone(), self.stop.clone(), self.rate);
            self.others.push(thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let number = turn.fetch_add(1, Ordering::SeqCst);
                    let due = start + Duration::from_secs_f64(number as f64 / rate);
                    sleep_until(due, &stop);
                    beginner.session();
                }
            }));
        }
        for mine in &self.changing {
            let (daemon, tally) = (self.daemon.clone(), self.tally.clone());
            let (mine, stop) = (mine.clone(), self.stop.clone());
            self.others.push(thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    tally.watch("a change", || change(&daemon, &tally, &mine));
                    sleep_until(Instant::now() + CHANGE.mul_f64(0.5 + fastrand::f64()), &stop);
                }
            }));
        }
        let (daemon, tally, stop) = (self.daemon.clone(), self.tally.clone(), self.stop.clone());
        self.others.push(thread::spawn(move || {
            let mut reloads = Reloads { daemon, tally: tally.clone(), authority, count: 0 };
            while !stop.load(Ordering::SeqCst) {
                tally.watch("a reload", || reloads.next());
                sleep_until(Instant::now() + RELOAD, &stop);
            }
        }));
    }

    /// Ends users, Controllers and reloads; agents stay.
    pub fn calm(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.others.drain(..) {
            let _ = thread.join();
        }
    }

    /// Compares what was acknowledged with `configs.json` and with what the daemon says.
    pub fn check_state(&self) -> Result<usize, String> {
        let mut expected: Vec<Mapping> = self.fixed.iter().flatten().cloned().collect();
        for mine in &self.changing {
            expected.extend(held(mine).iter().cloned());
        }
        let file = self.daemon.state_file();
        let stored = file["mappings"].as_array().cloned().unwrap_or_default();
        let state = self.daemon.control().state();
        let running = state["mappings"].as_array().cloned().unwrap_or_default();
        for mapping in &expected {
            let Some(entry) = find(&stored, &mapping.id) else {
                return Err(format!("{} was acknowledged and is not in configs.json", mapping.id));
            };
            is_stored(entry, mapping)?;
            let Some(entry) = find(&running, &mapping.id) else {
                return Err(format!("{} was acknowledged and does not run", mapping.id));
            };
            for (side, port) in [mapping.port1, mapping.port2].into_iter().enumerate() {
                let side = &entry["sides"][side];
                if side["port"] != port || side["open"] != true {
                    return Err(format!("port {port} of {} is not open: {side}", mapping.id));
                }
            }
        }
        for (what, count) in [("stored", stored.len()), ("running", running.len())] {
            if count != expected.len() {
                return Err(format!("{count} mappings {what}, {} acknowledged", expected.len()));
            }
        }
        Ok(expected.len())
    }

    /// Ends the agents and removes what came and went.
    pub fn empty(&mut self) {
        self.agents_stop.store(true, Ordering::SeqCst);
        for thread in self.agents.drain(..) {
            let _ = thread.join();
        }
        for mine in &self.changing {
            for mapping in held(mine).drain(..) {
                self.daemon.control().remove(&mapping);
            }
        }
    }

    /// The daemon's descriptors, without the kernel pipes that its threads keep for the next
    /// session.
    pub fn files(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.daemon.pid().as_raw_nonzero());
        let files = std::fs::read_dir(folder).expect("/proc");
        let is_pipe = |path: std::path::PathBuf| {
            std::fs::read_link(path).is_ok_and(|name| name.to_string_lossy().starts_with("pipe:"))
        };
        files.flatten().filter(|file| !is_pipe(file.path())).count()
    }
}

impl Tally {
    /// Adds one.
    pub fn count(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The words of the first faults.
    pub fn told(&self) -> Vec<String> {
        self.told.lock().expect("told").clone()
    }

    fn tell(&self, counter: &AtomicU64, what: String) {
        self.count(counter);
        let mut told = self.told.lock().expect("told");
        if told.len() < TOLD {
            told.push(what);
        }
    }

    /// Runs what panics when something is not as promised.
    fn watch(&self, what: &str, step: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(step)) {
            let why = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            self.tell(&self.wrong, format!("{what}: {why}"));
        }
    }
}

/// One place of an agent's pool: a tunnel, dialled again and again.
struct Agent {
    daemon: Arc<Daemon>,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    port: u16,
    passcode: String,
    version: Version,
    /// Whether its tunnels carry one session after another.
    again: bool,
}

impl Agent {
    fn run(self) {
        while !self.stop.load(Ordering::SeqCst) {
            let tunnel = self.daemon.try_link(self.port).map(Wire::new).and_then(|mut wire| {
                let proved = wire.prove(self.version, &self.passcode)?;
                Ok(proved.then_some(wire))
            });
            match tunnel {
                Ok(Some(wire)) => {
                    let mut tunnel = Some(wire);
                    while let Some(wire) = tunnel {
                        tunnel = self.serve(wire);
                    }
                }
                Ok(None) => self.refused("refused".to_owned()),
                Err(error) => self.refused(error.to_string()),
            }
        }
    }

    fn refused(&self, why: String) {
        self.tally.tell(&self.tally.refused, format!("an agent on port {}: {why}", self.port));
        sleep_until(Instant::now() + ms(200), &self.stop);
    }

    /// A tunnel's wait and its session; gives it back where it can carry another one.
    fn serve(&self, mut wire: Wire) -> Option<Wire> {
        // In plain TCP the answer to a version 1 agent's heartbeat that crosses a user's bytes
        // cannot be told from them (protocol page, section 4, step 7).
        let beats = self.version == Version::Two || self.daemon.mode == Mode::Tls;
        let crash =
            (fastrand::u32(0..50) == 0).then(|| Instant::now() + ms(2000).mul_f64(fastrand::f64()));
        let mut beat = Instant::now() + HEARTBEAT;
        loop {
            let now = Instant::now();
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
            if crash.is_some_and(|crash| crash <= now) {
                self.tally.count(&self.tally.crashes);
                wire.reset();
                sleep_until(now + ms(1000).mul_f64(fastrand::f64()), &self.stop);
                return None;
            }
            if beat <= now {
                beat = now + HEARTBEAT;
                if beats {
                    // A tunnel that has ended is seen below.
                    let _ = wire.beat();
                }
            }
            let next = crash.unwrap_or(beat).min(beat).min(now + ms(1000)).max(now + ms(1));
            match wire.is_wanted(next) {
                Ok(true) => break,
                Ok(false) => {}
                // The connector ends an idle tunnel when its partner or user has vanished.
                Err(_) => return None,
            }
        }
        self.session(wire)
    }

    fn session(&self, mut wire: Wire) -> Option<Wire> {
        let told = match self.version {
            Version::One => None,
            Version::Two => match wire.open() {
                Ok(port) => port,
                Err(fault) => {
                    self.fault(None, fault);
                    return None;
                }
            },
        };
        match wire.answer(self.again) {
            Err(fault) => self.fault(None, fault),
            Ok((plan, outcome)) => {
                if told.is_some_and(|port| port != plan.port) {
                    let why = format!("PROXY header of {told:?} for the user on {}", plan.port);
                    self.tally.tell(&self.tally.foreign, why);
                }
                match outcome {
                    Err(fault) => self.fault(Some(plan), fault),
                    Ok(()) if plan.ending == Ending::AgentResets => wire.reset(),
                    Ok(()) if self.again && plan.ending != Ending::Agent => return Some(wire),
                    Ok(()) => {}
                }
            }
        }
        None
    }

    fn fault(&self, plan: Option<Plan>, fault: Fault) {
        let shown = format!("at the agent on port {}, {plan:?}: {fault}", self.port);
        match (fault, plan.map(|plan| plan.ending)) {
            (Fault::Foreign(_), _) => self.tally.tell(&self.tally.foreign, shown),
            (Fault::Cut(..), Some(Ending::BeginnerResets)) => {}
            (Fault::Cut(..), _) => self.tally.tell(&self.tally.lost, shown),
        }
    }
}

/// Whoever begins sessions: users of public pipes, agents on port1 of private ones.
struct Beginner {
    daemon: Arc<Daemon>,
    tally: Arc<Tally>,
    fixed: [[Mapping; 2]; 2],
}

impl Beginner {
    fn session(&self) {
        let version = [Version::One, Version::Two][usize::from(fastrand::bool())];
        let [public, private] = &self.fixed[usize::from(version == Version::Two)];
        let is_public = fastrand::u32(0..4) > 0;
        let tag = fastrand::u64(..);
        self.tally.count(&self.tally.begun);
        let port = if is_public { public.port2 } else { private.port1 };
        let link = match self.daemon.try_link(port) {
            Ok(link) => link,
            Err(error) => return self.wrong(format!("connecting to port {port}: {error}")),
        };
        let plan = Plan::random(tag, version, link.local());
        let mut wire = Wire::new(link);
        let mut outcome = Ok(());
        if !is_public {
            match wire.prove(version, &private.passcode1) {
                Ok(true) => {}
                other => return self.wrong(format!("proving on port {port}: {other:?}")),
            }
            if version == Version::Two {
                outcome = match wire.is_wanted(Instant::now() + ms(60_000)) {
                    Ok(true) => wire.open().map(drop),
                    other => return self.wrong(format!("nobody on port {port}: {other:?}")),
                };
            }
        }
        let outcome = outcome.and_then(|()| wire.begin(plan));
        let tally = &self.tally;
        let shown = |fault: &Fault| format!("{plan:?} on port {port}: {fault}");
        match (&outcome, plan.ending) {
            (Err(fault @ Fault::Foreign(_)), _) => tally.tell(&tally.foreign, shown(fault)),
            (_, Ending::AgentResets) | (Ok(()), Ending::BeginnerResets) => {
                tally.count(&tally.reset)
            }
            (Ok(()), _) => {
                tally.count(&tally.whole);
                tally.bytes.fetch_add(plan.bytes(), Ordering::Relaxed);
            }
            (Err(Fault::Cut(0, _)), _) => tally.count(&tally.unanswered),
            (Err(fault), _) => tally.tell(&tally.lost, shown(fault)),
        }
    }

    fn wrong(&self, what: String) {
        self.tally.tell(&self.tally.wrong, what);
    }
}

/// One change of this Controller's mappings, which holds when it is acknowledged.
fn change(daemon: &Daemon, tally: &Tally, mine: &Mutex<Vec<Mapping>>) {
    let api = daemon.api();
    let mut mine = held(mine);
    if mine.len() < 3 || mine.len() < 8 && fastrand::bool() {
        let mapping =
            if fastrand::bool() { api.add_public(4, 200_000) } else { api.add_private(4, 200_000) };
        mine.push(mapping.clone());
        let file = daemon.state_file();
        let stored = file["mappings"].as_array().expect("mappings");
        let entry = find(stored, &mapping.id).expect("an acknowledged mapping is on disk");
        is_stored(entry, &mapping).unwrap();
        if mapping.passcode2.is_empty() {
            drop(daemon.session(&mapping));
        } else {
            drop(daemon.pair(&mapping));
        }
    } else {
        let mapping = mine.remove(0);
        // Some go with a session in them.
        let session = (mapping.passcode2.is_empty() && fastrand::bool()).then(|| {
            let (user, agent) = daemon.session(&mapping);
            (user, agent.link)
        });
        api.remove(&mapping);
        let file = daemon.state_file();
        let stored = file["mappings"].as_array().expect("mappings");
        assert!(find(stored, &mapping.id).is_none(), "{} is removed and on disk", mapping.id);
        if let Some((mut user, mut agent)) = session {
            user.expect_closed();
            agent.expect_closed();
        }
        for port in [mapping.port1, mapping.port2] {
            assert!(Link::plain(at(port)).is_err(), "port {port} of a removed mapping is open");
        }
    }
    tally.count(&tally.changes);
}

/// SIGHUPs: each with changed settings, whose coming into force is seen; in TLS most with a
/// certificate, good or bad.
struct Reloads {
    daemon: Arc<Daemon>,
    tally: Arc<Tally>,
    authority: Authority,
    count: u16,
}

impl Reloads {
    fn next(&mut self) {
        self.count = self.count % 50_000 + 1;
        let is_tls = self.daemon.mode == Mode::Tls;
        match self.count % 4 {
            1 | 3 if is_tls => self.good_certificate(),
            2 if is_tls => self.bad_certificate(),
            _ => self.reload(),
        }
        self.tally.count(&self.tally.reloads);
    }

    /// Sends SIGHUP and waits for the new settings: `broker` is what `direct/add` answers.
    fn reload(&self) {
        let broker = 10_000 + self.count;
        self.daemon.set("broker", broker);
        self.daemon.signal(Signal::HUP);
        let api = self.daemon.api();
        eventually("the new settings are in force", || {
            let direct = api.post("/api/v2/direct/add", "").ok();
            let id = direct["id"].as_str().expect("id");
            api.post("/api/v2/direct/remove", &form(&[("id", id)])).ok();
            (direct["port"] == broker).then_some(())
        });
    }

    fn good_certificate(&self) {
        let before = self.shown();
        let (certificate, key) = pair(&self.authority);
        self.put(&certificate, &key);
        self.reload();
        assert_ne!(self.shown(), before, "the old certificate is still in force");
        self.tally.count(&self.tally.certificates);
    }

    fn bad_certificate(&self) {
        let before = self.shown();
        let names = ["server-cert.pem", "server-key.pem"];
        let [certificate, key] = names.map(|name| self.daemon.read(name));
        let (other, _) = pair(&self.authority);
        match self.count / 4 % 3 {
            0 => self.put(&other, &key),
            1 => self.put(&certificate[..certificate.len() / 3], &key),
            _ => self.put(&certificate, ""),
        }
        self.reload();
        assert_eq!(self.shown(), before, "a bad certificate has replaced the old one");
        self.put(&certificate, &key);
        self.tally.count(&self.tally.bad_certificates);
    }

    fn put(&self, certificate: &str, key: &str) {
        self.daemon.write("server-cert.pem", certificate);
        self.daemon.write("server-key.pem", key);
    }

    /// The certificate that the API shows.
    fn shown(&self) -> Vec<u8> {
        let link = Link::tls(self.daemon.api_address(), &self.daemon.trust());
        link.expect("the API in TLS").server_certificate()
    }
}

/// A certificate with its authority's behind it, so that trusting the file outlasts the
/// certificate; and its key.
fn pair(authority: &Authority) -> (String, String) {
    let identity = authority.sign(&["localhost", "127.0.0.1"]);
    (identity.pem() + &authority.pem(), identity.key_pem())
}

/// What one of several changes has failed over is still what was acknowledged.
fn held(mine: &Mutex<Vec<Mapping>>) -> MutexGuard<'_, Vec<Mapping>> {
    mine.lock().unwrap_or_else(PoisonError::into_inner)
}

fn find<'a>(mappings: &'a [Value], id: &str) -> Option<&'a Value> {
    mappings.iter().find(|entry| entry["id"] == id)
}

fn is_stored(entry: &Value, mapping: &Mapping) -> Result<(), String> {
    let same = entry["port1"] == mapping.port1
        && entry["port2"] == mapping.port2
        && entry["passcodeport1"] == mapping.passcode1.as_str()
        && entry["passcodeport2"] == mapping.passcode2.as_str();
    if same { Ok(()) } else { Err(format!("{} is not stored as acknowledged", mapping.id)) }
}

fn sleep_until(due: Instant, stop: &AtomicBool) {
    while Instant::now() < due && !stop.load(Ordering::SeqCst) {
        thread::sleep((due - Instant::now()).min(ms(200)));
    }
}
