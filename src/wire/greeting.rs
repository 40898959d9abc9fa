//! How an agent greets the connector, and what it is answered: version 1 writes its passcode and
//! nothing else (protocol page, section 4), version 2 a line that names the version first
//! (section 5.1).

/// What an agent of version 2 writes before its passcode.
const VERSION_TWO: &str = "IOFOG/2 ";

/// What ends the greeting of version 2.
const END: u8 = b'\n';

/// The rules that an agent speaks by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The agents in the field (section 4).
    One,
    /// The command `tunnel` (section 5).
    Two,
}

impl Version {
    /// What the connector writes to an agent that has proved its passcode.
    pub const fn authorized(self) -> &'static [u8] {
        match self {
            Version::One => b"AUTHORIZED",
            Version::Two => b"IOFOG/2 AUTHORIZED\n",
        }
    }
}

/// The greeting of an agent of version 2 with this passcode.
pub fn greeting(passcode: &str) -> String {
    [VERSION_TWO, passcode, "\n"].concat()
}

/// What an agent's first bytes prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Nothing yet: more must come.
    Incomplete,
    /// They are not the passcode.
    Wrong,
    /// The passcode, by the rules of this version.
    Proven(Version),
}

/// The first bytes of an agent's connection, up to the end of what should be the passcode.
pub struct Offer {
    /// Length of the passcode in bytes.
    length: usize,
    bytes: Vec<u8>,
}

impl Offer {
    /// Nothing has come yet; the passcode has `length` bytes.
    pub fn new(length: usize) -> Self {
        Offer { length, bytes: Vec::new() }
    }

    /// Takes what belongs to the offer from `unit` and gives back the rest.
    pub fn take<'a>(&mut self, unit: &'a [u8]) -> &'a [u8] {
        for (at, byte) in unit.iter().enumerate() {
            if self.is_whole() {
                return &unit[at..];
            }
            self.bytes.push(*byte);
        }
        &[]
    }

    /// Whether nothing has come yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether it is the beginning of a TLS handshake (RFC 8446, section 5.1).
    pub fn is_tls(&self) -> bool {
        self.bytes.starts_with(&[0x16, 3])
    }

    /// The version of the greeting; undecided while it may still become version 2.
    fn version(&self) -> Option<Version> {
        let expected = VERSION_TWO.as_bytes();
        let common = self.bytes.len().min(expected.len());
        if self.bytes[..common] != expected[..common] {
            Some(Version::One)
        } else if common == expected.len() {
            Some(Version::Two)
        } else {
            None
        }
    }

    fn is_whole(&self) -> bool {
        match self.version() {
            None => false,
            Some(Version::One) => self.bytes.len() >= self.length,
            Some(Version::Two) => {
                self.bytes.last() == Some(&END)
                    || self.bytes.len() > VERSION_TWO.len() + self.length
            }
        }
    }

    /// What it proves; `is_passcode` compares.
    pub fn check(&self, is_passcode: impl FnOnce(&[u8]) -> bool) -> Checked {
        let Some(version) = self.version().filter(|_| self.is_whole()) else {
            return Checked::Incomplete;
        };
        let right = match version {
            Version::One => is_passcode(&self.bytes),
            Version::Two => self
                .bytes
                .strip_prefix(VERSION_TWO.as_bytes())
                .and_then(|offer| offer.strip_suffix(&[END]))
                .is_some_and(is_passcode),
        };
        if right { Checked::Proven(version) } else { Checked::Wrong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sent: &[u8]) -> (Checked, Vec<u8>) {
        let mut offer = Offer::new(6);
        let rest = offer.take(sent).to_vec();
        (offer.check(|offered| offered == b"s3cret"), rest)
    }

    #[test]
    fn a_greeting_proves_the_passcode_by_the_version_it_names() {
        assert_eq!(check(b"s3cretBEAT"), (Checked::Proven(Version::One), b"BEAT".to_vec()));
        let greeting = [greeting("s3cret").as_bytes(), b"BEAT"].concat();
        assert_eq!(check(&greeting), (Checked::Proven(Version::Two), b"BEAT".to_vec()));
        assert_eq!(check(b"s3creX"), (Checked::Wrong, Vec::new()));
        assert_eq!(check(b"IOFOG/2 s3cre\n"), (Checked::Wrong, Vec::new()));
        assert_eq!(check(b"IOFOG/2 s3cretX"), (Checked::Wrong, Vec::new()));
    }

    #[test]
    fn nothing_is_said_before_as_many_bytes_have_come_as_the_passcode_has() {
        for sent in [&b""[..], b"X", b"s3cre", b"IOFOG/2", b"IOFOG/2 s3cret"] {
            assert_eq!(check(sent), (Checked::Incomplete, Vec::new()), "{sent:?}");
        }
    }
}
