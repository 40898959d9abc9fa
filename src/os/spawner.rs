//! A small process beside the daemon that starts the program anew when it is to be replaced.
//!
//! The daemon itself may execute nothing once it serves. This process is forked before anything is read or opened; it
//! holds nothing but its end of a [`Link`], takes no words from it but that it is to start, and does one thing: it runs the file
//! from which the daemon was started, with the daemon's own arguments. It ends with the daemon.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio, exit};

use rustix::net::{SocketType, sockopt};

use super::link::Link;
use crate::limits;
use crate::text::reason;

/// What the word of a program begins with that does not take the place; the reason follows.
pub const REFUSED: &str = "refused ";

/// The process that starts the program anew.
#[derive(Debug)]
pub struct Spawner(Link);

impl Spawner {
    /// Forks it. To be called before there is another thread, and before there is anything that a program
    /// should not have from the one that it replaces.
    ///
    /// # Errors
    /// The system grants no process or no files.
    #[expect(unsafe_code, reason = "fork(2) has no safe form")]
    pub fn fork() -> io::Result<Self> {
        // As it is named now: of a file that was replaced, /proc knows only that it is gone.
        let program = std::env::current_exe()?;
        let [own, others] = Link::pair()?;
        // SAFETY: the caller sees to it that this is the only thread, so that the child finds no lock held; the child
        // never returns from here.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(own);
                serve(&others, &program);
                exit(0)
            }
            _ => Ok(Spawner(own)),
        }
    }

    /// Has the program started, and gives the link to it. What keeps it from starting comes through the link, too.
    ///
    /// # Errors
    /// The process is gone, or has no files left.
    pub fn start(&self) -> io::Result<Link> {
        self.0.send("start", &[])?;
        let answer = self.0.receive(Some(limits::HEIR_TAKES))?;
        let link = answer.and_then(|answer| answer.files.into_iter().next());
        link.map(Link::from).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

/// The life of the process, until the daemon ends.
fn serve(daemon: &Link, program: &Path) {
    // So that nobody who looks for the daemon by its name finds this one.
    let _ = rustix::thread::set_name(c"iofog-spawner");
    let mut started: Vec<Child> = Vec::new();
    while let Ok(Some(_)) = daemon.receive(None) {
        started.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        // The daemon's sandbox allows it to make no pair.
        let Ok([daemons, end]) = Link::pair() else {
            let _ = daemon.send("none", &[]);
            continue;
        };
        if daemon.send("link", &[OwnedFd::from(daemons).as_fd()]).is_err() {
            break;
        }
        match run(program, &end) {
            Ok(child) => started.push(child),
            Err(error) => {
                let why = reason::words(&error);
                let program = program.display();
                let _ = end.send(&format!("{REFUSED}{program} cannot be started: {why}"), &[]);
            }
        }
    }
}

fn run(program: &Path, end: &Link) -> io::Result<Child> {
    Command::new(program)
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::from(OwnedFd::from(end.try_clone()?)))
        .spawn()
}

/// The link to the program whose place this one is to take, which is its standard input then; `None` for one that is
/// started otherwise. To be called once.
///
/// # Errors
/// No file is left.
pub fn predecessor() -> io::Result<Option<Link>> {
    let input = io::stdin();
    // Nobody else gives a daemon such an input.
    if !sockopt::socket_type(&input).is_ok_and(|kind| kind == SocketType::SEQPACKET) {
        return Ok(None);
    }
    let link = input.as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(Some(Link::from(link)))
}
