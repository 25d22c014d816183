"""How often an address came with wrong credentials, and how long it is kept waiting for that."""

from collections import OrderedDict

__all__ = ["BadCredentials"]

SLOWEST = 3.0
"""Seconds that the last answer before the refusals is held back; the ones before it proportionally less."""

MAX_ENTRIES = 16384
"""Addresses that are remembered."""


class BadCredentials:
    """Counts failures per address; the count falls by `per_minute` each minute.

    Up to `per_minute` failures cost nothing, for people mistype and keys expire. From there to twice as many each
    answer is held back longer, and then no more credentials of that address are looked at until the count has fallen.
    The table is bounded, and forgets the longest unused entries first.

    Attributes:
        per_minute: may be changed at any time.
    """

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self._entries: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, host: str, now: float) -> float:
        """Count a failure; returns for how many seconds its answer is to be held back."""
        count = min(self._count(host, now) + 1, 2 * self.per_minute)
        self._entries[host] = (count, now)
        self._entries.move_to_end(host)
        if len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)
        return SLOWEST * min(1.0, max(0.0, count / self.per_minute - 1))

    def wait(self, host: str, now: float) -> float:
        """Return for how many seconds nothing of this address is looked at; 0 when it may try."""
        excess = self._count(host, now) + 1 - 2 * self.per_minute
        return max(0.0, excess * 60 / self.per_minute)

    def _count(self, host: str, now: float) -> float:
        count, seen = self._entries.get(host, (0.0, now))
        return max(0.0, count - (now - seen) * self.per_minute / 60)
