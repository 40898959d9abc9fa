//! What a command says to the operator, on stdout and stderr.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::text::reason;

/// Prints to stdout. A reader that closes the pipe early (`| head`) is not a failure.
pub fn print(text: &str) -> ExitCode {
    if is_printed(text) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The same; `false` when the operator was told that stdout takes no more.
pub fn is_printed(text: &str) -> bool {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
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

/// Writes to stderr, each line with the program's name. If stderr is closed, only the exit code
/// tells the operator.
pub fn complain(message: impl Display) {
    for line in message.to_string().lines() {
        let _ = writeln!(io::stderr(), "iofog-connector: {line}");
    }
}
