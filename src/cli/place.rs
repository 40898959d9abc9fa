//! A folder of people's files, opened once. Whoever owns it may put a link or another folder in its place while root works
//! there; nothing that is done through this descriptor leaves the folder.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, linkat, open, openat, readlinkat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::limits;

/// As the kernel, which follows so many links in one path.
const LINKS: usize = 40;

/// How many files of one name are put aside before somebody must tidy up.
const ASIDE: u32 = 100;

const STEP: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The folder.
pub(super) struct Place {
    folder: OwnedFd,
    /// Its whole path when it was opened, without links: for sentences alone.
    pub(super) path: PathBuf,
}

impl Place {
    /// Opens it. A link on the way is followed only where nobody but root, who runs this, and whoever called sudo could
    /// have put it.
    ///
    /// # Errors
    /// What opening meets; `PERM` for such a link, as [`Place::fault`] words it.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let mut folder = if dir.is_absolute() { At::Root } else { At::here()? };
        let mut path =
            if dir.is_absolute() { PathBuf::from("/") } else { std::env::current_dir()? };
        let mut parts = parts(dir);
        let mut links = 0;
        while let Some(part) = parts.pop() {
            let (at, name) = folder.named(&part);
            match openat(at, &name, STEP, Mode::empty()) {
                Ok(next) if part == ".." => {
                    path.pop();
                    folder = At::Folder(next);
                }
                Ok(next) => {
                    path.push(&part);
                    folder = At::Folder(next);
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let found = statat(at, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                    links += 1;
                    match () {
                        () if !FileType::from_raw_mode(found.st_mode).is_symlink() => {
                            return Err(Errno::NOTDIR.into());
                        }
                        () if !is_kept(&folder.stat()?, found.st_uid) => {
                            return Err(Errno::PERM.into());
                        }
                        () if links > LINKS => return Err(Errno::LOOP.into()),
                        () => {}
                    }
                    let to = readlinkat(at, &name, Vec::new())?.into_bytes();
                    let to = PathBuf::from(OsString::from_vec(to));
                    if to.is_absolute() {
                        (folder, path) = (At::Root, "/".into());
                    }
                    parts.extend(self::parts(&to));
                }
                Err(error) => return Err(error.into()),
            }
        }
        // One that may not be read can be written to.
        let readable = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (at, name) = folder.named(OsStr::new("."));
        let folder = openat(at, &name, readable, Mode::empty())
            .or_else(|_| openat(at, &name, STEP, Mode::empty()))?;
        Ok(Place { folder, path })
    }

    /// Why it could not be opened.
    pub(super) fn fault(dir: &Path, error: &io::Error) -> String {
        match Errno::from_io_error(error) {
            Some(Errno::PERM) => {
                "it leads through a link that another user may have put there; name the folder \
                 without it"
                    .into()
            }
            _ => crate::text::reason::reading(dir, error),
        }
    }

