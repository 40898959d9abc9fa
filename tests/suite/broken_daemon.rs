//! A daemon, or a process of tunnels, into which somebody has broken: what it answers on its socket is a stranger's, and
//! who asks it is often root.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Output;
use std::thread;

use crate::common::*;
use serde_json::{Value, json};

/// Whoever answers on the sockets in a run folder, and another folder, which is in it.
struct Broken {
    run: Folder,
    files: PathBuf,
}

impl Broken {
    /// Answers the question for the status with `state`, and all others with `rest`.
    fn new(state: impl ToString, status: u16, rest: impl ToString) -> Self {
        let run = Folder::new();
        for socket in ["control.sock", "tunnels.sock"] {
            let listener = UnixListener::bind(run.join(socket)).unwrap();
            let (state, rest) = (state.to_string(), rest.to_string());
            thread::spawn(move || {
                while let Ok((mut caller, _)) = listener.accept() {
                    let mut request = [0; 4096];
                    let count = caller.read(&mut request).unwrap_or_default();
                    let asked = String::from_utf8_lossy(&request[..count]);
                    let is_status = asked.starts_with("GET /api/v2/status ");
                    let (status, body) = if is_status { (200, &state) } else { (status, &rest) };
                    let length = body.len();
                    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n");
                    let _ = caller.write_all((head + body).as_bytes());
                }
            });
        }
        let files = run.join("files");
        fs::create_dir(&files).unwrap();
        Broken { run, files }
    }

    /// Gives a command its run folder, and the other one where it writes files.
    fn asked(&self, words: &str) -> Output {
        let mut words: Vec<_> = words.split_whitespace().collect();
        words.extend(["--run", self.run.to_str().unwrap()]);
        if words[0] == "mapping" && ["add", "passcode", "remove"].contains(&words[1]) {
            words.extend(["--dir", self.files.to_str().unwrap()]);
        }
        run_cli(&words)
    }

    /// The command is refused, and nothing is written.
    #[track_caller]
    fn refused(&self, words: &str, why: &str) {
        let output = self.asked(words);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{words}: {said}");
        assert!(said.contains(why) && said.contains("restart it"), "{words}: {said}");
        assert!(!said.contains("EVIL"), "{words}: {said}");
        assert_eq!(self.files.read_dir().unwrap().count(), 0, "{words}: {said}");
        let mut names = self.run.names();
        names.sort();
        assert_eq!(names, ["control.sock", "files", "tunnels.sock"], "{words}");
    }
}

