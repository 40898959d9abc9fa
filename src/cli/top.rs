//! `top`: what `status` and `tunnels status` tell, again every second, as rates.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use super::asking::{Answer, understood};
use super::control::{self, Asking, Body, ControlError};
use super::exit::{NOT_RUNNING, UNKNOWN};
use super::remedy;
use crate::config::folders::{SOCKET, TUNNELS_SOCKET};
use crate::limits;
use crate::logging::Utc;
use crate::os::screen::{Event, Screen};
use crate::os::terminal::{complain, print};
use crate::report::live::{Sample, View};
use crate::text::reason;

/// Time from one answer to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// For how many answers it is said that there was none for a while.
const NOTICED: u32 = 30;

/// Whom is asked.
struct Whom {
    run: PathBuf,
    is_agent: bool,
}

/// Why there is no answer: what `status` would end with, and a sentence.
struct Fault {
    code: u8,
    text: String,
}

impl Whom {
    /// The socket, and the path of the request.
    fn place(&self) -> (PathBuf, &'static str) {
        let (socket, path) = match self.is_agent {
            true => (TUNNELS_SOCKET, "/"),
            false => (SOCKET, "/api/v2/status"),
        };
        (self.run.join(socket), path)
    }

    /// Asks, and waits for the answer.
    fn ask(&self) -> Result<Sample, Fault> {
        let (socket, path) = self.place();
        self.read(control::call_within(limits::STATUS_WAIT, &socket, "GET", path, ""))
    }

    /// Asks, and does not wait.
    fn begin(&self) -> Result<Asking, ControlError> {
        let (socket, path) = self.place();
        Asking::begin(limits::STATUS_WAIT, &socket, "GET", path, "")
    }

    /// What an answer says.
    fn read(&self, answer: Result<(u16, Body), ControlError>) -> Result<Sample, Fault> {
        let at = Instant::now();
        let unknown = |text| Fault { code: UNKNOWN, text };
        match answer {
            Ok((200, answer)) => {
                let read = if self.is_agent { Sample::of_tunnels } else { Sample::of_daemon };
                understood(read(&answer.text(), at)).map_err(unknown)
            }
            Ok((status, answer)) => Err(unknown(
                Answer::read(&answer)
                    .and_then(|why| why.sentence("errormessage").map(str::to_owned))
                    .unwrap_or_else(|_| format!("it answers {status}")),
            )),
            Err(ControlError::NotRunning(_)) => {
                let service = if self.is_agent { &remedy::TUNNELS } else { &remedy::DAEMON };
                let text = remedy::not_running(service, &self.run).trim_end().to_owned();
                Err(Fault { code: NOT_RUNNING, text })
            }
            Err(error) => Err(unknown(error.to_string())),
        }
    }
}

/// Shows the daemon that runs in `run`, or the process of tunnels: on the whole terminal until somebody ends it, or with
/// `count`, and where there is no terminal, as a table a second, so many.
pub(super) fn run(run: &Path, is_agent: bool, count: Option<u64>) -> ExitCode {
    let whom = Whom { run: run.into(), is_agent };
    let first = match whom.ask() {
        Ok(first) => first,
        Err(fault) if fault.code == NOT_RUNNING => {
            print(&format!("{}\n", fault.text));
            return NOT_RUNNING.into();
        }
        Err(fault) => {
            complain(&fault.text);
            return fault.code.into();
        }
    };
    let mut shown = Shown::new(first);
    let screen = if count.is_some() { Ok(None) } else { Screen::take() };
    let ended = match screen {
        Ok(Some(screen)) => live(&whom, &mut shown, &screen),
        Ok(None) => tables(&whom, &mut shown, count.unwrap_or(u64::MAX)),
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("nothing more can be shown: {}", reason::words(&error)));
            ExitCode::FAILURE
        }
    }
}

/// What is shown: the last two answers, or why there is none.
struct Shown {
    now: Sample,
    before: Option<Sample>,
    view: View,
    /// Since when there has been no answer, and why.
    away: Option<(Utc, String)>,
    /// That there was none for a while, or that another process answers, and how often it is still said.
    notice: (String, u32),
}

