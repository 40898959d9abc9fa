//! Why a change of the running mappings was not made.

use std::fmt;

/// Why a change was not made.
#[derive(Debug)]
pub enum ChangeError {
    /// No mapping has this id.
    Unknown,
    /// What was asked for is another's: the member, and the rest of a sentence.
    Taken(&'static str, String),
    /// What was asked for is not to be had here: the member, and the rest of a sentence.
    Impossible(&'static str, String),
    /// No two ports of the pool could be opened; the sentence says why.
    NoPorts(String),
    /// `configs.json` could not be written; the sentence says why.
    Store(String),
    /// The daemon is stopping.
    Stopping,
    /// Another daemon is about to take its place.
    Replacing,
    /// [`crate::limits::CHANGES_ASKED`] others wait for the disk.
    Busy,
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::Unknown => f.write_str("there is no mapping with this id"),
            ChangeError::Taken(name, why) | ChangeError::Impossible(name, why) => {
                write!(f, "{name} {why}")
            }
            ChangeError::NoPorts(why) | ChangeError::Store(why) => f.write_str(why),
            ChangeError::Stopping => f.write_str("the connector is stopping"),
            ChangeError::Replacing => f.write_str("a new program is taking the connector's place"),
            ChangeError::Busy => f.write_str("too many changes wait for the disk"),
        }
    }
}
