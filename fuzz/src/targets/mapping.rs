//! The JSON of `mapping/add`, in each of the forms in which it may come.

use std::time::Duration;

use iofog_connector::fuzzing::{AgentLimits, Asked, NewPipe, Request, call, limits};
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
    assert_eq!(outcome.as_ref().ok().and_then(|asked| asked.pipe), model, "{text}");
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

fn modelled(value: &Value) -> Option<NewPipe> {
    let mapping = value.as_object()?;
    match mapping.get("type")?.as_str()? {
        "public" => Some(NewPipe::Public(side(mapping, "")?)),
        "private" => Some(NewPipe::Private([side(mapping, "port1")?, side(mapping, "port2")?])),
        _ => None,
    }
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
    let pipe = asked.pipe.expect("a pipe");
    let object = |port: &str, limits: &AgentLimits| {
        assert!(limits.max_connections >= 1);
        assert_ne!(limits.heartbeat_threshold, Some(Duration::ZERO));
        let silence = limits.heartbeat_threshold.unwrap_or_default().as_millis();
        let count = limits.max_connections;
        format!(r#""maxconnections{port}":{count},"heartbeatabsencethreshold{port}":{silence}"#)
    };
    let text = match &pipe {
        NewPipe::Public(limits) => format!(r#"{{"type":"public",{}}}"#, object("", limits)),
        NewPipe::Private([one, two]) => {
            let (one, two) = (object("port1", one), object("port2", two));
            format!(r#"{{"type":"private",{one}, {two}}}"#)
        }
    };
    assert_eq!(add(None, text.as_bytes()).expect("what was written").pipe, Some(pipe));
}
