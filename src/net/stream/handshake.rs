//! Handshakes, one step a turn.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_rustls::pki_types::ServerName;
use futures_rustls::rustls::ClientConfig;
use smol::future::or;

use super::Stream;
use crate::limits;
use crate::net::share::Share;
use crate::runtime::{Io, looks, now, yield_turn};
use crate::tls::Served;
use crate::tls::handshake::Handshake;
use crate::tls::sni::ClientHello;

thread_local! {
    /// The look at the kernel after which this thread last took a step of a handshake.
    static STEPPED: Cell<u32> = const { Cell::new(0) };
}

/// As if the last step of a handshake on this thread was after so many looks.
#[cfg(test)]
pub fn set_stepped(look: u32) {
    STEPPED.set(look);
}

impl Stream {
    /// Shakes hands as the server, with a stranger, who is served as `served` says. The caller sets the deadline. `answered` is called
    /// when what has come is dealt with, and it is the stranger's turn: with `true` if there was
    /// something to answer, and `false` if that was not enough for it. What is hard in the handshake
    /// after that waits for `turn` first.
    ///
    /// # Errors
    /// What rustls or the socket says; an alert for the peer has been sent then.
    pub async fn accept<T: Future<Output = ()>>(
        socket: TcpStream,
        served: Served,
        answered: impl FnMut(bool),
        turn: impl FnMut() -> T,
    ) -> io::Result<Self> {
        let handshake = Handshake::server(served.everybody).map_err(io::Error::other)?;
        let mut stream = Stream::tls(Io::new(socket)?, handshake, limits::HANDSHAKE_BYTES)?;
        if let Some(tls) = &mut stream.state.tls {
            tls.set_hello(ClientHello::of_maybe(served.named));
            tls.share = Some(Share::of_greetings());
        }
        stream.shake_hands(answered, turn).await?;
        stream.allow();
        Ok(stream)
    }

    /// Goes on with the handshake, one step a turn, and one of all handshakes of the thread: with a
    /// hard certificate a step takes as long as a MiB of a session, or ten. So before a step the
    /// kernel is looked at, and all that is ready has its turn, `queued` being the look after which
    /// this one has queued up: it goes on behind those that became ready in the last step. Gives
    /// whether the handshake is done; it is not where a hard step is next and it `has_turn` no more.
    pub(super) fn poll_handshake(
        &mut self,
        context: &Context<'_>,
        queued: &mut Option<u32>,
        has_turn: bool,
    ) -> Poll<io::Result<bool>> {
        loop {
            ready!(self.poll_send_queued(context))?;
            let Some(tls) = &self.state.tls else { return Poll::Ready(Ok(true)) };
            if !tls.is_handshaking() {
                return Poll::Ready(Ok(true));
            }
            if tls.ended {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            // One that has nothing to open takes no step.
            let has_more = self.socket.maybe_readable() || !tls.unopened.is_empty();
            // What is hard is done with the agreement on keys; what is left takes little.
            let is_hard = tls.is_hard();
            if has_more && is_hard && !has_turn {
                return Poll::Ready(Ok(false));
            }
            // By how long ago it was, since the number of looks begins anew some day.
            let age = |look: u32| looks().wrapping_sub(look);
            let is_behind =
                queued.is_some_and(|look| age(look) != 0 && age(look) < age(STEPPED.get()));
            if has_more && is_hard && !is_behind {
                *queued = Some(looks());
                yield_turn(context);
                return Poll::Pending;
            }
            *queued = None;
            let step = ready!(self.poll_open(context, true, &mut |_| {}));
            self.turn.end();
            if let Some(tls) = &mut self.state.tls {
                tls.replied |= step.is_ok() && tls.wants_write();
                if !tls.is_handshaking() {
                    tls.unused = 0;
                }
            }
            if is_hard {
                STEPPED.set(looks());
            }
            if step.is_err() {
                // The alert: what the socket does not take at once is lost.
                let _ = self.poll_send_queued(context);
            }
            step?;
        }
    }

    /// Shakes hands as the client, with the server of this name, a stranger. The caller sets the
    /// deadline.
    ///
    /// # Errors
    /// What rustls or the socket says; an alert for the peer has been sent then.
    pub async fn connect(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let handshake = Handshake::client(config, name).map_err(io::Error::other)?;
        let mut stream = Stream::tls(Io::new(socket)?, handshake, limits::STRANGER_BYTES)?;
        stream.shake_hands(|_| {}, || async {}).await?;
        Ok(stream)
    }

    async fn shake_hands<T: Future<Output = ()>>(
        &mut self,
        mut answered: impl FnMut(bool),
        mut turn: impl FnMut() -> T,
    ) -> io::Result<()> {
        let (mut queued, mut has_turn) = (None, true);
        let mut step = |stream: &mut Self, context: &Context<'_>, turn: &mut bool| {
            let polled = stream.poll_handshake(context, &mut queued, *turn);
            if polled.is_pending() && queued.is_none() {
                *turn = false;
                let tls = stream.state.tls.as_mut();
                answered(tls.is_some_and(|tls| std::mem::take(&mut tls.replied)));
            }
            polled
        };
        while !poll_fn(|context| step(self, context, &mut has_turn)).await? {
            // An end behind a message, such as an alert, is met when that has been read.
            let gone = async {
                poll_fn(|context| self.poll_gone(context)).await;
                false
            };
            let granted = async {
                turn().await;
                true
            };
            has_turn = or(granted, gone).await;
            if !has_turn {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        // The handshake's last bytes may never have arrived.
        self.state.waiting_since = Some(now());
        Ok(())
    }
}
