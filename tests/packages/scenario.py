"""The life of the package in one Debian system, step by step, each step checked.

Run by tests/packages/roots inside namespaces of its own:
    scenario.py ROOT PACKAGE NAME [STORY...]
PACKAGE is the Debian package, or an archive with install.sh; STORY names functions below, which alone run then.
The network is a loopback of our own, so the connector's ports are tried from outside the root.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

BASE, PACKAGE, NAME, *WANTED = sys.argv[1:]
EMULATED = NAME in ("armhf", "busybox-arm64", "busybox-armv7", "busybox-armv6", "busybox-riscv64")
# install.sh and the archive's own services.
ARCHIVE = PACKAGE.endswith(".tar.gz")
# Emulation is an order of magnitude slower; the promise of a second is for real processors.
RESTART_SECONDS = 10.0 if EMULATED else 1.0
# The init systems that have an eye on the archive's services.
WATCHED_BY = {"bookworm": "systemd", "trixie": "systemd", "openrc": "openrc", "alpine": "openrc", "runit": "runit"}
STEPS = 0


class Root:
    """One system, a container: a throw-away layer over the base, its own processes, /dev and /run.

    Its first process is systemd, runit, sysvinit or BusyBox with OpenRC, or one that only waits and reaps: maintainer scripts then find
    neither systemd nor a chroot, in which they would start nothing.
    """

    ENTER = """
        mount -t proc proc "$1/proc"
        if [ "$2" = systemd ]; then
            # Settings of the kernel are the machine's: read-only here.
            mount --bind "$1/proc/sys" "$1/proc/sys"
            mount -o remount,bind,ro "$1/proc/sys"
            mount -t sysfs -o ro sysfs "$1/sys"
            mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
            mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/dev/pts"
        fi
        cd "$1"
        pivot_root . .
        umount -l .
        cd /
        if [ "$2" = systemd ]; then
            export container=test
            exec /lib/systemd/systemd --log-target=journal </dev/null >/dev/null 2>&1
        fi
        if [ "$2" != init ]; then
            exec /sbin/init </dev/null >/dev/null 2>&1
        fi
        exec /bin/sh -c 'while sleep 60; do :; done'
    """

    def __init__(self, init):
        self.work = tempfile.mkdtemp(prefix="iofog-connector-root-")
        run("mount", "-t", "tmpfs", "tmpfs", self.work)
        for name in ("upper", "work", "root"):
            os.mkdir(f"{self.work}/{name}")
        self.path = f"{self.work}/root"
        layers = f"lowerdir={os.path.abspath(BASE)},upperdir={self.work}/upper,workdir={self.work}/work"
        run("mount", "-t", "overlay", "overlay", "-o", layers, self.path)
        run("mount", "-t", "tmpfs", "tmpfs", f"{self.path}/dev")
        for name, major, minor in (
            *(("null", 1, 3), ("zero", 1, 5), ("full", 1, 7)),
            *(("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)),
        ):
            os.mknod(f"{self.path}/dev/{name}", 0o666 | stat.S_IFCHR, os.makedev(major, minor))
            os.chmod(f"{self.path}/dev/{name}", 0o666)
        os.symlink("/proc/self/fd", f"{self.path}/dev/fd")
        os.symlink("pts/ptmx", f"{self.path}/dev/ptmx")
        os.mkdir(f"{self.path}/dev/pts")
        run("mount", "-t", "tmpfs", "tmpfs", f"{self.path}/run")
        self.cgroup = make_cgroup() if init == "systemd" else None
        self.allow_starts(True)
        if init not in ("systemd", "sysvinit"):
            self.enter_runlevel_2()
        self.kind = init
        self.boot(init)

    def boot(self, init):
        """Starts the first process and waits until the system is up."""
        namespaces = ["--mount", "--pid"] + (["--cgroup"] if self.cgroup else [])
        self.unshare = subprocess.Popen(
            ("unshare", *namespaces, "--fork", "--kill-child", "sh", "-ec", self.ENTER, "-", self.path, init),
            preexec_fn=self.join_cgroup,
        )
        children = f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children"
        wait_for("the system's first process", lambda: open(children, encoding="ascii").read().strip())
        with open(children, encoding="ascii") as file:
            self.init = int(file.read())
        self.processes = os.readlink(f"/proc/{self.init}/ns/pid")

        def up():
            name = os.path.basename(os.readlink(f"/proc/{self.init}/exe"))
            if init == "systemd":
                return name == "systemd" and self("systemctl", "is-system-running", ok=None)[1].strip() == "running"
            if init == "runit":
                return name == "runit" and self("pidof", "runsvdir", ok=None)[0] == 0
            if init == "openrc":
                # Alpine's is BusyBox.
                return name in ("init", "busybox") and self("rc-status", "-r", ok=None)[1].strip() == "default"
            if init == "sysvinit":
                return name == "init" and self("runlevel", ok=None)[1].strip() == "N 2"
            # By its words, since BusyBox and an emulator have the names of all.
            return b"while" in read(f"/proc/{self.init}/cmdline") and b"pivot_root" not in read(f"/proc/{self.init}/cmdline")

        wait_for("the system", up, 60.0)

    def join_cgroup(self):
        if self.cgroup:
            with open(f"{self.cgroup}/cgroup.procs", "w", encoding="ascii") as file:
                file.write(str(os.getpid()))

    def enter_runlevel_2(self):
        """As init does at boot; maintainer scripts start nothing in no runlevel."""
        if NAME == "sysvinit":
            with open(f"{self.path}/run/utmp", "wb") as file:
                # struct utmp of utmp(5): RUN_LVL, previous "N", now "2".
                file.write(struct.pack("<h2xi", 1, ord("N") * 256 + ord("2")).ljust(384, b"\0"))
            return
        runlevel = f"{self.path}/sbin/runlevel"
        if os.path.lexists(runlevel):
            os.remove(runlevel)
        with open(runlevel, "w", encoding="ascii") as file:
            file.write("#!/bin/sh\necho N 2\n")
        os.chmod(runlevel, 0o755)

    def allow_starts(self, allowed):
        """Writes the operator's policy-rc.d; without one, a system without an init starts nothing."""
        policy = f"{self.path}/usr/sbin/policy-rc.d"
        with open(policy, "w", encoding="ascii") as file:
            file.write(f"#!/bin/sh\nexit {104 if allowed else 101}\n")
        os.chmod(policy, 0o755)

    def command(self, *command):
        """The machine's command that runs one in the system."""
        return ("nsenter", f"--target={self.init}", "--mount", "--pid", "--root", "--wd", *command)

    def __call__(self, *command, ok=True):
        """Runs a command in the system; returns its output. `ok` None takes any exit status."""
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND": "noninteractive",
            "LC_ALL": "C.UTF-8",
        }
        # The processor that is emulated.
        if "QEMU_CPU" in os.environ:
            environment["QEMU_CPU"] = os.environ["QEMU_CPU"]
        done = subprocess.run(
            self.command(*command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            timeout=600,
        )
        if ok is not None and (done.returncode == 0) != ok:
            fail(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout}")
        return done.stdout if ok is not None else (done.returncode, done.stdout)

    def install(self, package, ok=True):
        """Installs a package file of the machine, as `apt install ./FILE` does."""
        # Not in /tmp, which systemd may mount for itself.
        shutil.copy(package, f"{self.path}/var/tmp/package.deb")
        return self("apt-get", "install", "-y", "--allow-downgrades", "--reinstall", "/var/tmp/package.deb", ok=ok)

    def file(self, path):
        return self.path + path

    def mode(self, path):
        """Owner, group and mode, as in "iofog-connector iofog-connector 600"; "-" when absent."""
        status, out = self("stat", "-c", "%U %G %a", path, ok=None)
        return out.strip() if status == 0 else "-"

    def daemon(self):
        """The daemon's process id, as this namespace numbers it; None when it does not run."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/comm", encoding="ascii") as comm:
                    if comm.read().strip() != "iofog-connector":
                        continue
                with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                    if b"\0start\0" in cmdline.read() and os.readlink(f"/proc/{pid}/ns/pid") == self.processes:
                        return int(pid)
            except OSError:
                continue
        return None

    def end(self):
        """Ends every process of the system."""
        self.unshare.kill()
        self.unshare.wait()
        # Its first process has become a child of this one, the first of the namespace around it.
        os.waitpid(self.init, 0)

    def boot_again(self):
        """As after the power has failed."""
        self.end()
        for name in os.listdir(f"{self.path}/run"):
            run("rm", "-rf", f"{self.path}/run/{name}")
        self.boot(self.kind)

    def close(self):
        """Ends every process of the system and drops it."""
        self.end()
        run("umount", "--recursive", self.path)
        run("umount", self.work)
        os.rmdir(self.work)
        if self.cgroup:
            wait_for("its control group to empty", lambda: removed(self.cgroup))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def control_groups():
    """Where a control group for systemd can be made; None where the machine has no such place."""
    for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if os.path.exists(f"{mount}/cgroup.controllers") and os.access(mount, os.W_OK):
            return mount
    return None


def make_cgroup():
    return tempfile.mkdtemp(prefix="iofog-connector-test-", dir=control_groups())


def removed(group):
    """Removes an empty control group with those that systemd made in it."""
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            return False
    return True


def run(*command):
    subprocess.run(command, check=True)


def fail(message):
    sys.exit(f"FAILED in {NAME}, step {STEPS}: {message}")


def step(text):
    global STEPS
    STEPS += 1
    print(f"  {STEPS:2} {text}", flush=True)


def expect(what, found, wanted):
    if found != wanted:
        fail(f"{what}: {found!r}, expected {wanted!r}")


def wait_for(what, condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            fail(f"waited {seconds} s for {what}")
        time.sleep(0.02)


def raise_loopback():
    """What `ip link set lo up` does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))


