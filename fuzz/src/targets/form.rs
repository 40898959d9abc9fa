//! A request's body and content type: which call it is, and with which parameters.

use std::net::IpAddr;

use iofog_connector::fuzzing::{Asked, Request, call, limits};

use crate::input::{Choices, assert_sentence};
use crate::memory::most_held;

const PATHS: [&str; 12] = [
    "/api/v2/mapping/add",
    "/api/v2/mapping/remove",
    "/api/v2/status",
    "/api/v2/commandline",
    "/api/v2/direct",
    "/api/v2/direct/add",
    "/api/v2/direct/remove",
    "/metrics",
    "/api/v2/status/",
    "/api/v2",
    "/api/v2/mapping/change",
    "/api/v2/mapping/passcode",
];

const TYPES: [Option<&str>; 5] = [
    None,
    Some("application/x-www-form-urlencoded"),
    Some("application/json"),
    Some("Application/X-WWW-Form-Urlencoded ; charset=utf-8"),
    Some("text/plain"),
];

pub(crate) fn check(data: &[u8]) -> bool {
    let mut choices = Choices::new(data);
    let path = PATHS[usize::from(choices.byte()) % PATHS.len()];
    let kind = TYPES[usize::from(choices.byte()) % TYPES.len()];
    let method = if choices.byte() < 200 { "POST" } else { "GET" };
    let body = choices.rest();
    if body.len() > limits::HTTP_BODY {
        return false;
    }
    let request = Request {
        method: method.into(),
        path: path.into(),
        content_type: kind.map(Into::into),
        body: body.to_vec(),
    };
    let (outcome, memory) = most_held(|| call(&request));
    // JSON as a tree takes some dozens of times its text.
    assert!(memory <= 64 * body.len() + 16 * 1024, "{memory} bytes for {}", body.len());
    match outcome {
        Err((status, text)) => {
            assert!(matches!(status, 400 | 404 | 405 | 415), "{status}");
            assert_sentence(&text);
        }
        Ok(asked) => assert_sound(&asked),
    }
    true
}

fn assert_sound(asked: &Asked) {
    for (index, value) in asked.values.iter().enumerate() {
        let is_certificate = asked.call == "direct" && index == 4;
        assert!(is_certificate || (!value.is_empty() && value.trim() == value));
    }
    let names: &[&str] = match asked.call {
        "mapping/add" => return super::mapping::assert_sound(asked),
        "mapping/change" => &["mappingid", "mapping"],
        "mapping/passcode" => &["mappingid", "side"],
        "mapping/remove" | "status" | "direct/remove" => &["mappingid"],
        "commandline" => &["command"],
        "direct" => {
            assert!(asked.values[2].parse::<IpAddr>().is_ok());
            assert!(asked.values[3].parse::<u16>().is_ok_and(|port| port > 0));
            assert!(asked.values[4].len() <= limits::DIRECT_CERTIFICATE);
            &["id", "passkey", "ip", "port", "certificate"]
        }
        _ => &[],
    };
    assert_eq!(names.len(), asked.values.len());
    if names.is_empty() {
        return;
    }
    // Written anew, it must be the same call.
    let pairs = names.iter().zip(&asked.values);
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    let again = Request {
        method: "POST".into(),
        path: format!("/api/v2/{}", asked.call).into(),
        content_type: None,
        body: body.into_bytes(),
    };
    assert_eq!(call(&again).as_ref(), Ok(asked));
}
