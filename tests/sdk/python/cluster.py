"""A whole cluster by `holdfast up`, on free ports and in a temporary folder. It ends with this process, even when that is killed."""

import base64
import hashlib
import hmac
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import tomllib
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
READY_WITHIN_SECONDS = 120


class Cluster:
    """The running cluster, and what a client needs to know of it."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="holdfast-python-")
        self.latest = pathlib.Path(self.folder.name) / "latest"
        self.log = open(pathlib.Path(self.folder.name) / "up.log", "w+b")
        up = [str(ROOT / "target/debug/holdfast"), "up", "--ports", "free", "--state-dir", self.folder.name]
        # The kernel ends `holdfast up` with us, and it ends everything it started.
        self.up = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", "--", *up], stdout=self.log, stderr=self.log)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        seen = "nothing"
        while time.monotonic() < deadline:
            if self.up.poll() is not None:
                break
            try:
                supervisor = self._settings("holdfast.toml")["supervisor"]["listen"]
                with _direct().open(f"http://{supervisor}/operator/v1/status", timeout=2) as answer:
                    status = json.load(answer)
                if status["health"] == "ok":
                    self.chat_url = f"ws://{self._settings('balancer.toml')['listener'][0]['listen']}/connection/websocket"
                    return
                seen = str(status["problems"])
            except (OSError, ValueError) as error:
                seen = str(error)
            time.sleep(0.1)
        self.log.seek(0)
        raise RuntimeError(f"the cluster is not ready, seen last: {seen}\n{self.log.read().decode()}")

    def _settings(self, name: str) -> dict:
        return tomllib.loads((self.latest / "etc" / name).read_text())

    def token(self, user: str, lifetime_seconds: int = 3600) -> str:
        """A connection token."""

        def encode(value: bytes) -> str:
            return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

        claims = {"sub": user, "exp": int(time.time()) + lifetime_seconds}
        text = ".".join(encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
        secret = (self.latest / "secrets/chat.secret").read_text().strip()
        return f"{text}.{encode(hmac.digest(secret.encode(), text.encode(), hashlib.sha256))}"

    def nodes(self) -> dict[int, str]:
        """The node of each WebSocket there is, as the balancer knows it."""
        admin = self._settings("balancer.toml")["admin"]
        token = pathlib.Path(admin["token_file"]).read_text().strip()
        url = f"http://{admin['listen']}/api/v1/sessions?kind=websocket&limit=1000"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with _direct().open(request, timeout=30) as answer:
            return {session["id"]: session["server"] for session in json.load(answer)["sessions"]}

    def kill(self, program: str) -> None:
        """kill -9 of a program such as `chatnode-1`; it is started again after a while."""
        os.kill(int((self.latest / "pids" / f"{program}.pid").read_text()), signal.SIGKILL)

    def stop(self) -> None:
        """Ends everything."""
        self.up.terminate()
        self.up.wait()
        self.log.close()
        self.folder.cleanup()


def _direct() -> urllib.request.OpenerDirector:
    """Straight to loopback, whatever proxy the environment names."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
