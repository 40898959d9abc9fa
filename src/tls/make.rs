//! The self-signed pair that a connector without one makes for itself at its first start
//! (protocol page, section 1).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use futures_rustls::pki_types::DnsName;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, date_time_ymd,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::fault::TlsError;
use super::pem::{CERTIFICATE, KEY};

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
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2049, 12, 31);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = names(address)?;
    let mut subject = DistinguishedName::new();
    // A common name has at most 64 characters; clients look at the alternative names.
    let common = if address.len() <= 64 { address } else { env!("CARGO_PKG_NAME") };
    subject.push(DnType::CommonName, common);
    params.distinguished_name = subject;
    let mut serial = uuid::Uuid::new_v4().into_bytes();
    // Positive, and not shortened by leading zeros.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(TlsError::Make)?;
    let certificate = params.self_signed(&key).map_err(TlsError::Make)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// What the certificate is for: `address`, the host's name, localhost and loopback.
fn names(address: &str) -> Result<Vec<SanType>, TlsError> {
    let mut names = Vec::new();
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    for name in [address, &host, "localhost"] {
        let name = match name.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            // A host's name can be anything; one that is no valid DNS name would spoil the rest.
            Err(_) => match DnsName::try_from(name.trim_end_matches('.')) {
                Ok(dns) => SanType::DnsName(dns.as_ref().try_into().map_err(TlsError::Make)?),
                Err(_) => continue,
            },
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let name = SanType::IpAddress(ip);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}
