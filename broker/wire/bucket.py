"""A token bucket: how much a client may do now, and how long it must wait otherwise."""

__all__ = ["TokenBucket"]


class TokenBucket:
    """Room for a burst of `size` that refills with `rate` a second. The clock is a parameter, in seconds."""

    __slots__ = ("_level", "_seen", "rate", "size")

    def __init__(self, size: float, rate: float, now: float) -> None:
        self.size = size
        self.rate = rate
        self._level = size
        self._seen = now

    def take(self, now: float, count: int = 1) -> float:
        """Take tokens whether or not they are there; returns 0, or for how many seconds the bucket is overdrawn."""
        self._refill(now)
        self._level -= count
        return 0.0 if self._level >= 0 else -self._level / self.rate

    def grant(self, now: float, count: int = 1) -> int:
        """Take up to `count` tokens, as many as are there; returns how many."""
        self._refill(now)
        if self._level < count:
            count = max(0, int(self._level))
        self._level -= count
        return count

    def _refill(self, now: float) -> None:
        level = self._level + (now - self._seen) * self.rate
        self._level = min(self.size, level)
        self._seen = now
