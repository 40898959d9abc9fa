//! The files that `mapping add` writes for the agents' sides: each one's passcode, and a tunnel file with all that
//! its `tunnel` needs to know (protocol page, section 7, step 6).

use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::fs::Stat;
use rustix::process::{Gid, Uid};

use super::asking::Daemon;
use super::place::{Place, caller};
use crate::agent::options as tunnel;
use crate::mappings::mapping::{AgentPort, random_id};
use crate::mappings::options::Options;
use crate::text::line::escaped;
use crate::text::reason;

/// How many files that stay are named; the others are counted.
const NAMED: usize = 10;

/// How a tunnel file begins that `mapping add` has written.
const WRITTEN: &str = "# One side of a ";

/// What the files of a mapping's sides have in common.
pub(super) struct Files<'a> {
    /// Where they are.
    place: &'a Place,
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

/// A file's name in the folder, and what is in it.
pub(super) type Wanted = (String, String);

impl<'a> Files<'a> {
    /// Those of a mapping with these options, of this daemon.
    pub(super) fn new(
        place: &'a Place,
        daemon: &'a Daemon,
        mapping: &'a Options,
        public: bool,
    ) -> Self {
        let (plain, certificate) = (daemon.report.state.dev, daemon.pin.as_deref());
        Files {
            place,
            host: &daemon.host,
            plain,
            certificate,
            name: mapping.name.as_deref(),
            public,
        }
    }

    /// The names of the passcode's file and of the tunnel's, of one side: 0 is port1's.
    pub(super) fn names(&self, index: usize, port: u16) -> [String; 2] {
        let stem = match self.name {
            None => format!("iofog-{port}"),
            Some(name) if self.public => name.to_owned(),
            Some(name) => format!("{name}-{}", index + 1),
        };
        [format!("iofog-{port}.passcode"), format!("{stem}.tunnel")]
    }

    /// The two files, of one side.
    pub(super) fn of(&self, index: usize, side: &AgentPort) -> [Wanted; 2] {
        let (port, passcode) = (side.port, side.passcode.reveal());
        let [passcodes, tunnels] = self.names(index, port);
        let work = if index == 0 { "target localhost:PORT" } else { "listen 127.0.0.1:PORT" };
        let pipe = if self.public { tunnel::PUBLIC } else { "# One side of a private pipe." };
        let mut text = format!(
            "{pipe} On its machine: sudo iofog-connector tunnel install {tunnels} --{work}\n\
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
        let [mut passcode, mut tunnel] = self.of(index, side).map(|wanted| Renewed {
            wanted,
            old: None,
            distrust: None,
            settings: String::new(),
        });
        let connector = format!("{}:{}", self.host, side.port);
        let old = self.place.text(OsStr::new(&tunnel.wanted.0)).filter(|(text, _)| {
            before == Some(secret(text)) || value(text, "connector") == Some(&connector)
        });
        if let Some((old, found)) = &old {
            tunnel.distrust = self.place.distrust(found);
            if tunnel.distrust.is_none() {
                tunnel.old = Some(*found);
                (tunnel.wanted.1, tunnel.settings) = with_passcode(old, index, side);
            }
        }
        let secrets = [before, old.as_ref().map(|(old, _)| secret(old))];
        let old = self.place.text(OsStr::new(&passcode.wanted.0));
        if let Some((_, found)) = old.filter(|(old, _)| secrets.contains(&Some(secret(old)))) {
            passcode.distrust = self.place.distrust(&found);
            passcode.old = passcode.distrust.is_none().then_some(found);
        }
        [passcode, tunnel]
    }

    /// The files in the folder that are of the side with this port, or were: what holds its passcode, which is `None` where
    /// it is not known, and tunnel files that `mapping add` has written for this port of this connector, with lines
    /// that somebody has added, too. They are read one at a time.
    pub(super) fn held(&self, index: usize, port: u16, passcode: Option<&str>) -> Vec<Held> {
        let connector = format!("{}:{port}", self.host);
        let is_written =
            |text: &str| text.starts_with(WRITTEN) && value(text, "connector") == Some(&connector);
        let names = self.names(index, port);
        let own = self.place.text(OsStr::new(&names[1])).filter(|(text, _)| is_written(text));
        let own = own.as_ref().map(|(text, _)| secret(text));
        let held = self.texts().filter_map(|(name, text)| {
            let [is_this, is_own] =
                [passcode, own].map(|known| known.is_some_and(|known| known == secret(&text)));
            let is_written = is_written(&text);
            let is_named = names.iter().any(|own| name == **own);
            // One of an earlier name says in its first line what it was called.
            let first = text.lines().next().unwrap_or_default();
            let before = format!(" tunnel install {} --", name.to_string_lossy());
            let was_named = first.starts_with(WRITTEN) && first.contains(&before);
            let is_added = is_named || was_named && is_this;
            (is_this || is_own || is_written).then_some(Held { name, is_added, is_this })
        });
        held.collect()
    }

    /// The files in the folder that may hold passcodes, with their texts.
    fn texts(&self) -> impl Iterator<Item = (OsString, String)> {
        self.place.names().filter_map(|name| {
            let shown = name.to_string_lossy();
            let is_one = shown.contains(".passcode") || shown.contains(".tunnel");
            let (text, _) = if is_one { self.place.text(&name)? } else { return None };
            Some((name, text))
        })
    }
}

/// A file that is of a side, or was.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) name: OsString,
    /// It has the name that `mapping add` has given it, so that it is no copy.
    pub(super) is_added: bool,
    /// The side's passcode is in it.
    pub(super) is_this: bool,
}

