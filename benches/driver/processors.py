"""How the daemon uses several processors: what a second thread adds, and what a heavy session
does to its neighbours."""

import json

from . import machine, measures, relays

# How the ends of sessions would have machines of their own: those of the heavy session run when
# nobody else wants a processor, those of its neighbours at once.
LAST, FIRST = ["chrt", "--idle", "0"], ["chrt", "--rr", "1"]

# Requests are outstanding on so many connections beside the heavy session.
NEIGHBOURS = 4

# The heavy session's mapping: neighbours use the first one.
HEAVY = 2


def ends(relay, direction, sessions, seconds, mapping=0):
    """The command for both ends of saturated sessions."""
    return [str(word) for word in (
        relay.context.loadgen, "saturate", "--target", relays.USERS + mapping,
        "--tunnels", relays.TUNNELS + mapping, "--passcode", relays.PASSCODE, "--dir", direction,
        "--conns", sessions, "--secs", seconds, "--pid", relay.pid, *relay.client_options())]


def sharing(relay, seconds):
    """Two saturated sessions with one thread and with two."""
    figures, marks = {}, []
    for threads in (1, 2):
        relay.threads = threads
        relay.start_daemon()
        for direction in ("up", "down"):
            found = measures.undisturbed(
                lambda: measures.output(ends(relay, direction, 2, seconds)))
            marks.append(found)
            figures |= {f"{direction}{threads}_{key}": found[key] for key in
                        ("gbit_s", "cpu_s_per_gb", "least_worker", "busiest_worker",
                         "load_cores")}
        relay.stop()
    for direction in ("up", "down"):
        carried = [figures[f"{direction}{threads}_gbit_s"] for threads in (1, 2)]
        busiest = [figures[f"{direction}{threads}_busiest_worker"] for threads in (1, 2)]
        figures |= {
            f"{direction}_ratio": carried[1] / carried[0],
            # As if the ends took nothing from the threads: per second that the busiest one ran.
            f"{direction}_free_ratio": carried[1] / busiest[1] / (carried[0] / busiest[0]),
            f"{direction}_balance": figures[f"{direction}2_least_worker"] / busiest[1]}
    return figures | worst(marks)


def neighbours(relay, seconds):
    """Ping-pong alone and beside one saturated session, all on one thread and spread over two."""
    first = FIRST if machine.may(FIRST) else []
    figures, marks = {"real_time": bool(first)}, []

    def ping():
        figures = measures.output([str(word) for word in (
            *first, relay.context.loadgen, "pingpong", "--target", relay.port, "--conns",
            NEIGHBOURS, "--secs", seconds, *relay.client_options())])
        if figures.get("p99_us") is None:
            raise RuntimeError("no request was answered in the time of the measurement")
        return figures

    def beside(direction):
        # Long enough for the ping-pong with its warming up.
        heavy = machine.Process(LAST + ends(relay, direction, 1, seconds + 0.5, HEAVY),
                                relay.context.path("saturate.log"), lines=True)
        try:
            heavy.wait_for("READY")
            figures = ping()
            return figures | {"heavy": json.loads(heavy.process.stdout.readline())}
        finally:
            heavy.stop()

    for threads in (1, 2):
        relay.threads = threads
        backend = relay.context.start_backend(first)
        try:
            relay.start_daemon(2)
            relay.agent(4 * NEIGHBOURS, first)
            found = {"quiet": measures.undisturbed(ping),
                     "up": measures.undisturbed(lambda: beside("up")),
                     "down": measures.undisturbed(lambda: beside("down"))}
        finally:
            relay.stop()
            backend.stop()
        marks += found.values()
        for what, seen in found.items():
            figures |= {f"{what}{threads}_p50_us": seen["p50_us"],
                        f"{what}{threads}_p99_us": seen["p99_us"]}
            if what != "quiet":
                figures |= {f"{what}{threads}_ratio": seen["p99_us"] / found["quiet"]["p99_us"],
                            f"{what}{threads}_gbit_s": seen["heavy"]["gbit_s"],
                            f"{what}{threads}_busiest": seen["heavy"]["busiest_worker"]}
    return figures | worst(marks)


def worst(marks):
    """What disturbed several measurements."""
    return {"foreign": max(mark["foreign"] for mark in marks),
            "steal": max(mark["steal"] for mark in marks),
            "disturbed": any(mark["disturbed"] for mark in marks)}
