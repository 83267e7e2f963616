"""What does each cut through the network do? Real servers, supervisors and clients in network namespaces; one table.

    python3 tests/bench/partitions [--cut NAME]... [--seconds N] [--patience N] [--holdfast PROGRAM] [--keep DIR] [--check]

Per cut: a Redis primary (`h1`) and two replicas (`h2`, `h3`), a supervisor beside each, on `c1` and on each Redis host a client that
writes up to 200 times a second without `WAIT`, and on `c1` one that asks a replica to confirm (`WAIT 1`). After a warm-up the cut is made, lasts
`--seconds`, and is mended; everybody comes together; then each acknowledged write is looked for.

- `failed over`: the primary that clients are told is another one when the cut ends, and after how many ms of cut the first write went there
- `lost`: acknowledged writes that are missing in the end; the writer on the cut-off side counts, since somebody may run there
- `lost, WAIT`: of the client that asked a replica to confirm; must be 0
- `two writable`: how long two servers took writes at once, seen from their own hosts, in ms
- `healed to`: which host has the primary in the end, and whether all follow it

`--check`: exit code 1 if a row is not as it must be: a failover where none should be or none where one should be, a confirmed write lost,
or not everybody together in the end. Needs root.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCH = HERE.parent / "failover"
sys.path[:0] = [str(HERE), str(BENCH)]

import cuts  # noqa: E402
from managers import REDIS_HOSTS, Holdfast, wait_until_ready  # noqa: E402
from measure import come_together, in_child, missing, start_servers  # noqa: E402
from world import PORT, World, address, enter  # noqa: E402

WARM_UP_SECONDS = 2
# Two writes on two hosts within this time of each other: both took writes at once. Longer than the pollers' interval and pause.
AT_ONCE_NS = 100_000_000
TOGETHER_SECONDS = 90


def overlap_ms(folder, since):
    """How long two servers took writes at once, in ms."""
    slots = {}
    for host in REDIS_HOSTS:
        path = folder / f"poller-{host}"
        for line in path.read_text().splitlines() if path.exists() else ():
            if line.isdigit() and int(line) > since:
                slots.setdefault(int(line) // AT_ONCE_NS, set()).add(host)
    return sum(len(hosts) > 1 for hosts in slots.values()) * AT_ONCE_NS // 1_000_000


def first_write_on(folder, host, since):
    times = [int(line) for line in (folder / f"poller-{host}").read_text().splitlines() if line.isdigit()]
    after = [at for at in times if at > since]
    return (min(after) - since) / 1e6 if after else None


class Run:
    def __init__(self, options, cut, folder):
        self.options, self.cut, self.folder = options, cut, folder

    def __call__(self):
        self.folder.mkdir()
        world = World(self.folder)
        try:
            enter(world.namespace("c1"))
            return self._measure(world)
        finally:
            world.close()

    def _measure(self, world):
        start_servers(world, {})
        manager = Holdfast(self.options.holdfast, self.options.hang_after_ms, hosts=self.options.hosts, local=True)
        manager.start(world)
        wait_until_ready(manager)
        clients = self._start_clients(world, manager)
        time.sleep(WARM_UP_SECONDS)
        struck = time.monotonic_ns()
        for source, target in self.cut.pairs:
            world.block(source, target)
        time.sleep(self.options.seconds)
        # What a client that still reaches a supervisor is told. All supervisors may be out of reach of `c1`.
        told = self._told(world, manager)
        end = time.monotonic() + self.options.patience
        while self.cut.switches and told in (None, "h1") and time.monotonic() < end:
            time.sleep(0.2)
            told = self._told(world, manager)
        for source, target in self.cut.pairs:
            world.unblock(source, target)
        mended = time.monotonic_ns()
        primary = come_together(manager, seconds=TOGETHER_SECONDS)
        for client in clients:
            client.send_signal(signal.SIGTERM)
        for client in clients:
            client.wait(timeout=30)
        switched = told is not None and told != "h1"
        lost = {own: missing(self.folder / f"writer-{own}", own, primary) for own in (*REDIS_HOSTS, "c1", "confirmed")}
        confirmed_sent, confirmed_lost = lost.pop("confirmed")
        return {
            "switched": switched,
            "ms": first_write_on(self.folder, told, struck) if switched else None,
            "sent": sum(sent for sent, _ in lost.values()),
            "lost": sum(gone for _, gone in lost.values()),
            "lost_cut_off": lost["h1"][1],
            "confirmed": confirmed_sent,
            "lost_confirmed": confirmed_lost,
            "two_writable_ms": overlap_ms(self.folder, struck),
            "healed_to": primary,
            "healed_seconds": (time.monotonic_ns() - mended) / 1e9,
        }

    def _start_clients(self, world, manager):
        endpoints = [f"{host}:{port}" for host, port in manager.endpoints()]
        clients = []

        def start(host, own, wait):
            words = [sys.executable, str(HERE / "client.py"), str(self.folder / f"writer-{own}"), own, str(wait), *endpoints]
            clients.append(world.start(host, f"writer-{own}-log", words))

        for host in (*REDIS_HOSTS, "c1"):
            start(host, host, 0)
        start("c1", "confirmed", 1)
        for host in REDIS_HOSTS:
            words = [sys.executable, str(HERE / "poller.py"), address(host), str(PORT), str(self.folder / f"poller-{host}")]
            clients.append(world.start(host, f"poller-{host}-log", words))
        return clients

    def _told(self, world, manager):
        """The host that most supervisors name; each is asked from its own host, which no cut parts from it."""
        names = []
        for host, port in manager.endpoints():
            where = next(each for each in REDIS_HOSTS if address(each) == host)
            words = ["ip", "netns", "exec", world.namespace(where), "redis-cli", "-h", host, "-p", str(port)]
            words += ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]
            answer = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False).stdout.split()
            names += [each for each in REDIS_HOSTS if answer and answer[0] == address(each)]
        return max(set(names), key=names.count) if names else None


def verdict(cut, result):
    """What is not as it must be; empty if all is."""
    if "error" in result:
        return [result["error"]]
    wrong = []
    if cut.switches is not None and result["switched"] != cut.switches:
        wrong.append("should have failed over" if cut.switches else "should not have failed over")
    if result["lost_confirmed"]:
        wrong.append(f"{result['lost_confirmed']} confirmed writes lost")
    return wrong


def row(cut, result):
    if "error" in result:
        return f"| {cut.title} | {result['error']} |"
    over = f"yes, {result['ms']:.0f} ms" if result["switched"] and result["ms"] else "yes" if result["switched"] else "no"
    lost = f"{result['lost']} of {result['sent']}"
    confirmed = f"{result['lost_confirmed']} of {result['confirmed']}"
    healed = f"{result['healed_to']} in {result['healed_seconds']:.1f} s"
    return f"| {cut.title} | {over} | {lost} | {confirmed} | {result['two_writable_ms']} | {healed} |"


def main():
    parser = argparse.ArgumentParser(prog="partitions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cut", action="append", choices=[cut.name for cut in cuts.ALL], help="only these")
    parser.add_argument("--seconds", type=float, default=6, help="how long each cut lasts")
    parser.add_argument("--patience", type=float, default=0, help="seconds more for a cut that must have another primary before it ends")
    parser.add_argument("--hang-after-ms", type=int, default=300)
    parser.add_argument("--supervisors", type=int, choices=[1, 3], default=3, help="one on the first replica's host, or one on each")
    parser.add_argument("--holdfast", default="target/release/holdfast", help="the supervisor to try")
    parser.add_argument("--keep", help="keep logs of all runs in this folder")
    parser.add_argument("--check", action="store_true", help="fail if a row is not as it must be")
    options = parser.parse_args()
    options.hosts = REDIS_HOSTS if options.supervisors == 3 else ("h2",)
    if os.geteuid() != 0:
        parser.error("network namespaces need root")
    for program in ("redis-server", "redis-cli", "ip"):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed")
    if not Path(options.holdfast).exists():
        parser.error(f"{options.holdfast} does not exist; run make build first")
    chosen = [cut for cut in cuts.ALL if not options.cut or cut.name in options.cut]
    folder = Path(options.keep or tempfile.mkdtemp(prefix="partitions-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    try:
        for cut in chosen:
            result = in_child(Run(options, cut, folder / cut.name))
            results.append((cut, result))
            print(f"{cut.name:18} {result}", flush=True)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print()
    print("| cut | failed over | lost | lost, `WAIT 1` | two writable, ms | healed to |")
    print("|---|---|---|---|---|---|")
    for cut, result in results:
        print(row(cut, result))
    wrong = [(cut.name, text) for cut, result in results for text in verdict(cut, result)]
    print()
    for name, text in wrong:
        print(f"{name}: {text}")
    print(f"partitions rows={len(results)} wrong={len(wrong)} supervisors={options.supervisors} seconds={options.seconds:g}")
    sys.exit(1 if options.check and wrong else 0)


if __name__ == "__main__":
    main()
