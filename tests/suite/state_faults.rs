//! The state file when the system fails it (protocol page, section 2): every system call of a
//! change fails in turn, and the power fails after every one of them. Both look at the daemon
//! through strace, and are skipped where that may not be attached.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::common::*;
use serde_json::Value;

const NEVER: u64 = 200_000;
const ADD: &str = "/api/v2/mapping/add";
const REMOVE: &str = "/api/v2/mapping/remove";
const PUBLIC: &str = r#"{"type":"public","maxconnections":60,"heartbeatabsencethreshold":200000}"#;
const STATE: &str = "configs.json";
const TEMPORARY: &str = ".configs.json.new";
const JOURNAL: &str = ".configs.json.journal";

/// The ids in the state file.
fn stored(daemon: &Daemon) -> BTreeSet<String> {
    ids(&daemon.state_file())
}

/// The ids that run.
fn running(daemon: &Daemon) -> BTreeSet<String> {
    ids(&daemon.control().state())
}

fn ids(state: &Value) -> BTreeSet<String> {
    let mappings = state["mappings"].as_array().expect("mappings");
    mappings.iter().map(|one| one["id"].as_str().expect("id").to_owned()).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

// Each system call failing

/// The system calls of a change, in order: strace's names for it, and the file it is about.
const CALLS: [(&str, &str); 8] = [
    ("?readlink,?readlinkat", STATE),
    ("?open,?openat", ""),
    ("?unlink,?unlinkat", TEMPORARY),
    ("?open,?openat", TEMPORARY),
    ("write", TEMPORARY),
    ("fsync", TEMPORARY),
    ("?rename,?renameat,?renameat2", TEMPORARY),
    ("fsync", ""),
];

/// A daemon, one mapping that must outlive everything, and one system call that fails.
struct Faulty {
    daemon: Daemon,
    kept: Mapping,
    calls: &'static str,
    path: PathBuf,
}

impl Faulty {
    fn new((calls, name): (&'static str, &'static str)) -> Self {
        let daemon = Daemon::new(Mode::Plain);
        let kept = daemon.api().add_public(60, NEVER);
        let path = if name.is_empty() { daemon.config() } else { daemon.config().join(name) };
        Faulty { daemon, kept, calls, path }
    }

    /// The call fails with `error` on those occasions, counted for each thread.
    fn fail(&self, error: &str, when: &str) -> Option<Strace> {
        let inject = format!("inject={}:error={error}:when={when}", self.calls);
        let trace = self.daemon.folder().join("trace");
        let options = ["-o", trace.to_str().unwrap(), "-P", self.path.to_str().unwrap()];
        Strace::attach(&self.daemon, &[&options[..], &["-e", &inject]].concat())
    }

    /// Ends the failing, which must have happened.
    #[track_caller]
    fn repair(&self, strace: Strace, what: &str) {
        drop(strace);
        let trace = fs::read_to_string(self.daemon.folder().join("trace")).unwrap();
        assert!(trace.contains("(INJECTED)"), "{what}: the call was never made: {trace}");
    }

    /// Expects that a change answered like this is made in the file, in memory and in the ports,
    /// or in none of them. Returns whether it is.
    #[track_caller]
    fn is_made(&self, what: &str, before: &BTreeSet<String>, answer: &Response) -> bool {
        let stored = stored(&self.daemon);
        assert_eq!(running(&self.daemon), stored, "{what}: memory is not the disk");
        match answer.status {
            200 => {
                assert_ne!(stored, *before, "{what}: answered, not made");
                true
            }
            _ => {
                let message = answer.failed(500);
                assert!(message.contains(STATE), "{what}: {message}");
                assert_eq!(stored, *before, "{what}: refused, and made");
                false
            }
        }
    }

    /// Expects no port to be open but those of the mappings that run.
    #[track_caller]
    fn expect_ports(&self, what: &str) {
        let state = self.daemon.control().state();
        let mappings = state["mappings"].as_array().unwrap();
        let ports = |mapping: &Value| -> Vec<u64> {
            mapping["sides"].as_array().unwrap().iter().filter_map(|s| s["port"].as_u64()).collect()
        };
        let expected: BTreeSet<u64> =
            mappings.iter().flat_map(ports).filter(|port| *port > 0).collect();
        let all = self.daemon.block.all().skip(1);
        let open = all.filter(|port| Link::plain(at(*port)).is_ok()).map(u64::from);
        assert_eq!(open.collect::<BTreeSet<_>>(), expected, "{what}: ports");
    }

    /// Expects changes to be made again, and nothing to be left over.
    #[track_caller]
    fn expect_sound(&self, what: &str) {
        let control = self.daemon.control();
        let next = control.add_public(60, NEVER);
        assert!(stored(&self.daemon).contains(&next.id), "{what}");
        control.remove(&next);
        assert_eq!(running(&self.daemon), stored(&self.daemon), "{what}");
        assert_eq!(names(&self.daemon.config()), [STATE, "iofog-connector.conf"], "{what}");
        self.expect_ports(what);
    }
}

fn each_failure_is_told_and_leaves_disk_memory_and_ports_the_same(call: usize) {
    let faulty = Faulty::new(CALLS[call]);
    let control = faulty.daemon.control();
    let add = || control.post(ADD, &form(&[("mapping", PUBLIC)]));
    for error in ["EIO", "ENOSPC", "EROFS", "EDQUOT"] {
        // For good: an addition, a removal and a direct connection.
        let what = format!("{} of {} fails with {error}", faulty.calls, faulty.path.display());
        let Some(strace) = faulty.fail(error, "1+") else { return };
        let before = stored(&faulty.daemon);
        assert!(!faulty.is_made(&what, &before, &add()), "{what}: an addition is answered");
        let removal = control.post(REMOVE, &form(&[("mappingid", &faulty.kept.id)]));
        assert!(!faulty.is_made(&what, &before, &removal), "{what}: a removal is answered");
        let direct = control.post("/api/v2/direct/add", "");
        assert!(!faulty.is_made(&what, &before, &direct), "{what}: a direct one is answered");
        faulty.expect_ports(&what);
        faulty.daemon.session(&faulty.kept);
        faulty.repair(strace, &what);
        faulty.expect_sound(&what);
        // Once: what undoes the change does not fail.
        let what = format!("{what} once");
        let Some(strace) = faulty.fail(error, "1") else { return };
        let before = stored(&faulty.daemon);
        assert!(!faulty.is_made(&what, &before, &add()), "{what}: an addition is answered");
        faulty.repair(strace, &what);
        faulty.expect_sound(&what);
    }
    // Interrupted: it may be tried again, which is success, or be told.
    let Some(strace) = faulty.fail("EINTR", "1") else { return };
    let before = stored(&faulty.daemon);
    faulty.is_made("EINTR", &before, &add());
    let before = stored(&faulty.daemon);
    let removal = control.post(REMOVE, &form(&[("mappingid", &faulty.kept.id)]));
    faulty.is_made("EINTR", &before, &removal);
    faulty.repair(strace, "EINTR");
    faulty.expect_sound("EINTR");
    let Faulty { mut daemon, .. } = faulty;
    let before = stored(&daemon);
    daemon.restart();
    assert_eq!((running(&daemon), stored(&daemon)), (before.clone(), before));
}

/// One test for each system call, so that they run at the same time.
macro_rules! each_call {
    ($($name:ident $call:literal),+ $(,)?) => {
        mod every_failure_of {
            $(#[test] fn $name() {
                super::each_failure_is_told_and_leaves_disk_memory_and_ports_the_same($call);
            })+
        }
    };
}

