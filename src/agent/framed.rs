//! One version 3 tunnel (protocol page, section 8): while it is idle, while a session's local connection is made,
//! and the session itself, after which it is idle again.

use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use smol::future::{or, poll_once};

use super::beats::Beats;
use super::connector::{Connector, Open, Opened};
use super::lost::Lost;
use super::pace::Outcome;
use super::tunnel::{is_header, outcome};
use crate::limits;
use crate::net::stall::{Stall, StallWatch};
use crate::net::stream::{Received, Stream};
use crate::runtime::{Deadlines, Timer, now};
use crate::session::{Endpoint, Parting, Protocol, Relay, Silence, Want};
use crate::wire::frames::{Event, Side, Talk, Word};

/// A version 3 tunnel.
pub(super) struct Framed<'a> {
    stream: Stream,
    talk: Box<Talk>,
    /// What has come and was not heard yet.
    input: Vec<u8>,
    place: Open<'a>,
    connector: &'a Connector,
    /// Users for whom the connector wants tunnels.
    want: Arc<Want>,
    beats: Beats,
    /// Whether what the connector had sent of the last session may still come, to be thrown away.
    refused: bool,
}

/// A tunnel whose session has begun.
pub(super) struct Begun<'a> {
    tunnel: Box<Framed<'a>>,
    /// The session's bytes that have come, in one piece, however small their frames are.
    held: Vec<u8>,
    is_reset: bool,
}

/// What the connector says beside bytes.
enum Heard {
    Opened(Box<[u8]>),
    Reset,
}

/// Why a session is over before this side has taken it.
pub(super) enum Gone {
    /// The connector has broken it off.
    Reset,
    /// The tunnel has broken.
    Broken,
}

/// What is left of a session.
pub(super) struct Left<'a> {
    pub(super) outcome: Outcome,
    /// `None` where it has broken.
    pub(super) tunnel: Option<Box<Framed<'a>>>,
    /// Closes the local connection, and a tunnel that does not go on, if that has not been done yet.
    pub(super) closing: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// Of a tunnel that does not go on: its files are given back when its sockets are closed.
    _place: Option<Open<'a>>,
}

impl<'a> Framed<'a> {
    /// A tunnel that was authorized just now; `want` is told of users for whom the connector wants more.
    ///
    /// In a box, so that the futures of its life are small.
    pub(super) fn new(opened: Opened<'a>, connector: &'a Connector, want: Arc<Want>) -> Box<Self> {
        let Opened { stream, input, place, .. } = opened;
        let beats = Beats::new(now(), connector.heartbeat, connector.first_heartbeat());
        let talk = Box::new(Talk::new(Side::Agent));
        let refused = false;
        Box::new(Framed { stream, talk, input, place, connector, want, beats, refused })
    }

