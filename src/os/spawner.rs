//! A small process beside the daemon that starts the program anew when it is to be replaced.
//!
//! The daemon itself may execute nothing once it serves. This process is forked before anything is read or opened; it
//! holds nothing but its end of a [`Link`], takes two words from it, `start` and `end`, and does one thing: it runs the file
//! from which the daemon was started, with the daemon's own arguments, and sees to it that what it has started serves or
//! ends. It ends with the daemon, or before, once another one has taken the daemon's place: what it has started is then
//! the init system's, which hears of its end. Where the daemon was killed, it stays until a new program serves or is
//! killed, too: otherwise one that hangs would keep the lock and the ports, and nobody could be started.
//!
//! The new program finds a message on its link before any of the daemon's, with another link: on that it says that it
//! serves. Until it has, it is killed when the daemon has given it up, or is gone, and it does not end by itself.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio, exit};
use std::time::{Duration, Instant};

use rustix::net::{SocketType, sockopt};

use super::link::Link;
use super::signals::Signals;
use crate::limits;
use crate::text::reason;

/// What the word of a program begins with that does not take the place; the reason follows.
pub const REFUSED: &str = "refused ";

/// The message with the link on which a new program says that it serves, and that word.
pub const WATCH: &str = "watch";
const SERVES: &str = "serves";

/// What the process that starts programs is told of one that was given up.
const END: &str = "end";

/// How often it looks whether one that does not serve yet does, or has ended.
const LOOK: Duration = Duration::from_millis(200);

/// The process that starts the program anew.
#[derive(Debug)]
pub struct Spawner {
    link: Link,
    process: i32,
}