each_call!(
    following_links 0,
    opening_the_folder 1,
    removing_what_is_left_over 2,
    making_the_new_file 3,
    writing 4,
    syncing_the_file 5,
    renaming 6,
    syncing_the_folder 7,
);

#[test]
fn state_that_cannot_be_read_stops_the_start_and_stays() {
    let mut daemon = Daemon::new(Mode::Plain);
    daemon.api().add_public(60, NEVER);
    daemon.stop();
    let text = daemon.read(STATE);
    let file = daemon.config().join(STATE);
    // What may pass is worth another start, which systemd does not make after a 2.
    for (calls, error, status) in [
        ("?readlink,?readlinkat", "EIO", 1),
        ("?open,?openat", "EIO", 1),
        ("?open,?openat", "EMFILE", 1),
        ("?open,?openat", "EACCES", 2),
        ("read", "EIO", 1),
    ] {
        let inject = format!("inject={calls}:error={error}:when=1+");
        let trace = daemon.folder().join("trace");
        let output = Command::new("strace")
            .args(["-f", "-o", trace.to_str().unwrap(), "-P", file.to_str().unwrap(), "-e"])
            .arg(&inject)
            .args(binary())
            .args(["start", "--config", daemon.config().to_str().unwrap()])
            .args(["--run", daemon.run().to_str().unwrap()])
            .args(["--log", daemon.log().to_str().unwrap()])
            .output();
        let Ok(output) = output else {
            not_installed("strace");
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("PTRACE") {
            could_not_run(said);
            return;
        }
        assert_eq!(output.status.code(), Some(status), "{calls} {error}: {said}");
        assert!(said.contains(STATE), "{calls} {error}: {said}");
        assert_eq!(daemon.read(STATE), text, "{calls} {error}");
    }
    daemon.start();
    assert_eq!(running(&daemon).len(), 1);
}

#[test]
fn changes_that_a_hung_disk_keeps_waiting_keep_nobody_from_asking_for_the_status() {
    let daemon = Daemon::new(Mode::Plain);
    let mapping = daemon.api().add_public(1, NEVER);
    let inject = ["-o", "/dev/null", "-e", "inject=fsync:delay_enter=600000000"];
    let Some(hung) = Strace::attach(&daemon, &inject) else { return };
    const WAITING: usize = 128;
    const BEYOND: usize = 20;
    let (told, answers) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for number in 0..WAITING + BEYOND {
            let (daemon, told) = (&daemon, told.clone());
            // Each has one place, also that which waits for the turn of others first.
            let members = format!(r#"{{"idle": {}}}"#, 1000 + number);
            let (path, body) = match number % 2 {
                0 => ("/api/v2/direct/add", String::new()),
                _ => (
                    "/api/v2/mapping/change",
                    form(&[("mappingid", &mapping.id), ("mapping", &members)]),
                ),
            };
            scope.spawn(move || told.send(daemon.api().post(path, &body)).unwrap());
        }
        for _ in 0..BEYOND {
            let message = answers.recv_timeout(PATIENCE).unwrap().failed(503);
            assert!(message.contains("128 changes wait to be stored already"), "{message}");
        }
        let status = daemon.cli(&["status"]);
        assert!(status.status.success(), "{status:?}");
        daemon.api().get("/api/v2/status").ok();
        drop(hung);
        for _ in 0..WAITING {
            answers.recv_timeout(PATIENCE).unwrap().ok();
        }
    });
    daemon.control().post("/api/v2/direct/add", "").ok();
}

