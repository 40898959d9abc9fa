//! The settings file `iofog-connector.conf` and what the environment puts in its place, parsed once into types that
//! cannot be wrong (protocol page, section 1).

mod environment;
mod faults;
pub mod folders;
mod keys;
mod nearest;
mod network;
mod sandbox;
mod values;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread::available_parallelism;
use std::time::Duration;

use log::LevelFilter;

use self::environment::Environment;
pub use self::faults::Faults;
pub use self::keys::Entries;
use self::keys::Keys;
pub use self::nearest::nearest;
pub use self::sandbox::Sandbox;
use crate::logging::Formats;
use crate::text::{file, reason};

/// The settings file's name in the configuration directory.
pub const FILE: &str = "iofog-connector.conf";

/// The longest settings file that is read: 1 MiB, a thousand times what all keys need.
const LONGEST: usize = 1024 * 1024;

/// What stands for the file where there is none and the environment has settings: what the package's file says, and TLS.
const NO_FILE: &[u8] = br#"{"exclude":[],"broker":12345,"dev":false}"#;

/// The most executor threads that may be asked for.
const MOST_THREADS: u64 = 256;

/// The settings in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Ports that mappings may use, `exclude` already taken out; ascending, never empty.
    pub ports: Vec<u16>,
    /// Handed to agents by the direct-connection API.
    pub broker: u16,
    /// Where this connector is reached: an IP address or a domain name.
    pub address: String,
    /// Plain HTTP and plain TCP instead of TLS.
    pub dev: bool,
    /// Where the API listens. `[::]` means every interface, `0.0.0.0` where there is no IPv6.
    pub api: SocketAddr,
    /// Who may call the API; `None` means anybody.
    pub controllers: Option<Vec<Network>>,
    /// The PEM file of the authority that API callers' certificates must be signed by.
    pub controller_ca: Option<PathBuf>,
    /// The address that pipe ports bind; `None` is every interface, both families. Where the file does not say, it
    /// follows from `address`, as `api` does.
    pub listen: Option<IpAddr>,
    /// Executor threads for sessions and handshakes.
    pub threads: usize,
    /// The least important level that is logged.
    pub log_level: LevelFilter,
    /// How lines of the log are written.
    pub log_formats: Formats,
    /// How long a user waits for a free tunnel.
    pub user_wait: Duration,
    /// Per mapping: users waiting, and as many connections not yet authenticated.
    pub pending: usize,
    /// How long a stopping daemon lets sessions finish.
    pub drain: Duration,
    /// How long a daemon whose place another one has taken lets sessions finish.
    pub handover: Duration,
    /// How long a session may be silent after one direction has ended.
    pub fin_wait: Duration,
    /// One log line per user and session.
    pub connection_log: bool,
    /// What the process may ask of the kernel.
    pub sandbox: Sandbox,
    /// Whether there was a file.
    has_file: bool,
}

/// A range of addresses, `192.0.2.0/24` or a single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

/// The host as settings may give it for `address`, in its usual form.
pub fn address(text: &str) -> Option<String> {
    values::address(&text.into()).ok()
}

impl Config {
    /// Reads the settings file of a configuration directory, and the variables of this process: the settings, and
    /// warnings about what is in order but probably not meant ([`Config::open_api_warning`] is among them).
    ///
    /// # Errors
    /// Every fault at once; or why the file cannot be read.
    pub fn load(dir: &Path) -> Result<(Config, Vec<String>), Faults> {
        Config::load_with(dir, Environment::own(), false)
    }

