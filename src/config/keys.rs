//! The settings as keys and values, those of the file and over them those of the environment, taken out one by one so
//! that what is left over at the end is what nobody knows.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::environment::{Environment, variable};
use super::faults::Faults;
use super::nearest::{FITS, nearest};
use crate::text::{json, line};

/// What a value's reader found wrong: the place below the key (`[1]`, or nothing) and half a
/// sentence, for each fault.
pub(super) struct Wrong(pub(super) Vec<(String, String)>);

impl Wrong {
    /// One fault of the value as a whole, which is shown (shortened when it is long).
    pub(super) fn value(value: &Value, why: impl fmt::Display) -> Self {
        Wrong(vec![(String::new(), format!("{}: {why}", shown(value)))])
    }
}

/// What is said of a value's form alone, and not of a variable, which has no quotes and is a string in any case.
pub(super) const UNQUOTED: &str = " (without quotes)";
pub(super) const A_STRING: &str = "this is a string; ";

/// The keys not yet taken, and the faults found so far.
pub(super) struct Keys<'a> {
    file: &'a Path,
    entries: Vec<(String, Value)>,
    known: Vec<&'static str>,
    /// Keys whose values are those of variables.
    variables: Vec<&'static str>,
    /// Whether there is no file.
    is_alone: bool,
    faults: Vec<String>,
    warnings: Vec<String>,
}

impl<'a> Keys<'a> {
    /// Reads JSON text that must be one object. A key given twice with different values is a
    /// fault, with the same value a warning. A variable's value takes the place of the file's.
    pub(super) fn read(
        text: &[u8],
        file: &'a Path,
        environment: Environment,
    ) -> Result<Self, Faults> {
        let Entries(all) =
            json::read(text).map_err(|fault| Faults::one(file, &format!("{fault}.")))?;
        let mut keys = Keys {
            file,
            entries: Vec::new(),
            known: vec![],
            variables: vec![],
            is_alone: environment.is_alone,
            faults: vec![],
            warnings: environment.warnings,
        };
        for (key, value) in all {
            let name = line::cut(&key.escape_debug().to_string(), FITS);
            match keys.entries.iter().find(|(name, _)| *name == key) {
                None => keys.entries.push((key, value)),
                Some((_, first)) if *first == value => {
                    keys.warn(&name, "is given twice with the same value; take one out.");
                }
                Some((_, first)) => {
                    let (first, second) = (shown(first), shown(&value));
                    keys.fault(&name, &format!("is given twice, {first} and {second}; keep one."));
                }
            }
        }
        for (key, value) in environment.values {
            keys.entries.retain(|(name, _)| name != key);
            keys.entries.push((key.into(), value));
            keys.variables.push(key);
        }
        Ok(keys)
    }

    /// Takes a key that must be there; `None` after a fault.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        let Some(value) = self.take(key) else {
            let or = match (self.is_alone, self.variables.is_empty()) {
                (true, _) => format!(" (there is no {}, either)", self.file.display()),
                (_, true) => String::new(),
                (_, false) => format!(" (or the variable {})", variable(key)),
            };
            self.fault(key, &format!("is missing; {expected} is required{or}."));
            return None;
        };
        self.value(key, read(&value))
    }

    /// Takes a key that may be absent; `None` when it is, or after a fault.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        let value = self.take(key)?;
        self.value(key, read(&value))
    }

    /// Takes a key, if it is there. Not inlined, as [`wrong`](Self::wrong) is not: the callers are
    /// many, and of many types.
    #[inline(never)]
    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        let place = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.entries.remove(place).1)
    }

    fn value<T>(&mut self, key: &str, read: Result<T, Wrong>) -> Option<T> {
        read.map_err(|wrong| self.wrong(key, wrong)).ok()
    }

    #[inline(never)]
    fn wrong(&mut self, key: &str, Wrong(list): Wrong) {
        for (place, mut why) in list {
            if self.variables.contains(&key) {
                why = why.replace(A_STRING, "").replace(UNQUOTED, "");
            }
            self.fault(&format!("{key}{place}"), &format!("{why}."));
        }
    }

    /// Notes a fault of a key.
    pub(super) fn fault(&mut self, key: &str, why: &str) {
        self.faults.push(format!("{}: {why}", self.place(key)));
    }

    /// Notes something that a key's author should know.
    pub(super) fn warn(&mut self, key: &str, why: &str) {
        self.warnings.push(format!("{}: {why}", self.place(key)));
    }

    /// Where the value of a key, or of a part such as `ports[1]`, stands.
    fn place(&self, key: &str) -> String {
        let is_variable = self.variables.iter().any(|name| key.split('[').next() == Some(*name));
        match is_variable || self.is_alone {
            true => format!("environment: {}", variable(key)),
            false => format!("{}: {key}", self.file.display()),
        }
    }

    /// The warnings, one for each key that nobody took; or the faults and, after them, the warnings.
    pub(super) fn finish(mut self) -> Result<Vec<String>, Faults> {
        for (key, _) in std::mem::take(&mut self.entries) {
            let key = key.escape_debug().to_string();
            let why = match nearest(&key, &self.known) {
                Some(near) => format!("is not a known key and is ignored; did you mean {near}?"),
                None => format!(
                    "is not a known key and is ignored; the keys are {}.",
                    self.known.join(", ")
                ),
            };
            self.warn(&line::cut(&key, FITS), &why);
        }
        if self.faults.is_empty() {
            return Ok(self.warnings);
        }
        // A key that is written wrong is often what the fault comes from.
        Err(Faults::all(self.faults, self.warnings))
    }
}

/// The members of a JSON object in order, a key that stands there twice twice.
pub struct Entries(pub(crate) Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of settings in braces")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A value as JSON, shortened to what fits a line. JSON itself leaves DEL, the controls that some
/// terminals obey (U+0080 to U+009F) and two line separators as they are.
pub(super) fn shown(value: &Value) -> String {
    line::cut(&line::escaped(&value.to_string()), FITS)
}
