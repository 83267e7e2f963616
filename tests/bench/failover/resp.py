"""The least of the Redis protocol (RESP2) that the prober needs: one connection, commands in, replies out.

The writers use redis-py, unmodified, as an application would. The prober does not: its own retry pauses would hide how fast a manager is.
"""

import socket


class Refused(Exception):
    """The server answered with an error."""


class Connection:
    """One connection. Every call raises OSError when the path breaks or nothing comes within the time-out."""

    def __init__(self, host, port, timeout=0.25):
        self._socket = socket.create_connection((host, port), timeout=timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def close(self):
        self._socket.close()

    def send(self, *words):
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
        self._socket.sendall(b"".join(parts))

    def receive(self, timeout=None):
        """The next reply. After a time-out (TimeoutError) the reply may still be waited for by calling again."""
        if timeout is not None:
            self._socket.settimeout(timeout)
        value, used = self._parse(0)
        self._buffer = self._buffer[used:]
        if isinstance(value, Refused):
            raise value
        return value

    def call(self, *words):
        self.send(*words)
        return self.receive()

    def _line(self, at):
        while (end := self._buffer.find(b"\r\n", at)) < 0:
            self._more()
        return self._buffer[at:end], end + 2

    def _more(self):
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError("closed by the server")
        self._buffer += data

    def _parse(self, at):
        line, at = self._line(at)
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest, at
        if kind == b"-":
            return Refused(rest.decode()), at
        if kind == b":":
            return int(rest), at
        if kind == b"$":
            size = int(rest)
            if size < 0:
                return None, at
            while len(self._buffer) < at + size + 2:
                self._more()
            return self._buffer[at : at + size], at + size + 2
        if kind == b"*":
            count = int(rest)
            if count < 0:
                return None, at
            values = []
            for _ in range(count):
                value, at = self._parse(at)
                values.append(value)
            return values, at
        raise ConnectionError(f"not RESP: {line[:40]!r}")
