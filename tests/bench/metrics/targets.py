"""Many scrape targets in one process, as cheap as can be: each answers with a text made in advance whose values change."""

import asyncio
import random
import sys

# Series with values that change at every scrape: most of what a chat node exposes stands still between two scrapes.
CHANGING_SHARE = 0.3


def lines(series, seed):
    """The series of one target, as (text before the value, value, step per version)."""
    rng = random.Random(seed)
    made = []
    for index in range(series):
        kind = index % 10
        if kind < 4:
            name = f"bench_requests_total{{handler=\"/api/v1/resource/{index // 10}\",code=\"{[200, 404, 500, 503][kind]}\"}}"
        elif kind < 8:
            name = f"bench_duration_seconds_bucket{{handler=\"/api/v1/resource/{index // 10}\",le=\"{[0.01, 0.1, 1, '+Inf'][kind - 4]}\"}}"
        else:
            name = f"bench_queue_length{{queue=\"queue-{index // 10}\",side=\"{['in', 'out'][kind - 8]}\"}}"
        step = rng.randrange(1, 50) if rng.random() < CHANGING_SHARE else 0
        made.append((name, rng.randrange(10**6), step))
    return made


class Target(asyncio.Protocol):
    """HTTP as far as a scraper speaks it: every request gets the next version of the text."""

    versions = []

    def __init__(self):
        self.rest, self.count = b"", random.randrange(len(self.versions))

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.rest += data
        while b"\r\n\r\n" in self.rest:
            self.rest = self.rest.split(b"\r\n\r\n", 1)[1]
            self.count += 1
            self.transport.write(self.versions[self.count % len(self.versions)])


def version(made, number):
    body = "\n".join(f"{name} {value + step * number}" for name, value, step in made)
    body = ("# TYPE bench_requests_total counter\n# TYPE bench_queue_length gauge\n" + body + "\n").encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def main(targets, series):
    made = lines(series, 1)
    # Counters of 60 versions rise and then begin anew, as after a restart: once in five minutes.
    Target.versions = [version(made, number) for number in range(60)]
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Target, "127.0.0.1", 0) for _ in range(targets)]
    print(" ".join(str(server.sockets[0].getsockname()[1]) for server in servers), flush=True)
    await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
