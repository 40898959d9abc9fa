//! The cryptography: ring, with its ciphers in the order that suits the processor; and the hash that
//! certificates are known by.

use futures_rustls::pki_types::CertificateDer;
use futures_rustls::rustls::CipherSuite;
use futures_rustls::rustls::crypto::{CryptoProvider, ring};

/// What agents of version 3 offer, and what is selected by a connector that expects version 3 then (ALPN; protocol
/// page, section 8, step 1).
pub(super) const TUNNEL: &[u8] = b"iofog-tunnel";

pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let sha256 = ring::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .map(|suite| suite.common.hash_provider.hash(certificate));
    let bytes: Vec<_> =
        sha256.iter().flat_map(|hash| hash.as_ref()).map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

/// ring, with the cheapest ciphers first: those of AES-128 in TLS 1.3 where there are instructions for `aes`, whose
/// handshakes do with SHA-256, for which there mostly are instructions, too; else ChaCha20-Poly1305.
pub(super) fn provider(aes: bool) -> CryptoProvider {
    let mut provider = ring::default_provider();
    let suites = provider.cipher_suites.into_iter();
    let (mut first, rest): (Vec<_>, Vec<_>) = suites.partition(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => aes,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => !aes,
        _ => false,
    });
    first.extend(rest);
    provider.cipher_suites = first;
    provider
}

/// Whether the processor has AES instructions that ring uses; on 32-bit ARM it uses none.
pub(super) fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
    return false;
}
