//! `top`: the status while it changes, on a terminal and elsewhere (protocol page, section 7, step 14).

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common::*;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// The command, for a shell.
fn top(daemon: &Daemon, more: &str) -> String {
    let words: Vec<_> = binary().iter().map(|word| word.to_string_lossy().into_owned()).collect();
    format!("{} top --run {} {more}", words.join(" "), daemon.run().display())
}

fn named(daemon: &Daemon, name: &str) -> Mapping {
    daemon.api().add(&format!(
        r#"{{"type":"public","maxconnections":60,"heartbeatabsencethreshold":200000,"name":"{name}"}}"#
    ))
}

/// The names of the mappings, in the order in which they are shown.
fn order(screen: &str) -> Vec<&str> {
    let rows = screen.lines().skip_while(|line| !line.contains("MAPPING")).skip(1);
    rows.filter_map(|row| row.split_whitespace().next()).filter(|name| name.len() == 2).collect()
}

#[test]
fn lines_fit_eighty_columns_follow_a_resize_and_are_sorted_by_a_key() {
    let daemon = Daemon::new(Mode::Plain);
    let [_, second] = ["aa", "bb"].map(|name| named(&daemon, name));
    let (_user, _agent) = daemon.session(&second);
    let Some(terminal) = Terminal::open(80, 24) else { return };
    terminal.line(&top(&daemon, ""));
    let screen = terminal.until_shows("q quit");
    let lines: Vec<_> = screen.lines().collect();
    assert!(
        lines[0].starts_with("iofog-connector ") && lines[0].contains("running for"),
        "{screen}"
    );
    assert!(lines[1].starts_with("sessions 1, new "), "{screen}");
    for heading in
        ["*MAPPING", "TUNNELS", "WAITING", "SESSIONS", "NEW/s", "UP/s", "DOWN/s", "STATE"]
    {
        assert!(lines[3].contains(heading), "{heading}: {screen}");
    }
    assert!(
        !screen.contains("PORTS") && lines[23].starts_with("q quit; sort n:mapping"),
        "{screen}"
    );
    assert_eq!(order(&screen), ["aa", "bb"]);
    terminal.key("s");
    until("the one with a session is first", || order(&terminal.screen()) == ["bb", "aa"]);
    assert!(terminal.screen().contains("*SESSIONS"));
    terminal.key("s");
    until("the order is reversed", || order(&terminal.screen()) == ["aa", "bb"]);
    terminal.resize(120, 30);
    let screen = terminal.until_shows("REFUSED/s");
    assert!(screen.contains("PORTS") && screen.contains(&second.port2.to_string()), "{screen}");
    until("the keys are at the bottom", || {
        terminal.screen().lines().nth(29).is_some_and(|line| line.contains("q quit"))
    });
    assert_eq!(terminal.screen().matches("q quit").count(), 1);
    terminal.resize(60, 7);
    let screen = terminal.until_shows("before and");
    assert!(screen.lines().count() <= 7 && order(&screen).len() < 2, "{screen}");
}

#[test]
fn line_that_is_longer_than_the_terminal_ends_in_an_ellipsis() {
    let daemon = Daemon::builder(Mode::Plain).set("userwait", 0).start();
    let mapping = daemon.api().add_public(1, 200_000);
    let mut user = daemon.user(&mapping);
    user.send(b"question");
    user.expect_closed();
    let Some(terminal) = Terminal::open(80, 24) else { return };
    terminal.line(&top(&daemon, ""));
    terminal.until_shows("q quit");
    let begin = format!("{}: user 127.0.0.1 refused", mapping.id);
    let line = eventually("the fault is shown", || {
        let screen = terminal.screen();
        screen.lines().find(|line| line.starts_with(&begin)).map(str::to_owned)
    });
    assert!(line.chars().count() == 80 && line.ends_with('…'), "{line}");
}

#[test]
fn whole_terminal_is_used_and_given_back_as_it_was_however_that_ends() {
    let daemon = Daemon::new(Mode::Plain);
    let Some(terminal) = Terminal::open(80, 24) else { return };
    let children = format!("/proc/{0}/task/{0}/children", terminal.shell());
    let running = || fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok();
    let process = || Pid::from_raw(eventually("it runs", running)).unwrap();
    let settings = |name: &str| {
        let path = terminal.folder().join(name);
        terminal.line(&format!("stty -g > {}", path.display()));
        eventually("the settings are written", || {
            fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'))
        })
    };
    let before = settings("before");
    let ends: [&dyn Fn(); 5] = [
        &|| terminal.key("q"),
        &|| terminal.key("C-c"),
        &|| kill_process(process(), Signal::TERM).unwrap(),
        &|| kill_process(process(), Signal::HUP).unwrap(),
        &|| kill_process(process(), Signal::INT).unwrap(),
    ];
    for (number, end) in ends.iter().enumerate() {
        terminal.line(&format!("{}; echo \"ended {number} with $?\"", top(&daemon, "")));
        terminal.until_shows("q quit");
        assert_eq!(terminal.modes(), "1 0 0", "{number}");
        end();
        let screen = terminal.until_shows(&format!("ended {number} with 0"));
        assert!(!screen.contains("q quit"), "what stood there is there again: {screen}");
        assert_eq!(terminal.modes(), "0 1 1", "{number}");
        assert_eq!(settings(&format!("after {number}").replace(' ', "-")), before, "{number}");
    }
    // A terminal that is taken away.
    terminal.line(&top(&daemon, ""));
    terminal.until_shows("q quit");
    let process = process();
    terminal.close();
    until("it ends", || test_kill_process(process).is_err());
}

