//! The self-signed pair that a connector without one makes for itself at its first start
//! (protocol page, section 1).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ::ring::rand::SystemRandom;
use ::ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use futures_rustls::pki_types::{DnsName, PrivatePkcs8KeyDer};
use futures_rustls::rustls::SignatureScheme;
use futures_rustls::rustls::crypto::ring;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::fault::TlsError;
use super::pem::{CERTIFICATE, KEY};
use super::x509::{self, Name};
use crate::text::base64::base64;

/// Makes the pair and puts both files into `dir`, the key unreadable to others. Power may fail
/// at any instant: both are on disk under temporary names before the first is renamed, and
/// [`finish`] renames the second at the next start.
pub(super) fn make(dir: &Path, address: &str) -> Result<(), TlsError> {
    let (certificate, key) = pair(address)?;
    let begun = || {
        for (name, pem, mode) in [(KEY, &key, 0o600), (CERTIFICATE, &certificate, 0o644)] {
            let path = fresh(dir, name);
            write(&path, pem, mode).map_err(TlsError::unwritten(&path))?;
        }
        sync(dir)?;
        publish(dir, KEY)
    };
    begun().inspect_err(|_| {
        for name in [KEY, CERTIFICATE] {
            // It may not have been made. The first fault is the one reported.
            let _ = fs::remove_file(fresh(dir, name));
        }
    })?;
    publish(dir, CERTIFICATE)?;
    sync(dir)
}

/// The temporary name of a file made by [`make`], until both are complete.
pub(super) fn fresh(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".{name}.new"))
}

/// Gives the file `name` its final name, unless another file has that.
pub(super) fn finish(dir: &Path, name: &str) -> Result<(), TlsError> {
    publish(dir, name)?;
    sync(dir)
}

fn publish(dir: &Path, name: &str) -> Result<(), TlsError> {
    let (from, to) = (fresh(dir, name), dir.join(name));
    let moved = match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
        // Some file systems lack the flag; a hard link does the same.
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(&from, &to).and_then(|()| fs::remove_file(&from))
        }
        moved => moved.map_err(io::Error::from),
    };
    moved.map_err(TlsError::unwritten(&to))
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The umask may have narrowed the mode; a certificate is for everybody.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync(dir: &Path) -> Result<(), TlsError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(TlsError::unwritten(dir))
}

/// Certificate and key as PEM. The dates do not depend on the clock: gateways boot without one.
fn pair(address: &str) -> Result<(String, String), TlsError> {
    // A common name has at most 64 characters; clients look at the alternative names.
    let common = if address.len() <= 64 { address } else { env!("CARGO_PKG_NAME") };
    let mut serial = uuid::Uuid::new_v4().into_bytes();
    // Positive, and not shortened by leading zeros.
    serial[0] = serial[0] & 0x7f | 0x40;
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
    let pair = made.map_err(|_| TlsError::Make)?;
    let key = PrivatePkcs8KeyDer::from(pair.as_ref()).into();
    let key = ring::sign::any_ecdsa_type(&key).map_err(TlsError::Settings)?;
    let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
    let (Some(signer), Some(public)) = (signer, key.public_key()) else {
        return Err(TlsError::Make);
    };
    let certificate =
        x509::self_signed(serial, common, &names(address), &public, |bytes| signer.sign(bytes))
            .map_err(TlsError::Settings)?;
    Ok((pem("CERTIFICATE", &certificate), pem("PRIVATE KEY", pair.as_ref())))
}

/// RFC 7468, section 2.
fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    // 48 bytes are 64 letters.
    for line in der.chunks(48) {
        text.push_str(&base64(line));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// What the certificate is for: `address`, the host's name, localhost and loopback.
fn names(address: &str) -> Vec<Name> {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    let mut names = Vec::new();
    for name in [address, &host, "localhost", "127.0.0.1", "::1"] {
        let name = match name.parse() {
            Ok(ip) => Name::Ip(ip),
            // A host's name can be anything; one that is no valid DNS name would spoil the rest.
            Err(_) => match DnsName::try_from(name.trim_end_matches('.')) {
                Ok(dns) => Name::Dns(dns.as_ref().to_owned()),
                Err(_) => continue,
            },
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
