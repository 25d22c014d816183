"""Room for connections that are no session yet."""

import trio

__all__ = ["Entry", "Gate"]


class Entry:
    """One connection's stay inside the gate; `leave` may be called again."""

    __slots__ = ("_gate", "_left")

    def __init__(self, gate: "Gate") -> None:
        self._gate = gate
        self._left = False

    def leave(self) -> None:
        """Be counted out."""
        if not self._left:
            self._left = True
            self._gate.leave()


class Gate:
    """Counts connections between accept and session, and lets the accept loops wait while there are too many.

    Attributes:
        limit: the most that may be inside.
        inside: how many are.
        queued: how many waited in the kernel when one was taken last.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.inside = 0
        self.queued = 0
        self._waiting = trio.lowlevel.ParkingLot()
        self._leaving = trio.lowlevel.ParkingLot()

    @property
    def is_open(self) -> bool:
        """Whether one more may enter."""
        return self.inside < self.limit

    @property
    def is_crowded(self) -> bool:
        """Whether it is half full: idle connections should then be closed rather than kept."""
        return 2 * self.inside >= self.limit

    async def wait_open(self) -> None:
        """Wait until one more may enter."""
        while not self.is_open:
            await self._waiting.park()

    async def wait_empty(self) -> None:
        """Wait until nobody is inside."""
        while self.inside:
            await self._leaving.park()

    def enter(self) -> Entry:
        """Count one in, whether or not the gate is open."""
        self.inside += 1
        return Entry(self)

    def leave(self) -> None:
        """Count one out; called by its entry."""
        self.inside -= 1
        self._waiting.unpark()
        if not self.inside:
            self._leaving.unpark_all()
