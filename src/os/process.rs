//! The daemon as a process: what is set once at its start, and what happens when it panics.

use std::fs::DirEntry;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::PIPE_BUF;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::logging::{self, Logging};
use crate::text::line::escaped;
use crate::text::reason;

/// Files the daemon asks for at most: more would only make the kernel's table large.
const FILES: u64 = 1 << 20;

/// What [`prepare`] has reached.
pub struct Prepared {
    /// Files the process may open.
    pub files: usize,
    /// What an operator should know, once there is a log to say it in.
    pub warning: Option<String>,
}

/// Closes every file but input, output and error: whoever has started the daemon may have left some open, which neither
/// it nor what it starts is to have. None is of use here: the service manager is reached by a path, and the link of an
/// upgrade is the standard input. To be called before anything is opened, and before there is another thread. Where
/// there is no /proc, nothing is closed.
#[expect(
    unsafe_code,
    reason = "files that nobody here has opened have no owner who could close them"
)]
pub fn close_inherited() {
    let Ok(files) = std::fs::read_dir("/proc/self/fd") else { return };
    let number = |file: io::Result<DirEntry>| file.ok()?.file_name().to_str()?.parse().ok();
    // Collected first, since the folder is one of them: it is closed by then.
    for file in files.filter_map(number).filter(|file: &i32| *file > 2).collect::<Vec<_>>() {
        // SAFETY: nothing here has opened a file yet that it means to keep, and no thread opens one meanwhile.
        unsafe { libc::close(file) };
    }
}

/// What is set once, before any thread exists: files are made unreadable to others (umask
/// 0027), a crash leaves no core file, which would hold passcodes and the key, and as many
/// files as the hard limit allows may be open.
pub fn prepare() -> Prepared {
    rustix::process::umask(Mode::from_raw_mode(0o027));
    // A limit of 0 does not hold for a core that goes to a program; at 1 the kernel makes none at
    // all (core(5)).
    let maximum = getrlimit(Resource::Core).maximum;
    let core = Rlimit { current: Some(maximum.unwrap_or(1).min(1)), maximum };
    let warning = setrlimit(Resource::Core, core).err().map(|error| {
        format!(
            "core files, which may hold passcodes, cannot be turned off: {}",
            reason::words(&error.into())
        )
    });
    Prepared { files: raise_file_limit(), warning }
}

fn raise_file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(FILES).min(FILES);
    let now = limit.current.unwrap_or(FILES);
    if now >= most {
        return usize::try_from(now).unwrap_or(usize::MAX);
    }
    let wanted = Rlimit { current: Some(most), maximum: limit.maximum };
    let reached = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => most,
        Err(_) => now,
    };
    usize::try_from(reached).unwrap_or(usize::MAX)
}

/// Has the kernel make room for so many open files, for which it looks at `file`, while the process has one thread. Later it
/// waits, whenever it doubles their table, until no processor looks at the old one: 10 to 20 ms each time (`expand_fdtable`
/// of Linux). What it makes is 8 bytes a file.
pub fn make_room(file: impl AsFd, files: usize) {
    // What is above the limit is refused, and then made when it is needed.
    let _ = i32::try_from(files).map(|last| fcntl_dupfd_cloexec(file, last));
}

/// Runs a command, which is its program and arguments with a space between them, and waits for it; what it has
/// said on its standard output, or `None` where it is not there or ended otherwise than well. No shell sees it.
pub fn said(command: &str) -> Option<String> {
    let mut words = command.split(' ');
    let mut command = Command::new(words.next()?);
    let output = command.args(words).stdin(Stdio::null()).stderr(Stdio::inherit()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes a panic in any thread the end of the process: logged, on stderr, then SIGABRT, on
/// which the init system starts the daemon again. A daemon that has lost one of its threads
/// would look alive and serve nobody.
pub fn abort_on_panic(logging: &Logging) {
    let logging = logging.clone();
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed").to_owned();
        let message = format!("thread {name} panicked, the daemon ends: {info}");
        // The log itself may have panicked, so stderr comes first, if it can be written without
        // waiting.
        let level = if logging::leads_to_journal() { "<3>" } else { "" };
        let line = format!("{level}{}\n", escaped(&message));
        if takes_at_once(&io::stderr()) {
            let _ = io::stderr().write_all(&line.as_bytes()[..line.len().min(PIPE_BUF)]);
        }
        logging.last_words(&message);
        std::process::abort();
    }));
}

