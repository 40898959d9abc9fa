//! A user of a public pipe.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::limits;
use crate::net::stream::Stream;
use crate::os::FileGuard;
use crate::pipes::per_address::OfAddress;
use crate::pipes::wanted::Asked;

/// A user that is ready for a tunnel.
pub struct User {
    /// Its connection.
    pub stream: Stream,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Whether it has sent anything.
    pub has_spoken: bool,
    /// Whether it is known to have ended its direction.
    pub has_ended: bool,
    /// What was wrong with what it sent: no TLS, or too much to be held.
    pub fault: Option<io::Error>,
    /// Its share of the open files.
    pub file: FileGuard,
    /// One of its address's users.
    pub of_address: OfAddress,
    /// When it was ready for a tunnel.
    pub since: Instant,
    /// How long it waits for one.
    pub deadline: Instant,
    /// That a tunnel is asked for it, while it waits.
    pub asked: Option<Asked>,
    /// Whether one was.
    pub was_asked: bool,
    /// When its session was to begin on the first of its tunnels that were dead.
    pub tried_since: Option<Instant>,
    /// Its place among those that wait, from when it has one.
    pub place: u64,
}

/// What stays of a user on its mapping's thread while a worker has its connection.
pub struct Away {
    /// One of its address's users, until its session is over.
    of_address: OfAddress,
    peer: SocketAddr,
    has_spoken: bool,
    has_ended: bool,
    since: Instant,
    deadline: Instant,
    was_asked: bool,
    tried_since: Option<Instant>,
    place: u64,
}

impl Away {
    /// The user, with its connection as it was. Its tunnel was dead, on which its session was to begin at `opened_at`.
    pub fn back(self, mut stream: Stream, file: FileGuard, opened_at: Instant) -> User {
        if self.has_spoken {
            stream.break_when_dropped();
        }
        let Away {
            of_address, peer, has_spoken, has_ended, since, deadline, was_asked, place, ..
        } = self;
        User {
            stream,
            peer,
            has_spoken,
            has_ended,
            fault: None,
            file,
            of_address,
            since,
            deadline,
            asked: None,
            was_asked,
            tried_since: self.tried_since.or(Some(opened_at)),
            place,
        }
    }
}

/// What a user that has no tunnel yet does.
pub enum Heard {
    /// It has sent its first bytes.
    Spoke,
    /// It left, or broke.
    Left,
}

impl User {
    /// What a worker needs of it, and what stays here.
    pub fn part(self) -> (Stream, FileGuard, Away) {
        let User { stream, peer, has_spoken, has_ended, file, of_address, .. } = self;
        let User { since, deadline, was_asked, tried_since, place, .. } = self;
        let away = Away {
            of_address,
            peer,
            has_spoken,
            has_ended,
            since,
            deadline,
            was_asked,
            tried_since,
            place,
        };
        (stream, file, away)
    }

    /// Whether it may be given a tunnel that may be dead, after others that were: it is told within
    /// [`limits::DEAD_WAIT`].
    pub fn may_try(&self, now: Instant) -> bool {
        let until = self.tried_since.map(|since| since + limits::DEAD_WAIT);
        until.is_none_or(|until| now + limits::SEEN_SOON <= until)
    }

    /// What it does next.
    pub fn poll_heard(&mut self, context: &Context<'_>) -> Poll<Heard> {
        if self.has_spoken {
            return self.stream.poll_gone(context).map(|()| Heard::Left);
        }
        self.stream.poll_spoken(context).map(|spoken| match spoken {
            Ok(true) => {
                // However it ends without a tunnel: an answer never given is no empty answer.
                self.stream.break_when_dropped();
                Heard::Spoke
            }
            // A user that ends without having sent anything has gone: a scanner, a health check.
            Ok(false) => Heard::Left,
            Err(error) => {
                // The kernel's own errors have nothing inside.
                self.fault = error.get_ref().is_some().then_some(error);
                Heard::Left
            }
        })
    }

    /// Closes it without a tunnel: with a reset if it has sent anything, else in order, with the
    /// alert where its TLS was wrong.
    pub fn turn_away(self) {
        if !self.has_spoken {
            self.stream.close();
        }
    }
}
