//! TLS as agents, users and Controllers speak it: a certificate is checked against the one they
//! were given, by name.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, NamedGroup, RootCertStore};

/// A client that trusts the certificates in this PEM file and no others, and that keeps no
/// sessions, as the field's agents do.
pub fn trusting(pem: &Path) -> Arc<ClientConfig> {
    let builder = builder(pem).with_no_client_auth();
    Arc::new(without_sessions(builder))
}

/// A client like this one that offers these names in ALPN, and keeps the sessions that it is given
/// where there is a place for them.
pub fn offering(
    config: &ClientConfig,
    names: &[&str],
    tickets: Option<&Arc<Tickets>>,
) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
    if let Some(tickets) = tickets {
        config.resumption = Resumption::store(tickets.clone());
    }
    Arc::new(config)
}

/// The sessions that servers have given to clients, of whatever name.
#[derive(Debug, Default)]
pub struct Tickets {
    given: AtomicUsize,
    kept: Mutex<Vec<Tls13ClientSessionValue>>,
}

impl Tickets {
    /// How many were given.
    pub fn given(&self) -> usize {
        self.given.load(Ordering::SeqCst)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {
        self.given.fetch_add(1, Ordering::SeqCst);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.given.fetch_add(1, Ordering::SeqCst);
        self.kept.lock().expect("tickets").push(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.lock().expect("tickets").pop()
    }
}

/// The same with a client certificate.
pub fn trusting_with_identity(pem: &Path, identity: &Identity) -> Arc<ClientConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.serialize_der()));
    let config = builder(pem)
        .with_client_auth_cert(vec![identity.certificate.der().clone()], key)
        .expect("client certificate");
    Arc::new(without_sessions(config))
}

/// The same for one TLS version only.
pub fn trusting_version(
    pem: &Path,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    Arc::new(without_sessions(with_version(pem, version)))
}

/// The same for TLS 1.2, whose sessions are kept and resumed.
pub fn resuming_tls12(pem: &Path) -> Arc<ClientConfig> {
    Arc::new(with_version(pem, &rustls::version::TLS12))
}

fn with_version(pem: &Path, version: &'static rustls::SupportedProtocolVersion) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("protocol version")
        .with_root_certificates(roots(pem))
        .with_no_client_auth()
}

/// The same for TLS 1.3 with AES-128-GCM alone, whose secrets are told to `log`.
pub fn forging(pem: &Path, log: Arc<dyn rustls::KeyLog>) -> ClientConfig {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = vec![rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("protocol version")
        .with_root_certificates(roots(pem))
        .with_no_client_auth();
    let mut config = without_sessions(config);
    config.key_log = log;
    config
}

fn builder(pem: &Path) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("protocol versions")
        .with_root_certificates(roots(pem))
}

fn roots(pem: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(pem)
        .unwrap_or_else(|error| panic!("{}: {error}", pem.display()));
    for certificate in certificates {
        roots.add(certificate.expect("PEM")).expect("a certificate that can be trusted");
    }
    roots
}

fn without_sessions(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config
}

/// A certificate authority that exists for one test.
pub struct Authority {
    key: rcgen::KeyPair,
    parameters: rcgen::CertificateParams,
    certificate: rcgen::Certificate,
}

/// A certificate and its key.
pub struct Identity {
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Authority {
    /// A new authority of this name.
    pub fn new(name: &str) -> Self {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("key");
        let certificate = parameters.self_signed(&key).expect("certificate");
        Authority { key, parameters, certificate }
    }

    /// Its own certificate as PEM.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", self.certificate.der())
    }

    /// A certificate for these names, good for servers and clients, at any time.
    pub fn sign(&self, names: &[&str]) -> Identity {
        self.sign_with(names, |_| {})
    }

    /// The same, valid from the beginning of one year to the beginning of another.
    pub fn sign_for_years(&self, names: &[&str], from: i32, to: i32) -> Identity {
        self.sign_with(names, |parameters| {
            parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
            parameters.not_after = rcgen::date_time_ymd(to, 1, 1);
        })
    }

    /// The same, valid until this moment, in seconds since the epoch.
    pub fn sign_until(&self, names: &[&str], seconds: u64) -> Identity {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        self.sign_with(names, |parameters| {
            parameters.not_after = epoch + std::time::Duration::from_secs(seconds);
        })
    }

    fn sign_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = rcgen::CertificateParams::new(names).expect("parameters");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "signed");
        parameters.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut parameters);
        let key = rcgen::KeyPair::generate().expect("key");
        let issuer = rcgen::Issuer::from_params(&self.parameters, &self.key);
        let certificate = parameters.signed_by(&key, &issuer).expect("signed certificate");
        Identity { certificate, key }
    }
}

impl Identity {
    /// The certificate as PEM.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", self.certificate.der())
    }

    /// A server that shows it.
    pub fn serving(&self) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key)
            .expect("server certificate");
        Arc::new(config)
    }

    /// The key as PKCS#8 PEM.
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.key.serialize_der())
    }
}

/// DER bytes as PEM.
fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for three in line.chunks(3) {
            let mut bits = 0;
            for index in 0..3 {
                bits = bits << 8 | u32::from(three.get(index).copied().unwrap_or(0));
            }
            for index in 0..4 {
                let digit = DIGITS[(bits >> (18 - 6 * index) & 63) as usize];
                text.push(if index > three.len() { '=' } else { char::from(digit) });
            }
        }
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
