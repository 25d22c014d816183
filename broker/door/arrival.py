"""Newcomers from one address wait for each other, so that they cannot keep all others out."""

from collections import defaultdict

import trio

from broker.http.gate import Entry, Gate

__all__ = ["Arrival", "Line", "LineFull"]

MAX_WAITING = 4096
"""Connections that may wait in line, of all addresses; the next one is closed."""


SHARE = 4
"""One address may have the fourth part of the places that are free, at the most."""


class LineFull(Exception):
    """Too many wait, or it took too long."""


class Line:
    """Counts connections that are no session yet by their address, and lets those beyond the bound wait their turn.

    The bound is `per_address`, but never more than a `SHARE` of what is free in the gate: however many addresses take
    all that they can get, there is a place left for one that has none. Who waits is outside the gate.

    Attributes:
        gate: where those whose turn it is are counted.
        per_address: the most of one address that may be inside.
        waiting: how many wait, of all addresses.
    """

    def __init__(self, gate: Gate, per_address: int) -> None:
        self.gate = gate
        self.per_address = per_address
        self.waiting = 0
        self._inside: defaultdict[str, int] = defaultdict(int)
        self._lots: dict[str, trio.lowlevel.ParkingLot] = {}

    def inside(self, host: str) -> int:
        """Return how many connections of an address are inside."""
        return self._inside.get(host, 0)

    def has_room(self, host: str) -> bool:
        """Whether one more of this address may be inside; one may always be."""
        return self.inside(host) < max(1, self._bound())

    def is_crowded(self, host: str) -> bool:
        """Whether an address has used half of its places: its idle connections should be closed rather than kept."""
        return 2 * self.inside(host) >= self._bound()

    def take_at_once(self, host: str) -> bool:
        """Take a place if there is one and nobody of this address waits; tells whether."""
        if host in self._lots or not self.has_room(host):
            return False
        self._inside[host] += 1
        return True

    async def take_turn(self, host: str) -> None:
        """Take a place, after everybody of this address who came before; raises LineFull when too many wait."""
        if self.take_at_once(host):
            return
        if self.waiting >= MAX_WAITING:
            raise LineFull
        lot = self._lots.setdefault(host, trio.lowlevel.ParkingLot())
        self.waiting += 1
        try:
            await lot.park()  # whoever leaves has counted this one in
        finally:
            self.waiting -= 1
            if not lot and self._lots.get(host) is lot:
                del self._lots[host]

    def leave(self, host: str) -> None:
        """Give a place back, and let in who waits for it."""
        self._inside[host] -= 1
        lot = self._lots.get(host)
        while lot and self.has_room(host):
            self._inside[host] += 1
            lot.unpark()
        if not self._inside[host]:
            del self._inside[host]

    def _bound(self) -> int:
        return min(self.per_address, (self.gate.limit - self.gate.inside) // SHARE)


class Arrival:
    """One connection on its way from accept to session; `leave` may be called again.

    Args:
        line: where it waits if it must.
        entry: its stay inside the gate.
    """

    __slots__ = ("_entry", "_host", "_line")

    def __init__(self, line: Line, entry: Entry) -> None:
        self._line = line
        self._entry = entry
        self._host: str | None = None

    async def line_up(self, host: str | None, seconds: float) -> None:
        """Wait for this address's turn, for at most so many seconds; None need not wait.

        Raises:
            LineFull: it did not come.
        """
        if host is None:
            return
        if self._line.take_at_once(host):
            self._host = host
            return
        if not self._line.has_room(host):
            self._entry.leave()
        with trio.move_on_after(seconds):
            await self._line.take_turn(host)
            self._host = host
            self._entry.leave()
            self._entry = self._line.gate.enter()
            return
        raise LineFull

    @property
    def is_crowded(self) -> bool:
        """Whether its address had better keep no idle connection."""
        return self._host is not None and self._line.is_crowded(self._host)

    def leave(self) -> None:
        """Be counted out: it is a session now, or over."""
        self._entry.leave()
        if self._host is not None:
            host, self._host = self._host, None
            self._line.leave(host)
