//! The options of `tunnel`, from the command line and from a file.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Sandbox;
use crate::mappings::mapping::Passcode;
use crate::net::dial::Address;
use crate::net::proxy::{self, Proxy};
use crate::text::line;
use crate::tls::{self, Trusted};
use file::{named, options_of};
use passcode::passcode;

pub use file::{PUBLIC, read};
pub use names::{Given, OPTIONS};
pub use passcode::{PASSCODE, Source};

mod file;
mod names;
mod passcode;

/// Idle tunnels that are kept ready where `--connections` does not say how many.
pub const CONNECTIONS: u64 = 8;

/// Default for sessions at one time. Each takes two files, and up to 111 KB of memory if the target
/// does not read while users flood it: 28 MB in all, which a gateway with 64 MB can spare.
const SESSIONS: u64 = 256;

/// What a `tunnel` is to do.
#[derive(Debug)]
pub struct Options {
    /// Where the connector takes this side's tunnels.
    pub connector: Address,
    /// This side's passcode, as it was read.
    pub passcode: Passcode,
    /// Where it stands.
    pub source: Source,
    /// Sessions at one time at most.
    pub sessions: usize,
    /// What sessions are joined with.
    pub work: Work,
    /// Which connectors are trusted; of no use when `plain`.
    pub trusted: Trusted,
    /// No TLS.
    pub plain: bool,
    /// Through which the connector is reached.
    pub proxy: Option<Proxy>,
    /// Time between heartbeats of an idle tunnel.
    pub heartbeat: Duration,
    /// How long sessions may go on after SIGTERM.
    pub drain: Duration,
    /// How long to wait for pipes in the place of files; with `None` there may be none.
    pub wait: Option<Duration>,
    /// What the process may ask of the kernel.
    pub sandbox: Sandbox,
    /// Warnings about the options: nothing that prevents a start.
    pub warnings: Vec<String>,
}

/// What sessions are joined with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Each session is carried to a service.
    Serve {
        /// The service.
        target: Address,
        /// Idle tunnels kept ready.
        connections: usize,
        /// Whether the service is sent the PROXY header first.
        proxy_protocol: bool,
    },
    /// Each local connection is carried into the pipe.
    Listen {
        /// Where they are taken.
        address: SocketAddr,
        /// Those that may wait for the pipe's other side at one time.
        pending: usize,
    },
}

