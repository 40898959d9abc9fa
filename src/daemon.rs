//! The daemon, from start to stop (protocol page, section 7).

use std::cell::RefCell;
use std::io;
use std::net::TcpListener;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use log::{Level, Log};
use smol::LocalExecutor;
use smol::channel::Receiver;
use smol::future::{FutureExt, or};

use crate::api::{Acceptor, Api, Server};
use crate::config::Config;
use crate::config::folders::Options;
use crate::limits;
use crate::logging::{self, ALWAYS, Logging};
use crate::mappings::mapping::Mapping;
use crate::mappings::ports::{self, Pool};
use crate::mappings::store::{self, Store, StoreError, Writer};
use crate::net::conduit;
use crate::os::memory;
use crate::os::terminal::complain;
use crate::os::{self, Ask, Files, Instance, Notifier, Ownership, Signals};
use crate::pipes::refusals::Refusals;
use crate::pipes::registry::Registry;
use crate::pipes::shared::Shared;
use crate::runtime::{self, Backoff, Workers, sleep};
use crate::text::{counted, reason};
use crate::tls::Tls;
use control::Control;
use host::Daemon;
use upkeep::{housekeeping, watchdog};

mod control;
mod host;
mod upkeep;

/// The exit status of a start that did not come about: 2 where settings, certificates or the state
/// forbid it until somebody corrects them; 1 for what may pass, so that systemd tries again.
fn status(may_pass: bool) -> u8 {
    if may_pass { 1 } else { 2 }
}

/// Runs the daemon in the foreground until it is asked to stop.
pub fn run(options: &Options) -> ExitCode {
    memory::share_heap();
    let os::Prepared { files: file_limit, warning } = os::prepare();
    // Before anything that takes a while: until then a SIGHUP would end the process.
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            complain(format_args!("signals cannot be taken: {}", reason::words(&error)));
            return ExitCode::FAILURE;
        }
    };
    let (config, warnings) = match Config::load(&options.config_dir) {
        Ok(loaded) => loaded,
        Err(faults) => {
            let status = status(faults.may_pass());
            complain(faults);
            return ExitCode::from(status);
        }
    };
    let listen_warning = config.listen_warning();
    let logging = Logging::new(&options.log_dir, &options.syslog);
    logging.install(config.log_level);
    // Opened now: a file that cannot be is said at once, and where no file can say it.
    logging.reopen();
    if let Some(fault) = logging.file_fault() {
        log::warn!(target: ALWAYS, "{fault}");
        if !logging.is_on_stderr() {
            complain(format_args!("warning: {fault}"));
        }
    }
    // One that is not there yet may come.
    if let Some(doubt) = logging::syslog_doubt(&options.syslog).filter(|_| options.syslog.exists())
    {
        log::warn!(target: ALWAYS, "{doubt}");
    }
    os::abort_on_panic(&logging);
    if let Some(warning) = warning {
        log::warn!(target: ALWAYS, "{warning}");
    }
    let started = start(options, config, file_limit, &logging);
    let parts = match started {
        Ok(parts) => parts,
        Err((status, why)) => {
            let on_stderr = logging.leave_stderr();
            for line in why.lines() {
                log::error!(target: ALWAYS, "{line}");
            }
            if on_stderr {
                complain(why);
            }
            return ExitCode::from(status);
        }
    };
    for warning in warnings.into_iter().chain(listen_warning) {
        log::warn!(target: ALWAYS, "{warning}");
    }
    match runtime::block_on(serve(options, parts, signals, &logging)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) | Err(error) => {
            log::error!(target: ALWAYS, "the daemon cannot go on: {}", reason::words(&error));
            ExitCode::FAILURE
        }
    }
}

/// What must be there before anything is served.
struct Parts {
    config: Config,
    tls: Option<Arc<Tls>>,
    state: (Store, Writer, Vec<Mapping>),
    file_limit: usize,
    /// Given up last.
    _instance: (Instance, Option<Ownership>),
}

fn start(
    options: &Options,
    config: Config,
    file_limit: usize,
    logging: &Logging,
) -> Result<Parts, (u8, String)> {
    let instance = Instance::take(&options.run_dir).map_err(|error| (1, error.to_string()))?;
    let ownership = Ownership::take(&options.config_dir, &options.run_dir);
    let ownership = ownership.map_err(|error| (1, error.to_string()))?;
    let state = store::open(&options.config_dir).map_err(|error| {
        (status(matches!(error, StoreError::Unavailable(_))), error.to_string())
    })?;
    let tls = if config.dev {
        None
    } else {
        let ca = config.controller_ca.as_deref();
        let tls = Tls::start(&options.config_dir, &config.address, ca);
        Some(Arc::new(tls.map_err(|error| (status(error.may_pass()), error.to_string()))?))
    };
    logging.tick();
    Ok(Parts { config, tls, state, file_limit, _instance: (instance, ownership) })
}

