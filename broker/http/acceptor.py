"""The accept loop: takes connections off a listening socket while there is room, whatever goes wrong."""

import errno
import os
import socket
from collections.abc import Callable

import trio

from broker.http.gate import Gate
from broker.observe import Counters, Repeated

__all__ = ["Take", "accept_forever"]

Take = Callable[[socket.socket, object], None]

BATCH = 16
"""Connections taken before everybody else has a turn: each may take 0.3 ms in one go."""

EXHAUSTED_PAUSE = 0.25
"""Seconds without accepting when the process or the system is out of descriptors or memory."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def accept_forever(listener: socket.socket, gate: Gate, take: Take, counters: Counters, say: Repeated) -> None:
    """Accept until cancelled; the listener stays open, for its owner to close or to hand on.

    Args:
        listener: a listening, non-blocking socket.
        gate: no connection is taken while it is shut: newcomers wait in the kernel's backlog.
        take: is given each connection, non-blocking, and where it is from, as accept(2) tells it; must return at once.
        counters: `accepted` and `accept_errors` are raised.
        say: for complaints.
    """
    while True:
        await gate.wait_open()
        await trio.lowlevel.wait_readable(listener)
        for _ in range(BATCH):
            if not gate.is_open:
                say.warning("handshakes", "too many connections are in their handshake: accepting pauses")
                break
            try:
                raw, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                counters.accept_errors += 1
                if error.errno in _EXHAUSTED:
                    say.error("exhausted", "cannot accept: out of resources", error=os.strerror(error.errno or 0))
                    await trio.sleep(EXHAUSTED_PAUSE)
                    break
                continue  # that one connection was gone before it was taken (accept(2), "Error handling")
            raw.setblocking(False)
            counters.accepted += 1
            take(raw, address)
