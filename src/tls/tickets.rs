//! What the agent keeps of its TLS sessions, to resume them when its tunnels return (protocol page, section 8, step 1).

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_rustls::pki_types::ServerName;
use futures_rustls::rustls::NamedGroup;
use futures_rustls::rustls::client::{
    ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};

use crate::limits;

/// Tickets of TLS 1.3, [`limits::TICKETS`] at most, in memory alone. rustls' own store has 8 for each name, where
/// [`limits::DIALING`] tunnels to one connector are dialled at a time and each takes one.
#[derive(Default)]
pub(super) struct Tickets(Mutex<Kept>);

/// With the names of their connectors, oldest first.
#[derive(Default)]
struct Kept {
    tickets: VecDeque<(ServerName<'static>, Tls13ClientSessionValue)>,
    /// Which key exchange each connector has chosen.
    groups: VecDeque<(ServerName<'static>, NamedGroup)>,
}

impl Tickets {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tickets {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        let groups = &mut self.kept().groups;
        groups.retain(|(of, _)| *of != name);
        push(groups, (name, group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().groups.iter().find(|(of, _)| of == name).map(|(_, group)| *group)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        push(&mut self.kept().tickets, (name, ticket));
    }

    /// The newest: older ones may be of a connector that was restarted since.
    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let tickets = &mut self.kept().tickets;
        let newest = tickets.iter().rposition(|(of, _)| of == name)?;
        tickets.remove(newest).map(|(_, ticket)| ticket)
    }
}

/// One more, in the place of the oldest where there are too many.
fn push<T>(kept: &mut VecDeque<T>, one: T) {
    if kept.len() >= limits::TICKETS {
        kept.pop_front();
    }
    kept.push_back(one);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_key_exchange_of_each_name_is_kept_and_names_are_bounded() {
        let tickets = Tickets::default();
        let name = |number: usize| ServerName::try_from(format!("c{number}.example")).unwrap();
        for number in 0..=limits::TICKETS {
            tickets.set_kx_hint(name(number), NamedGroup::secp256r1);
            tickets.set_kx_hint(name(number), NamedGroup::X25519);
        }
        assert_eq!(tickets.kx_hint(&name(0)), None);
        assert_eq!(tickets.kx_hint(&name(1)), Some(NamedGroup::X25519));
        assert_eq!(tickets.kept().groups.len(), limits::TICKETS);
        assert_eq!(format!("{tickets:?}"), "Tickets");
    }
}
