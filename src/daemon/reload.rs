//! Settings and certificates that are read again while the daemon serves.

use std::rc::Rc;

use log::Level;

use crate::config::folders::Options;
use crate::logging::{ALWAYS, Logging, Utc};
use crate::pipes::shared::Shared;
use crate::text::event::Event;

/// Puts the files' current settings and certificates in force, as far as that is possible without a
/// restart; if they have a fault, the old ones stay. Gives what is not in force.
pub(super) fn reload(options: &Options, shared: &Shared, logging: &Logging) -> Vec<String> {
    let mut not_in_force = Vec::new();
    let mut is_refused = false;
    let mut keep = |level, what: String| {
        let refused = (level == Level::Error).then_some(Event::ReloadRefused.word());
        log::log!(target: ALWAYS, level, event = refused; "{what}");
        is_refused |= refused.is_some();
        not_in_force.push(what);
    };
    let old = shared.config.borrow().clone();
    let (mut new, warnings) = match old.load_again(&options.config_dir) {
        Ok(loaded) => loaded,
        Err(faults) => {
            let sentences = faults.sentences();
            for fault in sentences {
                log::error!(target: ALWAYS, "{fault}");
            }
            for warning in faults.warnings() {
                log::warn!(target: ALWAYS, "{warning}");
            }
            let first = sentences.first().map_or("", |fault| fault.trim_end_matches('.'));
            let more = match sentences.len() {
                0 | 1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            keep(
                Level::Error,
                format!(
                    "the last reload was refused at {}: {first}{more}; the settings of before stay in \
                     force; `iofog-connector check` shows what is wrong",
                    Utc::now()
                ),
            );
            tell(shared, is_refused, &not_in_force);
            return not_in_force;
        }
    };
    for warning in warnings {
        log::warn!(target: ALWAYS, "{warning}");
    }
    for key in old.needs_restart(&new) {
        let why = match key {
            "api" | "listen" if old.address != new.address => ", perhaps because of address",
            _ => "",
        };
        keep(
            Level::Warn,
            format!("{key} has changed{why}, which takes effect only after a restart"),
        );
    }
    (new.dev, new.api, new.listen, new.threads) = (old.dev, old.api, old.listen, old.threads);
    new.sandbox = old.sandbox;
    if let Some(tls) = &shared.tls {
        let ca = new.controller_ca.as_deref();
        if let Err(error) = tls.reload(&options.config_dir, &new.address, ca) {
            keep(
                Level::Error,
                format!(
                    "{error}; the old certificates stay in force, with controllers and controllerca"
                ),
            );
            // Who may call depends on them together.
            new.controllers.clone_from(&old.controllers);
            new.controller_ca.clone_from(&old.controller_ca);
        }
    }
    shared.pool.replace(&new.pool());
    if let Some(doubt) = shared.pool.outside() {
        log::warn!(target: ALWAYS, "{doubt}");
    }
    logging.set_formats(new.log_formats);
    logging.set_level(new.log_level);
    shared.config.replace(Rc::new(new));
    let reloaded = (!is_refused).then_some(Event::Reloaded.word());
    log::info!(target: ALWAYS, event = reloaded; "settings reloaded");
    tell(shared, is_refused, &not_in_force);
    tell_certificate(shared);
    not_in_force
}

fn tell(shared: &Shared, is_refused: bool, not_in_force: &[String]) {
    let event = if is_refused { Event::ReloadRefused } else { Event::Reloaded };
    let what = match not_in_force {
        [] => "settings and certificates were read again".into(),
        some => some.join("; "),
    };
    shared.events.tell(event, None, "", &what);
}

/// Tells as an event what is wrong with the dates of the certificate in force.
pub(super) fn tell_certificate(shared: &Shared) {
    if let Some(doubt) = shared.tls.as_ref().and_then(|tls| tls.outdated()) {
        shared.events.tell(Event::CertificateEnds, None, "", &doubt);
    }
}