    /// The same in place of these: a file that they had must still be there, since it may say who may call.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_again(&self, dir: &Path) -> Result<(Config, Vec<String>), Faults> {
        Config::load_with(dir, Environment::own(), self.has_file)
    }

    fn load_with(
        dir: &Path,
        environment: Environment,
        needs_file: bool,
    ) -> Result<(Config, Vec<String>), Faults> {
        let file = dir.join(FILE);
        let is_enough = !needs_file && environment.has_settings();
        let text = match file::read(&file, LONGEST, None) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_enough => {
                let environment = Environment { is_alone: true, ..environment };
                return Config::read(NO_FILE, &file, environment);
            }
            text => text.map_err(|error| {
                Faults::unread(&file, &unreadable(&file, &error), reason::may_pass(&error))
            })?,
        };
        if text.len() > LONGEST {
            return Err(Faults::one(&file, "is longer than 1 MiB, which no settings need."));
        }
        Config::read(&text, &file, environment)
    }

    /// As [`Config::load`], from the file's content alone; `file` is its name in messages, and its
    /// folder is what a relative `controllerca` starts from.
    ///
    /// # Errors
    /// Every fault at once.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn parse(text: &[u8], file: &Path) -> Result<(Config, Vec<String>), Faults> {
        Config::read(text, file, Environment::default())
    }

    fn read(
        text: &[u8],
        file: &Path,
        environment: Environment,
    ) -> Result<(Config, Vec<String>), Faults> {
        let has_file = !environment.is_alone;
        let mut keys = Keys::read(text, file, environment)?;
        let allowed = keys.required("ports", "an array of ports", values::ports);
        let excluded = keys.required("exclude", "an array of ports, [] for none,", values::ports);
        let broker = keys.required("broker", "a port number", values::port);
        let address = keys.required("address", "an IP address or domain name", values::address);
        let dev = keys.required("dev", "true (no TLS) or false (TLS)", values::flag);
        let api = keys.optional("api", values::socket);
        let controllers = keys.optional("controllers", values::networks);
        let controller_ca = keys.optional("controllerca", values::path);
        let listen = keys.optional("listen", values::ip);
        let threads = keys.optional("threads", |v| values::count(v, MOST_THREADS));
        let log_level = keys.optional("loglevel", values::level);
        let json = keys.optional("logformat", |v| values::second(v, ["text", "json"]));
        let structured =
            keys.optional("syslogformat", |v| values::second(v, ["rfc3164", "rfc5424"]));
        let user_wait = keys.optional("userwait", |v| values::milliseconds(v, 0));
        let pending = keys.optional("pending", |v| values::count(v, u16::MAX.into()));
        let drain = keys.optional("drain", |v| values::milliseconds(v, 0));
        let handover = keys.optional("handover", |v| values::milliseconds(v, 0));
        // Without any silence allowed a session would end with its first direction.
        let fin_wait = keys.optional("finwait", |v| values::milliseconds(v, 1));
        let connection_log = keys.optional("connectionlog", values::flag);
        let sandbox = keys.optional("sandbox", values::sandbox);

        let ports = match (&allowed, &excluded) {
            (Some(allowed), Some(excluded)) => values::pool(allowed, excluded),
            _ => Vec::new(),
        };
        if ports.is_empty() && allowed.is_some() && excluded.is_some() {
            keys.fault("ports", "no port is left for mappings; name some that exclude does not.");
        }
        if ports.len() == 1 {
            keys.warn("ports", "this is one port, and each mapping needs two.");
        }
        if controller_ca.is_some() && dev == Some(true) {
            keys.warn("controllerca", "does nothing while dev is true, since there is no TLS.");
        }
        if connection_log == Some(true) && log_level.is_some_and(|level| level < LevelFilter::Info)
        {
            keys.warn("connectionlog", "its lines have level info, which loglevel leaves out.");
        }
        let nowhere =
            |address: &String| address.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
        if address.as_ref().is_some_and(nowhere) {
            keys.warn("address", "nobody can reach this address; public URLs will not work.");
        }
        let mut warnings = keys.finish()?;

        let (Some(broker), Some(address), Some(dev)) = (broker, address, dev) else {
            return Err(Faults::one(file, "a required key is missing."));
        };
        let config = Config {
            ports,
            broker,
            dev,
            api: api.unwrap_or_else(|| default_api(&address, dev)),
            // `::` says what the default does elsewhere, which knows what to do where there is no IPv6.
            listen: match listen {
                None => loopback(&address),
                given => given.filter(|ip| *ip != IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            },
            address,
            controllers,
            controller_ca: controller_ca.map(|path| match file.parent() {
                Some(dir) => dir.join(path),
                None => path,
            }),
            threads: threads.unwrap_or_else(processors),
            log_level: log_level.unwrap_or(LevelFilter::Info),
            log_formats: Formats {
                json: json.unwrap_or(false),
                structured: structured.unwrap_or(false),
            },
            user_wait: user_wait.unwrap_or(Duration::from_millis(10_000)),
            pending: pending.unwrap_or(128),
            drain: drain.unwrap_or(Duration::from_millis(5_000)),
            handover: handover.unwrap_or(Duration::from_millis(3_600_000)),
            fin_wait: fin_wait.unwrap_or(Duration::from_millis(60_000)),
            connection_log: connection_log.unwrap_or(false),
            sandbox: sandbox.unwrap_or_default(),
            has_file,
        };
        if config.ports.iter().any(|port| config.is_apis(*port)) {
            warnings.push(format!(
                "{}: {} is the API's own port, so that no mapping can have it; put it into {}.",
                config.place(file, "ports"),
                config.api.port(),
                config.key("exclude")
            ));
        }
        warnings.extend(config.open_api_warning());
        Ok((config, warnings))
    }

    /// A warning when others than this machine can reach the API and neither `controllers` nor
    /// a `controllerca` that is in force (`dev` false) limits who may call it.
    pub fn open_api_warning(&self) -> Option<String> {
        let reachable = !self.api.ip().to_canonical().is_loopback();
        let limited = self.controllers.is_some() || (self.controller_ca.is_some() && !self.dev);
        (reachable && !limited).then(|| {
            let or = if self.dev { "".into() } else { format!(" or {}", self.key("controllerca")) };
            format!(
                "Anyone who can reach {} may call the API and open ports; set {}{or}{}.",
                self.api,
                self.key("controllers"),
                self.in_file()
            )
        })
    }

    /// A warning when the settings want no sandbox, or one that only reports.
    pub fn sandbox_warning(&self) -> Option<String> {
        let what = match self.sandbox {
            Sandbox::On | Sandbox::Kill => return None,
            Sandbox::Report => "only reports",
            Sandbox::Off => "is off",
        };
        Some(format!(
            "The sandbox {what}: whoever breaks into the daemon may do all that its user may; set {} to \"on\", and restart.",
            self.named("sandbox")
        ))
    }

    /// How a sentence names a key: as it stands in the file, or its variable where there is no file.
    fn key(&self, key: &str) -> String {
        if self.has_file { key.into() } else { environment::variable(key) }
    }

    /// What follows that.
    fn in_file(&self) -> String {
        if self.has_file { format!(" in {FILE}") } else { String::new() }
    }

    /// Both of it.
    pub fn named(&self, key: &str) -> String {
        self.key(key) + &self.in_file()
    }

    /// What begins a sentence about a key of the settings, which are in `file` if there is one.
    pub fn place(&self, file: &Path, key: &str) -> String {
        match self.has_file {
            true => format!("{}: {key}", file.display()),
            false => format!("environment: {}", environment::variable(key)),
        }
    }

    /// A warning when this machine does not have the address of `listen` now.
    pub fn listen_warning(&self) -> Option<String> {
        absent(self.listen?, "listen", "no mapping's port can be opened")
    }

    /// The same for `api`.
    pub fn api_warning(&self) -> Option<String> {
        absent(self.api.ip(), "api", "nobody can call the API")
    }

    /// Says that mappings' ports are open for this machine alone because `address` is a loopback address.
    pub fn loopback_notice(&self) -> Option<String> {
        let ip = self.listen.filter(|ip| loopback(&self.address) == Some(*ip))?;
        Some(format!(
            "mappings' ports listen on {ip} alone, since address is {}; for other machines set {} to the name \
             at which they reach this one, or {} to \"::\"{}, and restart",
            self.address,
            self.key("address"),
            self.key("listen"),
            self.in_file()
        ))
    }

    /// Whether a mapping's port would be the very one that the API listens on.
    pub fn is_apis(&self, port: u16) -> bool {
        let everywhere = |ip: IpAddr| ip.is_unspecified();
        let meets = |ip: IpAddr| everywhere(ip) || everywhere(self.api.ip()) || ip == self.api.ip();
        port == self.api.port() && self.listen.is_none_or(meets)
    }

    /// The ports that mappings may have: `ports` but for the API's own.
    pub fn pool(&self) -> Vec<u16> {
        self.ports.iter().copied().filter(|port| !self.is_apis(*port)).collect()
    }

    /// Where users reach a public pipe with this port2, `raw` if its users are told to speak plain (protocol page,
    /// section 3).
    pub fn public_url(&self, port: u16, raw: bool) -> String {
        let scheme = match (raw, self.dev) {
            (true, _) => "tcp",
            (false, true) => "http",
            (false, false) => "https",
        };
        if self.address.contains(':') {
            format!("{scheme}://[{}]:{port}", self.address)
        } else {
            format!("{scheme}://{}:{port}", self.address)
        }
    }

    /// The keys whose change between these settings and `new` takes a restart (protocol page,
    /// section 7).
    pub fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        [
            ("dev", self.dev != new.dev),
            ("api", self.api != new.api),
            ("listen", self.listen != new.listen),
            ("threads", self.threads != new.threads),
            ("sandbox", self.sandbox != new.sandbox),
        ]
        .into_iter()
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect()
    }
}

