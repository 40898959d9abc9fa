//! This program at one end and release 2.0.0 at the other, as they are while a site is upgraded. 2.0.0 is built
//! from the repository's history, once, in the target folder. `.ci/run` runs this (docs/testing.md).

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use common::*;
use rustix::process::Signal;

/// Release 2.0.0.
const RELEASE: &str = "d4ea99374ee8806c29c8c46c6113f7fdc31c551f";

/// Users at one time.
const USERS: usize = 40;

/// Idle tunnels; fewer than users, so that tunnels of version 3 are used again.
const CONNECTIONS: &str = "6";

const GREETING: &[u8] = b"220 ready\r\n";
const GOODBYE: &[u8] = b"221 you have said all\r\n";

in_both_modes!(
    #[ignore = "builds release 2.0.0: docs/testing.md"]
    earlier_tunnel_serves_with_this_connector,
    #[ignore = "builds release 2.0.0: docs/testing.md"]
    this_tunnel_serves_with_the_earlier_connector,
    #[ignore = "builds release 2.0.0: docs/testing.md"]
    connector_is_upgraded_and_set_back_under_both_tunnels,
);

/// The program of release 2.0.0; `None` where it cannot be had, which is said.
fn earlier() -> Option<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BUILT.get_or_init(build) {
        Ok(program) => Some(program),
        Err(reason) => {
            could_not_run(reason);
            None
        }
    }
}

/// Builds it, or says why it is not there to be built. That what is there does not build is a failure.
fn build() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("release-{}", &RELEASE[..7]));
    let program = folder.join("target/debug/iofog-connector");
    if !program.exists() {
        let source = folder.join("source");
        unpack(&folder, &source)?;
        let cargo = |arguments: &[&str]| {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(arguments).current_dir(&source);
            cargo.env("CARGO_TARGET_DIR", folder.join("target"));
            cargo.output().expect("cargo runs")
        };
        let fetched = cargo(&["fetch", "--locked"]);
        if !fetched.status.success() {
            return Err(format!("the crates of release 2.0.0 cannot be had: {}", text(&fetched)));
        }
        let built = cargo(&["build", "--locked", "--offline"]);
        assert!(built.status.success(), "release 2.0.0 does not build:\n{}", text(&built));
    }
    let version = Command::new(&program).arg("--version").output().expect("release 2.0.0 runs");
    assert!(text(&version).contains("2.0.0"), "{}", text(&version));
    Ok(program)
}

/// The release's files in this folder.
fn unpack(folder: &Path, source: &Path) -> Result<(), String> {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-C", env!("CARGO_MANIFEST_DIR")]).args(arguments).output()
    };
    let Ok(known) = git(&["cat-file", "-e", &format!("{RELEASE}^{{commit}}")]) else {
        return Err("git is not installed".into());
    };
    if !known.status.success() {
        return Err(format!(
            "release 2.0.0 (commit {RELEASE}) is not in this copy's history; a full clone has it"
        ));
    }
    std::fs::create_dir_all(source).expect("folder");
    let archive = folder.join("source.tar");
    let path = archive.to_str().expect("UTF-8");
    let packed = git(&["archive", "--format=tar", "--output", path, RELEASE]).expect("git runs");
    assert!(packed.status.success(), "{}", text(&packed));
    let unpacked = Command::new("tar").arg("-xf").arg(path).arg("-C").arg(source).output();
    let unpacked = unpacked.expect("tar runs");
    assert!(unpacked.status.success(), "{}", text(&unpacked));
    Ok(())
}

/// A service that speaks first, sends back what comes, and says goodbye when its user has ended.
fn service() -> Service {
    Service::new(|mut socket: TcpStream| {
        let mut buffer = [0; 16 * 1024];
        let mut say = |bytes: &[u8]| {
            socket
                .write_all(bytes)
                .and_then(|()| socket.read(&mut buffer))
                .map(|count| buffer[..count].to_vec())
        };
        let mut heard = say(GREETING);
        while let Ok(bytes) = heard {
            if bytes.is_empty() {
                let _ = say(GOODBYE);
                return;
            }
            heard = say(&bytes);
        }
    })
}