    /// A name of something in the folder, and of nothing elsewhere, wherever it comes from.
    fn own(name: &OsStr) -> io::Result<&OsStr> {
        let mut parts = Path::new(name).components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(part)), None) if part == name => Ok(name),
            _ => Err(io::Error::other("it is not a name of a file in that folder")),
        }
    }

    /// The names of all that is in it; none of a folder that may not be read.
    pub(super) fn names(&self) -> impl Iterator<Item = OsString> + use<> {
        let entries = Dir::read_from(&self.folder).into_iter().flatten().flatten();
        entries.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
    }

    /// What has this name, a link itself.
    pub(super) fn stat(&self, name: &OsStr) -> Option<Stat> {
        statat(&self.folder, Self::own(name).ok()?, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    /// The text of a file, and whose it is; `None` for a link, a folder, what is too long, or what this user may not read.
    pub(super) fn text(&self, name: &OsStr) -> Option<(String, Stat)> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        // What is no file is not even opened: to open a device may do something.
        self.stat(name).filter(is_file)?;
        let file = openat(&self.folder, name, flags, Mode::empty()).ok()?;
        let found = fstat(&file).ok().filter(is_file)?;
        let mut text = Vec::new();
        File::from(file).take(limits::TUNNEL_FILE as u64 + 1).read_to_end(&mut text).ok()?;
        let text = String::from_utf8(text).ok().filter(|text| text.len() <= limits::TUNNEL_FILE)?;
        Some((text, found))
    }

    /// Why nothing of this file may be taken over: who runs this would answer for lines of somebody else. Root takes files
    /// of its own and of whoever called sudo, where nobody else can write; others take their own.
    pub(super) fn distrust(&self, file: &Stat) -> Option<&'static str> {
        let root = geteuid().is_root();
        match () {
            () if !root && file.st_uid == geteuid().as_raw() => None,
            () if !root || !is_ours(file.st_uid) => Some("it belongs to another user"),
            () if file.st_mode & 0o022 != 0 => Some("others may write to it (chmod go-w)"),
            () if !fstat(&self.folder).is_ok_and(|folder| is_kept(&folder, file.st_uid)) => {
                Some("others may put files into its folder")
            }
            () => None,
        }
    }

    /// Makes a new file, for this user alone.
    pub(super) fn make(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::CREATE
            | OFlags::EXCL
            | OFlags::WRONLY
            | OFlags::NOFOLLOW
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let name = Self::own(name.as_ref())?;
        Ok(openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Gives a file another one's place.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let [from, to] = [Self::own(from.as_ref())?, Self::own(to.as_ref())?];
        Ok(renameat(&self.folder, from, &self.folder, to)?)
    }

    /// Removes a file.
    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.folder, Self::own(name)?, AtFlags::empty())?)
    }

    /// Gives what has this name one more, with `.old` behind it, or `.old2` and on: nothing is overwritten.
    pub(super) fn put_aside(&self, name: &str) -> Option<String> {
        Self::own(name.as_ref()).ok()?;
        (1..=ASIDE).find_map(|number| {
            let number = if number > 1 { number.to_string() } else { String::new() };
            let aside = format!("{name}.old{number}");
            // A link cannot take another file's place, as a new name could.
            let linked = linkat(&self.folder, name, &self.folder, &*aside, AtFlags::empty());
            linked.ok().map(|()| aside)
        })
    }

    /// Has the files' names on disk, too; a folder that may not be read cannot be synced.
    pub(super) fn sync(&self) -> io::Result<()> {
        match rustix::fs::fsync(&self.folder) {
            Err(Errno::BADF) => Ok(()),
            synced => Ok(synced?),
        }
    }
}

/// A folder on the way.
enum At {
    /// The root, which nobody can replace: what is in it has a whole path.
    Root,
    Folder(OwnedFd),
}

impl At {
    /// The current folder.
    fn here() -> io::Result<Self> {
        Ok(At::Folder(open(".", STEP, Mode::empty())?))
    }

    /// How a system call names what is in it.
    fn named(&self, part: &OsStr) -> (BorrowedFd<'_>, PathBuf) {
        match self {
            At::Root => (CWD, Path::new("/").join(part)),
            At::Folder(folder) => (folder.as_fd(), part.into()),
        }
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(match self {
            At::Root => rustix::fs::stat("/")?,
            At::Folder(folder) => fstat(folder)?,
        })
    }
}

/// A path's parts, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let skipped = |part: &Component| matches!(part, Component::RootDir | Component::CurDir);
    let parts = path.components().rev().filter(|part| !skipped(part));
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

pub(super) fn is_file(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode).is_file()
}

/// Who has called sudo: user and group.
pub(super) fn caller() -> Option<(u32, u32)> {
    let id = |name| std::env::var(name).ok()?.parse().ok();
    geteuid().is_root().then(|| Some((id("SUDO_UID")?, id("SUDO_GID")?))).flatten()
}

/// Whether this is root, who runs this, or whoever called sudo.
fn is_ours(user: u32) -> bool {
    user == 0 || user == geteuid().as_raw() || caller().is_some_and(|(caller, _)| caller == user)
}

