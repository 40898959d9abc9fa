//! What a process of tunnels does, whether of one or of many.

use std::io::{self, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use smol::channel::Receiver;

use super::shared::Shared;
use crate::limits;
use crate::logging::Logging;
use crate::net::conduit;
use crate::os::{Ask, Files, Notifier};
use crate::runtime::sleep;

/// Files that the event loop, the signals and the service manager take: 7.
pub(super) const OWN_FILES: usize = 8;

/// The exit status of a start that the options forbid.
pub(super) const FAULTY: u8 = 2;

/// What the tunnels of a process share that may open `files` files, `own` of which are not theirs;
/// `lookups` of one name and of all names may be made at one time.
pub(super) fn share(files: usize, own: usize, lookups: [usize; 2]) -> Rc<Shared> {
    let conduits = conduit::allow(1, files);
    let [each, all] = lookups;
    Rc::new(Shared::new(Files::new(files.saturating_sub(conduits + own)), all, each))
}

/// Reports a start that fails, in the same form as all commands.
pub(super) fn refuse(fault: &str, status: ExitCode) -> ExitCode {
    // Where stderr is closed, the exit status has to be enough.
    let _ = writeln!(io::stderr(), "iofog-connector: {fault}");
    status
}

/// Returns at SIGTERM or SIGINT; at SIGHUP it does this.
pub(super) async fn asked_to_stop(asked: &Receiver<Ask>, reload: &dyn Fn()) {
    while asked.recv().await == Ok(Ask::Reload) {
        reload();
    }
}

/// Tells the init system that this thread still takes its turn.
pub(super) async fn watchdog(notifier: &Notifier, interval: Duration) {
    loop {
        notifier.watchdog();
        sleep(interval).await;
    }
}

/// Writes summaries of repeated log lines, and of limits that were reached.
pub(super) async fn upkeep(logging: &Logging, tell_limits: &dyn Fn()) {
    loop {
        sleep(limits::UPKEEP).await;
        tell_limits();
        logging.tick();
    }
}
