//! Local services that agents dial.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A service on a port of its own. Its threads end with the test's process.
pub struct Service {
    /// Where it listens.
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Service {
    /// Serves each connection with `serve`, on a thread each.
    pub fn new(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::of(|_| true, serve)
    }

    /// A connector in plain TCP that knows version 2 alone: who greets by version 3 is closed, and not counted.
    pub fn older(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        const NEWER: &[u8] = b"IOFOG/3 ";
        let is_known = |socket: &TcpStream| {
            let mut first = [0; NEWER.len()];
            // Whoever has not said all of it would say nothing else before an answer.
            while let Ok(count @ 1..) = socket.peek(&mut first) {
                if !NEWER.starts_with(&first[..count]) {
                    return true;
                }
                if count == NEWER.len() {
                    return false;
                }
                thread::yield_now();
            }
            true
        };
        Self::of(is_known, serve)
    }

    /// Serves with `serve` and counts whoever `is_known`, and closes others.
    fn of(
        is_known: impl Fn(&TcpStream) -> bool + Send + Sync + 'static,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let address = listener.local_addr().expect("address");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let serve = Arc::new(move |socket| {
            if is_known(&socket) {
                count.fetch_add(1, Ordering::Relaxed);
                serve(socket);
            }
        });
        thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let serve = serve.clone();
                thread::spawn(move || serve(socket));
            }
        });
        Service { address, connections }
    }

    /// Sends back what comes.
    pub fn echo() -> Self {
        Self::new(|mut socket| {
            let mut buffer = [0; 16 * 1024];
            while let Ok(count @ 1..) = socket.read(&mut buffer) {
                if socket.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        })
    }

    /// A web server: `GET /N` is answered with N bytes, and the connection is kept.
    pub fn http() -> Self {
        Self::new(|mut socket| {
            let mut head = Vec::new();
            let mut byte = [0];
            while let Ok(1) = socket.read(&mut byte) {
                head.push(byte[0]);
                if !head.ends_with(b"\r\n\r\n") {
                    continue;
                }
                let text = String::from_utf8_lossy(&head).into_owned();
                let path = text.split(' ').nth(1).unwrap_or("/0");
                let size = path.trim_start_matches('/').parse().unwrap_or(0);
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
                let body = vec![b'x'; size];
                if socket.write_all(&[answer.as_bytes(), &body].concat()).is_err() {
                    return;
                }
                head.clear();
            }
        })
    }

    /// How many connections it has taken.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Ends a service's answer.
pub fn end(socket: &TcpStream) {
    let _ = socket.shutdown(Shutdown::Write);
}
