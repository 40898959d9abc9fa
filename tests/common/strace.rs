//! System calls of a running daemon that fail, take long, or are written down.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::{Daemon, could_not_run, not_installed};

/// strace on the daemon that runs, taken off again when dropped.
pub struct Strace(Child);

impl Strace {
    /// On all its threads. `None`, with the reason printed, where it cannot be attached.
    pub fn attach(daemon: &Daemon, options: &[&str]) -> Option<Self> {
        Self::on(daemon.pid(), &[&["-f"], options].concat())
    }

    /// [`attach`](Self::attach), on this thread alone.
    pub fn on(thread: Pid, options: &[&str]) -> Option<Self> {
        let child = Command::new("strace")
            .args(["-p", &thread.as_raw_nonzero().to_string()])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            not_installed("strace");
            return None;
        };
        let mut said = String::new();
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        while lines.read_line(&mut said).expect("what strace says") > 0 {
            if said.ends_with("attached\n") || said.contains(" threads") {
                // What it says later must find a reader.
                thread::spawn(move || lines.lines().for_each(drop));
                return Some(Strace(child));
            }
        }
        could_not_run(said);
        let _ = child.wait();
        None
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::INT);
        let _ = self.0.wait();
    }
}
