//! Reads the command line (protocol page, section 7): arguments in, a command or a sentence out.
//! What there is to read stands in the [`TABLE`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use pico_args::Arguments;
use serde_json::{Map, Value};

use super::help::{GROUP, Row, TABLE, all_options, first_words, general, summary};
use super::install::{Install, Remove};
use super::mapping::{Add, Request};
use super::remedy;
use super::service::Shown;
use crate::agent::options as tunnel;
use crate::config::folders::{Options, TUNNELS, TUNNELS_RUN};
use crate::config::{Sandbox, nearest};
use crate::mappings::mapping::LONGEST_THRESHOLD;
use crate::text::line::shown;
use crate::text::page::{Named, names};

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Start,
    Stop,
    Upgrade,
    Status(Shown),
    Top {
        agent: bool,
        count: Option<u64>,
    },
    Dump,
    Check {
        user: Option<String>,
    },
    Mapping(Request),
    Tunnel(tunnel::Given),
    Install(Install),
    Remove(Remove),
    Tunnels {
        folder: PathBuf,
        run: PathBuf,
        sandbox: Sandbox,
    },
    TunnelsStatus {
        run: PathBuf,
        json: bool,
        wide: bool,
    },
    Version,
    /// The page to show.
    Help(String),
}

/// Reads the whole command line, or says what is wrong with it.
pub(super) fn parse(arguments: Vec<OsString>) -> Result<(Command, Options), String> {
    let mut arguments = Arguments::from_vec(arguments);
    let asks_for_help = arguments.contains(["-h", "--help"]) || arguments.contains("-?");
    if !asks_for_help && arguments.contains(["-v", "--version"]) {
        return Ok((Command::Version, Options::default()));
    }
    let Line { mut given, words, fault } = Line::read(arguments);
    let mut words = &words[..];
    if asks_for_help {
        if let [first, _, ..] = words {
            words = if first == "help" { &words[1..] } else { words };
        }
        return Ok((help(words)?, Options::default()));
    }
    let found = find(words);
    if let Some(fault) = fault {
        return Err(fault.sentence(found.ok().map(|(row, _)| row)));
    }
    let (row, count) = found?;
    // Beside `help`, as beside `--help`, it is the command's that is asked about.
    let is_stray = |one: &Named| row.name != "help" && !row.options().contains(one);
    if let Some((stray, _)) = given.0.iter().find(|(one, _)| is_stray(one)) {
        return Err(misplaced(*stray, row));
    }
    words = &words[count..];
    let mut options = Options::default();
    let path = |given: &mut Given, name, default: &str| {
        given.take(name).map_or_else(|| default.into(), PathBuf::from)
    };
    let tunnels = ["tunnels", "tunnels status"].contains(&row.name);
    let tunnels_run = if tunnels { path(&mut given, "run", TUNNELS_RUN) } else { PathBuf::new() };
    let has_run = given.0.iter().any(|(option, _)| option.name() == "run");
    for (name, path) in [
        ("config", &mut options.config_dir),
        ("run", &mut options.run_dir),
        ("log", &mut options.log_dir),
        ("syslog", &mut options.syslog),
    ] {
        if let Some(value) = given.take(name) {
            *path = value.into();
        }
    }
    let command = match row.name {
        "start" => Command::Start,
        "stop" => Command::Stop,
        "upgrade" => Command::Upgrade,
        "status" => Command::Status(Shown {
            json: given.flag("json"),
            wide: given.flag("wide"),
            events: given.flag("events"),
        }),
        "top" => {
            let agent = given.flag("agent");
            if agent && !has_run {
                options.run_dir = TUNNELS_RUN.into();
            }
            Command::Top { agent, count: given.number("count", 1, u32::MAX.into())? }
        }
        "dump" => Command::Dump,
        "check" => Command::Check { user: given.text("user")? },
        "version" => Command::Version,
        "help" => {
            let of = std::mem::take(&mut words);
            let (row, count) = if of.is_empty() { (row, 0) } else { find(of)? };
            // What a command is followed by is no fault.
            let stray = of.get(count).filter(|word| {
                row.arguments.split('|').all(|argument| word.as_os_str() != argument)
            });
            if let Some(word) = stray {
                return Err(format!("unknown argument {}", shown(&word.to_string_lossy())));
            }
            help(of)?
        }
        "mapping list" => Command::Mapping(Request::List { wide: given.flag("wide") }),
        "mapping add" => {
            let public = match next(&mut words).and_then(OsStr::to_str).unwrap_or_default() {
                "public" => true,
                "private" => false,
                other => return Err(needs(row, &["public", "private"], other)),
            };
            Command::Mapping(Request::Add(add(public, given)?))
        }
        "mapping show" => Command::Mapping(Request::Show(name_or_id(row, &mut words)?)),
        "mapping change" => {
            let id = name_or_id(row, &mut words)?;
            Command::Mapping(change(id, given)?)
        }
        "mapping passcode" => Command::Mapping(Request::Passcode {
            id: name_or_id(row, &mut words)?,
            side: given.number("side", 1, 2)?.unwrap_or(1) as usize,
            show: given.flag("show"),
            dir: given.folder(),
        }),
        "mapping remove" => {
            let id = name_or_id(row, &mut words)?;
            Command::Mapping(Request::Remove { id, dir: given.folder() })
        }
        "tunnel" => Command::Tunnel(given.0.into_iter().map(|(o, v)| (o.name(), v)).collect()),
        "tunnel install" => {
            let file = next(&mut words).ok_or("`tunnel install` needs a tunnel's file after it")?;
            let (name, dir) = (given.text("name")?, given.take("dir").map(PathBuf::from));
            let replace = given.take("replace").is_some();
            let given = given.0.into_iter().map(|(o, v)| (o.name(), v)).collect();
            Command::Install(Install { file: file.into(), given, dir, name, replace })
        }
        "tunnel remove" => {
            let name = next(&mut words).ok_or("`tunnel remove` needs a tunnel's name after it")?;
            let name = name.to_string_lossy().into_owned();
            Command::Remove(Remove { name, dir: given.take("dir").map(PathBuf::from) })
        }
        "tunnels" => Command::Tunnels {
            folder: path(&mut given, "tunnels", TUNNELS),
            run: tunnels_run,
            sandbox: tunnel::sandbox(given.take("sandbox").as_deref())?,
        },
        "tunnels status" => Command::TunnelsStatus {
            run: tunnels_run,
            json: given.flag("json"),
            wide: given.flag("wide"),
        },
        _ => {
            return Err(needs(row, &row.followers().map(|(word, _)| word).collect::<Vec<_>>(), ""));
        }
    };
    match words.first() {
        Some(word) => Err(format!("unknown argument {}", shown(&word.to_string_lossy()))),
        None => Ok((command, options)),
    }
}

