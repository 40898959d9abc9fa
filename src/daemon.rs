//! The daemon, from start to stop (protocol page, section 7).

use std::cell::RefCell;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use log::Log;
use smol::LocalExecutor;
use smol::future::{FutureExt, or};

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
use crate::os::{self, Cage, Files, Instance, Notifier, Ownership, Signals, Spawner};
use crate::pipes::refusals::Refusals;
use crate::pipes::shared::Shared;
use crate::runtime::{self, Workers};
use crate::text::event::Event;
use crate::text::reason;
use crate::tls::{self, Tls};
use control::Control;
use handover::Inheritance;
use place::Place;
use serving::{Asked, Serving};

mod control;
mod dump;
mod errand;
mod handover;
mod host;
mod place;
mod reload;
mod serving;
mod upkeep;

/// Files of a worker's event loop.
const EVENT_LOOP: usize = 2;

/// Files of the event loop of the control socket and the signals, and of the cage.
const EVENT_LOOPS: usize = 3;

/// Files, beside the mappings' ports, for which the start has room made: 8 KiB of the kernel's memory.
const ROOM: usize = 960;

/// The exit status of a failed start: 2 where somebody must correct settings, certificates or the
/// state first; 1 for what may pass by itself, so that systemd tries again.
fn status(may_pass: bool) -> u8 {
    if may_pass { 1 } else { 2 }
}

/// Runs the daemon in the foreground until it is asked to stop.
pub fn run(options: &Options) -> ExitCode {
    memory::share_heap();
    os::close_inherited();
    // Before anything is read or opened that a program started anew is not to have.
    let spawner = Spawner::fork();
    let os::Prepared { files: file_limit, warning } = os::prepare();
    // Before anything that takes a while: until then a SIGHUP would end the process.
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            complain(format_args!("cannot handle signals: {}", reason::words(&error)));
            return ExitCode::FAILURE;
        }
    };
    let inheritance = os::predecessor().map_err(|error| reason::words(&error).to_string());
    let inheritance = inheritance.and_then(|link| link.map(Inheritance::receive).transpose());
    let inheritance = match inheritance {
        Ok(inheritance) => inheritance,
        Err(why) => {
            complain(why);
            return ExitCode::FAILURE;
        }
    };
    let refuse = |why: &str| {
        if let Some(inheritance) = &inheritance {
            inheritance.refuse(why);
        }
    };
    let (config, warnings) = match Config::load(&options.config_dir) {
        Ok(loaded) => loaded,
        Err(faults) => {
            let status = status(faults.may_pass());
            refuse(&faults.to_string());
            complain(faults);
            return ExitCode::from(status);
        }
    };
    let listen_warning = config.listen_warning();
    let logging = open_log(options, &config);
    os::abort_on_panic(&logging);
    if let Some(warning) = warning {
        log::warn!(target: ALWAYS, "{warning}");
    }
    let parts = match start(options, config, &logging, inheritance.as_ref()) {
        Ok(parts) => parts,
        Err((status, why)) => {
            refuse(&why);
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
    let spawner = match os::supervisor() {
        Some(name) => Err(format!(
            "{name} watches this process itself, and would start another one beside the new program; restart the \
             service instead"
        )),
        None => spawner.map(Arc::new).map_err(|error| {
            format!(
                "the process that starts programs could not be made: {}; a restart is needed",
                reason::words(&error)
            )
        }),
    };
    let place = Place {
        options,
        instance: RefCell::new(Some(parts.0)),
        ownership: RefCell::new(parts.1),
        spawner: RefCell::new(spawner),
    };
    let serving = serve(place, parts.2, file_limit, signals, &logging, inheritance);
    match runtime::block_on(serving.boxed_local()) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) | Err(error) => {
            log::error!(target: ALWAYS, "the daemon cannot go on: {}", reason::words(&error));
            ExitCode::FAILURE
        }
    }
}