impl Options {
    /// The files that it reads, beside that of the options.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let trusted = match &self.trusted {
            Trusted::File(path) => Some(&**path),
            Trusted::System | Trusted::Pins(_) => None,
        };
        let passcode = match &self.source {
            Source::File(path) => Some(&**path),
            Source::Options(_) | Source::Environment => None,
        };
        trusted.into_iter().chain(passcode)
    }

    /// The files that are read again at SIGHUP.
    pub fn files_read_again(&self) -> impl Iterator<Item = &Path> {
        let system = matches!(self.trusted, Trusted::System) && !self.plain;
        let options = match &self.source {
            Source::Options(path) => Some(&**path),
            Source::File(_) | Source::Environment => None,
        };
        let system = tls::SYSTEM.iter().filter(move |_| system).map(Path::new);
        self.files().chain(options).chain(system)
    }

    /// Puts together what the command line, the options file it names and the environment say;
    /// `environment` gives its variables: [`PASSCODE`] and those that name proxies. With `wait` the files may be pipes that are written
    /// in this time.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn new(
        given: Given,
        environment: impl Fn(&str) -> Option<OsString>,
        wait: Option<Duration>,
    ) -> Result<Self, String> {
        let mut given = given;
        let file = given.remove("from").map(PathBuf::from);
        let read = |path: PathBuf| {
            let (text, mode) = read("--from", &path, wait)?;
            Ok::<_, String>((path, text, mode))
        };
        let file = file.map(read).transpose()?;
        let file = file.as_ref().map(|(path, text, mode)| (path.clone(), &**text, *mode));
        Self::of(given, file, &environment, wait)
    }

    /// The same, with the options file read: its path, its text and its mode.
    ///
    /// # Errors
    /// As [`Options::new`].
    pub fn of(
        mut given: Given,
        file: Option<(PathBuf, &str, u32)>,
        environment: &dyn Fn(&str) -> Option<OsString>,
        wait: Option<Duration>,
    ) -> Result<Self, String> {
        if given.get("proxy").is_some_and(|url| line::has_password(&url.to_string_lossy())) {
            return Err(
                "--proxy would show user and password to everybody on this machine (`ps`); \
                        put proxy=URL into a file for --from, or set HTTPS_PROXY"
                    .into(),
            );
        }
        let mut in_file = None;
        let mut lines = Vec::new();
        if let Some((path, text, mode)) = file {
            let (from_file, passcode, numbers) = options_of(text, mode, &path)?;
            let place = named("--from", &path);
            in_file = passcode.map(|passcode| (passcode, Source::Options(path)));
            for (name, value) in from_file {
                if !given.contains_key(name) {
                    given.insert(name, value);
                    let number = numbers.get(name).copied().unwrap_or_default();
                    lines.push((format!("--{name}"), format!("{place}: line {number}")));
                }
            }
        }
        Self::put_together(&given, in_file, environment, wait).map_err(|fault| {
            let about = fault.split([':', ' ']).next().unwrap_or_default();
            match lines.iter().find(|(name, _)| name == about) {
                Some((_, line)) => format!("{line}: {fault}"),
                None => fault,
            }
        })
    }

    /// The options of a tunnel that one file holds, which waits for nothing; the passcode is not in the
    /// environment.
    ///
    /// # Errors
    /// A sentence that begins with the file.
    pub fn from_file(
        path: &Path,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, String> {
        let given = Given::from_iter([("from", path.as_os_str().to_owned())]);
        let environment = |name: &str| environment(name).filter(|_| name != PASSCODE);
        let read = Self::new(given, environment, None);
        let mut read = read.map_err(|fault| match fault.strip_prefix("--from ") {
            Some(placed) => placed.to_owned(),
            None => format!("{}: {fault}", path.display()),
        })?;
        if read.sandbox != Sandbox::On {
            let own = "sandbox does nothing here: `tunnels` runs all files in one process, and has \
                       the option --sandbox";
            read.warnings.push(own.into());
        }
        Ok(read)
    }

    /// Whether a tunnel with these options would do the same. A passcode that has changed is read
    /// again where it stands.
    pub fn asks_for_the_same(&self, other: &Options) -> bool {
        let rest = |it: &Options| (it.sessions, it.plain, it.heartbeat, it.drain);
        self.connector == other.connector
            && self.work == other.work
            && self.trusted == other.trusted
            && self.proxy == other.proxy
            && self.source == other.source
            && rest(self) == rest(other)
    }

    fn put_together(
        given: &Given,
        in_file: Option<(Passcode, Source)>,
        environment: &dyn Fn(&str) -> Option<OsString>,
        wait: Option<Duration>,
    ) -> Result<Self, String> {
        let mut warnings = Vec::new();
        let sandbox = sandbox(given.get("sandbox").map(|value| &**value))?;
        let plain = flag(given, "plain")?;
        let trusted = trusted(given, plain)?;
        let connector = given.get("connector").ok_or(
            "--connector HOST:PORT is missing: the connector and the port that takes this side's \
             tunnels",
        )?;
        let work = work(given)?;
        let ready = match &work {
            Work::Serve { connections, .. } => *connections as u64,
            Work::Listen { .. } => 1,
        };
        // Each idle tunnel may become a session at any time.
        let sessions = number(given, "sessions", SESSIONS.max(ready), 1..=1_000_000)?;
        if sessions < ready {
            return Err(format!(
                "--sessions: {sessions} is less than --connections, {ready}: each tunnel may become \
                 a session"
            ));
        }
        let (passcode, source) =
            passcode(given, in_file, environment(PASSCODE), wait, &mut warnings)?;
        let connector = address("connector", connector)?;
        let proxy = match given.get("proxy") {
            Some(url) => {
                let proxy = url.to_string_lossy().parse();
                Some(proxy.map_err(|fault: String| format!("--proxy: {fault}"))?)
            }
            None => proxy::from_environment(&connector, environment)?,
        };
        Ok(Options {
            connector,
            proxy,
            work,
            sessions: sessions as usize,
            trusted,
            plain,
            heartbeat: Duration::from_millis(number(given, "heartbeat", 20_000, 100..=3_600_000)?),
            drain: Duration::from_millis(number(given, "drain", 5000, 0..=86_400_000)?),
            passcode,
            source,
            wait,
            sandbox,
            warnings,
        })
    }
}

