//! `configs.json`.

use std::collections::HashSet;

use iofog_connector::fuzzing::{AgentPort, Mapping, Pipe, state, state_text};
use serde_json::Value;

use crate::input::assert_sentence;

pub(crate) fn check(data: &[u8]) -> bool {
    match state(data) {
        Err(faults) => {
            assert!(!faults.is_empty());
            faults.iter().for_each(|fault| assert_sentence(fault));
            assert_silent(data, &faults);
        }
        Ok(mappings) => {
            let ids: HashSet<_> = mappings.iter().map(|mapping| &mapping.id).collect();
            assert_eq!(ids.len(), mappings.len());
            mappings.iter().for_each(assert_sound);
            let text = state_text(&mappings);
            let again = state(&text).expect("what was written can be read");
            assert!(mappings.iter().map(facts).eq(again.iter().map(facts)));
            assert_eq!(state_text(&again), text);
            // The original's reader wants all members of each mapping, and nothing else.
            let value: Value = serde_json::from_slice(&text).expect("JSON");
            let rows = value["mappings"].as_array().expect("the list");
            assert_eq!(rows.len(), mappings.len());
            assert!(rows.iter().all(|row| row.as_object().is_some_and(|row| row.len() == 9)));
        }
    }
    true
}

fn assert_sound(mapping: &Mapping) {
    assert!(!mapping.id.is_empty());
    let sides: Vec<&AgentPort> = match &mapping.pipe {
        Pipe::Public { agent, .. } => vec![agent],
        Pipe::Private { sides } => sides.iter().collect(),
        Pipe::Direct { passkey } => return assert!(passkey.len() > 0),
    };
    let [one, two] = mapping.pipe.ports().expect("ports");
    assert!(one > 0 && two > 0 && one != two);
    for side in sides {
        assert!(side.passcode.len() > 0 && side.limits.max_connections >= 1);
        assert!(side.limits.heartbeat_threshold.is_none_or(|time| !time.is_zero()));
    }
}

/// All there is to a mapping, passcodes included.
fn facts(mapping: &Mapping) -> String {
    let secrets = match &mapping.pipe {
        Pipe::Public { agent, .. } => vec![agent.passcode.reveal()],
        Pipe::Private { sides } => sides.iter().map(|side| side.passcode.reveal()).collect(),
        Pipe::Direct { passkey } => vec![passkey.reveal()],
    };
    format!("{mapping:?} {secrets:?}")
}

/// No passcode may stand in what an operator is shown: those of the corpus are known by their
/// beginning, since any other word may stand in a sentence, too.
fn assert_silent(data: &[u8], faults: &[String]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    let Some(rows) = value["mappings"].as_array() else { return };
    for secret in rows.iter().flat_map(|row| [&row["passcodeport1"], &row["passcodeport2"]]) {
        let Some(secret) = secret.as_str().filter(|one| one.starts_with("S3CR")) else { continue };
        // One that stands elsewhere too, in an id for example, is no secret.
        if text.matches(secret).count() == 1 {
            assert!(!faults.iter().any(|fault| fault.contains(secret)), "{faults:?}");
        }
    }
}