# What a Controller, an agent of version 1 and a user do.


def add_mapping(tls=None, api=8080):
    body = "mapping=" + urllib.parse.quote('{"type":"public","maxconnections":60,"heartbeatabsencethreshold":200000}')
    url = f"{'https' if tls else 'http'}://127.0.0.1:{api}/api/v2/mapping/add"
    with urllib.request.urlopen(url, body.encode(), timeout=10, context=tls) as answer:
        mapping = json.load(answer)
    expect("mapping/add", mapping["status"], "ok")
    return mapping


def authorized(port, passcode, tls=None, seconds=5.0):
    """Whether an agent is let in on this port with this passcode."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=seconds) as agent:
            if tls:
                agent = tls.wrap_socket(agent, server_hostname="localhost")
            agent.sendall(passcode.encode())
            return agent.recv(64) == b"AUTHORIZED"
    except OSError:
        return False


def connect(port, tls=None):
    peer = socket.create_connection(("127.0.0.1", port), timeout=10)
    return tls.wrap_socket(peer, server_hostname="127.0.0.1") if tls else peer


def expect_read(what, peer, wanted):
    """The next bytes of a peer, however they are cut."""
    read = b""
    while len(read) < len(wanted) and (more := peer.recv(len(wanted) - len(read))):
        read += more
    expect(what, read, wanted)


@contextlib.contextmanager
def session(mapping, tls=None):
    """The ends of a session of version 1, as long as a block runs: what the user has sent is with the agent."""
    with connect(mapping["port1"], tls) as agent:
        agent.sendall(mapping["passcode1"].encode())
        expect_read("the answer to the passcode", agent, b"AUTHORIZED")
        with connect(mapping["port2"], tls) as user:
            user.sendall(b"ping")
            expect_read("what the agent reads", agent, b"ping")
            yield agent, user


def expect_served(mapping, tls=None):
    """What a user sends reaches the agent, and the answer comes back."""
    with session(mapping, tls) as (agent, user):
        agent.sendall(b"pong")
        expect_read("what the user reads", user, b"pong")


def expect_served_by_version_2(mapping, tls=None):
    """One session of version 2 (protocol page, section 5)."""
    with connect(mapping["port1"], tls) as agent:
        agent.sendall(f"IOFOG/2 {mapping['passcode1']}\n".encode())
        expect_read("the answer to the passcode", agent, b"IOFOG/2 AUTHORIZED\n")
        with connect(mapping["port2"], tls) as user:
            # Version 2 of the PROXY protocol, the PROXY command, TCP over IPv4 with 12 bytes of addresses and ports.
            expect_read("the header", agent, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + 2 * socket.inet_aton("127.0.0.1"))
            ports = struct.pack("!HH", user.getsockname()[1], mapping["port2"])
            expect_read("the ports in it", agent, ports)
            agent.sendall(b"OPEN")
            user.sendall(b"ping")
            expect_read("what the agent reads", agent, b"ping")
            agent.sendall(b"pong")
            expect_read("what the user reads", user, b"pong")


class Outage:
    """Knocks at a port with a passcode for as long as a block runs; then knows the longest gap, and how often the port was
    closed."""

    def __init__(self, mapping):
        self.mapping = mapping
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.knock)
        self.seconds = 0.0
        self.refused = 0

    def knock(self):
        last = time.monotonic()
        while not self.done.is_set():
            if not reachable(self.mapping["port1"]):
                self.refused += 1
            if authorized(self.mapping["port1"], self.mapping["passcode1"], seconds=1.0):
                self.seconds = max(self.seconds, time.monotonic() - last)
                last = time.monotonic()
            time.sleep(0.05)
        self.seconds = max(self.seconds, time.monotonic() - last)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        wait_for("the mapping to be served again", lambda: authorized(self.mapping["port1"], self.mapping["passcode1"]))
        self.done.set()
        self.thread.join()


# The Java package, as its makers' scripts laid it out.

JAVA_STATE = {
    "mappings": [
        {
            "id": "2ae8ff72-7447-47de-a4ec-123eb214d63e",
            "port1": 30010,
            "port2": 30011,
            "maxconnectionsport1": 60,
            "maxconnectionsport2": 60,
            "passcodeport1": "0b403b65-c5a0-476f-92f5-ffc7ca0f85ef",
            "passcodeport2": "",
            "heartbeatabsencethresholdport1": 200000,
            "heartbeatabsencethresholdport2": 0,
        },
        {
            "id": "e2454159-ed8c-4d00-a885-fdd87de811de",
            "port1": 30012,
            "port2": 30013,
            "maxconnectionsport1": 1,
            "maxconnectionsport2": 1,
            "passcodeport1": "an older passcode",
            "passcodeport2": "7f4eb783-c2ab-4517-8aaf-c8395054193e",
            "heartbeatabsencethresholdport1": 200000,
            "heartbeatabsencethresholdport2": 200000,
        },
    ]
}
JAVA_SETTINGS = {"ports": ["30000-39999"], "exclude": [], "broker": 12345, "address": "127.0.0.1", "dev": False}
JAVA_CONTROL = """Package: {name}
Version: {version}
Architecture: all
Maintainer: nobody <nobody@example.org>
Description: the layout of the Java Connector
"""
JAVA_POSTINST = """#!/bin/sh
useradd -r -U -s /usr/bin/nologin iofog-connector 2>/dev/null
groupadd -f admin
usermod -aG admin,sudo iofog-connector
[ -f /etc/iofog-connector/iofog-connector.conf ] ||
    mv /etc/iofog-connector/iofog-connector_new.conf /etc/iofog-connector/iofog-connector.conf
