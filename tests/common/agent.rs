//! An agent of version 1, one step at a time (protocol page, section 4).

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use super::{Got, Link, ms};

/// The heartbeat, in both directions.
pub const BEAT: &[u8] = b"BEAT";

/// One connection to an agents' port.
pub struct Agent {
    /// The connection.
    pub link: Link,
}

impl Agent {
    /// An agent on this connection, which has sent nothing yet.
    pub fn over(link: Link) -> Self {
        Agent { link }
    }

    /// Sends the passcode and expects `AUTHORIZED`: the connection is a tunnel now.
    #[track_caller]
    pub fn prove(mut self, passcode: &str) -> Self {
        self.link.send(passcode.as_bytes());
        self.expect_authorized();
        self
    }

    /// Expects the ten bytes of acceptance, in TLS as a record of their own.
    #[track_caller]
    pub fn expect_authorized(&mut self) {
        self.link.expect_record(b"AUTHORIZED");
    }

    /// Sends a heartbeat.
    #[track_caller]
    pub fn beat(&mut self) {
        self.link.send(BEAT);
    }

    /// Sends a heartbeat and expects the answer, in TLS as a record of its own.
    #[track_caller]
    pub fn beat_and_answer(&mut self) {
        self.beat();
        self.link.expect_record(BEAT);
    }

    /// Beats for `length`, every 100 ms at most, and expects each answer; `since` is when its threshold
    /// began. False where it was closed and this machine, being busy, had held a beat up for `most`.
    #[track_caller]
    pub fn beats_for(&mut self, length: Duration, since: Instant, most: Duration) -> bool {
        let (start, mut last) = (Instant::now(), since);
        while start.elapsed() < length {
            let got = self.link.try_send(BEAT).map(|()| self.link.record());
            if !matches!(&got, Ok(Got::Bytes(bytes)) if bytes == BEAT) {
                let held_up = last.elapsed();
                assert!(held_up >= most, "{got:?} to a heartbeat {held_up:?} after the last");
                return false;
            }
            last = Instant::now();
            std::thread::sleep(ms(100));
        }
        true
    }

    /// Goes on beating, every 100 ms, until these bytes of a user have come.
    #[track_caller]
    pub fn beat_until(&mut self, bytes: &[u8]) {
        super::until("the user's bytes have come", || {
            self.beat();
            let next = Instant::now() + ms(100);
            loop {
                match self.link.record_by(next) {
                    // In plain TCP an answer and data may come as one.
                    Got::Bytes(got) if got.ends_with(bytes) => return true,
                    Got::Bytes(got) => assert!(got.chunks(4).all(|four| four == BEAT), "{got:?}"),
                    Got::Late => return false,
                    other => panic!("{other:?} instead of a user's bytes"),
                }
            }
        });
    }

    /// Sends the passcode; true when it was accepted, false when the connection was closed
    /// without a byte.
    #[track_caller]
    pub fn is_accepted(&mut self, passcode: &str) -> bool {
        if self.link.try_send(passcode.as_bytes()).is_err() {
            return false;
        }
        match self.link.record() {
            Got::Bytes(bytes) if bytes == b"AUTHORIZED" => true,
            Got::Bytes(bytes) => {
                panic!("{:?} in answer to a passcode", String::from_utf8_lossy(&bytes))
            }
            Got::Late => panic!("neither accepted nor closed"),
            _ => false,
        }
    }

    /// Reads the PROXY header that tells a version 2 agent of its user, and not a byte more.
    #[track_caller]
    pub fn read_header(&mut self) {
        let head = self.exactly(16);
        self.exactly(usize::from(u16::from_be_bytes([head[14], head[15]])));
    }
}

impl Deref for Agent {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}
