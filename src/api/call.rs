//! A request to what it asks for: paths, methods, forms and the mapping's JSON (protocol page,
//! section 3). Pure; nothing here looks at the running mappings.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::direct::Candidate;
use super::error::ApiError;
use super::form::{Form, Media, bad, content_type, media_type};
use super::quoted::short;
use crate::config::{Entries, nearest};
use crate::http::Request;
use crate::limits;
use crate::mappings::mapping::{AgentLimits, Alteration, NewMapping, NewPipe};
use crate::mappings::options::{self, Options};
use crate::text::json;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    AddMapping(NewMapping),
    ChangeMapping(Box<str>, Alteration),
    RemoveMapping(Box<str>),
    /// `mappingid=all`.
    StatusOfAll,
    StatusOf(Box<str>),
    Command(Command),
    AddDirect,
    RemoveDirect(Box<str>),
    MeetDirect {
        id: Box<str>,
        passkey: Passkey,
        candidate: Candidate,
    },
    FullStatus,
    Metrics,
    Page,
}

/// What `commandline` can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Status,
    Version,
    Help,
    Stop,
    Upgrade,
    Dump,
}

/// A passkey as a caller offered it.
#[derive(PartialEq, Eq)]
pub struct Passkey(pub(crate) Box<str>);

impl std::fmt::Debug for Passkey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passkey(hidden)")
    }
}

impl Call {
    /// What `request` asks for. The error says what is wrong with it and what would be right.
    pub fn parse(request: &Request) -> Result<Call, ApiError> {
        // The original's server took a path with a slash at its end for the same path.
        let path = request.path.trim_end_matches('/');
        let get = matches!(&*request.method, "GET" | "HEAD");
        let post = &*request.method == "POST";
        let form = || Form::of(request);
        match path {
            "/api/v2/status" if get => Ok(Call::FullStatus),
            "/metrics" if get => Ok(Call::Metrics),
            // The root.
            "" if get => Ok(Call::Page),
            "/api/v2/status" if post => {
                let id = form()?.required("mappingid")?;
                Ok(if &*id == "all" { Call::StatusOfAll } else { Call::StatusOf(id) })
            }
            "/api/v2/mapping/add" if post => Ok(Call::AddMapping(new_mapping(request)?)),
            "/api/v2/mapping/change" if post => {
                let form = form()?;
                let id = form.required("mappingid")?;
                let members = changes(&form.required("mapping")?)?;
                Ok(Call::ChangeMapping(id, Alteration::Members(members)))
            }
            "/api/v2/mapping/passcode" if post => {
                let form = form()?;
                let id = form.required("mappingid")?;
                let side = match &*form.required("side")? {
                    "1" => 0,
                    "2" => 1,
                    other => {
                        return Err(bad("side", format!("is {}; use 1 or 2", short(other))));
                    }
                };
                Ok(Call::ChangeMapping(id, Alteration::Passcode(side)))
            }
            "/api/v2/mapping/remove" if post => {
                Ok(Call::RemoveMapping(form()?.required("mappingid")?))
            }
            "/api/v2/commandline" if post => {
                Ok(Call::Command(command(&form()?.required("command")?)?))
            }
            "/api/v2/direct/add" if post => Ok(Call::AddDirect),
            "/api/v2/direct/remove" if post => {
                let form = form()?;
                // The page names both; the original knows `mappingid` alone, so that one first.
                let name = if form.value("mappingid").is_some() { "mappingid" } else { "id" };
                Ok(Call::RemoveDirect(form.required(name)?))
            }
            "/api/v2/direct" if post => meet(&form()?),
            "/api/v2/status" => Err(ApiError::Method { allow: "GET, HEAD, POST" }),
            "/metrics" | "" => Err(ApiError::Method { allow: "GET, HEAD" }),
            "/api/v2/mapping/add"
            | "/api/v2/mapping/change"
            | "/api/v2/mapping/passcode"
            | "/api/v2/mapping/remove"
            | "/api/v2/commandline"
            | "/api/v2/direct/add"
            | "/api/v2/direct/remove"
            | "/api/v2/direct" => Err(ApiError::Method { allow: "POST" }),
            _ => Err(ApiError::UnknownPath(request.path.clone())),
        }
    }
}

