"""How late the event loop is: the one number that tells whether everything else is on time."""

from collections import deque

import trio

from broker.observe.histogram import Histogram

__all__ = ["LoopLag"]

INTERVAL = 0.1
"""Seconds between two measurements; one costs about as much as delivering three events."""

WINDOW = 60.0
"""Seconds that the worst measurement is remembered for."""

SLICE = 5.0


class LoopLag:
    """Sleeps, again and again, and notes by how much it was woken late.

    Attributes:
        histogram: all measurements since the start.
    """

    def __init__(self) -> None:
        self.histogram = Histogram()
        self._slices: deque[tuple[float, float]] = deque()  # when a slice began, and the worst in it

    @property
    def worst(self) -> float:
        """The worst of the last minute, in seconds."""
        self._forget(trio.current_time())
        return max((lag for _, lag in self._slices), default=0.0)

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = trio.current_time() + INTERVAL
            await trio.sleep_until(due)
            now = trio.current_time()
            self.note(now, max(0.0, now - due))

    def note(self, now: float, lag: float) -> None:
        """Take a measurement, made at `now` on Trio's clock."""
        self.histogram.observe(lag)
        if self._slices and now - self._slices[-1][0] < SLICE:
            began, worst = self._slices[-1]
            self._slices[-1] = (began, max(worst, lag))
        else:
            self._slices.append((now, lag))
            self._forget(now)

    def _forget(self, now: float) -> None:
        while self._slices and now - self._slices[0][0] > WINDOW:
            self._slices.popleft()
