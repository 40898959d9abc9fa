//! The daemon's place on this machine: its folders, which no other daemon may use, and how another program takes it.

use std::cell::RefCell;
use std::sync::Arc;

use crate::config::folders::Options;
use crate::os::{Instance, Ownership, Spawner};

/// The daemon's place on this machine. Given up last.
pub(super) struct Place<'a> {
    pub(super) options: &'a Options,
    /// The run folder.
    pub(super) instance: Instance,
    /// The configuration folder.
    pub(super) ownership: RefCell<Option<Ownership>>,
    /// What starts the program anew, or why there is nothing that does.
    pub(super) spawner: Result<Arc<Spawner>, String>,
}