fn command(word: &str) -> Result<Command, ApiError> {
    // The options are the original's other names for the same.
    match word {
        "status" => Ok(Command::Status),
        "version" | "--version" | "-v" => Ok(Command::Version),
        "help" | "--help" | "-h" | "-?" => Ok(Command::Help),
        "stop" => Ok(Command::Stop),
        "upgrade" => Ok(Command::Upgrade),
        "dump" => Ok(Command::Dump),
        _ => {
            Err(bad("command", format!("{} is unknown; use status, version or help", short(word))))
        }
    }
}

/// The mapping that `mapping/add` asks for. The JSON object is the form's `mapping`, or, as the
/// product's first description shows it, the whole body: bare, of either content type, or
/// URL-encoded without a name.
fn new_mapping(request: &Request) -> Result<NewMapping, ApiError> {
    let bare = request.body.trim_ascii_start().starts_with(b"{");
    let text = match media_type(request) {
        Media::Form if !bare => {
            let form = Form::of(request)?;
            match (form.value("mapping"), form.0.first()) {
                (Some(mapping), _) => Cow::Owned(mapping.to_owned()),
                (None, Some((name, _))) if name.trim_start().starts_with('{') => {
                    Cow::Owned(name.clone().into_owned())
                }
                (None, _) => return Err(bad("mapping", "is missing; send mapping=JSON as a form")),
            }
        }
        Media::Form | Media::Json => match std::str::from_utf8(&request.body) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => return Err(bad("mapping", "is not UTF-8")),
        },
        Media::Other => return Err(content_type(request)),
    };
    mapping(&text)
}

/// The members of a mapping's JSON.
fn members(text: &str) -> Result<Map<String, Value>, ApiError> {
    let Ok(Entries(members)) = json::read(text.as_bytes()) else {
        return Err(match json::read::<Value>(text.as_bytes()) {
            Ok(_) => bad("mapping", "is not a JSON object"),
            Err(fault) => bad("mapping", format!("is not JSON: {fault}")),
        });
    };
    let mut mapping = Map::new();
    for (name, value) in members {
        // A key given twice is refused, since nobody can tell which is meant.
        if mapping.contains_key(&name) {
            return Err(bad("mapping", format!("has {} twice; take one out", short(&name))));
        }
        mapping.insert(name, value);
    }
    match mapping.keys().find(|name| !is_member(name)) {
        Some(name) => Err(unknown_member(name)),
        None => Ok(mapping),
    }
}

/// The members that `mapping/change` is to change.
fn changes(text: &str) -> Result<Map<String, Value>, ApiError> {
    let members = members(text)?;
    if members.is_empty() {
        return Err(bad("mapping", "is empty; send the members to change"));
    }
    match ["type", "port1", "port2"].into_iter().find(|name| members.contains_key(*name)) {
        None => Ok(members),
        Some(name) => {
            let why = "cannot be changed, since agents and users know the mapping by it; remove the \
                       mapping and add another one";
            Err(bad(name, why))
        }
    }
}

fn mapping(text: &str) -> Result<NewMapping, ApiError> {
    let mapping = members(text)?;
    let member = |name: &str| mapping.get(name);
    let whole = |name, least, most| {
        options::integer(member(name), least, most).map_err(|fault| bad(name, fault))
    };
    let faulty = |(name, fault)| bad(name, fault);
    let limits = |names| AgentLimits::read(names, None, &member).map_err(faulty);
    let pipe = match mapping.get("type") {
        None => return Err(bad("type", "is missing; use public or private")),
        Some(Value::String(kind)) if kind == "public" => {
            NewPipe::Public(limits(AgentLimits::PUBLIC)?)
        }
        Some(Value::String(kind)) if kind == "private" => {
            let [one, two] = AgentLimits::PRIVATE;
            NewPipe::Private([limits(one)?, limits(two)?])
        }
        Some(Value::String(kind)) => {
            return Err(bad("type", format!("{} is unknown; use public or private", short(kind))));
        }
        Some(_) => return Err(bad("type", "is not a string; use \"public\" or \"private\"")),
    };
    let public = matches!(pipe, NewPipe::Public(_));
    let port = |name| match mapping.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => whole(name, 1, u16::MAX.into()).map(|port| u16::try_from(port).ok()),
    };
    let ports = [port("port1")?, port("port2")?];
    if let ([Some(one), Some(two)], true) = (ports, ports[0] == ports[1]) {
        return Err(bad("port2", format!("is {two}, and port1 is {one}; use two ports")));
    }
    options::new_name(member("name")).map_err(faulty)?;
    let options = Options::read(public, &member).map_err(faulty)?;
    Ok(NewMapping { pipe, ports, options })
}

