//! The JSON of `mapping/add`, in each of the forms in which it may come.

use std::time::Duration;

use iofog_connector::fuzzing::{AgentLimits, Asked, NewPipe, Options, Request, call, limits};
use serde_json::{Map, Value};

use crate::input::assert_sentence;

pub(crate) fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    if data.len() > limits::HTTP_BODY / 4 {
        return false;
    }
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("mapping", text)
        .append_pair("mapping", "{}")
        .finish();
    let outcome = add(None, form.as_bytes());
    match &outcome {
        Err((status, why)) => {
            assert_eq!(*status, 400);
            assert_sentence(why);
        }
        Ok(asked) => assert_sound(asked),
    }
    // What the protocol page says of it, in other words.
    let model = serde_json::from_str::<Value>(text).ok().and_then(|value| modelled(&value));
    let accepted = outcome.as_ref().ok().and_then(|asked| asked.mapping.as_ref());
    match model {
        Some((pipe, Further::None)) => {
            let mapping = accepted.unwrap_or_else(|| panic!("it is refused: {text}"));
            assert_eq!((mapping.pipe, &mapping.options), (pipe, &Options::default()), "{text}");
        }
        // Ports and options may have values that are refused.
        Some((pipe, Further::Options)) => {
            assert!(accepted.is_none_or(|mapping| mapping.pipe == pipe), "{text}");
        }
        None => assert_eq!(accepted, None, "{text}"),
    }
    // The bare object is taken too, as a form and as JSON.
    if text.trim_start().starts_with('{') && text.trim_ascii_start().starts_with('{') {
        assert_eq!(add(Some("application/json"), data), outcome);
        assert_eq!(add(Some("application/x-www-form-urlencoded"), data), outcome);
    }
    true
}

fn add(kind: Option<&str>, body: &[u8]) -> Result<Asked, (u16, String)> {
    call(&Request {
        method: "POST".into(),
        path: "/api/v2/mapping/add".into(),
        content_type: kind.map(Into::into),
        body: body.to_vec(),
    })
}

/// What a mapping has beside the required members.
enum Further {
    None,
    Options,
}

fn modelled(value: &Value) -> Option<(NewPipe, Further)> {
    let mapping = value.as_object()?;
    let mut further = Further::None;
    for name in mapping.keys() {
        match name.as_str() {
            "type" => {}
            "port1" | "port2" => further = Further::Options,
            "name" | "users" | "alpn" | "allow" | "usersperaddress" | "proxyfrom" | "idle" => {
                further = Further::Options
            }
            name => {
                let limits = ["maxconnections", "heartbeatabsencethreshold"];
                let of = limits.iter().find_map(|limit| name.strip_prefix(limit))?;
                if !matches!(of, "" | "port1" | "port2") {
                    return None;
                }
            }
        }
    }
    let pipe = match mapping.get("type")?.as_str()? {
        "public" => NewPipe::Public(side(mapping, "")?),
        "private" => NewPipe::Private([side(mapping, "port1")?, side(mapping, "port2")?]),
        _ => return None,
    };
    Some((pipe, further))
}

fn side(mapping: &Map<String, Value>, port: &str) -> Option<AgentLimits> {
    let number = |name: &str| mapping.get(&format!("{name}{port}"))?.as_u64();
    let connections = number("maxconnections").filter(|count| (1..=65535).contains(count))?;
    let silence = number("heartbeatabsencethreshold").filter(|&ms| ms <= i32::MAX as u64)?;
    Some(AgentLimits {
        max_connections: connections as u16,
        heartbeat_threshold: Some(silence).filter(|&ms| ms > 0).map(Duration::from_millis),
    })
}

/// What is accepted keeps the bounds, and means the same when it is written anew.
pub(super) fn assert_sound(asked: &Asked) {
    let mapping = asked.mapping.clone().expect("a mapping");
    let object = |port: &str, limits: &AgentLimits| {
        assert!(limits.max_connections >= 1);
        assert_ne!(limits.heartbeat_threshold, Some(Duration::ZERO));
        let silence = limits.heartbeat_threshold.unwrap_or_default().as_millis();
        let count = limits.max_connections;
        format!(r#""maxconnections{port}":{count},"heartbeatabsencethreshold{port}":{silence}"#)
    };
    let text = match &mapping.pipe {
        NewPipe::Public(limits) => format!(r#"{{"type":"public",{}}}"#, object("", limits)),
        NewPipe::Private([one, two]) => {
            let (one, two) = (object("port1", one), object("port2", two));
            format!(r#"{{"type":"private",{one}, {two}}}"#)
        }
    };
    let options = &mapping.options;
    let [one, two] = mapping.ports;
    assert!(one.is_none() || one != two);
    let mut all: Map<String, Value> = serde_json::from_str(&text).expect("an object");
    all.extend(options.members());
    for (name, port) in [("port1", one), ("port2", two)] {
        all.extend(port.map(|port| (name.to_owned(), port.into())));
    }
    let written = Value::Object(all).to_string();
    assert_eq!(add(None, written.as_bytes()).expect("what was written").mapping, Some(mapping));
}
