"""Bar charts as SVG, drawn by hand."""

import os
from xml.sax.saxutils import escape

from . import relays

WIDTH, LABEL, BAR, GAP = 760, 230, 13, 10
COLOURS = ["#2f6f9f", "#7fb2d6", "#b5651d", "#e3b27f"]
OURS = "#eef5ea"

PLOTS = [
    ("throughput", "Throughput, Gbit/s (more is better)",
     [("up, 1", "up1", "gbit_s"), ("down, 1", "down1", "gbit_s"),
      ("up, 8", "up8", "gbit_s"), ("down, 8", "down8", "gbit_s")]),
    ("processor", "Processor time of the server, s/GB (less is better)",
     [("up, 1", "up1", "cpu_s_per_gb"), ("down, 1", "down1", "cpu_s_per_gb"),
      ("up, 8", "up8", "cpu_s_per_gb"), ("down, 8", "down8", "cpu_s_per_gb")]),
    ("latency", "64-byte ping-pong, us (less is better)",
     [("p50, 1 connection", "ping1", "p50_us"),
      ("CPU per request, 50 connections", "ping50", "cpu_us_per_request")]),
    ("connections", "Connections per second (more is better)",
     [("connect, 64 bytes, close", "connect", "connections_s")]),
]


def write(results, folder):
    for name, title, series in PLOTS:
        with open(os.path.join(folder, f"{name}.svg"), "w") as file:
            file.write(plot(results, title, series))


def plot(results, title, series):
    rows = []
    for relay in relays.ALL:
        values = [results.median(relay.name, measure, key) for _, measure, key in series]
        if any(value is not None for value in values):
            rows.append((relay, values))
    greatest = max((value for _, values in rows for value in values if value), default=1)
    height = 60 + len(rows) * (len(series) * BAR + GAP)
    scale = (WIDTH - LABEL - 60) / greatest
    shapes = [f'<text x="10" y="20" font-size="15" font-weight="bold">{escape(title)}</text>']
    at = 10
    for colour, (label, *_) in zip(COLOURS, series):
        shapes.append(f'<rect x="{at}" y="30" width="11" height="11" fill="{colour}"/>'
                      f'<text x="{at + 16}" y="40">{escape(label)}</text>')
        at += 40 + 7 * len(label)
    top = 54
    for relay, values in rows:
        block = len(series) * BAR
        if relay in relays.OURS:
            shapes.append(f'<rect x="0" y="{top - GAP / 2}" width="{WIDTH}" '
                          f'height="{block + GAP}" fill="{OURS}"/>')
        name = escape(relay.title.replace("*", ""))
        shapes.append(f'<text x="{LABEL - 8}" y="{top + block / 2 + 4}" '
                      f'text-anchor="end">{name}</text>')
        for place, value in enumerate(values):
            if value is None:
                continue
            y, length = top + place * BAR, value * scale
            shown = f"{value:,.0f}" if value >= 100 else f"{value:.2f}".rstrip("0").rstrip(".")
            shapes.append(f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR - 2}" '
                          f'fill="{COLOURS[place]}"/>'
                          f'<text x="{LABEL + length + 4:.1f}" y="{y + 10}" '
                          f'font-size="10">{shown}</text>')
        top += block + GAP
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'font-family="sans-serif" font-size="12">\n'
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n'
            + "\n".join(shapes) + "\n</svg>\n")
