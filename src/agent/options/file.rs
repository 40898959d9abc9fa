//! The files that options of `tunnel` name: the options file, and the reading of a passcode's.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::names::{Given, OPTIONS};
use crate::config::nearest;
use crate::limits;
use crate::mappings::mapping::Passcode;
use crate::text::by_name::ByName;
use crate::text::line::{has_password, shown_path};
use crate::text::page::{names, options};
use crate::text::{file, mark, reason};

/// The key of the passcode in an options file; no option of the command line, which `ps` shows.
const PASSCODE_KEY: &str = "passcode";

/// How the file of a public pipe's side begins: for whoever reads it, and for `tunnel install`.
pub const PUBLIC: &str = "# One side of a public pipe.";

/// Longest passcode in bytes; the connector's own have 36.
const LONGEST_PASSCODE: usize = 1024;

/// The number of the line in which each name stands.
pub(super) type Lines = ByName<u32>;

/// What an options file of this text and mode says: one option a line, `name=value`, a flag also without a value. Empty lines
/// and lines that begin with `#` are skipped. A name given twice is a fault. Gives also each name's line.
pub(super) fn options_of(
    text: &str,
    mode: u32,
    path: &Path,
) -> Result<(Given, Option<Passcode>, Lines), String> {
    let mut given = Given::default();
    let mut passcode = None;
    let mut lines = Lines::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = format!("{}: line {number}", named("--from", path));
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.trim(), value.trim()),
            None => (line, ""),
        };
        if value.len() > 1
            && ['"', '\''].iter().any(|q| value.starts_with(*q) && value.ends_with(*q))
        {
            return Err(format!("{place}: take the quotes off; they would be a part of the value"));
        }
        if name == PASSCODE_KEY {
            once(&mut lines, PASSCODE_KEY, number, &place)?;
            unexposed("passcode", mode, &place, path)?;
            passcode = Some(proper(value, &place)?);
            continue;
        }
        let mut all = options(OPTIONS);
        all.retain(|option| option.name() != "from");
        let Some(known) = all.iter().find(|known| known.name() == name) else {
            // The line may be a secret, written in another form or in the wrong file, so it is not
            // repeated.
            let hint = match nearest(name, &names(&all)).filter(|_| line.contains('=')) {
                Some(near) => format!("did you mean {near}?"),
                None => "NAME=VALUE is expected, named as on the command line, without \
                         dashes; or passcode=VALUE"
                    .into(),
            };
            return Err(format!("{place}: unknown option: {hint}"));
        };
        match known.value.is_empty() {
            true if !["", "true", "false"].contains(&value) => {
                return Err(format!("{place}: {name} is `true` or `false`"));
            }
            false if value.is_empty() => {
                return Err(format!("{place}: {name} needs a value after a `=`"));
            }
            _ => {}
        }
        let known = known.name();
        if known == "proxy" && has_password(value) {
            unexposed("proxy's password", mode, &place, path)?;
        }
        once(&mut lines, known, number, &place)?;
        given.insert(known, value.into());
    }
    Ok((given, passcode, lines))
}

/// Refuses a secret in a file that all can read.
fn unexposed(what: &str, mode: u32, place: &str, path: &Path) -> Result<(), String> {
    let Some(fault) = reason::exposed(what, mode) else { return Ok(()) };
    Err(format!("{place}: {fault}; run `chmod 640 {}`", path.display()))
}

/// Refuses a name that is given twice: nobody can tell which of the two is meant. The values are
/// not repeated, since they may be secret.
fn once(lines: &mut Lines, name: &'static str, line: u32, place: &str) -> Result<(), String> {
    match lines.insert(name, line) {
        None => Ok(()),
        Some(first) => Err(format!(
            "{place}: {name} is given already, in line {first}; take one of the two out"
        )),
    }
}

/// A file, with the option that has named it.
pub(super) fn named(option: &str, path: &Path) -> String {
    format!("{option} {}", shown_path(path))
}

/// The text of a file of at most [`limits::TUNNEL_FILE`] bytes, and its mode. `wait` bounds the wait for a pipe.
///
/// # Errors
/// A sentence that begins with the option.
pub fn read(option: &str, path: &Path, wait: Option<Duration>) -> Result<(String, u32), String> {
    let failed = |error: io::Error| {
        let remedy = if reason::is_missing(&error) { "; is its path right?" } else { "" };
        format!("{}: {}{remedy}", named(option, path), reason::reading(path, &error))
    };
    let text = file::read(path, limits::TUNNEL_FILE, wait).map_err(failed)?;
    let mode = path.metadata().map_err(failed)?.mode();
    if text.len() > limits::TUNNEL_FILE {
        return Err(format!(
            "{}: larger than {} bytes; is it the right file?",
            named(option, path),
            limits::TUNNEL_FILE
        ));
    }
    let Ok(text) = std::str::from_utf8(mark::skip(&text)) else {
        let file = named(option, path);
        return Err(format!("{file}: it is not UTF-8 text (is it UTF-16?); save it as UTF-8"));
    };
    Ok((text.to_owned(), mode))
}

/// The passcode in `text`, without the line's end; `place` names where it stands.
pub(super) fn proper(text: &str, place: &str) -> Result<Passcode, String> {
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.contains('\n') {
        return Err(format!("{place}: more than one line; the passcode alone is expected"));
    }
    if secret.len() > LONGEST_PASSCODE {
        return Err(format!("{place}: longer than {LONGEST_PASSCODE} bytes, so not a passcode"));
    }
    Passcode::new(secret).ok_or_else(|| {
        format!("{place}: the passcode is empty; the one that `mapping add` has written or shown is expected")
    })
}
