//! The files that `mapping add` writes for the agents' sides: each one's passcode, and a tunnel file with all that
//! its `tunnel` needs to know (protocol page, section 7, step 6).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::process::{Gid, Uid, geteuid};

use crate::agent::options as tunnel;
use crate::mappings::mapping::AgentPort;
use crate::report::status::Status;
use crate::text::{file, reason};

/// Bytes of a tunnel file at most, as its reader has it.
const LONGEST: usize = 64 * 1024;

/// What a tunnel file has from `mapping add`; other lines are somebody's own.
const WRITTEN: [&str; 6] = ["connector", "passcode", "plain", "pin", "connections", "heartbeat"];

/// How many files of one name are put aside before somebody must tidy up.
const ASIDE: u32 = 100;

/// What the files of a mapping's sides have in common.
pub(super) struct Files<'a> {
    /// Where they are.
    dir: &'a Path,
    /// The connector, as agents' `--connector` names it.
    host: &'a str,
    /// Tunnels without TLS.
    plain: bool,
    /// The certificate's fingerprint, as `--pin` takes it.
    certificate: Option<&'a str>,
    /// The mapping's name, if it has one.
    name: Option<&'a str>,
    /// A public pipe, with one agent; else a private one, with two.
    public: bool,
}

/// A file's path, and what is in it.
pub(super) type Wanted = (PathBuf, String);

impl<'a> Files<'a> {
    /// Those of a mapping of this daemon.
    pub(super) fn new(
        dir: &'a Path,
        host: &'a str,
        daemon: &'a Status,
        name: Option<&'a str>,
        public: bool,
    ) -> Self {
        let certificate = daemon.certificate.as_deref();
        Files { dir, host, plain: daemon.dev, certificate, name, public }
    }

    /// The paths of the passcode's file and of the tunnel's, of one side: 0 is port1's.
    pub(super) fn paths(&self, index: usize, port: u16) -> [PathBuf; 2] {
        let stem = match self.name {
            None => format!("iofog-{port}"),
            Some(name) if self.public => name.to_owned(),
            Some(name) => format!("{name}-{}", index + 1),
        };
        [format!("iofog-{port}.passcode"), format!("{stem}.tunnel")].map(|name| self.dir.join(name))
    }

    /// The two files, of one side.
    pub(super) fn of(&self, index: usize, side: &AgentPort) -> [Wanted; 2] {
        let (port, passcode) = (side.port, side.passcode.reveal());
        let [passcodes, tunnels] = self.paths(index, port);
        let file = tunnels.file_name().unwrap_or_default().to_string_lossy();
        let work = if index == 0 { "target localhost:PORT" } else { "listen 127.0.0.1:PORT" };
        let pipe = if self.public { tunnel::PUBLIC } else { "# One side of a private pipe." };
        let mut text = format!(
            "{pipe} On its machine: sudo iofog-connector tunnel install {file} --{work}\n\
             connector={}:{port}\npasscode={passcode}\n",
            self.host
        );
        match self.certificate {
            _ if self.plain => text.push_str("plain\n"),
            Some(pin) => text.push_str(&format!(
                "# The connector's certificate. Before it is replaced, add the next one's, with a comma between them.\n\
                 pin={pin}\n"
            )),
            None => {}
        }
        let settings = [("connections", connections(index, side)), ("heartbeat", heartbeat(side))];
        for (name, value) in settings {
            if let Some(value) = value {
                text.push_str(&format!("{name}={value}\n"));
            }
        }
        [(passcodes, format!("{passcode}\n")), (tunnels, text)]
    }

    /// The files in the folder that are of the side with this port, whatever they are called: what holds its passcode,
    /// and tunnel files that `mapping add` has written for this port of this connector, with lines that somebody has
    /// added, too. The passcode is `None` where it is not known.
    pub(super) fn held(&self, port: u16, passcode: Option<&str>) -> Vec<Wanted> {
        let connector = format!("connector={}:{port}", self.host);
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.to_string_lossy();
            let is_one = name.contains(".passcode") || name.contains(".tunnel");
            if !is_one || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
                continue;
            }
            let text = file::read(&path, LONGEST, None).ok();
            found.extend(text.and_then(|text| Some((path, String::from_utf8(text).ok()?))));
        }
        let is_written = |text: &str| {
            text.starts_with("# One side of a ") && text.lines().any(|line| line == connector)
        };
        let mut secrets: Vec<_> = passcode.map(str::to_owned).into_iter().collect();
        let written = found.iter().filter(|(_, text)| is_written(text));
        secrets.extend(written.map(|(_, text)| secret(text).to_owned()));
        found.retain(|(_, text)| secrets.iter().any(|known| known == secret(text)));
        found
    }
}

