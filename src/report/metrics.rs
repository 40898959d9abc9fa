//! The Prometheus text exposition format, version 0.0.4. What each mapping counts has its labels
//! `mapping` (the id) and `type`; the sum over all mappings, removed ones included, stands under
//! a name of its own without `mapping_`, so that summing over labels counts nothing twice.

use std::fmt::{Display, Write};

use super::answer::Report;
use crate::report::status::reached::Reached;
use crate::report::status::refused::Refused;
use crate::report::status::times::{self, Histogram};
use crate::report::status::{Counts, MappingStatus, Status, listed};

/// The content type of [`metrics`].
pub const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every gauge and counter of `report`.
pub fn metrics(report: &Report) -> String {
    let (state, totals) = (&report.state, &report.totals);
    let mut page = Page::default();
    page.family("build_info", "gauge", "The version, as a label; always 1.");
    page.sample("build_info", &[("version", &report.version)], &1);
    let one = [
        ("uptime_seconds", "gauge", "Time since the start.", state.uptime.as_secs()),
        ("available_ports", "gauge", "Free ports in the pool.", state.available_ports as u64),
        ("files_in_use", "gauge", "Open files.", state.files.in_use as u64),
        ("files_allowed", "gauge", "Files that may be open.", state.files.allowed as u64),
        ("direct_connections", "gauge", "Direct connections.", state.direct as u64),
        ("warnings", "gauge", "Warnings in the status.", state.warnings.len() as u64),
        ("log_lost_total", "counter", "Log messages not delivered.", state.log_lost),
        (
            "api_handshake_failures_total",
            "counter",
            "TLS handshakes that failed on the API.",
            state.api_handshake_failures,
        ),
        ("api_refused_total", "counter", "API requests refused with 403.", state.api_refused),
        (
            "predecessor_sessions",
            "gauge",
            "Sessions of the process whose place this one took.",
            state.predecessor.map_or(0, |predecessor| predecessor.sessions),
        ),
        ("tunnels_idle", "gauge", IDLE, totals.tunnels.idle as u64),
        ("tunnels_in_use", "gauge", IN_USE, totals.tunnels.in_use as u64),
        ("tunnels_draining", "gauge", DRAINING, totals.tunnels.draining as u64),
        ("tunnels_unanswered", "gauge", UNANSWERED, totals.tunnels.unanswered as u64),
        ("tunnels_allowed", "gauge", ALLOWED, totals.tunnels.allowed as u64),
    ];
    for (name, kind, help, value) in one {
        page.family(name, kind, help);
        page.sample(name, &[], &value);
    }
    page.family(ENDS, "gauge", "When the certificate in force ends, in seconds since the epoch.");
    if let Some(ends) = state.certificate_ends {
        page.sample(ENDS, &[], &(ends / 1000));
    }
    page.family("mappings", "gauge", "Mappings with ports.");
    for (kind, public) in [("public", true), ("private", false)] {
        let count = state.mappings.iter().filter(|mapping| mapping.public == public).count();
        page.sample("mappings", &[("type", kind)], &count);
    }
    for (name, kind, help, value) in COUNTS {
        page.family(name, kind, help);
        page.sample(name, &[], &value(&totals.counts));
    }
    let waits = "How long users that were given a tunnel have waited for it.";
    page.histogram("user_wait_seconds", waits, &times::WAITS, &state.times.waits);
    let lasted = "How long sessions that are over have lasted.";
    page.histogram("session_duration_seconds", lasted, &times::SESSIONS, &state.times.sessions);
    page.family(
        "mapping_info",
        "gauge",
        "A mapping's name, or its id where it has none, and its options, as labels; always 1.",
    );
    for mapping in &state.mappings {
        let options: Vec<_> =
            mapping.options.iter().map(|(name, value)| (&**name, listed(value))).collect();
        let mut labels = vec![("mapping", &*mapping.id), ("name", mapping.name())];
        let others = options.iter().filter(|(name, _)| *name != "name");
        labels.extend(others.map(|(name, value)| (*name, &**value)));
        page.sample("mapping_info", &labels, &1);
    }
    page.sides(&state.mappings);
    for (name, kind, help, value) in COUNTS {
        let name = format!("mapping_{name}");
        page.family(&name, kind, help);
        for mapping in &state.mappings {
            let labels = [("mapping", &*mapping.id), ("type", kind_of(mapping))];
            page.sample(&name, &labels, &value(&mapping.counts));
        }
    }
    page.limits(state);
    page.refusals(state);
    page.text
}

const ENDS: &str = "certificate_end_timestamp_seconds";
const IDLE: &str = "Authenticated tunnels waiting for a user or for the other side.";
const IN_USE: &str = "Tunnels in a session.";
const DRAINING: &str = "Tunnels whose user has left, until the old answer is over.";
const UNANSWERED: &str = "Tunnels whose agent took a user's bytes and answered nothing.";
const ALLOWED: &str = "Authenticated tunnels allowed at one time.";

