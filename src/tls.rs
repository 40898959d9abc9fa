//! TLS: from PEM files to what the listeners accept with (protocol page, section 1).
//!
//! Owns the certificate, the key, the choice of ciphers and the sentences for what can be wrong
//! with them. It knows nothing of sockets.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use futures_rustls::pki_types::pem::PemObject;
use futures_rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use futures_rustls::rustls::client::verify_server_name;
use futures_rustls::rustls::crypto::{CryptoProvider, ring};
use futures_rustls::rustls::server::{
    NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
};
use futures_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use futures_rustls::rustls::{
    AlertDescription, CertificateError, CipherSuite, Error, InconsistentKeys, InvalidMessage,
    RootCertStore, ServerConfig,
};

use crate::config;
use crate::logging::{ALWAYS, Utc};
use crate::text::mark;
use crate::text::reason;

pub use client::{client_config, explain_connector, is_distrust};

mod client;
pub(crate) mod der;
mod make;
pub(crate) mod sni;
mod words;

/// The file with the certificate, then its chain.
pub const CERTIFICATE: &str = "server-cert.pem";

/// The file with the key.
pub const KEY: &str = "server-key.pem";

/// Bytes read of a PEM file at most: a chain is a few KiB, the largest bundle of authorities
/// about 250.
const PEM_FILE: u64 = 1024 * 1024;

/// What is wrong with the TLS files.
#[derive(Debug)]
pub enum TlsError {
    /// A file cannot be read.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file cannot be made.
    Unwritten {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file does not hold what it should.
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what would be right.
        fault: String,
    },
    /// One file of the pair is there, the other is not.
    Missing {
        /// The one that is missing.
        path: PathBuf,
        /// The one that is there.
        other: PathBuf,
    },
    /// The self-signed pair could not be made.
    Make(rcgen::Error),
    /// The TLS library refuses its settings.
    Settings(Error),
}

impl TlsError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |error| TlsError::File { path, error }
    }

    fn unwritten(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |error| TlsError::Unwritten { path, error }
    }

    fn content(path: &Path, fault: impl Into<String>) -> Self {
        TlsError::Content { path: path.to_owned(), fault: fault.into() }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::File { path, error } => {
                write!(f, "{}: {}", path.display(), reason::reading(path, error))
            }
            TlsError::Unwritten { path, error } => {
                write!(f, "{} cannot be made: {}", path.display(), reason::writing(path, error))
            }
            TlsError::Content { path, fault } => write!(f, "{}: {fault}", path.display()),
            TlsError::Missing { path, other } => write!(
                f,
                "{} is missing, while {} is there; add it, or move the other away to have a \
                 self-signed pair made at the next start",
                path.display(),
                other.display()
            ),
            TlsError::Make(error) => write!(f, "a self-signed certificate cannot be made: {error}"),
            TlsError::Settings(error) => write!(f, "TLS cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// A certificate with its chain and key, known to fit each other.
#[derive(Debug)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    /// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` shows it.
    pub fingerprint: String,
    /// What works, but probably not as wanted: sentences for the operator.
    pub warnings: Vec<String>,
    dates: Dates,
    /// Whether it was made just now.
    pub made: bool,
}

impl Identity {
    /// Reads the pair in `dir`, after making it where neither file is there. `address` is the
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
        let chain = certificates(certificate)?;
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
        let mut warnings = dates.doubt(Utc::now()).into_iter().collect::<Vec<_>>();
        warnings.extend(misnamed(certificate, own, address));
        warnings.extend(readable(key));
        let fingerprint = fingerprint(own);
        let certified = Arc::new(certified);
        Ok(Identity { certified, fingerprint, warnings, dates, made: false })
    }

    /// For agents: nothing is remembered between connections, because the field's agents keep
    /// no sessions and would only be sent tickets that they throw away.
    pub fn tunnel_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.config(None).map(Arc::new)
    }

    /// For users: browsers resume their sessions, for 12 hours at most. What is remembered of one
    /// is in the browser's ticket, under a key of this process that changes every 6 hours: kept
    /// here, each would hold on to a page of memory that its connection had used.
    pub fn user_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = self.config(None)?;
        config.ticketer = ring::Ticketer::new().map_err(TlsError::Settings)?;
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }

    /// For the API: with `controller_ca`, a PEM file of authorities, callers need a certificate
    /// signed by one of them.
    pub fn api_config(&self, controller_ca: Option<&Path>) -> Result<Arc<ServerConfig>, TlsError> {
        self.config(controller_ca).map(Arc::new)
    }

    fn config(&self, client_ca: Option<&Path>) -> Result<ServerConfig, TlsError> {
        let aes = has_aes();
        let mut provider = provider(aes);
        provider.cipher_suites = sni::honest(&provider.cipher_suites);
        let provider = Arc::new(provider);
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Settings)?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(controllers(path)?, provider)
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
        Ok(config)
    }
}

/// What every listener accepts with, made from one reading of the files.
#[derive(Debug)]
pub struct Configs {
    /// Agents' tunnels.
    pub tunnel: Arc<ServerConfig>,
    /// Users of public pipes.
    pub user: Arc<ServerConfig>,
    /// The control API.
    pub api: Arc<ServerConfig>,
    dates: Dates,
    /// Whether the log has what is wrong with these dates.
    is_told: AtomicBool,
}