/// Installs the log. What it cannot write to is a warning, no reason not to start.
fn open_log(options: &Options, config: &Config) -> Logging {
    let logging = Logging::new(&options.log_dir, &options.syslog);
    logging.set_formats(config.log_formats);
    logging.install(config.log_level);
    // Opened now, so that a file that cannot be opened is reported at once, and also outside the
    // file.
    logging.reopen();
    upkeep::tell_file_fault(&logging);
    // A socket that is not there yet may still come.
    if let Some(doubt) = logging::syslog_doubt(&options.syslog).filter(|_| options.syslog.exists())
    {
        log::warn!(target: ALWAYS, "{doubt}");
    }
    logging
}

/// What must be there before anything is served.
struct Parts {
    config: Config,
    tls: Option<Arc<Tls>>,
    state: (Store, Writer, Vec<Mapping>),
}

/// Takes the folders for this process alone, and reads the mappings and certificates; else the exit
/// status and what is wrong.
fn start(
    options: &Options,
    config: Config,
    logging: &Logging,
    inheritance: Option<&Inheritance>,
) -> Result<(Instance, Option<Ownership>, Parts), (u8, String)> {
    let instance = match inheritance {
        Some(inheritance) => inheritance.instance().map_err(|error| (1, error.to_string()))?,
        None => Instance::take(&options.run_dir).map_err(|error| (1, error.to_string()))?,
    };
    dump::tidy(&options.log_dir);
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
    Ok((instance, ownership, Parts { config, tls, state }))
}

/// Opens what is served with, serves until asked to stop, and drains; or until another daemon serves, and carries what
/// has begun to its end.
async fn serve(
    place: Place<'_>,
    parts: Parts,
    file_limit: usize,
    signals: Signals,
    logging: &Logging,
    inheritance: Option<Inheritance>,
) -> io::Result<()> {
    let Parts { config, tls, state } = parts;
    let executor = Rc::new(LocalExecutor::new());
    let (ask, asked) = smol::channel::bounded(1);
    let notifier = Rc::new(Notifier::from_env());
    let run = &place.options.run_dir;
    let (control, inherited, link) = match inheritance {
        None => (Control::listen(run)?, Vec::new(), None),
        Some(Inheritance { link, watch, control, ports, process, lock }) => {
            // The place has it.
            drop(lock);
            (control, ports, Some(((link, watch), process)))
        }
    };
    // Before the first thread, too: for the ports of all mappings, and for as many connections as most have.
    os::make_room(&control, 2 * state.2.len() + ROOM);
    let files = budget(&config, file_limit, inherited.len());
    let pool = Pool::new(&config.pool(), config.listen, files.clone());
    pool.inherit(inherited);
    // Before any mapping's port, and with the capability that a port below 1024 takes.
    let api = pool.open_apart(config.api);
    if let (Some(((link, _), _)), Err(error)) = (&link, &api) {
        // What the daemon before has there itself, at another address, it gives up; an address may still come.
        let may_come = error.kind() == io::ErrorKind::AddrNotAvailable;
        if !(may_come || pool.has_inherited(config.api.port())) {
            let why = ports::api_fault(error);
            let why = format!("the API cannot listen on {}: {why}", config.api);
            handover::refuse(link, &why);
            return Err(io::Error::other(why));
        }
    }
    // Before the first thread: rules for files hold for those that begin later.
    if let Some(notice) = cage(place.options, &config, api.is_ok()).enter() {
        log::info!(target: ALWAYS, "{notice}");
    }
    if let Some(warning) = config.sandbox_warning() {
        log::warn!(target: ALWAYS, "{warning}");
    }
    // Boxed, as others in `serving`: a task of its own type takes 700 bytes of the program.
    executor.spawn(signals.pass_on(ask.clone()).boxed_local()).detach();
    let workers = Rc::new(Workers::start(config.threads)?);
    workers.answer().await;
    let home = workers.clone();
    executor.spawn(async move { home.run_home().await }.boxed_local()).detach();
    let (control, listener) = Control::of(control, run)?;
    let notice = config.loopback_notice();
    let shared = share(config, tls, workers, (pool, files));
    let is_heir = link.is_some();
    let ways = (api, listener);
    let serving = Serving::begin(&executor, shared, state, ways, logging, notifier, is_heir);
    serving.dump_to(&place.options.log_dir);
    if let Some((links, process)) = link {
        // Nothing of what was begun runs before this returns.
        if let Err(why) = serving.take_place(&place, links, process, ask) {
            control.passed_on();
            place.leave();
            return Err(io::Error::other(why));
        }
    }
    let life = async {
        // Every port has been tried then, so that what is said of them is true.
        runtime::look().await;
        let tried = async {
            while serving.has_untried() {
                runtime::look().await;
            }
        };
        runtime::until(Instant::now() + limits::PORTS_TRIED, tried).await;
        runtime::look().await;
        log::info!(
            target: ALWAYS, event = Event::Started.word(); "iofog-connector {} serves {}; the limit of {file_limit} open files \
             allows about {} sessions",
            env!("CARGO_PKG_VERSION"),
            serving.mappings(),
            file_limit.saturating_sub(limits::FILES_RESERVED) / 2
        );
        if let Some(notice) = notice {
            log::info!(target: ALWAYS, "{notice}");
        }
        serving.tell_started();
        serving.notifier.ready(&serving.summary());
        loop {
            if let Asked::Stop(by_signal) = serving.until_asked(place.options, &asked).await {
                serving.drain(&asked, by_signal).await;
                return Ok(());
            }
            match serving.hand_over(&place, &asked).await {
                Ok((successor, process)) => {
                    log::info!(
                        target: ALWAYS, event = Event::HandedOver.word();
                        "process {process} serves now; sessions that have begun here go on"
                    );
                    serving.upgrade.became(Ok(format!("Process {process} serves now.")));
                    control.passed_on();
                    return serving.retire(&successor, &asked).await;
                }
                Err(why) => {
                    let what = format!("no other program takes this one's place: {why}");
                    log::error!(target: ALWAYS, event = Event::UpgradeRefused.word(); "{what}");
                    serving.tell(Event::UpgradeRefused, &what);
                    serving.upgrade.became(Err(why));
                }
            }
        }
    };
    let lived = or(life, runtime::run(|| executor.tick())).await;
    log::info!(target: ALWAYS, "stopped");
    logging.flush();
    lived
}

