//! One connection, plain or TLS, under the test's full control: what is one record on the wire
//! is one record here, in both directions.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect, socket_with, sockopt,
};
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, Connection, HandshakeKind, ServerConfig, ServerConnection,
};

use super::{PATIENCE, assert_same};

/// The longest plaintext of one TLS record.
pub const RECORD: usize = 16 * 1024;

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    /// One TLS record, or in plain TCP one read.
    Bytes(Vec<u8>),
    /// The orderly end: FIN, in TLS after a close_notify.
    End,
    /// In TLS: FIN without a close_notify.
    Cut,
    /// In TLS: a fatal alert.
    Alert(String),
    /// RST.
    Reset,
    /// Nothing came in time; the connection is open.
    Late,
}

/// One connection.
pub struct Link {
    socket: TcpStream,
    /// Whether the reset that a read would have told of was told of by the connecting or a write.
    reset: bool,
    tls: Option<Box<Connection>>,
    /// Plain bytes that the socket has not taken yet.
    unsent: Vec<u8>,
    /// Bytes that came with others and belong to the next read.
    unread: Vec<u8>,
}

impl Link {
    /// Connects without TLS.
    pub fn plain(address: SocketAddr) -> io::Result<Self> {
        let source = if address.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        Self::plain_from(source, address)
    }

    /// The same, from this address of the machine.
    pub fn plain_from(source: IpAddr, address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        if !source.is_unspecified() {
            bind(&socket, &SocketAddr::new(source, 0))?;
        }
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let mut link = Self::over(TcpStream::from(socket))?;
        if !link.wait(false, true, Instant::now() + PATIENCE) {
            return Err(ErrorKind::TimedOut.into());
        }
        match sockopt::socket_error(&link.socket)? {
            Ok(()) => {}
            // It was connected, and reset before this thread could look: as if it were a moment later.
            Err(Errno::CONNRESET) => link.reset = true,
            Err(error) => return Err(error.into()),
        }
        link.socket.set_nodelay(true)?;
        Ok(link)
    }

    /// Connects and finishes a TLS handshake with a server that must prove to be `localhost`.
    pub fn tls(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        Self::plain(address)?.upgrade(config, "localhost")
    }

    /// Connects to a Unix socket.
    pub fn unix(path: &Path) -> io::Result<Self> {
        // The methods of `TcpStream` that are used here are those of any stream socket.
        Self::over(TcpStream::from(OwnedFd::from(UnixStream::connect(path)?)))
    }

