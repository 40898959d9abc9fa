use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value};

use super::*;
use crate::report::status::events::Happened;
use crate::report::status::reached::{self, LimitsReached};
use crate::report::status::refused::{self, Refusals};
use crate::report::status::times::{self, Times};
use crate::report::status::{
    AgentStatus, Counts, Draining, MappingStatus, OpenFiles, Predecessor, SideStatus, Status,
    Tunnels,
};
use crate::text::event::Event;

fn side(port: u16, fault: Option<&str>, tunnels: Option<Tunnels>) -> SideStatus {
    let heartbeat_threshold = tunnels.map(|_| 60_000);
    SideStatus {
        port,
        open: fault.is_none(),
        fault: fault.map(Into::into),
        tunnels,
        heartbeat_threshold,
        agents: tunnels.map(|_| agent()).into_iter().collect(),
    }
}

fn agent() -> AgentStatus {
    let address = "192.0.2.7".parse().expect("an address");
    AgentStatus { address, since: 1_542_719_000_000, tunnels: 2 }
}

fn limits(json: &str) -> LimitsReached {
    serde_json::from_str(json).expect("limits")
}

fn refusals(json: &str) -> Refusals {
    serde_json::from_str(json).expect("refusals")
}

pub(super) fn sample() -> Report {
    let counts = Counts {
        users_waiting: 1,
        users_served: 2,
        users_refused: 3,
        sessions: 4,
        sessions_total: 5,
        pending: 6,
        bytes_up: 7000,
        bytes_down: 8_000_000,
        handshake_failures: 9,
        agents_refused: 10,
        tunnels_total: 11,
        tunnels_absent: 12,
    };
    let tunnels = Tunnels {
        idle: 58,
        in_use: 2,
        draining: 21,
        unanswered: 22,
        allowed: 60,
        versions: [0, 1, 59],
    };
    let one = Tunnels { idle: 1, allowed: 1, ..Tunnels::default() };
    let public = MappingStatus {
        state: "active",
        options: Default::default(),
        id: "a\"b\\c\n\u{1b}".into(),
        sides: [side(6000, None, Some(tunnels)), side(6001, None, None)],
        public: true,
        url: Some("https://example.org:6001".into()),
        counts,
        last_error: Some("agent 192.0.2.1: wrong passcode".into()),
        last_error_at: Some(1_542_719_017_626),
        last_error_over: true,
        refusals: refusals(
            r#"[{"who":"agent","why":"wrong passcode","times":31,"last":1542719017626}]"#,
        ),
        limits_reached: limits(
            r#"[{"limit":"users waiting (pending)","times":21,"last":1542719016626}]"#,
        ),
    };
    let private = MappingStatus {
        state: "half open",
        options: told(),
        id: "e2454159-ed8c-4d00-a885-fdd87de811de".into(),
        sides: [
            side(6002, None, Some(one)),
            side(6003, Some("port 6003 is taken; it is tried again"), Some(one)),
        ],
        public: false,
        url: None,
        counts: Counts::default(),
        last_error: Some("port 6003 is taken; it is tried again".into()),
        last_error_at: Some(1_542_719_017_000),
        last_error_over: false,
        refusals: Refusals::default(),
        limits_reached: LimitsReached::default(),
    };
    let state = Status {
        uptime: Duration::from_secs(93_784),
        address: "example.org".into(),
        dev: false,
        listen: "127.0.0.1".into(),
        api: Some("127.0.0.1:54321".into()),
        certificate: Some("SHA256:00:FF".into()),
        certificate_ends: Some(4_102_444_800_000),
        draining: None,
        predecessor: None,
        limits_reached: limits(
            r#"[{"limit":"256 API connections at one time","times":3,"last":1542719018000,"over":true}]"#,
        ),
        available_ports: 996,
        files: OpenFiles { in_use: 30, allowed: 1024 },
        warnings: vec!["the API is open to everybody; set controllers".into()],
        mappings: vec![public, private],
        direct: 1,
        removed: Counts { users_served: 40, ..Counts::default() },
        log_lost: 13,
        api_handshake_failures: 14,
        api_refused: 15,
        api_refusals: refusals(
            r#"[{"who":"caller","why":"it is not among controllers","times":1,"last":1542719018000}]"#,
        ),
        events: happened(),
        times: Times::default(),
    };
    Report::of(state, 1_542_719_018_626)
}

