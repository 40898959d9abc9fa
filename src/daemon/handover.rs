//! One daemon takes another one's place (protocol page, section 7, step 12): a program started anew gets the
//! listening sockets, the run folder's lock and the control socket of the one that runs. Both talk over a [`Link`]:
//!
//! | from | word | meaning |
//! |---|---|---|
//! | new | `here` | it runs; one that hangs before is given nothing |
//! | old | `from PID`; `lock`, `control`, `ports`, with files; then `all` | what the new one is given |
//! | new | `refused WHY` | it cannot serve; the old one goes on as before |
//! | new | `ready PID` | everything is open, and it accepts nobody yet |
//! | old | `go`, or `no` | it makes way, or goes on itself; it may still accept users for a moment, whom it serves |
//! | new | `taken` | it serves |
//! | old | `reload`, `stop` | what was asked of it while the new one took the place, and is for that |
//! | old | `main` | the service manager watches the new one |
//! | old | `short ID USERS`, `enough ID` | so many users of this mapping wait here and no tunnel does: agents are left to the old one, and as many tunnels given up; or no longer |
//! | old | `calm ID` | this mapping's tunnels owe no answers that may come on others, and it has no sessions left |
//! | old | `left SESSIONS MS` | what it still carries, and for how long at most |
//! | old | `over` | it carries nothing itself, and the one before it lives |
//! | new | `leave` | it says nothing more, until it has the link to that one |
//! | old | `before PID MS`, with a link | to that one, which may ask for something for so long; the old one ends |
//! | new | `removed ID`, `reopen`, `stop` | what its own operator asks for and concerns the old one, too |
//!
//! A close of either end before `taken` means that its process has failed; the other one serves. The old one says `no`
//! before it closes, unless it has failed; and what it may ask for afterwards, but for `left`, it may for a minute.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::channel::Sender;

use crate::limits;
use crate::logging::ALWAYS;
use crate::os::{Ask, AsyncLink, Instance, Link, Message, Notifier, REFUSED, Spawner, WATCH};
use crate::pipes::registry::{LeftTo, Registry};
use crate::report::status;
use crate::runtime::{aside, until};
use crate::text::event::Event;
use crate::text::reason;

/// The first word of a new program.
const HERE: &str = "here";

/// Why a new program ends that was told `no`.
const GOES_ON: &str = "the running program goes on";

/// What the new program is given.
pub(super) struct Estate {
    /// The run folder's lock.
    pub(super) lock: OwnedFd,
    /// The command line's socket.
    pub(super) control: OwnedFd,
    /// The API's port and all mappings'. Not open a second time: their number may be most of the limit of open files.
    pub(super) ports: Vec<Rc<TcpListener>>,
}

impl Estate {
    /// Hands this over: there is room for all ports of a machine.
    fn pass_on(&self, link: &AsyncLink) -> io::Result<()> {
        let ports: Vec<_> = self.ports.iter().map(|port| port.as_fd()).collect();
        link.give(&format!("from {}", std::process::id()), &[])?;
        link.give("lock", &[self.lock.as_fd()])?;
        link.give("control", &[self.control.as_fd()])?;
        link.give("ports", &ports)?;
        link.give("all", &[])
    }
}

/// A new program that is to take the place, or has taken it. Dropped before, this process does without it, and it is
/// killed where it does not end.
pub(super) struct Heir {
    link: AsyncLink,
    /// What has started it, until it serves.
    spawner: Option<Arc<Spawner>>,
}

impl Heir {
    /// The program started anew, once it has said its first word.
    ///
    /// # Errors
    /// A sentence about why it cannot be started, or that it hangs.
    pub(super) async fn start(spawner: Arc<Spawner>) -> Result<Self, String> {
        let starting = spawner.clone();
        let link = aside(move || starting.start()).await?;
        let link = link.into_async().map_err(|error| reason::words(&error).to_string())?;
        let heir = Heir { link, spawner: Some(spawner) };
        let word = heir.hear(limits::HEIR_TAKES, "has not said a word").await?;
        if word == HERE { Ok(heir) } else { Err(refusal(&word)) }
    }

