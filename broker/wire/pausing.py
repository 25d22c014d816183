"""For how long a reader has been paused, because its peer sends more than it may."""

import math

import trio

__all__ = ["Pausing"]

BREAK = 0.25
"""Seconds without a pause that end the pausing before them.

A peer that never relents needs no pause for a few milliseconds now and then, after one that lasted too long because the
machine is busy; one that has come down to its rate soon needs none at all.
"""


class Pausing:
    """Pauses a reader, and adds up how long it has done so without a break."""

    __slots__ = ("_ended", "_seconds")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._ended = -math.inf

    @property
    def seconds(self) -> float:
        """The length of the pauses since the last break, in seconds; 0 when one has passed."""
        return self._seconds if trio.current_time() - self._ended <= BREAK else 0.0

    async def pause(self, seconds: float) -> None:
        """Pause for so many seconds: the kernel then holds the peer back."""
        before, began = self.seconds, trio.current_time()
        await trio.sleep(seconds)
        self._ended = trio.current_time()
        self._seconds = before + self._ended - began