    /// Waits, with a heartbeat each interval, until a session begins, and gives its PROXY header. `None`: this side
    /// has said that it wants no more, and the connector has closed it. May be dropped and called again.
    ///
    /// # Errors
    /// Why there will be none.
    pub(super) async fn next(&mut self) -> Result<Option<Box<[u8]>>, Lost> {
        let (mut timer, mut watch) = (Timer::new(), StallWatch::default());
        self.allow();
        let next = poll_fn(|context| {
            loop {
                // A connector that begins sessions and reads nothing is heard no further.
                let is_read = self.stream.waiting() < limits::ANSWERS_WAITING;
                let heard = if is_read { self.hear(&mut |_| {}) } else { Ok(None) };
                match heard {
                    Ok(Some(Heard::Opened(header))) => return Poll::Ready(Ok(Some(header))),
                    Ok(_) if self.talk.has_heard_bye() => return Poll::Ready(Err(Lost::Bye)),
                    Ok(_) if self.beats.unasked() > self.most_unasked() => {
                        return Poll::Ready(Err(Lost::Flooding));
                    }
                    Ok(_) => {}
                    Err(why) => return Poll::Ready(Err(why)),
                }
                if let Poll::Ready(Err(error)) = self.stream.poll_flush(context) {
                    return Poll::Ready(Err(Lost::Broken(error)));
                }
                if !is_read && self.stream.waiting() < limits::ANSWERS_WAITING {
                    continue;
                }
                let input = &mut self.input;
                let received = if is_read {
                    self.stream.poll_receive(context, &mut |unit| input.extend_from_slice(unit))
                } else {
                    Poll::Pending
                };
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
                    self.say(Word::Beat);
                    self.allow();
                    continue;
                }
                let mut deadlines = Deadlines::new(now);
                if self.beats.is_unread() {
                    let stall =
                        watch.look(&mut self.stream, limits::UNACKNOWLEDGED, &mut deadlines);
                    if stall == Stall::Gone {
                        return Poll::Ready(Err(Lost::Unacknowledged));
                    }
                }
                deadlines.look_at(self.beats.due());
                timer.wake_at(context, deadlines.next());
                return Poll::Pending;
            }
        });
        match next.await {
            // However it ends after that, it is no fault.
            Err(_) if self.talk.has_said_bye() => Ok(None),
            next => next,
        }
    }

    /// Whether this side has said that it wants no more sessions.
    pub(super) fn has_said_bye(&self) -> bool {
        self.talk.has_said_bye()
    }

    /// Says that this side wants no more sessions; the connector then closes the tunnel.
    pub(super) fn bye(&mut self) {
        self.say(Word::Bye);
    }

    /// Goes on to the session that begins: says that it has been seen.
    pub(super) fn begin(mut self: Box<Self>) -> Begun<'a> {
        self.stream.trust();
        self.beats.pause(now());
        self.refused = false;
        self.say(Word::Seen);
        Begun { tunnel: self, held: Vec::new(), is_reset: false }
    }

    /// Closes it in order.
    pub(super) fn close(self: Box<Self>) {
        self.stream.close();
    }

    /// Closes it after it has ended by itself, and tells the connector's state why.
    pub(super) fn lost(self: Box<Self>, why: Lost) {
        self.connector.lost(why, self.beats.age(now()), self.beats.is_proven());
        self.stream.close();
    }

    /// Queues what is said; a write that fails is found by the next flush or read.
    fn say(&mut self, word: Word<'_>) {
        let _ = self.stream.queue(&self.talk.say(word));
    }

    /// Hears what has come, up to the next thing that matters; `data` is given the session's bytes.
    ///
    /// # Errors
    /// [`Lost::Garbled`].
    fn hear(&mut self, data: &mut dyn FnMut(&[u8])) -> Result<Option<Heard>, Lost> {
        if self.input.is_empty() {
            return Ok(None);
        }
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        let heard = hear(&mut self.talk, &mut rest, &self.want, data)?;
        // An idle tunnel keeps no memory, however much arrived at once.
        self.input = rest.to_vec();
        Ok(heard)
    }

    /// The connector may send as much as an idle tunnel is sent.
    fn allow(&mut self) {
        self.stream.take_at_most(self.most_unasked());
    }

    fn most_unasked(&self) -> usize {
        // Small records take more of the wire than what they carry.
        if self.refused { 2 * limits::THROWN } else { limits::STRANGER_BYTES }
    }
}

/// Hears from the front of `bytes`, up to the next thing that matters, and leaves what follows; what matters to nobody
/// here takes no call of its own, since each keeps what is left in memory of its own.
///
/// # Errors
/// [`Lost::Garbled`].
fn hear(
    talk: &mut Talk,
    bytes: &mut &[u8],
    want: &Want,
    data: &mut dyn FnMut(&[u8]),
) -> Result<Option<Heard>, Lost> {
    loop {
        match talk.hear(bytes).map_err(|_| Lost::Garbled)? {
            None => return Ok(None),
            Some(Event::Opened(header)) if is_header(&header) => {
                return Ok(Some(Heard::Opened(header)));
            }
            Some(Event::Opened(_)) => return Err(Lost::Garbled),
            Some(Event::Reset(_)) => return Ok(Some(Heard::Reset)),
            Some(Event::Data(bytes)) => data(bytes),
            Some(Event::Want(users)) => want.ask(users.into()),
            Some(_) => {}
        }
    }
}

