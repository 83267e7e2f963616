"""Requests that schemathesis makes up from the balancer's OpenAPI document. Closes with one row; ends with 1 if anything was wrong.

    fuzz.py SCHEMATHESIS EXAMPLES
"""

import os
import pathlib
import re
import subprocess
import sys

from balancer import TOKEN, Balancer

# A name that is well formed may name nothing, and a header that nobody knows is passed over: neither is a fault, but counts as one there.
LEFT_OUT = "positive_data_acceptance,negative_data_rejection"
# It would put another process in the place of the one that is looked at.
SPARED = "/upgrade"
# The machine may be busy.
TIMEOUT_SECONDS = 60


def main() -> int:
    schemathesis, examples = sys.argv[1:]
    balancer = Balancer()
    try:
        run = [schemathesis, "run", f"{balancer.url}/openapi.json", "--header", f"Authorization: Bearer {TOKEN}"]
        run += ["--max-examples", examples, "--exclude-checks", LEFT_OUT, "--exclude-path", SPARED]
        run += ["--request-timeout", str(TIMEOUT_SECONDS), "--continue-on-failure", "--warnings", "off"]
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(pathlib.Path(__file__).resolve().parent)}
        # It keeps what it has found where it runs.
        where = balancer.folder.name
        done = subprocess.run(run, cwd=where, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(done.stdout)
        alive = balancer.process.poll() is None
        panics = balancer.logged().count("panicked")
    finally:
        balancer.stop()
    cases = re.search(r"(\d+) generated", done.stdout)
    failures = re.search(r"(\d+) found (\d+) unique failures", done.stdout)
    print(f"fuzz-api cases={cases and cases[1]} failures={failures and failures[2] or 0} panics={panics} alive={int(alive)}")
    return int(done.returncode != 0 or panics > 0 or not alive)


sys.exit(main())
