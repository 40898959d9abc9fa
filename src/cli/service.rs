//! `status` and `stop`: what the command line asks a running daemon over its control socket.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};
use rustix::process::geteuid;

use super::asking::Answer;
use super::control::{self, Body, ControlError};
use super::exit::{NOT_RUNNING, UNKNOWN};
use super::remedy;
use crate::config::folders::Options;
use crate::config::{self, Config};
use crate::limits;
use crate::os::Instance;
use crate::os::terminal::{self, complain, print};
use crate::report::status::Draining;
use crate::report::{self, Report};
use crate::text::foreign;

/// How long the sessions of a daemon may drain whose settings cannot be read.
const DRAIN: Duration = Duration::from_secs(5);

/// What a daemon may take to end beyond its sessions' draining.
const GRACE: Duration = Duration::from_secs(10);

/// How often `stop` looks whether the daemon has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What came of asking.
enum Asked {
    Answered(Body),
    NotRunning,
    /// The operator has been told why.
    Failed,
}

/// How the daemon's state is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// As the JSON that the API answers, instead of a table.
    pub(super) json: bool,
    /// As wide as it takes, instead of as wide as the terminal.
    pub(super) wide: bool,
    /// The events alone.
    pub(super) events: bool,
}

/// Shows the daemon's state.
pub(super) fn status(options: &Options, shown: Shown) -> ExitCode {
    let Shown { json, wide, events } = shown;
    let run = &*options.run_dir;
    let state = match ask(limits::STATUS_WAIT, run, "GET", "/api/v2/status", "") {
        Asked::Answered(state) => state,
        Asked::NotRunning => {
            print(&format!(
                "{}{}",
                remedy::not_running(&remedy::DAEMON, run),
                faulty_settings(&options.config_dir)
            ));
            return NOT_RUNNING.into();
        }
        Asked::Failed => return UNKNOWN.into(),
    };
    if json && !events {
        return print(&format!("{}\n", state.json().trim_end()));
    }
    // As JSON it says what it said.
    let state = if json { state.json() } else { state.text() };
    match Report::read(state.as_bytes()) {
        Ok(report) => {
            let width = if wide { None } else { terminal::width() };
            match (events, json) {
                (false, _) => print(&report::table(&report, width)),
                (true, false) => print(&report::events(&report, width)),
                (true, true) => {
                    let all = serde_json::json!({ "events": report.state.events });
                    print(&format!("{}\n", foreign::shown(&all.to_string())))
                }
            }
        }
        Err(fault) => {
            complain(format_args!(
                "the connector's answer cannot be read ({fault}); was it started from another \
                 version? `status --json` shows the answer, a restart helps"
            ));
            UNKNOWN.into()
        }
    }
}

/// Asks the daemon to stop and waits until it has ended, as long as its sessions have time. If none
/// runs, there is nothing to do.
pub(super) fn stop(options: &Options) -> ExitCode {
    let named = || Instance::running(&options.run_dir).ok()??;
    let asked = named();
    match ask(limits::CONTROL_WAIT, &options.run_dir, "POST", "/api/v2/commandline", "command=stop")
    {
        Asked::Answered(_) => {}
        Asked::NotRunning => return print(&remedy::not_running(&remedy::DAEMON, &options.run_dir)),
        Asked::Failed => return UNKNOWN.into(),
    }
    let drain = Config::load(&options.config_dir).map_or(DRAIN, |(config, _)| config.drain);
    let begun = Instant::now();
    let mut deadline = begun + drain + GRACE;
    let mut told = false;
    let mut ask_at = begun + limits::DRAIN_TOLD;
    while let Some((process, kill)) = running(&options.run_dir) {
        if asked.zip(named()).is_some_and(|(asked, now)| asked != now) {
            complain(format_args!(
                "it was stopped, and what watches the service has started {process}; {}",
                remedy::is_the_services(&remedy::DAEMON, "stop")
            ));
            return ExitCode::FAILURE;
        }
        let now = Instant::now();
        if now >= deadline {
            let seconds = begun.elapsed().as_secs();
            complain(format_args!("{process} has not ended within {seconds} s; `{kill}` ends it"));
            return ExitCode::FAILURE;
        }
        if now >= ask_at {
            // The daemon's own answer counts: these settings may belong to another one, or have
            // changed.
            if let Some(left) = draining(&options.run_dir) {
                deadline = Instant::now() + Duration::from_millis(left.milliseconds_left) + GRACE;
                if !std::mem::replace(&mut told, true) {
                    complain(format_args!(
                        "{process} is {left}; `{kill}`, twice, ends them at once"
                    ));
                }
            }
            ask_at = Instant::now() + limits::DRAIN_TOLD;
        }
        std::thread::sleep(LOOK);
    }
    ExitCode::SUCCESS
}

