//! `tunnel install` and `tunnel remove`: put a tunnel file where the service reads it, or take it away, and tell the
//! service (protocol page, section 7, steps 10 and 11).

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{
    Access, AtFlags, FlockOperation, Mode, OFlags, access, fchmod, fchown, flock, fstat, linkat,
    mkdirat, open, openat, renameat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

use super::exit::BAD;
use super::{control, remedy, user};
use crate::agent::options as tunnel;
use crate::config::folders::{TUNNELS, TUNNELS_RUN, TUNNELS_SOCKET};
use crate::limits;
use crate::os::terminal::{complain, print};
use crate::os::{Instance, said};
use crate::text::reason::{self, quoted};
use crate::text::{file, json, line};

/// The service that runs all files in one process: its unit, and its init script.
const ALL: &str = "iofog-connector-tunnels";

/// What to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Install {
    /// The tunnel file.
    pub(super) file: PathBuf,
    /// Options of `tunnel` that are added to it.
    pub(super) given: tunnel::Given,
    /// Where it goes; the service's folder if `None`.
    pub(super) dir: Option<PathBuf>,
    /// The tunnel's name; the file's without its ending if `None`.
    pub(super) name: Option<String>,
    /// Whether it may take another one's place.
    pub(super) replace: bool,
}

/// What came of putting the file there.
enum Put {
    New,
    Replaced,
    Same,
}

/// Installs it and starts the service.
pub(super) fn run(install: &Install) -> ExitCode {
    let (name, text) = match prepare(install) {
        Ok(prepared) => prepared,
        Err(fault) => {
            complain(fault);
            return BAD.into();
        }
    };
    let own = Path::new(TUNNELS);
    let dir = install.dir.as_deref().unwrap_or(own);
    let path = dir.join(format!("{name}.conf"));
    // Whoever changes the folder next waits until the service has been told of this.
    let (put, _folder) = match put(dir, &name, &text, install.replace) {
        Ok(put) => put,
        Err(fault) => {
            complain(fault);
            return ExitCode::FAILURE;
        }
    };
    let shown = path.display();
    if dir != own {
        return print(&format!(
            "{shown} is written; run it with: iofog-connector tunnel --from {}\n",
            quoted(&path)
        ));
    }
    let Some((orders, told)) = starting(&name, &put) else {
        return print(&format!(
            "{shown} is written. There is no service here; run all tunnels with: sudo iofog-connector tunnels\n"
        ));
    };
    if let Some(order) = orders.iter().find(|order| !order.is_obeyed()) {
        complain(format_args!("{shown} is written, but `{order}` failed; {LOG}"));
        return ExitCode::FAILURE;
    }
    print(&format!("{shown} is written, and {told} shows how it does\n"))
}

const LOG: &str = "the journal or syslog says why";

/// What has the service, or what runs in its place, do what the folder says now.
enum Order {
    Command(String),
    /// SIGHUP for this process, which reads the folder again.
    Signal(u32),
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Order::Command(command) => f.write_str(command),
            Order::Signal(process) => write!(f, "kill -HUP {process}"),
        }
    }
}

impl Order {
    /// Gives it; whether it was obeyed.
    fn is_obeyed(&self) -> bool {
        match self {
            Order::Command(command) => said(command).is_some(),
            // Whoever may write in the run folder can name any process there; and it may have ended meanwhile.
            Order::Signal(number) => {
                let is_told = || {
                    let process = i32::try_from(*number).ok().and_then(Pid::from_raw)?;
                    let folder = File::open(TUNNELS_RUN).ok()?;
                    is_ours_alone(folder).ok().filter(|is_ours| *is_ours)?;
                    (by_hand()? == *number).then_some(())?;
                    kill_process(process, Signal::HUP).ok()
                };
                is_told().is_some()
            }
        }
    }
}

