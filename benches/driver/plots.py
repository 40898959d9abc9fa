"""Bar charts as SVG, drawn by hand: medians, and a line from the least to the greatest."""

import os
from xml.sax.saxutils import escape

from . import relays

WIDTH, LABEL, BAR, GAP, HEAD = 820, 230, 14, 10, 24
# Room for a figure beyond the longest bar.
FIGURE = 64
COLOURS = ["#2f6f9f", "#8fbfe0", "#b5651d", "#e9bf90"]
OURS = "#e8f1e2"

FLOWS = [("up, 1 session", "up1"), ("down, 1", "down1"), ("up, 8 sessions", "up8"),
         ("down, 8", "down8")]

PLOTS = [
    ("throughput", "Throughput, Gbit/s (more is better)",
     [(label, measure, "gbit_s") for label, measure in FLOWS]),
    ("processor", "Processor time of the server process, seconds per gigabyte (less is better)",
     [(label, measure, "cpu_s_per_gb") for label, measure in FLOWS]),
    ("latency", "Request and answer of 64 bytes, microseconds (less is better)",
     [("time, median, 1 connection", "ping1", "p50_us"),
      ("server's processor time each, 50 connections", "ping50", "cpu_us_per_request")]),
    ("connections", "Connections: connect, shake hands, 64 bytes, close; per second "
     "(more is better)", [("per second", "connect", "connections_s")]),
    ("memory", "Resident memory of each of 1,000, KiB (less is better)",
     [("idle tunnel", "memory1000", "tunnel_kb"), ("idle session", "memory1000", "session_kb")]),
]


def write(results, folder):
    """One file for each plot that there are figures for."""
    for name, title, series in PLOTS:
        rows = rows_of(results, series)
        if rows:
            with open(os.path.join(folder, f"{name}.svg"), "w") as file:
                file.write(plot(title, [label for label, *_ in series], rows))


def rows_of(results, series):
    """Plain relays, then those with TLS; each with its series' values in ascending order."""
    rows = []
    for relay in sorted(relays.ALL, key=lambda relay: relay.sealed):
        values = [sorted(results.values(relay.name, measure, key)) for _, measure, key in series]
        if any(values):
            rows.append((relay, values))
    return rows


def text(x, y, said, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(said)}</text>'


def rectangle(x, y, width, height, colour):
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'fill="{colour}"/>')


def plot(title, labels, rows):
    scale = (WIDTH - LABEL - FIGURE) / max(max(value[-1] for value in values if value)
                                           for _, values in rows)
    shapes = [text(10, 22, title, ' font-size="15" font-weight="bold"')]
    at = 10
    for colour, label in zip(COLOURS, labels):
        shapes += [rectangle(at, 34, 11, 11, colour), text(at + 16, 44, label)]
        at += 46 + 6.4 * len(label)
    top, sealed = 58, None
    for relay, values in rows:
        if relay.sealed != sealed:
            sealed = relay.sealed
            shapes.append(text(10, top + 14, "TLS" if sealed else "plain TCP",
                               ' font-weight="bold" fill="#555"'))
            top += HEAD
        shown = [(place, value) for place, value in enumerate(values) if value]
        block = len(shown) * BAR
        if relay in relays.OURS:
            shapes.append(rectangle(0, top - GAP / 2, WIDTH, block + GAP, OURS))
        shapes.append(text(LABEL - 8, top + block / 2 + 3, relay.title.replace("*", ""),
                           ' text-anchor="end"'))
        for line, (place, value) in enumerate(shown):
            shapes += bar(top + line * BAR, value, scale, COLOURS[place])
        top += block + GAP
    height = top + 6
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'font-family="DejaVu Sans, Verdana, sans-serif" font-size="12">\n'
            f'{rectangle(0, 0, WIDTH, height, "white")}\n' + "\n".join(shapes) + "\n</svg>\n")


def bar(y, values, scale, colour):
    """A bar as long as the median, with the spread across its end and its figure behind both."""
    middle = len(values) // 2
    median = values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
    least, greatest = values[0] * scale, values[-1] * scale
    yield rectangle(LABEL, y, median * scale, BAR - 2, colour)
    if greatest - least > 1:
        line = y + (BAR - 2) / 2
        yield (f'<path d="M{LABEL + least:.1f} {line}H{LABEL + greatest:.1f}M{LABEL + least:.1f} '
               f'{line - 3}v6M{LABEL + greatest:.1f} {line - 3}v6" stroke="#333" fill="none"/>')
    yield text(LABEL + greatest + 5, y + 10, figure(median), ' font-size="11"')


def figure(value):
    """Three digits, as far as they mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
