//! What is wrong in TLS, in words with a remedy: the library's own texts are for programmers.

use std::io;

use futures_rustls::pki_types::pem;
use futures_rustls::rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, PeerMisbehaved,
};

use crate::logging::Utc;

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

pub(super) fn explain(error: &Error) -> String {
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
        error => handshake(error),
    }
}

/// What is wrong with a certificate: a sentence about "it", and what to do.
pub(super) fn certificate(fault: &CertificateError) -> String {
    use CertificateError as Fault;
    let clock = || format!("this machine's clock says {}: is it set?", Utc::now());
    match fault {
        Fault::BadEncoding => "it is damaged".into(),
        Fault::Expired | Fault::ExpiredContext { .. } => format!("it has expired; {}", clock()),
        Fault::NotValidYet | Fault::NotValidYetContext { .. } => {
            format!("it is not valid yet; {}", clock())
        }
        Fault::Revoked => "it has been revoked; a new one is needed".into(),
        Fault::UnhandledCriticalExtension => {
            "it holds a critical extension that is not understood here; have it made without".into()
        }
        Fault::UnknownIssuer => "it is not signed by an authority that is trusted here".into(),
        Fault::BadSignature => {
            "its signature is wrong: the authority that it names has not signed it".into()
        }
        Fault::UnsupportedSignatureAlgorithmContext { .. }
        | Fault::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => signature(),
        Fault::NotValidForName => "it is valid for another name".into(),
        Fault::NotValidForNameContext { presented, .. } => {
            let names: Vec<&str> = presented.iter().filter_map(|name| host(name)).collect();
            if names.is_empty() {
                return "it names no host; have it made with subject alternative names".into();
            }
            format!("it is valid for {}", names.join(", "))
        }
        Fault::InvalidPurpose | Fault::InvalidPurposeContext { .. } => {
            "it is not made for this side of TLS; the extended key usage must name serverAuth for \
             a server, clientAuth for a caller"
                .into()
        }
        Fault::Other(other) => form(&other.to_string()),
        fault => match spoken(&format!("{fault:?}")) {
            what if what.starts_with("unsupported signature") => signature(),
            what => format!("it cannot be accepted: {what}"),
        },
    }
}

fn signature() -> String {
    "it is signed in a way, or has a key of a kind, that is not accepted here; SHA-256 or better is \
     needed, with RSA of 2048 bits or more, ECDSA P-256 or P-384, or Ed25519"
        .into()
}

/// Faults in a certificate's form. The library passes them on under the names that its certificate
/// checker gives them.
fn form(name: &str) -> String {
    match name {
        "UnsupportedCertVersion" => {
            "it is an X.509 certificate of version 1, which TLS clients do not accept; make one of \
             version 3 (openssl x509 -req with -extfile FILE, which says \
             subjectAltName=DNS:NAME; without an authority, openssl req -x509 -addext the same)"
                .into()
        }
        "CaUsedAsEndEntity" => {
            "it is the certificate of an authority (CA:TRUE), which cannot be a server's or a \
             caller's own; have a certificate without that signed by it, or make one (openssl req \
             -x509 -addext basicConstraints=critical,CA:FALSE)"
                .into()
        }
        "EndEntityUsedAsCa" => {
            "it is signed by a certificate that is no authority's (CA:FALSE); have it signed by an \
             authority"
                .into()
        }
        name => {
            format!("its form is not what RFC 5280 asks for ({}); have it made anew", spoken(name))
        }
    }
}

/// Why a peer's handshake failed.
pub(super) fn handshake(error: &Error) -> String {
    let needed = "TLS 1.2 or 1.3 is needed, with a cipher that is safe today";
    match error {
        Error::InvalidCertificate(fault) => {
            format!("the peer's certificate is refused: {}", certificate(fault))
        }
        Error::NoApplicationProtocol => {
            "the peer speaks none of the protocols in the mapping's alpn; add the one that it speaks".into()
        }
        Error::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion,
        ) => {
            format!("the peer found nothing in common; {needed}")
        }
        Error::AlertReceived(alert) => {
            format!("the peer ended the handshake ({})", spoken(&format!("{alert:?}")))
        }
        Error::PeerIncompatible(why) => {
            format!("the peer has nothing in common ({}); {needed}", spoken(&format!("{why:?}")))
        }
        Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName) => {
            "the peer asks for a server name (SNI) that cannot be a host's, which the TLS library \
             refuses; let it ask for a host's name, an IP address or none"
                .into()
        }
        Error::PeerMisbehaved(why) => {
            format!("the peer does not keep to TLS ({})", spoken(&format!("{why:?}")))
        }
        Error::InvalidMessage(what) => {
            format!("the peer sent what is no message of TLS ({})", spoken(&format!("{what:?}")))
        }
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "the peer sent a message of TLS out of turn".into()
        }
        Error::DecryptError => {
            "what the peer sent cannot be decrypted: it was changed on the way, or is no TLS".into()
        }
        Error::General(what) => what.clone(),
        error => format!("TLS failed ({})", spoken(&format!("{error:?}"))),
    }
}

