//! What the daemon does from time to time, whether anybody calls or not.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::api::Api;
use crate::limits;
use crate::logging::{ALWAYS, Logging};
use crate::os::terminal::complain;
use crate::os::{Notifier, memory};
use crate::pipes::registry::Registry;
use crate::pipes::shared::Shared;
use crate::runtime::sleep;
use crate::text::event::Event;

/// What tells events of the log file from others of the disk.
pub(super) const LOG: &str = "log";

/// Tells the init system that every thread still takes its turn.
pub(super) async fn watchdog(shared: Rc<Shared>, notifier: Rc<Notifier>, interval: Duration) {
    loop {
        shared.workers.answer().await;
        notifier.watchdog();
        sleep(interval).await;
    }
}

/// Writes summaries of repeated log lines, gives memory back, says that the certificate has
/// expired or will soon and what else is over, and reports when the thread was held up.
pub(super) async fn upkeep(
    shared: Rc<Shared>,
    registry: Rc<Registry>,
    api: Rc<Api>,
    logging: Logging,
) {
    sleep_watchfully(limits::STARTED).await;
    memory::give_back();
    memory::forget_start();
    loop {
        sleep_watchfully(limits::UPKEEP).await;
        logging.tick();
        if let Some((event, what)) = tell_file_fault(&logging) {
            shared.events.tell(event, None, LOG, &what);
        }
        if let Some(doubt) = shared.tls.as_ref().and_then(|tls| tls.tell_outdated()) {
            shared.events.tell(Event::CertificateEnds, None, "", &doubt);
        }
        registry.tell_over();
        api.tell_over();
        if memory::has_changed() {
            memory::tidy();
            shared.workers.each(memory::tidy).await;
            memory::give_back();
        }
    }
}

/// Says once that the log file cannot be written, in syslog or the journal and on stderr; and that it can again. Gives
/// what it has said.
pub(super) fn tell_file_fault(logging: &Logging) -> Option<(Event, String)> {
    match logging.file_fault_changed()? {
        Some(fault) => {
            log::warn!(target: ALWAYS, event = Event::DiskFailed.word(); "{fault}");
            if !logging.is_on_stderr() {
                complain(format_args!("warning: {fault}"));
            }
            Some((Event::DiskFailed, fault))
        }
        None => {
            let what = "the log file can be written again";
            log::info!(target: ALWAYS, event = Event::DiskBack.word(); "{what}");
            Some((Event::DiskBack, what.into()))
        }
    }
}

/// Sleeps, and reports it when the thread was held up meanwhile.
async fn sleep_watchfully(time: Duration) {
    let due = Instant::now() + time;
    sleep(time).await;
    let late = due.elapsed();
    if late > limits::LATE {
        log::warn!("the control thread was held up for {} ms", late.as_millis());
    }
}
