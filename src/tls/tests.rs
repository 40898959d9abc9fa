use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use futures_rustls::pki_types::pem::PemObject;
use futures_rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use futures_rustls::rustls::crypto::ring;
use futures_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use futures_rustls::rustls::{
    ALL_VERSIONS, ClientConfig, ClientConnection, Error, HandshakeKind, ProtocolVersion,
    ServerConnection, SupportedProtocolVersion, version,
};
use rcgen::{CertificateParams, KeyPair};

use super::identity::misnamed;
use super::pem::roots;
use super::provider::provider;
use super::words::explain;
use super::*;
use crate::testing::folder::Folder;

impl Folder {
    fn write(&self, name: &str, text: &str) {
        fs::write(self.join(name), text).unwrap();
    }

    fn load(&self) -> Result<Identity, TlsError> {
        Identity::load_or_make(self, "gate.example.org")
    }

    fn fault(&self) -> String {
        let error = self.load().unwrap_err();
        error.to_string().replace(&self.display().to_string(), "DIR")
    }
}

fn pair(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Runs a handshake in memory; returns both sides, or the first error.
fn handshake(
    server: Arc<ServerConfig>,
    client: ClientConfig,
    name: &str,
) -> Result<(ServerConnection, ClientConnection), Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    exchange(server, ClientConnection::new(Arc::new(client), name).unwrap())
}

fn exchange(
    server: Arc<ServerConfig>,
    mut client: ClientConnection,
) -> Result<(ServerConnection, ClientConnection), Error> {
    let mut server = ServerConnection::new(server).unwrap();
    let mut wire = Vec::new();
    for _ in 0..10 {
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets()?;
        wire.clear();
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    Ok((server, client))
}

fn client(trust: &Path, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots(trust).unwrap())
        .with_no_client_auth()
}

#[test]
fn first_start_makes_a_pair_that_clients_accept_by_every_name() {
    let folder = Folder::new();
    let identity = folder.load().unwrap();
    assert!(identity.made);
    assert_eq!(identity.warnings, [""; 0]);
    assert_eq!(folder.names(), [CERTIFICATE, KEY]);
    let mode = |name| fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(CERTIFICATE), mode(KEY)), (0o644, 0o600));

    let trust = folder.join(CERTIFICATE);
    let server = identity.tunnel_config().unwrap();
    for name in ["gate.example.org", "localhost", "127.0.0.1", "::1"] {
        for (version, spoken) in [
            (&version::TLS12, ProtocolVersion::TLSv1_2),
            (&version::TLS13, ProtocolVersion::TLSv1_3),
        ] {
            let client = client(&trust, &[version]);
            let (server, _) = handshake(server.clone(), client, name).unwrap();
            assert_eq!(server.protocol_version(), Some(spoken));
        }
    }
    let other = handshake(server, client(&trust, &[&version::TLS13]), "other.example.org");
    assert!(matches!(other, Err(Error::InvalidCertificate(_))));

    let [from, until] = der::validity(&identity.certified.cert[0]).unwrap();
    assert_eq!([from, until], [Utc(946_684_800), Utc(2_524_521_600)]);
}

#[test]
fn a_pair_is_never_overwritten_and_serials_differ() {
    let folder = Folder::new();
    let first = folder.load().unwrap();
    let second = folder.load().unwrap();
    assert!(!second.made);
    assert_eq!(first.fingerprint, second.fingerprint);
    assert_eq!(first.fingerprint.len(), 32 * 3 - 1);
    assert_ne!(Folder::new().load().unwrap().fingerprint, first.fingerprint);
    let error = make::make(&folder, "gate.example.org").unwrap_err();
    assert!(error.to_string().contains(KEY), "{error}");
    assert_eq!(folder.load().unwrap().fingerprint, first.fingerprint);
}

#[test]
fn an_interrupted_first_start_is_finished() {
    for name in [CERTIFICATE, KEY] {
        let folder = Folder::new();
        let first = folder.load().unwrap();
        fs::rename(folder.join(name), make::fresh(&folder, name)).unwrap();
        assert_eq!(folder.load().unwrap().fingerprint, first.fingerprint);
        assert_eq!(folder.names(), [CERTIFICATE, KEY]);
    }
}

