//! What the API counts.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
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
        let begins = self.limits_reached.borrow_mut().reached(limit);
        self.tell_limit(Event::LimitReached, begins, limit, &format!("limit reached: {limit}"));
    }

    /// Limits that are over are told as events.
    pub fn tell_over(&self) {
        let over = self.limits_reached.borrow_mut().over(|_| false);
        for limit in over {
            let what = format!("limit reached no longer: {limit}");
            self.tell_limit(Event::LimitOver, true, limit, &what);
        }
    }

    fn tell_limit(&self, event: Event, is_logged: bool, limit: &'static str, what: &str) {
        let word = event.word();
        if is_logged {
            log::info!(target: &format!("{word} {limit}"), event = word; "API: {what}");
        }
        self.events.tell(event, None, limit, what);
    }

    /// A caller was refused: counted by kind.
    pub fn refused(&self, kind: &Refusal) {
        self.refusals.borrow_mut().count(kind);
    }

    /// The operator is told of a caller that was refused; each kind has lines of its own.
    #[track_caller]
    pub fn tell_refused(&self, kind: &Refusal, peer: Option<IpAddr>, what: &str) {
        let event = Event::CallerRefused;
        let peer = peer.map(|peer| peer.to_string());
        log::warn!(target: kind.why, event = event.word(), peer = peer.as_deref(); "API: {what}");
        self.events.tell(event, None, kind.why, what);
    }
}
