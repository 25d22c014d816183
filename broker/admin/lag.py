"""How long the event loop is held: the one number that tells whether everything else is on time."""

import time
from collections import deque

import trio

from broker.observe.histogram import Histogram

__all__ = ["LoopLag"]

WINDOW = 60.0
"""Seconds that the worst pass is remembered for."""

SLICE = 5.0


class LoopLag(trio.abc.Instrument):
    """Times every pass of the loop, from one look at the sockets to the next: whatever comes meanwhile waits so long.

    A task that sleeps and looks how late it was woken would see one stop in ten, and wake a broker that is idle. This
    sees all of them, and costs a microsecond for each pass.

    Attributes:
        histogram: all passes since the start.
    """

    def __init__(self) -> None:
        self.histogram = Histogram()
        self._slices: deque[tuple[float, float]] = deque()  # when a slice began, and the worst in it
        self._slice_ends = self._worst_of_slice = self._woken = 0.0

    def worst(self, now: float | None = None) -> float:
        """Return the longest pass of the last minute, in seconds; `now` is on the clock of `time.perf_counter`."""
        self._forget(time.perf_counter() if now is None else now)
        return max((lag for _, lag in self._slices), default=0.0)

    async def run(self) -> None:
        """Measure the loop that this runs in, until cancelled."""
        self._woken = time.perf_counter()
        trio.lowlevel.add_instrument(self)
        try:
            await trio.sleep_forever()
        finally:
            trio.lowlevel.remove_instrument(self)

    def after_io_wait(self, timeout: float) -> None:
        """A pass begins."""
        self._woken = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:
        """A pass is over."""
        now = time.perf_counter()
        self.note(now, now - self._woken)

    def note(self, now: float, lag: float) -> None:
        """Take a measurement, made at `now`."""
        self.histogram.observe(lag)
        if now >= self._slice_ends:
            self._slices.append((now, lag))
            self._slice_ends, self._worst_of_slice = now + SLICE, lag
            self._forget(now)
        elif lag > self._worst_of_slice:
            self._slices[-1] = (self._slices[-1][0], lag)
            self._worst_of_slice = lag

    def _forget(self, now: float) -> None:
        while self._slices and now - self._slices[0][0] > WINDOW:
            self._slices.popleft()
