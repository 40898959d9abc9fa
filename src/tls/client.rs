//! The agent's side of TLS: which connector the command `tunnel` trusts.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use futures_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use futures_rustls::rustls::client::{Resumption, Tls12Resumption, WebPkiServerVerifier};
use futures_rustls::rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
};
use futures_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage,
    OtherError, RootCertStore, SignatureScheme,
};

use super::fault::TlsError;
use super::pem::certificates;
use super::provider::{TUNNEL, fingerprint, has_aes, provider};
use super::tickets::Tickets;
use super::{der, words};
use crate::logging::Utc;
use crate::text::line::shown;

/// Where systems keep their trusted authorities.
pub const SYSTEM: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Which connectors are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// Those with a certificate that the system's authorities have signed.
    System,
    /// Those with a certificate of this PEM file, and those with one that an authority in it has
    /// signed.
    File(PathBuf),
    /// Those with one of these certificates, and no others.
    Pins(Vec<Pin>),
}

/// The SHA-256 fingerprint of a certificate, as the connector's log shows it: upper case, with
/// colons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin(String);

impl FromStr for Pin {
    type Err = String;

    /// Takes 64 hexadecimal digits, with and without `SHA256:` before them and colons among them.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.to_ascii_uppercase().replace(':', "");
        let digits = ["SHA256", "SHA-256"]
            .iter()
            .find_map(|name| digits.strip_prefix(name))
            .unwrap_or(&digits);
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(format!(
                "{} is not SHA256: and the 64 hexadecimal digits of a certificate's \
                 fingerprint; the connector's log shows them at its start",
                shown(text)
            ));
        }
        let mut pin = String::with_capacity(3 * 32);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && index % 2 == 0 {
                pin.push(':');
            }
            pin.push(digit);
        }
        Ok(Pin(pin))
    }
}

/// Trusts whom `trusted` names.
///
/// A certificate from a file is pinned: a server that shows it and has its key is trusted, whatever
/// name, dates and use the certificate states; so is one with a pinned fingerprint. A certificate
/// signed by an authority must fit the name and the clock.
///
/// Version 3 is offered (protocol page, section 8, step 1), and sessions of TLS are resumed.
///
/// With `wait` the file may be a pipe that is written in this time.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub fn client_config(
    trusted: &Trusted,
    wait: Option<Duration>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(provider(has_aes()));
    let (path, ca, pins) = match trusted {
        Trusted::System => (system(), None, Vec::new()),
        Trusted::File(path) => (Some(path.as_path()), Some(path), Vec::new()),
        Trusted::Pins(pins) => (None, None, pins.clone()),
    };
    let pinned = match path {
        Some(path) => certificates(path, wait)?,
        None => Vec::new(),
    };
    let mut roots = RootCertStore::empty();
    // A pinned certificate that is no authority does not make others trusted. The system's list is
    // taken as it is.
    let is_root = |root: &&CertificateDer<'_>| ca.is_none() || der::is_authority(root);
    roots.add_parsable_certificates(pinned.iter().filter(is_root).cloned());
    let authorities = if roots.is_empty() {
        None
    } else {
        let builder = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
        Some(
            builder
                .build()
                .map_err(|error| TlsError::Settings(Error::General(error.to_string())))?,
        )
    };
    let source = match ca {
        Some(ca) => ca.display().to_string(),
        None => "the system's authorities".into(),
    };
    let pinned = if ca.is_some() { pinned } else { Vec::new() };
    let trust = Trust { pinned, pins, authorities, source, provider: provider.clone() };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Settings)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust))
        .with_no_client_auth();
    config.alpn_protocols = vec![TUNNEL.to_vec()];
    // Connectors that select this give tickets (TLS 1.3); what is kept of them ends with these settings, so
    // that certificates that are not trusted any more count no longer than until files are read again.
    config.resumption =
        Resumption::store(Arc::new(Tickets::default())).tls12_resumption(Tls12Resumption::Disabled);
    // The keys go to `records`, and nowhere else.
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

fn system() -> Option<&'static Path> {
    SYSTEM.iter().map(Path::new).find(|path| path.exists())
}

