"""How long the event loop is held: the one number that tells whether everything else is on time."""

import time
from collections import deque
from collections.abc import Callable

from broker.observe.histogram import Histogram
from broker.wire.passes import Passes

__all__ = ["LoopLag"]

WINDOW = 60.0
"""Seconds that the worst pass is remembered for."""

SLICE = 5.0
"""Seconds whose worst pass is remembered as one, and forgotten together."""


class LoopLag(Passes):
    """Times every pass of the loop that `run` runs in.

    A task that sleeps and looks how late it was woken would see one stop in ten, and wake a broker that is idle. This
    sees all of them, and costs a microsecond for each pass.

    Attributes:
        histogram: all passes since the start.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(clock)
        self.histogram = Histogram()
        self._slices: deque[tuple[float, float]] = deque()  # when a slice began, and the worst in it
        self._slice_ends = self._worst_of_slice = 0.0

    def worst(self, now: float | None = None) -> float:
        """Return the longest pass of the last minute, in seconds; `now` is on the same clock."""
        self._forget(self.clock() if now is None else now)
        return max((lag for _, lag in self._slices), default=0.0)

    def before_io_wait(self, timeout: float) -> None:
        """A pass is over."""
        now = self.clock()
        self.note(now, now - self.began)

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
