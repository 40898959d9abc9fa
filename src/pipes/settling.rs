//! A version 3 tunnel after its session, until it waits again (protocol page, section 8, step 5). It has its place and
//! its file meanwhile, and counts as in use.

use std::net::SocketAddr;
use std::time::Instant;

use smol::Task;

use crate::net::stream::Detached;
use crate::os::FileGuard;
use crate::pipes::slot::Slot;
use crate::pipes::tunnel::Tunnel;
use crate::session::Kept;
use crate::wire::frames::Talk;
use crate::wire::heartbeat::Rhythm;

/// A tunnel whose last session a worker brings to its end.
pub struct Settling {
    /// What the worker gives back, if the tunnel can go on.
    pub task: Task<Option<Settled>>,
    /// Its place.
    pub slot: Slot,
    /// Whose it is, and when that one was heard before the session.
    pub agent: (SocketAddr, Rhythm),
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
    /// Takes the tunnel off the worker's thread.
    pub fn new(kept: Kept, file: FileGuard) -> Self {
        let Kept { stream, talk, input, heard_at, .. } = kept;
        Settled { stream: stream.detach(), talk, input, heard_at, file }
    }
}

impl Settling {
    /// The tunnel, once another session may begin on it; `None` if it is closed.
    pub async fn settled(self) -> Option<Box<Tunnel>> {
        let Settling { task, mut slot, agent } = self;
        let Settled { stream, talk, input, heard_at, file } = task.await?;
        slot.set_in_use(false);
        let stream = stream.attach().ok()?;
        let mut tunnel = Box::new(Tunnel::resumed(stream, talk, agent, slot, file, heard_at));
        if !input.is_empty() {
            tunnel.hear(&input).ok()?;
        }
        Some(tunnel)
    }
}
