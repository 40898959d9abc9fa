//! What the person at the terminal can do: commands as that person must give them.

use std::env;
use std::path::Path;

use rustix::process::geteuid;

use crate::config::folders::{RUN, TUNNELS_RUN};

/// What runs in the background.
pub(super) struct Service {
    /// As systemd and init scripts call it.
    name: &'static str,
    /// What runs it by hand.
    command: &'static str,
    /// Its run folder as a service.
    run: &'static str,
}

pub(super) const DAEMON: Service =
    Service { name: "iofog-connector", command: "iofog-connector start", run: RUN };

pub(super) const TUNNELS: Service = Service {
    name: "iofog-connector-tunnels",
    command: "iofog-connector tunnels",
    run: TUNNELS_RUN,
};

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

/// That the service does not run in the run folder `run`, and the command that starts it.
pub(super) fn not_running(service: &Service, run: &Path) -> String {
    let start = start(service, run, Path::new("/"), sudo());
    format!("{} is not running; `{start}` starts it\n", service.name)
}

/// That `verb` is nothing for this program, and the command of the init system that does it.
pub(super) fn is_the_services(service: &Service, verb: &str) -> String {
    let name = service.name;
    let order = order(service, verb, Path::new("/"), sudo());
    let order =
        order.unwrap_or_else(|| format!("systemctl {verb} {name}`, or `service {name} {verb}"));
    format!("{verb} is the service's: `{order}`")
}

/// The command that starts the service in the run folder `run` on the machine whose files are in
/// `root`.
fn start(service: &Service, run: &Path, root: &Path, sudo: &str) -> String {
    // The service has the usual folders.
    if run != Path::new(service.run) {
        return format!("{} --run {}", service.command, run.display());
    }
    order(service, "start", root, sudo).unwrap_or_else(|| format!("{sudo}{}", service.command))
}

/// What has the init system of the machine whose files are in `root` do `verb`; `None` where it does
/// not have the service.
fn order(service: &Service, verb: &str, root: &Path, sudo: &str) -> Option<String> {
    let name = service.name;
    let is_there = |file: &str| root.join(file).exists();
    let has_unit = || UNITS.iter().any(|folder| is_there(&format!("{folder}/{name}.service")));
    if is_there("run/systemd/system") && has_unit() {
        return Some(format!("{sudo}systemctl {verb} {name}"));
    }
    // A supervised service of runit's, whose link says that it is enabled.
    if ["etc/service", "service", "var/service"]
        .iter()
        .any(|all| is_there(&format!("{all}/{name}/run")))
    {
        return Some(format!("{sudo}sv {verb} {name}"));
    }
    // Debian's `service` marks an OpenRC service as started, and starts nothing.
    if is_there("run/openrc/softlevel") && is_there(&format!("etc/init.d/{name}")) {
        return Some(format!("{sudo}rc-service {name} {verb}"));
    }
    // Which BusyBox alone has not.
    let has_command = || is_there("usr/sbin/service") || is_there("sbin/service");
    is_there(&format!("etc/init.d/{name}")).then(|| match has_command() {
        true => format!("{sudo}service {name} {verb}"),
        false => format!("{sudo}/etc/init.d/{name} {verb}"),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::folder::Folder;

    #[test]
    fn not_running_says_how_to_start_by_what_is_there() {
        for service in [&DAEMON, &TUNNELS] {
            let root = Folder::new();
            let make = |name: &str| {
                let path = root.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            };
            let start = |run: &str, sudo| start(service, Path::new(run), &root, sudo);
            let start_here = || start(service.run, "sudo ");
            let (name, command) = (service.name, service.command);
            assert_eq!(start_here(), format!("sudo {command}"));
            make(&format!("etc/init.d/{name}"));
            assert_eq!(start_here(), format!("sudo /etc/init.d/{name} start"));
            make("usr/sbin/service");
            assert_eq!(start_here(), format!("sudo service {name} start"));
            make("run/openrc/softlevel");
            assert_eq!(start_here(), format!("sudo rc-service {name} start"));
            make(&format!("etc/service/{name}/run"));
            assert_eq!(start_here(), format!("sudo sv start {name}"));
            fs::remove_dir_all(root.join("etc/service")).unwrap();
            fs::remove_dir_all(root.join("run/openrc")).unwrap();
            make(&format!("lib/systemd/system/{name}.service"));
            assert_eq!(start_here(), format!("sudo service {name} start"), "systemd does not run");
            make("run/systemd/system/x");
            assert_eq!(start_here(), format!("sudo systemctl start {name}"));
            assert_eq!(start(service.run, ""), format!("systemctl start {name}"));
            assert_eq!(start("/r", "sudo "), format!("{command} --run /r"));
        }
    }
}
