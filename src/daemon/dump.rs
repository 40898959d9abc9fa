//! The state of every connection, written to a file when somebody asks for it (protocol page, section 7, step 13).

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use smol::LocalExecutor;
use smol::future::FutureExt;

use super::errand::Errand;
use crate::api::{Api, Outcome, Server};
use crate::limits;
use crate::logging::{ALWAYS, Utc};
use crate::pipes::registry::Registry;
use crate::pipes::shared::Shared;
use crate::runtime::aside;
use crate::text::dump::{Dump, For};
use crate::text::reason;

/// The file's name in the folder of the log; the one before it has `.old` behind it.
const FILE: &str = "iofog-connector.dump";

/// What writes dumps, one at a time.
pub(super) struct Dumps {
    executor: Rc<LocalExecutor<'static>>,
    registry: Rc<Registry>,
    shared: Rc<Shared>,
    server: Rc<Server<Api>>,
    folder: PathBuf,
    errand: Rc<Errand>,
}

impl Dumps {
    pub(super) fn new(
        executor: &Rc<LocalExecutor<'static>>,
        registry: &Rc<Registry>,
        shared: &Rc<Shared>,
        server: &Rc<Server<Api>>,
        folder: &Path,
    ) -> Rc<Self> {
        Rc::new(Dumps {
            executor: executor.clone(),
            registry: registry.clone(),
            shared: shared.clone(),
            server: server.clone(),
            folder: folder.into(),
            errand: Rc::new(Errand::new()),
        })
    }

    /// Begins to write one, which goes on whether or not anybody waits for the outcome: the file, or a sentence about
    /// why there is none. `None` where one is being written.
    pub(super) fn begin(self: &Rc<Self>) -> Option<Outcome> {
        let outcome = self.errand.ask()?;
        let dumps = self.clone();
        let work = async move {
            let begun = Instant::now();
            let text = dumps.text().await;
            let folder = dumps.folder.clone();
            // A disk may be slow.
            let written = aside(move || write(&folder, text.as_bytes())).await;
            match &written {
                Ok(path) => log::info!(
                    target: ALWAYS, "the state of every connection is in {path}, written in {}", For::since(begun)
                ),
                Err(why) => log::error!(target: ALWAYS, "{why}"),
            }
            dumps.errand.became(written);
        };
        self.executor.spawn(work.boxed_local()).detach();
        Some(outcome)
    }

    async fn text(&self) -> String {
        let mut dump = Dump::new(limits::DUMP_BYTES);
        let files = &self.shared.files;
        dump.line(format_args!(
            "iofog-connector {}, process {}, at {}: {} of {} files in use, {} refused agents held",
            env!("CARGO_PKG_VERSION"),
            std::process::id(),
            Utc::now(),
            files.used(),
            files.limit(),
            self.shared.refusals.held()
        ));
        dump.line(format_args!(
            "A line tells how a connection was when the line was written. Passcodes are not among what is told."
        ));
        self.registry.dump(&mut dump).await;
        self.server.tell(&mut dump);
        dump.finish()
    }
}

/// Puts the text in the place of the last one, of which it makes the old one; whole or not at all.
///
/// # Errors
/// A sentence with the file and the remedy.
fn write(folder: &Path, text: &[u8]) -> Result<String, String> {
    let path = folder.join(FILE);
    let beside = |ending: &str| {
        let mut name = path.clone().into_os_string();
        name.push(ending);
        PathBuf::from(name)
    };
    // Another process may write one, too, after an upgrade.
    let new = beside(&format!(".{}", std::process::id()));
    let write = || {
        remove(&new)?;
        // Nothing that is there already, a link or whatever others have put there, is written to.
        let mut file = File::options().write(true).create_new(true).mode(0o640).open(&new)?;
        file.write_all(text)?;
        match fs::rename(&path, beside(".old")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::rename(&new, &path),
        }
    };
    write().map(|()| path.display().to_string()).map_err(|error| {
        let _ = remove(&new);
        format!(
            "the state of the connections cannot be written to {}: {}; --log DIR names another folder",
            path.display(),
            // The sandbox lets files be replaced and nothing else.
            match fs::symlink_metadata(&path) {
                Ok(there) if !there.is_file() => {
                    "a link, a folder or the like stands there; take it away".into()
                }
                _ => reason::writing(&path, &error),
            }
        )
    })
}

