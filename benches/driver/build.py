"""Builds what is measured and what measures, and installs what they need."""

import os
import shutil
import subprocess
import sys

from . import relays

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# The peers that are built from source: crate, version, program, options. rathole's TLS is OpenSSL's.
CRATES = [("bore-cli", "0.6.0", "bore", []),
          ("rathole", "0.5.0", "rathole",
           ["--no-default-features", "--features", "server,client,tls"])]


def everything(name, peers):
    """The daemon, the load generator and, if asked for, the peers; works in build/`name`."""
    folder = os.path.join(ROOT, "build", name)
    os.makedirs(folder, exist_ok=True)
    run("cargo", "build", "--release", "--locked", "--bin", "iofog-connector")
    installed = os.path.join(ROOT, "build", "peers")
    if peers:
        install("haproxy")
        for crate, version, program, options in CRATES:
            if not os.path.exists(os.path.join(installed, "bin", program)):
                install("pkg-config")
                install("openssl", "libssl-dev", "/usr/include/openssl/ssl.h")
                run("cargo", "install", "--root", installed, "--version", version,
                    crate, *options)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    return relays.Context(folder, os.path.join(target, "release", "iofog-connector"),
                          load_generator(), installed)


def load_generator():
    run("cargo", "build", "--release", "--locked", "--manifest-path",
        "benches/loadgen/Cargo.toml", "--target-dir", "target/loadgen")
    install("openssl")
    return os.path.join(ROOT, "target", "loadgen", "release", "loadgen")


def run(*words):
    subprocess.run(words, cwd=ROOT, check=True, stdout=sys.stderr)


def install(program, package=None, file=None):
    """With apt-get, where the program or the file is missing."""
    if not os.path.exists(file) if file else shutil.which(program) is None:
        words = ["apt-get", "install", "-y", "--no-install-recommends", package or program]
        if os.geteuid() != 0:
            words = ["sudo", *words]
        subprocess.run(words, check=True, stdout=sys.stderr,
                       env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))
