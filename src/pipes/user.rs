//! A user of a public pipe.

use std::net::SocketAddr;

use crate::net::stream::Stream;
use crate::os::FileGuard;

/// A user that is ready for a tunnel.
pub struct User {
    /// Its connection.
    pub stream: Stream,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Whether it has sent anything.
    pub has_spoken: bool,
    /// Its share of the open files.
    pub file: FileGuard,
}
