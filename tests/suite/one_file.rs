//! The one file that has to be copied to an agent's machine: what `mapping add` writes, and where `tunnel install` puts
//! it (protocol page, section 7, steps 6 and 10).

use std::fs;
use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::*;

in_both_modes!(
    file_that_mapping_add_writes_is_all_that_a_tunnel_needs,
    each_side_of_a_private_pipe_has_its_file,
);

/// A running `tunnel`; it ends when this is dropped.
struct Tunnel(Child);

impl Tunnel {
    fn start(arguments: &[&str]) -> Self {
        let command = binary();
        let child = Command::new(&command[0])
            .args(&command[1..])
            .arg("tunnel")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Tunnel(child.unwrap())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder for the files, and what `mapping add` says.
fn add(daemon: &Daemon, arguments: &[&str]) -> (PathBuf, String) {
    let folder = daemon.folder().join("files");
    fs::create_dir_all(&folder).unwrap();
    let all = [&["mapping", "add"], arguments, &["--dir", folder.to_str().unwrap()]].concat();
    let output = daemon.cli(&all);
    assert!(output.status.success(), "{}", text(&output));
    (folder, text(&output))
}

/// The lines of a tunnel file that are no comments.
fn lines(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn greeter() -> Service {
    Service::new(|mut socket| {
        let _ = socket.write_all(b"220 hello\n");
        let _ = socket.shutdown(Shutdown::Write);
    })
}

fn file_that_mapping_add_writes_is_all_that_a_tunnel_needs(mode: Mode) {
    let daemon = Daemon::new(mode);
    let (folder, said) = add(&daemon, &["public", "--name", "ssh", "--users", "plain"]);
    let file = folder.join("ssh.tunnel");
    let state = daemon.control().state();
    let [agents, users] =
        [0, 1].map(|side| state["mappings"][0]["sides"][side]["port"].to_string());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let passcode = fs::read_to_string(folder.join(format!("iofog-{agents}.passcode"))).unwrap();
    assert!(!said.contains(passcode.trim()), "the passcode is shown only when asked for");
    let mut expected =
        vec![format!("connector=127.0.0.1:{agents}"), format!("passcode={}", passcode.trim())];
    expected.push(match mode {
        Mode::Plain => "plain".to_owned(),
        Mode::Tls => {
            let log = daemon.log_text();
            let (_, shown) = log.split_once("SHA-256 fingerprint ").unwrap();
            format!("pin=SHA256:{}", shown.split_whitespace().next().unwrap())
        }
    });
    assert_eq!(lines(&file), expected);
    let command = format!("sudo iofog-connector tunnel install {} --target", file.display());
    assert!(said.contains(&command), "{said}");

    let service = greeter();
    let target = service.address.to_string();
    let _tunnel = Tunnel::start(&["--from", file.to_str().unwrap(), "--target", &target]);
    let user = SocketAddr::from(([127, 0, 0, 1], users.parse().unwrap()));
    Link::plain(user).unwrap().expect(b"220 hello\n");
}

fn each_side_of_a_private_pipe_has_its_file(mode: Mode) {
    let daemon = Daemon::new(mode);
    let (folder, said) =
        add(&daemon, &["private", "--connections", "3", "--heartbeat-threshold", "6000"]);
    let state = daemon.control().state();
    let ports = [0, 1].map(|side| state["mappings"][0]["sides"][side]["port"].to_string());
    let [one, two] = ports.map(|port| folder.join(format!("iofog-{port}.tunnel")));
    assert!(lines(&one).ends_with(&["connections=3".into(), "heartbeat=2000".into()]));
    assert_eq!(lines(&two).last().unwrap(), "heartbeat=2000");
    assert_eq!(lines(&two).len(), 4, "nothing that does not belong to --listen");
    for (file, work) in [(&one, "--target localhost:PORT"), (&two, "--listen 127.0.0.1:PORT")] {
        assert!(said.contains(&format!("install {} {work}\n", file.display())), "{said}");
    }
    let service = greeter();
    let target = service.address.to_string();
    let block = PortBlock::take(1);
    let local = at(block.first).to_string();
    let _target = Tunnel::start(&["--from", one.to_str().unwrap(), "--target", &target]);
    let _listen = Tunnel::start(&["--from", two.to_str().unwrap(), "--listen", &local]);
    let local: SocketAddr = local.parse().unwrap();
    eventually("it listens", || Link::plain(local).ok()).expect(b"220 hello\n");

    let (folder, _) = add(&daemon, &["private", "--name", "db"]);
    assert!(folder.join("db-1.tunnel").exists() && folder.join("db-2.tunnel").exists());
}

#[test]
fn files_belong_to_whoever_has_called_sudo() {
    let daemon = Daemon::new(Mode::Plain);
    let folder = daemon.folder().join("files");
    fs::create_dir(&folder).unwrap();
    if fs::metadata(&folder).unwrap().uid() != 0 {
        could_not_run("not root");
        return;
    }
    let command = binary();
    let output = Command::new(&command[0])
        .args(&command[1..])
        .args(["mapping", "add", "public", "--name", "ssh", "--dir", folder.to_str().unwrap()])
        .args(["--run", daemon.run().to_str().unwrap()])
        .envs([("SUDO_UID", "4321"), ("SUDO_GID", "4322")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let found: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(found.len(), 2);
    for file in found {
        let is = file.metadata().unwrap();
        let path = file.path();
        assert_eq!((is.uid(), is.gid(), is.mode() & 0o777), (4321, 4322, 0o600), "{path:?}");
    }
}

/// What is in a tunnel file.
const TEXT: &str = "# one side\nconnector=c.example:6000\npasscode=s3cret\nconnections=2\n";

fn install(arguments: &[&str]) -> (Option<i32>, String) {
    let output = run_cli(&[&["tunnel", "install"], arguments].concat());
    (output.status.code(), text(&output))
}

#[test]
fn install_puts_the_file_where_the_service_reads_it() {
    let own = Folder::new();
    let file = own.file("ssh.tunnel", TEXT, 0o600);
    let file = file.to_str().unwrap();
    let dir = own.join("etc/tunnels");
    let to = ["--dir", dir.to_str().unwrap()];
    let (status, said) = install(&[&[file, "--target", "localhost:22"], &to[..]].concat());
    let installed = dir.join("ssh.conf");
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.contains(&format!("iofog-connector tunnel --from {}", installed.display())),
        "{said}"
    );
    assert!(!said.contains("s3cret"), "{said}");
    assert_eq!(fs::read_to_string(&installed).unwrap(), format!("{TEXT}target=localhost:22\n"));
    let (folder, found) = (fs::metadata(&dir).unwrap(), fs::metadata(&installed).unwrap());
    assert_eq!((folder.mode() & 0o7027, found.mode() & 0o7137), (0, 0), "others see nothing");
    assert_eq!(found.mode() & 0o600, 0o600);

    // The same again changes nothing; another one needs to be told that it may.
    let (status, said) = install(&[&[file, "--target", "localhost:22"], &to[..]].concat());
    assert_eq!(status, Some(0), "{said}");
    let other = [&[file, "--target", "localhost:2222"], &to[..]].concat();
    let (status, said) = install(&other);
    assert_eq!(status, Some(1));
    assert!(said.contains("is there already, with another tunnel; add --replace"), "{said}");
    // One that was killed has left this.
    fs::write(dir.join(".ssh.new"), "passcode=").unwrap();
    let (status, said) = install(&[&other[..], &["--replace"]].concat());
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(fs::read_to_string(&installed).unwrap(), format!("{TEXT}target=localhost:2222\n"));
    let (status, said) = install(&[&other[..], &["--name", "ssh.2"]].concat());
    assert_eq!(status, Some(0), "{said}");
    let names: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing else is left: {names:?}");
    // An installed file serves as the source of another one, and what is given takes its place.
    let private = dir.join("ssh.conf");
    let (status, said) = install(
        &[&[private.to_str().unwrap(), "--name", "b", "--target", "t:1"], &to[..]].concat(),
    );
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(fs::read_to_string(dir.join("b.conf")).unwrap(), format!("{TEXT}target=t:1\n"));
}

#[test]
fn install_lets_the_service_read_what_is_new_and_what_is_there_already() {
    let script = "echo iofog-connector:x:4320:4321::/:/bin/false >/etc/passwd
        look() { stat -c '%n %u:%g %a' /etc/iofog-connector/tunnels /etc/iofog-connector/tunnels/ssh.conf; }
        \"$@\" tunnel install ssh.tunnel --target localhost:22; look >>\"$LOG\"
        cd /etc/iofog-connector/tunnels; chmod 600 ssh.conf; chown 0:0 ssh.conf; cd -
        \"$@\" tunnel install ssh.tunnel --target localhost:22; look >>\"$LOG\"";
    let Some((said, found)) = on_own_machine(script) else { return };
    let folder = "/etc/iofog-connector/tunnels";
    let each = format!("{folder} 0:4321 750\n{folder}/ssh.conf 0:4321 640\n");
    assert_eq!(found, each.repeat(2), "{said}");
}

#[test]
fn install_checks_first_and_changes_nothing_after_a_fault() {
    let own = Folder::new();
    let dir = own.join("tunnels");
    let good = own.file("good.tunnel", TEXT, 0o600);
    let good = good.to_str().unwrap();
    let file = |name: &str, text: &str| own.file(name, text, 0o600).to_str().unwrap().to_owned();
    let odd = file("odd name.tunnel", TEXT);
    let wrong = file("wrong.tunnel", &format!("{TEXT}conector=c:1\n"));
    let relative = file("relative.tunnel", &format!("{TEXT}ca=server-cert.pem\n"));
    let listening = file("listening.tunnel", &format!("{TEXT}listen=127.0.0.1:1\n"));
    let passcode = file("iofog-1.passcode", "s3cret\n");
    let of_public = file("public.tunnel", &format!("# One side of a public pipe.\n{TEXT}"));
    let missing = own.join("none.tunnel");
    for (arguments, status, fault) in [
        (&[good][..], 2, "--target HOST:PORT (the service that users are to reach) or"),
        (&[good, "--target", "t"], 2, "--target: \"t\" has no port"),
        (&[good, "--target", "t:1", "--listen", "127.0.0.1:1"], 2, "--target and --listen exclude"),
        (&[&listening, "--target", "t:1"], 2, "--target and --listen exclude"),
        (&[good, "--target", "t:1", "--name", "../x"], 2, "\"../x\" cannot be a tunnel's name"),
        (&[good, "--target", "t:1", "--name", ".x"], 2, "\".x\" cannot be a tunnel's name"),
        (&[&odd, "--target", "t:1"], 2, "\"odd name\" cannot be a tunnel's name"),
        (&[&wrong, "--target", "t:1"], 2, "line 5: unknown option: did you mean connector?"),
        (&[&relative, "--target", "t:1"], 2, "server-cert.pem is the name of a file from some"),
        (&[missing.to_str().unwrap(), "--target", "t:1"], 2, "it does not exist"),
        (&[&passcode, "--target", "t:1"], 2, "the .tunnel file that `mapping add` has written"),
        (&[&of_public, "--listen", "127.0.0.1:1"], 2, "it is of a public pipe"),
        (&[good.trim_end_matches(".tunnel"), "--target", "t:1"], 2, "there is no such file; is it"),
        (&[], 2, "`tunnel install` needs a tunnel's file"),
        (&[good, "more", "--target", "t:1"], 2, "unknown argument \"more\""),
    ] {
        let to = ["--dir", dir.to_str().unwrap()];
        let (found, said) = install(&[arguments, &to[..]].concat());
        assert_eq!(found, Some(status), "{arguments:?}: {said}");
        assert!(said.contains(fault), "{arguments:?}: {said}");
        assert!(!said.contains("s3cret"), "{said}");
        assert!(!dir.exists(), "{arguments:?}");
    }
}

#[test]
fn install_refuses_files_that_the_service_does_not_see() {
    let hidden = [
        "/root/ca.pem",
        "/home/me/ca.pem",
        "/tmp/ca.pem",
        "/var/tmp/ca.pem",
        "/etc/iofog-connector/ca.pem",
        "/etc/iofog-connector/tunnels/../server-cert.pem",
        "/etc/link",
    ];
    let install = |path: &str, more: &str| {
        format!(
            "umask 077; {{ cat ssh.tunnel; echo ca={path}; }} >hidden.tunnel
            \"$@\" tunnel install hidden.tunnel --replace --target t:1 {more}"
        )
    };
    let mut script = systemd("exit 0");
    script.push_str("ln -s /root /etc/link\n");
    for path in hidden {
        script.push_str(&format!("{} && exit 1\n", install(path, "")));
        // Whoever names a folder runs it.
        script.push_str(&format!("{}\n", install(path, "--dir /run/tunnels")));
    }
    script.push_str(&format!("{}\n", install("/etc/iofog-connector/tunnels/ca.pem", "")));
    // Another init system closes no folders.
    script.push_str("rmdir /run/systemd/system\n");
    script.push_str(&install(hidden[0], ""));
    let Some((said, _)) = on_own_machine(&script) else { return };
    for path in hidden {
        let fault = format!("does not see {path}; put it into /etc/iofog-connector/tunnels,");
        assert!(said.contains(&fault), "{path}: {said}");
    }
}

#[test]
fn install_writes_into_no_folder_of_somebody_else() {
    let own = Folder::new();
    let file = own.file("ssh.tunnel", TEXT, 0o600);
    let elsewhere = own.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, own.join("link")).unwrap();
    let to = |dir: &Path| {
        install(&[file.to_str().unwrap(), "--target", "t:1", "--dir", dir.to_str().unwrap()])
    };
    let (status, said) = to(&own.join("link"));
    assert_eq!(status, Some(1), "{said}");
    if fs::metadata(&elsewhere).unwrap().uid() == 0 {
        std::os::unix::fs::chown(&elsewhere, Some(4321), None).unwrap();
        let (status, said) = to(&elsewhere);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("its folder belongs to another user"), "{said}");
    }
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn install_follows_no_link_that_another_may_have_put() {
    let own = Folder::new();
    let file = own.file("ssh.tunnel", TEXT, 0o600);
    let [open, closed, elsewhere] = ["open", "closed", "elsewhere"].map(|name| own.join(name));
    for (folder, mode) in [(&open, 0o777), (&closed, 0o755), (&elsewhere, 0o755)] {
        fs::create_dir(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.join("link")).unwrap();
    }
    let to = |dir: &Path| {
        install(&[file.to_str().unwrap(), "--target", "t:1", "--dir", dir.to_str().unwrap()])
    };
    for dir in [open.join("link/tunnels"), closed.join("link"), closed.join("link/")] {
        let (status, said) = to(&dir);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("/link is a link; name the folder that it leads to"), "{said}");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1, "{dir:?}");
    }
    // As whoever has moved /etc/iofog-connector to another disk.
    let (status, said) = to(&closed.join("link/tunnels"));
    assert_eq!(status, Some(0), "{said}");
    assert!(elsewhere.join("tunnels/ssh.conf").exists());
}

#[test]
fn mappings_files_are_in_no_folder_that_another_put_in_the_place() {
    let daemon = Daemon::new(Mode::Plain);
    let (folder, _) = add(&daemon, &["public", "--name", "ssh"]);
    let strangers = daemon.folder().join("strangers");
    fs::create_dir(&strangers).unwrap();
    fs::set_permissions(&strangers, fs::Permissions::from_mode(0o777)).unwrap();
    let link = strangers.join("link");
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    let to = ["--dir", link.to_str().unwrap()];
    let names = || fs::read_dir(&folder).unwrap().count();
    for words in [
        &["mapping", "add", "public", "--name", "db"][..],
        &["mapping", "passcode", "ssh"],
        &["mapping", "remove", "ssh"],
    ] {
        let before = daemon.state_file();
        let output = daemon.cli(&[words, &to].concat());
        let said = text(&output);
        assert!(said.contains("it leads through a link that another user may have put"), "{said}");
        let is_removal = words.contains(&"remove");
        assert_eq!(output.status.success(), is_removal, "{said}");
        assert_eq!(daemon.state_file() != before, is_removal, "{said}");
        assert_eq!(names(), 2, "{words:?}");
    }
}

#[test]
fn installs_and_removals_at_one_time_leave_whole_files_and_nothing_else() {
    let own = Folder::new();
    let dir = own.join("tunnels");
    let dir = dir.to_str().unwrap();
    let texts: Vec<_> = (0..8).map(|number| format!("{TEXT}# {number}\ntarget=t:1\n")).collect();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for (number, text) in texts.iter().enumerate() {
                let file = own.file(&format!("{number}.tunnel"), text, 0o600);
                scope.spawn(move || {
                    let file = file.to_str().unwrap();
                    let (status, said) =
                        install(&[file, "--name", "ssh", "--replace", "--dir", dir]);
                    assert_eq!(status, Some(0), "{said}");
                });
            }
        });
        let names: Vec<_> = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(names, [Path::new(dir).join("ssh.conf")]);
        assert!(texts.contains(&fs::read_to_string(&names[0]).unwrap()));
    }
}

