//! Through a proxy: asks it, over a connection to it, for one to somebody else. The name is looked up
//! by the proxy. Every failure is half a sentence about the proxy, with the remedy and without a
//! password.

use std::io;
use std::net::{IpAddr, TcpStream};

use smol::io::{AsyncReadExt, AsyncWriteExt};

use super::dial::Address;
use super::proxy::{Kind, Login, Proxy};
use crate::limits;
use crate::runtime::Io;
use crate::text::line::escaped;

/// What to do about a proxy that wants to know who asks.
const LOGIN: &str = "name them as proxy=SCHEME://user:password@host:port in the options' file, or in \
                     HTTPS_PROXY of the environment";

impl Proxy {
    /// Has the proxy connect to `target`. No byte of what follows is taken from the socket.
    ///
    /// # Errors
    /// What the connection says, or a sentence of kind `Other`.
    pub async fn connect(&self, socket: TcpStream, target: &Address) -> io::Result<TcpStream> {
        let mut socket = Io::new(socket)?;
        match self.kind {
            Kind::Http => self.ask_http(&mut socket, target).await?,
            Kind::Socks => self.ask_socks(&mut socket, target).await?,
        }
        Ok(socket.into_inner())
    }

    async fn ask_http(&self, socket: &mut Io<TcpStream>, target: &Address) -> io::Result<()> {
        let login = match &self.login {
            None => String::new(),
            Some(Login { user, password }) => {
                let login = base64(format!("{user}:{password}").as_bytes());
                format!("Proxy-Authorization: Basic {login}\r\n")
            }
        };
        let asked = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}\r\n");
        socket.write_all(asked.as_bytes()).await?;
        let mut room = limits::HTTP_HEAD;
        let (code, reason) = loop {
            let head = head(socket, &mut room).await?;
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut fields);
            match response.parse(&head) {
                Ok(_) | Err(httparse::Error::TooManyHeaders) => {}
                Err(_) => return Err(said("its answer to CONNECT is not HTTP".into())),
            }
            match response.code.unwrap_or_default() {
                // The final one follows (RFC 9110, section 15.2); 101 would be final.
                100 | 102..=199 => {}
                code => break (code, escaped(response.reason.unwrap_or_default())),
            }
        };
        Err(said(match code {
            200..=299 => return Ok(()),
            407 => self.refused_login(),
            403 | 405 => format!(
                "it does not allow a connection to {target} ({code} {reason}); have it allow CONNECT \
                 to this host and port"
            ),
            code => format!(
                "it cannot connect to {target} ({code} {reason}); is that spelt right, does it run, \
                 and may the proxy reach it?"
            ),
        }))
    }

    async fn ask_socks(&self, socket: &mut Io<TcpStream>, target: &Address) -> io::Result<()> {
        const VERSION: u8 = 5;
        const NO_LOGIN: u8 = 0;
        const PASSWORD: u8 = 2;
        let offers: &[u8] = match self.login {
            None => &[VERSION, 1, NO_LOGIN],
            Some(_) => &[VERSION, 2, NO_LOGIN, PASSWORD],
        };
        socket.write_all(offers).await?;
        if byte(socket).await? != VERSION {
            return Err(said("it does not speak SOCKS 5; is it one for http://?".into()));
        }
        match (byte(socket).await?, &self.login) {
            (NO_LOGIN, _) => {}
            (PASSWORD, Some(Login { user, password })) => {
                let (long, longer) = (user.len() as u8, password.len() as u8);
                let login = [&[1, long], user.as_bytes(), &[longer], password.as_bytes()].concat();
                socket.write_all(&login).await?;
                byte(socket).await?;
                if byte(socket).await? != 0 {
                    return Err(said(self.refused_login()));
                }
            }
            _ => return Err(said(self.refused_login())),
        }
        let mut asked = vec![VERSION, 1, 0];
        match target.host.parse() {
            Ok(IpAddr::V4(ip)) => asked.extend([&[1], &ip.octets()[..]].concat()),
            Ok(IpAddr::V6(ip)) => asked.extend([&[4], &ip.octets()[..]].concat()),
            Err(_) => {
                asked.extend([&[3, target.host.len() as u8], target.host.as_bytes()].concat())
            }
        }
        asked.extend(target.port.to_be_bytes());
        socket.write_all(&asked).await?;
        let mut answer = [0; 4];
        socket.read_exact(&mut answer).await.map_err(left)?;
        if answer[0] != VERSION {
            return Err(said("its answer is not SOCKS 5".into()));
        }
        let why = match answer[1] {
            0 => None,
            1 => Some("it has failed (1); its log says why"),
            2 => Some("its rules do not allow that (2); have it allow this host and port"),
            3 | 4 => Some("there is no way to that from there (3 or 4); is it spelt right?"),
            5 => Some("that refuses the connection (5); does it run?"),
            6 => Some("that does not answer (6); does it run?"),
            7 | 8 => Some("it cannot do that (7 or 8); is it a SOCKS 5 proxy for such addresses?"),
            _ => Some("it says no, and not why"),
        };
        if let Some(why) = why {
            return Err(said(format!("asked to connect to {target}: {why}")));
        }
        // From where it has connected, which nobody needs.
        let length = match answer[3] {
            1 => 4,
            4 => 16,
            3 => byte(socket).await?.into(),
            _ => return Err(said("its answer is not SOCKS 5".into())),
        };
        let mut from = [0; 255 + 2];
        socket.read_exact(&mut from[..length + 2]).await.map_err(left)
    }

    /// Why it lets nobody through who does not say who it is.
    fn refused_login(&self) -> String {
        match &self.login {
            None => format!("it asks for user and password; {LOGIN}"),
            Some(_) => format!("it does not accept user and password; {LOGIN}"),
        }
    }
}

/// The head of an answer with the empty line at its end; lines may end in a bare LF (RFC 9112, section
/// 2.2). `room` is for the bytes of all heads together.
async fn head(socket: &mut Io<TcpStream>, room: &mut usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    // One byte at a time: what follows the answer is the target's.
    while !head.ends_with(b"\n\r\n") && !head.ends_with(b"\n\n") {
        if *room == 0 {
            return Err(said("its answer to CONNECT has no end".into()));
        }
        *room -= 1;
        head.push(byte(socket).await?);
        if !head.starts_with(&b"HTTP/"[..head.len().min(5)]) {
            return Err(said("it does not speak HTTP; is it one for socks5://?".into()));
        }
    }
    Ok(head)
}

async fn byte(socket: &mut Io<TcpStream>) -> io::Result<u8> {
    let mut byte = [0];
    socket.read_exact(&mut byte).await.map_err(left)?;
    Ok(byte[0])
}

/// The end of the connection, in words.
fn left(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => said(
            "it has ended the connection without an answer; is it a proxy, and may this machine use it?"
                .into(),
        ),
        _ => error,
    }
}

fn said(sentence: String) -> io::Error {
    io::Error::other(sentence)
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number =
            group.iter().chain(&[0; 2]).take(3).fold(0, |sum, byte| 256 * sum + usize::from(*byte));
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place)) % 64];
            text.push(if place <= group.len() { digit.into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_the_vectors_of_its_page() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