impl Shown {
    fn new(now: Sample) -> Self {
        Shown { now, before: None, view: View::default(), away: None, notice: Default::default() }
    }

    /// There is another answer, or none.
    fn take(&mut self, answer: Result<Sample, Fault>) {
        let (text, left) = &mut self.notice;
        match answer {
            Ok(now) => {
                let is_anew = now.is_anew(&self.now);
                let away = self.away.take();
                let since = away
                    .as_ref()
                    .map(|(since, _)| format!("no answer from {since} to {}", Utc::now()));
                let anew = is_anew.then(|| {
                    format!("another process answers since {}, which counts anew", Utc::now())
                });
                let said: Vec<_> = since.into_iter().chain(anew).collect();
                if said.is_empty() {
                    *left = left.saturating_sub(1);
                } else {
                    (*text, *left) = (said.join("; "), NOTICED);
                }
                let before = std::mem::replace(&mut self.now, now);
                // What moved meanwhile moved at no rate that anybody knows.
                self.before = away.is_none().then_some(before);
            }
            Err(fault) => {
                let (since, _) = self.away.take().unwrap_or((Utc::now(), String::new()));
                self.away = Some((since, fault.text));
                self.before = None;
            }
        }
    }

    fn lines(&mut self, size: Option<[usize; 2]>) -> Vec<(String, bool)> {
        let notice = match (&self.away, &self.notice) {
            (Some((since, why)), _) => format!("no answer since {since}: {why}"),
            (None, (text, 1..)) => text.clone(),
            _ => String::new(),
        };
        self.now.lines(self.before.as_ref(), &notice, &mut self.view, size)
    }
}

/// A table a second.
fn tables(whom: &Whom, shown: &mut Shown, count: u64) -> io::Result<()> {
    let mut due = Instant::now();
    for _ in 0..count {
        due = (due + PERIOD).max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
        shown.take(whom.ask());
        let mut table = String::new();
        for (line, _) in shown.lines(None) {
            table.push_str(&line);
            table.push('\n');
        }
        table.push('\n');
        let mut out = io::stdout().lock();
        out.write_all(table.as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

/// The whole terminal, until somebody ends it.
fn live(whom: &Whom, shown: &mut Shown, screen: &Screen) -> io::Result<()> {
    // Somebody who does not answer must not keep keys and signals waiting.
    let mut asking: Option<Asking> = None;
    let mut due = Instant::now() + PERIOD;
    let mut is_drawn = false;
    loop {
        let size = screen.size();
        if !is_drawn {
            screen.draw(&shown.lines(Some(size)), &shown.now.keys(size[0]))?;
        }
        is_drawn = true;
        let now = Instant::now();
        let mut answer = None;
        if asking.is_none() && now >= due {
            due = now + PERIOD;
            match whom.begin() {
                Ok(begun) => asking = Some(begun),
                Err(error) => answer = Some(Err(error)),
            }
        }
        let file = asking.as_ref().map(|asking| asking.file().as_fd());
        let until = asking.as_ref().map_or(due, Asking::until);
        let event = if answer.is_some() { Event::Time } else { screen.next(file, until)? };
        match (event, &mut asking) {
            (Event::Over, _) => return Ok(()),
            (Event::Keys(keys), _) => {
                is_drawn = false;
                let page = size[1].saturating_sub(8).max(1);
                for key in keys {
                    let skip = &mut shown.view.skip;
                    match key {
                        b'q' => return Ok(()),
                        b'j' => *skip += 1,
                        b'k' => *skip = skip.saturating_sub(1),
                        0x06 => *skip += page,
                        0x02 => *skip = skip.saturating_sub(page),
                        key => shown.now.choose(key, &mut shown.view),
                    }
                }
            }
            (Event::Changed, _) => is_drawn = false,
            (Event::Other, Some(asking)) => answer = asking.go_on().transpose(),
            (_, Some(asking)) if Instant::now() >= asking.until() => {
                answer = Some(Err(asking.late()))
            }
            _ => {}
        }
        if let Some(answer) = answer {
            asking = None;
            is_drawn = false;
            shown.take(whom.read(answer));
        }
    }
}
