//! Mappings while they run: who arrives, who waits, who is paired.

mod closings;
pub(crate) mod crowd;
mod listen;
pub(crate) mod named;
pub(crate) mod pairing;
pub(crate) mod pipe;
mod place;
pub(crate) mod refusals;
pub(crate) mod registry;
pub(crate) mod serve_agent;
pub(crate) mod serve_user;
pub(crate) mod session;
pub(crate) mod tunnel;
mod user;
