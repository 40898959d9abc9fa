//! The service behind a relay. A connection's first byte chooses what it does.

use std::os::fd::RawFd;

use crate::arguments::{Arguments, die};
use crate::sys::{self, ERR, Epoll, HUP, IN, OUT};

/// Sends back what comes.
pub(crate) const ECHO: u8 = b'E';
/// Answers one byte, the proof that all of the way works, then throws away what comes.
pub(crate) const SINK: u8 = b'S';
/// Sends without end.
pub(crate) const SOURCE: u8 = b'D';

/// Bytes read or sent with one call.
pub(crate) const CHUNK: usize = 256 * 1024;

/// Calls for one connection before the others have a turn.
const TURN: usize = 8;

const LISTENER: u64 = u64::MAX;

struct Connection {
    fd: RawFd,
    /// The first byte, once it has come.
    role: Option<u8>,
    /// What an echo could not send yet.
    rest: Vec<u8>,
    watched: u32,
}

/// Serves `--listen` until killed.
pub(crate) fn run(arguments: &Arguments) {
    if let Err(error) = serve(arguments) {
        die(format_args!("backend: {error}"));
    }
}

fn serve(arguments: &Arguments) -> std::io::Result<()> {
    let listener = sys::listen(&arguments.port("listen"))?;
    let epoll = Epoll::new()?;
    epoll.add(listener, IN, LISTENER)?;
    // By file number, which the kernel keeps small.
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut buffer = vec![0; CHUNK];
    let source = sys::memory_file(&pattern())?;
    let mut events = Vec::new();
    loop {
        epoll.wait(&mut events, -1);
        for &(flags, number) in &events {
            if number == LISTENER {
                while let Ok(fd) = sys::accept(listener) {
                    let place = fd as usize;
                    if connections.len() <= place {
                        connections.resize_with(place + 1, || None);
                    }
                    let connection = Connection { fd, role: None, rest: vec![], watched: IN };
                    connections[place] = Some(connection);
                    epoll.add(fd, IN, place as u64)?;
                }
                continue;
            }
            let place = &mut connections[number as usize];
            let Some(connection) = place else { continue };
            if connection.serve(flags, &mut buffer, source) {
                let wanted = connection.wanted();
                if wanted != connection.watched {
                    connection.watched = wanted;
                    epoll.change(connection.fd, wanted, number)?;
                }
            } else {
                sys::close(connection.fd);
                *place = None;
            }
        }
    }
}

/// Bytes that are no heartbeats.
pub(crate) fn pattern() -> Vec<u8> {
    (0..CHUNK).map(|i| (i * 31 + (i >> 8)) as u8).collect()
}

impl Connection {
    fn wanted(&self) -> u32 {
        match self.role {
            Some(SOURCE) => IN | OUT,
            _ if self.rest.is_empty() => IN,
            _ => OUT,
        }
    }

    /// Does what can be done now; `false` when the connection is over.
    fn serve(&mut self, flags: u32, buffer: &mut [u8], source: RawFd) -> bool {
        let over = flags & ERR != 0
            || (flags & (IN | HUP) != 0 && self.rest.is_empty() && self.read(buffer).is_err())
            || (flags & OUT != 0 && self.write(source).is_err());
        !over
    }

    /// Reads for a turn; an error is also the end of the stream.
    fn read(&mut self, buffer: &mut [u8]) -> Result<(), ()> {
        for _ in 0..TURN {
            let sink = self.role == Some(SINK);
            let read = if sink { sys::discard(self.fd, CHUNK) } else { sys::read(self.fd, buffer) };
            let count = match read {
                Err(error) if sys::would_block(&error) => return Ok(()),
                Ok(0) | Err(_) => return Err(()),
                Ok(count) => count,
            };
            if sink {
                continue;
            }
            let mut bytes = &buffer[..count];
            if self.role.is_none() {
                self.role = Some(bytes[0]);
                bytes = &bytes[1..];
                if self.role == Some(SINK) {
                    sys::write(self.fd, b"K").map_err(drop)?;
                }
            }
            if self.role == Some(ECHO) && !bytes.is_empty() {
                let written = match sys::write(self.fd, bytes) {
                    Ok(written) => written,
                    Err(error) if sys::would_block(&error) => 0,
                    Err(_) => return Err(()),
                };
                self.rest.extend_from_slice(&bytes[written..]);
            }
            if count < buffer.len() || !self.rest.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn write(&mut self, source: RawFd) -> Result<(), ()> {
        while !self.rest.is_empty() {
            match sys::write(self.fd, &self.rest) {
                Ok(written) => drop(self.rest.drain(..written)),
                Err(error) if sys::would_block(&error) => return Ok(()),
                Err(_) => return Err(()),
            }
        }
        for _ in 0..TURN {
            if self.role != Some(SOURCE) {
                break;
            }
            match sys::send_file(self.fd, source, 0, CHUNK) {
                Ok(_) => {}
                Err(error) if sys::would_block(&error) => break,
                Err(_) => return Err(()),
            }
        }
        Ok(())
    }
}
