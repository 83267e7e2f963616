"""A client that writes all the time, finds the primary as Redis Sentinel's clients do, and notes what was acknowledged.

    client.py FILE ID WAIT ENDPOINT...      until SIGTERM; FILE gets one line `<number> <monotonic nanoseconds>` per acknowledged write

WAIT is the number of replicas that must confirm (0: none is asked). After an error it asks anew who the primary is and goes on with the
next number: what failed is not acknowledged and may be missing. It is not a library's client, so that the table needs no packages; the
comparison with Redis Sentinel (`make bench-failover`) uses redis-py, unmodified.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "failover"))

from managers import NAME  # noqa: E402
from notes import notes  # noqa: E402
from resp import Connection, Refused  # noqa: E402

EVERY_SECONDS = 0.005
PAUSE_SECONDS = 0.05
TIMEOUT_SECONDS = 0.5


def connect(endpoints):
    """A connection to the primary that the first endpoint that answers names; as Sentinel's clients do, it checks the role."""
    for host, port in endpoints:
        try:
            asked = Connection(host, port, timeout=TIMEOUT_SECONDS)
            named = asked.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
            asked.close()
        except (OSError, Refused):
            continue
        if named:
            connection = Connection(named[0].decode(), int(named[1]), timeout=TIMEOUT_SECONDS)
            if connection.call("ROLE")[0] == b"master":
                return connection
    raise ConnectionError("no primary")


def main():
    path, own, replicas = sys.argv[1], sys.argv[2], int(sys.argv[3])
    endpoints = [(host, int(port)) for host, port in (text.rsplit(":", 1) for text in sys.argv[4:])]
    number, connection = 0, None
    with notes(path) as out:
        while True:
            number += 1
            try:
                connection = connection or connect(endpoints)
                connection.call("SET", f"writer:{own}:{number}", number)
                confirmed = connection.call("WAIT", replicas, int(TIMEOUT_SECONDS * 800)) if replicas else 0
                if confirmed >= replicas:
                    out.write(f"{number} {time.monotonic_ns()}\n")
            except (OSError, Refused):
                if connection:
                    connection.close()
                connection = None
                time.sleep(PAUSE_SECONDS)
            time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main()