/// What has the service run a new tunnel, and what to say of it; `None` where nothing is there that would.
fn starting(name: &str, put: &Put) -> Option<(Vec<Order>, String)> {
    let status = "iofog-connector tunnels status".to_owned();
    let (commands, look) = match script() {
        // One process would run again what has units of its own, and a unit what the process has.
        None => {
            let (unit, verb, look) = if is("active", ALL) || !has_units("iofog-connector-tunnel@*")
            {
                (ALL.to_owned(), "reload-or-restart", status)
            } else {
                let unit = own_unit(name);
                // What runs already has read the file as it was.
                let verb = if matches!(put, Put::Replaced) { "restart" } else { "start" };
                (unit.clone(), verb, format!("systemctl status {unit}"))
            };
            let enable = format!("systemctl enable --quiet {unit}");
            (vec![enable, format!("systemctl {verb} {unit}")], look)
        }
        Some(script) => {
            if let Some(process) = by_hand().filter(|_| !runs(&script)) {
                let told = format!("process {process} is told to run it; `sudo {status}`");
                return Some((vec![Order::Signal(process)], told));
            }
            if !Path::new(&script).exists() {
                return None;
            }
            (vec![format!("{script} reload")], status)
        }
    };
    let told = format!("the service is told to run it, now and after each boot; `sudo {look}`");
    Some((commands.into_iter().map(Order::Command).collect(), told))
}

/// The process that runs all tunnels in the service's run folder, whoever has started it.
fn by_hand() -> Option<u32> {
    Instance::running(Path::new(TUNNELS_RUN)).ok()??
}

/// The init script of the service, there or not; `None` where systemd runs.
fn script() -> Option<String> {
    (!Path::new("/run/systemd/system").exists()).then(|| format!("/etc/init.d/{ALL}"))
}

/// The unit that runs this tunnel alone.
fn own_unit(name: &str) -> String {
    format!("iofog-connector-tunnel@{name}")
}

/// Whether the init script is there and runs the service.
fn runs(script: &str) -> bool {
    Path::new(script).exists() && said(&format!("{script} status")).is_some()
}

/// Whether systemd says that a unit is `active`, `enabled` or `failed`.
fn is(what: &str, unit: &str) -> bool {
    said(&format!("systemctl is-{what} --quiet {unit}")).is_some()
}

/// Whether systemd has units of this name or pattern that run, are to be started again, or have failed.
fn has_units(pattern: &str) -> bool {
    let list = "systemctl list-units --all --plain --no-legend";
    let states = "active,activating,reloading,deactivating,failed";
    let units = said(&format!("{list} --state={states} {pattern}.service"));
    units.is_some_and(|units| !units.trim().is_empty())
}

/// What to take away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remove {
    /// The tunnel's name.
    pub(super) name: String,
    /// Where its file is; the service's folder if `None`.
    pub(super) dir: Option<PathBuf>,
}

/// Takes the file away, and has the service close the tunnel.
pub(super) fn remove(Remove { name, dir }: &Remove) -> ExitCode {
    let own = Path::new(TUNNELS);
    let dir = dir.as_deref().unwrap_or(own);
    let path = dir.join(format!("{name}.conf"));
    let (left, _folder) = match take(dir, name) {
        Ok(left) => left,
        Err(fault) => {
            complain(fault);
            return ExitCode::FAILURE;
        }
    };
    let shown = path.display();
    if dir != own {
        return print(&format!("{shown} is removed; what runs it is to be stopped or reloaded\n"));
    }
    let orders = closing(name, left.is_empty());
    if let Some(order) = orders.iter().find(|order| !order.is_obeyed()) {
        complain(format_args!(
            "{shown} is removed, but the tunnel may be open still: `{order}` failed; {LOG}; then run `{}{order}`",
            remedy::sudo()
        ));
        return ExitCode::FAILURE;
    }
    let done = match orders.last() {
        None => "nothing runs it, so that nothing is to be closed".to_owned(),
        Some(Order::Signal(process)) => format!("process {process} is told to close it"),
        Some(_) if left.is_empty() => {
            "it was the last one, so the service is stopped until the next one comes".to_owned()
        }
        Some(_) => "the service is told to close it; others stay as they are".to_owned(),
    };
    print(&format!("{shown} is removed; {done}\n"))
}

/// What closes a tunnel whose file is gone; `is_last` if there is no other.
fn closing(name: &str, is_last: bool) -> Vec<Order> {
    let mut commands = Vec::new();
    let runs = match script() {
        Some(script) => {
            let runs = runs(&script);
            if runs {
                commands.push(format!("{script} {}", if is_last { "stop" } else { "reload" }));
            }
            runs
        }
        None => {
            let unit = own_unit(name);
            if has_own_unit(&unit) {
                commands.push(format!("systemctl disable --quiet --now {unit}"));
            }
            if is("failed", &unit) {
                commands.push(format!("systemctl reset-failed {unit}"));
            }
            let runs = is("active", ALL);
            if is_last && (runs || is("enabled", ALL)) {
                commands.push(format!("systemctl disable --quiet --now {ALL}"));
            } else if runs {
                commands.push(format!("systemctl reload {ALL}"));
            }
            runs
        }
    };
    let process = if runs { None } else { by_hand() };
    commands.into_iter().map(Order::Command).chain(process.map(Order::Signal)).collect()
}

