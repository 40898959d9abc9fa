//! As much of a certificate's encoding (RFC 5280, section 4.1) as it takes to read its dates.

/// A certificate's notBefore and notAfter as [`Utc`](crate::logging::Utc) shows times, so that
/// they compare as text; `None` when it is no X.509 certificate.
pub(crate) fn validity(certificate: &[u8]) -> Option<[String; 2]> {
    let (certificate, _) = expect(SEQUENCE, certificate)?;
    let (mut rest, _) = expect(SEQUENCE, certificate)?;
    // Version (which version 1 leaves out), serial number, signature algorithm, issuer.
    if let Some((_, after)) = expect(VERSION, rest) {
        rest = after;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, rest) = expect(tag, rest)?;
    }
    let (validity, _) = expect(SEQUENCE, rest)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, _) = time(rest)?;
    Some([not_before, not_after])
}

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
fn time(der: &[u8]) -> Option<(String, &[u8])> {
    let (digits, rest) = match expect(UTC_TIME, der) {
        Some((short, rest)) => {
            let short = std::str::from_utf8(short).ok()?;
            let century = if short < "50" { "20" } else { "19" };
            (format!("{century}{short}"), rest)
        }
        None => {
            let (long, rest) = expect(GENERALIZED_TIME, der)?;
            (std::str::from_utf8(long).ok()?.to_owned(), rest)
        }
    };
    let digits = digits.strip_suffix('Z')?;
    if digits.len() != 14 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let [year, month, day, hour, minute, second] =
        [0..4, 4..6, 6..8, 8..10, 10..12, 12..14].map(|part| &digits[part]);
    Some((format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"), rest))
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
        assert_eq!((&*from, &*until), ("1999-12-31T00:00:00Z", "2050-01-02T00:00:00Z"));
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
