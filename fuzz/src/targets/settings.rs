//! `iofog-connector.conf`.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use iofog_connector::fuzzing::Config;
use serde_json::json;

use crate::input::assert_sentence;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn check(data: &[u8]) -> bool {
    let file = Path::new("/x/iofog-connector.conf");
    match Config::parse(data, file) {
        Err(faults) => {
            assert!(!faults.sentences().is_empty());
            for sentence in faults.sentences() {
                assert_sentence(sentence);
                // Warnings follow the faults.
                let sentence = sentence.strip_prefix("warning: ").unwrap_or(sentence);
                assert!(sentence.starts_with("/x/iofog-connector.conf: "), "{sentence}");
            }
        }
        Ok((config, warnings)) => {
            warnings.iter().for_each(|warning| assert_sentence(warning));
            assert_sound(&config);
            let (again, _) = Config::parse(written(&config).as_bytes(), file)
                .unwrap_or_else(|faults| panic!("{faults}"));
            assert_eq!(again, config);
        }
    }
    true
}

fn assert_sound(config: &Config) {
    assert!(!config.ports.is_empty() && config.ports[0] > 0);
    assert!(config.ports.is_sorted_by(|a, b| a < b));
    assert!(config.broker > 0 && config.api.port() > 0);
    assert!((1..=65535).contains(&config.pending) && (1..=256).contains(&config.threads));
    assert!(config.user_wait <= DAY && config.drain <= DAY && config.fin_wait <= DAY);
    assert!(!config.fin_wait.is_zero());
    assert_ne!(config.log_level, log::LevelFilter::Off);
    assert!(config.controllers.as_ref().is_none_or(|list| !list.is_empty()));
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name = !config.address.is_empty() && config.address.chars().all(name);
    assert!(is_name || config.address.parse::<IpAddr>().is_ok(), "{}", config.address);
    // It goes into URLs and certificates as it is.
    assert_sentence(&config.public_url(6000, false));
    if !config.api.ip().to_canonical().is_loopback() && config.controllers.is_none() {
        assert!(config.open_api_warning().is_some() || !config.dev);
    }
}

/// These settings as a file.
fn written(config: &Config) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &port in &config.ports {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == port => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    let ports: Vec<_> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    let mut file = json!({
        "ports": ports,
        "exclude": [],
        "broker": config.broker,
        "address": config.address,
        "dev": config.dev,
        "api": config.api.to_string(),
        "threads": config.threads,
        "loglevel": config.log_level.to_string().to_lowercase(),
        "logformat": if config.log_formats.json { "json" } else { "text" },
        "syslogformat": if config.log_formats.structured { "rfc5424" } else { "rfc3164" },
        "userwait": config.user_wait.as_millis() as u64,
        "pending": config.pending,
        "drain": config.drain.as_millis() as u64,
        "finwait": config.fin_wait.as_millis() as u64,
        "connectionlog": config.connection_log,
    });
    if let Some(networks) = &config.controllers {
        file["controllers"] = networks.iter().map(ToString::to_string).collect();
    }
    if let Some(path) = &config.controller_ca {
        file["controllerca"] = path.to_str().expect("from JSON").into();
    }
    if let Some(ip) = config.listen {
        file["listen"] = ip.to_string().into();
    }
    file.to_string()
}
