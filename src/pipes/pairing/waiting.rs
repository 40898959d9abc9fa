//! What those who wait are doing, told to an operator.

use std::time::Instant;

use super::Pairing;
use crate::limits;
use crate::pipes::tunnel::Tunnel;
use crate::pipes::user::User;
use crate::runtime::look;
use crate::text::dump::{Dump, For};
use crate::wire::greeting::Version;

impl Pairing {
    /// Adds a line of each that waits, a few at a time.
    pub async fn tell(&self, ports: [u16; 2], dump: &mut Dump) {
        for (side, port) in ports.into_iter().enumerate() {
            let waiting = || self.tunnels[side].borrow();
            let mut next = waiting().first();
            while let Some(number) = next {
                if let Some(seat) = waiting().get(number) {
                    if let Some(tunnel) = seat.occupant.borrow().as_deref() {
                        self.tell_tunnel(tunnel, port, dump);
                    }
                }
                next = go_on(number, dump, &|number| waiting().after(number)).await;
            }
        }
        let waiting = || self.users.borrow();
        let mut next = waiting().first();
        while let Some(number) = next {
            if let Some(seat) = waiting().get(number) {
                if let Some(user) = seat.occupant.borrow().as_deref() {
                    tell_user(user, ports[1], dump);
                }
            }
            next = go_on(number, dump, &|number| waiting().after(number)).await;
        }
    }

    fn tell_tunnel(&self, tunnel: &Tunnel, port: u16, dump: &mut Dump) {
        let version = match tunnel.version {
            Version::One => 1,
            Version::Two => 2,
            Version::Three => 3,
        };
        let [queued, unread, in_kernel] = tunnel.stream.held();
        let mut what = String::new();
        for (is_so, also) in [
            (tunnel.has_ended(), ", has ended"),
            (tunnel.is_probed(), ", its machine is asked whether it is there"),
            (tunnel.slot.is_unanswered(), ", owes an answer to a user that has left"),
            (tunnel.slot.is_outdated(), ", has an earlier passcode"),
            (tunnel.is_bid_farewell(), ", is to be closed"),
            (!self.may_be_opened(tunnel), ", gets nobody before it is heard again"),
            (self.quiet_at(tunnel).is_some(), ", gets nobody before it has been quiet for longer"),
        ] {
            if is_so {
                what.push_str(also);
            }
        }
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
    dump.line(format_args!(
        "user port {port} {}: waits for a tunnel, for {} more at most, has sent {}{}{}, held {queued} bytes for it and \
         {unread} from it, {in_kernel} not read",
        user.peer,
        For(user.deadline.saturating_duration_since(Instant::now())),
        if user.has_spoken { "something" } else { "nothing" },
        if user.has_ended { ", has ended" } else { "" },
        if user.asked.is_some() { ", an agent is asked for a tunnel" } else { "" },
    ));
}

/// The number after this one, when others have had their turn if it is theirs.
async fn go_on(number: u64, dump: &Dump, after: &dyn Fn(u64) -> Option<u64>) -> Option<u64> {
    if dump.lines() % limits::DUMP_TURN == 0 {
        look().await;
    }
    after(number)
}