fn happened() -> Vec<Happened> {
    let all = r#"[
        {"at":1542719017626,"event":"reloaded","mapping":null,"name":null,"count":1,
        "message":"settings and certificates were read again"},
        {"at":1542719018626,"event":"agent-came","mapping":"e2454159-ed8c-4d00-a885-fdd87de811de",
        "name":"db","count":31,"message":"agent 192.0.2.1 has a tunnel on port 6002 \u001b"}]"#;
    serde_json::from_str(all).expect("events")
}

/// Every option a mapping may be told.
fn told() -> Map<String, Value> {
    let told = r#"{"name":"db","users":"plain","allow":["192.0.2.0/24"],"usersperaddress":2,"proxyfrom":["192.0.2.1"],"idle":60000,"alpn":["h2"]}"#;
    serde_json::from_str(told).expect("JSON")
}

#[test]
fn json_is_read_back() {
    let report = sample();
    let json = serde_json::to_string(&report).expect("JSON");
    // What the command line does not show is not read back: it would make the program larger.
    let mut known = report.state;
    known.files = OpenFiles::default();
    known.mappings.iter_mut().for_each(|mapping| mapping.state = "");
    for side in known.mappings.iter_mut().flat_map(|mapping| &mut mapping.sides) {
        side.agents.clear();
        side.tunnels.iter_mut().for_each(|tunnels| tunnels.versions = [0; 3]);
    }
    let known = Report::of(known, report.timestamp);
    assert_eq!(Report::read(json.as_bytes()).expect("the same"), known);
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(value["status"], "running");
    assert_eq!(value["availablePorts"], 996);
    assert_eq!(value["uptime"], 93_784);
    assert_eq!(value["mappings"][0]["sides"][0]["tunnels"]["inUse"], 2);
    assert_eq!(value["mappings"][0]["counts"]["usersServed"], 2);
    assert_eq!(value["mappings"][0]["url"], "https://example.org:6001");
    assert_eq!(value["totals"]["counts"]["usersServed"], 42);
    assert_eq!(value["mappings"][0]["sides"][0]["tunnels"]["draining"], 21);
    assert_eq!(value["totals"]["tunnels"]["unanswered"], 22);
    assert_eq!(value["totals"]["tunnels"]["idle"], 60);
    assert_eq!(value["mappings"][1]["state"], "half open");
}

#[test]
fn table_at_a_glance() {
    let expected = [
        "iofog-connector VERSION, running for 1 d 2 h",
        "mappings' ports listen on 127.0.0.1 alone: for this machine only",
        "warning: the API is open to everybody; set controllers",
        "",
        "MAPPING        KIND     PORTS      TUNNELS idle/in use/allowed  USERS waiting/served  UP       DOWN     STATE      PUBLIC URL",
        "a\"b\\c\\n\\u{1b}  public   6000 6001  58/2/60                      1/2                   6.8 KiB  7.6 MiB  active     https://example.org:6001",
        "    tunnels draining, their user gone and the old answer not over: 21",
        "    tunnels whose agent took a user's bytes and answered nothing: 22",
        "    refused: agent: wrong passcode, 31 times, last at 2018-11-20T13:03:37Z",
        "    limit reached: users waiting (pending), 21 times, last at 2018-11-20T13:03:36Z",
        "db             private  6002 6003  1/0/1 1/0/1                  -                     0 B      0 B      half open  -",
        "    port 6003 is taken; it is tried again",
        "2 mappings                         60/2/62                      1/42                  6.8 KiB  7.6 MiB",
        "",
        "sessions 4 now, 5 in all; refused: 3 users, 10 agents, 9 TLS handshakes; connections without passcode yet 6",
        "free ports 996; direct connections 1; API: 15 requests refused, 14 TLS handshakes failed",
        "log messages lost 13: log file or syslog did not take them (disk full, no syslog); `sudo iofog-connector check` says why",
        "limit reached: 256 API connections at one time, 3 times, last at 2018-11-20T13:03:38Z (over)",
        "API: refused: caller: it is not among controllers, once, last at 2018-11-20T13:03:38Z",
        "",
    ];
    let expected = expected.join("\n").replace("VERSION", env!("CARGO_PKG_VERSION"));
    assert_eq!(table(&sample(), None), expected);
    let empty = table(&Report::of(Status::default(), 0), None);
    assert!(empty.contains("\nno mappings\n"), "{empty}");
}