/// What a sound daemon says of itself, with a mapping `ssh`.
fn state() -> Value {
    let daemon = Daemon::new(Mode::Plain);
    let limits = r#""maxconnections":60,"heartbeatabsencethreshold":60000"#;
    daemon.api().add(&format!(r#"{{"type":"public",{limits},"name":"ssh"}}"#));
    daemon.api().state()
}

/// What a sound daemon answers to `mapping add` and `mapping passcode`.
fn added() -> Value {
    json!({"status": "ok", "id": "an-id", "port1": 6000, "port2": 6001, "passcode1": "pc-1", "passcode2": "pc-2",
        "side": 1, "port": 6000, "passcode": "pc", "timestamp": 1})
}

const PASSCODE: &str = "mapping passcode an-id --side 1";
const ADD: &str = "mapping add public --name other";
const ADD_SHOWN: &str = "mapping add private --show";

#[test]
fn stand_in_for_a_sound_daemon_gets_its_files_written() {
    let mut state = state();
    state["mappings"][0]["id"] = json!("an-id");
    let broken = Broken::new(&state, 200, added());
    for words in [PASSCODE, ADD, ADD_SHOWN] {
        let output = broken.asked(words);
        assert_eq!(output.status.code(), Some(0), "{words}: {}", text(&output));
    }
    let tunnel = fs::read_to_string(broken.files.join("ssh.tunnel")).unwrap();
    assert!(tunnel.contains("\npasscode=pc\n"), "{tunnel}");
    assert_eq!(broken.files.read_dir().unwrap().count(), 4);
}

#[test]
fn name_from_a_broken_daemon_is_no_path() {
    for name in
        ["../EVIL", "/../../../../../../../../tmp/EVIL", "a/b", "..", "EVIL", "a\nEVIL", "a b", ""]
    {
        let mut state = state_once();
        state["mappings"][0]["options"]["name"] = json!(name);
        let broken = Broken::new(&state, 200, added());
        for words in [PASSCODE, "mapping remove an-id"] {
            broken.refused(words, "a mapping's name in it is not one that the API accepts");
        }
    }
}

#[test]
fn lines_from_a_broken_daemon_get_into_no_file_and_no_command() {
    let line = "x\nsandbox=off\nproxy=http://EVIL:9";
    let blank = "x; EVIL";
    for text in [line, blank, "x\u{85}EVIL", "$(EVIL)", "'EVIL"] {
        for (name, why, commands) in [
            (
                "address",
                "address in it is not an IP address or a domain name",
                &[PASSCODE, ADD, ADD_SHOWN][..],
            ),
            (
                "certificate",
                "certificate in it is not the SHA-256 fingerprint",
                &[PASSCODE, ADD, ADD_SHOWN],
            ),
        ] {
            let mut state = state_once();
            state[name] = json!(text);
            let broken = Broken::new(&state, 200, added());
            commands.iter().for_each(|words| broken.refused(words, why));
        }
        for (name, commands) in [
            ("passcode", &[PASSCODE, "mapping passcode an-id --side 1 --show"][..]),
            ("passcode1", &[ADD, ADD_SHOWN]),
            ("passcode2", &[ADD_SHOWN]),
            ("id", &[ADD, ADD_SHOWN]),
        ] {
            let mut added = added();
            added[name] = json!(text);
            let broken = Broken::new(state_once(), 200, added);
            let why = format!("{name} in it is not at most 128 letters, digits and -");
            commands.iter().for_each(|words| broken.refused(words, &why));
        }
    }
    for allowed in [0, 65536 + 7] {
        let mut state = state_once();
        state["mappings"][0]["sides"][0]["tunnels"]["allowed"] = json!(allowed);
        let broken = Broken::new(&state, 200, added());
        broken
            .refused(PASSCODE, "the number of tunnels that a side allows in it is not 1 to 65535");
    }
}

/// As [`state`], of one daemon for all, whose mapping has the id `an-id`.
fn state_once() -> Value {
    static STATE: std::sync::OnceLock<Value> = std::sync::OnceLock::new();
    let state = STATE.get_or_init(|| {
        let mut state = state();
        state["mappings"][0]["id"] = json!("an-id");
        state
    });
    state.clone()
}

/// What moves a terminal, turns a line, or begins another one.
const EVIL: &str = "evil\u{1b}]0;T\u{7}\u{1b}[31m\u{9b}2J\u{202e}\r\u{7f}\nSECOND";

/// Each string of a value, but for keys, with [`EVIL`] behind it.
fn evil(value: &Value) -> Value {
    match value {
        Value::String(text) => json!(format!("{text}{EVIL}")),
        Value::Array(all) => all.iter().map(evil).collect(),
        Value::Object(all) => all.iter().map(|(name, value)| (name.clone(), evil(value))).collect(),
        other => other.clone(),
    }
}

#[test]
fn what_a_broken_daemon_says_moves_no_terminal_and_forges_no_line() {
    let mut state = state_once();
    for name in ["lastError", "url"] {
        state["mappings"][0][name] = json!("x");
    }
    state["mappings"][0]["sides"][0] =
        json!({"port": 6000, "open": false, "fault": "x", "tunnels": null});
    state["warnings"] = json!(["x"]);
    let mut sound = state.clone();
    for name in ["address", "certificate"] {
        state[name] = json!("x");
    }
    sound["mappings"][0]["id"] = json!(format!("an-id{EVIL}"));
    let tunnels =
        json!({"folder": "x", "tunnels": [{"name": "a", "state": "x", "lastError": "x"}]});
    let told =
        evil(&json!({"response": "x", "errormessage": "x", "id": "x", "passcode": "x", "port": 1,
        "port1": 1, "port2": 2, "passcode1": "x", "passcode2": "x", "folder": "x",
        "tunnels": tunnels["tunnels"]}));
    // Nor what is no JSON at all.
    let none = format!("{{\"a\":\"{EVIL}");
    let mut seen = 0;
    for (state, status, rest) in [
        (evil(&state).to_string(), 200, told.to_string()),
        (sound.to_string(), 200, told.to_string()),
        (sound.to_string(), 409, told.to_string()),
        (none.clone(), 200, none.clone()),
        (sound.to_string(), 500, none),
    ] {
        let broken = Broken::new(&state, status, &rest);
        for words in [
            "status",
            "status --wide",
            "status --events",
            "status --json",
            "status --json --events",
            "tunnels status",
            "tunnels status --json",
            "top --count 1",
            "top --agent --count 1",
            "upgrade",
            "dump",
            "stop",
            "mapping list",
            "mapping list --wide",
            "mapping show ssh",
            "mapping change ssh --users plain",
            "mapping change ssh --name new",
            "mapping passcode ssh --side 1",
            "mapping passcode ssh --side 1 --show",
            "mapping remove ssh",
            ADD,
            ADD_SHOWN,
        ] {
            let output = broken.asked(words);
            let said = text(&output);
            let is_bad = |char: char| (char.is_control() && char != '\n') || char == '\u{202e}';
            assert!(!said.contains(is_bad), "{words}: {said:?}");
            let starts =
                |line: &str| line.trim_start_matches("iofog-connector: ").starts_with("SECOND");
            let is_json = words.contains("--json") && serde_json::from_str::<Value>(&rest).is_err();
            assert!(is_json || !said.lines().any(starts), "{words}: {said}");
            seen += usize::from(said.contains(r"evil\u{1b}]0;T"));
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn json_of_a_broken_daemon_is_json_that_says_what_it_said() {
    // Raw where JSON allows it.
    let raw = |value: &Value| value.to_string().replace("\\u007f", "\u{7f}");
    let (state, rest) = (evil(&state_once()), evil(&json!({"folder": "x", "tunnels": []})));
    let broken = Broken::new(raw(&state), 200, raw(&rest));
    for (words, expected) in [
        ("status --json", state.clone()),
        ("status --json --events", json!({"events": state["events"]})),
        ("tunnels status --json", rest),
    ] {
        let output = broken.asked(words);
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(printed, expected, "{words}");
        let said = text(&output);
        assert!(said.contains("\\u001b") && said.contains("\\u009b2J\\u202e"), "{words}: {said}");
    }
}
