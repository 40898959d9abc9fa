//! A version 3 tunnel after its session, until it waits again (protocol page, section 8, step 5). It has its place and
//! its file meanwhile, and counts as in use.

use std::net::SocketAddr;
use std::time::Instant;

use smol::Task;
use smol::channel::Sender;

use crate::limits;
use crate::net::stream::Detached;
use crate::os::FileGuard;
use crate::pipes::record::Record;
use crate::pipes::slot::Slot;
use crate::pipes::tunnel::Tunnel;
use crate::runtime::{Load, Workers, now, until};
use crate::session::{self, Kept};
use crate::text::event::Event;
use crate::wire::frames::Talk;
use crate::wire::heartbeat::Rhythm;

/// A tunnel whose last session is brought to its end.
pub struct Settling {
    /// What the session's thread gives back.
    pub back: Back,
    /// Its place.
    pub slot: Slot,
    /// Whose it is, and when that one was heard before the session.
    pub agent: (SocketAddr, Rhythm),
}

/// What the thread of its session gives back of a tunnel.
pub enum Back {
    /// The tunnel, as most are: another session may begin on it at once. `None`: it was closed.
    Now(Option<Box<Settled>>),
    /// The same when it has settled; or the tunnel before that, where a worker is to go on with it.
    Later(Task<Result<Option<Settled>, Box<Unsettled>>>),
}

/// A tunnel that is to settle.
pub struct Unsettled {
    /// What it waits for.
    pub settling: session::Settling,
    /// Its share of the open files.
    pub file: FileGuard,
    /// Says, while it is held, that the mapping's relays are not over.
    pub alive: Option<Sender<()>>,
}

impl Unsettled {
    /// Waits until it has settled, on the control thread no longer than a short session is there.
    ///
    /// # Errors
    /// It has not by then.
    pub async fn settled(mut self, load: Load) -> Result<Option<Settled>, Box<Self>> {
        if self.settling.enter().is_err() {
            return Ok(None);
        }
        let kept = match load.is_home() {
            false => (&mut self.settling).await,
            true => match until(now() + limits::SHORT_TIME, &mut self.settling).await {
                Some(kept) => kept,
                None => {
                    self.settling.leave();
                    return Err(Box::new(self));
                }
            },
        };
        let Unsettled { file, alive, .. } = self;
        let settled = kept.map(|kept| Settled::new(kept, file, &load));
        drop((alive, load));
        Ok(settled)
    }
}

/// A tunnel on its way back to its mapping's thread.
pub struct Settled {
    stream: Detached,
    talk: Box<Talk>,
    /// What has come and was not heard yet.
    input: Vec<u8>,
    heard_at: Instant,
    file: FileGuard,
}

impl Settled {
    /// Takes the tunnel off this thread, unless it is its mapping's, too.
    pub fn new(kept: Kept, file: FileGuard, load: &Load) -> Self {
        let Kept { stream, talk, input, heard_at, .. } = kept;
        Settled { stream: stream.give_back(load), talk, input, heard_at, file }
    }
}

impl Settling {
    /// The tunnel, once another session may begin on it; `None`, and it is recorded, if it is closed.
    pub async fn settled(
        self,
        side: usize,
        record: &Record,
        workers: &Workers,
    ) -> Option<Box<Tunnel>> {
        let Settling { back, mut slot, agent } = self;
        let settled = match back {
            Back::Now(settled) => settled.map(|settled| *settled),
            Back::Later(mut task) => loop {
                match task.await {
                    Ok(settled) => break settled,
                    Err(unsettled) => task = workers.spawn(|load| unsettled.settled(load)),
                }
            },
        };
        let Some(settled) = settled else {
            let (peer, _) = agent;
            record.connection(Event::ConnectionClosed, side, peer, format_args!(
                "tunnel of {peer} closed after its session: its agent left, did not answer the break in time, or sent \
                 what it may not"
            ));
            return None;
        };
        let Settled { stream, talk, input, heard_at, file } = settled;
        slot.set_in_use(false);
        let stream = stream.attach().ok()?;
        let mut tunnel = Box::new(Tunnel::resumed(stream, talk, agent, slot, file, heard_at));
        if !input.is_empty() {
            tunnel.hear(&input).ok()?;
        }
        Some(tunnel)
    }
}
