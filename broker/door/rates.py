"""A rate for each of many names, in a bounded table."""

from collections import OrderedDict

from broker.wire.bucket import TokenBucket

__all__ = ["Rates"]

BURST_SECONDS = 10.0
"""So many seconds' worth may come at once."""

MAX_ENTRIES = 16384
"""Names that are remembered."""


class Rates:
    """Lets each name do something `rate` times a second on average, with room for `BURST_SECONDS` of it at once.

    A name that is pushed out of the table, the longest unused first, begins anew.

    Attributes:
        rate: times a second; may be changed, and holds for names that are not in the table.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def wait(self, name: str, now: float) -> float:
        """Count one time, or return for how many seconds this name must wait before it asks again."""
        bucket = self._bucket(name, now)
        return 0.0 if bucket.grant(now) else 1 / bucket.rate

    def lateness(self, name: str, now: float) -> float:
        """Count one time in any case; returns for how many seconds it is to be put off."""
        return self._bucket(name, now).take(now)

    def _bucket(self, name: str, now: float) -> TokenBucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(max(1.0, self.rate * BURST_SECONDS), self.rate, now)
            if len(self._buckets) > MAX_ENTRIES:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(name)
        return bucket
