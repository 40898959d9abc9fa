//! The self-signed pair that a connector without one makes for itself at its first start
//! (protocol page, section 1).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use futures_rustls::pki_types::DnsName;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::der::{self, DNS_NAME, EXTENSIONS, INTEGER, IP_ADDRESS, OCTETS, SEQUENCE, SET, UTF8};
use super::{CERTIFICATE, KEY, TlsError};

/// Makes the pair and puts both files into `dir`, the key unreadable to others. Power may fail
/// at any instant: both are on disk under other names before the first gets its own, and
/// [`finish`] gives the second one its name at the next start.
pub(super) fn make(dir: &Path, address: &str) -> Result<(), TlsError> {
    let (certificate, key) = pair(address)?;
    for (name, pem, mode) in [(KEY, key, 0o600), (CERTIFICATE, certificate, 0o644)] {
        let path = fresh(dir, name);
        write(&path, &pem, mode).map_err(TlsError::file(&path))?;
    }
    sync(dir)?;
    publish(dir, KEY)?;
    publish(dir, CERTIFICATE)?;
    sync(dir)
}

/// The name that a file made by [`make`] has until both are complete.
pub(super) fn fresh(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".{name}.new"))
}

/// Gives the file `name` its name, which no other file may have.
pub(super) fn finish(dir: &Path, name: &str) -> Result<(), TlsError> {
    publish(dir, name)?;
    sync(dir)
}

fn publish(dir: &Path, name: &str) -> Result<(), TlsError> {
    let (from, to) = (fresh(dir, name), dir.join(name));
    let moved = match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
        // File systems without the flag have the older way.
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(&from, &to).and_then(|()| fs::remove_file(&from))
        }
        moved => moved.map_err(io::Error::from),
    };
    moved.map_err(TlsError::file(&to))
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The umask narrowed the mode; a certificate is for everybody.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync(dir: &Path) -> Result<(), TlsError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(TlsError::file(dir))
}

/// Certificate and key as PEM. The dates do not depend on the clock: gateways boot without one.
fn pair(address: &str) -> Result<(String, String), TlsError> {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| TlsError::Make)?;
    let key =
        EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).map_err(|_| TlsError::Make)?;
    // A common name has at most 64 characters; clients look at the alternative names.
    let common = if address.len() <= 64 { address } else { env!("CARGO_PKG_NAME") };
    let content = content(common, &names(address), key.public_key().as_ref());
    let signature = key.sign(&random, &content).map_err(|_| TlsError::Make)?;
    let certificate = der::sequence(&[&content, SIGNED, &der::bits(signature.as_ref())]);
    Ok((pem("CERTIFICATE", &certificate), pem("PRIVATE KEY", pkcs8.as_ref())))
}

/// AlgorithmIdentifier: ecdsa-with-SHA256.
const SIGNED: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
/// AlgorithmIdentifier: ecPublicKey on prime256v1.
const PUBLIC_KEY: &[u8] =
    b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
/// Validity: from 2000-01-01 to 2049-12-31.
const VALIDITY: &[u8] = b"\x30\x1e\x17\x0d000101000000Z\x17\x0d491231000000Z";
/// Version 3.
const VERSION: &[u8] = b"\xa0\x03\x02\x01\x02";
/// commonName.
const COMMON_NAME: &[u8] = b"\x06\x03\x55\x04\x03";
/// Extensions: no authority (basicConstraints, critical), digitalSignature alone (keyUsage,
/// critical), serverAuth (extendedKeyUsage).
const PURPOSE: &[u8] = b"\x30\x0c\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x02\x30\x00\
    \x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x07\x80\
    \x30\x13\x06\x03\x55\x1d\x25\x04\x0c\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01";
/// subjectAltName and subjectKeyIdentifier.
const NAMES: &[u8] = b"\x06\x03\x55\x1d\x11";
const KEY_IDENTIFIER: &[u8] = b"\x06\x03\x55\x1d\x0e";

/// What is signed: TBSCertificate (RFC 5280, section 4.1), issued by its subject.
fn content(common: &str, names: &[Vec<u8>], key: &[u8]) -> Vec<u8> {
    let mut serial = uuid::Uuid::new_v4().into_bytes();
    // Positive, and not shortened by leading zeros.
    serial[0] = serial[0] & 0x7f | 0x40;
    let common = der::sequence(&[COMMON_NAME, &der::element(UTF8, &[common.as_bytes()])]);
    let name = der::sequence(&[&der::element(SET, &[&common])]);
    let names = der::element(SEQUENCE, names);
    let identifier = &digest(&SHA256, key).as_ref()[..20].to_vec();
    let extensions = der::sequence(&[
        PURPOSE,
        &der::sequence(&[NAMES, &der::element(OCTETS, &[names])]),
        &der::sequence(&[
            KEY_IDENTIFIER,
            &der::element(OCTETS, &[der::element(OCTETS, &[identifier])]),
        ]),
    ]);
    der::sequence(&[
        VERSION,
        &der::element(INTEGER, &[serial]),
        SIGNED,
        &name,
        VALIDITY,
        &name,
        &der::sequence(&[PUBLIC_KEY, &der::bits(key)]),
        &der::element(EXTENSIONS, &[extensions]),
    ])
}

/// What the certificate is for, as GeneralNames: `address`, the host's name, localhost and
/// loopback.
fn names(address: &str) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    for name in [address, &host, "localhost", "127.0.0.1", "::1"] {
        let name = match name.parse() {
            Ok(IpAddr::V4(ip)) => der::element(IP_ADDRESS, &[ip.octets()]),
            Ok(IpAddr::V6(ip)) => der::element(IP_ADDRESS, &[ip.octets()]),
            // A host's name can be anything; one that is no DNS name would spoil the rest.
            Err(_) => match DnsName::try_from(name.trim_end_matches('.')) {
                Ok(dns) => der::element(DNS_NAME, &[dns.as_ref()]),
                Err(_) => continue,
            },
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// RFC 7468: lines of 64 characters between two that say what it is.
fn pem(label: &str, content: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in content.chunks(48) {
        for group in line.chunks(3) {
            let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte));
            let bits = bits << (8 * (3 - group.len()));
            for place in 0..4 {
                let index = (bits >> (18 - 6 * place)) as usize % ALPHABET.len();
                text.push(if place <= group.len() { ALPHABET[index].into() } else { '=' });
            }
        }
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_read_as_it_was_written() {
        use futures_rustls::pki_types::pem::{PemObject, SectionKind};
        for length in 0..200 {
            let bytes: Vec<u8> = (0..length).map(|n: u16| (n * 37) as u8 ^ 0xa5).collect();
            let text = pem("CERTIFICATE", &bytes);
            assert!(text.lines().all(|line| line.len() <= 64), "{text}");
            let read = <(SectionKind, Vec<u8>)>::from_pem_slice(text.as_bytes()).unwrap();
            assert_eq!(read.1, bytes);
        }
    }
}