/// The daemon's cage. It reaches the folders, and what is read again there or elsewhere; `api` says whether the
/// API's port is open.
fn cage(options: &Options, config: &Config, api: bool) -> Cage {
    let is_low = |port: &u16| *port < 1024;
    let privileged = config.pool().iter().any(is_low) || (!api && is_low(&config.api.port()));
    let mut cage = Cage::daemon(config.sandbox, privileged);
    cage.keeps(&options.config_dir);
    cage.replaces(&options.config_dir.join(store::FILE));
    cage.keeps(&options.log_dir);
    cage.replaces(&options.log_dir.join(logging::FILE));
    cage.removes(&options.run_dir);
    cage.reads(&options.config_dir.join(crate::config::FILE));
    if !config.dev {
        [tls::CERTIFICATE, tls::KEY]
            .iter()
            .for_each(|name| cage.reads(&options.config_dir.join(name)));
    }
    config.controller_ca.iter().for_each(|path| cage.reads(path));
    cage
}

/// The files that connections and ports may open: neither those that are open now nor those of the threads to come, but
/// for so many listening sockets that were handed over, which are taken as ports are opened.
fn budget(config: &Config, file_limit: usize, ports: usize) -> Arc<Files> {
    let conduits = conduit::allow(config.threads + 1, file_limit);
    let loops = EVENT_LOOPS + EVENT_LOOP * config.threads;
    Files::beside(ports, loops, file_limit.saturating_sub(conduits))
}

/// What all mappings share.
fn share(
    config: Config,
    tls: Option<Arc<Tls>>,
    workers: Rc<Workers>,
    (pool, files): (Pool, Arc<Files>),
) -> Rc<Shared> {
    Rc::new(Shared {
        tls,
        workers,
        refusals: Refusals::default(),
        files,
        pool,
        config: RefCell::new(Rc::new(config)),
        events: Rc::default(),
        times: RefCell::default(),
        session_over: event_listener::Event::new(),
    })
}
