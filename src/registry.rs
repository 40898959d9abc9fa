//! The running mappings: add, remove, status.

use crate::mapping::{Mapping, NewPipe};
use crate::status::{MappingStatus, Status};

/// Why a change was not made.
#[derive(Debug)]
pub enum ChangeError {
    /// No mapping has this id.
    Unknown,
    /// No two ports of the pool could be opened; the sentence says why.
    NoPorts(String),
    /// `configs.json` could not be written; the sentence says why.
    Store(String),
    /// The daemon is stopping.
    Stopping,
}

/// The running mappings. Owned by the control thread; cheap to share there (`Rc`).
pub struct Registry {}

impl Registry {
    /// Opens two ports, stores the mapping, then returns it; its ports take connections.
    pub async fn add(&self, _pipe: NewPipe) -> Result<Mapping, ChangeError> {
        Err(ChangeError::Stopping)
    }

    /// Makes a direct connection, stored like a mapping.
    pub async fn add_direct(&self) -> Result<Mapping, ChangeError> {
        Err(ChangeError::Stopping)
    }

    /// Stores the removal, then closes the mapping's ports, waiting users, tunnels and sessions.
    /// Only mappings with ports are found.
    pub async fn remove(&self, _id: &str) -> Result<(), ChangeError> {
        Err(ChangeError::Unknown)
    }

    /// Removes a direct connection.
    pub async fn remove_direct(&self, _id: &str) -> Result<(), ChangeError> {
        Err(ChangeError::Unknown)
    }

    /// The direct connection of this id and passkey.
    pub fn direct(&self, _id: &str, _passkey: &str) -> Option<Mapping> {
        None
    }

    /// The whole state at this moment.
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// One mapping's state at this moment.
    pub fn mapping_status(&self, _id: &str) -> Option<MappingStatus> {
        None
    }
}
