"""How long is Redis gone, and what is lost? Holdfast and Redis Sentinel side by side: the same topology, load, clients and faults.

    python3 tests/bench/failover [--runs N] [--fault NAME]... [--manager NAME] [--holdfast PROGRAM] [--keep DIR]

Per run: three Redis hosts (network namespaces joined by a bridge), one primary without persistence, two replicas; a redis-py writer on each
of the three hosts (500 writes a second each) and a prober on a fourth that writes about 1,000 times a second without retry pauses of its own.
All find the primary through the Sentinel protocol, whoever manages it; nothing in the clients knows the manager. After a warm-up the fault strikes; later it
is undone, everybody comes together, and each acknowledged write is looked for on the primary of then.

`ms`: from the fault (or, if later, the last write acknowledged before the gap) to the next acknowledged write of the prober. `lost`:
acknowledged writes of the writers that are missing in the end. `steps`: what took Holdfast how many ms, by its own account. Medians over
the runs. Needs root (namespaces).

Holdfast runs as a group of three, one on each Redis host, with a shared secret and TLS between them; each step is agreed on by two of three
disks before clients are told.
"""

import argparse
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import faults
from managers import REDIS_HOSTS, Holdfast, Sentinel, wait_until_ready
from measure import acknowledged, come_together, in_child, missing, start_servers
from world import World, enter

WARM_UP_SECONDS = 2
# The prober must have written for this long after the gap before the fault is undone.
STEADY_SECONDS = 3
OUTAGE_SECONDS_MAX = 40


def gap_ms(path, struck):
    """The longest time without an acknowledged write that ended after the fault, and how steady it has been since, in seconds."""
    times = [int(line[0]) for line in acknowledged(path)]
    after = [at for at in times if at > struck]
    if not after:
        return None
    before = [at for at in times if at <= struck]
    edge = [max(before[-1] if before else struck, struck), *after]
    longest = max(range(1, len(edge)), key=lambda i: edge[i] - edge[i - 1])
    return (edge[longest] - edge[longest - 1]) / 1e6, (after[-1] - edge[longest]) / 1e9


class Run:
    """One fault under one manager."""

    def __init__(self, manager, fault, folder):
        self.manager, self.fault, self.folder = manager, fault, folder

    def __call__(self):
        self.folder.mkdir()
        world = World(self.folder)
        try:
            # Look at everything from the clients' host, as clients do.
            enter(world.namespace("c1"))
            return self._measure(world)
        finally:
            world.close()

    def _measure(self, world):
        settings = self.fault.prepare(world)
        start_servers(world, settings, self.fault.megabytes)
        self.manager.start(world)
        wait_until_ready(self.manager)
        endpoints = [f"{host}:{port}" for host, port in self.manager.endpoints()]
        probes = self.folder / "prober"
        clients = [world.start("c1", "prober-log", [sys.executable, str(HERE / "prober.py"), str(probes), *endpoints])]
        for host in REDIS_HOSTS:
            words = [sys.executable, str(HERE / "writer.py"), str(self.folder / f"writer-{host}"), host, str(self.fault.wait), *endpoints]
            clients.append(world.start(host, f"writer-{host}-log", words))
        time.sleep(WARM_UP_SECONDS)
        struck = self.fault.strike(world, self.manager)
        milliseconds = self._wait_until_steady(probes, struck)
        self.fault.heal(world)
        primary = come_together(self.manager, gone=() if self.fault.returns else ("h1",))
        for client in clients:
            client.send_signal(signal.SIGTERM)
        for client in clients:
            client.wait(timeout=20)
        sent, lost = 0, 0
        for host in REDIS_HOSTS:
            count, gone = missing(self.folder / f"writer-{host}", host, primary)
            sent, lost = sent + count, lost + gone
        steps = self.manager.steps() if primary != "h1" else {}
        return {"ms": milliseconds, "acknowledged": sent, "lost": lost, "switched": primary != "h1", "steps": steps}

    def _wait_until_steady(self, probes, struck):
        end = time.monotonic() + OUTAGE_SECONDS_MAX
        while time.monotonic() < end:
            time.sleep(0.2)
            seen = gap_ms(probes, struck)
            # A short gap right after the fault may be noise before the real one begins: the time since the fault counts too.
            if seen and seen[1] >= STEADY_SECONDS and time.monotonic_ns() - struck > STEADY_SECONDS * 1e9:
                return seen[0]
        return None