/// A line for each of these files, the first of them, and one for the others.
pub(super) fn listed<T: AsRef<str>>(place: &Place, files: &[(OsString, T)]) -> String {
    let (named, more) = files.split_at(files.len().min(NAMED));
    let line = |(name, what): &(OsString, T)| format!("{} {}\n", path(place, name), what.as_ref());
    let mut text: String = named.iter().map(line).collect();
    if !more.is_empty() {
        text.push_str(&format!("so it is with {} more files there\n", more.len()));
    }
    text
}

/// A file's path, as a line has it.
pub(super) fn path(place: &Place, name: &OsStr) -> String {
    escaped(&place.path.join(name).to_string_lossy())
}

/// What a file is to hold when its side has a new passcode.
pub(super) struct Renewed {
    /// Where and what.
    pub(super) wanted: Wanted,
    /// The file that is of this side already, so that nothing of it is to be put aside.
    pub(super) old: Option<Stat>,
    /// Why nothing is taken over from the file that is of this side.
    pub(super) distrust: Option<&'static str>,
    /// Settings that were lowered in it, or added.
    pub(super) settings: String,
}

/// The name and the value in a line of a tunnel file.
fn pair(line: &str) -> (&str, &str) {
    let line = line.trim_start_matches('\u{feff}').trim();
    let (name, value) = line.split_once('=').unwrap_or((line, ""));
    (name.trim(), value.trim())
}

/// What `tunnel install` is to be told beside a side's tunnel file with this text, which may say it itself.
pub(super) fn work(text: &str, index: usize) -> &'static str {
    match index {
        _ if value(text, "target").or(value(text, "listen")).is_some() => "",
        0 => " --target localhost:PORT",
        _ => " --listen 127.0.0.1:PORT",
    }
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
pub(super) struct Made<'a> {
    place: &'a Place,
    name: String,
    aside: Option<String>,
}

impl<'a> Made<'a> {
    /// Writes a file, as [`Staged`] does. One of this name, of a mapping that is gone or from elsewhere, is put aside.
    ///
    /// # Errors
    /// A sentence for the operator; nothing has changed then.
    pub(super) fn new(place: &'a Place, wanted: Wanted) -> Result<Self, String> {
        Staged::new(place, wanted, None)?.put()
    }

    /// Its path.
    pub(super) fn path(&self) -> PathBuf {
        self.place.path.join(&self.name)
    }

    /// The path of the one that had its name.
    pub(super) fn aside(&self) -> Option<PathBuf> {
        self.aside.as_ref().map(|aside| self.place.path.join(aside))
    }

    /// Takes the file away again.
    pub(super) fn undo(self) {
        let _ = match self.aside {
            Some(aside) => self.place.rename(&aside, &self.name),
            None => self.place.remove(OsStr::new(&self.name)),
        };
    }
}

/// A file's new content, under a name of its own beside it until it takes its place, whole or not at all.
pub(super) struct Staged<'a> {
    place: &'a Place,
    temporary: String,
    name: String,
    is_own: bool,
}

impl<'a> Staged<'a> {
    /// Writes it, for this user alone, or whoever called `sudo`. With `old` that file, which has this name, is replaced, and
    /// its owner and mode are kept.
    ///
    /// # Errors
    /// A sentence for the operator; nothing has changed then.
    pub(super) fn new(
        place: &'a Place,
        (name, text): Wanted,
        old: Option<Stat>,
    ) -> Result<Self, String> {
        // Nobody else has this name, and `mapping remove` names what a kill leaves of it.
        let temporary = format!(".{name}.{}.new", random_id());
        let staged = Staged { place, temporary, name, is_own: old.is_some() };
        match staged.write(&text, old) {
            Ok(()) => Ok(staged),
            Err(error) => Err(staged.failed(&error)),
        }
    }

