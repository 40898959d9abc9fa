//! Where the passcode of `tunnel` stands.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{named, options_of, proper, read};
use super::names::Given;
use crate::mappings::mapping::Passcode;
use crate::text::reason;

/// The environment variable that may hold the passcode.
pub const PASSCODE: &str = "IOFOG_PASSCODE";

/// Where the passcode stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a file of its own.
    File(PathBuf),
    /// Among the options of this file.
    Options(PathBuf),
    /// In the environment, which does not change.
    Environment,
}

impl Source {
    /// Reads the passcode again; `None` where it cannot have changed.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn read_again(&self) -> Result<Option<Passcode>, String> {
        match self {
            Source::File(path) => {
                let (text, _) = read("--passcode-file", path, None)?;
                proper(&text, &named("--passcode-file", path)).map(Some)
            }
            Source::Options(path) => {
                let (text, mode) = read("--from", path, None)?;
                options_of(&text, mode, path).map(|(_, passcode, _)| passcode)
            }
            Source::Environment => Ok(None),
        }
    }
}

/// Finds the passcode: in the file that `--passcode-file` names, among the options of the file
/// `--from`, or in the environment.
pub(super) fn passcode(
    given: &Given,
    in_file: Option<(Passcode, Source)>,
    environment: Option<OsString>,
    wait: Option<Duration>,
    warnings: &mut Vec<String>,
) -> Result<(Passcode, Source), String> {
    if let Some(path) = given.get("passcode-file").map(Path::new) {
        let option = "--passcode-file";
        let read = read(option, path, wait);
        let (text, mode) = read.map_err(|fault| match path.components().count() {
            // This may be the passcode itself in place of its file's name, so it is not repeated.
            1 if !path.exists() => "--passcode-file: there is no such file here; the path of the \
                                    file that holds the passcode is expected (what was given is not \
                                    repeated: it may be the passcode itself)"
                .into(),
            _ => fault,
        })?;
        if let Some(fault) = reason::exposed("passcode", mode) {
            let path = path.display();
            warnings.push(format!("{path}: {fault} (chmod 600 {path})"));
        }
        if in_file.is_some() {
            warnings
                .push(format!("{option} is given, so that passcode= in the options is not used"));
        }
        let passcode = proper(&text, &named(option, path))?;
        return Ok((passcode, Source::File(path.to_owned())));
    }
    if let Some(in_file) = in_file {
        return Ok(in_file);
    }
    match environment {
        Some(text) => Ok((proper(&text.to_string_lossy(), PASSCODE)?, Source::Environment)),
        None => Err(format!(
            "the passcode is missing: name the file that holds it with --passcode-file, or set \
             {PASSCODE} in the environment"
        )),
    }
}
