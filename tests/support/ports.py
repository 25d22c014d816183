"""Ports for programs that are told where to listen, outside the range from which the system picks them."""

import itertools
import os
import socket

FIRST, LAST = 25000, 25999

_next = itertools.count(os.getpid() * 37)


def free_port() -> int:
    """Return a port of the range that nobody listens on, and that this process has not been given before."""
    for _ in range(LAST - FIRST):
        port = FIRST + next(_next) % (LAST - FIRST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port is free")