rm -f /etc/iofog-connector/iofog-connector_new.conf
mkdir -p /var/log/iofog-connector
chown -R :iofog-connector /etc/iofog-connector /var/log/iofog-connector
chmod 774 -R /etc/iofog-connector /var/log/iofog-connector
mv /dev/random /dev/random.real
ln -s /dev/urandom /dev/random
chmod 774 /etc/init.d/iofog-connector
chmod 754 /usr/bin/iofog-connector
update-rc.d iofog-connector defaults
ln -sf /usr/bin/iofog-connector /usr/local/bin/iofog-connector
exit 0
"""
JAVA_INIT = """#!/bin/sh
### BEGIN INIT INFO
# Provides:          iofog-connector
# Required-Start:    $local_fs $remote_fs $network $syslog
# Required-Stop:     $local_fs $remote_fs $network $syslog
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: the Java Connector
### END INIT INFO
"""
# Stands for the virtual machine: it holds the ports, so that they must be taken from it.
JAVA_PROGRAM = """#!/usr/bin/perl
use IO::Socket::INET;
my @ports = map { IO::Socket::INET->new(LocalAddr => "0.0.0.0:$_", Listen => 5, ReuseAddr => 1) or die $! } 443, 30010;
sleep 600;
"""


def java_package(name="iofog-connector", version="1.1.0"):
    """Builds the old package; returns its file."""
    tree = tempfile.mkdtemp(prefix="iofog-connector-java-")
    files = {
        "DEBIAN/control": (JAVA_CONTROL.format(name=name, version=version), 0o644),
        "DEBIAN/postinst": (JAVA_POSTINST, 0o755),
        "DEBIAN/postrm": ('#!/bin/sh\n[ "$1" != remove ] || rm -rf /etc/iofog-connector /var/log/iofog-connector\n', 0o755),
        "etc/init.d/iofog-connector": (JAVA_INIT, 0o755),
        "etc/bash_completion.d/iofog-connector": ("# none\n", 0o644),
        "etc/iofog-connector/iofog-connector_new.conf": (json.dumps(JAVA_SETTINGS), 0o644),
        "usr/bin/iofog-connector": ("#!/bin/sh\njava -jar /usr/bin/iofog-connector.jar $@\n", 0o755),
        "usr/bin/iofog-connector.jar": ("PK", 0o644),
        "usr/bin/iofog-connectord.jar": ("PK", 0o644),
    }
    for path, (content, mode) in files.items():
        path = f"{tree}/{path}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(path, mode)
    os.chmod(tree, 0o755)
    package = f"{tree}.deb"
    subprocess.run(("dpkg-deb", "--root-owner-group", "--build", tree, package), check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return package


def broken_package(script):
    """Our package with this script in the place of the daemon, and that as /usr/lib/iofog-connector/iofog-connector."""
    tree = tempfile.mkdtemp(prefix="iofog-connector-broken-")
    run("dpkg-deb", "--raw-extract", PACKAGE, tree)
    os.makedirs(f"{tree}/usr/lib/iofog-connector")
    os.rename(f"{tree}/usr/bin/iofog-connector", f"{tree}/usr/lib/iofog-connector/iofog-connector")
    with open(f"{tree}/usr/bin/iofog-connector", "w", encoding="utf-8") as program:
        program.write(script)
    os.chmod(f"{tree}/usr/bin/iofog-connector", 0o755)
    os.chmod(tree, 0o755)
    package = f"{tree}.deb"
    subprocess.run(("dpkg-deb", "--root-owner-group", "--build", tree, package), check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return package


def expect_owners_and_modes(root):
    service = "iofog-connector iofog-connector"
    for path, wanted in {
        "/etc/iofog-connector": "root iofog-connector 1770",
        "/etc/iofog-connector/iofog-connector.conf": "root root 644",
        "/etc/iofog-connector/configs.json": f"{service} 600",
        "/etc/iofog-connector/tunnels": "root iofog-connector 750",
        "/var/log/iofog-connector": f"{service} 750",
        "/run/iofog-connector": f"{service} 750",
        "/run/iofog-connector/control.sock": f"{service} 600",
        "/usr/bin/iofog-connector": "root root 755",
        "/etc/init.d/iofog-connector": "root root 755",
    }.items():
        expect(f"owner and mode of {path}", root.mode(path), wanted)
    # Else dpkg, which writes the settings as root, would write and give away what a link in their place leads to.
    user = ("setpriv", "--reuid=iofog-connector", "--regid=iofog-connector", "--clear-groups")
    for name in ("iofog-connector.conf", "tunnels"):
        code, _ = root(*user, "mv", f"/etc/iofog-connector/{name}", "/etc/iofog-connector/moved", ok=None)
        expect(f"the service's user can move {name} away", code == 0, False)


def expect_least_rights(root):
    """The process: its own user, many files, and in its sandbox no right, since no port below 1024 is in the settings."""
    pid = root.daemon()
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        status = dict(line.split(":", 1) for line in file)
    uid = root("id", "-u", "iofog-connector").strip()
    expect("user ids of the daemon", status["Uid"].split(), [uid] * 4)
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        expect(f"rights {kind}", int(status[kind], 16), 0)
    expect("rights CapBnd (CAP_NET_BIND_SERVICE is bit 10)", int(status["CapBnd"], 16), 1 << 10)
    if not EMULATED:
        expect("Seccomp", status["Seccomp"].strip(), "2")
    expect("NoNewPrivs", status["NoNewPrivs"].strip(), "1")
    with open(f"/proc/{pid}/limits", encoding="ascii") as file:
        limit = re.search(r"Max open files +(\d+)", file.read())
    expect("open files allowed", int(limit[1]), OPEN_FILES)


def boot_links(root):
    return sorted(
        f"{level}/{link[0]}"
        for level in ("rc0.d", "rc2.d", "rc3.d", "rc6.d")
        for link in os.listdir(root.file(f"/etc/{level}"))
        if link[3:] == "iofog-connector"
    )


def life(root):
    """Install, use, upgrade over itself, remove, reinstall, purge."""
    step("apt installs it; the init script has started it")
    root.install(PACKAGE)
    wait_for("the daemon", root.daemon)
    expect("status of the service", root("service", "iofog-connector", "status", ok=None)[0], 0)
    expect("boot links", boot_links(root), ["rc0.d/K", "rc2.d/S", "rc3.d/S", "rc6.d/K"])
    enabled = os.path.lexists(root.file("/etc/systemd/system/multi-user.target.wants/iofog-connector.service"))
    expect("enabled for systemd", enabled, True)

    step("a mapping is added and serves a session")
    mapping = add_mapping()
    expect_served(mapping)

    step("owners, modes and rights are as stated")
    expect_owners_and_modes(root)
    expect_least_rights(root)

    step("one file carries users to a service, and a stop of the tunnels ends that")
    one_file(root)

    step("start twice, reload, restart and stop, as init scripts do")
    before = root.daemon()
    root("service", "iofog-connector", "start")
    root("service", "iofog-connector", "reload")
    time.sleep(0.5)
    expect("process after a second start and a reload", root.daemon(), before)
    with Outage(mapping) as outage:
        root("service", "iofog-connector", "restart")
    print(f"       restart: {outage.seconds:.2f} s without service")
    expect("restart within its time", outage.seconds < RESTART_SECONDS, True)
    expect("a new process", root.daemon() != before, True)
    root("service", "iofog-connector", "stop")
    expect("status of the stopped service", root("service", "iofog-connector", "status", ok=None)[0], 3)
    expect("the daemon after stop", root.daemon(), None)
    root("service", "iofog-connector", "stop")
    root("service", "iofog-connector", "start")
    root("iofog-connector", "stop")
    code, said = root("service", "iofog-connector", "status", ok=None)
    expect("status after its own command has stopped it", (code, ".pid behind" in said), (3, False))
    root("service", "iofog-connector", "start")
    expect_served(mapping)

    step("upgrade over itself with a live mapping and edited settings")
    conf, edited = edit_settings(root)
    with Outage(mapping) as outage:
        root.install(PACKAGE)
    print(f"       upgrade: {outage.seconds:.2f} s without service")
    expect("upgrade within its time", outage.seconds < RESTART_SECONDS, True)
    with open(conf, encoding="utf-8") as file:
        expect("the edited settings", file.read(), edited)
    expect_served(mapping)
    expect_owners_and_modes(root)

    if not EMULATED:
        step("upgraded by hand, the service knows the new process")
        before = root.daemon()
        root("iofog-connector", "upgrade")
        wait_for("another process", lambda: root.daemon() not in (None, before))
        root("service", "iofog-connector", "status")
        root("service", "iofog-connector", "reload")
        expect_served(mapping)

    step("logrotate moves the log file and the daemon opens a new one")
    log = "/var/log/iofog-connector/iofog-connector.log"
    root("logrotate", "--force", "/etc/logrotate.d/iofog-connector")
    wait_for("a new log file", lambda: os.path.exists(root.file(log)))
    expect("the old log file", os.path.exists(root.file(log + ".1")), True)

    step("remove stops it and keeps the state")
    root("apt-get", "remove", "-y", "iofog-connector")
    expect("the daemon after remove", root.daemon(), None)
    for name in ("iofog-connector.conf", "configs.json"):
        expect(f"{name} after remove", os.path.exists(root.file(f"/etc/iofog-connector/{name}")), True)

    step("reinstalled, it serves the same mapping")
    root.install(PACKAGE)
    expect_served(mapping)
    expect_owners_and_modes(root)

    step("where policy-rc.d forbids it, nothing is started")
    root("service", "iofog-connector", "stop")
    root.allow_starts(False)
    root.install(PACKAGE)
    expect("the daemon under policy-rc.d", root.daemon(), None)
    root.allow_starts(True)

    step("purge deletes state, logs and links")
    root("service", "iofog-connector", "start")
    root("apt-get", "purge", "-y", "iofog-connector")
    expect("the daemon after purge", root.daemon(), None)
    left = root(
        *("find", "/etc", "/var", "/run", "/usr", "/lib", "-xdev", "-name", "*iofog-connector*"),
        *("-not", "-path", "/var/cache/*"),
    )
    expect("files left", left, "")
    expect("boot links left", boot_links(root), [])


def upgrade_from_java(root):
    step("a Java Connector in use: root's processes, modes 774, groups, /dev/random")
    old = java_package()
    root.install(old)
    etc = root.file("/etc/iofog-connector")
    with open(f"{etc}/configs.json", "w", encoding="utf-8") as file:
        json.dump(JAVA_STATE, file)
    certificate = make_certificate(etc)
    for name in os.listdir(etc):
        os.chmod(f"{etc}/{name}", 0o774)
    with open(root.file("/var/log/iofog-connector/iofog-connector.0.log"), "w", encoding="ascii") as file:
        file.write("old\n")
    start_java(root)
    expect("groups before", set(root("id", "-nG", "iofog-connector").split()) >= {"admin", "sudo"}, True)
    expect("/dev/random before", os.path.islink(root.file("/dev/random")), True)

    step("apt upgrades it without a question")
    root.install(PACKAGE)
    expect_java_taken_over(root, certificate)

    step("downgraded and upgraded again, nothing is lost")
    root.install(old)
    expect("the daemon after the downgrade", root.daemon(), None)
    with open(f"{etc}/configs.json", encoding="utf-8") as file:
        expect("state after the downgrade", len(json.load(file)["mappings"]), 2)
    start_java(root)
    root.install(PACKAGE)
    expect_java_taken_over(root, certificate)

    step("purge leaves nothing of either")
    root("apt-get", "purge", "-y", "iofog-connector")
    expect("settings left", os.path.exists(etc), False)


def start_java(root):
    java = root.file("/usr/bin/java")
    with open(java, "w", encoding="ascii") as file:
        file.write(JAVA_PROGRAM)
    os.chmod(java, 0o755)
    subprocess.Popen(
        root.command("/usr/bin/java", "-jar", "iofog-connectord.jar", "start"), start_new_session=True
    )
    wait_for("the Java Connector's port", lambda: reachable(30010))


def reachable(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def make_certificate(folder):
    """A certificate and key as an operator had them; returns the certificate."""
    subprocess.run(
        ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=connector")
        + ("-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE")
        + ("-keyout", f"{folder}/server-key.pem", "-out", f"{folder}/server-cert.pem"),
        check=True,
        stderr=subprocess.DEVNULL,
    )
    with open(f"{folder}/server-cert.pem", encoding="ascii") as file:
        return file.read()


def expect_java_taken_over(root, certificate):
    wait_for("the daemon", root.daemon)
    expect_least_rights(root)
    tls = ssl.create_default_context(cadata=certificate)
    for mapping in JAVA_STATE["mappings"]:
        for side in ("1", "2"):
            port, passcode = mapping[f"port{side}"], mapping[f"passcodeport{side}"]
            if passcode:
                wait_for(f"the agent of port {port}", lambda: authorized(port, passcode, tls))
    served = ssl.get_server_certificate(("127.0.0.1", 443), timeout=10)
    expect("the API's certificate", served.split(), certificate.split())
    with open(root.file("/etc/iofog-connector/iofog-connector.conf"), encoding="utf-8") as file:
        expect("the operator's settings", json.load(file), JAVA_SETTINGS)

    expect_owners_and_modes(root)
    service = "iofog-connector iofog-connector"
    expect("mode of the key", root.mode("/etc/iofog-connector/server-key.pem"), f"{service} 600")
    expect("mode of the certificate", root.mode("/etc/iofog-connector/server-cert.pem"), f"{service} 644")
    old_log = "/var/log/iofog-connector/iofog-connector.0.log"
    if os.path.exists(root.file(old_log)):
        expect("mode of an old log", root.mode(old_log), f"{service} 640")
    expect("groups", root("id", "-nG", "iofog-connector").split(), ["iofog-connector"])
    user = root("getent", "passwd", "iofog-connector").strip().split(":")
    expect("home and shell", user[5:], ["/nonexistent", "/usr/sbin/nologin"])
    device = os.lstat(root.file("/dev/random"))
    expect("/dev/random", (stat.S_ISCHR(device.st_mode), device.st_rdev), (True, os.makedev(1, 8)))
    for path in (
        "/dev/random.real",
        "/usr/bin/iofog-connector.jar",
        "/usr/bin/iofog-connectord.jar",
        "/usr/local/bin/iofog-connector",
        "/etc/bash_completion.d/iofog-connector",
        "/etc/init.d/iofog-connector.dpkg-bak",
        "/etc/iofog-connector/iofog-connector.conf.dpkg-bak",
        "/etc/iofog-connector/iofog-connector.conf.dpkg-new",
        "/etc/iofog-connector/iofog-connector_new.conf",
    ):
        expect(f"{path} is there", os.path.lexists(root.file(path)), False)
    expect("boot links", boot_links(root), ["rc0.d/K", "rc2.d/S", "rc3.d/S", "rc6.d/K"])


def switched_off_stays_off(root):
    step("a Java Connector that was switched off stays switched off")
    root.install(java_package())
    root("update-rc.d", "iofog-connector", "disable")
    root.install(PACKAGE)
    expect("boot links", boot_links(root), ["rc0.d/K", "rc2.d/K", "rc3.d/K", "rc6.d/K"])
    wanted_by = "/etc/systemd/system/multi-user.target.wants/iofog-connector.service"
    expect("enabled for systemd", os.path.lexists(root.file(wanted_by)), False)


def enabled_tunnels_run_again(root):
    step("told to systemd after a removal: start tunnels that are enabled; after an upgrade: what runs")
    root.install(PACKAGE)
    root("service", "iofog-connector", "stop")
    calls = "/var/tmp/calls"
    say = f"printf '#!/bin/sh\necho \"$*\" >>{calls}\n' >/usr/bin/$0; chmod +x /usr/bin/$0"
    for program in ("deb-systemd-invoke", "systemctl"):
        root("sh", "-c", say, program)
    root("mkdir", "-p", "/run/systemd/system", "/etc/systemd/system/multi-user.target.wants")
    units = ["iofog-connector-tunnels.service", "iofog-connector-tunnel@one.service"]
    for unit in units:
        source = f"/lib/systemd/system/{unit.replace('one', '')}"
        root("ln", "-s", source, f"/etc/systemd/system/multi-user.target.wants/{unit}")

    def told(verb):
        with open(root.file(calls), encoding="utf-8") as file:
            return sorted(line.split()[-1] for line in file if line.startswith(f"{verb} iofog-connector-tunnel"))

    root.install(PACKAGE)
    expect("started by an upgrade", told("start"), [])
    expect("restarted by an upgrade", told("try-restart"), ["iofog-connector-tunnels.service"])
    root("apt-get", "remove", "-y", "iofog-connector")
    root("rm", calls)
    root.install(PACKAGE)
    expect("started after a removal", told("start"), sorted(units))
    root.install(PACKAGE)
    expect("started by the next upgrade", told("start"), sorted(units))


def refusals(root):
    step("beside the developers' edition it is refused, and nothing is lost")
    root.install(java_package("iofog-connector-dev"))
    out = root.install(PACKAGE, ok=False)
    expect("the way out is told", "cp -a /etc/iofog-connector /root/iofog-connector.saved" in out, True)
    expect("settings", os.path.exists(root.file("/etc/iofog-connector/iofog-connector.conf")), True)
    root("dpkg", "--purge", "iofog-connector-dev")

    step("on a processor that cannot run it, it says so")
    out = root.install(broken_package("#!/bin/sh\nkill -ILL $$\n"), ok=False)
    expect("a plain sentence", "cannot run on this processor" in out, True)


def open_files():
    """What the init script can give: 65536, or what a machine that forbids raising it allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, max(hard, 65536)))
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        return 65536
    except (OSError, ValueError):
        return min(hard, 65536)


