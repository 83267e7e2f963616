"""Is the Redis server on this host a primary that takes writes?

    poller.py ADDRESS PORT FILE      until SIGTERM; FILE gets one line `<monotonic nanoseconds>` per accepted write, 50 a second at most
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "failover"))

from notes import notes  # noqa: E402
from resp import Connection, Refused  # noqa: E402

EVERY_SECONDS = 0.02


def main():
    host, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    connection = None
    with notes(path) as out:
        while True:
            try:
                connection = connection or Connection(host, port, timeout=0.2)
                connection.call("SET", f"poller:{host}", time.monotonic_ns())
                out.write(f"{time.monotonic_ns()}\n")
            except Refused:
                pass
            except OSError:
                connection = None
            time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main()
