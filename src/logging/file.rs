//! The way out to the log file, with one old file beside it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags, statvfs};
use rustix::io::Errno;

use super::line::{Formats, Line};
use super::sink::Sink;
use super::utc::Utc;
use crate::limits;
use crate::text::{file, reason};

/// The log file: at most [`limits::LOG_FILE`] bytes, and one old file of that size.
pub(super) struct File {
    path: PathBuf,
    open: Option<Open>,
    /// The error of the last attempt to open it or to write.
    fault: Option<io::Error>,
    /// Whether lines are JSON.
    json: bool,
}

struct Open {
    file: fs::File,
    size: u64,
    /// Whether a full disk has taken only the beginning of a line.
    torn: bool,
    /// Whether it is a file: a device or a pipe has no size and cannot be put aside.
    regular: bool,
}

impl File {
    pub(super) fn new(path: &Path) -> Self {
        File { path: path.to_owned(), open: None, fault: None, json: false }
    }

    fn open(&self) -> io::Result<Open> {
        // In the cage no folder can be made.
        if let Some(dir) = self.path.parent().filter(|dir| !dir.is_dir()) {
            DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        }
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o640);
        // Where nobody else may put one, it may be a link, a device or a pipe.
        let file = if self.path.parent().is_some_and(file::is_open_to_others) {
            file::open_own(&self.path, &mut options)?
        } else {
            // A pipe that nobody reads must fail instead of waiting for a reader.
            options.custom_flags(OFlags::NONBLOCK.bits() as i32).open(&self.path)?
        };
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        let regular = !kind.is_fifo() && !kind.is_char_device();
        Ok(Open { file, size: metadata.size(), torn: false, regular })
    }

    fn put_aside(&self) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".old");
        fs::rename(&self.path, old)
    }
}

impl File {
    fn append(&mut self, line: &Line) -> io::Result<()> {
        let now = Utc::now();
        let line = if self.json { line.json(now) } else { format!("{now} {}", line.text()) };
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        if open.regular && open.size > 0 && open.size + line.len() as u64 > limits::LOG_FILE {
            // While one daemon takes another one's place both write; what the other has put aside is not lost so soon.
            if open.is_at(&self.path) {
                self.put_aside()?;
            }
            open = self.open()?;
        }
        let done = open.line(&line);
        self.open = Some(open);
        done
    }
}

impl Sink for File {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let done = self.append(line);
        self.fault = done.as_ref().err().map(same);
        done
    }

    fn set_formats(&mut self, formats: Formats) {
        self.json = formats.json;
    }

    fn reopen(&mut self) {
        // Immediately: whoever has moved the old file away waits for the new one. If it cannot be
        // opened, the next message tries again.
        let opened = self.open();
        self.fault = opened.as_ref().err().map(same);
        self.open = opened.ok();
    }

    fn fault(&self) -> Option<String> {
        let known = self.fault.as_ref().map(|error| unusable(&self.path, error));
        known.or_else(|| doubt(&self.path))
    }
}

/// A copy of an error, as far as errors can be copied.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// Why the log file `path` could not be written, as far as that shows without writing.
pub(super) fn doubt(path: &Path) -> Option<String> {
    let folder = path.ancestors().skip(1).find(|folder| folder.exists())?;
    let is_dir = |path: &Path| fs::metadata(path).is_ok_and(|found| found.is_dir());
    let access = |path, what| rustix::fs::access(path, what);
    let found = match path.exists() {
        true if is_dir(path) => Err(Errno::ISDIR),
        true => access(path, Access::WRITE_OK),
        false if !is_dir(folder) => Err(Errno::NOTDIR),
        // Missing folders are made at the start.
        false => access(folder, Access::WRITE_OK | Access::EXEC_OK),
    };
    let room = || {
        let disk = statvfs(folder)?;
        // Pseudo file systems have no blocks at all.
        if disk.f_blocks > 0 && disk.f_bavail == 0 { Err(Errno::NOSPC) } else { Ok(()) }
    };
    found.and_then(|()| room()).err().map(|error| unusable(path, &error.into()))
}

