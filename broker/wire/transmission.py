"""How long the kernel waits for a peer: a vanished one is given up soon, one that is merely busy is not."""

import socket

from broker.wire.plain import PlainWire

UNACKNOWLEDGED = 30.0
"""Seconds that sent bytes may stay unacknowledged before the kernel ends the connection."""

LOOK_SECONDS = 20.0
"""At the most between two looks: a window that has just closed must be seen before the kernel gives up."""

_UNACKED = slice(24, 28)
"""Where tcp_info (linux/tcp.h) has tcpi_unacked, the segments that are on their way."""


class Transmission:
    """Chooses TCP_USER_TIMEOUT for one connection; does nothing for a unix socket.

    Linux counts the time in which a peer has no room in its window against TCP_USER_TIMEOUT, although that peer
    acknowledges every probe: it is there, and does not read. Such a one gets `stalled` seconds.
    """

    __slots__ = ("_chosen", "_is_tcp", "_stalled", "_wire")

    def __init__(self, wire: PlainWire, stalled: float) -> None:
        self._wire = wire
        self._stalled = max(UNACKNOWLEDGED, stalled)
        self._is_tcp = wire.raw.family in (socket.AF_INET, socket.AF_INET6)
        self._chosen = 0.0

    def look(self) -> None:
        """See how things stand; to be called every `LOOK_SECONDS` or more often."""
        if not self._is_tcp:
            return
        try:
            seconds = self._stalled if self._is_window_closed() else UNACKNOWLEDGED
            if seconds != self._chosen:
                self._wire.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
                self._chosen = seconds
        except OSError:
            return  # it has ended

    def _is_window_closed(self) -> bool:
        """Tell whether bytes wait in the kernel although nothing is on its way."""
        if self._wire.unacknowledged() <= 0:
            return False
        info = self._wire.raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.stop)
        return not any(info[_UNACKED])
