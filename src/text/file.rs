//! Files that people put there, opened without waiting: a pipe or a device in a file's place must
//! hold nobody up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::geteuid;

/// Opens a file.
///
/// # Errors
/// Besides what opening meets: what is no file, as `reason::reading` words it.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    checked(open_any(path, options, OFlags::empty())?)
}

/// Opens a file that this process writes in a folder where others may put things: through no link, and
/// with no other name (a hard link), so that it is not a file elsewhere; and for root only its own or
/// that of the folder's owner.
///
/// # Errors
/// Besides those of [`open`]: `LOOP` for a link and `MLINK` for the others, as `reason::writing` words
/// them.
pub fn open_own(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = checked(open_any(path, options, OFlags::NOFOLLOW)?)?;
    let found = file.metadata()?;
    let owns = |folder: &Path| folder.metadata().is_ok_and(|of| of.uid() == found.uid());
    let own = !geteuid().is_root() || found.uid() == 0 || path.parent().is_some_and(owns);
    if own && found.nlink() == 1 { Ok(file) } else { Err(Errno::MLINK.into()) }
}

/// Where the file `path` is opened, links followed: the folder of each name on the way, so that another file
/// may take that name; the file alone where this is a folder that many share, such as /etc or /tmp. Any other
/// folder below the root (/data, /certs in a container) was made for what is in it.
pub fn places(path: &Path) -> Vec<PathBuf> {
    /// As many links as the kernel follows.
    const LINKS: usize = 40;
    /// As hier(7) has them.
    const SHARED: &str = " / /bin /boot /dev /etc /home /lib /lib64 /media /mnt /opt /proc /root /run /sbin /srv /sys /tmp /usr /var ";
    let mut path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut places = Vec::new();
    for _ in 0..LINKS {
        let Some(folder) = path.parent() else { break };
        let is_shared = |folder: &Path| SHARED.contains(&format!(" {} ", folder.display()));
        let next = fs::read_link(&path).ok().map(|next| folder.join(next));
        places.push(if is_shared(folder) { path.clone() } else { folder.to_owned() });
        // Another folder may take a folder's name, too.
        let links = folder.ancestors().filter(|above| above.is_symlink());
        let around = links.filter_map(Path::parent).filter(|around| !is_shared(around));
        places.extend(around.map(Path::to_owned));
        match next {
            Some(next) => path = next,
            None => break,
        }
    }
    places
}

/// Whether users other than this one and root may put things into a folder.
pub fn is_open_to_others(folder: &Path) -> bool {
    let closed = |of: std::fs::Metadata| {
        of.mode() & 0o022 == 0 && [0, geteuid().as_raw()].contains(&of.uid())
    };
    !folder.metadata().is_ok_and(closed)
}

fn checked(opened: File) -> io::Result<File> {
    let kind = opened.metadata()?.file_type();
    match () {
        () if kind.is_file() => Ok(opened),
        () if kind.is_dir() => Err(Errno::ISDIR.into()),
        () => Err(Errno::NXIO.into()),
    }
}

fn open_any(path: &Path, options: &mut OpenOptions, more: OFlags) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | more;
    options.custom_flags(flags.bits() as i32).open(path)
}

/// What is in a file: at most `most` bytes and one more, which tells the caller that the file is
/// longer.
///
/// With `wait` it may also be a pipe or a device, as a shell makes of `<(command)`, that is
/// written to its end within this time.
///
/// # Errors
/// As [`open`]; `TimedOut` for a pipe that does not end.
pub fn read(path: &Path, most: usize, wait: Option<Duration>) -> io::Result<Vec<u8>> {
    let mut options = File::options();
    options.read(true);
    let (file, until) = match wait {
        None => (open(path, &mut options)?, None),
        Some(wait) => (open_any(path, &mut options, OFlags::empty())?, Some(Instant::now() + wait)),
    };
    let mut content = Vec::new();
    let mut rest = file.take(most as u64 + 1);
    loop {
        if let Some(until) = until {
            written(rest.get_ref(), until)?;
        }
        match rest.read_to_end(&mut content) {
            // Only what is not a regular file.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done.map(|_| content),
        }
    }
}

/// Returns when there is something to read, or its end. Only a pipe that has had a writer has
/// ended: before the first one comes, a read would find an end, too.
fn written(file: &File, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut asked = [PollFd::new(file, PollFlags::IN)];
        match rustix::event::poll(&mut asked, Some(&left)) {
            Err(Errno::INTR) => {}
            Ok(0) => return Err(Errno::TIMEDOUT.into()),
            asked => return asked.map(drop).map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::thread;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::testing::folder::Folder;

    const MOMENT: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_no_file_holds_nobody_up() {
        let dir = Folder::new();
        let [pipe, link] = ["pipe", "link"].map(|name| dir.join(name));
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        symlink("/dev/zero", &link).unwrap();
        let error = |path: &Path, wait| Errno::from_io_error(&read(path, 10, wait).unwrap_err());
        assert_eq!(error(&pipe, None), Some(Errno::NXIO));
        assert_eq!(error(&link, None), Some(Errno::NXIO));
        assert_eq!(error(&dir, None), Some(Errno::ISDIR));
        assert_eq!(error(&dir, Some(MOMENT)), Some(Errno::ISDIR));
        // Nobody writes; and one who does not come to an end.
        assert_eq!(error(&pipe, Some(MOMENT)), Some(Errno::TIMEDOUT));
        let mut writer = File::options().read(true).write(true).open(&pipe).unwrap();
        writer.write_all(b"begun").unwrap();
        assert_eq!(error(&pipe, Some(MOMENT)), Some(Errno::TIMEDOUT));
        // A device without an end, and a file that is too long.
        assert_eq!(read(&link, 10, Some(PATIENCE)).unwrap(), [0; 11]);
        fs::write(dir.join("long"), [7; 100]).unwrap();
        assert_eq!(read(&dir.join("long"), 10, None).unwrap(), [7; 11]);
    }

    #[test]
    fn folder_that_many_share_is_no_place_and_any_other_below_the_root_is() {
        for (file, place) in [
            ("/etc/ca.pem", "/etc/ca.pem"),
            ("/ca.pem", "/ca.pem"),
            ("/tmp/ca.pem", "/tmp/ca.pem"),
            ("/var/ca.pem", "/var/ca.pem"),
            ("/etc/connectors/ca.pem", "/etc/connectors"),
            ("/of-a-container/ca.pem", "/of-a-container"),
        ] {
            assert_eq!(places(Path::new(file)), [PathBuf::from(place)]);
        }
    }

    #[test]
    fn pipe_of_the_command_line_is_read_to_its_end() {
        let dir = Folder::new();
        let pipe = dir.join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let path = pipe.clone();
        let writer = thread::spawn(move || {
            let mut pipe = File::options().write(true).open(path).unwrap();
            pipe.write_all(b"one ").unwrap();
            thread::sleep(MOMENT);
            pipe.write_all(b"two").unwrap();
        });
        assert_eq!(read(&pipe, 10, Some(PATIENCE)).unwrap(), b"one two");
        writer.join().unwrap();
    }
}
