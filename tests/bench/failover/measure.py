"""What the measurements share: asking servers, reading clients' files, and a run in a process of its own."""

import json
import os

import faults
from managers import REDIS_HOSTS
from resp import Connection
from world import PORT, address, wait_for

VALUE_BYTES = 1000


def info(host, section="replication", timeout=0.25):
    connection = Connection(address(host), PORT, timeout=timeout)
    text = connection.call("INFO", section).decode()
    connection.close()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def linked(host):
    return info(host).get("master_link_status") == "up"


def follows(host, primary):
    seen = info(host)
    return seen["role"] == "slave" and seen["master_host"] == address(primary) and seen["master_link_status"] == "up"


def populate(host, megabytes):
    """Fills the server on that host with about so much data; it must allow DEBUG."""
    wait_for(f"the server on {host} answers", lambda: info(host, "server"))
    Connection(address(host), PORT, timeout=300).call("DEBUG", "POPULATE", megabytes * 1_000_000 // VALUE_BYTES, "key", VALUE_BYTES)


def start_servers(world, settings, megabytes=0):
    """A primary on the first Redis host, with so much data, and a linked replica on each other one; `settings` are those of single hosts."""
    first, *others = REDIS_HOSTS
    debug = {"enable_debug_command": "yes"} if megabytes else {}
    world.start_redis(first, **debug, **settings.get(first, {}))
    if megabytes:
        populate(first, megabytes)
    for host in others:
        world.start_redis(host, replica_of=first, **settings.get(host, {}))
    for host in others:
        wait_for(f"{host} follows", lambda host=host: linked(host), seconds=600)


def come_together(manager, gone=(), seconds=60):
    """The host of the primary that all Redis servers but those of `gone` follow in the end."""

    def together():
        primary = faults.primary_host(manager, REDIS_HOSTS)
        others = [host for host in REDIS_HOSTS if host != primary and host not in gone]
        return primary if primary and info(primary)["role"] == "master" and all(follows(host, primary) for host in others) else None

    return wait_for("everybody follows one primary", together, seconds=seconds)


def acknowledged(path):
    """The lines of a client's file; a last one that is not whole yet is left out."""
    lines = (line.split() for line in path.read_text().splitlines()) if path.exists() else ()
    return [words for words in lines if len(words) == 2]


def missing(path, own, primary):
    """Numbers of acknowledged writes that the primary does not have."""
    numbers = [int(number) for number, _ in acknowledged(path)]
    connection = Connection(address(primary), PORT, timeout=10)
    lost = []
    for start in range(0, len(numbers), 1000):
        chunk = numbers[start : start + 1000]
        for number in chunk:
            connection.send("EXISTS", f"writer:{own}:{number}")
        lost += [number for number in chunk if connection.receive() == 0]
    return len(numbers), len(lost)


def in_child(run):
    """The result of `run` in a process of its own: entering a namespace cannot be undone for the others."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            result = run()
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        os.write(writer, json.dumps(result).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"error": "the run died"}
