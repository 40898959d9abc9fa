//! `tunnel install`: puts a tunnel file where the service reads it, and starts the service (protocol page, section 7,
//! step 10).

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::{
    AtFlags, Mode, OFlags, fchmod, fchown, fstat, linkat, open, openat, renameat, unlinkat,
};
use rustix::process::geteuid;

use super::exit::BAD;
use super::user;
use crate::agent::options as tunnel;
use crate::config::folders::TUNNELS;
use crate::limits;
use crate::os::terminal::{complain, print};
use crate::text::reason::{self, quoted};
use crate::text::{file, mark};

/// Bytes of a tunnel file at most, as its reader has it.
const LONGEST: usize = 64 * 1024;

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
    let put = match put(dir, &name, &text, install.replace) {
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
    let Some((commands, look)) = service(&name, &put) else {
        return print(&format!(
            "{shown} is written. There is no service here; run all tunnels with: sudo iofog-connector tunnels\n"
        ));
    };
    for command in commands {
        if !succeeds(&command) {
            complain(format_args!("{shown} is written, but `{command}` failed; {LOG}"));
            return ExitCode::FAILURE;
        }
    }
    print(&format!(
        "{shown} is written, and the service is told to run it, now and after each boot; `sudo {look}` shows how it does\n"
    ))
}

const LOG: &str = "the journal or syslog says why";

/// The commands that have the service run it, and the one that shows it; `None` where there is no init system that
/// has the service.
fn service(name: &str, put: &Put) -> Option<(Vec<String>, String)> {
    if !Path::new("/run/systemd/system").exists() {
        let script = format!("/etc/init.d/{ALL}");
        let status = "iofog-connector tunnels status".to_owned();
        return Path::new(&script).exists().then(|| (vec![format!("{script} reload")], status));
    }
    // One process would run again what has units of its own, and a unit what the process has.
    let is_active = |unit| succeeds(&format!("systemctl is-active --quiet {unit}"));
    let (unit, verb, look) = if is_active(ALL) || !is_active("iofog-connector-tunnel@*") {
        let look = "iofog-connector tunnels status".to_owned();
        (ALL.to_owned(), "reload-or-restart", look)
    } else {
        let unit = format!("iofog-connector-tunnel@{name}");
        // What runs already has read the file as it was.
        let verb = if matches!(put, Put::Replaced) { "restart" } else { "start" };
        (unit.clone(), verb, format!("systemctl status {unit}"))
    };
    let enable = format!("systemctl enable --quiet {unit}");
    Some((vec![enable, format!("systemctl {verb} {unit}")], look))
}

/// Runs the command, words with a space between them; whether it ended well.
fn succeeds(command: &str) -> bool {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let done = Command::new(program).args(words).stdout(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

/// Whether the service does not see this file: its unit has other folders there, or none.
fn is_hidden(path: &Path) -> bool {
    ["/home", "/root", "/tmp", "/etc/iofog-connector"].iter().any(|folder| path.starts_with(folder))
        && !path.starts_with(TUNNELS)
}

/// The tunnel's name and its file's text, checked by the reader that `tunnel` has.
fn prepare(install: &Install) -> Result<(String, String), String> {
    let from = &install.file;
    let name = match &install.name {
        Some(name) => name.clone(),
        None => from.file_stem().and_then(OsStr::to_str).unwrap_or_default().to_owned(),
    };
    let allowed = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter);
    if name.is_empty()
        || name.len() > 63
        || name.starts_with(['.', '-'])
        || !name.bytes().all(allowed)
    {
        return Err(format!(
            "{name:?} cannot be a tunnel's name, which has 1 to 63 of a-z, A-Z, 0-9, -, _ and .; give another with --name"
        ));
    }
    let mut given = install.given.clone();
    given.insert("from", from.into());
    let options =
        tunnel::Options::new(given, |_| None, Some(limits::PIPE_WAIT)).map_err(|fault| {
            let sudo = fault.contains(" may not ") && !geteuid().is_root();
            if sudo { format!("{fault}; or run it again with sudo") } else { fault }
        })?;
    let relative = options.files().find(|path| path.is_relative());
    if let Some(path) = relative {
        return Err(format!(
            "{}: {} is the name of a file from some folder, and the service runs in another; give its whole path",
            from.display(),
            path.display()
        ));
    }
    let is_own = install.dir.as_deref().is_none_or(|dir| dir == Path::new(TUNNELS));
    let hidden = options.files().find(|path| is_own && is_hidden(path));
    if let Some(path) = hidden {
        return Err(format!(
            "{}: the service does not see {}; put it into {TUNNELS}, where its group may read it, and name that",
            from.display(),
            path.display()
        ));
    }
    for warning in &options.warnings {
        complain(format_args!("warning: {warning}"));
    }
    let text = file::read(from, LONGEST, None)
        .map_err(|error| format!("{}: {}", from.display(), reason::reading(from, &error)))?;
    let text = String::from_utf8_lossy(mark::skip(&text));
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

/// Puts the file into the folder, whole or not at all, with the owner and the mode that the service needs.
fn put(dir: &Path, name: &str, text: &str, replace: bool) -> Result<Put, String> {
    let file = format!("{name}.conf");
    let path = dir.join(&file);
    let failed = |error: io::Error| {
        let sudo = match error.kind() {
            io::ErrorKind::PermissionDenied if !geteuid().is_root() => "; run it again with sudo",
            _ => "",
        };
        format!("{}: {}{sudo}", path.display(), reason::writing(&path, &error))
    };
    let folder = folder(dir).map_err(failed)?;
    let old = file::read(&path, LONGEST, None);
    match &old {
        Ok(old) if old == text.as_bytes() => {
            // Made by hand, it may be such that the service cannot read it.
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let same = openat(&folder, &file, flags, Mode::empty()).map_err(io::Error::from);
            same.and_then(|same| for_service(&same, 0o640)).map_err(failed)?;
            return Ok(Put::Same);
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
        Ok(()) if old.is_ok() => Ok(Put::Replaced),
        Ok(()) => Ok(Put::New),
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

/// The folder of tunnels, made where it is missing. Its parent may belong to the service's user, who could put a link
/// or a folder of its own in this one's place: root writes into neither.
fn folder(dir: &Path) -> io::Result<OwnedFd> {
    if let Some(parent) = dir.parent().filter(|_| fs::symlink_metadata(dir).is_err()) {
        if !parent.as_os_str().is_empty() {
            fs::create_dir_all(parent)?;
        }
        DirBuilder::new().mode(0o750).create(dir)?;
        for_service(&open(dir, FOLDER, Mode::empty())?, 0o750)?;
    }
    let folder = open(dir, FOLDER, Mode::empty())?;
    let user = geteuid();
    match fstat(&folder)?.st_uid == user.as_raw() {
        true => Ok(folder),
        false if !user.is_root() => Err(io::ErrorKind::PermissionDenied.into()),
        false => Err(io::Error::other("its folder belongs to another user; chown root it")),
    }
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
