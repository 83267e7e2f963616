"""Redis clients, unmodified, through the death, the hang and the planned replacement of the primary that Holdfast tells them.

Every client writes all the time and tries again 100 ms after a failure. The figure is the longest time without a successful write around
the fault. `--short` is the form the tests run: two clients, no hang, and only whether they find the new primary.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from world import NAME, World, start, wait_for

HERE = Path(__file__).parent
TARGET = HERE.parents[2] / "target" / "clients"
FAULTS = ("kill", "hang", "switchover")
# After the fault everything is watched this long, far beyond the slowest client.
WATCH_SECONDS = 6
# With a prototype that answers at promotion, a primary killed by -9 (ms).
FLOOR = {"redis-py-8": "120-200", "redis-py-5": "120-200", "ioredis": "170-320", "node-redis": "210", "redis-rs": "110"}
COMMANDS = {
    "redis-py-8": (TARGET / "python-8/bin/python", HERE / "redis_py.py"),
    "redis-py-5": (TARGET / "python-5/bin/python", HERE / "redis_py.py"),
    "ioredis": ("node", TARGET / "node/ioredis.mjs"),
    "node-redis": ("node", TARGET / "node/node-redis.mjs"),
    "redis-rs": (TARGET / "rust/debug/holdfast-bench-client",),
}


class Client:
    """A program that writes, and what came of its attempts."""

    def __init__(self, name, world):
        words = [*COMMANDS[name], "127.0.0.1", world.sentinel, NAME, f"clients:{name}"]
        self.name = name
        self.successes = []
        self.failures = 0
        self.process = start(words, world.folder / f"{name}.log", stdout=subprocess.PIPE)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            at, how = line.decode().split(maxsplit=1)
            if how.strip() == "ok":
                self.successes.append(int(at) / 1e9)
            else:
                self.failures += 1

    def wrote_since(self, at):
        return bool(self.successes) and self.successes[-1] > at

    def gap(self, since):
        """The longest time without a success that ended after `since`, seconds."""
        times = list(self.successes)
        gaps = [late - early for early, late in zip(times, times[1:]) if late > since]
        return max(gaps)


def strike(fault, world):
    primary = world.servers[world.primary()]
    if fault == "switchover":
        answer = world.ask("sentinel", "failover", NAME)[0]
        if answer != "OK":
            raise RuntimeError(f"SENTINEL FAILOVER answers {answer}")
    else:
        os.kill(primary.pid, signal.SIGKILL if fault == "kill" else signal.SIGSTOP)


def undo(fault, world, old):
    if fault == "kill":
        world.servers[old].wait()
        world.start_server(old)
    elif fault == "hang":
        os.kill(world.servers[old].pid, signal.SIGCONT)


def run(fault, world, clients, watch):
    """Strikes once; seconds without a success by client."""
    old = world.primary()
    wait_for("a candidate", lambda: "NOGOODSLAVE" not in world.ask("sentinel", "ckquorum", NAME)[0])
    begun = time.time()
    strike(fault, world)
    wait_for("another primary", lambda: world.primary() != old)
    moved = time.time()
    for client in clients:
        wait_for(f"{client.name} writes again", lambda: client.wrote_since(moved))
    time.sleep(max(0, begun + watch - time.time()))
    gaps = {client.name: client.gap(begun) for client in clients}
    undo(fault, world, old)
    world.wait_until_whole()
    # Whoever was sent away once more by that is back before the next fault.
    back = time.time()
    for client in clients:
        wait_for(f"{client.name} writes", lambda: client.wrote_since(back))
    time.sleep(1)
    return gaps


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holdfast", default="target/debug/holdfast", help="the program under test")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--clients", default=",".join(COMMANDS), help="comma-separated")
    parser.add_argument("--faults", default=",".join(FAULTS), help="comma-separated")
    parser.add_argument("--short", action="store_true", help="one run, watched only until all write again")
    options = parser.parse_args()
    runs, watch = (1, 0) if options.short else (options.runs, WATCH_SECONDS)
    names, faults = options.clients.split(","), options.faults.split(",")
    found = {name: {fault: [] for fault in faults} for name in names}
    with tempfile.TemporaryDirectory(prefix="clients-failover-") as folder:
        # The short form has no hang, and runs on machines so busy that one might be seen.
        world = World(folder, options.holdfast, **({"hang_after": "20s"} if options.short else {}))
        clients = [Client(name, world) for name in names]
        for client in clients:
            wait_for(f"the first write of {client.name}", lambda: client.successes)
        for _ in range(runs):
            for fault in faults:
                for name, gap in run(fault, world, clients, watch).items():
                    found[name][fault].append(gap * 1000)
        failures = {client.name: client.failures for client in clients}
    print(f"{'client':12}" + "".join(f"{fault + ' ms':>15}" for fault in faults) + f"{'floor (kill)':>15}{'failed':>8}")
    for name in names:
        cells = "".join(f"{statistics.median(found[name][fault]):>15.0f}" for fault in faults)
        print(f"{name:12}{cells}{FLOOR[name]:>15}{failures[name]:>8}")
    if options.short:
        print(f"# pass {len(names) * len(faults)}\n# fail 0")
    row = (
        f"{name.replace('-', '_')}_{fault}_ms={statistics.median(found[name][fault]):.0f}"
        for name in names
        for fault in faults
    )
    print("clients-failover", *row, f"runs={runs}")


if __name__ == "__main__":
    try:
        main()
    except (TimeoutError, RuntimeError) as error:
        print(f"# fail 1\nclients-failover: {error}", file=sys.stderr)
        sys.exit(1)
