//! One version 2 tunnel, until its session begins (protocol page, sections 5.2 to 5.4), and the
//! session itself.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use ppp::v2::{Command, Header, ParseError};

use super::beats::Beats;
use super::connector::{Connector, Open, Opened};
use super::lost::Lost;
use super::pace::Outcome;
use crate::limits;
use crate::net::stream::Stream;
use crate::runtime::{Timer, now};
use crate::session::{Ended, Endpoint, Protocol, Relay, Silence};
use crate::wire::heartbeat::BEAT;
use crate::wire::token;

/// A tunnel that has no session yet.
pub(super) struct Tunnel<'a> {
    stream: Stream,
    /// What has arrived and has not been parsed yet.
    input: Vec<u8>,
    place: Open<'a>,
    connector: &'a Connector,
    beats: Beats,
}

/// A tunnel whose session has begun and waits for this side's `OPEN` or `FAIL`.
pub(super) struct Paired<'a> {
    stream: Stream,
    /// The PROXY header, as it came.
    pub(super) header: Vec<u8>,
    /// The first bytes of the session.
    rest: Vec<u8>,
    place: Open<'a>,
    connector: &'a Connector,
}

impl<'a> Tunnel<'a> {
    /// A tunnel that was authorized just now.
    pub(super) fn new(opened: Opened<'a>, connector: &'a Connector) -> Self {
        let Opened { stream, input, place, .. } = opened;
        let beats = Beats::new(now(), connector.heartbeat, connector.first_heartbeat());
        Tunnel { stream, input, place, connector, beats }
    }