impl<'a> Begun<'a> {
    /// Goes on hearing the connector, and saying heartbeats, while the local connection is made; keeps what comes of
    /// the session, [`limits::HELD_BYTES`] and one read at most. Returns when there is no session any more. May be
    /// dropped and called again.
    pub(super) async fn gone(&mut self) -> Gone {
        let Begun { tunnel, held, is_reset } = self;
        let mut timer = Timer::new();
        poll_fn(|context| {
            loop {
                match tunnel.hear(&mut |bytes| held.extend_from_slice(bytes)) {
                    Ok(Some(Heard::Reset)) => *is_reset = true,
                    Ok(Some(_)) => continue,
                    Ok(None) => {}
                    Err(_) => return Poll::Ready(Gone::Broken),
                }
                if *is_reset {
                    return Poll::Ready(Gone::Reset);
                }
                if let Poll::Ready(Err(_)) = tunnel.stream.poll_flush(context) {
                    return Poll::Ready(Gone::Broken);
                }
                if held.len() >= limits::HELD_BYTES {
                    if tunnel.stream.poll_broken(context).is_ready() {
                        return Poll::Ready(Gone::Broken);
                    }
                } else {
                    let Framed { stream, input, .. } = &mut **tunnel;
                    match stream.poll_receive(context, &mut |unit| input.extend_from_slice(unit)) {
                        Poll::Ready(Ok(Received::Bytes(_))) => continue,
                        Poll::Ready(_) => return Poll::Ready(Gone::Broken),
                        Poll::Pending => {}
                    }
                }
                if tunnel.beats.is_due(now()) {
                    tunnel.say(Word::Beat);
                    tunnel.beats.pause(now());
                    continue;
                }
                if timer.poll_at(context, tunnel.beats.due()).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// The session is over before this side has taken it.
    pub(super) fn leave(mut self, gone: Gone) -> Left<'a> {
        let came = !self.held.is_empty();
        let outcome = if came { Outcome::Carried } else { Outcome::Vain };
        let tunnel = match gone {
            Gone::Reset => {
                self.tunnel.say(Word::Reset(""));
                Some(self.tunnel)
            }
            Gone::Broken => None,
        };
        Left { outcome, tunnel, closing: None, _place: None }
    }

    /// Tells the connector why the service cannot be reached.
    pub(super) fn fail(mut self, reason: &str) -> Left<'a> {
        self.tunnel.refused = true;
        self.tunnel.say(Word::Failed(reason));
        let tunnel = Some(self.tunnel);
        Left { outcome: Outcome::Vain, tunnel, closing: None, _place: None }
    }

    /// Carries the session with the local connection to its end. With `last` it is the tunnel's last one.
    pub(super) async fn carry(mut self, mut local: Stream, last: bool) -> Left<'a> {
        // Not only once the relay runs: the session may be gone by now.
        local.break_when_dropped();
        // The relay is given bytes that are out of their frames.
        if let Some(gone) = poll_once(self.gone()).await {
            return self.leave(gone);
        }
        self.tunnel.say(Word::Accepted);
        if last {
            // Before the session ends: no other one is to begin then.
            self.tunnel.bye();
        }
        let Begun { tunnel, held, .. } = self;
        let held = if held.is_empty() { Vec::new() } else { vec![held.into()] };
        let Framed { stream, talk, place, connector, want, mut beats, .. } = *tunnel;
        let beat = Some(beats.interval());
        let seen_wait = limits::SEEN_WAIT;
        let protocol = Protocol::Framed { threshold: None, beat, at_once: true, seen_wait };
        let tunnel = Endpoint { stream, protocol, talk: Some(talk) };
        let local = Endpoint { stream: local, protocol: Protocol::Raw, talk: None };
        let silence = Silence { after_end: limits::AGENT_FIN_WAIT, ever: None };
        let traffic = connector.traffic().clone();
        let began = now();
        let mut relay =
            Relay::new([tunnel, local], [held, Vec::new()], silence, traffic).asking(want.clone());
        let ended = (&mut relay).await;
        let Parting { tunnels: [settling, _], closing, .. } = relay.part();
        let mut closing = Some(Box::pin(closing.close()));
        let settled = async {
            match settling {
                Some(settling) => settling.await,
                None => None,
            }
        };
        let closed = async {
            if let Some(close) = &mut closing {
                close.await;
            }
            closing = None;
            pending().await
        };
        let kept = or(settled, closed).await;
        let outcome = outcome(&ended);
        let closing = closing.map(|closing| closing as Pin<Box<dyn Future<Output = ()>>>);
        let Some(kept) = kept else {
            return Left { outcome, tunnel: None, closing, _place: Some(place) };
        };
        beats.go_on(now(), began);
        want.ask(kept.wanted);
        let (stream, talk, input) = (kept.stream, kept.talk, kept.input);
        let refused = false;
        let tunnel = Framed { stream, talk, input, place, connector, want, beats, refused };
        Left { outcome, tunnel: Some(Box::new(tunnel)), closing, _place: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proxy;

    #[test]
    fn what_matters_to_nobody_is_heard_in_one_go_with_what_is_around_it() {
        let mut talk = Talk::new(Side::Agent);
        let header = proxy::header(None);
        let open = [b"O\0\0", &[header.len() as u8][..], &header].concat();
        let many = b"B\0\0\0p\0\0\0".repeat(10_000);
        let session =
            [&many[..], b"D\0\0\x03one", &many, b"W\0\0\x02\0\x05D\0\0\x03twoE\0\0\0", &many];
        let all = [open, session.concat(), b"X\0\0\0".to_vec(), many.clone()].concat();
        let (mut bytes, want, mut came) = (&all[..], Want::default(), Vec::new());
        let mut next = |talk: &mut Talk, bytes: &mut &[u8]| {
            hear(talk, bytes, &want, &mut |data| came.extend_from_slice(data)).ok().unwrap()
        };
        let Some(Heard::Opened(opened)) = next(&mut talk, &mut bytes) else { panic!("no session") };
        assert_eq!((&opened[..], bytes.len()), (&header[..], all.len() - 4 - header.len()));
        talk.say(Word::Seen);
        assert!(matches!(next(&mut talk, &mut bytes), Some(Heard::Reset)));
        assert_eq!(bytes.len(), many.len(), "what follows is left");
        assert!(next(&mut talk, &mut bytes).is_none() && bytes.is_empty());
        assert_eq!((&came[..], want.take()), (&b"onetwo"[..], 5));
        assert!(talk.has_heard_bye());
    }
}