/// Whether [`PIPE_BUF`] bytes can be written without a wait: to a pipe, where there is that room.
fn takes_at_once(file: &impl AsFd) -> bool {
    let mut asked = [PollFd::new(file, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&at_once)).is_ok() && asked[0].revents().contains(PollFlags::OUT)
}

/// The name of the parent, where that is a supervisor that watches its own child and starts another one when it ends.
/// To be asked before the cage, which does not let it be looked up.
pub fn supervisor() -> Option<String> {
    /// As the kernel has them, which keeps 15 bytes.
    const SUPERVISORS: [&str; 7] =
        ["runsv", "supervise-daemo", "supervise", "s6-supervise", "supervisord", "procd", "dinit"];
    let parent = rustix::process::getppid()?.as_raw_nonzero();
    let name = std::fs::read_to_string(format!("/proc/{parent}/comm")).ok()?;
    SUPERVISORS.iter().find(|known| **known == name.trim_end()).map(|known| (*known).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::folder::Folder;
    use std::fs;
    use std::path::Path;

    #[test]
    fn a_command_that_fails_or_is_not_there_has_said_nothing() {
        assert_eq!(said("echo * $HOME; 'x"), Some("* $HOME; 'x\n".into()), "no shell");
        assert_eq!(said("true"), Some(String::new()));
        for command in ["false", "/nonexistent", "true\0", ""] {
            assert_eq!(said(command), None, "{command:?}");
        }
    }

    #[test]
    fn the_file_limit_is_raised_to_the_hard_one() {
        let limit = raise_file_limit();
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(FILES);
        assert!(limit as u64 >= hard.min(FILES));
        assert_eq!(raise_file_limit(), limit);
    }

    /// Runs in a process of its own, which it ends.
    #[test]
    fn child_that_panics() {
        let Some(dir) = std::env::var_os("PANIC_IN") else { return };
        abort_on_panic(&Logging::new(Path::new(&dir), Path::new("/nonexistent")));
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
        let thread = std::thread::Builder::new().name("worker".into());
        let _ = thread.spawn(|| panic!("two\nlines")).unwrap().join();
        std::process::exit(0);
    }

    #[test]
    fn a_panic_does_not_wait_for_who_reads_stderr() {
        use rustix::fs::{OFlags, fcntl_setfl};
        use std::os::unix::process::ExitStatusExt;
        let folder = Folder::new();
        let (_unread, full) = rustix::pipe::pipe().unwrap();
        fcntl_setfl(&full, OFlags::NONBLOCK).unwrap();
        while rustix::io::write(&full, &[0; 4096]).is_ok() {}
        fcntl_setfl(&full, OFlags::empty()).unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "os::process::tests::child_that_panics"]);
        child.env("PANIC_IN", &*folder).stdout(std::process::Stdio::null()).stderr(full);
        let mut child = child.spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if std::time::Instant::now() > deadline {
                child.kill().unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        assert_eq!(status.signal(), Some(6));
    }

    #[test]
    fn a_panic_in_any_thread_ends_the_process_and_is_logged() {
        use std::os::unix::process::ExitStatusExt;
        let dir = Folder::new();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "os::process::tests::child_that_panics"]).env("PANIC_IN", &*dir);
        let output = child.output().unwrap();
        assert_eq!(output.status.signal(), Some(6));
        let log = fs::read_to_string(dir.join(crate::logging::FILE)).unwrap();
        assert!(log.contains("ERROR thread worker panicked, the daemon ends: "), "{log}");
        assert!(log.ends_with("two\\nlines\n"), "{log}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("thread worker panicked"), "{stderr}");
    }
}
