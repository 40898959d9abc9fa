//! How an accepted connection to a mapping's port becomes a stream.

use std::io;
use std::net::{IpAddr, TcpStream};

use crate::mappings::options::{Options, Users};
use crate::net::handshake::{self, Progress};
use crate::net::stream::Stream;
use crate::pipes::crowd::Member;
use crate::pipes::shared::Shared;

/// Who is at the other end.
#[derive(Clone, Copy)]
pub enum Peer<'a> {
    /// An agent, whose connection is to become a tunnel.
    Agent,
    /// A user of a pipe with these options.
    User(&'a Options),
}

/// Makes the accepted socket of a `peer` at this address a stream: at once when plain, after a handshake on a worker in TLS. The crowd in which
/// the peer stands meanwhile is told whose turn it is. The caller sets the deadline.
///
/// # Errors
/// What the handshake says.
pub async fn secure(
    shared: &Shared,
    socket: TcpStream,
    peer: Peer<'_>,
    address: IpAddr,
    member: &Member<'_>,
) -> io::Result<Stream> {
    let tls = match (&shared.tls, peer) {
        (None, _) | (_, Peer::User(Options { users: Some(Users::Plain), .. })) => {
            return Stream::plain(socket);
        }
        (Some(tls), _) => tls,
    };
    let config = || {
        let configs = tls.current();
        match peer {
            Peer::Agent => configs.tunnel.clone(),
            Peer::User(options) => configs.user_offered(&options.alpn).into(),
        }
    };
    let progress = |progress| match progress {
        Progress::Spoke => member.spoke(),
        Progress::Answered => member.answered(),
        Progress::Unfinished => member.goes_on(),
    };
    handshake::secure(&shared.workers, socket, address, config, progress).await
}
