//! What is asked for over the API and takes a while.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use event_listener::Event;

use crate::api::Outcome;

/// What is asked for over the API and takes a while, one at a time: a new program, or a dump.
pub(super) struct Errand {
    /// Whether one is asked for; none more is, until that has an outcome.
    asked: Cell<bool>,
    /// What has come of the last one, or why nothing has.
    outcome: RefCell<Option<Result<String, String>>>,
    /// One is asked for, or has an outcome.
    changed: Event,
}

impl Errand {
    pub(super) fn new() -> Self {
        Errand { asked: Cell::default(), outcome: RefCell::default(), changed: Event::new() }
    }

    /// Returns when one is asked for.
    pub(super) async fn is_asked(&self) {
        loop {
            let changed = self.changed.listen();
            if self.asked.get() {
                return;
            }
            changed.await;
        }
    }

    /// Asks for one: gives the outcome, once it is there; `None` where one is asked for already.
    pub(super) fn ask(self: &Rc<Self>) -> Option<Outcome> {
        let errand = self.clone();
        if errand.asked.replace(true) {
            return None;
        }
        errand.outcome.take();
        errand.changed.notify(usize::MAX);
        Some(Box::pin(async move {
            loop {
                let changed = errand.changed.listen();
                if let Some(outcome) = errand.outcome.take() {
                    return outcome;
                }
                changed.await;
            }
        }))
    }

    /// This has come of it.
    pub(super) fn became(&self, outcome: Result<String, String>) {
        if self.asked.replace(false) {
            self.outcome.replace(Some(outcome));
            self.changed.notify(usize::MAX);
        }
    }
}