fn has_own_unit(unit: &str) -> bool {
    has_units(unit) || is("enabled", unit)
}

/// Whether a tunnel whose file is gone has a unit still, or is in the process of all.
fn is_left(name: &str) -> bool {
    let socket = Path::new(TUNNELS_RUN).join(TUNNELS_SOCKET);
    let answer = control::call_within(limits::STATUS_WAIT, &socket, "GET", "/", "");
    let state =
        answer.ok().and_then(|(_, state)| json::read::<Value>(state.text().as_bytes()).ok());
    let state = state.filter(|state| state["folder"] == TUNNELS).unwrap_or_default();
    let mut tunnels = state["tunnels"].as_array().into_iter().flatten();
    tunnels.any(|tunnel| tunnel["name"] == name && tunnel["state"] != "draining")
        || script().is_none() && has_own_unit(&own_unit(name))
}

/// Removes the file, which may be gone already where the service has the tunnel still. Gives the names of those that
/// are left, and the folder, locked.
fn take(dir: &Path, name: &str) -> Result<(Vec<String>, OwnedFd), String> {
    let missing = |left: &[String]| {
        let there = match left {
            [] => "none is there".to_owned(),
            names => format!("there are: {}", names.join(", ")),
        };
        format!("no tunnel {} is in {}; {there}", line::shown(name), dir.display())
    };
    let folder = match folder(dir, false) {
        Err(error) if reason::is_missing(&error) => return Err(missing(&[])),
        folder => folder.map_err(|error| failed(dir, &error))?,
    };
    lock(&folder).map_err(|error| failed(dir, &error))?;
    let gone = match is_name(name) {
        true => unlinkat(&folder, format!("{name}.conf"), AtFlags::empty()),
        false => Err(Errno::NOENT),
    };
    let mut left = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| failed(dir, &error))?.flatten() {
        let file = entry.file_name();
        let Some(name) = file.to_str().and_then(|file| file.strip_suffix(".conf")) else {
            continue;
        };
        // As the service, which skips hidden files.
        if name.starts_with('.') {
            continue;
        }
        let place = left.partition_point(|before: &String| **before < *name);
        left.insert(place, name.to_owned());
    }
    match gone {
        Ok(()) => rustix::fs::fsync(&folder).map_err(|error| failed(dir, &error.into()))?,
        Err(Errno::NOENT) if dir == Path::new(TUNNELS) && is_name(name) && is_left(name) => {}
        Err(Errno::NOENT) => return Err(missing(&left)),
        Err(error) => return Err(failed(dir, &error.into())),
    }
    Ok((left, folder))
}

/// Whether root could read this file, and the user may not.
fn is_forbidden(path: &Path) -> bool {
    !geteuid().is_root() && access(path, Access::READ_OK) == Err(Errno::ACCESS)
}

/// Whether the service does not see this file: its unit has other folders there, or none.
fn is_hidden(path: &Path) -> bool {
    const HIDDEN: [&str; 6] =
        ["/home", "/root", "/run/user", "/tmp", "/var/tmp", "/etc/iofog-connector"];
    let is_hidden = |path: &Path| {
        HIDDEN.iter().any(|folder| path.starts_with(folder)) && !path.starts_with(TUNNELS)
    };
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = plain.pop(),
            part => plain.push(part),
        }
    }
    // A link is not there, or leads to what is not.
    is_hidden(&plain) || fs::canonicalize(path).is_ok_and(|real| is_hidden(&real))
}

/// Whether a tunnel may have this name.
fn is_name(name: &str) -> bool {
    let allowed = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter);
    (1..=63).contains(&name.len()) && !name.starts_with(['.', '-']) && name.bytes().all(allowed)
}

