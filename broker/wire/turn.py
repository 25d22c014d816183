"""Sharing the loop: whoever has much to do at once does it a stretch at a time."""

import time

import trio

__all__ = ["MAX_SECONDS", "MAX_WRITES", "Turn"]

MAX_WRITES = 256
"""Writes in one turn."""

MAX_SECONDS = 0.002
"""How long a turn lasts at the most, but for its last piece of work."""

_LOOK = 16
"""Writes between two looks at the clock, for work that is counted one by one."""


class Turn:
    """A stretch of work that is over after `MAX_WRITES` writes or `MAX_SECONDS` seconds, whichever comes first.

    Between two turns every other task has its own, control work included: nobody holds the loop for long.
    """

    __slots__ = ("_left", "_look_at", "_until")

    def __init__(self) -> None:
        self._left = MAX_WRITES
        self._look_at = MAX_WRITES - _LOOK
        self._until = time.perf_counter() + MAX_SECONDS

    def take(self, writes: int) -> int:
        """Return how many of so many writes may be made now, and count them; none when it is time for `end`."""
        left = self._left
        if left <= 0 or (left < MAX_WRITES and time.perf_counter() > self._until):
            return 0
        writes = min(writes, left)
        self._left = left - writes
        return writes

    def is_over(self) -> bool:
        """Count one write and tell whether it is time for `end`; the clock is looked at now and then only."""
        self._left -= 1
        if self._left > self._look_at:
            return False
        self._look_at = max(0, self._left - _LOOK)
        return self._left <= 0 or time.perf_counter() > self._until

    def is_long(self) -> bool:
        """Tell whether the time is up, without counting."""
        return time.perf_counter() > self._until

    async def end(self) -> None:
        """Let everybody else run, and begin anew."""
        await trio.lowlevel.checkpoint()
        self._left = MAX_WRITES
        self._look_at = MAX_WRITES - _LOOK
        self._until = time.perf_counter() + MAX_SECONDS