/// Takes away what processes that were ended while they wrote a dump have left of it. To be called before there is a
/// sandbox, which keeps the daemon from listing folders.
pub(super) fn tidy(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(FILE)?.strip_prefix('.'));
        let is_one = process.is_some_and(|process| process.parse::<u32>().is_ok());
        let written = entry.metadata().and_then(|found| found.modified());
        // One of another daemon, after an upgrade, may be on its way.
        let is_left = |at: SystemTime| at.elapsed().is_ok_and(|age| age > limits::DUMP_LEFT);
        if is_one && written.is_ok_and(is_left) {
            let _ = remove(&entry.path());
        }
    }
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;
    use crate::testing::folder::Folder;

    #[test]
    fn one_dump_and_the_one_before_it_are_kept_and_nothing_is_written_through_a_link() {
        let folder = Folder::new();
        let victim = folder.file("victim", "dear", 0o600);
        symlink(&victim, folder.join(format!("{FILE}.{}", std::process::id()))).unwrap();
        let path = folder.join(FILE);
        for text in ["one", "two", "three"] {
            assert_eq!(write(&folder, text.as_bytes()), Ok(path.display().to_string()));
        }
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!((read(FILE), read("iofog-connector.dump.old")), ("three".into(), "two".into()));
        assert_eq!(read("victim"), "dear");
        assert_eq!(fs::read_dir(&*folder).unwrap().count(), 3);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o137, 0);
    }

    #[test]
    fn what_is_left_of_an_interrupted_dump_goes_at_the_next_start_and_nothing_else() {
        let folder = Folder::new();
        let names =
            ["", ".old", ".1", ".4294967295", ".x", ".7x"].map(|end| format!("{FILE}{end}"));
        let old = SystemTime::now() - 2 * limits::DUMP_LEFT;
        for name in &names {
            let path = folder.file(name, "half", 0o640);
            File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
        }
        folder.file("iofog-connector.dump.2", "on its way", 0o640);
        tidy(&folder);
        tidy(&folder.join("nowhere"));
        let left = folder.names();
        let ends: Vec<_> = left.iter().map(|name| &name[FILE.len()..]).collect();
        assert_eq!(ends, ["", ".2", ".7x", ".old", ".x"]);
    }

    #[test]
    fn what_the_sandbox_does_not_let_it_replace_is_said_to_stand_there() {
        let folder = Folder::new();
        symlink(folder.join("victim"), folder.join(FILE)).unwrap();
        // A folder that is not empty cannot be replaced, either, and needs no sandbox.
        fs::create_dir_all(folder.join("iofog-connector.dump.old/full")).unwrap();
        let why = write(&folder, b"text").unwrap_err();
        assert!(why.contains("a link, a folder or the like stands there; take it away"), "{why}");
    }

    #[test]
    fn dump_that_cannot_be_written_leaves_nothing_and_says_why() {
        let folder = Folder::new();
        let why = write(&folder.join("nowhere"), b"text").unwrap_err();
        assert!(why.contains("iofog-connector.dump: ") && why.contains("--log DIR"), "{why}");
        // What cannot be replaced.
        fs::create_dir_all(folder.join("iofog-connector.dump.old/full")).unwrap();
        write(&folder, b"one").unwrap();
        let why = write(&folder, b"two").unwrap_err();
        assert!(why.contains("iofog-connector.dump: "), "{why}");
        assert_eq!(fs::read_dir(&*folder).unwrap().count(), 2);
    }
}