/// What the command line consists of.
struct Line {
    given: Given,
    words: Vec<OsString>,
    /// What is wrong first.
    fault: Option<Fault>,
}

/// Options with their values, `true` for a flag.
struct Given(Vec<(Named, OsString)>);

enum Fault {
    /// An option that nobody knows.
    Unknown(String),
    /// Any other, as a sentence.
    Said(String),
}

impl Line {
    fn read(mut arguments: Arguments) -> Self {
        let mut given = Given(Vec::new());
        let mut fault = given.read(&mut arguments).err();
        let mut words = arguments.finish();
        words.retain(|word| {
            if !word.as_bytes().starts_with(b"-") {
                return true;
            }
            fault.get_or_insert_with(|| left_over(&word.to_string_lossy()));
            false
        });
        Line { given, words, fault }
    }
}

impl Given {
    /// Takes the options of all commands out: `--name`, `--name VALUE`, `--name=VALUE`.
    fn read(&mut self, arguments: &mut Arguments) -> Result<(), Fault> {
        for option in all_options() {
            while let Some(value) = value(arguments, option).map_err(Fault::Said)? {
                match self.0.iter_mut().find(|(known, _)| *known == option) {
                    None => self.0.push((option, value)),
                    Some((_, list)) if option.is_list() => {
                        list.push(",");
                        list.push(value);
                    }
                    Some(_) => {
                        let name = option.dashed;
                        return Err(Fault::Said(format!("option {name} is given twice")));
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes an option's value out.
    fn take(&mut self, name: &str) -> Option<OsString> {
        let place = self.0.iter().position(|(option, _)| option.name() == name)?;
        Some(self.0.swap_remove(place).1)
    }

    /// Whether a flag is given.
    fn flag(&mut self, name: &str) -> bool {
        self.take(name).is_some()
    }

    /// The same, of one that is text.
    fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        let fault = |value: OsString| {
            format!("--{name}: {} is not UTF-8 text", shown(&value.to_string_lossy()))
        };
        self.take(name).map(OsString::into_string).transpose().map_err(fault)
    }

    /// The same, of a number of this range.
    fn number(&mut self, name: &str, least: u64, most: u64) -> Result<Option<u64>, String> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse()
            .ok()
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| {
                format!("--{name}: {} is not a number from {least} to {most}", shown(&text))
            })
            .map(Some)
    }

    /// Where the passcodes' files are.
    fn folder(&mut self) -> PathBuf {
        self.take("dir").map_or_else(|| ".".into(), PathBuf::from)
    }

    /// The rest as members of the API, for the daemon to judge: named as there but for the dashes.
    fn members(self) -> Result<Map<String, Value>, String> {
        let mut members = Map::new();
        for (option, value) in self.0 {
            let text = value.to_str().ok_or_else(|| format!("{}: not text", option.dashed))?;
            if let Some(milliseconds) = seconds(text).filter(|_| option.value == "MS") {
                return Err(format!(
                    "{}: {text} is no number of milliseconds (1000 to 2147483647); {} seconds are {milliseconds}",
                    option.dashed,
                    milliseconds / 1000
                ));
            }
            let value = match option.value {
                _ if option.is_list() => text.split(',').map(str::trim).collect(),
                "N" | "MS" | "PORT" => text.parse::<u64>().map_or(text.into(), Value::from),
                _ => text.into(),
            };
            members.insert(option.name().replace('-', ""), value);
        }
        Ok(members)
    }
}

/// The milliseconds of a time with a unit, seconds or minutes, which none may have.
fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(number), _) => (number, 1000),
        (_, number) => (number?, 60_000),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// Takes the next value of an option out, `true` for a flag.
fn value(arguments: &mut Arguments, option: Named) -> Result<Option<OsString>, String> {
    let (name, what) = (option.dashed, option.value);
    if what.is_empty() {
        return Ok(arguments.contains(name).then(|| "true".into()));
    }
    let text = |text: &OsStr| Ok::<_, String>(text.to_owned());
    // The first does not know `--name=VALUE`, the second no VALUE that is not UTF-8.
    let value = match arguments.opt_value_from_os_str(name, text) {
        Ok(None) => arguments.opt_value_from_str::<_, String>(name).map(|v| v.map(OsString::from)),
        value => value,
    };
    match value {
        Ok(Some(value)) if value.is_empty() || value.as_bytes().starts_with(b"-") => {
            Err(format!("{name} needs {what} after it, not {}", shown(&value.to_string_lossy())))
        }
        Ok(value) => Ok(value),
        Err(_) => Err(format!("{name} needs {what} after it")),
    }
}

/// What is wrong with an option that nobody has taken.
fn left_over(argument: &str) -> Fault {
    let name = argument.split('=').next().unwrap_or_default();
    match all_options().iter().any(|option| option.dashed == name) {
        true => Fault::Said(format!("{name} takes no value")),
        false => Fault::Unknown(name.to_owned()),
    }
}

impl Fault {
    /// The sentence on it, where `row` is the command.
    fn sentence(self, row: Option<&Row>) -> String {
        let name = match self {
            Fault::Said(sentence) => return sentence,
            Fault::Unknown(name) => name,
        };
        if name == "--passcode" {
            return "--passcode would show the passcode to everybody on this machine (`ps`); use \
                    --passcode-file FILE"
                .into();
        }
        // Where the command has none that is near, another one may be meant.
        let own = names(&row.map(Row::options).unwrap_or_default());
        let all = names(&all_options());
        let word = name.strip_prefix("--").unwrap_or_default();
        let shown = shown(&name);
        match nearest(word, &own).or_else(|| nearest(word, &all)) {
            Some(near) => format!("unknown option {shown}: did you mean --{near}?"),
            None => format!("unknown option {shown}"),
        }
    }
}

/// The command that these words begin with, and how many of them are its name.
fn find(words: &[OsString]) -> Result<(&'static Row, usize), String> {
    let names = || first_words().map(|row| row.name).collect::<Vec<_>>();
    let Some(first) = words.first().map(|word| word.to_string_lossy()) else {
        return Err(format!("no command given; one of {}", names().join(", ")));
    };
    let Some(row) = first_words().find(|row| row.name == first) else {
        return Err(match (&*first, nearest(&first, &names())) {
            ("reload" | "restart", _) => remedy::is_the_services(&remedy::DAEMON, &first),
            (_, Some(near)) => {
                format!("unknown command {}: did you mean `{near}`?", shown(&first))
            }
            _ => {
                format!(
                    "unknown command {}: the commands are {}",
                    shown(&first),
                    names().join(", ")
                )
            }
        });
    };
    let Some(second) = words.get(1).map(|word| word.to_string_lossy()) else { return Ok((row, 1)) };
    if let Some((_, follower)) = row.followers().find(|(word, _)| *word == second) {
        return Ok((follower, 2));
    }
    match (row.name, &*second) {
        ("tunnel", "status") => return Err("did you mean `tunnels status`?".into()),
        ("tunnel" | "tunnels", "start" | "stop" | "reload" | "restart") => {
            return Err(remedy::is_the_services(&remedy::TUNNELS, &second));
        }
        _ => {}
    }
    let followers: Vec<_> = row.followers().map(|(word, _)| word).collect();
    match nearest(&second, &followers) {
        _ if row.arguments == GROUP => Err(needs(row, &followers, &second)),
        Some(near) => Err(format!("unknown argument {}: did you mean `{near}`?", shown(&second))),
        None => Ok((row, 1)),
    }
}

/// The page on the command of these words, or on all.
fn help(words: &[OsString]) -> Result<Command, String> {
    Ok(Command::Help(match words {
        [] => summary(),
        words => find(words)?.0.page(),
    }))
}

/// What an option is that this command does not have.
fn misplaced(option: Named, row: &Row) -> String {
    let (name, command) = (option.dashed, row.name);
    if general(true).contains(&option) {
        return format!("{name} is not an option of `{command}`");
    }
    let homes = TABLE.iter().filter(|row| row.options().contains(&option));
    let homes: Vec<_> = homes.map(|row| row.name).collect();
    format!("{name} is an option of `{}` only", homes.join("` and `"))
}

/// The fault of a command that is followed by a wrong word, or by none: which words may follow.
fn needs(row: &Row, words: &[&'static str], found: &str) -> String {
    let mut said = format!("`{}` must be followed by `{}`", row.name, words.join("` or `"));
    if !found.is_empty() {
        said.push_str(&format!(", not {}", shown(found)));
    }
    if let Some(near) = nearest(found, words) {
        said.push_str(&format!(": did you mean `{near}`?"));
    }
    said
}

/// Takes the next word.
fn next<'a>(words: &mut &'a [OsString]) -> Option<&'a OsStr> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    Some(first)
}