/// The TLS settings in force, which a reload replaces for new connections. Shared by threads.
#[derive(Debug)]
pub struct Tls(RwLock<Arc<Configs>>);

impl Tls {
    /// Reads the files in `dir`, makes those that a first start makes, and logs the certificate's
    /// fingerprint and what is doubtful about it.
    pub fn start(dir: &Path, address: &str, ca: Option<&Path>) -> Result<Self, TlsError> {
        let identity = Identity::load_or_make(dir, address)?;
        Ok(Tls(RwLock::new(Arc::new(Configs::new(&identity, ca)?))))
    }

    /// Reads the files again. An error leaves the settings in force as they were.
    pub fn reload(&self, dir: &Path, address: &str, ca: Option<&Path>) -> Result<(), TlsError> {
        let configs = Arc::new(Configs::new(&Identity::load(dir, address)?, ca)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = configs;
        Ok(())
    }

    /// What is wrong with the dates of the certificate in force, by the clock of this moment.
    pub fn outdated(&self) -> Option<String> {
        self.current().dates.doubt(Utc::now())
    }

    /// Logs once that the certificate in force is out of its time.
    pub fn tell_outdated(&self) {
        let configs = self.current();
        let Some(doubt) = configs.dates.doubt(Utc::now()) else { return };
        if !configs.is_told.swap(true, Ordering::Relaxed) {
            log::warn!(target: ALWAYS, "{doubt}");
        }
    }

    /// The settings in force now, for the next connection.
    pub fn current(&self) -> Arc<Configs> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Configs {
    fn new(identity: &Identity, ca: Option<&Path>) -> Result<Self, TlsError> {
        let configs = Configs {
            tunnel: identity.tunnel_config()?,
            user: identity.user_config()?,
            api: identity.api_config(ca)?,
            is_told: identity.dates.doubt(Utc::now()).is_some().into(),
            dates: identity.dates.clone(),
        };
        let made = if identity.made { "made self-signed certificate" } else { "certificate" };
        log::info!(target: ALWAYS, "{made}, SHA-256 fingerprint {}", identity.fingerprint);
        for warning in &identity.warnings {
            log::warn!(target: ALWAYS, "{warning}");
        }
        Ok(configs)
    }
}

/// What the TLS files look like, for the `check` command: warnings, or all that is wrong. It
/// changes nothing: with neither file there, it says that a start makes them.
pub fn check(dir: &Path, address: &str, ca: Option<&Path>) -> Result<Vec<String>, Vec<TlsError>> {
    let mut warnings = Vec::new();
    let mut errors = Vec::new();
    match [CERTIFICATE, KEY].map(|name| there(&dir.join(name))) {
        [Ok(false), Ok(false)] => {
            let dir = dir.display();
            warnings.push(format!(
                "{dir}: neither {CERTIFICATE} nor {KEY} is there; `start` makes a self-signed pair"
            ));
        }
        [Err(certificate), Err(key)] => errors.extend([certificate, key]),
        _ => match Identity::load(dir, address) {
            Ok(identity) => warnings.extend(identity.warnings),
            Err(error) => errors.push(error),
        },
    }
    if let Some(Err(error)) = ca.map(controllers) {
        errors.push(error);
    }
    if errors.is_empty() { Ok(warnings) } else { Err(errors) }
}

/// Why a handshake failed, as a sentence for the log. `error` is what accepting returned.
pub fn explain_handshake(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(tls) => explain(tls),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the peer closed the connection during the TLS handshake".into()
        }
        None => error.to_string(),
    }
}

fn explain(error: &Error) -> String {
    use CertificateError::{
        Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    match error {
        Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => format!(
            "the peer's certificate is not valid yet; this machine's clock says {}: if that is \
             wrong, the clock is not set",
            Utc::now()
        ),
        Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            format!("the peer's certificate has expired; this machine's clock says {}", Utc::now())
        }
        Error::InvalidCertificate(UnknownIssuer) => {
            "the peer's certificate is not signed by an authority in controllerca".into()
        }
        Error::NoCertificatesPresented => {
            "the peer has shown no certificate, and controllerca asks for one".into()
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the peer does not speak TLS".into()
        }
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown,
        ) => "the peer does not accept this connector's certificate; give it a copy of \
              server-cert.pem, or have that signed by an authority that it trusts (`status` warns \
              of one that has expired)"
            .into(),
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "by the peer's clock this connector's certificate has expired, or is not valid yet; put \
             a new server-cert.pem in place (`status` warns of one that has expired), or set the \
             peer's clock"
                .into()
        }
        error => words::handshake(error),
    }
}

