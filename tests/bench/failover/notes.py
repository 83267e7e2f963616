"""What the clients of a measurement share: each works until SIGTERM and notes, line by line, what was acknowledged."""

import signal
from contextlib import contextmanager


class _Stop(Exception):
    pass


def _stop(*_):
    raise _Stop


@contextmanager
def notes(path):
    """The file to note in, until SIGTERM ends the block."""
    signal.signal(signal.SIGTERM, _stop)
    with open(path, "w") as out:
        try:
            yield out
        except _Stop:
            pass