    fn over(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Link { socket, reset: false, tls: None, unsent: Vec::new(), unread: Vec::new() })
    }

    /// The TLS handshake over a connection that is still plain.
    pub fn upgrade(mut self, config: &Arc<ClientConfig>, name: &str) -> io::Result<Self> {
        self.begin(config, name)?;
        self.shake_hands()?;
        Ok(self)
    }

    /// The other end of a connection that this process has accepted, in TLS where it is to show something.
    pub fn accepted(socket: TcpStream, config: Option<&Arc<ServerConfig>>) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let mut link = Self::over(socket)?;
        if let Some(config) = config {
            let mut tls = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
            tls.set_buffer_limit(None);
            link.tls = Some(Box::new(tls.into()));
            link.shake_hands()?;
        }
        Ok(link)
    }

    fn shake_hands(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let flushed = self.push()?;
            let tls = self.tls.as_mut().expect("TLS");
            if !tls.is_handshaking() && flushed {
                return Ok(());
            }
            match tls.read_tls(&mut &self.socket) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {
                    let state = tls.process_new_packets();
                    if let Err(error) = state {
                        let _ = self.push();
                        return Err(io::Error::other(error));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.wait(true, !flushed, deadline) {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A TLS handshake with `localhost` whose last message is this end's: that, `bytes` and the end of
    /// this direction, with its close_notify, go out as one packet.
    pub fn finish_and_say(
        address: SocketAddr,
        config: &Arc<ClientConfig>,
        bytes: &[u8],
    ) -> io::Result<Self> {
        let mut link = Self::plain(address)?;
        link.begin_tls(config);
        link.flush(Instant::now() + PATIENCE)?;
        let tls = link.tls.as_mut().expect("TLS");
        link.socket.set_nonblocking(false)?;
        while tls.is_handshaking() && tls.read_tls(&mut &link.socket)? > 0 {
            tls.process_new_packets().map_err(io::Error::other)?;
        }
        link.socket.set_nonblocking(true)?;
        tls.writer().write_all(bytes)?;
        tls.send_close_notify();
        let mut wire = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut wire)?;
        }
        sockopt::set_tcp_cork(&link.socket, true)?;
        assert_eq!((&link.socket).write(&wire)?, wire.len());
        link.socket.shutdown(Shutdown::Write)?;
        Ok(link)
    }

    /// Begins a handshake that [`push`](Self::push) and [`read_now`](Self::read_now) go on with.
    pub fn begin_tls(&mut self, config: &Arc<ClientConfig>) {
        self.begin(config, "localhost").expect("TLS");
    }

    fn begin(&mut self, config: &Arc<ClientConfig>, name: &str) -> io::Result<()> {
        let name = ServerName::try_from(name.to_owned()).expect("server name");
        let mut tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        tls.set_buffer_limit(None);
        self.tls = Some(Box::new(tls.into()));
        Ok(())
    }

    /// The certificate that the server showed.
    pub fn server_certificate(&self) -> Vec<u8> {
        let tls = self.tls.as_ref().expect("TLS");
        tls.peer_certificates().expect("certificates")[0].to_vec()
    }

    /// The TLS version and cipher suite, for example `TLSv1_3` and `TLS13_AES_128_GCM_SHA256`.
    pub fn negotiated(&self) -> (String, String) {
        let tls = self.tls.as_ref().expect("TLS");
        let version = format!("{:?}", tls.protocol_version().expect("version"));
        let suite = format!("{:?}", tls.negotiated_cipher_suite().expect("suite").suite());
        (version, suite)
    }

    /// The protocol that ALPN has settled on.
    pub fn protocol(&self) -> Option<&str> {
        let tls = self.tls.as_ref().expect("TLS");
        tls.alpn_protocol().map(|name| std::str::from_utf8(name).expect("ASCII"))
    }

    /// Whether its TLS session was begun on another connection.
    pub fn is_resumed(&self) -> bool {
        self.tls.as_ref().expect("TLS").handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// This end's address.
    pub fn local(&self) -> SocketAddr {
        self.socket.local_addr().expect("local address")
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The socket, for polling.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Makes the kernel take few bytes that the test has not read, so that a sender soon waits.
    /// (Two segments of the loopback interface: less would make the network itself slow.)
    pub fn shrink(&self) {
        sockopt::set_socket_recv_buffer_size(&self.socket, 64 * 1024).expect("SO_RCVBUF");
    }

    // Sending

    /// Sends `bytes`: in TLS as records of 16 KiB and a last one of the rest, so that up to
    /// 16 KiB are one record. An empty slice sends nothing.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.try_send(bytes) {
            panic!("sending {} bytes: {error}", bytes.len());
        }
    }

    /// Sends `bytes` at once, the last one of what goes over the wire as urgent data.
    #[track_caller]
    pub fn send_urgent(&mut self, bytes: &[u8]) {
        let mut wire = bytes.to_vec();
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(bytes).expect("queue");
            wire.clear();
            tls.write_tls(&mut wire).expect("records");
        }
        while !wire.is_empty() {
            match rustix::net::send(&self.socket, &wire, SendFlags::OOB) {
                Ok(sent) => drop(wire.drain(..sent)),
                Err(rustix::io::Errno::AGAIN) => {
                    assert!(self.wait(false, true, Instant::now() + PATIENCE), "no room");
                }
                Err(error) => panic!("urgent data: {error}"),
            }
        }
    }

    /// [`send`](Self::send) to a peer that may be gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.queue(bytes)?;
        self.flush(Instant::now() + PATIENCE)
    }

    /// Makes records of `bytes` without sending them; [`push`](Self::push) does.
    pub fn queue(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            None => self.unsent.extend_from_slice(bytes),
            Some(tls) => {
                for record in bytes.chunks(RECORD) {
                    tls.writer().write_all(record)?;
                }
            }
        }
        Ok(())
    }

    /// Sends what the socket takes now; true when nothing is left.
    pub fn push(&mut self) -> io::Result<bool> {
        loop {
            let sent = match &mut self.tls {
                Some(tls) if tls.wants_write() => tls.write_tls(&mut &self.socket),
                None if !self.unsent.is_empty() => (&self.socket).write(&self.unsent),
                _ => return Ok(true),
            };
            match sent {
                Ok(count) if self.tls.is_none() => drop(self.unsent.drain(..count)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.reset |= error.kind() == ErrorKind::ConnectionReset;
                    return Err(error);
                }
            }
        }
    }

    /// Whether bytes wait for the socket.
    pub fn unsent(&self) -> bool {
        !self.unsent.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    fn flush(&mut self, deadline: Instant) -> io::Result<()> {
        while !self.push()? {
            if !self.wait(false, true, deadline) {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Sends records of 16 KiB until everything on the way is full: nothing moves for 300 ms.
    /// Returns how many of `bytes` were handed to this link; those of them that the kernel has
    /// not taken yet go out with the next send. Panics when there is room for all `bytes`.
    #[track_caller]
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        // What two sockets hold at least; before that, a pause is only the machine's.
        const LEAST: usize = 192 * 1024;
        let mut taken = 0;
        for piece in bytes.chunks(RECORD) {
            self.queue(piece).expect("queue");
            taken += piece.len();
            let patience = if taken < LEAST { PATIENCE } else { Duration::from_millis(300) };
            if self.flush(Instant::now() + patience).is_err() {
                assert!(taken >= LEAST, "no more than {taken} bytes were taken");
                return taken;
            }
        }
        panic!("the way never filled up");
    }

    /// Ends this direction in order: in TLS a close_notify, then FIN.
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        let _ = self.flush(Instant::now() + PATIENCE);
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Ends this direction as many agents do: FIN alone.
    pub fn fin(&mut self) {
        let _ = self.flush(Instant::now() + PATIENCE);
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Ends both directions with RST.
    pub fn reset(self) {
        sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO)).expect("SO_LINGER");
    }

    // Receiving

    /// One record (in plain TCP one read of at most 64 KiB), within [`PATIENCE`].
    pub fn record(&mut self) -> Got {
        self.record_by(Instant::now() + PATIENCE)
    }

    /// One record, or [`Got::Late`] when none is complete by `deadline`.
    pub fn record_by(&mut self, deadline: Instant) -> Got {
        if !self.unread.is_empty() {
            return Got::Bytes(std::mem::take(&mut self.unread));
        }
        loop {
            if let Some(got) = self.read_now(64 * 1024) {
                return got;
            }
            if !self.wait(true, false, deadline) {
                return Got::Late;
            }
        }
    }

    /// What can be read without waiting; in plain TCP at most `most` bytes.
    pub fn read_now(&mut self, most: usize) -> Option<Got> {
        let Some(tls) = &mut self.tls else {
            let mut bytes = vec![0; most];
            loop {
                match (&self.socket).read(&mut bytes) {
                    Ok(0) if self.reset => return Some(Got::Reset),
                    Ok(0) => return Some(Got::End),
                    Ok(count) => {
                        bytes.truncate(count);
                        return Some(Got::Bytes(bytes));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return Some(Got::Reset),
                }
            }
        };
        loop {
            // `read` of rustls would fill its buffer from several records.
            let mut reader = tls.reader();
            match reader.fill_buf().map(<[u8]>::to_vec) {
                Ok(bytes) if bytes.is_empty() => return Some(Got::End),
                Ok(bytes) => {
                    reader.consume(bytes.len());
                    return Some(Got::Bytes(bytes));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Some(Got::Cut),
            }
            match tls.read_tls(&mut &self.socket) {
                Ok(_) => match tls.process_new_packets() {
                    Ok(_) => {}
                    Err(rustls::Error::AlertReceived(alert)) => {
                        return Some(Got::Alert(format!("{alert:?}")));
                    }
                    Err(error) => panic!("TLS from the other end: {error}"),
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Some(Got::Reset),
            }
        }
    }

    /// What has come with other bytes and is for the next read.
    pub fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread)
    }

    /// Exactly `count` bytes. More that came along are kept for the next read.
    #[track_caller]
    pub fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.unread);
        while all.len() < count {
            match self.record() {
                Got::Bytes(bytes) => all.extend(bytes),
                other => panic!(
                    "{other:?} after {} of {count} bytes: {:?}",
                    all.len(),
                    String::from_utf8_lossy(&all[..all.len().min(100)])
                ),
            }
        }
        self.unread = all.split_off(count);
        all
    }

    /// Expects exactly these bytes next.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8]) {
        let got = self.exactly(bytes.len());
        super::assert_same(&got, bytes, "received");
    }

    /// Expects exactly this record next; in plain TCP these bytes.
    #[track_caller]
    pub fn expect_record(&mut self, bytes: &[u8]) {
        if self.tls.is_none() {
            return self.expect(bytes);
        }
        match self.record() {
            Got::Bytes(got) => super::assert_same(&got, bytes, "record"),
            other => panic!("{other:?} instead of a record of {} bytes", bytes.len()),
        }
    }

    /// All bytes up to the end, and how it ended.
    #[track_caller]
    pub fn rest(&mut self) -> (Vec<u8>, Got) {
        let mut all = Vec::new();
        loop {
            match self.record() {
                Got::Bytes(bytes) => all.extend(bytes),
                Got::Late => panic!("still open, {} bytes after the last read", all.len()),
                end => return (all, end),
            }
        }
    }

    /// All bytes up to an orderly end.
    #[track_caller]
    pub fn until_end(&mut self) -> Vec<u8> {
        let (bytes, end) = self.rest();
        assert!(end == Got::End, "{end:?} instead of an orderly end after {} bytes", bytes.len());
        bytes
    }

    /// Expects the connection to end, in any way, without another byte.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        let (bytes, _) = self.rest();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
        assert!(bytes.is_empty(), "{} bytes before the close: {shown:?}", bytes.len());
    }

    /// Expects exactly these bytes and a reset behind them, which is no end in TLS either.
    #[track_caller]
    pub fn expect_reset_after(&mut self, bytes: &[u8]) {
        let (got, end) = self.rest();
        assert_same(&got, bytes, "before the reset");
        assert_eq!(end, Got::Reset, "a session that broke");
    }

    /// Expects nothing to happen for this long: no byte, no end.
    #[track_caller]
    pub fn expect_silence(&mut self, time: Duration) {
        let got = self.record_by(Instant::now() + time);
        assert!(got == Got::Late, "{got:?} where nothing was to come for {time:?}");
    }

    /// Whether it has ended, or has something to read, now.
    pub fn is_quiet(&mut self) -> bool {
        match self.record_by(Instant::now()) {
            Got::Late => true,
            Got::Bytes(bytes) => {
                self.unread = bytes;
                false
            }
            _ => false,
        }
    }

    /// Sends `out` and receives `count` bytes at the same time.
    #[track_caller]
    pub fn exchange(&mut self, out: &[u8], count: usize) -> Vec<u8> {
        self.exchange_by(out, count, Instant::now() + 2 * PATIENCE)
    }

    /// [`exchange`](Self::exchange) with a deadline of its own.
    #[track_caller]
    pub fn exchange_by(&mut self, out: &[u8], count: usize, deadline: Instant) -> Vec<u8> {
        self.queue(out).expect("queue");
        let mut all = std::mem::take(&mut self.unread);
        loop {
            let flushed = self.push().unwrap_or_else(|error| panic!("sending: {error}"));
            match self.read_now(64 * 1024) {
                Some(Got::Bytes(bytes)) => all.extend(bytes),
                Some(other) => panic!("{other:?} after {} of {count} bytes", all.len()),
                None if flushed && all.len() >= count => break,
                None => assert!(
                    self.wait(all.len() < count, !flushed, deadline),
                    "stuck after {} of {count} bytes, all sent: {flushed}",
                    all.len()
                ),
            }
        }
        self.unread = all.split_off(count);
        all
    }

    /// Sends these records and receives `count` records at the same time; reads none before
    /// `delay` is over.
    #[track_caller]
    pub fn exchange_records(
        &mut self,
        out: &[&[u8]],
        count: usize,
        delay: Duration,
    ) -> Vec<Vec<u8>> {
        for record in out {
            self.queue(record).expect("queue");
        }
        let reading = Instant::now() + delay;
        let deadline = Instant::now() + 2 * PATIENCE;
        let mut records = Vec::new();
        loop {
            let flushed = self.push().unwrap_or_else(|error| panic!("sending: {error}"));
            if Instant::now() < reading {
                self.wait(false, !flushed, reading);
                continue;
            }
            match self.read_now(64 * 1024) {
                Some(Got::Bytes(record)) => records.push(record),
                Some(other) => panic!("{other:?} after {} of {count} records", records.len()),
                None if flushed && records.len() >= count => return records,
                None => assert!(
                    self.wait(records.len() < count, !flushed, deadline),
                    "stuck after {} of {count} records, all sent: {flushed}",
                    records.len()
                ),
            }
        }
    }

    /// Waits for the socket; false when `deadline` comes first.
    pub fn wait(&self, read: bool, write: bool, deadline: Instant) -> bool {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, read);
        flags.set(PollFlags::OUT, write);
        let mut set = [PollFd::new(&self.socket, flags)];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).expect("timeout");
            match poll(&mut set, Some(&timeout)) {
                Ok(0) if left.is_zero() => return false,
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return true,
                Err(error) => panic!("poll: {error}"),
            }
        }
    }
}
