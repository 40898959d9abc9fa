//! A Controller, and any other caller of the API, down to single bytes (protocol page, section 3).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::ClientConfig;
use serde_json::Value;

use super::{Got, Link};

/// Where and how to call the API.
#[derive(Clone)]
pub struct Controller {
    target: Target,
}

#[derive(Clone)]
enum Target {
    Tcp(SocketAddr, Option<Arc<ClientConfig>>),
    Unix(PathBuf),
}

/// A mapping as `mapping/add` answered it.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// `id`
    pub id: String,
    /// `port1`
    pub port1: u16,
    /// `port2`
    pub port2: u16,
    /// `passcode1`
    pub passcode1: String,
    /// `passcode2`
    pub passcode2: String,
}

/// One answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, values without blanks around.
    pub headers: Vec<(String, String)>,
    /// The body, as long as `Content-Length` says.
    pub body: Vec<u8>,
}

/// One connection to the API.
pub struct Connection {
    /// The wire.
    pub link: Link,
    unread: Vec<u8>,
}

impl Controller {
    /// Over TCP, in TLS when there is a configuration for it.
    pub fn tcp(address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Self {
        Controller { target: Target::Tcp(address, tls) }
    }

    /// Over the Unix socket.
    pub fn unix(path: PathBuf) -> Self {
        Controller { target: Target::Unix(path) }
    }

    /// A new connection.
    pub fn try_connect(&self) -> std::io::Result<Connection> {
        let link = match &self.target {
            Target::Tcp(address, None) => Link::plain(*address),
            Target::Tcp(address, Some(tls)) => Link::tls(*address, tls),
            Target::Unix(path) => Link::unix(path),
        };
        Ok(Connection { link: link?, unread: Vec::new() })
    }

    /// A new connection, which must succeed.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        self.try_connect().unwrap_or_else(|error| panic!("connecting to the API: {error}"))
    }

    /// One GET on a connection of its own.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.connect().get(path)
    }

    /// One POST of a form on a connection of its own.
    #[track_caller]
    pub fn post(&self, path: &str, body: &str) -> Response {
        self.connect().post(path, body)
    }

    /// Adds a public pipe.
    #[track_caller]
    pub fn add_public(&self, connections: u32, threshold: u64) -> Mapping {
        self.add(&format!(
            r#"{{"type":"public","maxconnections":{connections},"heartbeatabsencethreshold":{threshold}}}"#
        ))
    }

    /// Adds a private pipe with the same limits on both sides.
    #[track_caller]
    pub fn add_private(&self, connections: u32, threshold: u64) -> Mapping {
        self.add(&format!(
            "{{\"type\":\"private\",\"maxconnectionsport1\":{connections}, \
             \"maxconnectionsport2\":{connections}, \
             \"heartbeatabsencethresholdport1\":{threshold}, \
             \"heartbeatabsencethresholdport2\":{threshold}}}"
        ))
    }

    /// `mapping/add` with this JSON in the form field `mapping`, as the Controller sends it.
    #[track_caller]
    pub fn add(&self, json: &str) -> Mapping {
        self.post("/api/v2/mapping/add", &form(&[("mapping", json)])).mapping()
    }

    /// `mapping/remove`, which must succeed.
    #[track_caller]
    pub fn remove(&self, mapping: &Mapping) {
        let answer = self.post("/api/v2/mapping/remove", &form(&[("mappingid", &mapping.id)]));
        let answer = answer.ok();
        assert_eq!(answer["status"], "ok", "{answer}");
        assert_eq!(answer["id"], mapping.id.as_str(), "{answer}");
    }

    /// `GET /api/v2/status`.
    #[track_caller]
    pub fn state(&self) -> Value {
        self.get("/api/v2/status").ok()
    }

    /// What `GET /api/v2/status` says of this mapping.
    #[track_caller]
    pub fn state_of(&self, mapping: &Mapping) -> Option<Value> {
        let state = self.state();
        let mappings = state["mappings"].as_array().expect("mappings");
        mappings.iter().find(|one| one["id"] == mapping.id.as_str()).cloned()
    }

    /// A number that `GET /api/v2/status` shows of this mapping, by the path to it: `counts.usersWaiting`
    /// or `sides.0.tunnels.idle`.
    #[track_caller]
    pub fn number(&self, mapping: &Mapping, path: &str) -> u64 {
        let state = self.state_of(mapping).expect("the mapping is in the status");
        let value = path.split('.').fold(&state, |value, key| match key.parse::<usize>() {
            Ok(index) => &value[index],
            Err(_) => &value[key],
        });
        value.as_u64().unwrap_or_else(|| panic!("{path} in {state}"))
    }

    /// Tunnels on port1 that wait for a user, or for the other side.
    #[track_caller]
    pub fn idle(&self, mapping: &Mapping) -> u64 {
        self.number(mapping, "sides.0.tunnels.idle")
    }

    /// Tunnels on port1 that are in a session.
    #[track_caller]
    pub fn in_use(&self, mapping: &Mapping) -> u64 {
        self.number(mapping, "sides.0.tunnels.inUse")
    }

    /// Users that wait for a tunnel.
    #[track_caller]
    pub fn users_waiting(&self, mapping: &Mapping) -> u64 {
        self.number(mapping, "counts.usersWaiting")
    }

    /// Bytes carried from port2 to port1.
    #[track_caller]
    pub fn bytes_up(&self, mapping: &Mapping) -> u64 {
        self.number(mapping, "counts.bytesUp")
    }

    /// Bytes carried from port1 to port2.
    #[track_caller]
    pub fn bytes_down(&self, mapping: &Mapping) -> u64 {
        self.number(mapping, "counts.bytesDown")
    }

    /// `POST /api/v2/status` for `all` or an id.
    #[track_caller]
    pub fn status(&self, id: &str) -> Value {
        self.post("/api/v2/status", &form(&[("mappingid", id)])).ok()
    }

    /// `GET /metrics`.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200);
        String::from_utf8(answer.body).expect("UTF-8")
    }
}

