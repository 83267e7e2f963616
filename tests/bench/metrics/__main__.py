"""The metrics engine beside Debian's Prometheus: the same targets, the same rules, the same queries, in the same seconds.

    python3 tests/bench/metrics [--seconds 120] [--targets 200] [--series 1000] [--interval 5s] [--only side,fast,small,disk]

  side   Both scrape every target once per interval and evaluate the same file of 20 rules over all of them. CPU is user and system time
         of the server over the measured seconds, memory its peak. Then both get the queries of an overview dashboard, in turns.
  fast   Holdfast alone with the same targets and rules, once a second: it must not need more than one core.
  small  Holdfast alone with what a small chat cluster has: 10 targets of 300 series, once a second.
  disk   Bytes per sample in a block, of the same samples in both (storage.py).

About seven minutes in all. CPU time is read from /proc, so that other work on the machine shows little; a machine that is too busy to scrape
on time says so.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import storage
from servers import Server, free_port

HERE = pathlib.Path(__file__).resolve().parent
HOLDFAST = pathlib.Path(os.environ.get("HOLDFAST", HERE.parents[2] / "target/release/holdfast"))
TOKEN = "bench-token-of-one-run"
# Rounds of queries, and the seconds after which no new one begins: the rival may take seconds for one query.
ROUNDS = 10
QUERY_SECONDS = 90
# Long enough for all series to be known.
WARM_UP_ALONE = 15
# Share of the scrapes that must have been on time for the figures to mean anything.
ON_TIME = 0.95

QUERIES = [
    "sum(up)",
    "count(up == 0) or vector(0)",
    "sum by (code) (rate(bench_requests_total[1m]))",
    "topk(5, sum by (instance) (rate(bench_requests_total[1m])))",
    "sum(rate(bench_requests_total{code=~\"5..\"}[1m])) / sum(rate(bench_requests_total[1m]))",
    "histogram_quantile(0.95, sum by (le) (rate(bench_duration_seconds_bucket[1m])))",
    "max by (queue) (bench_queue_length{side=\"in\"})",
    "avg(scrape_duration_seconds)",
]


def rules():
    """Ten recording and ten alert rules, all over all targets."""
    groups = []
    for number in range(5):
        code, bucket = ["200", "404", "500", "503", "2.."][number], [0.01, 0.1, 1, "[+]Inf", "0.1|1"][number]
        groups.append({"name": f"bench-{number}", "rules": [
            {"record": f"bench:requests:rate_{number}", "expr": f"sum by (instance) (rate(bench_requests_total{{code=~\"{code}\"}}[1m]))"},
            {"record": f"bench:bucket:rate_{number}", "expr": f"sum by (le) (rate(bench_duration_seconds_bucket{{le=~\"{bucket}\"}}[1m]))"},
            {"alert": f"BenchErrors{number}", "for": "1m",
             "expr": f"sum by (instance) (rate(bench_requests_total{{code=~\"{code}\"}}[1m])) > 1e9"},
            {"alert": f"BenchQueue{number}", "for": "30s",
             "expr": f"max by (instance) (bench_queue_length{{queue=~\"queue-{number}.*\"}}) > 1e12"},
        ]})
    return json.dumps({"groups": groups})  # JSON is YAML.


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Targets:
    """Scrape targets in a process of their own."""

    def __init__(self, targets, series):
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, str(HERE / "targets.py"), str(targets), str(series)],
            stdout=subprocess.PIPE, text=True)
        self.addresses = [f"127.0.0.1:{port}" for port in self.process.stdout.readline().split()]

    def stop(self):
        self.process.kill()
        self.process.wait()


def holdfast(directory, name, interval, addresses):
    """A supervisor with a state folder of its own."""
    port, settings = free_port(), directory / f"{name}.toml"
    (directory / "token").write_text(TOKEN)
    (directory / "rules.yml").write_text(rules())
    job = f"[[scrape.job]]\nname = \"bench\"\ntargets = {json.dumps(addresses)}\n[rules]\nfiles = [\"rules.yml\"]\nevaluation_interval = \"{interval}\"\n"
    settings.write_text(f"""
