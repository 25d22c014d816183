"""Places for sessions: so many in all, for each key and for each address, each given back exactly once."""

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
    ADDRESS = "address"


Place = tuple[Bound, str]
"""A bound and whose it is: a key id, an address, or "" for everybody's."""

_REFUSALS = {
    Bound.ALL: (503, "the broker has too many connections"),
    Bound.KEY: (429, "this API key has too many connections"),
    Bound.ADDRESS: (429, "this address has too many connections"),
}

RETRY_AFTER = 5.0
"""Seconds after which a client that found no place may try again."""


class Full(Exception):
    """There is no place; `bound` tells where."""

    def __init__(self, bound: Bound) -> None:
        super().__init__(bound.value)
        self.bound = bound

    def refused(self) -> Refused:
        """Return the refusal that tells a client: 429 for its key's or address's bound, 503 for everybody's."""
        status, message = _REFUSALS[self.bound]
        return refusal(status, ErrorCode.TOO_MANY_CONNECTIONS, message, retry_after=RETRY_AFTER)


@attrs.define(eq=False)
class Slot:
    """One place that is taken; leaving the block gives it back."""

    _slots: "Slots"
    _places: tuple[Place, ...]

    def __enter__(self) -> "Slot":
        return self

    def __exit__(self, *exc: object) -> None:
        self._slots.give_back(self._places)


class Slots:
    """Counts the sessions that are open.

    Control sessions wait for a place, the others are refused at once, also while anyone is waiting: control sockets
    come first.

    Attributes:
        total, per_key, per_address: the bounds; may be changed at any time, and hold for those that come, and after
            `look_again` for those that wait.
        taken: places taken now.
    """

    def __init__(self, total: int, per_key: int, per_address: int | None = None) -> None:
        self.total = total
        self.per_key = per_key
        self.per_address = total if per_address is None else per_address
        self._taken: defaultdict[Place, int] = defaultdict(int)
        self._waiting: dict[Place, trio.lowlevel.ParkingLot] = {}

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._taken.get(_EVERYBODY, 0)

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(map(len, self._waiting.values()))

    def taken_by(self, key_id: str) -> int:
        """Return how many places one key has now."""
        return self._taken.get((Bound.KEY, key_id), 0)

    def take(self, key_id: str, host: str | None = None) -> Slot:
        """Take a place at once, for a key at an address; None is an address that is not counted.

        Raises:
            Full: there is none, or somebody waits for one.
        """
        places = _places(key_id, host)
        full = self._full(places)
        if full is not None:
            raise Full(full[0])
        if _EVERYBODY in self._waiting:
            raise Full(Bound.ALL)
        return self._take(places)

    async def take_within(self, key_id: str, seconds: float, host: str | None = None) -> Slot:
        """Take a place, waiting for one at most this long.

        Raises:
            Full: none became free.
        """
        await trio.lowlevel.checkpoint()
        places = _places(key_id, host)
        full = self._full(places)
        if full is None:
            return self._take(places)
        with trio.move_on_after(seconds):
            while full is not None:
                await self._park(full)
                was, full = full, self._full(places)
                if full not in (None, was):
                    self._pass_on(was)
            return self._take(places)
        raise Full(full[0] if full else Bound.ALL)

    def take_over(self, key_id: str, host: str | None = None) -> Slot:
        """Take a place whatever the bounds are: for a session that is open already."""
        return self._take(_places(key_id, host))

    def look_again(self) -> None:
        """Have all who wait see whether there is a place by now: a bound has changed."""
        for lot in list(self._waiting.values()):
            lot.unpark_all()

    def give_back(self, places: tuple[Place, ...]) -> None:
        """Free a place and wake, at each of its bounds, one who waits there."""
        for place in places:
            self._taken[place] -= 1
            if not self._taken[place]:
                del self._taken[place]
        for place in places:
            self._pass_on(place)

    def _full(self, places: tuple[Place, ...]) -> Place | None:
        for place in places:
            bound = place[0]
            most = self.per_key if bound is Bound.KEY else self.per_address if bound is Bound.ADDRESS else self.total
            if self._taken.get(place, 0) >= most:
                return place
        return None

    def _take(self, places: tuple[Place, ...]) -> Slot:
        for place in places:
            self._taken[place] += 1
        return Slot(self, places)

    async def _park(self, place: Place) -> None:
        lot = self._waiting.setdefault(place, trio.lowlevel.ParkingLot())
        try:
            await lot.park()
        finally:
            if not lot and self._waiting.get(place) is lot:
                del self._waiting[place]

    def _pass_on(self, place: Place) -> None:
        """Wake the next one at this bound: whoever was woken and then found another bound reached says so here."""
        if place in self._waiting:
            self._waiting[place].unpark()


_EVERYBODY: Place = (Bound.ALL, "")


def _places(key_id: str, host: str | None) -> tuple[Place, ...]:
    """Return what one session takes, the narrowest bound first."""
    own = ((Bound.KEY, key_id), (Bound.ADDRESS, host)) if host is not None else ((Bound.KEY, key_id),)
    return (*own, _EVERYBODY)