def systemd_manages_it(root):
    step("systemd: ready when it serves, in its sandbox, and back when killed or stuck")
    root.install(PACKAGE)
    expect("state", root("systemctl", "is-active", "iofog-connector").strip(), "active")
    expect("told to systemd", root("systemctl", "show", "--value", "-p", "StatusText", "iofog-connector").strip(), "serving")
    expect_least_rights(root)
    with open(f"/proc/{root.daemon()}/status", encoding="ascii") as status:
        expect("system calls are filtered", "Seccomp:\t2\n" in status.read(), True)
    mapping = add_mapping()
    expect_served(mapping)
    before = root.daemon()
    root("systemctl", "reload", "iofog-connector")
    expect("the process after a reload", root.daemon(), before)
    with Outage(mapping) as outage:
        os.kill(before, 9)
    print(f"       killed: {outage.seconds:.2f} s without service (RestartSec is 250 ms)")
    expect("back in time", outage.seconds < 3.0, True)
    drop_in = root.file("/etc/systemd/system/iofog-connector.service.d")
    os.mkdir(drop_in)
    with open(f"{drop_in}/impatient.conf", "w", encoding="ascii") as file:
        file.write("[Service]\nWatchdogSec=2\n")
    root("systemctl", "daemon-reload")
    root("systemctl", "restart", "iofog-connector")
    stuck = root.daemon()
    os.kill(stuck, signal.SIGSTOP)
    wait_for("the watchdog", lambda: root.daemon() not in (None, stuck), 15.0)
    wait_for("service", lambda: authorized(mapping["port1"], mapping["passcode1"]))

    step("systemd: what its own command has stopped stays so")
    root("iofog-connector", "stop")
    wait_for("its end", lambda: root.daemon() is None)
    wait_for("systemd to notice", lambda: state_of(root, "iofog-connector") not in ("active", "deactivating"))
    expect("state after the stop", state_of(root, "iofog-connector"), "inactive")
    root("systemctl", "start", "iofog-connector")

    step("systemd: settings with a fault are not tried again and again")
    conf = root.file("/etc/iofog-connector/iofog-connector.conf")
    with open(conf, encoding="utf-8") as file:
        good = file.read()
    with open(conf, "w", encoding="utf-8") as file:
        file.write(good.replace("12345", "123456"))
    root("systemctl", "restart", "iofog-connector", ok=False)
    expect("state", state_of(root, "iofog-connector"), "failed")
    expect("restarts", root("systemctl", "show", "--value", "-p", "NRestarts", "iofog-connector").strip(), "0")
    with open(conf, "w", encoding="utf-8") as file:
        file.write(good)
    root("systemctl", "restart", "iofog-connector")

    step("systemd: an installed tunnel carries users to a service, also after an upgrade")
    service = socket.create_server(("127.0.0.1", 0))
    port = service.getsockname()[1]
    threading.Thread(target=echo, args=(service,), daemon=True).start()
    unit = "iofog-connector-tunnels"
    expect("enabled by itself", root("systemctl", "is-enabled", unit, ok=None)[1].strip(), "disabled")
    users = installed_tunnel(root, "echo", port)
    wait_for("an echo through the pipe", lambda: echoed(users))
    install = ("iofog-connector", "tunnel", "install", "/root/echo.tunnel", "--replace", "--target")
    root(*install, "127.0.0.1:1")
    wait_for("the end of the tunnel to the other target", lambda: not echoed(users))
    root(*install, f"127.0.0.1:{port}")
    wait_for("an echo again", lambda: echoed(users))
    # Files that are replaced while it runs are as hidden as those that were there.
    add_mapping()
    sees = "for pid in $(pidof iofog-connector); do ls /proc/$pid/root/etc/iofog-connector | tr '\\n' ' '; echo; done"
    seen = root("sh", "-c", sees).split("\n")
    expect("the tunnel sees of the settings' folder", "tunnels" in [one.strip() for one in seen], True)
    upgrade_restarts(root, unit, users)

    step("systemd: a reload reads the tunnels' folder again")
    shown = root("iofog-connector", "tunnels", "status")
    expect("the status shows the tunnel", "connected" in shown and "echo" in shown, True)
    options = root.file("/etc/iofog-connector/tunnels/echo.conf")
    os.rename(options, options + ".off")
    root("systemctl", "reload", unit)
    wait_for("the tunnel's end", lambda: "no tunnels" in root("iofog-connector", "tunnels", "status"))
    os.rename(options + ".off", options)
    root("systemctl", "reload", unit)
    wait_for("an echo through the pipe", lambda: echoed(users))

    step("systemd: where tunnels have units of their own, one that is installed gets one, too")
    root("systemctl", "disable", "--now", unit)
    root("systemctl", "enable", "--now", "iofog-connector-tunnel@echo")
    wait_for("an echo through the pipe", lambda: echoed(users))
    more = installed_tunnel(root, "more", port)
    wait_for("an echo through the new pipe", lambda: echoed(more))
    expect("its unit", state_of(root, "iofog-connector-tunnel@more"), "active")
    expect("the unit of all", state_of(root, unit), "inactive")
    upgrade_restarts(root, "iofog-connector-tunnel@echo", users)

    step("systemd: removed and installed again, enabled tunnels run again, and no others")
    root("iofog-connector", "tunnel", "remove", "more")
    expect("the unit that was removed", state_of(root, "iofog-connector-tunnel@more"), "inactive")
    expect("the other one", state_of(root, "iofog-connector-tunnel@echo"), "active")
    expect("users of the tunnel that was removed are served", echoed(more), False)
    root("apt-get", "remove", "-y", "iofog-connector")
    expect("users can connect", reachable(users), False)
    root.install(PACKAGE)
    wait_for("an echo through the pipe", lambda: echoed(users))
    expect("the unit that was removed", state_of(root, "iofog-connector-tunnel@more"), "inactive")

    step("systemd: purge stops daemon and tunnels")
    root("apt-get", "purge", "-y", "iofog-connector")
    expect("the daemon after purge", root.daemon(), None)
    expect("users can connect", reachable(users), False)


