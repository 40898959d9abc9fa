//! One daemon takes another one's place (protocol page, section 7, step 12): a program started anew gets the
//! listening sockets, the run folder's lock and the control socket of the one that runs. Both talk over a [`Link`]:
//!
//! | from | word | meaning |
//! |---|---|---|
//! | old | `from PID`; `lock`, `control`, `ports`, with files; then `all` | what the new one is given |
//! | new | `refused WHY` | it cannot serve; the old one goes on as before |
//! | new | `ready PID` | everything is open, and it accepts nobody yet |
//! | old | `go`, or `no` | it makes way, or goes on itself; it may still accept users for a moment, whom it serves |
//! | new | `taken` | it serves |
//! | old | `main` | the service manager watches the new one |
//! | old | `short ID`, `enough ID` | users of this mapping wait here and no tunnel does: agents are left to the old one; or no longer |
//! | old | `left SESSIONS MS` | what it still carries, and for how long at most |
//! | new | `removed ID`, `reopen`, `stop` | what its own operator asks for and concerns the old one, too |
//!
//! A close of either end before `taken` means that its process has failed; the other one serves.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use crate::limits;
use crate::logging::ALWAYS;
use crate::os::{AsyncLink, Instance, Link, Message, Notifier, REFUSED, Spawner};
use crate::pipes::registry::Registry;
use crate::report::status;
use crate::text::reason;

/// What the new program is given.
pub(super) struct Estate {
    /// The run folder's lock.
    pub(super) lock: OwnedFd,
    /// The command line's socket.
    pub(super) control: OwnedFd,
    /// The API's port and all mappings'.
    pub(super) ports: Vec<OwnedFd>,
}

/// A new program that is ready to take the place, or has taken it. Dropped before, this process does without it.
pub(super) struct Heir {
    link: Link,
    serves: bool,
    /// Its process.
    pub(super) process: u32,
}

impl Estate {
    /// Starts the program anew and gives it this; gives the heir once that is ready. Blocks.
    ///
    /// # Errors
    /// A sentence about why it is not.
    pub(super) fn pass_on(self, spawner: &Spawner) -> Result<Heir, String> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                format!("the new program was not ready within {} s", limits::HEIR_READY.as_secs())
            }
            _ => format!("the new program cannot be reached: {}", reason::words(&error)),
        };
        let own = spawner.start().map_err(|error| {
            format!("the process that starts programs is gone: {}", reason::words(&error))
        })?;
        let ports: Vec<_> = self.ports.iter().map(AsFd::as_fd).collect();
        let give = |what, files: &[BorrowedFd<'_>]| own.send(what, files);
        // One that has failed by then has said why.
        let _ = give(&format!("from {}", std::process::id()), &[])
            .and_then(|()| give("lock", &[self.lock.as_fd()]))
            .and_then(|()| give("control", &[self.control.as_fd()]))
            .and_then(|()| give("ports", &ports))
            .and_then(|()| give("all", &[]));
        let answer = match last_words(&own, limits::HEIR_READY) {
            Ok(answer) => answer.map(|answer| answer.text),
            Err(error) => {
                let _ = own.send("no", &[]);
                return Err(failed(error));
            }
        };
        let answer = answer.ok_or(
            "the new program has ended without a word; run by hand with the same arguments, it may say why",
        )?;
        match answer.strip_prefix("ready ").map(str::parse) {
            Some(Ok(process)) => Ok(Heir { link: own, serves: false, process }),
            _ => Err(answer.strip_prefix(REFUSED).unwrap_or(&answer).to_owned()),
        }
    }
}

impl Heir {
    /// Lets it serve; gives it once it does. Blocks.
    ///
    /// # Errors
    /// A sentence about why it does not.
    pub(super) fn go(mut self) -> Result<Self, String> {
        let taken = self.link.send("go", &[]);
        match taken.and_then(|()| self.link.receive(Some(limits::HEIR_TAKES))) {
            Ok(Some(message)) if message.text == "taken" => {
                self.serves = true;
                Ok(self)
            }
            Ok(_) => Err("the new program has ended before it served".into()),
            Err(error) => Err(format!(
                "the new program was ready and does not serve: {}",
                reason::words(&error)
            )),
        }
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        // A close without this word would mean that this process has died.
        if !self.serves {
            let _ = self.link.send("no", &[]);
        }
    }
}

