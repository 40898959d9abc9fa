//! What a command says to the operator, on stdout and stderr. Whatever is in it, a terminal obeys none of it: line feeds
//! end lines, and other control characters are escapes.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::logging;
use crate::text::{line, reason};

/// Prints to stdout. A reader that closes the pipe early (`| head`) is not a failure.
pub fn print(text: &str) -> ExitCode {
    if is_printed(text) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The same; `false` when the operator was told that stdout takes no more.
pub fn is_printed(text: &str) -> bool {
    let mut out = io::stdout().lock();
    match out.write_all(fit(text).as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => true,
        Err(error) => {
            complain(format_args!(
                "cannot write to standard output: {}",
                reason::writing(Path::new("/dev/stdout"), &error)
            ));
            false
        }
    }
}

/// How many characters fit a line of stdout; `None` where it is no terminal.
pub fn width() -> Option<usize> {
    let out = io::stdout();
    let columns = || rustix::termios::tcgetwinsize(&out).map_or(0, |size| size.ws_col);
    // A terminal that does not say its size is taken for an old one.
    out.is_terminal().then(|| Some(columns()).filter(|count| *count > 0).unwrap_or(80).into())
}

/// Writes to stderr, each line with the program's name, and with a level where that leads to the
/// journal: a warning's, or an error's. If stderr is closed, only the exit code tells the operator.
pub fn complain(message: impl Display) {
    complain_in_lines(&message.to_string());
}

/// The text as a terminal may have it.
fn fit(text: &str) -> Cow<'_, str> {
    let is_unfit = |char| char != '\n' && line::is_unfit(char);
    if !text.contains(is_unfit) {
        return text.into();
    }
    text.split('\n').map(line::escaped).collect::<Vec<_>>().join("\n").into()
}

fn complain_in_lines(message: &str) {
    let in_journal = logging::leads_to_journal();
    for line in fit(message).lines() {
        let level = match in_journal {
            false => "",
            true if line.starts_with("warning: ") => "<4>",
            true => "<3>",
        };
        // One write, or the journal has a line of each part.
        let _ = io::stderr().write_all(format!("{level}iofog-connector: {line}\n").as_bytes());
    }
}