class Replaced:
    """A file has another text in the place of one as long as a block runs."""

    def __init__(self, path, text, other):
        self.path = path
        with open(path, encoding="utf-8") as file:
            self.good = file.read()
        expect(f"{text} is in {path}", text in self.good, True)
        self.changed = self.good.replace(text, other)

    def __enter__(self):
        self.write(self.changed)

    def __exit__(self, *_):
        self.write(self.good)

    def write(self, text):
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(text)


def faulty(root):
    """The daemon's settings have a fault as long as a block runs."""
    return Replaced(root.file("/etc/iofog-connector/iofog-connector.conf"), "12345", "123456")


def says_why(said):
    return "broker" in said and "123456" in said


def faults_end_no_daemon_that_works(root):
    step("settings with a fault: restart, reload and an upgrade leave the daemon running, and say why")
    root.install(PACKAGE)
    wait_for("the daemon", root.daemon)
    before = root.daemon()
    with faulty(root):
        for verb in ("restart", "try-restart", "reload"):
            said = root("/etc/init.d/iofog-connector", verb, ok=False)
            expect(f"{verb} says why", says_why(said), True)
            expect(f"the process after {verb}", root.daemon(), before)
        said = root.install(PACKAGE)
        expect("the upgrade says why", says_why(said), True)
        expect("the upgrade says what runs", "the program of before runs until" in said, True)
        expect("the process after an upgrade", root.daemon(), before)
    root.install(PACKAGE)
    wait_for("the new program, by an upgrade with good settings", lambda: root.daemon() not in (None, before))

    step("a fault in a tunnel's file keeps no daemon from a restart")
    before = root.daemon()
    tunnel = root.file("/etc/iofog-connector/tunnels/wrong.conf")
    with open(tunnel, "w", encoding="utf-8") as file:
        file.write("conector=c:1\n")
    root("/etc/init.d/iofog-connector", "reload")
    root("/etc/init.d/iofog-connector", "restart")
    expect("a new process", root.daemon() not in (None, before), True)
    os.remove(tunnel)

    step("a stop waits for as long as the setting drain allows")
    stop_drains(root, ("/etc/init.d/iofog-connector", "stop"))


def stop_drains(root, stop):
    """Sessions finish within `drain`, whose value the daemon has when it stops."""
    conf = root.file("/etc/iofog-connector/iofog-connector.conf")
    with open(conf, encoding="utf-8") as file:
        good = file.read()
    with open(conf, "w", encoding="utf-8") as file:
        file.write(good.replace('"dev":', '"drain":600000,"dev":'))
    root("service", "iofog-connector", "restart")
    wait_for("the API", lambda: root("iofog-connector", "status", ok=None)[0] == 0)
    mapping = add_mapping()
    with session(mapping) as (agent, user):
        pid = root.daemon()
        stopping = threading.Thread(target=root, args=stop)
        stopping.start()
        wait_for("the port to close", lambda: not reachable(mapping["port2"]))
        time.sleep(4)
        expect("the daemon that drains", root.daemon(), pid)
        agent.sendall(b"pong")
        expect("what the user reads of a daemon that drains", user.recv(64), b"pong")
    stopping.join()
    expect("the daemon after the stop", root.daemon(), None)
    with open(conf, "w", encoding="utf-8") as file:
        file.write(good)
    root("service", "iofog-connector", "start")


def openrc_runs_it(root):
    step("openrc: by the init script: an upgrade cuts no session, and the script knows the new process")
    root.install(PACKAGE)
    wait_for("the daemon", root.daemon)
    mapping = add_mapping()
    keeps_a_session(root, mapping, lambda: root.install(PACKAGE), by_openrc)
    obeys(root, mapping, by_openrc)

    step("openrc: its service takes the place of the init script")
    root("service", "iofog-connector", "stop")
    root("cp", "/usr/share/doc/iofog-connector/examples/openrc/iofog-connector", "/etc/init.d/iofog-connector")
    root("rc-update", "add", "iofog-connector", "default", ok=None)
    root("rc-service", "iofog-connector", "start")
    wait_for("the daemon", lambda: root("iofog-connector", "status", ok=None)[0] == 0)
    expect_least_rights(root)
    expect_served(mapping)
    one_file(root)

    step("openrc: reload keeps the process; kill -9 brings another")
    before = root.daemon()
    root("rc-service", "iofog-connector", "reload")
    expect_served(mapping)
    expect("the process after a reload", root.daemon(), before)
    with Outage(mapping) as outage:
        os.kill(before, 9)
    print(f"       killed: {outage.seconds:.2f} s without service")

    step("openrc: settings with a fault: reload, restart and an upgrade leave the daemon running, and say why")
    before = root.daemon()
    with faulty(root):
        for verb in ("reload", "restart"):
            said = root("rc-service", "iofog-connector", verb, ok=False)
            expect(f"{verb} says why", says_why(said), True)
        said = root.install(PACKAGE)
        expect("the upgrade says why", says_why(said), True)
        expect("the process", root.daemon(), before)
    root.install(PACKAGE)
    wait_for("the new program", lambda: root.daemon() not in (None, before))

    step("openrc: an upgrade cuts no session, and what is supervised knows the new process")
    keeps_a_session(root, mapping, lambda: root.install(PACKAGE), by_openrc)
    with Outage(mapping) as outage:
        os.kill(root.daemon(), 9)
    print(f"       killed: {outage.seconds:.2f} s without service")
    obeys(root, mapping, by_openrc)

    step("openrc: where it watches the daemon itself, an upgrade restarts it, and there are not two")
    watched_itself(root, mapping, "/etc/init.d/iofog-connector", by_openrc, lambda: root.install(PACKAGE))

    step("openrc: a stop waits for as long as the setting drain allows")
    stop_drains(root, ("rc-service", "iofog-connector", "stop"))
    root("apt-get", "purge", "-y", "iofog-connector")


def runit_runs_it(root):
    step("runit: by the init script, an upgrade cuts no session, and the script knows the new process")
    root.install(PACKAGE)
    wait_for("the daemon", root.daemon)
    mapping = add_mapping()
    keeps_a_session(root, mapping, lambda: root.install(PACKAGE), by_service)
    obeys(root, mapping, by_service)

    step("runit: its service takes the place of the init script's daemon")
    root("service", "iofog-connector", "stop")
    root("cp", "-r", "/usr/share/doc/iofog-connector/examples/runit/iofog-connector", "/etc/sv/")
    root("ln", "-s", "/etc/sv/iofog-connector", "/etc/service/")
    wait_for("the daemon", lambda: root("sv", "check", "iofog-connector", ok=None)[0] == 0 and root.daemon())
    expect_least_rights(root)
    expect_served(mapping)
    one_file(root)

    step("runit: reload keeps the process; kill -9 brings another at once")
    before = root.daemon()
    root("sv", "reload", "iofog-connector")
    expect_served(mapping)
    expect("the process after a reload", root.daemon(), before)
    with Outage(mapping) as outage:
        os.kill(before, 9)
    print(f"       killed: {outage.seconds:.2f} s without service")

    step("runit: settings with a fault: restart and an upgrade leave the daemon running, and say why")
    before = root.daemon()
    with faulty(root):
        said = root("service", "iofog-connector", "restart", ok=False)
        expect("restart says why", says_why(said), True)
        said = root.install(PACKAGE)
        expect("the upgrade says why", says_why(said), True)
        expect("the process", root.daemon(), before)
    root.install(PACKAGE)
    wait_for("the new program", lambda: root.daemon() not in (None, before))
    wait_for("service", lambda: authorized(mapping["port1"], mapping["passcode1"]))

    step("runit: an upgrade cuts no session, and what is watched knows the new process")
    keeps_a_session(root, mapping, lambda: root.install(PACKAGE), by_runit)
    with Outage(mapping) as outage:
        os.kill(root.daemon(), 9)
    print(f"       killed: {outage.seconds:.2f} s without service")
    obeys(root, mapping, by_runit)

    step("runit: KILL for the service is for the daemon, also after an upgrade")
    root("iofog-connector", "upgrade")
    before = serving(root)
    root("sv", "kill", "iofog-connector")
    wait_for("another process", lambda: serving(root) not in ("", before))
    wait_for("service", lambda: authorized(mapping["port1"], mapping["passcode1"]))

    step("runit: where it watches the daemon itself, an upgrade restarts it, and there are not two")
    watched_itself(root, mapping, "/etc/sv/iofog-connector/run", by_runit, lambda: root.install(PACKAGE))

    step("runit: settings with a fault are not tried again and again")
    root("sv", "-w", "60", "stop", "iofog-connector")
    with faulty(root):
        root("sv", "up", "iofog-connector")
        wanted_down = lambda: "normally up" in root("sv", "status", "iofog-connector", ok=None)[1]
        wait_for("runit to let it be", wanted_down)
        expect("the daemon", root.daemon(), None)

    step("runit: where the lock is no file, nothing hangs, and it serves once that is mended")
    lock = root.file("/run/iofog-connector/iofog-connector.lock")
    os.remove(lock)
    os.mkfifo(lock)
    root("sv", "up", "iofog-connector")
    tried = set()

    def is_tried_again():
        tried.update(re.findall(r"pid \d+", root("sv", "status", "iofog-connector", ok=None)[1]))
        return len(tried) > 1

    wait_for("another try", is_tried_again)
    os.remove(lock)
    root("sv", "start", "iofog-connector")

    step("runit: a stop waits for as long as the setting drain allows")
    stop_drains(root, ("sv", "-w", "60", "stop", "iofog-connector"))
    root("service", "iofog-connector", "stop")
    root("apt-get", "purge", "-y", "iofog-connector")


