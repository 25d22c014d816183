"""Latencies counted into fixed buckets, cheap enough for hot paths."""

from bisect import bisect_left

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets, in seconds; one more takes all that is above."""


class Histogram:
    """Counts of observations by bucket, with their sum, as Prometheus wants them.

    Attributes:
        counts: one number per bound of `SECONDS`, not cumulative, and one above the last.
        total: the sum of all observations, in seconds.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count an observation, `times` over."""
        self.counts[bisect_left(SECONDS, seconds)] += times
        self.total += seconds * times