#[test]
fn passcode_file_that_is_not_on_the_disk_is_no_success() {
    let daemon = Daemon::new(Mode::Plain);
    let folder = daemon.folder().join("passcodes");
    fs::create_dir(&folder).unwrap();
    let output = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "-e", "inject=fsync:error=EIO"])
        .args(binary())
        .args(["mapping", "add", "public", "--dir", folder.to_str().unwrap()])
        .args(["--run", daemon.run().to_str().unwrap()])
        .output();
    let Ok(output) = output else {
        not_installed("strace");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("PTRACE") {
        could_not_run(said);
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the disk reports a fault"), "{said}");
    assert_eq!(names(&folder), [""; 0]);
    assert!(running(&daemon).is_empty());
}

// Power failing

/// What the daemon did that a power failure cares for, in order.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Make(String),
    Write(String, Bytes),
    SyncFile(String),
    Rename(String, String),
    Remove(String),
    SyncFolder,
    /// A success that names this id went out to a caller.
    Answer(String),
}

/// What was written; a report shows how much it is.
#[derive(Clone, PartialEq)]
struct Bytes(Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The calls of `trace` in the order of their end; those that send or close, in the order of their
/// begin. Each is a name, its arguments and its result.
fn calls(trace: &str) -> Vec<(String, String, i64)> {
    let mut all: Vec<(String, String, i64)> = Vec::new();
    let mut unfinished: HashMap<&str, (String, Option<usize>)> = HashMap::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(char::is_whitespace) else { continue };
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            // Before such a call returns, the caller may have its bytes, and another thread may
            // have opened a file under its number.
            let at_once = ["send", "write", "close"].iter().any(|call| begun.starts_with(call));
            let place = at_once.then(|| {
                all.push((String::new(), String::new(), 0));
                all.len() - 1
            });
            unfinished.insert(thread, (begun.to_owned(), place));
            continue;
        }
        let (text, place) = match rest.strip_prefix("<... ") {
            None => (rest.to_owned(), None),
            Some(resumed) => {
                let Some((begun, place)) = unfinished.remove(thread) else { continue };
                let end = resumed.split_once(" resumed>").map_or("", |(_, end)| end);
                (begun + end, place)
            }
        };
        let Some((name, rest)) = text.split_once('(') else { continue };
        let Some((arguments, result)) = rest.rsplit_once(") = ").or_else(|| {
            // strace aligns results with blanks.
            let (arguments, result) = rest.rsplit_once(" = ")?;
            Some((arguments.trim_end().strip_suffix(')')?, result))
        }) else {
            continue;
        };
        let result = result.split_whitespace().next().unwrap_or("-1").parse().unwrap_or(-1);
        let call = (name.to_owned(), arguments.to_owned(), result);
        match place {
            Some(place) => all[place] = call,
            None => all.push(call),
        }
    }
    all
}

