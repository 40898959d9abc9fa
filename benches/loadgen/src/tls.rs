//! TLS 1.3 clients that accept any certificate: for measuring only. Every connection is a full
//! handshake, but for those of agents of version 3.

use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, NamedGroup, SignatureScheme,
};

use crate::arguments::{Arguments, die};

/// What an agent that can speak version 3 offers in ALPN (protocol page, section 8, step 1).
const TUNNEL: &[u8] = b"iofog-tunnel";

/// What `--tls` and `--cipher` ask for.
pub(crate) fn config(arguments: &Arguments) -> Option<Arc<ClientConfig>> {
    arguments.flag("tls").then(|| {
        let cipher = arguments.get::<String>("cipher");
        let suite = match cipher.as_deref() {
            None | Some("aes128") => ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            Some("aes256") => ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
            Some("chacha") => ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            Some(other) => die(format_args!("--cipher {other}: aes128, aes256 or chacha")),
        };
        let provider = CryptoProvider { cipher_suites: vec![suite], ..ring::default_provider() };
        let schemes = provider.signature_verification_algorithms.supported_schemes();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])
            .unwrap_or_else(|error| die(error))
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny(schemes)))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    })
}

/// The same for agents of version 3, which remember what makes their next handshakes short unless
/// `--forgetful` is given.
pub(crate) fn config_of_frames(arguments: &Arguments) -> Option<Arc<ClientConfig>> {
    config(arguments).map(|mut shared| {
        let config = Arc::make_mut(&mut shared);
        config.alpn_protocols = vec![TUNNEL.to_vec()];
        if !arguments.flag("forgetful") {
            config.resumption = Resumption::store(Arc::new(Tickets::default()));
        }
        shared
    })
}

/// Tickets that are kept: enough for thousands of tunnels that come back at one time. rustls' own
/// store keeps 8 for each name, which is less than the agent dials at one time.
const TICKETS: usize = 32 * 1024;

/// Tickets of the one connector that an agent dials; the newest is used first, and once.
#[derive(Debug, Default)]
struct Tickets(Mutex<Vec<Tls13ClientSessionValue>>);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        if let Ok(mut tickets) = self.0.lock() {
            if tickets.len() < TICKETS {
                tickets.push(ticket);
            }
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().ok()?.pop()
    }
}

/// One connection's session.
pub(crate) fn session(config: &Arc<ClientConfig>) -> ClientConnection {
    let session =
        ServerName::try_from("localhost").map_err(|error| error.to_string()).and_then(|name| {
            ClientConnection::new(config.clone(), name).map_err(|error| error.to_string())
        });
    let mut session = session.unwrap_or_else(|error| die(error));
    session.set_buffer_limit(None);
    session
}

#[derive(Debug)]
struct AcceptAny(Vec<SignatureScheme>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
