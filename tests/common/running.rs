//! A program that runs beside a test.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A running program; it is killed when this is dropped, and its log shown if the test has failed.
pub struct Running {
    pub child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it; what it says on stderr goes into a file, the log.
    pub fn start(command: &mut Command, log: PathBuf) -> io::Result<Self> {
        let file = File::create(&log)?;
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        Ok(Running { child: command.spawn()?, log })
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Files that it has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("/proc").count()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- its log\n{log}");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
