//! The daemon while it serves, from its first mapping to the end of the last session.

use std::cell::RefCell;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Instant;

use smol::channel::Receiver;
use smol::future::{FutureExt, or};
use smol::{LocalExecutor, Task};

use super::control::Control;
use super::host::Daemon;
use super::reload::reload;
use super::upkeep::{upkeep, watchdog};
use crate::api::{Acceptor, Api, Server};
use crate::config::folders::Options;
use crate::limits;
use crate::logging::{ALWAYS, Logging};
use crate::mappings::mapping::Mapping;
use crate::mappings::ports;
use crate::mappings::store::{Store, Writer};
use crate::os::{self, Ask, Notifier};
use crate::pipes::registry::Registry;
use crate::pipes::shared::Shared;
use crate::runtime::{self, Backoff, sleep};

/// A daemon that serves.
pub(super) struct Serving<'a> {
    pub(super) notifier: Rc<Notifier>,
    shared: Rc<Shared>,
    registry: Rc<Registry>,
    logging: &'a Logging,
    /// What the last reload has found and could not put in force.
    not_in_force: Rc<RefCell<Vec<String>>>,
    /// Says that the API was asked for a stop.
    stopped: Receiver<()>,
    /// The API on TCP.
    api: Task<()>,
    /// The API on the control socket.
    control: Task<()>,
}

impl<'a> Serving<'a> {
    /// Runs the stored mappings, the API, and what is done from time to time.
    pub(super) fn begin(
        executor: &Rc<LocalExecutor<'static>>,
        shared: Rc<Shared>,
        (store, writer, stored): (Store, Writer, Vec<Mapping>),
        control: &Control<'_>,
        logging: &'a Logging,
        notifier: Rc<Notifier>,
    ) -> Self {
        // Before any mapping's port.
        let listener = ports::open_listener(shared.config.borrow().api);
        executor.spawn(writer.run().boxed_local()).detach();
        let registry = Registry::new(shared.clone(), executor.clone(), store, stored);
        let not_in_force = Rc::new(RefCell::new(Vec::new()));
        let api_fault = Rc::new(RefCell::new(None));
        let (stop, stopped) = smol::channel::bounded(1);
        let host = Rc::new(Daemon {
            shared: shared.clone(),
            logging: logging.clone(),
            api_fault: api_fault.clone(),
            not_in_force: not_in_force.clone(),
            stop,
        });
        let api = Rc::new(Api::new(registry.clone(), host));
        let server = Rc::new(Server::new(
            api.clone(),
            executor.clone(),
            api.counters(),
            shared.files.clone(),
            shared.workers.clone(),
        ));
        let control = executor.spawn({
            let (server, listener) = (server.clone(), control.listener.clone());
            async move { server.serve_unix(listener).await }.boxed_local()
        });
        let api = serve_api(server, shared.clone(), listener, api_fault);
        let api = executor.spawn(api.boxed_local());
        executor.spawn(upkeep(shared.clone(), logging.clone()).boxed_local()).detach();
        if let Some(interval) = os::watchdog_interval() {
            let watchdog = watchdog(shared.clone(), notifier.clone(), interval);
            executor.spawn(watchdog.boxed_local()).detach();
        }
        Serving { notifier, shared, registry, logging, not_in_force, stopped, api, control }
    }

    /// Reads the settings again as often as asked; returns when asked to stop, and whether by a signal.
    pub(super) async fn until_asked_to_stop(
        &self,
        options: &Options,
        asked: &Receiver<Ask>,
    ) -> bool {
        loop {
            match next_ask(asked, &self.stopped).await {
                (Ask::Stop, by_signal) => return by_signal,
                (Ask::Reload, _) => {
                    self.notifier.reloading();
                    self.logging.reopen();
                    self.not_in_force.replace(reload(options, &self.shared, self.logging));
                    self.notifier.ready("serving");
                }
            }
        }
    }

    /// Gives sessions their time to end, then cuts those that are left.
    pub(super) async fn drain(self, asked: &Receiver<Ask>, by_signal: bool) {
        let patience = self.shared.config.borrow().drain;
        self.notifier.stopping(patience);
        log::info!(target: ALWAYS, "stopping: sessions have {} ms to finish", patience.as_millis());
        // The API's port closes at once; the command line may go on asking.
        self.api.cancel().await;
        let again = asked_again(asked, by_signal, &self.registry, self.logging);
        let drained = or(self.registry.drain(patience), again);
        or(drained, tell(&self.notifier, &self.registry)).await;
        self.registry.cut().await;
        // A worker reports a session's end first, and then closes in order what ended that way.
        let still = Instant::now() + limits::STILL;
        runtime::until(still, self.shared.workers.answer()).await;
        self.control.cancel().await;
    }
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
                log::info!(target: ALWAYS, "it is stopping already; one more SIGTERM ends it at once");
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
