"""What is measured of a relay. Each measure gives a dictionary of figures."""

import json
import os
import signal
import subprocess
import time

from . import machine, relays

THROUGHPUT = {"up1": ("up", 1), "down1": ("down", 1), "up8": ("up", 8), "down8": ("down", 8)}
PINGPONG = {"ping1": 1, "ping50": 50}
TRAFFIC = [*THROUGHPUT, *PINGPONG, "connect"]

# How often a measurement is made that other processes or the host disturb; the least disturbed
# one counts.
tries = 3

# Sessions that have come and gone before memory is looked at, so that the program's own pages
# are not counted as theirs.
WARM_UP = 10

# Seconds after which memory that is no longer used should have been given back; the daemon looks
# every 5 s.
GIVING_BACK = 6

# Seconds after which a relay has done what a new tunnel or session needs.
SETTLING = 0.3


def loadgen(context, *words, limit=120):
    return output([context.loadgen, *map(str, words)], limit)


def output(command, limit=120):
    """What a command prints on its last line, as JSON, within `limit` seconds."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:4])}: {done.stderr.strip()[-300:]}")
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else {}


def traffic(relay, name, seconds):
    """Throughput, ping-pong or connections of a started relay."""
    words = ["--target", relay.port, "--secs", seconds, *relay.client_options()]
    if relay.pid:
        words += ["--pid", relay.pid]
    if name in THROUGHPUT:
        direction, users = THROUGHPUT[name]
        words = ["throughput", "--dir", direction, "--conns", users, *words]
    elif name in PINGPONG:
        words = ["pingpong", "--conns", PINGPONG[name], "--size", 64, *words]
    else:
        words = ["connections", "--conns", 4, "--size", 64, *words]
    return undisturbed(lambda: loadgen(relay.context, *words))


def undisturbed(measure):
    """Measures again while something else disturbs; tells how much did."""
    best = None
    for _ in range(tries):
        with machine.Watch() as watch:
            figures = measure()
        figures |= {"foreign": watch.foreign, "steal": watch.steal, "disturbed": watch.disturbed}
        noise = watch.foreign + watch.steal
        if best is None or noise < best["foreign"] + best["steal"]:
            best = figures
        if not watch.disturbed:
            break
    return best


def hold(relay, users):
    """Starts users that hold idle sessions."""
    holder = machine.Process(
        [relay.context.loadgen, "hold", "--target", relay.port, "--conns", users,
         *relay.client_options()], relay.context.path("hold.log"), lines=True)
    holder.wait_for("READY")
    return holder


def memory(relay, counts, keep):
    """Resident memory of idle tunnels (the connector's) and idle sessions, of a fresh relay; each
    count's figures go to `keep`."""
    ours = isinstance(relay, relays.Connector)
    if ours:
        relay.start_daemon()
    else:
        relay.start()
    start = relay.resident_kb()
    sessions(relay, WARM_UP, ours)
    for count in counts:
        base = relay.resident_kb()
        idle_tunnels, paired = sessions(relay, count, ours)
        figures = {"start_kb": start, "base_kb": base, "session_kb": (paired - base) / count}
        if ours:
            figures |= {"tunnel_kb": (idle_tunnels - base) / count,
                        "left_kb": relay.resident_kb() - base}
        keep(count, figures)


def sessions(relay, number, ours):
    """Has so many idle sessions come and go: resident memory with their tunnels and with them."""
    agent = relay.agent(number) if ours else None
    time.sleep(SETTLING)
    idle_tunnels = relay.resident_kb()
    holder = hold(relay, number)
    time.sleep(SETTLING)
    paired = relay.resident_kb()
    holder.stop()
    if agent:
        agent.stop()
        relay.running.remove(agent)
        time.sleep(GIVING_BACK)
    return idle_tunnels, paired


def idle(relay, seconds):
    """What the daemon does with nobody connected."""
    relay.start_daemon()
    time.sleep(1)
    figures = {"resident_kb": relay.resident_kb()}
    before = machine.wakeups(relay.pid), machine.bytes_written(relay.pid)
    time.sleep(seconds)
    after = machine.wakeups(relay.pid), machine.bytes_written(relay.pid)
    return figures | {"wakeups_s": (after[0] - before[0]) / seconds,
                      "written_bytes": after[1] - before[1]}


def beating(relay, seconds):
    """What 1,000 tunnels cost that send a heartbeat every 20 s; a share of one core."""
    relay.start_daemon()
    relay.agent(1000)
    time.sleep(1)
    before = machine.processor_seconds(relay.pid)
    time.sleep(seconds)
    return {"percent": 100 * (machine.processor_seconds(relay.pid) - before) / seconds}


def startup(relay, rounds, *mappings):
    ports, command = relay.startup(*mappings)
    options = [word for port in ports for word in ("--port", port)]
    return undisturbed(lambda: loadgen(
        relay.context, "startup", *options, "--rounds", rounds, "--", *command))


def system_calls(relay, first=500, second=2500):
    """Per 64-byte request and answer: the difference between two runs, so that connecting and
    what the daemon does by itself do not count."""
    relay.start()
    one, two = (calls(relay, requests) for requests in (first, second))
    return {"per_request": (two - one) / (second - first)}


def calls(relay, requests):
    table = relay.context.path("strace.txt")
    strace = subprocess.Popen(["strace", "-c", "-f", "-o", table, "-p", str(relay.pid)],
                              stderr=subprocess.PIPE, text=True)
    # It says so once it has all threads.
    strace.stderr.readline()
    time.sleep(0.2)
    try:
        loadgen(relay.context, "pingpong", "--target", relay.port, "--requests", requests,
                *relay.client_options())
    finally:
        strace.send_signal(signal.SIGINT)
        strace.communicate()
    # A row: % time, seconds, usecs/call, calls, errors (if any), name.
    rows = [line.split() for line in machine.read(table).splitlines()]
    return sum(int(row[3]) for row in rows
               if len(row) >= 5 and row[3].isdigit() and row[-1] != "total")


def size(relay):
    return {"mb": os.path.getsize(relay.binary()) / 1e6}
