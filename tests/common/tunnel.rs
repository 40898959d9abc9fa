//! `iofog-connector tunnel` against a connector of the test's own.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::Command;

use rustix::process::Signal;

use super::{Folder, Manager, Running, binary, eventually};

/// The passcode that each [`Tunnel`] has.
pub const PASSCODE: &str = "the-passcode";

/// A running `tunnel` in a folder of its own; both end when this is dropped.
pub struct Tunnel {
    pub program: Running,
    pub folder: Folder,
    pub manager: Manager,
}

impl Tunnel {
    /// With a heartbeat of 300 ms, unless another one is named, and a service manager that watches it.
    pub fn start(connector: SocketAddr, more: &[&str]) -> Self {
        Self::with_limit(connector, None, more)
    }

    /// The same, with so many files.
    pub fn with_limit(connector: SocketAddr, files: Option<usize>, more: &[&str]) -> Self {
        match files {
            Some(files) => {
                Self::within(&["prlimit", &format!("--nofile={files}")], connector, more)
            }
            None => Self::within(&[], connector, more),
        }
    }

    /// The same, by way of another command.
    pub fn within(wrapper: &[&str], connector: SocketAddr, more: &[&str]) -> Self {
        let folder = Folder::new();
        let passcode = folder.file("passcode", PASSCODE, 0o600);
        let manager = Manager::new(&folder);
        let command: Vec<OsString> = wrapper.iter().map(OsString::from).chain(binary()).collect();
        // A name, so that certificates fit.
        let address = format!("localhost:{}", connector.port());
        let mut program = Command::new(&command[0]);
        program
            .args(&command[1..])
            .args(["tunnel", "--connector", &address, "--passcode-file"])
            .arg(&passcode)
            .args(more);
        if !more.contains(&"--heartbeat") {
            program.args(["--heartbeat", "300"]);
        }
        manager.watch(&mut program);
        let program = Running::start(&mut program, folder.join("log")).unwrap();
        Tunnel { program, folder, manager }
    }

    pub fn log(&self) -> String {
        self.program.log()
    }

    /// What it has told the service manager since this was last asked.
    pub fn told(&self) -> Vec<String> {
        self.manager.told()
    }

    #[track_caller]
    pub fn until_said(&self, what: &str) {
        eventually(what, || self.log().contains(what).then_some(()));
    }

    pub fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    #[track_caller]
    pub fn ends_at_sigterm(&mut self) {
        self.signal(Signal::TERM);
        let status = eventually("it ends", || self.program.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }
}
