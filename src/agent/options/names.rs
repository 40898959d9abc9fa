//! The names of the options of `tunnel`.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Options that have a value: in a file, and on the command line.
pub const VALUES: &[(&str, &str)] = &[
    ("connector", "--connector"),
    ("passcode-file", "--passcode-file"),
    ("target", "--target"),
    ("listen", "--listen"),
    ("ca", "--ca"),
    ("pin", "--pin"),
    ("connections", "--connections"),
    ("sessions", "--sessions"),
    ("pending", "--pending"),
    ("heartbeat", "--heartbeat"),
    ("drain", "--drain"),
    ("from", "--from"),
];

/// Options that have none.
pub const FLAGS: &[(&str, &str)] = &[("plain", "--plain"), ("proxy-protocol", "--proxy-protocol")];

/// What is given for each option, on the command line or in a file.
pub type Given = BTreeMap<&'static str, OsString>;