#[test]
fn removed_tunnel_is_gone_and_a_wrong_name_is_told_which_there_are() {
    let own = Folder::new();
    let dir = own.join("tunnels");
    let to = ["--dir", dir.to_str().unwrap()];
    let remove = |name: &str| {
        let output = run_cli(&[&["tunnel", "remove", name][..], &to].concat());
        (output.status.code(), text(&output))
    };
    let (status, said) = remove("ssh");
    assert!(status == Some(1) && said.contains("no tunnel \"ssh\" is in "), "{said}");
    assert!(said.contains("; none is there"), "{said}");
    let file = own.file("x.tunnel", TEXT, 0o600);
    for name in ["ssh", "db"] {
        let file = file.to_str().unwrap();
        let all = [&[file, "--target", "t:1", "--name", name], &to[..]].concat();
        assert_eq!(install(&all).0, Some(0));
    }
    for wrong in ["web", "../x", "../tunnels/ssh", ".ssh"] {
        let (status, said) = remove(wrong);
        assert!(status == Some(1) && said.contains("; there are: db, ssh"), "{said}");
    }
    let (status, said) = remove("ssh");
    let gone = dir.join("ssh.conf");
    assert!(status == Some(0) && said.starts_with(&format!("{} is removed", gone.display())));
    assert!(!gone.exists() && dir.join("db.conf").exists());
    let output = run_cli(&["tunnel", "remove"]);
    assert!(text(&output).contains("`tunnel remove` needs a tunnel's name"));
}

