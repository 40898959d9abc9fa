//! `check`: validates what `start` reads, without starting.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use super::asking::report;
use super::exit::{BAD, ONLY_TUNNELS};
use super::user::User;
use crate::agent;
use crate::config::folders::Options;
use crate::config::{self, Config};
use crate::logging;
use crate::mappings::mapping::Mapping;
use crate::mappings::options::plain_by_dev;
use crate::mappings::store;
use crate::os::Instance;
use crate::os::terminal::{complain, print};
use crate::text::reason;
use crate::tls;

/// The folder of tunnels' files, in that of the settings.
const TUNNELS: &str = "tunnels";

/// Validates settings, certificates, `configs.json`, the run and the log folder, as the user that
/// [`User::choose`] gives. Warnings and faults go to stderr, all in one run; "ok" to stdout.
pub(super) fn check(options: &Options, user: Option<&str>) -> ExitCode {
    let dir = &options.config_dir;
    let findings = || findings(options);
    let onlooker = user.is_none() && User::is_onlooker(dir);
    let seen = User::choose(user, dir).and_then(|user| match user {
        None if onlooker => Ok((as_onlooker(findings(), &reason::user()), None)),
        None => Ok((findings(), None)),
        Some(user) => user.see(findings).map(|findings| (findings, Some(user))),
    });
    let ((warnings, faults), user) = match seen {
        Ok(seen) => seen,
        Err(fault) => {
            complain(fault);
            return BAD.into();
        }
    };
    if let Some(user) = user.filter(|_| !faults.is_empty()) {
        complain(format_args!("checked with the rights of {user}"));
    }
    for warning in warnings.into_iter().chain(logging::syslog_doubt(&options.syslog)) {
        complain(format_args!("warning: {}", warning.trim_end_matches('.')));
    }
    for fault in &faults {
        complain(fault);
    }
    if faults.is_empty() { print("ok\n") } else { status(&faults, &dir.join(TUNNELS)).into() }
}

/// Whether the daemon would not start, or only files in the folder `tunnels` have a fault.
fn status(faults: &[String], tunnels: &Path) -> u8 {
    let tunnels = tunnels.to_string_lossy();
    let only_tunnels = faults.iter().all(|fault| fault.starts_with(&*tunnels));
    if only_tunnels { ONLY_TUNNELS } else { BAD }
}

/// What this user may not read or write says nothing about the service, and is no fault.
fn as_onlooker(
    (mut warnings, mut faults): (Vec<String>, Vec<String>),
    user: &str,
) -> (Vec<String>, Vec<String>) {
    let count = warnings.len() + faults.len();
    for found in [&mut warnings, &mut faults] {
        found.retain(|text| !text.contains(" may not "));
    }
    if warnings.len() + faults.len() < count {
        faults.push(format!(
            "the user {user} does not run the service and cannot see all that it reads and \
             writes; the whole check is `sudo iofog-connector check`"
        ));
    }
    (warnings, faults)
}

