//! Settings from the environment: `IOFOG_USERWAIT` is the key `userwait`, for programs in containers.

use std::ffi::OsString;

use serde_json::Value;

use super::nearest::{FITS, nearest};
use crate::text::{json, line};

/// What the names of all variables begin with.
const PREFIX: &str = "IOFOG_";

/// What some put behind it, and no setting's variable has.
const PROGRAM: &str = "CONNECTOR_";

/// How a variable's text becomes the value that the settings file would have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is.
    Text,
    /// `true`, `false` or a number.
    Plain,
    /// An array as in the file, or its texts with commas between them.
    List,
}

/// Every key of the settings, as the manual page has them.
pub(super) const KEYS: [(&str, Form); 20] = [
    ("ports", Form::List),
    ("exclude", Form::List),
    ("broker", Form::Plain),
    ("address", Form::Text),
    ("dev", Form::Plain),
    ("api", Form::Text),
    ("controllers", Form::List),
    ("controllerca", Form::Text),
    ("listen", Form::Text),
    ("threads", Form::Plain),
    ("loglevel", Form::Text),
    ("logformat", Form::Text),
    ("syslogformat", Form::Text),
    ("userwait", Form::Plain),
    ("pending", Form::Plain),
    ("drain", Form::Plain),
    ("handover", Form::Plain),
    ("finwait", Form::Plain),
    ("connectionlog", Form::Plain),
    ("sandbox", Form::Text),
];

/// What variables set.
#[derive(Default)]
pub(super) struct Environment {
    /// Keys with their values, as the file would have them.
    pub(super) values: Vec<(&'static str, Value)>,
    /// What is probably meant for this program, and is no key. A sentence has no value in it: that may be a secret.
    pub(super) warnings: Vec<String>,
    /// Whether there is no file beside them.
    pub(super) is_alone: bool,
}

impl Environment {
    /// Those of this process.
    pub(super) fn own() -> Self {
        Self::of(std::env::vars_os())
    }

    /// These variables; an empty one counts as absent.
    pub(super) fn of(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let mut found = Environment::default();
        for (name, text) in variables {
            let (name, text) = (name.to_string_lossy(), text.to_string_lossy());
            let (Some(rest), text) = (name.strip_prefix(PREFIX), text.trim()) else { continue };
            match KEYS.iter().find(|(key, _)| variable(key) == name) {
                Some((key, form)) if !text.is_empty() => found.values.push((key, form.read(text))),
                // Whoever names nobody may think that nobody may call.
                Some((key, Form::List | Form::Text)) if key.starts_with("controller") => {
                    found.warnings.push(format!(
                        "environment: {name}: is empty and counts as absent; say who may call, or take it out."
                    ));
                }
                Some(_) => {}
                None if is_anothers(&name, rest, text) => {}
                None => {
                    let key = rest.strip_prefix(PROGRAM).unwrap_or(rest);
                    let why = match nearest(key, &KEYS.map(|(key, _)| key)) {
                        Some(near) => format!("; did you mean {}?", variable(near)),
                        None => format!(", which are {PREFIX} and a key in capitals."),
                    };
                    let name = line::cut(&name.escape_debug().to_string(), FITS);
                    found.warnings.push(format!(
                        "environment: {name}: is ignored, as none of the settings' variables{why}"
                    ));
                }
            }
        }
        found
    }

    /// Whether a variable is meant for this program.
    pub(super) fn has_settings(&self) -> bool {
        !self.values.is_empty()
    }
}

impl Form {
    /// A text that this form does not fit stays a text, of which the key's reader says what it expects.
    fn read(self, text: &str) -> Value {
        let value = match (self, text) {
            (Form::Plain, "true" | "false") => Some(Value::Bool(text == "true")),
            (Form::Plain, _) => text.parse::<u64>().ok().map(Value::from),
            (Form::List, _) if text.starts_with('[') => json::read(text.as_bytes()).ok(),
            (Form::List, _) => Some(text.split(',').map(|item| Value::from(item.trim())).collect()),
            (Form::Text, _) => None,
        };
        value.unwrap_or_else(|| Value::from(text))
    }
}

/// The variable of a key; `ports[1]` is a place in that of `ports`.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase())
}

/// Whether a key's name is this in capitals.
fn is_key(name: &str) -> bool {
    KEYS.iter().any(|(key, _)| key.to_ascii_uppercase() == name)
}

/// Whether a variable that is no key's is there for something else: the passcode of `tunnel`, what tests of this
/// program take, and what Kubernetes tells of services whose names begin so (`IOFOG_CONTROLLER_SERVICE_HOST`,
/// `IOFOG_PORT=tcp://...`).
fn is_anothers(name: &str, rest: &str, text: &str) -> bool {
    rest == "PASSCODE"
        || rest.strip_prefix(PROGRAM).is_some_and(|key| !is_key(key))
        || ["_SERVICE_", "_PORT_"].iter().any(|part| name.contains(part))
        || (name.ends_with("_PORT") && text.contains("://"))
}
