//! The daemon, from start to stop.

use std::process::ExitCode;

use crate::cli::Options;

/// Runs the daemon in the foreground until it is asked to stop.
pub fn run(_options: &Options) -> ExitCode {
    ExitCode::FAILURE
}
