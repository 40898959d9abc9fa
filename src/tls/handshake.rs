//! A handshake, from the first byte to the keys. It is the library's; here are its steps, bytes in and
//! records out, and what becomes of it: [`Records`].

use std::collections::VecDeque;
use std::sync::Arc;

use futures_rustls::pki_types::ServerName;
use futures_rustls::rustls::client::UnbufferedClientConnection;
use futures_rustls::rustls::server::UnbufferedServerConnection;
use futures_rustls::rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use futures_rustls::rustls::{ClientConfig, CommonState, Error, PeerMisbehaved, ServerConfig};

use super::records::Records;

/// One side of a handshake.
pub enum Handshake {
    /// The connector's.
    Server(UnbufferedServerConnection),
    /// The agent's.
    Client(UnbufferedClientConnection),
}

impl Handshake {
    /// With a client that is served with these settings.
    ///
    /// # Errors
    /// Settings that the library does not accept.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        UnbufferedServerConnection::new(config).map(Handshake::Server)
    }

    /// With the server of this name. What is for it is given by the first [`Handshake::hear`].
    ///
    /// # Errors
    /// Settings that the library does not accept.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        UnbufferedClientConnection::new(config, name).map(Handshake::Client)
    }

    /// Takes records from the front of `bytes`, the last of which may not be complete, and puts those for
    /// the peer behind `out`. Gives the number of bytes that it needs no more; all others, and in the same
    /// place, it must be shown again with what follows.
    ///
    /// # Errors
    /// What the library says; an alert for the peer is in `out` then.
    pub fn hear(&mut self, bytes: &mut [u8], out: &mut VecDeque<Vec<u8>>) -> Result<usize, Error> {
        let mut done = 0;
        loop {
            match self.step(bytes, &mut done, out) {
                Ok(true) => {}
                Ok(false) => return Ok(done),
                Err(error) => {
                    // What waits to be sent comes before everything else.
                    while self.state().wants_write()
                        && self.step(bytes, &mut done, out).is_ok_and(|more| more)
                    {
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Whether there may be more to do with what has come.
    fn step(
        &mut self,
        bytes: &mut [u8],
        done: &mut usize,
        out: &mut VecDeque<Vec<u8>>,
    ) -> Result<bool, Error> {
        let bytes = &mut bytes[*done..];
        match self {
            Handshake::Server(server) => settle(server.process_tls_records(bytes), done, out),
            Handshake::Client(client) => settle(client.process_tls_records(bytes), done, out),
        }
    }

    fn state(&self) -> &CommonState {
        match self {
            Handshake::Server(server) => server,
            Handshake::Client(client) => client,
        }
    }

    /// Whether both sides have finished.
    pub fn is_over(&self) -> bool {
        !self.state().is_handshaking()
    }

    /// Whether both sides have agreed on a protocol (ALPN).
    pub fn has_protocol(&self) -> bool {
        self.state().alpn_protocol().is_some()
    }

    /// Whether the agreement on keys is still to come, and with it all that takes long.
    pub fn is_hard(&self) -> bool {
        self.state().negotiated_key_exchange_group().is_none()
    }

    /// What goes through the connection now; after [`Handshake::is_over`], and with nothing left that
    /// would have to be shown again.
    ///
    /// # Errors
    /// Settings that forbid it, or a handshake that is not over.
    pub fn into_records(self) -> Result<Records, Error> {
        match self {
            Handshake::Server(server) => {
                let (secrets, schedule) = server.dangerous_into_kernel_connection()?;
                Records::server(secrets, schedule)
            }
            Handshake::Client(client) => {
                let (secrets, schedule) = client.dangerous_into_kernel_connection()?;
                Records::client(secrets, schedule)
            }
        }
    }
}

/// Does what the library asks for next, and says whether there may be more.
fn settle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    done: &mut usize,
    out: &mut VecDeque<Vec<u8>>,
) -> Result<bool, Error> {
    *done += status.discard;
    match status.state? {
        ConnectionState::EncodeTlsData(mut record) => {
            let length = match record.encode(&mut []) {
                Err(EncodeError::InsufficientSize(size)) => size.required_size,
                _ => 0,
            };
            let mut bytes = vec![0; length];
            record.encode(&mut bytes).map_err(|error| Error::General(error.to_string()))?;
            out.push_back(bytes);
            Ok(true)
        }
        ConnectionState::TransmitTlsData(sent) => {
            sent.done();
            Ok(true)
        }
        ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => Ok(false),
        // Records are shown one by one until it is over, and no settings allow early data.
        _ => Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into()),
    }
}
