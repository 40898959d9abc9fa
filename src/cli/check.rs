//! `check`: validates what `start` reads, without starting.

use std::path::Path;
use std::process::ExitCode;

use super::user::User;
use super::{BAD, complain, print};
use crate::config::Config;
use crate::mapping::Mapping;
use crate::{store, tls};

/// Validates settings, certificates and `configs.json` in `dir`, as [`User::choose`] says with whose
/// eyes. Warnings and faults go to stderr, all in one run; "ok" to stdout.
pub(super) fn check(dir: &Path, user: Option<&str>) -> ExitCode {
    let seen = User::choose(user, dir).and_then(|user| match user {
        None => Ok((findings(dir), None)),
        Some(user) => user.see(|| findings(dir)).map(|findings| (findings, Some(user))),
    });
    let ((warnings, faults), user) = match seen {
        Ok(seen) => seen,
        Err(fault) => {
            complain(fault);
            return BAD.into();
        }
    };
    if let Some(user) = user.filter(|_| !faults.is_empty()) {
        complain(format_args!("checked with the eyes of {user}, the user that runs the service"));
    }
    for warning in warnings {
        complain(format_args!("warning: {warning}"));
    }
    for fault in &faults {
        complain(fault);
    }
    if faults.is_empty() { print("ok\n") } else { BAD.into() }
}

/// Warnings and faults. Certificates are not looked at while the settings do not say whether
/// they are used.
fn findings(dir: &Path) -> (Vec<String>, Vec<String>) {
    let mut warnings = Vec::new();
    let mut faults = Vec::new();
    let settings = match Config::load(dir) {
        Ok((settings, doubts)) => {
            warnings.extend(doubts);
            warnings.extend(settings.listen_warning());
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
        // Which the settings' fault says already.
        return (warnings, faults);
    }
    warnings.extend(store::doubts(dir));
    match store::check(dir) {
        Ok(mappings) => {
            if let Some(settings) = &settings {
                warnings.extend(mappings.iter().filter_map(|mapping| outside(mapping, settings)));
            }
        }
        Err(error) => faults.extend(error.to_string().lines().map(str::to_owned)),
    }
    (warnings, faults)
}

/// A mapping that would be kept, but not be opened.
fn outside(mapping: &Mapping, settings: &Config) -> Option<String> {
    let port = mapping
        .pipe
        .ports()?
        .into_iter()
        .find(|port| settings.ports.binary_search(port).is_err())?;
    Some(format!(
        "mapping {}: port {port} is not among the `ports` in the settings, so it stays inactive",
        mapping.id
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn everything_wrong_is_found_in_one_run() {
        let dir = std::env::temp_dir().join(format!("check-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&dir).unwrap();
        let settings = |ports: &str| {
            let rest = r#""exclude":[],"broker":12345,"address":"127.0.0.1","dev":false"#;
            fs::write(dir.join(crate::config::FILE), format!("{{\"ports\":[{ports}],{rest}}}"))
        };
        settings("\"6000-6001\"").unwrap();
        let (warnings, faults) = findings(&dir);
        assert_eq!(faults, [""; 0]);
        assert!(warnings.iter().any(|text| text.contains("makes a self-signed")), "{warnings:?}");

        let mapping = r#"{"id":"m","port1":6000,"port2":7000,"maxconnectionsport1":1,
            "maxconnectionsport2":0,"passcodeport1":"s3cret","passcodeport2":"",
            "heartbeatabsencethresholdport1":0,"heartbeatabsencethresholdport2":0}"#;
        fs::write(dir.join(store::FILE), format!("{{\"mappings\":[{mapping}]}}")).unwrap();
        let (warnings, faults) = findings(&dir);
        assert_eq!(faults, [""; 0]);
        assert!(warnings.iter().any(|text| text.contains("mapping m: port 7000")), "{warnings:?}");

        fs::write(dir.join(store::FILE), "{").unwrap();
        fs::write(dir.join(tls::KEY), "").unwrap();
        let (_, faults) = findings(&dir);
        for file in [store::FILE, tls::CERTIFICATE] {
            assert!(faults.iter().any(|fault| fault.contains(file)), "{file}: {faults:?}");
        }
        settings("\"6001-6000\", \"0\"").unwrap();
        let (_, faults) = findings(&dir);
        for part in ["ports[0]", "ports[1]", store::FILE] {
            assert!(faults.iter().any(|fault| fault.contains(part)), "{part}: {faults:?}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
