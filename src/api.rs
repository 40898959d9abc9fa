//! The control API (protocol page, section 3): what a request asks for, the answer to it, and
//! the connections on which both travel.
//!
//! A request passes through `server` and `connections` (which connection may stay), `connection`
//! (its handshake), [`http`](crate::http) (which bytes are a request), `call` (what it asks for) and
//! [`Api`], which asks the registry and answers. Every answer is one JSON object, errors too, because
//! the Controller reads every body as JSON and looks for `errormessage`; only `/metrics` is in
//! Prometheus' own format, and the page for people at `/` in HTML.
//!
//! Choices where the page leaves one:
//! - A bare JSON mapping is taken with the content type of a form (as curl sends it), with none,
//!   and with `application/json`; the other calls take forms only. A body of no bytes has no type.
//! - Numbers are JSON integers; in quotes they are refused, and the answer says so.
//! - The address of a direct connection's caller is the connection's; no header is believed.
//! - A stopping daemon answers 503 to changes.

mod answer;
pub mod call;
mod caller;
mod connection;
mod connections;
mod counters;
mod direct;
mod error;
mod form;
mod origin;
mod quoted;
mod server;
mod service;

pub use connection::Acceptor;
pub use server::Server;
pub use service::{Api, Host, Outcome};
