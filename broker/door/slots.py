"""Places for sessions: so many in all, so many for each key, each given back exactly once."""

from collections import defaultdict
from enum import StrEnum

import attrs
import trio

from broker.http.answer import Refused, refusal
from protocol.codes import ErrorCode

__all__ = ["Bound", "Full", "Slot", "Slots"]


class Bound(StrEnum):
    """Which bound was reached."""

    ALL = "all"
    KEY = "key"


class Full(Exception):
    """There is no place; `bound` tells where."""

    def __init__(self, bound: Bound) -> None:
        super().__init__(bound.value)
        self.bound = bound

    def refused(self) -> Refused:
        """Return the refusal that tells a client: 429 for its key's bound, 503 for everybody's."""
        if self.bound is Bound.KEY:
            return refusal(429, ErrorCode.TOO_MANY_CONNECTIONS, "this API key has too many connections", retry_after=5)
        return refusal(503, ErrorCode.TOO_MANY_CONNECTIONS, "the broker has too many connections", retry_after=5)


@attrs.define(eq=False)
class Slot:
    """One place that is taken; leaving the block gives it back."""

    _slots: "Slots"
    key_id: str

    def __enter__(self) -> "Slot":
        return self

    def __exit__(self, *exc: object) -> None:
        self._slots.give_back(self.key_id)


class Slots:
    """Counts the sessions that are open.

    Control sessions wait for a place, the others are refused at once, also while anyone is waiting: control sockets
    come first.

    Attributes:
        total, per_key: the bounds; may be changed at any time, and hold for those that come.
        taken: places taken now.
    """

    def __init__(self, total: int, per_key: int) -> None:
        self.total = total
        self.per_key = per_key
        self.taken = 0
        self._by_key: defaultdict[str, int] = defaultdict(int)
        self._waiting_all = trio.lowlevel.ParkingLot()
        self._waiting_key: dict[str, trio.lowlevel.ParkingLot] = {}

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._waiting_all) + sum(map(len, self._waiting_key.values()))

    def taken_by(self, key_id: str) -> int:
        """Return how many places one key has now."""
        return self._by_key.get(key_id, 0)

    def take(self, key_id: str) -> Slot:
        """Take a place at once.

        Raises:
            Full: there is none, or somebody waits for one.
        """
        bound = self._full(key_id)
        if bound is not None:
            raise Full(bound)
        if self._waiting_all:
            raise Full(Bound.ALL)
        return self._take(key_id)

    async def take_within(self, key_id: str, seconds: float) -> Slot:
        """Take a place, waiting for one at most this long.

        Raises:
            Full: none became free.
        """
        await trio.lowlevel.checkpoint()
        bound = self._full(key_id)
        if bound is None:
            return self._take(key_id)
        with trio.move_on_after(seconds):
            while bound is not None:
                await self._park(bound, key_id)
                was, bound = bound, self._full(key_id)
                if bound not in (None, was):
                    self._pass_on(was, key_id)
            return self._take(key_id)
        raise Full(bound or Bound.ALL)

    def give_back(self, key_id: str) -> None:
        """Free a place and wake one who waits for it."""
        self.taken -= 1
        self._by_key[key_id] -= 1
        if not self._by_key[key_id]:
            del self._by_key[key_id]
        self._pass_on(Bound.KEY, key_id)
        self._pass_on(Bound.ALL, key_id)

    def _full(self, key_id: str) -> Bound | None:
        if self.taken_by(key_id) >= self.per_key:
            return Bound.KEY
        return Bound.ALL if self.taken >= self.total else None

    def _take(self, key_id: str) -> Slot:
        self.taken += 1
        self._by_key[key_id] += 1
        return Slot(self, key_id)

    async def _park(self, bound: Bound, key_id: str) -> None:
        if bound is Bound.ALL:
            await self._waiting_all.park()
            return
        lot = self._waiting_key.setdefault(key_id, trio.lowlevel.ParkingLot())
        try:
            await lot.park()
        finally:
            if not lot:
                self._waiting_key.pop(key_id, None)

    def _pass_on(self, bound: Bound, key_id: str) -> None:
        """Wake the next one at this bound: whoever was woken and then found the other bound reached says so here."""
        if bound is Bound.ALL:
            self._waiting_all.unpark()
        elif key_id in self._waiting_key:
            self._waiting_key[key_id].unpark()
