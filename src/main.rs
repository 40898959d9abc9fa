//! The `iofog-connector` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    iofog_connector::cli::main(std::env::args_os().skip(1).collect())
}
