//! Text that people and programs write: JSON, byte order marks.

pub mod json;
pub mod mark;
pub mod reason;
