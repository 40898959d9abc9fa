//! PEM files to certificates and keys, with a sentence for each thing that can be wrong in them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_rustls::pki_types::pem::PemObject;
use futures_rustls::pki_types::{CertificateDer, PrivateKeyDer};
use futures_rustls::rustls::crypto::ring;
use futures_rustls::rustls::sign::SigningKey;
use futures_rustls::rustls::{Error, RootCertStore};

use super::fault::TlsError;
use super::{der, words};
use crate::text::{file, mark};

/// The file with the certificate, then its chain.
pub const CERTIFICATE: &str = "server-cert.pem";

/// The file with the key.
pub const KEY: &str = "server-key.pem";

/// Most bytes read of a PEM file: a chain is a few KiB, the largest bundle of authorities about
/// 250 KiB.
const PEM_FILE: usize = 1024 * 1024;

fn read(path: &Path, wait: Option<Duration>) -> Result<Vec<u8>, TlsError> {
    let text = file::read(path, PEM_FILE, wait).map_err(TlsError::file(path))?;
    if text.is_empty() {
        let fault =
            "the file is empty; put in what its name says, in PEM (a line -----BEGIN …-----)";
        return Err(TlsError::content(path, fault));
    }
    if text.len() > PEM_FILE {
        return Err(TlsError::content(path, "larger than 1 MiB, so not a file of certificates"));
    }
    Ok(mark::skip(&text).to_vec())
}

/// With `wait` the file may be a pipe that is written in this time.
pub(super) fn certificates(
    path: &Path,
    wait: Option<Duration>,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path, wait)?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| {
            TlsError::content(path, format!("not a PEM file: {}", words::file(&error)))
        })?;
    if chain.is_empty() {
        let mut fault =
            "holds no certificate; a line -----BEGIN CERTIFICATE----- is expected".to_owned();
        if PrivateKeyDer::from_pem_slice(&text).is_ok() {
            fault.push_str(&format!(", and there is a key: are {CERTIFICATE} and {KEY} swapped?"));
        }
        return Err(TlsError::content(path, fault));
    }
    Ok(chain)
}

pub(super) fn signing_key(path: &Path) -> Result<Arc<dyn SigningKey>, TlsError> {
    let text = read(path, None)?;
    let fault = |kinds: &str, what: &str| {
        // PKCS#8 says so in its label; the older form says so in a header under an ordinary label.
        if text.windows(9).any(|at| at == b"ENCRYPTED") {
            return TlsError::content(path, ENCRYPTED);
        }
        TlsError::content(path, format!("holds no key that can be used ({kinds}): {what}"))
    };
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        fault("PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY", &words::file(&error))
    })?;
    ring::sign::any_supported_type(&key).map_err(|_| {
        let what = match der::key(key.secret_der()) {
            // The Java connector accepted both.
            Some(der::Key::Rsa { bits }) if bits < 2048 => {
                format!("it is an RSA key of {bits} bits, too short for TLS today; {NEW_PAIR}")
            }
            Some(der::Key::P521) => {
                format!("it is an ECDSA key on the curve P-521, which is not supported; {NEW_PAIR}")
            }
            _ => format!("it is damaged, or of another kind; {NEW_PAIR}"),
        };
        fault("RSA of 2048 to 8192 bits, ECDSA P-256 or P-384, Ed25519", &what)
    })
}

const NEW_PAIR: &str = "make a new key and certificate, or move both files away to have a \
                        self-signed pair made, and give agents and users the new certificate";

const ENCRYPTED: &str = "the key is encrypted, and nobody is there to give its password when the \
                         daemon starts; store it without one (openssl pkey -in OLD -out NEW)";

pub(super) fn roots(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for (number, certificate) in (1..).zip(certificates(path, None)?) {
        roots.add(certificate).map_err(|error| {
            let fault = format!("certificate {number} cannot be used: {}", unusable(&error));
            TlsError::content(path, fault)
        })?;
    }
    Ok(Arc::new(roots))
}

/// Why the TLS library refuses a certificate from our own files. The library's errors speak of a
/// peer's certificate.
pub(super) fn unusable(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(fault) => words::certificate(fault),
        error => words::handshake(error),
    }
}