/// The tunnel's name and its file's text, checked by the reader that `tunnel` has.
fn prepare(install: &Install) -> Result<(String, String), String> {
    let from = &install.file;
    let name = match &install.name {
        Some(name) => name.clone(),
        None => from.file_stem().and_then(OsStr::to_str).unwrap_or_default().to_owned(),
    };
    if !is_name(&name) {
        return Err(format!(
            "{} cannot be a tunnel's name, which has 1 to 63 of a-z, A-Z, 0-9, -, _ and .; give another with --name",
            line::shown(&name)
        ));
    }
    if from.extension().is_some_and(|ending| ending == "passcode") {
        return Err(format!(
            "{}: this is the passcode alone; the .tunnel file that `mapping add` has written beside it is wanted",
            line::shown_path(from)
        ));
    }
    // Read once: what is checked is what is installed.
    let (text, mode) = tunnel::read("--from", from, Some(limits::PIPE_WAIT)).map_err(|fault| {
        let file = from.with_extension("tunnel");
        match () {
            () if is_forbidden(from) => format!("{fault}; or run it again with sudo"),
            () if !from.exists() && file.exists() => {
                format!(
                    "{}: there is no such file; is it {}?",
                    line::shown_path(from),
                    quoted(&file)
                )
            }
            () => fault,
        }
    })?;
    if text.starts_with(tunnel::PUBLIC) && install.given.contains_key("listen") {
        return Err(format!(
            "{}: it is of a public pipe, whose users connect to the connector itself; install it with --target \
             HOST:PORT, where the service is",
            line::shown_path(from)
        ));
    }
    let options = tunnel::Options::of(
        install.given.clone(),
        Some((from.clone(), &text, mode)),
        &|_| None,
        Some(limits::PIPE_WAIT),
    )
    .map_err(|fault| {
        let mut named = text.lines().filter_map(|line| line.split_once('='));
        let sudo = named.any(|(name, value)| {
            ["passcode-file", "ca"].contains(&name.trim()) && is_forbidden(Path::new(value.trim()))
        });
        if sudo { format!("{fault}; or run it again with sudo") } else { fault }
    })?;
    let relative = options.files().find(|path| path.is_relative());
    if let Some(path) = relative {
        return Err(format!(
            "{}: {} is the name of a file from some folder, and the service runs in another; give its whole path",
            line::shown_path(from),
            path.display()
        ));
    }
    // An init script's process sees what its user may.
    let is_own =
        script().is_none() && install.dir.as_deref().is_none_or(|dir| dir == Path::new(TUNNELS));
    let hidden = options.files().find(|path| is_own && is_hidden(path));
    if let Some(path) = hidden {
        return Err(format!(
            "{}: the service does not see {}; put it into {TUNNELS}, where its group may read it, and name that",
            line::shown_path(from),
            path.display()
        ));
    }
    for warning in &options.warnings {
        complain(format_args!("warning: {warning}"));
    }
    let is_replaced = |line: &&str| {
        let name = line.split('=').next().unwrap_or_default().trim();
        install.given.contains_key(name)
    };
    let mut new = String::new();
    for line in text.lines().filter(|line| !is_replaced(line)) {
        new.push_str(line);
        new.push('\n');
    }
    for (name, value) in install.given.iter() {
        new.push_str(&format!("{name}={}\n", value.to_string_lossy()));
    }
    Ok((name, new))
}

