"""The accept loop: takes connections off a listening socket while there is room, whatever goes wrong."""

import errno
import os
import socket
import sys
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

_UNACKED = slice(24, 28)
"""Where struct tcp_info (linux/tcp.h) holds tcpi_unacked, which of a listening socket is the length of its queue."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def accept_forever(listener: socket.socket, gate: Gate, take: Take, counters: Counters, say: Repeated) -> None:
    """Accept until cancelled; the listener stays open, for its owner to close or to hand on.

    Args:
        listener: a listening, non-blocking socket.
        gate: no connection is taken while it is shut: newcomers wait in the kernel's backlog. `queued` is kept.
        take: is given each connection, non-blocking, and where it is from, as accept(2) tells it; must return at once.
        counters: `accepted` and `accept_errors` are raised.
        say: for complaints.
    """
    in_a_row = 0
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
                in_a_row = gate.queued = 0
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
            in_a_row += 1
            take(raw, address)
        else:
            gate.queued = _queued(listener, in_a_row)


def _queued(listener: socket.socket, in_a_row: int) -> int:
    """Return how many connections wait in the kernel; where it does not tell, how many have come without a break."""
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.stop)
    except OSError:  # a unix socket
        return in_a_row
    return int.from_bytes(info[_UNACKED], sys.byteorder)