    /// Gives it the estate.
    ///
    /// # Errors
    /// A sentence about why it cannot be.
    pub(super) fn inherit(&self, estate: Estate) -> Result<(), String> {
        match estate.pass_on(&self.link) {
            // It has failed by then, and said why.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let ports = estate.ports.len();
                Err(format!("{ports} ports cannot be handed over: {}", reason::words(&error)))
            }
            _ => Ok(()),
        }
    }

    /// What it says next.
    async fn hear(&self, wait: Duration, late: &str) -> Result<String, String> {
        let word = until(Instant::now() + wait, self.link.hear()).await;
        let word =
            word.ok_or_else(|| format!("the new program {late} within {} s", wait.as_secs()))?;
        word.ok_or_else(|| {
            "the new program has ended without a word; run by hand with the same arguments, it may say why"
                .into()
        })
    }

    /// Returns once it has opened everything; gives its process.
    ///
    /// # Errors
    /// A sentence about why it has not.
    pub(super) async fn ready(&self) -> Result<u32, String> {
        let answer = self.hear(limits::HEIR_READY, "was not ready").await?;
        match answer.strip_prefix("ready ").map(str::parse) {
            Some(Ok(process)) => Ok(process),
            _ => Err(refusal(&answer)),
        }
    }

    /// Lets it serve; gives it once it does.
    ///
    /// # Errors
    /// A sentence about why it does not, and will not.
    pub(super) async fn go(mut self) -> Result<Successor, String> {
        self.link.tell("go");
        let answer = until(Instant::now() + limits::HEIR_TAKES, self.link.hear()).await;
        let is_late = answer.is_none();
        // Either it has said so by now, or it never will: both would serve.
        let answer = answer.unwrap_or_else(|| self.link.last_word());
        match answer {
            Some(word) if word == "taken" => {
                self.spawner = None;
                Ok(Successor(self))
            }
            _ if is_late => Err(format!(
                "the new program was ready and did not serve within {} s",
                limits::HEIR_TAKES.as_secs()
            )),
            _ => Err("the new program has ended before it served".into()),
        }
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        // A close without this word would mean that this process has died.
        if let Some(spawner) = &self.spawner {
            self.link.tell("no");
            spawner.give_up();
        }
    }
}

/// Why a new program does not take the place, by its word.
fn refusal(word: &str) -> String {
    word.strip_prefix(REFUSED).unwrap_or(word).to_owned()
}

/// What this process was given by the one whose place it takes.
pub(super) struct Inheritance {
    /// To that process.
    pub(super) link: Link,
    /// To the one that has started this one, to say that it serves.
    pub(super) watch: Option<Link>,
    /// Which it is.
    pub(super) process: u32,
    /// The run folder's lock.
    pub(super) lock: File,
    /// The command line's socket.
    pub(super) control: UnixListener,
    /// Listening sockets, of the API and of mappings.
    pub(super) ports: Vec<TcpListener>,
}

impl Inheritance {
    /// Takes what comes through the link. Blocks.
    ///
    /// # Errors
    /// A sentence about what is missing.
    pub(super) fn receive(link: Link) -> Result<Self, String> {
        let (mut process, mut lock, mut control, mut ports) = (0, None, None, Vec::new());
        let mut watch = None;
        let _ = link.send(HERE, &[]);
        loop {
            let message = link.receive(Some(limits::HEIR_TAKES));
            let message = message.map_err(|error| {
                format!("the running program hands nothing over: {}", reason::words(&error))
            })?;
            let Some(message) = message else {
                return Err("the running program has ended before it handed all over".into());
            };
            if let Some(Ok(number)) = message.text.strip_prefix("from ").map(str::parse) {
                process = number;
            }
            match &*message.text {
                "lock" => lock = message.files.into_iter().next(),
                "control" => control = message.files.into_iter().next(),
                "ports" => ports.extend(message.files.into_iter().map(TcpListener::from)),
                "all" => break,
                "no" => return Err(GOES_ON.into()),
                // The first is from what has started this one; others are not.
                WATCH if watch.is_none() => {
                    watch = message.files.into_iter().next().map(Link::from)
                }
                // A later program may hand over more.
                _ => {}
            }
        }
        let (Some(lock), Some(control)) = (lock, control) else {
            return Err("the running program has handed over no lock or no control socket".into());
        };
        Ok(Inheritance { link, watch, process, lock: lock.into(), control: control.into(), ports })
    }

    /// The right to run in the run folder.
    ///
    /// # Errors
    /// No file is left.
    pub(super) fn instance(&self) -> io::Result<Instance> {
        let instance = Instance::inherited(self.lock.try_clone()?);
        // Until this process serves, and if it never does.
        instance.passed_on();
        Ok(instance)
    }

    /// Says why this process does not take the place.
    pub(super) fn refuse(&self, why: &str) {
        refuse(&self.link, why);
    }
}

/// Says why this process does not take the place.
pub(super) fn refuse(link: &Link, why: &str) {
    // Whoever is told of it in the end shows a line.
    let why = why.trim_end().replace('\n', " ");
    let _ = link.send(&format!("{REFUSED}{why}"), &[]);
}

/// Says that everything is open here, and returns when the process before makes way, or is gone.
///
/// # Errors
/// A sentence about why this one is not to serve.
pub(super) fn ready(link: &Link) -> Result<(), String> {
    // Where it is gone by then, it has said whether it had failed.
    let _ = link.send(&format!("ready {}", std::process::id()), &[]);
    makes_way(link)
}

