//! The command line (protocol page, section 7): arguments in, exit code out.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::agent;
use crate::config::folders::Options;
use crate::daemon;
use crate::os::terminal::{complain, print};
use crate::text::reason;
use arguments::{Command, parse};
use exit::BAD;
pub use help::VERSION;

mod altering;
mod arguments;
mod asking;
mod check;
mod control;
mod exit;
mod files;
mod help;
mod install;
mod mapping;
mod place;
mod remedy;
mod service;
mod top;
mod tunnels;
mod user;

/// Does what the arguments (without the program's name) ask for.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    match parse(arguments) {
        Ok((command, options)) => run(command, &options),
        Err(fault) => {
            complain(format_args!("{fault} (see `iofog-connector help`)"));
            BAD.into()
        }
    }
}

fn run(command: Command, options: &Options) -> ExitCode {
    match command {
        Command::Start => start(options),
        Command::Stop => service::stop(options),
        Command::Upgrade => service::upgrade(options),
        Command::Status(shown) => service::status(options, shown),
        Command::Top { agent, count } => top::run(&options.run_dir, agent, count),
        Command::Dump => service::dump(options),
        Command::Check { user } => check::check(options, user.as_deref()),
        Command::Mapping(request) => mapping::run(&request, options),
        Command::Tunnel(given) => agent::run(given),
        Command::Install(install) => install::run(&install),
        Command::Remove(remove) => install::remove(&remove),
        Command::Tunnels { folder, run, sandbox } => agent::run_all(&folder, &run, sandbox),
        Command::TunnelsStatus { run, json, wide } => tunnels::status(&run, json, wide),
        Command::Version => print(&format!("{VERSION}\nLicence: {}\n", env!("CARGO_PKG_LICENSE"))),
        Command::Help(page) => print(&page),
    }
}

/// Runs the daemon, unless its folder is closed for this user.
fn start(options: &Options) -> ExitCode {
    let dir = &options.config_dir;
    if user::User::is_onlooker(dir)
        && rustix::fs::access(dir, rustix::fs::Access::EXEC_OK).is_err()
        && dir.exists()
    {
        complain(format_args!(
            "{} may not use {}: run it with sudo, or give folders of your own (--config, --run, --log)",
            reason::user(),
            dir.display()
        ));
        return BAD.into();
    }
    daemon::run(options)
}
