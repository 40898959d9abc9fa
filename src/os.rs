//! What the kernel and the service manager are asked.

pub mod memory;
pub mod process;