/// Why a PEM file cannot be read. What stands in it, which may be a key, is not repeated.
pub(super) fn file(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => {
            "its last part has no end (-----END …-----): the file is cut off; copy it again".into()
        }
        pem::Error::IllegalSectionStart { .. } => {
            "a line that begins with -----BEGIN does not end with -----; copy the file again".into()
        }
        pem::Error::Base64Decode(_) => {
            "between -----BEGIN and -----END stands what is no base64: the file is damaged; copy it \
             again"
                .into()
        }
        pem::Error::NoItemsFound => "what is expected is not in it".into(),
        error => spoken(&format!("{error:?}")),
    }
}

/// The host in a certificate's name, which the library writes as `DnsName("host")` or `IpAddress(192.0.2.1)`.
fn host(presented: &str) -> Option<&str> {
    let dns = presented.strip_prefix("DnsName(\"").and_then(|name| name.strip_suffix("\")"));
    dns.or_else(|| presented.strip_prefix("IpAddress(")?.strip_suffix(')'))
}

/// A name from a program, without what stands in it: `NoCipherSuites(…)` is "no cipher suites".
fn spoken(name: &str) -> String {
    let name = name.split(|char: char| !char.is_ascii_alphanumeric()).next().unwrap_or_default();
    let mut words = String::new();
    let mut before = ' ';
    for char in name.chars() {
        if char.is_ascii_uppercase() && before.is_ascii_lowercase() {
            words.push(' ');
        }
        words.push(char.to_ascii_lowercase());
        before = char;
    }
    words
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_rustls::pki_types::UnixTime;
    use futures_rustls::rustls::{InvalidMessage, OtherError, PeerIncompatible};

    use super::*;

    /// Names of variants, lists of bytes, the library's own vocabulary.
    fn is_for_programmers(text: &str) -> bool {
        let camel = text.split(|char: char| !char.is_alphanumeric()).any(|word| {
            let upper = word.chars().skip(1).any(|char| char.is_ascii_uppercase());
            let known = ["subjectAltName", "basicConstraints", "serverAuth", "clientAuth"];
            upper && word.chars().any(|c| c.is_ascii_lowercase()) && !known.contains(&word)
        });
        camel || text.contains("::") || text.contains("[4") || text.contains('{')
    }

    #[test]
    fn every_fault_is_a_sentence_without_debug_text() {
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1));
        let other =
            |name: &'static str| CertificateError::Other(OtherError(Arc::from(Box::from(name))));
        let not_for = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: "connector.example".try_into().unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        };
        let said = certificate(&not_for(&["DnsName(\"a.example\")", "IpAddress(192.0.2.1)"]));
        assert_eq!(said, "it is valid for a.example, 192.0.2.1");
        assert!(certificate(&not_for(&["DirectoryName"])).starts_with("it names no host"));
        for fault in [
            CertificateError::BadEncoding,
            CertificateError::ExpiredContext { time, not_after: time },
            CertificateError::NotValidYet,
            CertificateError::Revoked,
            CertificateError::UnhandledCriticalExtension,
            CertificateError::UnknownIssuer,
            CertificateError::BadSignature,
            CertificateError::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: vec![42, 43],
                supported_algorithms: vec![],
            },
            CertificateError::NotValidForName,
            not_for(&["DnsName(\"a.example\")", "IpAddress(192.0.2.1)", "DirectoryName"]),
            CertificateError::InvalidPurpose,
            CertificateError::InvalidOcspResponse,
            CertificateError::UnknownRevocationStatus,
            CertificateError::ApplicationVerificationFailure,
            other("UnsupportedCertVersion"),
            other("CaUsedAsEndEntity"),
            other("EndEntityUsedAsCa"),
            other("MaximumPathBuildCallsExceeded"),
            other("TrailingData(Certificate)"),
        ] {
            let said = certificate(&fault);
            assert!(!is_for_programmers(&said), "{fault:?}: {said}");
            let said = handshake(&Error::InvalidCertificate(fault));
            assert!(said.starts_with("the peer's certificate is refused: it"), "{said}");
        }
        for error in [
            Error::AlertReceived(AlertDescription::UnrecognisedName),
            Error::AlertReceived(AlertDescription::HandshakeFailure),
            Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
            Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName),
            Error::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdateRequests),
            Error::InvalidMessage(InvalidMessage::MissingData("ClientHello")),
            Error::InappropriateMessage { expect_types: vec![], got_type: 22.into() },
            Error::DecryptError,
            Error::PeerSentOversizedRecord,
            Error::NoApplicationProtocol,
            Error::HandshakeNotComplete,
        ] {
            let said = handshake(&error);
            assert!(!is_for_programmers(&said), "{error:?}: {said}");
        }
        for error in [
            pem::Error::MissingSectionEnd { end_marker: vec![45, 45] },
            pem::Error::IllegalSectionStart { line: vec![45, 45] },
            pem::Error::Base64Decode("InvalidByte(3, 4)".into()),
            pem::Error::NoItemsFound,
        ] {
            let said = file(&error);
            assert!(!is_for_programmers(&said), "{error:?}: {said}");
        }
    }
}
