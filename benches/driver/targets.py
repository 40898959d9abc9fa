"""The targets of the design, held against a run's medians."""

import functools

NEAR, TWO, THREE = "connector-v1", "connector-v2", "connector-v3"
TLS, TLS_TWO, TLS_THREE = "connector-tls-v1", "connector-tls-v2", "connector-tls-v3"
FLOWS = {"up1": "up, 1 session", "down1": "down, 1", "up8": "up, 8", "down8": "down, 8"}


def rows(results):
    """Cells for each target: measure, target, measured, verdict."""
    return [*ratios(results), *threads(results), *absolutes(results), *version_three(results)]


def verdict(value, limit, at_least):
    if value is None:
        return "not measured"
    met = value >= limit if at_least else value <= limit
    return "met" if met else f"**not met** ({100 * abs(value / limit - 1):.0f} % off)"


def bound_of(limit):
    """A limit with as many digits as it was set with; 1/0.97 is no such number."""
    return str(round(limit, 3))


def against(results, what, ours, other, measure, key, limit, at_least=False):
    """A row for each of ours that was measured, held against another relay."""
    for relay, name in ours:
        value = results.ratio(relay, other, measure, key)
        if value is None:
            continue
        bound = f"at {'least' if at_least else 'most'} {bound_of(limit)} x {other}"
        label = f"{what}, {name}" if name else what
        yield [label, bound, f"{value:.2f} x", verdict(value, limit, at_least)]


def ratios(results):
    rows = functools.partial(against, results)
    plain = [(NEAR, "version 1"), (TWO, "version 2")]
    sealed = [(TLS, "version 1"), (TLS_TWO, "version 2")]
    for measure, label in FLOWS.items():
        for other, limit in [("rathole", 1.5), ("haproxy-splice", 1.0)]:
            yield from rows(f"throughput {label}", plain, other, measure, "gbit_s", limit, True)
    for measure, label in FLOWS.items():
        for other, limit in [("rathole", 0.5), ("splice", 1.15)]:
            yield from rows(f"CPU s/GB {label}", plain, other, measure, "cpu_s_per_gb", limit)
    for measure, label in FLOWS.items():
        yield from rows(f"TLS CPU s/GB {label}", sealed, "haproxy-tls", measure, "cpu_s_per_gb",
                        1.0)
    yield from rows("ping-pong p50, 1 connection", plain, "rathole", "ping1", "p50_us", 1.0)
    for measure, label in {"ping1": "1 connection", "ping50": "50 connections"}.items():
        yield from rows(f"CPU us/request, {label}", plain, "rathole", measure,
                        "cpu_us_per_request", 1.0)
    yield from rows("connections/s", plain, "bore", "connect", "connections_s", 1.3, True)
    yield from rows("connections/s", plain, "rathole", "connect", "connections_s", 1.0, True)
    yield from rows("CPU us/connection", plain, "rathole", "connect", "cpu_us_per_connection",
                    1.0)
    # A session takes two handshakes of ours, the replaced tunnel's included, and one of theirs.
    # Not so in version 1, whose sessions linger on beyond the measurement.
    ratio = results.ratio(TLS_TWO, "haproxy-tls-user", "connect", "cpu_us_per_connection")
    if ratio is not None:
        yield ["CPU per TLS handshake, version 2 (2 a session)",
               "at most 1.2 x HAProxy's (1 a session)", f"{ratio / 2:.2f} x",
               verdict(ratio / 2, 1.2, False)]


def threads(results):
    # Of TLS alone: the ends of plain sessions cost as much as their relay.
    for way in ("up", "down"):
        for key, what in [("ratio", "2 threads to 1"),
                          ("free_ratio", "the same per second of the busiest thread")]:
            value = results.median(TLS, "sharing", f"{way}_{key}")
            if value is not None:
                yield [f"two saturated TLS sessions {way}, {what}", "at least 1.7 x",
                       f"{value:.2f} x", verdict(value, 1.7, True)]
    for relay, name in [(NEAR, "plain"), (TLS, "TLS")]:
        for count, place in [(1, "on its thread"), (2, "on two threads")]:
            for way, what in [("up", "an upload"), ("down", "a download")]:
                value = results.median(relay, "neighbours", f"{way}{count}_ratio")
                if value is not None:
                    yield [f"ping-pong p99 beside {what}, {place}, {name}",
                           "at most 5 x quiet", f"{value:.2f} x", verdict(value, 5, False)]


