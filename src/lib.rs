//! The Eclipse ioFog Connector: lets people reach the machines behind their gateways.
//!
//! A *mapping* opens two ports. An agent behind a gateway dials one of them and proves itself with
//! a passcode: that connection is a *tunnel*. A user (or a second agent) arrives at the other
//! port, is paired with a tunnel, and their bytes flow until both have finished: a *session*.
//! `docs/protocol.md`, the protocol page, says exactly what is spoken.
//!
//! # The life of one connection
//!
//! 1. [`main`](cli::main) reads the command line; [`daemon`] reads the settings ([`config`]) and
//!    the mappings ([`store`](mappings::store)), opens everything and serves.
//! 2. A Controller calls `mapping/add`. The request passes through `api::server` (which
//!    connection may stay), [`http`] (which bytes are a request) and [`api`] (what it asks for).
//! 3. [`registry`](pipes::registry), where each has its name (`named`), leases two ports from the pool
//!    ([`ports`](mappings::ports)), has the mapping stored, runs it as a `pipe`, and only then is the call answered.
//! 4. The pipe accepts an agent's connection and starts `serve_agent`, which tells the rest of
//!    its story: a handshake ([`tls`], on a thread of [`workers`](runtime::Workers)), the passcode (a wrong one goes
//!    to [`refusals`](pipes::refusals)), a `slot` among `maxconnections`. Only then is there a `tunnel::Tunnel`.
//!    Until then it stands in a `crowd`, where newcomers replace those that say nothing.
//! 5. The tunnel waits in `pairing`, its heartbeats answered and their rhythm kept
//!    ([`heartbeat`](wire::heartbeat)).
//! 6. A user's connection is served by `serve_user`: a handshake, then it waits in `pairing` too,
//!    unread. Whoever fits is joined there.
//! 7. `session::carry` hands both connections to a worker, or begins here with a tunnel of version 3, since most
//!    sessions are short. An agent of version 2 or 3 is told with a
//!    PROXY header ([`proxy`](wire::proxy)), of version 3 in the first of a session's [`frames`](wire::frames).
//! 8. [`Relay`](session::Relay) moves the bytes: two [`stream`](net::stream)s in, whole records in, whole records out, an
//!    ending out; plain bytes in bulk pass through the kernel alone ([`conduit`](net::conduit)). What readiness
//!    and time are, [`runtime`] knows; whether a silent peer is slow or dead, [`tcp_info`](net::tcp_info).
//! 9. The ending goes back to the pipe, whose `record` counts it ([`status`](report::status), shown by [`report`]), logs it
//!    ([`logging`]) and closes what is left. A version 3 tunnel goes back to step 5 (`settling`), and so does a version
//!    1 tunnel once the old answer is over; a user whose tunnel was dead, to step 6. Slots, files and ports are given
//!    back by `Drop`.
//!
//! The far end of a version 2 tunnel is [`agent`], the command `tunnel`: it dials ([`dial`](net::dial)) and
//! shares relay, TLS and log with the daemon.
//!
//! One thread, the control thread, holds all state without locks; handshakes and relays, which
//! hold none of it, run on the [`workers`](runtime::Workers). Every bound stands in [`limits`], the folders in
//! [`folders`](config::folders); signals, the service manager, the budget of open files and freed memory
//! in [`os`].

// Nothing that the network, a file or a user can influence may panic. In a test a panic is a report.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(rustdoc::private_intra_doc_links, reason = "these pages are for readers of the source")]

// The rooms are private, so that the compiler finds what nobody uses.

mod agent;
mod api;
pub mod cli;
mod config;
mod daemon;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http;
mod limits;
mod logging;
mod mappings;
mod net;
mod os;
mod pipes;
mod report;
mod runtime;
mod session;
#[cfg(test)]
#[path = "../tests/common"]
mod testing {
    pub mod folder;
    pub mod ignored;
    pub mod ports;
}
mod text;
mod tls;
mod wire;