#[test]
fn number_is_free_for_another_thread_once_its_close_begins() {
    let trace = "7 close(9 <unfinished ...>\n\
                 8 openat(AT_FDCWD, \"\\x61\", O_RDONLY) = 9\n\
                 7 <... close resumed>)              = 0\n";
    let calls = calls(trace);
    let names: Vec<&str> = calls.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["close", "openat"]);
}

/// The strings among the arguments, which strace wrote as `"\x41\x42"`.
fn strings(arguments: &str) -> Vec<Vec<u8>> {
    let quoted = arguments.split('"').skip(1).step_by(2);
    let byte = |hex: &str| u8::from_str_radix(hex, 16).expect("a byte");
    quoted.map(|text| text.split("\\x").skip(1).map(byte).collect()).collect()
}

/// The steps in `trace` that concern `folder` and the callers.
fn steps(trace: &str, folder: &Path) -> Vec<Step> {
    let mut open: HashMap<i64, PathBuf> = HashMap::new();
    let mut steps = Vec::new();
    let path = |bytes: &[u8]| PathBuf::from(String::from_utf8_lossy(bytes).into_owned());
    // By its name in the folder, however the path leads there.
    let name = |path: &Path| {
        let real = fs::canonicalize(path.parent()?).ok()?;
        let inside = real == fs::canonicalize(folder).ok()?;
        inside.then(|| path.file_name().unwrap().to_string_lossy().into_owned())
    };
    for (call, arguments, result) in calls(trace) {
        if result < 0 {
            continue;
        }
        let texts = strings(&arguments);
        let number = || -> i64 {
            let end = arguments.find([',', '<']).unwrap_or(arguments.len());
            arguments[..end].trim().parse().unwrap_or(-1)
        };
        let paths: Vec<PathBuf> = texts.iter().map(|bytes| path(bytes)).collect();
        match call.as_str() {
            "open" | "openat" => {
                if let Some(name) = name(&paths[0]).filter(|_| arguments.contains("O_CREAT")) {
                    steps.push(Step::Make(name));
                }
                open.insert(result, paths[0].clone());
            }
            "close" => drop(open.remove(&number())),
            "fsync" | "fdatasync" => {
                let Some(file) = open.get(&number()) else { continue };
                if fs::canonicalize(file).ok() == fs::canonicalize(folder).ok() {
                    steps.push(Step::SyncFolder);
                } else if let Some(name) = name(file) {
                    steps.push(Step::SyncFile(name));
                }
            }
            "rename" | "renameat" | "renameat2" => {
                if let (Some(from), Some(to)) = (name(&paths[0]), name(&paths[1])) {
                    steps.push(Step::Rename(from, to));
                }
            }
            "unlink" | "unlinkat" => steps.extend(name(&paths[0]).map(Step::Remove)),
            _ => {
                let bytes = texts.concat();
                let written = open.get(&number()).and_then(|file| name(file));
                let text = String::from_utf8_lossy(&bytes);
                if let Some(name) = written {
                    steps.push(Step::Write(name, Bytes(bytes)));
                } else if text.starts_with("HTTP/1.1 200") {
                    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                    let body: Value = serde_json::from_str(body).expect("JSON");
                    if let Some(id) = body["id"].as_str() {
                        steps.push(Step::Answer(id.to_owned()));
                    }
                }
            }
        }
    }
    steps
}

