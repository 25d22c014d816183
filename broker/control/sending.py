"""Sharing the loop: many sessions that want to do a little work at once do it a few at a time."""

import trio

AT_ONCE = 8
"""How many sessions may send a part of a snapshot within one round of the loop."""


class Sending:
    """At most `AT_ONCE` holders in one round of the loop, however many sessions wake together."""

    def __init__(self) -> None:
        self._places = trio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> None:
        await self._places.acquire()

    async def __aexit__(self, *exc: object) -> None:
        self._places.release()
