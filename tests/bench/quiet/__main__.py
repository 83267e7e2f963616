"""Does Holdfast leave a primary alone that is only slow? A long run in which nothing dies and everything that slows Redis down is tried.

    python3 tests/bench/quiet [--seconds N] [--data-mb N] [--hang-after-ms N] [--supervisors 1|3] [--holdfast PROGRAM] [--keep DIR]

Three Redis hosts (network namespaces joined by a bridge), a primary with 1 GB of data, two replicas, the supervisor beside the primary
(or one on each host), a client that writes all the time. All processors are kept busy by stress-ng for the whole run; one disturbance
follows the other, in a fixed order:

- `bgsave`: BGSAVE of the whole dataset (a fork stops the primary for about 0.1 s per GB, then copy on write)
- `sleep`: DEBUG SLEEP of 0.7 of the time after which silence counts
- `keys`: KEYS * over all keys
- `script`: a Lua script that computes for longer than the time after which silence counts
- `pause`: SIGSTOP, SIGCONT after 0.3 of that time
- `swap`: with swap, the primary's memory limited to 70 % of what it uses (cgroup) for ten seconds; without, stalls of half the time after
  which silence counts, one after the other, in the kernel's freezer (to the process and to whoever watches it, both look like waiting for pages)
- `calm`: nothing but the busy processors

Every change of the primary is a false failover. Prints what the supervisor thought meanwhile, and as its last line one row. Exit code 1 if
there was a failover. Needs root (namespaces), redis-server and stress-ng.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "failover"))

from managers import NAME, REDIS_HOSTS, Holdfast, wait_until_ready  # noqa: E402
from measure import populate  # noqa: E402
from resp import Connection, Refused  # noqa: E402
from world import PORT, World, address, enter, wait_for  # noqa: E402

WRITE_EVERY_SECONDS = 0.01
BETWEEN_SECONDS = 3
SWAP_SECONDS = 10
ROUNDS = 10_000_000
# What the supervisor may think of the primary that is not plain health.
VERDICTS = ("primary_suspect", "primary_busy", "primary_unreachable_from_here", "primary_hung", "primary_dead")


def info(host, section, timeout=60):
    connection = Connection(address(host), PORT, timeout=timeout)
    text = connection.call("INFO", section).decode()
    connection.close()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


class Writer(threading.Thread):
    """Writes to the first primary all the time and notes the longest time without an acknowledgement."""

    def __init__(self):
        super().__init__(daemon=True)
        self.acknowledged, self.longest_gap, self._ended = 0, 0.0, False

    def run(self):
        connection, last = None, time.monotonic()
        while not self._ended:
            try:
                connection = connection or Connection(address("h1"), PORT, timeout=60)
                connection.call("SET", "quiet", self.acknowledged)
                now = time.monotonic()
                self.longest_gap, last = max(self.longest_gap, now - last), now
                self.acknowledged += 1
            except (OSError, Refused):
                connection = None
            time.sleep(WRITE_EVERY_SECONDS)

    def end(self):
        self._ended = True
        self.join(timeout=70)


class Primary:
    """The primary's process, and ways to slow it down. Times are in seconds."""

    def __init__(self, world, limit):
        self._process, self._limit = world.redis["h1"], limit
        self._groups = []

    def _ask(self, *words):
        connection = Connection(address("h1"), PORT, timeout=60)
        try:
            return connection.call(*words)
        finally:
            connection.close()

    def calm(self):
        time.sleep(BETWEEN_SECONDS)

    def bgsave(self):
        self._ask("BGSAVE", "SCHEDULE")
        wait_for("the snapshot", lambda: info("h1", "persistence")["rdb_bgsave_in_progress"] == "0", seconds=300)

    def sleep(self):
        self._ask("DEBUG", "SLEEP", f"{self._limit * 0.7:.3f}")

    def keys(self):
        self._ask("KEYS", "*")

    def script(self):
        # Its clock stands still during a script, so the time is made of rounds, as many as it does now.
        counted = "for i = 1, tonumber(ARGV[1]) do end return 1"
        began = time.monotonic()
        self._ask("EVAL", counted, 0, ROUNDS)
        each_second = ROUNDS / max(time.monotonic() - began, 0.001)
        self._ask("EVAL", counted, 0, int(each_second * self._limit * 1.5))

    def pause(self):
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(self._limit * 0.3)
        self._process.send_signal(signal.SIGCONT)

    def swap(self):
        if has_swap():
            group = self._group("memory")
            used = int(info("h1", "memory")["used_memory_rss"])
            (group / "cgroup.procs").write_text(str(self._process.pid))
            (group / "memory.limit_in_bytes").write_text(str(used * 7 // 10))
            time.sleep(SWAP_SECONDS)
            (group / "memory.limit_in_bytes").write_text("-1")
            return
        group = self._group("freezer")
        (group / "cgroup.procs").write_text(str(self._process.pid))
        for _ in range(10):
            (group / "freezer.state").write_text("FROZEN")
            time.sleep(self._limit * 0.5)
            (group / "freezer.state").write_text("THAWED")
            time.sleep(0.3)

    def _group(self, controller):
        group = Path("/sys/fs/cgroup") / controller / f"quiet-failover-{os.getpid()}"
        if group not in self._groups:
            group.mkdir()
            self._groups.append(group)
        return group

    def close(self):
        for group in self._groups:
            (group.parent / "cgroup.procs").write_text(str(self._process.pid))
            group.rmdir()


def has_swap():
    return len(Path("/proc/swaps").read_text().splitlines()) > 1


DISTURBANCES = ("bgsave", "sleep", "keys", "script", "pause", "swap", "calm")


class Watcher:
    """What the supervisors think, from their events and figures."""

    def __init__(self, manager):
        self._manager = manager
        self._last = {}
        self.verdicts = dict.fromkeys(VERDICTS, 0)
        self.told = []

    def look(self):
        for host, url in self._manager.urls():
            path = f"{url}/operator/v1/events?limit=1000&since_id={self._last.get(host, 0)}"
            with urllib.request.urlopen(path, timeout=30) as answer:
                events = json.load(answer)["events"]
            for event in events:
                self._last[host] = event["id"]
                verdict = (event.get("detail") or {}).get("verdict")
                if event["kind"] == "redis_verdict" and verdict in self.verdicts:
                    self.verdicts[verdict] += 1
                if event["kind"].startswith("failover") or event["kind"] == "action_withheld":
                    self.told.append(f"{host}: {event['kind']}: {event['message']}")

    def count(self, name, **labels):
        """The sum of a counter over all supervisors."""
        total = 0
        for _, url in self._manager.urls():
            with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
                lines = answer.read().decode().splitlines()
            wanted = [f'{key}="{value}"' for key, value in labels.items()]
            lines = [line for line in lines if line.startswith((f"{name}{{", f"{name} ")) and all(label in line for label in wanted)]
            total += sum(float(line.rsplit(" ", 1)[1]) for line in lines)
        return int(total)


def run(options, folder):
    world = World(folder)
    loads = []
    try:
        enter(world.namespace("c1"))
        world.start_redis("h1", enable_debug_command="yes", dir=folder)
        populate("h1", options.data_mb)
        for host in REDIS_HOSTS[1:]:
            world.start_redis(host, replica_of="h1")
        for host in REDIS_HOSTS[1:]:
            follows = lambda host=host: info(host, "replication")["master_link_status"] == "up"  # noqa: E731
            wait_for(f"{host} has copied everything", follows, seconds=600)
        manager = Holdfast(options.holdfast, options.hang_after_ms, hosts=options.hosts, local=True)
        manager.start(world)
        wait_until_ready(manager)
        watcher, writer = Watcher(manager), Writer()
        watcher.look()
        watcher.verdicts, watcher.told = dict.fromkeys(VERDICTS, 0), []
        leaders = watcher.count("supervisor_group_leaders_total")
        words = ["nice", "-n", str(options.nice), "stress-ng", "--cpu", str(2 * os.cpu_count()), "--timeout", f"{options.seconds + 3600}s"]
        world.start("c1", "stress", words)
        writer.start()
        primary = Primary(world, options.hang_after_ms / 1000)
        end, disturbances, number = time.monotonic() + options.seconds, 0, 0
        try:
            while time.monotonic() < end:
                name = DISTURBANCES[number % len(DISTURBANCES)]
                began = time.monotonic()
                getattr(primary, name)()
                loads.append(os.getloadavg()[0])
                watcher.look()
                seen = {verdict: times for verdict, times in watcher.verdicts.items() if times}
                print(f"{name:7} {time.monotonic() - began:6.1f} s, so far {seen}", flush=True)
                disturbances += name != "calm"
                number += 1
                time.sleep(BETWEEN_SECONDS)
        finally:
            primary.close()
        writer.end()
        watcher.look()
        failovers = watcher.count("supervisor_redis_failovers_total")
        late = watcher.count("supervisor_redis_late_ticks_total")
        # Each supervisor counts the leaders it has known: a new one is one more for each of them.
        elections = watcher.count("supervisor_group_leaders_total") - leaders
        for line in watcher.told:
            print(line)
        row = {
            "seconds": options.seconds,
            "failovers": failovers,
            "elections": elections // len(options.hosts),
            **{name.removeprefix("primary_"): times for name, times in watcher.verdicts.items()},
            "late_rounds": late,
            "disturbances": disturbances,
            "data_mb": options.data_mb,
            "hang_after_ms": options.hang_after_ms,
            "supervisors": len(options.hosts),
            "writes": writer.acknowledged,
            "longest_gap_ms": round(writer.longest_gap * 1000),
            "load": round(statistics.mean(loads), 1),
            "swap": "memory-limit" if has_swap() else "freezer",
        }
        return row
    finally:
        world.close()


def main():
    parser = argparse.ArgumentParser(prog="quiet-failover", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=1800)
    parser.add_argument("--data-mb", type=int, default=1000)
    parser.add_argument("--hang-after-ms", type=int, default=1000, help="1000 is the supervisor's default")
    parser.add_argument("--supervisors", type=int, choices=[1, 3], default=3, help="one beside the primary, or one on each host")
    parser.add_argument("--nice", type=int, default=0, help="of stress-ng: 0 competes with Redis as an equal")
    parser.add_argument("--holdfast", default="target/release/holdfast", help="the supervisor to measure")
    parser.add_argument("--keep", help="keep logs in this folder")
    options = parser.parse_args()
    options.hosts = REDIS_HOSTS[: options.supervisors]
    if os.geteuid() != 0:
        parser.error("network namespaces need root")
    for program in ("redis-server", "stress-ng", "ip"):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed")
    if not Path(options.holdfast).exists():
        parser.error(f"{options.holdfast} does not exist; run make build first")
    folder = Path(options.keep or tempfile.mkdtemp(prefix="quiet-failover-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        row = run(options, folder)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print()
    print("quiet-failover", *(f"{key}={value}" for key, value in row.items()))
    sys.exit(1 if row["failovers"] else 0)


if __name__ == "__main__":
    main()
