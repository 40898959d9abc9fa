//! What is known of one socket: what it is ready for, and who waits for that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::Waker;

use rustix::event::epoll::{self, EventData, EventFlags};

/// Readiness of a source, as the edges tell it and `EAGAIN` takes it back.
pub(super) const READ: u8 = 1;
pub(super) const WRITE: u8 = 2;
/// The peer has ended its direction: reading never waits again.
pub(super) const ENDED: u8 = 4;
/// Both directions are gone (reset, or closed after an error).
pub(super) const GONE: u8 = 8;
/// The connection has broken (reset, or timed out): what has come in can still be read.
pub(super) const BROKEN: u8 = 32;
/// Urgent data has come: a read stops short of it, and says nothing about what follows.
pub(super) const URGENT: u8 = 16;
/// The kernel has told that something has come, and not only the end, and nobody has looked for it since.
pub(super) const COME: u8 = 64;

pub(super) struct Source {
    pub(super) ready: u8,
    /// What the kernel watches; nothing before it has been waited for.
    pub(super) watched: EventFlags,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Source {
    /// One that nobody waits for. It is assumed ready: the first operation is tried, not waited
    /// for.
    pub(super) fn new() -> Self {
        Source { ready: READ | WRITE, watched: EventFlags::empty(), reader: None, writer: None }
    }

    /// Whether an operation may be tried now, which is about to be.
    pub(super) fn tries(&mut self, direction: u8) -> bool {
        if direction == READ {
            self.ready &= !COME;
        }
        self.ready & direction != 0
    }

    pub(super) fn signal(&mut self, flags: EventFlags, woken: &mut Vec<Waker>) {
        let mut ready = 0;
        if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            ready |= READ | WRITE | ENDED | GONE;
        }
        if flags.contains(EventFlags::ERR) {
            ready |= BROKEN;
        }
        if flags.contains(EventFlags::RDHUP) {
            ready |= READ | ENDED;
        }
        if flags.contains(EventFlags::IN) {
            ready |= READ;
            if ready & ENDED == 0 {
                ready |= COME;
            }
        }
        if flags.contains(EventFlags::PRI) {
            ready |= READ | URGENT;
        }
        if flags.contains(EventFlags::OUT) {
            ready |= WRITE;
        }
        self.ready |= ready;
        if ready & READ != 0 {
            woken.extend(self.reader.take());
        }
        if ready & WRITE != 0 {
            woken.extend(self.writer.take());
        }
    }

    /// Has the kernel watch a socket for more than it does so far.
    pub(super) fn watch(
        &mut self,
        epoll: &OwnedFd,
        key: u32,
        socket: impl AsFd,
        direction: u8,
    ) -> io::Result<()> {
        let input = EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
        let wanted = if direction == WRITE { input | EventFlags::OUT } else { input };
        if self.watched.contains(wanted) {
            return Ok(());
        }
        let data = EventData::new_u64(key.into());
        // The kernel tells at once what is ready already.
        if self.watched.is_empty() {
            epoll::add(epoll, socket, data, wanted)?;
        } else {
            epoll::modify(epoll, socket, data, wanted)?;
        }
        self.watched = wanted;
        Ok(())
    }

    /// Copies of the wakers of those who wait.
    pub(super) fn wakers(&self) -> impl Iterator<Item = Waker> + use<> {
        self.reader.clone().into_iter().chain(self.writer.clone())
    }

    pub(super) fn waiting(&mut self, direction: u8) -> &mut Option<Waker> {
        if direction == WRITE { &mut self.writer } else { &mut self.reader }
    }
}
