//! Everything that is wrong with the settings, found in one run.

use std::fmt;
use std::path::Path;

/// All faults of the settings: a sentence each, naming file and key or the variable, value and what would be
/// accepted. Never empty; displayed one to a line, and after them the warnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    sentences: Vec<String>,
    warnings: Vec<String>,
    /// For a file that cannot be read: whether that may pass.
    unread: Option<bool>,
}

impl Faults {
    /// The sentences of several faults of one file, one at least, and of what is in order beside
    /// them but probably not meant.
    pub(super) fn all(sentences: Vec<String>, warnings: Vec<String>) -> Self {
        Faults { sentences, warnings, unread: None }
    }

    /// One fault of the file as a whole.
    pub(super) fn one(file: &Path, what: &str) -> Self {
        Faults::all(vec![format!("{}: {what}", file.display())], Vec::new())
    }

    /// As [`Faults::one`], for a file that cannot be read: whether that may pass.
    pub(super) fn unread(file: &Path, what: &str, may_pass: bool) -> Self {
        Faults { unread: Some(may_pass), ..Faults::one(file, what) }
    }

    /// Whether another start may find the file in order without anybody's doing.
    pub fn may_pass(&self) -> bool {
        self.unread == Some(true)
    }

    /// Whether nothing has been seen of what the settings are.
    pub fn is_unread(&self) -> bool {
        self.unread.is_some()
    }

    /// The faults' sentences, at least one.
    pub fn sentences(&self) -> &[String] {
        &self.sentences
    }

    /// The warnings'.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentences.join("\n"))?;
        self.warnings.iter().try_for_each(|warning| write!(f, "\nwarning: {warning}"))
    }
}

impl std::error::Error for Faults {}
