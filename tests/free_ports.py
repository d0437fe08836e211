"""Ports for servers in processes that tests start."""

import random
import socket
from contextlib import suppress

# Below those that Linux assigns by itself (from 32768 on), one of which another socket could get before the server
# starts; above those of Ray's workers (10002 to 19999).
_PORTS = range(20000, 32768)


def free_port() -> int:
    """Return a port that is free on all addresses of this machine."""
    while True:
        port = random.SystemRandom().choice(_PORTS)  # other than in tests that run at the same time with the same seed
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("", port))
            return port
