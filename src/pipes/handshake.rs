//! How an accepted connection to a mapping's port becomes a stream.

use std::io;
use std::net::TcpStream;

use crate::net::handshake::{self, Progress};
use crate::net::stream::Stream;
use crate::pipes::crowd::Member;
use crate::pipes::shared::Shared;

/// Who is at the other end.
#[derive(Clone, Copy)]
pub enum Peer {
    /// An agent, whose connection is to become a tunnel.
    Agent,
    /// A user.
    User,
    /// A user of a pipe whose users speak plain.
    PlainUser,
}

/// Makes an accepted socket a stream: at once when plain, after a handshake on a worker in TLS. The crowd in which
/// the peer stands meanwhile is told whose turn it is. The caller sets the deadline.
///
/// # Errors
/// What the handshake says.
pub async fn secure(
    shared: &Shared,
    socket: TcpStream,
    peer: Peer,
    member: &Member<'_>,
) -> io::Result<Stream> {
    let tls = match (&shared.tls, peer) {
        (None, _) | (_, Peer::PlainUser) => return Stream::plain(socket),
        (Some(tls), _) => tls,
    };
    let config = || {
        let configs = tls.current();
        match peer {
            Peer::Agent => configs.tunnel.clone(),
            Peer::User | Peer::PlainUser => configs.user.clone(),
        }
    };
    let progress = |progress| match progress {
        Progress::Spoke => member.spoke(),
        Progress::Answered => member.answered(),
        Progress::Unfinished => member.goes_on(),
    };
    handshake::secure(&shared.workers, socket, config, progress).await
}
