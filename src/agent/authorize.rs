//! From the dial to an authorized tunnel (protocol page, section 5.1): connect, TLS, passcode.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream;
use std::time::Instant;

use super::proof::Proof;
use super::words;
use crate::limits;
use crate::mappings::mapping::Passcode;
use crate::net::stream::{Received, Stream, is_too_much};
use crate::runtime::until;
use crate::tls::{self, MAYBE_DEV};
use crate::wire::greeting::{self, Version};

/// A hint for what may be wrong. In plain TCP, a port for users cannot be recognised: its answer is
/// that of a service.
const IS_IT_PORT1: &str = "; is it the port for agents, port1, and not the users' (port2)? \
                           `iofog-connector mapping list` shows both";

/// Said of a port that gives TLS session tickets.
const USERS_PORT: &str = "that is a port for users (port2), or no ioFog Connector: it gives TLS \
                          session tickets, which ports for agents never do. Name port1; \
                          `iofog-connector mapping list` shows both";

/// The first byte of a TLS alert.
const TLS_ALERT: u8 = 0x15;

/// Why a try gave no tunnel.
pub(super) enum Failure {
    /// A sentence for the operator.
    Unreachable(String),
    /// The connector answered the passcode by closing the connection.
    Refused,
}

/// Opens one tunnel over the connection that `dial` makes; gives its stream, and the bytes that followed the answer to the passcode.
///
/// Marks the proof as suspect when the connector's certificate is not trusted.
pub(super) async fn authorize(
    dial: impl Future<Output = Result<TcpStream, String>>,
    proof: &RefCell<Proof>,
) -> Result<(Stream, Vec<u8>), Failure> {
    let unreachable = |error: io::Error| Failure::Unreachable(words::connection(&error));
    let socket = dial.await.map_err(Failure::Unreachable)?;
    let (passcode, tls) = {
        let proof = proof.borrow();
        (proof.passcode.clone(), proof.tls.clone())
    };
    let is_plain = tls.is_none();
    let mut stream = match tls {
        None => Stream::plain(socket).map_err(unreachable)?,
        Some((config, name)) => {
            let deadline = Instant::now() + limits::TLS_HANDSHAKE;
            match until(deadline, Stream::connect(socket, config, name)).await {
                Some(Ok(stream)) => stream,
                Some(Err(error)) => {
                    if tls::is_distrust(&error) {
                        proof.borrow_mut().suspect();
                    }
                    let why = match error.raw_os_error() {
                        Some(_) => {
                            let why = words::connection(&error);
                            format!("the TLS handshake failed: {why}{MAYBE_DEV}")
                        }
                        None => tls::explain_connector(&error),
                    };
                    return Err(Failure::Unreachable(fitting(why, &proof.borrow())));
                }
                None => {
                    let why = format!("it does not answer the TLS handshake{MAYBE_DEV}");
                    return Err(Failure::Unreachable(fitting(why, &proof.borrow())));
                }
            }
        }
    };
    let deadline = Instant::now() + limits::AUTHORIZED;
    match until(deadline, prove(&mut stream, &passcode, is_plain)).await {
        Some(Ok(rest)) => Ok((stream, rest)),
        Some(Err(failure)) => Err(failure),
        None => Err(no_answer(&stream, "it does not answer the passcode")),
    }
}

/// A sentence without the advice to do without TLS, where a certificate has been pinned: that connector
/// speaks TLS, and something else answers.
fn fitting(why: String, proof: &Proof) -> String {
    match why.strip_suffix(MAYBE_DEV).filter(|_| proof.is_pinned()) {
        Some(fact) => format!(
            "{fact}; is it the port for agents, or does something on the way, such as a proxy, answer in \
             the connector's place?"
        ),
        None => why,
    }
}

/// Sends the passcode and reads the answer; gives the bytes that followed it.
async fn prove(
    stream: &mut Stream,
    passcode: &Passcode,
    is_plain: bool,
) -> Result<Vec<u8>, Failure> {
    let offer = greeting::greeting(Version::Two, passcode.reveal());
    if let Err(error) = stream.queue(offer.as_bytes()) {
        return Err(broke(stream, &error));
    }
    if let Err(error) = stream.flush().await {
        return Err(broke(stream, &error));
    }
    let authorized = Version::Two.authorized();
    let mut answer = Vec::new();
    loop {
        let received = poll_fn(|context| {
            stream.poll_receive(context, &mut |unit| answer.extend_from_slice(unit))
        });
        let received = received.await.map_err(|error| broke(stream, &error))?;
        let common = answer.len().min(authorized.len());
        if answer[..common] != authorized[..common] {
            return Err(match answer[0] {
                TLS_ALERT if is_plain => {
                    Failure::Unreachable("it speaks TLS; leave --plain out".into())
                }
                _ => no_answer(
                    stream,
                    "what answers there is not an ioFog Connector's port for version 2 tunnels",
                ),
            });
        }
        if let Some(rest) = answer.strip_prefix(authorized) {
            return Ok(rest.to_vec());
        }
        if received == Received::Ended {
            return Err(match stream.has_ticket() {
                true => no_answer(stream, "it has ended the connection"),
                false => Failure::Refused,
            });
        }
    }
}

/// The failure when the connection breaks before the answer.
fn broke(stream: &Stream, error: &io::Error) -> Failure {
    match is_too_much(error) {
        true => Failure::Unreachable(error.to_string()),
        false => no_answer(stream, &words::connection(error)),
    }
}

/// The failure when there is no valid answer to the passcode. A TLS session ticket is a sure sign of a
/// port for users: connectors give tickets to nobody else.
fn no_answer(stream: &Stream, what: &str) -> Failure {
    Failure::Unreachable(match stream.has_ticket() {
        true => USERS_PORT.into(),
        false => format!("{what}{IS_IT_PORT1}"),
    })
}
