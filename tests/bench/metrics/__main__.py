"""The metrics engine beside Debian's Prometheus: the same targets, the same rules, the same queries, in the same seconds.

    python3 tests/bench/metrics [--seconds 120] [--targets 200] [--series 1000] [--interval 5s] [--fast]

Both scrape every target once per interval and evaluate the same file of 20 rules over all of them. CPU is user and system time of the
server over the measured seconds; memory its peak; bytes per sample what lies on disk (log and blocks) over the samples taken. After the
measured seconds both get the queries of an overview dashboard, taken in turns. With --fast Holdfast scrapes every second: then only its
own figures mean anything, the ratios compare five times the work.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
HOLDFAST = HERE.parents[2] / "target/release/holdfast"
READY_WITHIN = 60
ROUNDS = 10

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


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Server:
    def __init__(self, name, command, url, log, disk):
        self.name, self.url, self.disk = name, url, disk
        self.log = open(log, "wb")
        self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *command], stdout=self.log, stderr=self.log)

    def wait(self):
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            try:
                self.query("1")
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.2)
        sys.exit(f"bench: {self.name} did not start, see {self.log.name}: {pathlib.Path(self.log.name).read_text()[-2000:]}")

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024

    def bytes_on_disk(self):
        return sum(path.stat().st_size for path in pathlib.Path(self.disk).rglob("*") if path.is_file())

    def query(self, expression, **more):
        kind = "query_range" if "start" in more else "query"
        query = urllib.parse.urlencode({"query": expression, **more})
        with urllib.request.urlopen(f"{self.url}/api/v1/{kind}?{query}", timeout=60) as answer:
            return json.load(answer)["data"]["result"]

    def value(self, expression):
        result = self.query(expression)
        return float(result[0]["value"][1]) if result else float("nan")


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def start(options, directory):
    source = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, str(HERE / "targets.py"), str(options.targets), str(options.series)],
        stdout=subprocess.PIPE, text=True)
    addresses = [f"127.0.0.1:{port}" for port in source.stdout.readline().split()]
    (directory / "rules.yml").write_text(rules())
    own, rival = free_port(), free_port()
    interval = options.interval
    (directory / "token").write_text("bench-token-of-one-run")
    scrape = "1s" if options.fast else interval
    (directory / "holdfast.toml").write_text(f"""
[supervisor]
listen = "127.0.0.1:{own}"
token_file = "token"
state_dir = "state"
[log]
level = "warn"
[scrape]
interval = "{scrape}"
timeout = "{scrape}"
[[scrape.job]]
name = "bench"
targets = {json.dumps(addresses)}
[metrics]
series_max = 1000000
[rules]
files = ["rules.yml"]
evaluation_interval = "{interval}"
""")
    (directory / "prometheus.yml").write_text(json.dumps({
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(directory / "rules.yml")],
        "scrape_configs": [{"job_name": "bench", "static_configs": [{"targets": addresses}]}],
    }))
    ours = Server("holdfast", [str(HOLDFAST), "supervise", "--config", str(directory / "holdfast.toml")],
                  f"http://127.0.0.1:{own}", directory / "holdfast.log", directory / "state/metrics")
    theirs = Server("prometheus", ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/tsdb",
                                   f"--web.listen-address=127.0.0.1:{rival}"],
                    f"http://127.0.0.1:{rival}", directory / "prometheus.log", directory / "tsdb")
    return source, [ours, theirs]


def ask(server, seconds, times):
    """Every query of the dashboard once, as a range over what there is and as an instant."""
    end = time.time()
    for expression in QUERIES:
        for more in ({}, {"start": end - min(seconds, 900), "end": end, "step": 15}):
            begun = time.perf_counter()
            server.query(expression, **more)
            times.append((time.perf_counter() - begun) * 1e3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120, help="measured, after a warm-up of 30")
    parser.add_argument("--warm-up", type=int, default=30)
    parser.add_argument("--targets", type=int, default=200)
    parser.add_argument("--series", type=int, default=1000, help="per target")
    parser.add_argument("--interval", default="5s")
    parser.add_argument("--fast", action="store_true", help="Holdfast scrapes every second")
    options = parser.parse_args()
    for program in ("prometheus", "setpriv"):
        if not shutil.which(program):
            sys.exit(f"bench: {program} is not installed")
    if not HOLDFAST.exists():
        sys.exit("bench: run make build first")
    with tempfile.TemporaryDirectory() as folder:
        measure(options, pathlib.Path(folder))


def measure(options, directory):
    source, servers = start(options, directory)
    try:
        for server in servers:
            server.wait()
        time.sleep(options.warm_up)
        before = [server.cpu() for server in servers]
        time.sleep(options.seconds)
        figures = []
        for server, cpu in zip(servers, before):
            seconds = server.cpu() - cpu
            samples = server.value("sum(sum_over_time(scrape_samples_scraped[1h]))")
            figures.append({"cpu": seconds, "memory": server.peak(), "bytes": server.bytes_on_disk() / samples, "samples": samples, "times": []})
        # In turns, so that a busy machine slows both.
        for _ in range(ROUNDS):
            for server, figure in zip(servers, figures):
                ask(server, options.seconds + options.warm_up, figure["times"])
        for server, figure in zip(servers, figures):
            figure["peak"] = server.peak()
            figure["rules"] = server.value("sum(prometheus_rule_group_last_duration_seconds)") * 1e3
        show(options, servers, figures)
    finally:
        for process in [source, *(server.process for server in servers)]:
            process.kill()
            process.wait()


def show(options, servers, figures):
    row = "{:<12}{:>10}{:>14}{:>12}{:>10}{:>10}{:>10}{:>16}{:>12}"
    print(row.format("", "CPU s", "of one core", "peak MiB", "p50 ms", "p95 ms", "p99 ms", "bytes/sample", "samples"))
    for server, figure in zip(servers, figures):
        times = figure["times"]
        print(row.format(server.name, f"{figure['cpu']:.1f}", f"{100 * figure['cpu'] / options.seconds:.1f} %", f"{figure['memory'] / 2**20:.0f}",
                         f"{statistics.median(times):.1f}", f"{percentile(times, .95):.1f}", f"{percentile(times, .99):.1f}",
                         f"{figure['bytes']:.2f}", f"{figure['samples']:.0f}"))
    ours, theirs = figures
    ratio = lambda name: ours[name] / theirs[name]
    query = percentile(ours["times"], .95) / percentile(theirs["times"], .95)
    print(f"bench-metrics cpu={ratio('cpu'):.3f} memory={ratio('memory'):.3f} query_p95={query:.3f} "
          f"bytes_per_sample={ours['bytes']:.2f} rules_ms={ours['rules']:.0f}")


main()