/// Puts the file into the folder, whole or not at all, with the owner and the mode that the service needs. Gives the
/// folder, too, locked.
fn put(dir: &Path, name: &str, text: &str, replace: bool) -> Result<(Put, OwnedFd), String> {
    let file = format!("{name}.conf");
    let path = dir.join(&file);
    let failed = |error: io::Error| failed(&path, &error);
    let folder = folder(dir, true).map_err(failed)?;
    lock(&folder).map_err(failed)?;
    let old = file::read(&path, limits::TUNNEL_FILE, None);
    match &old {
        Ok(old) if old == text.as_bytes() => {
            // Made by hand, it may be such that the service cannot read it.
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let same = openat(&folder, &file, flags, Mode::empty()).map_err(io::Error::from);
            same.and_then(|same| for_service(&same, 0o640)).map_err(failed)?;
            return Ok((Put::Same, folder));
        }
        Ok(_) if !replace => return Err(taken(&path)),
        _ => {}
    }
    let new = format!(".{name}.new");
    // One that was killed may have left its own.
    let _ = unlinkat(&folder, &new, AtFlags::empty());
    let put = write(&folder, &new, text).and_then(|()| match replace {
        true => Ok(renameat(&folder, &new, &folder, &file)?),
        // A link does not take another file's place.
        false => Ok(linkat(&folder, &new, &folder, &file, AtFlags::empty())?),
    });
    let _ = unlinkat(&folder, &new, AtFlags::empty());
    match put.and_then(|()| Ok(rustix::fs::fsync(&folder)?)) {
        Ok(()) if old.is_ok() => Ok((Put::Replaced, folder)),
        Ok(()) => Ok((Put::New, folder)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(taken(&path)),
        Err(error) => Err(failed(error)),
    }
}

fn taken(path: &Path) -> String {
    format!(
        "{} is there already, with another tunnel; add --replace for this one in its place, or --name for one more",
        path.display()
    )
}

fn failed(path: &Path, error: &io::Error) -> String {
    let sudo = match error.kind() {
        io::ErrorKind::PermissionDenied if !geteuid().is_root() => "; run it again with sudo",
        _ => "",
    };
    format!("{}: {}{sudo}", path.display(), reason::writing(path, error))
}

/// Waits for others that change the folder: until this file is closed it is changed by nobody else.
fn lock(folder: &OwnedFd) -> io::Result<()> {
    let until = Instant::now() + limits::CONTROL_WAIT;
    loop {
        match flock(folder, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(Errno::WOULDBLOCK) => {
                let why = "somebody else holds its folder (another `tunnel install`?); try again";
                return Err(io::Error::other(why));
            }
            locked => return Ok(locked?),
        }
    }
}

/// The folder of tunnels, where it is missing made if `make` says so. Its parents may belong to the service's user, who
/// could put a link or a folder of its own in their place: root writes into neither. A link is followed only where
/// nobody but who runs this and root could have put it, and never in the last place.
fn folder(dir: &Path, make: bool) -> io::Result<OwnedFd> {
    let root = if dir.is_absolute() { "/" } else { "." };
    let mut folder = open(root, FOLDER, Mode::empty())?;
    let mut so_far = PathBuf::new();
    let mut parts = dir.components().peekable();
    while let Some(part) = parts.next() {
        so_far.push(part);
        if matches!(part, Component::RootDir | Component::CurDir) {
            continue;
        }
        let last = parts.peek().is_none();
        let flags = if last { FOLDER } else { FOLDER | OFlags::PATH };
        let open = |flags| openat(&folder, part.as_os_str(), flags, Mode::empty());
        let next = match open(flags) {
            Err(Errno::NOENT) if make => {
                let mode = if last { 0o750 } else { 0o755 };
                match mkdirat(&folder, part.as_os_str(), Mode::from_raw_mode(mode)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let made = open(flags)?;
                if last {
                    for_service(&made, mode)?;
                }
                made
            }
            Err(Errno::NOTDIR | Errno::LOOP) if so_far.is_symlink() => {
                if last || !is_ours_alone(&folder)? {
                    let link = so_far.display();
                    let why = format!("{link} is a link; name the folder that it leads to");
                    return Err(io::Error::other(why));
                }
                open(flags.difference(OFlags::NOFOLLOW))?
            }
            next => next?,
        };
        folder = next;
    }
    let user = geteuid();
    match fstat(&folder)?.st_uid == user.as_raw() {
        true => Ok(folder),
        false if !user.is_root() => Err(io::ErrorKind::PermissionDenied.into()),
        false => Err(io::Error::other("its folder belongs to another user; chown root it")),
    }
}

/// Whether only this user and root can put things into the folder.
fn is_ours_alone(folder: impl AsFd) -> io::Result<bool> {
    let found = fstat(folder)?;
    let is_ours = found.st_uid == 0 || found.st_uid == geteuid().as_raw();
    Ok(is_ours && found.st_mode & 0o022 == 0)
}

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn write(folder: &OwnedFd, name: &str, text: &str) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?;
    for_service(&file, 0o640)?;
    let mut file = File::from(file);
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Lets the service's group read it, where this is root and there is such a group; others may not.
fn for_service(file: &OwnedFd, mode: u32) -> io::Result<()> {
    if let Some(group) = user::service_group().filter(|_| geteuid().is_root()) {
        fchown(file, None, Some(group))?;
        fchmod(file, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}
