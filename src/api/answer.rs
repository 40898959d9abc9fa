//! The shapes of the API's answers, with the outside names in the original's order (protocol
//! page, section 3). Pure, but for the clock that stamps them.

use std::net::IpAddr;

use serde::Serialize;

use super::direct;
use super::error::ApiError;
use crate::http::Response;
use crate::mappings::mapping::{Alteration, Mapping, Pipe};
use crate::report::status::{MappingStatus, Overview, Status, timestamp};
use crate::report::{self, Report};

pub(super) fn failed(error: &ApiError) -> Response {
    #[derive(Serialize)]
    struct Failed {
        status: &'static str,
        errormessage: String,
        timestamp: u64,
    }
    let body = Failed { status: "failed", errormessage: error.to_string(), timestamp: timestamp() };
    let allow = match error {
        ApiError::Method { allow } => Some(*allow),
        _ => None,
    };
    Response { allow, ..answer(error.status(), &body) }
}

/// The answer to an addition: it and [`altered`] alone show secrets.
pub(super) fn added(mapping: &Mapping, broker: u16) -> Response {
    #[derive(Serialize)]
    struct Added<'a> {
        status: &'static str,
        id: &'a str,
        port1: u16,
        port2: u16,
        passcode1: &'a str,
        passcode2: &'a str,
        timestamp: u64,
    }
    #[derive(Serialize)]
    struct AddedDirect<'a> {
        status: &'static str,
        id: &'a str,
        passkey: &'a str,
        port: u16,
        timestamp: u64,
    }
    let (status, id, timestamp) = ("ok", &*mapping.id, timestamp());
    match &mapping.pipe {
        Pipe::Public { agent, users } => ok(&Added {
            status,
            id,
            port1: agent.port,
            port2: *users,
            passcode1: agent.passcode.reveal(),
            passcode2: "",
            timestamp,
        }),
        Pipe::Private { sides: [one, two] } => ok(&Added {
            status,
            id,
            port1: one.port,
            port2: two.port,
            passcode1: one.passcode.reveal(),
            passcode2: two.passcode.reveal(),
            timestamp,
        }),
        Pipe::Direct { passkey } => {
            ok(&AddedDirect { status, id, passkey: passkey.reveal(), port: broker, timestamp })
        }
    }
}

/// The answer to a change; of a new passcode with that.
pub(super) fn altered(mapping: &Mapping, alteration: &Alteration) -> Response {
    #[derive(Serialize)]
    struct Renewed<'a> {
        status: &'static str,
        id: &'a str,
        side: usize,
        port: u16,
        passcode: &'a str,
        timestamp: u64,
    }
    let side = match alteration {
        Alteration::Members(_) => None,
        Alteration::Passcode(side) => mapping.pipe.agents().get(*side).map(|agent| (side, agent)),
    };
    let Some((side, agent)) = side else { return removed(&mapping.id) };
    ok(&Renewed {
        status: "ok",
        id: &mapping.id,
        side: side + 1,
        port: agent.port,
        passcode: agent.passcode.reveal(),
        timestamp: timestamp(),
    })
}

pub(super) fn removed(id: &str) -> Response {
    #[derive(Serialize)]
    struct Removed<'a> {
        status: &'static str,
        id: &'a str,
        timestamp: u64,
    }
    ok(&Removed { status: "ok", id, timestamp: timestamp() })
}

pub(super) fn met(id: &str, first: Option<direct::Caller>) -> Response {
    #[derive(Serialize)]
    struct Wait<'a> {
        status: &'static str,
        id: &'a str,
        timestamp: u64,
    }
    #[derive(Serialize)]
    struct Met<'a> {
        status: &'static str,
        id: &'a str,
        ip: IpAddr,
        remoteip: IpAddr,
        port: u16,
        certificate: &'a str,
        timestamp: u64,
    }
    match first {
        None => ok(&Wait { status: "wait", id, timestamp: timestamp() }),
        Some(first) => ok(&Met {
            status: "ok",
            id,
            ip: first.candidate.ip,
            remoteip: first.remote_ip,
            port: first.candidate.port,
            certificate: &first.candidate.certificate,
            timestamp: timestamp(),
        }),
    }
}

pub(super) fn status_of_all(overview: &Overview) -> Response {
    #[derive(Serialize)]
    struct All {
        id: &'static str,
        timestamp: u64,
        status: &'static str,
        mappings: usize,
        version: &'static str,
        #[serde(rename = "availablePorts")]
        available_ports: usize,
    }
    ok(&All {
        id: "all",
        timestamp: timestamp(),
        status: overview.condition,
        mappings: overview.mappings,
        version: env!("CARGO_PKG_VERSION"),
        available_ports: overview.available_ports,
    })
}

pub(super) fn status_of(mapping: &MappingStatus) -> Response {
    #[derive(Serialize)]
    struct Public<'a> {
        id: &'a str,
        timestamp: u64,
        public: &'static str,
        private: &'static str,
    }
    #[derive(Serialize)]
    struct Private<'a> {
        id: &'a str,
        timestamp: u64,
        private1: &'static str,
        private2: &'static str,
    }
    let (id, timestamp) = (&*mapping.id, timestamp());
    let state = |side| if mapping.active(side) { "Active" } else { "Inactive" };
    if mapping.public {
        ok(&Public { id, timestamp, public: state(1), private: state(0) })
    } else {
        ok(&Private { id, timestamp, private1: state(0), private2: state(1) })
    }
}

pub(super) fn said(response: &str) -> Response {
    #[derive(Serialize)]
    struct Said<'a> {
        response: &'a str,
        timestamp: u64,
    }
    ok(&Said { response, timestamp: timestamp() })
}

pub(super) fn full_status(status: Status) -> Response {
    ok(&Report::of(status, timestamp()))
}

pub(super) fn metrics(status: Status) -> Response {
    Response {
        status: 200,
        content_type: report::METRICS_TYPE,
        allow: None,
        fields: "",
        body: report::metrics(&Report::of(status, timestamp())).into_bytes(),
    }
}

pub(super) fn page(status: Status) -> Response {
    Response {
        status: 200,
        content_type: report::PAGE_TYPE,
        allow: None,
        fields: report::PAGE_FIELDS,
        body: report::page(&Report::of(status, timestamp())).into_bytes(),
    }
}

fn answer(status: u16, body: &impl Serialize) -> Response {
    Response {
        status,
        content_type: "application/json",
        allow: None,
        fields: "",
        // The only values that cannot be JSON are maps with odd keys, and there are none.
        body: serde_json::to_vec(body).unwrap_or_else(|_| b"{}".to_vec()),
    }
}

fn ok(body: &impl Serialize) -> Response {
    answer(200, body)
}
