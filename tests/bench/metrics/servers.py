"""A server under measurement: its life, what it uses, what it is asked."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

READY_WITHIN = 60


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

    def stop(self):
        self.process.kill()
        self.process.wait()

    def query(self, expression, **more):
        kind = "query_range" if "start" in more else "query"
        query = urllib.parse.urlencode({"query": expression, **more})
        with urllib.request.urlopen(f"{self.url}/api/v1/{kind}?{query}", timeout=60) as answer:
            return json.load(answer)["data"]["result"]

    def value(self, expression):
        result = self.query(expression)
        return float(result[0]["value"][1]) if result else float("nan")

    def rules_ms(self):
        """What the last evaluation of all rule groups took."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return 1e3 * sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("prometheus_rule_group_last_duration_seconds{"))