/// Has the program that is in the file now take the running one's place.
pub(super) fn upgrade(options: &Options) -> ExitCode {
    let wait = limits::HEIR_SERVES + limits::CONTROL_WAIT;
    command(options, wait, "upgrade")
}

/// Has the daemon write the state of every connection, and says where.
pub(super) fn dump(options: &Options) -> ExitCode {
    command(options, limits::CONTROL_WAIT, "dump")
}

/// Has the daemon do what is one word for it, and says what has come of that.
fn command(options: &Options, wait: Duration, word: &str) -> ExitCode {
    let run = &*options.run_dir;
    match ask(wait, run, "POST", "/api/v2/commandline", &format!("command={word}")) {
        Asked::Answered(answer) => {
            print(&format!("{}\n", sentence(&answer, "response").unwrap_or_else(|| answer.text())))
        }
        Asked::NotRunning => {
            print(&remedy::not_running(&remedy::DAEMON, run));
            NOT_RUNNING.into()
        }
        Asked::Failed => ExitCode::FAILURE,
    }
}

/// A member of an answer that is a sentence.
fn sentence(answer: &Body, member: &str) -> Option<String> {
    Some(Answer::read(answer).ok()?.sentence(member).ok()?.to_owned())
}

/// A line that says so where settings that are there have a fault, which keeps the daemon from starting.
fn faulty_settings(dir: &Path) -> String {
    let file = dir.join(config::FILE);
    let is_readable = access(&file, Access::READ_OK).is_ok();
    // What this user may not read says nothing about the service, and may be sound.
    if !Config::load(dir).is_err_and(|faults| is_readable || !faults.is_unread()) {
        return String::new();
    }
    let sudo = remedy::sudo();
    let settings = match is_readable {
        true => file.display().to_string(),
        false => "its environment".into(),
    };
    let dir = match dir == Options::default().config_dir {
        true => String::new(),
        false => format!(" --config {}", dir.display()),
    };
    format!(
        "{settings} has a fault, with which it does not start; `{sudo}iofog-connector check{dir}` shows it\n"
    )
}

/// What a stopping daemon still waits for, if it says so.
fn draining(run: &Path) -> Option<Draining> {
    let answer = control::call(limits::STATUS_WAIT, run, "GET", "/api/v2/status", "");
    let (_, state) = answer.ok()?;
    Report::read(state.text().as_bytes()).ok()?.state.draining
}

fn ask(wait: Duration, run: &Path, method: &str, path: &str, body: &str) -> Asked {
    match control::call(wait, run, method, path, body) {
        Ok((200, answer)) => return Asked::Answered(answer),
        Ok((status, answer)) => match sentence(&answer, "errormessage") {
            Some(why) => complain(why),
            None => complain(format_args!("it answers {status}: {}", answer.text().trim_end())),
        },
        // Without the lock there is no daemon; with it there is one that nobody can talk to: it
        // is just starting or ending, or somebody has removed its socket.
        Err(ControlError::NotRunning(socket)) => match running(run) {
            None => return Asked::NotRunning,
            Some((process, kill)) => complain(format_args!(
                "{process} runs, but nobody listens on {}; try again in a moment, or end it with \
                 `{kill}`",
                socket.display()
            )),
        },
        Err(error) => complain(error),
    }
    Asked::Failed
}

