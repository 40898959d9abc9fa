"""Builds what is measured and what measures, and installs what they need."""

import os
import shutil
import subprocess
import sys

from . import relays

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# The peers that are built from source: crate, program, options. rathole's other features need
# OpenSSL's headers and are not measured.
CRATES = [("bore-cli", "bore", []),
          ("rathole", "rathole", ["--no-default-features", "--features", "server,client"])]


def everything(name, peers):
    """The daemon, the load generator and, if asked for, the peers; works in build/`name`."""
    folder = os.path.join(ROOT, "build", name)
    os.makedirs(folder, exist_ok=True)
    run("cargo", "build", "--release", "--locked", "--bin", "iofog-connector")
    run("cargo", "build", "--release", "--locked", "--manifest-path",
        "benches/loadgen/Cargo.toml", "--target-dir", "target/loadgen")
    installed = os.path.join(ROOT, "build", "peers")
    if peers:
        install("haproxy")
        for crate, program, options in CRATES:
            if not os.path.exists(os.path.join(installed, "bin", program)):
                run("cargo", "install", "--root", installed, crate, *options)
    install("openssl")
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    return relays.Context(folder, os.path.join(target, "release", "iofog-connector"),
                          os.path.join(ROOT, "target", "loadgen", "release", "loadgen"), installed)


def run(*words):
    subprocess.run(words, cwd=ROOT, check=True, stdout=sys.stderr)


def install(program):
    """With apt-get, where it is missing."""
    if shutil.which(program) is None:
        words = ["apt-get", "install", "-y", "--no-install-recommends", program]
        if os.geteuid() != 0:
            words = ["sudo", *words]
        subprocess.run(words, check=True, stdout=sys.stderr,
                       env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))
