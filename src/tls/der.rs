//! Just enough of a certificate's encoding (RFC 5280, section 4) to read its dates, and whether it
//! may sign others.

use crate::logging::Utc;

/// A certificate's notBefore and notAfter; `None` when it is not an X.509 certificate.
pub fn validity(certificate: &[u8]) -> Option<[Utc; 2]> {
    let (validity, _) = expect(SEQUENCE, from_validity(certificate)?)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, _) = time(rest)?;
    Some([not_before, not_after])
}

/// Whether a certificate says of itself that it is an authority (RFC 5280, section 4.2.1.9).
pub fn is_authority(certificate: &[u8]) -> bool {
    basic_constraints(certificate).is_some_and(|value| {
        let constraints = expect(SEQUENCE, value).and_then(|(all, _)| expect(BOOLEAN, all));
        constraints.is_some_and(|(ca, _)| ca.iter().any(|byte| *byte != 0))
    })
}

/// The value of the extension, where there is one.
fn basic_constraints(certificate: &[u8]) -> Option<&[u8]> {
    let mut rest = from_validity(certificate)?;
    // Validity, subject, key, and two numbers that nobody uses.
    for tag in [SEQUENCE, SEQUENCE, SEQUENCE] {
        (_, rest) = expect(tag, rest)?;
    }
    for tag in UNIQUE_IDS {
        rest = expect(tag, rest).map_or(rest, |(_, after)| after);
    }
    let (extensions, _) = expect(EXTENSIONS, rest)?;
    let (mut extensions, _) = expect(SEQUENCE, extensions)?;
    while let Some((extension, after)) = expect(SEQUENCE, extensions) {
        extensions = after;
        let (name, mut rest) = expect(NAME, extension)?;
        // The field that says whether it is critical is optional.
        rest = expect(BOOLEAN, rest).map_or(rest, |(_, after)| after);
        if name == BASIC_CONSTRAINTS {
            return expect(OCTETS, rest).map(|(value, _)| value);
        }
    }
    None
}

/// The certificate from its dates on.
fn from_validity(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = expect(SEQUENCE, certificate)?;
    let (mut rest, _) = expect(SEQUENCE, certificate)?;
    // Version (which version 1 leaves out), serial number, signature algorithm, issuer.
    if let Some((_, after)) = expect(VERSION, rest) {
        rest = after;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, rest) = expect(tag, rest)?;
    }
    Some(rest)
}

/// The kind of a private key, as far as that may be why it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// RSA.
    Rsa {
        /// Of the modulus.
        bits: usize,
    },
    /// ECDSA on the curve P-521.
    P521,
}

/// The kind of a private key in PKCS#8 (RFC 5208), PKCS#1 (RFC 8017, appendix A.1.2) or SEC1 form;
/// `None` for others.
pub fn key(der: &[u8]) -> Option<Key> {
    /// secp521r1, 1.3.132.0.35.
    const P521: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
    if der.windows(P521.len()).any(|at| at == P521) {
        return Some(Key::P521);
    }
    let (fields, _) = expect(SEQUENCE, der)?;
    let (_, after_version) = expect(INTEGER, fields)?;
    let modulus = match expect(SEQUENCE, after_version) {
        Some((_, rest)) => {
            let (key, _) = expect(OCTETS, rest)?;
            let (fields, _) = expect(SEQUENCE, key)?;
            let (_, rest) = expect(INTEGER, fields)?;
            expect(INTEGER, rest)?.0
        }
        None => expect(INTEGER, after_version)?.0,
    };
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.get(zeros)?;
    Some(Key::Rsa { bits: (modulus.len() - zeros) * 8 - first.leading_zeros() as usize })
}

const BOOLEAN: u8 = 0x01;
const OCTETS: u8 = 0x04;
const NAME: u8 = 0x06;
const UNIQUE_IDS: [u8; 2] = [0x81, 0x82];
const EXTENSIONS: u8 = 0xa3;
/// 2.5.29.19.
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The content of the element at the front, which must have this tag, and what follows it.
fn expect(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[first, length], rest) = der.split_first_chunk::<2>()?;
    if first != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// `YYMMDDHHMMSSZ` (1950 to 2049) or `YYYYMMDDHHMMSSZ`.
fn time(der: &[u8]) -> Option<(Utc, &[u8])> {
    let (digits, is_short, rest) = match expect(UTC_TIME, der) {
        Some((short, rest)) => (short, true, rest),
        None => {
            let (long, rest) = expect(GENERALIZED_TIME, der)?;
            (long, false, rest)
        }
    };
    let digits = digits.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) || digits.len() != if is_short { 12 } else { 14 } {
        return None;
    }
    let number = |pair: &[u8]| pair.iter().fold(0, |sum, digit| sum * 10 + (digit - b'0'));
    let mut pairs = digits.chunks_exact(2).map(number);
    let mut next = || pairs.next();
    let century = if is_short { None } else { next() };
    let year = next()?;
    let century = century.unwrap_or(if year < 50 { 20 } else { 19 });
    let date = [u16::from(century) * 100 + u16::from(year), next()?.into(), next()?.into()];
    Some((Utc::of(date, [next()?, next()?, next()?]), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_time_are_read() {
        let mut params = rcgen::CertificateParams::new(vec!["example.org".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(1999, 12, 31);
        params.not_after = rcgen::date_time_ymd(2050, 1, 2);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let der: &[u8] = certificate.der();
        let [from, until] = validity(der).unwrap();
        assert_eq!([from, until], [Utc(946_598_400), Utc(2_524_694_400)]);
        for cut in 0..der.len() {
            // The dates stand near the front; a cut anywhere must only not panic.
            let _ = validity(&der[..cut]);
        }
        for (at, byte) in (0..der.len()).flat_map(|at| [0, 0x17, 0x30, 0x84, 0xff].map(|b| (at, b)))
        {
            let mut broken = der.to_vec();
            broken[at] = byte;
            let _ = validity(&broken);
        }
    }
}