def restart(root):
    """Restarts the daemon of an archive by what its init system has for that."""
    if os.path.exists(root.file("/etc/systemd/system/iofog-connector.service")):
        root("systemctl", "restart", "iofog-connector")
    elif os.path.exists(root.file("/etc/sv/iofog-connector")):
        root("sv", "-w", "60", "restart", "iofog-connector")
    else:
        root("/etc/init.d/iofog-connector", "restart")
    wait_for("the daemon", lambda: root("iofog-connector", "status", ok=None)[0] == 0)


def edit_settings(root):
    """Sets `drain` as an operator would: the file, and what it holds now."""
    conf = root.file("/etc/iofog-connector/iofog-connector.conf")
    with open(conf, encoding="utf-8") as file:
        edited = file.read().replace('"dev":true', '"dev":true,\n"drain":4000')
    with open(conf, "w", encoding="utf-8") as file:
        file.write(edited)
    return conf, edited


def put_another_program(root):
    """In the place of the one that install.sh has installed."""
    program = root.file("/usr/local/bin/iofog-connector")
    # An ELF file may be longer than it says.
    shutil.copy(program, program + ".other")
    with open(program + ".other", "ab") as file:
        file.write(b"another")
    os.rename(program + ".other", program)


def from_the_archive(root):
    """install.sh in a system with or without an init system, by its archive; Debian's package is not there."""
    tools = "/root/archive"
    os.mkdir(root.file(tools))
    archive = shutil.copy(PACKAGE, root.file(tools))
    shutil.copy("dist/install.sh", root.file(tools))
    archive = f"{tools}/{os.path.basename(PACKAGE)}"
    sums = root.file(f"{tools}/SHA256SUMS")

    def install(*options, ok=True):
        return root("sh", f"{tools}/install.sh", *options, archive, ok=ok)

    def installed():
        return os.path.exists(root.file("/usr/local/bin/iofog-connector"))

    if NAME == "busybox-armv6":
        expect("the processor", root("uname", "-m").strip(), "armv6l")
    step("install.sh refuses what is not as SHA256SUMS says, before it touches anything")
    with open(sums, "w", encoding="ascii") as file:
        file.write(f"{'0' * 64}  {os.path.basename(PACKAGE)}\n")
    said = install(ok=False)
    expect("it says why", "is not what SHA256SUMS says" in said, True)
    with open(sums, "w", encoding="ascii") as file:
        file.write(f"{hashlib.sha256(read(PACKAGE)).hexdigest()}  {os.path.basename(PACKAGE)}\n")
    said = install("--key", "/root/key", ok=False)
    expect("a key without a signature", "there is no" in said and "SHA256SUMS.sig" in said, True)
    expect("installed", installed(), False)

    step("install.sh says first what it will do, and with --dry-run does nothing")
    said = install("--dry-run")
    for words in ("Checked: ", "add the user iofog-connector", "write /usr/local/bin/iofog-connector"):
        expect(f"the plan has {words!r}", words in said, True)
    expect("installed", installed(), False)

    step("install.sh installs it, starts the daemon, and says that a shell does not find it where that is so")
    said = root("env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", f"{tools}/install.sh", archive)
    expect("a word about PATH", "/usr/local/bin is not in PATH" in said, True)
    wait_for("the daemon", lambda: root("iofog-connector", "status", ok=None)[0] == 0)
    expect("the owner of the settings", root.mode("/etc/iofog-connector"), "root iofog-connector 1770")
    expect("the owner of tunnels", root.mode("/etc/iofog-connector/tunnels"), "root iofog-connector 750")
    user = root("grep", "^iofog-connector:", "/etc/passwd").strip().split(":")
    group = root("grep", "^iofog-connector:", "/etc/group").split(":")
    expect("the user's group, name and home", user[3:6], [group[2], "ioFog Connector", "/nonexistent"])
    expect("the user's shell", os.path.basename(user[6]) in ("nologin", "false"), True)
    mapping = add_mapping()
    expect_served(mapping)
    expect_served_by_version_2(mapping)
    expect("what check says", root("iofog-connector", "check").split("\n")[-2:], ["ok", ""])

    step("a second run finds nothing to do")
    expect("what it says", "nothing to do" in install(), True)
    for option in ("--dry-run", "--uninstall"):
        said = install("--prefix", "/opt", option, ok=False)
        expect(f"of another prefix, with {option}", "is installed in /usr/local: give --prefix" in said, True)

    if root.kind != "init":
        step("it is back after a boot")
        is_back_after_a_boot(root, mapping)

    if NAME in WATCHED_BY:
        step("a daemon that was killed is back")
        before = root.daemon()
        os.kill(before, signal.SIGKILL)
        wait_for("the next one", lambda: root.daemon() not in (None, before) and root("iofog-connector", "status", ok=None)[0] == 0)
        expect_served(mapping)

    step("one file carries users to a service, with the tunnels' service")
    one_file(root)

    step("with TLS, as between two machines: sessions of version 1 and 2, and of the program's own tunnels")
    conf = root.file("/etc/iofog-connector/iofog-connector.conf")
    # Its own port, where the init system can give it the right to that.
    api = 8080 if NAME.startswith("busybox") else 443
    with Replaced(conf, '"dev":true', f'"dev":false,"api":"127.0.0.1:{api}"'):
        restart(root)
        tls = ssl.create_default_context(cafile=root.file("/etc/iofog-connector/server-cert.pem"))
        secret = add_mapping(tls, api)
        expect_served(secret, tls)
        expect_served_by_version_2(secret, tls)
        one_file(root, "--users", "plain")
        expect("what check says", root("iofog-connector", "check").split("\n")[-2:], ["ok", ""])
    restart(root)

    step("another program takes the place; settings that were changed stay, and so does a changed service")
    conf, edited = edit_settings(root)
    put_another_program(root)
    service = next(
        path
        for path in ("/etc/systemd/system/iofog-connector.service", "/etc/sv/iofog-connector/run", "/etc/init.d/iofog-connector")
        if os.path.exists(root.file(path))
    )
    with open(root.file(service), "a", encoding="utf-8") as file:
        file.write("# an operator's\n")
    # As of an earlier release.
    with open(root.file("/usr/local/share/iofog-connector/installed"), "r+", encoding="ascii") as file:
        old = file.read()
    told = {"systemd": by_service, "openrc": by_openrc, "runit": by_runit}.get(WATCHED_BY.get(NAME), by_script)
    said = install() if EMULATED else keeps_a_session(root, mapping, install, told)
    expect("the program", "replace /usr/local/bin/iofog-connector" in said, True)
    expect("a word about PATH", "PATH" in said, False)
    wait_for("the daemon", lambda: root("iofog-connector", "status", ok=None)[0] == 0)
    expect_served(mapping)
    expect("the settings", read(conf).decode(), edited)
    expect("the changed service", read(root.file(service)).decode().endswith("# an operator's\n"), True)
    expect("the new one beside it", os.path.exists(root.file(f"{service}.new")), True)
    expect("the list names what it did", old in read(root.file("/usr/local/share/iofog-connector/installed")).decode(), False)
    expect("what a third run says", "nothing to do" in install(), True)
    if not EMULATED:
        obeys(root, mapping, told)
        step("tunnels run another program, too; for a file with a fault they stay as they are, and the daemon does not")
        renews_tunnels(root, install)

    if NAME in ("openrc", "runit"):
        step("where the daemon itself is watched, as by an earlier service, another program restarts it, and there are not two")
        put_another_program(root)
        watched_itself(root, mapping, service, told, install)

    step("--uninstall takes away what it has put there, and leaves settings and state")
    root("iofog-connector", "mapping", "add", "public", "--name", "again", "--dir", "/root")
    root("iofog-connector", "tunnel", "install", "/root/again.tunnel", "--target", "127.0.0.1:9")
    said = root("sh", f"{tools}/install.sh", "--uninstall")
    expect("the changed service stays", f"{service} was changed here" in said, True)
    expect("the daemon", root("sh", "-c", "! pidof iofog-connector", ok=None)[0], 0)
    os.remove(root.file(service))
    for name in ("iofog-connector.conf", "configs.json"):
        expect(f"{name} after that", os.path.exists(root.file(f"/etc/iofog-connector/{name}")), True)
    left = root("find", "/etc", "/usr", "/run", "-xdev", "-name", "*iofog-connector*").split()
    left = [path for path in left if not path.startswith(("/etc/iofog-connector", "/run/iofog-connector"))]
    # runit's own notes beside the file that stays.
    expect("files left", [path for path in left if path != "/etc/sv/iofog-connector"], [])
    expect("a second time", "nothing to do" in root("sh", f"{tools}/install.sh", "--uninstall"), True)

    step("installed again, it runs the tunnels of before, or says what does")
    said = install()
    if WATCHED_BY.get(NAME) == "systemd":
        expect("what it says", "systemctl enable --now iofog-connector-tunnels" in said, True)
    else:
        wait_for("the tunnels", lambda: root("iofog-connector", "tunnels", "status", ok=None)[0] == 0)


