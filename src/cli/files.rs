//! The files that `mapping add` writes for the agents' sides: each one's passcode, and a tunnel file with all that
//! its `tunnel` needs to know (protocol page, section 7, step 6).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{Gid, Uid, geteuid};

use crate::agent::options as tunnel;
use crate::limits;
use crate::mappings::mapping::{AgentPort, random_id};
use crate::report::status::Status;
use crate::text::{file, reason};

/// Files of one side that are looked for in a folder at most: more than anybody keeps there.
const HELD: usize = 100;

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

    /// The two files of one side with its new passcode. A file that is of this side already keeps its text: what somebody has
    /// changed or added stays, and only the passcode is another, and what asks for more than the mapping allows. `before`
    /// is the old passcode, where it is known.
    pub(super) fn renewed(
        &self,
        index: usize,
        side: &AgentPort,
        before: Option<&str>,
    ) -> [Renewed; 2] {
        let [passcode, mut tunnel] = self.of(index, side).map(|wanted| Renewed {
            wanted,
            is_own: false,
            settings: String::new(),
        });
        let connector = format!("{}:{}", self.host, side.port);
        let is_own = |text: &String| {
            before == Some(secret(text)) || value(text, "connector") == Some(&connector)
        };
        let old = text_of(&tunnel.wanted.0).filter(is_own);
        let secrets = [before, old.as_deref().map(secret)];
        if let Some(old) = &old {
            tunnel.is_own = true;
            (tunnel.wanted.1, tunnel.settings) = with_passcode(old, index, side);
        }
        let is_own =
            text_of(&passcode.wanted.0).is_some_and(|old| secrets.contains(&Some(secret(&old))));
        [Renewed { is_own, ..passcode }, tunnel]
    }

    /// The files in the folder that are of the side with this port, whatever they are called: what holds its passcode,
    /// and tunnel files that `mapping add` has written for this port of this connector, with lines that somebody has
    /// added, too. The passcode is `None` where it is not known. They are read one at a time.
    pub(super) fn held(&self, port: u16, passcode: Option<&str>) -> Vec<PathBuf> {
        let connector = format!("{}:{port}", self.host);
        let mut secrets: Vec<_> = passcode.map(str::to_owned).into_iter().collect();
        for (_, text) in self.texts() {
            let is_written = text.starts_with("# One side of a ")
                && value(&text, "connector") == Some(&connector);
            if is_written
                && secrets.len() < HELD
                && !secrets.iter().any(|known| known == secret(&text))
            {
                secrets.push(secret(&text).to_owned());
            }
        }
        let is_held = |text: &str| secrets.iter().any(|known| known == secret(text));
        let held = self.texts().filter(|(_, text)| is_held(text)).map(|(path, _)| path);
        held.take(HELD).collect()
    }

    /// The files in the folder that may hold passcodes, with their texts.
    fn texts(&self) -> impl Iterator<Item = Wanted> {
        fs::read_dir(self.dir).into_iter().flatten().flatten().filter_map(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_one = name.contains(".passcode") || name.contains(".tunnel");
            let path = entry.path();
            let text = if is_one { text_of(&path)? } else { return None };
            Some((path, text))
        })
    }
}

/// What a file is to hold when its side has a new passcode.
pub(super) struct Renewed {
    /// Where and what.
    pub(super) wanted: Wanted,
    /// It is of this side already, so that nothing of it is to be put aside.
    pub(super) is_own: bool,
    /// Settings that were lowered in it, or added.
    pub(super) settings: String,
}

/// The text of a file; `None` for a link, a folder, what is too long, or what this user may not read.
fn text_of(path: &Path) -> Option<String> {
    fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
    let text = file::read(path, limits::TUNNEL_FILE, None).ok()?;
    String::from_utf8(text).ok().filter(|text| text.len() <= limits::TUNNEL_FILE)
}

/// The name and the value in a line of a tunnel file.
fn pair(line: &str) -> (&str, &str) {
    let line = line.trim_start_matches('\u{feff}').trim();
    let (name, value) = line.split_once('=').unwrap_or((line, ""));
    (name.trim(), value.trim())
}

/// The value of this name in a tunnel file.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().map(pair).find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// The passcode in a tunnel file, or in a file of its own.
fn secret(text: &str) -> &str {
    value(text, "passcode").unwrap_or(text.trim())
}

