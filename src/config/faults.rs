//! Everything that is wrong with the settings, found in one run.

use std::fmt;
use std::path::Path;

/// All faults of the settings file: a sentence each, naming file, key, value and what would be
/// accepted. Never empty; displayed one to a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<String>);

impl Faults {
    /// The sentences of several faults of one file, one at least; warnings after them begin with
    /// "warning: ".
    pub(super) fn all(sentences: Vec<String>) -> Self {
        Faults(sentences)
    }

    /// One fault of the file as a whole.
    pub(super) fn one(file: &Path, what: &str) -> Self {
        Faults(vec![format!("{}: {what}", file.display())])
    }

    /// The sentences, at least one.
    pub fn sentences(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Faults {}
