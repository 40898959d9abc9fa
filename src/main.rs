//! The `iofog-connector` command.

// Nothing that the network, a file or a user can influence may panic. In a test a panic is a report.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::ExitCode;

fn main() -> ExitCode {
    iofog_connector::cli::main(std::env::args_os().skip(1).collect())
}
