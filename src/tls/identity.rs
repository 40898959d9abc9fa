//! The certificate with its key, warnings about them, and the TLS settings made from them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_rustls::pki_types::{CertificateDer, ServerName};
use futures_rustls::rustls::client::verify_server_name;
use futures_rustls::rustls::crypto::ring;
use futures_rustls::rustls::server::{
    NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
};
use futures_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use futures_rustls::rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig};

use super::fault::TlsError;
use super::pem::{CERTIFICATE, KEY, certificates, roots, signing_key, unusable};
use super::provider::{TUNNEL, fingerprint, has_aes, provider};
use super::{der, make, sni};
use crate::logging::{ALWAYS, Utc};
use crate::text::event::Event;
use crate::text::reason;

/// A certificate with its chain and the key that belongs to it.
#[derive(Debug)]
pub struct Identity {
    pub(super) certified: Arc<CertifiedKey>,
    /// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` shows it.
    pub fingerprint: String,
    /// Sentences for the operator about what works, but probably not as intended.
    pub warnings: Vec<String>,
    pub(super) dates: Dates,
    /// Whether this start has made it.
    pub made: bool,
}

impl Identity {
    /// Reads the pair in `dir`, and makes it first where both files are missing. `address` is the
    /// name that the certificate should carry.
    pub fn load_or_make(dir: &Path, address: &str) -> Result<Self, TlsError> {
        let [certificate, key] = [CERTIFICATE, KEY].map(|name| there(&dir.join(name)));
        let mut made = false;
        match (certificate?, key?) {
            (true, true) => {}
            (false, false) => {
                make::make(dir, address)?;
                made = true;
            }
            (true, false) => finish(dir, KEY)?,
            (false, true) => finish(dir, CERTIFICATE)?,
        }
        Ok(Identity { made, ..Self::load(dir, address)? })
    }

    /// Reads the pair in `dir`.
    pub fn load(dir: &Path, address: &str) -> Result<Self, TlsError> {
        let [certificate, key] = [CERTIFICATE, KEY].map(|name| dir.join(name));
        match (there(&certificate)?, there(&key)?) {
            (true, false) => return Err(TlsError::Missing { path: key, other: certificate }),
            (false, true) => return Err(TlsError::Missing { path: certificate, other: key }),
            _ => {}
        }
        Self::read(&certificate, &key, address)
    }

    fn read(certificate: &Path, key: &Path, address: &str) -> Result<Self, TlsError> {
        let chain = certificates(certificate, None)?;
        let certified = CertifiedKey::new(chain, signing_key(key)?);
        match certified.keys_match() {
            Ok(()) => {}
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                let fault = format!(
                    "its first certificate does not belong to the key in {}; the server's own \
                     certificate comes first, then its chain",
                    key.display()
                );
                return Err(TlsError::content(certificate, fault));
            }
            Err(error) => {
                let fault = format!("not a certificate that can be used: {}", unusable(&error));
                return Err(TlsError::content(certificate, fault));
            }
        }
        let own = certified.end_entity_cert().map_err(TlsError::Settings)?;
        let dates = Dates { file: certificate.to_owned(), validity: der::validity(own) };
        let warnings =
            misnamed(certificate, own, address).into_iter().chain(readable(key)).collect();
        let fingerprint = fingerprint(own);
        let certified = Arc::new(certified);
        Ok(Identity { certified, fingerprint, warnings, dates, made: false })
    }

    /// For agents that do not offer [`TUNNEL`]: no TLS sessions are resumed. The field's agents keep none, and would throw away
    /// the tickets sent to them.
    pub fn tunnel_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.config(None).map(Arc::new)
    }

    /// For agents that offer [`TUNNEL`]: they resume their sessions. Two tickets, since each serves one handshake
    /// (RFC 8446, appendix C.4), and an agent mostly dials more tunnels than one. Otherwise as for users.
    pub fn tunnel_again_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = self.resuming(2)?;
        config.alpn_protocols = vec![TUNNEL.to_vec()];
        Ok(Arc::new(config))
    }

    /// For users: browsers resume their TLS sessions, for 12 hours at most. The session's state is in
    /// the browser's ticket, encrypted with a key of this process that changes every 6 hours. Kept
    /// here instead, each session would pin a page of memory that its connection had used.
    pub fn user_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.resuming(1).map(Arc::new)
    }

    /// With so many tickets in TLS 1.3, and one in TLS 1.2.
    fn resuming(&self, tickets: usize) -> Result<ServerConfig, TlsError> {
        let mut config = self.config(None)?;
        config.ticketer = ring::Ticketer::new().map_err(TlsError::Settings)?;
        config.send_tls13_tickets = tickets;
        Ok(config)
    }

    /// For the API: with `controller_ca`, a PEM file and its authorities, callers need a certificate
    /// signed by one of them.
    pub(super) fn api_config(
        &self,
        controller_ca: Option<(&Path, Arc<RootCertStore>)>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        self.config(controller_ca).map(Arc::new)
    }

    fn config(
        &self,
        client_ca: Option<(&Path, Arc<RootCertStore>)>,
    ) -> Result<ServerConfig, TlsError> {
        let aes = has_aes();
        let mut provider = provider(aes);
        provider.cipher_suites = sni::honest(&provider.cipher_suites);
        let provider = Arc::new(provider);
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Settings)?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some((path, authorities)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider)
                    .build()
                    .map_err(|error| TlsError::content(path, error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let resolver = SingleCertAndKey::from(self.certified.clone());
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.ignore_client_order = !aes;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        // The keys go to `records`, and nowhere else.
        config.enable_secret_extraction = true;
        Ok(config)
    }
}