/// Serves until asked to stop, then drains.
async fn serve(
    options: &Options,
    parts: Parts,
    signals: Signals,
    logging: &Logging,
) -> io::Result<()> {
    let Parts { config, tls, state: (store, writer, stored), file_limit, _instance } = parts;
    let executor = Rc::new(LocalExecutor::new());
    let (ask, asked) = smol::channel::bounded(1);
    // Boxed, as those below: a task of its own type takes 700 bytes of the program.
    executor.spawn(signals.pass_on(ask).boxed_local()).detach();
    let notifier = Rc::new(Notifier::from_env());
    let workers = Rc::new(Workers::start(config.threads)?);
    // Their event loops are among the open files that are counted below.
    workers.answer().await;
    let conduits = conduit::allow(config.threads, file_limit);
    let control = Control::listen(&options.run_dir)?;
    let files = Files::new(file_limit.saturating_sub(conduits));
    // Before any mapping's port.
    let listener = ports::open_listener(config.api);
    let shared = Rc::new(Shared {
        tls,
        workers,
        pool: Pool::new(&config.pool(), config.listen, files.clone()),
        refusals: Refusals::default(),
        files,
        config: RefCell::new(Rc::new(config)),
    });
    executor.spawn(writer.run().boxed_local()).detach();
    let mappings = stored.iter().filter(|mapping| mapping.pipe.ports().is_some()).count();
    let registry = Registry::new(shared.clone(), executor.clone(), store, stored);
    let not_in_force = Rc::new(RefCell::new(Vec::new()));
    let (stop, stopped) = smol::channel::bounded(1);
    let api_fault = Rc::new(RefCell::new(None));
    let host = Rc::new(Daemon {
        shared: shared.clone(),
        logging: logging.clone(),
        api_fault: api_fault.clone(),
        not_in_force: not_in_force.clone(),
        stop,
    });
    let api = Rc::new(Api::new(registry.clone(), host));
    let server = Server::new(
        api.clone(),
        executor.clone(),
        api.counters(),
        shared.files.clone(),
        shared.workers.clone(),
    );
    let server = Rc::new(server);
    let control_task = executor.spawn({
        let (server, listener) = (server.clone(), control.listener.clone());
        async move { server.serve_unix(listener).await }.boxed_local()
    });
    let api_task =
        executor.spawn(serve_api(server, shared.clone(), listener, api_fault).boxed_local());
    executor.spawn(housekeeping(shared.clone(), logging.clone()).boxed_local()).detach();
    if let Some(interval) = os::watchdog_interval() {
        executor.spawn(watchdog(shared.clone(), notifier.clone(), interval).boxed_local()).detach();
    }
    log::info!(
        target: ALWAYS, "iofog-connector {} serves {}; the limit of {file_limit} open files \
         carries about {} sessions",
        env!("CARGO_PKG_VERSION"),
        counted(mappings as u64, "mapping"),
        file_limit.saturating_sub(limits::FILES_RESERVED) / 2
    );
    notifier.ready("serving");
    let asked_to_stop = async {
        let by_signal = loop {
            match next_ask(&asked, &stopped).await {
                (Ask::Stop, by_signal) => break by_signal,
                (Ask::Reload, _) => {
                    notifier.reloading();
                    logging.reopen();
                    not_in_force.replace(reload(options, &shared, logging));
                    notifier.ready("serving");
                }
            }
        };
        let patience = shared.config.borrow().drain;
        notifier.stopping(patience);
        log::info!(target: ALWAYS, "stopping: sessions have {} ms to finish", patience.as_millis());
        // The API's port closes at once; the command line may go on asking.
        api_task.cancel().await;
        let again = asked_again(&asked, by_signal, &registry, logging);
        or(or(registry.drain(patience), again), tell(&notifier, &registry)).await;
        registry.cut().await;
        // A worker tells of a session's end, then closes in order what ended so.
        runtime::until(std::time::Instant::now() + limits::STILL, shared.workers.answer()).await;
        control_task.cancel().await;
    };
    or(asked_to_stop, runtime::run(|| executor.tick())).await;
    log::info!(target: ALWAYS, "stopped");
    logging.flush();
    Ok(())
}

/// What is asked for, and whether by a signal.
async fn next_ask(asked: &Receiver<Ask>, stopped: &Receiver<()>) -> (Ask, bool) {
    let asked = async { (asked.recv().await.unwrap_or(Ask::Stop), true) };
    let stopped = async {
        let _ = stopped.recv().await;
        (Ask::Stop, false)
    };
    or(asked, stopped).await
}

