//! The real daemon, in folders and on ports of its own.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use rustls::ClientConfig;
use serde_json::{Map, Value, json};

use super::{
    Agent, Controller, Folder, Framed, Link, Mapping, Mode, PATIENCE, PortBlock, ms, offering,
    trusting, until,
};

/// The command that runs the daemon. `IOFOG_CONNECTOR_BIN` names another one, with arguments
/// before it where it needs a wrapper: `qemu-arm-static /path/to/iofog-connector`.
pub fn binary() -> Vec<OsString> {
    match std::env::var("IOFOG_CONNECTOR_BIN") {
        Ok(command) => command.split_whitespace().map(OsString::from).collect(),
        Err(_) => vec![env!("CARGO_BIN_EXE_iofog-connector").into()],
    }
}

/// Runs the program with these arguments to its end.
pub fn run_cli<I: AsRef<std::ffi::OsStr>>(arguments: &[I]) -> Output {
    run_cli_with(arguments, &[])
}

/// As [`run_cli`], with these variables.
fn run_cli_with<I: AsRef<std::ffi::OsStr>>(
    arguments: &[I],
    environment: &[(String, String)],
) -> Output {
    let command = binary();
    Command::new(&command[0])
        .args(&command[1..])
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .output()
        .expect("the program runs")
}

/// What it said, on stdout and then on stderr.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// How a daemon is to be started.
pub struct Builder {
    mode: Mode,
    settings: Map<String, Value>,
    ports: u16,
    files: Vec<(String, Vec<u8>)>,
    program: Option<PathBuf>,
    wrapper: Vec<String>,
    environment: Vec<(String, String)>,
    log: Option<PathBuf>,
    syslog: Option<PathBuf>,
}

/// A daemon and its folders; both end when this is dropped.
pub struct Daemon {
    /// The mode it was started in.
    pub mode: Mode,
    /// Its ports: the first is the API's, the others are the pool.
    pub block: PortBlock,
    folder: Folder,
    /// The program that is run instead of the one that is tested.
    pub program: Option<PathBuf>,
    wrapper: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    syslog: PathBuf,
    child: Option<Child>,
    tls: OnceLock<Arc<ClientConfig>>,
}

/// How a daemon ended.
#[derive(Debug)]
pub struct Exit {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to stderr since the folders were made.
    pub stderr: String,
}

impl Builder {
    /// Sets a key of the settings file; `Value::Null` takes a key away.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        match value.into() {
            Value::Null => self.settings.remove(key),
            value => self.settings.insert(key.to_owned(), value),
        };
        self
    }

    /// At least so many ports for mappings (15 otherwise).
    pub fn ports(mut self, count: u16) -> Self {
        self.ports = count;
        self
    }

    /// A file that is in the configuration folder before the start.
    pub fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.to_owned(), content.into()));
        self
    }

    /// Runs this program instead of the one that is tested, if any.
    pub fn program(mut self, path: Option<&Path>) -> Self {
        self.program = path.map(Path::to_owned);
        self
    }

    /// Runs the daemon through this command, for example `prlimit --nofile=64`.
    pub fn wrapper(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Another folder for the log file.
    pub fn log(mut self, folder: &Path) -> Self {
        self.log = Some(folder.to_owned());
        self
    }

    /// Another `--syslog`.
    pub fn syslog(mut self, path: &str) -> Self {
        self.syslog = Some(path.into());
        self
    }

    /// An environment variable of the daemon and of commands.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the folders and files without starting the daemon.
    pub fn prepare(self) -> Daemon {
        let block = PortBlock::take(self.ports + 1);
        let folder = Folder::new();
        let mut daemon = Daemon {
            mode: self.mode,
            block,
            folder,
            program: self.program,
            wrapper: self.wrapper,
            environment: self.environment,
            log: PathBuf::new(),
            syslog: PathBuf::new(),
            child: None,
            tls: OnceLock::new(),
        };
        for folder in [daemon.config(), daemon.run(), daemon.folder.join("log")] {
            fs::create_dir_all(folder).expect("folder");
        }
        daemon.log = self.log.unwrap_or_else(|| daemon.folder.join("log"));
        daemon.syslog = self.syslog.unwrap_or_else(|| daemon.folder.join("syslog"));
        let mut settings = Map::from_iter([
            ("ports".to_owned(), json!([daemon.pool(self.ports)])),
            ("exclude".to_owned(), json!([])),
            ("broker".to_owned(), json!(12345)),
            ("address".to_owned(), json!("127.0.0.1")),
            ("dev".to_owned(), json!(self.mode == Mode::Plain)),
            ("api".to_owned(), json!(daemon.api_address().to_string())),
            ("threads".to_owned(), json!(2)),
            ("drain".to_owned(), json!(100)),
        ]);
        for (key, value) in self.settings {
            settings.insert(key, value);
        }
        daemon.write("iofog-connector.conf", &Value::Object(settings).to_string());
        for (name, content) in self.files {
            let path = daemon.config().join(name);
            fs::write(&path, content).expect("file");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("mode");
        }
        daemon
    }

    /// Starts the daemon and waits until its API answers.
    #[track_caller]
    pub fn start(self) -> Daemon {
        let mut daemon = self.prepare();
        daemon.start();
        daemon
    }
}

