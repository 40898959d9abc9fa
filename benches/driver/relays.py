"""The relays that are measured: how each is started, and where its users connect."""

import json
import os
import shutil
import subprocess
import time

from . import machine

BACKEND = 21000
SPLICE = 21010
HAPROXY = 21020
HAPROXY_INNER = 21021
RATHOLE = 21030
RATHOLE_USERS = 21031
BORE = 21040
# bore's control port cannot be chosen.
BORE_CONTROL = 7835
API = 21050
TUNNELS = 21100
USERS = 21101
LAST_PORT = 22200

PASSCODE = "3f2b8c1e-0000-4000-8000-000000000000"

# Tunnels that the stand-in agent keeps ready: more than the connection test uses up while a
# version 1 session lingers (protocol page, section 6).
READY = 1000


class Context:
    """Folders and programs that all relays share."""

    def __init__(self, folder, daemon, loadgen, peers):
        self.folder, self.daemon, self.loadgen, self.peers = folder, daemon, loadgen, peers

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        return path

    def peer(self, name):
        path = os.path.join(self.peers, "bin", name)
        return path if os.path.exists(path) else shutil.which(name)

    def start_backend(self, prefix=()):
        backend = machine.Process([*prefix, self.loadgen, "backend", "--listen", BACKEND],
                                  self.path("backend.log"))
        machine.wait_for_port(BACKEND)
        return backend

    def certificate(self):
        """A self-signed P-256 certificate and its key."""
        certificate, key = self.path("cert.pem"), self.path("key.pem")
        if not os.path.exists(certificate):
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", certificate,
                 "-days", "3650", "-subj", "/CN=localhost",
                 "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
        return certificate, key


class Relay:
    """One way for users to reach the backend."""

    title = name = ""
    # Whether users speak TLS, and whether there is any.
    tls = sealed = False
    # The same for all whose peers can choose.
    cipher = "aes128"
    port = BACKEND

    def __init__(self, context):
        self.context, self.running = context, []

    def start(self):
        """Starts it; the first process that is started is the one that is measured."""

    def stop(self):
        for process in reversed(self.running):
            process.stop()
        self.running = []

    @property
    def pid(self):
        return self.running[0].pid if self.running else None

    def run(self, command, **options):
        process = machine.Process(command, self.context.path(f"{self.name}.log"), **options)
        self.running.append(process)
        return process

    def client_options(self):
        return ["--tls", "--cipher", self.cipher] if self.tls else []

    def resident_kb(self):
        return machine.resident_kb(self.pid)

    def startup(self):
        """Ports and command for the start-up test, or nothing."""

    def binary(self):
        """The measured program's file, or nothing."""


class Direct(Relay):
    name, title = "direct", "none (direct loopback)"


class Splice(Relay):
    name, title, port = "splice", "bare splice(2) relay, one thread", SPLICE

    def start(self):
        self.run([self.context.loadgen, "splice", "--listen", SPLICE, "--target", BACKEND])
        machine.wait_for_port(SPLICE)


class Haproxy(Relay):
    name, title, port = "haproxy", "HAProxy", HAPROXY
    option = ""
    # On the user's leg, on the server's leg.
    legs = (False, False)

    def listener(self, port, tls, to, to_tls):
        certificate, key = self.context.certificate()
        pem = self.context.write("haproxy.pem", machine.read(certificate) + machine.read(key))
        bind = (f" ssl crt {pem} ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256"
                if tls else "")
        server = (" ssl verify none no-ssl-reuse force-tlsv13 "
                  "ciphersuites TLS_AES_128_GCM_SHA256" if to_tls else "")
        return self.context.write(f"{self.name}-{port}.cfg", f"""global
    maxconn 2500
defaults
    mode tcp
    {self.option}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen relay
    bind 127.0.0.1:{port}{bind}
    server backend 127.0.0.1:{to}{server}
""")

    def startup(self):
        to = HAPROXY_INNER if self.legs[1] else BACKEND
        return [HAPROXY], ["haproxy", "-db", "-f", self.listener(HAPROXY, self.legs[0], to,
                                                                self.legs[1])]

    def start(self):
        self.run(self.startup()[1])
        if self.legs[1]:
            # What speaks TLS to it, as an agent does to the connector; not measured.
            inner = self.listener(HAPROXY_INNER, True, BACKEND, False)
            self.run(["haproxy", "-db", "-f", inner])
            machine.wait_for_port(HAPROXY_INNER)
        machine.wait_for_port(HAPROXY)

    def binary(self):
        return shutil.which("haproxy")


