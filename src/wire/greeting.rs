//! How an agent greets the connector, and what it is answered: version 1 writes its passcode and
//! nothing else (protocol page, section 4), the others a line that names the version first
//! (sections 5.1 and 8.1).

/// What ends the greeting of version 2 and 3.
const END: u8 = b'\n';

/// The rules that an agent speaks by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The agents in the field (section 4).
    One,
    /// The command `tunnel`, with a tunnel for each session (section 5).
    Two,
    /// The command `tunnel`, with tunnels that are used again (section 8).
    Three,
}

impl Version {
    /// What the connector writes to an agent that has proved its passcode.
    pub const fn authorized(self) -> &'static [u8] {
        match self {
            Version::One => b"AUTHORIZED",
            Version::Two => b"IOFOG/2 AUTHORIZED\n",
            Version::Three => b"IOFOG/3 AUTHORIZED\n",
        }
    }

    /// What an agent writes before its passcode; nothing for version 1.
    const fn line(self) -> &'static str {
        match self {
            Version::One => "",
            Version::Two => "IOFOG/2 ",
            Version::Three => "IOFOG/3 ",
        }
    }
}

/// The greeting of an agent of this version, 2 or 3, with this passcode.
pub fn greeting(version: Version, passcode: &str) -> String {
    [version.line(), passcode, "\n"].concat()
}

/// Which versions an agent may greet by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greetings {
    /// In plain TCP: all.
    All,
    /// In TLS, where the agent's protocol was not selected (ALPN): 1 and 2.
    OneAndTwo,
    /// In TLS, where it was: 3.
    Three,
}

impl Greetings {
    /// The versions among them that are named by a line.
    fn lines(self) -> &'static [Version] {
        match self {
            Greetings::All => &[Version::Two, Version::Three],
            Greetings::OneAndTwo => &[Version::Two],
            Greetings::Three => &[Version::Three],
        }
    }
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
    greetings: Greetings,
    bytes: Vec<u8>,
}

impl Offer {
    /// Nothing has come yet; the passcode has `length` bytes.
    pub fn new(length: usize, greetings: Greetings) -> Self {
        Offer { length, greetings, bytes: Vec::new() }
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

    /// The version of the greeting; undecided while it may still become that of a line.
    fn version(&self) -> Option<Version> {
        let begun = |version: &&Version| {
            let line = version.line().as_bytes();
            let common = self.bytes.len().min(line.len());
            self.bytes[..common] == line[..common]
        };
        match self.greetings.lines().iter().find(begun) {
            None => Some(Version::One),
            Some(version) => (self.bytes.len() >= version.line().len()).then_some(*version),
        }
    }

    fn is_whole(&self) -> bool {
        match self.version() {
            None => false,
            Some(Version::One) => self.bytes.len() >= self.length,
            Some(version) => {
                self.bytes.last() == Some(&END)
                    || self.bytes.len() > version.line().len() + self.length
            }
        }
    }

    /// What it proves; `is_passcode` compares.
    pub fn check(&self, is_passcode: impl FnOnce(&[u8]) -> bool) -> Checked {
        let Some(version) = self.version().filter(|_| self.is_whole()) else {
            return Checked::Incomplete;
        };
        let right = match version {
            Version::One => self.greetings != Greetings::Three && is_passcode(&self.bytes),
            _ => self
                .bytes
                .strip_prefix(version.line().as_bytes())
                .and_then(|offer| offer.strip_suffix(&[END]))
                .is_some_and(is_passcode),
        };
        if right { Checked::Proven(version) } else { Checked::Wrong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(greetings: Greetings, sent: &[u8]) -> (Checked, Vec<u8>) {
        let mut offer = Offer::new(6, greetings);
        let rest = offer.take(sent).to_vec();
        (offer.check(|offered| offered == b"s3cret"), rest)
    }

    #[test]
    fn a_greeting_proves_the_passcode_by_the_version_it_names() {
        let all = |sent: &[u8]| check(Greetings::All, sent);
        assert_eq!(all(b"s3cretBEAT"), (Checked::Proven(Version::One), b"BEAT".to_vec()));
        for version in [Version::Two, Version::Three] {
            let greeting = [greeting(version, "s3cret").as_bytes(), b"BEAT"].concat();
            assert_eq!(all(&greeting), (Checked::Proven(version), b"BEAT".to_vec()));
        }
        assert_eq!(all(b"s3creX"), (Checked::Wrong, Vec::new()));
        for line in ["IOFOG/2 ", "IOFOG/3 "] {
            for wrong in ["s3cre\n", "s3cretX"] {
                assert_eq!(all([line, wrong].concat().as_bytes()), (Checked::Wrong, Vec::new()));
            }
        }
        assert_eq!(all(b"IOFOG/").0, Checked::Incomplete, "it may still be a line");
    }

    #[test]
    fn in_tls_version_3_is_what_was_selected_and_nothing_else() {
        for (greetings, version, proves) in [
            (Greetings::OneAndTwo, Version::Two, true),
            (Greetings::OneAndTwo, Version::Three, false),
            (Greetings::Three, Version::Two, false),
            (Greetings::Three, Version::Three, true),
        ] {
            let (checked, _) = check(greetings, greeting(version, "s3cret").as_bytes());
            let expected = if proves { Checked::Proven(version) } else { Checked::Wrong };
            assert_eq!(checked, expected, "{greetings:?} {version:?}");
        }
        assert_eq!(check(Greetings::OneAndTwo, b"s3cret").0, Checked::Proven(Version::One));
        assert_eq!(check(Greetings::Three, b"s3cret").0, Checked::Wrong);
    }

    #[test]
    fn nothing_is_said_before_as_many_bytes_have_come_as_the_passcode_has() {
        for sent in [&b""[..], b"X", b"s3cre", b"IOFOG/2", b"IOFOG/2 s3cret", b"IOFOG/3 s3cret"] {
            assert_eq!(check(Greetings::All, sent), (Checked::Incomplete, Vec::new()), "{sent:?}");
        }
    }
}