    fn write(&self, text: &str, old: Option<Stat>) -> io::Result<()> {
        let mut file = self.place.make(&self.temporary)?;
        let owner = old.map(|old| (old.st_uid, old.st_gid)).or_else(caller);
        if let Some((user, group)) = owner {
            // Who called sudo is to copy it; where owners cannot be given it stays with who runs this.
            let _ =
                rustix::fs::fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
        }
        if let Some(old) = old {
            file.set_permissions(Permissions::from_mode(old.st_mode & 0o770))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    /// Gives it its place.
    ///
    /// # Errors
    /// As [`Staged::new`].
    pub(super) fn put(self) -> Result<Made<'a>, String> {
        let mut made = Made { place: self.place, name: self.name.clone(), aside: None };
        if !self.is_own && self.place.stat(OsStr::new(&self.name)).is_some() {
            made.aside = self.place.put_aside(&self.name);
            if made.aside.is_none() {
                return Err(self.failed(&io::ErrorKind::AlreadyExists.into()));
            }
        }
        let put = self.place.rename(&self.temporary, &self.name);
        put.and_then(|()| self.place.sync()).map(|()| made).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> String {
        let path = self.place.path.join(&self.name);
        let why = match error.kind() {
            io::ErrorKind::AlreadyExists => {
                "already exists and cannot be put aside; delete it".into()
            }
            _ => reason::writing(&path, error),
        };
        format!("{}: {why}; or name another folder with --dir", path.display())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        let _ = self.place.remove(OsStr::new(&self.temporary));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::limits;
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
        let place = Place::open(&folder).unwrap();
        let old = place.text(OsStr::new("a.tunnel")).map(|(_, found)| found);
        let staged = || {
            let wanted = ("a.tunnel".into(), "new".into());
            Staged::new(&place, wanted, old).unwrap_or_else(|why| panic!("{why}"))
        };
        let (one, two) = (staged(), staged());
        assert_eq!((read(), folder.names().len()), ("old".into(), 3), "each has a name of its own");
        drop(one);
        assert_eq!((read(), folder.names().len()), ("old".into(), 2), "as after an error");
        assert!(two.put().is_ok_and(|made| made.aside.is_none()));
        assert_eq!((read(), folder.names()), ("new".into(), vec!["a.tunnel".to_owned()]));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        let made = Made::new(&place, ("a.tunnel".into(), "newer".into()))
            .unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(
            (read(), folder.names()),
            ("newer".into(), vec!["a.tunnel".into(), "a.tunnel.old".into()])
        );
        made.undo();
        assert_eq!((read(), folder.names()), ("new".into(), vec!["a.tunnel".to_owned()]));
    }

    #[test]
    fn files_of_a_side_are_told_by_their_text_and_copies_by_their_names() {
        let folder = Folder::new();
        for number in 0..20 {
            folder.file(&format!("{number}\u{1b}.passcode"), "old", 0o600);
        }
        let text = |name: &str, passcode: &str| {
            format!(
                "# One side of a public pipe. On its machine: sudo iofog-connector tunnel install {name} --target \
                 localhost:PORT\nconnector=c:6000\npasscode={passcode}\n"
            )
        };
        for (file, name, passcode) in [
            ("iofog-6000.tunnel", "iofog-6000.tunnel", "older"),
            ("earlier.tunnel", "earlier.tunnel", "old"),
            ("leftover.tunnel", "leftover.tunnel", "older"),
            ("copy.tunnel", "iofog-6000.tunnel", "old"),
        ] {
            folder.file(file, text(name, passcode), 0o600);
        }
        folder.file("iofog-6000.passcode", "older", 0o600);
        folder.file("other.passcode", "another", 0o600);
        folder.file("large.tunnel", "x".repeat(limits::TUNNEL_FILE + 1), 0o600);
        let place = Place::open(&folder).unwrap();
        let files = Files {
            place: &place,
            host: "c",
            plain: true,
            certificate: None,
            name: None,
            public: true,
        };
        let added = |passcode| {
            let held = files.held(0, 6000, passcode).into_iter();
            let (added, stays): (Vec<_>, Vec<_>) = held.partition(|held| held.is_added);
            let mut added: Vec<_> = added.into_iter().map(|held| held.name).collect();
            added.sort();
            (added, stays.into_iter().map(|held| (held.name, "stays")).collect::<Vec<_>>())
        };
        let (found, stays) = added(Some("old"));
        assert_eq!(found, ["earlier.tunnel", "iofog-6000.passcode", "iofog-6000.tunnel"]);
        assert_eq!(stays.len(), 22);
        let said = listed(&place, &stays);
        assert_eq!(said.lines().count(), 11, "{said}");
        assert!(said.ends_with("so it is with 12 more files there\n"), "{said}");
        assert!(!said.contains('\u{1b}'), "{said:?}");
        let (found, stays) = added(None);
        assert_eq!(found, ["iofog-6000.passcode", "iofog-6000.tunnel"]);
        assert_eq!(stays.len(), 3, "what was written for this port: {stays:?}");
    }
}