/// The text of a tunnel file with another passcode and all else as it is, but for settings that ask for more than the
/// mapping allows; these are given beside it.
fn with_passcode(text: &str, index: usize, side: &AgentPort) -> (String, String) {
    let mut wanted = Vec::new();
    if value(text, "passcode-file").is_none() || value(text, "passcode").is_some() {
        wanted.push(("passcode", side.passcode.reveal().to_owned()));
    }
    let number = connections(index, side).filter(|_| value(text, "listen").is_none());
    for (name, most) in [("connections", number), ("heartbeat", heartbeat(side))] {
        let is_less = |most: &u64| {
            !value(text, name).is_some_and(|old| old.parse().is_ok_and(|old: u64| old <= *most))
        };
        wanted.extend(most.filter(is_less).map(|most| (name, most.to_string())));
    }
    let settings = wanted.iter().filter(|(name, _)| *name != "passcode");
    let settings = settings.map(|(name, value)| format!("{name}={value}"));
    let settings = settings.collect::<Vec<_>>().join(", ");
    let mut new = String::new();
    for line in text.split_inclusive('\n') {
        match wanted.iter().position(|(name, _)| *name == pair(line).0) {
            None => new.push_str(line),
            Some(place) => {
                let (name, value) = wanted.remove(place);
                let end = &line[line.trim_end_matches(['\r', '\n']).len()..];
                new.push_str(&format!("{name}={value}{end}"));
            }
        }
    }
    for (name, value) in wanted {
        let end = if new.ends_with('\n') { "" } else { "\n" };
        new.push_str(&format!("{end}{name}={value}\n"));
    }
    (new, settings)
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
    /// Writes a file, as [`Staged`] does. One of this name, of a mapping that is gone or from elsewhere, is put aside.
    ///
    /// # Errors
    /// A sentence for the operator; nothing has changed then.
    pub(super) fn new(wanted: Wanted) -> Result<Self, String> {
        Staged::new(wanted, false)?.put()
    }

    /// Takes the file away again.
    pub(super) fn undo(self) {
        let _ = match self.aside {
            Some(aside) => fs::rename(aside, self.path),
            None => fs::remove_file(self.path),
        };
    }
}

/// A file's new content, under a name of its own beside it until it takes its place, whole or not at all.
pub(super) struct Staged {
    temporary: PathBuf,
    path: PathBuf,
    is_own: bool,
}

