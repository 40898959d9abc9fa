//! An address that answers no dial.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::ms;

/// An address at which the kernel answers nobody: its backlog is full.
pub struct Deaf {
    listener: TcpListener,
    fillers: Vec<TcpStream>,
}

impl Deaf {
    /// `None` where the kernel answers all the same.
    pub fn at(address: SocketAddr) -> Option<Self> {
        let listener = TcpListener::bind(address).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let (mut fillers, mut unanswered) = (Vec::new(), 0);
        while unanswered < 2 && fillers.len() < 16 {
            match TcpStream::connect_timeout(&address, ms(500)) {
                Ok(filler) => fillers.push(filler),
                Err(_) => unanswered += 1,
            }
        }
        (unanswered == 2).then_some(Deaf { listener, fillers })
    }

    pub fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Whether somebody waits for an answer now (SYN_SENT in the kernel's table).
    pub fn is_dialled(&self) -> bool {
        let there = format!(":{:04X}", self.port());
        fs::read_to_string("/proc/net/tcp").unwrap().lines().any(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.len() > 3 && words[2].ends_with(&there) && words[3] == "02"
        })
    }

    /// Answers from now on, and gives the connection of whoever waited, or comes next.
    pub fn accept(&self) -> TcpStream {
        let filler = |address| self.fillers.iter().any(|one| one.local_addr().ok() == address);
        let mut accepted = self.listener.incoming().map(Result::unwrap);
        accepted.find(|socket| !filler(socket.peer_addr().ok())).unwrap()
    }
}
