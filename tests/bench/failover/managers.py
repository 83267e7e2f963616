"""The two managers under test. Each is started on a world of one primary and two replicas and found through the Sentinel protocol."""

import json
import subprocess
import urllib.request
from pathlib import Path

from world import PORT, SENTINEL_PORT, address, wait_for
from resp import Connection

NAME = "main"
REDIS_HOSTS = ("h1", "h2", "h3")
GROUP_PORT = 9096


class Sentinel:
    """Redis Sentinel as its documentation recommends: one on each of the three hosts, quorum 2."""

    name = "sentinel"

    def __init__(self, down_after_ms=1000):
        self._down_after_ms = down_after_ms
        self.processes = {}

    def start(self, world):
        for host in REDIS_HOSTS:
            path = world.folder / f"sentinel-{host}.conf"
            path.write_text(
                f"port {SENTINEL_PORT}\nbind {address(host)}\nprotected-mode no\n"
                f"sentinel monitor {NAME} {address('h1')} {PORT} 2\n"
                f"sentinel down-after-milliseconds {NAME} {self._down_after_ms}\n"
            )
            self.processes[host] = world.start(host, f"sentinel-{host}", ["redis-server", str(path), "--sentinel"])

    def endpoints(self):
        return [(address(host), SENTINEL_PORT) for host in ("h2", "h3", "h1")]

    def is_ready(self):
        """All three know of each other and of both replicas."""
        for host, port in self.endpoints():
            fields = _fields(Connection(host, port).call("SENTINEL", "MASTER", NAME))
            if fields["num-other-sentinels"] != "2" or fields["num-slaves"] != "2" or fields["flags"] != "master":
                return False
            for replica in Connection(host, port).call("SENTINEL", "REPLICAS", NAME):
                if _fields(replica)["flags"] != "slave":
                    return False
        return True

    def steps(self):
        """Sentinel keeps no account of its steps."""
        return {}


class Holdfast:
    """Holdfast's supervisors on some of the Redis hosts, everything at its defaults but the hang time-out (and the probes within it).

    Several form a group, which the first of `hosts` founds and leads. `local`: each sees the process of the server on its own host, as it
    does where it is installed beside it.
    """

    name = "holdfast"

    def __init__(self, program, hang_after_ms=300, hosts=("h2",), local=False):
        self._program = Path(program).resolve()
        self._hang_after_ms = hang_after_ms
        self._hosts, self._local = hosts, local
        self.processes = {}

    def start(self, world):
        self._token, self._secret = _secret(world.folder / "token"), _secret(world.folder / "secret")
        for host in self._hosts:
            path = world.folder / f"holdfast-{host}.toml"
            path.write_text(self._settings(world, host))
            subprocess.run([self._program, "check-config", path], check=True, stdout=subprocess.DEVNULL)
            words = [str(self._program), "supervise", "--config", str(path)]
            self.processes[host] = world.start(host, f"holdfast-{host}", words)
        if len(self._hosts) > 1:
            self._gather()

    def _gather(self):
        """Makes the supervisors one group."""
        first, *others = self._hosts
        wait_for("the group's first member", lambda: self._command(first, "init"))
        for host in others:
            wait_for(f"{host} in the group", lambda host=host: self._command(host, "join", f"{address(first)}:{GROUP_PORT}"))

    def _command(self, host, *words):
        url = f"http://{address(host)}:9700"
        done = subprocess.run(
            [self._program, "--server", url, "--token-file", self._token, "group", *words],
            capture_output=True, text=True, timeout=30, check=False,
        )
        if done.returncode != 0:
            raise ConnectionError(done.stderr.strip() or done.stdout.strip())
        return True

    def _settings(self, world, host):
        probe_timeout = min(self._hang_after_ms // 2, 500)
        text = (
            f'[supervisor]\nname = "supervisor-{host}"\nlisten = "{address(host)}:9700"\ntoken_file = "{self._token}"\n'
            f'state_dir = "{world.folder / host}"\n'
            f'[sentinel]\nlisten = "{address(host)}:{SENTINEL_PORT}"\n'
            f'[redis]\nname = "{NAME}"\nservers = [{", ".join(_quoted(f"{address(each)}:{PORT}") for each in REDIS_HOSTS)}]\n'
            f'probe_interval = "{min(probe_timeout // 3, 100)}ms"\nprobe_timeout = "{probe_timeout}ms"\n'
            f'hang_after = "{self._hang_after_ms}ms"\n'
        )
        if len(self._hosts) > 1:
            text = f'[group]\nlisten = "{address(host)}:{GROUP_PORT}"\nsecret_file = "{self._secret}"\n' + text
        if self._local:
            files = [world.pid_file(each) if each == host else "" for each in REDIS_HOSTS]
            text += f'pid_files = [{", ".join(_quoted(file) for file in files)}]\n'
        return text

    def endpoints(self):
        return [(address(host), SENTINEL_PORT) for host in self._hosts]

    def urls(self):
        """Each supervisor's host and where its figures and events are."""
        return [(host, f"http://{address(host)}:9700") for host in self._hosts]

    def is_ready(self):
        for host, port in self.endpoints():
            fields = _fields(Connection(host, port).call("SENTINEL", "MASTER", NAME))
            if fields["num-slaves"] != "2" or fields["flags"] != "master":
                return False
        return True

    def steps(self):
        """The steps of the last change of the primary with how long each took, in ms, from the account of whoever led it."""
        for _, url in self.urls():
            try:
                with urllib.request.urlopen(f"{url}/operator/v1/events?limit=1000", timeout=1) as answer:
                    events = json.load(answer)["events"]
            except OSError:
                continue
            accounts = [event["detail"] for event in events if event["kind"] == "failover_done" and "steps" in event["detail"]]
            if accounts:
                newest = max(accounts, key=lambda account: account["decided"])
                return {step["step"]: round(step["seconds"] * 1000, 1) for step in newest["steps"]}
        return {}


def _secret(path):
    path.write_text("bench-failover-bench-failover-bench\n")
    path.chmod(0o600)
    return path


def _quoted(text):
    return f'"{text}"'


def wait_until_ready(manager):
    wait_for(f"{manager.name} knows the primary and its replicas", manager.is_ready)


def _fields(flat):
    words = [word.decode() for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))