impl Daemon {
    /// A daemon with short, but not racing, times.
    pub fn builder(mode: Mode) -> Builder {
        Builder {
            mode,
            settings: Map::new(),
            ports: 15,
            files: Vec::new(),
            program: None,
            wrapper: Vec::new(),
            environment: Vec::new(),
            log: None,
            syslog: None,
        }
    }

    /// A daemon with settings that suit most tests.
    #[track_caller]
    pub fn new(mode: Mode) -> Self {
        Self::builder(mode).start()
    }

    /// One with a public pipe, of so many connections and this threshold.
    #[track_caller]
    pub fn public(mode: Mode, connections: u32, threshold: u64) -> (Self, Mapping) {
        let daemon = Self::new(mode);
        let mapping = daemon.api().add_public(connections, threshold);
        (daemon, mapping)
    }

    // Folders and files

    /// The configuration folder.
    pub fn config(&self) -> PathBuf {
        self.folder.join("etc")
    }

    /// The folder of the socket.
    pub fn run(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// The folder of the log file.
    pub fn log(&self) -> PathBuf {
        self.log.clone()
    }

    /// Where it expects syslog; nobody listens there unless the test does.
    pub fn syslog(&self) -> PathBuf {
        self.syslog.clone()
    }

    /// A folder that is the test's own, removed with the rest.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.run().join("control.sock")
    }

    /// Writes a file of the configuration folder.
    pub fn write(&self, name: &str, content: &str) {
        fs::write(self.config().join(name), content).expect("write");
    }

    /// Reads a file of the configuration folder.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.config().join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The settings as they stand in the file.
    pub fn settings(&self) -> Value {
        serde_json::from_str(&self.read("iofog-connector.conf")).expect("JSON")
    }

    /// Changes one key of the settings file.
    pub fn set(&self, key: &str, value: impl Into<Value>) {
        let mut settings = self.settings();
        settings[key] = value.into();
        self.write("iofog-connector.conf", &settings.to_string());
    }

    /// An environment variable of the daemon, from its next start on, and of commands.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The state file as JSON.
    #[track_caller]
    pub fn state_file(&self) -> Value {
        serde_json::from_str(&self.read("configs.json")).expect("configs.json is JSON")
    }

