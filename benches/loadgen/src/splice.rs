//! The yardstick: about the least that a relay in user space can do. One thread, edge-triggered
//! epoll, and bytes that stay in the kernel. It knows no tunnels; each user's connection is
//! carried to the target.

use std::io;
use std::os::fd::RawFd;

use crate::arguments::{Arguments, die};
use crate::sys::{self, EDGE, ENDED, Epoll, IN, OUT};

/// Bytes that one direction may have in its pipe.
const PIPE: usize = 256 * 1024;

/// Moves of one session before the others have a turn.
const TURN: usize = 16;

const LISTENER: u64 = u64::MAX;
const INPUT: u64 = u64::MAX - 1;

struct Session {
    /// The user's connection, then the target's.
    sockets: [RawFd; 2],
    readable: [bool; 2],
    writable: [bool; 2],
    /// From the user to the target, then back.
    directions: [Direction; 2],
}

struct Direction {
    pipe: [RawFd; 2],
    holds: usize,
    ended: bool,
    passed_on: bool,
}

/// Relays `--listen` to `--target` until killed; a line on standard input breaks all connections.
pub(crate) fn run(arguments: &Arguments) {
    if let Err(error) = serve(arguments) {
        die(format_args!("splice: {error}"));
    }
}

fn serve(arguments: &Arguments) -> io::Result<()> {
    let target = arguments.port("target");
    let listener = sys::listen(&arguments.port("listen"))?;
    let epoll = Epoll::new()?;
    epoll.add(listener, IN, LISTENER)?;
    // Some files cannot be watched; nothing comes from these.
    let _ = epoll.add(sys::INPUT, IN | EDGE, INPUT);
    // By the user's file number.
    let mut sessions: Vec<Option<Session>> = Vec::new();
    let (mut events, mut busy) = (Vec::new(), Vec::new());
    loop {
        epoll.wait(&mut events, if busy.is_empty() { -1 } else { 0 });
        let mut turn: Vec<usize> = std::mem::take(&mut busy);
        let mut newcomers = Vec::new();
        for &(flags, number) in &events {
            if number == LISTENER {
                while let Ok(user) = sys::accept(listener) {
                    let session = Session::new([user, sys::connect(&target)?])?;
                    let place = user as usize;
                    if sessions.len() <= place {
                        sessions.resize_with(place + 1, || None);
                    }
                    for (side, socket) in session.sockets.into_iter().enumerate() {
                        let number = (place as u64) << 1 | side as u64;
                        epoll.add(socket, IN | OUT | ENDED | EDGE, number)?;
                    }
                    sessions[place] = Some(session);
                    newcomers.push(place);
                }
                continue;
            }
            if number == INPUT {
                if sys::read(sys::INPUT, &mut [0; 64]).is_ok_and(|count| count > 0) {
                    for place in &mut sessions {
                        if let Some(session) = place.take() {
                            session.close();
                        }
                    }
                }
                continue;
            }
            let (place, side) = ((number >> 1) as usize, (number & 1) as usize);
            // An event of this round is an earlier session's.
            if newcomers.contains(&place) {
                continue;
            }
            if let Some(session) = &mut sessions[place] {
                session.readable[side] |= flags & !OUT != 0;
                session.writable[side] |= flags & !(IN | ENDED) != 0;
                if !turn.contains(&place) {
                    turn.push(place);
                }
            }
        }
        for place in turn {
            let Some(session) = &mut sessions[place] else { continue };
            match session.pump() {
                Ok(true) => busy.push(place),
                Ok(false) if session.directions.iter().any(|way| !way.passed_on) => {}
                Ok(false) | Err(_) => {
                    session.close();
                    sessions[place] = None;
                }
            }
        }
    }
}

impl Session {
    fn new(sockets: [RawFd; 2]) -> io::Result<Self> {
        let way = || -> io::Result<Direction> {
            Ok(Direction { pipe: sys::pipe(PIPE)?, holds: 0, ended: false, passed_on: false })
        };
        let directions = [way()?, way()?];
        Ok(Session { sockets, readable: [false; 2], writable: [false; 2], directions })
    }

    /// Moves what can be moved; `true` when there may be more.
    fn pump(&mut self) -> io::Result<bool> {
        for _ in 0..TURN {
            let mut moved = false;
            for from in 0..2 {
                let to = 1 - from;
                let way = &mut self.directions[from];
                if way.holds == 0 && !way.ended && self.readable[from] {
                    let read = sys::splice(self.sockets[from], way.pipe[1], PIPE);
                    way.holds = unless_blocked(read, &mut self.readable[from])?.unwrap_or(0);
                    // Nothing read while still readable is the end.
                    way.ended = way.holds == 0 && self.readable[from];
                    moved |= way.holds > 0;
                }
                if way.holds > 0 && self.writable[to] {
                    let sent = sys::splice(way.pipe[0], self.sockets[to], way.holds);
                    let sent = unless_blocked(sent, &mut self.writable[to])?.unwrap_or(0);
                    way.holds -= sent;
                    moved |= sent > 0;
                }
                if way.ended && way.holds == 0 && !way.passed_on {
                    way.passed_on = true;
                    sys::finish(self.sockets[to]);
                }
            }
            if !moved {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn close(&self) {
        let pipes = self.directions.iter().flat_map(|way| way.pipe);
        self.sockets.into_iter().chain(pipes).for_each(sys::close);
    }
}

/// `None` when it would block, which ends the readiness.
fn unless_blocked(result: io::Result<usize>, ready: &mut bool) -> io::Result<Option<usize>> {
    match result {
        Err(error) if sys::would_block(&error) => {
            *ready = false;
            Ok(None)
        }
        result => result.map(Some),
    }
}