/// Whether a file exists. It is an error when that cannot be told, or when there is a dangling link:
/// its target may be on a file system that is not mounted yet, so the file does not count as missing.
pub(super) fn there(path: &Path) -> Result<bool, TlsError> {
    if path.try_exists().map_err(TlsError::file(path))? {
        return Ok(true);
    }
    match std::fs::read_link(path) {
        Err(_) => Ok(false),
        Ok(target) => {
            let target = target.display();
            let fault = format!(
                "it is a link to {target}, which does not exist; mount or make that, or remove the \
                 link"
            );
            Err(TlsError::content(path, fault))
        }
    }
}

/// Completes a first start that was interrupted before it could give the file `name` its final name,
/// if that file belongs to the other one, which already has its own.
fn finish(dir: &Path, name: &str) -> Result<(), TlsError> {
    let place = |file| if file == name { make::fresh(dir, file) } else { dir.join(file) };
    match Identity::read(&place(CERTIFICATE), &place(KEY), "localhost") {
        Ok(_) => make::finish(dir, name),
        // Then the file is simply missing; the caller reports it.
        Err(_) => Ok(()),
    }
}

/// The authorities of API callers.
pub(super) fn controllers(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    roots(path).map_err(|fault| match fault {
        // The operator must learn which setting names the file.
        TlsError::File { path, error } => TlsError::Authorities { path, error },
        fault => fault,
    })
}

/// A certificate that ends within so many seconds, 30 days, is a warning.
const ENDS_SOON: u64 = 30 * 24 * 60 * 60;

/// How a certificate's dates stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing is wrong with them.
    Good,
    /// It ends within [`ENDS_SOON`].
    EndsSoon,
    /// It has ended.
    Expired,
    /// It has not begun.
    Early,
}

/// The dates of a certificate.
#[derive(Clone, Debug)]
pub(super) struct Dates {
    pub(super) file: PathBuf,
    /// The first and last moment.
    pub(super) validity: Option<[Utc; 2]>,
}

impl Dates {
    /// How they stand at `now`.
    pub(super) fn stand(&self, now: Utc) -> Standing {
        match self.validity {
            Some([_, until]) if until < now => Standing::Expired,
            Some([from, _]) if now < from => Standing::Early,
            Some([_, until]) if until.0 < now.0 + ENDS_SOON => Standing::EndsSoon,
            _ => Standing::Good,
        }
    }

    /// Logs what is wrong with them at `now`, and gives it.
    pub(super) fn tell(&self, now: Utc) -> Option<String> {
        self.doubt(now).inspect(|doubt| {
            log::warn!(target: ALWAYS, event = Event::CertificateEnds.word(); "{doubt}");
        })
    }

    /// What is wrong with them at `now`.
    pub(super) fn doubt(&self, now: Utc) -> Option<String> {
        let [from, until] = self.validity?;
        let path = self.file.display();
        let remedy = "put a new one in place and reload";
        match self.stand(now) {
            Standing::Good => None,
            Standing::EndsSoon => Some(format!(
                "{path}: expires at {until}, and from then on agents and users will refuse it; {remedy}"
            )),
            Standing::Expired => Some(format!(
                "{path}: expired at {until} (the clock says {now}); agents and users will refuse \
                 it; {remedy}, or move it and {KEY} away and restart to have a self-signed pair made"
            )),
            Standing::Early => {
                Some(format!("{path}: not valid before {from} (the clock says {now}: is it set?)"))
            }
        }
    }
}

/// A warning about a certificate that is not valid for `address`.
pub(super) fn misnamed(path: &Path, own: &CertificateDer<'_>, address: &str) -> Option<String> {
    let fits =
        ParsedCertificate::try_from(own).and_then(|own| match ServerName::try_from(address) {
            Ok(name) => verify_server_name(&own, &name),
            Err(_) => Err(Error::UnsupportedNameType),
        });
    fits.is_err().then(|| {
        let path = path.display();
        format!(
            "{path}: not valid for \"{address}\", the `address` in the settings; agents and users that \
             connect by that name will refuse it"
        )
    })
}

/// A warning about a key that everybody on the machine can read.
fn readable(key: &Path) -> Option<String> {
    let mode = std::fs::metadata(key).ok()?.mode();
    let fault = reason::exposed("key", mode)?;
    let key = key.display();
    Some(format!("{key}: {fault} (chmod 600 {key})"))
}