#[test]
fn faults_name_the_file_and_the_remedy() {
    let (certificate, key) = pair("gate.example.org");
    let (_, other) = pair("gate.example.org");
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (certificate, key, fault) in [
        (Some(&*certificate), None, "DIR/server-key.pem is missing, while DIR/server-cert.pem"),
        (None, Some(&*key), "DIR/server-cert.pem is missing, while DIR/server-key.pem"),
        (Some(&certificate), Some(&other), "DIR/server-cert.pem: its first certificate does not"),
        (Some(""), Some(&key), "DIR/server-cert.pem: the file is empty; put in what its name says"),
        (Some(&certificate), Some(""), "DIR/server-key.pem: the file is empty"),
        (Some("text"), Some(&key), "DIR/server-cert.pem: holds no certificate"),
        (
            Some(&key),
            Some(&certificate),
            "DIR/server-cert.pem: holds no certificate; a line -----BEGIN CERTIFICATE----- is \
             expected, and there is a key: are server-cert.pem and server-key.pem swapped?",
        ),
        (Some(broken), Some(&key), "DIR/server-cert.pem: not a certificate that can be used"),
        (Some(&certificate), Some("text"), "DIR/server-key.pem: holds no key"),
        (Some(&certificate), Some(&certificate), "DIR/server-key.pem: holds no key"),
        (Some(&certificate), Some(encrypted), "DIR/server-key.pem: the key is encrypted"),
        (Some(&certificate), Some(old), "DIR/server-key.pem: the key is encrypted"),
    ] {
        let folder = Folder::new();
        for (name, text) in [(CERTIFICATE, certificate), (KEY, key)] {
            if let Some(text) = text {
                folder.write(name, text);
            }
        }
        let before = folder.names();
        assert!(folder.fault().starts_with(fault), "{fault} <> {}", folder.fault());
        assert_eq!(folder.names(), before);
        assert_eq!(check(&folder, "gate.example.org", None).unwrap_err().len(), 1);
    }
}

#[test]
fn keys_of_the_older_forms_are_read() {
    for (certificate, key, form) in [
        (include_str!("fixtures/ec-cert.pem"), include_str!("fixtures/ec-key.pem"), "EC PRIVATE"),
        (
            include_str!("fixtures/rsa-cert.pem"),
            include_str!("fixtures/rsa-key.pem"),
            "RSA PRIVATE",
        ),
    ] {
        assert!(key.contains(form));
        let folder = Folder::new();
        folder.write(CERTIFICATE, certificate);
        folder.write(KEY, key);
        folder.load().unwrap();
    }
}

#[test]
fn doubts_are_warnings() {
    let (certificate, key) = pair("other.example.org");
    let folder = Folder::new();
    folder.write(CERTIFICATE, &certificate);
    folder.write(KEY, &key);
    fs::set_permissions(folder.join(KEY), fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = folder.load().unwrap().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("not valid for \"gate.example.org\""));
    assert!(warnings[1].contains("everybody on this machine can read the key"));

    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    assert_eq!(misnamed(Path::new("x"), &der, "other.example.org"), None);
    let dates = Dates { file: "x".into(), validity: der::validity(&der) };
    let at = |now| dates.doubt(Utc(now)).unwrap_or_default();
    assert!(at(0).contains("x: not valid before 1975-01-01T00:00:00Z"));
    assert_eq!(at(u64::from(u32::MAX)), "");
    let (end, month) = (67_090_118_400, 30 * 86_400);
    assert_eq!(at(end - month), "");
    assert!(at(end - month + 1).contains("x: expires at 4096-01-01T00:00:00Z, and from then on"));
    assert!(at(end).contains("expires at"));
    assert!(at(end + 1).contains("expired at"));
    assert!(at(70_000_000_000).contains("x: expired at 4096-01-01T00:00:00Z"));
}

#[test]
fn check_names_both_links_that_lead_nowhere() {
    let folder = Folder::new();
    for name in [CERTIFICATE, KEY] {
        std::os::unix::fs::symlink("/none/such", folder.join(name)).unwrap();
    }
    let errors = check(&folder, "gate.example.org", None).unwrap_err();
    for (error, name) in errors.iter().zip([CERTIFICATE, KEY]) {
        assert!(error.to_string().contains(name), "{errors:?}");
    }
    assert_eq!(errors.len(), 2, "{errors:?}");
}