#[test]
fn daemon_that_goes_away_is_said_to_and_found_again() {
    let mut daemon = Daemon::new(Mode::Plain);
    named(&daemon, "aa");
    let Some(terminal) = Terminal::open(80, 24) else { return };
    terminal.line(&top(&daemon, ""));
    terminal.until_shows("q quit");
    until("it has run for a while", || !terminal.screen().contains("running for 0 s"));
    daemon.stop();
    let screen = terminal.until_shows("no answer since 20");
    assert!(screen.contains("iofog-connector is not running"), "{screen}");
    daemon.start();
    let screen = terminal.until_shows("no answer from 20");
    assert!(screen.contains("aa ") && !screen.contains("is not running"), "{screen}");
    terminal.key("q");
}

#[test]
fn without_a_terminal_or_on_a_dumb_one_a_table_a_second_is_printed() {
    let mut daemon = Daemon::new(Mode::Plain);
    let mapping = named(&daemon, "aa");
    let (mut user, mut agent) = daemon.session(&mapping);
    let is_over = AtomicBool::new(false);
    let output = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                user.send(&[7; 1000]);
                agent.exactly(1000);
                thread::sleep(ms(5));
            }
        });
        let output = daemon.cli(&["top", "--count", "2"]);
        is_over.store(true, Ordering::Relaxed);
        output
    });
    assert!(output.status.success(), "{output:?}");
    let said = text(&output);
    assert!(!said.contains('\u{1b}'), "{said}");
    assert_eq!(said.matches("MAPPING").count(), 2, "{said}");
    for row in said.lines().filter(|line| line.starts_with("aa ")) {
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!((words[1], words[3]), ("0/1/60", "1"), "{said}");
        assert!(words[5] != "0" && words[5] != "-", "bytes a second from the user: {said}");
        assert_eq!(words[7..9], ["0", "B"], "none from the agent: {said}");
    }
    // Whoever reads it has seen enough.
    let command = format!("({}; echo \"ended with $?\" >&2) | head -n 1", top(&daemon, ""));
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    assert!(text(&output).ends_with("ended with 0\n"), "{output:?}");
    if let Some(terminal) = Terminal::open(80, 24) {
        terminal.line(&format!("TERM=dumb {}", top(&daemon, "")));
        terminal.until_shows("MAPPING");
        assert_eq!(terminal.modes(), "0 1 1");
        terminal.key("C-c");
    }
    daemon.stop();
    let output = daemon.cli(&["top"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text(&output).contains("is not running"), "{output:?}");
}

/// Answers on the control socket of `folder` with these, each as long as there is another behind it.
fn stands_in(folder: &Folder, answers: &[(u16, String)]) {
    let listener = UnixListener::bind(folder.join("control.sock")).unwrap();
    let answers = answers.to_vec();
    thread::spawn(move || {
        for number in 0.. {
            let Ok((mut caller, _)) = listener.accept() else { return };
            let (status, body) = &answers[number.min(answers.len() - 1)];
            let mut request = [0; 4096];
            let _ = caller.read(&mut request);
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n");
            let _ = caller.write_all((head + body).as_bytes());
        }
    });
}

#[test]
fn names_and_faults_are_shown_without_control_characters() {
    let daemon = Daemon::new(Mode::Plain);
    named(&daemon, "name-of-a-mapping");
    let state = daemon.control().get("/api/v2/status").json().to_string();
    let folder = Folder::new();
    let evil = r"\u001b[31mevil\n\u009b2J\u202e";
    let state = state.replace("name-of-a-mapping", evil);
    assert!(state.contains("evil"));
    let fault = format!(r#"{{"errormessage":"{evil} fault"}}"#);
    stands_in(&folder, &[(200, state.clone()), (200, state), (503, fault)]);
    let output = run_cli(&["top", "--count", "2", "--run", folder.to_str().unwrap()]);
    let said = text(&output);
    assert!(said.contains(r"\u{1b}[31mevil\n\u{9b}2J\u{202e}"), "{said}");
    assert!(said.contains(r"2J\u{202e} fault"), "{said}");
    let is_bad = |char: char| (char.is_control() && char != '\n') || char == '\u{202e}';
    assert!(!said.contains(is_bad), "{said:?}");
    // The same where the first answer is a fault.
    let folder = Folder::new();
    stands_in(&folder, &[(503, format!(r#"{{"errormessage":"{evil} fault"}}"#))]);
    let output = run_cli(&["top", "--run", folder.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(text(&output).contains("fault") && !text(&output).contains(is_bad), "{output:?}");
}