impl Staged {
    /// Writes it, for this user alone, or whoever called `sudo`. With `is_own` the file of this name is replaced, and its owner
    /// and mode are kept.
    ///
    /// # Errors
    /// A sentence for the operator; nothing has changed then.
    pub(super) fn new((path, text): Wanted, is_own: bool) -> Result<Self, String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Nobody else has this name, and `mapping remove` finds what a kill leaves of it.
        let temporary = path.with_file_name(format!(".{name}.{}.new", random_id()));
        let staged = Staged { temporary, path, is_own };
        match staged.write(&text) {
            Ok(()) => Ok(staged),
            Err(error) => Err(staged.failed(&error)),
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut new = OpenOptions::new();
        let mut file = new.write(true).create_new(true).mode(0o600).open(&self.temporary)?;
        let caller = ["SUDO_UID", "SUDO_GID"].map(|name| std::env::var(name).ok()?.parse().ok());
        let mut owner = match caller {
            [Some(user), Some(group)] if geteuid().is_root() => Some((user, group)),
            _ => None,
        };
        let old = fs::metadata(&self.path).ok().filter(|_| self.is_own);
        if let Some(old) = &old {
            owner = Some((old.uid(), old.gid()));
        }
        if let Some((user, group)) = owner {
            // Who called sudo is to copy it; where owners cannot be given it stays with who runs this.
            let _ =
                rustix::fs::fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
        }
        if let Some(old) = old {
            file.set_permissions(Permissions::from_mode(old.mode() & 0o770))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    /// Gives it its place.
    ///
    /// # Errors
    /// As [`Staged::new`].
    pub(super) fn put(self) -> Result<Made, String> {
        let mut made = Made { path: self.path.clone(), aside: None };
        if !self.is_own && fs::symlink_metadata(&self.path).is_ok() {
            made.aside = put_aside(&self.path);
            if made.aside.is_none() {
                return Err(self.failed(&io::ErrorKind::AlreadyExists.into()));
            }
        }
        // The file's name must be on disk, too; a folder that may not be read cannot be synced.
        let folder = || File::open(self.path.parent()?).ok();
        let put = fs::rename(&self.temporary, &self.path)
            .and_then(|()| folder().map_or(Ok(()), |folder| folder.sync_all()));
        put.map(|()| made).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> String {
        let why = match error.kind() {
            io::ErrorKind::AlreadyExists => {
                "already exists and cannot be put aside; delete it".into()
            }
            _ => reason::writing(&self.path, error),
        };
        format!("{}: {why}; or name another folder with --dir", self.path.display())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Gives what is at `path` one more name, with `.old` behind it, or `.old2` and on: nothing is overwritten.
fn put_aside(path: &Path) -> Option<PathBuf> {
    (1..=ASIDE).find_map(|number| {
        let mut name = path.as_os_str().to_owned();
        name.push(".old");
        if number > 1 {
            name.push(number.to_string());
        }
        let aside = PathBuf::from(name);
        // A link cannot take another file's place, as a new name could.
        fs::hard_link(path, &aside).ok().map(|()| aside)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mappings::mapping::{AgentLimits, Passcode};
    use crate::testing::folder::Folder;

    fn side(max_connections: u16, threshold: u64) -> AgentPort {
        let heartbeat_threshold = Some(std::time::Duration::from_millis(threshold));
        let limits = AgentLimits { max_connections, heartbeat_threshold };
        AgentPort { port: 6000, passcode: Passcode::new("new").unwrap(), limits }
    }

    #[test]
    fn another_passcode_leaves_all_other_lines() {
        for (text, expected) in [
            ("# a\npasscode=old\nb=passcode=old\n", "# a\npasscode=new\nb=passcode=old\n"),
            (
                "\u{feff}connector=c:1\r\n passcode = old\r\n",
                "\u{feff}connector=c:1\r\npasscode=new\r\n",
            ),
            ("#passcode=x\n\npasscode=old", "#passcode=x\n\npasscode=new"),
            ("connector=c:1", "connector=c:1\npasscode=new\n"),
            ("passcode-file=/p\n", "passcode-file=/p\n"),
            (
                "passcode=old\nconnections=2\nheartbeat=500\n",
                "passcode=new\nconnections=2\nheartbeat=500\n",
            ),
        ] {
            let found = with_passcode(text, 0, &side(60, 60_000));
            assert_eq!(found, (expected.to_owned(), String::new()), "{text:?}");
        }
    }

    #[test]
    fn settings_beyond_what_the_mapping_allows_are_lowered_and_others_stay() {
        let found = |text: &str, index| with_passcode(text, index, &side(3, 6000));
        let lowered = "connections=3, heartbeat=2000".to_owned();
        let expected = "passcode=new\nconnections=3\nheartbeat=2000\n".to_owned();
        assert_eq!(found("passcode=old\n", 0), (expected.clone(), lowered.clone()));
        let own = "passcode=old\nconnections=8\nheartbeat=20000\n";
        assert_eq!(found(own, 0), (expected, lowered));
        let less = "passcode=new\nheartbeat=100\nconnections=1\n".to_owned();
        assert_eq!(found(&less, 0), (less.clone(), String::new()));
        for (text, index) in [("passcode=new\nlisten=[::1]:1\n", 0), ("passcode=new\n", 1)] {
            let expected = format!("{text}heartbeat=2000\n");
            assert_eq!(found(text, index), (expected, "heartbeat=2000".to_owned()));
        }
    }

    #[test]
    fn file_is_replaced_whole_or_not_at_all() {
        let folder = Folder::new();
        let path = folder.file("a.tunnel", "old", 0o640);
        let read = || fs::read_to_string(&path).unwrap();
        let staged = || {
            Staged::new((path.clone(), "new".into()), true).unwrap_or_else(|why| panic!("{why}"))
        };
        let (one, two) = (staged(), staged());
        assert_eq!((read(), folder.names().len()), ("old".into(), 3), "each has a name of its own");
        drop(one);
        assert_eq!((read(), folder.names().len()), ("old".into(), 2), "as after an error");
        assert!(two.put().is_ok_and(|made| made.aside.is_none()));
        assert_eq!((read(), folder.names()), ("new".into(), vec!["a.tunnel".to_owned()]));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        let made = Made::new((path.clone(), "newer".into())).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(
            (read(), folder.names()),
            ("newer".into(), vec!["a.tunnel".into(), "a.tunnel.old".into()])
        );
        made.undo();
        assert_eq!((read(), folder.names()), ("new".into(), vec!["a.tunnel".to_owned()]));
    }

    #[test]
    fn files_of_a_side_are_told_by_their_names_alone_and_not_without_end() {
        let folder = Folder::new();
        for number in 0..=HELD {
            folder.file(&format!("{number}.passcode"), "old", 0o600);
        }
        folder.file("other.passcode", "another", 0o600);
        folder.file("large.tunnel", "x".repeat(limits::TUNNEL_FILE + 1), 0o600);
        let files = Files {
            dir: &folder,
            host: "c",
            plain: true,
            certificate: None,
            name: None,
            public: true,
        };
        assert_eq!(files.held(6000, Some("old")).len(), HELD);
        assert_eq!(files.held(6000, None), [""; 0].map(PathBuf::from));
    }
}
