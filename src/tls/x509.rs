//! Writes the one certificate that a connector makes for itself (RFC 5280, section 4), in DER
//! (X.690). A crate that writes any certificate takes 50 KB of the program.

use std::net::IpAddr;

use futures_rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use futures_rustls::rustls::Error;

use super::provider::sha256;

/// A name that a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// Of a host.
    Dns(String),
    /// An address of its own.
    Ip(IpAddr),
}

/// The certificate of a server, valid from 2000 to 2049: signed with ECDSA and SHA-256 by `sign`, the
/// key that belongs to it.
pub(super) fn self_signed(
    serial: [u8; 16],
    common: &str,
    names: &[Name],
    key: &SubjectPublicKeyInfoDer<'_>,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, Error>,
) -> Result<CertificateDer<'static>, Error> {
    let algorithm = element(SEQUENCE, &[ECDSA_WITH_SHA256]);
    let subject = element(SEQUENCE, &[COMMON_NAME, &element(UTF8_STRING, &[common.as_bytes()])]);
    let subject = element(SEQUENCE, &[&element(SET, &[&subject])]);
    let [from, until] = [b"000101000000Z", b"491231000000Z"].map(|day| element(UTC_TIME, &[day]));
    let names: Vec<u8> = names.iter().flat_map(Name::der).collect();
    let extensions = [
        extension(SUBJECT_ALT_NAME, &element(SEQUENCE, &[&names])),
        extension(KEY_USAGE, DIGITAL_SIGNATURE),
        extension(EXTENDED_KEY_USAGE, &element(SEQUENCE, &[SERVER_AUTH])),
        // Any number that tells keys apart; 160 bits of a hash are usual.
        extension(SUBJECT_KEY_IDENTIFIER, &element(OCTETS, &[&sha256(key)[..20]])),
        extension(BASIC_CONSTRAINTS, NO_AUTHORITY),
    ];
    let extensions = element(SEQUENCE, &extensions.each_ref().map(Vec::as_slice));
    let content = element(
        SEQUENCE,
        &[
            VERSION_3,
            &element(INTEGER, &[&serial]),
            &algorithm,
            &subject, // Of the issuer.
            &element(SEQUENCE, &[&from, &until]),
            &subject,
            key,
            &element(EXTENSIONS, &[&extensions]),
        ],
    );
    let signature = element(BITS, &[&[0], &sign(&content)?]);
    Ok(element(SEQUENCE, &[&content, &algorithm, &signature]).into())
}

impl Name {
    fn der(&self) -> Vec<u8> {
        match self {
            Name::Dns(name) => element(0x82, &[name.as_bytes()]),
            Name::Ip(IpAddr::V4(ip)) => element(0x87, &[&ip.octets()]),
            Name::Ip(IpAddr::V6(ip)) => element(0x87, &[&ip.octets()]),
        }
    }
}

/// `name` says whether it is critical, too.
fn extension(name: &[u8], value: &[u8]) -> Vec<u8> {
    element(SEQUENCE, &[name, &element(OCTETS, &[value])])
}

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut der = vec![tag];
    let length = content.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    if content.len() > 0x7f {
        der.push(0x80 | (length.len() - zeros) as u8);
    }
    der.extend(&length[zeros.min(length.len() - 1)..]);
    der.extend(content);
    der
}

const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const EXTENSIONS: u8 = 0xa3;

// Whole elements. In the names of extensions `01 01 ff` says: critical.
const VERSION_3: &[u8] = &[0xa0, 3, INTEGER, 1, 2];
/// 1.2.840.10045.4.3.2.
const ECDSA_WITH_SHA256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
/// 2.5.4.3.
const COMMON_NAME: &[u8] = &[6, 3, 0x55, 4, 3];
/// 2.5.29.14.
const SUBJECT_KEY_IDENTIFIER: &[u8] = &[6, 3, 0x55, 0x1d, 14];
/// 2.5.29.15.
const KEY_USAGE: &[u8] = &[6, 3, 0x55, 0x1d, 15, 1, 1, 0xff];
/// 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[6, 3, 0x55, 0x1d, 17];
/// 2.5.29.19.
const BASIC_CONSTRAINTS: &[u8] = &[6, 3, 0x55, 0x1d, 19, 1, 1, 0xff];
/// 2.5.29.37.
const EXTENDED_KEY_USAGE: &[u8] = &[6, 3, 0x55, 0x1d, 37];
/// The first bit of them; seven bits of the byte are unused.
const DIGITAL_SIGNATURE: &[u8] = &[BITS, 2, 7, 0x80];
/// 1.3.6.1.5.5.7.3.1.
const SERVER_AUTH: &[u8] = &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1];
/// What is left out has its default: no authority.
const NO_AUTHORITY: &[u8] = &[SEQUENCE, 0];

#[cfg(test)]
mod tests {
    use ::ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    use rcgen::{CustomExtension, DnType, PublicKeyData, SanType};

    use super::*;

    /// The same, by a crate that writes any certificate.
    fn by_rcgen(
        serial: [u8; 16],
        common: &str,
        names: &[Name],
        key: &rcgen::KeyPair,
    ) -> rcgen::Certificate {
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2049, 12, 31);
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let name = |name: &Name| match name {
            Name::Dns(name) => SanType::DnsName(name.as_str().try_into().unwrap()),
            Name::Ip(ip) => SanType::IpAddress(*ip),
        };
        params.subject_alt_names = names.iter().map(name).collect();
        let hash = sha256(&key.subject_public_key_info());
        let number = element(OCTETS, &[&hash[..20]]);
        let mut constraints = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0]);
        constraints.set_criticality(true);
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&[2, 5, 29, 14], number), constraints];
        params.self_signed(key).unwrap()
    }

    #[test]
    fn what_is_written_is_what_a_library_writes_and_the_signature_holds() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let many = (0..400).map(|at| Name::Dns(format!("host-{at}.{}", "x".repeat(at % 200 / 4))));
        let mut small = vec![Name::Dns("gate".into()), Name::Ip(loopback)];
        small.push(Name::Ip("2001:db8::7".parse().unwrap()));
        for (common, names) in
            [("gate", small), ("gäte", vec![Name::Ip(loopback)]), (&"c".repeat(64), many.collect())]
        {
            let serial = [0x41, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 255];
            let pair = rcgen::KeyPair::generate().unwrap();
            let key = pair.serialize_der().try_into().unwrap();
            let key = futures_rustls::rustls::crypto::ring::sign::any_ecdsa_type(&key).unwrap();
            let public = key.public_key().unwrap();
            let mut content = Vec::new();
            let made = self_signed(serial, common, &names, &public, |bytes| {
                content = bytes.to_vec();
                let schemes = [futures_rustls::rustls::SignatureScheme::ECDSA_NISTP256_SHA256];
                key.choose_scheme(&schemes).unwrap().sign(bytes)
            });
            let made = made.unwrap();
            let other = by_rcgen(serial, common, &names, &pair);
            // Signatures differ each time.
            assert!(other.der().windows(content.len()).any(|part| part == content), "{common}");
            let at = made.windows(content.len()).position(|part| part == content).unwrap();
            let rest = &made[at + content.len() + element(SEQUENCE, &[ECDSA_WITH_SHA256]).len()..];
            // BIT STRING, its length, no unused bits.
            let signature = &rest[3..];
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, pair.public_key_raw())
                .verify(&content, signature)
                .unwrap();
        }
    }
}
