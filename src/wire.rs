//! What is spoken: pure bytes in, bytes out.

pub mod heartbeat;
pub mod proxy;