/// What this process was given by the one whose place it takes.
pub(super) struct Inheritance {
    /// To that process.
    pub(super) link: Link,
    /// Which it is.
    pub(super) process: u32,
    /// The run folder's lock.
    lock: File,
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
                // A later program may hand over more.
                _ => {}
            }
        }
        let (Some(lock), Some(control)) = (lock, control) else {
            return Err("the running program has handed over no lock or no control socket".into());
        };
        Ok(Inheritance { link, process, lock: lock.into(), control: control.into(), ports })
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
        let _ = self.link.send(&format!("{REFUSED}{}", why.trim_end()), &[]);
    }
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
    match last_words(link, limits::HEIR_TAKES) {
        Ok(Some(message)) if message.text != "go" => Err("the running program goes on".into()),
        Ok(_) => Ok(()),
        Err(error) => {
            Err(format!("the running program does not make way: {}", reason::words(&error)))
        }
    }
}

/// What the other end says next. One that has left unread what it was told resets the link, before its last words.
fn last_words(link: &Link, wait: Duration) -> io::Result<Option<Message>> {
    let heard = || link.receive(Some(wait));
    heard().or_else(|error| match error.kind() {
        io::ErrorKind::ConnectionReset => heard(),
        _ => Err(error),
    })
}

/// The daemon whose place this one took, as this one sees it.
pub(super) struct Predecessor {
    link: AsyncLink,
    process: u32,
    left: Cell<Option<status::Predecessor>>,
}

impl Predecessor {
    /// It is at the other end of the link, and this process.
    ///
    /// # Errors
    /// As [`Link::into_async`].
    pub(super) fn new(link: Link, process: u32) -> io::Result<Self> {
        Ok(Predecessor { link: link.into_async()?, process, left: Cell::default() })
    }

    /// What it still carries; `None` if nothing.
    pub(super) fn left(&self) -> Option<status::Predecessor> {
        self.left.get()
    }

    /// Says to it what concerns it, too.
    pub(super) fn tell(&self, words: &str) {
        self.link.tell(words);
    }

    /// Hears what it carries, until it has ended; and once that the service manager watches this process.
    pub(super) async fn listen(&self, notifier: &Notifier, registry: &Registry) {
        while let Some(words) = self.link.hear().await {
            let (word, rest) = words.split_once(' ').unwrap_or((&words, ""));
            match word {
                "main" => notifier.ready("serving"),
                "short" => registry.leave_agents(Some(rest), true),
                "enough" => registry.leave_agents(Some(rest), false),
                "left" => self.left.set(self.told(rest)),
                // A later program may say more.
                _ => {}
            }
        }
        self.left.set(None);
        registry.leave_agents(None, false);
        log::info!(target: ALWAYS, "process {}, whose place this one took, has ended", self.process);
    }
}

impl Predecessor {
    fn told(&self, numbers: &str) -> Option<status::Predecessor> {
        let (sessions, left) = numbers.split_once(' ')?;
        let (sessions, milliseconds_left) = (sessions.parse().ok()?, left.parse().ok()?);
        Some(status::Predecessor { process: self.process, sessions, milliseconds_left })
    }
}

/// The daemon that has taken this one's place, as this one sees it.
pub(super) struct Successor(AsyncLink);

/// What it asks for.
pub(super) enum Wish {
    /// The mapping of this id is gone.
    Removed(String),
    /// The log file is another one.
    Reopen,
    /// It stops, and this one is to do so as well.
    Stop,
}

impl Successor {
    /// The heir, which serves.
    ///
    /// # Errors
    /// As [`Link::into_async`].
    pub(super) fn new(heir: Heir) -> io::Result<Self> {
        heir.link.try_clone()?.into_async().map(Successor)
    }

    /// Says that the service manager watches it from now on.
    pub(super) fn is_main(&self) {
        self.0.tell("main");
    }

    /// Says whether users of a mapping wait here where no tunnel does.
    pub(super) fn short(&self, id: &str, is_short: bool) {
        self.0.tell(&format!("{} {id}", if is_short { "short" } else { "enough" }));
    }

    /// Says what is still carried here, and for how long at most.
    pub(super) fn tell(&self, sessions: u64, left: Duration) {
        self.0.tell(&format!("left {sessions} {}", left.as_millis()));
    }

    /// What it asks for next. Waits for ever once it is gone: what is carried here is no business of its life.
    pub(super) async fn wish(&self) -> Wish {
        while let Some(words) = self.0.hear().await {
            match words.split_once(' ') {
                Some(("removed", id)) => return Wish::Removed(id.into()),
                None if words == "reopen" => return Wish::Reopen,
                None if words == "stop" => return Wish::Stop,
                // A later program may say more.
                _ => {}
            }
        }
        std::future::pending().await
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
