//! Mappings while they run: who arrives, who waits, who is paired.

pub mod crowd;
pub mod named;
pub mod pairing;
pub mod pipe;
pub mod refusals;
pub mod registry;
pub mod serve_user;
pub mod tunnel;
