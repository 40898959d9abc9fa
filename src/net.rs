//! Connections: dialling, handshakes, streams of plain or TLS bytes, what the kernel knows of them.

pub mod address;
pub mod conduit;
pub mod dial;
pub mod handshake;
pub mod proxy;
pub mod share;
pub mod socket;
pub mod stall;
pub mod stream;
pub mod tcp_info;
mod through;
pub mod vain;