type Count = (&'static str, &'static str, &'static str, fn(&Counts) -> u64);

const COUNTS: [Count; 12] = [
    ("users_waiting", "gauge", "Users waiting for a tunnel.", |counts| counts.users_waiting),
    ("users_served_total", "counter", "Users given a tunnel.", |counts| counts.users_served),
    (
        "users_refused_total",
        "counter",
        "Users closed without a tunnel, except those that sent nothing and left.",
        |counts| counts.users_refused,
    ),
    ("sessions", "gauge", "Sessions now.", |counts| counts.sessions),
    ("sessions_total", "counter", "Sessions begun.", |counts| counts.sessions_total),
    ("pending_connections", "gauge", "Connections not yet authenticated.", |counts| counts.pending),
    (
        "up_bytes_total",
        "counter",
        "Bytes from port2 to port1 (from users to the agent).",
        |counts| counts.bytes_up,
    ),
    (
        "down_bytes_total",
        "counter",
        "Bytes from port1 to port2 (from the agent to users).",
        |counts| counts.bytes_down,
    ),
    (
        "handshake_failures_total",
        "counter",
        "TLS handshakes that failed or took too long.",
        |counts| counts.handshake_failures,
    ),
    (
        "agents_refused_total",
        "counter",
        "Agents refused: a wrong passcode, none in time, or at a limit.",
        |counts| counts.agents_refused,
    ),
    ("tunnels_total", "counter", "Tunnels authenticated.", |counts| counts.tunnels_total),
    (
        "tunnels_absent_total",
        "counter",
        "Tunnels closed because of their heartbeat's absence.",
        |counts| counts.tunnels_absent,
    ),
];

fn kind_of(mapping: &MappingStatus) -> &'static str {
    if mapping.public { "public" } else { "private" }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let name = format!("iofog_connector_{name}");
        self.text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &dyn Display) {
        self.text.push_str("iofog_connector_");
        self.text.push_str(name);
        for (number, (label, text)) in labels.iter().enumerate() {
            self.text.push_str(if number == 0 { "{" } else { "," });
            self.text.push_str(label);
            self.text.push_str("=\"");
            for character in text.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        self.text.push_str(if labels.is_empty() { " " } else { "} " });
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{value}");
    }

    fn histogram(&mut self, name: &str, help: &str, bounds: &[u32; 7], all: &Histogram) {
        self.family(name, "histogram", help);
        let in_seconds = |milliseconds| milliseconds as f64 / 1000.0;
        let [bucket, sum, count] = ["bucket", "sum", "count"].map(|part| format!("{name}_{part}"));
        let bounds = bounds.iter().map(|bound| in_seconds(u64::from(*bound)).to_string());
        let mut so_far = 0;
        for (bound, more) in bounds.chain(["+Inf".into()]).zip(all.counts) {
            so_far += more;
            self.sample(&bucket, &[("le", &bound)], &so_far);
        }
        self.sample(&sum, &[], &in_seconds(all.milliseconds));
        self.sample(&count, &[], &so_far);
    }

    /// How often, and when last, limits were reached: the daemon's, and each mapping's.
    fn limits(&mut self, state: &Status) {
        type Value = fn(&Reached) -> u64;
        let families: [(&str, &str, &str, Value); 2] = [
            (
                "limit_reached_total",
                "counter",
                "Newcomers that found a limit reached.",
                |reached| reached.times,
            ),
            (
                "limit_reached_last_seconds",
                "gauge",
                "When a limit was last reached, in seconds since the epoch.",
                |reached| reached.last / 1000,
            ),
        ];
        for (name, kind, help, value) in families {
            self.family(name, kind, help);
            for reached in state.limits_reached.iter() {
                self.sample(name, &[("limit", &*reached.limit)], &value(reached));
            }
            let name = format!("mapping_{name}");
            self.family(&name, kind, help);
            for mapping in &state.mappings {
                for reached in mapping.limits_reached.iter() {
                    let labels = [
                        ("mapping", &*mapping.id),
                        ("type", kind_of(mapping)),
                        ("limit", &*reached.limit),
                    ];
                    self.sample(&name, &labels, &value(reached));
                }
            }
        }
    }

    /// How often callers of the API, and each mapping's users and agents, were refused, by kind.
    fn refusals(&mut self, state: &Status) {
        self.family("api_refusals_total", "counter", "API callers refused, by kind.");
        for Refused { why, times, .. } in state.api_refusals.iter() {
            self.sample("api_refusals_total", &[("why", why)], &times);
        }
        let name = "mapping_refusals_total";
        self.family(name, "counter", "Users and agents refused, by kind.");
        for mapping in &state.mappings {
            for Refused { who, why, times, .. } in mapping.refusals.iter() {
                let labels = [
                    ("mapping", &*mapping.id),
                    ("type", kind_of(mapping)),
                    ("who", who),
                    ("why", why),
                ];
                self.sample(name, &labels, &times);
            }
        }
    }

    /// What each port of each mapping shows.
    fn sides(&mut self, mappings: &[MappingStatus]) {
        type Value = fn(&crate::report::status::SideStatus) -> Option<usize>;
        let families: [(&str, &str, Value); 6] = [
            ("mapping_port_open", "Whether the port is open.", |side| Some(side.open.into())),
            ("mapping_tunnels_idle", IDLE, |side| Some(side.tunnels?.idle)),
            ("mapping_tunnels_in_use", IN_USE, |side| Some(side.tunnels?.in_use)),
            ("mapping_tunnels_draining", DRAINING, |side| Some(side.tunnels?.draining)),
            ("mapping_tunnels_unanswered", UNANSWERED, |side| Some(side.tunnels?.unanswered)),
            ("mapping_tunnels_allowed", ALLOWED, |side| Some(side.tunnels?.allowed)),
        ];
        for (name, help, value) in families {
            self.family(name, "gauge", help);
            for mapping in mappings {
                for (side, word) in mapping.sides.iter().zip(["port1", "port2"]) {
                    if let Some(value) = value(side) {
                        let port = side.port.to_string();
                        let labels = [
                            ("mapping", &*mapping.id),
                            ("type", kind_of(mapping)),
                            ("side", word),
                            ("port", &port),
                        ];
                        self.sample(name, &labels, &value);
                    }
                }
            }
        }
    }
}
