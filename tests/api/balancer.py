"""A balancer with a server behind it, on free ports and in a temporary folder. It ends with this process, even when that is killed."""

import http.server
import json
import pathlib
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "target/debug/holdfast-balancer"
PREFIX = "/api/v1"
TOKEN = "the-token"
ANSWER_WITHIN_SECONDS = 60

SETTINGS = """
[admin]
listen = "127.0.0.1:0"
token_file = "{folder}/token"
state_dir = "{folder}"
keep_changes = true
[drain]
period = "1s"
[faults]
enabled = true
max_lease = "2s"
[[listener]]
name = "chat"
listen = "127.0.0.1:0"
pool = "chat"
[[pool]]
name = "chat"
[pool.stick_table]
key = "source"
[[pool.server]]
name = "a"
address = "127.0.0.1:{port}"
[[pool.server]]
name = "b"
address = "127.0.0.1:{port}"
max_connections = 10
"""


class Server(http.server.BaseHTTPRequestHandler):
    """Says yes to everything."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Balancer:
    """The running balancer."""

    def __init__(self) -> None:
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.folder = tempfile.TemporaryDirectory(prefix="holdfast-api-")
        folder = pathlib.Path(self.folder.name)
        (folder / "token").write_text(TOKEN)
        settings = folder / "balancer.toml"
        settings.write_text(SETTINGS.format(folder=folder, port=self.server.server_port))
        self.log = open(folder / "log", "w+b")
        # The kernel ends it with us.
        command = ["setpriv", "--pdeathsig", "KILL", "--", str(PROGRAM), "--config", str(settings)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.addresses = {}
        while "listener:chat" not in self.addresses:
            words = self.process.stdout.readline().split()
            if len(words) != 3:
                raise RuntimeError(f"the balancer does not start: {self.logged()}")
            self.addresses[words[1]] = words[2]
        self.url = f"http://{self.addresses['admin']}{PREFIX}"

    def ask(self, path: str, method: str = "GET", body: object = None, token: str | None = TOKEN) -> tuple[int, object]:
        """Status and what the body says."""
        request = urllib.request.Request(self.url + path, method=method)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        data = None if body is None else json.dumps(body).encode()
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, data, timeout=ANSWER_WITHIN_SECONDS) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def logged(self) -> str:
        """Everything it has logged so far."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.server.shutdown()
        self.folder.cleanup()