/// Runs a script where `/etc` and `/run` are this test's own, with the files of tunnels `ssh` and `db` beside it, and
/// `"$@"` for the program; what it has said, and the commands that were given (`$LOG`).
fn on_own_machine(script: &str) -> Option<(String, String)> {
    let own = Folder::new();
    let log = own.file("log", "", 0o600);
    for name in ["ssh", "db"] {
        own.file(&format!("{name}.tunnel"), TEXT, 0o600);
    }
    let script = format!("set -e; mount -t tmpfs none /etc; mount -t tmpfs none /run\n{script}");
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-c", &script, "sh"]).args(binary());
    let path = format!("{}:{}", own.display(), std::env::var("PATH").unwrap());
    let Ok(output) = shell.current_dir(&*own).env("PATH", path).env("LOG", &log).output() else {
        not_installed("unshare");
        return None;
    };
    let said = text(&output);
    if said.contains("unshare") || said.contains("mount:") {
        could_not_run(format!("no mount namespace: {said}"));
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some((said, fs::read_to_string(log).unwrap()))
}

/// Has systemd run, with this in its place.
fn systemd(command: &str) -> String {
    format!(
        "mkdir -p /run/systemd/system; cat >systemctl <<'END'\n#!/bin/sh\n{command}\nEND\nchmod +x systemctl\n"
    )
}

/// Installs two tunnels and removes them; which commands were given.
fn told(setup: &str) -> Option<String> {
    let (said, told) = on_own_machine(&format!(
        "{setup}
        for name in ssh db; do \"$@\" tunnel install $name.tunnel --target localhost:22; done
        # An editor's, which is no tunnel.
        touch /etc/iofog-connector/tunnels/.db.conf
        for name in ssh db; do \"$@\" tunnel remove $name; done
        rm /etc/iofog-connector/tunnels/.db.conf; rmdir /etc/iofog-connector/tunnels"
    ))?;
    let [.., first, last] = &said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert!(
        first.ends_with(
            "ssh.conf is removed; the service is told to close it; others stay as they are"
        ),
        "{said}"
    );
    assert!(last.ends_with("db.conf is removed; it was the last one, so the service is stopped until the next one comes"), "{said}");
    Some(told)
}

/// An init script that notes what it is asked.
const SCRIPT: &str = "mkdir -p /etc/init.d; at=/etc/init.d/iofog-connector-tunnels
    printf '#!/bin/sh\\necho $1 >>\"$LOG\"\\n' >$at; chmod +x $at";

#[test]
fn installed_and_removed_tunnels_are_told_to_the_init_script() {
    let Some(told) = told(SCRIPT) else { return };
    assert_eq!(told, "reload\nreload\nstatus\nreload\nstatus\nstop\n");
}

#[test]
fn installed_and_removed_tunnels_are_told_to_systemd() {
    // The process of all tunnels runs, and no unit of the template.
    let command =
        "case $1-$3 in is-failed*|is-*-*@*) exit 1;; is-*|list-*) ;; *) echo $* >>\"$LOG\";; esac";
    let Some(told) = told(&systemd(command)) else { return };
    let all = "iofog-connector-tunnels";
    let installed = format!("enable --quiet {all}\nreload-or-restart {all}\n");
    let removed = format!("reload {all}\ndisable --quiet --now {all}\n");
    assert_eq!(told, format!("{installed}{installed}{removed}"));
}

#[test]
fn tunnels_with_units_of_their_own_are_started_and_stopped_by_themselves() {
    // A unit that is to be started again is not active for systemd, and counts all the same.
    let command = "case $1-$* in
        list-*) echo iofog-connector-tunnel@x.service loaded activating auto-restart;;
        is-failed-*@*) ;; is-*) exit 1;; *) echo $* >>\"$LOG\";; esac";
    let install = "\"$@\" tunnel install ssh.tunnel --target localhost:22";
    let script = format!("{}{install}; \"$@\" tunnel remove ssh", systemd(command));
    let Some((said, told)) = on_own_machine(&script) else { return };
    let unit = "iofog-connector-tunnel@ssh";
    let installed = format!("enable --quiet {unit}\nstart {unit}\n");
    let removed = format!("disable --quiet --now {unit}\nreset-failed {unit}\n");
    assert_eq!(told, format!("{installed}{removed}"), "{said}");
}