/// The daemon that holds the run folder's lock, by its process id, and the command that ends it. A
/// lock that may not be read counts as held by nobody.
fn running(run: &Path) -> Option<(String, String)> {
    let pid = Instance::running(run).ok()??;
    let named = |pid| {
        let owner = fs::metadata(format!("/proc/{pid}")).map(|process| process.uid());
        let is_own = owner.is_ok_and(|owner| owner == geteuid().as_raw() && owner != 0);
        let sudo = if is_own { "" } else { remedy::sudo() };
        (format!("process {pid}"), format!("{sudo}kill {pid}"))
    };
    Some(pid.map_or(("the daemon".into(), "kill".into()), named))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::testing::folder::Folder;

    fn same(code: ExitCode, expected: u8) -> bool {
        format!("{code:?}") == format!("{:?}", ExitCode::from(expected))
    }

    /// With these folders, and settings that are not there.
    fn options(run: &Path) -> Options {
        Options { run_dir: run.into(), config_dir: run.into(), ..Options::default() }
    }

    /// A daemon that answers one request with `body`, and ends a moment later.
    fn daemon(run: &Path, body: &'static str) -> thread::JoinHandle<String> {
        let instance = Instance::take(run).unwrap();
        let listener = UnixListener::bind(run.join(crate::config::folders::SOCKET)).unwrap();
        thread::spawn(move || {
            let (mut caller, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let count = caller.read(&mut request).unwrap();
            let length = body.len();
            write!(caller, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
            thread::sleep(Duration::from_millis(100));
            drop(instance);
            String::from_utf8_lossy(&request[..count]).into_owned()
        })
    }

    #[test]
    fn the_command_that_ends_a_daemon_is_whole() {
        let run = Folder::new();
        let instance = Instance::take(&run).unwrap();
        let (who, kill) = running(&run).unwrap();
        let pid = std::process::id();
        assert_eq!((who, kill), (format!("process {pid}"), format!("kill {pid}")));
        drop(instance);
        assert_eq!(running(&run), None);
    }

    #[test]
    fn nobody_there_is_3_for_status_and_0_for_stop() {
        let run = Folder::new();
        assert!(same(status(&options(&run), Shown::default()), NOT_RUNNING));
        assert!(same(
            status(&options(&run), Shown { json: true, ..Shown::default() }),
            NOT_RUNNING
        ));
        assert!(same(stop(&options(&run)), 0));
    }

    #[test]
    fn settings_that_keep_the_daemon_from_starting_are_named_with_the_command_that_shows_why() {
        let dir = Folder::new();
        assert_eq!(faulty_settings(&dir), "", "none");
        dir.file(config::FILE, "{\"ports\":[}", 0o600);
        let said = faulty_settings(&dir);
        assert!(said.contains("iofog-connector.conf has a fault"), "{said}");
        assert!(said.contains(&format!("check --config {}` shows it", dir.display())), "{said}");
        let well = r#"{"ports":["6000-6001"],"exclude":[],"broker":12345,"address":"127.0.0.1","dev":true}"#;
        dir.file(config::FILE, well, 0o600);
        assert_eq!(faulty_settings(&dir), "");
    }

    #[test]
    fn stop_waits_until_the_daemon_has_ended() {
        let run = Folder::new();
        let daemon = daemon(&run, "{}");
        assert!(same(stop(&options(&run)), 0));
        assert_eq!(running(&run), None);
        let request = daemon.join().unwrap();
        assert!(request.starts_with("POST /api/v2/commandline "), "{request}");
        assert!(request.ends_with("command=stop"), "{request}");
    }

    #[test]
    fn stop_of_one_that_is_started_again_at_once_says_so() {
        let run = Folder::new();
        let instance = Instance::take(&run).unwrap();
        let listener = UnixListener::bind(run.join(crate::config::folders::SOCKET)).unwrap();
        let another = thread::spawn(move || {
            let (mut caller, _) = listener.accept().unwrap();
            let _ = caller.read(&mut [0; 4096]).unwrap();
            // As another one that has the lock by then.
            instance.name(1);
            write!(caller, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{{}}").unwrap();
            instance
        });
        assert!(same(stop(&options(&run)), 1));
        another.join().unwrap();
    }

    #[test]
    fn an_answer_of_another_version_or_none_is_4() {
        let run = Folder::new();
        let daemon = daemon(&run, "{\"status\":\"odd\"}");
        assert!(same(status(&options(&run), Shown::default()), UNKNOWN));
        daemon.join().unwrap();
        let instance = Instance::take(&run).unwrap();
        assert!(
            same(status(&options(&run), Shown::default()), UNKNOWN),
            "it runs and nobody listens"
        );
        drop(instance);
    }
}
