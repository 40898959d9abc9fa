//! The cage: what a process may still ask of the kernel once it talks to strangers, wherever it runs and
//! without any service manager. A filter of system calls (seccomp), rules for files, ports and signals
//! (Landlock), no privileges that are not needed.
//!
//! [`policy`] is the list of system calls with their reasons, [`filter`] turns it into the program that the
//! kernel runs, [`kernel`] are the calls that enter. What this kernel lacks is left out, and said.

use std::fmt::Write;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};

use crate::config::Sandbox;
use crate::text::{file, reason};
use filter::{ERROR, KILL, LOG, Process};
use kernel::Ruleset;
use policy::{For, Machine};

mod filter;
mod kernel;
mod policy;
#[cfg(test)]
mod tests;

/// What may be done with files, as Landlock's versions know it (linux/landlock.h).
mod right {
    pub(super) const WRITE: u64 = 1 << 1;
    pub(super) const READ: u64 = 1 << 2;
    pub(super) const LIST: u64 = 1 << 3;
    pub(super) const REMOVE: u64 = 1 << 5;
    pub(super) const MAKE: u64 = 1 << 8;
    pub(super) const TRUNCATE: u64 = 1 << 14;
    /// What a rule for a file that is no folder may name.
    pub(super) const OF_FILES: u64 = READ | WRITE | TRUNCATE;
    /// All of version 1.
    pub(super) const FIRST: u64 = (1 << 13) - 1;
    /// Moving between folders, from version 2 on.
    pub(super) const MOVE: u64 = 1 << 13;
    /// Asking devices, from version 5 on.
    pub(super) const DEVICES: u64 = 1 << 15;
    /// TCP, from version 4 on.
    pub(super) const BIND: u64 = 1;
    pub(super) const CONNECT: u64 = 2;
    /// Sockets without a file, and signals, of other processes, from version 6 on.
    pub(super) const ABSTRACT: u64 = 1;
    pub(super) const SIGNALS: u64 = 2;
}

/// What a process is, and what it needs.
pub struct Cage {
    sandbox: Sandbox,
    who: For,
    /// Whether it looks names up, for which the C library reads files and loads libraries.
    resolves: bool,
    /// Folders, or files alone, and what may be done there.
    files: Vec<(PathBuf, u64)>,
    /// TCP ports that may be dialled; `None` for any.
    dials: Option<Vec<u16>>,
    /// Whether ports are opened later.
    listens: bool,
    /// Whether a port below 1024 may be among these.
    privileged: bool,
    /// Whether some of the files belong to somebody else.
    others: bool,
}

impl Cage {
    /// For the daemon, which dials nobody, looks no name up, and may open ports at any time: with
    /// `privileged` below 1024, too.
    pub fn daemon(sandbox: Sandbox, privileged: bool) -> Self {
        let dials = Some(Vec::new());
        let who = For::Daemon;
        let (resolves, listens, files, others) = (false, true, Vec::new(), false);
        let mut cage = Cage { sandbox, who, resolves, files, dials, listens, privileged, others };
        cage.measures_itself();
        cage
    }

