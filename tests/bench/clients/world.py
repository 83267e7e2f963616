"""A Redis primary with two replicas and a supervisor over them, on loopback. Every child dies with this process."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

NAME = "main"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


# What this process has taken, as `libs/ports` does it: a name in the abstract namespace is bound once, and goes with the process.
_claims = []
_PORTS = range(20_000, 32_000)


def free_port():
    """A port that nobody else gets while this process lives."""
    for step in range(len(_PORTS)):
        port = _PORTS[(os.getpid() * 97 + step) % len(_PORTS)]
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0holdfast-port-{port}")
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise RuntimeError("no port is free")


def start(words, log, stdout=None):
    def die_with_parent():
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    with open(log, "ab") as errors:
        return subprocess.Popen(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=stdout or errors,
            stderr=errors,
            preexec_fn=die_with_parent,
        )


def wait_for(what, condition, limit=60):
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit} s for: {what}")
        time.sleep(0.02)


class World:
    def __init__(self, folder, holdfast, hang_after="300ms"):
        self.folder = Path(folder)
        self.ports = [free_port() for _ in range(3)]
        self.sentinel = free_port()
        self.servers = {}
        for index, port in enumerate(self.ports):
            self.start_server(port, self.ports[0] if index else None)
        servers = ", ".join(f'"127.0.0.1:{port}"' for port in self.ports)
        pid_files = ", ".join(f'"{self.folder / str(port)}.pid"' for port in self.ports)
        (self.folder / "token").write_text("clients-failover\n")
        settings = self.folder / "holdfast.toml"
        settings.write_text(
            f'[supervisor]\nlisten = "127.0.0.1:{free_port()}"\ntoken_file = "token"\nstate_dir = "state"\n'
            f'[redis]\nname = "{NAME}"\nservers = [{servers}]\npid_files = [{pid_files}]\n'
            f'probe_interval = "50ms"\nprobe_timeout = "150ms"\nhang_after = "{hang_after}"\nfailover_cooldown = "0s"\n'
            f'[sentinel]\nlisten = "127.0.0.1:{self.sentinel}"\n'
        )
        subprocess.run([holdfast, "check-config", settings], check=True, stdout=subprocess.DEVNULL)
        self.supervisor = start([holdfast, "supervise", "--config", settings], self.folder / "holdfast.log")
        self.wait_until_whole()

    def start_server(self, port, follows=None):
        words = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", self.folder]
        words += ["--repl-diskless-sync-delay", "0", "--pidfile", self.folder / f"{port}.pid"]
        if follows:
            words += ["--replicaof", "127.0.0.1", follows]
        self.servers[port] = start(words, self.folder / f"redis-{port}.log")
        # Redis writes the file only as a daemon.
        (self.folder / f"{port}.pid").write_text(f"{self.servers[port].pid}\n")

    def ask(self, *words):
        """A command to the Sentinel-compatible endpoint; the lines of its answer."""
        done = subprocess.run(
            ["redis-cli", "-p", str(self.sentinel), *words], capture_output=True, text=True, timeout=60
        )
        return done.stdout.split("\n")

    def primary(self):
        return int(self.ask("sentinel", "get-master-addr-by-name", NAME)[1])

    def is_whole(self):
        master = self.ask("sentinel", "master", NAME)
        if len(master) < 2 or dict(zip(master[::2], master[1::2])).get("flags") != "master":
            return False
        return self.ask("sentinel", "replicas", NAME).count("ok") == len(self.ports) - 1

    def wait_until_whole(self):
        wait_for("a primary with two linked replicas", self.is_whole)