#[test]
fn table_and_list_fit_80_columns_with_names_instead_of_ids() {
    let mut report = sample();
    let mut unnamed = report.state.mappings[1].clone();
    unnamed.options.clear();
    unnamed.sides[0].port = 30_000;
    unnamed.counts.bytes_up = 1_047_000;
    unnamed.counts.bytes_down = 1_047_000;
    let busy = Tunnels { idle: 10, in_use: 50, allowed: 60, ..Tunnels::default() };
    unnamed.sides[0].tunnels = Some(busy);
    report.state.mappings.push(unnamed);
    report.state.mappings[1].last_error_at = Some(0);
    for width in [80, 60, 100] {
        for text in [table(&report, Some(width)), list(&report, Some(width))] {
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{width}: {line}\n{text}");
            }
            let rows = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
            assert_eq!((rows("db "), rows("e2454159…  ") + rows("e2454159-")), (1, 1), "{text}");
        }
    }
    let narrow = table(&report, Some(80));
    assert!(narrow.contains("\nMAPPING "), "{narrow}");
    assert!(narrow.contains("\nTUNNELS idle/in use/allowed; USERS waiting/served; "), "{narrow}");
    assert!(narrow.lines().any(|line| line.starts_with("db ") && line.ends_with("half open")));
    assert_eq!(table(&report, Some(1000)), table(&report, None), "wide enough for everything");
    let wide = list(&report, None);
    assert!(wide.contains("e2454159-ed8c-4d00-a885-fdd87de811de  private  30000 6003"), "{wide}");
    assert!(wide.contains("https://example.org:6001\n"), "{wide}");
    assert_eq!(list(&Report::of(Status::default(), 0), Some(80)), "no mappings\n");
}

#[test]
fn last_error_has_a_time_and_goes_when_it_is_over() {
    let mut report = sample();
    report.state.mappings[0].last_error_over = false;
    let said = "    last error at 2018-11-20T13:03:37Z: agent 192.0.2.1: wrong passcode\n";
    assert!(table(&report, None).contains(said));
    report.state.mappings[0].last_error_over = true;
    assert!(!table(&report, None).contains("last error"));
}

#[test]
fn a_mappings_state_says_whether_its_ports_are_open_and_its_agents_there() {
    let [mut public, mut private] = <[_; 2]>::try_from(sample().state.mappings).expect("two");
    assert_eq!((public.state(), private.state()), ("active", "half open"));
    public.sides[0].tunnels = Some(Tunnels { draining: 1, ..Tunnels::default() });
    assert_eq!(public.state(), "active");
    public.sides[0].tunnels = Some(Tunnels { allowed: 60, ..Tunnels::default() });
    assert_eq!(public.state(), "agent gone");
    public.counts.tunnels_total = 0;
    assert_eq!(public.state(), "no agent");
    private.sides[1].open = true;
    assert_eq!(private.state(), "active");
    // A side that listens for users has tunnels only while it is used.
    private.counts.tunnels_total = 7;
    private.sides[1].tunnels = Some(Tunnels::default());
    assert_eq!(private.state(), "active");
    private.sides[0].tunnels = Some(Tunnels::default());
    assert_eq!(private.state(), "agent gone");
    private.sides.iter_mut().for_each(|side| side.open = false);
    assert_eq!(private.state(), "inactive");
}

#[test]
fn one_of_a_thing_is_said_as_one() {
    let mut report = Report::of(Status { mappings: vec![], ..Status::default() }, 0);
    report.totals.counts.users_refused = 1;
    report.totals.counts.agents_refused = 1;
    report.state.api_refused = 1;
    report.state.api_handshake_failures = 1;
    let said = table(&report, None);
    assert!(said.contains("refused: 1 user, 1 agent, 0 TLS handshakes;"), "{said}");
    assert!(said.contains("API: 1 request refused, 1 TLS handshake failed"), "{said}");
}

