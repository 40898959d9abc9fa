//! What the API counts.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::report::status::events::Events;
use crate::report::status::reached::LimitsReached;
use crate::report::status::refused::{Refusal, Refusals};
use crate::text::event::Event;

/// What has happened on the API since the daemon started.
#[derive(Debug, Default)]
pub struct Counters {
    /// TLS handshakes that failed or took too long.
    pub handshake_failures: Cell<u64>,
    /// Requests refused with 403.
    pub refused: Cell<u64>,
    /// Its limits that were reached.
    pub limits_reached: RefCell<LimitsReached>,
    /// Callers that were refused, for this and other reasons.
    pub refusals: RefCell<Refusals>,
    /// The daemon's, for what happens here.
    events: Rc<Events>,
}

impl Counters {
    /// Nothing has happened yet.
    pub fn new(events: Rc<Events>) -> Self {
        Counters { events, ..Counters::default() }
    }

    /// A limit was reached.
    pub fn reached(&self, limit: &'static str) {
        self.limits_reached.borrow_mut().reached(limit);
        let what = format!("limit reached: {limit}");
        self.events.tell(Event::LimitReached, None, limit, &what);
    }

    /// Limits that are over are told as events.
    pub fn tell_over(&self) {
        let over = self.limits_reached.borrow_mut().over(|_| false);
        for limit in over {
            let what = format!("limit reached no longer: {limit}");
            self.events.tell(Event::LimitOver, None, limit, &what);
        }
    }

    /// A caller was refused: counted by kind.
    pub fn refused(&self, kind: &Refusal) {
        self.refusals.borrow_mut().count(kind);
    }

    /// The operator is told of a caller that was refused; each kind has lines of its own.
    #[track_caller]
    pub fn tell_refused(&self, kind: &Refusal, what: &str) {
        log::warn!(target: kind.why, "API: {what}");
        self.events.tell(Event::CallerRefused, None, kind.why, what);
    }
}
