//! What is spoken: pure bytes in, bytes out.

pub mod frames;
pub mod greeting;
pub mod heartbeat;
pub mod proxy;
pub mod token;
