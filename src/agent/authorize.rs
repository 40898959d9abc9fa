//! From the dial to an authorized tunnel (protocol page, sections 5.1 and 8.1): connect, TLS, version, passcode.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::TcpStream;
use std::time::Instant;

use super::proof::{Proof, Suspect};
use super::versions::{Try, Versions};
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

/// Said of a port that gives TLS session tickets without version 3.
const USERS_PORT: &str = "that is a port for users (port2), or no ioFog Connector: it gives TLS \
                          session tickets, which ports for agents give with version 3 alone. Name port1; \
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

/// A tunnel that the connector has accepted.
pub(super) struct Authorized {
    pub(super) stream: Stream,
    /// What came with the answer to the passcode.
    pub(super) input: Vec<u8>,
    /// 2 or 3.
    pub(super) version: Version,
}

/// Opens one tunnel over the connection that `dial` makes, while so many are `open`. In plain TCP, where an older
/// connector closes at a version 3 greeting, over a second one.
///
/// Marks the proof as suspect when the connector's certificate is not trusted.
pub(super) async fn authorize(
    dial: impl AsyncFn() -> Result<TcpStream, String>,
    proof: &RefCell<Proof>,
    versions: &RefCell<Versions>,
    open: usize,
) -> Result<Authorized, Failure> {
    if proof.borrow().tls.is_some() {
        let mut stream = connect(dial().await, proof).await?;
        let version = if stream.has_protocol() { Version::Three } else { Version::Two };
        let input = prove(&mut stream, proof, Try { version, then_two: false }).await?;
        return Ok(Authorized { stream, input, version });
    }
    let mut next = versions.borrow_mut().next(Instant::now(), open);
    let mut behind = false;
    loop {
        let Try { version, then_two } = next;
        let mut stream = connect(dial().await, proof).await?;
        match prove(&mut stream, proof, next).await {
            Ok(input) => {
                versions.borrow_mut().accepted(Instant::now(), version, behind);
                return Ok(Authorized { stream, input, version });
            }
            Err(Failure::Refused) if then_two => {
                behind = true;
                next = Try { version: Version::Two, then_two: false };
            }
            Err(failure) => {
                if matches!(failure, Failure::Refused) {
                    versions.borrow_mut().refused(behind, open);
                }
                return Err(failure);
            }
        }
    }
}

/// Makes a stream of a connection, in TLS where that is spoken.
async fn connect(
    dialled: Result<TcpStream, String>,
    proof: &RefCell<Proof>,
) -> Result<Stream, Failure> {
    let unreachable = |error: io::Error| Failure::Unreachable(words::connection(&error));
    let socket = dialled.map_err(Failure::Unreachable)?;
    let tls = proof.borrow().tls.clone();
    let Some((config, name)) = tls else {
        return Stream::plain(socket).map_err(unreachable);
    };
    let deadline = Instant::now() + limits::TLS_HANDSHAKE;
    match until(deadline, Stream::connect(socket, config, name)).await {
        Some(Ok(stream)) => Ok(stream),
        Some(Err(error)) => {
            if tls::is_distrust(&error) {
                proof.borrow_mut().suspect(Suspect::Certificates);
            }
            let why = match error.raw_os_error() {
                Some(_) => {
                    let why = words::connection(&error);
                    format!("the TLS handshake failed: {why}{MAYBE_DEV}")
                }
                None => tls::explain_connector(&error),
            };
            Err(Failure::Unreachable(fitting(why, &proof.borrow())))
        }
        None => {
            let why = format!("it does not answer the TLS handshake{MAYBE_DEV}");
            Err(Failure::Unreachable(fitting(why, &proof.borrow())))
        }
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
    proof: &RefCell<Proof>,
    greets: Try,
) -> Result<Vec<u8>, Failure> {
    let (passcode, is_plain) = {
        let proof = proof.borrow();
        (proof.passcode.clone(), proof.tls.is_none())
    };
    let deadline = Instant::now() + limits::AUTHORIZED;
    let answered = until(deadline, answer(stream, &passcode, greets, is_plain)).await;
    answered.unwrap_or_else(|| Err(no_answer(stream, "it does not answer the passcode")))
}

async fn answer(
    stream: &mut Stream,
    passcode: &Passcode,
    Try { version, then_two }: Try,
    is_plain: bool,
) -> Result<Vec<u8>, Failure> {
    // A close of what has not been read is a reset.
    let broken = |stream: &Stream, error: &io::Error| match then_two {
        true => Failure::Refused,
        false => broke(stream, error),
    };
    let greeting = greeting::greeting(version, passcode.reveal());
    if let Err(error) = stream.queue(greeting.as_bytes()) {
        return Err(broken(stream, &error));
    }
    if let Err(error) = stream.flush().await {
        return Err(broken(stream, &error));
    }
    let authorized = version.authorized();
    let mut answer = Vec::new();
    loop {
        let received = poll_fn(|context| {
            stream.poll_receive(context, &mut |unit| answer.extend_from_slice(unit))
        });
        let received = match received.await {
            Ok(received) => received,
            Err(error) if answer.is_empty() => return Err(broken(stream, &error)),
            Err(error) => return Err(broke(stream, &error)),
        };
        let common = answer.len().min(authorized.len());
        if answer[..common] != authorized[..common] {
            return Err(match answer[0] {
                TLS_ALERT if is_plain => {
                    Failure::Unreachable("it speaks TLS; leave --plain out".into())
                }
                _ => no_answer(
                    stream,
                    "what answers there is not an ioFog Connector's port for tunnels",
                ),
            });
        }
        if let Some(rest) = answer.strip_prefix(authorized) {
            return Ok(rest.to_vec());
        }
        if received == Received::Ended {
            return Err(match is_users_port(stream) {
                true => no_answer(stream, "it has ended the connection"),
                false => Failure::Refused,
            });
        }
    }
}

/// Whether it gives session tickets as a port for users does: to whom it has not chosen version 3 for.
fn is_users_port(stream: &Stream) -> bool {
    !stream.has_protocol() && stream.has_ticket()
}

/// The failure when the connection breaks before the answer.
fn broke(stream: &Stream, error: &io::Error) -> Failure {
    match is_too_much(error) {
        true => Failure::Unreachable(error.to_string()),
        false => no_answer(stream, &words::connection(error)),
    }
}

/// The failure when there is no valid answer to the passcode. A TLS session ticket is a sure sign of a
/// port for users, where version 3 was not chosen: of agents, those of version 3 alone are given any.
fn no_answer(stream: &Stream, what: &str) -> Failure {
    Failure::Unreachable(match is_users_port(stream) {
        true => USERS_PORT.into(),
        false => format!("{what}{IS_IT_PORT1}"),
    })
}