/// Whether a file is there; an error when that cannot be told, or when there is a link that leads
/// nowhere: its file may be in a place that is not mounted yet, and must not be taken for missing.
fn there(path: &Path) -> Result<bool, TlsError> {
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

/// Gives the file `name` its name, where a first start was interrupted before it could and the
/// file fits the one that has its own.
fn finish(dir: &Path, name: &str) -> Result<(), TlsError> {
    let place = |file| if file == name { make::fresh(dir, file) } else { dir.join(file) };
    match Identity::read(&place(CERTIFICATE), &place(KEY), "localhost") {
        Ok(_) => make::finish(dir, name),
        // Then it is simply missing, which the caller finds.
        Err(_) => Ok(()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(TlsError::file(path))?;
    file.take(PEM_FILE + 1).read_to_end(&mut text).map_err(TlsError::file(path))?;
    if text.is_empty() {
        let fault =
            "the file is empty; put in what its name says, in PEM (a line -----BEGIN …-----)";
        return Err(TlsError::content(path, fault));
    }
    if text.len() as u64 > PEM_FILE {
        return Err(TlsError::content(path, "larger than 1 MiB, so no file of certificates"));
    }
    Ok(mark::skip(&text).to_vec())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| {
            TlsError::content(path, format!("not a PEM file: {}", words::file(&error)))
        })?;
    if chain.is_empty() {
        let mut fault =
            "holds no certificate; a line -----BEGIN CERTIFICATE----- is expected".to_owned();
        if PrivateKeyDer::from_pem_slice(&text).is_ok() {
            fault
                .push_str(&format!(", and there is a key: are {CERTIFICATE} and {KEY} exchanged?"));
        }
        return Err(TlsError::content(path, fault));
    }
    Ok(chain)
}

fn signing_key(path: &Path) -> Result<Arc<dyn futures_rustls::rustls::sign::SigningKey>, TlsError> {
    let text = read(path)?;
    let fault = |kinds: &str, what: &str| {
        // PKCS#8 says it in its label; the older form, in a header, keeps the key's own.
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
            // Both were taken by the Java connector.
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

/// The authorities of API callers.
fn controllers(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    roots(path).map_err(|fault| match fault {
        // Somebody who reads this must learn which setting has named the file.
        TlsError::File { path, error } => {
            let why = reason::reading(&path, &error);
            let fault = format!("{why}; `controllerca` in {} names it", config::FILE);
            TlsError::Content { path, fault }
        }
        fault => fault,
    })
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for (number, certificate) in (1..).zip(certificates(path)?) {
        roots.add(certificate).map_err(|error| {
            let fault = format!("certificate {number} cannot be used: {}", unusable(&error));
            TlsError::content(path, fault)
        })?;
    }
    Ok(Arc::new(roots))
}

/// Why the TLS library refuses a certificate from our own files, which it calls a peer's.
fn unusable(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(fault) => words::certificate(fault),
        error => words::handshake(error),
    }
}

/// The dates of a certificate.
#[derive(Clone, Debug)]
struct Dates {
    file: PathBuf,
    /// As [`Utc`] shows them, from and until.
    validity: Option<[String; 2]>,
}

impl Dates {
    /// What is wrong with them at this moment.
    fn doubt(&self, now: Utc) -> Option<String> {
        let [from, until] = self.validity.as_ref()?;
        let (path, now) = (self.file.display(), now.to_string());
        if *until < now {
            return Some(format!(
                "{path}: expired at {until} (the clock says {now}); agents and users will refuse \
                 it; put a new one in place and reload, or move it and {KEY} away and restart to \
                 have a self-signed pair made"
            ));
        }
        (now < *from)
            .then(|| format!("{path}: not valid before {from} (the clock says {now}: is it set?)"))
    }
}

/// A doubt about a certificate that is made out to others than `address`.
fn misnamed(path: &Path, own: &CertificateDer<'_>, address: &str) -> Option<String> {
    let fits =
        ParsedCertificate::try_from(own).and_then(|own| match ServerName::try_from(address) {
            Ok(name) => verify_server_name(&own, &name),
            Err(_) => Err(Error::UnsupportedNameType),
        });
    fits.is_err().then(|| {
        let path = path.display();
        format!(
            "{path}: not made out to \"{address}\", the `address` in the settings; agents and \
             users that connect by that name will refuse it"
        )
    })
}

/// A doubt about a key that everybody on the machine can read.
fn readable(key: &Path) -> Option<String> {
    let mode = std::fs::metadata(key).ok()?.mode();
    (mode & 0o004 != 0).then(|| {
        let key = key.display();
        format!("{key}: everybody on this machine can read the key (chmod 600 {key})")
    })
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let sha256 = ring::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .map(|suite| suite.common.hash_provider.hash(certificate));
    let bytes: Vec<_> =
        sha256.iter().flat_map(|hash| hash.as_ref()).map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

/// ring, with ChaCha20-Poly1305 first where AES is slow.
fn provider(aes: bool) -> CryptoProvider {
    let mut provider = ring::default_provider();
    if !aes {
        let suites = provider.cipher_suites.into_iter();
        let (mut first, rest): (Vec<_>, Vec<_>) = suites.partition(|suite| {
            matches!(
                suite.suite(),
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                    | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
            )
        });
        first.extend(rest);
        provider.cipher_suites = first;
    }
    provider
}

/// Whether the processor has AES instructions that ring uses; on 32-bit ARM it uses none.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
    return false;
}

#[cfg(test)]
mod tests;