impl Connection {
    /// Sends a GET and reads its answer.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        self.response()
    }

    /// Sends a POST of a form and reads its answer.
    #[track_caller]
    pub fn post(&mut self, path: &str, body: &str) -> Response {
        self.send(&post(path, body));
        self.response()
    }

    /// Sends these bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.link.send(bytes);
    }

    /// Reads the next answer.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response().expect("an answer before the connection closes")
    }

    /// Reads the next answer; `None` when the connection ends before its first byte.
    #[track_caller]
    pub fn try_response(&mut self) -> Option<Response> {
        let end = loop {
            let end = self.unread.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
            if !self.read_more() {
                assert!(self.unread.is_empty(), "closed within a head: {:?}", self.unread);
                return None;
            }
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).expect("ASCII head");
        let mut lines = head.split("\r\n");
        let first = lines.next().expect("status line");
        let status = first.strip_prefix("HTTP/1.1 ").expect("HTTP/1.1");
        let status: u16 = status[..3].parse().expect("status code");
        let headers: Vec<_> = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (name, value) = line.split_once(':').expect("header");
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        if status >= 200 {
            let length = response.header("content-length").expect("Content-Length");
            let length: usize = length.parse().expect("a number");
            while self.unread.len() < length {
                assert!(self.read_more(), "closed within a body");
            }
            response.body = self.unread.drain(..length).collect();
        }
        Some(response)
    }

    /// Expects the connection to be closed with no further byte.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        assert!(self.unread.is_empty(), "more bytes: {:?}", String::from_utf8_lossy(&self.unread));
        self.link.expect_closed();
    }

    fn read_more(&mut self) -> bool {
        match self.link.record() {
            Got::Bytes(bytes) => {
                self.unread.extend(bytes);
                true
            }
            Got::Late => panic!("no answer; so far {:?}", String::from_utf8_lossy(&self.unread)),
            _ => false,
        }
    }
}

impl Response {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; everything but /metrics answers exactly one object.
    #[track_caller]
    pub fn json(&self) -> Value {
        let kind = self.header("content-type").expect("Content-Type");
        assert!(kind.starts_with("application/json"), "{kind}");
        let value: Value = serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{error}: {:?}", String::from_utf8_lossy(&self.body));
        });
        assert!(value.is_object(), "{value}");
        value
    }

    /// The JSON of a success, with a timestamp of now.
    #[track_caller]
    pub fn ok(&self) -> Value {
        let value = self.json();
        assert_eq!(self.status, 200, "{value}");
        assert_recent(&value);
        value
    }

    /// The error message of a failure with this status code, in the one shape errors have.
    #[track_caller]
    pub fn failed(&self, status: u16) -> String {
        let value = self.json();
        assert_eq!(self.status, status, "{value}");
        assert_eq!(value["status"], "failed", "{value}");
        assert_recent(&value);
        let message = value["errormessage"].as_str().expect("errormessage");
        assert!(!message.is_empty(), "an empty error message");
        message.to_owned()
    }

    /// The answer of `mapping/add`.
    #[track_caller]
    pub fn mapping(&self) -> Mapping {
        let value = self.ok();
        assert_eq!(value["status"], "ok", "{value}");
        let text = |name: &str| {
            value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}")).to_owned()
        };
        let port = |name: &str| {
            let port = value[name].as_u64().unwrap_or_else(|| panic!("{name} in {value}"));
            u16::try_from(port).expect("port")
        };
        Mapping {
            id: text("id"),
            port1: port("port1"),
            port2: port("port2"),
            passcode1: text("passcode1"),
            passcode2: text("passcode2"),
        }
    }
}

/// The bytes of a POST of a form.
pub fn post(path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// `application/x-www-form-urlencoded` of these pairs.
pub fn form(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Milliseconds since the epoch.
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_millis()).expect("before the year 500,000,000")
}

/// Expects `timestamp` to be milliseconds since the epoch, of the last minutes.
#[track_caller]
fn assert_recent(value: &Value) {
    let stamp = value["timestamp"].as_u64().unwrap_or_else(|| panic!("timestamp in {value}"));
    assert!(now().abs_diff(stamp) < 300_000, "timestamp {stamp} at {}", now());
}