/// The passcode in a tunnel file, or in a file of its own.
fn secret(text: &str) -> &str {
    let in_line = text.lines().find_map(|line| line.strip_prefix("passcode="));
    in_line.unwrap_or(text).trim()
}

/// The lines of a tunnel file that somebody has added.
pub(super) fn added(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| {
        let name = line.split('=').next().unwrap_or_default().trim();
        text.contains("passcode=") && !line.starts_with('#') && !WRITTEN.contains(&name)
    })
}

/// Tunnels to keep ready where the mapping allows fewer than `tunnel` keeps: more would be refused again and again.
pub(super) fn connections(index: usize, side: &AgentPort) -> Option<u64> {
    let allowed = u64::from(side.limits.max_connections);
    (index == 0 && allowed < tunnel::CONNECTIONS).then_some(allowed)
}

/// Milliseconds between heartbeats where those of `tunnel` would come too late: three within the threshold, as with
/// the defaults of 20 s and 60 s.
pub(super) fn heartbeat(side: &AgentPort) -> Option<u64> {
    let threshold = side.limits.heartbeat_threshold?.as_millis() as u64;
    (threshold < 60_000).then_some((threshold / 3).max(100))
}

/// A file that was written, and where the one is that had its name.
pub(super) struct Made {
    pub(super) path: PathBuf,
    pub(super) aside: Option<PathBuf>,
}

impl Made {
    /// Writes a new file that only this user can read, or whoever called `sudo`. One of this name, of a mapping that
    /// is gone by now or from elsewhere, is put aside.
    ///
    /// # Errors
    /// A sentence for the operator; nothing has changed then.
    pub(super) fn new((path, text): Wanted) -> Result<Self, String> {
        let mut made = Made { path, aside: None };
        let mut written = made.write(&text);
        if matches!(&written, Err(error) if error.kind() == io::ErrorKind::AlreadyExists) {
            made.aside = put_aside(&made.path);
            written = made.write(&text);
        }
        let Err(error) = written else { return Ok(made) };
        let path = made.path.display();
        let why = match error.kind() {
            io::ErrorKind::AlreadyExists => {
                "already exists and cannot be put aside; delete it".into()
            }
            _ => reason::writing(&made.path, &error),
        };
        let said = format!("{path}: {why}; or name another folder with --dir");
        made.put_back();
        Err(said)
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)?;
        let caller = ["SUDO_UID", "SUDO_GID"].map(|name| std::env::var(name).ok()?.parse().ok());
        if let ([Some(user), Some(group)], true) = (caller, geteuid().is_root()) {
            // Who called sudo is to copy it; where owners cannot be given it stays root's.
            let _ =
                rustix::fs::fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
        }
        let kept = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        // The file's name must be on disk, too; a folder that may not be read cannot be synced.
        let folder = || File::open(self.path.parent()?).ok();
        let kept = kept.and_then(|()| folder().map_or(Ok(()), |folder| folder.sync_all()));
        kept.inspect_err(|_| {
            // It would be in the way of the next one.
            let _ = fs::remove_file(&self.path);
        })
    }

    /// Takes the file away again.
    pub(super) fn undo(self) {
        let _ = fs::remove_file(&self.path);
        self.put_back();
    }

    fn put_back(self) {
        if let Some(aside) = self.aside {
            let _ = fs::rename(aside, self.path);
        }
    }
}

/// Gives what is at `path` the name with `.old` behind it, or `.old2` and on: nothing is overwritten.
fn put_aside(path: &Path) -> Option<PathBuf> {
    (1..=ASIDE).find_map(|number| {
        let mut name = path.as_os_str().to_owned();
        name.push(".old");
        if number > 1 {
            name.push(number.to_string());
        }
        let aside = PathBuf::from(name);
        // A link cannot take another file's place, as a new name could.
        fs::hard_link(path, &aside).ok()?;
        match fs::remove_file(path) {
            Ok(()) => Some(aside),
            Err(_) => {
                let _ = fs::remove_file(&aside);
                None
            }
        }
    })
}
