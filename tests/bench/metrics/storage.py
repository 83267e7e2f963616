"""Bytes per sample on disk, of the same samples in both: two hours of 600 series every five seconds.

Live figures of a few minutes would compare logs: Prometheus writes its first block after three hours. So the samples are written down once,
with the kinds of values that chat nodes expose, and both make a block of them: Prometheus by `promtool tsdb create-blocks-from
openmetrics`, Holdfast by an import. Everything in a block counts, names and index included.
"""

import json
import pathlib
import random
import re
import subprocess
import time
import urllib.request

SERIES = 600
STEP = 5
# One block of Prometheus.
SPAN = 7200
# Imports are cut into pieces of so many lines: some megabytes.
PIECE_LINES = 100_000
BLOCK_WITHIN = 60


def value(kind, before, rng):
    """Of ten series four stand still, three count, two are levels of whole numbers, one is a measured time."""
    if kind < 4:
        return kind
    if kind < 7:
        return before + rng.randrange(50)
    if kind < 9:
        return rng.randrange(90, 110)
    return rng.randrange(1000) / 1e6


def columns(start):
    """The series, as (name, [(second, value)])."""
    rng = random.Random(1)
    for index in range(SERIES):
        kind, last, samples = index % 10, 0, []
        name = f"bench_metric_{kind}{{instance=\"10.0.0.{index // 100}:9100\",job=\"bench\",server=\"chatnode-{index // 100}\",path=\"/api/{index}\"}}"
        for second in range(start, start + SPAN, STEP):
            last = value(kind, last, rng)
            samples.append((second, last))
        yield name, samples


def measure(directory, start_holdfast, token):
    """Bytes per sample of Holdfast's block and of Prometheus' block."""
    start = (int(time.time()) // SPAN - 1) * SPAN
    if time.time() - start - SPAN < 600:
        # Holdfast keeps the last minutes in memory, and all of it should be in a block.
        start -= SPAN
    series = sorted(columns(start))
    return holdfast(directory, series, start_holdfast, token), prometheus(directory, series)


def prometheus(directory, series):
    text, family = directory / "samples.om", None
    with open(text, "w") as out:
        for name, samples in series:
            if family != name.split("{")[0]:
                family = name.split("{")[0]
                out.write(f"# TYPE {family} unknown\n")
            out.writelines(f"{name} {value!r} {second}\n" for second, value in samples)
        out.write("# EOF\n")
    blocks = directory / "promtool-blocks"
    subprocess.run(["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(blocks)], check=True, stdout=subprocess.DEVNULL)
    text.unlink()
    size = sum(path.stat().st_size for path in blocks.rglob("*") if path.is_file())
    return size / sum(json.loads(meta.read_text())["stats"]["numSamples"] for meta in blocks.rglob("meta.json"))


def holdfast(directory, series, start, token):
    server = start()
    # Instant by instant, so that a block has all series even if the supervisor happens to make it in the middle of the import.
    instants = zip(*([(name, *sample) for sample in samples] for name, samples in series))
    lines = (f"{name} {value!r} {second}000\n" for instant in instants for name, second, value in instant)
    piece = []
    for line in lines:
        piece.append(line)
        if len(piece) == PIECE_LINES:
            send(server, piece, token)
            piece = []
    send(server, piece, token)
    folder = pathlib.Path(server.disk) / "blocks"
    deadline = time.monotonic() + BLOCK_WITHIN
    while not list(folder.glob("*.block")):
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: no block in {folder}")
        time.sleep(0.2)
    server.stop()
    # How many samples its blocks have is said when it opens them again.
    server = start()
    server.stop()
    samples = int(re.findall(r"block_samples\W+(\d+)", pathlib.Path(server.log.name).read_text())[-1])
    if samples < SERIES * SPAN / STEP:
        print(f"bench: the import was slow, the block has {samples} samples only, which makes the figure worse")
    return sum(path.stat().st_size for path in folder.glob("*.block")) / samples


def send(server, lines, token):
    request = urllib.request.Request(f"{server.url}/api/v1/import/prometheus", "".join(lines).encode(), {"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
