//! A version 1 agent (protocol page, section 4), for the demonstration:
//! `IOFOG_PASSCODE=… agent CONNECTOR:PORT TARGET:PORT` keeps two tunnels and carries each session
//! to the target. Plain TCP only.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use std::{env, thread};

/// What the field's agents wait between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(20);

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let (Some(connector), Some(target), Ok(passcode)) =
        (arguments.next(), arguments.next(), env::var("IOFOG_PASSCODE"))
    else {
        return Err(io::Error::other("usage: IOFOG_PASSCODE=… agent CONNECTOR:PORT TARGET:PORT"));
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    if let Err(error) = tunnel(&connector, &passcode, &target) {
                        eprintln!("agent: {error}");
                        thread::sleep(Duration::from_secs(1));
                    }
                }
            });
        }
    });
    Ok(())
}

/// One tunnel, from its passcode to the end of its session.
fn tunnel(connector: &str, passcode: &str, target: &str) -> io::Result<()> {
    let mut connector = TcpStream::connect(connector)?;
    connector.write_all(passcode.as_bytes())?;
    connector.read_exact(&mut [0; "AUTHORIZED".len()])?;
    connector.set_read_timeout(Some(HEARTBEAT))?;
    let mut buffer = [0; 16 * 1024];
    loop {
        match connector.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) if buffer[..count].chunks(4).all(|token| token == b"BEAT") => {}
            Ok(count) => return session(connector, target, &buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                connector.write_all(b"BEAT")?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Carries a session that began with `first`; it ends when the target has finished.
fn session(mut connector: TcpStream, target: &str, first: &[u8]) -> io::Result<()> {
    connector.set_read_timeout(None)?;
    let mut target = TcpStream::connect(target)?;
    target.write_all(first)?;
    let (mut from_user, mut to_target) = (connector.try_clone()?, target.try_clone()?);
    let requests = thread::spawn(move || io::copy(&mut from_user, &mut to_target));
    let answered = io::copy(&mut target, &mut connector);
    // The copy of requests waits for the user, who has the whole answer.
    let _ = connector.shutdown(Shutdown::Both);
    let _ = requests.join();
    answered.map(drop)
}
