//! One tunnel from its start to its end.

use std::future::pending;
use std::io;
use std::time::{Duration, Instant};

use smol::LocalExecutor;
use smol::channel::Receiver;
use smol::future::or;

use super::connector::{Connector, Stage};
use super::listen::Listening;
use super::options::{Options, Work};
use super::serve::Serving;
use super::words;
use crate::limits;
use crate::mappings::ports;
use crate::runtime::until;
use crate::text::counted;

/// What a tunnel does.
pub(super) enum Job<'a> {
    Serving(Serving<'a>),
    Listening(Listening<'a>),
}

impl<'a> Job<'a> {
    /// Ready to begin: a local port is open. Gives what this does, in words, and a warning about the
    /// port.
    ///
    /// # Errors
    /// A sentence about the local port.
    pub(super) fn new(
        connector: &'a Connector,
        options: &Options,
    ) -> Result<(Self, String, Option<String>), String> {
        let most = options.sessions;
        let way = connector.proxy().map(|proxy| format!(", by way of the proxy {proxy}"));
        let way = way.unwrap_or_default();
        match &options.work {
            Work::Serve { target, connections, proxy_protocol } => {
                let (target, proxy_protocol) = (target.clone(), *proxy_protocol);
                let what = format!("serving {target} through {}{way}", connector.address());
                let serving = Serving::new(connector, target, *connections, most, proxy_protocol);
                Ok((Job::Serving(serving), what, None))
            }
            Work::Listen { address, pending } => {
                let listener = ports::open_listener(*address)
                    .map_err(|error| words::listen(*address, &error))?;
                // Port 0 means any free port.
                let address = listener.local_addr().unwrap_or(*address);
                let warning = (!address.ip().is_loopback()).then(|| {
                    format!(
                        "--listen {address}: anyone who can reach it can use the pipe; use \
                         127.0.0.1 for this machine alone"
                    )
                });
                // Trying a tunnel now would begin a session at the pipe's other side.
                let what = format!(
                    "listening on {address} for {}{way}, where certificate and passcode are checked at \
                     the first local connection",
                    connector.address()
                );
                let listening = Listening::new(connector, listener, *pending, most);
                Ok((Job::Listening(listening), what, warning))
            }
        }
    }

    /// A tunnel's life: works until `stopped` is closed, then lets its sessions, which are `tasks`,
    /// finish within `drain`, and has idle version 3 tunnels closed in order.
    ///
    /// # Errors
    /// As [`Listening::run`].
    pub(super) async fn live<'t>(
        &'t self,
        connector: &Connector,
        drain: Duration,
        tasks: &LocalExecutor<'t>,
        stopped: Receiver<()>,
    ) -> io::Result<()> {
        let life = async {
            match self {
                Job::Serving(serving) => serving.run(tasks, stopped).await,
                Job::Listening(listening) => listening.run(tasks, stopped).await?,
            }
            drained(connector, drain).await;
            Ok(())
        };
        let closing = async {
            match self {
                Job::Serving(serving) => serving.close_rests().await,
                Job::Listening(_) => pending().await,
            }
        };
        or(life, closing).await
    }
}

/// Lets sessions finish within `drain`, and idle tunnels be closed by the connector.
async fn drained(connector: &Connector, drain: Duration) {
    let now = Instant::now();
    connector.reach(Stage::Draining);
    let patience = drain.as_millis();
    let left = counted(connector.sessions() as u64, "session");
    say!(connector.health(), "stopping: {left} left, with {patience} ms to finish");
    until(now + drain, connector.when(&|| connector.is_over())).await;
    let [_, bye] = limits::BYE;
    let no_more_idle = || connector.open_tunnels() <= connector.sessions();
    until(now + bye, connector.when(&no_more_idle)).await;
}