/// Returns when a second signal asks a draining daemon to stop. The service manager's may be the
/// first one, after `stop` on the command line.
async fn asked_again(
    asked: &Receiver<Ask>,
    mut by_signal: bool,
    registry: &Registry,
    logging: &Logging,
) {
    loop {
        match asked.recv().await {
            Ok(Ask::Reload) => logging.reopen(),
            Ok(Ask::Stop) if by_signal => break,
            Ok(Ask::Stop) => {
                by_signal = true;
                log::info!(target: ALWAYS, "it is stopping already; one more signal ends it at once");
            }
            // The signals' task lives as long as the process.
            Err(_) => std::future::pending().await,
        }
    }
    let who = registry.draining().map(|left| left.who()).unwrap_or_default();
    log::warn!(target: ALWAYS, "asked to stop a second time: {who} cut");
}

/// Tells systemd what a stopping daemon still waits for. Never ends.
async fn tell(notifier: &Notifier, registry: &Registry) {
    loop {
        if let Some(left) = registry.draining() {
            notifier.status(&left.to_string());
        }
        sleep(limits::DRAIN_TOLD).await;
    }
}

/// Puts the settings and certificates in force that the files hold now, as far as that goes
/// without a restart; with a fault in them, the old ones stay. Gives what is not in force.
fn reload(options: &Options, shared: &Shared, logging: &Logging) -> Vec<String> {
    let mut not_in_force = Vec::new();
    let mut keep = |level, what: String| {
        log::log!(target: ALWAYS, level, "{what}");
        not_in_force.push(what);
    };
    let (mut new, warnings) = match Config::load(&options.config_dir) {
        Ok(loaded) => loaded,
        Err(faults) => {
            for fault in faults.sentences() {
                keep(Level::Error, fault.clone());
            }
            for warning in faults.warnings() {
                log::warn!(target: ALWAYS, "{warning}");
            }
            keep(Level::Error, "the old settings stay in force".into());
            return not_in_force;
        }
    };
    for warning in warnings {
        log::warn!(target: ALWAYS, "{warning}");
    }
    let old = shared.config.borrow().clone();
    for key in old.needs_restart(&new) {
        keep(Level::Warn, format!("{key} has changed, which a restart alone puts in force"));
    }
    (new.dev, new.api, new.listen, new.threads) = (old.dev, old.api, old.listen, old.threads);
    if let Some(tls) = &shared.tls {
        let ca = new.controller_ca.as_deref();
        if let Err(error) = tls.reload(&options.config_dir, &new.address, ca) {
            keep(
                Level::Error,
                format!(
                    "{error}; the old certificates stay in force, with controllers and controllerca"
                ),
            );
            // Who may call depends on them together.
            new.controllers.clone_from(&old.controllers);
            new.controller_ca.clone_from(&old.controller_ca);
        }
    }
    shared.pool.replace(&new.pool());
    if let Some(doubt) = shared.pool.outside() {
        log::warn!(target: ALWAYS, "{doubt}");
    }
    logging.set_level(new.log_level);
    shared.config.replace(Rc::new(new));
    log::info!(target: ALWAYS, "settings read again");
    not_in_force
}

/// Answers the API on TCP. An address that is not there yet, or is taken, is tried again: the
/// pipes serve meanwhile, and `fault` says why.
async fn serve_api(
    server: Rc<Server<Api>>,
    shared: Rc<Shared>,
    mut opened: io::Result<TcpListener>,
    fault: Rc<RefCell<Option<String>>>,
) {
    let address = shared.config.borrow().api;
    let mut retry = Backoff::new(limits::PORT_RETRY);
    let listener = loop {
        match opened {
            Ok(listener) => break listener,
            Err(error) => {
                let why = ports::api_fault(&error);
                let why = format!("the API cannot listen on {address}: {why}; it is tried again");
                log::error!(target: ALWAYS, "{why}");
                fault.replace(Some(why));
            }
        }
        sleep(retry.pause()).await;
        opened = ports::open_listener(address);
    };
    fault.replace(None);
    let acceptor = shared.tls.clone().map(|tls| -> Acceptor {
        Rc::new(move || {
            let now = tls.current();
            (now.api.clone(), now.callers)
        })
    });
    log::info!(target: ALWAYS, "the API listens on {address}{}", if acceptor.is_some() { " (TLS)" } else { "" });
    match server.serve_tcp(&listener, acceptor).await {
        Ok(never) => match never {},
        Err(error) => log::error!(target: ALWAYS, "the API cannot be served: {error}"),
    }
}
