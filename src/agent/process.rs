//! What a process of tunnels does, whether of one or of many.

use std::io;
use std::pin::Pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use log::Log;
use smol::LocalExecutor;
use smol::channel::{Receiver, Sender};
use smol::future::{FutureExt, or};

use super::shared::Shared;
use crate::limits;
use crate::logging::{ALWAYS, Logging};
use crate::net::conduit;
use crate::os::terminal::complain;
use crate::os::{self, Ask, Cage, Files, Notifier, Signals};
use crate::runtime::{self, sleep};
use crate::text::reason;

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
    complain(fault);
    status
}

/// Returns at SIGTERM or SIGINT; at SIGHUP it does this.
pub(super) async fn asked_to_stop(asked: &Receiver<Ask>, reload: &dyn Fn()) {
    loop {
        match asked.recv().await {
            Ok(Ask::Reload) => reload(),
            Ok(Ask::Upgrade) => log::info!(
                target: ALWAYS, "SIGUSR2 is for the connector; a tunnel gets a new program by a restart"
            ),
            Ok(Ask::Dump) => log::info!(
                target: ALWAYS, "SIGUSR1 is for the connector; `tunnels status` and `top --agent` show tunnels"
            ),
            Ok(Ask::Stop) | Err(_) => return,
        }
    }
}

/// Does `work` to its end, with what a process of tunnels does meanwhile as `tasks`: signals go to
/// `ask`, `cage` is entered first, and `look_after` is called from time to time. `who` is what could not go on.
pub(super) fn live<'t>(
    who: &str,
    (logging, notifier): (&'t Logging, &'t Notifier),
    look_after: &'t dyn Fn(),
    tasks: &LocalExecutor<'t>,
    (ask, cage): (Sender<Ask>, &Cage),
    work: Pin<Box<dyn Future<Output = io::Result<()>> + '_>>,
) -> ExitCode {
    let life = async {
        let signals = Signals::new()?;
        if let Some(notice) = cage.enter() {
            log::info!(target: ALWAYS, "{notice}");
        }
        tasks.spawn(signals.pass_on(ask).boxed_local()).detach();
        tasks.spawn(upkeep(logging, look_after).boxed_local()).detach();
        if let Some(interval) = os::watchdog_interval(false) {
            tasks.spawn(watchdog(notifier, interval).boxed_local()).detach();
        }
        or(work, runtime::run(|| tasks.tick())).await
    };
    // Boxed, as the daemon's: what runs it is then the same code.
    let ended = runtime::block_on(life.boxed_local());
    logging.flush();
    match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) | Err(error) => {
            log::error!(target: ALWAYS, "{who} cannot go on: {}", reason::words(&error));
            ExitCode::FAILURE
        }
    }
}

/// Tells the init system that this thread still takes its turn.
async fn watchdog(notifier: &Notifier, interval: Duration) {
    loop {
        notifier.watchdog();
        sleep(interval).await;
    }
}

/// Writes summaries of repeated log lines, and of limits that were reached.
async fn upkeep(logging: &Logging, tell_limits: &dyn Fn()) {
    loop {
        sleep(limits::UPKEEP).await;
        tell_limits();
        logging.tick();
    }
}
