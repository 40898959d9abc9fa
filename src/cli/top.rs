//! `top`: what `status` and `tunnels status` tell, again every second, as rates.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::asking::{Answer, understood};
use super::control::{self, ControlError};
use super::exit::{NOT_RUNNING, UNKNOWN};
use super::remedy;
use crate::config::folders::{SOCKET, TUNNELS_SOCKET};
use crate::limits;
use crate::logging::Utc;
use crate::os::screen::{Event, Screen};
use crate::os::terminal::{complain, print};
use crate::report::live::{Sample, View};
use crate::text::line::escaped;
use crate::text::reason;

/// Time from one answer to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// For how many answers it is said that there was none for a while.
const NOTICED: u32 = 30;

/// Whom is asked.
#[derive(Clone)]
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
    fn ask(&self) -> Result<Sample, Fault> {
        let (socket, path) = match self.is_agent {
            true => (TUNNELS_SOCKET, "/"),
            false => (SOCKET, "/api/v2/status"),
        };
        let socket = self.run.join(socket);
        let answer = control::call_within(limits::STATUS_WAIT, &socket, "GET", path, "");
        let at = Instant::now();
        let unknown = |text| Fault { code: UNKNOWN, text };
        match answer {
            Ok((200, answer)) => {
                let read = if self.is_agent { Sample::of_tunnels } else { Sample::of_daemon };
                understood(read(&answer, at)).map_err(unknown)
            }
            Ok((status, answer)) => Err(unknown(
                Answer::read(&answer)
                    .and_then(|why| why.text("errormessage").map(str::to_owned))
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
            complain(escaped(&fault.text));
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
    let (tell, mut told) = UnixStream::pair()?;
    // Somebody who does not answer must not keep keys and signals waiting.
    let ask = || {
        let (whom, mut tell) = (whom.clone(), tell.try_clone()?);
        thread::Builder::new().spawn(move || {
            let answer = whom.ask();
            let _ = tell.write_all(&[0]);
            answer
        })
    };
    let mut asking: Option<JoinHandle<Result<Sample, Fault>>> = None;
    let mut due = Instant::now() + PERIOD;
    loop {
        let size = screen.size();
        screen.draw(&shown.lines(Some(size)), &shown.now.keys(size[0]))?;
        if asking.is_none() && Instant::now() >= due {
            asking = Some(ask()?);
            due = Instant::now() + PERIOD;
        }
        // While one is asked, its answer comes first.
        let until = if asking.is_some() { Instant::now() + PERIOD } else { due };
        match screen.next(&told, until)? {
            Event::Over => return Ok(()),
            Event::Keys(keys) => {
                for key in keys {
                    let view = &mut shown.view;
                    let page = size[1].saturating_sub(8).max(1);
                    match key {
                        b'q' => return Ok(()),
                        b'j' => view.skip += 1,
                        b'k' => view.skip = view.skip.saturating_sub(1),
                        0x06 => view.skip += page,
                        0x02 => view.skip = view.skip.saturating_sub(page),
                        key => _ = shown.now.choose(key, view),
                    }
                }
            }
            Event::Other => {
                told.read_exact(&mut [0])?;
                if let Some(Ok(answer)) = asking.take().map(JoinHandle::join) {
                    shown.take(answer);
                }
            }
            Event::Changed | Event::Time => {}
        }
    }
}
