//! What a mapping is, the ports it opens and the file it is kept in.

pub mod mapping;
pub mod options;
pub mod ports;
pub mod store;