#[derive(Debug)]
struct Trust {
    pinned: Vec<CertificateDer<'static>>,
    /// Where not empty, these alone are trusted.
    pins: Vec<Pin>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    /// Names for the operator what is trusted.
    source: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pinned.iter().any(|pinned| pinned == certificate) {
            return Ok(ServerCertVerified::assertion());
        }
        if !self.pins.is_empty() {
            let shown = fingerprint(certificate);
            return match self.pins.iter().any(|pin| pin.0 == shown) {
                true => Ok(ServerCertVerified::assertion()),
                false => Err(refusal(unpinned(&shown))),
            };
        }
        let verdict = match &self.authorities {
            Some(authorities) => {
                authorities.verify_server_cert(certificate, chain, name, ocsp, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        verdict.map_err(|error| match error {
            Error::InvalidCertificate(fault) => refusal(self.explain(&fault, certificate, name)),
            error => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Trust {
    /// Why a certificate is refused, with the remedy.
    fn explain(
        &self,
        fault: &CertificateError,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
    ) -> String {
        use CertificateError as Fault;
        let source = &self.source;
        let name = name.to_str();
        let shown = fingerprint(certificate);
        let remedy = "copy the connector's server-cert.pem to this machine and name it with --ca";
        match fault {
            Fault::UnknownIssuer | Fault::BadSignature | Fault::InvalidPurposeContext { .. } => {
                format!(
                    "the connector's certificate (SHA-256 fingerprint {shown}) is neither among \
                     {source} nor signed by one of them; if it is the right one, {remedy}"
                )
            }
            Fault::NotValidForNameContext { presented, .. } => {
                let names = match presented.join(", ") {
                    none if none.is_empty() => "no names at all".into(),
                    names => names,
                };
                format!(
                    "the connector's certificate is not valid for {name}, but for {names}; give \
                     --connector one of these, or {remedy}"
                )
            }
            Fault::Expired | Fault::ExpiredContext { .. } => format!(
                "the connector's certificate has expired; this machine's clock says {}: set the \
                 clock if that is wrong, else the connector needs a new certificate",
                Utc::now()
            ),
            Fault::NotValidYet | Fault::NotValidYetContext { .. } => format!(
                "the connector's certificate is not valid yet; this machine's clock says {}: set \
                 the clock if that is wrong",
                Utc::now()
            ),
            fault => {
                let what = words::certificate(fault);
                format!("the connector's certificate cannot be accepted: {what}; or {remedy}")
            }
        }
    }
}

/// Why a certificate with the fingerprint `shown` is refused where others are pinned.
fn unpinned(shown: &str) -> String {
    format!(
        "the connector's certificate is not the one that --pin names: its SHA-256 fingerprint is \
         {shown}. If the connector's log shows this one at its start, trust it with --pin \
         SHA256:{shown} (pin= in a file); else another machine answers in the connector's place"
    )
}

/// A refusal of a certificate with this sentence.
fn refusal(sentence: String) -> Error {
    CertificateError::Other(OtherError(Arc::new(Refusal(sentence)))).into()
}

/// Why a connector's certificate is refused: a sentence with the remedy.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// Whether a handshake failed because the connector's certificate is not trusted.
pub fn is_distrust(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(error, Some(Error::InvalidCertificate(_)))
}

/// What may be wrong where TLS is not answered with TLS.
pub const MAYBE_DEV: &str = "; if it is a `dev` connector, use --plain";

/// Why a handshake with a connector failed, as a sentence with the remedy. `error` is what
/// connecting returned.
pub fn explain_connector(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(CertificateError::Other(sentence))) => sentence.to_string(),
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            format!("it does not speak TLS{MAYBE_DEV}")
        }
        Some(Error::AlertReceived(AlertDescription::HandshakeFailure)) => {
            "it supports no TLS version or cipher that is considered safe".into()
        }
        Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            "it takes TLS connections for other protocols alone (ALPN), which ports for agents never do: that \
             is a port for users (port2), or no ioFog Connector. Name port1; `iofog-connector mapping list` \
             shows both"
                .into()
        }
        Some(error) => format!("the TLS handshake failed: {}", words::handshake(error)),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            format!("it closed the connection during the TLS handshake{MAYBE_DEV}")
        }
        None => format!("the TLS handshake failed: {error}"),
    }
}
