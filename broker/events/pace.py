"""How soon the next batch of publications is read: at once, until the fan-out becomes a good part of all work."""

SHARE = 1 / 3
"""The part of the loop's time that fan-out may take before publications are gathered."""

CREDIT = 0.02
"""Seconds of fan-out that may come in a burst beyond that."""

LONGEST = 0.008
"""Seconds that a publication may be made to wait, at the most."""

APART = 0.01
"""Seconds without a publication, after which it is clear that even the longest rest would have gathered none."""

DENSE = 8
"""Publications per write from which on gathering more of them saves nothing."""


class Pace:
    """Spends latency where it buys throughput.

    A write to a thousand clients costs nearly the same for one publication as for three that are joined. While fan-out
    takes less than `SHARE` of the time, every publication goes out the moment it is read. Above that, a short rest
    after each batch lets the next one gather, and the broker does with the same work what would overwhelm it piece by
    piece. Publications that come further apart than a rest lasts would not be gathered by it, and do not wait. The
    clock is a parameter, in seconds.
    """

    __slots__ = ("_credit", "_seen")

    def __init__(self, now: float) -> None:
        self._credit = CREDIT
        self._seen = now

    def rest_after(self, worked: float, now: float, density: float) -> float:
        """Account for a batch, and return for how many seconds to rest before the next one is read.

        Args:
            worked: seconds that its fan-out took.
            now: when it ended.
            density: publications per write in it.
        """
        since = now - self._seen
        self._credit = min(CREDIT, self._credit + since * SHARE) - worked
        self._seen = now
        if self._credit >= 0:
            return 0.0
        if since - worked > APART:
            self._credit = max(self._credit, -LONGEST * SHARE)
            return 0.0
        if density >= DENSE:
            self._credit = 0.0
            return 0.0
        rest = min(LONGEST, -self._credit / SHARE)
        self._credit = max(self._credit, -LONGEST * SHARE)
        return rest