/// Whether nobody else can put something in the place of what is in the folder and belongs to `owner`.
fn is_kept(folder: &Stat, owner: u32) -> bool {
    let is_closed = folder.st_mode & 0o022 == 0 || folder.st_mode & 0o1000 != 0;
    is_closed && is_ours(folder.st_uid) && is_ours(owner)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;
    use crate::testing::folder::Folder;

    fn opened(path: &Path) -> Result<PathBuf, Option<Errno>> {
        Place::open(path).map(|place| place.path).map_err(|error| Errno::from_io_error(&error))
    }

    #[test]
    fn link_is_followed_only_where_nobody_else_could_have_put_it() {
        let own = Folder::new();
        let [open, closed, sticky, real] =
            ["open", "closed", "sticky", "real"].map(|name| own.join(name));
        for (folder, mode) in [(&open, 0o777), (&closed, 0o755), (&sticky, 0o1777), (&real, 0o755)]
        {
            fs::create_dir(folder).unwrap();
            fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
            symlink("../real", folder.join("link")).unwrap();
            symlink("self", folder.join("self")).unwrap();
        }
        fs::create_dir(real.join("in")).unwrap();
        let real = fs::canonicalize(&real).unwrap();
        assert_eq!(opened(&closed.join("link/in/../in/.")), Ok(real.join("in")));
        assert_eq!(opened(&sticky.join("link")), Ok(real.clone()));
        assert_eq!(opened(&closed.join("self")), Err(Some(Errno::LOOP)));
        assert_eq!(opened(&own.file("file", "", 0o600)), Err(Some(Errno::NOTDIR)));
        for link in ["link", "link/in", "link/"] {
            assert_eq!(opened(&open.join(link)), Err(Some(Errno::PERM)), "{link}");
        }
        let absolute = closed.join("absolute");
        symlink(open.join("link"), &absolute).unwrap();
        assert_eq!(opened(&absolute), Err(Some(Errno::PERM)), "behind a link, too");
        let here = std::env::current_dir().unwrap();
        assert_eq!(opened(Path::new(".")), Ok(fs::canonicalize(here).unwrap()));
        if geteuid().is_root() {
            chown(&closed, Some(4321), None).unwrap();
            assert_eq!(opened(&closed.join("link")), Err(Some(Errno::PERM)));
            std::os::unix::fs::lchown(sticky.join("link"), Some(4321), None).unwrap();
            assert_eq!(opened(&sticky.join("link")), Err(Some(Errno::PERM)));
        }
    }

    #[test]
    fn folder_that_is_swapped_for_a_link_is_not_left() {
        let own = Folder::new();
        let [folder, moved, elsewhere] =
            ["folder", "moved", "elsewhere"].map(|name| own.join(name));
        for folder in [&folder, &elsewhere] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("a.tunnel"), folder.to_str().unwrap()).unwrap();
        }
        let place = Place::open(&folder).unwrap();
        fs::rename(&folder, &moved).unwrap();
        symlink(&elsewhere, &folder).unwrap();
        let name = OsStr::new("a.tunnel");
        assert_eq!(place.text(name).unwrap().0, folder.to_str().unwrap());
        place.make("new").unwrap();
        assert_eq!(place.put_aside("a.tunnel").as_deref(), Some("a.tunnel.old"));
        let aside = fs::read_to_string(moved.join("a.tunnel.old")).unwrap();
        assert_eq!(aside, folder.to_str().unwrap());
        place.rename("new", "newer").unwrap();
        place.remove(name).unwrap();
        place.sync().unwrap();
        let names = |folder: &Path| {
            let mut names: Vec<_> = Place::open(folder).unwrap().names().collect();
            names.sort();
            names
        };
        assert_eq!(names(&moved), [".", "..", "a.tunnel.old", "newer"]);
        assert_eq!(names(&elsewhere), [".", "..", "a.tunnel"]);
        // Nor does a name in it.
        let out = "../elsewhere/a.tunnel";
        for name in [out, "..", ".", "", "/x", "a/b", "a.tunnel.old/"] {
            let os = OsStr::new(name);
            assert!(place.make(name).is_err() && place.remove(os).is_err(), "{name}");
            assert!(place.stat(os).is_none() && place.text(os).is_none(), "{name}");
            assert!(place.put_aside(name).is_none(), "{name}");
            for [from, to] in [[name, "x"], ["newer", name]] {
                assert!(place.rename(from, to).is_err(), "{name}");
            }
        }
        // Nor does a link in it lead anywhere.
        symlink(elsewhere.join("a.tunnel"), moved.join("link")).unwrap();
        symlink(elsewhere.join("none"), moved.join("none")).unwrap();
        assert!(place.text(OsStr::new("link")).is_none() && place.make("none").is_err());
    }

    #[test]
    fn file_is_taken_over_only_where_nobody_else_can_write() {
        let own = Folder::new();
        let [open, closed, sticky] = ["open", "closed", "sticky"].map(|name| own.join(name));
        for (folder, mode) in [(&open, 0o777), (&closed, 0o755), (&sticky, 0o1777)] {
            fs::create_dir(folder).unwrap();
            fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
            fs::write(folder.join("a"), "a").unwrap();
        }
        let why = |folder: &Path| {
            let place = Place::open(folder).unwrap();
            place.distrust(&place.text(OsStr::new("a")).unwrap().1)
        };
        assert_eq!((why(&closed), why(&sticky)), (None, None));
        if !geteuid().is_root() {
            assert_eq!(why(&open), None);
            return;
        }
        assert_eq!(why(&open), Some("others may put files into its folder"));
        fs::set_permissions(closed.join("a"), Permissions::from_mode(0o620)).unwrap();
        assert!(why(&closed).is_some_and(|why| why.starts_with("others may write to it")));
        for folder in [&closed, &sticky] {
            chown(folder.join("a"), Some(4321), None).unwrap();
            assert_eq!(why(folder), Some("it belongs to another user"));
        }
    }
}