    /// Waits for the session to begin, with a heartbeat each interval. May be dropped and called
    /// again.
    ///
    /// # Errors
    /// Why there will be none.
    pub(super) async fn session(&mut self) -> Result<Vec<u8>, Lost> {
        let mut timer = Timer::new();
        self.stream.allow();
        poll_fn(|context| {
            loop {
                match understand(&mut self.input) {
                    Ok(Some(header)) => return Poll::Ready(Ok(header)),
                    Ok(None) if self.beats.unasked() > limits::STRANGER_BYTES => {
                        return Poll::Ready(Err(Lost::Flooding));
                    }
                    Ok(None) => {}
                    Err(()) => return Poll::Ready(Err(Lost::Garbled)),
                }
                if let Poll::Ready(Err(error)) = self.stream.poll_flush(context) {
                    return Poll::Ready(Err(Lost::Broken(error)));
                }
                let input = &mut self.input;
                let received =
                    self.stream.poll_receive(context, &mut |unit| input.extend_from_slice(unit));
                if let Poll::Ready(received) = received {
                    match self.connector.took(received, &mut self.beats) {
                        Ok(()) => continue,
                        Err(why) => return Poll::Ready(Err(why)),
                    }
                }
                let now = now();
                if self.beats.is_gone(now) {
                    return Poll::Ready(Err(Lost::Unanswered));
                }
                if self.beats.is_due(now) {
                    if let Err(error) = self.stream.queue(BEAT) {
                        return Poll::Ready(Err(Lost::Broken(error)));
                    }
                    self.stream.allow();
                    continue;
                }
                if timer.poll_at(context, self.beats.due()).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Goes on to the session that begins with this header.
    pub(super) fn pair(mut self, header: Vec<u8>) -> Paired<'a> {
        self.stream.trust();
        let Tunnel { stream, input: rest, place, connector, .. } = self;
        Paired { stream, header, rest, place, connector }
    }

    /// Closes it after it has ended by itself, and tells the connector's state why.
    pub(super) fn lost(self, why: Lost) {
        self.connector.lost(why, self.beats.age(now()), self.beats.is_proven());
        self.stream.close();
    }
}

impl Paired<'_> {
    /// Returns when the session has broken before this side has answered it.
    pub(super) async fn gone(&self) {
        poll_fn(|context| self.stream.poll_gone(context)).await;
    }

    /// The outcome of a session that is over before it has begun; bytes may have arrived.
    pub(super) fn outcome(&mut self) -> Outcome {
        let mut came = !self.rest.is_empty();
        let context = Context::from_waker(Waker::noop());
        // It is known already that the session is over.
        let _ = self.stream.poll_receive(&context, &mut |unit| came |= !unit.is_empty());
        if came { Outcome::Carried } else { Outcome::Vain }
    }

    /// Tells the connector that the service cannot be reached.
    pub(super) fn fail(mut self) {
        // If that cannot be sent, the close says it.
        let _ = self.stream.queue(token::FAIL);
        self.stream.close();
    }

    /// Carries the session with the local connection to its end.
    pub(super) async fn carry(mut self, mut local: Stream) -> Outcome {
        // Not only once the relay runs: the tunnel may be gone by now.
        local.break_when_dropped();
        if self.stream.queue(token::OPEN).is_err() {
            return self.outcome();
        }
        let traffic = self.connector.traffic().clone();
        let held = if self.rest.is_empty() { Vec::new() } else { vec![self.rest.into()] };
        let endpoints = [self.stream, local].map(|stream| Endpoint {
            stream,
            protocol: Protocol::Raw,
            talk: None,
        });
        let silence = Silence { after_end: limits::AGENT_FIN_WAIT, ever: None };
        let mut relay = Relay::new(endpoints, [held, Vec::new()], silence, traffic);
        let ended = (&mut relay).await;
        // In a box: a session that goes on has memory for its relay alone.
        Box::pin(relay.close()).await;
        drop(self.place);
        outcome(&ended)
    }
}

/// How a session went.
pub(super) fn outcome(ended: &Ended) -> Outcome {
    log::debug!(
        "session ended after {:.1} s, {} bytes in, {} out",
        ended.lasted.as_secs_f64(),
        ended.bytes[0],
        ended.bytes[1]
    );
    match ended.lasted {
        _ if ended.bytes[0] > 0 => Outcome::Carried,
        lasted if lasted >= limits::VAIN_SESSION => Outcome::Lasted,
        _ => Outcome::Vain,
    }
}

/// Takes answers to heartbeats from the front of `input`, then the PROXY header if it is complete.
/// `Err` if anything else is there.
pub fn understand(input: &mut Vec<u8>) -> Result<Option<Vec<u8>>, ()> {
    let beats = input.chunks_exact(BEAT.len()).take_while(|token| token == BEAT).count();
    input.drain(..beats * BEAT.len());
    if input.is_empty() {
        // An idle tunnel keeps no memory, however much arrived at once.
        *input = Vec::new();
    }
    if BEAT.starts_with(input) {
        return Ok(None);
    }
    let length = match Header::try_from(input.as_slice()) {
        Ok(header) => header.len(),
        Err(ParseError::Incomplete(_) | ParseError::Partial(..))
            if input.len() <= limits::PROXY_HEADER =>
        {
            return Ok(None);
        }
        Err(_) => return Err(()),
    };
    let rest = input.split_off(length);
    Ok(Some(std::mem::replace(input, rest)))
}

/// Whether this is a PROXY header and nothing else.
pub(super) fn is_header(bytes: &[u8]) -> bool {
    Header::try_from(bytes).is_ok_and(|header| header.len() == bytes.len())
}

/// Whether this PROXY header, which is a whole one, is of a public pipe's user.
pub(super) fn has_user(header: &[u8]) -> bool {
    Header::try_from(header).is_ok_and(|header| header.command == Command::Proxy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proxy;

    #[test]
    fn a_header_is_found_wherever_the_reads_end() {
        let user = "192.0.2.7:1000".parse().unwrap();
        let header = proxy::header(Some((user, "192.0.2.8:7000".parse().unwrap())));
        let all = [b"BEATBEAT", &header[..], b"BEAT and data"].concat();
        for cut in 0..all.len() {
            let mut input = all[..cut].to_vec();
            let mut found = understand(&mut input).unwrap();
            input.extend_from_slice(&all[cut..]);
            if found.is_none() {
                found = understand(&mut input).unwrap();
            }
            assert_eq!(found.as_deref(), Some(&header[..]), "cut at {cut}");
            assert_eq!(input, b"BEAT and data", "cut at {cut}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for wrong in [&b"HTTP/1.1"[..], b"BEATx", b"BEAX", b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0"] {
            assert!(understand(&mut wrong.to_vec()).is_err(), "{wrong:?}");
        }
        let mut endless = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
        assert!(understand(&mut endless).unwrap().is_none());
        endless.resize(limits::PROXY_HEADER + 1, 0);
        assert!(understand(&mut endless).is_err());
    }
}
