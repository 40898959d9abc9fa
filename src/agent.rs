//! `iofog-connector tunnel` and `tunnels`: the agent's side of pipes (protocol page, sections 5 and 8), for
//! people without ioFog's own agent.
//!
//! One thread does everything. [`connector`] counts the tunnels, [`pace`] says when the connector may be asked for
//! one more, [`authorize`] opens it with the [`proof`] and the best of the [`versions`], and [`health`] tells the
//! operator how the connector is. [`framed`] is one tunnel with all its sessions, [`tunnel`] one of version 2 with its
//! only one, [`beats`] the heartbeats of both; [`serve`] carries sessions to a service, and gives up tunnels that are
//! [`surplus`], [`listen`] carries local connections into a private pipe. All that is the [`life`] of what one file of
//! options asks for; [`many`] lives as many of them as a folder has files. Relay, TLS, log and process are the daemon's.

use std::net::IpAddr;
use std::process::ExitCode;
use std::rc::Rc;

use smol::LocalExecutor;
use smol::future::{FutureExt, or};

use crate::limits;
use crate::logging::{ALWAYS, Logging};
use crate::os::{self, Cage, Notifier};
use connector::Connector;
use life::Job;
use options::{Options, Work};
use process::{FAULTY, OWN_FILES, asked_to_stop, refuse, share};

pub use many::{check, run as run_all};

#[macro_use]
mod say;
mod authorize;
mod beats;
mod closings;
mod connector;
mod framed;
mod health;
mod life;
mod listen;
mod lost;
mod many;
pub mod options;
mod pace;
mod process;
mod proof;
mod reached;
mod serve;
mod shared;
mod surplus;
pub mod tunnel;
mod versions;
mod words;

/// Runs in the foreground until SIGTERM or SIGINT.
pub fn run(given: options::Given) -> ExitCode {
    let prepared = os::prepare();
    let environment = |name: &str| std::env::var_os(name);
    let options = match Options::new(given, environment, Some(limits::PIPE_WAIT)) {
        Ok(options) => options,
        Err(fault) => return refuse(&fault, FAULTY.into()),
    };
    let shared = share(prepared.files, OWN_FILES, [limits::LOOKUPS, 2 * limits::LOOKUPS]);
    let notifier = Rc::new(Notifier::from_env());
    let connector = Connector::new("", &options, &shared, Some(notifier.clone()));
    let connector = match connector {
        Ok(connector) => connector,
        Err(fault) => return refuse(&fault, FAULTY.into()),
    };
    let (job, what, warning) = match Job::new(&connector, &options) {
        Ok(ready) => ready,
        Err(fault) => return refuse(&fault, ExitCode::FAILURE),
    };
    let logging = Logging::on_stderr();
    logging.install(log::LevelFilter::Info);
    os::abort_on_panic(&logging);
    for warning in prepared.warning.iter().chain(&options.warnings).chain(&warning) {
        log::warn!(target: ALWAYS, "{warning}");
    }
    log::info!(target: ALWAYS, "{what}");
    live(&options, &job, &connector, &notifier, &logging)
}

/// Serves or listens until asked to stop, then lets sessions finish.
fn live(
    options: &Options,
    job: &Job<'_>,
    connector: &Connector,
    notifier: &Notifier,
    logging: &Logging,
) -> ExitCode {
    let tell_limits = || connector.health().tell_limits();
    let tasks = LocalExecutor::new();
    let (ask, asked) = smol::channel::bounded(1);
    let (stop, stopped) = smol::channel::bounded(1);
    let reload = || {
        connector.shared().forget_settings();
        connector.reload();
    };
    let by_signal = async {
        notifier.ready("connecting");
        asked_to_stop(&asked, &reload).await;
        stop.close();
        notifier.stopping(options.drain);
        // A second signal means: do not wait.
        asked_to_stop(&asked, &reload).await;
        Ok(())
    };
    let work = or(by_signal, job.live(connector, options.drain, &tasks, stopped)).boxed_local();
    let cage = cage(options);
    process::live("the tunnel", (logging, notifier), &tell_limits, &tasks, (ask, &cage), work)
}

/// What a tunnel needs is known for its life: it dials these ports, and opens none any more.
fn cage(options: &Options) -> Cage {
    let way = options.proxy.as_ref().map_or(&options.connector, |proxy| &proxy.address);
    let target = match &options.work {
        Work::Serve { target, .. } => Some(target),
        Work::Listen { .. } => None,
    };
    let dialled = || target.into_iter().chain([way]);
    let resolves = dialled().any(|address| address.host.parse::<IpAddr>().is_err());
    let ports = dialled().map(|address| address.port).collect();
    let mut cage = Cage::tunnel(options.sandbox, resolves, Some(ports), false, false);
    options.files_read_again().for_each(|file| cage.reads(file));
    cage
}
