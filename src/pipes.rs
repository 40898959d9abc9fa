//! Mappings while they run: who arrives, who waits, who is paired.

pub mod change;
mod closings;
mod crowd;
mod cut;
mod handshake;
mod listen;
mod named;
mod pairing;
mod per_address;
mod pipe;
mod proxied;
mod record;
pub mod refusals;
pub mod registry;
mod serve_agent;
mod serve_user;
mod session;
mod settling;
pub mod shared;
mod slot;
mod tunnel;
mod user;
mod wanted;
