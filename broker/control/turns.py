"""Sharing the loop: many sessions that want to do a little work at once do it a few at a time."""

import time

import trio

MAX_WRITES = 256
MAX_SECONDS = 0.002

AT_ONCE = 8
"""How many sessions may send a part of a snapshot within one round of the loop."""


class Turn:
    """A stretch of work that yields after `MAX_WRITES` writes or `MAX_SECONDS` seconds, whichever comes first."""

    __slots__ = ("_began", "_writes")

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._writes = 0

    def is_over(self) -> bool:
        """Count one write and tell whether it is time to yield; the clock is looked at now and then only."""
        self._writes += 1
        if self._writes & 15:
            return False
        return self._writes >= MAX_WRITES or time.perf_counter() - self._began > MAX_SECONDS

    def is_long(self) -> bool:
        """Tell whether the time is up, without counting."""
        return time.perf_counter() - self._began > MAX_SECONDS

    async def end(self) -> None:
        """Let everybody else run, and begin anew."""
        await trio.lowlevel.checkpoint()
        self._began = time.perf_counter()
        self._writes = 0


class Turns:
    """At most `AT_ONCE` holders in one round of the loop, however many sessions wake together."""

    def __init__(self) -> None:
        self._turns = trio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> None:
        await self._turns.acquire()

    async def __aexit__(self, *exc: object) -> None:
        self._turns.release()
