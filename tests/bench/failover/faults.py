"""The faults, as the table in the documentation lists them. Each gets a running world and returns the instant it struck (monotonic
nanoseconds); `heal` undoes what it did, so that what was lost can be counted once everybody is together again."""

import os
import signal
import time

from managers import NAME
from resp import Connection
from world import address


class Fault:
    """What all share. `primary` and the replicas are hosts of the world."""

    name = ""
    title = ""
    # The old primary comes back and must have become a replica before the losses are counted.
    returns = True
    # Replicas the writers wait for.
    wait = 0
    # A failover is expected.
    switches = True
    # What the servers hold before anything happens, in MB.
    megabytes = 0
    # The host whose supervisor leads; `None`: as the options say.
    leader = None

    def prepare(self, world):
        """Redis settings per host, before anything starts."""
        return {}

    def strike(self, world, manager):
        raise NotImplementedError

    def heal(self, world):
        pass


def _now():
    return time.monotonic_ns()


class Kill(Fault):
    name, title = "kill", "kill -9 of the primary"

    def strike(self, world, manager):
        at = _now()
        world.redis["h1"].kill()
        return at

    def heal(self, world):
        world.redis["h1"].wait()
        world.start_redis("h1")


class KillBig(Kill):
    """The kernel takes a while to free the memory, and closes the connections only then."""

    name, title, megabytes = "kill-big", "kill -9 of a primary with 2 GB in memory", 2000


class KillBoth(Kill):
    """As when the host's power fails, except that its kernel still closes the connections."""

    name, title, leader = "kill-both", "kill -9 of the primary and of the manager beside it", "h1"

    def strike(self, world, manager):
        at = _now()
        world.redis["h1"].kill()
        manager.processes["h1"].kill()
        return at


class Hang(Fault):
    name, title = "hang", "hang (SIGSTOP for 5 s), then SIGCONT"

    def strike(self, world, manager):
        at = _now()
        os.kill(world.redis["h1"].pid, signal.SIGSTOP)
        return at

    def heal(self, world):
        time.sleep(max(0.0, 5 - 3))
        os.kill(world.redis["h1"].pid, signal.SIGCONT)


class Partition(Fault):
    name, title = "partition", "primary's host cut off for 6 s"

    def strike(self, world, manager):
        at = _now()
        world.cut("h1")
        return at

    def heal(self, world):
        time.sleep(3)
        world.mend("h1")


class PartitionWait(Partition):
    name, title, wait = "partition-wait", "the same, writers use WAIT 1", 1


class HostDown(Fault):
    name, title, returns = "hostdown", "host down", False

    def strike(self, world, manager):
        at = _now()
        world.cut("h1")
        world.redis["h1"].kill()
        return at


class Switchover(Fault):
    name, title = "switchover", "planned switchover"

    def strike(self, world, manager):
        connection = Connection(*manager.endpoints()[0])
        at = _now()
        connection.call("SENTINEL", "FAILOVER", NAME)
        return at


class EmptyRestart(Fault):
    name, title, switches = "restart", "primary without persistence restarts empty at once", None

    def strike(self, world, manager):
        at = _now()
        world.stop(world.redis["h1"])
        world.start_redis("h1")
        return at


class Stale(Fault):
    name, title = "stale", "stale replica with better replica-priority"

    def prepare(self, world):
        return {"h2": {"replica_priority": 10}}

    def strike(self, world, manager):
        os.kill(world.redis["h2"].pid, signal.SIGSTOP)
        time.sleep(2)
        at = _now()
        world.redis["h1"].kill()
        os.kill(world.redis["h2"].pid, signal.SIGCONT)
        return at

    def heal(self, world):
        world.redis["h1"].wait()
        world.start_redis("h1")


class Pause(Fault):
    name, title, switches = "pause", "primary pauses for 200 ms", False

    def strike(self, world, manager):
        at = _now()
        os.kill(world.redis["h1"].pid, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(world.redis["h1"].pid, signal.SIGCONT)
        return at


ALL = [Kill(), KillBig(), KillBoth(), Hang(), Partition(), PartitionWait(), HostDown(), Switchover(), EmptyRestart(), Stale(), Pause()]


def primary_host(manager, hosts):
    """The host of the server that the manager names."""
    for endpoint in manager.endpoints():
        try:
            found = Connection(*endpoint).call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        except OSError:
            continue
        if found:
            return next(host for host in hosts if address(host) == found[0].decode())
    return None
