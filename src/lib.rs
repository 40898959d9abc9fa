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
//!    the mappings ([`store`]), opens everything and serves.
//! 2. A Controller calls `mapping/add`. The request passes through [`api::server`] (which
//!    connection may stay), [`http`] (which bytes are a request) and [`api`] (what it asks for).
//! 3. [`registry`], where each has its name ([`named`]), leases two ports from the pool
//!    ([`ports`]), has the mapping stored, runs it as a [`pipe`], and only then is the call answered.
//! 4. The pipe accepts an agent's connection and starts [`tunnel::serve`], which tells the rest of
//!    its story: a handshake ([`tls`], on a thread of [`workers`]), the passcode (a wrong one goes
//!    to [`refusals`]), a place among `maxconnections`. Only then is there a [`tunnel::Tunnel`].
//!    Until then it stands in a [`crowd`], where newcomers replace those that say nothing.
//! 5. The tunnel waits in [`pairing`], its heartbeats answered and their rhythm kept
//!    ([`heartbeat`]).
//! 6. A user's connection is served by [`user`]: a handshake, then it waits in [`pairing`] too,
//!    unread. Whoever fits is joined there.
//! 7. [`pipe::Pipe::session`] hands both connections to a worker. A version 2 agent is told with a
//!    PROXY header ([`proxy`]).
//! 8. [`relay`] moves the bytes: two [`stream`]s in, whole records in, whole records out, an
//!    ending out; plain bytes in bulk pass through the kernel alone ([`conduit`]). What readiness
//!    and time are, [`reactor`] knows; whether a silent peer is slow or dead, [`unacknowledged`].
//! 9. The ending goes back to the pipe, which counts it ([`status`], shown by [`report`]), logs it
//!    ([`logging`]) and closes what is left. Places, files and ports are given back by `Drop`.
//!
//! The far end of a version 2 tunnel is [`agent`], the command `tunnel`: it dials ([`dial`]) and
//! shares relay, TLS and log with the daemon.
//!
//! One thread, the control thread, holds all state without locks; handshakes and relays, which
//! hold none of it, run on the [`workers`]. Every bound stands in [`limits`], the folders in
//! [`options`]; signals, the service manager and the budget of open files in [`process`], freed
//! memory in [`memory`].

#![allow(rustdoc::private_intra_doc_links, reason = "these pages are for readers of the source")]

pub mod agent;
pub mod api;
pub mod cli;
pub mod conduit;
pub mod config;
pub mod control;
pub mod crowd;
pub mod daemon;
pub mod dial;
pub mod direct;
pub mod drain;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod handshake;
pub mod heartbeat;
pub mod http;
mod json;
pub mod limits;
pub mod logging;
pub mod mapping;
mod mark;
pub mod memory;
pub mod named;
pub mod options;
pub mod pairing;
pub mod pipe;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod reactor;
mod reason;
pub mod refusals;
pub mod registry;
pub mod relay;
pub mod report;
pub mod residue;
pub mod status;
pub mod store;
pub mod stream;
pub mod tls;
pub mod tunnel;
pub mod turn;
pub mod unacknowledged;
pub mod user;
pub mod workers;
