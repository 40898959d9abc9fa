//! The PROXY header with which a connection from one of the mapping's `proxyfrom` begins (protocol page, section 6).

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::runtime::Io;
use crate::wire::proxy::{self, NoHeader};

/// As much is looked at in one go.
const STEP: usize = 256;

/// Why there is no header.
pub enum Missing {
    /// Something else has come, or a part of one and then the end.
    Wrong,
    /// The connection has ended, or broke, before anything came.
    Left,
}

/// Reads the header, in however many pieces it comes, and not a byte more: what follows is the user's own. Gives the
/// connection back, with the user's address if the header tells of one. The caller sets the deadline.
///
/// # Errors
/// [`Missing`].
pub async fn source(socket: TcpStream) -> Result<(TcpStream, Option<SocketAddr>), Missing> {
    let io = Io::new(socket).map_err(|_| Missing::Left)?;
    let mut header = Vec::new();
    loop {
        let has_come = poll_fn(|context| io.poll_peek(context)).await;
        let missing = |_| if header.is_empty() { Missing::Left } else { Missing::Wrong };
        if !has_come.map_err(missing)? {
            return Err(missing(io::ErrorKind::UnexpectedEof.into()));
        }
        let begun = header.len();
        let whole = read(io.get_ref(), &mut header, begun).map_err(|_| Missing::Wrong)?;
        if whole {
            let source = proxy::source(&header).map_err(|NoHeader| Missing::Wrong)?;
            return Ok((io.into_inner(), source));
        }
    }
}

/// Reads as much of the header as has come, beyond the first `begun` bytes; whether it is whole.
fn read(socket: &TcpStream, header: &mut Vec<u8>, begun: usize) -> io::Result<bool> {
    let mut take = |length: usize, flags| {
        header.resize(begun + length, 0);
        let come = match recv(socket, &mut header[begun..], flags) {
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        header.truncate(begun + come);
        let wrong = |NoHeader| io::Error::from(io::ErrorKind::InvalidData);
        io::Result::Ok((proxy::end(header).map_err(wrong)?, come))
    };
    let (end, come) = take(STEP, RecvFlags::PEEK)?;
    let (end, _) = take(end.map_or(come, |end| end - begun), RecvFlags::empty())?;
    Ok(end.is_some())
}
