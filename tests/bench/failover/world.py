"""Three Redis hosts and one for clients, each a network namespace of its own, joined by a bridge; and the programs on them.

A host can be cut off (its cable pulled: nothing is refused, nothing comes back), which a loopback address cannot. Needs root. Everything
made here is taken down by `close`, and every child dies with this process.
"""

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

PORT = 6379
SENTINEL_PORT = 26379
HOSTS = ("h1", "h2", "h3", "c1")
NOBODY = "02:00:00:00:00:fe"
_PR_SET_PDEATHSIG = 1
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def address(host):
    return f"10.83.0.{HOSTS.index(host) + 1}"


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def enter(namespace):
    """Moves the calling thread (and what it starts) into a network namespace."""
    with open(f"/run/netns/{namespace}", "rb") as handle:
        if _libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


class World:
    def __init__(self, folder):
        self.folder = Path(folder)
        self._prefix = f"hf{os.getpid()}"
        self._children = []
        self.redis = {}
        try:
            self._join()
        except BaseException:
            self.close()
            raise

    def namespace(self, host):
        return f"{self._prefix}-{host}"

    def _join(self):
        switch = self.namespace("sw")
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        for host in HOSTS:
            name = self.namespace(host)
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", host, "netns", switch)
            ip("-n", switch, "link", "set", host, "master", "br0", "up")
            ip("-n", name, "addr", "add", f"{address(host)}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")

    def cut(self, host):
        """Pulls the host's cable at the switch: packets vanish both ways."""
        ip("-n", self.namespace("sw"), "link", "set", host, "down")

    def mend(self, host):
        ip("-n", self.namespace("sw"), "link", "set", host, "up")

    def block(self, source, target):
        """Has what `source` sends to `target` vanish, one way: the address leads to a card that nobody has."""
        ip("-n", self.namespace(source), "neigh", "replace", address(target), "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")

    def unblock(self, source, target):
        ip("-n", self.namespace(source), "neigh", "del", address(target), "dev", "eth0")

    def start(self, host, label, words):
        """Starts a program on a host; its output goes to a log of that label."""
        namespace = self.namespace(host)
        log = open(self.folder / f"{label}.log", "ab")

        def prepare():
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            enter(namespace)

        child = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=prepare, cwd=self.folder)
        log.close()
        self._children.append(child)
        return child

    def start_redis(self, host, replica_of=None, **settings):
        """An instance without persistence, as Redis runs for chat; `settings` are redis.conf keys with _ for -."""
        words = ["redis-server", "--port", str(PORT), "--bind", address(host), "127.0.0.1", "--protected-mode", "no", "--save", ""]
        words += ["--appendonly", "no", "--repl-diskless-sync-delay", "0", "--repl-backlog-size", "64mb"]
        for key, value in settings.items():
            words += [f"--{key.replace('_', '-')}", str(value)]
        if replica_of:
            words += ["--replicaof", address(replica_of), str(PORT)]
        self.redis[host] = self.start(host, f"redis-{host}", words)
        self.pid_file(host).write_text(str(self.redis[host].pid))
        return self.redis[host]

    def pid_file(self, host):
        """Holds the process id of the server on that host."""
        return self.folder / f"redis-{host}.pid"

    def stop(self, child):
        """Ends a program at once."""
        if child.poll() is None:
            try:
                os.kill(child.pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
            child.kill()
        child.wait()

    def close(self):
        for child in self._children:
            self.stop(child)
        for host in (*HOSTS, "sw"):
            subprocess.run(["ip", "netns", "del", self.namespace(host)], capture_output=True, check=False)


def wait_for(what, condition, seconds=30):
    """Waits until `condition` gives something true; what it raised last is in the error."""
    end = time.monotonic() + seconds
    last = None
    while time.monotonic() < end:
        try:
            value = condition()
            if value:
                return value
            last = value
        except Exception as error:  # whatever went wrong is told if it does not go away
            last = error
        time.sleep(0.01)
    raise TimeoutError(f"{what}: not within {seconds} s ({last})")
