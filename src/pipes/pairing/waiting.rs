//! What those who wait are doing, told to an operator.

use std::time::Instant;

use super::Pairing;
use crate::pipes::tunnel::Tunnel;
use crate::pipes::user::User;
use crate::text::dump::{Dump, For, said};
use crate::wire::greeting::Version;

impl Pairing {
    /// Adds a line of the tunnel of `side` that waits next behind this one; gives its number.
    pub fn tell_tunnel(
        &self,
        side: usize,
        port: u16,
        behind: Option<u64>,
        dump: &mut Dump,
    ) -> Option<u64> {
        let waiting = self.tunnels[side].borrow();
        let number = waiting.behind(behind)?;
        if let Some(tunnel) = waiting.get(number)?.occupant.borrow().as_deref() {
            self.tell(tunnel, port, dump);
        }
        Some(number)
    }

    /// The same of a user.
    pub fn tell_user(&self, port: u16, behind: Option<u64>, dump: &mut Dump) -> Option<u64> {
        let waiting = self.users.borrow();
        let number = waiting.behind(behind)?;
        if let Some(user) = waiting.get(number)?.occupant.borrow().as_deref() {
            tell_user(user, port, dump);
        }
        Some(number)
    }

    fn tell(&self, tunnel: &Tunnel, port: u16, dump: &mut Dump) {
        let version = match tunnel.version {
            Version::One => 1,
            Version::Two => 2,
            Version::Three => 3,
        };
        let [queued, unread, in_kernel] = tunnel.stream.held();
        let what = said(&[
            (tunnel.has_ended(), "has ended"),
            (tunnel.is_probed(), "its machine is asked whether it is there"),
            (tunnel.slot.is_unanswered(), "owes an answer to a user that has left"),
            (tunnel.slot.is_outdated(), "has an earlier passcode"),
            (tunnel.is_bid_farewell(), "is to be closed"),
            (!self.may_be_opened(tunnel), "gets nobody before it is heard again"),
            (self.quiet_at(tunnel).is_some(), "gets nobody before it has been quiet for longer"),
        ]);
        dump.line(format_args!(
            "tunnel port {port} {}: version {version}, waits for {} for {}, heard {} ago{what}, held {queued} bytes \
             for it and {} from it, {in_kernel} not read",
            tunnel.peer,
            if self.public { "a user" } else { "the other side" },
            For::since(tunnel.quiet_since()),
            For::since(tunnel.rhythm.last_heard()),
            unread + tunnel.held.iter().map(|unit| unit.len()).sum::<usize>(),
        ));
    }
}

fn tell_user(user: &User, port: u16, dump: &mut Dump) {
    let [queued, unread, in_kernel] = user.stream.held();
    let what = said(&[
        (!user.has_spoken, "has sent nothing"),
        (user.has_spoken, "has sent something"),
        (user.has_ended, "has ended"),
        (user.asked.is_some(), "an agent is asked for a tunnel"),
    ]);
    dump.line(format_args!(
        "user port {port} {}: waits for a tunnel, for {} more at most{what}, held {queued} bytes for it and {unread} \
         from it, {in_kernel} not read",
        user.peer,
        For(user.deadline.saturating_duration_since(Instant::now())),
    ));
}