def absolutes(results):
    haproxy = results.median("haproxy-tls-user", "connect", "connections_s")
    handshakes = 700 / 1620 * haproxy if haproxy else 700
    kept = "where HAProxy's one leg does {:,.0f}".format(haproxy) if haproxy else ""
    for what, relays, measure, key, limit, unit in [
            ("system calls per 64 B request", [NEAR, TWO], "syscalls", "per_request", 8, ""),
            ("errors while connecting", [NEAR, TWO, TLS, TLS_TWO], "connect", "errors", 0, ""),
            ("idle tunnel, plain", [NEAR, TWO], "memory1000", "tunnel_kb", 1, " KiB"),
            ("idle tunnel, plain, of 5,000", [NEAR, TWO], "memory5000", "tunnel_kb", 1, " KiB"),
            ("idle tunnel, TLS", [TLS, TLS_TWO], "memory1000", "tunnel_kb", 12, " KiB"),
            ("idle session, plain", [NEAR, TWO], "memory1000", "session_kb", 2, " KiB"),
            ("idle session, plain, of 5,000", [NEAR, TWO], "memory5000", "session_kb", 2, " KiB"),
            ("idle session, TLS", [TLS, TLS_TWO], "memory1000", "session_kb", 24, " KiB"),
            ("memory left after 1,000 sessions", [NEAR, TWO, TLS, TLS_TWO], "memory1000",
             "left_kb", 1024, " KiB"),
            ("resident at rest, plain", [NEAR], "idle", "resident_kb", 3072, " KiB"),
            ("resident at rest, TLS", [TLS], "idle", "resident_kb", 4096, " KiB"),
            ("wake-ups at rest", [NEAR, TLS], "idle", "wakeups_s", 2, "/s"),
            ("written at rest", [NEAR, TLS], "idle", "written_bytes", 0, " bytes"),
            ("1,000 beating tunnels", [NEAR, TLS], "beating", "percent", 0.3, " % of a core"),
            ("start to listening", [NEAR, TLS], "startup", "ms", 5, " ms"),
            ("start with 500 mappings", [NEAR, TLS], "startup500", "ms", 50, " ms"),
            ("binary", [NEAR], "binary", "mb", 2.0, " MB")]:
        yield from absolute(results, what, relays, measure, key, limit, unit)
    for relay in [TLS, TLS_TWO]:
        value = results.median(relay, "connect", "connections_s")
        if value is not None:
            yield [f"new TLS sessions/s ({relay})", f"at least {handshakes:,.0f} {kept}".strip(),
                   f"{value:,.0f}", verdict(value, handshakes, True)]


def version_three(results):
    """The targets that came with tunnels that are used again, and those that moved then."""
    rows = functools.partial(against, results)
    plain, sealed = [(THREE, "version 3")], [(TLS_THREE, "version 3")]
    each = "cpu_us_per_connection"
    yield from rows("connections/s", plain, "rathole", "connect", "connections_s", 1.4, True)
    yield from rows("connections/s", plain, "haproxy-splice", "connect", "connections_s", 1.0,
                    True)
    yield from rows("CPU us/connection", plain, "rathole", "connect", each, 0.75)
    yield from rows("TLS sessions/s", sealed, "haproxy-tls-user", "connect", "connections_s", 1.0,
                    True)
    yield from rows("CPU us/TLS session", sealed, TLS_TWO, "connect", each, 0.6)
    yield from absolute(results, "errors while connecting", [THREE, TLS_THREE], "connect",
                        "errors", 0, "")
    for measure, label in FLOWS.items():
        for ours, other in [(plain, TWO), (sealed, TLS_TWO)]:
            kind = "TLS " if ours is sealed else ""
            yield from rows(f"{kind}throughput {label}", ours, other, measure, "gbit_s", 0.97,
                            True)
            yield from rows(f"{kind}CPU s/GB {label}", ours, other, measure, "cpu_s_per_gb",
                            1 / 0.97)
    for ours, other in [(plain, TWO), (sealed, TLS_TWO)]:
        kind = "TLS " if ours is sealed else ""
        yield from rows(f"{kind}ping-pong p50, 1 connection", ours, other, "ping1", "p50_us", 1.0)
        for measure, label in {"ping1": "1 connection", "ping50": "50 connections"}.items():
            yield from rows(f"{kind}CPU us/request, {label}", ours, other, measure,
                            "cpu_us_per_request", 1.0)
        yield from rows(f"{kind}system calls/request", ours, other, "syscalls", "per_request",
                        1.0)
    for measure in ("up1", "down1"):
        yield from rows(f"TLS CPU s/GB {FLOWS[measure]}",
                        [(TLS, "version 1"), (TLS_TWO, "version 2"), *sealed], "haproxy-tls",
                        measure, "cpu_s_per_gb", 0.75)
    for other, limit in [("haproxy-splice", 1.0), ("rathole", 1.5)]:
        yield from rows(f"throughput {FLOWS['up8']}", plain, other, "up8", "gbit_s", limit, True)
    for what, relays, measure, key, limit, unit in [
            ("idle tunnel, plain", [THREE], "memory1000", "tunnel_kb", 1, " KiB"),
            ("idle session, plain", [THREE], "memory1000", "session_kb", 2, " KiB"),
            ("idle tunnel, TLS", [TLS_THREE], "memory1000", "tunnel_kb", 5, " KiB"),
            ("idle session, TLS", [TLS_THREE], "memory1000", "session_kb", 10, " KiB"),
            ("memory left after 1,000 sessions", [THREE, TLS_THREE], "memory1000", "left_kb",
             1024, " KiB"),
            ("start with 500 mappings", [NEAR, TLS], "startup500", "ms", 40, " ms"),
            ("binary", [NEAR], "binary", "mb", 2.3, " MB")]:
        yield from absolute(results, what, relays, measure, key, limit, unit)


def absolute(results, what, relays, measure, key, limit, unit):
    """A row for each of these relays that was measured, held against a number."""
    for relay in relays:
        value = results.median(relay, measure, key)
        if value is not None:
            yield [f"{what} ({relay})", f"at most {limit}{unit}", f"{value:,.2f}{unit}",
                   off(value, limit)]


def off(value, limit):
    if limit == 0:
        return "met" if value == 0 else "**not met**"
    return verdict(value, limit, False)
