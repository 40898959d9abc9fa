//! Reads the command line (protocol page, section 7): arguments in, a command or a sentence out.

use std::ffi::OsString;
use std::path::PathBuf;

use pico_args::Arguments;
use serde_json::{Map, Value};

use super::mapping::{Add, Request};
use crate::agent::options as tunnel;
use crate::api::LONGEST_THRESHOLD;
use crate::config::folders::Options;
use crate::config::nearest;

/// Commands and options, for the nearest one to a mistyped word.
const COMMANDS: &[&str] =
    &["start", "stop", "status", "check", "mapping", "tunnel", "version", "help"];
const OPTIONS: &[&str] = &["config", "run", "log", "syslog", "json", "user", "help", "version"];
const MAPPING_OPTIONS: &[&str] = &[
    "name",
    "port1",
    "port2",
    "users",
    "allow",
    "users-per-address",
    "idle",
    "connections",
    "heartbeat-threshold",
    "dir",
    "show",
    "run",
];

/// Options of `mapping add` that go to the API as they are, and their members there.
const MEMBERS: [(&str, &str); 7] = [
    ("--name", "name"),
    ("--port1", "port1"),
    ("--port2", "port2"),
    ("--users", "users"),
    ("--allow", "allow"),
    ("--users-per-address", "usersperaddress"),
    ("--idle", "idle"),
];

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Start,
    Stop,
    Status { json: bool },
    Check { user: Option<String> },
    Mapping(Request),
    Tunnel(tunnel::Given),
    TunnelHelp,
    MappingHelp,
    Version,
    Help,
}

/// Reads the whole command line, or says what is wrong with it.
pub(super) fn parse(arguments: Vec<OsString>) -> Result<(Command, Options), String> {
    let mut arguments = Arguments::from_vec(arguments);
    if arguments.contains(["-h", "--help"]) || arguments.contains("-?") {
        return Ok((help(&mut arguments), Options::default()));
    }
    if arguments.contains(["-v", "--version"]) {
        return Ok((Command::Version, Options::default()));
    }
    let mut options = Options::default();
    for (name, path) in [
        ("--config", &mut options.config_dir),
        ("--run", &mut options.run_dir),
        ("--log", &mut options.log_dir),
        ("--syslog", &mut options.syslog),
    ] {
        if let Some(value) = value(&mut arguments, name, "a path")? {
            *path = value.into();
        }
    }
    let json = arguments.contains("--json");
    let user = match value(&mut arguments, "--user", "a user's name")? {
        Some(user) => Some(user.into_string().map_err(|_| "--user: not UTF-8 text".to_owned())?),
        None => None,
    };
    let command = match arguments.subcommand() {
        Ok(Some(name)) if name == "tunnel" => {
            if options != Options::default() {
                return Err(
                    "--config, --run, --log and --syslog are not options of `tunnel`".into()
                );
            }
            Command::Tunnel(parse_tunnel(&mut arguments)?)
        }
        Ok(Some(name)) if name == "help" => help(&mut arguments),
        Ok(Some(name)) if name == "mapping" => Command::Mapping(parse_mapping(&mut arguments)?),
        Ok(Some(name)) => command(&name, json, user.clone())?,
        // There is an unknown option in its place, or nothing.
        Ok(None) => {
            let missing = || format!("no command given; one of {}", COMMANDS.join(", "));
            return Err(unknown(arguments, OPTIONS).unwrap_or_else(missing));
        }
        Err(_) => return Err("the command is not UTF-8 text".into()),
    };
    let known = match command {
        Command::Mapping(_) => MAPPING_OPTIONS.to_vec(),
        Command::Tunnel(_) => {
            [tunnel::VALUES, tunnel::FLAGS].concat().iter().map(|option| option.0).collect()
        }
        _ => OPTIONS.to_vec(),
    };
    match unknown(arguments, &known) {
        Some(fault) => Err(fault),
        None if json && command != (Command::Status { json }) => {
            Err("--json is an option of `status` only".into())
        }
        None if user.is_some() && !matches!(command, Command::Check { .. }) => {
            Err("--user is an option of `check` only".into())
        }
        None => Ok((command, options)),
    }
}