def holdfast(options, leader):
    """A group with a supervisor on each host, or one on a replica's."""
    if options.supervisors == 1:
        return Holdfast(options.holdfast, options.hang_after_ms)
    hosts = [leader, *(host for host in ("h2", "h3", "h1") if host != leader)]
    return Holdfast(options.holdfast, options.hang_after_ms, hosts=hosts, local=True)


def median(results, key):
    values = [result[key] for result in results if result.get(key) is not None]
    return statistics.median(values) if values else None


def show(value):
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) and value < 100 else f"{value:.0f}"


def main():
    parser = argparse.ArgumentParser(prog="bench-failover", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs per fault and manager")
    parser.add_argument("--fault", action="append", choices=[fault.name for fault in faults.ALL], help="only these")
    parser.add_argument("--manager", choices=["holdfast", "sentinel"], help="only this one")
    parser.add_argument("--holdfast", default="target/release/holdfast", help="the supervisor to measure")
    parser.add_argument("--hang-after-ms", type=int, default=300)
    parser.add_argument("--supervisors", type=int, choices=[1, 3], default=3, help="a group with one on each host, or one on a replica's host")
    parser.add_argument("--leader", choices=["h1", "h2"], default="h2", help="which leads the group: beside the primary (h1), or not")
    parser.add_argument("--keep", help="keep logs of all runs in this folder")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("network namespaces need root")
    for program in ("redis-server", "ip"):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed")
    if not Path(options.holdfast).exists():
        parser.error(f"{options.holdfast} does not exist; run make build first")
    names = [name for name in ("holdfast", "sentinel") if options.manager in (None, name)]
    chosen = [fault for fault in faults.ALL if not options.fault or fault.name in options.fault]
    folder = Path(options.keep or tempfile.mkdtemp(prefix="bench-failover-"))
    folder.mkdir(parents=True, exist_ok=True)
    table = {}
    try:
        for fault in chosen:
            for number in range(options.runs):
                for name in names:
                    manager = Sentinel() if name == "sentinel" else holdfast(options, fault.leader or options.leader)
                    result = in_child(Run(manager, fault, folder / f"{fault.name}-{name}-{number}"))
                    table.setdefault((fault.name, name), []).append(result)
                    print(f"{fault.name:15} {name:9} run {number + 1}: {result}", flush=True)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    report(chosen, table, options.runs)


def report(chosen, table, runs):
    def figure(fault, manager, key):
        return median(table.get((fault, manager), []), key)

    print()
    print(f"{'fault':52} {'Sentinel ms':>12} {'lost':>7} {'Holdfast ms':>12} {'lost':>7} {'ratio':>8}")
    for fault in chosen:
        rival, ours = figure(fault.name, "sentinel", "ms"), figure(fault.name, "holdfast", "ms")
        ratio = f"{rival / ours:.0f} x" if rival and ours else "-"
        lost = [show(figure(fault.name, manager, "lost")) for manager in ("sentinel", "holdfast")]
        print(f"{fault.title:52} {show(rival):>12} {lost[0]:>7} {show(ours):>12} {lost[1]:>7} {ratio:>8}")
        switched = [result["switched"] for result in table.get((fault.name, "holdfast"), []) if "switched" in result]
        if fault.switches is False and any(switched):
            print(f"  a failover that should not have been: {sum(switched)} of {len(switched)}")
    errors = [result["error"] for results in table.values() for result in results if "error" in result]
    for error in errors:
        print(f"  a run failed: {error}")
    row = {f"{name}_ms": figure(name, "holdfast", "ms") for name in ("kill", "hang", "partition", "hostdown", "switchover")}
    row = {"kill_ms": row.pop("kill_ms"), "kill_sentinel_ms": figure("kill", "sentinel", "ms"), **row}
    row |= {"restart_lost": figure("restart", "holdfast", "lost"), "stale_lost": figure("stale", "holdfast", "lost")}
    row |= {"lost_with_wait": figure("partition-wait", "holdfast", "lost"), "runs": runs}
    print()
    print("bench-failover", *(f"{key}={show(value)}" for key, value in row.items()))


if __name__ == "__main__":
    main()
