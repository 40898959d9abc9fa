//! `iofog-connector tunnel`: the agent's side of a pipe (protocol page, section 5), for people
//! without ioFog's own agent.
//!
//! One thread does everything. [`connector`] counts the tunnels, [`pace`] says when the connector may
//! be asked for one more, [`authorize`] opens it with the [`proof`], and [`health`] tells the operator
//! how the connector is. [`tunnel`] is one tunnel until its session; [`serve`] carries sessions to a
//! service, [`listen`] carries local connections into a private pipe. Relay, TLS, log and process are
//! the daemon's.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use log::Log;
use smol::LocalExecutor;
use smol::channel::Receiver;
use smol::future::{FutureExt, or};

use crate::limits;
use crate::logging::{ALWAYS, Logging};
use crate::mappings::ports;
use crate::net::conduit;
use crate::os::{self, Ask, Files, Notifier, Signals};
use crate::runtime::{self, sleep, until};
use crate::text::{counted, reason};
use connector::Connector;
use listen::Listening;
use options::{Options, Work};
use serve::Serving;

mod authorize;
mod connector;
mod health;
mod listen;
mod lost;
pub mod options;
mod pace;
mod proof;
mod reached;
mod serve;
pub mod tunnel;
mod words;

/// Files that the event loop, the signals and the service manager take: 7.
const OWN_FILES: usize = 8;

/// The exit status of a start that the options forbid.
const FAULTY: u8 = 2;

/// Runs in the foreground until SIGTERM or SIGINT.
pub fn run(given: options::Given) -> ExitCode {
    let prepared = os::prepare();
    let conduits = conduit::allow(1, prepared.files);
    let started = Options::new(given, std::env::var_os(options::PASSCODE)).and_then(|options| {
        let files = Files::new(prepared.files.saturating_sub(conduits + OWN_FILES));
        let connector = Connector::new(&options, files)?;
        Ok((options, connector))
    });
    let (mut options, connector) = match started {
        Ok(started) => started,
        Err(fault) => return refuse(&fault, FAULTY.into()),
    };
    let most = options.sessions;
    let job = match &mut options.work {
        Work::Serve { target, connections, proxy_protocol } => {
            let target = target.clone();
            let serving = Serving::new(&connector, target, *connections, most, *proxy_protocol);
            Job::Serving(serving)
        }
        Work::Listen { address, pending } => match ports::open_listener(*address) {
            Ok(listener) => {
                // Port 0 means any free port.
                *address = listener.local_addr().unwrap_or(*address);
                if !address.ip().is_loopback() {
                    options.warnings.push(format!(
                        "--listen {address}: anyone who can reach it can use the pipe; use \
                         127.0.0.1 for this machine alone"
                    ));
                }
                Job::Listening(Listening::new(&connector, listener, *pending, most))
            }
            Err(error) => return refuse(&words::listen(*address, &error), ExitCode::FAILURE),
        },
    };
    let logging = Logging::on_stderr();
    logging.install(log::LevelFilter::Info);
    os::abort_on_panic(&logging);
    for warning in prepared.warning.iter().chain(&options.warnings) {
        log::warn!(target: ALWAYS, "{warning}");
    }
    match runtime::block_on(live(&options, &job, &connector, &logging)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) | Err(error) => {
            log::error!(target: ALWAYS, "the tunnel cannot go on: {}", reason::words(&error));
            ExitCode::FAILURE
        }
    }
}

/// Reports a start that fails, in the same form as all commands.
fn refuse(fault: &str, status: ExitCode) -> ExitCode {
    // Where stderr is closed, the exit status has to be enough.
    let _ = writeln!(io::stderr(), "iofog-connector: {fault}");
    status
}

/// Serves or listens until asked to stop, then lets sessions finish.
async fn live(
    options: &Options,
    job: &Job<'_>,
    connector: &Connector,
    logging: &Logging,
) -> io::Result<()> {
    let signals = Signals::new()?;
    let (what, rest) = match &options.work {
        Work::Serve { target, .. } => (format!("serving {target} through"), ""),
        // Trying a tunnel now would begin a session at the pipe's other side.
        Work::Listen { address, .. } => (
            format!("listening on {address} for"),
            ", where certificate and passcode are checked at the first local connection",
        ),
    };
    log::info!(target: ALWAYS, "{what} {}{rest}", connector.address());
    let tasks = LocalExecutor::new();
    let (ask, asked) = smol::channel::bounded(1);
    tasks.spawn(signals.pass_on(ask).boxed_local()).detach();
    let (stop, stopped) = smol::channel::bounded(1);
    tasks.spawn(upkeep(logging, connector).boxed_local()).detach();
    if let Some(interval) = os::watchdog_interval() {
        tasks.spawn(watchdog(connector.health().notifier(), interval).boxed_local()).detach();
    }
    connector.health().notifier().ready("connecting");
    let work = async {
        let working = async {
            match job {
                Job::Serving(serving) => serving.run(&tasks, stopped.clone()).await,
                Job::Listening(listening) => listening.run(&tasks, stopped.clone()).await?,
            }
            Ok::<_, io::Error>(())
        };
        let asked_once = async {
            asked_to_stop(connector, &asked).await;
            Ok(())
        };
        or(working, asked_once).await?;
        stop.close();
        connector.health().notifier().stopping(options.drain);
        let patience = options.drain.as_millis();
        let left = counted(connector.sessions() as u64, "session");
        log::info!(target: ALWAYS, "stopping: {left} left, with {patience} ms to finish");
        let finished = async {
            while connector.sessions() > 0 {
                let changed = connector.changed.listen();
                if connector.sessions() > 0 {
                    changed.await;
                }
            }
        };
        // A second signal means: do not wait.
        let drained = until(Instant::now() + options.drain, finished);
        or(async { drained.await.unwrap_or_default() }, asked_to_stop(connector, &asked)).await;
        Ok(())
    };
    let ended = or(work, runtime::run(|| tasks.tick())).await;
    logging.flush();
    ended
}

/// What this process does.
enum Job<'a> {
    Serving(Serving<'a>),
    Listening(Listening<'a>),
}

/// Returns at SIGTERM or SIGINT; at SIGHUP certificates and passcode are read again.
async fn asked_to_stop(connector: &Connector, asked: &Receiver<Ask>) {
    while asked.recv().await == Ok(Ask::Reload) {
        connector.reload();
    }
}

/// Tells the init system that this thread still takes its turn.
async fn watchdog(notifier: &Notifier, interval: Duration) {
    loop {
        notifier.watchdog();
        sleep(interval).await;
    }
}

/// Writes summaries of repeated log lines, and of limits that were reached.
async fn upkeep(logging: &Logging, connector: &Connector) {
    loop {
        sleep(limits::UPKEEP).await;
        connector.health().tell_limits();
        logging.tick();
    }
}