def renews_tunnels(root, install):
    service = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=echo, args=(service,), daemon=True).start()
    users = installed_tunnel(root, "two", service.getsockname()[1])
    wait_for("an echo through the pipe", lambda: echoed(users))
    bad = root.file("/etc/iofog-connector/tunnels/bad.conf")
    with open(bad, "w", encoding="ascii") as file:
        file.write("nonsense\n")
    put_another_program(root)
    daemon, tunnels = serving(root), serving(root, "iofog-connector-tunnels")
    said = install()
    expect("it says why", "keep running" in said and "bad.conf" in said, True)
    expect("the tunnels' process", serving(root, "iofog-connector-tunnels"), tunnels)
    expect("another daemon serves", serving(root) not in ("", daemon), True)
    if WATCHED_BY.get(NAME) not in ("systemd", "runit"):
        said = root("/etc/init.d/iofog-connector-tunnels", "restart", ok=False)
        expect("a restart says why", "bad.conf" in said, True)
        expect("the process after a restart", serving(root, "iofog-connector-tunnels"), tunnels)
    os.remove(bad)
    put_another_program(root)
    install()
    wait_for("an echo after that", lambda: echoed(users))
    expect("another process has the tunnels", serving(root, "iofog-connector-tunnels") not in ("", tunnels), True)
    if WATCHED_BY.get(NAME) == "systemd":
        unit = "iofog-connector-tunnel@two"
        root("systemctl", "disable", "--now", "iofog-connector-tunnels")
        root("systemctl", "start", unit)
        put_another_program(root)
        before = shown(root, unit, "MainPID")
        install()
        expect("another process has the tunnel of its own unit", shown(root, unit, "MainPID") not in ("0", before), True)
        expect("the unit of all tunnels", state_of(root, "iofog-connector-tunnels"), "inactive")
    root("iofog-connector", "tunnel", "remove", "two")
    root("iofog-connector", "mapping", "remove", "two", "--dir", "/root")


def in_a_system_that_does_not_run(root):
    """As by chroot, where somebody prepares the image of a machine."""
    step("where the system's own init system does not run, install.sh says how the system is prepared for it")
    tools = "/root/archive"
    os.mkdir(root.file(tools))
    archive = shutil.copy(PACKAGE, root.file(tools))
    shutil.copy("dist/install.sh", root.file(tools))
    archive = f"{tools}/{os.path.basename(PACKAGE)}"
    said = root("sh", f"{tools}/install.sh", "--dry-run", archive)
    expect("what it says", f"give --init {WATCHED_BY[NAME]} --no-start" in said, True)
    said = root("sh", f"{tools}/install.sh", "--init", WATCHED_BY[NAME], "--no-start", archive)
    expect("what it says then", "--no-start" in said, False)
    expect("the service", read(root.file("/etc/init.d/iofog-connector")).startswith(b"#!/sbin/openrc-run"), True)
    expect("the daemon", root("iofog-connector", "status", ok=None)[0], 3)


# How an operator tells the service to do something.


def by_service(verb):
    return ("service", "iofog-connector", verb)


def by_script(verb):
    return ("/etc/init.d/iofog-connector", verb)


def by_openrc(verb):
    return ("rc-service", "iofog-connector", verb)


def by_runit(verb):
    return ("sv", "-w", "60", verb, "iofog-connector")


def serving(root, folder="iofog-connector"):
    """The process that serves, by the lock, as the system numbers it."""
    return read(root.file(f"/run/{folder}/iofog-connector.lock")).decode().strip()


def keeps_a_session(root, mapping, upgrade, service):
    """`upgrade` puts another process into the daemon's place: no port is closed meanwhile, a session goes on, and the
    service knows the new process."""
    before, serves = root.daemon(), serving(root)
    with session(mapping) as (agent, user):
        with Outage(mapping) as outage:
            said = upgrade()
        print(f"       upgrade: {outage.seconds:.2f} s without service")
        expect("how often the port was closed", outage.refused, 0)
        expect("the session's process", root.daemon(), before)
        expect("another process serves", serving(root) not in ("", serves), True)
        root(*service("status"))
        agent.sendall(b"pong")
        expect("what the user reads", user.recv(64), b"pong")
        expect_served(mapping)
    wait_for("the end of the old process", lambda: root.daemon() not in (None, before))
    return said


def obeys(root, mapping, service):
    """The service finds the daemon after an upgrade: for a reload, a restart, a stop."""
    before = root.daemon()
    root(*service("reload"))
    expect_served(mapping)
    expect("the process after a reload", root.daemon(), before)
    root(*service("restart"))
    wait_for("service", lambda: authorized(mapping["port1"], mapping["passcode1"]))
    expect("a new process after a restart", root.daemon() not in (None, before), True)
    # What is started is upgraded again, so that the stop has another process to find.
    root("iofog-connector", "upgrade")
    root(*service("stop"))
    wait_for("the end of it", lambda: root.daemon() is None)
    expect("the port after a stop", reachable(mapping["port1"]), False)
    root(*service("start"))
    wait_for("service", lambda: authorized(mapping["port1"], mapping["passcode1"]))


def is_back_after_a_boot(root, mapping):
    root.boot_again()
    wait_for("the daemon", lambda: root("iofog-connector", "status", ok=None)[0] == 0)
    expect_served(mapping)


def sysvinit_runs_it(root):
    step("sysvinit: the package's daemon is there after a boot; an upgrade cuts no session, and the script knows the new process")
    root.install(PACKAGE)
    wait_for("the daemon", root.daemon)
    mapping = add_mapping()
    is_back_after_a_boot(root, mapping)
    keeps_a_session(root, mapping, lambda: root.install(PACKAGE), by_service)
    obeys(root, mapping, by_service)
    root("apt-get", "purge", "-y", "iofog-connector")


def upgrade_by_init_script(root):
    step("the init script's daemon: an upgrade closes no port and cuts no session, and the script knows the new process")
    root.install(PACKAGE)
    wait_for("the daemon", root.daemon)
    mapping = add_mapping()
    keeps_a_session(root, mapping, lambda: root.install(PACKAGE), by_service)
    obeys(root, mapping, by_service)

    step("where /run is full, too")
    with FullRun(root):
        keeps_a_session(root, mapping, lambda: root.install(PACKAGE), by_service)
        root(*by_service("stop"))
        expect("the daemon after a stop", root.daemon(), None)
    root(*by_service("start"))

    step("a new program that does not take the place is started by the init script")
    refuses = """#!/bin/sh
if [ "$1" = start ] && [ -e /tmp/once/refuse ]; then
    rm /tmp/once/refuse
    exit 1
fi
exec /usr/lib/iofog-connector/iofog-connector "$@"
"""
    root("install", "-d", "-o", "iofog-connector", "/tmp/once")
    root("touch", "/tmp/once/refuse")
    before = serving(root)
    root.install(broken_package(refuses))
    expect("it was asked to take the place", os.path.exists(root.file("/tmp/once/refuse")), False)
    expect("another process serves", serving(root) not in ("", before), True)
    expect_served(mapping)
    root("apt-get", "purge", "-y", "iofog-connector")


class FullRun:
    """/run is full as long as a block runs: what is given back there is taken again at once."""

    def __init__(self, root):
        self.run = root.file("/run")
        self.file = os.open(f"{self.run}/filled", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.fill)

    def fill(self):
        while not self.done.is_set():
            try:
                os.write(self.file, bytes(4096))
            except OSError:
                time.sleep(0.0001)

    def __enter__(self):
        run("mount", "-o", "remount,size=4m", self.run)
        self.thread.start()
        wait_for("it to be full", lambda: os.statvfs(self.run).f_bfree == 0)

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        os.close(self.file)
        os.remove(f"{self.run}/filled")


def watched_itself(root, mapping, file, service, upgrade):
    """Where a supervisor watches the daemon itself, as by a service of before the stand-in, an upgrade restarts it."""
    root(*service("stop"))
    wait_for("the end of the daemon", lambda: root.daemon() is None)
    with open(root.file(file), encoding="utf-8") as old:
        good = old.read()
    with open(root.file(file), "w", encoding="utf-8") as new:
        new.write(re.sub(r"/usr/\S*/stand-in (?=/usr/)", "", good))
    root(*service("start"))
    wait_for("service", lambda: authorized(mapping["port1"], mapping["passcode1"]))
    before = root.daemon()
    upgrade()
    wait_for("another process", lambda: root.daemon() not in (None, before))
    wait_for("service", lambda: authorized(mapping["port1"], mapping["passcode1"]))
    parent = read(f"/proc/{root.daemon()}/status").decode().split("PPid:")[1].split()[0]
    expect("its parent", read(f"/proc/{parent}/comm").decode().strip() in ("runsv", "supervise-daemo"), True)
    with open(root.file(file), "w", encoding="utf-8") as new:
        new.write(good)
    root(*service("restart"))
    wait_for("service", lambda: authorized(mapping["port1"], mapping["passcode1"]))


def shown(root, unit, property):
    return root("systemctl", "show", "--value", "-p", property, unit).strip()


def errors(root, unit):
    return root("journalctl", "--no-pager", "-p", "err", "-u", unit)