class HaproxySplice(Haproxy):
    name, title, option = "haproxy-splice", "HAProxy, splice-auto", "option splice-auto"


class HaproxyTls(Haproxy):
    name, title, tls, legs = "haproxy-tls", "HAProxy, TLS on both legs", True, (True, True)
    sealed = True


class HaproxyTlsUser(Haproxy):
    name, title, tls, legs = "haproxy-tls-user", "HAProxy, TLS on the user's leg", True, (True, False)
    sealed = True


class Rathole(Relay):
    name, title, port = "rathole", "rathole server (plus its client)", RATHOLE_USERS
    env = {"RUST_LOG": "error"}
    # What both its ends are told of the way between them.
    transports = ("", "")

    def startup(self):
        config = self.context.write(f"{self.name}-server.toml", f"""[server]
bind_addr = "127.0.0.1:{RATHOLE}"
default_token = "t"
{self.transports[0]}
[server.services.a]
bind_addr = "127.0.0.1:{RATHOLE_USERS}"
nodelay = true
""")
        return [RATHOLE], [self.context.peer("rathole"), "--server", config]

    def start(self):
        client = self.context.write(f"{self.name}-client.toml", f"""[client]
remote_addr = "127.0.0.1:{RATHOLE}"
default_token = "t"
{self.transports[1]}
[client.services.a]
local_addr = "127.0.0.1:{BACKEND}"
nodelay = true
""")
        self.run(self.startup()[1], env=self.env)
        machine.wait_for_port(RATHOLE)
        self.run([self.context.peer("rathole"), "--client", client], env=self.env)
        machine.wait_for_port(RATHOLE_USERS)
        time.sleep(0.3)

    def binary(self):
        return self.context.peer("rathole")


class RatholeTls(Rathole):
    """Its library chooses the cipher: AES-256-GCM as a rule."""

    name, title, sealed = "rathole-tls", "rathole, TLS on the tunnel's leg", True

    def __init__(self, context):
        super().__init__(context)
        certificate, key = context.certificate()
        identity = context.path("identity.pfx")
        if not os.path.exists(identity):
            subprocess.run(["openssl", "pkcs12", "-export", "-inkey", key, "-in", certificate,
                            "-out", identity, "-passout", "pass:x"], check=True)
        self.transports = (f"""[server.transport]
type = "tls"
[server.transport.tls]
pkcs12 = "{identity}"
pkcs12_password = "x"
""", f"""[client.transport]
type = "tls"
[client.transport.tls]
trusted_root = "{certificate}"
hostname = "localhost"
""")


class Bore(Relay):
    name, title, port = "bore", "bore server (plus its client)", BORE

    def startup(self):
        return [BORE_CONTROL], [self.context.peer("bore"), "server", "--min-port", BORE,
                                "--max-port", BORE + 1, "--bind-addr", "127.0.0.1",
                                "--bind-tunnels", "127.0.0.1"]

    def start(self):
        env = {"RUST_LOG": "error"}
        self.run(self.startup()[1], env=env)
        machine.wait_for_port(BORE_CONTROL)
        self.run([self.context.peer("bore"), "local", BACKEND, "--to", "127.0.0.1",
                  "--port", BORE], env=env)
        machine.wait_for_port(BORE)
        time.sleep(0.2)

    def binary(self):
        return self.context.peer("bore")


