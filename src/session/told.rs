//! What a thread's sessions say of themselves when they are asked. Each knows its own state, and nobody else does: no
//! memory is held for it, and nothing is done, while nobody asks.

use std::cell::{Cell, RefCell};
use std::fmt;

use super::leg::{Input, Leg, Output};
use super::protocol::Protocol;
use crate::limits;
use crate::net::stream::Stream;
use crate::net::tcp_info;
use crate::runtime;
use crate::text::dump::{Dump, For, said};

/// Looks at the kernel after which nobody has answered that will.
const QUIET: u32 = 4;

thread_local! {
    /// The number of the question; 0 while there is none.
    static ASKED: Cell<u8> = const { Cell::new(0) };
    static LAST: Cell<u8> = const { Cell::new(0) };
    static DUMP: RefCell<Dump> = RefCell::default();
}

/// Ends the question, also where nobody waits for the answer any more.
struct Question;

impl Drop for Question {
    fn drop(&mut self) {
        ASKED.set(0);
        DUMP.take();
    }
}

/// Has each session of this thread say how it is, in its own turn; one question at a time.
pub async fn tell_all() -> Dump {
    let question = Question;
    let number = LAST.get() % u8::MAX + 1;
    LAST.set(number);
    DUMP.set(Dump::new(limits::DUMP_BYTES));
    ASKED.set(number);
    runtime::wake_all().await;
    // Those on executors within this thread's may have to wait for their turn.
    let (mut lines, mut quiet) = (0, 0);
    while quiet < QUIET {
        runtime::look().await;
        let now = DUMP.with_borrow(Dump::lines);
        quiet = if now == lines { quiet + 1 } else { 0 };
        lines = now;
    }
    let dump = DUMP.take();
    drop(question);
    dump
}

/// Whether there is a question that who has answered the one in `told` last has not answered yet.
#[inline]
pub(super) fn is_asked(told: &mut u8) -> bool {
    let asked = ASKED.get();
    asked != 0 && std::mem::replace(told, asked) != asked
}

/// An answer.
#[cold]
pub(super) fn tell(line: fmt::Arguments<'_>) {
    DUMP.with_borrow_mut(|dump| dump.line(line));
}

/// A connection: `port 30000 192.0.2.7:4711`.
pub(super) struct Of<'a>(pub(super) &'a Stream);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = self.0.socket();
        let port = socket.local_addr().map_or(0, |local| local.port());
        match tcp_info::peer(socket) {
            Some(peer) => write!(f, "port {port} {peer}"),
            None => write!(f, "port {port} a peer that is gone"),
        }
    }
}

/// One leg of a session: `version 3, heard 0.2 s ago`, then what is unusual, and what is held.
pub(super) struct LegState<'a>(pub(super) &'a Leg);

impl fmt::Display for LegState<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leg = self.0;
        f.write_str(match leg.decoder.protocol() {
            Protocol::Raw if leg.decoder.answer().is_none() => "user",
            Protocol::Version1 { .. } => "version 1",
            Protocol::Version2 | Protocol::Raw => "version 2",
            Protocol::Framed { .. } => "version 3",
        })?;
        let [queued, unread, in_kernel] = leg.stream.held();
        let what = said(&[
            (leg.is_unseen(), "has not seen the session"),
            (leg.owes_answer(), "has not reached its service"),
            (leg.input == Input::Ended, "has ended"),
            (leg.input == Input::Broken, "has broken"),
            (leg.output == Output::Finished, "was told the end"),
            (leg.output == Output::Broken, "takes nothing more"),
            (leg.paused, "not read until the other side takes more"),
            (queued > 0, "is to take more"),
        ]);
        let tls = if leg.stream.is_tls() { ", TLS" } else { "" };
        let heard = For::since(leg.heard_at);
        write!(
            f,
            "{tls}, heard {heard} ago{what}, held {queued} bytes for it and {unread} from it, {in_kernel} not read"
        )
    }
}