#[test]
fn a_stopping_daemon_says_what_is_left() {
    let mut report = sample();
    let before = Predecessor { process: 7, sessions: 1, milliseconds_left: 4_001 };
    let said = "process 7, whose place this one took, still carries 1 session, for 5 s at most";
    assert_eq!(before.to_string(), said);
    let left = Draining { sessions: 1, users_waiting: 2, milliseconds_left: 4_001 };
    report.state.draining = Some(left);
    let report = Report::of(report.state, 0);
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["status"], "draining");
    assert_eq!(
        json["draining"],
        serde_json::json!({"sessions": 1, "usersWaiting": 2, "millisecondsLeft": 4001})
    );
    let table = table(&report, None);
    let second = table.lines().nth(1).expect("a second line");
    let expected =
        "draining: 1 session and 2 waiting users left, for 5 s at most; a second SIGTERM";
    assert!(second.starts_with(expected), "{second}");
    assert!(!table.contains("    port 6003 "), "closed ports are said twice:\n{table}");
    assert_eq!(Draining { sessions: 2, users_waiting: 0, ..left }.who(), "2 sessions");
    assert!(!left.is_over() && Draining { sessions: 0, users_waiting: 0, ..left }.is_over());
}

#[test]
fn events_are_lines_in_order_of_time() {
    let lines = [
        "TIME                  TIMES  EVENT       MAPPING  WHAT",
        "2018-11-20T13:03:37Z  1      reloaded    -        settings and certificates were read again",
        "2018-11-20T13:03:38Z  31     agent-came  db       agent 192.0.2.1 has a tunnel on port 6002 \\u{1b}",
        "",
    ];
    assert_eq!(events(&sample(), None), lines.join("\n"));
    assert_eq!(events(&sample(), Some(100)), lines.join("\n"), "wide enough");
    let empty = events(&Report::of(Status::default(), 0), None);
    assert_eq!(empty, "no events since the start\n");
}

#[test]
fn events_keep_their_columns_on_a_narrow_terminal() {
    let mut report = sample();
    report.state.events[1].name = Some("x".repeat(63).into());
    report.state.events[0].message = "what was read ".repeat(9).into();
    let expected = [
        "TIME                  TIMES  EVENT       MAPPING",
        "    WHAT",
        "2018-11-20T13:03:37Z  1      reloaded    -",
        "    what was read what was read what was read what was read what was read what",
        "      was read what was read what was read what was read",
        "2018-11-20T13:03:38Z  31     agent-came  xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…",
        "    agent 192.0.2.1 has a tunnel on port 6002 \\u{1b}",
        "",
    ];
    let narrow = events(&report, Some(80));
    assert_eq!(narrow, expected.join("\n"));
    let narrow = events(&report, Some(60));
    assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
    assert!(narrow.contains("agent-came  xxxxxxxxxxxxxxxxxx…\n"), "{narrow}");
}

#[test]
fn histograms_are_cumulative_and_in_seconds() {
    let mut state = Status::default();
    for milliseconds in [5, 300, 300, 99_000] {
        state.times.waits.count(&times::WAITS, Duration::from_millis(milliseconds));
    }
    let text = metrics(&Report::of(state, 0));
    let name = "iofog_connector_user_wait_seconds";
    for line in [
        "# TYPE NAME histogram",
        "NAME_bucket{le=\"0.01\"} 1",
        "NAME_bucket{le=\"0.1\"} 1",
        "NAME_bucket{le=\"0.5\"} 3",
        "NAME_bucket{le=\"60\"} 3",
        "NAME_bucket{le=\"+Inf\"} 4",
        "NAME_sum 99.605",
        "NAME_count 4",
        "# TYPE iofog_connector_session_duration_seconds histogram",
        "iofog_connector_session_duration_seconds_bucket{le=\"86400\"} 0",
    ] {
        let line = line.replace("NAME", name);
        assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
    }
}

