//! A version 3 tunnel after its session, until it waits again (protocol page, section 8, step 5). It has its place and
//! its file meanwhile, and counts as in use.

use std::net::SocketAddr;
use std::time::Instant;

use smol::Task;

use crate::net::stream::Detached;
use crate::os::FileGuard;
use crate::pipes::record::Record;
use crate::pipes::slot::Slot;
use crate::pipes::tunnel::Tunnel;
use crate::runtime::Load;
use crate::session::Kept;
use crate::text::event::Event;
use crate::wire::frames::Talk;
use crate::wire::heartbeat::Rhythm;

/// A tunnel whose last session a worker brings to its end.
pub struct Settling {
    /// What the worker gives back.
    pub back: Back,
    /// Its place.
    pub slot: Slot,
    /// Whose it is, and when that one was heard before the session.
    pub agent: (SocketAddr, Rhythm),
}

/// What a worker gives back of a tunnel.
pub enum Back {
    /// The tunnel, as most are: another session may begin on it at once. `None`: it was closed.
    Now(Option<Box<Settled>>),
    /// The tunnel when it has settled, if it can go on then.
    Later(Task<Option<Settled>>),
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
    /// Takes the tunnel off the worker's thread, unless it is its mapping's, too.
    pub fn new(kept: Kept, file: FileGuard, load: &Load) -> Self {
        let Kept { stream, talk, input, heard_at, .. } = kept;
        Settled { stream: stream.give_back(load), talk, input, heard_at, file }
    }
}

impl Settling {
    /// The tunnel, once another session may begin on it; `None`, and it is recorded, if it is closed.
    pub async fn settled(self, side: usize, record: &Record) -> Option<Box<Tunnel>> {
        let Settling { back, mut slot, agent } = self;
        let settled = match back {
            Back::Now(settled) => settled.map(|settled| *settled),
            Back::Later(task) => task.await,
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