#[test]
fn check_changes_nothing() {
    let folder = Folder::new();
    let warnings = check(&folder, "gate.example.org", None).unwrap();
    assert!(warnings[0].contains("`start` makes a self-signed pair"), "{warnings:?}");
    assert_eq!(folder.names(), [""; 0]);
    let missing = folder.join("ca.pem");
    let errors = check(&folder, "gate.example.org", Some(&missing)).unwrap_err();
    assert!(errors[0].to_string().contains("ca.pem: "), "{errors:?}");
}

#[test]
fn api_callers_need_a_certificate_of_the_authority() {
    let folder = Folder::new();
    let identity = folder.load().unwrap();
    let trust = folder.join(CERTIFICATE);
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap();
    folder.write("ca.pem", &certificate.pem());
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let ca = folder.join("ca.pem");
    let server = identity.api_config(Some((&ca, roots(&ca).unwrap()))).unwrap();

    let anonymous = handshake(server.clone(), client(&trust, &[&version::TLS13]), "localhost");
    let error = anonymous.err().unwrap();
    assert!(explain(&error).contains("controllerca"), "{error}");

    for (from, sentence) in [(1980, None), (2200, Some("the clock is not set"))] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["controller".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots(&trust).unwrap())
            .with_client_auth_cert(vec![certificate], key)
            .unwrap();
        let result = handshake(server.clone(), config, "localhost");
        match (result, sentence) {
            (Ok(_), None) => {}
            (Err(error), Some(sentence)) => {
                let said = explain_handshake(&io::Error::new(io::ErrorKind::InvalidData, error));
                assert!(said.contains(sentence), "{said}");
            }
            (result, _) => panic!("{from}: {:?}", result.err()),
        }
    }
}

#[test]
fn a_bad_reload_leaves_the_old_settings_in_force() {
    let folder = Folder::new();
    let tls = Tls::start(&folder, "gate.example.org", None).unwrap();
    let before = tls.current();
    let certificate = fs::read_to_string(folder.join(CERTIFICATE)).unwrap();
    folder.write(CERTIFICATE, "garbage");
    tls.reload(&folder, "gate.example.org", None).unwrap_err();
    assert!(Arc::ptr_eq(&before, &tls.current()));
    folder.write(CERTIFICATE, &certificate);
    tls.reload(&folder, "gate.example.org", None).unwrap();
    assert!(!Arc::ptr_eq(&before, &tls.current()));
    fs::remove_file(folder.join(CERTIFICATE)).unwrap();
    fs::remove_file(folder.join(KEY)).unwrap();
    tls.reload(&folder, "gate.example.org", None).unwrap_err();
    assert_eq!(folder.names(), [""; 0], "a reload makes no files");
}

#[test]
fn aes_of_128_bits_comes_first_and_chacha20_without_aes_instructions() {
    let names = |aes| {
        let suites = provider(aes).cipher_suites;
        suites.iter().map(|suite| format!("{suite:?}")).collect::<Vec<_>>()
    };
    assert_eq!(names(true)[0], "TLS13_AES_128_GCM_SHA256");
    let slow = names(false);
    assert!(slow[..3].iter().all(|suite| suite.contains("CHACHA20")), "{slow:?}");
    assert_eq!(slow.len(), names(true).len());
}

#[test]
fn only_users_and_agents_of_version_3_are_sent_tickets() {
    let folder = Folder::new();
    let identity = folder.load().unwrap();
    assert_eq!(identity.tunnel_config().unwrap().send_tls13_tickets, 0);
    assert_eq!(identity.user_config().unwrap().send_tls13_tickets, 1);
    assert!(!identity.tunnel_config().unwrap().ticketer.enabled());
    assert!(identity.user_config().unwrap().ticketer.enabled());
    assert!(!identity.user_config().unwrap().session_storage.can_cache());
}