impl Spawner {
    /// Forks it. To be called before there is another thread, and before there is anything that a program
    /// should not have from the one that it replaces.
    ///
    /// # Errors
    /// The system grants no process or no files.
    #[expect(unsafe_code, reason = "fork(2) has no safe form")]
    pub fn fork() -> io::Result<Self> {
        // As it is named now: of a file that was replaced, /proc knows only that it is gone.
        let program = std::env::current_exe()?;
        let [own, others] = Link::pair()?;
        // SAFETY: the caller sees to it that this is the only thread, so that the child finds no lock held; the child
        // never returns from here.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(own);
                let _signals = settle_down();
                serve(&others, &program);
                exit(0)
            }
            process => Ok(Spawner { link: own, process }),
        }
    }

    /// Has the program started, and gives the link to it. What keeps it from starting comes through the link, too.
    ///
    /// # Errors
    /// A sentence: the process is gone or stopped, or no files are left.
    pub fn start(&self) -> Result<Link, String> {
        let Spawner { link, process } = self;
        // An answer that came too late for who asked before: its program ends with it.
        while let Ok(Some(_)) = link.receive(Some(Duration::from_millis(1))) {}
        let asked = link.send("start", &[]);
        match asked.and_then(|()| link.receive(Some(limits::HEIR_TAKES))) {
            Ok(Some(answer)) => answer.files.into_iter().next().map(Link::from).ok_or_else(|| {
                "no file is left for the link to a new program; raise the limit of open files"
                    .into()
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(format!(
                "process {process}, which starts programs for this one, has not answered within \
                 {} s; where it is stopped, `kill -CONT {process}` has it go on",
                limits::HEIR_TAKES.as_secs()
            )),
            Ok(None) | Err(_) => Err(format!(
                "process {process}, which started programs for this one, is gone; a restart is needed"
            )),
        }
    }

    /// What was started and does not serve is to end, and is killed where it has not within [`limits::HEIR_ENDS`].
    pub fn give_up(&self) {
        let _ = self.link.send(END, &[]);
    }
}

/// A program that was started and does not serve yet.
struct Started {
    child: Child,
    /// It says so there.
    watch: Link,
    /// When it is killed.
    until: Instant,
}

impl Started {
    /// Whether it is still to be looked after: it neither serves nor has ended. It is killed once its time is over.
    fn is_awaited(&mut self) -> bool {
        if matches!(self.watch.receive(Some(Duration::ZERO)), Ok(Some(word)) if word.text == SERVES)
        {
            return false;
        }
        let has_ended = !matches!(self.child.try_wait(), Ok(None));
        if !has_ended && Instant::now() >= self.until {
            let _ = self.child.kill();
        }
        !has_ended
    }
}

/// Says to the process that has started this one that it serves.
pub fn serves(watch: &Link) {
    let _ = watch.send(SERVES, &[]);
}

/// Makes this process one that only starts programs: nobody who looks for the daemon by its name finds it, its input is
/// not a link of the daemon's, and signals for all processes of the service (`systemctl kill`, a terminal) do not end it
/// before the daemon. What it starts handles them as if it had not.
fn settle_down() -> Option<Signals> {
    let _ = rustix::thread::set_name(c"iofog-spawner");
    let _ = leave_input();
    Signals::new().ok()
}

/// The life of the process, until the daemon ends, and what was started serves or has ended.
fn serve(daemon: &Link, program: &Path) {
    let mut started: Vec<Started> = Vec::new();
    let end_within = |started: &mut [Started], time| {
        let until = Instant::now() + time;
        started.iter_mut().for_each(|one| one.until = one.until.min(until));
    };
    loop {
        started.retain_mut(Started::is_awaited);
        match daemon.receive((!started.is_empty()).then_some(LOOK)) {
            Ok(Some(word)) if word.text == END => end_within(&mut started, limits::HEIR_ENDS),
            Ok(Some(_)) => started.extend(start(daemon, program, started.len())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => break,
        }
    }
    // One that is ready takes the place now.
    end_within(&mut started, limits::HEIR_TAKES);
    while !started.is_empty() {
        std::thread::sleep(LOOK);
        started.retain_mut(Started::is_awaited);
    }
}

/// Starts the program, beside so many that have neither served nor ended, and gives the daemon the link to it.
fn start(daemon: &Link, program: &Path, beside: usize) -> Option<Started> {
    // The daemon's sandbox allows it to make no pair.
    let links = || {
        let ([daemons, end], [watch, others]) = (Link::pair()?, Link::pair()?);
        daemons.send(WATCH, &[OwnedFd::from(others).as_fd()])?;
        io::Result::Ok((daemons, end, watch))
    };
    let Ok((daemons, end, watch)) = links() else {
        let _ = daemon.send("none", &[]);
        return None;
    };
    daemon.send("link", &[OwnedFd::from(daemons).as_fd()]).ok()?;
    let outcome = match beside {
        limits::HEIRS.. => Err("too many that were started before have not ended".to_owned()),
        _ => run(program, &end).map_err(|error| reason::words(&error)),
    };
    let until = Instant::now() + limits::HEIR_SERVES;
    match outcome {
        Ok(child) => Some(Started { child, watch, until }),
        Err(why) => {
            let program = program.display();
            let _ = end.send(&format!("{REFUSED}{program} cannot be started: {why}"), &[]);
            None
        }
    }
}

fn run(program: &Path, end: &Link) -> io::Result<Child> {
    Command::new(program)
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::from(OwnedFd::from(end.try_clone()?)))
        .spawn()
}

/// The link to the program whose place this one is to take, which is its standard input then; `None` for one that is
/// started otherwise. To be called once.
///
/// # Errors
/// No file is left.
pub fn predecessor() -> io::Result<Option<Link>> {
    let input = io::stdin();
    // Nobody else gives a daemon such an input.
    if !sockopt::socket_type(&input).is_ok_and(|kind| kind == SocketType::SEQPACKET) {
        return Ok(None);
    }
    let link = input.as_fd().try_clone_to_owned()?;
    leave_input()?;
    Ok(Some(Link::from(link)))
}

/// Has this process no standard input any more.
fn leave_input() -> io::Result<()> {
    Ok(rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use super::*;
    use crate::testing::folder::Folder;

    const SOON: Option<Duration> = Some(Duration::from_secs(60));

    fn spawner(link: Link) -> Spawner {
        Spawner { link, process: 7 }
    }

    #[test]
    fn spawner_that_is_gone_or_has_no_files_is_said_to_be_so() {
        let [own, others] = Link::pair().unwrap();
        drop(others);
        let why = spawner(own).start().unwrap_err();
        assert!(why.contains("process 7") && why.contains("is gone; a restart is needed"), "{why}");
        let [own, others] = Link::pair().unwrap();
        let answering = thread::spawn(move || {
            others.receive(SOON).unwrap();
            others.send("none", &[]).unwrap();
        });
        let why = spawner(own).start().unwrap_err();
        assert!(why.contains("raise the limit of open files"), "{why}");
        answering.join().unwrap();
    }

    #[test]
    fn answer_that_came_too_late_is_not_taken_for_the_next_one() {
        let [own, others] = Link::pair().unwrap();
        let pairs = [(); 2].map(|()| Link::pair().unwrap());
        let [(late, _late), (next, nexts)] = pairs.map(|[one, two]| (OwnedFd::from(one), two));
        others.send("link", &[late.as_fd()]).unwrap();
        let answering = thread::spawn(move || {
            others.receive(SOON).unwrap();
            others.send("link", &[next.as_fd()]).unwrap();
        });
        let link = spawner(own).start().unwrap();
        nexts.send("the next one", &[]).unwrap();
        assert_eq!(link.receive(SOON).unwrap().unwrap().text, "the next one");
        answering.join().unwrap();
    }

    #[test]
    fn programs_that_do_not_end_are_counted_and_those_that_end_make_room() {
        let folder = Folder::new();
        let program = folder.join("program");
        // It ends with its link.
        fs::write(&program, "#!/bin/sh\nexec cat > /dev/null\n").unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o700)).unwrap();
        let [own, others] = Link::pair().unwrap();
        let serving = thread::spawn(move || serve(&others, &program));
        let spawner = spawner(own);
        let is_refused = |link: &Link| {
            // It has been started, or this is said before the next answer.
            let said = link.receive(Some(Duration::from_millis(1)));
            said.is_ok_and(|said| said.is_some_and(|said| said.text.starts_with(REFUSED)))
        };
        let mut links = Vec::new();
        while links.len() <= limits::HEIRS {
            links.push(spawner.start().unwrap());
        }
        let one_more = links.pop().unwrap();
        let said = one_more.receive(SOON).unwrap().unwrap().text;
        assert!(said.starts_with(REFUSED) && said.contains("have not ended"), "{said}");
        assert!(!links.iter().any(is_refused));
        links.clear();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let link = spawner.start().unwrap();
            let answer = link.receive(Some(Duration::from_millis(100)));
            if answer.is_err() {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "those that have ended make no room");
        }
        drop(spawner);
        serving.join().unwrap();
    }
}