#[test]
fn removal_that_could_not_be_told_names_the_command_and_can_be_repeated() {
    let command = "case $1-$* in
        is-enabled-*@ssh) [ -e failed ] || exit 1;; list-*) ;; is-*@*|is-failed-*) exit 1;; is-*) ;;
        reload-or-*) ;; reload-*) [ -e failed ] || { touch failed; exit 1; }; echo $* >>\"$LOG\";;
        disable-*@*) echo $* >>\"$LOG\";; esac";
    let script = format!(
        "{}for name in ssh db; do \"$@\" tunnel install $name.tunnel --target t:1; done
        \"$@\" tunnel remove ssh && exit 1
        \"$@\" tunnel remove ssh",
        systemd(command)
    );
    let Some((said, told)) = on_own_machine(&script) else { return };
    let all = "iofog-connector-tunnels";
    assert!(said.contains("ssh.conf is removed, but the tunnel may be open still: "), "{said}");
    assert!(said.contains(&format!("systemctl reload {all}`\n")), "{said}");
    let disabled = "disable --quiet --now iofog-connector-tunnel@ssh\n";
    assert_eq!(told, format!("{disabled}reload {all}\n"), "{said}");
}

#[test]
fn where_no_init_system_has_the_service_the_process_that_runs_is_told() {
    let script = "mkdir -p /etc/iofog-connector/tunnels; echo plain >>ssh.tunnel
        \"$@\" tunnels >said 2>&1 & pid=$!
        trap 'kill $pid 2>said || :' EXIT
        try() { for try in $(seq 600); do eval \"$1\" && return; sleep 0.1; done; cat said; exit 1; }
        shown() { \"$program\" tunnels status --json 2>/dev/null | grep -q '\"name\":\"ssh\"'; }
        program=$1
        try 'grep -q \"no file there\" said'
        \"$@\" tunnel install ssh.tunnel --target localhost:22
        try shown
        # As after a removal that could not be told.
        mv /etc/iofog-connector/tunnels/ssh.conf away
        \"$@\" tunnel remove ssh
        try '! shown'
        \"$@\" tunnel remove ssh && exit 1
        \"$@\" tunnel install ssh.tunnel --target localhost:22; try shown
        \"$@\" tunnel remove ssh; try '! shown'
        kill $pid; wait $pid
        \"$@\" tunnel install ssh.tunnel --target localhost:22; \"$@\" tunnel remove ssh";
    if binary().len() > 1 {
        return could_not_run("the program has a wrapper");
    }
    let Some((said, _)) = on_own_machine(script) else { return };
    let told = |what: &str| said.lines().filter(|line| line.contains(what)).count();
    assert_eq!(
        told(" is told to run it; `sudo iofog-connector tunnels status` shows"),
        2,
        "{said}"
    );
    assert_eq!(told(" is told to close it"), 2, "{said}");
    assert_eq!(told("no tunnel \"ssh\" is in "), 1, "{said}");
    assert_eq!(told("nothing runs it, so that nothing is to be closed"), 1, "{said}");
    assert!(!said.contains("sh: ") && !said.contains("not found"), "{said}");
}

#[test]
fn service_is_enabled_after_a_removal_and_an_installation_at_one_time() {
    // Who disables it waits for who enables it, as long as that could come.
    let command = "case $1-$* in
        list-*) ;; is-*@*|is-failed-*) exit 1;; is-*) [ -e on ];;
        enable-*) touch on enabled;;
        disable-*) rm -f enabled; touch begun
            for try in $(seq 20); do [ -e enabled ] && break; sleep 0.1; done; rm on;; esac";
    let script = format!(
        "{}\"$@\" tunnel install ssh.tunnel --target t:1
        \"$@\" tunnel remove ssh &
        for try in $(seq 600); do [ -e begun ] && break; sleep 0.1; done
        \"$@\" tunnel install db.tunnel --target t:1
        wait $!
        ls /etc/iofog-connector/tunnels; [ -e on ] && echo enabled",
        systemd(command)
    );
    let Some((said, _)) = on_own_machine(&script) else { return };
    assert!(said.ends_with("db.conf\nenabled\n"), "{said}");
}