class Connector(Relay):
    """The daemon, with the stand-in agent."""

    name, title, version, port = "connector-v1", "**connector**, version 1 tunnels", 1, USERS
    # For handshakes and relays; as many as there are processors, if not given.
    threads = None
    # As operators have it; valgrind's own calls are none of the sandbox's.
    sandbox = "on"

    def configure(self, mappings=1):
        """Settings and state in a folder of their own; gives the command to start it."""
        home = f"{self.name}-{mappings}"
        listed = [{
            "id": f"00000000-0000-4000-8000-{number:012}",
            "port1": TUNNELS + 2 * number, "port2": USERS + 2 * number,
            "maxconnectionsport1": 65535, "maxconnectionsport2": 0,
            "passcodeport1": PASSCODE, "passcodeport2": "",
            "heartbeatabsencethresholdport1": 200000, "heartbeatabsencethresholdport2": 0,
        } for number in range(mappings)]
        self.context.write(f"{home}/configs.json", json.dumps({"mappings": listed}))
        self.context.write(f"{home}/iofog-connector.conf", json.dumps({
            **({"threads": self.threads} if self.threads else {}), "ports": [f"{TUNNELS}-{LAST_PORT}"], "exclude": [], "broker": 5672,
            "address": "127.0.0.1", "dev": not self.tls, "api": f"127.0.0.1:{API}",
            "listen": "127.0.0.1", "loglevel": "warn", "sandbox": self.sandbox}))
        if self.tls:
            for source, name in zip(self.context.certificate(),
                                    ["server-cert.pem", "server-key.pem"]):
                path = self.context.path(f"{home}/{name}")
                shutil.copy(source, path)
                os.chmod(path, 0o600)
        path = self.context.path
        return [self.context.daemon, "--config", path(home), "--run", path(f"{home}/run"),
                "--log", path(f"{home}/log"), "--syslog", path(f"{home}/no-syslog"), "start"]

    def startup(self, mappings=0):
        ports = [API] + ([USERS + 2 * (mappings - 1)] if mappings else [])
        return ports, self.configure(mappings)

    def start_daemon(self, mappings=1):
        self.run(self.configure(mappings))
        machine.wait_for_port(API)
        machine.wait_for_port(TUNNELS)

    def agent_command(self, tunnels, port=TUNNELS):
        """The command for an agent that dials that port."""
        return [self.context.loadgen, "agent", "--target", port, "--passcode", PASSCODE,
                "--backend", BACKEND, "--connections", tunnels, "--version", self.version,
                *self.client_options()]

    def agent(self, tunnels=READY, prefix=()):
        """Starts an agent, and returns it once its tunnels are ready."""
        agent = self.run([*prefix, *self.agent_command(tunnels)], lines=True)
        agent.wait_for("READY")
        return agent

    def start(self):
        self.start_daemon()
        self.agent()

    def binary(self):
        return self.context.daemon


class ConnectorTwo(Connector):
    name, title, version = "connector-v2", "**connector**, version 2 tunnels", 2


class ConnectorTls(Connector):
    name, title, tls = "connector-tls-v1", "**connector**, TLS, version 1", True
    sealed = True


class ConnectorTlsTwo(ConnectorTwo):
    name, title, tls = "connector-tls-v2", "**connector**, TLS, version 2", True
    sealed = True


class ConnectorThree(Connector):
    name, title, version = "connector-v3", "**connector**, version 3 tunnels", 3


class ConnectorTlsThree(ConnectorThree):
    """Its agent offers version 3 in TLS, and its handshakes after the first are resumed."""

    name, title, tls = "connector-tls-v3", "**connector**, TLS, version 3", True
    sealed = True


class ConnectorThreeUncaged(ConnectorThree):
    """Measured only where it is named: what the sandbox costs."""

    name, title, sandbox = "connector-v3-off", "**connector**, version 3, `sandbox` off", "off"


class ConnectorTlsThreeUncaged(ConnectorTlsThree):
    name, title, sandbox = "connector-tls-v3-off", "**connector**, TLS, version 3, `sandbox` off", "off"


OURS = [Connector, ConnectorTwo, ConnectorThree, ConnectorTls, ConnectorTlsTwo, ConnectorTlsThree]
PEERS = [Haproxy, HaproxySplice, HaproxyTls, HaproxyTlsUser, Rathole, RatholeTls, Bore]
YARDSTICKS = [Direct, Splice]
ALL = YARDSTICKS + PEERS + OURS
BY_NAME = {relay.name: relay for relay in [*ALL, ConnectorThreeUncaged, ConnectorTlsThreeUncaged]}
