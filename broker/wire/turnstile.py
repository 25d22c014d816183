"""A few at a time, where thousands may come or go in the same moment and each costs a good part of a millisecond."""

import attrs
import trio

from broker.wire.doorbell import Doorbell
from broker.wire.passes import Passes

__all__ = ["ALONE", "Turns", "Turnstile"]


class Turnstile:
    """Lets tasks through in order, a few in each pass of the loop, so that all others have their turns between them.

    Who comes early in a pass, and finds nobody waiting, need not wait either. Nobody is kept for ever, whatever else
    there is to do: where passes are long, as many get through as keep to a rate.

    Args:
        at_once: how many of those who wait get through in one pass; 0 keeps everybody.
        at_least: how many in a second, however long a pass is.
        early: up to how many seconds after a pass has begun nobody need wait.
        passes: tells how long the pass has lasted.
    """

    def __init__(self, at_once: int, at_least: float, early: float, passes: Passes) -> None:
        self.at_once = at_once
        self.at_least = at_least
        self.early = early
        self._passes = passes
        self._is_over = False
        self._lot = trio.lowlevel.ParkingLot()
        self._bell = Doorbell()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._lot)

    def pass_at_once(self) -> bool:
        """Pass without a wait, if nobody waits and it is early in the pass; tells whether."""
        return self._is_over or (not self._lot and self.at_once > 0 and self._passes.lasted < self.early)

    async def pass_in_turn(self) -> None:
        """Pass, at once if that is allowed, else after all who wait already; `run` must be running."""
        if not self.pass_at_once():
            await self.take_turn()

    async def take_turn(self) -> None:
        """Wait for one's turn; `run` must be running."""
        self._bell.ring()
        await self._lot.park()

    async def run(self) -> None:
        """Let through who waits, until cancelled; from then on nobody waits."""
        try:
            while True:
                await self._bell.wait()
                await self._let_through()
        finally:
            self._is_over = True
            self._lot.unpark_all()

    async def _let_through(self) -> None:
        clock = self._passes.clock
        quota, began = self.at_once, clock()
        while self._lot:
            self._lot.unpark(count=quota)
            await trio.lowlevel.checkpoint()
            now = clock()
            quota, began = max(self.at_once, int((now - began) * self.at_least)), now


@attrs.frozen
class Turns:
    """The turnstiles of connections that, all together, could keep the loop from others; None: they pass none.

    Attributes:
        exits: those whose peers have gone.
        reads: those whose peers have sent something, each time.
    """

    exits: Turnstile | None = None
    reads: Turnstile | None = None


ALONE = Turns()