#[test]
fn a_metric_has_its_unit_in_its_name_and_a_counter_ends_in_total() {
    // What is counted is a unit, too.
    const UNITS: [&str; 18] = [
        "seconds",
        "bytes",
        "info",
        "ports",
        "connections",
        "warnings",
        "lost",
        "failures",
        "refused",
        "refusals",
        "sessions",
        "tunnels",
        "mappings",
        "users",
        "agents",
        "limit",
        "port_open",
        "files",
    ];
    for line in metrics(&sample()).lines() {
        let Some(rest) = line.strip_prefix("# TYPE iofog_connector_") else { continue };
        let (name, kind) = rest.split_once(' ').expect("a kind");
        assert!(UNITS.iter().any(|unit| name.contains(unit)), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        let is_time = kind == "histogram" || name.contains("timestamp") || name.contains("last");
        assert!(!is_time || name.ends_with("_seconds"), "{name}");
    }
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let text = metrics(&sample());
    for line in [
        "# TYPE iofog_connector_users_served_total counter",
        "iofog_connector_users_served_total 42",
        "iofog_connector_mapping_users_served_total{mapping=\"a\\\"b\\\\c\\n\u{1b}\",type=\"public\"} 2",
        "iofog_connector_mapping_tunnels_idle{mapping=\"e2454159-ed8c-4d00-a885-fdd87de811de\",type=\"private\",side=\"port2\",port=\"6003\"} 1",
        "iofog_connector_mapping_port_open{mapping=\"e2454159-ed8c-4d00-a885-fdd87de811de\",type=\"private\",side=\"port2\",port=\"6003\"} 0",
        "iofog_connector_tunnels_draining 21",
        "iofog_connector_mapping_tunnels_unanswered{mapping=\"a\\\"b\\\\c\\n\u{1b}\",type=\"public\",side=\"port1\",port=\"6000\"} 22",
        "iofog_connector_mappings{type=\"private\"} 1",
        "iofog_connector_uptime_seconds 93784",
        "iofog_connector_certificate_end_timestamp_seconds 4102444800",
        "iofog_connector_log_lost_total 13",
        "iofog_connector_api_handshake_failures_total 14",
        "iofog_connector_api_refused_total 15",
        "iofog_connector_api_refusals_total{why=\"it is not among controllers\"} 1",
        "iofog_connector_mapping_refusals_total{mapping=\"a\\\"b\\\\c\\n\u{1b}\",type=\"public\",who=\"agent\",why=\"wrong passcode\"} 31",
        "iofog_connector_limit_reached_total{limit=\"256 API connections at one time\"} 3",
        "iofog_connector_mapping_limit_reached_total{mapping=\"a\\\"b\\\\c\\n\u{1b}\",type=\"public\",limit=\"users waiting (pending)\"} 21",
        "iofog_connector_mapping_limit_reached_last_seconds{mapping=\"a\\\"b\\\\c\\n\u{1b}\",type=\"public\",limit=\"users waiting (pending)\"} 1542719016",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
    }
    // Every number of the sample's first mapping is there under its label.
    for value in ["1", "2", "3", "4", "5", "6", "7000", "8000000", "9", "10", "11", "12"] {
        let sample = text.lines().find(|line| {
            line.starts_with("iofog_connector_mapping_")
                && line.contains("type=\"public\"}")
                && line.ends_with(&format!(" {value}"))
        });
        assert!(sample.is_some(), "{value} in {text}");
    }
    // Every family is announced once, before its samples, and they stand together.
    let mut families = std::collections::HashSet::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().expect("a name");
            assert!(families.insert(current), "{current} twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(rest.starts_with(current));
        } else {
            // A histogram's samples have endings of their own.
            let rest = line.strip_prefix(current).expect(line);
            let ends = ["_bucket", "_sum", "_count"].iter().find_map(|end| rest.strip_prefix(end));
            assert!(ends.unwrap_or(rest).starts_with(['{', ' ']), "{line}");
        }
    }
    assert!(text.ends_with('\n'));
}