/// `tunnel` of this program, or of another one, for a mapping's port1.
fn tunnel(program: Option<&Path>, daemon: &Daemon, mapping: &Mapping, target: &Service) -> Running {
    let command = program.map_or_else(binary, |program| vec![program.into()]);
    let name = format!("tunnel-{}", mapping.port1);
    let passcode = daemon.folder().join(format!("{name}-passcode"));
    std::fs::write(&passcode, &mapping.passcode1).expect("file");
    let mut tunnel = Command::new(&command[0]);
    tunnel.args(&command[1..]).args(["tunnel", "--target", &target.address.to_string()]);
    tunnel.args(["--connector", &format!("localhost:{}", mapping.port1)]);
    tunnel.args(["--connections", CONNECTIONS, "--heartbeat", "300"]);
    tunnel.arg("--passcode-file").arg(passcode);
    match daemon.mode {
        Mode::Plain => tunnel.arg("--plain"),
        Mode::Tls => tunnel.arg("--ca").arg(daemon.config().join("server-cert.pem")),
    };
    Running::start(&mut tunnel, daemon.folder().join(name)).expect("it starts")
}

/// A user whose service has greeted it, and has sent back what it said.
fn begun(daemon: &Daemon, mapping: &Mapping, bytes: &[u8]) -> Link {
    let mut user = daemon.user(mapping);
    // Before the user has said anything.
    user.expect(GREETING);
    assert_same(&user.exchange(bytes, bytes.len()), bytes, "what was sent");
    user
}

/// Many sessions at one time: the service first, exact bytes both ways, a half-close and what comes behind it.
fn serves(daemon: &Daemon, mapping: &Mapping) {
    thread::scope(|scope| {
        for number in 0..USERS {
            scope.spawn(move || {
                let size = [1, 1000, 20_000, 400_000][number % 4] + number;
                let mut user = begun(daemon, mapping, &noise(number as u64, size));
                user.finish();
                assert_same(&user.until_end(), GOODBYE, "behind the user's end");
            });
        }
    });
}

/// A user in the middle of its session is told that it broke: it has not ended.
fn breaks(mut user: Link) {
    let (rest, end) = user.rest();
    assert!(rest.is_empty(), "{} bytes from nobody", rest.len());
    assert_ne!(end, Got::End, "a session that broke looks ended");
}

/// Both ends, each restarted in an orderly way and by a kill, with users before, in the midst and after.
fn serves_through_restarts(mode: Mode, connector: Option<&Path>, agent: Option<&Path>) {
    let builder = Daemon::builder(mode).program(connector).set("userwait", 60_000);
    let mut daemon = builder.set("pending", 200).start();
    let mapping = daemon.api().add_public(60, 20_000);
    let service = service();
    let mut running = tunnel(agent, &daemon, &mapping, &service);
    for signal in [Signal::TERM, Signal::KILL] {
        serves(&daemon, &mapping);
        let user = begun(&daemon, &mapping, b"before the tunnel goes");
        running.signal(signal);
        running.child.wait().expect("it ends");
        breaks(user);
        drop(running);
        running = tunnel(agent, &daemon, &mapping, &service);
        serves(&daemon, &mapping);
        let user = begun(&daemon, &mapping, b"before the connector goes");
        daemon.signal(signal);
        daemon.wait();
        breaks(user);
        daemon.start();
    }
    serves(&daemon, &mapping);
}

fn earlier_tunnel_serves_with_this_connector(mode: Mode) {
    let Some(earlier) = earlier() else { return };
    serves_through_restarts(mode, None, Some(earlier));
}

fn this_tunnel_serves_with_the_earlier_connector(mode: Mode) {
    let Some(earlier) = earlier() else { return };
    serves_through_restarts(mode, Some(earlier), None);
}

/// The folders stay, the connector is another one, and nobody restarts a tunnel.
fn connector_is_upgraded_and_set_back_under_both_tunnels(mode: Mode) {
    let Some(earlier) = earlier() else { return };
    let builder = Daemon::builder(mode).program(Some(earlier)).set("userwait", 60_000);
    let mut daemon = builder.set("pending", 200).start();
    let mappings = [(); 2].map(|()| daemon.api().add_public(60, 20_000));
    let service = service();
    let agents = [None, Some(earlier)];
    let _tunnels = [0, 1].map(|at| tunnel(agents[at], &daemon, &mappings[at], &service));
    for next in [None, Some(earlier), None] {
        mappings.iter().for_each(|mapping| serves(&daemon, mapping));
        daemon.stop();
        daemon.program = next.map(Path::to_owned);
        daemon.start();
    }
    mappings.iter().for_each(|mapping| serves(&daemon, mapping));
}