/// Warnings and faults. Certificates are not looked at while the settings do not say whether
/// they are used.
fn findings(options: &Options) -> (Vec<String>, Vec<String>) {
    let dir = &options.config_dir;
    let mut warnings: Vec<String> = logging::doubt(&options.log_dir).into_iter().collect();
    let mut faults = Vec::new();
    faults.extend(Instance::check(&options.run_dir).err().map(|fault| fault.to_string()));
    let settings = match Config::load(dir) {
        Ok((settings, doubts)) => {
            warnings.extend(doubts);
            warnings.extend(settings.sandbox_warning());
            warnings.extend(settings.listen_warning());
            warnings.extend(settings.api_warning());
            warnings.extend(taken(&settings, options));
            warnings.extend(lacking(&settings, &dir.join(config::FILE)));
            Some(settings)
        }
        Err(errors) => {
            faults.extend_from_slice(errors.sentences());
            warnings.extend_from_slice(errors.warnings());
            None
        }
    };
    if let Some(settings) = settings.as_ref().filter(|settings| !settings.dev) {
        match tls::check(dir, &settings.address, settings.controller_ca.as_deref()) {
            Ok(doubts) => warnings.extend(doubts),
            Err(errors) => faults.extend(errors.iter().map(ToString::to_string)),
        }
    }
    if !dir.is_dir() {
        // The fault of the settings says so already.
        return (warnings, faults);
    }
    let (doubts, wrong) = agent::check(&dir.join(TUNNELS));
    warnings.extend(doubts);
    faults.extend(wrong);
    warnings.extend(store::doubts(dir));
    match store::check(dir) {
        Ok(mappings) => {
            if let Some(settings) = &settings {
                warnings.extend(unopened(&mappings, settings));
                let asking = mappings
                    .iter()
                    .filter(|mapping| settings.dev && mapping.options.asks_for_tls().is_some());
                let name = |mapping: &Mapping| mapping.name().to_owned();
                warnings.extend(plain_by_dev(&asking.map(name).collect::<Vec<_>>()));
                // Without mappings nobody has a port to reach yet, and `mapping add` says it.
                let ports = mappings.iter().any(|mapping| mapping.pipe.ports().is_some());
                warnings.extend(settings.loopback_notice().filter(|_| ports));
            }
        }
        Err(error) => faults.push(error.to_string()),
    }
    (warnings, faults)
}

/// Says that another program has the API's port: neither a daemon of this run folder nor, perhaps, one that may not be
/// asked.
fn taken(settings: &Config, options: &Options) -> Option<String> {
    let api = settings.api;
    let error = std::net::TcpListener::bind((api.ip(), api.port())).err()?;
    if error.kind() != io::ErrorKind::AddrInUse {
        return None;
    }
    if Instance::running(&options.run_dir).ok()?.is_some() {
        let state = report(options).ok()?.state;
        let is_api = |own: &str| own.parse().is_ok_and(|own: SocketAddr| own.port() == api.port());
        let mut sides = state.mappings.iter().flat_map(|mapping| &mapping.sides);
        let is_own = sides.any(|side| side.open && side.port == api.port());
        if is_own || state.api.as_deref().is_none_or(is_api) {
            return None;
        }
    }
    Some(format!(
        "another program has the API's port, {api} (ss -tanp shows which), so that nobody can call the API; end it, \
         or set {} to another port",
        settings.named("api")
    ))
}

/// What the settings allow and no pipe, or no `dev` set to false later, can do with.
fn lacking(settings: &Config, file: &Path) -> Vec<String> {
    let mut doubts = Vec::new();
    if settings.pool().len() < 2 {
        doubts.push(format!(
            "{}: a mapping takes two ports, and fewer are left for mappings, so that no pipe can be opened; add some",
            settings.place(file, "ports")
        ));
    }
    // Without `dev` this is a fault of the certificates.
    if let Some(missing) = settings.controller_ca.as_ref().filter(|ca| settings.dev && !ca.exists())
    {
        doubts.push(format!(
            "{}: {} does not exist; make it before dev is set to false, or take the key out",
            settings.place(file, "controllerca"),
            missing.display()
        ));
    }
    doubts
}