/// Which connectors are to be trusted. A pin is for exactly one certificate, and a file may name
/// authorities: who gives both has not decided.
fn trusted(given: &Given, plain: bool) -> Result<Trusted, String> {
    let exclude = |one: &str, other: &str, why: &str| {
        Err(format!("{one} and {other} exclude each other: {why}"))
    };
    let no_tls = "without TLS there is no certificate to check";
    match (given.get("ca"), given.get("pin")) {
        (Some(_), _) if plain => exclude("--plain", "--ca", no_tls),
        (_, Some(_)) if plain => exclude("--plain", "--pin", no_tls),
        (Some(_), Some(_)) => exclude(
            "--pin",
            "--ca",
            "a pin trusts one certificate and nothing else; several may be pinned",
        ),
        (Some(path), None) => Ok(Trusted::File(path.into())),
        (None, Some(pins)) => {
            let pins = pins.to_string_lossy();
            let pins = pins.split(',').map(|pin| pin.trim().parse());
            Ok(Trusted::Pins(
                pins.collect::<Result<_, _>>()
                    .map_err(|fault: String| format!("--pin: {fault}"))?,
            ))
        }
        (None, None) => Ok(Trusted::System),
    }
}

/// What a process may ask of the kernel, by the value of `--sandbox`.
///
/// # Errors
/// A sentence that begins with the option.
pub fn sandbox(given: Option<&OsStr>) -> Result<Sandbox, String> {
    let Some(value) = given else { return Ok(Sandbox::default()) };
    let value = value.to_string_lossy();
    let expected = Sandbox::EXPECTED;
    value.parse().map_err(|()| {
        format!("--sandbox: {} is not known; {expected} is expected", line::shown(&value))
    })
}

fn work(given: &Given) -> Result<Work, String> {
    let proxy_protocol = flag(given, "proxy-protocol")?;
    match (given.get("target"), given.get("listen")) {
        (Some(_), None) if given.contains_key("pending") => {
            Err("--pending belongs to --listen".into())
        }
        (Some(target), None) => Ok(Work::Serve {
            target: address("target", target)?,
            connections: number(given, "connections", CONNECTIONS, 1..=65_535)? as usize,
            proxy_protocol,
        }),
        (None, Some(listen)) => {
            if proxy_protocol || given.contains_key("connections") {
                return Err("--connections and --proxy-protocol belong to --target; with \
                            --listen a tunnel is opened for each local connection"
                    .into());
            }
            let text = listen.to_string_lossy();
            let address = text.parse().map_err(|_| {
                let text = line::shown(&text);
                format!("--listen: {text} is not IP:PORT, such as 127.0.0.1:8022 or [::1]:8022")
            })?;
            let pending = number(given, "pending", 128, 1..=65_535)? as usize;
            Ok(Work::Listen { address, pending })
        }
        (Some(_), Some(_)) => {
            Err("--target and --listen exclude each other; run one `tunnel` for each".into())
        }
        (None, None) => Err("--target HOST:PORT (the service that users are to reach) or \
                             --listen IP:PORT (a way into a private pipe) is missing"
            .into()),
    }
}

fn address(name: &str, value: &OsStr) -> Result<Address, String> {
    value.to_string_lossy().parse().map_err(|fault| format!("--{name}: {fault}"))
}

fn number(
    given: &Given,
    name: &str,
    default: u64,
    allowed: std::ops::RangeInclusive<u64>,
) -> Result<u64, String> {
    let Some(value) = given.get(name) else { return Ok(default) };
    let value = value.to_string_lossy();
    value.parse().ok().filter(|number| allowed.contains(number)).ok_or_else(|| {
        let (least, most) = allowed.into_inner();
        let value = line::shown(&value);
        format!("--{name}: {value} is not a number from {least} to {most}")
    })
}