#[test]
fn agents_of_version_3_resume_their_sessions_twice_for_each_handshake() {
    let folder = Folder::new();
    let server = folder.load().unwrap().tunnel_again_config().unwrap();
    let mut client = client(&folder.join(CERTIFICATE), ALL_VERSIONS);
    client.alpn_protocols = vec![b"iofog-tunnel".to_vec()];
    let mut kinds = Vec::new();
    for _ in 0..3 {
        // What it resumes by is shared.
        let (server, there) = handshake(server.clone(), client.clone(), "localhost").unwrap();
        assert_eq!(server.alpn_protocol(), Some(&b"iofog-tunnel"[..]));
        assert_eq!(there.tls13_tickets_received(), 2);
        kinds.extend(server.handshake_kind());
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]);
}

#[test]
fn tunnels_that_return_at_one_time_are_all_resumed() {
    let folder = Folder::new();
    let server = folder.load().unwrap().tunnel_again_config().unwrap();
    let client = client_config(&Trusted::File(folder.join(CERTIFICATE)), None).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let tunnels = crate::limits::DIALING;
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        // Each takes its ticket before any is given new ones.
        let begun: Vec<_> = (0..tunnels)
            .map(|_| ClientConnection::new(client.clone(), name.clone()).unwrap())
            .collect();
        for client in begun {
            let (_, client) = exchange(server.clone(), client).unwrap();
            assert_eq!(client.handshake_kind(), Some(kind));
        }
    }
}

#[test]
fn what_is_pinned_and_no_authority_vouches_for_itself_alone() {
    let folder = Folder::new();
    for (is_ca, name) in [
        (rcgen::IsCa::NoCa, "alone"),
        (rcgen::IsCa::ExplicitNoCa, "explicitly none"),
        (rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained), "an authority"),
        (rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0)), "an authority of one step"),
    ] {
        let is_authority = name.starts_with("an authority");
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.is_ca = is_ca;
        let pinned = params.self_signed(&key).unwrap();
        assert_eq!(der::is_authority(pinned.der()), is_authority, "{name}");
        folder.write("pinned.pem", &pinned.pem());
        let issuer = rcgen::Issuer::new(params, &key);
        let signed_key = KeyPair::generate().unwrap();
        let signed = CertificateParams::new(vec!["localhost".into()]).unwrap();
        let signed = signed.signed_by(&signed_key, &issuer).unwrap();
        for (certificate, key, accepted) in
            [(pinned.pem(), &key, true), (signed.pem(), &signed_key, is_authority)]
        {
            folder.write(CERTIFICATE, &certificate);
            folder.write(KEY, &key.serialize_pem());
            let server = Identity::load(&folder, "localhost").unwrap().tunnel_config().unwrap();
            let client = client_config(&Trusted::File(folder.join("pinned.pem")), None).unwrap();
            let result = handshake(server, ClientConfig::clone(&client), "localhost");
            assert_eq!(result.is_ok(), accepted, "{name}: {:?}", result.err());
        }
    }
    assert!(!der::is_authority(b"no certificate"));
}

#[test]
fn a_pin_trusts_its_certificate_at_any_date_and_name_no_other_one_and_never_without_its_key() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["other.example".into()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let pinned = params.self_signed(&key).unwrap();
    // Of the same key and name: as an authority it would vouch for anything.
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let other = params.self_signed(&key).unwrap();
    let stolen_without_key = KeyPair::generate().unwrap();
    let shown = provider::fingerprint(pinned.der());
    let of_other = provider::fingerprint(other.der());
    let connect = |certificate: &rcgen::Certificate, key: &KeyPair, pins: &[&str]| {
        let trusted = Trusted::Pins(pins.iter().map(|pin| pin.parse().unwrap()).collect());
        let client = client_config(&trusted, None).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = ring::sign::any_supported_type(&key).unwrap();
        let shown = CertifiedKey::new(vec![certificate.der().clone()], key);
        let provider = Arc::new(ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        handshake(Arc::new(server), ClientConfig::clone(&client), "localhost").map(drop)
    };
    connect(&pinned, &key, &[&shown]).unwrap();
    connect(&pinned, &key, &[&of_other, &shown]).unwrap();
    let error = connect(&other, &key, &[&shown]).unwrap_err();
    let said = explain_connector(&io::Error::other(error));
    assert!(said.contains(&format!("--pin SHA256:{of_other}")), "{said}");
    let error = connect(&pinned, &stolen_without_key, &[&shown]).unwrap_err();
    assert_eq!(error, futures_rustls::rustls::CertificateError::BadSignature.into());
}