/// A file system that promises no more than the standard does: what has not been synced may be
/// there or not after a power failure, in any combination.
#[derive(Default)]
struct Disk {
    /// Contents, and whether they are safe.
    files: Vec<(Vec<u8>, bool)>,
    /// The folder as it is seen now.
    seen: BTreeMap<String, usize>,
    /// The folder as it is safe.
    safe: BTreeMap<String, usize>,
    /// Changes of the folder that are not safe: a name, and its file unless it is removed.
    pending: Vec<Vec<(String, Option<usize>)>>,
}

impl Disk {
    fn with(name: &str, content: Option<Vec<u8>>) -> Self {
        let mut disk = Disk::default();
        if let Some(content) = content {
            disk.files.push((content, true));
            disk.seen.insert(name.to_owned(), 0);
            disk.safe.insert(name.to_owned(), 0);
        }
        disk
    }

    fn change(&mut self, changes: Vec<(String, Option<usize>)>) {
        for (name, file) in &changes {
            match file {
                Some(file) => drop(self.seen.insert(name.clone(), *file)),
                None => drop(self.seen.remove(name)),
            }
        }
        self.pending.push(changes);
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Make(name) => {
                self.files.push((Vec::new(), false));
                self.change(vec![(name.clone(), Some(self.files.len() - 1))]);
            }
            Step::Write(name, Bytes(bytes)) => {
                let (content, safe) = &mut self.files[self.seen[name]];
                content.extend(bytes);
                *safe = false;
            }
            Step::SyncFile(name) => self.files[self.seen[name]].1 = true,
            Step::Rename(from, to) => {
                let file = self.seen[from];
                self.change(vec![(from.clone(), None), (to.clone(), Some(file))]);
            }
            Step::Remove(name) => self.change(vec![(name.clone(), None)]),
            Step::SyncFolder => {
                self.safe = self.seen.clone();
                self.pending.clear();
            }
            Step::Answer(_) => {}
        }
    }

    /// Everything that this file may hold when the power fails now; `None` for no file.
    fn after_power_failure(&self, name: &str) -> Vec<Option<Vec<u8>>> {
        assert!(self.pending.len() < 16, "more unsynced changes than can be tried");
        let mut all = Vec::new();
        for survivors in 0..1 << self.pending.len() {
            let mut file = self.safe.get(name).copied();
            for (number, changes) in self.pending.iter().enumerate() {
                for (changed, to) in changes {
                    if survivors >> number & 1 == 1 && changed == name {
                        file = *to;
                    }
                }
            }
            let Some(file) = file else {
                all.push(None);
                continue;
            };
            let (content, safe) = &self.files[file];
            all.push(Some(content.clone()));
            if !safe {
                all.push(Some(Vec::new()));
                all.push(Some(content[..content.len() / 2].to_vec()));
                all.push(Some(vec![0; content.len()]));
            }
        }
        all.dedup();
        all
    }
}

