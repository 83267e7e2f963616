"""An application that writes through redis-py's Sentinel support, unmodified, 500 times a second, and notes what was acknowledged.

    writer.py FILE ID WAIT ENDPOINT...      until SIGTERM; FILE gets one line `<number> <monotonic nanoseconds>` per acknowledged write

WAIT is the number of replicas that must confirm (0: none is asked). After an error it pauses 100 ms, as the measurements in the protocol's
notes did, and goes on with the next number: what failed is not acknowledged and may be missing.
"""

import sys
import time

from redis import RedisError
from redis.sentinel import Sentinel

from managers import NAME
from notes import notes

EVERY_SECONDS = 0.002
PAUSE_SECONDS = 0.1
TIMEOUT_SECONDS = 0.5


def main():
    path, own, replicas = sys.argv[1], sys.argv[2], int(sys.argv[3])
    endpoints = [(host, int(port)) for host, port in (text.rsplit(":", 1) for text in sys.argv[4:])]
    found = Sentinel(endpoints, socket_timeout=TIMEOUT_SECONDS)
    client = found.master_for(NAME, socket_timeout=TIMEOUT_SECONDS)
    number, due = 0, time.monotonic()
    with notes(path) as out:
        while True:
            number += 1
            try:
                with client.pipeline(transaction=False) as batch:
                    batch.set(f"writer:{own}:{number}", number)
                    if replicas:
                        batch.execute_command("WAIT", replicas, int(TIMEOUT_SECONDS * 800))
                    answers = batch.execute()
                if not replicas or answers[1] >= replicas:
                    out.write(f"{number} {time.monotonic_ns()}\n")
            except (RedisError, OSError):
                time.sleep(PAUSE_SECONDS)
                due = time.monotonic()
            due += EVERY_SECONDS
            time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
