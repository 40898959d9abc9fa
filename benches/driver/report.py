"""Results as tables: medians with their spread, and the targets met or not."""

import os
import statistics

from . import build, plots, relays, targets

# What the benchmarks write.
RESULTS = os.path.join(build.ROOT, "docs", "results")


class Results:
    """Figures by relay and measure."""

    def __init__(self, lines):
        self.lines = [line for line in lines if line["relay"] != "machine"]
        # Of several runs in one file, what the longest one says of itself.
        self.machine = max((line for line in lines if line["relay"] == "machine"),
                           key=lambda line: line["rounds"], default={})

    def values(self, relay, measure, key):
        return [line[key] for line in self.lines
                if (line["relay"], line["measure"]) == (relay, measure)
                and line.get(key) is not None]

    def median(self, relay, measure, key):
        values = self.values(relay, measure, key)
        return statistics.median(values) if values else None

    def ratio(self, relay, other, measure, key):
        one, two = self.median(relay, measure, key), self.median(other, measure, key)
        return one / two if one is not None and two else None

    def has(self, relay):
        return any(line["relay"] == relay for line in self.lines)

    def cell(self, relay, measure, key):
        """The median; with several rounds also the smallest and the greatest."""
        values = self.values(relay, measure, key)
        if not values:
            return ""
        median = show(statistics.median(values))
        if len(values) < 2:
            return median
        return f"{median} <sub>{show(min(values))}–{show(max(values))}</sub>"


def show(value):
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


TABLES = [
    ("Throughput, Gbit/s", [
        ("up, 1 session", "up1", "gbit_s"), ("down, 1", "down1", "gbit_s"),
        ("up, 8", "up8", "gbit_s"), ("down, 8", "down8", "gbit_s")]),
    ("Processor time of the server process, s/GB", [
        ("up, 1 session", "up1", "cpu_s_per_gb"), ("down, 1", "down1", "cpu_s_per_gb"),
        ("up, 8", "up8", "cpu_s_per_gb"), ("down, 8", "down8", "cpu_s_per_gb")]),
    ("Ping-pong of 64 bytes", [
        ("p50 us, 1 connection", "ping1", "p50_us"), ("p99 us, 1", "ping1", "p99_us"),
        ("CPU us/request, 1", "ping1", "cpu_us_per_request"),
        ("p50 us, 50", "ping50", "p50_us"), ("p99 us, 50", "ping50", "p99_us"),
        ("CPU us/request, 50", "ping50", "cpu_us_per_request"),
        ("system calls/request", "syscalls", "per_request")]),
    ("Connections: connect, (handshake,) 64 bytes and their echo, close", [
        ("per second", "connect", "connections_s"),
        ("CPU us each", "connect", "cpu_us_per_connection"),
        ("p50 us", "connect", "p50_us"), ("errors", "connect", "errors")]),
    ("Memory and start", [
        ("resident at start, KiB", "memory1000", "start_kb"),
        ("KiB per idle tunnel, 1,000", "memory1000", "tunnel_kb"),
        ("per idle session, 1,000", "memory1000", "session_kb"),
        ("left after them, KiB", "memory1000", "left_kb"),
        ("per tunnel, 5,000", "memory5000", "tunnel_kb"),
        ("per session, 5,000", "memory5000", "session_kb"),
        ("left after, KiB", "memory5000", "left_kb"),
        ("start to listening, ms", "startup", "ms"),
        ("with 500 mappings, ms", "startup500", "ms"), ("binary, MB", "binary", "mb")]),
    *[(f"Two saturated sessions, {direction}", [
        ("1 thread, Gbit/s", "sharing", f"{direction}1_gbit_s"),
        ("2 threads, Gbit/s", "sharing", f"{direction}2_gbit_s"),
        ("ratio", "sharing", f"{direction}_ratio"),
        ("ratio per second of the busiest thread", "sharing", f"{direction}_free_ratio"),
        ("least busy / busiest of 2", "sharing", f"{direction}_balance"),
        ("the ends' share, processors", "sharing", f"{direction}2_load_cores")])
      for direction in ("up", "down")],
    *[(f"Ping-pong of 64 bytes on 4 connections beside one saturated session, {place}", [
        ("p99 us, quiet", "neighbours", f"quiet{threads}_p99_us"),
        ("beside an upload", "neighbours", f"up{threads}_p99_us"),
        ("ratio", "neighbours", f"up{threads}_ratio"),
        ("beside a download", "neighbours", f"down{threads}_p99_us"),
        ("ratio", "neighbours", f"down{threads}_ratio"),
        ("p50 us, quiet", "neighbours", f"quiet{threads}_p50_us"),
        ("beside an upload", "neighbours", f"up{threads}_p50_us"),
        ("beside a download", "neighbours", f"down{threads}_p50_us")])
      for threads, place in ((1, "all on one thread"), (2, "on two threads"))],
    ("Doing nothing", [
        ("resident, KiB", "idle", "resident_kb"),
        ("wake-ups/s", "idle", "wakeups_s"), ("bytes written", "idle", "written_bytes"),
        ("1,000 beating tunnels, % of a core", "beating", "percent")]),
]


def markdown(lines):
    results = Results(lines)
    parts = [preamble(results)]
    for title, columns in TABLES:
        rows = [(relay, [results.cell(relay.name, measure, key) for _, measure, key in columns])
                for relay in relays.BY_NAME.values()]
        used = [place for place in range(len(columns)) if any(row[place] for _, row in rows)]
        rows = [(relay, row) for relay, row in rows if any(row[place] for place in used)]
        if not rows:
            continue
        heads = ["relay", *[columns[place][0] for place in used]]
        parts.append(f"### {title}\n\n" + table(
            heads, [[relay.title, *[row[place] for place in used]] for relay, row in rows]))
    parts.append("### Targets\n\n" + table(
        ["measure", "target", "measured", ""], targets.rows(results)))
    failed = [line for line in results.lines if "failed" in line]
    if failed:
        parts.append("Failed: " + "; ".join(
            f"{line['relay']} {line['measure']}: {line['failed']}" for line in failed))
    return "\n".join(parts)


def preamble(results):
    about = results.machine
    traffic = [line for line in results.lines if "disturbed" in line]
    disturbed = sum(line["disturbed"] for line in traffic)
    programs = ", ".join(filter(None, [about.get("rust"), about.get("haproxy")]))
    text = (f"{about.get('date')}, {about.get('description')}; {programs}. "
            f"{about.get('rounds')} rounds of {about.get('seconds')} s each measurement, medians "
            f"(smallest–greatest). Of {len(traffic)} measurements {disturbed} were disturbed by "
            "other processes or the host.\n")
    if disturbed * 5 > len(traffic):
        text += "\n**The machine was busy: these figures are not worth much.**\n"
    return text


def table(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def write_docs(lines):
    """Puts the tables into the results page and draws the plots beside it."""
    write_between("results", markdown(lines))
    plots.write(Results(lines), RESULTS)


def write_between(name, text):
    """Replaces what the results page has between two marks; the rest stays as it is."""
    path = os.path.join(RESULTS, "performance.md")
    with open(path) as file:
        before, begin, rest = file.read().partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->\n")
    if not end:
        raise SystemExit(f"{path} has no marks for {name}")
    with open(path, "w") as file:
        file.write(f"{before}{begin}\n{text}\n{end}{after}")