#[test]
fn install_without_the_rights_names_sudo() {
    let own = Folder::new();
    let file = own.file("ssh.tunnel", TEXT, 0o644);
    if fs::metadata(&*own).unwrap().uid() != 0 {
        let (status, said) =
            install(&[file.to_str().unwrap(), "--target", "t:1", "--dir", "/root/x"]);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("run it again with sudo"), "{said}");
        return;
    }
    let secret = own.file("secret.tunnel", TEXT, 0o600);
    let public = own.file("public.tunnel", TEXT.replace("passcode=s3cret\n", ""), 0o644);
    let pass = own.join("pass");
    fs::write(&pass, "s3cret\n").unwrap();
    std::os::unix::fs::chown(&pass, Some(4321), None).unwrap();
    let named =
        format!("{}passcode-file={}\n", fs::read_to_string(&public).unwrap(), pass.display());
    fs::write(&public, named).unwrap();
    fs::set_permissions(&*own, fs::Permissions::from_mode(0o755)).unwrap();
    for (file, fault) in [(&secret, "may not read it"), (&public, "may not write in")] {
        let command = binary();
        let output = Command::new("setpriv")
            .args(["--reuid", "4321", "--regid", "4321", "--clear-groups", "--"])
            .args(&command)
            .args(["tunnel", "install", file.to_str().unwrap(), "--target", "t:1"])
            .args(["--dir", own.join("tunnels").to_str().unwrap()])
            .output();
        let Ok(output) = output else { return not_installed("setpriv") };
        let said = text(&output);
        if said.contains("setpriv: ") {
            return could_not_run(said);
        }
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(fault) && said.contains("run it again with sudo"), "{said}");
    }
}