    /// What the daemon has written to stderr.
    pub fn stderr(&self) -> String {
        let bytes = fs::read(self.folder.join("stderr")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The log file.
    pub fn log_file(&self) -> PathBuf {
        self.log().join("iofog-connector.log")
    }

    /// What stands in the log file.
    pub fn log_text(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    // Ports and connections

    /// The range of the pool, as the settings have it.
    pub fn pool(&self, count: u16) -> String {
        format!("{}-{}", self.block.first + 1, self.block.first + count)
    }

    /// Where the API listens.
    pub fn api_address(&self) -> SocketAddr {
        at(self.block.first)
    }

    /// A Controller that calls over TCP.
    pub fn api(&self) -> Controller {
        let tls = (self.mode == Mode::Tls).then(|| self.trust());
        Controller::tcp(self.api_address(), tls)
    }

    /// A caller over the Unix socket.
    pub fn control(&self) -> Controller {
        Controller::unix(self.socket())
    }

    /// TLS that trusts the daemon's certificate as it was when first asked for.
    pub fn trust(&self) -> Arc<ClientConfig> {
        self.tls.get_or_init(|| trusting(&self.config().join("server-cert.pem"))).clone()
    }

    /// A connection to a pipe's port in the daemon's mode.
    pub fn try_link(&self, port: u16) -> std::io::Result<Link> {
        match self.mode {
            Mode::Plain => Link::plain(at(port)),
            Mode::Tls => Link::tls(at(port), &self.trust()),
        }
    }

    /// A connection to a pipe's port that must succeed.
    #[track_caller]
    pub fn link(&self, port: u16) -> Link {
        self.try_link(port).unwrap_or_else(|error| panic!("connecting to port {port}: {error}"))
    }

    /// A user of a public pipe.
    #[track_caller]
    pub fn user(&self, mapping: &Mapping) -> Link {
        self.link(mapping.port2)
    }

    /// A user that is closed, in any way, before a byte has come to it; that may be before it knows that
    /// it is connected.
    #[track_caller]
    pub fn user_is_closed(&self, mapping: &Mapping) {
        match self.try_link(mapping.port2) {
            Ok(mut user) => user.expect_closed(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }

    /// An agent that has sent nothing yet.
    #[track_caller]
    pub fn agent(&self, port: u16) -> Agent {
        Agent::over(self.link(port))
    }

    /// A tunnel on port1.
    #[track_caller]
    pub fn tunnel(&self, mapping: &Mapping) -> Agent {
        self.agent(mapping.port1).prove(&mapping.passcode1)
    }

    /// A version 2 tunnel on port1.
    #[track_caller]
    pub fn version_two(&self, mapping: &Mapping) -> Agent {
        let mut agent = self.agent(mapping.port1);
        agent.send(format!("IOFOG/2 {}\n", mapping.passcode1).as_bytes());
        agent.expect(b"IOFOG/2 AUTHORIZED\n");
        agent
    }

    /// A connection of an agent that can speak version 3.
    #[track_caller]
    pub fn framed_link(&self, port: u16) -> Link {
        self.framed_over(Link::plain(at(port)).expect("connect"))
    }

    /// An agent that can speak version 3 on this connection to the daemon.
    #[track_caller]
    pub fn framed_over(&self, link: Link) -> Link {
        match self.mode {
            Mode::Plain => link,
            Mode::Tls => {
                let config = offering(&self.trust(), &["iofog-tunnel"], None);
                let link = link.upgrade(&config, "localhost").expect("a handshake");
                assert_eq!(link.protocol(), Some("iofog-tunnel"));
                link
            }
        }
    }

    /// A version 3 tunnel on port1.
    #[track_caller]
    pub fn version_three(&self, mapping: &Mapping) -> Framed {
        Framed::agent(self.framed_link(mapping.port1), &mapping.passcode1)
    }

    /// The same, of an agent at 127.0.0.`host`.
    #[track_caller]
    pub fn version_three_at(&self, mapping: &Mapping, host: u8) -> Framed {
        let link = Link::plain_from([127, 0, 0, host].into(), at(mapping.port1)).expect("connect");
        Framed::agent(self.framed_over(link), &mapping.passcode1)
    }

    /// A version 3 tunnel on a private pipe's port2.
    #[track_caller]
    pub fn version_three2(&self, mapping: &Mapping) -> Framed {
        Framed::agent(self.framed_link(mapping.port2), &mapping.passcode2)
    }

    /// A tunnel on a private pipe's port2.
    #[track_caller]
    pub fn tunnel2(&self, mapping: &Mapping) -> Agent {
        self.agent(mapping.port2).prove(&mapping.passcode2)
    }

    /// A user and a tunnel of a public pipe in a session, in which the user has sent `question`.
    #[track_caller]
    pub fn session(&self, mapping: &Mapping) -> (Link, Agent) {
        let mut agent = self.tunnel(mapping);
        let mut user = self.user(mapping);
        user.send(b"question");
        agent.expect_record(b"question");
        (user, agent)
    }

    /// Two tunnels of a private pipe that are paired, port1's first.
    #[track_caller]
    pub fn pair(&self, mapping: &Mapping) -> (Agent, Agent) {
        let (mut one, mut two) = (self.tunnel(mapping), self.tunnel2(mapping));
        one.send(b"hello, two");
        two.expect_record(b"hello, two");
        two.send(b"hello, one");
        one.expect_record(b"hello, one");
        (one, two)
    }

    // Life

    /// Starts it and waits until its API answers.
    #[track_caller]
    pub fn start(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self) {
        self.spawn_with(Stdio::null());
    }

    /// The same with this standard input, which a program has to take another one's place.
    pub fn spawn_with(&mut self, input: Stdio) {
        assert!(self.child.is_none(), "already running");
        let mut words: Vec<OsString> = self.wrapper.iter().map(OsString::from).collect();
        match &self.program {
            Some(program) => words.push(program.into()),
            None => words.extend(binary()),
        }
        let file = |name: &str| {
            let path = self.folder.join(name);
            Stdio::from(File::options().create(true).append(true).open(path).expect("file"))
        };
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("start");
        command.arg("--config").arg(self.config()).arg("--run").arg(self.run());
        command.arg("--log").arg(self.log()).arg("--syslog").arg(self.syslog());
        for manager in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM"] {
            command.env_remove(manager);
        }
        command.envs(self.environment.iter().cloned());
        command.stdin(input).stdout(file("stdout")).stderr(file("stderr"));
        self.child = Some(command.spawn().expect("the daemon starts"));
    }

    /// Waits until the API answers.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.exited() {
                panic!("the daemon ended, {status}, instead of serving:\n{}", self.stderr());
            }
            // The socket comes after the certificate. The API's port is tried again where it is
            // taken, so that the socket alone tells nothing of it.
            let ready = self.control().try_connect().is_ok() && self.api().try_connect().is_ok();
            if ready {
                break;
            }
            if Instant::now() > deadline {
                panic!("the API does not answer:\n{}", self.stderr());
            }
            std::thread::sleep(ms(5));
        }
        assert_eq!(self.control().get("/api/v2/status").status, 200);
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("running"))
    }