/// The processors that this process may use, as its start has found them: in its cage it cannot ask again.
fn processors() -> usize {
    static FOUND: OnceLock<usize> = OnceLock::new();
    let found = || available_parallelism().map_or(1, |n| n.get().min(MOST_THREADS as usize));
    *FOUND.get_or_init(found)
}

/// A warning when this machine does not have the address of the setting `key`.
fn absent(ip: IpAddr, key: &str, result: &str) -> Option<String> {
    let error = std::net::TcpListener::bind((ip, 0)).err()?;
    (error.kind() == io::ErrorKind::AddrNotAvailable).then(|| {
        format!(
            "this machine does not have the address {ip}, the setting {key} in {FILE}, so that \
             {result}; correct it, or leave it out for all addresses"
        )
    })
}

/// The loopback address that `address` is, or names; `None` for any other.
fn loopback(address: &str) -> Option<IpAddr> {
    let local = address.eq_ignore_ascii_case("localhost")
        || address.to_ascii_lowercase().ends_with(".localhost");
    match address.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(ip) => Some(ip).filter(IpAddr::is_loopback),
        Err(_) => local.then_some(Ipv4Addr::LOCALHOST.into()),
    }
}

/// Where the API listens when `api` is absent: on loopback when the connector is reached there,
/// else on every interface.
fn default_api(address: &str, dev: bool) -> SocketAddr {
    let ip = loopback(address).unwrap_or(Ipv6Addr::UNSPECIFIED.into());
    SocketAddr::new(ip, if dev { 8080 } else { 443 })
}

/// Why the settings file cannot be read, and what to do.
fn unreadable(file: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "does not exist; write it with the keys ports, exclude, broker, \
             address and dev, or name the directory it is in with --config DIR, or set the variables \
             IOFOG_ADDRESS and IOFOG_PORTS."
                .to_owned()
        }
        _ => format!("{}.", reason::reading(file, error)),
    }
}

#[cfg(test)]
mod tests;