#[test]
fn password_in_a_wrong_word_is_not_repeated() {
    let own = Folder::new();
    let file = own.file("ssh.tunnel", TEXT, 0o600);
    let (file, dir) = (file.to_str().unwrap(), own.join("tunnels"));
    let dir = dir.to_str().unwrap();
    const WRONG: &str = "http://me:SECRET@p:1";
    for words in [
        &["tunnel", "install", file, "--target", "t:1", "--dir", dir, "--name", WRONG][..],
        &["tunnel", "install", WRONG, "--target", "t:1", "--dir", dir],
        &["tunnel", "install", WRONG, "--name", "x", "--target", "t:1", "--dir", dir],
        &["tunnel", "install", file, "--target", WRONG, "--dir", dir],
        &["tunnel", "remove", WRONG, "--dir", dir],
        &["tunnel", "--from", WRONG],
        &["tunnel", "--from", file, "--listen", WRONG],
        &["tunnel", "--from", file, "--listen", "127.0.0.1:1", "--pending", WRONG],
        &["check", "--user", WRONG],
    ] {
        let output = run_cli(words);
        assert_ne!(output.status.code(), Some(0), "{words:?}");
        assert!(!text(&output).contains("SECRET"), "{words:?}: {}", text(&output));
    }
    let daemon = Daemon::new(Mode::Plain);
    for words in [&["mapping", "show", WRONG][..], &["mapping", "remove", WRONG]] {
        let output = daemon.cli(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(!text(&output).contains("SECRET"), "{words:?}: {}", text(&output));
    }
}
