//! What all pipes of the daemon share.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use event_listener::Event;

use crate::config::Config;
use crate::mappings::ports::Pool;
use crate::os::Files;
use crate::pipes::refusals::Refusals;
use crate::report::status::events::Events;
use crate::report::status::times::Times;
use crate::runtime::Workers;
use crate::tls::Tls;

/// What all pipes of the daemon share. The control thread owns it.
pub struct Shared {
    /// The settings in force.
    pub config: RefCell<Rc<Config>>,
    /// How TLS is spoken; `None` when `dev`.
    pub tls: Option<Arc<Tls>>,
    /// The threads for handshakes and relays.
    pub workers: Rc<Workers>,
    /// The ports.
    pub pool: Pool,
    /// The agents refused lately.
    pub refusals: Refusals,
    /// The open files.
    pub files: Arc<Files>,
    /// What has happened last.
    pub events: Rc<Events>,
    /// How long users have waited and sessions have lasted.
    pub times: RefCell<Times>,
    /// Notified at each session's end.
    pub session_over: Event,
}