/// Takes the word that names a mapping.
fn name_or_id(row: &Row, words: &mut &[OsString]) -> Result<String, String> {
    let word = next(words).and_then(OsStr::to_str);
    word.map(str::to_owned).ok_or_else(|| format!("`{}` needs a mapping's name or id", row.name))
}

/// What `mapping add` is told.
fn add(public: bool, mut given: Given) -> Result<Add, String> {
    let [connections, threshold] = limits(&mut given)?;
    Ok(Add {
        public,
        connections: connections.and_then(|most| u16::try_from(most).ok()).unwrap_or(60),
        threshold: threshold.unwrap_or(60_000),
        show: given.flag("show"),
        dir: given.folder(),
        members: given.members()?,
    })
}

/// What `mapping change` is told.
fn change(id: String, mut given: Given) -> Result<Request, String> {
    let limits = limits(&mut given)?;
    let mut members = given.members()?;
    for value in members.values_mut() {
        if *value == "none" || value.as_array().is_some_and(|all| all == &["none"]) {
            *value = Value::Null;
        }
    }
    if members.is_empty() && limits == [None; 2] {
        return Err("`mapping change` needs an option: what to change".into());
    }
    Ok(Request::Change { id, members, limits })
}

/// Tunnels of each agent's side, and the silence in milliseconds after which one is closed.
fn limits(given: &mut Given) -> Result<[Option<u64>; 2], String> {
    let connections = given.number("connections", 1, u16::MAX.into())?;
    let threshold = given.number("heartbeat-threshold", 0, LONGEST_THRESHOLD)?;
    if let Some(ms @ 1..300) = threshold {
        // `tunnel` takes no --heartbeat under 100.
        return Err(format!("--heartbeat-threshold: {ms} is less than 300, the least; 0 is never"));
    }
    Ok([connections, threshold])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::help::GROUP;

    fn parsed(line: &str) -> Result<(Command, Options), String> {
        parse(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn commands_and_options_in_any_order() {
        for (line, command) in [
            ("start", Command::Start),
            ("stop", Command::Stop),
            ("upgrade", Command::Upgrade),
            ("status", Command::Status(Shown::default())),
            ("status --json", Command::Status(Shown { json: true, ..Shown::default() })),
            ("status --wide", Command::Status(Shown { wide: true, ..Shown::default() })),
            ("--json status", Command::Status(Shown { json: true, ..Shown::default() })),
            ("status --events", Command::Status(Shown { events: true, ..Shown::default() })),
            ("check", Command::Check { user: None }),
            ("version", Command::Version),
            ("-v", Command::Version),
            ("--version", Command::Version),
            ("help", Command::Help(summary())),
            ("-h", Command::Help(summary())),
            ("-?", Command::Help(summary())),
        ] {
            assert_eq!(parsed(line), Ok((command, Options::default())), "{line}");
        }
        let expected = Options {
            config_dir: "/c".into(),
            run_dir: "/r".into(),
            log_dir: "/l".into(),
            syslog: "/s".into(),
        };
        for line in [
            "start --config /c --run /r --log /l --syslog /s",
            "--config /c --run /r start --log=/l --syslog=/s",
        ] {
            assert_eq!(parsed(line), Ok((Command::Start, expected.clone())), "{line}");
        }
    }

    #[test]
    fn faults_name_the_nearest_known() {
        for (line, fault) in [
            ("", "no command given; one of start, stop,"),
            ("--run /r", "no command given; one of start, stop,"),
            ("strat", "unknown command \"strat\": did you mean `start`?"),
            ("explode", "unknown command \"explode\": the commands are start, stop,"),
            ("start --confg /c", "unknown option \"--confg\": did you mean --config?"),
            ("--confg=/c start", "unknown option \"--confg\": did you mean --config?"),
            ("start --frobnicate", "unknown option \"--frobnicate\""),
            ("start --jsn", "unknown option \"--jsn\": did you mean --json?"),
            ("start -x", "unknown option \"-x\""),
            ("start now", "unknown argument \"now\""),
            ("start --run", "--run needs DIR after it"),
            ("--config= start", "--config needs DIR after it"),
            ("start --config --run /r", "--config needs DIR after it, not \"--run\""),
            ("start --run /a --run /b", "option --run is given twice"),
            ("reload", "reload is the service's: `systemctl reload iofog-connector`"),
            ("tunnel status", "did you mean `tunnels status`?"),
            ("tunnels stop", "stop is the service's: `systemctl stop iofog-connector-tunnels`, or"),
            (
                "mapping add public --heartbeat-threshold 299",
                "--heartbeat-threshold: 299 is less than 300, the least; 0 is never",
            ),
            ("stat", "unknown command \"stat\": did you mean `status`?"),
            ("mapping list --json", "--json is an option of `status` and `tunnels status` only"),
            ("mapping list --user x", "--user is an option of `check` only"),
            ("tunnel --log /l", "--log is not an option of `tunnel`"),
            ("tunnel --json", "--json is an option of `status` and `tunnels status` only"),
            ("start --json", "--json is an option of `status` and `tunnels status` only"),
            (
                "status --connections 3",
                "--connections is an option of `mapping add` and `mapping change` and `tunnel` only",
            ),
            ("start --target=t:1", "--target is an option of `tunnel` and `tunnel install` only"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.starts_with(fault), "{line}: {error}");
        }
    }

    #[test]
    fn a_tunnel_has_options_of_its_own() {
        let given = |line: &str| match parsed(line) {
            Ok((Command::Tunnel(given), _)) => Ok(given),
            Ok(other) => panic!("{line}: {other:?}"),
            Err(fault) => Err(fault),
        };
        let options = given("tunnel --connector c:1 --plain --target=t:2").unwrap();
        let expected = [("connector", "c:1"), ("target", "t:2"), ("plain", "true")];
        let expected = expected.map(|(name, value)| (name, value.into()));
        assert_eq!(options, tunnel::Given::from_iter(expected));
        let pinned = given("tunnel --pin a --target t:2 --pin=b,c").unwrap();
        assert_eq!(pinned.get("pin"), Some(&"a,b,c".into()), "--pin may be given several times");
        for (line, fault) in [
            ("tunnel --target t:1 --target t:2", "option --target is given twice"),
            ("tunnel --passcode x", "--passcode would show the passcode"),
            ("tunnel --conector c:1", "unknown option \"--conector\": did you mean --connector?"),
            ("tunnel --ca", "--ca needs FILE after it"),
            ("tunnel --target --plain", "--target needs HOST:PORT after it, not \"--plain\""),
            ("tunnel secret", "unknown argument \"secret\""),
        ] {
            let error = given(line).unwrap_err();
            assert!(error.starts_with(fault), "{line}: {error}");
        }
    }

    #[test]
    fn mappings_are_added_listed_and_removed() {
        let request = |line: &str| match parsed(line) {
            Ok((Command::Mapping(request), _)) => Ok(request),
            Ok(other) => panic!("{line}: {other:?}"),
            Err(fault) => Err(fault),
        };
        let add = Add {
            public: true,
            connections: 60,
            threshold: 60_000,
            members: Map::new(),
            show: false,
            dir: ".".into(),
        };
        assert_eq!(request("mapping add public"), Ok(Request::Add(add.clone())));
        let private = Add {
            public: false,
            connections: 2,
            threshold: 0,
            members: Map::new(),
            show: true,
            dir: "/d".into(),
        };
        for line in [
            "mapping add private --connections 2 --heartbeat-threshold 0 --show --dir /d",
            "--run /r mapping --show --dir=/d add --connections=2 private --heartbeat-threshold 0",
        ] {
            assert_eq!(request(line), Ok(Request::Add(private.clone())), "{line}");
        }
        assert_eq!(request("mapping list"), Ok(Request::List { wide: false }));
        assert_eq!(
            request("mapping remove a-b"),
            Ok(Request::Remove { id: "a-b".into(), dir: ".".into() })
        );
        assert_eq!(
            request("mapping remove a-b --dir /d"),
            Ok(Request::Remove { id: "a-b".into(), dir: "/d".into() })
        );
        let members = serde_json::json!({"allow": null, "alpn": ["h2", "http/1.1"], "idle": 2000});
        assert_eq!(
            request("mapping change a --allow none --alpn h2,http/1.1 --idle 2000 --connections 3"),
            Ok(Request::Change {
                id: "a".into(),
                members: members.as_object().unwrap().clone(),
                limits: [Some(3), None]
            })
        );
        for (line, fault) in [
            ("mapping", "`mapping` must be followed by `add`"),
            (
                "mapping drop",
                "`mapping` must be followed by `add` or `list` or `show` or `change` or `passcode` or `remove`, not \"drop\"",
            ),
            (
                "mapping ad public",
                "`mapping` must be followed by `add` or `list` or `show` or `change` or `passcode` or `remove`, not \"ad\": did",
            ),
            ("mapping add", "`mapping add` must be followed by `public` or `private`"),
            (
                "mapping add publc",
                "`mapping add` must be followed by `public` or `private`, not \"publc\": did you mean \
                 `public`?",
            ),
            ("mapping remove", "`mapping remove` needs a mapping's name or id"),
            (
                "mapping add public --connections 0",
                "--connections: \"0\" is not a number from 1 to 65535",
            ),
            (
                "mapping add public --connections 70000",
                "--connections: \"70000\" is not a number from 1 to 65535",
            ),
            ("mapping add public --connections x", "--connections: \"x\" is not a number"),
            (
                "mapping add public --heartbeat-threshold 2147483648",
                "--heartbeat-threshold: \"2147483648\" is not a number from 0 to 2147483647",
            ),
            (
                "mapping add public --target t:1",
                "--target is an option of `tunnel` and `tunnel install` only",
            ),
            ("mapping add public --conections 5", "unknown option \"--conections\": did you"),
            (
                "mapping list --show",
                "--show is an option of `mapping add` and `mapping passcode` only",
            ),
            (
                "mapping remove a --connections 3",
                "--connections is an option of `mapping add` and `mapping change` and `tunnel` only",
            ),
            ("mapping list all", "unknown argument \"all\""),
        ] {
            let error = request(line).unwrap_err();
            assert!(error.starts_with(fault), "{line}: {error}");
        }
    }

    #[test]
    fn paths_need_not_be_text() {
        use std::os::unix::ffi::OsStringExt;
        let path = OsString::from_vec(b"/tmp/\xff".to_vec());
        let (_, options) = parse(vec!["start".into(), "--run".into(), path.clone()]).unwrap();
        assert_eq!(options.run_dir, PathBuf::from(path));
        assert!(parse(vec![OsString::from_vec(vec![0xff])]).is_err());
    }

    #[test]
    fn word_that_may_hold_a_password_is_not_repeated() {
        for line in ["", "start ", "help start ", "mapping ", "mapping add ", "tunnel "] {
            let error = parsed(&format!("{line}http://me:SECRET@p:1")).unwrap_err();
            assert!(!error.contains("SECRET") && error.contains("not repeated"), "{error}");
        }
        for line in [
            "tunnel --proxyhttp://me:SECRET@p:1",
            "--http://me:SECRET@p:1 tunnel",
            "tunnel --listen --proxyhttp://me:SECRET@p:1",
            "tunnels http://me:SECRET@p:1",
            "http://me:SECRET@p:1 --help",
        ] {
            let error = parsed(line).unwrap_err();
            assert!(!error.contains("SECRET"), "{line}: {error}");
        }
        let words = ["tunnel", "--proxi http://me:SECRET@p:1"].map(OsString::from);
        let error = parse(words.to_vec()).unwrap_err();
        assert!(!error.contains("SECRET"), "{error}");
        let error = parsed("mapping add public --connections http://me:SECRET@p:1").unwrap_err();
        assert!(!error.contains("SECRET"), "{error}");
        assert!(parsed("help mapping add public").is_ok());
    }

    #[test]
    fn every_command_has_a_page_that_fits_a_screen_with_an_example_that_is_understood() {
        for row in TABLE {
            let page = row.page();
            let name = row.name;
            for line in [format!("help {name}"), format!("{name} --help"), format!("-h {name}")] {
                let asked = parsed(&line);
                assert_eq!(asked, Ok((Command::Help(page.clone()), Options::default())), "{line}");
            }
            assert!(page.starts_with(&format!("Usage: iofog-connector {name}")), "{page}");
            let fits = |line: &str| line.chars().count() <= 80;
            assert!(page.lines().all(fits) && page.lines().count() <= 34, "{page}");
            let words = row.example.replace('\\', " ");
            let words = words.trim_start_matches("sudo ").strip_prefix("iofog-connector ");
            let words = words.expect("a command");
            assert!(words.starts_with(name) || row.arguments == GROUP, "{page}");
            assert!(parsed(words).is_ok(), "{page}: {:?}", parsed(words));
        }
        assert!(summary().lines().all(|line| line.chars().count() <= 80));
        assert!(summary().lines().count() <= 34);
    }

    #[test]
    fn every_command_is_listed_with_its_meaning() {
        for row in TABLE {
            let (group, word) = row.name.split_once(' ').unwrap_or(("", row.name));
            let listed = match TABLE.iter().find(|row| row.name == group) {
                Some(group) => group.page(),
                None => summary(),
            };
            assert!(listed.contains(&format!("\n  {word} ")), "{listed}");
            assert!(listed.contains(&format!("  {}\n", row.meaning)), "{listed}");
        }
    }

    #[test]
    fn an_option_is_of_one_kind_wherever_it_is_allowed() {
        for option in all_options() {
            let same = |other: Named| other.name() != option.name() || other.value == option.value;
            assert!(all_options().into_iter().all(same), "{option:?}");
        }
    }

    #[test]
    fn help_before_a_command_takes_its_options_as_help_behind_it_does() {
        for (before, behind) in [
            ("help status --json", "status --json --help"),
            ("help tunnel --target localhost:22", "tunnel --target localhost:22 --help"),
            ("help --json", "--json --help"),
        ] {
            assert_eq!(parsed(before), parsed(behind), "{before}");
            assert!(matches!(parsed(before), Ok((Command::Help(_), _))), "{before}");
        }
    }

    #[test]
    fn help_on_a_wrong_word_names_it_and_the_nearest() {
        for (line, fault) in [
            ("help mappin", "unknown command \"mappin\": did you mean `mapping`?"),
            ("mappin --help", "unknown command \"mappin\": did you mean `mapping`?"),
            ("help mapping ad", "`mapping` must be followed by `add` or"),
            ("help start --jsn", "unknown option \"--jsn\""),
            ("help mapping list bogus", "unknown argument \"bogus\""),
            ("help tunnel bogus extra", "unknown argument \"bogus\""),
            ("help start now", "unknown argument \"now\""),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.starts_with(fault), "{line}: {error}");
        }
    }
}