/// Ports of mappings that would be kept, but not be opened: outside the pool, the API's own, or two
/// mappings' at once.
fn unopened(mappings: &[Mapping], settings: &Config) -> Vec<String> {
    let mut doubts = Vec::new();
    let mut owners: Vec<Option<&str>> = vec![None; usize::from(u16::MAX) + 1];
    for mapping in mappings {
        let id = &*mapping.id;
        for port in mapping.pipe.ports().into_iter().flatten() {
            let owner = &mut owners[usize::from(port)];
            if let Some(first) = owner {
                doubts.push(format!(
                    "mappings {first} and {id}: both have port {port} in {}, so that one of them \
                     stays inactive; take one out, or give it another port",
                    store::FILE
                ));
                continue;
            }
            *owner = Some(id);
            if settings.is_apis(port) {
                doubts.push(format!(
                    "mapping {id}: port {port} is the API's own, so it stays inactive; set `api` \
                     in the settings to another port, or give the mapping another one in {}",
                    store::FILE
                ));
            } else if settings.ports.binary_search(&port).is_err() {
                doubts.push(format!(
                    "mapping {id}: port {port} is not among the `ports` in the settings, so it \
                     stays inactive; add it there, or take it out of `exclude`"
                ));
            }
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A daemon's folders, all of them this one.
    fn all_in(dir: &Path) -> Options {
        let [config_dir, run_dir, log_dir] = [(); 3].map(|()| dir.to_path_buf());
        Options { config_dir, run_dir, log_dir, ..Options::default() }
    }

    #[test]
    fn a_pool_with_one_port_and_an_absent_controllerca_are_warned_of_by_their_keys() {
        let dir = crate::testing::folder::Folder::new();
        let options = all_in(&dir);
        for (ports, rest, said) in [
            (r#""6000""#, r#""dev":true"#, "conf: ports: a mapping takes two ports, and fewer"),
            (r#""6000-6001""#, r#""dev":true,"api":"127.0.0.1:6001""#, "conf: ports: a mapping"),
            (r#""6000-6001""#, r#""dev":true,"controllerca":"x.pem""#, "conf: controllerca: "),
            (
                r#""6000-6001""#,
                r#""dev":false,"controllerca":"x.pem""#,
                "`controllerca` of the settings",
            ),
            (r#""6000-6001""#, r#""dev":true"#, ""),
        ] {
            let text = format!(
                r#"{{"ports":[{ports}],"exclude":[],"broker":12345,"address":"127.0.0.1",{rest}}}"#
            );
            fs::write(dir.join(crate::config::FILE), text).unwrap();
            let (mut found, faults) = findings(&options);
            found.extend(faults);
            if said.is_empty() {
                assert!(
                    !found.iter().any(|text| text.contains("a mapping takes two")),
                    "{found:?}"
                );
            } else {
                assert!(found.iter().any(|text| text.contains(said)), "{said}: {found:?}");
            }
        }
    }

    #[test]
    fn apis_port_that_another_program_has_and_tls_that_dev_takes_away_are_warned_of() {
        let dir = crate::testing::folder::Folder::new();
        let options = all_in(&dir);
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mapping = r#""port1":6000,"port2":6001,"maxconnectionsport1":1,"maxconnectionsport2":0,
            "passcodeport1":"s3cret","passcodeport2":"","heartbeatabsencethresholdport1":0,
            "heartbeatabsencethresholdport2":0,"ispublic":true,"#;
        for (dev, option, asks) in [
            (true, r#""name":"web","users":"tls""#, true),
            (true, r#""name":"web","alpn":["h2"]"#, true),
            (true, r#""name":"web","users":"plain""#, false),
            (false, r#""name":"web","users":"tls""#, false),
        ] {
            let text = format!(
                r#"{{"ports":["6000-6001"],"exclude":[],"broker":12345,"address":"127.0.0.1","dev":{dev},"api":"{}"}}"#,
                other.local_addr().unwrap()
            );
            fs::write(dir.join(crate::config::FILE), text).unwrap();
            let rows = format!(r#"{{"mappings":[{{"id":"m",{mapping}{option}}}]}}"#);
            fs::write(dir.join(store::FILE), rows).unwrap();
            let (warnings, faults) = findings(&options);
            assert_eq!(faults, [""; 0]);
            let has = |words: &str| warnings.iter().any(|text| text.contains(words));
            assert!(has("another program has the API's port"), "{warnings:?}");
            assert_eq!(has("alpn asks for it: mapping web; set dev"), asks, "{warnings:?}");
        }
    }

    #[test]
    fn everything_wrong_is_found_in_one_run() {
        let dir = crate::testing::folder::Folder::new();
        let options = all_in(&dir);
        let settings = |ports: &str| {
            let rest = r#""exclude":[],"broker":12345,"address":"127.0.0.1","dev":false"#;
            fs::write(dir.join(crate::config::FILE), format!("{{\"ports\":[{ports}],{rest}}}"))
        };
        settings("\"6000-6001\"").unwrap();
        let (warnings, faults) = findings(&options);
        assert_eq!(faults, [""; 0]);
        assert!(warnings.iter().any(|text| text.contains("makes a self-signed")), "{warnings:?}");

        let mapping = r#"{"id":"m","port1":6000,"port2":7000,"maxconnectionsport1":1,
            "maxconnectionsport2":0,"passcodeport1":"s3cret","passcodeport2":"",
            "heartbeatabsencethresholdport1":0,"heartbeatabsencethresholdport2":0}"#;
        fs::write(dir.join(store::FILE), format!("{{\"mappings\":[{mapping}]}}")).unwrap();
        let (warnings, faults) = findings(&options);
        assert_eq!(faults, [""; 0]);
        assert!(warnings.iter().any(|text| text.contains("mapping m: port 7000")), "{warnings:?}");

        let other = mapping.replace("\"m\"", "\"n\"").replace("7000", "8080");
        let both = format!("{{\"mappings\":[{mapping},{other}]}}");
        fs::write(dir.join(store::FILE), both).unwrap();
        let api = r#""6000-8080"],"api":"127.0.0.1:8080","exclude":["7000"#;
        let (rest, ports) = (r#""broker":12345,"address":"127.0.0.1","dev":true"#, api);
        fs::write(dir.join(crate::config::FILE), format!("{{\"ports\":[{ports}\"],{rest}}}"))
            .unwrap();
        let (warnings, _) = findings(&options);
        for part in [
            "mappings m and n: both have port 6000 in",
            "mapping m: port 7000 is not among",
            "mapping n: port 8080 is the API's own",
        ] {
            assert!(warnings.iter().any(|text| text.contains(part)), "{part}: {warnings:?}");
        }

        settings("\"6000-6001\"").unwrap();
        fs::write(dir.join(store::FILE), "{").unwrap();
        fs::write(dir.join(tls::KEY), "").unwrap();
        let (_, faults) = findings(&options);
        for file in [store::FILE, tls::CERTIFICATE] {
            assert!(faults.iter().any(|fault| fault.contains(file)), "{file}: {faults:?}");
        }
        fs::create_dir(dir.join("tunnels")).unwrap();
        let tunnel = |name: &str, text: &str, mode| {
            let text = format!("connector=c:1\ntarget=t:1\n{text}\n");
            dir.file(&format!("tunnels/{name}.conf"), text, mode);
        };
        tunnel("well", "passcode=p\nplain", 0o600);
        tunnel("misspelt", "passcode=p\npin=SHA256:0", 0o600);
        tunnel("readable", "passcode=p", 0o644);
        tunnel("trusting", "passcode=p\nca=/none/such", 0o600);
        tunnel("elsewhere", &format!("passcode-file={}", dir.join("p").display()), 0o600);
        dir.file("p", "p", 0o644);
        let (warnings, faults) = findings(&options);
        assert_eq!(status(&faults, &dir.join(TUNNELS)), BAD, "the state and the key have faults");
        let of_tunnels = |fault: &&String| fault.contains("/tunnels/");
        let of_tunnels: Vec<String> = faults.iter().filter(of_tunnels).cloned().collect();
        assert_eq!(status(&of_tunnels, &dir.join(TUNNELS)), ONLY_TUNNELS);
        for part in [
            "/misspelt.conf: line 4: --pin: \"SHA256:0\" is not SHA256: and the 64",
            "/readable.conf: line 3: everybody on this machine can read the passcode",
            "/trusting.conf: --ca /none/such: it does not exist",
        ] {
            assert!(faults.iter().any(|fault| fault.contains(part)), "{part}: {faults:?}");
        }
        let exposed =
            |text: &String| text.contains("/elsewhere.conf: ") && text.contains("chmod 600");
        assert!(warnings.iter().any(exposed), "{warnings:?}");
        assert!(!faults.iter().chain(&warnings).any(|text| text.contains("well.conf")));
        settings("\"6001-6000\", \"0\"").unwrap();
        let (_, faults) = findings(&options);
        for part in ["ports[0]", "ports[1]", store::FILE] {
            assert!(faults.iter().any(|fault| fault.contains(part)), "{part}: {faults:?}");
        }
    }
}