/// Says that this process serves.
///
/// # Errors
/// A sentence about why it is not to.
pub(super) fn taken(link: &Link) -> Result<(), String> {
    link.send("taken", &[]).or_else(|_| makes_way(link))
}

/// Whether the process before has said `go`, or is gone without another word: then it has failed.
fn makes_way(link: &Link) -> Result<(), String> {
    match link.receive(Some(limits::HEIR_TAKES)) {
        Ok(Some(message)) if message.text != "go" => Err(GOES_ON.into()),
        Ok(_) => Ok(()),
        Err(error) => {
            Err(format!("the running program does not make way: {}", reason::words(&error)))
        }
    }
}

/// The daemon whose place this one took, as this one sees it.
pub(super) struct Predecessor {
    link: RefCell<Rc<AsyncLink>>,
    process: Cell<u32>,
    left: Cell<Option<status::Predecessor>>,
    has_ended: Cell<bool>,
    /// How long it may ask for something here: its users wait no longer, and it has long been told that this one serves.
    asks_until: Cell<Instant>,
    /// What is to be said to the one before it, while it hands over the link to that.
    kept: RefCell<Option<Vec<String>>>,
}

impl Predecessor {
    /// It is at the other end of the link, and this process.
    ///
    /// # Errors
    /// As [`Link::into_async`].
    pub(super) fn new(link: Link, process: u32) -> io::Result<Self> {
        Ok(Predecessor {
            link: RefCell::new(Rc::new(link.into_async()?)),
            process: Cell::new(process),
            left: Cell::default(),
            has_ended: Cell::default(),
            asks_until: Cell::new(Instant::now() + limits::LEFT_WAITING),
            kept: RefCell::default(),
        })
    }

    /// Whether it has not ended.
    pub(super) fn lives(&self) -> bool {
        !self.has_ended.get()
    }

    /// What it still carries; `None` if nothing.
    pub(super) fn left(&self) -> Option<status::Predecessor> {
        self.left.get()
    }

    /// Says to it what concerns it, too.
    pub(super) fn tell(&self, words: &str) {
        match &mut *self.kept.borrow_mut() {
            Some(kept) => kept.push(words.into()),
            None => self.link.borrow().tell(words),
        }
    }

    /// Leaves it to the one that has this one's place, which hears it from now on; `false` if that cannot be told.
    pub(super) fn pass_on(&self, successor: &Successor) -> bool {
        let asks = self.asks_until.get().saturating_duration_since(Instant::now()).as_millis();
        let words = format!("before {} {asks}", self.process.get());
        let is_passed_on = successor.0.link.give(&words, &[self.link.borrow().as_fd()]).is_ok();
        if is_passed_on {
            self.left.set(None);
            self.has_ended.set(true);
        }
        is_passed_on
    }

    /// Goes on with the one before it, at the other end of this link, which it has named so: it ends itself.
    fn replace(&self, link: OwnedFd, named: &str) -> Option<()> {
        let (process, asks) = named.split_once(' ')?;
        let (process, asks) = (process.parse().ok()?, asks.parse().ok()?);
        let link = Link::from(link).into_async().ok()?;
        self.link.replace(Rc::new(link));
        self.process.set(process);
        let asks_until = Instant::now() + Duration::from_millis(asks);
        self.asks_until.set(self.asks_until.get().min(asks_until));
        Some(())
    }

    /// Hears what it carries, until it has ended; that the service manager watches this process; and what it asks
    /// for: a reload, as signals do, or a stop, as the API does. A signal to stop for both is one, and not a second one.
    pub(super) async fn listen(
        &self,
        notifier: &Notifier,
        registry: &Registry,
        asks: &Sender<Ask>,
        stop: &Sender<()>,
    ) {
        loop {
            let link = self.link.borrow().clone();
            let Some(Message { text: words, files }) = link.receive().await else { break };
            let (word, rest) = words.split_once(' ').unwrap_or((&words, ""));
            let may_ask = Instant::now() < self.asks_until.get();
            match word {
                "over" => {
                    self.tell("leave");
                    self.kept.borrow_mut().get_or_insert_default();
                }
                "before" => {
                    let process = self.process.get();
                    if files.into_iter().next().and_then(|link| self.replace(link, rest)).is_some()
                    {
                        tell_ended(process, registry);
                        let kept = self.kept.take();
                        kept.into_iter().flatten().for_each(|words| self.tell(&words));
                    }
                }
                "left" => {
                    self.left.set(self.told(rest));
                    // Its agents come here whenever they lose a tunnel there.
                    registry.be_wary();
                }
                "main" if may_ask => {
                    notifier.ready("serving");
                    // What was said before was not this process's to say: a whole interval may have passed.
                    notifier.watchdog();
                }
                "short" if may_ask => {
                    if let Some((id, Ok(users))) =
                        rest.split_once(' ').map(|(id, n)| (id, n.parse()))
                    {
                        registry.send_agents(id, users, self.asks_until.get());
                    }
                }
                "calm" if may_ask => registry.calm(rest),
                "enough" => registry.leave_agents(Some(rest), LeftTo::Before, None),
                "reload" if may_ask => _ = asks.send(Ask::Reload).await,
                "stop" if may_ask => _ = stop.try_send(()),
                // A later program may say more.
                _ => {}
            }
        }
        self.left.set(None);
        self.has_ended.set(true);
        registry.leave_agents(None, LeftTo::Before, None);
        tell_ended(self.process.get(), registry);
    }
}

