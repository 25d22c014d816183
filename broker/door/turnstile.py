"""Agents before browsers: when a crowd comes (`DoorState.is_crowded`), event sockets are opened a few at a time."""

import time

import trio

from broker.wire.doorbell import Doorbell

__all__ = ["AT_LEAST", "AT_ONCE", "Turnstile"]

AT_ONCE = 4
"""Event upgrades let through before everybody else has a turn."""

AT_LEAST = 500.0
"""Event upgrades let through in a second, however long a turn of all others is: about a quarter of the loop's time."""


class Turnstile:
    """Lets event upgrades through in order, `AT_ONCE` in each pass of the loop.

    Nobody can tell an agent from a browser before its request is read. Opening a session is the greater part of what
    a newcomer costs, and the agent in a crowd of browsers would wait for the sessions of all who came before it. Here
    they wait, and those whose requests are still to be read come first; an agent does not pass here at all. Who waits
    is inside the gate, which is bounded, and nobody is kept for ever, whatever else there is to do.
    """

    def __init__(self) -> None:
        self._lot = trio.lowlevel.ParkingLot()
        self._bell = Doorbell()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._lot)

    async def take_turn(self) -> None:
        """Wait for one's turn; `run` must be running."""
        self._bell.ring()
        await self._lot.park()

    async def run(self) -> None:
        """Let through who waits, until cancelled."""
        while True:
            await self._bell.wait()
            quota, began = AT_ONCE, time.perf_counter()
            while self._lot:
                self._lot.unpark(count=quota)
                await trio.lowlevel.checkpoint()
                now = time.perf_counter()
                quota, began = max(AT_ONCE, int((now - began) * AT_LEAST)), now
