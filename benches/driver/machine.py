"""The machine: who else uses it, what a process costs, and starting and stopping processes."""

import os
import platform
import signal
import socket
import subprocess
import sys
import time

# A measurement is disturbed when processes that are not ours use more than this share of one
# core meanwhile, or the host takes more than that of one away.
FOREIGN = 0.08
STEAL = 0.10

TICKS = os.sysconf("SC_CLK_TCK")


def read(path):
    with open(path) as file:
        return file.read()


def processes():
    """Process id to (parent, own processor time, that of ended children), in ticks."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            text = read(f"/proc/{name}/stat")
        except OSError:
            continue
        fields = text[text.rindex(")") + 2:].split()
        times = [int(field) for field in fields[11:15]]
        found[int(name)] = (int(fields[1]), times[0] + times[1], times[2] + times[3])
    return found


def descendants(found):
    """This process and all that it has started."""
    ours = {os.getpid()}
    while True:
        more = {process for process, (parent, *_) in found.items() if parent in ours} - ours
        if not more:
            return ours
        ours |= more


def stolen():
    return int(read("/proc/stat").splitlines()[0].split()[8])


class Watch:
    """Sees what disturbs a measurement: `foreign` and `steal`, shares of one core; `busiest` is
    the command of the process that took most."""

    def __enter__(self):
        self.began = (processes(), stolen(), time.monotonic())
        return self

    def __exit__(self, *_):
        (before, steal, began), after = self.began, processes()
        ticks = TICKS * max(time.monotonic() - began, 0.01)
        ours = descendants(before) | descendants(after)
        used, most, self.busiest = 0, 0, None
        for process in before.keys() | after.keys():
            parent = after.get(process, before.get(process))[0]
            # 2 is the kernel's: its threads work for us as for others.
            if process in ours or 2 in (process, parent):
                continue
            # The time of one that has ended goes on in its parent's: what it had before is
            # not new.
            _, own, children = after.get(process, (0, 0, 0))
            _, own_before, children_before = before.get(process, (0, 0, 0))
            used += own + children - own_before - children_before
            if own - own_before > most:
                most, self.busiest = own - own_before, process
        self.foreign = round(max(0.0, used / ticks), 3)
        self.steal = round((stolen() - steal) / ticks, 3)

    @property
    def disturbed(self):
        return self.foreign > FOREIGN or self.steal > STEAL


def disturber():
    """Who disturbs this second, or nothing."""
    with Watch() as watch:
        time.sleep(1)
    if watch.foreign > FOREIGN:
        try:
            name = read(f"/proc/{watch.busiest}/comm").strip()
        except OSError:
            name = "a process that has ended"
        return f"{watch.foreign:.0%} of a core, most of it {name}"
    return f"the host takes {watch.steal:.0%} of a core away" if watch.disturbed else None


def description():
    """One line on where this runs."""
    model = next((line.split(":")[1].strip() for line in read("/proc/cpuinfo").splitlines()
                  if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores ({model}), Linux {platform.release()}"


def alone():
    """Waits until no other benchmark runs here, whose ports are the same; hold what it gives."""
    lock = socket.socket(socket.AF_UNIX)
    told = False
    while True:
        try:
            # A name without a file: the kernel forgets it with this process.
            lock.bind("\0iofog-connector-benchmark")
            return lock
        except OSError:
            if not told:
                print("Another benchmark runs on this machine: waiting.", file=sys.stderr)
            told = True
            time.sleep(1)


def must_be_free(*ports):
    """Ends the benchmark if somebody listens there: what a benchmark that was killed has left would
    answer in the place of what is to be measured."""
    for port in ports:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            continue
        sys.exit(f"Port {port} is taken, perhaps by what a benchmark has left that was killed; "
                 f"\"ss -tanp 'sport = :{port}'\" names the process.")


def may(prefix):
    """Whether this user may start programs so."""
    return subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0


class Process:
    """A started program; its output goes into a log file, or is given line by line."""

    def __init__(self, command, log, lines=False, env=None):
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.PIPE, stderr=file,
                stdout=subprocess.PIPE if lines else file, text=True,
                env=dict(os.environ, **(env or {})))
        self.pid = self.process.pid

    def wait_for(self, word):
        """Reads its output up to a line that begins with `word`, which it gives."""
        for line in self.process.stdout:
            if line.startswith(word):
                return line
        raise RuntimeError(f"{self.process.args[0]} ended before it said {word}")

    def tell(self, line):
        """Writes a line to its standard input."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def stop(self):
        self.process.stdin.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(8)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


class Group:
    """A control group with a limit of memory, of version 2 or 1, whichever this machine allows."""

    def __init__(self, name, limit):
        self.path, self.how, prefix = None, "no control group: resident memory alone", []
        for how, folder, most in (("version 2", "/sys/fs/cgroup", "memory.max"),
                                  ("version 1", "/sys/fs/cgroup/memory", "memory.limit_in_bytes")):
            parent = os.path.join(folder, own_group(how).lstrip("/"))
            path = os.path.join(parent, name)
            if not os.path.exists(os.path.join(parent, "cgroup.procs")):
                continue
            try:
                os.mkdir(path)
            except OSError:
                continue
            try:
                # Not made where it is not there: the kernel makes it, if memory can be limited.
                with open(os.path.join(path, most), "r+") as file:
                    file.write(str(limit))
            except OSError:
                os.rmdir(path)
                continue
            self.path, self.how = path, f"control group of {how}"
            prefix = ["sh", "-c", f'echo $$ > {path}/cgroup.procs && exec "$@"', "sh"]
            break
        # Starts a program in it.
        self.prefix = prefix

    def says(self, *files):
        """The first of its files that is there, as a number."""
        for file in files:
            try:
                return int(read(os.path.join(self.path or "", file)))
            except OSError:
                continue
        return None

    def remove(self):
        """Once its processes have ended."""
        if self.path:
            os.rmdir(self.path)


def own_group(how):
    """This process's control group of that version."""
    begins = "0::" if how == "version 2" else None
    for line in read("/proc/self/cgroup").splitlines():
        if line.startswith(begins) if begins else ":memory:" in line:
            return line.split(":", 2)[2]
    return ""


def wait_for_port(port, seconds=20):
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing listens on port {port}") from None
            time.sleep(0.02)


def resident_kb(pid):
    """From smaps_rollup, which counts; the kernel's running figures may be some pages late."""
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} has no memory")


def peak_kb(pid):
    """The most that it ever had resident."""
    return next(int(line.split()[1]) for line in read(f"/proc/{pid}/status").splitlines()
                if line.startswith("VmHWM:"))


def threads(pid):
    return [f"/proc/{pid}/task/{thread}" for thread in os.listdir(f"/proc/{pid}/task")]


def processor_seconds(pid):
    return sum(int(read(f"{thread}/schedstat").split()[0]) for thread in threads(pid)) / 1e9


def wakeups(pid):
    """How often its threads have waited, which is how often they were woken."""
    return sum(int(line.split()[1]) for thread in threads(pid)
               for line in read(f"{thread}/status").splitlines()
               if line.startswith("voluntary_ctxt_switches"))


def bytes_written(pid):
    """To storage."""
    return next(int(line.split()[1]) for line in read(f"/proc/{pid}/io").splitlines()
                if line.startswith("write_bytes"))
