//! A user: a blocking connection, plain or TLS.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::arguments::Arguments;
use crate::sys;
use crate::tls;
use crate::tunnel::Socket;

/// A user gives up on an answer after so many seconds, unless `--patience` says otherwise.
const PATIENCE: u64 = 10;

/// Where users connect, and how.
#[derive(Clone)]
pub(crate) struct Dial {
    target: SocketAddrV4,
    tls: Option<Arc<ClientConfig>>,
    patience: Duration,
}

/// A user's connection.
pub(crate) enum User {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Dial {
    /// To `--target`, with `--tls` or without.
    pub(crate) fn new(arguments: &Arguments) -> Self {
        Dial::to(arguments, "target")
    }

    /// To the port of another option.
    pub(crate) fn to(arguments: &Arguments, option: &str) -> Self {
        let patience = Duration::from_secs(arguments.get("patience").unwrap_or(PATIENCE));
        Dial { target: arguments.port(option), tls: tls::config(arguments), patience }
    }

    /// Whether users speak TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Connects and shakes hands.
    pub(crate) fn connect(&self) -> io::Result<User> {
        let socket = TcpStream::connect_timeout(&SocketAddr::V4(self.target), self.patience)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(self.patience))?;
        socket.set_write_timeout(Some(self.patience))?;
        let Some(config) = &self.tls else { return Ok(User::Plain(socket)) };
        let mut stream = StreamOwned::new(tls::session(config), socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(User::Tls(Box::new(stream)))
    }
}

impl User {
    fn socket(&self) -> &TcpStream {
        match self {
            User::Plain(socket) => socket,
            User::Tls(stream) => &stream.sock,
        }
    }

    /// The socket's number, for calls past this type; plain users only.
    pub(crate) fn fd(&self) -> RawFd {
        self.socket().as_raw_fd()
    }

    /// Lets its calls return at once.
    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        self.socket().set_nonblocking(true)
    }

    /// Sends all of `bytes`.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            User::Plain(socket) => socket.write_all(bytes),
            User::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Whether it speaks TLS.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, User::Tls(_))
    }

    /// Writes to `file` what would be sent of `bytes`, for somebody to send it later: how much.
    pub(crate) fn seal(&mut self, bytes: &[u8], file: RawFd) -> io::Result<usize> {
        let User::Tls(stream) = self else { return sys::write(file, bytes) };
        stream.conn.writer().write_all(bytes)?;
        let mut written = 0;
        while stream.conn.wants_write() {
            written += stream.conn.write_tls(&mut Socket(file))?;
        }
        Ok(written)
    }

    /// Receives some bytes.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            User::Plain(socket) => socket.read(buffer),
            User::Tls(stream) => stream.read(buffer),
        }
    }

    /// Fills `buffer`.
    pub(crate) fn receive_all(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            User::Plain(socket) => socket.read_exact(buffer),
            User::Tls(stream) => stream.read_exact(buffer),
        }
    }

    /// Takes leave as TLS wants it; the connection closes when dropped.
    pub(crate) fn take_leave(&mut self) {
        if let User::Tls(stream) = self {
            stream.conn.send_close_notify();
            // The peer may be gone already, which is as good.
            let _ = stream.conn.write_tls(&mut stream.sock);
        }
    }

    /// Ends both directions at once.
    pub(crate) fn shut(&self) {
        let _ = self.socket().shutdown(Shutdown::Both);
    }
}
