"""Requests that schemathesis makes up from the balancer's OpenAPI document. Closes with one row; ends with 1 if anything was wrong.

    fuzz.py SCHEMATHESIS EXAMPLES
"""

import re
import subprocess
import sys

from balancer import TOKEN, Balancer

# `reason` may be any text, and what is said of a name is that it is one: that good data is refused proves nothing here.
LEFT_OUT = "positive_data_acceptance"
# It would put another process in the place of the one that is looked at.
SPARED = "/upgrade"
# Another answer than these is one that the document does not foresee.
TIMEOUT_SECONDS = 60


def main() -> int:
    schemathesis, examples = sys.argv[1:]
    balancer = Balancer()
    try:
        run = [schemathesis, "run", f"{balancer.url}/openapi.json", "--header", f"Authorization: Bearer {TOKEN}"]
        run += ["--max-examples", examples, "--exclude-checks", LEFT_OUT, "--exclude-path", SPARED]
        run += ["--request-timeout", str(TIMEOUT_SECONDS), "--continue-on-failure", "--warnings", "off"]
        done = subprocess.run(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
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
