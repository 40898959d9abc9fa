//! The settings file as tables: what is accepted, what is refused and in which words.

use super::*;
use crate::logging::Formats;

/// The sample of the original's documentation.
const SAMPLE: &str = r#"{
"ports": ["6000-6001", "7000-7002", "30000-39999", "40000-49999"],
"exclude": ["7001"],
"broker":12345,
"address":"127.0.0.1",
"dev":true
}"#;

/// Five good keys, with `more` among them; a key in `more` replaces the good one.
fn file_with(more: &str) -> String {
    let mut text = String::from("{");
    for (key, value) in [
        ("ports", r#"["6000-6009"]"#),
        ("exclude", "[]"),
        ("broker", "12345"),
        ("address", r#""127.0.0.1""#),
        ("dev", "true"),
    ] {
        if !more.contains(&format!("\"{key}\":")) {
            text.push_str(&format!("\"{key}\":{value},"));
        }
    }
    text.push_str(more);
    format!("{}}}", text.trim_end_matches(','))
}

fn parse(text: &str) -> Result<(Config, Vec<String>), Faults> {
    Config::parse(text.as_bytes(), Path::new("/etc/x/iofog-connector.conf"))
}

fn good(more: &str) -> Config {
    parse(&file_with(more)).unwrap_or_else(|faults| panic!("{more}: {faults}")).0
}

#[test]
fn sample_file_is_safe_as_it_stands() {
    let (config, warnings) = parse(SAMPLE).expect("the sample");
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.ports.len(), 2 + 2 + 20_000);
    assert!(!config.ports.contains(&7001));
    assert_eq!(
        config,
        Config {
            ports: config.ports.clone(),
            broker: 12345,
            address: "127.0.0.1".to_owned(),
            dev: true,
            api: "127.0.0.1:8080".parse().expect("an address"),
            controllers: None,
            controller_ca: None,
            listen: Some(Ipv4Addr::LOCALHOST.into()),
            threads: config.threads,
            log_level: LevelFilter::Info,
            log_formats: Formats::default(),
            user_wait: Duration::from_secs(10),
            pending: 128,
            drain: Duration::from_secs(5),
            handover: Duration::from_secs(3600),
            fin_wait: Duration::from_secs(60),
            connection_log: false,
            sandbox: Sandbox::On,
            has_file: true,
        }
    );
    assert!(config.threads >= 1);
}

#[test]
fn agents_side_waits_longer_than_any_finwait() {
    let longest = good(r#""finwait":86400000"#).fin_wait;
    assert!(parse(&file_with(r#""finwait":86400001"#)).is_err(), "there is a longer one");
    assert!(longest < crate::limits::AGENT_FIN_WAIT, "the agent would end it before its time");
}

#[test]
fn every_optional_key_is_read() {
    let config = good(
        r#""api":"[::1]:9000","controllers":["10.0.0.0/8","::1"],"controllerca":"ca.pem",
        "listen":"192.0.2.1","threads":3,"loglevel":"debug","userwait":0,"pending":65535,
        "drain":0,"handover":7,"finwait":1,"connectionlog":true,"dev":false,"logformat":" JSON","syslogformat":"rfc5424""#,
    );
    assert_eq!(config.api, "[::1]:9000".parse().expect("an address"));
    assert_eq!(config.controllers.as_ref().map(Vec::len), Some(2));
    assert_eq!(config.controller_ca, Some(PathBuf::from("/etc/x/ca.pem")));
    assert_eq!(config.listen, Some(Ipv4Addr::new(192, 0, 2, 1).into()));
    assert_eq!((config.threads, config.pending), (3, 65535));
    assert_eq!(config.log_level, LevelFilter::Debug);
    assert_eq!(config.user_wait, Duration::ZERO);
    assert_eq!(config.drain, Duration::ZERO);
    assert_eq!(config.handover, Duration::from_millis(7));
    assert_eq!(config.fin_wait, Duration::from_millis(1));
    assert!(config.connection_log && !config.dev);
    assert_eq!(config.log_formats, Formats { json: true, structured: true });
    let absolute = good(r#""controllerca":"/ca.pem","listen":"::""#);
    assert_eq!(absolute.controller_ca, Some(PathBuf::from("/ca.pem")));
    assert_eq!(absolute.listen, None);
}

#[test]
fn addresses_of_api_and_pipes_follow_from_address_and_dev() {
    for (address, dev, api) in [
        ("127.0.0.1", true, "127.0.0.1:8080"),
        ("127.0.0.1", false, "127.0.0.1:443"),
        ("127.0.0.9", false, "127.0.0.9:443"),
        ("::1", true, "[::1]:8080"),
        ("::ffff:127.0.0.1", true, "127.0.0.1:8080"),
        ("localhost", true, "127.0.0.1:8080"),
        ("LocalHost.", true, "127.0.0.1:8080"),
        ("a.localhost", true, "127.0.0.1:8080"),
        ("192.0.2.1", true, "[::]:8080"),
        ("2001:db8::1", false, "[::]:443"),
        ("connector.example.com", false, "[::]:443"),
        ("localhost.example.com", false, "[::]:443"),
    ] {
        let config = good(&format!(r#""address":"{address}","dev":{dev}"#));
        assert_eq!(config.api.to_string(), api, "{address}");
        let listen = config.listen.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        assert_eq!(listen, config.api.ip(), "{address}");
        let everywhere = good(&format!(r#""address":"{address}","listen":"::""#));
        assert_eq!((everywhere.listen, everywhere.loopback_notice()), (None, None), "{address}");
    }
}

#[test]
fn faults_name_file_key_value_and_remedy() {
    for (more, sentence) in [
        (
            r#""ports":["6000","7000-6000"]"#,
            r#"ports[1]: "7000-6000": the range ends before it starts; write "6000-7000"."#,
        ),
        (r#""ports":[6000]"#, r#"ports[0]: 6000: write it in quotes: "6000"."#),
        (r#""ports":[]"#, "ports: no port is left for mappings"),
        (r#""ports":["7001"],"exclude":["7000-7002"]"#, "ports: no port is left for mappings"),
        (r#""ports":"6000""#, r#"ports: "6000": this is a string; an array such as"#),
        (r#""exclude":[null]"#, "exclude[0]: null: this is null; a string such as"),
        (r#""broker":0"#, "broker: 0: a port number from 1 to 65535 is expected."),
        (r#""broker":65536"#, "broker: 65536: a port number"),
        (r#""broker":-1"#, "broker: -1: a port number"),
        (r#""broker":12.5"#, "broker: 12.5: a port number"),
        (r#""broker":"12345""#, r#"broker: "12345": this is a string; a port number from 1 to"#),
        (r#""address":17"#, "address: 17: this is a number; an IP address or a domain name"),
        (r#""address":"a b""#, r#"address: "a b": a name has letters, digits"#),
        (r#""dev":"true""#, r#"dev: "true": this is a string; true or false (without quotes)"#),
        (r#""dev":1"#, "dev: 1: this is a number"),
        (r#""api":"8080""#, r#"api: "8080": IP:PORT such as "#),
        (r#""api":"::1:0x1""#, "api: "),
        (r#""api":"localhost:8080""#, "api: "),
        (r#""api":"127.0.0.1:0""#, r#"api: "127.0.0.1:0": the port must be 1 to 65535."#),
        (r#""api":null"#, "api: null: this is null"),
        (r#""controllers":[]"#, "controllers: []: nobody could call the API"),
        (r#""controllers":["10.0.0.1/8"]"#, "controllers[0]: \"10.0.0.1/8\": the address has bits"),
        (r#""controllers":"10.0.0.1""#, "controllers: \"10.0.0.1\": this is a string; an array"),
        (r#""controllerca":"""#, "controllerca: \"\": the path of a PEM file is expected."),
        (r#""listen":"eth0""#, "listen: \"eth0\": an IP address of this machine is expected"),
        (r#""threads":0"#, "threads: 0: a number from 1 to 256 is expected."),
        (r#""threads":257"#, "threads: 257: a number from 1 to 256"),
        (r#""loglevel":"off""#, "loglevel: \"off\": one of error, warn, info, debug, trace"),
        (r#""loglevel":"loud""#, "loglevel: \"loud\": one of error"),
        (r#""logformat":"xml""#, "logformat: \"xml\": one of text, json is expected."),
        (r#""logformat":true"#, "logformat: true: this is true or false; one of text, json"),
        (r#""syslogformat":"json""#, "syslogformat: \"json\": one of rfc3164, rfc5424"),
        (r#""userwait":-1"#, "userwait: -1: a number of milliseconds from 0 to 86400000"),
        (r#""userwait":86400001"#, "userwait: 86400001: a number of milliseconds"),
        (r#""finwait":0"#, "finwait: 0: a number of milliseconds from 1 to"),
        (r#""pending":0"#, "pending: 0: a number from 1 to 65535 is expected."),
        (r#""connectionlog":[]"#, "connectionlog: []: this is an array"),
        (r#""sandbox":"yes""#, "sandbox: \"yes\": one of on, kill, report, off is expected."),
        (r#""sandbox":true"#, "sandbox: true: this is true or false; one of on"),
        (r#""drain":1,"drain":2"#, "drain: is given twice, 1 and 2; keep one."),
    ] {
        let faults = parse(&file_with(more)).expect_err(more);
        let [fault] = faults.sentences() else { panic!("{more}: {faults}") };
        let wanted = format!("/etc/x/iofog-connector.conf: {sentence}");
        assert!(fault.starts_with(&wanted), "{more}\n{fault}\n{wanted}");
    }
}

#[test]
fn all_faults_are_reported_at_once() {
    let text = r#"{"ports":["0","x"],"exclude":"7001","broker":99999,"dev":true,"threads":0}"#;
    let faults = parse(text).expect_err("six faults");
    let lines: Vec<String> = faults.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 6, "{lines:#?}");
    for (line, start) in
        lines.iter().zip(["ports[0]", "ports[1]", "exclude", "broker", "address", "threads"])
    {
        assert!(line.starts_with(&format!("/etc/x/iofog-connector.conf: {start}: ")), "{line}");
    }
    assert!(lines[4].ends_with("address: is missing; an IP address or domain name is required."));
    assert_eq!(parse("{}").expect_err("five missing").sentences().len(), 5);
}

#[test]
fn text_that_is_no_json_is_placed() {
    for (text, sentence) in [
        (
            "{\n\"dev\": true,\n}",
            "line 3, column 1: a comma stands before }; take out the comma after the last item.",
        ),
        ("{\n\"dev\": yes\n}", "line 2, column 8: a value is expected, and a letter stands there."),
        ("", "it is empty; JSON text in braces { } is expected."),
        (
            "[]",
            "line 1, column 1: the value there is an array; an object of settings in braces is expected.",
        ),
        (
            "{} x",
            "line 1, column 4: a letter follows the end of the JSON text; take out what stands behind it.",
        ),
    ] {
        let faults = parse(text).expect_err(text);
        assert_eq!(faults.to_string(), format!("/etc/x/iofog-connector.conf: {sentence}"));
    }
    assert!(Config::parse(b"{\"address\":\"\xff\"}", Path::new("f")).is_err());
    assert!(parse(&format!("\u{feff}{SAMPLE}")).is_ok());
}

#[test]
fn warnings_leave_the_settings_in_force() {
    for (more, warning) in [
        (r#""userWait":1"#, "userWait: is not a known key and is ignored; did you mean userwait?"),
        (r#""comment":1"#, "comment: is not a known key and is ignored; the keys are ports, "),
        (r#""drain":5,"drain":5"#, "drain: is given twice with the same value"),
        (r#""controllerca":"ca.pem""#, "controllerca: does nothing while dev is true"),
        (r#""address":"0.0.0.0","api":"[::1]:1""#, "address: nobody can reach this address"),
        (r#""ports":["6000"]"#, "ports: this is one port, and each mapping needs two"),
        (r#""connectionlog":true,"loglevel":"warn""#, "connectionlog: its lines have level info"),
        (r#""api":"127.0.0.1:6009""#, "ports: 6009 is the API's own port"),
        (r#""api":"[::]:8080""#, "Anyone who can reach [::]:8080 may call the API"),
    ] {
        let (_, warnings) = parse(&file_with(more)).expect(more);
        assert_eq!(warnings.len(), 1, "{more}: {warnings:?}");
        assert!(warnings[0].contains(warning), "{warnings:?}");
    }
    let apart = parse(&file_with(r#""api":"127.0.0.1:6009","listen":"127.0.0.2""#)).expect("good");
    assert!(apart.1.is_empty(), "{:?}", apart.1);
}

#[test]
fn open_api_is_warned_of() {
    for (more, open) in [
        (r#""address":"192.0.2.1""#, true),
        (r#""address":"192.0.2.1","dev":false"#, true),
        (r#""address":"192.0.2.1","controllers":["192.0.2.2"]"#, false),
        (r#""address":"192.0.2.1","controllerca":"ca.pem""#, true),
        (r#""address":"192.0.2.1","controllerca":"ca.pem","dev":false"#, false),
        (r#""address":"192.0.2.1","api":"127.0.0.1:80""#, false),
        (r#""address":"192.0.2.1","api":"[::ffff:127.0.0.1]:80""#, false),
        (r#""api":"0.0.0.0:80""#, true),
    ] {
        assert_eq!(good(more).open_api_warning().is_some(), open, "{more}");
    }
}

#[test]
fn public_urls() {
    for (more, url) in [
        (r#""address":"127.0.0.1""#, "http://127.0.0.1:6001"),
        (r#""address":"2001:db8::1","dev":false"#, "https://[2001:db8::1]:6001"),
        (r#""address":"connector.example.com","dev":false"#, "https://connector.example.com:6001"),
    ] {
        assert_eq!(good(more).public_url(6001, false), url);
    }
}

#[test]
fn restart_is_asked_for_five_keys() {
    let old = good(r#""threads":1"#);
    for (more, keys) in [
        (r#""threads":1,"userwait":5,"ports":["7000"],"loglevel":"trace""#, vec![]),
        (r#""threads":2"#, vec!["threads"]),
        (r#""threads":1,"sandbox":"off""#, vec!["sandbox"]),
        (r#""threads":1,"listen":"::""#, vec!["listen"]),
        (r#""threads":1,"api":"127.0.0.1:8080","address":"192.0.2.1""#, vec!["listen"]),
        (r#""threads":1,"dev":false"#, vec!["dev", "api"]),
        (r#""threads":1,"api":"127.0.0.1:1""#, vec!["api"]),
    ] {
        assert_eq!(old.needs_restart(&good(more)), keys, "{more}");
    }
}

#[test]
fn missing_file_says_what_to_do() {
    let dir = crate::testing::folder::Folder::new().join("none");
    let faults = Config::load(&dir).expect_err("there is no such folder").to_string();
    assert!(faults.contains("iofog-connector.conf: does not exist; write it with"), "{faults}");
    assert!(faults.contains("--config DIR"));
}

/// What variables set.
fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::of(variables.iter().map(|(name, text)| (name.into(), text.into())))
}

/// These settings of the file, with what variables put in their place.
fn with(text: &str, variables: &[(&str, &str)]) -> Result<(Config, Vec<String>), Faults> {
    Config::read(text.as_bytes(), Path::new("/etc/x/conf"), environment(variables))
}

#[test]
fn every_key_has_a_variable_that_does_what_the_key_does_and_stands_in_the_manual_page() {
    let values = [
        ("ports", "6000-6003,7000", r#"["6000-6003","7000"]"#),
        ("ports", r#" ["6000-6001"] "#, r#"["6000-6001"]"#),
        ("exclude", "6001, 6002", r#"["6001","6002"]"#),
        ("exclude", "[]", "[]"),
        ("broker", "7", "7"),
        ("address", "connector.example.org", r#""connector.example.org""#),
        ("dev", "false", "false"),
        ("api", "127.0.0.1:99", r#""127.0.0.1:99""#),
        ("controllers", "192.0.2.7,10.0.0.0/8", r#"["192.0.2.7","10.0.0.0/8"]"#),
        ("controllerca", "ca.pem", r#""ca.pem""#),
        ("listen", "192.0.2.1", r#""192.0.2.1""#),
        ("threads", "3", "3"),
        ("loglevel", "debug", r#""debug""#),
        ("logformat", "json", r#""json""#),
        ("syslogformat", "rfc5424", r#""rfc5424""#),
        ("userwait", "1", "1"),
        ("pending", "2", "2"),
        ("drain", "3", "3"),
        ("handover", "4", "4"),
        ("finwait", "5", "5"),
        ("connectionlog", "true", "true"),
        ("sandbox", "report", r#""report""#),
    ];
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man/iofog-connector.conf.5");
    let manual = std::fs::read_to_string(manual).expect("the manual page");
    let keys = environment::KEYS.map(|(key, _)| key);
    for key in keys {
        assert!(values.iter().any(|(name, ..)| *name == key), "{key} has no value here");
        assert!(manual.contains(&format!(".TP\n.B {key}\n")), "{key} is not in the manual page");
        let variable = format!("\n.B {}\n", environment::variable(key));
        assert!(manual.contains(&variable), "{variable} is not in the manual page");
    }
    assert_eq!(manual.matches("\n.B IOFOG_").count(), keys.len());
    // What reads the settings takes every key, and no other.
    let (_, all) = parse(&file_with(r#""x-x-x":1"#)).expect("good");
    assert!(all[0].ends_with(&format!("the keys are {}.", keys.join(", "))), "{all:?}");
    for (key, text, value) in values {
        let by_file = good(&format!("\"{key}\":{value}"));
        let named = environment::variable(key);
        let (by_variable, _) = with(&file_with(""), &[(&named, text)]).expect(key);
        let directory = |config: &Config| config.controller_ca.is_some();
        assert_eq!(directory(&by_variable), directory(&by_file));
        assert_eq!(
            Config { controller_ca: None, ..by_variable },
            Config { controller_ca: None, ..by_file },
            "{key}"
        );
    }
}

#[test]
fn a_variable_takes_the_place_of_the_files_value_and_an_empty_one_does_not() {
    let file = file_with(r#""userwait":-1,"drain":7"#);
    let (config, warnings) =
        with(&file, &[("IOFOG_USERWAIT", "9"), ("IOFOG_DRAIN", " "), ("IOFOG_PORTS", "")])
            .expect("good");
    assert_eq!(
        (config.user_wait, config.drain),
        (Duration::from_millis(9), Duration::from_millis(7))
    );
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(with(&file, &[]).is_err(), "the file alone has a fault");
    // Somebody may think that nobody may call.
    for name in ["IOFOG_CONTROLLERS", "IOFOG_CONTROLLERCA"] {
        let (_, warnings) = with(&file_with(""), &[(name, "")]).expect("good");
        let said = format!("environment: {name}: is empty and counts as absent; say who may call");
        assert!(warnings[0].starts_with(&said), "{warnings:?}");
    }
}

#[test]
fn faults_of_the_environment_name_the_variable() {
    for (name, text, sentence) in [
        ("IOFOG_PORTS", "6000,x", r#"environment: IOFOG_PORTS[1]: "x": a port such as"#),
        ("IOFOG_PORTS", "[6000", r#"environment: IOFOG_PORTS: "[6000": an array such as"#),
        ("IOFOG_PORTS", "[6000]", r#"environment: IOFOG_PORTS[0]: 6000: write it in quotes"#),
        ("IOFOG_EXCLUDE", "1-65535", "/etc/x/conf: ports: no port is left"),
        ("IOFOG_DEV", "yes", r#"environment: IOFOG_DEV: "yes": true or false is expected."#),
        ("IOFOG_THREADS", "0", "environment: IOFOG_THREADS: 0: a number from 1 to 256"),
        ("IOFOG_DRAIN", "-5", r#"environment: IOFOG_DRAIN: "-5": a number of milliseconds"#),
        ("IOFOG_SANDBOX", "yes", r#"environment: IOFOG_SANDBOX: "yes": one of on, kill"#),
    ] {
        let faults = with(&file_with(""), &[(name, text)]).expect_err(text);
        let [fault] = faults.sentences() else { panic!("{name}: {faults}") };
        assert!(fault.starts_with(sentence), "{fault}\n{sentence}");
    }
    let missing = with("{}", &[("IOFOG_DEV", "true")]).expect_err("three keys are missing");
    assert!(missing.to_string().contains("(or the variable IOFOG_ADDRESS)"), "{missing}");
}

#[test]
fn unknown_variables_are_warned_of_by_the_nearest_and_never_with_their_value() {
    for (name, said) in [
        (
            "IOFOG_USER_WAIT",
            "IOFOG_USER_WAIT: is ignored, as none of the settings' variables; did you mean IOFOG_USERWAIT?",
        ),
        ("IOFOG_PORT", "did you mean IOFOG_PORTS?"),
        ("IOFOG_Ports", "did you mean IOFOG_PORTS?"),
        ("IOFOG_CONNECTOR_PORTS", "did you mean IOFOG_PORTS?"),
        ("IOFOG_CONNECTOR_CONTROLLERS", "did you mean IOFOG_CONTROLLERS?"),
        ("IOFOG_PASSWORD", "variables, which are IOFOG_ and a key in capitals."),
    ] {
        let (_, warnings) = with(&file_with(""), &[(name, "hidden")]).expect("good");
        let [warning] = &warnings[..] else { panic!("{name}: {warnings:?}") };
        assert!(warning.contains(said) && !warning.contains("hidden"), "{warning}");
    }
    let others = [
        ("IOFOG_PASSCODE", "x"),
        ("IOFOG_CONNECTOR_IGNORED", "/tmp/x"),
        ("IOFOG_PORT", "tcp://10.0.0.1:80"),
        // A service whose name is the program's.
        ("IOFOG_CONNECTOR_PORT", "tcp://10.0.0.1:443"),
        ("IOFOG_CONNECTOR_PORT_443_TCP", "tcp://10.0.0.1:443"),
        ("IOFOG_CONNECTOR_SERVICE_PORT_API", "443"),
        ("IOFOG_CONNECTOR_API_PORT", "tcp://10.0.0.1:443"),
        ("IOFOG_CONTROLLER_SERVICE_HOST", "10.0.0.1"),
        ("IOFOG_CONTROLLER_PORT_51121_TCP_ADDR", "10.0.0.1"),
        ("FOG_PORTS", "1"),
    ];
    let others = environment(&others);
    assert!(!others.has_settings());
    assert_eq!(others.warnings, [""; 0]);
}

#[test]
fn without_a_file_an_address_and_ports_in_the_environment_are_enough() {
    let dir = crate::testing::folder::Folder::new();
    let load = |variables: &[(&str, &str)]| Config::load_with(&dir, environment(variables), false);
    let (config, _) =
        load(&[("IOFOG_ADDRESS", "a.example"), ("IOFOG_PORTS", "6000-6009")]).expect("good");
    assert_eq!((config.broker, config.ports.len(), config.dev), (12345, 10, false));
    let faults = load(&[("IOFOG_PORTS", "6000-6009")]).expect_err("address");
    let said = format!(
        "environment: IOFOG_ADDRESS: is missing; an IP address or domain name is required (there is no {}, either).",
        dir.join(FILE).display()
    );
    assert_eq!(faults.sentences(), [said]);
    assert!(!faults.is_unread() && load(&[]).expect_err("nothing").is_unread());
    let faults = load(&[("IOFOG_ADRESS", "a.example")]).expect_err("nothing that is a setting");
    assert!(faults.is_unread() && faults.to_string().contains("does not exist"), "{faults}");
}

#[test]
fn without_a_file_what_is_to_be_set_is_a_variable() {
    let dir = crate::testing::folder::Folder::new();
    let variables = [
        ("IOFOG_ADDRESS", "127.0.0.1"),
        ("IOFOG_PORTS", "6000-6009"),
        ("IOFOG_API", "0.0.0.0:6000"),
        ("IOFOG_SANDBOX", "off"),
    ];
    let (config, warnings) = Config::load_with(&dir, environment(&variables), false).expect("good");
    let said = [
        "environment: IOFOG_PORTS: 6000 is the API's own port, so that no mapping can have it; put it into \
         IOFOG_EXCLUDE.",
        "Anyone who can reach 0.0.0.0:6000 may call the API and open ports; set IOFOG_CONTROLLERS or \
         IOFOG_CONTROLLERCA.",
    ];
    assert_eq!(warnings, said);
    let sandbox = config.sandbox_warning().expect("it is off");
    assert!(sandbox.ends_with("set IOFOG_SANDBOX to \"on\", and restart."), "{sandbox}");
    let notice = config.loopback_notice().expect("loopback");
    assert!(
        notice.contains("set IOFOG_ADDRESS to the name") && notice.contains("or IOFOG_LISTEN to"),
        "{notice}"
    );
    let (config, _) = parse(&file_with(r#""sandbox":"report""#)).expect("good");
    let sandbox = config.sandbox_warning().expect("it reports");
    assert!(
        sandbox.contains("only reports")
            && sandbox.contains("set sandbox in iofog-connector.conf to"),
        "{sandbox}"
    );
    assert_eq!(good(r#""sandbox":"kill""#).sandbox_warning(), None);
}

#[test]
fn a_file_that_was_there_at_the_start_must_be_there_at_a_reload() {
    let dir = crate::testing::folder::Folder::new();
    let variables = [("IOFOG_ADDRESS", "a.example"), ("IOFOG_PORTS", "6000-6009")];
    let load = |needs_file| Config::load_with(&dir, environment(&variables), needs_file);
    let (config, _) = load(false).expect("good");
    assert!(!config.has_file && load(config.has_file).is_ok());
    std::fs::write(dir.join(FILE), SAMPLE).unwrap();
    let (config, _) = load(false).expect("good");
    assert!(config.has_file && load(true).is_ok());
    std::fs::remove_file(dir.join(FILE)).unwrap();
    assert!(load(config.has_file).expect_err("the file says who may call").is_unread());
}