    /// The process that has the run folder's lock: it, or one that has taken its place.
    pub fn serving(&self) -> Option<Pid> {
        let lock = self.run().join("iofog-connector.lock");
        // A test may put something else there, whose opening would wait.
        fs::metadata(&lock).ok().filter(fs::Metadata::is_file)?;
        let pid = Pid::from_raw(fs::read_to_string(lock).ok()?.trim().parse().ok()?)?;
        // A killed daemon leaves its number, which may be another process's by now.
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        let run = self.run().into_os_string().into_encoded_bytes();
        line.split(|byte| *byte == 0).any(|word| word == run).then_some(pid)
    }

    /// Its first worker's thread.
    pub fn worker(&self) -> Pid {
        let tasks = format!("/proc/{}/task", self.pid().as_raw_nonzero());
        let named = |task: &fs::DirEntry| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "worker-1\n")
        };
        let mut tasks = fs::read_dir(tasks).expect("/proc").map(|task| task.expect("/proc"));
        let number = tasks.find(named).expect("a worker").file_name();
        Pid::from_raw(number.to_string_lossy().parse().expect("number")).expect("not 0")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("signal");
    }

    /// Its exit status, once it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("wait")
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.is_some() && self.exited().is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> Exit {
        until("the daemon ends", || self.exited().is_some());
        let status = self.child.take().expect("running").wait().expect("wait");
        Exit { status, stderr: self.stderr() }
    }

    /// SIGTERM, and the wait for its end.
    #[track_caller]
    pub fn stop(&mut self) -> Exit {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// SIGKILL, and the wait for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Kills it and starts it again with the same folders and ports.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// Runs the program with this command and these folders: `daemon.cli(&["status"])`.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut all: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        all.extend(["--config".into(), self.config().into_os_string()]);
        all.extend(["--run".into(), self.run().into_os_string()]);
        run_cli_with(&all, &self.environment)
    }

    /// Files that the daemon has open.
    pub fn open_files(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.pid().as_raw_nonzero());
        fs::read_dir(folder).expect("/proc").count()
    }

    /// Resident memory in KiB.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that was ever resident, in KiB.
    pub fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, what: &str) -> u64 {
        let status = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = fs::read_to_string(status).expect("/proc");
        let line = status.lines().find(|line| line.starts_with(what)).expect("the line is there");
        line.split_whitespace().nth(1).expect("number").parse().expect("number")
    }

    /// Processor time used, in clock ticks (10 ms each).
    pub fn ticks(&self) -> u64 {
        self.ticks_in("stat")
    }

    /// Of these, those of the control thread.
    pub fn control_ticks(&self) -> u64 {
        self.ticks_in(&format!("task/{}/stat", self.pid().as_raw_nonzero()))
    }

    fn ticks_in(&self, file: &str) -> u64 {
        let stat = format!("/proc/{}/{file}", self.pid().as_raw_nonzero());
        let stat = fs::read_to_string(stat).expect("/proc");
        let fields: Vec<&str> = stat[stat.rfind(')').expect("name")..].split(' ').collect();
        fields[12].parse::<u64>().expect("utime") + fields[13].parse::<u64>().expect("stime")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log_text();
            let log = if log.is_empty() { self.stderr() } else { log };
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the daemon's log, last lines ({:?} mode)", self.mode);
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
        // The folder is this daemon's own, and so is what still runs in it.
        self.kill();
        if let Some(heir) = self.serving() {
            let _ = kill_process(heir, Signal::KILL);
        }
    }
}

/// A port on the loopback address.
pub fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