[supervisor]
listen = "127.0.0.1:{port}"
token_file = "token"
state_dir = "{name}"
[scrape]
interval = "{interval}"
timeout = "{interval}"
[metrics]
series_max = 1000000
""" + (job if addresses else ""))
    return Server("holdfast", [str(HOLDFAST), "supervise", "--config", str(settings)], f"http://127.0.0.1:{port}",
                  directory / f"{name}.log", directory / name / "metrics")


def prometheus(directory, interval, addresses):
    port = free_port()
    (directory / "prometheus.yml").write_text(json.dumps({
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(directory / "rules.yml")],
        "scrape_configs": [{"job_name": "bench", "static_configs": [{"targets": addresses}]}],
    }))
    return Server("prometheus", ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/tsdb",
                                 f"--web.listen-address=127.0.0.1:{port}"],
                  f"http://127.0.0.1:{port}", directory / "prometheus.log", directory / "tsdb")


def ask(server, seconds, times):
    """Every query of the dashboard once, as a range over what there is and as an instant."""
    end = time.time()
    for expression in QUERIES:
        for more in ({}, {"start": end - min(seconds, 900), "end": end, "step": 15}):
            begun = time.perf_counter()
            server.query(expression, **more)
            times.append((time.perf_counter() - begun) * 1e3)


def observe(servers, warm_up, seconds, interval):
    """CPU seconds, memory and samples of some servers over the same seconds."""
    for server in servers:
        server.wait()
    time.sleep(warm_up)
    before = [server.cpu() for server in servers]
    time.sleep(seconds)
    figures = []
    for server, cpu in zip(servers, before):
        used = server.cpu() - cpu
        scrapes = server.value(f"sum(count_over_time(up{{job=\"bench\"}}[{seconds}s]))")
        due = server.value("count(up{job=\"bench\"})") * seconds / interval
        figures.append({"cpu": used, "memory": server.peak(), "on_time": scrapes / due, "times": [], "seconds": seconds,
                        "samples": server.value(f"sum(sum_over_time(scrape_samples_scraped[{seconds}s]))")})
        if scrapes < ON_TIME * due:
            print(f"bench: {server.name} made {scrapes:.0f} of {due:.0f} scrapes: the machine is too busy, or it is too slow", file=sys.stderr)
    return figures


def side(options, directory):
    targets = Targets(options.targets, options.series)
    servers = [holdfast(directory, "side", options.interval, targets.addresses), prometheus(directory, options.interval, targets.addresses)]
    try:
        figures = observe(servers, options.warm_up, options.seconds, float(options.interval.rstrip("s")))
        # In turns, so that a busy machine slows both.
        deadline = time.monotonic() + QUERY_SECONDS
        for _ in range(ROUNDS):
            for server, figure in zip(servers, figures):
                ask(server, options.seconds + options.warm_up, figure["times"])
            if time.monotonic() > deadline:
                break
        for server, figure in zip(servers, figures):
            figure["peak"] = server.peak()
            figure["rules"] = server.rules_ms()
        return figures
    finally:
        for process in [*servers, targets]:
            process.stop()


def alone(options, directory, name, targets, series, seconds):
    targets = Targets(targets, series)
    server = holdfast(directory, name, "1s", targets.addresses)
    try:
        [figures] = observe([server], min(options.warm_up, WARM_UP_ALONE), seconds, 1)
        figures["rules"] = server.rules_ms()
        return figures
    finally:
        server.stop()
        targets.stop()


def show(name, figures):
    text = (f"{name:<24}{figures['cpu']:>8.1f} CPU s {100 * figures['cpu'] / figures['seconds']:>7.2f} % of one core"
            f"{figures['memory'] / 2**20:>8.0f} MiB {1e6 * figures['cpu'] / figures['samples']:>7.2f} us/sample"
            f"{100 * figures['on_time']:>7.1f} % on time{figures['rules']:>8.1f} ms rules")
    if times := figures["times"]:
        text += f"  queries p50 {statistics.median(times):.1f} p95 {percentile(times, .95):.1f} p99 {percentile(times, .99):.1f} ms"
        text += f", {figures['peak'] / 2**20:.0f} MiB after them"
    print(text, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120, help="measured side by side, after the warm-up")
    parser.add_argument("--warm-up", type=int, default=30)
    parser.add_argument("--targets", type=int, default=200)
    parser.add_argument("--series", type=int, default=1000, help="per target")
    parser.add_argument("--interval", default="5s", help="whole seconds")
    parser.add_argument("--only", default="side,fast,small,disk", help="parts to run; without side and disk there is no row")
    options = parser.parse_args()
    for program in ("prometheus", "promtool", "setpriv"):
        if not shutil.which(program):
            sys.exit(f"bench: {program} is not installed")
    if not HOLDFAST.exists():
        sys.exit("bench: run make build first")
    parts = options.only.split(",")
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder)
        row = []
        if "side" in parts:
            ours, theirs = side(options, directory)
            show("holdfast", ours)
            show("prometheus", theirs)
            query = percentile(ours["times"], .95) / percentile(theirs["times"], .95)
            row += [f"cpu={ours['cpu'] / theirs['cpu']:.3f}", f"memory={ours['memory'] / theirs['memory']:.3f}", f"query_p95={query:.3f}"]
        if "fast" in parts:
            show("holdfast every second", alone(options, directory, "fast", options.targets, options.series, 45))
        if "small" in parts:
            show("holdfast, 10 targets", alone(options, directory, "small", 10, 300, 30))
        if "disk" in parts:
            start = lambda: started(holdfast(directory, "disk", "5s", []))
            own, rival = storage.measure(directory, start, TOKEN)
            print(f"bytes per sample in a block: holdfast {own:.2f}, prometheus {rival:.2f}, ratio {own / rival:.2f}")
            row.append(f"bytes_per_sample={own:.2f}")
        if "side" in parts and "disk" in parts:
            print("bench-metrics", *row, f"rules_ms={ours['rules']:.0f}")


def started(server):
    server.wait()
    return server


main()
