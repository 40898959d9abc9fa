//! What the daemon does from time to time, whether anybody calls or not.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::limits;
use crate::logging::{ALWAYS, Logging};
use crate::os::terminal::complain;
use crate::os::{Notifier, memory};
use crate::pipes::shared::Shared;
use crate::runtime::sleep;

/// Tells the init system that every thread still takes its turn.
pub(super) async fn watchdog(shared: Rc<Shared>, notifier: Rc<Notifier>, interval: Duration) {
    loop {
        shared.workers.answer().await;
        notifier.watchdog();
        sleep(interval).await;
    }
}

/// Writes summaries of repeated log lines, gives memory back, says that the certificate has
/// expired, and reports when the thread was held up.
pub(super) async fn upkeep(shared: Rc<Shared>, logging: Logging) {
    sleep_watchfully(limits::STARTED).await;
    memory::give_back();
    memory::forget_start();
    loop {
        sleep_watchfully(limits::UPKEEP).await;
        logging.tick();
        tell_file_fault(&logging);
        if let Some(tls) = &shared.tls {
            tls.tell_outdated();
        }
        if memory::has_changed() {
            memory::tidy();
            shared.workers.each(memory::tidy).await;
            memory::give_back();
        }
    }
}

/// Says once that the log file cannot be written, in syslog or the journal and on stderr; and that it can again.
pub(super) fn tell_file_fault(logging: &Logging) {
    match logging.file_fault_changed() {
        Some(Some(fault)) => {
            log::warn!(target: ALWAYS, "{fault}");
            if !logging.is_on_stderr() {
                complain(format_args!("warning: {fault}"));
            }
        }
        Some(None) => log::info!(target: ALWAYS, "the log file can be written again"),
        None => {}
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
