"""A few at a time, where thousands may come or go in the same moment and each costs a good part of a millisecond."""

import time
from collections.abc import Callable

import attrs
import trio

from broker.wire.doorbell import Doorbell

__all__ = ["ALONE", "PASS_SECONDS", "Turns", "Turnstile"]

PASS_SECONDS = 0.005
"""What counts as one pass for those who need not wait."""


class Turnstile:
    """Lets tasks through in order, a few in each pass of the loop, so that all others have their turns between them.

    Nobody is kept for ever, whatever else there is to do: where passes are long, as many get through as keep to a rate.

    Args:
        at_once: how many get through in one pass.
        at_least: how many in a second, however long a pass is.
        clock: in seconds.
    """

    def __init__(self, at_once: int, at_least: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.at_once = at_once
        self.at_least = at_least
        self._clock = clock
        self._left, self._since = at_once, clock()
        self._lot = trio.lowlevel.ParkingLot()
        self._bell = Doorbell()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._lot)

    def pass_at_once(self) -> bool:
        """Pass without a wait, if nobody waits and not too many have within `PASS_SECONDS`; tells whether."""
        if self._lot:
            return False
        now = self._clock()
        if now - self._since > PASS_SECONDS:
            self._left, self._since = self.at_once, now
        if not self._left:
            return False
        self._left -= 1
        return True

    async def pass_in_turn(self) -> None:
        """Pass, at once if that is allowed, else after all who wait already; `run` must be running."""
        if not self.pass_at_once():
            await self.take_turn()

    async def take_turn(self) -> None:
        """Wait for one's turn; `run` must be running."""
        self._bell.ring()
        await self._lot.park()

    async def run(self) -> None:
        """Let through who waits, until cancelled."""
        while True:
            await self._bell.wait()
            quota, began = self.at_once, self._clock()
            while self._lot:
                self._lot.unpark(count=quota)
                await trio.lowlevel.checkpoint()
                now = self._clock()
                quota, began = max(self.at_once, int((now - began) * self.at_least)), now


@attrs.frozen
class Turns:
    """What connections pass that could keep the loop from others together; None: they need not.

    Attributes:
        exits: those whose peers have gone.
        reads: those whose peers have sent something, each time.
    """

    exits: Turnstile | None = None
    reads: Turnstile | None = None


ALONE = Turns()