fn unusable(path: &Path, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::WriteZero => reason::writing(path, &Errno::NOSPC.into()),
        _ => reason::writing(path, error),
    };
    format!(
        "the log file {} cannot be written: {why}; until then syslog alone has its lines, if \
         there is one; --log DIR names another folder",
        path.display()
    )
}

impl Open {
    /// Whether it is still what `path` leads to.
    fn is_at(&self, path: &Path) -> bool {
        let place = |found: io::Result<fs::Metadata>| found.map(|it| (it.dev(), it.ino())).ok();
        place(self.file.metadata()) == place(fs::metadata(path))
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
            self.size += 1;
            self.torn = false;
        }
        // One write: either all of the line is there, or the disk is full.
        let written = self.file.write(line.as_bytes())?;
        self.size += written as u64;
        if written < line.len() {
            self.torn = true;
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn info(message: &str) -> Line {
        Line::plain(log::Level::Info, message)
    }

    #[test]
    fn the_file_is_capped_and_one_old_one_kept() {
        let folder = crate::testing::folder::Folder::new();
        let dir = folder.join("made");
        let path = dir.join("log");
        let old = dir.join("log.old");
        let mut file = File::new(&path);
        let message = "x".repeat(1000);
        for _ in 0..2500 {
            file.write(&info(&message)).unwrap();
        }
        let sizes = [&path, &old].map(|path| fs::metadata(path).unwrap().len());
        assert!(sizes.iter().all(|size| *size <= limits::LOG_FILE), "{sizes:?}");
        assert!(sizes[1] > limits::LOG_FILE - 2000, "{sizes:?}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o137, 0);

        fs::rename(&path, dir.join("moved")).unwrap();
        file.reopen();
        assert!(path.exists(), "the new file is there at once");
        file.write(&info("after")).unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("after\n"));
    }

    #[test]
    fn two_writers_put_each_line_aside_once() {
        let folder = crate::testing::folder::Folder::new();
        let path = folder.join("log");
        let [mut one, mut two] = [File::new(&path), File::new(&path)];
        one.write(&info("the first line")).unwrap();
        two.write(&info("of another one")).unwrap();
        let message = "x".repeat(1000);
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        while !folder.join("log.old").exists() {
            one.write(&info(&message)).unwrap();
        }
        // It writes into what was put aside, until that would be full for it, too.
        for _ in 0..1500 {
            two.write(&info(&message)).unwrap();
        }
        let old = fs::read_to_string(folder.join("log.old")).unwrap();
        assert!(old.contains("the first line"), "the history is gone");
        assert!(size(&path) < limits::LOG_FILE, "{}", size(&path));
    }

    #[test]
    fn where_others_may_put_things_no_line_goes_through_a_link() {
        let folder = crate::testing::folder::Folder::new();
        let (dir, victim) = (folder.join("log"), folder.join("victim"));
        fs::create_dir(&dir).unwrap();
        fs::write(&victim, "dear\n").unwrap();
        let path = dir.join("log");
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let mode = |bits| fs::set_permissions(&dir, fs::Permissions::from_mode(bits)).unwrap();
        mode(0o777);
        let mut file = File::new(&path);
        assert!(file.write(&info("one")).is_err());
        let fault = file.fault().unwrap();
        assert!(fault.contains("it is a link, and nothing is written through one"), "{fault}");
        fs::remove_file(&path).unwrap();
        fs::hard_link(&victim, &path).unwrap();
        assert!(file.write(&info("two")).is_err());
        let fault = file.fault().unwrap();
        assert!(fault.contains("has other names (hard links)"), "{fault}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "dear\n");
        // In a folder of its own a link is its owner's wish.
        mode(0o755);
        file.write(&info("three")).unwrap();
        assert!(fs::read_to_string(&victim).unwrap().ends_with("three\n"));
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let mut file = File::new(Path::new("/dev/full"));
        assert!(file.write(&info("one")).is_err());
        assert!(file.write(&info("two")).is_err());
        let fault = file.fault().unwrap();
        assert!(fault.starts_with("the log file /dev/full cannot be written: the disk is full; "));
    }
}