fn command(name: &str, json: bool, user: Option<String>) -> Result<Command, String> {
    Ok(match name {
        "start" => Command::Start,
        "stop" => Command::Stop,
        "status" => Command::Status { json },
        "check" => Command::Check { user },
        "version" => Command::Version,
        "reload" | "restart" => {
            return Err(format!(
                "{name} is the service's: `systemctl {name} iofog-connector`, or `service \
                 iofog-connector {name}`"
            ));
        }
        _ => {
            let hint = match nearest(name, COMMANDS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the commands are {}", COMMANDS.join(", ")),
            };
            return Err(format!("unknown command {name:?}: {hint}"));
        }
    })
}

/// Reads the options of `tunnel`; the command itself checks what they mean.
fn parse_tunnel(arguments: &mut Arguments) -> Result<tunnel::Given, String> {
    let mut given = tunnel::Given::new();
    for (name, dashed) in tunnel::VALUES {
        while let Some(value) = value(arguments, dashed, "a value")? {
            let all = given.entry(name).or_default();
            if !all.is_empty() {
                all.push(",");
            }
            all.push(value);
            // A second one of any other is found as what is left over.
            if *name != "pin" {
                break;
            }
        }
    }
    for (name, dashed) in tunnel::FLAGS {
        if arguments.contains(*dashed) {
            given.insert(name, "true".into());
        }
    }
    if arguments.contains("--passcode") {
        return Err("--passcode would show the passcode to everybody on this machine (`ps`); use \
                    --passcode-file FILE"
            .into());
    }
    Ok(given)
}

/// The page on the command that comes next, or the general one.
fn help(arguments: &mut Arguments) -> Command {
    match arguments.subcommand().ok().flatten().as_deref() {
        Some("tunnel") => Command::TunnelHelp,
        Some("mapping") => Command::MappingHelp,
        _ => Command::Help,
    }
}

/// Reads what follows `mapping`.
fn parse_mapping(arguments: &mut Arguments) -> Result<Request, String> {
    let mut number = |name, least: u64, most: u64| {
        let Some(text) = value(arguments, name, "a number")? else { return Ok(None) };
        text.to_str()
            .and_then(|text| text.parse().ok())
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| format!("{name}: {text:?} is not a number from {least} to {most}"))
            .map(Some)
    };
    let connections = number("--connections", 1, u16::MAX.into())?;
    let threshold = number("--heartbeat-threshold", 0, LONGEST_THRESHOLD)?;
    if let Some(ms @ 1..300) = threshold {
        // `tunnel` takes no --heartbeat under 100.
        return Err(format!("--heartbeat-threshold: {ms} is less than 300, the least; 0 is never"));
    }
    let dir = value(arguments, "--dir", "a path")?.map(PathBuf::from);
    let show = arguments.contains("--show");
    let members = members(arguments)?;
    let mut given = vec![
        ("--dir", dir.is_some()),
        ("--connections", connections.is_some()),
        ("--heartbeat-threshold", threshold.is_some()),
        ("--show", show),
    ];
    given.extend(MEMBERS.map(|(option, member)| (option, members.contains_key(member))));
    let folder = dir.unwrap_or_else(|| ".".into());
    let useless = |from: usize, command| match given[from..].iter().find(|option| option.1) {
        Some((name, _)) => Err(format!("{name} is not an option of `mapping {command}`")),
        None => Ok(()),
    };
    let word = |arguments: &mut Arguments| match arguments.opt_free_from_str::<String>() {
        Ok(Some(word)) if word.starts_with('-') => {
            let rest = Arguments::from_vec(vec![word.into()]);
            Err(unknown(rest, MAPPING_OPTIONS).unwrap_or_default())
        }
        Ok(word) => Ok(word.unwrap_or_default()),
        Err(_) => Err("the arguments of `mapping` are not UTF-8 text".to_owned()),
    };
    let request = match word(arguments)?.as_str() {
        "add" => {
            let public = match word(arguments)?.as_str() {
                "public" => true,
                "private" => false,
                other => return Err(needs("mapping add", &["public", "private"], other)),
            };
            let connections = u16::try_from(connections.unwrap_or(60)).unwrap_or(u16::MAX);
            let threshold = threshold.unwrap_or(60_000);
            Request::Add(Add { public, connections, threshold, members, show, dir: folder })
        }
        "list" => {
            useless(0, "list")?;
            Request::List
        }
        "remove" => match word(arguments)? {
            id if id.is_empty() => {
                return Err("`mapping remove` needs a mapping's name or id".into());
            }
            id => {
                useless(1, "remove")?;
                Request::Remove { id, dir: folder }
            }
        },
        other => return Err(needs("mapping", &["add", "list", "remove"], other)),
    };
    Ok(request)
}

