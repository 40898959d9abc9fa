//! What the person at the terminal can do: commands as that person must give them.

use std::env;
use std::path::Path;

use rustix::process::geteuid;

use crate::config::folders::Options;

/// Where units are, of the package and of `make install`.
const UNITS: [&str; 4] = [
    "lib/systemd/system",
    "usr/lib/systemd/system",
    "usr/local/lib/systemd/system",
    "etc/systemd/system",
];

/// `sudo `, or nothing for who is root without it.
pub(super) fn sudo() -> &'static str {
    let is_called_by = env::var_os("SUDO_USER").is_some_and(|user| user != "root");
    if geteuid().is_root() && !is_called_by { "" } else { "sudo " }
}

/// That the daemon of the run folder `run` does not run, and the command that starts it.
pub(super) fn not_running(run: &Path) -> String {
    let start = start(run, Path::new("/"), sudo());
    format!("iofog-connector is not running; `{start}` starts it\n")
}

/// The command that starts the daemon of the run folder `run` on the machine whose files are in
/// `root`.
fn start(run: &Path, root: &Path, sudo: &str) -> String {
    let is_there = |file: &str| root.join(file).exists();
    let has_unit =
        || UNITS.iter().any(|folder| is_there(&format!("{folder}/iofog-connector.service")));
    match () {
        // The service has the usual folders.
        () if run != Options::default().run_dir => {
            format!("iofog-connector start --run {}", run.display())
        }
        () if is_there("run/systemd/system") && has_unit() => {
            format!("{sudo}systemctl start iofog-connector")
        }
        () if is_there("etc/init.d/iofog-connector") => {
            format!("{sudo}service iofog-connector start")
        }
        () => format!("{sudo}iofog-connector start"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::folder::Folder;

    #[test]
    fn not_running_says_how_to_start_by_what_is_there() {
        let root = Folder::new();
        let make = |name: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        let run = Options::default().run_dir;
        let start_here = || start(&run, &root, "sudo ");
        assert_eq!(start_here(), "sudo iofog-connector start");
        make("etc/init.d/iofog-connector");
        assert_eq!(start_here(), "sudo service iofog-connector start");
        make("lib/systemd/system/iofog-connector.service");
        assert_eq!(start_here(), "sudo service iofog-connector start", "systemd does not run");
        make("run/systemd/system/x");
        assert_eq!(start_here(), "sudo systemctl start iofog-connector");
        assert_eq!(start(&run, &root, ""), "systemctl start iofog-connector");
        let other = start(Path::new("/r"), &root, "sudo ");
        assert_eq!(other, "iofog-connector start --run /r");
    }
}
