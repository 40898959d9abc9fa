//! Users that stay connected and do nothing, so that somebody can look at the relay meanwhile.

use std::io::{self, Read, Write};

use crate::arguments::{Arguments, die};
use crate::backend::ECHO;
use crate::user::{Dial, User};

/// Connects `--conns` users, each proven by an echo; prints `READY` and holds them until stdin
/// ends.
pub(crate) fn run(arguments: &Arguments) {
    let dial = Dial::new(arguments);
    let count: usize = arguments.get("conns").unwrap_or(1000);
    let held: io::Result<Vec<User>> = (0..count).map(|_| proven(&dial)).collect();
    let _held = held.unwrap_or_else(|error| die(format_args!("hold: {error}")));
    println!("READY {count} users");
    let waited = io::stdout().flush().and_then(|()| io::stdin().read_to_end(&mut Vec::new()));
    if let Err(error) = waited {
        die(format_args!("hold: {error}"));
    }
}

fn proven(dial: &Dial) -> io::Result<User> {
    let mut user = dial.connect()?;
    let mut request = [b'x'; 65];
    request[0] = ECHO;
    user.send(&request)?;
    user.receive_all(&mut [0; 64])?;
    Ok(user)
}
