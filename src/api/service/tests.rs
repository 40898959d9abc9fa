use std::time::Duration;

use super::*;
use crate::mappings::mapping::{AgentLimits, AgentPort, Mapping, Passcode, Pipe};
use crate::pipes::change::ChangeError;
use crate::report::status::refused::Refusals;
use crate::report::status::{MappingStatus, Overview, SideStatus};

fn json(response: &Response) -> serde_json::Value {
    assert_eq!(response.content_type, "application/json");
    let mut value: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    let timestamp = value.as_object_mut().expect("an object").remove("timestamp");
    assert!(timestamp.expect("a timestamp").as_u64().expect("a number") > 1_500_000_000_000);
    value
}

fn agent(port: u16, passcode: &str) -> AgentPort {
    let limits =
        AgentLimits { max_connections: 1, heartbeat_threshold: Some(Duration::from_secs(1)) };
    AgentPort { port, passcode: Passcode::new(passcode).expect("not empty"), limits }
}

fn added(pipe: Pipe) -> serde_json::Value {
    json(&answer::added(&Mapping { id: "i".into(), pipe, options: Default::default() }, 12345))
}

#[test]
fn additions() {
    assert_eq!(
        added(Pipe::Public { agent: agent(1, "p"), users: 2 }),
        serde_json::json!({"status": "ok", "id": "i", "port1": 1, "port2": 2,
            "passcode1": "p", "passcode2": ""})
    );
    assert_eq!(
        added(Pipe::Private { sides: [agent(1, "p"), agent(2, "q")] }),
        serde_json::json!({"status": "ok", "id": "i", "port1": 1, "port2": 2,
            "passcode1": "p", "passcode2": "q"})
    );
    let passkey = Passcode::new("k").expect("not empty");
    assert_eq!(
        added(Pipe::Direct { passkey }),
        serde_json::json!({"status": "ok", "id": "i", "passkey": "k", "port": 12345})
    );
    assert_eq!(json(&answer::removed("i")), serde_json::json!({"status": "ok", "id": "i"}));
}

#[test]
fn states() {
    let side = |open| SideStatus {
        port: 1,
        open,
        fault: None,
        tunnels: None,
        heartbeat_threshold: None,
        agents: Vec::new(),
    };
    let mapping = |public, one, two| MappingStatus {
        state: "active",
        options: Default::default(),
        id: "i".into(),
        sides: [side(one), side(two)],
        public,
        url: None,
        counts: Default::default(),
        last_error: None,
        last_error_at: None,
        last_error_over: false,
        refusals: Refusals::default(),
        limits_reached: Default::default(),
    };
    assert_eq!(
        json(&answer::status_of(&mapping(true, true, false))),
        serde_json::json!({"id": "i", "private": "Active", "public": "Inactive"})
    );
    assert_eq!(
        json(&answer::status_of(&mapping(false, false, true))),
        serde_json::json!({"id": "i", "private1": "Inactive", "private2": "Active"})
    );
    let overview = Overview { condition: "running", mappings: 2, available_ports: 7 };
    assert_eq!(
        json(&answer::status_of_all(&overview)),
        serde_json::json!({"id": "all", "status": "running", "mappings": 2,
            "version": env!("CARGO_PKG_VERSION"), "availablePorts": 7})
    );
    assert_eq!(json(&answer::said("x")), serde_json::json!({"response": "x"}));
    let mappings = vec![mapping(true, true, true); 2];
    let status = Status { mappings, ..Status::default() };
    assert_eq!(json(&answer::full_status(status))["mappings"][1]["id"], "i");
}

#[test]
fn meetings() {
    let first = direct::Caller {
        candidate: direct::Candidate {
            ip: IpAddr::from([10, 0, 0, 1]),
            port: 5,
            certificate: "PEM\n".into(),
        },
        remote_ip: IpAddr::from([192, 0, 2, 1]),
    };
    assert_eq!(json(&answer::met("i", None)), serde_json::json!({"status": "wait", "id": "i"}));
    assert_eq!(
        json(&answer::met("i", Some(first))),
        serde_json::json!({"status": "ok", "id": "i", "ip": "10.0.0.1",
            "remoteip": "192.0.2.1", "port": 5, "certificate": "PEM\n"})
    );
}

#[test]
fn failures_are_one_json_object() {
    let change = |error| ApiError::of_change(error, "i");
    let cases = [
        (ApiError::Parameter { name: "mappingid", fault: "is missing".into() }, 400, "mappingid"),
        (ApiError::NotAllowed(IpAddr::from([192, 0, 2, 1])), 403, "192.0.2.1"),
        (ApiError::StopFromAfar, 403, "own machine"),
        (ApiError::UnknownPath("/x\"\n".into()), 404, "\\n"),
        (ApiError::UnknownDirect("i".into()), 404, "\"i\""),
        (ApiError::Method { allow: "POST" }, 405, "POST"),
        (ApiError::Http(Fault::TooSlow), 408, "10 s"),
        (ApiError::Http(Fault::BodyTooLarge), 413, "65536"),
        (ApiError::Http(Fault::Crowded), 503, "send it again"),
        (ApiError::ContentType("text/plain".into()), 415, "form-urlencoded"),
        (change(ChangeError::Unknown), 404, "\"i\""),
        (change(ChangeError::Store("no space".into())), 500, "no space"),
        (change(ChangeError::Stopping), 503, "stopping"),
        (change(ChangeError::NoPorts("all 2 are taken".into())), 507, "all 2 are taken"),
    ];
    for (error, status, words) in cases {
        let response = answer::failed(&error);
        assert_eq!(response.status, status, "{error}");
        assert_eq!(response.allow, (status == 405).then_some("POST"));
        let body = json(&response);
        assert_eq!(body["status"], "failed");
        let message = body["errormessage"].as_str().expect("a message");
        assert!(message.contains(words), "{message}");
    }
    let long = ApiError::Unknown("\u{1f}".repeat(5000).into()).to_string();
    assert!(long.len() < 1000, "{long}");
}