/// The members of the API that options of `mapping add` give, for the daemon to judge.
fn members(arguments: &mut Arguments) -> Result<Map<String, Value>, String> {
    let mut members = Map::new();
    for (option, member) in MEMBERS {
        let what = match member {
            "users" => "tls or plain",
            "name" => "a name",
            "allow" => "addresses or ranges, with commas between them,",
            _ => "a number",
        };
        let Some(text) = value(arguments, option, what)? else { continue };
        let Some(text) = text.to_str() else {
            return Err(format!("{option}: {text:?} is not text"));
        };
        let value = match member {
            "allow" => text.split(',').map(str::trim).collect(),
            "name" | "users" => text.into(),
            _ => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
        };
        members.insert(member.to_owned(), value);
    }
    Ok(members)
}

/// The fault of a command that is followed by a wrong word, or by none: which words may follow.
fn needs(command: &str, words: &[&'static str], found: &str) -> String {
    let mut said = format!("`{command}` must be followed by `{}`", words.join("` or `"));
    if !found.is_empty() {
        said.push_str(&format!(", not {found:?}"));
    }
    if let Some(near) = nearest(found, words) {
        said.push_str(&format!(": did you mean `{near}`?"));
    }
    said
}

/// What is given as `--name VALUE` or `--name=VALUE`; `what` says what is expected.
fn value(
    arguments: &mut Arguments,
    name: &'static str,
    what: &str,
) -> Result<Option<OsString>, String> {
    let text = |text: &std::ffi::OsStr| Ok::<_, String>(text.to_owned());
    let value = match arguments.opt_value_from_os_str(name, text) {
        Ok(None) => arguments.opt_value_from_str::<_, String>(name).map(|v| v.map(OsString::from)),
        value => value,
    };
    match value {
        Ok(Some(value)) if value.is_empty() || value.as_encoded_bytes().starts_with(b"-") => {
            Err(format!("{name} needs {what} after it, not {:?}", value.to_string_lossy()))
        }
        Ok(value) => Ok(value),
        Err(_) => Err(format!("{name} needs {what} after it")),
    }
}

/// What is wrong with the first argument that is left over.
fn unknown(arguments: Arguments, options: &[&'static str]) -> Option<String> {
    let rest = arguments.finish();
    let first = rest.first()?.to_string_lossy();
    let name = first.split('=').next().unwrap_or_default();
    let Some(word) = name.strip_prefix("--") else {
        let kind = if first.starts_with('-') { "option" } else { "argument" };
        return Some(format!("unknown {kind} {first:?}"));
    };
    let is_of = |options: &[(&str, &str)]| options.iter().any(|option| option.0 == word);
    let homes = [
        ("mapping", MAPPING_OPTIONS.contains(&word)),
        ("tunnel", is_of(tunnel::VALUES) || is_of(tunnel::FLAGS)),
    ];
    let homes: Vec<_> = homes.iter().filter(|home| home.1).map(|home| home.0).collect();
    if !options.contains(&word) && !homes.is_empty() {
        return Some(format!("{name} is an option of `{}` only", homes.join("` and `")));
    }
    Some(match nearest(word, options) {
        Some(near) if near == word => format!("option {name} is given twice"),
        Some(near) => format!("unknown option {name:?}: did you mean --{near}?"),
        None => format!("unknown option {name:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::help::{HELP, MAPPING_HELP, TUNNEL_HELP};

    fn parsed(line: &str) -> Result<(Command, Options), String> {
        parse(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn commands_and_options_in_any_order() {
        for (line, command) in [
            ("start", Command::Start),
            ("stop", Command::Stop),
            ("status", Command::Status { json: false }),
            ("status --json", Command::Status { json: true }),
            ("--json status", Command::Status { json: true }),
            ("check", Command::Check { user: None }),
            ("version", Command::Version),
            ("-v", Command::Version),
            ("--version", Command::Version),
            ("help", Command::Help),
            ("help tunnel", Command::TunnelHelp),
            ("-h", Command::Help),
            ("-?", Command::Help),
            ("start --help", Command::Help),
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
            ("start -x", "unknown option \"-x\""),
            ("start now", "unknown argument \"now\""),
            ("start --run", "--run needs a path after it"),
            ("--config= start", "--config needs a path after it"),
            ("start --config --run /r", "--config needs a path after it, not \"--run\""),
            ("start --run /a --run /b", "option --run is given twice"),
            ("reload", "reload is the service's: `systemctl reload iofog-connector`"),
            (
                "mapping add public --heartbeat-threshold 299",
                "--heartbeat-threshold: 299 is less than 300, the least; 0 is never",
            ),
            ("stat", "unknown command \"stat\": did you mean `status`?"),
            ("mapping list --json", "--json is an option of `status` only"),
            ("mapping list --user x", "--user is an option of `check` only"),
            ("tunnel --log /l", "--config, --run, --log and --syslog are not options of `tunnel`"),
            ("tunnel --json", "--json is an option of `status` only"),
            ("start --json", "--json is an option of `status` only"),
            ("status --connections 3", "--connections is an option of `mapping` and `tunnel` only"),
            ("start --target=t:1", "--target is an option of `tunnel` only"),
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
        let expected = [("connector", "c:1"), ("plain", "true"), ("target", "t:2")];
        assert_eq!(options, expected.map(|(name, value)| (name, value.into())).into());
        let pinned = given("tunnel --pin a --target t:2 --pin=b,c").unwrap();
        assert_eq!(pinned.get("pin"), Some(&"a,b,c".into()), "--pin may be given several times");
        for (line, fault) in [
            ("tunnel --target t:1 --target t:2", "option --target is given twice"),
            ("tunnel --passcode x", "--passcode would show the passcode"),
            ("tunnel --conector c:1", "unknown option \"--conector\": did you mean --connector?"),
            ("tunnel --ca", "--ca needs a value after it"),
            ("tunnel --target --plain", "--target needs a value after it, not \"--plain\""),
            ("tunnel secret", "unknown argument \"secret\""),
        ] {
            let error = given(line).unwrap_err();
            assert!(error.starts_with(fault), "{line}: {error}");
        }
        assert_eq!(parsed("tunnel --help"), Ok((Command::TunnelHelp, Options::default())));
        let options = [tunnel::VALUES, tunnel::FLAGS].concat();
        assert!(options.iter().all(|(_, dashed)| TUNNEL_HELP.contains(dashed)));
        assert!(TUNNEL_HELP.lines().all(|line| line.chars().count() <= 90));
        assert!(TUNNEL_HELP.lines().count() <= 32);
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
        assert_eq!(request("mapping list"), Ok(Request::List));
        assert_eq!(
            request("mapping remove a-b"),
            Ok(Request::Remove { id: "a-b".into(), dir: ".".into() })
        );
        assert_eq!(
            request("mapping remove a-b --dir /d"),
            Ok(Request::Remove { id: "a-b".into(), dir: "/d".into() })
        );
        for (line, fault) in [
            ("mapping", "`mapping` must be followed by `add`"),
            (
                "mapping drop",
                "`mapping` must be followed by `add` or `list` or `remove`, not \"drop\"",
            ),
            (
                "mapping ad public",
                "`mapping` must be followed by `add` or `list` or `remove`, not \"ad\": did",
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
            ("mapping add public --target t:1", "--target is an option of `tunnel` only"),
            ("mapping add public --conections 5", "unknown option \"--conections\": did you"),
            ("mapping list --show", "--show is not an option of `mapping list`"),
            (
                "mapping remove a --connections 3",
                "--connections is not an option of `mapping remove`",
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
    fn page_on_mappings_names_all_their_options() {
        for line in ["mapping --help", "help mapping", "mapping add --help"] {
            assert_eq!(parsed(line), Ok((Command::MappingHelp, Options::default())));
        }
        let named = |name: &str| {
            MAPPING_HELP.contains(&format!("\n  --{name} "))
                || MAPPING_HELP.contains(&format!("\n  --{name}\n"))
        };
        assert!(MAPPING_OPTIONS.iter().all(|name| named(name)), "{MAPPING_HELP}");
        assert!(MAPPING_HELP.lines().all(|line| line.chars().count() <= 90));
        assert!(MAPPING_HELP.lines().count() <= 34);
    }

    #[test]
    fn help_fits_a_screen_and_names_everything() {
        assert!(HELP.lines().all(|line| line.chars().count() <= 90));
        assert!(HELP.lines().count() <= 34);
        assert!(COMMANDS.iter().all(|name| HELP.contains(&format!("\n  {name} "))));
        assert!(OPTIONS.iter().all(|name| HELP.contains(&format!("--{name}"))));
    }
}
