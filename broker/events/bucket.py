"""A token bucket: how many messages a client may send now, and how long it must wait otherwise."""


class TokenBucket:
    """Room for a burst of `size` messages that refills with `rate` a second. The clock is a parameter, in seconds."""

    __slots__ = ("_level", "_seen", "rate", "size")

    def __init__(self, size: float, rate: float, now: float) -> None:
        self.size = size
        self.rate = rate
        self._level = size
        self._seen = now

    def take(self, now: float) -> float:
        """Take one token; returns 0, or for how many seconds the bucket is overdrawn."""
        self._level = min(self.size, self._level + (now - self._seen) * self.rate) - 1
        self._seen = now
        return 0.0 if self._level >= 0 else -self._level / self.rate