/// Lets the power fail before the first step, and after each. The complaint names the first
/// instant at which the file may be no whole one, or older than what was acknowledged. Else the
/// number of states looked at.
fn power_fails_everywhere(
    steps: &[Step],
    name: &str,
    first: Option<Vec<u8>>,
) -> Result<usize, String> {
    // Every whole file, in order, and the mappings in it.
    let written = steps.iter().filter_map(|step| match step {
        Step::Write(_, Bytes(bytes)) => Some(Some(bytes.clone())),
        _ => None,
    });
    let whole: Vec<Option<Vec<u8>>> = std::iter::once(first.clone()).chain(written).collect();
    let content = |file: &Option<Vec<u8>>| match file {
        None => BTreeSet::new(),
        Some(bytes) => ids(&serde_json::from_slice(bytes).expect("JSON")),
    };
    let there: Vec<BTreeSet<String>> = whole.iter().map(content).collect();

    let mut disk = Disk::with(name, first);
    // The file that first held each change that has been answered, and the newest of these.
    let mut answered: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut oldest_allowed, mut newest, mut states) = (0, 0, 0);
    let before_all = Step::SyncFolder;
    for (number, step) in std::iter::once(&before_all).chain(steps).enumerate() {
        disk.take(step);
        newest += usize::from(matches!(step, Step::Write(..)));
        if let Step::Answer(id) = step {
            // The first answer about it is its addition, the second its removal.
            let added = answered.get(id.as_str()).copied();
            let made = (added.unwrap_or(0)..there.len())
                .find(|file| there[*file].contains(id) == added.is_none())
                .ok_or(format!("{id} is in no file"))?;
            answered.insert(id, made);
            oldest_allowed = oldest_allowed.max(made);
        }
        for state in disk.after_power_failure(name) {
            states += 1;
            match whole[..=newest].iter().rposition(|file| *file == state) {
                None => {
                    let torn = state.as_deref().map(String::from_utf8_lossy);
                    return Err(format!("torn after step {number}, {step:?}: {torn:?}"));
                }
                Some(file) if file < oldest_allowed => {
                    return Err(format!("an answered change lost after step {number}, {step:?}"));
                }
                Some(_) => {}
            }
        }
    }
    Ok(states)
}

/// Runs changes on a daemon under strace, whose state is the file `name` in `folder`.
fn changes_under_strace(daemon: &Daemon, folder: &Path, name: &str) -> Option<Vec<Step>> {
    let trace = daemon.folder().join("trace");
    let calls = "trace=?open,openat,close,write,writev,pwrite64,sendto,sendmsg,fsync,fdatasync,\
                 ?rename,?renameat,?renameat2,?unlink,?unlinkat,?truncate,?ftruncate";
    let options = ["-xx", "-s", "1000000", "-o", trace.to_str().unwrap(), "-e", calls];
    let strace = Strace::attach(daemon, &options)?;
    let control = daemon.control();
    let kept = control.add_public(60, NEVER);
    let gone = control.add_private(1, NEVER);
    control.post("/api/v2/direct/add", "").ok();
    control.remove(&gone);
    // At once: several may share one file.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let mapping = control.add_public(60, NEVER);
                    control.remove(&mapping);
                }
            });
        }
    });
    control.remove(&kept);
    // Once this is answered, the answer before it has left its system call.
    control.post("/api/v2/commandline", "command=version").ok();
    drop(strace);
    let text = fs::read_to_string(&trace).unwrap();
    let steps = steps(&text, folder);
    let count = |found: &dyn Fn(&Step) -> bool| steps.iter().filter(|step| found(step)).count();
    assert_eq!(count(&|step| matches!(step, Step::Answer(_))), 29, "{steps:?}");
    let renamed = |step: &Step| matches!(step, Step::Rename(_, to) if to == name);
    // Four callers at once share a file at most each time.
    assert!((11..=29).contains(&count(&renamed)), "{steps:?}");
    assert!(!text.contains("truncate("), "the model knows no truncate");
    Some(steps)
}

