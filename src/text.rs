//! Text that people and programs write: the files it is in, JSON, byte order marks, pages of help, and
//! the words for events.

pub mod by_name;
pub mod dump;
pub mod event;
pub mod file;
pub mod foreign;
pub mod json;
pub mod line;
pub mod mark;
pub mod page;
pub mod reason;

/// `1 session`, `2 sessions`.
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