/// Says that it has ended.
fn tell_ended(process: u32, registry: &Registry) {
    let what = format!("process {process}, whose place this one took, has ended");
    log::info!(target: ALWAYS, event = Event::PredecessorEnded.word(); "{what}");
    registry.events().tell(Event::PredecessorEnded, None, "", &what);
}

impl Predecessor {
    fn told(&self, numbers: &str) -> Option<status::Predecessor> {
        let (sessions, left) = numbers.split_once(' ')?;
        let (sessions, milliseconds_left) = (sessions.parse().ok()?, left.parse().ok()?);
        Some(status::Predecessor { process: self.process.get(), sessions, milliseconds_left })
    }
}

/// The daemon that has taken this one's place, as this one sees it: the heir, which serves.
pub(super) struct Successor(Heir);

/// What it asks for.
pub(super) enum Wish {
    /// The mapping of this id is gone.
    Removed(String),
    /// The log file is another one.
    Reopen,
    /// It stops, and this one is to do so as well.
    Stop,
    /// The one before this one is to be left to it.
    Leave,
    /// Nothing any more: it has ended.
    Gone,
}

impl Successor {
    /// Says what was asked of this one.
    pub(super) fn asks(&self, ask: Ask) {
        match ask {
            Ask::Reload => self.0.link.tell("reload"),
            Ask::Stop => self.0.link.tell("stop"),
            // It has come just now; a dump was this one's.
            Ask::Upgrade | Ask::Dump => {}
        }
    }

    /// Says that the service manager watches it from now on.
    pub(super) fn is_main(&self) {
        self.0.link.tell("main");
    }

    /// Says how many users of a mapping wait here where no tunnel does.
    pub(super) fn short(&self, id: &str, users: usize) {
        self.0.link.tell(&match users {
            0 => format!("enough {id}"),
            users => format!("short {id} {users}"),
        });
    }

    /// Says that nothing is carried here, but by the one before this one.
    pub(super) fn over(&self) {
        self.0.link.tell("over");
    }

    /// Says that no old answers of this mapping may come.
    pub(super) fn calm(&self, id: &str) {
        self.0.link.tell(&format!("calm {id}"));
    }

    /// Says what is still carried here, and for how long at most.
    pub(super) fn tell(&self, sessions: u64, left: Duration) {
        self.0.link.tell(&format!("left {sessions} {}", left.as_millis()));
    }

    /// What it asks for next.
    pub(super) async fn wish(&self) -> Wish {
        while let Some(words) = self.0.link.hear().await {
            match words.split_once(' ') {
                Some(("removed", id)) => return Wish::Removed(id.into()),
                None if words == "reopen" => return Wish::Reopen,
                None if words == "stop" => return Wish::Stop,
                None if words == "leave" => return Wish::Leave,
                // A later program may say more.
                _ => {}
            }
        }
        Wish::Gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_the_place_serves_if_the_process_before_dies_whenever_that_is() {
        // Before this one is ready; with its word unread; after `go`.
        let [own, others] = Link::pair().unwrap();
        drop(others);
        assert_eq!(ready(&own), Ok(()));
        assert_eq!(taken(&own), Ok(()));
        let [own, others] = Link::pair().unwrap();
        own.send("ready 7", &[]).unwrap();
        drop(others);
        assert_eq!(makes_way(&own), Ok(()));
        let [own, others] = Link::pair().unwrap();
        others.send("go", &[]).unwrap();
        assert_eq!(ready(&own), Ok(()));
        drop(others);
        assert_eq!(taken(&own), Ok(()));
    }

    #[test]
    fn whoever_takes_the_place_does_not_serve_beside_a_process_that_goes_on() {
        // It has waited for this one too long before it was ready, or before it served.
        for says in [ready, taken] {
            let [own, others] = Link::pair().unwrap();
            own.send("left unread", &[]).unwrap();
            others.send("no", &[]).unwrap();
            drop(others);
            assert_eq!(says(&own), Err("the running program goes on".into()));
        }
    }
}