fn power_may_fail_after_every_step(symbolic_link: bool) {
    let mut daemon = Daemon::builder(Mode::Plain).prepare();
    let (folder, name) = if symbolic_link {
        let folder = daemon.folder().join("data");
        fs::create_dir(&folder).unwrap();
        symlink("../data/state.json", daemon.config().join(STATE)).unwrap();
        (folder, "state.json")
    } else {
        (daemon.config(), STATE)
    };
    daemon.start();
    let Some(steps) = changes_under_strace(&daemon, &folder, name) else { return };
    let states = power_fails_everywhere(&steps, name, None).unwrap_or_else(|fault| {
        panic!("{fault}\nin {steps:#?}");
    });
    println!("power failed in {} places, {states} states", steps.len() + 1);

    // The model would notice: with either sync left out, or an answer given too early, it finds a
    // state that must not be.
    let without = |left_out: &dyn Fn(&Step) -> bool| {
        let rest: Vec<Step> = steps.iter().filter(|step| !left_out(step)).cloned().collect();
        power_fails_everywhere(&rest, name, None)
    };
    let torn = without(&|step| matches!(step, Step::SyncFile(_)));
    assert!(torn.is_err_and(|fault| fault.contains("torn")), "a file that is not synced");
    let lost = without(&|step| *step == Step::SyncFolder);
    assert!(lost.is_err_and(|fault| fault.contains("lost")), "a folder that is not synced");
    let mut early = steps.clone();
    let answer = early.iter().position(|step| matches!(step, Step::Answer(_))).unwrap();
    let sync = early[..answer].iter().rposition(|step| *step == Step::SyncFolder).unwrap();
    early[sync..=answer].rotate_right(1);
    let early = power_fails_everywhere(&early, name, None);
    assert!(early.is_err_and(|fault| fault.contains("lost")), "an answer before the sync");
}

#[test]
fn power_may_fail_after_every_step_of_a_change() {
    power_may_fail_after_every_step(false);
}

#[test]
fn power_may_fail_after_every_step_of_a_change_behind_a_symbolic_link() {
    power_may_fail_after_every_step(true);
}

/// What a start would read of a state file that is a mount: its journal, where there is one.
fn counts(daemon: &Daemon, volume: &Path) -> BTreeSet<String> {
    let journal = daemon.config().join(JOURNAL);
    let file = if journal.exists() { &journal } else { volume };
    ids(&serde_json::from_slice(&fs::read(file).unwrap()).unwrap())
}

#[test]
fn change_in_place_that_fails_at_any_step_is_undone_or_made() {
    if !can_mount() {
        return could_not_run("no mount namespace");
    }
    let folder = Folder::new();
    let volume = folder.file("volume.json", "{}", 0o644);
    let mount = format!(
        r#"config=$(echo "$*" | sed 's/.*--config \([^ ]*\).*/\1/')
        mount --bind {} "$config/configs.json" && exec "$@""#,
        volume.display()
    );
    let wrapper = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
    let mut daemon = Daemon::builder(Mode::Plain).wrapper(&wrapper).file(STATE, "{}").start();
    let kept = daemon.api().add_public(60, NEVER);
    for (calls, name, when, made) in [
        // The first one, over the file itself, fails by itself.
        ("?rename,?renameat,?renameat2", TEMPORARY, 2, false),
        ("?open,?openat", STATE, 1, false),
        ("write", STATE, 1, false),
        ("?ftruncate,?ftruncate64", STATE, 1, false),
        ("fsync", STATE, 1, false),
        // The change is on disk by then; the journal says the same.
        ("?unlink,?unlinkat", JOURNAL, 1, true),
    ] {
        for error in ["EIO", "ENOSPC"] {
            let what = format!("{calls} of {name} fails with {error}");
            let trace = daemon.folder().join("trace");
            let path = daemon.config().join(name);
            let inject = format!("inject={calls}:error={error}:when={when}");
            let options = ["-o", trace.to_str().unwrap(), "-P", path.to_str().unwrap()];
            let Some(strace) = Strace::attach(&daemon, &[&options[..], &["-e", &inject]].concat())
            else {
                return;
            };
            let answer = daemon.control().post(ADD, &form(&[("mapping", PUBLIC)]));
            drop(strace);
            let trace = fs::read_to_string(trace).unwrap();
            assert!(trace.contains("(INJECTED)"), "{what}: the call was never made: {trace}");
            assert_eq!(answer.status == 200, made, "{what}: {answer:?}");
            assert_eq!(counts(&daemon, &volume), running(&daemon), "{what}");
            let next = daemon.control().add_public(60, NEVER);
            assert_eq!(counts(&daemon, &volume), running(&daemon), "{what}");
            daemon.control().remove(&next);
            let before = running(&daemon);
            assert!(before.contains(&kept.id), "{what}");
            daemon.kill();
            daemon.start();
            assert_eq!(running(&daemon), before, "{what}");
            assert!(!daemon.config().join(JOURNAL).exists(), "{what}");
        }
    }
}