def upgrade_in_place(root):
    unit = "iofog-connector"
    step("systemd: an upgrade closes no port and cuts no session")
    root.install(PACKAGE)
    mapping = add_mapping()
    restarts = shown(root, unit, "NRestarts")
    keeps_a_session(root, mapping, lambda: root.install(PACKAGE), by_service)
    expect("the unit's main process serves", shown(root, unit, "MainPID"), serving(root))
    expect("restarts", shown(root, unit, "NRestarts"), restarts)
    expect("the state of the unit", state_of(root, unit), "active")
    expect("what the service manager shows", "serving" in shown(root, unit, "StatusText"), True)
    root("systemctl", "reload", unit)
    expect("what the service manager reloads", state_of(root, unit), "active")

    step("systemd: a new process that is killed is followed by another at once, though the old one carries a session")
    conf = root.file("/etc/iofog-connector/iofog-connector.conf")
    with Replaced(conf, '"dev":', '"drain":600000,"dev":'):
        root("systemctl", "restart", unit)
        with session(mapping):
            root("iofog-connector", "upgrade")
            new = serving(root)
            root("sh", "-c", f"kill -KILL {new}")
            wait_for("the next one", lambda: shown(root, unit, "MainPID") not in ("0", new) and state_of(root, unit) == "active")
            expect_served(mapping)
    root("systemctl", "restart", unit)
    root("iofog-connector", "mapping", "remove", mapping["id"])


def faults_under_systemd(root):
    unit = "iofog-connector"
    step("systemd: settings with a fault: reload ends with an error, an upgrade leaves the daemon running")
    root.install(PACKAGE)
    before = root.daemon()
    root("systemctl", "reload", unit)
    with faulty(root):
        root("systemctl", "reload", unit, ok=False)
        expect("the journal says why, as an error", says_why(errors(root, unit)), True)
        expect("the process after a reload", root.daemon(), before)
        said = root.install(PACKAGE)
        expect("the upgrade says why", says_why(said), True)
        expect("the upgrade says what runs", "keeps running the program of before" in said, True)
        expect("the process after an upgrade", root.daemon(), before)
    root("systemctl", "reload", unit)
    root.install(PACKAGE)
    wait_for("the new process", lambda: root.daemon() not in (None, before))

    step("systemd: a start that fails is an error in the journal")
    root("journalctl", "--rotate", "--vacuum-time=1s")
    with faulty(root):
        root("systemctl", "restart", unit, ok=False)
        expect("the journal says why, as an error", says_why(errors(root, unit)), True)
    root("systemctl", "start", unit)

    step("systemd: back at once after a crash; what may pass is tried once a second")
    expect("the pause", shown(root, unit, "RestartUSec"), "250ms")
    root("systemctl", "stop", unit)
    # Another daemon has the folder.
    other = threading.Thread(
        target=root,
        args=("setpriv", "--reuid=iofog-connector", "--regid=iofog-connector", "--clear-groups", "iofog-connector", "start", "--run", "/tmp/other"),
        kwargs={"ok": None},
    )
    root("install", "-d", "-o", "iofog-connector", "/tmp/other")
    other.start()
    wait_for("the other daemon", root.daemon)
    pid = root.daemon()
    wait_for("its API", lambda: root("iofog-connector", "status", "--run", "/tmp/other", ok=None)[0] == 0)
    begun = time.monotonic()
    root("systemctl", "start", unit, ok=False)
    wait_for("restarts", lambda: int(shown(root, unit, "NRestarts")) >= 2)
    count = int(shown(root, unit, "NRestarts"))
    expect("at most one each second", count <= time.monotonic() - begun, True)
    os.kill(pid, signal.SIGTERM)
    other.join()
    wait_for("the daemon", lambda: state_of(root, unit) == "active")

    step("systemd: a stop waits for as long as the setting drain allows, beyond systemd's own limit")
    drop_in = root.file(f"/etc/systemd/system/{unit}.service.d")
    os.mkdir(drop_in)
    with open(f"{drop_in}/short.conf", "w", encoding="ascii") as file:
        file.write("[Service]\nTimeoutStopSec=2\n")
    root("systemctl", "daemon-reload")
    stop_drains(root, ("systemctl", "stop", unit))

    step("systemd: without a folder of settings, a start fails once, and says why")
    for one, verb in ((unit, "restart"), ("iofog-connector-tunnels", "start")):
        etc = root.file("/etc/iofog-connector")
        os.rename(etc, etc + ".away")
        root("systemctl", verb, one, ok=False)
        expect(f"status of {one}", shown(root, one, "ExecMainStatus"), "2")
        expect(f"state of {one}", state_of(root, one), "failed")
        expect(f"restarts of {one}", shown(root, one, "NRestarts"), "0")
        expect(f"{one} says why", "/etc/iofog-connector" in errors(root, one), True)
        if os.path.exists(etc):
            os.rmdir(etc)
        os.rename(etc + ".away", etc)
    root("systemctl", "start", unit)

    step("systemd: a tunnel may listen on a port below 1024")
    root("iofog-connector", "mapping", "add", "private", "--name", "low", "--dir", "/root")
    file = next(name for name in os.listdir(root.file("/root")) if name.startswith("low") and name.endswith(".tunnel"))
    root("iofog-connector", "tunnel", "install", f"/root/{file}", "--listen", "127.0.0.1:81")
    wait_for("the port", lambda: reachable(81))

    step("systemd: purge leaves no link of a tunnel")
    root("systemctl", "enable", "iofog-connector-tunnel@low")
    root("apt-get", "purge", "-y", unit)
    left = root("find", "/etc/systemd", "/var/lib/systemd", "/etc/rc2.d", "/etc/init.d", "/run/systemd", "-name", "*iofog-connector*")
    left = [path for path in left.split() if ".service.d" not in path]
    expect("what is left", left, [])


def one_file(root, *options):
    """What the README says, on one machine: a mapping, its file, and that installed."""
    service = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=echo, args=(service,), daemon=True).start()
    users = installed_tunnel(root, "one", service.getsockname()[1], *options)
    wait_for("an echo through the pipe", lambda: echoed(users))
    state = root("iofog-connector", "tunnels", "status")
    expect("the status shows the tunnel", "one" in state and "connected" in state, True)
    said = root("iofog-connector", "tunnel", "remove", "one")
    expect("the service is stopped with its last tunnel", "the service is stopped until the next one" in said, True)
    expect("the installed file", os.path.exists(root.file("/etc/iofog-connector/tunnels/one.conf")), False)
    wait_for("the end of it", lambda: not echoed(users))
    expect("the status of tunnels", root("iofog-connector", "tunnels", "status", ok=None)[0], 3)
    root("iofog-connector", "mapping", "remove", "one", "--dir", "/root")
    expect("the mapping's file", os.path.exists(root.file("/root/one.tunnel")), False)


def installed_tunnel(root, name, port, *options):
    """A mapping with these options, its file, and that installed, for a service at this port. Gives the users' port."""
    file = f"/root/{name}.tunnel"
    root("iofog-connector", "mapping", "add", "public", "--name", name, *options, "--dir", "/root")
    expect("the tunnel's file", root.mode(file), "root root 600")
    root("iofog-connector", "tunnel", "install", file, "--target", f"127.0.0.1:{port}")
    installed = f"/etc/iofog-connector/tunnels/{name}.conf"
    expect("where the service reads it", root.mode(installed), "root iofog-connector 640")
    state = json.loads(root("iofog-connector", "status", "--json"))
    mapping = next(one for one in state["mappings"] if one["options"].get("name") == name)
    return mapping["sides"][1]["port"]


def upgrade_restarts(root, unit, users):
    before = root("systemctl", "show", "--value", "-p", "MainPID", unit)
    root.install(PACKAGE)
    wait_for("an echo after the upgrade", lambda: echoed(users))
    after = root("systemctl", "show", "--value", "-p", "MainPID", unit)
    expect(f"{unit} runs the new program", before != after, True)


def state_of(root, unit):
    return root("systemctl", "is-active", unit, ok=None)[1].strip()


def echo(service):
    while True:
        peer, _ = service.accept()
        with peer:
            while data := peer.recv(64):
                peer.sendall(data)


def echoed(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as user:
            user.sendall(b"ping")
            return user.recv(64) == b"ping"
    except OSError:
        return False


raise_loopback()
OPEN_FILES = open_files()
STORIES = [("init", life), ("init", upgrade_from_java)]
if not EMULATED:
    STORIES += [("init", switched_off_stays_off), ("init", enabled_tunnels_run_again), ("init", refusals)]
    STORIES += [("init", faults_end_no_daemon_that_works), ("init", upgrade_by_init_script)]
if NAME in ("bookworm", "trixie"):
    STORIES += [("systemd", life), ("systemd", upgrade_from_java), ("systemd", systemd_manages_it)]
    STORIES += [("systemd", upgrade_in_place), ("systemd", faults_under_systemd)]
if NAME == "sysvinit":
    STORIES += [("sysvinit", sysvinit_runs_it)]
if NAME == "openrc":
    STORIES = [("openrc", openrc_runs_it)]
if NAME == "runit":
    STORIES = [("runit", runit_runs_it)]
if ARCHIVE:
    STORIES = [("sysvinit" if NAME == "sysvinit" else WATCHED_BY.get(NAME, "init"), from_the_archive)]
    if NAME == "alpine":
        STORIES += [("init", in_a_system_that_does_not_run)]
for kind, story in STORIES:
    if WANTED and story.__name__ not in WANTED:
        continue
    if kind == "systemd" and not control_groups():
        reason = "packages under systemd: this machine gives no control groups (cgroup2) to manage"
        print(f"  skipped: {reason}", flush=True)
        if "IOFOG_CONNECTOR_IGNORED" in os.environ:
            with open(os.environ["IOFOG_CONNECTOR_IGNORED"], "a", encoding="utf-8") as file:
                file.write(f"{reason}\n")
        break
    print(f"   {story.__name__.replace('_', ' ')} ({kind})", flush=True)
    system = Root(kind)
    try:
        story(system)
    finally:
        system.close()
print(f"  {STEPS} steps passed", flush=True)
