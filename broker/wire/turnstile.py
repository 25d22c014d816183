"""A few at a time, where thousands may come or go in the same moment and each costs a good part of a millisecond."""

import time

import trio

from broker.wire.doorbell import Doorbell

__all__ = ["Turnstile"]


class Turnstile:
    """Lets tasks through in order, a few in each pass of the loop, so that all others have their turns between them.

    Nobody is kept for ever, whatever else there is to do: where passes are long, as many get through as keep to a rate.

    Args:
        at_once: how many get through in one pass.
        at_least: how many in a second, however long a pass is.
    """

    def __init__(self, at_once: int, at_least: float) -> None:
        self.at_once = at_once
        self.at_least = at_least
        self._left = at_once
        self._lot = trio.lowlevel.ParkingLot()
        self._bell = Doorbell()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._lot)

    def pass_at_once(self) -> bool:
        """Pass without a wait, if nobody waits and not too many have in this pass of the loop; tells whether."""
        if self._lot or not self._left:
            return False
        self._left -= 1
        self._bell.ring()
        return True

    async def take_turn(self) -> None:
        """Wait for one's turn; `run` must be running."""
        self._bell.ring()
        await self._lot.park()

    async def run(self) -> None:
        """Let through who waits, until cancelled."""
        while True:
            await self._bell.wait()
            quota, began = self.at_once, time.perf_counter()
            while self._lot:
                self._left = 0
                self._lot.unpark(count=quota)
                await trio.lowlevel.checkpoint()
                now = time.perf_counter()
                quota, began = max(self.at_once, int((now - began) * self.at_least)), now
            self._left = self.at_once
