//! What is fuzzed, and what must hold whatever comes in.
//!
//! A target is a function of bytes that panics when a promise is broken. The engine (`main.rs`,
//! started by `fuzz/run`) calls it with inputs of its own making; `tests/replay.rs` calls it with
//! those that are kept, without the engine.

pub mod clock;
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of the Connector itself")]
#[path = "../../tests/common/folder.rs"]
mod folder;
mod input;
mod memory;
mod targets;

pub use targets::{Check, TARGETS};
