"""Writes to the primary that the manager names, without a pause of its own, and notes when each write was acknowledged.

    prober.py FILE ENDPOINT...      until SIGTERM; FILE gets one line `<monotonic nanoseconds> <address>` per acknowledged write

About a thousand writes a second. It follows the manager as the Sentinel guidelines for clients say: ask, connect, ask ROLE; whenever a
connection breaks, an error comes or a reply is late, ask again. Nothing is assumed about who manages.
"""

import sys
import time

from managers import NAME
from notes import notes
from resp import Connection, Refused

EVERY_SECONDS = 0.001
LATE_SECONDS = 0.005


def primary(endpoints):
    """The primary's address as the first endpoint that answers tells it."""
    for _ in range(2):
        endpoint = endpoints[0]
        try:
            if endpoint.connection is None:
                endpoint.connection = Connection(endpoint.host, endpoint.port, timeout=0.1)
            found = endpoint.connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
            if found:
                return found[0].decode(), int(found[1])
        except (OSError, Refused):
            endpoint.connection = None
        endpoints.append(endpoints.pop(0))
    return None


class Endpoint:
    def __init__(self, text):
        self.host, port = text.rsplit(":", 1)
        self.port = int(port)
        self.connection = None


def write(connection, number, endpoints, target):
    """One acknowledged write; late replies are waited for as long as the manager names the same server."""
    connection.send("SET", "probe", number)
    while True:
        try:
            return connection.receive(timeout=LATE_SECONDS)
        except TimeoutError:
            if primary(endpoints) not in (target, None):
                raise


def main():
    path, endpoints = sys.argv[1], [Endpoint(text) for text in sys.argv[2:]]
    number, connection, target = 0, None, None
    with notes(path) as out:
        while True:
            try:
                if connection is None:
                    target = primary(endpoints)
                    if target is None:
                        time.sleep(EVERY_SECONDS)
                        continue
                    connection = Connection(*target, timeout=0.05)
                    if connection.call("ROLE")[0] != b"master":
                        raise ConnectionError("not a primary")
                number += 1
                write(connection, number, endpoints, target)
                out.write(f"{time.monotonic_ns()} {target[0]}\n")
            except (OSError, Refused):
                if connection:
                    connection.close()
                connection = None
            time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main()
