//! One session: two legs, bytes both ways, an ending, and what is left on its tunnel.

pub mod drain;
pub mod relay;
pub mod residue;