    /// For tunnels. `dials` are the TCP ports that are dialled, if they are known for the process's life;
    /// `listens` says whether local ports are opened later, `privileged` below 1024, too.
    pub fn tunnel(
        sandbox: Sandbox,
        resolves: bool,
        dials: Option<Vec<u16>>,
        listens: bool,
        privileged: bool,
    ) -> Self {
        let who = For::Tunnel;
        let (files, others) = (Vec::new(), false);
        let mut cage = Cage { sandbox, who, resolves, files, dials, listens, privileged, others };
        if resolves {
            // These are replaced when the network changes.
            cage.allow("/etc".into(), right::READ);
            cage.reads(Path::new("/etc/resolv.conf"));
            for folder in ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"] {
                cage.allow(folder.into(), right::READ);
            }
            if let Some(dials) = &mut cage.dials {
                // An answer that is too long for one packet.
                dials.push(53);
            }
        }
        cage
    }

    /// It looks at its own memory from time to time.
    pub fn measures_itself(&mut self) {
        self.allow("/proc/self/statm".into(), right::READ);
    }

    fn allow(&mut self, path: PathBuf, access: u64) {
        self.files.push((path, access));
    }

    /// Files are made, replaced and removed in this folder.
    pub fn keeps(&mut self, folder: &Path) {
        let access = right::READ | right::LIST | right::WRITE;
        self.sees(folder);
        self.allow(folder.into(), access | right::MAKE | right::REMOVE | right::TRUNCATE);
    }

    /// This file is read again, or another that takes its name.
    pub fn reads(&mut self, file: &Path) {
        self.sees(file);
        for place in file::places(file) {
            self.allow(place, right::READ);
        }
    }

    /// This file is replaced, or written again.
    pub fn replaces(&mut self, file: &Path) {
        self.sees(file);
        for place in file::places(file) {
            match place.is_dir() {
                true => self.keeps(&place),
                false => self.allow(place, right::OF_FILES),
            }
        }
    }

    fn sees(&mut self, path: &Path) {
        let own = geteuid().as_raw();
        self.others |= path.metadata().is_ok_and(|found| found.uid() != own);
    }

    /// Files are removed from this folder.
    pub fn removes(&mut self, folder: &Path) {
        self.allow(folder.into(), right::REMOVE);
    }

    /// The files in this folder are listed and read.
    pub fn lists(&mut self, folder: &Path) {
        self.allow(folder.into(), right::READ | right::LIST);
    }

    /// Enters, with all threads that there will be; to be called while there is one. What an operator should
    /// know, if anything: what this kernel lacks, or that the settings want no cage.
    pub fn enter(&self) -> Option<String> {
        let mut missing = String::new();
        let mut lacks = |what: &str, why: &io::Error| {
            let begin = if missing.is_empty() { "" } else { "; " };
            let _ = write!(missing, "{begin}{what} ({})", reason::words(why));
        };
        let refusal = match self.sandbox {
            Sandbox::Off => return Some("the sandbox is off, as `sandbox` says".into()),
            Sandbox::Report => LOG,
            Sandbox::Kill => KILL,
            Sandbox::On => ERROR | libc::EPERM as u32,
        };
        // What is looked up once, where the kernel's page for clocks is: later it could not be found.
        let _ = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        if let Err(why) = set_no_new_privs(true) {
            lacks("new privileges are not excluded", &why.into());
        }
        if let Err(why) = self.give_up_capabilities() {
            lacks("capabilities are kept", &why.into());
        }
        if self.sandbox != Sandbox::Report {
            match self.restrict() {
                Ok(()) => reason::files_are_restricted(),
                Err(why) => lacks("files and ports are not restricted by Landlock", &why),
            }
        }
        if let Err(why) = self.filter(refusal) {
            lacks("system calls are not filtered by seccomp", &why);
        }
        match (self.sandbox, missing.is_empty()) {
            (Sandbox::Report, true) => Some(
                "the sandbox reports: it restricts no files, and system calls that it would refuse are \
                 written to the kernel's log (`dmesg`, `journalctl -k`, type=1326)"
                    .into(),
            ),
            (_, true) => None,
            _ => Some(format!("the sandbox lacks what this system does not offer: {missing}")),
        }
    }

    /// All but the one for ports below 1024, and for root those over others' files where it has such.
    fn give_up_capabilities(&self) -> rustix::io::Result<()> {
        let held = capabilities(None)?.permitted;
        let mut needed = CapabilitySet::empty();
        if self.privileged {
            needed |= CapabilitySet::NET_BIND_SERVICE;
        }
        if self.others {
            needed |= CapabilitySet::DAC_OVERRIDE;
        }
        let kept = held & needed;
        let sets = CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets)
    }

    fn filter(&self, refusal: u32) -> io::Result<()> {
        let Some(machine) = Machine::OWN else { return Err(io::ErrorKind::Unsupported.into()) };
        let (loads, own) = (self.resolves, std::process::id());
        let (listens, musl) = (self.listens, cfg!(target_env = "musl"));
        let process = Process { who: self.who, loads, listens, musl, own };
        let mut program = filter::program(machine, process, refusal);
        let all = libc::SECCOMP_FILTER_FLAG_TSYNC;
        // Old kernels would make the processor slower for the filter's sake; this runs no one else's code.
        match kernel::filter(&mut program, all | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                kernel::filter(&mut program, all)
            }
            filtered => filtered,
        }
    }

    fn restrict(&self) -> io::Result<()> {
        let version = kernel::landlock_version()?;
        let (about, size) = self.about(version);
        let rules = kernel::rules(&about, size)?;
        for (path, access) in &self.files {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            // What is not there cannot be used, and the log says so where it is missed.
            let Ok(place) = openat(CWD, path, flags, Mode::empty()) else { continue };
            let access = access & about.files;
            let access = if path.is_dir() { access } else { access & right::OF_FILES };
            kernel::allow_beneath(&rules, &place, access)?;
            if path.starts_with("/proc") {
                keep(place);
            }
        }
        if about.ports & right::CONNECT != 0 {
            for port in self.dials.iter().flatten() {
                kernel::allow_port(&rules, *port, right::CONNECT)?;
            }
        }
        kernel::restrict(&rules)
    }

    /// What the rules are about on a kernel with this version of Landlock, and how many bytes of that it knows.
    fn about(&self, version: libc::c_long) -> (Ruleset, usize) {
        let from = |first, bits: u64| if version >= first { bits } else { 0 };
        let files = right::FIRST
            | from(2, right::MOVE)
            | from(3, right::TRUNCATE)
            | from(5, right::DEVICES);
        let connect = if self.dials.is_some() { right::CONNECT } else { 0 };
        let bind = if self.listens { 0 } else { right::BIND };
        let manager = std::env::var_os("NOTIFY_SOCKET");
        let is_abstract = manager.is_some_and(|name| name.as_encoded_bytes().starts_with(b"@"));
        let sockets = if is_abstract { 0 } else { right::ABSTRACT };
        let about = Ruleset {
            files,
            ports: from(4, connect | bind),
            scopes: from(6, right::SIGNALS | sockets),
        };
        (
            about,
            if version >= 6 {
                24
            } else if version >= 4 {
                16
            } else {
                8
            },
        )
    }
}

/// The rule lasts as long as the kernel remembers the file, which has no disk.
fn keep(place: OwnedFd) {
    std::mem::forget(place);
}