#[test]
fn page_says_how_many_series_there_are() {
    let series = |state: Status| {
        let text = metrics(&Report::of(state, 0));
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    let own = || Status { certificate_ends: Some(0), ..Status::default() };
    let of = |mapping: MappingStatus| {
        let mappings = vec![mapping];
        series(Status { mappings, ..own() }) - series(own())
    };
    let [public, private] = [0, 1].map(|index| {
        let mapping = sample().state.mappings.remove(index);
        let (refusals, limits_reached) = Default::default();
        of(MappingStatus { refusals, limits_reached, options: Map::new(), ..mapping })
    });
    let kinds = |who: &str| refused::ALL.iter().filter(|kind| kind.who == who).count();
    let limits = |mapping: bool| {
        2 * reached::ALL.iter().filter(|limit| limit.contains("API") != mapping).count()
    };
    let of_public = limits(true) + kinds(refused::USER) + kinds(refused::AGENT);
    let of_private = limits(true) + kinds(refused::AGENT);
    let of_daemon = limits(false) + kinds(refused::CALLER);
    let page = include_str!("../../docs/protocol.md").replace('\n', " ");
    for said in [
        format!(
            "{} are the daemon's own, {public} each public pipe's and {private} each private one's",
            series(own())
        ),
        format!(
            "{of_public} for a public pipe at most, {of_private} for a private one and {of_daemon} for the daemon"
        ),
    ] {
        assert!(page.contains(&said), "{said}");
    }
}

/// The names in backticks in the first cells of the page's table that stands below `heading`.
fn named_below(heading: &str) -> BTreeSet<String> {
    let page = include_str!("../../docs/protocol.md");
    let (_, below) = page.split_once(heading).expect(heading);
    let table = below.lines().map(str::trim).skip_while(|line| !line.starts_with('|'));
    let rows = table.take_while(|line| line.starts_with('|')).skip(2);
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// The members of a JSON value, `[]` for those of an array's elements. Those that stand in several
/// places have the page's word for them.
fn members(path: &str, value: &Value, found: &mut BTreeSet<String>) {
    let word = match path {
        "totals.counts" | "mappings[].counts" | "removed" => "COUNTS",
        "totals.tunnels" | "mappings[].sides[].tunnels" => "TUNNELS",
        "limitsReached[]" | "mappings[].limitsReached[]" => "LIMIT",
        "apiRefusals[]" | "mappings[].refusals[]" => "REFUSAL",
        _ => path,
    };
    match value {
        Value::Object(object) => {
            if word != path {
                found.insert(path.to_owned());
            }
            for (name, value) in object {
                let dot = if path.is_empty() { "" } else { "." };
                members(&format!("{word}{dot}{name}"), value, found);
            }
        }
        Value::Array(values) if values.iter().all(Value::is_object) => {
            values.iter().for_each(|value| members(&format!("{path}[]"), value, found));
        }
        _ => _ = found.insert(path.to_owned()),
    }
}

#[test]
fn page_names_every_member_of_the_status_and_no_other() {
    let mut state = sample().state;
    state.draining = Some(Draining { sessions: 1, users_waiting: 2, milliseconds_left: 3 });
    state.predecessor = Some(Predecessor { process: 1, sessions: 2, milliseconds_left: 3 });
    let json = serde_json::to_value(Report::of(state, 0)).expect("JSON");
    let mut found = BTreeSet::new();
    members("", &json, &mut found);
    assert_eq!(found, named_below("### What GET status answers"));
}

#[test]
fn page_names_every_metric_and_no_other() {
    let text = metrics(&sample());
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE iofog_connector_"));
    let names = names.map(|line| line.split(' ').next().expect("a name").to_owned());
    assert_eq!(names.collect::<BTreeSet<_>>(), named_below("### What /metrics answers"));
}

#[test]
fn page_names_every_kind_of_refusal_limit_and_event_and_no_other() {
    let kinds = refused::ALL.iter().map(|kind| format!("{}: {}", kind.who, kind.why));
    assert_eq!(kinds.collect::<BTreeSet<_>>(), named_below("### Who is refused"));
    let words = Event::ALL.iter().map(|event| event.word().to_owned());
    let mut named = named_below("### What has happened");
    named.extend(named_below("### Events of the log alone"));
    assert_eq!(words.collect::<BTreeSet<_>>(), named);
    let limits = reached::ALL.iter().map(ToString::to_string);
    assert_eq!(limits.collect::<BTreeSet<_>>(), named_below("### Which limits are reached"));
}

#[test]
fn a_comma_in_an_option_is_told_from_one_between_two() {
    use crate::report::status::listed;
    let one = serde_json::json!(["h2,x", "a\\"]);
    assert_eq!(listed(&one), r"h2\,x,a\\");
    assert_eq!(listed(&serde_json::json!(["h2", "x"])), "h2,x");
}