/// The members of a mapping that the original knew, and the ports.
const MEMBERS: [&str; 9] = [
    "type",
    "maxconnections",
    "heartbeatabsencethreshold",
    "maxconnectionsport1",
    "maxconnectionsport2",
    "heartbeatabsencethresholdport1",
    "heartbeatabsencethresholdport2",
    "port1",
    "port2",
];

fn is_member(name: &str) -> bool {
    MEMBERS.contains(&name) || options::NAMES.contains(&name)
}

/// A misspelt `allow` must not open a pipe to all.
fn unknown_member(name: &str) -> ApiError {
    let known: Vec<_> = MEMBERS.into_iter().chain(options::NAMES).collect();
    let hint = match nearest(name, &known) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known are {}", known.join(", ")),
    };
    bad("mapping", format!("has the unknown member {}; {hint}", short(name)))
}

fn meet(form: &Form<'_>) -> Result<Call, ApiError> {
    let id = form.required("id")?;
    let passkey = Passkey(form.required("passkey")?);
    let ip = form.required("ip")?;
    let ip = ip.parse().map_err(|_| bad("ip", format!("{} is not an IP address", short(&ip))))?;
    let port = form.required("port")?;
    let port = match port.parse() {
        Ok(port) if port > 0 => port,
        _ => {
            let why = format!("{} is not a port number; use 1 to 65535", short(&port));
            return Err(bad("port", why));
        }
    };
    let certificate = form.present("certificate")?;
    if certificate.len() > limits::DIRECT_CERTIFICATE {
        let most = limits::DIRECT_CERTIFICATE;
        return Err(bad("certificate", format!("is longer than {most} bytes")));
    }
    Ok(Call::MeetDirect {
        id,
        passkey,
        candidate: Candidate { ip, port, certificate: certificate.into() },
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn request(method: &str, path: &str, kind: Option<&str>, body: &str) -> Request {
        Request {
            method: method.into(),
            path: path.into(),
            content_type: kind.map(Into::into),
            body: body.as_bytes().to_vec(),
        }
    }

    fn post(path: &str, body: &str) -> Result<Call, (u16, String)> {
        Call::parse(&request("POST", path, None, body))
            .map_err(|error| (error.status(), error.to_string()))
    }

    fn limits_of(max_connections: u16, threshold: u64) -> AgentLimits {
        AgentLimits {
            max_connections,
            heartbeat_threshold: (threshold > 0).then(|| Duration::from_millis(threshold)),
        }
    }

    const PUBLIC: &str =
        r#"{"type":"public","maxconnections":60,"heartbeatabsencethreshold":200000}"#;
    const PRIVATE: &str = r#"{"type":"private","maxconnectionsport1":1, "maxconnectionsport2":2, "heartbeatabsencethresholdport1":200000, "heartbeatabsencethresholdport2":0}"#;

    fn add(pipe: NewPipe) -> Call {
        let (ports, options) = ([None; 2], Options::default());
        Call::AddMapping(NewMapping { pipe, ports, options })
    }

    #[test]
    fn mapping_in_every_dress() {
        let public = add(NewPipe::Public(limits_of(60, 200_000)));
        let private = add(NewPipe::Private([limits_of(1, 200_000), limits_of(2, 0)]));
        let encode =
            |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
        for (json, call) in [(PUBLIC, public), (PRIVATE, private)] {
            let dresses = [
                (None, format!("mapping={}", encode(json))),
                (None, format!("mapping={}", encode(json).replace('+', "%20"))),
                (None, format!("other=1&mapping={}&mapping=second", encode(json))),
                (None, format!("mapping={json}")),
                (None, json.to_owned()),
                (None, format!("\r\n {json}\n")),
                (None, encode(json)),
                (Some("application/x-www-form-urlencoded"), json.to_owned()),
                (Some("Application/X-WWW-Form-Urlencoded ; charset=UTF-8"), json.to_owned()),
                (Some("application/json"), json.to_owned()),
                (Some("APPLICATION/JSON; charset=utf-8"), format!(" {json} ")),
            ];
            for (kind, body) in dresses {
                let request = request("POST", "/api/v2/mapping/add", kind, &body);
                let found = Call::parse(&request).unwrap_or_else(|error| panic!("{error}: {body}"));
                assert_eq!(found, call, "{body}");
            }
        }
    }

    #[test]
    fn mapping_faults_name_the_parameter() {
        let cases = [
            ("", "mapping"),
            ("mapping=", "mapping"),
            ("mapping=[]", "JSON object"),
            ("mapping=%7B", "is not JSON"),
            ("maping={}", "mapping"),
            (r#"{"type":"publik"}"#, "type \"publik\" is unknown; use public or private"),
            (r#"{"type":"public","x":1,"x":1}"#, "mapping has \"x\" twice; take one out"),
            (r#"{"type":1}"#, "public"),
            (r#"{}"#, "type"),
            (r#"{"type":"public"}"#, "maxconnections is missing"),
            (
                r#"{"type":"public","maxconnections":0}"#,
                "maxconnections is 0; use an integer from 1 to 65535",
            ),
            (r#"{"type":"public","maxconnections":65536}"#, "65536"),
            (r#"{"type":"public","maxconnections":-1}"#, "-1"),
            (r#"{"type":"public","maxconnections":1.5}"#, "1.5"),
            (r#"{"type":"public","maxconnections":"60"}"#, "\"60\"; use"),
            (r#"{"type":"public","maxconnections":null}"#, "maxconnections is null; use"),
            (r#"{"type":"public","maxconnections":1}"#, "heartbeatabsencethreshold is missing"),
            (
                r#"{"type":"public","maxconnections":1,"heartbeatabsencethreshold":2147483648}"#,
                "heartbeatabsencethreshold",
            ),
            (
                r#"{"type":"private","maxconnectionsport1":1,"heartbeatabsencethresholdport1":1}"#,
                "maxconnectionsport2",
            ),
        ];
        for (body, words) in cases {
            let (status, message) = post("/api/v2/mapping/add", body).expect_err(body);
            assert_eq!(status, 400, "{body}");
            assert!(message.contains(words), "{body}: {message}");
        }
        for (member, words) in [
            ("\"alow\":[]", "mapping has the unknown member \"alow\"; did you mean allow?"),
            ("\"comment\":1", "known are type, maxconnections"),
            ("\"port1\":0", "port1 is 0; use an integer from 1 to 65535"),
            ("\"port2\":\"80\"", "without quotes"),
            ("\"port1\":7,\"port2\":7", "port2 is 7, and port1 is 7; use two ports"),
            ("\"idle\":1", "idle is 1; use an integer from 1000"),
        ] {
            let body = PUBLIC.replace('}', &format!(",{member}}}"));
            let (status, message) = post("/api/v2/mapping/add", &body).expect_err(member);
            assert!(status == 400 && message.contains(words), "{member}: {message}");
        }
        let deep = "[".repeat(60_000);
        assert_eq!(post("/api/v2/mapping/add", &format!("mapping={deep}")).expect_err("").0, 400);
    }

    #[test]
    fn changes_name_members_and_not_what_stays() {
        let change = |mapping: &str| {
            let pairs = [("mappingid", "ssh"), ("mapping", mapping)];
            let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
            post("/api/v2/mapping/change", &body)
        };
        let Ok(Call::ChangeMapping(id, Alteration::Members(members))) =
            change(r#"{"allow":null,"maxconnections":3}"#)
        else {
            panic!("a change")
        };
        assert_eq!((&*id, members.len()), ("ssh", 2));
        for (mapping, words) in [
            ("{}", "mapping is empty; send the members to change"),
            ("[]", "mapping is not a JSON object"),
            (r#"{"alow":null}"#, "did you mean allow?"),
            (r#"{"idle":1,"idle":2}"#, "mapping has \"idle\" twice"),
            (r#"{"type":"public"}"#, "type cannot be changed"),
            (r#"{"name":"a","port1":6000}"#, "port1 cannot be changed"),
            (r#"{"port2":null}"#, "port2 cannot be changed"),
        ] {
            let (status, message) = change(mapping).expect_err(mapping);
            assert!(status == 400 && message.contains(words), "{mapping}: {message}");
        }
        for (body, words) in [
            ("mappingid=a", "side is missing"),
            ("mappingid=a&side=3", "side is \"3\"; use 1 or 2"),
            ("side=1", "mappingid is missing"),
        ] {
            let (_, message) = post("/api/v2/mapping/passcode", body).expect_err(body);
            assert!(message.contains(words), "{message}");
        }
        let passcode = Call::ChangeMapping("a".into(), Alteration::Passcode(1));
        assert_eq!(post("/api/v2/mapping/passcode", "mappingid=a&side=2"), Ok(passcode));
    }

    #[test]
    fn other_calls() {
        let cases = [
            ("mapping/remove", "mappingid=a%2Db&mappingid=c", Call::RemoveMapping("a-b".into())),
            ("status", "mappingid=all", Call::StatusOfAll),
            ("status/", "mappingid=x", Call::StatusOf("x".into())),
            ("commandline", "command=status&params=x+y", Call::Command(Command::Status)),
            ("commandline", "command=-v", Call::Command(Command::Version)),
            ("commandline", "command=--help", Call::Command(Command::Help)),
            ("commandline", "command=stop", Call::Command(Command::Stop)),
            ("commandline", "command=upgrade", Call::Command(Command::Upgrade)),
            ("direct/add", "", Call::AddDirect),
            ("direct/remove", "mappingid=a&id=b", Call::RemoveDirect("a".into())),
            ("direct/remove", "id=b", Call::RemoveDirect("b".into())),
        ];
        for (path, body, call) in cases {
            assert_eq!(post(&format!("/api/v2/{path}"), body), Ok(call), "{path} {body}");
        }
        for method in ["GET", "HEAD"] {
            let parse = |path| Call::parse(&request(method, path, None, "")).expect("a call");
            assert_eq!(parse("/api/v2/status"), Call::FullStatus);
            assert_eq!(parse("/metrics"), Call::Metrics);
            assert_eq!(parse("/"), Call::Page);
        }
    }

    #[test]
    fn faults() {
        let cases = [
            ("POST", "/api/v2/mapping/remove", "", 400),
            ("POST", "/api/v2/mapping/remove", "mappingid=+", 400),
            ("POST", "/api/v2/status", "id=all", 400),
            ("POST", "/api/v2/commandline", "command=reboot", 400),
            ("POST", "/api/v2/direct/remove", "", 400),
            ("POST", "/api/v2/direct", "id=a", 400),
            ("GET", "/api/v2/mapping/add", "", 405),
            ("DELETE", "/api/v2/status", "", 405),
            ("POST", "/metrics", "", 405),
            ("GET", "/api/v2/mappings", "", 404),
            ("POST", "/", "", 405),
            ("OPTIONS", "*", "", 404),
        ];
        for (method, path, body, status) in cases {
            let error = Call::parse(&request(method, path, None, body)).expect_err(path);
            assert_eq!(error.status(), status, "{method} {path} {body}");
        }
    }

    #[test]
    fn content_types() {
        let json = Some("application/json");
        let cases = [
            (json, "status", "mappingid=all", Err(415)),
            (Some("text/plain"), "status", "mappingid=all", Err(415)),
            (Some("text/plain"), "mapping/add", PUBLIC, Err(415)),
            (Some("application/x-www-form-urlencoded-not"), "status", "mappingid=all", Err(415)),
            (Some(" ;charset=utf-8"), "status", "mappingid=all", Ok(())),
            (json, "direct/add", "", Ok(())),
            (json, "status", "", Err(400)),
        ];
        for (kind, path, body, expected) in cases {
            let request = request("POST", &format!("/api/v2/{path}"), kind, body);
            let found = Call::parse(&request).map(drop).map_err(|error| error.status());
            assert_eq!(found, expected, "{kind:?} {path} {body}");
        }
    }

    #[test]
    fn direct_parameters() {
        let call = |ip: &str, port: &str, certificate: &str| {
            let body = format!("id=i&passkey=s3cret&ip={ip}&port={port}{certificate}");
            post("/api/v2/direct", &body).map_err(|(_, message)| {
                assert!(!message.contains("s3cret"), "{message}");
                message
            })
        };
        let met = call("10.0.0.1", "5000", "&certificate=PEM").expect("a call");
        assert!(!format!("{met:?}").contains("s3cret"), "{met:?}");
        assert!(call("::1", "1", "&certificate=").is_ok());
        assert!(call("host", "1", "&certificate=").expect_err("ip").starts_with("ip \"host\" is"));
        for port in ["0", "65536", "x", ""] {
            assert!(call("::1", port, "&certificate=").expect_err("port").starts_with("port "));
        }
        assert!(call("::1", "1", "").expect_err("absent").contains("certificate"));
        let long = format!("&certificate={}", "a".repeat(limits::DIRECT_CERTIFICATE + 1));
        assert!(call("::1", "1", &long).expect_err("long").contains("certificate"));
    }
}
