//! A terminal of tmux, in which a test types and reads what stands there.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::{Folder, not_installed, until};

/// A terminal with a shell in it; both end when this is dropped.
pub struct Terminal {
    folder: Folder,
    socket: PathBuf,
}

impl Terminal {
    /// Opens one of this size; `None`, and it is said, where tmux is not installed.
    pub fn open(columns: usize, lines: usize) -> Option<Self> {
        if Command::new("tmux").arg("-V").output().is_err() {
            not_installed("tmux");
            return None;
        }
        let folder = Folder::new();
        let socket = folder.join("tmux");
        folder.file("settings", "set -g status off\n", 0o600);
        let terminal = Terminal { folder, socket };
        let [columns, lines] = [columns, lines].map(|count| count.to_string());
        let shell = "env PS1='$ ' sh";
        let opened = terminal.tmux(&["new-session", "-d", "-x", &columns, "-y", &lines, shell]);
        assert!(opened.status.success(), "{opened:?}");
        until("the shell is ready", || terminal.screen().contains("$"));
        Some(terminal)
    }

    fn tmux(&self, words: &[&str]) -> Output {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(&self.socket).arg("-u").arg("-f").arg(self.folder.join("settings"));
        tmux.args(words);
        tmux.env_remove("TMUX").env("TERM", "xterm").stdin(Stdio::null());
        tmux.output().expect("tmux")
    }

    /// A folder that is this terminal's own.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Types a command.
    pub fn line(&self, command: &str) {
        self.tmux(&["send-keys", "-l", command]);
        self.key("Enter");
    }

    /// Presses a key, as tmux calls it.
    pub fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Gives it another size.
    pub fn resize(&self, columns: usize, lines: usize) {
        let [columns, lines] = [columns, lines].map(|count| count.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &lines]);
    }

    /// What stands there, a line each.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p"]).stdout).into_owned()
    }

    /// Waits until this stands there, and gives all that does.
    #[track_caller]
    pub fn until_shows(&self, what: &str) -> String {
        let mut screen = String::new();
        until(&format!("{what:?} stands there"), || {
            screen = self.screen();
            screen.contains(what)
        });
        screen
    }

    /// What tmux knows of it: whether it shows its other page, the cursor, and wraps lines.
    pub fn modes(&self) -> String {
        let format = "#{alternate_on} #{cursor_flag} #{wrap_flag}";
        let output = self.tmux(&["display-message", "-p", format]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The number of its shell's process.
    pub fn shell(&self) -> u32 {
        let output = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
    }

    /// Takes the terminal away from whoever has it.
    pub fn close(&self) {
        self.tmux(&["kill-server"]);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the terminal\n{}", self.screen());
        }
        self.close();
    }
}