/// A flag on the command line has the value `true`; in a file it has the value that is written
/// there.
fn flag(given: &Given, name: &str) -> Result<bool, String> {
    match given.get(name).map(|value| value.as_bytes()) {
        None | Some(b"false") => Ok(false),
        Some(b"true" | b"") => Ok(true),
        Some(_) => Err(format!("--{name}: its value is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::folder::Folder;

    fn given(pairs: &[(&'static str, &str)]) -> Given {
        pairs.iter().map(|(name, value)| (*name, OsString::from(value))).collect()
    }

    fn options(pairs: &[(&'static str, &str)]) -> Result<Options, String> {
        Options::new(given(pairs), |name| (name == PASSCODE).then(|| "secret".into()), None)
    }

    #[test]
    fn defaults() {
        let found = options(&[("connector", "c:1"), ("target", "[::1]:22")]).unwrap();
        let target = Address { host: "::1".into(), port: 22 };
        assert_eq!(found.work, Work::Serve { target, connections: 8, proxy_protocol: false });
        assert_eq!(found.heartbeat, Duration::from_secs(20));
        assert_eq!(found.drain, Duration::from_secs(5));
        assert_eq!((found.sessions, &found.source), (256, &Source::Environment));
        let with = |name, value| options(&[("connector", "c:1"), ("target", "t:1"), (name, value)]);
        assert_eq!(with("connections", "5000").unwrap().sessions, 5000);
        let listening = options(&[("connector", "c:1"), ("listen", "127.0.0.1:1")]);
        assert!(matches!(listening.unwrap().work, Work::Listen { pending: 128, .. }));
        assert_eq!(found.passcode.reveal(), "secret");
        assert!(!found.plain);
        assert!(!format!("{found:?}").contains("secret"));
    }

    #[test]
    fn faults_are_sentences() {
        let target = ("target", "t:1");
        let connector = ("connector", "c:1");
        for (pairs, fault) in [
            (&[target][..], "--connector HOST:PORT is missing"),
            (&[connector], "--target HOST:PORT (the service"),
            (&[connector, target, ("listen", "127.0.0.1:1")], "--target and --listen exclude"),
            (&[connector, ("listen", "localhost:1")], "--listen: \"localhost:1\" is not IP:PORT"),
            (&[connector, ("listen", "127.0.0.1:1"), ("connections", "1")], "--connections and"),
            (&[("connector", "c"), target], "--connector: \"c\" has no port"),
            (&[connector, ("target", "t:x")], "--target: \"t:x\" has no port from 1"),
            (&[connector, target, ("connections", "0")], "--connections: \"0\" is not a number"),
            (
                &[connector, target, ("sessions", "7")],
                "--sessions: 7 is less than --connections, 8",
            ),
            (&[connector, target, ("pending", "7")], "--pending belongs to --listen"),
            (&[connector, target, ("heartbeat", "5s")], "--heartbeat: \"5s\" is not a number"),
            (&[connector, target, ("plain", "true"), ("ca", "x")], "--plain and --ca exclude"),
            (&[connector, target, ("plain", "true"), ("pin", "x")], "--plain and --pin exclude"),
            (&[connector, target, ("proxy", "http://me:pw@p:1")], "--proxy would show user and"),
            (&[connector, target, ("proxy", "http://p")], "--proxy: \"p\" has no port"),
            (&[connector, target, ("ca", "x"), ("pin", "x")], "--pin and --ca exclude each"),
            (&[connector, target, ("pin", "SHA256:12")], "--pin: \"SHA256:12\" is not SHA256:"),
            (
                &[connector, target, ("passcode-file", "/none/such")],
                "--passcode-file /none/such: it does not exist; is its path right?",
            ),
            (&[connector, target, ("from", "/none")], "--from /none: it does not exist; is its"),
            (
                &[("connector", "https://c:1"), target],
                "--connector: \"https://c:1\" begins with a scheme",
            ),
            (&[connector, target, ("from", "/")], "--from /: it is a folder"),
            (&[connector, target, ("plain", "no")], "--plain: its value is neither"),
        ] {
            let error = options(pairs).unwrap_err();
            assert!(error.starts_with(fault), "{pairs:?}: {error}");
        }
        let error = Options::new(given(&[connector, target]), |_| None, None).unwrap_err();
        assert!(error.contains("--passcode-file"), "{error}");
    }

    #[test]
    fn pins_are_fingerprints_in_any_form_and_several_have_commas_between_them() {
        let digits = "0123456789abcdef".repeat(4);
        let shown = "01:23:45:67:89:AB:CD:EF:".repeat(4);
        let shown = shown.trim_end_matches(':');
        let with = |pin: &str| {
            options(&[("connector", "c:1"), ("target", "t:1"), ("pin", pin)]).map(|it| it.trusted)
        };
        let expected = |count| Ok(Trusted::Pins(vec![shown.parse().unwrap(); count]));
        for pin in [
            format!("SHA256:{digits}"),
            format!("sha256:{}", digits.to_uppercase()),
            format!("SHA256:{shown}"),
            format!("SHA-256:{}", shown.to_lowercase()),
            shown.to_owned(),
            digits.clone(),
        ] {
            assert_eq!(with(&pin), expected(1), "{pin}");
            assert_eq!(with(&format!("{pin}, SHA256:{digits}")), expected(2), "{pin}");
        }
        for wrong in [
            "",
            "SHA256:",
            "SHA1:0123",
            &digits[1..],
            &format!("{digits},"),
            &format!("{}g", &digits[1..]),
        ] {
            assert!(with(wrong).unwrap_err().contains("64 hexadecimal digits"), "{wrong}");
        }
    }

    #[test]
    fn a_passcode_file_holds_one_line() {
        let with = |text, mode| {
            let folder = Folder::new();
            let file = folder.file("file", text, mode);
            options(&[
                ("connector", "c:1"),
                ("target", "t:1"),
                ("passcode-file", file.to_str().unwrap()),
            ])
        };
        let found = with("from file\r\n", 0o600).unwrap();
        assert_eq!((found.passcode.reveal(), found.warnings.len()), ("from file", 0));
        let found = with("\u{feff}from Windows\r\n", 0o600).unwrap();
        assert_eq!(found.passcode.reveal(), "from Windows");
        let found = with("readable", 0o644).unwrap();
        assert!(found.warnings[0].contains("chmod 600"), "{:?}", found.warnings);
        let said = with("\n", 0o600).unwrap_err();
        assert!(said.contains("the passcode is empty; the one that `mapping add`"), "{said}");
        assert!(with("a\nb\n", 0o600).unwrap_err().contains("more than one line"));
    }

    #[test]
    fn an_options_file_gives_what_the_command_line_does_not() {
        let text = "# a tunnel\n\nconnector = c:1\ntarget=t:1\nplain\nheartbeat=500\n\
                    passcode=in file\n";
        let text = format!("\u{feff}{text}");
        let folder = Folder::new();
        let file = folder.file("file", &text, 0o640);
        let options = options(&[("from", file.to_str().unwrap()), ("target", "t:2")]).unwrap();
        assert_eq!(options.connector.to_string(), "c:1");
        assert!(matches!(options.work, Work::Serve { target, .. } if target.port == 2));
        assert!(options.plain);
        assert_eq!(options.heartbeat, Duration::from_millis(500));
        assert_eq!(options.passcode.reveal(), "in file");
        let other = folder.file("other", "of its own", 0o600);
        let [file, other] = [&file, &other].map(|path| path.to_str().unwrap());
        let both = Options::new(given(&[("from", file), ("passcode-file", other)]), |_| None, None)
            .unwrap();
        assert!(both.warnings[0].contains("passcode= in the options is not used"));
    }

    #[test]
    fn a_proxy_is_named_by_option_file_or_environment_in_this_order() {
        let folder = Folder::new();
        let file = folder.file("file", "proxy=socks5://me:secret@file:1\n", 0o600);
        let file = ("from", file.to_str().unwrap());
        let all = [("connector", "c:1"), ("target", "t:1"), ("proxy", "http://option:1"), file];
        let environment = |name: &str| match name {
            PASSCODE => Some("secret".into()),
            "HTTPS_PROXY" => Some("http://variable:1".into()),
            "NO_PROXY" => Some("elsewhere".into()),
            _ => None,
        };
        let proxy = |pairs: &[(&'static str, &str)]| {
            let options = Options::new(given(pairs), environment, None).unwrap();
            assert!(!format!("{options:?}").contains("secret"));
            options.proxy.unwrap().to_string()
        };
        assert_eq!(proxy(&all), "http://option:1");
        assert_eq!(proxy(&[all[0], all[1], file]), "socks5://file:1");
        assert_eq!(proxy(&all[..2]), "http://variable:1");
        let excepted = [("connector", "elsewhere:1"), all[1]];
        assert_eq!(Options::new(given(&excepted), environment, None).unwrap().proxy, None);
    }

    #[test]
    fn faults_in_an_options_file_name_the_line() {
        for (text, mode, fault) in [
            ("\nconector=c:1\n", 0o600, "line 2: unknown option: did you mean connector?"),
            ("from=x\n", 0o600, "line 1: unknown option"),
            ("\nplain=yes\n", 0o600, "line 2: plain is `true` or `false`"),
            ("passcode=\"abc\"\n", 0o600, "line 1: take the quotes off"),
            ("connector\n", 0o600, "line 1: connector needs a value"),
            ("passcode=p\n", 0o644, "line 1: everybody on this machine can read the passcode"),
            ("passcode=\n", 0o600, "line 1: the passcode is empty"),
            ("ca=a\n\nca=b\n", 0o600, "line 3: ca is given already, in line 1;"),
            ("plain\nplain\n", 0o600, "line 2: plain is given already, in line 1;"),
            (
                "proxy=http://me:secret@p:1\n",
                0o644,
                "line 1: everybody on this machine can read the",
            ),
            (
                "\nproxy=http://p\nconnector=c:1\ntarget=t:1\n",
                0o600,
                "line 2: --proxy: \"p\" has no",
            ),
            ("passcode=a\npasscode=b\n", 0o600, "line 2: passcode is given already, in line 1;"),
        ] {
            let folder = Folder::new();
            let file = folder.file("file", text, mode);
            let error = options(&[("from", file.to_str().unwrap())]).unwrap_err();
            assert!(error.contains(fault), "{text:?}: {error}");
        }
    }

    #[test]
    fn password_in_the_wrong_place_is_never_repeated() {
        let url = "http://me:SECRET@p:1";
        for option in [
            "connector",
            "target",
            "listen",
            "connections",
            "sessions",
            "heartbeat",
            "drain",
            "pin",
            "ca",
            "passcode-file",
            "from",
            "plain",
        ] {
            let mut pairs = vec![("connector", "c:1")];
            if option != "listen" {
                pairs.push(("target", "t:1"));
            }
            pairs.retain(|(name, _)| *name != option);
            pairs.push((option, url));
            if let Err(error) = options(&pairs) {
                assert!(!error.contains("SECRET"), "{option}: {error}");
            }
        }
    }

    #[test]
    fn what_may_be_a_secret_is_never_repeated() {
        for text in [
            "passcode: SECRET\n",
            "passcode SECRET\n",
            "passcode:SECRET=SECRET\n",
            "SECRET\n",
            "SECRET=\n",
            "passcode-file=SECRET\n",
            "passcode=SECRET\npasscode=SECRET\n",
            "connector=c:1\nSECRET and=more\n",
        ] {
            let folder = Folder::new();
            let file = folder.file("file", text, 0o600);
            let pairs = [("from", file.to_str().unwrap()), ("connector", "c:1"), ("target", "t:1")];
            let error = options(&pairs).unwrap_err();
            assert!(!error.contains("SECRET"), "{text:?}: {error}");
            assert!(error.contains(": line ") || error.contains("--passcode-file"), "{error}");
        }
    }
}
